/* conv_grad.c - gradients of a convolution: of its input (conv_bx) and of its filters (conv_bw).
 *
 * All three are linear in both inputs, and <gy, conv(x, w)> = <conv_bx(gy, w), x> = <conv_bw(x, gy), w>: the gradients
 * of each of them are the two others. */
#include "ops/mm.h"
#include "ops/ops.h"
#include "ops/tile.h"
#include "ops/vec.h"

/* Output rows (or columns) of filters of `size` rows over n rows; 0: they do not fit. */
static int64_t filtered(int64_t n, int before, int after, int64_t size, int stride)
{
    int64_t room = n + before + after - size;

    return room < 0 ? 0 : room / stride + 1;
}

/* Can gy be what filters of R x S make of images of H x W? */
static bool fits(const ac_node *n, const ac_shape *gy, int64_t H, int64_t W, int64_t R, int64_t S)
{
    const int32_t *at = n->at.i;

    return gy->n == 4 && at[AC_CV_STRIDE] >= 1 && H > 0 && W > 0 && R > 0 && S > 0 &&
           gy->d[1] == filtered(H, at[AC_CV_TOP], at[AC_CV_BOTTOM], R, at[AC_CV_STRIDE]) &&
           gy->d[2] == filtered(W, at[AC_CV_LEFT], at[AC_CV_RIGHT], S, at[AC_CV_STRIDE]);
}

static ac_at attributes(ac_conv_at c)
{
    return (ac_at){.i = {[AC_CV_STRIDE] = c.stride ? c.stride : 1,
                         [AC_CV_TOP] = c.top,
                         [AC_CV_LEFT] = c.left,
                         [AC_CV_BOTTOM] = c.bottom,
                         [AC_CV_RIGHT] = c.right}};
}

ac_conv_at ac_conv_geometry(const ac_node *n)
{
    const int32_t *at = n->at.i;

    return (ac_conv_at){at[AC_CV_STRIDE], at[AC_CV_TOP], at[AC_CV_LEFT], at[AC_CV_BOTTOM], at[AC_CV_RIGHT], 0, 0};
}

/* Of output row (or column) o: the input row that tap t reads, -1 outside. */
static int row_of(const ac_cv *d, int o, int t, int before, int rows)
{
    int i = o * d->stride - before + t;

    return i < rows ? i : -1;
}

/* Of input row i: the output row that reads it by tap t, -1: none. */
static int reader_of(const ac_cv *d, int i, int t, int before, int rows)
{
    int o = i + before - t;

    return o >= 0 && o % d->stride == 0 && o / d->stride < rows ? o / d->stride : -1;
}

/* ------------------------------------------------------------------------------------------ conv_bx
 * gy [B,OH,OW,K], w [K,C,R,S] -> [B,H,W,C]. Attributes of conv, with the input's size in place of the resampled one. */

void ac_conv_bx_dims(const ac_graph *g, const ac_node *n, ac_cv *d)
{
    const ac_shape *gy = ac_shape_of(g, n->in[0]), *x = &n->shape;
    const int32_t *at = n->at.i;

    *d = (ac_cv){.B = (int)x->d[0],
                 .H = (int)x->d[1],
                 .W = (int)x->d[2],
                 .C = (int)x->d[3],
                 .K = (int)gy->d[3],
                 .R = at[AC_CV_R],
                 .S = at[AC_CV_S],
                 .OH = (int)gy->d[1],
                 .OW = (int)gy->d[2],
                 .stride = at[AC_CV_STRIDE],
                 .top = at[AC_CV_TOP],
                 .left = at[AC_CV_LEFT]};
}

int ac_conv_bx_as_conv(const ac_graph *g, const ac_node *n, ac_cv *d)
{
    ac_cv f;

    ac_conv_bx_dims(g, n, &f);
    *d = (ac_cv){.B = f.B,
                 .H = f.OH,
                 .W = f.OW,
                 .C = f.K,
                 .K = f.C,
                 .R = f.R,
                 .S = f.S,
                 .OH = f.H,
                 .OW = f.W,
                 .stride = 1,
                 .top = f.top,
                 .left = f.left};
    if (f.stride > 1)
        return f.stride;
    d->top = f.R - 1 - f.top;
    d->left = f.S - 1 - f.left;
    return 0;
}

