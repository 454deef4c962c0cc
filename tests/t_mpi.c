/* t_mpi.c - data-parallel training: this program starts mpirun, on add-cl ($ADD_CL, else ./add-cl) and, to look at
 * single steps, on itself. Skipped where the library was built without MPI, or mpirun is not there. */
#include "model_support.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "diff/loss.h"
#include "train/train.h"

enum { PATIENCE = 600, PROMPT = 30 }; /* seconds: for what compiles kernels on a busy machine; for an end that is due */

static const char *self; /* this program's file */

/* ------------------------------------------------------------------------------------------ processes */

static void need_mpi(void)
{
#ifdef HAVE_MPI
    if (system("command -v mpirun >/dev/null") == 0)
        return;
#endif
    skip();
}

/* Starts a command of the shell; its messages go to <temp>/log. */
static pid_t start(const char *command)
{
    pid_t pid = fork();

    if (pid == 0) {
        if (!freopen("/dev/null", "r", stdin) || !freopen(temp_path("log"), "w", stderr) ||
            dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
            _exit(99);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(99);
    }
    assert_true(pid > 0);
    return pid;
}

static void show_log(void)
{
    char line[512];
    FILE *f = fopen(temp_path("log"), "r");

    while (f && fgets(line, sizeof line, f))
        print_message("# %s", line);
    if (f)
        fclose(f);
}

/* The exit code of a process, or 128 + its signal, when it ends in time. */
static int ended(pid_t pid, int seconds)
{
    int status = 0;

    for (int i = 0; i < seconds * 20; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        usleep(50000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    show_log();
    fail_msg("not ended after %d s", seconds);
    return -1;
}

/* A run of examples/emoji/smoke.ini into <temp>/<dir>: `ranks` processes (0: no mpirun) with batches of `batch`. The
 * processes leave their ids in <temp>/pid.<rank>; all but rank 0 also take the arguments in $OTHERS. */
static pid_t start_run(const char *dir, int ranks, int batch, int steps, const char *more)
{
    const char *srcdir = getenv("srcdir"), *program = getenv("ADD_CL");
    char command[4096], launch[1024] = "";

    if (ranks)
        snprintf(launch, sizeof launch,
                 "mpirun --oversubscribe --bind-to none -n %d sh -c 'echo $$ >%s.$OMPI_COMM_WORLD_RANK; "
                 "[ $OMPI_COMM_WORLD_RANK = 0 ] || set -- \"$@\" $OTHERS; exec \"$@\"' run",
                 ranks, temp_path("pid"));
    snprintf(command, sizeof command,
             "exec %s %s train %s/examples/emoji/smoke.ini --progress none --set run.output_dir=%s --set "
             "run.max_train_steps=%d "
             "--set run.report_steps=1 --set data.train_batch_size=%d --set validation.validation_steps=0 --set "
             "validation.sample_steps=0 "
             "--set checkpoint.checkpointing_steps=1 --set checkpoint.checkpoints_total_limit=0 %s",
             launch, program ? program : "./add-cl", srcdir ? srcdir : ".", temp_path(dir), steps, batch, more);
    return start(command);
}

static void whole_run(const char *dir, int ranks, int batch, int steps, const char *more)
{
    int code = ended(start_run(dir, ranks, batch, steps, more), PATIENCE);

    if (code)
        show_log();
    assert_int_equal(code, 0);
}

static pid_t pid_of_rank(int rank)
{
    char name[32];
    long pid = 0;
    FILE *f;

    snprintf(name, sizeof name, "pid.%d", rank);
    f = fopen(temp_path(name), "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld", &pid), 1);
    fclose(f);
    return (pid_t)pid;
}

/* ------------------------------------------------------------------------------------------ results */

/* Opens a checkpoint, every byte of which is checked; step -1: the newest. */
static ac_ckpt *checkpoint(const char *dir, int64_t step)
{
    ac_ckpt *c = NULL;
    ac_diag dg = {0};
    char path[512];

    snprintf(path, sizeof path, "%s/checkpoints/step-%06lld", temp_path(dir), (long long)step);
    if ((step < 0 ? ac_ckpt_latest(temp_path(dir), &dg, &c) : ac_ckpt_open(path, &dg, &c)) < 0)
        fail_msg("%s", dg.msg);
    assert_non_null(c);
    return c;
}

static int64_t newest(const char *dir)
{
    ac_ckpt *c = checkpoint(dir, -1);
    int64_t step = ac_ckpt_step(c);

    ac_ckpt_close(c);
    return step;
}

static bool has_checkpoint(const char *dir, int64_t step)
{
    char path[512];

    snprintf(path, sizeof path, "%s/checkpoints/step-%06lld", temp_path(dir), (long long)step);
    return access(path, F_OK) == 0;
}

static void await_checkpoint(const char *dir, int64_t step)
{
    for (int i = 0; i < PATIENCE * 20 && !has_checkpoint(dir, step); i++)
        usleep(50000);
    if (!has_checkpoint(dir, step))
        show_log();
    assert_true(has_checkpoint(dir, step));
}

/* |a - b| / |b| over all tensors of a kind ("w", "m") of two runs' checkpoints; 0: bit for bit the same. */
static double distance(const char *a, const char *b, int64_t step, const char *kind)
{
    ac_ckpt *ca = checkpoint(a, step), *cb = checkpoint(b, step);
    const ac_st *sa = ac_ckpt_part_of(ca, "unet"), *sb = ac_ckpt_part_of(cb, "unet");
    double diff = 0, norm = 0;
    size_t seen = 0;

    for (size_t i = 0; i < ac_st_count(sb); i++) {
        const ac_st_tensor *t = ac_st_at(sb, i), *u = ac_st_find(sa, t->name);
        assert_non_null(u);
        assert_int_equal(t->bytes, u->bytes);
        if (strncmp(t->name, kind, strlen(kind)) != 0 || t->name[strlen(kind)] != '.')
            continue;
        seen++;
        for (uint64_t k = 0; k < t->bytes / sizeof(float); k++) {
            float x, y;
            memcpy(&x, (const char *)u->data + k * sizeof x, sizeof x);
            memcpy(&y, (const char *)t->data + k * sizeof y, sizeof y);
            diff += ((double)x - (double)y) * ((double)x - (double)y);
            norm += (double)y * (double)y;
        }
    }
    assert_true(seen > 0 && norm > 0);
    ac_ckpt_close(ca);
    ac_ckpt_close(cb);
    return sqrt(diff / norm);
}

static void assert_same_state(const char *a, const char *b, int64_t step)
{
    static const char *const kinds[] = {"w", "m", "v", "ema"};

    for (size_t k = 0; k < AC_LEN(kinds); k++)
        assert_true(distance(a, b, step, kinds[k]) == 0);
}

/* The first n losses of a run's log.csv. */
static void losses(const char *dir, int n, double *loss)
{
    char path[512], line[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/log.csv", temp_path(dir));
    f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    for (int i = 0; i < n; i++) {
        assert_non_null(fgets(line, sizeof line, f));
        assert_int_equal(sscanf(line, "%*d,%lf", &loss[i]), 1);
    }
    fclose(f);
}

static bool file_has(const char *path, const char *text)
{
    char *all = NULL;
    ac_diag dg = {0};
    size_t n;
    bool found = ac_file_read(path, 1 << 24, &dg, &all, &n) == 0 && strstr(all, text);

    free(all);
    return found;
}

static bool was_interrupted(const char *dir)
{
    char path[512];

    snprintf(path, sizeof path, "%s/events.jsonl", temp_path(dir));
    return file_has(path, "interrupted");
}

/* ------------------------------------------------------------------------------------------ runs */

static void alone(void **state)
{
    int seat, seats;
    double v = 3;

    (void)state;
    ac_comm_seat(NULL, &seat, &seats);
    assert_int_equal(ac_comm_rank(NULL), 0);
    assert_int_equal(ac_comm_size(NULL), 1);
    assert_int_equal(seat, 0);
    assert_int_equal(seats, 1);
    assert_int_equal(ac_comm_sum(NULL, &v, 1), 0);
    assert_int_equal(ac_comm_share(NULL, 0, &v, sizeof v), 0);
    assert_true(v == 3);
}

/* One rank, and two with half its batch; gradients show in the first moment after the first step, where it is a tenth
 * of them. */
static void two_are_as_one(void **state)
{
    enum { STEPS = 6 };
    double one[STEPS], two[STEPS], worst = 0, grads, weights;

    (void)state;
    need_mpi();
    whole_run("one", 0, 8, STEPS, "");
    whole_run("two", 2, 4, STEPS, "");
    losses("one", STEPS, one);
    losses("two", STEPS, two);
    for (int i = 0; i < STEPS; i++)
        worst = fmax(worst, fabs(two[i] - one[i]) / one[i]);
    grads = distance("two", "one", 1, "m");
    weights = distance("two", "one", STEPS, "w");
    print_message("# two ranks and one: losses %.2g, gradients %.2g, weights %.2g\n", worst, grads, weights);
    assert_true(worst <= 1e-6);
    assert_true(grads <= 1e-6);
    assert_true(weights <= 1e-6);
}

/* Of as many processes as cores or more: gradients summed in another order are not the same bits, but on every rank
 * they are, else the run would fail at its checkpoints. */
static void three_agree(void **state)
{
    (void)state;
    need_mpi();
    whole_run("three", 3, 2, 3, "");
    assert_int_equal(newest("three"), 3);
}

/* A signal to one rank ends all after the same step; the run that goes on is the one that was never stopped, bit for
 * bit. */
static void stopped_and_resumed(void **state)
{
    int64_t step;
    pid_t run;

    (void)state;
    need_mpi();
    run = start_run("stopped", 2, 4, 100000, "");
    await_checkpoint("stopped", 2);
    kill(pid_of_rank(1), SIGTERM);
    assert_int_not_equal(ended(run, PROMPT), 0);
    assert_true(was_interrupted("stopped"));
    step = newest("stopped");
    whole_run("stopped", 2, 4, (int)step + 2, "--resume");
    whole_run("straight", 2, 4, (int)step + 2, "");
    assert_same_state("stopped", "straight", step);
    assert_same_state("stopped", "straight", step + 2);
}

/* mpirun hands SIGTERM on, some seconds later, and some seconds later still kills. */
static void terminated(void **state)
{
    pid_t run;

    (void)state;
    need_mpi();
    setenv("OMPI_MCA_odls_base_sigkill_timeout", "6", 1);
    run = start_run("terminated", 2, 4, 100000, "");
    await_checkpoint("terminated", 2);
    kill(run, SIGTERM);
    assert_int_not_equal(ended(run, PROMPT), 0);
    unsetenv("OMPI_MCA_odls_base_sigkill_timeout");
    assert_true(newest("terminated") >= 2);
    assert_true(was_interrupted("terminated"));
}

static void killed(void **state)
{
    char dir[16];
    pid_t run;

    (void)state;
    need_mpi();
    for (int rank = 0; rank < 2; rank++) {
        snprintf(dir, sizeof dir, "killed-%d", rank);
        run = start_run(dir, 2, 4, 100000, "");
        await_checkpoint(dir, 2);
        kill(pid_of_rank(rank), SIGKILL);
        assert_int_not_equal(ended(run, PROMPT), 0);
        assert_true(newest(dir) >= 2);
        assert_false(was_interrupted(dir));
    }
}

/* One rank that cannot begin: its message, its exit code, and no rank that waits for ever. */
static void one_fails(void **state)
{
    (void)state;
    need_mpi();
    setenv("OTHERS", "--set data.filter=file_name=noto/*", 1);
    assert_int_equal(ended(start_run("fails", 2, 4, 100000, ""), PATIENCE), 2);
    unsetenv("OTHERS");
    assert_true(file_has(temp_path("log"), "rank 1: an epoch has"));
}

/* ------------------------------------------------------------------------------------------ single steps, as one of
 * the ranks */

enum { N = 70000, WORKER_STEPS = 4, BAD_STEP = 2 }; /* a parameter is a bucket of its own */

/* loss = mean((a x)^2) + mean((b x)^2), a and b at first 1; x is 1 + rank, in the bad step not a number on rank 1. */
static ac_id worker_loss(ac_training *r, ac_graph *g, int B)
{
    ac_shape s = ac_dims(1, N);
    ac_id x = ac_input(g, "x", AC_F32, s), zero = ac_fill(g, s, 0), a = ac_params_leaf(&r->sets[0], g, "a", &s),
          b = ac_params_leaf(&r->sets[0], g, "b", &s);

    (void)B;
    return ac_add(g, ac_loss_mse(g, ac_mul(g, a, x), zero, AC_NONE), ac_loss_mse(g, ac_mul(g, b, x), zero, AC_NONE));
}

static int worker_feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    static float v[N];

    (void)b;
    for (int i = 0; i < N; i++)
        v[i] = r->rank == 1 && r->at.step == BAD_STEP ? NAN : (float)(1 + r->rank);
    return ac_feed(x, "x", v, sizeof v);
}

#define NEED(cond)                                                                                                     \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "rank %d, line %d: " #cond "; %s\n", r->rank, __LINE__, r->dg->msg);                       \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

static bool worker_steps(ac_training *r)
{
    double each = 0, mean = 0; /* of x^2 over the ranks */
    ac_step_result s;

    for (int k = 0; k < r->ranks; k++)
        mean += (1.0 + k) * (1.0 + k) / r->ranks;
    NEED(ac_step_open(r, &r->stepper) == 0);
    NEED(ac_state_share(r) == 0);
    for (int k = 0; k < WORKER_STEPS; k++) {
        NEED(ac_step_run(r, &r->stepper, &s) == 0);
        NEED(s.skipped == (k == BAD_STEP));
        NEED(ac_state_compare(r) == 0);
        if (k == BAD_STEP) { /* every rank tells what rank 1 met */
            NEED(ac_step_blame(r, &r->stepper) == ADDCL_E_DIVERGED);
            NEED(strstr(r->dg->msg, "input x"));
            ac_clear(r->dg);
        }
        if (k > 0)
            continue;
        each = 2 * mean / N; /* the gradient of every value */
        NEED(fabs(s.loss - 2 * mean) <= 1e-6 * 2 * mean);
        NEED(fabs(s.grad_norm - each * sqrt(2.0 * N)) <= 1e-6 * s.grad_norm);
    }
    NEED(r->at.updates == WORKER_STEPS - 1);
    return true;
}

/* What mpirun runs of this program. */
static int worker(void)
{
    static const ac_recipe recipe = {.name = "worker", .measure = "loss", .loss = worker_loss, .feed = worker_feed};
    const char *set[] = {"run.method=diffusion", "run.output_dir=none", "model.config=none", "data.train_data_dir=none",
                         "optimizer.max_grad_norm=0"};
    addcl_ctx ctx = {.dev = NULL};
    ac_training t = {.ctx = &ctx, .dg = &ctx.dg, .recipe = &recipe, .n_sets = 1}, *r = &t;
    ac_train_cfg *cfg = NULL;
    bool good;

    NEED(ac_train_config_load(NULL, set, AC_LEN(set), r->dg, &cfg) == 0);
    NEED(ac_comm_open(r->dg, &r->comm) == 0);
    NEED(ac_dev_open(NULL, r->dg, &r->dev) == 0);
    r->cfg = cfg;
    r->rank = ac_comm_rank(r->comm);
    r->ranks = ac_comm_size(r->comm);
    r->sets[0] = (ac_params){.dev = r->dev, .dg = r->dg, .part = "worker"};
    good = worker_steps(r);
    ac_step_close(&r->stepper);
    ac_params_free(&r->sets[0]);
    ac_train_config_free(cfg);
    ac_dev_close(r->dev);
    if (!good)
        ac_comm_abort(r->comm, 1);
    ac_comm_close(r->comm, true);
    return good;
}

static void steps(void **state)
{
    char command[1024];
    int code;

    (void)state;
    need_mpi();
    for (int n = 2; n <= 3; n++) {
        snprintf(command, sizeof command, "exec mpirun --oversubscribe --bind-to none -n %d %s worker", n, self);
        code = ended(start(command), PATIENCE);
        if (code)
            show_log();
        assert_int_equal(code, 0);
    }
}

static int setup(void **state)
{
    /* on one core each; as root, as in containers; by the transport that every machine has */
    setenv("POCL_MAX_PTHREAD_COUNT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_pml", "ob1", 1);
    return temp_setup(state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(alone),
                                       cmocka_unit_test(steps),
                                       cmocka_unit_test(two_are_as_one),
                                       cmocka_unit_test(three_agree),
                                       cmocka_unit_test(stopped_and_resumed),
                                       cmocka_unit_test(terminated),
                                       cmocka_unit_test(killed),
                                       cmocka_unit_test(one_fails)};

    if (argc > 1 && !strcmp(argv[1], "worker"))
        return !worker();
    self = argv[0];
    return cmocka_run_group_tests_name("mpi", tests, setup, temp_teardown);
}
