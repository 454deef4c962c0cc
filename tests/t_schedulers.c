/* t_schedulers.c - noise schedules and samplers: diffusers' recorded trajectories, vectors that need no recording, laws
 * that every recipe obeys, and what users get wrong. */
#include "support.h"
#include "diff/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER "schedulers"

/* ------------------------------------------------------------------------------------------------- comparisons */

/* Largest difference over the largest reference value, after the n given. */
static void close_to(const char *key, const char *what, const double *got, const double *want, size_t n, double tol)
{
    double worst = 0, scale = 0;

    for (size_t i = 0; i < n; i++) {
        double d = fabs(got[i] - want[i]);
        worst = d <= worst ? worst : d; /* keeps NaN */
        scale = fmax(scale, fabs(want[i]));
    }
    if (!(worst <= tol * scale))
        fail_msg("%s.%s: relative difference %.3g, at most %g", key, what, worst / scale, tol);
}

static double *tensor(const ac_st *st, const char *key, const char *what, size_t *n)
{
    char name[160];
    snprintf(name, sizeof name, "%s.%s", key, what);
    return ac_st_find(st, name) ? fixture_f64(st, name, n) : NULL;
}

/* Compares with the fixture's tensor; nothing when it has none. */
static void check(const ac_st *st, const char *key, const char *what, const double *got, size_t n, double tol)
{
    size_t want_n;
    double *want = tensor(st, key, what, &want_n);

    if (!want)
        return;
    if (want_n != n)
        fail_msg("%s.%s: %zu elements, expected %zu", key, what, n, want_n);
    close_to(key, what, got, want, n, tol);
    free(want);
}

/* -------------------------------------------------------------------------------------- recorded trajectories */

/* One case of config.json with what is made of it. */
typedef struct run {
    const ac_st *st;
    const char *key;
    ac_schedule *sch;
    ac_sampler *s;
    double tol;
} run;

static double abar_of(double sigma)
{
    return 1 / (1 + sigma * sigma);
}

static void check_tables(const run *r)
{
    const ac_sampler *s = r->s;
    double *t = calloc(s->n, sizeof *t), *sigma = calloc(s->n + 1, sizeof *sigma), *abar = calloc(s->n, sizeof *abar);
    double *prev = calloc(s->n, sizeof *prev), start = (double)s->start;

    for (size_t i = 0; i < s->n; i++) {
        t[i] = s->step[i].t;
        sigma[i] = s->step[i].sigma;
        sigma[i + 1] = s->step[i].sigma_next;
        abar[i] = abar_of(s->step[i].sigma);
        /* Behind LCM's last step the fixture repeats that step. */
        prev[i] = s->kind == AC_LCM && i + 1 == s->n ? abar[i] : abar_of(s->step[i].sigma_next);
    }
    check(r->st, r->key, "timesteps", t, s->n, 1e-5);
    check(r->st, r->key, "sigmas", sigma, s->n + 1, 1e-5);
    check(r->st, r->key, "alphas_cumprod_t", abar, s->n, 1e-5);
    check(r->st, r->key, "alphas_cumprod_prev", prev, s->n, 1e-5);
    check(r->st, r->key, "init_noise_sigma", &s->init_sigma, 1, 1e-5);
    check(r->st, r->key, "start_index", &start, 1, 0);
    free(t);
    free(sigma);
    free(abar);
    free(prev);
}

/* The first latent; its noise is the fixture's. */
static void first_latent(const run *r, float *x, size_t n)
{
    size_t have;
    double *noise = tensor(r->st, r->key, "noise", &have), *original = tensor(r->st, r->key, "original", &have);
    double *noised = calloc(n, sizeof *noised);

    assert_int_equal(have, n);
    for (size_t i = 0; i < n; i++) {
        noised[i] = original ? r->s->k_x * original[i] + r->s->k_noise * noise[i] : r->s->init_sigma * noise[i];
        x[i] = (float)noised[i];
    }
    check(r->st, r->key, "noised", noised, n, 1e-5);
    free(noise);
    free(original);
    free(noised);
}

/* The tensors of a walk: model outputs and noises of the fixture, and what is computed of them, all [steps][n]. */
typedef struct walk {
    size_t n;
    double *out, *noise, *input, *x0, *x;
} walk;

