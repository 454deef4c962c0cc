/* elem.c - elementwise ops: unary functions, binary functions with broadcasting, geglu. Their derivatives in one pass
 * are in elem_grad.c. */
#include "ops/ops.h"

#include <math.h>

#include "ops/nest.h"

/* ------------------------------------------------------------------------------------------ unary: f(x; f0, f1) */

static int infer_unary(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    return 1;
}

static void setup_unary(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t count = ac_count(&n->shape);

    (void)g;
    ac_def(l, "U=u_%s", n->op->name);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, count);
    ac_arg_float(l, (double)n->at.f[0]);
    ac_arg_float(l, (double)n->at.f[1]);
    ac_run_grid(lim, count, l);
}

static const ac_kern kern_unary[] = {{"unary", "elem", AC_CLASS_ANY, NULL, NULL, setup_unary}, {0}};

/* The functions in double; `a`, `b` are the attributes. */
static double gelu_double(double x)
{
    return 0.5 * x * erfc(-x * M_SQRT1_2);
}

#define UNARY_REF(name, expr)                                                                                          \
    static void ref_##name(const ac_ref *r)                                                                            \
    {                                                                                                                  \
        int64_t count = ac_count(&r->n->shape);                                                                        \
        const double a = (double)r->n->at.f[0], b = (double)r->n->at.f[1];                                             \
        (void)a, (void)b;                                                                                              \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            const double x = r->in[0][i];                                                                              \
            r->out[i] = (expr);                                                                                        \
        }                                                                                                              \
    }
UNARY_REF(scale, a *x + b)
UNARY_REF(exp, exp(x))
UNARY_REF(log, log(x))
UNARY_REF(sqrt, sqrt(x))
UNARY_REF(tanh, tanh(x))
UNARY_REF(sigmoid, 1 / (1 + exp(-x)))
UNARY_REF(relu, x > 0 ? x : 0)
UNARY_REF(silu, x / (1 + exp(-x)))
UNARY_REF(gelu, gelu_double(x))
UNARY_REF(quick_gelu, x / (1 + exp(-1.702 * x)))
UNARY_REF(clamp, x<a ? a : x> b ? b : x)
UNARY_REF(leaky_relu, x > 0 ? x : a * x)
UNARY_REF(pow, pow(x, a))
UNARY_REF(abs, fabs(x))

/* Gradients. Those of exp, sqrt, tanh, sigmoid and the ReLUs are functions of y, so that x need not be kept. */
#define UNARY_VJP(name, expr)                                                                                          \
    static void vjp_##name(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])                                        \
    {                                                                                                                  \
        const ac_id x = ac_at_node(g, y)->in[0];                                                                       \
        const ac_at at = ac_at_node(g, y)->at;                                                                         \
        const double a = (double)at.f[0], b = (double)at.f[1];                                                         \
        (void)x, (void)a, (void)b;                                                                                     \
        gx[0] = (expr);                                                                                                \
    }
UNARY_VJP(scale, ac_scale(g, gy, a, 0))
UNARY_VJP(exp, ac_mul(g, gy, y))
UNARY_VJP(log, ac_div(g, gy, x))
UNARY_VJP(sqrt, ac_scale(g, ac_div(g, gy, y), 0.5, 0))
UNARY_VJP(tanh, ac_mul(g, gy, ac_scale(g, ac_mul(g, y, y), -1, 1)))
UNARY_VJP(sigmoid, ac_mul(g, gy, ac_mul(g, y, ac_scale(g, y, -1, 1))))
UNARY_VJP(relu, ac_leaky_relu_bx(g, y, gy, 0))
UNARY_VJP(silu, ac_silu_bx(g, x, gy))
UNARY_VJP(gelu, ac_gelu_bx(g, x, gy))
UNARY_VJP(quick_gelu, ac_quick_gelu_bx(g, x, gy))
UNARY_VJP(clamp, ac_clamp_bx(g, x, gy, a, b))
UNARY_VJP(leaky_relu, ac_leaky_relu_bx(g, y, gy, a))
UNARY_VJP(pow, ac_scale(g, ac_mul(g, gy, ac_pow(g, x, a - 1)), a, 0))
UNARY_VJP(abs, ac_abs_bx(g, x, gy))

