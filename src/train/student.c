/* student.c - see student.h. */
#include "train/student.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "diff/loss.h"

enum { STUDENT }; /* set of parameters */

/* ------------------------------------------------------------------------------------------ values of each sample */

int ac_each_open(const char *const *name, int n, int B, ac_diag *dg, ac_each *e)
{
    size_t values = (size_t)n * (size_t)B;

    *e = (ac_each){.name = name, .n = n, .B = B, .value = ac_calloc(values, sizeof *e->value)};
    return e->value ? 0 : ac_nomem(dg, values * sizeof *e->value);
}

void ac_each_close(ac_each *e)
{
    free(e->value);
    *e = (ac_each){0};
}

void ac_each_set(ac_each *e, int i, int k, double v)
{
    e->value[k * e->B + i] = (float)v;
}

int ac_each_feed(const ac_each *e, ac_exec *x)
{
    int rc = 0;

    for (int k = 0; k < e->n && rc == 0; k++)
        rc = ac_feed(x, e->name[k], e->value + (size_t)k * (size_t)e->B, (size_t)e->B * sizeof *e->value);
    return rc;
}

ac_id ac_each_input(ac_graph *g, const char *name, int B)
{
    return ac_reshape(g, ac_input(g, name, AC_F32, ac_dims(1, B)), ac_dims(4, B, 1, 1, 1));
}

ac_id ac_each_mix(ac_graph *g, int B, const char *a, ac_id x, const char *b, ac_id y)
{
    return ac_add(g, ac_mul(g, ac_each_input(g, a, B), x), ac_mul(g, ac_each_input(g, b, B), y));
}

/* ------------------------------------------------------------------------------------------ opening */

static int check_parts(const ac_training *r)
{
    const addcl_model *m = r->model;
    static const struct {
        ac_part_id id;
        const char *what;
    } need[] = {{AC_UNET, "unet"}, {AC_VAE, "vae"}, {AC_TEXT, "text_encoder"}};

    for (size_t i = 0; i < AC_LEN(need); i++)
        if (!m->part[need[i].id].layout)
            return ac_fail(r->dg, ADDCL_E_ARG, "%s has no %s with weights: give one with model.%s", m->path, need[i].what, need[i].what);
    if (m->unet.time_ids)
        return ac_fail(r->dg, ADDCL_E_UNSUPPORTED, "students of SDXL models are not trained yet");
    return 0;
}

/* Where noise is predicted, x0 cannot be told from pure noise: such a student keeps its schedule. */
static int open_schedules(ac_training *r, bool pure_noise, ac_sampler_kind sampler, ac_student *s)
{
    addcl_model *m = r->model;
    char *class = ac_strdup(ac_sampler_class(sampler));
    int rc = class ? 0 : ac_nomem(r->dg, 1);

    AC_TRY(rc);
    free(m->scheduler_class);
    m->scheduler_class = class;
    AC_TRY(ac_schedule_copy(m->sch, pure_noise && m->sch->cfg.prediction != AC_PREDICT_EPS, r->dg, &s->student));
    s->student->cfg.sampler = sampler;
    s->student->cfg.spacing = AC_TRAILING;
    s->teacher = m->sch; /* the model's is the student's from now on: samples and the exported scheduler go by it */
    m->sch = s->student;
out:
    return rc;
}

static int allocate(ac_student *s)
{
    size_t B = (size_t)s->B, n = B * s->latents.n, states = (size_t)s->T * (size_t)s->context;

    s->x0 = ac_calloc(n, sizeof(float));
    s->x = ac_calloc(n, sizeof(float));
    s->noise = ac_calloc(n, sizeof(float));
    s->ctx = ac_calloc(B * states, sizeof(float));
    s->null_ctx = ac_calloc(states, sizeof(float));
    s->pooled = ac_calloc((size_t)AC_MAX(s->r->model->unet.pooled, 1), sizeof(float));
    s->weight = ac_calloc(B, sizeof(float));
    return s->x0 && s->x && s->noise && s->ctx && s->null_ctx && s->pooled && s->weight ? 0 : ac_nomem(s->r->dg, (3 * n + B * states) * sizeof(float));
}

