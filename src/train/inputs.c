/* inputs.c - latents and text states for training, each computed once. */
#include "train/inputs.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/sha256.h"

enum { MEMO_BYTES = 1 << 30 };

void ac_part_hash(const addcl_model *m, ac_part_id id, char hex[65])
{
    const ac_layout *l = m->part[id].layout;
    uint8_t digest[32];
    ac_sha256 s;

    ac_sha256_init(&s);
    for (size_t i = 0; l && i < l->n; i++) {
        const ac_source *t = &l->src[i];
        if (strcmp(t->part, m->part[id].name))
            continue;
        ac_sha256_update(&s, t->name, strlen(t->name) + 1);
        ac_sha256_update(&s, t->t->data, (size_t)t->t->bytes);
    }
    ac_sha256_final(&s, digest);
    ac_sha256_text(digest, hex);
}

int ac_memo_open(ac_training *r, const char *kind, const char *network, size_t n, ac_memo **out)
{
    const char *base = r->cfg->data.cache_dir;
    char *dir = NULL;
    int rc = 0;

    if (r->cfg->data.cache_latents && !r->plan_only &&
        !(dir = *base ? ac_path_join(base, kind) : ac_printf("%s/cache/%s", r->cfg->run.output_dir, kind)))
        return ac_nomem(r->dg, 1);
    AC_TRY(ac_memo_new(dir, network, n, MEMO_BYTES, r->dg, out));
out:
    free(dir);
    return rc;
}

/* ------------------------------------------------------------------------------------------ latents */

int ac_latents_open(ac_training *r, int B, ac_latents *l)
{
    const addcl_model *m = r->model;
    ac_nets n = ac_model_nets(m);
    int side = (int)r->cfg->data.resolution, f = ac_latent_factor(&n), rc;
    char hash[65];

    memset(l, 0, sizeof *l);
    if (side % f)
        return ac_fail(r->dg, ADDCL_E_ARG, "pictures of %d pixels do not divide into latents of %d: choose a multiple of %d for data.resolution", side,
                       f, f);
    l->r = r;
    l->B = B;
    l->h = l->w = side / f;
    l->C = n.taesd ? n.taesd->latent : n.vae->latent;
    l->n = (size_t)l->h * (size_t)l->w * (size_t)l->C;
    l->image = ac_calloc((size_t)B * (size_t)side * (size_t)side * 3, sizeof *l->image);
    l->moments = ac_calloc((size_t)B * l->n * 2, sizeof *l->moments);
    if (!l->image || !l->moments) {
        rc = ac_nomem(r->dg, (size_t)B * (size_t)side * (size_t)side * 12);
        goto out;
    }
    ac_part_hash(m, n.taesd ? AC_TAESD : AC_VAE, hash);
    AC_TRY(ac_memo_open(r, "latents", hash, l->n, &l->memo));
out:
    if (rc < 0)
        ac_latents_close(l);
    return rc;
}

void ac_latents_close(ac_latents *l)
{
    ac_stage_free(&l->stage);
    ac_memo_free(l->memo);
    free(l->image);
    free(l->moments);
    memset(l, 0, sizeof *l);
}

static int open_encoder(ac_latents *l)
{
    ac_nets n = ac_model_nets(l->r->model);
    ac_stage_size z = {.batch = l->B, .h = l->h, .w = l->w};

    n.type = AC_F32; /* latents are data: as exact as the encoder is */
    return l->stage.x ? 0 : ac_stage_encode(&n, &z, &l->stage);
}

/* Runs the encoder on `n` pictures in l->image; latents of picture k go to to[k]. */
static int encode(ac_latents *l, int n, float *const *to)
{
    const addcl_model *m = l->r->model;
    bool tiny = m->part[AC_TAESD].present;
    size_t side = (size_t)l->r->cfg->data.resolution, C = (size_t)l->C, wide = tiny ? C : 2 * C;
    int rc;

    AC_TRY(open_encoder(l));
    AC_TRY(ac_feed(l->stage.x, "image", l->image, (size_t)l->B * side * side * 3 * sizeof(float)));
    AC_TRY(ac_run(l->stage.x));
    AC_TRY(ac_fetch(l->stage.x, "moments", l->moments, (size_t)l->B * l->n / C * wide * sizeof(float)));
    for (int k = 0; k < n; k++)
        for (size_t p = 0; p < l->n / C; p++)
            for (size_t c = 0; c < C; c++) {
                double v = (double)l->moments[((size_t)k * (l->n / C) + p) * wide + c];
                to[k][p * C + c] = (float)(tiny ? v : (v - m->vae.shift) * m->vae.scaling);
            }
out:
    return rc;
}

