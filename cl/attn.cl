/*
 * attn.cl - scaled dot product attention and its gradient on CPUs, never with a T x S matrix in memory; formulas in
 * src/ops/attn_grad.c, other devices in attn_tile.cl.
 *
 * q, y, gy [B, T, E D], k and v [B, S, E D], all f32; E heads of D (any; 4..512 is tested). Attention is y =
 * softmax(q k^T scale) v for each head e of each image b; be = b E + e. A work-item takes `step` <= QUERIES queries
 * (or `step` <= KEYS keys) of one head through blocks of keys (of queries), whose scores stay in a core's own cache.
 *
 * -D of all kernels: D, VW, ROWS. CAUSAL: query t sees the keys <= t. `scale` is given times log2(e), and scores are in
 * units of ln 2, so that e^x is a power of two.
 */

#if VW > 1

#define QUERIES (8 * ROWS) /* multiples of PANEL */
#define KEYS    (8 * ROWS)
/* Between rows of D elements: whole vectors, and never so many that the rows meet in few sets of a cache. */
#define VECTORS ((D + VW - 1) / VW)
#define PITCH   ((VECTORS + (VECTORS % 8 == 0)) * VW)
#define LN2     0.69314718f

typedef CAT(int, VW) intv;

void put_part(floatv v, __global float *p, int left)
{
    if (left >= VW)
        put_out(v, p);
    else
        store_part(v, p, left);
}

/*
 * Defines name(c, a, b, n): c[i][.] (+)= sum_{k < n} a[i A_ROW + k A_STEP] b[k B_ROW + .] for ROWS rows of W vectors;
 * rows of c are C_ROW apart. As DEFINE_MULTIPLY, but the factors lie as they are, at distances that the compiler knows.
 */
