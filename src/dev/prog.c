/* prog.c - programs: sources, lazy builds, kernels, and the cache of program binaries on disk. */
#include "dev/cl_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/sha256.h"
#include "dev/clsource.h"

/* Options of every build. No -cl-fast-relaxed-math: it breaks NaN on several drivers. */
static const char base_options[] = "-cl-std=CL1.2 -cl-single-precision-constant -cl-mad-enable -cl-no-signed-zeros";

/* ------------------------------------------------------------------------------------------ sources */

static const char *embedded(const char *name)
{
    for (const ac_cl_source *s = ac_cl_sources; s->name; s++)
        if (!strcmp(s->name, name))
            return s->text;
    return NULL;
}

/* common.h and cl/<file>.cl; from $ADDCL_CL_DIR when set, for work on the kernels. Caller frees both texts. */
static int load_source(ac_dev *dev, const char *file, char *text[2])
{
    const char *dir = getenv("ADDCL_CL_DIR"), *names[2] = {"common.h", file};
    char path[4096];
    size_t n;
    int rc = 0;

    for (int i = 0; i < 2; i++) {
        if (dir && *dir) {
            snprintf(path, sizeof path, "%s/%s%s", dir, names[i], i ? ".cl" : "");
            AC_TRY(ac_file_read(path, 1 << 20, dev->dg, &text[i], &n));
        } else if (!embedded(names[i])) {
            return ac_fail(dev->dg, ADDCL_E_INTERNAL, "no kernel source \"%s\"", names[i]);
        } else if (!(text[i] = ac_strdup(embedded(names[i])))) {
            return ac_nomem(dev->dg, strlen(embedded(names[i])));
        }
    }
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ cache on disk
 * A file is: magic, 64 hex digits of the key, 64 hex digits of the payload's SHA-256, payload. Everything is checked before the
 * driver sees a byte, because some drivers abort on a bad binary. Any doubt: the program is built from source. */

static const char cache_magic[16] = "addcl-program-1\n";
enum { CACHE_HEAD = 16 + 64 + 64 };

static void cache_key(const ac_dev *dev, char *const text[2], const char *options, char key[65])
{
    const addcl_device *d = &dev->info;
    const char *part[] = {text[0], text[1],   options,    d->name, d->vendor, d->driver, d->version, d->platform_name, d->platform_version,
                          addcl_version()};
    uint8_t digest[32];
    ac_sha256 s;

    ac_sha256_init(&s);
    for (size_t i = 0; i < AC_LEN(part); i++)
        ac_sha256_update(&s, part[i], strlen(part[i]) + 1);
    ac_sha256_final(&s, digest);
    ac_sha256_text(digest, key);
}

/* The folder must be ours and closed to others: binaries are code. */
static bool cache_folder_ok(const char *dir)
{
    char path[4096];
    struct stat st;

    if (snprintf(path, sizeof path, "%s", dir) >= (int)sizeof path)
        return false;
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = '\0';
            if (mkdir(path, 0700) != 0 && errno != EEXIST)
                return false;
            *p = '/';
        }
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return false;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 022) == 0;
}

static cl_program cache_load(ac_dev *dev, const char *key, const char *options)
{
    char path[4096], *data = NULL, hex[65];
    size_t n = 0;
    cl_program p = NULL;
    cl_int e, status;
    ac_diag quiet = {0};

    if (!dev->cache || snprintf(path, sizeof path, "%s/%s", dev->cache, key) >= (int)sizeof path)
        return NULL;
    if (!cache_folder_ok(dev->cache) || ac_file_read(path, 256 << 20, &quiet, &data, &n) < 0)
        return NULL;
    if (n > CACHE_HEAD && !memcmp(data, cache_magic, 16) && !memcmp(data + 16, key, 64)) {
        ac_sha256_hex(data + CACHE_HEAD, n - CACHE_HEAD, hex);
        if (!memcmp(data + 16 + 64, hex, 64)) {
            const unsigned char *bin = (const unsigned char *)data + CACHE_HEAD;
            size_t len = n - CACHE_HEAD;
            p = clCreateProgramWithBinary(dev->context, 1, &dev->id, &len, &bin, &status, &e);
            if (p && (e != CL_SUCCESS || status != CL_SUCCESS || clBuildProgram(p, 1, &dev->id, options, NULL, NULL) != CL_SUCCESS)) {
                clReleaseProgram(p);
                p = NULL;
            }
        }
    }
    free(data);
    return p;
}

/* A cache that cannot be written is no error: the next start builds again. */
static void cache_store(ac_dev *dev, const char *key, cl_program p)
{
    char path[4096], hex[65];
    size_t len = 0;
    unsigned char *bin = NULL;
    ac_file *f = NULL;
    ac_diag quiet = {0};

    if (!dev->cache || !cache_folder_ok(dev->cache) || snprintf(path, sizeof path, "%s/%s", dev->cache, key) >= (int)sizeof path)
        return;
    if (clGetProgramInfo(p, CL_PROGRAM_BINARY_SIZES, sizeof len, &len, NULL) != CL_SUCCESS || !len || !(bin = ac_calloc(len, 1)) ||
        clGetProgramInfo(p, CL_PROGRAM_BINARIES, sizeof bin, &bin, NULL) != CL_SUCCESS)
        goto out;
    ac_sha256_hex(bin, len, hex);
    if (ac_file_begin(path, &quiet, &f) < 0)
        goto out;
    if (ac_file_write(f, cache_magic, 16, &quiet) < 0 || ac_file_write(f, key, 64, &quiet) < 0 || ac_file_write(f, hex, 64, &quiet) < 0 ||
        ac_file_write(f, bin, len, &quiet) < 0)
        ac_file_abort(f);
    else if (ac_file_commit(f, &quiet) < 0)
        ac_note(dev->dg, ADDCL_LOG_DEBUG, "program cache: %s", quiet.msg);
out:
    free(bin);
}

