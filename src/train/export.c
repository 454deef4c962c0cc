/* export.c - the trained model as a diffusers folder. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/folder.h"
#include "train/train.h"

static const ac_st_dtype dtypes[] = {[AC_F32] = AC_ST_F32, [AC_F16] = AC_ST_F16, [AC_BF16] = AC_ST_BF16};

static int save_json(const char *dir, const char *name, const json_t *j, ac_diag *dg)
{
    char *text = ac_json_text(j, JSON_INDENT(2));
    int rc = text ? ac_file_save_text(dir, name, text, dg) : ac_nomem(dg, sizeof *j);

    free(text);
    return rc;
}

/* ------------------------------------------------------------------------------------------ weights */

typedef struct tensors {
    ac_training *r;
    const ac_params *set;    /* trained; with sources: low-rank updates of them, or NULL */
    const ac_source **source; /* as it was read */
    ac_st_entry *entry;
    size_t n;
} tensors;

static int fill_trained(void *user, size_t i, void *dst, size_t bytes)
{
    const tensors *t = user;
    const ac_parameter *p = &t->set->p.p[i];
    size_t n = (size_t)ac_count(&p->w->shape);
    float *x = ac_calloc(n, sizeof *x);
    int rc;

    (void)bytes;
    if (!x)
        return ac_nomem(t->r->dg, n * sizeof *x);
    rc = ac_var_read(p->ema ? p->ema : p->w, x);
    if (rc == 0)
        ac_from_float(dst, t->r->cfg->checkpoint.save_precision, x, n);
    free(x);
    return rc;
}

/* A parameter's exported values in new memory; NULL: memory was short, or they cannot be read. */
static float *values_of(const ac_parameter *p)
{
    float *x = ac_calloc((size_t)ac_count(&p->w->shape), sizeof *x);

    if (x && ac_var_read(p->ema ? p->ema : p->w, x) == 0)
        return x;
    free(x);
    return NULL;
}

/* Adds scale B A to the weight `name` [rows,columns], if it has an update. */
static int add_update(const ac_params *set, const char *name, float *w, ac_diag *dg)
{
    const ac_parameter *down, *up;
    char key[AC_NAME_MAX];
    int module = (int)strlen(name) - (int)strlen(".weight");
    float *a, *b;

    snprintf(key, sizeof key, "%.*s.lora_A.weight", AC_MAX(module, 0), name);
    down = ac_params_find(set, key);
    snprintf(key, sizeof key, "%.*s.lora_B.weight", AC_MAX(module, 0), name);
    up = ac_params_find(set, key);
    if (!down || !up)
        return 0;
    a = values_of(down);
    b = values_of(up);
    for (int64_t i = 0; a && b && i < up->w->shape.d[0]; i++)
        for (int64_t r = 0; r < set->rank; r++)
            for (int64_t k = 0, columns = down->w->shape.d[1]; k < columns; k++)
                w[i * columns + k] += (float)set->scale * b[i * set->rank + r] * a[r * columns + k];
    free(a);
    free(b);
    return a && b ? 0 : ac_nomem(dg, (size_t)ac_count(&up->w->shape) * sizeof *b);
}

static int fill_source(void *user, size_t i, void *dst, size_t bytes)
{
    const tensors *t = user;
    const ac_source *s = t->source[i];
    size_t n = (size_t)ac_source_count(s);
    float *w;
    int rc;

    (void)bytes;
    if (!t->set) {
        ac_source_read(s, ac_source_type(s), dst);
        return 0;
    }
    if (!(w = ac_calloc(n, sizeof *w)))
        return ac_nomem(t->r->dg, n * sizeof *w);
    ac_source_read(s, AC_F32, w);
    rc = add_update(t->set, s->name, w, t->r->dg);
    ac_from_float(dst, ac_source_type(s), w, n);
    free(w);
    return rc;
}

/* Of low-rank updates, in peft's naming; the scale is in B, so that alpha is the rank, as readers assume. */
static int fill_update(void *user, size_t i, void *dst, size_t bytes)
{
    const tensors *t = user;
    const ac_parameter *p = &t->set->p.p[i];
    size_t n = (size_t)ac_count(&p->w->shape);
    float *x = values_of(p);

    (void)bytes;
    if (!x)
        return ac_nomem(t->r->dg, n * sizeof *x);
    for (size_t k = 0; k < n && ac_ends_with(p->name, "lora_B.weight"); k++)
        x[k] *= (float)t->set->scale;
    ac_from_float(dst, t->r->cfg->checkpoint.save_precision, x, n);
    free(x);
    return 0;
}

