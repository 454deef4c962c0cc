/* dev.h - one OpenCL device: choice, limits, buffers, programs, launches. The only layer that includes <CL/cl.h>. */
#ifndef AC_DEV_H
#define AC_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

typedef struct ac_dev ac_dev; /* context, in-order queue, programs, buffer accounting */
typedef struct ac_buf ac_buf; /* one device buffer */

/* How a device computes best: wide vectors in one work-item, or many work-items with local memory. */
typedef enum ac_class { AC_CLASS_CPU = 1, AC_CLASS_GPU = 2, AC_CLASS_ANY = 3 } ac_class;

/* What kernels may depend on. Queried, never assumed. */
typedef struct ac_limits {
    ac_class cls;
    int vw;                     /* float lanes of a vector register, clamped to 4, 8 or 16 */
    unsigned units;             /* compute units */
    size_t max_wg, max_item[3]; /* work-group size: whole, per dimension */
    uint64_t global_mem, max_alloc, local_mem; /* bytes */
    bool host_unified;          /* device memory is host memory */
} ac_limits;

/* ---- choice. See addcl_devices and addcl_open_device for the contract. */
int ac_dev_list(ac_diag *dg, addcl_device **list, size_t *n) AC_CHECK_RESULT;
int ac_dev_open(const char *spec, ac_diag *dg, ac_dev **out) AC_CHECK_RESULT;
/* The same for process `seat` of the `seats` that compute on this machine together: devices like the best that fits `spec` are
 * dealt out in turn. Processes that share a CPU get equal parts of its cores where the driver can part it; else they share. */
int ac_dev_open_seat(const char *spec, int seat, int seats, ac_diag *dg, ac_dev **out) AC_CHECK_RESULT;
/* A device that is nothing but its limits: good for plans (ac_exec_opts.plan_only), not for buffers or launches. */
int ac_dev_fake(const ac_limits *lim, ac_diag *dg, ac_dev **out) AC_CHECK_RESULT;
bool ac_dev_is_fake(const ac_dev *dev);
void ac_dev_close(ac_dev *dev);
const ac_limits *ac_dev_limits(const ac_dev *dev);
const addcl_device *ac_dev_info(const ac_dev *dev);
ac_diag *ac_dev_diag(const ac_dev *dev);

/* ---- buffers. Every buffer is counted; none may exceed limits.max_alloc. */
int ac_buf_new(ac_dev *dev, size_t bytes, ac_buf **out) AC_CHECK_RESULT;
void ac_buf_free(ac_dev *dev, ac_buf *buf);
/* Blocking transfers, staged in blocks of at most 64 MiB. */
int ac_buf_write(ac_dev *dev, ac_buf *buf, size_t offset, const void *src, size_t bytes) AC_CHECK_RESULT;
int ac_buf_read(ac_dev *dev, const ac_buf *buf, size_t offset, void *dst, size_t bytes) AC_CHECK_RESULT;
/* In queue order. */
int ac_buf_copy(ac_dev *dev, ac_buf *dst, const ac_buf *src, size_t bytes) AC_CHECK_RESULT;
int ac_buf_fill(ac_dev *dev, ac_buf *buf, uint32_t pattern, size_t bytes) AC_CHECK_RESULT; /* bytes: multiple of 4 */
/* Bytes in buffers now, and the highest count since the last reset. */
uint64_t ac_dev_used(const ac_dev *dev);
uint64_t ac_dev_peak(const ac_dev *dev);
void ac_dev_reset_peak(ac_dev *dev);

/* ---- transfers beside the queue: in a second one, so that what is enqueued later does not hold them up. They run in their order,
 * behind a call of ac_side_after. The host's memory must stay until a mark behind them is passed. */
