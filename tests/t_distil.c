/* t_distil.c - consistency and progressive distillation in closed form: with networks that only scale their input, losses and
 * gradients can be written down; on the device and by the double executor. And what the schedules' numbers must fulfil. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "train/distil.h"

enum { B = 4, N = 2 * 2 * 4 }; /* samples; values of one: together a power of two, whose inverse is exact */

static ac_shape latent(void)
{
    return ac_dims(4, B, 2, 2, 4);
}

/* A network whose output is x times a number; half of that without a caption. */
typedef struct scaler {
    ac_graph *g;
    ac_id factor; /* [1,1] */
} scaler;

static ac_id output_of(void *user, ac_id x, ac_id t, bool null)
{
    const scaler *s = user;

    (void)t;
    return ac_scale(s->g, ac_mul(s->g, x, ac_reshape(s->g, s->factor, ac_dims(4, 1, 1, 1, 1))), null ? 0.5 : 1, 0);
}

static scaler network(ac_graph *g, const char *name)
{
    return (scaler){g, ac_input(g, name, AC_F32, ac_dims(2, 1, 1))};
}

typedef struct trial {
    ac_graph *g;
    ac_each each;
    float x[B * N], student, target, teacher;
    double loss, slope; /* expected: of the loss, and its derivative by the student's factor */
} trial;

static const float *feed_of(const trial *t, const char *name)
{
    if (!strcmp(name, "x"))
        return t->x;
    if (!strcmp(name, "student"))
        return &t->student;
    if (!strcmp(name, "target"))
        return &t->target;
    if (!strcmp(name, "teacher"))
        return &t->teacher;
    for (int k = 0; k < t->each.n; k++)
        if (!strcmp(name, t->each.name[k]))
            return t->each.value + k * B;
    fail_msg("the graph has an input %s", name);
    return NULL;
}

static double value(const trial *t, int k, int i)
{
    return (double)t->each.value[k * B + i];
}

static void near(const char *what, double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * fabs(want)))
        fail_msg("%s: %.12g, not %.12g", what, got, want);
}

/* Loss and slope by the student's factor, on the device and in double. */
static void run(trial *t, ac_id loss, ac_id factor)
{
    double *feeds[32], *out[8];
    size_t inputs = 0;
    float got[2];
    ac_exec *x;
    ac_id slope;

    ac_grad(t->g, loss, AC_NONE, &factor, 1, &slope);
    ac_set_output(t->g, "loss", loss);
    ac_set_output(t->g, "slope", slope);
    assert_int_equal(t->g->rc, 0);
    assert_int_equal(ac_exec_new(test_device(), t->g, NULL, &x), 0);
    for (size_t i = 1; i < t->g->nodes.n; i++) {
        const ac_node *n = &t->g->nodes.p[i];
        size_t count;
        if (!n->name)
            continue;
        count = (size_t)ac_count(&n->shape);
        assert_true(inputs < AC_LEN(feeds));
        assert_non_null(feeds[inputs] = calloc(count, sizeof **feeds));
        for (size_t k = 0; k < count; k++)
            feeds[inputs][k] = (double)feed_of(t, n->name)[k];
        inputs++;
        assert_int_equal(ac_feed(x, n->name, feed_of(t, n->name), count * sizeof(float)), 0);
    }
    assert_int_equal(ac_run(x), 0);
    assert_int_equal(ac_fetch(x, "loss", &got[0], sizeof got[0]), 0);
    assert_int_equal(ac_fetch(x, "slope", &got[1], sizeof got[1]), 0);
    assert_int_equal(ac_ref_run(t->g, (const double *const *)feeds, out), 0);
    near("loss in double", out[t->g->outputs.n - 2][0], t->loss, 1e-9);
    near("slope in double", out[t->g->outputs.n - 1][0], t->slope, 1e-9);
    near("loss", (double)got[0], t->loss, 1e-5);
    near("slope", (double)got[1], t->slope, 1e-5);
    while (inputs)
        free(feeds[--inputs]);
    for (size_t i = 0; i < t->g->outputs.n; i++)
        free(out[i]);
    ac_exec_free(x);
    ac_graph_free(t->g);
    ac_each_close(&t->each);
}

static void begin(trial *t, const char *const *name, int n)
{
    uint64_t seed = 7;

    *t = (trial){.g = ac_graph_new(test_diag(), AC_F32), .student = 0.7f, .target = 0.6f, .teacher = -0.8f};
    assert_non_null(t->g);
    assert_int_equal(ac_each_open(name, n, B, test_diag(), &t->each), 0);
    ac_mix_fill(&seed, t->x, B * N);
}

