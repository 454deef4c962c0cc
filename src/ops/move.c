/* move.c - values to other places: transpose, slice, broadcast, pad, concat, resample and its adjoint. */
#include "ops/ops.h"

#include <inttypes.h>

#include "ops/nest.h"

/* Elements from one index of `axis` to the next. */
static int64_t stride_of(const ac_shape *s, int axis)
{
    int64_t st = 1;
    for (int k = axis + 1; k < s->n; k++)
        st *= s->d[k];
    return st;
}

static int bad_axis(ac_graph *g, const ac_node *n, const ac_shape *x, int axis)
{
    char t[96];
    return ac_graph_fail(g, ADDCL_E_SHAPE, "%s: axis %d of %s", n->op->name, axis, ac_shape_text(x, t));
}

/* ------------------------------------------------------------------------------------------ strided copies */

/* transpose, slice and broadcast come to y[i0,i1,i2,i3] = x[from + i0 s0 + i1 s1 + i2 s2 + i3 s3]. */

/* Sizes and steps; returns `from`. */
static int64_t strided(const ac_shape *x, const ac_node *n, ac_nest *t)
{
    ac_nest_init(t, &n->shape);
    if (n->op == &ac_op_broadcast) {
        ac_nest_operand(t, 0, x);
        return 0;
    }
    for (int k = 0; k < n->shape.n; k++)
        t->step[0][AC_DIMS - n->shape.n + k] = stride_of(x, n->op == &ac_op_transpose ? n->at.i[k] : k);
    return n->op == &ac_op_slice ? n->at.i[1] * stride_of(x, n->at.i[0]) : 0;
}

static void ref_strided(const ac_ref *r)
{
    ac_nest t;
    int64_t from = strided(r->shape[0], r->n, &t), count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++) {
        int64_t left = i, at = from;
        for (int k = AC_DIMS - 1; k >= 0; left /= t.d[k--])
            at += left % t.d[k] * t.step[0][k];
        r->out[i] = r->in[0][at];
    }
}

static void strided_args(const ac_node *n, ac_launch *l)
{
    ac_def(l, "ELEM=%s", ac_type_size(n->type) == 2 ? "ushort" : "uint");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
}

/* Rows of y are runs of x, or one element again and again. */
static bool accepts_rows(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    ac_nest t;

    (void)lim;
    strided(ac_shape_of(g, n->in[0]), n, &t);
    ac_nest_join(&t);
    return t.step[0][3] <= 1;
}

static void setup_rows(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_nest t;
    int64_t from = strided(ac_shape_of(g, n->in[0]), n, &t);

    ac_nest_join(&t);
    strided_args(n, l);
    ac_def(l, "STEP=%d", (int)t.step[0][3]);
    ac_arg_int(l, from);
    ac_nest_args(&t, 1, l);
    ac_rows_grid(lim, ac_nest_rows(&t), t.d[3], l);
}

/* A stack of matrices whose columns are runs of x: squares of them are turned in registers. */
static bool accepts_squares(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    ac_nest t;

    (void)lim;
    strided(ac_shape_of(g, n->in[0]), n, &t);
    ac_nest_join(&t);
    return t.step[0][2] == 1;
}

static void setup_squares(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    enum { SPAN = 1024 }; /* elements of a row that a work-item makes */
    int64_t down, across;
    ac_nest t;

    strided(ac_shape_of(g, n->in[0]), n, &t);
    ac_nest_join(&t);
    down = AC_CEIL_DIV(t.d[2], (int64_t)lim->vw);
    across = AC_CEIL_DIV(t.d[3], (int64_t)SPAN);
    strided_args(n, l);
    ac_def(l, "VW=%d", lim->vw);
    for (int k = 1; k < AC_DIMS; k++)
        ac_arg_int(l, t.d[k]);
    ac_arg_int(l, t.step[0][0]);
    ac_arg_int(l, t.step[0][1]);
    ac_arg_int(l, t.step[0][3]);
    ac_arg_int(l, down);
    ac_arg_int(l, across);
    ac_arg_int(l, SPAN);
    ac_grid1(l, (size_t)(t.d[0] * t.d[1] * down * across), 1);
}

