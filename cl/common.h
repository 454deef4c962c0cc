/*
 * common.h - the text that the program loader puts in front of every kernel source.
 *
 * -D parameters read here, all optional:
 *   VW   1 | 4 | 8 | 16   lanes of `floatv`. 1 (the default): scalar kernels. `_vec` kernels: the device's native width
 *   WT   0 | 1 | 2        storage of packed weights: f32, f16, bf16. Widened to f32 on load
 *   ST   0 | 1 | 2        storage of the tensor that a pack kernel reads
 *   ACT  0..4             activation of an epilogue: none, silu, gelu (erf), quick gelu, relu
 *   BIAS ROW RES          optional inputs of an epilogue, see store_tile()
 *   ROWS                  rows of the register tile of a `_vec` kernel
 *   WG                    items of a work-group that sums, see sum_group()
 */

#define CAT_(a, b) a##b
#define CAT(a, b)  CAT_(a, b)

#ifndef VW
#define VW 1
#endif
#ifndef WT
#define WT 0
#endif
#ifndef ST
#define ST 0
#endif
#ifndef ACT
#define ACT 0
#endif

/* ---- Vectors of VW lanes. Loads and stores need no more than the alignment of one element. ---- */

#if VW == 1
typedef float floatv;
#define vloadv(i, p)     ((p)[i])
#define vstorev(v, i, p) ((p)[i] = (v))
#define vload_halfv      vload_half
#define vstore_halfv     vstore_half_rte
#define as_floatv        as_float
#define as_uintv         as_uint
#define convert_uintv    convert_uint
#define convert_ushortv  convert_ushort
#define convert_intv     convert_int
#else
typedef CAT(float, VW) floatv;
#define vloadv          CAT(vload, VW)
#define vstorev         CAT(vstore, VW)
#define vload_halfv     CAT(vload_half, VW)
#define vstore_halfv    CAT(CAT(vstore_half, VW), _rte)
#define as_floatv       CAT(as_float, VW)
#define as_uintv        CAT(as_uint, VW)
#define convert_uintv   CAT(convert_uint, VW)
#define convert_ushortv CAT(convert_ushort, VW)
#define convert_intv    CAT(convert_int, VW)
#endif

/*
 * Stores of a vector, to private and to global memory. PoCL 3.1 makes four stores of vstore16(), and the load that
 * reads such a value back has to wait until all of them have left the core.
 */
typedef floatv loose __attribute__((aligned(4), may_alias));
#define put(v, p)     (*(loose *)(p) = (v))
#define put_out(v, p) (*(__global loose *)(p) = (v))

/* a b + c. The loader gives -DFMA=mad for a device without CL_FP_FMA, where fma() would be a library call. */
#ifndef FMA
#define FMA fma
#endif

/* ---- Storage types: f16 and bf16 are storage only, arithmetic is f32 (cl_khr_fp16 is not needed). ---- */

#define load_f32(i, p)     vloadv(i, p)
#define load_f16(i, p)     vload_halfv(i, p)
#define load_bf16(i, p)    as_floatv(convert_uintv(vloadv(i, p)) << 16)
#define store_f32(v, i, p) vstorev(v, i, p)
#define store_f16(v, i, p) vstore_halfv(v, i, p)

/* To the nearest, ties to even; a NaN stays one (its payload could round to infinity). */
#define store_bf16(v, i, p) vstorev(bf16_bits(v), i, p)
#if VW == 1
ushort bf16_bits(float v)
#else
CAT(ushort, VW) bf16_bits(floatv v)
#endif
{
    const floatv quiet = as_floatv(as_uintv(v) | 0x400000u);
    const floatv x = v == v ? as_floatv(as_uintv(v) + 0x7fffu + ((as_uintv(v) >> 16) & 1u)) : quiet;
    return convert_ushortv(as_uintv(x) >> 16);
}

