/* norm.h - what normalisation (norm.c) and its gradients (norm_grad.c) share. */
#ifndef AC_NORM_H
#define AC_NORM_H

#include "ops/ops.h"

/* A tensor [B, ..., C] as B images of P pixels. */
typedef struct ac_image {
    int64_t B, P, C;
} ac_image;

ac_image ac_image_of(const ac_shape *x);
/* Pixels that are summed as one: 64 channels of them, read twice, fit the cache of a core. */
enum { AC_NORM_CHUNK = 256 };
/* Rows of what moments_merge makes for every image and channel: y = act(x scale + shift), x^ = (x - mean) r. */
enum { AC_NORM_SCALE, AC_NORM_SHIFT, AC_NORM_MEAN, AC_NORM_R, AC_NORM_ROWS };

/* Those of group_norm(in[0] x, in[1] w, in[2] b) with its attributes, by the nodes that the forward pass makes too. */
ac_id ac_group_statistics(ac_graph *g, const ac_id *in, const ac_at *at);

/* The grid of kernels that go through `rows` pixels of C channels by vectors of vw lanes, and their last arguments:
 * vectors and pixels that a work-item takes. On CPUs runs of whole pixels, on GPUs one vector. */
void ac_pixel_grid(const ac_limits *lim, int vw, int64_t rows, int64_t C, ac_launch *l);
/* A work-group for each row, of -DWG items. */
void ac_row_groups(int64_t rows, ac_launch *l);
/* Do the kernels that use work-groups run here? */
bool ac_groups_accept(const ac_limits *lim, const ac_graph *g, const ac_node *n);

/* Gradients. Not differentiable themselves: where second derivatives are wanted, a normalisation is composed of
 * primitives. */
void ac_group_norm_vjp(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN]);
void ac_layer_norm_vjp(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN]);

#endif