/* Any order of dimensions, an element at a time. */
static void setup_any(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_nest t;
    int64_t from = strided(ac_shape_of(g, n->in[0]), n, &t);

    (void)lim;
    strided_args(n, l);
    ac_arg_int(l, ac_count(&n->shape));
    ac_arg_int(l, from);
    for (int k = 1; k < AC_DIMS; k++)
        ac_arg_int(l, t.d[k]);
    for (int k = 0; k < AC_DIMS; k++)
        ac_arg_int(l, t.step[0][k]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

static const ac_kern kern_strided[] = {{"strided_rows", "move", AC_CLASS_ANY, accepts_rows, NULL, setup_rows},
                                       {"strided_any", "move", AC_CLASS_ANY, NULL, NULL, setup_any},
                                       {0}};

/* ------------------------------------------------------------------------------------------ transpose */
/* at.i[k]: the source of dimension k */

static int infer_transpose(ac_graph *g, ac_node *n)
{
    const ac_node *x = ac_at_node(g, n->in[0]);
    unsigned seen = 0;

    n->shape.n = x->shape.n;
    n->type = x->type;
    for (int k = 0; k < x->shape.n; k++) {
        int from = n->at.i[k];
        if (from < 0 || from >= x->shape.n || seen >> from & 1)
            return bad_axis(g, n, &x->shape, from);
        seen |= 1u << from;
        n->shape.d[k] = x->shape.d[from];
    }
    return 1;
}

/* The inverse permutation. */
static void vjp_transpose(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node *n = ac_at_node(g, y);
    int back[AC_DIMS] = {-1, -1, -1, -1};

    for (int k = 0; k < n->shape.n; k++)
        back[n->at.i[k]] = k;
    gx[0] = ac_transpose(g, gy, back[0], back[1], back[2], back[3]);
}

static const ac_kern kern_transpose[] = {{"strided_rows", "move", AC_CLASS_ANY, accepts_rows, NULL, setup_rows},
                                         {"transpose_vec", "move", AC_CLASS_CPU, accepts_squares, NULL, setup_squares},
                                         {"strided_any", "move", AC_CLASS_ANY, NULL, NULL, setup_any},
                                         {0}};
static const ac_case case_transpose[] = {{"10_7x33", AC_SMALL, {{2, {7, 33}}}, {{1, 0, -1, -1}, {0}}, 1e-9},
                                         {"0312", AC_SMALL, {{4, {2, 3, 4, 5}}}, {{0, 3, 1, 2}, {0}}, 1e-9},
                                         {"0231", AC_SMALL, {{4, {2, 3, 4, 5}}}, {{0, 2, 3, 1}, {0}}, 1e-9},
                                         {"102", AC_SMALL, {{3, {2, 3, 4}}}, {{1, 0, 2, -1}, {0}}, 1e-9},
                                         {"0213", AC_SMALL, {{4, {2, 3, 4, 37}}}, {{0, 2, 1, 3}, {0}}, 1e-9},
                                         {"3210", AC_SMALL, {{4, {2, 3, 4, 5}}}, {{3, 2, 1, 0}, {0}}, 1e-9},
                                         {"021_2x50x33", AC_SMALL, {{3, {2, 50, 33}}}, {{0, 2, 1, -1}, {0}}, 1e-9},
                                         {0}};
const ac_op ac_op_transpose = {.name = "transpose",
                               .n_in = 1,
                               .typed = 1,
                               .infer = infer_transpose,
                               .vjp = vjp_transpose,
                               .ref = ref_strided,
                               .kern = kern_transpose,
                               .cases = case_transpose};

ac_id ac_transpose(ac_graph *g, ac_id x, int p0, int p1, int p2, int p3)
{
    ac_at at = {.i = {p0, p1, p2, p3}};
    return ac_add_node(g, &ac_op_transpose, &x, 1, &at);
}

/* ------------------------------------------------------------------------------------------ slice */
/* at.i: 0 axis, 1 first, 2 number */

static int infer_slice(ac_graph *g, ac_node *n)
{
    const ac_node *x = ac_at_node(g, n->in[0]);
    int axis = n->at.i[0];

    n->shape = x->shape;
    n->type = x->type;
    if (axis < 0 || axis >= x->shape.n)
        return bad_axis(g, n, &x->shape, axis);
    if (n->at.i[1] < 0 || n->at.i[2] < 1 || (int64_t)n->at.i[1] + n->at.i[2] > x->shape.d[axis])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "slice: %d from %d of a dimension of %" PRId64, n->at.i[2], n->at.i[1],
                             x->shape.d[axis]);
    n->shape.d[axis] = n->at.i[2];
    return 1;
}

static void vjp_slice(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node *n = ac_at_node(g, y);
    int axis = n->at.i[0], from = n->at.i[1], rest = (int)(ac_shape_of(g, n->in[0])->d[axis] - from - n->at.i[2]);

    gx[0] = ac_pad(g, gy, axis, from, rest);
}

static const ac_case case_slice[] = {{"first", AC_SMALL, {{3, {5, 4, 3}}}, {{0, 1, 3}, {0}}, 1e-9},
                                     {"last", AC_SMALL, {{3, {5, 4, 9}}}, {{2, 2, 5}, {0}}, 1e-9},
                                     {"middle", AC_SMALL, {{4, {2, 6, 3, 4}}}, {{1, 5, 1}, {0}}, 1e-9},
                                     {"column", AC_SMALL, {{2, {70, 3}}}, {{1, 1, 1}, {0}}, 1e-9},
                                     {"wide", AC_SMALL, {{3, {2, 3, 90}}}, {{2, 9, 70}, {0}}, 1e-9},
                                     {0}};
const ac_op ac_op_slice = {.name = "slice",
                           .n_in = 1,
                           .typed = 1,
                           .infer = infer_slice,
                           .vjp = vjp_slice,
                           .ref = ref_strided,
                           .kern = kern_strided,
                           .cases = case_slice};

ac_id ac_slice(ac_graph *g, ac_id x, int axis, int64_t from, int64_t n)
{
    ac_at at = {.i = {axis, (int32_t)from, (int32_t)n}};

    if (x != AC_POISON && axis >= 0 && axis < ac_shape_of(g, x)->n && from == 0 && n == ac_shape_of(g, x)->d[axis])
        return x;
    return ac_add_node(g, &ac_op_slice, &x, 1, &at);
}

/* ------------------------------------------------------------------------------------------ pad, concat */
/* They see a tensor as rows [outer, axis inner] that hold rows of their inputs. */

/* Elements of a row: from one index before the axis to the next. */
static int64_t row_of(const ac_shape *s, int axis)
{
    return stride_of(s, axis) * s->d[axis];
}

/* pad. at.i: 0 axis, 1 zeros before, 2 zeros after */

static int infer_pad(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    int axis = n->at.i[0];

    n->shape = *x;
    if (axis < 0 || axis >= x->n || n->at.i[1] < 0 || n->at.i[2] < 0)
        return bad_axis(g, n, x, axis);
    n->shape.d[axis] += (int64_t)n->at.i[1] + n->at.i[2];
    return 1;
}

static void ref_pad(const ac_ref *r)
{
    int axis = r->n->at.i[0];
    int64_t inner = stride_of(&r->n->shape, axis), d = r->n->shape.d[axis], dx = r->shape[0]->d[axis],
            count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++) {
        int64_t at = i / inner % d - r->n->at.i[1];
        r->out[i] = at < 0 || at >= dx ? 0 : r->in[0][(i / inner / d * dx + at) * inner + i % inner];
    }
}

