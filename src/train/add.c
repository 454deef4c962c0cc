/* add.c - see add.h. */
#include "train/add.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "diff/loss.h"

/* ------------------------------------------------------------------------------------------ DiffAugment */

ac_id ac_diffaug(ac_graph *g, ac_id x, ac_id color, ac_id place)
{
    ac_shape s, one;
    ac_id part[3], mean;

    if (g->rc)
        return AC_POISON;
    s = *ac_shape_of(g, x);
    one = ac_dims(4, s.d[0], 1, 1, 1);
    for (int k = 0; k < 3; k++)
        part[k] = ac_reshape(g, ac_slice(g, color, 1, k, 1), one);
    x = ac_add(g, x, part[0]);
    mean = ac_mean(g, x, 8);
    x = ac_add(g, ac_mul(g, ac_sub(g, x, mean), part[1]), mean);
    mean = ac_mean(g, x, 14);
    x = ac_add(g, ac_mul(g, ac_sub(g, x, mean), part[2]), mean);
    x = ac_pad(g, ac_reshape(g, x, ac_dims(2, s.d[0] * s.d[1] * s.d[2], s.d[3])), 0, 0, 1);
    return ac_reshape(g, ac_embed(g, x, place), s);
}

void ac_diffaug_place(int B, int side, int i, const int shift[2], const int cutout[2], int32_t *place)
{
    int cut = (int)(0.2 * side + 0.5), top = cutout[0] - cut / 2, left = cutout[1] - cut / 2;

    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            int u = y + shift[0], v = x + shift[1];
            bool out = u < 0 || u >= side || v < 0 || v >= side, gone = y >= top && y < top + cut && x >= left && x < left + cut;
            *place++ = out || gone ? B * side * side : (i * side + u) * side + v;
        }
}

/* 0 .. n - 1 */
static int pick(uint64_t *state, int n)
{
    return AC_MIN((int)(ac_mix_uniform(state) * n), n - 1);
}

void ac_diffaug_draw(uint64_t *state, int B, int side, int i, float color[3], int32_t *place)
{
    int most = (int)(0.125 * side + 0.5), cut = (int)(0.2 * side + 0.5), shift[2], cutout[2];

    color[0] = (float)(ac_mix_uniform(state) - 0.5);
    color[1] = (float)(2 * ac_mix_uniform(state));
    color[2] = (float)(ac_mix_uniform(state) + 0.5);
    for (int k = 0; k < 2; k++)
        shift[k] = pick(state, 2 * most + 1) - most;
    for (int k = 0; k < 2; k++)
        cutout[k] = pick(state, side + (1 - cut % 2));
    ac_diffaug_place(B, side, i, shift, cutout, place);
}

/* ------------------------------------------------------------------------------------------ features */

/* Constant [to,from] whose product with samples gives the means of `to` equal parts, as adaptive average pooling cuts them. */
static ac_id area_matrix(ac_net *m, int64_t from, int64_t to)
{
    float *data = ac_calloc((size_t)to * (size_t)from, sizeof *data);

    if (!data)
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < to; i++) {
        int64_t begin = i * from / to, end = ((i + 1) * from + to - 1) / to;
        for (int64_t k = begin; k < end; k++)
            data[i * from + k] = (float)(1 / (double)(end - begin));
    }
    return nn_constant(m, "area", ac_dims(2, to, from), data);
}

/* x [B,H,W,C] -> [B,n,W,C] */
static ac_id resize_rows(ac_net *m, ac_id x, int64_t n)
{
    ac_graph *g = m->g;
    int64_t B = nn_dim(m, x, 0), H = nn_dim(m, x, 1), W = nn_dim(m, x, 2), C = nn_dim(m, x, 3);

    x = ac_reshape(g, ac_transpose(g, x, 1, 0, 2, 3), ac_dims(2, H, B * W * C));
    x = ac_matmul(g, area_matrix(m, H, n), x, false, false);
    return ac_transpose(g, ac_reshape(g, x, ac_dims(4, n, B, W, C)), 1, 0, 2, 3);
}

