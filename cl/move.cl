/* move.cl - kernels that only move values. One work-item writes one element unless said otherwise. */

#ifdef ELEM

/* transpose_any: y[i0,i1,i2,i3] = x[i0 s0 + i1 s1 + i2 s2 + i3 s3]; d1..d3 sizes of y. -D: ELEM ushort or uint. Global size: n. */
__kernel void transpose_any(__global ELEM *y, __global const ELEM *restrict x, int n, int d1, int d2, int d3, int s0, int s1, int s2,
                            int s3)
{
    const int i = get_global_id(0);
    if (i < n)
        y[i] = x[i % d3 * s3 + i / d3 % d2 * s2 + i / d3 / d2 % d1 * s1 + i / d3 / d2 / d1 * s0];
}

/* slice_any: y[o, j, i] = x[o, from + j, i]; inner elements a run, dy and dx the axis in y and x. -D: ELEM. Global size: n. */
__kernel void slice_any(__global ELEM *y, __global const ELEM *restrict x, int n, int inner, int dy, int dx, int from)
{
    const int i = get_global_id(0);
    if (i < n)
        y[i] = x[(i / inner / dy * dx + i / inner % dy + from) * inner + i % inner];
}

#endif

/* pad_any: y[o, j, i] = x[o, j - before, i], 0 outside. Global size: n. */
__kernel void pad_any(__global float *y, __global const float *restrict x, int n, int inner, int dy, int dx, int before)
{
    const int i = get_global_id(0);
    if (i >= n)
        return;
    const int j = i / inner % dy - before;
    y[i] = j < 0 || j >= dx ? 0.0f : x[(i / inner / dy * dx + j) * inner + i % inner];
}

/* concat: row o of y [outer, ny] is a's row [outer, na] and then b's. concat_vec: a work-item copies a row, concat_any an element. */
__kernel void concat_vec(__global float *y, __global const float *restrict a, __global const float *restrict b, int outer, int na, int ny)
{
    const int o = get_global_id(0);
    if (o >= outer)
        return;
    y += (long)o * ny;
    a += (long)o * na;
    b += (long)o * (ny - na);
    for (int i = 0; i < na; i++)
        y[i] = a[i];
    for (int i = na; i < ny; i++)
        y[i] = b[i - na];
}

__kernel void concat_any(__global float *y, __global const float *restrict a, __global const float *restrict b, int outer, int na, int ny)
{
    const int i = get_global_id(0), o = i / ny, j = i % ny;
    if (o < outer)
        y[i] = j < na ? a[o * na + j] : b[o * (ny - na) + j - na];
}

/* resample_any: nearest neighbour, y[b,h,w,c] = x[b, h H / OH, w W / OW, c] rounded down. Global size: n. */
__kernel void resample_any(__global float *y, __global const float *restrict x, int n, int H, int W, int C, int OH, int OW)
{
    const int i = get_global_id(0);
    if (i >= n)
        return;
    const int c = i % C, w = i / C % OW * W / OW, h = i / C / OW % OH * H / OH, b = i / C / OW / OH;
    y[i] = x[((b * H + h) * W + w) * C + c];
}
