/* vec.c - host side of the CPU (`_vec`) kernels of matmul and conv: packing of weights, order of tiles, launches. */
#include "ops/vec.h"

#include "ops/mm.h"
#include "ops/ops.h"

#include <string.h>

int ac_vec_rows(const ac_limits *lim)
{
    return lim->vw == 16 ? 11 : 6;
}

int ac_vec_panel(const ac_limits *lim)
{
    return 2 * lim->vw;
}

/* Tiles that a work-item makes below one another (cl/common.h): as many as share the cost of widening a panel, as long
 * as every compute unit has several work-items. */
enum { RUN = 12, DEPTH = 512 };

static int run_length(const ac_limits *lim, int64_t tiles, int64_t panels)
{
    int64_t most = tiles * panels / ((int64_t)lim->units * AC_ITEMS_PER_UNIT);

    return (int)AC_MAX((int64_t)1, AC_MIN((int64_t)RUN, most));
}

void ac_vec_epilogue_defs(const ac_limits *lim, const ac_node *n, ac_launch *l)
{
    ac_def(l, "VW=%d", lim->vw);
    ac_def(l, "ROWS=%d", ac_vec_rows(lim));
    if (n->at.i[AC_AT_ACT])
        ac_def(l, "ACT=%d", n->at.i[AC_AT_ACT]);
    if (n->in[AC_EP_BIAS] != AC_NONE)
        ac_def(l, "BIAS");
    if (n->in[AC_EP_ROW] != AC_NONE)
        ac_def(l, "ROW");
    if (n->in[AC_EP_RES] != AC_NONE)
        ac_def(l, "RES");
}

void ac_vec_epilogue_args(const ac_node *n, ac_launch *l)
{
    for (int k = AC_EP_BIAS; k <= AC_EP_RES; k++)
        if (n->in[k] != AC_NONE)
            ac_arg_buf(l, k);
}

void ac_one_item_grid(ac_launch *l, int64_t x, int64_t y, int64_t z)
{
    l->dims = 3;
    l->global[0] = (size_t)x;
    l->global[1] = (size_t)y;
    l->global[2] = (size_t)z;
    l->local[0] = l->local[1] = l->local[2] = 1;
}

/* ------------------------------------------------------------------------------------------ matmul_pack
 * b -> [batch, panels, K, panel]. at.i: 0 geglu, 1 storage type, 2 transposed ([N,K]), 3 lanes */

enum { PK_GEGLU, PK_TYPE, PK_TB, PK_VW };

typedef struct pack_dims {
    int64_t batch, N, K, b_n, b_k, panels;
} pack_dims;

static pack_dims pack_of(const ac_shape *b, const ac_node *n)
{
    bool tb = n->at.i[PK_TB];
    pack_dims d = {1, b->d[b->n - (tb ? 2 : 1)], b->d[b->n - (tb ? 1 : 2)], 1, 1, 0};
    int vw = n->at.i[PK_VW];

    d.batch = ac_count(b) / (d.N * d.K);
    d.b_n = tb ? d.K : 1;
    d.b_k = tb ? 1 : d.N;
    d.panels = n->at.i[PK_GEGLU] ? AC_CEIL_DIV(d.N / 2, (int64_t)vw) : AC_CEIL_DIV(d.N, (int64_t)2 * vw);
    return d;
}

static int infer_matmul_pack(ac_graph *g, ac_node *n)
{
    pack_dims d = pack_of(ac_shape_of(g, n->in[0]), n);

    n->type = (ac_type)n->at.i[PK_TYPE];
    n->shape = (ac_shape){4, {d.batch, d.panels, d.K, 2 * n->at.i[PK_VW]}};
    return 1;
}

static void ref_matmul_pack(const ac_ref *r)
{
    pack_dims d = pack_of(r->shape[0], r->n);
    int64_t vw = r->n->at.i[PK_VW], i = 0;

    for (int64_t b = 0; b < d.batch; b++)
        for (int64_t p = 0; p < d.panels; p++)
            for (int64_t k = 0; k < d.K; k++)
                for (int64_t lane = 0; lane < 2 * vw; lane++, i++) {
                    int64_t half = d.N / 2, n = p * 2 * vw + lane, j = p * vw + lane % vw;
                    if (r->n->at.i[PK_GEGLU])
                        n = j < half ? (lane < vw ? j : half + j) : d.N;
                    r->out[i] = n < d.N ? r->in[0][b * d.N * d.K + n * d.b_n + k * d.b_k] : 0;
                }
}

