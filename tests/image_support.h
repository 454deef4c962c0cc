/* image_support.h - what the tests of pictures share. */
#ifndef AC_IMAGE_SUPPORT_H
#define AC_IMAGE_SUPPORT_H

#include "support.h"

#include <stdlib.h>
#include "base/file.h"
#include "io/image.h"

/* Deterministic noise (Numerical Recipes' LCG, high bits). */
static inline uint8_t noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (uint8_t)(*state >> 24);
}

static inline addcl_image *noise_image(int w, int h, uint32_t seed)
{
    addcl_image *im = ac_image_new(w, h);

    assert_non_null(im);
    for (size_t i = 0; i < (size_t)w * (size_t)h * 3; i++)
        im->rgb[i] = noise(&seed);
    return im;
}

static inline addcl_image *read_good(const char *path)
{
    ac_diag dg = {0};
    addcl_image *im = NULL;

    if (ac_image_read(path, &dg, &im) != 0)
        fail_msg("%s", dg.msg);
    return im;
}

static inline void write_good(const char *path, const addcl_image *im, const char *const (*texts)[2], size_t n)
{
    ac_diag dg = {0};

    if (ac_image_write_png(path, im, texts, n, &dg) != 0)
        fail_msg("%s", dg.msg);
}

static inline void assert_same_image(const addcl_image *a, const addcl_image *b)
{
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    assert_memory_equal(a->rgb, b->rgb, (size_t)a->width * (size_t)a->height * 3);
}

/* Content of a file in new memory. */
static inline uint8_t *slurp(const char *path, size_t *n)
{
    ac_diag dg = {0};
    char *data = NULL;

    if (ac_file_read(path, (size_t)1 << 24, &dg, &data, n) != 0)
        fail_msg("%s", dg.msg);
    return (uint8_t *)data;
}

/* Fails the n-th allocation of `call` for n = 1, 2, ... until it succeeds: E_NOMEM with a message each time. */
static inline void check_failing_memory(int (*call)(ac_diag *dg))
{
    unsigned long n = 1;

    for (int rc = -1; rc != 0; n++) {
        ac_diag dg = {0};
        ac_alloc_fail_at(n);
        rc = call(&dg);
        assert_true(rc == 0 || (rc == ADDCL_E_NOMEM && *dg.msg));
    }
    ac_alloc_fail_at(0);
    assert_true(n > 2);
}

#endif
