/* leaf.c - inputs, parameters, views, casts, constants. */
#include "ops/ops.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static int infer_leaf(ac_graph *g, ac_node *n)
{
    (void)g, (void)n;
    return 1;
}

const ac_op ac_op_input = {.name = "input", .flags = AC_OP_LEAF, .infer = infer_leaf};
const ac_op ac_op_param = {.name = "param", .flags = AC_OP_LEAF, .infer = infer_leaf};
const ac_op ac_op_state = {.name = "state", .flags = AC_OP_LEAF, .infer = infer_leaf};

static void ref_copy(const ac_ref *r)
{
    memcpy(r->out, r->in[0], (size_t)ac_count(&r->n->shape) * sizeof(double));
}

/* ---- stop: the same values, through which no gradient passes */

static int infer_stop(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    return 1;
}

const ac_op ac_op_stop = {.name = "stop", .n_in = 1, .flags = AC_OP_ALIAS | AC_OP_STOP, .infer = infer_stop, .ref = ref_copy};

ac_id ac_stop(ac_graph *g, ac_id x)
{
    return ac_add_node(g, &ac_op_stop, &x, 1, NULL);
}

/* ---- reshape: at.i[0..3] the new dimensions, at.i[4] their number */

static int infer_reshape(ac_graph *g, ac_node *n)
{
    const ac_node *x = ac_at_node(g, n->in[0]);
    int64_t known = 1, count = ac_count(&x->shape);
    int free_dim = -1;
    char a[96], b[96];

    n->shape.n = n->at.i[4];
    n->type = x->type;
    for (int k = 0; k < n->shape.n; k++) {
        n->shape.d[k] = n->at.i[k];
        if (n->at.i[k] == -1 && free_dim < 0)
            free_dim = k;
        else
            known *= n->at.i[k];
    }
    if (free_dim >= 0 && known > 0)
        n->shape.d[free_dim] = count / known;
    if (ac_count(&n->shape) != count)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "reshape: %s cannot become %s", ac_shape_text(&x->shape, a), ac_shape_text(&n->shape, b));
    return 1;
}

static void vjp_reshape(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    gx[0] = ac_reshape(g, gy, *ac_shape_of(g, ac_at_node(g, y)->in[0]));
}

static const ac_case case_reshape[] = {{"6x35_to_2x3x5x7", AC_SMALL, {{2, {6, 35}}}, {{2, 3, 5, 7, 4}, {0}}, 1e-9},
                                       {"2x15_to_free", AC_SMALL, {{2, {2, 15}}}, {{-1, 5, 0, 0, 2}, {0}}, 1e-9},
                                       {0}};
/* Takes any storage type, so that weights may be viewed. */
const ac_op ac_op_reshape = {.name = "reshape",
                             .n_in = 1,
                             .flags = AC_OP_ALIAS,
                             .typed = 1,
                             .infer = infer_reshape,
                             .vjp = vjp_reshape,
                             .ref = ref_copy,
                             .cases = case_reshape};

ac_id ac_reshape(ac_graph *g, ac_id x, ac_shape s)
{
    ac_at at = {{0}, {0}};

    for (int k = 0; k < s.n; k++)
        at.i[k] = (int32_t)s.d[k];
    at.i[4] = s.n;
    if (x != AC_POISON && ac_same_shape(&s, ac_shape_of(g, x)))
        return x;
    return ac_add_node(g, &ac_op_reshape, &x, 1, &at);
}

/* ---- cast: at.i[0] the new type */

static int infer_cast(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    n->type = (ac_type)n->at.i[0];
    return 1;
}

/* The reference rounds as the kernel does: what follows is compared on equal values. */
static void ref_cast(const ac_ref *r)
{
    int64_t count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++) {
        float f = (float)r->in[0][i];
        r->out[i] = r->n->type == AC_F16    ? (double)ac_half_to_float(ac_float_to_half(f))
                    : r->n->type == AC_BF16 ? (double)ac_bf16_to_float(ac_float_to_bf16(f))
                                            : r->in[0][i];
    }
}

/* The rounding is passed over; gradients are f32. */
static void vjp_cast(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    (void)y;
    gx[0] = ac_cast(g, gy, AC_F32);
}

/* One work-item converts a run of vectors. Odd sizes go one by one: half vectors cannot be stored in part. */
static void setup_cast(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t count = ac_count(&n->shape);
    int vw = lim->cls == AC_CLASS_CPU ? lim->vw : 4, span = lim->cls == AC_CLASS_CPU ? 64 : 1;

    if (count % vw)
        vw = 1;
    ac_def(l, "VW=%d", vw);
    ac_def(l, "SPAN=%d", span);
    ac_def(l, "ST=%d", ac_at_node(g, n->in[0])->type);
    ac_def(l, "WT=%d", n->type);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, count);
    ac_grid1(l, (size_t)AC_CEIL_DIV(count, (int64_t)vw * span), lim->cls == AC_CLASS_CPU ? 1 : 64);
}

static const ac_kern kern_cast[] = {{"cast", "elem", AC_CLASS_ANY, NULL, NULL, setup_cast}, {0}};
static const ac_case case_cast[] = {{"to_f16", AC_SMALL, {{2, {37, 29}}}, {{AC_F16}, {0}}, 1e-7},
                                    {"to_bf16", AC_SMALL, {{2, {37, 29}}}, {{AC_BF16}, {0}}, 1e-7},
                                    {"to_f32", AC_SMALL, {{2, {37, 32}}}, {{AC_F32}, {0}}, 1e-7},
                                    {0}};
const ac_op ac_op_cast = {.name = "cast",
                          .n_in = 1,
                          .typed = 1,
                          .infer = infer_cast,
                          .vjp = vjp_cast,
                          .ref = ref_cast,
                          .kern = kern_cast,
                          .cases = case_cast};

ac_id ac_cast(ac_graph *g, ac_id x, ac_type t)
{
    ac_at at = {.i = {t}};

    if (x != AC_POISON && ac_at_node(g, x)->type == t)
        return x;
    return ac_add_node(g, &ac_op_cast, &x, 1, &at);
}

/* ---- fill: at.i[0..3] dimensions, at.i[4] their number, at.f[0] the value */

static int infer_fill(ac_graph *g, ac_node *n)
{
    (void)g;
    n->shape.n = n->at.i[4];
    for (int k = 0; k < n->shape.n; k++)
        n->shape.d[k] = n->at.i[k];
    return 1;
}

static void ref_fill(const ac_ref *r)
{
    int64_t count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++)
        r->out[i] = (double)r->n->at.f[0];
}

static void setup_fill(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)lim, (void)g;
    ac_arg_buf(l, -1);
    ac_arg_int(l, ac_count(&n->shape));
    ac_arg_float(l, (double)n->at.f[0]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

static const ac_kern kern_fill[] = {{"fill", "elem", AC_CLASS_ANY, NULL, NULL, setup_fill}, {0}};
static const ac_case case_fill[] = {{"3x50", AC_SMALL, {{0}}, {{3, 50, 0, 0, 2}, {1.5f}}, 1e-7}, {0}};
const ac_op ac_op_fill = {.name = "fill", .infer = infer_fill, .ref = ref_fill, .kern = kern_fill, .cases = case_fill};

ac_id ac_fill(ac_graph *g, ac_shape s, double value)
{
    ac_at at = {.f = {(float)value}};

    for (int k = 0; k < s.n; k++)
        at.i[k] = (int32_t)s.d[k];
    at.i[4] = s.n;
    return ac_add_node(g, &ac_op_fill, NULL, 0, &at);
}