/* A step in float, as a device does it. `last_x0`: x0 of the step before, replaced. */
static void take_step(const ac_step *p, const walk *w, size_t i, const double *noise, float *x, float *last_x0)
{
    for (size_t k = 0; k < w->n; k++) {
        size_t at = i * w->n + k;
        float x0 = (float)p->a_x * x[k] + (float)p->a_out * (float)w->out[at];
        w->input[at] = (double)((float)p->in_scale * x[k]);
        x[k] = (float)p->c_x * x[k] + (float)p->c_x0 * x0 + (float)p->c_prev * last_x0[k] +
               (float)p->c_noise * (noise ? (float)noise[k] : 0);
        last_x0[k] = x0;
        w->x0[at] = (double)x0;
        w->x[at] = (double)x[k];
    }
}

static void check_walk(const run *r)
{
    size_t all, noises = 0, drawn = 0, steps = r->s->n - r->s->start;
    walk w = {.out = tensor(r->st, r->key, "model_outputs", &all),
              .noise = tensor(r->st, r->key, "step_noise", &noises)};
    float *x, *last;

    assert_non_null(w.out);
    w.n = all / steps;
    w.input = calloc(all, sizeof *w.input);
    w.x0 = calloc(all, sizeof *w.x0);
    w.x = calloc(all, sizeof *w.x);
    x = calloc(w.n, sizeof *x);
    last = calloc(w.n, sizeof *last);
    first_latent(r, x, w.n);
    for (size_t i = 0; i < steps; i++) {
        const ac_step *p = &r->s->step[r->s->start + i];
        assert_true(!p->wants_noise || (drawn + 1) * w.n <= noises);
        take_step(p, &w, i, p->wants_noise ? w.noise + drawn++ * w.n : NULL, x, last);
    }
    assert_int_equal(drawn * w.n, noises);
    check(r->st, r->key, "model_inputs", w.input, all, r->tol);
    check(r->st, r->key, "denoised", w.x0, all, r->tol);
    check(r->st, r->key, "latents", w.x, all, r->tol);
    free(w.out);
    free(w.noise);
    free(w.input);
    free(w.x0);
    free(w.x);
    free(x);
    free(last);
}

/* diffusers works in float where nothing but noise is left: at sigma 4096 with euler; and with ddim at eta 1, where the
 * share of the predicted noise is sqrt(1 - abar - variance), of which rounding leaves up to sqrt(2^-24) instead of 0.
 */
static double tolerance(const ac_schedule_cfg *cfg, const ac_sampler_opts *o)
{
    bool euler = o->kind == AC_EULER || o->kind == AC_EULER_A;
    return cfg->zero_snr && (euler || (o->kind == AC_DDIM && o->eta > 0)) ? 5e-4 : 1e-5;
}

static void run_case(const ac_st *st, const json_t *c, ac_diag *dg)
{
    const char *key = json_string_value(json_object_get(c, "key"));
    const json_t *given = json_object_get(c, "timesteps");
    ac_json config = {.obj = json_object_get(c, "config"), .path = key, .dg = dg};
    double timesteps[64];
    run r = {.st = st, .key = key};
    ac_sampler_opts o = {.steps = (int)json_integer_value(json_object_get(c, "steps")),
                         .eta = json_number_value(json_object_get(c, "eta")),
                         .strength = json_number_value(json_object_get(c, "strength"))};

    if (ac_schedule_parse(&config, &r.sch) < 0)
        fail_msg("%s", dg->msg);
    o.kind = r.sch->cfg.sampler;
    assert_true(strncmp(key, ac_sampler_name(o.kind), strlen(ac_sampler_name(o.kind))) == 0);
    if (given) {
        o.n_timesteps = json_array_size(given);
        o.timesteps = timesteps;
        assert_true(o.n_timesteps <= sizeof timesteps / sizeof *timesteps);
        for (size_t i = 0; i < o.n_timesteps; i++)
            timesteps[i] = json_number_value(json_array_get(given, i));
    }
    if (ac_sampler_new(r.sch, &o, dg, &r.s) < 0)
        fail_msg("%s: %s", key, dg->msg);
    r.tol = tolerance(&r.sch->cfg, &o);
    check_tables(&r);
    check_walk(&r);
    ac_sampler_free(r.s);
    ac_schedule_free(r.sch);
}

