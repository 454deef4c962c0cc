/* convert.c - models between diffusers folders and single files.
 *
 * Either kind of input becomes a bundle: layouts that find each canonical tensor, configurations, vocabularies, and the
 * add_cl.* marks. Either kind of output is written from a bundle. Tensors are converted one at a time while writing. */
#include "model/convert.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"
#include "io/json.h"
#include "model/layout.h"

static const char *const part_names[] = {"unet", "vae", "text_encoder", "text_encoder_2"};

/* Configuration files of a folder by their key in AC_META_CONFIG. */
static const struct {
    const char *key, *file;
} config_files[] = {
    {"model_index", "model_index.json"},
    {"scheduler", "scheduler/scheduler_config.json"},
    {"unet", "unet/config.json"},
    {"vae", "vae/config.json"},
    {"text_encoder", "text_encoder/config.json"},
    {"text_encoder_2", "text_encoder_2/config.json"},
    {"tokenizer", "tokenizer/tokenizer_config.json"},
    {"tokenizer_2", "tokenizer_2/tokenizer_config.json"},
    {"special_tokens", "tokenizer/special_tokens_map.json"},
    {"special_tokens_2", "tokenizer_2/special_tokens_map.json"},
};

/* Text files of the tokenizers by their metadata key. */
static const struct {
    const char *key, *folder, *file;
} text_files[] = {
    {AC_META_VOCAB, "tokenizer", "vocab.json"},
    {AC_META_MERGES, "tokenizer", "merges.txt"},
    {AC_META_VOCAB_2, "tokenizer_2", "vocab.json"},
    {AC_META_MERGES_2, "tokenizer_2", "merges.txt"},
};

#define TEXT_MAX ((size_t)64 << 20) /* bytes of a vocabulary or model card */
#define MARK     "add_cl."          /* of metadata and model card keys that are carried along */

/* A line such as "add_cl.steps: 1". */
typedef struct mark {
    char *key, *value;
} mark;

/* A model, wherever it came from. */
typedef struct bundle {
    ac_st *st[AC_LEN(part_names)];
    ac_layout *layout[AC_LEN(part_names)];
    int n;                          /* files */
    json_t *configs;                /* as ac_layout_configs gives them */
    char *text[AC_LEN(text_files)]; /* NULL: none, or CLIP's own */
    AC_VEC(mark) marks;             /* add_cl.steps and such */
} bundle;

static void bundle_free(bundle *b)
{
    for (int i = 0; i < b->n; i++) {
        ac_layout_free(b->layout[i]);
        ac_st_close(b->st[i]);
    }
    for (size_t i = 0; i < AC_LEN(text_files); i++)
        free(b->text[i]);
    for (size_t i = 0; i < b->marks.n; i++) {
        free(b->marks.p[i].key);
        free(b->marks.p[i].value);
    }
    free(b->marks.p);
    json_decref(b->configs);
}

static bool has_part(const bundle *b, const char *part)
{
    for (int i = 0; i < b->n; i++)
        if (ac_layout_has(b->layout[i], part))
            return true;
    return false;
}

/* -------------------------------------------------------------------------------------------------- input */

/* Opens a weight file and adds it to the bundle. */
static int add_weights(bundle *b, const char *path, const char *part, ac_diag *dg)
{
    int i = b->n, rc;

    if ((rc = ac_st_open(path, dg, &b->st[i])) < 0)
        return rc;
    b->n++;
    return ac_layout_detect(b->st[i], path, part, dg, &b->layout[i]);
}

static int add_mark(bundle *b, const char *key, size_t key_len, const char *value, size_t value_len, ac_diag *dg)
{
    mark m = {ac_strndup(key, key_len), ac_strndup(value, value_len)};

    if (m.key && m.value && AC_PUSH(&b->marks, m))
        return 0;
    free(m.key);
    free(m.value);
    return ac_nomem(dg, key_len + value_len);
}

static bool is_text_key(const char *key)
{
    for (size_t i = 0; i < AC_LEN(text_files); i++)
        if (strcmp(key, text_files[i].key) == 0)
            return true;
    return false;
}

