/* vec.c - host side of the CPU (`_vec`) kernels of matmul and conv: packing of weights, order of tiles, launches. */
#include "ops/vec.h"

#include "ops/mm.h"
#include "ops/ops.h"

#include <string.h>

/* Register tile: rows by two vectors; see cl/common.h. */
static int tile_rows(const ac_limits *lim)
{
    return lim->vw == 16 ? 11 : 6;
}

static int panel(const ac_limits *lim)
{
    return 2 * lim->vw;
}

/* Tiles that a work-item makes below one another (cl/common.h): as many as share the cost of widening a panel, as long as
 * every compute unit has several work-items. */
enum { RUN = 12, ITEMS_PER_UNIT = 4 };

static int run_length(const ac_limits *lim, int64_t tiles, int64_t panels)
{
    int64_t most = tiles * panels / ((int64_t)lim->units * ITEMS_PER_UNIT);

    return (int)AC_MAX((int64_t)1, AC_MIN((int64_t)RUN, most));
}

static void epilogue_defs(const ac_limits *lim, const ac_node *n, ac_launch *l)
{
    ac_def(l, "VW=%d", lim->vw);
    ac_def(l, "ROWS=%d", tile_rows(lim));
    if (n->at.i[AC_AT_ACT])
        ac_def(l, "ACT=%d", n->at.i[AC_AT_ACT]);
    if (n->in[AC_EP_BIAS] != AC_NONE)
        ac_def(l, "BIAS");
    if (n->in[AC_EP_ROW] != AC_NONE)
        ac_def(l, "ROW");
    if (n->in[AC_EP_RES] != AC_NONE)
        ac_def(l, "RES");
}

static void epilogue_args(const ac_node *n, ac_launch *l)
{
    for (int k = AC_EP_BIAS; k <= AC_EP_RES; k++)
        if (n->in[k] != AC_NONE)
            ac_arg_buf(l, k);
}

static void one_item_grid(ac_launch *l, int64_t x, int64_t y, int64_t z)
{
    l->dims = 3;
    l->global[0] = (size_t)x;
    l->global[1] = (size_t)y;
    l->global[2] = (size_t)z;
    l->local[0] = l->local[1] = l->local[2] = 1;
}

/* ------------------------------------------------------------------------------------------ matmul_pack(b) -> [batch, panels, K, panel]
 * at.i: 0 geglu, 1 storage type, 2 transposed ([N,K]), 3 lanes */

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
    one_item_grid(l, AC_CEIL_DIV(d.K, (int64_t)64), d.panels, d.batch);
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
    (void)lim, (void)g;
    return !n->at.i[AC_MM_GEGLU] || (n->in[AC_EP_ROW] == AC_NONE && n->in[AC_EP_RES] == AC_NONE && !n->at.i[AC_AT_ACT]);
}

void ac_matmul_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    ac_at at = {.i = {[PK_GEGLU] = n->at.i[AC_MM_GEGLU], [PK_TYPE] = ac_pack_type(g, n->in[1]), [PK_TB] = n->at.i[AC_MM_TB], [PK_VW] = lim->vw}};

    n->in[1] = ac_add_node(g, &ac_op_matmul_pack, &n->in[1], 1, &at);
}

void ac_matmul_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_node *b = ac_at_node(g, n->in[1]);
    int64_t tiles, panels = b->shape.d[1];
    int run;
    ac_mm d;

    ac_matmul_dims(g, n, &d);
    tiles = AC_CEIL_DIV(d.M, (int64_t)tile_rows(lim));
    run = run_length(lim, tiles, panels);
    epilogue_defs(lim, n, l);
    ac_def(l, "WT=%d", b->type);
    if (n->at.i[AC_MM_GEGLU])
        ac_def(l, "GEGLU");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    epilogue_args(n, l);
    ac_arg_int(l, d.M);
    ac_arg_int(l, d.N);
    ac_arg_int(l, d.K);
    ac_arg_long(l, d.a_row);
    ac_arg_long(l, d.a_k);
    ac_arg_int(l, d.row_span);
    ac_arg_int(l, run);
    ac_arg_long(l, d.y_batch);
    ac_arg_long(l, d.a_batch);
    ac_arg_long(l, d.b_batch ? panels * d.K * panel(lim) : 0);
    one_item_grid(l, panels, AC_CEIL_DIV(tiles, (int64_t)run), d.batch);
}

