/* t_ckpt.c - checkpoints and run folders: what is read back, and what survives kills, failing disks and flipped bits.
 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/crc32c.h"
#include "base/file.h"
#include "io/ckpt.h"
#include "io/folder.h"

/* ------------------------------------------------------------------------------------------------ failing calls */

/* The calls of the C library that checkpoints are made with, replaced for this program: call number `fail_at` fails
 * with `fail_errno`; 0: none. */
static int calls, fail_at, fail_errno;

static bool failing(void)
{
    if (++calls != fail_at)
        return false;
    errno = fail_errno;
    return true;
}

ssize_t write(int fd, const void *p, size_t n)
{
    return failing() ? -1 : syscall(SYS_write, fd, p, n);
}

/* Processes are killed here, not machines: nothing need reach the disk. */
int fsync(int fd)
{
    (void)fd;
    return failing() ? -1 : 0;
}

int rename(const char *from, const char *to)
{
    return failing() ? -1 : renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int mkdir(const char *path, mode_t mode)
{
    return failing() ? -1 : mkdirat(AT_FDCWD, path, mode);
}

int close(int fd)
{
    int r = (int)syscall(SYS_close, fd);
    return failing() ? -1 : r;
}

/* ------------------------------------------------------------------------------------------------------- support */

/* What the checkpoint of a step holds: two parts, whose elements depend on the step, the tensor and the index. */
#define LARGE 20000

static const ac_st_entry unet[] = {{"model/conv.weight", AC_ST_F32, 2, {100, LARGE / 100}},
                                   {"model/none", AC_ST_F32, 1, {0}},
                                   {"model/scale", AC_ST_F32, 0, {0}},
                                   {"m/conv.weight", AC_ST_F16, 1, {77}}};
static const ac_st_entry text[] = {{"ema/embedding", AC_ST_F32, 1, {333}}};

typedef struct source {
    int64_t step;
    const char *part;
} source;

static uint8_t byte_at(const source *s, size_t tensor, size_t i)
{
    return (uint8_t)((uint64_t)s->step * 31 + (uint64_t)s->part[0] * 7 + tensor * 13 + i * 5 + (i >> 8));
}

static int fill(void *user, size_t tensor, void *dst, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)dst)[i] = byte_at(user, tensor, i);
    return 0;
}

static int write_step(ac_rundir *run, int64_t step, ac_diag *dg)
{
    source u = {step, "unet"}, t = {step, "text"};
    const ac_ckpt_part parts[] = {{"unet", unet, AC_LEN(unet), fill, &u}, {"text", text, AC_LEN(text), fill, &t}};
    json_t *state = json_pack("{sI sI sf s[iii]}", "step", (json_int_t)step, "rng", (json_int_t)INT64_MIN, "lr",
                              1e-4 / 3, "position", 1, 2, 3);
    int rc = ac_ckpt_write(run, step, parts, AC_LEN(parts), state, dg);

    json_decref(state);
    return rc;
}

/* Does the open checkpoint hold what write_step wrote? */
static bool same_part(const ac_ckpt *c, const char *name, const ac_st_entry *e, size_t n)
{
    const source s = {ac_ckpt_step(c), name};
    const ac_st *st = ac_ckpt_part_of(c, name);

    if (!st || ac_st_count(st) != n)
        return false;
    for (size_t i = 0; i < n; i++) {
        const ac_st_tensor *t = ac_st_find(st, e[i].name);
        if (!t)
            return false;
        for (size_t k = 0; k < t->bytes; k++)
            if (((const uint8_t *)t->data)[k] != byte_at(&s, i, k))
                return false;
    }
    return true;
}

static bool whole(const ac_ckpt *c)
{
    const json_t *state = ac_ckpt_state(c);

    return same_part(c, "unet", unet, AC_LEN(unet)) && same_part(c, "text", text, AC_LEN(text)) &&
           json_integer_value(json_object_get(state, "step")) == ac_ckpt_step(c) &&
           json_integer_value(json_object_get(state, "rng")) == INT64_MIN &&
           json_real_value(json_object_get(state, "lr")) == 1e-4 / 3;
}

/* Step of the newest whole checkpoint, 0: there is none, -1: an error or wrong content. */
static int64_t latest(const char *dir)
{
    ac_diag dg = {0};
    ac_ckpt *c;
    int64_t step;

    if (ac_ckpt_latest(dir, &dg, &c) != 0)
        return -1;
    step = !c ? 0 : whole(c) ? ac_ckpt_step(c) : -1;
    ac_ckpt_close(c);
    return step;
}

