/* mm.h - sizes and strides of products and convolutions, as their kernels take them. */
#ifndef AC_MM_H
#define AC_MM_H

#include "ops/ops.h"

/* y[g][m,n] = sum_k a[g a_batch + m a_row + k a_k] b[g b_batch + n b_n + k b_k]; strides in elements, b_batch 0:
 * shared. */
typedef struct ac_mm {
    int64_t batch, M, N, K;
    int64_t a_row, a_k, a_batch, b_n, b_k, b_batch, y_batch;
    int row_span; /* rows of all products per element of the row input's batch: row[m / row_span] */
} ac_mm;
void ac_matmul_dims(const ac_graph *g, const ac_node *n, ac_mm *d);
/* Should a long sum of few outputs be lowered to a sum of parts, to keep a device with these limits busy? No kernel
 * accepts it then. */
bool ac_matmul_in_parts(const ac_limits *lim, const ac_graph *g, const ac_node *n);

/* The input [B,H,W,C] is resampled to [up_h,up_w] (0: not), padded by top and left, filtered [K,C,R,S] to [B,OH,OW,K].
 */
typedef struct ac_cv {
    int B, H, W, C, K, R, S, OH, OW;
    int stride, top, left;
    int up_h, up_w;
} ac_cv;
void ac_conv_dims(const ac_graph *g, const ac_node *n, ac_cv *d);
/* The same of a convolution's gradients: x [B,H,W,C], not resampled, w [K,C,R,S] and gy [B,OH,OW,K] are those of the
 * forward pass. */
void ac_conv_bx_dims(const ac_graph *g, const ac_node *n, ac_cv *d);
void ac_conv_bw_dims(const ac_graph *g, const ac_node *n, ac_cv *d);
/* The gradient of an input as a convolution of gy, in d: by the reversed filters, then it returns 0; or, of a stride
 * above 1, a convolution for each of stride^2 phases of pixels, then it returns the stride and leaves the forward
 * pass's padding in d. See cl/common.h. */
int ac_conv_bx_as_conv(const ac_graph *g, const ac_node *n, ac_cv *d);
/* The tap r S + s that comes at a place of the filters packed for that; phase: stride, padding at top and left. */
int64_t ac_conv_bx_tap(int64_t place, int R, int S, const int32_t phase[3]);
/* Of the ops that pack filters: where in at.i the stride stands, if they are packed for the gradient of an input; else 0. */
enum { AC_PACK_STRIDE = 4 };
bool ac_packs_forward(const ac_limits *lim, const ac_graph *g, const ac_node *n);
bool ac_packs_backward(const ac_limits *lim, const ac_graph *g, const ac_node *n);
/* Parts of the pixels for each of which this gradient of filters is made. */
int64_t ac_conv_bw_parts(const ac_node *n);
/* Should a long sum of few outputs be lowered to a sum of parts, to keep a device with these limits busy? No kernel
 * accepts it then. */
bool ac_conv_bw_in_parts(const ac_limits *lim, const ac_node *n);

/* Where matmul's and conv's attributes lie in at.i. */
enum { AC_MM_TA, AC_MM_TB, AC_MM_GEGLU };
enum {
    AC_CV_STRIDE,
    AC_CV_TOP,
    AC_CV_LEFT,
    AC_CV_BOTTOM,
    AC_CV_RIGHT,
    AC_CV_UP_H,
    AC_CV_UP_W,
    AC_CV_K,
    AC_CV_R,
    AC_CV_S
};
/* Of conv_bx: size of the input. Of conv_bw: size of gy, its batch, parts (0: one). */
enum { AC_BX_H = AC_CV_UP_H, AC_BX_W = AC_CV_UP_W };
enum { AC_BW_OH = AC_CV_UP_H, AC_BW_OW = AC_CV_UP_W, AC_BW_B = AC_CV_K, AC_BW_PARTS = AC_AT_CLOSED };
/* Stride and padding of a node of conv, conv_bx or conv_bw; no resampling. */
ac_conv_at ac_conv_geometry(const ac_node *n);

#endif
