/* norm_grad.c - gradients of group and layer normalisation.
 *
 * y = act(x^ w + b), x^ = (x - mean) r. Of what the forward pass made only x is needed: its statistics are the nodes
 * that the forward pass makes too (group_norm) or are cheap (layer_norm), the derivative of the activation is computed
 * again. With g = gy act', one pass over gy and x sums g and g x^ over chunks of pixels, which the gradients of b, w
 * and x share; another makes that of x. */
#include "ops/norm.h"

#include <math.h>

/* ------------------------------------------------------------------------------------------ sums of chunks */

/* group_norm_sums(gy, x, s) and layer_norm_sums(gy, x, s) -> [B, chunks, 2, C]: sum g, sum g x^. s: the statistics of
 * x, of channels by moments_merge or of rows by row_moments. at.i[AC_AT_ACT] the activation that follows a group norm.
 */

/* Rows are one image; more of them make longer chunks, so that merging stays cheap. */
static ac_image pixels_of(const ac_node *n, const ac_shape *x)
{
    ac_image d = ac_image_of(x);

    return n->op == &ac_op_layer_norm_sums ? (ac_image){1, ac_count(x) / d.C, d.C} : d;
}

static int64_t chunk_of(const ac_node *n, ac_image d)
{
    return n->op == &ac_op_layer_norm_sums ? AC_MAX((int64_t)64, AC_CEIL_DIV(d.P, (int64_t)256)) : AC_NORM_CHUNK;
}

static int infer_sums(ac_graph *g, ac_node *n)
{
    ac_image d = pixels_of(n, ac_shape_of(g, n->in[1]));

    n->shape = (ac_shape){4, {d.B, AC_CEIL_DIV(d.P, chunk_of(n, d)), 2, d.C}};
    return 1;
}

/* gy act'(z). */
static double through(double gy, double z, int act)
{
    double s = 1 / (1 + exp(-z));

    return act == AC_ACT_SILU ? gy * s * (1 + z * (1 - s)) : gy;
}

static void ref_sums(const ac_ref *r)
{
    ac_image d = pixels_of(r->n, r->shape[1]);
    int64_t chunk = chunk_of(r->n, d), chunks = r->n->shape.d[1];
    bool layer = r->n->op == &ac_op_layer_norm_sums;

    for (int64_t i = 0; i < ac_count(&r->n->shape); i++)
        r->out[i] = 0;
    for (int64_t i = 0; i < d.B * d.P * d.C; i++) {
        int64_t c = i % d.C, p = i / d.C % d.P, b = i / d.C / d.P;
        const double *s = r->in[2] + (layer ? 2 * p : b * AC_NORM_ROWS * d.C + c);
        double x = r->in[1][i], mean = layer ? s[0] : s[AC_NORM_MEAN * d.C], norm = layer ? s[1] : s[AC_NORM_R * d.C];
        double g =
            layer ? r->in[0][i]
                  : through(r->in[0][i], x * s[AC_NORM_SCALE * d.C] + s[AC_NORM_SHIFT * d.C], r->n->at.i[AC_AT_ACT]);
        double *y = r->out + (b * chunks + p / chunk) * 2 * d.C + c;
        y[0] += g;
        y[d.C] += g * (x - mean) * norm;
    }
}