static ac_rundir *open_run(const char *dir)
{
    ac_diag dg = {0};
    ac_rundir *run;

    if (ac_rundir_open(dir, &dg, &run) != 0)
        fail_msg("%s", dg.msg);
    return run;
}

static ac_rundir *run_with(const char *name, int64_t steps)
{
    ac_rundir *run = open_run(temp_path(name));
    ac_diag dg = {0};

    for (int64_t i = 1; i <= steps; i++)
        if (write_step(run, i * 100, &dg) != 0)
            fail_msg("%s", dg.msg);
    return run;
}

/* Names in <run>/checkpoints, sorted and joined by spaces, but hidden ones when `hidden` is false. */
static const char *names(const char *dir, bool hidden)
{
    static char all[4096];
    char path[2100];
    struct dirent **e;
    int n;

    snprintf(path, sizeof path, "%s/checkpoints", dir);
    n = scandir(path, &e, NULL, alphasort);
    assert_true(n >= 2);
    all[0] = '\0';
    for (int i = 0; i < n; i++) {
        if (strcmp(e[i]->d_name, ".") != 0 && strcmp(e[i]->d_name, "..") != 0 && (hidden || e[i]->d_name[0] != '.'))
            snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", *all ? " " : "", e[i]->d_name);
        free(e[i]);
    }
    free(e);
    return all;
}

/* The notes of a call, one after the other. */
static char notes[8192];
static void on_note(void *user, int level, const char *s)
{
    (void)user, (void)level;
    snprintf(notes + strlen(notes), sizeof notes - strlen(notes), "%s\n", s);
}

static void has(const char *message, const char *part)
{
    if (!strstr(message, part))
        fail_msg("'%s' does not say '%s'", message, part);
}

/* -------------------------------------------------------------------------------------------------------- content */

