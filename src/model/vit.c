/* vit.c - image transformers: DINOv2 (Dinov2Model) and CLIP's image tower (CLIPVisionModel, with or without
 * projection).
 *
 * Both cut an image into patches, put a class token in front, add a table of positions and run pre-norm blocks. CLIP
 * normalises before the blocks as well; DINOv2 scales what a block adds, channel by channel (LayerScale), and may gate
 * its MLP (SwiGLU). */
#include "model/nets.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------ configuration */

static int check(ac_json *j, const ac_vit_cfg *c, const char *act)
{
    if (j->rc)
        return j->rc;
    if (c->act < 0)
        return ac_fail(j->dg, ADDCL_E_UNSUPPORTED, "%s: \"hidden_act\": %s is not supported", j->path, act);
    if (c->width % c->heads)
        return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: a width of %d does not split into %d heads", j->path, c->width,
                       c->heads);
    if (c->image_size < c->patch)
        return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: images of %d pixels are smaller than a patch of %d", j->path,
                       c->image_size, c->patch);
    return 0;
}

/* Names and defaults of transformers' configuration classes. */
static void dinov2_config(ac_json *j, ac_vit_cfg *c)
{
    int ratio = (int)ac_json_int(j, "mlp_ratio", 4, 1, 64);

    c->ff = ratio * c->width;
    c->gated = ac_json_bool(j, "use_swiglu_ffn", false);
    if (c->gated) /* two thirds, rounded up to a multiple of 8: the size of an ungated MLP */
        c->ff = (c->ff * 2 / 3 + 7) / 8 * 8;
    c->qkv_bias = ac_json_bool(j, "qkv_bias", true);
    c->eps = ac_json_num(j, "layer_norm_eps", 1e-6);
    c->projection = (int)ac_json_int(j, "projection_dim", 0, 0, 65536); /* add-cl's own: DINOv2 has none */
}

static void clip_config(ac_json *j, ac_vit_cfg *c)
{
    const char *arch[1] = {NULL};

    c->clip = true;
    c->ff = (int)ac_json_int(j, "intermediate_size", 3072, 1, 1 << 20);
    c->qkv_bias = true;
    c->eps = ac_json_num(j, "layer_norm_eps", 1e-5);
    if (ac_json_strs(j, "architectures", arch, 1) && !strcmp(arch[0], "CLIPVisionModelWithProjection"))
        c->projection = (int)ac_json_int(j, "projection_dim", 512, 1, 65536);
}

int ac_vit_config(ac_json *j, ac_vit_cfg *c)
{
    const char *type = ac_json_str(j, "model_type", "dinov2"), *act;
    bool clip = !strcmp(type, "clip_vision_model");

    memset(c, 0, sizeof *c);
    if (!clip && strcmp(type, "dinov2"))
        return ac_fail(j->dg, ADDCL_E_UNSUPPORTED,
                       "%s: \"model_type\": %s is not supported; dinov2 and clip_vision_model are", j->path, type);
    act = ac_json_str(j, "hidden_act", clip ? "quick_gelu" : "gelu");
    c->act = !strcmp(act, "quick_gelu") ? AC_ACT_QUICK_GELU : !strcmp(act, "gelu") ? AC_ACT_GELU : -1;
    c->width = (int)ac_json_int(j, "hidden_size", 768, 1, 65536);
    c->layers = (int)ac_json_int(j, "num_hidden_layers", 12, 1, AC_VIT_LAYERS);
    c->heads = (int)ac_json_int(j, "num_attention_heads", 12, 1, 1024);
    c->channels = (int)ac_json_int(j, "num_channels", 3, 1, 1024);
    c->image_size = (int)ac_json_int(j, "image_size", 224, 1, 4096);
    c->patch = (int)ac_json_int(j, "patch_size", clip ? 32 : 14, 1, 1024);
    if (clip)
        clip_config(j, c);
    else
        dinov2_config(j, c);
    return check(j, c, act);
}

/* ------------------------------------------------------------------------------------------ positions */

