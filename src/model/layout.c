/* layout.c - recognising weight files and finding tensors in them. */
#include "model/layout.h"

#include <stdlib.h>
#include <string.h>
#include "base/file.h"

/* Prefixes of whole checkpoints; longer ones first where one contains another. */
static const ac_layout_part whole[] = {
    {"unet", "model.diffusion_model.", {.scheme = AC_NAMES_UNET_LDM}},
    {"vae", "first_stage_model.", {.scheme = AC_NAMES_VAE_LDM}},
    {"text_encoder", "cond_stage_model.transformer.", {.scheme = AC_NAMES_CLIP}},
    {"text_encoder", "cond_stage_model.model.", {.scheme = AC_NAMES_OPEN_CLIP}},
    {"text_encoder", "conditioner.embedders.0.transformer.", {.scheme = AC_NAMES_CLIP}},
    {"text_encoder", "conditioner.embedders.0.model.", {.scheme = AC_NAMES_OPEN_CLIP}},
    {"text_encoder", "conditioner.embedders.0.open_clip.model.", {.scheme = AC_NAMES_OPEN_CLIP}},
    {"text_encoder", "conditioner.embedders.0.open_clip.", {.scheme = AC_NAMES_OPEN_CLIP}},
    {"text_encoder_2", "conditioner.embedders.1.model.", {.scheme = AC_NAMES_OPEN_CLIP}},
};

/* Files of one part: a tensor that only this naming has. */
static const struct bare {
    const char *part;
    ac_scheme scheme;
    const char *probe;
} bare[] = {
    {"unet", AC_NAMES_UNET_LDM, "input_blocks.0.0.weight"},
    {"unet", AC_NAMES_SAME, "down_blocks.0.resnets.0.conv1.weight"},
    {"vae", AC_NAMES_VAE_LDM, "decoder.mid.block_1.conv1.weight"},
    {"vae", AC_NAMES_VAE_LDM, "encoder.mid.block_1.conv1.weight"},
    {"vae", AC_NAMES_VAE, "decoder.mid_block.resnets.0.conv1.weight"},
    {"vae", AC_NAMES_VAE, "encoder.mid_block.resnets.0.conv1.weight"},
    {"text_encoder", AC_NAMES_CLIP, "text_model.embeddings.token_embedding.weight"},
    {"text_encoder", AC_NAMES_CLIP, "embeddings.token_embedding.weight"},
    {"text_encoder", AC_NAMES_OPEN_CLIP, "token_embedding.weight"},
    {"taesd", AC_NAMES_SAME, "decoder.layers.0.weight"},
    {"taesd", AC_NAMES_SAME, "encoder.layers.0.weight"},
    {"taesd", AC_NAMES_TAESD, "decoder.1.weight"},
    {"taesd", AC_NAMES_TAESD, "encoder.0.weight"},
    {"image_encoder", AC_NAMES_SAME, "embeddings.patch_embeddings.projection.weight"},
    {"image_encoder", AC_NAMES_CLIP_IMAGE, "vision_model.embeddings.patch_embedding.weight"},
    {"image_encoder", AC_NAMES_CLIP_IMAGE, "embeddings.patch_embedding.weight"},
};

/* Left behind by training programs and never read; beginnings and ends of names without the part's prefix. */
static const char *const ignored_begin[] = {
    "model_ema.", "loss.", /* discriminator and LPIPS of a VAE's training */
    "denoiser.",           /* sgm's table of sigmas */
    "betas",      "alphas_cumprod", "sqrt_",       "log_one_minus_", "posterior_", "lvlb_weights",
    "logvar",     "scale_factor",   "global_step", "v_pred",         "ztsnr" /* marks, empty tensors; see
                                                                                layout_config.c */
};
static const char *const ignored_end[] = {"position_ids", "logit_scale", "attn_mask", "mask_token"};

/* Other kinds of files that users have; a part of a name. */
static const struct {
    const char *sign, *what;
} refused[] = {
    {"joint_blocks.", "a Stable Diffusion 3 model"},
    {"double_blocks.", "a Flux model"},
    {"edm_mean", "a Playground 2.5 model"},
    {"control_model.", "a ControlNet"},
    {"controlnet_cond_embedding.", "a ControlNet"},
    {"motion_modules.", "an AnimateDiff model"},
    {"scaled_fp8", "a checkpoint with scaled 8-bit weights; use its f16 version"},
    {".lora_down.weight", "a LoRA file, which goes on top of a model (--lora)"},
    {".lora_A.weight", "a LoRA file, which goes on top of a model (--lora)"},
    {"_lora.down.weight", "a LoRA file, which goes on top of a model (--lora)"},
};

