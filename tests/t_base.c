/* t_base.c - errors, memory, strings, storage types, SHA-256. */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/half.h"
#include "base/sha256.h"

/* ------------------------------------------------------------------------------------------------ errors */

static void test_first_message_wins(void **state)
{
    ac_diag dg = {0};

    (void)state;
    assert_int_equal(ac_fail(&dg, ADDCL_E_IO, "cannot open '%s'", "a"), ADDCL_E_IO);
    assert_int_equal(ac_fail(&dg, ADDCL_E_ARG, "later"), ADDCL_E_ARG);
    assert_int_equal(dg.code, ADDCL_E_IO);
    assert_string_equal(dg.msg, "cannot open 'a'");
    assert_int_equal(ac_context(&dg, "model %d", 7), ADDCL_E_IO);
    assert_string_equal(dg.msg, "model 7: cannot open 'a'");
    ac_clear(&dg);
    assert_int_equal(ac_context(&dg, "no error"), 0);
    assert_string_equal(dg.msg, "");
    assert_int_equal(ac_fail(NULL, ADDCL_E_ARG, "nobody listens"), ADDCL_E_ARG);
    assert_int_equal(ac_context(NULL, "x"), 0);
}

static void test_long_message(void **state)
{
    char text[3 * AC_MSG_MAX];
    ac_diag dg = {0};

    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    ac_fail(&dg, ADDCL_E_IO, "%s", text);
    assert_int_equal(strlen(dg.msg), AC_MSG_MAX - 1);
    ac_context(&dg, "%s", "file");
    assert_memory_equal(dg.msg, "file: xxx", 9);
    assert_int_equal(strlen(dg.msg), AC_MSG_MAX - 1);
    for (int i = 0; i < 4; i++)
        ac_context(&dg, "%s", text);
    assert_int_equal(strlen(dg.msg), AC_MSG_MAX - 1);
}

static void keep_note(void *user, int level, const char *s)
{
    assert_int_equal(level, ADDCL_LOG_WARN);
    strcpy(user, s);
}

static void test_note(void **state)
{
    char line[AC_MSG_MAX] = "";
    ac_diag dg = {.note = keep_note, .user = line};

    (void)state;
    ac_note(&dg, ADDCL_LOG_WARN, "%d tensors", 3);
    assert_string_equal(line, "3 tensors");
    assert_int_equal(dg.code, 0);
    dg.note = NULL;
    ac_note(&dg, ADDCL_LOG_WARN, "unheard");
    ac_note(NULL, ADDCL_LOG_WARN, "unheard");
    assert_string_equal(line, "3 tensors");
}

/* ------------------------------------------------------------------------------------------------ memory */

static void test_checked_sizes(void **state)
{
    size_t n;

    (void)state;
    assert_true(ac_mul_size(6, 7, &n) && n == 42);
    assert_true(ac_mul_size(SIZE_MAX, 0, &n) && n == 0);
    assert_true(ac_mul_size(SIZE_MAX, 1, &n) && n == SIZE_MAX);
    assert_false(ac_mul_size(SIZE_MAX / 2 + 1, 2, &n));
    assert_false(ac_mul_size(SIZE_MAX, SIZE_MAX, &n));
    assert_true(ac_add_size(SIZE_MAX - 1, 1, &n) && n == SIZE_MAX);
    assert_false(ac_add_size(SIZE_MAX, 1, &n));
}

static void test_alloc(void **state)
{
    char *p;
    ac_diag dg = {0};

    (void)state;
    assert_null(ac_calloc(SIZE_MAX / 2 + 1, 2));
    p = ac_calloc(0, 8);
    assert_non_null(p);
    assert_null(ac_realloc(p, SIZE_MAX, 2));
    free(p);
    p = ac_calloc(3, 5);
    for (int i = 0; i < 15; i++)
        assert_int_equal(p[i], 0);
    free(p);
    p = ac_strndup("abcdef", 3);
    assert_string_equal(p, "abc");
    free(p);
    p = ac_printf("%d/%s", 7, "x");
    assert_string_equal(p, "7/x");
    free(p);
    assert_int_equal(ac_nomem(&dg, 10), ADDCL_E_NOMEM);
    assert_non_null(strstr(dg.msg, "10 bytes"));
}