/* Keys' cubic kernel with a = -3/4, at distance x. */
static double cubic(double x)
{
    const double a = -0.75;

    x = fabs(x);
    if (x >= 2)
        return 0;
    return x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
}

/* Constant [to,from]: its product with samples is their bicubic interpolation, as PyTorch's with align_corners false
 * and no antialiasing. The edge's samples repeat beyond it. */
static ac_id cubic_matrix(ac_net *m, int64_t from, int64_t to)
{
    float *data = ac_calloc((size_t)to * (size_t)from, sizeof *data);

    if (!data)
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < to; i++) {
        double at = ((double)i + 0.5) * (double)from / (double)to - 0.5;
        for (int64_t k = (int64_t)floor(at) - 1, last = k + 3; k <= last; k++) {
            int64_t source = AC_MIN(AC_MAX(k, (int64_t)0), from - 1);
            data[i * from + source] += (float)cubic(at - (double)k);
        }
    }
    return nn_constant(m, "bicubic", (ac_shape){2, {to, from}}, data);
}

/* [A,B,C] -> [B,n,C]: A becomes n positions. */
static ac_id resize_first(ac_net *m, ac_id x, int64_t n)
{
    int64_t A = nn_dim(m, x, 0), B = nn_dim(m, x, 1), C = nn_dim(m, x, 2);
    ac_id y = ac_matmul(m->g, cubic_matrix(m, A, n), ac_reshape(m->g, x, (ac_shape){2, {A, B * C}}), false, false);

    return ac_transpose(m->g, ac_reshape(m->g, y, (ac_shape){3, {n, B, C}}), 1, 0, 2, -1);
}

/* Positions of other images than the network was made for, as transformers has them: the square of patch positions is
 * resized, the class token's stays. A table [1,1+side^2,C] for side x side patches, made to fit h x w: [1,1+hw,C]. */
static ac_id fit_positions(ac_net *m, ac_id table, int64_t side, int64_t h, int64_t w)
{
    ac_graph *g = m->g;
    int64_t C = nn_last(m, table);
    ac_id grid;

    if (h == side && w == side)
        return table;
    grid = ac_reshape(g, ac_slice(g, table, 1, 1, side * side), (ac_shape){3, {side, side, C}});
    grid = resize_first(m, resize_first(m, grid, h), w);
    return ac_concat(g, ac_slice(g, table, 1, 0, 1), ac_reshape(g, grid, (ac_shape){3, {1, h * w, C}}), 1);
}

/* ------------------------------------------------------------------------------------------ embeddings */

/* What the two call their parts. */
static const struct names {
    const char *embeddings, *patches, *layers, *norm[2], *attention, *q, *k, *v, *out, *last_norm;
} names[2] = {
    {.embeddings = "embeddings",
     .patches = "patch_embeddings.projection",
     .layers = "encoder.layer",
     .norm = {"norm1", "norm2"},
     .attention = "attention",
     .q = "attention.query",
     .k = "attention.key",
     .v = "attention.value",
     .out = "output.dense",
     .last_norm = "layernorm"},
    {.embeddings = "vision_model.embeddings",
     .patches = "patch_embedding",
     .layers = "vision_model.encoder.layers",
     .norm = {"layer_norm1", "layer_norm2"},
     .attention = "self_attn",
     .q = "q_proj",
     .k = "k_proj",
     .v = "v_proj",
     .out = "out_proj",
     .last_norm = "vision_model.post_layernorm"},
};

typedef struct vit {
    ac_net *m;
    const ac_vit_cfg *c;
    const struct names *names;
} vit;

/* Convolution of p x p filters [K,C,p,p] and stride p: patches do not overlap, so it is a product of each patch with
 * the filters. x [B,H,W,C] -> [B,hw,K]; what is left over at the right and the bottom is dropped. */
