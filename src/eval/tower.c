/* tower.c - features and embeddings of pictures and captions by frozen transformers. */
#include "eval/eval.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/image.h"

enum { IMAGE, TEXT };
enum { SIDE_MAX = 224 }; /* DINOv2's tables are for 518 pixels; its features are taken of 224 */

static int make_image(addcl_ctx *ctx, ac_eval_tower *t)
{
    ac_graph *g = t->graph[IMAGE] = ac_graph_new(&ctx->dg, AC_F32);
    ac_net m = {.g = g, .w = &t->weights[IMAGE]};
    ac_vit_out y;

    if (!g)
        return ac_nomem(&ctx->dg, sizeof *g);
    t->weights[IMAGE] = (ac_weights){.layout = t->image.layout, .part = "image_encoder", .dg = &ctx->dg};
    y = ac_vit(&m, &t->vit, ac_input(g, "image", AC_F32, ac_dims(4, t->B, t->side, t->side, 3)));
    ac_set_output(g, "features", y.pooled);
    if (t->vit.projection)
        ac_set_output(g, "embeddings", y.embeds);
    return ac_exec_new(ctx->dev, g, NULL, &t->x[IMAGE]);
}

static int make_text(addcl_ctx *ctx, ac_eval_tower *t)
{
    ac_graph *g = t->graph[TEXT] = ac_graph_new(&ctx->dg, AC_F32);
    ac_net m = {.g = g, .w = &t->weights[TEXT]};
    int T = t->clip.positions;
    ac_id ids, eos;

    if (!g)
        return ac_nomem(&ctx->dg, sizeof *g);
    t->weights[TEXT] = (ac_weights){.layout = t->text.layout, .part = "text_encoder", .dg = &ctx->dg};
    ids = ac_input(g, "ids", AC_I32, ac_dims(2, t->B, T));
    eos = ac_input(g, "eos", AC_I32, ac_dims(2, t->B, 1));
    ac_set_output(g, "embeddings", ac_clip_text(&m, &t->clip, ids, eos).pooled);
    return ac_exec_new(ctx->dev, g, NULL, &t->x[TEXT]);
}

static int open_text(addcl_ctx *ctx, const char *dir, ac_eval_tower *t)
{
    char *sub = ac_path_join(dir, "text_encoder"), *words = ac_path_join(dir, "tokenizer");
    ac_diag *dg = &ctx->dg;
    int rc = sub && words ? 0 : ac_nomem(dg, strlen(dir));

    AC_TRY(rc);
    AC_TRY(ac_part_open(dg, sub, "text_encoder", false, &t->text));
    AC_TRY(ac_clip_config(&t->text.json, &t->clip));
    AC_TRY(ac_bpe_open(words, dg, &t->bpe));
    if (!t->vit.projection || t->vit.projection != t->clip.projection) {
        rc = ac_fail(dg, ADDCL_E_ARG, "%s: pictures and captions are projected to %d and %d numbers: cosines need equal ones", dir,
                     t->vit.projection, t->clip.projection);
        goto out;
    }
    t->ids = ac_calloc((size_t)t->B * (size_t)t->clip.positions, sizeof *t->ids);
    t->eos = ac_calloc((size_t)t->B, sizeof *t->eos);
    rc = t->ids && t->eos ? make_text(ctx, t) : ac_nomem(dg, (size_t)t->B * (size_t)t->clip.positions * sizeof *t->ids);
out:
    free(sub);
    free(words);
    return rc;
}

int ac_eval_tower_open(addcl_ctx *ctx, const char *dir, bool with_text, int B, ac_eval_tower *t)
{
    int rc;

    *t = (ac_eval_tower){.B = B};
    AC_TRY(ac_image_tower_open(&ctx->dg, dir, &t->image, &t->vit));
    t->side = AC_MIN(t->vit.image_size, SIDE_MAX);
    t->d = (size_t)t->vit.width;
    t->D = (size_t)t->vit.projection;
    ac_vit_norm(&t->vit, t->mean, t->std);
    if (!(t->pixels = ac_calloc((size_t)B * (size_t)t->side * (size_t)t->side * 3, sizeof *t->pixels))) {
        rc = ac_nomem(&ctx->dg, (size_t)B * (size_t)t->side * (size_t)t->side * 12);
        goto out;
    }
    AC_TRY(make_image(ctx, t));
    if (with_text)
        rc = open_text(ctx, dir, t);
out:
    return rc;
}

