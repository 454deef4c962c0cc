/* layout_config.c - configurations of a weight file without config.json: read from its metadata, or inferred.
 *
 * Sizes follow from shapes, structure from names. What neither shows is the common practice of the published models: 32
 * groups, epsilons, the schedule, and the number of heads (8 where the transformers' projections are convolutions, as
 * in SD 1; else width 64 each, as in SD 2 and XL). */
#include "model/layout.h"

#include <ctype.h>
#include <string.h>

#define HEAD_WIDTH    64
#define SD1_HEADS     8
#define MAX_LEVELS    64
#define CLIP_L_WIDTH  768 /* OpenAI's ViT-L/14, the only one with quick_gelu */
#define TIME_ID_WIDTH 256 /* of each of SDXL's six sizes */

/* The tensor with a formatted name; NULL: there is none. */
AC_PRINTF(3, 4) static const ac_source *at(const ac_layout *l, const char *part, const char *fmt, ...)
{
    char name[AC_NAME_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return ac_layout_find(l, part, name);
}

/* Dimension d of a tensor; 0: there is none. */
static int64_t dim(const ac_source *s, int d)
{
    return s && d < s->dims ? s->dim[d] : 0;
}

/* Does the file's name contain the word, in any case? */
static bool named(const ac_layout *l, const char *word)
{
    const char *base = strrchr(l->path, '/');

    return strcasestr(base ? base + 1 : l->path, word) != NULL;
}

/* ------------------------------------------------------------------------------------------------- UNet */

/* Transformer layers of one attention ("down_blocks.0.attentions.0"); 0: there is no such attention. */
static int depth(const ac_layout *l, const char *attention)
{
    int n = 0;

    while (at(l, "unet", "%s.transformer_blocks.%d.norm1.weight", attention, n))
        n++;
    return n;
}

typedef struct unet_shape {
    int levels, layers;
    int64_t width[MAX_LEVELS];
    int depth[MAX_LEVELS]; /* 0: no attention at this level */
    int mid_depth;
    int64_t text; /* cross-attention width */
    bool linear;  /* proj_in is a linear layer, else a 1x1 convolution */
} unet_shape;

/* Counts what the names show. The middle block attends in every model of this kind, so it tells the attentions' form.
 */
static void measure_unet(const ac_layout *l, unet_shape *u)
{
    const ac_source *s;

    *u = (unet_shape){0};
    while (u->levels < MAX_LEVELS && (s = at(l, "unet", "down_blocks.%d.resnets.0.conv1.weight", u->levels))) {
        char name[64];
        snprintf(name, sizeof name, "down_blocks.%d.attentions.0", u->levels);
        u->width[u->levels] = dim(s, 0);
        u->depth[u->levels++] = depth(l, name);
    }
    while (at(l, "unet", "down_blocks.0.resnets.%d.conv1.weight", u->layers))
        u->layers++;
    u->mid_depth = depth(l, "mid_block.attentions.0");
    u->text = dim(at(l, "unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"), 1);
    s = at(l, "unet", "mid_block.attentions.0.proj_in.weight");
    u->linear = s && s->dims == 2;
}

/* diffusers calls the number of heads attention_head_dim. */
static int heads_json(const ac_layout *l, const unet_shape *u, ac_diag *dg, json_t **out)
{
    if (!u->linear) {
        *out = json_integer(SD1_HEADS);
        return 0;
    }
    *out = json_array();
    for (int i = 0; i < u->levels; i++) {
        bool attends = u->depth[i] > 0 || (i == u->levels - 1 && u->mid_depth > 0);
        if (attends && u->width[i] % HEAD_WIDTH)
            return ac_fail(dg, ADDCL_E_UNSUPPORTED,
                           "%s: the number of attention heads at width %lld cannot be told from the weights (not a "
                           "multiple of %d, and the file has no \"" AC_META_CONFIG "\" in its metadata)",
                           l->path, (long long)u->width[i], HEAD_WIDTH);
        json_array_append_new(*out, json_integer(AC_MAX(u->width[i] / HEAD_WIDTH, 1)));
    }
    return 0;
}

/* transformer_layers_per_block; a level without attention takes the middle's depth when it is the last, else 1. */
static json_t *depths_json(const unet_shape *u)
{
    json_t *list = json_array();

    for (int i = 0; i < u->levels; i++)
        json_array_append_new(list, json_integer(u->depth[i] ? u->depth[i] : i == u->levels - 1 ? u->mid_depth : 1));
    return list;
}

/* down_block_types, or up_block_types: the same levels from the deepest on. */
static json_t *unet_blocks(const unet_shape *u, bool up)
{
    json_t *list = json_array();

    for (int i = 0; i < u->levels; i++) {
        bool attends = u->depth[up ? u->levels - 1 - i : i] > 0;
        json_array_append_new(list, json_sprintf("%s%sBlock2D", attends ? "CrossAttn" : "", up ? "Up" : "Down"));
    }
    return list;
}

static json_t *integers(const int64_t *v, int n)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_integer(v[i]));
    return list;
}

