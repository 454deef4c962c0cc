/* op.h - what an op is: one row with its shape rule, gradient, lowering, reference, kernels and cases. */
#ifndef AC_OP_H
#define AC_OP_H

#include "graph/graph.h"

enum {
    AC_OP_LEAF = 1,      /* input, param: no computation */
    AC_OP_ALIAS = 2,     /* the input's values under another shape: no launch, no buffer */
    AC_OP_INPLACE = 4,   /* element i of the output depends on element i of input 0 only, beyond what is broadcast */
    AC_OP_EPILOGUE = 8,  /* takes bias, row, residual in inputs 2, 3, 4 and an activation in at.i[AC_AT_ACT] (see fuse.c) */
    AC_OP_ACT = 16,      /* an activation that an epilogue can absorb; at.i is unused, act_code says which */
    AC_OP_ADD = 32,      /* the sum of two tensors: what fuse looks for */
    AC_OP_POSITIVE = 64, /* defined for (or away from) positive values: tests draw inputs from (0.5, 2) */
    AC_OP_EFFECT = 128,  /* is run for what it writes: in place into input 0, whose new value it is, and into others as its kernel says */
    AC_OP_STOP = 256     /* no gradient passes */
};

/* Epilogue of conv and matmul: y = act(acc + bias[c] + row[b,c]) + res. at.i[AC_AT_CLOSED] tells what it cannot take. */
enum { AC_EP_BIAS = 2, AC_EP_ROW = 3, AC_EP_RES = 4, AC_AT_ACT = AC_AT_I - 1, AC_AT_CLOSED = AC_AT_I - 2 };
enum { AC_NO_ROW = 1, AC_NO_EPILOGUE = 2 }; /* a batch of products; a gated product */
/* Values of at.i[AC_AT_ACT] and of -DACT in the kernels. */
enum { AC_ACT_NONE, AC_ACT_SILU, AC_ACT_GELU, AC_ACT_QUICK_GELU, AC_ACT_RELU };

/* What a reference implementation sees: values of all inputs in double (NULL where absent). */
typedef struct ac_ref {
    const ac_graph *g;
    const ac_node *n;
    double *out;
    const double *in[AC_MAX_IN];
    const ac_shape *shape[AC_MAX_IN];
} ac_ref;

/* One way to compute an op on a device. */
typedef struct ac_kern {
    const char *name; /* the kernel function */
    const char *file; /* its source, cl/<file>.cl */
    ac_class cls;     /* devices it is meant for; tests run it wherever it accepts */
    /* Can it compute this node on a device with these limits? Pure. NULL: always. */
    bool (*accepts)(const ac_limits *lim, const ac_graph *g, const ac_node *n);
    /* Gives the node the inputs that the kernel reads, e.g. packed weights, by making nodes in g. NULL: none needed. */
    void (*prep)(const ac_limits *lim, ac_graph *g, ac_node *n);
    /* Describes the launch. */
    void (*setup)(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
} ac_kern;

enum { AC_SMALL = 1, AC_FULL = 2, AC_FED = 4 }; /* tests and self-test; speed; weights are inputs of the run, not constants */

/* A shape on which the op is tested or timed. */
typedef struct ac_case {
    const char *name;        /* "b2_17x9_s2" */
    unsigned tags;
    ac_shape in[AC_MAX_IN];  /* n = 0: input absent */
    ac_at at;
    double tol;              /* allowed max |kernel - reference| / max |reference|; 0: 1e-5 */
} ac_case;

typedef struct ac_op {
    const char *name;
    int n_in, n_opt;     /* required, then optional inputs */
    unsigned flags;
    unsigned typed;      /* bit k: input k may be stored as f16 or bf16; other inputs are cast to f32 on the way in */
    unsigned ints;       /* bit k: input k is i32 */
    int act_code;        /* AC_ACT_* of an AC_OP_ACT */
    /* Checks inputs and attributes, sets shape and type; AC_POISON after ac_graph_fail, else anything else. */
    int (*infer)(ac_graph *g, ac_node *n);
    /* Gradient: emits nodes for gx[k], the gradient of input k (of its shape) given gy, that of y. All gx come in as AC_NONE and stay
     * so where there is none. Gradients that nobody needs are pruned, so a rule emits all of them. NULL: through lower. */
    void (*vjp)(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN]);
    /* The same value from other ops, for devices without a kernel of it and for gradients. NULL: is a primitive. */
    ac_id (*lower)(ac_graph *g, const ac_node *n);
    void (*ref)(const ac_ref *r);
    double (*flop)(const ac_graph *g, const ac_node *n); /* NULL: 0 */
    const ac_kern *kern; /* best first, ends with a NULL name; NULL: lowered or nothing to launch */
    const ac_case *cases; /* ends with a NULL name */
} ac_op;

#define OP(x) extern const ac_op ac_op_##x;
#include "ops/ops.def"
#undef OP

/* All ops, NULL at the end. */
extern const ac_op *const ac_ops[];

/* Is the stored type of this node smaller or other than the graph's weight type allows? Casts constants that are larger than the
 * weight type; other nodes are returned as they are. */
ac_id ac_stored(ac_graph *g, ac_id id);
/* Type to pack a matrix in: the weight type for constants, f32 for values computed at run time. */
ac_type ac_pack_type(const ac_graph *g, ac_id id);

#endif
