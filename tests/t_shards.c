/* t_shards.c - webdataset shards: names of every form, lists of shards, hostile archives. */
#include "dataset_support.h"

/* Appends a member. The header's number fields are octal, its magic ustar's. */
static void add_member(ac_str *tar, char type, const char *name, const void *data, size_t n)
{
    static const char zero[512];
    char h[512] = {0};
    unsigned sum = 0;

    snprintf(h, 100, "%s", name);
    snprintf(h + 100, 8, "0000644");
    snprintf(h + 124, 12, "%011zo", n);
    memset(h + 148, ' ', 8);
    h[156] = type;
    memcpy(h + 257, "ustar\00000", 8);
    for (size_t i = 0; i < sizeof h; i++)
        sum += (uint8_t)h[i];
    snprintf(h + 148, 7, "%06o", sum);
    ac_str_addn(tar, h, sizeof h);
    ac_str_addn(tar, data, n);
    ac_str_addn(tar, zero, (512 - n % 512) % 512);
}

/* A changed header gets a right checksum again. */
static void seal(char *h)
{
    unsigned sum = 0;

    memset(h + 148, ' ', 8);
    for (size_t i = 0; i < 512; i++)
        sum += (uint8_t)h[i];
    snprintf(h + 148, 7, "%06o", sum);
}

static void add_text_member(ac_str *tar, char type, const char *name, const char *text)
{
    add_member(tar, type, name, text, strlen(text));
}

static void add_picture_member(ac_str *tar, char type, const char *name, uint32_t seed)
{
    size_t n;
    uint8_t *png;

    write_picture("member.png", 8, 8, seed);
    png = slurp(temp_path("member.png"), &n);
    add_member(tar, type, name, png, n);
    free(png);
}

static void end_tar(ac_str *tar)
{
    static const char zero[1024];

    ac_str_addn(tar, zero, sizeof zero);
}

static void save_tar(const char *name, ac_str *tar)
{
    end_tar(tar);
    temp_write(name, tar->p, tar->n);
    ac_str_free(tar);
}

/* ------------------------------------------------------------------------------------------------ good archives */

/* Names of every form, members apart from each other, members of no use. */
static void write_shard(const char *name)
{
    ac_str tar = {0};
    size_t at;

    add_text_member(&tar, '0', "b.json", "{\"label\": \"B\", \"text\": \"not this\"}");
    add_picture_member(&tar, '0', "../../etc/a.jpg", 1);
    add_text_member(&tar, '5', "folder/", "");
    add_text_member(&tar, '0', "../../etc/a.txt", "climber");
    add_text_member(&tar, 'L', "././@LongLink", "long/c.png");
    add_picture_member(&tar, '0', "truncat", 2);
    add_text_member(&tar, 'g', "global", "13 comment=x\n");
    add_text_member(&tar, 'x', "pax", "19 path=pax/d.webp\n30 mtime=1350244992.023960108\n");
    add_picture_member(&tar, '0', "ignored", 3);
    add_text_member(&tar, '0', "lonely.txt", "no picture");
    add_text_member(&tar, '0', "README", "nothing");
    add_text_member(&tar, '0', ".hidden.png", "nothing");
    at = tar.n;
    add_picture_member(&tar, '\0', "b.png", 4);
    memcpy(tar.p + at + 345, "deep", 4);
    memset(tar.p + at + 124, 0, 12);
    tar.p[at + 124] = '\x80'; /* the size in binary */
    {
        size_t n;
        free(slurp(temp_path("member.png"), &n));
        tar.p[at + 134] = (char)(n >> 8);
        tar.p[at + 135] = (char)n;
    }
    seal(tar.p + at);
    add_picture_member(&tar, '7', "b.PNG", 5);
    add_text_member(&tar, '0', "b.txt", "bee");
    save_tar(name, &tar);
}