typedef struct ac_mark ac_mark; /* a moment of the second queue */
/* What follows there waits for all that has been enqueued so far, which is started. */
int ac_side_after(ac_dev *dev) AC_CHECK_RESULT;
int ac_side_read(ac_dev *dev, const ac_buf *buf, void *dst, size_t bytes) AC_CHECK_RESULT;
int ac_side_write(ac_dev *dev, ac_buf *buf, const void *src, size_t bytes) AC_CHECK_RESULT;
int ac_side_mark(ac_dev *dev, ac_mark **out) AC_CHECK_RESULT;
/* Has everything before the mark happened? Does not wait. */
int ac_mark_passed(ac_dev *dev, const ac_mark *m, bool *passed) AC_CHECK_RESULT;
void ac_mark_free(ac_dev *dev, ac_mark *m);
/* What is enqueued from now on waits for the transfers so far. */
int ac_side_join(ac_dev *dev) AC_CHECK_RESULT;
/* Waits for the transfers, however they end. */
void ac_side_finish(ac_dev *dev);

/* ---- launches */
enum { AC_MAX_ARGS = 28 };

typedef enum ac_arg_kind { AC_ARG_BUF, AC_ARG_INT, AC_ARG_LONG, AC_ARG_FLOAT } ac_arg_kind;
typedef struct ac_arg {
    ac_arg_kind kind;
    union {
        int slot; /* AC_ARG_BUF: -1 the output, k the k-th input of the node */
        int32_t i;
        int64_t l;
        float f;
    } u;
} ac_arg;

/* A row-major GEMM: c[m,n] = op(a) op(b), with leading dimensions. */
typedef struct ac_gemm {
    bool ta, tb;
    size_t m, n, k, lda, ldb, ldc;
} ac_gemm;

/* One kernel launch, filled by a kernel's setup(): arguments in the kernel's order. */
typedef struct ac_launch {
    const char *file, *kernel; /* source cl/<file>.cl, function name; kernel NULL: the GEMM below, by CLBlast */
    char defs[256];            /* -D options, part of the program's identity */
    int dims;
    size_t global[3], local[3];
    int n_args;
    ac_arg arg[AC_MAX_ARGS];
    size_t wg;                 /* in: largest work-group allowed for this try; setup() derives local[] from it */
    ac_gemm gemm;              /* out = in[0] x in[1] */
    int handle;                /* 1 + index of the built kernel; 0: not built yet */
} ac_launch;

void ac_arg_buf(ac_launch *l, int slot);
void ac_arg_int(ac_launch *l, int64_t v);  /* must fit in 31 bits: asserted by the shape checks of the graph */
void ac_arg_long(ac_launch *l, int64_t v);
void ac_arg_float(ac_launch *l, double v);
/* Appends " -D<text>" to the options. */
void ac_def(ac_launch *l, const char *fmt, ...) AC_PRINTF(2, 3);
/* 1-D launch of at least n items in groups of at most `local`, capped by l->wg. */
void ac_grid1(ac_launch *l, size_t n, size_t local);

/* Builds the program if needed and returns in *max_wg the largest work-group its kernel may have on this device. */
int ac_launch_build(ac_dev *dev, ac_launch *l, size_t *max_wg) AC_CHECK_RESULT;
/* Builds the kernel if needed and enqueues it with the buffers that the argument slots name. With `seconds` (may be NULL) it waits and
 * gives the device time. */
int ac_launch_run(ac_dev *dev, ac_launch *l, ac_buf *out, ac_buf *const *in, double *seconds) AC_CHECK_RESULT;
/* Waits for everything enqueued. */
int ac_dev_finish(ac_dev *dev) AC_CHECK_RESULT;

/* power [batch,height,width] = |F|^2 / (height width) of the pictures x, F their Fourier transforms; host memory. By clFFT, which
 * wants sides without prime factors above 13. */
bool ac_dev_power_takes(int side);
int ac_dev_power(ac_dev *dev, const float *x, int batch, int height, int width, float *power) AC_CHECK_RESULT;

/* Was the library built with CLBlast? */
bool ac_blas_available(void);

#endif
