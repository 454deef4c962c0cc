/* lora.c - naming of LoRA files.
 *
 * The namings differ in separators, prefixes and endings, so names are compared flattened: every '.' a '_'. That is
 * kohya's own spelling; it stays unambiguous because it is looked up among the known modules, never taken apart. */
#include "model/lora.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/half.h"
#include "model/names.h"

/* What a tensor is to its module. */
typedef enum role { ROLE_DOWN, ROLE_UP, ROLE_ALPHA, ROLE_NONE } role;

static const struct {
    const char *end;
    role role;
} endings[] = {
    {".lora_down.weight", ROLE_DOWN},              /* kohya */
    {".lora_up.weight", ROLE_UP},                  /* */
    {".lora_A.weight", ROLE_DOWN},                 /* peft */
    {".lora_B.weight", ROLE_UP},                   /* */
    {"_lora.down.weight", ROLE_DOWN},              /* older diffusers: attention processors of a UNet, */
    {"_lora.up.weight", ROLE_UP},                  /* */
    {".lora_linear_layer.down.weight", ROLE_DOWN}, /* linear layers of a text encoder, */
    {".lora_linear_layer.up.weight", ROLE_UP},     /* */
    {".lora.down.weight", ROLE_DOWN},              /* other layers */
    {".lora.up.weight", ROLE_UP},                  /* */
    {".alpha", ROLE_ALPHA},
};

static const struct {
    const char *begin, *part;
    bool kept; /* the beginning belongs to the module's name */
} beginnings[] = {
    {"lora_unet_", "unet", false},
    {"lora_te1_", "text_encoder", false},
    {"lora_te2_", "text_encoder_2", false},
    {"lora_te_", "text_encoder", false},
    {"unet.", "unet", false},
    {"text_encoder_2.", "text_encoder_2", false},
    {"text_encoder.", "text_encoder", false},
    {"down_blocks.", "unet", true},
    {"mid_block.", "unet", true},
    {"up_blocks.", "unet", true},
    {"text_model.", "text_encoder", true},
};

/* Signs of updates that are no plain LoRA. */
static const struct {
    const char *sign, *what;
} unsupported[] = {
    {".dora_scale", "DoRA"},
    {"lora_magnitude_vector", "DoRA"},
    {".hada_w", "LoHa"},
    {".lokr_w", "LoKr"},
    {".lora_mid.", "Tucker LoCon"},
    {".oft_", "OFT"},
    {".lora_B.bias", "LoRA of biases"},
    {".diff_b", "an update of biases"},
};

/* Other spellings of the end of a flattened name, tried when it is unknown as it stands. */
static const struct {
    const char *end, *instead;
} respelled[] = {
    {"_to_out", "_to_out_0"},
    {"_self_attn_to_q", "_self_attn_q_proj"},
    {"_self_attn_to_k", "_self_attn_k_proj"},
    {"_self_attn_to_v", "_self_attn_v_proj"},
    {"_self_attn_to_out", "_self_attn_out_proj"},
};

/* A module of the base model and what the file has for it. */
typedef struct module {
    const char *part;
    char *name; /* canonical, without ".weight" */
    const ac_st_tensor *down, *up, *alpha;
} module;

/* A flattened name of a module. */
typedef struct alias {
    const char *part;
    char *flat;
    size_t module;
} alias;

typedef struct resolver {
    const char *path;
    AC_VEC(module) modules;
    AC_VEC(alias) aliases; /* sorted by part and flat name */
    AC_VEC(char *) unknown;
} resolver;

static void resolver_free(resolver *r)
{
    for (size_t i = 0; i < r->modules.n; i++)
        free(r->modules.p[i].name);
    for (size_t i = 0; i < r->aliases.n; i++)
        free(r->aliases.p[i].flat);
    for (size_t i = 0; i < r->unknown.n; i++)
        free(r->unknown.p[i]);
    free(r->modules.p);
    free(r->aliases.p);
    free(r->unknown.p);
}

/* Does s end so? *len: length of what is before. */
static bool cut_end(const char *s, const char *end, size_t *len)
{
    size_t n = strlen(s), m = strlen(end);

    if (n < m || strcmp(s + n - m, end) != 0)
        return false;
    *len = n - m;
    return true;
}

