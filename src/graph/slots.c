/* slots.c - lifetimes and buffers.
 *
 * Every value lives in a whole buffer; a buffer is reused when its value is dead. A new value takes the smallest free buffer
 * that is large enough, else the largest free one, which then grows: sizes are final only at the end, before anything is
 * allocated. Inputs, outputs and folded constants have buffers of their own. */
#include "graph/pass.h"

#include <stdlib.h>
#include <string.h>

size_t ac_node_bytes(const ac_node *n)
{
    return (size_t)ac_count(&n->shape) * ac_type_size(n->type);
}

static int new_slot(ac_slots *s, const ac_graph *g, size_t bytes, bool constant)
{
    if (!AC_PUSH(&s->bytes, bytes) || !AC_PUSH(&s->constant, (char)constant))
        return ac_nomem(g->dg, sizeof(size_t));
    return (int)s->bytes.n - 1;
}

/* Last node that reads each root; outputs live for ever. */
static void last_uses(const ac_graph *g, const ac_id *root, ac_id *last)
{
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++)
        for (int k = 0; k < g->nodes.p[i].n_in; k++)
            if (g->nodes.p[i].in[k] != AC_NONE)
                last[root[g->nodes.p[i].in[k]]] = i;
    for (size_t i = 0; i < g->outputs.n; i++)
        last[root[g->outputs.p[i].id]] = INT32_MAX;
}

/* A free buffer for `bytes`: best fit, else the largest to grow; -1: none is free. */
static int find_free(const ac_slots *s, const char *is_free, size_t bytes)
{
    int best = -1, largest = -1;

    for (int i = 0; i < (int)s->bytes.n; i++) {
        if (!is_free[i])
            continue;
        if (s->bytes.p[i] >= bytes && (best < 0 || s->bytes.p[i] < s->bytes.p[best]))
            best = i;
        if (largest < 0 || s->bytes.p[i] > s->bytes.p[largest])
            largest = i;
    }
    return best >= 0 ? best : largest;
}

/* May node i be computed onto its first input's buffer? */
static bool in_place(const ac_graph *g, const ac_slots *s, const ac_id *last, ac_id i)
{
    const ac_node *n = &g->nodes.p[i];
    ac_id a = n->in[0] != AC_NONE ? s->root[n->in[0]] : AC_NONE;

    if (!(n->op->flags & AC_OP_INPLACE) || a == AC_NONE || last[a] != i || g->nodes.p[a].op->flags & AC_OP_LEAF ||
        g->nodes.p[a].constant || ac_node_bytes(&g->nodes.p[a]) != ac_node_bytes(n))
        return false;
    for (int k = 1; k < n->n_in; k++) /* another input in the same buffer would be read after it was overwritten */
        if (n->in[k] != AC_NONE && s->root[n->in[k]] == a)
            return false;
    return true;
}

static bool own_buffer(const ac_node *n, bool fold)
{
    return n->op->flags & AC_OP_LEAF || (fold && n->constant);
}

/* The sum of kept constants and temporaries while constants are folded one after the other, at its highest. */
static uint64_t fold_peak(const ac_graph *g, const ac_id *root, const ac_id *last, const bool *kept)
{
    uint64_t now = 0, peak = 0;

    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++) {
        const ac_node *n = &g->nodes.p[i];
        if (!n->constant || root[i] != i)
            continue;
        now += ac_node_bytes(n);
        peak = AC_MAX(peak, now);
        for (int k = 0; k < n->n_in; k++) {
            ac_id r = n->in[k] == AC_NONE ? AC_NONE : root[n->in[k]];
            if (r != AC_NONE && last[r] == i && !kept[r] && (k == 0 || n->in[k] != n->in[0]))
                now -= ac_node_bytes(&g->nodes.p[r]);
        }
    }
    return peak;
}

