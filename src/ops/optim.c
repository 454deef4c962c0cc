/* optim.c - what an optimiser does with parameters, gradients and its own tensors. All of it writes in place and has no
 * gradient. */
#include "ops/ops.h"

#include <math.h>

/* Appends the number of elements; a work-item takes a run of memory on CPUs, one element on GPUs. */
static void element_grid(const ac_limits *lim, int64_t count, ac_launch *l)
{
    int span = lim->cls == AC_CLASS_CPU ? 256 : 1;

    ac_def(l, "VW=%d", ac_lanes(lim, 1));
    ac_def(l, "SPAN=%d", span);
    ac_arg_int(l, count);
    ac_grid1(l, (size_t)AC_CEIL_DIV(count, (int64_t)ac_lanes(lim, 1) * span), lim->cls == AC_CLASS_CPU ? 1 : 64);
}

/* Inputs 0 and k must have the same shape. */
static bool same_shape(ac_graph *g, const ac_node *n, int k)
{
    const ac_shape *a = ac_shape_of(g, n->in[0]), *b = ac_shape_of(g, n->in[k]);
    char ta[96], tb[96];

    if (ac_same_shape(a, b))
        return true;
    ac_graph_fail(g, ADDCL_E_SHAPE, "%s: input %d is %s, expected %s", n->op->name, k, ac_shape_text(b, tb),
                  ac_shape_text(a, ta));
    return false;
}

/* ------------------------------------------------------------------------------------------ adam */

/* adam(p, g, m, v, hyper, ema): an effect on p, m, v and ema. at.f[0] factor of the learning rate; at.i[0] decay is
 * added to the gradient. */

enum { P, G, M, V, HYPER, AVERAGE };

static int infer_adam(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[P]);
    for (int k = G; k <= AVERAGE; k++)
        if (k != HYPER && n->in[k] != AC_NONE && !same_shape(g, n, k))
            return AC_POISON;
    if (ac_count(ac_shape_of(g, n->in[HYPER])) != AC_HYPERS)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "adam: %lld hyperparameters, expected %d",
                             (long long)ac_count(ac_shape_of(g, n->in[HYPER])), AC_HYPERS);
    return 1;
}

/* The new p. */
static void ref_adam(const ac_ref *r)
{
    const double *h = r->in[HYPER], f = h[AC_HYPER_FACTOR], lr = (double)r->n->at.f[0] * h[AC_HYPER_LR];

    for (int64_t i = 0; i < ac_count(&r->n->shape); i++) {
        double p = r->in[P][i], g = f * r->in[G][i], m, v;
        if (r->n->at.i[0])
            g += h[AC_HYPER_DECAY] * p;
        else
            p -= lr * h[AC_HYPER_DECAY] * p;
        m = r->in[M][i] + h[AC_HYPER_MEAN] * (g - r->in[M][i]);
        v = h[AC_HYPER_BETA2] * r->in[V][i] + h[AC_HYPER_SQUARE] * g * g;
        p -= lr * h[AC_HYPER_CORRECT1] * m / (sqrt(h[AC_HYPER_CORRECT2] * v) + h[AC_HYPER_EPS]);
        r->out[i] = isfinite(f) && f >= 0 ? p : r->in[P][i];
    }
}

static void setup_adam(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)g;
    if (n->at.i[0])
        ac_def(l, "COUPLED");
    if (n->in[AVERAGE] != AC_NONE)
        ac_def(l, "AVERAGE");
    ac_arg_buf(l, -1);
    for (int k = G; k <= AVERAGE; k++)
        if (n->in[k] != AC_NONE)
            ac_arg_buf(l, k);
    element_grid(lim, ac_count(&n->shape), l);
    ac_arg_float(l, (double)n->at.f[0]);
}

static const ac_kern kern_adam[] = {{"adam", "optim", AC_CLASS_ANY, NULL, NULL, setup_adam}, {0}};

#define ADAM(name, N, ema, coupled, rate)                                                                              \
    {                                                                                                                  \
        name, AC_SMALL, {{1, {N}}, {1, {N}}, {1, {N}}, {1, {N}}, {1, {AC_HYPERS}}, {ema, {N}}}, {{coupled}, {rate}},   \
            2e-6                                                                                                       \
    }
