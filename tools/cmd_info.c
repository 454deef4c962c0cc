/* cmd_info.c - add-cl info: what a model folder, a safetensors file or a PNG holds. */
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct info_args {
    common_args common;
    const char *type, *plan;
    int64_t width, height, batch_size;
    bool json;
} info_args;

#define ROW(...) OPT_ROW(info_args, __VA_ARGS__)

static const opt_def rows[] = {
    ROW(OPT_FLAG, "json", 0, json, NULL, "print one JSON object"),
    ROW(OPT_WORD, "plan", 0, plan, "all|text|unet|vae",
        "print the plan of a stage of the model: every node with its kernel and buffer", BARE("all")),
    ROW(OPT_INT, "width", 'W', width, "PIXELS", "of the images planned for", RANGE(8, 16384), SHOWN("the model's")),
    ROW(OPT_INT, "height", 'H', height, "PIXELS", "of the images planned for", RANGE(8, 16384), SHOWN("the model's")),
    ROW(OPT_INT, "batch-size", 0, batch_size, "N", "images computed together, of the plan", RANGE(1, 1024),
        DEFAULT("1")),
    ROW_TYPE(info_args, type),
    ROW_DEVICE(info_args),
    ROWS_REPORT(info_args),
};

/* ---- PNG */

static bool is_png(const char *path)
{
    static const unsigned char magic[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    unsigned char head[8];
    FILE *f = fopen(path, "rb");
    bool is = f && fread(head, 1, sizeof head, f) == sizeof head && memcmp(head, magic, sizeof head) == 0;

    if (f)
        fclose(f);
    return is;
}

/* The two text chunks: "parameters" as it stands, "add-cl" as JSON (as text if it is none). */
static void print_png(const char *parameters, const char *recipe, bool json)
{
    json_t *o, *r = recipe ? json_loads(recipe, 0, NULL) : NULL;
    char *pretty;

    if (json) {
        if (recipe && !r)
            r = json_text(recipe);
        o = json_pack("{s:s, s:o*, s:O*}", "kind", "image", "parameters", parameters ? json_text(parameters) : NULL,
                      "add-cl", r);
        put_json(stdout, o);
    } else {
        if (parameters) {
            put_text(stdout, parameters);
            putchar('\n');
        }
        if ((pretty = r ? json_dumps(r, JSON_INDENT(2)) : NULL))
            puts(pretty);
        else if (recipe)
            put_text(stdout, recipe);
        if (!parameters && !recipe)
            puts("a PNG without data on how it was made");
        free(pretty);
    }
    json_decref(r);
}

static int info_png(tool *t, const char *path, const info_args *a)
{
    char *parameters = NULL, *recipe = NULL;
    int rc = addcl_image_text(t->ctx, path, "parameters", &parameters);

    if (rc == 0)
        rc = addcl_image_text(t->ctx, path, "add-cl", &recipe);
    if (rc == 0)
        print_png(parameters, recipe, a->json);
    free(parameters);
    free(recipe);
    return rc < 0 ? tool_fail(t, rc) : TOOL_OK;
}

/* ---- tensors and metadata of a file */

#define TYPES_MAX 24

typedef struct inventory {
    json_t *tensors, *metadata; /* NULL unless JSON is wanted */
    bool verbose;
    int64_t tensor_count, value_count;
    struct {
        char name[12];
        int64_t tensors;
    } types[TYPES_MAX];
} inventory;

static void count_type(inventory *v, const char *type)
{
    for (int i = 0; i < TYPES_MAX; i++) {
        if (v->types[i].tensors && strcmp(v->types[i].name, type) != 0)
            continue;
        snprintf(v->types[i].name, sizeof v->types[i].name, "%s", type);
        v->types[i].tensors++;
        return;
    }
}

static int on_tensor(void *user, const char *name, const char *type, const int64_t *shape, int dims)
{
    inventory *v = user;
    json_t *list = v->tensors ? json_array() : NULL;
    int64_t n = 1;

    for (int i = 0; i < dims; i++) {
        n *= shape[i];
        json_array_append_new(list, json_integer(shape[i]));
    }
    v->tensor_count++;
    v->value_count += n;
    count_type(v, type);
    if (v->tensors) {
        json_array_append_new(v->tensors,
                              json_pack("{s:o*, s:s, s:o}", "name", json_text(name), "type", type, "shape", list));
    } else if (v->verbose) {
        printf("  %-5s ", type);
        put_text(stdout, name);
        fputs("  [", stdout);
        for (int i = 0; i < dims; i++)
            printf("%s%lld", i ? ", " : "", (long long)shape[i]);
        puts("]");
    }
    return 0;
}

static int on_metadata(void *user, const char *key, const char *value)
{
    inventory *v = user;

    if (v->metadata) {
        json_object_set_new(v->metadata, key, json_text(value));
    } else {
        put_text(stdout, key);
        fputs(": ", stdout);
        put_text(stdout, value);
        putchar('\n');
    }
    return 0;
}

static void print_totals(const inventory *v)
{
    printf("%lld tensors, %.2f million values:", (long long)v->tensor_count, (double)v->value_count / 1e6);
    for (int i = 0; i < TYPES_MAX && v->types[i].tensors; i++)
        printf("%s %lld %s", i ? "," : "", (long long)v->types[i].tensors, v->types[i].name);
    putchar('\n');
}

/* ---- a model */

static json_t *model_json(const addcl_model_info *m)
{
    json_t *o = json_pack("{s:o*, s:o*, s:s, s:s, s:s*, s:s, s:s}", "path", json_text(m->path), "name",
                          json_text(m->name), "family", m->family, "layout", m->layout, "prediction", m->prediction,
                          "scheduler", m->scheduler, "sampler", m->sampler);
    json_t *n =
        json_pack("{s:i, s:i, s:i, s:i, s:f, s:b, s:s*, s:I, s:I, s:I, s:I}", "width", m->width, "height", m->height,
                  "factor", m->factor, "steps", m->steps, "cfg_scale", m->cfg_scale, "few_step", m->few_step,
                  "few_step_why", m->few_step_why, "unet_params", (json_int_t)m->unet_params, "vae_params",
                  (json_int_t)m->vae_params, "text_params", (json_int_t)m->text_params, "bytes", (json_int_t)m->bytes);

    json_object_update(o, n);
    json_decref(n);
    return o;
}

static void print_model(const addcl_model_info *m)
{
    char bytes[16];

    printf("model       %s, %s, %s\n", m->name, m->family, m->layout);
    printf("parameters  UNet %.2f M, VAE %.2f M, text %.2f M; %s\n", (double)m->unet_params / 1e6,
           (double)m->vae_params / 1e6, (double)m->text_params / 1e6, text_bytes((double)m->bytes, bytes));
    printf("images      %dx%d, in multiples of %d\n", m->width, m->height, m->factor);
    printf("schedule    %s, prediction %s\n", *m->scheduler ? m->scheduler : "none named",
           m->prediction ? m->prediction : "found out on the first run");
    printf("defaults    %s, %d steps, guidance %g\n", m->sampler, m->steps, m->cfg_scale);
    if (m->few_step && m->few_step_why)
        printf("few steps   %s\n", m->few_step_why);
}

/* Plans come through the log; here they are the data asked for. Other messages stay messages. */
static void plan_line(void *user, int level, const char *line)
{
    if (level == ADDCL_LOG_INFO)
        puts(line);
    else
        report_log(user, level, line);
}

static int print_plan(tool *t, addcl_model *model, const info_args *a)
{
    static const char *const stages[] = {"text", "unet", "vae"};
    const addcl_model_info *m = addcl_model_get_info(model);
    int width = a->width ? (int)a->width : m->width, height = a->height ? (int)a->height : m->height;
    int rc = 0, code = tool_open_device(t, a->common.device);

    if (code != TOOL_OK)
        return code;
    addcl_set_log(t->ctx, plan_line, &t->report);
    for (int i = 0; rc == 0 && i < 3; i++)
        if (strcmp(a->plan, "all") == 0 || strcmp(a->plan, stages[i]) == 0)
            rc = addcl_model_plan(model, stages[i], width, height, (int)a->batch_size);
    addcl_set_log(t->ctx, report_log, &t->report);
    return rc < 0 ? tool_fail(t, rc) : TOOL_OK;
}

static bool is_safetensors(const char *path)
{
    size_t n = strlen(path);

    return n > 12 && strcmp(path + n - 12, ".safetensors") == 0;
}

static bool is_about_content(int rc)
{
    return rc == ADDCL_E_FORMAT || rc == ADDCL_E_SHAPE || rc == ADDCL_E_UNSUPPORTED;
}

static void print_all(const addcl_model *model, const inventory *v)
{
    const addcl_model_info *m = model ? addcl_model_get_info(model) : NULL;
    json_t *o;

    if (v->tensors) {
        o = m ? model_json(m) : json_object();
        json_object_set_new(o, "kind", json_string(m ? "model" : "tensors"));
        json_object_set(o, "metadata", v->metadata);
        json_object_set(o, "tensors", v->tensors);
        put_json(stdout, o);
        return;
    }
    if (m)
        print_model(m);
    if (v->tensor_count)
        print_totals(v);
}

/* Prints what a path (NULL: the default model) holds: a file's metadata and tensors, a model's facts. A safetensors
 * file that is no whole model (a LoRA, a VAE) is no error, unless a plan is asked for. */
static int info_model(tool *t, const char *path, const info_args *a)
{
    addcl_model_opts what = {.path = path, .type = type_named(a->type)};
    inventory v = {.verbose = a->common.verbose};
    addcl_model *model = NULL;
    bool file = path && is_safetensors(path);
    int rc = 0, code = TOOL_OK;

    if (a->json) {
        v.tensors = json_array();
        v.metadata = json_object();
    }
    if (file && !a->plan)
        rc = addcl_file_metadata(t->ctx, path, on_metadata, &v);
    if (rc == 0)
        rc = addcl_model_load(t->ctx, &what, &model);
    if (rc < 0 && file && !a->plan && is_about_content(rc)) {
        report_say(&t->report, ADDCL_LOG_DEBUG, "not a whole model: %s", addcl_error(t->ctx));
        rc = 0;
    }
    if (rc == 0 && !a->plan && (file || v.verbose || a->json))
        rc = addcl_file_tensors(t->ctx, model ? addcl_model_get_info(model)->path : path, on_tensor, &v);
    if (rc < 0)
        code = tool_fail_model(t, rc);
    else if (a->plan)
        code = print_plan(t, model, a);
    else
        print_all(model, &v);
    json_decref(v.tensors);
    json_decref(v.metadata);
    addcl_model_free(model);
    return code;
}

static int run(int argc, char **argv)
{
    info_args a = {0};
    tool t = {0};
    cmd_line o;
    int code;

    if (opts_parse(&o, &cmd_info, argc, argv, &a, &code)) {
        const char *path = o.n_operands ? o.operands[0] : NULL;
        code = tool_open(&t, &a.common);
        if (code == TOOL_OK)
            code = path && is_png(path) ? info_png(&t, path, &a) : info_model(&t, path, &a);
        tool_close(&t);
    }
    opts_free(&o);
    return code;
}

const cmd_def cmd_info = {
    .name = "info",
    .summary = "Tells what a model, a safetensors file or a PNG holds",
    .usage = "[PATH] [OPTION]...",
    .max_operands = 1,
    .details = "Without PATH: the model that ships with add-cl. Of a PNG: the data on how it was made, see 'sample "
               "--from-image'. With "
               "--verbose every tensor is listed.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
