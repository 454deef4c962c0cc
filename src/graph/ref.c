/* ref.c - the reference executor: a graph in double precision on the host, node by node. */
#include "graph/op.h"

#include <stdlib.h>
#include <string.h>

static int to_double(const ac_graph *g, const void *data, ac_type type, size_t count, double *out)
{
    float *f;

    if (type == AC_I32) {
        for (size_t i = 0; i < count; i++) {
            int32_t v;
            memcpy(&v, (const char *)data + i * sizeof v, sizeof v);
            out[i] = v;
        }
        return 0;
    }
    if (!(f = ac_calloc(count, sizeof *f)))
        return ac_nomem(g->dg, count * sizeof *f);
    ac_to_float(f, data, type, count);
    for (size_t i = 0; i < count; i++)
        out[i] = (double)f[i];
    free(f);
    return 0;
}

/* A variable's value at the moment, from the device. */
static int state_values(const ac_graph *g, const ac_node *n, double *out)
{
    void *data = ac_calloc(1, ac_var_bytes(n->var));
    int rc;

    if (!data)
        return ac_nomem(g->dg, ac_var_bytes(n->var));
    AC_TRY(ac_var_read(n->var, data));
    rc = to_double(g, data, n->type, (size_t)ac_count(&n->shape), out);
out:
    free(data);
    return rc;
}

static int node_values(const ac_graph *g, ac_id i, double **value, const double *const *feeds, int *n_fed)
{
    const ac_node *n = &g->nodes.p[i];
    size_t count = (size_t)ac_count(&n->shape);
    ac_ref r = {.g = g, .n = n};

    if (!(value[i] = ac_calloc(count, sizeof(double))))
        return ac_nomem(g->dg, count * sizeof(double));
    if (n->op == &ac_op_param)
        return to_double(g, n->src->data, n->type, count, value[i]);
    if (n->op == &ac_op_state)
        return state_values(g, n, value[i]);
    if (n->op == &ac_op_input) {
        memcpy(value[i], feeds[(*n_fed)++], count * sizeof(double));
        return 0;
    }
    r.out = value[i];
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] != AC_NONE) {
            r.in[k] = value[n->in[k]];
            r.shape[k] = &g->nodes.p[n->in[k]].shape;
        }
    n->op->ref(&r);
    return 0;
}

int ac_ref_run(const ac_graph *g, const double *const *feeds, double **out)
{
    double **value;
    int n_fed = 0, rc = g->rc;

    for (size_t k = 0; k < g->outputs.n; k++)
        out[k] = NULL;
    if (rc)
        return rc;
    if (!(value = ac_calloc(g->nodes.n, sizeof *value)))
        return ac_nomem(g->dg, g->nodes.n * sizeof *value);
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++)
        AC_TRY(node_values(g, i, value, feeds, &n_fed));
    for (size_t k = 0; k < g->outputs.n; k++) {
        size_t bytes = (size_t)ac_count(&g->nodes.p[g->outputs.p[k].id].shape) * sizeof(double);
        if (!(out[k] = ac_calloc(1, bytes))) {
            rc = ac_nomem(g->dg, bytes);
            goto out;
        }
        memcpy(out[k], value[g->outputs.p[k].id], bytes);
    }
out:
    for (size_t i = 0; i < g->nodes.n; i++)
        free(value[i]);
    free(value);
    if (rc < 0)
        for (size_t k = 0; k < g->outputs.n; k++) {
            free(out[k]);
            out[k] = NULL;
        }
    return rc;
}
