/* t_metrics.c - metrics of pictures against NumPy, SciPy and scikit-image (fixture `metrics`), and in closed form. */
#include "model_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "diff/metrics.h"
#include "diff/whiten.h"

static ac_diag dg;
static ac_st *features, *images;
static json_t *expected;

static int open_fixture(void **state)
{
    char path[4096];

    if (device_setup(state) != 0)
        return -1;
    if (!fixture_path(path, sizeof path, "metrics/values.json"))
        return 0;
    assert_non_null(expected = json_load_file(path, 0, NULL));
    features = fixture_open("metrics/features.safetensors");
    images = fixture_open("metrics/images.safetensors");
    return 0;
}

static int close_fixture(void **state)
{
    json_decref(expected);
    ac_st_close(features);
    ac_st_close(images);
    return device_teardown(state);
}

static void must(int rc)
{
    if (rc != 0)
        fail_msg("%s", dg.msg);
}

static json_t *value(const char *path, ...)
{
    json_t *at = expected;
    va_list ap;

    va_start(ap, path);
    for (const char *name = path; name; name = va_arg(ap, const char *))
        at = json_object_get(at, name);
    va_end(ap);
    assert_non_null(at);
    return at;
}

static void near(const char *what, double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * fabs(want)))
        fail_msg("%s: %.12g, not %.12g", what, got, want);
}

/* The rows' memory is a test's own: forget() frees it. */
static AC_VEC(float *) held;

static ac_feature_set rows(const char *key)
{
    const ac_st_tensor *t = ac_st_find(features, key);
    float *x;

    assert_non_null(t);
    x = fixture_f32(features, key, NULL);
    assert_true(AC_PUSH(&held, x));
    return (ac_feature_set){x, (size_t)t->dim[0], (size_t)t->dim[1]};
}

static void forget(void)
{
    while (held.n)
        free(held.p[--held.n]);
    free(held.p);
    held.p = NULL;
    held.cap = 0;
}

static void frechet(void **state)
{
    static const char *const cases[] = {"full", "low_rank", "few"};

    (void)state;
    if (!expected)
        skip();
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        char key[64];
        ac_feature_set real, fake;
        double d, back;
        snprintf(key, sizeof key, "fid.%s.real", cases[i]);
        real = rows(key);
        snprintf(key, sizeof key, "fid.%s.fake", cases[i]);
        fake = rows(key);
        must(ac_frechet(&real, &fake, &dg, &d));
        must(ac_frechet(&fake, &real, &dg, &back));
        near(cases[i], d, json_number_value(value("fid", cases[i], "fid", NULL)), 1e-6);
        near("the other way round", back, d, 1e-6);
        must(ac_frechet(&real, &real, &dg, &d));
        assert_true(d < 1e-5 * back);
        forget();
    }
}

/* Two sets on axes: in each dimension a mean and a variance of its own, so that the distance is a sum. */
static void frechet_of_axes(void **state)
{
    enum { D = 5, N = 2 * D };
    static const double scale[2][D] = {{1, 2, 0, 0.5, 3}, {2, 1, 1, 0.5, 0}}, mean[2][D] = {{0, 1, 2, 3, 4}, {1, 1, 0, 3, 4.5}};
    float x[2][N][D];
    ac_feature_set a = {x[0][0], N, D}, b = {x[1][0], N, D};
    double want = 0, got;

    (void)state;
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < N; i++)
            for (int k = 0; k < D; k++)
                x[s][i][k] = (float)(mean[s][k] + (i / 2 == k ? scale[s][k] * (i % 2 ? 1 : -1) : 0));
    for (int k = 0; k < D; k++) {
        double r = scale[0][k] * sqrt(2.0 / (N - 1)), f = scale[1][k] * sqrt(2.0 / (N - 1));
        want += (mean[0][k] - mean[1][k]) * (mean[0][k] - mean[1][k]) + (r - f) * (r - f);
    }
    must(ac_frechet(&a, &b, &dg, &got));
    near("axes", got, want, 1e-7);
}

/* Rows on two turned axes, with a mean: the map turns back, divides by the deviations and turns again. A third axis on which nothing
 * varies is left at zero, or divided by the floor. */
