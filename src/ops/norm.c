/* norm.c - group and layer normalisation.
 *
 * GroupNorm is three steps, because its groups are short runs of channels over a whole image: moments of every channel over
 * chunks of pixels, their merge to a scale and a shift per channel, and one pass that applies them with the activation. Means
 * and variances are found in two passes over the values, never as a difference of squares. */
#include "ops/ops.h"

#include <math.h>

enum { CHUNK = 256 }; /* pixels a work-item reads twice: 64 channels of them fit the cache of a core */

/* x [B, ..., C] as B images of P pixels. */
typedef struct image_dims {
    int64_t B, P, C;
} image_dims;

static image_dims dims_of(const ac_shape *x)
{
    image_dims d = {x->d[0], 1, x->d[x->n - 1]};

    for (int k = 1; k < x->n - 1; k++)
        d.P *= x->d[k];
    return d;
}

static double flop_in(const ac_graph *g, const ac_node *n)
{
    return (double)ac_count(ac_shape_of(g, n->in[0]));
}

/* Lanes of the kernels here: full vectors on CPUs, float4 on GPUs. */
static int lanes(const ac_limits *lim)
{
    return lim->cls == AC_CLASS_CPU ? lim->vw : 4;
}

/* ------------------------------------------------------------------------------------------ group_norm(x, w, b): at.i[0] groups, at.f[0] eps */

static int infer_group_norm(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    int64_t C = x->d[x->n - 1];

    n->shape = *x;
    if (x->n < 2 || n->at.i[0] < 1 || C % n->at.i[0])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "group_norm: %lld channels do not split into %d groups", (long long)C, n->at.i[0]);
    if (ac_count(ac_shape_of(g, n->in[1])) != C || ac_count(ac_shape_of(g, n->in[2])) != C)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "group_norm: weight and bias must have %lld elements", (long long)C);
    return 1;
}

static double silu(double v)
{
    return v / (1 + exp(-v));
}

static void ref_group_norm(const ac_ref *r)
{
    image_dims d = dims_of(r->shape[0]);
    int64_t per = d.C / r->n->at.i[0];
    const double *x = r->in[0];

    for (int64_t b = 0; b < d.B; b++)
        for (int64_t c0 = 0; c0 < d.C; c0 += per) {
            double mean = 0, var = 0, n = (double)(d.P * per);
            for (int64_t p = 0; p < d.P; p++)
                for (int64_t c = c0; c < c0 + per; c++)
                    mean += x[(b * d.P + p) * d.C + c] / n;
            for (int64_t p = 0; p < d.P; p++)
                for (int64_t c = c0; c < c0 + per; c++)
                    var += pow(x[(b * d.P + p) * d.C + c] - mean, 2) / n;
            for (int64_t p = 0; p < d.P; p++)
                for (int64_t c = c0; c < c0 + per; c++) {
                    int64_t i = (b * d.P + p) * d.C + c;
                    double v = (x[i] - mean) / sqrt(var + (double)r->n->at.f[0]) * r->in[1][c] + r->in[2][c];
                    r->out[i] = r->n->at.i[AC_AT_ACT] == AC_ACT_SILU ? silu(v) : v;
                }
        }
}

static ac_id lower_group_norm(ac_graph *g, const ac_node *n)
{
    ac_id m = ac_add_node(g, &ac_op_moments, n->in, 1, NULL);
    ac_id s = ac_add_node(g, &ac_op_moments_merge, (ac_id[]){m, n->in[1], n->in[2], n->in[0]}, 4, &n->at);
    ac_at at = {.i = {[AC_AT_ACT] = n->at.i[AC_AT_ACT]}};

    return ac_add_node(g, &ac_op_channel_affine, (ac_id[]){n->in[0], s}, 2, &at);
}

#define GN(name, B, H, W, C, G, act, tags)                                                                             \
    {                                                                                                                  \
        name, tags, {{4, {B, H, W, C}}, {1, {C}}, {1, {C}}}, {{[0] = G, [AC_AT_ACT] = act}, {1e-5f}}, 3e-6             \
    }
static const ac_case case_group_norm[] = {GN("b2_5x7x24_g8", 2, 5, 7, 24, 8, AC_ACT_SILU, AC_SMALL),
                                          GN("17x16x40_g4", 1, 17, 16, 40, 4, AC_ACT_NONE, AC_SMALL),
                                          GN("1x1x6_g3", 2, 1, 1, 6, 3, AC_ACT_NONE, AC_SMALL),
                                          GN("20x20x130_g2", 1, 20, 20, 130, 2, AC_ACT_SILU, AC_SMALL),
                                          GN("64x64x320", 1, 64, 64, 320, 32, AC_ACT_SILU, AC_FULL),
                                          GN("512x512x128", 1, 512, 512, 128, 32, AC_ACT_SILU, AC_FULL),
                                          {0}};
