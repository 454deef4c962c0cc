/*
 * norm_grad.cl - gradients of group and layer normalisation, y = act(x^ w + b) with x^ = (x - mean) r, from the
 * statistics of x.
 *
 * With g = gy act' the gradient of w is sum g x^ and that of b is sum g: sums over chunks of pixels or rows, taken
 * about the mean and merged in a fixed order. That of x is r (w g - mean(w g) - x^ mean(w g x^)), the means over what
 * was normalised together.
 *
 * Layers (-DLAYER): x [P, C], statistics s [P, 2]: mean and r of each row. Groups: x [B, P, C], s [B, 4, C]: w r, b -
 * mean w r, mean and r of each channel (moments_merge in norm.cl).
 */

/* What normalised a vector of values: y = act(x scale + shift), x^ = (x - mean) r. */
typedef struct norm {
    floatv scale, shift, mean, r;
} norm;

/* Of the `left` channels from c on in pixel p of image b. */
norm norm_at(__global const float *s, int b, int p, int C, int c, int left)
{
    norm n;
#ifdef LAYER
    n.scale = n.shift = (floatv)(0.0f); /* not used: no activation */
    n.mean = (floatv)(s[2 * (long)p]);
    n.r = (floatv)(s[2 * (long)p + 1]);
#else
    s += (long)b * 4 * C + c;
    n.scale = load_part(s, left);
    n.shift = load_part(s + C, left);
    n.mean = load_part(s + 2 * C, left);
    n.r = load_part(s + 3 * C, left);
#endif
    return n;
}

/* gy act'(x scale + shift). */
floatv through(floatv gy, floatv x, norm n)
{
#if ACT == 1
    const floatv z = FMA(x, n.scale, n.shift), e = 1.0f / (1.0f + exp_clamped(-z));
    return gy * e * FMA(z, 1.0f - e, (floatv)(1.0f));
#else
    return gy;
#endif
}

#ifndef GY

#ifndef VECTORS
#define VECTORS 1
#endif

/*
 * norm_sums_any: y[b, k, 0, c] = sum of g over the pixels of chunk k, y[b, k, 1, c] = sum of g x^; y [B, chunks, 2, C].
 * Work-item: VECTORS vectors of channels of a chunk: enough of them, and memory is read nearly in order. Global size:
 * (ceil(C / (VW VECTORS)), B chunks). -D: VW, VECTORS, ACT, LAYER.
 */
__kernel void norm_sums_any(__global float *restrict y, __global const float *restrict gy,
                            __global const float *restrict x, __global const float *restrict s, int P, int C, int chunk,
                            int chunks)
{
    const int k = get_global_id(1) % chunks, b = get_global_id(1) / chunks, p0 = k * chunk, p1 = min(p0 + chunk, P);
    const int c0 = get_global_id(0) * VW * VECTORS;
    floatv sum[VECTORS], dot[VECTORS];
    if (c0 >= C)
        return;
    x += (long)b * P * C;
    gy += (long)b * P * C;
    y += ((long)b * chunks + k) * 2 * C;
    if (C - c0 >= VW * VECTORS) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            sum[v] = dot[v] = (floatv)(0.0f);
        for (int p = p0; p < p1; p++)
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
                const int c = c0 + v * VW;
                const norm n = norm_at(s, b, p, C, c, VW);
                const floatv u = vloadv(0, x + (long)p * C + c), g = through(vloadv(0, gy + (long)p * C + c), u, n);
                sum[v] += g;
                dot[v] = FMA(g, (u - n.mean) * n.r, dot[v]);
            }
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            vstorev(sum[v], v, y + c0);
            vstorev(dot[v], v, y + C + c0);
        }
    } else { /* the last channels, in whole and partial vectors */
        for (int c = c0; c < C; c += VW) {
            sum[0] = dot[0] = (floatv)(0.0f);
            for (int p = p0; p < p1; p++) {
                const norm n = norm_at(s, b, p, C, c, C - c);
                const floatv u = load_part(x + (long)p * C + c, C - c),
                             g = through(load_part(gy + (long)p * C + c, C - c), u, n);
                sum[0] += g;
                dot[0] = FMA(g, (u - n.mean) * n.r, dot[0]);
            }
            store_part(sum[0], y + c, C - c);
            store_part(dot[0], y + C + c, C - c);
        }
    }
}