/* The fixture folder's files; false, after a line on stderr, when they are missing. */
static bool open_fixture(ac_diag *dg, ac_st **st, ac_json *config)
{
    static char path[4096];

    if (!fixture_path(path, sizeof path, FOLDER "/config.json"))
        return false;
    if (ac_json_open(path, dg, config) < 0)
        fail_msg("%s", dg->msg);
    *st = fixture_open(FOLDER "/io.safetensors");
    return true;
}

static void trajectories(void **state)
{
    ac_diag dg = {0};
    ac_st *st = NULL;
    ac_json config;
    const json_t *c;
    size_t i, n = 0;

    (void)state;
    if (!open_fixture(&dg, &st, &config))
        skip();
    json_array_foreach(json_object_get(config.obj, "cases"), i, c)
    {
        run_case(st, c, &dg);
        n++;
    }
    assert_true(n > 0);
    ac_st_close(st);
    ac_json_close(&config);
}

/* abar tables, and noising and velocity (the training target) at some time steps. */
static void check_forward(const ac_st *st, const char *name, ac_diag *dg)
{
    ac_schedule_cfg cfg = ac_schedule_sd(false);
    ac_schedule *sch;
    char key[96];
    size_t n, steps;
    double *t, *x, *noise, *noised, *velocity;

    cfg.zero_snr = strstr(name, "_zsnr") != NULL;
    if (strcmp(name, "linear") == 0) {
        cfg.betas = AC_BETA_LINEAR;
        cfg.beta_start = 1e-4;
        cfg.beta_end = 0.02;
    } else if (strcmp(name, "squaredcos_cap_v2") == 0) {
        cfg.betas = AC_BETA_COSINE;
    }
    assert_int_equal(ac_schedule_new(&cfg, dg, &sch), 0);
    check(st, "alphas_cumprod", name, sch->abar, (size_t)cfg.train_steps, 1e-5);
    snprintf(key, sizeof key, "forward.%s", name);
    t = tensor(st, key, "timesteps", &steps);
    x = tensor(st, key, "original", &n);
    noise = tensor(st, key, "noise", &n);
    noised = calloc(n, sizeof *noised);
    velocity = calloc(n, sizeof *velocity);
    for (size_t i = 0; i < n; i++) {
        double alpha, sigma;
        ac_schedule_at(sch, (int)t[i / (n / steps)], &alpha, &sigma);
        noised[i] = alpha * x[i] + sigma * noise[i];
        velocity[i] = alpha * noise[i] - sigma * x[i];
    }
    check(st, key, "noised", noised, n, 1e-5);
    check(st, key, "velocity", velocity, n, 1e-5);
    free(t);
    free(x);
    free(noise);
    free(noised);
    free(velocity);
    ac_schedule_free(sch);
}

static void forward_process(void **state)
{
    ac_diag dg = {0};
    ac_st *st = NULL;
    ac_json config;
    const json_t *name;
    size_t i;

    (void)state;
    if (!open_fixture(&dg, &st, &config))
        skip();
    json_array_foreach(json_object_get(config.obj, "forward"), i, name) check_forward(st, json_string_value(name), &dg);
    ac_st_close(st);
    ac_json_close(&config);
}

/* ---------------------------------------------------------------------------- sums that diffusers' tests state */

typedef struct loop {
    const char *name;
    ac_schedule_cfg cfg;
    double strength; /* 0: from noise */
    double sum;      /* of |x| at the end */
} loop;

/* Ten steps with the model x t / (t + 1) on x = i / 768, i = 0..767. diffusers' Euler tests feed the scaled input to
 * the step as well; its test of adding noise uses the reversed x as noise. */
static double loop_sum(const ac_schedule *sch, const loop *l, ac_diag *dg)
{
    ac_sampler *s;
    ac_sampler_opts o = {.kind = sch->cfg.sampler, .steps = 10, .strength = l->strength};
    double sum = 0;

    if (ac_sampler_new(sch, &o, dg, &s) < 0)
        fail_msg("%s: %s", l->name, dg->msg);
    for (int k = 0; k < 768; k++) {
        double v = k / 768.0, x = l->strength > 0 ? s->k_x * v + s->k_noise * (767 - k) / 768 : s->init_sigma * v;
        for (size_t i = s->start; i < s->n; i++) {
            const ac_step *p = &s->step[i];
            double in = p->in_scale * x, x0 = p->a_x * in + p->a_out * in * p->t / (p->t + 1);
            x = p->c_x * in + p->c_x0 * x0;
        }
        sum += fabs(x);
    }
    ac_sampler_free(s);
    return sum;
}

