/* embed.c - table look-up, sinusoids of time steps, normal random numbers. */
#include "ops/ops.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"

/* ------------------------------------------------------------------------------------------ embed */
/* table [V,C], ids [B,T] -> [B,T,C] */

static int infer_embed(ac_graph *g, ac_node *n)
{
    const ac_shape *t = ac_shape_of(g, n->in[0]), *ids = ac_shape_of(g, n->in[1]);

    if (t->n != 2 || ids->n != 2)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "embed: a table [V,C] and ids [B,T] are needed");
    n->shape = (ac_shape){3, {ids->d[0], ids->d[1], t->d[1]}};
    return 1;
}

static void ref_embed(const ac_ref *r)
{
    int64_t C = r->shape[0]->d[1], rows = ac_count(r->shape[1]);

    for (int64_t m = 0; m < rows; m++)
        for (int64_t c = 0; c < C; c++)
            r->out[m * C + c] = r->in[0][(int64_t)r->in[1][m] * C + c];
}

static void vjp_embed(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node *n = ac_at_node(g, y);
    gx[0] = ac_embed_bx(g, n->in[1], gy, ac_shape_of(g, n->in[0])->d[0]);
}

static void prep_embed(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    (void)lim;
    n->in[0] = ac_stored(g, n->in[0]);
}

static void setup_embed(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_node *t = ac_at_node(g, n->in[0]);

    (void)lim;
    ac_def(l, "ST=%d", t->type);
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, ac_count(&n->shape));
    ac_arg_int(l, t->shape.d[1]);
    ac_arg_int(l, t->shape.d[0]);
    ac_grid1(l, (size_t)ac_count(&n->shape), 64);
}

static const ac_kern kern_embed[] = {{"embed_any", "embed", AC_CLASS_ANY, NULL, prep_embed, setup_embed}, {0}};
static const ac_case case_embed[] = {{"50x24_2x7", AC_SMALL, {{2, {50, 24}}, {2, {2, 7}}}, {{0}, {0}}, 1e-7}, {0}};
const ac_op ac_op_embed = {.name = "embed",
                           .n_in = 2,
                           .typed = 1,
                           .ints = 2,
                           .infer = infer_embed,
                           .vjp = vjp_embed,
                           .ref = ref_embed,
                           .kern = kern_embed,
                           .cases = case_embed};

ac_id ac_embed(ac_graph *g, ac_id table, ac_id ids)
{
    return ac_add_node(g, &ac_op_embed, (ac_id[]){table, ids}, 2, NULL);
}

/* ------------------------------------------------------------------------------------------ embed_bx */
/* ids [B,T], gy [B,T,C] -> [V,C], the gradient of the table: row v takes the sum of gy where the id is v, in the order
 * of the ids. at.i: 0 V */

static int infer_embed_bx(ac_graph *g, ac_node *n)
{
    const ac_shape *ids = ac_shape_of(g, n->in[0]), *gy = ac_shape_of(g, n->in[1]);

    if (ids->n != 2 || gy->n != 3 || gy->d[0] != ids->d[0] || gy->d[1] != ids->d[1] || n->at.i[0] < 1)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "embed_bx: ids [B,T] and a gradient [B,T,C] are needed, and a row");
    n->shape = (ac_shape){2, {n->at.i[0], gy->d[2]}};
    return 1;
}

static void ref_embed_bx(const ac_ref *r)
{
    int64_t C = r->n->shape.d[1], count = ac_count(r->shape[0]);

    memset(r->out, 0, (size_t)ac_count(&r->n->shape) * sizeof *r->out);
    for (int64_t m = 0; m < count; m++)
        for (int64_t c = 0; c < C; c++)
            r->out[(int64_t)r->in[0][m] * C + c] += r->in[1][m * C + c];
}

/* Linear in gy: the gradient's own gradient looks its rows up. */
static void vjp_embed_bx(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    gx[1] = ac_embed(g, gy, ac_at_node(g, y)->in[0]);
}

