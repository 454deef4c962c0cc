/* canary.c - a kernel that writes behind its buffer. Oclgrind must report it, else a clean log of the other tests proves
 * nothing. Exits 0 when everything was launched. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <stdio.h>

static const char source[] = "__kernel void canary(__global float *y, int n) { y[n + get_global_id(0)] = 1.0f; }";

/* Launches the kernel with n = the number of elements of its buffer: every write is out of bounds. */
static cl_int launch(cl_context context, cl_device_id device)
{
    const char *text = source;
    const cl_int n = 16;
    const size_t global = 4;
    cl_int err;
    cl_command_queue queue = clCreateCommandQueue(context, device, 0, &err);
    cl_program program = clCreateProgramWithSource(context, 1, &text, NULL, &err);
    cl_mem y = clCreateBuffer(context, CL_MEM_READ_WRITE, (size_t)n * sizeof(float), NULL, &err);
    cl_kernel kernel;

    err = clBuildProgram(program, 1, &device, "-cl-std=CL1.2", NULL, NULL);
    if (err != CL_SUCCESS)
        return err;
    kernel = clCreateKernel(program, "canary", &err);
    clSetKernelArg(kernel, 0, sizeof y, &y);
    clSetKernelArg(kernel, 1, sizeof n, &n);
    err = clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &global, NULL, 0, NULL, NULL);
    if (err == CL_SUCCESS)
        err = clFinish(queue);
    clReleaseKernel(kernel);
    clReleaseMemObject(y);
    clReleaseProgram(program);
    clReleaseCommandQueue(queue);
    return err;
}

int main(void)
{
    cl_platform_id platform;
    cl_device_id device;
    cl_context context;
    cl_int err = clGetPlatformIDs(1, &platform, NULL);

    if (err == CL_SUCCESS)
        err = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL);
    if (err == CL_SUCCESS) {
        context = clCreateContext(NULL, 1, &device, NULL, NULL, &err);
        if (err == CL_SUCCESS) {
            err = launch(context, device);
            clReleaseContext(context);
        }
    }
    if (err != CL_SUCCESS)
        fprintf(stderr, "canary: OpenCL error %d\n", (int)err);
    return err != CL_SUCCESS;
}
