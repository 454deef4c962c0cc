/* t_ini.c - INI files, good and hostile; what a misspelt word was meant to be. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/guess.h"
#include "base/rng.h"
#include "io/ini.h"

/* ------------------------------------------------------------------------------------------------- INI files */

/* Parses `n` bytes as file "f.ini", expecting the error `message`. */
static void bad_ini_n(const char *text, size_t n, const char *message)
{
    ac_diag dg = {0};
    ac_ini *ini = NULL;
    char *copy = malloc(n + 1); /* exactly as long as it has to be: a reader beyond it is seen by a sanitizer */

    assert_non_null(copy);
    memcpy(copy, text, n);
    copy[n] = '\0';
    assert_int_equal(ac_ini_parse("f.ini", copy, n, &dg, &ini), ADDCL_E_ARG);
    assert_null(ini);
    assert_string_equal(dg.msg, message);
    free(copy);
}

static void bad_ini(const char *text, const char *message)
{
    bad_ini_n(text, strlen(text), message);
}

static ac_ini *good_ini(const char *text)
{
    ac_diag dg = {0};
    ac_ini *ini = NULL;

    if (ac_ini_parse("f.ini", text, strlen(text), &dg, &ini) < 0)
        fail_msg("%s", dg.msg);
    return ini;
}

static void assert_entry(const ac_ini *ini, size_t i, const char *section, const char *key, const char *value, int line)
{
    assert_true(i < ini->entry.n);
    assert_string_equal(ini->entry.p[i].section, section);
    assert_string_equal(ini->entry.p[i].key, key);
    assert_string_equal(ini->entry.p[i].value, value);
    assert_int_equal(ini->entry.p[i].line, line);
}

static void test_ini(void **state)
{
    ac_ini *ini = good_ini("\xef\xbb\xbf# comment ; with = and [\r\n"
                           "\n"
                           "[a]   ; comment\r\n"
                           "  key\t= two words\t ; comment\r\n"
                           "path=/x;y#z:=\n"
                           "empty =\n"
                           "none = ; comment\n"
                           "\t[b] # comment\n"
                           "   ; indented comment\n"
                           "\tkey = last line");

    (void)state;
    assert_int_equal(ini->entry.n, 7);
    assert_entry(ini, 0, "a", "", "", 3);
    assert_entry(ini, 1, "a", "key", "two words", 4);
    assert_entry(ini, 2, "a", "path", "/x;y#z:=", 5);
    assert_entry(ini, 3, "a", "empty", "", 6);
    assert_entry(ini, 4, "a", "none", "", 7);
    assert_entry(ini, 5, "b", "", "", 8);
    assert_entry(ini, 6, "b", "key", "last line", 10);
    ac_ini_free(ini);
    ini = good_ini("");
    assert_int_equal(ini->entry.n, 0);
    ac_ini_free(ini);
    ac_ini_free(NULL);
}

static void test_ini_syntax(void **state)
{
    (void)state;
    bad_ini("[a]\nx\n", "f.ini:2: neither [section] nor key = value");
    bad_ini("[a]\nx = 1\n  continued\n", "f.ini:3: neither [section] nor key = value");
    bad_ini("[a]\nx: 1\n", "f.ini:2: neither [section] nor key = value");
    bad_ini("[a]\nx ; = 1\n", "f.ini:2: neither [section] nor key = value");
    bad_ini("[a]\n= 1\n", "f.ini:2: nothing before the '='");
    bad_ini("x = 1\n[a]\n", "f.ini:1: 'x' stands before any [section]");
    bad_ini("[a\nx = 1\n", "f.ini:1: a '[' without its ']'");
    bad_ini("[]\n", "f.ini:1: a section's name has 1 to 48 bytes, none of them ';'");
    bad_ini("[a ;]\n", "f.ini:1: a section's name has 1 to 48 bytes, none of them ';'");
    bad_ini("[a] x = 1\n", "f.ini:1: text behind the ']'");
    bad_ini("[a]\nx = 1\ny = 2\nx = 1\n", "f.ini:4: [a] x stands in line 2 already");
    bad_ini("[a]\n[b]\n\n[a]\n", "f.ini:4: [a] stands in line 1 already");
    bad_ini("[a]\nx = 1 # one\n", "f.ini:2: a blank and '#' or ';' in the value: text behind a value is a comment "
                                  "only after ' ;'");
    /* The first of several errors is told. */
    bad_ini("[a]\n\nx\n[\ny = 1\ny = 2\n", "f.ini:3: neither [section] nor key = value");
}

static void test_ini_long_lines(void **state)
{
    char text[1024], message[256], value[256];
    ac_ini *ini;

    (void)state;
    for (int n = 180; n <= 260; n++) { /* around everything that libinih does silently */
        snprintf(text, sizeof text, "[a]\n%*s\nx = %0*d\n", 300, "", n - 4, 0);
        if (n <= AC_INI_LINE) {
            ini = good_ini(text);
            snprintf(value, sizeof value, "%0*d", n - 4, 0);
            assert_entry(ini, 1, "a", "x", value, 3);
            ac_ini_free(ini);
        } else {
            snprintf(message, sizeof message, "f.ini:3: a line of %d bytes; at most 192 are allowed", n);
            bad_ini(text, message);
        }
    }
    for (int n = 40; n <= 60; n++) {
        snprintf(text, sizeof text, "[a]\n%0*d = 1\n", n, 0);
        if (n <= AC_INI_NAME)
            ac_ini_free(good_ini(text));
        else
            bad_ini(text, "f.ini:2: a name longer than 48 bytes");
        snprintf(text, sizeof text, "[%0*d]\nx = 1\n", n, 0);
        if (n <= AC_INI_NAME)
            ac_ini_free(good_ini(text));
        else
            bad_ini(text, "f.ini:1: a section's name has 1 to 48 bytes, none of them ';'");
    }
    snprintf(text, sizeof text, "# %0*d\n[a]\n", 900, 0); /* comments may be long */
    ac_ini_free(good_ini(text));
}

