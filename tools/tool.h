/* tool.h - what the commands share: the list of them, exit codes, a context with its reports. */
#ifndef TOOL_H
#define TOOL_H

#include "addcl.h"
#include "opts.h"
#include "report.h"

/* Exit codes; gen_docs.c tells the user what they mean. */
enum { TOOL_OK, TOOL_FAILED, TOOL_USAGE, TOOL_NO_DEVICE, TOOL_MEMORY, TOOL_MODEL, TOOL_DIVERGED };

extern const cmd_def cmd_sample, cmd_train, cmd_eval, cmd_ablate, cmd_devices, cmd_info, cmd_selftest, cmd_bench, cmd_convert, cmd_help;
extern const cmd_def *const commands[];
extern const size_t n_commands;

/* A context whose messages and progress go to a report. */
typedef struct tool {
    addcl_ctx *ctx;
    report report;
} tool;

/* Opens the context. 0, or the exit code of the failure, which is reported. tool_close ends it either way. */
int tool_open(tool *t, const common_args *a);
void tool_close(tool *t);
/* A command's run() as far as all have it in common: options into `args` (with `common` in it), a context, then body, whose exit
 * code it returns. */
int tool_run(const cmd_def *cmd, int argc, char **argv, void *args, const common_args *common, int (*body)(tool *t, const cmd_line *o, const void *args));
/* Opens the device (NULL: the best) and tells which. 0 or the exit code. */
int tool_open_device(tool *t, const char *spec);
/* Opens a model. 0 or the exit code. */
int tool_load_model(tool *t, const addcl_model_opts *what, addcl_model **out);

/* Reports the failed library call that returned `rc`; returns the exit code. Says nothing of a call that a callback of
 * ours ended: the callback has told why. */
int tool_fail(tool *t, int rc);
/* The same for a call that opens or reads a model: what is wrong with a file is then TOOL_MODEL. */
int tool_fail_model(tool *t, int rc);

/* Reports that host memory is short. */
int tool_no_memory(tool *t);

/* Sends what was printed on its way; false: it could not be written, which is reported. */
bool tool_flush(report *r);

/* Prints the devices on standard output, each tried before when `check`. 0 or the exit code: TOOL_NO_DEVICE when none
 * is usable, TOOL_FAILED when one fails the check. */
int devices_print(tool *t, bool json, bool check);
/* The storage type named by one of the words of ROW_TYPE. */
addcl_type type_named(const char *word);

#endif