static void setup_pad(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int axis = n->at.i[0];
    int64_t row = row_of(&n->shape, axis);

    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, row_of(ac_shape_of(g, n->in[0]), axis));
    ac_arg_int(l, n->at.i[1] * stride_of(&n->shape, axis));
    ac_rows_grid(lim, ac_count(&n->shape) / row, row, l);
}

static void vjp_pad(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node *n = ac_at_node(g, y);
    int axis = n->at.i[0];

    gx[0] = ac_slice(g, gy, axis, n->at.i[1], ac_shape_of(g, n->in[0])->d[axis]);
}

static const ac_kern kern_pad[] = {{"pad_rows", "move", AC_CLASS_ANY, NULL, NULL, setup_pad}, {0}};
static const ac_case case_pad[] = {{"first", AC_SMALL, {{3, {5, 4, 3}}}, {{0, 1, 2}, {0}}, 1e-9},
                                   {"last", AC_SMALL, {{2, {5, 9}}}, {{1, 0, 3}, {0}}, 1e-9},
                                   {"middle", AC_SMALL, {{4, {2, 6, 5, 7}}}, {{2, 1, 1}, {0}}, 1e-9},
                                   {"wide", AC_SMALL, {{2, {3, 70}}}, {{1, 41, 38}, {0}}, 1e-9},
                                   {0}};