static void test_crc32c(void **state)
{
    uint8_t zero[32] = {0}, count[32];

    (void)state;
    for (uint8_t i = 0; i < 32; i++)
        count[i] = i;
    assert_int_equal(ac_crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(ac_crc32c(0, zero, 32), 0x8a9136aa); /* RFC 3720, B.4 */
    assert_int_equal(ac_crc32c(0, count, 32), 0x46dd794e);
    for (size_t i = 0; i <= 32; i++)
        assert_int_equal(ac_crc32c(ac_crc32c(0, count, i), count + i, 32 - i), 0x46dd794e);
}

static void test_round_trip(void **state)
{
    ac_rundir *run = run_with("round", 0);
    const char *dir = ac_rundir_path(run);
    ac_diag dg = {0};
    ac_ckpt *c;

    (void)state;
    assert_int_equal(ac_ckpt_latest(dir, &dg, &c), 0);
    assert_null(c);
    assert_int_equal(write_step(run, 7, &dg), 0);
    assert_int_equal(write_step(run, 1234567, &dg), 0);
    assert_string_equal(names(dir, true), "step-000007 step-1234567");
    assert_int_equal(latest(dir), 1234567);
    assert_int_equal(write_step(run, 7, &dg), 0); /* one that is there is replaced */
    assert_string_equal(names(dir, true), "step-000007 step-1234567");
    assert_int_equal(ac_ckpt_open(temp_path("round/checkpoints/step-000007"), &dg, &c), 0);
    assert_true(whole(c));
    assert_int_equal(ac_ckpt_step(c), 7);
    assert_null(ac_ckpt_part_of(c, "vae"));
    ac_ckpt_close(c);
    ac_rundir_close(run);
    assert_int_equal(ac_ckpt_latest(temp_path("nowhere"), &dg, &c), 0);
    assert_null(c);
}

static void test_rotate(void **state)
{
    ac_rundir *run = run_with("rotate", 7);
    const char *dir = ac_rundir_path(run);
    ac_diag dg = {.note = on_note};

    (void)state;
    assert_int_equal(mkdir(temp_path("rotate/checkpoints/step-5"), 0777), 0); /* not ours: stays */
    assert_int_equal(ac_ckpt_rotate(run, 0, 0, &dg), 0);
    assert_string_equal(names(dir, true), "step-000100 step-000200 step-000300 step-000400 step-000500 step-000600 "
                                          "step-000700 step-5");
    assert_int_equal(ac_ckpt_rotate(run, 2, 300, &dg), 0);
    assert_string_equal(names(dir, true), "step-000300 step-000600 step-000700 step-5");
    assert_int_equal(ac_ckpt_rotate(run, 1, 0, &dg), 0);
    assert_string_equal(names(dir, true), "step-000700 step-5");

    for (int i = 0; i < 2; i++) { /* the second time there is one aside already */
        assert_int_equal(write_step(run, 800, &dg), 0);
        notes[0] = '\0';
        assert_int_equal(ac_ckpt_rewind(run, 700, &dg), 0);
        assert_string_equal(names(dir, true), "step-000700 step-000800.aside step-5");
        has(notes, "goes on from step 700");
    }
    assert_int_equal(latest(dir), 700);
    ac_rundir_close(run);
}

/* --------------------------------------------------------------------------------------------------------- damage */

static const char *const files[] = {"manifest.json", "state.json", "unet.safetensors", "text.safetensors"};

static char *load(const char *path, size_t *n)
{
    ac_diag dg = {0};
    char *data;

    if (ac_file_read(path, (size_t)1 << 24, &dg, &data, n) != 0)
        fail_msg("%s", dg.msg);
    return data;
}

static void store(const char *path, const char *data, size_t n)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Is the checkpoint in `path` refused, or does it at least hold what was written? (A flipped bit in a blank of JSON
 * changes nothing.) */
static bool noticed(const char *path, ac_diag *dg)
{
    ac_ckpt *c;
    bool good;

    ac_clear(dg);
    if (ac_ckpt_open(path, dg, &c) != 0)
        return dg->code == ADDCL_E_FORMAT || dg->code == ADDCL_E_UNSUPPORTED;
    good = whole(c);
    ac_ckpt_close(c);
    return good;
}

static void test_flipped_bits(void **state)
{
    ac_rundir *run = run_with("flip", 1);
    const char *dir = temp_path("flip/checkpoints/step-000100");
    uint32_t rng = 1;
    ac_diag dg = {0};

    (void)state;
    for (int i = 0; i < 1000; i++) {
        char path[2100], *data;
        size_t n, at;
        snprintf(path, sizeof path, "%s/%s", dir, files[i % 4]);
        data = load(path, &n);
        rng = rng * 1664525 + 1013904223;
        at = (size_t)((uint64_t)rng * n >> 32);
        data[at] = (char)(data[at] ^ 1 << (rng & 7));
        store(path, data, n);
        if (!noticed(dir, &dg))
            fail_msg("%s: bit %u of byte %zu of %zu", path, rng & 7, at, n);
        data[at] = (char)(data[at] ^ 1 << (rng & 7));
        store(path, data, n);
        free(data);
    }
    assert_int_equal(latest(ac_rundir_path(run)), 100);
    ac_rundir_close(run);
}

static void test_truncated(void **state)
{
    ac_rundir *run = run_with("cut", 1);
    const char *dir = temp_path("cut/checkpoints/step-000100");
    ac_diag dg = {0};
    ac_ckpt *c;

    (void)state;
    for (int i = 0; i < 4; i++) {
        char path[2100], *data;
        size_t n;
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        data = load(path, &n);
        for (size_t k = 0; k < n; k += AC_MAX(n / 20, 1)) {
            ac_clear(&dg);
            store(path, data, k);
            assert_int_equal(ac_ckpt_open(dir, &dg, &c), ADDCL_E_FORMAT);
            has(dg.msg, files[i]);
        }
        ac_clear(&dg);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(ac_ckpt_open(dir, &dg, &c), ADDCL_E_IO);
        has(dg.msg, files[i]);
        store(path, data, n);
        free(data);
    }
    ac_rundir_close(run);
}

/* A damaged newest checkpoint is passed over, and the note names file and tensor. */
static void test_fall_back(void **state)
{
    ac_rundir *run = run_with("fall", 3);
    const char *dir = ac_rundir_path(run), *path = temp_path("fall/checkpoints/step-000300/unet.safetensors");
    ac_diag dg = {.note = on_note};
    ac_ckpt *c;
    size_t n;
    char *data = load(path, &n);

    (void)state;
    data[n - 1000] ^= 4;
    store(path, data, n);
    free(data);
    notes[0] = '\0';
    assert_int_equal(ac_ckpt_latest(dir, &dg, &c), 0);
    assert_int_equal(ac_ckpt_step(c), 200);
    ac_ckpt_close(c);
    has(notes, "step-000300/unet.safetensors': tensor 'model/conv.weight' is damaged");

    for (int i = 1; i <= 2; i++)
        assert_int_equal(unlink(temp_path(i == 1 ? "fall/checkpoints/step-000100/manifest.json"
                                                 : "fall/checkpoints/step-000200/state.json")),
                         0);
    assert_int_equal(ac_ckpt_latest(dir, &dg, &c), ADDCL_E_FORMAT);
    assert_null(c);
    has(dg.msg, "none of the 3 checkpoints");
    ac_rundir_close(run);
}

/* ------------------------------------------------------------------------------------------------ killed processes */

/* What can be left behind, and what becomes of it. */
static void test_recovery(void **state)
{
    ac_rundir *run = run_with("left", 2);
    const char *at = temp_path("left/checkpoints");
    char from[2200], to[2200];

    (void)state;
    for (int i = 0; i < 2; i++) {
        static const char *const move[2][2] = {{"step-000100", ".step-000100.old-77"}, /* name free: it comes back */
                                               {"step-000200", ".step-000200.trash-77"}};
        snprintf(from, sizeof from, "%s/%s", at, move[i][0]);
        snprintf(to, sizeof to, "%s/%s", at, move[i][1]);
        assert_int_equal(rename(from, to), 0);
    }
    assert_int_equal(mkdir(temp_path("left/checkpoints/.step-000300.tmp-78"), 0777), 0);
    temp_write("left/checkpoints/.step-000300.tmp-78/unet.safetensors.tmp-78-0", "x", 1);
    temp_write("left/log.csv.tmp-78-0", "x", 1);
    temp_write("left/samples/step.tmp-a-0", "x", 1); /* somebody else's */
    ac_rundir_close(run);
    run = open_run(temp_path("left"));
    assert_string_equal(names(ac_rundir_path(run), true), "step-000100");
    assert_false(ac_exists(temp_path("left/log.csv.tmp-78-0")));
    assert_true(ac_exists(temp_path("left/samples/step.tmp-a-0")));

    assert_int_equal(mkdir(temp_path("left/checkpoints/.step-000100.old-77"), 0777), 0); /* replaced, not yet removed */
    ac_rundir_close(run);
    run = open_run(temp_path("left"));
    assert_string_equal(names(ac_rundir_path(run), true), "step-000100");
    assert_int_equal(latest(ac_rundir_path(run)), 100);
    ac_rundir_close(run);
}

/* Writes checkpoints until it is killed, every third one twice. *done is the last step whose checkpoint is written. */
static void train(const char *dir, volatile int64_t *done)
{
    ac_diag dg = {0};
    ac_rundir *run;
    int64_t step;

    if (ac_rundir_open(dir, &dg, &run) != 0 || (step = latest(dir)) < 0 || ac_ckpt_rewind(run, step, &dg) != 0)
        _exit(1);
    for (;;) {
        step++;
        for (int i = 0; i < (step % 3 ? 1 : 2); i++)
            if (write_step(run, step, &dg) != 0)
                _exit(2);
        *done = step;
        if (ac_ckpt_rotate(run, 2, 10, &dg) != 0)
            _exit(3);
    }
}

static void test_kill(void **state)
{
    int64_t *done = mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const char *count = getenv("ADDCL_TEST_KILLS"), *dir = temp_path("kill");
    uint32_t rng = 1;

    (void)state;
    assert_ptr_not_equal(done, MAP_FAILED);
    for (int i = 0; i < (count ? atoi(count) : 20); i++) {
        int64_t step;
        int status;
        pid_t child = fork();
        if (child == 0)
            train(dir, done);
        assert_true(child > 0);
        rng = rng * 1664525 + 1013904223;
        usleep(10000 + rng % 60000);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSIGNALED(status))
            fail_msg("the child ended by itself: %d", status);
        ac_rundir_close(open_run(dir));
        step = latest(dir);
        if (step < *done || step > *done + 1)
            fail_msg("kill %d: the newest checkpoint is of step %" PRId64 ", written was %" PRId64, i, step, *done);
        if (strstr(names(dir, true), ".step"))
            fail_msg("kill %d: left behind: %s", i, names(dir, true));
        *done = step;
    }
    if (*done < 3)
        fail_msg("only %" PRId64 " checkpoints were written: the test shows nothing", *done);
    munmap(done, sizeof *done);
}