static void test_alloc_fail_at(void **state)
{
    void *p[3];

    (void)state;
    ac_alloc_fail_at(2);
    for (int i = 0; i < 3; i++)
        p[i] = ac_calloc(1, 1);
    assert_int_equal(ac_alloc_fail_at(0), 3);
    assert_true(p[0] && !p[1] && p[2]);
    free(p[0]);
    free(p[2]);
}

static void test_vec(void **state)
{
    AC_VEC(int) v = {0};

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_true(AC_PUSH(&v, i));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(v.p[i], i);
    assert_true(AC_RESERVE(&v, 5000));
    assert_true(v.n == 1000 && v.cap >= 5000);
    v.n = v.cap;
    ac_alloc_fail_at(1);
    assert_false(AC_PUSH(&v, 7));
    ac_alloc_fail_at(0);
    assert_true(v.n == v.cap && v.p[999] == 999);
    free(v.p);
}

static void test_str(void **state)
{
    ac_str s = {0};

    (void)state;
    ac_str_add(&s, "");
    assert_string_equal(s.p, "");
    ac_str_add(&s, "ab");
    ac_str_addn(&s, "cdef", 2);
    ac_str_addf(&s, "%03d", 7);
    assert_string_equal(s.p, "abcd007");
    assert_int_equal(s.n, 7);
    for (int i = 0; i < 1000; i++)
        ac_str_addf(&s, "%d,", i);
    assert_int_equal(strlen(s.p), s.n);
    assert_string_equal(s.p + s.n - 8, "998,999,");
    ac_str_free(&s);
    assert_null(s.p);

    ac_str_add(&s, "kept");
    ac_alloc_fail_at(1);
    ac_str_addf(&s, "%100s", "lost");
    ac_alloc_fail_at(0);
    ac_str_add(&s, "!");
    assert_true(s.failed);
    assert_string_equal(s.p, "kept");
    ac_str_free(&s);
    assert_false(s.failed);
}

/* ------------------------------------------------------------------------------------------------ storage types */

/* Value of a binary format by its definition (IEEE 754-2019, 3.4): `man` bits of fraction, exponents biased by `bias`.
 */
static double defined(unsigned bits, int man, int bias)
{
    int exp = (int)(bits & 0x7fff) >> man, top = (0x7fff >> man);
    double fraction = (bits & ((1u << man) - 1)) / (double)(1u << man), x;

    if (exp == top)
        x = fraction > 0 ? NAN : INFINITY;
    else
        x = exp ? ldexp(1 + fraction, exp - bias) : ldexp(fraction, 1 - bias);
    return bits & 0x8000 ? -x : x;
}

/* All 65,536 patterns: the value, and back to the same bits; a NaN stays one. */
static void every_pattern(float (*widen)(uint16_t), uint16_t (*narrow)(float), int man, int bias)
{
    for (unsigned h = 0; h < 65536; h++) {
        double want = defined(h, man, bias);
        float got = widen((uint16_t)h);

        assert_true(isnan(want) ? isnan(got) : (double)got == want && !signbit(want) == !signbit(got));
        if (isnan(want))
            assert_true(isnan(defined(narrow(got), man, bias)));
        else
            assert_int_equal(narrow(got), h);
    }
}

/* Between neighbours h and h + 1: the midpoint rounds to the even one, a float below to h, a float above to h + 1. The
 * largest number's upper neighbour is what the exponent would allow; it overflows to infinity, whose pattern is next.
 */
static void every_midpoint(uint16_t (*narrow)(float), int man, int bias)
{
    unsigned infinity = 0x7fff >> man << man;

    for (unsigned h = 0; h < infinity; h++) {
        double low = defined(h, man, bias);
        double step = h + 1 == infinity ? low - defined(h - 1, man, bias) : defined(h + 1, man, bias) - low;
        float mid = (float)(low + step / 2);

        if ((double)mid != low + step / 2) /* below float's smallest number */
            continue;
        for (unsigned sign = 0; sign < 2; sign++) {
            float s = sign ? -1.f : 1.f;
            assert_int_equal(narrow(s * mid), (h + (h & 1)) | sign << 15);
            assert_int_equal(narrow(s * nextafterf(mid, 0)), h | sign << 15);
            assert_int_equal(narrow(s * nextafterf(mid, INFINITY)), (h + 1) | sign << 15);
        }
    }
    assert_int_equal(narrow(INFINITY), infinity);
    assert_int_equal(narrow(-INFINITY), infinity | 0x8000);
}

