/* method_vae.c - an autoencoder: pictures through a small latent and back (Kingma and Welling 2014; Rombach et al.
 * 2022), if wanted against a discriminator (Esser et al. 2021). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "diff/loss.h"
#include "io/grid.h"
#include "train/inputs.h"

enum { RANDOM_POSTERIOR = 3 };
enum { NET, DISCRIMINATOR }; /* sets of parameters; the second with adversarial_weight */

typedef struct vae {
    int B, side, h, w, C; /* batch; pixels; latent */
    float *noise;         /* [B,h,w,C] */
    float *out;           /* pictures of a batch */
    double sum, squares, n; /* over latents of training pictures, from the last validation */
} vae;

static const ac_recipe adversarial_recipe;

/* A set of parameters without initial values. */
static ac_params *add_set(ac_training *r, const char *part)
{
    ac_params *s = &r->sets[r->n_sets++];

    *s = (ac_params){.dev = r->dev, .dg = r->dg, .part = part, .seed = (uint64_t)r->cfg->run.seed};
    return s;
}

static void add_sets(ac_training *r)
{
    ac_params *s = add_set(r, "vae");

    s->layout = r->model->part[AC_VAE].layout;
    r->model->train[AC_VAE] = s;
    if (r->cfg->loss.adversarial_weight == 0)
        return;
    s = add_set(r, "discriminator");
    s->start = r->cfg->loss.adversarial_start;
    s->live_only = true;
    r->recipe = &adversarial_recipe;
}

static int open_vae(ac_training *r)
{
    vae *v = ac_calloc(1, sizeof *v);
    const ac_vae_cfg *c = &r->model->vae;
    int f;

    if (!v)
        return ac_nomem(r->dg, sizeof *v);
    r->method = v;
    if (!r->model->part[AC_VAE].present)
        return ac_fail(r->dg, ADDCL_E_ARG, "%s has no vae: give one with model.vae", r->model->path);
    f = ac_vae_factor(c);
    v->B = (int)r->cfg->data.train_batch_size;
    v->side = (int)r->cfg->data.resolution;
    if (v->side % f)
        return ac_fail(r->dg, ADDCL_E_ARG,
                       "pictures of %d pixels do not divide by %d: choose a multiple for data.resolution", v->side, f);
    v->h = v->w = v->side / f;
    v->C = c->latent;
    v->noise = ac_calloc((size_t)v->B * (size_t)v->h * (size_t)v->w * (size_t)v->C, sizeof(float));
    v->out = ac_calloc((size_t)v->B * (size_t)v->side * (size_t)v->side * 3, sizeof(float));
    if (!v->noise || !v->out)
        return ac_nomem(r->dg, (size_t)v->B * (size_t)v->side * (size_t)v->side * 12);
    add_sets(r);
    return 0;
}

static void close_vae(ac_training *r)
{
    vae *v = r->method;

    if (!v)
        return;
    free(v->noise);
    free(v->out);
    free(v);
    r->method = NULL;
}

static ac_id weighted(ac_graph *g, ac_id sum, double weight, ac_id term)
{
    ac_id t = ac_scale(g, term, weight, 0);
    return sum == AC_NONE ? t : ac_add(g, sum, t);
}

ac_id ac_vae_loss(ac_graph *g, const ac_train_cfg *c, ac_id image, ac_id decoded, ac_id moments)
{
    int64_t C = g->rc ? 1 : ac_shape_of(g, moments)->d[3] / 2;
    ac_id kl = ac_loss_kl(g, ac_slice(g, moments, 3, 0, C), ac_slice(g, moments, 3, C, C)),
          l1 = ac_loss_l1(g, decoded, image), sum = AC_NONE;

    ac_set_output(g, "l1", l1);
    ac_set_output(g, "kl", kl);
    if (c->loss.l1_weight > 0)
        sum = weighted(g, sum, c->loss.l1_weight, l1);
    if (c->loss.l2_weight > 0)
        sum = weighted(g, sum, c->loss.l2_weight, ac_loss_mse(g, decoded, image, AC_NONE));
    if (c->loss.edge_weight > 0)
        sum = weighted(g, sum, c->loss.edge_weight, ac_loss_edge(g, decoded, image));
    return weighted(g, sum, c->loss.kl_weight, kl);
}

/* What both adversaries strive for, as one term of the loss. The discriminator sees the decoded picture as a constant,
 * so its own loss does not reach the autoencoder; the slope of its verdict at the picture, as a constant, is what the
 * autoencoder follows, so that the verdict does not reach the discriminator. The term's value is the autoencoder's
 * share alone. Outputs "generator" and "discriminator": both losses. */
