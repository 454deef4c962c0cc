/* tile.c - host side of the `_tile` and `_any` kernels: which tile, packing of filters, launches. */
#include "ops/tile.h"

#include "ops/mm.h"
#include "ops/ops.h"

/* What every `_tile` kernel may use: work-groups of 64 and 16 KiB of local memory. */
static bool has_groups(const ac_limits *lim)
{
    return lim->max_wg >= 64 && lim->max_item[0] >= 64 && lim->local_mem >= 16 << 10;
}

/* The work-group for this try, for a kernel that likes `best` items: a power of two, 16 at least (see the kernels'
 * limits). */
static int group_size(const ac_launch *l, int best)
{
    int wg = best;

    while (wg > 16 && (size_t)wg > l->wg)
        wg /= 2;
    return wg;
}

/* Groups that make a device busy: two a compute unit. */
static bool enough(const ac_limits *lim, int64_t groups)
{
    return groups >= 2 * (int64_t)lim->units;
}

/* ------------------------------------------------------------------------------------------ what products and
 * convolutions share */

/* WM x WN work-items with TM x 4 outputs each. */
typedef struct tile {
    int wm, wn, tm;
} tile;

static int64_t tile_count(tile t, int64_t M, int64_t N)
{
    return AC_CEIL_DIV(M, (int64_t)t.wm * t.tm) * AC_CEIL_DIV(N, (int64_t)t.wn * 4);
}

/* `wg` items, as square as can be. */
static tile tile_of(int wg, int tm)
{
    int wn = 4;

    while (wn * wn < wg)
        wn *= 2;
    return (tile){wg / wn, wn, tm};
}

/* The largest of 128x64, 64x64 and 32x32 outputs (less where groups must be small) that keeps the device busy and is
 * not mostly beyond the edge of an M x N result. */
static tile choose_tile(const ac_limits *lim, const ac_launch *l, int64_t batch, int64_t M, int64_t N)
{
    for (int wg = group_size(l, 256); wg > 64; wg /= 2) {
        tile t = tile_of(wg, 8);
        if (2 * M > t.wm * t.tm && 2 * N > t.wn * 4 && enough(lim, batch * tile_count(t, M, N)))
            return t;
    }
    return tile_of(group_size(l, 64), 4);
}

static void tile_launch(tile t, int64_t batch, int64_t M, int64_t N, ac_launch *l)
{
    ac_def(l, "WM=%d", t.wm);
    ac_def(l, "WN=%d", t.wn);
    ac_def(l, "TM=%d", t.tm);
    l->dims = 2;
    l->local[0] = (size_t)(t.wm * t.wn);
    l->local[1] = 1;
    l->global[0] = (size_t)tile_count(t, M, N) * l->local[0];
    l->global[1] = (size_t)batch;
}

/* Storage of the right factor and what the epilogue has; then the arguments up to the epilogue's. */
static void product_args(const ac_graph *g, const ac_node *n, ac_launch *l)
{
    static const char *const def[] = {[AC_EP_BIAS] = "BIAS", [AC_EP_ROW] = "ROW", [AC_EP_RES] = "RES"};

    ac_def(l, "WT=%d", ac_at_node(g, n->in[1])->type);
    if (n->at.i[AC_AT_ACT])
        ac_def(l, "ACT=%d", n->at.i[AC_AT_ACT]);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    for (int k = AC_EP_BIAS; k <= AC_EP_RES; k++)
        if (n->in[k] != AC_NONE) {
            ac_def(l, "%s", def[k]);
            ac_arg_buf(l, k);
        }
}

/* ------------------------------------------------------------------------------------------ matmul */

bool ac_matmul_any_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    return !n->at.i[AC_MM_GEGLU] && !ac_matmul_in_parts(lim, g, n);
}

bool ac_matmul_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    return has_groups(lim) && ac_matmul_any_accepts(lim, g, n);
}

void ac_matmul_tile_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    (void)lim;
    n->in[1] = ac_stored(g, n->in[1]);
}

void ac_matmul_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_mm d;

    ac_matmul_dims(g, n, &d);
    tile_launch(choose_tile(lim, l, d.batch, d.M, d.N), d.batch, d.M, d.N, l);
    if (n->at.i[AC_MM_TA])
        ac_def(l, "TA");
    if (n->at.i[AC_MM_TB])
        ac_def(l, "TB");
    product_args(g, n, l);
    ac_arg_int(l, d.M);
    ac_arg_int(l, d.N);
    ac_arg_int(l, d.K);
    ac_arg_int(l, n->at.i[AC_MM_TA] ? d.a_k : d.a_row);
    ac_arg_int(l, n->at.i[AC_MM_TB] ? d.b_n : d.b_k);
    ac_arg_int(l, d.row_span);
    ac_arg_long(l, d.a_batch);
    ac_arg_long(l, d.b_batch);
}

