/* api_ablate.c - tables of trainings through the public interface: each row is trained, sampled and evaluated with each seed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"
#include "base/file.h"
#include "eval/ablation.h"
#include "eval/eval.h"
#include "io/folder.h"

struct addcl_ablation {
    AC_VEC(addcl_ablate_row) rows; /* texts borrowed from the plan */
    ac_ablation plan;
};

typedef struct job {
    addcl_ctx *ctx;
    const addcl_ablate_opts *o;
    addcl_ablation *a;
    char *folder;        /* of the row and seed in work */
    ac_lines prompts;
    addcl_model *model;  /* that is sampled */
    addcl_sample_opts sample;
    addcl_sample_result made;
} job;

/* ------------------------------------------------------------------------------------------ one row, one seed */

static int train(job *j, const ac_ablation_row *row, int64_t seed)
{
    const ac_ablation *p = &j->a->plan;
    const addcl_train_opts o = {.mode = ADDCL_TRAIN_RUN, .resume = 1, .report = j->o->report, .stop = j->o->stop, .user = j->o->user};
    size_t all = p->settings.n, n = all + row->sets.n;
    char **set = ac_calloc(n + 2, sizeof *set);
    addcl_training *t = NULL;
    int rc;

    if (!set)
        return ac_nomem(&j->ctx->dg, (n + 2) * sizeof *set);
    for (size_t i = 0; i < n; i++)
        set[i] = i < all ? p->settings.p[i] : row->sets.p[i - all];
    set[n] = ac_printf("run.output_dir=%s/run", j->folder);
    set[n + 1] = ac_printf("run.seed=%lld", (long long)seed);
    rc = set[n] && set[n + 1] ? addcl_training_open(j->ctx, p->base, (const char *const *)set, n + 2, &t) : ac_nomem(&j->ctx->dg, strlen(j->folder));
    if (rc == 0)
        rc = addcl_train(t, &o);
    addcl_training_free(t);
    free(set[n]);
    free(set[n + 1]);
    free(set);
    return rc;
}

static int save_picture(void *user, int index, const addcl_image *im)
{
    job *j = user;
    char *path = ac_printf("%s/pictures/%05d.png", j->folder, index), *parameters = NULL, *json = NULL;
    int rc = path ? addcl_sample_metadata(j->model, &j->sample, &j->made, index, NULL, &parameters, &json) : ADDCL_E_NOMEM;

    if (rc == 0)
        rc = addcl_image_write(j->ctx, path, im, parameters, json);
    if (rc == 0 && j->o->stop && j->o->stop(j->o->user))
        rc = ADDCL_E_CANCELLED;
    free(path);
    free(parameters);
    free(json);
    return rc;
}

static int sample(job *j)
{
    const ac_ablation *p = &j->a->plan;
    char *model = ac_printf("%s/run/model", j->folder), *pictures = ac_path_join(j->folder, "pictures");
    addcl_model_opts m = ADDCL_MODEL_OPTS_INIT;
    int rc = model && pictures ? 0 : ac_nomem(&j->ctx->dg, strlen(j->folder));

    AC_TRY(rc);
    if (ac_is_dir(pictures)) /* of a call that was stopped: there may be others in it */
        AC_TRY(ac_folder_remove(pictures, &j->ctx->dg));
    AC_TRY(ac_folder_make(pictures, &j->ctx->dg));
    m.path = model;
    AC_TRY(addcl_model_load(j->ctx, &m, &j->model));
    j->sample = (addcl_sample_opts){.prompts = (const char *const *)j->prompts.p, .n_prompts = j->prompts.n, .count = (int)p->images,
                                    .batch_size = (int)p->batch_size, .steps = (int)p->steps, .cfg_scale = p->guidance, .seed = p->image_seed,
                                    .sampler = p->sampler, .on_image = save_picture, .user = j};
    AC_TRY(addcl_sample_plan(j->model, &j->sample, &j->made, NULL));
    rc = addcl_sample(j->model, &j->sample, &j->made);
out:
    addcl_model_free(j->model);
    j->model = NULL;
    free(model);
    free(pictures);
    return rc;
}

