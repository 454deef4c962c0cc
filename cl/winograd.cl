/*
 * winograd.cl - convolution of stride 1 on CPUs with fewer multiplications, after Winograd (Lavin and Gray 2016): 3x3
 * filters as F(2x2, 3x3), with 16 instead of 36 for 2 x 2 pixels; with LINE 1x9 filters as F(2x3, 3x3), with 20 instead
 * of 54 for 6 pixels.
 *
 *   Y = A^T [sum_c (G g_c G'^T) * (B^T d_c B')] A',  * elementwise
 *
 * d: a patch of 4 x 4 (4 x 5) input pixels, g: a filter, Y: 2 x 2 (2 x 3) output pixels; G g G'^T is made once by
 * winograd_pack. For each of the 16 (20) places of a patch the sum over c is a product of patches by channels, as register
 * tiles make it. A, B, G are those of F(2, 3); A', B', G' too, and with LINE those of F(3, 3) at the points 0, 1, -1, 2.
 *
 * 1x9: y[3 i + j] = sum over a, b < 3 of w[3 a + b] x[3 (i + a) + (j + b)]. So a line is a picture whose rows begin three
 * pixels apart and overlap, the filter one of 3 x 3, and the outputs of a patch lie beside one another.
 */

#if VW > 1

/* ACROSS: outputs of a row of a patch. PATCH_H, PATCH_W: pixels of the output that it fills. Place (i, j) of a patch lies
 * DOWN(i) below its first pixel and RIGHT(i, j) beside it. */
#ifdef LINE
#define ACROSS      3
#define PATCH_H     1
#define PATCH_W     6
#define DOWN(i)     0
#define RIGHT(i, j) (3 * (i) + (j))
#else
#define ACROSS      2
#define PATCH_H     2
#define PATCH_W     2
#define DOWN(i)     (i)
#define RIGHT(i, j) (j)
#endif
#define WIDTH  (ACROSS + 2)
#define PLACES (4 * WIDTH)
#define OUTS   (2 * ACROSS)
#define MOST_V (16 * 44 * 64) /* floats of transformed patches, MOST_T register tiles: within a core's second cache */
#define MOST_T (16 * 12)

/* Of patch `m`, counted through lines of `columns`, `lines` of them and all images: its image, and its upper left pixel. */
#define PLACE_PATCH(m)                                                                                                 \
    const int line = (m) / columns, image = line / lines, top = line % lines * PATCH_H, left = (m) % columns * PATCH_W;

DEFINE_MULTIPLY(multiply, __private, __global, 2)

/* ---- The transforms across a row, of VW channels: q = B'^T d, A'^T m, G' g, and for gradients A' g, G'^T s. ---- */

void patch_across(floatv q[WIDTH], const floatv d[WIDTH])
{
#ifdef LINE
    q[0] = 2.0f * (d[0] - d[2]) + (d[3] - d[1]);
    q[1] = d[3] - d[2] - 2.0f * d[1];
    q[2] = d[3] - 3.0f * d[2] + 2.0f * d[1];
    q[3] = d[3] - d[1];
    q[4] = 2.0f * (d[1] - d[3]) + (d[4] - d[2]);
#else
    q[0] = d[0] - d[2];
    q[1] = d[1] + d[2];
    q[2] = d[2] - d[1];
    q[3] = d[1] - d[3];
#endif
}

void sums_across(floatv y[ACROSS], const floatv m[WIDTH])
{
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2];
#ifdef LINE
    y[0] += m[3];
    y[1] += 2.0f * m[3];
    y[2] = m[1] + m[2] + 4.0f * m[3] + m[4];
#else
    y[1] -= m[3];
#endif
}

void filter_across(floatv q[WIDTH], const floatv g[3])
{
#ifdef LINE
    q[0] = 0.5f * g[0];
    q[1] = -0.5f * (g[0] + g[1] + g[2]);
    q[2] = (1.0f / 6) * (g[1] - g[0] - g[2]);
    q[3] = (1.0f / 6) * g[0] + (1.0f / 3) * g[1] + (2.0f / 3) * g[2];
#else
    q[0] = g[0];
    q[1] = 0.5f * (g[0] + g[1] + g[2]);
    q[2] = 0.5f * (g[0] - g[1] + g[2]);
#endif
    q[WIDTH - 1] = g[2];
}

