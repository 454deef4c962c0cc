/* api_eval.c - metrics of sets of pictures through the public interface. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "diff/metrics.h"
#include "eval/eval.h"
#include "io/folder.h"
#include "io/grid.h"
#include "io/report.h"
#include "io/runlog.h"

enum { SHEET = 32, SHEET_COLUMNS = 8 }; /* pictures of a sheet */

/* What a row points to. */
typedef struct owned {
    char *name;
    double *spectrum;
    ac_lines captions; /* of the pictures on the row's sheet, as far as they have any */
} owned;

struct addcl_evaluation {
    AC_VEC(addcl_eval_row) rows;
    AC_VEC(owned) owned; /* of each */
};

/* A model that encodes and decodes pictures. */
typedef struct mirror {
    addcl_model *model;
    ac_stage encode, decode;
    float *image, *moments;
} mirror;

/* What is measured of one set. */
typedef struct measured {
    ac_feature_set features;
    float *rows; /* of features */
    double cosines, psnr, ssim;
    size_t n_cosines, n_pairs;
    float *sheet; /* the first pictures */
    owned owned;  /* until a row takes it over */
} measured;

typedef struct eval {
    addcl_ctx *ctx;
    ac_diag *dg;
    const addcl_eval_opts *o;
    ac_eval_tower features, clip;
    ac_eval_set reference;
    measured real;
    int side, rings;
    bool spectra; /* clFFT can take pictures of this size */
    addcl_evaluation *out;
} eval;

static void owned_free(owned *o)
{
    free(o->name);
    free(o->spectrum);
    ac_lines_free(&o->captions);
}

/* ------------------------------------------------------------------------------------------ a batch */

typedef struct batch {
    uint8_t *rgb, *other;  /* [B,side,side,3]; of the reference, where pairs are compared */
    char **caption;        /* [B] */
    float *luma, *power;   /* [B,side,side] */
    float *embeddings[2];  /* of pictures and captions */
    size_t n;
} batch;

static void forget_captions(batch *b)
{
    for (size_t i = 0; b->caption && i < b->n; i++) {
        free(b->caption[i]);
        b->caption[i] = NULL;
    }
}

static void batch_free(batch *b)
{
    forget_captions(b);
    free(b->rgb);
    free(b->other);
    free(b->caption);
    free(b->luma);
    free(b->power);
    free(b->embeddings[0]);
    free(b->embeddings[1]);
}

static int batch_open(const eval *e, batch *b)
{
    size_t B = (size_t)e->o->batch_size, pixels = (size_t)e->side * (size_t)e->side, D = AC_MAX(e->clip.D, (size_t)1);

    *b = (batch){.rgb = ac_calloc(B * pixels, 3),
                 .other = ac_calloc(B * pixels, 3),
                 .caption = ac_calloc(B, sizeof *b->caption),
                 .luma = ac_calloc(B * pixels, sizeof(float)),
                 .power = ac_calloc(B * pixels, sizeof(float)),
                 .embeddings = {ac_calloc(B * D, sizeof(float)), ac_calloc(B * D, sizeof(float))}};
    return b->rgb && b->other && b->caption && b->luma && b->power && b->embeddings[0] && b->embeddings[1] ? 0
                                                                                                           : ac_nomem(e->dg, B * pixels * 14);
}

/* ------------------------------------------------------------------------------------------ measuring */

/* Adds the mean power of the batch's pictures over rings. */
static int add_spectra(const eval *e, const batch *b, measured *m)
{
    size_t pixels = (size_t)e->side * (size_t)e->side;
    double *ring = ac_calloc((size_t)e->rings, sizeof *ring);
    int rc = ring ? 0 : ac_nomem(e->dg, (size_t)e->rings * sizeof *ring);

    AC_TRY(rc);
    for (size_t i = 0; i < b->n * pixels; i++)
        b->luma[i] = ac_luma(b->rgb + 3 * i);
    AC_TRY(ac_dev_power(e->ctx->dev, b->luma, (int)b->n, e->side, e->side, b->power));
    for (size_t i = 0; i < b->n; i++) {
        AC_TRY(ac_rings(b->power + i * pixels, e->side, e->side, e->dg, ring));
        for (int r = 0; r < e->rings; r++)
            m->owned.spectrum[r] += ring[r];
    }
out:
    free(ring);
    return rc;
}

