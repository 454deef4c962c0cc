/* t_optim.c - the optimiser's ops on variables, over several steps, against plain loops in double precision.
 *
 * `t_optim speed` times them beside a copy instead. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "ops/ops.h"


static void ok(int rc)
{
    if (rc < 0)
        fail_msg("%s", test_diag()->msg);
}

static ac_graph *new_graph(void)
{
    ac_graph *g = ac_graph_new(test_diag(), AC_F32);
    assert_non_null(g);
    return g;
}

static ac_exec *new_exec(const ac_graph *g)
{
    ac_exec *x = NULL;
    ok(ac_exec_new(test_device(), g, NULL, &x));
    return x;
}

static ac_var *new_var(const char *name, int n)
{
    ac_var *v = NULL;
    ok(ac_var_new(test_device(), name, AC_F32, ac_dims(1, n), &v));
    return v;
}

/* ------------------------------------------------------------------------------------------ Adam */

/* The tensors of one parameter, on the device and in double. */
enum { P, M, V, EMA, STATES };

typedef struct trial {
    int n;
    bool ema, decoupled;
    double rate, largest; /* factor of the learning rate; norm to clip to */
    ac_adam_cfg cfg;
    ac_var *var[STATES];
    double *want[STATES];
    ac_graph *g;
    ac_exec *x;
} trial;

static void trial_new(trial *t)
{
    static const char *const names[] = {"p", "m", "v", "ema"};
    float *start = calloc((size_t)t->n, sizeof *start);
    ac_id state[STATES], grad, hyper;
    uint64_t seed = 3;

    assert_non_null(start);
    ac_mix_fill(&seed, start, (size_t)t->n);
    t->g = new_graph();
    for (int k = 0; k < STATES; k++) {
        t->var[k] = new_var(names[k], t->n);
        assert_non_null(t->want[k] = calloc((size_t)t->n, sizeof(double)));
        state[k] = k == EMA && !t->ema ? AC_NONE : ac_state(t->g, t->var[k]);
        if (k == M || k == V)
            continue;
        ok(ac_var_write(t->var[k], start));
        for (int i = 0; i < t->n; i++)
            t->want[k][i] = (double)start[i];
    }
    grad = ac_input(t->g, "grad", AC_F32, ac_dims(1, t->n));
    hyper = ac_clip_factor(t->g, ac_input(t->g, "hyper", AC_F32, ac_dims(1, AC_HYPERS)), ac_sum_squares(t->g, &grad, 1),
                           t->largest);
    ac_adam(t->g, &(ac_adam_in){.p = state[P],
                                .grad = grad,
                                .m = state[M],
                                .v = state[V],
                                .ema = state[EMA],
                                .hyper = hyper,
                                .rate = t->rate,
                                .decoupled = t->decoupled});
    t->x = new_exec(t->g);
    free(start);
}

static void trial_free(trial *t)
{
    ac_exec_free(t->x);
    ac_graph_free(t->g);
    for (int k = 0; k < STATES; k++) {
        ac_var_free(t->var[k]);
        free(t->want[k]);
    }
}

static void device_step(trial *t, int step, const float *grad)
{
    float h[AC_HYPERS];

    ac_adam_hyper(&t->cfg, step, h);
    ok(ac_feed(t->x, "hyper", h, sizeof h));
    ok(ac_feed(t->x, "grad", grad, (size_t)t->n * sizeof *grad));
    ok(ac_run(t->x));
}