static void setup_matmul_pack(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_node *b = ac_at_node(g, n->in[0]);
    pack_dims d = pack_of(&b->shape, n);

    (void)lim;
    ac_def(l, "VW=%d", n->at.i[PK_VW]);
    ac_def(l, "ST=%d", b->type);
    ac_def(l, "WT=%d", n->type);
    if (n->at.i[PK_GEGLU])
        ac_def(l, "GEGLU");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, d.N);
    ac_arg_int(l, d.K);
    ac_arg_long(l, d.b_n);
    ac_arg_long(l, d.b_k);
    ac_arg_long(l, d.N * d.K);
    ac_one_item_grid(l, AC_CEIL_DIV(d.K, (int64_t)64), d.panels, d.batch);
}

static const ac_kern kern_matmul_pack[] = {{"matmul_pack", "matmul", AC_CLASS_CPU, NULL, NULL, setup_matmul_pack}, {0}};
static const ac_case case_matmul_pack[] = {{"nk_37x29", AC_SMALL, {{2, {37, 29}}}, {{0, AC_F32, 1, 8}, {0}}, 1e-7},
                                           {"kn_40x70", AC_SMALL, {{2, {40, 70}}}, {{0, AC_F32, 0, 16}, {0}}, 1e-7},
                                           {"geglu_40x29", AC_SMALL, {{2, {40, 29}}}, {{1, AC_F32, 1, 16}, {0}}, 1e-7},
                                           {"batch_f16", AC_SMALL, {{3, {2, 33, 66}}}, {{0, AC_F16, 1, 4}, {0}}, 6e-4},
                                           {0}};
const ac_op ac_op_matmul_pack = {.name = "matmul_pack",
                                 .n_in = 1,
                                 .typed = 1,
                                 .infer = infer_matmul_pack,
                                 .ref = ref_matmul_pack,
                                 .kern = kern_matmul_pack,
                                 .cases = case_matmul_pack};

/* ------------------------------------------------------------------------------------------ matmul_vec */

bool ac_matmul_vec_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    if (ac_matmul_in_parts(lim, g, n))
        return false;
    return !n->at.i[AC_MM_GEGLU] || (n->in[AC_EP_ROW] == AC_NONE && n->in[AC_EP_RES] == AC_NONE && !n->at.i[AC_AT_ACT]);
}

void ac_matmul_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    ac_at at = {.i = {[PK_GEGLU] = n->at.i[AC_MM_GEGLU],
                      [PK_TYPE] = ac_pack_type(g, n->in[1]),
                      [PK_TB] = n->at.i[AC_MM_TB],
                      [PK_VW] = lim->vw}};

    n->in[1] = ac_add_node(g, &ac_op_matmul_pack, &n->in[1], 1, &at);
}

/* A work-item multiplies its rows with all of B where that is small enough to stay in a core's second cache. */
enum { CACHED = 1 << 17 }; /* elements */

void ac_matmul_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_node *b = ac_at_node(g, n->in[1]);
    int64_t tiles, panels = b->shape.d[1], wide, run;
    ac_mm d;

    ac_matmul_dims(g, n, &d);
    tiles = AC_CEIL_DIV(d.M, (int64_t)ac_vec_rows(lim));
    wide = b->type == AC_F32 && d.K <= DEPTH && panels * d.K * ac_vec_panel(lim) <= CACHED ? panels : 1;
    run = run_length(lim, tiles, AC_CEIL_DIV(panels, wide));
    ac_vec_epilogue_defs(lim, n, l);
    ac_def(l, "WT=%d", b->type);
    if (n->at.i[AC_MM_GEGLU])
        ac_def(l, "GEGLU");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    ac_vec_epilogue_args(n, l);
    ac_arg_int(l, d.M);
    ac_arg_int(l, d.N);
    ac_arg_int(l, d.K);
    ac_arg_long(l, d.a_row);
    ac_arg_long(l, d.a_k);
    ac_arg_int(l, d.row_span);
    ac_arg_int(l, run);
    ac_arg_int(l, wide);
    ac_arg_long(l, d.y_batch);
    ac_arg_long(l, d.a_batch);
    ac_arg_long(l, d.b_batch ? panels * d.K * ac_vec_panel(lim) : 0);
    ac_one_item_grid(l, AC_CEIL_DIV(panels, wide), AC_CEIL_DIV(tiles, run), d.batch);
}

