/* cmd_sample.c - add-cl sample: text to image. */
#include "sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(...) OPT_ROW(sample_args, __VA_ARGS__)

static const opt_def rows[] = {
    {.kind = OPT_GROUP, .help = "What to draw"},
    ROW(OPT_TEXTS, "prompt", 'p', prompts, "TEXT",
        "the text to make an image of; may be repeated. <lora:NAME:WEIGHT> in it merges a LoRA", RECIPE),
    ROW(OPT_FILE, "prompt-file", 0, prompt_file, "FILE", "a file with one prompt a line; - is standard input"),
    ROW(OPT_TEXT, "negative-prompt", 'n', negative, "TEXT", "what to stay away from; needs guidance", RECIPE),
    ROW(OPT_FILE, "init-img", 'i', init, "FILE",
        "start from this PNG, JPEG or WebP image; without -W and -H the result has its size"),
    ROW(OPT_NUM, "strength", 0, strength, "X", "how far to go from the --init-img: share of the steps that run",
        RANGE(0.001, 1), DEFAULT("0.75"), RECIPE),
    ROW(OPT_FILE, "from-image", 0, from_image, "PNG",
        "repeat the run that made an image of add-cl; other options given here win"),

    {.kind = OPT_GROUP, .help = "How"},
    ROW(OPT_INT, "steps", 0, steps, "N", "denoising steps", RANGE(1, 10000), SHOWN("the model's"), RECIPE),
    ROW(OPT_NUM, "cfg-scale", 0, cfg_scale, "X", "guidance; 0 and 1 mean none", RANGE(0, 1000), SHOWN("the model's"),
        RECIPE),
    ROW(OPT_INT, "width", 'W', width, "PIXELS", "width of the images", RANGE(8, 16384), SHOWN("the model's"), RECIPE),
    ROW(OPT_INT, "height", 'H', height, "PIXELS", "height of the images", RANGE(8, 16384), SHOWN("the model's"),
        RECIPE),
    ROW(OPT_INT, "seed", 's', seed, "N", "of the first image, the next ones count on; -1: random", RANGE(-1, 9.3e18),
        DEFAULT("-1"), RECIPE),
    ROW(OPT_WORD, "rng", 0, rng, "cpu|cuda", "noise as torch's generator of that device makes it", DEFAULT("cpu"),
        RECIPE),
    ROW(OPT_WORD, "sampler", 0, sampler, "euler|euler_a|ddim|lcm|dpmpp_2m", "method of denoising", SHOWN("the model's"),
        RECIPE),
    ROW(OPT_NUM, "eta", 0, eta, "X", "noise added by ddim", RANGE(0, 1), DEFAULT("0"), RECIPE),
    ROW(OPT_WORD, "spacing", 0, spacing, "trailing|leading|linspace", "how the steps spread over the schedule",
        SHOWN("the model's"), RECIPE),
    ROW(OPT_NUMS, "timesteps", 0, timesteps, "T,T,...", "explicit timesteps, descending, instead of --steps",
        RANGE(0, 999999), RECIPE),
    ROW(OPT_NUMS, "sigmas", 0, sigmas, "X,X,...",
        "explicit noise levels, descending, without the final 0, instead of --steps", RANGE(0, 1e6), RECIPE),

    {.kind = OPT_GROUP, .help = "Model"},
    ROW(OPT_FILE, "model", 'm', model, "PATH", "a diffusers folder or a single .safetensors file",
        SHOWN("the model that ships with add-cl"), RECIPE),
    ROW(OPT_FILE, "unet", 0, unet, "PATH", "UNet to use instead", RECIPE),
    ROW(OPT_FILE, "vae", 0, vae, "PATH", "VAE to use instead", RECIPE),
    ROW(OPT_FILE, "text-encoder", 0, text_encoder, "PATH", "text encoder to use instead", RECIPE),
    ROW(OPT_FILE, "taesd", 0, taesd, "PATH", "tiny autoencoder to decode with: faster, coarser", RECIPE),
    ROW(OPT_FILES, "lora", 0, loras, "FILE[:WEIGHT]",
        "LoRA to merge into the model; may be repeated. WEIGHT is 1 if left out"),
    ROW(OPT_WORD, "prediction", 0, prediction, "eps|v", "what the UNet predicts", SHOWN("as the model says"), RECIPE),
    ROW_TYPE(sample_args, type),

    {.kind = OPT_GROUP, .help = "Output"},
    ROW(OPT_FILE, "output", 'o', output, "FILE", "PNG to write; %03d in it is the image's number; a folder (or NAME/) gets numbered files; - is standard output",
        DEFAULT("out.png")),
    ROW(OPT_INT, "batch-count", 'b', batch_count, "N", "images of each prompt", RANGE(1, 10000), DEFAULT("1")),
    ROW(OPT_INT, "batch-size", 0, batch_size, "N", "images computed together", RANGE(1, 1024), DEFAULT("1")),
    ROW(OPT_INT, "grid", 0, grid, "COLUMNS", "write all images as one sheet instead of one by one", RANGE(0, 1000),
        BARE("0")),
    ROW(OPT_FLAG, "no-metadata", 0, no_metadata, NULL, "leave out of the PNG how it was made"),
    ROW(OPT_WORD, "vae-tiling", 0, tiling, "auto|on|off", "decode in tiles; auto: when the device's memory asks for it",
        DEFAULT("auto"), RECIPE),
    ROW(OPT_INT, "vae-tile-size", 0, tile_size, "PIXELS", "side of a tile", RANGE(64, 16384), DEFAULT("512"), RECIPE),
    ROW(OPT_NUM, "vae-tile-overlap", 0, tile_overlap, "X", "share of a tile that overlaps the next", RANGE(0.01, 0.9),
        DEFAULT("0.25"), RECIPE),

    {.kind = OPT_GROUP, .help = "Running"},
    ROW_DEVICE(sample_args),
    ROW(OPT_FLAG, "list-devices", 0, list_devices, NULL, "list the devices and end"),
    ROW(OPT_FLAG, "dry-run", 0, dry_run, NULL, "tell the plan, its memory and work; run nothing"),
    ROW_PROGRESS(sample_args),
    ROWS_REPORT(sample_args),
};