/* Latent side of a picture of the size the model was made for. SD 2 for 768 pixels has the same weights' names as for
 * 512; it is the one with v prediction, so whoever finds that out changes sample_size to 96. */
static int sample_size(const ac_layout *l)
{
    return strcmp(ac_layout_family(l), "sdxl") == 0 && !named(l, "turbo") ? 128 : 64;
}

static int infer_unet(const ac_layout *l, ac_diag *dg, json_t **out)
{
    int64_t added = dim(at(l, "unet", "add_embedding.linear_1.weight"), 1);
    json_t *heads = NULL;
    unet_shape u;
    int rc;

    measure_unet(l, &u);
    if ((rc = heads_json(l, &u, dg, &heads)) < 0) {
        json_decref(heads);
        return rc;
    }
    *out =
        json_pack("{s:s, s:i, s:I, s:I, s:o, s:i, s:o, s:o, s:s, s:o, s:o, s:I, s:b, s:s, s:i, s:f, s:b, s:i, s:i}",
                  "_class_name", "UNet2DConditionModel", "sample_size", sample_size(l), "in_channels",
                  (json_int_t)dim(at(l, "unet", "conv_in.weight"), 1), "out_channels",
                  (json_int_t)dim(at(l, "unet", "conv_out.weight"), 0), "block_out_channels",
                  integers(u.width, u.levels), "layers_per_block", u.layers, "down_block_types", unet_blocks(&u, false),
                  "up_block_types", unet_blocks(&u, true), "mid_block_type", "UNetMidBlock2DCrossAttn",
                  "attention_head_dim", heads, "transformer_layers_per_block", depths_json(&u), "cross_attention_dim",
                  (json_int_t)u.text, "use_linear_projection", u.linear, "act_fn", "silu", "norm_num_groups", 32,
                  "norm_eps", 1e-5, "flip_sin_to_cos", 1, "freq_shift", 0, "downsample_padding", 1);
    if (*out && added) {
        json_object_set_new(*out, "addition_embed_type", json_string("text_time"));
        json_object_set_new(*out, "addition_time_embed_dim", json_integer(TIME_ID_WIDTH));
        json_object_set_new(*out, "projection_class_embeddings_input_dim", json_integer(added));
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------- VAEs */

static json_t *repeated(const char *s, int n)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_string(s));
    return list;
}

