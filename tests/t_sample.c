/* t_sample.c - addcl_sample on the shipped model: what must give equal images, what must not, and what is refused. */
#include "sample_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/rng.h"

static const char *const apple[] = {"red apple, flat emoji"};
static const char *const two[] = {"red apple, flat emoji", "grinning face, flat emoji"};

/* A short run: the properties here do not depend on the number of steps. */
static addcl_sample_opts few_steps(void)
{
    addcl_sample_opts o = ADDCL_SAMPLE_OPTS_INIT;

    o.prompts = apple;
    o.n_prompts = 1;
    o.steps = 4;
    o.seed = 7;
    return o;
}

static addcl_model *model; /* the shipped one, f16 */

static int setup(void **state)
{
    if (context_setup(state) != 0)
        return -1;
    model = open_model(shipped_model(), ADDCL_F16);
    return 0;
}

static int teardown(void **state)
{
    addcl_model_free(model);
    return context_teardown(state);
}

/* Both runs give the same bytes (or do not). */
static void compare_runs(addcl_model *ma, addcl_sample_opts a, addcl_model *mb, addcl_sample_opts b, bool equal)
{
    pictures pa = sample(ma, a, NULL), pb = sample(mb, b, NULL);

    assert_int_equal(pa.n, pb.n);
    for (int i = 0; i < pa.n; i++)
        if ((worst_difference(&pa.image[i], &pb.image[i]) == 0) != equal)
            fail_msg("image %d: %s", i, equal ? "differs" : "is the same");
    pictures_free(&pa);
    pictures_free(&pb);
}

/* ------------------------------------------------------------------------------------------------ determinism */

static void test_repeats(void **state)
{
    addcl_sample_opts o = few_steps(), other = few_steps();

    (void)state;
    compare_runs(model, o, model, o, true);
    other.seed = 8;
    compare_runs(model, o, model, other, false);
    other = o;
    other.negative_prompt = "green";
    compare_runs(model, o, model, other, false);
    other = o;
    other.prompts = two + 1;
    compare_runs(model, o, model, other, false);
    other = o;
    other.rng = "cuda";
    compare_runs(model, o, model, other, false);
    compare_runs(model, other, model, other, true);
}

/* Every image depends on its prompt and seed only, whatever it is computed together with. */
static void test_batches(void **state)
{
    addcl_sample_opts o = few_steps();
    pictures one, pairs;

    (void)state;
    o.prompts = two;
    o.n_prompts = 2;
    o.count = 3;
    one = sample(model, o, NULL);
    o.batch_size = 2;
    pairs = sample(model, o, NULL);
    assert_int_equal(one.n, 3);
    assert_int_equal(pairs.n, 3);
    for (int i = 0; i < 3; i++)
        assert_in_range(worst_difference(&one.image[i], &pairs.image[i]), 0, 1);
    pictures_free(&pairs);
    o.prompts = two;
    o.n_prompts = 1;
    o.count = 1;
    o.seed += 2;
    pairs = sample(model, o, NULL); /* image 2 again, by itself */
    assert_int_equal(worst_difference(&one.image[2], &pairs.image[0]), 0);
    pictures_free(&one);
    pictures_free(&pairs);
}

/* Noise given by the caller is the noise of the seed. */
static void test_seed_is_noise(void **state)
{
    addcl_sample_opts o = few_steps(), given = few_steps();
    float noise[4 * 16 * 16];
    ac_rng rng;

    (void)state;
    ac_rng_init(&rng, AC_RNG_CPU, 7);
    ac_rng_randn(&rng, noise, AC_LEN(noise));
    given.noise = noise;
    given.seed = 99;
    compare_runs(model, o, model, given, true);
}

/* ------------------------------------------------------------------------------------------------ the same model */

