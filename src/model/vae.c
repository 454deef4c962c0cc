/* vae.c - AutoencoderKL: images to latents and back. */
#include "model/nets.h"

#include <string.h>

int ac_vae_config(ac_json *j, ac_vae_cfg *c)
{
    const char *act = ac_json_str(j, "act_fn", "silu");

    memset(c, 0, sizeof *c);
    c->in_channels = (int)ac_json_int(j, "in_channels", 3, 1, 64);
    c->out_channels = (int)ac_json_int(j, "out_channels", 3, 1, 64);
    c->latent = (int)ac_json_int(j, "latent_channels", 4, 1, 1024);
    c->sample_size = (int)ac_json_int(j, "sample_size", 32, 1, 65536);
    c->layers = (int)ac_json_int(j, "layers_per_block", 1, 1, 16);
    c->levels = (int)ac_json_ints(j, "block_out_channels", c->channels, AC_LEVELS);
    c->groups = (int)ac_json_int(j, "norm_num_groups", 32, 1, 4096);
    c->quant = ac_json_bool(j, "use_quant_conv", true);
    c->post_quant = ac_json_bool(j, "use_post_quant_conv", true);
    c->mid_attn = ac_json_bool(j, "mid_block_add_attention", true);
    c->scaling = ac_json_num(j, "scaling_factor", 0.18215);
    c->shift = ac_json_num(j, "shift_factor", 0);
    if (j->rc)
        return j->rc;
    if (strcmp(act, "silu") && strcmp(act, "swish"))
        return ac_fail(j->dg, ADDCL_E_UNSUPPORTED, "%s: \"act_fn\": %s is not supported", j->path, act);
    if (c->levels < 1 || !(c->scaling > 0))
        return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"block_out_channels\" or \"scaling_factor\" is missing or wrong", j->path);
    for (int i = 0; i < c->levels; i++)
        if (c->channels[i] < 1 || c->channels[i] % c->groups)
            return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: %d channels do not split into %d groups", j->path, c->channels[i], c->groups);
    return 0;
}

int ac_vae_factor(const ac_vae_cfg *c)
{
    return 1 << (c->levels - 1);
}

static const double eps = 1e-6;

static ac_id resnet(ac_net *m, const ac_vae_cfg *c, ac_id x, int out)
{
    ac_id h = nn_group_norm(m, "norm1", x, c->groups, eps, AC_ACT_SILU);

    h = nn_conv(m, "conv1", h, out, 3, NULL);
    h = nn_group_norm(m, "norm2", h, c->groups, eps, AC_ACT_SILU);
    h = nn_conv(m, "conv2", h, out, 3, NULL);
    if (nn_last(m, x) != out)
        x = nn_conv(m, "conv_shortcut", x, out, 1, NULL);
    return nn_tap(m, "", ac_add(m->g, h, x));
}

/* One head over all pixels. */
static ac_id attention(ac_net *m, const ac_vae_cfg *c, ac_id x)
{
    ac_graph *g = m->g;
    int64_t C = nn_last(m, x), H = nn_dim(m, x, 1), W = nn_dim(m, x, 2);
    ac_shape flat = {3, {-1, H * W, C}}, image = {4, {-1, H, W, C}};
    ac_id h = ac_reshape(g, nn_group_norm(m, "group_norm", x, c->groups, eps, AC_ACT_NONE), flat);
    ac_id q = nn_linear(m, "to_q", h, C, true, AC_ACT_NONE);
    ac_id k = nn_linear(m, "to_k", h, C, true, AC_ACT_NONE);
    ac_id v = nn_linear(m, "to_v", h, C, true, AC_ACT_NONE);

    h = nn_linear(m, "to_out.0", ac_attention(g, q, k, v, 1, false), C, true, AC_ACT_NONE);
    return nn_tap(m, "", ac_reshape(g, ac_add(g, h, ac_reshape(g, x, flat)), image));
}

static ac_id mid(ac_net *m, const ac_vae_cfg *c, ac_id h)
{
    int C = c->channels[c->levels - 1];

    WITH_SCOPE(m, "mid_block")
    {
        WITH_SCOPE(m, "resnets.0")
        NN_BLOCK(m)
        h = resnet(m, c, h, C);
        if (c->mid_attn)
            WITH_SCOPE(m, "attentions.0")
            NN_BLOCK(m)
            h = attention(m, c, h);
        WITH_SCOPE(m, "resnets.1")
        NN_BLOCK(m)
        h = resnet(m, c, h, C);
        nn_tap(m, "", h);
    }
    return h;
}

ac_id ac_vae_encode(ac_net *m, const ac_vae_cfg *c, ac_id image)
{
    static const ac_conv_at half = {.stride = 2, .bottom = 1, .right = 1};
    ac_id h = AC_POISON, mean, logvar;

    WITH_SCOPE(m, "encoder")
    {
        h = nn_conv(m, "conv_in", image, c->channels[0], 3, NULL);
        for (int i = 0; i < c->levels; i++)
            WITH_SCOPE(m, "down_blocks.%d", i)
            {
                for (int j = 0; j < c->layers; j++)
                    WITH_SCOPE(m, "resnets.%d", j)
                    NN_BLOCK(m)
                    h = resnet(m, c, h, c->channels[i]);
                if (i < c->levels - 1)
                    WITH_SCOPE(m, "downsamplers.0")
                    h = nn_tap(m, "", nn_conv(m, "conv", h, c->channels[i], 3, &half));
                nn_tap(m, "", h);
            }
        h = mid(m, c, h);
        h = nn_group_norm(m, "conv_norm_out", h, c->groups, eps, AC_ACT_SILU);
        h = nn_conv(m, "conv_out", h, 2 * c->latent, 3, NULL);
    }
    if (c->quant)
        h = nn_conv(m, "quant_conv", h, 2 * c->latent, 1, NULL);
    mean = ac_slice(m->g, h, 3, 0, c->latent);
    logvar = ac_clamp(m->g, ac_slice(m->g, h, 3, c->latent, c->latent), -30, 20);
    return ac_concat(m->g, mean, logvar, 3);
}

ac_id ac_vae_decode(ac_net *m, const ac_vae_cfg *c, ac_id z)
{
    ac_id h = c->post_quant ? nn_conv(m, "post_quant_conv", z, c->latent, 1, NULL) : z;

    WITH_SCOPE(m, "decoder")
    {
        h = mid(m, c, nn_conv(m, "conv_in", h, c->channels[c->levels - 1], 3, NULL));
        for (int i = 0; i < c->levels; i++)
            WITH_SCOPE(m, "up_blocks.%d", i)
            {
                int C = c->channels[c->levels - 1 - i];
                for (int j = 0; j <= c->layers; j++)
                    WITH_SCOPE(m, "resnets.%d", j)
                    NN_BLOCK(m)
                    h = resnet(m, c, h, C);
                if (i < c->levels - 1) {
                    ac_conv_at up = {1, 1, 1, 1, 1, 2 * nn_dim(m, h, 1), 2 * nn_dim(m, h, 2)};
                    WITH_SCOPE(m, "upsamplers.0")
                    h = nn_tap(m, "", nn_conv(m, "conv", h, C, 3, &up));
                }
                nn_tap(m, "", h);
            }
        h = nn_group_norm(m, "conv_norm_out", h, c->groups, eps, AC_ACT_SILU);
        h = nn_conv(m, "conv_out", h, c->out_channels, 3, NULL);
    }
    return h;
}
