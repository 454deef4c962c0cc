/* api_model.c - opening models: diffusers folders and single files, their parts, tokenizers, schedule and defaults. */
#include "api_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"

static const char *const part_names[AC_PARTS] = {"unet", "vae", "text_encoder", "text_encoder_2", "taesd"};

/* ------------------------------------------------------------------------------------------ data that come with the program */

/* "<base><sub>/models/<name>" if `marker` is in it, in new memory; NULL: it is not there. */
static char *data_folder(const char *base, const char *sub, const char *name, const char *marker)
{
    char *dir = ac_printf("%s%s/models/%s", base, sub, name), *file = dir ? ac_path_join(dir, marker) : NULL;

    if (!file || !ac_exists(file)) {
        free(dir);
        dir = NULL;
    }
    free(file);
    return dir;
}

/* In the source or build tree (the folders above the program), beside it if the installation was moved, else where it was
 * installed. */
static char *shipped(const char *name, const char *marker)
{
    char exe[4096], *dir = NULL, *slash;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);

    exe[n > 0 ? n : 0] = '\0';
    for (int up = 0; up < 5 && !dir && (slash = strrchr(exe, '/')); up++) {
        *slash = '\0';
        dir = data_folder(exe, "", name, marker);
        dir = dir ? dir : data_folder(exe, "/share/add-cl", name, marker);
    }
    return dir ? dir : data_folder(ADDCL_DATADIR, "", name, marker);
}

static char *default_model(void)
{
    const char *env = getenv("ADDCL_MODEL_DIR");
    char *file, *dir;

    if (!env || !*env)
        return shipped("emoji-turbo", "model_index.json");
    file = ac_path_join(env, "model_index.json");
    dir = file && ac_exists(file) ? ac_strdup(env) : ac_path_join(env, "emoji-turbo");
    free(file);
    return dir;
}

int addcl_default_model(addcl_ctx *ctx, char *path, size_t size)
{
    char *dir = default_model();
    int rc = 0;

    ac_begin(ctx);
    if (!dir || !ac_exists(dir))
        rc = ac_fail(&ctx->dg, ADDCL_E_IO, "the model that ships with add-cl was not found; give one with --model, or set ADDCL_MODEL_DIR");
    else if (snprintf(path, size, "%s", dir) >= (int)size)
        rc = ac_fail(&ctx->dg, ADDCL_E_ARG, "the path of the shipped model is longer than %zu bytes", size);
    free(dir);
    return rc;
}

int ac_clip_vocabulary(ac_diag *dg, char **dir)
{
    *dir = shipped("clip-tokenizer", "vocab.json");
    return *dir ? 0 : ac_fail(dg, ADDCL_E_IO, "CLIP's vocabulary (models/clip-tokenizer), which ships with add-cl, was not found");
}

/* ------------------------------------------------------------------------------------------ parts */

void ac_part_close(ac_part *p)
{
    if (p->own_layout)
        ac_layout_free(p->layout);
    ac_st_close(p->st);
    if (p->own_json)
        ac_json_close(&p->json);
    free((char *)(uintptr_t)p->json.path);
    free(p->file);
    memset(p, 0, sizeof *p);
}

/* Weight formats that are not read, with what to do. */
static int refuse_format(ac_diag *dg, const char *path)
{
    static const char *const ends[] = {".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx"};
    const char *dot = strrchr(path, '.');

    for (size_t i = 0; dot && i < AC_LEN(ends); i++)
        if (!strcasecmp(dot, ends[i]))
            return ac_fail(dg, ADDCL_E_UNSUPPORTED,
                           "%s: %s files are not read: get or convert the model as .safetensors (python: safetensors.torch.save_file), or "
                           "as a diffusers folder",
                           path, ends[i]);
    return 0;
}

static int open_file(ac_diag *dg, const char *path, const char *want, ac_part *p)
{
    int rc;

    AC_TRY(refuse_format(dg, path));
    if (!(p->file = ac_strdup(path))) {
        rc = ac_nomem(dg, strlen(path));
        goto out;
    }
    AC_TRY(ac_st_open(path, dg, &p->st));
    AC_TRY(ac_layout_detect(p->st, path, want, dg, &p->layout));
    p->own_layout = true;
out:
    return rc;
}

