/* sampler.c - time steps, sigmas and update coefficients of euler, euler_a, ddim, lcm and dpmpp_2m. */
#include "diff/sampler.h"

#include <math.h>
#include <stdlib.h>

#define ZERO_SNR_ABAR 0x1p-24 /* diffusers' euler and dpmpp_2m in place of abar = 0: sigma 4096 */

/* euler, euler_a and dpmpp_2m live on a continuous scale of sigma; ddim and lcm on the model's own time steps. */
static bool on_sigmas(ac_sampler_kind kind)
{
    return kind == AC_EULER || kind == AC_EULER_A || kind == AC_DPMPP_2M;
}

/* ------------------------------------------------------------------------------------------ sigma and time step */

static double table_sigma(const ac_schedule *sch, int t)
{
    double abar = fmax(sch->abar[t], ZERO_SNR_ABAR);
    return sqrt((1 - abar) / abar);
}

/* Sigma at a fractional time step: linear between the two beside it. */
static double sigma_at(const ac_schedule *sch, double t)
{
    int low = (int)AC_MIN(t, sch->cfg.train_steps - 2);

    if (low < 0) /* a schedule of one time step */
        return table_sigma(sch, 0);
    return table_sigma(sch, low) + (t - low) * (table_sigma(sch, low + 1) - table_sigma(sch, low));
}

/* The time step at which the network expects this sigma: linear in log sigma, clamped to the schedule. */
static double time_of(const ac_schedule *sch, double sigma)
{
    int low = 0, high = sch->cfg.train_steps - 1;
    double a, b;

    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (table_sigma(sch, mid) <= sigma)
            low = mid;
        else
            high = mid;
    }
    if (low == high)
        return 0;
    a = log(table_sigma(sch, low));
    b = log(table_sigma(sch, high));
    return low + fmin(fmax((log(sigma) - a) / (b - a), 0), 1);
}

/* ----------------------------------------------------------------------------------------------- choosing steps */

/* Step i of n, by spacing (Lin et al. 2023, table 2). dpmpp_2m divides leading and linspace by n + 1 and leaves the
 * lowest out; only euler and euler_a keep fractions, as float, since that is what the network's embedding gets. */
static double spaced_time(const ac_schedule *sch, ac_sampler_kind kind, size_t i, size_t n)
{
    const ac_schedule_cfg *c = &sch->cfg;
    double from_end = (double)(n - 1 - i), count = (double)n, last = c->train_steps - 1, stride, t;

    if (kind == AC_DPMPP_2M && c->spacing != AC_TRAILING) {
        from_end++;
        count++;
    }
    switch (c->spacing) {
    case AC_TRAILING:
        /* arange(T, 0, -T/n) in double, to the last bit: halves are rounded to even. diffusers' arange may run over and
         * end with time step -1; that entry is not taken here. */
        stride = c->train_steps - (c->train_steps - c->train_steps / count);
        return rint(c->train_steps - (double)i * stride) - 1;
    case AC_LEADING:
        return from_end * floor(c->train_steps / count) + c->steps_offset;
    case AC_LINSPACE:
        break;
    }
    t = from_end == count - 1 ? last : from_end * (last / (count - 1));
    if (count == 1)
        t = 0;
    return kind == AC_EULER || kind == AC_EULER_A ? (double)(float)t : rint(t);
}

/* Evenly chosen from the lcm_steps that the model was distilled on (Luo et al. 2023; diffusers' indices). */
static double lcm_time(const ac_schedule *sch, size_t i, size_t n)
{
    int origin = sch->cfg.lcm_steps, stride = sch->cfg.train_steps / origin;
    return (origin - floor((double)i * (origin / (double)n))) * stride - 1;
}

/* Karras et al. 2022, eq. 5 with rho 7, between the schedule's own ends; dpmpp_2m: of the whole table. */
static void karras_sigmas(const ac_schedule *sch, ac_sampler *s)
{
    bool whole = s->kind == AC_DPMPP_2M;
    double high = pow(whole ? table_sigma(sch, sch->cfg.train_steps - 1) : s->step[0].sigma, 1 / 7.0);
    double low = pow(whole ? table_sigma(sch, 0) : s->step[s->n - 1].sigma, 1 / 7.0);

    for (size_t i = 0; i < s->n; i++)
        s->step[i].sigma = pow(high + (double)i / (double)AC_MAX(s->n - 1, 1) * (low - high), 7);
}

/* Time steps for given sigmas. */
static void times_from_sigmas(const ac_schedule *sch, ac_sampler *s)
{
    for (size_t i = 0; i < s->n; i++) {
        double t = time_of(sch, s->step[i].sigma);
        s->step[i].t = s->kind == AC_DPMPP_2M ? rint(t) : t;
    }
}

