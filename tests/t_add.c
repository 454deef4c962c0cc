/* t_add.c - a step of adversarial diffusion distillation against PyTorch: what both players see, their losses, the gradients of
 * the student, of the heads and of every form of the distillation loss. */
#include "model_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/add.h"
#include "train/train.h"

enum { B = 4, SIDE = 32, LATENT = 8, TOKENS = 12, TEXT = 24 };

/* The fixture's networks, opened once. */
typedef struct world {
    net_files unet, vae, features;
    ac_unet_cfg unet_cfg;
    ac_vae_cfg vae_cfg;
    ac_vit_cfg vit_cfg;
    ac_schedule *student, *teacher;
} world;

static world w;
static bool have; /* the fixture is there */

static void must(int rc, const ac_diag *dg)
{
    if (rc != 0)
        fail_msg("%s", dg->msg);
}

static int world_setup(void **state)
{
    ac_schedule_cfg c = ac_schedule_sd(false);

    if (device_setup(state) != 0)
        return -1;
    have = net_open(&w.unet, "add_step/unet", "unet");
    if (!have)
        return 0;
    assert_true(net_open(&w.vae, "add_step/vae", "vae") && net_open(&w.features, "add_step/features", "image_encoder"));
    must(ac_unet_config(&w.unet.json, &w.unet_cfg), &w.unet.dg);
    must(ac_vae_config(&w.vae.json, &w.vae_cfg), &w.vae.dg);
    must(ac_vit_config(&w.features.json, &w.vit_cfg), &w.features.dg);
    c.prediction = AC_PREDICT_V;
    must(ac_schedule_new(&c, test_diag(), &w.teacher), test_diag());
    c.zero_snr = true;
    must(ac_schedule_new(&c, test_diag(), &w.student), test_diag());
    return 0;
}

static int world_teardown(void **state)
{
    if (have) {
        net_close(&w.unet);
        net_close(&w.vae);
        net_close(&w.features);
        ac_schedule_free(w.student);
        ac_schedule_free(w.teacher);
    }
    return device_teardown(state);
}

/* ------------------------------------------------------------------------------------------ a step */

typedef struct trial {
    ac_st *io, *grads;
    ac_params student, head;
    ac_weights ws, wt, wv, wf, wh;
    ac_net ms, mt, mv, mf, mh;
    ac_heads heads;
    ac_add_opts o;
    ac_graph *g;
    ac_id loss;
    ac_exec *x;
    int iteration; /* whose inputs are fed */
} trial;

static ac_add_opts options(bool second)
{
    ac_add_opts o = {.B = B, .h = LATENT, .w = LATENT, .side = SIDE, .T = TOKENS, .text_dim = TEXT, .image_condition = true,
                     .adversarial = true, .distill = true, .adversary_weight = 1, .lambda = 2.5, .gamma = 1e-5, .pixels = true, .teacher_steps = 1, .guidance = 1, .nfsd_scale = 7.5};

    if (second) {
        o.augment = true;
        o.pixels = false;
        o.teacher_steps = 2;
        o.guidance = 2.5;
        o.gamma = 0.05;
    }
    return o;
}

static ac_net trained(trial *t, ac_weights *weights, ac_params *set)
{
    *weights = (ac_weights){.train = set, .part = set->part, .dg = test_diag()};
    return (ac_net){.g = t->g, .w = weights};
}

static ac_net frozen(trial *t, ac_weights *weights, const net_files *f)
{
    *weights = (ac_weights){.layout = f->layout, .part = f->part, .dg = test_diag()};
    return (ac_net){.g = t->g, .w = weights};
}

static ac_params new_student(void)
{
    return (ac_params){.dev = test_device(), .dg = test_diag(), .part = "unet", .layout = w.unet.layout};
}

static ac_params new_head(void)
{
    return (ac_params){.dev = test_device(), .dg = test_diag(), .part = "discriminator", .live_only = true, .adversary = true};
}

