/* move.c - values to other places: transpose, slice, concat, pad, resample. All of them are exact. */
#include "ops/ops.h"

#include <inttypes.h>

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

/* ------------------------------------------------------------------------------------------ transpose: at.i[k] source of dimension k */

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

static void transpose_strides(const ac_shape *x, const ac_node *n, int64_t d[AC_DIMS], int64_t st[AC_DIMS])
{
    for (int k = 0; k < AC_DIMS; k++) {
        int at = k - (AC_DIMS - n->shape.n);
        d[k] = at >= 0 ? n->shape.d[at] : 1;
        st[k] = at >= 0 ? stride_of(x, n->at.i[at]) : 0;
    }
}

static void ref_transpose(const ac_ref *r)
{
    int64_t d[AC_DIMS], st[AC_DIMS], count = ac_count(&r->n->shape);

    transpose_strides(r->shape[0], r->n, d, st);
    for (int64_t i = 0; i < count; i++)
        r->out[i] = r->in[0][i % d[3] * st[3] + i / d[3] % d[2] * st[2] + i / d[3] / d[2] % d[1] * st[1] + i / d[3] / d[2] / d[1] * st[0]];
}

static void setup_transpose(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t d[AC_DIMS], st[AC_DIMS];

    (void)lim;
    transpose_strides(ac_shape_of(g, n->in[0]), n, d, st);
    ac_def(l, "ELEM=%s", ac_type_size(n->type) == 2 ? "ushort" : "uint");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, ac_count(&n->shape));
    for (int k = 1; k < AC_DIMS; k++)
        ac_arg_int(l, d[k]);
    for (int k = 0; k < AC_DIMS; k++)
        ac_arg_int(l, st[k]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

static const ac_kern kern_transpose[] = {{"transpose_any", "move", AC_CLASS_ANY, NULL, NULL, setup_transpose}, {0}};
static const ac_case case_transpose[] = {{"10_7x33", AC_SMALL, {{2, {7, 33}}}, {{1, 0, -1, -1}, {0}}, 1e-9},
                                         {"0312", AC_SMALL, {{4, {2, 3, 4, 5}}}, {{0, 3, 1, 2}, {0}}, 1e-9},
                                         {"0231", AC_SMALL, {{4, {2, 3, 4, 5}}}, {{0, 2, 3, 1}, {0}}, 1e-9},
                                         {"102", AC_SMALL, {{3, {2, 3, 4}}}, {{1, 0, 2, -1}, {0}}, 1e-9},
                                         {0}};
const ac_op ac_op_transpose = {.name = "transpose",
                               .n_in = 1,
                               .typed = 1,
                               .infer = infer_transpose,
                               .ref = ref_transpose,
                               .kern = kern_transpose,
                               .cases = case_transpose};

ac_id ac_transpose(ac_graph *g, ac_id x, int p0, int p1, int p2, int p3)
{
    ac_at at = {.i = {p0, p1, p2, p3}};
    return ac_add_node(g, &ac_op_transpose, &x, 1, &at);
}

/* ------------------------------------------------------------------------------------------ runs along an axis
 * slice, pad and concat see a tensor as [outer, axis, inner] and copy runs of inner elements. */

static void setup_run(const ac_node *n, const ac_shape *x, int axis, ac_launch *l)
{
    int64_t inner = stride_of(&n->shape, axis);

    ac_arg_int(l, ac_count(&n->shape));
    ac_arg_int(l, inner);
    ac_arg_int(l, n->shape.d[axis]);
    ac_arg_int(l, x->d[axis]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

/* slice: at.i[0] axis, at.i[1] first, at.i[2] number */

static int infer_slice(ac_graph *g, ac_node *n)
{
    const ac_node *x = ac_at_node(g, n->in[0]);
    int axis = n->at.i[0];

    n->shape = x->shape;
    n->type = x->type;
    if (axis < 0 || axis >= x->shape.n)
        return bad_axis(g, n, &x->shape, axis);
    if (n->at.i[1] < 0 || n->at.i[2] < 1 || (int64_t)n->at.i[1] + n->at.i[2] > x->shape.d[axis])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "slice: %d from %d of a dimension of %" PRId64, n->at.i[2], n->at.i[1], x->shape.d[axis]);
    n->shape.d[axis] = n->at.i[2];
    return 1;
}

static void ref_slice(const ac_ref *r)
{
    int axis = r->n->at.i[0];
    int64_t inner = stride_of(&r->n->shape, axis), d = r->n->shape.d[axis], dx = r->shape[0]->d[axis], count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++)
        r->out[i] = r->in[0][(i / inner / d * dx + i / inner % d + r->n->at.i[1]) * inner + i % inner];
}

static void setup_slice(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)lim;
    ac_def(l, "ELEM=%s", ac_type_size(n->type) == 2 ? "ushort" : "uint");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    setup_run(n, ac_shape_of(g, n->in[0]), n->at.i[0], l);
    ac_arg_int(l, n->at.i[1]);
}

