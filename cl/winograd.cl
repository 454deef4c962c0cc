/*
 * winograd.cl - 3x3 convolution of stride 1 on CPUs with 16 instead of 36 multiplications for 2 x 2 pixels, after
 * Winograd's F(2x2, 3x3) (Lavin and Gray 2016).
 *
 *   Y = A^T [sum_c (G g_c G^T) * (B^T d_c B)] A,  * elementwise
 *
 * d: a patch of 4 x 4 input pixels, g: a filter, Y: 2 x 2 output pixels; G g G^T is made once by winograd_pack. For each
 * of the 16 places of a patch the sum over c is a product of patches by channels, as register tiles make it.
 */

#if VW > 1

#define PLACES 16
#define MOST_V (16 * 44 * 64) /* floats of transformed patches, MOST_T register tiles: within a core's second cache */
#define MOST_T (16 * 12)

DEFINE_MULTIPLY(multiply, __private, __global, 2)

/* B^T d B of VW channels; from[p]: place p of the patch, v[p step]: where it goes. */
void transform_patch(float *v, int step, __global const float *const *from, int c, int left)
{
    floatv d[4][4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        floatv x[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = left >= VW ? vloadv(0, from[4 * i + j] + c) : load_part(from[4 * i + j] + c, left);
        d[0][j] = x[0] - x[2];
        d[1][j] = x[1] + x[2];
        d[2][j] = x[2] - x[1];
        d[3][j] = x[1] - x[3];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        put(d[i][0] - d[i][2], v + (4 * i + 0) * step);
        put(d[i][1] + d[i][2], v + (4 * i + 1) * step);
        put(d[i][2] - d[i][1], v + (4 * i + 2) * step);
        put(d[i][1] - d[i][3], v + (4 * i + 3) * step);
    }
}

/* A^T m A of VW channels: y[i][j] from place p at m[p step]. */
void transform_sums(floatv y[2][2], const float *m, int step)
{
    floatv s[2][4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const floatv m0 = vloadv(0, m + j * step), m1 = vloadv(0, m + (4 + j) * step), m2 = vloadv(0, m + (8 + j) * step),
                     m3 = vloadv(0, m + (12 + j) * step);
        s[0][j] = m0 + m1 + m2;
        s[1][j] = m1 - m2 - m3;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        y[i][0] = s[i][0] + s[i][1] + s[i][2];
        y[i][1] = s[i][1] - s[i][2] - s[i][3];
    }
}

/*
 * conv_winograd: as conv_vec, for filters of 3 x 3 and stride 1; filters packed by winograd_pack.
 *
 * Patches are counted through lines of ceil(OH / 2) x ceil(OW / 2) and all images. Work-item: `run` tiles of ROWS
 * successive patches x `group` panels of channels: it transforms `depth` channels of its patches at a time.
 * Global size: (ceil(panels / group), ceil(patches / (ROWS run))); local 1. 16 ROWS run depth <= MOST_V, 16 run group <=
 * MOST_T, depth a multiple of VW up to DEPTH.
 * zeros: DEPTH floats 0. -D: VW, ROWS, ACT, BIAS, ROW, RES, UPSAMPLE. Limits: B OH OW < 2^31 - 144; Hv H, Wv W < 2^31.
 * Private memory with VW 16: 450 KiB.
 */
__kernel ONE_ITEM void conv_winograd(__global float *y, __global const float *restrict x,
                                     __global const float *restrict w, __global const float *restrict zeros,
                                     EPILOGUE_PARAMS int B, int H, int W, int C, int K, int OH, int OW, int pt, int pl,
#ifdef UPSAMPLE
                                     int Hv, int Wv,
#endif
                                     int run, int group, int depth)
{
#ifndef UPSAMPLE
    const int Hv = H, Wv = W;
#endif
    const int lines = (OH + 1) / 2, columns = (OW + 1) / 2, all = B * lines * columns;
    const int panel0 = get_global_id(0) * group, panels = min(group, (K + PANEL - 1) / PANEL - panel0);
    const int first = get_global_id(1) * ROWS * run, patches = min(ROWS * run, all - first);
    const int tiles = (patches + ROWS - 1) / ROWS, step = run * ROWS * depth;
    float v[MOST_V] ALIGNED, t[MOST_T * TILE] ALIGNED;

    for (int c0 = 0; c0 < C; c0 += depth) {
        const int n = min(depth, C - c0);
        for (int i = 0; i < patches; i++) {
            const int line = (first + i) / columns, image = line / lines;
            const int top = line % lines * 2 - pt, left = (first + i) % columns * 2 - pl;
            __global const float *from[PLACES];
            for (int p = 0; p < PLACES; p++) {
                int u = top + p / 4, s = left + p % 4;
                const bool inside = u >= 0 && u < Hv && s >= 0 && s < Wv;
#ifdef UPSAMPLE
                u = u * H / Hv;
                s = s * W / Wv;
#endif
                from[p] = inside ? x + (((long)image * H + u) * W + s) * C + c0 : zeros;
            }
            for (int c = 0; c < n; c += VW)
                transform_patch(v + i * depth + c, step, from, c, n - c);
        }
        for (int g = 0; g < panels; g++) {
            __global const float *filters = w + ((long)(panel0 + g) * PLACES * C + c0) * PANEL;
            for (int p = 0; p < PLACES; p++, filters += (long)C * PANEL)
                for (int j = 0; j < tiles; j++) {
                    float *tile = t + ((g * PLACES + p) * run + j) * TILE;
                    const float *rows[ROWS];
                    for (int i = 0; i < ROWS; i++)
                        rows[i] = v + p * step + min(j * ROWS + i, patches - 1) * depth;
                    for (int i = 0; c0 == 0 && i < TILE / VW; i++)
                        put((floatv)(0.0f), tile + i * VW);
                    multiply(tile, rows, 1, filters, n);
                }
        }
    }

    for (int i = 0; i < patches; i++) {
        const int line = (first + i) / columns, image = line / lines;
        const int top = line % lines * 2, left = (first + i) % columns * 2;
        for (int g = 0; g < 2 * panels; g++) {
            const int n0 = panel0 * PANEL + g * VW;
            floatv out[2][2];
            transform_sums(out, t + (g / 2 * PLACES * run + i / ROWS) * TILE + (i % ROWS * 2 + g % 2) * VW, run * TILE);
            for (int p = 0; p < 4; p++)
                if (top + p / 2 < OH && left + p % 2 < OW)
                    store_vector(y, EPILOGUE_ARGS out[p / 2][p % 2], K, OH * OW,
                                 (image * OH + top + p / 2) * OW + left + p % 2, n0, K - n0);
        }
    }
}

/* G g G^T of VW filters in g[tap], to every second vector of packed from place p at p step. */
void transform_filters(__global float *packed, long step, const floatv *g)
{
    floatv h[4][3];
#pragma unroll
    for (int j = 0; j < 3; j++) {
        h[0][j] = g[j];
        h[1][j] = 0.5f * (g[j] + g[3 + j] + g[6 + j]);
        h[2][j] = 0.5f * (g[j] - g[3 + j] + g[6 + j]);
        h[3][j] = g[6 + j];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        put_out(h[i][0], packed + (4 * i + 0) * step);
        put_out(0.5f * (h[i][0] + h[i][1] + h[i][2]), packed + (4 * i + 1) * step);
        put_out(0.5f * (h[i][0] - h[i][1] + h[i][2]), packed + (4 * i + 2) * step);
        put_out(h[i][2], packed + (4 * i + 3) * step);
    }
}

/*
 * winograd_pack: packed[panel, place, c, lane] = (G w[k, c] G^T)[place], k = panel PANEL + lane, 0 for k >= K; w [K, C,
 * 3, 3], packed f32. BACK: for the gradient of a convolution's input, packed[panel, place, k, lane] of the filters
 * turned by 180 degrees, c = panel PANEL + lane, 0 for c >= C.
 *
 * Work-item: PACK_N of the channels that are summed over, c or k, for one panel. Global size: (ceil(C / PACK_N),
 * panels); local 1. -D: VW, ST, BACK.
 */
#define PACK_N 16
__kernel ONE_ITEM void winograd_pack(__global float *packed, __global const source *restrict w, int K, int C)
{
#ifdef BACK
    const int sums = K, lanes = C;
    const long row = (long)C * 9, lane = 9; /* from one to the next */
#else
    const int sums = C, lanes = K;
    const long row = 9, lane = (long)C * 9;
#endif
    const int begin = get_global_id(0) * PACK_N, end = min(begin + PACK_N, sums), panel = get_global_id(1);
    const long step = (long)sums * PANEL;
    packed += panel * PLACES * step;
    for (int part = 0; part < 2; part++) {
        const int lane0 = panel * PANEL + part * VW, left = min(VW, lanes - lane0);
        for (int n = begin; n < end; n++) {
            float t[9 * VW];
            floatv g[9];
            for (int l = 0; l < VW; l++)
                for (int tap = 0; tap < 9; tap++)
                    t[tap * VW + l] = l < left ? load_one((lane0 + l) * lane + n * row + tap, w) : 0.0f;
            for (int tap = 0; tap < 9; tap++)
#ifdef BACK
                g[8 - tap] = vloadv(tap, t);
#else
                g[tap] = vloadv(tap, t);
#endif
            transform_filters(packed + (long)n * PANEL + part * VW, step, g);
        }
    }
}

#endif /* VW > 1 */
