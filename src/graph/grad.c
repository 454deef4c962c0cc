/* grad.c - reverse-mode differentiation: gradients as nodes.
 *
 * One sweep from y down to the inputs, in descending order of nodes, which is a reverse topological order. A node hands its
 * adjoint to its op's rule (op.h, vjp), which answers with nodes for the gradients of its inputs; an op without a rule is
 * differentiated through its lowering. Nodes of a checkpointed block are not read by rules: a copy of them under another salt
 * is, made where the sweep first asks for it, so that what the block computed in the forward pass may be dropped (Chen et al.
 * 2016, "Training deep nets with sublinear memory cost"). */
#include "graph/pass.h"

#include <stdlib.h>
#include <string.h>

typedef struct sweep {
    ac_graph *g;
    ac_id first, last; /* nodes first..last may lie between the inputs and y */
    bool *needed;      /* by node - first: depends on an input to differentiate by */
    ac_id *adjoint;    /* by node - first: gradient so far; AC_NONE: none */
    ac_id *copy;       /* by node - first: the node computed a second time; AC_NONE: not yet */
    int *which;        /* by node - first: 1 + the first index in x of this node; 0: it is none of them */
} sweep;

static ac_id sum(ac_graph *g, ac_id a, ac_id b)
{
    return ac_add_node(g, &ac_op_add, (ac_id[]){a, b}, 2, NULL);
}

static ac_id ones(ac_graph *g, const ac_shape *s)
{
    ac_at at = {.i = {[4] = s->n}, .f = {1}}; /* as of op fill */

    for (int k = 0; k < s->n; k++)
        at.i[k] = (int32_t)s->d[k];
    return ac_add_node(g, &ac_op_fill, NULL, 0, &at);
}

static bool differentiable(const ac_node *n)
{
    return n->type != AC_I32 && !(n->op->flags & (AC_OP_STOP | AC_OP_EFFECT));
}

/* Marks the nodes that depend on one of x. */
static void mark_needed(sweep *s, const ac_id *x, int n)
{
    for (int i = 0; i < n; i++)
        if (x[i] >= s->first && x[i] <= s->last)
            s->needed[x[i] - s->first] = true;
    for (ac_id i = s->first; i <= s->last; i++) {
        const ac_node *node = ac_at_node(s->g, i);
        for (int k = 0; differentiable(node) && k < node->n_in; k++)
            if (node->in[k] >= s->first && s->needed[node->in[k] - s->first])
                s->needed[i - s->first] = true;
    }
}

/* What a rule reads for node i: the node itself, or, in the block that is being computed again, its copy. */
static ac_id again(sweep *s, ac_id i, uint32_t segment)
{
    ac_node n;

    if (i == AC_NONE || i < s->first || i > s->last || segment == 0)
        return i;
    n = *ac_at_node(s->g, i);
    if (n.segment != segment || n.op->flags & AC_OP_LEAF || n.constant)
        return i;
    if (s->copy[i - s->first] == AC_NONE) {
        for (int k = 0; k < n.n_in; k++)
            n.in[k] = again(s, n.in[k], segment);
        n.salt = segment;
        n.segment = 0;
        s->copy[i - s->first] = ac_share_node(s->g, &n);
    }
    return s->copy[i - s->first];
}

/* adjoint[i] += gx */
static void add_adjoint(sweep *s, ac_id i, ac_id gx)
{
    ac_id *a;
    char b[96], c[96];

    if (i == AC_NONE || gx == AC_NONE || i < s->first || !s->needed[i - s->first] || s->g->rc)
        return;
    if (!ac_same_shape(ac_shape_of(s->g, gx), ac_shape_of(s->g, i))) {
        ac_graph_fail(s->g, ADDCL_E_INTERNAL, "%s: a gradient of shape %s for a value of shape %s", ac_at_node(s->g, i)->op->name,
                      ac_shape_text(ac_shape_of(s->g, gx), b), ac_shape_text(ac_shape_of(s->g, i), c));
        return;
    }
    a = &s->adjoint[i - s->first];
    *a = *a == AC_NONE ? gx : sum(s->g, *a, gx);
}

/* The rule of an op that has none: the gradient of its lowering. */
static void through_lowering(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);
    ac_id in[AC_MAX_IN];

    for (int k = 0; k < n.n_in; k++) {
        in[k] = n.in[k];
        for (int j = 0; j < k; j++) /* an input that comes twice has its whole gradient at the first place */
            if (in[j] == in[k])
                in[k] = AC_NONE;
    }
    ac_grad(g, n.op->lower(g, &n), gy, in, n.n_in, gx);
}