/* Nodes of the loss in t->g. */
static ac_id build(trial *t, ac_params *student, ac_params *head, int feature_size)
{
    ac_add_nets n;
    ac_id loss;

    t->ms = trained(t, &t->ws, student);
    t->mh = trained(t, &t->wh, head);
    t->mt = frozen(t, &t->wt, &w.unet);
    t->mv = frozen(t, &t->wv, &w.vae);
    t->mf = frozen(t, &t->wf, &w.features);
    t->heads = (ac_heads){.virtual_batch = 2, .cmap = 32};
    n = (ac_add_nets){.student = &t->ms, .teacher = &t->mt, .decoder = &t->mv, .head = &t->mh, .unet = &w.unet_cfg, .teacher_unet = &w.unet_cfg,
                      .vae = &w.vae_cfg, .heads = &t->heads,
                      .features = {.net = &t->mf, .vit = &w.vit_cfg, .tap = {0, 1, 2, 3}, .n_taps = 4, .embedding = true,
                                   .size = feature_size, .mean = {0.485, 0.456, 0.406}, .std = {0.229, 0.224, 0.225}}};
    loss = ac_add_loss(t->g, &n, &t->o);
    ac_heads_keep(&t->heads, t->g);
    ac_heads_free(&t->heads);
    return loss;
}

static void open_files(trial *t, const char *name)
{
    char path[128];

    if (!have)
        skip();
    snprintf(path, sizeof path, "add_step/%s.safetensors", name);
    t->io = fixture_open(path);
    snprintf(path, sizeof path, "add_step/%s_grads.safetensors", name);
    t->grads = fixture_open(path);
}

static void trial_begin(trial *t, const char *name, const ac_add_opts *o, int feature_size)
{
    *t = (trial){.o = *o, .student = new_student(), .head = new_head()};
    open_files(t, name);
    t->g = ac_graph_new(test_diag(), AC_F32);
    t->loss = build(t, &t->student, &t->head, feature_size);
    ac_set_output(t->g, "loss", t->loss);
}

static void trial_end(trial *t)
{
    ac_exec_free(t->x);
    ac_graph_free(t->g);
    ac_params_free(&t->student);
    ac_params_free(&t->head);
    ac_weights_free(&t->wt);
    ac_weights_free(&t->wv);
    ac_weights_free(&t->wf);
    ac_st_close(t->io);
    ac_st_close(t->grads);
}

/* [B,C,...] -> [B,...,C] of n elements, for C channels. */
static void channels_last(double *x, size_t n, size_t C)
{
    size_t pixels = n / B / C;
    double *y = calloc(n, sizeof *y);

    assert_non_null(y);
    for (size_t b = 0; b < B; b++)
        for (size_t c = 0; c < C; c++)
            for (size_t p = 0; p < pixels; p++)
                y[(b * pixels + p) * C + c] = x[(b * C + c) * pixels + p];
    memcpy(x, y, n * sizeof *x);
    free(y);
}

static void feed(trial *t, const char *name, double *x, size_t n)
{
    float *f = calloc(n, sizeof *f);

    assert_non_null(f);
    for (size_t i = 0; i < n; i++)
        f[i] = (float)x[i];
    must(ac_feed(t->x, name, f, n * sizeof *f), test_diag());
    free(f);
    free(x);
}

/* A tensor of this iteration. */
static double *batch_tensor(const trial *t, const char *name, size_t *n)
{
    char key[96];

    snprintf(key, sizeof key, "it%d.%s", t->iteration, name);
    return fixture_f64(t->io, key, n);
}

/* It as an input; C: channels of a picture, 0: none. */
static void feed_tensor(trial *t, const char *input, const char *name, size_t C)
{
    size_t n;
    double *x = batch_tensor(t, name, &n);

    if (C)
        channels_last(x, n, C);
    feed(t, input, x, n);
}

static void feed_states(trial *t, const char *input, const char *key)
{
    size_t n;
    double *x = fixture_f64(t->io, key, &n);

    feed(t, input, x, n);
}

static void feed_augmentation(trial *t, const char *pass, const char *key)
{
    static const char *const part[3] = {"brightness", "saturation", "contrast"};
    float color[B * 3];
    int32_t place[B * SIDE * SIDE];
    char name[64];
    double *shift, *cutout, *x;

    for (int k = 0; k < 3; k++) {
        snprintf(name, sizeof name, "%s.%s", key, part[k]);
        x = batch_tensor(t, name, NULL);
        for (int i = 0; i < B; i++)
            color[3 * i + k] = (float)x[i];
        free(x);
    }
    snprintf(name, sizeof name, "%s.shift", key);
    shift = batch_tensor(t, name, NULL);
    snprintf(name, sizeof name, "%s.cutout", key);
    cutout = batch_tensor(t, name, NULL);
    for (int i = 0; i < B; i++)
        ac_diffaug_place(B, SIDE, i, (int[]){(int)shift[2 * i], (int)shift[2 * i + 1]}, (int[]){(int)cutout[2 * i], (int)cutout[2 * i + 1]}, place + i * SIDE * SIDE);
    snprintf(name, sizeof name, "augment.%s.color", pass);
    must(ac_feed(t->x, name, color, sizeof color), test_diag());
    snprintf(name, sizeof name, "augment.%s.place", pass);
    must(ac_feed(t->x, name, place, sizeof place), test_diag());
    free(shift);
    free(cutout);
}

