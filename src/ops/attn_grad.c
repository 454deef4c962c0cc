/* attn_grad.c - the gradient of attention in two steps that compute the scores again, so that no T x S matrix is ever
 * in memory and every sum has a fixed order (Dao et al., FlashAttention-2, 2023; here without atomics).
 *
 * With L_t the log-sum-exp of query t's scores scale <q_t, k_s>, and D_t = <y_t, gy_t>:
 *
 *   p_ts = e^(scale <q_t, k_s> - L_t)     g_ts = p_ts (<gy_t, v_s> - D_t)
 *   gq_t = scale sum_s g_ts k_s           gk_s = scale sum_t g_ts q_t           gv_s = sum_t p_ts gy_t
 *
 * attn_bq goes through the keys for each query and finds L on the way; attn_bkv goes through the queries for each key.
 * L is kept in units of ln 2, because the kernels compute powers of two. No network differentiates attention twice, so
 * these ops have no gradients of their own. */
#include "ops/attn.h"
#include "ops/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Inputs of both; then attn_bq has y and gy, attn_bkv gy and attn_bq's result. */
enum { IN_Q, IN_K, IN_V, BQ_Y, BQ_GY, BKV_GY = 3, BKV_BQ };

/* q and gy (both like y) fit k and v? */
static bool fits(const ac_graph *g, const ac_node *n, int gy)
{
    const ac_shape *q = ac_shape_of(g, n->in[IN_Q]), *k = ac_shape_of(g, n->in[IN_K]);

    return q->n == 3 && k->n == 3 && q->d[0] == k->d[0] && q->d[2] == k->d[2] && n->at.i[AC_ATTN_HEADS] > 0 &&
           q->d[2] % n->at.i[AC_ATTN_HEADS] == 0 && k->d[1] == n->at.i[AC_ATTN_KEYS] &&
           ac_same_shape(k, ac_shape_of(g, n->in[IN_V])) && ac_same_shape(q, ac_shape_of(g, n->in[gy]));
}

/* Elements of attn_bq's result: the gradient, then L, then D, both [B, E, T]. */
static int64_t bq_count(ac_attn d)
{
    return d.B * d.T * (d.C + 2 * d.E);
}

/* ------------------------------------------------------------------------------------------ attn_bq(q, k, v, y, gy) */

