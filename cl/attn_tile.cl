/*
 * attn_tile.cl - attention, y = softmax(q k^T scale) v for each head, and its gradient, without the matrix of scores;
 * formulas of the gradient in src/ops/attn_grad.c.
 *
 * Online softmax: keys come in blocks; a row keeps the highest score `top` so far, the sum of e^(score - top) and the
 * sum of e^(score - top) v, both scaled down when `top` grows (Milakov and Gimelshein, 2018; Dao et al.,
 * FlashAttention, 2022). Scores are kept in units of ln 2, so that e^x is exp2: `scale` is given times log2(e).
 *
 * q, y, gy [B, T, E D], k and v [B, S, E D], all f32; E heads of D. CAUSAL: query t sees the keys <= t. The gradient of
 * q comes with L and D_t [B, E, T] behind it; those of k and v one after the other for each part of `span` queries.
 */

#define LN2 0.69314718f

#ifdef WQ

/*
 * ---- `_tile`: WQ x WS work-items take a block of BQ rows of one side (queries; of attn_bkv_tile keys) through blocks
 * of BS rows of the other. Item (p, s) has the scores of its own rows 4 p + 0..3 with the others' rows 4 s + 0..3, and
 * of the result the same rows in columns 4 (j WS + s) + 0..3 for each j < DJ. In a float4 of scores the component is
 * the own row. What is said of queries and keys below is said of attn_tile and attn_bq_tile.
 *
 * -D: WQ, WS, DJ, CAUSAL, QUADS (D is a multiple of 4: faster loads); GRAD 1: attn_bq_tile, 2: attn_bkv_tile.
 * Limits: WQ 1, 2, 4, 8 or 16, WS 8 or 16, DJ 1..3; any T, S, D; each tensor below 2^31 elements.
 * Local memory: 15 KiB for 16 x 8 items, 15.5 KiB for 8 x 16, less for fewer.
 * ----
 */
#define WG    (WQ * WS)
#define BQ    (4 * WQ)
#define BS    (4 * WS)
#define BD    (4 * WS * DJ) /* columns of v and y; a wider head is cut in chunks of so many */
#define SLICE 16            /* columns of q and k in local memory at a time */
#define KEYS  8             /* rows of v in local memory at a time */
/* float4 from one row of a local array to the next; the extra one spreads a column over the banks of the memory. */
#define PITCH_Q (WQ + 1)
#define PITCH_K (WS + 1)
#define PITCH_V (WS * DJ + 1)
#define QK_SIZE (SLICE * (PITCH_Q + PITCH_K))
#define V_SIZE  (KEYS * PITCH_V)

/* For functions that take an item's sums: those stay in registers. */
#define INLINE __attribute__((always_inline))

/*
 * Columns d..d+3 of the row at x, 0 from D on. Only elements that exist are read, at clamped indices, so that no load
 * needs a branch and all are under way together.
 */
float4 load4(__global const float *x, int d, int D)
{
#ifdef QUADS
    const float4 v = vload4(0, x + min(d, D - 4));
    return d < D ? v : (float4)(0.0f);
#else
    const float4 v = (float4)(x[min(d, D - 1)], x[min(d + 1, D - 1)], x[min(d + 2, D - 1)], x[min(d + 3, D - 1)]);
    return d + (int4)(0, 1, 2, 3) < D ? v : (float4)(0.0f);
#endif
}

/* t[d][i] = factor x[i pitch + d0 + d] for `rows` rows and a slice of columns; any values where i >= rows_left. */
INLINE void load_slice(__local float *t, int rows, __global const float *x, int pitch, int rows_left, int d0, int D,
                       float factor, int item)
{
    const int d = item % (SLICE / 4) * 4, i0 = item / (SLICE / 4), step = rows + 4;
    t += d * step + i0;
    for (int i = 0; i < rows; i += WG / (SLICE / 4), t += WG / (SLICE / 4)) {
        const float4 v = factor * load4(x + min(i0 + i, rows_left - 1) * pitch, d0 + d, D);
        t[0] = v.x;
        t[step] = v.y;
        t[2 * step] = v.z;
        t[3 * step] = v.w;
    }
}