int ac_part_open(ac_diag *dg, const char *dir, const char *name, bool optional, ac_part *p)
{
    char *file = NULL;
    bool has = true;
    int rc = 0;

    p->name = name;
    if (!(p->json.path = ac_path_join(dir, "config.json")))
        return ac_nomem(dg, 1);
    AC_TRY(ac_json_open(p->json.path, dg, &p->json));
    p->own_json = true;
    p->present = true;
    if (optional)
        AC_TRY(ac_layout_has_weights(dir, dg, &has));
    if (!has)
        goto out;
    AC_TRY(ac_layout_weights(dir, dg, &file));
    AC_TRY(open_file(dg, file, name, p));
out:
    free(file);
    return rc;
}

int ac_image_tower_open(ac_diag *dg, const char *dir, ac_part *p, ac_vit_cfg *c)
{
    char *config = ac_path_join(dir, "config.json"), *sub = ac_path_join(dir, "image_encoder");
    int rc = config && sub ? 0 : ac_nomem(dg, strlen(dir));

    AC_TRY(rc);
    AC_TRY(ac_part_open(dg, ac_exists(config) ? dir : sub, "image_encoder", false, p));
    rc = ac_vit_config(&p->json, c);
out:
    free(config);
    free(sub);
    return rc;
}

/* The part's object in the configurations of a single file. */
static int config_of(ac_diag *dg, json_t *configs, const char *path, ac_part *p)
{
    json_t *obj = json_object_get(configs, p->name);

    if (!obj)
        return ac_fail(dg, ADDCL_E_FORMAT, "%s: no configuration for %s", path, p->name);
    p->json = (ac_json){.obj = obj, .path = ac_printf("%s (%s)", path, p->name), .dg = dg};
    return p->json.path ? 0 : ac_nomem(dg, 1);
}

/* A part from a file of its own (--vae x.safetensors): its configuration follows from the tensors. */
static int open_part_file(ac_diag *dg, const char *path, const char *name, ac_part *p, json_t **configs)
{
    int rc;

    p->name = name;
    AC_TRY(open_file(dg, path, name, p));
    if (!ac_layout_has(p->layout, name)) {
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s holds no %s", path, name);
        goto out;
    }
    AC_TRY(ac_layout_configs(p->layout, dg, configs));
    AC_TRY(config_of(dg, *configs, path, p));
    p->own_json = true; /* closing the part drops the object */
    json_incref(p->json.obj);
    p->present = true;
out:
    return rc;
}

/* Replaces part `id` by what the user gave. */
static int replace_part(addcl_model *m, ac_part_id id, const char *path)
{
    ac_part *p = &m->part[id];
    json_t *configs = NULL;
    int rc;

    if (!path)
        return 0;
    ac_part_close(p);
    rc = ac_is_dir(path) ? ac_part_open(&m->ctx->dg, path, part_names[id], m->partial, p) : open_part_file(&m->ctx->dg, path, part_names[id], p, &configs);
    json_decref(configs);
    m->part_option[id] = part_names[id];
    if (rc == 0 && !(m->part_path[id] = ac_strdup(path)))
        rc = ac_nomem(&m->ctx->dg, strlen(path));
    return rc;
}

/* ------------------------------------------------------------------------------------------ tokenizers */

static int open_tokenizer(addcl_model *m, int i, const char *dir)
{
    ac_diag *dg = &m->ctx->dg;
    char *vocab = dir ? ac_path_join(dir, "vocab.json") : NULL, *whole = dir ? ac_path_join(dir, "tokenizer.json") : NULL, *clip = NULL;
    int rc = 0;

    if ((vocab && ac_exists(vocab)) || (whole && ac_exists(whole))) {
        AC_TRY(ac_bpe_open(dir, dg, &m->bpe[i]));
    } else {
        AC_TRY(ac_clip_vocabulary(dg, &clip));
        AC_TRY(ac_bpe_open(clip, dg, &m->bpe[i]));
    }
    m->pad[i] = ac_bpe_pad(m->bpe[i]);
    if (m->clip[i].width && ac_bpe_vocab_size(m->bpe[i]) > (size_t)m->clip[i].vocab)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "the tokenizer has %zu entries, %s only %d: they do not belong together",
                     ac_bpe_vocab_size(m->bpe[i]), part_names[AC_TEXT + i], m->clip[i].vocab);
