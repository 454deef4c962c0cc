/* ops.h - builders: one call makes one node. y = op(inputs..., attributes); shapes as in graph.h. */
#ifndef AC_OPS_H
#define AC_OPS_H

#include "graph/op.h"

/* ---- leaves and views */
ac_id ac_reshape(ac_graph *g, ac_id x, ac_shape s);    /* same number of elements; one dimension may be -1 */
ac_id ac_cast(ac_graph *g, ac_id x, ac_type t);
ac_id ac_stop(ac_graph *g, ac_id x);                   /* x, through which no gradient passes */
ac_id ac_fill(ac_graph *g, ac_shape s, double value);  /* a constant tensor */

/* ---- elementwise. Binary ops broadcast as NumPy does: shapes are aligned at the right, dimensions of 1 repeat. */
ac_id ac_add(ac_graph *g, ac_id a, ac_id b);
ac_id ac_sub(ac_graph *g, ac_id a, ac_id b);
ac_id ac_mul(ac_graph *g, ac_id a, ac_id b);
ac_id ac_div(ac_graph *g, ac_id a, ac_id b);
ac_id ac_scale(ac_graph *g, ac_id x, double a, double b); /* a x + b */
ac_id ac_exp(ac_graph *g, ac_id x);
ac_id ac_log(ac_graph *g, ac_id x);
ac_id ac_sqrt(ac_graph *g, ac_id x);
ac_id ac_tanh(ac_graph *g, ac_id x);
ac_id ac_sigmoid(ac_graph *g, ac_id x);
ac_id ac_relu(ac_graph *g, ac_id x);
ac_id ac_silu(ac_graph *g, ac_id x);
ac_id ac_gelu(ac_graph *g, ac_id x);       /* x Phi(x), by erf */
ac_id ac_quick_gelu(ac_graph *g, ac_id x); /* x sigmoid(1.702 x) */
ac_id ac_clamp(ac_graph *g, ac_id x, double lo, double hi);
ac_id ac_geglu(ac_graph *g, ac_id x);      /* [..., 2N] -> [..., N]: first half times gelu of the second */
ac_id ac_leaky_relu(ac_graph *g, ac_id x, double slope); /* x or, where x <= 0, slope x; slope >= 0 */
ac_id ac_pow(ac_graph *g, ac_id x, double p);            /* of x > 0 */
ac_id ac_abs(ac_graph *g, ac_id x);

/* Derivatives in one pass: gy f'(x), both of one shape. That of the ReLUs may be given y or x. At a corner the derivative is that on
 * the left; of abs it is 0, of clamp 1. */
ac_id ac_leaky_relu_bx(ac_graph *g, ac_id y, ac_id gy, double slope);
ac_id ac_clamp_bx(ac_graph *g, ac_id x, ac_id gy, double lo, double hi);
ac_id ac_abs_bx(ac_graph *g, ac_id x, ac_id gy);
ac_id ac_silu_bx(ac_graph *g, ac_id x, ac_id gy);
ac_id ac_gelu_bx(ac_graph *g, ac_id x, ac_id gy);
ac_id ac_quick_gelu_bx(ac_graph *g, ac_id x, ac_id gy);
ac_id ac_geglu_bx(ac_graph *g, ac_id x, ac_id gy); /* [..., 2N], [..., N] -> [..., 2N] */

/* ---- reductions */
ac_id ac_sum(ac_graph *g, ac_id x, unsigned axes); /* bit k: dimension k, which stays as 1 */
ac_id ac_mean(ac_graph *g, ac_id x, unsigned axes); /* losses: the mean of ac_mul(d, d), of ac_abs(d), ... over all axes */
ac_id ac_sum_to(ac_graph *g, ac_id x, ac_shape s);  /* to shape s, which would broadcast to that of x: what it repeats is summed */
ac_id ac_broadcast(ac_graph *g, ac_id x, ac_shape s);
ac_id ac_softmax(ac_graph *g, ac_id x);            /* over the last dimension */
ac_id ac_softmax_bx(ac_graph *g, ac_id y, ac_id gy); /* y (gy - sum(gy y)) */

/* ---- movement */
ac_id ac_transpose(ac_graph *g, ac_id x, int p0, int p1, int p2, int p3); /* y's dimension k is x's dimension pk; unused: -1 */
ac_id ac_slice(ac_graph *g, ac_id x, int axis, int64_t from, int64_t n);
ac_id ac_concat(ac_graph *g, ac_id a, ac_id b, int axis);
ac_id ac_pad(ac_graph *g, ac_id x, int axis, int before, int after);      /* zeros */
ac_id ac_resample(ac_graph *g, ac_id x, int64_t h, int64_t w);            /* [B,H,W,C] nearest: source = floor(i in / out) */
ac_id ac_resample_bx(ac_graph *g, ac_id gy, int64_t h, int64_t w);        /* its adjoint: sums [B,H,W,C] back to [B,h,w,C] */

/* ---- embeddings and noise */
ac_id ac_embed(ac_graph *g, ac_id table, ac_id ids);        /* [V,C], [B,T] -> [B,T,C] */
ac_id ac_embed_bx(ac_graph *g, ac_id ids, ac_id gy, int64_t rows); /* [B,T], [B,T,C] -> [rows,C]: the table's gradient */
ac_id ac_time_embed(ac_graph *g, ac_id t, int dim, bool flip, double shift); /* [B] -> [B,dim]: sin, cos; flip: cos, sin */
ac_id ac_randn(ac_graph *g, ac_id key, ac_shape s);         /* key: i32 [4] = seed lo, seed hi, stream, 0; Philox4x32-10 */