/* ----------------------------------------------------------------------------------------- known modules */

/* Gives the module added last another name. */
static int add_alias(resolver *r, const char *name, size_t len, ac_diag *dg)
{
    alias a = {r->modules.p[r->modules.n - 1].part, ac_strndup(name, len), r->modules.n - 1};

    if (!a.flat || !AC_PUSH(&r->aliases, a)) {
        free(a.flat);
        return ac_nomem(dg, len);
    }
    for (char *p = a.flat; *p; p++)
        if (*p == '.')
            *p = '_';
    return 0;
}

/* Adds a weight's module under its canonical and, in a UNet, its ldm name. */
static int add_module(resolver *r, const char *part, const ac_names *ldm, const char *weight, ac_diag *dg)
{
    module m = {.part = part};
    ac_renamed stored;
    size_t len;
    int rc;

    if (!cut_end(weight, ".weight", &len))
        return 0;
    if (!(m.name = ac_strndup(weight, len)) || !AC_PUSH(&r->modules, m)) {
        free(m.name);
        return ac_nomem(dg, len);
    }
    rc = add_alias(r, weight, len, dg);
    if (rc == 0 && strcmp(part, "unet") == 0 && ac_name_stored(ldm, weight, &stored) &&
        cut_end(stored.name, ".weight", &len))
        rc = add_alias(r, stored.name, len, dg);
    return rc;
}

static int by_part_and_flat(const void *a, const void *b)
{
    const alias *x = a, *y = b;
    int c = strcmp(x->part, y->part);
    return c ? c : strcmp(x->flat, y->flat);
}

/* All modules of all parts. */
static int add_base(resolver *r, const ac_lora_base *base, size_t n_base, ac_diag *dg)
{
    for (size_t i = 0; i < n_base; i++) {
        ac_names ldm = {.scheme = AC_NAMES_UNET_LDM};
        for (size_t k = 0; k < base[i].n; k++)
            ac_names_learn(&ldm, base[i].names[k]);
        for (size_t k = 0; k < base[i].n; k++) {
            int rc = add_module(r, base[i].part, &ldm, base[i].names[k], dg);
            if (rc < 0)
                return rc;
        }
    }
    if (r->aliases.n)
        qsort(r->aliases.p, r->aliases.n, sizeof *r->aliases.p, by_part_and_flat);
    return 0;
}

/* ---------------------------------------------------------------------------------------------- entries */

static module *look_up(const resolver *r, const char *part, char *flat)
{
    alias key = {.part = part, .flat = flat};
    const alias *a = r->aliases.n ? bsearch(&key, r->aliases.p, r->aliases.n, sizeof key, by_part_and_flat) : NULL;

    return a ? &r->modules.p[a->module] : NULL;
}

/* key without its part, flattened: without the word "processor" of older diffusers, and with the "text_model." that
 * transformers 5 leaves out. */
static void flatten(char flat[AC_NAME_MAX], const char *key, size_t len)
{
    static const char word[] = ".processor", text[] = "text_model_";
    size_t n = 0;

    if (strncmp(key, "encoder", 7) == 0) {
        memcpy(flat, text, sizeof text);
        n = sizeof text - 1;
    }
    for (size_t i = 0; i < len && n < AC_NAME_MAX - 1; i++) {
        if (strncmp(key + i, word, sizeof word - 1) == 0 && i + sizeof word - 1 <= len) {
            i += sizeof word - 2;
            continue;
        }
        flat[n++] = key[i] == '.' ? '_' : key[i];
    }
    flat[n] = '\0';
}

/* The module of an entry; `key` is its name without the ending. NULL: there is none. */
static module *find_module(const resolver *r, const char *key, size_t len)
{
    char flat[AC_NAME_MAX], other[AC_NAME_MAX + 32];
    const char *part = NULL;
    module *m;
    size_t n;

    for (size_t i = 0; i < AC_LEN(beginnings) && !part; i++) {
        n = strlen(beginnings[i].begin);
        if (len <= n || strncmp(key, beginnings[i].begin, n) != 0)
            continue;
        part = beginnings[i].part;
        if (!beginnings[i].kept)
            key += n, len -= n;
    }
    if (!part)
        return NULL;
    flatten(flat, key, len);
    m = look_up(r, part, flat);
    for (size_t i = 0; i < AC_LEN(respelled) && !m; i++)
        if (cut_end(flat, respelled[i].end, &n)) {
            snprintf(other, sizeof other, "%.*s%s", (int)n, flat, respelled[i].instead);
            m = look_up(r, part, other);
        }
    return m;
}