static void check_shard(ac_data *d)
{
    static const char *const want[][2] = {
        {"../../etc/a.jpg", "climber"}, {"b.PNG", "bee, B"}, {"deep/b.png", ""}, {"long/c.png", ""}, {"pax/d.webp", ""},
    };
    float image[8 * 8 * 3];

    assert_int_equal(ac_data_count(d, AC_SPLIT_TRAIN), AC_LEN(want));
    for (uint32_t i = 0; i < AC_LEN(want); i++) {
        ac_diag dg = {0};
        ac_sample s;
        assert_string_equal(ac_data_name(d, i), want[i][0]);
        assert_int_equal(ac_data_fetch(d, i, 0, &dg, image, &s), 0);
        assert_string_equal(s.caption, want[i][1]);
        free(s.caption);
    }
}

static void test_webdataset(void **state)
{
    ac_data_opts o = plain_opts("shard.tar");
    char list[2048], folder[2048];
    const char *const source[] = {o.source[0], list, folder};
    ac_str one = {0};
    ac_data *d;

    (void)state;
    o.caption = "{text}, {label}";
    write_shard("shard.tar");
    d = open_good(&o);
    check_shard(d);
    ac_data_close(d);
    make_folder("shards");
    add_picture_member(&one, '0', "x.png", 1);
    save_tar("shards/1.tar", &one);
    for (int i = 8; i <= 10; i++) {
        char name[32];
        snprintf(name, sizeof name, "shard-%02d.tar", i);
        add_picture_member(&one, '0', name, 1);
        snprintf(one.p, 100, "%d.png", i);
        seal(one.p);
        save_tar(name, &one);
    }
    snprintf(list, sizeof list, "%s", temp_path("shard-{08..10}.tar"));
    snprintf(folder, sizeof folder, "%s", temp_path("shards"));
    o.source = source;
    o.n_source = 3;
    d = open_good(&o);
    assert_int_equal(ac_data_count(d, AC_SPLIT_TRAIN), 9);
    assert_string_equal(ac_data_name(d, 5), "8.png");
    assert_string_equal(ac_data_name(d, 7), "10.png");
    assert_string_equal(ac_data_name(d, 8), "x.png");
    ac_data_close(d);
}

static void test_bad_lists(void **state)
{
    static const char *const bad[] = {"{3..1}.tar", "{a..b}.tar",   "{1..9999999}.tar",
                                      "{1..2.tar",  "{-2..-1}.tar", "{18446744073709551614..18446744073709551615}.tar"};

    (void)state;
    for (size_t i = 0; i < AC_LEN(bad); i++) {
        ac_data_opts o = plain_opts(bad[i]);
        refuse_data(&o, ADDCL_E_ARG, "expected a list like");
    }
}

/* ---------------------------------------------------------------------------------------------- hostile archives */

/* Opening an archive gives samples or an error with a message, and nothing worse. */
static int try_tar(const char *data, size_t n)
{
    ac_data_opts o = plain_opts("try.tar");
    ac_diag dg = {0};
    ac_data *d;
    int rc;

    temp_write("try.tar", data, n);
    rc = ac_data_open(&o, &dg, &d);
    assert_true(rc == 0 || *dg.msg);
    ac_data_close(d);
    return rc;
}

static void test_cut_tar(void **state)
{
    ac_str tar = {0};
    size_t first, second; /* ends of the members' blocks */
    size_t png;

    (void)state;
    add_text_member(&tar, 'x', "pax", "19 path=pax/d.webp\n");
    add_picture_member(&tar, '0', "a.png", 1);
    free(slurp(temp_path("member.png"), &png));
    first = tar.n;
    add_text_member(&tar, '0', "a.txt", "text");
    second = tar.n;
    /* whole: the data are there, with or without what fills their block; the zero blocks at the end need not be */
    for (size_t n = 0; n <= second; n++) {
        bool whole = (n >= 3 * 512 + png && n <= first) || n >= first + 512 + 4;
        assert_int_equal(try_tar(tar.p, n) == 0, whole);
    }
    end_tar(&tar);
    assert_int_equal(try_tar(tar.p, tar.n), 0);
    ac_str_free(&tar);
}

