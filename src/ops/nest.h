/* nest.h - kernels that go over y row by row: joined dimensions, steps of the operands, the cut into work-items. */
#ifndef AC_NEST_H
#define AC_NEST_H

#include "graph/op.h"

/* y as d[0] x d[1] x d[2] rows of d[3] elements, and the steps, in elements, of its operands along each; 0 where one
 * repeats. */
typedef struct ac_nest {
    int64_t d[AC_DIMS], step[2][AC_DIMS];
} ac_nest;

/* Shape y, and operand k of shape x, which broadcasts to y: the shapes are aligned at the right. */
void ac_nest_init(ac_nest *t, const ac_shape *y);
void ac_nest_operand(ac_nest *t, int k, const ac_shape *x);
/* Joins dimensions that every operand walks like one, so that rows are as long as can be. */
void ac_nest_join(ac_nest *t);
int64_t ac_nest_rows(const ac_nest *t);
/* Arguments: d[1], d[2] and the steps of the first `operands` along the three outer dimensions. */
void ac_nest_args(const ac_nest *t, int operands, ac_launch *l);

/* Defines VW and SPAN and sets the grid of a kernel that goes over `count` elements one by one: a work-item takes SPAN
 * vectors, a long piece of memory on CPUs, one vector on GPUs, where neighbours then read neighbouring memory. */
void ac_run_grid(const ac_limits *lim, int64_t count, ac_launch *l);
/* The same for a tensor [rows, n], in blocks; adds the kernel's last arguments, GRID_PARAMS in cl/common.h. */
void ac_rows_grid(const ac_limits *lim, int64_t rows, int64_t n, ac_launch *l);

#endif
