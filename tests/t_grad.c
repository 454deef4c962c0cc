/* t_grad.c - the gradient of every op, and gradients of gradients, against central differences in double precision, and
 * the same graphs on the device against the double executor.
 *
 * Every case in the ops' rows is one graph: y = op(inputs), gx = ac_grad(y, gy). For a random cotangent gy and a random
 * direction u of each input, <gx, u> must be the derivative of <gy, y> along u. `t_grad PATTERN` runs only op/case/input
 * names that contain PATTERN. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "ops/check.h"
#include "ops/ops.h"

enum { VJP_CASES = 250, DOUBLE_CASES = 60 }; /* least numbers that the rows must give */

static const char *pattern;
static int n_vjp, n_double;

/* ------------------------------------------------------------------------------------------ a case as a graph of inputs */

enum { FEEDS = 2 * AC_MAX_IN + 2 };

/* Inputs of the op, cotangents of y and of the gradients; outputs: the gradients to be checked. */
typedef struct trial {
    ac_graph *g;
    ac_id in[FEEDS];       /* input nodes in creation order */
    double *value[FEEDS];  /* owned */
    int n_in;
    int of_op[AC_MAX_IN];  /* index in in[] of the op's inputs, -1: absent */
    int cot_y;             /* index in in[] of the cotangent of y */
    ac_id y, scalar;       /* the op's value; what is differentiated: <cotangents, values> */
    ac_id wrt[FEEDS];      /* differentiated by these inputs */
    int wrt_in[FEEDS], n_wrt; /* and their index in in[] */
} trial;

static void fill(double *v, size_t n, uint64_t seed, double scale, double shift)
{
    float *f = calloc(n, sizeof *f);

    assert_non_null(f);
    ac_mix_fill(&seed, f, n);
    for (size_t i = 0; i < n; i++)
        v[i] = (double)((float)shift + (float)scale * f[i]);
    free(f);
}

static ac_id new_input(trial *t, ac_type type, ac_shape shape)
{
    char name[16];

    snprintf(name, sizeof name, "in%d", t->n_in);
    t->in[t->n_in] = ac_input(t->g, name, type, shape);
    t->value[t->n_in] = calloc((size_t)ac_count(&shape), sizeof(double));
    assert_non_null(t->value[t->n_in]);
    return t->in[t->n_in++];
}

/* <a, b> as a node. */
static ac_id inner(ac_graph *g, ac_id a, ac_id b)
{
    ac_id p = ac_mul(g, a, b);
    unsigned axes = (1u << ac_shape_of(g, p)->n) - 1;

    return ac_reshape(g, ac_sum(g, p, axes), ac_dims(1, 1));
}

static ac_id cotangent(trial *t, ac_id of)
{
    ac_id c = new_input(t, AC_F32, *ac_shape_of(t->g, of));

    fill(t->value[t->n_in - 1], (size_t)ac_count(ac_shape_of(t->g, of)), 77u + (uint64_t)t->n_in, 1, 0);
    return c;
}

/* The op on the case's inputs as in check.c, all of them plain inputs. */
static void trial_new(trial *t, const ac_op *op, const ac_case *c)
{
    ac_case_graph cg;
    ac_id in[AC_MAX_IN];

    memset(t, 0, sizeof *t);
    assert_int_equal(ac_case_graph_new(op, c, AC_F32, test_diag(), &cg), 0);
    assert_non_null(t->g = ac_graph_new(test_diag(), AC_F32));
    for (int k = 0; k < AC_MAX_IN; k++) {
        in[k] = AC_NONE;
        t->of_op[k] = -1;
        if (!cg.value[k])
            continue;
        t->of_op[k] = t->n_in;
        in[k] = new_input(t, op->ints >> k & 1 ? AC_I32 : AC_F32, c->in[k]);
        memcpy(t->value[t->n_in - 1], cg.value[k], (size_t)ac_count(&c->in[k]) * sizeof(double));
        if (!(op->ints >> k & 1)) {
            t->wrt[t->n_wrt] = in[k];
            t->wrt_in[t->n_wrt++] = t->n_in - 1;
        }
    }
    t->y = ac_add_node(t->g, op, in, op->n_in + op->n_opt, &c->at);
    t->cot_y = t->n_in;
    t->scalar = inner(t->g, t->y, cotangent(t, t->y));
    ac_case_graph_free(&cg);
}