/* t[i][d] = v[i pitch + d0 + d] for KEYS rows and BD columns; any values where i >= rows_left. */
INLINE void load_values(__local float4 *t, __global const float *v, int pitch, int rows_left, int d0, int D, int item)
{
#pragma unroll 1
    for (int e = item; e < KEYS * (BD / 4); e += WG) {
        const int i = e / (BD / 4), d = e % (BD / 4);
        t[i * PITCH_V + d] = load4(v + min(i, rows_left - 1) * pitch, d0 + 4 * d, D);
    }
}

/* score[c] += q k^T for key c of the item and a slice of columns. */
INLINE void multiply_keys(float4 *score, __local const float4 *tq, __local const float4 *tk)
{
#pragma unroll 2
    for (int d = 0; d < SLICE; d++, tq += PITCH_Q, tk += PITCH_K) {
        const float4 x = tq[0], y = tk[0];
        score[0] = FMA((float4)(y.x), x, score[0]);
        score[1] = FMA((float4)(y.y), x, score[1]);
        score[2] = FMA((float4)(y.z), x, score[2]);
        score[3] = FMA((float4)(y.w), x, score[3]);
    }
}

/* score[c] = <x_own, factor y_other> over all columns, for blocks that begin at x and y. */
INLINE void multiply_rows(float4 *score, __local float4 *slice, __global const float *x, __global const float *y,
                          int pitch, int x_left, int y_left, int D, float factor, int item)
{
    __local float4 *const other = slice + SLICE * PITCH_Q;
#pragma unroll
    for (int c = 0; c < 4; c++)
        score[c] = (float4)(0.0f);
#pragma unroll 1
    for (int d = 0; d < D; d += SLICE) {
        load_slice((__local float *)slice, BQ, x, pitch, x_left, d, D, factor, item);
        load_slice((__local float *)other, BS, y, pitch, y_left, d, D, 1.0f, item);
        barrier(CLK_LOCAL_MEM_FENCE);
        multiply_keys(score, slice + item % WQ, other + item / WQ);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}

/* acc[r][j] += p v for query r of the item and KEYS keys. */
INLINE void multiply_values(float4 acc[4][DJ], __local const float4 *p, __local const float4 *tv)
{
#pragma unroll 1 /* acc takes most of the registers */
    for (int s = 0; s < KEYS; s++, p += PITCH_Q, tv += PITCH_V) {
        const float4 x = p[0];
#pragma unroll
        for (int j = 0; j < DJ; j++) {
            const float4 y = tv[j * WS];
            acc[0][j] = FMA((float4)(x.x), y, acc[0][j]);
            acc[1][j] = FMA((float4)(x.y), y, acc[1][j]);
            acc[2][j] = FMA((float4)(x.z), y, acc[2][j]);
            acc[3][j] = FMA((float4)(x.w), y, acc[3][j]);
        }
    }
}

/* acc += p v for a block of BS keys: e^(score - top), or what stands for it, is in `part`, v begins at x. */
INLINE void multiply_block(float4 acc[4][DJ], __local float4 *slice, __local const float4 *part,
                           __global const float *x, int pitch, int rows_left, int d0, int D, int item)
{
    for (int i = 0; i < BS; i += KEYS) {
        load_values(slice, x + i * (long)pitch, pitch, rows_left - i, d0, D, item);
        barrier(CLK_LOCAL_MEM_FENCE);
        multiply_values(acc, part + item % WQ + i * PITCH_Q, slice + item / WQ);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}

INLINE void clear(float4 acc[4][DJ])
{
#pragma unroll
    for (int j = 0; j < 4 * DJ; j++)
        acc[j / DJ][j % DJ] = (float4)(0.0f);
}

/* Scales rows. */
INLINE void shrink_rows(float4 acc[4][DJ], float4 by)
{
#pragma unroll
    for (int j = 0; j < DJ; j++) {
        acc[0][j] *= by.x;
        acc[1][j] *= by.y;
        acc[2][j] *= by.z;
        acc[3][j] *= by.w;
    }
}

/* The sum over the items of a row; `slots` [s][p], which all items may write. */
INLINE float4 sum_items(__local float4 *slots, float4 v, int p, int s)
{
    slots[s * PITCH_Q + p] = v;
    barrier(CLK_LOCAL_MEM_FENCE);
    v = (float4)(0.0f);
#pragma unroll 1
    for (int i = 0; i < WS; i++)
        v += slots[i * PITCH_Q + p];
    barrier(CLK_LOCAL_MEM_FENCE);
    return v;
}

/* The highest score of each row so far, after a block. */
INLINE float4 raise_top(__local float4 *slots, float4 top, const float4 *score, int p, int s)
{
    slots[s * PITCH_Q + p] = fmax(fmax(score[0], score[1]), fmax(score[2], score[3]));
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 1
    for (int i = 0; i < WS; i++)
        top = fmax(top, slots[i * PITCH_Q + p]);
    barrier(CLK_LOCAL_MEM_FENCE);
    return top;
}

/* Writes an item's 4 rows, of which rows_left exist, times `factor`; the columns begin at d0 and end at D. */
INLINE void store_rows(__global float *y, float4 acc[4][DJ], float4 factor, int pitch, int rows_left, int d0, int D)
{
    const float scale[4] = {factor.x, factor.y, factor.z, factor.w};
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int j = 0; j < DJ; j++) {
            const float4 o = acc[r][j] * scale[r];
            const int d = d0 + 4 * WS * j, at = r * pitch + d;
            if (r < rows_left && d + 0 < D)
                y[at + 0] = o.x;
            if (r < rows_left && d + 1 < D)
                y[at + 1] = o.y;
            if (r < rows_left && d + 2 < D)
                y[at + 2] = o.z;
            if (r < rows_left && d + 3 < D)
                y[at + 3] = o.w;
        }
}

#ifndef GRAD

/*
 * attn_tile: y. Work-group: BQ queries of one head, BD columns of their results, all keys; each chunk of columns
 * computes the scores. Global size: (blocks of queries * WG, E * chunks, B), chunks = ceil(D / BD); local (WG, 1, 1).
 * pitch: E D.
 */
__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void
attn_tile(__global float *y, __global const float *restrict q, __global const float *restrict k,
          __global const float *restrict v, int T, int S, int D, int pitch, int chunks, float scale)
{
    __local float4 slice[QK_SIZE > V_SIZE ? QK_SIZE : V_SIZE]; /* of q and k, then of v */
    __local float4 part[BS * PITCH_Q];                         /* e^(score - top) [key][query] */
    const int item = get_local_id(0), p = item % WQ, s = item / WQ;
    const int q0 = get_group_id(0) * BQ, column = get_group_id(1), head = column / chunks, d0 = column % chunks * BD;
    const long b = get_group_id(2);
    __local float4 *const own = part + p + 4 * s * PITCH_Q;
    q += (b * T + q0) * pitch + head * D;
    k += b * S * pitch + head * D;
    v += b * S * pitch + head * D;

#ifdef CAUSAL
    const int4 seen = min(q0 + 4 * p + (int4)(1, 2, 3, 4), (int4)(S)); /* keys of each query */
    const int s_end = min(q0 + BQ, S);
#else
    const int4 seen = (int4)(S);
    const int s_end = S;
#endif
    float4 top = (float4)(-INFINITY), sum = (float4)(0.0f), acc[4][DJ];
    clear(acc);
    for (int s0 = 0; s0 < s_end; s0 += BS, k += BS * (long)pitch, v += BS * (long)pitch) {
        float4 score[4];
        multiply_rows(score, slice, q, k, pitch, T - q0, S - s0, D, scale, item);
        /* The first block holds key 0, which all queries see: from then on `top` is above -infinity. */
#pragma unroll
        for (int c = 0; c < 4; c++)
            score[c] = s0 + 4 * s + c < seen ? score[c] : (float4)(-INFINITY);
        const float4 old_top = top;
        top = raise_top(slice, top, score, p, s);
        const float4 shrink = exp2(old_top - top);
        sum *= shrink;
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const float4 e = exp2(score[c] - top);
            sum += e;
            own[c * PITCH_Q] = e;
        }
        shrink_rows(acc, shrink);
        multiply_block(acc, slice, part, v, pitch, S - s0, d0, D, item);
    }

    sum = sum_items(slice, sum, p, s);
    y += (b * T + q0) * pitch + head * D;
    store_rows(y + 4 * p * pitch, acc, 1.0f / sum, pitch, T - q0 - 4 * p, d0 + 4 * s, D);
}

