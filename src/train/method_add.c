/* method_add.c - a student of few steps from a teacher of many: adversarial diffusion distillation (Sauer et al. 2023). The
 * teacher, the autoencoder, the text encoder and the feature network are frozen; the student and the discriminator's heads
 * learn, each with an optimiser of its own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "diff/loss.h"
#include "train/add.h"
#include "train/inputs.h"

/* Purposes of a sample's random streams. */
enum { RANDOM_STEP = 1, RANDOM_NOISE, RANDOM_TEACHER_STEP, RANDOM_TEACHER_NOISE, RANDOM_AUGMENT };
enum { STUDENT, HEADS }; /* sets of parameters */
enum { PASSES = 3 };     /* of pictures through the features */

/* Host copies of a batch's inputs. */
typedef struct host {
    float *x0, *x, *noise;  /* [B,h,w,C] */
    float *ctx;             /* [B,T,context] */
    float *pooled;          /* [B,P] of SDXL */
    float *text;            /* [B,text_dim] */
    float *apart[2];        /* [1,T,context]: no caption, the negative prompt */
    float *color[PASSES];   /* [B,3] */
    int32_t *place[PASSES]; /* [B,side side] */
    int32_t *ids;           /* [T] */
    float *weight;          /* [B], in validation */
} host;

typedef struct add {
    ac_schedule *student, *teacher;
    ac_latents latents;
    ac_states states;
    ac_part feature;
    ac_vit_cfg vit;
    ac_add_opts o;
    ac_add_times times;
    ac_weights frozen[3]; /* of the step's graph: teacher, decoder, features */
    host in;
} add;

static const char *const pass_names[PASSES] = {"made", "fake", "real"};
static const ac_recipe student_alone, adversaries_alone;

/* ------------------------------------------------------------------------------------------ opening */

static int check_parts(const ac_training *r)
{
    const addcl_model *m = r->model;
    static const struct {
        ac_part_id id;
        const char *what;
    } need[] = {{AC_UNET, "unet"}, {AC_VAE, "vae"}, {AC_TEXT, "text_encoder"}};

    for (size_t i = 0; i < AC_LEN(need); i++)
        if (!m->part[need[i].id].layout)
            return ac_fail(r->dg, ADDCL_E_ARG, "%s has no %s with weights: give one with model.%s", m->path, need[i].what, need[i].what);
    if (m->unet.time_ids)
        return ac_fail(r->dg, ADDCL_E_UNSUPPORTED, "students of SDXL models are not trained yet");
    return 0;
}

/* The student's schedule ends in pure noise. Where noise is predicted, x0 cannot be told from that by the rescaled schedule:
 * then the student sees noise alone at its last step, and the schedule stays as it is. */
