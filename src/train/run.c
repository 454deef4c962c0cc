/* run.c - a training run from its configuration to the exported model. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "train/train.h"

/* ------------------------------------------------------------------------------------------ opening */

static const ac_recipe *recipe_of(ac_method m)
{
    static const ac_recipe *const recipes[] = {
        [AC_METHOD_VAE] = &ac_recipe_vae, [AC_METHOD_DIFFUSION] = &ac_recipe_diffusion, [AC_METHOD_CLIP] = &ac_recipe_clip,
        [AC_METHOD_ADD] = &ac_recipe_add, [AC_METHOD_GAN] = &ac_recipe_gan, [AC_METHOD_LADD] = &ac_recipe_ladd, [AC_METHOD_LCM] = &ac_recipe_lcm,
        [AC_METHOD_PROGRESSIVE] = &ac_recipe_progressive, [AC_METHOD_REFLOW] = &ac_recipe_reflow};
    return recipes[m];
}

static int open_data(ac_training *r)
{
    const ac_train_cfg *c = r->cfg;
    ac_data_opts o = AC_DATA_OPTS_INIT;

    o.source = (const char *const *)c->data.train_data_dir.p;
    o.n_source = c->data.train_data_dir.n;
    o.resolution = (int)c->data.resolution;
    o.fit = c->data.fit;
    o.flip = c->data.random_flip ? 0.5 : 0;
    for (size_t i = 0; i < 3 && i < c->data.background.n; i++)
        o.background[i] = (uint8_t)c->data.background.p[i];
    o.caption = *c->data.caption ? c->data.caption : NULL;
    o.caption_values = *c->data.caption_values ? c->data.caption_values : NULL;
    o.caption_dropout = c->run.method == AC_METHOD_DIFFUSION ? c->data.caption_dropout : 0;
    o.filter = *c->data.filter ? c->data.filter : NULL;
    o.subsample = *c->data.subsample ? c->data.subsample : NULL;
    o.val_split = *c->data.validation_list ? c->data.validation_list : NULL;
    o.exclude_list = *c->data.exclude_list ? c->data.exclude_list : NULL;
    o.seed = (uint64_t)c->run.seed;
    o.cache_bytes = (size_t)c->data.image_cache << 20;
    return ac_data_open(&o, r->dg, &r->data);
}

/* Is `dir` one network's folder, with its configuration right in it? */
static bool is_one_network(const char *dir)
{
    char *path = *dir ? ac_path_join(dir, "config.json") : NULL;
    bool is = path && ac_exists(path);

    free(path);
    return is;
}

static int open_model(ac_training *r)
{
    const ac_train_cfg *c = r->cfg;
    ac_model_from from = {.training = true,
                          .tokenizer = *c->model.tokenizer ? c->model.tokenizer : NULL,
                          .scheduler = *c->model.scheduler ? c->model.scheduler : NULL};
    addcl_model_opts o = {.path = *c->model.pretrained_model ? c->model.pretrained_model : c->model.config,
                          .unet = *c->model.unet ? c->model.unet : NULL,
                          .vae = *c->model.vae ? c->model.vae : NULL,
                          .text_encoder = *c->model.text_encoder ? c->model.text_encoder : NULL,
                          .type = ADDCL_F32};
    const char **network = c->run.method == AC_METHOD_VAE ? &o.vae : &o.unet;

    if (is_one_network(c->model.config) && !*network)
        *network = c->model.config;
    return c->run.method == AC_METHOD_CLIP ? 0 : ac_model_open(r->ctx, &o, &from, &r->model);
}

static int open_loader(ac_training *r)
{
    ac_loader_opts o = {.split = AC_SPLIT_TRAIN,
                        .batch = (size_t)r->cfg->data.train_batch_size,
                        .rank = (size_t)r->rank,
                        .ranks = (size_t)r->ranks,
                        .start = r->at.rows,
                        .threads = (size_t)r->cfg->data.dataloader_threads};

    return ac_loader_open(r->data, &o, r->dg, &r->loader);
}

static void close_run(ac_training *r)
{
    ac_loader_close(r->loader);
    ac_step_close(&r->stepper);
    if (r->recipe)
        r->recipe->close(r);
    addcl_model_free(r->model);
    for (int k = 0; k < r->n_sets; k++)
        ac_params_free(&r->sets[k]);
    ac_weights_free(&r->unet);
    ac_data_close(r->data);
    ac_runlog_close(r->log);
    ac_rundir_close(r->dir);
    ac_lines_free(&r->prompts);
    if (r->plan_only)
        ac_dev_close(r->dev);
}

