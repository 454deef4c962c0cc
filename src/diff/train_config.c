/* train_config.c - from INI file and overrides to the configuration of a training run, and back. */
#include "diff/train_config.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/guess.h"
#include "diff/train_value.h"
#include "io/ini.h"

/* ------------------------------------------------------------------------------------------------------- keys */

/* Sets key `i` from text that stands in `place`. */
static int set_key(ac_train_cfg *c, ac_diag *dg, size_t i, const char *text, const char *place)
{
    const ac_key *k = &ac_keys[i];
    char why[128] = "", expected[160];
    int rc = ac_train_parse(c, k, text, why);

    if (rc == ADDCL_E_NOMEM)
        return ac_nomem(dg, strlen(text));
    if (rc < 0) {
        ac_key_expects(k, expected, sizeof expected);
        return ac_fail(dg, rc, "%s: [%s] %s = %s: %sexpected %s", place, k->section, k->name, text, why, expected);
    }
    return 0;
}

/* Refuses a section or key that does not exist, with what it may have been meant to be. */
static int unknown_section(ac_diag *dg, const char *place, const char *section)
{
    ac_guess g = ac_guess_for(section);

    for (size_t i = 0; i < ac_n_key_sections; i++)
        ac_guess_try(&g, ac_key_sections[i][0], strlen(ac_key_sections[i][0]));
    return ac_fail(dg, ADDCL_E_ARG, "%s: unknown section [%s]%s%.*s%s", place, section,
                   g.found ? "; did you mean [" : "", g.n, g.found ? g.found : "", g.found ? "]?" : "");
}

static int unknown_key(ac_diag *dg, const char *place, const char *section, const char *name)
{
    ac_guess g = ac_guess_for(name);

    for (size_t i = 0; i < ac_n_keys; i++) {
        if (strcmp(ac_keys[i].name, name) == 0)
            return ac_fail(dg, ADDCL_E_ARG, "%s: [%s] %s: this key belongs to [%s]", place, section, name,
                           ac_keys[i].section);
        if (strcmp(ac_keys[i].section, section) == 0)
            ac_guess_try(&g, ac_keys[i].name, strlen(ac_keys[i].name));
    }
    return ac_fail(dg, ADDCL_E_ARG, "%s: [%s] %s: unknown key%s%.*s%s", place, section, name,
                   g.found ? "; did you mean '" : "", g.n, g.found ? g.found : "", g.found ? "'?" : "");
}

static bool known_section(const char *section)
{
    for (size_t i = 0; i < ac_n_key_sections; i++)
        if (strcmp(ac_key_sections[i][0], section) == 0)
            return true;
    return false;
}

/* The key's place in the table; ac_n_keys when there is none. */
static size_t index_of(const char *section, const char *name)
{
    size_t i = 0;

    while (i < ac_n_keys && (strcmp(ac_keys[i].section, section) != 0 || strcmp(ac_keys[i].name, name) != 0))
        i++;
    return i;
}

/* Notes that a key (name "": only the section) is given; the value is looked at later. */
static int take(ac_train_cfg *c, ac_diag *dg, const char *section, const char *name, const char *value,
                const char *place)
{
    ac_train_texts *t = c->texts;
    size_t i;

    if (!place)
        return ac_nomem(dg, strlen(section));
    if (!known_section(section))
        return unknown_section(dg, place, section);
    if (!*name)
        return 0;
    if ((i = index_of(section, name)) == ac_n_keys)
        return unknown_key(dg, place, section, name);
    t->place[i] = place;
    t->given[i] = ac_train_own(c, ac_strdup(value));
    return t->given[i] ? 0 : ac_nomem(dg, strlen(value));
}

/* Takes the sections and keys of an INI file. */
static int take_file(ac_train_cfg *c, ac_diag *dg, const char *path)
{
    ac_ini *ini = NULL;
    int rc;

    AC_TRY(ac_ini_read(path, dg, &ini));
    for (size_t i = 0; i < ini->entry.n; i++) {
        const ac_ini_entry *e = &ini->entry.p[i];
        AC_TRY(take(c, dg, e->section, e->key, e->value, ac_train_own(c, ac_printf("%s:%d", path, e->line))));
    }
out:
    ac_ini_free(ini);
    return rc;
}