const ac_op ac_op_group_norm = {.name = "group_norm",
                                .n_in = 3,
                                .infer = infer_group_norm,
                                .lower = lower_group_norm,
                                .ref = ref_group_norm,
                                .flop = flop_in,
                                .cases = case_group_norm};

ac_id ac_group_norm(ac_graph *g, ac_id x, ac_id w, ac_id b, int groups, double eps, int act)
{
    ac_at at = {.i = {[0] = groups, [AC_AT_ACT] = act}, .f = {(float)eps}};
    return ac_add_node(g, &ac_op_group_norm, (ac_id[]){x, w, b}, 3, &at);
}

/* ------------------------------------------------------------------------------------------ moments(x) -> [B, chunks, 2, C]: mean, sum of squares about it */

static int infer_moments(ac_graph *g, ac_node *n)
{
    image_dims d = dims_of(ac_shape_of(g, n->in[0]));

    n->shape = (ac_shape){4, {d.B, AC_CEIL_DIV(d.P, CHUNK), 2, d.C}};
    return 1;
}

static void ref_moments(const ac_ref *r)
{
    image_dims d = dims_of(r->shape[0]);
    int64_t chunks = r->n->shape.d[1];

    for (int64_t b = 0; b < d.B; b++)
        for (int64_t k = 0; k < chunks; k++)
            for (int64_t c = 0; c < d.C; c++) {
                int64_t p0 = k * CHUNK, p1 = AC_MIN(p0 + CHUNK, d.P);
                double mean = 0, m2 = 0, *y = r->out + (b * chunks + k) * 2 * d.C + c;
                for (int64_t p = p0; p < p1; p++)
                    mean += r->in[0][(b * d.P + p) * d.C + c] / (double)(p1 - p0);
                for (int64_t p = p0; p < p1; p++)
                    m2 += pow(r->in[0][(b * d.P + p) * d.C + c] - mean, 2);
                y[0] = mean;
                y[d.C] = m2;
            }
}

static void setup_moments(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    image_dims d = dims_of(ac_shape_of(g, n->in[0]));
    int vw = lanes(lim), vectors = lim->cls == AC_CLASS_CPU ? 4 : 1;
    size_t items = (size_t)AC_CEIL_DIV(d.C, (int64_t)vw * vectors), local = lim->cls == AC_CLASS_CPU ? 1 : AC_MIN((size_t)32, l->wg);

    ac_def(l, "VW=%d", vw);
    ac_def(l, "VECTORS=%d", vectors);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_arg_int(l, CHUNK);
    ac_arg_int(l, n->shape.d[1]);
    l->dims = 2;
    l->local[0] = local;
    l->local[1] = 1;
    l->global[0] = AC_CEIL_DIV(items, local) * local;
    l->global[1] = (size_t)(d.B * n->shape.d[1]);
}

static const ac_kern kern_moments[] = {{"moments", "norm", AC_CLASS_ANY, NULL, NULL, setup_moments}, {0}};
static const ac_case case_moments[] = {{"b2_300x40", AC_SMALL, {{3, {2, 300, 40}}}, {{0}, {0}}, 2e-6},
                                       {"7x3", AC_SMALL, {{3, {1, 7, 3}}}, {{0}, {0}}, 2e-6},
                                       {0}};
const ac_op ac_op_moments = {.name = "moments",
                             .n_in = 1,
                             .infer = infer_moments,
                             .ref = ref_moments,
                             .flop = flop_in,
                             .kern = kern_moments,
                             .cases = case_moments};

/* ------------------------------------------------------------------------------------------ moments_merge(m, w, b, x) -> [B, 2, C]: scale, shift
 * x gives its shape only. at.i[0] groups, at.f[0] eps. */

static int infer_merge(ac_graph *g, ac_node *n)
{
    const ac_shape *m = ac_shape_of(g, n->in[0]);

    n->shape = (ac_shape){3, {m->d[0], 2, m->d[3]}};
    return 1;
}