/* What both kernels of sums take first. */
static void sums_args(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_image d = pixels_of(n, ac_shape_of(g, n->in[1]));

    ac_def(l, "VW=%d", ac_lanes(lim, 1));
    if (n->op == &ac_op_layer_norm_sums)
        ac_def(l, "LAYER");
    else
        ac_def(l, "ACT=%d", n->at.i[AC_AT_ACT]);
    for (int k = -1; k < 3; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_arg_int(l, chunk_of(n, d));
    ac_arg_int(l, n->shape.d[1]);
}

/* Vectors of channels that a work-item sums in registers, two accumulators each: as many as there are registers for,
 * all items alike. */
static int64_t vectors_of(const ac_limits *lim, int64_t C)
{
    int64_t vectors = AC_CEIL_DIV(C, (int64_t)ac_lanes(lim, 1)), most = lim->vw == 16 ? 10 : 5;

    return lim->cls == AC_CLASS_CPU ? AC_CEIL_DIV(vectors, AC_CEIL_DIV(vectors, most)) : 1;
}

static void setup_sums(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t vectors = vectors_of(lim, n->shape.d[3]), items = AC_CEIL_DIV(n->shape.d[3], vectors * ac_lanes(lim, 1));
    size_t local = lim->cls == AC_CLASS_CPU ? 1 : AC_MIN((size_t)32, l->wg);

    ac_def(l, "VECTORS=%d", (int)vectors);
    sums_args(lim, g, n, l);
    l->dims = 2;
    l->local[0] = local;
    l->local[1] = 1;
    l->global[0] = AC_CEIL_DIV((size_t)items, local) * local;
    l->global[1] = (size_t)(n->shape.d[0] * n->shape.d[1]);
}

/* Work-groups of 32 channels by 8 pixels, less where registers or the device allow no more. */
static void setup_sums_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    size_t gx = 32, gy = 8, vectors = (size_t)AC_CEIL_DIV(n->shape.d[3], (int64_t)ac_lanes(lim, 1));

    while (gx * gy > l->wg && gy > 1)
        gy /= 2;
    while (gx * gy > l->wg)
        gx /= 2;
    ac_def(l, "GX=%zu", gx);
    ac_def(l, "GY=%zu", gy);
    sums_args(lim, g, n, l);
    l->dims = 2;
    l->local[0] = gx;
    l->local[1] = gy;
    l->global[0] = AC_CEIL_DIV(vectors, gx) * gx;
    l->global[1] = (size_t)(n->shape.d[0] * n->shape.d[1]) * gy;
}

static const ac_kern kern_sums[] = {
    {"norm_sums_tile", "norm_grad", AC_CLASS_GPU, ac_groups_accept, NULL, setup_sums_tile},
    {"norm_sums_any", "norm_grad", AC_CLASS_ANY, NULL, NULL, setup_sums},
    {0}};

#define GS(name, B, P, C, act)                                                                                         \
    {                                                                                                                  \
        name, AC_SMALL, {{3, {B, P, C}}, {3, {B, P, C}}, {3, {B, AC_NORM_ROWS, C}}}, {{[AC_AT_ACT] = act}, {0}}, 5e-6  \
    }
static const ac_case case_group_norm_sums[] = {GS("b2_35x24", 2, 35, 24, AC_ACT_SILU),
                                               GS("256x40", 1, 256, 40, AC_ACT_NONE),
                                               GS("257x16", 1, 257, 16, AC_ACT_SILU),
                                               GS("b2_255x17", 2, 255, 17, AC_ACT_NONE),
                                               GS("b3_1x1", 3, 1, 1, AC_ACT_SILU),
                                               GS("600x3", 1, 600, 3, AC_ACT_SILU),
                                               GS("9x257", 1, 9, 257, AC_ACT_SILU),
                                               GS("8x300", 1, 8, 300, AC_ACT_NONE),
                                               GS("b2_7x64", 2, 7, 64, AC_ACT_SILU),
                                               GS("b2_513x5", 2, 513, 5, AC_ACT_SILU),
                                               {0}};
const ac_op ac_op_group_norm_sums = {.name = "group_norm_sums",
                                     .n_in = 3,
                                     .infer = infer_sums,
                                     .ref = ref_sums,
                                     .flop = ac_flop_in,
                                     .kern = kern_sums,
                                     .cases = case_group_norm_sums};

#define LS(name, P, C)                                                                                                 \
    {                                                                                                                  \
        name, AC_SMALL, {{2, {P, C}}, {2, {P, C}}, {2, {P, 2}}}, {{0}, {0}}, 5e-6                                      \
    }
static const ac_case case_layer_norm_sums[] = {LS("1x1", 1, 1),
                                               LS("7x16", 7, 16),
                                               LS("64x17", 64, 17),
                                               LS("65x40", 65, 40),
                                               LS("63x4", 63, 4),
                                               LS("300x3", 300, 3),
                                               LS("9x257", 9, 257),
                                               LS("8x300", 8, 300),
                                               LS("200x77", 200, 77),
                                               LS("17000x2", 17000, 2), /* longer chunks */
                                               {0}};
const ac_op ac_op_layer_norm_sums = {.name = "layer_norm_sums",
                                     .n_in = 3,
                                     .infer = infer_sums,
                                     .ref = ref_sums,
                                     .flop = ac_flop_in,
                                     .kern = kern_sums,
                                     .cases = case_layer_norm_sums};

/* ------------------------------------------------------------------------------------------ sums of images */

