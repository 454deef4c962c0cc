/*
 * elem.cl - elementwise kernels.
 *
 * A work-item takes a run of SPAN vectors of VW elements: long runs on CPUs, one vector on GPUs, so that neighbours
 * read neighbouring memory. -DU, -DB and -DD name the function of one operand, of two, or the derivative.
 */

#ifndef SPAN
#define SPAN 1
#endif

/* Functions of x and up to two attributes. exp_clamped is exact enough where its argument saturates. */
#define u_scale(x, a, b)      FMA((floatv)(a), x, (floatv)(b))
#define u_exp(x, a, b)        exp(x)
#define u_log(x, a, b)        log(x)
#define u_sqrt(x, a, b)       sqrt(x)
#define u_tanh(x, a, b)       tanh(x)
#define u_sigmoid(x, a, b)    (1.0f / (1.0f + exp_clamped(-(x))))
#define u_relu(x, a, b)       relu(x)
#define u_silu(x, a, b)       silu(x)
#define u_gelu(x, a, b)       gelu(x)
#define u_quick_gelu(x, a, b) quick_gelu(x)
#define u_clamp(x, a, b)      ((x) < (a) ? (floatv)(a) : (x) > (b) ? (floatv)(b) : (x))

#define u_leaky_relu(x, a, b) ((x) > 0.0f ? (x) : (a) * (x))
#define u_pow(x, a, b)        pow(x, (floatv)(a))
#define u_abs(x, a, b)        fabs(x)

/* Their derivatives, times g. */
#define d_leaky_relu_bx(x, g, a, b) ((x) > 0.0f ? (g) : (a) * (g))
#define d_clamp_bx(x, g, a, b)      ((x) < (a) || (x) > (b) ? (floatv)(0.0f) : (g))
#define d_abs_bx(x, g, a, b)        ((x) > 0.0f ? (g) : (x) < 0.0f ? -(g) : (floatv)(0.0f))
#define d_silu_bx(x, g, a, b)       (swish_slope(x, 1.0f) * (g))
#define d_gelu_bx(x, g, a, b)       (gelu_slope(x) * (g))
#define d_quick_gelu_bx(x, g, a, b) (swish_slope(x, 1.702f) * (g))

/* Of x s, s = sigmoid(k x): s + k x s (1 - s). */
floatv swish_slope(floatv x, float k)
{
    const floatv s = 1.0f / (1.0f + exp_clamped(-k * x));
    return s * FMA(k * x, 1.0f - s, (floatv)(1.0f));
}

/* The normal distribution's density and its integral from minus infinity. */
floatv normal(floatv x)
{
    return 0.39894228f * exp_clamped(-0.5f * x * x);
}

floatv normal_sum(floatv x)
{
    const floatv tail = normal_tail(fabs(x));
    return x > 0.0f ? 1.0f - tail : tail;
}

/* Of x Phi(x): Phi(x) + x phi(x). */
floatv gelu_slope(floatv x)
{
    return FMA(x, normal(x), normal_sum(x));
}

#define b_add(a, b) ((a) + (b))
#define b_sub(a, b) ((a) - (b))
#define b_mul(a, b) ((a) * (b))
#define b_div(a, b) ((a) / (b))

/* cast: y[i] = x[i] from storage type ST to WT; n is a multiple of VW. Global size: ceil(n / (VW SPAN)). -D: VW, SPAN,
 * ST, WT. */
__kernel void cast(__global weight *y, __global const source *restrict x, int n)
{
    const int begin = get_global_id(0) * VW * SPAN, end = min(begin + VW * SPAN, n);
    for (int i = begin; i < end; i += VW)
        store_weight(load_source(0, x + i), 0, y + i);
}

/* fill: y[i] = v. */
__kernel void fill(__global float *y, int n, float v)
{
    const int i = get_global_id(0);
    if (i < n)
        y[i] = v;
}

#ifdef U

/* unary: y[i] = U(x[i]; a, b). x and y may be one buffer. Global size: ceil(n / (VW SPAN)). -D: U, VW, SPAN. */
__kernel void unary(__global float *y, __global const float *x, int n, float a, float b)
{
    const int begin = get_global_id(0) * VW * SPAN, end = min(begin + VW * SPAN, n);
    int i = begin;
    for (; i + VW <= end; i += VW) {
        const floatv v = vloadv(0, x + i);
        vstorev(U(v, a, b), 0, y + i);
    }
#if VW > 1
    if (i < end) {
        const floatv v = load_part(x + i, end - i);
        store_part(U(v, a, b), y + i, end - i);
    }
#endif
}

#endif

#ifdef D