out:
    free(vocab);
    free(whole);
    free(clip);
    return rc;
}

/* The vocabulary of a single file: its own (written by add-cl), else CLIP's. */
static int file_tokenizer(addcl_model *m, int i)
{
    const char *vocab = ac_st_meta(m->st, i ? AC_META_VOCAB_2 : AC_META_VOCAB), *merges = ac_st_meta(m->st, i ? AC_META_MERGES_2 : AC_META_MERGES);
    int rc;

    if (!vocab || !merges) {
        AC_TRY(open_tokenizer(m, i, NULL));
        /* Stable Diffusion 2 and the second encoder of XL were trained with padding by id 0. */
        if (i == 1 || (m->clip[0].act == AC_ACT_GELU && m->clip[0].vocab == 49408))
            m->pad[i] = 0;
        return 0;
    }
    AC_TRY(ac_bpe_open_text(vocab, merges, &m->ctx->dg, &m->bpe[i]));
    m->pad[i] = ac_bpe_pad(m->bpe[i]);
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ folder and file */

static int load_folder(addcl_model *m, const char *scheduler)
{
    ac_diag *dg = &m->ctx->dg;
    char *dir = NULL, *index = ac_path_join(m->path, "model_index.json"), *unet = ac_path_join(m->path, "unet");
    ac_json sched;
    int rc = 0;

    if (!index || !unet) {
        rc = ac_nomem(dg, strlen(m->path));
        goto out;
    }
    if (!m->partial && !ac_exists(index) && !ac_is_dir(unet)) {
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s is no diffusers folder: it has neither model_index.json nor unet/", m->path);
        goto out;
    }
    for (int id = AC_UNET; id <= AC_TEXT_2; id++) {
        free(dir);
        if (!(dir = ac_path_join(m->path, part_names[id]))) {
            rc = ac_nomem(dg, 1);
            goto out;
        }
        if ((id == AC_TEXT_2 || m->partial) && !ac_is_dir(dir))
            continue;
        AC_TRY(ac_part_open(dg, dir, part_names[id], m->partial, &m->part[id]));
    }
    free(dir);
    if (!(dir = scheduler ? ac_path_join(scheduler, "scheduler_config.json") : ac_printf("%s/scheduler/scheduler_config.json", m->path))) {
        rc = ac_nomem(dg, 1);
        goto out;
    }
    if (ac_exists(dir)) {
        AC_TRY(ac_json_open(dir, dg, &sched));
        m->scheduler_class = ac_strdup(ac_json_str(&sched, "_class_name", ""));
        m->prediction_known = true;
        rc = ac_schedule_parse(&sched, &m->sch);
        ac_json_close(&sched);
    } else {
        ac_schedule_cfg c = ac_schedule_sd(false);
        m->prediction_known = false;
        rc = ac_schedule_new(&c, dg, &m->sch);
    }
out:
    free(dir);
    free(index);
    free(unet);
    return rc;
}

static int load_file(addcl_model *m)
{
    ac_diag *dg = &m->ctx->dg;
    json_t *sched;
    int rc;

    AC_TRY(refuse_format(dg, m->path));
    m->single = true;
    AC_TRY(ac_st_open(m->path, dg, &m->st));
    AC_TRY(ac_layout_detect(m->st, m->path, NULL, dg, &m->layout));
    AC_TRY(ac_layout_configs(m->layout, dg, &m->configs));
    for (int id = AC_UNET; id < AC_PARTS; id++) {
        ac_part *p = &m->part[id];
        if (!ac_layout_has(m->layout, part_names[id]))
            continue;
        p->name = part_names[id];
        p->layout = m->layout;
        p->present = true;
        AC_TRY(config_of(dg, m->configs, m->path, p));
    }
    if (!m->part[AC_UNET].present) {
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s holds no UNet: it is no whole model (use it with --vae, --text-encoder or --taesd)", m->path);
        goto out;
    }
    sched = json_object_get(m->configs, "scheduler");
    if (sched) {
        ac_json j = {.obj = sched, .path = m->path, .dg = dg};
        m->prediction_known = ac_json_has(&j, "prediction_type");
        m->scheduler_class = ac_strdup(ac_json_str(&j, "_class_name", ""));
        AC_TRY(ac_schedule_parse(&j, &m->sch));
    } else {
        ac_schedule_cfg c = ac_schedule_sd(false);
        AC_TRY(ac_schedule_new(&c, dg, &m->sch));
    }
out:
    return rc;
}

/* SDXL's pipeline takes zeros for an empty negative prompt unless model_index.json says otherwise. */
static int read_pipeline(addcl_model *m)
{
    char *path = m->single ? NULL : ac_path_join(m->path, "model_index.json");
    ac_json index = {0};
    int rc = 0;

    m->zero_empty = m->unet.time_ids != 0;
    if (path && ac_exists(path)) {
        AC_TRY(ac_json_open(path, &m->ctx->dg, &index));
        m->zero_empty = m->zero_empty && ac_json_bool(&index, "force_zeros_for_empty_prompt", true);
        rc = index.rc;
    }
out:
    ac_json_close(&index);
    free(path);
    return rc;
}

static int read_configs(addcl_model *m)
{
    ac_diag *dg = &m->ctx->dg;
    int rc = 0;

    for (int id = AC_UNET; id <= AC_TEXT; id++)
        if (!m->part[id].present && !m->partial && !(id == AC_VAE && m->part[AC_TAESD].present))
            return ac_fail(dg, ADDCL_E_FORMAT, "%s has no %s: give one with --%s", m->path, part_names[id],
                           id == AC_TEXT ? "text-encoder" : part_names[id]);
    if (m->part[AC_UNET].present)
        AC_TRY(ac_unet_config(&m->part[AC_UNET].json, &m->unet));
    if (m->part[AC_VAE].present)
        AC_TRY(ac_vae_config(&m->part[AC_VAE].json, &m->vae));
    if (m->part[AC_TAESD].present)
        AC_TRY(ac_taesd_config(&m->part[AC_TAESD].json, &m->taesd));
    if (m->part[AC_TEXT].present)
        AC_TRY(ac_clip_config(&m->part[AC_TEXT].json, &m->clip[0]));
    if (m->part[AC_TEXT_2].present)
        AC_TRY(ac_clip_config(&m->part[AC_TEXT_2].json, &m->clip[1]));
    if (m->unet.time_ids && !m->part[AC_TEXT_2].present) {
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: the UNet is conditioned as SDXL's and needs a second text encoder", m->path);
        goto out;
    }
    if (m->partial && (!m->part[AC_UNET].present || !m->part[AC_TEXT].present || !(m->part[AC_VAE].present || m->part[AC_TAESD].present)))
        goto out; /* what is there need not fit what is not */
    if (m->clip[0].width + m->clip[1].width != m->unet.context)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: the text encoders give %d values a token, the UNet takes %d", m->path,
                     m->clip[0].width + m->clip[1].width, m->unet.context);
    else if ((m->part[AC_TAESD].present ? m->taesd.latent : m->vae.latent) != m->unet.in_channels)
        rc = ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: latents of %d channels, but a UNet that takes %d (inpainting models are not supported)",
                     m->path, m->part[AC_TAESD].present ? m->taesd.latent : m->vae.latent, m->unet.in_channels);