/* A single file: everything is in it. */
static int load_file(bundle *b, const char *path, ac_diag *dg)
{
    int rc;

    AC_TRY(add_weights(b, path, NULL, dg));
    AC_TRY(ac_layout_configs(b->layout[0], dg, &b->configs));
    for (size_t i = 0; i < AC_LEN(text_files); i++) {
        const char *text = ac_st_meta(b->st[0], text_files[i].key);
        if (text && !(b->text[i] = ac_strdup(text)))
            return ac_nomem(dg, strlen(text));
    }
    for (size_t i = 0; i < ac_st_meta_count(b->st[0]); i++) {
        const char *key, *value;
        ac_st_meta_at(b->st[0], i, &key, &value);
        if (strncmp(key, MARK, strlen(MARK)) == 0 && strcmp(key, AC_META_CONFIG) != 0 && !is_text_key(key))
            AC_TRY(add_mark(b, key, strlen(key), value, strlen(value), dg));
    }
out:
    return rc;
}

/* Reads a JSON file into b->configs. */
static int load_config(bundle *b, const char *key, const char *path, ac_diag *dg)
{
    ac_json j;
    int rc = ac_json_open(path, dg, &j);

    if (rc == 0 && json_object_set(b->configs, key, j.obj) < 0)
        rc = ac_nomem(dg, sizeof(json_t));
    ac_json_close(&j);
    return rc;
}

/* CLIP's own vocabulary, known by its size and the ids of its two marks. Every reader of such files has it. */
static bool is_clip_vocab(const char *text)
{
    json_t *v = json_loads(text, 0, NULL);
    bool own = json_object_size(v) == 49408 && json_integer_value(json_object_get(v, "<|startoftext|>")) == 49406 &&
               json_integer_value(json_object_get(v, "<|endoftext|>")) == 49407;

    json_decref(v);
    return own;
}

/* Vocabularies and merges; pairs that are CLIP's own are forgotten. */
static int load_texts(bundle *b, const char *dir, ac_diag *dg)
{
    int rc = 0;

    for (size_t i = 0; i < AC_LEN(text_files) && rc == 0; i++) {
        char *path = ac_printf("%s/%s/%s", dir, text_files[i].folder, text_files[i].file);
        size_t n;
        if (!path)
            rc = ac_nomem(dg, strlen(dir));
        else if (ac_exists(path))
            rc = ac_file_read(path, TEXT_MAX, dg, &b->text[i], &n);
        free(path);
    }
    for (size_t i = 0; i < AC_LEN(text_files); i += 2) {
        if (!b->text[i] || !is_clip_vocab(b->text[i]))
            continue;
        free(b->text[i]);
        free(b->text[i + 1]);
        b->text[i] = b->text[i + 1] = NULL;
    }
    return rc;
}

/* Takes `add_cl.key: value` lines from the front matter of the model card. */
static int load_card(bundle *b, const char *dir, ac_diag *dg)
{
    char *path = ac_path_join(dir, "README.md"), *text = NULL;
    const char *s;
    size_t n;
    int rc = 0;

    if (!path)
        return ac_nomem(dg, strlen(dir));
    if (ac_exists(path))
        AC_TRY(ac_file_read(path, TEXT_MAX, dg, &text, &n));
    if (!text || strncmp(text, "---\n", 4) != 0)
        goto out;
    for (s = text + 4; *s && strncmp(s, "---", 3) != 0; s += *s == '\n') {
        size_t len = strcspn(s, "\n"), key = strcspn(s, ":\n"), gap = key < len ? strspn(s + key + 1, " ") + 1 : 0;
        if (gap && strncmp(s, MARK, strlen(MARK)) == 0)
            AC_TRY(add_mark(b, s, key, s + key + gap, len - key - gap, dg));
        s += len;
    }
out:
    free(text);
    free(path);
    return rc;
}

/* The weights in dir/part, if there is such a folder. */
static int load_part(bundle *b, const char *dir, const char *part, ac_diag *dg)
{
    char *folder = ac_path_join(dir, part), *weights = NULL;
    int rc = 0;

    if (!folder)
        return ac_nomem(dg, strlen(dir));
    if (ac_is_dir(folder)) {
        AC_TRY(ac_layout_weights(folder, dg, &weights));
        rc = add_weights(b, weights, part, dg);
    }
out:
    free(weights);
    free(folder);
    return rc;
}

static int load_folder(bundle *b, const char *dir, ac_diag *dg)
{
    int rc = 0;

    if (!(b->configs = json_object()))
        return ac_nomem(dg, sizeof(json_t));
    for (size_t i = 0; i < AC_LEN(part_names); i++)
        AC_TRY(load_part(b, dir, part_names[i], dg));
    for (size_t i = 0; i < AC_LEN(config_files); i++) {
        char *path = ac_path_join(dir, config_files[i].file);
        if (!path)
            return ac_nomem(dg, strlen(dir));
        if (ac_exists(path))
            rc = load_config(b, config_files[i].key, path, dg);
        free(path);
        AC_TRY(rc);
    }
    AC_TRY(load_texts(b, dir, dg));
    rc = load_card(b, dir, dg);
out:
    return rc;
}

