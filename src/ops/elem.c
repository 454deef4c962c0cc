/* elem.c - elementwise ops: unary functions, binary functions with broadcasting, geglu. */
#include "ops/ops.h"

#include <math.h>

/* Vectors per work-item: a CPU core takes a run of memory, a GPU work-item one vector. */
static int vector_width(const ac_limits *lim)
{
    return lim->cls == AC_CLASS_CPU ? lim->vw : 4;
}

static int span(const ac_limits *lim)
{
    return lim->cls == AC_CLASS_CPU ? 64 : 1;
}

static size_t local_size(const ac_limits *lim)
{
    return lim->cls == AC_CLASS_CPU ? 1 : 64;
}

static double count_flop(const ac_graph *g, const ac_node *n)
{
    (void)g;
    return (double)ac_count(&n->shape);
}

/* ------------------------------------------------------------------------------------------ unary: y = f(x; f0, f1) */

static int infer_unary(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    return 1;
}

static void setup_unary(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t count = ac_count(&n->shape);

    (void)g;
    ac_def(l, "VW=%d", vector_width(lim));
    ac_def(l, "SPAN=%d", span(lim));
    ac_def(l, "U=u_%s", n->op->name);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, count);
    ac_arg_float(l, (double)n->at.f[0]);
    ac_arg_float(l, (double)n->at.f[1]);
    ac_grid1(l, (size_t)AC_CEIL_DIV(count, (int64_t)vector_width(lim) * span(lim)), local_size(lim));
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
UNARY_REF(clamp, x < a ? a : x > b ? b : x)

/* Cases: sizes around the vector width and a run's end; log and sqrt take the squares (AC_CASE_POSITIVE). */
#define UNARY_CASES(name, a, b)                                                                                        \
    static const ac_case case_##name[] = {{"1", AC_SMALL, {{1, {1}}}, {{0}, {a, b}}, 2e-6},                            \
                                          {"2x3x5x7", AC_SMALL, {{4, {2, 3, 5, 7}}}, {{0}, {a, b}}, 2e-6},             \
                                          {"1025", AC_SMALL, {{1, {1025}}}, {{0}, {a, b}}, 2e-6},                      \
                                          {0}}
UNARY_CASES(plain, 0, 0);
UNARY_CASES(scale, -1.5f, 0.25f);
UNARY_CASES(clamp, -0.5f, 0.75f);

#define UNARY(op_name, fl, code, case_list)                                                                            \
    const ac_op ac_op_##op_name = {.name = #op_name,                                                                   \
                                   .n_in = 1,                                                                          \
                                   .flags = AC_OP_INPLACE | (fl),                                                      \
                                   .act_code = (code),                                                                 \
                                   .infer = infer_unary,                                                               \
                                   .ref = ref_##op_name,                                                               \
                                   .flop = count_flop,                                                                 \
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

/* ------------------------------------------------------------------------------------------ binary: y = f(a, b) */

/* Strides of `s` seen as the broadcast shape y, in elements; 0 along repeated dimensions. */
static void strides(const ac_shape *y, const ac_shape *s, int64_t st[AC_DIMS])
{
    int64_t step = 1;

    for (int k = 0; k < AC_DIMS; k++)
        st[k] = 0;
    for (int k = s->n - 1; k >= 0; k--) {
        int at = AC_DIMS - (s->n - k);
        st[at] = s->d[k] == 1 ? 0 : step;
        step *= s->d[k];
    }
    (void)y;
}

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

static bool accepts_same(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)lim;
    return ac_same_shape(ac_shape_of(g, n->in[0]), ac_shape_of(g, n->in[1]));
}

static void setup_same(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t count = ac_count(&n->shape);

    (void)g;
    ac_def(l, "VW=%d", vector_width(lim));
    ac_def(l, "SPAN=%d", span(lim));
    ac_def(l, "B=b_%s", n->op->name);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    ac_arg_int(l, count);
    ac_grid1(l, (size_t)AC_CEIL_DIV(count, (int64_t)vector_width(lim) * span(lim)), local_size(lim));
}

