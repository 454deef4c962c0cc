/* t_bpe.c - the tokenizer against transformers' ids, hostile vocabularies and prompts, failing memory. */
#include "support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include "io/bpe.h"

#define MAX_IDS 77

/* CPU time that 64 KiB of prompt may take; sanitizers and valgrind are allowed more. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define PROMPT_MS 200.0
#else
#define PROMPT_MS 10.0
#endif

typedef struct encoded {
    int32_t ids[MAX_IDS];
    int n;
    size_t kept;
} encoded;

static ac_bpe *open_dir(const char *dir)
{
    ac_diag dg = {0};
    ac_bpe *b = NULL;

    if (ac_bpe_open(dir, &dg, &b) != 0)
        fail_msg("%s", dg.msg);
    return b;
}

/* The fixture's vocabulary; skips the test when it is not there. */
static ac_bpe *open_clip(void)
{
    char path[4096];

    if (!fixture_path(path, sizeof path, "tokenizer/vocab.json"))
        skip();
    *strrchr(path, '/') = '\0';
    return open_dir(path);
}

static encoded encode_max(const ac_bpe *b, const char *text, int max)
{
    ac_diag dg = {0};
    encoded e = {0};

    if (ac_bpe_encode(b, text, max, e.ids, &e.n, &e.kept, &dg) != 0)
        fail_msg("%s", dg.msg);
    assert_in_range(e.n, 2, max);
    assert_int_equal(e.ids[0], ac_bpe_bos(b));
    assert_int_equal(e.ids[e.n - 1], ac_bpe_eos(b));
    assert_true(e.kept <= strlen(text));
    return e;
}

static encoded encode(const ac_bpe *b, const char *text)
{
    return encode_max(b, text, MAX_IDS);
}

/* The ids between bos and eos are those of `want`, numbers with one space between. */
static void check_text(const ac_bpe *b, const char *text, const char *want)
{
    encoded e = encode(b, text);
    ac_str got = {0};

    ac_str_add(&got, "");
    for (int i = 1; i < e.n - 1; i++)
        ac_str_addf(&got, i > 1 ? " %d" : "%d", e.ids[i]);
    if (strcmp(got.p, want) != 0)
        fail_msg("'%s': ids %s, expected %s", text, got.p, want);
    ac_str_free(&got);
}

/* ----------------------------------------------------------------------------------------------- known prompts */

static void check_ids(const json_t *prompt, const char *key, const int32_t *ids, int n)
{
    const json_t *want = json_object_get(prompt, key);

    if (json_array_size(want) != (size_t)n)
        fail_msg("%s of '%s': %d ids, expected %zu", key, json_string_value(json_object_get(prompt, "text")), n,
                 json_array_size(want));
    for (int i = 0; i < n; i++)
        if (json_integer_value(json_array_get(want, (size_t)i)) != ids[i])
            fail_msg("%s of '%s': id %d is %d, expected %lld", key, json_string_value(json_object_get(prompt, "text")),
                     i, ids[i], (long long)json_integer_value(json_array_get(want, (size_t)i)));
}

static void test_fixture_prompts(void **state)
{
    char path[4096];
    ac_bpe *b = open_clip();
    json_t *all, *prompt;
    size_t i;

    (void)state;
    assert_true(fixture_path(path, sizeof path, "tokenizer/prompts.json"));
    all = json_load_file(path, 0, NULL);
    assert_true(json_array_size(all) > 0);
    json_array_foreach(all, i, prompt)
    {
        encoded e = encode(b, json_string_value(json_object_get(prompt, "text")));
        check_ids(prompt, "ids", e.ids, e.n);
        ac_bpe_fill(e.ids, e.n, MAX_IDS, ac_bpe_pad(b));
        check_ids(prompt, "ids_padded_sd1", e.ids, MAX_IDS);
        ac_bpe_fill(e.ids, e.n, MAX_IDS, 0);
        check_ids(prompt, "ids_padded_sd2", e.ids, MAX_IDS);
    }
    json_decref(all);
    ac_bpe_close(b);
}

