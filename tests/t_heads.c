/* t_heads.c - the discriminator's heads against PyTorch: logits, gradients, the gradient penalty and its gradients, vectors of
 * the spectral norms; what a second use of a head goes on from. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/nets.h"

enum { B = 12, C = 20, T = 9, D = 14, CMAP = 24, VIRTUAL = 8 };

/* A head of the fixture, in training. */
typedef struct bench {
    ac_st *st;
    const char *name; /* "cond", "uncond" */
    ac_params set;
    ac_weights w;
    ac_net m;
    ac_heads heads;
    ac_graph *g;
    ac_id features, condition;
    ac_exec *x;
} bench;

static void bench_begin(bench *b, const char *name)
{
    *b = (bench){.name = name, .set = {.dev = test_device(), .dg = test_diag(), .part = "discriminator"}};
    b->st = fixture_open("add_step/head_cases.safetensors");
    b->g = ac_graph_new(test_diag(), AC_F32);
    assert_non_null(b->g);
    b->w = (ac_weights){.train = &b->set, .part = "discriminator", .dg = test_diag()};
    b->m = (ac_net){.g = b->g, .w = &b->w};
    b->heads = (ac_heads){.virtual_batch = VIRTUAL, .cmap = !strcmp(name, "cond") ? CMAP : 0};
    b->features = ac_input(b->g, "features", AC_F32, ac_dims(3, B, T, C));
    b->condition = b->heads.cmap ? ac_input(b->g, "condition", AC_F32, ac_dims(2, B, D)) : AC_NONE;
}

static void bench_end(bench *b)
{
    ac_exec_free(b->x);
    ac_graph_free(b->g);
    ac_heads_free(&b->heads);
    ac_params_free(&b->set);
    ac_st_close(b->st);
}

/* The fixture's tensor "<case>.<what><name>"; of shape [B,C,T] it becomes [B,T,C]. */
static double *wanted(const bench *b, const char *what, const char *name, size_t *n)
{
    char key[AC_NAME_MAX];
    double *x, *y;

    snprintf(key, sizeof key, "%s.%s%s", b->name, what, name);
    x = fixture_f64(b->st, key, n);
    if (*n != (size_t)B * C * T)
        return x;
    assert_non_null(y = calloc(*n, sizeof *y));
    for (int i = 0; i < B; i++)
        for (int c = 0; c < C; c++)
            for (int t = 0; t < T; t++)
                y[(i * T + t) * C + c] = x[(i * C + c) * T + t];
    free(x);
    return y;
}

static float *wanted_f32(const bench *b, const char *what, const char *name, size_t *n)
{
    double *x = wanted(b, what, name, n);
    float *y = calloc(*n, sizeof *y);

    assert_non_null(y);
    for (size_t i = 0; i < *n; i++)
        y[i] = (float)x[i];
    free(x);
    return y;
}

static void start_values(bench *b, const ac_parameter_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        size_t n;
        float *x = wanted_f32(b, "head.", l->p[i].name, &n);
        assert_int_equal(n * sizeof *x, ac_var_bytes(l->p[i].w));
        assert_int_equal(ac_var_write(l->p[i].w, x), 0);
        free(x);
    }
}

static void feed(bench *b, const char *name)
{
    size_t n;
    float *x = wanted_f32(b, name, "", &n);

    if (ac_feed(b->x, name, x, n * sizeof *x) != 0)
        fail_msg("%s", test_diag()->msg);
    free(x);
}

/* Sets the fixture's values and runs. */
static void bench_run(bench *b)
{
    if (b->g->rc)
        fail_msg("%s", test_diag()->msg);
    start_values(b, &b->set.p);
    start_values(b, &b->set.kept);
    if (ac_exec_new(test_device(), b->g, NULL, &b->x) != 0)
        fail_msg("%s", test_diag()->msg);
    feed(b, "features");
    if (b->condition != AC_NONE)
        feed(b, "condition");
}

/* Normalised squared error; where nothing but zero is wanted, the largest value over the absolute bound. */
static void compare(const bench *b, const char *what, const char *name, const float *got, double tol)
{
    size_t n;
    double *want = wanted(b, what, name, &n), error = 0, size = 0, most = 0;

    for (size_t i = 0; i < n; i++) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += want[i] * want[i];
        most = fmax(most, fabs(want[i]));
    }
    if (most > 1e-12 ? error > tol * size : error > 1e-12 * (double)n)
        fail_msg("%s.%s%s: squared error %g of %g", b->name, what, name, error, size);
    free(want);
}

static void compare_output(bench *b, const char *what, const char *name, const char *output, double tol)
{
    size_t n;
    double *want = wanted(b, what, name, &n);
    float *got = calloc(n, sizeof *got);

    assert_non_null(got);
    if (ac_fetch(b->x, output, got, n * sizeof *got) != 0)
        fail_msg("%s", test_diag()->msg);
    compare(b, what, name, got, tol);
    free(got);
    free(want);
}