static bool starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool is_ignored(const char *name)
{
    for (size_t i = 0; i < AC_LEN(ignored_begin); i++)
        if (starts_with(name, ignored_begin[i]))
            return true;
    for (size_t i = 0; i < AC_LEN(ignored_end); i++)
        if (ac_ends_with(name, ignored_end[i]))
            return true;
    return false;
}

static bool is_text(const char *part)
{
    return starts_with(part, "text_encoder");
}

/* ------------------------------------------------------------------------------------------- recognition */

/* The error for a file in which tensors `list` cannot be placed: its kind, if that is known, else the list. */
static int fail_unplaced(const ac_layout *l, ac_name_list *list, ac_diag *dg)
{
    for (size_t i = 0; i < ac_st_count(l->st); i++)
        for (size_t k = 0; k < AC_LEN(refused); k++)
            if (strstr(ac_st_at(l->st, i)->name, refused[k].sign))
                return ac_fail(dg, ADDCL_E_UNSUPPORTED,
                               "%s is %s (tensor %s); Stable Diffusion 1, 2 and XL models are supported", l->path,
                               refused[k].what, ac_st_at(l->st, i)->name);
    if (l->n_parts == 0)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s holds no model of a known kind; its tensors: %s", l->path,
                       ac_name_list_text(list));
    return ac_fail(dg, ADDCL_E_FORMAT, "%s: %zu tensors have no place in a model of its kind: %s", l->path, list->n,
                   ac_name_list_text(list));
}

/* Is a prefix in use? */
static bool any_starts_with(const ac_st *st, const char *prefix)
{
    for (size_t i = 0; i < ac_st_count(st); i++)
        if (starts_with(ac_st_at(st, i)->name, prefix))
            return true;
    return false;
}

static void add_part(ac_layout *l, const char *part, const char *prefix, ac_scheme scheme)
{
    if (l->n_parts < AC_LAYOUT_PARTS)
        l->parts[l->n_parts++] = (ac_layout_part){part, prefix, {.scheme = scheme}};
}

/* Forgets all parts of a whole checkpoint but one. */
static void keep_part(ac_layout *l, const char *part)
{
    int n = 0;

    for (int i = 0; i < l->n_parts; i++)
        if (strcmp(l->parts[i].part, part) == 0)
            l->parts[n++] = l->parts[i];
    l->n_parts = n;
}

/* Fills l->parts. A file without any known sign is taken for diffusers' naming of the part that the caller named: what
 * is missing comes out when its tensors are asked for. */
static int find_parts(ac_layout *l, const char *part, ac_diag *dg)
{
    ac_name_list found = {0};
    int rc;

    for (size_t i = 0; i < AC_LEN(whole); i++)
        if (any_starts_with(l->st, whole[i].prefix))
            add_part(l, whole[i].part, whole[i].prefix, whole[i].names.scheme);
    l->whole = l->n_parts > 0;
    if (part)
        keep_part(l, part);
    for (size_t i = 0; i < AC_LEN(bare) && !l->whole && l->n_parts == 0; i++) {
        bool fits = !part || strcmp(part, bare[i].part) == 0 || (is_text(part) && is_text(bare[i].part));
        if (fits && ac_st_find(l->st, bare[i].probe))
            add_part(l, part ? part : bare[i].part, "", bare[i].scheme);
    }
    if (l->n_parts == 0 && l->whole)
        return ac_fail(dg, ADDCL_E_FORMAT, "%s holds no %s", l->path, part);
    if (l->n_parts == 0 && part)
        add_part(l, part, "", strcmp(part, "vae") == 0 ? AC_NAMES_VAE : is_text(part) ? AC_NAMES_CLIP : AC_NAMES_SAME);
    if (l->n_parts > 0)
        return 0;
    for (size_t i = 0; i < ac_st_count(l->st); i++)
        ac_name_list_add(&found, ac_st_at(l->st, i)->name);
    rc = fail_unplaced(l, &found, dg);
    ac_str_free(&found.text);
    return rc;
}