static void feed_all(trial *t)
{
    double *s = batch_tensor(t, "s", NULL), *time = batch_tensor(t, "t", NULL), *x0, *noise;
    size_t n;
    ac_each a;

    must(ac_add_times_open(B, test_diag(), &a), test_diag());
    x0 = batch_tensor(t, "latents", &n);
    noise = batch_tensor(t, "noise", NULL);
    for (int i = 0; i < B; i++) {
        double alpha, sigma;
        ac_add_times_set(&a, i, &t->o, w.student, w.teacher, (int)s[i], (int)time[i]);
        ac_schedule_at(w.student, (int)s[i], &alpha, &sigma);
        for (size_t k = (size_t)i * n / B; k < (size_t)(i + 1) * n / B; k++)
            x0[k] = alpha * x0[k] + sigma * noise[k];
    }
    channels_last(x0, n, 4);
    feed(t, "x_s", x0, n);
    must(ac_each_feed(&a, t->x), test_diag());
    feed_tensor(t, "ctx", "text_states", 0);
    feed_states(t, "null_ctx", "null_states");
    feed_states(t, "negative_ctx", "negative_states");
    feed_tensor(t, "text", "text_embeds", 0);
    feed_tensor(t, "pixels", "pixels", 3);
    feed_tensor(t, "noise", "t_noise", 4);
    if (t->o.augment) {
        feed_augmentation(t, "made", "aug_g");
        feed_augmentation(t, "fake", "aug_fake");
        feed_augmentation(t, "real", "aug_real");
    }
    ac_each_close(&a);
    free(s);
    free(time);
    free(noise);
}

static void start_heads(const ac_params *head)
{
    ac_st *st = fixture_open("add_step/heads.safetensors");
    const ac_parameter_list *const lists[] = {&head->p, &head->kept};

    for (size_t k = 0; k < AC_LEN(lists); k++)
        for (size_t i = 0; i < lists[k]->n; i++) {
            float *x = fixture_f32(st, lists[k]->p[i].name, NULL);
            assert_int_equal(ac_var_write(lists[k]->p[i].w, x), 0);
            free(x);
        }
    ac_st_close(st);
}

static void trial_run(trial *t)
{
    if (t->g->rc)
        fail_msg("%s", test_diag()->msg);
    start_heads(&t->head);
    must(ac_exec_new(test_device(), t->g, NULL, &t->x), test_diag());
    feed_all(t);
    must(ac_run(t->x), test_diag());
}

/* ------------------------------------------------------------------------------------------ comparing */

static double fetched(trial *t, const char *name)
{
    float v;

    must(ac_fetch(t->x, name, &v, sizeof v), test_diag());
    return (double)v;
}

static void near(const char *what, double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * fmax(fabs(want), 0.1)))
        fail_msg("%s: %.9g, not %.9g", what, got, want);
}

static double *values(trial *t, const char *output, size_t n)
{
    float *f = calloc(n, sizeof *f);
    double *x = calloc(n, sizeof *x);

    assert_true(f && x);
    must(ac_fetch(t->x, output, f, n * sizeof *f), test_diag());
    for (size_t i = 0; i < n; i++)
        x[i] = (double)f[i];
    free(f);
    return x;
}

static double *variable(const ac_var *v, size_t n)
{
    float *f = calloc(n, sizeof *f);
    double *x = calloc(n, sizeof *x);

    assert_true(f && x);
    assert_int_equal(ac_count(&v->shape), n);
    assert_int_equal(ac_var_read(v, f), 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (double)f[i];
    free(f);
    return x;
}

static double worst; /* of all tensors compared: error over its limit */

/* Normalised squared error; a tensor of rounding alone is compared absolutely. Takes over both. */
static void same(const char *name, double *got, double *want, size_t n, double tol)
{
    double error = 0, size = 0;

    for (size_t i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] * want[i];
    }
    if (size < 1e-16 * (double)n)
        size = 1e-12 * (double)n / tol;
    worst = fmax(worst, error / size / tol);
    if (!(error <= tol * size))
        fail_msg("%s: squared error %g of %g", name, error, size);
    free(got);
    free(want);
}

