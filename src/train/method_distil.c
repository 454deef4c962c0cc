/* method_distil.c - students that learn from the teacher alone: by consistency (lcm), by halving its steps (progressive), from pairs of
 * noise and the picture that it makes of it (reflow). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "diff/loss.h"
#include "train/distil.h"

/* Purposes of a sample's random streams. */
enum { RANDOM_STEP = 1, RANDOM_NOISE, RANDOM_GUIDANCE };
enum { STUDENT }; /* set of parameters */

typedef struct distil {
    ac_student s;
    ac_each each;
    struct sampler *sampler; /* of reflow */
    AC_VEC(int64_t) measured; /* time steps of the held-out measure */
} distil;

/* ------------------------------------------------------------------------------------------ opening */

static int open_distil(ac_training *r, bool pure_noise, ac_sampler_kind sampler, const char *const *name, int names)
{
    distil *m = ac_calloc(1, sizeof *m);
    int rc;

    if (!m)
        return ac_nomem(r->dg, sizeof *m);
    r->method = m;
    AC_TRY(ac_student_open(r, pure_noise, sampler, &m->s));
    rc = ac_each_open(name, names, m->s.B, r->dg, &m->each);
out:
    return rc;
}

static void close_distil(ac_training *r)
{
    distil *m = r->method;

    if (!m)
        return;
    ac_student_close(&m->s);
    ac_each_close(&m->each);
    free(m->measured.p);
    free(m);
    r->method = NULL;
}

static int measure_at(ac_training *r, int64_t step)
{
    distil *m = r->method;

    return AC_PUSH(&m->measured, step) ? 0 : ac_nomem(r->dg, sizeof step);
}

static int validate(ac_training *r, double *held_out, double *training)
{
    distil *m = r->method;

    return ac_student_validate(&m->s, m->measured.p, m->measured.n, held_out, training);
}

/* ------------------------------------------------------------------------------------------ networks */

typedef struct network {
    distil *m;
    ac_net net;
    bool averages; /* the student's averaged parameters */
} network;

static ac_id output_of(void *user, ac_id x, ac_id t, bool null)
{
    network *n = user;
    ac_graph *g = n->net.g;
    ac_training *r = n->m->s.r;
    ac_id y;

    if (n->averages && g->rc == 0) /* they must be there before a graph reads them */
        g->rc = ac_params_train(&r->sets[STUDENT], true, false);
    ac_use_averages(r, n->averages);
    y = ac_unet(&n->net, &r->model->unet, &(ac_unet_in){.x = x, .t = t, .ctx = ac_student_ctx(&n->m->s, g, null)});
    ac_use_averages(r, false);
    return y;
}

/* Feeds what all of them have as inputs. */
static int feed_common(distil *m, ac_exec *x, bool null)
{
    size_t B = (size_t)m->s.B, states = (size_t)m->s.T * (size_t)m->s.context * sizeof(float);
    int rc;

    AC_TRY(ac_feed(x, "x", m->s.x, B * m->s.latents.n * sizeof(float)));
    AC_TRY(ac_feed(x, "ctx", m->s.ctx, B * states));
    if (null)
        AC_TRY(ac_feed(x, "null_ctx", m->s.null_ctx, states));
    rc = ac_each_feed(&m->each, x);
out:
    return rc;
}

/* A number of 0 .. n-1. */
static int drawn_of(uint64_t *state, int n)
{
    return AC_MIN((int)(ac_mix_uniform(state) * n), n - 1);
}

/* One for the sample of a row: its step. */
static int drawn(const ac_training *r, uint64_t row, int n)
{
    uint64_t state = ac_row_stream(r, row, RANDOM_STEP);

    return drawn_of(&state, n);
}

/* ------------------------------------------------------------------------------------------ lcm */

static int open_lcm(ac_training *r)
{
    int rc = open_distil(r, false, AC_LCM, ac_lcm_names, AC_LCM_VALUES);

    for (int k = 1; k <= 4 && rc == 0; k++) /* those of four steps */
        rc = measure_at(r, (int64_t)r->model->sch->cfg.train_steps * k / 4 - 1);
    return rc;
}