static const ac_kern kern_slice[] = {{"slice_any", "move", AC_CLASS_ANY, NULL, NULL, setup_slice}, {0}};
static const ac_case case_slice[] = {{"first", AC_SMALL, {{3, {5, 4, 3}}}, {{0, 1, 3}, {0}}, 1e-9},
                                     {"last", AC_SMALL, {{3, {5, 4, 9}}}, {{2, 2, 5}, {0}}, 1e-9},
                                     {"middle", AC_SMALL, {{4, {2, 6, 3, 4}}}, {{1, 5, 1}, {0}}, 1e-9},
                                     {0}};
const ac_op ac_op_slice = {
    .name = "slice", .n_in = 1, .typed = 1, .infer = infer_slice, .ref = ref_slice, .kern = kern_slice, .cases = case_slice};

ac_id ac_slice(ac_graph *g, ac_id x, int axis, int64_t from, int64_t n)
{
    ac_at at = {.i = {axis, (int32_t)from, (int32_t)n}};

    if (x != AC_POISON && axis >= 0 && axis < ac_shape_of(g, x)->n && from == 0 && n == ac_shape_of(g, x)->d[axis])
        return x;
    return ac_add_node(g, &ac_op_slice, &x, 1, &at);
}

/* pad: at.i[0] axis, at.i[1] zeros before, at.i[2] zeros after */

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
    int64_t inner = stride_of(&r->n->shape, axis), d = r->n->shape.d[axis], dx = r->shape[0]->d[axis], count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++) {
        int64_t at = i / inner % d - r->n->at.i[1];
        r->out[i] = at < 0 || at >= dx ? 0 : r->in[0][(i / inner / d * dx + at) * inner + i % inner];
    }
}

static void setup_pad(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)lim;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    setup_run(n, ac_shape_of(g, n->in[0]), n->at.i[0], l);
    ac_arg_int(l, n->at.i[1]);
}

static const ac_kern kern_pad[] = {{"pad_any", "move", AC_CLASS_ANY, NULL, NULL, setup_pad}, {0}};
static const ac_case case_pad[] = {{"first", AC_SMALL, {{3, {5, 4, 3}}}, {{0, 1, 2}, {0}}, 1e-9},
                                   {"last", AC_SMALL, {{2, {5, 9}}}, {{1, 0, 3}, {0}}, 1e-9},
                                   {0}};
const ac_op ac_op_pad = {.name = "pad", .n_in = 1, .infer = infer_pad, .ref = ref_pad, .kern = kern_pad, .cases = case_pad};

ac_id ac_pad(ac_graph *g, ac_id x, int axis, int before, int after)
{
    ac_at at = {.i = {axis, before, after}};

    if (!before && !after)
        return x;
    return ac_add_node(g, &ac_op_pad, &x, 1, &at);
}

/* concat: at.i[0] axis */

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
        return ac_graph_fail(g, ADDCL_E_SHAPE, "concat: %s and %s do not fit along axis %d", ac_shape_text(a, ta), ac_shape_text(b, tb), axis);
    n->shape.d[axis] = a->d[axis] + b->d[axis];
    return 1;
}

