/*
 * conv_grad.cl - the gradient of a convolution's filters, on CPUs. (That of its input is a convolution: conv.cl.)
 *
 *   gw[k, c, r, s] = sum_{b, i, j} gy[b, i, j, k] x[b, i stride - top + r, j stride - left + s, c],  x = 0 outside
 *
 * For each tap (r, s) that is a product of gy transposed and of x, with the output's pixels m = (b, i, j) as terms of
 * the sum: rows of a register tile are channels k, its lanes are channels c. Both factors are first laid out as the
 * inner loop reads them: gy by tiles of ROWS channels, x by panels and in frames of zeros, so that another tap is the
 * same reading from another place on.
 */

#if VW > 1

/*
 * conv_bw_rows: y [tile, m, row] = gy[m, tile ROWS + row], 0 beyond K; gy [pixels, K].
 * Work-item: PACK pixels of all tiles. Global size: ceil(pixels / PACK); local 1.
 */
#define PACK 64
__kernel ONE_ITEM void conv_bw_rows(__global float *y, __global const float *restrict gy, int pixels, int K)
{
    const int m0 = get_global_id(0) * PACK, n = min(PACK, pixels - m0);
    float t[PACK * ROWS + VW];
    gy += (long)m0 * K;
    for (int k0 = 0; k0 < K; k0 += ROWS) {
        for (int m = 0; m < n; m++) /* whole vectors: the next pixel covers what is too much */
            for (int v = 0; v < ROWS; v += VW)
                vstorev(load_part(gy + (long)m * K + k0 + v, K - k0 - v), 0, t + m * ROWS + v);
        __global float *to = y + (long)k0 * pixels + (long)m0 * ROWS;
        for (int i = 0; i < n * ROWS; i += VW)
            store_part(vloadv(0, t + i), to + i, n * ROWS - i);
    }
}

/*
 * conv_bw_frame: y [panel, b, i, j, lane] = x[b, i - top, j - left, panel lanes + lane], 0 outside of x, which is [B,
 * H, W, C]; y [panels, B, Hp, Wp, lanes] and then `slack` zeros, because readers of whole vectors look beyond the end.
 * lanes: PANEL, or C where that is less.
 * Work-item: a line (b, i) of one panel. Global size: (B Hp, panels); local 1.
 */
__kernel ONE_ITEM void conv_bw_frame(__global float *y, __global const float *restrict x, int H, int W, int C, int Hp,
                                     int Wp, int lanes, int top, int left, int slack)
{
    const int line = get_global_id(0), c0 = get_global_id(1) * lanes, i = line % Hp - top;
    const bool last = line + 1 == get_global_size(0) && get_global_id(1) + 1 == get_global_size(1);
    x += ((long)(line / Hp) * H + i) * W * C + c0;
    y += ((long)get_global_id(1) * get_global_size(0) + line) * Wp * lanes;
    for (int j = -left; j < Wp - left; j++, y += lanes) {
        const bool inside = i >= 0 && i < H && j >= 0 && j < W;
        for (int l = 0; l < lanes; l += VW)
            store_part(inside ? load_part(x + (long)j * C + l, C - c0 - l) : (floatv)(0.0f), y + l, lanes - l);
    }
    for (int l = 0; last && l < slack; l++)
        y[l] = 0.0f;
}

#define PIXELS 256 /* of one turn: their part of both factors stays in the caches from tap to tap */
#define TAPS   16  /* tiles that a work-item holds at most */

