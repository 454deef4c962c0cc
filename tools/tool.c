/* tool.c - context, device and model of a command, and what their failures mean to the user. */
#include "tool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int tool_open(tool *t, const common_args *a)
{
    report_init(&t->report, a);
    if (!(t->ctx = addcl_new()))
        return tool_no_memory(t);
    addcl_set_log(t->ctx, report_log, &t->report);
    addcl_set_progress(t->ctx, report_progress, &t->report);
    return TOOL_OK;
}

void tool_close(tool *t)
{
    report_clear(&t->report);
    addcl_free(t->ctx);
}

int tool_run(const cmd_def *cmd, int argc, char **argv, void *args, const common_args *common, int (*body)(tool *t, const cmd_line *o, const void *args))
{
    tool t = {0};
    cmd_line o;
    int code;

    if (opts_parse(&o, cmd, argc, argv, args, &code)) {
        catch_signals();
        code = tool_open(&t, common);
        if (code == TOOL_OK)
            code = body(&t, &o, args);
        tool_close(&t);
    }
    opts_free(&o);
    return code;
}

/* What a library code means to whoever started the program. */
static int exit_code(int rc)
{
    switch (rc) {
    case ADDCL_OK:
        return TOOL_OK;
    case ADDCL_E_ARG:
        return TOOL_USAGE;
    case ADDCL_E_NODEVICE:
        return TOOL_NO_DEVICE;
    case ADDCL_E_NOMEM:
    case ADDCL_E_DEVMEM:
        return TOOL_MEMORY;
    case ADDCL_E_DIVERGED:
        return TOOL_DIVERGED;
    default:
        return TOOL_FAILED;
    }
}

int tool_fail(tool *t, int rc)
{
    const char *message = addcl_error(t->ctx);

    if (rc == ADDCL_E_CANCELLED && !caught_signal())
        return TOOL_FAILED;
    if (rc == ADDCL_E_CANCELLED) {
        report_say(&t->report, ADDCL_LOG_WARN, "interrupted");
        return caught_signal();
    }
    report_say(&t->report, ADDCL_LOG_ERROR, "%s", *message ? message : addcl_code_name(rc));
    return exit_code(rc);
}

int tool_no_memory(tool *t)
{
    report_say(&t->report, ADDCL_LOG_ERROR, "out of memory");
    return TOOL_MEMORY;
}

int tool_fail_model(tool *t, int rc)
{
    int code = tool_fail(t, rc);

    return rc == ADDCL_E_IO || rc == ADDCL_E_FORMAT || rc == ADDCL_E_SHAPE || rc == ADDCL_E_UNSUPPORTED ? TOOL_MODEL
                                                                                                        : code;
}

int tool_open_device(tool *t, const char *spec)
{
    const addcl_device *d;
    char mem[16];
    int rc = addcl_open_device(t->ctx, spec);

    if (rc < 0)
        return tool_fail(t, rc);
    d = addcl_current_device(t->ctx);
    report_say(&t->report, ADDCL_LOG_INFO, "device %d:%d: %s (%s, driver %s), %u units, %s", d->platform, d->index,
               d->name, d->platform_name, d->driver, d->compute_units, text_bytes((double)d->global_mem, mem));
    return TOOL_OK;
}

int tool_load_model(tool *t, const addcl_model_opts *what, addcl_model **out)
{
    int rc = addcl_model_load(t->ctx, what, out);

    return rc < 0 ? tool_fail_model(t, rc) : TOOL_OK;
}

bool tool_flush(report *r)
{
    if (fflush(stdout) == 0)
        return true;
    report_say(r, ADDCL_LOG_ERROR, "standard output: %s", strerror(errno));
    return false;
}

addcl_type type_named(const char *word)
{
    return strcmp(word, "f32") == 0 ? ADDCL_F32 : strcmp(word, "bf16") == 0 ? ADDCL_BF16 : ADDCL_F16;
}
