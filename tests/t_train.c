/* t_train.c - training steps against the trajectories of PyTorch (fixtures `train`, `train_vae`). */
#include "model_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "diff/loss.h"
#include "train/train.h"

/* ------------------------------------------------------------------------------------------ a run on a fixture's inputs */

typedef struct trajectory {
    net_files files;
    ac_st *io;
    addcl_ctx ctx;
    ac_train_cfg *cfg;
    ac_training r;
    ac_unet_cfg unet;
    ac_vae_cfg vae;
    const char *name;     /* "plain", "minsnr": prefix of the fixture's keys */
    int steps, B;
    int64_t H, W, C, T, D; /* of the latents or pictures; of the text */
    size_t pixels;        /* H W */
    double *abar, *weight; /* by time step */
    float *in[5];
    double *source[4];    /* whole fixture tensors, all steps */
    uint64_t used;        /* on the device before it was opened */
} trajectory;

static float *buffer(size_t n)
{
    float *f = calloc(n, sizeof *f);

    assert_non_null(f);
    return f;
}

/* [C,H,W] -> [H,W,C] */
static void to_hwc(float *dst, const double *src, int64_t C, size_t pixels)
{
    for (int64_t c = 0; c < C; c++)
        for (size_t p = 0; p < pixels; p++)
            dst[p * (size_t)C + (size_t)c] = (float)src[(size_t)c * pixels + p];
}

static ac_id unet_loss(ac_training *r, ac_graph *g, int B)
{
    const trajectory *t = r->method;
    ac_weights w = {.train = &r->sets[0], .part = "unet", .dg = r->dg};
    ac_net m = {.g = g, .w = &w, .checkpoint = r->cfg->model.gradient_checkpointing};
    ac_shape latent = ac_dims(4, B, (int)t->H, (int)t->W, (int)t->C);
    ac_unet_in in = {.x = ac_input(g, "x", AC_F32, latent),
                     .t = ac_input(g, "t", AC_F32, ac_dims(1, B)),
                     .ctx = ac_input(g, "ctx", AC_F32, ac_dims(3, B, (int)t->T, (int)t->D))};

    return ac_loss_mse(g, ac_unet(&m, &t->unet, &in), ac_input(g, "target", AC_F32, latent), ac_input(g, "weight", AC_F32, ac_dims(1, B)));
}

/* Micro-batches of B samples: sample i of step s. */
static int unet_feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    trajectory *t = r->method;
    size_t n = t->pixels * (size_t)t->C, ctx = (size_t)(t->T * t->D), first = (size_t)r->at.rows, B = (size_t)t->B;
    int rc = 0;

    (void)b;
    for (size_t i = 0; i < B; i++) {
        size_t row = first + i;
        int64_t time = (int64_t)t->source[2][row];
        double a = sqrt(t->abar[time]), s = sqrt(1 - t->abar[time]);
        float *latent = buffer(n), *noise = buffer(n);
        to_hwc(latent, t->source[0] + row * n, t->C, t->pixels);
        to_hwc(noise, t->source[1] + row * n, t->C, t->pixels);
        for (size_t k = 0; k < n; k++) {
            t->in[0][i * n + k] = (float)(a * (double)latent[k] + s * (double)noise[k]);
            t->in[1][i * n + k] = (float)(a * (double)noise[k] - s * (double)latent[k]);
        }
        for (size_t k = 0; k < ctx; k++)
            t->in[2][i * ctx + k] = (float)t->source[3][row * ctx + k];
        t->in[3][i] = (float)time;
        t->in[4][i] = t->weight ? (float)t->weight[time] : 1;
        free(latent);
        free(noise);
    }
    r->at.rows += B;
    rc = ac_feed(x, "x", t->in[0], B * n * 4);
    rc = rc ? rc : ac_feed(x, "target", t->in[1], B * n * 4);
    rc = rc ? rc : ac_feed(x, "ctx", t->in[2], B * ctx * 4);
    rc = rc ? rc : ac_feed(x, "t", t->in[3], B * 4);
    return rc ? rc : ac_feed(x, "weight", t->in[4], B * 4);
}

