/* norm.c - group and layer normalisation.
 *
 * GroupNorm is three steps, because its groups are short runs of channels over a whole image: moments of every channel
 * over chunks of pixels, their merge to a scale and a shift per channel, and one pass that applies them with the
 * activation. Means and variances are found in two passes over the values, never as a difference of squares. */
#include "ops/norm.h"

#include <math.h>

ac_image ac_image_of(const ac_shape *x)
{
    ac_image d = {x->d[0], 1, x->d[x->n - 1]};

    for (int k = 1; k < x->n - 1; k++)
        d.P *= x->d[k];
    return d;
}

void ac_pixel_grid(const ac_limits *lim, int vw, int64_t rows, int64_t C, ac_launch *l)
{
    bool cpu = lim->cls == AC_CLASS_CPU;
    int64_t vectors = AC_CEIL_DIV(C, (int64_t)vw), rspan = cpu ? AC_MAX((int64_t)1, 8192 / C) : 1;

    ac_arg_int(l, cpu ? vectors : 1);
    ac_arg_int(l, rspan);
    l->dims = 2;
    l->local[0] = cpu ? 1 : AC_MIN((size_t)64, l->wg);
    l->local[1] = 1;
    l->global[0] = cpu ? 1 : AC_CEIL_DIV((size_t)vectors, l->local[0]) * l->local[0];
    l->global[1] = (size_t)AC_CEIL_DIV(rows, rspan);
}

void ac_row_groups(int64_t rows, ac_launch *l)
{
    size_t wg = AC_MIN((size_t)64, l->wg);

    while (wg & (wg - 1))
        wg &= wg - 1;
    ac_def(l, "WG=%zu", wg);
    l->dims = 1;
    l->local[0] = wg;
    l->global[0] = wg * (size_t)rows;
}

bool ac_groups_accept(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)g, (void)n;
    return lim->max_wg >= 16 && lim->local_mem >= 16 << 10;
}

/* ------------------------------------------------------------------------------------------ group norm */

/* group_norm(x, w, b): act((x - mean) / sqrt(var + eps) w + b), the statistics of groups of channels of an image.
 * at.i[0] groups, at.i[AC_AT_ACT] none or silu, at.f[0] eps. */

static int infer_group_norm(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    int64_t C = x->d[x->n - 1];

    n->shape = *x;
    if (x->n < 2 || n->at.i[0] < 1 || C % n->at.i[0])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "group_norm: %lld channels do not split into %d groups", (long long)C,
                             n->at.i[0]);
    if (ac_count(ac_shape_of(g, n->in[1])) != C || ac_count(ac_shape_of(g, n->in[2])) != C)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "group_norm: weight and bias must have %lld elements", (long long)C);
    if (n->at.i[AC_AT_ACT] != AC_ACT_NONE && n->at.i[AC_AT_ACT] != AC_ACT_SILU)
        return ac_graph_fail(g, ADDCL_E_INTERNAL, "group_norm: activation %d is neither none nor silu",
                             n->at.i[AC_AT_ACT]);
    return 1;
}

static double silu(double v)
{
    return v / (1 + exp(-v));
}