/* Adds the cosines of pictures and captions, as far as there are captions. */
static int add_cosines(eval *e, const batch *b, measured *m)
{
    size_t D = e->clip.D;
    ac_feature_set image = {b->embeddings[0], b->n, D}, text = {b->embeddings[1], b->n, D};
    int rc;

    for (size_t i = 0; i < b->n; i++)
        if (!b->caption[i])
            return 0;
    AC_TRY(ac_eval_tower_images(&e->clip, b->rgb, b->n, e->side, e->dg, NULL, b->embeddings[0]));
    AC_TRY(ac_eval_tower_texts(&e->clip, b->caption, b->n, e->dg, b->embeddings[1]));
    m->cosines += ac_mean_cosine(&image, &text) * (double)b->n;
    m->n_cosines += b->n;
out:
    return rc;
}

static int add_pairs(const eval *e, const batch *b, measured *m)
{
    size_t bytes = (size_t)e->side * (size_t)e->side * 3;
    int rc = 0;

    for (size_t i = 0; i < b->n; i++) {
        const uint8_t *x = b->rgb + i * bytes, *y = b->other + i * bytes;
        double ssim;
        AC_TRY(ac_ssim(x, y, e->side, e->side, 3, e->dg, &ssim));
        m->psnr += fmin(ac_psnr(ac_mse(x, y, bytes)), 100); /* equal pictures would make the mean infinite */
        m->ssim += ssim;
        m->n_pairs++;
    }
out:
    return rc;
}

static int keep_sheet(const eval *e, const batch *b, size_t first, measured *m)
{
    size_t values = (size_t)e->side * (size_t)e->side * 3;
    int rc = 0;

    for (size_t i = 0; i < b->n && first + i < SHEET; i++) {
        for (size_t k = 0; k < values; k++)
            m->sheet[(first + i) * values + k] = b->rgb[i * values + k] / 127.5f - 1;
        if (b->caption[i] && m->owned.captions.n == first + i)
            AC_TRY(ac_lines_add(&m->owned.captions, b->caption[i], strlen(b->caption[i]), e->dg));
    }
out:
    return rc;
}

/* Pictures through the autoencoder, in place. */
static int reconstruct(const eval *e, mirror *v, batch *b)
{
    const addcl_model *m = v->model;
    ac_nets n = ac_model_nets(m);
    size_t side = (size_t)e->side, f = (size_t)ac_latent_factor(&n), C = (size_t)(n.taesd ? n.taesd->latent : n.vae->latent), values = side * side * 3,
           small = side / f * (side / f);
    bool moments = !n.taesd;
    double scaling = moments ? n.vae->scaling : 1, shift = moments ? n.vae->shift : 0;
    int rc = 0;

    for (size_t i = 0; i < b->n; i++) {
        uint8_t *rgb = b->rgb + i * values;
        for (size_t k = 0; k < values; k++)
            v->image[k] = rgb[k] / 127.5f - 1;
        AC_TRY(ac_feed(v->encode.x, "image", v->image, values * sizeof *v->image));
        AC_TRY(ac_run(v->encode.x));
        AC_TRY(ac_fetch(v->encode.x, "moments", v->moments, small * C * (moments ? 2 : 1) * sizeof *v->moments));
        for (size_t p = 0; p < small && moments; p++) /* the means, as the UNet has them */
            for (size_t c = 0; c < C; c++)
                v->moments[p * C + c] = (float)(((double)v->moments[2 * p * C + c] - shift) * scaling);
        AC_TRY(ac_feed(v->decode.x, "z", v->moments, small * C * sizeof *v->moments));
        AC_TRY(ac_run(v->decode.x));
        AC_TRY(ac_fetch(v->decode.x, "image", v->image, values * sizeof *v->image));
        for (size_t k = 0; k < values; k++)
            rgb[k] = (uint8_t)lrintf(fminf(fmaxf(v->image[k], -1), 1) * 127.5f + 127.5f);
    }
out:
    return rc;
}

