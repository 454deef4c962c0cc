/* distil.c - see distil.h. */
#include "train/distil.h"

#include <math.h>

#include "diff/loss.h"

static ac_id times(ac_graph *g, const char *name, int B)
{
    return ac_input(g, name, AC_F32, ac_dims(1, B));
}

/* ------------------------------------------------------------------------------------------ consistency */

const char *const ac_lcm_names[AC_LCM_VALUES] = {"s", "s.x", "s.out", "w", "next.x", "next.out", "t", "t.x", "t.out"};

ac_id ac_lcm_loss(ac_graph *g, int B, ac_shape latent, double huber, const ac_denoiser *student, const ac_denoiser *target, const ac_denoiser *teacher)
{
    ac_id x = ac_input(g, "x", AC_F32, latent), s = times(g, "s", B), w = ac_each_input(g, "w", B), f, out, null, next, d;

    f = ac_each_mix(g, B, "s.x", x, "s.out", student->fn(student->user, x, s, false));
    out = teacher->fn(teacher->user, x, s, false);
    null = teacher->fn(teacher->user, x, s, true);
    out = ac_add(g, null, ac_mul(g, w, ac_sub(g, out, null)));
    next = ac_stop(g, ac_each_mix(g, B, "next.x", x, "next.out", out));
    ac_set_output(g, "x_next", next);
    out = target->fn(target->user, next, times(g, "t", B), false);
    out = ac_stop(g, ac_each_mix(g, B, "t.x", next, "t.out", out));
    if (huber <= 0)
        return ac_loss_mse(g, f, out, AC_NONE);
    d = ac_sub(g, f, out);
    return ac_mean_all(g, ac_scale(g, ac_sqrt(g, ac_scale(g, ac_mul(g, d, d), 1, huber * huber)), 1, -huber));
}

/* Near the picture f must be x itself: the scalings of consistency models, for data of deviation 0.5. */
static void boundary(int t, double *c_skip, double *c_out)
{
    const double data = 0.5, scaled = 10.0 * t;

    *c_skip = data * data / (scaled * scaled + data * data);
    *c_out = scaled / sqrt(scaled * scaled + data * data);
}

/* Sets c_skip x + c_out x0. */
static void set_consistent(ac_each *e, int i, int k, int t, const ac_reading *r)
{
    double c_skip, c_out;

    boundary(t, &c_skip, &c_out);
    ac_each_set(e, i, k, c_skip + c_out * r->x0_x);
    ac_each_set(e, i, k + 1, c_out * r->x0_out);
}

void ac_lcm_set(ac_each *e, int i, const ac_schedule *sch, int k, int steps, double w, int *s)
{
    int all = sch->cfg.train_steps, skip = all / steps, at = (k + 1) * skip - 1, to = AC_MAX(at - skip, 0);
    double alpha, sigma, alpha1, sigma1, of_x, of_out;
    ac_reading r, r1;

    ac_schedule_at(sch, at, &alpha, &sigma);
    ac_schedule_at(sch, to, &alpha1, &sigma1);
    r = ac_reading_of(sch->cfg.prediction, alpha, sigma);
    r1 = ac_reading_of(sch->cfg.prediction, alpha1, sigma1);
    ac_ddim_between(&r, alpha1, sigma1, &of_x, &of_out);
    ac_each_set(e, i, AC_LCM_S, *s = at);
    set_consistent(e, i, AC_LCM_S_X, at, &r);
    ac_each_set(e, i, AC_LCM_W, w);
    ac_each_set(e, i, AC_LCM_NEXT_X, of_x);
    ac_each_set(e, i, AC_LCM_NEXT_OUT, of_out);
    ac_each_set(e, i, AC_LCM_T, to);
    set_consistent(e, i, AC_LCM_T_X, to, &r1);
}

/* ------------------------------------------------------------------------------------------ progressive */

const char *const ac_progressive_names[AC_PRO_VALUES] = {"s",     "s.x",     "s.out",  "mid.x", "mid.out", "mid",
                                                         "end.x", "end.out", "to.end", "to.x",  "weight"};