/* An override: "section.key=value". */
static int take_override(ac_train_cfg *c, ac_diag *dg, const char *text)
{
    char *s = ac_train_own(c, ac_strdup(text)), *value = s, *name;
    const char *why;

    if (!s)
        return ac_nomem(dg, strlen(text));
    s = strsep(&value, "=");
    name = strchr(s, '.');
    if (!value || !name)
        return ac_fail(dg, ADDCL_E_ARG, "--set %s: expected section.key=value", text);
    *name++ = '\0';
    s = ac_trimmed(s);
    name = ac_trimmed(name);
    value = ac_trimmed(value);
    if (!*name)
        return ac_fail(dg, ADDCL_E_ARG, "--set %s: expected section.key=value", text);
    if ((why = ac_ini_unwritable(name, value)))
        return ac_fail(dg, ADDCL_E_ARG, "--set: [%s] %s: %s", s, name, why);
    return take(c, dg, s, name, value, "--set");
}

/* --------------------------------------------------------------------------------------------------- the whole */

/* The folder that relative paths start from: run.base_dir, itself relative to the folder of the INI file. */
static int find_base(ac_train_cfg *c, ac_diag *dg, const char *ini)
{
    ac_train_texts *t = c->texts;
    size_t key = index_of("run", "base_dir");
    const char *slash = ini ? strrchr(ini, '/') : NULL, *given = t->given[key];
    char *folder = ac_train_own(c, slash ? ac_strndup(ini, (size_t)(slash - ini) + 1) : ac_strdup(".")), *path;

    if (folder && given && *given)
        folder = ac_train_own(c, *given == '/' ? ac_strdup(given) : ac_path_join(folder, given));
    if (!folder)
        return ac_nomem(dg, 1);
    if (!(path = realpath(folder, NULL)) || !ac_is_dir(path)) {
        free(path);
        return ac_fail(dg, ADDCL_E_ARG, "%s: [run] base_dir: there is no folder '%s'",
                       given ? t->place[key] : t->source, folder);
    }
    c->texts->base = ac_train_own(c, path);
    return c->texts->base ? 0 : ac_nomem(dg, 1);
}

/* Does the method use the key? */
static bool used_by(const ac_key *k, const char *method)
{
    return !k->methods || ac_key_word(k->methods, method) >= 0;
}

/* What has no default must be given. */
static int check_given(ac_train_cfg *c, ac_diag *dg)
{
    const ac_train_texts *t = c->texts;

    for (size_t i = 0; i < ac_n_keys; i++)
        if (!ac_keys[i].fallback && (!t->given[i] || !*t->given[i]))
            return ac_fail(dg, ADDCL_E_ARG, "%s: [%s] %s is missing: %s", t->source, ac_keys[i].section,
                           ac_keys[i].name, ac_keys[i].meaning);
    return 0;
}

/* Sets all fields: from what was given, else from the table's default. */
static int set_all(ac_train_cfg *c, ac_diag *dg)
{
    const ac_train_texts *t = c->texts;
    int rc = 0;

    for (size_t i = 0; i < ac_n_keys && rc == 0; i++)
        rc = t->given[i] ? set_key(c, dg, i, t->given[i], t->place[i])
                         : set_key(c, dg, i, ac_key_default(&ac_keys[i], t->given[0]), "default");
    c->run.base_dir = c->texts->base;
    return rc;
}

/* Refuses the value of a key because of another one's. */
static int refuse(ac_train_cfg *c, ac_diag *dg, const char *section, const char *name, const char *fmt, ...)
    AC_PRINTF(5, 6);
