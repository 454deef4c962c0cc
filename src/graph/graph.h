/* graph.h - a define-then-run graph of pure nodes on dense tensors.
 *
 * Building never fails at the call: an error is recorded in the graph's ac_diag, the builder returns AC_POISON, and every node
 * made from poison is poison. Model code therefore has no checks; ac_exec_new reports. Node order is execution order. Equal
 * nodes (op, inputs, attributes, salt) are one node. */
#ifndef AC_GRAPH_H
#define AC_GRAPH_H

#include "base/half.h"
#include "base/mem.h"
#include "dev/dev.h"

enum { AC_DIMS = 4, AC_MAX_IN = 6, AC_AT_I = 12, AC_AT_F = 4 };

typedef int32_t ac_id;
enum { AC_POISON = 0, AC_NONE = -1 }; /* the error node; an optional input that is not given */

typedef struct ac_shape {
    int n;               /* dimensions, 1..AC_DIMS */
    int64_t d[AC_DIMS];  /* images are [B,H,W,C], sequences [B,T,C] */
} ac_shape;

ac_shape ac_dims(int n, ...); /* n int64_t-convertible `int`s */
int64_t ac_count(const ac_shape *s);
bool ac_same_shape(const ac_shape *a, const ac_shape *b);
/* "[1,64,64,320]"; the text is good until 8 further calls on this thread's stack buffer `buf`. */
const char *ac_shape_text(const ac_shape *s, char buf[96]);

/* Attributes of a node; their meaning is the op's. Compared bytewise. */
typedef struct ac_at {
    int32_t i[AC_AT_I];
    float f[AC_AT_F];
} ac_at;

/* Values of a param node: `data` in row-major order, owned by whoever made the source, which outlives the graph. */
typedef struct ac_values {
    const char *name;
    const void *data; /* may be unaligned */
    ac_type type;
    ac_shape shape;
    void (*drop)(void *user, const struct ac_values *s); /* the values were copied: the pages may go. May be NULL */
    void *user;
} ac_values;

/* A tensor that outlives its graphs: a parameter being trained, an optimiser's moment, an average. Graphs on the same device that
 * name it read and write the same buffer. */
typedef struct ac_var {
    char *name;      /* owned */
    ac_type type;    /* AC_F32, AC_I32 */
    ac_shape shape;
    ac_dev *dev;
    ac_buf *buf;     /* NULL on a device that only plans */
} ac_var;

/* A variable of zeros. */
int ac_var_new(ac_dev *dev, const char *name, ac_type type, ac_shape shape, ac_var **out) AC_CHECK_RESULT;
void ac_var_free(ac_var *v);
/* The whole tensor from and to the host, row-major in its own type; waits for what was enqueued before. */
int ac_var_write(ac_var *v, const void *data) AC_CHECK_RESULT;
int ac_var_read(const ac_var *v, void *data) AC_CHECK_RESULT;
size_t ac_var_bytes(const ac_var *v);

struct ac_op;
struct ac_kern;

typedef struct ac_node {
    const struct ac_op *op;
    ac_id in[AC_MAX_IN]; /* AC_NONE: optional input not given */
    int n_in;
    ac_at at;
    ac_type type;
    ac_shape shape;
    uint32_t salt;             /* nodes of different salt are never shared: recomputation */
    uint32_t segment;          /* 0, or the checkpointed block that ac_grad computes a second time instead of keeping it */
    bool constant;             /* depends on params only */
    const ac_values *src;      /* of a param */
    ac_var *var;               /* of a state */
    const char *name;          /* of an input; NULL otherwise */
    const char *scope;         /* where the model made it: "down_blocks.0.resnets.1"; "" at the top */
    const struct ac_kern *kern; /* chosen by the select pass */
} ac_node;

typedef struct ac_output {
    const char *name;
    ac_id id;
} ac_output;

typedef struct ac_graph {
    ac_diag *dg;
    int rc;                /* first error, 0: none */
    ac_type weight_type;   /* storage of packed and cast weights */
    uint32_t salt, segment; /* given to new nodes */
    uint32_t segments;     /* begun so far */
    bool training;         /* builders make nodes that have gradients instead of fused ones that have none */
    AC_VEC(ac_node) nodes;
    AC_VEC(ac_output) outputs;
    AC_VEC(ac_id) effects; /* nodes that are run for what they write, in creation order */
    AC_VEC(char *) strings; /* owned scopes and names */
    const char *scope;
    ac_id *table;          /* open-addressing hash of nodes */
    size_t table_n;
} ac_graph;

/* NULL only when memory is short. */
ac_graph *ac_graph_new(ac_diag *dg, ac_type weight_type);
void ac_graph_free(ac_graph *g);
/* Good until the next node is made, which may move them: not to be mixed with builders in one expression. */
const ac_node *ac_at_node(const ac_graph *g, ac_id id);
const ac_shape *ac_shape_of(const ac_graph *g, ac_id id);

/* Records an error at the node being built and returns AC_POISON. */
ac_id ac_graph_fail(ac_graph *g, int code, const char *fmt, ...) AC_PRINTF(3, 4);

/* Adds (or finds) a node. `in` has the op's n_in required and up to n_opt optional inputs, AC_NONE where absent. */
ac_id ac_add_node(ac_graph *g, const struct ac_op *op, const ac_id *in, int n, const ac_at *at);
/* Leaves. Names are copied. */
ac_id ac_input(ac_graph *g, const char *name, ac_type type, ac_shape shape); /* again by the same name: the same one */
ac_id ac_param(ac_graph *g, const ac_values *src);
ac_id ac_state(ac_graph *g, ac_var *v);
void ac_set_output(ac_graph *g, const char *name, ac_id id);

