/* fault_layer.c - an OpenCL layer (OPENCL_LAYERS=.../fault_layer.so) that makes one call fail.
 *
 *   FAULT_CALL    the function, e.g. clCreateBuffer
 *   FAULT_N       which of its calls fails, from 1
 *   FAULT_TIMES   so many calls from that one on; 1 when absent
 *   FAULT_ERROR   with this error
 *   FAULT_REPORT  a file that gets, when the library is unloaded, a line "name calls" for each function, and "live n"
 * with the number of buffers, programs, kernels, queues and contexts that were not released
 *
 * Without the headers of layers it is an empty library, and whoever set OPENCL_LAYERS finds no report. */
#if __has_include(<CL/cl_layer.h>)
#define CL_TARGET_OPENCL_VERSION 120
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <CL/cl_layer.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CREATE_BUFFER, ENQUEUE_KERNEL, WRITE_BUFFER, READ_BUFFER, CREATE_KERNEL, BUILD_PROGRAM, FINISH, CALLS };
static const char *const names[CALLS] = {"clCreateBuffer",
                                         "clEnqueueNDRangeKernel",
                                         "clEnqueueWriteBuffer",
                                         "clEnqueueReadBuffer",
                                         "clCreateKernel",
                                         "clBuildProgram",
                                         "clFinish"};

static const cl_icd_dispatch *real;
static cl_icd_dispatch layer;
static int calls[CALLS], live;

static int number(const char *name, int otherwise)
{
    const char *s = getenv(name);
    return s ? atoi(s) : otherwise;
}

/* Counts a call; CL_SUCCESS: it may go on. */
static cl_int fault(int call)
{
    const char *which = getenv("FAULT_CALL");
    int n = ++calls[call], first = number("FAULT_N", 0);

    return which && !strcmp(which, names[call]) && n >= first && n < first + number("FAULT_TIMES", 1)
               ? number("FAULT_ERROR", -5)
               : CL_SUCCESS;
}

static void give(cl_int *out, cl_int e)
{
    if (out)
        *out = e;
}

static CL_API_ENTRY cl_mem CL_API_CALL create_buffer(cl_context c, cl_mem_flags f, size_t n, void *p, cl_int *out)
{
    cl_int e = fault(CREATE_BUFFER);
    cl_mem m = e ? NULL : real->clCreateBuffer(c, f, n, p, &e);

    live += m != NULL;
    give(out, e);
    return m;
}

static CL_API_ENTRY cl_kernel CL_API_CALL create_kernel(cl_program p, const char *name, cl_int *out)
{
    cl_int e = fault(CREATE_KERNEL);
    cl_kernel k = e ? NULL : real->clCreateKernel(p, name, &e);

    live += k != NULL;
    give(out, e);
    return k;
}

static CL_API_ENTRY cl_program CL_API_CALL create_program(cl_context c, cl_uint n, const char **s, const size_t *len,
                                                          cl_int *out)
{
    cl_program p = real->clCreateProgramWithSource(c, n, s, len, out);
    live += p != NULL;
    return p;
}

static CL_API_ENTRY cl_context CL_API_CALL
create_context(const cl_context_properties *how, cl_uint n, const cl_device_id *d,
               void(CL_CALLBACK *fn)(const char *, const void *, size_t, void *), void *user, cl_int *out)
{
    cl_context c = real->clCreateContext(how, n, d, fn, user, out);
    live += c != NULL;
    return c;
}

static CL_API_ENTRY cl_command_queue CL_API_CALL create_queue(cl_context c, cl_device_id d,
                                                              cl_command_queue_properties how, cl_int *out)
{
    cl_command_queue q = real->clCreateCommandQueue(c, d, how, out);
    live += q != NULL;
    return q;
}

#define RELEASE(name, call, type)                                                                                      \
    static CL_API_ENTRY cl_int CL_API_CALL name(type x)                                                                \
    {                                                                                                                  \
        live--;                                                                                                        \
        return real->call(x);                                                                                          \
    }
RELEASE(release_buffer, clReleaseMemObject, cl_mem)
RELEASE(release_kernel, clReleaseKernel, cl_kernel)
RELEASE(release_program, clReleaseProgram, cl_program)
RELEASE(release_queue, clReleaseCommandQueue, cl_command_queue)
RELEASE(release_context, clReleaseContext, cl_context)