static int write_tensors(tensors *t, const char *dir, const char *file, int (*fill)(void *, size_t, void *, size_t))
{
    static const char *const meta[][2] = {{"format", "pt"}}; /* transformers refuses a file without it */
    char *path = ac_path_join(dir, file);
    int rc = path ? ac_st_write(path, t->entry, t->n, meta, 1, fill, t, t->r->dg) : ac_nomem(t->r->dg, strlen(dir));

    free(path);
    return rc;
}

int ac_export_set(ac_training *r, const ac_params *set, const json_t *config, const char *dir, const char *file)
{
    tensors t = {.r = r, .set = set, .n = set->p.n};
    int rc;

    if (!(t.entry = ac_calloc(t.n, sizeof *t.entry)))
        return ac_nomem(r->dg, t.n * sizeof *t.entry);
    for (size_t i = 0; i < t.n; i++) {
        const ac_parameter *p = &set->p.p[i];
        t.entry[i] = (ac_st_entry){.name = p->name, .dtype = dtypes[r->cfg->checkpoint.save_precision], .dims = p->w->shape.n};
        memcpy(t.entry[i].dim, p->w->shape.d, sizeof p->w->shape.d);
    }
    AC_TRY(ac_folder_make(dir, r->dg));
    AC_TRY(write_tensors(&t, dir, file, fill_trained));
    rc = save_json(dir, "config.json", config, r->dg);
out:
    free(t.entry);
    return rc;
}

/* <dir>/pytorch_lora_weights.safetensors, as diffusers' load_lora_weights reads it. */
static int export_updates(ac_training *r, const ac_params *set, const char *dir)
{
    tensors t = {.r = r, .set = set, .n = set->p.n};
    char **name = ac_calloc(t.n, sizeof *name);
    int rc = 0;

    if (!(t.entry = ac_calloc(t.n, sizeof *t.entry)) || !name) {
        rc = ac_nomem(r->dg, t.n * sizeof *t.entry);
        goto out;
    }
    for (size_t i = 0; i < t.n; i++) {
        const ac_parameter *p = &set->p.p[i];
        if (!(name[i] = ac_printf("%s.%s", set->part, p->name)))
            AC_TRY(ac_nomem(r->dg, strlen(p->name)));
        t.entry[i] = (ac_st_entry){.name = name[i], .dtype = dtypes[r->cfg->checkpoint.save_precision], .dims = p->w->shape.n};
        memcpy(t.entry[i].dim, p->w->shape.d, sizeof p->w->shape.d);
    }
    rc = write_tensors(&t, dir, "pytorch_lora_weights.safetensors", fill_update);
out:
    for (size_t i = 0; name && i < t.n; i++)
        free(name[i]);
    free(name);
    free(t.entry);
    return rc;
}

/* A frozen part as it was read, under diffusers' names; with `updates` (may be NULL) merged into it. */
static int export_frozen(ac_training *r, const ac_part *p, const ac_params *updates, const char *dir, const char *file)
{
    const ac_layout *l = p->layout;
    tensors t = {.r = r, .set = updates};
    int rc = 0;

    t.entry = ac_calloc(l->n, sizeof *t.entry);
    t.source = ac_calloc(l->n, sizeof *t.source);
    if (!t.entry || !t.source) {
        rc = ac_nomem(r->dg, l->n * sizeof *t.entry);
        goto out;
    }
    for (size_t i = 0; i < l->n; i++) {
        const ac_source *s = &l->src[i];
        if (strcmp(s->part, p->name))
            continue;
        t.source[t.n] = s;
        t.entry[t.n] = (ac_st_entry){.name = s->name, .dtype = dtypes[ac_source_type(s)], .dims = s->dims};
        memcpy(t.entry[t.n++].dim, s->dim, sizeof s->dim);
    }
    AC_TRY(ac_folder_make(dir, r->dg));
    AC_TRY(write_tensors(&t, dir, file, fill_source));
    rc = save_json(dir, "config.json", p->json.obj, r->dg);
out:
    free(t.entry);
    free(t.source);
    return rc;
}

