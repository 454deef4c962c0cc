/* support.c - fixtures and temporary folders of the test programs. */
#include "support.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/half.h"

char *source_path(char *buf, size_t n, const char *rel)
{
    const char *src = getenv("srcdir");
    int len = snprintf(buf, n, "%s/%s", src && *src ? src : ".", rel);

    assert_true(len > 0 && (size_t)len < n);
    return buf;
}

const char *fixture_dir(void)
{
    static char dir[4096];
    const char *env = getenv("ADDCL_FIXTURES");

    if (env && *env)
        return env;
    if (access(source_path(dir, sizeof dir, "../shared/fixtures"), X_OK) != 0)
        source_path(dir, sizeof dir, "tests/data");
    return dir;
}

bool fixture_path(char *buf, size_t n, const char *rel)
{
    int len = snprintf(buf, n, "%s/%s", fixture_dir(), rel);

    assert_true(len > 0 && (size_t)len < n);
    if (access(buf, R_OK) == 0)
        return true;
    fprintf(stderr, "SKIP %s: not in %s\n", rel, fixture_dir());
    return false;
}

ac_st *fixture_open(const char *rel)
{
    char path[4096];
    ac_diag dg = {0};
    ac_st *st = NULL;

    snprintf(path, sizeof path, "%s/%s", fixture_dir(), rel);
    if (ac_st_open(path, &dg, &st) != 0)
        fail_msg("%s", dg.msg);
    return st;
}

/* Element i of the tensor; the data may be unaligned. */
static double element(const ac_st_tensor *t, size_t i)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
        float f32;
        double f64;
    } v = {0};
    size_t size = ac_st_dtype_size(t->dtype);

    memcpy(&v, (const char *)t->data + i * size, size);
    switch (t->dtype) {
    case AC_ST_BOOL:
    case AC_ST_U8:
        return v.u8;
    case AC_ST_I8:
        return v.i8;
    case AC_ST_I16:
        return v.i16;
    case AC_ST_U16:
        return v.u16;
    case AC_ST_F16:
        return (double)ac_half_to_float(v.u16);
    case AC_ST_BF16:
        return (double)ac_bf16_to_float(v.u16);
    case AC_ST_I32:
        return v.i32;
    case AC_ST_U32:
        return v.u32;
    case AC_ST_F32:
        return (double)v.f32;
    case AC_ST_F64:
        return v.f64;
    case AC_ST_I64:
        return (double)v.i64;
    case AC_ST_U64:
        return (double)v.u64;
    default:
        fail_msg("%s: no conversion from %s", t->name, ac_st_dtype_name(t->dtype));
        return 0;
    }
}

static const ac_st_tensor *find(const ac_st *st, const char *name, size_t *n)
{
    const ac_st_tensor *t = ac_st_find(st, name);

    if (!t)
        fail_msg("fixture has no tensor '%s'", name);
    *n = (size_t)t->bytes / ac_st_dtype_size(t->dtype);
    return t;
}

double *fixture_f64(const ac_st *st, const char *name, size_t *n)
{
    size_t count;
    const ac_st_tensor *t = find(st, name, &count);
    double *x = malloc((count + 1) * sizeof *x);

    assert_non_null(x);
    for (size_t i = 0; i < count; i++)
        x[i] = element(t, i);
    if (n)
        *n = count;
    return x;
}

float *fixture_f32(const ac_st *st, const char *name, size_t *n)
{
    size_t count;
    const ac_st_tensor *t = find(st, name, &count);
    float *x = malloc((count + 1) * sizeof *x);

    assert_non_null(x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)element(t, i);
    if (n)
        *n = count;
    return x;
}

static char temp_dir[1024];

int temp_setup(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    snprintf(temp_dir, sizeof temp_dir, "%s/addcl-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(temp_dir) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

int temp_teardown(void **state)
{
    (void)state;
    return nftw(temp_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *temp_path(const char *name)
{
    static char path[8][2048];
    static unsigned next;
    char *p = path[next++ % 8];

    snprintf(p, sizeof path[0], "%s/%s", temp_dir, name);
    return p;
}

const char *temp_write(const char *name, const void *data, size_t n)
{
    const char *path = temp_path(name);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return path;
}

/* ---------------------------------------------------------------------------------------------------- device */

static ac_dev *device;
static ac_diag device_diag;

int device_setup(void **state)
{
    (void)state;
    if (ac_dev_open(NULL, &device_diag, &device) == 0)
        return 0;
    print_error("%s\n", device_diag.msg);
    return -1;
}

int device_teardown(void **state)
{
    (void)state;
    ac_dev_close(device);
    device = NULL;
    return 0;
}

ac_dev *test_device(void)
{
    return device;
}

ac_diag *test_diag(void)
{
    return &device_diag;
}