const ac_op ac_op_pad = {
    .name = "pad", .n_in = 1, .infer = infer_pad, .vjp = vjp_pad, .ref = ref_pad, .kern = kern_pad, .cases = case_pad};

ac_id ac_pad(ac_graph *g, ac_id x, int axis, int before, int after)
{
    ac_at at = {.i = {axis, before, after}};

    if (!before && !after)
        return x;
    return ac_add_node(g, &ac_op_pad, &x, 1, &at);
}

/* concat. at.i: 0 axis */

static int infer_concat(ac_graph *g, ac_node *n)
{
    const ac_shape *a = ac_shape_of(g, n->in[0]), *b = ac_shape_of(g, n->in[1]);
    int axis = n->at.i[0];
    char ta[96], tb[96];

    n->shape = *a;
    if (axis < 0 || axis >= a->n)
        return bad_axis(g, n, a, axis);
    n->shape.d[axis] = b->n == a->n ? b->d[axis] : -1;
    if (!ac_same_shape(&n->shape, b))
        return ac_graph_fail(g, ADDCL_E_SHAPE, "concat: %s and %s do not fit along axis %d", ac_shape_text(a, ta),
                             ac_shape_text(b, tb), axis);
    n->shape.d[axis] = a->d[axis] + b->d[axis];
    return 1;
}

static void ref_concat(const ac_ref *r)
{
    int axis = r->n->at.i[0];
    int64_t inner = stride_of(&r->n->shape, axis), d = r->n->shape.d[axis], da = r->shape[0]->d[axis],
            count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++) {
        int64_t at = i / inner % d, o = i / inner / d;
        r->out[i] = at < da ? r->in[0][(o * da + at) * inner + i % inner]
                            : r->in[1][(o * (d - da) + at - da) * inner + i % inner];
    }
}

static void setup_concat(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t row = row_of(&n->shape, n->at.i[0]);

    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, row_of(ac_shape_of(g, n->in[0]), n->at.i[0]));
    ac_rows_grid(lim, ac_count(&n->shape) / row, row, l);
}

static void vjp_concat(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node *n = ac_at_node(g, y);
    int axis = n->at.i[0];
    int64_t na = ac_shape_of(g, n->in[0])->d[axis], nb = ac_shape_of(g, n->in[1])->d[axis];

    gx[0] = ac_slice(g, gy, axis, 0, na);
    gx[1] = ac_slice(g, gy, axis, na, nb);
}

static const ac_kern kern_concat[] = {{"concat_rows", "move", AC_CLASS_ANY, NULL, NULL, setup_concat}, {0}};
static const ac_case case_concat[] = {
    {"first", AC_SMALL, {{3, {5, 4, 3}}, {3, {2, 4, 3}}}, {{0}, {0}}, 1e-9},
    {"channels", AC_SMALL, {{4, {2, 3, 3, 24}}, {4, {2, 3, 3, 17}}}, {{3}, {0}}, 1e-9},
    {"narrow", AC_SMALL, {{2, {6, 1}}, {2, {6, 2}}}, {{1}, {0}}, 1e-9},
    {0}};
const ac_op ac_op_concat = {.name = "concat",
                            .n_in = 2,
                            .infer = infer_concat,
                            .vjp = vjp_concat,
                            .ref = ref_concat,
                            .kern = kern_concat,
                            .cases = case_concat};