static int take_sigmas(const ac_schedule *sch, const ac_sampler_opts *o, ac_sampler *s, ac_diag *dg)
{
    for (size_t i = 0; i < s->n; i++) {
        if (!(o->sigmas[i] > 0 && isfinite(o->sigmas[i])) || (i && o->sigmas[i] >= o->sigmas[i - 1]))
            return ac_fail(dg, ADDCL_E_ARG, "sigma %zu is %g: sigmas must fall from step to step and stay above 0",
                           i + 1, o->sigmas[i]);
        s->step[i].sigma = o->sigmas[i];
    }
    times_from_sigmas(sch, s);
    return 0;
}

static int take_times(const ac_schedule *sch, const ac_sampler_opts *o, ac_sampler *s, ac_diag *dg)
{
    int last = sch->cfg.train_steps - 1;

    for (size_t i = 0; i < s->n; i++) {
        double t = o->timesteps[i];
        if (!(t >= 0 && t <= last))
            return ac_fail(dg, ADDCL_E_ARG, "time step %g: this model knows 0 to %d", t, last);
        if (i && t >= o->timesteps[i - 1])
            return ac_fail(dg, ADDCL_E_ARG, "time step %g after %g: time steps must fall from step to step", t,
                           o->timesteps[i - 1]);
        if (t != floor(t) && s->kind != AC_EULER && s->kind != AC_EULER_A)
            return ac_fail(dg, ADDCL_E_ARG,
                           "time step %g: %s takes whole time steps (euler and euler_a take fractions)", t,
                           ac_sampler_name(s->kind));
        s->step[i].t = t;
    }
    return 0;
}

static int space_times(const ac_schedule *sch, ac_sampler *s, ac_diag *dg)
{
    int last = sch->cfg.train_steps - 1;
    const char *spacing = ac_spacing_name(sch->cfg.spacing);

    for (size_t i = 0; i < s->n; i++) {
        double t = s->kind == AC_LCM ? lcm_time(sch, i, s->n) : spaced_time(sch, s->kind, i, s->n);
        if (t < 0 || t > last || (i && t >= s->step[i - 1].t))
            return ac_fail(dg, ADDCL_E_ARG, "%zu steps do not fit %s spacing with %s on %d time steps: take fewer",
                           s->n, spacing, ac_sampler_name(s->kind), last + 1);
        s->step[i].t = t;
    }
    if (s->step[0].t < last / 2)
        ac_note(dg, ADDCL_LOG_WARN,
                "%zu step%s with %s spacing start%s at time step %g of %d, far from pure noise: take more steps "
                "or trailing spacing",
                s->n, s->n > 1 ? "s" : "", spacing, s->n > 1 ? "" : "s", s->step[0].t, last);
    return 0;
}

/* Number of steps; a negative code for options that fit neither sampler nor schedule. */
static int count_steps(const ac_schedule *sch, const ac_sampler_opts *o, ac_diag *dg)
{
    const char *name = ac_sampler_name(o->kind);
    size_t given = o->sigmas ? o->n_sigmas : o->n_timesteps;
    int max = sch->cfg.train_steps;

    if (o->sigmas && o->timesteps)
        return ac_fail(dg, ADDCL_E_ARG, "both time steps and sigmas are given: expected one of them");
    if (o->sigmas && !on_sigmas(o->kind))
        return ac_fail(dg, ADDCL_E_ARG, "%s takes time steps, not sigmas (euler, euler_a and dpmpp_2m take sigmas)",
                       name);
    if (o->sigmas && given > 1 && o->sigmas[given - 1] == 0)
        given--;
    if (o->sigmas || o->timesteps) {
        if (given < 1 || given > (size_t)max)
            return ac_fail(dg, ADDCL_E_ARG, "%zu %s are given: expected 1 to %d", given,
                           o->sigmas ? "sigmas" : "time steps", max);
        return (int)given;
    }
    if (o->steps < 1 || o->steps > max)
        return ac_fail(dg, ADDCL_E_ARG, "%d steps: this model takes 1 to %d", o->steps, max);
    if (o->kind == AC_LCM && o->steps > sch->cfg.lcm_steps)
        return ac_fail(dg, ADDCL_E_ARG, "%d steps: lcm takes 1 to %d on this model (its original_inference_steps)",
                       o->steps, sch->cfg.lcm_steps);
    return o->steps;
}