/* Sizes around the vector width and a run's end. */
#define UNARY_CASES(name, a, b)                                                                                        \
    static const ac_case case_##name[] = {{"1", AC_SMALL, {{1, {1}}}, {{0}, {a, b}}, 2e-6},                            \
                                          {"2x3x5x7", AC_SMALL, {{4, {2, 3, 5, 7}}}, {{0}, {a, b}}, 2e-6},             \
                                          {"1025", AC_SMALL, {{1, {1025}}}, {{0}, {a, b}}, 2e-6},                      \
                                          {0}}
UNARY_CASES(plain, 0, 0);
UNARY_CASES(scale, -1.5f, 0.25f);
UNARY_CASES(clamp, -0.5f, 0.75f);
UNARY_CASES(leaky_relu, 0.2f, 0);
UNARY_CASES(pow, -1.5f, 0);

#define UNARY(op_name, fl, code, case_list)                                                                            \
    const ac_op ac_op_##op_name = {.name = #op_name,                                                                   \
                                   .n_in = 1,                                                                          \
                                   .flags = AC_OP_INPLACE | (fl),                                                      \
                                   .act_code = (code),                                                                 \
                                   .infer = infer_unary,                                                               \
                                   .vjp = vjp_##op_name,                                                               \
                                   .ref = ref_##op_name,                                                               \
                                   .flop = ac_flop_out,                                                                 \
                                   .kern = kern_unary,                                                                 \
                                   .cases = case_##case_list}
UNARY(scale, 0, 0, scale);
UNARY(exp, 0, 0, plain);
UNARY(log, AC_OP_POSITIVE, 0, plain);
UNARY(sqrt, AC_OP_POSITIVE, 0, plain);
UNARY(tanh, 0, 0, plain);
UNARY(sigmoid, 0, 0, plain);
UNARY(relu, AC_OP_ACT, AC_ACT_RELU, plain);
UNARY(silu, AC_OP_ACT, AC_ACT_SILU, plain);
UNARY(gelu, AC_OP_ACT, AC_ACT_GELU, plain);
UNARY(quick_gelu, AC_OP_ACT, AC_ACT_QUICK_GELU, plain);
UNARY(clamp, 0, 0, clamp);
UNARY(leaky_relu, 0, 0, leaky_relu);
UNARY(pow, AC_OP_POSITIVE, 0, pow);
UNARY(abs, 0, 0, plain);

