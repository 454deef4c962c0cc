/* matmul.c - products of matrices: linear layers, batched products. */
#include "ops/mm.h"
#include "ops/ops.h"
#include "ops/tile.h"
#include "ops/vec.h"

#include <math.h>
#include <string.h>

static double gelu_double(double x)
{
    return 0.5 * x * erfc(-x * M_SQRT1_2);
}

void ac_matmul_dims(const ac_graph *g, const ac_node *n, ac_mm *d)
{
    const ac_shape *a = ac_shape_of(g, n->in[0]), *y = &n->shape;
    bool ta = n->at.i[AC_MM_TA], tb = n->at.i[AC_MM_TB];
    int64_t total = ac_count(a);

    memset(d, 0, sizeof *d);
    d->N = y->d[y->n - 1] * (n->at.i[AC_MM_GEGLU] ? 2 : 1);
    d->K = ta ? a->d[a->n - 2] : a->d[a->n - 1];
    d->M = ta ? a->d[a->n - 1] : a->d[a->n - 2];
    if (a->n == 1)
        d->M = 1;
    d->batch = total / (d->M * d->K);
    if (n->at.i[AC_AT_CLOSED] != AC_NO_ROW) { /* one shared b: the leading dimensions are more rows */
        d->M *= d->batch;
        d->batch = 1;
    }
    d->a_row = ta ? 1 : d->K;
    d->a_k = ta ? d->M : 1;
    d->a_batch = d->M * d->K;
    d->b_n = tb ? d->K : 1;
    d->b_k = tb ? 1 : d->N;
    d->b_batch = d->batch > 1 ? d->N * d->K : 0;
    d->y_batch = d->M * y->d[y->n - 1];
    d->row_span = (int)(d->M / y->d[0] > 0 ? d->M / y->d[0] : 1);
}

static int infer(ac_graph *g, ac_node *n)
{
    const ac_shape *a = ac_shape_of(g, n->in[0]), *b = ac_shape_of(g, n->in[1]);
    bool ta = n->at.i[AC_MM_TA], tb = n->at.i[AC_MM_TB], fits;
    int64_t K = a->n < 2 ? 0
                : ta     ? a->d[a->n - 2]
                         : a->d[a->n - 1],
            M = a->n < 2 ? 0
                : ta     ? a->d[a->n - 1]
                         : a->d[a->n - 2];
    int64_t Kb = b->n < 2 ? 0
                 : tb     ? b->d[b->n - 1]
                          : b->d[b->n - 2],
            N = b->n < 2 ? 0
                : tb     ? b->d[b->n - 2]
                         : b->d[b->n - 1];
    char x[96], y[96];

    fits = K > 0 && K == Kb && (b->n == 2 ? a->n == 2 || !ta : a->n == b->n);
    for (int k = 0; fits && b->n > 2 && k < b->n - 2; k++)
        fits = a->d[k] == b->d[k];
    if (n->at.i[AC_MM_GEGLU] && (N % 2 || b->n != 2))
        fits = false;
    if (!fits)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "matmul: %s%s and %s%s do not fit", ac_shape_text(a, x),
                             ta ? " transposed" : "", ac_shape_text(b, y), tb ? " transposed" : "");
    n->shape = *a;
    n->shape.d[a->n - 2] = M;
    n->shape.d[a->n - 1] = n->at.i[AC_MM_GEGLU] ? N / 2 : N;
    n->at.i[AC_AT_CLOSED] = b->n > 2 ? AC_NO_ROW : n->at.i[AC_MM_GEGLU] ? AC_NO_EPILOGUE : 0;
    if (n->in[AC_EP_BIAS] != AC_NONE && ac_count(ac_shape_of(g, n->in[AC_EP_BIAS])) != N)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "matmul: a bias of %lld for %lld outputs",
                             (long long)ac_count(ac_shape_of(g, n->in[AC_EP_BIAS])), (long long)N);
    return 1;
}