static bool any_needed(const sweep *s, const ac_node *n)
{
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] >= s->first && s->needed[n->in[k] - s->first])
            return true;
    return false;
}

/* Hands the adjoint of node i on to its inputs. */
static void step(sweep *s, ac_id i)
{
    ac_graph *g = s->g;
    const ac_node n = *ac_at_node(g, i);
    const char *scope = g->scope;
    uint32_t salt = g->salt;
    ac_id gx[AC_MAX_IN], y;

    if (!any_needed(s, &n))
        return;
    y = again(s, i, n.segment);
    for (int k = 0; k < AC_MAX_IN; k++)
        gx[k] = AC_NONE;
    g->scope = n.scope;
    g->salt = ac_at_node(g, y)->salt;
    if (n.op->vjp) {
        n.op->vjp(g, y, s->adjoint[i - s->first], gx);
    } else if (n.op->lower) {
        through_lowering(g, y, s->adjoint[i - s->first], gx);
    } else {
        ac_graph_fail(g, ADDCL_E_UNSUPPORTED, "%s has no gradient", n.op->name);
    }
    g->salt = salt;
    g->scope = scope;
    for (int k = 0; k < n.n_in; k++)
        add_adjoint(s, n.in[k], gx[k]);
}

static ac_id lowest(ac_id y, const ac_id *x, int n)
{
    ac_id low = y;

    for (int i = 0; i < n; i++)
        if (x[i] > 0)
            low = AC_MIN(low, x[i]);
    return low;
}

/* The gradient of node i is whole: nothing below it in the sweep uses it. */
static void tell(const sweep *s, ac_id i, const ac_id *x, int n, ac_grad_fn fn, void *user)
{
    int first = s->which[i - s->first] - 1;

    for (int k = first; first >= 0 && k < n && !s->g->rc; k++)
        if (x[k] == i)
            fn(user, k, s->adjoint[i - s->first]);
}

/* y itself may be older than an input that it does not depend on; such inputs get no gradient. */
void ac_grad_each(ac_graph *g, ac_id y, ac_id gy, const ac_id *x, int n, ac_grad_fn fn, void *user)
{
    sweep s = {.g = g, .first = lowest(y, x, n), .last = y};
    size_t span = (size_t)(y - s.first) + 1;
    uint32_t segment = g->segment;

    if (g->rc)
        return;
    s.needed = ac_calloc(span, sizeof *s.needed);
    s.adjoint = ac_calloc(span, sizeof *s.adjoint);
    s.copy = ac_calloc(span, sizeof *s.copy);
    s.which = ac_calloc(span, sizeof *s.which);
    if (!s.needed || !s.adjoint || !s.copy || !s.which) {
        g->rc = ac_nomem(g->dg, span * sizeof *s.copy);
        goto out;
    }
    for (size_t i = 0; i < span; i++)
        s.adjoint[i] = s.copy[i] = AC_NONE;
    for (int k = n; k-- > 0;)
        if (x[k] >= s.first && x[k] <= s.last)
            s.which[x[k] - s.first] = k + 1;
    g->segment = 0;
    mark_needed(&s, x, n);
    if (gy == AC_NONE)
        gy = ones(g, ac_shape_of(g, y));
    add_adjoint(&s, y, gy);
    for (ac_id i = y; i >= s.first && !g->rc; i--) {
        if (s.adjoint[i - s.first] == AC_NONE)
            continue;
        tell(&s, i, x, n, fn, user);
        if (differentiable(ac_at_node(g, i)) && !(ac_at_node(g, i)->op->flags & AC_OP_LEAF))
            step(&s, i);
    }
out:
    g->segment = segment;
    free(s.needed);
    free(s.adjoint);
    free(s.copy);
    free(s.which);
}

static void keep(void *user, int i, ac_id gx)
{
    ac_id *all = user;
    all[i] = gx;
}

void ac_grad(ac_graph *g, ac_id y, ac_id gy, const ac_id *x, int n, ac_id *gx)
{
    for (int i = 0; i < n; i++)
        gx[i] = AC_NONE;
    ac_grad_each(g, y, gy, x, n, keep, gx);
    for (int i = 0; i < n && g->rc; i++)
        gx[i] = AC_POISON;
}
