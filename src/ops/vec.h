/* vec.h - the CPU (`_vec`) family of the heavy ops: one work-item computes a register tile with wide vectors. */
#ifndef AC_VEC_H
#define AC_VEC_H

#include "graph/op.h"

/* ---- shared by the kernels' host sides */
enum { AC_ITEMS_PER_UNIT = 4 }; /* work-items that each compute unit should have at least, if the work allows it */
int ac_vec_rows(const ac_limits *lim);  /* of a register tile; see cl/common.h */
int ac_vec_panel(const ac_limits *lim); /* its columns */
/* What the epilogue of conv and matmul adds to a launch. */
void ac_vec_epilogue_defs(const ac_limits *lim, const ac_node *n, ac_launch *l);
void ac_vec_epilogue_args(const ac_node *n, ac_launch *l);
/* Input of a convolution's kernel: zeros that stand for pixels outside. */
enum { AC_VEC_ZEROS = 5 };
void ac_vec_zeros(ac_graph *g, ac_node *n);
void ac_one_item_grid(ac_launch *l, int64_t x, int64_t y, int64_t z); /* work-groups of one work-item */

bool ac_matmul_vec_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_matmul_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_matmul_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
bool ac_matmul_tn_vec_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_matmul_tn_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);

bool ac_conv_vec_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
void ac_conv_bx_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_bx_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
void ac_conv_bw_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_bw_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);

/* ---- winograd.c: conv, conv_bx and conv_bw of 3x3 and 1x9 filters at stride 1 */
bool ac_conv_winograd_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_winograd_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_winograd_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
bool ac_conv_bx_winograd_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_bx_winograd_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_bx_winograd_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
bool ac_conv_bw_winograd_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_bw_winograd_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_bw_winograd_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);

/* In matmul.c, for every op with an epilogue: act(v + bias + row) + res for element i, batch element b, channel c. */
double ac_ref_epilogue(const ac_ref *r, double v, int64_t i, int64_t b, int64_t c);

#endif