static int infer_bq(ac_graph *g, ac_node *n)
{
    if (!fits(g, n, BQ_GY) || !ac_same_shape(ac_shape_of(g, n->in[BQ_Y]), ac_shape_of(g, n->in[BQ_GY])))
        return ac_graph_fail(g, ADDCL_E_INTERNAL, "attn_bq: shapes do not fit");
    n->shape = (ac_shape){1, {bq_count(ac_attn_dims(g, n))}};
    return 1;
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Keys that query t sees. */
static int64_t seen_by(const ac_node *n, ac_attn d, int64_t t)
{
    return n->at.i[AC_ATTN_CAUSAL] ? AC_MIN(t + 1, d.S) : d.S;
}

/* Query t of head e of image b; p: room for S numbers. */
static void ref_bq_row(const ac_ref *r, ac_attn d, int64_t b, int64_t e, int64_t t, double *p)
{
    const int64_t at = (b * d.T + t) * d.C + e * d.D, keys = b * d.S * d.C + e * d.D, seen = seen_by(r->n, d, t);
    const double *k = r->in[IN_K] + keys, *v = r->in[IN_V] + keys, *gy = r->in[BQ_GY] + at;
    const double scale = (double)r->n->at.f[0], D = dot(r->in[BQ_Y] + at, gy, d.D);
    double *L = r->out + d.B * d.T * d.C + (b * d.E + e) * d.T + t, top = -INFINITY, sum = 0;

    for (int64_t s = 0; s < seen; s++) {
        p[s] = scale * dot(r->in[IN_Q] + at, k + s * d.C, d.D);
        top = fmax(top, p[s]);
    }
    for (int64_t s = 0; s < seen; s++)
        sum += exp(p[s] - top);
    L[0] = (top + log(sum)) / M_LN2;
    L[d.B * d.E * d.T] = D;
    for (int64_t s = 0; s < seen; s++) {
        const double g = scale * exp(p[s] - M_LN2 * L[0]) * (dot(gy, v + s * d.C, d.D) - D);
        for (int64_t i = 0; i < d.D; i++)
            r->out[at + i] += g * k[s * d.C + i];
    }
}

static void ref_bq(const ac_ref *r)
{
    const ac_attn d = ac_attn_dims(r->g, r->n);
    double *p = ac_calloc((size_t)d.S, sizeof *p);

    for (int64_t i = 0; p && i < d.B * d.E * d.T; i++)
        ref_bq_row(r, d, i / d.T / d.E, i / d.T % d.E, i % d.T, p);
    free(p);
}

/* ------------------------------------------------------------------------------------------ attn_bkv(q, k, v, gy, bq)
 * -> [parts, 2 B, S, E D]: gradients of k, then of v, by each part of the queries. Few keys give too little work that
 * can be done at once; with parts there is more, and their sum is small. */

static int infer_bkv(ac_graph *g, ac_node *n)
{
    const ac_attn d = ac_attn_dims(g, n);

    if (!fits(g, n, BKV_GY) || ac_count(ac_shape_of(g, n->in[BKV_BQ])) != bq_count(d) || d.parts < 1 || d.parts > d.T)
        return ac_graph_fail(g, ADDCL_E_INTERNAL, "attn_bkv: shapes do not fit");
    n->shape = (ac_shape){4, {d.parts, 2 * d.B, d.S, d.C}};
    return 1;
}

/* What query t of head e of image b adds to its part's gradients. */
static void ref_bkv_row(const ac_ref *r, ac_attn d, int64_t b, int64_t e, int64_t t)
{
    const int64_t at = (b * d.T + t) * d.C + e * d.D, keys = b * d.S * d.C + e * d.D, values = d.B * d.S * d.C;
    const double *q = r->in[IN_Q] + at, *gy = r->in[BKV_GY] + at, scale = (double)r->n->at.f[0];
    const double *L = r->in[BKV_BQ] + d.B * d.T * d.C + (b * d.E + e) * d.T + t, D = L[d.B * d.E * d.T];
    double *out = r->out + t / ac_attn_span(&d) * 2 * values + keys;

    for (int64_t s = 0; s < seen_by(r->n, d, t); s++) {
        const double p = exp(scale * dot(q, r->in[IN_K] + keys + s * d.C, d.D) - M_LN2 * L[0]);
        const double g = scale * p * (dot(gy, r->in[IN_V] + keys + s * d.C, d.D) - D);
        for (int64_t i = 0; i < d.D; i++) {
            out[s * d.C + i] += g * q[i];
            out[values + s * d.C + i] += p * gy[i];
        }
    }
}

static void ref_bkv(const ac_ref *r)
{
    const ac_attn d = ac_attn_dims(r->g, r->n);

    for (int64_t i = 0; i < d.B * d.E * d.T; i++)
        ref_bkv_row(r, d, i / d.T / d.E, i / d.T % d.E, i % d.T);
}

/* The five products that cannot be avoided, two in attn_bq and three here; the scores made again are not counted. */
static double flop_bkv(const ac_graph *g, const ac_node *n)
{
    return 1.5 * ac_attn_flop(g, n);
}

/* ------------------------------------------------------------------------------------------ kernels for every device
 */

/* Buffers: output and all five inputs. */
static void all_bufs(const ac_node *n, ac_launch *l)
{
    if (n->at.i[AC_ATTN_CAUSAL])
        ac_def(l, "CAUSAL");
    for (int k = -1; k < 5; k++)
        ac_arg_buf(l, k);
}

enum { CHUNK = 16 }; /* columns of a work-item, as in cl/attn_tile.cl */

static void setup_bq_any(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_attn d = ac_attn_dims(g, n);
    const int64_t count = d.B * d.T * d.E * AC_CEIL_DIV(d.D, (int64_t)CHUNK);

    (void)lim;
    all_bufs(n, l);
    ac_arg_int(l, count);
    ac_arg_int(l, d.B);
    ac_arg_int(l, d.T);
    ac_arg_int(l, d.S);
    ac_arg_int(l, d.E);
    ac_arg_int(l, d.D);
    ac_arg_float(l, ac_attn_scale2(n));
    ac_grid1(l, (size_t)count, 64);
}

static void setup_bkv_any(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_attn d = ac_attn_dims(g, n);
    const int64_t count = d.parts * d.B * d.S * d.E * AC_CEIL_DIV(d.D, (int64_t)CHUNK);

    (void)lim;
    all_bufs(n, l);
    ac_arg_int(l, count);
    ac_arg_int(l, d.B);
    ac_arg_int(l, d.T);
    ac_arg_int(l, d.S);
    ac_arg_int(l, d.E);
    ac_arg_int(l, d.D);
    ac_arg_int(l, ac_attn_span(&d));
    ac_arg_float(l, ac_attn_scale2(n));
    ac_grid1(l, (size_t)count, 64);
}

/* ------------------------------------------------------------------------------------------ kernels for GPUs */

static bool tile_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    (void)g, (void)n;
    return lim->max_wg >= 64 && lim->max_item[0] >= 64 && lim->local_mem >= 16 << 10;
}