/* Bytes of each header become others, once with a wrong and once with a right checksum. */
static void test_damaged_headers(void **state)
{
    static const int place[] = {0,   99,  124, 125, 130, 134, 135, 148, 149, 150, 151, 152,
                                153, 154, 155, 156, 257, 262, 263, 345, 346, 499, 500, 511};
    static const uint8_t value[] = {0, 0x80, 0xff, '9', '7', 'x'};
    ac_str tar = {0};
    char *copy;

    (void)state;
    add_text_member(&tar, 'L', "././@LongLink", "long/c.png");
    add_text_member(&tar, 'x', "pax", "11 path=ab\n");
    add_member(&tar, '0', "a.png", "x", 1);
    end_tar(&tar);
    copy = malloc(tar.n);
    assert_non_null(copy);
    for (size_t i = 0; i < 3 * AC_LEN(place) * AC_LEN(value); i++) {
        size_t block = i % 3 * 1024, at = block + (size_t)place[i / 3 % AC_LEN(place)];
        bool in_checksum = at - block >= 148 && at - block < 156;
        memcpy(copy, tar.p, tar.n);
        copy[at] = (char)value[i / 3 / AC_LEN(place)];
        if (copy[at] != tar.p[at] && !in_checksum)
            assert_int_equal(try_tar(copy, tar.n), ADDCL_E_FORMAT);
        seal(copy + block);
        (void)try_tar(copy, tar.n);
    }
    free(copy);
    ac_str_free(&tar);
}

static void test_hostile_pax(void **state)
{
    static const char *const bad[] = {"11 path=ab",  "12 path=ab\n",   "0 path=ab\n", "999999999999999999999 a=b\n",
                                      "11path=ab\n", "9 path ab\n",    "-1 a=b\n",    " 11 path=ab\n",
                                      "\n1 a=\n",    "4 a\n",          "1 \n",        "18446744073709551615 a=b\n",
                                      "8 path=\n",   "13 size=9999\n", "11 size=-1\n"};
    char *bomb = calloc(3, 1 << 20);
    ac_str tar = {0};

    (void)state;
    for (size_t i = 0; i < AC_LEN(bad); i++) {
        add_text_member(&tar, 'x', "pax", bad[i]);
        add_picture_member(&tar, '0', "a.png", 1);
        end_tar(&tar);
        if (try_tar(tar.p, tar.n) != ADDCL_E_FORMAT)
            fail_msg("pax header '%s' was taken", bad[i]);
        ac_str_free(&tar);
    }
    assert_non_null(bomb);
    for (int i = 0; i < 3; i++) {
        add_member(&tar, "xL0"[i], i == 2 ? "a.txt" : "bomb", bomb, 3 << 20);
        add_picture_member(&tar, '0', "a.png", 1);
        end_tar(&tar);
        assert_int_equal(try_tar(tar.p, tar.n), ADDCL_E_FORMAT);
        ac_str_free(&tar);
    }
    free(bomb);
}

static int open_and_fetch(ac_diag *dg)
{
    ac_data_opts o = plain_opts("shard.tar");
    ac_data *d;
    int rc;

    AC_TRY(ac_data_open(&o, dg, &d));
    for (uint32_t i = 0; i < 2 && rc == 0; i++) {
        ac_sample s;
        rc = ac_data_fetch(d, i, 0, dg, NULL, &s);
        if (rc == 0)
            free(s.caption);
    }
    ac_data_close(d);
out:
    return rc;
}

static void test_no_memory(void **state)
{
    (void)state;
    check_failing_memory(open_and_fetch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_webdataset),      cmocka_unit_test(test_bad_lists),   cmocka_unit_test(test_cut_tar),
        cmocka_unit_test(test_damaged_headers), cmocka_unit_test(test_hostile_pax), cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests_name("shards", tests, temp_setup, temp_teardown);
}
