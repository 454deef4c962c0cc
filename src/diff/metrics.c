/* metrics.c - see metrics.h. */
#include "diff/metrics.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

/* Rows of a set as doubles; index NULL: the first m. */
static double *doubles(const ac_feature_set *s, const size_t *index, size_t m)
{
    double *x = ac_calloc(m * s->d, sizeof *x);

    for (size_t i = 0; x && i < m; i++)
        for (size_t k = 0; k < s->d; k++)
            x[i * s->d + k] = (double)s->row[(index ? index[i] : i) * s->d + k];
    return x;
}

/* Can BLAS count it? */
static int check(const ac_feature_set *a, const ac_feature_set *b, size_t least, ac_diag *dg)
{
    if (a->d != b->d)
        return ac_fail(dg, ADDCL_E_ARG, "features of %zu and of %zu numbers do not compare", a->d, b->d);
    if (a->n < least || b->n < least)
        return ac_fail(dg, ADDCL_E_ARG, "%zu and %zu pictures are too few, at least %zu are needed", a->n, b->n, least);
    if (a->n > INT32_MAX || b->n > INT32_MAX || a->d > 65536)
        return ac_fail(dg, ADDCL_E_ARG, "%zu and %zu pictures of %zu features are too many", a->n, b->n, a->d);
    return 0;
}

/* ------------------------------------------------------------------------------------------ Frechet distance */

/* Mean [d] and covariance [d,d] of the rows. */
static int moments(const ac_feature_set *s, ac_diag *dg, double *mean, double *cov)
{
    double *x = doubles(s, NULL, s->n);
    int d = (int)s->d;

    if (!x)
        return ac_nomem(dg, s->n * s->d * sizeof *x);
    memset(mean, 0, s->d * sizeof *mean);
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < s->d; k++)
            mean[k] += x[i * s->d + k] / (double)s->n;
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < s->d; k++)
            x[i * s->d + k] -= mean[k];
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, d, d, (int)s->n, 1 / (double)(s->n - 1), x, d, x, d, 0, cov, d);
    free(x);
    return 0;
}

int ac_eigen(bool vectors, int d, double *a, double *value, ac_diag *dg)
{
    lapack_int info = LAPACKE_dsyevd(LAPACK_ROW_MAJOR, vectors ? 'V' : 'N', 'U', d, a, d, value);

    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return ac_nomem(dg, (size_t)d * (size_t)d * 4 * sizeof *a);
    return info ? ac_fail(dg, ADDCL_E_ARG, "the covariance of the features has no eigenvalues: are there values that are not finite?") : 0;
}

/* Trace of (r f)^(1/2) as that of (r^(1/2) f r^(1/2))^(1/2), which is symmetric. r, f and the two others are [d,d]; r and f are
 * overwritten. */
static int trace_of_root(int d, double *r, const double *f, double *root, double *work, double *value, ac_diag *dg, double *trace)
{
    int rc = ac_eigen(true, d, r, value, dg);

    if (rc < 0)
        return rc;
    for (int i = 0; i < d; i++)
        for (int k = 0; k < d; k++)
            work[i * d + k] = r[i * d + k] * sqrt(sqrt(fmax(value[k], 0)));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, d, d, d, 1, work, d, work, d, 0, root, d);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, d, d, d, 1, root, d, f, d, 0, work, d);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, d, d, d, 1, work, d, root, d, 0, r, d);
    rc = ac_eigen(false, d, r, value, dg);
    *trace = 0;
    for (int i = 0; i < d && rc == 0; i++)
        *trace += sqrt(fmax(value[i], 0));
    return rc;
}

int ac_frechet(const ac_feature_set *real, const ac_feature_set *fake, ac_diag *dg, double *distance)
{
    size_t d = real->d, square = d * d;
    double *all = NULL, *r, *f, *mean, trace;
    int rc;

    AC_TRY(check(real, fake, 2, dg));
    all = ac_calloc(4 * square + 3 * d, sizeof *all);
    if (!all) {
        rc = ac_nomem(dg, 4 * square * sizeof *all);
        goto out;
    }
    r = all;
    f = r + square;
    mean = all + 4 * square;
    AC_TRY(moments(real, dg, mean, r));
    AC_TRY(moments(fake, dg, mean + d, f));
    *distance = 0;
    for (size_t k = 0; k < d; k++)
        *distance += (mean[k] - mean[d + k]) * (mean[k] - mean[d + k]) + r[k * d + k] + f[k * d + k];
    AC_TRY(trace_of_root((int)d, r, f, f + square, f + 2 * square, mean + 2 * d, dg, &trace));
    *distance = fmax(*distance - 2 * trace, 0);
out:
    free(all);
    return rc;
}