static void published_sums(void **state)
{
    const ac_schedule_cfg euler = {.train_steps = 1100, .beta_start = 1e-4, .beta_end = 0.02, .spacing = AC_LINSPACE};
    const ac_schedule_cfg ddim = {.train_steps = 1000,
                                  .beta_start = 1e-4,
                                  .beta_end = 0.02,
                                  .sampler = AC_DDIM,
                                  .spacing = AC_LEADING,
                                  .alpha_to_one = true};
    loop loops[] = {
        {"euler", euler, 0, 10.0807},           {"euler v", euler, 0, 0.0002},
        {"euler karras", euler, 0, 124.5230},   {"ddim", ddim, 0, 172.0067},
        {"ddim v", ddim, 0, 52.5302},           {"ddim to one", ddim, 0, 149.8295},
        {"ddim not to one", ddim, 0, 149.0784}, {"ddim with noise", ddim, 0.2, 354.5418},
    };
    ac_diag dg = {0};

    (void)state;
    loops[1].cfg.prediction = loops[4].cfg.prediction = AC_PREDICT_V;
    loops[2].cfg.karras = true;
    loops[5].cfg.beta_start = loops[6].cfg.beta_start = 0.01;
    loops[6].cfg.alpha_to_one = false;
    for (size_t i = 0; i < sizeof loops / sizeof loops[0]; i++) {
        ac_schedule *sch;
        double sum;
        assert_int_equal(ac_schedule_new(&loops[i].cfg, &dg, &sch), 0);
        sum = loop_sum(sch, &loops[i], &dg);
        if (!(fabs(sum - loops[i].sum) < 1e-2))
            fail_msg("%s: sum %.4f, expected %.4f", loops[i].name, sum, loops[i].sum);
        ac_schedule_free(sch);
    }
}

/* ------------------------------------------------------------------------------------- laws of every recipe */

/* What a perfect network answers to input m at this noise level when the image is x0. */
static double perfect(ac_prediction prediction, double m, double x0, double sigma)
{
    double s = isinf(sigma) ? 1 : sigma / sqrt(1 + sigma * sigma), a = sqrt(1 / (1 + sigma * sigma)),
           n = (m - a * x0) / s;

    return prediction == AC_PREDICT_EPS ? n : prediction == AC_PREDICT_V ? a * n - s * x0 : x0;
}

/* Deviation of the noise in a latent at noise over signal `sigma`. */
static double noise_in(ac_sampler_kind kind, double sigma)
{
    if (kind == AC_EULER || kind == AC_EULER_A)
        return sigma;
    return isinf(sigma) ? 1 : sigma / sqrt(1 + sigma * sigma);
}

/* With a perfect network every step sees through to x0 and leaves as much noise as planned, and a step to sigma 0 ends
 * on x0. */
static void check_perfect(const ac_schedule *sch, const ac_sampler *s)
{
    const double image = 0.3;
    double x = s->start ? s->k_x * image + s->k_noise * 0.7 : s->init_sigma * 0.7, before = 0;

    for (size_t i = s->start; i < s->n; i++) {
        const ac_step *p = &s->step[i];
        double x0 = p->a_x * x + p->a_out * perfect(sch->cfg.prediction, p->in_scale * x, image, p->sigma);
        double left = hypot(p->c_x * noise_in(s->kind, p->sigma), p->c_noise);
        x = p->c_x * x + p->c_x0 * x0 + p->c_prev * before + p->c_noise * -0.4;
        before = x0;
        if (!(fabs(x0 - image) < 1e-6))
            fail_msg("%s, %zu steps: x0 is %g at step %zu, expected %g", ac_sampler_name(s->kind), s->n, x0, i, image);
        if (!(fabs(left - noise_in(s->kind, p->sigma_next)) < 1e-9))
            fail_msg("%s, %zu steps: noise %g after step %zu, expected %g", ac_sampler_name(s->kind), s->n, left, i,
                     noise_in(s->kind, p->sigma_next));
    }
    if (s->step[s->n - 1].sigma_next == 0)
        assert_true(fabs(x - image) < 1e-6);
}

