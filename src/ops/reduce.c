/* reduce.c - sums over axes, softmax. */
#include "ops/ops.h"

#include <math.h>
#include <string.h>

#include "ops/nest.h"
#include "ops/norm.h"

/* ------------------------------------------------------------------------------------------ sum */
/* at.i: 0 axes, bit k: dimension k */

static int infer_sum(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    if (n->at.i[0] <= 0 || n->at.i[0] >= 1 << n->shape.n)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "sum: axes %#x of a tensor of %d dimensions", (unsigned)n->at.i[0],
                             n->shape.n);
    for (int k = 0; k < n->shape.n; k++)
        if (n->at.i[0] >> k & 1)
            n->shape.d[k] = 1;
    return 1;
}

static void ref_sum(const ac_ref *r)
{
    ac_nest t; /* over x; y as its operand */
    int64_t count = ac_count(r->shape[0]);

    ac_nest_init(&t, r->shape[0]);
    ac_nest_operand(&t, 0, &r->n->shape);
    memset(r->out, 0, (size_t)ac_count(&r->n->shape) * sizeof *r->out);
    for (int64_t i = 0; i < count; i++) {
        int64_t left = i, at = 0;
        for (int k = AC_DIMS - 1; k >= 0; left /= t.d[k--])
            at += left % t.d[k] * t.step[0][k];
        r->out[at] += r->in[0][i];
    }
}

static void vjp_sum(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    gx[0] = ac_broadcast(g, gy, *ac_shape_of(g, ac_at_node(g, y)->in[0]));
}

/* x as [outer, terms, inner] of which the terms are summed, in chunks. */
typedef struct sum_dims {
    int64_t outer, terms, inner, chunk, chunks;
} sum_dims;

/* False: the axes do not lie side by side. */
static bool axes_dims(const ac_shape *x, unsigned axes, sum_dims *d)
{
    *d = (sum_dims){1, 1, 1, 1, 1};
    for (int k = x->n - 1; k >= 0; k--) {
        if (x->d[k] == 1)
            continue;
        if (!(axes >> k & 1))
            *(d->terms > 1 ? &d->outer : &d->inner) *= x->d[k];
        else if (d->outer == 1)
            d->terms *= x->d[k];
        else
            return false;
    }
    d->chunk = d->terms;
    return true;
}

/* More terms than these are summed in chunks, so that there is work for all units, and rounding does not add up. */
enum { COLUMN_TERMS = 512, ROW_TERMS = 8192 };

/* False: no kernel does this in one go. */
static bool node_dims(const ac_graph *g, const ac_node *n, sum_dims *d)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);

    if (n->op == &ac_op_sum)
        return axes_dims(x, (unsigned)n->at.i[0], d) && d->terms <= (d->inner > 1 ? COLUMN_TERMS : ROW_TERMS);
    *d = (sum_dims){x->d[0], x->d[1], x->d[2], n->at.i[0], n->shape.d[1]};
    return true;
}

/* Those of the innermost axes of x that lie side by side. */
static unsigned last_axes(const ac_shape *x, unsigned axes)
{
    unsigned last = 0;

    for (int k = x->n - 1; k >= 0; k--) {
        if (x->d[k] == 1)
            continue;
        if (axes >> k & 1)
            last |= 1u << k;
        else if (last)
            break;
    }
    return last;
}

/* Axes apart are summed one after the other, many terms in two steps: chunks of about their square root, and those. */
static ac_id lower_sum(ac_graph *g, const ac_node *n)
{
    enum { WIDE = 16 }; /* fewer columns would leave lanes of a vector empty: neighbouring rows are put side by side */
    const ac_id x = n->in[0];
    const ac_shape shape = n->shape, sx = *ac_shape_of(g, x);
    unsigned axes = (unsigned)n->at.i[0], last = last_axes(&sx, axes);
    ac_at at = {{0}, {0}};
    sum_dims d;
    ac_id parts;

    if (!axes_dims(&sx, axes, &d))
        return ac_sum(g, ac_sum(g, x, last), axes & ~last);
    if (d.inner > 1 && d.inner < WIDE && d.terms % WIDE == 0) {
        parts = ac_sum(g, ac_reshape(g, x, (ac_shape){3, {d.outer, d.terms / WIDE, WIDE * d.inner}}), 2);
        parts = ac_reshape(g, parts, (ac_shape){3, {d.outer, WIDE, d.inner}});
    } else {
        at.i[0] = (int32_t)AC_MAX(ceil(sqrt((double)d.terms)), d.inner > 1 ? 64 : ROW_TERMS / 2);
        parts = ac_reshape(g, x, (ac_shape){3, {d.outer, d.terms, d.inner}});
        parts = ac_add_node(g, &ac_op_sum_part, &parts, 1, &at);
    }
    return ac_reshape(g, ac_sum(g, parts, 2), shape);
}

