/* attn.c - scaled dot product attention over heads; never a T x S matrix in memory. */
#include "ops/attn.h"
#include "ops/ops.h"
#include "ops/tile.h"

#include <math.h>
#include <stdlib.h>

ac_attn ac_attn_dims(const ac_graph *g, const ac_node *n)
{
    const ac_shape *q = ac_shape_of(g, n->in[0]);
    const int64_t E = n->at.i[AC_ATTN_HEADS];

    return (ac_attn){q->d[0], q->d[1], n->at.i[AC_ATTN_KEYS], E, q->d[2] / E, q->d[2], n->at.i[AC_ATTN_PARTS]};
}

int64_t ac_attn_span(const ac_attn *d)
{
    return AC_CEIL_DIV(d->T, d->parts);
}

double ac_attn_scale2(const ac_node *n)
{
    return (double)n->at.f[0] * 1.4426950408889634;
}

static int infer(ac_graph *g, ac_node *n)
{
    const ac_shape *q = ac_shape_of(g, n->in[0]), *k = ac_shape_of(g, n->in[1]), *v = ac_shape_of(g, n->in[2]);
    char a[96], b[96];

    n->shape = *q;
    if (q->n != 3 || k->n != 3 || q->d[0] != k->d[0] || q->d[2] != k->d[2] || !ac_same_shape(k, v) ||
        n->at.i[AC_ATTN_HEADS] < 1 || q->d[2] % n->at.i[AC_ATTN_HEADS])
        return ac_graph_fail(g, ADDCL_E_SHAPE, "attention: queries %s and keys %s do not fit with %d heads",
                             ac_shape_text(q, a), ac_shape_text(k, b), n->at.i[AC_ATTN_HEADS]);
    return 1;
}

/* One query of one head: y = softmax(q k^T scale) v over the keys it sees. */
static void ref_query(const ac_ref *r, int64_t b, int64_t t, int64_t e, double *p)
{
    int64_t T = r->shape[0]->d[1], S = r->shape[1]->d[1], C = r->shape[0]->d[2], D = C / r->n->at.i[AC_ATTN_HEADS];
    int64_t seen = r->n->at.i[AC_ATTN_CAUSAL] ? AC_MIN(t + 1, S) : S;
    const double *q = r->in[0] + (b * T + t) * C + e * D;
    double top = -INFINITY, sum = 0;

    for (int64_t s = 0; s < seen; s++) {
        const double *k = r->in[1] + (b * S + s) * C + e * D;
        p[s] = 0;
        for (int64_t d = 0; d < D; d++)
            p[s] += q[d] * k[d] * (double)r->n->at.f[0];
        top = fmax(top, p[s]);
    }
    for (int64_t s = 0; s < seen; s++)
        sum += p[s] = exp(p[s] - top);
    for (int64_t d = 0; d < D; d++) {
        double y = 0;
        for (int64_t s = 0; s < seen; s++)
            y += p[s] / sum * r->in[2][(b * S + s) * C + e * D + d];
        r->out[(b * T + t) * C + e * D + d] = y;
    }
}

static void ref(const ac_ref *r)
{
    double *p = ac_calloc((size_t)r->shape[1]->d[1], sizeof *p);

    for (int64_t i = 0; p && i < r->shape[0]->d[0] * r->shape[0]->d[1] * r->n->at.i[AC_ATTN_HEADS]; i++)
        ref_query(r, i / r->n->at.i[AC_ATTN_HEADS] / r->shape[0]->d[1],
                  i / r->n->at.i[AC_ATTN_HEADS] % r->shape[0]->d[1], i % r->n->at.i[AC_ATTN_HEADS], p);
    free(p);
}

static void vjp(ac_graph *g, ac_id y, ac_id gy, ac_id gx[AC_MAX_IN])
{
    const ac_node n = *ac_at_node(g, y);

    ac_attention_grad(g, (ac_id[]){n.in[0], n.in[1], n.in[2], y, gy}, &n.at, gx);
}

double ac_attn_flop(const ac_graph *g, const ac_node *n)
{
    const ac_attn d = ac_attn_dims(g, n);

    return 4.0 * (double)(d.B * d.T) * (double)(d.S * d.C);
}

static const ac_kern kern[] = {
    {"attn_vec", "attn", AC_CLASS_CPU, ac_attn_cpu_accepts, ac_attn_cpu_prep, ac_attn_cpu_setup},
    {"attn_tile", "attn_tile", AC_CLASS_GPU, ac_attn_tile_accepts, NULL, ac_attn_tile_setup},
    {"attn_any", "attn_tile", AC_CLASS_ANY, NULL, NULL, ac_attn_any_setup},
    {0}};