int64_t ac_conv_bx_tap(int64_t place, int R, int S, const int32_t phase[3])
{
    int stride = phase[0];

    for (int p = 0;; p++) {
        int64_t i = (p / stride + phase[1]) % stride, j = (p % stride + phase[2]) % stride; /* first tap of phase p */
        int64_t rows = (R - i + stride - 1) / stride, columns = (S - j + stride - 1) / stride;
        if (place < rows * columns)
            return (i + stride * (rows - 1 - place / columns)) * S + j + stride * (columns - 1 - place % columns);
        place -= rows * columns;
    }
}

bool ac_packs_forward(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)lim, (void)g;
    return !n->at.i[AC_PACK_STRIDE];
}

bool ac_packs_backward(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    return !ac_packs_forward(lim, g, n);
}

static int infer_bx(ac_graph *g, ac_node *n)
{
    const ac_shape *gy = ac_shape_of(g, n->in[0]), *w = ac_shape_of(g, n->in[1]);
    int32_t *at = n->at.i;
    char a[96], b[96];

    if (w->n != 4 || !fits(n, gy, at[AC_BX_H], at[AC_BX_W], w->d[2], w->d[3]) || gy->d[3] != w->d[0])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "conv_bx: gradient %s and filters %s do not fit an input of %dx%d",
                             ac_shape_text(gy, a), ac_shape_text(w, b), at[AC_BX_H], at[AC_BX_W]);
    n->shape = (ac_shape){4, {gy->d[0], at[AC_BX_H], at[AC_BX_W], w->d[1]}};
    at[AC_CV_R] = (int32_t)w->d[2]; /* kept, because kernels replace the filters by packed ones */
    at[AC_CV_S] = (int32_t)w->d[3];
    return 1;
}

static double pixel_bx(const ac_ref *r, const ac_cv *d, int b, int y, int x, int c)
{
    double sum = 0;

    for (int i = 0; i < d->R; i++)
        for (int j = 0; j < d->S; j++) {
            int oy = reader_of(d, y, i, d->top, d->OH), ox = reader_of(d, x, j, d->left, d->OW);
            for (int k = 0; k < d->K && oy >= 0 && ox >= 0; k++)
                sum += r->in[0][(((int64_t)b * d->OH + oy) * d->OW + ox) * d->K + k] *
                       r->in[1][(((int64_t)k * d->C + c) * d->R + i) * d->S + j];
        }
    return sum;
}

static void ref_bx(const ac_ref *r)
{
    int64_t at = 0;
    ac_cv d;

    ac_conv_bx_dims(r->g, r->n, &d);
    for (int b = 0; b < d.B; b++)
        for (int y = 0; y < d.H; y++)
            for (int x = 0; x < d.W; x++)
                for (int c = 0; c < d.C; c++, at++)
                    r->out[at] = ac_ref_epilogue(r, pixel_bx(r, &d, b, y, x, c), at, b, c);
}

static double flop_of(const ac_cv *d)
{
    return 2.0 * d->B * d->OH * (double)d->OW * d->K * d->C * d->R * d->S;
}

static double flop_bx(const ac_graph *g, const ac_node *n)
{
    ac_cv d;

    ac_conv_bx_dims(g, n, &d);
    return flop_of(&d);
}

static void vjp_bx(ac_graph *g, ac_id y, ac_id u, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);
    ac_conv_at c = ac_conv_geometry(&n);

    gx[0] = ac_conv(g, u, n.in[1], AC_NONE, c);
    gx[1] = ac_conv_bw(g, u, n.in[0], c, n.at.i[AC_CV_R], n.at.i[AC_CV_S]);
}

/* X(batch, input channels, output channels, side) of the 3x3 convolutions whose gradients are timed: Stable
 * Diffusion 2.1's UNet, a VAE's, a small UNet's. */