ac_id ac_concat(ac_graph *g, ac_id a, ac_id b, int axis)
{
    ac_at at = {.i = {axis}};
    return ac_add_node(g, &ac_op_concat, (ac_id[]){a, b}, 2, &at);
}

/* ------------------------------------------------------------------------------------------ resample */
/* at.i: 0 height, 1 width */

static int infer_resample(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);

    if (x->n != 4 || n->at.i[0] < 1 || n->at.i[1] < 1)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "resample: an image [B,H,W,C] is needed, and a size above 0");
    n->shape = *x;
    n->shape.d[1] = n->at.i[0];
    n->shape.d[2] = n->at.i[1];
    return 1;
}

static void ref_resample(const ac_ref *r)
{
    const ac_shape *x = r->shape[0], *y = &r->n->shape;
    int64_t i = 0;

    for (int64_t b = 0; b < y->d[0]; b++)
        for (int64_t h = 0; h < y->d[1]; h++)
            for (int64_t w = 0; w < y->d[2]; w++)
                for (int64_t c = 0; c < y->d[3]; c++, i++)
                    r->out[i] =
                        r->in[0]
                             [((b * x->d[1] + h * x->d[1] / y->d[1]) * x->d[2] + w * x->d[2] / y->d[2]) * x->d[3] + c];
}

static void setup_resample(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]), *y = &n->shape;

    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    for (int k = 1; k < 3; k++)
        ac_arg_int(l, x->d[k]);
    for (int k = 1; k < 3; k++)
        ac_arg_int(l, y->d[k]);
    ac_rows_grid(lim, y->d[0] * y->d[1] * y->d[2], y->d[3], l);
}

static void vjp_resample(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_shape x = *ac_shape_of(g, ac_at_node(g, y)->in[0]);

    gx[0] = ac_resample_bx(g, gy, x.d[1], x.d[2]);
}

static const ac_kern kern_resample[] = {{"resample_rows", "move", AC_CLASS_ANY, NULL, NULL, setup_resample}, {0}};
static const ac_case case_resample[] = {{"double", AC_SMALL, {{4, {2, 3, 5, 7}}}, {{6, 10}, {0}}, 1e-9},
                                        {"odd", AC_SMALL, {{4, {1, 4, 3, 5}}}, {{7, 5}, {0}}, 1e-9},
                                        {"wide", AC_SMALL, {{4, {2, 2, 2, 70}}}, {{4, 3}, {0}}, 1e-9},
                                        {0}};
const ac_op ac_op_resample = {.name = "resample",
                              .n_in = 1,
                              .infer = infer_resample,
                              .vjp = vjp_resample,
                              .ref = ref_resample,
                              .kern = kern_resample,
                              .cases = case_resample};

ac_id ac_resample(ac_graph *g, ac_id x, int64_t h, int64_t w)
{
    ac_at at = {.i = {(int32_t)h, (int32_t)w}};
    return ac_add_node(g, &ac_op_resample, &x, 1, &at);
}

/* ------------------------------------------------------------------------------------------ resample_bx */
/* gy [B,H,W,C] -> [B,h,w,C], the adjoint: every element takes the sum of the pixels that resample would copy it to.
 * at.i: 0 h, 1 w */

/* First of the H indices i with floor(i h / H) >= s. */
static int64_t first_copy(int64_t s, int64_t h, int64_t H)
{
    return AC_CEIL_DIV(s * H, h);
}

static void ref_resample_bx(const ac_ref *r)
{
    const ac_shape *gy = r->shape[0], *x = &r->n->shape;

    for (int64_t i = 0; i < ac_count(x); i++) {
        int64_t c = i % x->d[3], w = i / x->d[3] % x->d[2], h = i / x->d[3] / x->d[2] % x->d[1],
                b = i / x->d[3] / x->d[2] / x->d[1];
        double sum = 0;
        for (int64_t H = first_copy(h, x->d[1], gy->d[1]); H < first_copy(h + 1, x->d[1], gy->d[1]); H++)
            for (int64_t W = first_copy(w, x->d[2], gy->d[2]); W < first_copy(w + 1, x->d[2], gy->d[2]); W++)
                sum += r->in[0][((b * gy->d[1] + H) * gy->d[2] + W) * gy->d[3] + c];
        r->out[i] = sum;
    }
}

