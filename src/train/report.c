/* report.c - what a run tells: rows of the log, report.html, the model card. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "train/train.h"

const char *ac_thousands(int64_t n, char buf[32])
{
    char digits[24];
    size_t len = (size_t)snprintf(digits, sizeof digits, "%" PRId64, n), k = 0;

    for (size_t i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            buf[k++] = ',';
        buf[k++] = digits[i];
    }
    buf[k] = '\0';
    return buf;
}

/* ------------------------------------------------------------------------------------------ log */

enum { FIXED = 9 }; /* columns besides the method's */

/* Names of the columns; those of the measure are held in `measure`. */
static size_t columns(const ac_training *r, const char *name[FIXED + AC_SCALARS], char measure[2][64])
{
    size_t n = 0;

    snprintf(measure[0], sizeof measure[0], "held_out_%s", r->recipe->measure);
    snprintf(measure[1], sizeof measure[1], "training_%s", r->recipe->measure);
    name[n++] = "step";
    name[n++] = "loss";
    for (int k = 0; r->recipe->scalar[k]; k++)
        name[n++] = r->recipe->scalar[k];
    name[n++] = "grad_norm";
    name[n++] = "learning_rate";
    name[n++] = "images_per_second";
    name[n++] = "seconds";
    name[n++] = "skipped";
    name[n++] = measure[0];
    name[n++] = measure[1];
    return n;
}

int ac_run_log_open(ac_training *r, bool resumed)
{
    const char *name[FIXED + AC_SCALARS];
    char measure[2][64];
    size_t n = columns(r, name, measure);
    int rc;

    AC_TRY(ac_runlog_open(r->dir, name, n, resumed ? r->at.step : -1, r->cfg->run.tensorboard, r->dg, &r->log));
    rc = ac_runlog_event(r->log, r->at.step, resumed ? "resume" : "start",
                         json_pack("{s:s, s:s, s:s}", "version", ADDCL_VERSION, "method", r->recipe->name, "device", ac_dev_info(r->dev)->name), r->dg);
out:
    return rc;
}

int ac_run_row(ac_training *r, const ac_step_result *mean, double images_per_second, double held_out, double training)
{
    double v[FIXED + AC_SCALARS];
    size_t n = 0;

    v[n++] = (double)r->at.step;
    v[n++] = mean->loss;
    for (int k = 0; r->recipe->scalar[k]; k++)
        v[n++] = mean->scalar[k];
    v[n++] = mean->grad_norm;
    v[n++] = ac_learning_rate(r->cfg, AC_MAX(r->at.updates - 1, (int64_t)0));
    v[n++] = images_per_second;
    v[n++] = r->at.seconds;
    v[n++] = (double)r->at.skipped;
    v[n++] = held_out;
    v[n++] = training;
    return ac_runlog_row(r->log, v, r->dg);
}

/* ------------------------------------------------------------------------------------------ report.html */

enum { FACTS = 10 };

typedef struct facts {
    const char *fact[FACTS][2];
    char text[FACTS][160];
    size_t n;
} facts;

static void add_fact(facts *f, const char *name, const char *fmt, ...) AC_PRINTF(3, 4);
static void add_fact(facts *f, const char *name, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(f->text[f->n], sizeof f->text[0], fmt, ap);
    va_end(ap);
    f->fact[f->n][0] = name;
    f->fact[f->n][1] = f->text[f->n];
    f->n++;
}

static void collect_facts(const ac_training *r, facts *f)
{
    const ac_train_cfg *c = r->cfg;
    char n[32];

    add_fact(f, "method", "%s", r->recipe->name);
    for (int k = 0; k < r->n_sets; k++)
        add_fact(f, r->sets[k].part, "%s parameters", ac_thousands(ac_params_count(&r->sets[k]), n));
    add_fact(f, "data", "%s samples, %zu held out", ac_thousands((int64_t)ac_data_count(r->data, AC_SPLIT_TRAIN), n),
             ac_data_count(r->data, AC_SPLIT_VAL));
    add_fact(f, "steps", "%" PRId64 " of %" PRId64 ", batch %" PRId64, r->at.step, c->run.max_train_steps,
             c->data.train_batch_size * c->optimizer.gradient_accumulation_steps * r->ranks);
    add_fact(f, "time", "%.1f minutes, %.1f images/s", r->at.seconds / 60, r->at.seconds > 0 ? (double)r->at.rows / r->at.seconds : 0);
    add_fact(f, "device", "%s", ac_dev_info(r->dev)->name);
}