static const ac_case case_adam[] = {
    ADAM("1", 1, 0, 0, 1),
    ADAM("17", 17, 0, 0, 1),
    ADAM("17_ema", 17, 1, 0, 0.5f),
    ADAM("16_coupled", 16, 0, 1, 1),
    ADAM("31_coupled_ema", 31, 1, 1, 2),
    ADAM("4096_ema", 4096, 1, 0, 1),
    ADAM("4097_ema", 4097, 1, 0, 1),
    ADAM("8193", 8193, 0, 0, 0.1f),
    ADAM("0_rate", 33, 1, 0, 0),
    {"2x3x5x7_ema",
     AC_SMALL,
     {{4, {2, 3, 5, 7}}, {4, {2, 3, 5, 7}}, {4, {2, 3, 5, 7}}, {4, {2, 3, 5, 7}}, {1, {AC_HYPERS}}, {4, {2, 3, 5, 7}}},
     {{0}, {1}},
     2e-6},
    {0}};
const ac_op ac_op_adam = {.name = "adam",
                          .n_in = 5,
                          .n_opt = 1,
                          .flags = AC_OP_EFFECT | AC_OP_POSITIVE,
                          .infer = infer_adam,
                          .ref = ref_adam,
                          .flop = ac_flop_in,
                          .kern = kern_adam,
                          .cases = case_adam};

ac_id ac_adam(ac_graph *g, const ac_adam_in *a)
{
    ac_at at = {.i = {!a->decoupled}, .f = {(float)a->rate}};

    return ac_add_node(g, &ac_op_adam, (ac_id[]){a->p, a->grad, a->m, a->v, a->hyper, a->ema}, 6, &at);
}

void ac_adam_hyper(const ac_adam_cfg *c, int64_t step, float h[AC_HYPERS])
{
    h[AC_HYPER_LR] = (float)c->lr;
    h[AC_HYPER_EPS] = (float)c->eps;
    h[AC_HYPER_DECAY] = (float)c->decay;
    h[AC_HYPER_MEAN] = (float)(1 - c->beta1);
    h[AC_HYPER_BETA2] = (float)c->beta2;
    h[AC_HYPER_SQUARE] = (float)(1 - c->beta2);
    h[AC_HYPER_CORRECT1] = (float)(1 / (1 - pow(c->beta1, (double)step)));
    h[AC_HYPER_CORRECT2] = (float)(1 / (1 - pow(c->beta2, (double)step)));
    h[AC_HYPER_EMA] = (float)(1 - c->ema);
    h[AC_HYPER_FACTOR] = 1;
}

/* ------------------------------------------------------------------------------------------ sum of squares */

/* sum_squares(x, before) -> [PARTS]: before[k] + the sum of the squares of the k-th part of x. A chain of these sums
 * many tensors with one launch each. */

enum { PARTS = 256, LEAST = 1024 }; /* elements of a part are a multiple of LEAST */

static int64_t part_size(int64_t count)
{
    return AC_CEIL_DIV(count, (int64_t)PARTS * LEAST) * LEAST;
}

static int infer_sum_squares(ac_graph *g, ac_node *n)
{
    n->shape = (ac_shape){1, {PARTS}};
    if (n->in[1] != AC_NONE && ac_count(ac_shape_of(g, n->in[1])) != PARTS)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "sum_squares: %lld sums before, expected %d",
                             (long long)ac_count(ac_shape_of(g, n->in[1])), PARTS);
    return 1;
}

static void ref_sum_squares(const ac_ref *r)
{
    int64_t count = ac_count(r->shape[0]), per = part_size(count);

    for (int64_t k = 0; k < PARTS; k++)
        r->out[k] = r->in[1] ? r->in[1][k] : 0;
    for (int64_t i = 0; i < count; i++)
        r->out[i / per] += r->in[0][i] * r->in[0][i];
}

static void sum_squares_args(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t count = ac_count(ac_shape_of(g, n->in[0]));

    ac_def(l, "VW=%d", ac_lanes(lim, 1));
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    if (n->in[1] != AC_NONE) {
        ac_def(l, "BEFORE");
        ac_arg_buf(l, 1);
    }
    ac_arg_int(l, count);
    ac_arg_int(l, part_size(count));
    ac_arg_int(l, PARTS);
}