/* clang-format off */
#define SPEED_SHAPES(X) \
    X(1, 320, 320, 64) X(1, 640, 320, 64) X(1, 960, 320, 64) \
    X(1, 640, 640, 32) X(1, 1280, 640, 32) X(1, 1920, 640, 32) \
    X(1, 1280, 1280, 16) X(1, 2560, 1280, 16) X(1, 1280, 1280, 8) X(1, 2560, 1280, 8) \
    X(1, 512, 512, 64) \
    X(64, 64, 64, 16) X(64, 128, 128, 8) X(64, 192, 192, 4)
/* clang-format on */

static const ac_kern kern_bx[] = {
    {"conv_winograd", "winograd", AC_CLASS_CPU, ac_conv_bx_winograd_accepts, ac_conv_bx_winograd_prep, ac_conv_bx_winograd_setup},
    {"conv_vec", "conv", AC_CLASS_CPU, ac_conv_vec_accepts, ac_conv_bx_vec_prep, ac_conv_bx_vec_setup},
    {"conv_tile", "gemm_tile", AC_CLASS_GPU, ac_conv_bx_tile_accepts, ac_conv_bx_tile_prep, ac_conv_bx_tile_setup},
    {"conv_bx_any", "gemm_tile", AC_CLASS_ANY, NULL, ac_conv_any_prep, ac_conv_bx_any_setup},
    {0}};

/* B, OH, OW, K, C, R, S; stride, top, left, bottom, right, H, W */
#define BX(name, B, OH, OW, K, C, R, S, ...)                                                                           \
    {                                                                                                                  \
        name, AC_SMALL, {{4, {B, OH, OW, K}}, {4, {K, C, R, S}}}, {{__VA_ARGS__}, {0}}, 1e-5                           \
    }
#define BX_SPEED(B, C, K, side)                                                                                        \
    {"" #B "x" #C "->" #K "@" #side,                                                                                   \
     AC_FULL,                                                                                                          \
     {{4, {B, side, side, K}}, {4, {K, C, 3, 3}}},                                                                     \
     {{1, 1, 1, 1, 1, side, side}, {0}},                                                                               \
     1e-5},
static const ac_case case_bx[] = {
    BX("b2_9x7_20to3", 2, 9, 7, 20, 3, 3, 3, 1, 1, 1, 1, 1, 9, 7),
    BX("20x17_35to70", 1, 20, 17, 35, 70, 3, 3, 1, 1, 1, 1, 1, 20, 17),
    BX("17x9_s2", 2, 9, 5, 33, 8, 3, 3, 2, 1, 1, 1, 1, 17, 9),
    BX("18x10_s2_last_untouched", 1, 9, 5, 5, 34, 3, 3, 2, 1, 1, 0, 0, 18, 10),
    BX("8x8_s2_asym", 1, 4, 4, 40, 5, 3, 3, 2, 0, 0, 1, 1, 8, 8),
    BX("5x5_1x1_s2", 1, 3, 3, 7, 6, 1, 1, 2, 0, 0, 0, 0, 5, 5),
    BX("6x6_valid", 1, 4, 4, 4, 4, 3, 3, 1, 0, 0, 0, 0, 6, 6),
    BX("1x1_image", 1, 1, 1, 64, 12, 3, 3, 1, 1, 1, 1, 1, 1, 1),
    BX("12x13_150to40", 1, 12, 13, 150, 40, 3, 3, 1, 1, 1, 1, 1, 12, 13),
    BX("11x9_valid_left", 2, 9, 8, 33, 17, 3, 3, 1, 0, 1, 0, 0, 11, 9),
    BX("29x31_patch", 1, 2, 2, 24, 3, 14, 14, 14, 0, 0, 0, 0, 29, 31),
    BX("line_64_20to70", 2, 1, 64, 20, 70, 1, 9, 1, 0, 0, 0, 0, 1, 72),
    BX("lines_3x29", 2, 3, 29, 33, 10, 1, 9, 1, 0, 4, 0, 4, 3, 29),
    BX("2x5_filter", 2, 5, 4, 9, 37, 2, 5, 1, 1, 2, 0, 2, 5, 4),
    BX("7x4_filter_s3", 1, 4, 3, 9, 10, 7, 4, 3, 3, 1, 3, 1, 12, 9),
    BX("wide_padding", 1, 9, 8, 6, 10, 3, 3, 1, 4, 3, 3, 3, 4, 4),
    {"all_silu",
     AC_SMALL,
     {{4, {2, 6, 5, 7}}, {4, {7, 34, 3, 3}}, {1, {34}}, {4, {2, 1, 1, 34}}, {4, {2, 6, 5, 34}}},
     {{1, 1, 1, 1, 1, 6, 5, [AC_AT_ACT] = AC_ACT_SILU}, {0}},
     1e-5},
    {"s2_all_silu",
     AC_SMALL,
     {{4, {2, 3, 3, 7}}, {4, {7, 34, 3, 3}}, {1, {34}}, {4, {2, 1, 1, 34}}, {4, {2, 6, 5, 34}}},
     {{2, 1, 1, 1, 1, 6, 5, [AC_AT_ACT] = AC_ACT_SILU}, {0}},
     1e-5},
    SPEED_SHAPES(BX_SPEED){0}};