static ac_id resize(ac_net *m, ac_id x, int64_t n)
{
    ac_graph *g = m->g;

    if (nn_dim(m, x, 1) != n)
        x = resize_rows(m, x, n);
    if (nn_dim(m, x, 2) != n)
        x = ac_transpose(g, resize_rows(m, ac_transpose(g, x, 0, 2, 1, 3), n), 0, 2, 1, 3);
    return x;
}

/* ((x + 1) / 2 - mean) / std */
static ac_id normalise(const ac_features *f, ac_id x)
{
    ac_net *m = f->net;
    float *scale = ac_calloc(3, sizeof *scale), *shift = ac_calloc(3, sizeof *shift);
    ac_id a, b;

    if (!scale || !shift) {
        free(scale);
        free(shift);
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory");
    }
    for (int k = 0; k < 3; k++) {
        scale[k] = (float)(0.5 / f->std[k]);
        shift[k] = (float)((0.5 - f->mean[k]) / f->std[k]);
    }
    a = nn_constant(m, "scale", ac_dims(1, 3), scale);
    b = nn_constant(m, "shift", ac_dims(1, 3), shift);
    return ac_add(m->g, ac_mul(m->g, x, a), b);
}

int ac_feature_count(const ac_features *f)
{
    return f->n_taps + f->embedding;
}

/* The class token added to every patch token, and dropped. */
static ac_id readout(ac_net *m, ac_id x)
{
    ac_graph *g = m->g;

    return ac_add(g, ac_slice(g, x, 1, 1, nn_dim(m, x, 1) - 1), ac_slice(g, x, 1, 0, 1));
}

static ac_id whitened(const ac_features *f, int k, ac_id x)
{
    ac_net *m = f->net;
    size_t C;
    float *weight, *bias;
    ac_id w, b;

    if (!f->whiten[k] || m->g->rc)
        return x;
    C = (size_t)nn_dim(m, x, 2);
    weight = ac_calloc(C * C, sizeof *weight);
    bias = ac_calloc(C, sizeof *bias);
    if (!weight || !bias) {
        free(weight);
        free(bias);
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory");
    }
    memcpy(weight, f->whiten[k], C * C * sizeof *weight);
    memcpy(bias, f->whiten[k] + C * C, C * sizeof *bias);
    w = nn_constant(m, "whiten.weight", ac_dims(2, (int64_t)C, (int64_t)C), weight);
    b = nn_constant(m, "whiten.bias", ac_dims(1, (int64_t)C), bias);
    return ac_linear(m->g, x, w, b, AC_ACT_NONE);
}

void ac_features_of(const ac_features *f, ac_id image, ac_id out[AC_TAPS + 1], ac_id *token)
{
    ac_net *m = f->net;
    ac_vit_out v = ac_vit(m, f->vit, normalise(f, f->size ? resize(m, image, f->size) : image));

    for (int k = 0; k < f->n_taps; k++)
        out[k] = whitened(f, k, readout(m, v.block[f->tap[k]]));
    if (f->embedding)
        out[f->n_taps] = whitened(f, f->n_taps, readout(m, v.embeddings));
    *token = v.pooled;
}

/* ------------------------------------------------------------------------------------------ parts of the loss */

typedef struct step {
    ac_graph *g;
    const ac_add_nets *n;
    const ac_add_opts *o;
    ac_id condition; /* of the heads [B,D]; AC_NONE */
} step;

static ac_id norm(ac_graph *g, ac_id x)
{
    return ac_sqrt(g, ac_sum_all(g, ac_mul(g, x, x)));
}

/* A value of each sample, to be multiplied with [B,h,w,C]. */
static ac_id per_sample(const step *s, const char *fmt, ...) AC_PRINTF(2, 3);
static ac_id per_sample(const step *s, const char *fmt, ...)
{
    char name[64];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return ac_each_input(s->g, name, s->o->B);
}