int ac_latents_get(ac_latents *l, const ac_batch *b, float *out)
{
    size_t pixels = (size_t)l->r->cfg->data.resolution * (size_t)l->r->cfg->data.resolution * 3, missing = 0;
    size_t *which = ac_calloc(b->n, sizeof *which);
    float **to = ac_calloc(b->n, sizeof *to);
    char how[96];
    int rc = 0;

    if (!which || !to) {
        rc = ac_nomem(l->r->dg, b->n * sizeof *to);
        goto out;
    }
    for (size_t i = 0; i < b->n; i++) {
        ac_data_view_key(l->r->data, &b->sample[i].view, how);
        if (ac_memo_get(l->memo, b->sample[i].hash, 32, how, out + i * l->n))
            continue;
        memcpy(l->image + missing * pixels, b->image + i * pixels, pixels * sizeof(float));
        to[missing] = out + i * l->n;
        which[missing++] = i;
    }
    if (missing)
        AC_TRY(encode(l, (int)missing, to));
    for (size_t k = 0; k < missing; k++) {
        const ac_sample *s = &b->sample[which[k]];
        ac_data_view_key(l->r->data, &s->view, how);
        AC_TRY(ac_memo_put(l->memo, s->hash, 32, how, to[k]));
    }
out:
    free(which);
    free(to);
    return rc;
}

/* ------------------------------------------------------------------------------------------ text */

static int token_ids(ac_training *r, int encoder, const char *caption, int n, int32_t *ids)
{
    return ac_bpe_row(r->model->bpe[encoder], caption, n, r->model->pad[encoder], ids, NULL, r->dg);
}

int ac_caption_ids(ac_training *r, const char *caption, int n, int32_t *ids)
{
    return token_ids(r, 0, caption, n, ids);
}

int ac_states_open(ac_training *r, int T, ac_states *s)
{
    const addcl_model *m = r->model;
    char hash[2][65] = {"", ""}, both[160];
    int rc;

    *s = (ac_states){.r = r, .T = T, .context = m->unet.context, .pooled = m->unet.pooled};
    s->n = (size_t)T * (size_t)s->context + (size_t)s->pooled;
    for (int e = 0; e < 2; e++)
        if (m->part[AC_TEXT + e].present)
            ac_part_hash(m, AC_TEXT + e, hash[e]);
    snprintf(both, sizeof both, "%s%s %d", hash[0], hash[1], T);
    AC_TRY(ac_memo_open(r, "text", both, s->n, &s->memo));
out:
    return rc;
}

void ac_states_close(ac_states *s)
{
    ac_stage_free(&s->stage[0]);
    ac_stage_free(&s->stage[1]);
    ac_memo_free(s->memo);
    memset(s, 0, sizeof *s);
}

/* States of encoder e into columns at.. of states. */
static int run_encoder(ac_states *s, int e, const char *caption, int at, float *states, float *pooled)
{
    const addcl_model *m = s->r->model;
    ac_stage_size z = {.batch = 1, .tokens = s->T};
    ac_nets n = ac_model_nets(m);
    int width = m->clip[e].width, rc;
    int32_t *ids = ac_calloc((size_t)s->T, sizeof *ids), eos;
    float *y = ac_calloc((size_t)s->T * (size_t)width, sizeof *y);

    if (!ids || !y) {
        rc = ac_nomem(s->r->dg, (size_t)s->T * (size_t)width * sizeof *y);
        goto out;
    }
    if (!s->stage[e].x)
        AC_TRY(ac_stage_text(&n, e, m->unet.time_ids != 0, e == 1, &z, &s->stage[e]));
    AC_TRY(token_ids(s->r, e, caption, s->T, ids));
    eos = ac_clip_eos(&m->clip[e], ids, s->T);
    AC_TRY(ac_feed(s->stage[e].x, "ids", ids, (size_t)s->T * sizeof *ids));
    AC_TRY(ac_feed(s->stage[e].x, "eos", &eos, sizeof eos));
    AC_TRY(ac_run(s->stage[e].x));
    AC_TRY(ac_fetch(s->stage[e].x, "states", y, (size_t)s->T * (size_t)width * sizeof *y));
    for (int t = 0; t < s->T; t++)
        memcpy(states + (size_t)t * (size_t)s->context + at, y + (size_t)t * (size_t)width, (size_t)width * sizeof *y);
    if (e == 1)
        AC_TRY(ac_fetch(s->stage[e].x, "pooled", pooled, (size_t)s->pooled * sizeof *pooled));
out:
    free(ids);
    free(y);
    return rc;
}

int ac_states_get(ac_states *s, const char *caption, float *states, float *pooled)
{
    const addcl_model *m = s->r->model;
    size_t n = (size_t)s->T * (size_t)s->context;
    float *all = ac_calloc(s->n, sizeof *all);
    int rc = 0;

    if (!all)
        return ac_nomem(s->r->dg, s->n * sizeof *all);
    if (!ac_memo_get(s->memo, caption, strlen(caption), "", all)) {
        for (int e = 0; e < 2; e++)
            if (m->part[AC_TEXT + e].present)
                AC_TRY(run_encoder(s, e, caption, e ? m->clip[0].width : 0, all, all + n));
        AC_TRY(ac_memo_put(s->memo, caption, strlen(caption), "", all));
    }
    memcpy(states, all, n * sizeof *all);
    if (pooled)
        memcpy(pooled, all + n, (size_t)s->pooled * sizeof *all);
out:
    free(all);
    return rc;
}