/* Work-groups of 128 for blocks of `own` rows, `times` over; of 64 where they would be too few to keep the device busy,
 * and where 8 columns an item take the registers. An item has 4 `most` columns at most, so wide heads are cut in
 * chunks. The arguments up to their number. */
static void tile_args(const ac_limits *lim, const ac_node *n, const ac_attn *d, int64_t own, int64_t times, int most,
                      ac_launch *l)
{
    const int ws = d->D <= 32 ? 8 : 16;
    const int64_t chunks = AC_CEIL_DIV(d->D, (int64_t)4 * ws * most), width = AC_CEIL_DIV(d->D, chunks);
    const int dj = (int)AC_CEIL_DIV(width, (int64_t)(4 * ws));
    int wg = 128;

    while (wg > 16 && (size_t)wg > l->wg)
        wg /= 2;
    if (wg > 64 &&
        (dj > 1 || AC_CEIL_DIV(own, (int64_t)(4 * wg / ws)) * d->E * chunks * times < 2 * (int64_t)lim->units))
        wg = 64;
    ac_def(l, "WQ=%d", wg / ws);
    ac_def(l, "WS=%d", ws);
    ac_def(l, "DJ=%d", dj);
    if (d->D % 4 == 0)
        ac_def(l, "QUADS");
    all_bufs(n, l);
    ac_arg_int(l, d->T);
    ac_arg_int(l, d->S);
    ac_arg_int(l, d->D);
    ac_arg_int(l, d->C);
    ac_arg_int(l, chunks);
    l->dims = 3;
    l->local[0] = (size_t)wg;
    l->local[1] = l->local[2] = 1;
    l->global[0] = (size_t)(AC_CEIL_DIV(own, (int64_t)(4 * wg / ws)) * wg);
    l->global[1] = (size_t)(d->E * chunks);
    l->global[2] = (size_t)times;
}

static void setup_bq_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_attn d = ac_attn_dims(g, n);

    ac_def(l, "GRAD=1");
    tile_args(lim, n, &d, d.T, d.B, d.D % 4 ? 1 : 2, l);
    ac_arg_float(l, ac_attn_scale2(n));
}

static void setup_bkv_tile(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    const ac_attn d = ac_attn_dims(g, n);

    ac_def(l, "GRAD=2");
    tile_args(lim, n, &d, d.S, d.B * d.parts, 1, l);
    ac_arg_int(l, d.B);
    ac_arg_int(l, ac_attn_span(&d));
    ac_arg_float(l, ac_attn_scale2(n));
}

/* ------------------------------------------------------------------------------------------ rows */

static const ac_kern kern_bq[] = {
    {"attn_bq_vec", "attn", AC_CLASS_CPU, ac_attn_cpu_accepts, ac_attn_cpu_grad_prep, ac_attn_cpu_setup},
    {"attn_bq_tile", "attn_tile", AC_CLASS_GPU, tile_accepts, NULL, setup_bq_tile},
    {"attn_bq_any", "attn_tile", AC_CLASS_ANY, NULL, NULL, setup_bq_any},
    {0}};
static const ac_kern kern_bkv[] = {
    {"attn_bkv_vec", "attn", AC_CLASS_CPU, ac_attn_cpu_accepts, ac_attn_cpu_grad_prep, ac_attn_cpu_bkv_setup},
    {"attn_bkv_tile", "attn_tile", AC_CLASS_GPU, tile_accepts, NULL, setup_bkv_tile},
    {"attn_bkv_any", "attn_tile", AC_CLASS_ANY, NULL, NULL, setup_bkv_any},
    {0}};

/* Random L and D instead of true ones make the gradients of attn_bkv sums of terms up to e^|score| 2^|L| of either
 * sign, so their error is measured against a larger number than they are; 1e-5 of the largest value holds nevertheless.
 */
#define Q(B, T, E, D)                                                                                                  \
    {                                                                                                                  \
        3,                                                                                                             \
        {                                                                                                              \
            B, T, (E) * (D)                                                                                            \
        }                                                                                                              \
    }
#define BQ(name, B, T, S, E, D, causal, scale, tags)                                                                   \
    {                                                                                                                  \
        name, tags, {Q(B, T, E, D), Q(B, S, E, D), Q(B, S, E, D), Q(B, T, E, D), Q(B, T, E, D)},                       \
            {{E, causal, S}, {scale}}, 0                                                                               \
    }