/* Reads pictures first .. first+n-1 of a set, and beside them what they are compared with. v: of the reference, through a model. */
static int load(eval *e, const ac_eval_set *s, mirror *v, size_t first, bool paired, batch *b)
{
    size_t bytes = (size_t)e->side * (size_t)e->side * 3, at;
    int rc = 0;

    b->n = AC_MIN((size_t)e->o->batch_size, s->n - first);
    for (size_t i = 0; i < b->n; i++) {
        AC_TRY(ac_eval_set_get(s, first + i, e->dg, b->rgb + i * bytes, &b->caption[i]));
        if (paired && !v) {
            AC_TRY(ac_eval_set_match(&e->reference, s, first + i, e->dg, &at));
            AC_TRY(ac_eval_set_get(&e->reference, at, e->dg, b->other + i * bytes, NULL));
        }
    }
    if (v) {
        memcpy(b->other, b->rgb, b->n * bytes);
        rc = reconstruct(e, v, b);
    }
out:
    return rc;
}

static void measured_free(measured *m)
{
    free(m->rows);
    free(m->sheet);
    owned_free(&m->owned);
    *m = (measured){0};
}

static int measured_open(const eval *e, size_t n, measured *m)
{
    size_t d = AC_MAX(e->features.d, (size_t)1);

    *m = (measured){.rows = ac_calloc(n * d, sizeof(float)),
                    .owned.spectrum = ac_calloc((size_t)e->rings, sizeof(double)),
                    .sheet = ac_calloc((size_t)SHEET * (size_t)e->side * (size_t)e->side * 3, sizeof(float))};
    m->features = (ac_feature_set){m->rows, n, d};
    return m->rows && m->owned.spectrum && m->sheet ? 0 : ac_nomem(e->dg, n * d * sizeof(float));
}

/* All of a set. paired: beside the reference. */
static int measure(eval *e, const char *name, const ac_eval_set *s, mirror *v, bool paired, measured *m)
{
    double start = ac_now();
    batch b;
    int rc;

    AC_TRY(batch_open(e, &b));
    AC_TRY(measured_open(e, s->n, m));
    for (size_t first = 0; first < s->n; first += b.n) {
        AC_TRY(load(e, s, v, first, paired, &b));
        if (e->features.d)
            AC_TRY(ac_eval_tower_images(&e->features, b.rgb, b.n, e->side, e->dg, m->rows + first * e->features.d, NULL));
        if (e->clip.D)
            AC_TRY(add_cosines(e, &b, m));
        if (paired)
            AC_TRY(add_pairs(e, &b, m));
        if (e->spectra)
            AC_TRY(add_spectra(e, &b, m));
        AC_TRY(keep_sheet(e, &b, first, m));
        forget_captions(&b);
        AC_TRY(ac_progress(e->ctx, name, (int64_t)(first + b.n), (int64_t)s->n, ac_now() - start, 0, 1));
    }
    for (int r = 0; r < e->rings; r++)
        m->owned.spectrum[r] /= (double)s->n;
out:
    batch_free(&b);
    return rc;
}

/* ------------------------------------------------------------------------------------------ scores */

static int score(const eval *e, const measured *m, bool against, addcl_eval_row *row)
{
    const ac_feature_set *real = &e->real.features, *fake = &m->features;
    int rc = 0;

    row->fid = row->kid = row->kid_deviation = row->precision = row->recall = NAN;
    row->clip_score = m->n_cosines ? m->cosines / (double)m->n_cosines : NAN;
    row->psnr = m->n_pairs ? m->psnr / (double)m->n_pairs : NAN;
    row->ssim = m->n_pairs ? m->ssim / (double)m->n_pairs : NAN;
    if (!against || !e->features.d)
        return 0;
    AC_TRY(ac_frechet(real, fake, e->dg, &row->fid));
    AC_TRY(ac_kid(real, fake, (uint64_t)e->o->seed, e->dg, &row->kid, &row->kid_deviation));
    rc = ac_precision_recall(real, fake, e->o->neighbours, e->dg, &row->precision, &row->recall);
out:
    return rc;
}

