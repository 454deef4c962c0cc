/* sample_support.h - what the tests of whole models share: a context with its log, models, pictures. */
#ifndef AC_SAMPLE_SUPPORT_H
#define AC_SAMPLE_SUPPORT_H

#include "support.h"
#include "addcl.h"

/* cmocka group setup and teardown: a temporary folder, and a context with the device open ($ADDCL_DEVICE or the best).
 */
int context_setup(void **state);
int context_teardown(void **state);
addcl_ctx *test_context(void);
/* Lines of level INFO and worse since the last call of clear_log, joined by newlines. */
const char *logged(void);
void clear_log(void);

/* The model that ships with the sources. */
const char *shipped_model(void);
/* Fails the test when the model cannot be opened; release with addcl_model_free. */
addcl_model *open_model(const char *path, addcl_type type);

enum { MAX_PICTURES = 8 };
typedef struct pictures {
    int n;
    addcl_image image[MAX_PICTURES];
} pictures;
/* An addcl_sample_opts.on_image whose `user` is a `pictures`: keeps a copy. */
int keep_image(void *user, int index, const addcl_image *image);
/* Runs with these options and keeps the images; fails the test on any error. */
pictures sample(addcl_model *model, addcl_sample_opts o, addcl_sample_result *result);
/* The same where an error is expected. */
void sample_fails(addcl_model *model, addcl_sample_opts o, int code, const char *part_of_message);
void pictures_free(pictures *p);
/* Largest difference of two values in 0..255. */
int worst_difference(const addcl_image *a, const addcl_image *b);
/* 10 log10(255^2 / mean squared error); INFINITY: equal. */
double psnr(const addcl_image *a, const addcl_image *b);

#endif
