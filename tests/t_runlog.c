/* t_runlog.c - the logs of a training: what is in them after resuming, after a kill and on a full disk; TensorBoard. */
#include "support.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/crc32c.h"
#include "base/file.h"
#include "io/folder.h"
#include "io/runlog.h"
#include "io/tfevents.h"

static ac_rundir *open_run(const char *name)
{
    ac_diag dg = {0};
    ac_rundir *run;

    if (ac_rundir_open(temp_path(name), &dg, &run) != 0)
        fail_msg("%s", dg.msg);
    return run;
}

static ac_runlog *open_log(const ac_rundir *run, const char *const *column, size_t n, int64_t step)
{
    ac_diag dg = {0};
    ac_runlog *log;

    if (ac_runlog_open(run, column, n, step, false, &dg, &log) != 0)
        fail_msg("%s", dg.msg);
    return log;
}

static void row(ac_runlog *log, const double *value)
{
    ac_diag dg = {0};

    if (ac_runlog_row(log, value, &dg) != 0)
        fail_msg("%s", dg.msg);
}

static char *load(const char *path, size_t *n)
{
    ac_diag dg = {0};
    char *data;

    if (ac_file_read(path, (size_t)1 << 24, &dg, &data, n) != 0)
        fail_msg("%s", dg.msg);
    return data;
}

static void expect_file(const char *name, const char *want)
{
    size_t n;
    char *text = load(temp_path(name), &n);

    assert_string_equal(text, want);
    free(text);
}