/* Columns side by side in the lanes of vectors. */
static bool accepts_columns(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    sum_dims d;

    (void)lim;
    return node_dims(g, n, &d) && d.inner > 1;
}

static void setup_columns(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    bool cpu = lim->cls == AC_CLASS_CPU;
    int vw = ac_lanes(lim, 4), vectors;
    int64_t across;
    sum_dims d;

    node_dims(g, n, &d);
    vectors = !cpu ? 1 : d.inner % (8 * vw) ? 4 : 8;
    across = AC_CEIL_DIV(d.inner, (int64_t)vw * vectors);
    ac_def(l, "VW=%d", vw);
    ac_def(l, "VECTORS=%d", vectors);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, d.outer * d.chunks);
    ac_arg_int(l, d.terms);
    ac_arg_int(l, d.inner);
    ac_arg_int(l, d.chunk);
    ac_arg_int(l, d.chunks);
    ac_arg_int(l, across);
    ac_grid1(l, (size_t)(d.outer * d.chunks * across), cpu ? 1 : 64);
}

/* The terms of a sum are neighbours: lanes of vectors, which are summed at the end. */
static bool accepts_rows(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    sum_dims d;

    (void)lim;
    return node_dims(g, n, &d) && d.inner == 1;
}

/* A work-group for every sum, which should have work for each of its items. */
static bool accepts_rows_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    sum_dims d;

    return ac_groups_accept(lim, g, n) && node_dims(g, n, &d) && d.inner == 1 && d.chunk >= 64;
}

static void setup_rows_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    sum_dims d;

    (void)lim;
    node_dims(g, n, &d);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, d.terms);
    ac_arg_int(l, d.chunk);
    ac_arg_int(l, d.chunks);
    ac_row_groups(d.outer * d.chunks, l);
}

static void setup_rows(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    enum { ITEM = 16384 }; /* terms of a work-item on a CPU */
    bool cpu = lim->cls == AC_CLASS_CPU;
    int64_t rspan;
    sum_dims d;

    node_dims(g, n, &d);
    rspan = cpu ? AC_MAX((int64_t)1, ITEM / d.chunk) : 1;
    ac_def(l, "VW=%d", ac_lanes(lim, 4));
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, d.outer * d.chunks);
    ac_arg_int(l, d.terms);
    ac_arg_int(l, d.chunk);
    ac_arg_int(l, d.chunks);
    ac_arg_int(l, rspan);
    ac_grid1(l, (size_t)AC_CEIL_DIV(d.outer * d.chunks, rspan), cpu ? 1 : 64);
}

static const ac_kern kern_sum[] = {{"sum_columns", "reduce", AC_CLASS_ANY, accepts_columns, NULL, setup_columns},
                                   {"sum_rows_tile", "reduce", AC_CLASS_GPU, accepts_rows_tile, NULL, setup_rows_tile},
                                   {"sum_rows", "reduce", AC_CLASS_ANY, accepts_rows, NULL, setup_rows},
                                   {0}};
