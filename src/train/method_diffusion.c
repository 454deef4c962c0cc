/* method_diffusion.c - a text-to-image diffusion model: the UNet learns to say of a noised latent which noise (or v, or image) is
 * in it, given the time step and the text (Ho et al. 2020; v: Salimans and Ho 2022). The VAE is frozen; the text encoder is
 * frozen, or trained along. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "diff/loss.h"
#include "train/inputs.h"

/* Purposes of a sample's random streams. */
enum { RANDOM_TIME = 1, RANDOM_NOISE };
/* Time steps at which each held-out sample is looked at. */
enum { EVAL_STEPS = 4 };

/* Host copies of a batch's inputs. */
typedef struct host {
    float *x0, *x, *target; /* [B,h,w,C] */
    float *t, *weight;      /* [B] */
    float *ctx;             /* [B,T,context] */
    float *pooled, *ids6;   /* SDXL: [B,P]; [B,6] sizes and crop */
    int32_t *ids;           /* [B,T] */
} host;

typedef struct diffusion {
    ac_schedule *sch;
    ac_latents latents;
    ac_states states;   /* text encoder frozen */
    bool text_trained;
    int B, T;           /* batch, tokens */
    host in;
} diffusion;

/* ------------------------------------------------------------------------------------------ opening */

static int schedule(ac_training *r, diffusion *d)
{
    static const ac_prediction given[] = {[AC_TRAIN_PREDICT_EPS] = AC_PREDICT_EPS, [AC_TRAIN_PREDICT_V] = AC_PREDICT_V,
                                          [AC_TRAIN_PREDICT_SAMPLE] = AC_PREDICT_SAMPLE};
    ac_schedule *sch = r->model->sch, *with_noise;
    ac_train_predict p = r->cfg->model.prediction_type;
    bool zero_snr = r->cfg->loss.zero_terminal_snr;
    int rc = 0;

    if (p != AC_TRAIN_PREDICT_MODEL) /* samples and the exported scheduler go by the model's schedule */
        sch->cfg.prediction = given[p];
    if ((zero_snr || sch->cfg.zero_snr) && sch->cfg.prediction == AC_PREDICT_EPS)
        return ac_fail(r->dg, ADDCL_E_ARG, "noise cannot be predicted where nothing else is left (zero terminal SNR): set model.prediction_type = "
                                           "v_prediction");
    if (zero_snr) {
        AC_TRY(ac_schedule_copy(sch, true, r->dg, &with_noise));
        ac_schedule_free(sch);
        r->model->sch = with_noise;
    }
    d->sch = r->model->sch;
out:
    return rc;
}

static int check_parts(const ac_training *r)
{
    const addcl_model *m = r->model;
    static const ac_part_id need[] = {AC_UNET, AC_TEXT};
    bool tiny = m->part[AC_TAESD].present;

    for (size_t i = 0; i < AC_LEN(need); i++)
        if (!m->part[need[i]].present)
            return ac_fail(r->dg, ADDCL_E_ARG, "%s has no %s: give one with model.%s", m->path, need[i] == AC_UNET ? "unet" : "text_encoder",
                           need[i] == AC_UNET ? "unet" : "text_encoder");
    if (!(tiny ? m->part[AC_TAESD].layout : m->part[AC_VAE].layout))
        return ac_fail(r->dg, ADDCL_E_ARG, "%s has no autoencoder with weights: give a trained one with model.vae", m->path);
    if (!r->cfg->model.train_text_encoder && !m->part[AC_TEXT].layout)
        return ac_fail(r->dg, ADDCL_E_ARG, "%s has no text encoder with weights: give one with model.text_encoder, or set "
                                           "model.train_text_encoder = yes",
                       m->path);
    if (r->cfg->model.train_text_encoder && m->unet.time_ids)
        return ac_fail(r->dg, ADDCL_E_UNSUPPORTED, "the two text encoders of an SDXL model cannot be trained; set model.train_text_encoder = no");
    return 0;
}