static void vjp_resample_bx(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_shape x = *ac_shape_of(g, ac_at_node(g, y)->in[0]);

    gx[0] = ac_resample(g, gy, x.d[1], x.d[2]);
}

static const ac_kern kern_resample_bx[] = {{"resample_bx_rows", "move", AC_CLASS_ANY, NULL, NULL, setup_resample}, {0}};
static const ac_case case_resample_bx[] = {{"half", AC_SMALL, {{4, {2, 6, 10, 7}}}, {{3, 5}, {0}}, 1e-6},
                                           {"odd", AC_SMALL, {{4, {1, 7, 5, 5}}}, {{4, 3}, {0}}, 1e-6},
                                           {"wide", AC_SMALL, {{4, {2, 4, 4, 70}}}, {{2, 2}, {0}}, 1e-6},
                                           {"of_smaller", AC_SMALL, {{4, {1, 2, 3, 5}}}, {{5, 4}, {0}}, 1e-6},
                                           {0}};
const ac_op ac_op_resample_bx = {.name = "resample_bx",
                                 .n_in = 1,
                                 .infer = infer_resample,
                                 .vjp = vjp_resample_bx,
                                 .ref = ref_resample_bx,
                                 .kern = kern_resample_bx,
                                 .cases = case_resample_bx};

ac_id ac_resample_bx(ac_graph *g, ac_id gy, int64_t h, int64_t w)
{
    ac_at at = {.i = {(int32_t)h, (int32_t)w}};
    return ac_add_node(g, &ac_op_resample_bx, &gy, 1, &at);
}

/* ------------------------------------------------------------------------------------------ broadcast */
/* at.i: 0..3 the new dimensions, 4 their number */

static int infer_broadcast(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    char from[96], to[96];

    n->shape.n = n->at.i[4];
    for (int k = 0; k < n->shape.n; k++)
        n->shape.d[k] = n->at.i[k];
    for (int k = 1; k <= AC_MAX(x->n, n->shape.n); k++)
        if (k > n->shape.n || (k <= x->n && x->d[x->n - k] != 1 && x->d[x->n - k] != n->shape.d[n->shape.n - k]))
            return ac_graph_fail(g, ADDCL_E_SHAPE, "broadcast: %s does not repeat to %s", ac_shape_text(x, from),
                                 ac_shape_text(&n->shape, to));
    return 1;
}

static void vjp_broadcast(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    gx[0] = ac_sum_to(g, gy, *ac_shape_of(g, ac_at_node(g, y)->in[0]));
}

static const ac_case case_broadcast[] = {{"scalar", AC_SMALL, {{1, {1}}}, {{5, 7, 0, 0, 2}, {0}}, 1e-9},
                                         {"vector", AC_SMALL, {{1, {37}}}, {{2, 3, 37, 0, 3}, {0}}, 1e-9},
                                         {"rows", AC_SMALL, {{3, {2, 9, 1}}}, {{2, 9, 41, 0, 3}, {0}}, 1e-9},
                                         {"per_batch", AC_SMALL, {{4, {2, 1, 1, 19}}}, {{2, 3, 4, 19, 4}, {0}}, 1e-9},
                                         {"outer", AC_SMALL, {{4, {1, 5, 1, 3}}}, {{2, 5, 4, 3, 4}, {0}}, 1e-9},
                                         {0}};
const ac_op ac_op_broadcast = {.name = "broadcast",
                               .n_in = 1,
                               .infer = infer_broadcast,
                               .vjp = vjp_broadcast,
                               .ref = ref_strided,
                               .kern = kern_strided,
                               .cases = case_broadcast};

ac_id ac_broadcast(ac_graph *g, ac_id x, ac_shape s)
{
    ac_at at = {.i = {[4] = s.n}};

    for (int k = 0; k < s.n; k++)
        at.i[k] = (int32_t)s.d[k];
    if (x != AC_POISON && ac_same_shape(&s, ac_shape_of(g, x)))
        return x;
    return ac_add_node(g, &ac_op_broadcast, &x, 1, &at);
}
