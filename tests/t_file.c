/* t_file.c - whole files and JSON configurations: what is read, what survives a failing disk. */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/file.h"
#include "io/json.h"

/* ------------------------------------------------------------------------------------------------ failing calls */

/* The calls of the C library that writing uses, replaced for this program. The call number `fail_at` fails with
 * `fail_errno`; 0: none. EINTR and short writes are no failures to the caller of ac_file_write. */
static int calls, fail_at, fail_errno;
static size_t write_limit = SIZE_MAX;

static bool failing(void)
{
    if (++calls != fail_at)
        return false;
    errno = fail_errno;
    return true;
}

ssize_t write(int fd, const void *p, size_t n)
{
    return failing() ? -1 : syscall(SYS_write, fd, p, AC_MIN(n, write_limit));
}

int fsync(int fd)
{
    return failing() ? -1 : (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    return failing() ? -1 : renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int close(int fd)
{
    int r = (int)syscall(SYS_close, fd);
    return failing() ? -1 : r;
}

/* Number of files with ".tmp-" in their name. */
static int count_temp(void)
{
    DIR *d = opendir(temp_path(""));
    struct dirent *e;
    int n = 0;

    assert_non_null(d);
    while ((e = readdir(d)))
        n += strstr(e->d_name, ".tmp-") != NULL;
    closedir(d);
    return n;
}

static void expect_content(const char *path, const char *want)
{
    ac_diag dg = {0};
    char *text;
    size_t n;

    if (ac_file_read(path, 1000, &dg, &text, &n) != 0)
        fail_msg("%s", dg.msg);
    assert_int_equal(n, strlen(want));
    assert_string_equal(text, want);
    free(text);
}

/* Every call of a save fails once: the old or the new content is there, whole, and no other file is left. */
static void test_failing_calls(void **state)
{
    static const int error[] = {ENOSPC, EIO, EACCES, EDQUOT};
    int last = 0;

    (void)state;
    for (size_t k = 0; k < AC_LEN(error); k++)
        for (int at = 1;; at++) {
            const char *path = temp_write("target", "old", 3);
            ac_diag dg = {0};
            bool renamed;
            int rc;

            calls = 0;
            fail_at = at;
            fail_errno = error[k];
            rc = ac_file_save(path, "new", 3, &dg);
            last = calls;
            fail_at = 0;
            if (last < at) { /* nothing was left to fail */
                assert_int_equal(rc, 0);
                break;
            }
            renamed = at > 4; /* write, fsync, close, rename, then fsync and close of the folder */
            assert_int_equal(rc, at == 6 ? 0 : ADDCL_E_IO);
            assert_true(rc == 0 || strstr(dg.msg, strerror(error[k])));
            expect_content(path, renamed ? "new" : "old");
            assert_int_equal(count_temp(), 0);
        }
    assert_int_equal(last, 6);
}

static void test_interrupted_and_short(void **state)
{
    const char *path = temp_path("short");
    ac_diag dg = {0};

    (void)state;
    calls = 0;
    fail_at = 3;
    fail_errno = EINTR;
    write_limit = 2;
    assert_int_equal(ac_file_save(path, "0123456789", 10, &dg), 0);
    fail_at = 0;
    write_limit = SIZE_MAX;
    expect_content(path, "0123456789");
}

/* Some file systems have no fsync of folders. */
static void test_folder_without_fsync(void **state)
{
    ac_diag dg = {0};

    (void)state;
    calls = 0;
    fail_at = 5;
    fail_errno = EINVAL;
    assert_int_equal(ac_file_save(temp_path("einval"), "x", 1, &dg), 0);
    fail_at = 0;
}

static void test_no_memory(void **state)
{
    const char *path = temp_path("nomem");
    int rc = ADDCL_E_NOMEM;

    (void)state;
    for (unsigned long n = 1; rc != 0; n++) {
        ac_diag dg = {0};

        ac_alloc_fail_at(n);
        rc = ac_file_save(path, "x", 1, &dg);
        ac_alloc_fail_at(0);
        assert_true(rc == 0 ? n == 4 : rc == ADDCL_E_NOMEM && dg.msg[0]);
    }
}

/* ------------------------------------------------------------------------------------------------ targets */

static void test_replace(void **state)
{
    const char *path = temp_path("mode"), *link = temp_path("link");
    struct stat st;
    ac_diag dg = {0};
    ac_file *f;

    (void)state;
    temp_write("mode", "old", 3);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(symlink("mode", link), 0);
    assert_int_equal(ac_file_begin(link, &dg, &f), 0);
    assert_int_equal(ac_file_write(f, "n", 1, &dg), 0);
    expect_content(path, "old");
    assert_int_equal(count_temp(), 1);
    assert_int_equal(ac_file_write(f, "ew", 2, &dg), 0);
    assert_int_equal(ac_file_commit(f, &dg), 0);
    expect_content(path, "new");
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(count_temp(), 0);
}

static void test_abort(void **state)
{
    const char *path = temp_path("aborted");
    ac_diag dg = {0};
    ac_file *f, *g;

    (void)state;
    assert_int_equal(ac_file_begin(path, &dg, &f), 0);
    assert_int_equal(ac_file_begin(path, &dg, &g), 0); /* two writers do not share a temporary file */
    assert_int_equal(ac_file_write(f, "x", 1, &dg), 0);
    assert_int_equal(count_temp(), 2);
    ac_file_abort(f);
    ac_file_abort(g);
    ac_file_abort(NULL);
    assert_int_equal(count_temp(), 0);
    assert_false(ac_exists(path));
}

static void test_bad_target(void **state)
{
    ac_diag dg = {0};
    ac_file *f;

    (void)state;
    assert_int_equal(ac_file_begin(temp_path(""), &dg, &f), ADDCL_E_IO);
    assert_non_null(strstr(dg.msg, "is a folder"));
    assert_null(f);
    ac_clear(&dg);
    assert_int_equal(ac_file_begin(temp_path("none/file"), &dg, &f), ADDCL_E_IO);
    assert_non_null(strstr(dg.msg, "No such file"));
}

/* What is no regular file is written, never replaced. Never try this on a real device: run by root, a defect would
 * replace it by a file. */
static void test_pipe(void **state)
{
    const char *path = temp_path("pipe");
    struct stat st;
    ac_diag dg = {0};
    char text[4] = "";
    int fd;

    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    fd = open(path, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    assert_int_equal(ac_file_save(path, "abc", 3, &dg), 0);
    assert_true(lstat(path, &st) == 0 && S_ISFIFO(st.st_mode));
    assert_int_equal(read(fd, text, 3), 3);
    assert_string_equal(text, "abc");
    close(fd);
}

/* ------------------------------------------------------------------------------------------------ reading */

static void test_read(void **state)
{
    static char big[100000];
    const char *path;
    ac_diag dg = {0};
    char *text;
    size_t n;

    (void)state;
    expect_content(temp_write("empty", "", 0), "");
    memset(big, 'x', sizeof big);
    path = temp_write("big", big, sizeof big);
    assert_int_equal(ac_file_read(path, sizeof big, &dg, &text, &n), 0);
    assert_int_equal(n, sizeof big);
    assert_memory_equal(text, big, n);
    assert_int_equal(text[n], 0);
    free(text);
    assert_int_equal(ac_file_read(path, sizeof big - 1, &dg, &text, &n), ADDCL_E_FORMAT);
    assert_non_null(strstr(dg.msg, "100000 bytes, at most 99999"));
    assert_null(text);
    ac_clear(&dg);
    assert_int_equal(ac_file_read("/dev/zero", 50000, &dg, &text, &n), ADDCL_E_FORMAT);
    assert_non_null(strstr(dg.msg, "more than 50000"));
    ac_clear(&dg);
    assert_int_equal(ac_file_read(temp_path("none"), 10, &dg, &text, &n), ADDCL_E_IO);
    ac_clear(&dg);
    assert_int_equal(ac_file_read(temp_path(""), 100000, &dg, &text, &n), ADDCL_E_IO);
    assert_non_null(strstr(dg.msg, "Is a directory"));
}

static void test_paths(void **state)
{
    static const char *const c[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};

    (void)state;
    for (size_t i = 0; i < AC_LEN(c); i++) {
        char *p = ac_path_join(c[i][0], c[i][1]);
        assert_string_equal(p, c[i][2]);
        free(p);
    }
    assert_true(ac_is_dir(temp_path("")) && ac_exists(temp_path("")));
    assert_true(ac_exists(temp_write("file", "", 0)) && !ac_is_dir(temp_path("file")));
    assert_true(!ac_exists(temp_path("none")) && !ac_is_dir(temp_path("none")));
}

/* ------------------------------------------------------------------------------------------------ JSON */

static ac_diag json_dg;

static ac_json json_open(const char *text)
{
    const char *path = temp_write("c.json", text, strlen(text));
    ac_json j;

    json_dg = (ac_diag){0};
    if (ac_json_open(path, &json_dg, &j) != 0)
        fail_msg("%s", json_dg.msg);
    return j;
}

static void test_json_values(void **state)
{
    ac_json j = json_open("{\"i\":-3,\"f\":2.5,\"whole\":8.0,\"t\":true,\"s\":\"x\",\"z\":null,\"a\":[1,2,3],"
                          "\"names\":[\"p\",\"q\"],\"o\":{\"k\":7}}");
    const char *names[2];
    int a[3];
    ac_json o;

    (void)state;
    assert_int_equal(ac_json_int(&j, "i", 1, -10, 10), -3);
    assert_int_equal(ac_json_int(&j, "whole", 1, 0, 10), 8);
    assert_int_equal(ac_json_int(&j, "none", 11, 0, 10), 11);
    assert_int_equal(ac_json_int(&j, "z", 12, 0, 10), 12);
    assert_true(ac_json_num(&j, "f", 0) == 2.5 && ac_json_num(&j, "i", 0) == -3 && ac_json_num(&j, "none", 1.5) == 1.5);
    assert_true(ac_json_bool(&j, "t", false) && ac_json_bool(&j, "none", true) && !ac_json_bool(&j, "z", false));
    assert_string_equal(ac_json_str(&j, "s", NULL), "x");
    assert_null(ac_json_str(&j, "z", NULL));
    assert_int_equal(ac_json_ints(&j, "a", a, 3), 3);
    assert_true(a[0] == 1 && a[1] == 2 && a[2] == 3);
    assert_int_equal(ac_json_ints(&j, "whole", a, 3), 1);
    assert_int_equal(a[0], 8);
    assert_int_equal(ac_json_ints(&j, "none", a, 3), 0);
    assert_int_equal(ac_json_strs(&j, "names", names, 2), 2);
    assert_string_equal(names[1], "q");
    assert_true(ac_json_has(&j, "a") && !ac_json_has(&j, "z") && !ac_json_has(&j, "none"));
    assert_true(ac_json_sub(&j, "o", &o));
    assert_int_equal(ac_json_int(&o, "k", 0, 0, 10), 7);
    assert_false(ac_json_sub(&j, "none", &o));
    assert_int_equal(j.rc | o.rc, 0);
    ac_json_close(&j);
}

/* One getter each with a value it refuses, and the message. */
static void test_json_types(void **state)
{
    enum { INT, NUM, BOOL, STR, INTS, STRS, SUB };
    static const struct {
        const char *text;
        int getter;
        const char *says;
    } c[] = {
        {"{\"k\":\"3\"}", INT, "c.json: \"k\" is a string: expected an integer"},
        {"{\"k\":1.5}", INT, "\"k\" is a number: expected an integer"},
        {"{\"k\":1e300}", INT, "expected an integer"},
        {"{\"k\":11}", INT, "\"k\" is 11: expected 0 to 10"},
        {"{\"k\":-1}", INT, "\"k\" is -1: expected 0 to 10"},
        {"{\"k\":true}", NUM, "\"k\" is true: expected a number"},
        {"{\"k\":1}", BOOL, "\"k\" is an integer: expected true or false"},
        {"{\"k\":[]}", STR, "\"k\" is an array: expected a string"},
        {"{\"k\":\"x\"}", INTS, "\"k\" is a string: expected an array"},
        {"{\"k\":[1,\"2\"]}", INTS, "expected an array of integers"},
        {"{\"k\":[-1]}", INTS, "expected an array of integers from 0"},
        {"{\"k\":[1,2,3]}", INTS, "\"k\" has 3 elements: expected at most 2"},
        {"{\"k\":{}}", STRS, "\"k\" is an object: expected an array"},
        {"{\"k\":[\"a\",1]}", STRS, "expected an array of strings"},
        {"{\"k\":false}", SUB, "\"k\" is false: expected an object"},
    };

    (void)state;
    for (size_t i = 0; i < AC_LEN(c); i++) {
        ac_json j = json_open(c[i].text), sub;
        const char *strs[2];
        int ints[2];

        switch (c[i].getter) {
        case INT:
            assert_int_equal(ac_json_int(&j, "k", 5, 0, 10), 5);
            break;
        case NUM:
            assert_true(ac_json_num(&j, "k", 5) == 5);
            break;
        case BOOL:
            assert_true(ac_json_bool(&j, "k", true));
            break;
        case STR:
            assert_string_equal(ac_json_str(&j, "k", "default"), "default");
            break;
        case INTS:
            assert_int_equal(ac_json_ints(&j, "k", ints, 2), 0);
            break;
        case STRS:
            assert_int_equal(ac_json_strs(&j, "k", strs, 2), 0);
            break;
        default:
            assert_false(ac_json_sub(&j, "k", &sub));
            assert_int_equal(sub.rc, ADDCL_E_FORMAT);
            assert_int_equal(ac_json_int(&sub, "x", 3, 0, 10), 3);
        }
        assert_int_equal(j.rc, ADDCL_E_FORMAT);
        if (!strstr(json_dg.msg, c[i].says))
            fail_msg("message '%s': expected '%s' in it", json_dg.msg, c[i].says);
        assert_int_equal(ac_json_int(&j, "none", 3, 0, 10), 3); /* sticky: later getters give defaults */
        ac_json_close(&j);
    }
}

static void test_json_files(void **state)
{
    static const struct {
        const char *text, *says;
    } c[] = {{"{\n  \"a\": 1,\n  \"b\" 2\n}", "c.json:3:"},
             {"", "c.json:1:"},
             {"[]", "an array where an object was expected"},
             {"{\"a\":1,\"a\":2}", "duplicate"},
             {"{\"a\":\"\xff\"}", "decode"},
             {"{} x", "c.json:1:"}};
    ac_diag dg;
    ac_json j;

    (void)state;
    for (size_t i = 0; i < AC_LEN(c); i++) {
        dg = (ac_diag){0};
        assert_int_equal(ac_json_open(temp_write("c.json", c[i].text, strlen(c[i].text)), &dg, &j), ADDCL_E_FORMAT);
        if (!strstr(dg.msg, c[i].says))
            fail_msg("message '%s': expected '%s' in it", dg.msg, c[i].says);
        ac_json_close(&j);
    }
    dg = (ac_diag){0};
    assert_int_equal(ac_json_open(temp_path("none.json"), &dg, &j), ADDCL_E_IO);
    ac_json_close(&j);
    assert_int_equal(truncate(temp_path("c.json"), AC_JSON_FILE_MAX + 1), 0);
    assert_int_equal(ac_json_open(temp_path("c.json"), &dg, &j), ADDCL_E_FORMAT);
    ac_json_close(&j);
}

/* "model_max_length" of tokenizers is int(1e30). */
static void test_json_huge_integer(void **state)
{
    ac_json j = json_open("{\"model_max_length\":1000000000000000019884624838656,\"n\":77}");

    (void)state;
    assert_int_equal(ac_json_int(&j, "n", 0, 0, 100), 77);
    assert_true(ac_json_num(&j, "model_max_length", 0) == 1e30);
    assert_int_equal(j.rc, 0);
    ac_json_close(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failing_calls),
        cmocka_unit_test(test_interrupted_and_short),
        cmocka_unit_test(test_folder_without_fsync),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_bad_target),
        cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_json_values),
        cmocka_unit_test(test_json_types),
        cmocka_unit_test(test_json_files),
        cmocka_unit_test(test_json_huge_integer),
    };

    return cmocka_run_group_tests_name("file", tests, temp_setup, temp_teardown);
}
