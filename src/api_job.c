/* api_job.c - the stages of a run: text, denoising, decoding. Each network is on the device only while it works. */
#include "api_sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/image.h"

void ac_to_nhwc(float *dst, const float *src, int n, int C, int h, int w)
{
    int64_t P = (int64_t)h * w;

    for (int64_t b = 0; b < n; b++)
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < C; c++)
                dst[(b * P + p) * C + c] = src[(b * C + c) * P + p];
}

void ac_to_nchw(float *dst, const float *src, int n, int C, int h, int w)
{
    int64_t P = (int64_t)h * w;

    for (int64_t b = 0; b < n; b++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t p = 0; p < P; p++)
                dst[(b * C + c) * P + p] = src[(b * P + p) * C + c];
}

/* ------------------------------------------------------------------------------------------ text */

/* Index of a text among the distinct ones. */
static int intern(ac_job *r, const char *s)
{
    for (size_t i = 0; i < r->n_texts; i++)
        if (!strcmp(r->texts[i], s))
            return (int)i;
    r->texts[r->n_texts] = s;
    return (int)r->n_texts++;
}

static int collect_texts(ac_job *r)
{
    const addcl_sample_opts *o = r->c.o;
    size_t n = o->n_prompts + 1;

    r->texts = ac_calloc(n, sizeof *r->texts);
    r->text = ac_calloc(n, sizeof *r->text);
    r->prompt_of = ac_calloc(n, sizeof *r->prompt_of);
    if (!r->texts || !r->text || !r->prompt_of)
        return ac_nomem(&r->ctx->dg, n * sizeof *r->text);
    intern(r, o->negative_prompt ? o->negative_prompt : "");
    for (size_t i = 0; i < o->n_prompts; i++)
        r->prompt_of[i] = intern(r, o->prompts[i]);
    return 0;
}

/* One text through encoder e: its states into columns [at, at + width) of the text's states. */
static int encode(ac_job *r, int e, size_t k, ac_exec *x, int at)
{
    const addcl_model *m = r->m;
    int T = m->clip[0].positions, width = m->clip[e].width, context = m->unet.context;
    ac_text *t = &r->text[k];
    float *states = NULL;
    int32_t ids[1024], eos;
    size_t kept;
    int rc;

    if (T > (int)AC_LEN(ids))
        return ac_fail(&r->ctx->dg, ADDCL_E_UNSUPPORTED, "a text encoder of %d positions", T);
    AC_TRY(ac_bpe_row(m->bpe[e], r->texts[k], T, m->pad[e], ids, &kept, &r->ctx->dg));
    if (e == 0 && kept < strlen(r->texts[k]))
        ac_note(&r->ctx->dg, ADDCL_LOG_WARN, "the prompt is longer than %d tokens; dropped: \"%s\"", T - 2, r->texts[k] + kept);
    eos = ac_clip_eos(&m->clip[e], ids, T);
    if (!(states = ac_calloc((size_t)T * (size_t)width, sizeof *states))) {
        rc = ac_nomem(&r->ctx->dg, (size_t)T * (size_t)width * sizeof *states);
        goto out;
    }
    AC_TRY(ac_feed(x, "ids", ids, (size_t)T * sizeof *ids));
    AC_TRY(ac_feed(x, "eos", &eos, sizeof eos));
    AC_TRY(ac_run(x));
    AC_TRY(ac_fetch(x, "states", states, (size_t)T * (size_t)width * sizeof *states));
    for (int i = 0; i < T; i++)
        memcpy(t->states + (size_t)i * (size_t)context + at, states + (size_t)i * (size_t)width, (size_t)width * sizeof *states);
    if (e == 1)
        AC_TRY(ac_fetch(x, "pooled", t->pooled, (size_t)m->unet.pooled * sizeof(float)));
out:
    free(states);
    return rc;
}

/* Text 0 is the negative prompt: used by guidance, or because a prompt is the same text. */
static bool negative_needed(const ac_job *r)
{
    for (size_t i = 0; i < r->c.o->n_prompts; i++)
        if (r->prompt_of[i] == 0)
            return true;
    return r->c.guided;
}