/* ------------------------------------------------------------------------------------------ conv_pack(w) -> [panels, taps, C, panel]
 * at.i: 1 storage type, 3 lanes */

static int infer_conv_pack(ac_graph *g, ac_node *n)
{
    const ac_shape *w = ac_shape_of(g, n->in[0]);
    int vw = n->at.i[PK_VW];

    n->type = (ac_type)n->at.i[PK_TYPE];
    n->shape = (ac_shape){4, {AC_CEIL_DIV(w->d[0], (int64_t)2 * vw), w->d[2] * w->d[3], w->d[1], 2 * vw}};
    return 1;
}

static void ref_conv_pack(const ac_ref *r)
{
    const ac_shape *w = r->shape[0], *y = &r->n->shape;
    int64_t taps = y->d[1], C = y->d[2], lanes = y->d[3], i = 0;

    for (int64_t p = 0; p < y->d[0]; p++)
        for (int64_t t = 0; t < taps; t++)
            for (int64_t c = 0; c < C; c++)
                for (int64_t lane = 0; lane < lanes; lane++, i++) {
                    int64_t k = p * lanes + lane;
                    r->out[i] = k < w->d[0] ? r->in[0][(k * C + c) * taps + t] : 0;
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
    one_item_grid(l, AC_CEIL_DIV(C * taps, (int64_t)64), n->shape.d[0], 1);
}

static const ac_kern kern_conv_pack[] = {{"conv_pack", "conv", AC_CLASS_CPU, NULL, NULL, setup_conv_pack}, {0}};
static const ac_case case_conv_pack[] = {{"37x5x3x3", AC_SMALL, {{4, {37, 5, 3, 3}}}, {{0, AC_F32, 0, 8}, {0}}, 1e-7},
                                         {"32x16x1x2", AC_SMALL, {{4, {32, 16, 1, 2}}}, {{0, AC_F32, 0, 16}, {0}}, 1e-7},
                                         {"70x24x3x3_f16", AC_SMALL, {{4, {70, 24, 3, 3}}}, {{0, AC_F16, 0, 4}, {0}}, 6e-4},
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

enum { ZEROS = 5, DEPTH = 512 }; /* input of the kernel: zeros that stand for pixels outside; DEPTH as in cl/common.h */

void ac_conv_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    ac_at at = {.i = {[PK_TYPE] = ac_pack_type(g, n->in[1]), [PK_VW] = lim->vw}};

    n->in[1] = ac_add_node(g, &ac_op_conv_pack, &n->in[1], 1, &at);
    n->in[ZEROS] = ac_fill(g, ac_dims(1, DEPTH), 0);
}

void ac_conv_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_node *w = ac_at_node(g, n->in[1]);
    int64_t M, tiles, panels = w->shape.d[0];
    int run;
    ac_cv d;

    ac_conv_dims(g, n, &d);
    M = (int64_t)d.B * d.OH * d.OW;
    tiles = AC_CEIL_DIV(M, (int64_t)tile_rows(lim));
    run = run_length(lim, tiles, panels);
    epilogue_defs(lim, n, l);
    ac_def(l, "WT=%d", w->type);
    if (d.up_h)
        ac_def(l, "UPSAMPLE");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    ac_arg_buf(l, ZEROS);
    epilogue_args(n, l);
    ac_arg_int(l, M);
    ac_arg_int(l, d.H);
    ac_arg_int(l, d.W);
    ac_arg_int(l, d.C);
    ac_arg_int(l, d.K);
    ac_arg_int(l, d.OH);
    ac_arg_int(l, d.OW);
    ac_arg_int(l, d.R);
    ac_arg_int(l, d.S);
    ac_arg_int(l, d.stride);
    ac_arg_int(l, d.stride);
    ac_arg_int(l, d.top);
    ac_arg_int(l, d.left);
    if (d.up_h) {
        ac_arg_int(l, d.up_h);
        ac_arg_int(l, d.up_w);
    }
    ac_arg_int(l, run);
    one_item_grid(l, panels, AC_CEIL_DIV(tiles, (int64_t)run), 1);
}