out:
    return rc;
}

static int load_tokenizers(addcl_model *m, const char *tokenizer)
{
    int rc = 0;

    for (int i = 0; i < 2 && rc == 0; i++) {
        char *dir;
        if (!m->part[AC_TEXT + i].present)
            continue;
        if (m->single && !(tokenizer && i == 0)) {
            rc = file_tokenizer(m, i);
            continue;
        }
        if (tokenizer && i == 0) {
            rc = open_tokenizer(m, i, tokenizer);
            continue;
        }
        if (!(dir = ac_path_join(m->path, i ? "tokenizer_2" : "tokenizer")))
            return ac_nomem(&m->ctx->dg, 1);
        rc = open_tokenizer(m, i, dir);
        free(dir);
    }
    return rc;
}

/* ------------------------------------------------------------------------------------------ every tensor, no more and no less */

/* Builds each network as a graph, which asks for every weight by name and shape; then nothing may be left over. */
static int check_weights(addcl_model *m)
{
    ac_nets n = ac_model_nets(m);
    ac_stage_size z = {.batch = 1, .h = 8, .w = 8, .tokens = m->clip[0].positions, .plan_only = true};
    int rc = 0;

    n.loras = NULL;
    n.n_loras = 0;
    n.dev = NULL; /* graphs only */
    for (int i = 0; i < 2; i++)
        if (m->part[AC_TEXT + i].present)
            AC_TRY(ac_stage_check(&n, AC_TEXT + i, &z, &m->info.text_params));
    if (m->part[AC_UNET].present)
        AC_TRY(ac_stage_check(&n, AC_UNET, &z, &m->info.unet_params));
    if (m->part[AC_VAE].present)
        AC_TRY(ac_stage_check(&n, AC_VAE, &z, &m->info.vae_params));
    if (m->part[AC_TAESD].present)
        AC_TRY(ac_stage_check(&n, AC_TAESD, &z, &m->info.vae_params));
    for (int id = AC_UNET; id < AC_PARTS; id++)
        if (m->part[id].layout)
            AC_TRY(ac_layout_check_used(m->part[id].layout, part_names[id], &m->ctx->dg));
out:
    return rc;
}

