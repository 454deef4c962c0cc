/* cmd_bench.c - add-cl bench: speed of kernels and whole networks beside the peak of the device. */
#include "tool.h"

#include <stdio.h>
#include <string.h>

#define CASES "gemm|conv|conv_bx|conv_bw|attn|attn_bwd|norm|text|unet|vae|vae_tiny|image|train_unet|add_step"

typedef struct bench_args {
    common_args common;
    bool json;
    const char *type;
    int64_t reps;
} bench_args;

#define ROW(...) OPT_ROW(bench_args, __VA_ARGS__)

static const opt_def rows[] = {
    ROW(OPT_FLAG, "json", 0, json, NULL, "print one JSON line a case"),
    ROW_TYPE(bench_args, type),
    ROW(OPT_INT, "reps", 0, reps, "N", "repetitions after one warm-up; the fastest counts", RANGE(1, 1000),
        DEFAULT("3")),
    ROW_DEVICE(bench_args),
    ROW_PROGRESS(bench_args),
    ROWS_REPORT(bench_args),
};

typedef struct printer {
    report *report;
    const bench_args *args;
} printer;

static void print_json(const addcl_case *c, const char *type)
{
    json_t *o = json_pack("{s:s, s:f}", "case", c->name, "seconds", c->seconds);

    if (c->gflops > 0) {
        json_object_set_new(o, "gflops", json_real(c->gflops));
        json_object_set_new(o, "peak_gflops", json_real(c->peak_gflops));
    }
    if (c->gbs > 0) {
        json_object_set_new(o, "gbs", json_real(c->gbs));
        json_object_set_new(o, "copy_gbs", json_real(c->copy_gbs));
    }
    json_object_set_new(o, "dtype", json_string(type));
    put_json(stdout, o);
}

static void print_text(const addcl_case *c)
{
    printf("%-28s %10.5f s", c->name, c->seconds);
    if (c->gflops > 0)
        printf("  %9.1f GFLOP/s", c->gflops);
    if (c->gflops > 0 && c->peak_gflops > 0)
        printf("  %5.1f %% of the peak of %.1f", 100 * c->gflops / c->peak_gflops, c->peak_gflops);
    if (c->gbs > 0)
        printf("  %9.2f GB/s", c->gbs);
    if (c->gbs > 0 && c->copy_gbs > 0)
        printf("     %5.1f %% of the copy's %.2f", 100 * c->gbs / c->copy_gbs, c->copy_gbs);
    putchar('\n');
}

static int on_case(void *user, const addcl_case *c)
{
    const printer *p = user;

    report_clear(p->report);
    if (p->args->json)
        print_json(c, p->args->type);
    else
        print_text(c);
    return !tool_flush(p->report) || caught_signal() != 0;
}

static int bench(tool *t, const cmd_line *o, const void *args)
{
    const bench_args *a = args;
    printer p = {&t->report, a};
    char all[] = CASES, *save = NULL;
    int rc = 0, code = tool_open_device(t, a->common.device);

    if (code != TOOL_OK)
        return code;
    for (int i = 0; rc == 0 && i < o->n_operands; i++)
        rc = addcl_bench(t->ctx, o->operands[i], type_named(a->type), (int)a->reps, on_case, &p);
    if (o->n_operands == 0)
        for (char *name = strtok_r(all, "|", &save); rc == 0 && name; name = strtok_r(NULL, "|", &save))
            rc = addcl_bench(t->ctx, name, type_named(a->type), (int)a->reps, on_case, &p);
    return rc < 0 ? tool_fail(t, rc) : TOOL_OK;
}

static int run(int argc, char **argv)
{
    bench_args a = {0};

    return tool_run(&cmd_bench, argc, argv, &a, &a.common, bench);
}

const cmd_def cmd_bench = {
    .name = "bench",
    .summary = "Measures kernels and networks",
    .usage = "[OPTION]... [CASE]...",
    .operand_words = CASES,
    .max_operands = -1,
    .details = "Cases: gemm, conv, conv_bx, conv_bw, attn, attn_bwd, norm (kernels in the shapes of SD 2.1); text, unet, vae, vae_tiny, image "
               "(whole networks of that size with random weights); train_unet, add_step (training steps of the shipped model's size); "
               "all without a CASE. Speed stands beside the peak of fused multiply-adds, for norm beside the bandwidth of a copy, each measured "
               "in the same run.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
