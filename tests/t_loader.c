/* t_loader.c - batches in their order whatever makes them, broken pictures, and the cache on disk. */
#include "dataset_support.h"

#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>
#include "io/cache.h"
#include "io/loader.h"

/* ----------------------------------------------------------------------------------------------------- batches */

#define SIDE  8
#define IMAGE (SIDE * SIDE * 3)

/* What tests compare of a row. */
typedef struct row {
    uint32_t index;
    ac_view view;
    uint8_t hash[32];
    char caption[32];
    float image[IMAGE];
} row;

static ac_loader *open_loader(ac_data *d, const ac_loader_opts *o)
{
    ac_diag dg = {0};
    ac_loader *l = NULL;

    if (ac_loader_open(d, o, &dg, &l) != 0)
        fail_msg("%s", dg.msg);
    return l;
}

static const ac_batch *next(ac_loader *l)
{
    const ac_batch *b = NULL;
    ac_diag dg = {0};

    if (ac_loader_next(l, &dg, &b) != 0)
        fail_msg("%s", dg.msg);
    return b;
}

static void copy_batch(const ac_batch *b, row *out)
{
    for (size_t i = 0; i < b->n; i++) {
        out[i] = (row){.index = b->sample[i].index, .view = b->sample[i].view};
        memcpy(out[i].hash, b->sample[i].hash, 32);
        snprintf(out[i].caption, sizeof out[i].caption, "%s", b->sample[i].caption);
        if (b->image)
            memcpy(out[i].image, b->image + i * IMAGE, sizeof out[i].image);
    }
}

/* The first n rows that a loader with these options gives, in new memory. */
static row *take_rows(ac_data *d, const ac_loader_opts *o, size_t n)
{
    ac_loader *l = open_loader(d, o);
    row *out = calloc(n, sizeof *out);

    assert_non_null(out);
    assert_int_equal(n % o->batch, 0);
    for (size_t i = 0; i < n; i += o->batch) {
        const ac_batch *b = next(l);
        assert_int_equal(b->n, o->batch);
        assert_int_equal(b->row, o->start + i * AC_MAX(o->ranks, 1) + o->rank * o->batch);
        copy_batch(b, out + i);
    }
    ac_loader_close(l);
    return out;
}

/* 15 pictures, captions and flips drawn, some captions dropped; of the odd ones a half each epoch. */
static ac_data_opts drawn_opts(void)
{
    ac_data_opts o = plain_opts("set");

    o.caption = "{text} | {kind}";
    o.caption_dropout = 0.2;
    o.flip = 0.5;
    o.subsample = "kind=odd:0.5";
    return o;
}

static void test_equal_runs(void **state)
{
    ac_data_opts o = drawn_opts();
    ac_data *d;
    const ac_loader_opts variant[] = {
        {.batch = 4},
        {.batch = 4, .threads = 3},
        {.batch = 4, .threads = 3, .ahead = 1},
        {.batch = 1, .threads = 2, .ahead = 7},
        {.batch = 60},
    };
    row *want;

    (void)state;
    write_set("set", 15);
    d = open_good(&o);
    assert_int_equal(ac_data_epoch_size(d, AC_SPLIT_TRAIN), 12);
    want = take_rows(d, &variant[0], 60); /* five epochs */
    assert_memory_not_equal(want, want + 12, 12 * sizeof *want);
    for (int kept = 0; kept < 2; kept++) { /* then with the pictures in memory */
        ac_data *again;
        o.cache_bytes = kept ? 7 * IMAGE : 0; /* of some, that is */
        again = open_good(&o);
        for (size_t i = 0; i < AC_LEN(variant); i++) {
            row *got = take_rows(again, &variant[i], 60);
            assert_memory_equal(got, want, 60 * sizeof *want);
            free(got);
        }
        ac_data_close(again);
    }
    ac_data_close(d);
    free(want);
}

static void test_resume(void **state)
{
    ac_data_opts o = drawn_opts();
    ac_data *d = open_good(&o);
    row *straight = take_rows(d, &(ac_loader_opts){.batch = 4}, 80);

    (void)state;
    for (uint64_t k = 0; k < 40; k += 7) {
        row *resumed = take_rows(d, &(ac_loader_opts){.batch = 4, .start = k}, 40);
        assert_memory_equal(resumed, straight + k, 40 * sizeof *resumed);
        free(resumed);
    }
    free(straight);
    ac_data_close(d);
}