static int load_loras(addcl_model *m, const addcl_model_opts *o)
{
    static const ac_part_id ids[] = {AC_UNET, AC_TEXT, AC_TEXT_2};
    ac_lora_base base[3];
    const char **names[3] = {NULL, NULL, NULL};
    size_t n_base = 0;
    int rc = 0;

    m->lora = ac_calloc(o->n_loras, sizeof *m->lora);
    m->lora_weight = ac_calloc(o->n_loras, sizeof *m->lora_weight);
    m->lora_path = ac_calloc(o->n_loras, sizeof *m->lora_path);
    if (!m->lora || !m->lora_weight || !m->lora_path)
        return ac_nomem(&m->ctx->dg, o->n_loras * sizeof *m->lora);
    for (size_t b = 0; b < AC_LEN(ids); b++) {
        const ac_part *p = &m->part[ids[b]];
        size_t n = 0;
        if (!p->present)
            continue;
        if (!(names[n_base] = ac_calloc(p->layout->n, sizeof(char *)))) {
            rc = ac_nomem(&m->ctx->dg, p->layout->n * sizeof(char *));
            goto out;
        }
        for (size_t i = 0; i < p->layout->n; i++)
            if (!strcmp(p->layout->src[i].part, p->name))
                names[n_base][n++] = p->layout->src[i].name;
        base[n_base] = (ac_lora_base){p->name, names[n_base], n};
        n_base++;
    }
    for (size_t i = 0; i < o->n_loras; i++) {
        AC_TRY(ac_lora_open(o->loras[i].path, base, n_base, &m->ctx->dg, &m->lora[i]));
        m->n_loras = i + 1;
        m->lora_weight[i] = o->loras[i].weight;
        if (!(m->lora_path[i] = ac_strdup(o->loras[i].path))) {
            rc = ac_nomem(&m->ctx->dg, strlen(o->loras[i].path));
            goto out;
        }
    }
out:
    for (size_t b = 0; b < 3; b++)
        free(names[b]);
    return rc;
}

/* ------------------------------------------------------------------------------------------ defaults */

static bool names_few_steps(const char *s, const char **word)
{
    static const char *const words[] = {"turbo", "lcm", "lightning"};

    for (size_t i = 0; s && i < AC_LEN(words); i++)
        if (strcasestr(s, words[i])) {
            *word = words[i];
            return true;
        }
    return false;
}