void gradient_across(floatv q[WIDTH], const floatv g[ACROSS])
{
    q[0] = g[0];
#ifdef LINE
    q[1] = g[0] + g[1] + g[2];
    q[2] = g[0] - g[1] + g[2];
    q[3] = g[0] + 2.0f * g[1] + 4.0f * g[2];
    q[4] = g[2];
#else
    q[1] = g[0] + g[1];
    q[2] = g[0] - g[1];
    q[3] = -g[1];
#endif
}

void taps_across(floatv y[3], const floatv s[WIDTH])
{
#ifdef LINE
    y[0] = 0.5f * (s[0] - s[1]) + (1.0f / 6) * (s[3] - s[2]);
    y[1] = (1.0f / 6) * s[2] + (1.0f / 3) * s[3] - 0.5f * s[1];
    y[2] = (2.0f / 3) * s[3] - 0.5f * s[1] - (1.0f / 6) * s[2] + s[4];
#else
    y[0] = s[0] + 0.5f * (s[1] + s[2]);
    y[1] = 0.5f * (s[1] - s[2]);
    y[2] = s[3] + 0.5f * (s[1] + s[2]);
#endif
}

/* Row i of a patch's places, to q[j] at v[(i WIDTH + j) step]. */
void put_row(floatv q[WIDTH], float *v, int i, int step)
{
#pragma unroll
    for (int j = 0; j < WIDTH; j++)
        put(q[j], v + (i * WIDTH + j) * step);
}

/* B^T d B' of VW channels; from[p]: place p of the patch, v[p step]: where it goes. */
void transform_patch(float *v, int step, __global const float *const *from, int c, int left)
{
    floatv d[4][WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        floatv x[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = left >= VW ? vloadv(0, from[WIDTH * i + j] + c) : load_part(from[WIDTH * i + j] + c, left);
        d[0][j] = x[0] - x[2];
        d[1][j] = x[1] + x[2];
        d[2][j] = x[2] - x[1];
        d[3][j] = x[1] - x[3];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        floatv q[WIDTH];
        patch_across(q, d[i]);
        put_row(q, v, i, step);
    }
}

/* A^T m A' of VW channels: y[i][j] from place p at m[p step]. */
void transform_sums(floatv y[2][ACROSS], const float *m, int step)
{
    floatv s[2][WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        const floatv m0 = vloadv(0, m + j * step), m1 = vloadv(0, m + (WIDTH + j) * step),
                     m2 = vloadv(0, m + (2 * WIDTH + j) * step), m3 = vloadv(0, m + (3 * WIDTH + j) * step);
        s[0][j] = m0 + m1 + m2;
        s[1][j] = m1 - m2 - m3;
    }
    sums_across(y[0], s[0]);
    sums_across(y[1], s[1]);
}

/*
 * conv_winograd: as conv_vec, for filters of 3 x 3, with LINE of 1 x 9, and stride 1; filters packed by winograd_pack.
 *
 * Patches are counted through lines of ceil(OH / 2) x ceil(OW / 2), with LINE OH x ceil(OW / 6), and all images.
 * Work-item: `run` tiles of ROWS successive patches x `group` panels of channels: it transforms `depth` channels of its
 * patches at a time.
 * Global size: (ceil(panels / group), ceil(patches / (ROWS run))); local 1. PLACES ROWS run depth <= MOST_V, PLACES run
 * group <= MOST_T, depth a multiple of VW up to DEPTH.
 * zeros: DEPTH floats 0. -D: VW, ROWS, ACT, BIAS, ROW, RES, UPSAMPLE, LINE. Limits: B OH OW < 2^31 - 144; Hv H, Wv W < 2^31.
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
    const int lines = (OH + PATCH_H - 1) / PATCH_H, columns = (OW + PATCH_W - 1) / PATCH_W, all = B * lines * columns;
    const int panel0 = get_global_id(0) * group, panels = min(group, (K + PANEL - 1) / PANEL - panel0);
    const int first = get_global_id(1) * ROWS * run, patches = min(ROWS * run, all - first);
    const int tiles = (patches + ROWS - 1) / ROWS, step = run * ROWS * depth;
    float v[MOST_V] ALIGNED, t[MOST_T * TILE] ALIGNED;

    for (int c0 = 0; c0 < C; c0 += depth) {
        const int n = min(depth, C - c0);
        for (int i = 0; i < patches; i++) {
            PLACE_PATCH(first + i)
            __global const float *from[PLACES];
            for (int p = 0; p < PLACES; p++) {
                int u = top - pt + DOWN(p / WIDTH), s = left - pl + RIGHT(p / WIDTH, p % WIDTH);
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
        PLACE_PATCH(first + i)
        for (int g = 0; g < 2 * panels; g++) {
            const int n0 = panel0 * PANEL + g * VW;
            floatv out[2][ACROSS];
            transform_sums(out, t + (g / 2 * PLACES * run + i / ROWS) * TILE + (i % ROWS * 2 + g % 2) * VW, run * TILE);
            for (int p = 0; p < OUTS; p++) {
                const int u = top + DOWN(p / ACROSS), s = left + RIGHT(p / ACROSS, p % ACROSS);
                if (u < OH && s < OW)
                    store_vector(y, EPILOGUE_ARGS out[p / ACROSS][p % ACROSS], K, OH * OW, (image * OH + u) * OW + s, n0, K - n0);
            }
        }
    }
}

/* G g G'^T of VW filters in g[tap], to every second vector of packed from place p at p step. */
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
        floatv q[WIDTH];
        filter_across(q, h[i]);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            put_out(q[j], packed + (WIDTH * i + j) * step);
    }
}