static bool has_output(const ac_graph *g, const char *name)
{
    for (size_t i = 0; i < g->outputs.n; i++)
        if (!strcmp(g->outputs.p[i].name, name))
            return true;
    return false;
}

static void check_zero(const bench *b, const char *what, const char *name)
{
    size_t n;
    double *want = wanted(b, what, name, &n);

    for (size_t i = 0; i < n; i++)
        assert_true(want[i] == 0);
    free(want);
}

/* A bias before a batch norm has no effect: its gradient is zero but for rounding. */
static bool is_idle(const char *name)
{
    return !strcmp(name, "main.0.0.bias") || !strcmp(name, "main.1.fn.0.bias");
}

/* ------------------------------------------------------------------------------------------ one use */

enum { PARAMETERS = 16 };

/* Gradients of `of` by the features and all parameters, as outputs "<what><name>". */
static void gradients(bench *b, const char *what, ac_id of)
{
    ac_id leaf[PARAMETERS + 1] = {b->features}, gx[PARAMETERS + 1];
    static char name[2][PARAMETERS + 1][AC_NAME_MAX];
    char(*as)[AC_NAME_MAX] = name[*what == 'r'];
    int n = (int)b->set.p.n + 1;

    assert_true(n <= PARAMETERS + 1);
    for (int i = 1; i < n; i++)
        leaf[i] = ac_state(b->g, b->set.p.p[i - 1].w);
    ac_grad(b->g, of, AC_NONE, leaf, n, gx);
    for (int i = 0; i < n; i++) {
        snprintf(as[i], sizeof as[i], "%s%s", what, i ? b->set.p.p[i - 1].name : "features");
        if (gx[i] != AC_NONE)
            ac_set_output(b->g, as[i], gx[i]);
    }
}

static void check_gradients(bench *b, const char *what)
{
    for (size_t i = 0; i <= b->set.p.n; i++) {
        const char *name = i ? b->set.p.p[i - 1].name : "features";
        char output[AC_NAME_MAX];
        snprintf(output, sizeof output, "%s%s", what, name);
        if (!has_output(b->g, output)) /* no path leads there */
            check_zero(b, what, name);
        else if (!is_idle(name))
            compare_output(b, what, name, output, 1e-8);
    }
}

static void one_use(const char *name)
{
    bench b;
    ac_id logits, total, slope, r1, cotangent;
    float penalty;

    bench_begin(&b, name);
    logits = ac_head(&b.m, &b.heads, b.features, b.condition);
    cotangent = ac_input(b.g, "cotangent", AC_F32, ac_dims(2, B, T));
    gradients(&b, "grad.", ac_reshape(b.g, ac_sum(b.g, ac_mul(b.g, logits, cotangent), 3), ac_dims(1, 1)));
    total = ac_reshape(b.g, ac_sum(b.g, logits, 3), ac_dims(1, 1));
    ac_grad(b.g, total, AC_NONE, &b.features, 1, &slope);
    r1 = ac_reshape(b.g, ac_scale(b.g, ac_sum(b.g, ac_mul(b.g, slope, slope), 7), 1.0 / B, 0), ac_dims(1, 1));
    gradients(&b, "r1.", r1);
    ac_set_output(b.g, "logits", logits);
    ac_set_output(b.g, "slope", slope);
    ac_set_output(b.g, "penalty", r1);
    ac_heads_keep(&b.heads, b.g);
    bench_run(&b);
    feed(&b, "cotangent");
    if (ac_run(b.x) != 0)
        fail_msg("%s", test_diag()->msg);
    compare_output(&b, "logits", "", "logits", 1e-9);
    compare_output(&b, "r1_grad", "", "slope", 1e-8);
    assert_int_equal(ac_fetch(b.x, "penalty", &penalty, sizeof penalty), 0);
    compare(&b, "r1", "", &penalty, 1e-8);
    check_gradients(&b, "grad.");
    check_gradients(&b, "r1.");
    assert_int_equal(b.set.kept.n, 6);
    for (size_t i = 0; i < b.set.kept.n; i++) {
        float v[C * T];
        assert_int_equal(ac_var_read(b.set.kept.p[i].w, v), 0);
        compare(&b, "after.", b.set.kept.p[i].name, v, 1e-9);
    }
    bench_end(&b);
}

static void conditioned(void **state)
{
    char path[4096];

    (void)state;
    if (!fixture_path(path, sizeof path, "add_step/head_cases.safetensors"))
        skip();
    one_use("cond");
}

static void unconditioned(void **state)
{
    char path[4096];

    (void)state;
    if (!fixture_path(path, sizeof path, "add_step/head_cases.safetensors"))
        skip();
    one_use("uncond");
}

/* ------------------------------------------------------------------------------------------ further uses */

enum { SIDE = 12 };