static ac_id lcm_loss(ac_training *r, ac_graph *g, int B)
{
    distil *m = r->method;
    ac_weights w;
    network student = {m, ac_train_net(r, g, STUDENT, &w), false}, target = student, teacher = {m, ac_student_teacher(&m->s, g), false};

    target.averages = r->cfg->distillation.lcm_target == AC_TARGET_AVERAGE && r->cfg->optimizer.ema_decay > 0;
    return ac_lcm_loss(g, B, ac_dims(4, B, m->s.h, m->s.w, m->s.C), r->cfg->distillation.huber_c, &(ac_denoiser){output_of, &student},
                       &(ac_denoiser){output_of, &target}, &(ac_denoiser){output_of, &teacher});
}

static int lcm_feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    distil *m = r->method;
    double least = r->cfg->distillation.lcm_guidance_min, most = r->cfg->distillation.lcm_guidance_max;
    int steps = (int)r->cfg->distillation.ddim_steps, rc;

    AC_TRY(ac_student_batch(&m->s, b));
    for (size_t i = 0; i < b->n; i++) {
        uint64_t row = b->row + i, noise = ac_row_stream(r, row, RANDOM_NOISE), guidance = ac_row_stream(r, row, RANDOM_GUIDANCE);
        double alpha, sigma;
        int s;
        ac_lcm_set(&m->each, (int)i, m->s.student, drawn(r, row, steps), steps, least + (most - least) * ac_mix_uniform(&guidance), &s);
        ac_schedule_at(m->s.student, s, &alpha, &sigma);
        ac_student_noised(&m->s, i, alpha, sigma, &noise, NULL);
    }
    rc = feed_common(m, x, true);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ progressive */

static int open_progressive(ac_training *r)
{
    int steps = (int)r->cfg->distillation.student_steps, rc = open_distil(r, true, AC_DDIM, ac_progressive_names, AC_PRO_VALUES);

    for (int k = 1; k <= steps && rc == 0; k++)
        rc = measure_at(r, lround((double)r->model->sch->cfg.train_steps * k / steps) - 1);
    return rc;
}

static ac_id progressive_loss(ac_training *r, ac_graph *g, int B)
{
    distil *m = r->method;
    ac_weights w;
    network student = {m, ac_train_net(r, g, STUDENT, &w), false}, teacher = {m, ac_student_teacher(&m->s, g), false};

    return ac_progressive_loss(g, B, ac_dims(4, B, m->s.h, m->s.w, m->s.C), r->cfg->distillation.teacher_guidance, &(ac_denoiser){output_of, &student},
                               &(ac_denoiser){output_of, &teacher});
}

static int progressive_feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    distil *m = r->method;
    int steps = (int)r->cfg->distillation.student_steps, rc;

    AC_TRY(ac_student_batch(&m->s, b));
    for (size_t i = 0; i < b->n; i++) {
        uint64_t row = b->row + i, noise = ac_row_stream(r, row, RANDOM_NOISE);
        double alpha, sigma;
        int s;
        ac_progressive_set(&m->each, (int)i, m->s.student, drawn(r, row, steps), steps, &s);
        ac_schedule_at(m->s.student, s, &alpha, &sigma);
        ac_student_noised(&m->s, i, alpha, sigma, &noise, NULL);
    }
    rc = feed_common(m, x, r->cfg->distillation.teacher_guidance != 1);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ reflow */

enum { R_T }; /* values of each sample */
static const char *const reflow_names[] = {"t"};
enum { G_T, G_X, G_OUT, G_VALUES };
static const char *const sampler_names[G_VALUES] = {"t", "step.x", "step.out"};

/* The teacher's sampler, made at the first pair that is not known. It takes a few samples at a time: in most batches few are new. */
enum { SAMPLED_AT_ONCE = 8 };
struct sampler {
    int B;
    ac_memo *memo;
    ac_graph *g;
    ac_exec *x;
    ac_each each;
    float *latent, *ctx, *target; /* of a batch, rounded up to B: noise and then pictures; states; what the student shall say */
    size_t *which;                /* the samples of the batch that it makes */
};

static void close_sampler(distil *m)
{
    struct sampler *p = m->sampler;

    if (!p)
        return;
    ac_memo_free(p->memo);
    ac_exec_free(p->x);
    ac_graph_free(p->g);
    ac_each_close(&p->each);
    free(p->latent);
    free(p->ctx);
    free(p->target);
    free(p->which);
    free(p);
    m->sampler = NULL;
}

