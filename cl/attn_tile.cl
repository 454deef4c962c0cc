/*
 * attn_tile.cl - attention, y = softmax(q k^T scale) v for each head, without the matrix of scores.
 *
 * Online softmax: keys come in blocks; a row keeps the highest score `top` so far, the sum of e^(score - top) and the
 * sum of e^(score - top) v, both scaled down when `top` grows (Milakov and Gimelshein, 2018; Dao et al.,
 * FlashAttention, 2022). Scores are kept in units of ln 2, so that e^x is exp2: `scale` is given times log2(e).
 *
 * q [B, T, E D], k and v [B, S, E D], y [B, T, E D], all f32; E heads of D. CAUSAL: query t sees the keys <= t.
 */

#ifdef WQ

/*
 * ---- attn_tile: WQ x WS work-items take a block of BQ queries through blocks of BS keys. Item (p, s) has the scores
 * of queries 4 p + 0..3 with keys 4 s + 0..3, and of the result the same queries in columns 4 (j WS + s) + 0..3 for
 * each j < DJ. In a float4 of scores the component is the query. ----
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
    for (int e = item; e < KEYS * (BD / 4); e += WG) {
        const int i = e / (BD / 4), d = e % (BD / 4);
        t[i * PITCH_V + d] = load4(v + min(i, rows_left - 1) * pitch, d0 + 4 * d, D);
    }
}

/* score[c] += q k^T for key c of the item and a slice of columns. */
INLINE void multiply_keys(float4 *score, __local const float4 *tq, __local const float4 *tk)
{
#pragma unroll 4
    for (int d = 0; d < SLICE; d++, tq += PITCH_Q, tk += PITCH_K) {
        const float4 x = tq[0], y = tk[0];
        score[0] = FMA((float4)(y.x), x, score[0]);
        score[1] = FMA((float4)(y.y), x, score[1]);
        score[2] = FMA((float4)(y.z), x, score[2]);
        score[3] = FMA((float4)(y.w), x, score[3]);
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

/*
 * Work-group: BQ queries of one head, BD columns of their results, all keys; each chunk of columns computes the scores.
 * Global size: (blocks of queries * WG, E * chunks, B), chunks = ceil(D / BD); local (WG, 1, 1). pitch: E D.
 * Local memory: 15 KiB for 16 x 8 items, 15.5 KiB for 8 x 16, less for fewer.
 * -D: WQ, WS, DJ, CAUSAL, QUADS (D is a multiple of 4: faster loads).
 * Limits: WQ 1, 2, 4, 8 or 16, WS 8 or 16, DJ 1..3; any T, S, D; each tensor below 2^31 elements.
 */
__kernel __attribute__((reqd_work_group_size(WG, 1, 1))) void
attn_tile(__global float *y, __global const float *restrict q, __global const float *restrict k,
          __global const float *restrict v, int T, int S, int D, int pitch, int chunks, float scale)
{
    __local float4 slice[QK_SIZE > V_SIZE ? QK_SIZE : V_SIZE]; /* of q and k, then of v */
    __local float4 part[BS * PITCH_Q];                         /* e^(score - top) [key][query] */
    __local float4 *const tk = slice + SLICE * PITCH_Q;
    const int item = get_local_id(0), p = item % WQ, s = item / WQ;
    const int q0 = get_group_id(0) * BQ, column = get_group_id(1), head = column / chunks, d0 = column % chunks * BD;
    const long b = get_group_id(2);
    __local float4 *const queries = part + p, *const own = queries + 4 * s * PITCH_Q,
                          *const slot = queries + s * PITCH_Q;
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
#pragma unroll
    for (int j = 0; j < 4 * DJ; j++)
        acc[j / DJ][j % DJ] = (float4)(0.0f);

    for (int s0 = 0; s0 < s_end; s0 += BS, k += BS * (long)pitch, v += BS * (long)pitch) {
        float4 score[4];
#pragma unroll
        for (int c = 0; c < 4; c++)
            score[c] = (float4)(0.0f);
        for (int d = 0; d < D; d += SLICE) {
            load_slice((__local float *)slice, BQ, q, pitch, T - q0, d, D, scale, item);
            load_slice((__local float *)tk, BS, k, pitch, S - s0, d, D, 1.0f, item);
            barrier(CLK_LOCAL_MEM_FENCE);
            multiply_keys(score, slice + p, tk + s);
            barrier(CLK_LOCAL_MEM_FENCE);
        }

        /* The first block holds key 0, which all queries see: from then on `top` is above -infinity. */
        float4 block_top = (float4)(-INFINITY);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            score[c] = s0 + 4 * s + c < seen ? score[c] : (float4)(-INFINITY);
            block_top = fmax(block_top, score[c]);
        }
        *slot = block_top;
        barrier(CLK_LOCAL_MEM_FENCE);
        const float4 old_top = top;
        for (int i = 0; i < WS; i++)
            top = fmax(top, queries[i * PITCH_Q]);
        barrier(CLK_LOCAL_MEM_FENCE);

        const float4 shrink = exp2(old_top - top);
        sum *= shrink;
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const float4 e = exp2(score[c] - top);
            sum += e;
            own[c * PITCH_Q] = e;
        }
#pragma unroll
        for (int j = 0; j < DJ; j++) {
            acc[0][j] *= shrink.x;
            acc[1][j] *= shrink.y;
            acc[2][j] *= shrink.z;
            acc[3][j] *= shrink.w;
        }
        for (int i = 0; i < BS; i += KEYS) {
            load_values(slice, v + i * (long)pitch, pitch, S - s0 - i, d0, D, item);
            barrier(CLK_LOCAL_MEM_FENCE);
            multiply_values(acc, queries + i * PITCH_Q, slice + s);
            barrier(CLK_LOCAL_MEM_FENCE);
        }
    }

    *slot = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    sum = (float4)(0.0f);
    for (int i = 0; i < WS; i++)
        sum += queries[i * PITCH_Q];
    y += (b * T + q0) * pitch + head * D;
    store_rows(y + 4 * p * pitch, acc, 1.0f / sum, pitch, T - q0 - 4 * p, d0 + 4 * s, D);
}

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

#endif /* WQ */