static void perfect_network(void **state)
{
    static const int steps[] = {1, 2, 3, 7, 20, 50};
    ac_diag dg = {0};

    (void)state;
    for (int kind = AC_EULER; kind <= AC_DPMPP_2M; kind++)
        for (int prediction = AC_PREDICT_EPS; prediction <= AC_PREDICT_SAMPLE; prediction++)
            for (int spacing = AC_TRAILING; spacing <= AC_LINSPACE; spacing++)
                for (size_t i = 0; i < 2 * sizeof steps / sizeof *steps; i++) {
                    ac_schedule_cfg cfg = ac_schedule_sd(false);
                    ac_sampler_opts o = {
                        .kind = (ac_sampler_kind)kind, .steps = steps[i / 2], .eta = kind == AC_DDIM ? 0.5 : 0};
                    ac_schedule *sch;
                    ac_sampler *s;
                    o.strength = i % 2 && o.steps > 1 ? 0.5 : 0;
                    cfg.prediction = (ac_prediction)prediction;
                    cfg.spacing = (ac_spacing)spacing;
                    cfg.zero_snr = prediction == AC_PREDICT_V;
                    cfg.lcm_scale = 1e6; /* no boundary condition: x0 is the estimate itself */
                    assert_int_equal(ac_schedule_new(&cfg, &dg, &sch), 0);
                    if (ac_sampler_new(sch, &o, &dg, &s) < 0)
                        fail_msg("%s", dg.msg);
                    check_perfect(sch, s);
                    ac_sampler_free(s);
                    ac_schedule_free(sch);
                }
}

/* eta scales the noise of DDPM. */
static void ddim_eta(void **state)
{
    ac_schedule_cfg cfg = ac_schedule_sd(false);
    ac_schedule *sch;
    ac_sampler *s[3];

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (int i = 0; i < 3; i++) {
        ac_sampler_opts o = {.kind = AC_DDIM, .steps = 10, .eta = 0.5 * i};
        assert_int_equal(ac_sampler_new(sch, &o, NULL, &s[i]), 0);
    }
    for (size_t i = 0; i < 10; i++) {
        assert_true(s[0]->step[i].c_noise == 0 && !s[0]->step[i].wants_noise);
        assert_true(s[1]->step[i].wants_noise && s[2]->step[i].c_noise > 0);
        assert_true(fabs(2 * s[1]->step[i].c_noise - s[2]->step[i].c_noise) < 1e-15);
    }
    for (int i = 0; i < 3; i++)
        ac_sampler_free(s[i]);
    ac_schedule_free(sch);
}

/* LCM's estimate is the latent itself at time step 0, and half of it where scale t equals the data's deviation of 0.5.
 */
static void lcm_boundary(void **state)
{
    static const double t[] = {1, 0};
    ac_schedule_cfg cfg = ac_schedule_sd(false);
    ac_sampler_opts o = {.kind = AC_LCM, .timesteps = t, .n_timesteps = 2};
    ac_schedule *sch;
    ac_sampler *s;

    (void)state;
    cfg.lcm_scale = 0.5;
    cfg.prediction = AC_PREDICT_SAMPLE;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    assert_int_equal(ac_sampler_new(sch, &o, NULL, &s), 0);
    assert_true(fabs(s->step[0].a_x - 0.5) < 1e-15 && fabs(s->step[0].a_out - sqrt(0.5)) < 1e-15);
    assert_true(s->step[1].a_x == 1 && s->step[1].a_out == 0);
    ac_sampler_free(s);
    ac_schedule_free(sch);
}

/* A model of a single time step is a model. */
static void one_time_step(void **state)
{
    const double beta = 0.5, sigma = 1;
    ac_schedule_cfg cfg = {
        .train_steps = 1, .betas = AC_BETA_GIVEN, .trained_betas = &beta, .lcm_steps = 1, .lcm_scale = 10};
    ac_schedule *sch;

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (int kind = AC_EULER; kind <= AC_DPMPP_2M; kind++) {
        ac_sampler_opts o = {.kind = (ac_sampler_kind)kind, .steps = 1};
        ac_sampler *s;
        if (kind == AC_EULER_A) {
            o.sigmas = &sigma;
            o.n_sigmas = 1;
        }
        assert_int_equal(ac_sampler_new(sch, &o, NULL, &s), 0);
        assert_true(s->step[0].t == 0 && fabs(s->step[0].sigma - 1) < 1e-12);
        ac_sampler_free(s);
    }
    ac_schedule_free(sch);
    cfg.train_steps = 0;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), ADDCL_E_FORMAT);
}