/* From the decoder, which every file has; its levels run from the latent to the image. */
static json_t *infer_vae(const ac_layout *l)
{
    const char *family = ac_layout_family(l);
    int64_t width[MAX_LEVELS] = {0}, flipped[MAX_LEVELS];
    int levels = 0, layers = 0;
    const ac_source *s;
    json_t *v;

    while (levels < MAX_LEVELS && (s = at(l, "vae", "decoder.up_blocks.%d.resnets.0.conv1.weight", levels)))
        flipped[levels++] = dim(s, 0);
    for (int i = 0; i < levels; i++)
        width[i] = flipped[levels - 1 - i];
    while (at(l, "vae", "decoder.up_blocks.0.resnets.%d.conv1.weight", layers))
        layers++;
    v = json_pack("{s:s, s:i, s:i, s:I, s:o, s:i, s:o, s:o, s:s, s:i, s:i, s:b, s:b}", "_class_name", "AutoencoderKL",
                  "in_channels", 3, "out_channels", 3, "latent_channels",
                  (json_int_t)dim(at(l, "vae", "decoder.conv_in.weight"), 1), "block_out_channels",
                  integers(width, levels), "layers_per_block", AC_MAX(layers - 1, 0), "down_block_types",
                  repeated("DownEncoderBlock2D", levels), "up_block_types", repeated("UpDecoderBlock2D", levels),
                  "act_fn", "silu", "norm_num_groups", 32, "sample_size", sample_size(l) * 8, "use_quant_conv",
                  at(l, "vae", "quant_conv.weight") != NULL, "use_post_quant_conv",
                  at(l, "vae", "post_quant_conv.weight") != NULL);
    if (v && ac_layout_has(l, "unet"))
        json_object_set_new(v, "scaling_factor", json_real(strcmp(family, "sdxl") == 0 ? 0.13025 : 0.18215));
    return v;
}

/* Blocks of TAESD's `side` between the strided or upsampling convolutions, which have no bias and end a level. */
static json_t *taesd_blocks(const ac_layout *l, const char *side)
{
    json_t *list = json_array();
    int run = 0;

    for (int i = 1; i < 4 * MAX_LEVELS; i++) {
        if (at(l, "taesd", "%s.layers.%d.conv.0.weight", side, i)) {
            run++;
        } else if (run) {
            json_array_append_new(list, json_integer(run));
            run = 0;
        }
    }
    return list;
}

/* All widths are equal; each level is some blocks and a convolution. */
static json_t *infer_taesd(const ac_layout *l)
{
    json_t *down = taesd_blocks(l, "encoder"), *up = taesd_blocks(l, "decoder");
    int64_t width = dim(at(l, "taesd", "decoder.layers.0.weight"), 0);
    int64_t widths[MAX_LEVELS];
    int levels = (int)AC_MIN(json_array_size(up), (size_t)MAX_LEVELS);

    for (int i = 0; i < levels; i++)
        widths[i] = width;
    return json_pack("{s:s, s:i, s:i, s:I, s:o, s:o, s:o, s:o, s:s, s:s, s:i, s:f, s:i, s:f}", "_class_name",
                     "AutoencoderTiny", "in_channels", 3, "out_channels", 3, "latent_channels",
                     (json_int_t)dim(at(l, "taesd", "decoder.layers.0.weight"), 1), "encoder_block_out_channels",
                     integers(widths, levels), "decoder_block_out_channels", integers(widths, levels),
                     "num_encoder_blocks", down, "num_decoder_blocks", up, "act_fn", "relu", "upsample_fn", "nearest",
                     "latent_magnitude", 3, "latent_shift", 0.5, "upsampling_scaling_factor", 2, "scaling_factor", 1.0);
}

/* ------------------------------------------------------------------------------------------ text encoders */

