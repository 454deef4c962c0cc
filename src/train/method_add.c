/* method_add.c - a student of few steps from a teacher of many: adversarial diffusion distillation (Sauer et al. 2023). The
 * teacher, the autoencoder, the text encoder and the feature network are frozen; the student and the discriminator's heads
 * learn, each with an optimiser of its own. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "diff/whiten.h"
#include "train/add.h"

/* Purposes of a sample's random streams. */
enum { RANDOM_STEP = 1, RANDOM_NOISE, RANDOM_TEACHER_STEP, RANDOM_TEACHER_NOISE, RANDOM_AUGMENT, RANDOM_REAL_NOISE };
enum { STUDENT, HEADS }; /* sets of parameters */
enum { PASSES = 3 };     /* of pictures through the features */

typedef struct add {
    ac_student s;
    ac_part feature;
    ac_vit_cfg vit;
    ac_add_opts o;
    ac_each times;
    ac_weights decoder, features; /* of the step's graph */
    ac_each noised;               /* of latents that the teacher sees as features */
    float *real_noise;            /* [B,h,w,C] */
    float *text;                  /* [B,text_dim] */
    float *negative_ctx;          /* [1,T,context] */
    float *color[PASSES];         /* [B,3] */
    int32_t *place[PASSES];       /* [B,side side] */
    int32_t *ids;                 /* [T] */
    float *whiten[AC_TAPS + 1];   /* maps of the features */
} add;

enum { N_T, N_X0, N_NOISE, N_VALUES };
static const char *const noised_names[N_VALUES] = {"ladd.t", "ladd.x0", "ladd.noise"};
static const char *const pass_names[PASSES] = {"made", "fake", "real"};
static const ac_recipe student_alone;

/* ------------------------------------------------------------------------------------------ opening */

static int check_steps(const ac_training *r, const add *a)
{
    const ac_ints *steps = &r->cfg->distillation.student_timesteps;

    for (size_t i = 0; i < steps->n; i++)
        if (steps->p[i] >= a->s.student->cfg.train_steps)
            return ac_fail(r->dg, ADDCL_E_ARG, "distillation.student_timesteps: %lld is beyond the schedule's %d steps", (long long)steps->p[i],
                           a->s.student->cfg.train_steps);
    return 0;
}

static int open_features(ac_training *r, add *a)
{
    const ac_ints *blocks = &r->cfg->discriminator.feature_blocks;
    const char *dir = r->cfg->discriminator.feature_network;
    int rc;

    AC_TRY(ac_image_tower_open(r->dg, dir, &a->feature, &a->vit));
    if (blocks->n > AC_TAPS)
        rc = ac_fail(r->dg, ADDCL_E_ARG, "discriminator.feature_blocks: %zu blocks, at most %d are possible", blocks->n, AC_TAPS);
    for (size_t i = 0; i < blocks->n && rc == 0; i++)
        if (blocks->p[i] >= a->vit.layers)
            rc = ac_fail(r->dg, ADDCL_E_ARG, "discriminator.feature_blocks: the network of %s has %d blocks, %lld is beyond", dir, a->vit.layers,
                         (long long)blocks->p[i]);
out:
    return rc;
}

static bool in_latents(const ac_training *r)
{
    return r->cfg->run.method == AC_METHOD_LADD;
}

static ac_add_opts options_of(const ac_training *r, const add *a)
{
    const ac_train_cfg *c = r->cfg;

    return (ac_add_opts){.B = (int)c->data.train_batch_size,
                         .h = a->s.h,
                         .w = a->s.w,
                         .side = (int)c->data.resolution,
                         .T = a->s.T,
                         .text_dim = c->discriminator.text_condition ? r->model->clip[0].width : 0,
                         .image_condition = !in_latents(r) && c->discriminator.image_condition,
                         .decode_real = !in_latents(r) && c->discriminator.decode_real,
                         .augment = !in_latents(r) && c->discriminator.diffaugment,
                         .adversarial = c->distillation.adversarial_weight > 0,
                         .distill = c->run.method == AC_METHOD_ADD && c->distillation.distillation_weight > 0,
                         .adversary_weight = c->distillation.adversarial_weight,
                         .gamma = c->discriminator.r1_weight,
                         .lambda = c->distillation.distillation_weight,
                         .pixels = !in_latents(r) && c->distillation.space == AC_SPACE_PIXEL,
                         .teacher_steps = (int)c->distillation.teacher_steps,
                         .guidance = c->distillation.teacher_guidance,
                         .sds = c->distillation.weighting == AC_DISTILL_SDS,
                         .nfsd = c->distillation.weighting == AC_DISTILL_NFSD,
                         .nfsd_scale = c->distillation.nfsd_scale};
}