/* unary_bx: gx[i] = D(x[i], gy[i]; a, b). gx may be x's buffer. Global size: ceil(n / (VW SPAN)). -D: D, VW, SPAN. */
__kernel void unary_bx(__global float *gx, __global const float *x, __global const float *gy, int n, float a, float b)
{
    const int begin = get_global_id(0) * VW * SPAN, end = min(begin + VW * SPAN, n);
    int i = begin;
    for (; i + VW <= end; i += VW) {
        const floatv v = vloadv(0, x + i), g = vloadv(0, gy + i);
        vstorev(D(v, g, a, b), 0, gx + i);
    }
#if VW > 1
    if (i < end) {
        const floatv v = load_part(x + i, end - i), g = load_part(gy + i, end - i);
        store_part(D(v, g, a, b), gx + i, end - i);
    }
#endif
}

#endif

#ifdef B

/*
 * binary: y[r, c] = B(a[r, c], b[r, c]) where row r = (i0, i1, i2) of an operand begins at the sum of its steps i0 a0 +
 * i1 a1 + i2 a2 and goes on in steps of SA (SB) elements, 1 or 0: it repeats. d1, d2: sizes of the last two of the
 * three dimensions. y may be a's buffer when a does not repeat. Work-item: GRID_BLOCK. -D: B, SA, SB, VW.
 */
__kernel void binary(__global float *y, __global const float *a, __global const float *b, int d1, int d2, int a0,
                     int a1, int a2, int b0, int b1, int b2, GRID_PARAMS)
{
    GRID_BLOCK
    int i2 = r0 % d2, i1 = r0 / d2 % d1, i0 = r0 / d2 / d1;
    for (int r = r0; r < r1; r++) {
        __global const float *ra = a + (i0 * a0 + i1 * a1 + i2 * a2), *rb = b + (i0 * b0 + i1 * b1 + i2 * b2);
        __global float *ry = y + (long)r * n;
        int c = c0;
        for (; c + VW <= c1; c += VW) {
            const floatv u = SA ? vloadv(0, ra + c) : (floatv)(ra[0]), v = SB ? vloadv(0, rb + c) : (floatv)(rb[0]);
            vstorev(B(u, v), 0, ry + c);
        }
        for (; c < c1; c++)
            ry[c] = B(ra[c * SA], rb[c * SB]);
        i1 += ++i2 == d2;
        i2 = i2 == d2 ? 0 : i2;
        i0 += i1 == d1;
        i1 = i1 == d1 ? 0 : i1;
    }
}

#endif

#if VW > 1 && !defined(U) && !defined(B) && !defined(D)

/* geglu: y[m, j] = x[m, j] gelu(x[m, n + j]), x [rows, 2n]. Work-item: GRID_BLOCK of y. -D: VW. */
__kernel void geglu(__global float *y, __global const float *restrict x, GRID_PARAMS)
{
    GRID_BLOCK
    for (int r = r0; r < r1; r++) {
        __global const float *a = x + (long)r * 2 * n, *b = a + n;
        __global float *ry = y + (long)r * n;
        int c = c0;
        for (; c + VW <= c1; c += VW)
            vstorev(vloadv(0, a + c) * gelu(vloadv(0, b + c)), 0, ry + c);
        if (c < c1)
            store_part(load_part(a + c, c1 - c) * gelu(load_part(b + c, c1 - c)), ry + c, c1 - c);
    }
}

/*
 * geglu_bx: the gradients of both halves, gx[m, j] = g gelu(b), gx[m, n + j] = g a gelu'(b) with a = x[m, j], b = x[m,
 * n + j], g = gy[m, j]. Work-item: GRID_BLOCK of gy. -D: VW.
 */
__kernel void geglu_bx(__global float *gx, __global const float *restrict x, __global const float *restrict gy,
                       GRID_PARAMS)
{
    GRID_BLOCK
    for (int r = r0; r < r1; r++) {
        __global const float *ra = x + (long)r * 2 * n, *rb = ra + n, *rg = gy + (long)r * n;
        __global float *ga = gx + (long)r * 2 * n, *gb = ga + n;
        int c = c0;
        for (; c + VW <= c1; c += VW) {
            const floatv b = vloadv(0, rb + c), g = vloadv(0, rg + c), phi = normal(b), Phi = normal_sum(b);
            vstorev(g * b * Phi, 0, ga + c);
            vstorev(g * vloadv(0, ra + c) * FMA(b, phi, Phi), 0, gb + c);
        }
        if (c < c1) {
            const int left = c1 - c;
            const floatv b = load_part(rb + c, left), g = load_part(rg + c, left), phi = normal(b), Phi = normal_sum(b);
            store_part(g * b * Phi, ga + c, left);
            store_part(g * load_part(ra + c, left) * FMA(b, phi, Phi), gb + c, left);
        }
    }
}

#endif
