/*
 * gemm_tile.cl - matrix products and convolutions.
 *
 * `_tile` (GPU): a work-group makes a tile of Y from slices of both factors in local memory. A convolution is the
 * product of pixels and filters; nothing like an im2col matrix is ever in memory.
 * `_any` (all devices): a work-item makes one element of Y. No local memory, no barrier, any work-group size.
 *
 * -DWM selects the `_tile` kernels, with -DCONV those of convolution, with -DCONV_BW that of the gradient of filters;
 * without it the file holds the others.
 */

/* act(v + bias[n] + row[row_at + n]) + res[at]: element `at` of Y, column n. */
float finish(EPILOGUE_PARAMS float v, int n, long row_at, long at)
{
#ifdef BIAS
    v += bias[n];
#endif
#ifdef ROW
    v += row[row_at + n];
#endif
    v = activate(v);
#ifdef RES
    v += res[at];
#endif
    return v;
}

/* ---- Geometry of a convolution: X [B, H, W, C] is resampled to [up_h, up_w], padded by (top, left), filtered. ---- */

#define GEOMETRY_PARAMS                                                                                                \
    int H, int W, int C, int OH, int OW, int R, int S, int stride, int top, int left, int up_h, int up_w
#define GEOMETRY_ARGS H, W, C, OH, OW, R, S, stride, top, left, up_h, up_w

/* The element of X where the channels of the pixel begin that tap (r, s) of output pixel m reads; -1 in the padding. */
int tap_source(int m, int r, int s, GEOMETRY_PARAMS)
{
    const int o = m / OW;
    int i = o % OH * stride - top + r, j = m % OW * stride - left + s;
    if (i < 0 || i >= up_h || j < 0 || j >= up_w)
        return -1;
    if (up_h != H)
        i = i * H / up_h;
    if (up_w != W)
        j = j * W / up_w;
    return ((o / OH * H + i) * W + j) * C;
}

#ifdef WM

/*
 * ---- Tiles. WM x WN work-items make TILE_M rows x TILE_N columns: item (p, q) the rows 4 (g WM + p) + 0..3 for each
 * g < TM / 4, and the columns 4 q + 0..3. Neighbours in q read neighbouring float4 and share those of the rows. ----
 */
#define WG     (WM * WN)
#define TILE_M (WM * TM)
#define TILE_N (WN * 4)
#define SLICE  16 /* terms of the sum that are in local memory at a time */
/* float4 from one term to the next: one more than the tile has, which spreads a column over the banks of the memory. */
#define PITCH_A (TILE_M / 4 + 1)
#define PITCH_B (TILE_N / 4 + 1)

#define GROUP __attribute__((reqd_work_group_size(WG, 1, 1)))
/* For functions that take an item's outputs: those stay in registers. */
#define INLINE __attribute__((always_inline))

/*
 * The functions load_* fill one slice. Each load reads an element that exists, at clamped indices, so that none needs a
 * branch and all are under way together; terms beyond the sum become 0, rows and columns beyond Y are never stored.
 * Neighbouring items read neighbouring elements.
 */

/* t[k][n] = B(k0 + k, n) for the right factor, K terms and n_left columns. */
INLINE void load_b(__local float *t, __global const weight *b, int ldb, int n_left, int k0, int K, int item)
{
#ifdef TB
    const int k = item % SLICE, n0 = item / SLICE, from = min(k0 + k, K - 1);
    t += k * 4 * PITCH_B + n0;
#pragma unroll
    for (int n = 0; n < TILE_N; n += WG / SLICE) {
        const float v = load_weight(min(n0 + n, n_left - 1) * ldb + from, b);
        t[n] = k0 + k < K ? v : 0.0f;
    }
#else
    const int n = item % TILE_N, from = min(n, n_left - 1);
    t += item / TILE_N * 4 * PITCH_B + n;
    k0 += item / TILE_N;
#pragma unroll
    for (int k = 0; k < SLICE; k += WG / TILE_N) {
        const float v = load_weight(min(k0 + k, K - 1) * ldb + from, b);
        t[k * 4 * PITCH_B] = k0 + k < K ? v : 0.0f;
    }
#endif
}

