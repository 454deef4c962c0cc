/* schedule.c - noise schedules: tables from betas, and diffusers' scheduler_config.json. */
#include "diff/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const sampler_names[] = {"euler", "euler_a", "ddim", "lcm", "dpmpp_2m"};
static const char *const prediction_names[] = {"epsilon", "v_prediction", "sample"};
static const char *const prediction_short[] = {"eps", "v", "sample"};
static const char *const spacing_names[] = {"trailing", "leading", "linspace"};
static const char *const beta_names[] = {"linear", "scaled_linear", "squaredcos_cap_v2"};

static int find_name(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

int ac_sampler_by_name(const char *name)
{
    return find_name(name, sampler_names, AC_LEN(sampler_names));
}

int ac_prediction_by_name(const char *name)
{
    int i = find_name(name, prediction_names, AC_LEN(prediction_names));
    return i >= 0 ? i : find_name(name, prediction_short, AC_LEN(prediction_short));
}

int ac_spacing_by_name(const char *name)
{
    return find_name(name, spacing_names, AC_LEN(spacing_names));
}

const char *ac_sampler_name(ac_sampler_kind kind)
{
    return sampler_names[kind];
}

const char *ac_prediction_name(ac_prediction prediction)
{
    return prediction_names[prediction];
}

const char *ac_spacing_name(ac_spacing spacing)
{
    return spacing_names[spacing];
}

ac_schedule_cfg ac_schedule_sd(bool few_step)
{
    return (ac_schedule_cfg){
        .train_steps = 1000,
        .betas = AC_BETA_SCALED_LINEAR,
        .beta_start = 0.00085,
        .beta_end = 0.012,
        .spacing = few_step ? AC_TRAILING : AC_LEADING,
        .steps_offset = 1,
        .lcm_steps = 50,
        .lcm_scale = 10,
    };
}

/* ---------------------------------------------------------------------------------------------------- tables */

/* Cosine schedule (Nichol and Dhariwal 2021, eq. 17): abar before it is capped. */
static double cosine_abar(double u)
{
    double c = cos((u + 0.008) / 1.008 * 1.5707963267948966);
    return c * c;
}

static double beta_at(const ac_schedule_cfg *c, int t)
{
    double n = c->train_steps, u = t / fmax(n - 1, 1), root;

    switch (c->betas) {
    case AC_BETA_LINEAR:
        return c->beta_start + u * (c->beta_end - c->beta_start);
    case AC_BETA_SCALED_LINEAR:
        root = sqrt(c->beta_start) + u * (sqrt(c->beta_end) - sqrt(c->beta_start));
        return root * root;
    case AC_BETA_COSINE:
        return fmin(1 - cosine_abar((t + 1) / n) / cosine_abar(t / n), 0.999);
    case AC_BETA_GIVEN:
        break;
    }
    return c->trained_betas[t];
}

/* Lin et al. 2023, algorithm 1: shift alpha so that the last is 0, scale it so that the first stays. */
static void rescale_zero_snr(double *abar, int n)
{
    double first = sqrt(abar[0]), last = sqrt(abar[n - 1]);

    for (int t = 0; t < n; t++) {
        double alpha = (sqrt(abar[t]) - last) * first / (first - last);
        abar[t] = alpha * alpha;
    }
}

static int fill_abar(ac_schedule *sch, ac_diag *dg)
{
    double product = 1;

    for (int t = 0; t < sch->cfg.train_steps; t++) {
        double beta = beta_at(&sch->cfg, t);
        if (!(beta > 0 && beta < 1))
            return ac_fail(dg, ADDCL_E_FORMAT, "noise schedule: beta of time step %d is %g, expected between 0 and 1",
                           t, beta);
        product *= 1 - beta;
        /* Samplers divide by alpha and by sigma. */
        if (!(product < 1 && product > 1e-30))
            return ac_fail(dg, ADDCL_E_FORMAT,
                           "noise schedule: alpha^2 of time step %d is %g, expected 1e-30 to below 1", t, product);
        sch->abar[t] = product;
    }
    return 0;
}

/* New memory for a schedule of this configuration; abar is 0. */
static int allocate(const ac_schedule_cfg *cfg, ac_diag *dg, ac_schedule **out)
{
    size_t bytes = sizeof **out + (size_t)cfg->train_steps * sizeof *(*out)->abar;

    if (cfg->zero_snr && cfg->train_steps < 2)
        return ac_fail(dg, ADDCL_E_FORMAT, "noise schedule: zero terminal SNR needs at least 2 time steps");
    if (!(*out = ac_calloc(1, bytes)))
        return ac_nomem(dg, bytes);
    (*out)->cfg = *cfg;
    return 0;
}

int ac_schedule_new(const ac_schedule_cfg *cfg, ac_diag *dg, ac_schedule **out)
{
    ac_schedule *sch;
    int rc;

    *out = NULL;
    if (cfg->train_steps < 1 || cfg->train_steps > AC_TRAIN_STEPS_MAX)
        return ac_fail(dg, ADDCL_E_FORMAT, "noise schedule: %d time steps, expected 1 to %d", cfg->train_steps,
                       AC_TRAIN_STEPS_MAX);
    rc = allocate(cfg, dg, &sch);
    if (rc)
        return rc;
    AC_TRY(fill_abar(sch, dg));
    if (cfg->zero_snr)
        rescale_zero_snr(sch->abar, cfg->train_steps);
    sch->cfg.trained_betas = NULL;
    *out = sch;
    return 0;
out:
    ac_schedule_free(sch);
    return rc;
}

int ac_schedule_copy(const ac_schedule *from, bool zero_snr, ac_diag *dg, ac_schedule **out)
{
    ac_schedule_cfg cfg = from->cfg;
    int rc;

    *out = NULL;
    cfg.zero_snr |= zero_snr;
    rc = allocate(&cfg, dg, out);
    if (rc)
        return rc;
    memcpy((*out)->abar, from->abar, (size_t)cfg.train_steps * sizeof *from->abar);
    if (zero_snr && !from->cfg.zero_snr)
        rescale_zero_snr((*out)->abar, cfg.train_steps);
    return 0;
}

void ac_schedule_free(ac_schedule *sch)
{
    free(sch);
}

void ac_schedule_at(const ac_schedule *sch, int t, double *alpha, double *sigma)
{
    *alpha = sqrt(sch->abar[t]);
    *sigma = sqrt(1 - sch->abar[t]);
}

ac_reading ac_reading_of(ac_prediction p, double alpha, double sigma)
{
    switch (p) {
    case AC_PREDICT_V:
        return (ac_reading){alpha, -sigma, sigma, alpha};
    case AC_PREDICT_EPS:
        return (ac_reading){1 / alpha, -sigma / alpha, 0, 1};
    case AC_PREDICT_SAMPLE:
    default:
        return (ac_reading){0, 1, 1 / sigma, -alpha / sigma};
    }
}

void ac_ddim_between(const ac_reading *r, double alpha1, double sigma1, double *of_x, double *of_out)
{
    *of_x = alpha1 * r->x0_x + sigma1 * r->eps_x;
    *of_out = alpha1 * r->x0_out + sigma1 * r->eps_out;
}

/* ---------------------------------------------------------------------------------------------------- parsing */

/* What diffusers' classes take for keys that the file does not have. The first row is that of every class not listed.
 */
typedef struct family {
    const char *name;
    ac_sampler_kind sampler;
    bool same; /* the class is that sampler, not one it stands in for */
    ac_spacing spacing;
    ac_beta_kind betas;
    double beta_start, beta_end;
    bool alpha_to_one;
} family;

static const family families[] = {
    {"", AC_EULER, false, AC_LINSPACE, AC_BETA_LINEAR, 1e-4, 0.02, true},
    {"EulerDiscreteScheduler", AC_EULER, true, AC_LINSPACE, AC_BETA_LINEAR, 1e-4, 0.02, true},
    {"EulerAncestralDiscreteScheduler", AC_EULER_A, true, AC_LINSPACE, AC_BETA_LINEAR, 1e-4, 0.02, true},
    {"DDIMScheduler", AC_DDIM, true, AC_LEADING, AC_BETA_LINEAR, 1e-4, 0.02, true},
    {"LCMScheduler", AC_LCM, true, AC_LEADING, AC_BETA_SCALED_LINEAR, 0.00085, 0.012, true},
    {"DPMSolverMultistepScheduler", AC_DPMPP_2M, true, AC_LINSPACE, AC_BETA_LINEAR, 1e-4, 0.02, true},
    {"PNDMScheduler", AC_EULER, false, AC_LEADING, AC_BETA_LINEAR, 1e-4, 0.02, false},
    {"DDPMScheduler", AC_EULER, false, AC_LEADING, AC_BETA_LINEAR, 1e-4, 0.02, true},
    {"TCDScheduler", AC_EULER, false, AC_LEADING, AC_BETA_SCALED_LINEAR, 0.00085, 0.012, true},
    {"HeunDiscreteScheduler", AC_EULER, false, AC_LINSPACE, AC_BETA_LINEAR, 0.00085, 0.012, true},
    {"KDPM2DiscreteScheduler", AC_EULER, false, AC_LINSPACE, AC_BETA_LINEAR, 0.00085, 0.012, true},
    {"KDPM2AncestralDiscreteScheduler", AC_EULER, false, AC_LINSPACE, AC_BETA_LINEAR, 0.00085, 0.012, true},
    {"DPMSolverSDEScheduler", AC_EULER, false, AC_LINSPACE, AC_BETA_LINEAR, 0.00085, 0.012, true},
};

const char *ac_sampler_class(ac_sampler_kind kind)
{
    size_t i = 0;

    while (!families[i].same || families[i].sampler != kind)
        i++;
    return families[i].name;
}

/* Classes whose noise levels do not come from betas. */
static const char *const foreign[] = {"FlowMatch", "EDM", "CMStochastic", "ScoreSde", "Cosine"};

/* Settings that make x0 or the network's time another thing. */
static const char *const refused_flags[] = {"thresholding", "use_flow_sigmas"};

/* Settings that move sigmas or x0 a little: passed over with a note. Latents have no bounds to clip to; diffusers'
 * Stable Diffusion pipelines switch clip_sample off as well. */
static const char *const ignored_flags[] = {"clip_sample", "use_exponential_sigmas", "use_beta_sigmas",
                                            "use_lu_lambdas"};
static const char *const ignored_names[][2] = {{"interpolation_type", "linear"}, {"final_sigmas_type", "zero"}};
static const char *const ignored_limits[] = {"sigma_min", "sigma_max", "lambda_min_clipped"};

static int find_family(ac_json *j, const family **out)
{
    const char *name = ac_json_str(j, "_class_name", "");

    *out = &families[0];
    if (j->rc < 0)
        return j->rc;
    for (size_t i = 0; i < AC_LEN(foreign); i++)
        if (strncmp(name, foreign[i], strlen(foreign[i])) == 0)
            return ac_fail(j->dg, ADDCL_E_UNSUPPORTED,
                           "%s: %s is not supported: its noise levels do not come from betas", j->path, name);
    for (size_t i = 1; i < AC_LEN(families); i++)
        if (strcmp(name, families[i].name) == 0)
            *out = &families[i];
    if (!(*out)->same)
        ac_note(j->dg, ADDCL_LOG_INFO, "%s: %s is sampled by %s, with the betas, prediction and spacing of this file",
                j->path, *name ? name : "a file without _class_name", ac_sampler_name((*out)->sampler));
    return 0;
}

/* Index of the key's value in `names`; `def` when absent; anything else is an error of j. */
static int choose(ac_json *j, const char *key, const char *const *names, int n, int def)
{
    const char *value = ac_json_str(j, key, NULL);
    int i = value ? find_name(value, names, n) : def;

    if (i >= 0)
        return i;
    j->rc = ac_fail(j->dg, ADDCL_E_UNSUPPORTED, "%s: %s \"%s\" is not supported, expected \"%s\", \"%s\" or \"%s\"",
                    j->path, key, value, names[0], names[1], names[2]);
    return def;
}

static int refuse_unsupported(ac_json *j)
{
    const char *type = ac_json_str(j, "timestep_type", "discrete");

    if (strcmp(type, "discrete") != 0)
        return ac_fail(j->dg, ADDCL_E_UNSUPPORTED, "%s: timestep_type \"%s\" is not supported, expected \"discrete\"",
                       j->path, type);
    for (size_t i = 0; i < AC_LEN(refused_flags); i++)
        if (ac_json_bool(j, refused_flags[i], false))
            return ac_fail(j->dg, ADDCL_E_UNSUPPORTED, "%s: %s is not supported, expected false", j->path,
                           refused_flags[i]);
    return j->rc;
}

static void note_key(const ac_json *j, const char *key)
{
    ac_note(j->dg, ADDCL_LOG_INFO, "%s: %s is ignored", j->path, key);
}

static void note_ignored(ac_json *j)
{
    for (size_t i = 0; i < AC_LEN(ignored_flags); i++)
        if (ac_json_bool(j, ignored_flags[i], false))
            note_key(j, ignored_flags[i]);
    for (size_t i = 0; i < AC_LEN(ignored_names); i++)
        if (strcmp(ac_json_str(j, ignored_names[i][0], ignored_names[i][1]), ignored_names[i][1]) != 0)
            note_key(j, ignored_names[i][0]);
    /* Absent, null, or what no schedule of fill_abar's reaches: -Infinity is the usual lambda_min_clipped. */
    for (size_t i = 0; i < AC_LEN(ignored_limits); i++)
        if (ac_json_num(j, ignored_limits[i], -INFINITY) > -35)
            note_key(j, ignored_limits[i]);
}

static void note_solver(ac_json *j)
{
    const char *algorithm = ac_json_str(j, "algorithm_type", "dpmsolver++");
    const char *solver = ac_json_str(j, "solver_type", "midpoint");
    int order = (int)ac_json_int(j, "solver_order", 2, 1, 3);

    if (strcmp(algorithm, "dpmsolver++") != 0 || strcmp(solver, "midpoint") != 0 || order != 2)
        ac_note(j->dg, ADDCL_LOG_INFO, "%s: %s, %s, order %d is sampled by dpmpp_2m: dpmsolver++, midpoint, order 2",
                j->path, algorithm, solver, order);
}

/* "trained_betas" in new memory, NULL when the file has none. */
static int parse_betas(const ac_json *j, int train_steps, double **out)
{
    const json_t *array = json_object_get(j->obj, "trained_betas");

    *out = NULL;
    if (!ac_json_has(j, "trained_betas"))
        return 0;
    if (!json_is_array(array) || json_array_size(array) != (size_t)train_steps)
        return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: trained_betas is no array of num_train_timesteps = %d numbers",
                       j->path, train_steps);
    if (!(*out = ac_calloc((size_t)train_steps, sizeof **out)))
        return ac_nomem(j->dg, (size_t)train_steps * sizeof **out);
    for (size_t i = 0; i < (size_t)train_steps; i++) /* what is no number reads as 0, which no beta is */
        (*out)[i] = json_number_value(json_array_get(array, i));
    return 0;
}