/* ------------------------------------------------------------------------------------------ matmul_tn_vec */

bool ac_matmul_tn_vec_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    const ac_node *b = ac_at_node(g, n->in[1]);

    return n->at.i[AC_MM_TA] && !n->at.i[AC_MM_TB] && !n->at.i[AC_MM_GEGLU] && b->type == AC_F32 &&
           b->shape.d[b->shape.n - 1] >= ac_vec_panel(lim) && ac_matmul_vec_accepts(lim, g, n);
}

/* Tiles of a work-item: as many as share what they read, as long as every compute unit has two work-items; even shares.
 */
static void block_size(const ac_limits *lim, int64_t rows, int64_t columns, int64_t batch, int64_t *high, int64_t *wide)
{
    enum { HIGH = 24, WIDE = 8 }; /* as in cl/matmul.cl */

    *high = AC_MIN((int64_t)HIGH, rows);
    *wide = AC_MIN((int64_t)WIDE, columns);
    while (*high * *wide > 1 &&
           AC_CEIL_DIV(rows, *high) * AC_CEIL_DIV(columns, *wide) * batch < 2 * (int64_t)lim->units)
        --*(*high >= *wide ? high : wide);
    *high = AC_CEIL_DIV(rows, AC_CEIL_DIV(rows, *high));
    *wide = AC_CEIL_DIV(columns, AC_CEIL_DIV(columns, *wide));
}

void ac_matmul_tn_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t rows, columns, high, wide;
    ac_mm d;

    ac_matmul_dims(g, n, &d);
    rows = AC_CEIL_DIV(d.M, (int64_t)ac_vec_rows(lim));
    columns = AC_CEIL_DIV(d.N, (int64_t)ac_vec_panel(lim));
    block_size(lim, rows, columns, d.batch, &high, &wide);
    ac_vec_epilogue_defs(lim, n, l);
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_vec_epilogue_args(n, l);
    ac_arg_int(l, d.M);
    ac_arg_int(l, d.N);
    ac_arg_int(l, d.K);
    ac_arg_int(l, d.row_span);
    ac_arg_int(l, high);
    ac_arg_int(l, wide);
    ac_one_item_grid(l, AC_CEIL_DIV(columns, wide), AC_CEIL_DIV(rows, high), d.batch);
}

/* ------------------------------------------------------------------------------------------ conv_pack
 * w -> [panels, taps, C, panel]. at.i: 1 storage type, 3 lanes; 4 is 0, or, for the gradient of an input, the stride,
 * with padding at top and left modulo the stride in 5 and 6: then [panels of C, taps by phase, K, panel], see
 * cl/common.h */

enum { PK_STRIDE = AC_PACK_STRIDE, PK_TOP, PK_LEFT };

static int infer_conv_pack(ac_graph *g, ac_node *n)
{
    const ac_shape *w = ac_shape_of(g, n->in[0]);
    int64_t panel = 2 * n->at.i[PK_VW], lanes = w->d[n->at.i[PK_STRIDE] ? 1 : 0],
            rows = w->d[n->at.i[PK_STRIDE] ? 0 : 1];

    n->type = (ac_type)n->at.i[PK_TYPE];
    n->shape = (ac_shape){4, {AC_CEIL_DIV(lanes, panel), w->d[2] * w->d[3], rows, panel}};
    return 1;
}