/* The naming that a stored name belongs to; NULL: none. */
static ac_layout_part *part_of(ac_layout *l, const char *name)
{
    for (int i = 0; i < l->n_parts; i++)
        if (starts_with(name, l->parts[i].prefix))
            return &l->parts[i];
    return NULL;
}

/* Lets every naming see its names, before any can be translated. */
static void learn_structure(ac_layout *l)
{
    for (size_t i = 0; i < ac_st_count(l->st); i++) {
        const char *name = ac_st_at(l->st, i)->name;
        ac_layout_part *p = part_of(l, name);
        if (p)
            ac_names_learn(&p->names, name + strlen(p->prefix));
    }
}

#define VIT_H_LAYERS 24 /* of OpenCLIP's ViT-H/14, the text encoder of SD 2 */

/* SD 2 reads the last layer but one (method of its authors; transformers' folders hold 23 layers for that). Returns the
 * layer to leave out of an OpenCLIP first text encoder: the last of a complete tower, which has a projection or ViT-H's
 * depth; -1: none. */
static int unused_layer(const ac_layout *l, const ac_layout_part *p)
{
    int last = -1, idx[2];
    bool projection = false;

    if (strcmp(p->part, "text_encoder") != 0 || p->names.scheme != AC_NAMES_OPEN_CLIP)
        return -1;
    for (size_t i = 0; i < ac_st_count(l->st); i++) {
        const char *name = ac_st_at(l->st, i)->name;
        if (!starts_with(name, p->prefix))
            continue;
        name += strlen(p->prefix);
        if (ac_name_match("transformer.resblocks.#", name, idx))
            last = AC_MAX(last, idx[0]);
        projection |= strcmp(name, "text_projection") == 0;
    }
    return projection || last == VIT_H_LAYERS - 1 ? last : -1;
}

/* Does this tensor of part p belong to the unused end of the text encoder? */
static bool is_unused(const char *name, int layer)
{
    int idx[2];

    return layer >= 0 && (strcmp(name, "text_projection") == 0 ||
                          (ac_name_match("transformer.resblocks.#", name, idx) && idx[0] == layer));
}

/* ---------------------------------------------------------------------------------------------- mapping */

typedef AC_VEC(ac_source) source_vec;

/* Weights of other types would need a scale that this format does not keep. */
static int check_storable(const ac_layout *l, const ac_st_tensor *t, ac_diag *dg)
{
    if (t->dtype == AC_ST_F16 || t->dtype == AC_ST_BF16 || t->dtype == AC_ST_F32 || t->dtype == AC_ST_F64)
        return 0;
    return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: tensor %s is %s; F16, BF16, F32 and F64 weights are supported",
                   l->path, t->name, ac_st_dtype_name(t->dtype));
}

/* Canonical shape and rows of s from its stored tensor. */
static int shape_source(const ac_layout *l, const ac_renamed *r, ac_source *s, ac_diag *dg)
{
    const ac_st_tensor *t = s->t;
    int64_t rows = t->dims ? t->dim[0] : 1;

    s->dims = t->dims;
    memcpy(s->dim, t->dim, sizeof s->dim);
    if (r->thirds == 3 && (t->dims < 1 || rows % 3))
        return ac_fail(dg, ADDCL_E_SHAPE, "%s: tensor %s has %lld rows, expected q, k and v: a multiple of 3", l->path,
                       t->name, (long long)rows);
    if (r->transpose && t->dims != 2)
        return ac_fail(dg, ADDCL_E_SHAPE, "%s: tensor %s has %d dimensions, expected 2", l->path, t->name, t->dims);
    s->rows = rows / r->thirds;
    s->row = s->rows * r->third;
    if (t->dims)
        s->dim[0] = s->rows;
    if ((s->transpose = r->transpose))
        s->dim[0] = t->dim[1], s->dim[1] = t->dim[0];
    while (r->pointwise && s->dims > 2 && s->dim[s->dims - 1] == 1)
        s->dims--;
    return 0;
}