static ac_id patches(const vit *v, ac_id x)
{
    const ac_vit_cfg *c = v->c;
    ac_net *m = v->m;
    ac_graph *g = m->g;
    int64_t p = c->patch, C = c->channels, h = nn_dim(m, x, 1) / p, w = nn_dim(m, x, 2) / p;
    ac_id y = AC_POISON;

    x = ac_slice(g, ac_slice(g, x, 1, 0, h * p), 2, 0, w * p);
    x = ac_transpose(g, ac_reshape(g, x, (ac_shape){4, {-1, p, w, p * C}}), 0, 2, 1, 3);
    x = ac_reshape(g, x, (ac_shape){3, {-1, h * w, p * p * C}});
    WITH_SCOPE(m, "%s", v->names->patches)
    {
        /* to [K,p,p,C], the order of a patch's values */
        ac_id filters = ac_cast(g, nn_weight(m, "weight", 4, c->width, c->channels, c->patch, c->patch), AC_F32);
        filters = ac_reshape(g, ac_transpose(g, filters, 0, 2, 3, 1), (ac_shape){2, {c->width, p * p * C}});
        y = nn_tap(m, "", ac_linear(g, x, filters, c->clip ? AC_NONE : nn_weight(m, "bias", 1, c->width), AC_ACT_NONE));
    }
    return y;
}

/* Class token and patches, with positions: [B,1+hw,C]. The token is added to the first position, which saves a
 * repetition. */
static ac_id embeddings(const vit *v, ac_id image)
{
    const ac_vit_cfg *c = v->c;
    ac_net *m = v->m;
    ac_graph *g = m->g;
    int64_t h = nn_dim(m, image, 1) / c->patch, w = nn_dim(m, image, 2) / c->patch;
    int side = c->image_size / c->patch, C = c->width;
    ac_id token, table, x, y = AC_POISON;

    if (h < 1 || w < 1)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "an image of %lldx%lld pixels is smaller than a patch of %d",
                             (long long)nn_dim(m, image, 2), (long long)nn_dim(m, image, 1), c->patch);
    WITH_SCOPE(m, "%s", v->names->embeddings)
    {
        x = patches(v, image);
        token = c->clip ? nn_weight(m, "class_embedding", 1, C) : nn_weight(m, "cls_token", 3, 1, 1, C);
        table = c->clip ? nn_weight(m, "position_embedding.weight", 2, 1 + side * side, C)
                        : nn_weight(m, "position_embeddings", 3, 1, 1 + side * side, C);
        token = ac_reshape(g, ac_cast(g, token, AC_F32), (ac_shape){3, {1, 1, C}});
        table = ac_reshape(g, ac_cast(g, table, AC_F32), (ac_shape){3, {1, 1 + side * side, C}});
        table = ac_add(g, fit_positions(m, table, side, h, w), ac_pad(g, token, 1, 0, (int)(h * w)));
        y = nn_tap(m, "", ac_add(g, ac_pad(g, x, 1, 1, 0), table));
    }
    return y;
}

/* ------------------------------------------------------------------------------------------ blocks */

/* LayerScale weights of the open block; AC_NONE: CLIP has none. */
static ac_id layer_scale(const vit *v, int k)
{
    char name[32];

    if (v->c->clip)
        return AC_NONE;
    snprintf(name, sizeof name, "layer_scale%d.lambda1", k);
    return ac_cast(v->m->g, nn_weight(v->m, name, 1, v->c->width), AC_F32);
}

/* The layer that ends a branch, times `scale` [width]. The scale goes into the weights, which spares each token a
 * product, but for a tap, which sees the layer's own output. */
static ac_id last_linear(const vit *v, const char *name, ac_id x, ac_id scale)
{
    ac_net *m = v->m;
    ac_graph *g = m->g;
    int C = v->c->width;
    ac_id y = AC_POISON, w, b;

    if (scale == AC_NONE)
        return nn_linear(m, name, x, C, true, AC_ACT_NONE);
    if (m->tap)
        return ac_mul(g, nn_linear(m, name, x, C, true, AC_ACT_NONE), scale);
    WITH_SCOPE(m, "%s", name)
    {
        w = ac_cast(g, nn_weight(m, "weight", 2, C, (int)nn_last(m, x)), AC_F32);
        b = ac_cast(g, nn_weight(m, "bias", 1, C), AC_F32);
        w = ac_mul(g, w, ac_reshape(g, scale, (ac_shape){2, {C, 1}}));
        y = ac_linear(g, x, w, ac_mul(g, b, scale), AC_ACT_NONE);
    }
    return y;
}