static void ref_conv_pack(const ac_ref *r)
{
    const int64_t *d = r->n->shape.d, *w = r->shape[0]->d;
    const int32_t *at = r->n->at.i;
    double *to = r->out;

    for (int64_t p = 0; p < d[0]; p++)
        for (int64_t place = 0; place < d[1]; place++) {
            int64_t tap = at[PK_STRIDE] ? ac_conv_bx_tap(place, (int)w[2], (int)w[3], at + PK_STRIDE) : place;
            for (int64_t row = 0; row < d[2]; row++)
                for (int64_t lane = p * d[3]; lane < (p + 1) * d[3]; lane++) {
                    int64_t k = at[PK_STRIDE] ? row : lane, c = at[PK_STRIDE] ? lane : row;
                    *to++ = k < w[0] && c < w[1] ? r->in[0][(k * w[1] + c) * d[1] + tap] : 0;
                }
        }
}

static void setup_conv_pack(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_node *w = ac_at_node(g, n->in[0]);
    int64_t taps = w->shape.d[2] * w->shape.d[3], C = w->shape.d[1];

    (void)lim;
    ac_def(l, "VW=%d", n->at.i[PK_VW]);
    ac_def(l, "ST=%d", w->type);
    ac_def(l, "WT=%d", n->type);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, w->shape.d[0]);
    ac_arg_int(l, C);
    ac_arg_int(l, taps);
    ac_one_item_grid(l, AC_CEIL_DIV(C * taps, (int64_t)64), n->shape.d[0], 1);
}

static void setup_conv_bx_pack(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_node *w = ac_at_node(g, n->in[0]);

    (void)lim;
    ac_def(l, "VW=%d", n->at.i[PK_VW]);
    ac_def(l, "ST=%d", w->type);
    ac_def(l, "WT=%d", n->type);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    for (int k = 0; k < 4; k++)
        ac_arg_int(l, w->shape.d[k]);
    for (int k = PK_STRIDE; k <= PK_LEFT; k++)
        ac_arg_int(l, n->at.i[k]);
    ac_one_item_grid(l, AC_CEIL_DIV(w->shape.d[0], (int64_t)16), n->shape.d[0], 1);
}

static const ac_kern kern_conv_pack[] = {
    {"conv_pack", "conv", AC_CLASS_CPU, ac_packs_forward, NULL, setup_conv_pack},
    {"conv_bx_pack", "conv", AC_CLASS_CPU, ac_packs_backward, NULL, setup_conv_bx_pack},
    {0}};
static const ac_case case_conv_pack[] = {
    {"37x5x3x3", AC_SMALL, {{4, {37, 5, 3, 3}}}, {{0, AC_F32, 0, 8}, {0}}, 1e-7},
    {"32x16x1x2", AC_SMALL, {{4, {32, 16, 1, 2}}}, {{0, AC_F32, 0, 16}, {0}}, 1e-7},
    {"70x24x3x3_f16", AC_SMALL, {{4, {70, 24, 3, 3}}}, {{0, AC_F16, 0, 4}, {0}}, 6e-4},
    {"bx_19x70x3x3", AC_SMALL, {{4, {19, 70, 3, 3}}}, {{0, AC_F32, 0, 16, 1, 0, 0}, {0}}, 1e-7},
    {"bx_37x5x4x5_s2", AC_SMALL, {{4, {37, 5, 4, 5}}}, {{0, AC_F32, 0, 8, 2, 1, 0}, {0}}, 1e-7},
    {"bx_7x33x2x7_s3_f16", AC_SMALL, {{4, {7, 33, 2, 7}}}, {{0, AC_F16, 0, 4, 3, 2, 1}, {0}}, 6e-4},
    {0}};
const ac_op ac_op_conv_pack = {.name = "conv_pack",
                               .n_in = 1,
                               .typed = 1,
                               .infer = infer_conv_pack,
                               .ref = ref_conv_pack,
                               .kern = kern_conv_pack,
                               .cases = case_conv_pack};

/* ------------------------------------------------------------------------------------------ conv_vec */

bool ac_conv_vec_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)lim, (void)g, (void)n;
    return true;
}

void ac_vec_zeros(ac_graph *g, ac_node *n)
{
    n->in[AC_VEC_ZEROS] = ac_fill(g, ac_dims(1, DEPTH), 0);
}

