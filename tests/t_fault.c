/* t_fault.c - what happens when something fails on the way: every allocation of host memory, calls of OpenCL.
 *
 * OpenCL's faults come from tests/fault_layer.c, which the loader puts between the library and the driver of a child
 * process: this program again, with the argument "sample". */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rng.h"
#include "ops/ops.h"

/* The model that the repository has, from the source tree. */
static const char *model_path(void)
{
    static char path[4096];

    return source_path(path, sizeof path, "models/emoji-teacher");
}

static int sample(addcl_model *m)
{
    const char *prompt = "red heart";
    addcl_sample_opts o = ADDCL_SAMPLE_OPTS_INIT;

    o.prompts = &prompt;
    o.n_prompts = 1;
    o.steps = 1;
    o.seed = 1;
    o.width = o.height = 32;
    return addcl_sample(m, &o, NULL);
}

/* ------------------------------------------------------------------------------------------ host memory */

/* Success, or E_NOMEM with a message of one line. Data that ship with the library count as absent where the memory to
 * look for them is short. */
static void assert_orderly(int rc, const char *msg, const char *what, unsigned long n)
{
    if (rc == 0 || (rc == ADDCL_E_IO && strstr(msg, "which ships with add-cl, was not found")))
        return;
    if (rc != ADDCL_E_NOMEM || !*msg || strchr(msg, '\n'))
        fail_msg("%s: allocation %lu fails, and that gives %s: \"%s\"", what, n, addcl_code_name(rc), msg);
}

/* Builds, makes ready and runs a graph that uses every pass. */
static int run_small_graph(ac_dev *dev, ac_diag *dg)
{
    static float w[24 * 12 + 24], x[3 * 12], y[3 * 24];
    const ac_values vw = {.name = "w", .data = w, .shape = {2, {24, 12}}},
                    vb = {.name = "b", .data = w + 24 * 12, .shape = {1, {24}}};
    ac_graph *g = ac_graph_new(dg, AC_F16);
    ac_exec *e = NULL;
    const char *top;
    ac_id in, p;
    int rc;

    if (!g)
        return ac_nomem(dg, sizeof *g);
    top = ac_scope(g, "%s", "block");
    in = ac_input(g, "x", AC_F32, ac_dims(2, 3, 12));
    p = ac_silu(g, ac_linear(g, in, ac_scale(g, ac_param(g, &vw), 2, 0), ac_param(g, &vb), AC_ACT_NONE));
    p = ac_linear_geglu(g, in, ac_param(g, &vw), AC_NONE);
    p = ac_concat(g, p, ac_group_norm(g, in, ac_fill(g, ac_dims(1, 12), 1), ac_fill(g, ac_dims(1, 12), 0), 3, 1e-5, 0),
                  1);
    ac_scope_end(g, top);
    ac_set_output(g, "y", p);
    AC_TRY(ac_exec_new(dev, g, NULL, &e));
    AC_TRY(ac_feed(e, "x", x, sizeof x));
    AC_TRY(ac_run(e));
    AC_TRY(ac_fetch(e, "y", y, sizeof y));
out:
    ac_exec_free(e);
    ac_graph_free(g);
    return rc;
}

static void memory_of_graphs(void **state)
{
    ac_diag dg = {0};
    ac_dev *dev = NULL;
    unsigned long n = 0, made;
    uint64_t used;
    int rc;

    (void)state;
    assert_int_equal(ac_dev_open(NULL, &dg, &dev), 0);
    used = ac_dev_used(dev);
    do {
        ac_clear(&dg);
        ac_alloc_fail_at(++n);
        rc = run_small_graph(dev, &dg);
        made = ac_alloc_fail_at(0);
        assert_orderly(rc, dg.msg, "graph", n);
        assert_int_equal(ac_dev_used(dev), used); /* buffers are given back */
    } while (made >= n);                          /* until the run ended before its n-th allocation */
    assert_int_equal(rc, 0);
    assert_true(n > 40);
    ac_dev_close(dev);
}

static void memory_of_devices(void **state)
{
    unsigned long n = 0, made;

    (void)state;
    do {
        addcl_ctx *ctx = addcl_new();
        int rc;
        ac_alloc_fail_at(++n);
        rc = addcl_open_device(ctx, NULL);
        made = ac_alloc_fail_at(0);
        assert_orderly(rc, addcl_error(ctx), "device", n);
        addcl_free(ctx);
    } while (made >= n);
    assert_true(n > 2);
}