void ac_eval_tower_close(ac_eval_tower *t)
{
    for (int k = 0; k < 2; k++) {
        ac_exec_free(t->x[k]);
        ac_graph_free(t->graph[k]);
        ac_weights_free(&t->weights[k]);
    }
    ac_part_close(&t->image);
    ac_part_close(&t->text);
    if (t->bpe)
        ac_bpe_close(t->bpe);
    free(t->pixels);
    free(t->ids);
    free(t->eos);
    *t = (ac_eval_tower){0};
}

/* ------------------------------------------------------------------------------------------ running */

/* A picture as the network wants it. */
static int put_picture(const ac_eval_tower *t, uint8_t *rgb, int side, ac_diag *dg, float *out)
{
    const addcl_image whole = {.width = side, .height = side, .rgb = rgb};
    addcl_image *fit = NULL;
    int rc = side != t->side ? ac_image_scale(&whole, t->side, t->side, dg, &fit) : 0;

    for (size_t i = 0; i < (size_t)t->side * (size_t)t->side * 3 && rc == 0; i++)
        out[i] = (float)(((fit ? fit->rgb[i] : rgb[i]) / 255.0 - t->mean[i % 3]) / t->std[i % 3]);
    ac_image_free(fit);
    return rc;
}

/* The first n rows of an output of B rows of d numbers. */
static int take(const ac_eval_tower *t, ac_exec *x, const char *name, size_t n, size_t d, ac_diag *dg, float *out)
{
    float *all = ac_calloc((size_t)t->B * d, sizeof *all);
    int rc = all ? ac_fetch(x, name, all, (size_t)t->B * d * sizeof *all) : ac_nomem(dg, (size_t)t->B * d * sizeof *all);

    if (rc == 0)
        memcpy(out, all, n * d * sizeof *all);
    free(all);
    return rc;
}

int ac_eval_tower_images(ac_eval_tower *t, uint8_t *rgb, size_t n, int side, ac_diag *dg, float *features, float *embeddings)
{
    size_t in = (size_t)side * (size_t)side * 3, out = (size_t)t->side * (size_t)t->side * 3;
    int rc;

    for (size_t i = 0; i < n; i++)
        AC_TRY(put_picture(t, rgb + i * in, side, dg, t->pixels + i * out));
    AC_TRY(ac_feed(t->x[IMAGE], "image", t->pixels, (size_t)t->B * out * sizeof *t->pixels));
    AC_TRY(ac_run(t->x[IMAGE]));
    if (features)
        AC_TRY(take(t, t->x[IMAGE], "features", n, t->d, dg, features));
    if (embeddings)
        AC_TRY(take(t, t->x[IMAGE], "embeddings", n, t->D, dg, embeddings));
out:
    return rc;
}

int ac_eval_tower_texts(ac_eval_tower *t, char *const *caption, size_t n, ac_diag *dg, float *embeddings)
{
    int T = t->clip.positions, rc;

    for (size_t i = 0; i < n; i++) {
        int32_t *ids = t->ids + i * (size_t)T;
        AC_TRY(ac_bpe_row(t->bpe, caption[i], T, ac_bpe_pad(t->bpe), ids, NULL, dg));
        t->eos[i] = (int32_t)i * T + ac_clip_eos(&t->clip, ids, T);
    }
    AC_TRY(ac_feed(t->x[TEXT], "ids", t->ids, (size_t)t->B * (size_t)T * sizeof *t->ids));
    AC_TRY(ac_feed(t->x[TEXT], "eos", t->eos, (size_t)t->B * sizeof *t->eos));
    AC_TRY(ac_run(t->x[TEXT]));
    rc = take(t, t->x[TEXT], "embeddings", n, t->D, dg, embeddings);
out:
    return rc;
}