static int refuse(ac_train_cfg *c, ac_diag *dg, const char *section, const char *name, const char *fmt, ...)
{
    const ac_train_texts *t = c->texts;
    size_t i = index_of(section, name);
    char why[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return ac_fail(dg, ADDCL_E_ARG, "%s: [%s] %s = %s: %s", t->given[i] ? t->place[i] : t->source, section, name,
                   t->given[i] ? t->given[i] : ac_key_default(&ac_keys[i], t->given[0]), why);
}

/* The shape of the two towers. */
static int check_clip(ac_train_cfg *c, ac_diag *dg)
{
    int64_t side = c->model.vit_image_size ? c->model.vit_image_size : c->data.resolution;

    if (!*c->model.pretrained_model && !*c->model.config && !*c->model.tokenizer)
        return ac_fail(dg, ADDCL_E_ARG, "%s: [model] tokenizer is missing: a run from scratch needs one",
                       c->texts->source);
    if (side % c->model.vit_patch_size)
        return refuse(c, dg, "model", "vit_patch_size", "pictures of %lld pixels do not split into such patches",
                      (long long)side);
    if (c->model.vit_hidden_size % c->model.vit_heads)
        return refuse(c, dg, "model", "vit_heads", "a width of %lld does not split into so many heads",
                      (long long)c->model.vit_hidden_size);
    if (c->model.text_hidden_size % c->model.text_heads)
        return refuse(c, dg, "model", "text_heads", "a width of %lld does not split into so many heads",
                      (long long)c->model.text_hidden_size);
    return 0;
}

/* Two players, of whom one may be missing. */
static int check_add(ac_train_cfg *c, ac_diag *dg)
{
    if (c->run.method != AC_METHOD_ADD && c->distillation.adversarial_weight == 0)
        return refuse(c, dg, "distillation", "adversarial_weight", "nothing is left to learn from");
    if (c->distillation.adversarial_weight == 0 && c->distillation.distillation_weight == 0)
        return refuse(c, dg, "distillation", "adversarial_weight", "distillation_weight is 0, too: nothing is left to learn from");
    if (c->run.method == AC_METHOD_LADD)
        return c->distillation.student_timesteps.n ? 0 : refuse(c, dg, "distillation", "student_timesteps", "at least one is needed");
    if (c->distillation.adversarial_weight > 0 && !*c->discriminator.feature_network)
        return ac_fail(dg, ADDCL_E_ARG, "%s: [discriminator] feature_network is missing: the discriminator sees pictures through one",
                       c->texts->source);
    if (c->distillation.adversarial_weight > 0 && !c->discriminator.feature_blocks.n && !c->discriminator.feature_embedding)
        return refuse(c, dg, "discriminator", "feature_blocks", "at least one is needed without feature_embedding");
    if (!c->distillation.student_timesteps.n)
        return refuse(c, dg, "distillation", "student_timesteps", "at least one is needed");
    if (c->distillation.weighting == AC_DISTILL_NFSD && c->distillation.teacher_steps > 1)
        return refuse(c, dg, "distillation", "teacher_steps", "nfsd has one");
    return 0;
}

/* Does what was given fit together? */
static int check_together(ac_train_cfg *c, ac_diag *dg)
{
    const char *part = c->run.method == AC_METHOD_VAE ? c->model.vae : c->model.unet;

    if (c->data.background.n != 3)
        return refuse(c, dg, "data", "background", "three numbers are expected: red, green, blue");
    if (*c->model.pretrained_model && *c->model.config)
        return refuse(c, dg, "model", "config",
                      "pretrained_model is given, too: go on from it, or begin from scratch?");
    if (c->run.method == AC_METHOD_CLIP)
        return check_clip(c, dg);
    if (!*c->model.pretrained_model && !*c->model.config && !*part)
        return ac_fail(dg, ADDCL_E_ARG,
                       "%s: [model] needs a pretrained_model to go on from, or the config of a model "
                       "to begin from scratch",
                       c->texts->source);
    if (c->model.lora_rank && c->distillation.student_init == AC_INIT_RANDOM)
        return refuse(c, dg, "model", "lora_rank", "there is nothing to update with student_init = random");
    if (c->distillation.lcm_guidance_max < c->distillation.lcm_guidance_min)
        return refuse(c, dg, "distillation", "lcm_guidance_max", "less than lcm_guidance_min");
    return c->run.method == AC_METHOD_ADD || c->run.method == AC_METHOD_GAN || c->run.method == AC_METHOD_LADD ? check_add(c, dg) : 0;
}

/* The method's name; it was given, for it has no default. */
static const char *method_of(const ac_train_cfg *c)
{
    return c->texts->given[index_of("run", "method")];
}

/* A file may serve several methods: what one of them does not use is no error, but the user is told. */
static void tell_unused(ac_train_cfg *c, ac_diag *dg)
{
    const ac_train_texts *t = c->texts;
    const char *method = method_of(c);

    for (size_t i = 0; i < ac_n_keys; i++)
        if (t->given[i] && !used_by(&ac_keys[i], method))
            ac_note(dg, ADDCL_LOG_WARN, "%s: [%s] %s has no effect with method = %s", t->place[i], ac_keys[i].section,
                    ac_keys[i].name, method);
}

/* A configuration without values; NULL when memory is short. */
static ac_train_cfg *new_config(void)
{
    ac_train_cfg *c = ac_calloc(1, sizeof *c);

    if (c && (c->texts = ac_calloc(1, sizeof *c->texts))) {
        c->texts->given = ac_calloc(ac_n_keys, sizeof *c->texts->given);
        c->texts->place = ac_calloc(ac_n_keys, sizeof *c->texts->place);
        if (c->texts->given && c->texts->place)
            return c;
    }
    ac_train_config_free(c);
    return NULL;
}

int ac_train_config_load(const char *ini, const char *const *set, size_t n_set, ac_diag *dg, ac_train_cfg **out)
{
    ac_train_cfg *c = new_config();
    /* Numbers have a decimal point, whatever the program's language. */
    locale_t plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0), before = uselocale(plain);
    int rc = 0;

    *out = NULL;
    if (!c || !(c->texts->source = ac_train_own(c, ac_strdup(ini ? ini : "--set"))))
        AC_TRY(ac_nomem(dg, sizeof *c));
    if (ini)
        AC_TRY(take_file(c, dg, ini));
    for (size_t i = 0; i < n_set; i++)
        AC_TRY(take_override(c, dg, set[i]));
    AC_TRY(check_given(c, dg));
    AC_TRY(find_base(c, dg, ini));
    AC_TRY(set_all(c, dg));
    AC_TRY(check_together(c, dg));
    tell_unused(c, dg);
    *out = c;
    c = NULL;
out:
    uselocale(before);
    if (plain)
        freelocale(plain);
    ac_train_config_free(c);
    return rc;
}

