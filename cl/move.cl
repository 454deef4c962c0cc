/* move.cl - kernels that only move values, and the adjoint of resampling. */

#if VW > 1

#ifdef STEP

/*
 * strided_rows, for slice, broadcast and most transpositions: y[r, c] = x[from + c STEP] where row r = (i0, i1, i2) of
 * x begins at from + i0 s0 + i1 s1 + i2 s2; STEP 1, or 0: one element fills the row. d1, d2: sizes of the last two of
 * the three dimensions. Work-item: GRID_BLOCK. -D: ELEM ushort or uint, STEP, VW.
 */
__kernel void strided_rows(__global ELEM *y, __global const ELEM *restrict x, int from, int d1, int d2, int s0, int s1,
                           int s2, GRID_PARAMS)
{
    GRID_BLOCK
    int i2 = r0 % d2, i1 = r0 / d2 % d1, i0 = r0 / d2 / d1;
    for (int r = r0; r < r1; r++) {
        __global const ELEM *rx = x + from + (i0 * s0 + i1 * s1 + i2 * s2);
        __global ELEM *ry = y + (long)r * n;
        int c = c0;
        for (; c + VW <= c1; c += VW)
            vstorev(STEP ? vloadv(0, rx + c) : (CAT(ELEM, VW))(rx[0]), 0, ry + c);
        for (; c < c1; c++)
            ry[c] = rx[c * STEP];
        i1 += ++i2 == d2;
        i2 = i2 == d2 ? 0 : i2;
        i0 += i1 == d1;
        i1 = i1 == d1 ? 0 : i1;
    }
}

#elif defined(ELEM)

typedef CAT(ELEM, VW) elemv;

/*
 * transpose_vec: y[i0, i1, j, k] = x[i0 s0 + i1 s1 + j + k s3]; d1..d3 sizes of the last three dimensions of y.
 * Work-item: VW values of j by `span` of k, in squares of VW; `down` and `across` of them make a matrix. Global size:
 * matrices down across. -D: ELEM, VW.
 */
__kernel void transpose_vec(__global ELEM *y, __global const ELEM *restrict x, int d1, int d2, int d3, int s0, int s1,
                            int s3, int down, int across, int span)
{
    const int i = get_global_id(0), m = i / across / down, j0 = i / across % down * VW, rows = min(VW, d2 - j0);
    const int k0 = i % across * span, k1 = min(k0 + span, d3);
    x += m / d1 * s0 + m % d1 * s1 + j0;
    y += ((long)m * d2 + j0) * d3;
    int k = k0;
    for (; rows == VW && k + VW <= k1; k += VW) {
        elemv t[VW], u[VW];
#pragma unroll
        for (int l = 0; l < VW; l++)
            t[l] = vloadv(0, x + (long)(k + l) * s3);
#pragma unroll
        for (int turn = 1; turn < VW; turn *= 2) { /* interleaving the halves log2(VW) times transposes */
#pragma unroll
            for (int l = 0; l < VW / 2; l++) {
                u[2 * l].even = t[l].lo;
                u[2 * l].odd = t[l + VW / 2].lo;
                u[2 * l + 1].even = t[l].hi;
                u[2 * l + 1].odd = t[l + VW / 2].hi;
            }
#pragma unroll
            for (int l = 0; l < VW; l++)
                t[l] = u[l];
        }
#pragma unroll
        for (int l = 0; l < VW; l++)
            vstorev(t[l], 0, y + (long)l * d3 + k);
    }
    for (; k < k1; k++)
        for (int j = 0; j < rows; j++)
            y[(long)j * d3 + k] = x[(long)k * s3 + j];
}

#else

/* Columns lo..hi of a row y, as far as they lie within c0..c1: from x, and zeros. */
void copy_part(__global float *y, __global const float *x, int c0, int c1, int lo, int hi)
{
    const int end = min(c1, hi);
    int c = max(c0, lo);
    for (; c + VW <= end; c += VW)
        vstorev(vloadv(0, x + (c - lo)), 0, y + c);
    for (; c < end; c++)
        y[c] = x[c - lo];
}