#else

/*
 * norm_sums_tile: as norm_sums_any. A work-group of GX by GY items takes GX vectors of channels of a chunk; item (i, j)
 * sums every GY-th pixel from j on, then the rows of items are added in pairs. Global size: (vectors rounded up to GX,
 * B chunks GY). -D: VW, ACT, LAYER, GX, GY, a power of two.
 */
__kernel __attribute__((reqd_work_group_size(GX, GY, 1))) void
norm_sums_tile(__global float *restrict y, __global const float *restrict gy, __global const float *restrict x,
               __global const float *restrict s, int P, int C, int chunk, int chunks)
{
    __local floatv sums[2][GY][GX];
    const int k = get_group_id(1) % chunks, b = get_group_id(1) / chunks, p1 = min((k + 1) * chunk, P);
    const int i = get_local_id(0), j = get_local_id(1), c = get_global_id(0) * VW, left = C - c;
    floatv sum = (floatv)(0.0f), dot = (floatv)(0.0f);
    x += (long)b * P * C + c;
    gy += (long)b * P * C + c;
    y += ((long)b * chunks + k) * 2 * C + c;
    for (int p = k * chunk + j; p < p1 && left > 0; p += GY) {
        const norm n = norm_at(s, b, p, C, c, left);
        const floatv v = load_part(x + (long)p * C, left), g = through(load_part(gy + (long)p * C, left), v, n);
        sum += g;
        dot = FMA(g, (v - n.mean) * n.r, dot);
    }
    sums[0][j][i] = sum;
    sums[1][j][i] = dot;
    for (int h = GY / 2; h > 0; h /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (j < h) {
            sums[0][j][i] += sums[0][j + h][i];
            sums[1][j][i] += sums[1][j + h][i];
        }
    }
    if (j == 0 && left > 0) {
        store_part(sums[0][0][i], y, left);
        store_part(sums[1][0][i], y + C, left);
    }
}

#endif

#ifndef LAYER

/* One vector of group_norm_bx. */
void group_norm_vector(__global float *y, __global const float *gy, __global const float *restrict x, norm n,
                       floatv factor, floatv constant_, int left)
{
    const floatv v = load_part(x, left), g = through(load_part(gy, left), v, n);
    store_part(FMA(g, n.scale, FMA(v - n.mean, factor, constant_)), y, left);
}

/*
 * group_norm_bx: y = g s[b, 0, c] + (x - mean) t[b, 2, c] + t[b, 3, c], the gradient of x; t [B, 4, C] by
 * group_norm_merge. y may be gy's buffer. Work-item: vspan vectors of channels of rspan pixels. Global size:
 * (ceil(ceil(C / VW) / vspan), ceil(rows / rspan)), rows = B P. -D: VW, ACT.
 */
__kernel void group_norm_bx(__global float *y, __global const float *gy, __global const float *restrict x,
                            __global const float *restrict s, __global const float *restrict t, int rows, int P, int C,
                            int vspan, int rspan)
{
    const int c0 = get_global_id(0) * vspan * VW, c1 = min(c0 + vspan * VW, C);
    const int r0 = get_global_id(1) * rspan, r1 = min(r0 + rspan, rows);
    for (int row = r0; row < r1; row++) {
        const int b = row / P;
        const long at = (long)row * C;
        __global const float *k = t + ((long)b * 4 + 2) * C;
        int c = c0;
        for (; c + VW <= c1; c += VW)
            group_norm_vector(y + at + c, gy + at + c, x + at + c, norm_at(s, b, 0, C, c, VW), vloadv(0, k + c),
                              vloadv(0, k + C + c), VW);
        if (c < c1)
            group_norm_vector(y + at + c, gy + at + c, x + at + c, norm_at(s, b, 0, C, c, c1 - c),
                              load_part(k + c, c1 - c), load_part(k + C + c, c1 - c), c1 - c);
    }
}

