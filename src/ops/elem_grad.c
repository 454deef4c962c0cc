/* elem_grad.c - fused derivatives of elementwise functions: one pass over x (or y) and the gradient gy gives that of x.
 */
#include "ops/ops.h"

#include <math.h>

#include "ops/nest.h"

static int bad_gradient(ac_graph *g, const ac_node *n)
{
    char x[96], gy[96];

    return ac_graph_fail(g, ADDCL_E_SHAPE, "%s: a gradient of %s at %s", n->op->name,
                         ac_shape_text(ac_shape_of(g, n->in[1]), gy), ac_shape_text(ac_shape_of(g, n->in[0]), x));
}

/* ------------------------------------------------------------------------------------------ unary */
/* gx = gy f'(x; f0, f1) with the attributes of f. Where f' is a step function it has no gradient itself. */

static int infer_same(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    return ac_same_shape(&n->shape, ac_shape_of(g, n->in[1])) ? 1 : bad_gradient(g, n);
}

static void setup_unary_bx(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t count = ac_count(&n->shape);

    (void)g;
    ac_def(l, "D=d_%s", n->op->name);
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, count);
    ac_arg_float(l, (double)n->at.f[0]);
    ac_arg_float(l, (double)n->at.f[1]);
    ac_run_grid(lim, count, l);
}

static const ac_kern kern_unary_bx[] = {{"unary_bx", "elem", AC_CLASS_ANY, NULL, NULL, setup_unary_bx}, {0}};

/* The standard normal distribution and its density. */
static double normal_cdf(double x)
{
    return 0.5 * erfc(-x * M_SQRT1_2);
}

static double normal_pdf(double x)
{
    return exp(-0.5 * x * x) * (0.5 * M_2_SQRTPI * M_SQRT1_2);
}

/* Derivative of x sigmoid(k x). */
static double swish_slope(double x, double k)
{
    double s = 1 / (1 + exp(-k * x));
    return s * (1 + k * x * (1 - s));
}

/* f' as an expression in x and the attributes a, b. */
#define SLOPE_REF(name, expr)                                                                                          \
    static void ref_##name(const ac_ref *r)                                                                            \
    {                                                                                                                  \
        int64_t count = ac_count(&r->n->shape);                                                                        \
        const double a = (double)r->n->at.f[0], b = (double)r->n->at.f[1];                                             \
        (void)a, (void)b;                                                                                              \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            const double x = r->in[0][i];                                                                              \
            r->out[i] = r->in[1][i] * (expr);                                                                          \
        }                                                                                                              \
    }
SLOPE_REF(leaky_relu_bx, x > 0 ? 1 : a)
SLOPE_REF(clamp_bx, x<a || x> b ? 0 : 1)
SLOPE_REF(abs_bx, (x > 0) - (x < 0))
SLOPE_REF(silu_bx, swish_slope(x, 1))
SLOPE_REF(quick_gelu_bx, swish_slope(x, 1.702))
SLOPE_REF(gelu_bx, normal_cdf(x) + x * normal_pdf(x))

/* gx is linear in gy: its gradient there is the same op. `curve` is f''(x), AC_NONE: 0. */
static void vjp_slope(ac_graph *g, ac_id y, ac_id gy, ac_id curve, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);

    gx[1] = ac_add_node(g, n.op, (ac_id[]){n.in[0], gy}, 2, &n.at);
    if (curve != AC_NONE)
        gx[0] = ac_mul(g, ac_mul(g, gy, n.in[1]), curve);
}

/* f' has steps only. */
static void vjp_step(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    vjp_slope(g, y, gy, AC_NONE, gx);
}

/* Second derivative of x s, s = sigmoid(k x): k s (1 - s) (2 + k x (1 - 2 s)). */
static ac_id swish_curve(ac_graph *g, ac_id x, double k)
{
    ac_id s = ac_sigmoid(g, ac_scale(g, x, k, 0));
    ac_id bell = ac_mul(g, s, ac_scale(g, s, -k, k));

    return ac_mul(g, bell, ac_scale(g, ac_mul(g, x, ac_scale(g, s, -2 * k, k)), 1, 2));
}

static void vjp_silu_bx(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    vjp_slope(g, y, gy, swish_curve(g, ac_at_node(g, y)->in[0], 1), gx);
}

static void vjp_quick_gelu_bx(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    vjp_slope(g, y, gy, swish_curve(g, ac_at_node(g, y)->in[0], 1.702), gx);
}

/* gelu'' = (2 - x^2) times the normal density. */
static void vjp_gelu_bx(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    ac_id x = ac_at_node(g, y)->in[0], square = ac_mul(g, x, x);
    ac_id density = ac_scale(g, ac_exp(g, ac_scale(g, square, -0.5, 0)), normal_pdf(0), 0);

    vjp_slope(g, y, gy, ac_mul(g, density, ac_scale(g, square, -1, 2)), gx);
}

/* Sizes around the vector width and a run's end. */
#define SLOPE_CASES(name, a, b)                                                                                        \
    static const ac_case case_##name[] = {{"1", AC_SMALL, {{1, {1}}, {1, {1}}}, {{0}, {a, b}}, 2e-6},                  \
                                          {"3x5x7", AC_SMALL, {{3, {3, 5, 7}}, {3, {3, 5, 7}}}, {{0}, {a, b}}, 2e-6},  \
                                          {"1025", AC_SMALL, {{1, {1025}}, {1, {1025}}}, {{0}, {a, b}}, 2e-6},         \
                                          {"1M", AC_FULL, {{1, {1 << 20}}, {1, {1 << 20}}}, {{0}, {a, b}}, 2e-6},      \
                                          {0}}
