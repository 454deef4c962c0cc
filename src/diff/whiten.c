/* whiten.c - see whiten.h. */
#include "diff/whiten.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "diff/metrics.h"

int ac_whitener_open(size_t d, ac_diag *dg, ac_whitener *w)
{
    *w = (ac_whitener){.d = d, .sum = ac_calloc(d, sizeof(double)), .gram = ac_calloc(d * d, sizeof(double))};
    if (w->sum && w->gram)
        return 0;
    ac_whitener_close(w);
    return ac_nomem(dg, d * d * sizeof(double));
}

void ac_whitener_close(ac_whitener *w)
{
    free(w->sum);
    free(w->gram);
    free(w->work);
    *w = (ac_whitener){0};
}

int ac_whitener_add(ac_whitener *w, const float *row, size_t n, ac_diag *dg)
{
    int d = (int)w->d;

    if (n * w->d > w->room) {
        free(w->work);
        w->room = 0;
        if (!(w->work = ac_calloc(n * w->d, sizeof *w->work)))
            return ac_nomem(dg, n * w->d * sizeof *w->work);
        w->room = n * w->d;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < w->d; k++) {
            w->work[i * w->d + k] = (double)row[i * w->d + k];
            w->sum[k] += w->work[i * w->d + k];
        }
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, d, d, (int)n, 1, w->work, d, w->work, d, 1, w->gram, d);
    w->n += n;
    return 0;
}

int ac_whitener_map(const ac_whitener *w, double floor, ac_diag *dg, float *weight, float *bias)
{
    size_t d = w->d;
    double *all = ac_calloc(3 * d * d + d, sizeof *all), *v = all, *scaled = all + d * d, *map = all + 2 * d * d, *value = all + 3 * d * d, N = (double)w->n, trace = 0;
    int rc;

    if (!all)
        return ac_nomem(dg, 3 * d * d * sizeof *all);
    if (w->n < 2) {
        rc = ac_fail(dg, ADDCL_E_ARG, "features of %zu patches are too few to be whitened", w->n);
        goto out;
    }
    for (size_t i = 0; i < d; i++) {
        for (size_t k = 0; k < d; k++)
            v[i * d + k] = w->gram[i * d + k] / N - w->sum[i] / N * (w->sum[k] / N);
        trace += v[i * d + i];
    }
    AC_TRY(ac_eigen(true, (int)d, v, value, dg));
    floor *= trace / (double)d;
    for (size_t i = 0; i < d; i++)
        for (size_t k = 0; k < d; k++) {
            double e = fmax(value[k], 0) + floor;
            scaled[i * d + k] = e > 0 ? v[i * d + k] / sqrt(e) : 0;
        }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)d, (int)d, (int)d, 1, scaled, (int)d, v, (int)d, 0, map, (int)d);
    for (size_t i = 0; i < d; i++) {
        double b = 0;
        for (size_t k = 0; k < d; k++) {
            weight[i * d + k] = (float)map[i * d + k];
            b -= map[i * d + k] * w->sum[k] / N;
        }
        bias[i] = (float)b;
    }
out:
    free(all);
    return rc;
}