static double activation(double v, int act)
{
    switch (act) {
    case AC_ACT_SILU:
        return v / (1 + exp(-v));
    case AC_ACT_GELU:
        return gelu_double(v);
    case AC_ACT_QUICK_GELU:
        return v / (1 + exp(-1.702 * v));
    case AC_ACT_RELU:
        return v > 0 ? v : 0;
    default:
        return v;
    }
}

/* act(v + bias + row) + res for output element i of channel c and batch element b. */
double ac_ref_epilogue(const ac_ref *r, double v, int64_t i, int64_t b, int64_t c)
{
    if (r->in[AC_EP_BIAS])
        v += r->in[AC_EP_BIAS][c];
    if (r->in[AC_EP_ROW])
        v += r->in[AC_EP_ROW][b * r->n->shape.d[r->n->shape.n - 1] + c];
    v = activation(v, r->n->at.i[AC_AT_ACT]);
    return r->in[AC_EP_RES] ? v + r->in[AC_EP_RES][i] : v;
}

static double dot(const ac_ref *r, const ac_mm *d, int64_t batch, int64_t m, int64_t n)
{
    const double *a = r->in[0] + batch * d->a_batch + m * d->a_row, *b = r->in[1] + batch * d->b_batch + n * d->b_n;
    double s = 0;

    for (int64_t k = 0; k < d->K; k++)
        s += a[k * d->a_k] * b[k * d->b_k];
    return s;
}

static void ref(const ac_ref *r)
{
    int64_t i = 0, N;
    ac_mm d;

    ac_matmul_dims(r->g, r->n, &d);
    N = r->n->shape.d[r->n->shape.n - 1];
    for (int64_t b = 0; b < d.batch; b++)
        for (int64_t m = 0; m < d.M; m++)
            for (int64_t n = 0; n < N; n++, i++)
                if (r->n->at.i[AC_MM_GEGLU])
                    r->out[i] =
                        (dot(r, &d, b, m, n) + (r->in[AC_EP_BIAS] ? r->in[AC_EP_BIAS][n] : 0)) *
                        gelu_double(dot(r, &d, b, m, N + n) + (r->in[AC_EP_BIAS] ? r->in[AC_EP_BIAS][N + n] : 0));
                else
                    r->out[i] = ac_ref_epilogue(r, dot(r, &d, b, m, n), i, m / d.row_span, n);
}

static double flop(const ac_graph *g, const ac_node *n)
{
    ac_mm d;
    ac_matmul_dims(g, n, &d);
    return 2.0 * (double)d.batch * (double)d.M * (double)d.N * (double)d.K;
}

/* The product that a gated one gates. */
static ac_id ungated(ac_graph *g, const ac_node *n)
{
    ac_at at = n->at;

    at.i[AC_MM_GEGLU] = 0;
    return ac_add_node(g, &ac_op_matmul, n->in, n->n_in, &at);
}

/* A^T B of stored A [K, M] and B [K, N] is the sum of the products of their parts. How many of 512 or more rows; 1: it
 * is no such product, or has an epilogue. */
static int64_t parts_of(const ac_graph *g, const ac_node *n)
{
    enum { MOST = 16, ROWS = 512 };
    const ac_shape *a = ac_shape_of(g, n->in[0]);
    int64_t parts = 1;

    if (!n->at.i[AC_MM_TA] || n->at.i[AC_MM_TB] || n->at.i[AC_MM_GEGLU] || n->at.i[AC_AT_ACT] || a->n != 2 ||
        n->in[AC_EP_BIAS] != AC_NONE || n->in[AC_EP_ROW] != AC_NONE)
        return 1;
    while (parts < MOST && a->d[0] % (2 * parts) == 0 && a->d[0] / (2 * parts) >= ROWS)
        parts *= 2;
    return parts;
}

bool ac_matmul_in_parts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    const int64_t enough = lim->cls == AC_CLASS_CPU ? 16384 : 2048; /* outputs for each compute unit */
    ac_mm d;

    ac_matmul_dims(g, n, &d);
    return parts_of(g, n) > 1 && d.M * d.N < enough * (int64_t)lim->units;
}