static int allocate(ac_training *r, add *a)
{
    size_t B = (size_t)a->o.B, T = (size_t)a->o.T, pixels = (size_t)a->o.side * (size_t)a->o.side;
    bool ok;

    a->text = ac_calloc(B * (size_t)AC_MAX(a->o.text_dim, 1), sizeof(float));
    a->negative_ctx = ac_calloc(T * (size_t)a->s.context, sizeof(float));
    a->ids = ac_calloc(T, sizeof *a->ids);
    a->real_noise = ac_calloc(B * a->s.latents.n, sizeof(float));
    ok = a->text && a->negative_ctx && a->ids && a->real_noise;
    for (int k = 0; k < PASSES; k++) {
        ok = (a->color[k] = ac_calloc(B * 3, sizeof(float))) && ok;
        ok = (a->place[k] = ac_calloc(B * pixels, sizeof *a->place[k])) && ok;
    }
    return ok ? 0 : ac_nomem(r->dg, B * pixels * PASSES * sizeof(float));
}

/* What the heads see: of latents through the teacher, of pictures through the feature network. */
static ac_features features_of(const ac_training *r, const add *a, ac_net *network, ac_net *teacher)
{
    const ac_ints *blocks = &r->cfg->discriminator.feature_blocks;
    int side = (int)r->cfg->discriminator.feature_size;
    ac_features f = {.net = teacher, .unet = &r->model->unet, .n_taps = ac_unet_taps(&r->model->unet)};

    if (!in_latents(r)) {
        f = (ac_features){.net = network, .vit = &a->vit, .n_taps = (int)blocks->n, .embedding = r->cfg->discriminator.feature_embedding,
                          .size = side == a->o.side ? 0 : side};
        ac_vit_norm(&a->vit, f.mean, f.std);
        for (size_t i = 0; i < blocks->n; i++)
            f.tap[i] = (int)blocks->p[i];
    }
    for (int k = 0; k < ac_feature_count(&f); k++)
        f.whiten[k] = a->whiten[k];
    return f;
}

enum { WHITEN_PICTURES = 512 };
static const double whiten_floor = 1e-3; /* of the mean variance */

static int feed(ac_training *r, ac_exec *x, const ac_batch *b);

typedef struct whitening {
    int n; /* of features */
    struct {
        ac_whitener sums;
        size_t patches;
    } of[AC_TAPS + 1];
    float *row; /* [B,patches,width] */
} whitening;

static const char *tap_name(int k, char name[32])
{
    snprintf(name, 32, "features.%d", k);
    return name;
}

static int count_batch(ac_training *r, ac_exec *x, const ac_batch *b, size_t first, void *user)
{
    add *a = r->method;
    whitening *w = user;
    ac_batch rows = *b;
    char name[32];
    int rc;

    rows.row = first; /* the same noise and augmentation in each sitting */
    AC_TRY(feed(r, x, &rows));
    AC_TRY(ac_run(x));
    for (int k = 0; k < w->n; k++) {
        AC_TRY(ac_fetch(x, tap_name(k, name), w->row, (size_t)a->o.B * w->of[k].patches * w->of[k].sums.d * sizeof *w->row));
        AC_TRY(ac_whitener_add(&w->of[k].sums, w->row, b->n * w->of[k].patches, r->dg));
    }
out:
    return rc;
}

/* The graph of a batch's features, and room for what is made of them. */
static int features_graph(ac_training *r, add *a, ac_graph *g, whitening *w)
{
    ac_net teacher = ac_student_teacher(&a->s, g), feature = ac_student_frozen(r, g, &a->features, &a->feature, "image_encoder"),
           decoder = ac_student_frozen(r, g, &a->decoder, &r->model->part[AC_VAE], "vae");
    ac_add_nets n = {.decoder = &decoder, .vae = &r->model->vae, .unet = &r->model->unet, .features = features_of(r, a, &feature, &teacher)};
    ac_id out[AC_TAPS + 1];
    size_t most = 0;
    char name[32];
    int rc;

    ac_add_real_features(g, &n, &a->o, out);
    AC_TRY(g->rc);
    for (int k = 0; k < ac_feature_count(&n.features); k++, w->n++) {
        size_t patches = (size_t)ac_shape_of(g, out[k])->d[1], width = (size_t)ac_shape_of(g, out[k])->d[2];
        ac_set_output(g, tap_name(k, name), out[k]);
        AC_TRY(ac_whitener_open(width, r->dg, &w->of[k].sums));
        w->of[k].patches = patches;
        most = AC_MAX(most, (size_t)a->o.B * patches * width);
        if (!(a->whiten[k] = ac_calloc(width * width + width, sizeof *a->whiten[k]))) {
            rc = ac_nomem(r->dg, width * width * sizeof *a->whiten[k]);
            goto out;
        }
    }
    if (!(w->row = ac_calloc(most, sizeof *w->row)))
        rc = ac_nomem(r->dg, most * sizeof *w->row);
out:
    return rc;
}