void ac_conv_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    ac_at at = {.i = {[PK_TYPE] = ac_pack_type(g, n->in[1]), [PK_VW] = lim->vw}};

    n->in[1] = ac_add_node(g, &ac_op_conv_pack, &n->in[1], 1, &at);
    ac_vec_zeros(g, n);
}

/* X [B,H,W,C] by filters of R x S to [B,OH,OW,K], in d; `phases` of the gradient of an input, 0: the forward pass. */
static void conv_launch(const ac_limits *lim, const ac_graph *g, const ac_node *n, const ac_cv *d, int phases,
                        ac_launch *l)
{
    const ac_node *w = ac_at_node(g, n->in[1]);
    int64_t M = (int64_t)d->B * d->OH * d->OW, panels = w->shape.d[0], most = M, tiles;
    const int size[] = {d->H, d->W, d->C, d->K, d->OH, d->OW, d->R, d->S, d->stride, d->stride, d->top, d->left};
    int run;

    if (phases)
        most = (int64_t)d->B * AC_CEIL_DIV(d->OH, phases) * AC_CEIL_DIV(d->OW, phases);
    tiles = AC_CEIL_DIV(most, (int64_t)ac_vec_rows(lim));
    run = run_length(lim, tiles * AC_MAX(phases * phases, 1), panels);
    ac_vec_epilogue_defs(lim, n, l);
    ac_def(l, "WT=%d", w->type);
    if (d->up_h)
        ac_def(l, "UPSAMPLE");
    if (phases)
        ac_def(l, "PHASES=%d", phases);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    ac_arg_buf(l, AC_VEC_ZEROS);
    ac_vec_epilogue_args(n, l);
    ac_arg_int(l, M);
    for (size_t i = 0; i < AC_LEN(size); i++)
        ac_arg_int(l, size[i]);
    if (d->up_h) {
        ac_arg_int(l, d->up_h);
        ac_arg_int(l, d->up_w);
    }
    ac_arg_int(l, run);
    ac_one_item_grid(l, panels, AC_CEIL_DIV(tiles, (int64_t)run), AC_MAX(phases * phases, 1));
}

void ac_conv_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_cv d;

    ac_conv_dims(g, n, &d);
    conv_launch(lim, g, n, &d, 0, l);
}

/* ------------------------------------------------------------------------------------------ conv_bx by conv_vec */

void ac_conv_bx_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    const int32_t *i = n->at.i;
    int stride = i[AC_CV_STRIDE];
    ac_at at = {.i = {[PK_TYPE] = ac_pack_type(g, n->in[1]),
                      [PK_VW] = lim->vw,
                      [PK_STRIDE] = stride,
                      [PK_TOP] = i[AC_CV_TOP] % stride,
                      [PK_LEFT] = i[AC_CV_LEFT] % stride}};

    n->in[1] = ac_add_node(g, &ac_op_conv_pack, &n->in[1], 1, &at);
    ac_vec_zeros(g, n);
}

void ac_conv_bx_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_cv d;
    int phases = ac_conv_bx_as_conv(g, n, &d);

    conv_launch(lim, g, n, &d, phases, l);
}

/* ------------------------------------------------------------------------------------------ conv_bw_frame
 * x [B,H,W,C] -> [n]: panels of images in frames of zeros, see cl/conv_grad.cl. at.i: 0 and 1 height and width with the
 * frame, 2 and 3 its width at top and left, 4 lanes, 5 zeros after the last */

enum { FRAME_H, FRAME_W, FRAME_TOP, FRAME_LEFT, FRAME_LANES, FRAME_SLACK };

static int infer_frame(ac_graph *g, ac_node *n)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    const int32_t *at = n->at.i;
    int64_t lanes = AC_CEIL_DIV(x->d[3], (int64_t)at[FRAME_LANES]) * at[FRAME_LANES];

    n->shape = (ac_shape){1, {x->d[0] * at[FRAME_H] * at[FRAME_W] * lanes + at[FRAME_SLACK]}};
    return 1;
}