static void trial_free(trial *t)
{
    for (int i = 0; i < t->n_in; i++)
        free(t->value[i]);
    ac_graph_free(t->g);
}

/* Runs the double executor; out has one array for each output of the graph. */
static void reference(const trial *t, double **out)
{
    const double *feeds[FEEDS];

    for (int i = 0; i < t->n_in; i++)
        feeds[i] = t->value[i];
    if (ac_ref_run(t->g, feeds, out) < 0)
        fail_msg("%s", test_diag()->msg);
}

/* ------------------------------------------------------------------------------------------ central differences */

/* The value of the graph's first output, a scalar, with input i moved by h along u. */
static double moved(const trial *t, int i, const double *u, double h)
{
    size_t n = (size_t)ac_count(ac_shape_of(t->g, t->in[i]));
    double *kept = t->value[i], *v = calloc(n, sizeof *v), *out[FEEDS], s;
    trial there = *t;

    assert_non_null(v);
    for (size_t k = 0; k < n; k++)
        v[k] = kept[k] + h * u[k];
    there.value[i] = v;
    reference(&there, out);
    s = out[0][0];
    for (size_t k = 0; k < t->g->outputs.n; k++)
        free(out[k]);
    free(v);
    return s;
}

/* d scalar / d input i along u, with an error of the fourth order. */
static double derivative(const trial *t, int i, const double *u)
{
    const double h = 1e-4;
    double d1 = (moved(t, i, u, h) - moved(t, i, u, -h)) / (2 * h);
    double d2 = (moved(t, i, u, h / 2) - moved(t, i, u, -h / 2)) / h;

    return (4 * d2 - d1) / 3;
}

static bool check_direction(const trial *t, const char *name, int i, const double *gx)
{
    size_t n = (size_t)ac_count(ac_shape_of(t->g, t->in[i]));
    double *u = calloc(n, sizeof *u), dot = 0, size = 0, d;
    bool ok;

    assert_non_null(u);
    fill(u, n, 991u + (uint64_t)i, 1, 0);
    for (size_t k = 0; k < n; k++) {
        dot += gx[k] * u[k];
        size += gx[k] * gx[k] * u[k] * u[k];
    }
    d = derivative(t, i, u);
    ok = fabs(d - dot) <= 1e-6 * fmax(fmax(fabs(d), sqrt(size)), 1e-3);
    if (!ok)
        print_error("# FAIL %s: gradient %.10g, central differences %.10g\n", name, dot, d);
    free(u);
    return ok;
}

/* ------------------------------------------------------------------------------------------ on the device */

/* Largest mean square of a gradient: those that vanish by mathematics are compared on the scale of the others. */
static double scale_of(const trial *t, double *const *want)
{
    double top = 0;

    for (size_t o = 1; o < t->g->outputs.n; o++) {
        size_t n = (size_t)ac_count(ac_shape_of(t->g, t->g->outputs.p[o].id));
        double all = 0;
        for (size_t j = 0; j < n; j++)
            all += want[o][j] * want[o][j];
        top = fmax(top, all / (double)n);
    }
    return top;
}

/* |got - want|^2 / |want|^2 of every output. */
static bool check_device(const trial *t, const char *name, double *const *want)
{
    ac_exec *x = NULL;
    char in[16], out[16];
    bool ok = true;

    if (ac_exec_new(test_device(), t->g, NULL, &x) < 0)
        fail_msg("%s: %s", name, test_diag()->msg);
    for (int i = 0; i < t->n_in; i++) {
        size_t n = (size_t)ac_count(ac_shape_of(t->g, t->in[i]));
        bool ids = ac_at_node(t->g, t->in[i])->type == AC_I32;
        float *f = calloc(n, sizeof *f);
        int32_t *k = calloc(n, sizeof *k);
        assert_true(f && k);
        for (size_t j = 0; j < n; j++) {
            f[j] = (float)t->value[i][j];
            k[j] = (int32_t)t->value[i][j];
        }
        snprintf(in, sizeof in, "in%d", i);
        assert_int_equal(ac_feed(x, in, ids ? (void *)k : f, n * sizeof *f), 0);
        free(f);
        free(k);
    }
    if (ac_run(x) < 0)
        fail_msg("%s: %s", name, test_diag()->msg);
    for (size_t o = 1; o < t->g->outputs.n; o++) {
        size_t n = (size_t)ac_count(ac_shape_of(t->g, t->g->outputs.p[o].id));
        float *got = calloc(n, sizeof *got);
        double diff = 0, all = 0;
        assert_non_null(got);
        snprintf(out, sizeof out, "%s", t->g->outputs.p[o].name);
        assert_int_equal(ac_fetch(x, out, got, n * sizeof *got), 0);
        for (size_t j = 0; j < n; j++) {
            diff += ((double)got[j] - want[o][j]) * ((double)got[j] - want[o][j]);
            all += want[o][j] * want[o][j];
        }
        if (!(diff <= 1e-9 * all + 1e-13 * scale_of(t, want) * (double)n)) {
            print_error("# FAIL %s: %s on the device: NMSE %.3g\n", name, out, diff / all);
            ok = false;
        }
        free(got);
    }
    ac_exec_free(x);
    return ok;
}