static void test_lock(void **state)
{
    const char *dir = temp_path("lock");
    int s[2], status;
    char c, who[32];
    ac_diag dg = {0};
    ac_rundir *run;
    pid_t child;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    if ((child = fork()) == 0) {
        close(s[0]);
        run = open_run(dir);
        if (write(s[1], run ? "x" : "", 1) == 1)
            (void)!read(s[1], &c, 1); /* until this test ends, however it does */
        _exit(1);
    }
    close(s[1]);
    assert_int_equal(read(s[0], &c, 1), 1);
    assert_int_equal(ac_rundir_open(dir, &dg, &run), ADDCL_E_IO);
    assert_null(run);
    snprintf(who, sizeof who, "process %ld ", (long)child);
    has(dg.msg, who);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    ac_clear(&dg);
    assert_int_equal(ac_rundir_open(dir, &dg, &run), 0);
    ac_rundir_close(run);
    close(s[0]);
}

/* -------------------------------------------------------------------------------------------------- failing disks */

/* Every call of a writing fails once. What was there stays, nothing half-made is seen, and a new trainer finds all in
 * order. `again`: the checkpoint replaces one of the same step. */
static void check_failing(const char *name, int64_t step, int error)
{
    ac_rundir *run = run_with(name, 2);
    ac_diag dg = {0};
    int total, failures = 0;

    calls = 0;
    assert_int_equal(write_step(run, step, &dg), 0);
    total = calls;
    assert_true(total > 15);
    ac_rundir_close(run);
    for (int i = 1; i <= total; i++) {
        int64_t found;
        int rc;
        run = open_run(temp_path(name));
        if (step > 200)
            assert_int_equal(ac_ckpt_rotate(run, 0, 0, &dg) + ac_ckpt_rewind(run, 200, &dg), 0);
        ac_clear(&dg);
        calls = 0;
        fail_at = i;
        fail_errno = error;
        rc = write_step(run, step, &dg);
        fail_at = 0;
        failures += rc != 0;
        if (rc != 0)
            has(dg.msg, "is not written");
        if (strstr(names(ac_rundir_path(run), true), ".tmp-"))
            fail_msg("call %d: not cleared away: %s", i, names(ac_rundir_path(run), true));
        if (latest(ac_rundir_path(run)) < 200)
            fail_msg("call %d: a checkpoint is missing: %s", i, names(ac_rundir_path(run), true));
        ac_rundir_close(run);
        run = open_run(temp_path(name));
        found = latest(ac_rundir_path(run));
        if (found != step && !(rc != 0 && found == 200))
            fail_msg("call %d: result %d, newest %" PRId64, i, rc, found);
        if (strstr(names(ac_rundir_path(run), true), ".step"))
            fail_msg("call %d: left behind: %s", i, names(ac_rundir_path(run), true));
        ac_rundir_close(run);
    }
    assert_true(failures > total / 2);
}