/* ------------------------------------------------------------------------------------------ attn_pack(k, v): keys and values as attn_vec reads them
 * at.i: 0 heads, 3 lanes. First the keys of all heads, then the values; layout in cl/attn.cl. */

enum { PK_HEADS };

static int64_t head_size(const ac_shape *k, const ac_node *n)
{
    return k->d[2] / n->at.i[PK_HEADS];
}

static int infer_attn_pack(ac_graph *g, ac_node *n)
{
    const ac_shape *k = ac_shape_of(g, n->in[0]);
    int64_t vw = n->at.i[PK_VW], D = head_size(k, n), keys = AC_CEIL_DIV(k->d[1], 2 * vw) * 2 * vw, lanes = AC_CEIL_DIV(D, vw) * vw;

    n->shape = (ac_shape){2, {k->d[0] * n->at.i[PK_HEADS], keys * D + k->d[1] * lanes}};
    return 1;
}

static void setup_attn_pack(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_shape *k = ac_shape_of(g, n->in[0]);

    (void)lim;
    ac_def(l, "VW=%d", n->at.i[PK_VW]);
    ac_def(l, "D=%d", (int)head_size(k, n));
    for (int i = -1; i < 2; i++)
        ac_arg_buf(l, i);
    ac_arg_int(l, k->d[1]);
    ac_arg_int(l, n->at.i[PK_HEADS]);
    one_item_grid(l, AC_CEIL_DIV(k->d[1], (int64_t)2 * n->at.i[PK_VW]), k->d[0] * n->at.i[PK_HEADS], 1);
}

static const ac_kern kern_attn_pack[] = {{"attn_pack", "attn", AC_CLASS_CPU, NULL, NULL, setup_attn_pack}, {0}};
const ac_op ac_op_attn_pack = {.name = "attn_pack", .n_in = 2, .infer = infer_attn_pack, .kern = kern_attn_pack};

/* ------------------------------------------------------------------------------------------ attn_vec */

bool ac_attn_vec_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)lim;
    return n->shape.d[2] / n->at.i[PK_HEADS] <= 512 && (!n->at.i[1] || ac_shape_of(g, n->in[0])->d[1] == n->at.i[2]);
}

void ac_attn_vec_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    ac_at at = {.i = {[PK_HEADS] = n->at.i[PK_HEADS], [PK_VW] = lim->vw}};

    n->in[1] = ac_add_node(g, &ac_op_attn_pack, &n->in[1], 2, &at);
    n->in[2] = AC_NONE;
}

void ac_attn_vec_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int heads = n->at.i[PK_HEADS];

    (void)g;
    ac_def(l, "VW=%d", lim->vw);
    ac_def(l, "ROWS=%d", tile_rows(lim));
    ac_def(l, "D=%d", (int)(n->shape.d[2] / heads));
    if (n->at.i[1])
        ac_def(l, "CAUSAL");
    for (int i = -1; i < 2; i++)
        ac_arg_buf(l, i);
    ac_arg_int(l, n->shape.d[1]);
    ac_arg_int(l, n->at.i[2]);
    ac_arg_int(l, heads);
    ac_arg_float(l, (double)n->at.f[0]);
    one_item_grid(l, AC_CEIL_DIV(n->shape.d[1], (int64_t)tile_rows(lim)), n->shape.d[0] * heads, 1);
}