#elif GRAD == 1

/* attn_bq_tile: the gradient of q, L and D_t. Work-groups as of attn_tile. */
__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void
attn_bq_tile(__global float *out, __global const float *restrict q, __global const float *restrict k,
             __global const float *restrict v, __global const float *restrict y, __global const float *restrict gy,
             int T, int S, int D, int pitch, int chunks, float scale)
{
    __local float4 slice[QK_SIZE > V_SIZE ? QK_SIZE : V_SIZE]; /* of q and k, of gy and v, then of k */
    __local float4 part[BS * PITCH_Q];                         /* gradients of scores [key][query] */
    const int item = get_local_id(0), p = item % WQ, s = item / WQ;
    const int q0 = get_group_id(0) * BQ, column = get_group_id(1), head = column / chunks, d0 = column % chunks * BD;
    const long b = get_group_id(2), row0 = (b * T + q0) * pitch + head * D;
    __local float4 *const own = part + p + 4 * s * PITCH_Q;
    q += row0;
    y += row0;
    gy += row0;
    k += b * S * pitch + head * D;
    v += b * S * pitch + head * D;

    float4 delta = (float4)(0.0f);
    const int4 at = min(4 * p + (int4)(0, 1, 2, 3), (int4)(T - q0 - 1)) * pitch;
    for (int d = s; d < D; d += WS)
        delta = FMA((float4)(y[at.x + d], y[at.y + d], y[at.z + d], y[at.w + d]),
                    (float4)(gy[at.x + d], gy[at.y + d], gy[at.z + d], gy[at.w + d]), delta);
    delta = sum_items(slice, delta, p, s);

#ifdef CAUSAL
    const int4 seen = min(q0 + 4 * p + (int4)(1, 2, 3, 4), (int4)(S)); /* keys of each query */
    const int s_end = min(q0 + BQ, S);
#else
    const int4 seen = (int4)(S);
    const int s_end = S;
#endif
    float4 top = (float4)(-INFINITY), sum = (float4)(0.0f), acc[4][DJ];
    clear(acc);
    for (int s0 = 0; s0 < s_end; s0 += BS, k += BS * (long)pitch, v += BS * (long)pitch) {
        float4 score[4];
        multiply_rows(score, slice, gy, v, pitch, T - q0, S - s0, D, 1.0f, item);
#pragma unroll
        for (int c = 0; c < 4; c++)
            own[c * PITCH_Q] = score[c] - delta; /* there and not in registers, which are few */
        multiply_rows(score, slice, q, k, pitch, T - q0, S - s0, D, scale, item);
#pragma unroll
        for (int c = 0; c < 4; c++)
            score[c] = s0 + 4 * s + c < seen ? score[c] : (float4)(-INFINITY);
        const float4 old_top = top;
        top = raise_top(slice, top, score, p, s);
        const float4 shrink = exp2(old_top - top);
        sum *= shrink;
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const float4 e = exp2(score[c] - top);
            sum += e;
            own[c * PITCH_Q] *= e;
        }
        shrink_rows(acc, shrink);
        multiply_block(acc, slice, part, k, pitch, S - s0, d0, D, item);
    }

    sum = sum_items(slice, sum, p, s);
    store_rows(out + row0 + 4 * p * pitch, acc, scale * LN2 / sum, pitch, T - q0 - 4 * p, d0 + 4 * s, D);
    if (s == 0 && d0 == 0) {
        const long rows = (long)get_num_groups(2) * T, heads = pitch / D;
        const float4 lse = top + log2(sum);
        const float lse_of[4] = {lse.x, lse.y, lse.z, lse.w}, deltas[4] = {delta.x, delta.y, delta.z, delta.w};
        out += rows * pitch + (b * heads + head) * T + q0 + 4 * p;
#pragma unroll
        for (int r = 0; r < 4; r++)
            if (q0 + 4 * p + r < T) {
                out[r] = lse_of[r];
                out[rows * heads + r] = deltas[r];
            }
    }
}