static void test_failing_calls(void **state)
{
    (void)state;
    check_failing("fail-new", 300, ENOSPC);
    check_failing("fail-again", 200, EIO);
}

/* Runs f in a process of its own, 0: it held. `dir` is a run folder with checkpoints up to step 200. */
static int in_child(int (*f)(const char *dir), const char *dir)
{
    pid_t child = fork();
    int status;

    if (child == 0)
        _exit(f(dir));
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 200;
}

/* A checkpoint cannot be written: the message says `why`, the path and the size, and nothing is left behind. */
static int expect_refusal(ac_rundir *run, const char *why)
{
    ac_diag dg = {0};

    if (write_step(run, 300, &dg) != ADDCL_E_IO)
        return 3;
    if (!strstr(dg.msg, why) || !strstr(dg.msg, "step-000300") || !strstr(dg.msg, "of 81490 bytes is not written"))
        return fprintf(stderr, "unexpected message: %s\n", dg.msg), 4;
    return 0;
}

/* Files can have no more than 40,000 bytes. */
static int limited(const char *dir)
{
    const struct rlimit limit = {40000, 40000};
    ac_rundir *run = open_run(dir);
    int r;

    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
        return 2;
    r = expect_refusal(run, "File too large");
    ac_rundir_close(run);
    return r ? r : strcmp(names(dir, true), "step-000100 step-000200") != 0;
}

static void test_file_limit(void **state)
{
    (void)state;
    ac_rundir_close(run_with("limit", 2));
    assert_int_equal(in_child(limited, temp_path("limit")), 0);
    assert_int_equal(latest(temp_path("limit")), 200);
}