static void ref_merge(const ac_ref *r)
{
    image_dims d = dims_of(r->shape[3]);
    int64_t chunks = r->shape[0]->d[1], per = d.C / r->n->at.i[0];

    for (int64_t b = 0; b < d.B; b++)
        for (int64_t c0 = 0; c0 < d.C; c0 += per) {
            const double *m = r->in[0] + b * chunks * 2 * d.C;
            double mean = 0, m2 = 0, n = (double)(d.P * per);
            for (int64_t k = 0; k < chunks; k++)
                for (int64_t c = c0; c < c0 + per; c++)
                    mean += m[k * 2 * d.C + c] * (double)AC_MIN((int64_t)CHUNK, d.P - k * CHUNK) / n;
            for (int64_t k = 0; k < chunks; k++)
                for (int64_t c = c0; c < c0 + per; c++)
                    m2 += m[k * 2 * d.C + d.C + c] +
                          pow(m[k * 2 * d.C + c] - mean, 2) * (double)AC_MIN((int64_t)CHUNK, d.P - k * CHUNK);
            for (int64_t c = c0; c < c0 + per; c++) {
                double scale = r->in[1][c] / sqrt(m2 / n + (double)r->n->at.f[0]);
                r->out[b * 2 * d.C + c] = scale;
                r->out[b * 2 * d.C + d.C + c] = r->in[2][c] - mean * scale;
            }
        }
}

static void setup_merge(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    image_dims d = dims_of(ac_shape_of(g, n->in[3]));

    (void)lim;
    for (int k = -1; k < 3; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, d.B * n->at.i[0]);
    ac_arg_int(l, n->at.i[0]);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_arg_int(l, CHUNK);
    ac_arg_int(l, ac_shape_of(g, n->in[0])->d[1]);
    ac_arg_float(l, (double)n->at.f[0]);
    ac_grid1(l, (size_t)(d.B * n->at.i[0]), lim->cls == AC_CLASS_CPU ? 1 : 32);
}

static const ac_kern kern_merge[] = {{"moments_merge", "norm", AC_CLASS_ANY, NULL, NULL, setup_merge}, {0}};
const ac_op ac_op_moments_merge = {
    .name = "moments_merge", .n_in = 4, .infer = infer_merge, .ref = ref_merge, .kern = kern_merge};

/* ------------------------------------------------------------------------------------------ channel_affine(x, s): act(x s[b,0,c] + s[b,1,c]) */

static int infer_affine(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    return 1;
}

static void ref_affine(const ac_ref *r)
{
    image_dims d = dims_of(r->shape[0]);

    for (int64_t i = 0; i < d.B * d.P * d.C; i++) {
        const double *s = r->in[1] + i / d.C / d.P * 2 * d.C + i % d.C;
        double v = r->in[0][i] * s[0] + s[d.C];
        r->out[i] = r->n->at.i[AC_AT_ACT] == AC_ACT_SILU ? silu(v) : v;
    }
}

static void setup_affine(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    image_dims d = dims_of(&n->shape);
    int vw = lanes(lim);
    int64_t vectors = AC_CEIL_DIV(d.C, (int64_t)vw), rows = d.B * d.P;
    bool cpu = lim->cls == AC_CLASS_CPU;
    int64_t rspan = cpu ? AC_MAX((int64_t)1, 8192 / d.C) : 1, vspan = cpu ? vectors : 1;

    (void)g;
    ac_def(l, "VW=%d", vw);
    ac_def(l, "ACT=%d", n->at.i[AC_AT_ACT]);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    ac_arg_int(l, rows);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_arg_int(l, vspan);
    ac_arg_int(l, rspan);
    l->dims = 2;
    l->local[0] = cpu ? 1 : AC_MIN((size_t)64, l->wg);
    l->local[1] = 1;
    l->global[0] = (size_t)AC_CEIL_DIV(AC_CEIL_DIV(vectors, vspan), (int64_t)l->local[0]) * l->local[0];
    l->global[1] = (size_t)AC_CEIL_DIV(rows, rspan);
}

static const ac_kern kern_affine[] = {{"channel_affine", "norm", AC_CLASS_ANY, NULL, NULL, setup_affine}, {0}};
static const ac_case case_affine[] = {
    {"silu", AC_SMALL, {{4, {2, 5, 3, 22}}, {3, {2, 2, 22}}}, {{[AC_AT_ACT] = AC_ACT_SILU}, {0}}, 2e-6},
    {"plain", AC_SMALL, {{3, {2, 50, 64}}, {3, {2, 2, 64}}}, {{0}, {0}}, 2e-6},
    {0}};
