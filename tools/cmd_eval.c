/* cmd_eval.c - add-cl eval: how far generated pictures are from real ones. */
#include "tool.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct eval_args {
    const char *reference, *features, *clip, *caption, *caption_values, *filter, *output;
    text_list autoencoders;
    bool pairs, json;
    int64_t count, seed, resolution, neighbours, batch_size;
    common_args common;
} eval_args;

#define ROW(...) OPT_ROW(eval_args, __VA_ARGS__)

static const opt_def rows[] = {
    {.kind = OPT_GROUP, .help = "Pictures"},
    ROW(OPT_TEXT, "reference", 'r', reference, "SET", "real pictures that the others are compared with"),
    ROW(OPT_TEXTS, "autoencoder", 0, autoencoders, "MODEL",
        "measure the reference pictures as this model's autoencoder reconstructs them; may be repeated"),
    ROW(OPT_FLAG, "pairs", 0, pairs, NULL, "compare pictures of the same name: PSNR and SSIM"),
    ROW(OPT_INT, "count", 'n', count, "N", "pictures of every set, drawn by the seed; 0: all", RANGE(0, 1e9), DEFAULT("0")),
    ROW(OPT_INT, "seed", 's', seed, "N", "start of the random numbers", RANGE(0, 9e15), DEFAULT("0")),
    ROW(OPT_INT, "resolution", 0, resolution, "PIXELS", "side that pictures are brought to; 0: that of the first reference picture", RANGE(0, 16384),
        DEFAULT("0")),
    ROW(OPT_TEXT, "filter", 0, filter, "FIELD=PATTERN,...", "reference pictures that count, by their fields", SHOWN("all")),

    {.kind = OPT_GROUP, .help = "Measures"},
    ROW(OPT_TEXT, "features", 'f', features, "DIR",
        "image transformer (DINOv2, CLIP's image tower, or what 'method = clip' trains) for FID, KID, precision and recall", SHOWN("none: these are not measured")),
    ROW(OPT_TEXT, "clip", 'c', clip, "DIR", "folder with image_encoder, text_encoder and tokenizer for the CLIP score", SHOWN("none")),
    ROW(OPT_TEXT, "caption", 0, caption, "TEMPLATE",
        "captions of pictures that were not made by add-cl, from their fields, as in training: '{label}, {style}'", SHOWN("none")),
    ROW(OPT_TEXT, "caption-values", 0, caption_values, "FIELD=VALUE:TEXT,...", "how values of fields are written in captions"),
    ROW(OPT_INT, "neighbours", 'k', neighbours, "K", "of precision and recall", RANGE(1, 1000), DEFAULT("3")),

    {.kind = OPT_GROUP, .help = "Running"},
    ROW(OPT_TEXT, "output", 'o', output, "DIR", "write eval.html (table, spectra, sheets of pictures) and eval.json there"),
    ROW(OPT_FLAG, "json", 0, json, NULL, "print one JSON line a set instead of a table"),
    ROW(OPT_INT, "batch-size", 'b', batch_size, "N", "pictures that go through the networks together", RANGE(1, 4096), DEFAULT("32")),
    ROW_DEVICE(eval_args),
    ROW_PROGRESS(eval_args),
    ROWS_REPORT(eval_args),
};

/* ------------------------------------------------------------------------------------------------ printing */

enum { COLUMNS = 7 };

static const char *const head[COLUMNS] = {"FID", "KID x1000", "precision", "recall", "CLIP", "PSNR dB", "SSIM"};

/* The text of a measure; "-": it was not taken. */
static void put_cell(const addcl_eval_row *r, int column, char *buf, size_t size)
{
    const double v[COLUMNS] = {r->fid, r->kid * 1e3, r->precision, r->recall, r->clip_score, r->psnr, r->ssim};

    if (isnan(v[column]))
        snprintf(buf, size, "-");
    else if (column == 1)
        snprintf(buf, size, "%.3f (%.3f)", v[1], r->kid_deviation * 1e3);
    else
        snprintf(buf, size, column == 0 || column == 5 ? "%.2f" : "%.4f", v[column]);
}