/* a x + b y with values of each sample. */
static ac_id mixed(ac_graph *g, ac_id a, ac_id x, ac_id b, ac_id y)
{
    return ac_add(g, ac_mul(g, a, x), ac_mul(g, b, y));
}

static ac_shape latent(const step *s)
{
    return ac_dims(4, s->o->B, s->o->h, s->o->w, s->n->unet->in_channels);
}

static ac_id states(const step *s, const char *name)
{
    return ac_input(s->g, name, AC_F32, ac_dims(3, !strcmp(name, "ctx") ? s->o->B : 1, s->o->T, s->n->unet->context));
}

static ac_id decode(const step *s, ac_id z)
{
    const ac_vae_cfg *c = s->n->vae;

    return ac_vae_decode(s->n->decoder, c, ac_scale(s->g, z, 1 / c->scaling, c->shift));
}

/* ---- the teacher */

static ac_id teacher(const step *s, ac_id x, ac_id t, const char *ctx)
{
    ac_id c = states(s, ctx);

    if (strcmp(ctx, "ctx") != 0)
        c = ac_broadcast(s->g, c, ac_dims(3, s->o->B, s->o->T, s->n->unet->context));
    return ac_unet(s->n->teacher, s->n->teacher_unet, &(ac_unet_in){.x = x, .t = t, .ctx = c});
}

/* Its picture after o->teacher_steps steps from x_t; *first: its output at x_t. */
static ac_id teacher_x0(const step *s, ac_id x, ac_id *first)
{
    ac_graph *g = s->g;

    for (int k = 0; k < s->o->teacher_steps; k++) {
        char name[32];
        ac_id t, out;
        snprintf(name, sizeof name, "t.%d", k);
        t = ac_input(g, name, AC_F32, ac_dims(1, s->o->B));
        out = teacher(s, x, t, "ctx");
        if (s->o->guidance != 1)
            out = ac_add(g, ac_scale(g, out, s->o->guidance, 0), ac_scale(g, teacher(s, x, t, "null_ctx"), 1 - s->o->guidance, 0));
        if (k == 0)
            *first = out;
        x = mixed(g, per_sample(s, "t.%d.x", k), x, per_sample(s, "t.%d.out", k), out);
    }
    return x;
}

/* delta_D + s delta_C */
static ac_id noise_free(const step *s, ac_id x)
{
    ac_graph *g = s->g;
    ac_id t = ac_input(g, "t.0", AC_F32, ac_dims(1, s->o->B)), of_x = per_sample(s, "eps.x"), of_out = per_sample(s, "eps.out");
    ac_id cond = mixed(g, of_x, x, of_out, teacher(s, x, t, "ctx")), null = mixed(g, of_x, x, of_out, teacher(s, x, t, "null_ctx")),
          negative = mixed(g, of_x, x, of_out, teacher(s, x, t, "negative_ctx"));
    ac_id domain = ac_sub(g, null, ac_mul(g, per_sample(s, "nfsd.negative"), negative));

    return ac_add(g, domain, ac_scale(g, ac_sub(g, cond, null), s->o->nfsd_scale, 0));
}

/* ---- distillation */

static ac_id weight(const step *s, const char *name)
{
    return ac_input(s->g, name, AC_F32, ac_dims(1, s->o->B));
}

/* In latents the gradient 2 c (x^ - target) / n is formed from the teacher's error in noise, which has no alpha below it. */
static ac_id from_residual(const step *s, ac_id x_hat, ac_id residual)
{
    ac_graph *g = s->g;
    double n = g->rc ? 1 : (double)ac_count(ac_shape_of(g, x_hat));
    ac_id slope = ac_scale(g, ac_mul(g, per_sample(s, "c.gradient"), residual), 2 / n, 0);

    return ac_add(g, ac_stop(g, ac_loss_mse(g, residual, ac_fill(g, latent(s), 0), weight(s, "c.value"))), ac_gradient_alone(g, ac_sum_all(g, ac_mul(g, ac_stop(g, slope), x_hat))));
}

