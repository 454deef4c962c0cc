/* t_pipeline.c - the fixture `pipeline`: diffusers' whole text-to-image runs on the emoji teacher, repeated from their
 * noise: ids, text states, latents after every step, images. */
#include "sample_support.h"

#include <limits.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "api_sample.h"

/* Allowances of the fixtures' README for float32. */
static const double text_tol = 1e-5, latent_tol = 1e-4, image_tol = 1e-3;

/* One run of config.json, and what it is compared with. */
typedef struct run {
    const ac_st *io;
    json_t *cfg;     /* config.json */
    const json_t *r; /* its entry */
    const char *key;
    float *want;               /* latents [steps,N,C,H,W] */
    float *last;               /* ours after the last step [N,C,H,W] */
    size_t n_images, n_latent; /* elements of a latent */
    int calls;                 /* latents seen, one an image and step */
    double latent_error;
    pictures shown;
} run;

static double number(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);

    if (!json_is_number(v))
        fail_msg("config.json: no number \"%s\"", key);
    return json_number_value(v);
}

/* A folder with everything of the model but its scheduler, and with this one. */
static const char *model_with(const char *model, const char *key, const json_t *scheduler)
{
    char name[64], from[PATH_MAX], to[PATH_MAX];
    const struct dirent *e;
    const char *dir;
    DIR *d;

    snprintf(name, sizeof name, "model-%s", key);
    dir = temp_path(name);
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_non_null(d = opendir(model));
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.' || strcmp(e->d_name, "scheduler") == 0)
            continue;
        assert_true(snprintf(from, sizeof from, "%s/%s", model, e->d_name) < (int)sizeof from);
        assert_true(snprintf(to, sizeof to, "%s/%s", dir, e->d_name) < (int)sizeof to);
        assert_int_equal(symlink(from, to), 0);
    }
    closedir(d);
    snprintf(to, sizeof to, "%s/scheduler", dir);
    assert_int_equal(mkdir(to, 0777), 0);
    snprintf(to, sizeof to, "%s/scheduler/scheduler_config.json", dir);
    assert_int_equal(json_dump_file(scheduler, to, 0), 0);
    return dir;
}

/* ---------------------------------------------------------------------------------------------------- text */

static double difference(const float *got, const float *want, size_t n)
{
    double worst = 0;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        worst = d <= worst ? worst : d; /* keeps NaN */
    }
    return worst;
}

static double largest(const float *x, size_t n)
{
    double m = 0;

    for (size_t i = 0; i < n; i++)
        m = fmax(m, fabs((double)x[i]));
    return m;
}

/* Ids and states of one text against row `row` of the fixture's tensors. */
static void check_text(const addcl_model *m, const ac_stage *s, const ac_st *io, const char *text, const char *ids_key,
                       const char *states_key, size_t row)
{
    int T = m->clip[0].positions, n;
    size_t kept, size = (size_t)T * (size_t)m->clip[0].width, have;
    int32_t *ids = malloc((size_t)T * sizeof *ids), eos = 0;
    double *want_ids = fixture_f64(io, ids_key, &have), error;
    float *want = fixture_f32(io, states_key, NULL), *got = malloc(size * sizeof *got);

    assert_true(ids && got && have >= (row + 1) * (size_t)T);
    assert_int_equal(ac_bpe_encode(m->bpe[0], text, T, ids, &n, &kept, &m->ctx->dg), 0);
    ac_bpe_fill(ids, n, T, m->pad[0]);
    for (int i = 0; i < T; i++)
        assert_int_equal(ids[i], (int)want_ids[row * (size_t)T + (size_t)i]);
    assert_int_equal(ac_feed(s->x, "ids", ids, (size_t)T * sizeof *ids), 0);
    assert_int_equal(ac_feed(s->x, "eos", &eos, sizeof eos), 0);
    assert_int_equal(ac_run(s->x), 0);
    assert_int_equal(ac_fetch(s->x, "states", got, size * sizeof *got), 0);
    error = difference(got, want + row * size, size) / largest(want + row * size, size);
    if (!(error <= text_tol))
        fail_msg("states of \"%s\": relative difference %.3g, at most %g", text, error, text_tol);
    free(ids);
    free(got);
    free(want);
    free(want_ids);
}