static void ref_frame(const ac_ref *r)
{
    const ac_shape *x = r->shape[0];
    const int32_t *at = r->n->at.i;
    int64_t row = 0, end = ac_count(&r->n->shape) - at[FRAME_SLACK];

    for (int64_t k = 0; k < end; k++) {
        int64_t lane = k % at[FRAME_LANES], j, i, b;
        row = k / at[FRAME_LANES];
        j = row % at[FRAME_W] - at[FRAME_LEFT];
        i = row / at[FRAME_W] % at[FRAME_H] - at[FRAME_TOP];
        b = row / at[FRAME_W] / at[FRAME_H];
        lane += b / x->d[0] * at[FRAME_LANES];
        r->out[k] = i < 0 || i >= x->d[1] || j < 0 || j >= x->d[2] || lane >= x->d[3]
                        ? 0
                        : r->in[0][((b % x->d[0] * x->d[1] + i) * x->d[2] + j) * x->d[3] + lane];
    }
    for (int k = 0; k < at[FRAME_SLACK]; k++)
        r->out[end + k] = 0;
}

static void setup_frame(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_shape *x = ac_shape_of(g, n->in[0]);
    const int32_t *at = n->at.i;

    ac_def(l, "VW=%d", lim->vw);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    for (int k = 1; k < 4; k++)
        ac_arg_int(l, x->d[k]);
    ac_arg_int(l, at[FRAME_H]);
    ac_arg_int(l, at[FRAME_W]);
    ac_arg_int(l, at[FRAME_LANES]);
    ac_arg_int(l, at[FRAME_TOP]);
    ac_arg_int(l, at[FRAME_LEFT]);
    ac_arg_int(l, at[FRAME_SLACK]);
    ac_one_item_grid(l, x->d[0] * at[FRAME_H], AC_CEIL_DIV(x->d[3], (int64_t)at[FRAME_LANES]), 1);
}

static const ac_kern kern_frame[] = {{"conv_bw_frame", "conv_grad", AC_CLASS_CPU, NULL, NULL, setup_frame}, {0}};
static const ac_case case_frame[] = {
    {"5x4_same", AC_SMALL, {{4, {2, 5, 4, 9}}}, {{7, 6, 1, 1, 9, 32}, {0}}, 1e-9},
    {"5x19_cropped", AC_SMALL, {{4, {1, 5, 19, 33}}}, {{4, 18, 0, 2, 16, 1}, {0}}, 1e-9},
    {"beside", AC_SMALL, {{4, {2, 2, 2, 70}}}, {{7, 8, 4, 9, 32, 8}, {0}}, 1e-9},
    {0}};
const ac_op ac_op_conv_bw_frame = {.name = "conv_bw_frame",
                                   .n_in = 1,
                                   .infer = infer_frame,
                                   .ref = ref_frame,
                                   .kern = kern_frame,
                                   .cases = case_frame};

/* ------------------------------------------------------------------------------------------ conv_bw_rows
 * gy [B,OH,OW,K] -> [tiles, pixels, rows of a tile]. at.i: 0 rows */

static int infer_rows(ac_graph *g, ac_node *n)
{
    const ac_shape *gy = ac_shape_of(g, n->in[0]);
    int64_t K = gy->d[gy->n - 1], rows = n->at.i[0];

    n->shape = (ac_shape){3, {AC_CEIL_DIV(K, rows), ac_count(gy) / K, rows}};
    return 1;
}

static void ref_rows(const ac_ref *r)
{
    const int64_t *d = r->n->shape.d, K = r->shape[0]->d[r->shape[0]->n - 1];
    int64_t at = 0;

    for (int64_t tile = 0; tile < d[0]; tile++)
        for (int64_t m = 0; m < d[1]; m++)
            for (int64_t k = tile * d[2]; k < (tile + 1) * d[2]; k++, at++)
                r->out[at] = k < K ? r->in[0][m * K + k] : 0;
}

static void setup_rows(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_shape *gy = ac_shape_of(g, n->in[0]);

    ac_def(l, "VW=%d", lim->vw);
    ac_def(l, "ROWS=%d", n->at.i[0]);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, n->shape.d[1]);
    ac_arg_int(l, gy->d[gy->n - 1]);
    ac_one_item_grid(l, AC_CEIL_DIV(n->shape.d[1], (int64_t)64), 1, 1);
}

