/* method_clip.c - pictures and captions contrastively (Radford et al. 2021): an image transformer in DINOv2's form and a text
 * transformer learn embeddings whose cosine tells whether they belong together. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "diff/loss.h"
#include "io/folder.h"
#include "train/inputs.h"

enum { IMAGE, TEXT };

typedef struct clip {
    ac_vit_cfg vit;
    ac_clip_cfg text;
    ac_bpe *bpe;
    ac_part part[2];    /* of a model to go on from */
    int B, side, T;
    float *image;       /* [B,side,side,3] */
    int32_t *ids, *eos; /* [B,T]; [B,1] */
    ac_weights w[2];    /* constants of the step's graph */
} clip;

/* ------------------------------------------------------------------------------------------ opening */

static ac_vit_cfg vit_of(const ac_train_cfg *c)
{
    int width = (int)c->model.vit_hidden_size;

    return (ac_vit_cfg){.width = width, .ff = (int)c->model.vit_mlp_ratio * width, .layers = (int)c->model.vit_layers,
                        .heads = (int)c->model.vit_heads, .channels = 3, .patch = (int)c->model.vit_patch_size,
                        .image_size = (int)(c->model.vit_image_size ? c->model.vit_image_size : c->data.resolution), .act = AC_ACT_GELU, .eps = 1e-6,
                        .qkv_bias = true, .projection = (int)c->model.projection_dim};
}

static ac_clip_cfg text_of(const ac_train_cfg *c, const ac_bpe *bpe)
{
    int width = (int)c->model.text_hidden_size;

    return (ac_clip_cfg){.vocab = (int)ac_bpe_vocab_size(bpe), .width = width, .ff = 4 * width, .layers = (int)c->model.text_layers,
                         .heads = (int)c->model.text_heads, .positions = (int)c->model.text_tokens, .act = AC_ACT_GELU, .eps = 1e-5,
                         .eos = ac_bpe_eos(bpe), .projection = (int)c->model.projection_dim};
}

static int check_sizes(ac_training *r, const clip *m)
{
    if (m->vit.width % m->vit.heads || m->text.width % m->text.heads)
        return ac_fail(r->dg, ADDCL_E_ARG, "widths of %d and %d do not split into %d and %d heads", m->vit.width, m->text.width, m->vit.heads,
                       m->text.heads);
    if (m->side % m->vit.patch)
        return ac_fail(r->dg, ADDCL_E_ARG, "pictures of %d pixels do not split into patches of %d", m->side, m->vit.patch);
    if (m->vit.layers > AC_VIT_LAYERS)
        return ac_fail(r->dg, ADDCL_E_ARG, "%d blocks in the image tower, at most %d are possible", m->vit.layers, AC_VIT_LAYERS);
    if (!m->vit.projection || m->vit.projection != m->text.projection)
        return ac_fail(r->dg, ADDCL_E_ARG, "projections to %d and %d values: they must be equal to be compared", m->vit.projection, m->text.projection);
    return 0;
}

static int open_tokenizer(ac_training *r, clip *m)
{
    const char *given = r->cfg->model.tokenizer;
    char *own = *r->cfg->model.pretrained_model ? ac_path_join(r->cfg->model.pretrained_model, "tokenizer") : NULL, *dir = NULL;
    int rc = 0;

    if (*given)
        dir = ac_strdup(given);
    else if (own && ac_is_dir(own))
        dir = ac_strdup(own);
    else
        rc = ac_clip_vocabulary(r->dg, &dir);
    if (rc == 0)
        rc = dir ? ac_bpe_open(dir, r->dg, &m->bpe) : ac_nomem(r->dg, 1);
    free(own);
    free(dir);
    return rc;
}

/* The two towers of an exported model. */
static int open_pretrained(ac_training *r, clip *m)
{
    static const char *const names[] = {"image_encoder", "text_encoder"};
    int rc = 0;

    for (int k = 0; k < 2; k++) {
        char *dir = ac_path_join(r->cfg->model.pretrained_model, names[k]);
        if (!dir)
            return ac_nomem(r->dg, 1);
        rc = ac_part_open(r->dg, dir, names[k], true, &m->part[k]);
        free(dir);
        AC_TRY(rc);
    }
    AC_TRY(ac_vit_config(&m->part[IMAGE].json, &m->vit));
    rc = ac_clip_config(&m->part[TEXT].json, &m->text);
out:
    return rc;
}