/* Adds the one or three canonical tensors of t; *placed: it has a place. */
static int map_tensor(const ac_layout *l, const ac_layout_part *p, const ac_st_tensor *t, source_vec *v, bool *placed,
                      ac_diag *dg)
{
    ac_renamed r;
    int rc;

    *placed = ac_name_canonical(&p->names, t->name + strlen(p->prefix), 0, &r);
    if (!*placed)
        return 0;
    if ((rc = check_storable(l, t, dg)) < 0)
        return rc;
    for (int third = 0, n = r.thirds; third < n; third++) {
        ac_source s = {.part = p->part, .t = t};
        if (third && !ac_name_canonical(&p->names, t->name + strlen(p->prefix), third, &r))
            return ac_fail(dg, ADDCL_E_INTERNAL, "no name for part %d of %s", third, t->name);
        if ((rc = shape_source(l, &r, &s, dg)) < 0)
            return rc;
        if (!(s.name = ac_strdup(r.name)) || !AC_PUSH(v, s)) {
            free(s.name);
            return ac_nomem(dg, sizeof s);
        }
    }
    return 0;
}

/* Places every tensor of the wanted part (NULL: of all), passes over what is never read, fails on the rest. */
static int map_all(ac_layout *l, const char *part, source_vec *v, ac_diag *dg)
{
    ac_name_list surplus = {0};
    int skip[AC_LAYOUT_PARTS], rc = 0;

    for (int i = 0; i < l->n_parts; i++)
        skip[i] = unused_layer(l, &l->parts[i]);
    for (size_t i = 0; i < ac_st_count(l->st); i++) {
        const ac_st_tensor *t = ac_st_at(l->st, i);
        const ac_layout_part *p = part_of(l, t->name);
        const char *name = t->name + (p ? strlen(p->prefix) : 0);
        bool placed = false;

        if (is_ignored(name) || (p && is_unused(name, skip[p - l->parts])) || (part && l->whole && !p))
            continue;
        if (p)
            AC_TRY(map_tensor(l, p, t, v, &placed, dg));
        if (!placed)
            ac_name_list_add(&surplus, t->name);
    }
    if (surplus.n)
        rc = fail_unplaced(l, &surplus, dg);
out:
    ac_str_free(&surplus.text);
    return rc;
}

/* The order of l->src. */
static int compare(const char *part_a, const char *name_a, const ac_source *b)
{
    int c = strcmp(part_a, b->part);
    return c ? c : strcmp(name_a, b->name);
}

static int by_part_and_name(const void *a, const void *b)
{
    const ac_source *s = a;
    return compare(s->part, s->name, b);
}

/* Two spellings of one tensor: which one is meant cannot be known. */
static int check_unique(const ac_layout *l, ac_diag *dg)
{
    for (size_t i = 1; i < l->n; i++)
        if (by_part_and_name(&l->src[i - 1], &l->src[i]) == 0)
            return ac_fail(dg, ADDCL_E_FORMAT, "%s: %s and %s are both %s of the %s", l->path, l->src[i - 1].t->name,
                           l->src[i].t->name, l->src[i].name, l->src[i].part);
    return 0;
}

/* Dimension d of a canonical tensor; 0: there is none. */
static int64_t dim_of(const ac_layout *l, const char *part, const char *name, int d)
{
    const ac_source *s = ac_layout_find(l, part, name);
    return s && d < s->dims ? s->dim[d] : 0;
}

#define REFINER_EMBEDDING 2560 /* 1280 of the text and five sizes of 256 */

/* Variants whose tensor names are those of a supported model. */
static int refuse_variants(const ac_layout *l, ac_diag *dg)
{
    int64_t channels = dim_of(l, "unet", "conv_in.weight", 1);

    if (channels == 9)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s is an inpainting model (9 input channels); it is not supported",
                       l->path);
    if (channels == 8)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s is an image-editing model (8 input channels); it is not supported",
                       l->path);
    if (dim_of(l, "unet", "add_embedding.linear_1.weight", 1) == REFINER_EMBEDDING)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s is the SDXL refiner; use the base model", l->path);
    return 0;
}

int ac_layout_detect(const ac_st *st, const char *path, const char *part, ac_diag *dg, ac_layout **out)
{
    ac_layout *l = ac_calloc(1, sizeof *l);
    source_vec v = {0};
    int rc;

    *out = NULL;
    if (!l || !(l->path = ac_strdup(path))) {
        free(l);
        return ac_nomem(dg, sizeof *l + strlen(path));
    }
    l->st = st;
    AC_TRY(find_parts(l, part, dg));
    learn_structure(l);
    rc = map_all(l, part, &v, dg);
    l->src = v.p;
    l->n = v.n;
    AC_TRY(rc);
    if (l->n)
        qsort(l->src, l->n, sizeof *l->src, by_part_and_name);
    AC_TRY(check_unique(l, dg));
    AC_TRY(refuse_variants(l, dg));
    *out = l;
    return 0;
out:
    ac_layout_free(l);
    return rc;
}