#define UNARY_BUILDER(name)                                                                                            \
    ac_id ac_##name(ac_graph *g, ac_id x)                                                                              \
    {                                                                                                                  \
        return ac_add_node(g, &ac_op_##name, &x, 1, NULL);                                                             \
    }
UNARY_BUILDER(exp)
UNARY_BUILDER(log)
UNARY_BUILDER(sqrt)
UNARY_BUILDER(tanh)
UNARY_BUILDER(sigmoid)
UNARY_BUILDER(relu)
UNARY_BUILDER(silu)
UNARY_BUILDER(gelu)
UNARY_BUILDER(quick_gelu)
UNARY_BUILDER(abs)

ac_id ac_scale(ac_graph *g, ac_id x, double a, double b)
{
    ac_at at = {.f = {(float)a, (float)b}};
    return ac_add_node(g, &ac_op_scale, &x, 1, &at);
}

ac_id ac_clamp(ac_graph *g, ac_id x, double lo, double hi)
{
    ac_at at = {.f = {(float)lo, (float)hi}};
    return ac_add_node(g, &ac_op_clamp, &x, 1, &at);
}

ac_id ac_leaky_relu(ac_graph *g, ac_id x, double slope)
{
    ac_at at = {.f = {(float)slope}};

    if (!(slope >= 0)) /* its gradient takes the sign of x from y */
        return ac_graph_fail(g, ADDCL_E_SHAPE, "leaky_relu: a slope of %g is below 0", slope);
    return ac_add_node(g, &ac_op_leaky_relu, &x, 1, &at);
}

ac_id ac_pow(ac_graph *g, ac_id x, double p)
{
    ac_at at = {.f = {(float)p}};

    return p == 1 ? x : p == 2 ? ac_mul(g, x, x) : ac_add_node(g, &ac_op_pow, &x, 1, &at);
}

/* ------------------------------------------------------------------------------------------ binary: y = f(a, b) */

/* Dimensions of 1, and those that the shorter shape does not have, repeat. */
static int infer_binary(ac_graph *g, ac_node *n)
{
    const ac_shape *a = ac_shape_of(g, n->in[0]), *b = ac_shape_of(g, n->in[1]);
    char ta[96], tb[96];

    n->shape.n = AC_MAX(a->n, b->n);
    for (int k = 1; k <= n->shape.n; k++) {
        int64_t da = k <= a->n ? a->d[a->n - k] : 1, db = k <= b->n ? b->d[b->n - k] : 1;
        if (da != db && da != 1 && db != 1)
            return ac_graph_fail(g, ADDCL_E_SHAPE, "%s: %s and %s do not broadcast", n->op->name, ac_shape_text(a, ta),
                                 ac_shape_text(b, tb));
        n->shape.d[n->shape.n - k] = da == 1 ? db : da;
    }
    return 1;
}

/* Rows are as long as both operands go on evenly: a whole tensor for equal shapes, C or more elements for a vector [C].
 */
static void setup_binary(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const int last = AC_DIMS - 1;
    ac_nest t;

    ac_nest_init(&t, &n->shape);
    for (int k = 0; k < 2; k++)
        ac_nest_operand(&t, k, ac_shape_of(g, n->in[k]));
    ac_nest_join(&t);
    ac_def(l, "B=b_%s", n->op->name);
    ac_def(l, "SA=%d", (int)t.step[0][last]);
    ac_def(l, "SB=%d", (int)t.step[1][last]);
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_nest_args(&t, 2, l);
    ac_rows_grid(lim, ac_nest_rows(&t), t.d[last], l);
}

static const ac_kern kern_binary[] = {{"binary", "elem", AC_CLASS_ANY, NULL, NULL, setup_binary}, {0}};

/* Gradients with respect to a and b, in the shape of y; what was repeated is summed. */
#define BINARY_VJP(name, grad_a, grad_b)                                                                               \
    static void vjp_##name(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])                                        \
    {                                                                                                                  \
        const ac_id a = ac_at_node(g, y)->in[0], b = ac_at_node(g, y)->in[1];                                          \
        const ac_shape sa = *ac_shape_of(g, a), sb = *ac_shape_of(g, b); /* new nodes may move them */                \
        gx[0] = ac_sum_to(g, (grad_a), sa);                                                                            \
        gx[1] = ac_sum_to(g, (grad_b), sb);                                                                            \
    }
BINARY_VJP(add, gy, gy)
BINARY_VJP(sub, gy, ac_scale(g, gy, -1, 0))
BINARY_VJP(mul, ac_mul(g, gy, b), ac_mul(g, gy, a))
BINARY_VJP(div, ac_div(g, gy, b), ac_scale(g, ac_div(g, ac_mul(g, gy, y), b), -1, 0))

#define BINARY(op_name, fl, expr)                                                                                      \
    static void ref_##op_name(const ac_ref *r)                                                                         \
    {                                                                                                                  \
        ac_nest t;                                                                                                     \
        int64_t count = ac_count(&r->n->shape);                                                                        \
        ac_nest_init(&t, &r->n->shape);                                                                                \
        ac_nest_operand(&t, 0, r->shape[0]);                                                                           \
        ac_nest_operand(&t, 1, r->shape[1]);                                                                           \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            int64_t left = i, at[2] = {0};                                                                             \
            for (int k = AC_DIMS - 1; k >= 0; left /= t.d[k--])                                                        \
                for (int o = 0; o < 2; o++)                                                                            \
                    at[o] += left % t.d[k] * t.step[o][k];                                                             \
            const double a = r->in[0][at[0]], b = r->in[1][at[1]];                                                     \
            r->out[i] = (expr);                                                                                        \
        }                                                                                                              \
    }                                                                                                                  \
    const ac_op ac_op_##op_name = {.name = #op_name,                                                                   \
                                   .n_in = 2,                                                                          \
                                   .flags = AC_OP_INPLACE | (fl),                                                      \
                                   .infer = infer_binary,                                                              \
                                   .vjp = vjp_##op_name,                                                               \
                                   .ref = ref_##op_name,                                                               \
                                   .flop = ac_flop_out,                                                                 \
                                   .kern = kern_binary,                                                                \
                                   .cases = case_binary};                                                              \
    ac_id ac_##op_name(ac_graph *g, ac_id a, ac_id b)                                                                  \
    {                                                                                                                  \
        return ac_add_node(g, &ac_op_##op_name, (ac_id[]){a, b}, 2, NULL);                                             \
    }

static const ac_case case_binary[] = {
    {"same_7x33", AC_SMALL, {{2, {7, 33}}, {2, {7, 33}}}, {{0}, {0}}, 1e-6},
    {"same_2100", AC_SMALL, {{1, {2100}}, {1, {2100}}}, {{0}, {0}}, 1e-6},
    {"same_2x3x5x7", AC_SMALL, {{4, {2, 3, 5, 7}}, {4, {2, 3, 5, 7}}}, {{0}, {0}}, 1e-6},
    {"vector", AC_SMALL, {{4, {2, 3, 5, 7}}, {1, {7}}}, {{0}, {0}}, 1e-6},
    {"per_batch", AC_SMALL, {{4, {2, 3, 5, 7}}, {4, {2, 1, 1, 7}}}, {{0}, {0}}, 1e-6},
    {"outer", AC_SMALL, {{3, {3, 1, 5}}, {3, {1, 4, 1}}}, {{0}, {0}}, 1e-6},
    {"scalar", AC_SMALL, {{2, {9, 11}}, {1, {1}}}, {{0}, {0}}, 1e-6},
    {"column", AC_SMALL, {{3, {3, 5, 37}}, {3, {3, 5, 1}}}, {{0}, {0}}, 1e-6},
    {"nested", AC_SMALL, {{4, {2, 3, 4, 5}}, {4, {1, 3, 1, 5}}}, {{0}, {0}}, 1e-6},
    {"first_small", AC_SMALL, {{1, {1}}, {2, {9, 11}}}, {{0}, {0}}, 1e-6},
    {0}};
BINARY(add, AC_OP_ADD, a + b)
BINARY(sub, 0, a - b)
BINARY(mul, 0, a *b)
BINARY(div, AC_OP_POSITIVE, a / b)

/* ------------------------------------------------------------------------------------------ geglu */

/* y = a gelu(b), x = [a | b]: Shazeer 2020, "GLU variants improve transformer". */
static int infer_geglu(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    if (n->shape.d[n->shape.n - 1] % 2)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "geglu: the last dimension %lld is odd",
                             (long long)n->shape.d[n->shape.n - 1]);
    n->shape.d[n->shape.n - 1] /= 2;
    return 1;
}