/* Half a model would be written without complaint and fail where it is used. */
static int check_complete(const bundle *b, const char *in, ac_diag *dg)
{
    for (size_t i = 0; i < AC_LEN(part_names); i++) {
        bool needed = strcmp(part_names[i], "text_encoder_2") != 0, have = has_part(b, part_names[i]);
        if (needed && !have)
            return ac_fail(dg, ADDCL_E_FORMAT, "%s holds no %s; only whole models can be converted", in, part_names[i]);
        if (have && !json_object_get(b->configs, part_names[i]))
            return ac_fail(dg, ADDCL_E_FORMAT, "%s: %s/config.json is missing", in, part_names[i]);
    }
    return 0;
}

static int load(bundle *b, const char *in, ac_diag *dg)
{
    int rc = ac_is_dir(in) ? load_folder(b, in, dg) : load_file(b, in, dg);

    return rc < 0 ? rc : check_complete(b, in, dg);
}

/* ------------------------------------------------------------------------------------------ writing tensors */

/* A tensor to be written: one source, or q, k, v. */
typedef struct item {
    char name[AC_NAME_MAX + 64]; /* with prefix */
    const ac_st *st;             /* of the sources */
    const ac_source *src[3];
    int third, thirds;
    bool transpose, pointwise;
} item;

typedef AC_VEC(item) item_vec;

typedef struct writer {
    const item *items;
    ac_type *types;
} writer;

static int by_name_and_third(const void *a, const void *b)
{
    const item *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c ? c : x->third - y->third;
}

/* Callback of ac_st_write: the data of item i; the source's pages are given back at once. */
static int fill(void *user, size_t i, void *dst, size_t bytes)
{
    const writer *w = user;
    const item *it = &w->items[i];

    for (int k = 0; k < it->thirds; k++) {
        ac_source s = *it->src[k];
        if (it->transpose) { /* of the stored tensor's own order: turns it round once more, or back */
            s.transpose = !s.transpose;
            s.dim[0] = it->src[k]->dim[1], s.dim[1] = it->src[k]->dim[0];
        }
        ac_source_read(&s, w->types[i], (char *)dst + bytes / (size_t)it->thirds * (size_t)k);
        ac_st_drop(it->st, s.t);
    }
    return 0;
}

/* Type and shape of an item in the file. */
static void describe(const item *it, ac_type type, ac_st_entry *e)
{
    const ac_source *s = it->src[0];

    *e = (ac_st_entry){it->name, type == AC_F32 ? AC_ST_F32 : type == AC_F16 ? AC_ST_F16 : AC_ST_BF16, s->dims, {0}};
    memcpy(e->dim, s->dim, sizeof e->dim);
    if (it->transpose)
        e->dim[0] = s->dim[1], e->dim[1] = s->dim[0];
    if (e->dims)
        e->dim[0] *= it->thirds;
    if (it->pointwise && e->dims == 2)
        e->dim[2] = e->dim[3] = 1, e->dims = 4;
}

/* Writes items to one file; `type` < 0: each in the type it has. */
static int write_items(const char *path, const item *items, size_t n, int type, const char *const (*meta)[2],
                       size_t n_meta, ac_diag *dg)
{
    ac_st_entry *entries = ac_calloc(n, sizeof *entries);
    ac_type *types = ac_calloc(n, sizeof *types);
    writer w = {items, types};
    int rc;

    if (!entries || !types) {
        rc = ac_nomem(dg, n * sizeof *entries);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        types[i] = type < 0 ? ac_source_type(items[i].src[0]) : (ac_type)type;
        describe(&items[i], types[i], &entries[i]);
    }
    rc = ac_st_write(path, entries, n, meta, n_meta, fill, &w, dg);
out:
    free(types);
    free(entries);
    return rc;
}

/* --------------------------------------------------------------------------------------------- single file */

/* SD 2's text encoder: the 23 layers of OpenCLIP's ViT-H/14 that are used. Files of other models spell theirs CLIP's
 * way. */