/* As CLIPTextConfig; every published CLIP has heads of width 64. */
static json_t *infer_text(const ac_layout *l, const char *part)
{
    const ac_source *words = at(l, part, "text_model.embeddings.token_embedding.weight");
    const ac_source *projection = at(l, part, "text_projection.weight");
    int64_t vocab = dim(words, 0), width = dim(words, 1);
    int layers = 0;

    while (at(l, part, "text_model.encoder.layers.%d.layer_norm1.weight", layers))
        layers++;
    return json_pack("{s:[s], s:s, s:I, s:I, s:i, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "architectures",
                     projection ? "CLIPTextModelWithProjection" : "CLIPTextModel", "model_type", "clip_text_model",
                     "hidden_size", (json_int_t)width, "intermediate_size",
                     (json_int_t)dim(at(l, part, "text_model.encoder.layers.0.mlp.fc1.weight"), 0), "num_hidden_layers",
                     layers, "num_attention_heads", (json_int_t)AC_MAX(width / HEAD_WIDTH, 1), "hidden_act",
                     width == CLIP_L_WIDTH ? "quick_gelu" : "gelu", "projection_dim",
                     (json_int_t)(projection ? projection->dim[0] : width), "max_position_embeddings",
                     (json_int_t)dim(at(l, part, "text_model.embeddings.position_embedding.weight"), 0), "vocab_size",
                     (json_int_t)vocab, "bos_token_id", (json_int_t)vocab - 2, "eos_token_id", (json_int_t)vocab - 1,
                     "pad_token_id", (json_int_t)vocab - 1, "layer_norm_eps", 1e-5);
}

/* OpenCLIP pads with token 0, "!"; CLIP-L with the end token. */
static json_t *infer_tokenizer(const ac_layout *l, const char *part)
{
    const ac_source *words = at(l, part, "text_model.embeddings.token_embedding.weight");
    const ac_source *places = at(l, part, "text_model.embeddings.position_embedding.weight");

    return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:b}", "tokenizer_class", "CLIPTokenizer", "model_max_length",
                     (json_int_t)dim(places, 0), "bos_token", "<|startoftext|>", "eos_token", "<|endoftext|>",
                     "unk_token", "<|endoftext|>", "pad_token", dim(words, 1) == CLIP_L_WIDTH ? "<|endoftext|>" : "!",
                     "do_lower_case", 1);
}

/* -------------------------------------------------------------------------------- scheduler and pipeline */

/* The published schedule of SD 1, 2 and XL. Few-step students are known by their names: they are sampled with trailing
 * steps, as their authors do. */
static json_t *infer_scheduler(const ac_layout *l)
{
    bool xl = strcmp(ac_layout_family(l), "sdxl") == 0, turbo = named(l, "turbo");
    bool zero_snr = ac_st_find(l->st, "ztsnr") != NULL, lcm = named(l, "lcm");
    const char *class = lcm           ? "LCMScheduler"
                        : turbo && xl ? "EulerAncestralDiscreteScheduler"
                                      : "EulerDiscreteScheduler";
    const char *kind = ac_st_meta(l->st, "modelspec.prediction_type"); /* Stability's metadata: "epsilon", "v" */
    const char *prediction = NULL;
    json_t *s = json_pack("{s:s, s:f, s:f, s:s, s:i, s:s, s:i, s:b, s:b, s:b, s:n}", "_class_name", class, "beta_start",
                          0.00085, "beta_end", 0.012, "beta_schedule", "scaled_linear", "num_train_timesteps", 1000,
                          "timestep_spacing", turbo || zero_snr || named(l, "lightning") ? "trailing" : "leading",
                          "steps_offset", 1, "set_alpha_to_one", 0, "clip_sample", 0, "rescale_betas_zero_snr",
                          zero_snr, "trained_betas");

    if (ac_st_find(l->st, "v_pred") || (kind && strcmp(kind, "v") == 0))
        prediction = "v_prediction";
    else if (turbo || (kind && strcmp(kind, "epsilon") == 0))
        prediction = "epsilon"; /* SD-Turbo and SDXL-Turbo */
    if (s && prediction)
        json_object_set_new(s, "prediction_type", json_string(prediction));
    if (s && lcm)
        json_object_set_new(s, "original_inference_steps", json_integer(50));
    return s;
}

