/* step.c - one optimiser step on the device. */
#include "train/train.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/ops.h"

/* ------------------------------------------------------------------------------------------ schedules */

/* Share of its peak that a rate has at update `k` after `warm` of warmup. */
static double course(const ac_train_cfg *c, int64_t warm, int64_t k)
{
    const int64_t max = c->run.max_train_steps;
    double low = c->optimizer.lr_min_ratio, done;

    if (k < warm)
        return (double)(k + 1) / (double)warm;
    done = max > warm ? AC_MIN((double)(k - warm) / (double)(max - warm), 1.0) : 1.0;
    switch (c->optimizer.lr_scheduler) {
    case AC_LR_LINEAR:
        return 1 - (1 - low) * done;
    case AC_LR_COSINE:
        return low + (1 - low) * 0.5 * (1 + cos(M_PI * done));
    case AC_LR_CONSTANT:
    default:
        return 1;
    }
}

double ac_learning_rate(const ac_train_cfg *c, int64_t k)
{
    return c->optimizer.learning_rate * course(c, c->optimizer.lr_warmup_steps, k);
}

double ac_ema_decay(const ac_train_cfg *c, int64_t k)
{
    double d = c->optimizer.ema_decay;

    return c->optimizer.ema_ramp ? AC_MIN(d, (double)(1 + k) / (double)(10 + k)) : d;
}

/* Does a pattern mean "part.name"? */
static bool is_meant(const char *pattern, const char *part, const char *name)
{
    char *full = ac_printf("%s.%s", part, name);
    bool is = full && !fnmatch(pattern, full, 0);

    free(full);
    return is;
}

/* By the first of cfg's patterns that means the parameter. */
static double rate_factor(const ac_train_cfg *c, const char *part, const char *name)
{
    const ac_factors *f = &c->optimizer.lr_groups;

    for (size_t i = 0; i < f->n; i++)
        if (is_meant(f->p[i].pattern, part, name))
            return f->p[i].factor;
    return 1;
}

/* ------------------------------------------------------------------------------------------ graphs */

/* Says which of cfg's patterns change nothing. */
static void tell_idle_patterns(ac_training *r)
{
    const ac_factors *f = &r->cfg->optimizer.lr_groups;

    for (size_t i = 0; i < f->n; i++) {
        bool any = false;
        for (int k = 0; k < r->n_sets && !any; k++)
            for (size_t p = 0; p < r->sets[k].p.n && !any; p++)
                any = is_meant(f->p[i].pattern, r->sets[k].part, r->sets[k].p.p[p].name);
        if (!any)
            ac_note(r->dg, ADDCL_LOG_WARN, "optimizer.lr_groups: no parameter is called %s", f->p[i].pattern);
    }
}

/* Are gradients summed in variables before the update? */
static bool split(const ac_training *r)
{
    return r->cfg->optimizer.gradient_accumulation_steps > 1 || r->ranks > 1;
}

static int count_parameters(const ac_training *r)
{
    int n = 0;

    for (int k = 0; k < r->n_sets; k++)
        n += (int)r->sets[k].p.n;
    return n;
}

/* All parameters of the run, in order. */
static ac_parameter *nth_parameter(ac_training *r, int i, const char **part)
{
    int k = 0;

    for (; i >= (int)r->sets[k].p.n; k++)
        i -= (int)r->sets[k].p.n;
    *part = r->sets[k].part;
    return &r->sets[k].p.p[i];
}

/* The input of a set's hyperparameters. */
static const char *hyper_name(const ac_params *set, char buf[32])
{
    snprintf(buf, 32, "hyper.%s", set->part);
    return buf;
}

/* Adam and EMA of a set's parameters, given the gradient of each and the squared norm of those of all sets. */
static void update_set(ac_training *r, ac_graph *g, ac_params *set, const ac_id *grad, ac_id total)
{
    const ac_train_cfg *c = r->cfg;
    char name[32];
    ac_id hyper = ac_input(g, hyper_name(set, name), AC_F32, ac_dims(1, AC_HYPERS));

    hyper = ac_clip_factor(g, hyper, total, c->optimizer.max_grad_norm);
    for (size_t i = 0; i < set->p.n; i++) {
        ac_parameter *p = &set->p.p[i];
        ac_adam_in in = {.p = ac_state(g, p->w), .grad = grad[i], .m = ac_state(g, p->m), .v = ac_state(g, p->v),
                         .ema = p->ema ? ac_state(g, p->ema) : AC_NONE, .hyper = hyper,
                         .decoupled = c->optimizer.optimizer == AC_OPTIM_ADAMW};
        in.rate = rate_factor(c, set->part, p->name);
        ac_adam(g, &in);
    }
}