static const ac_case case_sum[] = {{"all_3x5x7", AC_SMALL, {{3, {3, 5, 7}}}, {{7}, {0}}, 1e-6},
                                   {"last_6x300", AC_SMALL, {{2, {6, 300}}}, {{2}, {0}}, 1e-6},
                                   {"last_70x3", AC_SMALL, {{2, {70, 3}}}, {{2}, {0}}, 1e-6},
                                   {"first_300x6", AC_SMALL, {{2, {300, 6}}}, {{1}, {0}}, 1e-6},
                                   {"first_37x70", AC_SMALL, {{2, {37, 70}}}, {{1}, {0}}, 1e-6},
                                   {"middle", AC_SMALL, {{4, {2, 5, 4, 3}}}, {{6}, {0}}, 1e-6},
                                   {"middle_2x19x33", AC_SMALL, {{3, {2, 19, 33}}}, {{2}, {0}}, 1e-6},
                                   {"outer", AC_SMALL, {{4, {2, 5, 4, 3}}}, {{9}, {0}}, 1e-6},
                                   {"every_other", AC_SMALL, {{4, {2, 5, 4, 3}}}, {{5}, {0}}, 1e-6},
                                   {"all_of_9301", AC_SMALL, {{2, {71, 131}}}, {{3}, {0}}, 1e-6},
                                   {"chunks_2x521x19", AC_SMALL, {{3, {2, 521, 19}}}, {{2}, {0}}, 1e-6},
                                   {"narrow_2x528x3", AC_SMALL, {{3, {2, 528, 3}}}, {{2}, {0}}, 1e-6},
                                   {"bias_65536x128", AC_FULL, {{2, {65536, 128}}}, {{1}, {0}}, 1e-6},
                                   {"bias_4096x1280", AC_FULL, {{2, {4096, 1280}}}, {{1}, {0}}, 1e-6},
                                   {"all_16M", AC_FULL, {{1, {1 << 24}}}, {{1}, {0}}, 5e-6}, /* its terms cancel */
                                   {0}};
const ac_op ac_op_sum = {.name = "sum",
                         .n_in = 1,
                         .infer = infer_sum,
                         .vjp = vjp_sum,
                         .lower = lower_sum,
                         .ref = ref_sum,
                         .flop = ac_flop_in,
                         .kern = kern_sum,
                         .cases = case_sum};

/* sum_part(x [outer, terms, inner]) -> [outer, chunks, inner]: sums of at.i[0] terms, the last of what is left. Only
 * lower_sum makes it, after gradients. */

static int infer_part(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    if (n->shape.n != 3 || n->at.i[0] < 1)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "sum_part: chunks of %d terms of a tensor of %d dimensions", n->at.i[0],
                             n->shape.n);
    n->shape.d[1] = AC_CEIL_DIV(n->shape.d[1], (int64_t)n->at.i[0]);
    return 1;
}

static void ref_part(const ac_ref *r)
{
    int64_t terms = r->shape[0]->d[1], inner = r->shape[0]->d[2], chunk = r->n->at.i[0], chunks = r->n->shape.d[1];

    memset(r->out, 0, (size_t)ac_count(&r->n->shape) * sizeof *r->out);
    for (int64_t i = 0; i < ac_count(r->shape[0]); i++)
        r->out[(i / inner / terms * chunks + i / inner % terms / chunk) * inner + i % inner] += r->in[0][i];
}

static const ac_case case_part[] = {{"2x70x37_by_32", AC_SMALL, {{3, {2, 70, 37}}}, {{32}, {0}}, 1e-6},
                                    {"2x70x160_by_70", AC_SMALL, {{3, {2, 70, 160}}}, {{70}, {0}}, 1e-6},
                                    {"3x400_by_150", AC_SMALL, {{3, {3, 400, 1}}}, {{150}, {0}}, 1e-6},
                                    {0}};
const ac_op ac_op_sum_part = {.name = "sum_part",
                              .n_in = 1,
                              .infer = infer_part,
                              .ref = ref_part,
                              .flop = ac_flop_in,
                              .kern = kern_sum,
                              .cases = case_part};

ac_id ac_sum(ac_graph *g, ac_id x, unsigned axes)
{
    const ac_at at = {.i = {(int32_t)axes}};

    return ac_add_node(g, &ac_op_sum, &x, 1, &at);
}

ac_id ac_sum_to(ac_graph *g, ac_id x, ac_shape s)
{
    const ac_shape from = *ac_shape_of(g, x);
    unsigned axes = 0;

    for (int k = 1; k <= from.n; k++) /* aligned at the right */
        if (from.d[from.n - k] != 1 && (k > s.n || s.d[s.n - k] == 1))
            axes |= 1u << (from.n - k);
    return ac_reshape(g, axes ? ac_sum(g, x, axes) : x, s);
}

ac_id ac_mean(ac_graph *g, ac_id x, unsigned axes)
{
    ac_id y = ac_sum(g, x, axes);

    if (y == AC_POISON)
        return y;
    return ac_scale(g, y, (double)ac_count(ac_shape_of(g, y)) / (double)ac_count(ac_shape_of(g, x)), 0);
}

