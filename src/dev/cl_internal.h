/* cl_internal.h - what the files of src/dev share. */
#ifndef AC_CL_INTERNAL_H
#define AC_CL_INTERNAL_H

#define CL_TARGET_OPENCL_VERSION 120
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>

#include "base/mem.h"
#include "dev/dev.h"

typedef struct prog {
    char *key; /* "<file> <options>" */
    cl_program program;
} prog;

typedef struct kern {
    cl_program program;
    const char *name; /* borrowed from the launch: string literals of the kernel tables */
    cl_kernel kernel;
    size_t max_wg;
} kern;

struct ac_buf {
    cl_mem mem;
    size_t bytes;
};

struct ac_dev {
    ac_diag *dg;
    addcl_device info;
    ac_limits lim;
    cl_platform_id platform;
    cl_device_id id;
    cl_context context;
    cl_command_queue queue;
    cl_command_queue side; /* for transfers beside it; NULL before the first */
    bool part;             /* id is a part of a device, to be released */
    AC_VEC(prog) progs;
    AC_VEC(kern) kerns;
    uint64_t used, peak;
    unsigned queued;
    bool lost;      /* the driver gave up: no further CL calls, no clean-up (portability: a dead context may hang) */
    char *cache;    /* folder of program binaries, NULL: off */
};

const char *ac_cl_error_name(cl_int e);
/* Records a failed OpenCL call; maps memory errors to E_DEVMEM and marks the device lost where the driver said so. */
int ac_cl_fail(ac_dev *dev, cl_int e, const char *call);
/* The kernel of a launch, built and cached: *handle is 1 + its index in dev->kerns. */
int ac_kernel_get(ac_dev *dev, const ac_launch *l, int *handle);
double ac_event_seconds(cl_event ev);
int ac_blas_run(ac_dev *dev, const ac_gemm *g, ac_buf *c, ac_buf *const *in, double *seconds);
void ac_progs_free(ac_dev *dev);

#define CL_TRY(dev, call, what)                                                                                        \
    do {                                                                                                               \
        cl_int cl_err_ = (call);                                                                                       \
        if (cl_err_ != CL_SUCCESS) {                                                                                   \
            rc = ac_cl_fail(dev, cl_err_, what);                                                                       \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

#endif