#define NO_MOUNT 77

/* A file system with room for two checkpoints, seen by this process alone. */
static int full(const char *dir)
{
    ac_rundir *run;
    int r;

    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mkdir(dir, 0777) != 0 || mount("none", dir, "tmpfs", 0, "size=256k") != 0)
        return NO_MOUNT;
    run = run_with("full", 2);
    r = expect_refusal(run, "No space left on device");
    ac_rundir_close(run);
    if (r == 0 && (latest(dir) != 200 || strcmp(names(dir, true), "step-000100 step-000200") != 0))
        r = 5;
    umount(dir);
    return r;
}

static void test_full_disk(void **state)
{
    int r;

    (void)state;
    r = in_child(full, temp_path("full"));
    if (r == NO_MOUNT)
        skip();
    assert_int_equal(r, 0);
}

/* As a user who may not write there. */
static int unprivileged(const char *dir)
{
    ac_rundir *run = open_run(dir);
    char path[2200];
    int r;

    snprintf(path, sizeof path, "%s/checkpoints", dir);
    if (chmod(path, 0555) != 0 || (geteuid() == 0 && seteuid(65534) != 0))
        return 2;
    r = expect_refusal(run, "Permission denied");
    ac_rundir_close(run);
    return r;
}

static void test_read_only(void **state)
{
    const char *dir = temp_path("read-only");

    (void)state;
    assert_int_equal(chmod(temp_path(""), 0755), 0);
    ac_rundir_close(run_with("read-only", 2));
    assert_int_equal(in_child(unprivileged, dir), 0);
    assert_int_equal(latest(dir), 200);
    assert_int_equal(chmod(temp_path("read-only/checkpoints"), 0755), 0);
}

static void test_vanished_folder(void **state)
{
    ac_rundir *run = run_with("gone", 1);
    ac_diag dg = {0};

    (void)state;
    assert_int_equal(ac_folder_remove(temp_path("gone/checkpoints"), &dg), 0);
    assert_int_equal(expect_refusal(run, "No such file or directory"), 0);
    ac_rundir_close(run);
}

/* A state that could not be read again is not written. */
static void test_large_state(void **state)
{
    ac_rundir *run = run_with("large", 1);
    char *long_text = calloc(1, ((size_t)16 << 20) + 1);
    ac_diag dg = {0};
    json_t *s;

    (void)state;
    assert_non_null(long_text);
    memset(long_text, 'x', (size_t)16 << 20);
    s = json_pack("{ss}", "text", long_text);
    assert_int_equal(ac_ckpt_write(run, 200, NULL, 0, s, &dg), ADDCL_E_ARG);
    has(dg.msg, "state.json would have 16777");
    assert_int_equal(latest(ac_rundir_path(run)), 100);
    json_decref(s);
    free(long_text);
    ac_rundir_close(run);
}

/* Memory is short at every place. */
static void test_no_memory(void **state)
{
    ac_rundir *run = run_with("memory", 1);
    ac_diag dg = {0};
    unsigned long n;

    (void)state;
    ac_alloc_fail_at(0);
    assert_int_equal(write_step(run, 200, &dg), 0);
    assert_int_equal(latest(ac_rundir_path(run)), 200);
    n = ac_alloc_fail_at(0);
    for (unsigned long i = 1; i <= n; i++) {
        ac_ckpt *c = NULL;
        ac_clear(&dg);
        ac_alloc_fail_at(i);
        if (write_step(run, 200, &dg) == 0 && ac_ckpt_latest(ac_rundir_path(run), &dg, &c) == 0)
            assert_non_null(c);
        ac_alloc_fail_at(0);
        ac_ckpt_close(c);
        assert_int_equal(latest(ac_rundir_path(run)), 200);
    }
    ac_rundir_close(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c),     cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_rotate),     cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_truncated),  cmocka_unit_test(test_fall_back),
        cmocka_unit_test(test_recovery),   cmocka_unit_test(test_kill),
        cmocka_unit_test(test_lock),       cmocka_unit_test(test_failing_calls),
        cmocka_unit_test(test_file_limit), cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_read_only),  cmocka_unit_test(test_vanished_folder),
        cmocka_unit_test(test_no_memory),  cmocka_unit_test(test_large_state),
    };
    return cmocka_run_group_tests_name("ckpt", tests, temp_setup, temp_teardown);
}