/* Geglu as an op of its own, for kernels that have it not; a long sum in parts, which other work-items can make, in
 * fixed order. */
static ac_id lower(ac_graph *g, const ac_node *n)
{
    const ac_shape a = *ac_shape_of(g, n->in[0]), b = *ac_shape_of(g, n->in[1]), y = n->shape;
    int64_t parts = parts_of(g, n);
    ac_id res = n->in[AC_EP_RES], sum;

    if (parts == 1)
        return ac_geglu(g, ungated(g, n));
    sum = ac_matmul(g, ac_reshape(g, n->in[0], (ac_shape){3, {parts, a.d[0] / parts, a.d[1]}}),
                    ac_reshape(g, n->in[1], (ac_shape){3, {parts, b.d[0] / parts, b.d[1]}}), true, false);
    sum = ac_reshape(g, ac_sum(g, sum, 1), y);
    return res == AC_NONE ? sum : ac_add(g, sum, res);
}

/* Y = A B: the gradient of A is gY B^T, that of B is A^T gY; of a stored transposed factor the transposed. Of a shared
 * b the rows of all products are summed: leading dimensions are rows. */
static void vjp(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);
    const ac_shape as = *ac_shape_of(g, n.in[0]);
    bool ta = n.at.i[AC_MM_TA], tb = n.at.i[AC_MM_TB];
    ac_id a = n.in[0], b = n.in[1], bias = n.in[AC_EP_BIAS], ga;

    if (n.at.i[AC_MM_GEGLU])
        gy = ac_geglu_bx(g, ungated(g, &n), gy);
    if (g->rc)
        return;
    if (bias != AC_NONE)
        gx[AC_EP_BIAS] = ac_sum_to(g, gy, *ac_shape_of(g, bias));
    if (ac_shape_of(g, b)->n == 2) {
        int64_t width = ac_shape_of(g, gy)->d[as.n - 1];
        gy = ac_reshape(g, gy, (ac_shape){2, {ac_count(ac_shape_of(g, gy)) / width, width}});
        a = ac_reshape(g, a, (ac_shape){2, {ac_count(&as) / as.d[as.n - 1], as.d[as.n - 1]}});
    }
    ga = ta ? ac_matmul(g, b, gy, tb, true) : ac_matmul(g, gy, b, false, !tb);
    gx[0] = ac_reshape(g, ga, as);
    gx[1] = tb ? ac_matmul(g, gy, a, true, ta) : ac_matmul(g, a, gy, !ta, false);
}

/* ---- CLBlast: plain f32 products, one at a time. Class 0: never chosen by itself, tests force it. */

static bool blas_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    ac_mm d;

    (void)lim;
    ac_matmul_dims(g, n, &d);
    for (int k = AC_EP_BIAS; k <= AC_EP_RES; k++)
        if (n->in[k] != AC_NONE)
            return false;
    return ac_blas_available() && d.batch == 1 && !n->at.i[AC_AT_ACT] && !n->at.i[AC_MM_GEGLU] &&
           ac_at_node(g, n->in[1])->type == AC_F32;
}

static void blas_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    bool ta = n->at.i[AC_MM_TA], tb = n->at.i[AC_MM_TB];
    ac_mm d;

    (void)lim;
    ac_matmul_dims(g, n, &d);
    l->kernel = NULL;
    l->gemm = (ac_gemm){
        ta, tb, (size_t)d.M, (size_t)d.N, (size_t)d.K, (size_t)(ta ? d.M : d.K), (size_t)(tb ? d.K : d.N), (size_t)d.N};
}

static const ac_kern kern[] = {
    {"matmul_tn_vec", "matmul", AC_CLASS_CPU, ac_matmul_tn_vec_accepts, NULL, ac_matmul_tn_vec_setup},
    {"matmul_vec", "matmul", AC_CLASS_CPU, ac_matmul_vec_accepts, ac_matmul_vec_prep, ac_matmul_vec_setup},
    {"matmul_tile", "gemm_tile", AC_CLASS_GPU, ac_matmul_tile_accepts, ac_matmul_tile_prep, ac_matmul_tile_setup},
    {"matmul_any", "gemm_tile", AC_CLASS_ANY, ac_matmul_any_accepts, ac_matmul_tile_prep, ac_matmul_any_setup},
    {"clblast", "", 0, blas_accepts, NULL, blas_setup},
    {0}};