static void append(const char *name, const char *text)
{
    FILE *f = fopen(temp_path(name), "ab");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* ------------------------------------------------------------------------------------------------------- log.csv */

static const char *const three[] = {"step", "loss", "lr"};

static void test_rows(void **state)
{
    ac_rundir *run = open_run("rows");
    ac_runlog *log = open_log(run, three, 3, -1);
    ac_table t;
    ac_diag dg = {0};

    (void)state;
    row(log, (double[]){1, 0.1, 1e-4});
    row(log, (double[]){2, (double)NAN, (double)1e-4f});
    row(log, (double[]){12345678901.0, (double)INFINITY, -3});
    expect_file("rows/log.csv", "step,loss,lr\n1,0.1,0.0001\n2,,9.99999975e-05\n12345678901,inf,-3\n");
    ac_runlog_close(log);
    assert_int_equal(ac_table_read(temp_path("rows/log.csv"), &dg, &t), 0);
    assert_int_equal(t.rows, 3);
    assert_int_equal(t.columns, 3);
    assert_int_equal(ac_table_find(&t, "lr"), 2);
    assert_int_equal(ac_table_find(&t, "l"), -1);
    assert_true(t.value[0] == 1 && t.value[1] == 0.1 && isnan(t.value[4]) && isinf(t.value[7]));
    assert_true((float)t.value[5] == 1e-4f); /* a float comes back bit for bit */
    ac_table_free(&t);
    ac_rundir_close(run);

    assert_int_equal(ac_table_read(temp_path("rows/none.csv"), &dg, &t), 0);
    assert_int_equal(t.columns + t.rows, 0);
    ac_table_free(&t);
}

static void test_resume(void **state)
{
    static const char *const other[] = {"step", "val_loss", "loss"};
    ac_rundir *run = open_run("resume");
    ac_runlog *log = open_log(run, three, 3, -1);

    (void)state;
    for (int i = 1; i <= 5; i++)
        row(log, (double[]){i * 10, 1.0 / i, 1e-3});
    ac_runlog_close(log);
    append("resume/log.csv", "60,0.1"); /* cut short by a kill */

    log = open_log(run, other, 3, 30);
    expect_file("resume/log.csv", "step,val_loss,loss,lr\n10,,1,0.001\n20,,0.5,0.001\n30,,0.333333333,0.001\n");
    row(log, (double[]){40, 2, 3});
    ac_runlog_close(log);
    log = open_log(run, three, 3, 40);
    expect_file("resume/log.csv",
                "step,loss,lr,val_loss\n10,1,0.001,\n20,0.5,0.001,\n30,0.333333333,0.001,\n40,3,,2\n");
    ac_runlog_close(log);
    log = open_log(run, three, 3, 0);
    expect_file("resume/log.csv", "step,loss,lr,val_loss\n");
    ac_runlog_close(log);
    log = open_log(run, three, 3, -1);
    expect_file("resume/log.csv", "step,loss,lr\n");
    ac_runlog_close(log);
    ac_rundir_close(run);
}

static void test_bad_logs(void **state)
{
    static const struct {
        const char *text, *why;
    } bad[] = {{"step,loss,lr\n1,2,3\n1,2\n", ":3: 2 fields, expected 3"},
               {"step,loss\n1,2\n1,2,3\n", ":3: 3 fields, expected 2"},
               {"step,loss\n1,x2\n", ":2: 'x2' is no number"},
               {"loss\n1\n", "no column \"step\""}};
    static const char *const names[][2] = {{"loss", "step"}, {"step", "a,b"}, {"step", "step"}, {"step", ""}};
    ac_rundir *run = open_run("bad");
    ac_runlog *log;

    (void)state;
    for (size_t i = 0; i < AC_LEN(bad); i++) {
        ac_diag dg = {0};
        temp_write("bad/log.csv", bad[i].text, strlen(bad[i].text));
        assert_int_equal(ac_runlog_open(run, three, 3, 9, false, &dg, &log), ADDCL_E_FORMAT);
        assert_null(log);
        if (!strstr(dg.msg, bad[i].why))
            fail_msg("'%s' does not say '%s'", dg.msg, bad[i].why);
        expect_file("bad/log.csv", bad[i].text);
    }
    for (size_t i = 0; i < AC_LEN(names); i++) {
        ac_diag dg = {0};
        assert_int_equal(ac_runlog_open(run, names[i], 2, -1, false, &dg, &log), ADDCL_E_ARG);
    }
    ac_rundir_close(run);
}

/* Rows and events until the disk is full; the files hold whole lines, and go on when there is room again. */
static int fill_up(const char *unused)
{
    const struct rlimit little = {1000, RLIM_INFINITY}, much = {RLIM_INFINITY, RLIM_INFINITY};
    ac_rundir *run = open_run("full");
    ac_runlog *log = open_log(run, three, 3, -1);
    ac_diag dg = {0};
    int i = 0;

    (void)unused;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &little);
    while (ac_runlog_row(log, (double[]){i, 1.0 / 3, 2.0 / 3}, &dg) == 0)
        i++;
    if (i < 20 || dg.code != ADDCL_E_IO || !strstr(dg.msg, "log.csv"))
        return 1;
    ac_clear(&dg);
    while (ac_runlog_event(log, i, "warning", json_pack("{ss}", "message", "text"), &dg) == 0)
        ;
    if (dg.code != ADDCL_E_IO || !strstr(dg.msg, "events.jsonl"))
        return 2;
    ac_clear(&dg);
    setrlimit(RLIMIT_FSIZE, &much);
    if (ac_runlog_row(log, (double[]){i, 0, 0}, &dg) != 0 || ac_runlog_event(log, i, "end", NULL, &dg) != 0)
        return 3;
    ac_runlog_close(log);
    ac_rundir_close(run);
    return i;
}

static void test_full_disk(void **state)
{
    pid_t child = fork();
    int status;
    ac_diag dg = {0};
    ac_table t;
    size_t n;
    char *text;

    (void)state;
    if (child == 0)
        _exit(fill_up(NULL));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) >= 20);
    if (ac_table_read(temp_path("full/log.csv"), &dg, &t) != 0)
        fail_msg("%s", dg.msg);
    assert_int_equal(t.rows, WEXITSTATUS(status) + 1);
    ac_table_free(&t);
    text = load(temp_path("full/events.jsonl"), &n);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *e = json_loadb(line, (size_t)(end - line), 0, NULL);
        assert_non_null(e);
        json_decref(e);
    }
    assert_int_equal(text[n - 1], '\n');
    free(text);
}

/* ------------------------------------------------------------------------------------------------- events.jsonl */

static json_t *line_of(const char *text, int number)
{
    json_t *e;

    for (; number > 0; number--)
        text = strchr(text, '\n') + 1;
    e = json_loadb(text, strcspn(text, "\n"), 0, NULL);
    assert_non_null(e);
    return e;
}