static void check_usable(const ac_sampler *s, int steps)
{
    assert_int_equal(s->n, steps);
    for (size_t i = 0; i < s->n; i++) {
        const ac_step *p = &s->step[i];
        double all = p->in_scale + p->a_x + p->a_out + p->c_x + p->c_x0 + p->c_prev + p->c_noise;
        assert_true(p->t >= 0 && p->t <= 999 && isfinite(all));
        assert_true(!i || (p->t < p[-1].t && p->sigma < p[-1].sigma));
    }
}

/* Every number of steps gives falling time steps on the schedule, or a message. Trailing always does: diffusers' own
 * goes to time step -1 for 61 and 61 other numbers. */
static void every_number_of_steps(void **state)
{
    ac_schedule_cfg cfg = ac_schedule_sd(true);
    ac_schedule *sch;
    int made = 0, refused = 0;

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (int spacing = AC_TRAILING; spacing <= AC_LINSPACE; spacing++)
        for (int kind = AC_EULER; kind <= AC_DPMPP_2M; kind++)
            for (int steps = 1; steps <= 1000; steps++) {
                ac_diag dg = {0};
                ac_sampler *s;
                ac_sampler_opts o = {.kind = (ac_sampler_kind)kind, .steps = steps};
                sch->cfg.spacing = (ac_spacing)spacing;
                if (ac_sampler_new(sch, &o, &dg, &s) == 0) {
                    check_usable(s, steps);
                    made++;
                } else {
                    assert_int_equal(dg.code, ADDCL_E_ARG);
                    assert_true(kind == AC_LCM ? steps > 50 : spacing != AC_TRAILING && steps > 900);
                    refused++;
                }
                ac_sampler_free(s);
            }
    assert_true(made > 12000 && refused > 0);
    ac_schedule_free(sch);
}

/* Sigmas given by hand: those of a schedule lead back to its time steps, with or without the 0 at the end. */
static void given_sigmas(void **state)
{
    ac_schedule_cfg cfg = ac_schedule_sd(true);
    ac_schedule *sch;
    double sigmas[6] = {0};

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (int kind = AC_EULER; kind <= AC_DPMPP_2M; kind++) {
        ac_sampler_opts o = {.kind = (ac_sampler_kind)kind, .steps = 5};
        ac_sampler *spaced, *given;
        if (kind == AC_DDIM || kind == AC_LCM)
            continue;
        assert_int_equal(ac_sampler_new(sch, &o, NULL, &spaced), 0);
        for (int i = 0; i < 5; i++)
            sigmas[i] = spaced->step[i].sigma;
        o.sigmas = sigmas;
        for (o.n_sigmas = 5; o.n_sigmas <= 6; o.n_sigmas++) {
            assert_int_equal(ac_sampler_new(sch, &o, NULL, &given), 0);
            assert_int_equal(given->n, 5);
            for (int i = 0; i < 5; i++) {
                assert_true(fabs(given->step[i].t - spaced->step[i].t) < 1e-6);
                assert_true(fabs(given->step[i].c_x - spaced->step[i].c_x) < 1e-12);
            }
            ac_sampler_free(given);
        }
        ac_sampler_free(spaced);
    }
    ac_schedule_free(sch);
}

/* Time steps given by hand: those of a schedule give that schedule's recipes (4 divides 1000, so ddim's targets agree).
 */