/* Constants that a run reads stay; the others die while folding. */
static void mark_kept(const ac_graph *g, const ac_id *root, bool *kept)
{
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++)
        for (int k = 0; !g->nodes.p[i].constant && k < g->nodes.p[i].n_in; k++)
            if (g->nodes.p[i].in[k] != AC_NONE)
                kept[root[g->nodes.p[i].in[k]]] = true;
    for (size_t i = 0; i < g->outputs.n; i++)
        kept[root[g->outputs.p[i].id]] = true;
}

static int assign(const ac_graph *g, bool keep, bool fold, ac_slots *s, const ac_id *last)
{
    char *is_free = ac_calloc(g->nodes.n, 1);
    int rc = 0;

    if (!is_free)
        return ac_nomem(g->dg, g->nodes.n);
    for (ac_id i = 1; i < (ac_id)g->nodes.n && rc >= 0; i++) {
        const ac_node *n = &g->nodes.p[i];
        size_t bytes = ac_node_bytes(n);
        if (s->root[i] != i)
            continue;
        if (own_buffer(n, fold)) {
            s->slot[i] = rc = new_slot(s, g, n->var ? 0 : bytes, n->constant); /* a variable has its buffer already */
        } else if (!keep && in_place(g, s, last, i)) {
            s->slot[i] = s->slot[s->root[n->in[0]]];
        } else {
            int f = keep ? -1 : find_free(s, is_free, bytes);
            s->slot[i] = rc = f >= 0 ? f : new_slot(s, g, bytes, false);
            if (rc >= 0) {
                s->bytes.p[rc] = AC_MAX(s->bytes.p[rc], bytes);
                is_free[rc] = 0;
            }
        }
        for (int k = 0; k < n->n_in && rc >= 0; k++) {
            ac_id r = n->in[k] == AC_NONE ? AC_NONE : s->root[n->in[k]];
            if (r != AC_NONE && last[r] == i && !own_buffer(&g->nodes.p[r], fold) && s->slot[r] != s->slot[i])
                is_free[s->slot[r]] = 1;
        }
        if (rc >= 0 && last[i] == 0 && !own_buffer(n, fold)) /* nobody reads it */
            is_free[s->slot[i]] = 1;
    }
    free(is_free);
    return rc < 0 ? rc : 0;
}

int ac_plan_slots(const ac_graph *g, bool keep, bool fold, ac_slots *s)
{
    ac_id *last = ac_calloc(g->nodes.n, sizeof *last);
    bool *kept = ac_calloc(g->nodes.n, sizeof *kept);
    int rc = 0;

    *s = (ac_slots){0};
    s->slot = ac_calloc(g->nodes.n, sizeof *s->slot);
    s->root = ac_calloc(g->nodes.n, sizeof *s->root);
    if (!last || !kept || !s->slot || !s->root) {
        rc = ac_nomem(g->dg, g->nodes.n * sizeof *last);
        goto out;
    }
    for (ac_id i = 0; i < (ac_id)g->nodes.n; i++) {
        s->slot[i] = -1;
        s->root[i] = i && g->nodes.p[i].op->flags & (AC_OP_ALIAS | AC_OP_EFFECT) ? s->root[g->nodes.p[i].in[0]] : i;
    }
    last_uses(g, s->root, last);
    AC_TRY(assign(g, keep, fold, s, last));
    mark_kept(g, s->root, kept);
    if (fold) {
        s->temp_peak = fold_peak(g, s->root, last, kept);
        for (ac_id i = 1; i < (ac_id)g->nodes.n; i++) /* temporaries of folding need no buffer in the plan */
            if (s->root[i] == i && g->nodes.p[i].constant && !kept[i]) {
                s->bytes.p[s->slot[i]] = 0;
                s->slot[i] = -1;
            }
    }
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++)
        s->slot[i] = s->slot[s->root[i]];
out:
    free(last);
    free(kept);
    if (rc < 0)
        ac_slots_free(s);
    return rc;
}

void ac_slots_free(ac_slots *s)
{
    free(s->slot);
    free(s->root);
    free(s->bytes.p);
    free(s->constant.p);
    *s = (ac_slots){0};
}