static void check_texts(const addcl_model *m, const json_t *cfg, const ac_st *io)
{
    const json_t *prompts = json_object_get(cfg, "prompts");
    ac_stage_size z = {.batch = 1, .tokens = m->clip[0].positions};
    ac_nets nets = ac_model_nets(m);
    ac_stage s;

    if (ac_stage_text(&nets, 0, false, false, &z, &s) != 0)
        fail_msg("%s", addcl_error(test_context()));
    for (size_t i = 0; i < json_array_size(prompts); i++)
        check_text(m, &s, io, json_string_value(json_array_get(prompts, i)), "ids", "hidden_cond", i);
    check_text(m, &s, io, json_string_value(json_object_get(cfg, "negative_prompt")), "uncond_ids", "hidden_uncond", 0);
    ac_stage_free(&s);
}

/* --------------------------------------------------------------------------------------------- latents, images */

static void on_latents(void *user, int first, int n, int step, const float *latents, const size_t shape[4])
{
    run *r = user;
    size_t size = r->n_latent * (size_t)n;

    assert_int_equal(shape[0], n);
    assert_int_equal(shape[1] * shape[2] * shape[3], r->n_latent);
    r->latent_error =
        fmax(r->latent_error,
             difference(latents, r->want + ((size_t)step * r->n_images + (size_t)first) * r->n_latent, size));
    memcpy(r->last + (size_t)first * r->n_latent, latents, size * sizeof *latents);
    r->calls += n;
}

static int on_image(void *user, int index, const addcl_image *image)
{
    return keep_image(&((run *)user)->shown, index, image);
}

/* Image i as the decoder gives it in f32, [3,H,W] in 0..1, from our own last latent. */
static float *decode(const addcl_model *m, const run *r, size_t i, int h, int w)
{
    int f = m->info.factor, C = m->unet.in_channels;
    size_t n = (size_t)h * (size_t)w * (size_t)(f * f) * 3;
    float *z = malloc(r->n_latent * sizeof *z), *nhwc = malloc(n * sizeof *nhwc), *image = malloc(n * sizeof *image);
    ac_stage_size size = {.batch = 1, .h = h, .w = w};
    ac_nets nets = ac_model_nets(m);
    ac_stage s;

    assert_true(z && nhwc && image);
    if (ac_stage_decode(&nets, &size, &s) != 0)
        fail_msg("%s", addcl_error(test_context()));
    ac_to_nhwc(z, r->last + i * r->n_latent, 1, C, h, w);
    assert_int_equal(ac_feed(s.x, "z", z, r->n_latent * sizeof *z), 0);
    assert_int_equal(ac_run(s.x), 0);
    assert_int_equal(ac_fetch(s.x, "image", nhwc, n * sizeof *nhwc), 0);
    ac_to_nchw(image, nhwc, 1, 3, h * f, w * f);
    for (size_t k = 0; k < n; k++)
        image[k] = fminf(fmaxf(image[k] / 2 + 0.5f, 0), 1);
    ac_stage_free(&s);
    free(z);
    free(nhwc);
    return image;
}

/* Both the decoder's values and the 8-bit image that the caller got, which may be half a level further off. */
static double check_image(const addcl_model *m, const run *r, size_t i, int h, int w, const float *want)
{
    const addcl_image *shown = &r->shown.image[i];
    size_t plane = (size_t)shown->width * (size_t)shown->height;
    float *got = decode(m, r, i, h, w);
    double error = difference(got, want, 3 * plane);

    if (!(error <= image_tol))
        fail_msg("%s: image %zu differs by %.3g, at most %g", r->key, i, error, image_tol);
    for (size_t k = 0; k < 3 * plane; k++)
        if (!(fabs(shown->rgb[k % plane * 3 + k / plane] / 255.0 - (double)want[k]) <= 0.5001 / 255 + image_tol))
            fail_msg("%s: 8-bit image %zu differs at value %zu", r->key, i, k);
    free(got);
    return error;
}

