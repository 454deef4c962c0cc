/* vec.h - the CPU (`_vec`) family of the heavy ops: one work-item computes a register tile with wide vectors. */
#ifndef AC_VEC_H
#define AC_VEC_H

#include "graph/op.h"

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

/* In matmul.c, for every op with an epilogue: act(v + bias + row) + res for element i, batch element b, channel c. */
double ac_ref_epilogue(const ac_ref *r, double v, int64_t i, int64_t b, int64_t c);

#endif