static void ref_group_norm(const ac_ref *r)
{
    ac_image d = ac_image_of(r->shape[0]);
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

ac_id ac_group_statistics(ac_graph *g, const ac_id *in, const ac_at *at)
{
    ac_at groups = {.i = {at->i[0]}, .f = {at->f[0]}};
    ac_id m = ac_add_node(g, &ac_op_moments, in, 1, NULL);

    return ac_add_node(g, &ac_op_moments_merge, (ac_id[]){m, in[1], in[2], in[0]}, 4, &groups);
}

static ac_id lower_group_norm(ac_graph *g, const ac_node *n)
{
    ac_at at = {.i = {[AC_AT_ACT] = n->at.i[AC_AT_ACT]}};
    ac_id x = n->in[0];

    return ac_add_node(g, &ac_op_channel_affine, (ac_id[]){x, ac_group_statistics(g, n->in, &n->at)}, 2, &at);
}

#define GN(name, B, H, W, C, G, act, eps, tags)                                                                        \
    {                                                                                                                  \
        name, tags, {{4, {B, H, W, C}}, {1, {C}}, {1, {C}}}, {{[0] = G, [AC_AT_ACT] = act}, {eps}}, 3e-6               \
    }
static const ac_case case_group_norm[] = {
    GN("b2_5x7x24_g8", 2, 5, 7, 24, 8, AC_ACT_SILU, 1e-5f, AC_SMALL),
    GN("17x16x40_g4", 1, 17, 16, 40, 4, AC_ACT_NONE, 1e-5f, AC_SMALL), /* a chunk and a bit */
    GN("b2_1x1x12_g2", 2, 1, 1, 12, 2, AC_ACT_NONE, 1e-5f, AC_SMALL),
    GN("20x20x130_g2", 1, 20, 20, 130, 2, AC_ACT_SILU, 1e-5f, AC_SMALL),
    GN("b3_16x16x4_g1", 3, 16, 16, 4, 1, AC_ACT_SILU, 1e-5f, AC_SMALL), /* exactly a chunk; layer norm of an image */
    GN("3x5x17_g17", 1, 3, 5, 17, 17, AC_ACT_SILU, 1e-6f, AC_SMALL),    /* instance norm */
    GN("b2_4x4x33_g3", 2, 4, 4, 33, 3, AC_ACT_NONE, 0.5f, AC_SMALL),
    GN("b2_1x9x2_g1", 2, 1, 9, 2, 1, AC_ACT_SILU, 1e-2f, AC_SMALL),
    GN("3x3x300_g30", 1, 3, 3, 300, 30, AC_ACT_SILU, 1e-5f, AC_SMALL),
    {"b2_33x20_g5",
     AC_SMALL,
     {{3, {2, 33, 20}}, {1, {20}}, {1, {20}}},
     {{5, [AC_AT_ACT] = AC_ACT_SILU}, {1e-5f}},
     3e-6},
    {"b3_24_g2", AC_SMALL, {{2, {3, 24}}, {1, {24}}, {1, {24}}}, {{2}, {1e-5f}}, 3e-6},
    {"w_1x16",
     AC_SMALL,
     {{3, {1, 7, 16}}, {2, {1, 16}}, {3, {1, 1, 16}}},
     {{4, [AC_AT_ACT] = AC_ACT_SILU}, {1e-5f}},
     3e-6},
    GN("64x64x320", 1, 64, 64, 320, 32, AC_ACT_SILU, 1e-5f, AC_FULL),
    GN("512x512x128", 1, 512, 512, 128, 32, AC_ACT_SILU, 1e-5f, AC_FULL),
    {0}};
const ac_op ac_op_group_norm = {.name = "group_norm",
                                .n_in = 3,
                                .infer = infer_group_norm,
                                .vjp = ac_group_norm_vjp,
                                .lower = lower_group_norm,
                                .ref = ref_group_norm,
                                .flop = ac_flop_in,
                                .cases = case_group_norm};

ac_id ac_group_norm(ac_graph *g, ac_id x, ac_id w, ac_id b, int groups, double eps, int act)
{
    ac_at at = {.i = {[0] = groups, [AC_AT_ACT] = act}, .f = {(float)eps}};
    return ac_add_node(g, &ac_op_group_norm, (ac_id[]){x, w, b}, 3, &at);
}

/* ------------------------------------------------------------------------------------------ moments */

/* moments(x) -> [B, chunks, 2, C]: the mean of each channel in a chunk of pixels, the sum of squares about it. */

static int infer_moments(ac_graph *g, ac_node *n)
{
    ac_image d = ac_image_of(ac_shape_of(g, n->in[0]));

    n->shape = (ac_shape){4, {d.B, AC_CEIL_DIV(d.P, AC_NORM_CHUNK), 2, d.C}};
    return 1;
}

static void ref_moments(const ac_ref *r)
{
    ac_image d = ac_image_of(r->shape[0]);
    int64_t chunks = r->n->shape.d[1];

    for (int64_t b = 0; b < d.B; b++)
        for (int64_t k = 0; k < chunks; k++)
            for (int64_t c = 0; c < d.C; c++) {
                int64_t p0 = k * AC_NORM_CHUNK, p1 = AC_MIN(p0 + AC_NORM_CHUNK, d.P);
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
    ac_image d = ac_image_of(ac_shape_of(g, n->in[0]));
    int vw = ac_lanes(lim, 4), vectors = lim->cls == AC_CLASS_CPU ? 4 : 1;
    size_t items = (size_t)AC_CEIL_DIV(d.C, (int64_t)vw * vectors),
           local = lim->cls == AC_CLASS_CPU ? 1 : AC_MIN((size_t)32, l->wg);

    ac_def(l, "VW=%d", vw);
    ac_def(l, "VECTORS=%d", vectors);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_arg_int(l, AC_NORM_CHUNK);
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
                             .flop = ac_flop_in,
                             .kern = kern_moments,
                             .cases = case_moments};

/* ------------------------------------------------------------------------------------------ moments of groups */

/* moments_merge(m, w, b, x) -> [B, AC_NORM_ROWS, C]. x gives its shape only. at.i[0] groups, at.f[0] eps. */

static int infer_merge(ac_graph *g, ac_node *n)
{
    const ac_shape *m = ac_shape_of(g, n->in[0]);

    n->shape = (ac_shape){3, {m->d[0], AC_NORM_ROWS, m->d[3]}};
    return 1;
}

static void ref_merge(const ac_ref *r)
{
    ac_image d = ac_image_of(r->shape[3]);
    int64_t chunks = r->shape[0]->d[1], per = d.C / r->n->at.i[0];

    for (int64_t b = 0; b < d.B; b++)
        for (int64_t c0 = 0; c0 < d.C; c0 += per) {
            const double *m = r->in[0] + b * chunks * 2 * d.C;
            double mean = 0, m2 = 0, n = (double)(d.P * per);
            for (int64_t k = 0; k < chunks; k++)
                for (int64_t c = c0; c < c0 + per; c++)
                    mean += m[k * 2 * d.C + c] * (double)AC_MIN((int64_t)AC_NORM_CHUNK, d.P - k * AC_NORM_CHUNK) / n;
            for (int64_t k = 0; k < chunks; k++)
                for (int64_t c = c0; c < c0 + per; c++)
                    m2 +=
                        m[k * 2 * d.C + d.C + c] + pow(m[k * 2 * d.C + c] - mean, 2) *
                                                       (double)AC_MIN((int64_t)AC_NORM_CHUNK, d.P - k * AC_NORM_CHUNK);
            for (int64_t c = c0; c < c0 + per; c++) {
                double norm = 1 / sqrt(m2 / n + (double)r->n->at.f[0]), *s = r->out + b * AC_NORM_ROWS * d.C + c;
                s[AC_NORM_SCALE * d.C] = r->in[1][c] * norm;
                s[AC_NORM_SHIFT * d.C] = r->in[2][c] - mean * r->in[1][c] * norm;
                s[AC_NORM_MEAN * d.C] = mean;
                s[AC_NORM_R * d.C] = norm;
            }
        }
}

static void setup_merge(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_image d = ac_image_of(ac_shape_of(g, n->in[3]));

    (void)lim;
    for (int k = -1; k < 3; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, d.B * n->at.i[0]);
    ac_arg_int(l, n->at.i[0]);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_arg_int(l, AC_NORM_CHUNK);
    ac_arg_int(l, ac_shape_of(g, n->in[0])->d[1]);
    ac_arg_float(l, (double)n->at.f[0]);
    ac_grid1(l, (size_t)(d.B * n->at.i[0]), lim->cls == AC_CLASS_CPU ? 1 : 32);
}

static const ac_kern kern_merge[] = {{"moments_merge", "norm", AC_CLASS_ANY, NULL, NULL, setup_merge}, {0}};
const ac_op ac_op_moments_merge = {
    .name = "moments_merge", .n_in = 4, .infer = infer_merge, .ref = ref_merge, .kern = kern_merge};

/* ------------------------------------------------------------------------------------------ channel affine */

/* channel_affine(x, s): act(x s[b,0,c] + s[b,1,c]), s by moments_merge. at.i[AC_AT_ACT] the activation. */

static int infer_affine(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[0]);
    return 1;
}

static void ref_affine(const ac_ref *r)
{
    ac_image d = ac_image_of(r->shape[0]);

    for (int64_t i = 0; i < d.B * d.P * d.C; i++) {
        const double *s = r->in[1] + i / d.C / d.P * AC_NORM_ROWS * d.C + i % d.C;
        double v = r->in[0][i] * s[AC_NORM_SCALE * d.C] + s[AC_NORM_SHIFT * d.C];
        r->out[i] = r->n->at.i[AC_AT_ACT] == AC_ACT_SILU ? silu(v) : v;
    }
}

static void setup_affine(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_image d = ac_image_of(&n->shape);

    (void)g;
    ac_def(l, "VW=%d", ac_lanes(lim, 4));
    ac_def(l, "ACT=%d", n->at.i[AC_AT_ACT]);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    ac_arg_int(l, d.B * d.P);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_pixel_grid(lim, ac_lanes(lim, 4), d.B * d.P, d.C, l);
}

static const ac_kern kern_affine[] = {{"channel_affine", "norm", AC_CLASS_ANY, NULL, NULL, setup_affine}, {0}};
static const ac_case case_affine[] = {
    {"silu", AC_SMALL, {{4, {2, 5, 3, 22}}, {3, {2, 4, 22}}}, {{[AC_AT_ACT] = AC_ACT_SILU}, {0}}, 2e-6},
    {"plain", AC_SMALL, {{3, {2, 50, 64}}, {3, {2, 4, 64}}}, {{0}, {0}}, 2e-6},
    {0}};
const ac_op ac_op_channel_affine = {.name = "channel_affine",
                                    .n_in = 2,
                                    .flags = AC_OP_INPLACE,
                                    .infer = infer_affine,
                                    .ref = ref_affine,
                                    .flop = ac_flop_in,
                                    .kern = kern_affine,
                                    .cases = case_affine};

/* ------------------------------------------------------------------------------------------ layer norm */

/* layer_norm(x, w, b): rows over the last dimension. at.f[0] eps. */

static int infer_layer_norm(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    int64_t C = x->d[x->n - 1];

    n->shape = *x;
    if (ac_count(ac_shape_of(g, n->in[1])) != C || ac_count(ac_shape_of(g, n->in[2])) != C)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "layer_norm: weight and bias must have %lld elements", (long long)C);
    return 1;
}