static void ref_geglu(const ac_ref *r)
{
    int64_t N = r->n->shape.d[r->n->shape.n - 1], rows = ac_count(&r->n->shape) / N;

    for (int64_t m = 0; m < rows; m++)
        for (int64_t j = 0; j < N; j++)
            r->out[m * N + j] = r->in[0][m * 2 * N + j] * gelu_double(r->in[0][m * 2 * N + N + j]);
}

static void setup_geglu(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t N = n->shape.d[n->shape.n - 1];

    (void)g;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_rows_grid(lim, ac_count(&n->shape) / N, N, l);
}

static void vjp_geglu(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    gx[0] = ac_geglu_bx(g, ac_at_node(g, y)->in[0], gy);
}

static const ac_kern kern_geglu[] = {{"geglu", "elem", AC_CLASS_ANY, NULL, NULL, setup_geglu}, {0}};
static const ac_case case_geglu[] = {{"5x26", AC_SMALL, {{2, {5, 26}}}, {{0}, {0}}, 2e-6},
                                     {"2x3x128", AC_SMALL, {{3, {2, 3, 128}}}, {{0}, {0}}, 2e-6},
                                     {"4096x2560", AC_FULL, {{2, {4096, 2560}}}, {{0}, {0}}, 2e-6},
                                     {0}};
const ac_op ac_op_geglu = {.name = "geglu",
                           .n_in = 1,
                           .infer = infer_geglu,
                           .vjp = vjp_geglu,
                           .ref = ref_geglu,
                           .flop = ac_flop_out,
                           .kern = kern_geglu,
                           .cases = case_geglu};

ac_id ac_geglu(ac_graph *g, ac_id x)
{
    return ac_add_node(g, &ac_op_geglu, &x, 1, NULL);
}
