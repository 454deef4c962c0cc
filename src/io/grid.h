/* grid.h - sheets of samples. */
#ifndef AC_GRID_H
#define AC_GRID_H

#include "base/mem.h"

/* Writes n > 0 pictures [n,height,width,3] of floats in [-1,1] (others are clipped) as one PNG with narrow gaps, row by
 * row in `columns` columns (0: near square). */
AC_CHECK_RESULT int ac_grid_png(const char *path, const float *rgb, size_t n, int width, int height, int columns,
                                ac_diag *dg);

#endif