#define MM(name, M, N, K, ...)                                                                                         \
    {                                                                                                                  \
        name, AC_SMALL, {{2, {M, K}}, {2, {N, K}}, __VA_ARGS__}, {{0, 1}, {0}}, 1e-5                                   \
    }
#define SPEED(M, N, K)                                                                                                 \
    {                                                                                                                  \
        "" #M "x" #N "x" #K, AC_FULL, {{2, {M, K}}, {2, {N, K}}}, {{0, 1}, {0}}, 1e-5                                  \
    }
#define DW_SPEED(M, N, K)                                                                                              \
    {                                                                                                                  \
        "dw_" #M "x" #N "x" #K, AC_FULL | AC_FED, {{2, {K, M}}, {2, {K, N}}}, {{1, 0}, {0}}, 1e-5                      \
    }
static const ac_case cases[] = {
    MM("13x37x29", 13, 37, 29, {0}),
    MM("1x5x300", 1, 5, 300, {0}),
    MM("25x64x64", 25, 64, 64, {0}),
    MM("12x32x1", 12, 32, 1, {0}),
    MM("77x96x48_bias", 77, 96, 48, {1, {96}}),
    {"tiles_200x130x35",
     AC_SMALL,
     {{3, {2, 100, 35}}, {2, {130, 35}}, {1, {130}}, {3, {2, 1, 130}}, {3, {2, 100, 130}}},
     {{0, 1, [AC_AT_ACT] = AC_ACT_SILU}, {0}},
     1e-5},
    {"tiles_tn_150x140x40", AC_SMALL, {{2, {40, 150}}, {2, {40, 140}}}, {{1, 0}, {0}}, 1e-5},
    {"ta_19x21x17", AC_SMALL, {{2, {17, 19}}, {2, {21, 17}}}, {{1, 1}, {0}}, 1e-5},
    {"nn_19x21x17", AC_SMALL, {{2, {19, 17}}, {2, {17, 21}}}, {{0, 0}, {0}}, 1e-5},
    {"tn_13x70x1000", AC_SMALL, {{2, {1000, 13}}, {2, {1000, 70}}}, {{1, 0}, {0}}, 1e-5},
    {"tn_parts_13x40x4096", AC_SMALL, {{2, {4096, 13}}, {2, {4096, 40}}}, {{1, 0}, {0}}, 1e-5},
    {"tn_all_silu",
     AC_SMALL,
     {{2, {21, 15}}, {2, {21, 35}}, {1, {35}}, {0}, {2, {15, 35}}},
     {{1, 0, [AC_AT_ACT] = AC_ACT_SILU}, {0}},
     1e-5},
    {"batch_tn_4x9x33x13", AC_SMALL, {{3, {4, 13, 9}}, {3, {4, 13, 33}}}, {{1, 0}, {0}}, 1e-5},
    {"tn_19x40x17", AC_SMALL, {{2, {17, 19}}, {2, {17, 40}}}, {{1, 0}, {0}}, 1e-5},
    {"batch_2x3x9x11x13", AC_SMALL, {{4, {2, 3, 9, 13}}, {4, {2, 3, 13, 11}}}, {{0, 0}, {0}}, 1e-5},
    {"batch_ta_4x9x11x13", AC_SMALL, {{3, {4, 13, 9}}, {3, {4, 11, 13}}}, {{1, 1}, {0}}, 1e-5},
    {"all_silu",
     AC_SMALL,
     {{3, {2, 15, 20}}, {2, {35, 20}}, {1, {35}}, {3, {2, 1, 35}}, {3, {2, 15, 35}}},
     {{0, 1, [AC_AT_ACT] = AC_ACT_SILU}, {0}},
     1e-5},
    {"bias_gelu",
     AC_SMALL,
     {{3, {2, 7, 20}}, {2, {70, 20}}, {1, {70}}},
     {{0, 1, [AC_AT_ACT] = AC_ACT_GELU}, {0}},
     1e-5},
    {"bias_qgelu",
     AC_SMALL,
     {{2, {14, 20}}, {2, {33, 20}}, {1, {33}}},
     {{0, 1, [AC_AT_ACT] = AC_ACT_QUICK_GELU}, {0}},
     1e-5},
    {"relu_res",
     AC_SMALL,
     {{2, {14, 20}}, {2, {33, 20}}, {0}, {0}, {2, {14, 33}}},
     {{0, 1, [AC_AT_ACT] = AC_ACT_RELU}, {0}},
     1e-5},
    {"geglu_13x2x20x30", AC_SMALL, {{2, {13, 30}}, {2, {40, 30}}, {1, {40}}}, {{0, 1, 1}, {0}}, 1e-5},
    {"geglu_5x2x17x8", AC_SMALL, {{2, {5, 8}}, {2, {34, 8}}}, {{0, 1, 1}, {0}}, 1e-5},
    SPEED(4096, 320, 320),
    SPEED(4096, 2560, 320),
    SPEED(4096, 320, 1280),
    SPEED(1024, 640, 640),
    SPEED(1024, 5120, 640),
    SPEED(1024, 640, 2560),
    SPEED(256, 1280, 1280),
    SPEED(256, 10240, 1280),
    SPEED(256, 1280, 5120),
    SPEED(77, 1024, 1024),
    SPEED(77, 4096, 1024),
    SPEED(77, 1024, 4096),
    DW_SPEED(320, 320, 4096),
    DW_SPEED(2560, 320, 4096),
    DW_SPEED(5120, 640, 1024),
    DW_SPEED(1280, 1280, 256),
    DW_SPEED(64, 64, 16384),
    DW_SPEED(512, 64, 16384),
    DW_SPEED(64, 256, 16384),
    DW_SPEED(192, 192, 1024),
    {0}};