void ac_matmul_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t count = ac_count(&n->shape);
    ac_mm d;

    (void)lim;
    ac_matmul_dims(g, n, &d);
    product_args(g, n, l);
    ac_arg_int(l, count);
    ac_arg_int(l, d.M);
    ac_arg_int(l, d.N);
    ac_arg_int(l, d.K);
    ac_arg_int(l, d.a_row);
    ac_arg_int(l, d.a_k);
    ac_arg_int(l, d.b_n);
    ac_arg_int(l, d.b_k);
    ac_arg_int(l, d.row_span);
    ac_arg_long(l, d.a_batch);
    ac_arg_long(l, d.b_batch);
    ac_grid1(l, (size_t)count, 64);
}

/* ------------------------------------------------------------------------------------------ conv */

/* Attributes of conv_pack_tile. */
enum { PK_TYPE, PK_STRIDE = AC_PACK_STRIDE, PK_TOP, PK_LEFT };

/* The kernels resample by an int product. */
bool ac_conv_any_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    ac_cv d;

    (void)lim;
    ac_conv_dims(g, n, &d);
    return (int64_t)d.up_h * d.H <= INT32_MAX && (int64_t)d.up_w * d.W <= INT32_MAX;
}

bool ac_conv_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    return has_groups(lim) && ac_conv_any_accepts(lim, g, n);
}

void ac_conv_tile_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    ac_at at = {.i = {[PK_TYPE] = ac_pack_type(g, n->in[1])}};

    (void)lim;
    n->in[1] = ac_add_node(g, &ac_op_conv_pack_tile, &n->in[1], 1, &at);
}

void ac_conv_any_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    (void)lim;
    n->in[1] = ac_stored(g, n->in[1]);
}

/* GEOMETRY_PARAMS of the kernels. */
static void geometry_args(const ac_cv *d, ac_launch *l)
{
    const int size[] = {d->H,
                        d->W,
                        d->C,
                        d->OH,
                        d->OW,
                        d->R,
                        d->S,
                        d->stride,
                        d->top,
                        d->left,
                        d->up_h ? d->up_h : d->H,
                        d->up_w ? d->up_w : d->W};

    for (size_t i = 0; i < AC_LEN(size); i++)
        ac_arg_int(l, size[i]);
}

/* Both kernels take the same arguments. */
static void conv_args(const ac_graph *g, const ac_node *n, const ac_cv *d, ac_launch *l)
{
    product_args(g, n, l);
    ac_arg_int(l, (int64_t)d->B * d->OH * d->OW);
    ac_arg_int(l, d->K);
    geometry_args(d, l);
}

void ac_conv_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t M;
    ac_cv d;

    ac_conv_dims(g, n, &d);
    M = (int64_t)d.B * d.OH * d.OW;
    ac_def(l, "CONV");
    tile_launch(choose_tile(lim, l, 1, M, d.K), 1, M, d.K, l);
    conv_args(g, n, &d, l);
}

void ac_conv_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_cv d;

    (void)lim;
    ac_conv_dims(g, n, &d);
    conv_args(g, n, &d, l);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

/* ------------------------------------------------------------------------------------------ conv_bx */

bool ac_conv_bx_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)g, (void)n;
    return has_groups(lim);
}

void ac_conv_bx_tile_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    const int32_t *i = n->at.i;
    int stride = i[AC_CV_STRIDE];
    ac_at at = {.i = {[PK_TYPE] = ac_pack_type(g, n->in[1]),
                      [PK_STRIDE] = stride,
                      [PK_TOP] = i[AC_CV_TOP] % stride,
                      [PK_LEFT] = i[AC_CV_LEFT] % stride}};

    (void)lim;
    n->in[1] = ac_add_node(g, &ac_op_conv_pack_tile, &n->in[1], 1, &at);
}

/* A launch of conv_tile, see ac_conv_bx_as_conv. */
void ac_conv_bx_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_cv d;
    int phases = ac_conv_bx_as_conv(g, n, &d), s = AC_MAX(phases, 1);
    int64_t M = (int64_t)d.B * AC_CEIL_DIV(d.OH, s) * AC_CEIL_DIV(d.OW, s);

    ac_def(l, "CONV");
    if (phases)
        ac_def(l, "PHASES=%d", phases);
    tile_launch(choose_tile(lim, l, s * s, M, d.K), s * s, M, d.K, l);
    conv_args(g, n, &d, l);
}

