/* select.c - from ops to kernels: lowering, choice, preparation of inputs. */
#include "graph/pass.h"

#include <stdlib.h>
#include <string.h>

static bool accepts(const ac_kern *k, const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    return !k->accepts || k->accepts(lim, g, n);
}

/* The first kernel meant for this class of device that accepts; else, of an op that cannot be lowered, the first that accepts;
 * NULL: none. */
static const ac_kern *choose(const ac_limits *lim, const ac_graph *g, const ac_node *n, const ac_kern *force)
{
    const ac_kern *any = NULL;

    for (const ac_kern *k = n->op->kern; k && k->name; k++) {
        if (!accepts(k, lim, g, n))
            continue;
        if (k == force || (k->cls & lim->cls && !force))
            return k;
        if (force && any == NULL && k->cls & lim->cls)
            any = k;
    }
    for (const ac_kern *k = n->op->kern; k && k->name && !any && !n->op->lower; k++)
        if (accepts(k, lim, g, n))
            any = k;
    return any;
}

static bool needs_no_kernel(const ac_node *n)
{
    return (n->op->flags & (AC_OP_LEAF | AC_OP_ALIAS)) != 0;
}

/* One round of lowering; *changed tells whether anything was lowered. */
static int lower_once(const ac_limits *lim, const ac_graph *g, const ac_kern *force, ac_graph **out, bool *changed)
{
    ac_rewrite rw;
    bool *live = ac_calloc(g->nodes.n, sizeof *live);
    int rc;

    *out = NULL;
    *changed = false;
    if (!live)
        return ac_nomem(g->dg, g->nodes.n);
    ac_live(g, live);
    AC_TRY(ac_rewrite_begin(&rw, g));
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++) {
        ac_node n;
        if (!live[i])
            continue;
        n = ac_rewrite_node(&rw, i);
        if (needs_no_kernel(&n) || choose(lim, rw.to, &n, force)) {
            ac_rewrite_add(&rw, i, &n);
        } else if (n.op->lower) {
            rw.to->salt = n.salt; /* what is computed a second time stays so */
            rw.map[i] = n.op->lower(rw.to, &n);
            rw.to->salt = 0;
            *changed = true;
        } else {
            ac_graph_fail(rw.to, ADDCL_E_UNSUPPORTED, "%s: no kernel of this op runs on this device", n.op->name);
        }
    }
    rc = ac_rewrite_end(&rw, out);
out:
    free(live);
    return rc;
}

/* Gives the new graph its own copies of the scopes, so that the graphs before it may go. */
static void own_scopes(ac_graph *g)
{
    const char *last = NULL, *copy = "";

    for (size_t i = 1; i < g->nodes.n; i++) {
        ac_node *n = &g->nodes.p[i];
        if (n->scope != last) {
            char *s = ac_strdup(n->scope);
            last = n->scope;
            if (!s || !AC_PUSH(&g->strings, s)) {
                free(s);
                g->rc = ac_nomem(g->dg, 1);
                return;
            }
            copy = s;
        }
        n->scope = copy;
        if (n->name) {
            char *s = ac_strdup(n->name);
            if (!s || !AC_PUSH(&g->strings, s)) {
                free(s);
                g->rc = ac_nomem(g->dg, 1);
                return;
            }
            n->name = s;
        }
    }
}

static int choose_all(const ac_limits *lim, const ac_graph *g, const ac_kern *force, ac_graph **out)
{
    ac_rewrite rw;
    int rc;

    AC_TRY(ac_rewrite_begin(&rw, g));
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++) {
        ac_node n = ac_rewrite_node(&rw, i);
        size_t made = rw.to->nodes.n;
        if (!needs_no_kernel(&n)) {
            n.kern = choose(lim, rw.to, &n, force);
            rw.to->salt = n.salt;
            if (n.kern->prep)
                n.kern->prep(lim, rw.to, &n);
            rw.to->salt = 0;
            for (; made < rw.to->nodes.n; made++) { /* packing and casts: they have kernels and need no preparation */
                ac_node *p = &rw.to->nodes.p[made];
                p->kern = needs_no_kernel(p) ? NULL : choose(lim, rw.to, p, NULL);
            }
        }
        ac_rewrite_add(&rw, i, &n);
    }
    if (!rw.to->rc)
        own_scopes(rw.to);
    rc = ac_rewrite_end(&rw, out);
out:
    return rc;
}

int ac_select(const ac_limits *lim, const ac_graph *g, const ac_kern *force, ac_graph **out)
{
    ac_graph *low = NULL, *next = NULL;
    bool changed;
    int rc;

    *out = NULL;
    AC_TRY(lower_once(lim, g, force, &low, &changed));
    while (changed) {
        AC_TRY(lower_once(lim, low, force, &next, &changed));
        /* Scopes belong to the first graph; those made by lowering to the graph in between. */
        own_scopes(next);
        AC_TRY(next->rc);
        ac_graph_free(low);
        low = next;
        next = NULL;
    }
    AC_TRY(choose_all(lim, low, force, out));
out:
    ac_graph_free(low);
    ac_graph_free(next);
    return rc;
}