#endif

/*
 * layer_norm_bx_any: y[m] = r (w gy - mean(w gy) - x^ mean(w gy x^)), the gradient of row m of x [rows, C]; s [rows,
 * 2]. y may be gy's buffer. Work-item: one row. Global size: rows. -D: VW.
 */
__kernel void layer_norm_bx_any(__global float *y, __global const float *gy, __global const float *restrict x,
                                __global const float *restrict w, __global const float *restrict s, int rows, int C)
{
    const int m = get_global_id(0);
    if (m >= rows)
        return;
    const float mean = s[2 * (long)m], r = s[2 * (long)m + 1];
    floatv sum = (floatv)(0.0f), dot = (floatv)(0.0f);
    x += (long)m * C;
    gy += (long)m * C;
    y += (long)m * C;
    for (int c = 0; c < C; c += VW) { /* a partial vector's gy and w are 0 */
        const floatv g = load_part(gy + c, C - c) * load_part(w + c, C - c);
        sum += g;
        dot = FMA(g, (load_part(x + c, C - c) - mean) * r, dot);
    }
    const float a = sum_lanes(sum) / (float)C, d = sum_lanes(dot) / (float)C;
    for (int c = 0; c < C; c += VW) {
        const floatv g = load_part(gy + c, C - c) * load_part(w + c, C - c), n = (load_part(x + c, C - c) - mean) * r;
        store_part((g - a - n * d) * r, y + c, C - c);
    }
}

/*
 * group_norm_merge: the chunks' sums m [B, chunks, 2, C] to t [B, 4, C]: sum g, sum g x^, and what group_norm_bx
 * multiplies with, -r^2 mean(w g x^) and -r mean(w g), the means over the group of C / G channels. s [B, 4, C] as
 * above. Work-item: one group of one image. Global size: n = B G.
 */
__kernel void group_norm_merge(__global float *restrict t, __global const float *restrict m,
                               __global const float *restrict s, __global const float *restrict w, int n, int G, int P,
                               int C, int chunks)
{
    const int i = get_global_id(0), b = i / G, per = C / G, c0 = i % G * per;
    if (i >= n)
        return;
    m += (long)b * chunks * 2 * C;
    t += (long)b * 4 * C;
    float mean = 0.0f, dot = 0.0f;
    for (int c = c0; c < c0 + per; c++) {
        float g = 0.0f, gx = 0.0f;
        for (int k = 0; k < chunks; k++) {
            g += m[(long)k * 2 * C + c];
            gx += m[(long)k * 2 * C + C + c];
        }
        t[c] = g;
        t[C + c] = gx;
        mean += w[c] * g;
        dot += w[c] * gx;
    }
    const float r = s[(long)b * 4 * C + 3 * C + c0], share = r / ((float)P * (float)per);
    for (int c = c0; c < c0 + per; c++) {
        t[2 * C + c] = -r * share * dot;
        t[3 * C + c] = -share * mean;
    }
}

#ifdef WG

/* layer_norm_bx_tile: as layer_norm_bx_any; a work-group of WG items takes a row. Global size: rows WG. -D: WG, a power
 * of two. */
__kernel void layer_norm_bx_tile(__global float *y, __global const float *gy, __global const float *restrict x,
                                 __global const float *restrict w, __global const float *restrict s, int rows, int C)
{
    __local float t[WG];
    const long m = get_group_id(0);
    const float mean = s[2 * m], r = s[2 * m + 1];
    float sum = 0.0f, dot = 0.0f;
    x += m * C;
    gy += m * C;
    y += m * C;
    for (int c = get_local_id(0); c < C; c += WG) {
        sum += gy[c] * w[c];
        dot += gy[c] * w[c] * (x[c] - mean) * r;
    }
    const float a = sum_group(sum, t) / (float)C, d = sum_group(dot, t) / (float)C;
    for (int c = get_local_id(0); c < C; c += WG)
        y[c] = (gy[c] * w[c] - a - (x[c] - mean) * r * d) * r;
}

#endif