/* ------------------------------------------------------------------------------------------ kernel distance */

/* Sum of the kernel over all pairs of rows of a and b [m,d], without those of a row with itself when a is b. work [m,m] */
static double kernel_sum(const double *a, const double *b, size_t m, size_t d, double *work)
{
    double sum = 0;

    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)m, (int)d, 1 / (double)d, a, (int)d, b, (int)d, 0, work, (int)m);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < m; j++)
            if (a != b || i != j) {
                double k = work[i * m + j] + 1;
                sum += k * k * k;
            }
    return sum;
}

int ac_mmd(const ac_feature_set *real, const size_t *ri, const ac_feature_set *fake, const size_t *fi, size_t m, ac_diag *dg, double *value)
{
    double *r = NULL, *f = NULL, *work = NULL;
    int rc;

    AC_TRY(check(real, fake, 2, dg));
    r = doubles(real, ri, m);
    f = doubles(fake, fi, m);
    work = ac_calloc(m * m, sizeof *work);
    if (!r || !f || !work)
        rc = ac_nomem(dg, m * (m + 2 * real->d) * sizeof *work);
    else
        *value = (kernel_sum(r, r, m, real->d, work) + kernel_sum(f, f, m, real->d, work)) / ((double)m * (double)(m - 1)) -
                 2 * kernel_sum(r, f, m, real->d, work) / ((double)m * (double)m);
out:
    free(r);
    free(f);
    free(work);
    return rc;
}

/* The first m of a random order of 0..n-1. */
static void draw(uint64_t *state, size_t *index, size_t n, size_t m)
{
    for (size_t i = 0; i < n; i++)
        index[i] = i;
    for (size_t i = 0; i < m; i++) {
        size_t j = i + (size_t)(ac_mix_uniform(state) * (double)(n - i)), at = index[i];
        index[i] = index[j];
        index[j] = at;
    }
}

int ac_kid(const ac_feature_set *real, const ac_feature_set *fake, uint64_t seed, ac_diag *dg, double *mean, double *deviation)
{
    enum { SUBSETS = 100, ROWS = 1000 };
    size_t m = AC_MIN(AC_MIN(real->n, fake->n), (size_t)ROWS), *ri = ac_calloc(real->n, sizeof *ri), *fi = ac_calloc(fake->n, sizeof *fi);
    double value[SUBSETS], square = 0;
    int rc = ri && fi ? 0 : ac_nomem(dg, (real->n + fake->n) * sizeof *ri);

    *mean = *deviation = 0;
    for (int k = 0; k < SUBSETS && rc == 0; k++) {
        draw(&seed, ri, real->n, m);
        draw(&seed, fi, fake->n, m);
        if ((rc = ac_mmd(real, ri, fake, fi, m, dg, &value[k])) == 0)
            *mean += value[k] / SUBSETS;
    }
    for (int k = 0; k < SUBSETS && rc == 0; k++)
        square += (value[k] - *mean) * (value[k] - *mean) / SUBSETS;
    *deviation = sqrt(square);
    free(ri);
    free(fi);
    return rc;
}

/* ------------------------------------------------------------------------------------------ precision and recall */

enum { CHUNK = 256 }; /* rows whose distances are made together */

/* Squared distances of rows i0 .. i0+n-1 of a from all rows of b, [n, nb]. */
static void distances(const double *a, size_t i0, size_t n, const double *b, size_t nb, size_t d, const double *a2, const double *b2, double *out)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)nb, (int)d, -2, a + i0 * d, (int)d, b, (int)d, 0, out, (int)nb);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < nb; j++)
            out[i * nb + j] += a2[i0 + i] + b2[j];
}

