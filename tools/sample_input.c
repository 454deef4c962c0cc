/* sample_input.c - what a run is made from: prompts, LoRAs, the recipe in an earlier image, the image to start from. */
#include "sample.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROMPT_FILE_MAX (1 << 20) /* bytes */

void sample_input_free(sample_input *in)
{
    for (size_t i = 0; i < in->n_prompts; i++)
        free(in->prompts[i]);
    free(in->prompts);
    for (size_t i = 0; i < in->n_loras; i++)
        free(in->lora_paths[i]);
    free(in->lora_paths);
    free(in->loras);
    json_decref(in->recipe);
    addcl_image_free(in->init);
}

/* Takes over `path`, also on failure. */
static int add_lora(sample_input *in, tool *t, char *path, double weight)
{
    size_t n = in->n_loras + 1;
    addcl_lora *l = path ? realloc(in->loras, n * sizeof *l) : NULL;
    char **p = l ? realloc(in->lora_paths, n * sizeof *p) : NULL;

    in->loras = l ? l : in->loras;
    if (!p) {
        free(path);
        return tool_no_memory(t);
    }
    in->lora_paths = p;
    p[in->n_loras] = path;
    l[in->n_loras++] = (addcl_lora){path, weight};
    return TOOL_OK;
}

/* A whole string that is one finite number. */
static bool whole_number(const char *s, double *v)
{
    char *end;

    *v = strtod(s, &end);
    return end != s && !*end && !isspace((unsigned char)*s) && isfinite(*v);
}

static int add_prompt(sample_input *in, tool *t, const char *text, size_t n)
{
    char **p = realloc(in->prompts, (in->n_prompts + 1) * sizeof *p);

    if (!p)
        return tool_no_memory(t);
    in->prompts = p;
    if (!(p[in->n_prompts] = strndup(text, n)))
        return tool_no_memory(t);
    in->n_prompts++;
    return TOOL_OK;
}

/* ------------------------------------------------------------------------------------ --from-image */

/* Whether the command line decides what the recipe's `name` would: the same option, or one that takes its place. */
static bool decided(const cmd_line *o, const char *name)
{
    static const char *const groups[][2] = {
        {"steps", "timesteps"}, {"steps", "sigmas"},       {"timesteps", "steps"},  {"timesteps", "sigmas"},
        {"sigmas", "steps"},    {"sigmas", "timesteps"},   {"unet", "model"},       {"vae", "model"},
        {"taesd", "model"},     {"text-encoder", "model"}, {"prediction", "model"}, {"prompt", "prompt-file"},
    };

    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
        if (strcmp(groups[i][0], name) == 0 && opts_given(o, groups[i][1]))
            return true;
    return opts_given(o, name);
}

/* Sets a row from a JSON value: a string stays where it is, numbers and lists of numbers go through their text. */
static bool set_row(cmd_line *o, size_t row, const json_t *v, char *why, size_t size)
{
    char *text;
    bool ok;

    if (json_is_string(v))
        return opts_set(o, row, json_string_value(v), why, size);
    if (!json_is_array(v) && !json_is_number(v)) {
        snprintf(why, size, "has the wrong type");
        return false;
    }
    if (!(text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY))) {
        snprintf(why, size, "cannot be read");
        return false;
    }
    if (json_is_array(v))
        text[strlen(text) - 1] = '\0';
    ok = opts_set(o, row, text + json_is_array(v), why, size);
    free(text);
    return ok;
}

static bool is_number_row(const opt_def *d)
{
    return d->kind == OPT_INT || d->kind == OPT_NUM || d->kind == OPT_NUMS;
}

