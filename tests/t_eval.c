/* t_eval.c - an evaluation of folders: its scores are those of the metrics on the features of the same pictures; captions, pairs,
 * counts, what it writes, what it refuses. */
#include "support.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "diff/metrics.h"
#include "eval/eval.h"
#include "io/image.h"

static addcl_ctx *ctx;
static char towers[4096], data[4096];

static int setup(void **state)
{
    if (temp_setup(state) != 0)
        return -1;
    source_path(data, sizeof data, "examples/emoji/data64");
    source_path(towers, sizeof towers, "models/emoji-clip");
    ctx = addcl_new();
    return ctx && addcl_open_device(ctx, NULL) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    addcl_free(ctx);
    return temp_teardown(state);
}

static addcl_evaluation *good(const addcl_eval_opts *o)
{
    addcl_evaluation *e;

    if (addcl_eval(ctx, o, &e) < 0)
        fail_msg("%s", addcl_error(ctx));
    return e;
}

static void bad(const addcl_eval_opts *o, int code, const char *message)
{
    addcl_evaluation *e;

    assert_int_equal(addcl_eval(ctx, o, &e), code);
    assert_null(e);
    if (!strstr(addcl_error(ctx), message))
        fail_msg("'%s' is not in '%s'", message, addcl_error(ctx));
}

/* Features of a set, picture by picture; *cosine: mean of pictures and captions. */
static float *features_of(const char *path, const char *filter, ac_feature_set *f, double *cosine)
{
    ac_eval_set_opts o = {.filter = filter, .caption = "{label}"};
    ac_eval_set s;
    ac_eval_tower t;
    uint8_t *rgb;
    float *x, *image, *text;
    char *caption;

    assert_int_equal(ac_eval_set_open(path, &o, &ctx->dg, &s), 0);
    assert_int_equal(ac_eval_tower_open(ctx, towers, true, 1, &t), 0);
    rgb = calloc((size_t)s.side * (size_t)s.side, 3);
    x = calloc(s.n * t.d, sizeof *x);
    image = calloc(t.D, sizeof *image);
    text = calloc(t.D, sizeof *text);
    assert_true(rgb && x && image && text);
    *cosine = 0;
    for (size_t i = 0; i < s.n; i++) {
        ac_feature_set one = {image, 1, t.D}, other = {text, 1, t.D};
        assert_int_equal(ac_eval_set_get(&s, i, &ctx->dg, rgb, &caption), 0);
        assert_int_equal(ac_eval_tower_images(&t, rgb, 1, s.side, &ctx->dg, x + i * t.d, image), 0);
        assert_int_equal(ac_eval_tower_texts(&t, &caption, 1, &ctx->dg, text), 0);
        *cosine += ac_mean_cosine(&one, &other) / (double)s.n;
        free(caption);
    }
    free(image);
    free(text);
    *f = (ac_feature_set){x, s.n, t.d};
    free(rgb);
    ac_eval_tower_close(&t);
    ac_eval_set_close(&s);
    return x;
}

static void near(const char *what, double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * fmax(fabs(want), 1e-3)))
        fail_msg("%s: %.12g, not %.12g", what, got, want);
}

static void scores(void **state)
{
    const char *const sets[] = {data};
    addcl_eval_opts o = ADDCL_EVAL_OPTS_INIT;
    addcl_evaluation *e;
    const addcl_eval_row *row;
    ac_feature_set real, fake;
    float *own[2];
    double v, w, cosine[2];
    size_t n;

    (void)state;
    o.sets = sets;
    o.n_sets = 1;
    o.reference = data;
    o.filter = "style=noto";
    o.features = towers;
    o.clip = towers;
    o.caption = "{label}";
    o.seed = 5;
    o.batch_size = 7; /* the last batch is not full */
    e = good(&o);
    row = addcl_evaluation_rows(e, &n);
    assert_int_equal(n, 2);
    assert_int_equal(row[0].pictures, 32);
    assert_int_equal(row[1].pictures, 64);
    assert_true(isnan(row[0].fid) && isnan(row[1].psnr));
    own[0] = features_of(data, o.filter, &real, &cosine[0]);
    own[1] = features_of(data, NULL, &fake, &cosine[1]);
    near("clip score", row[0].clip_score, cosine[0], 1e-4);
    near("clip score", row[1].clip_score, cosine[1], 1e-4);
    assert_true(cosine[0] > 0.1); /* the towers know these pictures */
    assert_int_equal(ac_frechet(&real, &fake, &ctx->dg, &v), 0);
    near("fid", row[1].fid, v, 1e-4);
    assert_int_equal(ac_kid(&real, &fake, 5, &ctx->dg, &v, &w), 0);
    near("kid", row[1].kid, v, 1e-4);
    near("kid's deviation", row[1].kid_deviation, w, 1e-4);
    assert_int_equal(ac_precision_recall(&real, &fake, 3, &ctx->dg, &v, &w), 0);
    near("precision", row[1].precision, v, 1e-12);
    near("recall", row[1].recall, w, 1e-12);
    assert_int_equal(row[1].rings, 33);
    assert_true(row[1].spectrum[1] > row[1].spectrum[32] && row[1].spectrum[32] > 0);
    addcl_evaluation_free(e);
    free(own[0]);
    free(own[1]);
}

