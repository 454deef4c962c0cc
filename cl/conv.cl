/*
 * conv.cl - two-dimensional convolution, NHWC.
 *
 * `_vec` (CPU): the filters are packed once by conv_pack; a work-item makes a few register tiles of Y. The product is
 * implicit: nothing like an im2col matrix is ever in memory.
 */

#if VW > 1

DEFINE_MULTIPLY(multiply, __global, PANEL_SPACE, 2)

#ifdef PHASES
/* As store_tile(), to the pixels (p + stride i, q + stride j), i < OH, j < OW, of images [lines, columns]. */
void store_phase(__global float *y, EPILOGUE_PARAMS const float *t, int M, int N, int m0, int n0, int OH, int OW, int p,
                 int q, int stride, int lines, int columns)
{
    for (int i = 0; i < min(ROWS, M - m0); i++) {
        const int line = (m0 + i) / OW, to = line / OH * lines + p + line % OH * stride;
        const int at = to * columns + q + (m0 + i) % OW * stride;
        for (int j = 0; j < 2; j++)
            store_vector(y, EPILOGUE_ARGS vloadv(2 * i + j, t), N, lines * columns, at, n0 + j * VW, N - n0 - j * VW);
    }
}
#endif

/*
 * conv_vec: Y [B, OH, OW, K] = epilogue(conv(X [B, H, W, C], filters [K, C, R, S])), all f32 but the packed filters.
 *
 *   acc[b, oy, ox, k] = sum_{r, s, c} X[b, oy sy - pt + r, ox sx - pl + s, c] w[k, c, r, s],  X = 0 outside
 *   y = act(acc + bias[k] + row[b, k]) + res[b, oy, ox, k]
 *   UPSAMPLE: X is read through a nearest resize to [Hv, Wv]: X[i, j] stands for X[i H / Hv, j W / Wv], rounded down
 *
 * A pixel is a row of the product: m = (b OH + oy) OW + ox, M = B OH OW. Work-item: `run` tiles of ROWS successive
 * pixels (over the ends of lines and images) x PANEL channels. For each line of the filter it widens the panel, then
 * for each tile finds the ROWS input pixels, `zeros` for those outside, and multiplies.
 * Global size: (panels, runs), panels = ceil(K / PANEL), runs = ceil(M / (ROWS run)); local 1. run: as in matmul_vec.
 * zeros: DEPTH floats 0. (sy, sx) stride, (pt, pl) padding at top and left; what lies at bottom and right follows from
 * OH and OW.
 * PHASES, of the value of the stride s of the forward pass: the gradient of a convolution's input, see common.h. Then X
 * is the output's gradient, [B, H, W, C], Y the input's, (pt, pl) the input's padding, sy = sx = 1, and the filters [C,
 * K, R, S] are packed by conv_bx_pack. A work-item makes pixels of phase (g2 / s, g2 % s), g2 its third id.
 * Global size: (panels, runs, s s), runs for the first phase, which is the largest.
 * -D: VW, WT, ROWS, ACT, BIAS, ROW, RES, UPSAMPLE, PHASES. Limits: M < 2^31 - 144; Hv H, Wv W, C S < 2^31.
 * Private memory with VW 16: 84 KiB, 20 with WT 0.
 */
__kernel ONE_ITEM void conv_vec(__global float *y, __global const float *restrict x, __global const weight *restrict w,
                                __global const float *restrict zeros, EPILOGUE_PARAMS int M, int H, int W, int C, int K,
                                int OH, int OW, int R, int S, int sy, int sx, int pt, int pl,
#ifdef UPSAMPLE
                                int Hv, int Wv,
#endif
                                int run)
{
#ifndef UPSAMPLE
    const int Hv = H, Wv = W;
#endif
    const int panel = get_global_id(0), m0 = get_global_id(1) * ROWS * run;
    w += (long)panel * R * S * C * PANEL;
#ifdef PHASES
    const int py = get_global_id(2) / PHASES, px = get_global_id(2) % PHASES, lines = OH, columns = OW;
    w += (long)phase_place(py, px, pt, pl, R, S, PHASES) * C * PANEL;
    OH = (lines - py + PHASES - 1) / PHASES;
    OW = (columns - px + PHASES - 1) / PHASES;
    M = M / (lines * columns) * OH * OW;
    R = phase_taps_pad(py, R, PHASES, &pt);
    S = phase_taps_pad(px, S, PHASES, &pl);
#endif
    const int tiles = min(run, (M - m0 + ROWS - 1) / ROWS);

    /* Of each pixel: its image, and the place of its filter's corner there. Pixels beyond M repeat the last one. */
    long image[RUN * ROWS];
    int top[RUN * ROWS], left[RUN * ROWS];
    bool inner[RUN]; /* of each tile: no filter sticks out at left or right */
    for (int i = 0; i < tiles * ROWS; i++) {
        const int m = min(m0 + i, M - 1), line = m / OW;
        image[i] = (long)(line / OH) * H * W;
        top[i] = line % OH * sy - pt;
        left[i] = m % OW * sx - pl;
#ifdef UPSAMPLE
        inner[i / ROWS] = false;
#else
        inner[i / ROWS] = (i % ROWS == 0 || inner[i / ROWS]) && left[i] >= 0 && left[i] + S <= W;
#endif
    }
    float t[RUN * TILE] ALIGNED;
    WIDE_PANEL(wide);
    for (int i = 0; i < tiles * TILE / VW; i++)
        put((floatv)(0.0f), t + i * VW);

    /* q = s C + c runs over a line of the filter, in NHWC also over memory: at one go where all taps are inside. */
    const int Q = S * C, blocks = max((Q + DEPTH - 1) / DEPTH, 1), depth = (Q + blocks - 1) / blocks;
    for (int r = 0; r < R; r++, w += (long)Q * PANEL) {
        for (int q0 = 0; q0 < Q; q0 += depth) {
            const int end = min(q0 + depth, Q);
            widen(wide, w + (long)q0 * PANEL, end - q0);
            for (int j = 0; j < tiles; j++) {
                for (int q = q0, n; q < end; q += n) {
                    const int s = q / C;
                    n = inner[j] ? end - q : min(end, (s + 1) * C) - q;
                    __global const float *rows[ROWS];
                    for (int i = 0; i < ROWS; i++) {
                        int u = top[j * ROWS + i] + r, v = left[j * ROWS + i] + s;
                        const bool inside = u >= 0 && u < Hv && v >= 0 && v < Wv;
#ifdef UPSAMPLE
                        u = u * H / Hv;
                        v = v * W / Wv;
#endif
                        rows[i] = inside ? x + (image[j * ROWS + i] + (long)u * W + v) * C + (q - s * C) : zeros;
                    }
                    multiply(t + j * TILE, rows, 1, wide + (q - q0) * PANEL, n);
                }
            }
        }
    }
    for (int j = 0; j < tiles; j++)
#ifdef PHASES
        store_phase(y, EPILOGUE_ARGS t + j * TILE, M, K, m0 + j * ROWS, panel * PANEL, OH, OW, py, px, PHASES, lines,
                    columns);
#else
        store_tile(y, EPILOGUE_ARGS t + j * TILE, M, K, OH * OW, m0 + j * ROWS, panel * PANEL);
#endif
}

