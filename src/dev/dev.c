/* dev.c - platforms and devices: listing, choice, limits, opening. */
#include "dev/cl_internal.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { MAX_PLATFORMS = 32, MAX_DEVICES = 64 };

static const char no_platform[] =
    "no OpenCL platform was found: install a driver for your GPU (Debian: mesa-opencl-icd, intel-opencl-icd, nvidia-opencl-icd) or "
    "the CPU driver (Debian: pocl-opencl-icd)";

/* ------------------------------------------------------------------------------------------ errors */

const char *ac_cl_error_name(cl_int e)
{
    static const struct {
        cl_int e;
        const char *name;
    } names[] = {
        {-1, "CL_DEVICE_NOT_FOUND"},       {-2, "CL_DEVICE_NOT_AVAILABLE"},    {-3, "CL_COMPILER_NOT_AVAILABLE"},
        {-4, "CL_MEM_OBJECT_ALLOCATION_FAILURE"}, {-5, "CL_OUT_OF_RESOURCES"}, {-6, "CL_OUT_OF_HOST_MEMORY"},
        {-11, "CL_BUILD_PROGRAM_FAILURE"}, {-14, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST"}, {-30, "CL_INVALID_VALUE"},
        {-34, "CL_INVALID_CONTEXT"},       {-36, "CL_INVALID_COMMAND_QUEUE"},  {-38, "CL_INVALID_MEM_OBJECT"},
        {-42, "CL_INVALID_BINARY"},        {-45, "CL_INVALID_PROGRAM_EXECUTABLE"}, {-46, "CL_INVALID_KERNEL_NAME"},
        {-48, "CL_INVALID_KERNEL"},        {-49, "CL_INVALID_ARG_INDEX"},      {-50, "CL_INVALID_ARG_VALUE"},
        {-51, "CL_INVALID_ARG_SIZE"},      {-52, "CL_INVALID_KERNEL_ARGS"},    {-54, "CL_INVALID_WORK_GROUP_SIZE"},
        {-55, "CL_INVALID_WORK_ITEM_SIZE"}, {-61, "CL_INVALID_BUFFER_SIZE"},   {-1001, "CL_PLATFORM_NOT_FOUND_KHR"},
    };
    for (size_t i = 0; i < AC_LEN(names); i++)
        if (names[i].e == e)
            return names[i].name;
    return "OpenCL error";
}

int ac_cl_fail(ac_dev *dev, cl_int e, const char *call)
{
    int code = e == CL_MEM_OBJECT_ALLOCATION_FAILURE || e == CL_OUT_OF_RESOURCES || e == CL_OUT_OF_HOST_MEMORY
                   ? ADDCL_E_DEVMEM
                   : ADDCL_E_CL;
    if (e == CL_OUT_OF_RESOURCES || e == CL_INVALID_COMMAND_QUEUE || e == CL_INVALID_CONTEXT ||
        e == CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
        dev->lost = true;
    return ac_fail(dev->dg, code, "%s failed on %s: %s (%d)%s", call, dev->info.name, ac_cl_error_name(e), e,
                   code == ADDCL_E_DEVMEM ? ": the device is out of memory" : "");
}

/* ------------------------------------------------------------------------------------------ listing */

static void platform_string(cl_platform_id p, cl_platform_info what, char *buf, size_t n)
{
    buf[0] = '\0';
    if (clGetPlatformInfo(p, what, n - 1, buf, NULL) != CL_SUCCESS)
        buf[0] = '\0';
    buf[n - 1] = '\0';
}

static void device_string(cl_device_id d, cl_device_info what, char *buf, size_t n)
{
    char big[1024] = "";
    size_t len;
    const char *s = big;

    if (clGetDeviceInfo(d, what, sizeof big - 1, big, NULL) != CL_SUCCESS)
        big[0] = '\0';
    while (*s == ' ')
        s++;
    len = strnlen(s, n - 1);
    memcpy(buf, s, len);
    buf[len] = '\0';
}

#define QUERY(d, what, field)                                                                                          \
    do {                                                                                                               \
        if (clGetDeviceInfo(d, what, sizeof(field), &(field), NULL) != CL_SUCCESS)                                     \
            memset(&(field), 0, sizeof(field));                                                                        \
    } while (0)

/* PoCL calls the linker `ld` and aborts the process when it is not there. */
static bool linker_found(void)
{
    const char *path = getenv("PATH"), *end;
    char file[4096];

    for (; path && *path; path = *end ? end + 1 : end) {
        end = strchrnul(path, ':');
        if (snprintf(file, sizeof file, "%.*s/ld", (int)(end - path), path) < (int)sizeof file && access(file, X_OK) == 0)
            return true;
    }
    return false;
}

static bool is_pocl(const char *platform)
{
    return strstr(platform, "Portable Computing Language") != NULL;
}

/* PoCL learns cores and memory through hwloc, and aborts the process when that finds no /sys (as in a chroot) and is not told by
 * one of these variables. */
static bool machine_known(void)
{
    return access("/sys/devices/system/cpu", F_OK) == 0 || getenv("HWLOC_SYNTHETIC") || getenv("HWLOC_XMLFILE");
}

/* Empty `why` means usable. OpenCL 1.2 is asked of the device, not of the platform. */
static void judge(addcl_device *info, cl_device_id d)
{
    cl_bool available = CL_FALSE, compiler = CL_FALSE;
    int major = 0, minor = 0;

    QUERY(d, CL_DEVICE_AVAILABLE, available);
    QUERY(d, CL_DEVICE_COMPILER_AVAILABLE, compiler);
    if (sscanf(info->version, "OpenCL %d.%d", &major, &minor) != 2 || major * 10 + minor < 12)
        snprintf(info->why, sizeof info->why, "OpenCL 1.2 is needed, the device has \"%.60s\"", info->version);
    else if (!available)
        snprintf(info->why, sizeof info->why, "the driver says that the device is not available");
    else if (!compiler)
        snprintf(info->why, sizeof info->why, "the driver has no compiler");
    else if (is_pocl(info->platform_name) && !linker_found())
        snprintf(info->why, sizeof info->why, "PoCL needs the linker \"ld\" on PATH (Debian: binutils)");
    info->usable = info->why[0] == '\0';
}

static void describe(cl_platform_id p, int pi, cl_device_id d, int di, addcl_device *info)
{
    cl_device_type type = 0;
    cl_uint width = 0;

    memset(info, 0, sizeof *info);
    info->platform = pi;
    info->index = di;
    platform_string(p, CL_PLATFORM_NAME, info->platform_name, sizeof info->platform_name);
    platform_string(p, CL_PLATFORM_VERSION, info->platform_version, sizeof info->platform_version);
    device_string(d, CL_DEVICE_NAME, info->name, sizeof info->name);
    device_string(d, CL_DEVICE_VENDOR, info->vendor, sizeof info->vendor);
    device_string(d, CL_DRIVER_VERSION, info->driver, sizeof info->driver);
    device_string(d, CL_DEVICE_VERSION, info->version, sizeof info->version);
    QUERY(d, CL_DEVICE_TYPE, type);
    snprintf(info->type, sizeof info->type, "%s",
             type & CL_DEVICE_TYPE_GPU           ? "gpu"
             : type & CL_DEVICE_TYPE_CPU         ? "cpu"
             : type & CL_DEVICE_TYPE_ACCELERATOR ? "accelerator"
                                                 : "other");
    QUERY(d, CL_DEVICE_GLOBAL_MEM_SIZE, info->global_mem);
    QUERY(d, CL_DEVICE_MAX_MEM_ALLOC_SIZE, info->max_alloc);
    QUERY(d, CL_DEVICE_LOCAL_MEM_SIZE, info->local_mem);
    QUERY(d, CL_DEVICE_MAX_COMPUTE_UNITS, info->compute_units);
    QUERY(d, CL_DEVICE_MAX_CLOCK_FREQUENCY, info->clock_mhz);
    QUERY(d, CL_DEVICE_MAX_WORK_GROUP_SIZE, info->max_work_group);
    QUERY(d, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, width);
    info->vector_width = width;
    judge(info, d);
}

typedef struct found {
    cl_platform_id platform;
    cl_device_id device;
    addcl_device info;
} found;
typedef AC_VEC(found) found_list;

/* Every device of every platform. A platform that fails is skipped with a note: one broken driver must not hide the others. */
static int find_all(ac_diag *dg, found_list *list)
{
    cl_platform_id plats[MAX_PLATFORMS];
    cl_device_id devs[MAX_DEVICES];
    cl_uint np = 0, nd;
    cl_int e = clGetPlatformIDs(MAX_PLATFORMS, plats, &np);

    if (e != CL_SUCCESS) /* -1001: the loader knows no driver */
        np = 0;
    for (cl_uint p = 0; p < AC_MIN(np, (cl_uint)MAX_PLATFORMS); p++) {
        char name[128];
        platform_string(plats[p], CL_PLATFORM_NAME, name, sizeof name);
        nd = 0;
        if (is_pocl(name) && !machine_known()) {
            ac_note(dg, ADDCL_LOG_WARN, "platform %u (%s) needs /sys: mount -t sysfs sysfs /sys", p, name);
            continue;
        }
        e = clGetDeviceIDs(plats[p], CL_DEVICE_TYPE_ALL, MAX_DEVICES, devs, &nd);
        if (e == CL_DEVICE_NOT_FOUND || (e == CL_SUCCESS && nd == 0))
            ac_note(dg, ADDCL_LOG_DEBUG, "platform %u (%s) has no devices%s", p, name,
                    strstr(name, "rusticl")  ? " (RUSTICL_ENABLE=<driver> switches them on)"
                    : is_pocl(name) ? " (is POCL_CACHE_DIR, or ~/.cache, writable?)"
                                    : "");
        else if (e != CL_SUCCESS)
            ac_note(dg, ADDCL_LOG_WARN, "platform %u (%s) is broken: clGetDeviceIDs: %s (%d)", p, name, ac_cl_error_name(e), e);
        for (cl_uint d = 0; e == CL_SUCCESS && d < AC_MIN(nd, (cl_uint)MAX_DEVICES); d++) {
            found f = {.platform = plats[p], .device = devs[d]};
            describe(plats[p], (int)p, devs[d], (int)d, &f.info);
            if (!AC_PUSH(list, f))
                return ac_nomem(dg, sizeof f);
        }
    }
    return 0;
}

int ac_dev_list(ac_diag *dg, addcl_device **out, size_t *n)
{
    found_list list = {0};
    int rc;

    *out = NULL;
    *n = 0;
    AC_TRY(find_all(dg, &list));
    if (!(*out = ac_calloc(list.n, sizeof **out))) {
        rc = ac_nomem(dg, list.n * sizeof **out);
        goto out;
    }
    for (size_t i = 0; i < list.n; i++)
        (*out)[i] = list.p[i].info;
    *n = list.n;
    if (!list.n) /* no error, but an explanation for addcl_error() */
        snprintf(dg->msg, sizeof dg->msg, "%s", no_platform);
out:
    free(list.p);
    return rc;
}

/* ------------------------------------------------------------------------------------------ choice */

static bool contains(const char *hay, const char *needle)
{
    return strcasestr(hay, needle) != NULL;
}

/* Does `spec` name this device? See addcl_open_device. */
static bool fits(const addcl_device *d, const char *spec)
{
    int p, i, used = 0;

    if (!*spec || !strcasecmp(spec, "any"))
        return true;
    if (!strcasecmp(spec, "gpu") || !strcasecmp(spec, "cpu") || !strcasecmp(spec, "accelerator"))
        return !strcasecmp(spec, d->type);
    if (sscanf(spec, "%d:%d%n", &p, &i, &used) == 2 && !spec[used])
        return d->platform == p && d->index == i;
    if (sscanf(spec, "%d%n", &p, &used) == 1 && !spec[used])
        return d->platform == p;
    return contains(d->name, spec) || contains(d->platform_name, spec) || contains(d->vendor, spec);
}

/* GPUs before accelerators before CPUs; among equals the one with more memory, then the first listed. */
static int rank(const addcl_device *d)
{
    return !strcmp(d->type, "gpu") ? 3 : !strcmp(d->type, "accelerator") ? 2 : 1;
}

/* Usable, asked for, and of the same platform and type as another? */
static bool like(const found *f, const char *spec, const found *other)
{
    return f->info.usable && fits(&f->info, spec) && f->platform == other->platform && !strcmp(f->info.type, other->info.type);
}

static int choose(ac_diag *dg, const found_list *list, const char *spec, const found **best)
{
    ac_str known = {0};
    int rc = 0;

    *best = NULL;
    for (size_t i = 0; i < list->n; i++) {
        const addcl_device *d = &list->p[i].info;
        ac_str_addf(&known, "%s%d:%d %s%s%s", known.n ? "; " : "", d->platform, d->index, d->name, d->usable ? "" : ": not usable: ",
                    d->why);
        if (!d->usable || !fits(d, spec))
            continue;
        if (!*best || rank(d) > rank(&(*best)->info) ||
            (rank(d) == rank(&(*best)->info) && d->global_mem > (*best)->info.global_mem && rank(d) == 3))
            *best = &list->p[i];
    }
    if (!*best)
        rc = !list->n ? ac_fail(dg, ADDCL_E_NODEVICE, "%s", no_platform)
             : *spec  ? ac_fail(dg, ADDCL_E_NODEVICE, "no usable OpenCL device fits \"%s\"; there is: %s", spec, known.p ? known.p : "")
                      : ac_fail(dg, ADDCL_E_NODEVICE, "no usable OpenCL device; there is: %s", known.p ? known.p : "");
    ac_str_free(&known);
    return rc;
}

static void read_limits(ac_dev *dev)
{
    ac_limits *l = &dev->lim;
    cl_bool unified = CL_FALSE;
    size_t items[16] = {0};
    unsigned w = dev->info.vector_width;

    /* rusticl and Clover run lanes as a GPU does, whatever device type they report. */
    l->cls = !strcmp(dev->info.type, "cpu") && !contains(dev->info.platform_name, "rusticl") &&
                     !contains(dev->info.platform_name, "clover")
                 ? AC_CLASS_CPU
                 : AC_CLASS_GPU;
    l->vw = w >= 16 ? 16 : w >= 8 ? 8 : 4;
    l->units = dev->info.compute_units ? dev->info.compute_units : 1;
    l->max_wg = dev->info.max_work_group ? dev->info.max_work_group : 1;
    if (clGetDeviceInfo(dev->id, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof items, items, NULL) != CL_SUCCESS)
        items[0] = items[1] = items[2] = 0;
    for (int i = 0; i < 3; i++)
        l->max_item[i] = items[i] ? items[i] : 1;
    l->global_mem = dev->info.global_mem;
    l->max_alloc = dev->info.max_alloc ? dev->info.max_alloc : dev->info.global_mem / 4;
    l->local_mem = dev->info.local_mem;
    QUERY(dev->id, CL_DEVICE_HOST_UNIFIED_MEMORY, unified);
    l->host_unified = unified == CL_TRUE;
}

/* Program binaries are cached only where the driver keeps no cache of its own and survives a bad binary: PoCL and NVIDIA cache by
 * themselves, Mesa's rusticl aborts on bad binaries. ADDCL_CACHE=1 and 0 override. */
static void choose_cache(ac_dev *dev)
{
    const char *over = getenv("ADDCL_CACHE"), *dir = getenv("ADDCL_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const char *name = dev->info.platform_name;
    bool on = !is_pocl(name) && !contains(name, "nvidia") && !contains(name, "rusticl") && !contains(name, "clover") &&
              !contains(name, "oclgrind");

    if (over && *over)
        on = strcmp(over, "0") != 0;
    if (!on)
        return;
    if (dir && *dir)
        dev->cache = ac_printf("%s/programs", dir);
    else if (xdg && *xdg)
        dev->cache = ac_printf("%s/add-cl/programs", xdg);
    else if (home && *home)
        dev->cache = ac_printf("%s/.cache/add-cl/programs", home);
}

/* ------------------------------------------------------------------------------------------ several processes on a machine */

/* A seat at a device: which of how many. */
typedef struct seat {
    int i, n;
} seat;

/* Of the devices that fit like `best` and are of its kind the one of process s->i; *s becomes the seat there. */
static const found *deal(const found_list *list, const char *spec, const found *best, seat *s)
{
    const found *mine = best;
    int n = 0, k = 0;

    for (size_t i = 0; i < list->n; i++)
        n += like(&list->p[i], spec, best);
    for (size_t i = 0; i < list->n; i++)
        if (like(&list->p[i], spec, best) && k++ == s->i % n)
            mine = &list->p[i];
    *s = (seat){s->i / n, s->n / n + (s->i % n < s->n % n)};
    return mine;
}

/* Makes dev one of s.n equal parts of a CPU's cores, where the driver can do that. */
static bool take_part(ac_dev *dev, seat s)
{
    const cl_device_partition_property how[] = {CL_DEVICE_PARTITION_EQUALLY, dev->info.compute_units / (cl_uint)s.n, 0};
    cl_device_id *part;
    cl_uint n = 0;

    if (strcmp(dev->info.type, "cpu") != 0 || dev->info.compute_units < (cl_uint)s.n || !(part = ac_calloc(dev->info.compute_units, sizeof *part)))
        return false;
    if (clCreateSubDevices(dev->id, how, dev->info.compute_units, part, &n) != CL_SUCCESS)
        n = 0;
    for (cl_uint i = 0; i < n; i++)
        if (i == (cl_uint)s.i) {
            dev->id = part[i];
            dev->part = true;
        } else {
            clReleaseDevice(part[i]);
        }
    free(part);
    QUERY(dev->id, CL_DEVICE_MAX_COMPUTE_UNITS, dev->info.compute_units);
    return dev->part;
}

/* mpirun binds its processes to cores or sockets unless told otherwise. */
static void tell_binding(const ac_dev *dev)
{
    cpu_set_t mine;
    int n = sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : 0;

    if (n > 0 && !strcmp(dev->info.type, "cpu") && (unsigned)n < dev->info.compute_units)
        ac_note(dev->dg, ADDCL_LOG_WARN, "this process may run on %d processors only, the device has %u: see mpirun's --bind-to", n,
                dev->info.compute_units);
}

static void settle(ac_dev *dev, seat s)
{
    if (s.n > 1 && !take_part(dev, s))
        ac_note(dev->dg, ADDCL_LOG_INFO, "%d processes share %s", s.n, dev->info.name);
    tell_binding(dev);
}

/* ------------------------------------------------------------------------------------------ opening */

/* A seat of 0 processes: nobody else was asked about. */
static int open_device(const char *spec, seat s, ac_diag *dg, ac_dev **out)
{
    const char *env = getenv("ADDCL_DEVICE");
    found_list list = {0};
    const found *best = NULL;
    ac_dev *dev = NULL;
    cl_int e;
    int rc;

    *out = NULL;
    if (!spec || !*spec)
        spec = env ? env : "";
    AC_TRY(find_all(dg, &list));
    AC_TRY(choose(dg, &list, spec, &best));
    if (s.n > 0)
        best = deal(&list, spec, best, &s);
    if (!(dev = ac_calloc(1, sizeof *dev))) {
        rc = ac_nomem(dg, sizeof *dev);
        goto out;
    }
    dev->dg = dg;
    dev->info = best->info;
    dev->platform = best->platform;
    dev->id = best->device;
    if (s.n > 0)
        settle(dev, s);
    read_limits(dev);
    choose_cache(dev);
    dev->context = clCreateContext((cl_context_properties[]){CL_CONTEXT_PLATFORM, (cl_context_properties)dev->platform, 0}, 1,
                                   &dev->id, NULL, NULL, &e);
    CL_TRY(dev, e, "clCreateContext");
    dev->queue = clCreateCommandQueue(dev->context, dev->id, CL_QUEUE_PROFILING_ENABLE, &e);
    CL_TRY(dev, e, "clCreateCommandQueue");
    *out = dev;
    dev = NULL;
out:
    ac_dev_close(dev);
    free(list.p);
    return rc;
}

int ac_dev_open(const char *spec, ac_diag *dg, ac_dev **out)
{
    return open_device(spec, (seat){0, 0}, dg, out);
}

int ac_dev_open_seat(const char *spec, int i, int n, ac_diag *dg, ac_dev **out)
{
    return open_device(spec, (seat){i, n}, dg, out);
}

int ac_dev_fake(const ac_limits *lim, ac_diag *dg, ac_dev **out)
{
    if (!(*out = ac_calloc(1, sizeof **out)))
        return ac_nomem(dg, sizeof **out);
    (*out)->dg = dg;
    (*out)->lim = *lim;
    return 0;
}

bool ac_dev_is_fake(const ac_dev *dev)
{
    return !dev->queue;
}

void ac_dev_close(ac_dev *dev)
{
    if (!dev)
        return;
    if (!dev->lost) {
        if (dev->queue)
            clFinish(dev->queue);
        ac_side_finish(dev);
        ac_progs_free(dev);
        if (dev->side)
            clReleaseCommandQueue(dev->side);
        if (dev->queue)
            clReleaseCommandQueue(dev->queue);
        if (dev->context)
            clReleaseContext(dev->context);
        if (dev->part)
            clReleaseDevice(dev->id);
    }
    free(dev->cache);
    free(dev);
}

const ac_limits *ac_dev_limits(const ac_dev *dev)
{
    return &dev->lim;
}

const addcl_device *ac_dev_info(const ac_dev *dev)
{
    return &dev->info;
}

ac_diag *ac_dev_diag(const ac_dev *dev)
{
    return dev->dg;
}