static int allocate(ac_training *r, diffusion *d)
{
    const ac_unet_cfg *u = &r->model->unet;
    size_t B = (size_t)d->B, n = d->latents.n, T = (size_t)d->T;
    host *h = &d->in;

    h->x0 = ac_calloc(B * n, sizeof(float));
    h->x = ac_calloc(B * n, sizeof(float));
    h->target = ac_calloc(B * n, sizeof(float));
    h->t = ac_calloc(B, sizeof(float));
    h->weight = ac_calloc(B, sizeof(float));
    h->ctx = ac_calloc(B * T * (size_t)u->context, sizeof(float));
    h->pooled = ac_calloc(B * (size_t)AC_MAX(u->pooled, 1), sizeof(float));
    h->ids6 = ac_calloc(B * 6, sizeof(float));
    h->ids = ac_calloc(B * T, sizeof *h->ids);
    if (!h->x0 || !h->x || !h->target || !h->t || !h->weight || !h->ctx || !h->pooled || !h->ids6 || !h->ids)
        return ac_nomem(r->dg, B * n * sizeof(float));
    return 0;
}

static void add_set(ac_training *r, ac_part_id id, const char *part)
{
    r->sets[r->n_sets] = (ac_params){.dev = r->dev, .dg = r->dg, .part = part, .layout = r->model->part[id].layout, .seed = (uint64_t)r->cfg->run.seed};
    r->model->train[id] = &r->sets[r->n_sets++];
}

static int open_diffusion(ac_training *r)
{
    diffusion *d = ac_calloc(1, sizeof *d);
    int rc;

    if (!d)
        return ac_nomem(r->dg, sizeof *d);
    r->method = d;
    AC_TRY(check_parts(r));
    AC_TRY(schedule(r, d));
    d->B = (int)r->cfg->data.train_batch_size;
    d->T = r->cfg->data.max_token_length ? (int)AC_MIN(r->cfg->data.max_token_length, r->model->clip[0].positions) : r->model->clip[0].positions;
    d->text_trained = r->cfg->model.train_text_encoder;
    ac_add_unet_set(r, false);
    if (d->text_trained)
        add_set(r, AC_TEXT, "text_encoder");
    else
        AC_TRY(ac_states_open(r, d->T, &d->states));
    AC_TRY(ac_latents_open(r, d->B, &d->latents));
    rc = allocate(r, d);
out:
    return rc;
}

static void close_diffusion(ac_training *r)
{
    diffusion *d = r->method;
    host *h = d ? &d->in : NULL;
    void *const all[] = {h ? h->x0 : NULL,     h ? h->x : NULL,      h ? h->target : NULL, h ? h->t : NULL,  h ? h->weight : NULL,
                         h ? h->ctx : NULL,    h ? h->pooled : NULL, h ? h->ids6 : NULL,   h ? h->ids : NULL};

    if (!d)
        return;
    ac_latents_close(&d->latents);
    ac_states_close(&d->states);
    for (size_t i = 0; i < AC_LEN(all); i++)
        free(all[i]);
    free(d);
    r->method = NULL;
}

/* ------------------------------------------------------------------------------------------ graph */

static ac_id loss(ac_training *r, ac_graph *g, int B)
{
    const diffusion *d = r->method;
    const ac_unet_cfg *u = &r->model->unet;
    ac_shape latent = ac_dims(4, B, d->latents.h, d->latents.w, d->latents.C);
    ac_weights w;
    ac_unet_in in = {.x = ac_input(g, "x", AC_F32, latent), .t = ac_input(g, "t", AC_F32, ac_dims(1, B))};
    ac_net m;

    if (d->text_trained) {
        m = ac_train_net(r, g, 1, &w);
        in.ctx = ac_clip_text(&m, &r->model->clip[0], ac_input(g, "ids", AC_I32, ac_dims(2, B, d->T)), AC_NONE).last;
    } else {
        in.ctx = ac_input(g, "ctx", AC_F32, ac_dims(3, B, d->T, u->context));
    }
    if (u->time_ids) {
        in.pooled = ac_input(g, "pooled", AC_F32, ac_dims(2, B, u->pooled));
        in.time_ids = ac_input(g, "time_ids", AC_F32, ac_dims(2, B, 6));
    }
    m = ac_train_net(r, g, 0, &w);
    return ac_loss_mse(g, ac_unet(&m, u, &in), ac_input(g, "target", AC_F32, latent), ac_input(g, "weight", AC_F32, ac_dims(1, B)));
}

