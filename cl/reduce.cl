/* reduce.cl - sums over axes and softmax; fixed order, so results repeat bit by bit. */

/*
 * sum_any: y[i] = sum of x over the reduced dimensions. Both kept and reduced dimensions are given as four sizes and strides in
 * elements (1 where a dimension belongs to the other kind). Work-item: one output, Kahan-compensated. Global size: n.
 */
__kernel void sum_any(__global float *y, __global const float *restrict x, int n, int k1, int k2, int k3, int ks0, int ks1, int ks2,
                      int ks3, int r0, int r1, int r2, int r3, int rs0, int rs1, int rs2, int rs3)
{
#pragma OPENCL FP_CONTRACT OFF
    const int i = get_global_id(0);
    if (i >= n)
        return;
    x += i / k3 / k2 / k1 * ks0 + i / k3 / k2 % k1 * ks1 + i / k3 % k2 * ks2 + i % k3 * ks3;
    float sum = 0.0f, carry = 0.0f;
    for (int a = 0; a < r0; a++)
        for (int b = 0; b < r1; b++)
            for (int c = 0; c < r2; c++)
                for (int d = 0; d < r3; d++) {
                    const float v = x[a * rs0 + b * rs1 + c * rs2 + d * rs3] - carry, s = sum + v;
                    carry = (s - sum) - v;
                    sum = s;
                }
    y[i] = sum;
}

/* softmax_any: y[m, j] = exp(x[m, j] - max) / sum. Work-item: one row of N. y may be x's buffer. Global size: rows. */
__kernel void softmax_any(__global float *y, __global const float *x, int rows, int N)
{
    const int m = get_global_id(0);
    if (m >= rows)
        return;
    x += (long)m * N;
    y += (long)m * N;
    float top = x[0], sum = 0.0f;
    for (int j = 1; j < N; j++)
        top = fmax(top, x[j]);
    for (int j = 0; j < N; j++) {
        const float e = exp(x[j] - top);
        y[j] = e;
        sum += e;
    }
    for (int j = 0; j < N; j++)
        y[j] /= sum;
}
