/* sampler.h - samplers as recipes: what each step does to the latent, in numbers that a device kernel can take.
 *
 * Every sampler here is linear in its tensors, so a step is seven coefficients, made in double on the host:
 *     out    = network(in_scale x, t)
 *     x0     = a_x x + a_out out                                     the estimate of the finished latent
 *     x_next = c_x x + c_x0 x0 + c_prev x0_prev + c_noise noise      x0_prev: x0 of the step before
 * The formulas follow diffusers 0.42, whose trajectories they repeat. */
#ifndef AC_SAMPLER_H
#define AC_SAMPLER_H

#include "diff/schedule.h"

typedef struct ac_step {
    double t; /* time step for the network, a whole number unless euler, euler_a interpolate */
    double sigma,
        sigma_next; /* noise over signal before and after the step; INFINITY: no signal; last sigma_next mostly 0 */
    double in_scale;
    double a_x, a_out;
    double c_x, c_x0, c_prev, c_noise;
    bool wants_noise; /* unit noise is drawn from the generator in this step, even where c_noise is 0 */
} ac_step;

typedef struct ac_sampler {
    ac_sampler_kind kind;
    size_t n, start;     /* steps start..n-1 are run; start > 0: image to image */
    double init_sigma;   /* text to image: x = init_sigma * unit noise */
    double k_x, k_noise; /* image to image: x = k_x latent + k_noise unit noise, before step `start` */
    ac_step step[];
} ac_sampler;

/* Which steps to take: explicit sigmas, else explicit time steps, else `steps` of the schedule's own spacing. */
typedef struct ac_sampler_opts {
    ac_sampler_kind kind;
    int steps; /* 1..train_steps; lcm: at most lcm_steps */
    const double
        *timesteps; /* [n_timesteps], falling, in [0, train_steps-1]; whole numbers except for euler, euler_a */
    size_t n_timesteps;
    const double *sigmas; /* [n_sigmas], falling, above 0 (a 0 at the end is dropped); euler, euler_a, dpmpp_2m */
    size_t n_sigmas;
    double strength; /* image to image: run the last int(n strength) steps only, 0 < strength <= 1; 0: run all */
    double eta;      /* ddim: 0 (deterministic) .. 1 (as noisy as DDPM) */
} ac_sampler_opts;

/* E_ARG, in the user's words, for steps, time steps, sigmas, strength or eta that give no usable schedule. */
AC_CHECK_RESULT int ac_sampler_new(const ac_schedule *sch, const ac_sampler_opts *opts, ac_diag *dg, ac_sampler **out);
void ac_sampler_free(ac_sampler *s); /* accepts NULL */

#endif
