/* reduce.cl - sums over axes and softmax; fixed order, so results repeat bit by bit. */

#if VW > 1 && !defined(WG)

#ifdef VECTORS

/* Terms that are summed before they join the sum: rounding errors grow with the terms of a block and with the blocks.
 */
#define BLOCK 16

/*
 * sum_columns: y[o, k, c] = sum of x[o, r, c] over the rows r of chunk k of `chunk` rows; x [outer, R, C], y [outer,
 * chunks, C]. Work-item: VECTORS vectors of columns of one chunk; `across` of them fill a row. Global size: across
 * outer chunks. -D: VW, VECTORS.
 */
__kernel void sum_columns(__global float *y, __global const float *restrict x, int rows, int R, int C, int chunk,
                          int chunks, int across)
{
    const int i = get_global_id(0) / across, c0 = get_global_id(0) % across * VW * VECTORS;
    const int r0 = i % chunks * chunk, n = min(chunk, R - r0);
    if (i >= rows)
        return;
    x += ((long)(i / chunks) * R + r0) * C + c0;
    y += (long)i * C + c0;
    if (C - c0 >= VW * VECTORS) {
        floatv sum[VECTORS], part[VECTORS];
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            sum[v] = (floatv)(0.0f);
        for (int r = 0; r < n;) {
            const int end = min(r + BLOCK, n);
#pragma unroll
            for (int v = 0; v < VECTORS; v++)
                part[v] = (floatv)(0.0f);
            for (; r < end; r++)
#pragma unroll
                for (int v = 0; v < VECTORS; v++)
                    part[v] += vloadv(v, x + (long)r * C);
#pragma unroll
            for (int v = 0; v < VECTORS; v++)
                sum[v] += part[v];
        }
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            vstorev(sum[v], v, y);
    } else { /* the last columns, in whole and partial vectors */
        for (int left = C - c0; left > 0; left -= VW, x += VW, y += VW) {
            floatv sum = (floatv)(0.0f);
            for (int r = 0; r < n;) {
                const int end = min(r + BLOCK, n);
                floatv part = (floatv)(0.0f);
                for (; r < end; r++)
                    part += load_part(x + (long)r * C, left);
                sum += part;
            }
            store_part(sum, y, left);
        }
    }
}

#else

/* Sum of the n values at x: four vectors of sums and the rest. */
float sum_run(__global const float *x, int n)
{
    float rest = 0.0f;
    int i = n / VW * VW;
    for (; i < n; i++)
        rest += x[i];
    if (n < VW)
        return rest;
    floatv s0 = (floatv)(0.0f), s1 = s0, s2 = s0, s3 = s0;
    for (i = 0; i + 4 * VW <= n; i += 4 * VW) {
        s0 += vloadv(0, x + i);
        s1 += vloadv(1, x + i);
        s2 += vloadv(2, x + i);
        s3 += vloadv(3, x + i);
    }
    for (; i + VW <= n; i += VW)
        s0 += vloadv(0, x + i);
    return sum_lanes((s0 + s1) + (s2 + s3)) + rest;
}

/*
 * sum_rows: y[o, k] = sum of x[o, i] over the i of chunk k of `chunk` elements; x [outer, R], y [outer, chunks], n =
 * outer chunks. Work-item: rspan elements of y. Global size: ceil(n / rspan). -D: VW.
 */
__kernel void sum_rows(__global float *y, __global const float *restrict x, int n, int R, int chunk, int chunks,
                       int rspan)
{
    const int begin = get_global_id(0) * rspan, end = min(begin + rspan, n);
    for (int i = begin; i < end; i++) {
        const int at = i % chunks * chunk;
        y[i] = sum_run(x + (long)(i / chunks) * R + at, min(chunk, R - at));
    }
}

float max_lanes(floatv v)
{
    float t[VW], top = -INFINITY;
    vstorev(v, 0, t);
    for (int l = 0; l < VW; l++)
        top = fmax(top, t[l]);
    return top;
}

/* softmax_any: y[m, j] = exp(x[m, j] - max) / sum. Work-item: one row of N. y may be x's buffer. Global size: rows. -D:
 * VW. */
__kernel void softmax_any(__global float *y, __global const float *x, int rows, int N)
{
    const int m = get_global_id(0), whole = N / VW * VW;
    if (m >= rows)
        return;
    x += (long)m * N;
    y += (long)m * N;
    floatv tops = (floatv)(-INFINITY), sums = (floatv)(0.0f);
    for (int j = 0; j < whole; j += VW)
        tops = fmax(tops, vloadv(0, x + j));
    float top = max_lanes(tops), sum = 0.0f;
    for (int j = whole; j < N; j++)
        top = fmax(top, x[j]);
    for (int j = 0; j < whole; j += VW) {
        const floatv e = exp(vloadv(0, x + j) - top);
        vstorev(e, 0, y + j);
        sums += e;
    }
    for (int j = whole; j < N; j++)
        sum += y[j] = exp(x[j] - top);
    sum += sum_lanes(sums);
    for (int j = 0; j < whole; j += VW)
        vstorev(vloadv(0, y + j) / sum, 0, y + j);
    for (int j = whole; j < N; j++)
        y[j] /= sum;
}

/*
 * softmax_bx_any: gx[m, j] = y[m, j] (gy[m, j] - sum_k gy[m, k] y[m, k]). Work-item: one row of N. gx may be y's
 * buffer. Global size: rows. -D: VW.
 */
__kernel void softmax_bx_any(__global float *gx, __global const float *y, __global const float *restrict gy, int rows,
                             int N)
{
    const int m = get_global_id(0), whole = N / VW * VW;
    if (m >= rows)
        return;
    gx += (long)m * N;
    y += (long)m * N;
    gy += (long)m * N;
    floatv sums = (floatv)(0.0f);
    float dot = 0.0f;
    for (int j = 0; j < whole; j += VW)
        sums = FMA(vloadv(0, y + j), vloadv(0, gy + j), sums);
    for (int j = whole; j < N; j++)
        dot += y[j] * gy[j];
    dot += sum_lanes(sums);
    for (int j = 0; j < whole; j += VW)
        vstorev(vloadv(0, y + j) * (vloadv(0, gy + j) - dot), 0, gx + j);
    for (int j = whole; j < N; j++)
        gx[j] = y[j] * (gy[j] - dot);
}

#endif

#endif

#ifdef WG

/* sum_rows_tile: as sum_rows; a work-group of WG items makes one element of y. Global size: n WG. -D: WG, a power of
 * two. */
__kernel void sum_rows_tile(__global float *y, __global const float *restrict x, int R, int chunk, int chunks)
{
    __local float t[WG];
    const int i = get_group_id(0), at = i % chunks * chunk, count = min(chunk, R - at);
    x += (long)(i / chunks) * R + at;
    float sum = 0.0f;
    for (int j = get_local_id(0); j < count; j += WG)
        sum += x[j];
    sum = sum_group(sum, t);
    if (get_local_id(0) == 0)
        y[i] = sum;
}

#endif
