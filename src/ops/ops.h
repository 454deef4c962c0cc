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

/* ---- reductions */
ac_id ac_sum(ac_graph *g, ac_id x, unsigned axes); /* bit k: dimension k, which stays as 1 */
ac_id ac_mean(ac_graph *g, ac_id x, unsigned axes);
ac_id ac_softmax(ac_graph *g, ac_id x);            /* over the last dimension */

/* ---- movement */
ac_id ac_transpose(ac_graph *g, ac_id x, int p0, int p1, int p2, int p3); /* y's dimension k is x's dimension pk; unused: -1 */
ac_id ac_slice(ac_graph *g, ac_id x, int axis, int64_t from, int64_t n);
ac_id ac_concat(ac_graph *g, ac_id a, ac_id b, int axis);
ac_id ac_pad(ac_graph *g, ac_id x, int axis, int before, int after);      /* zeros */
ac_id ac_resample(ac_graph *g, ac_id x, int64_t h, int64_t w);            /* [B,H,W,C] nearest: source = floor(i in / out) */

/* ---- embeddings and noise */
ac_id ac_embed(ac_graph *g, ac_id table, ac_id ids);        /* [V,C], [B,T] -> [B,T,C] */
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

/* q [B,T,E*D], k and v [B,S,E*D] -> [B,T,E*D]; softmax(q k^T scale) v for each of E heads. causal: query t sees keys <= t. */
ac_id ac_attention(ac_graph *g, ac_id q, ac_id k, ac_id v, int heads, bool causal);

#endif