/* Two uses in one graph give what two runs of one use give, and leave the same vectors behind. */
static void goes_on(void **state)
{
    float x[2 * SIDE * 3], once[2][2 * SIDE], twice[2][2 * SIDE], u[2][3];
    uint64_t seed = 5;

    (void)state;
    ac_mix_fill(&seed, x, AC_LEN(x));
    for (int uses = 1; uses <= 2; uses++) {
        ac_params set = {.dev = test_device(), .dg = test_diag(), .part = "discriminator", .seed = 3};
        ac_weights w = {.train = &set, .part = "discriminator", .dg = test_diag()};
        ac_graph *g = ac_graph_new(test_diag(), AC_F32);
        ac_heads h = {.virtual_batch = 2};
        ac_net m = {.g = g, .w = &w};
        ac_id in = ac_input(g, "x", AC_F32, ac_dims(3, 2, SIDE, 3));
        ac_exec *e = NULL;

        for (int k = 0; k < uses; k++)
            ac_set_output(g, k ? "second" : "first", ac_head(&m, &h, in, AC_NONE));
        ac_heads_keep(&h, g);
        if (g->rc || ac_exec_new(test_device(), g, NULL, &e) != 0 || ac_feed(e, "x", x, sizeof x) != 0)
            fail_msg("%s", test_diag()->msg);
        for (int k = 0; k < 3 - uses; k++) {
            assert_int_equal(ac_run(e), 0);
            assert_int_equal(ac_fetch(e, "first", uses == 1 ? once[k] : twice[0], sizeof once[0]), 0);
        }
        if (uses == 2)
            assert_int_equal(ac_fetch(e, "second", twice[1], sizeof twice[1]), 0);
        assert_int_equal(ac_var_read(set.kept.p[0].w, u[uses - 1]), 0);
        ac_exec_free(e);
        ac_graph_free(g);
        ac_heads_free(&h);
        ac_params_free(&set);
    }
    assert_memory_equal(once, twice, sizeof once);
    assert_memory_not_equal(once[0], once[1], sizeof once[0]);
    assert_memory_equal(u[0], u[1], sizeof u[0]);
}

/* The samples of one group do not move the logits of another's. */
static void groups_are_apart(void **state)
{
    float x[4 * SIDE * 3], y[2][4 * SIDE];
    uint64_t seed = 6;
    ac_params set = {.dev = test_device(), .dg = test_diag(), .part = "discriminator"};
    ac_weights w = {.train = &set, .part = "discriminator", .dg = test_diag()};
    ac_graph *g = ac_graph_new(test_diag(), AC_F32);
    ac_heads h = {.virtual_batch = 2};
    ac_net m = {.g = g, .w = &w};
    ac_exec *e = NULL;

    (void)state;
    ac_mix_fill(&seed, x, AC_LEN(x));
    ac_set_output(g, "y", ac_head(&m, &h, ac_input(g, "x", AC_F32, ac_dims(3, 4, SIDE, 3)), AC_NONE));
    if (g->rc || ac_exec_new(test_device(), g, NULL, &e) != 0)
        fail_msg("%s", test_diag()->msg);
    for (int k = 0; k < 2; k++) {
        assert_int_equal(ac_feed(e, "x", x, sizeof x), 0);
        assert_int_equal(ac_run(e), 0);
        assert_int_equal(ac_fetch(e, "y", y[k], sizeof y[k]), 0);
        x[3 * SIDE * 3] += 1; /* of the last sample */
    }
    assert_memory_equal(y[0], y[1], 2 * SIDE * sizeof(float));
    assert_memory_not_equal(y[0] + 2 * SIDE, y[1] + 2 * SIDE, SIDE * sizeof(float)); /* its neighbour is moved */
    ac_exec_free(e);
    ac_graph_free(g);
    ac_heads_free(&h);
    ac_params_free(&set);
}

static void bad_shapes(void **state)
{
    static const struct {
        int batch, tokens;
        const char *message;
    } bad[] = {{3, SIDE, "3 does not divide into the 2 groups"}, {2, 3, "3 tokens are too few"}};

    (void)state;
    for (size_t i = 0; i < AC_LEN(bad); i++) {
        ac_params set = {.dev = test_device(), .dg = test_diag(), .part = "discriminator"};
        ac_weights w = {.train = &set, .part = "discriminator", .dg = test_diag()};
        ac_graph *g = ac_graph_new(test_diag(), AC_F32);
        ac_heads h = {.virtual_batch = 2};
        ac_net m = {.g = g, .w = &w};

        ac_head(&m, &h, ac_input(g, "x", AC_F32, ac_dims(3, bad[i].batch, bad[i].tokens, 3)), AC_NONE);
        assert_int_equal(g->rc, ADDCL_E_SHAPE);
        if (!strstr(test_diag()->msg, bad[i].message))
            fail_msg("no \"%s\" in: %s", bad[i].message, test_diag()->msg);
        ac_clear(test_diag());
        ac_graph_free(g);
        ac_heads_free(&h);
        ac_params_free(&set);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(conditioned), cmocka_unit_test(unconditioned), cmocka_unit_test(goes_on),
                                       cmocka_unit_test(groups_are_apart), cmocka_unit_test(bad_shapes)};

    return cmocka_run_group_tests_name("heads", tests, device_setup, device_teardown);
}