static void test_events(void **state)
{
    ac_rundir *run = open_run("events");
    ac_runlog *log = open_log(run, three, 3, -1);
    ac_diag dg = {0};
    json_t *e;
    char *text;
    size_t n;

    (void)state;
    assert_int_equal(ac_runlog_event(log, 0, "start", NULL, &dg), 0);
    assert_int_equal(ac_runlog_event(log, 7, "skip", json_pack("{ss si}", "tensor", "a\n\"b\"", "step", 9), &dg), 0);
    ac_runlog_close(log);
    append("events/events.jsonl", "{\"time\":\"2026");
    log = open_log(run, three, 3, 7);
    assert_int_equal(ac_runlog_event(log, 7, "resume", NULL, &dg), 0);
    ac_runlog_close(log);
    text = load(temp_path("events/events.jsonl"), &n);
    e = line_of(text, 1);
    assert_int_equal(json_integer_value(json_object_get(e, "step")), 7); /* a field cannot take the place of ours */
    assert_string_equal(json_string_value(json_object_get(e, "kind")), "skip");
    assert_string_equal(json_string_value(json_object_get(e, "tensor")), "a\n\"b\"");
    assert_int_equal(json_string_length(json_object_get(e, "time")), 20);
    json_decref(e);
    e = line_of(text, 2);
    assert_string_equal(json_string_value(json_object_get(e, "kind")), "resume");
    json_decref(e);
    free(text);
    log = open_log(run, three, 3, -1);
    expect_file("events/events.jsonl", "");
    ac_runlog_close(log);
    ac_rundir_close(run);
}

/* ---------------------------------------------------------------------------------------------------- TensorBoard */

static uint64_t little_endian(const uint8_t *p, int n)
{
    uint64_t x = 0;

    while (n-- > 0)
        x = x << 8 | p[n];
    return x;
}

