/* t_ops.c - every kernel of every op against the double-precision reference, and what the cases in the ops' rows do not
 * show: special values, extremes, repetition.
 *
 * `t_ops PATTERN` runs only checks whose name, op/case/kernel/type, contains PATTERN. ADDCL_TEST_SMALLEST=1 leaves out
 * what is too slow for an emulator. */
#include "support.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "ops/check.h"
#include "ops/ops.h"

static const char *pattern;
static bool smallest;

/* ------------------------------------------------------------------------------------------ the ops' own cases */

typedef struct tally {
    const ac_op *op;
    int run, failed;
    unsigned kernels; /* bit k: op->kern[k] ran */
    double worst;     /* highest error / limit */
    char name[160];   /* of that */
} tally;

static int count_check(void *user, const ac_check *c)
{
    tally *t = user;
    double share = c->error / c->limit;
    char kernel[80];

    t->run++;
    for (int k = 0; t->op->kern && t->op->kern[k].name; k++) {
        snprintf(kernel, sizeof kernel, "/%s/", t->op->kern[k].name);
        t->kernels |= strstr(c->name, kernel) ? 1u << k : 0;
    }
    if (!(share <= t->worst)) {
        t->worst = share;
        snprintf(t->name, sizeof t->name, "%s", c->name);
    }
    if (c->problem) {
        t->failed++;
        print_error("# FAIL %s: %s, error %.3g, limit %.3g\n", c->name, c->problem, c->error, c->limit);
    }
    return 0;
}

static void run_checks(tally *t, const char *which)
{
    if (ac_check_op(test_device(), t->op, AC_SMALL, which, count_check, t) != 0)
        fail_msg("%s: %s", t->op->name, test_diag()->msg);
}

static double flop_of(const ac_op *op, const ac_case *c)
{
    ac_case_graph cg;
    double flop;

    assert_int_equal(ac_case_graph_new(op, c, AC_F32, test_diag(), &cg), 0);
    flop = op->flop ? op->flop(cg.g, ac_at_node(cg.g, cg.y)) : (double)ac_count(ac_shape_of(cg.g, cg.y));
    ac_case_graph_free(&cg);
    return flop;
}

/* Must this kernel run? CLBlast may be absent, and in an emulator it is left out: its programs outlive Oclgrind, which
 * aborts. */
static bool expected(const ac_kern *k)
{
    return strcmp(k->name, "clblast") != 0 || (ac_blas_available() && !smallest);
}

/* For emulators, which do some 10 MFLOP/s and compile slowly: the small cases in f32, one of them in the other types.
 */
static void run_smallest(tally *t)
{
    enum { ENOUGH = 2000000 };
    static const char *const types[] = {"f32", "f16", "bf16"};
    static const ac_kern lowered[] = {{.name = "lowered"}, {0}};
    char name[160];

    for (const ac_kern *k = t->op->kern ? t->op->kern : lowered; k->name; k++)
        for (size_t type = 0; type < (t->op->typed ? AC_LEN(types) : 1); type++) {
            int before = t->run;
            for (const ac_case *c = t->op->cases; c->name && expected(k) && (type == 0 || t->run == before); c++) {
                if (!(c->tags & AC_SMALL) || flop_of(t->op, c) > ENOUGH)
                    continue;
                snprintf(name, sizeof name, "%s/%s/%s/%s", t->op->name, c->name, k->name, types[type]);
                if (!pattern || strstr(name, pattern))
                    run_checks(t, name);
            }
        }
}

static bool has_groups(void)
{
    const ac_limits *lim = ac_dev_limits(test_device());
    return lim->max_wg >= 64 && lim->max_item[0] >= 64 && lim->local_mem >= 16 << 10;
}