void ac_conv_bx_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_cv d;

    (void)lim;
    ac_conv_bx_dims(g, n, &d);
    product_args(g, n, l);
    ac_arg_int(l, ac_count(&n->shape));
    ac_arg_int(l, d.K);
    geometry_args(&d, l);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

/* ------------------------------------------------------------------------------------------ conv_bw */

bool ac_conv_bw_any_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)g;
    return !ac_conv_bw_in_parts(lim, n);
}

bool ac_conv_bw_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    return has_groups(lim) && ac_conv_bw_any_accepts(lim, g, n);
}

/* Arguments of both kernels; those of one element a work-item are told the number of elements. */
static void bw_args(const ac_graph *g, const ac_node *n, bool count, ac_cv *d, ac_launch *l)
{
    int64_t pixels;

    ac_conv_bw_dims(g, n, d);
    pixels = (int64_t)d->B * d->OH * d->OW;
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    if (count)
        ac_arg_int(l, ac_count(&n->shape));
    ac_arg_int(l, pixels);
    ac_arg_int(l, d->K);
    ac_arg_int(l, AC_CEIL_DIV(pixels, ac_conv_bw_parts(n)));
    geometry_args(d, l);
}

void ac_conv_bw_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t parts = ac_conv_bw_parts(n);
    tile t;
    ac_cv d;

    bw_args(g, n, false, &d, l);
    t = choose_tile(lim, l, parts * d.R * d.S, d.K, d.C);
    ac_def(l, "CONV_BW");
    ac_def(l, "TA");
    tile_launch(t, parts, d.K, d.C, l);
    l->global[0] *= (size_t)(d.R * d.S);
}

void ac_conv_bw_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_cv d;

    (void)lim;
    bw_args(g, n, true, &d, l);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

/* ------------------------------------------------------------------------------------------ conv_pack_tile
 * w [K,C,R,S] -> [R S, C, K]. at.i[PK_TYPE]: storage type; at.i[PK_STRIDE] is 0, or, for the gradient of an input, the
 * stride, with padding at top and left modulo it: then [taps by phase, K, C], see cl/common.h */

static int infer_pack(ac_graph *g, ac_node *n)
{
    const ac_shape *w = ac_shape_of(g, n->in[0]);
    bool bx = n->at.i[PK_STRIDE] != 0;
    char text[96];

    if (w->n != 4)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "conv_pack_tile: filters %s, expected 4 dimensions",
                             ac_shape_text(w, text));
    n->type = (ac_type)n->at.i[PK_TYPE];
    n->shape = (ac_shape){3, {w->d[2] * w->d[3], w->d[!bx], w->d[bx]}};
    return 1;
}

static void ref_pack(const ac_ref *r)
{
    const int64_t *d = r->n->shape.d, *w = r->shape[0]->d;
    const int32_t *at = r->n->at.i;

    for (int64_t place = 0, i = 0; place < d[0]; place++) {
        int64_t tap = at[PK_STRIDE] ? ac_conv_bx_tap(place, (int)w[2], (int)w[3], at + PK_STRIDE) : place;
        for (int64_t c = 0; c < d[1]; c++)
            for (int64_t k = 0; k < d[2]; k++, i++)
                r->out[i] = r->in[0][(at[PK_STRIDE] ? c * d[2] + k : k * d[1] + c) * d[0] + tap];
    }
}

static void pack_bufs(const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_def(l, "ST=%d", ac_at_node(g, n->in[0])->type);
    ac_def(l, "WT=%d", n->type);
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
}

static void setup_pack(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const int64_t *d = n->shape.d;

    (void)lim;
    pack_bufs(g, n, l);
    ac_arg_int(l, d[2]);
    ac_arg_int(l, d[1]);
    ac_arg_int(l, d[0]);
    ac_grid1(l, (size_t)(d[2] * d[1]), 64);
}

static void setup_bx_pack(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_shape *w = ac_shape_of(g, n->in[0]);

    (void)lim;
    pack_bufs(g, n, l);
    ac_arg_int(l, w->d[0] * w->d[1]);
    ac_arg_int(l, w->d[2]);
    ac_arg_int(l, w->d[3]);
    for (int k = PK_STRIDE; k <= PK_LEFT; k++)
        ac_arg_int(l, n->at.i[k]);
    ac_grid1(l, (size_t)(w->d[0] * w->d[1]), 64);
}