/* Pictures that are all one brighter: known errors; and a set of the wrong names. */
static void pairs(void **state)
{
    char folder[4096], path[4200];
    const char *sets[] = {folder};
    addcl_eval_opts o = ADDCL_EVAL_OPTS_INIT;
    addcl_evaluation *e;
    const addcl_eval_row *row;
    size_t n;

    (void)state;
    snprintf(folder, sizeof folder, "%s", temp_path("brighter"));
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s", temp_path("plain"));
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 0; i < 3; i++) {
        addcl_image *im = ac_image_new(16, 16);
        assert_non_null(im);
        for (int k = 0; k < 16 * 16 * 3; k++)
            im->rgb[k] = (uint8_t)(40 * i + k % 50);
        snprintf(path, sizeof path, "%s/%d.png", temp_path("plain"), i);
        assert_int_equal(ac_image_write_png(path, im, NULL, 0, &ctx->dg), 0);
        for (int k = 0; k < 16 * 16 * 3; k++)
            im->rgb[k]++;
        snprintf(path, sizeof path, "%s/%d.png", folder, i);
        assert_int_equal(ac_image_write_png(path, im, NULL, 0, &ctx->dg), 0);
        ac_image_free(im);
    }
    o.sets = sets;
    o.n_sets = 1;
    o.reference = path;
    snprintf(path, sizeof path, "%s", temp_path("plain"));
    o.pairs = 1;
    e = good(&o);
    row = addcl_evaluation_rows(e, &n);
    near("psnr", row[1].psnr, 20 * log10(255), 1e-9);
    assert_true(row[1].ssim > 0.99 && row[1].ssim < 1);
    addcl_evaluation_free(e);
    o.sets = &o.reference;
    e = good(&o);
    row = addcl_evaluation_rows(e, &n);
    near("psnr of itself", row[1].psnr, 100, 1e-12);
    near("ssim of itself", row[1].ssim, 1, 1e-12);
    addcl_evaluation_free(e);
    o.sets = sets;
    snprintf(path, sizeof path, "%s/2.png", folder);
    rename(path, temp_path("brighter/other.png"));
    snprintf(path, sizeof path, "%s", temp_path("plain"));
    bad(&o, ADDCL_E_ARG, "no picture 'other.png'");
}

static void written(void **state)
{
    const char *const sets[] = {data};
    addcl_eval_opts o = ADDCL_EVAL_OPTS_INIT;
    addcl_evaluation *e;
    char path[4200];
    json_t *j;

    (void)state;
    snprintf(path, sizeof path, "%s/out/eval.json", temp_path("written"));
    o.sets = sets;
    o.n_sets = 1;
    o.count = 10;
    o.caption = "{label}";
    o.output = temp_path("written/out");
    e = good(&o);
    addcl_evaluation_free(e);
    assert_non_null(j = json_load_file(temp_path("written/out/eval.json"), 0, NULL));
    assert_int_equal(json_integer_value(json_object_get(json_array_get(json_object_get(j, "rows"), 0), "pictures")), 10);
    assert_true(json_is_null(json_object_get(json_array_get(json_object_get(j, "rows"), 0), "fid")));
    json_decref(j);
    assert_true(ac_exists(temp_path("written/out/eval.html")));
    assert_true(ac_exists(temp_path("written/out/sheet-0.png")));
}

static void refusals(void **state)
{
    static const char *const nowhere[] = {"nowhere"};
    const char *const sets[] = {data};
    addcl_eval_opts o = ADDCL_EVAL_OPTS_INIT;

    (void)state;
    bad(&o, ADDCL_E_ARG, "no pictures");
    o.sets = nowhere;
    o.n_sets = 1;
    bad(&o, ADDCL_E_IO, "nowhere");
    o.sets = sets;
    o.pairs = 1;
    bad(&o, ADDCL_E_ARG, "reference");
    o.pairs = 0;
    o.features = data;
    bad(&o, ADDCL_E_IO, "config.json");
    o.features = NULL;
    o.caption = "{nonsense}";
    bad(&o, ADDCL_E_ARG, "nonsense");
    o.caption = NULL;
    o.batch_size = 0;
    bad(&o, ADDCL_E_ARG, "batch size 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(scores), cmocka_unit_test(pairs), cmocka_unit_test(written), cmocka_unit_test(refusals)};

    return cmocka_run_group_tests_name("eval", tests, setup, teardown);
}