static bool is_vit_h(const json_t *text)
{
    const char *act = json_string_value(json_object_get(text, "hidden_act"));

    return json_integer_value(json_object_get(text, "hidden_size")) == 1024 &&
           json_integer_value(json_object_get(text, "num_hidden_layers")) == 23 && act && strcmp(act, "gelu") == 0;
}

/* Prefix and scheme of a part in a single file: those of SD 1 (two text encoders: of SDXL). */
static ac_layout_part single_naming(const bundle *b, const char *part)
{
    bool two = has_part(b, "text_encoder_2");

    if (strcmp(part, "unet") == 0)
        return (ac_layout_part){part, "model.diffusion_model.", {.scheme = AC_NAMES_UNET_LDM}};
    if (strcmp(part, "vae") == 0)
        return (ac_layout_part){part, "first_stage_model.", {.scheme = AC_NAMES_VAE_LDM}};
    if (strcmp(part, "text_encoder_2") == 0)
        return (ac_layout_part){part, "conditioner.embedders.1.model.", {.scheme = AC_NAMES_OPEN_CLIP}};
    if (two)
        return (ac_layout_part){part, "conditioner.embedders.0.transformer.", {.scheme = AC_NAMES_CLIP}};
    if (is_vit_h(json_object_get(b->configs, part)))
        return (ac_layout_part){part, "cond_stage_model.model.", {.scheme = AC_NAMES_OPEN_CLIP}};
    return (ac_layout_part){part, "cond_stage_model.transformer.", {.scheme = AC_NAMES_CLIP}};
}

/* The tensors of one part under their names in a single file. */
static int add_items(const ac_layout *l, const ac_layout_part *naming, item_vec *v, ac_diag *dg)
{
    for (size_t i = 0; i < l->n; i++) {
        const ac_source *s = &l->src[i];
        item it = {.st = l->st};
        ac_renamed r;
        if (strcmp(s->part, naming->part) != 0)
            continue;
        if (!ac_name_stored(&naming->names, s->name, &r))
            return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: tensor %s of the %s has no place in a single file", l->path,
                           s->t->name, s->part);
        snprintf(it.name, sizeof it.name, "%s%s", naming->prefix, r.name);
        it.src[0] = s;
        it.third = r.third, it.thirds = r.thirds;
        it.transpose = r.transpose && s->dims == 2, it.pointwise = r.pointwise;
        if (!AC_PUSH(v, it))
            return ac_nomem(dg, sizeof it);
    }
    return 0;
}

/* Joins the three items of each fused tensor; items must be sorted. */
static int join_thirds(item_vec *v, ac_diag *dg)
{
    size_t n = 0;

    for (size_t i = 0; i < v->n; i += (size_t)v->p[i].thirds) {
        item it = v->p[i];
        for (int k = 1; k < it.thirds; k++) {
            const item *next = i + (size_t)k < v->n ? &v->p[i + (size_t)k] : NULL;
            if (!next || strcmp(next->name, it.name) != 0 || next->third != k ||
                memcmp(next->src[0]->dim, it.src[0]->dim, sizeof it.src[0]->dim) != 0)
                return ac_fail(dg, ADDCL_E_SHAPE, "%s needs q, k and v of equal shape, beside %s there are others",
                               it.name, it.src[0]->name);
            it.src[k] = next->src[0];
        }
        v->p[n++] = it;
    }
    v->n = n;
    return 0;
}

/* All tensors of the single file. A part's structure is learnt from its canonical names first. */
static int collect_single(const bundle *b, item_vec *v, ac_diag *dg)
{
    int rc = 0;

    for (size_t p = 0; p < AC_LEN(part_names); p++) {
        ac_layout_part naming = single_naming(b, part_names[p]);
        for (int i = 0; i < b->n; i++)
            for (size_t k = 0; k < b->layout[i]->n; k++)
                if (strcmp(b->layout[i]->src[k].part, naming.part) == 0)
                    ac_names_learn(&naming.names, b->layout[i]->src[k].name);
        for (int i = 0; i < b->n; i++)
            AC_TRY(add_items(b->layout[i], &naming, v, dg));
    }
    if (v->n)
        qsort(v->p, v->n, sizeof *v->p, by_name_and_third);
    rc = join_thirds(v, dg);
out:
    return rc;
}