/*
 * winograd_pack: packed[panel, place, c, lane] = (G w[k, c] G'^T)[place], k = panel PANEL + lane, 0 for k >= K; w [K, C,
 * 3, 3], with LINE [K, C, 1, 9], packed f32. BACK: for the gradient of a convolution's input, packed[panel, place, k,
 * lane] of the filters turned by 180 degrees, c = panel PANEL + lane, 0 for c >= C.
 *
 * Work-item: PACK_N of the channels that are summed over, c or k, for one panel. Global size: (ceil(C / PACK_N),
 * panels); local 1. -D: VW, ST, BACK, LINE.
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

/* ---- The gradient of the filters: G^T [sum over patches of (A gy A'^T) * (B^T d B')] G', places independently. ---- */

#define MOST_X (16 * 48 * 64) /* floats of transformed patches of the input, of the gradient; register tiles */
#define MOST_G (16 * 48 * 80)
#define MOST_S (16 * 12)

/* A g A'^T of VW channels from the output's pixels at from[.], to places p at to[p step]. */
void transform_gradient(float *to, int step, __global const float *const *from, int k, int left)
{
    floatv g[OUTS], h[4][ACROSS];
#pragma unroll
    for (int i = 0; i < OUTS; i++)
        g[i] = load_part(from[i] + k, left);
#pragma unroll
    for (int j = 0; j < ACROSS; j++) {
        h[0][j] = g[j];
        h[1][j] = g[j] + g[ACROSS + j];
        h[2][j] = g[j] - g[ACROSS + j];
        h[3][j] = -g[ACROSS + j];
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        floatv q[WIDTH];
        gradient_across(q, h[i]);
        put_row(q, to, i, step);
    }
}