static void check_op(const ac_op *op)
{
    tally t = {.op = op};

    if (!op->cases) /* leaves, views, and steps that the cases of another op cover */
        return;
    if (smallest)
        run_smallest(&t);
    else
        run_checks(&t, pattern);
    if (!t.run && pattern)
        skip();
    print_message("# %s: %d checks, worst at %.0f %% of its limit: %s\n", op->name, t.run, 100 * t.worst, t.name);
    assert_true(t.run > 0);
    for (int k = 0; !pattern && has_groups() && op->kern && op->kern[k].name; k++)
        if (!(t.kernels >> k & 1) && expected(&op->kern[k]))
            fail_msg("no case of %s runs the kernel %s", op->name, op->kern[k].name);
    if (t.failed)
        fail_msg("%d of %d checks failed", t.failed, t.run);
}

#define OP(x)                                                                                                          \
    static void op_##x(void **state)                                                                                   \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        check_op(&ac_op_##x);                                                                                          \
    }
#include "ops/ops.def"
#undef OP

/* ------------------------------------------------------------------------------------------ graphs of this file */

/* A new graph whose weights are f32. */
static ac_graph *new_graph(void)
{
    ac_graph *g = ac_graph_new(test_diag(), AC_F32);
    assert_non_null(g);
    return g;
}

static ac_id input(ac_graph *g, const char *name, ac_shape s)
{
    return ac_input(g, name, AC_F32, s);
}

/* Values of an input node: the inputs of these graphs are named "0", "1", ..., their places in `in`. */
static const float *fed(const ac_node *n, const float *const *in)
{
    return in[n->name[0] - '0'];
}

/* Runs g on in[]; output "y" is n floats. */
static void run_graph(const ac_graph *g, const ac_kern *force, const float *const *in, float *y, size_t n)
{
    ac_exec_opts opts = {.force = force, .guard = true};
    ac_exec *x = NULL;

    if (ac_exec_new(test_device(), g, &opts, &x) != 0)
        fail_msg("%s", test_diag()->msg);
    for (size_t i = 1; i < g->nodes.n; i++) {
        const ac_node *node = &g->nodes.p[i];
        if (node->op == &ac_op_input)
            assert_int_equal(ac_feed(x, node->name, fed(node, in), (size_t)ac_count(&node->shape) * sizeof(float)), 0);
    }
    assert_int_equal(ac_run(x), 0);
    assert_int_equal(ac_fetch(x, "y", y, n * sizeof *y), 0);
    ac_exec_free(x);
}

/* The same by the reference. */
static double *reference(const ac_graph *g, const float *const *in)
{
    double *feeds[AC_MAX_IN] = {0}, *y = NULL;
    int n_feeds = 0;

    for (size_t i = 1; i < g->nodes.n; i++)
        if (g->nodes.p[i].op == &ac_op_input) {
            size_t n = (size_t)ac_count(&g->nodes.p[i].shape);
            assert_non_null(feeds[n_feeds] = ac_calloc(n, sizeof(double)));
            for (size_t k = 0; k < n; k++)
                feeds[n_feeds][k] = (double)fed(&g->nodes.p[i], in)[k];
            n_feeds++;
        }
    assert_int_equal(ac_ref_run(g, (const double *const *)feeds, &y), 0);
    for (int k = 0; k < n_feeds; k++)
        free(feeds[k]);
    return y;
}

static void random_values(float *v, size_t n, float scale)
{
    uint64_t seed = 12345 + n;

    ac_mix_fill(&seed, v, n);
    for (size_t i = 0; i < n; i++)
        v[i] *= scale;
}

/* Every kernel of `op` that can be forced on this device, one after the other; NULL-named end. */
#define EACH_KERNEL(k, op_row)                                                                                         \
    const ac_kern *k = (op_row)->kern;                                                                                 \
    k->name;                                                                                                           \
    k++

/* ------------------------------------------------------------------------------------------ storage types */