static int save_sheet(const eval *e, const measured *m, size_t n)
{
    char *path;
    int rc;

    if (!e->o->output)
        return 0;
    if (!(path = ac_printf("%s/sheet-%zu.png", e->o->output, e->out->rows.n)))
        return ac_nomem(e->dg, strlen(e->o->output) + 32);
    rc = ac_grid_png(path, m->sheet, AC_MIN(n, (size_t)SHEET), e->side, e->side, SHEET_COLUMNS, e->dg);
    free(path);
    return rc;
}

/* Adds the row of what was measured; against: beside the reference. */
static int add_row(eval *e, const char *name, size_t n, bool against, measured *m)
{
    addcl_eval_row row = {.pictures = n, .rings = e->spectra ? e->rings : 0};
    int rc;

    AC_TRY(score(e, m, against, &row));
    AC_TRY(save_sheet(e, m, n));
    row.name = m->owned.name = ac_strdup(name);
    row.spectrum = m->owned.spectrum;
    if (!row.name || !AC_RESERVE(&e->out->owned, e->out->rows.n + 1) || !AC_PUSH(&e->out->rows, row)) {
        rc = ac_nomem(e->dg, strlen(name) + 1);
        goto out;
    }
    e->out->owned.p[e->out->owned.n++] = m->owned;
    m->owned = (owned){0};
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ what is measured */

static ac_eval_set_opts set_opts(const eval *e, bool real)
{
    return (ac_eval_set_opts){.side = e->side ? e->side : e->o->resolution, .count = e->o->count, .seed = (uint64_t)e->o->seed, .caption = e->o->caption,
                              .caption_values = e->o->caption_values, .filter = real ? e->o->filter : NULL};
}

static int measure_reference(eval *e)
{
    int rc;

    AC_TRY(measure(e, e->o->reference, &e->reference, NULL, false, &e->real));
    rc = add_row(e, e->o->reference, e->reference.n, false, &e->real);
out:
    return rc;
}

static int measure_set(eval *e, const char *path)
{
    ac_eval_set_opts o = set_opts(e, false);
    bool against = e->o->reference != NULL, paired = against && e->o->pairs;
    ac_eval_set s = {0};
    measured m = {0};
    int rc;

    if (paired)
        o.count = 0; /* the pictures that the reference has, not others drawn by chance */
    AC_TRY(ac_eval_set_open(path, &o, e->dg, &s));
    if (e->clip.D && !s.prompts && !s.captions)
        ac_note(e->dg, ADDCL_LOG_WARN, "%s: the pictures tell no prompt, and no caption was given: no CLIP score", path);
    AC_TRY(measure(e, path, &s, NULL, paired, &m));
    rc = add_row(e, path, s.n, against, &m);
out:
    measured_free(&m);
    ac_eval_set_close(&s);
    return rc;
}

static void mirror_close(mirror *v)
{
    ac_stage_free(&v->encode);
    ac_stage_free(&v->decode);
    free(v->image);
    free(v->moments);
    addcl_model_free(v->model);
    *v = (mirror){0};
}

static int mirror_open(eval *e, const char *path, mirror *v)
{
    const ac_model_from from = {.training = true}; /* only the autoencoder need be there */
    addcl_model_opts o = ADDCL_MODEL_OPTS_INIT;
    ac_stage_size z = {.batch = 1};
    ac_nets n;
    int f, rc;

    o.path = path;
    o.type = ADDCL_F32;
    AC_TRY(ac_model_open(e->ctx, &o, &from, &v->model));
    n = ac_model_nets(v->model);
    if (!n.vae && !n.taesd) {
        rc = ac_fail(e->dg, ADDCL_E_ARG, "%s has no autoencoder", path);
        goto out;
    }
    f = ac_latent_factor(&n);
    if (e->side % f) {
        rc = ac_fail(e->dg, ADDCL_E_ARG, "pictures of %d pixels do not divide into latents of %d: choose a multiple as resolution", e->side, f);
        goto out;
    }
    z.h = z.w = e->side / f;
    AC_TRY(ac_stage_encode(&n, &z, &v->encode));
    AC_TRY(ac_stage_decode(&n, &z, &v->decode));
    v->image = ac_calloc((size_t)e->side * (size_t)e->side * 3, sizeof *v->image);
    v->moments = ac_calloc((size_t)z.h * (size_t)z.w * 2 * (size_t)(n.taesd ? n.taesd->latent : n.vae->latent), sizeof *v->moments);
    if (!v->image || !v->moments)
        rc = ac_nomem(e->dg, (size_t)e->side * (size_t)e->side * 12);
out:
    return rc;
}

static int measure_autoencoder(eval *e, const char *path)
{
    mirror v = {0};
    measured m = {0};
    int rc;

    AC_TRY(mirror_open(e, path, &v));
    AC_TRY(measure(e, path, &e->reference, &v, true, &m));
    rc = add_row(e, path, e->reference.n, true, &m);
out:
    measured_free(&m);
    mirror_close(&v);
    return rc;
}

/* ------------------------------------------------------------------------------------------ what is written */

static json_t *row_json(addcl_eval_row *r)
{
    json_t *o = ac_eval_json(r), *spectrum = json_array();

    for (int k = 0; k < r->rings; k++)
        json_array_append_new(spectrum, json_real(r->spectrum[k]));
    json_object_set_new(o, "spectrum", spectrum);
    json_object_set_new(o, "set", json_string(r->name));
    json_object_set_new(o, "pictures", json_integer((json_int_t)r->pictures));
    return o;
}

static int save_json(const eval *e)
{
    const addcl_eval_opts *o = e->o;
    json_t *rows = json_array(), *j;
    char *text;
    int rc;

    for (size_t i = 0; i < e->out->rows.n; i++)
        json_array_append_new(rows, row_json(&e->out->rows.p[i]));
    j = json_pack("{s:s?, s:s?, s:s?, s:i, s:I, s:I, s:i, s:o}", "reference", o->reference, "features", o->features, "clip", o->clip, "resolution", e->side,
                  "count", (json_int_t)o->count, "seed", (json_int_t)o->seed, "neighbours", o->neighbours, "rows", rows);
    text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
    rc = text ? ac_file_save_text(o->output, "eval.json", text, e->dg) : ac_nomem(e->dg, 1);
    free(text);
    json_decref(j);
    return rc;
}

enum { MEASURED = 2, COLUMNS = MEASURED + AC_MEASURES - 1, CURVES = AC_CHART_SERIES - 1 }; /* name, number, measures */

/* The table's cell in new memory; r NULL: of its head. */
static char *cell(addcl_eval_row *r, int column)
{
    int k = column - MEASURED;
    char text[96];

    if (!r)
        return ac_strdup(column == 0 ? "set" : column == 1 ? "pictures" : ac_eval_measures[k].head);
    if (column == 0)
        return ac_strdup(r->name);
    if (column == 1)
        return ac_printf("%zu", r->pictures);
    ac_eval_cell(k, *ac_eval_value(r, k), !strcmp(ac_eval_measures[k].name, "kid") ? r->kid_deviation : NAN, text, sizeof text);
    return ac_strdup(text);
}

/* Spectra as curves over waves a side: column 0 "step", then a set each. The mean brightness (0 waves) is left out. */
static int make_curves(const eval *e, const char **name, ac_table *t)
{
    size_t n = e->out->rows.n;

    *t = (ac_table){.columns = n + 1, .rows = (size_t)e->rings - 1};
    t->value = ac_calloc(t->rows * t->columns, sizeof *t->value);
    t->column = ac_calloc(t->columns, sizeof *t->column);
    if (!t->value || !t->column)
        return ac_nomem(e->dg, t->rows * t->columns * sizeof *t->value);
    for (size_t c = 0; c <= n; c++) {
        name[c] = c ? e->out->rows.p[c - 1].name : "step";
        if (!(t->column[c] = ac_printf(c ? "%zu" : "step", c)))
            return ac_nomem(e->dg, 24);
        for (size_t r = 0; r < t->rows; r++)
            t->value[r * t->columns + c] = c ? e->out->rows.p[c - 1].spectrum[r + 1] : (double)(r + 1);
    }
    return 0;
}

/* Charts of the first row beside the next CURVES ones, and so on. */
static size_t make_charts(const eval *e, const char *const *name, const ac_table *t, ac_report_chart *chart)
{
    size_t n = e->out->rows.n, charts = 0;

    for (size_t first = 1; e->spectra && (first < n || charts == 0); first += CURVES) {
        ac_report_chart *c = &chart[charts++];
        *c = (ac_report_chart){.title = "Power spectrum", .unit = "mean power over waves a side", .column = {t->column[1]}, .label = {name[1]}};
        for (size_t k = 0; k < CURVES && first + k < n; k++) {
            c->column[k + 1] = t->column[first + k + 1];
            c->label[k + 1] = name[first + k + 1];
        }
    }
    return charts;
}

static int save_page(const eval *e)
{
    const addcl_eval_opts *o = e->o;
    size_t n = e->out->rows.n, cells = (n + 1) * COLUMNS;
    char **text = ac_calloc(cells + n, sizeof *text), side[32], seed[48], *path = ac_path_join(o->output, "eval.html");
    const char **name = ac_calloc(n + 1, sizeof *name), *fact[][2] = {{"reference", o->reference ? o->reference : "none"},
                                                                     {"features of", o->features ? o->features : "none"},
                                                                     {"CLIP score by", o->clip ? o->clip : "none"},
                                                                     {"pictures", side},
                                                                     {"seed", seed}};
    ac_eval_sheet *sheet = ac_calloc(n, sizeof *sheet);
    ac_report_chart *chart = ac_calloc(n + 1, sizeof *chart);
    ac_table curves = {0};
    ac_eval_page p = {.title = "Evaluation", .fact = (const char *const (*)[2])fact, .n_facts = AC_LEN(fact), .cell = (const char *const *)text, .rows = n + 1,
                      .columns = COLUMNS, .chart = chart, .curves = &curves, .sheet = sheet, .n_sheets = n,
                      .sheet_columns = SHEET_COLUMNS};
    int rc = text && path && name && sheet && chart ? 0 : ac_nomem(e->dg, cells * sizeof *text);

    AC_TRY(rc);
    snprintf(side, sizeof side, "%d x %d pixels", e->side, e->side);
    snprintf(seed, sizeof seed, "%lld", (long long)o->seed);
    for (size_t i = 0; i < cells; i++)
        if (!(text[i] = cell(i < COLUMNS ? NULL : &e->out->rows.p[i / COLUMNS - 1], (int)(i % COLUMNS))))
            AC_TRY(ac_nomem(e->dg, 64));
    for (size_t i = 0; i < n; i++) {
        if (!(text[cells + i] = ac_printf("%s/sheet-%zu.png", o->output, i)))
            AC_TRY(ac_nomem(e->dg, 64));
        sheet[i] = (ac_eval_sheet){.heading = e->out->rows.p[i].name, .path = text[cells + i], .caption = (const char *const *)e->out->owned.p[i].captions.p,
                                   .n_captions = e->out->owned.p[i].captions.n};
    }
    if (e->spectra)
        AC_TRY(make_curves(e, name, &curves));
    p.n_charts = make_charts(e, name, &curves, chart);
    rc = ac_eval_page_write(path, &p, e->dg);
out:
    for (size_t i = 0; text && i < cells + n; i++)
        free(text[i]);
    free(text);
    free(path);
    free(name);
    free(sheet);
    free(chart);
    ac_table_free(&curves);
    return rc;
}

/* ------------------------------------------------------------------------------------------ all of it */

static int check(const eval *e)
{
    const addcl_eval_opts *o = e->o;

    if (!o->n_sets && !o->n_autoencoders && !o->reference)
        return ac_fail(e->dg, ADDCL_E_ARG, "there are no pictures to measure");
    if (o->n_autoencoders && !o->reference)
        return ac_fail(e->dg, ADDCL_E_ARG, "an autoencoder needs reference pictures to reconstruct");
    if (o->pairs && !o->reference)
        return ac_fail(e->dg, ADDCL_E_ARG, "pairs need reference pictures");
    if (o->batch_size < 1 || o->neighbours < 1 || o->resolution < 0)
        return ac_fail(e->dg, ADDCL_E_ARG, "batch size %d, %d neighbours, resolution %d: expected at least 1, 1 and 0", o->batch_size, o->neighbours,
                       o->resolution);
    return 0;
}

/* Opens the reference, or looks into the first set, for the size of the pictures. */
static int find_side(eval *e)
{
    ac_eval_set_opts o = set_opts(e, true);
    ac_eval_set first = {0};
    int rc;

    if (e->o->reference) {
        AC_TRY(ac_eval_set_open(e->o->reference, &o, e->dg, &e->reference));
        e->side = e->reference.side;
    } else {
        AC_TRY(ac_eval_set_open(e->o->sets[0], &o, e->dg, &first));
        e->side = first.side;
    }
    e->rings = e->side / 2 + 1;
    e->spectra = ac_dev_power_takes(e->side) && e->rings > 1;
    if (!e->spectra)
        ac_note(e->dg, ADDCL_LOG_WARN, "pictures of %d pixels: clFFT transforms sides without prime factors above 13: no spectra", e->side);
out:
    ac_eval_set_close(&first);
    return rc;
}

/* A set that cannot be read is told before the others have cost time. */
static int look_at_sets(const eval *e)
{
    ac_eval_set_opts o = set_opts(e, false);
    int rc = 0;

    for (size_t i = 0; i < e->o->n_sets && rc == 0; i++) {
        ac_eval_set s = {0};
        rc = ac_eval_set_open(e->o->sets[i], &o, e->dg, &s);
        ac_eval_set_close(&s);
    }
    return rc;
}

/* Sets of unlike size do not compare. */
static void note_counts(const eval *e)
{
    const addcl_eval_row *r = e->out->rows.p;
    size_t first = e->o->reference ? 1 : 0;

    for (size_t i = first + 1; i < e->out->rows.n; i++)
        if (r[i].pictures != r[first].pictures) {
            ac_note(e->dg, ADDCL_LOG_WARN, "%s has %zu pictures and %s %zu: their distances do not compare; choose one count", r[first].name,
                    r[first].pictures, r[i].name, r[i].pictures);
            return;
        }
}

static int run(eval *e)
{
    const addcl_eval_opts *o = e->o;
    int rc;

    AC_TRY(check(e));
    AC_TRY(find_side(e));
    AC_TRY(look_at_sets(e));
    if (o->output)
        AC_TRY(ac_folder_make(o->output, e->dg));
    if (o->features)
        AC_TRY(ac_eval_tower_open(e->ctx, o->features, false, o->batch_size, &e->features));
    if (o->clip)
        AC_TRY(ac_eval_tower_open(e->ctx, o->clip, true, o->batch_size, &e->clip));
    if (o->reference)
        AC_TRY(measure_reference(e));
    for (size_t i = 0; i < o->n_sets; i++)
        AC_TRY(measure_set(e, o->sets[i]));
    for (size_t i = 0; i < o->n_autoencoders; i++)
        AC_TRY(measure_autoencoder(e, o->autoencoders[i]));
    note_counts(e);
    if (o->output) {
        AC_TRY(save_json(e));
        rc = save_page(e);
    }
out:
    return rc;
}

int addcl_eval(addcl_ctx *ctx, const addcl_eval_opts *opts, addcl_evaluation **out)
{
    eval e = {.ctx = ctx, .dg = ac_begin(ctx), .o = opts};
    int rc;

    *out = NULL;
    AC_TRY(ac_need_device(ctx));
    if (!(e.out = ac_calloc(1, sizeof *e.out))) {
        rc = ac_nomem(e.dg, sizeof *e.out);
        goto out;
    }
    AC_TRY(run(&e));
    *out = e.out;
    e.out = NULL;
out:
    ac_eval_tower_close(&e.features);
    ac_eval_tower_close(&e.clip);
    ac_eval_set_close(&e.reference);
    measured_free(&e.real);
    addcl_evaluation_free(e.out);
    return rc;
}

const addcl_eval_row *addcl_evaluation_rows(const addcl_evaluation *e, size_t *n)
{
    *n = e->rows.n;
    return e->rows.p;
}

void addcl_evaluation_free(addcl_evaluation *e)
{
    if (!e)
        return;
    for (size_t i = 0; i < e->owned.n; i++)
        owned_free(&e->owned.p[i]);
    free(e->rows.p);
    free(e->owned.p);
    free(e);
}
