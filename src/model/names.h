/* names.h - translation of tensor names between the naming schemes of checkpoints, in both directions.
 *
 * The canonical name of a tensor is the one diffusers and transformers give it within its part ("unet", "vae",
 * "text_encoder", "text_encoder_2", "taesd", "image_encoder"); CLIP's encoders always with `text_model.` and
 * `vision_model.`. Names of the other schemes number their blocks through, so translating needs a part's structure;
 * ac_names_learn collects it from the names themselves. */
#ifndef AC_NAMES_H
#define AC_NAMES_H

#include "base/mem.h"

#define AC_NAME_MAX 256 /* longest translated name, NUL included */

typedef enum ac_scheme {
    AC_NAMES_SAME,      /* canonical: diffusers' UNet and AutoencoderTiny, DINOv2 */
    AC_NAMES_UNET_LDM,  /* input_blocks, middle_block, output_blocks of ldm and sgm */
    AC_NAMES_VAE,       /* diffusers' AutoencoderKL; attentions of before 0.18 accepted */
    AC_NAMES_VAE_LDM,   /* ldm: decoder.up counts from the image */
    AC_NAMES_CLIP,      /* transformers' CLIPTextModel; with or without text_model. */
    AC_NAMES_OPEN_CLIP, /* open_clip: resblocks, fused q|k|v, projection as [in,out] */
    AC_NAMES_TAESD,     /* TAESD's own: numbers of an nn.Sequential */
    AC_NAMES_CLIP_IMAGE /* transformers' CLIPVisionModel; with or without vision_model. */
} ac_scheme;

/* A scheme and what ac_names_learn found out; zero all but the scheme to begin. */
typedef struct ac_names {
    ac_scheme scheme;
    int blocks;             /* UNet: layers of a block, from canonical names; last input block, from ldm names */
    int first_op;           /* UNet, ldm: number of the first downsampling input block; 0: none seen */
    uint64_t up_attention;  /* UNet: bit i: up_blocks.i has attentions */
    uint64_t out_attention; /* UNet, ldm: bit n: output_blocks.n has attention */
    int levels;             /* VAE: resolutions */
} ac_names;

typedef struct ac_renamed {
    char name[AC_NAME_MAX];
    int third;      /* which third of the rows of the stored tensor belongs to the canonical one */
    int thirds;     /* 3: stored as q|k|v; 1: stored alone */
    bool transpose; /* stored as [in,out], canonical as [out,in] */
    bool pointwise; /* canonical [K,C], stored as 1x1 convolution [K,C,1,1] (accepted: either) */
} ac_renamed;

/* Notes what `name` (stored without its prefix, or canonical) tells about the structure. */
void ac_names_learn(ac_names *n, const char *name);
/* Canonical name of a stored tensor (name without prefix). `third` 0, 1, 2 asks for q, k, v of a fused tensor: call
 * with 0 first and look at out->thirds. False: the scheme has no such name. */
bool ac_name_canonical(const ac_names *n, const char *stored, int third, ac_renamed *out);
/* The other way. For schemes that accept several spellings: the modern one. */
bool ac_name_stored(const ac_names *n, const char *canonical, ac_renamed *out);

/* Matches a name's beginning with a pattern of literal text in which each '#' stands for a number (at most two); idx
 * receives the numbers. Returns the rest, which is empty or begins with '.'; NULL: no match. */
const char *ac_name_match(const char *pattern, const char *name, int idx[2]);

/* Names for an error message: the first 8 are kept as text, all are counted. Free with ac_str_free(&list->text). */
typedef struct ac_name_list {
    ac_str text;
    size_t n;
} ac_name_list;
void ac_name_list_add(ac_name_list *list, const char *name);
/* The text ("a, b and 3 more"); "" when empty or out of memory. */
const char *ac_name_list_text(ac_name_list *list);

#endif