/* The k-th smallest of n > k values, k from 0: the first k + 1 become the smallest, in order. k is small. */
static double smallest(double *x, size_t n, size_t k)
{
    for (size_t i = 1; i < n; i++) {
        double v = x[i];
        size_t j = AC_MIN(i, k);
        if (i > k && !(v < x[k]))
            continue;
        for (; j > 0 && v < x[j - 1]; j--)
            x[j] = x[j - 1];
        x[j] = v;
    }
    return x[k];
}

/* Squared radius of each row's ball: the distance from its k-th nearest other row. work [CHUNK,n] */
static void radii(const double *x, size_t n, size_t d, const double *x2, int k, double *work, double *radius)
{
    for (size_t i0 = 0; i0 < n; i0 += CHUNK) {
        size_t rows = AC_MIN((size_t)CHUNK, n - i0);
        distances(x, i0, rows, x, n, d, x2, x2, work);
        for (size_t i = 0; i < rows; i++) {
            double *row = work + i * n;
            row[i0 + i] = -1; /* itself comes first */
            radius[i0 + i] = smallest(row, n, (size_t)k);
        }
    }
}

/* Share of the rows of x that lie within a ball of a row of `of`. work [CHUNK,n_of] */
static double share_inside(const double *x, size_t n, const double *x2, const double *of, size_t n_of, const double *of2, const double *radius, size_t d,
                           double *work)
{
    size_t inside = 0;

    for (size_t i0 = 0; i0 < n; i0 += CHUNK) {
        size_t rows = AC_MIN((size_t)CHUNK, n - i0);
        distances(x, i0, rows, of, n_of, d, x2, of2, work);
        for (size_t i = 0; i < rows; i++) {
            size_t j = 0;
            while (j < n_of && !(work[i * n_of + j] <= radius[j]))
                j++;
            inside += j < n_of;
        }
    }
    return (double)inside / (double)n;
}

static void squares(const double *x, size_t n, size_t d, double *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = cblas_ddot((int)d, x + i * d, 1, x + i * d, 1);
}

int ac_precision_recall(const ac_feature_set *real, const ac_feature_set *fake, int k, ac_diag *dg, double *precision, double *recall)
{
    size_t most = AC_MAX(real->n, fake->n), d = real->d;
    double *r = NULL, *f = NULL, *own = NULL, *r2, *f2, *radius, *work;
    int rc;

    AC_TRY(check(real, fake, (size_t)k + 1, dg));
    r = doubles(real, NULL, real->n);
    f = doubles(fake, NULL, fake->n);
    own = ac_calloc(most * (3 + CHUNK), sizeof *own);
    if (!r || !f || !own) {
        rc = ac_nomem(dg, most * (3 + CHUNK + 2 * d) * sizeof *own);
        goto out;
    }
    r2 = own;
    f2 = r2 + most;
    radius = f2 + most;
    work = radius + most;
    squares(r, real->n, d, r2);
    squares(f, fake->n, d, f2);
    radii(r, real->n, d, r2, k, work, radius);
    *precision = share_inside(f, fake->n, f2, r, real->n, r2, radius, d, work);
    radii(f, fake->n, d, f2, k, work, radius);
    *recall = share_inside(r, real->n, r2, f, fake->n, f2, radius, d, work);
out:
    free(r);
    free(f);
    free(own);
    return rc;
}

/* ------------------------------------------------------------------------------------------ pairs */

double ac_mean_cosine(const ac_feature_set *a, const ac_feature_set *b)
{
    double sum = 0;

    for (size_t i = 0; i < a->n; i++) {
        double ab = 0, aa = 0, bb = 0;
        for (size_t k = i * a->d; k < (i + 1) * a->d; k++) {
            ab += (double)a->row[k] * (double)b->row[k];
            aa += (double)a->row[k] * (double)a->row[k];
            bb += (double)b->row[k] * (double)b->row[k];
        }
        sum += aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
    }
    return a->n ? sum / (double)a->n : 0;
}

double ac_mse(const uint8_t *a, const uint8_t *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)((a[i] - b[i]) * (a[i] - b[i]));
    return n ? sum / (double)n : 0;
}

double ac_psnr(double mse)
{
    return mse > 0 ? 10 * log10(255.0 * 255.0 / mse) : (double)INFINITY;
}

enum { WINDOW = 11 };