static int open_sampler(ac_training *r, distil *m)
{
    const ac_student *s = &m->s;
    struct sampler *p = m->sampler = ac_calloc(1, sizeof *p);
    char hash[65], maker[160];
    size_t B;
    int rc;

    if (!p)
        return ac_nomem(r->dg, sizeof *p);
    p->B = AC_MIN(s->B, SAMPLED_AT_ONCE);
    B = (size_t)((s->B + p->B - 1) / p->B * p->B);
    ac_part_hash(r->model, AC_UNET, hash);
    snprintf(maker, sizeof maker, "%s ddim %lld guidance %.9g tokens %d", hash, (long long)r->cfg->distillation.reflow_steps,
             r->cfg->distillation.teacher_guidance, s->T);
    AC_TRY(ac_memo_open(r, "pairs", maker, s->latents.n, &p->memo));
    AC_TRY(ac_each_open(sampler_names, G_VALUES, p->B, r->dg, &p->each));
    p->latent = ac_calloc(B * s->latents.n, sizeof *p->latent);
    p->target = ac_calloc(B * s->latents.n, sizeof *p->target);
    p->ctx = ac_calloc(B * (size_t)s->T * (size_t)s->context, sizeof *p->ctx);
    p->which = ac_calloc(B, sizeof *p->which);
    if (!p->latent || !p->target || !p->ctx || !p->which)
        rc = ac_nomem(r->dg, B * s->latents.n * sizeof *p->latent);
out:
    return rc;
}

static int open_reflow(ac_training *r)
{
    distil *m;
    int rc;

    AC_TRY(open_distil(r, true, AC_DDIM, reflow_names, 1));
    m = r->method;
    AC_TRY(open_sampler(r, m));
    AC_TRY(measure_at(r, r->model->sch->cfg.train_steps / 2 - 1));
    rc = measure_at(r, r->model->sch->cfg.train_steps - 1);
out:
    return rc;
}

static void close_reflow(ac_training *r)
{
    if (r->method)
        close_sampler(r->method);
    close_distil(r);
}

static ac_id reflow_loss(ac_training *r, ac_graph *g, int B)
{
    distil *m = r->method;
    ac_weights w;
    network student = {m, ac_train_net(r, g, STUDENT, &w), false};
    ac_id y = output_of(&student, ac_student_latent(&m->s, g, "x"), ac_input(g, "t", AC_F32, ac_dims(1, B)), false);

    return ac_loss_mse(g, y, ac_student_latent(&m->s, g, "target"), AC_NONE);
}

/* One step of DDIM. */
static int make_sampler(ac_training *r, distil *m)
{
    struct sampler *p = m->sampler;
    double guidance = r->cfg->distillation.teacher_guidance;
    distil few = *m; /* the same networks for fewer samples */
    network n = {&few, {0}, false};
    ac_id x, t, out;

    if (!(p->g = ac_graph_new(r->dg, AC_F32)))
        return ac_nomem(r->dg, sizeof *p->g);
    few.s.B = p->B;
    n.net = ac_student_teacher(&few.s, p->g);
    x = ac_student_latent(&few.s, p->g, "x");
    t = ac_input(p->g, "t", AC_F32, ac_dims(1, p->B));
    out = output_of(&n, x, t, false);
    if (guidance != 1)
        out = ac_add(p->g, ac_scale(p->g, out, guidance, 0), ac_scale(p->g, output_of(&n, x, t, true), 1 - guidance, 0));
    ac_set_output(p->g, "x_next", ac_each_mix(p->g, p->B, "step.x", x, "step.out", out));
    return ac_exec_new(r->dev, p->g, NULL, &p->x);
}

/* Pictures from B noises in latent, the first-th and on. */
static int sample(ac_training *r, distil *m, size_t first)
{
    struct sampler *p = m->sampler;
    const ac_schedule *sch = m->s.student;
    size_t B = (size_t)p->B, bytes = B * m->s.latents.n * sizeof *p->latent, states = (size_t)m->s.T * (size_t)m->s.context;
    float *latent = p->latent + first * m->s.latents.n;
    int K = (int)r->cfg->distillation.reflow_steps, all = sch->cfg.train_steps, rc = 0;

    if (!p->x)
        AC_TRY(make_sampler(r, m));
    AC_TRY(ac_feed(p->x, "ctx", p->ctx + first * states, B * states * sizeof *p->ctx));
    if (r->cfg->distillation.teacher_guidance != 1)
        AC_TRY(ac_feed(p->x, "null_ctx", m->s.null_ctx, states * sizeof *p->ctx));
    for (int k = K; k > 0; k--) {
        int at = (int)lround((double)all * k / K) - 1, to = (int)lround((double)all * (k - 1) / K) - 1;
        double alpha, sigma, alpha1 = 1, sigma1 = 0, of_x, of_out;
        ac_reading read;
        ac_schedule_at(sch, at, &alpha, &sigma);
        if (to >= 0)
            ac_schedule_at(sch, to, &alpha1, &sigma1);
        read = ac_reading_of(sch->cfg.prediction, alpha, sigma);
        ac_ddim_between(&read, alpha1, sigma1, &of_x, &of_out);
        for (int i = 0; i < p->B; i++) {
            ac_each_set(&p->each, i, G_T, at);
            ac_each_set(&p->each, i, G_X, of_x);
            ac_each_set(&p->each, i, G_OUT, of_out);
        }
        AC_TRY(ac_feed(p->x, "x", latent, bytes));
        AC_TRY(ac_each_feed(&p->each, p->x));
        AC_TRY(ac_run(p->x));
        AC_TRY(ac_fetch(p->x, "x_next", latent, bytes));
    }
out:
    return rc;
}