static ac_id vae_loss(ac_training *r, ac_graph *g, int B)
{
    const trajectory *t = r->method;
    ac_weights w = {.train = &r->sets[0], .part = "vae", .dg = r->dg};
    ac_net m = {.g = g, .w = &w};
    int f = ac_vae_factor(&t->vae), L = t->vae.latent;
    ac_id image = ac_input(g, "image", AC_F32, ac_dims(4, B, (int)t->H, (int)t->W, 3)), moments, z;
    ac_id noise = ac_input(g, "noise", AC_F32, ac_dims(4, B, (int)t->H / f, (int)t->W / f, L));

    moments = ac_vae_encode(&m, &t->vae, image);
    z = ac_mul(g, ac_exp(g, ac_scale(g, ac_slice(g, moments, 3, L, L), 0.5, 0)), noise);
    z = ac_add(g, z, ac_slice(g, moments, 3, 0, L));
    return ac_vae_loss(g, r->cfg, image, ac_vae_decode(&m, &t->vae, z), moments);
}

static int vae_feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    trajectory *t = r->method;
    int64_t f = ac_vae_factor(&t->vae), L = t->vae.latent;
    size_t pixels = t->pixels, small = pixels / (size_t)(f * f), B = (size_t)t->B;
    int rc;

    (void)b;
    for (size_t i = 0; i < B; i++) {
        size_t row = (size_t)r->at.rows + i;
        to_hwc(t->in[0] + i * pixels * 3, t->source[0] + row * pixels * 3, 3, pixels);
        to_hwc(t->in[1] + i * small * (size_t)L, t->source[1] + row * small * (size_t)L, L, small);
    }
    r->at.rows += B;
    rc = ac_feed(x, "image", t->in[0], B * pixels * 3 * 4);
    return rc ? rc : ac_feed(x, "noise", t->in[1], B * small * (size_t)L * 4);
}

static const ac_recipe unet_recipe = {.name = "fixture", .measure = "loss", .loss = unet_loss, .feed = unet_feed};
static const ac_recipe vae_recipe = {.name = "fixture", .measure = "loss", .scalar = {"l1", "kl"}, .loss = vae_loss, .feed = vae_feed};

/* ------------------------------------------------------------------------------------------ opening */

static void tensor_shape(const trajectory *t, const char *key, int64_t dim[AC_ST_DIMS])
{
    const ac_st_tensor *s = ac_st_find(t->io, key);

    assert_non_null(s);
    memcpy(dim, s->dim, sizeof s->dim);
}

static void open_unet(trajectory *t)
{
    int64_t d[AC_ST_DIMS];
    char key[64];

    assert_int_equal(ac_unet_config(&t->files.json, &t->unet), 0);
    tensor_shape(t, "latents", d); /* [steps,B,C,H,W] */
    t->steps = (int)d[0], t->B = (int)d[1], t->C = d[2], t->H = d[3], t->W = d[4];
    tensor_shape(t, "encoder_hidden_states", d);
    t->T = d[2], t->D = d[3];
    t->source[0] = fixture_f64(t->io, "latents", NULL);
    t->source[1] = fixture_f64(t->io, "noise", NULL);
    t->source[2] = fixture_f64(t->io, "timesteps", NULL);
    t->source[3] = fixture_f64(t->io, "encoder_hidden_states", NULL);
    t->abar = fixture_f64(t->io, "alphas_cumprod", NULL);
    snprintf(key, sizeof key, "%s.weight_table", t->name);
    if (ac_st_find(t->io, key))
        t->weight = fixture_f64(t->io, key, NULL);
    t->r.recipe = &unet_recipe;
}

static void open_vae(trajectory *t)
{
    int64_t d[AC_ST_DIMS];

    assert_int_equal(ac_vae_config(&t->files.json, &t->vae), 0);
    tensor_shape(t, "images", d); /* [steps,B,3,H,W] */
    t->steps = (int)d[0], t->B = (int)d[1], t->C = d[2], t->H = d[3], t->W = d[4];
    t->source[0] = fixture_f64(t->io, "images", NULL);
    t->source[1] = fixture_f64(t->io, "posterior_noise", NULL);
    t->r.recipe = &vae_recipe;
}