static const ac_kern kern_rows[] = {{"conv_bw_rows", "conv_grad", AC_CLASS_CPU, NULL, NULL, setup_rows}, {0}};
static const ac_case case_rows[] = {{"130x25", AC_SMALL, {{4, {2, 5, 13, 25}}}, {{11}, {0}}, 1e-9},
                                    {"64x12", AC_SMALL, {{2, {64, 12}}}, {{6}, {0}}, 1e-9},
                                    {"1x3", AC_SMALL, {{4, {1, 1, 1, 3}}}, {{6}, {0}}, 1e-9},
                                    {0}};
const ac_op ac_op_conv_bw_rows = {
    .name = "conv_bw_rows", .n_in = 1, .infer = infer_rows, .ref = ref_rows, .kern = kern_rows, .cases = case_rows};

/* ------------------------------------------------------------------------------------------ conv_bw */

/* Input rows (or columns) that the filters read. */
static int64_t frame_size(int64_t out, int64_t filter, int stride)
{
    return (out - 1) * stride + filter;
}

void ac_conv_bw_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    const int32_t *i = n->at.i;
    ac_at frame, rows = {.i = {ac_vec_rows(lim)}};
    ac_cv d;

    ac_conv_bw_dims(g, n, &d);
    frame = (ac_at){.i = {[FRAME_H] = (int32_t)frame_size(d.OH, d.R, d.stride),
                          [FRAME_W] = (int32_t)frame_size(d.OW, d.S, d.stride),
                          [FRAME_TOP] = i[AC_CV_TOP],
                          [FRAME_LEFT] = i[AC_CV_LEFT],
                          [FRAME_LANES] = AC_MIN(d.C, ac_vec_panel(lim)),
                          [FRAME_SLACK] = ac_vec_panel(lim)}};
    n->in[0] = ac_add_node(g, &ac_op_conv_bw_frame, &n->in[0], 1, &frame);
    n->in[1] = ac_add_node(g, &ac_op_conv_bw_rows, &n->in[1], 1, &rows);
}

void ac_conv_bw_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    enum { TAPS = 16 }; /* as in cl/conv_grad.cl */
    const ac_shape *rows = ac_shape_of(g, n->in[1]), *w = &n->shape;
    const int32_t *at = n->at.i;
    int64_t R = w->d[2], S = w->d[3], C = w->d[1], lanes = AC_MIN(C, (int64_t)ac_vec_panel(lim)),
            taps = lanes < ac_vec_panel(lim) ? R : R * S;
    int64_t panels = AC_CEIL_DIV(C * R * S / taps, (int64_t)ac_vec_panel(lim)), parts = ac_conv_bw_parts(n),
            groups = AC_CEIL_DIV(taps, (int64_t)TAPS);

    while (groups < taps && groups * parts * panels * rows->d[0] < (int64_t)lim->units * AC_ITEMS_PER_UNIT)
        groups++;
    taps = AC_CEIL_DIV(taps, groups);
    ac_def(l, "VW=%d", lim->vw);
    ac_def(l, "ROWS=%d", ac_vec_rows(lim));
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, rows->d[1]);
    ac_arg_int(l, AC_CEIL_DIV(rows->d[1], parts));
    ac_arg_int(l, frame_size(at[AC_BW_OH], R, at[AC_CV_STRIDE]));
    ac_arg_int(l, frame_size(at[AC_BW_OW], S, at[AC_CV_STRIDE]));
    ac_arg_int(l, C);
    ac_arg_int(l, w->d[0] / parts);
    ac_arg_int(l, at[AC_BW_OH]);
    ac_arg_int(l, at[AC_BW_OW]);
    ac_arg_int(l, R);
    ac_arg_int(l, S);
    ac_arg_int(l, at[AC_CV_STRIDE]);
    ac_arg_int(l, lanes);
    ac_arg_int(l, taps);
    ac_one_item_grid(l, panels, rows->d[0], AC_CEIL_DIV(lanes < ac_vec_panel(lim) ? R : R * S, taps) * parts);
}
