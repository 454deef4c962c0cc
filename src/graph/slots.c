/* slots.c - lifetimes and buffers.
 *
 * Every value lives in a whole buffer, and values that do not live at the same time share one: values are placed from the
 * largest to the smallest, each into the smallest buffer that is free while it lives ("greedy by size", Pisarchyk and Lee 2020).
 * Inputs, variables, and folded constants have buffers of their own. */
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

/* A value, or several computed in place one after the other, from the node that makes the first to the last reader. */
typedef struct life {
    ac_id begin, end;
    size_t bytes;
} life;

/* The lives that a buffer holds, in order of time. */
typedef AC_VEC(life) tenants;

static int by_size(const void *a, const void *b)
{
    const life *x = a, *y = b;
    return x->bytes != y->bytes ? (x->bytes < y->bytes ? 1 : -1) : x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Where `l` goes among the tenants; -1: somebody lives there at that time. A node's inputs live while its output is made. */
static long vacancy(const tenants *t, const life *l)
{
    size_t low = 0, high = t->n;

    while (low < high) { /* the first tenant that ends at or after l begins */
        size_t mid = (low + high) / 2;
        if (t->p[mid].end < l->begin)
            low = mid + 1;
        else
            high = mid;
    }
    return low == t->n || t->p[low].begin > l->end ? (long)low : -1;
}

static bool move_in(tenants *t, size_t at, const life *l)
{
    if (!AC_PUSH(t, *l))
        return false;
    memmove(t->p + at + 1, t->p + at, (t->n - 1 - at) * sizeof *t->p);
    t->p[at] = *l;
    return true;
}

/* Places lives, given from the largest to the smallest, in buffers; slot[begin] tells which. Buffers are as large as their first
 * tenant, so the newest that has room is the smallest. */
static int place(const ac_graph *g, const life *l, size_t n, bool keep, ac_slots *s)
{
    AC_VEC(tenants) house = {0};
    int first = (int)s->bytes.n, rc = 0;

    for (size_t i = 0; i < n && rc >= 0; i++) {
        long at = -1;
        size_t k = keep ? 0 : house.n;
        while (k > 0 && (at = vacancy(&house.p[k - 1], &l[i])) < 0)
            k--;
        if (at < 0) {
            rc = new_slot(s, g, l[i].bytes, false);
            k = AC_PUSH(&house, (tenants){0}) ? house.n : 0;
            at = 0;
        }
        if (rc < 0 || k == 0 || !move_in(&house.p[k - 1], (size_t)at, &l[i]))
            rc = rc < 0 ? rc : ac_nomem(g->dg, sizeof(life));
        else
            s->slot[l[i].begin] = first + (int)k - 1;
    }
    for (size_t k = 0; k < house.n; k++)
        free(house.p[k].p);
    free(house.p);
    return AC_MIN(rc, 0);
}

static int assign(const ac_graph *g, bool keep, bool fold, ac_slots *s, const ac_id *last)
{
    life *l = ac_calloc(g->nodes.n, sizeof *l);              /* by node that makes the first value */
    ac_id *first = ac_calloc(g->nodes.n, sizeof *first);     /* that node, by node */
    size_t n = 0;
    int rc = l && first ? 0 : ac_nomem(g->dg, g->nodes.n * sizeof *l);

    for (ac_id i = 1; i < (ac_id)g->nodes.n && rc >= 0; i++) {
        const ac_node *node = &g->nodes.p[i];
        first[i] = i;
        if (s->root[i] != i)
            continue;
        if (own_buffer(node, fold)) {
            s->slot[i] = rc = new_slot(s, g, node->var ? 0 : ac_node_bytes(node), node->constant); /* a variable has its buffer */
            continue;
        }
        if (!keep && in_place(g, s, last, i))
            first[i] = first[s->root[node->in[0]]];
        l[first[i]] = (life){first[i], AC_MAX(last[i], i), ac_node_bytes(node)};
    }
    AC_TRY(rc);
    for (size_t i = 1; i < g->nodes.n; i++)
        if (l[i].bytes)
            l[n++] = l[i];
    if (n)
        qsort(l, n, sizeof *l, by_size);
    AC_TRY(place(g, l, n, keep, s));
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++)
        if (s->root[i] == i && first[i] != i)
            s->slot[i] = s->slot[first[i]];
out:
    free(l);
    free(first);
    return AC_MIN(rc, 0);
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
