/* names.c - the naming tables and the one matcher that reads them.
 *
 * A table line pairs the stem of a canonical name with the stem of the stored name. '#' is a number; how the numbers of
 * both sides belong together is the line's index map. What follows the stem is translated by the line's leaf table, or
 * passes unchanged. The first line that fits wins, in both directions. */
#include "model/names.h"

#include <stdio.h>
#include <string.h>

#define NUMBER_MAX 9999 /* no model has more layers; keeps index arithmetic far from overflow */

typedef enum index_map {
    IDX_SAME,
    IDX_DOWN,       /* down_blocks.i, layer j <-> input_blocks.{(L+1)i+j+1}; L layers a block, then its downsampler */
    IDX_DOWNSAMPLE, /* down_blocks.i <-> input_blocks.{(L+1)(i+1)} */
    IDX_UP,         /* up_blocks.i, layer j <-> output_blocks.{(L+1)i+j}; L+1 layers a block */
    IDX_UPSAMPLE,   /* up_blocks.i <-> output_blocks.{(L+1)i+L}.{1, behind an attention 2} */
    IDX_FLIP,       /* up_blocks.i <-> up.{levels-1-i} */
    IDX_BEHIND      /* TAESD's decoder counts its clamp as layer 0 */
} index_map;

/* The end of a name below a stem, without what follows (".weight", ".bias"). */
typedef struct leaf {
    const char *canonical, *stored;
    enum {
        LEAF_WHOLE,
        LEAF_POINTWISE, /* linear layer that the other side may store as a 1x1 convolution */
        LEAF_Q,         /* thirds of a fused tensor */
        LEAF_K,
        LEAF_V
    } kind;
} leaf;

typedef struct line {
    const char *canonical, *stored;
    index_map index;    /* how the numbers of both sides belong together */
    const leaf *leaves; /* ends with {0}; NULL: the rest passes unchanged */
    bool transpose;     /* stored as [in,out] */
} line;

/* Most lines have no leaf table and equal numbers. */
#define LINE(canonical, stored, index, leaves)                                                                         \
    {                                                                                                                  \
        canonical, stored, index, leaves, false                                                                        \
    }
#define PLAIN(canonical, stored) LINE(canonical, stored, IDX_SAME, NULL)

/* ldm: nn.Sequential(GroupNorm, SiLU, Conv) and so on, numbered by position. */
static const leaf unet_resnet[] = {
    {"norm1", "in_layers.0", LEAF_WHOLE},
    {"conv1", "in_layers.2", LEAF_WHOLE},
    {"time_emb_proj", "emb_layers.1", LEAF_WHOLE},
    {"norm2", "out_layers.0", LEAF_WHOLE},
    {"conv2", "out_layers.3", LEAF_WHOLE},
    {"conv_shortcut", "skip_connection", LEAF_WHOLE},
    {0},
};

static const leaf vae_resnet[] = {
    {"norm1", "norm1", LEAF_WHOLE},
    {"conv1", "conv1", LEAF_WHOLE},
    {"norm2", "norm2", LEAF_WHOLE},
    {"conv2", "conv2", LEAF_WHOLE},
    {"conv_shortcut", "nin_shortcut", LEAF_WHOLE},
    {0},
};

static const leaf vae_attention[] = {
    {"group_norm", "norm", LEAF_WHOLE},
    {"to_q", "q", LEAF_POINTWISE},
    {"to_k", "k", LEAF_POINTWISE},
    {"to_v", "v", LEAF_POINTWISE},
    {"to_out.0", "proj_out", LEAF_POINTWISE},
    {0},
};

