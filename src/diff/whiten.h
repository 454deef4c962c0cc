/* whiten.h - the map that makes features uncorrelated and of variance 1, in double precision on the host. */
#ifndef AC_WHITEN_H
#define AC_WHITEN_H

#include "base/mem.h"

/* Sums over rows of d numbers. */
typedef struct ac_whitener {
    size_t n, d;
    double *sum, *gram; /* [d], [d,d] */
    double *work;       /* of a batch of rows */
    size_t room;        /* in work */
} ac_whitener;

AC_CHECK_RESULT int ac_whitener_open(size_t d, ac_diag *dg, ac_whitener *w);
void ac_whitener_close(ac_whitener *w);
/* Counts n rows in, row [n,d]. */
AC_CHECK_RESULT int ac_whitener_add(ac_whitener *w, const float *row, size_t n, ac_diag *dg);
/* weight [d,d] and bias [d] of y = weight x + bias. With mean m and covariance V E V^T of the rows, weight = V (E + e)^(-1/2) V^T,
 * symmetric (ZCA), e the share `floor` of the mean eigenvalue: directions that hardly vary are not raised without limit.
 * At least 2 rows. */
AC_CHECK_RESULT int ac_whitener_map(const ac_whitener *w, double floor, ac_diag *dg, float *weight, float *bias);

#endif
