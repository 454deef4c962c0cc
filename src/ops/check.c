/* check.c - ops against their references. */
#include "ops/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

/* Values of input k: normal-like around 0 for numbers, from the table's rows for ids. Rounded to the type they are stored in, so
 * that reference and kernel see the same. */
static int make_values(const ac_op *op, const ac_case *c, int k, ac_type type, ac_case_graph *cg, ac_diag *dg)
{
    size_t n = (size_t)ac_count(&c->in[k]);
    uint64_t seed = 1000003u * (uint64_t)(k + 1) + n;
    float *f = ac_calloc(n, sizeof *f);
    int32_t *ids;

    cg->bytes[k] = n * ac_type_size(type);
    cg->value[k] = ac_calloc(n, sizeof(double));
    cg->data[k] = ac_calloc(n, ac_type_size(type));
    ids = cg->data[k];
    if (!f || !cg->value[k] || !cg->data[k]) {
        free(f);
        return ac_nomem(dg, n * sizeof(double));
    }
    ac_mix_fill(&seed, f, n);
    for (size_t i = 0; i < n; i++) {
        if (op->flags & AC_OP_POSITIVE)
            f[i] = 1.25f + 0.75f * f[i];
        else if (op == &ac_op_time_embed)
            f[i] = floorf(499.5f * (1 + f[i]));
        else
            f[i] *= 2;
    }
    if (type == AC_I32)
        for (size_t i = 0; i < n; i++)
            ids[i] = (int32_t)(ac_mix(&seed) % (uint64_t)(c->in[0].d[0] > 1 ? c->in[0].d[0] : 1));
    else
        ac_from_float(cg->data[k], type, f, n);
    if (type != AC_I32)
        ac_to_float(f, cg->data[k], type, n);
    for (size_t i = 0; i < n; i++)
        cg->value[k][i] = type == AC_I32 ? ids[i] : (double)f[i];
    free(f);
    return 0;
}

int ac_case_graph_new(const ac_op *op, const ac_case *c, ac_type wt, ac_diag *dg, ac_case_graph *out)
{
    int rc = 0;

    memset(out, 0, sizeof *out);
    if (!(out->g = ac_graph_new(dg, wt)))
        return ac_nomem(dg, sizeof *out->g);
    for (int k = 0; k < op->n_in + op->n_opt; k++) {
        bool weight = (op->typed >> k & 1) && !(c->tags & AC_FED);
        ac_type type = op->ints >> k & 1 ? AC_I32 : weight ? wt : AC_F32;
        char name[8];
        out->id[k] = AC_NONE;
        if (c->in[k].n == 0)
            continue;
        AC_TRY(make_values(op, c, k, type, out, dg));
        snprintf(name, sizeof name, "%d", k);
        if (weight) {
            out->param[k] = (ac_values){.name = "weight", .data = out->data[k], .type = type, .shape = c->in[k]};
            out->id[k] = ac_param(out->g, &out->param[k]);
        } else {
            out->id[k] = ac_input(out->g, name, type, c->in[k]);
        }
    }
    out->y = ac_add_node(out->g, op, out->id, op->n_in + op->n_opt, &c->at);
    ac_set_output(out->g, "y", out->y);
    rc = out->g->rc;
out:
    if (rc < 0)
        ac_case_graph_free(out);
    return rc;
}

void ac_case_graph_free(ac_case_graph *c)
{
    for (int k = 0; k < AC_MAX_IN; k++) {
        free(c->value[k]);
        free(c->data[k]);
    }
    ac_graph_free(c->g);
    memset(c, 0, sizeof *c);
}

/* Largest |got - want| over the largest |want|; infinite when anything is not finite. */
static double distance(const void *got, ac_type type, const double *want, size_t n)
{
    double top = 0, diff = 0;

    for (size_t i = 0; i < n; i++) {
        float f;
        ac_to_float(&f, (const char *)got + i * ac_type_size(type), type, 1);
        if (!(fabs((double)f - want[i]) <= INFINITY) || !isfinite(f))
            return INFINITY;
        diff = fmax(diff, fabs((double)f - want[i]));
        top = fmax(top, fabs(want[i]));
    }
    return top > 0 ? diff / top : diff;
}