/* Which noise belongs to a sample: one of `reflow_pairs` of its caption. */
static uint64_t noise_of(const ac_training *r, uint64_t row, const char *caption)
{
    uint64_t pick = ac_row_stream(r, row, RANDOM_NOISE), state = ac_fnv(AC_FNV, caption, strlen(caption)) ^ (uint64_t)r->cfg->run.seed;

    state += (uint64_t)drawn_of(&pick, (int)r->cfg->distillation.reflow_pairs) * 0x9e3779b97f4a7c15u;
    (void)ac_mix(&state);
    return state;
}

/* The pictures of the batch's noises into s->x0; the noises into s->noise. */
static int pairs(ac_training *r, const ac_batch *b)
{
    distil *m = r->method;
    ac_student *s = &m->s;
    struct sampler *p = m->sampler;
    size_t n = s->latents.n, states = (size_t)s->T * (size_t)s->context, missing = 0;
    char how[32];
    int rc = 0;

    for (size_t i = 0; i < b->n; i++) {
        const char *caption = b->sample[i].caption;
        uint64_t seed = noise_of(r, b->row + i, caption), state = seed;
        ac_mix_normal(&state, s->noise + i * n, n);
        AC_TRY(ac_states_get(&s->states, caption, s->ctx + i * states, s->pooled));
        snprintf(how, sizeof how, "noise %016llx", (unsigned long long)seed);
        if (ac_memo_get(p->memo, caption, strlen(caption), how, s->x0 + i * n))
            continue;
        memcpy(p->latent + missing * n, s->noise + i * n, n * sizeof *p->latent);
        memcpy(p->ctx + missing * states, s->ctx + i * states, states * sizeof *p->ctx);
        p->which[missing++] = i;
    }
    for (size_t k = 0; k < missing; k += (size_t)p->B)
        AC_TRY(sample(r, m, k));
    for (size_t k = 0; k < missing; k++) {
        size_t i = p->which[k];
        const char *caption = b->sample[i].caption;
        memcpy(s->x0 + i * n, p->latent + k * n, n * sizeof *p->latent);
        snprintf(how, sizeof how, "noise %016llx", (unsigned long long)noise_of(r, b->row + i, caption));
        AC_TRY(ac_memo_put(p->memo, caption, strlen(caption), how, p->latent + k * n));
    }
out:
    return rc;
}

static int reflow_feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    distil *m = r->method;
    ac_student *s = &m->s;
    size_t n = s->latents.n;
    int rc;

    AC_TRY(pairs(r, b));
    for (size_t i = 0; i < b->n; i++) {
        int t = drawn(r, b->row + i, s->student->cfg.train_steps);
        ac_reflow_mix(s->student, t, s->x0 + i * n, s->noise + i * n, n, s->x + i * n, m->sampler->target + i * n);
        ac_each_set(&m->each, (int)i, R_T, t);
    }
    AC_TRY(feed_common(m, x, false));
    rc = ac_feed(x, "target", m->sampler->target, (size_t)s->B * n * sizeof *m->sampler->target);
out:
    return rc;
}

#define RECIPE(name_, close_)                                                                                                            \
    {                                                                                                                                    \
        .name = #name_, .measure = "error", .open = open_##name_, .close = close_, .loss = name_##_loss, .feed = name_##_feed,           \
        .validate = validate, .pictures = ac_sample_sheet, .export = ac_export_model                                                     \
    }

const ac_recipe ac_recipe_lcm = RECIPE(lcm, close_distil), ac_recipe_progressive = RECIPE(progressive, close_distil),
                ac_recipe_reflow = RECIPE(reflow, close_reflow);