/* *len: length of the name without its ending. */
static role role_of(const char *name, size_t *len)
{
    for (size_t i = 0; i < AC_LEN(endings); i++)
        if (cut_end(name, endings[i].end, len))
            return endings[i].role;
    *len = strlen(name);
    return ROLE_NONE;
}

static int note_unknown(resolver *r, const char *key, size_t len, ac_diag *dg)
{
    char *copy = ac_strndup(key, len);

    if (copy && AC_PUSH(&r->unknown, copy))
        return 0;
    free(copy);
    return ac_nomem(dg, len);
}

/* Gives a tensor its place; `entries` counts the down and up matrices. */
static int place(resolver *r, const ac_st_tensor *t, size_t *entries, ac_diag *dg)
{
    const ac_st_tensor **slot;
    size_t len;
    role what;
    module *m;

    for (size_t i = 0; i < AC_LEN(unsupported); i++)
        if (strstr(t->name, unsupported[i].sign))
            return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: tensor %s: %s is not supported, only plain LoRA is", r->path,
                           t->name, unsupported[i].what);
    what = role_of(t->name, &len);
    *entries += what == ROLE_DOWN || what == ROLE_UP;
    m = what == ROLE_NONE ? NULL : find_module(r, t->name, len);
    if (!m)
        return note_unknown(r, t->name, len, dg);
    slot = what == ROLE_DOWN ? &m->down : what == ROLE_UP ? &m->up : &m->alpha;
    if (*slot)
        return ac_fail(dg, ADDCL_E_FORMAT, "%s: %s and %s belong to the same module", r->path, (*slot)->name, t->name);
    *slot = t;
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The error that lists unknown entries, each once. */
static int fail_unknown(resolver *r, ac_diag *dg)
{
    ac_name_list list = {0};
    int rc;

    qsort(r->unknown.p, r->unknown.n, sizeof *r->unknown.p, by_text);
    for (size_t i = 0; i < r->unknown.n; i++)
        if (i == 0 || strcmp(r->unknown.p[i], r->unknown.p[i - 1]) != 0)
            ac_name_list_add(&list, r->unknown.p[i]);
    rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: %zu entries fit nothing in the model: %s", r->path, list.n,
                 ac_name_list_text(&list));
    ac_str_free(&list.text);
    return rc;
}

/* ------------------------------------------------------------------------------------------------ scales */

static bool is_float(const ac_st_tensor *t)
{
    return t->dtype == AC_ST_F16 || t->dtype == AC_ST_BF16 || t->dtype == AC_ST_F32 || t->dtype == AC_ST_F64;
}

/* The value of an alpha, stored as a scalar or as [1]. */
static double first_value(const ac_st_tensor *t)
{
    uint64_t raw = 0;
    double d;
    float f;

    memcpy(&raw, t->data, ac_st_dtype_size(t->dtype));
    memcpy(&d, &raw, sizeof d);
    if (t->dtype == AC_ST_F64)
        return d;
    ac_to_float(&f, &raw, t->dtype == AC_ST_F16 ? AC_F16 : t->dtype == AC_ST_BF16 ? AC_BF16 : AC_F32, 1);
    return f;
}

/* alpha / rank of a module without a tensor for alpha. diffusers since 0.34 stores peft's configuration:
 * "<part>.lora_alpha", overruled for single modules by "<part>.alpha_pattern", and "<part>.use_rslora" for alpha /
 * sqrt(rank). Else alpha is the rank. */