/* group_norm_merge(m, s, w, x) -> [B, MERGED, C]: sum g, sum g x^, then for group_norm_bx the factor of x - mean and
 * the constant. m: the sums of chunks; x gives its shape only. at.i[0] groups. */

enum { SUM, DOT, FACTOR, CONSTANT, MERGED };

static int infer_merge(ac_graph *g, ac_node *n)
{
    const ac_shape *m = ac_shape_of(g, n->in[0]);

    n->shape = (ac_shape){3, {m->d[0], MERGED, m->d[3]}};
    return 1;
}

static void ref_merge(const ac_ref *r)
{
    ac_image d = ac_image_of(r->shape[3]);
    int64_t chunks = r->shape[0]->d[1], per = d.C / r->n->at.i[0];

    for (int64_t b = 0; b < d.B; b++)
        for (int64_t c0 = 0; c0 < d.C; c0 += per) {
            double norm = r->in[1][(b * AC_NORM_ROWS + AC_NORM_R) * d.C + c0], mean = 0, dot = 0,
                   *t = r->out + b * MERGED * d.C;
            for (int64_t c = c0; c < c0 + per; c++) {
                t[SUM * d.C + c] = t[DOT * d.C + c] = 0;
                for (int64_t k = 0; k < chunks; k++) {
                    t[SUM * d.C + c] += r->in[0][(b * chunks + k) * 2 * d.C + c];
                    t[DOT * d.C + c] += r->in[0][((b * chunks + k) * 2 + 1) * d.C + c];
                }
                mean += r->in[2][c] * t[SUM * d.C + c] / (double)(d.P * per);
                dot += r->in[2][c] * t[DOT * d.C + c] / (double)(d.P * per);
            }
            for (int64_t c = c0; c < c0 + per; c++) {
                t[FACTOR * d.C + c] = -norm * norm * dot;
                t[CONSTANT * d.C + c] = -norm * mean;
            }
        }
}

static void setup_merge(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_image d = ac_image_of(ac_shape_of(g, n->in[3]));

    for (int k = -1; k < 3; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, d.B * n->at.i[0]);
    ac_arg_int(l, n->at.i[0]);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_arg_int(l, ac_shape_of(g, n->in[0])->d[1]);
    ac_grid1(l, (size_t)(d.B * n->at.i[0]), lim->cls == AC_CLASS_CPU ? 1 : 32);
}

static const ac_kern kern_merge[] = {{"group_norm_merge", "norm_grad", AC_CLASS_ANY, NULL, NULL, setup_merge}, {0}};

#define MERGE(name, B, chunks, P, C, G)                                                                                \
    {                                                                                                                  \
        name, AC_SMALL, {{4, {B, chunks, 2, C}}, {3, {B, AC_NORM_ROWS, C}}, {1, {C}}, {3, {B, P, C}}}, {{G}, {0}},     \
            3e-6                                                                                                       \
    }
static const ac_case case_merge[] = {MERGE("b2_35x24_g8", 2, 1, 35, 24, 8),
                                     MERGE("300x6_g1", 1, 2, 300, 6, 1),
                                     MERGE("b3_1x1_g1", 3, 1, 1, 1, 1),
                                     MERGE("700x17_g17", 1, 3, 700, 17, 17),
                                     MERGE("b2_512x33_g3", 2, 2, 512, 33, 3),
                                     MERGE("b2_255x16_g2", 2, 1, 255, 16, 2),
                                     MERGE("256x16_g4", 1, 1, 256, 16, 4),
                                     MERGE("b2_257x16_g16", 2, 2, 257, 16, 16),
                                     MERGE("9x320_g32", 1, 1, 9, 320, 32),
                                     MERGE("2000x2_g1", 1, 8, 2000, 2, 1),
                                     {0}};
const ac_op ac_op_group_norm_merge = {.name = "group_norm_merge",
                                      .n_in = 4,
                                      .infer = infer_merge,
                                      .ref = ref_merge,
                                      .kern = kern_merge,
                                      .cases = case_merge};

/* ------------------------------------------------------------------------------------------ group norm by x */

/* group_norm_bx(gy, x, s, t): the gradient of x; t by group_norm_merge. at.i[AC_AT_ACT] the activation. */

static int infer_same(ac_graph *g, ac_node *n)
{
    n->shape = *ac_shape_of(g, n->in[1]);
    return 1;
}