/* As torch.optim.AdamW and torch.optim.Adam document it. */
static void double_step(trial *t, int step, const float *grad)
{
    const ac_adam_cfg *c = &t->cfg;
    double lr = c->lr * t->rate, c1 = 1 - pow(c->beta1, step), c2 = 1 - pow(c->beta2, step), norm = 0, clip = 1;

    for (int i = 0; i < t->n; i++)
        norm += (double)grad[i] * (double)grad[i];
    norm = sqrt(norm);
    if (t->largest > 0 && norm + 1e-6 > t->largest)
        clip = t->largest / (norm + 1e-6);
    for (int i = 0; i < t->n; i++) {
        double *p = &t->want[P][i], *m = &t->want[M][i], *v = &t->want[V][i], *e = &t->want[EMA][i],
               g = clip * (double)grad[i];
        if (t->decoupled)
            *p *= 1 - lr * c->decay;
        else
            g += c->decay * *p;
        *m = c->beta1 * *m + (1 - c->beta1) * g;
        *v = c->beta2 * *v + (1 - c->beta2) * g * g;
        *p -= lr * (*m / c1) / (sqrt(*v / c2) + c->eps);
        *e = c->ema * *e + (1 - c->ema) * *p;
    }
}

static void compare(const trial *t, const char *when)
{
    float *got = calloc((size_t)t->n, sizeof *got);

    assert_non_null(got);
    for (int k = 0; k < STATES; k++) {
        if (k == EMA && !t->ema)
            continue;
        ok(ac_var_read(t->var[k], got));
        for (int i = 0; i < t->n; i++)
            if (!(fabs((double)got[i] - t->want[k][i]) <= 1e-6)) /* of values around 1 */
                fail_msg("%s, %d elements: tensor %d, element %d is %.9g, expected %.9g", when, t->n, k, i,
                         (double)got[i], t->want[k][i]);
    }
    free(got);
}

/* Eight steps, the fourth with a NaN among its gradients: it changes nothing and is not counted. */
static void steps(trial *t)
{
    float *grad = calloc((size_t)t->n, sizeof *grad);
    uint64_t seed = 17;
    char when[32];

    assert_non_null(grad);
    trial_new(t);
    for (int k = 0, step = 1; k < 8; k++) {
        ac_mix_fill(&seed, grad, (size_t)t->n);
        if (k == 3)
            grad[t->n / 2] = NAN;
        device_step(t, step, grad);
        if (k != 3)
            double_step(t, step++, grad);
        snprintf(when, sizeof when, "run %d", k);
        compare(t, when);
    }
    trial_free(t);
    free(grad);
}

static const ac_adam_cfg usual = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 1e-2, .ema = 0.99};

static void adam(void **state)
{
    static const int sizes[] = {1, 17, 4097};

    (void)state;
    for (size_t s = 0; s < AC_LEN(sizes); s++)
        for (int kind = 0; kind < 4; kind++)
            steps(&(trial){.n = sizes[s], .ema = kind & 1, .decoupled = kind & 2, .rate = 1, .cfg = usual});
}

static void adam_settings(void **state)
{
    ac_adam_cfg gan = usual, plain = usual, long_average = usual;

    (void)state;
    gan.beta1 = 0; /* StyleGAN's Adam */
    gan.beta2 = 0.99;
    plain.decay = 0;
    long_average.ema = 0.9999;
    steps(&(trial){.n = 100, .ema = true, .decoupled = true, .rate = 1, .cfg = gan});
    steps(&(trial){.n = 100, .ema = true, .rate = 1, .cfg = plain});
    steps(&(trial){.n = 100, .ema = true, .decoupled = true, .rate = 0.125, .cfg = long_average});
    steps(&(trial){.n = 100, .ema = true, .decoupled = true, .rate = 1, .largest = 0.5, .cfg = usual});
    steps(&(trial){.n = 100, .ema = true, .decoupled = true, .rate = 1, .largest = 1e6, .cfg = usual});
    steps(&(trial){.n = 100, .ema = true, .decoupled = true, .rate = 0, .cfg = usual});
}

/* The first step moves every element by lr towards -sign(g), whatever the size of g. */
static void adam_first_step(void **state)
{
    static const float grad[] = {1e-4f, -1e-4f, 1, -1, 100, -100, 0};
    trial t = {.n = AC_LEN(grad), .decoupled = true, .rate = 1, .cfg = usual};
    float before[AC_LEN(grad)], after[AC_LEN(grad)];

    (void)state;
    t.cfg.decay = 0;
    trial_new(&t);
    ok(ac_var_read(t.var[P], before));
    device_step(&t, 1, grad);
    ok(ac_var_read(t.var[P], after));
    for (size_t i = 0; i < AC_LEN(grad); i++) {
        float sign = grad[i] > 0 ? 1 : grad[i] < 0 ? -1 : 0;
        assert_true(fabsf(before[i] - after[i] - 0.01f * sign) < 2e-6f);
    }
    trial_free(&t);
}