/* ------------------------------------------------------------------------------------------ one case */

/* Differentiates t->scalar and checks every gradient; -1: a failure, else the number of gradients. */
static int check_gradients(trial *t, const char *name)
{
    ac_id gx[FEEDS];
    double *out[FEEDS + 1];
    int done = 0;
    bool ok = true;

    ac_grad(t->g, t->scalar, AC_NONE, t->wrt, t->n_wrt, gx);
    ac_set_output(t->g, "scalar", t->scalar);
    for (int k = 0; k < t->n_wrt; k++) {
        char o[16];
        snprintf(o, sizeof o, "g%d", k);
        if (gx[k] != AC_NONE)
            ac_set_output(t->g, o, gx[k]);
    }
    if (t->g->rc) {
        print_error("# FAIL %s: %s\n", name, test_diag()->msg);
        return -1;
    }
    reference(t, out);
    for (int k = 0; k < t->n_wrt; k++) {
        if (gx[k] == AC_NONE)
            continue;
        ok = check_direction(t, name, t->wrt_in[k], out[1 + done]) && ok;
        done++;
    }
    if (done)
        ok = check_device(t, name, out) && ok;
    for (size_t k = 0; k < t->g->outputs.n; k++)
        free(out[k]);
    return ok ? done : -1;
}

/* What fuse.c makes of an op is never differentiated: neither is it here; nor is rounding. */
static bool not_differentiated(const ac_op *op, const ac_case *c)
{
    if (op == &ac_op_cast)
        return c->at.i[0] != AC_F32;
    return op->flags & AC_OP_EPILOGUE && (c->at.i[AC_AT_ACT] || c->in[AC_EP_ROW].n || c->in[AC_EP_RES].n);
}

/* Ops whose gradients must be differentiable: those on the path of the discriminator's heads (R1). */
static bool in_heads(const ac_op *op)
{
    static const char *const names[] = {"add", "sub", "mul", "div", "scale", "exp", "log", "sqrt", "pow", "abs", "relu", "leaky_relu",
                                        "tanh", "sigmoid", "sum", "broadcast", "reshape", "transpose", "slice", "pad", "concat", "matmul",
                                        "conv", "conv_bx", "conv_bw", "resample", "resample_bx"};

    for (size_t i = 0; i < AC_LEN(names); i++)
        if (!strcmp(op->name, names[i]))
            return true;
    return false;
}

static int check_first(const ac_op *op, const ac_case *c, const char *name)
{
    trial t;
    int n;

    trial_new(&t, op, c);
    n = check_gradients(&t, name);
    trial_free(&t);
    return n;
}

/* The gradients of a random combination of the gradients. */
static int check_second(const ac_op *op, const ac_case *c, const char *name)
{
    ac_id gx[FEEDS], s = AC_NONE;
    trial t;
    int n;

    trial_new(&t, op, c);
    ac_grad(t.g, t.scalar, AC_NONE, t.wrt, t.n_wrt, gx);
    for (int k = 0, wrt = t.n_wrt; k < wrt && !t.g->rc; k++) {
        ac_id part;
        if (gx[k] == AC_NONE)
            continue;
        part = inner(t.g, gx[k], cotangent(&t, gx[k]));
        s = s == AC_NONE ? part : ac_add(t.g, s, part);
    }
    t.wrt[t.n_wrt] = t.in[t.cot_y]; /* and by the cotangent of y */
    t.wrt_in[t.n_wrt++] = t.cot_y;
    t.scalar = s;
    n = s == AC_NONE ? 0 : check_gradients(&t, name);
    trial_free(&t);
    return n;
}