/* diffusers before 0.18 called them query ... proj_attn */
static const leaf vae_attention_old[] = {
    {"group_norm", "group_norm", LEAF_WHOLE},  {"to_q", "to_q", LEAF_POINTWISE},
    {"to_k", "to_k", LEAF_POINTWISE},          {"to_v", "to_v", LEAF_POINTWISE},
    {"to_out.0", "to_out.0", LEAF_POINTWISE},  {"to_q", "query", LEAF_POINTWISE},
    {"to_k", "key", LEAF_POINTWISE},           {"to_v", "value", LEAF_POINTWISE},
    {"to_out.0", "proj_attn", LEAF_POINTWISE}, {0},
};

/* nn.MultiheadAttention keeps q, k and v as the rows of one matrix. */
static const leaf open_clip_layer[] = {
    {"layer_norm1", "ln_1", LEAF_WHOLE},
    {"layer_norm2", "ln_2", LEAF_WHOLE},
    {"self_attn.q_proj.weight", "attn.in_proj_weight", LEAF_Q},
    {"self_attn.k_proj.weight", "attn.in_proj_weight", LEAF_K},
    {"self_attn.v_proj.weight", "attn.in_proj_weight", LEAF_V},
    {"self_attn.q_proj.bias", "attn.in_proj_bias", LEAF_Q},
    {"self_attn.k_proj.bias", "attn.in_proj_bias", LEAF_K},
    {"self_attn.v_proj.bias", "attn.in_proj_bias", LEAF_V},
    {"self_attn.out_proj", "attn.out_proj", LEAF_WHOLE},
    {"mlp.fc1", "mlp.c_fc", LEAF_WHOLE},
    {"mlp.fc2", "mlp.c_proj", LEAF_WHOLE},
    {0},
};

/* Everything passes: surplus names show when a model does not ask for them. */
static const line same[] = {PLAIN("", ""), {0}};

/* Lines whose pattern another one also fits stand before it. */
static const line unet_ldm[] = {
    PLAIN("conv_in", "input_blocks.0.0"),
    PLAIN("time_embedding.linear_1", "time_embed.0"),
    PLAIN("time_embedding.linear_2", "time_embed.2"),
    PLAIN("add_embedding.linear_1", "label_emb.0.0"),
    PLAIN("add_embedding.linear_2", "label_emb.0.2"),
    LINE("down_blocks.#.downsamplers.0.conv", "input_blocks.#.0.op", IDX_DOWNSAMPLE, NULL),
    LINE("down_blocks.#.resnets.#", "input_blocks.#.0", IDX_DOWN, unet_resnet),
    LINE("down_blocks.#.attentions.#", "input_blocks.#.1", IDX_DOWN, NULL),
    LINE("mid_block.resnets.0", "middle_block.0", IDX_SAME, unet_resnet),
    PLAIN("mid_block.attentions.0", "middle_block.1"),
    LINE("mid_block.resnets.1", "middle_block.2", IDX_SAME, unet_resnet),
    LINE("up_blocks.#.upsamplers.0.conv", "output_blocks.#.#.conv", IDX_UPSAMPLE, NULL),
    LINE("up_blocks.#.resnets.#", "output_blocks.#.0", IDX_UP, unet_resnet),
    LINE("up_blocks.#.attentions.#", "output_blocks.#.1", IDX_UP, NULL),
    PLAIN("conv_norm_out", "out.0"),
    PLAIN("conv_out", "out.2"),
    {0},
};

static const line vae[] = {
    LINE("encoder.mid_block.attentions.0", "encoder.mid_block.attentions.0", IDX_SAME, vae_attention_old),
    LINE("decoder.mid_block.attentions.0", "decoder.mid_block.attentions.0", IDX_SAME, vae_attention_old),
    PLAIN("", ""),
    {0},
};