/* The average of a parameter at rest moves by (1 - decay) of its distance even where that is tiny. */
static void average_is_exact(void **state)
{
    enum { N = 3 };
    trial t = {.n = N, .ema = true, .decoupled = true, .rate = 1, .cfg = usual};
    float one[N] = {1, 1, 1}, zero[N] = {0}, e[N];

    (void)state;
    t.cfg.decay = 0;
    t.cfg.ema = 0.9999;
    trial_new(&t);
    ok(ac_var_write(t.var[P], one));
    ok(ac_var_write(t.var[EMA], zero));
    device_step(&t, 1, zero);
    ok(ac_var_read(t.var[EMA], e));
    assert_true(fabs((double)e[0] - 1e-4) < 1e-10);
    trial_free(&t);
}

/* ------------------------------------------------------------------------------------------ norm and clipping */

/* Several tensors, one of them large and of equal values, whose squares must not get lost in the sum. */
static void square_sum(void **state)
{
    enum { N = 5 };
    static const int sizes[N] = {1, 17, 3000001, 4097, 256};
    ac_graph *g = new_graph();
    ac_id x[N];
    ac_exec *e;
    double want = 0;
    float got;
    char name[8];

    (void)state;
    for (int k = 0; k < N; k++) {
        snprintf(name, sizeof name, "%d", k);
        x[k] = ac_input(g, name, AC_F32, ac_dims(1, sizes[k]));
    }
    ac_set_output(g, "y", ac_sum_squares(g, x, N));
    e = new_exec(g);
    for (int k = 0; k < N; k++) {
        float *v = calloc((size_t)sizes[k], sizeof *v);
        assert_non_null(v);
        for (int i = 0; i < sizes[k]; i++) {
            v[i] = 0.1f + (float)k;
            want += (double)v[i] * (double)v[i];
        }
        snprintf(name, sizeof name, "%d", k);
        ok(ac_feed(e, name, v, (size_t)sizes[k] * sizeof *v));
        free(v);
    }
    ok(ac_run(e));
    ok(ac_fetch(e, "y", &got, sizeof got));
    assert_true(fabs((double)got - want) < 1e-6 * want);
    ac_exec_free(e);
    ac_graph_free(g);
}

static float clipped(double largest, float factor, float total)
{
    ac_graph *g = new_graph();
    ac_id h = ac_input(g, "h", AC_F32, ac_dims(1, AC_HYPERS)), t = ac_input(g, "t", AC_F32, ac_dims(1, 1));
    float v[AC_HYPERS], got[AC_HYPERS];
    ac_exec *x;

    for (int i = 0; i < AC_HYPERS; i++)
        v[i] = (float)(i + 1);
    v[AC_HYPER_FACTOR] = factor;
    ac_set_output(g, "y", ac_clip_factor(g, h, t, largest));
    x = new_exec(g);
    ok(ac_feed(x, "h", v, sizeof v));
    ok(ac_feed(x, "t", &total, sizeof total));
    ok(ac_run(x));
    ok(ac_fetch(x, "y", got, sizeof got));
    for (int i = 0; i < AC_HYPERS; i++)
        assert_true(i == AC_HYPER_FACTOR || got[i] == v[i]);
    ac_exec_free(x);
    ac_graph_free(g);
    return got[AC_HYPER_FACTOR];
}

static void clipping(void **state)
{
    (void)state;
    assert_true(clipped(0, 1, 9) == 1);
    assert_true(clipped(4, 1, 9) == 1);
    assert_true(clipped(4, 1, 0) == 1);
    assert_true(fabsf(clipped(1.5, 1, 9) - 0.5f) < 1e-6f);
    assert_true(fabsf(clipped(1.5, 0.25f, 9) - 0.25f) < 1e-6f); /* the norm is 0.75 */
    assert_true(fabsf(clipped(0.5, 0.25f, 9) - 0.25f * 0.5f / 0.75f) < 1e-6f);
    assert_true(isnan(clipped(0, 1, NAN)));
    assert_true(isnan(clipped(4, 1, INFINITY)));
}

