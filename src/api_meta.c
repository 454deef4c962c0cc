/* api_meta.c - what a picture says of its making: AUTOMATIC1111's "parameters" and the JSON chunk "add-cl". */
#include "api_internal.h"

#include <stdlib.h>
#include <string.h>

/* Text after "Key: "; quoted as JSON when it holds what the format uses itself. */
static void add_value(ac_str *s, const char *key, const char *value)
{
    ac_str_addf(s, "%s: ", key);
    if (strpbrk(value, ",:\n\"")) {
        json_t *j = json_string(value);
        char *q = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;
        ac_str_add(s, q ? q : "\"\"");
        free(q);
        json_decref(j);
    } else {
        ac_str_add(s, value);
    }
    ac_str_add(s, ", ");
}

static const char *a1111_sampler(const char *name)
{
    static const char *const names[][2] = {
        {"euler", "Euler"}, {"euler_a", "Euler a"}, {"ddim", "DDIM"}, {"lcm", "LCM"}, {"dpmpp_2m", "DPM++ 2M"}};

    for (size_t i = 0; i < AC_LEN(names); i++)
        if (!strcmp(name, names[i][0]))
            return names[i][1];
    return name;
}

static char *parameters_text(const addcl_model *m, const addcl_sample_opts *o, const addcl_sample_result *r, int index, const char *hash)
{
    ac_str s = {0};

    ac_str_addf(&s, "%s\n", o->prompts[(size_t)index % o->n_prompts]);
    if (o->negative_prompt && *o->negative_prompt)
        ac_str_addf(&s, "Negative prompt: %s\n", o->negative_prompt);
    ac_str_addf(&s, "Steps: %d, Sampler: %s, CFG scale: %g, Seed: %lld, Size: %dx%d, ", r->steps, a1111_sampler(r->sampler), r->cfg_scale,
                (long long)(r->seed + index), r->width, r->height);
    if (hash)
        ac_str_addf(&s, "Model hash: %.10s, ", hash);
    add_value(&s, "Model", m->name);
    if (o->init)
        ac_str_addf(&s, "Denoising strength: %g, ", o->strength > 0 ? o->strength : 0.75);
    ac_str_addf(&s, "Version: add-cl %s", addcl_version());
    if (s.failed) {
        ac_str_free(&s);
        return NULL;
    }
    return s.p;
}

static void set(json_t *j, const char *key, json_t *value)
{
    json_object_set_new(j, key, value ? value : json_null());
}

static json_t *numbers(const double *v, size_t n)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, json_real(v[i]));
    return a;
}

static json_t *loras(const addcl_model *m)
{
    json_t *a = json_array();

    for (size_t i = 0; i < m->n_loras; i++) {
        json_t *l = json_object();
        set(l, "path", json_string(m->lora_path[i]));
        set(l, "weight", json_real(m->lora_weight[i]));
        json_array_append_new(a, l);
    }
    return a;
}

static void add_device(const addcl_model *m, json_t *j)
{
    const addcl_device *d = addcl_current_device(m->ctx);

    if (!d)
        return;
    set(j, "device", json_string(d->name));
    set(j, "platform", json_string(d->platform_name));
    set(j, "driver", json_string(d->driver));
}

/* Everything that repeats the run, under the names of the program's options. */
static char *json_text(const addcl_model *m, const addcl_sample_opts *o, const addcl_sample_result *r, int index, const char *hash)
{
    static const char *const tilings[] = {"auto", "on", "off"}, *const types[] = {"f32", "f16", "bf16"};
    json_t *j = json_object();
    char *text;

    set(j, "version", json_string(addcl_version()));
    set(j, "prompt", json_string(o->prompts[(size_t)index % o->n_prompts]));
    set(j, "negative_prompt", json_string(o->negative_prompt ? o->negative_prompt : ""));
    set(j, "steps", json_integer(r->steps));
    set(j, "cfg_scale", json_real(r->cfg_scale));
    set(j, "width", json_integer(r->width));
    set(j, "height", json_integer(r->height));
    set(j, "seed", json_integer(r->seed + index));
    set(j, "rng", json_string(o->rng ? o->rng : "cpu"));
    set(j, "sampler", json_string(r->sampler));
    set(j, "spacing", json_string(r->spacing));
    set(j, "eta", json_real(o->eta));
    if (o->n_timesteps)
        set(j, "timesteps", numbers(o->timesteps, o->n_timesteps));
    if (o->n_sigmas)
        set(j, "sigmas", numbers(o->sigmas, o->n_sigmas));
    if (o->init) {
        set(j, "init_image", json_true());
        set(j, "strength", json_real(o->strength > 0 ? o->strength : 0.75));
    }
    set(j, "vae_tiling", json_string(tilings[o->vae_tiling]));
    if (o->vae_tile_size)
        set(j, "vae_tile_size", json_integer(o->vae_tile_size));
    if (o->vae_tile_overlap > 0)
        set(j, "vae_tile_overlap", json_real(o->vae_tile_overlap));
    set(j, "model", json_string(m->path));
    for (int i = 0; i < AC_PARTS; i++)
        if (m->part_path[i])
            set(j, m->part_option[i], json_string(m->part_path[i]));
    if (m->n_loras)
        set(j, "loras", loras(m));
    set(j, "type", json_string(types[m->type]));
    if (m->prediction_given)
        set(j, "prediction", json_string(m->sch->cfg.prediction == AC_PREDICT_V ? "v" : "eps"));
    set(j, "prediction_type", json_string(r->prediction));
    if (hash)
        set(j, "model_hash", json_string(hash));
    add_device(m, j);
    text = json_dumps(j, JSON_INDENT(1));
    json_decref(j);
    return text;
}

int addcl_sample_metadata(addcl_model *m, const addcl_sample_opts *o, const addcl_sample_result *r, int index, const char *hash,
                          char **parameters, char **json)
{
    *parameters = parameters_text(m, o, r, index, hash);
    *json = json_text(m, o, r, index, hash);
    if (!*parameters || !*json) {
        free(*parameters);
        free(*json);
        *parameters = *json = NULL;
        return ac_nomem(&m->ctx->dg, 4096);
    }
    return 0;
}