static void setup_sum_squares(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    sum_squares_args(lim, g, n, l);
    ac_grid1(l, PARTS, lim->cls == AC_CLASS_CPU ? 4 : 64);
}

static void setup_sum_squares_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    size_t wg = AC_MIN((size_t)256, l->wg);

    while (wg & (wg - 1))
        wg &= wg - 1;
    ac_def(l, "WG=%zu", wg);
    sum_squares_args(lim, g, n, l);
    l->dims = 1;
    l->local[0] = wg;
    l->global[0] = PARTS * wg;
}

static bool accepts_groups(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)g, (void)n;
    return lim->max_wg >= 16 && lim->local_mem >= 1024;
}

static const ac_kern kern_sum_squares[] = {
    {"sum_squares_tile", "optim", AC_CLASS_GPU, accepts_groups, NULL, setup_sum_squares_tile},
    {"sum_squares_any", "optim", AC_CLASS_ANY, NULL, NULL, setup_sum_squares},
    {0}};

#define SQUARES(name, N, before)                                                                                       \
    {                                                                                                                  \
        name, AC_SMALL, {{1, {N}}, {before, {PARTS}}}, {{0}, {0}}, 1e-6                                                \
    }
static const ac_case case_sum_squares[] = {SQUARES("1", 1, 0),
                                           SQUARES("17", 17, 0),
                                           SQUARES("17_before", 17, 1),
                                           SQUARES("1023", 1023, 0),
                                           SQUARES("1024", 1024, 0),
                                           SQUARES("1025", 1025, 1),
                                           SQUARES("4097_before", 4097, 1),
                                           SQUARES("262144", 262144, 0),
                                           SQUARES("262145", 262145, 0),
                                           {"3x5x7x11", AC_SMALL, {{4, {3, 5, 7, 11}}}, {{0}, {0}}, 1e-6},
                                           {0}};
const ac_op ac_op_sum_squares = {.name = "sum_squares",
                                 .n_in = 1,
                                 .n_opt = 1,
                                 .infer = infer_sum_squares,
                                 .ref = ref_sum_squares,
                                 .flop = ac_flop_in,
                                 .kern = kern_sum_squares,
                                 .cases = case_sum_squares};

ac_id ac_sum_squares(ac_graph *g, const ac_id *x, int n)
{
    ac_id sums = AC_NONE;

    for (int i = 0; i < n; i++)
        sums = ac_add_node(g, &ac_op_sum_squares, (ac_id[]){x[i], sums}, 2, NULL);
    return ac_sum(g, sums, 1);
}

/* ------------------------------------------------------------------------------------------ clipping */

/* clip_factor(hyper, total): at.f[0] the largest norm, 0: any. */

static int infer_clip_factor(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    if (ac_count(&n->shape) != AC_HYPERS || ac_count(ac_shape_of(g, n->in[1])) != 1)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "clip_factor: inputs of %lld and %lld elements, expected %d and 1",
                             (long long)ac_count(&n->shape), (long long)ac_count(ac_shape_of(g, n->in[1])), AC_HYPERS);
    return 1;
}

static void ref_clip_factor(const ac_ref *r)
{
    double norm = r->in[0][AC_HYPER_FACTOR] * sqrt(r->in[1][0]), largest = (double)r->n->at.f[0];

    for (int i = 0; i < AC_HYPERS; i++)
        r->out[i] = r->in[0][i];
    if (!isfinite(norm))
        r->out[AC_HYPER_FACTOR] = NAN;
    else if (largest > 0)
        r->out[AC_HYPER_FACTOR] *= fmin(1, largest / (norm + 1e-6));
}

static void setup_clip_factor(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)g;
    ac_def(l, "VW=%d", ac_lanes(lim, 1));
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, AC_HYPERS);
    ac_arg_float(l, (double)n->at.f[0]);
    ac_grid1(l, AC_HYPERS, AC_HYPERS);
}

static const ac_kern kern_clip_factor[] = {{"clip_factor", "optim", AC_CLASS_ANY, NULL, NULL, setup_clip_factor}, {0}};
#define CLIP(name, largest)                                                                                            \
    {                                                                                                                  \
        name, AC_SMALL, {{1, {AC_HYPERS}}, {1, {1}}}, {{0}, {largest}}, 1e-6                                           \
    }