int ac_run_report(ac_training *r, const char *status)
{
    char measure[2][64], *config = NULL;
    const char *name[FIXED + AC_SCALARS], *title = strrchr(r->cfg->run.output_dir, '/');
    ac_report_chart chart[] = {{.title = "Loss", .unit = "", .column = {"loss", r->recipe->scalar[0]}},
                               {.title = "Validation", .unit = r->recipe->measure, .column = {measure[0], measure[1]}, .label = {"held out", "training"}},
                               {.title = "Gradient norm", .unit = "", .column = {"grad_norm"}},
                               {.title = "Learning rate", .unit = "", .column = {"learning_rate"}, .linear = true},
                               {.title = "Throughput", .unit = "images/s", .column = {"images_per_second"}, .linear = true}};
    facts f = {.n = 0};
    ac_report rep = {.title = title && title[1] ? title + 1 : r->cfg->run.output_dir, .status = status, .chart = chart, .n_charts = AC_LEN(chart),
                     .caption = (const char *const *)r->prompts.p, .n_captions = r->prompts.n};
    int rc;

    (void)columns(r, name, measure);
    collect_facts(r, &f);
    rep.fact = (const char *const(*)[2])f.fact;
    rep.n_facts = f.n;
    AC_TRY(ac_train_config_text(r->cfg, r->dg, &config));
    rep.config = config;
    rc = ac_report_write(r->cfg->run.output_dir, &rep, r->dg);
out:
    free(config);
    return rc;
}

/* ------------------------------------------------------------------------------------------ model card */

char *ac_run_sheet(const ac_training *r)
{
    return ac_printf("%s/samples/step-%06" PRId64 ".png", r->cfg->run.output_dir, r->at.step);
}

/* Puts this step's sheet beside the card; *has tells whether there is one. */
static int copy_sheet(const ac_training *r, const char *dir, bool *has)
{
    enum { MOST = 256 << 20 };
    char *from = ac_run_sheet(r), *to = ac_path_join(dir, "samples.png"), *data = NULL;
    size_t n;
    int rc = from && to ? 0 : ac_nomem(r->dg, strlen(dir));

    *has = rc == 0 && ac_exists(from);
    if (*has)
        rc = ac_file_read(from, MOST, r->dg, &data, &n);
    if (*has && rc == 0)
        rc = ac_file_save(to, data, n, r->dg);
    free(data);
    free(from);
    free(to);
    return rc;
}

int ac_run_card(ac_training *r, const char *dir)
{
    const ac_train_cfg *c = r->cfg;
    const char *title = strrchr(c->run.output_dir, '/'), *base = *c->model.pretrained_model ? c->model.pretrained_model : NULL,
               *slash = base ? strrchr(base, '/') : NULL;
    char *config = NULL, summary[400];
    bool sheet;
    facts f = {.n = 0};
    ac_card card = {.name = title && title[1] ? title + 1 : c->run.output_dir, .license = "other", .base = slash && slash[1] ? slash + 1 : base,
                    .guidance = c->validation.guidance_scale, .steps = r->recipe->pictures == ac_sample_sheet ? (int)c->validation.num_inference_steps : 0, .width = (int)c->data.resolution, .height = (int)c->data.resolution,
                    .prompt = r->prompts.n ? r->prompts.p[0] : NULL};
    int rc;

    snprintf(summary, sizeof summary, "Trained with add-cl %s by the method `%s`.", ADDCL_VERSION, r->recipe->name);
    card.summary = summary;
    collect_facts(r, &f);
    card.figure = (const char *const(*)[2])f.fact;
    card.n_figures = f.n;
    AC_TRY(copy_sheet(r, dir, &sheet));
    card.grid = sheet ? "samples.png" : NULL;
    card.shows = sheet ? "Samples made at the end of the training." : NULL;
    AC_TRY(ac_train_config_text(c, r->dg, &config));
    card.config = config;
    rc = ac_card_write(dir, &card, r->dg);
out:
    free(config);
    return rc;
}