static uint32_t masked(const uint8_t *p, size_t n)
{
    uint32_t c = ac_crc32c(0, p, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

/* Checks the record at *at and moves behind it; its event without the time is `want`. */
static void expect_event(const uint8_t *file, size_t n, size_t *at, const void *want, size_t bytes)
{
    const uint8_t *p = file + *at;
    double when;
    size_t len;

    assert_true(*at + 12 <= n);
    len = (size_t)little_endian(p, 8);
    assert_int_equal(little_endian(p + 8, 4), masked(p, 8));
    assert_true(*at + 16 + len <= n);
    assert_int_equal(little_endian(p + 12 + len, 4), masked(p + 12, len));
    assert_int_equal(p[12], 9); /* field 1, 64 bits: the time */
    memcpy(&when, p + 13, 8);
    assert_true(when > 1e9 && when < 1e11);
    assert_int_equal(len - 9, bytes);
    assert_memory_equal(p + 21, want, bytes);
    *at += 16 + len;
}

/* The content of the n-th file of a folder, by name. */
static uint8_t *nth_file(const char *dir, int number, size_t *n)
{
    struct dirent **e;
    int count = scandir(dir, &e, NULL, alphasort);
    char *path, *data;

    assert_true(count > number + 2);
    path = ac_path_join(dir, e[number + 2]->d_name);
    assert_ptr_equal(strstr(e[number + 2]->d_name, "events.out.tfevents."), e[number + 2]->d_name);
    data = load(path, n);
    for (int i = 0; i < count; i++)
        free(e[i]);
    free(e);
    free(path);
    return (uint8_t *)data;
}

#define EXPECT(bytes) expect_event(file, n, &at, bytes, sizeof bytes - 1)

/* The bytes of the messages are those of protobuf 7's serialiser (which leaves out a step of 0). */
static void test_tfevents(void **state)
{
    static const char png[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\2\0\0\0\3";
    static const char *const tag[] = {"loss", "none", "lr"};
    ac_diag dg = {0};
    ac_tfevents *t;
    uint8_t *file;
    size_t n, at = 0;

    (void)state;
    assert_int_equal(ac_folder_make(temp_path("tb"), &dg), 0);
    assert_int_equal(ac_tfevents_open(temp_path("tb"), 301, &dg, &t), 0);
    assert_int_equal(ac_tfevents_scalars(t, 300, tag, (double[]){0.75, (double)NAN, -2}, 3, &dg), 0);
    assert_int_equal(ac_tfevents_scalars(t, 300, tag + 1, (double[]){(double)NAN}, 1, &dg), 0); /* adds nothing */
    assert_int_equal(ac_tfevents_png(t, 300, "s", png, sizeof png, &dg), 0);
    assert_int_equal(ac_tfevents_png(t, 300, "s", png, 23, &dg), ADDCL_E_FORMAT);
    ac_tfevents_close(t);
    file = nth_file(temp_path("tb"), 0, &n);
    EXPECT("\x10\0\x1a\rbrain.Event:2");
    EXPECT("\x10\xad\2:\2\x08\1");
    EXPECT("\x10\xac\2*\x18\n\x0b\n\4loss\x15\0\0\x40\x3f\n\t\n\2lr\x15\0\0\0\xc0");
    EXPECT("\x10\xac\2*)\n'\n\1s\"\"\x08\3\x10\x82\2\x18\3\"\x19\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\2\0\0\0\3\0");
    assert_int_equal(at, n);
    free(file);
    ac_clear(&dg);
    assert_int_equal(ac_tfevents_open(temp_path("no-folder"), 301, &dg, &t), ADDCL_E_IO);
    assert_null(t);
}

/* The rows of the log are scalars too, and a second part of a run has a file of its own. */
static void test_log_to_tensorboard(void **state)
{
    ac_rundir *run = open_run("board");
    ac_diag dg = {0};
    ac_runlog *log;
    size_t n, at;

    (void)state;
    for (int part = 0; part < 2; part++) {
        assert_int_equal(ac_runlog_open(run, three, 3, part == 0 ? -1 : 300, true, &dg, &log), 0);
        row(log, (double[]){300, 0.75, -2});
        assert_int_equal(ac_runlog_picture(log, 300, "s", temp_path("none.png"), &dg), ADDCL_E_IO);
        ac_clear(&dg);
        ac_runlog_close(log);
    }
    for (int part = 0; part < 2; part++) {
        uint8_t *file = nth_file(temp_path("board/tb"), part, &n);
        at = 0;
        EXPECT("\x10\0\x1a\rbrain.Event:2");
        if (part == 0)
            EXPECT("\x10\0:\2\x08\1");
        else
            EXPECT("\x10\xad\2:\2\x08\1");
        EXPECT("\x10\xac\2*\x18\n\x0b\n\4loss\x15\0\0\x40\x3f\n\t\n\2lr\x15\0\0\0\xc0");
        assert_int_equal(at, n);
        free(file);
    }
    ac_rundir_close(run);
}

/* Memory is short at every place: an error, and what was written is still whole. */
static void test_no_memory(void **state)
{
    ac_rundir *run = open_run("memory");
    ac_runlog *log = open_log(run, three, 3, -1);
    bool done = false;

    (void)state;
    row(log, (double[]){1, 2, 3});
    ac_runlog_close(log);
    for (unsigned long i = 1; !done; i++) {
        ac_diag dg = {0};
        ac_table t = {0};
        ac_alloc_fail_at(i);
        done = ac_runlog_open(run, three, 3, 1, true, &dg, &log) == 0 &&
               ac_runlog_row(log, (double[]){2, 2, 3}, &dg) == 0 && ac_runlog_event(log, 2, "end", NULL, &dg) == 0;
        ac_runlog_close(log);
        assert_true(done || dg.code == ADDCL_E_NOMEM);
        ac_alloc_fail_at(0);
        assert_int_equal(ac_table_read(temp_path("memory/log.csv"), &dg, &t), 0);
        assert_true(t.rows >= 1 && t.rows <= 2 && t.value[0] == 1);
        ac_table_free(&t);
    }
    ac_rundir_close(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_resume),
        cmocka_unit_test(test_bad_logs),  cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_events),    cmocka_unit_test(test_tfevents),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_log_to_tensorboard),
    };
    return cmocka_run_group_tests_name("runlog", tests, temp_setup, temp_teardown);
}