static void check_op(const ac_op *op)
{
    int failed = 0;

    for (const ac_case *c = op->cases; c && c->name && (op->vjp || op->lower); c++) {
        char name[96];
        int n;
        snprintf(name, sizeof name, "%s/%s", op->name, c->name);
        if (!(c->tags & AC_SMALL) || not_differentiated(op, c) || (pattern && !strstr(name, pattern)))
            continue;
        n = check_first(op, c, name);
        failed += n < 0;
        n_vjp += AC_MAX(n, 0);
        if (!in_heads(op))
            continue;
        snprintf(name, sizeof name, "%s/%s/second", op->name, c->name);
        n = check_second(op, c, name);
        failed += n < 0;
        n_double += AC_MAX(n, 0);
    }
    assert_int_equal(failed, 0);
}

#define OP(x)                                                                                                          \
    static void op_##x(void **state)                                                                                   \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        check_op(&ac_op_##x);                                                                                          \
    }
#include "ops/ops.def"
#undef OP

static void enough_cases(void **state)
{
    (void)state;
    print_message("# %d gradients, %d gradients of gradients\n", n_vjp, n_double);
    if (pattern)
        skip();
    assert_true(n_vjp >= VJP_CASES);
    assert_true(n_double >= DOUBLE_CASES);
}

/* ------------------------------------------------------------------------------------------ the sweep itself */

/* x and a chain of blocks y = silu(x w) + x; loss = sum(y * y). */
static ac_id blocks(ac_graph *g, ac_id x, ac_id w, int n, bool checkpoint)
{
    for (int i = 0; i < n; i++) {
        if (checkpoint)
            ac_segment_begin(g);
        x = ac_add(g, ac_silu(g, ac_tanh(g, ac_matmul(g, ac_silu(g, ac_scale(g, x, 0.5, 0)), w, false, false))), x);
        if (checkpoint)
            ac_segment_end(g);
    }
    return ac_sum(g, ac_mul(g, x, x), 3);
}

static ac_graph *chain(int n, bool checkpoint, uint64_t *activations, float *gx, const float *xv, const float *wv)
{
    ac_graph *g = ac_graph_new(test_diag(), AC_F32);
    ac_id in[2] = {ac_input(g, "x", AC_F32, ac_dims(2, 64, 32)), ac_input(g, "w", AC_F32, ac_dims(2, 32, 32))}, out[2], y;
    ac_exec *x = NULL;

    y = blocks(g, in[0], in[1], n, checkpoint);
    ac_grad(g, y, AC_NONE, in, 2, out);
    ac_set_output(g, "gw", out[1]);
    assert_int_equal(ac_exec_new(test_device(), g, NULL, &x), 0);
    assert_int_equal(ac_feed(x, "x", xv, 64 * 32 * 4), 0);
    assert_int_equal(ac_feed(x, "w", wv, 32 * 32 * 4), 0);
    assert_int_equal(ac_run(x), 0);
    assert_int_equal(ac_fetch(x, "gw", gx, 32 * 32 * 4), 0);
    *activations = ac_exec_info(x)->activations;
    ac_exec_free(x);
    return g;
}

/* Checkpointing changes no bit of the result, and a deep chain then needs a fraction of the memory. */
static void checkpointing(void **state)
{
    float x[64 * 32], w[32 * 32], plain[32 * 32], saved[32 * 32];
    uint64_t seed = 5, a, b;

    (void)state;
    ac_mix_fill(&seed, x, AC_LEN(x));
    ac_mix_fill(&seed, w, AC_LEN(w));
    ac_graph_free(chain(24, false, &a, plain, x, w));
    ac_graph_free(chain(24, true, &b, saved, x, w));
    assert_memory_equal(plain, saved, sizeof plain);
    print_message("# activations %.0f kB, checkpointed %.0f kB\n", (double)a * 1e-3, (double)b * 1e-3);
    assert_true(2 * b < a);
}

static double run_scalar(ac_graph *g, ac_id out, double x)
{
    double *y[1], v;
    const double *feeds[1] = {&x};

    ac_set_output(g, "y", out);
    if (ac_ref_run(g, feeds, y) < 0)
        fail_msg("%s", test_diag()->msg);
    v = y[0][0];
    free(y[0]);
    return v;
}

