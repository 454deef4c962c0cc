/* cmd_selftest.c - add-cl selftest: every op's small cases on the user's device against the double-precision reference.
 */
#include "tool.h"

#include <stdio.h>

typedef struct selftest_args {
    common_args common;
} selftest_args;

static const opt_def rows[] = {
    ROW_DEVICE(selftest_args),
    ROW_PROGRESS(selftest_args),
    ROWS_REPORT(selftest_args),
};

typedef struct tally {
    report *report;
    bool verbose;
    long count[3]; /* by addcl_case.status: passed, failed, skipped */
} tally;

/* Counts a case and prints it when it failed or all are wanted. */
static int on_case(void *user, const addcl_case *c)
{
    static const char *const words[] = {"pass", "FAIL", "skip"};
    tally *t = user;

    t->count[c->status]++;
    if (c->status != 1 && !t->verbose)
        return caught_signal() != 0;
    report_clear(t->report);
    printf("%s  %s", words[c->status], c->name);
    if (c->status != 2)
        printf("  error %.3g, allowed %.3g", c->error, c->limit);
    printf("%s%s\n", c->message && *c->message ? "  " : "", c->message ? c->message : "");
    return !tool_flush(t->report) || caught_signal() != 0;
}

static int selftest(tool *t, const cmd_line *o, const void *args)
{
    const common_args *a = &((const selftest_args *)args)->common;
    const char *pattern = o->n_operands ? o->operands[0] : NULL;
    tally sum = {.report = &t->report, .verbose = a->verbose && !a->quiet};
    int failed = 0, rc, code = tool_open_device(t, a->device);

    if (code != TOOL_OK)
        return code;
    rc = addcl_selftest(t->ctx, pattern, on_case, &sum, &failed);
    report_clear(&t->report);
    if (rc < 0)
        code = tool_fail(t, rc);
    else if (sum.count[0] + sum.count[1] + sum.count[2] == 0)
        code = usage_error(&cmd_selftest, "no case has '%s' in its name", pattern ? pattern : "");
    else if (failed || sum.count[1])
        code = TOOL_FAILED;
    printf("%ld passed, %ld failed, %ld skipped\n", sum.count[0], sum.count[1], sum.count[2]);
    return code;
}

static int run(int argc, char **argv)
{
    selftest_args a = {0};

    return tool_run(&cmd_selftest, argc, argv, &a, &a.common, selftest);
}

const cmd_def cmd_selftest = {
    .name = "selftest",
    .summary = "Checks every operation on a device",
    .usage = "[PATTERN] [OPTION]...",
    .max_operands = 1,
    .details = "Runs the small cases of every operation, or those with PATTERN in their name (as 'conv' or "
               "'conv/b2_17x9'), and "
               "compares them with a double-precision reference. Failures are printed, all cases with --verbose. The "
               "exit code "
               "is 1 when a case fails.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