/* Leaves eval.json, by which a later call knows that all is done. */
static int evaluate(job *j)
{
    const ac_ablation *p = &j->a->plan;
    char *pictures = ac_path_join(j->folder, "pictures");
    const char *sets[] = {pictures};
    addcl_eval_opts o = ADDCL_EVAL_OPTS_INIT;
    addcl_evaluation *e = NULL;
    int rc;

    if (!pictures)
        return ac_nomem(&j->ctx->dg, strlen(j->folder));
    o.sets = sets;
    o.n_sets = 1;
    o.reference = p->reference;
    o.features = p->features;
    o.clip = p->clip;
    o.caption = p->caption;
    o.caption_values = p->caption_values;
    o.filter = p->filter;
    o.output = j->folder;
    rc = addcl_eval(j->ctx, &o, &e);
    addcl_evaluation_free(e);
    free(pictures);
    return rc;
}

/* The measures that eval.json of the folder holds; what lacks is NaN. *done: there is one. */
static int read_result(job *j, addcl_eval_row *r, bool *done)
{
    char *path = ac_path_join(j->folder, "eval.json");
    json_t *all, *row;

    if (!path)
        return ac_nomem(&j->ctx->dg, strlen(j->folder));
    all = json_load_file(path, 0, NULL);
    row = json_array_get(json_object_get(all, "rows"), 1); /* behind the reference */
    *done = json_is_object(row);
    r->pictures = (size_t)json_integer_value(json_object_get(row, "pictures"));
    for (int k = 0; k < AC_MEASURES; k++) {
        json_t *v = json_object_get(row, ac_eval_measures[k].name);
        *ac_eval_value(r, k) = json_is_number(v) ? json_number_value(v) : NAN;
    }
    json_decref(all);
    free(path);
    return 0;
}

/* What is not done yet of a row and seed. */
static int work(job *j, const ac_ablation_row *row, int64_t seed, addcl_eval_row *result)
{
    bool done;
    int rc;

    j->folder = ac_printf("%s/%s/seed-%lld", j->a->plan.output_dir, row->folder, (long long)seed);
    if (!j->folder)
        return ac_nomem(&j->ctx->dg, strlen(row->folder));
    AC_TRY(read_result(j, result, &done));
    if (done)
        goto out;
    ac_note(&j->ctx->dg, ADDCL_LOG_INFO, "%s / %s, seed %lld", row->table, row->name, (long long)seed);
    AC_TRY(ac_folder_make(j->folder, &j->ctx->dg));
    AC_TRY(train(j, row, seed));
    AC_TRY(sample(j));
    AC_TRY(evaluate(j));
    AC_TRY(read_result(j, result, &done));
out:
    free(j->folder);
    j->folder = NULL;
    return rc;
}

/* ------------------------------------------------------------------------------------------ the tables */

enum { SHOWN = 5 }; /* measures of a table: those of generated pictures */

/* Mean and standard deviation over n results. */
static void average(addcl_eval_row *result, size_t n, addcl_ablate_row *row)
{
    row->seeds = (int)n;
    row->mean = result[0];
    row->spread = result[0];
    for (int k = 0; k < AC_MEASURES; k++) {
        double sum = 0, square = 0, mean;
        for (size_t i = 0; i < n; i++)
            sum += *ac_eval_value(&result[i], k);
        mean = sum / (double)n;
        for (size_t i = 0; i < n; i++)
            square += (*ac_eval_value(&result[i], k) - mean) * (*ac_eval_value(&result[i], k) - mean);
        *ac_eval_value(&row->mean, k) = mean;
        *ac_eval_value(&row->spread, k) = n > 1 ? sqrt(square / (double)(n - 1)) : NAN;
    }
}

static void put_table_head(ac_str *s, const char *table)
{
    ac_str_addf(s, "\n## %s\n\n| row | seeds |", table);
    for (int k = 0; k < SHOWN; k++)
        ac_str_addf(s, " %s |", ac_eval_measures[k].head);
    ac_str_add(s, "\n|---|---|");
    for (int k = 0; k < SHOWN; k++)
        ac_str_add(s, "---|");
    ac_str_add(s, "\n");
}