/* Every f16 value, as the device reads it and writes it. */
static void all_halves(void **state)
{
    enum { N = 65536 };
    uint16_t *h = ac_calloc(N, 2), *back = ac_calloc(N, 2);
    float *f = ac_calloc(N, sizeof *f);
    ac_graph *g = new_graph();
    ac_id x = ac_input(g, "h", AC_F16, ac_dims(1, N)), wide = ac_cast(g, x, AC_F32);
    ac_exec *e = NULL;

    (void)state;
    ac_set_output(g, "wide", wide);
    ac_set_output(g, "back", ac_cast(g, wide, AC_F16));
    for (int i = 0; i < N; i++)
        h[i] = (uint16_t)i;
    assert_int_equal(ac_exec_new(test_device(), g, NULL, &e), 0);
    assert_int_equal(ac_feed(e, "h", h, N * 2), 0);
    assert_int_equal(ac_run(e), 0);
    assert_int_equal(ac_fetch(e, "wide", f, N * sizeof *f), 0);
    assert_int_equal(ac_fetch(e, "back", back, N * 2), 0);
    for (int i = 0; i < N; i++) {
        float want = ac_half_to_float((uint16_t)i);
        if (isnan(want) ? !isnan(f[i]) || !isnan(ac_half_to_float(back[i])) : f[i] != want || back[i] != h[i])
            fail_msg("half %04x: read as %.9g, expected %.9g; written as %04x", (unsigned)i, (double)f[i], (double)want,
                     back[i]);
    }
    ac_exec_free(e);
    ac_graph_free(g);
    free(h);
    free(back);
    free(f);
}

/* Rounding to f16 and bf16: halfway cases, overflow, the smallest numbers, NaN. */
static void narrowing(void **state)
{
    enum { N = 4096 };
    static const ac_type types[] = {AC_F16, AC_BF16};
    float *f = ac_calloc(N, sizeof *f);
    uint16_t got[N];
    uint64_t seed = 99;

    (void)state;
    for (int i = 0; i < N; i++) { /* random bits: all magnitudes; every fourth halfway between two halves */
        uint32_t bits = (uint32_t)ac_mix(&seed);
        if (i % 4 == 0)
            bits = (bits & 0x0fffe000) + 0x38000000 + 0x1000;
        memcpy(&f[i], &bits, 4);
    }
    for (size_t t = 0; t < AC_LEN(types); t++) {
        ac_graph *g = new_graph();
        ac_exec *e = NULL;
        ac_set_output(g, "y", ac_cast(g, input(g, "x", ac_dims(1, N)), types[t]));
        assert_int_equal(ac_exec_new(test_device(), g, NULL, &e), 0);
        assert_int_equal(ac_feed(e, "x", f, N * sizeof *f), 0);
        assert_int_equal(ac_run(e), 0);
        assert_int_equal(ac_fetch(e, "y", got, sizeof got), 0);
        for (int i = 0; i < N; i++) {
            float a, b;
            uint16_t want = types[t] == AC_F16 ? ac_float_to_half(f[i]) : ac_float_to_bf16(f[i]);
            ac_to_float(&a, &got[i], types[t], 1);
            ac_to_float(&b, &want, types[t], 1);
            /* a device may flush numbers below 2^-126 to 0 */
            if (isnan(b) ? !isnan(a) : a != b && !(fabsf(f[i]) < FLT_MIN && a == 0))
                fail_msg("%.9g to %s: %04x, expected %04x", (double)f[i], ac_type_name(types[t]), got[i], want);
        }
        ac_exec_free(e);
        ac_graph_free(g);
    }
    free(f);
}

/* ------------------------------------------------------------------------------------------ NaN and infinity */

static ac_id scaled(ac_graph *g, ac_id x)
{
    return ac_scale(g, x, 2, 1);
}

static ac_id clamped(ac_graph *g, ac_id x)
{
    return ac_clamp(g, x, -1, 1);
}

typedef ac_id (*unary_fn)(ac_graph *g, ac_id x);
static const struct {
    const char *name;
    unary_fn fn;
} unary[] = {{"scale", scaled},
             {"exp", ac_exp},
             {"log", ac_log},
             {"sqrt", ac_sqrt},
             {"tanh", ac_tanh},
             {"sigmoid", ac_sigmoid},
             {"relu", ac_relu},
             {"silu", ac_silu},
             {"gelu", ac_gelu},
             {"clamp", clamped},
             {"quick_gelu", ac_quick_gelu}};

