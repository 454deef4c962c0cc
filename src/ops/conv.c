/* conv.c - two-dimensional convolution, NHWC, with padding, stride and nearest resampling of the input. */
#include "ops/mm.h"
#include "ops/ops.h"
#include "ops/tile.h"
#include "ops/vec.h"

#include <string.h>

void ac_conv_dims(const ac_graph *g, const ac_node *n, ac_cv *d)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]), *y = &n->shape;
    const int32_t *at = n->at.i;

    *d = (ac_cv){(int)x->d[0],  (int)x->d[1],   (int)x->d[2],   (int)x->d[3],  at[AC_CV_K],
                 at[AC_CV_R],   at[AC_CV_S],    (int)y->d[1],   (int)y->d[2],  at[AC_CV_STRIDE],
                 at[AC_CV_TOP], at[AC_CV_LEFT], at[AC_CV_UP_H], at[AC_CV_UP_W]};
}

static int infer(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]), *w = ac_shape_of(g, n->in[1]);
    int32_t *at = n->at.i;
    int64_t h, v;
    char a[96], b[96];

    if (x->n != 4 || w->n != 4 || x->d[3] != w->d[1] || at[AC_CV_STRIDE] < 1 || !at[AC_CV_UP_H] != !at[AC_CV_UP_W])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "conv: input %s and filters %s do not fit", ac_shape_text(x, a),
                             ac_shape_text(w, b));
    h = (at[AC_CV_UP_H] ? at[AC_CV_UP_H] : x->d[1]) + at[AC_CV_TOP] + at[AC_CV_BOTTOM] - w->d[2];
    v = (at[AC_CV_UP_W] ? at[AC_CV_UP_W] : x->d[2]) + at[AC_CV_LEFT] + at[AC_CV_RIGHT] - w->d[3];
    if (h < 0 || v < 0)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "conv: input %s is smaller than the filters %s", ac_shape_text(x, a),
                             ac_shape_text(w, b));
    n->shape = (ac_shape){4, {x->d[0], h / at[AC_CV_STRIDE] + 1, v / at[AC_CV_STRIDE] + 1, w->d[0]}};
    at[AC_CV_K] = (int32_t)w->d[0]; /* kept, because kernels replace the filters by packed ones */
    at[AC_CV_R] = (int32_t)w->d[2];
    at[AC_CV_S] = (int32_t)w->d[3];
    if (n->in[AC_EP_BIAS] != AC_NONE && ac_count(ac_shape_of(g, n->in[AC_EP_BIAS])) != w->d[0])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "conv: a bias of %lld for %lld channels",
                             (long long)ac_count(ac_shape_of(g, n->in[AC_EP_BIAS])), (long long)w->d[0]);
    return 1;
}

static double pixel(const ac_ref *r, const ac_cv *d, int b, int oy, int ox, int k)
{
    int vh = d->up_h ? d->up_h : d->H, vw = d->up_w ? d->up_w : d->W;
    double s = 0;

    for (int i = 0; i < d->R; i++)
        for (int j = 0; j < d->S; j++) {
            int y = oy * d->stride - d->top + i, x = ox * d->stride - d->left + j;
            if (y < 0 || y >= vh || x < 0 || x >= vw)
                continue;
            y = (int)((int64_t)y * d->H / vh);
            x = (int)((int64_t)x * d->W / vw);
            for (int c = 0; c < d->C; c++)
                s += r->in[0][(((int64_t)b * d->H + y) * d->W + x) * d->C + c] *
                     r->in[1][(((int64_t)k * d->C + c) * d->R + i) * d->S + j];
        }
    return s;
}

static void ref(const ac_ref *r)
{
    int64_t at = 0;
    ac_cv d;

    ac_conv_dims(r->g, r->n, &d);
    for (int b = 0; b < d.B; b++)
        for (int y = 0; y < d.OH; y++)
            for (int x = 0; x < d.OW; x++)
                for (int k = 0; k < d.K; k++, at++)
                    r->out[at] = ac_ref_epilogue(r, pixel(r, &d, b, y, x, k), at, b, k);
}

static double flop(const ac_graph *g, const ac_node *n)
{
    ac_cv d;
    ac_conv_dims(g, n, &d);
    return 2.0 * d.B * d.OH * (double)d.OW * d.K * d.C * d.R * d.S;
}