/* A run. */
typedef struct job {
    tool tool;
    cmd_line cmdline;
    sample_args args;
    sample_input in;
    sample_output out;
    addcl_model *model;
    addcl_sample_opts opts;
    addcl_sample_result plan; /* what was chosen; the seed in it is not random any more */
    char hash[65];            /* of the model; "" until it is asked for */
    addcl_image *sheet;       /* copies of the images for --grid, plan.count of them; NULL: no grid */
    int failed;               /* exit code of a failure in on_image, 0: none */
} job;

/* --------------------------------------------------------------------------------------------- options */

static int check_args(const cmd_line *o, const sample_args *a)
{
    static const char *const schedules[] = {"steps", "timesteps", "sigmas"};
    const char *first = NULL;

    for (int i = 0; i < 3; i++) {
        if (!opts_given(o, schedules[i]))
            continue;
        if (first)
            return usage_error(o->cmd, "--%s and --%s exclude each other", first, schedules[i]);
        first = schedules[i];
    }
    if (opts_given(o, "strength") && !a->init)
        return usage_error(o->cmd, "--strength needs an --init-img");
    return TOOL_OK;
}

/* The library's options from ours. 0 or the exit code. */
static int fill_opts(job *j)
{
    const sample_args *a = &j->args;
    size_t count = j->in.n_prompts * (size_t)a->batch_count;

    if (count > 1000000)
        return usage_error(&cmd_sample, "%zu prompts with %lld images each are more than a million images",
                           j->in.n_prompts, (long long)a->batch_count);
    j->opts = (addcl_sample_opts){
        .prompts = (const char *const *)j->in.prompts,
        .n_prompts = j->in.n_prompts,
        .negative_prompt = a->negative,
        .count = (int)count,
        .batch_size = (int)a->batch_size,
        .steps = (int)a->steps,
        .cfg_scale = a->cfg_scale,
        .width = (int)a->width,
        .height = (int)a->height,
        .seed = a->seed,
        .rng = a->rng,
        .sampler = a->sampler,
        .eta = a->eta,
        .spacing = a->spacing,
        .timesteps = a->timesteps.p,
        .n_timesteps = a->timesteps.n,
        .sigmas = a->sigmas.p,
        .n_sigmas = a->sigmas.n,
        .strength = a->strength,
        .vae_tiling = strcmp(a->tiling, "on") == 0    ? ADDCL_TILING_ON
                      : strcmp(a->tiling, "off") == 0 ? ADDCL_TILING_OFF
                                                      : ADDCL_TILING_AUTO,
        .vae_tile_size = (int)a->tile_size,
        .vae_tile_overlap = a->tile_overlap,
        .user = j,
    };
    return TOOL_OK;
}