const ac_op ac_op_conv_bx = {.name = "conv_bx",
                             .n_in = 2,
                             .n_opt = 4, /* as conv */
                             .flags = AC_OP_EPILOGUE,
                             .typed = 2,
                             .infer = infer_bx,
                             .vjp = vjp_bx,
                             .ref = ref_bx,
                             .flop = flop_bx,
                             .kern = kern_bx,
                             .cases = case_bx};

ac_id ac_conv_bx(ac_graph *g, ac_id gy, ac_id w, ac_conv_at c, int64_t height, int64_t width)
{
    ac_at at = attributes(c);

    at.i[AC_BX_H] = (int32_t)height;
    at.i[AC_BX_W] = (int32_t)width;
    return ac_add_node(g, &ac_op_conv_bx, (ac_id[]){gy, w}, 2, &at);
}

/* ------------------------------------------------------------------------------------------ conv_bw
 * x [B,H,W,C], gy [B,OH,OW,K] -> [K,C,R,S]. Attributes of conv; at.i[AC_CV_R], at.i[AC_CV_S]: size of the filters;
 * at.i[AC_BW_PARTS], if not 0: parts of the pixels, for each of which a gradient is made, -> [parts K,C,R,S]. */

int64_t ac_conv_bw_parts(const ac_node *n)
{
    return AC_MAX(n->at.i[AC_BW_PARTS], 1);
}

void ac_conv_bw_dims(const ac_graph *g, const ac_node *n, ac_cv *d)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]), *w = &n->shape;
    const int32_t *at = n->at.i;

    *d = (ac_cv){.B = at[AC_BW_B],
                 .H = (int)x->d[1],
                 .W = (int)x->d[2],
                 .C = (int)w->d[1],
                 .K = (int)(w->d[0] / ac_conv_bw_parts(n)),
                 .R = (int)w->d[2],
                 .S = (int)w->d[3],
                 .OH = at[AC_BW_OH],
                 .OW = at[AC_BW_OW],
                 .stride = at[AC_CV_STRIDE],
                 .top = at[AC_CV_TOP],
                 .left = at[AC_CV_LEFT]};
}

static int infer_bw(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]), *gy = ac_shape_of(g, n->in[1]);
    int32_t *at = n->at.i;
    char a[96], b[96];

    if (x->n != 4 || !fits(n, gy, x->d[1], x->d[2], at[AC_CV_R], at[AC_CV_S]) || x->d[0] != gy->d[0])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "conv_bw: input %s and gradient %s do not fit filters of %dx%d",
                             ac_shape_text(x, a), ac_shape_text(gy, b), at[AC_CV_R], at[AC_CV_S]);
    n->shape = (ac_shape){4, {gy->d[3] * ac_conv_bw_parts(n), x->d[3], at[AC_CV_R], at[AC_CV_S]}};
    at[AC_BW_B] = (int32_t)gy->d[0]; /* kept, because kernels replace the inputs by packed ones */
    at[AC_BW_OH] = (int32_t)gy->d[1];
    at[AC_BW_OW] = (int32_t)gy->d[2];
    return 1;
}