/* A factor that says so, and one that is not a number, leave everything as it is bit by bit. */
static void skipping(void **state)
{
    static const float bad[] = {-1, NAN, INFINITY, -INFINITY};
    trial t = {.n = 33, .ema = true, .decoupled = true, .rate = 1, .cfg = usual};
    float grad[33], h[AC_HYPERS], before[33], after[33];
    uint64_t seed = 8;

    (void)state;
    ac_mix_fill(&seed, grad, AC_LEN(grad));
    trial_new(&t);
    device_step(&t, 1, grad);
    ac_adam_hyper(&t.cfg, 2, h);
    for (size_t b = 0; b < AC_LEN(bad); b++)
        for (int k = 0; k < STATES; k++) {
            h[AC_HYPER_FACTOR] = bad[b];
            ok(ac_feed(t.x, "hyper", h, sizeof h));
            ok(ac_var_read(t.var[k], before));
            ok(ac_run(t.x));
            ok(ac_var_read(t.var[k], after));
            assert_memory_equal(before, after, sizeof before);
        }
    trial_free(&t);
}

/* ------------------------------------------------------------------------------------------ accumulate and store */

static void accumulation(void **state)
{
    enum { N = 4097 };
    float *x = calloc(N, sizeof *x), *got = calloc(N, sizeof *got);
    double *want = calloc(N, sizeof *want);
    ac_var *sum = new_var("sum", N), *last = new_var("last", N);
    ac_graph *g = new_graph();
    ac_id in = ac_input(g, "x", AC_F32, ac_dims(1, N));
    uint64_t seed = 1;
    ac_exec *e;

    (void)state;
    assert_true(x && got && want);
    ac_accumulate(g, ac_state(g, sum), in, 0.25);
    ac_store(g, ac_state(g, last), ac_scale(g, in, 2, 0));
    e = new_exec(g);
    for (int k = 0; k < 4; k++) {
        ac_mix_fill(&seed, x, N);
        ok(ac_feed(e, "x", x, N * sizeof *x));
        ok(ac_run(e));
        for (int i = 0; i < N; i++)
            want[i] += 0.25 * (double)x[i];
    }
    ok(ac_var_read(sum, got));
    for (int i = 0; i < N; i++)
        assert_true(fabs((double)got[i] - want[i]) < 3e-7);
    ok(ac_var_read(last, got));
    for (int i = 0; i < N; i++)
        assert_true(got[i] == 2 * x[i]);
    ac_exec_free(e);
    ac_graph_free(g);
    ac_var_free(sum);
    ac_var_free(last);
    free(x);
    free(got);
    free(want);
}

/* Wrong sizes are errors of the graph, not of memory. */
static void wrong_shapes(void **state)
{
    ac_id in[4], ema[] = {AC_NONE, AC_NONE};
    ac_graph *g;

    (void)state;
    for (int bad = 0; bad < 4; bad++) {
        g = new_graph();
        for (int k = 0; k < 4; k++)
            in[k] = ac_input(g, (const char *[]){"a", "b", "c", "d"}[k], AC_F32, ac_dims(1, k == bad ? 6 : 5));
        ema[1] = ac_input(g, "e", AC_F32, ac_dims(1, 5));
        ac_adam(g, &(ac_adam_in){.p = in[0],
                                 .grad = in[1],
                                 .m = in[2],
                                 .v = in[3],
                                 .ema = ema[bad & 1],
                                 .hyper = ac_input(g, "h", AC_F32, ac_dims(1, AC_HYPERS)),
                                 .rate = 1});
        assert_int_equal(g->rc, ADDCL_E_SHAPE);
        ac_graph_free(g);
    }
    g = new_graph();
    in[0] = ac_input(g, "a", AC_F32, ac_dims(1, 5));
    ac_accumulate(g, in[0], ac_input(g, "b", AC_F32, ac_dims(2, 1, 5)), 1);
    assert_int_equal(g->rc, ADDCL_E_SHAPE);
    ac_graph_free(g);
    g = new_graph();
    in[0] = ac_input(g, "h", AC_F32, ac_dims(1, AC_HYPERS - 1));
    ac_clip_factor(g, in[0], ac_input(g, "t", AC_F32, ac_dims(1, 1)), 1);
    assert_int_equal(g->rc, ADDCL_E_SHAPE);
    ac_graph_free(g);
}