/* Every row that decides what an image looks like has the key of its name, with '_' for '-'. */
static int apply_recipe(const json_t *recipe, tool *t, cmd_line *o, const char *path)
{
    char key[64], why[512];

    for (size_t i = 0; i < o->cmd->n_rows; i++) {
        const opt_def *d = &o->cmd->rows[i];
        const json_t *v;
        if (!(d->flags & OPT_RECIPE) || decided(o, d->name))
            continue;
        snprintf(key, sizeof key, "%s", d->name);
        for (char *c = key; (c = strchr(c, '-'));)
            *c = '_';
        v = json_object_get(recipe, key);
        if (!v || json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0))
            continue;
        if (json_is_string(v) == is_number_row(d))
            snprintf(why, sizeof why, "has the wrong type");
        else if (set_row(o, i, v, why, sizeof why))
            continue;
        report_say(&t->report, ADDCL_LOG_ERROR, "--from-image: %s: \"%s\" %s", path, key, why);
        return TOOL_USAGE;
    }
    return TOOL_OK;
}

static int recipe_loras(sample_input *in, tool *t, const char *image)
{
    const json_t *list = json_object_get(in->recipe, "loras");
    int code = TOOL_OK;

    for (size_t i = 0; code == TOOL_OK && i < json_array_size(list); i++) {
        const json_t *l = json_array_get(list, i), *weight = json_object_get(l, "weight");
        const char *path = json_string_value(json_object_get(l, "path"));
        if (!path || !json_is_number(weight)) {
            report_say(&t->report, ADDCL_LOG_ERROR, "--from-image: %s: \"loras\" needs \"path\" and \"weight\"", image);
            return TOOL_USAGE;
        }
        code = add_lora(in, t, strdup(path), json_number_value(weight));
    }
    return code;
}

int sample_read_recipe(sample_input *in, tool *t, cmd_line *o, sample_args *a)
{
    char *text = NULL;
    int rc, code;

    if (!a->from_image)
        return TOOL_OK;
    rc = addcl_image_text(t->ctx, a->from_image, "add-cl", &text);
    if (rc < 0)
        return tool_fail(t, rc);
    in->recipe = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    if (!json_is_object(in->recipe)) {
        report_say(&t->report, ADDCL_LOG_ERROR, "--from-image: %s holds no data of add-cl on how it was made",
                   a->from_image);
        return TOOL_USAGE;
    }
    if (json_is_true(json_object_get(in->recipe, "init_image")) && !a->init)
        return usage_error(&cmd_sample, "--from-image: '%s' was made from another image: name that with --init-img",
                           a->from_image);
    code = apply_recipe(in->recipe, t, o, a->from_image);
    return code == TOOL_OK && !opts_given(o, "lora") ? recipe_loras(in, t, a->from_image) : code;
}

/* ------------------------------------------------------------------------------------------- LoRAs */

/* FILE[:WEIGHT] */
static int option_lora(sample_input *in, tool *t, const char *text)
{
    const char *colon = strrchr(text, ':');
    double weight = 1;

    if (colon && colon > text && whole_number(colon + 1, &weight))
        return add_lora(in, t, strndup(text, (size_t)(colon - text)), weight);
    return add_lora(in, t, strdup(text), 1);
}