SLOPE_CASES(plain, 0, 0);
SLOPE_CASES(leaky, 0.2f, 0);
SLOPE_CASES(clamp, -0.5f, 0.75f);

#define SLOPE(op_name, vjp_name, case_list)                                                                            \
    const ac_op ac_op_##op_name = {.name = #op_name,                                                                   \
                                   .n_in = 2,                                                                          \
                                   .flags = AC_OP_INPLACE,                                                             \
                                   .infer = infer_same,                                                                \
                                   .vjp = vjp_##vjp_name,                                                              \
                                   .ref = ref_##op_name,                                                               \
                                   .flop = ac_flop_out,                                                                 \
                                   .kern = kern_unary_bx,                                                              \
                                   .cases = case_##case_list}
SLOPE(leaky_relu_bx, step, leaky);
SLOPE(clamp_bx, step, clamp);
SLOPE(abs_bx, step, plain);
SLOPE(silu_bx, silu_bx, plain);
SLOPE(quick_gelu_bx, quick_gelu_bx, plain);
SLOPE(gelu_bx, gelu_bx, plain);

static ac_id add_slope(ac_graph *g, const ac_op *op, ac_id x, ac_id gy, double a, double b)
{
    ac_at at = {.f = {(float)a, (float)b}};
    return ac_add_node(g, op, (ac_id[]){x, gy}, 2, &at);
}

ac_id ac_leaky_relu_bx(ac_graph *g, ac_id y, ac_id gy, double slope)
{
    return add_slope(g, &ac_op_leaky_relu_bx, y, gy, slope, 0);
}

ac_id ac_clamp_bx(ac_graph *g, ac_id x, ac_id gy, double lo, double hi)
{
    return add_slope(g, &ac_op_clamp_bx, x, gy, lo, hi);
}

ac_id ac_abs_bx(ac_graph *g, ac_id x, ac_id gy)
{
    return add_slope(g, &ac_op_abs_bx, x, gy, 0, 0);
}

ac_id ac_silu_bx(ac_graph *g, ac_id x, ac_id gy)
{
    return add_slope(g, &ac_op_silu_bx, x, gy, 0, 0);
}

ac_id ac_quick_gelu_bx(ac_graph *g, ac_id x, ac_id gy)
{
    return add_slope(g, &ac_op_quick_gelu_bx, x, gy, 0, 0);
}

ac_id ac_gelu_bx(ac_graph *g, ac_id x, ac_id gy)
{
    return add_slope(g, &ac_op_gelu_bx, x, gy, 0, 0);
}

/* ------------------------------------------------------------------------------------------ geglu_bx */
/* x [..,2N], gy [..,N] -> [..,2N] */

static int infer_geglu_bx(ac_graph *g, ac_node *n)
{
    ac_shape half = *ac_shape_of(g, n->in[0]);

    n->shape = half;
    half.d[half.n - 1] /= 2;
    if (n->shape.d[half.n - 1] % 2 || !ac_same_shape(&half, ac_shape_of(g, n->in[1])))
        return bad_gradient(g, n);
    return 1;
}

static void ref_geglu_bx(const ac_ref *r)
{
    int64_t N = r->shape[1]->d[r->shape[1]->n - 1], rows = ac_count(r->shape[1]) / N;

    for (int64_t m = 0; m < rows; m++)
        for (int64_t j = 0; j < N; j++) {
            const double a = r->in[0][m * 2 * N + j], b = r->in[0][m * 2 * N + N + j], gy = r->in[1][m * N + j];
            r->out[m * 2 * N + j] = gy * b * normal_cdf(b);
            r->out[m * 2 * N + N + j] = gy * a * (normal_cdf(b) + b * normal_pdf(b));
        }
}

/* For its own gradient: the same from other ops. */
static ac_id lower_geglu_bx(ac_graph *g, const ac_node *n)
{
    const ac_id x = n->in[0], gy = n->in[1];
    const int last = n->shape.n - 1;
    const int64_t N = n->shape.d[last] / 2;
    ac_id a = ac_slice(g, x, last, 0, N), b = ac_slice(g, x, last, N, N);

    return ac_concat(g, ac_mul(g, gy, ac_gelu(g, b)), ac_gelu_bx(g, b, ac_mul(g, gy, a)), last);
}

static void setup_geglu_bx(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t N = n->shape.d[n->shape.n - 1] / 2;

    (void)g;
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_rows_grid(lim, ac_count(&n->shape) / (2 * N), N, l);
}

static const ac_kern kern_geglu_bx[] = {{"geglu_bx", "elem", AC_CLASS_ANY, NULL, NULL, setup_geglu_bx}, {0}};
static const ac_case case_geglu_bx[] = {
    {"5x26", AC_SMALL, {{2, {5, 26}}, {2, {5, 13}}}, {{0}, {0}}, 2e-6},
    {"2x3x128", AC_SMALL, {{3, {2, 3, 128}}, {3, {2, 3, 64}}}, {{0}, {0}}, 2e-6},
    {"4096x2560", AC_FULL, {{2, {4096, 2560}}, {2, {4096, 1280}}}, {{0}, {0}}, 2e-6},
    {0}};
const ac_op ac_op_geglu_bx = {.name = "geglu_bx",
                              .n_in = 2,
                              .infer = infer_geglu_bx,
                              .lower = lower_geglu_bx,
                              .ref = ref_geglu_bx,
                              .flop = ac_flop_out,
                              .kern = kern_geglu_bx,
                              .cases = case_geglu_bx};

ac_id ac_geglu_bx(ac_graph *g, ac_id x, ac_id gy)
{
    return ac_add_node(g, &ac_op_geglu_bx, (ac_id[]){x, gy}, 2, NULL);
}