static void same_picture(trial *t, const ac_st *st, const char *key, const char *output, size_t C, double factor, double tol)
{
    size_t n;
    double *want = fixture_f64(st, key, &n);

    channels_last(want, n, C);
    for (size_t i = 0; i < n; i++)
        want[i] *= factor;
    same(key, values(t, output, n), want, n, tol);
}

/* Outputs "g.<i>": gradients of the loss by the parameters of a set. */
static void ask_gradients(trial *t, ac_params *set, const char *prefix, char name[][32])
{
    int n = (int)set->p.n;
    ac_id *leaf = calloc((size_t)n, sizeof *leaf), *gx = calloc((size_t)n, sizeof *gx);

    assert_true(leaf && gx);
    for (int i = 0; i < n; i++)
        leaf[i] = ac_state(t->g, set->p.p[i].w);
    ac_grad(t->g, t->loss, AC_NONE, leaf, n, gx);
    for (int i = 0; i < n; i++) {
        snprintf(name[i], 32, "%s%d", prefix, i);
        if (gx[i] == AC_NONE)
            fail_msg("the loss does not depend on %s", set->p.p[i].name);
        ac_set_output(t->g, name[i], gx[i]);
    }
    free(leaf);
    free(gx);
}

/* The wanted gradient is sum_k factor[k] "<term[k]>.<parameter>". */
static void check_gradients(trial *t, const ac_params *set, char name[][32], const char *prefix, const char *const *term, const double *factor, double tol)
{
    for (size_t i = 0; i < set->p.n; i++) {
        double *want = NULL;
        size_t n = 0;
        for (int k = 0; term[k]; k++) {
            char key[AC_NAME_MAX];
            double *x;
            snprintf(key, sizeof key, "%s.%s%s", term[k], prefix, set->p.p[i].name);
            x = fixture_f64(t->grads, key, &n);
            if (!want)
                assert_non_null(want = calloc(n, sizeof *want));
            for (size_t j = 0; j < n; j++)
                want[j] += factor[k] * x[j];
            free(x);
        }
        same(set->p.p[i].name, values(t, name[i], n), want, n, tol);
    }
}

/* Of the iteration; -1: of the first step, apart. */
static double number(const char *name, int iteration, const char *key)
{
    char path[4096], rel[64];
    json_t *j, *at;
    double v;

    snprintf(rel, sizeof rel, "add_step/%s.json", name);
    assert_true(fixture_path(path, sizeof path, rel));
    assert_non_null(j = json_load_file(path, 0, NULL));
    at = iteration < 0 ? json_object_get(j, "first") : json_array_get(json_object_get(j, "iterations"), (size_t)iteration);
    assert_true(json_is_number(json_object_get(at, key)));
    v = json_number_value(json_object_get(at, key));
    json_decref(j);
    return v;
}

static double length(const trial *t, const char *key)
{
    size_t n;
    double *x = fixture_f64(t->grads, key, &n), sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    free(x);
    return sqrt(sum);
}

/* ------------------------------------------------------------------------------------------ the step */

static void whole_step(const char *name, bool second)
{
    static char student[512][32], head[128][32];
    const ac_add_opts o = options(second);
    const char *const total_g[] = {"total_g", NULL}, *const sum_g[] = {"adv", "distill", NULL}, *const total_d[] = {"total_d", NULL},
                      *const sum_d[] = {"hinge", "r1", NULL};
    trial t;

    trial_begin(&t, name, &o, second ? 40 : 0);
    assert_true(t.student.p.n <= AC_LEN(student) && t.head.p.n <= AC_LEN(head));
    ask_gradients(&t, &t.student, "g.", student);
    ask_gradients(&t, &t.head, "d.", head);
    trial_run(&t);
    worst = 0;
    same_picture(&t, t.io, "g.x_hat", "x_hat", 4, 1, 1e-9);
    near("adv", fetched(&t, "adv"), number(name, -1, "adv"), 1e-4);
    near("distill", fetched(&t, "distill"), number(name, -1, "distill"), 1e-4);
    near("loss", fetched(&t, "loss"), number(name, -1, "total_g"), 1e-4);
    near("hinge", fetched(&t, "hinge"), number(name, -1, "hinge_real") + number(name, -1, "hinge_fake"), 1e-4);
    near("r1", fetched(&t, "r1"), number(name, -1, "r1"), 1e-4);
    near("adv_slope", fetched(&t, "adv_slope"), length(&t, second ? "adv.x_hat" : "adv.image"), 1e-4);
    if (second)
        near("distill_slope", fetched(&t, "distill_slope"), o.lambda * length(&t, "distill.x_hat"), 1e-4);
    check_gradients(&t, &t.student, student, "student.", second ? total_g : sum_g, (const double[]){1, 2.5}, 1e-8);
    check_gradients(&t, &t.head, head, "", second ? total_d : sum_d, (const double[]){1, o.gamma}, 1e-8);
    for (size_t i = 0; i < t.head.kept.n; i++) {
        const ac_parameter *p = &t.head.kept.p[i];
        char key[AC_NAME_MAX];
        size_t n;
        double *want;
        snprintf(key, sizeof key, "sn_after_d.%s", p->name);
        want = fixture_f64(t.io, key, &n);
        same(key, variable(p->w, n), want, n, 1e-9);
    }
    print_message("# %s: %zu parameters of the student, %zu of the heads, worst at %.2g of its limit\n", name, t.student.p.n, t.head.p.n, worst);
    trial_end(&t);
}