static void test_half(void **state)
{
    (void)state;
    every_pattern(ac_half_to_float, ac_float_to_half, 10, 15);
    every_midpoint(ac_float_to_half, 10, 15);
    assert_int_equal(ac_float_to_half(65504), 0x7bff);
    assert_int_equal(ac_float_to_half(1e38f), 0x7c00);
    assert_int_equal(ac_float_to_half(1e-45f), 0);
    assert_int_equal(ac_float_to_half(-1e-45f), 0x8000);
}

static void test_bf16(void **state)
{
    (void)state;
    every_pattern(ac_bf16_to_float, ac_float_to_bf16, 7, 127);
    every_midpoint(ac_float_to_bf16, 7, 127);
    assert_int_equal(ac_float_to_bf16(1), 0x3f80);
}

/* A NaN whose payload lies only in the bits that are cut off must not become infinity. */
static void test_nan_payload(void **state)
{
    const uint32_t bits = 0x7f800001;
    float x;

    (void)state;
    memcpy(&x, &bits, sizeof x);
    assert_true(isnan(ac_half_to_float(ac_float_to_half(x))));
    assert_true(isnan(ac_bf16_to_float(ac_float_to_bf16(x))));
}

static void test_arrays(void **state)
{
    const float x[] = {0, -1.5f, 65504, 0.1f};
    const size_t n = AC_LEN(x);
    float y[AC_LEN(x)];
    uint16_t h[AC_LEN(x)];

    (void)state;
    ac_from_float(y, AC_F32, x, n);
    assert_memory_equal(y, x, sizeof x);
    ac_to_float(y, x, AC_F32, n);
    assert_memory_equal(y, x, sizeof x);
    ac_from_float(h, AC_F16, x, n);
    ac_to_float(y, h, AC_F16, n);
    for (size_t i = 0; i < n; i++)
        assert_true(h[i] == ac_float_to_half(x[i]) && y[i] == ac_half_to_float(h[i]));
    ac_from_float(h, AC_BF16, x, n);
    ac_to_float(y, h, AC_BF16, n);
    for (size_t i = 0; i < n; i++)
        assert_true(h[i] == ac_float_to_bf16(x[i]) && y[i] == ac_bf16_to_float(h[i]));
    assert_int_equal(ac_type_size(AC_F32) + ac_type_size(AC_I32), 8);
    assert_int_equal(ac_type_size(AC_F16) + ac_type_size(AC_BF16), 4);
    assert_string_equal(ac_type_name(AC_BF16), "bf16");
}

/* ------------------------------------------------------------------------------------------------ SHA-256 */

/* The examples of NIST for FIPS 180-4, and the lengths around a block. */
static void test_sha256(void **state)
{
    static const struct {
        const char *text, *hex;
    } c[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqr"
         "stu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
    };
    char hex[65];

    (void)state;
    for (size_t i = 0; i < AC_LEN(c); i++) {
        ac_sha256_hex(c[i].text, strlen(c[i].text), hex);
        assert_string_equal(hex, c[i].hex);
    }
}

/* A million "a", and any cutting of the input gives the digest of the whole. */
static void test_sha256_stream(void **state)
{
    static char text[1000];
    uint8_t digest[32];
    char whole[65], hex[65];
    ac_sha256 s;

    (void)state;
    memset(text, 'a', sizeof text);
    ac_sha256_init(&s);
    for (int i = 0; i < 1000; i++)
        ac_sha256_update(&s, text, sizeof text);
    ac_sha256_final(&s, digest);
    ac_sha256_text(digest, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");

    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(i * 7);
    for (size_t n = 0; n < 200; n++) {
        ac_sha256_hex(text, n, whole);
        for (size_t cut = 0; cut <= n; cut++) {
            ac_sha256_init(&s);
            ac_sha256_update(&s, text, cut);
            ac_sha256_update(&s, text + cut, n - cut);
            ac_sha256_final(&s, digest);
            ac_sha256_text(digest, hex);
            assert_string_equal(hex, whole);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_message_wins),
        cmocka_unit_test(test_long_message),
        cmocka_unit_test(test_note),
        cmocka_unit_test(test_checked_sizes),
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_alloc_fail_at),
        cmocka_unit_test(test_vec),
        cmocka_unit_test(test_str),
        cmocka_unit_test(test_half),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_nan_payload),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_sha256_stream),
    };

    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
