/* bench.cl - what the device can reach at most. */

/*
 * fma_peak: 16 independent chains of fused multiply-adds on vectors of VW floats, `rounds` long; the sum is written so that
 * nothing can be left out. 16 rounds VW multiply-adds a work-item. -D: VW.
 */
__kernel void fma_peak(__global float *y, int rounds, float a)
{
    floatv c[16];
    const floatv m = (floatv)(a), s = (floatv)(1.0f - a);
#pragma unroll
    for (int i = 0; i < 16; i++)
        c[i] = (floatv)((float)(get_global_id(0) % 64 + i));
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < 16; i++)
            c[i] = FMA(c[i], m, s);
#pragma unroll
    for (int i = 1; i < 16; i++)
        c[0] += c[i];
#if VW > 1
    float t[VW], sum = 0.0f;
    vstorev(c[0], 0, t);
    for (int l = 0; l < VW; l++)
        sum += t[l];
    y[get_global_id(0)] = sum;
#else
    y[get_global_id(0)] = c[0];
#endif
}
