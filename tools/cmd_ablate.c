/* cmd_ablate.c - add-cl ablate: a table of trainings that differ in some keys. */
#include "tool.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct ablate_args {
    common_args common;
} ablate_args;

static const opt_def rows[] = {
    ROW_DEVICE(ablate_args),
    ROW_PROGRESS(ablate_args),
    ROWS_REPORT(ablate_args),
};

static void on_report(void *user, const addcl_train_report *p)
{
    tool *t = user;
    char line[160], left[24];

    snprintf(line, sizeof line, "step %lld/%lld  loss %.4g  %.3g img/s  %s left", (long long)p->step, (long long)p->max_steps, p->loss, p->images_per_second,
             text_seconds(p->eta_seconds, left));
    if (t->report.progress == PROGRESS_BAR)
        report_status(&t->report, line);
    else if (t->report.progress != PROGRESS_NONE || p->step == p->max_steps)
        report_say(&t->report, ADDCL_LOG_INFO, "%s", line);
}

static int on_stop(void *user)
{
    (void)user;
    return caught_signal();
}

/* "12.30 +- 0.41" */
static void put_cell(double mean, double spread, double factor, int digits)
{
    char cell[64] = "-", around[32];

    if (isfinite(mean))
        snprintf(cell, sizeof cell, "%.*f", digits, mean * factor);
    if (isfinite(mean) && isfinite(spread)) {
        snprintf(around, sizeof around, "%.*f", digits, spread * factor);
        strncat(cell, " +- ", sizeof cell - strlen(cell) - 1);
        strncat(cell, around, sizeof cell - strlen(cell) - 1);
    }
    printf("  %18s", cell);
}

static void print_tables(const addcl_ablate_row *r, size_t n)
{
    size_t width = 3;

    for (size_t i = 0; i < n; i++)
        width = strlen(r[i].name) > width ? strlen(r[i].name) : width;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || strcmp(r[i].table, r[i - 1].table) != 0) {
            printf("%s%s\n", i ? "\n" : "", r[i].table);
            printf("%-*s  %5s  %18s  %18s  %18s  %18s  %18s\n", (int)width, "row", "seeds", "FID", "KID x1000", "precision", "recall", "CLIP");
        }
        put_text(stdout, r[i].name);
        printf("%*s  %5d", (int)(width - strlen(r[i].name)), "", r[i].seeds);
        put_cell(r[i].mean.fid, r[i].spread.fid, 1, 2);
        put_cell(r[i].mean.kid, r[i].spread.kid, 1e3, 3);
        put_cell(r[i].mean.precision, r[i].spread.precision, 1, 3);
        put_cell(r[i].mean.recall, r[i].spread.recall, 1, 3);
        put_cell(r[i].mean.clip_score, r[i].spread.clip_score, 1, 4);
        putchar('\n');
    }
}

static int ablate(tool *t, const cmd_line *l, const void *args)
{
    const ablate_args *a = args;
    const addcl_ablate_opts o = {.report = on_report, .stop = on_stop, .user = t};
    addcl_ablation *all = NULL;
    const addcl_ablate_row *row;
    size_t n;
    int code, rc;

    if (l->n_operands == 0)
        return usage_error(&cmd_ablate, "no INI file");
    if ((code = tool_open_device(t, a->common.device)) != TOOL_OK)
        return code;
    rc = addcl_ablate(t->ctx, l->operands[0], &o, &all);
    report_clear(&t->report);
    if (rc < 0)
        code = tool_fail_model(t, rc);
    if (all) {
        row = addcl_ablation_rows(all, &n);
        print_tables(row, n);
        addcl_ablation_free(all);
    }
    return tool_flush(&t->report) ? code : TOOL_FAILED;
}

static int run(int argc, char **argv)
{
    ablate_args a = {0};

    return tool_run(&cmd_ablate, argc, argv, &a, &a.common, ablate);
}

const cmd_def cmd_ablate = {
    .name = "ablate",
    .summary = "Trains and measures a table of variations",
    .usage = "[OPTION]... ABLATION.INI",
    .max_operands = 1,
    .details = "The INI file names a training, tables of what to change in it, and seeds. Every row is trained, sampled and evaluated with every "
               "seed; the result is each table with means and deviations, here and as ablation.md in the output folder. What is done is "
               "not done again: the same command goes on after an interruption, or when rows were added.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
