/*
 * optim.cl - what an optimiser does with parameters and gradients, in place.
 *
 * A work-item takes a run of SPAN vectors of VW elements: long runs on CPUs, one element on GPUs, so that neighbours
 * read neighbouring memory. Nothing is contracted: results differ between devices only by how they round sqrt and
 * division.
 */
#pragma OPENCL FP_CONTRACT OFF

#ifndef SPAN
#define SPAN 1
#endif

/* Elements of the tensor of hyperparameters, as in ops.h. */
#define LR       0
#define EPS      1
#define DECAY    2
#define MEAN     3
#define BETA2    4
#define SQUARE   5
#define CORRECT1 6
#define CORRECT2 7
#define EMA      8
#define FACTOR   9

#ifdef AVERAGE
#define AVERAGE_PARAM  __global float *ema,
#define AVERAGE_ARG(i) ema + (i),
#else
#define AVERAGE_PARAM
#define AVERAGE_ARG(i)
#endif

/* One vector of adam. */
void adam_vector(__global float *p, __global const float *g, __global float *m, __global float *v,
                 __global const float *h, AVERAGE_PARAM float lr, int left)
{
    floatv pi = load_part(p, left), gi = h[FACTOR] * load_part(g, left), mi = load_part(m, left),
           vi = load_part(v, left);
#ifdef COUPLED
    gi += h[DECAY] * pi;
#else
    pi -= lr * h[DECAY] * pi;
#endif
    mi += h[MEAN] * (gi - mi);
    vi = h[BETA2] * vi + h[SQUARE] * (gi * gi);
    pi -= lr * (h[CORRECT1] * mi) / (sqrt(h[CORRECT2] * vi) + h[EPS]);
    store_part(pi, p, left);
    store_part(mi, m, left);
    store_part(vi, v, left);
#ifdef AVERAGE
    const floatv ei = load_part(ema, left);
    store_part(ei + h[EMA] * (pi - ei), ema, left);
#endif
}

/*
 * adam: one step for the n elements of p with gradient f g, moments m and v and, with -DAVERAGE, the average ema:
 *   p -= lr decay p (-DCOUPLED: f g += decay p), m += (1 - beta1) (f g - m), v = beta2 v + (1 - beta2) (f g)^2,
 *   p -= lr c1 m / (sqrt(c2 v) + eps), ema += (1 - d) (p - ema);
 * numbers from h, lr is times `rate`. If f is negative or not finite nothing changes. Global size: ceil(n / (VW SPAN)).
 * -D: VW, SPAN, AVERAGE, COUPLED.
 */
__kernel void adam(__global float *p, __global const float *restrict g, __global float *restrict m,
                   __global float *restrict v, __global const float *restrict h, AVERAGE_PARAM int n, float rate)
{
    const int begin = get_global_id(0) * VW * SPAN, end = min(begin + VW * SPAN, n);
    const float lr = rate * h[LR];
    int i = begin;
    if (!(h[FACTOR] >= 0.0f && h[FACTOR] <= FLT_MAX))
        return;
    for (; i + VW <= end; i += VW)
        adam_vector(p + i, g + i, m + i, v + i, h, AVERAGE_ARG(i) lr, VW);
    if (i < end)
        adam_vector(p + i, g + i, m + i, v + i, h, AVERAGE_ARG(i) lr, end - i);
}

/* accumulate: y += s x. Global size: ceil(n / (VW SPAN)). -D: VW, SPAN. */
__kernel void accumulate(__global float *y, __global const float *restrict x, int n, float s)
{
    const int begin = get_global_id(0) * VW * SPAN, end = min(begin + VW * SPAN, n);
    int i = begin;
    for (; i + VW <= end; i += VW)
        vstorev(vloadv(0, y + i) + s * vloadv(0, x + i), 0, y + i);
    if (i < end)
        store_part(load_part(y + i, end - i) + s * load_part(x + i, end - i), y + i, end - i);
}

/* store: y = x. Global size: ceil(n / (VW SPAN)). -D: VW, SPAN. */
__kernel void store(__global float *y, __global const float *restrict x, int n)
{
    const int begin = get_global_id(0) * VW * SPAN, end = min(begin + VW * SPAN, n);
    int i = begin;
    for (; i + VW <= end; i += VW)
        vstorev(vloadv(0, x + i), 0, y + i);
    if (i < end)
        store_part(load_part(x + i, end - i), y + i, end - i);
}

#ifdef BEFORE
#define BEFORE_PARAM  __global const float *restrict before,
#define BEFORE_SUM(k) before[k]
#else
#define BEFORE_PARAM
#define BEFORE_SUM(k) 0.0f
#endif

#define BLOCK 8 /* vectors that are summed plainly */

/* Sums of the squares of the n elements of x, by vectors that lie `step` apart; blocks are added with Kahan's
 * compensation. */
floatv squares(__global const float *x, int n, int step)
{
    floatv total = (floatv)(0.0f), excess = (floatv)(0.0f);
    int i = 0;
    while (n - i >= VW) {
        floatv sum = (floatv)(0.0f);
        for (int k = 0; k < BLOCK && n - i >= VW; k++, i += step) {
            const floatv v = vloadv(0, x + i);
            sum = FMA(v, v, sum);
        }
        const floatv part = sum - excess, next = total + part;
        excess = (next - total) - part;
        total = next;
    }
    if (i < n) {
        const floatv v = load_part(x + i, n - i);
        total = FMA(v, v, total);
    }
    return total;
}

#ifndef WG

/*
 * sum_squares_any: y[k] = before[k] + the sum of the squares of x[k per..], `per` of the n elements. Work-item: one k.
 * Global size: parts. -D: VW, BEFORE.
 */
__kernel void sum_squares_any(__global float *y, __global const float *restrict x, BEFORE_PARAM int n, int per,
                              int parts)
{
    const int k = get_global_id(0), begin = (int)min((long)k * per, (long)n);
    if (k < parts)
        y[k] = BEFORE_SUM(k) + sum_lanes(squares(x + begin, min(per, n - begin), VW));
}

#else

/* sum_squares_tile: as sum_squares_any; a work-group of WG items takes a part. Global size: parts WG. -D: VW, WG,
 * BEFORE. */
__kernel void sum_squares_tile(__global float *y, __global const float *restrict x, BEFORE_PARAM int n, int per,
                               int parts)
{
    __local float t[WG];
    const int k = get_group_id(0), begin = (int)min((long)k * per, (long)n), first = get_local_id(0) * VW;
    const float sum = sum_group(sum_lanes(squares(x + begin + first, min(per, n - begin) - first, WG * VW)), t);
    if (get_local_id(0) == 0)
        y[k] = BEFORE_SUM(k) + sum;
}

#endif

/*
 * clip_factor: y = h, its factor f times min(1, largest / (norm + 1e-6)), norm = f sqrt(total): gradients longer than
 * `largest` are scaled to it; 0: they are not. NaN if the norm is not finite. Global size: hypers.
 */
__kernel void clip_factor(__global float *y, __global const float *restrict h, __global const float *restrict total,
                          int hypers, float largest)
{
    const int i = get_global_id(0);
    if (i >= hypers)
        return;
    const float norm = h[FACTOR] * sqrt(total[0]), clip = largest > 0.0f ? fmin(1.0f, largest / (norm + 1e-6f)) : 1.0f;
    y[i] = i != FACTOR ? h[i] : isfinite(norm) ? h[i] * clip : NAN;
}