/* Sum over the output pixels begin..end, which are counted through all images. */
static double tap_bw(const ac_ref *r, const ac_cv *d, int64_t begin, int64_t end, int k, int c, int i, int j)
{
    double sum = 0;

    for (int64_t m = begin; m < end; m++) {
        int y = row_of(d, (int)(m / d->OW % d->OH), i, d->top, d->H), x = row_of(d, (int)(m % d->OW), j, d->left, d->W);
        if (y >= 0 && x >= 0)
            sum += r->in[0][((m / d->OW / d->OH * d->H + y) * d->W + x) * d->C + c] * r->in[1][m * d->K + k];
    }
    return sum;
}

static void ref_bw(const ac_ref *r)
{
    int64_t parts = ac_conv_bw_parts(r->n), pixels, span;
    double *to = r->out;
    ac_cv d;

    ac_conv_bw_dims(r->g, r->n, &d);
    pixels = (int64_t)d.B * d.OH * d.OW;
    span = AC_CEIL_DIV(pixels, parts);
    for (int64_t begin = 0; begin < parts * span; begin += span)
        for (int k = 0; k < d.K; k++)
            for (int c = 0; c < d.C; c++)
                for (int tap = 0; tap < d.R * d.S; tap++)
                    *to++ = tap_bw(r, &d, begin, AC_MIN(begin + span, pixels), k, c, tap / d.S, tap % d.S);
}

static double flop_bw(const ac_graph *g, const ac_node *n)
{
    ac_cv d;

    ac_conv_bw_dims(g, n, &d);
    return flop_of(&d);
}

static void vjp_bw(ac_graph *g, ac_id y, ac_id u, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);
    const ac_shape x = *ac_shape_of(g, n.in[0]);
    ac_conv_at c = ac_conv_geometry(&n);

    gx[0] = ac_conv_bx(g, n.in[1], u, c, x.d[1], x.d[2]);
    gx[1] = ac_conv(g, n.in[0], u, AC_NONE, c);
}

/* Parts of at least 512 pixels. */
static int64_t parts_of(const ac_node *n)
{
    enum { MOST = 16, PIXELS = 512 };
    const int32_t *at = n->at.i;

    return AC_MIN((int64_t)at[AC_BW_B] * at[AC_BW_OH] * at[AC_BW_OW] / PIXELS, (int64_t)MOST);
}

bool ac_conv_bw_in_parts(const ac_limits *lim, const ac_node *n)
{
    enum { ENOUGH = 2048 }; /* outputs for each compute unit */

    return !n->at.i[AC_BW_PARTS] && parts_of(n) > 1 && ac_count(&n->shape) < ENOUGH * (int64_t)lim->units;
}

/* A long sum of few outputs in parts, which other work-items can make, in fixed order. */
static ac_id lower_bw(ac_graph *g, const ac_node *n)
{
    const ac_shape w = n->shape;
    ac_at at = n->at;
    ac_id y;

    at.i[AC_BW_PARTS] = (int32_t)parts_of(n);
    y = ac_add_node(g, &ac_op_conv_bw, n->in, 2, &at);
    y = ac_reshape(g, y, (ac_shape){2, {at.i[AC_BW_PARTS], ac_count(&w)}});
    return ac_reshape(g, ac_sum(g, y, 1), w);
}

static const ac_kern kern_bw[] = {
    {"conv_bw_winograd", "winograd", AC_CLASS_CPU, ac_conv_bw_winograd_accepts, ac_conv_bw_winograd_prep, ac_conv_bw_winograd_setup},
    {"conv_bw_vec", "conv_grad", AC_CLASS_CPU, ac_conv_bw_any_accepts, ac_conv_bw_vec_prep, ac_conv_bw_vec_setup},
    {"conv_bw_tile", "gemm_tile", AC_CLASS_GPU, ac_conv_bw_tile_accepts, NULL, ac_conv_bw_tile_setup},
    {"conv_bw_any", "gemm_tile", AC_CLASS_ANY, ac_conv_bw_any_accepts, NULL, ac_conv_bw_any_setup},
    {0}};