void zero_part(__global float *y, int c0, int c1, int lo, int hi)
{
    const int end = min(c1, hi);
    int c = max(c0, lo);
    for (; c + VW <= end; c += VW)
        vstorev((floatv)(0.0f), 0, y + c);
    for (; c < end; c++)
        y[c] = 0.0f;
}

/* pad_rows: row r of y [rows, n] is `before` zeros, row r of x [rows, nx], zeros. Work-item: GRID_BLOCK. -D: VW. */
__kernel void pad_rows(__global float *y, __global const float *restrict x, int nx, int before, GRID_PARAMS)
{
    GRID_BLOCK
    for (int r = r0; r < r1; r++) {
        __global float *ry = y + (long)r * n;
        zero_part(ry, c0, c1, 0, before);
        copy_part(ry, x + (long)r * nx, c0, c1, before, before + nx);
        zero_part(ry, c0, c1, before + nx, n);
    }
}

/* concat_rows: row r of y [rows, n] is that of a [rows, na] and then that of b. Work-item: GRID_BLOCK. -D: VW. */
__kernel void concat_rows(__global float *y, __global const float *restrict a, __global const float *restrict b, int na,
                          GRID_PARAMS)
{
    GRID_BLOCK
    for (int r = r0; r < r1; r++) {
        copy_part(y + (long)r * n, a + (long)r * na, c0, c1, 0, na);
        copy_part(y + (long)r * n, b + (long)r * (n - na), c0, c1, na, n);
    }
}

/*
 * resample_rows: nearest neighbour, y[b,h,w,c] = x[b, h H / OH, w W / OW, c] rounded down. Rows are pixels of y, n = C.
 * Work-item: GRID_BLOCK. -D: VW.
 */
__kernel void resample_rows(__global float *y, __global const float *restrict x, int H, int W, int OH, int OW,
                            GRID_PARAMS)
{
    GRID_BLOCK
    for (int r = r0; r < r1; r++) {
        const int w = r % OW * W / OW, h = r / OW % OH * H / OH, b = r / OW / OH;
        copy_part(y + (long)r * n, x + (((long)b * H + h) * W + w) * n + c0, c0, c1, c0, c1);
    }
}

/*
 * resample_bx_rows: the adjoint of resample, y[b,h,w,c] = sum of x[b,i,j,c] over the i with i OH / H rounded down = h,
 * and j likewise; x [B,H,W,C]. Rows are pixels of y [B,OH,OW,C], n = C. Work-item: GRID_BLOCK. -D: VW.
 */
__kernel void resample_bx_rows(__global float *y, __global const float *restrict x, int H, int W, int OH, int OW,
                               GRID_PARAMS)
{
    GRID_BLOCK
    for (int r = r0; r < r1; r++) {
        const int w = r % OW, h = r / OW % OH, b = r / OW / OH;
        const int i0 = (h * H + OH - 1) / OH, i1 = ((h + 1) * H + OH - 1) / OH;
        const int j0 = (w * W + OW - 1) / OW, j1 = ((w + 1) * W + OW - 1) / OW;
        for (int c = c0; c < c1; c += VW) {
            const int left = c1 - c;
            floatv sum = (floatv)(0.0f);
            for (int i = i0; i < i1; i++)
                for (int j = j0; j < j1; j++)
                    sum += load_part(x + (((long)b * H + i) * W + j) * n + c, left);
            store_part(sum, y + (long)r * n + c, left);
        }
    }
}

#endif

#elif defined(ELEM)

/*
 * strided_any: y[i0,i1,i2,i3] = x[from + i0 s0 + i1 s1 + i2 s2 + i3 s3]; d1..d3 sizes of y. Work-item: one element.
 * Global size: n. -D: ELEM.
 */
__kernel void strided_any(__global ELEM *y, __global const ELEM *restrict x, int n, int from, int d1, int d2, int d3,
                          int s0, int s1, int s2, int s3)
{
    const int i = get_global_id(0);
    if (i < n)
        y[i] = x[from + i % d3 * s3 + i / d3 % d2 * s2 + i / d3 / d2 % d1 * s1 + i / d3 / d2 / d1 * s0];
}

#endif