static bool trajectory_open(trajectory *t, const char *dir, const char *part, const char *name, int accumulate, bool checkpointing)
{
    char io[64], batch[64], micro[64];
    const char *set[] = {"run.method=diffusion", "run.output_dir=none", "run.max_train_steps=20", "model.config=none", "data.train_data_dir=none",
                         batch, micro, "optimizer.learning_rate=1e-3", "optimizer.lr_warmup_steps=5", "optimizer.ema_decay=0.99",
                         "optimizer.ema_ramp=no", checkpointing ? "model.gradient_checkpointing=yes" : "model.gradient_checkpointing=no",
                         "loss.edge_weight=0"};

    memset(t, 0, sizeof *t);
    t->name = name;
    if (!net_open(&t->files, dir, part))
        return false;
    snprintf(io, sizeof io, "%s/io.safetensors", dir);
    t->io = fixture_open(io);
    t->ctx = (addcl_ctx){.dev = test_device()};
    if (!strcmp(part, "unet"))
        open_unet(t);
    else
        open_vae(t);
    t->B /= accumulate;
    snprintf(batch, sizeof batch, "data.train_batch_size=%d", t->B);
    snprintf(micro, sizeof micro, "optimizer.gradient_accumulation_steps=%d", accumulate);
    set[0] = !strcmp(part, "unet") ? "run.method=diffusion" : "run.method=vae";
    if (ac_train_config_load(NULL, set, AC_LEN(set), &t->ctx.dg, &t->cfg) < 0)
        fail_msg("%s", t->ctx.dg.msg);
    t->pixels = (size_t)(t->H * t->W);
    for (size_t i = 0; i < AC_LEN(t->in); i++)
        t->in[i] = buffer((size_t)t->B * AC_MAX(t->pixels * 8, (size_t)(t->T * t->D)));
    t->r.ctx = &t->ctx;
    t->r.dev = test_device();
    t->r.dg = ac_dev_diag(test_device());
    t->r.cfg = t->cfg;
    t->r.ranks = 1;
    t->r.method = t;
    t->r.n_sets = 1;
    t->r.sets[0] = (ac_params){.dev = t->r.dev, .dg = t->r.dg, .part = part, .layout = t->files.layout};
    t->used = ac_dev_used(test_device());
    if (ac_step_open(&t->r, &t->r.stepper) < 0)
        fail_msg("%s", t->r.dg->msg);
    return true;
}

static void trajectory_close(trajectory *t)
{
    ac_step_close(&t->r.stepper);
    ac_params_free(&t->r.sets[0]);
    ac_train_config_free(t->cfg);
    for (size_t i = 0; i < AC_LEN(t->in); i++)
        free(t->in[i]);
    for (size_t i = 0; i < AC_LEN(t->source); i++)
        free(t->source[i]);
    free(t->abar);
    free(t->weight);
    ac_st_close(t->io);
    net_close(&t->files);
}

/* ------------------------------------------------------------------------------------------ comparing */

static double *series(const trajectory *t, const char *what)
{
    char key[64];

    snprintf(key, sizeof key, "%s.%s", t->name, what);
    return fixture_f64(t->io, key, NULL);
}

/* L2 norm of all tensors of a kind; averages: of the running averages. */
static double norm_of(const ac_params *set, bool averages)
{
    double sum = 0;

    for (size_t i = 0; i < set->p.n; i++) {
        const ac_var *v = averages ? set->p.p[i].ema : set->p.p[i].w;
        size_t n = (size_t)ac_count(&v->shape);
        float *x = buffer(n);
        assert_int_equal(ac_var_read(v, x), 0);
        for (size_t k = 0; k < n; k++)
            sum += (double)x[k] * (double)x[k];
        free(x);
    }
    return sqrt(sum);
}

/* |mine - file| / |file - start|, L2 over all tensors but those named in skip. */
static double distance(trajectory *t, const char *dir, const char *file, bool averages, const char *skipped)
{
    const ac_params *set = &t->r.sets[0];
    double diff = 0, change = 0;
    char path[128];
    ac_st *want, *start;

    snprintf(path, sizeof path, "%s/%s.safetensors", dir, file);
    want = fixture_open(path);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    start = fixture_open(path);
    assert_int_equal(set->p.n, ac_st_count(want));
    for (size_t i = 0; i < set->p.n; i++) {
        const ac_parameter *p = &set->p.p[i];
        size_t n = (size_t)ac_count(&p->w->shape), m;
        double *w = fixture_f64(want, p->name, &m), *s = fixture_f64(start, p->name, NULL);
        float *x = buffer(n);
        assert_int_equal(n, m);
        assert_int_equal(ac_var_read(averages ? p->ema : p->w, x), 0);
        for (size_t k = 0; k < n && !(skipped && strstr(p->name, skipped)); k++) {
            diff += ((double)x[k] - w[k]) * ((double)x[k] - w[k]);
            change += (w[k] - s[k]) * (w[k] - s[k]);
        }
        free(x);
        free(w);
        free(s);
    }
    ac_st_close(want);
    ac_st_close(start);
    return sqrt(diff / change);
}