static int load_model(job *j)
{
    const sample_args *a = &j->args;
    addcl_model_opts m = {
        .path = a->model,
        .unet = a->unet,
        .vae = a->vae,
        .text_encoder = a->text_encoder,
        .taesd = a->taesd,
        .loras = j->in.loras,
        .n_loras = j->in.n_loras,
        .type = type_named(a->type),
        .prediction = a->prediction,
    };

    return tool_load_model(&j->tool, &m, &j->model);
}

/* --------------------------------------------------------------------------------------------- reports */

static bool guided(double cfg_scale)
{
    return cfg_scale != 0 && cfg_scale != 1;
}

/* Options that work but will not do what they promise. */
static void warn(job *j)
{
    const addcl_model_info *m = addcl_model_get_info(j->model);
    report *r = &j->tool.report;

    if (j->args.negative && *j->args.negative && !guided(j->plan.cfg_scale))
        report_say(r, ADDCL_LOG_WARN, "--negative-prompt has no effect: guidance is off (--cfg-scale %g)",
                   j->plan.cfg_scale);
    if (m->few_step && guided(j->plan.cfg_scale))
        report_say(r, ADDCL_LOG_WARN, "--cfg-scale %g: this model is distilled to work without guidance (%s)",
                   j->plan.cfg_scale, m->few_step_why);
    if (m->few_step && j->plan.steps > 4 && j->plan.steps > m->steps)
        report_say(r, ADDCL_LOG_WARN, "--steps %d: this model is distilled for few steps, its default is %d (%s)",
                   j->plan.steps, m->steps, m->few_step_why);
}

/* "euler, 25 steps, trailing, guidance 4, epsilon" */
static void text_choices(const job *j, char *buf, size_t size)
{
    const addcl_sample_result *p = &j->plan;
    char guidance[32] = "no guidance";

    if (guided(p->cfg_scale))
        snprintf(guidance, sizeof guidance, "guidance %g", p->cfg_scale);
    snprintf(buf, size, "%s, %d step%s, %s, %s, %s", p->sampler, p->steps, p->steps == 1 ? "" : "s", p->spacing,
             guidance, p->prediction);
}

static void tell_choices(job *j)
{
    const addcl_model_info *m = addcl_model_get_info(j->model);
    const addcl_sample_result *p = &j->plan;
    char choices[160];

    text_choices(j, choices, sizeof choices);
    report_say(&j->tool.report, ADDCL_LOG_INFO, "%s (%s, %s): %dx%d, %s, %s, seed %lld%s%s%s", m->name, m->family,
               m->layout, p->width, p->height, choices, j->args.type, (long long)p->seed,
               p->tiled ? ", decoded in tiles" : "", m->few_step ? "; few steps because " : "",
               m->few_step ? m->few_step_why : "");
}

static void print_plan(const job *j, const addcl_estimate *e)
{
    const addcl_model_info *m = addcl_model_get_info(j->model);
    const addcl_sample_result *p = &j->plan;
    int batch = (int)j->args.batch_size < p->count ? (int)j->args.batch_size : p->count;
    int batches = (p->count + batch - 1) / batch;
    char choices[160], text[16], unet[16], vae[16], peak[16];

    text_choices(j, choices, sizeof choices);
    printf("model    %s, %s, %s\n", m->name, m->family, m->layout);
    printf("images   %d of %dx%d, %d at a time, seed %lld%s\n", p->count, p->width, p->height, batch,
           (long long)p->seed, p->tiled ? ", decoded in tiles" : "");
    printf("method   %s\n", choices);
    printf("memory   text %s, UNet %s, VAE %s; peak %s on the device\n", text_bytes((double)e->text_bytes, text),
           text_bytes((double)e->unet_bytes, unet), text_bytes((double)e->vae_bytes, vae),
           text_bytes((double)p->planned_bytes, peak));
    printf("work     text %.3g, UNet %d x %.3g, VAE %.3g: %.3g TFLOP%s\n", e->text_flop / 1e12, p->steps,
           e->unet_flop / 1e12, e->vae_flop / 1e12,
           (e->text_flop + p->steps * e->unet_flop + e->vae_flop) / 1e12 * batches,
           batches > 1 ? " for all images" : "");
}