static double default_scale(const json_t *config, const module *m, double rank)
{
    char key[64];
    const char *pattern;
    const json_t *alpha, *value;
    size_t len;

    snprintf(key, sizeof key, "%s.lora_alpha", m->part);
    alpha = json_object_get(config, key);
    snprintf(key, sizeof key, "%s.alpha_pattern", m->part);
    json_object_foreach(json_object_get(config, key), pattern,
                        value) if (cut_end(m->name, pattern, &len) && (len == 0 || m->name[len - 1] == '.')) alpha =
        value;
    snprintf(key, sizeof key, "%s.use_rslora", m->part);
    if (!json_is_number(alpha))
        return 1;
    return json_number_value(alpha) / (json_is_true(json_object_get(config, key)) ? sqrt(rank) : rank);
}

/* Checks the pair and computes alpha / rank. */
static int make_delta(const resolver *r, const module *m, const json_t *config, ac_lora_delta *d, ac_diag *dg)
{
    const ac_st_tensor *down = m->down, *up = m->up;
    double rank, scale;

    if (!down || !up)
        return ac_fail(dg, ADDCL_E_FORMAT, "%s: %s of the %s has no %s matrix", r->path, m->name, m->part,
                       down ? "up" : "down");
    if (!is_float(down) || !is_float(up) || (m->alpha && (!is_float(m->alpha) || !m->alpha->bytes)))
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: %s of the %s: F16, BF16, F32 and F64 are supported", r->path,
                       m->name, m->part);
    if (down->dims < 2 || up->dims < 2 || down->dim[0] < 1 || down->dim[0] != up->dim[1])
        return ac_fail(dg, ADDCL_E_SHAPE, "%s: the ranks of %s and %s differ or are no ranks", r->path, down->name,
                       up->name);
    rank = (double)down->dim[0];
    scale = m->alpha ? first_value(m->alpha) / rank : default_scale(config, m, rank);
    if (!isfinite(scale))
        return ac_fail(dg, ADDCL_E_FORMAT, "%s: alpha of %s is not finite", r->path, m->name);
    *d = (ac_lora_delta){m->part, m->name, down, up, scale};
    return 0;
}

/* Turns the modules that got matrices into the result, which takes over their names. */
static int collect(resolver *r, ac_lora *l, ac_diag *dg)
{
    const char *text = ac_st_meta(l->st, "lora_adapter_metadata");
    json_t *config = text ? json_loads(text, 0, NULL) : NULL;
    int rc = 0;

    if (!(l->delta = ac_calloc(r->modules.n, sizeof *l->delta)))
        rc = ac_nomem(dg, r->modules.n * sizeof *l->delta);
    for (size_t i = 0; i < r->modules.n && rc == 0; i++) {
        module *m = &r->modules.p[i];
        if (!m->down && !m->up && !m->alpha)
            continue;
        if ((rc = make_delta(r, m, config, &l->delta[l->n], dg)) == 0) {
            l->n++;
            m->name = NULL;
        }
    }
    json_decref(config);
    return rc;
}

/* --------------------------------------------------------------------------------------------------- all */

int ac_lora_open(const char *path, const ac_lora_base *base, size_t n_base, ac_diag *dg, ac_lora **out)
{
    ac_lora *l = ac_calloc(1, sizeof *l);
    resolver r = {.path = path};
    size_t entries = 0;
    int rc;

    *out = NULL;
    if (!l)
        return ac_nomem(dg, sizeof *l);
    AC_TRY(ac_st_open(path, dg, &l->st));
    AC_TRY(add_base(&r, base, n_base, dg));
    for (size_t i = 0; i < ac_st_count(l->st); i++)
        AC_TRY(place(&r, ac_st_at(l->st, i), &entries, dg));
    if (!entries)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s holds no LoRA: none of its %zu tensors is named like one", path,
                     ac_st_count(l->st));
    else if (r.unknown.n)
        rc = fail_unknown(&r, dg);
    else
        rc = collect(&r, l, dg);
out:
    resolver_free(&r);
    if (rc < 0)
        ac_lora_close(l);
    else
        *out = l;
    return rc;
}

void ac_lora_close(ac_lora *lora)
{
    if (!lora)
        return;
    for (size_t i = 0; i < lora->n; i++)
        free(lora->delta[i].module);
    free(lora->delta);
    ac_st_close(lora->st);
    free(lora);
}