static CL_API_ENTRY cl_int CL_API_CALL enqueue_kernel(cl_command_queue q, cl_kernel k, cl_uint dims, const size_t *from,
                                                      const size_t *global, const size_t *local, cl_uint n,
                                                      const cl_event *wait, cl_event *ev)
{
    cl_int e = fault(ENQUEUE_KERNEL);
    return e ? e : real->clEnqueueNDRangeKernel(q, k, dims, from, global, local, n, wait, ev);
}

static CL_API_ENTRY cl_int CL_API_CALL write_buffer(cl_command_queue q, cl_mem m, cl_bool block, size_t at, size_t size,
                                                    const void *p, cl_uint n, const cl_event *wait, cl_event *ev)
{
    cl_int e = fault(WRITE_BUFFER);
    return e ? e : real->clEnqueueWriteBuffer(q, m, block, at, size, p, n, wait, ev);
}

static CL_API_ENTRY cl_int CL_API_CALL read_buffer(cl_command_queue q, cl_mem m, cl_bool block, size_t at, size_t size,
                                                   void *p, cl_uint n, const cl_event *wait, cl_event *ev)
{
    cl_int e = fault(READ_BUFFER);
    return e ? e : real->clEnqueueReadBuffer(q, m, block, at, size, p, n, wait, ev);
}

static CL_API_ENTRY cl_int CL_API_CALL build_program(cl_program p, cl_uint n, const cl_device_id *d,
                                                     const char *options, void(CL_CALLBACK *fn)(cl_program, void *),
                                                     void *user)
{
    cl_int e = fault(BUILD_PROGRAM);
    return e ? e : real->clBuildProgram(p, n, d, options, fn, user);
}

static CL_API_ENTRY cl_int CL_API_CALL finish(cl_command_queue q)
{
    cl_int e = fault(FINISH);
    return e ? e : real->clFinish(q);
}

static void report(void)
{
    const char *path = getenv("FAULT_REPORT");
    FILE *f = path ? fopen(path, "w") : NULL;

    if (!f)
        return;
    for (int i = 0; i < CALLS; i++)
        fprintf(f, "%s %d\n", names[i], calls[i]);
    fprintf(f, "live %d\n", live);
    fclose(f);
}

CL_API_ENTRY cl_int CL_API_CALL clGetLayerInfo(cl_layer_info what, size_t size, void *value, size_t *needed)
{
    static const cl_layer_api_version version = CL_LAYER_API_VERSION_100;
    static const char name[] = "fault";
    const void *from = what == CL_LAYER_API_VERSION ? (const void *)&version : name;
    size_t n = what == CL_LAYER_API_VERSION ? sizeof version : sizeof name;

    if (what != CL_LAYER_API_VERSION && what != CL_LAYER_NAME)
        return CL_INVALID_VALUE;
    if (value && size < n)
        return CL_INVALID_VALUE;
    if (value)
        memcpy(value, from, n);
    if (needed)
        *needed = n;
    return CL_SUCCESS;
}

CL_API_ENTRY cl_int CL_API_CALL clInitLayer(cl_uint n, const cl_icd_dispatch *target, cl_uint *n_out,
                                            const cl_icd_dispatch **out)
{
    if (!target || !n_out || !out || n < sizeof layer / sizeof(void *))
        return CL_INVALID_VALUE;
    real = target;
    layer = *target;
    layer.clCreateBuffer = create_buffer;
    layer.clCreateKernel = create_kernel;
    layer.clCreateProgramWithSource = create_program;
    layer.clCreateContext = create_context;
    layer.clCreateCommandQueue = create_queue;
    layer.clReleaseMemObject = release_buffer;
    layer.clReleaseKernel = release_kernel;
    layer.clReleaseProgram = release_program;
    layer.clReleaseCommandQueue = release_queue;
    layer.clReleaseContext = release_context;
    layer.clEnqueueNDRangeKernel = enqueue_kernel;
    layer.clEnqueueWriteBuffer = write_buffer;
    layer.clEnqueueReadBuffer = read_buffer;
    layer.clBuildProgram = build_program;
    layer.clFinish = finish;
    *out = &layer;
    *n_out = sizeof layer / sizeof(void *);
    atexit(report);
    return CL_SUCCESS;
}
#else
typedef int fault_layer_is_empty;
#endif
