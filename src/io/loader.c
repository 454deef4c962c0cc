/* loader.c - batches of a data set, made ahead by threads.
 *
 * Batch b lies in slot b % n_slots of a ring. A thread takes the next batch that nobody has taken, as soon as its slot
 * is free, and fills it; the caller takes the batches in their order. One slot more than `ahead` is the one that the
 * caller looks at. */
#include "io/loader.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 256
#define AHEAD_MAX   4096

typedef struct slot {
    ac_batch batch;
    bool ready;
} slot;

struct ac_loader {
    ac_data *data;
    ac_loader_opts opts;
    size_t epoch_size;
    size_t n_slots;
    slot *slot;
    size_t n_threads; /* running */
    pthread_t *thread;
    atomic_bool stop;

    pthread_mutex_t lock; /* guards all below and slot[].ready */
    pthread_cond_t changed;
    uint64_t taken;  /* batches that threads have begun */
    uint64_t wanted; /* the batch that the caller gets next; the one before is still his */
    ac_diag error;   /* of the first thread that failed; code 0: none */
};

/* ------------------------------------------------------------------------------------------------------ filling */

/* The order of one epoch, of one thread. */
typedef struct order {
    const uint32_t *at; /* own, or the members of the split */
    uint32_t *own;
    uint64_t epoch; /* of `own`; meaningless before it was filled */
    bool filled;
} order;

/* Makes `o` the order of `epoch`. */
static void turn_to(const ac_loader *l, order *o, uint64_t epoch)
{
    if (l->opts.ordered || (o->filled && o->epoch == epoch))
        return;
    ac_data_order(l->data, l->opts.split, epoch, o->own);
    o->epoch = epoch;
    o->filled = true;
}

/* Row n of the sequence; in place of a broken picture the next of its epoch, after the last the first. */
static void fetch_row(const ac_loader *l, order *o, uint64_t n, ac_diag *dg, float *image, ac_sample *out)
{
    uint64_t epoch = n / l->epoch_size;
    size_t first = (size_t)(n % l->epoch_size);
    ac_diag why = {0};
    int rc = 0;

    turn_to(l, o, epoch);
    if (l->opts.ordered)
        epoch = AC_EPOCH_PLAIN;
    for (size_t i = 0; i < l->epoch_size && !atomic_load_explicit(&l->stop, memory_order_relaxed); i++) {
        uint32_t index = o->at[(first + i) % l->epoch_size];
        ac_clear(&why);
        rc = ac_data_fetch(l->data, index, epoch, &why, image, out);
        if (rc == 0 || !ac_data_is_broken(rc))
            break;
    }
    if (rc < 0 && ac_data_is_broken(rc)) {
        ac_data_broken(l->data, 0, why.msg, sizeof why.msg);
        ac_fail(dg, rc, "none of the %zu pictures can be read: %s", l->epoch_size, why.msg);
    } else if (rc < 0) {
        ac_fail(dg, rc, "%s", why.msg);
    }
}

static void drop_samples(ac_batch *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(b->sample[i].caption);
        b->sample[i].caption = NULL;
    }
}

/* Fills a slot with the batch number `number`; dg tells of a failure. */
static void fill(const ac_loader *l, order *o, uint64_t number, ac_diag *dg, ac_batch *b)
{
    size_t side = (size_t)ac_data_resolution(l->data), n = b->n;

    drop_samples(b, n);
    b->row = l->opts.start + (number * l->opts.ranks + l->opts.rank) * n;
    for (size_t i = 0; i < n && dg->code == 0; i++)
        fetch_row(l, o, b->row + i, dg, b->image ? b->image + i * side * side * 3 : NULL, &b->sample[i]);
}

/* Waits for a batch to make: its number; false when the thread is to end. */
static bool take(ac_loader *l, uint64_t *number)
{
    bool go;

    pthread_mutex_lock(&l->lock);
    /* the slots of the batches wanted - 1 and later are in use */
    while ((go = !l->stop && l->error.code == 0) && l->taken + 1 >= l->wanted + l->n_slots)
        pthread_cond_wait(&l->changed, &l->lock);
    if (go)
        *number = l->taken++;
    pthread_mutex_unlock(&l->lock);
    return go;
}