static bool is_file(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* "folder/name" or "folder/name.safetensors", whichever is a file, in new memory; NULL: none. An empty folder is left
 * out. */
static char *file_in(const char *folder, const char *name)
{
    static const char *const ends[] = {"", ".safetensors"};
    char *path;

    for (int i = 0; i < 2; i++) {
        if (asprintf(&path, "%s%s%s%s", folder, *folder ? "/" : "", name, ends[i]) < 0)
            return NULL;
        if (is_file(path))
            return path;
        free(path);
    }
    return NULL;
}

/* The file of <lora:name>: a path, or beside or in the folder of the model. NULL: none. */
static char *find_lora(tool *t, const char *model, const char *name)
{
    char folder[4096], *path = file_in("", name), *slash;

    if (!path && !model && addcl_default_model(t->ctx, folder, sizeof folder) < 0)
        return NULL;
    if (!path && model && snprintf(folder, sizeof folder, "%s", model) >= (int)sizeof folder)
        return NULL;
    if (!path)
        path = file_in(folder, name);
    if (!path) {
        while ((slash = strrchr(folder, '/')) && slash > folder && !slash[1])
            *slash = '\0';
        if (slash)
            *slash = '\0';
        path = slash ? file_in(folder, name) : NULL;
    }
    return path;
}

/* The next "<lora:...>" of a prompt: its inside [*from, *to); false: none. */
static bool next_tag(const char *prompt, const char **from, const char **to)
{
    static const char open[] = "<lora:";
    const char *s = strstr(prompt, open);

    *to = s ? strchr(s, '>') : NULL;
    *from = s ? s + sizeof open - 1 : NULL;
    return *to != NULL;
}

/* Adds the LoRA of a tag's inside, "name" or "name:weight". */
static int tag_lora(sample_input *in, tool *t, const char *model, const char *inside, size_t n)
{
    char name[1024], *colon, *path;
    double weight = 1;

    if (n == 0 || n >= sizeof name)
        return usage_error(&cmd_sample, "--prompt: a <lora:NAME:WEIGHT> has a name of %zu bytes", n);
    memcpy(name, inside, n);
    name[n] = '\0';
    if ((colon = strchr(name, ':'))) {
        *colon = '\0';
        if (!whole_number(colon + 1, &weight))
            return usage_error(&cmd_sample, "--prompt: <lora:%s:%s>: '%s' is not a number", name, colon + 1, colon + 1);
    }
    if (!(path = find_lora(t, model, name)))
        return usage_error(&cmd_sample,
                           "--prompt: <lora:%s>: no such file, neither as a path nor beside the model, with or "
                           "without .safetensors",
                           name);
    return add_lora(in, t, path, weight);
}

/* The tags of a prompt as one text, for comparing. NULL: memory is short. */
static char *tags_of(const char *prompt)
{
    const char *from, *to;
    char *tags = strdup(prompt), *end = tags;

    for (; tags && next_tag(prompt, &from, &to); prompt = to) {
        memcpy(end, from, (size_t)(to - from) + 1);
        end += to - from + 1;
    }
    if (tags)
        *end = '\0';
    return tags;
}

/* LoRAs are merged into the weights when the model is opened: all prompts of a run must ask for the same ones. */
static int check_same_tags(const sample_input *in, tool *t)
{
    char *first = tags_of(in->prompts[0]), *other = NULL;
    int code = first ? TOOL_OK : tool_no_memory(t);

    for (size_t i = 1; code == TOOL_OK && i < in->n_prompts; i++) {
        if (!(other = tags_of(in->prompts[i])))
            code = tool_no_memory(t);
        else if (strcmp(first, other) != 0)
            code = usage_error(&cmd_sample,
                               "--prompt: all prompts of a run need the same <lora:...>: they are merged into the "
                               "model; prompt %zu differs from the first",
                               i + 1);
        free(other);
    }
    free(first);
    return code;
}

/* Takes the tags out of a prompt, with the blank before each. */
static void remove_tags(char *prompt)
{
    const char *from, *to;

    while (next_tag(prompt, &from, &to)) {
        char *start = prompt + (from - prompt) - strlen("<lora:");
        if (start > prompt && start[-1] == ' ')
            start--;
        memmove(start, to + 1, strlen(to + 1) + 1);
    }
}

static int read_tags(sample_input *in, tool *t, const char *model)
{
    const char *from, *to;
    int code = check_same_tags(in, t);

    for (const char *s = in->prompts[0]; code == TOOL_OK && next_tag(s, &from, &to); s = to)
        code = tag_lora(in, t, model, from, (size_t)(to - from));
    for (size_t i = 0; code == TOOL_OK && i < in->n_prompts; i++)
        remove_tags(in->prompts[i]);
    return code;
}

/* ----------------------------------------------------------------------------------------- prompts */

/* One prompt a line; blank lines do not count. */
static int read_prompt_file(sample_input *in, tool *t, const char *path)
{
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(path, "rb");
    char *text = malloc(PROMPT_FILE_MAX + 2), *line;
    size_t n = f && text ? fread(text, 1, PROMPT_FILE_MAX + 1, f) : 0;
    int code = TOOL_OK;

    if (!text) {
        code = tool_no_memory(t);
    } else if (!f || ferror(f)) {
        report_say(&t->report, ADDCL_LOG_ERROR, "--prompt-file: '%s' cannot be read: %s", path, strerror(errno));
        code = TOOL_FAILED;
    } else if (n > PROMPT_FILE_MAX || memchr(text, '\0', n)) {
        code = usage_error(&cmd_sample, "--prompt-file: '%s' is %s", path,
                           n > PROMPT_FILE_MAX ? "larger than 1 MiB" : "no text: it has a byte 0");
    } else {
        text[n] = '\0';
        line = strncmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text; /* byte order mark */
        for (; code == TOOL_OK && *line; line += strcspn(line, "\n"), line += *line == '\n') {
            size_t blank = strspn(line, " \t\r\f\v"), end = strcspn(line, "\n");
            while (end > blank && strchr(" \t\r\f\v", line[end - 1]))
                end--;
            if (end > blank)
                code = add_prompt(in, t, line + blank, end - blank);
        }
    }
    free(text);
    if (f && !is_stdin)
        fclose(f);
    return code;
}

int sample_read_prompts(sample_input *in, tool *t, const sample_args *a)
{
    int code = TOOL_OK;

    for (size_t i = 0; code == TOOL_OK && i < a->prompts.n; i++)
        code = add_prompt(in, t, a->prompts.p[i], strlen(a->prompts.p[i]));
    if (code == TOOL_OK && a->prompt_file)
        code = read_prompt_file(in, t, a->prompt_file);
    if (code == TOOL_OK && in->n_prompts == 0)
        code = a->prompt_file ? usage_error(&cmd_sample, "--prompt-file: '%s' has no prompt in it", a->prompt_file)
                              : usage_error(&cmd_sample, "no prompt: say what to draw with --prompt TEXT");
    for (size_t i = 0; code == TOOL_OK && i < a->loras.n; i++)
        code = option_lora(in, t, a->loras.p[i]);
    return code == TOOL_OK ? read_tags(in, t, a->model) : code;
}

/* -------------------------------------------------------------------------------------- --init-img */

/* The size of the run: what is asked for; else the image's, in the image's proportions, down to whole multiples of the
 * model's factor. */
static void init_size(const addcl_image *image, const sample_args *a, int factor, int *width, int *height)
{
    double w = (double)a->width, h = (double)a->height;

    if (w <= 0)
        w = h > 0 ? h * image->width / image->height : image->width;
    if (h <= 0)
        h = w * image->height / image->width;
    *width = a->width ? (int)a->width : (int)w / factor * factor;
    *height = a->height ? (int)a->height : (int)(h + 1e-6) / factor * factor;
}

int sample_read_init(sample_input *in, tool *t, const sample_args *a, const addcl_model_info *m, addcl_sample_opts *run)
{
    addcl_image *image = NULL;
    int rc, width, height;

    if (!a->init)
        return TOOL_OK;
    if ((rc = addcl_image_read(t->ctx, a->init, &image)) < 0)
        return tool_fail(t, rc);
    init_size(image, a, m->factor, &width, &height);
    if (width < m->factor || height < m->factor) {
        report_say(&t->report, ADDCL_LOG_ERROR, "--init-img: '%s' is %dx%d; the model needs at least %dx%d", a->init,
                   image->width, image->height, m->factor, m->factor);
        addcl_image_free(image);
        return TOOL_USAGE;
    }
    if (width == image->width && height == image->height) {
        in->init = image;
    } else {
        report_say(&t->report, ADDCL_LOG_INFO, "%s: %dx%d, fitted to %dx%d", a->init, image->width, image->height,
                   width, height);
        rc = addcl_image_resize(t->ctx, image, width, height, &in->init);
        addcl_image_free(image);
        if (rc < 0)
            return tool_fail(t, rc);
    }
    run->init = in->init;
    run->width = width;
    run->height = height;
    return TOOL_OK;
}