/*
 * conv_pack: packed[panel, tap, c, lane] = w[k, c, tap], k = panel PANEL + lane, 0 for k >= K.
 *
 * w [K, C, R, S], taps = R S, is read as K rows of elements q = c taps + tap, so that the reads run along
 * memory. Work-item: PACK_Q of them for one panel. Global size: (ceil(C taps / PACK_Q), panels); local 1. Size of
 * packed: panels taps C PANEL. -D: VW, WT, ST.
 */
#define PACK_Q 64
__kernel ONE_ITEM void conv_pack(__global weight *packed, __global const source *restrict w, int K, int C, int taps)
{
    const int Q = C * taps, panel = get_global_id(1), k0 = panel * PANEL;
    const int q_begin = get_global_id(0) * PACK_Q, q_end = min(q_begin + PACK_Q, Q);
    packed += (long)panel * Q * PANEL;
    w += (long)k0 * Q;
    float t[VW * PANEL];
    for (int q0 = q_begin; q0 < q_end; q0 += VW) {
        load_block(t, PANEL, w + q0, Q, 1, K - k0, Q - q0);
        load_block(t + VW, PANEL, w + (long)VW * Q + q0, Q, 1, K - k0 - VW, Q - q0);
        for (int i = 0; i < min(VW, Q - q0); i++) {
            const int q = q0 + i, to = (q % taps * C + q / taps) * 2;
            store_weight(vloadv(2 * i, t), to, packed);
            store_weight(vloadv(2 * i + 1, t), to + 1, packed);
        }
    }
}

/*
 * conv_bx_pack: the same for the gradient of a convolution's input, where output channels k are summed over and input
 * channels c are lanes: packed[panel, place, k, lane] = w[k, c, r, s], c = panel PANEL + lane, 0 for c >= C, with the
 * taps (r, s) in the order of phases, see common.h.
 *
 * Work-item: PACK_ROWS channels k for one panel. Global size: (ceil(K / PACK_ROWS), panels); local 1. -D: VW, WT, ST.
 */
#define PACK_ROWS 16
__kernel ONE_ITEM void conv_bx_pack(__global weight *packed, __global const source *restrict w, int K, int C, int R,
                                    int S, int stride, int pt, int pl)
{
    const int panel = get_global_id(1), c0 = panel * PANEL, lanes = min(PANEL, C - c0), taps = R * S;
    const int k_begin = get_global_id(0) * PACK_ROWS, k_end = min(k_begin + PACK_ROWS, K);
    packed += (long)panel * taps * K * PANEL;
    float t[PANEL];
    for (int l = lanes; l < PANEL; l++)
        t[l] = 0.0f;
    for (int r = 0; r < R; r++)
        for (int s = 0; s < S; s++) {
            const int place = tap_place(r, s, pt, pl, R, S, stride);
            for (int k = k_begin; k < k_end; k++) {
                __global const source *from = w + ((long)k * C + c0) * taps + r * S + s;
                for (int l = 0; l < lanes; l++)
                    t[l] = load_one(l * taps, from);
                store_weight(vloadv(0, t), 2 * (place * K + k), packed);
                store_weight(vloadv(1, t), 2 * (place * K + k) + 1, packed);
            }
        }
}

#endif /* VW > 1 */
