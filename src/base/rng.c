/* rng.c - MT19937, Philox4x32-10, and the normal and uniform numbers that PyTorch makes of them. */
#include "base/rng.h"

#include <math.h>

#define MT_N    624
#define MT_M    397
#define TWO_PI  6.283185307179586476925
#define SHORT_N 16 /* torch: requests below 16 numbers are made one by one, others in blocks of 16 */

void ac_mt_seed(ac_mt *mt, uint32_t seed)
{
    mt->word[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++)
        mt->word[i] = 1812433253u * (mt->word[i - 1] ^ mt->word[i - 1] >> 30) + i;
    mt->next = MT_N;
}

static void mt_refill(ac_mt *mt)
{
    uint32_t *w = mt->word;

    for (uint32_t i = 0; i < MT_N; i++) {
        uint32_t y = (w[i] & 0x80000000u) | (w[(i + 1) % MT_N] & 0x7fffffffu);
        w[i] = w[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    mt->next = 0;
}

uint32_t ac_mt_next(ac_mt *mt)
{
    uint32_t y;

    if (mt->next >= MT_N)
        mt_refill(mt);
    y = mt->word[mt->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

void ac_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];

    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void ac_rng_init(ac_rng *rng, ac_rng_kind kind, uint64_t seed)
{
    *rng = (ac_rng){.kind = kind, .key = {(uint32_t)seed, (uint32_t)(seed >> 32)}};
    ac_mt_seed(&rng->mt, (uint32_t)seed);
}

/* ------------------------------------------------------------------------------------------------ CPU stream */

/* 24 random bits: every value is a float. */
static float cpu_uniform(ac_mt *mt)
{
    return (float)(ac_mt_next(mt) & 0xffffff) * 0x1p-24f;
}

static double cpu_uniform53(ac_mt *mt)
{
    uint64_t high = ac_mt_next(mt), low = ac_mt_next(mt);
    return (double)((high << 32 | low) & ((UINT64_C(1) << 53) - 1)) * 0x1p-53;
}

/* Box-Muller in double; the sine waits for the next short request, whatever is drawn in between. */
static double cpu_normal(ac_rng *rng)
{
    double angle, radius;

    if (rng->has_second) {
        rng->has_second = false;
        return rng->second;
    }
    angle = TWO_PI * cpu_uniform53(&rng->mt);
    radius = sqrt(-2 * log1p(-cpu_uniform53(&rng->mt)));
    rng->second = radius * sin(angle);
    rng->has_second = true;
    return radius * cos(angle);
}

/* 16 new uniforms in place of `block`. */
static void cpu_uniforms16(ac_mt *mt, float *block)
{
    for (int i = 0; i < SHORT_N; i++)
        block[i] = cpu_uniform(mt);
}

/* Box-Muller in float: element i < 8 gives the radius, element i + 8 the angle. */
static void cpu_normals16(float *block)
{
    for (int i = 0; i < 8; i++) {
        float radius = sqrtf(-2 * logf(1 - block[i])), angle = (float)(TWO_PI * (double)block[i + 8]);
        block[i] = radius * cosf(angle);
        block[i + 8] = radius * sinf(angle);
    }
}

static void cpu_randn(ac_rng *rng, float *out, size_t n)
{
    if (n < SHORT_N) {
        for (size_t i = 0; i < n; i++)
            out[i] = (float)cpu_normal(rng);
        return;
    }
    /* torch fills all n uniforms first; whole blocks use 16 of them each, and the rest of an odd size is drawn and
     * dropped. */
    for (size_t i = 0; i < n; i++)
        out[i] = cpu_uniform(&rng->mt);
    for (size_t i = 0; i + SHORT_N <= n; i += SHORT_N)
        cpu_normals16(out + i);
    if (n % SHORT_N) {
        cpu_uniforms16(&rng->mt, out + n - SHORT_N);
        cpu_normals16(out + n - SHORT_N);
    }
}

/* ----------------------------------------------------------------------------------------------- CUDA stream */

/* The words of element i of the current request. */
static void cuda_words(const ac_rng *rng, size_t i, uint32_t word[4])
{
    const uint32_t counter[4] = {rng->calls, 0, (uint32_t)i, (uint32_t)((uint64_t)i >> 32)};
    ac_philox4x32(counter, rng->key, word);
}

/* cuRAND's uniform in (0,1], in float as on the device: (w + 1/2) / 2^32. */
static float cuda_uniform(uint32_t w)
{
    return fmaf((float)w, 0x1p-32f, 0x1p-33f);
}

static void cuda_randn(ac_rng *rng, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t word[4];
        cuda_words(rng, i, word);
        out[i] = sqrtf(-2 * logf(cuda_uniform(word[0]))) * sinf((float)TWO_PI * cuda_uniform(word[1]));
    }
    rng->calls++;
}

/* torch turns the generator's (0,1] into [0,1) by mapping 1 to 0. */
static void cuda_rand(ac_rng *rng, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t word[4];
        float u;
        cuda_words(rng, i, word);
        u = cuda_uniform(word[0]);
        out[i] = u < 1 ? u : 0;
    }
    rng->calls++;
}

/* --------------------------------------------------------------------------------------------------- requests */

void ac_rng_randn(ac_rng *rng, float *out, size_t n)
{
    if (rng->kind == AC_RNG_CUDA)
        cuda_randn(rng, out, n);
    else
        cpu_randn(rng, out, n);
}

void ac_rng_rand(ac_rng *rng, float *out, size_t n)
{
    if (rng->kind == AC_RNG_CUDA) {
        cuda_rand(rng, out, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = cpu_uniform(&rng->mt);
}

uint64_t ac_mix(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

void ac_mix_fill(uint64_t *state, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(ac_mix(state) >> 40) * 0x1p-23f - 1;
}

double ac_mix_uniform(uint64_t *state)
{
    return (double)(ac_mix(state) >> 11) * 0x1p-53;
}

void ac_mix_normal(uint64_t *state, float *out, size_t n)
{
    for (size_t i = 0; i < n; i += 2) {
        double radius = sqrt(-2 * log(1 - ac_mix_uniform(state))), turn = 2 * M_PI * ac_mix_uniform(state);
        out[i] = (float)(radius * cos(turn));
        if (i + 1 < n)
            out[i + 1] = (float)(radius * sin(turn));
    }
}