static void whitening(void **state)
{
    enum { D = 3, N = 4 };
    static const double mean[D] = {1, -2, 5}, deviation[2] = {3, 0.5}, axis[2][D] = {{0.8, 0.6, 0}, {-0.6, 0.8, 0}}, floors[2] = {0, 0.25};
    float x[N][D], weight[D][D], bias[D];
    ac_whitener w;

    (void)state;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < D; k++) {
            x[i][k] = (float)mean[k];
            for (int a = 0; a < 2; a++)
                x[i][k] += (float)(((i >> a) & 1 ? 1 : -1) * deviation[a] * axis[a][k]);
        }
    must(ac_whitener_open(D, &dg, &w));
    must(ac_whitener_add(&w, x[0], 1, &dg));
    assert_int_equal(ac_whitener_map(&w, 0, &dg, weight[0], bias), ADDCL_E_ARG); /* of one row */
    ac_clear(&dg);
    must(ac_whitener_add(&w, x[1], N - 1, &dg));
    for (int f = 0; f < 2; f++) {
        double floor = floors[f] * (deviation[0] * deviation[0] + deviation[1] * deviation[1]) / D;
        must(ac_whitener_map(&w, floors[f], &dg, weight[0], bias));
        for (int i = 0; i < D; i++) {
            double at_mean = (double)bias[i];
            for (int k = 0; k < D; k++) {
                double want = i == 2 && k == 2 && f ? 1 / sqrt(floor) : 0;
                for (int a = 0; a < 2; a++)
                    want += axis[a][i] * axis[a][k] / sqrt(deviation[a] * deviation[a] + floor);
                assert_true(fabs((double)weight[i][k] - want) < 1e-5);
                at_mean += (double)weight[i][k] * mean[k];
            }
            assert_true(fabs(at_mean) < 1e-5);
        }
    }
    ac_whitener_close(&w);
}

static void kernel(void **state)
{
    ac_feature_set real, fake;
    double *ri, *fi, sum = 0, square = 0, v, mean, deviation, again;
    size_t m = 100, n;

    (void)state;
    if (!expected)
        skip();
    real = rows("fid.full.real");
    fake = rows("fid.full.fake");
    ri = fixture_f64(features, "kid.subset_real", &n);
    fi = fixture_f64(features, "kid.subset_fake", NULL);
    assert_int_equal(n, 10 * m);
    for (size_t k = 0; k < 10; k++) {
        size_t r[100], f[100];
        for (size_t i = 0; i < m; i++) {
            r[i] = (size_t)ri[k * m + i];
            f[i] = (size_t)fi[k * m + i];
        }
        must(ac_mmd(&real, r, &fake, f, m, &dg, &v));
        near("subset", v, json_number_value(json_array_get(value("kid", "subsets", NULL), k)), 1e-9);
        sum += v / 10;
        square += v * v / 10;
    }
    near("mean", sum, json_number_value(value("kid", "mean", NULL)), 1e-9);
    near("deviation", sqrt(square - sum * sum), json_number_value(value("kid", "std", NULL)), 1e-7);
    must(ac_kid(&real, &fake, 1, &dg, &mean, &deviation));
    must(ac_kid(&real, &fake, 1, &dg, &again, &deviation));
    assert_true(mean == again);
    near("of random subsets", mean, json_number_value(value("kid", "all", NULL)), 0.05);
    assert_true(deviation > 0 && deviation < mean);
    forget();
    free(ri);
    free(fi);
}

static void precision(void **state)
{
    ac_feature_set real, fake;
    double p, r;

    (void)state;
    if (!expected)
        skip();
    real = rows("pr.real");
    fake = rows("pr.fake");
    for (int k = 3; k <= 5; k += 2) {
        const char *name = k == 3 ? "k3" : "k5";
        must(ac_precision_recall(&real, &fake, k, &dg, &p, &r));
        near("precision", p, json_number_value(value("precision_recall", name, "precision", NULL)), 1e-12);
        near("recall", r, json_number_value(value("precision_recall", name, "recall", NULL)), 1e-12);
    }
    must(ac_precision_recall(&real, &real, 3, &dg, &p, &r));
    assert_true(p == 1 && r == 1);
    forget();
}

static void cosine(void **state)
{
    ac_feature_set image, text;

    (void)state;
    if (!expected)
        skip();
    image = rows("clip.image");
    text = rows("clip.text");
    near("mean cosine", ac_mean_cosine(&image, &text), json_number_value(value("clip_score", "mean", NULL)), 1e-6);
    forget();
}

static void pairs(void **state)
{
    (void)state;
    if (!expected)
        skip();
    for (size_t i = 0; i < json_array_size(value("image_pairs", NULL)); i++) {
        json_t *want = json_array_get(value("image_pairs", NULL), i);
        char key[32];
        const ac_st_tensor *a, *b;
        double mse, ssim;
        snprintf(key, sizeof key, "pair%zu.a", i);
        assert_non_null(a = ac_st_find(images, key));
        snprintf(key, sizeof key, "pair%zu.b", i);
        assert_non_null(b = ac_st_find(images, key));
        mse = ac_mse(a->data, b->data, (size_t)(a->dim[0] * a->dim[1] * a->dim[2]));
        near("mse", mse, json_number_value(json_object_get(want, "mse")), 1e-9);
        near("psnr", ac_psnr(mse), json_number_value(json_object_get(want, "psnr")), 1e-9);
        must(ac_ssim(a->data, b->data, (int)a->dim[0], (int)a->dim[1], (int)a->dim[2], &dg, &ssim));
        near("ssim", ssim, json_number_value(json_object_get(want, "ssim")), 1e-6);
        must(ac_ssim(a->data, a->data, (int)a->dim[0], (int)a->dim[1], (int)a->dim[2], &dg, &ssim));
        near("of itself", ssim, 1, 1e-12);
    }
    assert_true(isinf(ac_psnr(0)));
}

