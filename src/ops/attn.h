/* attn.h - what the files of attention and its gradient share. */
#ifndef AC_ATTN_H
#define AC_ATTN_H

#include "graph/op.h"

/* at.i of attention, attn_bq and attn_bkv; at.f[0]: scale. The number of keys is kept because a kernel may replace the
 * keys by packed ones. */
enum { AC_ATTN_HEADS, AC_ATTN_CAUSAL, AC_ATTN_KEYS, AC_ATTN_PARTS };

/* Images, queries, keys, heads, columns of a head, all columns; parts of the queries. */
typedef struct ac_attn {
    int64_t B, T, S, E, D, C, parts;
} ac_attn;

ac_attn ac_attn_dims(const ac_graph *g, const ac_node *n);
/* Queries of a part; the last may have fewer, or none. */
int64_t ac_attn_span(const ac_attn *d);
/* Two products of all queries with all keys. */
double ac_attn_flop(const ac_graph *g, const ac_node *n);
/* Factor of the scores for kernels that compute powers of two. */
double ac_attn_scale2(const ac_node *n);

/* attn_vec.c: kernels for CPUs. */
bool ac_attn_cpu_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n);
void ac_attn_cpu_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_attn_cpu_grad_prep(const ac_limits *lim, ac_graph *g, ac_node *n);
void ac_attn_cpu_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);
void ac_attn_cpu_bkv_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l);

#endif