/* ------------------------------------------------------------------------------------------ building */

/* The first lines of the compiler's log, on one line. */
static int build_failed(ac_dev *dev, cl_program p, cl_int e, const char *file, const char *options)
{
    size_t n = 0;
    char *log = NULL;
    int rc;

    if (clGetProgramBuildInfo(p, dev->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &n) == CL_SUCCESS && n > 1 && (log = ac_calloc(n + 1, 1)) &&
        clGetProgramBuildInfo(p, dev->id, CL_PROGRAM_BUILD_LOG, n, log, NULL) != CL_SUCCESS)
        log[0] = '\0';
    for (char *c = log; c && *c; c++)
        if (*c == '\n')
            *c = ' ';
    rc = ac_fail(dev->dg, ADDCL_E_BUILD, "cl/%s.cl does not compile on %s (driver %s): %s (%d); options %s; log: %.900s", file,
                 dev->info.name, dev->info.driver, ac_cl_error_name(e), e, options, log && *log ? log : "empty");
    free(log);
    return rc;
}

/* Builds; once more without optimisation when the compiler fails, because a bug of its optimiser must not end the work. */
static int build(ac_dev *dev, char *const text[2], const char *file, const char *options, cl_program *out)
{
    char slow[640];
    cl_program p = NULL;
    cl_int e;
    int rc = 0;

    p = clCreateProgramWithSource(dev->context, 2, (const char *[]){text[0], text[1]}, NULL, &e);
    CL_TRY(dev, e, "clCreateProgramWithSource");
    e = clBuildProgram(p, 1, &dev->id, options, NULL, NULL);
    if (e == CL_BUILD_PROGRAM_FAILURE) {
        snprintf(slow, sizeof slow, "%s -cl-opt-disable", options);
        if (clBuildProgram(p, 1, &dev->id, slow, NULL, NULL) == CL_SUCCESS) {
            ac_note(dev->dg, ADDCL_LOG_WARN, "cl/%s.cl compiles only without optimisation on %s: it will be slow", file, dev->info.name);
            e = CL_SUCCESS;
        }
    }
    if (e != CL_SUCCESS) {
        rc = build_failed(dev, p, e, file, options);
        goto out;
    }
    *out = p;
    p = NULL;
out:
    if (p)
        clReleaseProgram(p);
    return rc;
}

static int program_get(ac_dev *dev, const ac_launch *l, cl_program *out)
{
    char options[512], key[65], *text[2] = {NULL, NULL}, *name = NULL;
    prog entry = {0};
    int rc = 0;

    for (size_t i = 0; i < dev->progs.n; i++) {
        size_t n = strlen(l->file);
        const char *k = dev->progs.p[i].key;
        if (!strncmp(k, l->file, n) && k[n] == ' ' && !strcmp(k + n + 1, l->defs)) {
            *out = dev->progs.p[i].program;
            return 0;
        }
    }
    snprintf(options, sizeof options, "%s%s", base_options, l->defs);
    AC_TRY(load_source(dev, l->file, text));
    if (!(name = ac_printf("%s %s", l->file, l->defs)) || !AC_RESERVE(&dev->progs, dev->progs.n + 1)) {
        rc = ac_nomem(dev->dg, sizeof entry);
        goto out;
    }
    if (dev->cache) {
        cache_key(dev, text, options, key);
        entry.program = cache_load(dev, key, options);
    }
    if (!entry.program) {
        AC_TRY(build(dev, text, l->file, options, &entry.program));
        if (dev->cache)
            cache_store(dev, key, entry.program);
    }
    entry.key = name;
    name = NULL;
    dev->progs.p[dev->progs.n++] = entry;
    *out = entry.program;
out:
    free(text[0]);
    free(text[1]);
    free(name);
    return rc;
}

int ac_kernel_get(ac_dev *dev, const ac_launch *l, int *handle)
{
    cl_program p;
    kern k = {.name = l->kernel};
    cl_int e;
    int rc;

    AC_TRY(program_get(dev, l, &p));
    for (size_t i = 0; i < dev->kerns.n; i++)
        if (dev->kerns.p[i].program == p && !strcmp(dev->kerns.p[i].name, l->kernel)) {
            *handle = (int)i + 1;
            return 0;
        }
    if (!AC_RESERVE(&dev->kerns, dev->kerns.n + 1)) {
        rc = ac_nomem(dev->dg, sizeof k);
        goto out;
    }
    k.program = p;
    k.kernel = clCreateKernel(p, l->kernel, &e);
    CL_TRY(dev, e, "clCreateKernel");
    if (clGetKernelWorkGroupInfo(k.kernel, dev->id, CL_KERNEL_WORK_GROUP_SIZE, sizeof k.max_wg, &k.max_wg, NULL) != CL_SUCCESS ||
        k.max_wg == 0)
        k.max_wg = 1;
    dev->kerns.p[dev->kerns.n++] = k;
    *handle = (int)dev->kerns.n;
out:
    if (rc < 0)
        ac_context(dev->dg, "kernel %s", l->kernel);
    return rc;
}

void ac_progs_free(ac_dev *dev)
{
    for (size_t i = 0; i < dev->kerns.n; i++)
        clReleaseKernel(dev->kerns.p[i].kernel);
    for (size_t i = 0; i < dev->progs.n; i++) {
        clReleaseProgram(dev->progs.p[i].program);
        free(dev->progs.p[i].key);
    }
    free(dev->kerns.p);
    free(dev->progs.p);
}
