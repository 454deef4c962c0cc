/* fuse.c - one rule: conv and matmul absorb what follows them while that is their only use.
 *
 *   y = act(acc + bias[c] + row[b,c]) + res
 *
 * The producer is held back until its consumer comes up; there the consumer's other operand becomes an input of the
 * producer, which takes the consumer's place. The chain repeats until nothing more fits. */
#include "graph/pass.h"

#include <stdlib.h>
#include <string.h>

typedef struct fuse_state {
    ac_rewrite rw;
    int *uses;       /* by old node */
    ac_node *held;   /* by old node: the producer not yet emitted, op NULL: none */
} fuse_state;

static void count_uses(const ac_graph *g, const bool *live, int *uses)
{
    for (size_t i = 1; i < g->nodes.n; i++)
        for (int k = 0; live[i] && k < g->nodes.p[i].n_in; k++)
            if (g->nodes.p[i].in[k] != AC_NONE)
                uses[g->nodes.p[i].in[k]]++;
    for (size_t i = 0; i < g->outputs.n; i++)
        uses[g->outputs.p[i].id] += 2; /* an output must exist under its own shape */
}

/* Which epilogue input can `other` become, when added to a product of shape y? -1: none. */
static int add_slot(const ac_node *prod, const ac_shape *y, const ac_node *other)
{
    const ac_shape *s = &other->shape;
    int last = y->n - 1;
    bool pristine = prod->in[AC_EP_RES] == AC_NONE && prod->at.i[AC_AT_ACT] == AC_ACT_NONE;

    if (other->type != AC_F32)
        return -1;
    if (ac_same_shape(s, y) && prod->in[AC_EP_RES] == AC_NONE)
        return AC_EP_RES;
    if (!pristine || ac_count(s) == 1 || s->d[s->n - 1] != y->d[last])
        return -1;
    if (ac_count(s) == y->d[last] && prod->in[AC_EP_BIAS] == AC_NONE)
        return AC_EP_BIAS;
    if (s->n != y->n || s->d[0] != y->d[0] || ac_count(s) != y->d[0] * y->d[last] || prod->in[AC_EP_ROW] != AC_NONE ||
        prod->at.i[AC_AT_CLOSED])
        return -1;
    return AC_EP_ROW;
}

/* Emits a held producer under its own place, when its consumer does not absorb it. */
static void release(fuse_state *f, ac_id old)
{
    if (f->held[old].op) {
        ac_rewrite_add(&f->rw, old, &f->held[old]);
        f->held[old].op = NULL;
    }
}

/* Tries to absorb old node i into a held producer; true: done, the producer is now held as node i. */
static bool absorb(fuse_state *f, ac_id i)
{
    const ac_graph *g = f->rw.from;
    const ac_node *n = &g->nodes.p[i];

    if (n->op->flags & AC_OP_ACT) {
        ac_node *p = &f->held[n->in[0]];
        if (!p->op || p->at.i[AC_AT_ACT] != AC_ACT_NONE || p->in[AC_EP_RES] != AC_NONE || !n->op->act_code)
            return false;
        f->held[i] = *p;
        f->held[i].at.i[AC_AT_ACT] = n->op->act_code;
        p->op = NULL;
        return true;
    }
    if (!(n->op->flags & AC_OP_ADD) || n->in[0] == n->in[1])
        return false;
    for (int k = 0; k < 2; k++) {
        ac_id from = n->in[k], other = n->in[1 - k];
        ac_node *p = &f->held[from];
        int slot = p->op && ac_same_shape(&p->shape, &n->shape) ? add_slot(p, &n->shape, &g->nodes.p[other]) : -1;
        if (slot < 0)
            continue;
        release(f, other);
        f->held[i] = *p;
        f->held[i].in[slot] = f->rw.map[other];
        f->held[i].constant = f->held[i].constant && g->nodes.p[other].constant;
        p->op = NULL;
        return true;
    }
    return false;
}

int ac_fuse(const ac_graph *g, ac_graph **out)
{
    fuse_state f = {0};
    bool *live = ac_calloc(g->nodes.n, sizeof *live);
    int rc;

    *out = NULL;
    f.uses = ac_calloc(g->nodes.n, sizeof *f.uses);
    f.held = ac_calloc(g->nodes.n, sizeof *f.held);
    if (!live || !f.uses || !f.held) {
        rc = ac_nomem(g->dg, g->nodes.n * sizeof *f.held);
        goto out;
    }
    AC_TRY(ac_rewrite_begin(&f.rw, g));
    ac_live(g, live);
    count_uses(g, live, f.uses);
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++) {
        const ac_node *n = &g->nodes.p[i];
        if (!live[i])
            continue;
        if (!absorb(&f, i)) {
            for (int k = 0; k < n->n_in; k++)
                if (n->in[k] != AC_NONE)
                    release(&f, n->in[k]);
            f.held[i] = ac_rewrite_node(&f.rw, i);
        }
        /* Only an epilogue op with one use waits; its consumer may be anything. */
        if (!(f.held[i].op->flags & AC_OP_EPILOGUE) || f.held[i].at.i[AC_AT_CLOSED] == AC_NO_EPILOGUE || f.uses[i] != 1)
            release(&f, i);
    }
    rc = ac_rewrite_end(&f.rw, out);
out:
    free(live);
    free(f.uses);
    free(f.held);
    return rc;
}