static double relative(double got, double want)
{
    return fabs(got - want) / fabs(want);
}

/* What the plan says that a step takes is what it takes, to a tenth. */
static void check_memory(const trajectory *t)
{
    const ac_stepper *s = &t->r.stepper;
    double used = (double)(ac_dev_used(test_device()) - t->used), planned = (double)ac_params_bytes(&t->r.sets[0]);

    planned += (double)(ac_exec_info(s->x)->weights + ac_exec_info(s->x)->activations);
    if (s->update)
        planned += (double)(ac_exec_info(s->update)->weights + ac_exec_info(s->update)->activations);
    print_message("# %.0f kB planned, %.0f kB used\n", planned * 1e-3, used * 1e-3);
    assert_true(fabs(used / planned - 1) < 0.1);
}

/* Steps through the trajectory; tolerances are those of the fixtures' README. */
static void run_trajectory(trajectory *t, const char *dir, bool ema, const char *skipped)
{
    double *loss = series(t, "loss"), *norm = series(t, "grad_norm"), *lr = series(t, "lr"), *weights = series(t, "weight_norm");
    double *averages = ema ? series(t, "ema_norm") : NULL, worst_loss = 0, worst_norm = 0, d;
    char file[64];
    ac_step_result s;

    for (int k = 0; k < t->steps; k++) {
        assert_true(relative(ac_learning_rate(t->cfg, k), lr[k]) < 1e-6);
        if (ac_step_run(&t->r, &t->r.stepper, &s) < 0)
            fail_msg("step %d: %s", k, t->r.dg->msg);
        worst_loss = fmax(worst_loss, relative(s.loss, loss[k]));
        worst_norm = fmax(worst_norm, relative(s.grad_norm, norm[k]));
        assert_true(relative(norm_of(&t->r.sets[0], false), weights[k]) < 1e-5);
        if (ema)
            assert_true(relative(norm_of(&t->r.sets[0], true), averages[k]) < 1e-5);
        snprintf(file, sizeof file, "%s_after1", t->name);
        if (k == 0 && !strcmp(t->name, "plain")) {
            d = distance(t, dir, file, false, skipped);
            print_message("# after one step: %.2g of the change\n", d);
            assert_true(d < 1e-3);
        }
    }
    check_memory(t);
    print_message("# %s %s: loss %.2g, gradient norm %.2g", dir, t->name, worst_loss, worst_norm);
    snprintf(file, sizeof file, "%s_final", t->name);
    d = distance(t, dir, file, false, skipped);
    print_message(", weights %.2g of the change", d);
    assert_true(d < 1e-3);
    if (ema) {
        snprintf(file, sizeof file, "%s_ema", t->name);
        d = distance(t, dir, file, true, skipped);
        print_message(", averages %.2g", d);
        assert_true(d < 1e-3);
    }
    print_message("\n");
    assert_true(worst_loss < 1e-5);
    assert_true(worst_norm < 5e-4);
    free(loss);
    free(norm);
    free(lr);
    free(weights);
    free(averages);
}

static void train_fixture(const char *name, int accumulate, bool checkpointing)
{
    trajectory t;

    if (!trajectory_open(&t, "train", "unet", name, accumulate, checkpointing))
        skip();
    run_trajectory(&t, "train", true, NULL);
    trajectory_close(&t);
}

static void unet_plain(void **state)
{
    (void)state;
    train_fixture("plain", 1, false);
}

static void unet_minsnr(void **state)
{
    (void)state;
    train_fixture("minsnr", 1, false);
}

static void unet_accumulated(void **state)
{
    (void)state;
    train_fixture("plain", 2, false);
}