static int export_part(ac_training *r, ac_part_id id, const char *dir)
{
    const ac_part *p = &r->model->part[id];
    const ac_params *set = r->model->train[id];
    const char *file = id == AC_TEXT || id == AC_TEXT_2 ? "model.safetensors" : "diffusion_pytorch_model.safetensors";
    char *sub;
    int rc;

    if (!p->present)
        return 0;
    if (!(sub = ac_path_join(dir, p->name)))
        return ac_nomem(r->dg, strlen(dir));
    if (set && !set->base)
        rc = ac_export_set(r, set, p->json.obj, sub, file);
    else
        rc = p->layout ? export_frozen(r, p, set, sub, file) : 0;
    if (rc == 0 && set && set->base)
        rc = export_updates(r, set, dir);
    free(sub);
    return rc;
}

/* ------------------------------------------------------------------------------------------ tokenizer, scheduler, index */

static int copy_file(const char *from, const char *to, const char *name, ac_diag *dg)
{
    enum { MOST = 64 << 20 };
    char *source = ac_path_join(from, name), *text = NULL;
    size_t n;
    int rc = source ? 0 : ac_nomem(dg, 1);

    if (source && ac_exists(source)) {
        rc = ac_file_read(source, MOST, dg, &text, &n);
        if (rc == 0)
            rc = ac_file_save_text(to, name, text, dg);
    }
    free(text);
    free(source);
    return rc;
}

/* The folder that a tokenizer was read from; a single file without a vocabulary has CLIP's. */
static int tokenizer_folder(ac_training *r, int i, char **dir)
{
    const char *given = r->cfg->model.tokenizer;
    char *own = NULL;

    if (*given && i == 0)
        own = ac_strdup(given);
    else if (r->model ? !r->model->single : *r->cfg->model.pretrained_model)
        own = ac_path_join(r->model ? r->model->path : r->cfg->model.pretrained_model, i ? "tokenizer_2" : "tokenizer");
    if (own && ac_is_dir(own)) {
        *dir = own;
        return 0;
    }
    free(own);
    return ac_clip_vocabulary(r->dg, dir);
}

/* The tokenizer that a single file carries (written by add-cl); *has is false when it has none. */
static int export_carried(ac_training *r, int i, const char *to, bool *has)
{
    const addcl_model *m = r->model;
    const char *vocab = m && m->single ? ac_st_meta(m->st, i ? AC_META_VOCAB_2 : AC_META_VOCAB) : NULL;
    const char *merges = vocab ? ac_st_meta(m->st, i ? AC_META_MERGES_2 : AC_META_MERGES) : NULL;
    const json_t *config = m ? json_object_get(m->configs, i ? "tokenizer_2" : "tokenizer") : NULL;
    const json_t *special = m ? json_object_get(m->configs, i ? "special_tokens_2" : "special_tokens") : NULL;
    int rc = 0;

    *has = vocab && merges;
    if (!*has)
        return 0;
    AC_TRY(ac_file_save_text(to, "vocab.json", vocab, r->dg));
    AC_TRY(ac_file_save_text(to, "merges.txt", merges, r->dg));
    if (config)
        AC_TRY(save_json(to, "tokenizer_config.json", config, r->dg));
    if (special)
        rc = save_json(to, "special_tokens_map.json", special, r->dg);
out:
    return rc;
}