/* Maps that whiten the features, from training samples as the heads see them, the same ones in each sitting. */
static int whiten(ac_training *r, add *a)
{
    size_t seen;
    ac_graph *g = ac_graph_new(r->dg, AC_F32);
    ac_exec *x = NULL;
    whitening w = {0};
    int rc = g ? 0 : ac_nomem(r->dg, sizeof *g);

    AC_TRY(rc);
    AC_TRY(features_graph(r, a, g, &w));
    if (r->plan_only)
        goto out;
    AC_TRY(ac_exec_new(r->dev, g, NULL, &x));
    AC_TRY(ac_eval_each(r, x, AC_SPLIT_TRAIN, AC_MIN(ac_data_count(r->data, AC_SPLIT_TRAIN), (size_t)WHITEN_PICTURES), count_batch, &w, &seen));
    for (int k = 0; k < w.n; k++)
        AC_TRY(ac_whitener_map(&w.of[k].sums, whiten_floor, r->dg, a->whiten[k], a->whiten[k] + w.of[k].sums.d * w.of[k].sums.d));
out:
    for (int k = 0; k <= AC_TAPS; k++)
        ac_whitener_close(&w.of[k].sums);
    free(w.row);
    ac_exec_free(x);
    ac_graph_free(g);
    ac_weights_free(&a->features);
    ac_weights_free(&a->decoder);
    return rc;
}

static int open_add(ac_training *r)
{
    add *a = ac_calloc(1, sizeof *a);
    int rc;

    if (!a)
        return ac_nomem(r->dg, sizeof *a);
    r->method = a;
    AC_TRY(ac_student_open(r, true, AC_LCM, &a->s));
    AC_TRY(check_steps(r, a));
    if (r->cfg->distillation.adversarial_weight > 0 && !in_latents(r))
        AC_TRY(open_features(r, a));
    if (in_latents(r) && ac_unet_taps(&r->model->unet) > AC_TAPS) {
        rc = ac_fail(r->dg, ADDCL_E_UNSUPPORTED, "the UNet has %d transformer blocks; heads on at most %d are possible", ac_unet_taps(&r->model->unet), AC_TAPS);
        goto out;
    }
    AC_TRY(ac_each_open(noised_names, N_VALUES, a->s.B, r->dg, &a->noised));
    a->o = options_of(r, a);
    AC_TRY(allocate(r, a));
    AC_TRY(ac_add_times_open(a->o.B, r->dg, &a->times));
    if (a->o.adversarial)
        r->sets[r->n_sets++] = (ac_params){.dev = r->dev, .dg = r->dg, .part = "discriminator", .seed = (uint64_t)r->cfg->run.seed, .live_only = true, .adversary = true};
    r->recipe = in_latents(r) ? &ac_recipe_ladd : !a->o.distill ? &ac_recipe_gan : !a->o.adversarial ? &student_alone : &ac_recipe_add;
    if (a->o.nfsd && !r->plan_only)
        AC_TRY(ac_states_get(&a->s.states, r->cfg->distillation.negative_prompt, a->negative_ctx, a->s.pooled));
    if (a->o.adversarial && r->cfg->discriminator.feature_whitening)
        rc = whiten(r, a);
out:
    return rc;
}

static void close_add(ac_training *r)
{
    add *a = r->method;

    if (!a)
        return;
    ac_student_close(&a->s);
    ac_part_close(&a->feature);
    ac_each_close(&a->times);
    ac_each_close(&a->noised);
    free(a->real_noise);
    ac_weights_free(&a->decoder);
    ac_weights_free(&a->features);
    for (int k = 0; k < PASSES; k++) {
        free(a->color[k]);
        free(a->place[k]);
    }
    for (int k = 0; k <= AC_TAPS; k++)
        free(a->whiten[k]);
    free(a->text);
    free(a->negative_ctx);
    free(a->ids);
    free(a);
    r->method = NULL;
}