/* d/dx of x stop(x) is x, not 2 x; a value used many times sums its gradients; no path, no gradient. */
static void sweeps(void **state)
{
    ac_graph *g = ac_graph_new(test_diag(), AC_F32);
    ac_id x = ac_input(g, "x", AC_F32, ac_dims(1, 1)), other = ac_scale(g, x, 3, 0), gx;

    (void)state;
    ac_grad(g, ac_mul(g, x, ac_stop(g, x)), AC_NONE, &x, 1, &gx);
    assert_true(fabs(run_scalar(g, gx, 1.5) - 1.5) < 1e-12);
    ac_graph_free(g);

    g = ac_graph_new(test_diag(), AC_F32);
    x = ac_input(g, "x", AC_F32, ac_dims(1, 1));
    ac_grad(g, ac_mul(g, ac_mul(g, x, x), ac_add(g, x, ac_mul(g, x, x))), AC_NONE, &x, 1, &gx); /* x^3 + x^4 */
    assert_true(fabs(run_scalar(g, gx, 2) - 44) < 1e-9);
    ac_graph_free(g);

    g = ac_graph_new(test_diag(), AC_F32);
    x = ac_input(g, "x", AC_F32, ac_dims(1, 1));
    other = ac_scale(g, x, 3, 0);
    ac_grad(g, ac_stop(g, x), AC_NONE, &x, 1, &gx);
    assert_int_equal(gx, AC_NONE);
    ac_grad(g, x, AC_NONE, &other, 1, &gx);
    assert_int_equal(gx, AC_NONE);
    ac_graph_free(g);
}

/* Three times differentiated: x^5 -> 60 x^2. */
static void third(void **state)
{
    ac_graph *g = ac_graph_new(test_diag(), AC_F32);
    ac_id x = ac_input(g, "x", AC_F32, ac_dims(1, 1)), x2 = ac_mul(g, x, x), y = ac_mul(g, ac_mul(g, x2, x2), x);

    (void)state;
    for (int i = 0; i < 3; i++)
        ac_grad(g, y, AC_NONE, &x, 1, &y);
    assert_true(fabs(run_scalar(g, y, 1.5) - 135) < 1e-9);
    ac_graph_free(g);
}

/* A variable is read by one execution, and another sees what an effect wrote. */
static void variables(void **state)
{
    float v[5] = {1, 2, 3, 4, 5}, got[5];
    ac_var *var;
    ac_graph *g = ac_graph_new(test_diag(), AC_F32);
    ac_exec *x = NULL;

    (void)state;
    assert_int_equal(ac_var_new(test_device(), "v", AC_F32, ac_dims(1, 5), &var), 0);
    assert_int_equal(ac_var_read(var, got), 0);
    for (int i = 0; i < 5; i++)
        assert_true(got[i] == 0);
    assert_int_equal(ac_var_write(var, v), 0);
    ac_set_output(g, "y", ac_scale(g, ac_state(g, var), 2, 1));
    assert_int_equal(ac_exec_new(test_device(), g, NULL, &x), 0);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(ac_run(x), 0);
        assert_int_equal(ac_fetch(x, "y", got, sizeof got), 0);
        for (int i = 0; i < 5; i++)
            assert_true(got[i] == 2 * v[i] + 1);
        v[0] = 10;
        assert_int_equal(ac_var_write(var, v), 0);
    }
    ac_exec_free(x);
    ac_var_free(var);
    ac_graph_free(g);
}

int main(int argc, char **argv)
{
#define OP(x) cmocka_unit_test(op_##x),
    const struct CMUnitTest of_ops[] = {
#include "ops/ops.def"
        cmocka_unit_test(enough_cases)};
#undef OP
    const struct CMUnitTest sweep[] = {cmocka_unit_test(sweeps), cmocka_unit_test(third), cmocka_unit_test(variables),
                                       cmocka_unit_test(checkpointing)};
    int failed;

    pattern = argc > 1 ? argv[1] : NULL;
    failed = cmocka_run_group_tests_name("gradients", of_ops, device_setup, device_teardown);
    if (!pattern)
        failed += cmocka_run_group_tests_name("sweep", sweep, device_setup, device_teardown);
    return failed;
}