/* A NaN must come through every function: it is how divergence is noticed. */
static void nan_elementwise(void **state)
{
    enum { N = 37 }; /* whole vectors and a rest */
    ac_id (*const binary[])(ac_graph *, ac_id, ac_id) = {ac_add, ac_sub, ac_mul, ac_div};
    float x[N], one[N], y[N];

    (void)state;
    for (int i = 0; i < N; i++) {
        x[i] = i % 3 ? 0.5f : NAN;
        one[i] = 1;
    }
    for (size_t u = 0; u < AC_LEN(unary); u++) {
        ac_graph *g = new_graph();
        ac_set_output(g, "y", unary[u].fn(g, input(g, "0", ac_dims(1, N))));
        run_graph(g, NULL, (const float *[]){x}, y, N);
        for (int i = 0; i < N; i++)
            if (isnan(y[i]) != isnan(x[i]))
                fail_msg("%s(%g) = %g", unary[u].name, (double)x[i], (double)y[i]);
        ac_graph_free(g);
    }
    for (size_t b = 0; b < AC_LEN(binary); b++)
        for (int swap = 0; swap < 2; swap++) {
            ac_graph *g = new_graph();
            ac_id p = input(g, "0", ac_dims(1, N)), q = input(g, "1", ac_dims(1, N));
            ac_set_output(g, "y", swap ? binary[b](g, q, p) : binary[b](g, p, q));
            run_graph(g, NULL, (const float *[]){x, one}, y, N);
            for (int i = 0; i < N; i++)
                assert_int_equal(isnan(y[i]), isnan(x[i]));
            ac_graph_free(g);
        }
}

/* One bad pixel of a convolution reaches the outputs whose filters cover it and no others. */
static void bad_pixel(float bad)
{
    enum { H = 7, W = 9, C = 5, K = 19, Y = 3, X = 4 };
    float x[H * W * C], w[K * C * 9], y[H * W * K];

    for (EACH_KERNEL(k, &ac_op_conv)) {
        ac_graph *g = new_graph();
        ac_id ix = input(g, "0", ac_dims(4, 1, H, W, C)), iw = input(g, "1", ac_dims(4, K, C, 3, 3));
        ac_conv_at at = {.stride = 1, .top = 1, .left = 1, .bottom = 1, .right = 1};
        random_values(x, AC_LEN(x), 1);
        random_values(w, AC_LEN(w), 1);
        x[(Y * W + X) * C + 2] = bad;
        ac_set_output(g, "y", ac_conv(g, ix, iw, AC_NONE, at));
        run_graph(g, k, (const float *[]){x, w}, y, AC_LEN(y));
        for (int i = 0; i < H * W * K; i++) {
            int oy = i / K / W, ox = i / K % W;
            bool covered = abs(oy - Y) <= 1 && abs(ox - X) <= 1;
            if (isfinite(y[i]) == covered)
                fail_msg("%s: pixel %d,%d channel %d is %g", k->name, oy, ox, i % K, (double)y[i]);
        }
        ac_graph_free(g);
    }
}

static void nan_conv(void **state)
{
    (void)state;
    bad_pixel(NAN);
    bad_pixel(INFINITY);
}

/* A bad row of a product, of attention's queries, of a softmax, of a layer norm: that row of the result and no other.
 */