/* acc += A B for one slice. */
INLINE void multiply(float4 *acc, __local const float4 *a, __local const float4 *b, int item)
{
    a += item / WN;
    b += item % WN;
#pragma unroll 4
    for (int k = 0; k < SLICE; k++, a += PITCH_A, b += PITCH_B) {
        const float4 y = b[0];
#pragma unroll
        for (int g = 0; g < TM / 4; g++) {
            const float4 x = a[g * WM];
            acc[4 * g + 0] = FMA((float4)(x.x), y, acc[4 * g + 0]);
            acc[4 * g + 1] = FMA((float4)(x.y), y, acc[4 * g + 1]);
            acc[4 * g + 2] = FMA((float4)(x.z), y, acc[4 * g + 2]);
            acc[4 * g + 3] = FMA((float4)(x.w), y, acc[4 * g + 3]);
        }
    }
}

/*
 * The row of y that row m of the product is: the same, or, in a phase of a convolution's gradient, with
 * m = (b OH + i) OW + j, pixel (py + stride i, px + stride j) of image b, [lines, columns].
 */
#ifdef PHASES
#define PLACE_PARAMS int OH, int OW, int py, int px, int lines, int columns,
#define PLACE_ARGS   OH, OW, py, px, lines, columns,
#define PLACE(m)     (((m) / OW / OH * lines + py + (m) / OW % OH * PHASES) * columns + px + (m) % OW * PHASES)
#else
#define PLACE_PARAMS
#define PLACE_ARGS
#define PLACE(m) (m)
#endif

/* Writes an item's part of the tile at row m0, column n0 of y [M, N]. */
INLINE void store_outputs(__global float *y, EPILOGUE_PARAMS PLACE_PARAMS const float4 *acc, int M, int N, int row_span,
                          int m0, int n0, int item)
{
    m0 += item / WN * 4;
    n0 += item % WN * 4;
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int m = m0 + i / 4 * 4 * WM + i % 4;
        const long at = (long)PLACE(m) * N, row_at = (long)(m / row_span) * N;
        if (m < M) {
            if (n0 + 0 < N)
                y[at + n0 + 0] = finish(EPILOGUE_ARGS acc[i].x, n0 + 0, row_at, at + n0 + 0);
            if (n0 + 1 < N)
                y[at + n0 + 1] = finish(EPILOGUE_ARGS acc[i].y, n0 + 1, row_at, at + n0 + 1);
            if (n0 + 2 < N)
                y[at + n0 + 2] = finish(EPILOGUE_ARGS acc[i].z, n0 + 2, row_at, at + n0 + 2);
            if (n0 + 3 < N)
                y[at + n0 + 3] = finish(EPILOGUE_ARGS acc[i].w, n0 + 3, row_at, at + n0 + 3);
        }
    }
}

#ifndef CONV

/* t[k][m] = A(m, k0 + k) for the left factor, m_left rows and K terms. */
INLINE void load_a(__local float *t, __global const float *a, int lda, int m_left, int k0, int K, int item)
{
#ifdef TA
    const int m = item % TILE_M, from = min(m, m_left - 1);
    t += item / TILE_M * 4 * PITCH_A + m;
    k0 += item / TILE_M;
#pragma unroll
    for (int k = 0; k < SLICE; k += WG / TILE_M) {
        const float v = a[min(k0 + k, K - 1) * lda + from];
        t[k * 4 * PITCH_A] = k0 + k < K ? v : 0.0f;
    }
#else
    const int k = item % SLICE, m0 = item / SLICE, from = min(k0 + k, K - 1);
    t += k * 4 * PITCH_A + m0;
#pragma unroll
    for (int m = 0; m < TILE_M; m += WG / SLICE) {
        const float v = a[min(m0 + m, m_left - 1) * lda + from];
        t[m] = k0 + k < K ? v : 0.0f;
    }
#endif
}

#ifdef CONV_BW