/* Says that a batch is ready, or why it is not. */
static void deliver(ac_loader *l, uint64_t number, const ac_diag *dg)
{
    pthread_mutex_lock(&l->lock);
    if (dg->code == 0)
        l->slot[number % l->n_slots].ready = true;
    else if (l->error.code == 0)
        l->error = *dg;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void *work(void *arg)
{
    ac_loader *l = arg;
    order o = {.at = ac_data_members(l->data, l->opts.split)};
    ac_diag dg = {0};
    uint64_t number;

    if (!l->opts.ordered)
        o.at = o.own = ac_calloc(l->epoch_size, sizeof *o.own);
    if (!o.at) {
        ac_nomem(&dg, l->epoch_size * sizeof *o.own);
        deliver(l, 0, &dg);
        return NULL;
    }
    while (take(l, &number)) {
        fill(l, &o, number, &dg, &l->slot[number % l->n_slots].batch);
        deliver(l, number, &dg);
    }
    free(o.own);
    return NULL;
}

/* ------------------------------------------------------------------------------------------------ opening, taking */

static int make_slots(ac_loader *l, ac_diag *dg)
{
    size_t side = (size_t)ac_data_resolution(l->data), floats;

    if (!ac_mul_size(side * side * 3, l->opts.batch, &floats))
        return ac_fail(dg, ADDCL_E_ARG, "loader: batch of %zu pictures is too large", l->opts.batch);
    if (!(l->slot = ac_calloc(l->n_slots, sizeof *l->slot)))
        return ac_nomem(dg, l->n_slots * sizeof *l->slot);
    for (size_t i = 0; i < l->n_slots; i++) {
        ac_batch *b = &l->slot[i].batch;
        b->n = l->opts.batch;
        if (!(b->sample = ac_calloc(b->n, sizeof *b->sample)) ||
            (!l->opts.no_images && !(b->image = ac_calloc(floats, sizeof *b->image))))
            return ac_nomem(dg, floats * sizeof *b->image);
    }
    return 0;
}

/* Signals are the caller's: the threads block them all. */
static int start_threads(ac_loader *l, ac_diag *dg)
{
    sigset_t all, before;
    int why = 0;

    if (!(l->thread = ac_calloc(l->opts.threads, sizeof *l->thread)))
        return ac_nomem(dg, l->opts.threads * sizeof *l->thread);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (l->n_threads < l->opts.threads && why == 0)
        if ((why = pthread_create(&l->thread[l->n_threads], NULL, work, l)) == 0)
            l->n_threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return why == 0 ? 0 : ac_fail(dg, ADDCL_E_NOMEM, "loader: cannot start a thread: %s", strerror(why));
}

static int check_opts(const ac_loader *l, ac_diag *dg)
{
    const ac_loader_opts *o = &l->opts;

    if (o->batch < 1 || o->rank >= o->ranks)
        return ac_fail(dg, ADDCL_E_ARG,
                       "loader: batch %zu, rank %zu of %zu: expected a batch of 1 and a rank below %zu", o->batch,
                       o->rank, o->ranks, o->ranks);
    if (o->threads > THREADS_MAX || o->ahead > AHEAD_MAX)
        return ac_fail(dg, ADDCL_E_ARG, "loader: %zu threads, %zu batches ahead: expected at most %d and %d",
                       o->threads, o->ahead, THREADS_MAX, AHEAD_MAX);
    if (l->epoch_size == 0)
        return ac_fail(dg, ADDCL_E_ARG, "loader: the data set has no samples for %s",
                       o->split == AC_SPLIT_VAL ? "validation" : "training");
    return 0;
}

int ac_loader_open(ac_data *d, const ac_loader_opts *opts, ac_diag *dg, ac_loader **out)
{
    ac_loader *l = ac_calloc(1, sizeof *l);
    int rc;

    *out = NULL;
    if (!l)
        return ac_nomem(dg, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    l->data = d;
    l->opts = *opts;
    l->opts.ranks = AC_MAX(opts->ranks, 1);
    l->opts.threads = AC_MAX(opts->threads, 1);
    l->n_slots = (opts->ahead ? opts->ahead : l->opts.threads + 1) + 1;
    l->epoch_size = opts->ordered ? ac_data_count(d, opts->split) : ac_data_epoch_size(d, opts->split);
    AC_TRY(check_opts(l, dg));
    AC_TRY(make_slots(l, dg));
    AC_TRY(start_threads(l, dg));
    *out = l;
    return 0;
out:
    ac_loader_close(l);
    return rc;
}

int ac_loader_next(ac_loader *l, ac_diag *dg, const ac_batch **batch)
{
    slot *s;
    int rc;

    pthread_mutex_lock(&l->lock);
    s = &l->slot[l->wanted % l->n_slots];
    while (!s->ready && l->error.code == 0)
        pthread_cond_wait(&l->changed, &l->lock);
    rc = l->error.code;
    if (rc == 0) {
        s->ready = false;
        l->wanted++;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    ac_data_note_broken(l->data, dg);
    *batch = rc == 0 ? &s->batch : NULL;
    return rc == 0 ? 0 : ac_fail(dg, rc, "%s", l->error.msg);
}

void ac_loader_close(ac_loader *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    for (size_t i = 0; i < l->n_threads; i++)
        pthread_join(l->thread[i], NULL);
    for (size_t i = 0; l->slot && i < l->n_slots; i++) {
        ac_batch *b = &l->slot[i].batch;
        if (b->sample)
            drop_samples(b, b->n);
        free(b->sample);
        free(b->image);
    }
    free(l->slot);
    free(l->thread);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
