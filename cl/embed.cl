/* embed.cl - table look-up, sinusoids, normal random numbers. */

/* embed_any: y[m, c] = table[ids[m], c]; ids outside [0, V) are clamped. n elements of y. Global size: n. -D: ST. */
__kernel void embed_any(__global float *y, __global const source *restrict table, __global const int *restrict ids,
                        int n, int C, int V)
{
    const int i = get_global_id(0);
    if (i < n)
        y[i] = load_one((long)clamp(ids[i / C], 0, V - 1) * C + i % C, table);
}

#ifdef SPAN

/*
 * embed_bx: y[v, c] = sum of gy[m, c] over the m with ids[m] = v, in order of m; ids are clamped as in embed_any. n
 * ids, y [V, C]. Work-item: `rows` rows of y, SPAN vectors of channels, all ids; nobody else writes there. Global size:
 * (ceil(C / (VW SPAN)), ceil(V / rows)). -D: VW, SPAN.
 */
__kernel void embed_bx(__global float *y, __global const int *restrict ids, __global const float *restrict gy, int n,
                       int V, int C, int rows)
{
    const int c0 = get_global_id(0) * VW * SPAN, c1 = min(c0 + VW * SPAN, C), whole = c0 + (c1 - c0) / VW * VW;
    const int v0 = get_global_id(1) * rows, v1 = min(v0 + rows, V);
    if (c0 >= C)
        return;
    for (int v = v0; v < v1; v++) {
        __global float *at = y + (long)v * C;
        for (int c = c0; c < whole; c += VW)
            vstorev((floatv)(0.0f), 0, at + c);
        for (int c = whole; c < c1; c++)
            at[c] = 0.0f;
    }
    for (int m = 0; m < n; m++) {
        const int v = clamp(ids[m], 0, V - 1);
        if (v < v0 || v >= v1)
            continue;
        __global float *at = y + (long)v * C;
        __global const float *add = gy + (long)m * C;
        for (int c = c0; c < whole; c += VW)
            vstorev(vloadv(0, at + c) + vloadv(0, add + c), 0, at + c);
        for (int c = whole; c < c1; c++)
            at[c] += add[c];
    }
}

#endif

/*
 * time_embed_any: y[b] = [sin(t f_i) | cos(t f_i)], flip: cosines first; f_i = exp(-ln(10000) i / (half - shift)), i <
 * half. Work-item: one frequency of one b. Global size: B half.
 */
__kernel void time_embed_any(__global float *y, __global const float *restrict t, int B, int half_, int flip,
                             float shift)
{
    const int b = get_global_id(0) / half_, i = get_global_id(0) % half_;
    if (b >= B)
        return;
    const float a = t[b] * exp(-9.210340371976184f * (float)i / ((float)half_ - shift));
    y += (long)b * 2 * half_;
    y[flip ? half_ + i : i] = sin(a);
    y[flip ? i : half_ + i] = cos(a);
}

/* Philox4x32-10: counter c under key k. */
uint4 philox(uint4 c, uint2 k)
{
    for (int round = 0; round < 10; round++) {
        const uint lo0 = 0xd2511f53u * c.x, hi0 = mul_hi(0xd2511f53u, c.x), lo1 = 0xcd9e8d57u * c.z,
                   hi1 = mul_hi(0xcd9e8d57u, c.z);
        c = (uint4)(hi1 ^ c.y ^ k.x, lo1, hi0 ^ c.w ^ k.y, lo0);
        k += (uint2)(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

/* randn_any: n normal numbers, see embed.c. key: seed low, seed high, stream, call. Work-item: four. Global size:
 * ceil(n / 4). */
__kernel void randn_any(__global float *y, __global const int *restrict key, int n)
{
    const int i = get_global_id(0);
    const uint4 w = philox((uint4)(key[3], key[2], i, 0), (uint2)(key[0], key[1]));
    const float r0 = sqrt(-2.0f * log(((float)(w.x >> 8) + 0.5f) * 0x1p-24f)),
                r1 = sqrt(-2.0f * log(((float)(w.z >> 8) + 0.5f) * 0x1p-24f));
    const float a0 = (float)(w.y >> 8) * 0x1p-23f, a1 = (float)(w.w >> 8) * 0x1p-23f;
    if (4 * i < n)
        y[4 * i] = r0 * cospi(a0);
    if (4 * i + 1 < n)
        y[4 * i + 1] = r0 * sinpi(a0);
    if (4 * i + 2 < n)
        y[4 * i + 2] = r1 * cospi(a1);
    if (4 * i + 3 < n)
        y[4 * i + 3] = r1 * sinpi(a1);
}