static const line vae_ldm[] = {
    PLAIN("encoder.conv_in", "encoder.conv_in"),
    LINE("encoder.down_blocks.#.resnets.#", "encoder.down.#.block.#", IDX_SAME, vae_resnet),
    PLAIN("encoder.down_blocks.#.downsamplers.0.conv", "encoder.down.#.downsample.conv"),
    LINE("encoder.mid_block.resnets.0", "encoder.mid.block_1", IDX_SAME, vae_resnet),
    LINE("encoder.mid_block.attentions.0", "encoder.mid.attn_1", IDX_SAME, vae_attention),
    LINE("encoder.mid_block.resnets.1", "encoder.mid.block_2", IDX_SAME, vae_resnet),
    PLAIN("encoder.conv_norm_out", "encoder.norm_out"),
    PLAIN("encoder.conv_out", "encoder.conv_out"),
    PLAIN("quant_conv", "quant_conv"),
    PLAIN("post_quant_conv", "post_quant_conv"),
    PLAIN("decoder.conv_in", "decoder.conv_in"),
    LINE("decoder.mid_block.resnets.0", "decoder.mid.block_1", IDX_SAME, vae_resnet),
    LINE("decoder.mid_block.attentions.0", "decoder.mid.attn_1", IDX_SAME, vae_attention),
    LINE("decoder.mid_block.resnets.1", "decoder.mid.block_2", IDX_SAME, vae_resnet),
    LINE("decoder.up_blocks.#.resnets.#", "decoder.up.#.block.#", IDX_FLIP, vae_resnet),
    LINE("decoder.up_blocks.#.upsamplers.0.conv", "decoder.up.#.upsample.conv", IDX_FLIP, NULL),
    PLAIN("decoder.conv_norm_out", "decoder.norm_out"),
    PLAIN("decoder.conv_out", "decoder.conv_out"),
    {0},
};

/* text_model. first, so that canonical names become themselves. */
static const line clip[] = {
    PLAIN("text_model", "text_model"),
    PLAIN("text_projection", "text_projection"),
    PLAIN("text_model.embeddings", "embeddings"),
    PLAIN("text_model.encoder", "encoder"),
    PLAIN("text_model.final_layer_norm", "final_layer_norm"),
    {0},
};