/* Opening a model makes some 1700 allocations: each of the first, then every 17th. */
static void memory_of_models(void **state)
{
    const addcl_model_opts o = {.path = model_path()};
    unsigned long n = 0, made;

    (void)state;
    do {
        addcl_ctx *ctx = addcl_new();
        addcl_model *m = NULL;
        int rc;
        ac_alloc_fail_at(n += n < 60 ? 1 : 17);
        rc = addcl_model_load(ctx, &o, &m);
        made = ac_alloc_fail_at(0);
        assert_orderly(rc, addcl_error(ctx), "model", n);
        assert_true((rc == 0) == (m != NULL));
        addcl_model_free(m);
        addcl_free(ctx);
    } while (made >= n);
    assert_true(n > 1000);
}

/* A whole sample of one step makes some 5000: a few of them. The model must be as good as before after each. */
static void memory_of_samples(void **state)
{
    const addcl_model_opts o = {.path = model_path()};
    addcl_ctx *ctx = addcl_new();
    addcl_model *m = NULL;
    unsigned long total;

    (void)state;
    assert_int_equal(addcl_open_device(ctx, NULL), 0);
    assert_int_equal(addcl_model_load(ctx, &o, &m), 0);
    ac_alloc_fail_at(0);
    assert_int_equal(sample(m), 0);
    total = ac_alloc_fail_at(0);
    assert_true(total > 1000);
    for (unsigned long n = 1; n <= total; n += n < 12 ? 4 : 1 + total / 14) {
        int rc;
        ac_alloc_fail_at(n);
        rc = sample(m);
        ac_alloc_fail_at(0);
        assert_orderly(rc, addcl_error(ctx), "sample", n);
    }
    assert_int_equal(sample(m), 0);
    addcl_model_free(m);
    addcl_free(ctx);
}

/* ------------------------------------------------------------------------------------------ OpenCL */

enum { CHILD_SECONDS = 60 };

/* The child: samples, says "code message" on standard output, and tries once more on whatever is left. */
static int child(void)
{
    const addcl_model_opts o = {.path = model_path()};
    addcl_ctx *ctx = addcl_new();
    addcl_model *m = NULL;
    int rc;

    alarm(CHILD_SECONDS); /* ends a child that hangs */
    rc = addcl_open_device(ctx, NULL);
    if (rc == 0)
        rc = addcl_model_load(ctx, &o, &m);
    if (rc == 0)
        rc = sample(m);
    printf("%d %s\n", rc, addcl_error(ctx));
    if (rc != 0 && m) /* no promise, but no crash */
        rc = sample(m);
    addcl_model_free(m);
    addcl_free(ctx);
    return 0;
}

typedef struct outcome {
    int code;
    char msg[2048];
    int calls[8]; /* of faults[i].call in the report */
    int live;     /* OpenCL objects left over; -1: no report, the layer was not loaded */
} outcome;

typedef struct fault {
    const char *call;
    int error, times;
    int code; /* what the library must say */
} fault;

static const fault faults[] = {
    {"clCreateBuffer", -4, 1, ADDCL_E_DEVMEM},
    {"clCreateBuffer", -61, 1, ADDCL_E_CL},
    {"clEnqueueNDRangeKernel", -5, 1, ADDCL_E_DEVMEM},
    {"clEnqueueNDRangeKernel", -54, 1, ADDCL_E_CL},
    {"clEnqueueWriteBuffer", -36, 1, ADDCL_E_CL},
    {"clEnqueueReadBuffer", -5, 1, ADDCL_E_DEVMEM},
    {"clCreateKernel", -6, 1, ADDCL_E_DEVMEM},
    {"clCreateKernel", -46, 1, ADDCL_E_CL},
    {"clBuildProgram", -11, 2, ADDCL_E_BUILD},
    {"clBuildProgram", -11, 1, 0}, /* builds without optimisation then */
    {"clFinish", -36, 1, ADDCL_E_CL},
};

/* fault_layer.so, beside this program or where libtool puts it. */
static bool find_layer(char *path, size_t size)
{
    static const char *const places[] = {"fault_layer.so", ".libs/fault_layer.so", "../fault_layer.so"};
    char exe[3000];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);

    exe[n > 0 ? n : 0] = '\0';
    if (!strrchr(exe, '/'))
        return false;
    *strrchr(exe, '/') = '\0';
    for (size_t i = 0; i < AC_LEN(places); i++) {
        snprintf(path, size, "%s/%s", exe, places[i]);
        if (access(path, R_OK) == 0)
            return true;
    }
    return false;
}

static void set_number(const char *name, int v)
{
    char text[16];
    snprintf(text, sizeof text, "%d", v);
    setenv(name, text, 1);
}

