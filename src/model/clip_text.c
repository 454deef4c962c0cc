/* clip_text.c - CLIP's text encoder, as CLIPTextModel and CLIPTextModelWithProjection have it. */
#include "model/nets.h"

#include <string.h>

int ac_clip_config(ac_json *j, ac_clip_cfg *c)
{
    const char *act = ac_json_str(j, "hidden_act", "quick_gelu"), *arch[1] = {NULL};
    size_t n;

    memset(c, 0, sizeof *c);
    c->vocab = (int)ac_json_int(j, "vocab_size", 49408, 1, 1 << 24);
    c->width = (int)ac_json_int(j, "hidden_size", 512, 1, 65536);
    c->ff = (int)ac_json_int(j, "intermediate_size", 2048, 1, 1 << 20);
    c->layers = (int)ac_json_int(j, "num_hidden_layers", 12, 1, 256);
    c->heads = (int)ac_json_int(j, "num_attention_heads", 8, 1, 1024);
    c->positions = (int)ac_json_int(j, "max_position_embeddings", 77, 2, 65536);
    c->eps = ac_json_num(j, "layer_norm_eps", 1e-5);
    c->eos = (int)ac_json_int(j, "eos_token_id", 49407, 0, INT32_MAX);
    n = ac_json_strs(j, "architectures", arch, 1);
    if (n && arch[0] && !strcmp(arch[0], "CLIPTextModelWithProjection"))
        c->projection = (int)ac_json_int(j, "projection_dim", 512, 1, 65536);
    if (j->rc)
        return j->rc;
    c->act = !strcmp(act, "quick_gelu") ? AC_ACT_QUICK_GELU : !strcmp(act, "gelu") ? AC_ACT_GELU : -1;
    if (c->act < 0)
        return ac_fail(j->dg, ADDCL_E_UNSUPPORTED, "%s: \"hidden_act\": %s is not supported", j->path, act);
    if (c->width % c->heads)
        return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: a width of %d does not split into %d heads", j->path, c->width, c->heads);
    return 0;
}

int ac_clip_eos(const ac_clip_cfg *c, const int32_t *ids, int n)
{
    int best = 0;

    for (int i = 0; c->eos != 2 && i < n; i++)
        if (ids[i] == c->eos)
            return i;
    for (int i = 1; i < n; i++)
        if (ids[i] > ids[best])
            best = i;
    return c->eos == 2 ? best : 0;
}

static ac_id self_attention(ac_net *m, const ac_clip_cfg *c, ac_id x)
{
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "self_attn")
    {
        ac_id q = nn_linear(m, "q_proj", x, c->width, true, AC_ACT_NONE);
        ac_id k = nn_linear(m, "k_proj", x, c->width, true, AC_ACT_NONE);
        ac_id v = nn_linear(m, "v_proj", x, c->width, true, AC_ACT_NONE);
        y = nn_tap(m, "", nn_linear(m, "out_proj", ac_attention(m->g, q, k, v, c->heads, true), c->width, true, AC_ACT_NONE));
    }
    return y;
}

static ac_id mlp(ac_net *m, const ac_clip_cfg *c, ac_id x)
{
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "mlp")
    {
        ac_id h = nn_tap(m, "activation_fn", nn_linear(m, "fc1", x, c->ff, true, c->act));
        y = nn_tap(m, "", nn_linear(m, "fc2", h, c->width, true, AC_ACT_NONE));
    }
    return y;
}

static ac_id embeddings(ac_net *m, const ac_clip_cfg *c, ac_id ids)
{
    int T = (int)nn_dim(m, ids, 1);
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "embeddings")
    {
        ac_id tok = nn_weight(m, "token_embedding.weight", 2, c->vocab, c->width);
        ac_id pos = nn_weight(m, "position_embedding.weight", 2, c->positions, c->width);
        pos = ac_slice(m->g, ac_cast(m->g, pos, AC_F32), 0, 0, T);
        y = nn_tap(m, "", ac_add(m->g, ac_embed(m->g, tok, ids), pos));
    }
    return y;
}

ac_clip_out ac_clip_text(ac_net *m, const ac_clip_cfg *c, ac_id ids, ac_id eos)
{
    ac_graph *g = m->g;
    ac_clip_out out = {0};

    WITH_SCOPE(m, "text_model")
    {
        ac_id h = embeddings(m, c, ids);
        for (int i = 0; i < c->layers; i++)
            WITH_SCOPE(m, "encoder.layers.%d", i)
            NN_BLOCK(m)
            {
                out.penultimate = h; /* before the last layer */
                h = ac_add(g, self_attention(m, c, nn_layer_norm(m, "layer_norm1", h, c->eps)), h);
                h = nn_tap(m, "", ac_add(g, mlp(m, c, nn_layer_norm(m, "layer_norm2", h, c->eps)), h));
            }
        out.last = nn_layer_norm(m, "final_layer_norm", h, c->eps);
    }
    if (eos != AC_NONE) {
        ac_id rows = ac_reshape(g, out.last, (ac_shape){2, {-1, c->width}});
        out.pooled = ac_reshape(g, ac_embed(g, rows, eos), (ac_shape){2, {-1, c->width}});
        if (c->projection)
            out.pooled = nn_linear(m, "text_projection", out.pooled, c->projection, false, AC_ACT_NONE);
    }
    return out;
}