/* s[0]: the mean of C values, s[1]: 1 / sqrt(their variance + eps). */
static void row_statistics(const double *x, int64_t C, double eps, double s[2])
{
    double mean = 0, var = 0;

    for (int64_t c = 0; c < C; c++)
        mean += x[c] / (double)C;
    for (int64_t c = 0; c < C; c++)
        var += pow(x[c] - mean, 2) / (double)C;
    s[0] = mean;
    s[1] = 1 / sqrt(var + eps);
}

static void ref_layer_norm(const ac_ref *r)
{
    int64_t C = r->n->shape.d[r->n->shape.n - 1], rows = ac_count(&r->n->shape) / C;

    for (int64_t m = 0; m < rows; m++) {
        const double *x = r->in[0] + m * C;
        double s[2];
        row_statistics(x, C, (double)r->n->at.f[0], s);
        for (int64_t c = 0; c < C; c++)
            r->out[m * C + c] = (x[c] - s[0]) * s[1] * r->in[1][c] + r->in[2][c];
    }
}

/* Output, inputs, then the rows and the width of x. */
static void row_args(const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    int64_t C = x->d[x->n - 1];

    for (int k = -1; k < n->n_in; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, ac_count(x) / C);
    ac_arg_int(l, C);
    ac_arg_float(l, (double)n->at.f[0]);
}