static int on_device(ac_dev *dev, const ac_case_graph *cg, const ac_kern *kern, const double *want, bool *used, ac_check *c)
{
    const ac_node *y = ac_at_node(cg->g, cg->y);
    size_t n = (size_t)ac_count(&y->shape), bytes = n * ac_type_size(y->type);
    ac_exec_opts opts = {.force = kern, .guard = true};
    void *got = ac_calloc(1, bytes);
    ac_exec *x = NULL;
    char name[8];
    int rc;

    if (!got)
        return ac_nomem(ac_dev_diag(dev), bytes);
    AC_TRY(ac_exec_new(dev, cg->g, &opts, &x));
    *used = !kern || ac_exec_uses(x, kern);
    if (!*used)
        goto out;
    for (int k = 0; k < AC_MAX_IN; k++) {
        snprintf(name, sizeof name, "%d", k);
        if (cg->data[k] && !cg->param[k].data)
            AC_TRY(ac_feed(x, name, cg->data[k], cg->bytes[k]));
    }
    AC_TRY(ac_run(x));
    AC_TRY(ac_fetch(x, "y", got, bytes));
    c->error = distance(got, y->type, want, n);
    c->problem = !(c->error <= c->limit) ? "wrong values" : !ac_exec_guards_intact(x) ? "wrote past the end of a buffer" : NULL;
out:
    ac_exec_free(x);
    free(got);
    return rc;
}

/* What to check, and who is told. */
typedef struct checks {
    ac_dev *dev;
    unsigned tags, classes; /* of cases; of kernels, 0: all */
    const char *pattern;
    ac_check_fn fn;
    void *user;
} checks;

/* One case in one storage type by each kernel. */
static int check_case(const checks *a, const ac_op *op, const ac_case *c, ac_type wt)
{
    static const ac_kern lowered[] = {{.name = "lowered", .cls = AC_CLASS_ANY}, {0}};
    const double *feeds[AC_MAX_IN];
    ac_case_graph cg = {0};
    double *want = NULL;
    int rc = 0, n_feeds = 0;

    for (const ac_kern *k = op->kern ? op->kern : lowered; k->name && rc == 0; k++) {
        ac_check r = {.limit = c->tol > 0 ? c->tol : 1e-5};
        bool used = false;
        snprintf(r.name, sizeof r.name, "%s/%s/%s/%s", op->name, c->name, k->name, ac_type_name(wt));
        if ((a->classes && !(k->cls & a->classes)) || (a->pattern && !strstr(r.name, a->pattern)))
            continue;
        if (!want) {
            AC_TRY(ac_case_graph_new(op, c, wt, ac_dev_diag(a->dev), &cg));
            n_feeds = 0;
            for (int i = 0; i < AC_MAX_IN; i++)
                if (cg.data[i] && !cg.param[i].data)
                    feeds[n_feeds++] = cg.value[i];
            AC_TRY(ac_ref_run(cg.g, feeds, &want));
        }
        AC_TRY(on_device(a->dev, &cg, op->kern ? k : NULL, want, &used, &r));
        if (used)
            rc = a->fn(a->user, &r);
    }
out:
    ac_case_graph_free(&cg);
    free(want);
    return rc;
}

static int check_op(const checks *a, const ac_op *op)
{
    static const ac_type types[] = {AC_F32, AC_F16, AC_BF16};
    int rc = 0;

    for (const ac_case *c = op->cases; c && c->name; c++)
        for (size_t t = 0; t < (op->typed ? AC_LEN(types) : 1); t++)
            if (c->tags & a->tags)
                AC_TRY(check_case(a, op, c, types[t]));
out:
    return rc;
}

int ac_check_op(ac_dev *dev, const ac_op *op, unsigned tags, const char *pattern, ac_check_fn fn, void *user)
{
    return check_op(&(checks){dev, tags, 0, pattern, fn, user}, op);
}

int ac_check_ops(ac_dev *dev, unsigned tags, const char *pattern, ac_check_fn fn, void *user)
{
    checks a = {dev, tags, ac_dev_limits(dev)->cls, pattern, fn, user};
    int rc = 0;

    for (const ac_op *const *op = ac_ops; *op; op++)
        AC_TRY(check_op(&a, *op));
out:
    return rc;
}
