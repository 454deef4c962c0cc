/* cmd_train.c - add-cl train: trains a model as an INI file says. */
#include "gen_docs.h"
#include "tool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct train_args {
    text_list sets;
    bool print_config, list_keys, resume, dry_run, validate;
    common_args common;
} train_args;

#define ROW(...) OPT_ROW(train_args, __VA_ARGS__)

static const opt_def rows[] = {
    {.kind = OPT_GROUP, .help = "Configuration"},
    ROW(OPT_TEXTS, "set", 0, sets, "SECTION.KEY=VALUE",
        "set a key whatever the file says; may be repeated, the last one counts"),
    ROW(OPT_FLAG, "print-config", 0, print_config, NULL,
        "print the configuration that would run, every key explained, and end; without RUN.INI: a file to fill in"),
    ROW(OPT_FLAG, "list-keys", 0, list_keys, NULL, "explain all keys and end"),

    {.kind = OPT_GROUP, .help = "Running"},
    ROW(OPT_FLAG, "resume", 0, resume, NULL, "go on from the newest checkpoint of the run folder, if there is one"),
    ROW(OPT_FLAG, "dry-run", 0, dry_run, NULL, "tell the memory and time that the run would take; train nothing"),
    ROW(OPT_FLAG, "validate", 0, validate, NULL,
        "measure the model (with --resume the newest checkpoint) on held-out and training samples; train nothing"),
    ROW(OPT_TEXT, "device", 'd', common.device, "P:D|NAME|gpu|cpu|any", "device that computes, see 'add-cl devices'",
        SHOWN("that of the file, else $ADDCL_DEVICE, else the best usable one")),
    ROW(OPT_WORD, "progress", 0, common.progress, "auto|bar|json|none",
        "progress on standard error: one line that changes, JSON lines or nothing; auto: on a terminal a line that "
        "changes, else lines",
        DEFAULT("auto")),
    ROWS_REPORT(train_args),
};

/* A run. */
typedef struct job {
    tool tool;
    cmd_line cmdline;
    train_args args;
    addcl_training *training;
} job;

/* ------------------------------------------------------------------------------------------ configuration */

/* Adds what the options say to the overrides, and opens the configuration. 0 or the exit code. */
static int open_training(job *j)
{
    const train_args *a = &j->args;
    const char **set = calloc(a->sets.n + 1, sizeof *set);
    size_t n = a->sets.n;
    char device[256];
    int rc;

    if (!set)
        return tool_no_memory(&j->tool);
    if (n)
        memcpy(set, a->sets.p, n * sizeof *set);
    if (a->common.device) {
        snprintf(device, sizeof device, "run.device=%s", a->common.device);
        set[n++] = device;
    }
    rc = addcl_training_open(j->tool.ctx, j->cmdline.operands[0], set, n, &j->training);
    free(set);
    if (rc < 0)
        return tool_fail(&j->tool, rc);
    report_rank(&j->tool.report, addcl_training_rank(j->training, NULL));
    return TOOL_OK;
}

static int print_config(job *j)
{
    char *text = NULL;
    int rc = j->training ? addcl_training_text(j->training, &text) : addcl_train_template(j->tool.ctx, &text);

    if (rc < 0)
        return tool_fail(&j->tool, rc);
    fputs(text, stdout);
    free(text);
    return TOOL_OK;
}

/* ------------------------------------------------------------------------------------------------ progress */

static void put_json_report(const addcl_train_report *p)
{
    put_json(stderr,
             json_pack("{s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "event", "train", "step",
                       (json_int_t)p->step, "max_steps", (json_int_t)p->max_steps, "skipped", (json_int_t)p->skipped,
                       "loss", json_number(p->loss), "grad_norm", json_number(p->grad_norm), "learning_rate",
                       json_number(p->learning_rate), "images_per_second", json_number(p->images_per_second), "seconds",
                       json_number(p->seconds), "eta_seconds", json_number(p->eta_seconds), "held_out",
                       json_number(p->held_out)));
}