static int64_t rows_of(const ac_graph *g, const ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);

    return ac_count(x) / x->d[x->n - 1];
}

static void setup_rows_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)lim;
    ac_row_groups(rows_of(g, n), l);
    row_args(g, n, l);
}

static void setup_rows(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_def(l, "VW=%d", ac_lanes(lim, 4));
    row_args(g, n, l);
    ac_grid1(l, (size_t)rows_of(g, n), lim->cls == AC_CLASS_CPU ? 1 : 64);
}

static const ac_kern kern_layer_norm[] = {
    {"layer_norm_tile", "norm", AC_CLASS_GPU, ac_groups_accept, NULL, setup_rows_tile},
    {"layer_norm_any", "norm", AC_CLASS_ANY, NULL, NULL, setup_rows},
    {0}};
#define LN(name, M, C, eps, tags)                                                                                      \
    {                                                                                                                  \
        name, tags, {{2, {M, C}}, {1, {C}}, {1, {C}}}, {{0}, {eps}}, 3e-6                                              \
    }
static const ac_case case_layer_norm[] = {
    {"2x7x32", AC_SMALL, {{3, {2, 7, 32}}, {1, {32}}, {1, {32}}}, {{0}, {1e-5f}}, 3e-6},
    {"2x3x5x12", AC_SMALL, {{4, {2, 3, 5, 12}}, {1, {12}}, {1, {12}}}, {{0}, {1e-6f}}, 3e-6},
    {"w_1x20", AC_SMALL, {{2, {6, 20}}, {2, {1, 20}}, {3, {1, 1, 20}}}, {{0}, {1e-5f}}, 3e-6},
    {"one", AC_SMALL, {{1, {50}}, {1, {50}}, {1, {50}}}, {{0}, {1e-5f}}, 3e-6},
    LN("3x77", 3, 77, 1e-5f, AC_SMALL),
    LN("70x5", 70, 5, 1e-5f, AC_SMALL),
    LN("1x16", 1, 16, 1e-5f, AC_SMALL),
    LN("64x17", 64, 17, 1e-5f, AC_SMALL),
    LN("65x33", 65, 33, 1e-2f, AC_SMALL),
    LN("130x2", 130, 2, 0.5f, AC_SMALL),
    LN("9x257", 9, 257, 1e-6f, AC_SMALL),
    LN("4096x320", 4096, 320, 1e-5f, AC_FULL),
    LN("1024x640", 1024, 640, 1e-5f, AC_FULL),
    {0}};