/* t[k][n] = channel n of the pixel at source[k] of x, 0 where that is negative; n_left channels. */
INLINE void load_taps(__local float *t, __global const float *x, __local const int *source, int n_left, int item)
{
    const int n = item % TILE_N, from = min(n, n_left - 1);
    t += item / TILE_N * 4 * PITCH_B + n;
    source += item / TILE_N;
#pragma unroll
    for (int k = 0; k < SLICE; k += WG / TILE_N) {
        const float v = x[max(source[k], 0) + from];
        t[k * 4 * PITCH_B] = source[k] >= 0 ? v : 0.0f;
    }
}

/*
 * conv_bw_tile: gradient of a convolution's filters, gw [parts, K, C, R, S] from x [B, H, W, C] and gy [pixels, K]:
 *
 *   gw[part, k, c, r, s] = sum over the pixels m of a part of gy[m, k] X[m, r, s, c]
 *
 * where X is what tap (r, s) of output pixel m reads, 0 in the padding. A part is `span` successive pixels.
 * Work-group: TILE_M channels k x TILE_N channels c for one tap; it finds where WG pixels read, then runs over these in
 * slices.
 * Global size: (taps * tiles of K * tiles of C * WG, parts), those of C running fastest; local (WG, 1).
 * Local memory: that of matmul_tile, and WG ints. (up_h, up_w) is (H, W).
 * -D: CONV_BW, TA, WM, WN, TM. Limits: as matmul_tile.
 */
__kernel GROUP void conv_bw_tile(__global float *gw, __global const float *restrict x,
                                 __global const float *restrict gy, int pixels, int K, int span, GEOMETRY_PARAMS)
{
    __local float4 ta[SLICE * PITCH_A], tb[SLICE * PITCH_B];
    __local int source[WG];
    const int item = get_local_id(0), tiles_n = (C + TILE_N - 1) / TILE_N, tiles_m = (K + TILE_M - 1) / TILE_M;
    const int group = get_group_id(0), tap = group / tiles_n / tiles_m;
    const int m0 = group / tiles_n % tiles_m * TILE_M, n0 = group % tiles_n * TILE_N;
    const int begin = get_group_id(1) * span, end = min(begin + span, pixels);

    float4 acc[TM];
#pragma unroll
    for (int i = 0; i < TM; i++)
        acc[i] = (float4)(0.0f);
    for (int p = begin; p < end; p += WG) {
        source[item] = p + item < end ? tap_source(p + item, tap / S, tap % S, GEOMETRY_ARGS) : -1;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int k = 0; k < min(WG, end - p); k += SLICE) {
            load_a((__local float *)ta, gy + m0, K, K - m0, p + k, end, item);
            load_taps((__local float *)tb, x + n0, source + k, C - n0, item);
            barrier(CLK_LOCAL_MEM_FENCE);
            multiply(acc, ta, tb, item);
            barrier(CLK_LOCAL_MEM_FENCE);
        }
    }
    gw += (long)get_group_id(1) * K * C * R * S + tap;
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int m = m0 + item / WN * 4 + i / 4 * 4 * WM + i % 4, n = n0 + item % WN * 4;
        __global float *to = gw + ((long)m * C + n) * R * S;
        if (m < K && n + 0 < C)
            to[0] = acc[i].x;
        if (m < K && n + 1 < C)
            to[R * S] = acc[i].y;
        if (m < K && n + 2 < C)
            to[2 * R * S] = acc[i].z;
        if (m < K && n + 3 < C)
            to[3 * R * S] = acc[i].w;
    }
}

#else /* CONV_BW */

/*
 * matmul_tile: Y[g] = epilogue(A[g] B[g]) for each g of a batch; Y [batch, M, N] dense, A f32, B of storage WT.
 *
 *   y[g, m, n] = act(sum_k A[g](m, k) B[g](k, n) + bias[n] + row[m / row_span, n]) + res[g, m, n]
 *   A(m, k) = a[m lda + k], TA: a[k lda + m];  B(k, n) = b[k ldb + n], TB: b[n ldb + k]
 *
 * Work-group: one tile of Y, all of K. a_batch, b_batch: elements from one product to the next.
 * Global size: (tiles of M * tiles of N * WG, batch), those of N running fastest; local (WG, 1).
 * Local memory: 16 (TILE_M + TILE_N + 8) floats. -D: WM, WN, TM, WT, TA, TB, ACT, BIAS, ROW (batch 1 only), RES.
 * Limits: WM, WN 4, 8 or 16, TM 4 or 8, TM <= WN; each tensor below 2^31 elements.
 */