static void read_report(const char *path, outcome *o)
{
    FILE *f = fopen(path, "r");
    char name[64];
    int n;

    o->live = -1;
    memset(o->calls, 0, sizeof o->calls);
    if (!f)
        return;
    for (int i = 0; fscanf(f, "%63s %d", name, &n) == 2; i++)
        if (!strcmp(name, "live"))
            o->live = n;
        else if (i < (int)AC_LEN(o->calls))
            o->calls[i] = n;
    fclose(f);
}

/* Runs the child with call number n of f->call failing; f NULL: without a fault. */
static void run_child(const char *layer, const fault *f, int n, outcome *o)
{
    const char *report = temp_path("report");
    char command[4096], line[2100] = "";
    FILE *p;
    int status;

    remove(report);
    setenv("OPENCL_LAYERS", layer, 1);
    setenv("FAULT_REPORT", report, 1);
    setenv("FAULT_CALL", f ? f->call : "", 1);
    set_number("FAULT_N", n);
    set_number("FAULT_TIMES", f ? f->times : 0);
    set_number("FAULT_ERROR", f ? f->error : 0);
    snprintf(command, sizeof command, "exec /proc/%ld/exe sample 2>&1", (long)getpid());
    assert_non_null(p = popen(command, "r"));
    if (!fgets(line, sizeof line, p))
        line[0] = '\0';
    while (fgetc(p) != EOF)
        ;
    status = pclose(p);
    unsetenv("OPENCL_LAYERS");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || sscanf(line, "%d %2047[^\n]", &o->code, o->msg) < 1)
        fail_msg("%s number %d fails with %d: the program %s (status %#x): %s", f ? f->call : "nothing", n,
                 f ? f->error : 0, WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "hangs" : "crashes",
                 (unsigned)status, line);
    read_report(report, o);
}

/* The number of calls that the run without faults made. */
static int calls_of(const outcome *clean, const char *call)
{
    static const char *const order[] = {"clCreateBuffer",
                                        "clEnqueueNDRangeKernel",
                                        "clEnqueueWriteBuffer",
                                        "clEnqueueReadBuffer",
                                        "clCreateKernel",
                                        "clBuildProgram",
                                        "clFinish"};
    for (size_t i = 0; i < AC_LEN(order); i++)
        if (!strcmp(order[i], call))
            return clean->calls[i];
    return 0;
}

/* After these the driver's context is dead, and the library leaves it alone. */
static bool loses_device(int error)
{
    return error == -5 || error == -36;
}

static void check_fault(const char *layer, const fault *f, int n)
{
    outcome o = {.msg = ""};

    run_child(layer, f, n, &o);
    if (o.code != f->code || (o.code != 0 && (!*o.msg || (f->code != ADDCL_E_BUILD && !strstr(o.msg, f->call)))))
        fail_msg("%s number %d fails with %d, which gives %s: \"%s\"; expected %s", f->call, n, f->error,
                 addcl_code_name(o.code), o.msg, addcl_code_name(f->code));
    if (o.live != 0 && !loses_device(f->error))
        fail_msg("%s number %d fails with %d, and %d objects of OpenCL are not released", f->call, n, f->error, o.live);
}

static void opencl_calls(void **state)
{
    char layer[4096];
    outcome clean = {.msg = ""};

    (void)state;
    if (!find_layer(layer, sizeof layer)) {
        print_message("# fault_layer.so was not built\n");
        skip();
    }
    run_child(layer, NULL, 0, &clean);
    if (clean.live < 0) {
        print_message("# the OpenCL loader knows no layers\n");
        skip();
    }
    assert_int_equal(clean.code, 0);
    assert_int_equal(clean.live, 0);
    for (size_t i = 0; i < AC_LEN(faults); i++) {
        int total = calls_of(&clean, faults[i].call);
        assert_true(total > 1);
        check_fault(layer, &faults[i], i % 2 ? 1 : total / 2 + 1);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest memory[] = {
        cmocka_unit_test(memory_of_graphs),
        cmocka_unit_test(memory_of_devices),
        cmocka_unit_test(memory_of_models),
        cmocka_unit_test(memory_of_samples),
    };
    const struct CMUnitTest opencl[] = {
        cmocka_unit_test(opencl_calls),
    };

    if (argc > 1 && !strcmp(argv[1], "sample"))
        return child();
    return cmocka_run_group_tests_name("host memory", memory, NULL, NULL) +
           cmocka_run_group_tests_name("OpenCL", opencl, temp_setup, temp_teardown);
}