/* t[i][.] += sum_{m < n} g[m g_row + i] x[m x_row + .] for the ROWS rows of a tile of two vectors. */
void multiply_patches(float *t, const float *g, int g_row, const float *x, int x_row, int n)
{
    floatv acc[ROWS][2];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        acc[i][0] = vloadv(2 * i, t);
        acc[i][1] = vloadv(2 * i + 1, t);
    }
    for (int m = 0; m < n; m++, g += g_row, x += x_row) {
        const floatv x0 = vloadv(0, x), x1 = vloadv(1, x);
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

/* G^T s G' of VW channels from places p at s[p step], tap by tap to y[tap VW]. */
void transform_taps(float *y, const float *s, int step)
{
    floatv h[3][WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        const floatv s1 = vloadv(0, s + (WIDTH + j) * step), s2 = vloadv(0, s + (2 * WIDTH + j) * step);
        h[0][j] = vloadv(0, s + j * step) + 0.5f * (s1 + s2);
        h[1][j] = 0.5f * (s1 - s2);
        h[2][j] = vloadv(0, s + (3 * WIDTH + j) * step) + 0.5f * (s1 + s2);
    }
#pragma unroll
    for (int i = 0; i < 3; i++) {
        floatv t[3];
        taps_across(t, h[i]);
#pragma unroll
        for (int j = 0; j < 3; j++)
            put(t[j], y + (3 * i + j) * VW);
    }
}

/*
 * conv_bw_winograd: gw [K, C, 3, 3], with LINE [K, C, 1, 9], from x [B, H, W, C] and gy [B, OH, OW, K], see
 * cl/conv_grad.cl; stride 1.
 *
 * Work-item: `high` tiles of ROWS channels k x `wide` panels of channels c, over all patches, `terms` at a time.
 * Global size: (ceil(panels / wide), ceil(K / (ROWS high))); local 1. PLACES high wide <= MOST_S; PLACES terms PANEL wide
 * <= MOST_X; PLACES terms pitch <= MOST_G with pitch = ROWS high, rounded up to a multiple of VW.
 * zeros: DEPTH floats 0. -D: VW, ROWS, LINE. Limits: as conv_winograd. Private memory with VW 16: 710 KiB.
 */
__kernel ONE_ITEM void conv_bw_winograd(__global float *gw, __global const float *restrict x,
                                        __global const float *restrict gy, __global const float *restrict zeros, int B,
                                        int H, int W, int C, int K, int OH, int OW, int pt, int pl, int high, int wide,
                                        int terms)
{
    const int lines = (OH + PATCH_H - 1) / PATCH_H, columns = (OW + PATCH_W - 1) / PATCH_W, all = B * lines * columns;
    const int c0 = get_global_id(0) * wide * PANEL, k0 = get_global_id(1) * high * ROWS;
    const int panels = min(wide, (C - c0 + PANEL - 1) / PANEL), tiles = min(high, (K - k0 + ROWS - 1) / ROWS);
    const int width = panels * PANEL, pitch = (tiles * ROWS + VW - 1) / VW * VW;
    /* From place to place, by a line of the cache more than the rows take: multiples of 4 KiB would all fall into one set. */
    const int v_step = terms * width + VW, g_step = terms * pitch + VW;
    float v[MOST_X + PLACES * VW] ALIGNED, g[MOST_G + PLACES * VW] ALIGNED, t[MOST_S * TILE] ALIGNED;

    for (int i = 0; i < PLACES * tiles * panels * TILE / VW; i++)
        put((floatv)(0.0f), t + i * VW);
    for (int first = 0; first < all; first += terms) {
        const int n = min(terms, all - first);
        for (int m = 0; m < n; m++) {
            PLACE_PATCH(first + m)
            __global const float *from[PLACES];
            for (int p = 0; p < PLACES; p++) {
                const int u = top - pt + DOWN(p / WIDTH), s = left - pl + RIGHT(p / WIDTH, p % WIDTH);
                const bool inside = u >= 0 && u < H && s >= 0 && s < W;
                from[p] = inside ? x + (((long)image * H + u) * W + s) * C + c0 : zeros;
            }
            for (int c = 0; c < width; c += VW)
                transform_patch(v + m * width + c, v_step, from, c, C - c0 - c);
            for (int p = 0; p < OUTS; p++) {
                const int u = top + DOWN(p / ACROSS), s = left + RIGHT(p / ACROSS, p % ACROSS);
                from[p] = u < OH && s < OW ? gy + (((long)image * OH + u) * OW + s) * K + k0 : zeros;
            }
            for (int k = 0; k < tiles * ROWS; k += VW)
                transform_gradient(g + m * pitch + k, g_step, from, k, K - k0 - k);
        }
        for (int p = 0; p < PLACES; p++)
            for (int i = 0; i < tiles * panels; i++)
                multiply_patches(t + (p * tiles * panels + i) * TILE, g + p * g_step + i / panels * ROWS, pitch,
                                 v + p * v_step + i % panels * PANEL, width, n);
    }

    for (int i = 0; i < tiles * panels; i++)
        for (int row = 0; row < min(ROWS, K - k0 - i / panels * ROWS); row++)
            for (int part = 0; part < 2; part++) {
                const int c = c0 + i % panels * PANEL + part * VW;
                float taps[9 * VW];
                transform_taps(taps, t + i * TILE + (2 * row + part) * VW, tiles * panels * TILE);
                __global float *to = gw + ((long)(k0 + i / panels * ROWS + row) * C + c) * 9;
                for (int l = 0; l < min(VW, C - c); l++)
                    for (int tap = 0; tap < 9; tap++)
                        to[l * 9 + tap] = taps[tap * VW + l];
            }
}

#endif /* VW > 1 */