/* Squared norm of the gradients of one player's sets; AC_NONE: there are none. */
static ac_id player_square(const ac_training *r, ac_graph *g, const ac_id *grad, bool adversary)
{
    ac_id sum = AC_NONE;

    for (int k = 0; k < r->n_sets; grad += r->sets[k++].p.n)
        if (r->sets[k].adversary == adversary) {
            ac_id s = ac_reshape(g, ac_sum_squares(g, grad, (int)r->sets[k].p.n), ac_dims(1, 1));
            sum = sum == AC_NONE ? s : ac_add(g, sum, s);
        }
    return sum;
}

/* Clipping, of each player, and update of every parameter; grad[i] belongs to parameter i. The norm of all gradients is output
 * "norm". With a loss (AC_NONE: not in this graph) or a gradient that is not finite, nothing is updated. */
static void update_nodes(ac_training *r, ac_graph *g, ac_id loss, const ac_id *grad)
{
    ac_id square[2] = {player_square(r, g, grad, false), player_square(r, g, grad, true)}, total = square[0], none;

    if (square[1] != AC_NONE)
        total = total == AC_NONE ? square[1] : ac_add(g, total, square[1]);
    if (loss != AC_NONE)
        total = ac_add(g, total, ac_scale(g, loss, 0, 0));
    ac_set_output(g, "norm", ac_sqrt(g, total));
    none = ac_scale(g, total, 0, 0); /* 0, or what is not finite */
    for (int k = 0; k < r->n_sets; grad += r->sets[k++].p.n)
        update_set(r, g, &r->sets[k], grad, square[1] == AC_NONE ? total : ac_add(g, square[r->sets[k].adversary], none));
}

/* Gradients as the sweep makes them: kept for the update, or added to their variables at once, so that they need not live on. */
typedef struct collector {
    ac_training *r;
    ac_graph *g;
    ac_id *grad;   /* by parameter; AC_NONE: the loss does not depend on it */
    double share;  /* of a micro-batch in the sum; 0: gradients are kept */
} collector;

static void collect(void *user, int i, ac_id gx)
{
    collector *c = user;
    const char *part;

    c->grad[i] = gx;
    if (c->share > 0)
        ac_accumulate(c->g, ac_state(c->g, nth_parameter(c->r, i, &part)->grad), gx, c->share);
}

static int check_gradients(ac_training *r, ac_graph *g, const ac_id *grad, int n)
{
    const char *part;

    for (int i = 0; i < n && g->rc == 0; i++)
        if (grad[i] == AC_NONE) {
            const ac_parameter *p = nth_parameter(r, i, &part);
            return ac_fail(r->dg, ADDCL_E_INTERNAL, "the loss does not depend on %s of %s", p->name, part);
        }
    return g->rc;
}

static int gradient_graph(ac_training *r, ac_stepper *s)
{
    collector c = {.r = r, .g = s->g, .share = split(r) ? 1 / ((double)s->micro * r->ranks) : 0};
    ac_graph *g = s->g;
    ac_id loss, *leaf = NULL;
    const char *part;
    int n, rc;

    g->training = true;
    loss = r->recipe->loss(r, g, (int)r->cfg->data.train_batch_size);
    AC_TRY(g->rc);
    ac_set_output(g, "loss", loss);
    for (int k = 0; k < r->n_sets; k++)
        AC_TRY(ac_params_train(&r->sets[k], r->cfg->optimizer.ema_decay > 0, split(r)));
    n = count_parameters(r);
    leaf = ac_calloc((size_t)n, sizeof *leaf);
    c.grad = ac_calloc((size_t)n, sizeof *c.grad);
    if (!leaf || !c.grad) {
        rc = ac_nomem(r->dg, (size_t)n * sizeof *leaf);
        goto out;
    }
    for (int i = 0; i < n; i++) {
        leaf[i] = ac_state(g, nth_parameter(r, i, &part)->w);
        c.grad[i] = AC_NONE;
    }
    ac_grad_each(g, loss, AC_NONE, leaf, n, collect, &c);
    AC_TRY(check_gradients(r, g, c.grad, n));
    if (!split(r))
        update_nodes(r, g, loss, c.grad);
    rc = g->rc;
out:
    free(leaf);
    free(c.grad);
    return rc;
}