#if WT == 0
typedef float weight;
#define load_weight  load_f32
#define store_weight store_f32
#elif WT == 1
typedef half weight;
#define load_weight  load_f16
#define store_weight store_f16
#else
typedef ushort weight;
#define load_weight  load_bf16
#define store_weight store_bf16
#endif

#if ST == 0
typedef float source;
#define load_source    load_f32
#define load_one(i, p) ((p)[i])
#elif ST == 1
typedef half source;
#define load_source load_f16
#define load_one    vload_half
#else
typedef ushort source;
#define load_source    load_bf16
#define load_one(i, p) as_float((uint)(p)[i] << 16)
#endif

/* ---- Elementary functions. Comparisons are written so that a NaN passes through. ---- */

/*
 * e^x for x clamped to [-87, 88], relative error below 2e-7: x = n ln 2 + r with ln 2 in two parts, then 2^n times a
 * minimax polynomial in r (found by Lawson's iteration for |r| <= ln(2)/2). Several times faster than exp() where that
 * is a scalar library call; what lies under the clamp (e^-87 = 1.6e-38) counts as nothing in a sum.
 */
floatv exp_clamped(floatv x)
{
    x = x < -87.0f ? (floatv)(-87.0f) : x;
    x = x > 88.0f ? (floatv)(88.0f) : x;
    const floatv n = rint(x * 1.44269504f);
    const floatv r = FMA(n, (floatv)(2.12194440e-4f), FMA(n, (floatv)(-0.693359375f), x));
    floatv p = (floatv)(8.290272e-3f);
    p = FMA(p, r, (floatv)(4.189816e-2f));
    p = FMA(p, r, (floatv)(1.6667639e-1f));
    p = FMA(p, r, (floatv)(4.9999148e-1f));
    p = FMA(p, r, (floatv)(9.999997e-1f));
    p = FMA(p, r, (floatv)(1.0f));
    return p * as_floatv((convert_intv(n) + 127) << 23);
}

/*
 * Phi(-a), a >= 0, Phi the normal distribution, as e^-L(a) with a polynomial L fitted to the weighted error a Phi(-a),
 * so that a times it is within 6e-8; 1 / 2 at 0. From a = 5.6 on (1.1e-8) it is held constant.
 */
floatv normal_tail(floatv a)
{
    a = a > 5.6f ? (floatv)(5.6f) : a;
    floatv p = (floatv)(-1.4211170e-6f);
    p = FMA(p, a, (floatv)(2.0840214e-5f));
    p = FMA(p, a, (floatv)(-9.8742748e-5f));
    p = FMA(p, a, (floatv)(-1.6699158e-4f));
    p = FMA(p, a, (floatv)(4.9880887e-3f));
    p = FMA(p, a, (floatv)(-3.6449153e-2f));
    p = FMA(p, a, (floatv)(-3.1827980e-1f));
    p = FMA(p, a, (floatv)(-7.9788727e-1f));
    p = FMA(p, a, (floatv)(-6.9314718e-1f));
    return exp_clamped(p);
}

/*
 * x Phi(x), the gelu with the error function, as max(x, 0) - a Phi(-a), a = |x|. Absolute error below 6e-8 for x < 0,
 * relative below 3e-7 for x > 0; free of the cancellation in 1 + erf(x / sqrt 2). From a = 5.6 on the second term
 * (6e-8) is held constant.
 */
floatv gelu(floatv x)
{
    floatv a = fabs(x);
    a = a > 5.6f ? (floatv)(5.6f) : a;
    return (x > 0.0f ? x : (floatv)(0.0f)) - a * normal_tail(a);
}

floatv silu(floatv x)
{
    return x / (1.0f + exp_clamped(-x));
}

/* CLIP's x sigmoid(1.702 x). */
floatv quick_gelu(floatv x)
{
    return x / (1.0f + exp_clamped(-1.702f * x));
}