static void test_ranks(void **state)
{
    ac_data_opts o = drawn_opts();
    ac_data *d = open_good(&o);
    row *one = take_rows(d, &(ac_loader_opts){.batch = 6, .start = 5}, 60);

    (void)state;
    for (size_t rank = 0; rank < 3; rank++) {
        row *part = take_rows(d, &(ac_loader_opts){.batch = 2, .rank = rank, .ranks = 3, .start = 5}, 20);
        for (size_t b = 0; b < 10; b++)
            assert_memory_equal(part + b * 2, one + b * 6 + rank * 2, 2 * sizeof *part);
        free(part);
    }
    free(one);
    ac_data_close(d);
}

static void test_without_images(void **state)
{
    ac_data_opts o = drawn_opts();
    ac_data *d = open_good(&o);
    row *with = take_rows(d, &(ac_loader_opts){.batch = 4}, 40);
    row *without = take_rows(d, &(ac_loader_opts){.batch = 4, .no_images = true}, 40);

    (void)state;
    for (size_t i = 0; i < 40; i++)
        assert_memory_equal(&with[i], &without[i], offsetof(row, image));
    free(with);
    free(without);
    ac_data_close(d);
}

/* Evaluation: each held-out sample once, as it is, whatever is drawn in training. */
static void test_ordered(void **state)
{
    ac_data_opts o = drawn_opts();
    row *rows;
    ac_data *d;

    (void)state;
    o.val_split = temp_write("val.txt", "3.png\n8.png\n5.png\n", 18);
    o.flip = 1;
    o.caption_dropout = 1;
    d = open_good(&o);
    rows = take_rows(d, &(ac_loader_opts){.batch = 2, .split = AC_SPLIT_VAL, .ordered = true}, 6);
    for (uint32_t i = 0; i < 3; i++) {
        static const uint32_t index[] = {3, 5, 8};
        assert_int_equal(rows[i].index, index[i]);
        assert_false(rows[i].view.flip);
        assert_true(*rows[i].caption);
    }
    assert_memory_equal(rows, rows + 3, 3 * sizeof *rows);
    free(rows);
    rows = take_rows(d, &(ac_loader_opts){.batch = 3, .split = AC_SPLIT_VAL}, 3);
    assert_int_equal(rows[0].index + rows[1].index + rows[2].index, 3 + 5 + 8);
    assert_true(rows[0].view.flip && !*rows[0].caption);
    free(rows);
    ac_data_close(d);
}

static void test_bad_opts(void **state)
{
    static const ac_loader_opts bad[] = {{.batch = 0},
                                         {.batch = 1, .rank = 1},
                                         {.batch = 1, .rank = 3, .ranks = 3},
                                         {.batch = 1, .threads = 1000},
                                         {.batch = 1, .ahead = SIZE_MAX},
                                         {.batch = SIZE_MAX / 100},
                                         {.batch = 1, .split = AC_SPLIT_VAL}};
    ac_data_opts o = drawn_opts();
    ac_data *d = open_good(&o);

    (void)state;
    for (size_t i = 0; i < AC_LEN(bad); i++) {
        ac_diag dg = {0};
        ac_loader *l;
        assert_int_equal(ac_loader_open(d, &bad[i], &dg, &l), ADDCL_E_ARG);
        assert_null(l);
        assert_true(*dg.msg);
    }
    ac_data_close(d);
}

/* Closing at any moment: before, while and after batches are made. */
static void test_stop(void **state)
{
    ac_data_opts o = drawn_opts();
    ac_data *d = open_good(&o);

    (void)state;
    for (int i = 0; i < 60; i++) {
        ac_loader *l = open_loader(d, &(ac_loader_opts){.batch = 500, .threads = 1 + (size_t)i % 3});
        if (i % 4 == 0)
            next(l);
        usleep((useconds_t)i * 20);
        ac_loader_close(l);
    }
    ac_loader_close(NULL);
    ac_data_close(d);
}

/* --------------------------------------------------------------------------------------------- broken pictures */

static char noted[8192];

static void keep_note(void *user, int level, const char *text)
{
    size_t n = strlen(noted);

    (void)user;
    assert_int_equal(level, ADDCL_LOG_WARN);
    snprintf(noted + n, sizeof noted - n, "%s\n", text);
}

