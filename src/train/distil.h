/* distil.h - losses of students that have a teacher and no adversary, as graphs over networks given as functions. */
#ifndef AC_DISTIL_H
#define AC_DISTIL_H

#include "train/student.h"

/* A network's output [B,h,w,C] for x [B,h,w,C] at time steps t [B]; null: without captions. */
typedef struct ac_denoiser {
    ac_id (*fn)(void *user, ac_id x, ac_id t, bool null);
    void *user;
} ac_denoiser;

/* ---- Consistency distillation as of latent consistency models (Luo et al. 2023), without embedding the guidance. The teacher takes one
 * step of DDIM with guidance; what the student makes of x before it shall be what the target, the student's average, makes of x
 * behind it:
 *     f(x, t) = c_skip(t) x + c_out(t) x0(x, t)     mean over elements of sqrt(d^2 + huber^2) - huber, d = f_student - stop(f_target)
 * huber 0: mean of d^2. Inputs: x [B,h,w,C]; of each sample those of ac_lcm_names. Output "x_next". */
ac_id ac_lcm_loss(ac_graph *g, int B, ac_shape latent, double huber, const ac_denoiser *student, const ac_denoiser *target, const ac_denoiser *teacher);
enum { AC_LCM_S, AC_LCM_S_X, AC_LCM_S_OUT, AC_LCM_W, AC_LCM_NEXT_X, AC_LCM_NEXT_OUT, AC_LCM_T, AC_LCM_T_X, AC_LCM_T_OUT, AC_LCM_VALUES };
extern const char *const ac_lcm_names[AC_LCM_VALUES];
/* Sample i, at step k = 0 .. steps-1 of DDIM's (k = 0 ends near the picture), guidance w (1: none); *s: the student's time step. */
void ac_lcm_set(ac_each *e, int i, const ac_schedule *sch, int k, int steps, double w, int *s);

/* ---- Progressive distillation (Salimans and Ho 2022): one step of the student shall be two of the teacher, by DDIM. With x~ the picture
 * from which a single step would end where the teacher does, mean over samples of max(SNR, 1) times the mean of (x^ - x~)^2. Inputs as
 * above, with ac_progressive_names. guidance of the teacher; 1: none. */
ac_id ac_progressive_loss(ac_graph *g, int B, ac_shape latent, double guidance, const ac_denoiser *student, const ac_denoiser *teacher);
enum {
    AC_PRO_S, AC_PRO_S_X, AC_PRO_S_OUT,      /* the student's x^ */
    AC_PRO_MID_X, AC_PRO_MID_OUT, AC_PRO_MID, /* the teacher's first step, and the time step of its second */
    AC_PRO_END_X, AC_PRO_END_OUT,
    AC_PRO_TO_END, AC_PRO_TO_X,              /* x~ = to_end x_end + to_x x */
    AC_PRO_WEIGHT, AC_PRO_VALUES
};
extern const char *const ac_progressive_names[AC_PRO_VALUES];
/* Sample i at the student's step k = 0 .. steps-1, k = 0 ends in the picture. *s: its time step. sch: the student's schedule, on
 * which the teacher is asked, too. */
void ac_progressive_set(ac_each *e, int i, const ac_schedule *sch, int k, int steps, int *s);

/* ---- Rectified flow (Liu et al. 2023; InstaFlow) for a model of diffusion: it is trained as ever, mean squared error of its
 * prediction, but noise and picture belong together. Divided by alpha + sigma, what it sees lies on the straight line between them.
 * x: what it sees of n numbers at time step t; target: what it shall say. */
void ac_reflow_mix(const ac_schedule *sch, int t, const float *x0, const float *noise, size_t n, float *x, float *target);

#endif
