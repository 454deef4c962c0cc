/* half.c - IEEE half and bfloat16 conversion, round to nearest even. */
#include "base/half.h"

#include <string.h>

size_t ac_type_size(ac_type t)
{
    return t == AC_F16 || t == AC_BF16 ? 2 : 4;
}

const char *ac_type_name(ac_type t)
{
    static const char *const name[] = {"f32", "f16", "bf16", "i32"};
    return name[t];
}

static float bits_to_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t float_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

float ac_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 0x3ff;

    if (exp == 31)
        return bits_to_float(sign | 0x7f800000 | man << 13);
    if (exp)
        return bits_to_float(sign | (exp + 112) << 23 | man << 13);
    return bits_to_float(sign | float_to_bits((float)man * 0x1p-24f)); /* subnormal: man * 2^-24, exact */
}

uint16_t ac_float_to_half(float f)
{
    uint32_t u = float_to_bits(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;

    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | ((a >> 13) & 0x3ff));
    if (a >= 0x47800000) /* 65536 and more */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) /* below the smallest normal 2^-14: adding 0.5 leaves round(f / 2^-24) in the low bits */
        return (uint16_t)(sign | (float_to_bits(bits_to_float(a) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13));
}

float ac_bf16_to_float(uint16_t h)
{
    return bits_to_float((uint32_t)h << 16);
}

uint16_t ac_float_to_bf16(float f)
{
    uint32_t u = float_to_bits(f);

    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

void ac_to_float(float *dst, const void *src, ac_type t, size_t n)
{
    const uint16_t *h = src;

    if (t == AC_F32)
        memcpy(dst, src, n * sizeof *dst);
    else if (t == AC_F16)
        for (size_t i = 0; i < n; i++)
            dst[i] = ac_half_to_float(h[i]);
    else
        for (size_t i = 0; i < n; i++)
            dst[i] = ac_bf16_to_float(h[i]);
}

void ac_from_float(void *dst, ac_type t, const float *src, size_t n)
{
    uint16_t *h = dst;

    if (t == AC_F32)
        memcpy(dst, src, n * sizeof *src);
    else if (t == AC_F16)
        for (size_t i = 0; i < n; i++)
            h[i] = ac_float_to_half(src[i]);
    else
        for (size_t i = 0; i < n; i++)
            h[i] = ac_float_to_bf16(src[i]);
}