static void first_case(void **state)
{
    (void)state;
    whole_step("case_a", false);
}

static void second_case(void **state)
{
    (void)state;
    whole_step("case_b", true);
}

/* ------------------------------------------------------------------------------------------ distillation */

/* Loss and gradient by x^ of one form of the distillation loss alone. */
static void variant(bool pixels, const char *weighting, int steps, double guidance)
{
    ac_add_opts o = options(false);
    char key[96];
    trial t;
    ac_id x_hat, gx;

    o.adversarial = false;
    o.lambda = 1;
    o.pixels = pixels;
    o.sds = !strcmp(weighting, "sds");
    o.nfsd = !strcmp(weighting, "nfsd");
    o.teacher_steps = steps;
    o.guidance = guidance;
    trial_begin(&t, "case_a", &o, 0);
    assert_string_equal(t.g->outputs.p[0].name, "x_hat");
    x_hat = t.g->outputs.p[0].id;
    ac_grad(t.g, t.loss, AC_NONE, &x_hat, 1, &gx);
    ac_set_output(t.g, "gradient", gx);
    trial_run(&t);
    snprintf(key, sizeof key, "variant.%s.%s.K%d.g%g.x_hat", pixels ? "pixel" : "latent", weighting, steps, guidance);
    same_picture(&t, t.grads, key, "gradient", 4, 1, 1e-8);
    trial_end(&t);
}

static void variants(void **state)
{
    (void)state;
    worst = 0;
    for (int pixels = 0; pixels < 2; pixels++) {
        variant(pixels, "exponential", 1, 1);
        variant(pixels, "exponential", 1, 3);
        variant(pixels, "exponential", 2, 1);
        variant(pixels, "exponential", 4, 1);
        variant(pixels, "sds", 1, 1);
        variant(pixels, "nfsd", 1, 1);
    }
    print_message("# 12 forms of the distillation loss, worst at %.2g of its limit\n", worst);
}

/* ------------------------------------------------------------------------------------------ training */

static ac_id training_loss(ac_training *r, ac_graph *g, int batch)
{
    trial *t = r->method;

    (void)batch;
    t->g = g;
    return build(t, &r->sets[0], &r->sets[1], t->o.augment ? 40 : 0);
}

static int training_feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    trial *t = r->method;

    (void)b;
    t->iteration = (int)r->at.step;
    t->x = x;
    feed_all(t);
    return 0;
}

/* |mine - want| / |want - start| of each tensor; a bias before a batch norm does not move. */
static void check_moved(const ac_params *set, const ac_st *end, const char *prefix, const ac_st *start, bool averages, double *most)
{
    for (size_t i = 0; i < set->p.n; i++) {
        const ac_parameter *p = &set->p.p[i];
        char key[AC_NAME_MAX];
        double *want, *from, *got, diff = 0, change = 0;
        size_t n;
        bool still = strstr(p->name, ".main.0.0.bias") || strstr(p->name, ".fn.0.bias");
        snprintf(key, sizeof key, "%s%s", prefix, p->name);
        want = fixture_f64(end, key, &n);
        from = fixture_f64(start, p->name, NULL);
        got = variable(averages ? p->ema : p->w, n);
        for (size_t k = 0; k < n; k++) {
            diff += (got[k] - want[k]) * (got[k] - want[k]);
            change += (want[k] - from[k]) * (want[k] - from[k]);
        }
        free(got);
        free(want);
        free(from);
        if (still) {
            assert_true(diff <= 1e-10 * (double)n);
            continue;
        }
        *most = fmax(*most, sqrt(diff / change));
        if (!(diff <= 5e-3 * 5e-3 * change))
            fail_msg("%s: %g of the distance moved", key, sqrt(diff / change));
    }
}