static int open_schedules(ac_training *r, add *a)
{
    ac_schedule_cfg c = r->model->sch->cfg;
    int rc;

    AC_TRY(ac_schedule_new(&c, r->dg, &a->teacher));
    c.zero_snr = c.prediction != AC_PREDICT_EPS;
    AC_TRY(ac_schedule_new(&c, r->dg, &a->student));
    r->model->sch->cfg.zero_snr = c.zero_snr; /* the exported scheduler goes by it */
    memcpy(r->model->sch->abar, a->student->abar, (size_t)c.train_steps * sizeof *a->student->abar);
    for (size_t i = 0; i < r->cfg->distillation.student_timesteps.n; i++)
        if (r->cfg->distillation.student_timesteps.p[i] >= c.train_steps) {
            rc = ac_fail(r->dg, ADDCL_E_ARG, "distillation.student_timesteps: %lld is beyond the schedule's %d steps",
                         (long long)r->cfg->distillation.student_timesteps.p[i], c.train_steps);
            goto out;
        }
out:
    return rc;
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

static ac_add_opts options_of(const ac_training *r, const add *a)
{
    const ac_train_cfg *c = r->cfg;

    return (ac_add_opts){.B = (int)c->data.train_batch_size,
                         .h = a->latents.h,
                         .w = a->latents.w,
                         .side = (int)c->data.resolution,
                         .T = a->states.T,
                         .text_dim = c->discriminator.text_condition ? r->model->clip[0].width : 0,
                         .image_condition = c->discriminator.image_condition,
                         .augment = c->discriminator.diffaugment,
                         .adversarial = c->distillation.adversarial_weight > 0,
                         .distill = c->distillation.distillation_weight > 0,
                         .adversary_weight = c->distillation.adversarial_weight,
                         .gamma = c->discriminator.r1_weight,
                         .lambda = c->distillation.distillation_weight,
                         .pixels = c->distillation.space == AC_SPACE_PIXEL,
                         .teacher_steps = (int)c->distillation.teacher_steps,
                         .guidance = c->distillation.teacher_guidance,
                         .sds = c->distillation.weighting == AC_DISTILL_SDS,
                         .nfsd = c->distillation.weighting == AC_DISTILL_NFSD,
                         .nfsd_scale = c->distillation.nfsd_scale};
}

static int allocate(ac_training *r, add *a)
{
    size_t B = (size_t)a->o.B, n = B * a->latents.n, T = (size_t)a->o.T, states = T * (size_t)r->model->unet.context, pixels = (size_t)a->o.side * (size_t)a->o.side;
    host *h = &a->in;
    bool ok;

    h->x0 = ac_calloc(n, sizeof(float));
    h->x = ac_calloc(n, sizeof(float));
    h->noise = ac_calloc(n, sizeof(float));
    h->ctx = ac_calloc(B * states, sizeof(float));
    h->pooled = ac_calloc((size_t)AC_MAX(r->model->unet.pooled, 1), sizeof(float));
    h->text = ac_calloc(B * (size_t)AC_MAX(a->o.text_dim, 1), sizeof(float));
    h->ids = ac_calloc(T, sizeof *h->ids);
    h->weight = ac_calloc(B, sizeof(float));
    ok = h->x0 && h->x && h->noise && h->ctx && h->pooled && h->text && h->ids && h->weight;
    for (int k = 0; k < 2; k++)
        ok = (h->apart[k] = ac_calloc(states, sizeof(float))) && ok;
    for (int k = 0; k < PASSES; k++) {
        ok = (h->color[k] = ac_calloc(B * 3, sizeof(float))) && ok;
        ok = (h->place[k] = ac_calloc(B * pixels, sizeof *h->place[k])) && ok;
    }
    return ok ? 0 : ac_nomem(r->dg, n * sizeof(float));
}

static void add_sets(ac_training *r, const add *a)
{
    ac_params *s = &r->sets[r->n_sets++];
    bool random = r->cfg->distillation.student_init == AC_INIT_RANDOM;

    *s = (ac_params){.dev = r->dev, .dg = r->dg, .part = "unet", .layout = random ? NULL : r->model->part[AC_UNET].layout, .seed = (uint64_t)r->cfg->run.seed};
    r->model->train[AC_UNET] = s;
    if (!a->o.adversarial)
        return;
    s = &r->sets[r->n_sets++];
    *s = (ac_params){.dev = r->dev, .dg = r->dg, .part = "discriminator", .seed = (uint64_t)r->cfg->run.seed, .live_only = true, .adversary = true};
}

static int open_add(ac_training *r)
{
    add *a = ac_calloc(1, sizeof *a);
    int rc;

    if (!a)
        return ac_nomem(r->dg, sizeof *a);
    r->method = a;
    AC_TRY(check_parts(r));
    AC_TRY(open_schedules(r, a));
    if (r->cfg->distillation.adversarial_weight > 0)
        AC_TRY(open_features(r, a));
    AC_TRY(ac_states_open(r, r->cfg->data.max_token_length ? (int)AC_MIN(r->cfg->data.max_token_length, r->model->clip[0].positions) : r->model->clip[0].positions,
                          &a->states));
    AC_TRY(ac_latents_open(r, (int)r->cfg->data.train_batch_size, &a->latents));
    a->o = options_of(r, a);
    AC_TRY(allocate(r, a));
    AC_TRY(ac_add_times_open(a->o.B, r->dg, &a->times));
    add_sets(r, a);
    r->recipe = !a->o.distill ? &adversaries_alone : !a->o.adversarial ? &student_alone : &ac_recipe_add;
    if (!r->plan_only) {
        AC_TRY(ac_states_get(&a->states, "", a->in.apart[0], a->in.pooled));
        AC_TRY(ac_states_get(&a->states, r->cfg->distillation.negative_prompt, a->in.apart[1], a->in.pooled));
    }
out:
    return rc;
}

static void close_add(ac_training *r)
{
    add *a = r->method;
    host *h = a ? &a->in : NULL;

    if (!a)
        return;
    ac_schedule_free(a->student);
    ac_schedule_free(a->teacher);
    ac_latents_close(&a->latents);
    ac_states_close(&a->states);
    ac_part_close(&a->feature);
    ac_add_times_close(&a->times);
    for (size_t k = 0; k < AC_LEN(a->frozen); k++)
        ac_weights_free(&a->frozen[k]);
    for (int k = 0; k < PASSES; k++) {
        free(h->color[k]);
        free(h->place[k]);
    }
    free(h->apart[0]);
    free(h->apart[1]);
    free(h->x0);
    free(h->x);
    free(h->noise);
    free(h->ctx);
    free(h->pooled);
    free(h->text);
    free(h->ids);
    free(h->weight);
    free(a);
    r->method = NULL;
}

/* ------------------------------------------------------------------------------------------ graph */

static ac_net frozen(ac_training *r, ac_graph *g, ac_weights *w, const ac_part *p, const char *part)
{
    *w = (ac_weights){.layout = p->layout, .part = part, .dg = r->dg};
    return (ac_net){.g = g, .w = w, .checkpoint = g->training && r->cfg->model.gradient_checkpointing};
}

static ac_features features_of(const ac_training *r, const add *a, ac_net *m)
{
    const ac_ints *blocks = &r->cfg->discriminator.feature_blocks;
    int side = (int)r->cfg->discriminator.feature_size;
    ac_features f = {.net = m, .vit = &a->vit, .n_taps = (int)blocks->n, .embedding = r->cfg->discriminator.feature_embedding,
                     .size = side == a->o.side ? 0 : side};

    for (size_t i = 0; i < blocks->n; i++)
        f.tap[i] = (int)blocks->p[i];
    ac_vit_norm(&a->vit, f.mean, f.std);
    return f;
}

static ac_id loss(ac_training *r, ac_graph *g, int B)
{
    add *a = r->method;
    ac_heads heads = {.virtual_batch = (int)r->cfg->discriminator.virtual_batch,
                      .cmap = a->o.text_dim || a->o.image_condition ? (int)r->cfg->discriminator.projection_dim : 0};
    ac_weights ws, wh;
    ac_net student = ac_train_net(r, g, STUDENT, &ws), head, teacher = frozen(r, g, &a->frozen[0], &r->model->part[AC_UNET], "unet"),
           decoder = frozen(r, g, &a->frozen[1], &r->model->part[AC_VAE], "vae"), feature = frozen(r, g, &a->frozen[2], &a->feature, "image_encoder");
    ac_add_nets n = {.student = &student, .teacher = &teacher, .decoder = &decoder, .head = &head, .unet = &r->model->unet,
                     .teacher_unet = &r->model->unet, .vae = &r->model->vae, .features = features_of(r, a, &feature), .heads = &heads};
    ac_id y;

    (void)B;
    if (a->o.adversarial)
        head = ac_train_net(r, g, HEADS, &wh);
    y = ac_add_loss(g, &n, &a->o);
    ac_heads_keep(&heads, g);
    ac_heads_free(&heads);
    return y;
}

/* ------------------------------------------------------------------------------------------ inputs */

/* What the student sees of sample i at step s. */
static void noised(add *a, size_t i, int s, bool last, uint64_t *state)
{
    size_t n = a->latents.n;
    const float *x0 = a->in.x0 + i * n;
    float *x = a->in.x + i * n;
    double alpha, sigma;

    ac_schedule_at(a->student, s, &alpha, &sigma);
    if (last && a->student->cfg.prediction == AC_PREDICT_EPS) {
        alpha = 0;
        sigma = 1;
    }
    ac_mix_normal(state, x, n);
    for (size_t k = 0; k < n; k++)
        x[k] = (float)(alpha * (double)x0[k] + sigma * (double)x[k]);
}

/* States of a sample's caption, and of its last token as its embedding. */
static int caption(ac_training *r, size_t i, const char *text)
{
    add *a = r->method;
    size_t T = (size_t)a->o.T, context = (size_t)r->model->unet.context, width = (size_t)a->o.text_dim;
    float *states = a->in.ctx + i * T * context;
    int rc;

    AC_TRY(ac_states_get(&a->states, text, states, a->in.pooled));
    if (width) {
        AC_TRY(ac_caption_ids(r, text, a->o.T, a->in.ids));
        memcpy(a->in.text + i * width, states + (size_t)ac_clip_eos(&r->model->clip[0], a->in.ids, a->o.T) * context, width * sizeof(float));
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
        AC_TRY(ac_feed(x, color, a->in.color[k], B * 3 * sizeof(float)));
        rc = ac_feed(x, place, a->in.place[k], B * pixels * sizeof(int32_t));
    }
out:
    return rc;
}

static void draw(ac_training *r, add *a, size_t i, uint64_t row)
{
    const ac_ints *steps = &r->cfg->distillation.student_timesteps;
    uint64_t N = (uint64_t)a->o.B * (uint64_t)r->ranks * (uint64_t)r->stepper.micro, noise = ac_row_stream(r, row, RANDOM_NOISE),
             other = ac_row_stream(r, row, RANDOM_TEACHER_NOISE), step = ac_row_stream(r, row, RANDOM_STEP), time = ac_row_stream(r, row, RANDOM_TEACHER_STEP),
             augment = ac_row_stream(r, row, RANDOM_AUGMENT);
    size_t which = AC_MIN((size_t)(ac_mix_uniform(&step) * (double)steps->n), steps->n - 1), n = a->latents.n;
    int s = (int)steps->p[which], all = a->teacher->cfg.train_steps;
    int t = AC_MIN((int)(((double)(row % N) + ac_mix_uniform(&time)) / (double)N * all), all - 1); /* stratified */

    noised(a, i, s, which == steps->n - 1, &noise);
    ac_mix_normal(&other, a->in.noise + i * n, n);
    ac_add_times_set(&a->times, (int)i, &a->o, a->student, a->teacher, s, t);
    for (int k = 0; k < PASSES; k++)
        ac_diffaug_draw(&augment, a->o.B, a->o.side, (int)i, a->in.color[k] + 3 * i, a->in.place[k] + i * (size_t)a->o.side * (size_t)a->o.side);
}

static int feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    add *a = r->method;
    size_t B = (size_t)a->o.B, n = B * a->latents.n * sizeof(float), states = (size_t)a->o.T * (size_t)r->model->unet.context;
    int rc;

    AC_TRY(ac_latents_get(&a->latents, b, a->in.x0));
    for (size_t i = 0; i < b->n; i++) {
        draw(r, a, i, b->row + i);
        AC_TRY(caption(r, i, b->sample[i].caption));
    }
    AC_TRY(ac_feed(x, "x_s", a->in.x, n));
    AC_TRY(ac_feed(x, "noise", a->in.noise, n));
    AC_TRY(ac_feed(x, "ctx", a->in.ctx, B * states * sizeof(float)));
    AC_TRY(ac_feed(x, "null_ctx", a->in.apart[0], states * sizeof(float)));
    AC_TRY(ac_feed(x, "negative_ctx", a->in.apart[1], states * sizeof(float)));
    AC_TRY(ac_feed(x, "text", a->in.text, B * (size_t)a->o.text_dim * sizeof(float)));
    AC_TRY(ac_feed(x, "pixels", b->image, B * (size_t)a->o.side * (size_t)a->o.side * 3 * sizeof(float)));
    AC_TRY(ac_add_times_feed(&a->times, x));
    rc = feed_augmentation(r, x);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ validation */
/* The mean squared distance of the student's x^ from the latents it was made noise of, over its time steps. */

static int validation_graph(ac_training *r, ac_graph **out, ac_exec **x)
{
    const add *a = r->method;
    ac_graph *g = *out = ac_graph_new(r->dg, AC_F32);
    ac_shape latent = ac_dims(4, a->o.B, a->o.h, a->o.w, a->latents.C), one = ac_dims(4, a->o.B, 1, 1, 1), each = ac_dims(1, a->o.B);
    ac_weights w;
    ac_net m;
    ac_id x_s, y;

    if (!g)
        return ac_nomem(r->dg, sizeof *g);
    ac_use_averages(r, true);
    m = ac_train_net(r, g, STUDENT, &w);
    x_s = ac_input(g, "x_s", AC_F32, latent);
    y = ac_unet(&m, &r->model->unet,
                &(ac_unet_in){.x = x_s, .t = ac_input(g, "s", AC_F32, each), .ctx = ac_input(g, "ctx", AC_F32, ac_dims(3, a->o.B, a->o.T, r->model->unet.context))});
    ac_use_averages(r, false);
    y = ac_add(g, ac_mul(g, ac_reshape(g, ac_input(g, "s.x", AC_F32, each), one), x_s), ac_mul(g, ac_reshape(g, ac_input(g, "s.out", AC_F32, each), one), y));
    ac_set_output(g, "error", ac_loss_mse(g, y, ac_input(g, "x0", AC_F32, latent), ac_input(g, "weight", AC_F32, each)));
    return ac_exec_new(r->dev, g, NULL, x);
}

/* Adds the errors of a batch to *(double *)user. */
static int eval_batch(ac_training *r, ac_exec *x, const ac_batch *b, size_t k0, void *user)
{
    add *a = r->method;
    const ac_ints *steps = &r->cfg->distillation.student_timesteps;
    size_t B = (size_t)a->o.B, n = B * a->latents.n * sizeof(float);
    double *sum = user;
    float mean;
    int rc;

    (void)k0;
    AC_TRY(ac_latents_get(&a->latents, b, a->in.x0));
    for (size_t i = 0; i < b->n; i++)
        AC_TRY(caption(r, i, b->sample[i].caption));
    for (size_t i = 0; i < B; i++)
        a->in.weight[i] = i < b->n;
    AC_TRY(ac_feed(x, "x0", a->in.x0, n));
    AC_TRY(ac_feed(x, "weight", a->in.weight, B * sizeof(float)));
    AC_TRY(ac_feed(x, "ctx", a->in.ctx, B * (size_t)a->o.T * (size_t)r->model->unet.context * sizeof(float)));
    for (size_t j = 0; j < steps->n; j++) {
        for (size_t i = 0; i < b->n; i++) {
            uint64_t noise = (uint64_t)r->cfg->validation.validation_seed * 0x9e3779b97f4a7c15u + b->sample[i].index * steps->n + j;
            (void)ac_mix(&noise);
            noised(a, i, (int)steps->p[j], j == steps->n - 1, &noise);
            ac_add_times_set(&a->times, (int)i, &a->o, a->student, a->teacher, (int)steps->p[j], 0);
        }
        AC_TRY(ac_feed(x, "x_s", a->in.x, n));
        AC_TRY(ac_add_times_feed(&a->times, x));
        AC_TRY(ac_run(x));
        AC_TRY(ac_fetch(x, "error", &mean, sizeof mean));
        *sum += (double)mean * (double)B / (double)steps->n;
    }
out:
    return rc;
}

static int eval_split(ac_training *r, ac_exec *x, ac_split split, double *mean)
{
    double sum = 0;
    size_t n;
    int rc = ac_eval_each(r, x, split, eval_batch, &sum, &n);

    *mean = n ? sum / (double)n : NAN;
    return rc;
}

static int validate(ac_training *r, double *held_out, double *training)
{
    ac_graph *g = NULL;
    ac_exec *x = NULL;
    int rc;

    AC_TRY(validation_graph(r, &g, &x));
    AC_TRY(eval_split(r, x, AC_SPLIT_VAL, held_out));
    rc = eval_split(r, x, AC_SPLIT_TRAIN, training);
out:
    ac_exec_free(x);
    ac_graph_free(g);
    return rc;
}

#define RECIPE(...)                                                                                                                     \
    {                                                                                                                                   \
        .name = "add", .measure = "error", .scalar = {__VA_ARGS__}, .open = open_add, .close = close_add, .loss = loss, .feed = feed,   \
        .validate = validate, .pictures = ac_sample_sheet, .export = ac_export_model                                                    \
    }

#define OF_HEADS "hinge", "r1", "real_above", "fake_below", "adv_slope", "feature_distance"

static const ac_recipe student_alone = RECIPE("distill");
static const ac_recipe adversaries_alone = RECIPE("adv", OF_HEADS);
const ac_recipe ac_recipe_add = RECIPE("adv", "distill", OF_HEADS, "distill_slope");