static void unet_checkpointed(void **state)
{
    (void)state;
    train_fixture("plain", 1, true);
}

static void vae_plain(void **state)
{
    trajectory t;

    (void)state;
    if (!trajectory_open(&t, "train_vae", "vae", "plain", 1, false))
        skip();
    run_trajectory(&t, "train_vae", false, ".to_k.bias");
    trajectory_close(&t);
}

/* ------------------------------------------------------------------------------------------ memory */

static const ac_unet_cfg sd21 = {.in_channels = 4, .out_channels = 4, .sample_size = 64, .levels = 4, .channels = {320, 640, 1280, 1280},
                                 .layers = 2, .down_attn = {1, 1, 1, 0}, .up_attn = {0, 1, 1, 1}, .mid_attn = true, .heads = {5, 10, 20, 20},
                                 .blocks = {1, 1, 1, 1}, .context = 1024, .linear = true, .groups = 32, .eps = 1e-5, .flip = true};

static ac_id sd21_loss(ac_training *r, ac_graph *g, int B)
{
    ac_weights w = {.train = &r->sets[0], .part = "unet", .dg = r->dg};
    ac_net m = {.g = g, .w = &w, .checkpoint = r->cfg->model.gradient_checkpointing};
    ac_unet_in in = {.x = ac_input(g, "x", AC_F32, ac_dims(4, B, 64, 64, 4)),
                     .t = ac_input(g, "t", AC_F32, ac_dims(1, B)),
                     .ctx = ac_input(g, "ctx", AC_F32, ac_dims(3, B, 77, 1024))};

    return ac_loss_mse(g, ac_unet(&m, &sd21, &in), ac_input(g, "target", AC_F32, ac_dims(4, B, 64, 64, 4)), AC_NONE);
}

/* Bytes that a step of Stable Diffusion 2.1's size would take besides parameters and gradients, which are in variables when they
 * are accumulated. */
static double sd21_activations(const char *checkpointing)
{
    static const ac_recipe recipe = {.name = "plan", .measure = "loss", .loss = sd21_loss};
    const char *set[] = {"run.method=diffusion", "run.output_dir=none", "model.config=none", "data.train_data_dir=none", "data.train_batch_size=1",
                         "optimizer.gradient_accumulation_steps=2", checkpointing};
    addcl_ctx ctx = {.dev = NULL};
    ac_train_cfg *cfg;
    ac_training r = {.ctx = &ctx, .dg = &ctx.dg, .ranks = 1, .recipe = &recipe, .n_sets = 1, .plan_only = true};
    double bytes;

    assert_int_equal(ac_train_config_load(NULL, set, AC_LEN(set), &ctx.dg, &cfg), 0);
    assert_int_equal(ac_dev_fake(ac_dev_limits(test_device()), &ctx.dg, &r.dev), 0);
    r.cfg = cfg;
    r.sets[0] = (ac_params){.dev = r.dev, .dg = r.dg, .part = "unet"};
    if (ac_step_open(&r, &r.stepper) < 0)
        fail_msg("%s", ctx.dg.msg);
    bytes = (double)ac_exec_info(r.stepper.x)->activations;
    ac_step_close(&r.stepper);
    ac_params_free(&r.sets[0]);
    ac_train_config_free(cfg);
    ac_dev_close(r.dev);
    return bytes;
}

static void sd21_checkpointing(void **state)
{
    double plain = sd21_activations("model.gradient_checkpointing=no"), saved = sd21_activations("model.gradient_checkpointing=yes");

    (void)state;
    print_message("# activations of a step of SD 2.1's size: %.2f GB, checkpointed %.2f GB\n", plain * 1e-9, saved * 1e-9);
    assert_true(plain >= 4 * saved);
}

int main(void)
{
    const struct CMUnitTest memory[] = {cmocka_unit_test(sd21_checkpointing)};
    const struct CMUnitTest fixtures[] = {cmocka_unit_test(unet_plain), cmocka_unit_test(unet_minsnr), cmocka_unit_test(unet_accumulated),
                                          cmocka_unit_test(unet_checkpointed), cmocka_unit_test(vae_plain)};

    int failed = cmocka_run_group_tests_name("memory", memory, device_setup, device_teardown);

    return failed + cmocka_run_group_tests_name("trajectories", fixtures, device_setup, device_teardown);
}