#else

/*
 * attn_bkv_tile: the gradients of k and v by a part of the queries. Work-group: BQ keys of one head, BD columns of
 * their results, all queries of the part. Global size: (blocks of keys * WG, E * chunks, B * parts); local (WG, 1, 1).
 */
__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void
attn_bkv_tile(__global float *out, __global const float *restrict q, __global const float *restrict k,
              __global const float *restrict v, __global const float *restrict gy, __global const float *restrict bq,
              int T, int S, int D, int pitch, int chunks, int B, int span, float scale)
{
    __local float4 slice[QK_SIZE > V_SIZE ? QK_SIZE : V_SIZE]; /* of k and q, of v and gy, then of gy and q */
    __local float4 part[BS * PITCH_Q];                         /* weights, then gradients of scores [query][key] */
    const int item = get_local_id(0), p = item % WQ, s = item / WQ;
    const int k0 = get_group_id(0) * BQ, column = get_group_id(1), head = column / chunks, d0 = column % chunks * BD;
    const int b = get_group_id(2) % B, begin = get_group_id(2) / B * span, end = min(begin + span, T);
    const long row0 = ((long)b * S + k0) * pitch + head * D, rows = (long)B * T, heads = pitch / D;
    __local float4 *const own = part + p + 4 * s * PITCH_Q;
    __global const float *lse = bq + rows * pitch + (b * heads + head) * T, *delta = lse + rows * heads;
    q += (long)b * T * pitch + head * D;
    gy += (long)b * T * pitch + head * D;
    k += row0;
    v += row0;

#ifdef CAUSAL
    const int first = max(begin, k0);
#else
    const int first = begin;
#endif
    float4 gk[4][DJ], gv[4][DJ];
    clear(gk);
    clear(gv);
    for (int t0 = first; t0 < end; t0 += BS) {
        __global const float *const x = q + t0 * (long)pitch, *const gx = gy + t0 * (long)pitch;
        float4 score[4];
        multiply_rows(score, slice, k, x, pitch, S - k0, T - t0, D, scale, item);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int t = t0 + 4 * s + c;
            float4 weight = t < end ? exp2(score[c] - lse[min(t, T - 1)]) : (float4)(0.0f);
#ifdef CAUSAL
            weight = k0 + 4 * p + (int4)(0, 1, 2, 3) <= t ? weight : (float4)(0.0f);
#endif
            own[c * PITCH_Q] = weight;
        }
        multiply_block(gv, slice, part, gx, pitch, T - t0, d0, D, item);
        multiply_rows(score, slice, v, gx, pitch, S - k0, T - t0, D, 1.0f, item);
#pragma unroll
        for (int c = 0; c < 4; c++)
            own[c * PITCH_Q] *= score[c] - delta[min(t0 + 4 * s + c, T - 1)];
        multiply_block(gk, slice, part, x, pitch, T - t0, d0, D, item);
    }

    const long values = (long)B * S * pitch;
    out += get_group_id(2) / B * 2 * values + row0 + 4 * p * pitch;
    store_rows(out, gk, (float4)(scale * LN2), pitch, S - k0 - 4 * p, d0 + 4 * s, D);
    store_rows(out + values, gv, (float4)(1.0f), pitch, S - k0 - 4 * p, d0 + 4 * s, D);
}