static const ac_case cases_bq[] = {BQ("1x1_d4", 1, 1, 1, 1, 4, 0, 0.5f, AC_SMALL),
                                   BQ("1x1_d64", 1, 1, 1, 1, 64, 0, 0.125f, AC_SMALL),
                                   BQ("b2_7x7_e3_d8", 2, 7, 7, 3, 8, 0, 0.35f, AC_SMALL),
                                   BQ("b2_13x77_e2_d13", 2, 13, 77, 2, 13, 0, 0.28f, AC_SMALL),
                                   BQ("16x24_e3_d32", 1, 16, 24, 3, 32, 0, 0.18f, AC_SMALL),
                                   BQ("b3_16x16_e2_d32", 3, 16, 16, 2, 32, 0, 0.18f, AC_SMALL),
                                   BQ("65x129_e2_d32", 1, 65, 129, 2, 32, 0, 0.18f, AC_SMALL),
                                   BQ("64x64_d64", 1, 64, 64, 1, 64, 0, 0.125f, AC_SMALL),
                                   BQ("50x300_e2_d64", 1, 50, 300, 2, 64, 0, 0.125f, AC_SMALL),
                                   BQ("130x33_d40", 1, 130, 33, 1, 40, 0, 0.16f, AC_SMALL),
                                   BQ("25x40_d160", 1, 25, 40, 1, 160, 0, 0.08f, AC_SMALL),
                                   BQ("causal_77_e2_d4", 1, 77, 77, 2, 4, 1, 0.5f, AC_SMALL),
                                   BQ("causal_140_e2_d32", 1, 140, 140, 2, 32, 1, 0.18f, AC_SMALL),
                                   BQ("b2_causal_30_d80", 2, 30, 30, 1, 80, 1, 0.11f, AC_SMALL),
                                   BQ("causal_90x20_d16", 1, 90, 20, 1, 16, 1, 0.25f, AC_SMALL),
                                   BQ("causal_20x150_d16", 1, 20, 150, 1, 16, 1, 0.25f, AC_SMALL),
                                   BQ("5x4096x4096x64", 1, 4096, 4096, 5, 64, 0, 0.125f, AC_FULL),
                                   BQ("8x1024x1024x160", 1, 1024, 1024, 8, 160, 0, 0.08f, AC_FULL),
                                   BQ("1x4096x4096x512", 1, 4096, 4096, 1, 512, 0, 0.044f, AC_FULL),
                                   BQ("b64_2x256x256x32", 64, 256, 256, 2, 32, 0, 0.18f, AC_FULL),
                                   {0}};
const ac_op ac_op_attn_bq = {.name = "attn_bq",
                             .n_in = 5,
                             .infer = infer_bq,
                             .ref = ref_bq,
                             .flop = ac_attn_flop,
                             .kern = kern_bq,
                             .cases = cases_bq};

#define BKV(name, B, T, S, E, D, causal, parts, scale, tags)                                                           \
    {                                                                                                                  \
        name, tags,                                                                                                    \
            {Q(B, T, E, D), Q(B, S, E, D), Q(B, S, E, D), Q(B, T, E, D), {1, {(B) * (T) * ((E) * (D) + 2 * (E))}}},    \
            {{E, causal, S, parts}, {scale}}, 0                                                                        \
    }