/* A work-item has a block of rows of the table and a vector of channels. */
static void setup_embed_bx(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    bool cpu = lim->cls == AC_CLASS_CPU;
    int vw = cpu ? lim->vw : 4, span = cpu ? 64 : 1, rows = cpu ? 1024 : 64;
    size_t items = (size_t)AC_CEIL_DIV(n->shape.d[1], (int64_t)vw * span), local = cpu ? 1 : AC_MIN((size_t)64, l->wg);

    ac_def(l, "VW=%d", vw);
    ac_def(l, "SPAN=%d", span);
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_int(l, ac_count(ac_shape_of(g, n->in[0])));
    ac_arg_int(l, n->shape.d[0]);
    ac_arg_int(l, n->shape.d[1]);
    ac_arg_int(l, rows);
    l->dims = 2;
    l->local[0] = local;
    l->local[1] = 1;
    l->global[0] = AC_CEIL_DIV(items, local) * local;
    l->global[1] = (size_t)AC_CEIL_DIV(n->shape.d[0], (int64_t)rows);
}

static const ac_kern kern_embed_bx[] = {{"embed_bx", "embed", AC_CLASS_ANY, NULL, NULL, setup_embed_bx}, {0}};
static const ac_case case_embed_bx[] = {
    {"37x2_50x24", AC_SMALL, {{2, {37, 2}}, {3, {37, 2, 24}}}, {{50}, {0}}, 1e-6},
    {"1x40_1x5", AC_SMALL, {{2, {1, 40}}, {3, {1, 40, 5}}}, {{1}, {0}}, 1e-6},
    {"9x3_1100x33", AC_SMALL, {{2, {9, 3}}, {3, {9, 3, 33}}}, {{1100}, {0}}, 1e-6},
    {"308_49408x1024", AC_FULL, {{2, {308, 1}}, {3, {308, 1, 1024}}}, {{49408}, {0}}, 1e-6},
    {0}};
const ac_op ac_op_embed_bx = {.name = "embed_bx",
                              .n_in = 2,
                              .ints = 1,
                              .infer = infer_embed_bx,
                              .vjp = vjp_embed_bx,
                              .ref = ref_embed_bx,
                              .kern = kern_embed_bx,
                              .cases = case_embed_bx};

ac_id ac_embed_bx(ac_graph *g, ac_id ids, ac_id gy, int64_t rows)
{
    ac_at at = {.i = {(int32_t)rows}};
    return ac_add_node(g, &ac_op_embed_bx, (ac_id[]){ids, gy}, 2, &at);
}

/* ------------------------------------------------------------------------------------------ time_embed */
/* t [B] -> [B, dim]. at.i[0] dim, at.i[1] flip (cos before sin), at.f[0] shift. Frequencies exp(-ln(10000) i / (dim/2 -
 * shift)), as diffusers' get_timestep_embedding makes them in f32: the reference uses floats too, because t = 999
 * magnifies their rounding. */

static int infer_time_embed(ac_graph *g, ac_node *n)
{
    const ac_shape *t = ac_shape_of(g, n->in[0]);

    if (t->n != 1 || n->at.i[0] < 2 || n->at.i[0] % 2)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "time_embed: times [B] and an even width are needed");
    n->shape = (ac_shape){2, {t->d[0], n->at.i[0]}};
    return 1;
}

static void ref_time_embed(const ac_ref *r)
{
    int half = r->n->at.i[0] / 2, flip = r->n->at.i[1];

    for (int64_t b = 0; b < r->shape[0]->d[0]; b++)
        for (int i = 0; i < half; i++) {
            float f = expf(-9.210340371976184f * (float)i / ((float)half - r->n->at.f[0])), a = (float)r->in[0][b] * f;
            double *y = r->out + b * 2 * half;
            y[flip ? half + i : i] = sin((double)a);
            y[flip ? i : half + i] = cos((double)a);
        }
}

static void setup_time_embed(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    (void)lim, (void)g;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, n->shape.d[0]);
    ac_arg_int(l, n->at.i[0] / 2);
    ac_arg_int(l, n->at.i[1]);
    ac_arg_float(l, (double)n->at.f[0]);
    ac_grid1(l, (size_t)(ac_count(&n->shape) / 2), 64);
}