const ac_op ac_op_channel_affine = {.name = "channel_affine",
                                    .n_in = 2,
                                    .flags = AC_OP_INPLACE,
                                    .infer = infer_affine,
                                    .ref = ref_affine,
                                    .flop = flop_in,
                                    .kern = kern_affine,
                                    .cases = case_affine};

/* ------------------------------------------------------------------------------------------ layer_norm(x, w, b): at.f[0] eps */

static int infer_layer_norm(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    int64_t C = x->d[x->n - 1];

    n->shape = *x;
    if (ac_count(ac_shape_of(g, n->in[1])) != C || ac_count(ac_shape_of(g, n->in[2])) != C)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "layer_norm: weight and bias must have %lld elements", (long long)C);
    return 1;
}

static void ref_layer_norm(const ac_ref *r)
{
    int64_t C = r->n->shape.d[r->n->shape.n - 1], rows = ac_count(&r->n->shape) / C;

    for (int64_t m = 0; m < rows; m++) {
        const double *x = r->in[0] + m * C;
        double mean = 0, var = 0;
        for (int64_t c = 0; c < C; c++)
            mean += x[c] / (double)C;
        for (int64_t c = 0; c < C; c++)
            var += pow(x[c] - mean, 2) / (double)C;
        for (int64_t c = 0; c < C; c++)
            r->out[m * C + c] = (x[c] - mean) / sqrt(var + (double)r->n->at.f[0]) * r->in[1][c] + r->in[2][c];
    }
}

static void layer_norm_args(const ac_node *n, ac_launch *l)
{
    int64_t C = n->shape.d[n->shape.n - 1];

    for (int k = -1; k < 3; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, ac_count(&n->shape) / C);
    ac_arg_int(l, C);
    ac_arg_float(l, (double)n->at.f[0]);
}

/* A work-group of WG items per row; WG is a power of two. */
static void setup_layer_norm_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t C = n->shape.d[n->shape.n - 1];
    size_t wg = AC_MIN((size_t)64, l->wg);

    (void)lim, (void)g;
    while (wg & (wg - 1))
        wg &= wg - 1;
    ac_def(l, "WG=%zu", wg);
    layer_norm_args(n, l);
    l->dims = 1;
    l->local[0] = wg;
    l->global[0] = wg * (size_t)(ac_count(&n->shape) / C);
}

static void setup_layer_norm(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)g;
    ac_def(l, "VW=%d", lanes(lim));
    layer_norm_args(n, l);
    ac_grid1(l, (size_t)(ac_count(&n->shape) / n->shape.d[n->shape.n - 1]), lim->cls == AC_CLASS_CPU ? 1 : 64);
}

static bool accepts_wide(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)g, (void)n;
    return lim->max_wg >= 16 && lim->local_mem >= 1024;
}

static const ac_kern kern_layer_norm[] = {{"layer_norm_tile", "norm", AC_CLASS_GPU, accepts_wide, NULL, setup_layer_norm_tile},
                                          {"layer_norm_any", "norm", AC_CLASS_ANY, NULL, NULL, setup_layer_norm},
                                          {0}};
static const ac_case case_layer_norm[] = {
    {"2x7x32", AC_SMALL, {{3, {2, 7, 32}}, {1, {32}}, {1, {32}}}, {{0}, {1e-5f}}, 3e-6},
    {"3x77", AC_SMALL, {{2, {3, 77}}, {1, {77}}, {1, {77}}}, {{0}, {1e-5f}}, 3e-6},
    {"70x5", AC_SMALL, {{2, {70, 5}}, {1, {5}}, {1, {5}}}, {{0}, {1e-5f}}, 3e-6},
    {"4096x320", AC_FULL, {{2, {4096, 320}}, {1, {320}}, {1, {320}}}, {{0}, {1e-5f}}, 3e-6},
    {"1024x640", AC_FULL, {{2, {1024, 640}}, {1, {640}}, {1, {640}}}, {{0}, {1e-5f}}, 3e-6},
    {0}};
const ac_op ac_op_layer_norm = {.name = "layer_norm",
                                .n_in = 3,
                                .infer = infer_layer_norm,
                                .ref = ref_layer_norm,
                                .flop = flop_in,
                                .kern = kern_layer_norm,
                                .cases = case_layer_norm};

ac_id ac_layer_norm(ac_graph *g, ac_id x, ac_id w, ac_id b, double eps)
{
    ac_at at = {.f = {(float)eps}};
    return ac_add_node(g, &ac_op_layer_norm, (ac_id[]){x, w, b}, 3, &at);
}