static int write_single(const bundle *b, const char *out, int type, ac_diag *dg)
{
    char *config = ac_json_text(b->configs, JSON_COMPACT);
    const char *(*meta)[2] = ac_calloc(2 + AC_LEN(text_files) + b->marks.n, sizeof *meta);
    item_vec items = {0};
    size_t n = 0;
    int rc;

    if (!config || !meta) {
        rc = ac_nomem(dg, sizeof *meta);
        goto out;
    }
    AC_TRY(collect_single(b, &items, dg));
    meta[n][0] = "format", meta[n++][1] = "pt"; /* transformers refuses a file without it */
    meta[n][0] = AC_META_CONFIG, meta[n++][1] = config;
    for (size_t i = 0; i < AC_LEN(text_files); i++)
        if (b->text[i])
            meta[n][0] = text_files[i].key, meta[n++][1] = b->text[i];
    for (size_t i = 0; i < b->marks.n; i++)
        meta[n][0] = b->marks.p[i].key, meta[n++][1] = b->marks.p[i].value;
    rc = write_items(out, items.p, items.n, type, (const char *const(*)[2])meta, n, dg);
out:
    free(items.p);
    free(meta);
    free(config);
    return rc;
}

/* -------------------------------------------------------------------------------------------------- folder */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

static int make_dir(const char *dir, const char *name, ac_diag *dg)
{
    char *path = ac_path_join(dir, name);
    int rc = 0;

    if (!path)
        return ac_nomem(dg, strlen(dir));
    if (mkdir(path, 0777) < 0)
        rc = ac_fail(dg, ADDCL_E_IO, "%s: cannot create the folder: %s", path, strerror(errno));
    free(path);
    return rc;
}