floatv relu(floatv x)
{
    return x < 0.0f ? (floatv)(0.0f) : x;
}

#if ACT == 0
#define activate(x) (x)
#elif ACT == 1
#define activate silu
#elif ACT == 2
#define activate gelu
#elif ACT == 3
#define activate quick_gelu
#else
#define activate relu
#endif

/* ---- Epilogue inputs: parameters of a kernel, and the same as arguments, that exist only under their -D. ---- */

#ifdef BIAS
#define BIAS_PARAM __global const float *bias,
#define BIAS_ARG   bias,
#else
#define BIAS_PARAM
#define BIAS_ARG
#endif
#ifdef ROW
#define ROW_PARAM __global const float *row,
#define ROW_ARG   row,
#else
#define ROW_PARAM
#define ROW_ARG
#endif
#ifdef RES
#define RES_PARAM __global const float *res,
#define RES_ARG   res,
#else
#define RES_PARAM
#define RES_ARG
#endif
#define EPILOGUE_PARAMS BIAS_PARAM ROW_PARAM RES_PARAM
#define EPILOGUE_ARGS   BIAS_ARG ROW_ARG RES_ARG

/*
 * ---- Phases of the gradient of a convolution's input. Along an axis, tap t brings input row i to output row
 * (i + pad - t) / stride, if that is a whole number. So the rows i = phase + stride n of one phase are a convolution of
 * stride 1 of the output's gradient by every stride-th tap in reverse: tap u < taps of the phase is
 * t = (phase + pad) % stride + stride (taps - 1 - u), and row n begins to read at n - pad', with a pad' of the phase.
 * Packed taps (r, s) are in the order of phases (py, px), those of one in the order of (u, v). ----
 */
int phase_taps(int phase, int pad, int size, int stride)
{
    const int first = (phase + pad) % stride;
    return (size - first + stride - 1) / stride;
}

/* Taps of the phases before this one. */
int phase_offset(int phase, int pad, int size, int stride)
{
    int taps = 0;
    for (int p = 0; p < phase; p++)
        taps += phase_taps(p, pad, size, stride);
    return taps;
}

/* Number of taps of a phase, and in *pad, for that of the forward pass, its own. */
int phase_taps_pad(int phase, int size, int stride, int *pad)
{
    const int taps = phase_taps(phase, *pad, size, stride);
    *pad = taps - 1 - (phase + *pad) / stride;
    return taps;
}

/* Place of the first tap of phase (py, px) among the R S packed ones. */
int phase_place(int py, int px, int top, int left, int R, int S, int stride)
{
    return phase_offset(py, top, R, stride) * S + phase_taps(py, top, R, stride) * phase_offset(px, left, S, stride);
}

/* Place of tap (r, s). */
int tap_place(int r, int s, int top, int left, int R, int S, int stride)
{
    const int py = ((r - top) % stride + stride) % stride, px = ((s - left) % stride + stride) % stride;
    const int rows = phase_taps(py, top, R, stride), columns = phase_taps(px, left, S, stride);
    return phase_place(py, px, top, left, R, S, stride) + (rows - 1 - r / stride) * columns + columns - 1 - s / stride;
}

#if VW > 1

/*
 * ---- Register tiles of the `_vec` kernels: ROWS x PANEL sums in registers over the inner loop, PANEL = 2 VW. ----
 *
 * With VW 16 the 22 sums, two weight vectors and a broadcast fit the 32 registers of AVX-512; with VW 8 the 12 + 3 fit
 * the 16 of AVX2; 4 is for SSE and NEON. 11 rows divide 77 tokens and waste 3 % of 64 pixels; 12 waste 8 and 11 %.
 *
 * Weights are packed in panels [k][PANEL] that the inner loop reads in order. A work-item makes up to RUN tiles below
 * one another, which share the work of fetching and widening a panel: 8 % of the time if done in the inner loop, on a
 * CPU that converts on the ports it multiplies on. So the order of work-items matters little; panels go fastest.
 */