int ac_student_open(ac_training *r, bool pure_noise, ac_sampler_kind sampler, ac_student *s)
{
    int rc, positions;

    *s = (ac_student){.r = r, .B = (int)r->cfg->data.train_batch_size, .context = r->model->unet.context};
    AC_TRY(check_parts(r));
    AC_TRY(open_schedules(r, pure_noise, sampler, s));
    positions = r->model->clip[0].positions;
    s->T = r->cfg->data.max_token_length ? (int)AC_MIN(r->cfg->data.max_token_length, positions) : positions;
    AC_TRY(ac_states_open(r, s->T, &s->states));
    AC_TRY(ac_latents_open(r, s->B, &s->latents));
    s->h = s->latents.h;
    s->w = s->latents.w;
    s->C = s->latents.C;
    AC_TRY(allocate(s));
    ac_add_unet_set(r, r->cfg->distillation.student_init == AC_INIT_RANDOM);
    if (!r->plan_only)
        rc = ac_states_get(&s->states, "", s->null_ctx, s->pooled);
out:
    return rc;
}

void ac_student_close(ac_student *s)
{
    ac_schedule_free(s->teacher);
    ac_latents_close(&s->latents);
    ac_states_close(&s->states);
    free(s->x0);
    free(s->x);
    free(s->noise);
    free(s->ctx);
    free(s->null_ctx);
    free(s->pooled);
    free(s->weight);
}

/* ------------------------------------------------------------------------------------------ graph */

ac_net ac_student_frozen(ac_training *r, ac_graph *g, ac_weights *w, const ac_part *p, const char *part)
{
    *w = (ac_weights){.layout = p->layout, .part = part, .dg = r->dg};
    return (ac_net){.g = g, .w = w, .checkpoint = g->training && r->cfg->model.gradient_checkpointing};
}

ac_net ac_student_teacher(ac_student *s, ac_graph *g)
{
    return (ac_net){.g = g, .w = &s->r->unet, .checkpoint = g->training && s->r->cfg->model.gradient_checkpointing};
}

ac_id ac_student_latent(const ac_student *s, ac_graph *g, const char *name)
{
    return ac_input(g, name, AC_F32, ac_dims(4, s->B, s->h, s->w, s->C));
}

ac_id ac_student_ctx(const ac_student *s, ac_graph *g, bool null)
{
    ac_id x = ac_input(g, null ? "null_ctx" : "ctx", AC_F32, ac_dims(3, null ? 1 : s->B, s->T, s->context));

    return null ? ac_broadcast(g, x, ac_dims(3, s->B, s->T, s->context)) : x;
}

/* ------------------------------------------------------------------------------------------ inputs */

int ac_student_batch(ac_student *s, const ac_batch *b)
{
    size_t states = (size_t)s->T * (size_t)s->context;
    int rc;

    AC_TRY(ac_latents_get(&s->latents, b, s->x0));
    for (size_t i = 0; i < b->n; i++)
        AC_TRY(ac_states_get(&s->states, b->sample[i].caption, s->ctx + i * states, s->pooled));
out:
    return rc;
}

void ac_student_noised(ac_student *s, size_t i, double alpha, double sigma, uint64_t *state, float *noise)
{
    size_t n = s->latents.n;
    const float *x0 = s->x0 + i * n;
    float *x = s->x + i * n;

    ac_mix_normal(state, x, n);
    if (noise)
        memcpy(noise, x, n * sizeof *x);
    for (size_t k = 0; k < n; k++)
        x[k] = (float)(alpha * (double)x0[k] + sigma * (double)x[k]);
}

/* ------------------------------------------------------------------------------------------ validation */

enum { V_S, V_X, V_OUT, VALUES };
static const char *const value_names[VALUES] = {"s", "s.x", "s.out"};

typedef struct validation {
    ac_student *s;
    const int64_t *step;
    size_t n;
    ac_each each;
    double sum;
} validation;