/* The value of `key: value` in the front matter of the model card, or of the file's metadata; NULL: none. Owned by the caller. */
static char *card_value(const addcl_model *m, const char *key)
{
    char *path, *text = NULL, *value = NULL, *end;
    ac_diag quiet = {0};
    size_t n;

    if (m->single)
        return ac_st_meta(m->st, key) ? ac_strdup(ac_st_meta(m->st, key)) : NULL;
    path = ac_path_join(m->path, "README.md");
    if (path && ac_exists(path) && ac_file_read(path, 1 << 20, &quiet, &text, &n) == 0 && !strncmp(text, "---\n", 4) &&
        (end = strstr(text + 4, "\n---"))) {
        *end = '\0';
        for (char *line = text + 4; line && !value; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
            if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':') {
                char *v = line + strlen(key) + 1;
                v += strspn(v, " ");
                value = ac_strndup(v, strcspn(v, "\r\n"));
            }
    }
    free(text);
    free(path);
    return value;
}

/* Is it a distilled few-step student? Metadata or model card first, then names; one line tells why. */
static int choose_defaults(addcl_model *m)
{
    char *steps = card_value(m, "add_cl.steps"), *cfg = card_value(m, "add_cl.cfg_scale");
    const char *word = NULL, *inside = ac_json_str(&m->part[AC_UNET].json, "_name_or_path", "");
    addcl_model_info *f = &m->info;

    f->steps = 25;
    f->cfg_scale = 7.5;
    if (steps && atoi(steps) > 0) {
        f->steps = atoi(steps);
        f->few_step = f->steps <= 8;
        m->few_why = ac_printf("the model says so (add_cl.steps: %d)", f->steps);
    } else if (names_few_steps(m->name, &word) || names_few_steps(inside, &word)) {
        f->few_step = 1;
        f->steps = !strcmp(word, "turbo") ? 1 : 4;
        m->few_why = ac_printf("\"%s\" is in the model's name", word);
    } else {
        m->few_why = ac_strdup("nothing marks it as a few-step model");
    }
    if (f->few_step)
        f->cfg_scale = 1;
    if (cfg && atof(cfg) >= 0)
        f->cfg_scale = atof(cfg);
    free(steps);
    free(cfg);
    return m->few_why ? 0 : ac_nomem(&m->ctx->dg, 1);
}

static void fill_info(addcl_model *m)
{
    addcl_model_info *f = &m->info;
    int factor = m->part[AC_TAESD].present ? ac_taesd_factor(&m->taesd) : ac_vae_factor(&m->vae);

    f->path = m->path;
    f->name = m->name;
    f->family = ac_layout_family(m->part[AC_UNET].layout);
    f->layout = m->single ? "single-file" : "diffusers";
    f->prediction = m->prediction_known ? ac_prediction_name(m->sch->cfg.prediction) : NULL;
    f->scheduler = m->scheduler_class ? m->scheduler_class : "";
    f->sampler = ac_sampler_name(m->sch->cfg.sampler);
    f->factor = factor;
    f->width = f->height = m->unet.sample_size * factor;
    f->few_step_why = m->few_why;
    f->unet_file = m->part[AC_UNET].file ? m->part[AC_UNET].file : m->path;
    for (int id = AC_UNET; id < AC_PARTS; id++)
        for (size_t i = 0; m->part[id].st && i < ac_st_count(m->part[id].st); i++)
            f->bytes += ac_st_at(m->part[id].st, i)->bytes;
    for (size_t i = 0; m->st && i < ac_st_count(m->st); i++)
        f->bytes += ac_st_at(m->st, i)->bytes;
}

/* Last component without .safetensors. */
static char *model_name(const char *path)
{
    size_t end = strlen(path), begin;

    while (end > 1 && path[end - 1] == '/')
        end--;
    for (begin = end; begin > 0 && path[begin - 1] != '/';)
        begin--;
    if (end - begin > 12 && !strncmp(path + end - 12, ".safetensors", 12))
        end -= 12;
    return ac_strndup(path + begin, end - begin);
}

/* ------------------------------------------------------------------------------------------ public */

int addcl_model_load(addcl_ctx *ctx, const addcl_model_opts *o, addcl_model **out)
{
    return ac_model_open(ctx, o, &(ac_model_from){0}, out);
}