#define PANEL (2 * VW)
#define TILE  (ROWS * PANEL)
#ifndef ROWS
#if VW == 16
#define ROWS 11
#else
#define ROWS 6
#endif
#endif
#define RUN   12
#define DEPTH 512 /* rows of a panel at a time: 64 KiB of f32 with VW 16, within a core's second cache */

#define ONE_ITEM __attribute__((reqd_work_group_size(1, 1, 1)))
#define ALIGNED  __attribute__((aligned(4 * VW)))

/*
 * Defines name(t, a, step, b, n): t[i][.] += sum_{k < n} a[i][k step] b[k][.] for the ROWS rows of a tile of W vectors,
 * t and b dense. The loops over i and j must unroll fully, so that acc lives in registers.
 */
#define DEFINE_MULTIPLY(name, A_SPACE, B_SPACE, W)                                                                     \
    void name(float *t, A_SPACE const float **a, long step, B_SPACE const float *b, int n)                             \
    {                                                                                                                  \
        A_SPACE const float *row[ROWS];                                                                                \
        floatv acc[ROWS][W];                                                                                           \
        _Pragma("unroll") for (int i = 0; i < ROWS; i++)                                                               \
        {                                                                                                              \
            row[i] = a[i];                                                                                             \
            _Pragma("unroll") for (int j = 0; j < W; j++) acc[i][j] = vloadv(i * W + j, t);                            \
        }                                                                                                              \
        for (long k = 0, at = 0; k < n; k++, at += step, b += W * VW) {                                                \
            floatv w[W];                                                                                               \
            _Pragma("unroll") for (int j = 0; j < W; j++) w[j] = vloadv(j, b);                                         \
            _Pragma("unroll") for (int i = 0; i < ROWS; i++)                                                           \
            {                                                                                                          \
                const floatv x = (floatv)(row[i][at]);                                                                 \
                _Pragma("unroll") for (int j = 0; j < W; j++) acc[i][j] = FMA(x, w[j], acc[i][j]);                     \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("unroll") for (int i = 0; i < ROWS; i++)                                                               \
        {                                                                                                              \
            _Pragma("unroll") for (int j = 0; j < W; j++) put(acc[i][j], t + (i * W + j) * VW);                          \
        }                                                                                                              \
    }

/* A panel's rows as multiply() wants them: f32 weights in place, others widened into private memory by widen(). */
#if WT == 0
#define PANEL_SPACE    __global
#define WIDE_PANEL(p)  __global const float *p
#define widen(p, w, n) ((p) = (w))
#else
#define PANEL_SPACE   __private
#define WIDE_PANEL(p) float p[DEPTH * PANEL] ALIGNED
void widen(float *p, __global const weight *w, int n)
{
    for (int i = 0; i < 2 * n; i++)
        put(load_weight(i, w), p + i * VW);
}
#endif

/* VW elements of which the first `left` exist; the others read as 0. */
floatv load_part(__global const float *p, int left)
{
    if (left >= VW)
        return vloadv(0, p);
    float t[VW];
    for (int l = 0; l < VW; l++)
        t[l] = l < left ? p[l] : 0.0f;
    return vloadv(0, t);
}

void store_part(floatv v, __global float *p, int left)
{
    if (left >= VW) {
        put_out(v, p);
        return;
    }
    float t[VW];
    vstorev(v, 0, t);
    for (int l = 0; l < left; l++)
        p[l] = t[l];
}

float sum_lanes(floatv v)
{
    float t[VW], s = 0.0f;
    vstorev(v, 0, t);
    for (int l = 0; l < VW; l++)
        s += t[l];
    return s;
}

/* One vector of a tile's row to y[m, n..], of which the first `left` columns exist. */
void store_vector(__global float *y, EPILOGUE_PARAMS floatv v, int N, int row_span, int m, int n, int left)
{
    const long at = (long)m * N + n;
    if (left <= 0)
        return;
#ifdef BIAS
    v += load_part(bias + n, left);
#endif
#ifdef ROW
    v += load_part(row + (long)(m / row_span) * N + n, left);
#endif
    v = activate(v);
#ifdef RES
    v += load_part(res + at, left);
#endif
    store_part(v, y + at, left);
}

/*
 * Writes a tile to rows m0.. and columns n0.. of y[M, N]: y = act(t + bias[n] + row[m / row_span, n]) + res[m, n]. res may be y.
 * Whole panels take the first loop, free of tests. The loops are rolled on purpose: they are a small part of the time and
 * would be most of the code.
 */
void store_tile(__global float *y, EPILOGUE_PARAMS const float *t, int M, int N, int row_span, int m0, int n0)
{
    const int rows = min(ROWS, M - m0);
    if (N - n0 >= PANEL) {
        for (int i = 0; i < rows; i++) {
            store_vector(y, EPILOGUE_ARGS vloadv(2 * i, t), N, row_span, m0 + i, n0, VW);
            store_vector(y, EPILOGUE_ARGS vloadv(2 * i + 1, t), N, row_span, m0 + i, n0 + VW, VW);
        }
    } else {
        for (int i = 0; i < 2 * rows; i++)
            store_vector(y, EPILOGUE_ARGS vloadv(i, t), N, row_span, m0 + i / 2, n0 + i % 2 * VW, N - n0 - i % 2 * VW);
    }
}

/* Transposes a VW x VW block for packing: t[k pitch + n] = src[n s_n + k s_k], 0 where n >= n_left or k >= k_left. */
void load_block(float *t, int pitch, __global const source *src, long s_n, long s_k, int n_left, int k_left)
{
    const bool whole = n_left >= VW && k_left >= VW;
    if (whole && s_n == 1) {
        for (int k = 0; k < VW; k++)
            vstorev(load_source(0, src + k * s_k), 0, t + k * pitch);
    } else if (whole && s_k == 1) {
        float s[VW * VW];
        for (int n = 0; n < VW; n++)
            vstorev(load_source(0, src + n * s_n), n, s);
        for (int k = 0; k < VW; k++)
            for (int n = 0; n < VW; n++)
                t[k * pitch + n] = s[n * VW + k];
    } else {
        for (int k = 0; k < VW; k++)
            for (int n = 0; n < VW; n++)
                t[k * pitch + n] = n < n_left && k < k_left ? load_one(n * s_n + k * s_k, src) : 0.0f;
    }
}

#else /* the same names for kernels that run with one lane too: a scalar is never partial */

float load_part(__global const float *p, int left)
{
    return *p;
}

void store_part(floatv v, __global float *p, int left)
{
    *p = v;
}

float sum_lanes(floatv v)
{
    return v;
}

#endif /* VW > 1 */

/*
 * ---- Blocks of a tensor [rows, n], see ac_rows_grid(). ----
 *
 * The last parameters of a kernel, and the block that a work-item takes: rows r0..r1, columns c0..c1. Global size:
 * blocks across times blocks down; `across` blocks of cspan columns go fastest, a block has rspan rows.
 */
#define GRID_PARAMS int rows, int n, int across, int cspan, int rspan
#define GRID_BLOCK                                                                                                     \
    const int c0 = get_global_id(0) % across * cspan, c1 = min(c0 + cspan, n);                                         \
    const int r0 = get_global_id(0) / across * rspan, r1 = min(r0 + rspan, rows);

#ifdef WG

/* Sum over a work-group of one dimension, the same in every item; `t` WG floats, WG a power of two. */
float sum_group(float v, __local float *t)
{
    const int l = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    t[l] = v;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int h = WG / 2; h > 0; h /= 2) {
        if (l < h)
            t[l] += t[l + h];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return t[0];
}

#endif
