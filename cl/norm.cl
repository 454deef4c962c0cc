/*
 * norm.cl - group and layer normalisation. Variances are sums of squares about the mean, found in a second pass.
 *
 * VW lanes are VW neighbouring channels, on CPUs (native width) as on GPUs (4, neighbouring items read neighbouring
 * memory).
 */

#if VW > 1

#ifndef VECTORS
#define VECTORS 1
#endif

/*
 * moments: for each image b, chunk k of `chunk` pixels and channel c the mean of x and the sum of squares about it:
 * y [B, chunks, 2, C] from x [B, P, C]. Work-item: VECTORS vectors of channels of one chunk, which it reads twice.
 * Global size: (ceil(C / (VW VECTORS)), B chunks). -D: VW, VECTORS.
 */
__kernel void moments(__global float *y, __global const float *restrict x, int P, int C, int chunk, int chunks)
{
    const int c0 = get_global_id(0) * VW * VECTORS, k = get_global_id(1) % chunks, b = get_global_id(1) / chunks;
    const int p0 = k * chunk, n = min(chunk, P - p0);
    if (c0 >= C)
        return;
    x += ((long)b * P + p0) * C + c0;
    y += ((long)b * chunks + k) * 2 * C + c0;
    floatv mean[VECTORS], m2[VECTORS];
    if (C - c0 >= VW * VECTORS) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            mean[v] = m2[v] = (floatv)(0.0f);
        for (int p = 0; p < n; p++)
#pragma unroll
            for (int v = 0; v < VECTORS; v++)
                mean[v] += vloadv(v, x + (long)p * C);
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            mean[v] /= (float)n;
        for (int p = 0; p < n; p++)
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const floatv d = vloadv(v, x + (long)p * C) - mean[v];
                m2[v] = FMA(d, d, m2[v]);
            }
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            vstorev(mean[v], v, y);
            vstorev(m2[v], v, y + C);
        }
    } else { /* the last channels, in whole and partial vectors */
        for (int left = C - c0; left > 0; left -= VW, x += VW, y += VW) {
            mean[0] = m2[0] = (floatv)(0.0f);
            for (int p = 0; p < n; p++)
                mean[0] += load_part(x + (long)p * C, left);
            mean[0] /= (float)n;
            for (int p = 0; p < n; p++) {
                const floatv d = load_part(x + (long)p * C, left) - mean[0];
                m2[0] = FMA(d, d, m2[0]);
            }
            store_part(mean[0], y, left);
            store_part(m2[0], y + C, left);
        }
    }
}

/*
 * channel_affine: y[b, p, c] = act(x[b, p, c] s[b, 0, c] + s[b, 1, c]); x, y [B, P, C], s [B, 4, C]. y may be x's
 * buffer. Work-item: vspan vectors of channels of rspan pixels. Global size: (ceil(ceil(C / VW) / vspan), ceil(rows /
 * rspan)), rows = B P. -D: VW, ACT.
 */
__kernel void channel_affine(__global float *y, __global const float *x, __global const float *restrict s, int rows,
                             int P, int C, int vspan, int rspan)
{
    const int c0 = get_global_id(0) * vspan * VW, c1 = min(c0 + vspan * VW, C);
    const int r0 = get_global_id(1) * rspan, r1 = min(r0 + rspan, rows);
    for (int r = r0; r < r1; r++) {
        const long at = (long)r * C;
        __global const float *sb = s + (long)(r / P) * 4 * C;
        int c = c0;
        for (; c + VW <= c1; c += VW) {
            const floatv v = FMA(vloadv(0, x + at + c), vloadv(0, sb + c), vloadv(0, sb + C + c));
            vstorev(activate(v), 0, y + at + c);
        }
        if (c < c1) {
            const int left = c1 - c;
            const floatv v = FMA(load_part(x + at + c, left), load_part(sb + c, left), load_part(sb + C + c, left));
            store_part(activate(v), y + at + c, left);
        }
    }
}

/* Mean of the C values of a row and 1 / sqrt(their variance + eps). */
float2 row_statistics(__global const float *x, int C, float eps)
{
    const int whole = C / VW * VW;
    floatv sum = (floatv)(0.0f), sq = (floatv)(0.0f);
    for (int c = 0; c < whole; c += VW)
        sum += vloadv(0, x + c);
    float tail = 0.0f;
    for (int c = whole; c < C; c++)
        tail += x[c];
    const float mean = (sum_lanes(sum) + tail) / (float)C;
    for (int c = 0; c < whole; c += VW) {
        const floatv d = vloadv(0, x + c) - mean;
        sq = FMA(d, d, sq);
    }
    tail = 0.0f;
    for (int c = whole; c < C; c++)
        tail += (x[c] - mean) * (x[c] - mean);
    return (float2)(mean, 1.0f / sqrt((sum_lanes(sq) + tail) / (float)C + eps));
}