/* ------------------------------------------------------------------------------------------ speed */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one run, the best of several. */
static double best_run(ac_exec *x)
{
    double best = 1e30;

    for (int i = 0; i < 12; i++) {
        double t = now();
        ok(ac_run(x));
        ok(ac_dev_finish(test_device()));
        best = AC_MIN(best, now() - t);
    }
    return best;
}

static double best_copy(size_t bytes)
{
    ac_buf *x = NULL, *y = NULL;
    double best = 1e30;

    ok(ac_buf_new(test_device(), bytes, &x));
    ok(ac_buf_new(test_device(), bytes, &y));
    ok(ac_buf_fill(test_device(), x, 0, bytes));
    for (int i = 0; i < 12; i++) {
        double t = now();
        ok(ac_buf_copy(test_device(), y, x, bytes));
        ok(ac_dev_finish(test_device()));
        best = AC_MIN(best, now() - t);
    }
    ac_buf_free(test_device(), x);
    ac_buf_free(test_device(), y);
    return best;
}

/* Bytes that must move, by element: Adam reads p, g, m, v, ema and writes all but g. */
static void speed(void **state)
{
    enum { N = 16 << 20, SMALL = 200, SMALL_N = 3000 };
    trial t = {.n = N, .ema = true, .decoupled = true, .rate = 1, .cfg = usual};
    double copy = 2.0 * N * 4 / best_copy((size_t)N * 4) * 1e-9, s;
    float *grad = calloc(N, sizeof *grad);
    ac_graph *g = new_graph();
    ac_id x[SMALL];
    ac_exec *e;

    (void)state;
    assert_non_null(grad);
    trial_new(&t);
    device_step(&t, 1, grad);
    free(grad);
    s = best_run(t.x); /* with the norm, which reads the gradient once more */
    print_message("# copy %.1f GB/s\n# sum_squares and adam: %.1f ms, %.1f GB/s, %.0f %% of a copy\n", copy, s * 1e3,
                  10.0 * 4 * N / s * 1e-9, 10.0 * 4 * N / s * 1e-7 / copy);
    trial_free(&t);
    for (int k = 0; k < SMALL; k++) {
        char name[8];
        snprintf(name, sizeof name, "%d", k);
        x[k] = ac_input(g, name, AC_F32, ac_dims(1, SMALL_N));
    }
    ac_set_output(g, "y", ac_sum_squares(g, x, SMALL));
    e = new_exec(g);
    print_message("# norm of %d tensors of %d: %.2f ms\n", SMALL, SMALL_N, best_run(e) * 1e3);
    ac_exec_free(e);
    ac_graph_free(g);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(adam),
                                       cmocka_unit_test(adam_settings),
                                       cmocka_unit_test(adam_first_step),
                                       cmocka_unit_test(average_is_exact),
                                       cmocka_unit_test(square_sum),
                                       cmocka_unit_test(clipping),
                                       cmocka_unit_test(skipping),
                                       cmocka_unit_test(accumulation),
                                       cmocka_unit_test(wrong_shapes)};
    const struct CMUnitTest timing[] = {cmocka_unit_test(speed)};

    if (argc > 1 && !strcmp(argv[1], "speed"))
        return cmocka_run_group_tests_name("speed", timing, device_setup, device_teardown);
    return cmocka_run_group_tests_name("optim", tests, device_setup, device_teardown);
}