/* `at`: the picture of x^, or x^ itself. */
static ac_id distillation(const step *s, ac_id x_hat, ac_id at)
{
    ac_graph *g = s->g;
    ac_id noise = ac_input(g, "noise", AC_F32, latent(s)), target, first = AC_NONE, residual;
    ac_id x_t = mixed(g, per_sample(s, "t.x0"), ac_stop(g, x_hat), per_sample(s, "t.noise"), noise);

    if (s->o->nfsd) {
        residual = noise_free(s, x_t);
        if (!s->o->pixels)
            return from_residual(s, x_hat, residual);
        target = ac_sub(g, ac_stop(g, x_hat), ac_mul(g, per_sample(s, "nfsd.ratio"), residual));
    } else {
        target = teacher_x0(s, x_t, &first);
        if (!s->o->pixels && s->o->teacher_steps == 1)
            return from_residual(s, x_hat, ac_sub(g, mixed(g, per_sample(s, "eps.x"), x_t, per_sample(s, "eps.out"), first), noise));
    }
    return ac_loss_mse(g, at, ac_stop(g, s->o->pixels ? decode(s, target) : target), weight(s, "c"));
}

/* ---- the discriminator */

/* Outputs of transformer blocks as a network is built. */
typedef struct collector {
    ac_id *out;
    int n;
} collector;

static void collect(void *user, ac_graph *g, const char *path, ac_id value)
{
    collector *c = user;
    const char *last = strrchr(path, '.');

    (void)g;
    if (last && last - path >= 18 && !strncmp(last - 18, "transformer_blocks", 18) && c->n < AC_TAPS)
        c->out[c->n++] = value;
}

int ac_unet_taps(const ac_unet_cfg *c)
{
    int n = c->mid_attn ? c->blocks[c->levels - 1] : 0;

    for (int k = 0; k < c->levels; k++)
        n += c->down_attn[k] * c->layers * c->blocks[k] + c->up_attn[k] * (c->layers + 1) * c->blocks[c->levels - 1 - k];
    return n;
}

static void latent_features(const step *s, ac_id x, const char *pass, ac_id out[AC_TAPS + 1])
{
    const ac_features *f = &s->n->features;
    collector c = {.out = out};
    ac_net net = *f->net;
    char name[32];

    snprintf(name, sizeof name, "ladd.%s", pass);
    net.tap = collect;
    net.user = &c;
    x = mixed(s->g, per_sample(s, "ladd.x0"), x, per_sample(s, "ladd.noise"), ac_input(s->g, name, AC_F32, latent(s)));
    ac_unet(&net, f->unet, &(ac_unet_in){.x = x, .t = ac_input(s->g, "ladd.t", AC_F32, ac_dims(1, s->o->B)), .ctx = states(s, "ctx")});
    if (s->g->rc == 0 && c.n != f->n_taps)
        ac_graph_fail(s->g, ADDCL_E_INTERNAL, "%d outputs of transformer blocks, %d were expected", c.n, f->n_taps);
    for (int k = 0; k < f->n_taps && s->g->rc == 0; k++)
        out[k] = whitened(f, k, out[k]);
}

static ac_id augmented(const step *s, ac_id image, const char *pass)
{
    char color[48], place[48];
    int64_t pixels = (int64_t)s->o->side * s->o->side;

    if (!s->o->augment)
        return image;
    snprintf(color, sizeof color, "augment.%s.color", pass);
    snprintf(place, sizeof place, "augment.%s.place", pass);
    return ac_diffaug(s->g, image, ac_input(s->g, color, AC_F32, ac_dims(2, s->o->B, 3)), ac_input(s->g, place, AC_I32, ac_dims(2, s->o->B, pixels)));
}