static void nan_rows(void **state)
{
    enum { M = 25, C = 24, BAD = 13 };
    const ac_op *const ops[] = {&ac_op_matmul, &ac_op_attention, &ac_op_layer_norm, &ac_op_softmax};
    float x[M * C], w[C * C], kv[M * C], y[M * C];

    (void)state;
    random_values(w, AC_LEN(w), 1);
    random_values(kv, AC_LEN(kv), 1);
    for (size_t o = 0; o < AC_LEN(ops); o++)
        for (EACH_KERNEL(k, ops[o])) {
            ac_graph *g = new_graph();
            ac_id ix = input(g, "0", ops[o] == &ac_op_attention ? ac_dims(3, 1, M, C) : ac_dims(2, M, C)), ia, ib;
            random_values(x, AC_LEN(x), 1);
            x[BAD * C + 7] = NAN;
            if (ops[o] == &ac_op_matmul) {
                ia = ac_matmul(g, ix, input(g, "1", ac_dims(2, C, C)), false, true);
                ac_set_output(g, "y", ia);
                run_graph(g, k, (const float *[]){x, w}, y, AC_LEN(y));
            } else if (ops[o] == &ac_op_attention) {
                ia = input(g, "1", ac_dims(3, 1, M, C));
                ib = input(g, "2", ac_dims(3, 1, M, C));
                ac_set_output(g, "y", ac_attention(g, ix, ia, ib, 1, false));
                run_graph(g, k, (const float *[]){x, kv, kv}, y, AC_LEN(y));
            } else if (ops[o] == &ac_op_layer_norm) {
                ia = ac_layer_norm(g, ix, input(g, "1", ac_dims(1, C)), input(g, "2", ac_dims(1, C)), 1e-5);
                ac_set_output(g, "y", ia);
                run_graph(g, k, (const float *[]){x, w, w}, y, AC_LEN(y));
            } else {
                ac_set_output(g, "y", ac_softmax(g, ix));
                run_graph(g, k, (const float *[]){x}, y, AC_LEN(y));
            }
            for (int i = 0; i < M * C; i++)
                if (isfinite(y[i]) == (i / C == BAD))
                    fail_msg("%s: row %d column %d is %g", k->name, i / C, i % C, (double)y[i]);
            ac_graph_free(g);
        }
}

/* A bad value in a group: the whole group of that image and nothing else. */
static void nan_group_norm(void **state)
{
    enum { B = 2, P = 300, C = 12, G = 3, PER = C / G };
    static float x[B * P * C], y[B * P * C];
    float one[C], zero[C] = {0};
    ac_graph *g = new_graph();
    ac_id w = input(g, "1", ac_dims(1, C)), b = input(g, "2", ac_dims(1, C)), ix = input(g, "0", ac_dims(3, B, P, C));

    (void)state;
    for (int c = 0; c < C; c++)
        one[c] = 1;
    random_values(x, AC_LEN(x), 1);
    x[(P + 280) * C + PER + 1] = NAN; /* image 1, group 1 */
    ac_set_output(g, "y", ac_group_norm(g, ix, w, b, G, 1e-5, AC_ACT_SILU));
    run_graph(g, NULL, (const float *[]){x, one, zero}, y, AC_LEN(y));
    for (int i = 0; i < B * P * C; i++)
        assert_int_equal(isnan(y[i]), i / C / P == 1 && i % C / PER == 1);
    ac_graph_free(g);
}

/* ------------------------------------------------------------------------------------------ extremes */

/* |got - want| <= tol max(1, |want|), and infinity where f32 has no such number. */
static void assert_near(const char *what, const float *got, const double *want, size_t n, double tol)
{
    for (size_t i = 0; i < n; i++) {
        bool ok = fabs(want[i]) > (double)FLT_MAX ? isinf(got[i]) && (got[i] > 0) == (want[i] > 0)
                                                  : fabs((double)got[i] - want[i]) <= tol * fmax(1, fabs(want[i]));
        if (!ok)
            fail_msg("%s: element %zu is %.9g, expected %.9g", what, i, (double)got[i], want[i]);
    }
}

