/* unet.c - UNet2DConditionModel: Stable Diffusion 1, 2, XL and models of that build. */
#include "model/nets.h"

#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------ configuration */

static int unsupported(const ac_json *j, const char *key, const char *value)
{
    return ac_fail(j->dg, ADDCL_E_UNSUPPORTED, "%s: \"%s\": %s is not supported", j->path, key, value);
}

/* Settings that change the network in ways this one does not have. */
static int check_features(ac_json *j)
{
    static const char *const absent[] = {"class_embed_type", "encoder_hid_dim", "encoder_hid_dim_type", "time_cond_proj_dim",
                                         "num_class_embeds", "cross_attention_norm", "time_embedding_act_fn", "timestep_post_act"};
    static const char *const off[] = {"dual_cross_attention", "only_cross_attention", "class_embeddings_concat", "center_input_sample",
                                      "resnet_skip_time_act"};
    static const char *const equal[][2] = {{"act_fn", "silu"}, {"resnet_time_scale_shift", "default"}, {"time_embedding_type", "positional"},
                                           {"attention_type", "default"}};

    for (size_t i = 0; i < AC_LEN(absent); i++)
        if (ac_json_has(j, absent[i]))
            return unsupported(j, absent[i], "this setting");
    for (size_t i = 0; i < AC_LEN(off); i++) {
        const json_t *v = json_object_get(j->obj, off[i]);
        if (v && json_is_true(v))
            return unsupported(j, off[i], "true");
    }
    for (size_t i = 0; i < AC_LEN(equal); i++) {
        const char *s = ac_json_str(j, equal[i][0], equal[i][1]);
        if (strcmp(s, equal[i][1]) && !(strcmp(equal[i][0], "act_fn") == 0 && !strcmp(s, "swish")))
            return unsupported(j, equal[i][0], s);
    }
    return j->rc;
}

/* One number for all levels, or one for each. */
static int per_level(ac_json *j, const char *key, int levels, int def, int *v)
{
    size_t n = ac_json_ints(j, key, v, AC_LEVELS);

    for (int i = 0; i < levels; i++)
        if (n <= 1)
            v[i] = n ? v[0] : def;
    if (n > 1 && (int)n != levels)
        return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"%s\" has %zu entries for %d blocks", j->path, key, n, levels);
    return j->rc;
}

static int block_types(ac_json *j, const char *key, int levels, const char *plain, const char *cross, bool *attn)
{
    const char *names[AC_LEVELS];
    size_t n = ac_json_strs(j, key, names, AC_LEVELS);

    if (j->rc)
        return j->rc;
    if ((int)n != levels)
        return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"%s\" has %zu entries for %d blocks", j->path, key, n, levels);
    for (int i = 0; i < levels; i++) {
        attn[i] = !strcmp(names[i], cross);
        if (!attn[i] && strcmp(names[i], plain))
            return unsupported(j, key, names[i]);
    }
    return 0;
}

int ac_unet_config(ac_json *j, ac_unet_cfg *c)
{
    const char *mid, *add;
    int rc;

    memset(c, 0, sizeof *c);
    AC_TRY(check_features(j));
    c->in_channels = (int)ac_json_int(j, "in_channels", 4, 1, 1024);
    c->out_channels = (int)ac_json_int(j, "out_channels", 4, 1, 1024);
    c->sample_size = (int)ac_json_int(j, "sample_size", 64, 1, 4096);
    c->layers = (int)ac_json_int(j, "layers_per_block", 2, 1, 16);
    c->levels = (int)ac_json_ints(j, "block_out_channels", c->channels, AC_LEVELS);
    c->context = (int)ac_json_int(j, "cross_attention_dim", 1280, 1, 65536);
    c->linear = ac_json_bool(j, "use_linear_projection", false);
    c->groups = (int)ac_json_int(j, "norm_num_groups", 32, 1, 4096);
    c->eps = ac_json_num(j, "norm_eps", 1e-5);
    c->flip = ac_json_bool(j, "flip_sin_to_cos", true);
    c->shift = (double)ac_json_num(j, "freq_shift", 0);
    mid = ac_json_str(j, "mid_block_type", "UNetMidBlock2DCrossAttn");
    add = ac_json_str(j, "addition_embed_type", "");
    AC_TRY(j->rc);
    if (c->levels < 1) {
        rc = ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"block_out_channels\" is missing", j->path);
        goto out;
    }
    c->mid_attn = true;
    if (strcmp(mid, "UNetMidBlock2DCrossAttn")) {
        rc = unsupported(j, "mid_block_type", mid);
        goto out;
    }
    AC_TRY(block_types(j, "down_block_types", c->levels, "DownBlock2D", "CrossAttnDownBlock2D", c->down_attn));
    AC_TRY(block_types(j, "up_block_types", c->levels, "UpBlock2D", "CrossAttnUpBlock2D", c->up_attn));
    AC_TRY(per_level(j, ac_json_has(j, "num_attention_heads") ? "num_attention_heads" : "attention_head_dim", c->levels, 8, c->heads));
    AC_TRY(per_level(j, "transformer_layers_per_block", c->levels, 1, c->blocks));
    if (!strcmp(add, "text_time")) {
        c->time_ids = (int)ac_json_int(j, "addition_time_embed_dim", 256, 2, 65536);
        c->pooled = (int)ac_json_int(j, "projection_class_embeddings_input_dim", 2816, 1, 65536) - 6 * c->time_ids;
        if (j->rc == 0 && c->pooled < 1)
            rc = ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"projection_class_embeddings_input_dim\" is too small for six ids of %d", j->path,
                         c->time_ids);
    } else if (*add) {
        rc = unsupported(j, "addition_embed_type", add);
    }
    for (int i = 0; rc == 0 && i < c->levels; i++)
        if (c->channels[i] < 1 || c->channels[i] % c->groups || c->heads[i] < 1 || c->channels[i] % c->heads[i])
            rc = ac_fail(j->dg, ADDCL_E_FORMAT, "%s: %d channels do not split into %d groups and %d heads", j->path, c->channels[i], c->groups,
                         c->heads[i]);
    rc = rc ? rc : j->rc;
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ blocks */