/* The pipeline class and the libraries of its parts. */
static json_t *infer_model_index(const ac_layout *l, const json_t *scheduler)
{
    bool two = ac_layout_has(l, "text_encoder_2");
    const char *class = json_string_value(json_object_get(scheduler, "_class_name"));
    json_t *m = json_pack("{s:s, s:[ss], s:[ss], s:[ss], s:[ss], s:[ss], s:[nn], s:[nn]}", "_class_name",
                          two ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline", "scheduler", "diffusers",
                          class, "text_encoder", "transformers", "CLIPTextModel", "tokenizer", "transformers",
                          "CLIPTokenizer", "unet", "diffusers", "UNet2DConditionModel", "vae", "diffusers",
                          "AutoencoderKL", "feature_extractor", "image_encoder");

    if (m && two) {
        json_object_set_new(m, "text_encoder_2", json_pack("[ss]", "transformers", "CLIPTextModelWithProjection"));
        json_object_set_new(m, "tokenizer_2", json_pack("[ss]", "transformers", "CLIPTokenizer"));
        json_object_set_new(m, "force_zeros_for_empty_prompt", json_true());
    } else if (m) {
        json_object_set_new(m, "safety_checker", json_pack("[nn]"));
        json_object_set_new(m, "requires_safety_checker", json_false());
    }
    return m;
}

/* --------------------------------------------------------------------------------------------------- all */

/* Takes over `value`, NULL when memory was short. */
static int put(json_t *all, const char *key, json_t *value, ac_diag *dg)
{
    return json_object_set_new(all, key, value) < 0 ? ac_nomem(dg, sizeof *value) : 0;
}

/* Adds the configuration of a part, and of what goes with it: the tokenizer with a text encoder, schedule and pipeline
 * with the UNet. */
static int infer_part(const ac_layout *l, const char *part, ac_diag *dg, json_t *all)
{
    json_t *unet;
    int rc;

    if (strcmp(part, "unet") == 0) {
        AC_TRY(infer_unet(l, dg, &unet));
        AC_TRY(put(all, part, unet, dg));
        AC_TRY(put(all, "scheduler", infer_scheduler(l), dg));
        rc = put(all, "model_index", infer_model_index(l, json_object_get(all, "scheduler")), dg);
    } else if (strcmp(part, "vae") == 0) {
        rc = put(all, part, infer_vae(l), dg);
    } else if (strcmp(part, "taesd") == 0) {
        rc = put(all, part, infer_taesd(l), dg);
    } else {
        AC_TRY(put(all, part, infer_text(l, part), dg));
        rc = put(all, strcmp(part, "text_encoder") ? "tokenizer_2" : "tokenizer", infer_tokenizer(l, part), dg);
    }
out:
    return rc;
}

static int infer_all(const ac_layout *l, ac_diag *dg, json_t *all)
{
    int rc = 0;

    for (int i = 0; i < l->n_parts && rc == 0; i++)
        rc = infer_part(l, l->parts[i].part, dg, all);
    return rc;
}

/* The object our own converter stored. */
static int stored_configs(const ac_layout *l, const char *text, ac_diag *dg, json_t **out)
{
    json_error_t e;
    json_t *value;
    const char *key;

    *out = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    if (!*out)
        return ac_fail(dg, ADDCL_E_FORMAT, "%s: metadata " AC_META_CONFIG ": %s (line %d)", l->path, e.text, e.line);
    json_object_foreach(*out, key, value) if (!json_is_object(value)) return ac_fail(
        dg, ADDCL_E_FORMAT, "%s: metadata " AC_META_CONFIG ": %s is no JSON object", l->path, key);
    if (json_is_object(*out))
        return 0;
    return ac_fail(dg, ADDCL_E_FORMAT, "%s: metadata " AC_META_CONFIG " is no JSON object", l->path);
}

int ac_layout_configs(const ac_layout *l, ac_diag *dg, json_t **out)
{
    const char *text = ac_st_meta(l->st, AC_META_CONFIG);
    int rc;

    *out = text ? NULL : json_object();
    if (!text && !*out)
        return ac_nomem(dg, sizeof(json_t));
    rc = text ? stored_configs(l, text, dg, out) : infer_all(l, dg, *out);
    if (rc < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}