static int choose_steps(const ac_schedule *sch, const ac_sampler_opts *o, ac_sampler *s, ac_diag *dg)
{
    int rc = 0;

    if (o->sigmas)
        return take_sigmas(sch, o, s, dg);
    AC_TRY(o->timesteps ? take_times(sch, o, s, dg) : space_times(sch, s, dg));
    if (!on_sigmas(s->kind))
        return 0;
    for (size_t i = 0; i < s->n; i++)
        s->step[i].sigma = sigma_at(sch, s->step[i].t);
    if (sch->cfg.karras && !o->timesteps && s->kind != AC_EULER_A) {
        karras_sigmas(sch, s);
        times_from_sigmas(sch, s);
    }
out:
    return rc;
}

/* ----------------------------------------------------------------------------------------------------- recipes */

/* x0 from m = in_scale x = alpha x0 + sigma n and the network's output: fills a_x, a_out. */
static void predict(ac_step *p, ac_prediction prediction, double alpha, double sigma)
{
    const ac_reading r = ac_reading_of(prediction, alpha, sigma);

    p->a_x = p->in_scale * r.x0_x;
    p->a_out = r.x0_out;
}

/* Euler in x / alpha (Karras et al. 2022, alg. 1 without churn). Ancestral: down to sigma_down = sigma_next^2 / sigma,
 * then up to sigma_next with new noise of sigma_up = sqrt(sigma_next^2 - sigma_down^2). */
static void euler_recipe(ac_step *p, ac_prediction prediction, bool ancestral)
{
    double ratio = p->sigma_next / p->sigma, alpha = 1 / sqrt(1 + p->sigma * p->sigma);

    p->in_scale = alpha;
    predict(p, prediction, alpha, p->sigma * alpha);
    p->c_x = ancestral ? ratio * ratio : ratio;
    p->c_x0 = 1 - p->c_x;
    p->c_noise = ancestral ? p->sigma_next * sqrt(1 - ratio * ratio) : 0;
    p->wants_noise = ancestral;
}

/* DPM-Solver++(2M), midpoint (Lu et al. 2022, alg. 2), in lambda = -log sigma. `before`: the step before, NULL for
 * first order, which is also taken down to sigma 0, where lambda has no end. */
static void dpmpp_recipe(ac_step *p, ac_prediction prediction, const ac_step *before)
{
    double ratio = p->sigma_next / p->sigma, half = 0;
    double alpha = 1 / sqrt(1 + p->sigma * p->sigma), alpha_next = 1 / sqrt(1 + p->sigma_next * p->sigma_next);
    double k = alpha_next * (1 - ratio); /* -alpha_next (exp(-h) - 1) */

    p->in_scale = 1;
    predict(p, prediction, alpha, p->sigma * alpha);
    if (before && p->sigma_next > 0)
        half = 0.5 * log(ratio) / log(p->sigma / before->sigma); /* 1 / (2 r) */
    p->c_x = ratio * alpha_next / alpha;
    p->c_x0 = k * (1 + half);
    p->c_prev = -k * half;
}

static double noise_over_signal(double abar)
{
    return sqrt((1 - abar) / abar); /* INFINITY for abar 0 */
}

/* DDIM (Song et al. 2021, eq. 12 and 16). The step's target is t - T / n, not the next of the schedule, as in
 * diffusers; of time steps given by hand it is the next one. */
static void ddim_recipe(const ac_schedule *sch, ac_step *p, int prev, double eta)
{
    double behind = sch->cfg.alpha_to_one ? 1 : sch->abar[0];
    double abar = sch->abar[(int)p->t], abar_prev = prev >= 0 ? sch->abar[prev] : behind;
    double alpha = sqrt(abar), sigma = sqrt(1 - abar);
    double variance = (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev);
    /* Share of the predicted noise (x - alpha x0) / sigma. */
    double along = sqrt(fmax(1 - abar_prev - eta * eta * variance, 0));

    p->sigma = noise_over_signal(abar);
    p->sigma_next = noise_over_signal(abar_prev);
    p->in_scale = 1;
    predict(p, sch->cfg.prediction, alpha, sigma);
    p->c_x = along / sigma;
    p->c_x0 = sqrt(abar_prev) - along * alpha / sigma;
    p->c_noise = eta * sqrt(fmax(variance, 0));
    p->wants_noise = eta > 0;
}

/* Consistency sampling (Luo et al. 2023): x0 with the boundary condition of data deviation 0.5, then noise anew up to
 * `next`, or none (next < 0). */
static void lcm_recipe(const ac_schedule *sch, ac_step *p, int next)
{
    double alpha, sigma, scaled = p->t * sch->cfg.lcm_scale;
    double c_skip = 0.25 / (scaled * scaled + 0.25), c_out = scaled / sqrt(scaled * scaled + 0.25);

    ac_schedule_at(sch, (int)p->t, &alpha, &sigma);
    p->sigma = sigma / alpha;
    p->in_scale = 1;
    predict(p, sch->cfg.prediction, alpha, sigma);
    p->a_x = c_skip + c_out * p->a_x;
    p->a_out *= c_out;
    p->c_x0 = 1;
    p->wants_noise = next >= 0;
    if (next >= 0) {
        ac_schedule_at(sch, next, &p->c_x0, &p->c_noise);
        p->sigma_next = p->c_noise / p->c_x0;
    }
}

