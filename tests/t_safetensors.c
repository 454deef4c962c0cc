/* t_safetensors.c - the safetensors reader against good and bad headers, shards, the writer, failing memory and disks.
 */
#include "support.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------ headers */

typedef struct header_case {
    const char *name;
    int rc;             /* expected result */
    const char *says;   /* part of the expected message */
    const char *header; /* NULL: no header */
    size_t data;        /* zero bytes that follow it */
    uint64_t length;    /* written in front; 0: the header's length */
} header_case;

#define GOOD                       0, ""
#define BAD(s)                     ADDCL_E_FORMAT, s
#define I32(name, shape, offsets)  "\"" name "\":{\"dtype\":\"I32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(dtype, shape, offsets) "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define PAIR(a, b)                 "{" I32("a", "[1]", a) "," I32("b", "[1]", b) "}"

static const header_case header_cases[] = {
    {"accept/trailing_space", GOOD, "{}\r \t\n", 0, 0},
    {"accept/leading_space", GOOD, "\t\n{}\r ", 0, 0},
    {"accept/scalar", GOOD, ONE("I32", "[]", "[0,4]"), 4, 0},
    {"accept/2x2", GOOD, ONE("I32", "[2,2]", "[0,16]"), 16, 0},
    {"accept/empty_tensor", GOOD, ONE("I32", "[2,0]", "[0,0]"), 0, 0},
    {"accept/empty_tensor_before", GOOD, "{" I32("a", "[1]", "[0,4]") "," I32("b", "[0]", "[0,0]") "}", 4, 0},
    {"accept/empty_tensor_behind", GOOD, "{" I32("a", "[1]", "[0,4]") "," I32("b", "[0]", "[4,4]") "}", 4, 0},
    {"accept/only_metadata", GOOD, "{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0},
    {"accept/any_order", GOOD, PAIR("[4,8]", "[0,4]"), 8, 0},
    {"accept/escaped_name", GOOD, "{" I32("\\u00e9\\ud83d\\ude00\\n", "[1]", "[0,4]") "}", 4, 0},
    {"accept/unaligned_data", GOOD, " " ONE("F64", "[1]", "[0,8]") "  ", 8, 0},
    {"accept/other_keys", GOOD, "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":null}}", 1, 0},
    {"accept/eight_dims", GOOD, ONE("U8", "[1,1,1,1,1,1,1,1]", "[0,1]"), 1, 0},
    {"accept/float8", GOOD, ONE("F8_E4M3", "[3]", "[0,3]"), 3, 0},

    {"reject/no_header", BAD("cut short"), NULL, 0, 60},
    {"reject/length_high_bytes", BAD("cut short"), "{}", 100, 0xffffff000000003c},
    {"reject/length_over_limit", BAD("header of 100000001"), "{}", 100, 100000001},
    {"reject/length_1000", BAD("header of 1000 "), "{}", 100, 1000},
    {"reject/length_all_ones", BAD("cut short"), "{}", 100, UINT64_MAX},
    {"reject/length_wraps", BAD("cut short"), "{}", 100, UINT64_MAX - 3},
    {"reject/byte_ff", BAD("bad header"), "\xff", 0, 0},
    {"reject/brace", BAD("bad header"), "{", 0, 0},
    {"reject/array", BAD("no JSON object"), "[]", 0, 0},
    {"reject/number", BAD("bad header"), "1", 0, 0},
    {"reject/two_objects", BAD("bad header"), "{}{}", 0, 0},
    {"reject/invalid_utf8_name", BAD("bad header"), "{" I32("\xc3", "[1]", "[0,4]") "}", 4, 0},
    {"reject/lone_surrogate", BAD("bad header"), "{" I32("\\ud800", "[1]", "[0,4]") "}", 4, 0},
    {"reject/shape_larger_than_data", BAD("4 bytes of data, its shape takes 16"), ONE("I32", "[2,2]", "[0,4]"), 4, 0},
    {"reject/shape_smaller_than_data", BAD("8 bytes of data, its shape takes 4"), ONE("I32", "[1]", "[0,8]"), 8, 0},
    {"reject/f64_shape_larger", BAD("16 bytes of data, its shape takes 32"), ONE("F64", "[4]", "[0,16]"), 16, 0},
    {"reject/dim_2e64", BAD("bad header"), ONE("I32", "[18446744073709551614]", "[0,8]"), 8, 0},
    {"reject/dim_2e63", BAD("overflows"), ONE("I32", "[9223372036854775807]", "[0,8]"), 8, 0},
    {"reject/dim_2e63_bytes", BAD("its shape takes"), ONE("U8", "[9223372036854775807]", "[0,8]"), 8, 0},
    {"reject/dims_wrap_to_0", BAD("overflows"), ONE("I32", "[4294967296,4294967296]", "[0,0]"), 0, 0},
    {"reject/dim_negative", BAD("dimension 0"), ONE("I32", "[-1]", "[0,4]"), 4, 0},
    {"reject/dims_negative_twice", BAD("dimension 0"), ONE("I32", "[-1,-1]", "[0,4]"), 4, 0},
    {"reject/dim_fraction", BAD("dimension 1"), ONE("I32", "[1,1.5]", "[0,4]"), 4, 0},
    {"reject/dim_exponent", BAD("dimension 0"), ONE("U8", "[1e2]", "[0,100]"), 100, 0},
    {"reject/dim_string", BAD("dimension 0"), ONE("I32", "[\"1\"]", "[0,4]"), 4, 0},
    {"reject/nine_dims", ADDCL_E_UNSUPPORTED, "9 dimensions", ONE("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, 0},
    {"reject/shape_no_array", BAD("shape is missing"), ONE("I32", "1", "[0,4]"), 4, 0},
    {"reject/no_shape", BAD("shape is missing"), "{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, 0},
    {"reject/overlap", BAD("its data begin at byte 0, the data before end at 4"), PAIR("[0,4]", "[0,4]"), 4, 0},
    {"reject/overlap_partly", BAD("begin at byte 2"), PAIR("[0,4]", "[2,6]"), 6, 0},
    {"reject/hole", BAD("begin at byte 8, the data before end at 4"), PAIR("[0,4]", "[8,12]"), 12, 0},
    {"reject/first_offset", BAD("begin at byte 4, the data before end at 0"), ONE("I32", "[1]", "[4,8]"), 8, 0},
    {"reject/trailing_bytes", BAD("1 bytes that belong to no tensor"), ONE("I32", "[1]", "[0,4]"), 5, 0},
    {"reject/trailing_bytes_no_tensor", BAD("7 bytes that belong to no tensor"), "{}", 7, 0},
    {"reject/2_bytes_missing", BAD("do not lie in the 14 bytes"), ONE("I32", "[2,2]", "[0,16]"), 14, 0},
    {"reject/end_before_begin", BAD("do not lie"), ONE("I32", "[1]", "[4,0]"), 4, 0},
    {"reject/offsets_1", BAD("not two integers"), ONE("I32", "[1]", "[0]"), 4, 0},
    {"reject/offsets_3", BAD("not two integers"), ONE("I32", "[1]", "[0,4,8]"), 4, 0},
    {"reject/offsets_negative", BAD("not two integers"), ONE("I32", "[1]", "[-4,0]"), 4, 0},
    {"reject/offsets_fraction", BAD("not two integers"), ONE("I32", "[1]", "[0.0,4]"), 4, 0},
    {"reject/offsets_strings", BAD("not two integers"), ONE("I32", "[1]", "[\"0\",\"4\"]"), 4, 0},
    {"reject/no_offsets", BAD("not two integers"), "{\"t\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, 0},
    {"reject/no_dtype", BAD("dtype is missing"), "{\"t\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 0},
    {"reject/dtype_number", BAD("dtype is missing or no"), "{\"t\":{\"dtype\":1}}", 0, 0},
    {"reject/dtype_unknown", ADDCL_E_UNSUPPORTED, "dtype 'Q7' is not known", ONE("Q7", "[1]", "[0,1]"), 1, 0},
    {"reject/dtype_lower_case", ADDCL_E_UNSUPPORTED, "dtype 'i32'", ONE("i32", "[1]", "[0,4]"), 4, 0},
    {"reject/f4_odd", ADDCL_E_UNSUPPORTED, "dtype 'F4'", ONE("F4", "[3]", "[0,2]"), 2, 0},
    {"reject/tensor_no_object", BAD("dtype is missing"), "{\"t\":[\"U8\",[1],[0,1]]}", 1, 0},
    {"reject/metadata_number", BAD("'k' is no string"), "{\"__metadata__\":{\"k\":1}}", 0, 0},
    {"reject/metadata_array", BAD("is no object"), "{\"__metadata__\":[]}", 0, 0},
    {"reject/duplicate_name", BAD("duplicate"), "{" I32("a", "[1]", "[0,4]") "," I32("a", "[1]", "[4,8]") "}", 8, 0},
    {"reject/duplicate_escaped", BAD("duplicate"), "{" I32("a", "[0]", "[0,0]") "," I32("\\u0061", "[0]", "[0,0]") "}",
     0, 0},
    {"reject/nul_in_name", BAD("bad header"), "{" I32("a\\u0000b", "[1]", "[0,4]") "}", 4, 0},
};

/* Length, header and `data` zero bytes in new memory. */
static char *make_file(const char *header, uint64_t length, size_t data, size_t *n)
{
    size_t h = header ? strlen(header) : 0;
    char *p = calloc(8 + h + data, 1);

    assert_non_null(p);
    for (int i = 0; i < 8; i++)
        p[i] = (char)((length ? length : h) >> 8 * i);
    if (h)
        memcpy(p + 8, header, h);
    *n = 8 + h + data;
    return p;
}

/* Opens and expects `rc`, and in the message the path and `says`. */
static void expect_open(const char *path, int rc, const char *says)
{
    ac_diag dg = {0};
    ac_st *st;

    if (ac_st_open(path, &dg, &st) != rc)
        fail_msg("%s: expected code %d, got %d: %s", path, rc, dg.code, dg.msg);
    if (rc == 0) {
        assert_non_null(st);
        assert_int_equal(dg.code, 0);
    } else {
        assert_null(st);
        if (!strstr(dg.msg, says) || strchr(dg.msg, '\n'))
            fail_msg("message '%s': expected '%s' in it", dg.msg, says);
    }
    ac_st_close(st);
}

static void test_header(void **state)
{
    const header_case *c = *state;
    size_t n;
    char *p = make_file(c->header, c->length, c->data, &n);

    expect_open(temp_write("case.safetensors", p, n), c->rc, c->says);
    free(p);
}

/* Shorter than the length field, and no regular file. */
static void test_no_file(void **state)
{
    const char *fifo = temp_path("fifo");

    (void)state;
    expect_open(temp_write("empty", "", 0), ADDCL_E_FORMAT, "0 bytes");
    expect_open(temp_write("short", "\2\0\0\0\0\0\0", 7), ADDCL_E_FORMAT, "7 bytes");
    expect_open(temp_path("missing"), ADDCL_E_IO, "No such file");
    expect_open(temp_path(""), ADDCL_E_IO, "no regular file");
    expect_open("/dev/zero", ADDCL_E_IO, "no regular file");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_open(fifo, ADDCL_E_IO, "no regular file");
}

/* The values that a good file gives. */
static void test_values(void **state)
{
    static const char header[] = "{\"z\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[4,7]},"
                                 "\"__metadata__\":{\"k\":\"v\\u00e9\",\"format\":\"pt\"},"
                                 "\"a\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[0,4]},"
                                 "\"m\":{\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[7,8]}}";
    const char *key, *value;
    const ac_st_tensor *t;
    ac_diag dg = {0};
    ac_st *st;
    size_t n;
    char *p = make_file(header, 0, 8, &n);

    (void)state;
    memcpy(p + n - 8, "\1\2\3\4\5\6\7\10", 8);
    assert_int_equal(ac_st_open(temp_write("values.safetensors", p, n), &dg, &st), 0);
    free(p);
    assert_int_equal(ac_st_count(st), 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(ac_st_at(st, i)->name[0], "amz"[i]);
    t = ac_st_find(st, "a");
    assert_ptr_equal(t, ac_st_at(st, 0));
    assert_true(t->dtype == AC_ST_F16 && t->dims == 2 && t->dim[0] == 1 && t->dim[1] == 2 && t->bytes == 4);
    assert_memory_equal(t->data, "\1\2\3\4", 4);
    assert_memory_equal(ac_st_find(st, "z")->data, "\5\6\7", 3);
    assert_int_equal(ac_st_find(st, "m")->dims, 0);
    assert_null(ac_st_find(st, "b"));
    assert_null(ac_st_find(st, ""));
    assert_int_equal(ac_st_meta_count(st), 2);
    ac_st_meta_at(st, 0, &key, &value);
    assert_string_equal(key, "k");
    assert_string_equal(value, "v\xc3\xa9");
    assert_string_equal(ac_st_meta(st, "format"), "pt");
    assert_null(ac_st_meta(st, "none"));
    ac_st_close(st);
}

/* A small good file: every shorter one is refused, and no changed byte of the header does harm. */
static void test_damage(void **state)
{
    static const char change[] = {0, '\xff', '"', '\\', '{', '}', '[', ']', ',', '9', '-', ' '};
    size_t n, m;
    char *p = make_file("{\"__metadata__\":{\"k\":\"v\"}," I32("a", "[1,2]", "[0,8]") "," I32("b", "[]", "[8,12]") "}",
                        0, 12, &n);
    const char *path = temp_path("damaged.safetensors");

    (void)state;
    expect_open(temp_write("damaged.safetensors", p, n), 0, "");
    for (m = 0; m < n; m++)
        expect_open(temp_write("damaged.safetensors", p, m), ADDCL_E_FORMAT, path);
    for (size_t i = 0; i < n - 12; i++)
        for (size_t k = 0; k < sizeof change; k++) {
            ac_diag dg = {0};
            ac_st *st;
            char was = p[i];
            int rc;

            p[i] = change[k];
            rc = ac_st_open(temp_write("damaged.safetensors", p, n), &dg, &st);
            assert_true(rc == 0 ? st != NULL : rc < 0 && !st && dg.msg[0]);
            ac_st_close(st);
            p[i] = was;
        }
    free(p);
}

/* ------------------------------------------------------------------------------------------------ hostile sizes */

/* A file with a header of about n bytes, begin (head number tail)* end, is refused in 2 s and 1 GiB. */
static void expect_cheap(const char *begin, const char *head, const char *tail, size_t n, const char *end, int rc,
                         const char *says)
{
    ac_str s = {0};
    struct rusage use;
    struct timespec t0, t1;
    const char *path;
    double seconds;

    ac_str_addn(&s, "\0\0\0\0\0\0\0\0", 8);
    ac_str_add(&s, begin);
    for (size_t i = 0; s.n < n; i++) {
        if (i)
            ac_str_add(&s, ",");
        ac_str_add(&s, head);
        if (*tail)
            ac_str_addf(&s, "%zx", i);
        ac_str_add(&s, tail);
    }
    ac_str_add(&s, end);
    ac_str_addn(&s, "", 1); /* one byte of data, for every tensor */
    assert_false(s.failed);
    for (int i = 0; i < 8; i++)
        s.p[i] = (char)((uint64_t)(s.n - 9) >> 8 * i);
    path = temp_write("hostile.safetensors", s.p, s.n);
    ac_str_free(&s);

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t0);
    expect_open(path, rc, says);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t1);
    getrusage(RUSAGE_SELF, &use);
    unlink(path);
    seconds = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    print_message("%s: %.2f s of CPU, peak %ld MiB\n", says, seconds, use.ru_maxrss >> 10);
    if (!SANITIZED) {
        assert_true(seconds < 2);
        assert_true(use.ru_maxrss < 1 << 20);
    }
}

#define TINY "\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}"

static void test_hostile(void **state)
{
    size_t n;
    char *p = make_file("{", 10000000 * sizeof TINY, 0, &n);
    const char *path = temp_write("hostile.safetensors", p, n);

    (void)state;
    free(p);
    /* Ten million entries are over the limit of the header; the file has no blocks on disk. */
    assert_int_equal(truncate(path, 10000000 * (off_t)sizeof TINY + 16), 0);
    expect_open(path, ADDCL_E_FORMAT, "header of ");
    /* As many as the limit allows, and as many as are parsed. */
    expect_cheap("{", "\"", TINY, 99900000, "}", ADDCL_E_UNSUPPORTED, "values, at most");
    expect_cheap("{", "\"", TINY, 7700000, "}", ADDCL_E_FORMAT, "begin at byte 0");
    /* The most memory for a byte of header. */
    expect_cheap("{\"a\":[", "1", "", 99900000, "]}", ADDCL_E_UNSUPPORTED, "values, at most");
    expect_cheap("{\"a\":[", "[]", "", 1450000, "]}", ADDCL_E_FORMAT, "dtype is missing");
    expect_cheap("{", "\"", "\":{}", 4700000, "}", ADDCL_E_FORMAT, "dtype is missing");
}

static void test_depth(void **state)
{
    ac_str s = {0};
    size_t n;
    char *p;

    (void)state;
    ac_str_add(&s, "{\"a\":");
    for (int i = 0; i < 100000; i++)
        ac_str_add(&s, "[");
    p = make_file(s.p, 0, 0, &n);
    expect_open(temp_write("deep.safetensors", p, n), ADDCL_E_FORMAT, "depth");
    free(p);
    ac_str_free(&s);
}

/* ------------------------------------------------------------------------------------------------ shards */

typedef struct index_case {
    const char *name;
    int rc;
    const char *says;
    const char *index;
} index_case;

#define MAP(body) "{\"metadata\":{\"total_size\":8},\"weight_map\":{" body "}}"

static const index_case index_cases[] = {
    {"accept/two_shards", GOOD, MAP("\"x\":\"x.safetensors\",\"y\":\"y.safetensors\"")},
    {"accept/more_than_indexed", GOOD, MAP("\"x\":\"xz.safetensors\"")},
    {"accept/link_inside", GOOD, MAP("\"x\":\"link_inside\"")},
    {"accept/empty", GOOD, MAP("")},
    {"reject/absolute_path", BAD("no plain file name"), MAP("\"x\":\"/etc/passwd\"")},
    {"reject/parent", BAD("no plain file name"), MAP("\"x\":\"../x.safetensors\"")},
    {"reject/subfolder", BAD("no plain file name"), MAP("\"x\":\"sub/x.safetensors\"")},
    {"reject/empty_name", BAD("no plain file name"), MAP("\"x\":\"\"")},
    {"reject/dot", BAD("leaves the folder"), MAP("\"x\":\".\"")},
    {"reject/dot_dot", BAD("leaves the folder"), MAP("\"x\":\"..\"")},
    {"reject/link_outside", BAD("link_outside' is a link that leaves"), MAP("\"x\":\"link_outside\"")},
    {"reject/link_subfolder", BAD("link_sub' is a link that leaves"), MAP("\"x\":\"link_sub\"")},
    {"reject/missing_shard", ADDCL_E_IO, "none.safetensors': No such file", MAP("\"x\":\"none.safetensors\"")},
    {"reject/folder_as_shard", ADDCL_E_IO, "no regular file", MAP("\"x\":\"sub\"")},
    {"reject/two_shards_one_tensor", BAD("tensor 'x' is in two shards"),
     MAP("\"x\":\"x.safetensors\",\"z\":\"xz.safetensors\"")},
    {"reject/absent_tensor", BAD("tensor 'w' is not in shard 'y.safetensors'"),
     MAP("\"y\":\"y.safetensors\",\"w\":\"y.safetensors\"")},
    {"reject/tensor_in_other_shard", BAD("tensor 'x' is not in shard 'y.safetensors'"),
     MAP("\"x\":\"y.safetensors\",\"y\":\"x.safetensors\"")},
    {"reject/bad_shard", BAD("bad.safetensors: bad header"), MAP("\"x\":\"bad.safetensors\"")},
    {"reject/no_map", BAD("\"weight_map\" is missing"), "{\"metadata\":{}}"},
    {"reject/map_array", BAD("\"weight_map\" is an array: expected an object"), "{\"weight_map\":[]}"},
    {"reject/shard_number", BAD("shard of tensor 'x' is no string"), MAP("\"x\":1")},
    {"reject/duplicate_tensor", BAD("duplicate"), MAP("\"x\":\"x.safetensors\",\"x\":\"x.safetensors\"")},
    {"reject/no_json", BAD(":1:"), "weights"},
};

static void write_shard(const char *name, const char *header, size_t data)
{
    size_t n;
    char *p = make_file(header, 0, data, &n);

    temp_write(name, p, n);
    free(p);
}

static int shards_setup(void **state)
{
    int r = temp_setup(state);

    if (r != 0 || mkdir(temp_path("model"), 0700) != 0 || mkdir(temp_path("model/sub"), 0700) != 0)
        return -1;
    write_shard("x.safetensors", "{" I32("x", "[1]", "[0,4]") "}", 4);
    write_shard("model/x.safetensors", "{\"__metadata__\":{\"n\":\"1\"}," I32("x", "[1]", "[0,4]") "}", 4);
    write_shard("model/y.safetensors", "{\"__metadata__\":{\"n\":\"2\"}," I32("y", "[1]", "[0,4]") "}", 4);
    write_shard("model/xz.safetensors", "{" I32("x", "[1]", "[0,4]") "," I32("z", "[1]", "[4,8]") "}", 8);
    write_shard("model/sub/x.safetensors", "{" I32("x", "[1]", "[0,4]") "}", 4);
    write_shard("model/bad.safetensors", "{", 0);
    r |= symlink("x.safetensors", temp_path("model/link_inside"));
    r |= symlink("../x.safetensors", temp_path("model/link_outside"));
    r |= symlink("sub/x.safetensors", temp_path("model/link_sub"));
    return r;
}

static void test_index(void **state)
{
    const index_case *c = *state;

    expect_open(temp_write("model/m.safetensors.index.json", c->index, strlen(c->index)), c->rc, c->says);
}

static void test_shards(void **state)
{
    const char *index = index_cases[0].index;
    const char *path = temp_write("model/m.safetensors.index.json", index, strlen(index));
    ac_diag dg = {0};
    ac_st *st;

    (void)state;
    assert_int_equal(ac_st_open(path, &dg, &st), 0);
    assert_int_equal(ac_st_count(st), 2);
    assert_true(ac_st_find(st, "x")->file == 0 && ac_st_find(st, "y")->file == 1);
    assert_int_equal(ac_st_meta_count(st), 1);
    assert_string_equal(ac_st_meta(st, "n"), "1");
    ac_st_close(st);
}

/* The Hugging Face cache: snapshots hold links into one folder of blobs, the index among them. */
static void test_shards_in_cache(void **state)
{
    const char *index = index_cases[0].index;

    (void)state;
    assert_int_equal(mkdir(temp_path("blobs"), 0700), 0);
    assert_int_equal(mkdir(temp_path("snapshot"), 0700), 0);
    temp_write("blobs/0", index, strlen(index));
    write_shard("blobs/1", "{" I32("x", "[1]", "[0,4]") "}", 4);
    write_shard("blobs/2", "{" I32("y", "[1]", "[0,4]") "}", 4);
    assert_int_equal(symlink("../blobs/0", temp_path("snapshot/m.index.json")), 0);
    assert_int_equal(symlink("../blobs/1", temp_path("snapshot/x.safetensors")), 0);
    assert_int_equal(symlink("../blobs/2", temp_path("snapshot/y.safetensors")), 0);
    expect_open(temp_path("snapshot/m.index.json"), 0, "");
}

/* ------------------------------------------------------------------------------------------------ writer */

/* Fills tensor i with bytes i + 1; user: int *, fails at the tensor of this number. */
static int fill_bytes(void *user, size_t i, void *dst, size_t bytes)
{
    if (user && *(int *)user == (int)i)
        return ADDCL_E_CANCELLED;
    memset(dst, (int)i + 1, bytes);
    return 0;
}

static int fill_zero(void *user, size_t i, void *dst, size_t bytes)
{
    (void)user, (void)i;
    memset(dst, 0, bytes);
    return 0;
}

/* Writes and compares with `header` and `data` bytes of zero behind it. */
static void expect_written(const ac_st_entry *e, size_t n, const char *const (*meta)[2], size_t n_meta,
                           const char *header, size_t data)
{
    const char *path = temp_path("written.safetensors");
    ac_diag dg = {0};
    size_t want_n;
    char *want = make_file(header, 0, data, &want_n), *got = calloc(want_n + 1, 1);
    FILE *f;

    if (ac_st_write(path, e, n, meta, n_meta, fill_zero, NULL, &dg) != 0)
        fail_msg("%s", dg.msg);
    f = fopen(path, "rb");
    assert_true(f && fread(got, 1, want_n + 1, f) == want_n);
    assert_memory_equal(got, want, want_n);
    fclose(f);
    free(got);
    free(want);
    expect_open(path, 0, "");
}

/* Expected texts: what safetensors 0.8.0 for Python writes. */
static void test_write_exact(void **state)
{
    static const ac_st_entry one = {"test", AC_ST_I32, 2, {2, 2}};
    static const ac_st_entry two[] = {{"test2", AC_ST_F16, 2, {2, 2}}, {"test1", AC_ST_I32, 2, {2, 2}}};
    static const ac_st_entry mixed[] = {{"b", AC_ST_F64, 0, {0}},
                                        {"a", AC_ST_I64, 2, {2, 0}},
                                        {"c", AC_ST_U8, 1, {3}},
                                        {"d", AC_ST_I8, 1, {3}},
                                        {"e", AC_ST_BOOL, 1, {3}},
                                        {"f", AC_ST_U64, 1, {3}},
                                        {"\xc3\xa9\"\\\n\x01/\x7f\xf0\x9f\x98\x80", AC_ST_F32, 1, {3}},
                                        {"h", AC_ST_U16, 1, {3}},
                                        {"i", AC_ST_I16, 1, {3}}};
    static const char *const pt[][2] = {{"framework", "pt"}};
    static const char *const za[][2] = {{"z", "1"}, {"a", "\xc3\xa9\n\x1f"}};

    (void)state;
    expect_written(&one, 1, NULL, 0, "{\"test\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}    ", 16);
    expect_written(two, 2, NULL, 0,
                   "{\"test1\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
                   "\"test2\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[16,24]}}      ",
                   24);
    expect_written(&one, 1, pt, 1,
                   "{\"__metadata__\":{\"framework\":\"pt\"},"
                   "\"test\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}  ",
                   16);
    expect_written(NULL, 0, NULL, 0, "{}      ", 0);
    expect_written(NULL, 0, pt, 1, "{\"__metadata__\":{\"framework\":\"pt\"}}     ", 0);
    expect_written(mixed, AC_LEN(mixed), za, 2,
                   "{\"__metadata__\":{\"z\":\"1\",\"a\":\"\xc3\xa9\\n\\u001f\"},"
                   "\"f\":{\"dtype\":\"U64\",\"shape\":[3],\"data_offsets\":[0,24]},"
                   "\"a\":{\"dtype\":\"I64\",\"shape\":[2,0],\"data_offsets\":[24,24]},"
                   "\"b\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[24,32]},"
                   "\"\xc3\xa9\\\"\\\\\\n\\u0001/\x7f\xf0\x9f\x98\x80\":"
                   "{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[32,44]},"
                   "\"h\":{\"dtype\":\"U16\",\"shape\":[3],\"data_offsets\":[44,50]},"
                   "\"i\":{\"dtype\":\"I16\",\"shape\":[3],\"data_offsets\":[50,56]},"
                   "\"d\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[56,59]},"
                   "\"c\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[59,62]},"
                   "\"e\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[62,65]}}    ",
                   65);
}

/* Every type written, read and compared; the order is the reference library's. */
static void test_write_read(void **state)
{
    ac_st_entry e[AC_ST_U64 + 1];
    const char *path = temp_path("all.safetensors");
    const char *last = NULL;
    ac_diag dg = {0};
    ac_st *st;

    (void)state;
    for (int t = 0; t <= AC_ST_U64; t++)
        e[t] = (ac_st_entry){ac_st_dtype_name((ac_st_dtype)t), (ac_st_dtype)t, 2, {3, 5}};
    assert_int_equal(ac_st_write(path, e, AC_LEN(e), NULL, 0, fill_bytes, NULL, &dg), 0);
    assert_int_equal(ac_st_open(path, &dg, &st), 0);
    assert_int_equal(ac_st_count(st), AC_LEN(e));
    for (int t = AC_ST_U64; t >= 0; t--) {
        const ac_st_tensor *x = ac_st_find(st, e[t].name);
        assert_non_null(x);
        assert_int_equal(x->dtype, t);
        assert_int_equal(x->bytes, 15 * ac_st_dtype_size((ac_st_dtype)t));
        for (size_t i = 0; i < x->bytes; i++)
            assert_int_equal(((const unsigned char *)x->data)[i], t + 1);
        assert_true(!last || (const char *)x->data == last);
        last = (const char *)x->data + x->bytes;
    }
    ac_st_close(st);
}

static void expect_write_error(const ac_st_entry *e, size_t n, int rc, const char *says)
{
    ac_diag dg = {0};
    const char *path = temp_path("refused.safetensors");

    assert_int_equal(ac_st_write(path, e, n, NULL, 0, fill_zero, NULL, &dg), rc);
    if (!strstr(dg.msg, says))
        fail_msg("message '%s': expected '%s' in it", dg.msg, says);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void test_write_refused(void **state)
{
    const ac_st_entry twice[] = {{"a", AC_ST_I32, 0, {0}}, {"a", AC_ST_F32, 0, {0}}};
    const ac_st_entry bad_utf8 = {"\xff", AC_ST_I32, 0, {0}}, metadata = {"__metadata__", AC_ST_I32, 0, {0}};
    const ac_st_entry negative = {"a", AC_ST_I32, 1, {-1}}, nine = {"a", AC_ST_I32, 9, {1}};
    const ac_st_entry huge = {"a", AC_ST_I32, 2, {INT64_MAX, 4}};
    const ac_st_entry sum[] = {{"a", AC_ST_U8, 1, {INT64_MAX}}, {"b", AC_ST_U8, 2, {INT64_MAX / 2, 4}}};

    (void)state;
    expect_write_error(twice, 2, ADDCL_E_FORMAT, "duplicate");
    expect_write_error(&bad_utf8, 1, ADDCL_E_FORMAT, "unable to decode byte 0xff");
    expect_write_error(&metadata, 1, ADDCL_E_ARG, "__metadata__");
    expect_write_error(&negative, 1, ADDCL_E_ARG, "bad shape");
    expect_write_error(&nine, 1, ADDCL_E_ARG, "bad shape");
    expect_write_error(&huge, 1, ADDCL_E_ARG, "bad shape");
    expect_write_error(sum, 2, ADDCL_E_ARG, "bad shape");
}

/* Number of files in the folder of the test that hold `part` in their name. */
static int count_files(const char *part)
{
    DIR *d = opendir(temp_path(""));
    struct dirent *entry;
    int n = 0;

    assert_non_null(d);
    while ((entry = readdir(d)))
        n += strstr(entry->d_name, part) != NULL;
    closedir(d);
    return n;
}

static const ac_st_entry three[] = {
    {"a", AC_ST_F32, 2, {64, 64}}, {"b", AC_ST_F32, 2, {64, 64}}, {"c", AC_ST_F32, 2, {64, 64}}};

/* The three tensors of a file that fill_bytes wrote. */
static void expect_three(const char *path)
{
    ac_diag dg = {0};
    ac_st *st;

    assert_int_equal(ac_st_open(path, &dg, &st), 0);
    assert_int_equal(ac_st_count(st), 3);
    assert_int_equal(*(const char *)ac_st_find(st, "c")->data, 3);
    ac_st_close(st);
}

/* A failing write leaves the old file and no temporary one. */
static void test_write_stopped(void **state)
{
    const char *path = temp_path("kept.safetensors");
    ac_diag dg = {0};

    (void)state;
    assert_int_equal(ac_st_write(path, three, 3, NULL, 0, fill_bytes, NULL, &dg), 0);
    for (int i = 0; i < 3; i++) {
        ac_clear(&dg);
        assert_int_equal(ac_st_write(path, three, 3, NULL, 0, fill_bytes, &i, &dg), ADDCL_E_CANCELLED);
        assert_non_null(strstr(dg.msg, "writing stopped at tensor"));
        expect_three(path);
    }
    assert_int_equal(count_files(".tmp-"), 0);
}

static void test_write_disk_full(void **state)
{
    const char *path = temp_path("full.safetensors");
    struct rlimit was, limit;
    ac_diag dg = {0};

    (void)state;
    assert_int_equal(ac_st_write(path, three, 3, NULL, 0, fill_bytes, NULL, &dg), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t size = 0; size < 3 * 16384; size += 5000) {
        limit = (struct rlimit){size, was.rlim_max};
        ac_clear(&dg);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        int rc = ac_st_write(path, three, 3, NULL, 0, fill_bytes, NULL, &dg);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_int_equal(rc, ADDCL_E_IO);
        assert_non_null(strstr(dg.msg, "File too large"));
        expect_three(path);
    }
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(count_files(".tmp-"), 0);
}

/* ------------------------------------------------------------------------------------------------ memory */

/* The n-th allocation fails, n = 1.. until nothing does: each time E_NOMEM and a message, nothing lost. */
static void expect_no_memory(const char *path)
{
    for (unsigned long n = 1;; n++) {
        ac_diag dg = {0};
        ac_st *st;
        int rc;

        ac_alloc_fail_at(n);
        rc = ac_st_open(path, &dg, &st);
        ac_alloc_fail_at(0);
        ac_st_close(st);
        if (rc == 0) {
            assert_true(n > 3);
            return;
        }
        assert_int_equal(rc, ADDCL_E_NOMEM);
        assert_int_equal(dg.code, ADDCL_E_NOMEM);
        assert_non_null(strstr(dg.msg, "out of memory"));
    }
}

static void test_no_memory(void **state)
{
    const char *index = index_cases[0].index;

    (void)state;
    expect_no_memory(temp_path("model/y.safetensors"));
    expect_no_memory(temp_write("model/m.safetensors.index.json", index, strlen(index)));
}

static void test_no_memory_write(void **state)
{
    static const char *const meta[][2] = {{"k", "v"}};
    const char *path = temp_path("nomem.safetensors");
    int rc = ADDCL_E_NOMEM;

    (void)state;
    for (unsigned long n = 1; rc != 0; n++) {
        ac_diag dg = {0};

        ac_alloc_fail_at(n);
        rc = ac_st_write(path, three, 3, meta, 1, fill_bytes, NULL, &dg);
        ac_alloc_fail_at(0);
        assert_true(rc == 0 ? n > 4 : rc == ADDCL_E_NOMEM && dg.msg[0]);
        assert_int_equal(access(path, F_OK) == 0, rc == 0);
    }
    assert_int_equal(count_files(".tmp-"), 0);
}

/* Resident bytes of this process. */
static long resident(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long pages = 0;

    assert_true(f && fscanf(f, "%*d %ld", &pages) == 1);
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* Sum of every byte: touches all pages. */
static long sum(const ac_st_tensor *t)
{
    long s = 0;
    for (size_t i = 0; i < t->bytes; i++)
        s += ((const unsigned char *)t->data)[i];
    return s;
}

static void test_drop(void **state)
{
    const ac_st_entry e[] = {{"a", AC_ST_U8, 1, {1000}}, {"b", AC_ST_U8, 1, {8 << 20}}, {"c", AC_ST_U8, 1, {1000}}};
    const char *path = temp_path("drop.safetensors");
    ac_diag dg = {0};
    ac_st *st;
    long before;

    (void)state;
    assert_int_equal(ac_st_write(path, e, 3, NULL, 0, fill_bytes, NULL, &dg), 0);
    assert_int_equal(ac_st_open(path, &dg, &st), 0);
    assert_int_equal(sum(ac_st_find(st, "b")), 2 * (8 << 20));
    before = resident();
    for (size_t i = 0; i < 3; i++)
        ac_st_drop(st, ac_st_at(st, i));
    assert_true(before - resident() > 7 << 20);
    assert_int_equal(sum(ac_st_find(st, "a")), 1000);
    assert_int_equal(sum(ac_st_find(st, "b")), 2 * (8 << 20));
    assert_int_equal(sum(ac_st_find(st, "c")), 3 * 1000);
    ac_st_close(st);
}

/* A model of 200 GB that is only a header: opening it touches neither data nor memory. */
static void test_sparse(void **state)
{
    const int64_t side = 100000;
    char header[200];
    size_t n;
    char *p;
    const char *path;
    ac_diag dg = {0};
    ac_st *st;

    (void)state;
    snprintf(header, sizeof header, "{\"w\":{\"dtype\":\"F16\",\"shape\":[10,%jd,%jd],\"data_offsets\":[0,%jd]}}",
             (intmax_t)side, (intmax_t)side, (intmax_t)(20 * side * side));
    p = make_file(header, 0, 0, &n);
    path = temp_write("sparse.safetensors", p, n);
    free(p);
    if (truncate(path, (off_t)n + 20 * side * side) != 0)
        skip(); /* the file system allows no such file */
    assert_int_equal(ac_st_open(path, &dg, &st), 0);
    assert_int_equal(ac_st_find(st, "w")->bytes, 20 * side * side);
    assert_int_equal(((const char *)ac_st_find(st, "w")->data)[20 * side * side - 1], 0);
    ac_st_close(st);
}

/* Files as the reference library wrote them. */
static void test_fixtures(void **state)
{
    static const char *const rel[] = {"vae/model.safetensors", "unet_sd2/io.safetensors", "lora/kohya.safetensors"};
    char path[4096];

    (void)state;
    for (size_t i = 0; i < AC_LEN(rel); i++) {
        ac_st *st;
        size_t n;
        double *x;

        if (!fixture_path(path, sizeof path, rel[i]))
            skip();
        st = fixture_open(rel[i]);
        assert_true(ac_st_count(st) > 10 && ac_st_meta_count(st) > 0);
        x = fixture_f64(st, ac_st_at(st, 0)->name, &n);
        assert_true(n > 0);
        free(x);
        ac_st_close(st);
    }
}

int main(void)
{
    static struct CMUnitTest heads[AC_LEN(header_cases)], maps[AC_LEN(index_cases)];
    const struct CMUnitTest readers[] = {cmocka_unit_test(test_no_file), cmocka_unit_test(test_values),
                                         cmocka_unit_test(test_damage),  cmocka_unit_test(test_hostile),
                                         cmocka_unit_test(test_depth),   cmocka_unit_test(test_drop),
                                         cmocka_unit_test(test_sparse),  cmocka_unit_test(test_fixtures)};
    const struct CMUnitTest shards[] = {cmocka_unit_test(test_shards), cmocka_unit_test(test_shards_in_cache),
                                        cmocka_unit_test(test_no_memory)};
    const struct CMUnitTest writers[] = {
        cmocka_unit_test(test_write_exact),     cmocka_unit_test(test_write_read),
        cmocka_unit_test(test_write_refused),   cmocka_unit_test(test_write_stopped),
        cmocka_unit_test(test_write_disk_full), cmocka_unit_test(test_no_memory_write)};
    int failed = 0;

    for (size_t i = 0; i < AC_LEN(heads); i++)
        heads[i] = (struct CMUnitTest){header_cases[i].name, test_header, 0, 0, (void *)(uintptr_t)&header_cases[i]};
    for (size_t i = 0; i < AC_LEN(maps); i++)
        maps[i] = (struct CMUnitTest){index_cases[i].name, test_index, 0, 0, (void *)(uintptr_t)&index_cases[i]};
    failed += cmocka_run_group_tests_name("safetensors/header", heads, temp_setup, temp_teardown);
    failed += cmocka_run_group_tests_name("safetensors/read", readers, temp_setup, temp_teardown);
    failed += cmocka_run_group_tests_name("safetensors/index", maps, shards_setup, temp_teardown);
    failed += cmocka_run_group_tests_name("safetensors/shards", shards, shards_setup, temp_teardown);
    failed += cmocka_run_group_tests_name("safetensors/write", writers, temp_setup, temp_teardown);
    return failed;
}