static int update_graph(ac_training *r, ac_graph *g)
{
    int n = count_parameters(r);
    ac_id *grad = ac_calloc((size_t)n, sizeof *grad);
    const char *part;

    if (!grad)
        return ac_nomem(r->dg, (size_t)n * sizeof *grad);
    for (int i = 0; i < n; i++)
        grad[i] = ac_state(g, nth_parameter(r, i, &part)->grad);
    update_nodes(r, g, AC_NONE, grad);
    free(grad);
    return g->rc;
}

int ac_step_open(ac_training *r, ac_stepper *s)
{
    ac_exec_opts opts = {.plan_only = r->plan_only || r->no_steps};
    int rc = 0;

    memset(s, 0, sizeof *s);
    s->micro = (int)r->cfg->optimizer.gradient_accumulation_steps;
    if (!(s->g = ac_graph_new(r->dg, AC_F32)))
        return ac_nomem(r->dg, sizeof *s->g);
    AC_TRY(gradient_graph(r, s));
    tell_idle_patterns(r);
    AC_TRY(ac_exec_new(r->dev, s->g, &opts, &s->x));
    if (split(r)) {
        if (!(s->update_graph = ac_graph_new(r->dg, AC_F32))) {
            rc = ac_nomem(r->dg, sizeof *s->g);
            goto out;
        }
        AC_TRY(update_graph(r, s->update_graph));
        AC_TRY(ac_exec_new(r->dev, s->update_graph, &opts, &s->update));
    }
    if (r->ranks > 1 && !opts.plan_only)
        AC_TRY(ac_reducer_new(r, s->g, &s->reducer));
out:
    if (rc < 0)
        ac_step_close(s);
    return rc;
}

void ac_step_close(ac_stepper *s)
{
    ac_reducer_free(s->reducer);
    ac_exec_free(s->x);
    ac_exec_free(s->update);
    ac_graph_free(s->g);
    ac_graph_free(s->update_graph);
    memset(s, 0, sizeof *s);
}

/* ------------------------------------------------------------------------------------------ running */

/* Before a set takes part its gradients are zero: without decay, Adam then changes neither parameters nor moments. Later
 * its updates count from there, as the correction of young moments needs it. */
static int feed_hyper(const ac_training *r, ac_exec *x)
{
    const ac_train_cfg *c = r->cfg;
    float h[AC_HYPERS];
    char name[32];
    int rc = 0;

    for (int k = 0; k < r->n_sets && rc == 0; k++) {
        int64_t done = r->at.updates - r->sets[k].start; /* of this set */
        ac_adam_cfg adam = {.lr = ac_learning_rate(c, r->at.updates),
                            .beta1 = c->optimizer.adam_beta1, .beta2 = c->optimizer.adam_beta2, .eps = c->optimizer.adam_epsilon,
                            .decay = c->optimizer.adam_weight_decay, .ema = ac_ema_decay(c, r->at.updates)};
        if (r->sets[k].adversary) {
            adam.lr = c->discriminator.learning_rate * course(c, c->discriminator.lr_warmup_steps, r->at.updates);
            adam.beta1 = c->discriminator.adam_beta1;
            adam.beta2 = c->discriminator.adam_beta2;
            adam.decay = c->discriminator.adam_weight_decay;
        }
        if (done < 0)
            adam.decay = 0;
        ac_adam_hyper(&adam, AC_MAX(done, (int64_t)0) + 1, h);
        rc = ac_feed(x, hyper_name(&r->sets[k], name), h, sizeof h);
    }
    return rc;
}

static int zero_gradients(ac_training *r)
{
    const char *part;
    int rc = 0;

    for (int i = 0; i < count_parameters(r) && rc == 0; i++) {
        ac_var *v = nth_parameter(r, i, &part)->grad;
        rc = ac_buf_fill(r->dev, v->buf, 0, ac_var_bytes(v));
    }
    return rc;
}

static int fetch_scalar(ac_exec *x, const char *name, double *v)
{
    float f = 0;
    int rc = ac_fetch(x, name, &f, sizeof f);

    *v = (double)f;
    return rc;
}

/* The loss and the method's scalars of one micro-batch, added to the step's. */
static int add_scalars(ac_training *r, ac_stepper *s, ac_step_result *out)
{
    double v;
    int rc;

    AC_TRY(fetch_scalar(s->x, "loss", &v));
    out->loss += v / s->micro;
    for (int k = 0; r->recipe->scalar[k]; k++) {
        AC_TRY(fetch_scalar(s->x, r->recipe->scalar[k], &v));
        out->scalar[k] += v / s->micro;
    }
out:
    return rc;
}