/* ------------------------------------------------------------------------------------------ graph */

static ac_id loss(ac_training *r, ac_graph *g, int B)
{
    add *a = r->method;
    ac_heads heads = {.virtual_batch = (int)r->cfg->discriminator.virtual_batch,
                      .cmap = a->o.text_dim || a->o.image_condition || in_latents(r) ? (int)r->cfg->discriminator.projection_dim : 0};
    ac_weights ws, wh;
    ac_net student = ac_train_net(r, g, STUDENT, &ws), head, teacher = ac_student_teacher(&a->s, g),
           decoder = ac_student_frozen(r, g, &a->decoder, &r->model->part[AC_VAE], "vae"),
           feature = ac_student_frozen(r, g, &a->features, &a->feature, "image_encoder");
    ac_add_nets n = {.student = &student, .teacher = &teacher, .decoder = &decoder, .head = &head, .unet = &r->model->unet,
                     .teacher_unet = &r->model->unet, .vae = &r->model->vae, .heads = &heads};
    ac_id y;

    (void)B;
    if (a->o.adversarial) {
        n.features = features_of(r, a, &feature, &teacher);
        head = ac_train_net(r, g, HEADS, &wh);
    }
    y = ac_add_loss(g, &n, &a->o);
    ac_heads_keep(&heads, g);
    ac_heads_free(&heads);
    return y;
}

/* ------------------------------------------------------------------------------------------ inputs */

/* The embedding of sample i's caption: the state of its last token. */
static int embed_caption(ac_training *r, size_t i, const char *text)
{
    add *a = r->method;
    size_t context = (size_t)a->s.context, width = (size_t)a->o.text_dim;
    const float *states = a->s.ctx + i * (size_t)a->o.T * context;
    int rc = 0;

    if (width) {
        AC_TRY(ac_caption_ids(r, text, a->o.T, a->ids));
        memcpy(a->text + i * width, states + (size_t)ac_clip_eos(&r->model->clip[0], a->ids, a->o.T) * context, width * sizeof(float));
    }
out:
    return rc;
}

static int feed_augmentation(ac_training *r, ac_exec *x)
{
    const add *a = r->method;
    size_t B = (size_t)a->o.B, pixels = (size_t)a->o.side * (size_t)a->o.side;
    int rc = 0;

    for (int k = 0; k < PASSES && rc == 0 && a->o.adversarial && a->o.augment; k++) {
        char color[48], place[48];
        snprintf(color, sizeof color, "augment.%s.color", pass_names[k]);
        snprintf(place, sizeof place, "augment.%s.place", pass_names[k]);
        AC_TRY(ac_feed(x, color, a->color[k], B * 3 * sizeof(float)));
        rc = ac_feed(x, place, a->place[k], B * pixels * sizeof(int32_t));
    }
out:
    return rc;
}

/* The noise under which the teacher sees latents: of a time step that is logit-normal. */
static void draw_noised(const ac_training *r, add *a, size_t i, uint64_t row)
{
    uint64_t time = ac_row_stream(r, row, RANDOM_TEACHER_STEP), noise = ac_row_stream(r, row, RANDOM_REAL_NOISE);
    int all = a->s.teacher->cfg.train_steps, t;
    double alpha, sigma;
    float u;

    ac_mix_normal(&time, &u, 1);
    t = (int)((all - 1) / (1 + exp(-(r->cfg->discriminator.noise_mean + r->cfg->discriminator.noise_std * (double)u))) + 0.5);
    ac_schedule_at(a->s.teacher, t, &alpha, &sigma);
    ac_each_set(&a->noised, (int)i, N_T, t);
    ac_each_set(&a->noised, (int)i, N_X0, alpha);
    ac_each_set(&a->noised, (int)i, N_NOISE, sigma);
    ac_mix_normal(&noise, a->real_noise + i * a->s.latents.n, a->s.latents.n);
}

static int feed_noised(const add *a, ac_exec *x)
{
    size_t n = (size_t)a->s.B * a->s.latents.n * sizeof(float);
    int rc;

    AC_TRY(ac_feed(x, "ladd.made", a->s.noise, n));
    AC_TRY(ac_feed(x, "ladd.real", a->real_noise, n));
    rc = ac_each_feed(&a->noised, x);
out:
    return rc;
}

