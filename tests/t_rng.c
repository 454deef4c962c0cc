/* t_rng.c - the random streams against torch's, recorded in the fixtures. */
#include "support.h"
#include "base/rng.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPU_TOL  5e-6 /* torch's own vector paths differ by 2e-6 */
#define CUDA_TOL 1e-5

/* "cpu.42.randn.17" -> device, seed, kind of numbers, argument (-1: none). */
typedef struct key {
    char device[8], what[16];
    uint64_t seed;
    int arg;
} key;

static bool split(const char *name, key *k)
{
    k->arg = -1;
    return sscanf(name, "%7[^.].%" SCNu64 ".%15[^.].%d", k->device, &k->seed, k->what, &k->arg) >= 3;
}

static void check(const char *name, const float *got, const double *want, size_t n, double tol)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tol))
            fail_msg("%s[%zu] is %.9g, expected %.9g within %g", name, i, (double)got[i], want[i], tol);
}

static void check_words(const char *name, const key *k, const double *want, size_t n)
{
    ac_mt mt;
    const uint32_t seed[2] = {(uint32_t)k->seed, (uint32_t)(k->seed >> 32)};

    ac_mt_seed(&mt, seed[0]);
    for (size_t i = 0; i < n; i++) {
        uint32_t word[4], counter[4] = {0, 0, (uint32_t)(i % (n / 4)), 0}, got;
        ac_philox4x32(counter, seed, word);
        got = strcmp(k->device, "cpu") == 0 ? ac_mt_next(&mt) : word[i / (n / 4)];
        if ((double)got != want[i])
            fail_msg("%s[%zu] is %u, expected %.0f", name, i, got, want[i]);
    }
}

/* All "<prefix>.sequence.<i>" in order, on one generator. */
static void check_sequence(const ac_st *st, const char *name, ac_rng *rng, double tol)
{
    char next[128];
    int prefix = (int)(strrchr(name, '.') - name);

    for (int i = 0;; i++) {
        double *want;
        float *got;
        size_t n;
        snprintf(next, sizeof next, "%.*s.%d", prefix, name, i);
        if (!ac_st_find(st, next))
            break;
        want = fixture_f64(st, next, &n);
        got = calloc(n, sizeof *got);
        ac_rng_randn(rng, got, n);
        check(next, got, want, n, tol);
        free(want);
        free(got);
    }
}

static void check_key(const ac_st *st, const char *name)
{
    key k;
    size_t n;
    ac_rng rng;
    double *want = fixture_f64(st, name, &n), tol;
    float *got = calloc(n, sizeof *got);
    bool cpu;

    if (!split(name, &k))
        fail_msg("unknown key %s", name);
    cpu = strcmp(k.device, "cpu") == 0;
    tol = cpu ? CPU_TOL : CUDA_TOL;
    ac_rng_init(&rng, cpu ? AC_RNG_CPU : AC_RNG_CUDA, k.seed);
    if (strcmp(k.what, "mt19937") == 0 || strcmp(k.what, "words") == 0) {
        check_words(name, &k, want, n);
    } else if (strcmp(k.what, "randn") == 0) {
        ac_rng_randn(&rng, got, n);
        check(name, got, want, n, tol);
    } else if (strcmp(k.what, "rand") == 0) {
        ac_rng_rand(&rng, got, n);
        check(name, got, want, n, 0);
    } else if (strcmp(k.what, "sequence") == 0) {
        if (k.arg == 0)
            check_sequence(st, name, &rng, tol);
    } else {
        fail_msg("unknown key %s", name);
    }
    free(want);
    free(got);
}

static void torch_streams(void **state)
{
    char path[4096];
    ac_st *st;

    (void)state;
    if (!fixture_path(path, sizeof path, "rng/io.safetensors"))
        skip();
    st = fixture_open("rng/io.safetensors");
    assert_true(ac_st_count(st) > 0);
    for (size_t i = 0; i < ac_st_count(st); i++)
        check_key(st, ac_st_at(st, i)->name);
    ac_st_close(st);
}

/* Known answers that Random123 publishes for Philox4x32-10. */
static void philox_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof kat / sizeof kat[0]; i++) {
        uint32_t out[4];
        ac_philox4x32(kat[i].counter, kat[i].key, out);
        assert_memory_equal(out, kat[i].out, sizeof out);
    }
}

/* The 10000th output of MT19937 seeded with 5489 is fixed by the C++ standard. */
static void mt19937_known_answer(void **state)
{
    ac_mt mt;
    uint32_t last = 0;

    (void)state;
    ac_mt_seed(&mt, 5489);
    for (int i = 0; i < 10000; i++)
        last = ac_mt_next(&mt);
    assert_int_equal(last, 4123659995u);
}

/* Uniforms stay in [0,1) and normals have the moments of N(0,1), on both devices. */
static void distributions(void **state)
{
    enum { N = 1 << 16 };
    float *x = malloc(N * sizeof *x);

    (void)state;
    for (int kind = AC_RNG_CPU; kind <= AC_RNG_CUDA; kind++) {
        ac_rng rng;
        double mean = 0, square = 0, uniform = 0;
        ac_rng_init(&rng, (ac_rng_kind)kind, 7);
        ac_rng_randn(&rng, x, N);
        for (int i = 0; i < N; i++) {
            mean += (double)x[i] / N;
            square += (double)x[i] * (double)x[i] / N;
        }
        assert_true(fabs(mean) < 0.02 && fabs(square - 1) < 0.03);
        ac_rng_rand(&rng, x, N);
        for (int i = 0; i < N; i++) {
            assert_true(x[i] >= 0 && x[i] < 1);
            uniform += (double)x[i] / N;
        }
        assert_true(fabs(uniform - 0.5) < 0.01);
    }
    free(x);
}

static void mix(void **state)
{
    uint64_t seed = 0;
    float x[1000];
    double sum = 0;

    (void)state;
    assert_true(ac_mix(&seed) == UINT64_C(0xe220a8397b1dcdaf)); /* first output of SplitMix64 seeded with 0 */
    ac_mix_fill(&seed, x, 1000);
    for (int i = 0; i < 1000; i++) {
        assert_true(x[i] >= -1 && x[i] < 1);
        sum += (double)x[i];
    }
    assert_true(fabs(sum) < 60); /* 3 deviations of 1000 uniforms */
}

static void empty_request(void **state)
{
    (void)state;
    for (int kind = AC_RNG_CPU; kind <= AC_RNG_CUDA; kind++) {
        ac_rng rng;
        ac_rng_init(&rng, (ac_rng_kind)kind, 1);
        ac_rng_randn(&rng, NULL, 0);
        ac_rng_rand(&rng, NULL, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torch_streams),
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(mt19937_known_answer),
        cmocka_unit_test(distributions),
        cmocka_unit_test(mix),
        cmocka_unit_test(empty_request),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