static ac_id adversarial(ac_training *r, ac_graph *g, ac_id image, ac_id decoded)
{
    ac_weights w;
    ac_net m = ac_train_net(r, g, DISCRIMINATOR, &w);
    ac_id on = ac_input(g, "adversarial", AC_F32, ac_dims(2, 1, 1)), seen = ac_stop(g, decoded), slope, follow;
    ac_id made = ac_patch_disc(&m, seen), real = ac_patch_disc(&m, image);
    ac_id generator = ac_loss_generator(g, made), discriminator = ac_loss_discriminator(g, real, made), sum;

    ac_grad(g, generator, AC_NONE, &seen, 1, &slope);
    follow = ac_reshape(g, ac_sum(g, ac_mul(g, ac_stop(g, slope), decoded), 15), ac_dims(2, 1, 1));
    ac_set_output(g, "generator", generator);
    ac_set_output(g, "discriminator", discriminator);
    sum = ac_scale(g, ac_add(g, ac_stop(g, generator), ac_gradient_alone(g, follow)), r->cfg->loss.adversarial_weight, 0);
    return ac_mul(g, on, ac_add(g, sum, ac_gradient_alone(g, discriminator)));
}

static ac_id loss(ac_training *r, ac_graph *g, int B)
{
    const vae *v = r->method;
    ac_id image = ac_input(g, "image", AC_F32, ac_dims(4, B, v->side, v->side, 3)),
          noise = ac_input(g, "noise", AC_F32, ac_dims(4, B, v->h, v->w, v->C));
    ac_id moments, mean, std, decoded, sum;
    ac_weights w;
    ac_net m = ac_train_net(r, g, NET, &w);

    moments = ac_vae_encode(&m, &r->model->vae, image);
    mean = ac_slice(g, moments, 3, 0, v->C);
    std = ac_exp(g, ac_scale(g, ac_slice(g, moments, 3, v->C, v->C), 0.5, 0));
    decoded = ac_vae_decode(&m, &r->model->vae, ac_add(g, mean, ac_mul(g, std, noise)));
    sum = ac_vae_loss(g, r->cfg, image, decoded, moments);
    return r->cfg->loss.adversarial_weight > 0 ? ac_add(g, sum, adversarial(r, g, image, decoded)) : sum;
}

static int feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    vae *v = r->method;
    size_t n = (size_t)v->h * (size_t)v->w * (size_t)v->C;
    float adversarial = r->at.updates >= r->cfg->loss.adversarial_start;
    int rc;

    for (size_t i = 0; i < b->n; i++) {
        uint64_t s = ac_row_stream(r, b->row + i, RANDOM_POSTERIOR);
        ac_mix_normal(&s, v->noise + i * n, n);
    }
    AC_TRY(ac_feed(x, "image", b->image, b->n * (size_t)v->side * (size_t)v->side * 3 * sizeof(float)));
    AC_TRY(ac_feed(x, "noise", v->noise, b->n * n * sizeof(float)));
    rc = ac_feed(x, "adversarial", &adversarial, sizeof adversarial);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ validation */
/* Pictures decoded from the posterior's mean. */

static int reconstruction(ac_training *r, ac_graph **graph, ac_exec **x)
{
    const vae *v = r->method;
    ac_graph *g = *graph = ac_graph_new(r->dg, AC_F32);
    ac_weights w;
    ac_net m;
    ac_id moments;

    if (!g)
        return ac_nomem(r->dg, sizeof *g);
    ac_use_averages(r, true);
    m = ac_train_net(r, g, NET, &w);
    moments = ac_vae_encode(&m, &r->model->vae, ac_input(g, "image", AC_F32, ac_dims(4, v->B, v->side, v->side, 3)));
    moments = ac_slice(g, moments, 3, 0, v->C);
    ac_set_output(g, "mean", moments);
    ac_set_output(g, "decoded", ac_vae_decode(&m, &r->model->vae, moments));
    ac_use_averages(r, false);
    return ac_exec_new(r->dev, g, NULL, x);
}

/* Decodes a batch, of which the first n pictures count. */
static int reconstruct(ac_training *r, ac_exec *x, const float *image, size_t n)
{
    vae *v = r->method;
    size_t pixels = (size_t)v->side * (size_t)v->side * 3;
    int rc;

    memset(v->out, 0, (size_t)v->B * pixels * sizeof(float));
    memcpy(v->out, image, n * pixels * sizeof(float));
    AC_TRY(ac_feed(x, "image", v->out, (size_t)v->B * pixels * sizeof(float)));
    AC_TRY(ac_run(x));
    AC_TRY(ac_fetch(x, "decoded", v->out, (size_t)v->B * pixels * sizeof(float)));
    for (size_t i = 0; i < n * pixels; i++)
        v->out[i] = AC_MAX(-1.0f, AC_MIN(1.0f, v->out[i]));
out:
    return rc;
}