int ac_job_text(ac_job *r)
{
    const addcl_model *m = r->m;
    bool xl = m->unet.time_ids != 0;
    ac_stage_size z = {.batch = 1, .tokens = m->clip[0].positions};
    double t0 = ac_now(), load;
    ac_stage s = {0};
    int rc;

    AC_TRY(collect_texts(r));
    for (size_t k = 0; k < r->n_texts; k++) {
        r->text[k].states = ac_calloc((size_t)m->clip[0].positions * (size_t)m->unet.context, sizeof(float));
        r->text[k].pooled = ac_calloc((size_t)AC_MAX(m->unet.pooled, 1), sizeof(float));
        if (!r->text[k].states || !r->text[k].pooled) {
            rc = ac_nomem(&r->ctx->dg, (size_t)m->unet.context * sizeof(float));
            goto out;
        }
    }
    for (int e = 0; e < 2; e++) {
        if (!m->part[AC_TEXT + e].present)
            continue;
        load = ac_now();
        AC_TRY(ac_progress(r->ctx, "load", 0, 1, 0, 0, r->c.count));
        AC_TRY(ac_stage_text(&r->nets, e, xl, e == 1, &z, &s));
        r->r.load_s += ac_now() - load;
        t0 += ac_now() - load;
        for (size_t k = 0; k < r->n_texts; k++) {
            if (k == 0 && !negative_needed(r))
                continue;
            AC_TRY(encode(r, e, k, s.x, e ? m->clip[0].width : 0));
            AC_TRY(ac_progress(r->ctx, "text", (int64_t)k + 1, (int64_t)r->n_texts, ac_now() - t0, 0, r->c.count));
        }
        ac_stage_free(&s);
    }
    r->r.text_s = ac_now() - t0;
out:
    ac_stage_free(&s);
    return rc;
}

/* ------------------------------------------------------------------------------------------ denoising */

typedef struct batch {
    int first, n;    /* images first .. first + n - 1; a last short batch repeats its last image */
    ac_rng *rng;     /* one generator an image */
    float *nchw, *nhwc, *noise; /* scratch and values of the batch */
} batch;

static size_t latent_size(const ac_job *r)
{
    return (size_t)r->c.h * (size_t)r->c.w * (size_t)r->m->unet.in_channels;
}

/* Unit noise of every image of the batch, [B,h,w,C], from its own generator. */
static void draw(const ac_job *r, const batch *b, float *out)
{
    size_t n = latent_size(r);

    for (int i = 0; i < r->c.batch; i++)
        if (i < b->n)
            ac_rng_randn(&b->rng[i], b->nchw + (size_t)i * n, n);
        else
            memcpy(b->nchw + (size_t)i * n, b->nchw + (size_t)(b->n - 1) * n, n * sizeof(float));
    ac_to_nhwc(out, b->nchw, r->c.batch, r->m->unet.in_channels, r->c.h, r->c.w);
}

/* The first latent: scaled noise, or the encoded image with noise on it. */
static void first_latent(const ac_job *r, const batch *b, const float *encoded, float *x)
{
    const ac_sampler *s = r->c.sampler;
    size_t n = latent_size(r);
    float *unit = b->noise;

    for (int i = 0; i < b->n; i++)
        ac_rng_init(&b->rng[i], r->c.rng, (uint64_t)(r->c.seed + b->first + i));
    if (encoded) { /* diffusers samples the posterior from the same generator first */
        draw(r, b, unit);
        for (int i = 0; i < r->c.batch; i++)
            for (size_t k = 0; k < n; k++)
                x[(size_t)i * n + k] = encoded[k] + encoded[n + k] * unit[(size_t)i * n + k];
    }
    if (r->c.o->noise) {
        for (int i = 0; i < r->c.batch; i++)
            ac_to_nhwc(unit + (size_t)i * n, r->c.o->noise + (size_t)(b->first + AC_MIN(i, b->n - 1)) * n, 1, r->m->unet.in_channels, r->c.h,
                       r->c.w);
    } else {
        draw(r, b, unit);
    }
    for (size_t k = 0; k < n * (size_t)r->c.batch; k++)
        x[k] = encoded ? (float)(s->k_x * (double)x[k] + s->k_noise * (double)unit[k]) : (float)(s->init_sigma * (double)unit[k]);
}