#define DEFINE_PRODUCT(name, B_SPACE, W, A_ROW, A_STEP, B_ROW, C_ROW, ADDS)                                            \
    void name(float *c, const float *a, B_SPACE const float *b, int n)                                                 \
    {                                                                                                                  \
        floatv acc[ROWS][W];                                                                                           \
        _Pragma("unroll") for (int i = 0; i < ROWS; i++)                                                               \
        {                                                                                                              \
            _Pragma("unroll") for (int j = 0; j < W; j++) acc[i][j] =                                                  \
                ADDS ? vloadv(j, c + i * C_ROW) : (floatv)(0.0f);                                                      \
        }                                                                                                              \
        for (int k = 0; k < n; k++, a += A_STEP, b += B_ROW) {                                                         \
            floatv w[W];                                                                                               \
            _Pragma("unroll") for (int j = 0; j < W; j++) w[j] = vloadv(j, b);                                         \
            _Pragma("unroll") for (int i = 0; i < ROWS; i++)                                                           \
            {                                                                                                          \
                const floatv x = (floatv)(a[i * A_ROW]);                                                               \
                _Pragma("unroll") for (int j = 0; j < W; j++) acc[i][j] = FMA(x, w[j], acc[i][j]);                     \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("unroll") for (int i = 0; i < ROWS; i++)                                                               \
        {                                                                                                              \
            _Pragma("unroll") for (int j = 0; j < W; j++) put(acc[i][j], c + i * C_ROW + j * VW);                      \
        }                                                                                                              \
    }

/* Rows of queries by panels of keys: <q, k> or <gy, v>. */
DEFINE_PRODUCT(score_wide, __global, 2, PITCH, 1, PANEL, KEYS, false)
DEFINE_PRODUCT(score_thin, __global, 1, PITCH, 1, PANEL, KEYS, false)
/* Rows of queries: sums over keys. */
DEFINE_PRODUCT(over_keys_wide, __global, 2, KEYS, 1, PITCH, PITCH, true)
DEFINE_PRODUCT(over_keys_thin, __global, 1, KEYS, 1, PITCH, PITCH, true)
/* Rows of keys: sums over queries. */
DEFINE_PRODUCT(over_queries_wide, __private, 2, 1, KEYS, PITCH, PITCH, true)
DEFINE_PRODUCT(over_queries_thin, __private, 1, 1, KEYS, PITCH, PITCH, true)

/* to[i][.] = factor x[i pitch + .] for n rows, 0 beyond them to the end of the tile and beyond D. */
void load_rows(float *to, __global const float *x, long pitch, int n, float factor)
{
    for (int i = 0; i < n; i++)
        for (int d = 0; d < D; d += VW)
            put(load_part(x + i * pitch + d, D - d) * factor, to + i * PITCH + d);
    for (int i = n; i % ROWS; i++)
        for (int d = 0; d < D; d += VW)
            put((floatv)(0.0f), to + i * PITCH + d);
}

/* Zeros for n rows and the rest of the tile. */
void clear_rows(float *t, int n)
{
    for (int i = 0; i < (n + ROWS - 1) / ROWS * ROWS * PITCH; i += VW)
        put((floatv)(0.0f), t + i);
}

/* s[i][k] = <x_i, k-th key of the panels> for m rows and n keys, and more to the ends of tile and vector. */
void scores(float *s, const float *x, __global const float *panels, int m, int n)
{
    for (int k = 0; k < n; k += PANEL)
        for (int i = 0; i < m; i += ROWS)
            if (n - k > VW)
                score_wide(s + i * KEYS + k, x + i * PITCH, panels + k * D, D);
            else
                score_thin(s + i * KEYS + k, x + i * PITCH, panels + k * D, D);
}

/* acc[i][.] += sum_k p[i][k] rows[k][.] for m queries and n keys. */
void sum_over_keys(float *acc, const float *p, __global const float *rows, int m, int n)
{
    for (int d = 0; d < D; d += PANEL)
        for (int i = 0; i < m; i += ROWS)
            if (D - d > VW)
                over_keys_wide(acc + i * PITCH + d, p + i * KEYS, rows + d, n);
            else
                over_keys_thin(acc + i * PITCH + d, p + i * KEYS, rows + d, n);
}

/* acc[k][.] += sum_i p[i][k] rows[i][.] for m queries and n keys. */
void sum_over_queries(float *acc, const float *p, const float *rows, int m, int n)
{
    for (int d = 0; d < D; d += PANEL)
        for (int k = 0; k < n; k += ROWS)
            if (D - d > VW)
                over_queries_wide(acc + k * PITCH + d, p + k, rows + d, m);
            else
                over_queries_thin(acc + k * PITCH + d, p + k, rows + d, m);
}

/* Hides what is beyond key n, and from query i the keys after i + first. */
void hide(float *s, int m, int n, int first)
{
    int lane[VW];
    for (int l = 0; l < VW; l++)
        lane[l] = l;
    const intv lanes = CAT(vload, VW)(0, lane);
    for (int i = 0; i < m; i++) {
#ifdef CAUSAL
        const int seen = min(max(i + first + 1, 0), n);
#else
        const int seen = n;
#endif
        for (int k = seen / VW * VW; k < n; k += VW) {
            float *const at = s + i * KEYS + k;
            put(lanes + k < seen ? vloadv(0, at) : (floatv)(-INFINITY), at);
        }
    }
}

/*
 * 2^x for x < 2^22, relative error below 2e-7; below x = -126 it is 2^-126, which counts as nothing in a sum. The
 * integer part comes from adding 1.5 2^23, which leaves no bits for a fraction; then a minimax polynomial in what
 * remains, |f| <= 1/2 (found by Lawson's iteration). A NaN passes.
 */
floatv power(floatv x)
{
    x = x < -126.0f ? (floatv)(-126.0f) : x;
    const floatv n = x + 12582912.0f, f = x - (n - 12582912.0f);
    floatv p = (floatv)(1.3264728e-3f);
    p = FMA(p, f, (floatv)(9.6715130e-3f));
    p = FMA(p, f, (floatv)(5.5507336e-2f));
    p = FMA(p, f, (floatv)(2.4022242e-1f));
    p = FMA(p, f, (floatv)(6.9314700e-1f));
    p = FMA(p, f, (floatv)(1.0f));
    return p * as_floatv((as_uintv(n) << 23) + 0x3f800000u);
}

float highest(floatv v)
{
#if VW == 16
    const float8 w = max(v.lo, v.hi);
    const float4 x = max(w.lo, w.hi);
#elif VW == 8
    const float4 x = max(v.lo, v.hi);
#else
    const float4 x = v;
#endif
    return max(max(x.x, x.y), max(x.z, x.w));
}

float total(floatv v)
{
#if VW == 16
    const float8 w = v.lo + v.hi;
    const float4 x = w.lo + w.hi;
#elif VW == 8
    const float4 x = v.lo + v.hi;
#else
    const float4 x = v;
#endif
    return (x.x + x.y) + (x.z + x.w);
}

/*
 * One row of online softmax (Milakov and Gimelshein 2018): finds the highest score so far; where it has grown, what
 * was summed with the old one is scaled down.
 */
float raise_top(float top, const float *s, int n, floatv *sum, float *acc)
{
    floatv most = vloadv(0, s);
    for (int k = VW; k < n; k += VW)
        most = max(most, vloadv(0, s + k));
    const float peak = max(top, highest(most));
    if (peak > top && top > -FLT_MAX) {
        const floatv decay = power((floatv)(top - peak));
        *sum *= decay;
        for (int d = 0; d < D; d += VW)
            put(vloadv(0, acc + d) * decay, acc + d);
    }
    return peak;
}

/*
 * attn_vec: y. Global size: (ceil(T / step), B E); local 1. packed: by attn_kv.
 * Private memory: 8 QUERIES PITCH + 4 QUERIES KEYS bytes and a little, 272 KiB for D = 512 with VW 16.
 */
__kernel ONE_ITEM void attn_vec(__global float *y, __global const float *restrict q,
                                __global const float *restrict packed, int T, int S, int E, int step, float scale)
{
    const int be = get_global_id(1), q0 = get_global_id(0) * step, m = min(step, T - q0);
    const long pitch = (long)E * D, row0 = ((long)(be / E) * T + q0) * pitch + be % E * D;
    const long panels = (long)((S + PANEL - 1) / PANEL) * PANEL * D;
    __global const float *kp = packed + be * (panels + (long)S * PITCH), *vr = kp + panels;

    float x[QUERIES * PITCH] ALIGNED, acc[QUERIES * PITCH] ALIGNED, s[QUERIES * KEYS] ALIGNED, top[QUERIES];
    floatv sum[QUERIES];
    load_rows(x, q + row0, pitch, m, scale);
    clear_rows(acc, m);
    for (int i = 0; i < m; i++) {
        top[i] = -FLT_MAX;
        sum[i] = (floatv)(0.0f);
    }

#ifdef CAUSAL
    const int keys = min(q0 + m, S);
#else
    const int keys = S;
#endif
    for (int k0 = 0; k0 < keys; k0 += KEYS) {
        const int n = min(KEYS, keys - k0);
        scores(s, x, kp + (long)k0 * D, m, n);
        hide(s, m, n, q0 - k0);
        for (int i = 0; i < m; i++) {
            float *const si = s + i * KEYS;
            const float peak = top[i] = raise_top(top[i], si, n, &sum[i], acc + i * PITCH);
            for (int k = 0; k < n; k += VW) {
                const floatv p = power(vloadv(0, si + k) - peak);
                put(p, si + k);
                sum[i] += p;
            }
        }
        sum_over_keys(acc, s, vr + (long)k0 * PITCH, m, n);
    }

    for (int i = 0; i < m; i++) {
        const float factor = 1.0f / total(sum[i]);
        for (int d = 0; d < D; d += VW)
            put_part(vloadv(0, acc + i * PITCH + d) * factor, y + row0 + i * pitch + d, D - d);
    }
}

/*
 * attn_bq_vec: the gradient of q [B, T, E D], then L and D_t [B, E, T] for attn_bkv. packed: by attn_kv with -DGRAD.
 * Global size: (ceil(T / step), B E); local 1.
 * Private memory: 12 QUERIES PITCH + 8 QUERIES KEYS bytes and a little, 416 KiB for D = 512 with VW 16.
 */
__kernel ONE_ITEM void attn_bq_vec(__global float *out, __global const float *restrict q,
                                   __global const float *restrict packed, __global const float *restrict y,
                                   __global const float *restrict gy, int T, int S, int E, int step, float scale)
{
    const int be = get_global_id(1), q0 = get_global_id(0) * step, m = min(step, T - q0);
    const long pitch = (long)E * D, row0 = ((long)(be / E) * T + q0) * pitch + be % E * D;
    const long panels = (long)((S + PANEL - 1) / PANEL) * PANEL * D;
    __global const float *kp = packed + be * (2 * panels + (long)S * PITCH), *vp = kp + panels, *kr = vp + panels;

    float x[QUERIES * PITCH] ALIGNED, gx[QUERIES * PITCH] ALIGNED, acc[QUERIES * PITCH] ALIGNED;
    float s[QUERIES * KEYS] ALIGNED, g[QUERIES * KEYS] ALIGNED, top[QUERIES], delta[QUERIES], all[QUERIES];
    floatv sum[QUERIES];
    load_rows(x, q + row0, pitch, m, scale);
    load_rows(gx, gy + row0, pitch, m, 1.0f);
    clear_rows(acc, m);
    for (int i = 0; i < m; i++) {
        floatv t = (floatv)(0.0f);
        for (int d = 0; d < D; d += VW)
            t = FMA(load_part(y + row0 + i * pitch + d, D - d), vloadv(0, gx + i * PITCH + d), t);
        delta[i] = total(t);
        top[i] = -FLT_MAX;
        sum[i] = (floatv)(0.0f);
    }

#ifdef CAUSAL
    const int keys = min(q0 + m, S);
#else
    const int keys = S;
#endif
    for (int k0 = 0; k0 < keys; k0 += KEYS) {
        const int n = min(KEYS, keys - k0);
        scores(s, x, kp + (long)k0 * D, m, n);
        scores(g, gx, vp + (long)k0 * D, m, n);
        hide(s, m, n, q0 - k0);
        for (int i = 0; i < m; i++) {
            float *const si = s + i * KEYS, *const gi = g + i * KEYS;
            const float peak = top[i] = raise_top(top[i], si, n, &sum[i], acc + i * PITCH);
            for (int k = 0; k < n; k += VW) {
                const floatv p = power(vloadv(0, si + k) - peak);
                put(p * (vloadv(0, gi + k) - delta[i]), gi + k);
                sum[i] += p;
            }
        }
        sum_over_keys(acc, g, kr + (long)k0 * PITCH, m, n);
    }

    const long rows = (long)get_global_size(1) * T;
    __global float *const stats = out + rows * D + (long)be * T + q0;
    for (int i = 0; i < m; i++) {
        all[i] = total(sum[i]);
        const float factor = scale * LN2 / all[i];
        for (int d = 0; d < D; d += VW)
            put_part(vloadv(0, acc + i * PITCH + d) * factor, out + row0 + i * pitch + d, D - d);
    }
    for (int i = 0; i < m; i += VW) {
        put_part(vloadv(0, top + i) + log2(vloadv(0, all + i)), stats + i, m - i);
        put_part(vloadv(0, delta + i), stats + rows + i, m - i);
    }
}

/*
 * attn_bkv_vec: by each part of `span` queries the gradients of k, then of v. A work-item takes `step` keys of a head.
 * Global size: (ceil(S / step), B E, parts); local 1. packed: as for attn_bq_vec; bq: its result.
 * Private memory: 8 (QUERIES + KEYS) PITCH + 8 QUERIES KEYS bytes, 544 KiB for D = 512 with VW 16.
 */
__kernel ONE_ITEM void attn_bkv_vec(__global float *out, __global const float *restrict q,
                                    __global const float *restrict packed, __global const float *restrict gy,
                                    __global const float *restrict bq, int T, int S, int E, int step, int span,
                                    float scale)
{
    const int be = get_global_id(1), k0 = get_global_id(0) * step, n = min(step, S - k0);
    const int begin = get_global_id(2) * span, end = min(begin + span, T);
    const long pitch = (long)E * D, head = (long)(be / E) * T * pitch + be % E * D, rows = (long)get_global_size(1) * T;
    const long panels = (long)((S + PANEL - 1) / PANEL) * PANEL * D;
    __global const float *kp = packed + be * (2 * panels + (long)S * PITCH) + (long)k0 * D, *vp = kp + panels;
    __global const float *stats = bq + rows * D + (long)be * T;

    float x[QUERIES * PITCH] ALIGNED, gx[QUERIES * PITCH] ALIGNED;
    float gk[KEYS * PITCH] ALIGNED, gv[KEYS * PITCH] ALIGNED;
    float s[QUERIES * KEYS] ALIGNED, g[QUERIES * KEYS] ALIGNED;
    clear_rows(gk, n);
    clear_rows(gv, n);

#ifdef CAUSAL
    const int first = max(begin, k0);
#else
    const int first = begin;
#endif
    for (int q0 = first; q0 < end; q0 += QUERIES) {
        const int m = min(QUERIES, end - q0);
        load_rows(x, q + head + q0 * pitch, pitch, m, scale);
        load_rows(gx, gy + head + q0 * pitch, pitch, m, 1.0f);
        scores(s, x, kp, m, n);
        scores(g, gx, vp, m, n);
        hide(s, m, n, q0 - k0);
        for (int i = 0; i < m; i++) {
            float *const si = s + i * KEYS, *const gi = g + i * KEYS;
            const float lse = stats[q0 + i], delta = stats[rows + q0 + i];
            for (int k = 0; k < n; k += VW) {
                const floatv p = power(vloadv(0, si + k) - lse);
                put(p, si + k);
                put(p * (vloadv(0, gi + k) - delta), gi + k);
            }
        }
        sum_over_queries(gk, g, x, m, n);
        sum_over_queries(gv, s, gx, m, n);
    }

    const long values = (long)get_global_size(1) * S * D;
    out += 2 * get_global_id(2) * values + ((long)(be / E) * S + k0) * pitch + be % E * D;
    for (int i = 0; i < n; i++)
        for (int d = 0; d < D; d += VW) {
            put_part(vloadv(0, gk + i * PITCH + d) * LN2, out + i * pitch + d, D - d);
            put_part(vloadv(0, gv + i * PITCH + d), out + values + i * pitch + d, D - d);
        }
}

/* Transposes VW vectors: log2(VW) perfect shuffles of the concatenated rows and columns. */
void transpose(floatv t[VW])
{
#pragma unroll
    for (int h = 1; h < VW; h *= 2) {
        floatv u[VW];
#pragma unroll
        for (int i = 0; i < VW / 2; i++) {
            u[2 * i].even = t[i].lo;
            u[2 * i].odd = t[i + VW / 2].lo;
            u[2 * i + 1].even = t[i].hi;
            u[2 * i + 1].odd = t[i + VW / 2].hi;
        }
#pragma unroll
        for (int i = 0; i < VW; i++)
            t[i] = u[i];
    }
}

/* to[d][j] = x[j pitch + d] for PANEL rows of which `left` exist, 0 beyond; vectors without any row are left out. */
void pack_panel(__global float *to, __global const float *x, long pitch, int left)
{
    for (int j = 0; j < min(PANEL, left); j += VW)
        for (int d = 0; d < D; d += VW) {
            floatv t[VW];
#pragma unroll
            for (int i = 0; i < VW; i++)
                t[i] = j + i < left ? load_part(x + (j + i) * pitch + d, D - d) : (floatv)(0.0f);
            transpose(t);
#pragma unroll
            for (int i = 0; i < VW; i++)
                if (d + i < D)
                    put_out(t[i], to + (d + i) * PANEL + j);
        }
}

/*
 * attn_kv: for each head the keys, [ceil(S / PANEL)][D][PANEL], along lanes; with -DGRAD the values likewise; then
 * the values, with -DGRAD the keys, [S][PITCH], 0 beyond D.
 *
 * Work-item: PANEL keys of one head. Global size: (ceil(S / PANEL), B E); local 1.
 */
__kernel ONE_ITEM void attn_kv(__global float *packed, __global const float *restrict k,
                               __global const float *restrict v, int S, int E)
{
    const int be = get_global_id(1), k0 = get_global_id(0) * PANEL, left = S - k0;
    const long pitch = (long)E * D, first = ((long)(be / E) * S + k0) * pitch + be % E * D;
    const long panels = (long)get_global_size(0) * PANEL * D;
    k += first;
    v += first;
#ifdef GRAD
    packed += be * (2 * panels + (long)S * PITCH);
    pack_panel(packed + (long)k0 * D, k, pitch, left);
    packed += panels;
    pack_panel(packed + (long)k0 * D, v, pitch, left);
    v = k;
#else
    packed += be * (panels + (long)S * PITCH);
    pack_panel(packed + (long)k0 * D, k, pitch, left);
#endif
    packed += panels + (long)k0 * PITCH;
    for (int i = 0; i < min(PANEL, left); i++)
        for (int d = 0; d < D; d += VW)
            put_out(load_part(v + i * pitch + d, D - d), packed + i * PITCH + d);
}

#endif /* VW > 1 */