static const line open_clip[] = {
    PLAIN("text_model.embeddings.token_embedding", "token_embedding"),
    PLAIN("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    LINE("text_model.encoder.layers.#", "transformer.resblocks.#", IDX_SAME, open_clip_layer),
    PLAIN("text_model.final_layer_norm", "ln_final"),
    {"text_projection.weight", "text_projection", IDX_SAME, NULL, true},
    {0},
};

static const line taesd[] = {
    PLAIN("encoder.layers.#", "encoder.#"),
    LINE("decoder.layers.#", "decoder.#", IDX_BEHIND, NULL),
    {0},
};

static const line clip_image[] = {
    PLAIN("vision_model", "vision_model"),
    PLAIN("visual_projection", "visual_projection"),
    PLAIN("vision_model.embeddings", "embeddings"),
    PLAIN("vision_model.pre_layrnorm", "pre_layrnorm"),
    PLAIN("vision_model.encoder", "encoder"),
    PLAIN("vision_model.post_layernorm", "post_layernorm"),
    {0},
};

static const line *const tables[] = {
    [AC_NAMES_SAME] = same, [AC_NAMES_UNET_LDM] = unet_ldm,   [AC_NAMES_VAE] = vae,     [AC_NAMES_VAE_LDM] = vae_ldm,
    [AC_NAMES_CLIP] = clip, [AC_NAMES_OPEN_CLIP] = open_clip, [AC_NAMES_TAESD] = taesd,
    [AC_NAMES_CLIP_IMAGE] = clip_image,
};

/* Reads a number without superfluous zeros at *s; -1 when there is none. */
static int read_number(const char **s)
{
    const char *p = *s;
    int v = 0;

    if (*p < '0' || *p > '9' || (*p == '0' && p[1] >= '0' && p[1] <= '9'))
        return -1;
    for (; *p >= '0' && *p <= '9'; p++)
        if ((v = v * 10 + (*p - '0')) > NUMBER_MAX)
            return -1;
    *s = p;
    return v;
}

const char *ac_name_match(const char *pattern, const char *name, int idx[2])
{
    int n = 0;

    if (!*pattern)
        return name;
    for (; *pattern; pattern++) {
        if (*pattern == '#') {
            int v = read_number(&name);
            if (v < 0)
                return NULL;
            idx[n++] = v;
        } else if (*name++ != *pattern) {
            return NULL;
        }
    }
    return *name == '\0' || *name == '.' ? name : NULL;
}

/* Writes the stem with its numbers, '.' and leaf when there is one, and the rest of the name. */
static bool render(char buf[AC_NAME_MAX], const char *stem, const int idx[2], const char *lf, const char *rest)
{
    size_t n = 0;
    int k = 0, len;

    for (; *stem && n < AC_NAME_MAX; stem++) {
        if (*stem == '#')
            n += (size_t)snprintf(buf + n, AC_NAME_MAX - n, "%d", idx[k++]);
        else
            buf[n++] = *stem;
    }
    if (n >= AC_NAME_MAX)
        return false;
    len = snprintf(buf + n, AC_NAME_MAX - n, "%s%s%s", lf ? "." : "", lf ? lf : "", rest);
    return len >= 0 && (size_t)len < AC_NAME_MAX - n;
}

/* ---------------------------------------------------------------------------------------------- structure */

/* Sets of block numbers; models have far fewer than 64 blocks. */
static uint64_t bit(int i)
{
    return i < 64 ? UINT64_C(1) << i : 0;
}

/* Residual layers of a down block. ldm counts them with the downsampler that ends the block; a UNet of one level has
 * none, and then the last input block tells. */
static int layers_of(const ac_names *n)
{
    return n->first_op ? n->first_op - 1 : n->blocks;
}

/* Does up_blocks.<block> have attentions, told by either side's names? */
static bool attention_above(const ac_names *n, int block)
{
    return ((n->up_attention & bit(block)) | (n->out_attention & bit((layers_of(n) + 1) * block))) != 0;
}

static void learn_max(int *field, int value)
{
    if (*field < value)
        *field = value;
}

void ac_names_learn(ac_names *n, const char *name)
{
    int i[2] = {0};

    if (ac_name_match("input_blocks.#.0.op", name, i) && (!n->first_op || i[0] < n->first_op))
        n->first_op = i[0];
    else if (ac_name_match("input_blocks.#", name, i))
        learn_max(&n->blocks, i[0]);
    else if (ac_name_match("output_blocks.#.1.norm", name, i))
        n->out_attention |= bit(i[0]);
    else if (ac_name_match("down_blocks.#.resnets.#", name, i))
        learn_max(&n->blocks, i[1] + 1);
    else if (ac_name_match("up_blocks.#.attentions.#", name, i))
        n->up_attention |= bit(i[0]);
    else if (ac_name_match("encoder.down.#", name, i) || ac_name_match("decoder.up.#", name, i) ||
             ac_name_match("encoder.down_blocks.#", name, i) || ac_name_match("decoder.up_blocks.#", name, i))
        learn_max(&n->levels, i[0] + 1);
}

/* Numbers c of a canonical name to numbers s of the stored one; false: no such block. */
static bool index_to_stored(const ac_names *n, index_map map, const int c[2], int s[2])
{
    int per = layers_of(n) + 1;

    s[0] = c[0], s[1] = c[1];
    switch (map) {
    case IDX_SAME:
        return true;
    case IDX_DOWN:
        s[0] = per * c[0] + c[1] + 1;
        return c[1] < per - 1;
    case IDX_DOWNSAMPLE:
        s[0] = per * (c[0] + 1);
        return true;
    case IDX_UP:
        s[0] = per * c[0] + c[1];
        return c[1] < per;
    case IDX_UPSAMPLE:
        s[0] = per * c[0] + per - 1;
        s[1] = attention_above(n, c[0]) ? 2 : 1;
        return true;
    case IDX_FLIP:
        s[0] = n->levels - 1 - c[0];
        return s[0] >= 0;
    case IDX_BEHIND:
        s[0] = c[0] + 1;
        return true;
    }
    return false;
}

/* The inverse of index_to_stored. */
static bool index_to_canonical(const ac_names *n, index_map map, const int s[2], int c[2])
{
    int per = layers_of(n) + 1;

    c[0] = s[0], c[1] = s[1];
    switch (map) {
    case IDX_SAME:
        return true;
    case IDX_DOWN:
        c[0] = (s[0] - 1) / per, c[1] = (s[0] - 1) % per;
        return s[0] > 0 && c[1] < per - 1;
    case IDX_DOWNSAMPLE:
        c[0] = s[0] / per - 1;
        return s[0] > 0 && s[0] % per == 0;
    case IDX_UP:
        c[0] = s[0] / per, c[1] = s[0] % per;
        return true;
    case IDX_UPSAMPLE:
        c[0] = s[0] / per;
        return s[0] % per == per - 1 && s[1] == (attention_above(n, c[0]) ? 2 : 1);
    case IDX_FLIP:
        c[0] = n->levels - 1 - s[0];
        return c[0] >= 0;
    case IDX_BEHIND:
        c[0] = s[0] - 1;
        return s[0] > 0;
    }
    return false;
}

/* -------------------------------------------------------------------------------------------- translation */

static int leaf_third(const leaf *l)
{
    return l->kind >= LEAF_Q ? (int)l->kind - LEAF_Q : 0;
}

/* The leaf that `rest` (".conv1.weight") begins with on one side; *tail: what follows it. NULL: none. */
static const leaf *find_leaf(const leaf *l, bool stored, int third, const char *rest, const char **tail)
{
    int unused[2];

    if (*rest != '.')
        return NULL;
    for (; l->canonical; l++) {
        *tail = ac_name_match(stored ? l->stored : l->canonical, rest + 1, unused);
        if (*tail && (!stored || l->kind < LEAF_Q || leaf_third(l) == third))
            return l;
    }
    return NULL;
}

/* One table, read from the `stored` side to the canonical one, or the other way. */
static bool translate(const ac_names *n, bool stored, const char *name, int third, ac_renamed *out)
{
    for (const line *t = tables[n->scheme]; t->canonical; t++) {
        int from[2] = {0}, to[2] = {0};
        const char *rest = ac_name_match(stored ? t->stored : t->canonical, name, from);
        const leaf *l = NULL;

        if (!rest || (t->leaves && !(l = find_leaf(t->leaves, stored, third, rest, &rest))))
            continue;
        if (!(stored ? index_to_canonical : index_to_stored)(n, t->index, from, to))
            continue;
        out->third = l ? leaf_third(l) : 0;
        out->thirds = l && l->kind >= LEAF_Q ? 3 : 1;
        out->transpose = t->transpose;
        out->pointwise = l && l->kind == LEAF_POINTWISE;
        if (out->thirds == 1 && third)
            return false;
        return render(out->name, stored ? t->canonical : t->stored, to, l ? (stored ? l->canonical : l->stored) : NULL,
                      rest);
    }
    return false;
}

bool ac_name_canonical(const ac_names *n, const char *stored, int third, ac_renamed *out)
{
    return translate(n, true, stored, third, out);
}

bool ac_name_stored(const ac_names *n, const char *canonical, ac_renamed *out)
{
    return translate(n, false, canonical, 0, out);
}

#define LISTED 8 /* names of a list that are spelled out */

void ac_name_list_add(ac_name_list *list, const char *name)
{
    if (list->n++ < LISTED)
        ac_str_addf(&list->text, "%s%s", list->n > 1 ? ", " : "", name);
}

const char *ac_name_list_text(ac_name_list *list)
{
    if (list->n > LISTED)
        ac_str_addf(&list->text, " and %zu more", list->n - LISTED);
    return list->text.p && !list->text.failed ? list->text.p : "";
}