/* The means over all ranks. */
static int share_scalars(ac_training *r, ac_step_result *out)
{
    double v[1 + AC_SCALARS] = {out->loss};
    int rc;

    memcpy(v + 1, out->scalar, sizeof out->scalar);
    AC_TRY(ac_comm_sum(r->comm, v, AC_LEN(v)));
    out->loss = v[0] / r->ranks;
    for (int k = 0; k < AC_SCALARS; k++)
        out->scalar[k] = v[1 + k] / r->ranks;
out:
    return rc;
}

int ac_step_run(ac_training *r, ac_stepper *s, ac_step_result *out)
{
    ac_exec *last = s->update ? s->update : s->x;
    const ac_batch *b = NULL; /* stays so where the method feeds itself */
    int rc = 0;

    memset(out, 0, sizeof *out);
    if (s->update)
        AC_TRY(zero_gradients(r));
    AC_TRY(feed_hyper(r, last));
    for (int i = 0; i < s->micro; i++) {
        if (r->loader)
            AC_TRY(ac_loader_next(r->loader, r->dg, &b));
        AC_TRY(r->recipe->feed(r, s->x, b));
        AC_TRY(s->reducer && i == s->micro - 1 ? ac_reducer_run(s->reducer, s->x) : ac_run(s->x));
        AC_TRY(add_scalars(r, s, out));
        r->at.rows += b ? (uint64_t)r->ranks * b->n : 0;
    }
    AC_TRY(share_scalars(r, out));
    if (s->update && isfinite(out->loss))
        AC_TRY(ac_run(s->update));
    AC_TRY(fetch_scalar(last, "norm", &out->grad_norm));
    out->skipped = !isfinite(out->loss) || !isfinite(out->grad_norm);
    r->at.step++;
    r->at.updates += !out->skipped;
    r->at.skipped += out->skipped;
    r->at.bad = out->skipped ? r->at.bad + 1 : 0;
out:
    return rc;
}

/* What went wrong on the first rank where something did, told on all. */
static int share_failure(ac_training *r)
{
    struct failure {
        int code;
        char msg[AC_MSG_MAX];
    } f;
    int rc = 0;

    for (int k = 0; k < r->ranks; k++) {
        f.code = r->dg->code;
        memcpy(f.msg, r->dg->msg, sizeof f.msg);
        AC_TRY(ac_comm_share(r->comm, k, &f, sizeof f));
        if (f.code == 0)
            continue;
        ac_clear(r->dg);
        return ac_fail(r->dg, f.code, "%s", f.msg);
    }
out:
    return rc;
}

int ac_step_blame(ac_training *r, ac_stepper *s)
{
    int rc = 0;

    if (s->update) /* the sums of gradients hold what was found wrong: it is not where that began */
        AC_TRY(zero_gradients(r));
    rc = ac_run_checked(s->x);
    if (r->ranks > 1 && (rc == 0 || rc == ADDCL_E_DIVERGED))
        rc = share_failure(r);
    if (rc == 0 && s->update)
        rc = ac_run_checked(s->update);
    if (rc == 0)
        rc = ac_fail(r->dg, ADDCL_E_DIVERGED, "the loss or the gradients' norm is not finite, though every value is");
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ helpers of methods */

ac_net ac_train_net(ac_training *r, ac_graph *g, int set, ac_weights *w)
{
    *w = (ac_weights){.train = &r->sets[set], .part = r->sets[set].part, .dg = r->dg};
    return (ac_net){.g = g, .w = w, .checkpoint = g->training && r->cfg->model.gradient_checkpointing};
}

void ac_add_unet_set(ac_training *r, bool random)
{
    ac_params *s = &r->sets[r->n_sets++];
    ac_layout *layout = r->model->part[AC_UNET].layout;
    int rank = (int)r->cfg->model.lora_rank;

    *s = (ac_params){.dev = r->dev, .dg = r->dg, .part = "unet", .layout = random || rank ? NULL : layout, .seed = (uint64_t)r->cfg->run.seed};
    r->unet = (ac_weights){.layout = layout, .part = "unet", .dg = r->dg};
    if (rank) {
        s->base = &r->unet;
        s->rank = rank;
        s->scale = r->cfg->model.lora_alpha > 0 ? r->cfg->model.lora_alpha / rank : 1;
    }
    r->model->train[AC_UNET] = s;
}

uint64_t ac_row_stream(const ac_training *r, uint64_t row, uint64_t purpose)
{
    uint64_t s = (uint64_t)r->cfg->run.seed * 0x9e3779b97f4a7c15u + purpose, t;

    t = ac_mix(&s) ^ row;
    return ac_mix(&t);
}
