/*
 * attn.cl - scaled dot product attention, never with a Tq x Tk matrix in memory.
 *
 * `_vec` (CPU): attn_pack lays K and V out for the inner loops; in attn_vec a work-item takes ROWS queries of one head
 * over all keys. Both need -DD, the head size (any; 4..512 is tested).
 */

#if VW > 1

#define V_PANELS   ((D + VW - 1) / PANEL)             /* panels of V of two vectors */
#define HALF_PANEL (D % PANEL > 0 && D % PANEL <= VW) /* and one of a single vector, where that is enough */
#define D_PADDED   ((D + VW - 1) / VW * VW)
#define KEYS       256 /* keys at a time: their part of K and V stays in a core's own cache */

DEFINE_MULTIPLY(score, __global, __global, 2)
DEFINE_MULTIPLY(mix, __private, __global, 2)
#if HALF_PANEL
DEFINE_MULTIPLY(mix_half, __private, __global, 1)
#endif

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

/* s[i][k] = scale <q_i, key k0 + k> for n keys of the tile's queries; -inf from key `limit` (+ i, if causal) on. */
void scores(float *s, __global const float **q, __global const float *kp, int n, int k0, int limit, float scale)
{
    const int width = (n + PANEL - 1) / PANEL * PANEL;
    for (int k = 0; k < width; k += PANEL) {
        float t[TILE] ALIGNED;
        for (int i = 0; i < 2 * ROWS; i++)
            vstorev((floatv)(0.0f), i, t);
        score(t, q, 1, kp + (long)(k0 + k) * D, D);
        for (int i = 0; i < ROWS; i++) {
            vstorev(vloadv(2 * i, t) * scale, 0, s + i * KEYS + k);
            vstorev(vloadv(2 * i + 1, t) * scale, 1, s + i * KEYS + k);
        }
    }
    for (int i = 0; i < ROWS; i++) {
#ifdef CAUSAL
        const int end = limit + i - k0;
#else
        const int end = limit - k0;
#endif
        for (int k = max(end, 0); k < width; k++)
            s[i * KEYS + k] = -INFINITY;
    }
}

/*
 * attn_vec: O[b, i, e] = sum_j softmax_j(scale <q_i, k_j>) v_j for each head e of each image b; all f32.
 *
 * q, O [B, Tq, E D] dense; packed: keys and values from attn_pack. -DCAUSAL: query i sees keys j <= i only (Tq = Tk).
 * Softmax is online (Milakov and Gimelshein 2018): over blocks of KEYS keys, with the sums so far scaled down whenever
 * the maximum grows.
 *
 * Work-item: ROWS queries of one head. Global size: (ceil(Tq / ROWS), B E); local 1. -D: D, VW, ROWS, CAUSAL.
 * Private memory: 4 ROWS (KEYS + D_PADDED) bytes and a little: 36 KiB for D = 512 with VW 16.
 */