/* layer_norm_any: y[m, c] = (x[m, c] - mean) / sqrt(var + eps) w[c] + b[c]. Work-item: one row. Global size: rows. -D:
 * VW. */
__kernel void layer_norm_any(__global float *y, __global const float *restrict x, __global const float *restrict w,
                             __global const float *restrict b, int rows, int C, float eps)
{
    const int m = get_global_id(0), whole = C / VW * VW, left = C - whole;
    if (m >= rows)
        return;
    x += (long)m * C;
    y += (long)m * C;
    const float2 s = row_statistics(x, C, eps);
    for (int c = 0; c < whole; c += VW)
        vstorev(FMA((vloadv(0, x + c) - s.x) * s.y, vloadv(0, w + c), vloadv(0, b + c)), 0, y + c);
    if (left)
        store_part(
            FMA((load_part(x + whole, left) - s.x) * s.y, load_part(w + whole, left), load_part(b + whole, left)),
            y + whole, left);
}

/* row_moments_any: y[m] = mean of row m of x [rows, C], 1 / sqrt(var + eps). Work-item: one row. Global size: rows. -D:
 * VW. */
__kernel void row_moments_any(__global float *y, __global const float *restrict x, int rows, int C, float eps)
{
    const int m = get_global_id(0);
    if (m < rows)
        vstore2(row_statistics(x + (long)m * C, C, eps), m, y);
}

#endif

/*
 * moments_merge: the chunks' moments [B, chunks, 2, C] of each group of C / G channels to its mean and r = 1 / sqrt(var
 * + eps), and these with w and b to s [B, 4, C]: w r, b - mean w r, mean, r. Work-item: one group of one image. Global
 * size: n = B G.
 */
__kernel void moments_merge(__global float *s, __global const float *restrict m, __global const float *restrict w,
                            __global const float *restrict bias, int n, int G, int P, int C, int chunk, int chunks,
                            float eps)
{
    const int i = get_global_id(0), b = i / G, per = C / G, c0 = i % G * per;
    if (i >= n)
        return;
    m += (long)b * chunks * 2 * C;
    s += (long)b * 4 * C;
    float mean = 0.0f, m2 = 0.0f;
    for (int k = 0; k < chunks; k++) {
        float part = 0.0f;
        for (int c = c0; c < c0 + per; c++)
            part += m[(long)k * 2 * C + c];
        mean += part * ((float)min(chunk, P - k * chunk) / (float)P);
    }
    mean /= (float)per;
    for (int k = 0; k < chunks; k++) {
        float part = 0.0f, off = 0.0f;
        for (int c = c0; c < c0 + per; c++) {
            const float d = m[(long)k * 2 * C + c] - mean;
            off += d * d;
            part += m[(long)k * 2 * C + C + c];
        }
        m2 += part + off * (float)min(chunk, P - k * chunk);
    }
    const float r = 1.0f / sqrt(m2 / ((float)P * (float)per) + eps);
    for (int c = c0; c < c0 + per; c++) {
        s[c] = w[c] * r;
        s[C + c] = bias[c] - mean * w[c] * r;
        s[2 * C + c] = mean;
        s[3 * C + c] = r;
    }
}

#ifdef WG

/* As row_statistics, by a work-group. */
float2 row_statistics_tile(__global const float *x, int C, float eps, __local float *t)
{
    float v = 0.0f;
    for (int c = get_local_id(0); c < C; c += WG)
        v += x[c];
    const float mean = sum_group(v, t) / (float)C;
    v = 0.0f;
    for (int c = get_local_id(0); c < C; c += WG)
        v += (x[c] - mean) * (x[c] - mean);
    return (float2)(mean, 1.0f / sqrt(sum_group(v, t) / (float)C + eps));
}

/* layer_norm_tile: as layer_norm_any; a work-group of WG items takes a row. Global size: rows WG. -D: WG, a power of
 * two. */
__kernel void layer_norm_tile(__global float *y, __global const float *restrict x, __global const float *restrict w,
                              __global const float *restrict b, int rows, int C, float eps)
{
    __local float t[WG];
    x += (long)get_group_id(0) * C;
    y += (long)get_group_id(0) * C;
    const float2 s = row_statistics_tile(x, C, eps, t);
    for (int c = get_local_id(0); c < C; c += WG)
        y[c] = (x[c] - s.x) * s.y * w[c] + b[c];
}

/* row_moments_tile: as row_moments_any; a work-group of WG items takes a row. Global size: rows WG. -D: WG, a power of
 * two. */
__kernel void row_moments_tile(__global float *y, __global const float *restrict x, int rows, int C, float eps)
{
    __local float t[WG];
    const float2 s = row_statistics_tile(x + (long)get_group_id(0) * C, C, eps, t);
    if (get_local_id(0) == 0)
        vstore2(s, get_group_id(0), y);
}

#endif