/* Activations, alone and in the epilogue of a product, for arguments up to 150 either way. */
static void extreme_activations(void **state)
{
    enum { N = 301 };
    static const int acts[] = {AC_ACT_SILU, AC_ACT_GELU, AC_ACT_QUICK_GELU, AC_ACT_RELU};
    float x[N], one = 1, y[N];
    double *want;

    (void)state;
    for (int i = 0; i < N; i++)
        x[i] = (float)i - 150;
    for (size_t u = 0; u < AC_LEN(unary); u++) {
        ac_graph *g = new_graph();
        if (unary[u].fn == ac_log || unary[u].fn == ac_sqrt) {
            ac_graph_free(g);
            continue;
        }
        ac_set_output(g, "y", unary[u].fn(g, input(g, "0", ac_dims(1, N))));
        run_graph(g, NULL, (const float *[]){x}, y, N);
        want = reference(g, (const float *[]){x});
        assert_near(unary[u].name, y, want, N, 2e-6);
        free(want);
        ac_graph_free(g);
    }
    for (size_t a = 0; a < AC_LEN(acts); a++)
        for (EACH_KERNEL(k, &ac_op_matmul)) {
            ac_graph *g = new_graph();
            ac_set_output(
                g, "y",
                ac_linear(g, input(g, "0", ac_dims(2, N, 1)), input(g, "1", ac_dims(2, 1, 1)), AC_NONE, acts[a]));
            run_graph(g, k, (const float *[]){x, &one}, y, N);
            want = reference(g, (const float *[]){x, &one});
            assert_near(k->name, y, want, N, 2e-6);
            free(want);
            ac_graph_free(g);
        }
}

/* Logits up to 150 either way. */
static void extreme_softmax(void **state)
{
    enum { T = 21, S = 45, C = 8 };
    float x[T * S], q[T * C], k[S * C], v[S * C], y[T * S];
    double *want;
    ac_graph *g = new_graph();

    (void)state;
    random_values(x, AC_LEN(x), 150);
    ac_set_output(g, "y", ac_softmax(g, input(g, "0", ac_dims(2, T, S))));
    run_graph(g, NULL, (const float *[]){x}, y, T * S);
    want = reference(g, (const float *[]){x});
    assert_near("softmax", y, want, T * S, 1e-5);
    free(want);
    ac_graph_free(g);
    random_values(q, AC_LEN(q), 15);
    random_values(k, AC_LEN(k), 15);
    random_values(v, AC_LEN(v), 1);
    for (EACH_KERNEL(kern, &ac_op_attention)) {
        g = new_graph();
        ac_set_output(g, "y",
                      ac_attention(g, input(g, "0", ac_dims(3, 1, T, C)), input(g, "1", ac_dims(3, 1, S, C)),
                                   input(g, "2", ac_dims(3, 1, S, C)), 1, false));
        run_graph(g, kern, (const float *[]){q, k, v}, y, T * C);
        want = reference(g, (const float *[]){q, k, v});
        assert_near(kern->name, y, want, T * C, 1e-4);
        free(want);
        ac_graph_free(g);
    }
}

/* Rows that are all equal, and rows far from 0: no division by nothing, no lost digits. */
static void flat_rows(void **state)
{
    enum { M = 300, C = 24 };
    static const float level[] = {3, -1000, 0}, spread[] = {0, 1, 0};
    static float x[M * C], y[M * C];
    float w[C], b[C];

    (void)state;
    random_values(w, C, 1);
    random_values(b, C, 2);
    for (size_t i = 0; i < AC_LEN(level); i++) {
        ac_graph *g[3] = {new_graph(), new_graph(), new_graph()};
        for (int n = 0; n < 2; n++) {
            ac_id ix = input(g[n], "0", ac_dims(3, 1, M, C)), iw = input(g[n], "1", ac_dims(1, C)),
                  ib = input(g[n], "2", ac_dims(1, C));
            ac_set_output(g[n], "y",
                          n ? ac_group_norm(g[n], ix, iw, ib, 4, 1e-5, AC_ACT_NONE)
                            : ac_layer_norm(g[n], ix, iw, ib, 1e-5));
        }
        ac_set_output(g[2], "y", ac_softmax(g[2], input(g[2], "0", ac_dims(2, M, C))));
        random_values(x, AC_LEN(x), spread[i]);
        for (int k = 0; k < M * C; k++)
            x[k] += level[i];
        for (int n = 0; n < 3; n++) {
            const float *in[] = {x, w, b};
            double *want = reference(g[n], in);
            for (const ac_kern *k = n == 0 ? ac_op_layer_norm.kern : ac_op_softmax.kern; k->name; k++) {
                run_graph(g[n], k, in, y, M * C);
                assert_near(k->name, y, want, M * C, spread[i] > 0 ? 1e-3 : 1e-4); /* x itself has 3e-5 of 1000 */
            }
            free(want);
            ac_graph_free(g[n]);
        }
    }
}