static void draw(ac_training *r, add *a, size_t i, uint64_t row)
{
    const ac_ints *steps = &r->cfg->distillation.student_timesteps;
    uint64_t N = (uint64_t)a->o.B * (uint64_t)r->ranks * (uint64_t)r->cfg->optimizer.gradient_accumulation_steps, noise = ac_row_stream(r, row, RANDOM_NOISE),
             other = ac_row_stream(r, row, RANDOM_TEACHER_NOISE), step = ac_row_stream(r, row, RANDOM_STEP), time = ac_row_stream(r, row, RANDOM_TEACHER_STEP),
             augment = ac_row_stream(r, row, RANDOM_AUGMENT);
    size_t n = a->s.latents.n;
    int s = (int)steps->p[AC_MIN((size_t)(ac_mix_uniform(&step) * (double)steps->n), steps->n - 1)], all = a->s.teacher->cfg.train_steps;
    int t = AC_MIN((int)(((double)(row % N) + ac_mix_uniform(&time)) / (double)N * all), all - 1); /* stratified */
    double alpha, sigma;

    ac_schedule_at(a->s.student, s, &alpha, &sigma);
    if (s == (int)steps->p[steps->n - 1] && a->s.student->cfg.prediction == AC_PREDICT_EPS) { /* whose schedule does not end in pure noise */
        alpha = 0;
        sigma = 1;
    }
    ac_student_noised(&a->s, i, alpha, sigma, &noise, NULL);
    if (in_latents(r))
        draw_noised(r, a, i, row);
    ac_mix_normal(&other, a->s.noise + i * n, n);
    ac_add_times_set(&a->times, (int)i, &a->o, a->s.student, a->s.teacher, s, t);
    for (int k = 0; k < PASSES; k++)
        ac_diffaug_draw(&augment, a->o.B, a->o.side, (int)i, a->color[k] + 3 * i, a->place[k] + i * (size_t)a->o.side * (size_t)a->o.side);
}

static int feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    add *a = r->method;
    size_t B = (size_t)a->o.B, n = B * a->s.latents.n * sizeof(float), states = (size_t)a->o.T * (size_t)a->s.context;
    int rc;

    AC_TRY(ac_student_batch(&a->s, b));
    for (size_t i = 0; i < b->n; i++) {
        draw(r, a, i, b->row + i);
        AC_TRY(embed_caption(r, i, b->sample[i].caption));
    }
    AC_TRY(ac_feed(x, "x_s", a->s.x, n));
    AC_TRY(ac_feed(x, "noise", a->s.noise, n));
    AC_TRY(ac_feed(x, "x0", a->s.x0, n));
    AC_TRY(ac_feed(x, "ctx", a->s.ctx, B * states * sizeof(float)));
    AC_TRY(ac_feed(x, "null_ctx", a->s.null_ctx, states * sizeof(float)));
    AC_TRY(ac_feed(x, "negative_ctx", a->negative_ctx, states * sizeof(float)));
    AC_TRY(ac_feed(x, "text", a->text, B * (size_t)a->o.text_dim * sizeof(float)));
    AC_TRY(ac_feed(x, "pixels", b->image, B * (size_t)a->o.side * (size_t)a->o.side * 3 * sizeof(float)));
    AC_TRY(ac_each_feed(&a->times, x));
    if (in_latents(r))
        AC_TRY(feed_noised(a, x));
    rc = feed_augmentation(r, x);
out:
    return rc;
}

static int validate(ac_training *r, double *held_out, double *training)
{
    const ac_ints *steps = &r->cfg->distillation.student_timesteps;
    add *a = r->method;

    return ac_student_validate(&a->s, steps->p, steps->n, held_out, training);
}

#define RECIPE(name_, ...)                                                                                                                  \
    {                                                                                                                                   \
        .name = name_, .measure = "error", .scalar = {__VA_ARGS__}, .open = open_add, .close = close_add, .loss = loss, .feed = feed,   \
        .validate = validate, .pictures = ac_sample_sheet, .export = ac_export_model                                                    \
    }

#define OF_HEADS "hinge", "r1", "real_above", "fake_below", "adv_slope", "feature_distance"

static const ac_recipe student_alone = RECIPE("add", "distill");
const ac_recipe ac_recipe_ladd = RECIPE("ladd", "adv", OF_HEADS);
const ac_recipe ac_recipe_gan = RECIPE("gan", "adv", OF_HEADS);
const ac_recipe ac_recipe_add = RECIPE("add", "adv", "distill", OF_HEADS, "distill_slope");