static void vjp(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);
    const ac_shape s = *ac_shape_of(g, n.in[0]);
    const int32_t *at = n.at.i;
    ac_conv_at c = ac_conv_geometry(&n);
    int64_t h = at[AC_CV_UP_H] ? at[AC_CV_UP_H] : s.d[1], w = at[AC_CV_UP_W] ? at[AC_CV_UP_W] : s.d[2];
    ac_id x = at[AC_CV_UP_H] ? ac_resample(g, n.in[0], h, w) : n.in[0];

    gx[0] = ac_conv_bx(g, gy, n.in[1], c, h, w);
    if (at[AC_CV_UP_H])
        gx[0] = ac_resample_bx(g, gx[0], s.d[1], s.d[2]);
    gx[1] = ac_conv_bw(g, x, gy, c, at[AC_CV_R], at[AC_CV_S]);
    if (n.in[AC_EP_BIAS] != AC_NONE)
        gx[AC_EP_BIAS] = ac_sum_to(g, gy, *ac_shape_of(g, n.in[AC_EP_BIAS]));
}

static const ac_kern kern[] = {
    {"conv_winograd", "winograd", AC_CLASS_CPU, ac_conv_winograd_accepts, ac_conv_winograd_prep, ac_conv_winograd_setup},
    {"conv_vec", "conv", AC_CLASS_CPU, ac_conv_vec_accepts, ac_conv_vec_prep, ac_conv_vec_setup},
    {"conv_tile", "gemm_tile", AC_CLASS_GPU, ac_conv_tile_accepts, ac_conv_tile_prep, ac_conv_tile_setup},
    {"conv_any", "gemm_tile", AC_CLASS_ANY, ac_conv_any_accepts, ac_conv_any_prep, ac_conv_any_setup},
    {0}};

/* stride, top, left, bottom, right, up_h, up_w */
#define CV(name, B, H, W, C, K, R, ...)                                                                                \
    {                                                                                                                  \
        name, AC_SMALL, {{4, {B, H, W, C}}, {4, {K, C, R, R}}}, {{__VA_ARGS__}, {0}}, 1e-5                             \
    }
#define SPEED(C, K, side)                                                                                              \
    {                                                                                                                  \
        "" #C "->" #K "@" #side, AC_FULL, {{4, {1, side, side, C}}, {4, {K, C, 3, 3}}}, {{1, 1, 1, 1, 1}, {0}}, 1e-5   \
    }