static const ac_case case_clip_factor[] = {
    CLIP("off", 0),
    CLIP("1e-6", 1e-6f),
    CLIP("0.01", 0.01f),
    CLIP("0.1", 0.1f),
    CLIP("0.25", 0.25f),
    CLIP("0.5", 0.5f),
    CLIP("1", 1),
    CLIP("2", 2),
    CLIP("far_away", 1e30f),
    {"total_1x1", AC_SMALL, {{1, {AC_HYPERS}}, {2, {1, 1}}}, {{0}, {0.5f}}, 1e-6},
    {0}};
const ac_op ac_op_clip_factor = {.name = "clip_factor",
                                 .n_in = 2,
                                 .flags = AC_OP_POSITIVE,
                                 .infer = infer_clip_factor,
                                 .ref = ref_clip_factor,
                                 .kern = kern_clip_factor,
                                 .cases = case_clip_factor};

ac_id ac_clip_factor(ac_graph *g, ac_id hyper, ac_id total, double largest)
{
    ac_at at = {.f = {(float)largest}};

    return ac_add_node(g, &ac_op_clip_factor, (ac_id[]){hyper, total}, 2, &at);
}

/* ------------------------------------------------------------------------------------------ accumulate, store */

/* accumulate(y, x): y += at.f[0] x. store(y, x): y = x. Effects on y. */

static int infer_pair(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    return same_shape(g, n, 1) ? 1 : AC_POISON;
}

static void ref_accumulate(const ac_ref *r)
{
    for (int64_t i = 0; i < ac_count(&r->n->shape); i++)
        r->out[i] = r->in[0][i] + (double)r->n->at.f[0] * r->in[1][i];
}

static void ref_store(const ac_ref *r)
{
    for (int64_t i = 0; i < ac_count(&r->n->shape); i++)
        r->out[i] = r->in[1][i];
}

static void setup_store(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)g;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 1);
    element_grid(lim, ac_count(&n->shape), l);
}

static void setup_accumulate(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    setup_store(lim, g, n, l);
    ac_arg_float(l, (double)n->at.f[0]);
}

static const ac_kern kern_accumulate[] = {{"accumulate", "optim", AC_CLASS_ANY, NULL, NULL, setup_accumulate}, {0}};
static const ac_kern kern_store[] = {{"store", "optim", AC_CLASS_ANY, NULL, NULL, setup_store}, {0}};

#define PAIR(name, N, scale)                                                                                           \
    {                                                                                                                  \
        name, AC_SMALL, {{1, {N}}, {1, {N}}}, {{0}, {scale}}, 1e-6                                                     \
    }
static const ac_case case_pair[] = {PAIR("1", 1, 1),
                                    PAIR("17", 17, 0.25f),
                                    PAIR("16", 16, -1),
                                    PAIR("15", 15, 1e-6f),
                                    PAIR("257", 257, 100),
                                    PAIR("4095", 4095, 0),
                                    PAIR("4096", 4096, 1),
                                    PAIR("4097", 4097, 1e-3f),
                                    PAIR("8193", 8193, -0.5f),
                                    {"3x5x7", AC_SMALL, {{3, {3, 5, 7}}, {3, {3, 5, 7}}}, {{0}, {2}}, 1e-6},
                                    {0}};
const ac_op ac_op_accumulate = {.name = "accumulate",
                                .n_in = 2,
                                .flags = AC_OP_EFFECT,
                                .infer = infer_pair,
                                .ref = ref_accumulate,
                                .flop = ac_flop_in,
                                .kern = kern_accumulate,
                                .cases = case_pair};
const ac_op ac_op_store = {.name = "store",
                           .n_in = 2,
                           .flags = AC_OP_EFFECT,
                           .infer = infer_pair,
                           .ref = ref_store,
                           .kern = kern_store,
                           .cases = case_pair};

ac_id ac_accumulate(ac_graph *g, ac_id y, ac_id x, double scale)
{
    ac_at at = {.f = {(float)scale}};

    return ac_add_node(g, &ac_op_accumulate, (ac_id[]){y, x}, 2, &at);
}

ac_id ac_store(ac_graph *g, ac_id y, ac_id x)
{
    return ac_add_node(g, &ac_op_store, (ac_id[]){y, x}, 2, NULL);
}