static void ref_group_norm_bx(const ac_ref *r)
{
    ac_image d = ac_image_of(r->shape[1]);

    for (int64_t i = 0; i < d.B * d.P * d.C; i++) {
        int64_t c = i % d.C, b = i / d.C / d.P;
        const double *s = r->in[2] + b * AC_NORM_ROWS * d.C + c, *t = r->in[3] + b * MERGED * d.C + c;
        double x = r->in[1][i], scale = s[AC_NORM_SCALE * d.C], z = x * scale + s[AC_NORM_SHIFT * d.C];
        r->out[i] = through(r->in[0][i], z, r->n->at.i[AC_AT_ACT]) * scale +
                    (x - s[AC_NORM_MEAN * d.C]) * t[FACTOR * d.C] + t[CONSTANT * d.C];
    }
}

static void setup_group_norm_bx(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_image d = ac_image_of(&n->shape);

    (void)g;
    ac_def(l, "VW=%d", ac_lanes(lim, 1));
    ac_def(l, "ACT=%d", n->at.i[AC_AT_ACT]);
    for (int k = -1; k < 4; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, d.B * d.P);
    ac_arg_int(l, d.P);
    ac_arg_int(l, d.C);
    ac_pixel_grid(lim, ac_lanes(lim, 1), d.B * d.P, d.C, l);
}

static const ac_kern kern_group_norm_bx[] = {
    {"group_norm_bx", "norm_grad", AC_CLASS_ANY, NULL, NULL, setup_group_norm_bx}, {0}};

#define GB(name, B, P, C, act)                                                                                         \
    {                                                                                                                  \
        name, AC_SMALL, {{3, {B, P, C}}, {3, {B, P, C}}, {3, {B, AC_NORM_ROWS, C}}, {3, {B, MERGED, C}}},              \
            {{[AC_AT_ACT] = act}, {0}}, 3e-6                                                                           \
    }
static const ac_case case_group_norm_bx[] = {GB("b2_35x24", 2, 35, 24, AC_ACT_SILU),
                                             GB("50x64", 1, 50, 64, AC_ACT_NONE),
                                             GB("b3_7x17", 3, 7, 17, AC_ACT_SILU),
                                             GB("b2_1x1", 2, 1, 1, AC_ACT_SILU),
                                             GB("9x257", 1, 9, 257, AC_ACT_NONE),
                                             GB("b2_8x16", 2, 8, 16, AC_ACT_SILU),
                                             GB("9x15", 1, 9, 15, AC_ACT_SILU),
                                             GB("513x16", 1, 513, 16, AC_ACT_NONE),
                                             GB("3x2560", 1, 3, 2560, AC_ACT_SILU),
                                             GB("b2_3000x3", 2, 3000, 3, AC_ACT_SILU),
                                             {0}};
const ac_op ac_op_group_norm_bx = {.name = "group_norm_bx",
                                   .n_in = 4,
                                   .flags = AC_OP_INPLACE,
                                   .infer = infer_same,
                                   .ref = ref_group_norm_bx,
                                   .flop = ac_flop_in,
                                   .kern = kern_group_norm_bx,
                                   .cases = case_group_norm_bx};

/* ------------------------------------------------------------------------------------------ layer norm by x */

/* layer_norm_bx(gy, x, w, s): the gradient of x; s by row_moments. */

static void ref_layer_norm_bx(const ac_ref *r)
{
    int64_t C = r->n->shape.d[r->n->shape.n - 1], rows = ac_count(&r->n->shape) / C;

    for (int64_t m = 0; m < rows; m++) {
        const double *gy = r->in[0] + m * C, *x = r->in[1] + m * C, *w = r->in[2], *s = r->in[3] + 2 * m;
        double mean = 0, dot = 0;
        for (int64_t c = 0; c < C; c++) {
            mean += gy[c] * w[c] / (double)C;
            dot += gy[c] * w[c] * (x[c] - s[0]) * s[1] / (double)C;
        }
        for (int64_t c = 0; c < C; c++)
            r->out[m * C + c] = s[1] * (gy[c] * w[c] - mean - (x[c] - s[0]) * s[1] * dot);
    }
}

static void layer_norm_bx_args(const ac_node *n, ac_launch *l)
{
    int64_t C = n->shape.d[n->shape.n - 1];

    for (int k = -1; k < 4; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, ac_count(&n->shape) / C);
    ac_arg_int(l, C);
}