/* Text states and XL's conditions of the batch: with guidance first the negative halves. */
static int feed_conditions(ac_job *r, const batch *b, ac_exec *x)
{
    const ac_unet_cfg *u = &r->m->unet;
    int halves = r->c.guided ? 2 : 1, B = halves * r->c.batch, T = r->m->clip[0].positions;
    size_t nc = (size_t)T * (size_t)u->context, np = (size_t)u->pooled;
    float *ctx = ac_calloc((size_t)B * nc, sizeof *ctx), *pooled = ac_calloc((size_t)B * AC_MAX(np, (size_t)1), sizeof *pooled);
    float ids[6] = {(float)r->c.height, (float)r->c.width, 0, 0, (float)r->c.height, (float)r->c.width}, *all = ac_calloc((size_t)B, sizeof ids);
    int rc = 0;

    if (!ctx || !pooled || !all) {
        rc = ac_nomem(&r->ctx->dg, (size_t)B * nc * sizeof *ctx);
        goto out;
    }
    for (int i = 0; i < B; i++) {
        int image = b->first + AC_MIN(i % r->c.batch, b->n - 1);
        bool negative = r->c.guided && i < r->c.batch;
        const ac_text *t = &r->text[negative ? 0 : r->prompt_of[(size_t)image % r->c.o->n_prompts]];
        memcpy(all + 6 * i, ids, sizeof ids);
        if (negative && r->m->zero_empty && !*r->texts[0])
            continue; /* left zero */
        memcpy(ctx + (size_t)i * nc, t->states, nc * sizeof *ctx);
        memcpy(pooled + (size_t)i * np, t->pooled, np * sizeof *pooled);
    }
    AC_TRY(ac_feed(x, "ctx", ctx, (size_t)B * nc * sizeof *ctx));
    if (u->time_ids) {
        AC_TRY(ac_feed(x, "pooled", pooled, (size_t)B * np * sizeof *pooled));
        AC_TRY(ac_feed(x, "time_ids", all, (size_t)B * sizeof ids));
    }
out:
    free(ctx);
    free(pooled);
    free(all);
    return rc;
}

static int feed_step(ac_job *r, const ac_step *st, ac_exec *x)
{
    int B = (r->c.guided ? 2 : 1) * r->c.batch, rc;
    float coef[AC_COEFS] = {[AC_COEF_IN] = (float)st->in_scale, [AC_COEF_AX] = (float)st->a_x, [AC_COEF_AOUT] = (float)st->a_out,
                            [AC_COEF_CX] = (float)st->c_x, [AC_COEF_CX0] = (float)st->c_x0, [AC_COEF_CPREV] = (float)st->c_prev,
                            [AC_COEF_CNOISE] = (float)st->c_noise, [AC_COEF_CFG] = (float)r->c.cfg};
    float t[512];

    for (int i = 0; i < B; i++)
        t[i] = (float)st->t;
    AC_TRY(ac_feed(x, "coef", coef, sizeof coef));
    AC_TRY(ac_feed(x, "t", t, (size_t)B * sizeof *t));
out:
    return rc;
}