/* ------------------------------------------------------------------------------------------ softmax */
/* over the last dimension */

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

    (void)g;
    ac_def(l, "VW=%d", ac_lanes(lim, 4));
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, rows);
    ac_arg_int(l, N);
    ac_grid1(l, (size_t)rows, lim->cls == AC_CLASS_CPU ? 1 : 64);
}

static void vjp_softmax(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    gx[0] = ac_softmax_bx(g, y, gy);
}

static const ac_kern kern_softmax[] = {{"softmax_any", "reduce", AC_CLASS_ANY, NULL, NULL, setup_softmax}, {0}};
static const ac_case case_softmax[] = {
    {"5x77", AC_SMALL, {{2, {5, 77}}}, {{0}, {0}}, 2e-6}, {"2x3x1", AC_SMALL, {{3, {2, 3, 1}}}, {{0}, {0}}, 2e-6}, {0}};
const ac_op ac_op_softmax = {.name = "softmax",
                             .n_in = 1,
                             .flags = AC_OP_INPLACE,
                             .infer = infer_same,
                             .vjp = vjp_softmax,
                             .ref = ref_softmax,
                             .flop = ac_flop_in,
                             .kern = kern_softmax,
                             .cases = case_softmax};

ac_id ac_softmax(ac_graph *g, ac_id x)
{
    return ac_add_node(g, &ac_op_softmax, &x, 1, NULL);
}

/* ------------------------------------------------------------------------------------------ softmax_bx */
/* y, gy -> y (gy - sum(gy y)) */

static int infer_softmax_bx(ac_graph *g, ac_node *n)
{
    char y[96], gy[96];

    n->shape = *ac_shape_of(g, n->in[0]);
    if (!ac_same_shape(&n->shape, ac_shape_of(g, n->in[1])))
        return ac_graph_fail(g, ADDCL_E_SHAPE, "softmax_bx: y is %s, its gradient %s", ac_shape_text(&n->shape, y),
                             ac_shape_text(ac_shape_of(g, n->in[1]), gy));
    return 1;
}

static void ref_softmax_bx(const ac_ref *r)
{
    int64_t N = r->n->shape.d[r->n->shape.n - 1], rows = ac_count(&r->n->shape) / N;

    for (int64_t m = 0; m < rows; m++) {
        const double *y = r->in[0] + m * N, *gy = r->in[1] + m * N;
        double dot = 0;
        for (int64_t i = 0; i < N; i++)
            dot += y[i] * gy[i];
        for (int64_t i = 0; i < N; i++)
            r->out[m * N + i] = y[i] * (gy[i] - dot);
    }
}

/* For its own gradient: the same from primitives. */
static ac_id lower_softmax_bx(ac_graph *g, const ac_node *n)
{
    const ac_id y = n->in[0], gy = n->in[1];
    const unsigned last = 1u << (n->shape.n - 1);

    return ac_mul(g, y, ac_sub(g, gy, ac_sum(g, ac_mul(g, y, gy), last)));
}

static void setup_softmax_bx(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t N = n->shape.d[n->shape.n - 1], rows = ac_count(&n->shape) / N;

    (void)g;
    ac_def(l, "VW=%d", ac_lanes(lim, 4));
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, rows);
    ac_arg_int(l, N);
    ac_grid1(l, (size_t)rows, lim->cls == AC_CLASS_CPU ? 1 : 64);
}

static const ac_kern kern_softmax_bx[] = {{"softmax_bx_any", "reduce", AC_CLASS_ANY, NULL, NULL, setup_softmax_bx},
                                          {0}};
static const ac_case case_softmax_bx[] = {{"5x77", AC_SMALL, {{2, {5, 77}}, {2, {5, 77}}}, {{0}, {0}}, 2e-6},
                                          {"2x3x1", AC_SMALL, {{3, {2, 3, 1}}, {3, {2, 3, 1}}}, {{0}, {0}}, 2e-6},
                                          {0}};
const ac_op ac_op_softmax_bx = {.name = "softmax_bx",
                                .n_in = 2,
                                .flags = AC_OP_INPLACE,
                                .infer = infer_softmax_bx,
                                .lower = lower_softmax_bx,
                                .ref = ref_softmax_bx,
                                .flop = ac_flop_in,
                                .kern = kern_softmax_bx,
                                .cases = case_softmax_bx};

ac_id ac_softmax_bx(ac_graph *g, ac_id y, ac_id gy)
{
    return ac_add_node(g, &ac_op_softmax_bx, (ac_id[]){y, gy}, 2, NULL);
}
