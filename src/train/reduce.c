/* reduce.c - gradients summed over the ranks while the backward pass goes on (Li et al. 2020, "PyTorch Distributed").
 *
 * Gradient variables are gathered into buckets in the order in which the backward pass completes them. As soon as a
 * bucket is complete on the device it is read beside the computation, summed over all ranks, and written back. Every
 * rank begins the sums in the same order. */
#include <stdlib.h>

#include "train/train.h"

enum {
    BUCKET_MOST = 25 << 20,
    BUCKET_LEAST = 256 << 10,
    BUCKETS = 8
}; /* bytes; buckets to be had where they are not too small */

typedef struct bucket {
    size_t first, end; /* of the reducer's variables */
    size_t n;          /* floats */
    float *host;       /* what is summed */
    ac_mark *read;     /* host holds the gradients of this rank */
    ac_allsum *sum;    /* being made; NULL: not begun, or over */
} bucket;

struct ac_reducer {
    ac_training *r;
    AC_VEC(ac_var *) var; /* in the order in which the graph writes them */
    AC_VEC(bucket) bucket;
    size_t next;        /* variable that the running graph writes next */
    size_t begun, over; /* buckets whose sum was begun; that were written back */
    double first, last; /* when the first and the last of them were begun */
    int64_t runs;
    double beside, after; /* seconds of all runs spent on sums while the backward pass went on, and after it */
};

/* ------------------------------------------------------------------------------------------ making */

static int list_variables(ac_reducer *d, const ac_graph *g, size_t *bytes)
{
    *bytes = 0;
    for (size_t i = 0; i < g->effects.n; i++) {
        ac_var *v = ac_at_node(g, ac_at_node(g, g->effects.p[i])->in[0])->var;
        if (!AC_PUSH(&d->var, v))
            return ac_nomem(d->r->dg, sizeof v);
        *bytes += ac_var_bytes(v);
    }
    return 0;
}

/* Closes a bucket when it has `full` bytes. */
static int fill_buckets(ac_reducer *d, size_t full)
{
    for (size_t i = 0; i < d->var.n;) {
        bucket b = {.first = i};
        while (i < d->var.n && b.n * sizeof *b.host < full)
            b.n += (size_t)ac_count(&d->var.p[i++]->shape);
        b.end = i;
        b.host = ac_calloc(b.n, sizeof *b.host);
        if (!b.host || !AC_PUSH(&d->bucket, b)) {
            free(b.host);
            return ac_nomem(d->r->dg, b.n * sizeof *b.host);
        }
    }
    return 0;
}

int ac_reducer_new(ac_training *r, const ac_graph *g, ac_reducer **out)
{
    ac_reducer *d = ac_calloc(1, sizeof *d);
    size_t bytes;
    int rc;

    *out = NULL;
    if (!d)
        return ac_nomem(r->dg, sizeof *d);
    d->r = r;
    AC_TRY(list_variables(d, g, &bytes));
    AC_TRY(fill_buckets(d, AC_MIN((size_t)BUCKET_MOST, AC_MAX((size_t)BUCKET_LEAST, bytes / BUCKETS))));
    *out = d;
    d = NULL;
out:
    ac_reducer_free(d);
    return rc;
}

void ac_reducer_free(ac_reducer *d)
{
    if (!d)
        return;
    ac_side_finish(d->r->dev);
    for (size_t k = 0; k < d->bucket.n; k++) {
        ac_mark_free(d->r->dev, d->bucket.p[k].read);
        free(d->bucket.p[k].host);
    }
    free(d->bucket.p);
    free(d->var.p);
    free(d);
}

/* ------------------------------------------------------------------------------------------ running */

/* Enqueues the reading of a bucket whose last variable was just written. */
static int read_bucket(ac_reducer *d, bucket *b)
{
    ac_dev *dev = d->r->dev;
    size_t at = 0;
    int rc;

    AC_TRY(ac_side_after(dev));
    for (size_t i = b->first; i < b->end; at += (size_t)ac_count(&d->var.p[i++]->shape))
        AC_TRY(ac_side_read(dev, d->var.p[i]->buf, b->host + at, ac_var_bytes(d->var.p[i])));
    rc = ac_side_mark(dev, &b->read);
out:
    return rc;
}

static int written(void *user, const ac_var *v)
{
    ac_reducer *d = user;
    bucket *b = d->bucket.p;

    if (d->next == d->var.n || v != d->var.p[d->next])
        return ac_fail(d->r->dg, ADDCL_E_INTERNAL, "%s was written out of turn", v->name);
    d->next++;
    while (b->end < d->next)
        b++;
    return b->end == d->next ? read_bucket(d, b) : 0;
}

static int write_bucket(ac_reducer *d, const bucket *b)
{
    size_t at = 0;
    int rc = 0;

    for (size_t i = b->first; i < b->end; at += (size_t)ac_count(&d->var.p[i++]->shape))
        AC_TRY(ac_side_write(d->r->dev, d->var.p[i]->buf, b->host + at, ac_var_bytes(d->var.p[i])));
out:
    return rc;
}

/* Begins the next sum when its bucket was read. */
static int begin_next(ac_reducer *d)
{
    bucket *b = &d->bucket.p[d->begun];
    bool passed;
    int rc;

    AC_TRY(ac_mark_passed(d->r->dev, b->read, &passed));
    if (!passed)
        return 0;
    ac_mark_free(d->r->dev, b->read);
    b->read = NULL;
    AC_TRY(ac_allsum_begin(d->r->comm, b->host, b->n, &b->sum));
    d->begun++;
    if (d->begun == 1)
        d->first = ac_now();
    if (d->begun == d->bucket.n)
        d->last = ac_now();
out:
    return rc;
}

/* Writes the next bucket back when its sum is there. */
static int end_next(ac_reducer *d)
{
    bucket *b = &d->bucket.p[d->over];
    bool over;
    int rc;

    AC_TRY(ac_allsum_over(b->sum, &over));
    if (!over)
        return 0;
    b->sum = NULL;
    AC_TRY(write_bucket(d, b));
    d->over++;
out:
    return rc;
}

int ac_reducer_run(ac_reducer *d, ac_exec *x)
{
    int rc;

    d->next = d->begun = d->over = 0;
    AC_TRY(ac_run_effects(x, written, d));
    if (d->next < d->var.n)
        return ac_fail(d->r->dg, ADDCL_E_INTERNAL, "%s was not written", d->var.p[d->next]->name);
    while (d->over < d->bucket.n) {
        if (d->begun < d->bucket.n)
            AC_TRY(begin_next(d));
        if (d->over < d->begun)
            AC_TRY(end_next(d));
        if (d->over < d->bucket.n)
            ac_comm_pause();
    }
    AC_TRY(ac_side_join(d->r->dev));
    d->runs++;
    d->beside += d->last - d->first;
    d->after += ac_now() - d->last;
out:
    return rc;
}

void ac_reducer_tell(const ac_reducer *d)
{
    if (d && d->runs)
        ac_note(d->r->dg, ADDCL_LOG_INFO,
                "gradients of %d ranks in %zu sums: %.1f ms a step beside the backward pass, %.1f ms after it",
                d->r->ranks, d->bucket.n, d->beside / (double)d->runs * 1e3, d->after / (double)d->runs * 1e3);
}
