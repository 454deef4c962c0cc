/*
 * matmul.cl - matrix products.
 *
 * `_vec` (CPU): B is packed once by matmul_pack into panels; a work-item makes a few register tiles of Y.
 */

#if VW > 1

DEFINE_MULTIPLY(multiply, __global, PANEL_SPACE, 2)

/* Writes a finished tile: rows m0.. of panel `panel`. */
void finish(__global float *y, EPILOGUE_PARAMS const float *t, int M, int N, int row_span, int m0, int panel)
{
#ifdef GEGLU
    const int n = panel * VW, left = N / 2 - n;
    for (int i = 0; i < min(ROWS, M - m0); i++) {
        floatv v = vloadv(2 * i, t), w = vloadv(2 * i + 1, t);
#ifdef BIAS
        v += load_part(bias + n, left);
        w += load_part(bias + N / 2 + n, left);
#endif
        store_part(v * gelu(w), y + (long)(m0 + i) * (N / 2) + n, left);
    }
#else
    store_tile(y, EPILOGUE_ARGS t, M, N, row_span, m0, panel * PANEL);
#endif
}

/*
 * matmul_vec: Y[g] = epilogue(A[g] B[g]) for each g of a batch; Y [M, N] dense f32, A(m, k) = a[m a_row + k a_k] f32,
 * B packed.
 *
 *   y[m, n] = act(sum_k A(m, k) B(k, n) + bias[n] + row[m / row_span, n]) + res[m, n]
 *   GEGLU:  y[m, j] = (v + bias[j]) gelu(w + bias[N/2 + j]),  v, w = columns j and N/2 + j of A B;  y is [M, N/2]
 *
 * Work-item: `run` tiles of ROWS rows below one another x `wide` panels of PANEL columns (GEGLU: VW outputs), all of K.
 * Rows beyond M repeat the last one and are not stored.
 * Global size: (ceil(panels / wide), runs, batch), panels = ceil(N / PANEL) (GEGLU: ceil(N/2 / VW)), runs = ceil(M /
 * (ROWS run)); local 1. run: 1..RUN, as large as leaves work-items for all cores. wide: above 1 only with WT 0 and K <=
 * DEPTH; then rows are written from end to end, which memory likes better than pieces of them.
 * y_batch, a_batch, b_batch: elements from one product to the next; res moves with y; bias and row are shared.
 * a_row == 1 (A transposed) is about as fast as a_k == 1.
 * -D: VW, WT, ROWS, ACT, BIAS, ROW, RES; GEGLU (with BIAS only).
 * Limits: M, N, K < 2^31 - 144; offsets are 64-bit. Private memory with VW 16: 81 KiB, 17 with WT 0.
 */
__kernel ONE_ITEM void matmul_vec(__global float *y, __global const float *restrict a,
                                  __global const weight *restrict b, EPILOGUE_PARAMS int M, int N, int K, long a_row,
                                  long a_k, int row_span, int run, int wide, long y_batch, long a_batch, long b_batch)
{
#ifdef GEGLU
    const int panels = (N / 2 + VW - 1) / VW;
#else
    const int panels = (N + PANEL - 1) / PANEL;
#endif
    const int panel = get_global_id(0) * wide, beside = min(wide, panels - panel), m0 = get_global_id(1) * ROWS * run;
    const int tiles = min(run, (M - m0 + ROWS - 1) / ROWS);
    const long g = get_global_id(2);
    y += g * y_batch;
    a += g * a_batch;
    b += g * b_batch + (long)panel * K * PANEL;
#ifdef RES
    res += g * y_batch;
#endif

    float t[RUN * TILE] ALIGNED;
    WIDE_PANEL(weights);
    const int blocks = (K + DEPTH - 1) / DEPTH, depth = (K + blocks - 1) / blocks;
    const int kept = blocks > 1 ? TILE : 0; /* a tile that is made in one go leaves its place to the next */
    for (int k = 0; k < K; k += depth) {
        const int n = min(depth, K - k);
        widen(weights, b + (long)k * PANEL, n);
        for (int j = 0; j < tiles; j++) {
            __global const float *rows[ROWS];
            for (int i = 0; i < ROWS; i++)
                rows[i] = a + min(m0 + j * ROWS + i, M - 1) * a_row + k * a_k;
            float *tile = t + j * kept;
            for (int p = 0; p < beside; p++) {
                for (int i = 0; k == 0 && i < TILE / VW; i++)
                    put((floatv)(0.0f), tile + i * VW);
                multiply(tile, rows, a_k, weights + (long)p * K * PANEL, n);
                if (k + n == K)
                    finish(y, EPILOGUE_ARGS tile, M, N, row_span, m0 + j * ROWS, panel + p);
            }
        }
    }
}

/*
 * t[i][.] += sum_{k < n} a[i + k M] b[k N + .] for the ROWS rows of a tile of two vectors. Rows i >= left do not exist
 * and repeat row left - 1.
 */