static void put_row(ac_str *s, addcl_ablate_row *row)
{
    ac_str_addf(s, "| %s | %d |", row->name, row->seeds);
    for (int k = 0; k < SHOWN; k++) {
        char cell[96];
        ac_eval_cell(k, *ac_eval_value(&row->mean, k), *ac_eval_value(&row->spread, k), cell, sizeof cell);
        ac_str_addf(s, " %s |", cell);
    }
    ac_str_add(s, "\n");
}

static int save_markdown(const job *j)
{
    addcl_ablation *a = j->a;
    ac_str s = {0};
    int rc;

    ac_str_addf(&s, "# Ablation of %s\n\nMean and standard deviation over seeds; %lld pictures each, against %s.\n", a->plan.base, (long long)a->plan.images,
                a->plan.reference);
    for (size_t i = 0; i < a->rows.n; i++) {
        if (i == 0 || strcmp(a->rows.p[i].table, a->rows.p[i - 1].table) != 0)
            put_table_head(&s, a->rows.p[i].table);
        put_row(&s, &a->rows.p[i]);
    }
    rc = s.failed ? ac_nomem(&j->ctx->dg, s.n) : ac_file_save_text(a->plan.output_dir, "ablation.md", s.p, &j->ctx->dg);
    ac_str_free(&s);
    return rc;
}

static int save_json(const job *j)
{
    addcl_ablation *a = j->a;
    json_t *rows = json_array();
    char *text;
    int rc;

    for (size_t i = 0; i < a->rows.n; i++)
        json_array_append_new(rows, json_pack("{s:s, s:s, s:i, s:o, s:o}", "table", a->rows.p[i].table, "row", a->rows.p[i].name, "seeds", a->rows.p[i].seeds,
                                              "mean", ac_eval_json(&a->rows.p[i].mean), "spread", ac_eval_json(&a->rows.p[i].spread)));
    text = rows ? json_dumps(rows, JSON_INDENT(2)) : NULL;
    rc = text ? ac_file_save_text(a->plan.output_dir, "ablation.json", text, &j->ctx->dg) : ac_nomem(&j->ctx->dg, 1);
    free(text);
    json_decref(rows);
    return rc;
}

/* ------------------------------------------------------------------------------------------ all of it */

/* Seed after seed: the first one fills all tables. */
static int run_all(job *j)
{
    addcl_ablation *a = j->a;
    size_t n = a->plan.rows.n, seeds = a->plan.seeds.n;
    addcl_eval_row *result = ac_calloc(n * seeds, sizeof *result);
    int rc = result ? 0 : ac_nomem(&j->ctx->dg, n * seeds * sizeof *result);

    for (size_t k = 0; k < n * seeds && rc == 0; k++) {
        size_t i = k % n, seed = k / n;
        const ac_ablation_row *row = &a->plan.rows.p[i];
        AC_TRY(work(j, row, a->plan.seeds.p[seed], &result[i * seeds + seed]));
        if (seed == 0 && !AC_PUSH(&a->rows, ((addcl_ablate_row){.table = row->table, .name = row->name})))
            AC_TRY(ac_nomem(&j->ctx->dg, sizeof *a->rows.p));
        average(&result[i * seeds], seed + 1, &a->rows.p[i]);
        AC_TRY(save_markdown(j));
        AC_TRY(save_json(j));
    }
out:
    free(result);
    return rc;
}

int addcl_ablate(addcl_ctx *ctx, const char *ini, const addcl_ablate_opts *opts, addcl_ablation **out)
{
    job j = {.ctx = ctx, .o = opts, .a = ac_calloc(1, sizeof *j.a)};
    int rc;

    ac_begin(ctx);
    if (!(*out = j.a))
        return ac_nomem(&ctx->dg, sizeof *j.a);
    AC_TRY(ac_need_device(ctx));
    AC_TRY(ac_ablation_read(ini, &ctx->dg, &j.a->plan));
    AC_TRY(ac_prompts_read(j.a->plan.prompts_file, &ctx->dg, &j.prompts));
    rc = run_all(&j);
out:
    ac_lines_free(&j.prompts);
    return rc;
}

const addcl_ablate_row *addcl_ablation_rows(const addcl_ablation *a, size_t *n)
{
    *n = a->rows.n;
    return a->rows.p;
}

void addcl_ablation_free(addcl_ablation *a)
{
    if (!a)
        return;
    ac_ablation_free(&a->plan);
    free(a->rows.p);
    free(a);
}