static void run_batches(addcl_model *m, run *r, int batch)
{
    const json_t *prompts = json_object_get(r->cfg, "prompts");
    int steps = (int)number(r->r, "steps"), N = (int)r->n_images, f = m->info.factor;
    addcl_sample_opts o = ADDCL_SAMPLE_OPTS_INIT;
    const char *texts[MAX_PICTURES];
    float *noise = fixture_f32(r->io, "noise", NULL), *image;
    double worst = 0;
    char key[64];

    for (int i = 0; i < N; i++)
        texts[i] = json_string_value(json_array_get(prompts, (size_t)i));
    o.prompts = texts;
    o.n_prompts = (size_t)N;
    o.negative_prompt = json_string_value(json_object_get(r->cfg, "negative_prompt"));
    o.batch_size = batch;
    o.steps = steps;
    o.cfg_scale = number(r->cfg, "guidance_scale");
    o.eta = number(r->cfg, "eta");
    o.width = (int)number(r->cfg, "width");
    o.height = (int)number(r->cfg, "height");
    o.seed = 0;
    o.noise = noise;
    o.on_image = on_image;
    o.on_latents = on_latents;
    o.user = r;
    r->calls = 0;
    r->latent_error = 0;
    if (addcl_sample(m, &o, NULL) != 0)
        fail_msg("%s", addcl_error(test_context()));
    assert_int_equal(r->calls, steps * N);
    if (!(r->latent_error <= latent_tol))
        fail_msg("%s, batches of %d: latents differ by %.3g, at most %g", r->key, batch, r->latent_error, latent_tol);
    snprintf(key, sizeof key, "%s.image", r->key);
    image = fixture_f32(r->io, key, NULL);
    assert_int_equal(r->shown.n, N);
    for (int i = 0; i < N; i++)
        worst = fmax(worst, check_image(m, r, (size_t)i, o.height / f, o.width / f,
                                        image + (size_t)i * (size_t)(o.width * o.height * 3)));
    print_message("# %s, batches of %d: latents %.2g, image %.2g\n", r->key, batch, r->latent_error, worst);
    pictures_free(&r->shown);
    free(image);
    free(noise);
}

/* ------------------------------------------------------------------------------------------------------ cases */

static void check_run(const char *model, json_t *cfg, const json_t *entry, const ac_st *io)
{
    run r = {.io = io, .cfg = cfg, .r = entry, .key = json_string_value(json_object_get(entry, "key"))};
    addcl_model *m = open_model(model_with(model, r.key, json_object_get(entry, "scheduler")), ADDCL_F32);
    size_t n, n_noise;
    char key[64];

    r.n_images = json_array_size(json_object_get(cfg, "prompts"));
    assert_in_range(r.n_images, 1, MAX_PICTURES);
    free(fixture_f32(io, "noise", &n_noise));
    r.n_latent = n_noise / r.n_images;
    snprintf(key, sizeof key, "%s.latents", r.key);
    r.want = fixture_f32(io, key, &n);
    assert_int_equal(n, (size_t)number(entry, "steps") * n_noise);
    r.last = malloc(n_noise * sizeof *r.last);
    assert_non_null(r.last);
    run_batches(m, &r, 1);
    run_batches(m, &r, (int)r.n_images);
    free(r.want);
    free(r.last);
    addcl_model_free(m);
}

static void test_pipeline(void **state)
{
    char path[4096], rel[4096], model[PATH_MAX];
    const json_t *runs;
    ac_diag dg = {0};
    addcl_model *m;
    ac_json cfg;
    ac_st *io;

    (void)state;
    if (!fixture_path(path, sizeof path, "pipeline/config.json"))
        skip();
    if (ac_json_open(path, &dg, &cfg) != 0)
        fail_msg("%s", dg.msg);
    snprintf(rel, sizeof rel, "%s", ac_json_str(&cfg, "model", "?"));
    if (!fixture_path(path, sizeof path, rel)) {
        ac_json_close(&cfg);
        skip();
    }
    assert_non_null(realpath(path, model));
    io = fixture_open("pipeline/io.safetensors");
    m = open_model(model, ADDCL_F32);
    check_texts(m, cfg.obj, io);
    addcl_model_free(m);
    runs = json_object_get(cfg.obj, "runs");
    assert_true(json_array_size(runs) > 0);
    for (size_t i = 0; i < json_array_size(runs); i++)
        check_run(model, cfg.obj, json_array_get(runs, i), io);
    ac_st_close(io);
    ac_json_close(&cfg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pipeline)};

    return cmocka_run_group_tests_name("pipeline", tests, context_setup, context_teardown);
}
