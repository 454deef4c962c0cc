/* api_stage.c - the networks of a model as graphs on the device: text, step, decode, encode. */
#include "api_internal.h"

#include <stdlib.h>
#include <string.h>

#include "model/nets.h"

static const char *const part_names[AC_PARTS] = {"unet", "vae", "text_encoder", "text_encoder_2", "taesd"};

ac_nets ac_model_nets(const addcl_model *m)
{
    ac_nets n = {.dev = m->ctx->dev,
                 .dg = &m->ctx->dg,
                 .type = m->type,
                 .unet = &m->unet,
                 .vae = m->part[AC_VAE].present ? &m->vae : NULL,
                 .taesd = m->part[AC_TAESD].present ? &m->taesd : NULL,
                 .clip = m->clip,
                 .loras = (const ac_lora *const *)m->lora,
                 .lora_weights = m->lora_weight,
                 .n_loras = m->n_loras};

    for (int i = 0; i < AC_PARTS; i++)
        n.layout[i] = m->part[i].layout;
    memcpy(n.train, m->train, sizeof n.train);
    return n;
}

int ac_latent_factor(const ac_nets *n)
{
    return n->taesd ? ac_taesd_factor(n->taesd) : ac_vae_factor(n->vae);
}

void ac_stage_free(ac_stage *s)
{
    ac_exec_free(s->x);
    ac_graph_free(s->g);
    ac_weights_free(&s->w);
    memset(s, 0, sizeof *s);
}

static int begin(const ac_nets *n, ac_part_id id, ac_stage *s, ac_net *m)
{
    memset(s, 0, sizeof *s);
    s->w = (ac_weights){.train = n->train[id], .layout = n->layout[id], .part = part_names[id], .dg = n->dg, .loras = n->loras, .lora_weights = n->lora_weights,
                        .n_loras = n->n_loras};
    if (!(s->g = ac_graph_new(n->dg, n->type)))
        return ac_nomem(n->dg, sizeof *s->g);
    *m = (ac_net){.g = s->g, .w = &s->w};
    return 0;
}

/* Makes the built graph ready; without a device it was only checked. */
static int finish(const ac_nets *n, const ac_stage_size *z, ac_stage *s)
{
    ac_exec_opts opts = {.plan_only = z->plan_only};
    int rc = s->g->rc;

    if (rc == 0 && n->dev)
        rc = ac_exec_new(n->dev, s->g, &opts, &s->x);
    if (rc < 0) {
        ac_context(n->dg, "%s", s->w.part);
        ac_stage_free(s);
    }
    return rc;
}

int ac_stage_text(const ac_nets *n, int i, bool penultimate, bool pooled, const ac_stage_size *z, ac_stage *s)
{
    ac_clip_out out;
    ac_id ids, eos;
    ac_net m;
    int rc;

    AC_TRY(begin(n, i ? AC_TEXT_2 : AC_TEXT, s, &m));
    ids = ac_input(s->g, "ids", AC_I32, ac_dims(2, 1, z->tokens));
    eos = ac_input(s->g, "eos", AC_I32, ac_dims(2, 1, 1));
    out = ac_clip_text(&m, &n->clip[i], ids, pooled ? eos : AC_NONE);
    ac_set_output(s->g, "states", penultimate ? out.penultimate : out.last);
    if (pooled)
        ac_set_output(s->g, "pooled", out.pooled);
    rc = finish(n, z, s);
out:
    return rc;
}

static ac_unet_in unet_inputs(const ac_nets *n, ac_graph *g, int B, const ac_stage_size *z)
{
    ac_unet_in in = {.x = AC_NONE,
                     .t = ac_input(g, "t", AC_F32, ac_dims(1, B)),
                     .ctx = ac_input(g, "ctx", AC_F32, ac_dims(3, B, z->tokens, n->unet->context))};

    if (n->unet->time_ids) {
        in.pooled = ac_input(g, "pooled", AC_F32, ac_dims(2, B, n->unet->pooled));
        in.time_ids = ac_input(g, "time_ids", AC_F32, ac_dims(2, B, 6));
    }
    return in;
}

int ac_stage_unet_plain(const ac_nets *n, const ac_stage_size *z, ac_stage *s)
{
    ac_unet_in in;
    ac_net m;
    int rc;

    AC_TRY(begin(n, AC_UNET, s, &m));
    in = unet_inputs(n, s->g, z->batch, z);
    in.x = ac_input(s->g, "x", AC_F32, ac_dims(4, z->batch, z->h, z->w, n->unet->in_channels));
    ac_set_output(s->g, "out", ac_unet(&m, n->unet, &in));
    rc = finish(n, z, s);
out:
    return rc;
}