static ac_id guided(ac_graph *g, double guidance, const ac_denoiser *net, ac_id x, ac_id t)
{
    ac_id out = net->fn(net->user, x, t, false);

    return guidance == 1 ? out : ac_add(g, ac_scale(g, out, guidance, 0), ac_scale(g, net->fn(net->user, x, t, true), 1 - guidance, 0));
}

ac_id ac_progressive_loss(ac_graph *g, int B, ac_shape latent, double guidance, const ac_denoiser *student, const ac_denoiser *teacher)
{
    ac_id x = ac_input(g, "x", AC_F32, latent), s = times(g, "s", B), end;

    end = ac_each_mix(g, B, "mid.x", x, "mid.out", guided(g, guidance, teacher, x, s));
    end = ac_each_mix(g, B, "end.x", end, "end.out", guided(g, guidance, teacher, end, times(g, "mid", B)));
    end = ac_stop(g, ac_each_mix(g, B, "to.end", end, "to.x", x));
    ac_set_output(g, "x_tilde", end);
    return ac_loss_mse(g, ac_each_mix(g, B, "s.x", x, "s.out", student->fn(student->user, x, s, false)), end, times(g, "weight", B));
}

/* (alpha, sigma) at the end of part k of `parts`, counted from the picture, which is part 0's beginning; *at: its index, -1 there. */
static void part_at(const ac_schedule *sch, int k, int parts, int *at, double *alpha, double *sigma)
{
    *at = (int)lround((double)sch->cfg.train_steps * k / parts) - 1;
    *alpha = 1;
    *sigma = 0;
    if (*at >= 0)
        ac_schedule_at(sch, *at, alpha, sigma);
}

void ac_progressive_set(ac_each *e, int i, const ac_schedule *sch, int k, int steps, int *s)
{
    double alpha, sigma, a, b, mid_a, mid_b, end_a, end_b, of_x, of_out, to_end;
    int mid, end, at;
    ac_reading r;

    part_at(sch, 2 * k + 2, 2 * steps, &at, &alpha, &sigma);
    part_at(sch, 2 * k + 1, 2 * steps, &mid, &mid_a, &mid_b);
    part_at(sch, 2 * k, 2 * steps, &end, &end_a, &end_b);
    *s = at;
    r = ac_reading_of(sch->cfg.prediction, alpha, sigma);
    ac_each_set(e, i, AC_PRO_S, at);
    ac_each_set(e, i, AC_PRO_S_X, r.x0_x);
    ac_each_set(e, i, AC_PRO_S_OUT, r.x0_out);
    ac_ddim_between(&r, mid_a, mid_b, &of_x, &of_out);
    ac_each_set(e, i, AC_PRO_MID_X, of_x);
    ac_each_set(e, i, AC_PRO_MID_OUT, of_out);
    r = ac_reading_of(sch->cfg.prediction, mid_a, mid_b);
    ac_ddim_between(&r, end_a, end_b, &of_x, &of_out);
    ac_each_set(e, i, AC_PRO_MID, mid);
    ac_each_set(e, i, AC_PRO_END_X, of_x);
    ac_each_set(e, i, AC_PRO_END_OUT, of_out);
    /* end = a x~ + b eps~ with x = alpha x~ + sigma eps~ */
    a = end_a - end_b / sigma * alpha;
    b = end_b / sigma;
    to_end = 1 / a;
    ac_each_set(e, i, AC_PRO_TO_END, to_end);
    ac_each_set(e, i, AC_PRO_TO_X, -b * to_end);
    ac_each_set(e, i, AC_PRO_WEIGHT, fmax(alpha * alpha / (sigma * sigma), 1));
}

/* ------------------------------------------------------------------------------------------ rectified flow */

void ac_reflow_mix(const ac_schedule *sch, int t, const float *x0, const float *noise, size_t n, float *x, float *target)
{
    double alpha, sigma, of_x0, of_noise;

    ac_schedule_at(sch, t, &alpha, &sigma);
    ac_target(sch->cfg.prediction, alpha, sigma, &of_x0, &of_noise);
    for (size_t k = 0; k < n; k++) {
        x[k] = (float)(alpha * (double)x0[k] + sigma * (double)noise[k]);
        target[k] = (float)(of_x0 * (double)x0[k] + of_noise * (double)noise[k]);
    }
}