/* t[i][.] += sum_{m < n} g[m][i] x[at[m] ..] for the ROWS rows of a tile of two vectors. */
void multiply_at(float *t, __global const float *g, __global const float *x, const int *at, int n)
{
    floatv acc[ROWS][2];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        acc[i][0] = vloadv(2 * i, t);
        acc[i][1] = vloadv(2 * i + 1, t);
    }
    for (int m = 0; m < n; m++, g += ROWS) {
        const floatv x0 = vloadv(0, x + at[m]), x1 = vloadv(1, x + at[m]);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            acc[i][0] = FMA((floatv)(g[i]), x0, acc[i][0]);
            acc[i][1] = FMA((floatv)(g[i]), x1, acc[i][1]);
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        put(acc[i][0], t + 2 * i * VW);
        put(acc[i][1], t + (2 * i + 1) * VW);
    }
}

/*
 * conv_bw_vec: gw [K, C, R, S] from gy by conv_bw_rows and x by conv_bw_frame, whose frames are [B, H, W, lanes].
 *
 * Work-item: a tile of ROWS channels k x PANEL channels c for each of `taps` taps, up to TAPS: for all of them if it
 * can, because the taps of a channel lie side by side in gw.
 * Where C is less than a panel, the lanes run over a line of the filter, (s, c), which in a frame follow one another:
 * then there are R taps of S C channels.
 * Global size: (panels, ceil(K / ROWS), groups of taps * parts); local 1. A part is `span` successive pixels of gy and
 * makes a gw of its own.
 * Limits: each factor below 2^31 elements. Private memory with VW 16: 24 KiB.
 */
__kernel ONE_ITEM void conv_bw_vec(__global float *gw, __global const float *restrict x,
                                   __global const float *restrict gy, int pixels, int span, int H, int W, int C, int K,
                                   int OH, int OW, int R, int S, int stride, int lanes, int taps)
{
    const int panel = get_global_id(0), k0 = get_global_id(1) * ROWS;
    const bool narrow = lanes < PANEL;
    const int line_taps = narrow ? 1 : S, channels = narrow ? S * C : C; /* of a line of taps; of a tap */
    const int groups = (R * line_taps + taps - 1) / taps, part = get_global_id(2) / groups;
    const int tap0 = get_global_id(2) % groups * taps, tap1 = min(tap0 + taps, R * line_taps);
    const int begin = part * span, end = min(begin + span, pixels);
    x += narrow ? panel * PANEL : (long)panel * (pixels / (OH * OW)) * H * W * PANEL;
    gy += (long)k0 * pixels;

    float t[TAPS * TILE] ALIGNED;
    int at[PIXELS]; /* of each pixel of gy: where its first tap is in x */
    for (int i = 0; i < (tap1 - tap0) * TILE / VW; i++)
        put((floatv)(0.0f), t + i * VW);
    int j = begin % OW, i = begin / OW % OH, line = begin / OW / OH * H + i * stride;
    for (int m0 = begin; m0 < end; m0 += PIXELS) {
        const int n = min(PIXELS, end - m0);
        for (int m = 0; m < n; m++) {
            at[m] = (line * W + j * stride) * lanes;
            if (++j == OW) {
                j = 0;
                line += stride;
                if (++i == OH) {
                    i = 0;
                    line += H - OH * stride;
                }
            }
        }
        for (int tap = tap0; tap < tap1; tap++)
            multiply_at(t + (tap - tap0) * TILE, gy + (long)m0 * ROWS,
                        x + (tap / line_taps * W + tap % line_taps) * lanes, at, n);
    }

    const int c0 = panel * PANEL, width = min(PANEL, channels - c0), step = narrow ? S : 1;
    int to[PANEL]; /* of each lane: its first tap in a filter */
    for (int l = 0; l < width; l++)
        to[l] = (c0 + l) % C * R * S + (c0 + l) / C;
    gw += (long)part * K * C * R * S + tap0 * step;
    for (int row = 0; row < min(ROWS, K - k0); row++)
        for (int l = 0; l < width; l++) {
            __global float *p = gw + (long)(k0 + row) * C * R * S + to[l];
            for (int tap = 0; tap < tap1 - tap0; tap++)
                p[tap * step] = t[tap * TILE + row * PANEL + l];
        }
}

#endif /* VW > 1 */