__kernel GROUP void matmul_tile(__global float *y, __global const float *restrict a, __global const weight *restrict b,
                                EPILOGUE_PARAMS int M, int N, int K, int lda, int ldb, int row_span, long a_batch,
                                long b_batch)
{
    __local float4 ta[SLICE * PITCH_A], tb[SLICE * PITCH_B];
    const int item = get_local_id(0), group = get_group_id(0), tiles_n = (N + TILE_N - 1) / TILE_N;
    const int m0 = group / tiles_n * TILE_M, n0 = group % tiles_n * TILE_N;
    const long g = get_group_id(1), y_at = g * M * N;
#ifdef TA
    a += g * a_batch + m0;
#else
    a += g * a_batch + (long)m0 * lda;
#endif
#ifdef TB
    b += g * b_batch + (long)n0 * ldb;
#else
    b += g * b_batch + n0;
#endif

    float4 acc[TM];
#pragma unroll
    for (int i = 0; i < TM; i++)
        acc[i] = (float4)(0.0f);
    for (int k = 0; k < K; k += SLICE) {
        load_a((__local float *)ta, a, lda, M - m0, k, K, item);
        load_b((__local float *)tb, b, ldb, N - n0, k, K, item);
        barrier(CLK_LOCAL_MEM_FENCE);
        multiply(acc, ta, tb, item);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
#ifdef RES
    res += y_at;
#endif
    store_outputs(y + y_at, EPILOGUE_ARGS acc, M, N, row_span, m0, n0, item);
}

#endif /* CONV_BW */

#else /* CONV */

/* t[c][i] = channel c of the pixel at source[i] of x, 0 where that is negative; c_left channels. */
INLINE void load_pixels(__local float *t, __global const float *x, __local const int *source, int c_left, int item)
{
    const int c = item % SLICE, i0 = item / SLICE;
    x += min(c, c_left - 1);
    source += i0;
    t += c * 4 * PITCH_A + i0;
#pragma unroll
    for (int i = 0; i < TILE_M; i += WG / SLICE) {
        const float v = x[max(source[i], 0)];
        t[i] = source[i] >= 0 && c < c_left ? v : 0.0f;
    }
}

/*
 * conv_tile: Y [B, OH, OW, K] = epilogue(conv(X [B, H, W, C], filters [K, C, R, S])); filters packed by conv_pack_tile.
 *
 *   acc[b, oy, ox, k] = sum_{r, s, c} X[b, i, j, c] w[k, c, r, s],  i = oy stride - top + r,  j = ox stride - left + s
 *   X = 0 where (i, j) is outside [up_h, up_w], else X[b, i H / up_h, j W / up_w, c], rounded down
 *   y = act(acc + bias[k] + row[b, k]) + res[b, oy, ox, k]
 *
 * A pixel is a row of the product: m = (b OH + oy) OW + ox, M = B OH OW. Work-group: TILE_M successive pixels (over row
 * and image ends) x TILE_N channels; for each tap it finds where its pixels read, then runs over C in slices.
 * Global size: (tiles of M * tiles of K * WG, 1), those of K running fastest; local (WG, 1).
 * Local memory: that of matmul_tile, and TILE_M ints.
 * (up_h, up_w) is (H, W) where nothing is resampled.
 * PHASES, of the value of the stride s of the forward pass: the gradient of a convolution's input, see common.h. Then X
 * is the output's gradient, Y the input's, (top, left) the input's padding, stride 1, and the filters [C, K, R, S] are
 * packed by conv_bx_pack_tile. A work-group makes pixels of phase (g1 / s, g1 % s), g1 its second id.
 * Global size: (tiles of the first phase, which is the largest, * WG, s s).
 * -D: CONV, WM, WN, TM, WT, ACT, BIAS, ROW, RES, PHASES.
 * Limits: as matmul_tile; up_h H and up_w W below 2^31 where they differ.
 */
__kernel GROUP void conv_tile(__global float *y, __global const float *restrict x, __global const weight *restrict w,
                              EPILOGUE_PARAMS int M, int K, GEOMETRY_PARAMS)
{
    __local float4 ta[SLICE * PITCH_A], tb[SLICE * PITCH_B];
    __local int source[TILE_M];
    const int item = get_local_id(0), group = get_group_id(0), tiles_n = (K + TILE_N - 1) / TILE_N;
    const int m0 = group / tiles_n * TILE_M, n0 = group % tiles_n * TILE_N;
#ifdef PHASES
    const int py = get_group_id(1) / PHASES, px = get_group_id(1) % PHASES, lines = OH, columns = OW;
    w += (long)phase_place(py, px, top, left, R, S, PHASES) * C * K;
    OH = (lines - py + PHASES - 1) / PHASES;
    OW = (columns - px + PHASES - 1) / PHASES;
    M = M / (lines * columns) * OH * OW;
    R = phase_taps_pad(py, R, PHASES, &top);
    S = phase_taps_pad(px, S, PHASES, &left);
    if (m0 >= M)
        return;
#endif

    float4 acc[TM];
#pragma unroll
    for (int i = 0; i < TM; i++)
        acc[i] = (float4)(0.0f);
    w += n0;
    for (int tap = 0; tap < R * S; tap++) {
        for (int i = item; i < TILE_M; i += WG)
            source[i] = m0 + i < M ? tap_source(m0 + i, tap / S, tap % S, GEOMETRY_ARGS) : -1;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int c = 0; c < C; c += SLICE) {
            load_pixels((__local float *)ta, x + c, source, C - c, item);
            load_b((__local float *)tb, w + (long)tap * C * K, K, K - n0, c, C, item);
            barrier(CLK_LOCAL_MEM_FENCE);
            multiply(acc, ta, tb, item);
            barrier(CLK_LOCAL_MEM_FENCE);
        }
    }
    store_outputs(y, EPILOGUE_ARGS PLACE_ARGS acc, M, K, OH * OW, m0, n0, item);
}