/* Columns that no set has are left out. */
static void print_table(const addcl_eval_row *row, size_t n)
{
    bool shown[COLUMNS] = {false};
    size_t width = 3;
    char buf[64];

    for (size_t i = 0; i < n; i++) {
        width = strlen(row[i].name) > width ? strlen(row[i].name) : width;
        for (int c = 0; c < COLUMNS; c++) {
            put_cell(&row[i], c, buf, sizeof buf);
            shown[c] |= strcmp(buf, "-") != 0;
        }
    }
    printf("%-*s  %8s", (int)width, "set", "pictures");
    for (int c = 0; c < COLUMNS; c++)
        if (shown[c])
            printf("  %*s", c == 1 ? 17 : 9, head[c]);
    putchar('\n');
    for (size_t i = 0; i < n; i++) {
        put_text(stdout, row[i].name);
        printf("%*s  %8zu", (int)(width - strlen(row[i].name)), "", row[i].pictures);
        for (int c = 0; c < COLUMNS; c++)
            if (shown[c]) {
                put_cell(&row[i], c, buf, sizeof buf);
                printf("  %*s", c == 1 ? 17 : 9, buf);
            }
        putchar('\n');
    }
}

static void print_json(const addcl_eval_row *r)
{
    put_json(stdout, json_pack("{s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "set", json_text(r->name), "pictures", (json_int_t)r->pictures, "fid",
                               json_number(r->fid), "kid", json_number(r->kid), "kid_deviation", json_number(r->kid_deviation), "precision",
                               json_number(r->precision), "recall", json_number(r->recall), "clip_score", json_number(r->clip_score), "psnr",
                               json_number(r->psnr), "ssim", json_number(r->ssim)));
}

/* ------------------------------------------------------------------------------------------------ running */

static int eval(tool *t, const cmd_line *l, const void *args)
{
    const eval_args *a = args;
    addcl_eval_opts o = ADDCL_EVAL_OPTS_INIT;
    const addcl_eval_row *row;
    addcl_evaluation *e;
    size_t n;
    int code, rc;

    if (l->n_operands == 0 && !a->reference)
        return usage_error(&cmd_eval, "no pictures to measure");
    if (!a->reference && (a->pairs || a->autoencoders.n))
        return usage_error(&cmd_eval, "%s needs a --reference", a->pairs ? "--pairs" : "--autoencoder");
    if ((code = tool_open_device(t, a->common.device)) != TOOL_OK)
        return code;
    o.sets = (const char *const *)l->operands;
    o.n_sets = (size_t)l->n_operands;
    o.autoencoders = a->autoencoders.p;
    o.n_autoencoders = a->autoencoders.n;
    o.reference = a->reference;
    o.features = a->features;
    o.clip = a->clip;
    o.caption = a->caption;
    o.caption_values = a->caption_values;
    o.filter = a->filter;
    o.output = a->output;
    o.count = (size_t)a->count;
    o.seed = a->seed;
    o.resolution = (int)a->resolution;
    o.neighbours = (int)a->neighbours;
    o.pairs = a->pairs;
    o.batch_size = (int)a->batch_size;
    if (!a->features && !a->clip && !a->pairs && !a->autoencoders.n)
        report_say(&t->report, ADDCL_LOG_WARN, "without --features, --clip, --pairs or --autoencoder only spectra are measured");
    rc = addcl_eval(t->ctx, &o, &e);
    report_clear(&t->report);
    if (rc < 0)
        return tool_fail_model(t, rc);
    row = addcl_evaluation_rows(e, &n);
    if (!a->json)
        print_table(row, n);
    for (size_t i = 0; a->json && i < n; i++)
        print_json(&row[i]);
    addcl_evaluation_free(e);
    return tool_flush(&t->report) ? TOOL_OK : TOOL_FAILED;
}

static int run(int argc, char **argv)
{
    eval_args a = {0};

    return tool_run(&cmd_eval, argc, argv, &a, &a.common, eval);
}

const cmd_def cmd_eval = {
    .name = "eval",
    .summary = "Measures generated pictures against real ones",
    .usage = "[OPTION]... SET...",
    .max_operands = -1,
    .details = "A SET is a folder of pictures (with metadata.jsonl, side-cars, or what 'add-cl sample' wrote) or a tar shard. FID and KID are the Frechet and "
               "the kernel distance of the features from those of the reference; they compare between sets of as many pictures and the same "
               "--features only. Take a network that no discriminator has seen in training.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