static void test_single_file(void **state)
{
    const char *path = temp_path("model.safetensors");
    addcl_model *file;

    (void)state;
    if (addcl_convert(test_context(), shipped_model(), path, NULL) != 0)
        fail_msg("%s", addcl_error(test_context()));
    file = open_model(path, ADDCL_F16);
    assert_string_equal(addcl_model_get_info(file)->layout, "single-file");
    compare_runs(model, few_steps(), file, few_steps(), true);
    addcl_model_free(file);
}

/* The shipped weights are f16: f32 storage computes the same but for rounding, bf16 drops bits. */
static void test_storage(void **state)
{
    static const struct {
        addcl_type type;
        double psnr;
    } types[] = {{ADDCL_F32, 45}, {ADDCL_BF16, 25}};
    pictures half = sample(model, few_steps(), NULL);

    (void)state;
    for (size_t i = 0; i < AC_LEN(types); i++) {
        addcl_model *m = open_model(shipped_model(), types[i].type);
        pictures p = sample(m, few_steps(), NULL);
        double db = psnr(&half.image[0], &p.image[0]);
        print_message("# storage %zu: %.1f dB\n", i, db);
        assert_true(db >= types[i].psnr);
        assert_true(types[i].type == ADDCL_F32 || isfinite(db));
        pictures_free(&p);
        addcl_model_free(m);
    }
    pictures_free(&half);
}

/* ---------------------------------------------------------------------------------------------------- samplers */

static void test_samplers(void **state)
{
    static const char *const names[] = {"euler", "euler_a", "ddim", "lcm", "dpmpp_2m"};
    pictures p[AC_LEN(names)];

    (void)state;
    for (size_t i = 0; i < AC_LEN(names); i++) {
        addcl_sample_opts o = few_steps();
        addcl_sample_result res;
        pictures again;
        o.sampler = names[i];
        p[i] = sample(model, o, &res);
        assert_string_equal(res.sampler, names[i]);
        again = sample(model, o, NULL);
        assert_int_equal(worst_difference(&p[i].image[0], &again.image[0]), 0);
        pictures_free(&again);
        for (size_t k = 0; k < i; k++)
            assert_true(worst_difference(&p[i].image[0], &p[k].image[0]) > 1);
    }
    for (size_t i = 0; i < AC_LEN(names); i++)
        pictures_free(&p[i]);
}

/* Time steps by hand that are the schedule's own change nothing. */
static void test_timesteps(void **state)
{
    static const double own[] = {999, 749, 499, 249}, other[] = {999, 600, 300, 100}, rising[] = {249, 499};
    addcl_sample_opts o = few_steps(), given = few_steps();

    (void)state;
    given.steps = 0;
    given.timesteps = own;
    given.n_timesteps = AC_LEN(own);
    compare_runs(model, o, model, given, true);
    given.timesteps = other;
    compare_runs(model, o, model, given, false);
    given.timesteps = rising;
    given.n_timesteps = AC_LEN(rising);
    sample_fails(model, given, ADDCL_E_ARG, "499");
}

static void test_guidance(void **state)
{
    addcl_sample_opts off = few_steps(), one = few_steps(), own = few_steps(), four = few_steps();

    (void)state;
    off.cfg_scale = 0;
    one.cfg_scale = 1;
    four.cfg_scale = addcl_model_get_info(model)->cfg_scale;
    compare_runs(model, off, model, one, true);
    compare_runs(model, own, model, four, true);
    compare_runs(model, off, model, own, false);
}

/* ---------------------------------------------------------------------------------------------- image to image */

static int first_step = -1;

static void note_first_step(void *user, int first, int n, int step, const float *latents, const size_t shape[4])
{
    (void)user, (void)first, (void)n, (void)latents, (void)shape;
    if (first_step < 0)
        first_step = step;
}