typedef struct unet {
    ac_net *m;
    const ac_unet_cfg *c;
    ac_id temb; /* silu(time embedding) [B,4 channels[0]] */
    ac_id ctx;
} unet;

static ac_id resnet(const unet *u, ac_id x, int out)
{
    ac_net *m = u->m;
    ac_graph *g = m->g;
    ac_id h, t;

    h = nn_group_norm(m, "norm1", x, u->c->groups, u->c->eps, AC_ACT_SILU);
    h = nn_conv(m, "conv1", h, out, 3, NULL);
    t = nn_linear(m, "time_emb_proj", u->temb, out, true, AC_ACT_NONE);
    h = ac_add(g, h, ac_reshape(g, t, (ac_shape){4, {-1, 1, 1, out}}));
    h = nn_group_norm(m, "norm2", h, u->c->groups, u->c->eps, AC_ACT_SILU);
    h = nn_conv(m, "conv2", h, out, 3, NULL);
    if (nn_last(m, x) != out)
        x = nn_conv(m, "conv_shortcut", x, out, 1, NULL);
    return nn_tap(m, "", ac_add(g, h, x));
}

static ac_id attention(const unet *u, const char *name, ac_id x, ac_id ctx, int heads)
{
    ac_net *m = u->m;
    int64_t C = nn_last(m, x);
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "%s", name)
    {
        ac_id q = nn_linear(m, "to_q", x, C, false, AC_ACT_NONE);
        ac_id k = nn_linear(m, "to_k", ctx, C, false, AC_ACT_NONE);
        ac_id v = nn_linear(m, "to_v", ctx, C, false, AC_ACT_NONE);
        y = nn_tap(m, "", nn_linear(m, "to_out.0", ac_attention(m->g, q, k, v, heads, false), C, true, AC_ACT_NONE));
    }
    return y;
}

static ac_id feed_forward(const unet *u, ac_id x)
{
    ac_net *m = u->m;
    int64_t C = nn_last(m, x);
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "ff")
    y = nn_tap(m, "", nn_linear(m, "net.2", nn_linear_geglu(m, "net.0.proj", x, 4 * C), C, true, AC_ACT_NONE));
    return y;
}

/* Transformer2DModel: x [B,H,W,C]. */
static ac_id transformer(const unet *u, ac_id x, int heads, int blocks)
{
    ac_net *m = u->m;
    ac_graph *g = m->g;
    int64_t C = nn_last(m, x), H = nn_dim(m, x, 1), W = nn_dim(m, x, 2);
    ac_shape flat = {3, {-1, H * W, C}}, image = {4, {-1, H, W, C}};
    ac_id h = nn_group_norm(m, "norm", x, u->c->groups, 1e-6, AC_ACT_NONE);

    h = u->c->linear ? nn_linear(m, "proj_in", ac_reshape(g, h, flat), C, true, AC_ACT_NONE)
                     : ac_reshape(g, nn_conv(m, "proj_in", h, C, 1, NULL), flat);
    for (int i = 0; i < blocks; i++)
        WITH_SCOPE(m, "transformer_blocks.%d", i)
        {
            ac_id n = nn_layer_norm(m, "norm1", h, 1e-5);
            h = ac_add(g, attention(u, "attn1", n, n, heads), h);
            h = ac_add(g, attention(u, "attn2", nn_layer_norm(m, "norm2", h, 1e-5), u->ctx, heads), h);
            h = nn_tap(m, "", ac_add(g, feed_forward(u, nn_layer_norm(m, "norm3", h, 1e-5)), h));
        }
    h = u->c->linear ? nn_linear(m, "proj_out", h, C, true, AC_ACT_NONE)
                     : ac_reshape(g, nn_conv(m, "proj_out", ac_reshape(g, h, image), C, 1, NULL), flat);
    return nn_tap(m, "", ac_reshape(g, ac_add(g, h, ac_reshape(g, x, flat)), image));
}