static const ac_kern kern_time_embed[] = {{"time_embed_any", "embed", AC_CLASS_ANY, NULL, NULL, setup_time_embed}, {0}};
/* Tolerance: exp may be off by 3 ulp, which an angle of 999 makes 1.8e-4. */
static const ac_case case_time_embed[] = {{"3x320_flip", AC_SMALL, {{1, {3}}}, {{320, 1}, {0}}, 2e-4},
                                          {"2x10_shift", AC_SMALL, {{1, {2}}}, {{10, 0}, {1}}, 2e-4},
                                          {0}};
const ac_op ac_op_time_embed = {.name = "time_embed",
                                .n_in = 1,
                                .infer = infer_time_embed,
                                .ref = ref_time_embed,
                                .kern = kern_time_embed,
                                .cases = case_time_embed};

ac_id ac_time_embed(ac_graph *g, ac_id t, int dim, bool flip, double shift)
{
    ac_at at = {.i = {dim, flip}, .f = {(float)shift}};
    return ac_add_node(g, &ac_op_time_embed, &t, 1, &at);
}

/* ------------------------------------------------------------------------------------------ randn */
/* key: low and high word of the seed, stream, call. Element 4i+j from word j of Philox4x32-10 at counter (call, stream,
 * i, 0); Box-Muller on the pairs (0,1) and (2,3). at.i[0..3] dimensions, at.i[4] their number. */

static int infer_randn(ac_graph *g, ac_node *n)
{
    if (ac_count(ac_shape_of(g, n->in[0])) != 4)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "randn: a key of 4 words is needed");
    n->shape.n = n->at.i[4];
    for (int k = 0; k < n->shape.n; k++)
        n->shape.d[k] = n->at.i[k];
    return 1;
}

static void ref_randn(const ac_ref *r)
{
    const double *k = r->in[0];
    uint32_t key[2] = {(uint32_t)(int32_t)k[0], (uint32_t)(int32_t)k[1]};
    int64_t count = ac_count(&r->n->shape);

    for (int64_t i = 0; i < count; i++) {
        uint32_t ctr[4] = {(uint32_t)(int32_t)k[3], (uint32_t)(int32_t)k[2], (uint32_t)(i / 4), 0}, w[4];
        double u, a;
        ac_philox4x32(ctr, key, w);
        u = ((w[i % 4 / 2 * 2] >> 8) + 0.5) * 0x1p-24;
        a = 2 * M_PI * (w[i % 4 / 2 * 2 + 1] >> 8) * 0x1p-24;
        r->out[i] = sqrt(-2 * log(u)) * (i % 2 ? sin(a) : cos(a));
    }
}

static void setup_randn(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    int64_t count = ac_count(&n->shape);

    (void)lim, (void)g;
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, count);
    ac_grid1(l, (size_t)AC_CEIL_DIV(count, (int64_t)4), 64);
}

static const ac_kern kern_randn[] = {{"randn_any", "embed", AC_CLASS_ANY, NULL, NULL, setup_randn}, {0}};
static const ac_case case_randn[] = {{"3x7x11", AC_SMALL, {{1, {4}}}, {{3, 7, 11, 0, 3}, {0}}, 1e-5},
                                     {"1", AC_SMALL, {{1, {4}}}, {{1, 0, 0, 0, 1}, {0}}, 1e-5},
                                     {0}};
const ac_op ac_op_randn = {.name = "randn",
                           .n_in = 1,
                           .ints = 1,
                           .infer = infer_randn,
                           .ref = ref_randn,
                           .kern = kern_randn,
                           .cases = case_randn};

ac_id ac_randn(ac_graph *g, ac_id key, ac_shape s)
{
    ac_at at = {{0}, {0}};

    for (int k = 0; k < s.n; k++)
        at.i[k] = (int32_t)s.d[k];
    at.i[4] = s.n;
    return ac_add_node(g, &ac_op_randn, &key, 1, &at);
}
