/*
 * elem.cl - elementwise kernels.
 *
 * A work-item takes a run of SPAN vectors of VW elements: long runs on CPUs, one vector on GPUs, so that neighbours read
 * neighbouring memory. -DU and -DB name the function of one or two operands.
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

#define b_add(a, b) ((a) + (b))
#define b_sub(a, b) ((a) - (b))
#define b_mul(a, b) ((a) * (b))
#define b_div(a, b) ((a) / (b))

/* cast: y[i] = x[i] from storage type ST to WT; n is a multiple of VW. Global size: ceil(n / (VW SPAN)). -D: VW, SPAN, ST, WT. */
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

#ifdef B

/* binary_same: y[i] = B(a[i], b[i]). y may be a's buffer. Global size: ceil(n / (VW SPAN)). -D: B, VW, SPAN. */
__kernel void binary_same(__global float *y, __global const float *a, __global const float *b, int n)
{
    const int begin = get_global_id(0) * VW * SPAN, end = min(begin + VW * SPAN, n);
    int i = begin;
    for (; i + VW <= end; i += VW) {
        const floatv u = vloadv(0, a + i), v = vloadv(0, b + i);
        vstorev(B(u, v), 0, y + i);
    }
#if VW > 1
    if (i < end) {
        const floatv u = load_part(a + i, end - i), v = load_part(b + i, end - i);
        store_part(B(u, v), y + i, end - i);
    }
#endif
}

/*
 * binary_any: y[i0,i1,i2,i3] = B(a[...], b[...]) with strides a0..a3 and b0..b3 in elements, 0 where an operand repeats.
 * n elements in all; d1..d3: sizes of the last three dimensions. y may be a's buffer when a does not repeat. Global size: n.
 */
__kernel void binary_any(__global float *y, __global const float *a, __global const float *b, int n, int d1, int d2, int d3,
                         int a0, int a1, int a2, int a3, int b0, int b1, int b2, int b3)
{
    const int i = get_global_id(0);
    if (i >= n)
        return;
    const int i3 = i % d3, i2 = i / d3 % d2, i1 = i / d3 / d2 % d1, i0 = i / d3 / d2 / d1;
    const float u = a[i0 * a0 + i1 * a1 + i2 * a2 + i3 * a3], v = b[i0 * b0 + i1 * b1 + i2 * b2 + i3 * b3];
    y[i] = B(u, v);
}

#endif

/* geglu: y[m, j] = x[m, j] gelu(x[m, N + j]); n = elements of y, N its width. Global size: n. */
#if VW == 1
__kernel void geglu(__global float *y, __global const float *restrict x, int n, int N)
{
    const int i = get_global_id(0);
    if (i < n) {
        const long at = (long)(i / N) * 2 * N + i % N;
        y[i] = x[at] * gelu(x[at + N]);
    }
}
#endif