/* ------------------------------------------------------------------------------------------ repetition */

/* The result of a case by a kernel; NULL: not accepted. Runs twice, which must agree bit by bit. */
static void *twice(const ac_op *op, const ac_case *c, const ac_kern *kern, size_t *bytes)
{
    ac_exec_opts opts = {.force = kern};
    ac_case_graph cg;
    ac_exec *x = NULL;
    void *y[2];
    char name[8];

    assert_int_equal(ac_case_graph_new(op, c, op->typed ? AC_F16 : AC_F32, test_diag(), &cg), 0);
    assert_int_equal(ac_exec_new(test_device(), cg.g, &opts, &x), 0);
    *bytes = (size_t)ac_count(ac_shape_of(cg.g, cg.y)) * ac_type_size(ac_at_node(cg.g, cg.y)->type);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < AC_MAX_IN; k++) { /* each time: effects write into inputs */
            snprintf(name, sizeof name, "%d", k);
            if (cg.data[k] && !cg.param[k].data)
                assert_int_equal(ac_feed(x, name, cg.data[k], cg.bytes[k]), 0);
        }
        assert_non_null(y[i] = ac_calloc(1, *bytes));
        assert_int_equal(ac_run(x), 0);
        assert_int_equal(ac_fetch(x, "y", y[i], *bytes), 0);
    }
    if (memcmp(y[0], y[1], *bytes) != 0)
        fail_msg("%s/%s/%s: a second run gives other bits", op->name, c->name, kern ? kern->name : "lowered");
    free(y[1]);
    if (kern && !ac_exec_uses(x, kern)) {
        free(y[0]);
        y[0] = NULL;
    }
    ac_exec_free(x);
    ac_case_graph_free(&cg);
    return y[0];
}

static void repeated_case(const ac_op *op, const ac_case *c, const ac_kern *kern)
{
    size_t bytes;
    void *a = twice(op, c, kern, &bytes), *b = a ? twice(op, c, kern, &bytes) : NULL;

    if (a && memcmp(a, b, bytes) != 0)
        fail_msg("%s/%s/%s: made again it gives other bits", op->name, c->name, kern ? kern->name : "lowered");
    free(a);
    free(b);
}

/* Equal inputs give equal bits: in the same execution, and in one made anew. */
static void repeated_runs(void **state)
{
    (void)state;
    for (const ac_op *const *op = ac_ops; *op; op++)
        for (const ac_case *c = (*op)->cases; c && c->name; c++) {
            if (!(c->tags & AC_SMALL))
                continue;
            if (!(*op)->kern)
                repeated_case(*op, c, NULL);
            for (const ac_kern *k = (*op)->kern; k && k->name; k++)
                if (strcmp(k->name, "clblast") != 0)
                    repeated_case(*op, c, k);
        }
}

int main(int argc, char **argv)
{
#define OP(x) cmocka_unit_test(op_##x),
    const struct CMUnitTest of_ops[] = {
#include "ops/ops.def"
    };
#undef OP
    const struct CMUnitTest special[] = {
        cmocka_unit_test(all_halves),
        cmocka_unit_test(narrowing),
        cmocka_unit_test(nan_elementwise),
        cmocka_unit_test(nan_conv),
        cmocka_unit_test(nan_rows),
        cmocka_unit_test(nan_group_norm),
        cmocka_unit_test(extreme_activations),
        cmocka_unit_test(extreme_softmax),
        cmocka_unit_test(flat_rows),
        cmocka_unit_test(repeated_runs),
    };
    int failed;

    pattern = argc > 1 ? argv[1] : NULL;
    smallest = getenv("ADDCL_TEST_SMALLEST") != NULL;
    failed = cmocka_run_group_tests_name("ops", of_ops, device_setup, device_teardown);
    if (pattern) /* one of these, by its whole name */
        cmocka_set_test_filter(pattern);
    if (!smallest)
        failed += cmocka_run_group_tests_name("special values", special, device_setup, device_teardown);
    return failed;
}