/* Ids that others published. */
static void test_published_vectors(void **state)
{
    static const char *const vector[][2] = {
        {"a diagram", "320 22697"},
        {"a dog", "320 1929"},
        {"a cat", "320 2368"},
        {"hello world!", "3306 1002 256"},
        {"this is a test string of text", "589 533 320 1628 9696 539 4160"},
        {"A painting of a squirrel eating a burger", "320 3086 539 320 14004 4371 320 6548"},
        {"Hello, World! It's 2024... don't", "3306 267 1002 256 585 568 273 271 273 275 678 847 713"},
        {"1234567890", "272 273 274 275 276 277 278 279 280 271"},
        {"supercalifragilisticexpialidocious", "1642 2857 13093 2076 5868 26850 835 639 38466"},
        {"!", "256"},
        {"!!", "748"},
        {"!!!", "995"},
        {"", ""},
        {" \t\n\xe3\x80\x80", ""},
        {"<|endoftext|>", "49407"},
        {"a<|StartOfText|>cat", "320 49406 2368"},
    };
    ac_bpe *b = open_clip();

    (void)state;
    for (size_t i = 0; i < AC_LEN(vector); i++)
        check_text(b, vector[i][0], vector[i][1]);
    assert_int_equal(ac_bpe_bos(b), 49406);
    assert_int_equal(ac_bpe_eos(b), 49407);
    assert_int_equal(ac_bpe_vocab_size(b), 49408);
    ac_bpe_close(b);
}

/* Row `row` of the reference's [prompts, 77] ids of a trained model. */
static void check_reference(const ac_bpe *b, const ac_st *st, const char *prompt, size_t row)
{
    size_t n;
    double *want = fixture_f64(st, "tokenizer.input_ids", &n);
    encoded e = encode(b, prompt);

    assert_true((row + 1) * MAX_IDS <= n);
    ac_bpe_fill(e.ids, e.n, MAX_IDS, ac_bpe_pad(b));
    for (size_t i = 0; i < MAX_IDS; i++)
        assert_int_equal(e.ids[i], (int)want[row * MAX_IDS + i]);
    free(want);
}

static void test_emoji_teacher(void **state)
{
    char path[4096];
    ac_diag dg = {0};
    ac_st *st = NULL;
    json_t *doc, *prompt;
    ac_bpe *b;
    size_t i;

    (void)state;
    if (!fixture_path(path, sizeof path, "../models/emoji-teacher/tokenizer"))
        skip();
    b = open_dir(path);
    assert_true(fixture_path(path, sizeof path, "../models/emoji-teacher/reference/reference.safetensors"));
    assert_int_equal(ac_st_open(path, &dg, &st), 0);
    assert_true(fixture_path(path, sizeof path, "../models/emoji-teacher/reference/reference.json"));
    doc = json_load_file(path, 0, NULL);
    assert_true(json_array_size(json_object_get(doc, "prompts")) > 0);
    json_array_foreach(json_object_get(doc, "prompts"), i, prompt) check_reference(b, st, json_string_value(prompt), i);
    json_decref(doc);
    ac_st_close(st);
    ac_bpe_close(b);
}

/* ------------------------------------------------------------------------------------------------ long prompts */

/* `count` copies of `unit` in new memory. */
static char *repeat(const char *unit, size_t count)
{
    ac_str s = {0};

    while (count--)
        ac_str_add(&s, unit);
    assert_false(s.failed);
    return s.p;
}

static void test_truncation(void **state)
{
    static const struct {
        const char *text;
        int max;
        const char *dropped;
    } cases[] = {
        {"a cat", 4, ""},
        {"a cat  ", 4, ""},
        {"a cat a dog", 4, "a dog"},
        {" a\xe3\x80\x80 cat, a dog", 4, ", a dog"},
        {"a cat", 2, "a cat"},
        {"cat<|endoftext|>dog", 3, "<|endoftext|>dog"},
        {"cat<|endoftext|>dog", 4, "dog"},
        {"cat<|STARTOFTEXT|>dog", 3, "<|STARTOFTEXT|>dog"},
        {"A\xcc\x8a\xcc\xa3 caf\x65\xcc\x81 dog", 7, "caf\x65\xcc\x81 dog"}, /* composed, with marks to be ordered */
        {"e\xcc\x81!cat", 4, "cat"},
        {"\xc4\xb0 cat", 3, "\xc4\xb0 cat"}, /* one letter, two tokens */
        {"supercalifragilisticexpialidocious", 5, "ilisticexpialidocious"},
        {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8 dog dog", 5, "dog"}, /* three jamo compose to one syllable */
    };
    ac_bpe *b = open_clip();
    char *many = repeat("cat ", 200);

    (void)state;
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        encoded e = encode_max(b, cases[i].text, cases[i].max);
        assert_string_equal(cases[i].text + e.kept, cases[i].dropped);
    }
    assert_int_equal(encode(b, many).n, MAX_IDS);
    assert_int_equal(encode(b, many).kept, 75 * 4);
    free(many);
    ac_bpe_close(b);
}

