/* metrics.h - how far generated pictures are from real ones, in double precision on the host.
 *
 * Features are rows of d numbers, one row a picture. Scores of different numbers of pictures, or of different features, do
 * not compare. */
#ifndef AC_METRICS_H
#define AC_METRICS_H

#include "base/mem.h"

typedef struct ac_feature_set {
    const float *row; /* [n,d] */
    size_t n, d;
} ac_feature_set;

/* Eigenvalues [d] of the symmetric a [d,d], which becomes its eigenvectors, one a column, when they are wanted. */
AC_CHECK_RESULT int ac_eigen(bool vectors, int d, double *a, double *value, ac_diag *dg);

/* Squared Frechet distance of the two normal distributions with the rows' means and covariances (divisor n - 1), which is
 * FID (Heusel et al. 2017) on features of Inception. Nothing is added to the diagonals: with fewer rows than features it is
 * a distance, too, but larger than that of many rows. At least 2 rows each. */
AC_CHECK_RESULT int ac_frechet(const ac_feature_set *real, const ac_feature_set *fake, ac_diag *dg, double *distance);

/* Kernel distance (Binkowski et al. 2018): the unbiased estimate of the squared maximum mean discrepancy under the kernel
 * (x.y / d + 1)^3, over rows ri[0..m) of real and fi[0..m) of fake (NULL: the first m), m >= 2. */
AC_CHECK_RESULT int ac_mmd(const ac_feature_set *real, const size_t *ri, const ac_feature_set *fake, const size_t *fi, size_t m,
                           ac_diag *dg, double *value);
/* Its mean and population deviation over 100 random subsets of min(1000, n of both) rows. */
AC_CHECK_RESULT int ac_kid(const ac_feature_set *real, const ac_feature_set *fake, uint64_t seed, ac_diag *dg, double *mean, double *deviation);

/* Precision and recall (Kynkaanniemi et al. 2019): the share of fake rows that lie within the ball of a real row to its k-th
 * nearest other one, and the converse. More than k rows each. */
AC_CHECK_RESULT int ac_precision_recall(const ac_feature_set *real, const ac_feature_set *fake, int k, ac_diag *dg, double *precision,
                                        double *recall);

/* Mean cosine of row i of one and row i of the other; of as many rows and features each. */
double ac_mean_cosine(const ac_feature_set *a, const ac_feature_set *b);

/* Of two pictures' bytes [height,width,channels]: mean squared error, and from it the ratio of the peak to it in dB (infinite for
 * equal pictures). */
double ac_mse(const uint8_t *a, const uint8_t *b, size_t n);
double ac_psnr(double mse);
/* Structural similarity (Wang et al. 2004): Gaussian window of 11 x 11, sigma 1.5, K 0.01 and 0.03, where it lies inside, mean
 * over the channels. Both sides at least 11. */
AC_CHECK_RESULT int ac_ssim(const uint8_t *a, const uint8_t *b, int height, int width, int channels, ac_diag *dg, double *value);

/* Brightness of a pixel: 0.299 R + 0.587 G + 0.114 B, in 0..1. */
float ac_luma(const uint8_t rgb[3]);
/* Means over rings of a picture's power [height,width], as a Fourier transform leaves it: the ring of (ky, kx) is
 * round(m sqrt((ky / height)^2 + (kx / width)^2)) with m the shorter side and signed ky, kx. ring: m / 2 + 1 values; what lies
 * beyond m / 2 is left out. */
AC_CHECK_RESULT int ac_rings(const float *power, int height, int width, ac_diag *dg, double *ring);

#endif
