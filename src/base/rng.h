/* rng.h - random numbers: the streams of PyTorch's generators, so that a seed gives the image it gives elsewhere. */
#ifndef AC_RNG_H
#define AC_RNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* MT19937 (Matsumoto and Nishimura 1998), 32-bit outputs. */
typedef struct ac_mt {
    uint32_t word[624];
    uint32_t next; /* index of the next output in `word`; 624: make new words first */
} ac_mt;

void ac_mt_seed(ac_mt *mt, uint32_t seed);
uint32_t ac_mt_next(ac_mt *mt);

/* Philox4x32-10 (Salmon et al. 2011): the four output words of one counter under one key. */
void ac_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Whose stream: torch.Generator() on the CPU, or on a CUDA device. */
typedef enum ac_rng_kind { AC_RNG_CPU, AC_RNG_CUDA } ac_rng_kind;

typedef struct ac_rng {
    ac_rng_kind kind;
    ac_mt mt;        /* CPU */
    bool has_second; /* CPU: the second normal of a pair waits for the next short request */
    double second;
    uint32_t key[2]; /* CUDA: low and high word of the seed */
    uint32_t calls;  /* CUDA: number of requests so far */
} ac_rng;

/* The CPU generator uses the low 32 bits of the seed only, as torch does. */
void ac_rng_init(ac_rng *rng, ac_rng_kind kind, uint64_t seed);

/* torch.randn(n). A request is one call: randn(16) is no prefix of randn(17). CPU: within 5e-6 of every torch build.
 * CUDA: within 1e-5 while n is at most the threads that the device holds (2e4 on small ones, 2e5 on large ones);
 * beyond, torch's numbers depend on the device. */
void ac_rng_randn(ac_rng *rng, float *out, size_t n);
/* torch.rand(n), in [0,1). */
void ac_rng_rand(ac_rng *rng, float *out, size_t n);

/* SplitMix64 (Steele et al. 2014): a small fast generator of no library's stream, for tests and shuffling. */
uint64_t ac_mix(uint64_t *state);
/* n floats, uniform in [-1,1). */
void ac_mix_fill(uint64_t *state, float *out, size_t n);
double ac_mix_uniform(uint64_t *state); /* [0,1), 53 bits */
/* n unit normals (Box and Muller 1958). */
void ac_mix_normal(uint64_t *state, float *out, size_t n);

#endif
