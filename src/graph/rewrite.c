/* rewrite.c - copying a graph while changing it; liveness; the switch for passes. */
#include "graph/pass.h"

#include <stdlib.h>
#include <string.h>

bool ac_pass_off(const char *name)
{
    const char *off = getenv("ADDCL_OFF");
    size_t n = strlen(name);

    for (; off && *off; off = strchr(off, ',') ? strchr(off, ',') + 1 : NULL)
        if (!strncmp(off, name, n) && (off[n] == '\0' || off[n] == ','))
            return true;
    return false;
}

void ac_live(const ac_graph *g, bool *live)
{
    memset(live, 0, g->nodes.n * sizeof *live);
    for (size_t i = 0; i < g->outputs.n; i++)
        live[g->outputs.p[i].id] = true;
    for (size_t i = 0; i < g->effects.n; i++)
        live[g->effects.p[i]] = true;
    for (size_t i = g->nodes.n; i-- > 1;)
        for (int k = 0; live[i] && k < g->nodes.p[i].n_in; k++)
            if (g->nodes.p[i].in[k] != AC_NONE)
                live[g->nodes.p[i].in[k]] = true;
}

int ac_rewrite_begin(ac_rewrite *rw, const ac_graph *from)
{
    rw->from = from;
    rw->to = ac_graph_new(from->dg, from->weight_type);
    rw->map = ac_calloc(from->nodes.n, sizeof *rw->map);
    if (!rw->to || !rw->map) {
        ac_graph_free(rw->to);
        free(rw->map);
        return ac_nomem(from->dg, from->nodes.n * sizeof *rw->map);
    }
    for (size_t i = 0; i < from->nodes.n; i++)
        rw->map[i] = AC_NONE;
    return 0;
}

ac_node ac_rewrite_node(const ac_rewrite *rw, ac_id old)
{
    ac_node n = rw->from->nodes.p[old];

    for (int k = 0; k < n.n_in; k++)
        if (n.in[k] != AC_NONE)
            n.in[k] = rw->map[n.in[k]];
    rw->to->scope = n.scope; /* strings stay with the graph that was built first: it outlives the rewritten ones */
    return n;
}

void ac_rewrite_add(ac_rewrite *rw, ac_id old, const ac_node *n)
{
    rw->map[old] = ac_share_node(rw->to, n);
}

int ac_rewrite_end(ac_rewrite *rw, ac_graph **out)
{
    int rc = rw->to->rc;

    for (size_t i = 0; rc == 0 && i < rw->from->outputs.n; i++)
        ac_set_output(rw->to, rw->from->outputs.p[i].name, rw->map[rw->from->outputs.p[i].id]);
    rc = rc ? rc : rw->to->rc;
    if (rc) {
        ac_graph_free(rw->to);
        rw->to = NULL;
    }
    *out = rw->to;
    free(rw->map);
    return rc;
}