static int write_configs(const bundle *b, const char *dir, ac_diag *dg)
{
    for (size_t i = 0; i < AC_LEN(config_files); i++) {
        const json_t *config = json_object_get(b->configs, config_files[i].key);
        char *text = config ? ac_json_text(config, JSON_INDENT(2)) : NULL;
        int rc = config && !text ? ac_nomem(dg, sizeof *config) : 0;

        if (text)
            rc = ac_file_save_text(dir, config_files[i].file, text, dg);
        free(text);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The tokenizers' own text, else CLIP's. */
static int write_texts(const bundle *b, const char *dir, const char *clip_dir, ac_diag *dg)
{
    int rc = 0;

    for (size_t i = 0; i < AC_LEN(text_files) && rc == 0; i++) {
        char *name = ac_printf("%s/%s", text_files[i].folder, text_files[i].file), *source = NULL, *text = NULL;
        size_t n;

        if (!name) {
            rc = ac_nomem(dg, AC_NAME_MAX);
        } else if (b->text[i]) {
            rc = ac_file_save_text(dir, name, b->text[i], dg);
        } else if (!json_object_get(b->configs, text_files[i].folder)) {
            rc = 0;
        } else if (!clip_dir) {
            ac_note(dg, ADDCL_LOG_WARN, "the folder gets no %s: CLIP's own is needed and was not found", name);
        } else if (!(source = ac_path_join(clip_dir, text_files[i].file))) {
            rc = ac_nomem(dg, strlen(clip_dir));
        } else if ((rc = ac_file_read(source, TEXT_MAX, dg, &text, &n)) == 0) {
            rc = ac_file_save_text(dir, name, text, dg);
        }
        free(text);
        free(source);
        free(name);
    }
    return rc;
}

/* A model card that carries the marks, when there are any. */
static int write_card(const bundle *b, const char *dir, ac_diag *dg)
{
    ac_str s = {0};
    int rc = 0;

    ac_str_add(&s, "---\n");
    for (size_t i = 0; i < b->marks.n; i++)
        ac_str_addf(&s, "%s: %s\n", b->marks.p[i].key, b->marks.p[i].value);
    ac_str_add(&s, "---\n");
    if (s.failed)
        rc = ac_nomem(dg, s.n);
    else if (b->marks.n)
        rc = ac_file_save_text(dir, "README.md", s.p, dg);
    ac_str_free(&s);
    return rc;
}

/* A part's weights under their canonical names. */
static int write_part(const bundle *b, const char *dir, const char *part, int type, ac_diag *dg)
{
    static const char *const meta[][2] = {{"format", "pt"}};
    bool text = strncmp(part, "text", 4) == 0;
    char *path = ac_printf("%s/%s/%s", dir, part, text ? "model.safetensors" : "diffusion_pytorch_model.safetensors");
    item_vec v = {0};
    int rc = path ? 0 : ac_nomem(dg, strlen(dir));

    for (int i = 0; i < b->n && rc == 0; i++)
        for (size_t k = 0; k < b->layout[i]->n && rc == 0; k++) {
            const ac_source *s = &b->layout[i]->src[k];
            item it = {.st = b->layout[i]->st, .src = {s}, .thirds = 1};
            if (strcmp(s->part, part) != 0)
                continue;
            snprintf(it.name, sizeof it.name, "%s", s->name);
            if (!AC_PUSH(&v, it))
                rc = ac_nomem(dg, sizeof it);
        }
    if (rc == 0)
        rc = write_items(path, v.p, v.n, type, meta, 1, dg);
    free(v.p);
    free(path);
    return rc;
}

/* Everything below the new folder. */
static int write_tree(const bundle *b, const char *dir, int type, const char *clip_dir, ac_diag *dg)
{
    static const char *const folders[] = {"scheduler", "tokenizer", "tokenizer_2"};
    int rc = 0;

    for (size_t i = 0; i < AC_LEN(folders); i++)
        if (json_object_get(b->configs, folders[i]))
            AC_TRY(make_dir(dir, folders[i], dg));
    for (size_t i = 0; i < AC_LEN(part_names); i++)
        if (has_part(b, part_names[i])) {
            AC_TRY(make_dir(dir, part_names[i], dg));
            AC_TRY(write_part(b, dir, part_names[i], type, dg));
        }
    AC_TRY(write_configs(b, dir, dg));
    AC_TRY(write_texts(b, dir, clip_dir, dg));
    rc = write_card(b, dir, dg);
out:
    return rc;
}

/* Is there nothing at this path, or a folder with nothing in it? */
static bool is_free(const char *path)
{
    DIR *d;
    int n = 0;

    if (!ac_exists(path))
        return true;
    if (!(d = opendir(path)))
        return false;
    while (readdir(d))
        n++;
    closedir(d);
    return n <= 2; /* "." and ".." */
}

/* Moves the finished folder to its place and makes that last. */
static int publish(const char *temp, const char *out, ac_diag *dg)
{
    char *parent = ac_printf("%s/..", out);
    int fd, rc = 0;

    if (!parent)
        return ac_nomem(dg, strlen(out));
    if (rename(temp, out) < 0)
        rc = ac_fail(dg, ADDCL_E_IO, "%s: cannot rename to %s: %s", temp, out, strerror(errno));
    else if ((fd = open(parent, O_RDONLY | O_DIRECTORY)) >= 0) {
        fsync(fd);
        close(fd);
    }
    free(parent);
    return rc;
}

/* Builds the folder beside its place and moves it there, or takes it away again. */
static int write_folder(const bundle *b, const char *out, int type, const char *clip_dir, ac_diag *dg)
{
    size_t n = strlen(out);
    char *target, *temp = NULL;
    int rc;

    while (n > 1 && out[n - 1] == '/')
        n--;
    if (!(target = ac_strndup(out, n)) || !(temp = ac_printf("%s.%ld.tmp", target, (long)getpid()))) {
        free(target);
        return ac_nomem(dg, n);
    }
    if (!is_free(target))
        rc = ac_fail(dg, ADDCL_E_ARG, "%s exists already and is no empty folder", target);
    else if (mkdir(temp, 0777) < 0)
        rc = ac_fail(dg, ADDCL_E_IO, "%s: cannot create the folder: %s", temp, strerror(errno));
    else {
        rc = write_tree(b, temp, type, clip_dir, dg);
        if (rc == 0)
            rc = publish(temp, target, dg);
        if (rc < 0)
            nftw(temp, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
    free(temp);
    free(target);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------ all */

static bool names_single_file(const char *out)
{
    static const char end[] = ".safetensors";
    size_t n = strlen(out);

    return n >= sizeof end - 1 && strcmp(out + n - (sizeof end - 1), end) == 0;
}

int ac_convert(const char *in, const char *out, int type, const char *clip_dir, ac_diag *dg)
{
    bundle b = {0};
    int rc;

    AC_TRY(load(&b, in, dg));
    if (names_single_file(out)) {
        rc = write_single(&b, out, type, dg);
    } else {
        const json_t *scheduler = json_object_get(b.configs, "scheduler");
        if (!json_object_get(scheduler, "prediction_type"))
            ac_note(dg, ADDCL_LOG_WARN,
                    "%s does not say whether it predicts noise or velocity: neither will the folder's "
                    "scheduler_config.json; other programs take that for epsilon",
                    in);
        rc = write_folder(&b, out, type, clip_dir, dg);
    }
out:
    bundle_free(&b);
    return rc;
}
