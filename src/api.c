/* api.c - context, devices, images and the smaller tools of the public interface. */
#include "api_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "io/image.h"
#include "model/convert.h"
#include "ops/check.h"

const char *addcl_version(void)
{
    return ADDCL_VERSION;
}

const char *addcl_code_name(int code)
{
    static const char *const names[] = {"ADDCL_OK",       "ADDCL_E_ARG",      "ADDCL_E_NOMEM",       "ADDCL_E_DEVMEM",    "ADDCL_E_CL",
                                        "ADDCL_E_BUILD",  "ADDCL_E_IO",       "ADDCL_E_FORMAT",      "ADDCL_E_SHAPE",     "ADDCL_E_UNSUPPORTED",
                                        "ADDCL_E_DIVERGED", "ADDCL_E_CANCELLED", "ADDCL_E_INTERNAL", "ADDCL_E_NODEVICE"};
    return code <= 0 && -code < (int)AC_LEN(names) ? names[-code] : "ADDCL_E_?";
}

/* ------------------------------------------------------------------------------------------ context */

addcl_ctx *addcl_new(void)
{
    return ac_calloc(1, sizeof(addcl_ctx));
}

void addcl_free(addcl_ctx *ctx)
{
    if (!ctx)
        return;
    ac_dev_close(ctx->dev);
    free(ctx);
}

const char *addcl_error(const addcl_ctx *ctx)
{
    return ctx->dg.msg;
}

void addcl_set_log(addcl_ctx *ctx, void (*fn)(void *user, int level, const char *line), void *user)
{
    ctx->dg.note = fn;
    ctx->dg.user = user;
}

void addcl_set_progress(addcl_ctx *ctx, addcl_progress_fn fn, void *user)
{
    ctx->progress = fn;
    ctx->progress_user = user;
}

ac_diag *ac_begin(addcl_ctx *ctx)
{
    ac_clear(&ctx->dg);
    return &ctx->dg;
}

int ac_progress(addcl_ctx *ctx, const char *stage, int64_t done, int64_t total, double seconds, int image, int images)
{
    addcl_progress p = {stage, done, total, seconds, image, images};

    if (ctx->progress && ctx->progress(ctx->progress_user, &p) != 0)
        return ac_fail(&ctx->dg, ADDCL_E_CANCELLED, "cancelled");
    return 0;
}

double ac_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int ac_need_device(addcl_ctx *ctx)
{
    return ctx->dev ? 0 : ac_fail(&ctx->dg, ADDCL_E_ARG, "no device is open: call addcl_open_device first");
}