const ac_op ac_op_matmul = {.name = "matmul",
                            .n_in = 2,
                            .n_opt = 3,
                            .flags = AC_OP_EPILOGUE,
                            .typed = 2,
                            .infer = infer,
                            .vjp = vjp,
                            .lower = lower,
                            .ref = ref,
                            .flop = flop,
                            .kern = kern,
                            .cases = cases};

ac_id ac_matmul(ac_graph *g, ac_id a, ac_id b, bool ta, bool tb)
{
    ac_at at = {.i = {[AC_MM_TA] = ta, [AC_MM_TB] = tb}};
    return ac_add_node(g, &ac_op_matmul, (ac_id[]){a, b}, 2, &at);
}

/* Activations by their code in an epilogue; fuse.c makes them part of the product again. */
static ac_id activated(ac_graph *g, ac_id x, int act)
{
    switch (act) {
    case AC_ACT_SILU:
        return ac_silu(g, x);
    case AC_ACT_GELU:
        return ac_gelu(g, x);
    case AC_ACT_QUICK_GELU:
        return ac_quick_gelu(g, x);
    case AC_ACT_RELU:
        return ac_relu(g, x);
    default:
        return x;
    }
}

ac_id ac_linear(ac_graph *g, ac_id x, ac_id w, ac_id bias, int act)
{
    ac_at at = {.i = {[AC_MM_TB] = 1}};
    return activated(g, ac_add_node(g, &ac_op_matmul, (ac_id[]){x, w, bias}, 3, &at), act);
}

ac_id ac_linear_geglu(ac_graph *g, ac_id x, ac_id w, ac_id bias)
{
    ac_at at = {.i = {[AC_MM_TB] = 1, [AC_MM_GEGLU] = 1}};

    if (g->training) /* its gradient reads the product */
        return ac_geglu(g, ac_linear(g, x, w, bias, AC_ACT_NONE));
    return ac_add_node(g, &ac_op_matmul, (ac_id[]){x, w, bias}, 3, &at);
}
