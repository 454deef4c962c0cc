/* schedule.h - noise schedules: how much signal is left at each time step a diffusion model was trained on.
 *
 * At time step t = 0 .. train_steps-1 the model saw x_t = alpha x0 + sigma n, alpha^2 + sigma^2 = 1, alpha^2 = abar[t]
 * = product of (1 - beta) up to t. Settings, names and defaults are those of diffusers' scheduler_config.json. */
#ifndef AC_SCHEDULE_H
#define AC_SCHEDULE_H

#include "io/json.h"

typedef enum ac_sampler_kind { AC_EULER, AC_EULER_A, AC_DDIM, AC_LCM, AC_DPMPP_2M } ac_sampler_kind;
/* What the network's output means: the noise n, v = alpha n - sigma x0, or x0. */
typedef enum ac_prediction { AC_PREDICT_EPS, AC_PREDICT_V, AC_PREDICT_SAMPLE } ac_prediction;
/* How n sampling steps are spread over the time steps (Lin et al. 2023, table 2). */
typedef enum ac_spacing { AC_TRAILING, AC_LEADING, AC_LINSPACE } ac_spacing;
typedef enum ac_beta_kind { AC_BETA_LINEAR, AC_BETA_SCALED_LINEAR, AC_BETA_COSINE, AC_BETA_GIVEN } ac_beta_kind;

typedef struct ac_schedule_cfg {
    int train_steps;             /* num_train_timesteps, 1..AC_TRAIN_STEPS_MAX */
    ac_beta_kind betas;          /* linear in beta, linear in sqrt(beta), squaredcos_cap_v2, or a table */
    double beta_start, beta_end; /* of the two linear kinds */
    const double *trained_betas; /* [train_steps], AC_BETA_GIVEN only; borrowed while ac_schedule_new runs */
    bool zero_snr;               /* rescale_betas_zero_snr: abar[train_steps-1] is 0 */
    ac_prediction prediction;
    ac_sampler_kind sampler; /* the model's own choice */
    ac_spacing spacing;
    int steps_offset;  /* added to each time step of the leading spacing */
    bool alpha_to_one; /* DDIM: alpha is 1 behind the last step, else that of time step 0 */
    bool karras;       /* use_karras_sigmas, of euler and dpmpp_2m */
    int lcm_steps;     /* original_inference_steps: the steps that LCM's schedule is chosen from */
    double lcm_scale;  /* timestep_scaling of LCM's boundary condition */
} ac_schedule_cfg;

#define AC_TRAIN_STEPS_MAX 100000

/* prediction, sampler, spacing may be changed after construction; the rest describes abar. */
typedef struct ac_schedule {
    ac_schedule_cfg cfg;
    double abar[]; /* [train_steps], strictly falling from below 1 */
} ac_schedule;

/* Stable Diffusion 1, 2 and XL as published: scaled linear betas, noise prediction, euler. few_step: the turbo models'
 * trailing spacing, else leading with offset 1. */
ac_schedule_cfg ac_schedule_sd(bool few_step);

AC_CHECK_RESULT int ac_schedule_new(const ac_schedule_cfg *cfg, ac_diag *dg, ac_schedule **out);
/* A copy; zero_snr: which ends in noise alone, as one that does so already stays. */
AC_CHECK_RESULT int ac_schedule_copy(const ac_schedule *from, bool zero_snr, ac_diag *dg, ac_schedule **out);
/* From an opened scheduler_config.json. The class chooses the sampler and the defaults of absent keys. A class whose
 * sampler add-cl lacks becomes euler on that file's betas, prediction and spacing, and settings that only refine a
 * sampler are ignored, each told by a note. Classes without betas (flow matching, EDM) and settings that change what
 * the network is asked are E_UNSUPPORTED. */
AC_CHECK_RESULT int ac_schedule_parse(ac_json *j, ac_schedule **out);
void ac_schedule_free(ac_schedule *sch); /* accepts NULL */

/* Shares of signal and noise at time step t, 0 <= t < train_steps. */
void ac_schedule_at(const ac_schedule *sch, int t, double *alpha, double *sigma);

/* What a network's output means: x0 = x0_x x + x0_out out, eps = eps_x x + eps_out out, for x = alpha x0 + sigma eps. */
typedef struct ac_reading {
    double x0_x, x0_out, eps_x, eps_out;
} ac_reading;
ac_reading ac_reading_of(ac_prediction p, double alpha, double sigma);
/* One step of DDIM without noise from there to (alpha1, sigma1): x1 = *of_x x + *of_out out. */
void ac_ddim_between(const ac_reading *r, double alpha1, double sigma1, double *of_x, double *of_out);

/* Index of a name, -1 when it is none. Prediction: "epsilon" "v_prediction" "sample", short "eps" "v". */
int ac_sampler_by_name(const char *name);
int ac_prediction_by_name(const char *name);
int ac_spacing_by_name(const char *name);
const char *ac_sampler_name(ac_sampler_kind kind);        /* "euler" "euler_a" "ddim" "lcm" "dpmpp_2m" */
const char *ac_sampler_class(ac_sampler_kind kind);       /* diffusers' class: "EulerDiscreteScheduler" and so on */
const char *ac_prediction_name(ac_prediction prediction); /* "epsilon" "v_prediction" "sample" */
const char *ac_spacing_name(ac_spacing spacing);          /* "trailing" "leading" "linspace" */

#endif