static int open_clip(ac_training *r)
{
    clip *m = ac_calloc(1, sizeof *m);
    int rc;

    if (!m)
        return ac_nomem(r->dg, sizeof *m);
    r->method = m;
    AC_TRY(open_tokenizer(r, m));
    m->vit = vit_of(r->cfg);
    m->text = text_of(r->cfg, m->bpe);
    if (*r->cfg->model.pretrained_model)
        AC_TRY(open_pretrained(r, m));
    m->B = (int)r->cfg->data.train_batch_size;
    m->side = (int)r->cfg->data.resolution;
    m->T = m->text.positions;
    AC_TRY(check_sizes(r, m));
    m->image = ac_calloc((size_t)m->B * (size_t)m->side * (size_t)m->side * 3, sizeof *m->image);
    m->ids = ac_calloc((size_t)m->B * (size_t)m->T, sizeof *m->ids);
    m->eos = ac_calloc((size_t)m->B, sizeof *m->eos);
    if (!m->image || !m->ids || !m->eos) {
        rc = ac_nomem(r->dg, (size_t)m->B * (size_t)m->side * (size_t)m->side * 12);
        goto out;
    }
    for (int k = 0; k < 2; k++)
        r->sets[r->n_sets++] = (ac_params){.dev = r->dev, .dg = r->dg, .part = k == IMAGE ? "image_encoder" : "text_encoder", .layout = m->part[k].layout,
                                           .seed = (uint64_t)r->cfg->run.seed, .logit_scale = log(r->cfg->loss.logit_scale_init)};
out:
    return rc;
}

static void close_clip(ac_training *r)
{
    clip *m = r->method;

    if (!m)
        return;
    if (m->bpe)
        ac_bpe_close(m->bpe);
    for (int k = 0; k < 2; k++) {
        ac_part_close(&m->part[k]);
        ac_weights_free(&m->w[k]);
    }
    free(m->image);
    free(m->ids);
    free(m->eos);
    free(m);
    r->method = NULL;
}

/* ------------------------------------------------------------------------------------------ graph */

/* Embeddings [B,D] of both. The weights' constants (w) must live until the graph is made ready. */
static void towers(ac_training *r, ac_graph *g, int B, ac_weights w[2], ac_id *image, ac_id *text)
{
    const clip *c = r->method;
    ac_id pixels = ac_input(g, "image", AC_F32, ac_dims(4, B, c->side, c->side, 3));
    ac_id ids = ac_input(g, "ids", AC_I32, ac_dims(2, B, c->T)), eos = ac_input(g, "eos", AC_I32, ac_dims(2, B, 1));
    ac_net m = ac_train_net(r, g, IMAGE, &w[IMAGE]);

    *image = ac_vit(&m, &c->vit, pixels).embeds;
    m = ac_train_net(r, g, TEXT, &w[TEXT]);
    *text = ac_clip_text(&m, &c->text, ids, eos).pooled;
}

static ac_id loss(ac_training *r, ac_graph *g, int B)
{
    clip *c = r->method;
    ac_net m = ac_train_net(r, g, IMAGE, &c->w[IMAGE]);
    ac_id image, text, scale = ac_exp(g, ac_clamp(g, nn_weight(&m, "logit_scale", 1, 1), -20, log(r->cfg->loss.logit_scale_max)));

    towers(r, g, B, c->w, &image, &text);
    ac_set_output(g, "scale", scale);
    return ac_loss_clip(g, image, text, scale);
}

static int feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    clip *m = r->method;
    size_t B = (size_t)m->B, pixels = (size_t)m->side * (size_t)m->side;
    double mean[3], std[3];
    int rc;

    ac_vit_norm(&m->vit, mean, std);
    for (size_t i = 0; i < b->n * pixels * 3; i++)
        m->image[i] = (float)((0.5 * (double)b->image[i] + 0.5 - mean[i % 3]) / std[i % 3]);
    for (size_t i = 0; i < b->n; i++) {
        int32_t *ids = m->ids + i * (size_t)m->T;
        AC_TRY(ac_bpe_row(m->bpe, b->sample[i].caption, m->T, ac_bpe_pad(m->bpe), ids, NULL, r->dg));
        m->eos[i] = (int32_t)i * m->T + ac_clip_eos(&m->text, ids, m->T);
    }
    AC_TRY(ac_feed(x, "image", m->image, B * pixels * 3 * sizeof *m->image));
    AC_TRY(ac_feed(x, "ids", m->ids, B * (size_t)m->T * sizeof *m->ids));
    rc = ac_feed(x, "eos", m->eos, B * sizeof *m->eos);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ validation */

/* Embeddings of a split's samples, [n,D] each. */
typedef struct embedded {
    float *image, *text, *batch;
    size_t n;
} embedded;

static int embed_batch(ac_training *r, ac_exec *x, const ac_batch *b, size_t k, void *user)
{
    const clip *m = r->method;
    size_t B = (size_t)m->B, D = (size_t)m->vit.projection;
    embedded *e = user;
    int rc;

    (void)k;
    AC_TRY(feed(r, x, b));
    AC_TRY(ac_run(x));
    AC_TRY(ac_fetch(x, "image", e->batch, B * D * sizeof *e->batch));
    memcpy(e->image + e->n * D, e->batch, b->n * D * sizeof *e->batch);
    AC_TRY(ac_fetch(x, "text", e->batch, B * D * sizeof *e->batch));
    memcpy(e->text + e->n * D, e->batch, b->n * D * sizeof *e->batch);
    e->n += b->n;
out:
    return rc;
}