/* ------------------------------------------------------------------------------------------ inputs */

/* Sample i at time step t: what the network sees and shall say. */
static void noised(const diffusion *d, int i, int t, uint64_t *noise)
{
    size_t n = d->latents.n, at = (size_t)i * n;
    double alpha, sigma, of_x0, of_noise;
    float *x = d->in.x + at, *y = d->in.target + at;
    const float *x0 = d->in.x0 + at;

    ac_schedule_at(d->sch, t, &alpha, &sigma);
    ac_target(d->sch->cfg.prediction, alpha, sigma, &of_x0, &of_noise);
    ac_mix_normal(noise, y, n);
    for (size_t k = 0; k < n; k++) {
        double e = (double)y[k], z = (double)x0[k];
        x[k] = (float)(alpha * z + sigma * e);
        y[k] = (float)(of_x0 * z + of_noise * e);
    }
    d->in.t[i] = (float)t;
}

static int texts(ac_training *r, const ac_batch *b)
{
    diffusion *d = r->method;
    size_t T = (size_t)d->T, states = T * (size_t)r->model->unet.context;
    int rc = 0, side = (int)r->cfg->data.resolution;

    for (size_t i = 0; i < b->n && rc == 0; i++) {
        const ac_view *v = &b->sample[i].view;
        const float six[6] = {(float)side, (float)side, (float)v->y, (float)v->x, (float)side, (float)side};
        memcpy(d->in.ids6 + 6 * i, six, sizeof six);
        rc = d->text_trained ? ac_caption_ids(r, b->sample[i].caption, d->T, d->in.ids + i * T)
                             : ac_states_get(&d->states, b->sample[i].caption, d->in.ctx + i * states,
                                             d->in.pooled + i * (size_t)r->model->unet.pooled);
    }
    return rc;
}

/* Hands the host's inputs to a graph of loss(). */
static int feed_all(ac_training *r, ac_exec *x)
{
    const diffusion *d = r->method;
    const ac_unet_cfg *u = &r->model->unet;
    size_t B = (size_t)d->B, n = B * d->latents.n * sizeof(float);
    int rc;

    AC_TRY(ac_feed(x, "x", d->in.x, n));
    AC_TRY(ac_feed(x, "target", d->in.target, n));
    AC_TRY(ac_feed(x, "t", d->in.t, B * sizeof(float)));
    AC_TRY(ac_feed(x, "weight", d->in.weight, B * sizeof(float)));
    if (d->text_trained)
        AC_TRY(ac_feed(x, "ids", d->in.ids, B * (size_t)d->T * sizeof *d->in.ids));
    else
        AC_TRY(ac_feed(x, "ctx", d->in.ctx, B * (size_t)d->T * (size_t)u->context * sizeof(float)));
    if (u->time_ids) {
        AC_TRY(ac_feed(x, "pooled", d->in.pooled, B * (size_t)u->pooled * sizeof(float)));
        AC_TRY(ac_feed(x, "time_ids", d->in.ids6, B * 6 * sizeof(float)));
    }
out:
    return rc;
}

/* Time steps are uniform; stratified: sample k of a step's global batch of N takes one from the k-th N-th of them. */
static int draw_time(const ac_training *r, uint64_t row)
{
    const diffusion *d = r->method;
    uint64_t s = ac_row_stream(r, row, RANDOM_TIME), N = (uint64_t)d->B * (uint64_t)r->ranks * (uint64_t)r->stepper.micro;
    double u = ac_mix_uniform(&s);

    if (r->cfg->loss.stratified_timesteps)
        u = ((double)(row % N) + u) / (double)N;
    return AC_MIN((int)(u * d->sch->cfg.train_steps), d->sch->cfg.train_steps - 1);
}