void ac_layout_free(ac_layout *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->n; i++)
        free(l->src[i].name);
    free(l->src);
    free(l->path);
    free(l);
}

/* ---------------------------------------------------------------------------------------------- questions */

bool ac_layout_has(const ac_layout *l, const char *part)
{
    for (int i = 0; i < l->n_parts; i++)
        if (strcmp(l->parts[i].part, part) == 0)
            return true;
    return false;
}

static ac_source *search(const ac_layout *l, const char *part, const char *name)
{
    size_t lo = 0, hi = l->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = compare(part, name, &l->src[mid]);
        if (c == 0)
            return &l->src[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const ac_source *ac_layout_find(const ac_layout *l, const char *part, const char *name)
{
    return search(l, part, name);
}

/* Names the tensor as this file would store it. */
static int missing(const ac_layout *l, const char *part, const char *name, ac_diag *dg)
{
    ac_renamed r;

    for (int i = 0; i < l->n_parts; i++) {
        const ac_layout_part *p = &l->parts[i];
        if (strcmp(p->part, part) == 0 && ac_name_stored(&p->names, name, &r))
            return ac_fail(dg, ADDCL_E_FORMAT, "%s: tensor %s%s is missing", l->path, p->prefix, r.name);
    }
    return ac_fail(dg, ADDCL_E_FORMAT, "%s: tensor %s of the %s is missing", l->path, name, part);
}

static void shape_text(ac_str *s, int dims, const int64_t *dim)
{
    ac_str_add(s, "[");
    for (int i = 0; i < dims; i++)
        ac_str_addf(s, "%s%lld", i ? "," : "", (long long)dim[i]);
    ac_str_add(s, "]");
}

static int wrong_shape(const ac_layout *l, const ac_source *s, int dims, const int64_t *dim, ac_diag *dg)
{
    ac_str have = {0}, want = {0};

    shape_text(&have, s->dims, s->dim);
    shape_text(&want, dims, dim);
    ac_fail(dg, ADDCL_E_SHAPE, "%s: tensor %s has shape %s, expected %s", l->path, s->t->name, have.p ? have.p : "?",
            want.p ? want.p : "?");
    ac_str_free(&have);
    ac_str_free(&want);
    return ADDCL_E_SHAPE;
}

int ac_layout_get(ac_layout *l, const char *part, const char *name, int dims, const int64_t *dim, ac_diag *dg,
                  const ac_source **out)
{
    ac_source *s = search(l, part, name);

    *out = NULL;
    if (!s)
        return missing(l, part, name, dg);
    if (dims >= 0 && (s->dims != dims || memcmp(s->dim, dim, (size_t)dims * sizeof *dim) != 0))
        return wrong_shape(l, s, dims, dim, dg);
    s->used = true;
    *out = s;
    return 0;
}

int ac_layout_check_used(const ac_layout *l, const char *part, ac_diag *dg)
{
    ac_name_list surplus = {0};
    int rc = 0;

    for (size_t i = 0; i < l->n; i++)
        if (!l->src[i].used && strcmp(l->src[i].part, part) == 0)
            ac_name_list_add(&surplus, l->src[i].t->name);
    if (surplus.n)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: %zu tensors have no place in the %s its configuration describes: %s",
                     l->path, surplus.n, part, ac_name_list_text(&surplus));
    ac_str_free(&surplus.text);
    return rc;
}

const char *ac_layout_family(const ac_layout *l)
{
    static const struct {
        int64_t width;
        const char *family;
    } known[] = {{768, "sd1"}, {1024, "sd2"}, {2048, "sdxl"}};
    int64_t width = 0;

    for (size_t i = 0; i < l->n && !width; i++)
        if (strcmp(l->src[i].part, "unet") == 0 && strstr(l->src[i].name, ".attn2.to_k.weight") && l->src[i].dims == 2)
            width = l->src[i].dim[1];
    for (size_t i = 0; i < AC_LEN(known); i++)
        if (known[i].width == width)
            return known[i].family;
    return "custom";
}

/* ------------------------------------------------------------------------------------------------ reading */

int64_t ac_source_count(const ac_source *s)
{
    int64_t n = 1;

    for (int i = 0; i < s->dims; i++)
        n *= s->dim[i];
    return n;
}

ac_type ac_source_type(const ac_source *s)
{
    return s->t->dtype == AC_ST_F16 ? AC_F16 : s->t->dtype == AC_ST_BF16 ? AC_BF16 : AC_F32;
}

#define CHUNK 1024 /* elements converted at a time */

/* n <= CHUNK stored elements as floats; the mapping may be unaligned. */
static void load_floats(const ac_source *s, size_t first, size_t n, float *dst)
{
    size_t size = ac_st_dtype_size(s->t->dtype);
    double raw[CHUNK];

    memcpy(raw, (const char *)s->t->data + first * size, n * size);
    if (s->t->dtype == AC_ST_F64)
        for (size_t i = 0; i < n; i++)
            dst[i] = (float)raw[i];
    else
        ac_to_float(dst, raw, ac_source_type(s), n);
}

/* Elements from `first` on, in stored order. */
static void read_straight(const ac_source *s, size_t first, ac_type type, void *dst)
{
    size_t count = (size_t)ac_source_count(s), size = ac_type_size(type);
    float buf[CHUNK];

    if (type == ac_source_type(s) && s->t->dtype != AC_ST_F64) {
        if (count)
            memcpy(dst, (const char *)s->t->data + first * size, count * size);
        return;
    }
    for (size_t done = 0; done < count; done += CHUNK) {
        size_t n = AC_MIN((size_t)CHUNK, count - done);
        load_floats(s, first + done, n, buf);
        ac_from_float((char *)dst + done * size, type, buf, n);
    }
}

/* dst[o][i] = stored[i][o]: reads rows in order, writes columns. */
static void read_transposed(const ac_source *s, ac_type type, void *dst)
{
    size_t outs = (size_t)s->dim[0], ins = (size_t)s->dim[1], size = ac_type_size(type);
    float buf[CHUNK];

    for (size_t i = 0; i < ins; i++)
        for (size_t o = 0; o < outs; o += CHUNK) {
            size_t n = AC_MIN((size_t)CHUNK, outs - o);
            load_floats(s, i * outs + o, n, buf);
            for (size_t k = 0; k < n; k++)
                ac_from_float((char *)dst + ((o + k) * ins + i) * size, type, &buf[k], 1);
        }
}

void ac_source_read(const ac_source *s, ac_type type, void *dst)
{
    int64_t total = ac_source_count(s);

    if (s->transpose)
        read_transposed(s, type, dst);
    else
        read_straight(s, s->rows ? (size_t)(total / s->rows * s->row) : 0, type, dst);
}

/* ------------------------------------------------------------------------------------------------ folders */

/* *path: the first of the names that exists in dir; NULL: none does. */
static int first_of(const char *dir, const char *const *names, size_t n, ac_diag *dg, char **path)
{
    for (size_t i = 0; i < n; i++) {
        if (!(*path = ac_path_join(dir, names[i])))
            return ac_nomem(dg, strlen(dir) + strlen(names[i]) + 2);
        if (ac_exists(*path))
            return 0;
        free(*path);
    }
    *path = NULL;
    return 0;
}

static const char *const names[] = {
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
};
static const char *const pickles[] = {"diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt"};

int ac_layout_has_weights(const char *dir, ac_diag *dg, bool *has)
{
    char *path = NULL;
    int rc = first_of(dir, names, AC_LEN(names), dg, &path);

    if (rc == 0 && !path)
        rc = first_of(dir, pickles, AC_LEN(pickles), dg, &path);
    *has = path != NULL;
    free(path);
    return rc;
}

int ac_layout_weights(const char *dir, ac_diag *dg, char **path)
{
    int rc = first_of(dir, names, AC_LEN(names), dg, path);

    if (rc < 0 || *path || (rc = first_of(dir, pickles, AC_LEN(pickles), dg, path)) < 0)
        return rc;
    if (*path)
        rc = ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s is a pickle file, which can run programs; save it as safetensors",
                     *path);
    else
        rc = ac_fail(dg, ADDCL_E_IO,
                     "%s holds no weights: neither diffusion_pytorch_model.safetensors nor model.safetensors", dir);
    free(*path);
    *path = NULL;
    return rc;
}