/* Three steps of the trainer on the fixture's batches, against the trajectory of both players. */
static void train(const char *name, bool second)
{
    static const ac_recipe recipe = {.name = "fixture", .measure = "error", .loss = training_loss, .feed = training_feed,
                                     .scalar = {"adv", "distill", "hinge", "r1", "real_above", "fake_below"}};
    const char *set[] = {"run.method=add", "run.output_dir=none", "run.max_train_steps=3", "model.pretrained_model=none", "data.train_data_dir=none",
                         "data.train_batch_size=4", "optimizer.learning_rate=1e-3", "optimizer.lr_scheduler=constant", "optimizer.lr_warmup_steps=0",
                         "optimizer.adam_beta1=0.9", "optimizer.adam_beta2=0.999", "optimizer.adam_epsilon=1e-4", "optimizer.adam_weight_decay=0.1",
                         "optimizer.max_grad_norm=0", "optimizer.ema_decay=0.95", "optimizer.ema_ramp=no", "discriminator.feature_network=none",
                         "discriminator.learning_rate=1e-3", "discriminator.adam_beta1=0.9", "discriminator.adam_beta2=0.999",
                         "discriminator.adam_weight_decay=0.1"};
    trial t = {.o = options(second)};
    addcl_ctx ctx = {.dev = test_device()};
    ac_train_cfg *cfg;
    ac_training r;
    char path[128];
    ac_st *end, *student, *heads;
    double most = 0;

    open_files(&t, name);
    must(ac_train_config_load(NULL, set, AC_LEN(set), &ctx.dg, &cfg), &ctx.dg);
    r = (ac_training){.ctx = &ctx, .dev = test_device(), .dg = test_diag(), .cfg = cfg, .recipe = &recipe, .method = &t, .ranks = 1, .n_sets = 2,
                      .sets = {new_student(), new_head()}};
    must(ac_step_open(&r, &r.stepper), r.dg);
    start_heads(&r.sets[1]);
    for (int k = 0; k < 3; k++) {
        const double tol = 1e-4;
        ac_step_result s;
        must(ac_step_run(&r, &r.stepper, &s), r.dg);
        near("adv", s.scalar[0], number(name, k, "adv"), tol);
        near("distill", s.scalar[1], number(name, k, "distill"), tol);
        near("hinge", s.scalar[2], number(name, k, "hinge_real") + number(name, k, "hinge_fake"), tol);
        near("r1", s.scalar[3], number(name, k, "r1"), tol);
        near("real_above", s.scalar[4], number(name, k, "real_above_0"), tol);
        near("fake_below", s.scalar[5], number(name, k, "fake_below_0"), tol);
        near("loss", s.loss, number(name, k, "total_g"), tol);
        near("norm", s.grad_norm, hypot(number(name, k, "grad_norm_g"), number(name, k, "grad_norm_d")), tol);
    }
    snprintf(path, sizeof path, "add_step/%s_train.safetensors", name);
    end = fixture_open(path);
    student = fixture_open("add_step/unet/diffusion_pytorch_model.safetensors");
    heads = fixture_open("add_step/heads.safetensors");
    check_moved(&r.sets[0], end, "student.", student, false, &most);
    if (!second)
        check_moved(&r.sets[0], end, "ema.", student, true, &most);
    check_moved(&r.sets[1], end, "", heads, false, &most);
    print_message("# %s: three steps, parameters within %.2g of the distance moved\n", name, most);
    ac_st_close(end);
    ac_st_close(student);
    ac_st_close(heads);
    ac_step_close(&r.stepper);
    ac_params_free(&r.sets[0]);
    ac_params_free(&r.sets[1]);
    ac_train_config_free(cfg);
    t.x = NULL;
    t.g = NULL;
    trial_end(&t);
}

static void first_training(void **state)
{
    (void)state;
    train("case_a", false);
}

static void second_training(void **state)
{
    (void)state;
    train("case_b", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(first_case), cmocka_unit_test(second_case), cmocka_unit_test(variants),
                                       cmocka_unit_test(first_training), cmocka_unit_test(second_training)};

    return cmocka_run_group_tests_name("add", tests, world_setup, world_teardown);
}
