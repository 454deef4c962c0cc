/* tile.h - the GPU (`_tile`) family of the heavy ops: a work-group shares a tile through local memory; and the family
 * for every device (`_any`): a work-item computes one element. Kernels: cl/gemm_tile.cl, cl/attn_tile.cl. */
#ifndef AC_TILE_H
#define AC_TILE_H

#include "graph/op.h"

bool ac_matmul_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_matmul_tile_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_matmul_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
bool ac_matmul_any_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_matmul_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);

bool ac_conv_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_tile_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
bool ac_conv_any_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_any_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);

bool ac_conv_bx_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_bx_tile_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_conv_bx_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
void ac_conv_bx_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
bool ac_conv_bw_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_bw_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
bool ac_conv_bw_any_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_conv_bw_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);

/* Attention needs no preparation, and attn_any accepts every node. */
bool ac_attn_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_attn_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
void ac_attn_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);

#endif