/* Pictures 0, 2 and 4 to 7 of 10 are broken in the ways that pictures are. */
static void write_broken_set(const char *folder)
{
    static const char claims[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x30\0\0\0\x30\0\x08\x02\0\0\0\x34\xe0\x05\x0b"
                                 "\0\0\1\0IDAT";
    char name[64];
    uint8_t *png;
    size_t n;

    write_set(folder, 10);
    snprintf(name, sizeof name, "%s/0.png", folder);
    png = slurp(temp_path(name), &n);
    temp_write(name, png, n / 2); /* cut */
    free(png);
    snprintf(name, sizeof name, "%s/2.png", folder);
    temp_write(name, "", 0);
    snprintf(name, sizeof name, "%s/4.png", folder);
    temp_write(name, claims, sizeof claims); /* 12288 x 12288 pixels */
    snprintf(name, sizeof name, "%s/5.png", folder);
    assert_int_equal(unlink(temp_path(name)), 0);
    snprintf(name, sizeof name, "%s/6.png", folder);
    write_text(name, "no picture");
    snprintf(name, sizeof name, "%s/7.png", folder);
    assert_int_equal(unlink(temp_path(name)), 0);
    assert_int_equal(mkfifo(temp_path(name), 0666), 0);
}

static void test_broken(void **state)
{
    static const char *const says[] = {
        "0.png: PNG: ",  "2.png: neither", "4.png: image of 12288 x 12288 pixels: expected at most",
        "cannot open '", "6.png: neither", "7.png' is no regular file"};
    ac_diag dg = {.note = keep_note};
    ac_data_opts o;
    ac_data *d;
    ac_loader *l;
    row *a, *b;
    uint32_t order[10];
    char msg[512];

    (void)state;
    write_broken_set("broken");
    o = plain_opts("broken");
    d = open_good(&o);
    a = take_rows(d, &(ac_loader_opts){.batch = 5}, 50);
    assert_int_equal(ac_data_broken(d, 0, msg, sizeof msg), 6);
    assert_true(*msg);
    assert_int_equal(ac_data_broken(d, 6, msg, sizeof msg), 6);
    assert_string_equal(msg, "");
    for (uint64_t epoch = 0; epoch < 5; epoch++) { /* the next good one of the epoch takes the place */
        ac_data_order(d, AC_SPLIT_TRAIN, epoch, order);
        for (size_t i = 0; i < 10; i++) {
            size_t k = i;
            while (order[k % 10] % 2 == 0 ? order[k % 10] != 8 : order[k % 10] == 5 || order[k % 10] == 7)
                k++;
            assert_int_equal(a[epoch * 10 + i].index, order[k % 10]);
        }
    }
    write_picture("broken/2.png", 8, 8, 1); /* they are known now: a run does not change under its feet */
    b = take_rows(d, &(ac_loader_opts){.batch = 5, .threads = 2, .start = 20}, 30);
    assert_memory_equal(a + 20, b, 30 * sizeof *a);
    assert_int_equal(ac_data_broken(d, 0, NULL, 0), 6);
    ac_data_close(d);
    temp_write("broken/2.png", "", 0);
    d = open_good(&o);
    l = open_loader(d, &(ac_loader_opts){.batch = 10});
    for (int i = 0; i < 3; i++) {
        const ac_batch *batch;
        assert_int_equal(ac_loader_next(l, &dg, &batch), 0);
    }
    for (size_t i = 0; i < AC_LEN(says); i++) {
        const char *at = strstr(noted, says[i]);
        if (!at || strstr(at + 1, says[i])) /* once */
            fail_msg("'%s' in: %s", says[i], noted);
    }
    ac_loader_close(l);
    ac_data_close(d);
    free(a);
    free(b);
}

static void test_all_broken(void **state)
{
    const ac_batch *b = (const ac_batch *)state;
    ac_data_opts o;
    ac_loader *l;
    ac_data *d;

    make_folder("hopeless");
    for (int i = 0; i < 40; i++) {
        char name[64];
        snprintf(name, sizeof name, "hopeless/%02d.png", i);
        write_text(name, "no picture");
    }
    o = plain_opts("hopeless");
    d = open_good(&o);
    l = open_loader(d, &(ac_loader_opts){.batch = 2, .threads = 2});
    for (int i = 0; i < 3; i++) { /* the error stays */
        ac_diag dg = {.note = keep_note};
        *noted = '\0';
        assert_int_equal(ac_loader_next(l, &dg, &b), ADDCL_E_FORMAT);
        assert_null(b);
        assert_non_null(strstr(dg.msg, "none of the 40 pictures can be read"));
        assert_true(i > 0 || strstr(noted, "40 pictures skipped so far"));
    }
    ac_loader_close(l);
    ac_data_close(d);
}

/* A picture of one row of 16384 pixels would be scaled to more than any picture may have. */
static void test_too_narrow(void **state)
{
    ac_data_opts o;
    ac_diag dg = {0};
    ac_sample s;
    ac_data *d;

    (void)state;
    make_folder("narrow");
    write_picture("narrow/a.png", 16384, 1, 1);
    o = plain_opts("narrow");
    d = open_good(&o);
    assert_int_equal(ac_data_fetch(d, 0, 0, &dg, NULL, &s), ADDCL_E_UNSUPPORTED);
    assert_non_null(strstr(dg.msg, "too narrow"));
    ac_data_close(d);
}

/* Short memory in a thread is an error for the caller, no broken picture. */
static void test_no_memory(void **state)
{
    ac_data_opts o = drawn_opts();
    unsigned long n = 1;

    (void)state;
    for (int rc = -1; rc != 0; n++) {
        ac_data *d = open_good(&o);
        ac_loader *l = NULL;
        const ac_batch *b;
        ac_diag dg = {0};
        ac_alloc_fail_at(n);
        rc = ac_loader_open(d, &(ac_loader_opts){.batch = 3, .ahead = 1}, &dg, &l);
        for (int i = 0; i < 2 && rc == 0; i++)
            rc = ac_loader_next(l, &dg, &b);
        assert_true(rc == 0 || (rc == ADDCL_E_NOMEM && *dg.msg));
        ac_loader_close(l);
        ac_alloc_fail_at(0);
        assert_int_equal(ac_data_broken(d, 0, NULL, 0), 0);
        ac_data_close(d);
    }
    assert_true(n > 20);
}

/* ------------------------------------------------------------------------------------------------------- cache */

static ac_cache *open_cache(const char *name)
{
    ac_cache *c = NULL;
    ac_diag dg = {0};

    if (ac_cache_open(temp_path(name), &dg, &c) != 0)
        fail_msg("%s", dg.msg);
    return c;
}

static void put(ac_cache *c, const uint8_t key[32], const void *data, size_t n)
{
    ac_diag dg = {0};

    if (ac_cache_put(c, key, data, n, &dg) != 0)
        fail_msg("%s", dg.msg);
}

static void test_cache_keys(void **state)
{
    static const char *const part[][3] = {{"net", "content", "how"}, {"ne", "tcontent", "how"},
                                          {"net", "conten", "thow"}, {"net", "content", ""},
                                          {"", "content", "how"},    {"net", "content", "hoW"}};
    uint8_t key[AC_LEN(part)][32], again[32];

    (void)state;
    for (size_t i = 0; i < AC_LEN(part); i++) {
        ac_cache_key(part[i][0], part[i][1], strlen(part[i][1]), part[i][2], key[i]);
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(key[i], key[k], 32);
    }
    ac_cache_key("net", "content", 7, "how", again);
    assert_memory_equal(key[0], again, 32);
}

static void test_cache(void **state)
{
    uint8_t a[32] = {1, 2, 3}, b[32] = {1, 2, 4};
    float data[5] = {1, 2, 3, 4, 5}, got[6];
    ac_cache *c = open_cache("some/deep/cache"), *other;

    (void)state;
    assert_false(ac_cache_get(c, a, got, sizeof data));
    put(c, a, data, sizeof data);
    put(c, b, data, 0);
    assert_true(ac_cache_get(c, a, got, sizeof data));
    assert_memory_equal(got, data, sizeof data);
    assert_true(ac_cache_get(c, b, got, 0));
    assert_false(ac_cache_get(c, a, got, sizeof data - 4));
    assert_false(ac_cache_get(c, a, got, sizeof data + 4));
    data[0] = 7;
    put(c, a, data, sizeof data);
    other = open_cache("some/deep/cache");
    assert_true(ac_cache_get(other, a, got, sizeof data));
    assert_memory_equal(got, data, sizeof data);
    ac_cache_close(c);
    ac_cache_close(other);
    ac_cache_close(NULL);
}

/* Every byte of an entry changed, every length, and the file of another key: absent, and a put heals. */
static void test_cache_damage(void **state)
{
    static const char entry[] = "damaged/00/00000000000000000000000000000000000000000000000000000000000000";
    uint8_t key[32] = {0}, other[32] = {0, 1}, *file;
    ac_cache *c = open_cache("damaged");
    char got[10];
    size_t n;

    (void)state;
    put(c, key, "0123456789", 10);
    file = slurp(temp_path(entry), &n);
    for (size_t i = 0; i < n; i++) {
        file[i] ^= 0x10;
        temp_write(entry, file, n);
        assert_false(ac_cache_get(c, key, got, 10));
        file[i] ^= 0x10;
        temp_write(entry, file, i);
        assert_false(ac_cache_get(c, key, got, 10));
    }
    temp_write(entry, file, n);
    assert_true(ac_cache_get(c, key, got, 10));
    temp_write("damaged/00/01000000000000000000000000000000000000000000000000000000000000", file, n);
    assert_false(ac_cache_get(c, other, got, 10));
    temp_write(entry, "foreign", 7);
    put(c, key, "0123456789", 10);
    assert_true(ac_cache_get(c, key, got, 10));
    free(file);
    ac_cache_close(c);
}

static void test_cache_errors(void **state)
{
    uint8_t key[32] = {9};
    ac_diag dg = {0};
    ac_cache *c;

    (void)state;
    temp_write("file", "x", 1);
    assert_int_equal(ac_cache_open(temp_path("file"), &dg, &c), ADDCL_E_IO);
    ac_clear(&dg);
    assert_int_equal(ac_cache_open(temp_path("file/below"), &dg, &c), ADDCL_E_IO);
    ac_clear(&dg);
    assert_int_equal(ac_cache_open("", &dg, &c), ADDCL_E_ARG);
    assert_null(c);
    c = open_cache("refused");
    temp_write("refused/09", "in the way of the folder", 24);
    ac_clear(&dg);
    assert_int_equal(ac_cache_put(c, key, "x", 1, &dg), ADDCL_E_IO);
    assert_true(*dg.msg);
    ac_cache_close(c);
}

/* Four processes write and read the same entries at once: nothing torn, nothing left over. */
static void test_cache_writers(void **state)
{
    static char data[20000], got[20000];
    ac_cache *c = open_cache("shared");
    DIR *folder;
    int files = 0;

    (void)state;
    for (int p = 0; p < 4; p++)
        if (fork() == 0) {
            ac_diag dg = {0};
            int bad = 0;
            ac_cache *own = NULL;
            bad |= ac_cache_open(temp_path("shared"), &dg, &own);
            for (int i = 0; i < 200 && !bad; i++) {
                uint8_t key[32] = {0, (uint8_t)(i % 10)};
                memset(data, i % 10, sizeof data);
                bad |= ac_cache_put(own, key, data, sizeof data, &dg);
                bad |= !ac_cache_get(own, key, got, sizeof got) || memcmp(got, data, sizeof data) != 0;
            }
            _exit(bad ? 1 : 0);
        }
    for (int p = 0; p < 4; p++) {
        int status = -1;
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    folder = opendir(temp_path("shared/00"));
    assert_non_null(folder);
    for (struct dirent *e; (e = readdir(folder));)
        files += e->d_name[0] != '.';
    closedir(folder);
    assert_int_equal(files, 10);
    ac_cache_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_runs),     cmocka_unit_test(test_resume),       cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_without_images), cmocka_unit_test(test_ordered),      cmocka_unit_test(test_bad_opts),
        cmocka_unit_test(test_stop),           cmocka_unit_test(test_broken),       cmocka_unit_test(test_all_broken),
        cmocka_unit_test(test_too_narrow),     cmocka_unit_test(test_no_memory),    cmocka_unit_test(test_cache_keys),
        cmocka_unit_test(test_cache),          cmocka_unit_test(test_cache_damage), cmocka_unit_test(test_cache_errors),
        cmocka_unit_test(test_cache_writers),
    };

    return cmocka_run_group_tests_name("loader", tests, temp_setup, temp_teardown);
}