void ac_train_config_free(ac_train_cfg *c)
{
    if (!c)
        return;
    if (c->texts) {
        for (size_t i = 0; i < c->texts->memory.n; i++)
            free(c->texts->memory.p[i]);
        free(c->texts->memory.p);
        free(c->texts->given);
        free(c->texts->place);
        free(c->texts);
    }
    free(c);
}

/* ----------------------------------------------------------------------------------------------------- writing */

/* "# what it means" and "# what it takes; default ..." */
static void explain(ac_str *s, const ac_key *k, const char *method)
{
    char expected[160];

    ac_key_expects(k, expected, sizeof expected);
    ac_str_addf(s, "\n# %s\n# %s", k->meaning, expected);
    if (k->unit)
        ac_str_addf(s, ", in %s", k->unit);
    if (!k->fallback)
        ac_str_add(s, "; must be given");
    else
        ac_str_addf(s, "; default: %s", k->shown ? k->shown : ac_key_default(k, method));
    ac_str_add(s, "\n");
}

/* The keys that `method` uses (NULL: all keys), by section. c NULL: commented out, with their defaults. */
static void write_keys(ac_str *s, const ac_train_cfg *c, const char *method)
{
    const char *section = "";

    for (size_t i = 0; i < ac_n_keys; i++) {
        const ac_key *k = &ac_keys[i];
        const char *fallback = ac_key_default(k, method), *value = c && c->texts->given[i] ? c->texts->given[i] : fallback ? fallback : "";
        if (method && !used_by(k, method))
            continue;
        if (strcmp(section, k->section) != 0)
            ac_str_addf(s, "\n[%s]\n", section = k->section);
        explain(s, k, method);
        if (c && k->at == offsetof(ac_train_cfg, run.base_dir))
            value = c->run.base_dir;
        ac_str_addf(s, "%s%s =%s%s\n", c ? "" : "#", k->name, *value ? " " : "", value);
    }
}

/* Gives the text away. */
static int finish(ac_str *s, ac_diag *dg, char **text)
{
    if (s->failed) {
        ac_str_free(s);
        return ac_nomem(dg, s->n);
    }
    *text = s->p;
    return 0;
}

int ac_train_config_text(const ac_train_cfg *c, ac_diag *dg, char **text)
{
    const char *why = ac_ini_unwritable("base_dir", c->run.base_dir);
    ac_str s = {0};

    *text = NULL;
    if (why)
        return ac_fail(dg, ADDCL_E_ARG, "'%s', where relative paths start from, does not fit an INI file: %s",
                       c->run.base_dir, why);
    ac_str_addf(&s, "# A training run of add-cl %s. To continue it: add-cl train --resume and the name of this file\n",
                ADDCL_VERSION);
    write_keys(&s, c, method_of(c));
    return finish(&s, dg, text);
}

int ac_train_config_template(const char *method, ac_diag *dg, char **text)
{
    const char *methods = ac_keys[index_of("run", "method")].words;
    ac_str s = {0};

    *text = NULL;
    if (method && ac_key_word(methods, method) < 0)
        return ac_fail(dg, ADDCL_E_ARG, "unknown method '%s'; there are %s", method, methods);
    ac_str_add(&s, "# A training run of add-cl. Take the # off a key to set it.\n");
    write_keys(&s, NULL, method);
    return finish(&s, dg, text);
}