char *ac_cache_dir(void)
{
    const char *dir = getenv("ADDCL_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

    return dir && *dir ? ac_strdup(dir) : xdg && *xdg ? ac_printf("%s/add-cl", xdg) : home && *home ? ac_printf("%s/.cache/add-cl", home) : NULL;
}

/* ------------------------------------------------------------------------------------------ devices */

int addcl_devices(addcl_ctx *ctx, addcl_device **list, size_t *n)
{
    return ac_dev_list(ac_begin(ctx), list, n);
}

void addcl_devices_free(addcl_device *list)
{
    free(list);
}

int addcl_open_device(addcl_ctx *ctx, const char *spec)
{
    ac_begin(ctx);
    if (ctx->dev)
        return ac_fail(&ctx->dg, ADDCL_E_ARG, "a device is open already: %s", ac_dev_info(ctx->dev)->name);
    return ctx->seats ? ac_dev_open_seat(spec, ctx->seat, ctx->seats, &ctx->dg, &ctx->dev) : ac_dev_open(spec, &ctx->dg, &ctx->dev);
}

const addcl_device *addcl_current_device(const addcl_ctx *ctx)
{
    return ctx->dev ? ac_dev_info(ctx->dev) : NULL;
}

static int stop_at_failure(void *user, const ac_check *c)
{
    const char **problem = user;
    *problem = c->problem;
    return 0;
}

int addcl_probe_device(addcl_ctx *ctx)
{
    const char *problem = "no kernel ran";
    int rc;

    ac_begin(ctx);
    AC_TRY(ac_need_device(ctx));
    AC_TRY(ac_check_ops(ctx->dev, AC_SMALL, "add/same_7x33", stop_at_failure, &problem));
    if (problem)
        rc = ac_fail(&ctx->dg, ADDCL_E_CL, "%s computes wrong values: %s", ac_dev_info(ctx->dev)->name, problem);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ self-test */

typedef struct selftest {
    addcl_case_fn fn;
    void *user;
    int *failed;
} selftest;

static int one_check(void *user, const ac_check *c)
{
    selftest *t = user;
    addcl_case r = {.name = c->name, .status = c->problem ? 1 : 0, .message = c->problem, .error = c->error, .limit = c->limit};

    *t->failed += c->problem != NULL;
    return t->fn && t->fn(t->user, &r) ? ADDCL_E_CANCELLED : 0;
}

int addcl_selftest(addcl_ctx *ctx, const char *pattern, addcl_case_fn fn, void *user, int *failed)
{
    selftest t = {fn, user, failed};
    int rc;

    ac_begin(ctx);
    *failed = 0;
    AC_TRY(ac_need_device(ctx));
    rc = ac_check_ops(ctx->dev, AC_SMALL, pattern, one_check, &t);
    if (rc == ADDCL_E_CANCELLED)
        ac_fail(&ctx->dg, rc, "cancelled");
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ images */

int addcl_image_read(addcl_ctx *ctx, const char *path, addcl_image **out)
{
    return ac_image_read(path, ac_begin(ctx), out);
}

void addcl_image_free(addcl_image *image)
{
    ac_image_free(image);
}

int addcl_image_write(addcl_ctx *ctx, const char *path, const addcl_image *image, const char *parameters, const char *json)
{
    const char *texts[2][2];
    size_t n = 0;

    if (parameters) {
        texts[n][0] = "parameters";
        texts[n++][1] = parameters;
    }
    if (json) {
        texts[n][0] = "add-cl";
        texts[n++][1] = json;
    }
    return ac_image_write_png(path, image, (const char *const(*)[2])texts, n, ac_begin(ctx));
}

int addcl_image_text(addcl_ctx *ctx, const char *path, const char *key, char **text)
{
    return ac_image_png_text(path, key, ac_begin(ctx), text);
}

int addcl_image_grid(addcl_ctx *ctx, const addcl_image *const *images, size_t n, int columns, addcl_image **out)
{
    return ac_image_grid(images, n, columns, ac_begin(ctx), out);
}

int addcl_image_resize(addcl_ctx *ctx, const addcl_image *image, int width, int height, addcl_image **out)
{
    return ac_image_resize(image, width, height, ac_begin(ctx), out);
}

/* ------------------------------------------------------------------------------------------ files */

int addcl_convert(addcl_ctx *ctx, const char *in, const char *out, const char *type)
{
    static const char *const names[] = {"f32", "f16", "bf16"};
    char *clip = NULL;
    int t = -1, rc;

    ac_begin(ctx);
    for (int i = 0; type && i < 3; i++)
        if (!strcmp(type, names[i]))
            t = i;
    if (type && t < 0)
        return ac_fail(&ctx->dg, ADDCL_E_ARG, "\"%s\" is no type: f32, f16 or bf16", type);
    if (ac_clip_vocabulary(&ctx->dg, &clip) < 0) /* then a folder gets no vocabulary, and a note says so */
        ac_begin(ctx);
    rc = ac_convert(in, out, t, clip, &ctx->dg);
    free(clip);
    return rc;
}

/* Calls fn for each tensor; those of a `part` as "part/name". *stop: fn asked for the end. */
static int walk_tensors(ac_diag *dg, const char *path, const char *part, addcl_tensor_fn fn, void *user, bool *stop)
{
    ac_st *st = NULL;
    int rc;

    AC_TRY(ac_st_open(path, dg, &st));
    for (size_t i = 0; i < ac_st_count(st) && !*stop; i++) {
        const ac_st_tensor *t = ac_st_at(st, i);
        char *name = part ? ac_printf("%s/%s", part, t->name) : NULL;
        if (part && !name) {
            rc = ac_nomem(dg, strlen(t->name));
            break;
        }
        *stop = fn(user, name ? name : t->name, ac_st_dtype_name(t->dtype), t->dim, t->dims) != 0;
        free(name);
    }
out:
    ac_st_close(st);
    return rc;
}

/* The weights of every part that a diffusers folder has. */
static int walk_folder(ac_diag *dg, const char *path, addcl_tensor_fn fn, void *user)
{
    static const char *const parts[] = {"text_encoder", "text_encoder_2", "unet", "vae"};
    bool found = false, stop = false;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < AC_LEN(parts) && !stop; i++) {
        char *dir = ac_path_join(path, parts[i]), *file = NULL;
        if (!dir) {
            rc = ac_nomem(dg, strlen(path));
        } else if (ac_is_dir(dir)) {
            found = true;
            rc = ac_layout_weights(dir, dg, &file);
            if (rc == 0)
                rc = walk_tensors(dg, file, parts[i], fn, user, &stop);
        }
        free(dir);
        free(file);
    }
    return rc < 0 || found ? rc : ac_fail(dg, ADDCL_E_FORMAT, "%s is no diffusers folder: it has no unet/", path);
}

int addcl_file_tensors(addcl_ctx *ctx, const char *path, addcl_tensor_fn fn, void *user)
{
    ac_diag *dg = ac_begin(ctx);
    bool stop = false;

    return ac_is_dir(path) ? walk_folder(dg, path, fn, user) : walk_tensors(dg, path, NULL, fn, user, &stop);
}

int addcl_file_metadata(addcl_ctx *ctx, const char *path, int (*fn)(void *user, const char *key, const char *value), void *user)
{
    ac_st *st = NULL;
    int rc;

    AC_TRY(ac_st_open(path, ac_begin(ctx), &st));
    for (size_t i = 0; i < ac_st_meta_count(st); i++) {
        const char *key, *value;
        ac_st_meta_at(st, i, &key, &value);
        if (fn(user, key, value) != 0)
            break;
    }
out:
    ac_st_close(st);
    return rc;
}