__kernel ONE_ITEM void attn_vec(__global float *o, __global const float *restrict q,
                                __global const float *restrict packed, int Tq, int Tk, int E, float scale)
{
    const int be = get_global_id(1), q0 = get_global_id(0) * ROWS;
    const long row0 = (long)(be / E) * Tq;
    const long keys_size = (long)((Tk + PANEL - 1) / PANEL) * PANEL * D;
    __global const float *kp = packed + be * keys_size;
    __global const float *vp = packed + get_global_size(1) * keys_size + (long)be * Tk * D_PADDED;

    __global const float *queries[ROWS];
    const float *weights[ROWS];
    float s[ROWS * KEYS] ALIGNED, acc[ROWS * D_PADDED] ALIGNED, top[ROWS];
    floatv sum[ROWS];
    for (int i = 0; i < ROWS; i++) {
        queries[i] = q + ((row0 + min(q0 + i, Tq - 1)) * E + be % E) * D;
        weights[i] = s + i * KEYS;
        top[i] = -FLT_MAX;
        sum[i] = (floatv)(0.0f);
    }
    for (int i = 0; i < ROWS * D_PADDED / VW; i++)
        vstorev((floatv)(0.0f), i, acc);

#ifdef CAUSAL
    const int keys = min(q0 + ROWS, Tk), limit = q0 + 1;
#else
    const int keys = Tk, limit = Tk;
#endif
    for (int k0 = 0; k0 < keys; k0 += KEYS) {
        const int n = min(KEYS, keys - k0);
        scores(s, queries, kp, n, k0, limit, scale);
        for (int i = 0; i < ROWS; i++) {
            float *p = s + i * KEYS;
            floatv m = vloadv(0, p), sums = (floatv)(0.0f);
            for (int k = VW; k < n; k += VW)
                m = max(m, vloadv(0, p + k));
            const float peak = max(top[i], highest(m)), decay = exp(top[i] - peak);
            for (int k = 0; k < n; k += VW) {
                const floatv e = exp_clamped(vloadv(0, p + k) - peak);
                vstorev(e, 0, p + k);
                sums += e;
            }
            top[i] = peak;
            sum[i] = sum[i] * decay + sums;
            for (int c = 0; c < V_PANELS; c++) {
                vstorev(vloadv(2 * i, acc + c * TILE) * decay, 2 * i, acc + c * TILE);
                vstorev(vloadv(2 * i + 1, acc + c * TILE) * decay, 2 * i + 1, acc + c * TILE);
            }
#if HALF_PANEL
            vstorev(vloadv(i, acc + V_PANELS * TILE) * decay, i, acc + V_PANELS * TILE);
#endif
        }
        for (int c = 0; c < V_PANELS; c++)
            mix(acc + c * TILE, weights, 1, vp + ((long)c * Tk + k0) * PANEL, n);
#if HALF_PANEL
        mix_half(acc + V_PANELS * TILE, weights, 1, vp + (long)V_PANELS * Tk * PANEL + (long)k0 * VW, n);
#endif
    }

    for (int i = 0; i < min(ROWS, Tq - q0); i++) {
        float total[VW], all = 0.0f;
        vstorev(sum[i], 0, total);
        for (int l = 0; l < VW; l++)
            all += total[l];
        __global float *to = o + ((row0 + q0 + i) * E + be % E) * D;
        for (int d = 0; d < D; d += VW) {
            const int c = d / PANEL, width = c < V_PANELS ? PANEL : VW;
            store_part(vloadv(0, acc + c * TILE + i * width + d % PANEL) / all, to + d, D - d);
        }
    }
}

/*
 * attn_pack: kp[be][ceil(Tk / PANEL)][D][PANEL], keys along lanes, 0 beyond Tk; vp[be][panel][Tk][width]: V_PANELS
 * panels of width PANEL, then one of width VW if HALF_PANEL, 0 beyond D; be = image E + head. packed: all of kp, then
 * all of vp; k, v [B, Tk, E D] dense.
 *
 * Work-item: PANEL keys of one head. Global size: (ceil(Tk / PANEL), B E); local 1. -D: D, VW.
 */
__kernel ONE_ITEM void attn_pack(__global float *packed, __global const float *restrict k,
                                 __global const float *restrict v, int Tk, int E)
{
    const int be = get_global_id(1), j0 = get_global_id(0) * PANEL;
    const long pitch = (long)E * D, first = ((long)(be / E) * Tk + j0) * pitch + be % E * D;
    const long keys_size = (long)get_global_size(0) * PANEL * D;
    __global float *kp = packed + be * keys_size + (long)j0 * D;
    __global float *vp = packed + get_global_size(1) * keys_size + (long)be * Tk * D_PADDED;
    k += first;
    v += first;

    float t[VW * PANEL];
    for (int d = 0; d < D; d += VW) {
        load_block(t, PANEL, k + d, pitch, 1, Tk - j0, D - d);
        load_block(t + VW, PANEL, k + VW * pitch + d, pitch, 1, Tk - j0 - VW, D - d);
        for (int i = 0; i < 2 * min(VW, D - d); i++)
            vstorev(vloadv(i, t), 2 * d + i, kp);
    }
    for (int j = 0; j < min(PANEL, Tk - j0); j++) {
        for (int d = 0; d < D; d += VW) {
            const int c = d / PANEL, width = c < V_PANELS ? PANEL : VW;
            vstorev(load_part(v + j * pitch + d, D - d), 0, vp + (long)c * Tk * PANEL + (j0 + j) * width + d % PANEL);
        }
    }
}

#endif /* VW > 1 */
