/* taesd.c - AutoencoderTiny: a small convolutional autoencoder for the latents that the UNet sees. */
#include "model/nets.h"

#include <string.h>

int ac_taesd_config(ac_json *j, ac_taesd_cfg *c)
{
    const char *act = ac_json_str(j, "act_fn", "relu");
    size_t n[4];

    memset(c, 0, sizeof *c);
    c->in_channels = (int)ac_json_int(j, "in_channels", 3, 1, 64);
    c->out_channels = (int)ac_json_int(j, "out_channels", 3, 1, 64);
    c->latent = (int)ac_json_int(j, "latent_channels", 4, 1, 1024);
    c->scaling = ac_json_num(j, "scaling_factor", 1);
    n[0] = ac_json_ints(j, "encoder_block_out_channels", c->channels, AC_LEVELS);
    n[1] = ac_json_ints(j, "decoder_block_out_channels", c->dec_channels, AC_LEVELS);
    n[2] = ac_json_ints(j, "num_encoder_blocks", c->enc_blocks, AC_LEVELS);
    n[3] = ac_json_ints(j, "num_decoder_blocks", c->dec_blocks, AC_LEVELS);
    if (j->rc)
        return j->rc;
    for (int i = 0; i < 4; i++)
        if (n[i] != n[0] || n[i] < 1)
            return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: block lists are missing or of different lengths", j->path);
    c->levels = (int)n[0];
    if (strcmp(act, "relu"))
        return ac_fail(j->dg, ADDCL_E_UNSUPPORTED, "%s: \"act_fn\": %s is not supported", j->path, act);
    return 0;
}

int ac_taesd_factor(const ac_taesd_cfg *c)
{
    return 1 << (c->levels - 1);
}

/* relu(conv(relu(conv(relu(conv(x))))) + x), widths equal. */
static ac_id block(ac_net *m, ac_id x, int C)
{
    ac_id h = x;

    for (int i = 0; i < 3; i++) {
        char name[16];
        memcpy(name, "conv.0", sizeof "conv.0");
        name[5] = (char)('0' + 2 * i);
        h = nn_conv(m, name, h, C, 3, NULL);
        if (i < 2)
            h = ac_relu(m->g, h);
    }
    return nn_tap(m, "", ac_relu(m->g, ac_add(m->g, h, x)));
}

/* The convolution whose number in the checkpoint is the open scope. */
static ac_id layer(ac_net *m, ac_id x, int out, bool bias, ac_conv_at at)
{
    ac_id w = nn_weight(m, "weight", 4, out, (int)nn_last(m, x), 3, 3);

    return nn_tap(m, "", ac_conv(m->g, x, w, bias ? nn_weight(m, "bias", 1, out) : AC_NONE, at));
}

static const ac_conv_at same = {1, 1, 1, 1, 1, 0, 0}, half = {2, 1, 1, 1, 1, 0, 0};

ac_id ac_taesd_encode(ac_net *m, const ac_taesd_cfg *c, ac_id image)
{
    ac_id h = ac_scale(m->g, image, 0.5, 0.5);
    int n = 0;

    WITH_SCOPE(m, "encoder.layers")
    {
        for (int i = 0; i < c->levels; i++) {
            WITH_SCOPE(m, "%d", n++)
            h = layer(m, h, c->channels[i], i == 0, i == 0 ? same : half);
            for (int k = 0; k < c->enc_blocks[i]; k++)
                WITH_SCOPE(m, "%d", n++)
                h = block(m, h, c->channels[i]);
        }
        WITH_SCOPE(m, "%d", n)
        h = layer(m, h, c->latent, true, same);
    }
    return h;
}

ac_id ac_taesd_decode(ac_net *m, const ac_taesd_cfg *c, ac_id z)
{
    ac_graph *g = m->g;
    ac_id h = ac_scale(g, ac_tanh(g, ac_scale(g, z, 1.0 / 3, 0)), 3, 0);
    int n = 0;

    WITH_SCOPE(m, "decoder.layers")
    {
        WITH_SCOPE(m, "%d", n++)
        h = layer(m, h, c->dec_channels[0], true, same);
        WITH_SCOPE(m, "%d", n++)
        h = nn_tap(m, "", ac_relu(g, h));
        for (int i = 0; i < c->levels; i++) {
            bool last = i == c->levels - 1;
            ac_conv_at at = same;
            for (int k = 0; k < c->dec_blocks[i]; k++)
                WITH_SCOPE(m, "%d", n++)
                h = block(m, h, c->dec_channels[i]);
            if (!last) { /* the nearest upsampling is a layer of its own in the checkpoint's numbering */
                n++;
                at.up_h = 2 * nn_dim(m, h, 1);
                at.up_w = 2 * nn_dim(m, h, 2);
            }
            WITH_SCOPE(m, "%d", n++)
            h = layer(m, h, last ? c->out_channels : c->dec_channels[i], last, at);
        }
    }
    return ac_scale(g, h, 2, -1);
}