static void tell_result(job *j, const addcl_sample_result *r, double seconds)
{
    char what[1024], seeds[64], peak[16], planned[16], *name = sample_output_name(&j->out, 0);

    if (j->plan.count == 1 || j->sheet)
        snprintf(what, sizeof what, "%s", name ? name : "");
    else
        snprintf(what, sizeof what, "%d images", r->count);
    free(name);
    snprintf(seeds, sizeof seeds, r->count > 1 ? "seeds %lld to %lld" : "seed %lld", (long long)r->seed,
             (long long)r->seed + r->count - 1);
    report_say(&j->tool.report, ADDCL_LOG_INFO,
               "%s  %dx%d  %s  %d step%s %s  %.2f s (load %.2f, text %.2f, sample %.2f, decode %.2f)", what, r->width,
               r->height, seeds, r->steps, r->steps == 1 ? "" : "s", r->sampler, seconds, r->load_s, r->text_s,
               r->sample_s, r->decode_s);
    report_say(&j->tool.report, ADDCL_LOG_DEBUG, "device memory: %s used at most, %s planned",
               text_bytes((double)r->peak_bytes, peak), text_bytes((double)r->planned_bytes, planned));
}

/* --------------------------------------------------------------------------------------------- writing */

/* The hash of the model, "" when it cannot be had: an image is worth more than its metadata. */
static const char *model_hash(job *j)
{
    const char *before = json_string_value(json_object_get(j->in.recipe, "model_hash"));

    if (!j->hash[0]) {
        if (addcl_model_hash(j->model, j->hash) < 0) {
            report_say(&j->tool.report, ADDCL_LOG_WARN, "no model hash: %s", addcl_error(j->tool.ctx));
            return NULL;
        }
        if (before && strcmp(before, j->hash) != 0)
            report_say(&j->tool.report, ADDCL_LOG_WARN,
                       "'%s' was made with another model: its hash begins with %.10s, here it is %.10s",
                       j->args.from_image, before, j->hash);
    }
    return j->hash;
}

/* Writes a file with the metadata of image `index`. 0 or a library error. */
static int write_image(job *j, const char *path, const addcl_image *image, int index)
{
    char *parameters = NULL, *recipe = NULL;
    int rc = 0;

    if (!j->args.no_metadata)
        rc = addcl_sample_metadata(j->model, &j->opts, &j->plan, index, model_hash(j), &parameters, &recipe);
    if (rc == 0)
        rc = addcl_image_write(j->tool.ctx, path, image, parameters, recipe);
    free(parameters);
    free(recipe);
    return rc;
}

static bool keep_image(addcl_image *copy, const addcl_image *image)
{
    size_t bytes = 3 * (size_t)image->width * (size_t)image->height;

    *copy = *image;
    copy->rgb = malloc(bytes);
    if (copy->rgb)
        memcpy(copy->rgb, image->rgb, bytes);
    return copy->rgb != NULL;
}

/* Takes a finished image: to its file, or to the sheet. */
static int on_image(void *user, int index, const addcl_image *image)
{
    job *j = user;
    char *name = NULL;
    int rc;

    if (j->sheet) {
        j->failed = keep_image(&j->sheet[index], image) ? 0 : tool_no_memory(&j->tool);
        return j->failed;
    }
    if (!(name = sample_output_name(&j->out, index)))
        return j->failed = tool_no_memory(&j->tool);
    if ((rc = write_image(j, name, image, index)) < 0)
        j->failed = tool_fail(&j->tool, rc);
    else if (j->plan.count > 1)
        report_say(&j->tool.report, ADDCL_LOG_INFO, "%s  %dx%d  seed %lld", name, image->width, image->height,
                   (long long)j->plan.seed + index);
    free(name);
    return j->failed;
}