/* All steps of one batch; its latents end in r->latents. */
static int denoise(ac_job *r, batch *b, ac_exec *x, const float *encoded, double *t0, int64_t *done)
{
    const ac_sampler *s = r->c.sampler;
    size_t n = latent_size(r), bytes = n * (size_t)r->c.batch * sizeof(float), shape[4];
    int64_t batches = AC_CEIL_DIV(r->c.count, r->c.batch), total = batches * (int64_t)(s->n - s->start);
    int rc;

    first_latent(r, b, encoded, b->nhwc);
    AC_TRY(ac_feed(x, "x", b->nhwc, bytes));
    memset(b->noise, 0, bytes);
    AC_TRY(ac_feed(x, "prev", b->noise, bytes));
    AC_TRY(ac_feed(x, "noise", b->noise, bytes));
    AC_TRY(feed_conditions(r, b, x));
    for (size_t k = s->start; k < s->n; k++) {
        if (s->step[k].wants_noise) {
            draw(r, b, b->noise);
            AC_TRY(ac_feed(x, "noise", b->noise, bytes));
        }
        AC_TRY(feed_step(r, &s->step[k], x));
        AC_TRY(ac_run(x));
        AC_TRY(ac_carry(x, "x_next", x, "x"));
        AC_TRY(ac_carry(x, "x0", x, "prev"));
        if (r->c.o->on_latents || k + 1 == s->n)
            AC_TRY(ac_fetch(x, "x_next", b->nhwc, bytes));
        else
            AC_TRY(ac_dev_finish(r->ctx->dev));
        if (r->c.o->on_latents) {
            shape[0] = (size_t)b->n;
            shape[1] = (size_t)r->m->unet.in_channels;
            shape[2] = (size_t)r->c.h;
            shape[3] = (size_t)r->c.w;
            ac_to_nchw(b->nchw, b->nhwc, b->n, r->m->unet.in_channels, r->c.h, r->c.w);
            r->c.o->on_latents(r->c.o->user, b->first, b->n, (int)k, b->nchw, shape);
        }
        AC_TRY(ac_progress(r->ctx, "sample", ++*done, total, ac_now() - *t0, b->first, r->c.count));
    }
    memcpy(r->latents + (size_t)b->first * n, b->nhwc, n * (size_t)b->n * sizeof(float));
out:
    return rc;
}

/* The initial image's posterior: mean and standard deviation, scaled, [2][h,w,C]. */
static int encode_image(ac_job *r, float **out)
{
    const addcl_image *img = r->c.o->init;
    size_t n = latent_size(r), pixels = (size_t)img->width * (size_t)img->height * 3;
    ac_stage_size z = {.batch = 1, .h = r->c.h, .w = r->c.w};
    float *v = ac_calloc(AC_MAX(pixels, 2 * n), sizeof *v);
    double scale = r->m->part[AC_TAESD].present ? r->m->taesd.scaling : r->m->vae.scaling;
    int C = r->m->unet.in_channels, rc;
    ac_stage s = {0};

    *out = ac_calloc(2 * n, sizeof **out);
    if (!v || !*out) {
        rc = ac_nomem(&r->ctx->dg, pixels * sizeof *v);
        goto out;
    }
    for (size_t i = 0; i < pixels; i++)
        v[i] = (float)img->rgb[i] / 127.5f - 1;
    AC_TRY(ac_stage_encode(&r->nets, &z, &s));
    AC_TRY(ac_feed(s.x, "image", v, pixels * sizeof *v));
    AC_TRY(ac_run(s.x));
    if (r->m->part[AC_TAESD].present) {
        AC_TRY(ac_fetch(s.x, "moments", v, n * sizeof *v));
        for (size_t i = 0; i < n; i++)
            (*out)[i] = (float)((double)v[i] * scale);
    } else {
        AC_TRY(ac_fetch(s.x, "moments", v, 2 * n * sizeof *v));
        for (size_t p = 0; p < n / (size_t)C; p++)
            for (size_t c = 0; c < (size_t)C; c++) {
                (*out)[p * (size_t)C + c] = (float)(((double)v[p * 2 * (size_t)C + c] - r->m->vae.shift) * scale);
                (*out)[n + p * (size_t)C + c] = (float)(exp(0.5 * (double)v[(p * 2 + 1) * (size_t)C + c]) * scale);
            }
    }
out:
    ac_stage_free(&s);
    free(v);
    return rc;
}