static void ref_concat(const ac_ref *r)
{
    int axis = r->n->at.i[0];
    int64_t inner = stride_of(&r->n->shape, axis), d = r->n->shape.d[axis], da = r->shape[0]->d[axis], count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++) {
        int64_t at = i / inner % d, o = i / inner / d;
        r->out[i] = at < da ? r->in[0][(o * da + at) * inner + i % inner] : r->in[1][(o * (d - da) + at - da) * inner + i % inner];
    }
}

/* Rows of y: one for each index before the axis. */
static int64_t concat_rows(const ac_node *n)
{
    return ac_count(&n->shape) / (stride_of(&n->shape, n->at.i[0]) * n->shape.d[n->at.i[0]]);
}

static void concat_args(const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int axis = n->at.i[0];
    int64_t inner = stride_of(&n->shape, axis);

    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, concat_rows(n));
    ac_arg_int(l, ac_shape_of(g, n->in[0])->d[axis] * inner);
    ac_arg_int(l, n->shape.d[axis] * inner);
}

static void setup_concat_vec(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)lim;
    concat_args(g, n, l);
    ac_grid1(l, (size_t)concat_rows(n), 1);
}

static void setup_concat(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)lim;
    concat_args(g, n, l);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

/* Rows long enough to be worth a work-item each. */
static bool accepts_rows(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)lim, (void)g;
    return ac_count(&n->shape) / concat_rows(n) >= 16;
}

static const ac_kern kern_concat[] = {{"concat_vec", "move", AC_CLASS_CPU, accepts_rows, NULL, setup_concat_vec},
                                      {"concat_any", "move", AC_CLASS_ANY, NULL, NULL, setup_concat},
                                      {0}};
static const ac_case case_concat[] = {{"first", AC_SMALL, {{3, {5, 4, 3}}, {3, {2, 4, 3}}}, {{0}, {0}}, 1e-9},
                                      {"channels", AC_SMALL, {{4, {2, 3, 3, 24}}, {4, {2, 3, 3, 17}}}, {{3}, {0}}, 1e-9},
                                      {"narrow", AC_SMALL, {{2, {6, 1}}, {2, {6, 2}}}, {{1}, {0}}, 1e-9},
                                      {0}};
const ac_op ac_op_concat = {
    .name = "concat", .n_in = 2, .infer = infer_concat, .ref = ref_concat, .kern = kern_concat, .cases = case_concat};

ac_id ac_concat(ac_graph *g, ac_id a, ac_id b, int axis)
{
    ac_at at = {.i = {axis}};
    return ac_add_node(g, &ac_op_concat, (ac_id[]){a, b}, 2, &at);
}

/* ------------------------------------------------------------------------------------------ resample: at.i[0] height, at.i[1] width */

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
                    r->out[i] = r->in[0][((b * x->d[1] + h * x->d[1] / y->d[1]) * x->d[2] + w * x->d[2] / y->d[2]) * x->d[3] + c];
}

static void setup_resample(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);

    (void)lim;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, ac_count(&n->shape));
    ac_arg_int(l, x->d[1]);
    ac_arg_int(l, x->d[2]);
    ac_arg_int(l, x->d[3]);
    ac_arg_int(l, n->shape.d[1]);
    ac_arg_int(l, n->shape.d[2]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

static const ac_kern kern_resample[] = {{"resample_any", "move", AC_CLASS_ANY, NULL, NULL, setup_resample}, {0}};
static const ac_case case_resample[] = {{"double", AC_SMALL, {{4, {2, 3, 5, 7}}}, {{6, 10}, {0}}, 1e-9},
                                        {"odd", AC_SMALL, {{4, {1, 4, 3, 5}}}, {{7, 5}, {0}}, 1e-9},
                                        {0}};
const ac_op ac_op_resample = {
    .name = "resample", .n_in = 1, .infer = infer_resample, .ref = ref_resample, .kern = kern_resample, .cases = case_resample};

ac_id ac_resample(ac_graph *g, ac_id x, int64_t h, int64_t w)
{
    ac_at at = {.i = {(int32_t)h, (int32_t)w}};
    return ac_add_node(g, &ac_op_resample, &x, 1, &at);
}
