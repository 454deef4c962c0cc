/* fft.c - Fourier transforms of pictures by clFFT. */
#include "dev/cl_internal.h" /* before clFFT.h: which OpenCL is meant */

#include <clFFT.h>
#include <stdlib.h>

/* clFFT's lengths are products of these. */
bool ac_dev_power_takes(int n)
{
    static const int prime[] = {2, 3, 5, 7, 11, 13};

    for (size_t i = 0; i < AC_LEN(prime); i++)
        while (n > 0 && n % prime[i] == 0)
            n /= prime[i];
    return n == 1;
}

static int check(ac_dev *dev, clfftStatus s, const char *call)
{
    if (s == CLFFT_SUCCESS)
        return 0;
    return s < 0 && s > -4096 ? ac_cl_fail(dev, (cl_int)s, call)
                              : ac_fail(dev->dg, ADDCL_E_CL, "%s failed with status %d on %s", call, (int)s, dev->info.name);
}

/* In place: `batch` transforms of height x width complex numbers. */
static int plan(ac_dev *dev, int batch, int height, int width, clfftPlanHandle *p)
{
    const size_t length[2] = {(size_t)width, (size_t)height};
    int rc;

    AC_TRY(check(dev, clfftCreateDefaultPlan(p, dev->context, CLFFT_2D, length), "clfftCreateDefaultPlan"));
    AC_TRY(check(dev, clfftSetPlanBatchSize(*p, (size_t)batch), "clfftSetPlanBatchSize"));
    AC_TRY(check(dev, clfftSetPlanPrecision(*p, CLFFT_SINGLE), "clfftSetPlanPrecision"));
    rc = check(dev, clfftBakePlan(*p, 1, &dev->queue, NULL, NULL), "clfftBakePlan");
out:
    return rc;
}

int ac_dev_power(ac_dev *dev, const float *x, int batch, int height, int width, float *power)
{
    size_t n = (size_t)batch * (size_t)height * (size_t)width;
    float *z = NULL;
    clfftSetupData setup;
    clfftPlanHandle p = 0;
    bool up = false;
    ac_buf *buf = NULL;
    int rc;

    if (!ac_dev_power_takes(height) || !ac_dev_power_takes(width))
        return ac_fail(dev->dg, ADDCL_E_UNSUPPORTED, "pictures of %d x %d pixels: clFFT transforms lengths without prime factors above 13", width, height);
    if (!(z = ac_calloc(2 * n, sizeof *z)))
        return ac_nomem(dev->dg, 2 * n * sizeof *z);
    AC_TRY(check(dev, clfftInitSetupData(&setup), "clfftInitSetupData"));
    AC_TRY(check(dev, clfftSetup(&setup), "clfftSetup"));
    up = true;
    AC_TRY(plan(dev, batch, height, width, &p));
    AC_TRY(ac_buf_new(dev, 2 * n * sizeof *z, &buf));
    for (size_t i = 0; i < n; i++)
        z[2 * i] = x[i];
    AC_TRY(ac_buf_write(dev, buf, 0, z, 2 * n * sizeof *z));
    AC_TRY(check(dev, clfftEnqueueTransform(p, CLFFT_FORWARD, 1, &dev->queue, 0, NULL, NULL, &buf->mem, NULL, NULL), "clfftEnqueueTransform"));
    AC_TRY(ac_buf_read(dev, buf, 0, z, 2 * n * sizeof *z));
    for (size_t i = 0; i < n; i++)
        power[i] = (z[2 * i] * z[2 * i] + z[2 * i + 1] * z[2 * i + 1]) / (float)(height * width);
out:
    if (p)
        clfftDestroyPlan(&p);
    if (up)
        clfftTeardown();
    ac_buf_free(dev, buf);
    free(z);
    return rc;
}