static const ac_case cases[] = {
    CV("b2_9x7_3to20", 2, 9, 7, 3, 20, 3, 1, 1, 1, 1, 1),
    CV("20x17_20to70", 1, 20, 17, 20, 70, 3, 1, 1, 1, 1, 1),
    CV("17x9_s2", 2, 17, 9, 8, 33, 3, 2, 1, 1, 1, 1),
    CV("8x8_s2_asym", 1, 8, 8, 5, 40, 3, 2, 0, 0, 1, 1),
    CV("5x5_1x1_s2", 1, 5, 5, 6, 7, 1, 2, 0, 0, 0, 0),
    CV("6x6_valid", 1, 6, 6, 4, 4, 3, 1, 0, 0, 0, 0),
    CV("5x4_up", 2, 5, 4, 6, 18, 3, 1, 1, 1, 1, 1, 10, 8),
    CV("5x4_up_odd", 1, 5, 4, 6, 18, 3, 1, 1, 1, 1, 1, 9, 7),
    CV("1x1_image", 1, 1, 1, 12, 64, 3, 1, 1, 1, 1, 1),
    CV("12x13_150to40", 1, 12, 13, 150, 40, 3, 1, 1, 1, 1, 1),
    CV("7x6_up_odd", 3, 7, 6, 10, 18, 3, 1, 1, 1, 1, 1, 15, 13),
    CV("11x9_valid_left", 2, 11, 9, 17, 33, 3, 1, 0, 1, 1, 0),
    {"line_40_20to70", AC_SMALL, {{4, {2, 1, 40, 20}}, {4, {70, 20, 1, 9}}}, {{1, 0, 4, 0, 4}, {0}}, 1e-5},
    {"lines_3x29_valid", AC_SMALL, {{4, {2, 3, 29, 10}}, {4, {33, 10, 1, 9}}}, {{1, 0, 0, 0, 0}, {0}}, 1e-5},
    {"line_all_silu",
     AC_SMALL,
     {{4, {2, 1, 31, 9}}, {4, {34, 9, 1, 9}}, {1, {34}}, {4, {2, 1, 1, 34}}, {4, {2, 1, 31, 34}}},
     {{1, 0, 3, 0, 5, [AC_AT_ACT] = AC_ACT_SILU}, {0}},
     1e-5},
    CV("14x14_patch", 1, 28, 30, 3, 24, 14, 14, 0, 0, 0, 0),
    {"all_silu",
     AC_SMALL,
     {{4, {2, 6, 5, 7}}, {4, {34, 7, 3, 3}}, {1, {34}}, {4, {2, 1, 1, 34}}, {4, {2, 6, 5, 34}}},
     {{1, 1, 1, 1, 1, [AC_AT_ACT] = AC_ACT_SILU}, {0}},
     1e-5},
    {"9_channels_all_silu",
     AC_SMALL,
     {{4, {2, 6, 5, 9}}, {4, {34, 9, 3, 3}}, {1, {34}}, {4, {2, 1, 1, 34}}, {4, {2, 6, 5, 34}}},
     {{1, 1, 1, 1, 1, [AC_AT_ACT] = AC_ACT_SILU}, {0}},
     1e-5},
    {"bias_relu",
     AC_SMALL,
     {{4, {1, 6, 5, 7}}, {4, {5, 7, 3, 3}}, {1, {5}}},
     {{1, 1, 1, 1, 1, [AC_AT_ACT] = AC_ACT_RELU}, {0}},
     1e-5},
    SPEED(320, 320, 64),
    SPEED(640, 320, 64),
    SPEED(960, 320, 64),
    SPEED(640, 640, 32),
    SPEED(1280, 640, 32),
    SPEED(1920, 640, 32),
    SPEED(1280, 1280, 16),
    SPEED(2560, 1280, 16),
    SPEED(1280, 1280, 8),
    SPEED(2560, 1280, 8),
    SPEED(512, 512, 64),
    SPEED(512, 512, 128),
    SPEED(512, 512, 256),
    SPEED(256, 256, 256),
    SPEED(256, 256, 512),
    SPEED(128, 128, 512),
    {0}};
const ac_op ac_op_conv = {.name = "conv",
                          .n_in = 2,
                          .n_opt = 4, /* bias, row, residual; the last is for kernels: a row of zeros */
                          .flags = AC_OP_EPILOGUE,
                          .typed = 2,
                          .infer = infer,
                          .vjp = vjp,
                          .ref = ref,
                          .flop = flop,
                          .kern = kern,
                          .cases = cases};

/* A 1x1 convolution of stride 1 is a product over pixels. */
static ac_id as_linear(ac_graph *g, ac_id x, ac_id w, ac_id bias)
{
    const ac_shape *s = ac_shape_of(g, w);
    ac_shape flat = {2, {s->d[0], s->d[1]}};
    return ac_linear(g, x, ac_reshape(g, w, flat), bias, AC_ACT_NONE);
}

ac_id ac_conv(ac_graph *g, ac_id x, ac_id w, ac_id bias, ac_conv_at c)
{
    ac_at at = {.i = {[AC_CV_STRIDE] = c.stride ? c.stride : 1,
                      [AC_CV_TOP] = c.top,
                      [AC_CV_LEFT] = c.left,
                      [AC_CV_BOTTOM] = c.bottom,
                      [AC_CV_RIGHT] = c.right,
                      [AC_CV_UP_H] = (int32_t)c.up_h,
                      [AC_CV_UP_W] = (int32_t)c.up_w}};

    if (g->rc == 0 && ac_shape_of(g, w)->n == 4 && ac_shape_of(g, w)->d[2] == 1 && ac_shape_of(g, w)->d[3] == 1 &&
        at.i[AC_CV_STRIDE] == 1 && !(c.top | c.left | c.bottom | c.right) && !c.up_h && ac_shape_of(g, x)->n == 4)
        return as_linear(g, x, w, bias);
    return ac_add_node(g, &ac_op_conv, (ac_id[]){x, w, bias}, 3, &at);
}