void multiply_columns(float *t, __global const float *a, int left, long M, __global const float *b, long N, int n)
{
    __global const float *column[ROWS];
    floatv acc[ROWS][2];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        column[i] = a + min(i, left - 1);
        acc[i][0] = vloadv(2 * i, t);
        acc[i][1] = vloadv(2 * i + 1, t);
    }
    for (long k = 0, at = 0; k < n; k++, at += M, b += N) {
        const floatv w0 = vloadv(0, b), w1 = vloadv(1, b);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            acc[i][0] = FMA((floatv)(column[i][at]), w0, acc[i][0]);
            acc[i][1] = FMA((floatv)(column[i][at]), w1, acc[i][1]);
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        put(acc[i][0], t + 2 * i * VW);
        put(acc[i][1], t + (2 * i + 1) * VW);
    }
}

/*
 * matmul_tn_vec: Y[g] = epilogue(A[g]^T B[g]), A [K, M] and B [K, N] dense f32. In the gradient of weights K is the
 * number of tokens and both factors are new in every run: they are read as they are, because packing them would cost
 * more than the multiplication loses without.
 *
 * Work-item: a block of `high` x `wide` tiles of ROWS x PANEL, TERMS of the sum at a time, so that what one tile has
 * fetched from memory is in the cache for its neighbours. The last panel of a row ends with B's rows and overlaps the
 * one before; of its columns only the new ones are stored. Global size: (ceil(N / (PANEL wide)), ceil(M / (ROWS high)),
 * batch); local 1. high: 1..HIGH, wide: 1..WIDE. y and res move by M N from one product to the next; bias and row are
 * shared. -D: VW, ROWS, ACT, BIAS, ROW, RES. Limits: as matmul_vec; N >= PANEL. Private memory with VW 16: 270 KiB.
 */
#define HIGH  24
#define WIDE  8
#define TERMS 128
__kernel ONE_ITEM void matmul_tn_vec(__global float *y, __global const float *restrict a,
                                     __global const float *restrict b, EPILOGUE_PARAMS int M, int N, int K,
                                     int row_span, int high, int wide)
{
    const int n0 = get_global_id(0) * PANEL * wide, m0 = get_global_id(1) * ROWS * high;
    const int rows = min(high, (M - m0 + ROWS - 1) / ROWS), columns = min(wide, (N - n0 + PANEL - 1) / PANEL);
    const long g = get_global_id(2);
    y += g * M * N;
    a += g * K * M;
    b += g * K * N;
#ifdef RES
    res += g * M * N;
#endif

    float t[HIGH * WIDE * TILE + PANEL] ALIGNED;
    for (int i = 0; i < rows * columns * TILE / VW; i++)
        put((floatv)(0.0f), t + i * VW);
    for (int k = 0; k < K; k += TERMS)
        for (int i = 0; i < rows * columns; i++) {
            const int m = m0 + i / columns * ROWS, n = min(n0 + i % columns * PANEL, N - PANEL);
            multiply_columns(t + i * TILE, a + (long)k * M + m, M - m, M, b + (long)k * N + n, N, min(TERMS, K - k));
        }
    for (int i = 0; i < rows * columns; i++) {
        const int n = n0 + i % columns * PANEL, known = n - min(n, N - PANEL);
        store_tile(y, EPILOGUE_ARGS t + i * TILE + known, M, N, row_span, m0 + i / columns * ROWS, n);
    }
}

/*
 * matmul_pack: packed[g, panel, k, lane] = B[g](k, n), n = panel PANEL + lane, 0 for n >= N.
 *
 * B(k, n) = src[n b_n + k b_k]: (b_n, b_k) = (K, 1) is a linear layer's [N, K], (1, N) a plain [K, N].
 * GEGLU: lanes l < VW of panel p hold columns p VW + l (values), lanes VW + l columns N/2 + p VW + l (their gates).
 *
 * Work-item: PACK_K rows k of one panel. Global size: (ceil(K / PACK_K), panels, batch); local 1.
 * Size of packed: panels K PANEL elements of WT a product. -D: VW, WT, ST, GEGLU.
 */
#define PACK_K 64
__kernel ONE_ITEM void matmul_pack(__global weight *packed, __global const source *restrict src, int N, int K, long b_n,
                                   long b_k, long src_batch)
{
    const int panel = get_global_id(1), k_begin = get_global_id(0) * PACK_K, k_end = min(k_begin + PACK_K, K);
#ifdef GEGLU
    const int width = N / 2, n0 = panel * VW, n1 = N / 2 + n0, left0 = width - n0, left1 = left0;
#else
    const int n0 = panel * PANEL, n1 = n0 + VW, left0 = N - n0, left1 = N - n1;
#endif
    src += get_global_id(2) * src_batch;
    packed += ((long)get_global_id(2) * get_global_size(1) + panel) * K * PANEL;
    float t[VW * PANEL];
    for (int k0 = k_begin; k0 < k_end; k0 += VW) {
        load_block(t, PANEL, src + n0 * b_n + k0 * b_k, b_n, b_k, left0, K - k0);
        load_block(t + VW, PANEL, src + n1 * b_n + k0 * b_k, b_n, b_k, left1, K - k0);
        for (int i = 0; i < 2 * min(VW, K - k0); i++)
            store_weight(vloadv(i, t), 2 * k0 + i, packed);
    }
}

#endif /* VW > 1 */
