/* pass.h - what the passes between a graph and its execution share. */
#ifndef AC_PASS_H
#define AC_PASS_H

#include "graph/op.h"

/* A pass rewrites a graph into a new one, node by node; map[old] = new. */
typedef struct ac_rewrite {
    const ac_graph *from;
    ac_graph *to;
    ac_id *map; /* AC_NONE: not needed by any output */
} ac_rewrite;

int ac_rewrite_begin(ac_rewrite *rw, const ac_graph *from) AC_CHECK_RESULT;
/* The old node with its inputs mapped, ready for ac_rewrite_add. */
ac_node ac_rewrite_node(const ac_rewrite *rw, ac_id old);
/* Adds n as the new form of `old`. */
void ac_rewrite_add(ac_rewrite *rw, ac_id old, const ac_node *n);
/* Maps the outputs; hands the new graph over, or frees it and returns the error. */
int ac_rewrite_end(ac_rewrite *rw, ac_graph **out) AC_CHECK_RESULT;

/* Marks in live[] every node that an output or an effect needs. */
void ac_live(const ac_graph *g, bool *live);
/* The node equal to n, or n, finished as it is, as a new one. */
ac_id ac_share_node(ac_graph *g, const ac_node *n);

bool ac_pass_off(const char *name); /* named in ADDCL_OFF */

/* Absorbs bias, row, activation and residual into conv and matmul. */
int ac_fuse(const ac_graph *g, ac_graph **out) AC_CHECK_RESULT;
/* Lowers what has no kernel, chooses kernels, adds the nodes they need (packing). */
int ac_select(const ac_limits *lim, const ac_graph *g, const ac_kern *force, ac_graph **out) AC_CHECK_RESULT;

/* Where every node's value lives. */
typedef struct ac_slots {
    int *slot;       /* by node: buffer number, -1: none (poison, alias resolved by root) */
    ac_id *root;     /* by node: the node whose buffer holds the value (aliases) */
    AC_VEC(size_t) bytes; /* by buffer */
    AC_VEC(char) constant; /* by buffer: holds a folded constant */
    uint64_t temp_peak; /* highest sum of constants and temporaries while folding */
} ac_slots;

/* Lifetimes and buffers; `keep`: no reuse. Folded nodes get buffers of their own. */
int ac_plan_slots(const ac_graph *g, bool keep, bool fold, ac_slots *s) AC_CHECK_RESULT;
void ac_slots_free(ac_slots *s);
size_t ac_node_bytes(const ac_node *n);

#endif