static void given_timesteps(void **state)
{
    ac_schedule_cfg cfg = ac_schedule_sd(true);
    ac_schedule *sch;
    double t[4];

    (void)state;
    cfg.alpha_to_one = true;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (int kind = AC_EULER; kind <= AC_DPMPP_2M; kind++) {
        ac_sampler_opts o = {.kind = (ac_sampler_kind)kind, .steps = 4};
        ac_sampler *spaced, *given;
        assert_int_equal(ac_sampler_new(sch, &o, NULL, &spaced), 0);
        for (int i = 0; i < 4; i++)
            t[i] = spaced->step[i].t;
        o.timesteps = t;
        o.n_timesteps = 4;
        sch->cfg.karras = true; /* spacing by sigma yields to what is asked for */
        assert_int_equal(ac_sampler_new(sch, &o, NULL, &given), 0);
        sch->cfg.karras = false;
        assert_memory_equal(given->step, spaced->step, 4 * sizeof *given->step);
        ac_sampler_free(spaced);
        ac_sampler_free(given);
    }
    ac_schedule_free(sch);
}

/* use_karras_sigmas is of euler and dpmpp_2m; the others pass it over, as in diffusers. */
static void karras(void **state)
{
    ac_schedule_cfg cfg = ac_schedule_sd(true);
    ac_schedule *sch;

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (int kind = AC_EULER; kind <= AC_DPMPP_2M; kind++) {
        ac_sampler_opts o = {.kind = (ac_sampler_kind)kind, .steps = 4};
        ac_sampler *plain, *spread;
        assert_int_equal(ac_sampler_new(sch, &o, NULL, &plain), 0);
        sch->cfg.karras = true;
        assert_int_equal(ac_sampler_new(sch, &o, NULL, &spread), 0);
        sch->cfg.karras = false;
        assert_true((plain->step[1].sigma != spread->step[1].sigma) == (kind == AC_EULER || kind == AC_DPMPP_2M));
        ac_sampler_free(plain);
        ac_sampler_free(spread);
    }
    ac_schedule_free(sch);
}

/* The strength that the message names works. */
static void strength_advice(void **state)
{
    ac_schedule_cfg cfg = ac_schedule_sd(true);
    ac_schedule *sch;

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (int steps = 1; steps <= 1000; steps++) {
        ac_diag dg = {0};
        ac_sampler *s;
        ac_sampler_opts o = {.steps = steps, .strength = 0.9 / steps};
        assert_int_equal(ac_sampler_new(sch, &o, &dg, &s), ADDCL_E_ARG);
        o.strength = strtod(strstr(dg.msg, ": strength ") + 11, NULL);
        assert_int_equal(ac_sampler_new(sch, &o, NULL, &s), 0);
        assert_int_equal(s->start, steps - 1);
        ac_sampler_free(s);
    }
    ac_schedule_free(sch);
}

/* ---------------------------------------------------------------------------------------------- users' mistakes */

static void sampler_errors(void **state)
{
    static const double rising[] = {10, 20}, beyond[] = {1000}, below[] = {-1}, half[] = {500.5}, nan_step[] = {NAN};
    static const double flat[] = {2, 2}, zero[] = {0}, inf_sigma[] = {INFINITY};
    static const struct {
        ac_sampler_opts o;
        const char *say;
    } bad[] = {
        {{.steps = 0}, "0 steps: this model takes 1 to 1000"},
        {{.steps = 1001}, "1001 steps"},
        {{.kind = AC_LCM, .steps = 51}, "lcm takes 1 to 50"},
        {{.steps = 4, .strength = 0.2}, "strength 0.250 works, or 5 steps"},
        {{.steps = 4, .strength = -1}, "strength -1"},
        {{.steps = 4, .strength = 1.5}, "strength 1.5"},
        {{.steps = 4, .strength = NAN}, "strength nan"},
        {{.kind = AC_DDIM, .steps = 4, .eta = 2}, "eta 2: expected 0 to 1"},
        {{.kind = AC_DDIM, .steps = 4, .eta = NAN}, "eta nan"},
        {{.timesteps = rising, .n_timesteps = 2}, "time step 20 after 10"},
        {{.timesteps = beyond, .n_timesteps = 1}, "time step 1000: this model knows 0 to 999"},
        {{.timesteps = below, .n_timesteps = 1}, "time step -1"},
        {{.timesteps = nan_step, .n_timesteps = 1}, "time step nan"},
        {{.timesteps = rising}, "0 time steps are given"},
        {{.timesteps = rising, .n_timesteps = 1001}, "1001 time steps are given"},
        {{.kind = AC_DDIM, .timesteps = half, .n_timesteps = 1}, "ddim takes whole time steps"},
        {{.sigmas = flat, .n_sigmas = 2}, "sigma 2 is 2"},
        {{.sigmas = zero, .n_sigmas = 1}, "sigma 1 is 0"},
        {{.sigmas = inf_sigma, .n_sigmas = 1}, "sigma 1 is inf"},
        {{.kind = AC_LCM, .sigmas = flat, .n_sigmas = 1}, "lcm takes time steps, not sigmas"},
        {{.sigmas = flat, .n_sigmas = 1, .timesteps = half, .n_timesteps = 1}, "both time steps and sigmas"},
    };
    ac_schedule_cfg cfg = ac_schedule_sd(true);
    ac_schedule *sch;

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ac_diag dg = {0};
        ac_sampler *s;
        assert_int_equal(ac_sampler_new(sch, &bad[i].o, &dg, &s), ADDCL_E_ARG);
        assert_null(s);
        if (!strstr(dg.msg, bad[i].say))
            fail_msg("\"%s\" does not say \"%s\"", dg.msg, bad[i].say);
    }
    ac_schedule_free(sch);
}