/* Weighted sums of a window along a row or a column of values `stride` apart. */
static double windowed(const double *x, size_t stride, const double *weight)
{
    double sum = 0;

    for (size_t k = 0; k < WINDOW; k++)
        sum += weight[k] * x[k * stride];
    return sum;
}

/* Window means of x [h,w], [h-10,w-10]; work [h,w-10]. */
static void window_means(const double *x, size_t h, size_t w, const double *weight, double *work, double *out)
{
    size_t ow = w - WINDOW + 1, oh = h - WINDOW + 1;

    for (size_t i = 0; i < h; i++)
        for (size_t j = 0; j < ow; j++)
            work[i * ow + j] = windowed(x + i * w + j, 1, weight);
    for (size_t i = 0; i < oh; i++)
        for (size_t j = 0; j < ow; j++)
            out[i * ow + j] = windowed(work + i * ow + j, ow, weight);
}

int ac_ssim(const uint8_t *a, const uint8_t *b, int height, int width, int channels, ac_diag *dg, double *value)
{
    const double sigma = 1.5, c1 = 0.01 * 255 * 0.01 * 255, c2 = 0.03 * 255 * 0.03 * 255;
    size_t h = (size_t)height, w = (size_t)width, n = h * w, inside;
    double weight[WINDOW], total = 0, sum = 0, *x, *work, *mean[5]; /* of a, b, a a, b b, a b */

    if (height < WINDOW || width < WINDOW)
        return ac_fail(dg, ADDCL_E_ARG, "structural similarity needs pictures of at least %d x %d pixels, not %d x %d", WINDOW, WINDOW, width, height);
    if (!(x = ac_calloc(7 * n, sizeof *x)))
        return ac_nomem(dg, 7 * n * sizeof *x);
    work = x + n;
    for (size_t k = 0; k < 5; k++)
        mean[k] = x + (2 + k) * n;
    for (int k = 0; k < WINDOW; k++)
        total += weight[k] = exp(-(k - WINDOW / 2) * (k - WINDOW / 2) / (2 * sigma * sigma));
    for (int k = 0; k < WINDOW; k++)
        weight[k] /= total;
    inside = (h - WINDOW + 1) * (w - WINDOW + 1);
    for (size_t c = 0; c < (size_t)channels; c++) {
        for (int k = 0; k < 5; k++) {
            for (size_t i = 0; i < n; i++) {
                double p = a[i * (size_t)channels + c], q = b[i * (size_t)channels + c];
                x[i] = k == 0 ? p : k == 1 ? q : k == 2 ? p * p : k == 3 ? q * q : p * q;
            }
            window_means(x, h, w, weight, work, mean[k]);
        }
        for (size_t i = 0; i < inside; i++) {
            double p = mean[0][i], q = mean[1][i], vp = mean[2][i] - p * p, vq = mean[3][i] - q * q, pq = mean[4][i] - p * q;
            sum += (2 * p * q + c1) * (2 * pq + c2) / ((p * p + q * q + c1) * (vp + vq + c2));
        }
    }
    *value = sum / (double)(inside * (size_t)channels);
    free(x);
    return 0;
}

/* ------------------------------------------------------------------------------------------ spectrum */

float ac_luma(const uint8_t rgb[3])
{
    return (0.299f * rgb[0] + 0.587f * rgb[1] + 0.114f * rgb[2]) / 255;
}

/* Index of frequency k of n, signed, as a share of n. */
static double frequency(int k, int n)
{
    return (double)(k > n / 2 ? k - n : k) / n;
}

int ac_rings(const float *power, int height, int width, ac_diag *dg, double *ring)
{
    int m = AC_MIN(height, width), rings = m / 2 + 1;
    size_t *count = ac_calloc((size_t)rings, sizeof *count);

    if (!count)
        return ac_nomem(dg, (size_t)rings * sizeof *count);
    memset(ring, 0, (size_t)rings * sizeof *ring);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int r = (int)floor(m * hypot(frequency(y, height), frequency(x, width)) + 0.5);
            if (r < rings) {
                ring[r] += (double)power[(size_t)y * (size_t)width + (size_t)x];
                count[r]++;
            }
        }
    for (int r = 0; r < rings; r++)
        ring[r] /= (double)count[r];
    free(count);
    return 0;
}