static int feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    diffusion *d = r->method;
    int rc;

    AC_TRY(ac_latents_get(&d->latents, b, d->in.x0));
    AC_TRY(texts(r, b));
    for (size_t i = 0; i < b->n; i++) {
        uint64_t noise = ac_row_stream(r, b->row + i, RANDOM_NOISE);
        int t = draw_time(r, b->row + i);
        double alpha, sigma;
        noised(d, (int)i, t, &noise);
        ac_schedule_at(d->sch, t, &alpha, &sigma);
        d->in.weight[i] = (float)ac_snr_weight_at(r->cfg->loss.loss_weighting, r->cfg->loss.snr_gamma, d->sch->cfg.prediction, alpha, sigma);
    }
    rc = feed_all(r, x);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ validation */

/* Time step j of EVAL_STEPS for the k-th sample: spread evenly for each sample, and over the samples by the golden ratio. */
static int eval_time(const diffusion *d, size_t k, int j)
{
    double shift = fmod((double)(k + 1) * 0.6180339887498949, 1);
    return (int)(((double)j + shift) / EVAL_STEPS * d->sch->cfg.train_steps);
}

/* Adds the squared errors of samples k0.. of a split to *(double *)user. */
static int eval_batch(ac_training *r, ac_exec *x, const ac_batch *b, size_t k0, void *user)
{
    diffusion *d = r->method;
    double *sum = user;
    float mean;
    int rc;

    AC_TRY(ac_latents_get(&d->latents, b, d->in.x0));
    AC_TRY(texts(r, b));
    for (size_t i = 0; i < (size_t)d->B; i++)
        d->in.weight[i] = i < b->n;
    for (int j = 0; j < EVAL_STEPS; j++) {
        for (size_t i = 0; i < b->n; i++) {
            uint64_t noise = (uint64_t)r->cfg->validation.validation_seed * 0x9e3779b97f4a7c15u + b->sample[i].index * EVAL_STEPS + (uint64_t)j;
            (void)ac_mix(&noise);
            noised(d, (int)i, eval_time(d, k0 + i, j), &noise);
        }
        AC_TRY(feed_all(r, x));
        AC_TRY(ac_run(x));
        AC_TRY(ac_fetch(x, "loss", &mean, sizeof mean));
        *sum += (double)mean * d->B / EVAL_STEPS; /* the mean was over the whole batch, the rest of it weighs nothing */
    }
out:
    return rc;
}

static int eval_split(ac_training *r, ac_exec *x, ac_split split, double *mean)
{
    double sum = 0;
    size_t n;
    int rc = ac_eval_each(r, x, split, ac_eval_count(r), eval_batch, &sum, &n);

    *mean = n ? sum / (double)n : NAN;
    return rc;
}

static int validate(ac_training *r, double *held_out, double *training)
{
    ac_graph *g = ac_graph_new(r->dg, AC_F32);
    ac_exec *x = NULL;
    int rc;

    if (!g)
        return ac_nomem(r->dg, sizeof *g);
    ac_use_averages(r, true);
    ac_set_output(g, "loss", loss(r, g, (int)r->cfg->data.train_batch_size));
    ac_use_averages(r, false);
    AC_TRY(ac_exec_new(r->dev, g, NULL, &x));
    AC_TRY(eval_split(r, x, AC_SPLIT_VAL, held_out));
    rc = eval_split(r, x, AC_SPLIT_TRAIN, training);
out:
    ac_exec_free(x);
    ac_graph_free(g);
    return rc;
}

const ac_recipe ac_recipe_diffusion = {.name = "diffusion",
                                       .measure = "loss",
                                       .open = open_diffusion,
                                       .close = close_diffusion,
                                       .loss = loss,
                                       .feed = feed,
                                       .validate = validate,
                                       .pictures = ac_sample_sheet,
                                       .export = ac_export_model};