static void setup_broadcast(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t sa[AC_DIMS], sb[AC_DIMS];

    (void)lim;
    strides(&n->shape, ac_shape_of(g, n->in[0]), sa);
    strides(&n->shape, ac_shape_of(g, n->in[1]), sb);
    ac_def(l, "B=b_%s", n->op->name);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    ac_arg_int(l, ac_count(&n->shape));
    for (int k = AC_DIMS - 3; k < AC_DIMS; k++)
        ac_arg_int(l, k - (AC_DIMS - n->shape.n) >= 0 ? n->shape.d[k - (AC_DIMS - n->shape.n)] : 1);
    for (int k = 0; k < AC_DIMS; k++)
        ac_arg_int(l, sa[k]);
    for (int k = 0; k < AC_DIMS; k++)
        ac_arg_int(l, sb[k]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

static const ac_kern kern_binary[] = {{"binary_same", "elem", AC_CLASS_ANY, accepts_same, NULL, setup_same},
                                      {"binary_any", "elem", AC_CLASS_ANY, NULL, NULL, setup_broadcast},
                                      {0}};

#define BINARY(op_name, fl, expr)                                                                                      \
    static void ref_##op_name(const ac_ref *r)                                                                         \
    {                                                                                                                  \
        const ac_shape *y = &r->n->shape;                                                                              \
        int64_t sa[AC_DIMS], sb[AC_DIMS], count = ac_count(y);                                                         \
        strides(y, r->shape[0], sa);                                                                                   \
        strides(y, r->shape[1], sb);                                                                                   \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            int64_t left = i, ia = 0, ib = 0;                                                                          \
            for (int k = 1; k <= y->n; k++) {                                                                          \
                int64_t at = left % y->d[y->n - k];                                                                    \
                ia += at * sa[AC_DIMS - k];                                                                            \
                ib += at * sb[AC_DIMS - k];                                                                            \
                left /= y->d[y->n - k];                                                                                \
            }                                                                                                          \
            const double a = r->in[0][ia], b = r->in[1][ib];                                                           \
            r->out[i] = (expr);                                                                                        \
        }                                                                                                              \
    }                                                                                                                  \
    const ac_op ac_op_##op_name = {.name = #op_name,                                                                   \
                                   .n_in = 2,                                                                          \
                                   .flags = AC_OP_INPLACE | (fl),                                                      \
                                   .infer = infer_binary,                                                              \
                                   .ref = ref_##op_name,                                                               \
                                   .flop = count_flop,                                                                 \
                                   .kern = kern_binary,                                                                \
                                   .cases = case_binary};                                                              \
    ac_id ac_##op_name(ac_graph *g, ac_id a, ac_id b)                                                                  \
    {                                                                                                                  \
        return ac_add_node(g, &ac_op_##op_name, (ac_id[]){a, b}, 2, NULL);                                             \
    }

static const ac_case case_binary[] = {{"same_7x33", AC_SMALL, {{2, {7, 33}}, {2, {7, 33}}}, {{0}, {0}}, 1e-6},
                                      {"same_2100", AC_SMALL, {{1, {2100}}, {1, {2100}}}, {{0}, {0}}, 1e-6},
                                      {"vector", AC_SMALL, {{4, {2, 3, 5, 7}}, {1, {7}}}, {{0}, {0}}, 1e-6},
                                      {"per_batch", AC_SMALL, {{4, {2, 3, 5, 7}}, {4, {2, 1, 1, 7}}}, {{0}, {0}}, 1e-6},
                                      {"outer", AC_SMALL, {{3, {3, 1, 5}}, {3, {1, 4, 1}}}, {{0}, {0}}, 1e-6},
                                      {"scalar", AC_SMALL, {{2, {9, 11}}, {1, {1}}}, {{0}, {0}}, 1e-6},
                                      {"first_small", AC_SMALL, {{1, {1}}, {2, {9, 11}}}, {{0}, {0}}, 1e-6},
                                      {0}};
BINARY(add, AC_OP_ADD, a + b)
BINARY(sub, 0, a - b)
BINARY(mul, 0, a *b)
BINARY(div, AC_OP_POSITIVE, a / b)

/* ------------------------------------------------------------------------------------------ geglu */

static int infer_geglu(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    if (n->shape.d[n->shape.n - 1] % 2)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "geglu: the last dimension %lld is odd", (long long)n->shape.d[n->shape.n - 1]);
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
    (void)lim, (void)g;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, ac_count(&n->shape));
    ac_arg_int(l, n->shape.d[n->shape.n - 1]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

static const ac_kern kern_geglu[] = {{"geglu", "elem", AC_CLASS_ANY, NULL, NULL, setup_geglu}, {0}};
static const ac_case case_geglu[] = {{"5x26", AC_SMALL, {{2, {5, 26}}}, {{0}, {0}}, 2e-6}, {0}};
const ac_op ac_op_geglu = {.name = "geglu",
                           .n_in = 1,
                           .infer = infer_geglu,
                           .ref = ref_geglu,
                           .flop = count_flop,
                           .kern = kern_geglu,
                           .cases = case_geglu};

ac_id ac_geglu(ac_graph *g, ac_id x)
{
    return ac_add_node(g, &ac_op_geglu, &x, 1, NULL);
}