static int parse_cfg(ac_json *j, const family *f, ac_schedule_cfg *c)
{
    *c = (ac_schedule_cfg){
        .train_steps = (int)ac_json_int(j, "num_train_timesteps", 1000, 1, AC_TRAIN_STEPS_MAX),
        .beta_start = ac_json_num(j, "beta_start", f->beta_start),
        .beta_end = ac_json_num(j, "beta_end", f->beta_end),
        .zero_snr = ac_json_bool(j, "rescale_betas_zero_snr", false),
        .sampler = f->sampler,
        .alpha_to_one = ac_json_bool(j, "set_alpha_to_one", f->alpha_to_one),
        .karras = ac_json_bool(j, "use_karras_sigmas", false),
        .lcm_scale = ac_json_num(j, "timestep_scaling", 10),
    };
    c->betas = (ac_beta_kind)choose(j, "beta_schedule", beta_names, AC_LEN(beta_names), (int)f->betas);
    c->prediction =
        (ac_prediction)choose(j, "prediction_type", prediction_names, AC_LEN(prediction_names), AC_PREDICT_EPS);
    c->spacing = (ac_spacing)choose(j, "timestep_spacing", spacing_names, AC_LEN(spacing_names), (int)f->spacing);
    c->steps_offset = (int)ac_json_int(j, "steps_offset", 0, 0, c->train_steps - 1);
    c->lcm_steps = (int)ac_json_int(j, "original_inference_steps", AC_MIN(50, c->train_steps), 1, c->train_steps);
    return j->rc;
}

int ac_schedule_parse(ac_json *j, ac_schedule **out)
{
    const family *f;
    ac_schedule_cfg cfg;
    double *betas = NULL;
    int rc;

    *out = NULL;
    AC_TRY(find_family(j, &f));
    AC_TRY(parse_cfg(j, f, &cfg));
    AC_TRY(refuse_unsupported(j));
    note_ignored(j);
    if (f->sampler == AC_DPMPP_2M)
        note_solver(j);
    AC_TRY(j->rc);
    AC_TRY(parse_betas(j, cfg.train_steps, &betas));
    if (betas) {
        cfg.betas = AC_BETA_GIVEN;
        cfg.trained_betas = betas;
    }
    rc = ac_schedule_new(&cfg, j->dg, out);
    if (rc < 0)
        ac_context(j->dg, "%s", j->path);
out:
    free(betas);
    return rc;
}