static ac_schedule *schedule(ac_prediction p, bool zero_snr)
{
    ac_schedule_cfg c = ac_schedule_sd(false);
    ac_schedule *s;

    c.prediction = p;
    c.zero_snr = zero_snr;
    assert_int_equal(ac_schedule_new(&c, test_diag(), &s), 0);
    return s;
}

static void consistency(double huber)
{
    ac_schedule *sch = schedule(AC_PREDICT_V, false);
    scaler student, target, teacher;
    trial t;
    int s;

    begin(&t, ac_lcm_names, AC_LCM_VALUES);
    for (int i = 0; i < B; i++)
        ac_lcm_set(&t.each, i, sch, i * 15, 50, 3 + i, &s);
    for (int i = 0; i < B; i++)
        for (int k = 0; k < N; k++) {
            double x = (double)t.x[i * N + k], cond = (double)t.teacher * x, null = cond / 2, out = null + value(&t, AC_LCM_W, i) * (cond - null);
            double next = value(&t, AC_LCM_NEXT_X, i) * x + value(&t, AC_LCM_NEXT_OUT, i) * out;
            double f = (value(&t, AC_LCM_S_X, i) + value(&t, AC_LCM_S_OUT, i) * (double)t.student) * x;
            double d = f - (value(&t, AC_LCM_T_X, i) + value(&t, AC_LCM_T_OUT, i) * (double)t.target) * next;
            t.loss += (huber > 0 ? sqrt(d * d + huber * huber) - huber : d * d) / (B * N);
            t.slope += (huber > 0 ? d / sqrt(d * d + huber * huber) : 2 * d) * value(&t, AC_LCM_S_OUT, i) * x / (B * N);
        }
    student = network(t.g, "student");
    target = network(t.g, "target");
    teacher = network(t.g, "teacher");
    run(&t, ac_lcm_loss(t.g, B, latent(), huber, &(ac_denoiser){output_of, &student}, &(ac_denoiser){output_of, &target}, &(ac_denoiser){output_of, &teacher}),
        student.factor);
    ac_schedule_free(sch);
}

static void lcm(void **state)
{
    (void)state;
    consistency(0);
    consistency(0.125);
}

static void progressive_loss(double guidance)
{
    ac_schedule *sch = schedule(AC_PREDICT_V, true);
    scaler student, teacher;
    trial t;
    int s;

    begin(&t, ac_progressive_names, AC_PRO_VALUES);
    for (int i = 0; i < B; i++)
        ac_progressive_set(&t.each, i, sch, i, B, &s);
    assert_int_equal(s, sch->cfg.train_steps - 1);
    for (int i = 0; i < B; i++)
        for (int k = 0; k < N; k++) {
            double x = (double)t.x[i * N + k], of = (double)t.teacher * (guidance + (1 - guidance) / 2);
            double mid = (value(&t, AC_PRO_MID_X, i) + value(&t, AC_PRO_MID_OUT, i) * of) * x;
            double end = (value(&t, AC_PRO_END_X, i) + value(&t, AC_PRO_END_OUT, i) * of) * mid;
            double tilde = value(&t, AC_PRO_TO_END, i) * end + value(&t, AC_PRO_TO_X, i) * x;
            double d = (value(&t, AC_PRO_S_X, i) + value(&t, AC_PRO_S_OUT, i) * (double)t.student) * x - tilde;
            t.loss += value(&t, AC_PRO_WEIGHT, i) * d * d / (B * N);
            t.slope += value(&t, AC_PRO_WEIGHT, i) * 2 * d * value(&t, AC_PRO_S_OUT, i) * x / (B * N);
        }
    student = network(t.g, "student");
    teacher = network(t.g, "teacher");
    run(&t, ac_progressive_loss(t.g, B, latent(), guidance, &(ac_denoiser){output_of, &student}, &(ac_denoiser){output_of, &teacher}), student.factor);
    ac_schedule_free(sch);
}

static void progressive(void **state)
{
    (void)state;
    progressive_loss(1);
    progressive_loss(4);
}

/* Where x = alpha x0 + sigma eps and the networks know x0 and eps, every step lands on the path, and x~ and f are x0 but for the
 * boundary: of either prediction. */