#define AT(name, B, T, S, E, D, causal, tags)                                                                          \
    {                                                                                                                  \
        name, tags, {{3, {B, T, (E) * (D)}}, {3, {B, S, (E) * (D)}}, {3, {B, S, (E) * (D)}}},                          \
            {{E, causal, S}, {1.0f / SCALE_##D}}, 1e-5                                                                 \
    }
/* 1 / sqrt(D), close enough for cases: kernels take whatever scale they are given. */
#define SCALE_4   2.0f
#define SCALE_8   2.83f
#define SCALE_13  3.6f
#define SCALE_32  5.66f
#define SCALE_40  6.32f
#define SCALE_64  8.0f
#define SCALE_160 12.65f
#define SCALE_512 22.6f
static const ac_case cases[] = {AT("b2_7x7_e3_d8", 2, 7, 7, 3, 8, 0, AC_SMALL),
                                AT("b2_13x77_e2_d13", 2, 13, 77, 2, 13, 0, AC_SMALL),
                                AT("causal_77_e2_d4", 1, 77, 77, 2, 4, 1, AC_SMALL),
                                AT("causal_30_e2_d32", 2, 30, 30, 2, 32, 1, AC_SMALL),
                                AT("causal_50x20_e2_d32", 1, 50, 20, 2, 32, 1, AC_SMALL),
                                AT("causal_20x90_d13", 1, 20, 90, 1, 13, 1, AC_SMALL),
                                AT("b3_16x24_e2_d32", 3, 16, 24, 2, 32, 0, AC_SMALL),
                                AT("1x1_d64", 1, 1, 1, 1, 64, 0, AC_SMALL),
                                AT("50x300_e2_d64", 1, 50, 300, 2, 64, 0, AC_SMALL),
                                AT("20x33_d40", 1, 20, 33, 1, 40, 0, AC_SMALL),
                                AT("25x40_d160", 1, 25, 40, 1, 160, 0, AC_SMALL),
                                AT("14x35_d512", 1, 14, 35, 1, 512, 0, AC_SMALL),
                                AT("5x4096x4096x64", 1, 4096, 4096, 5, 64, 0, AC_FULL),
                                AT("10x1024x1024x64", 1, 1024, 1024, 10, 64, 0, AC_FULL),
                                AT("20x256x256x64", 1, 256, 256, 20, 64, 0, AC_FULL),
                                AT("5x4096x77x64", 1, 4096, 77, 5, 64, 0, AC_FULL),
                                AT("1x4096x4096x512", 1, 4096, 4096, 1, 512, 0, AC_FULL),
                                AT("16x77x77x64", 1, 77, 77, 16, 64, 0, AC_FULL),
                                AT("b64_2x256x256x32", 64, 256, 256, 2, 32, 0, AC_FULL),
                                AT("b64_2x256x24x32", 64, 256, 24, 2, 32, 0, AC_FULL),
                                AT("b64_4x64x64x32", 64, 64, 64, 4, 32, 0, AC_FULL),
                                AT("b64_4x64x24x32", 64, 64, 24, 4, 32, 0, AC_FULL),
                                AT("b64_6x16x16x32", 64, 16, 16, 6, 32, 0, AC_FULL),
                                AT("b64_6x16x24x32", 64, 16, 24, 6, 32, 0, AC_FULL),
                                {0}};
const ac_op ac_op_attention = {
    .name = "attention", .n_in = 3, .infer = infer, .vjp = vjp, .ref = ref, .flop = ac_attn_flop, .kern = kern, .cases = cases};

ac_id ac_attention(ac_graph *g, ac_id q, ac_id k, ac_id v, int heads, bool causal)
{
    ac_at at = {.i = {[AC_ATTN_HEADS] = heads, [AC_ATTN_CAUSAL] = causal}};

    if (g->rc == 0 && heads > 0) {
        const ac_shape *s = ac_shape_of(g, q), *keys = ac_shape_of(g, k);
        at.f[0] = (float)(1 / sqrt((double)s->d[s->n - 1] / heads));
        at.i[AC_ATTN_KEYS] = (int32_t)(keys->n > 1 ? keys->d[1] : 0);
    }
    return ac_add_node(g, &ac_op_attention, (ac_id[]){q, k, v}, 3, &at);
}