/* Scope of the nodes made from here on: ac_scope pushes ".name" and returns what ac_scope_end takes to go back. */
const char *ac_scope(ac_graph *g, const char *fmt, ...) AC_PRINTF(2, 3);
void ac_scope_end(ac_graph *g, const char *before);

/* Nodes made between these belong to one checkpointed block: ac_grad keeps only its inputs, and computes it again where the sweep
 * reaches it (Chen et al. 2016). Blocks do not nest. */
void ac_segment_begin(ac_graph *g);
void ac_segment_end(ac_graph *g);

/* ------------------------------------------------------------------------------------------ gradients */

/* Appends the nodes of gx[i] = sum(gy * dy/dx[i]), of the shape of x[i]; AC_NONE where y does not depend on x[i]. gy has the shape
 * of y; AC_NONE: ones. Gradients are nodes like others: they can be differentiated again. */
void ac_grad(ac_graph *g, ac_id y, ac_id gy, const ac_id *x, int n, ac_id *gx);
/* The same, telling each gradient as soon as the sweep has made it, the last used x first: nodes that fn adds run there. Not
 * called for an x that y does not depend on. */
typedef void (*ac_grad_fn)(void *user, int i, ac_id gx);
void ac_grad_each(ac_graph *g, ac_id y, ac_id gy, const ac_id *x, int n, ac_grad_fn fn, void *user);

/* ------------------------------------------------------------------------------------------ execution */

typedef struct ac_exec ac_exec; /* a graph made ready for one device */

typedef struct ac_exec_opts {
    bool plan_only;                 /* limits only: nothing is allocated, built or uploaded */
    bool all_outputs_kept;          /* keep every node's value readable (tests of layers) */
    const struct ac_kern *force;    /* the select pass uses this kernel wherever it accepts (tests) */
    bool guard;                     /* buffers are filled with NaN and have a guard behind their end (tests) */
} ac_exec_opts;

typedef struct ac_plan_info {
    uint64_t weights;   /* bytes of buffers that hold folded constants */
    uint64_t activations; /* bytes of buffers shared by all other nodes */
    uint64_t peak;      /* highest sum of buffers, temporaries of folding included */
    uint64_t largest;   /* the largest single buffer */
    double flop;        /* one run */
    int launches;
} ac_plan_info;

/* Prunes, fuses, selects kernels, plans; unless plan_only also allocates, builds kernels and folds constants. The graph is
 * only read; its sources must stay until this returns. Environment: ADDCL_OFF=fuse,plan,fold switches passes off. */
int ac_exec_new(ac_dev *dev, const ac_graph *g, const ac_exec_opts *opts, ac_exec **out) AC_CHECK_RESULT;
void ac_exec_free(ac_exec *x);
const ac_plan_info *ac_exec_info(const ac_exec *x);
/* Feeds an input from the host / fetches an output: `bytes` must be the tensor's size. Feeding waits, fetching waits for the run. */
int ac_feed(ac_exec *x, const char *name, const void *data, size_t bytes) AC_CHECK_RESULT;
int ac_fetch(ac_exec *x, const char *name, void *data, size_t bytes) AC_CHECK_RESULT;
/* Copies an output onto an input, on the device: of the same execution or of another one on the same device. */
int ac_carry(ac_exec *from, const char *output, ac_exec *to, const char *input) AC_CHECK_RESULT;
/* Enqueues one run. ADDCL_TRACE=1 reports every node, ADDCL_CHECK=1 stops at the first non-finite value. */
int ac_run(ac_exec *x) AC_CHECK_RESULT;
/* As ac_run, but waits after every node, and stops with E_DIVERGED at the first value, variables and inputs included, that is not
 * finite, which the message names. */
int ac_run_checked(ac_exec *x) AC_CHECK_RESULT;
/* As ac_run; fn hears of each node with an effect, once it is enqueued, and of the variable that it writes. Not 0: stops with it. */
typedef int (*ac_effect_fn)(void *user, const ac_var *v);
int ac_run_effects(ac_exec *x, ac_effect_fn fn, void *user) AC_CHECK_RESULT;
/* As ac_run, and adds each kernel's device seconds to `sink` (bench). */
typedef void (*ac_time_fn)(void *user, const ac_node *n, const char *kernel, double seconds, double flop, double bytes);
int ac_run_timed(ac_exec *x, ac_time_fn fn, void *user) AC_CHECK_RESULT;
/* One line per node of the plan, to the log at level INFO. */
void ac_exec_dump(const ac_exec *x);
/* Does a node use this kernel? With opts.guard: is every guard as it was? */
bool ac_exec_uses(const ac_exec *x, const struct ac_kern *k);
bool ac_exec_guards_intact(ac_exec *x);
/* Calls fn for every kernel variant of the plan (check-gpu). */
void ac_exec_launches(const ac_exec *x, void (*fn)(void *user, const ac_launch *l), void *user);

/* The truth: the same graph in double precision on the host, naively. `feeds[i]` belongs to the i-th input node in creation
 * order, as doubles. Results of output k are in out[k], ac_count elements, owned by the caller. */
int ac_ref_run(const ac_graph *g, const double *const *feeds, double **out) AC_CHECK_RESULT;

#endif