#endif /* CONV */

#else /* no WM */

/*
 * matmul_any: as matmul_tile, with A(m, k) = a[m a_row + k a_k] and B(k, n) = b[n b_n + k b_k].
 * Work-item: one element of Y. Global size: batch * M * N, given as `count`. -D: WT, ACT, BIAS, ROW (batch 1 only),
 * RES.
 */
__kernel void matmul_any(__global float *y, __global const float *restrict a, __global const weight *restrict b,
                         EPILOGUE_PARAMS int count, int M, int N, int K, int a_row, int a_k, int b_n, int b_k,
                         int row_span, long a_batch, long b_batch)
{
    const int at = get_global_id(0), n = at % N, m = at / N % M;
    const long g = at / N / M;
    if (at >= count)
        return;
    a += g * a_batch + (long)m * a_row;
    b += g * b_batch + (long)n * b_n;
    float sum = 0.0f;
    for (int k = 0; k < K; k++)
        sum = FMA(a[(long)k * a_k], load_weight((long)k * b_k, b), sum);
    y[at] = finish(EPILOGUE_ARGS sum, n, (long)(m / row_span) * N, at);
}

/*
 * conv_any: as conv_tile, with the filters as they are, w [K, C, R, S].
 * Work-item: one element of Y. Global size: M * K. -D: WT, ACT, BIAS, ROW, RES.
 */
__kernel void conv_any(__global float *y, __global const float *restrict x, __global const weight *restrict w,
                       EPILOGUE_PARAMS int M, int K, GEOMETRY_PARAMS)
{
    const int at = get_global_id(0), k = at % K, m = at / K, taps = R * S;
    if (m >= M)
        return;
    float sum = 0.0f;
    for (int tap = 0; tap < taps; tap++) {
        const int from = tap_source(m, tap / S, tap % S, GEOMETRY_ARGS);
        for (int c = 0; c < C && from >= 0; c++)
            sum = FMA(x[from + c], load_weight(((long)k * C + c) * taps + tap, w), sum);
    }
    y[at] = finish(EPILOGUE_ARGS sum, k, (long)(m / (OH * OW)) * K, at);
}