/* "step 120/4000  loss 0.2512  grad 0.83  lr 4.90e-04  88.1 img/s  12:03 left" */
static void text_report(const addcl_train_report *p, char *buf, size_t size)
{
    char left[24], held_out[48] = "", skipped[48] = "";

    if (!isnan(p->held_out))
        snprintf(held_out, sizeof held_out, "  held out %.4g", p->held_out);
    if (p->skipped > 0)
        snprintf(skipped, sizeof skipped, "  %lld skipped", (long long)p->skipped);
    snprintf(buf, size, "step %lld/%lld  loss %.4g  grad %.3g  lr %.2e  %.3g img/s  %s left%s%s", (long long)p->step,
             (long long)p->max_steps, p->loss, p->grad_norm, p->learning_rate, p->images_per_second,
             text_seconds(p->eta_seconds, left), held_out, skipped);
}

static void on_report(void *user, const addcl_train_report *p)
{
    job *j = user;
    report *r = &j->tool.report;
    char line[320];

    text_report(p, line, sizeof line);
    if (r->progress == PROGRESS_JSON)
        put_json_report(p);
    else if (r->progress == PROGRESS_BAR && p->step < p->max_steps)
        report_status(r, line);
    else if (strcmp(j->args.common.progress, "none") != 0)
        report_say(r, ADDCL_LOG_INFO, "%s", line);
}

static int on_stop(void *user)
{
    (void)user;
    return caught_signal();
}

/* ------------------------------------------------------------------------------------------------------- run */

static int check_args(const job *j)
{
    const train_args *a = &j->args;

    if (a->dry_run && a->validate)
        return usage_error(&cmd_train, "--dry-run and --validate exclude each other");
    if (j->cmdline.n_operands == 0 && !a->list_keys && !a->print_config)
        return usage_error(&cmd_train, "no INI file; 'add-cl train --print-config' prints one to fill in");
    if (j->cmdline.n_operands == 0 && (a->sets.n || a->common.device))
        return usage_error(&cmd_train, "there is no INI file to override keys of");
    return TOOL_OK;
}

/* Trains on the configuration's device. 0 or the exit code. */
static int start(job *j)
{
    const train_args *a = &j->args;
    const char *device = addcl_training_device(j->training);
    addcl_train_opts o = ADDCL_TRAIN_OPTS_INIT;
    int code = tool_open_device(&j->tool, *device ? device : NULL), rc;

    if (code)
        return code;
    o.mode = a->dry_run ? ADDCL_TRAIN_PLAN : a->validate ? ADDCL_TRAIN_VALIDATE : ADDCL_TRAIN_RUN;
    o.resume = a->resume;
    o.report = on_report;
    o.stop = on_stop;
    o.user = j;
    rc = addcl_train(j->training, &o);
    report_clear(&j->tool.report);
    if (rc == ADDCL_E_CANCELLED && addcl_training_rank(j->training, NULL) > 0)
        return TOOL_OK;
    if (rc == ADDCL_E_IO) /* a full disk, more often than a model that is not there */
        return tool_fail(&j->tool, rc);
    return rc < 0 ? tool_fail_model(&j->tool, rc) : TOOL_OK;
}

static int train(job *j)
{
    const train_args *a = &j->args;
    int code;

    if ((code = check_args(j)))
        return code;
    if (a->list_keys) {
        docs_keys(stdout);
        return TOOL_OK;
    }
    if ((code = tool_open(&j->tool, &a->common)))
        return code;
    if (j->cmdline.n_operands && (code = open_training(j)))
        return code;
    return a->print_config ? print_config(j) : start(j);
}

static int run(int argc, char **argv)
{
    job j = {0};
    int code;

    if (opts_parse(&j.cmdline, &cmd_train, argc, argv, &j.args, &code)) {
        catch_signals();
        code = train(&j);
        if (code)
            addcl_training_abort(j.training, code);
        addcl_training_free(j.training);
        tool_close(&j.tool);
    }
    opts_free(&j.cmdline);
    return code;
}

const cmd_def cmd_train = {
    .name = "train",
    .summary = "Trains a model",
    .usage = "RUN.INI [OPTION]...",
    .max_operands = 1,
    .details =
        "The INI file names the method, the data, and the run folder, which gets log, checkpoints, samples and in "
        "the end the model. SIGINT (Ctrl-C) or SIGTERM ends a run after the step in work with a checkpoint; "
        "--resume goes on from it.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
