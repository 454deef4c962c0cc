/* check.h - one op on one case by one kernel against the double-precision reference: what tests and `selftest` run. */
#ifndef AC_CHECK_H
#define AC_CHECK_H

#include "graph/op.h"

typedef struct ac_check {
    char name[160];     /* "conv/b2_9x7_3to20/conv_vec/f32" */
    double error, limit; /* largest difference over the largest reference value, and what is allowed */
    const char *problem; /* NULL: passed */
} ac_check;

/* Called for each result; not 0: stop. */
typedef int (*ac_check_fn)(void *user, const ac_check *c);

/* Runs the cases of every op that have `tags`, by every kernel that accepts them and is meant for the device's class, with weights
 * stored as f32, f16 and bf16 where the op takes such; only names that contain `pattern` (NULL: all). An error of the device itself
 * ends it. */
int ac_check_ops(ac_dev *dev, unsigned tags, const char *pattern, ac_check_fn fn, void *user) AC_CHECK_RESULT;
/* The same for one op, by kernels of all classes. */
int ac_check_op(ac_dev *dev, const ac_op *op, unsigned tags, const char *pattern, ac_check_fn fn, void *user) AC_CHECK_RESULT;

/* The inputs of a case as a graph: input nodes "0", "1", ... in `value` order (params where a weight is stored), output "y". */
typedef struct ac_case_graph {
    ac_graph *g;
    double *value[AC_MAX_IN];    /* owned */
    void *data[AC_MAX_IN];       /* owned: the same in the input's own type */
    size_t bytes[AC_MAX_IN];
    ac_values param[AC_MAX_IN];
    ac_id id[AC_MAX_IN], y;
} ac_case_graph;
int ac_case_graph_new(const ac_op *op, const ac_case *c, ac_type wt, ac_diag *dg, ac_case_graph *out) AC_CHECK_RESULT;
void ac_case_graph_free(ac_case_graph *c);

#endif