const ac_op ac_op_layer_norm = {.name = "layer_norm",
                                .n_in = 3,
                                .infer = infer_layer_norm,
                                .vjp = ac_layer_norm_vjp,
                                .ref = ref_layer_norm,
                                .flop = ac_flop_in,
                                .kern = kern_layer_norm,
                                .cases = case_layer_norm};

ac_id ac_layer_norm(ac_graph *g, ac_id x, ac_id w, ac_id b, double eps)
{
    ac_at at = {.f = {(float)eps}};
    return ac_add_node(g, &ac_op_layer_norm, (ac_id[]){x, w, b}, 3, &at);
}

/* ------------------------------------------------------------------------------------------ moments of rows */

/* row_moments(x) -> [rows, 2]: mean, 1 / sqrt(var + eps); what the gradient of layer_norm needs. at.f[0] eps. */

static int infer_row_moments(ac_graph *g, ac_node *n)
{
    n->shape = (ac_shape){2, {rows_of(g, n), 2}};
    return 1;
}

static void ref_row_moments(const ac_ref *r)
{
    int64_t rows = r->n->shape.d[0], C = ac_count(r->shape[0]) / rows;

    for (int64_t m = 0; m < rows; m++)
        row_statistics(r->in[0] + m * C, C, (double)r->n->at.f[0], r->out + 2 * m);
}

static const ac_kern kern_row_moments[] = {
    {"row_moments_tile", "norm", AC_CLASS_GPU, ac_groups_accept, NULL, setup_rows_tile},
    {"row_moments_any", "norm", AC_CLASS_ANY, NULL, NULL, setup_rows},
    {0}};
static const ac_case case_row_moments[] = {{"2x7x32", AC_SMALL, {{3, {2, 7, 32}}}, {{0}, {1e-5f}}, 3e-6},
                                           {"70x5", AC_SMALL, {{2, {70, 5}}}, {{0}, {1e-5f}}, 3e-6},
                                           {"3x77", AC_SMALL, {{2, {3, 77}}}, {{0}, {1e-2f}}, 3e-6},
                                           {"1", AC_SMALL, {{1, {1}}}, {{0}, {0.25f}}, 3e-6},
                                           {"9x16", AC_SMALL, {{2, {9, 16}}}, {{0}, {1e-5f}}, 3e-6},
                                           {"9x15", AC_SMALL, {{2, {9, 15}}}, {{0}, {1e-5f}}, 3e-6},
                                           {"2x3x5x17", AC_SMALL, {{4, {2, 3, 5, 17}}}, {{0}, {1e-5f}}, 3e-6},
                                           {"65x64", AC_SMALL, {{2, {65, 64}}}, {{0}, {1e-6f}}, 3e-6},
                                           {"2x1280", AC_SMALL, {{2, {2, 1280}}}, {{0}, {1e-5f}}, 3e-6},
                                           {"257x2", AC_SMALL, {{2, {257, 2}}}, {{0}, {0.5f}}, 3e-6},
                                           {0}};
const ac_op ac_op_row_moments = {.name = "row_moments",
                                 .n_in = 1,
                                 .infer = infer_row_moments,
                                 .ref = ref_row_moments,
                                 .flop = ac_flop_in,
                                 .kern = kern_row_moments,
                                 .cases = case_row_moments};