/* A noise-predicting model has no answer where nothing but noise is left; euler stays at sigma 4096. */
static void zero_snr_eps(void **state)
{
    ac_schedule_cfg cfg = ac_schedule_sd(true);
    ac_schedule *sch;

    (void)state;
    cfg.zero_snr = true;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    assert_true(sch->abar[999] == 0);
    for (int kind = AC_EULER; kind <= AC_DPMPP_2M; kind++) {
        ac_diag dg = {0};
        ac_sampler *s;
        ac_sampler_opts o = {.kind = (ac_sampler_kind)kind, .steps = 4};
        int rc = ac_sampler_new(sch, &o, &dg, &s);
        if (kind == AC_DDIM || kind == AC_LCM)
            assert_non_null(strstr(dg.msg, "euler can"));
        else
            assert_true(rc == 0 && fabs(s->step[0].sigma - 4096) < 1e-3);
        ac_sampler_free(s);
    }
    ac_schedule_free(sch);
}

typedef struct notes {
    int n, level;
    char last[512];
} notes;

static void take_note(void *user, int level, const char *line)
{
    notes *t = user;
    t->n++;
    t->level = level;
    snprintf(t->last, sizeof t->last, "%s", line);
}

/* A short schedule that hardly starts from noise, and eta where it does nothing, are warned about. */
static void sampler_warnings(void **state)
{
    ac_schedule_cfg cfg = ac_schedule_sd(false);
    ac_schedule *sch;
    static const ac_sampler_opts odd[] = {{.kind = AC_EULER, .steps = 1}, {.kind = AC_EULER, .steps = 20, .eta = 1}};

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    for (size_t i = 0; i < 2; i++) {
        notes seen = {0};
        ac_diag dg = {.note = take_note, .user = &seen};
        ac_sampler *s;
        assert_int_equal(ac_sampler_new(sch, &odd[i], &dg, &s), 0);
        assert_true(seen.n == 1 && seen.level == ADDCL_LOG_WARN);
        ac_sampler_free(s);
    }
    ac_schedule_free(sch);
}

static void no_memory(void **state)
{
    const ac_schedule_cfg cfg = ac_schedule_sd(true);
    const ac_sampler_opts o = {.steps = 2};
    ac_schedule *sch;
    ac_sampler *s;

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, NULL, &sch), 0);
    ac_alloc_fail_at(1);
    assert_int_equal(ac_sampler_new(sch, &o, NULL, &s), ADDCL_E_NOMEM);
    assert_null(s);
    ac_alloc_fail_at(0);
    ac_schedule_free(sch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trajectories),     cmocka_unit_test(forward_process),
        cmocka_unit_test(published_sums),   cmocka_unit_test(perfect_network),
        cmocka_unit_test(ddim_eta),         cmocka_unit_test(lcm_boundary),
        cmocka_unit_test(one_time_step),    cmocka_unit_test(every_number_of_steps),
        cmocka_unit_test(given_sigmas),     cmocka_unit_test(given_timesteps),
        cmocka_unit_test(karras),           cmocka_unit_test(strength_advice),
        cmocka_unit_test(sampler_errors),   cmocka_unit_test(zero_snr_eps),
        cmocka_unit_test(sampler_warnings), cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests_name("schedulers", tests, NULL, NULL);
}
