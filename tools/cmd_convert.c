/* cmd_convert.c - add-cl convert: a diffusers folder as a single file, and back. */
#include "tool.h"

typedef struct convert_args {
    common_args common;
    const char *type;
} convert_args;

#define ROW(...) OPT_ROW(convert_args, __VA_ARGS__)

static const opt_def rows[] = {
    ROW(OPT_WORD, "type", 0, type, "f32|f16|bf16", "type of the weights written", SHOWN("as stored")),
    ROW_PROGRESS(convert_args),
    ROWS_REPORT(convert_args),
};

static int convert(tool *t, const cmd_line *o, const void *args)
{
    int rc = addcl_convert(t->ctx, o->operands[0], o->operands[1], ((const convert_args *)args)->type);

    if (rc < 0)
        return rc == ADDCL_E_IO ? tool_fail(t, rc) : tool_fail_model(t, rc);
    report_say(&t->report, ADDCL_LOG_INFO, "%s written", o->operands[1]);
    return TOOL_OK;
}

static int run(int argc, char **argv)
{
    convert_args a = {0};

    return tool_run(&cmd_convert, argc, argv, &a, &a.common, convert);
}

const cmd_def cmd_convert = {
    .name = "convert",
    .summary = "Converts a model between a diffusers folder and a single file",
    .usage = "IN OUT [OPTION]...",
    .min_operands = 2,
    .max_operands = 2,
    .details = "An OUT that ends in .safetensors is written as a single file with the tensor names of the original "
               "releases, any "
               "other as a diffusers folder.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