/* c[k] x */
static ac_id times(ac_graph *g, ac_id coef, int k, ac_id x)
{
    return ac_mul(g, x, ac_slice(g, coef, 0, k, 1));
}

/* One step of a sampler (diff/sampler.h) around the network, with classifier-free guidance u + s (c - u) when asked. */
int ac_stage_unet(const ac_nets *n, const ac_stage_size *z, ac_stage *s)
{
    int B = z->batch, C = n->unet->in_channels;
    ac_shape latent = ac_dims(4, B, z->h, z->w, C);
    ac_id x, prev, noise, coef, out, x0, next;
    ac_unet_in in;
    ac_graph *g;
    ac_net m;
    int rc;

    AC_TRY(begin(n, AC_UNET, s, &m));
    g = s->g;
    x = ac_input(g, "x", AC_F32, latent);
    prev = ac_input(g, "prev", AC_F32, latent);
    noise = ac_input(g, "noise", AC_F32, latent);
    coef = ac_input(g, "coef", AC_F32, ac_dims(1, AC_COEFS));
    in = unet_inputs(n, g, z->guided ? 2 * B : B, z);
    in.x = times(g, coef, AC_COEF_IN, x);
    if (z->guided)
        in.x = ac_concat(g, in.x, in.x, 0);
    out = ac_unet(&m, n->unet, &in);
    if (z->guided) {
        ac_id u = ac_slice(g, out, 0, 0, B), c = ac_slice(g, out, 0, B, B);
        out = ac_add(g, u, times(g, coef, AC_COEF_CFG, ac_sub(g, c, u)));
    }
    x0 = ac_add(g, times(g, coef, AC_COEF_AX, x), times(g, coef, AC_COEF_AOUT, out));
    next = ac_add(g, times(g, coef, AC_COEF_CX, x), times(g, coef, AC_COEF_CX0, x0));
    next = ac_add(g, next, times(g, coef, AC_COEF_CPREV, prev));
    next = ac_add(g, next, times(g, coef, AC_COEF_CNOISE, noise));
    ac_set_output(g, "x0", x0);
    ac_set_output(g, "x_next", next);
    rc = finish(n, z, s);
out:
    return rc;
}

int ac_stage_decode(const ac_nets *n, const ac_stage_size *z, ac_stage *s)
{
    ac_net m;
    ac_id v;
    int rc;

    AC_TRY(begin(n, n->taesd ? AC_TAESD : AC_VAE, s, &m));
    v = ac_input(s->g, "z", AC_F32, ac_dims(4, z->batch, z->h, z->w, n->taesd ? n->taesd->latent : n->vae->latent));
    if (n->taesd)
        v = ac_taesd_decode(&m, n->taesd, ac_scale(s->g, v, 1 / n->taesd->scaling, 0));
    else
        v = ac_vae_decode(&m, n->vae, ac_scale(s->g, v, 1 / n->vae->scaling, n->vae->shift));
    ac_set_output(s->g, "image", v);
    rc = finish(n, z, s);
out:
    return rc;
}

int ac_stage_encode(const ac_nets *n, const ac_stage_size *z, ac_stage *s)
{
    int f = ac_latent_factor(n);
    ac_net m;
    ac_id image;
    int rc;

    AC_TRY(begin(n, n->taesd ? AC_TAESD : AC_VAE, s, &m));
    image = ac_input(s->g, "image", AC_F32, ac_dims(4, z->batch, z->h * f, z->w * f, 3));
    ac_set_output(s->g, "moments", n->taesd ? ac_taesd_encode(&m, n->taesd, image) : ac_vae_encode(&m, n->vae, image));
    rc = finish(n, z, s);
out:
    return rc;
}

int ac_stage_check(const ac_nets *n, ac_part_id id, const ac_stage_size *z, int64_t *params)
{
    ac_nets one = *n;
    ac_stage s = {0};
    int rc = 0;

    if (id == AC_VAE)
        one.taesd = NULL;
    if (id == AC_UNET)
        rc = ac_stage_unet_plain(&one, z, &s);
    else if (id == AC_TEXT || id == AC_TEXT_2)
        rc = ac_stage_text(&one, id - AC_TEXT, false, true, z, &s);
    else
        rc = ac_stage_decode(&one, z, &s);
    *params += s.w.params;
    ac_stage_free(&s);
    if (rc == 0 && (id == AC_VAE || id == AC_TAESD)) {
        rc = ac_stage_encode(&one, z, &s);
        *params += s.w.params;
        ac_stage_free(&s);
    }
    return rc;
}
