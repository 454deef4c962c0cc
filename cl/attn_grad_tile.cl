/*
 * attn_grad_tile.cl - the gradient of attention; formulas in src/ops/attn_grad.c.
 *
 * q, y, gy [B, T, E D], k and v [B, S, E D], all f32; E heads of D. CAUSAL: query t sees the keys <= t.
 * attn_bq's result: the gradient of q [B, T, E D], then L [B, E, T], then D_t = <y_t, gy_t> [B, E, T].
 * attn_bkv's result: for each part of `span` queries the gradients of k, then of v.
 * `scale` is given times log2(e), and scores and L are in units of ln 2, so that e^x is exp2.
 */

#define LN2 0.69314718f

#define CHUNK 16

/*
 * attn_bq_any: a work-item computes CHUNK columns of one query's gradient, and for them the query's scores. No local
 * memory, no barrier, any work-group size. Global size: B T E chunks, chunks = ceil(D / CHUNK), given as `count`.
 * Online softmax, as in attn_tile.cl. -D: CAUSAL.
 */
__kernel void attn_bq_any(__global float *out, __global const float *restrict q, __global const float *restrict k,
                          __global const float *restrict v, __global const float *restrict y,
                          __global const float *restrict gy, int count, int B, int T, int S, int E, int D, float scale)
{
    const int id = get_global_id(0), chunks = (D + CHUNK - 1) / CHUNK, pitch = E * D;
    if (id >= count)
        return;
    const int d0 = id % chunks * CHUNK, e = id / chunks % E, t = id / chunks / E % T;
    const long b = id / chunks / E / T, row = (b * T + t) * pitch + e * D;
    q += row;
    y += row;
    gy += row;
    k += b * S * pitch + e * D;
    v += b * S * pitch + e * D;
    float delta = 0.0f, top = -INFINITY, sum = 0.0f, acc[CHUNK];
    for (int d = 0; d < D; d++)
        delta = FMA(y[d], gy[d], delta);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        acc[i] = 0.0f;
#ifdef CAUSAL
    const int seen = min(t + 1, S);
#else
    const int seen = S;
#endif
    for (int s = 0; s < seen; s++, k += pitch, v += pitch) {
        float score = 0.0f, g = 0.0f;
        for (int d = 0; d < D; d++) {
            score = FMA(q[d], k[d], score);
            g = FMA(gy[d], v[d], g);
        }
        score *= scale;
        const float old_top = top;
        top = fmax(top, score);
        const float shrink = exp2(old_top - top), p = exp2(score - top);
        sum = FMA(sum, shrink, p);
        g = p * (g - delta);
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            acc[i] = FMA(acc[i], shrink, d0 + i < D ? g * k[d0 + i] : 0.0f);
    }
    scale *= LN2 / sum;
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        if (d0 + i < D)
            out[row + d0 + i] = acc[i] * scale;
    if (d0 == 0) {
        const long per_query = (long)B * E * T;
        out += per_query * D + (b * E + e) * T + t;
        out[0] = top + log2(sum);
        out[per_query] = delta;
    }
}

/*
 * attn_bkv_any: a work-item computes CHUNK columns of one key's and its value's gradient by one part of the queries.
 * Global size: parts B S E chunks, given as `count`; span: queries of a part. Else as attn_bq_any.
 */
__kernel void attn_bkv_any(__global float *out, __global const float *restrict q, __global const float *restrict k,
                           __global const float *restrict v, __global const float *restrict gy,
                           __global const float *restrict bq, int count, int B, int T, int S, int E, int D, int span,
                           float scale)
{
    const int id = get_global_id(0), chunks = (D + CHUNK - 1) / CHUNK, pitch = E * D;
    if (id >= count)
        return;
    const int d0 = id % chunks * CHUNK, e = id / chunks % E, s = id / chunks / E % S, b = id / chunks / E / S % B;
    const int part = id / chunks / E / S / B, end = min((part + 1) * span, T);
    const long row = ((long)b * S + s) * pitch + e * D, per_query = (long)B * E * T;
    __global const float *lse = bq + per_query * D + ((long)b * E + e) * T;
    k += row;
    v += row;
    float gk[CHUNK], gv[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        gk[i] = gv[i] = 0.0f;
#ifdef CAUSAL
    const int first = max(part * span, s);
#else
    const int first = part * span;
#endif
    for (int t = first; t < end; t++) {
        __global const float *const x = q + ((long)b * T + t) * pitch + e * D;
        __global const float *const gx = gy + ((long)b * T + t) * pitch + e * D;
        float score = 0.0f, g = 0.0f;
        for (int d = 0; d < D; d++) {
            score = FMA(x[d], k[d], score);
            g = FMA(gx[d], v[d], g);
        }
        const float p = exp2(FMA(score, scale, -lse[t]));
        g = p * scale * LN2 * (g - lse[per_query + t]);
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            gk[i] = d0 + i < D ? FMA(g, x[d0 + i], gk[i]) : 0.0f;
            gv[i] = d0 + i < D ? FMA(p, gx[d0 + i], gv[i]) : 0.0f;
        }
    }
    const long values = (long)B * S * pitch;
    out += 2 * part * values + row + d0;
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        if (d0 + i < D) {
            out[i] = gk[i];
            out[values + i] = gv[i];
        }
}