/* The weaker, the closer to the picture; steps are left out at the beginning. */
static void test_image_to_image(void **state)
{
    static const double strengths[] = {0.1, 0.5, 1};
    addcl_sample_opts o = few_steps();
    double db[AC_LEN(strengths)];
    pictures base = sample(model, o, NULL);

    (void)state;
    o.init = &base.image[0];
    o.prompts = two + 1;
    o.steps = 10;
    o.seed = 3;
    o.on_latents = note_first_step;
    for (size_t i = 0; i < AC_LEN(strengths); i++) {
        pictures p, again;
        o.strength = strengths[i];
        first_step = -1;
        p = sample(model, o, NULL);
        assert_int_equal(first_step, 10 - (int)(10 * strengths[i]));
        again = sample(model, o, NULL);
        assert_int_equal(worst_difference(&p.image[0], &again.image[0]), 0);
        db[i] = psnr(&base.image[0], &p.image[0]);
        assert_true(i == 0 || db[i] < db[i - 1]);
        pictures_free(&p);
        pictures_free(&again);
    }
    print_message("# image to image: %.1f %.1f %.1f dB\n", db[0], db[1], db[2]);
    assert_true(db[0] > 18);
    pictures_free(&base);
}

/* The error names a strength and a number of steps that work. */
static void test_weak_strength(void **state)
{
    addcl_sample_opts o = few_steps();
    pictures base = sample(model, o, NULL), p;
    const char *works;

    (void)state;
    o.init = &base.image[0];
    o.strength = 0.1;
    sample_fails(model, o, ADDCL_E_ARG, " works, or 10 steps");
    works = strstr(addcl_error(test_context()), ": strength ");
    assert_non_null(works);
    o.strength = strtod(works + strlen(": strength "), NULL);
    p = sample(model, o, NULL);
    pictures_free(&p);
    o.strength = 0.1;
    o.steps = 10;
    p = sample(model, o, NULL);
    pictures_free(&p);
    o.width = 128;
    sample_fails(model, o, ADDCL_E_ARG, "64x64");
    pictures_free(&base);
}

/* ---------------------------------------------------------------------------------------------------- decoder */

/* Tiles see less of their surroundings, in attention and norms above all: close, not equal. */
static void test_tiles(void **state)
{
    addcl_sample_opts o = few_steps();
    addcl_sample_result res;
    pictures whole, tiled;
    double db;

    (void)state;
    o.width = 128;
    o.height = 96;
    o.vae_tiling = ADDCL_TILING_OFF;
    whole = sample(model, o, &res);
    assert_int_equal(res.tiled, 0);
    o.vae_tiling = ADDCL_TILING_ON;
    o.vae_tile_size = 64;
    tiled = sample(model, o, &res);
    assert_int_equal(res.tiled, 1);
    db = psnr(&whole.image[0], &tiled.image[0]);
    print_message("# tiles: %.1f dB\n", db);
    assert_true(db > 25 && isfinite(db));
    pictures_free(&tiled);
    o.vae_tile_size = 256; /* one tile: the image itself */
    tiled = sample(model, o, NULL);
    assert_int_equal(worst_difference(&whole.image[0], &tiled.image[0]), 0);
    pictures_free(&whole);
    pictures_free(&tiled);
}

/* The plan that a dry run shows is the one that is kept. */
static void test_plan(void **state)
{
    addcl_sample_opts o = few_steps();
    addcl_sample_result planned, res;
    addcl_estimate e;
    pictures p;

    (void)state;
    assert_int_equal(addcl_sample_plan(model, &o, &planned, &e), 0);
    p = sample(model, o, &res);
    pictures_free(&p);
    assert_int_equal(planned.planned_bytes, res.planned_bytes);
    assert_true(e.text_bytes > 0 && e.unet_bytes > 0 && e.vae_bytes > 0 && e.unet_flop > e.text_flop);
    print_message("# device buffers: planned %.2f MB, reached %.2f MB\n", (double)res.planned_bytes / 1e6,
                  (double)res.peak_bytes / 1e6);
    assert_true((double)res.peak_bytes <= 1.1 * (double)res.planned_bytes);
    assert_true((double)res.peak_bytes >= 0.9 * (double)res.planned_bytes);
}

/* ---------------------------------------------------------------------------------------------------- messages */