int ac_model_open(addcl_ctx *ctx, const addcl_model_opts *o, const ac_model_from *from, addcl_model **out)
{
    static const ac_type types[] = {[ADDCL_F16] = AC_F16, [ADDCL_F32] = AC_F32, [ADDCL_BF16] = AC_BF16};
    addcl_model *m;
    int rc = 0;

    *out = NULL;
    ac_begin(ctx);
    if ((unsigned)o->type >= AC_LEN(types))
        return ac_fail(&ctx->dg, ADDCL_E_ARG, "%d is no type of weights", (int)o->type);
    if (!(m = ac_calloc(1, sizeof *m)))
        return ac_nomem(&ctx->dg, sizeof *m);
    m->ctx = ctx;
    m->type = types[o->type];
    m->partial = from->training;
    m->path = o->path ? ac_strdup(o->path) : default_model();
    if (o->path && !m->path) {
        rc = ac_nomem(&ctx->dg, strlen(o->path));
        goto out;
    }
    if (!m->path || !ac_exists(m->path)) {
        rc = o->path ? ac_fail(&ctx->dg, ADDCL_E_IO, "%s: there is no such file or folder", o->path)
                     : ac_fail(&ctx->dg, ADDCL_E_IO, "the model that ships with add-cl was not found; give one with --model");
        goto out;
    }
    if (!(m->name = model_name(m->path))) {
        rc = ac_nomem(&ctx->dg, 1);
        goto out;
    }
    rc = ac_is_dir(m->path) ? load_folder(m, from->scheduler) : load_file(m);
    if (rc < 0)
        goto out;
    AC_TRY(replace_part(m, AC_UNET, o->unet));
    AC_TRY(replace_part(m, AC_VAE, o->vae));
    AC_TRY(replace_part(m, AC_TEXT, o->text_encoder));
    AC_TRY(replace_part(m, AC_TAESD, o->taesd));
    AC_TRY(read_configs(m));
    AC_TRY(read_pipeline(m));
    AC_TRY(load_tokenizers(m, from->tokenizer));
    AC_TRY(check_weights(m));
    if (o->n_loras)
        AC_TRY(load_loras(m, o));
    if (o->prediction) {
        int p = ac_prediction_by_name(o->prediction);
        if (p < 0) {
            rc = ac_fail(&ctx->dg, ADDCL_E_ARG, "\"%s\" is no prediction: eps or v", o->prediction);
            goto out;
        }
        m->sch->cfg.prediction = (ac_prediction)p;
        m->prediction_known = m->prediction_given = true;
    }
    if (!m->partial) {
        AC_TRY(choose_defaults(m));
        fill_info(m);
        AC_TRY(ac_hash_start(&m->hash, m->info.unet_file, &ctx->dg));
    } else if (m->part[AC_UNET].present && m->part[AC_VAE].present) {
        m->info.factor = ac_vae_factor(&m->vae);
        m->info.width = m->info.height = m->unet.sample_size * m->info.factor;
    }
    *out = m;
    m = NULL;
out:
    addcl_model_free(m);
    return rc;
}

void addcl_model_free(addcl_model *m)
{
    if (!m)
        return;
    ac_hash_free(&m->hash);
    for (size_t i = 0; i < m->n_loras; i++) {
        ac_lora_close(m->lora[i]);
        free(m->lora_path[i]);
    }
    for (int id = AC_UNET; id < AC_PARTS; id++)
        free(m->part_path[id]);
    free(m->lora);
    free(m->lora_path);
    free(m->lora_weight);
    for (int id = AC_UNET; id < AC_PARTS; id++)
        ac_part_close(&m->part[id]);
    ac_layout_free(m->layout);
    ac_st_close(m->st);
    json_decref(m->configs);
    for (int i = 0; i < 2; i++)
        if (m->bpe[i])
            ac_bpe_close(m->bpe[i]);
    ac_schedule_free(m->sch);
    free(m->path);
    free(m->name);
    free(m->few_why);
    free(m->scheduler_class);
    free(m);
}

const addcl_model_info *addcl_model_get_info(const addcl_model *m)
{
    return &m->info;
}

int addcl_model_hash(addcl_model *m, char hex[65])
{
    return ac_hash_wait(&m->hash, ac_begin(m->ctx), hex);
}