static const ac_kern kern_pack[] = {
    {"conv_pack_tile", "gemm_tile", AC_CLASS_ANY, ac_packs_forward, NULL, setup_pack},
    {"conv_bx_pack_tile", "gemm_tile", AC_CLASS_ANY, ac_packs_backward, NULL, setup_bx_pack},
    {0}};
static const ac_case case_pack[] = {
    {"5x7x3x3", AC_SMALL, {{4, {5, 7, 3, 3}}}, {{AC_F32}, {0}}, 1e-7},
    {"70x3x1x2_f16", AC_SMALL, {{4, {70, 3, 1, 2}}}, {{AC_F16}, {0}}, 1e-3},
    {"bx_5x7x3x3", AC_SMALL, {{4, {5, 7, 3, 3}}}, {{AC_F32, 0, 0, 0, 1}, {0}}, 1e-7},
    {"bx_9x70x4x5_s3_f16", AC_SMALL, {{4, {9, 70, 4, 5}}}, {{AC_F16, 0, 0, 0, 3, 2, 1}, {0}}, 1e-3},
    {0}};
const ac_op ac_op_conv_pack_tile = {.name = "conv_pack_tile",
                                    .n_in = 1,
                                    .typed = 1,
                                    .infer = infer_pack,
                                    .ref = ref_pack,
                                    .kern = kern_pack,
                                    .cases = case_pack};

/* ------------------------------------------------------------------------------------------ attention */

typedef struct attn {
    int64_t B, T, S, E, D;
    double scale; /* times log2(e): the kernels compute powers of two */
} attn;

static attn attn_of(const ac_graph *g, const ac_node *n)
{
    const ac_shape *q = ac_shape_of(g, n->in[0]), *k = ac_shape_of(g, n->in[1]);
    const int64_t E = n->at.i[0];

    return (attn){q->d[0], q->d[1], k->d[1], E, q->d[2] / E, (double)n->at.f[0] * 1.4426950408889634};
}

static void attn_bufs(const ac_node *n, ac_launch *l)
{
    if (n->at.i[1])
        ac_def(l, "CAUSAL");
    ac_arg_buf(l, -1);
    for (int k = 0; k < 3; k++)
        ac_arg_buf(l, k);
}

bool ac_attn_tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)g, (void)n;
    return has_groups(lim);
}

/* Wide heads have more items along the head and fewer along the queries; the widest are cut in chunks of 192 columns,
 * of 128 where odd widths cost registers. */
void ac_attn_tile_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const attn a = attn_of(g, n);
    const int ws = a.D <= 96 ? 8 : 16, wide = (a.D % 4 ? 8 : 12) * ws;
    const int64_t chunks = AC_CEIL_DIV(a.D, (int64_t)wide), width = AC_CEIL_DIV(a.D, chunks);
    int wg = group_size(l, 128);

    if (wg > 64 && ws == 8 && !enough(lim, AC_CEIL_DIV(a.T, (int64_t)(4 * wg / ws)) * a.E * chunks * a.B))
        wg = 64;
    ac_def(l, "WQ=%d", wg / ws);
    ac_def(l, "WS=%d", ws);
    ac_def(l, "DJ=%d", (int)AC_CEIL_DIV(width, (int64_t)(4 * ws)));
    if (a.D % 4 == 0)
        ac_def(l, "QUADS");
    attn_bufs(n, l);
    ac_arg_int(l, a.T);
    ac_arg_int(l, a.S);
    ac_arg_int(l, a.D);
    ac_arg_int(l, a.E * a.D);
    ac_arg_int(l, chunks);
    ac_arg_float(l, a.scale);
    l->dims = 3;
    l->local[0] = (size_t)wg;
    l->local[1] = l->local[2] = 1;
    l->global[0] = (size_t)(AC_CEIL_DIV(a.T, (int64_t)(4 * wg / ws)) * wg);
    l->global[1] = (size_t)(a.E * chunks);
    l->global[2] = (size_t)a.B;
}

void ac_attn_any_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const attn a = attn_of(g, n);
    const int64_t count = a.B * a.T * a.E * AC_CEIL_DIV(a.D, (int64_t)16);

    (void)lim;
    attn_bufs(n, l);
    ac_arg_int(l, count);
    ac_arg_int(l, a.T);
    ac_arg_int(l, a.S);
    ac_arg_int(l, a.E);
    ac_arg_int(l, a.D);
    ac_arg_float(l, a.scale);
    ac_grid1(l, (size_t)count, 64);
}