static double cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;

    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb + 1e-30);
}

/* Share of pictures whose own caption is nearer than those of all others of the split. */
static int recall(ac_training *r, ac_exec *x, ac_split split, double *share)
{
    const clip *m = r->method;
    size_t D = (size_t)m->vit.projection, all = ac_eval_count(r), n, hits = 0;
    embedded e = {.image = ac_calloc(all * D + 1, sizeof(float)),
                  .text = ac_calloc(all * D + 1, sizeof(float)),
                  .batch = ac_calloc((size_t)m->B * D, sizeof(float))};
    int rc = e.image && e.text && e.batch ? 0 : ac_nomem(r->dg, all * D * sizeof(float));

    AC_TRY(rc);
    AC_TRY(ac_eval_each(r, x, split, ac_eval_count(r), embed_batch, &e, &n));
    for (size_t i = 0; i < n; i++) {
        double own = cosine(e.image + i * D, e.text + i * D, D);
        bool nearest = true;
        for (size_t k = 0; k < n && nearest; k++)
            nearest = k == i || cosine(e.image + i * D, e.text + k * D, D) < own;
        hits += nearest;
    }
    *share = n ? (double)hits / (double)n : NAN;
out:
    free(e.image);
    free(e.text);
    free(e.batch);
    return rc;
}

static int validate(ac_training *r, double *held_out, double *training)
{
    ac_graph *g = ac_graph_new(r->dg, AC_F32);
    ac_weights w[2] = {{0}, {0}};
    ac_exec *x = NULL;
    ac_id image, text;
    int rc;

    if (!g)
        return ac_nomem(r->dg, sizeof *g);
    ac_use_averages(r, true);
    towers(r, g, (int)r->cfg->data.train_batch_size, w, &image, &text);
    ac_use_averages(r, false);
    ac_set_output(g, "image", image);
    ac_set_output(g, "text", text);
    AC_TRY(ac_exec_new(r->dev, g, NULL, &x));
    AC_TRY(recall(r, x, AC_SPLIT_VAL, held_out));
    rc = recall(r, x, AC_SPLIT_TRAIN, training);
out:
    ac_exec_free(x);
    ac_graph_free(g);
    ac_weights_free(&w[IMAGE]);
    ac_weights_free(&w[TEXT]);
    return rc;
}

/* ------------------------------------------------------------------------------------------ export */

static json_t *vit_json(const ac_vit_cfg *c)
{
    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:b, s:f, s:f, s:b, s:b, s:i}", "architectures", "Dinov2Model", "model_type",
                     "dinov2", "hidden_size", c->width, "num_hidden_layers", c->layers, "num_attention_heads", c->heads, "mlp_ratio", c->ff / c->width,
                     "num_channels", c->channels, "patch_size", c->patch, "image_size", c->image_size, "hidden_act", "gelu", "qkv_bias", 1,
                     "layer_norm_eps", c->eps, "layerscale_value", 1.0, "use_swiglu_ffn", 0, "use_mask_token", 0, "projection_dim",
                     c->projection);
}

static json_t *text_json(const clip *m)
{
    const ac_clip_cfg *c = &m->text;

    return json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:i, s:i, s:i, s:i}", "architectures", "CLIPTextModelWithProjection",
                     "model_type", "clip_text_model", "vocab_size", c->vocab, "hidden_size", c->width, "intermediate_size", c->ff, "num_hidden_layers",
                     c->layers, "num_attention_heads", c->heads, "max_position_embeddings", c->positions, "hidden_act",
                     c->act == AC_ACT_QUICK_GELU ? "quick_gelu" : "gelu", "layer_norm_eps", c->eps, "projection_dim", c->projection, "bos_token_id",
                     ac_bpe_bos(m->bpe), "eos_token_id", ac_bpe_eos(m->bpe), "pad_token_id", ac_bpe_pad(m->bpe));
}

static int export_clip(ac_training *r, const char *dir)
{
    const clip *m = r->method;
    int rc = 0;

    for (int k = 0; k < 2; k++) {
        json_t *j = m->part[k].present ? json_incref(m->part[k].json.obj) : k == IMAGE ? vit_json(&m->vit) : text_json(m);
        char *sub = ac_path_join(dir, r->sets[k].part);
        rc = j && sub ? ac_export_set(r, &r->sets[k], j, sub, "model.safetensors") : ac_nomem(r->dg, 1);
        json_decref(j);
        free(sub);
        AC_TRY(rc);
    }
    rc = ac_export_tokenizer(r, 0, dir);
out:
    return rc;
}

const ac_recipe ac_recipe_clip = {.name = "clip",
                                  .measure = "recall",
                                  .scalar = {"scale"},
                                  .open = open_clip,
                                  .close = close_clip,
                                  .loss = loss,
                                  .feed = feed,
                                  .validate = validate,
                                  .export = export_clip};