/* ---- normalisation */
ac_id ac_group_norm(ac_graph *g, ac_id x, ac_id w, ac_id b, int groups, double eps, int act); /* x [B,...,C] */
ac_id ac_layer_norm(ac_graph *g, ac_id x, ac_id w, ac_id b, double eps);                      /* over the last dimension */

/* ---- products */
/* a [...,M,K] (ta: [...,K,M]) times b [K,N] (tb: [N,K]), or batched with b [...,K,N] of the same leading dimensions. */
ac_id ac_matmul(ac_graph *g, ac_id a, ac_id b, bool ta, bool tb);
/* x [...,K] times a layer's w [N,K], plus bias [N] (AC_NONE: none), then act. */
ac_id ac_linear(ac_graph *g, ac_id x, ac_id w, ac_id bias, int act);
/* geglu(x w^T + bias), w [2N,K]. */
ac_id ac_linear_geglu(ac_graph *g, ac_id x, ac_id w, ac_id bias);

/* Geometry of a convolution; output size follows. */
typedef struct ac_conv_at {
    int stride;                  /* 1, 2, ...; 0: 1 */
    int top, left, bottom, right; /* zero padding */
    int64_t up_h, up_w;          /* the input is first resampled (nearest) to this size; 0: not */
} ac_conv_at;
ac_id ac_conv(ac_graph *g, ac_id x, ac_id w, ac_id bias, ac_conv_at at); /* x [B,H,W,C], w [K,C,R,S] */
/* Its gradients, given gy [B,OH,OW,K], that of its output: of the input [B,height,width,C] as the filters see it, resampled
 * (up_h and up_w are not read here), and of the filters [K,C,r,s]. */
ac_id ac_conv_bx(ac_graph *g, ac_id gy, ac_id w, ac_conv_at at, int64_t height, int64_t width);
ac_id ac_conv_bw(ac_graph *g, ac_id x, ac_id gy, ac_conv_at at, int64_t r, int64_t s);

/* q [B,T,E*D], k and v [B,S,E*D] -> [B,T,E*D]; softmax(q k^T scale) v for each of E heads. causal: query t sees keys <= t. */
ac_id ac_attention(ac_graph *g, ac_id q, ac_id k, ac_id v, int heads, bool causal);
/* Gradients of q, k and v, given in = q, k, v, y, gy and the attributes of the node y. */
void ac_attention_grad(ac_graph *g, const ac_id in[5], const ac_at *forward, ac_id gx[3]);

/* ---- optimiser: effects on variables (ac_state), none has a gradient */
/* Elements of an input [AC_HYPERS] that changes from step to step. Small complements are stored, which f32 could not give by
 * subtraction. */
enum {
    AC_HYPER_LR,
    AC_HYPER_EPS,
    AC_HYPER_DECAY,    /* of weights */
    AC_HYPER_MEAN,     /* 1 - beta1 */
    AC_HYPER_BETA2,
    AC_HYPER_SQUARE,   /* 1 - beta2 */
    AC_HYPER_CORRECT1, /* 1 / (1 - beta1^step) */
    AC_HYPER_CORRECT2, /* 1 / (1 - beta2^step) */
    AC_HYPER_EMA,      /* 1 - decay of the average */
    AC_HYPER_FACTOR,   /* multiplies gradients; negative or not finite: nothing is updated */
    AC_HYPERS
};
typedef struct ac_adam_cfg {
    double lr, beta1, beta2, eps, decay, ema;
} ac_adam_cfg;
/* The values of step 1, 2, ..., with factor 1. */
void ac_adam_hyper(const ac_adam_cfg *c, int64_t step, float h[AC_HYPERS]);

typedef struct ac_adam_in {
    ac_id p, grad, m, v; /* m, v: moments, 0 at first */
    ac_id ema;           /* moving average of p; AC_NONE: none */
    ac_id hyper;
    double rate;         /* multiplies the learning rate */
    bool decoupled;      /* AdamW: decay shrinks p by lr decay p; else it is added to the gradient */
} ac_adam_in;
/* One step as PyTorch makes it (eps is added to the root of the corrected second moment), then the average; the new p. */
ac_id ac_adam(ac_graph *g, const ac_adam_in *a);
/* [1]: the sum of the squares of all elements of n tensors. */
ac_id ac_sum_squares(ac_graph *g, const ac_id *x, int n);
/* hyper with its factor f made smaller where gradients of square sum `total` are longer than `largest` (0: never): f min(1, largest /
 * (f sqrt(total) + 1e-6)), and NaN where total is not finite. */
ac_id ac_clip_factor(ac_graph *g, ac_id hyper, ac_id total, double largest);
ac_id ac_accumulate(ac_graph *g, ac_id y, ac_id x, double scale); /* y += scale x; the new y */
ac_id ac_store(ac_graph *g, ac_id y, ac_id x);                    /* y = x */

/* ---- what several families share */
/* Lanes of vectors in a kernel's source: full ones on CPUs, `gpu` on GPUs, where 1 lets neighbours read one beside the other. */
int ac_lanes(const ac_limits *lim, int gpu);
/* One operation for each element of the first input, or of the output: of ops where what counts is memory. */
double ac_flop_in(const ac_graph *g, const ac_node *n);
double ac_flop_out(const ac_graph *g, const ac_node *n);

#endif
