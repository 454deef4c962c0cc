/* launch.c - arguments, enqueueing and timing of kernels. */
#include "dev/cl_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static ac_arg *next_arg(ac_launch *l, ac_arg_kind kind)
{
    ac_arg *a = &l->arg[l->n_args < AC_MAX_ARGS ? l->n_args++ : AC_MAX_ARGS - 1];
    a->kind = kind;
    return a;
}

void ac_arg_buf(ac_launch *l, int slot)
{
    next_arg(l, AC_ARG_BUF)->u.slot = slot;
}

void ac_arg_int(ac_launch *l, int64_t v)
{
    next_arg(l, AC_ARG_INT)->u.i = (int32_t)v;
}

void ac_arg_long(ac_launch *l, int64_t v)
{
    next_arg(l, AC_ARG_LONG)->u.l = v;
}

void ac_arg_float(ac_launch *l, double v)
{
    next_arg(l, AC_ARG_FLOAT)->u.f = (float)v;
}

void ac_def(ac_launch *l, const char *fmt, ...)
{
    size_t n = strlen(l->defs);
    va_list ap;

    n += (size_t)snprintf(l->defs + n, sizeof l->defs - n, " -D");
    va_start(ap, fmt);
    vsnprintf(l->defs + n, sizeof l->defs - n, fmt, ap);
    va_end(ap);
}

void ac_grid1(ac_launch *l, size_t n, size_t local)
{
    local = AC_MIN(local, l->wg);
    l->dims = 1;
    l->local[0] = local;
    l->global[0] = AC_CEIL_DIV(n ? n : 1, local) * local;
}

int ac_launch_build(ac_dev *dev, ac_launch *l, size_t *max_wg)
{
    int rc = 0;

    *max_wg = dev->lim.max_wg;
    if (!l->kernel) /* CLBlast builds its own */
        return 0;
    if (!l->handle)
        AC_TRY(ac_kernel_get(dev, l, &l->handle));
    *max_wg = dev->kerns.p[l->handle - 1].max_wg;
out:
    return rc;
}

static int set_args(ac_dev *dev, const ac_launch *l, cl_kernel k, const ac_buf *out_buf, ac_buf *const *in)
{
    int rc = 0;

    for (int i = 0; i < l->n_args; i++) {
        const ac_arg *a = &l->arg[i];
        const void *p = &a->u;
        size_t n = a->kind == AC_ARG_LONG ? sizeof(cl_long) : sizeof(cl_int);
        if (a->kind == AC_ARG_BUF) {
            p = a->u.slot < 0 ? &out_buf->mem : &in[a->u.slot]->mem;
            n = sizeof(cl_mem);
        }
        CL_TRY(dev, clSetKernelArg(k, (cl_uint)i, n, p), "clSetKernelArg");
    }
out:
    return rc;
}

double ac_event_seconds(cl_event ev)
{
    cl_ulong t0 = 0, t1 = 0;

    if (clGetEventProfilingInfo(ev, CL_PROFILING_COMMAND_START, sizeof t0, &t0, NULL) != CL_SUCCESS ||
        clGetEventProfilingInfo(ev, CL_PROFILING_COMMAND_END, sizeof t1, &t1, NULL) != CL_SUCCESS)
        return 0;
    return (double)(t1 - t0) * 1e-9;
}

int ac_launch_run(ac_dev *dev, ac_launch *l, ac_buf *out_buf, ac_buf *const *in, double *seconds)
{
    cl_event ev = NULL;
    cl_kernel k;
    int rc = 0;

    if (!l->kernel)
        return ac_blas_run(dev, &l->gemm, out_buf, in, seconds);
    if (!l->handle)
        AC_TRY(ac_kernel_get(dev, l, &l->handle));
    k = dev->kerns.p[l->handle - 1].kernel;
    for (int i = 0; i < l->dims; i++)
        if (l->global[i] == 0) /* nothing to do; a zero global size is an error on some drivers */
            return 0;
    AC_TRY(set_args(dev, l, k, out_buf, in));
    CL_TRY(dev,
           clEnqueueNDRangeKernel(dev->queue, k, (cl_uint)l->dims, NULL, l->global, l->local, 0, NULL, seconds ? &ev : NULL),
           "clEnqueueNDRangeKernel");
    if (seconds) {
        CL_TRY(dev, clWaitForEvents(1, &ev), "clWaitForEvents");
        *seconds = ac_event_seconds(ev);
    } else if (++dev->queued % 32 == 0) {
        CL_TRY(dev, clFlush(dev->queue), "clFlush");
    }
out:
    if (rc < 0)
        ac_context(dev->dg, "kernel %s", l->kernel);
    if (ev)
        clReleaseEvent(ev);
    return rc;
}

int ac_dev_finish(ac_dev *dev)
{
    int rc = 0;

    CL_TRY(dev, clFinish(dev->queue), "clFinish");
out:
    return rc;
}