static void test_ini_hostile(void **state)
{
    size_t n = 1 << 20;
    char *big = malloc(n + 1);
    ac_diag dg = {0};
    ac_ini *ini = NULL;
    ac_str s = {0};

    (void)state;
    assert_non_null(big);
    bad_ini_n("[a]\nx = 1\0002\n", 12, "f.ini:2: byte 6 is the control character 0x00: no INI file?");
    bad_ini_n("[a]\n\0", 5, "f.ini:2: byte 1 is the control character 0x00: no INI file?");
    bad_ini("[a]\nx = \033[2J\n", "f.ini:2: byte 5 is the control character 0x1b: no INI file?");
    bad_ini("[a]\rx = 1\r", "f.ini:1: byte 4 is the control character 0x0d: no INI file?");
    bad_ini_n("\xff\xfe[\0a\0", 6, "f.ini:1: a file in UTF-16; save it as UTF-8");
    bad_ini("\x7f"
            "ELF\x02\x01\x01",
            "f.ini:1: byte 1 is the control character 0x7f: no INI file?");
    memset(big, 'x', n);
    bad_ini_n(big, n, "f.ini:1: a line of 1048576 bytes; at most 192 are allowed");
    memset(big, '\n', n);
    big[n - 1] = 'x';
    bad_ini_n(big, n, "f.ini:1048576: neither [section] nor key = value");
    ac_str_add(&s, "[a]\n");
    for (int i = 0; i < AC_INI_ENTRIES; i++)
        ac_str_addf(&s, "k%d =\n", i);
    bad_ini(s.p, "f.ini:1001: more than 1000 keys and sections");
    ac_str_free(&s);
    memset(big, '#', n);
    big[n] = '\n';
    assert_int_equal(ac_ini_read(temp_write("big.ini", big, n + 1), &dg, &ini), ADDCL_E_FORMAT);
    assert_null(ini);
    ac_clear(&dg);
    assert_int_equal(ac_ini_read(temp_path("nowhere.ini"), &dg, &ini), ADDCL_E_IO);
    ac_clear(&dg);
    assert_int_equal(ac_ini_read(temp_path("."), &dg, &ini), ADDCL_E_IO);
    free(big);
}

/* Random bytes from an alphabet that means much to the parser never crash it, and what it takes survives being written
 * and read again. */
static void test_ini_random(void **state)
{
    static const char alphabet[] = "[]=;#: \t\n\r\nab\n[a]\nx=";
    uint32_t seed = 1;
    char text[64];
    int taken = 0;

    (void)state;
    for (int round = 0; round < 20000; round++) {
        ac_diag dg = {0};
        ac_ini *ini = NULL;
        size_t n = 1 + round % (sizeof text - 1);
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            text[i] = i == 0   ? '['
                      : i == 1 ? 'a'
                      : i == 2 ? ']'
                      : i == 3 ? '\n'
                               : alphabet[(seed >> 16) % (sizeof alphabet - 1)];
        }
        text[n] = '\0';
        if (ac_ini_parse("f.ini", text, n, &dg, &ini) == 0)
            for (size_t i = 0; i < ini->entry.n; i++, taken++)
                assert_null(ac_ini_unwritable(ini->entry.p[i].key, ini->entry.p[i].value));
        else
            assert_true(dg.code == ADDCL_E_ARG && strncmp(dg.msg, "f.ini:", 6) == 0);
        ac_ini_free(ini);
    }
    assert_true(taken > 1000);
}

/* --------------------------------------------------------------------------------------------------- guesses */

static const char *guessed(const char *word)
{
    static const char *const words[] = {"seed", "device", "output_dir"};
    ac_guess g = ac_guess_for(word);

    for (size_t i = 0; i < AC_LEN(words); i++)
        ac_guess_try(&g, words[i], strlen(words[i]));
    return g.found ? g.found : "";
}

static void test_guess(void **state)
{
    char word[64];

    (void)state;
    assert_string_equal(guessed("seed"), "seed");
    assert_string_equal(guessed("sed"), "seed");
    assert_string_equal(guessed("outputdir"), "output_dir");
    assert_string_equal(guessed("divice"), "device");
    assert_string_equal(guessed("tokenizer"), "");
    memset(word, 'x', sizeof word);
    word[63] = '\0';
    assert_string_equal(guessed(word), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ini),         cmocka_unit_test(test_ini_syntax), cmocka_unit_test(test_ini_long_lines),
                                       cmocka_unit_test(test_ini_hostile), cmocka_unit_test(test_ini_random), cmocka_unit_test(test_guess)};

    return cmocka_run_group_tests_name("ini", tests, NULL, NULL);
}