/* Writes all images as one, with the metadata of the first. */
static int write_sheet(job *j)
{
    size_t n = (size_t)j->plan.count;
    const addcl_image **images = calloc(n, sizeof *images);
    char *name = sample_output_name(&j->out, 0);
    addcl_image *sheet = NULL;
    int rc = ADDCL_E_NOMEM;

    for (size_t i = 0; images && i < n; i++)
        images[i] = &j->sheet[i];
    if (images && name)
        rc = addcl_image_grid(j->tool.ctx, images, n, (int)j->args.grid, &sheet);
    if (rc == 0)
        rc = write_image(j, name, sheet, 0);
    addcl_image_free(sheet);
    free(name);
    free(images);
    return rc < 0 ? tool_fail(&j->tool, rc) : TOOL_OK;
}

/* ------------------------------------------------------------------------------------------------- run */

static int plan(job *j)
{
    addcl_estimate estimate = {0};
    int rc = addcl_sample_plan(j->model, &j->opts, &j->plan, &estimate);

    if (rc < 0)
        return tool_fail(&j->tool, rc);
    j->opts.seed = j->plan.seed;
    warn(j);
    if (j->args.dry_run)
        print_plan(j, &estimate);
    else
        tell_choices(j);
    return TOOL_OK;
}

static int make_images(job *j)
{
    addcl_sample_result result = {0};
    double start = clock_now();
    int rc, code = TOOL_OK;

    if (j->args.grid >= 0 && !(j->sheet = calloc((size_t)j->plan.count, sizeof *j->sheet)))
        return tool_no_memory(&j->tool);
    j->opts.on_image = on_image;
    rc = addcl_sample(j->model, &j->opts, &result);
    report_clear(&j->tool.report);
    if (j->failed)
        code = j->failed;
    else if (rc < 0)
        code = tool_fail(&j->tool, rc);
    else if (j->sheet)
        code = write_sheet(j);
    if (code == TOOL_OK)
        tell_result(j, &result, clock_now() - start);
    return code;
}

/* From parsed options to written images. */
static int sample(job *j)
{
    sample_args *a = &j->args;
    tool *t = &j->tool;
    int code;

    if ((code = tool_open(t, &a->common)))
        return code;
    if (a->list_devices)
        return devices_print(t, false, false);
    if ((code = check_args(&j->cmdline, a)) || (code = sample_read_recipe(&j->in, t, &j->cmdline, a)) ||
        (code = sample_read_prompts(&j->in, t, a)) || (code = fill_opts(j)) ||
        (code = sample_output_open(&j->out, t, a->output, a->grid >= 0 ? 1 : j->opts.count)) ||
        (code = load_model(j)) || (code = sample_read_init(&j->in, t, a, addcl_model_get_info(j->model), &j->opts)) ||
        (code = tool_open_device(t, a->common.device)) || (code = plan(j)))
        return code;
    return a->dry_run ? TOOL_OK : make_images(j);
}

static int run(int argc, char **argv)
{
    job j = {.args = {.cfg_scale = -1, .grid = -1}};
    int code;

    if (opts_parse(&j.cmdline, &cmd_sample, argc, argv, &j.args, &code)) {
        catch_signals();
        code = sample(&j);
        for (int i = 0; j.sheet && i < j.plan.count; i++)
            free(j.sheet[i].rgb);
        free(j.sheet);
        addcl_model_free(j.model);
        sample_input_free(&j.in);
        sample_output_free(&j.out);
        tool_close(&j.tool);
    }
    opts_free(&j.cmdline);
    return code;
}

const cmd_def cmd_sample = {
    .name = "sample",
    .summary = "Makes images from text",
    .usage = "-p TEXT [OPTION]...",
    .details = "Several prompts make several images; image number i, from 0, uses the seed plus i. Without a model of "
               "your own the one "
               "that ships with add-cl is used.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