/* What the heads see of pictures or latents x. *token (may be NULL): a picture's class token. */
static void features(const step *s, ac_id x, const char *pass, ac_id out[AC_TAPS + 1], ac_id *token)
{
    ac_id unused;

    if (s->n->features.unet)
        latent_features(s, x, pass, out);
    else
        ac_features_of(&s->n->features, augmented(s, x, pass), out, token ? token : &unused);
}

static ac_id condition(const step *s, ac_id token)
{
    ac_graph *g = s->g;
    enum { TIME = 32 };

    if (s->n->features.unet)
        token = ac_time_embed(g, ac_input(g, "ladd.t", AC_F32, ac_dims(1, s->o->B)), TIME, true, 0);
    ac_id text = s->o->text_dim ? ac_unit_rows(g, ac_input(g, "text", AC_F32, ac_dims(2, s->o->B, s->o->text_dim))) : AC_NONE;
    ac_id image = s->o->image_condition || s->n->features.unet ? ac_unit_rows(g, ac_stop(g, token)) : AC_NONE;

    return text == AC_NONE ? image : image == AC_NONE ? text : ac_concat(g, text, image, 1);
}

/* Logits of all heads, [B, heads T]. */
static ac_id verdict(const step *s, const ac_id *features)
{
    ac_id all = AC_NONE;

    for (int k = 0; k < ac_feature_count(&s->n->features); k++)
        WITH_SCOPE (s->n->head, "heads.%d", k) {
            ac_id y = ac_head(s->n->head, s->n->heads, features[k], s->condition);
            all = all == AC_NONE ? y : ac_concat(s->g, all, y, 1);
        }
    return all;
}

/* Share of values above 0: those that leaky ReLU of slope 0 divided by themselves keeps. */
static ac_id share_above(const step *s, ac_id x)
{
    ac_id one = ac_fill(s->g, s->g->rc ? ac_dims(1, 1) : *ac_shape_of(s->g, x), 1);

    return ac_mean_all(s->g, ac_leaky_relu_bx(s->g, x, one, 0));
}

/* The heads' part: hinge of both verdicts, and the penalty on the slope of that on real pictures. */
static ac_id critic(const step *s, const ac_id *real, const ac_id *fake)
{
    ac_graph *g = s->g;
    int n = ac_feature_count(&s->n->features);
    ac_id on_fake = verdict(s, fake), on_real = verdict(s, real), slope[AC_TAPS + 1], hinge, r1 = AC_NONE;

    ac_grad(g, ac_sum_all(g, on_real), AC_NONE, real, n, slope);
    for (int k = 0; k < n; k++) {
        ac_id square = ac_sum_all(g, ac_mul(g, slope[k], slope[k]));
        r1 = r1 == AC_NONE ? square : ac_add(g, r1, square);
    }
    r1 = ac_scale(g, r1, 1 / (double)s->o->B, 0);
    hinge = ac_scale(g, ac_loss_discriminator(g, on_real, on_fake), 2, 0);
    ac_set_output(g, "hinge", hinge);
    ac_set_output(g, "r1", r1);
    ac_set_output(g, "real_above", share_above(s, on_real));
    ac_set_output(g, "fake_below", share_above(s, ac_scale(g, on_fake, -1, 0)));
    return ac_add(g, hinge, ac_scale(g, r1, s->o->gamma, 0));
}

/* How far the mean features of made pictures are from those of real ones: |difference|^2 / |real|^2, mean over the heads. */
static ac_id distance(const step *s, const ac_id *real, const ac_id *fake)
{
    ac_graph *g = s->g;
    int n = ac_feature_count(&s->n->features);
    ac_id sum = AC_NONE;

    for (int k = 0; k < n; k++) {
        ac_id to = ac_sum(g, real[k], 3), by = ac_sub(g, ac_sum(g, fake[k], 3), to);
        ac_id d = ac_div(g, ac_sum_all(g, ac_mul(g, by, by)), ac_sum_all(g, ac_mul(g, to, to)));
        sum = sum == AC_NONE ? d : ac_add(g, sum, d);
    }
    return ac_scale(g, sum, 1 / (double)n, 0);
}