static int validation_graph(ac_student *s, ac_graph **out, ac_exec **x)
{
    ac_training *r = s->r;
    ac_graph *g = *out = ac_graph_new(r->dg, AC_F32);
    ac_weights w;
    ac_net m;
    ac_id x_s, y;

    if (!g)
        return ac_nomem(r->dg, sizeof *g);
    ac_use_averages(r, true);
    m = ac_train_net(r, g, STUDENT, &w);
    x_s = ac_student_latent(s, g, "x");
    y = ac_unet(&m, &r->model->unet, &(ac_unet_in){.x = x_s, .t = ac_input(g, "s", AC_F32, ac_dims(1, s->B)), .ctx = ac_student_ctx(s, g, false)});
    ac_use_averages(r, false);
    y = ac_each_mix(g, s->B, "s.x", x_s, "s.out", y);
    ac_set_output(g, "error", ac_loss_mse(g, y, ac_student_latent(s, g, "x0"), ac_input(g, "weight", AC_F32, ac_dims(1, s->B))));
    return ac_exec_new(r->dev, g, NULL, x);
}

/* Adds the errors of a batch. */
static int eval_batch(ac_training *r, ac_exec *x, const ac_batch *b, size_t k0, void *user)
{
    validation *v = user;
    ac_student *s = v->s;
    size_t B = (size_t)s->B, n = B * s->latents.n * sizeof(float);
    float mean;
    int rc;

    (void)k0;
    AC_TRY(ac_student_batch(s, b));
    for (size_t i = 0; i < B; i++)
        s->weight[i] = i < b->n;
    AC_TRY(ac_feed(x, "x0", s->x0, n));
    AC_TRY(ac_feed(x, "weight", s->weight, B * sizeof(float)));
    AC_TRY(ac_feed(x, "ctx", s->ctx, B * (size_t)s->T * (size_t)s->context * sizeof(float)));
    for (size_t j = 0; j < v->n; j++) {
        double alpha, sigma;
        ac_reading read;
        ac_schedule_at(s->student, (int)v->step[j], &alpha, &sigma);
        read = ac_reading_of(s->student->cfg.prediction, alpha, sigma);
        for (size_t i = 0; i < b->n; i++) {
            uint64_t noise = (uint64_t)r->cfg->validation.validation_seed * 0x9e3779b97f4a7c15u + b->sample[i].index * v->n + j;
            (void)ac_mix(&noise);
            ac_student_noised(s, i, alpha, sigma, &noise, NULL);
            ac_each_set(&v->each, (int)i, V_S, (double)v->step[j]);
            ac_each_set(&v->each, (int)i, V_X, read.x0_x);
            ac_each_set(&v->each, (int)i, V_OUT, read.x0_out);
        }
        AC_TRY(ac_feed(x, "x", s->x, n));
        AC_TRY(ac_each_feed(&v->each, x));
        AC_TRY(ac_run(x));
        AC_TRY(ac_fetch(x, "error", &mean, sizeof mean));
        v->sum += (double)mean * (double)B / (double)v->n;
    }
out:
    return rc;
}

static int eval_split(validation *v, ac_exec *x, ac_split split, double *mean)
{
    size_t n;
    int rc;

    v->sum = 0;
    rc = ac_eval_each(v->s->r, x, split, ac_eval_count(v->s->r), eval_batch, v, &n);
    *mean = n ? v->sum / (double)n : NAN;
    return rc;
}

int ac_student_validate(ac_student *s, const int64_t *step, size_t n, double *held_out, double *training)
{
    validation v = {.s = s, .step = step, .n = n};
    ac_graph *g = NULL;
    ac_exec *x = NULL;
    int rc;

    AC_TRY(ac_each_open(value_names, VALUES, s->B, s->r->dg, &v.each));
    AC_TRY(validation_graph(s, &g, &x));
    AC_TRY(eval_split(&v, x, AC_SPLIT_VAL, held_out));
    rc = eval_split(&v, x, AC_SPLIT_TRAIN, training);
out:
    ac_each_close(&v.each);
    ac_exec_free(x);
    ac_graph_free(g);
    return rc;
}