int ac_job_unet(ac_job *r)
{
    ac_stage_size z = {.batch = r->c.batch, .h = r->c.h, .w = r->c.w, .tokens = r->m->clip[0].positions, .guided = r->c.guided};
    size_t n = latent_size(r), all = n * (size_t)r->c.batch;
    batch b = {.rng = ac_calloc((size_t)r->c.batch, sizeof(ac_rng)), .nchw = ac_calloc(all, sizeof(float)), .nhwc = ac_calloc(all, sizeof(float)),
               .noise = ac_calloc(all, sizeof(float))};
    float *encoded = NULL;
    ac_stage s = {0};
    int64_t done = 0;
    double t0 = ac_now();
    int rc = 0;

    r->latents = ac_calloc(n * (size_t)r->c.count, sizeof(float));
    if (!b.rng || !b.nchw || !b.nhwc || !b.noise || !r->latents) {
        rc = ac_nomem(&r->ctx->dg, n * (size_t)r->c.count * sizeof(float));
        goto out;
    }
    if (r->c.o->init) {
        AC_TRY(ac_progress(r->ctx, "encode", 0, 1, 0, 0, r->c.count));
        AC_TRY(encode_image(r, &encoded));
    }
    AC_TRY(ac_progress(r->ctx, "load", 0, 1, 0, 0, r->c.count));
    AC_TRY(ac_stage_unet(&r->nets, &z, &s));
    r->r.load_s += ac_now() - t0;
    t0 = ac_now();
    for (b.first = 0; b.first < r->c.count; b.first += r->c.batch) {
        b.n = AC_MIN(r->c.batch, r->c.count - b.first);
        AC_TRY(denoise(r, &b, s.x, encoded, &t0, &done));
    }
    r->r.sample_s = ac_now() - t0;
out:
    ac_stage_free(&s);
    free(b.rng);
    free(b.nchw);
    free(b.nhwc);
    free(b.noise);
    free(encoded);
    return rc;
}

/* ------------------------------------------------------------------------------------------ decoding */

/* Weight of pixel i of a tile of n at `from` in a line of `whole`: ramps over the overlap towards neighbouring tiles. */
static float ramp(int i, int n, int from, int whole, int overlap)
{
    int left = from > 0 ? i + 1 : overlap + 1, right = from + n < whole ? n - i : overlap + 1;
    int d = AC_MIN(AC_MIN(left, right), overlap + 1);

    return (float)d / (float)(overlap + 1);
}

static int decode_tile(ac_job *r, ac_exec *x, const float *z, int ty, int tx, int th, int tw, float *tile)
{
    size_t C = (size_t)r->m->unet.in_channels, f = (size_t)r->m->info.factor;
    float *part = ac_calloc((size_t)th * (size_t)tw * C, sizeof *part);
    int rc;

    if (!part)
        return ac_nomem(&r->ctx->dg, (size_t)th * (size_t)tw * C * sizeof *part);
    for (int y = 0; y < th; y++)
        memcpy(part + (size_t)y * (size_t)tw * C, z + ((size_t)(ty + y) * (size_t)r->c.w + (size_t)tx) * C, (size_t)tw * C * sizeof *part);
    AC_TRY(ac_feed(x, "z", part, (size_t)th * (size_t)tw * C * sizeof *part));
    AC_TRY(ac_run(x));
    AC_TRY(ac_fetch(x, "image", tile, (size_t)th * (size_t)tw * f * f * 3 * sizeof *tile));
out:
    free(part);
    return rc;
}