int ac_export_tokenizer(ac_training *r, int i, const char *dir)
{
    static const char *const files[] = {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"};
    char *from = NULL, *to = ac_path_join(dir, i ? "tokenizer_2" : "tokenizer");
    bool has = false;
    int rc = to ? 0 : ac_nomem(r->dg, strlen(dir));

    AC_TRY(rc);
    AC_TRY(ac_folder_make(to, r->dg));
    if (!*r->cfg->model.tokenizer || i > 0)
        AC_TRY(export_carried(r, i, to, &has));
    if (has)
        goto out;
    AC_TRY(tokenizer_folder(r, i, &from));
    for (size_t k = 0; k < AC_LEN(files); k++)
        AC_TRY(copy_file(from, to, files[k], r->dg));
out:
    free(from);
    free(to);
    return rc;
}

/* The scheduler's configuration as it was read, with what this run has set; without one, DDIM on Stable Diffusion's betas. */
static int export_scheduler(ac_training *r, const char *dir)
{
    const ac_schedule_cfg *c = &r->model->sch->cfg;
    const char *given = r->cfg->model.scheduler, *class = r->model->scheduler_class;
    char *path = *given ? ac_path_join(given, "scheduler_config.json") : ac_printf("%s/scheduler/scheduler_config.json", r->model->path);
    char *to = ac_path_join(dir, "scheduler");
    ac_json file = {0};
    const json_t *known;
    json_t *j = NULL;
    int rc = path && to ? 0 : ac_nomem(r->dg, strlen(dir));

    if (rc == 0 && ac_exists(path))
        rc = ac_json_open(path, r->dg, &file);
    AC_TRY(rc);
    known = file.obj ? file.obj : json_object_get(r->model->configs, "scheduler");
    j = known ? json_deep_copy(known)
              : json_pack("{s:s, s:s, s:i, s:s, s:f, s:f, s:b, s:b, s:s, s:i}", "_class_name", "DDIMScheduler", "_diffusers_version", "0.27.0",
                          "num_train_timesteps", c->train_steps, "beta_schedule", "scaled_linear", "beta_start", c->beta_start, "beta_end",
                          c->beta_end, "clip_sample", 0, "set_alpha_to_one", 0, "timestep_spacing", "trailing", "steps_offset", 1);
    if (!j || (class && *class && (json_object_set_new(j, "_class_name", json_string(class)) ||
                                   json_object_set_new(j, "timestep_spacing", json_string(ac_spacing_name(c->spacing))))) ||
        json_object_set_new(j, "prediction_type", json_string(ac_prediction_name(c->prediction))) ||
        json_object_set_new(j, "rescale_betas_zero_snr", json_boolean(c->zero_snr)))
        rc = ac_nomem(r->dg, sizeof *j);
    AC_TRY(rc);
    AC_TRY(ac_folder_make(to, r->dg));
    rc = save_json(to, "scheduler_config.json", j, r->dg);
out:
    ac_json_close(&file);
    json_decref(j);
    free(path);
    free(to);
    return rc;
}

static int export_index(ac_training *r, const char *dir)
{
    const addcl_model *m = r->model;
    bool xl = m->part[AC_TEXT_2].present;
    json_t *j = json_pack("{s:s, s:s, s:[s,s], s:[s,s], s:[s,s], s:[s,s], s:[s,s]}", "_class_name",
                          xl ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline", "_diffusers_version", "0.27.0", "scheduler", "diffusers",
                          m->scheduler_class && *m->scheduler_class ? m->scheduler_class : "DDIMScheduler", "text_encoder", "transformers",
                          "CLIPTextModel", "tokenizer", "transformers", "CLIPTokenizer", "unet", "diffusers", "UNet2DConditionModel", "vae", "diffusers",
                          m->part[AC_VAE].present ? "AutoencoderKL" : "AutoencoderTiny");
    json_t *more = xl ? json_pack("{s:[s,s], s:[s,s], s:b}", "text_encoder_2", "transformers", "CLIPTextModelWithProjection", "tokenizer_2",
                                  "transformers", "CLIPTokenizer", "force_zeros_for_empty_prompt", m->zero_empty)
                      : json_pack("{s:[n,n], s:[n,n], s:b}", "safety_checker", "feature_extractor", "requires_safety_checker", 0);
    int rc = j && more && json_object_update(j, more) == 0 ? save_json(dir, "model_index.json", j, r->dg) : ac_nomem(r->dg, sizeof *j);

    json_decref(j);
    json_decref(more);
    return rc;
}

int ac_export_model(ac_training *r, const char *dir)
{
    const addcl_model *m = r->model;
    bool whole = m->part[AC_UNET].present && m->part[AC_TEXT].present && (m->part[AC_VAE].present || m->part[AC_TAESD].present);
    int rc = 0;

    for (int id = AC_UNET; id < AC_PARTS; id++)
        if (whole ? id != AC_TAESD || !m->part[AC_VAE].present : m->train[id] != NULL)
            AC_TRY(export_part(r, id, dir));
    if (!whole) /* a part of a model: nothing else belongs to it */
        goto out;
    for (int i = 0; i < 2; i++)
        if (m->part[AC_TEXT + i].present)
            AC_TRY(ac_export_tokenizer(r, i, dir));
    AC_TRY(export_scheduler(r, dir));
    rc = export_index(r, dir);
out:
    return rc;
}

int ac_export(ac_training *r, const char *dir)
{
    ac_folder *f = NULL;
    int rc;

    AC_TRY(ac_folder_begin(dir, r->dg, &f));
    AC_TRY(r->recipe->export(r, ac_folder_temp(f)));
    AC_TRY(ac_run_card(r, ac_folder_temp(f)));
    rc = ac_folder_commit(f, r->dg);
    f = NULL;
out:
    ac_folder_abort(f);
    return rc;
}
