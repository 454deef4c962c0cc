/* attn_vec.c - host side of the CPU (`_vec`) kernels of attention and its gradient, cl/attn.cl. */
#include "ops/attn.h"
#include "ops/vec.h"

/* Rows of a register tile of two vectors: 8 divide the usual numbers of tokens, and with 16 lanes they are enough to
 * keep the multipliers busy. A block has 8 tiles (QUERIES and KEYS in cl/attn.cl). */
static int tile_rows(const ac_limits *lim)
{
    return lim->vw == 16 ? 8 : 6;
}

static int panel(const ac_limits *lim)
{
    return 2 * lim->vw;
}

/* Queries or keys of a work-item: a multiple of `unit`, a block at most, fewer where every compute unit would not have
 * several items. */
static int64_t step_of(const ac_limits *lim, int64_t n, int64_t unit, int64_t heads)
{
    enum { ITEMS_PER_UNIT = 4 };
    const int64_t tiles = AC_CEIL_DIV(n, unit), most = 8 * tile_rows(lim) / unit;
    const int64_t wanted = AC_CEIL_DIV((int64_t)lim->units * ITEMS_PER_UNIT, heads);
    const int64_t items = AC_MIN(tiles, AC_MAX(wanted, AC_CEIL_DIV(tiles, most)));

    return AC_CEIL_DIV(tiles, items) * unit;
}

/* ------------------------------------------------------------------------------------------ attn_kv(k, v): keys and
 * values as the kernels read them, a row for each head. at.i: 0 heads, 1 for the gradient, 2 lanes */

enum { PK_HEADS, PK_GRAD, PK_LANES };

static int infer_pack(ac_graph *g, ac_node *n)
{
    const ac_shape *k = ac_shape_of(g, n->in[0]);
    const int64_t E = n->at.i[PK_HEADS], D = k->d[2] / E, lanes = n->at.i[PK_LANES];
    const int64_t panels = AC_CEIL_DIV(k->d[1], 2 * lanes) * 2 * lanes * D;
    const int64_t vectors = AC_CEIL_DIV(D, lanes), pitch = (vectors + (vectors % 8 == 0)) * lanes;

    n->shape = (ac_shape){2, {k->d[0] * E, (n->at.i[PK_GRAD] ? 2 : 1) * panels + k->d[1] * pitch}};
    return 1;
}

static void defs(int lanes, int rows, int64_t D, ac_launch *l)
{
    ac_def(l, "VW=%d", lanes);
    ac_def(l, "ROWS=%d", rows);
    ac_def(l, "D=%d", (int)D);
}

static void setup_pack(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_shape *k = ac_shape_of(g, n->in[0]);
    const int E = n->at.i[PK_HEADS];

    defs(n->at.i[PK_LANES], tile_rows(lim), k->d[2] / E, l);
    if (n->at.i[PK_GRAD])
        ac_def(l, "GRAD");
    for (int i = -1; i < 2; i++)
        ac_arg_buf(l, i);
    ac_arg_int(l, k->d[1]);
    ac_arg_int(l, E);
    ac_one_item_grid(l, AC_CEIL_DIV(k->d[1], (int64_t)2 * n->at.i[PK_LANES]), k->d[0] * E, 1);
}

static const ac_kern kern_pack[] = {{"attn_kv", "attn", AC_CLASS_CPU, NULL, NULL, setup_pack}, {0}};
const ac_op ac_op_attn_kv = {.name = "attn_kv", .n_in = 2, .infer = infer_pack, .kern = kern_pack};

/* Keys and values, inputs 1 and 2, become packed ones in input 1. */
static void pack(const ac_limits *lim, ac_graph *g, ac_node *n, bool grad)
{
    const ac_at at = {.i = {[PK_HEADS] = n->at.i[AC_ATTN_HEADS], [PK_GRAD] = grad, [PK_LANES] = lim->vw}};

    n->in[1] = ac_add_node(g, &ac_op_attn_kv, &n->in[1], 2, &at);
    n->in[2] = AC_NONE;
}

void ac_attn_cpu_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    pack(lim, g, n, false);
}

void ac_attn_cpu_grad_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    pack(lim, g, n, true);
}

/* ------------------------------------------------------------------------------------------ the three kernels */

/* The kernels' private memory is a few hundred KiB at most. */
bool ac_attn_cpu_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)lim;
    return ac_attn_dims(g, n).D <= 512;
}

/* Options, and the arguments up to the number of heads. */
static void first_args(const ac_limits *lim, const ac_node *n, const ac_attn *d, ac_launch *l)
{
    defs(lim->vw, tile_rows(lim), d->D, l);
    if (n->at.i[AC_ATTN_CAUSAL])
        ac_def(l, "CAUSAL");
    ac_arg_buf(l, -1);
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] != AC_NONE)
            ac_arg_buf(l, k);
    ac_arg_int(l, d->T);
    ac_arg_int(l, d->S);
    ac_arg_int(l, d->E);
}

/* attn_vec and attn_bq_vec take the same arguments after the buffers. */
void ac_attn_cpu_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_attn d = ac_attn_dims(g, n);
    const int64_t step = step_of(lim, d.T, tile_rows(lim), d.B * d.E);

    first_args(lim, n, &d, l);
    ac_arg_int(l, step);
    ac_arg_float(l, ac_attn_scale2(n));
    ac_one_item_grid(l, AC_CEIL_DIV(d.T, step), d.B * d.E, 1);
}

void ac_attn_cpu_bkv_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_attn d = ac_attn_dims(g, n);
    const int64_t step = step_of(lim, d.S, panel(lim), d.B * d.E * d.parts);

    first_args(lim, n, &d, l);
    ac_arg_int(l, step);
    ac_arg_int(l, ac_attn_span(&d));
    ac_arg_float(l, ac_attn_scale2(n));
    ac_one_item_grid(l, AC_CEIL_DIV(d.S, step), d.B * d.E, d.parts);
}