static const ac_case cases_bkv[] = {BKV("1x1_d4", 1, 1, 1, 1, 4, 0, 1, 0.5f, AC_SMALL),
                                    BKV("1x1_d64", 1, 1, 1, 1, 64, 0, 1, 0.125f, AC_SMALL),
                                    BKV("b2_7x7_e3_d8", 2, 7, 7, 3, 8, 0, 1, 0.35f, AC_SMALL),
                                    BKV("b2_13x77_e2_d13", 2, 13, 77, 2, 13, 0, 1, 0.28f, AC_SMALL),
                                    BKV("16x24_e3_d32", 1, 16, 24, 3, 32, 0, 1, 0.18f, AC_SMALL),
                                    BKV("b3_16x16_e2_d32", 3, 16, 16, 2, 32, 0, 1, 0.18f, AC_SMALL),
                                    BKV("65x129_e2_d32", 1, 65, 129, 2, 32, 0, 1, 0.18f, AC_SMALL),
                                    BKV("64x64_d64", 1, 64, 64, 1, 64, 0, 1, 0.125f, AC_SMALL),
                                    BKV("50x300_e2_d64", 1, 50, 300, 2, 64, 0, 1, 0.125f, AC_SMALL),
                                    BKV("130x33_d40", 1, 130, 33, 1, 40, 0, 1, 0.16f, AC_SMALL),
                                    BKV("b2_130x33_e2_d40_parts3", 2, 130, 33, 2, 40, 0, 3, 0.16f, AC_SMALL),
                                    BKV("9x5_d16_parts6_last_empty", 1, 9, 5, 1, 16, 0, 6, 0.25f, AC_SMALL),
                                    BKV("25x40_d160", 1, 25, 40, 1, 160, 0, 1, 0.08f, AC_SMALL),
                                    BKV("causal_77_e2_d4", 1, 77, 77, 2, 4, 1, 1, 0.5f, AC_SMALL),
                                    BKV("causal_140_e2_d32", 1, 140, 140, 2, 32, 1, 1, 0.18f, AC_SMALL),
                                    BKV("b2_causal_30_d80", 2, 30, 30, 1, 80, 1, 1, 0.11f, AC_SMALL),
                                    BKV("causal_90x20_d16_parts2", 1, 90, 20, 1, 16, 1, 2, 0.25f, AC_SMALL),
                                    BKV("causal_20x150_d16", 1, 20, 150, 1, 16, 1, 1, 0.25f, AC_SMALL),
                                    BKV("5x4096x4096x64", 1, 4096, 4096, 5, 64, 0, 1, 0.125f, AC_FULL),
                                    BKV("8x1024x1024x160", 1, 1024, 1024, 8, 160, 0, 1, 0.08f, AC_FULL),
                                    BKV("1x4096x4096x512", 1, 4096, 4096, 1, 512, 0, 1, 0.044f, AC_FULL),
                                    BKV("b64_2x256x256x32", 64, 256, 256, 2, 32, 0, 1, 0.18f, AC_FULL),
                                    {0}};
const ac_op ac_op_attn_bkv = {.name = "attn_bkv",
                              .n_in = 5,
                              .infer = infer_bkv,
                              .ref = ref_bkv,
                              .flop = flop_bkv,
                              .kern = kern_bkv,
                              .cases = cases_bkv};

/* ------------------------------------------------------------------------------------------ attn_first(x): the first
 * elements of x, as a tensor of dimensions at.i[0..2]: the gradient that begins a result is used where it is */

static int infer_first(ac_graph *g, ac_node *n)
{
    n->shape = (ac_shape){3, {n->at.i[0], n->at.i[1], n->at.i[2]}};
    if (ac_count(&n->shape) > ac_count(ac_shape_of(g, n->in[0])))
        return ac_graph_fail(g, ADDCL_E_INTERNAL, "attn_first: more elements than there are");
    return 1;
}

static void ref_first(const ac_ref *r)
{
    memcpy(r->out, r->in[0], (size_t)ac_count(&r->n->shape) * sizeof *r->out);
}

const ac_op ac_op_attn_first = {
    .name = "attn_first", .n_in = 1, .flags = AC_OP_ALIAS, .infer = infer_first, .ref = ref_first};

static ac_id first(ac_graph *g, ac_id x, const ac_shape *s)
{
    const ac_at at = {.i = {(int32_t)s->d[0], (int32_t)s->d[1], (int32_t)s->d[2]}};

    return ac_add_node(g, &ac_op_attn_first, &x, 1, &at);
}

/* ------------------------------------------------------------------------------------------ the rule */

/* Parts of at least 256 queries, as many as make up for the keys that are missing; at most 16. */
static int32_t parts_of(int64_t T, int64_t S)
{
    return (int32_t)AC_MAX((int64_t)1, AC_MIN((int64_t)16, AC_MIN(T / 256, T / S / 2)));
}

void ac_attention_grad(ac_graph *g, const ac_id in[5], const ac_at *forward, ac_id gx[3])
{
    const ac_shape q = *ac_shape_of(g, in[0]), k = *ac_shape_of(g, in[1]);
    ac_at at = *forward;
    ac_id bq, bkv;

    gx[0] = gx[1] = gx[2] = AC_POISON;
    if (g->rc)
        return;
    at.i[AC_ATTN_KEYS] = (int32_t)k.d[1];
    bq = ac_add_node(g, &ac_op_attn_bq, in, 5, &at);
    at.i[AC_ATTN_PARTS] = parts_of(q.d[1], k.d[1]);
    bkv = ac_add_node(g, &ac_op_attn_bkv, (ac_id[]){in[0], in[1], in[2], in[4], bq}, 5, &at);
    if (at.i[AC_ATTN_PARTS] > 1)
        bkv = ac_sum(g, bkv, 1);
    gx[0] = first(g, bq, &q);
    gx[1] = first(g, bkv, &k);
    gx[2] = ac_reshape(g, ac_slice(g, bkv, 1, k.d[0], k.d[0]), k);
}
