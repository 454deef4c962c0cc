/* t_api.c - the library as programs see it: addcl.h and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "addcl.h"

static addcl_ctx *ctx;                                     /* with a device */
static addcl_model *model;                                 /* the one that the repository has */
static char model_path[4096], folder[256], text_file[512]; /* text_file: neither a model nor an image */

static int setup(void **state)
{
    const char *src = getenv("srcdir"), *tmp = getenv("TMPDIR");
    addcl_model_opts o = ADDCL_MODEL_OPTS_INIT;
    FILE *f;

    (void)state;
    snprintf(model_path, sizeof model_path, "%s/models/emoji-teacher", src && *src ? src : ".");
    snprintf(folder, sizeof folder, "%s/addcl-api-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    o.path = model_path;
    if (!mkdtemp(folder) || !(ctx = addcl_new()))
        return -1;
    snprintf(text_file, sizeof text_file, "%s/text.safetensors", folder);
    if (!(f = fopen(text_file, "w")) || fputs("This is a text of some length.\n", f) < 0 || fclose(f) != 0)
        return -1;
    if (addcl_open_device(ctx, NULL) == 0 && addcl_model_load(ctx, &o, &model) == 0)
        return 0;
    print_error("%s\n", addcl_error(ctx));
    return -1;
}

static int teardown(void **state)
{
    (void)state;
    addcl_model_free(model);
    addcl_free(ctx);
    remove(text_file);
    return rmdir(folder);
}

static const char *in_folder(const char *name)
{
    static char path[2][512];
    static unsigned turn;
    char *p = path[turn++ % 2];

    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

/* The call failed as documented, and the message, one line, says `what`. */
static void assert_fails_in(addcl_ctx *c, int rc, int code, const char *what)
{
    const char *msg = addcl_error(c);

    if (rc != code || !*msg || strchr(msg, '\n') || !strstr(msg, what))
        fail_msg("%s, \"%s\"; expected %s and \"%s\"", addcl_code_name(rc), msg, addcl_code_name(code), what);
}

static void assert_fails(int rc, int code, const char *what)
{
    assert_fails_in(ctx, rc, code, what);
}

static void assert_works(int rc)
{
    if (rc != 0)
        fail_msg("%s: %s", addcl_code_name(rc), addcl_error(ctx));
}

/* ------------------------------------------------------------------------------------------ context, devices */

static void names_and_nothing(void **state)
{
    (void)state;
    assert_string_equal(addcl_code_name(ADDCL_OK), "ADDCL_OK");
    assert_string_equal(addcl_code_name(ADDCL_E_IO), "ADDCL_E_IO");
    assert_string_equal(addcl_code_name(ADDCL_E_NODEVICE), "ADDCL_E_NODEVICE");
    assert_string_equal(addcl_code_name(-99), "ADDCL_E_?");
    assert_string_equal(addcl_code_name(1), "ADDCL_E_?");
    assert_true(*addcl_version() >= '0' && *addcl_version() <= '9');
    addcl_free(NULL);
    addcl_model_free(NULL);
    addcl_image_free(NULL);
    addcl_devices_free(NULL);
}

static void devices(void **state)
{
    addcl_ctx *c = addcl_new();
    addcl_device *list = NULL;
    size_t n = 0;
    char spec[32];
    int usable = -1;

    (void)state;
    assert_string_equal(addcl_error(c), "");
    assert_null(addcl_current_device(c));
    assert_int_equal(addcl_devices(c, &list, &n), 0);
    assert_true(n > 0);
    for (size_t i = 0; i < n; i++) {
        assert_true(*list[i].name && *list[i].platform_name && *list[i].type);
        assert_true(list[i].usable ? !*list[i].why : *list[i].why);
        if (list[i].usable && usable < 0)
            usable = (int)i;
    }
    assert_true(usable >= 0);
    assert_fails_in(c, addcl_probe_device(c), ADDCL_E_ARG, "addcl_open_device");
    assert_fails_in(c, addcl_open_device(c, "no such device"), ADDCL_E_NODEVICE, list[0].name);
    assert_fails_in(c, addcl_open_device(c, "99:0"), ADDCL_E_NODEVICE, "99:0");
    assert_null(addcl_current_device(c));
    snprintf(spec, sizeof spec, "%d:%d", list[usable].platform, list[usable].index);
    assert_int_equal(addcl_open_device(c, spec), 0);
    assert_string_equal(addcl_error(c), ""); /* a call that works leaves no message */
    assert_string_equal(addcl_current_device(c)->name, list[usable].name);
    assert_fails_in(c, addcl_open_device(c, NULL), ADDCL_E_ARG, "open already");
    assert_int_equal(addcl_probe_device(c), 0);
    addcl_devices_free(list);
    addcl_free(c);
}

/* ------------------------------------------------------------------------------------------ models */

static void model_facts(void **state)
{
    const addcl_model_info *i = addcl_model_get_info(model);
    char hex[65], again[65];

    (void)state;
    assert_string_equal(i->path, model_path);
    assert_string_equal(i->name, "emoji-teacher");
    assert_string_equal(i->layout, "diffusers");
    assert_int_equal(i->width, 64);
    assert_int_equal(i->height, 64);
    assert_int_equal(i->factor, 4);
    assert_true(i->steps > 0 && i->unet_params > 1000000 && i->vae_params > 100000 && i->text_params > 100000 &&
                i->bytes > 1 << 20);
    assert_true(*i->few_step_why && *i->sampler && access(i->unet_file, R_OK) == 0);
    assert_works(addcl_model_hash(model, hex));
    assert_works(addcl_model_hash(model, again));
    assert_int_equal(strspn(hex, "0123456789abcdef"), 64);
    assert_string_equal(hex, again);
}

static void bad_models(void **state)
{
    const addcl_lora lora = {"nowhere.safetensors", 1};
    const struct {
        addcl_model_opts o;
        int code;
        const char *what;
    } bad[] = {
        {{.path = "nowhere"}, ADDCL_E_IO, "nowhere"},
        {{.path = "/"}, ADDCL_E_FORMAT, "model_index.json"},
        {{.path = text_file}, ADDCL_E_FORMAT, text_file},
        {{.path = model_path, .vae = "nowhere"}, ADDCL_E_IO, "nowhere"},
        {{.path = model_path, .prediction = "guess"}, ADDCL_E_ARG, "guess"},
        {{.path = model_path, .type = (addcl_type)7}, ADDCL_E_ARG, "7"},
        {{.path = model_path, .loras = &lora, .n_loras = 1}, ADDCL_E_IO, "nowhere.safetensors"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        addcl_model *m = model;
        assert_fails(addcl_model_load(ctx, &bad[i].o, &m), bad[i].code, bad[i].what);
        assert_null(m);
    }
}

/* Everything that needs a device says so; loading does not need one. */
static void before_a_device(void **state)
{
    addcl_ctx *c = addcl_new();
    addcl_model_opts o = ADDCL_MODEL_OPTS_INIT;
    addcl_sample_opts s = ADDCL_SAMPLE_OPTS_INIT;
    const char *prompt = "x";
    addcl_model *m = NULL;
    addcl_estimate e;
    int failed;

    (void)state;
    o.path = model_path;
    s.prompts = &prompt;
    s.n_prompts = 1;
    assert_int_equal(addcl_model_load(c, &o, &m), 0);
    assert_fails_in(c, addcl_sample(m, &s, NULL), ADDCL_E_ARG, "addcl_open_device");
    assert_fails_in(c, addcl_sample_plan(m, &s, NULL, &e), ADDCL_E_ARG, "addcl_open_device");
    assert_fails_in(c, addcl_selftest(c, NULL, NULL, NULL, &failed), ADDCL_E_ARG, "addcl_open_device");
    assert_fails_in(c, addcl_bench(c, "gemm", ADDCL_F16, 1, NULL, NULL), ADDCL_E_ARG, "addcl_open_device");
    assert_fails_in(c, addcl_model_plan(m, "unet", 64, 64, 1), ADDCL_E_ARG, "addcl_open_device");
    addcl_model_free(m);
    addcl_free(c);
}

/* ------------------------------------------------------------------------------------------ sampling */

static const char *const prompts[] = {"red heart", "smiling face"};

static addcl_sample_opts small(void)
{
    addcl_sample_opts o = ADDCL_SAMPLE_OPTS_INIT;

    o.prompts = prompts;
    o.n_prompts = 2;
    o.steps = 2;
    o.seed = 5;
    return o;
}

static void bad_options(void **state)
{
    static const double rising[] = {1, 500, 999};
    addcl_image init = {.width = 32, .height = 64};
    addcl_sample_opts o[15];
    static const char *const what[] = {"prompt", "70x64", "-4x64", "20000x64", "guess", "guess", "guess", "",
                                       "",       "",      "",      "32x64",    "",      "",      "prompt"};

    (void)state;
    for (size_t i = 0; i < 15; i++)
        o[i] = small();
    o[0].n_prompts = 0;
    o[1].width = 70;
    o[2].width = -4;
    o[3].width = 20000;
    o[4].sampler = "guess";
    o[5].rng = "guess";
    o[6].spacing = "guess";
    o[7].steps = -1;
    o[8].steps = 100000; /* more than the schedule has */
    o[9].count = -1;
    o[10].batch_size = 100000;
    o[11].init = &init;
    o[11].width = o[11].height = 64;
    o[12].timesteps = rising;
    o[12].n_timesteps = 3;
    o[13].vae_tile_overlap = 2;
    o[14].prompts = NULL;
    for (size_t i = 0; i < 15; i++) {
        addcl_estimate e;
        int rc = addcl_sample_plan(model, &o[i], NULL, &e);
        if (rc != ADDCL_E_ARG)
            print_error("options %zu:\n", i);
        assert_fails(rc, ADDCL_E_ARG, what[i]);
        rc = addcl_sample(model, &o[i], NULL);
        assert_fails(rc, ADDCL_E_ARG, what[i]);
    }
}

typedef struct seen {
    int images, latents, stages, stop_at; /* stop_at: refuse this image; -1: none */
    const char *stop_stage;
    uint8_t rgb[2][64 * 64 * 3];
} seen;

static int take_image(void *user, int index, const addcl_image *image)
{
    seen *s = user;

    assert_int_equal(index, s->images);
    assert_int_equal(image->width, 64);
    assert_int_equal(image->height, 64);
    memcpy(s->rgb[index], image->rgb, sizeof s->rgb[0]);
    s->images++;
    return index == s->stop_at;
}

static void take_latents(void *user, int first, int n, int step, const float *latents, const size_t shape[4])
{
    seen *s = user;

    (void)first;
    assert_int_equal(shape[0], n);
    assert_true(shape[1] == 4 && shape[2] == 16 && shape[3] == 16 && step >= 0 && step < 2 && latents[0] == latents[0]);
    s->latents++;
}

static int watch(void *user, const addcl_progress *p)
{
    seen *s = user;

    assert_true(*p->stage && p->done <= p->total && p->images == 2 && p->image >= 0 && p->image < 2);
    s->stages++;
    return s->stop_stage && !strcmp(p->stage, s->stop_stage) && p->done > 0;
}

static void two_steps(void **state)
{
    static seen a = {.stop_at = -1}, b = {.stop_at = -1};
    addcl_sample_opts o = small();
    addcl_sample_result r, plan;
    addcl_estimate e;
    int differ = 0;

    (void)state;
    o.on_image = take_image;
    o.on_latents = take_latents;
    o.user = &a;
    addcl_set_progress(ctx, watch, &a);
    assert_works(addcl_sample(model, &o, &r));
    assert_int_equal(a.images, 2);
    assert_int_equal(a.latents, 4); /* two images, one after the other, in two steps */
    assert_true(a.stages > 6);
    assert_int_equal(r.seed, 5);
    assert_int_equal(r.steps, 2);
    assert_int_equal(r.count, 2);
    assert_int_equal(r.width, 64);
    assert_true(*r.sampler && *r.spacing && *r.prediction && r.sample_s > 0);
    assert_works(addcl_sample_plan(model, &o, &plan, &e));
    assert_int_equal(plan.planned_bytes, r.planned_bytes);
    assert_true(e.unet_flop > 1e6 && e.text_flop > 1e6 && e.vae_flop > 1e6);
    assert_true(r.peak_bytes <= r.planned_bytes && r.peak_bytes >= r.planned_bytes / 10 * 9);
    o.user = &b;
    addcl_set_progress(ctx, NULL, NULL);
    assert_works(addcl_sample(model, &o, NULL));
    assert_memory_equal(a.rgb, b.rgb, sizeof a.rgb); /* a seed is an image */
    o.seed = 6;
    b.images = 0;
    assert_works(addcl_sample(model, &o, NULL));
    for (size_t i = 0; i < sizeof a.rgb[0]; i++)
        differ += a.rgb[0][i] != b.rgb[0][i];
    assert_true(differ > 1000);
}

static void cancelling(void **state)
{
    static const char *const stages[] = {"text", "sample", "decode"};
    addcl_sample_opts o = small();
    seen s;

    (void)state;
    o.on_image = take_image;
    o.user = &s;
    for (int i = 0; i < 3; i++) {
        s = (seen){.stop_at = -1, .stop_stage = stages[i]};
        addcl_set_progress(ctx, watch, &s);
        assert_fails(addcl_sample(model, &o, NULL), ADDCL_E_CANCELLED, "cancelled");
        assert_true(s.images == (i == 2));
    }
    addcl_set_progress(ctx, NULL, NULL);
    s = (seen){.stop_at = 0};
    assert_fails(addcl_sample(model, &o, NULL), ADDCL_E_CANCELLED, "cancelled");
    assert_int_equal(s.images, 1);
    s = (seen){.stop_at = -1};
    assert_works(addcl_sample(model, &o, NULL)); /* the context is as good as before */
    assert_int_equal(s.images, 2);
}

/* ------------------------------------------------------------------------------------------ images, metadata */

static void metadata(void **state)
{
    static const char hash[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    static const char *const tricky[] = {"a \"quoted\", back\\slashed\nsecond line: \xc3\xa9"};
    addcl_sample_opts o = small();
    addcl_sample_result r;
    addcl_image image = {.width = 2, .height = 1, .rgb = (uint8_t[]){1, 2, 3, 250, 251, 252}}, *back = NULL;
    addcl_estimate e;
    char *parameters = NULL, *json = NULL, *text = NULL;
    const char *png = in_folder("meta.png");
    json_error_t err;
    json_t *j;

    (void)state;
    o.prompts = tricky;
    o.n_prompts = 1;
    o.negative_prompt = "blue";
    assert_works(addcl_sample_plan(model, &o, &r, &e));
    assert_works(addcl_sample_metadata(model, &o, &r, 0, hash, &parameters, &json));
    assert_int_equal(strncmp(parameters, tricky[0], strlen(tricky[0])), 0);
    assert_non_null(strstr(parameters, "\nNegative prompt: blue\nSteps: 2, Sampler: "));
    assert_non_null(strstr(parameters, "Seed: 5, Size: 64x64, "));
    assert_non_null(strstr(parameters, "Model hash: 0123456789, "));
    if (!(j = json_loads(json, 0, &err)))
        fail_msg("%s: %s", err.text, json);
    assert_true(json_is_object(j) && json_object_size(j) > 5);
    json_decref(j);
    assert_works(addcl_image_write(ctx, png, &image, parameters, json));
    assert_works(addcl_image_text(ctx, png, "parameters", &text));
    assert_string_equal(text, parameters);
    free(text);
    assert_works(addcl_image_text(ctx, png, "add-cl", &text));
    assert_string_equal(text, json);
    free(text);
    assert_works(addcl_image_text(ctx, png, "absent", &text));
    assert_null(text);
    assert_works(addcl_image_read(ctx, png, &back));
    assert_true(back->width == 2 && back->height == 1);
    assert_memory_equal(back->rgb, image.rgb, 6);
    addcl_image_free(back);
    free(parameters);
    free(json);
    remove(png);
}

static void images(void **state)
{
    uint8_t rgb[3 * 8 * 4];
    addcl_image image = {.width = 8, .height = 4, .rgb = rgb}, *out = &image;
    const addcl_image *three[] = {&image, &image, &image};
    char *text = model_path;

    (void)state;
    memset(rgb, 77, sizeof rgb);
    assert_fails(addcl_image_read(ctx, "nowhere.png", &out), ADDCL_E_IO, "nowhere.png");
    assert_null(out);
    assert_fails(addcl_image_read(ctx, text_file, &out), ADDCL_E_FORMAT, text_file);
    assert_fails(addcl_image_text(ctx, "nowhere.png", "x", &text), ADDCL_E_IO, "nowhere.png");
    assert_null(text);
    assert_fails(addcl_image_write(ctx, "/nowhere/x.png", &image, NULL, NULL), ADDCL_E_IO, "/nowhere/x.png");
    assert_fails(addcl_image_resize(ctx, &image, 0, 4, &out), ADDCL_E_ARG, "");
    assert_fails(addcl_image_resize(ctx, &image, -1, 4, &out), ADDCL_E_ARG, "");
    assert_works(addcl_image_resize(ctx, &image, 5, 5, &out));
    assert_true(out->width == 5 && out->height == 5 && out->rgb[37] == 77);
    addcl_image_free(out);
    assert_fails(addcl_image_grid(ctx, three, 0, 0, &out), ADDCL_E_ARG, "");
    assert_works(addcl_image_grid(ctx, three, 3, 2, &out));
    assert_true(out->width >= 16 && out->height >= 8);
    addcl_image_free(out);
}

/* ------------------------------------------------------------------------------------------ tools */

static int count_cases(void *user, const addcl_case *c)
{
    int *n = user;

    assert_true(c->status == 0 && c->error <= c->limit && !c->message);
    return ++n[0] == n[1];
}

static int count_tensors(void *user, const char *name, const char *type, const int64_t *shape, int dims)
{
    int *n = user;

    assert_true(*name && *type && dims >= 1 && shape[0] > 0);
    ++*n;
    return 0;
}

static int count_keys(void *user, const char *key, const char *value)
{
    (void)user, (void)value;
    return *key == '\0';
}

static void count_lines(void *user, int level, const char *line)
{
    assert_true(level >= ADDCL_LOG_ERROR && level <= ADDCL_LOG_DEBUG && !strchr(line, '\n'));
    ++*(int *)user;
}

static void tools(void **state)
{
    const char *unet = addcl_model_get_info(model)->unet_file;
    int n[2] = {0, -1}, failed = -1;

    (void)state;
    assert_works(addcl_selftest(ctx, "softmax/", count_cases, n, &failed));
    assert_true(n[0] > 1 && failed == 0);
    n[1] = n[0] + 1;
    assert_fails(addcl_selftest(ctx, "softmax/", count_cases, n, &failed), ADDCL_E_CANCELLED, "cancelled");
    assert_fails(addcl_bench(ctx, "guess", ADDCL_F16, 1, NULL, NULL), ADDCL_E_ARG, "guess");
    assert_fails(addcl_model_plan(model, "guess", 64, 64, 1), ADDCL_E_ARG, "guess");
    assert_fails(addcl_convert(ctx, model_path, in_folder("x.safetensors"), "guess"), ADDCL_E_ARG, "guess");
    assert_fails(addcl_convert(ctx, "nowhere", in_folder("x.safetensors"), NULL), ADDCL_E_IO, "nowhere");
    assert_fails(addcl_file_tensors(ctx, "nowhere", count_tensors, n), ADDCL_E_IO, "nowhere");
    assert_fails(addcl_file_metadata(ctx, text_file, count_keys, n), ADDCL_E_FORMAT, text_file);
    n[0] = 0;
    assert_works(addcl_file_tensors(ctx, unet, count_tensors, n));
    assert_true(n[0] > 100);
    assert_works(addcl_file_metadata(ctx, unet, count_keys, n));
    n[0] = 0;
    addcl_set_log(ctx, count_lines, n);
    assert_works(addcl_model_plan(model, "unet", 64, 64, 1));
    assert_true(n[0] > 100);
    addcl_set_log(ctx, NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_nothing),
        cmocka_unit_test(devices),
        cmocka_unit_test(model_facts),
        cmocka_unit_test(bad_models),
        cmocka_unit_test(before_a_device),
        cmocka_unit_test(bad_options),
        cmocka_unit_test(two_steps),
        cmocka_unit_test(cancelling),
        cmocka_unit_test(metadata),
        cmocka_unit_test(images),
        cmocka_unit_test(tools),
    };
    return cmocka_run_group_tests_name("api", tests, setup, teardown);
}