/* What is real: pictures; with features of the teacher, latents. */
static ac_id truth(const step *s)
{
    if (s->n->features.unet)
        return ac_input(s->g, "x0", AC_F32, latent(s));
    if (s->o->decode_real)
        return decode(s, ac_input(s->g, "x0", AC_F32, latent(s)));
    return ac_input(s->g, "pixels", AC_F32, ac_dims(4, s->o->B, s->o->side, s->o->side, 3));
}

void ac_add_real_features(ac_graph *g, const ac_add_nets *n, const ac_add_opts *o, ac_id out[AC_TAPS + 1])
{
    const step s = {.g = g, .n = n, .o = o};

    features(&s, truth(&s), "real", out, NULL);
}

/* Both players' parts: the value of the student's, the gradients of both. `at` is what the student moves, pictures or latents: it
 * follows the slope of the verdict there as a constant, so that its wish does not reach the heads. */
static ac_id adversaries(step *s, ac_id at)
{
    ac_graph *g = s->g;
    const ac_features *f = &s->n->features;
    ac_id original = truth(s);
    ac_id moved = ac_stop(g, at), seen = s->o->pixels || f->unet ? moved : decode(s, moved);
    ac_id made[AC_TAPS + 1], fake[AC_TAPS + 1], real[AC_TAPS + 1], token = AC_NONE, adv, slope, follow;

    if (!f->unet)
        ac_features_of(f, original, real, &token); /* unaugmented: the condition */
    s->condition = condition(s, token);
    if (s->o->augment || f->unet)
        features(s, original, "real", real, NULL);
    features(s, seen, "made", made, NULL);
    adv = ac_loss_generator(g, verdict(s, made));
    ac_grad(g, adv, AC_NONE, &moved, 1, &slope);
    slope = ac_scale(g, slope, s->o->adversary_weight, 0);
    follow = ac_sum_all(g, ac_mul(g, ac_stop(g, slope), at));
    if (s->o->augment)
        features(s, seen, "fake", fake, NULL);
    for (int k = 0; k < ac_feature_count(f); k++) {
        fake[k] = ac_stop(g, s->o->augment ? fake[k] : made[k]);
        real[k] = ac_stop(g, real[k]);
    }
    ac_set_output(g, "adv", adv);
    ac_set_output(g, "adv_slope", norm(g, slope));
    ac_set_output(g, "feature_distance", distance(s, real, fake));
    follow = ac_add(g, ac_stop(g, ac_scale(g, adv, s->o->adversary_weight, 0)), ac_gradient_alone(g, follow));
    return ac_add(g, follow, ac_gradient_alone(g, critic(s, real, fake)));
}

ac_id ac_add_loss(ac_graph *g, const ac_add_nets *n, const ac_add_opts *o)
{
    step s = {.g = g, .n = n, .o = o, .condition = AC_NONE};
    ac_unet_in in = {.x = ac_input(g, "x_s", AC_F32, latent(&s)), .t = ac_input(g, "s", AC_F32, ac_dims(1, o->B)), .ctx = states(&s, "ctx")};
    ac_id x_hat = mixed(g, per_sample(&s, "s.x"), in.x, per_sample(&s, "s.out"), ac_unet(n->student, n->unet, &in));
    ac_id at = o->pixels ? decode(&s, x_hat) : x_hat, sum = AC_NONE;

    ac_set_output(g, "x_hat", x_hat);
    if (o->adversarial)
        sum = adversaries(&s, at);
    if (o->distill) {
        ac_id d = distillation(&s, x_hat, at), slope;
        ac_set_output(g, "distill", d);
        d = ac_scale(g, d, o->lambda, 0);
        ac_grad(g, d, AC_NONE, &at, 1, &slope);
        ac_set_output(g, "distill_slope", norm(g, slope));
        sum = sum == AC_NONE ? d : ac_add(g, sum, d);
    }
    return sum;
}