#endif

#else /* no WQ */

#define CHUNK 16

/*
 * attn_any: a work-item computes CHUNK columns of one query's result, and for them the query's scores. No local memory,
 * no barrier, any work-group size. Global size: B T E chunks, chunks = ceil(D / CHUNK), given as `count`. -D: CAUSAL.
 */
__kernel void attn_any(__global float *y, __global const float *restrict q, __global const float *restrict k,
                       __global const float *restrict v, int count, int T, int S, int heads, int D, float scale)
{
    const int id = get_global_id(0), chunks = (D + CHUNK - 1) / CHUNK, pitch = heads * D;
    if (id >= count)
        return;
    const int d0 = id % chunks * CHUNK, head = id / chunks % heads, t = id / chunks / heads % T;
    const long b = id / chunks / heads / T, row = (b * T + t) * pitch + head * D;
    q += row;
    y += row + d0;
    k += b * S * pitch + head * D;
    v += b * S * pitch + head * D + d0;
#ifdef CAUSAL
    const int seen = min(t + 1, S);
#else
    const int seen = S;
#endif
    float top = -INFINITY, sum = 0.0f, acc[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        acc[i] = 0.0f;
    for (int s = 0; s < seen; s++, k += pitch, v += pitch) {
        float score = 0.0f;
        for (int d = 0; d < D; d++)
            score = FMA(q[d], k[d], score);
        score *= scale;
        const float old_top = top;
        top = fmax(top, score);
        const float shrink = exp2(old_top - top), e = exp2(score - top);
        sum = FMA(sum, shrink, e);
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            acc[i] = FMA(acc[i], shrink, d0 + i < D ? e * v[i] : 0.0f);
    }
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        if (d0 + i < D)
            y[i] = acc[i] / sum;
}

/*
 * attn_bq_any: a work-item computes CHUNK columns of one query's gradient, and for them the query's scores. No local
 * memory, no barrier, any work-group size. Global size: B T E chunks, chunks = ceil(D / CHUNK), given as `count`.
 * -D: CAUSAL.
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

#endif /* WQ */