/* Mean over rings of the power of pictures, as the fixture counts them; and a wave's, which is one ring's. */
static void spectrum(void **state)
{
    static const char *const cases[] = {"square", "wide"};

    (void)state;
    if (!expected)
        skip();
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        char key[64];
        const ac_st_tensor *t;
        const uint8_t *rgb;
        float *luma, *power;
        double *want, ring[64], error = 0, size = 0;
        size_t n, pixels, bins;
        int h, w;
        snprintf(key, sizeof key, "spectrum.%s.images", cases[i]);
        assert_non_null(t = ac_st_find(images, key));
        n = (size_t)t->dim[0];
        h = (int)t->dim[1];
        w = (int)t->dim[2];
        pixels = (size_t)(h * w);
        bins = (size_t)AC_MIN(h, w) / 2 + 1;
        rgb = t->data;
        assert_non_null(luma = calloc(n * pixels, sizeof *luma));
        assert_non_null(power = calloc(n * pixels, sizeof *power));
        for (size_t k = 0; k < n * pixels; k++)
            luma[k] = ac_luma(rgb + 3 * k);
        if (ac_dev_power(test_device(), luma, (int)n, h, w, power) < 0)
            fail_msg("%s", test_diag()->msg);
        snprintf(key, sizeof key, "spectrum.%s.each", cases[i]);
        want = fixture_f64(images, key, NULL);
        for (size_t k = 0; k < n; k++) {
            must(ac_rings(power + k * pixels, h, w, &dg, ring));
            for (size_t r = 0; r < bins; r++) {
                error += (ring[r] - want[k * bins + r]) * (ring[r] - want[k * bins + r]);
                size += want[k * bins + r] * want[k * bins + r];
            }
        }
        assert_true(error < 1e-9 * size);
        free(luma);
        free(power);
        free(want);
    }
    assert_int_equal(ac_dev_power(test_device(), NULL, 1, 34, 64, NULL), ADDCL_E_UNSUPPORTED);
    ac_clear(test_diag());
}

static void wave(void **state)
{
    enum { H = 24, W = 40, K = 5 };
    float x[H * W], power[H * W];
    double ring[H / 2 + 1];

    (void)state;
    for (int i = 0; i < H * W; i++)
        x[i] = (float)cos(2 * 3.14159265358979 * K * (i % W) / W);
    if (ac_dev_power(test_device(), x, 1, H, W, power) < 0)
        fail_msg("%s", test_diag()->msg);
    near("power of a wave", (double)power[K], H * W / 4.0, 1e-5);
    must(ac_rings(power, H, W, &dg, ring));
    for (int r = 0; r <= H / 2; r++)
        assert_true(r == H * K / W ? ring[r] > 1 : ring[r] < 1e-6);
}

static void refusals(void **state)
{
    static const float x[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, bad[4] = {0, NAN, 1, 2};
    ac_feature_set a = {x, 4, 3}, b = {x, 3, 4}, one = {x, 1, 3}, nan = {bad, 2, 2}, two = {x, 2, 2};
    double v, w;

    (void)state;
    assert_int_equal(ac_frechet(&a, &b, &dg, &v), ADDCL_E_ARG);
    assert_non_null(strstr(dg.msg, "3 and of 4"));
    ac_clear(&dg);
    assert_int_equal(ac_frechet(&a, &one, &dg, &v), ADDCL_E_ARG);
    assert_non_null(strstr(dg.msg, "too few"));
    ac_clear(&dg);
    assert_int_equal(ac_precision_recall(&a, &one, 3, &dg, &v, &w), ADDCL_E_ARG);
    ac_clear(&dg);
    assert_int_equal(ac_frechet(&two, &nan, &dg, &v), ADDCL_E_ARG);
    assert_non_null(strstr(dg.msg, "not finite"));
    ac_clear(&dg);
    assert_int_equal(ac_ssim((const uint8_t *)x, (const uint8_t *)x, 4, 3, 1, &dg, &v), ADDCL_E_ARG);
    ac_clear(&dg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(frechet), cmocka_unit_test(frechet_of_axes), cmocka_unit_test(whitening), cmocka_unit_test(kernel),
                                       cmocka_unit_test(precision), cmocka_unit_test(cosine), cmocka_unit_test(pairs),
                                       cmocka_unit_test(spectrum), cmocka_unit_test(wave),
                                       cmocka_unit_test(refusals)};

    return cmocka_run_group_tests_name("metrics", tests, open_fixture, close_fixture);
}