static void test_long_prompt(void **state)
{
    char text[1024] = "";
    const char *prompts[] = {text};
    addcl_sample_opts o = few_steps();
    pictures p;

    (void)state;
    for (int i = 0; i < 100; i++)
        strcat(text, "red ");
    strcat(text, "zebra");
    o.prompts = prompts;
    o.steps = 1;
    clear_log();
    p = sample(model, o, NULL);
    pictures_free(&p);
    if (!strstr(logged(), "zebra") || !strstr(logged(), "75 tokens"))
        fail_msg("the log does not tell what was dropped: %s", logged());
    clear_log();
    o.prompts = apple;
    p = sample(model, o, NULL);
    pictures_free(&p);
    assert_null(strstr(logged(), "tokens"));
}

static void test_refusals(void **state)
{
    static const double low[] = {5, 3, 4};
    addcl_sample_opts o = few_steps();

    (void)state;
    o.n_prompts = 0;
    sample_fails(model, o, ADDCL_E_ARG, "prompt");
    o = few_steps();
    o.width = 65;
    sample_fails(model, o, ADDCL_E_ARG, "multiples of 4");
    o.width = 1 << 20;
    sample_fails(model, o, ADDCL_E_ARG, "16384");
    o = few_steps();
    o.sampler = "plms";
    sample_fails(model, o, ADDCL_E_ARG, "\"plms\" is no sampler");
    o = few_steps();
    o.rng = "mt";
    sample_fails(model, o, ADDCL_E_ARG, "\"mt\" is no generator");
    o = few_steps();
    o.spacing = "even";
    sample_fails(model, o, ADDCL_E_ARG, "\"even\" is no spacing");
    o = few_steps();
    o.steps = 1001;
    sample_fails(model, o, ADDCL_E_ARG, "1000");
    o = few_steps();
    o.sigmas = low;
    o.n_sigmas = AC_LEN(low);
    o.sampler = "euler";
    sample_fails(model, o, ADDCL_E_ARG, "sigma");
    o = few_steps();
    o.batch_size = -1;
    sample_fails(model, o, ADDCL_E_ARG, "-1");
}

/* ---------------------------------------------------------------------------------------------------- cancelling */

static int calls_left;

static int count_down(void *user, const addcl_progress *p)
{
    (void)user;
    assert_true(p->done <= p->total);
    return --calls_left <= 0;
}

static int stop(void *user, int index, const addcl_image *image)
{
    (void)user, (void)image;
    assert_int_equal(index, 0);
    return 1;
}

/* At every event of a run; the model stays usable. */
static void test_cancel(void **state)
{
    addcl_sample_opts o = few_steps();
    int events;

    (void)state;
    calls_left = 1000;
    addcl_set_progress(test_context(), count_down, NULL);
    pictures p = sample(model, o, NULL);
    events = 1000 - calls_left;
    assert_true(events >= o.steps + 2);
    for (int i = 1; i < events; i++) {
        calls_left = i;
        sample_fails(model, o, ADDCL_E_CANCELLED, "cancelled");
    }
    addcl_set_progress(test_context(), NULL, NULL);
    o.on_image = stop;
    sample_fails(model, o, ADDCL_E_CANCELLED, "cancelled");
    pictures again = sample(model, few_steps(), NULL);
    assert_int_equal(worst_difference(&p.image[0], &again.image[0]), 0);
    pictures_free(&p);
    pictures_free(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repeats),       cmocka_unit_test(test_batches),  cmocka_unit_test(test_seed_is_noise),
        cmocka_unit_test(test_single_file),   cmocka_unit_test(test_storage),  cmocka_unit_test(test_samplers),
        cmocka_unit_test(test_timesteps),     cmocka_unit_test(test_guidance), cmocka_unit_test(test_image_to_image),
        cmocka_unit_test(test_weak_strength), cmocka_unit_test(test_tiles),    cmocka_unit_test(test_plan),
        cmocka_unit_test(test_long_prompt),   cmocka_unit_test(test_refusals), cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests_name("sample", tests, setup, teardown);
}