static void setup_layer_norm_bx_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)lim, (void)g;
    layer_norm_bx_args(n, l);
    ac_row_groups(ac_count(&n->shape) / n->shape.d[n->shape.n - 1], l);
}

static void setup_layer_norm_bx(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)g;
    ac_def(l, "VW=%d", ac_lanes(lim, 1));
    layer_norm_bx_args(n, l);
    ac_grid1(l, (size_t)(ac_count(&n->shape) / n->shape.d[n->shape.n - 1]), lim->cls == AC_CLASS_CPU ? 1 : 64);
}

static const ac_kern kern_layer_norm_bx[] = {
    {"layer_norm_bx_tile", "norm_grad", AC_CLASS_GPU, ac_groups_accept, NULL, setup_layer_norm_bx_tile},
    {"layer_norm_bx_any", "norm_grad", AC_CLASS_ANY, NULL, NULL, setup_layer_norm_bx},
    {0}};

#define LB(name, M, C)                                                                                                 \
    {                                                                                                                  \
        name, AC_SMALL, {{2, {M, C}}, {2, {M, C}}, {1, {C}}, {2, {M, 2}}}, {{0}, {0}}, 5e-6                            \
    }
static const ac_case case_layer_norm_bx[] = {LB("7x32", 7, 32),
                                             LB("3x77", 3, 77),
                                             LB("70x5", 70, 5),
                                             LB("1x1", 1, 1),
                                             LB("65x16", 65, 16),
                                             LB("2x257", 2, 257),
                                             LB("9x64", 9, 64),
                                             LB("1x63", 1, 63),
                                             LB("64x15", 64, 15),
                                             LB("2x1280", 2, 1280),
                                             {0}};
const ac_op ac_op_layer_norm_bx = {.name = "layer_norm_bx",
                                   .n_in = 4,
                                   .flags = AC_OP_INPLACE,
                                   .infer = infer_same,
                                   .ref = ref_layer_norm_bx,
                                   .flop = ac_flop_in,
                                   .kern = kern_layer_norm_bx,
                                   .cases = case_layer_norm_bx};

/* ------------------------------------------------------------------------------------------ gradients */

/* The gradients of b and w, rows 0 and 1 of t [N, rows, C], summed over N: node n's inputs 1 and 2. */
static void gradients_of_affine(ac_graph *g, const ac_node *n, ac_id t, ac_id gx[AC_MAX_IN])
{
    const ac_shape w = *ac_shape_of(g, n->in[1]), b = *ac_shape_of(g, n->in[2]);
    ac_id sum = ac_sum(g, t, 1);

    gx[2] = ac_reshape(g, ac_slice(g, sum, 1, 0, 1), b);
    gx[1] = ac_reshape(g, ac_slice(g, sum, 1, 1, 1), w);
}

void ac_group_norm_vjp(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);
    ac_at act = {.i = {[AC_AT_ACT] = n.at.i[AC_AT_ACT]}}, groups = {.i = {n.at.i[0]}};
    ac_id x = n.in[0], s = ac_group_statistics(g, n.in, &n.at);
    ac_id sums = ac_add_node(g, &ac_op_group_norm_sums, (ac_id[]){gy, x, s}, 3, &act);
    ac_id t = ac_add_node(g, &ac_op_group_norm_merge, (ac_id[]){sums, s, n.in[1], x}, 4, &groups);

    gx[0] = ac_add_node(g, &ac_op_group_norm_bx, (ac_id[]){gy, x, s, t}, 4, &act);
    gradients_of_affine(g, &n, t, gx);
}

void ac_layer_norm_vjp(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);
    ac_at eps = {.f = {n.at.f[0]}};
    ac_id x = n.in[0], s = ac_add_node(g, &ac_op_row_moments, &x, 1, &eps);
    ac_id sums = ac_add_node(g, &ac_op_layer_norm_sums, (ac_id[]){gy, x, s}, 3, NULL);
    const ac_shape *m;

    gx[0] = ac_add_node(g, &ac_op_layer_norm_bx, (ac_id[]){gy, x, n.in[1], s}, 4, NULL);
    m = ac_shape_of(g, sums);
    gradients_of_affine(g, &n, ac_reshape(g, sums, (ac_shape){3, {m->d[1], 2, m->d[3]}}), gx);
}