/* B, H, W, C, OH, OW, K; stride, top, left, bottom, right; R, S */
#define BW(name, B, H, W, C, OH, OW, K, stride, top, left, bottom, right, R, S)                                        \
    {                                                                                                                  \
        name, AC_SMALL, {{4, {B, H, W, C}}, {4, {B, OH, OW, K}}},                                                      \
            {{stride, top, left, bottom, right, [AC_CV_R] = R, S}, {0}}, 1e-5                                          \
    }
#define BW_SPEED(B, C, K, side)                                                                                        \
    {"" #B "x" #C "->" #K "@" #side,                                                                                   \
     AC_FULL,                                                                                                          \
     {{4, {B, side, side, C}}, {4, {B, side, side, K}}},                                                               \
     {{1, 1, 1, 1, 1, [AC_CV_R] = 3, 3}, {0}},                                                                         \
     1e-5},
static const ac_case case_bw[] = {BW("b2_9x7_3to20", 2, 9, 7, 3, 9, 7, 20, 1, 1, 1, 1, 1, 3, 3),
                                  BW("20x17_70to35", 1, 20, 17, 70, 20, 17, 35, 1, 1, 1, 1, 1, 3, 3),
                                  BW("17x9_s2", 2, 17, 9, 8, 9, 5, 33, 2, 1, 1, 1, 1, 3, 3),
                                  BW("18x10_s2_last_untouched", 1, 18, 10, 34, 9, 5, 5, 2, 1, 1, 0, 0, 3, 3),
                                  BW("8x8_s2_asym", 1, 8, 8, 5, 4, 4, 40, 2, 0, 0, 1, 1, 3, 3),
                                  BW("5x5_1x1_s2", 1, 5, 5, 6, 3, 3, 7, 2, 0, 0, 0, 0, 1, 1),
                                  BW("6x6_valid", 1, 6, 6, 4, 4, 4, 4, 1, 0, 0, 0, 0, 3, 3),
                                  BW("1x1_image", 1, 1, 1, 12, 1, 1, 64, 1, 1, 1, 1, 1, 3, 3),
                                  BW("29x31_patch", 1, 29, 31, 3, 2, 2, 24, 14, 0, 0, 0, 0, 14, 14),
                                  BW("line_72_70to30", 2, 1, 72, 70, 1, 64, 30, 1, 0, 0, 0, 0, 1, 9),
                                  BW("lines_3x29", 2, 3, 29, 40, 3, 29, 20, 1, 0, 4, 0, 4, 1, 9),
                                  BW("2x5_filter", 2, 5, 4, 37, 5, 4, 9, 1, 1, 2, 0, 2, 2, 5),
                                  BW("7x4_filter_s3", 1, 12, 9, 10, 4, 3, 9, 3, 3, 1, 3, 1, 7, 4),
                                  BW("parts_3x17x23_5to6", 3, 17, 23, 5, 17, 23, 6, 1, 1, 1, 1, 1, 3, 3),
                                  BW("11x9_valid_left_70to30", 2, 11, 9, 70, 9, 8, 30, 1, 0, 1, 0, 0, 3, 3),
                                  BW("b3_8x8_100to40", 3, 8, 8, 100, 8, 8, 40, 1, 1, 1, 1, 1, 3, 3),
                                  BW("wide_padding", 1, 4, 4, 33, 9, 8, 12, 1, 4, 3, 3, 3, 3, 3),
                                  SPEED_SHAPES(BW_SPEED){0}};
const ac_op ac_op_conv_bw = {.name = "conv_bw",
                             .n_in = 2,
                             .n_opt = 4, /* the last is for kernels: a row of zeros */
                             .infer = infer_bw,
                             .lower = lower_bw,
                             .vjp = vjp_bw,
                             .ref = ref_bw,
                             .flop = flop_bw,
                             .kern = kern_bw,
                             .cases = case_bw};

ac_id ac_conv_bw(ac_graph *g, ac_id x, ac_id gy, ac_conv_at c, int64_t r, int64_t s)
{
    ac_at at = attributes(c);

    at.i[AC_CV_R] = (int32_t)r;
    at.i[AC_CV_S] = (int32_t)s;
    return ac_add_node(g, &ac_op_conv_bw, (ac_id[]){x, gy}, 2, &at);
}