/* Self-attention of x [B,T,C], every token to every other. */
static ac_id attention(const vit *v, ac_id x, ac_id scale)
{
    const ac_vit_cfg *c = v->c;
    ac_id y = AC_POISON;

    WITH_SCOPE(v->m, "%s", v->names->attention)
    {
        ac_id q = nn_linear(v->m, v->names->q, x, c->width, c->qkv_bias, AC_ACT_NONE);
        ac_id k = nn_linear(v->m, v->names->k, x, c->width, c->qkv_bias, AC_ACT_NONE);
        ac_id w = nn_linear(v->m, v->names->v, x, c->width, c->qkv_bias, AC_ACT_NONE);
        y = last_linear(v, v->names->out, ac_attention(v->m->g, q, k, w, c->heads, false), scale);
    }
    return y;
}

/* act(x W1) W2, or gated: (silu(x W1) * x W3) W2 with W1 over W3 in one layer (Shazeer 2020). */
static ac_id mlp(const vit *v, ac_id x, ac_id scale)
{
    ac_net *m = v->m;
    ac_graph *g = m->g;
    int ff = v->c->ff;
    ac_id y = AC_POISON, h;

    WITH_SCOPE(m, "mlp")
    {
        if (v->c->gated) {
            h = nn_linear(m, "weights_in", x, 2 * ff, true, AC_ACT_NONE);
            h = ac_mul(g, ac_silu(g, ac_slice(g, h, 2, 0, ff)), ac_slice(g, h, 2, ff, ff));
            y = last_linear(v, "weights_out", h, scale);
        } else {
            y = last_linear(v, "fc2", nn_linear(m, "fc1", x, ff, true, v->c->act), scale);
        }
    }
    return y;
}

/* x += attention(norm(x)); x += mlp(norm(x)) */
static ac_id block(const vit *v, ac_id x)
{
    ac_graph *g = v->m->g;

    x = ac_add(g, attention(v, nn_layer_norm(v->m, v->names->norm[0], x, v->c->eps), layer_scale(v, 1)), x);
    x = ac_add(g, mlp(v, nn_layer_norm(v->m, v->names->norm[1], x, v->c->eps), layer_scale(v, 2)), x);
    return nn_tap(v->m, "", x);
}

ac_vit_out ac_vit(ac_net *m, const ac_vit_cfg *c, ac_id image)
{
    const vit v = {m, c, &names[c->clip]};
    ac_vit_out out = {0};
    ac_id x = out.embeddings = embeddings(&v, image);

    if (c->clip)
        x = nn_layer_norm(m, "vision_model.pre_layrnorm", x, c->eps); /* so spelt in the checkpoints */
    for (int i = 0; i < c->layers; i++)
        WITH_SCOPE(m, "%s.%d", v.names->layers, i)
        {
            NN_BLOCK(m)
            {
                x = out.block[i] = block(&v, x);
            }
        }
    /* DINOv2 norms the whole sequence, CLIP only the class token: the same for it */
    out.last = c->clip ? x : nn_layer_norm(m, v.names->last_norm, x, c->eps);
    out.pooled = ac_reshape(m->g, ac_slice(m->g, out.last, 1, 0, 1), (ac_shape){2, {-1, c->width}});
    if (c->clip)
        out.pooled = nn_layer_norm(m, v.names->last_norm, out.pooled, c->eps);
    if (c->projection)
        out.embeds = nn_linear(m, "visual_projection", out.pooled, c->projection, false, AC_ACT_NONE);
    return out;
}

void ac_vit_norm(const ac_vit_cfg *c, double mean[3], double std[3])
{
    static const double imagenet[2][3] = {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}},
                        clip[2][3] = {{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}};

    memcpy(mean, c->clip ? clip[0] : imagenet[0], sizeof clip[0]);
    memcpy(std, c->clip ? clip[1] : imagenet[1], sizeof clip[1]);
}