/* Recipes of all steps; image to image begins at s->start, where dpmpp_2m has no step before. */
static int fill_recipes(const ac_schedule *sch, const ac_sampler_opts *o, ac_sampler *s, ac_diag *dg)
{
    ac_prediction prediction = sch->cfg.prediction;
    int n = (int)s->n, stride = sch->cfg.train_steps / n;

    for (int i = 0; i < n; i++) {
        ac_step *p = &s->step[i];
        int next = i + 1 < n ? (int)p[1].t : -1;
        p->sigma_next = i + 1 < n ? p[1].sigma : 0;
        if (!on_sigmas(s->kind) && prediction == AC_PREDICT_EPS && sch->abar[(int)p->t] <= 0)
            return ac_fail(dg, ADDCL_E_ARG,
                           "%s cannot take time step %g: no signal is left there, and this model predicts the noise; "
                           "euler can",
                           ac_sampler_name(s->kind), p->t);
        if (s->kind == AC_DPMPP_2M)
            dpmpp_recipe(p, prediction, (size_t)i > s->start ? p - 1 : NULL);
        else if (s->kind == AC_DDIM)
            ddim_recipe(sch, p, o->timesteps ? next : (int)p->t - stride, o->eta);
        else if (s->kind == AC_LCM)
            lcm_recipe(sch, p, next);
        else
            euler_recipe(p, prediction, s->kind == AC_EULER_A);
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------------- start */

static int choose_start(const ac_sampler_opts *o, ac_sampler *s, ac_diag *dg)
{
    double strength = o->strength == 0 ? 1 : o->strength, n = (double)s->n;
    size_t run;

    if (!(strength > 0 && strength <= 1))
        return ac_fail(dg, ADDCL_E_ARG, "strength %g: expected above 0, at most 1", strength);
    run = (size_t)(n * strength);
    if (run < 1)
        return ac_fail(dg, ADDCL_E_ARG,
                       "strength %g of %zu step%s leaves nothing to do: strength %.3f works, or %.0f steps", strength,
                       s->n, s->n > 1 ? "s" : "", ceil(1000 / n) / 1000, ceil(1 / strength));
    s->start = s->n - run;
    return 0;
}

/* Scales of the first latent. Euler's latent is x / alpha; diffusers adds the unit of the data to its noise with the
 * leading spacing only. */
static void fill_scales(const ac_schedule *sch, ac_sampler *s)
{
    const ac_step *p = &s->step[s->start];
    double first = s->step[0].sigma, signal = isinf(p->sigma) ? 0 : 1 / sqrt(1 + p->sigma * p->sigma);

    if (s->kind == AC_EULER || s->kind == AC_EULER_A) {
        s->init_sigma = sch->cfg.spacing == AC_LEADING ? sqrt(first * first + 1) : first;
        s->k_x = 1;
        s->k_noise = p->sigma;
    } else {
        s->init_sigma = 1;
        s->k_x = signal;
        s->k_noise = sqrt(1 - signal * signal);
    }
}

int ac_sampler_new(const ac_schedule *sch, const ac_sampler_opts *opts, ac_diag *dg, ac_sampler **out)
{
    int rc, n = count_steps(sch, opts, dg);
    size_t bytes;
    ac_sampler *s;

    *out = NULL;
    if (n < 0)
        return n;
    if (!(opts->eta >= 0 && opts->eta <= 1))
        return ac_fail(dg, ADDCL_E_ARG, "eta %g: expected 0 to 1", opts->eta);
    if (opts->eta > 0 && opts->kind != AC_DDIM)
        ac_note(dg, ADDCL_LOG_WARN, "eta %g has no effect: %s does not use it, ddim does", opts->eta,
                ac_sampler_name(opts->kind));
    bytes = sizeof *s + (size_t)n * sizeof *s->step;
    if (!(s = ac_calloc(1, bytes)))
        return ac_nomem(dg, bytes);
    s->kind = opts->kind;
    s->n = (size_t)n;
    AC_TRY(choose_steps(sch, opts, s, dg));
    AC_TRY(choose_start(opts, s, dg));
    AC_TRY(fill_recipes(sch, opts, s, dg));
    fill_scales(sch, s);
    *out = s;
    return 0;
out:
    ac_sampler_free(s);
    return rc;
}

void ac_sampler_free(ac_sampler *s)
{
    free(s);
}