/* ------------------------------------------------------------------------------------------ time steps */

enum { S, S_X, S_OUT, T_X0, T_NOISE, EPS_X, EPS_OUT, C, C_GRADIENT, C_VALUE, NEGATIVE, RATIO, STEP, STEP_VALUES = 3, TIMES = STEP + STEP_VALUES * AC_TEACHER_STEPS };

static const char *const time_names[TIMES] = {"s",     "s.x",     "s.out", "t.x0",  "t.noise", "eps.x", "eps.out", "c",     "c.gradient", "c.value", "nfsd.negative",
                                              "nfsd.ratio", "t.0", "t.0.x", "t.0.out", "t.1", "t.1.x", "t.1.out", "t.2", "t.2.x", "t.2.out", "t.3",
                                              "t.3.x", "t.3.out", "t.4", "t.4.x", "t.4.out", "t.5", "t.5.x", "t.5.out", "t.6", "t.6.x", "t.6.out",
                                              "t.7", "t.7.x", "t.7.out"};

int ac_add_times_open(int B, ac_diag *dg, ac_each *a)
{
    return ac_each_open(time_names, TIMES, B, dg, a);
}

/* Steps k of K from index t down, as DDIM takes them, without noise. */
static void set_teacher(ac_each *a, int i, int K, const ac_schedule *sch, int t)
{
    for (int k = 0; k < K; k++) {
        int at = AC_MAX((int)nearbyint((double)(t + 1) * (K - k) / K) - 1, 0), next = AC_MAX((int)nearbyint((double)(t + 1) * (K - k - 1) / K) - 1, 0);
        double alpha, sigma, alpha1 = 1, sigma1 = 0;
        double of_x, of_out;
        ac_reading r;
        ac_schedule_at(sch, at, &alpha, &sigma);
        if (k + 1 < K)
            ac_schedule_at(sch, next, &alpha1, &sigma1);
        r = ac_reading_of(sch->cfg.prediction, alpha, sigma);
        ac_ddim_between(&r, alpha1, sigma1, &of_x, &of_out);
        ac_each_set(a, i, STEP + STEP_VALUES * k, at);
        ac_each_set(a, i, STEP + STEP_VALUES * k + 1, of_x);
        ac_each_set(a, i, STEP + STEP_VALUES * k + 2, of_out);
    }
}

void ac_add_times_set(ac_each *a, int i, const ac_add_opts *o, const ac_schedule *student, const ac_schedule *teacher, int s, int t)
{
    enum { NEGATIVE_FROM = 200 };
    double alpha, sigma, c;
    ac_reading r;

    ac_schedule_at(student, s, &alpha, &sigma);
    r = ac_reading_of(student->cfg.prediction, alpha, sigma);
    ac_each_set(a, i, S, s);
    ac_each_set(a, i, S_X, r.x0_x);
    ac_each_set(a, i, S_OUT, r.x0_out);
    ac_schedule_at(teacher, t, &alpha, &sigma);
    r = ac_reading_of(teacher->cfg.prediction, alpha, sigma);
    c = o->sds || o->nfsd ? alpha * sigma / 2 : alpha;
    ac_each_set(a, i, T_X0, alpha);
    ac_each_set(a, i, T_NOISE, sigma);
    ac_each_set(a, i, EPS_X, r.eps_x);
    ac_each_set(a, i, EPS_OUT, r.eps_out);
    ac_each_set(a, i, C, c);
    ac_each_set(a, i, C_GRADIENT, o->sds || o->nfsd ? sigma * sigma / 2 : sigma);
    ac_each_set(a, i, C_VALUE, alpha > 0 ? c * sigma * sigma / (alpha * alpha) : 0);
    ac_each_set(a, i, NEGATIVE, t >= NEGATIVE_FROM);
    ac_each_set(a, i, RATIO, alpha > 0 ? sigma / alpha : 0);
    set_teacher(a, i, o->teacher_steps, teacher, t);
}
