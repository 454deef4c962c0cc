/* buf.c - device buffers and transfers. */
#include "dev/cl_internal.h"

#include <stdlib.h>

enum { BLOCK = 64 << 20 }; /* larger transfers fail or stall on some drivers */

int ac_buf_new(ac_dev *dev, size_t bytes, ac_buf **out)
{
    ac_buf *b = NULL;
    cl_int e;
    int rc = 0;

    *out = NULL;
    if (bytes == 0)
        bytes = 4;
    if (bytes > dev->lim.max_alloc)
        return ac_fail(dev->dg, ADDCL_E_DEVMEM, "a buffer of %.1f MB is over the %.1f MB that %s allows for one buffer", (double)bytes / 1e6,
                       (double)dev->lim.max_alloc / 1e6, dev->info.name);
    if (!(b = ac_calloc(1, sizeof *b)))
        return ac_nomem(dev->dg, sizeof *b);
    b->bytes = bytes;
    b->mem = clCreateBuffer(dev->context, CL_MEM_READ_WRITE, bytes, NULL, &e);
    if (e != CL_SUCCESS) {
        rc = ac_cl_fail(dev, e, "clCreateBuffer");
        ac_context(dev->dg, "a buffer of %.1f MB beside %.1f MB in use", (double)bytes / 1e6, (double)dev->used / 1e6);
        free(b);
        return rc;
    }
    dev->used += bytes;
    dev->peak = AC_MAX(dev->peak, dev->used);
    *out = b;
    return 0;
}

void ac_buf_free(ac_dev *dev, ac_buf *b)
{
    if (!b)
        return;
    if (!dev->lost)
        clReleaseMemObject(b->mem);
    dev->used -= b->bytes;
    free(b);
}

int ac_buf_write(ac_dev *dev, ac_buf *b, size_t offset, const void *src, size_t bytes)
{
    int rc = 0;

    for (size_t done = 0; done < bytes; done += BLOCK)
        CL_TRY(dev,
               clEnqueueWriteBuffer(dev->queue, b->mem, CL_TRUE, offset + done, AC_MIN(bytes - done, (size_t)BLOCK),
                                    (const char *)src + done, 0, NULL, NULL),
               "clEnqueueWriteBuffer");
out:
    return rc;
}

int ac_buf_read(ac_dev *dev, const ac_buf *b, size_t offset, void *dst, size_t bytes)
{
    int rc = 0;

    for (size_t done = 0; done < bytes; done += BLOCK)
        CL_TRY(dev,
               clEnqueueReadBuffer(dev->queue, b->mem, CL_TRUE, offset + done, AC_MIN(bytes - done, (size_t)BLOCK),
                                   (char *)dst + done, 0, NULL, NULL),
               "clEnqueueReadBuffer");
out:
    return rc;
}

int ac_buf_copy(ac_dev *dev, ac_buf *dst, const ac_buf *src, size_t bytes)
{
    int rc = 0;

    if (bytes)
        CL_TRY(dev, clEnqueueCopyBuffer(dev->queue, src->mem, dst->mem, 0, 0, bytes, 0, NULL, NULL), "clEnqueueCopyBuffer");
out:
    return rc;
}

int ac_buf_fill(ac_dev *dev, ac_buf *b, uint32_t pattern, size_t bytes)
{
    int rc = 0;

    if (bytes)
        CL_TRY(dev, clEnqueueFillBuffer(dev->queue, b->mem, &pattern, sizeof pattern, 0, bytes, 0, NULL, NULL),
               "clEnqueueFillBuffer");
out:
    return rc;
}

uint64_t ac_dev_used(const ac_dev *dev)
{
    return dev->used;
}

uint64_t ac_dev_peak(const ac_dev *dev)
{
    return dev->peak;
}

void ac_dev_reset_peak(ac_dev *dev)
{
    dev->peak = dev->used;
}

/* ------------------------------------------------------------------------------------------ transfers beside the queue */

struct ac_mark {
    cl_event event;
};

/* What is enqueued in `to` from now on waits for what is in `from` already. */
static int chain(ac_dev *dev, cl_command_queue from, cl_command_queue to)
{
    cl_event ev = NULL;
    int rc = 0;

    CL_TRY(dev, clEnqueueMarkerWithWaitList(from, 0, NULL, &ev), "clEnqueueMarkerWithWaitList");
    CL_TRY(dev, clFlush(from), "clFlush");
    CL_TRY(dev, clEnqueueBarrierWithWaitList(to, 1, &ev, NULL), "clEnqueueBarrierWithWaitList");
out:
    if (ev)
        clReleaseEvent(ev);
    return rc;
}

int ac_side_after(ac_dev *dev)
{
    cl_int e;
    int rc = 0;

    if (!dev->side) {
        dev->side = clCreateCommandQueue(dev->context, dev->id, 0, &e);
        CL_TRY(dev, e, "clCreateCommandQueue");
    }
    rc = chain(dev, dev->queue, dev->side);
out:
    return rc;
}

int ac_side_join(ac_dev *dev)
{
    return chain(dev, dev->side, dev->queue);
}

int ac_side_read(ac_dev *dev, const ac_buf *b, void *dst, size_t bytes)
{
    int rc = 0;

    for (size_t done = 0; done < bytes; done += BLOCK)
        CL_TRY(dev,
               clEnqueueReadBuffer(dev->side, b->mem, CL_FALSE, done, AC_MIN(bytes - done, (size_t)BLOCK), (char *)dst + done, 0, NULL,
                                   NULL),
               "clEnqueueReadBuffer");
out:
    return rc;
}

int ac_side_write(ac_dev *dev, ac_buf *b, const void *src, size_t bytes)
{
    int rc = 0;

    for (size_t done = 0; done < bytes; done += BLOCK)
        CL_TRY(dev,
               clEnqueueWriteBuffer(dev->side, b->mem, CL_FALSE, done, AC_MIN(bytes - done, (size_t)BLOCK), (const char *)src + done, 0,
                                    NULL, NULL),
               "clEnqueueWriteBuffer");
out:
    return rc;
}

int ac_side_mark(ac_dev *dev, ac_mark **out)
{
    ac_mark *m = ac_calloc(1, sizeof *m);
    int rc = 0;

    *out = NULL;
    if (!m)
        return ac_nomem(dev->dg, sizeof *m);
    CL_TRY(dev, clEnqueueMarkerWithWaitList(dev->side, 0, NULL, &m->event), "clEnqueueMarkerWithWaitList");
    CL_TRY(dev, clFlush(dev->side), "clFlush");
    *out = m;
    m = NULL;
out:
    ac_mark_free(dev, m);
    return rc;
}

int ac_mark_passed(ac_dev *dev, const ac_mark *m, bool *passed)
{
    cl_int status = CL_QUEUED;
    int rc = 0;

    CL_TRY(dev, clGetEventInfo(m->event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL), "clGetEventInfo");
    if (status < 0)
        return ac_cl_fail(dev, status, "a transfer");
    *passed = status == CL_COMPLETE;
    if (*passed) /* looking does not make visible what was read; waiting does (OpenCL 1.2, 5.9) */
        CL_TRY(dev, clWaitForEvents(1, &m->event), "clWaitForEvents");
out:
    return rc;
}

void ac_mark_free(ac_dev *dev, ac_mark *m)
{
    if (!m)
        return;
    if (m->event && !dev->lost)
        clReleaseEvent(m->event);
    free(m);
}

void ac_side_finish(ac_dev *dev)
{
    if (dev->side && !dev->lost)
        clFinish(dev->side);
}
