/* reduce.c - sums over axes, softmax. */
#include "ops/ops.h"

#include <math.h>

/* ------------------------------------------------------------------------------------------ sum: at.i[0] axes, bit k: dimension k */

static int infer_sum(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    if (n->at.i[0] <= 0 || n->at.i[0] >= 1 << n->shape.n)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "sum: axes %#x of a tensor of %d dimensions", (unsigned)n->at.i[0], n->shape.n);
    for (int k = 0; k < n->shape.n; k++)
        if (n->at.i[0] >> k & 1)
            n->shape.d[k] = 1;
    return 1;
}

/* x seen in four dimensions: sizes and strides of the kept ones (output order) and of the summed ones. */
typedef struct sum_dims {
    int64_t keep[AC_DIMS], keep_stride[AC_DIMS], red[AC_DIMS], red_stride[AC_DIMS];
} sum_dims;

static sum_dims split(const ac_shape *x, unsigned axes)
{
    sum_dims s;
    int64_t step = 1;

    for (int k = AC_DIMS - 1; k >= 0; k--) {
        int at = k - (AC_DIMS - x->n);
        int64_t d = at >= 0 ? x->d[at] : 1;
        bool sum = at >= 0 && axes >> at & 1;
        s.keep[k] = sum ? 1 : d;
        s.red[k] = sum ? d : 1;
        s.keep_stride[k] = s.red_stride[k] = step;
        step *= d;
    }
    return s;
}

static void ref_sum(const ac_ref *r)
{
    sum_dims s = split(r->shape[0], (unsigned)r->n->at.i[0]);
    int64_t count = ac_count(&r->n->shape), terms = s.red[0] * s.red[1] * s.red[2] * s.red[3];

    for (int64_t i = 0; i < count; i++) {
        int64_t left = i, base = 0;
        double sum = 0;
        for (int k = AC_DIMS - 1; k >= 0; k--) {
            base += left % s.keep[k] * s.keep_stride[k];
            left /= s.keep[k];
        }
        for (int64_t t = 0; t < terms; t++) {
            int64_t l = t, at = base;
            for (int k = AC_DIMS - 1; k >= 0; k--) {
                at += l % s.red[k] * s.red_stride[k];
                l /= s.red[k];
            }
            sum += r->in[0][at];
        }
        r->out[i] = sum;
    }
}

static void setup_sum(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    sum_dims s = split(ac_shape_of(g, n->in[0]), (unsigned)n->at.i[0]);

    (void)lim;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, ac_count(&n->shape));
    for (int k = 1; k < AC_DIMS; k++)
        ac_arg_int(l, s.keep[k]);
    for (int k = 0; k < AC_DIMS; k++)
        ac_arg_int(l, s.keep_stride[k]);
    for (int k = 0; k < AC_DIMS; k++)
        ac_arg_int(l, s.red[k]);
    for (int k = 0; k < AC_DIMS; k++)
        ac_arg_int(l, s.red_stride[k]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

static double flop_in(const ac_graph *g, const ac_node *n)
{
    return (double)ac_count(ac_shape_of(g, n->in[0]));
}

static const ac_kern kern_sum[] = {{"sum_any", "reduce", AC_CLASS_ANY, NULL, NULL, setup_sum}, {0}};
static const ac_case case_sum[] = {{"all_3x5x7", AC_SMALL, {{3, {3, 5, 7}}}, {{7}, {0}}, 1e-6},
                                   {"last_6x300", AC_SMALL, {{2, {6, 300}}}, {{2}, {0}}, 1e-6},
                                   {"first_300x6", AC_SMALL, {{2, {300, 6}}}, {{1}, {0}}, 1e-6},
                                   {"middle", AC_SMALL, {{4, {2, 5, 4, 3}}}, {{6}, {0}}, 1e-6},
                                   {"outer", AC_SMALL, {{4, {2, 5, 4, 3}}}, {{9}, {0}}, 1e-6},
                                   {0}};
const ac_op ac_op_sum = {
    .name = "sum", .n_in = 1, .infer = infer_sum, .ref = ref_sum, .flop = flop_in, .kern = kern_sum, .cases = case_sum};

ac_id ac_sum(ac_graph *g, ac_id x, unsigned axes)
{
    ac_at at = {.i = {(int32_t)axes}};
    return ac_add_node(g, &ac_op_sum, &x, 1, &at);
}

ac_id ac_mean(ac_graph *g, ac_id x, unsigned axes)
{
    ac_id y = ac_sum(g, x, axes);

    if (y == AC_POISON)
        return y;
    return ac_scale(g, y, (double)ac_count(ac_shape_of(g, y)) / (double)ac_count(ac_shape_of(g, x)), 0);
}

/* ------------------------------------------------------------------------------------------ softmax over the last dimension */

static int infer_same(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    return 1;
}

static void ref_softmax(const ac_ref *r)
{
    int64_t N = r->n->shape.d[r->n->shape.n - 1], rows = ac_count(&r->n->shape) / N;

    for (int64_t m = 0; m < rows; m++) {
        const double *x = r->in[0] + m * N;
        double top = -INFINITY, sum = 0;
        for (int64_t i = 0; i < N; i++)
            top = fmax(top, x[i]);
        for (int64_t i = 0; i < N; i++)
            sum += exp(x[i] - top);
        for (int64_t i = 0; i < N; i++)
            r->out[m * N + i] = exp(x[i] - top) / sum;
    }
}

static void setup_softmax(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t N = n->shape.d[n->shape.n - 1], rows = ac_count(&n->shape) / N;

    (void)lim, (void)g;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, rows);
    ac_arg_int(l, N);
    ac_grid1(l, (size_t)rows, 64);
}

static const ac_kern kern_softmax[] = {{"softmax_any", "reduce", AC_CLASS_ANY, NULL, NULL, setup_softmax}, {0}};
static const ac_case case_softmax[] = {{"5x77", AC_SMALL, {{2, {5, 77}}}, {{0}, {0}}, 2e-6},
                                       {"2x3x1", AC_SMALL, {{3, {2, 3, 1}}}, {{0}, {0}}, 2e-6},
                                       {0}};
const ac_op ac_op_softmax = {.name = "softmax",
                             .n_in = 1,
                             .flags = AC_OP_INPLACE,
                             .infer = infer_same,
                             .ref = ref_softmax,
                             .flop = flop_in,
                             .kern = kern_softmax,
                             .cases = case_softmax};

ac_id ac_softmax(ac_graph *g, ac_id x)
{
    return ac_add_node(g, &ac_op_softmax, &x, 1, NULL);
}
