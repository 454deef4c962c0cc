/* sample_support.c - what the tests of whole models share. */
#include "sample_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static addcl_ctx *context;
static ac_str log_text;

static void keep_log(void *user, int level, const char *line)
{
    (void)user;
    if (level <= ADDCL_LOG_INFO)
        ac_str_addf(&log_text, "%s\n", line);
}

int context_setup(void **state)
{
    if (temp_setup(state) != 0 || !(context = addcl_new()))
        return -1;
    addcl_set_log(context, keep_log, NULL);
    if (addcl_open_device(context, NULL) == 0)
        return 0;
    print_error("%s\n", addcl_error(context));
    return -1;
}

int context_teardown(void **state)
{
    addcl_free(context);
    context = NULL;
    ac_str_free(&log_text);
    return temp_teardown(state);
}

addcl_ctx *test_context(void)
{
    return context;
}

const char *logged(void)
{
    return log_text.p ? log_text.p : "";
}

void clear_log(void)
{
    ac_str_free(&log_text);
    log_text = (ac_str){0};
}

const char *shipped_model(void)
{
    static char path[4096];

    return source_path(path, sizeof path, "models/emoji-teacher");
}

addcl_model *open_model(const char *path, addcl_type type)
{
    addcl_model_opts o = ADDCL_MODEL_OPTS_INIT;
    addcl_model *m = NULL;

    o.path = path;
    o.type = type;
    if (addcl_model_load(context, &o, &m) != 0)
        fail_msg("%s", addcl_error(context));
    return m;
}

int keep_image(void *user, int index, const addcl_image *image)
{
    size_t bytes = (size_t)image->width * (size_t)image->height * 3;
    pictures *p = user;
    addcl_image *copy;

    assert_int_equal(index, p->n);
    assert_true(p->n < MAX_PICTURES);
    copy = &p->image[p->n++];
    *copy = *image;
    copy->rgb = malloc(bytes);
    assert_non_null(copy->rgb);
    memcpy(copy->rgb, image->rgb, bytes);
    return 0;
}

pictures sample(addcl_model *model, addcl_sample_opts o, addcl_sample_result *result)
{
    pictures p = {0};

    o.on_image = keep_image;
    o.user = &p;
    if (addcl_sample(model, &o, result) != 0)
        fail_msg("%s", addcl_error(context));
    return p;
}

static int no_image(void *user, int index, const addcl_image *image)
{
    (void)user, (void)index, (void)image;
    fail_msg("an image in spite of the error");
    return 0;
}

void sample_fails(addcl_model *model, addcl_sample_opts o, int code, const char *part_of_message)
{
    if (!o.on_image)
        o.on_image = no_image;
    assert_int_equal(addcl_sample(model, &o, NULL), code);
    if (!strstr(addcl_error(context), part_of_message))
        fail_msg("\"%s\" does not say \"%s\"", addcl_error(context), part_of_message);
}

void pictures_free(pictures *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->image[i].rgb);
    p->n = 0;
}

static size_t common_size(const addcl_image *a, const addcl_image *b)
{
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    return (size_t)a->width * (size_t)a->height * 3;
}

int worst_difference(const addcl_image *a, const addcl_image *b)
{
    size_t n = common_size(a, b);
    int worst = 0;

    for (size_t i = 0; i < n; i++)
        worst = AC_MAX(worst, abs(a->rgb[i] - b->rgb[i]));
    return worst;
}

double psnr(const addcl_image *a, const addcl_image *b)
{
    size_t n = common_size(a, b);
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        double d = a->rgb[i] - b->rgb[i];
        sum += d * d / (double)n;
    }
    return sum > 0 ? 10 * log10(255 * 255 / sum) : (double)INFINITY;
}