/* ------------------------------------------------------------------------------------------ plan */

static void describe(const ac_training *r)
{
    char n[32];

    for (int k = 0; k < r->n_sets; k++)
        ac_note(r->dg, ADDCL_LOG_INFO, "%s: %s parameters in training", r->sets[k].part, ac_thousands(ac_params_count(&r->sets[k]), n));
    ac_note(r->dg, ADDCL_LOG_INFO, "data: %zu training samples (%zu an epoch), %zu held out", ac_data_count(r->data, AC_SPLIT_TRAIN),
            ac_data_epoch_size(r->data, AC_SPLIT_TRAIN), ac_data_count(r->data, AC_SPLIT_VAL));
}

/* Memory from the plan; time from its work and half the FMA peak, which is what training steps reach. */
static int report_plan(ac_training *r)
{
    const ac_plan_info *p = ac_exec_info(r->stepper.x);
    double flop = p->flop * r->stepper.micro, peak, step, mb = 1e-6;
    uint64_t variables = 0, bytes;
    int rc;

    for (int k = 0; k < r->n_sets; k++)
        variables += ac_params_bytes(&r->sets[k]);
    bytes = variables + p->peak + (r->stepper.update ? ac_exec_info(r->stepper.update)->peak : 0);
    if (bytes > ac_dev_limits(r->ctx->dev)->global_mem)
        ac_note(r->dg, ADDCL_LOG_WARN, "this is more memory than the device has: a smaller data.train_batch_size with gradient accumulation, or "
                                       "model.gradient_checkpointing = yes, takes less");
    AC_TRY(ac_fma_peak(r->ctx->dev, &peak));
    step = flop / (0.5 * peak);
    ac_note(r->dg, ADDCL_LOG_INFO, "memory: %.0f MB: parameters, moments and averages %.0f MB, activations and gradients %.0f MB, constants %.0f MB",
            (double)bytes * mb, (double)variables * mb, (double)p->activations * mb, (double)p->weights * mb);
    ac_note(r->dg, ADDCL_LOG_INFO, "time: %.3g TFLOP a step, about %.*f s on %s; %.3g hours for %lld steps", flop * 1e-12, step < 10 ? 2 : 0, step,
            ac_dev_info(r->ctx->dev)->name, step * (double)r->cfg->run.max_train_steps / 3600, (long long)r->cfg->run.max_train_steps);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ run folder */

static int save_config(ac_training *r)
{
    char *text = NULL;
    int rc = ac_train_config_text(r->cfg, r->dg, &text);

    if (rc == 0)
        rc = ac_file_save_text(r->cfg->run.output_dir, "config.ini", text, r->dg);
    free(text);
    return rc;
}

/* Goes on from a checkpoint when asked to; else a folder that has checkpoints is not touched. Of rank 0, as all that concerns the run
 * folder. */
static int resume_or_begin(ac_training *r, bool resume, bool *resumed)
{
    const char *which = r->cfg->checkpoint.resume_from_checkpoint;
    ac_ckpt *c = NULL;
    int64_t step;
    int rc;

    *resumed = false;
    if (resume || *which) {
        AC_TRY(ac_state_restore(r, which, resumed));
        if (*resumed)
            ac_note(r->dg, ADDCL_LOG_INFO, "going on from step %lld", (long long)r->at.step);
        else
            ac_note(r->dg, ADDCL_LOG_INFO, "%s has no checkpoint: beginning", r->cfg->run.output_dir);
        return ac_ckpt_rewind(r->dir, *resumed ? r->at.step : -1, r->dg);
    }
    AC_TRY(ac_ckpt_latest(r->cfg->run.output_dir, r->dg, &c));
    if (c) {
        step = ac_ckpt_step(c);
        ac_ckpt_close(c);
        rc = ac_fail(r->dg, ADDCL_E_ARG, "%s holds a run with a checkpoint of step %lld: go on with --resume, or choose another run.output_dir",
                     r->cfg->run.output_dir, (long long)step);
    }
out:
    return rc;
}

static int checkpoint(ac_training *r)
{
    double t0 = ac_now();
    int rc;

    AC_TRY(ac_state_save(r));
    rc = ac_runlog_event(r->log, r->at.step, "checkpoint", json_pack("{s:f}", "seconds", ac_now() - t0), r->dg);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ validation, pictures */

/* "step 500: loss 0.3524 held out, 0.2527 training (12.3 s)" */
static void tell_measure(const ac_training *r, double held_out, double training, double seconds)
{
    char held[48] = "", step[48] = "";

    if (isfinite(held_out))
        snprintf(held, sizeof held, "%.4f held out, ", held_out);
    if (r->at.step)
        snprintf(step, sizeof step, "step %lld: ", (long long)r->at.step);
    ac_note(r->dg, ADDCL_LOG_INFO, "%s%s %s%.4f training (%.1f s)", step, r->recipe->measure, held, training, seconds);
}

static int validate(ac_training *r, double *held_out, double *training)
{
    double t0 = ac_now();
    int rc;

    AC_TRY(r->recipe->validate(r, held_out, training));
    tell_measure(r, *held_out, *training, ac_now() - t0);
    if (!r->log)
        return 0;
    rc = ac_runlog_event(r->log, r->at.step, "validation",
                         json_pack("{s:s, s:o, s:o, s:f}", "measure", r->recipe->measure, "held_out",
                                   ac_json_number(*held_out), "training", ac_json_number(*training), "seconds", ac_now() - t0),
                         r->dg);
out:
    return rc;
}

static int pictures(ac_training *r)
{
    char *path = ac_run_sheet(r);
    int rc = path ? 0 : ac_nomem(r->dg, 1);

    if (rc == 0 && r->recipe->pictures) {
        AC_TRY(r->recipe->pictures(r, path));
        rc = ac_runlog_picture(r->log, r->at.step, "samples", path, r->dg);
    }
out:
    free(path);
    return rc;
}

/* ------------------------------------------------------------------------------------------ the loop */

/* Sums since the last row of the log. */
typedef struct interval {
    ac_step_result sum;
    int64_t steps, good;
    double t0; /* when it began */
    double idle; /* seconds spent on validation and the like */
} interval;

static void add_step(interval *iv, const ac_step_result *s)
{
    iv->steps++;
    if (s->skipped)
        return;
    iv->good++;
    iv->sum.loss += s->loss;
    iv->sum.grad_norm += s->grad_norm;
    for (int k = 0; k < AC_SCALARS; k++)
        iv->sum.scalar[k] += s->scalar[k];
}

static bool every(int64_t step, int64_t n)
{
    return n > 0 && step % n == 0;
}

/* A row in the log, a line for the caller; *iv begins anew. */
static int report(ac_training *r, interval *iv, double held_out, double training)
{
    const ac_train_cfg *c = r->cfg;
    double seconds = ac_now() - iv->t0 - iv->idle, n = (double)iv->good;
    int64_t images = iv->steps * r->stepper.micro * c->data.train_batch_size * r->ranks;
    ac_step_result mean = iv->sum;
    addcl_train_report p = {.step = r->at.step, .max_steps = c->run.max_train_steps, .skipped = r->at.skipped, .seconds = r->at.seconds};
    int rc;

    mean.loss = n > 0 ? mean.loss / n : NAN;
    mean.grad_norm = n > 0 ? mean.grad_norm / n : NAN;
    for (int k = 0; k < AC_SCALARS; k++)
        mean.scalar[k] = n > 0 ? mean.scalar[k] / n : NAN;
    p.loss = mean.loss;
    p.grad_norm = mean.grad_norm;
    p.learning_rate = ac_learning_rate(c, AC_MAX(r->at.updates - 1, (int64_t)0));
    p.images_per_second = seconds > 0 ? (double)images / seconds : 0;
    p.eta_seconds = iv->steps ? (double)(c->run.max_train_steps - r->at.step) * seconds / (double)iv->steps : 0;
    p.held_out = held_out;
    AC_TRY(ac_run_row(r, &mean, p.images_per_second, held_out, training));
    if (r->opts->report)
        r->opts->report(r->opts->user, &p);
    *iv = (interval){.t0 = ac_now()};
out:
    return rc;
}

static int skipped_step(ac_training *r, const ac_step_result *s)
{
    int rc = 0;

    if (r->rank == 0) {
        ac_note(r->dg, ADDCL_LOG_WARN, "step %lld: loss %g, gradient norm %g: skipped (%lld in a row)", (long long)r->at.step, s->loss,
                s->grad_norm, (long long)r->at.bad);
        AC_TRY(ac_runlog_event(r->log, r->at.step, "skip", json_pack("{s:I}", "in_a_row", (json_int_t)r->at.bad), r->dg));
    }
    if (r->at.bad >= r->cfg->run.max_bad_steps) {
        rc = ac_step_blame(r, &r->stepper);
        r->together = rc == ADDCL_E_DIVERGED;
        ac_context(r->dg, "after %lld steps in a row without a finite loss and gradient", (long long)r->at.bad);
    }
out:
    return rc;
}

/* What is due after a step besides the step itself. */
static int housekeeping(ac_training *r, interval *iv, bool last)
{
    const ac_train_cfg *c = r->cfg;
    double t0 = ac_now(), held_out = NAN, training = NAN;
    bool measure = every(r->at.step, c->validation.validation_steps) || (last && c->validation.validation_steps),
         show = every(r->at.step, c->validation.sample_steps) || (last && c->validation.sample_steps),
         save = every(r->at.step, c->checkpoint.checkpointing_steps) || last;
    int rc = 0;

    if (save)
        AC_TRY(ac_state_compare(r));
    if (r->rank > 0) /* the others wait at their next step */
        goto out;
    if (measure)
        AC_TRY(validate(r, &held_out, &training));
    if (show)
        AC_TRY(pictures(r));
    iv->idle += ac_now() - t0;
    if (every(r->at.step, c->run.report_steps) || measure || last)
        AC_TRY(report(r, iv, held_out, training));
    t0 = ac_now();
    if (save)
        AC_TRY(checkpoint(r));
    if (measure || show || save)
        AC_TRY(ac_run_report(r, "running"));
    iv->idle += ac_now() - t0;
out:
    return rc;
}

/* Saves what has been reached, when the run ends before its last step. */
static int stop_early(ac_training *r, interval *iv, const char *why)
{
    int rc = 0;

    AC_TRY(ac_state_compare(r));
    if (r->rank == 0) {
        if (iv->steps)
            AC_TRY(report(r, iv, NAN, NAN));
        AC_TRY(checkpoint(r));
        AC_TRY(ac_runlog_event(r->log, r->at.step, "end", json_pack("{s:s}", "why", why), r->dg));
        rc = ac_run_report(r, "interrupted");
    }
out:
    return rc;
}

/* Why a run may end after a step. */
enum { WANTED = 1, TIME_UP };

/* Does any rank want to end, or is the time of one up? */
static int agree(ac_training *r, double begin, int *why)
{
    const ac_train_cfg *c = r->cfg;
    double wish[2] = {r->opts->stop && r->opts->stop(r->opts->user), c->run.max_train_time > 0 && ac_now() - begin >= c->run.max_train_time};
    int rc = ac_comm_sum(r->comm, wish, 2);

    *why = wish[0] > 0 ? WANTED : wish[1] > 0 ? TIME_UP : 0;
    return rc;
}

/* Steps to the end: 0; until the time is up: 1. */
static int loop(ac_training *r)
{
    const ac_train_cfg *c = r->cfg;
    interval iv = {.t0 = ac_now()};
    double begin = ac_now(), before = r->at.seconds;
    ac_step_result s;
    int rc = 0;

    while (r->at.step < c->run.max_train_steps) {
        bool last;
        int why;
        AC_TRY(ac_step_run(r, &r->stepper, &s));
        r->at.seconds = before + ac_now() - begin;
        add_step(&iv, &s);
        if (s.skipped)
            AC_TRY(skipped_step(r, &s));
        last = r->at.step >= c->run.max_train_steps;
        AC_TRY(housekeeping(r, &iv, last));
        AC_TRY(agree(r, begin, &why));
        if (last || !why)
            continue;
        AC_TRY(stop_early(r, &iv, why == WANTED ? "interrupted" : "time"));
        if (why == TIME_UP)
            return 1;
        r->together = true;
        return ac_fail(r->dg, ADDCL_E_CANCELLED, "interrupted after step %lld; a checkpoint was written", (long long)r->at.step);
    }
out:
    return rc;
}

static int finish(ac_training *r)
{
    char *dir;
    int rc;

    if (r->rank > 0)
        return 0;
    dir = ac_path_join(r->cfg->run.output_dir, "model");
    rc = dir ? ac_export(r, dir) : ac_nomem(r->dg, 1);
    if (rc == 0)
        rc = ac_runlog_event(r->log, r->at.step, "end", json_pack("{s:s, s:s}", "why", "finished", "model", dir), r->dg);
    if (rc == 0)
        rc = ac_run_report(r, "finished");
    if (rc == 0)
        ac_note(r->dg, ADDCL_LOG_INFO, "%lld steps done; the model is in %s", (long long)r->at.step, dir);
    free(dir);
    return rc;
}

static int open_folder(ac_training *r, bool resume)
{
    bool resumed;
    int rc;

    AC_TRY(ac_rundir_open(r->cfg->run.output_dir, r->dg, &r->dir));
    AC_TRY(resume_or_begin(r, resume, &resumed));
    AC_TRY(save_config(r));
    AC_TRY(ac_run_log_open(r, resumed));
    if (r->cfg->validation.sample_steps && r->recipe->pictures == ac_sample_sheet)
        rc = ac_read_prompts(r);
out:
    return rc;
}

/* The ranks divide an epoch by its size: they must all see the same data. */
static int compare_data(ac_training *r)
{
    uint64_t mine = ac_data_epoch_size(r->data, AC_SPLIT_TRAIN), first = mine;
    int rc;

    AC_TRY(ac_comm_share(r->comm, 0, &first, sizeof first));
    if (mine != first)
        rc = ac_fail(r->dg, ADDCL_E_ARG, "an epoch has %llu training samples here, but %llu on rank 0", (unsigned long long)mine,
                     (unsigned long long)first);
out:
    return rc;
}

/* Leaves what went wrong in the run folder, as well as that can be done; the message of the call stays the first one. */
static void note_failure(ac_training *r)
{
    ac_diag first = *r->dg;

    ac_clear(r->dg);
    if (ac_runlog_event(r->log, r->at.step, "end", json_pack("{s:s}", "why", first.msg), r->dg) == 0 && ac_run_report(r, "failed") < 0)
        ac_note(r->dg, ADDCL_LOG_WARN, "report.html: %s", r->dg->msg);
    *r->dg = first;
}

static int train(ac_training *r, bool resume)
{
    int rc;

    if (r->rank == 0)
        AC_TRY(open_folder(r, resume));
    AC_TRY(compare_data(r));
    AC_TRY(ac_state_share(r));
    AC_TRY(open_loader(r));
    rc = loop(r);
    ac_reducer_tell(r->stepper.reducer);
    if (rc == 0)
        rc = finish(r);
    else if (rc == 1 && r->rank == 0)
        ac_note(r->dg, ADDCL_LOG_INFO, "the time is up after step %lld; a checkpoint was written: go on with --resume", (long long)r->at.step);
    else if (rc < 0 && rc != ADDCL_E_CANCELLED && r->rank == 0)
        note_failure(r);
out:
    return AC_MIN(rc, 0);
}

int ac_train(addcl_ctx *ctx, ac_comm *comm, const ac_train_cfg *cfg, const addcl_train_opts *opts, bool *together)
{
    ac_training r = {.ctx = ctx, .dev = ctx->dev, .dg = &ctx->dg, .cfg = cfg, .comm = comm, .rank = ac_comm_rank(comm),
                     .ranks = ac_comm_size(comm), .opts = opts, .no_steps = opts->mode == ADDCL_TRAIN_VALIDATE};
    double held_out, training;
    bool found = true;
    int rc = 0;

    *together = false;
    if (r.rank > 0 && opts->mode != ADDCL_TRAIN_RUN)
        return 0;
    if (opts->mode == ADDCL_TRAIN_PLAN) {
        AC_TRY(ac_dev_fake(ac_dev_limits(ctx->dev), r.dg, &r.dev));
        r.plan_only = true;
    }
    AC_TRY(open_data(&r));
    AC_TRY(open_model(&r));
    r.recipe = recipe_of(cfg->run.method);
    AC_TRY(r.recipe->open(&r));
    AC_TRY(ac_step_open(&r, &r.stepper));
    describe(&r);
    if (opts->mode == ADDCL_TRAIN_PLAN) {
        rc = report_plan(&r);
    } else if (opts->mode == ADDCL_TRAIN_VALIDATE) {
        if (opts->resume)
            AC_TRY(ac_state_restore(&r, cfg->checkpoint.resume_from_checkpoint, &found));
        if (!found) {
            rc = ac_fail(r.dg, ADDCL_E_ARG, "%s has no checkpoint to be measured", cfg->run.output_dir);
            goto out;
        }
        rc = validate(&r, &held_out, &training);
    } else {
        rc = train(&r, opts->resume);
    }
out:
    close_run(&r);
    *together = r.together;
    if (r.together && r.rank > 0) { /* rank 0 tells why */
        ac_clear(r.dg);
        rc = ac_fail(r.dg, ADDCL_E_CANCELLED, "all ranks have ended");
    }
    return rc;
}