/*
 * conv_bx_any: gradient of a convolution's input, gx [B, H, W, C] from gy [B, OH, OW, K] and w [K, C, R, S]: gx[b, y,
 * x, c] is the epilogue of the sum of gy[b, i, j, k] w[k, c, r, s] over k and the taps (r, s) by which (i, j) reads (y,
 * x).
 * Work-item: one element of gx. Global size: that of gx, given as `count`. (up_h, up_w) is (H, W).
 * -D: WT, ACT, BIAS, ROW, RES.
 */
__kernel void conv_bx_any(__global float *gx, __global const float *restrict gy, __global const weight *restrict w,
                          EPILOGUE_PARAMS int count, int K, GEOMETRY_PARAMS)
{
    const int at = get_global_id(0), c = at % C, m = at / C, y = m / W % H, b = m / W / H;
    if (at >= count)
        return;
    float sum = 0.0f;
    for (int r = 0; r < R; r++)
        for (int s = 0; s < S; s++) {
            const int i = y + top - r, j = m % W + left - s; /* times the stride */
            if (i < 0 || j < 0 || i % stride || j % stride || i / stride >= OH || j / stride >= OW)
                continue;
            __global const float *from = gy + (((long)b * OH + i / stride) * OW + j / stride) * K;
            for (int k = 0; k < K; k++)
                sum = FMA(from[k], load_weight((((long)k * C + c) * R + r) * S + s, w), sum);
        }
    gx[at] = finish(EPILOGUE_ARGS sum, c, (long)b * C, at);
}

/*
 * conv_bw_any: as conv_bw_tile. Work-item: one element of gw. Global size: that of gw, given as `count`.
 */
__kernel void conv_bw_any(__global float *gw, __global const float *restrict x, __global const float *restrict gy,
                          int count, int pixels, int K, int span, GEOMETRY_PARAMS)
{
    const int at = get_global_id(0), s = at % S, r = at / S % R, c = at / S / R % C, k = at / S / R / C % K;
    if (at >= count)
        return;
    const int begin = at / S / R / C / K * span, end = min(begin + span, pixels);
    float sum = 0.0f;
    for (int m = begin; m < end; m++) {
        const int from = tap_source(m, r, s, GEOMETRY_ARGS);
        if (from >= 0)
            sum = FMA(gy[(long)m * K + k], x[from + c], sum);
    }
    gw[at] = sum;
}

/*
 * conv_pack_tile: packed[tap, c, k] = w[k, c, tap], w [K, C, R, S], taps = R S: what conv_tile reads, neighbouring
 * channels k for neighbouring items. Work-item: the taps of one (k, c). Global size: K * C. -D: WT, ST.
 */
__kernel void conv_pack_tile(__global weight *packed, __global const source *restrict w, int K, int C, int taps)
{
    const int id = get_global_id(0), k = id % K, c = id / K;
    if (c >= C)
        return;
    for (int tap = 0; tap < taps; tap++)
        store_weight(load_one(((long)k * C + c) * taps + tap, w), ((long)tap * C + c) * K + k, packed);
}

/*
 * conv_bx_pack_tile: the same for the gradient of a convolution's input: packed[place, k, c] = w[k, c, r, s], with the
 * taps (r, s) in the order of phases, see common.h.
 * Work-item: the taps of one (k, c). Global size: K * C, given as `count`. -D: WT, ST.
 */
__kernel void conv_bx_pack_tile(__global weight *packed, __global const source *restrict w, int count, int R, int S,
                                int stride, int top, int left)
{
    const int id = get_global_id(0);
    if (id >= count)
        return;
    for (int r = 0; r < R; r++)
        for (int s = 0; s < S; s++)
            store_weight(load_one(((long)id * R + r) * S + s, w),
                         (long)tap_place(r, s, top, left, R, S, stride) * count + id, packed);
}

#endif /* WM */