static void on_the_path(void **state)
{
    static const ac_prediction kinds[] = {AC_PREDICT_V, AC_PREDICT_EPS};
    const double x0 = 0.4, eps = -1.3;

    (void)state;
    for (size_t p = 0; p < AC_LEN(kinds); p++) {
        ac_schedule *sch = schedule(kinds[p], kinds[p] == AC_PREDICT_V);
        ac_each l, e;
        assert_int_equal(ac_each_open(ac_lcm_names, AC_LCM_VALUES, B, test_diag(), &l), 0);
        assert_int_equal(ac_each_open(ac_progressive_names, AC_PRO_VALUES, B, test_diag(), &e), 0);
        for (int k = 0; k < 8; k++) {
            double alpha, sigma, a, b, x, out, mid, end, tilde;
            int s;
            ac_progressive_set(&e, 1, sch, k, 8, &s);
            ac_schedule_at(sch, s, &alpha, &sigma);
            x = alpha * x0 + sigma * eps;
            out = kinds[p] == AC_PREDICT_V ? alpha * eps - sigma * x0 : eps;
            assert_true(fabs((double)e.value[AC_PRO_S_X * B + 1] * x + (double)e.value[AC_PRO_S_OUT * B + 1] * out - x0) < 1e-4);
            mid = (double)e.value[AC_PRO_MID_X * B + 1] * x + (double)e.value[AC_PRO_MID_OUT * B + 1] * out;
            ac_schedule_at(sch, (int)e.value[AC_PRO_MID * B + 1], &a, &b);
            assert_true(fabs(mid - (a * x0 + b * eps)) < 1e-4);
            out = kinds[p] == AC_PREDICT_V ? a * eps - b * x0 : eps;
            end = (double)e.value[AC_PRO_END_X * B + 1] * mid + (double)e.value[AC_PRO_END_OUT * B + 1] * out;
            tilde = (double)e.value[AC_PRO_TO_END * B + 1] * end + (double)e.value[AC_PRO_TO_X * B + 1] * x;
            assert_true(fabs(tilde - x0) < 1e-3);
            if (k == 0)
                assert_true(fabs(end - x0) < 1e-4);
        }
        for (int k = 0; k < 50; k += 7) {
            double alpha, sigma, a, b, x, out, next;
            int s;
            ac_lcm_set(&l, 2, sch, k, 50, 1, &s);
            assert_int_equal(s, 20 * k + 19);
            ac_schedule_at(sch, s, &alpha, &sigma);
            if (alpha == 0)
                continue;
            x = alpha * x0 + sigma * eps;
            out = kinds[p] == AC_PREDICT_V ? alpha * eps - sigma * x0 : eps;
            next = (double)l.value[AC_LCM_NEXT_X * B + 2] * x + (double)l.value[AC_LCM_NEXT_OUT * B + 2] * out;
            ac_schedule_at(sch, (int)l.value[AC_LCM_T * B + 2], &a, &b);
            assert_true(fabs(next - (a * x0 + b * eps)) < 1e-4);
            if (k > 0)
                assert_true(fabs((double)l.value[AC_LCM_S_X * B + 2] * x + (double)l.value[AC_LCM_S_OUT * B + 2] * out - x0) < 5e-3);
        }
        ac_lcm_set(&l, 0, sch, 0, 50, 1, &(int){0});
        assert_int_equal((int)l.value[AC_LCM_T * B], 0);
        assert_true(fabs((double)l.value[AC_LCM_T_X * B] - 1) < 1e-6 && fabs((double)l.value[AC_LCM_T_OUT * B]) < 1e-6); /* f is x itself */
        ac_each_close(&l);
        ac_each_close(&e);
        ac_schedule_free(sch);
    }
}

/* What a rectified flow sees lies on the line from picture to noise, and from what it shall say both follow: on each schedule. */
static void reflow(void **state)
{
    static const ac_prediction kinds[] = {AC_PREDICT_V, AC_PREDICT_EPS};
    const float x0 = 0.3f, noise = -1.1f;

    (void)state;
    for (size_t p = 0; p < AC_LEN(kinds); p++) {
        ac_schedule *sch = schedule(kinds[p], kinds[p] == AC_PREDICT_V);
        for (int t = 0; t < sch->cfg.train_steps; t += 111) {
            double alpha, sigma, share;
            ac_reading r;
            float x, target;
            ac_reflow_mix(sch, t, &x0, &noise, 1, &x, &target);
            ac_schedule_at(sch, t, &alpha, &sigma);
            share = sigma / (alpha + sigma);
            near("on the line", (double)x / (alpha + sigma), (double)x0 + share * ((double)noise - (double)x0), 1e-5);
            if (alpha == 0)
                continue;
            r = ac_reading_of(kinds[p], alpha, sigma);
            assert_true(fabs(r.x0_x * (double)x + r.x0_out * (double)target - (double)x0) < 1e-4);
            assert_true(fabs(r.eps_x * (double)x + r.eps_out * (double)target - (double)noise) < 1e-4);
        }
        ac_schedule_free(sch);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lcm), cmocka_unit_test(progressive), cmocka_unit_test(on_the_path),
                                       cmocka_unit_test(reflow)};

    return cmocka_run_group_tests_name("distil", tests, device_setup, device_teardown);
}
