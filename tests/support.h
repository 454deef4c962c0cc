/* support.h - what the test programs share: reference fixtures and a temporary folder. Brings cmocka.h and all it
 * needs. */
#ifndef AC_SUPPORT_H
#define AC_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "dev/dev.h"
#include "io/safetensors.h"

/* Built with a sanitizer: limits on time and memory do not hold. */
#if defined(__has_feature)
#define SANITIZED                                                                                                      \
    (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Path of `rel` in the source tree, in buf, which it returns: below $srcdir as automake sets it, "." without. */
char *source_path(char *buf, size_t n, const char *rel);

/* Folder of the fixtures: $ADDCL_FIXTURES; else ../shared/fixtures beside the source tree where it exists; else its tests/data. */
const char *fixture_dir(void);

/* Path of the fixture `rel` in buf. False, with a line on stderr, when it is missing: the test then calls skip(). */
bool fixture_path(char *buf, size_t n, const char *rel);

/* An opened safetensors file below fixture_dir(); fails the test when it cannot be opened. */
ac_st *fixture_open(const char *rel);

/* The tensor's n elements (n may be NULL) as new memory (free()), converted from any real number type of at most 8
 * bytes. Fails the test when the tensor is absent. */
double *fixture_f64(const ac_st *st, const char *name, size_t *n);
float *fixture_f32(const ac_st *st, const char *name, size_t *n);

/* cmocka group setup and teardown: a fresh folder in $TMPDIR or /tmp, removed with everything in it. */
int temp_setup(void **state);
int temp_teardown(void **state);
/* "<folder>/<name>"; the text is good until 8 further calls. */
const char *temp_path(const char *name);
/* Writes n bytes to temp_path(name), which is returned. */
const char *temp_write(const char *name, const void *data, size_t n);

/* cmocka group setup and teardown: opens the device ($ADDCL_DEVICE or the best) that test_device() gives, with its messages in
 * test_diag(). */
int device_setup(void **state);
int device_teardown(void **state);
ac_dev *test_device(void);
ac_diag *test_diag(void);

#endif