static void test_too_little_room(void **state)
{
    ac_bpe *b = open_clip();
    ac_diag dg = {0};
    encoded e;

    (void)state;
    assert_int_equal(ac_bpe_encode(b, "a", 1, e.ids, &e.n, &e.kept, &dg), ADDCL_E_ARG);
    assert_string_not_equal(dg.msg, "");
    ac_bpe_close(b);
}

/* Every byte that is no UTF-8 is one U+FFFD: the ids of the repaired text. */
static void test_broken_utf8(void **state)
{
    static const char *const pair[][2] = {
        {"a\xff b", "a\xef\xbf\xbd b"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"cat\xc3", "cat\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    };
    ac_bpe *b = open_clip();

    (void)state;
    for (size_t i = 0; i < AC_LEN(pair); i++) {
        encoded x = encode(b, pair[i][0]), y = encode(b, pair[i][1]);
        assert_int_equal(x.n, y.n);
        assert_memory_equal(x.ids, y.ids, sizeof x.ids);
        assert_int_equal(x.kept, strlen(pair[i][0]));
    }
    ac_bpe_close(b);
}

static double cpu_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* 64 KiB of the worst that each stage can meet, in one word and in many. */
static void test_time(void **state)
{
    static const char *const unit[] = {
        "a",
        "!",
        "a cat ",
        "etaoinshrdlu",
        " ",
        "1",
        "\xff",
        "<|endoftext|>",
        "<|startoftex",
        "<|endoftex",
        "\xcc\x96\xcc\x81", /* marks in the wrong order */
        "\xcc\x81\xcc\x96",
        "\xe1\xbe\x82",             /* decomposes to four code points */
        "\xf0\x9f\x98\x82",         /* CLIP has tokens of eight of these */
        "\xe1\x84\x80\xe1\x85\xa1", /* jamo */
        "\xe4\xb8\x80",             /* CJK: a word of letters */
    };
    ac_bpe *b = open_clip();

    (void)state;
    for (size_t i = 0; i < AC_LEN(unit); i++) {
        char *text = repeat(unit[i], 65536 / strlen(unit[i]));
        double best = 1e9;
        for (int k = 0; k < 3; k++) {
            double t = cpu_ms();
            encode(b, text);
            t = cpu_ms() - t;
            best = AC_MIN(best, t);
        }
        if (best > PROMPT_MS)
            fail_msg("64 KiB of '%s': %.1f ms, expected at most %.1f", unit[i], best, PROMPT_MS);
        free(text);
    }
    ac_bpe_close(b);
}

/* --------------------------------------------------------------------------------------------- own vocabularies */

#define TINY_IDS                                                                                                       \
    "\"l\":0,\"o\":1,\"w\":2,\"e\":3,\"r\":4,\"s\":5,\"t\":6,\"i\":7,\"d\":8,\"n\":9,\"lo\":10,\"l</w>\":11,"          \
    "\"w</w>\":12,\"r</w>\":13,\"t</w>\":14,\"low</w>\":15,\"er</w>\":16,\"lowest</w>\":17,\"newer</w>\":18,"          \
    "\"wider\":19,\"<unk>\":20"
#define TINY_ENDS   ",\"<|startoftext|>\":21,\"<|endoftext|>\":22"
#define TINY_VOCAB  "{" TINY_IDS TINY_ENDS "}"
#define TINY_MERGES "#version: 0.2\nl o\nlo w</w>\ne r</w>\n"

/* The four files of a tokenizer in the temporary folder; NULL: absent. */
typedef struct files {
    const char *vocab, *merges, *config, *map;
} files;

static void put(const char *name, const char *text)
{
    remove(temp_path(name)); /* some file systems flush when a file is written anew */
    if (text)
        temp_write(name, text, strlen(text));
}

static const char *put_files(const files *f)
{
    put("vocab.json", f->vocab);
    put("merges.txt", f->merges);
    put("tokenizer_config.json", f->config);
    put("special_tokens_map.json", f->map);
    return temp_path(".");
}

/* The tiny vocabulary of transformers' own test. */
static void test_tiny_vocabulary(void **state)
{
    ac_bpe *b = open_dir(put_files(&(files){TINY_VOCAB, TINY_MERGES, "{\"unk_token\": \"<unk>\"}", NULL}));

    (void)state;
    assert_int_equal(ac_bpe_vocab_size(b), 23);
    assert_int_equal(ac_bpe_pad(b), 22);
    check_text(b, "lower newer", "10 2 16 9 3 2 16");
    check_text(b, "LOW", "15");
    check_text(b, "zl", "20 11");
    ac_bpe_close(b);
}

/* Equal pairs merge from the left, and pairs of what they make after that. */
static void test_merge_order(void **state)
{
    ac_bpe *b = open_dir(put_files(
        &(files){"{\"a\":0,\"a</w>\":1,\"aa\":2,\"aa</w>\":3,\"aaaa\":4,\"<|startoftext|>\":5,\"<|endoftext|>\":6}",
                 "#version: 0.2\r\na a\r\naa aa\r\na a</w>\r\n\r\n", NULL, NULL}));

    (void)state;
    check_text(b, "a", "1");
    check_text(b, "aa", "3");
    check_text(b, "aaa", "2 1");
    check_text(b, "aaaa", "2 3");
    check_text(b, "aaaaaaaa", "4 2 3");
    check_text(b, "aaaaaaaaa", "4 4 1");
    ac_bpe_close(b);
}

static void test_special_tokens(void **state)
{
    static const struct {
        const char *config, *map;
        int bos, eos, pad;
    } cases[] = {
        {NULL, NULL, 21, 22, 22},
        {"{}", "{}", 21, 22, 22},
        {"{\"pad_token\": null}", NULL, 21, 22, 22},
        {"{\"pad_token\": \"l\"}", NULL, 21, 22, 0},
        {"{\"pad_token\": {\"__type\": \"AddedToken\", \"content\": \"o\"}}", NULL, 21, 22, 1},
        {"{\"pad_token\": \"<|endoftext|>\"}", "{\"pad_token\": \"l\"}", 21, 22, 0},
        {"{\"pad_token\": \"l\"}", "{\"pad_token\": {\"content\": \"w\"}}", 21, 22, 2},
        {"{\"bos_token\": \"<unk>\", \"eos_token\": \"s\"}", NULL, 20, 5, 22},
    };

    (void)state;
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        ac_bpe *b = open_dir(put_files(&(files){TINY_VOCAB, TINY_MERGES, cases[i].config, cases[i].map}));
        assert_int_equal(ac_bpe_bos(b), cases[i].bos);
        assert_int_equal(ac_bpe_eos(b), cases[i].eos);
        assert_int_equal(ac_bpe_pad(b), cases[i].pad);
        ac_bpe_close(b);
    }
}

/* As in SD 2.x: "!" pads, and is text in the prompt. */
static void test_pad_in_prompt(void **state)
{
    ac_bpe *b =
        open_dir(put_files(&(files){"{\"!\":0,\"!</w>\":1,\"!!</w>\":2,\"<|startoftext|>\":3,\"<|endoftext|>\":4}",
                                    "! !</w>", NULL, "{\"pad_token\": \"!\"}"}));

    (void)state;
    assert_int_equal(ac_bpe_pad(b), 0);
    check_text(b, "!", "1");
    check_text(b, "!!", "2");
    ac_bpe_close(b);
}

static void test_bad_files(void **state)
{
    static const struct {
        files f;
        int rc;
        const char *says;
    } cases[] = {
        {{NULL, TINY_MERGES, NULL, NULL}, ADDCL_E_IO, "vocab.json"},
        {{TINY_VOCAB, NULL, NULL, NULL}, ADDCL_E_IO, "merges.txt"},
        {{"", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "vocab.json"},
        {{"{\"l\":0", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "vocab.json"},
        {{"[]", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "vocab.json"},
        {{"{}", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "<|startoftext|>"},
        {{"{" TINY_IDS "}", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "bos_token"},
        {{"{" TINY_IDS ",\"x\":3" TINY_ENDS "}", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "id 3"},
        {{"{" TINY_IDS ",\"l\":30" TINY_ENDS "}", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "vocab.json"},
        {{"{" TINY_IDS ",\"x\":-1" TINY_ENDS "}", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "'x'"},
        {{"{" TINY_IDS ",\"x\":16777216" TINY_ENDS "}", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "'x'"},
        {{"{" TINY_IDS ",\"x\":1e2" TINY_ENDS "}", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "'x'"},
        {{"{" TINY_IDS ",\"x\":\"1\"" TINY_ENDS "}", TINY_MERGES, NULL, NULL}, ADDCL_E_FORMAT, "'x'"},
        {{TINY_VOCAB, TINY_MERGES "q o\n", NULL, NULL}, ADDCL_E_FORMAT, "line 5: the first token"},
        {{TINY_VOCAB, TINY_MERGES "o q\n", NULL, NULL}, ADDCL_E_FORMAT, "line 5: the second token"},
        {{TINY_VOCAB, TINY_MERGES "o w\n", NULL, NULL}, ADDCL_E_FORMAT, "line 5: the merged token"},
        {{TINY_VOCAB, TINY_MERGES "o\n", NULL, NULL}, ADDCL_E_FORMAT, "line 5"},
        {{TINY_VOCAB, TINY_MERGES "l o w\n", NULL, NULL}, ADDCL_E_FORMAT, "line 5"},
        {{TINY_VOCAB, TINY_MERGES " o\n", NULL, NULL}, ADDCL_E_FORMAT, "line 5"},
        {{TINY_VOCAB, TINY_MERGES "l \n", NULL, NULL}, ADDCL_E_FORMAT, "line 5"},
        {{TINY_VOCAB, TINY_MERGES " ", NULL, NULL}, ADDCL_E_FORMAT, "line 5"},
        {{TINY_VOCAB, TINY_MERGES "#version: 0.2\n", NULL, NULL}, ADDCL_E_FORMAT, "line 5"},
        {{TINY_VOCAB, TINY_MERGES, "{", NULL}, ADDCL_E_FORMAT, "tokenizer_config.json"},
        {{TINY_VOCAB, TINY_MERGES, "{\"pad_token\": 3}", NULL}, ADDCL_E_FORMAT, "pad_token"},
        {{TINY_VOCAB, TINY_MERGES, "{\"pad_token\": {\"content\": 3}}", NULL}, ADDCL_E_FORMAT, "pad_token"},
        {{TINY_VOCAB, TINY_MERGES, NULL, "{\"eos_token\": \"\"}"}, ADDCL_E_FORMAT, "special_tokens_map.json"},
        {{TINY_VOCAB, TINY_MERGES, NULL, "{\"pad_token\": \"[PAD]\"}"}, ADDCL_E_FORMAT, "'[PAD]'"},
    };

    (void)state;
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        ac_diag dg = {0};
        ac_bpe *b = (ac_bpe *)&dg;
        assert_int_equal(ac_bpe_open(put_files(&cases[i].f), &dg, &b), cases[i].rc);
        assert_null(b);
        if (!strstr(dg.msg, cases[i].says))
            fail_msg("case %zu says '%s', expected something of '%s'", i, dg.msg, cases[i].says);
    }
}

/* No merges at all is a vocabulary of single bytes; the last line may lack its end. */
static void test_short_merges(void **state)
{
    ac_bpe *b = open_dir(put_files(&(files){TINY_VOCAB, "", NULL, NULL}));

    (void)state;
    check_text(b, "lower", "0 1 2 3 13");
    ac_bpe_close(b);
    b = open_dir(put_files(&(files){TINY_VOCAB, "l o", NULL, NULL}));
    check_text(b, "lower", "10 2 3 13");
    ac_bpe_close(b);
}

/* The same from texts, as a single file's metadata holds them. */
static void test_texts(void **state)
{
    ac_diag dg = {0};
    ac_bpe *b = NULL;
    unsigned long n;
    int rc = -1;

    (void)state;
    assert_int_equal(ac_bpe_open_text("[]", TINY_MERGES, &dg, &b), ADDCL_E_FORMAT);
    assert_int_equal(ac_bpe_open_text("{", TINY_MERGES, &dg, &b), ADDCL_E_FORMAT);
    assert_int_equal(ac_bpe_open_text(TINY_VOCAB, "l q", &dg, &b), ADDCL_E_FORMAT);
    assert_null(b);
    for (n = 1; rc != 0; n++) {
        ac_diag fault = {0};
        ac_alloc_fail_at(n);
        rc = ac_bpe_open_text(TINY_VOCAB, TINY_MERGES, &fault, &b);
        assert_true(rc == 0 || (rc == ADDCL_E_NOMEM && !b && *fault.msg));
    }
    ac_alloc_fail_at(0);
    check_text(b, "lower newer", "10 2 16 9 3 2 16");
    assert_int_equal(ac_bpe_pad(b), 22);
    ac_bpe_close(b);
}

/* Every truncation of the files gives an error or a tokenizer that works. */
static void test_cut_files(void **state)
{
    static const char vocab[] = TINY_VOCAB, merges[] = TINY_MERGES;

    (void)state;
    for (size_t cut = 0; cut < sizeof vocab + sizeof merges; cut++) {
        ac_diag dg = {0};
        ac_bpe *b = NULL;
        const char *dir = put_files(&(files){vocab, merges, NULL, NULL});
        if (cut < sizeof vocab)
            temp_write("vocab.json", vocab, cut);
        else
            temp_write("merges.txt", merges, cut - sizeof vocab);
        if (ac_bpe_open(dir, &dg, &b) == 0)
            encode(b, "lower newer");
        else
            assert_string_not_equal(dg.msg, "");
        ac_bpe_close(b);
    }
}

/* Fails the n-th allocation for n = 1, 2, ... until the call succeeds: an error with a message each time. */
static void test_failing_memory(void **state)
{
    const char *text = "lower a\xcc\x81\xcc\x96 newer <|endoftext|> wide LOW";
    const char *dir =
        put_files(&(files){TINY_VOCAB, TINY_MERGES, "{\"unk_token\": \"<unk>\"}", "{\"pad_token\": \"l\"}"});
    ac_bpe *b = NULL;
    unsigned long n, failed = 0;
    int rc = -1;

    (void)state;
    for (n = 1; rc != 0; n++, failed++) {
        ac_diag dg = {0};
        ac_alloc_fail_at(n);
        rc = ac_bpe_open(dir, &dg, &b);
        assert_true(rc == 0 ? b != NULL : rc == ADDCL_E_NOMEM && !b && *dg.msg);
    }
    assert_true(failed > 10);
    rc = -1;
    for (n = 1, failed = 0; rc != 0; n++, failed++) {
        ac_diag dg = {0};
        encoded e;
        ac_alloc_fail_at(n);
        rc = ac_bpe_encode(b, text, MAX_IDS, e.ids, &e.n, &e.kept, &dg);
        assert_true(rc == 0 || (rc == ADDCL_E_NOMEM && *dg.msg));
    }
    assert_true(failed > 5);
    ac_alloc_fail_at(0);
    ac_bpe_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixture_prompts),
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_emoji_teacher),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_too_little_room),
        cmocka_unit_test(test_broken_utf8),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_tiny_vocabulary),
        cmocka_unit_test(test_merge_order),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_pad_in_prompt),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_short_merges),
        cmocka_unit_test(test_cut_files),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_failing_memory),
    };

    return cmocka_run_group_tests_name("bpe", tests, temp_setup, temp_teardown);
}