/* One image, whole or from overlapping tiles blended with linear ramps, as f32 in -1..1. */
static int decode_image(ac_job *r, ac_exec *x, const float *z, float *image, float *tile)
{
    int f = r->m->info.factor, th = r->c.tile ? AC_MIN(r->c.tile, r->c.h) : r->c.h, tw = r->c.tile ? AC_MIN(r->c.tile, r->c.w) : r->c.w;
    int step = r->c.tile ? r->c.tile_step : AC_MAX(th, tw), overlap = r->c.tile ? (r->c.tile - step) * f : 0;
    size_t pixels = (size_t)r->c.width * (size_t)r->c.height;
    float *sum = NULL;
    int rc = 0;

    if (!r->c.tile)
        return decode_tile(r, x, z, 0, 0, th, tw, image);
    if (!(sum = ac_calloc(pixels, sizeof *sum)))
        return ac_nomem(&r->ctx->dg, pixels * sizeof *sum);
    memset(image, 0, pixels * 3 * sizeof *image);
    for (int ty = 0, last_y = 0; !last_y; ty += step) {
        int y0 = AC_MIN(ty, r->c.h - th);
        last_y = y0 + th >= r->c.h;
        for (int tx = 0, last_x = 0; !last_x; tx += step) {
            int x0 = AC_MIN(tx, r->c.w - tw);
            last_x = x0 + tw >= r->c.w;
            AC_TRY(decode_tile(r, x, z, y0, x0, th, tw, tile));
            for (int y = 0; y < th * f; y++)
                for (int k = 0; k < tw * f; k++) {
                    float w = ramp(y, th * f, y0 * f, r->c.height, overlap) * ramp(k, tw * f, x0 * f, r->c.width, overlap);
                    size_t at = (size_t)(y0 * f + y) * (size_t)r->c.width + (size_t)(x0 * f + k), from = (size_t)y * (size_t)(tw * f) + (size_t)k;
                    sum[at] += w;
                    for (size_t c = 0; c < 3; c++)
                        image[at * 3 + c] += w * tile[from * 3 + c];
                }
        }
    }
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < 3; c++)
            image[p * 3 + c] /= sum[p];
out:
    free(sum);
    return rc;
}

/* clamp(v / 2 + 0.5) to 8 bits, rounded half to even as NumPy does. */
static void to_rgb(const float *v, addcl_image *image)
{
    size_t n = (size_t)image->width * (size_t)image->height * 3;

    for (size_t i = 0; i < n; i++) {
        float u = v[i] / 2 + 0.5f;
        image->rgb[i] = (uint8_t)lrintf((u > 0 ? (u < 1 ? u : 1) : 0) * 255);
    }
}

int ac_job_decode(ac_job *r)
{
    int th = r->c.tile ? AC_MIN(r->c.tile, r->c.h) : r->c.h, tw = r->c.tile ? AC_MIN(r->c.tile, r->c.w) : r->c.w;
    ac_stage_size z = {.batch = 1, .h = th, .w = tw};
    size_t n = latent_size(r), pixels = (size_t)r->c.width * (size_t)r->c.height * 3;
    float *v = ac_calloc(pixels, sizeof *v), *tile = ac_calloc(r->c.tile ? pixels : 1, sizeof *tile);
    addcl_image *image = ac_image_new(r->c.width, r->c.height);
    ac_stage s = {0};
    double t0 = ac_now();
    int rc;

    if (!v || !tile || !image) {
        rc = ac_nomem(&r->ctx->dg, pixels * sizeof *v);
        goto out;
    }
    AC_TRY(ac_progress(r->ctx, "load", 0, 1, 0, 0, r->c.count));
    AC_TRY(ac_stage_decode(&r->nets, &z, &s));
    r->r.load_s += ac_now() - t0;
    t0 = ac_now();
    for (int i = 0; i < r->c.count; i++) {
        AC_TRY(decode_image(r, s.x, r->latents + (size_t)i * n, v, tile));
        for (size_t k = 0; k < pixels; k++)
            if (!isfinite(v[k])) {
                rc = ac_fail(&r->ctx->dg, ADDCL_E_DIVERGED, "image %d is not finite (pixel value %zu): ADDCL_CHECK=1 tells where it began", i, k);
                goto out;
            }
        to_rgb(v, image);
        r->r.decode_s = ac_now() - t0;
        if (r->c.o->on_image && r->c.o->on_image(r->c.o->user, i, image) != 0) {
            rc = ac_fail(&r->ctx->dg, ADDCL_E_CANCELLED, "cancelled");
            goto out;
        }
        AC_TRY(ac_progress(r->ctx, "decode", i + 1, r->c.count, ac_now() - t0, i, r->c.count));
    }
out:
    ac_stage_free(&s);
    ac_image_free(image);
    free(tile);
    free(v);
    return rc;
}