/* Adds the latents of the n pictures just reconstructed to the statistics. */
static int add_latents(vae *v, ac_exec *x, size_t n)
{
    size_t one = (size_t)v->h * (size_t)v->w * (size_t)v->C;
    int rc;

    AC_TRY(ac_fetch(x, "mean", v->noise, (size_t)v->B * one * sizeof(float)));
    for (size_t i = 0; i < n * one; i++) {
        v->sum += (double)v->noise[i];
        v->squares += (double)v->noise[i] * (double)v->noise[i];
    }
    v->n += (double)(n * one);
out:
    return rc;
}

/* Adds the squared errors of a batch to *(double *)user. */
static int add_errors(ac_training *r, ac_exec *x, const ac_batch *b, size_t k, void *user)
{
    vae *v = r->method;
    double *sum = user;
    int rc;

    (void)k;
    AC_TRY(reconstruct(r, x, b->image, b->n));
    AC_TRY(add_latents(v, x, b->n));
    for (size_t i = 0; i < b->n * (size_t)v->side * (size_t)v->side * 3; i++)
        *sum += ((double)v->out[i] - (double)b->image[i]) * ((double)v->out[i] - (double)b->image[i]);
out:
    return rc;
}

/* PSNR in dB of pixels in 0..255 terms: 10 log10(range^2 / mean squared error), range 2, errors pooled over all
 * pictures. */
static int psnr(ac_training *r, ac_exec *x, ac_split split, double *db)
{
    vae *v = r->method;
    double sum = 0;
    size_t n;
    int rc;

    v->sum = v->squares = v->n = 0;
    rc = ac_eval_each(r, x, split, ac_eval_count(r), add_errors, &sum, &n);
    *db = n ? 10 * log10(4 * (double)n * v->side * v->side * 3 / sum) : NAN;
    return rc;
}

static int validate(ac_training *r, double *held_out, double *training)
{
    ac_graph *g = NULL;
    ac_exec *x = NULL;
    int rc;

    AC_TRY(reconstruction(r, &g, &x));
    AC_TRY(psnr(r, x, AC_SPLIT_VAL, held_out));
    rc = psnr(r, x, AC_SPLIT_TRAIN, training);
out:
    ac_exec_free(x);
    ac_graph_free(g);
    return rc;
}

/* From scratch, the factor that makes latents of unit variance, which is what diffusion models expect (Rombach et al. 2022). */
static int export_vae(ac_training *r, const char *dir)
{
    const ac_part *p = &r->model->part[AC_VAE];
    vae *v = r->method;
    double held_out, training, mean, variance;
    int rc;

    if (!p->layout) {
        AC_TRY(validate(r, &held_out, &training)); /* ends with the training pictures */
        mean = v->sum / v->n;
        variance = v->squares / v->n - mean * mean;
        if (variance > 0 && json_object_set_new(p->json.obj, "scaling_factor", json_real(1 / sqrt(variance)))) {
            rc = ac_nomem(r->dg, 1);
            goto out;
        }
    }
    rc = ac_export_model(r, dir);
out:
    return rc;
}

/* Pairs: a held-out picture, and beside it what comes back. */
static int pictures(ac_training *r, const char *path)
{
    vae *v = r->method;
    bool held = ac_data_count(r->data, AC_SPLIT_VAL) > 0;
    size_t pixels = (size_t)v->side * (size_t)v->side * 3,
           n = AC_MIN((size_t)r->cfg->validation.num_validation_images, (size_t)v->B);
    float *sheet = ac_calloc(2 * n * pixels, sizeof *sheet);
    ac_graph *g = NULL;
    ac_exec *x = NULL;
    ac_batch b = {0};
    int rc;

    if (!sheet)
        return ac_nomem(r->dg, 2 * n * pixels * sizeof *sheet);
    AC_TRY(ac_eval_batch(r, held ? AC_SPLIT_VAL : AC_SPLIT_TRAIN, ac_eval_count(r), 0, n, &b));
    AC_TRY(reconstruction(r, &g, &x));
    AC_TRY(reconstruct(r, x, b.image, b.n));
    for (size_t i = 0; i < b.n; i++) {
        memcpy(sheet + 2 * i * pixels, b.image + i * pixels, pixels * sizeof *sheet);
        memcpy(sheet + (2 * i + 1) * pixels, v->out + i * pixels, pixels * sizeof *sheet);
    }
    rc = ac_grid_png(path, sheet, 2 * b.n, v->side, v->side, 8, r->dg);
out:
    ac_eval_free(&b);
    ac_exec_free(x);
    ac_graph_free(g);
    free(sheet);
    return rc;
}

#define RECIPE(...)                                                                                                    \
    {                                                                                                                  \
        .name = "vae", .measure = "psnr", .scalar = {__VA_ARGS__}, .open = open_vae, .close = close_vae, .loss = loss, \
        .feed = feed, .validate = validate, .pictures = pictures, .export = export_vae                                 \
    }

const ac_recipe ac_recipe_vae = RECIPE("l1", "kl");
static const ac_recipe adversarial_recipe = RECIPE("l1", "kl", "generator", "discriminator");