/* resnets.j and, with attention, attentions.j of the open block; `skip`, unless AC_NONE, joins the input. */
static ac_id layer(const unet *u, ac_id h, ac_id skip, int level, int j, bool attn)
{
    WITH_SCOPE(u->m, "resnets.%d", j)
    NN_BLOCK(u->m)
    h = resnet(u, skip == AC_NONE ? h : ac_concat(u->m->g, h, skip, 3), u->c->channels[level]);
    if (attn)
        WITH_SCOPE(u->m, "attentions.%d", j)
        NN_BLOCK(u->m)
        h = transformer(u, h, u->c->heads[level], u->c->blocks[level]);
    return h;
}

static ac_id time_embedding(ac_net *m, const ac_unet_cfg *c, const ac_unet_in *in)
{
    ac_graph *g = m->g;
    int64_t wide = 4 * c->channels[0];
    ac_id t = nn_tap(m, "time_proj", ac_time_embed(g, in->t, c->channels[0], c->flip, c->shift)), e = AC_POISON;

    WITH_SCOPE(m, "time_embedding")
    e = nn_tap(m, "", nn_linear(m, "linear_2", nn_linear(m, "linear_1", t, wide, true, AC_ACT_SILU), wide, true, AC_ACT_NONE));
    if (c->time_ids) {
        ac_id ids = ac_reshape(g, in->time_ids, (ac_shape){1, {-1}}), a;
        ids = nn_tap(m, "add_time_proj", ac_time_embed(g, ids, c->time_ids, c->flip, c->shift));
        a = ac_concat(g, in->pooled, ac_reshape(g, ids, (ac_shape){2, {-1, 6 * c->time_ids}}), 1);
        WITH_SCOPE(m, "add_embedding")
        a = nn_tap(m, "", nn_linear(m, "linear_2", nn_linear(m, "linear_1", a, wide, true, AC_ACT_SILU), wide, true, AC_ACT_NONE));
        e = ac_add(g, e, a);
    }
    return ac_silu(g, e);
}

enum { MAX_SKIPS = AC_LEVELS * 18 };

ac_id ac_unet(ac_net *m, const ac_unet_cfg *c, const ac_unet_in *in)
{
    static const ac_conv_at half = {.stride = 2, .top = 1, .left = 1, .bottom = 1, .right = 1};
    unet u = {m, c, time_embedding(m, c, in), in->ctx};
    ac_id skip[MAX_SKIPS], h = nn_conv(m, "conv_in", in->x, c->channels[0], 3, NULL);
    int n = 0, L = c->levels;

    skip[n++] = h;
    for (int i = 0; i < L; i++)
        WITH_SCOPE(m, "down_blocks.%d", i)
        {
            for (int j = 0; j < c->layers; j++)
                skip[n++] = h = layer(&u, h, AC_NONE, i, j, c->down_attn[i]);
            if (i < L - 1)
                WITH_SCOPE(m, "downsamplers.0")
                skip[n++] = h = nn_tap(m, "", nn_conv(m, "conv", h, c->channels[i], 3, &half));
            nn_tap(m, "", h);
        }
    WITH_SCOPE(m, "mid_block")
    {
        h = layer(&u, h, AC_NONE, L - 1, 0, c->mid_attn);
        WITH_SCOPE(m, "resnets.1")
        NN_BLOCK(m)
        h = resnet(&u, h, c->channels[L - 1]);
        nn_tap(m, "", h);
    }
    for (int i = 0; i < L; i++)
        WITH_SCOPE(m, "up_blocks.%d", i)
        {
            int level = L - 1 - i;
            for (int j = 0; j <= c->layers; j++)
                h = layer(&u, h, skip[--n], level, j, c->up_attn[i]);
            if (i < L - 1) { /* to the size of the next skip connection: twice, or one less where that was odd */
                ac_conv_at up = {1, 1, 1, 1, 1, nn_dim(m, skip[n - 1], 1), nn_dim(m, skip[n - 1], 2)};
                WITH_SCOPE(m, "upsamplers.0")
                h = nn_tap(m, "", nn_conv(m, "conv", h, c->channels[level], 3, &up));
            }
            nn_tap(m, "", h);
        }
    h = nn_group_norm(m, "conv_norm_out", h, c->groups, c->eps, AC_ACT_SILU);
    return nn_conv(m, "conv_out", h, c->out_channels, 3, NULL);
}
