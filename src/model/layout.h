/* layout.h - where each tensor of a model lies in a weight file.
 *
 * Recognises whole checkpoints in one file (ldm and sgm: Stable Diffusion 1, 2, XL and models of that build) and files
 * of one part (diffusers, ldm without prefix, TAESD, DINOv2, CLIP's image tower) by their tensor names; sizes are never
 * assumed, they follow from the file. Everything else in the program asks by part and canonical name (names.h). */
#ifndef AC_LAYOUT_H
#define AC_LAYOUT_H

#include <jansson.h>
#include "base/half.h"
#include "io/safetensors.h"
#include "model/names.h"

/* A canonical tensor: some rows of a stored one. */
typedef struct ac_source {
    const char *part; /* "unet" "vae" "text_encoder" "text_encoder_2" "taesd" "image_encoder" */
    char *name;       /* canonical */
    const ac_st_tensor *t;
    int64_t row, rows; /* first row and number of rows in dimension 0 of t; 0 and 1 for a scalar */
    bool transpose;    /* t holds [in,out], the canonical tensor is [out,in] */
    bool used;         /* somebody asked for it */
    int dims;          /* canonical shape */
    int64_t dim[AC_ST_DIMS];
} ac_source;

/* One naming in the file. */
typedef struct ac_layout_part {
    const char *part;
    const char *prefix; /* of the stored names */
    ac_names names;
} ac_layout_part;

#define AC_LAYOUT_PARTS 10 /* more than there are known prefixes */

typedef struct ac_layout {
    const ac_st *st; /* borrowed */
    char *path;      /* of the file, for messages and for what its name tells */
    bool whole;      /* names carry prefixes: a checkpoint of several parts */
    ac_layout_part parts[AC_LAYOUT_PARTS];
    int n_parts;
    ac_source *src; /* sorted by part and name */
    size_t n;
} ac_layout;

/* Finds out what an opened file holds. `part` NULL: whatever it is. Else only that part is wanted: of a file that holds
 * one part under names without prefix (text_encoder and text_encoder_2 look alike) or of a whole checkpoint. Tensors
 * that programs leave behind (EMA copies, schedule tables, position_ids, the unused last layer of SD 2's text encoder,
 * ...) are passed over; others without a place are an error that lists them, as are models of other kinds. `st` must
 * outlive the layout. */
AC_CHECK_RESULT int ac_layout_detect(const ac_st *st, const char *path, const char *part, ac_diag *dg, ac_layout **out);
void ac_layout_free(ac_layout *l);

bool ac_layout_has(const ac_layout *l, const char *part);
/* NULL: there is none. */
const ac_source *ac_layout_find(const ac_layout *l, const char *part, const char *name);
/* Finds a tensor, checks its shape and marks it as used; the error names it as stored. dims < 0: any shape. */
AC_CHECK_RESULT int ac_layout_get(ac_layout *l, const char *part, const char *name, int dims, const int64_t *dim,
                                  ac_diag *dg, const ac_source **out);
/* After everything a model needs was asked for: an error that lists the part's tensors nobody wanted. */
AC_CHECK_RESULT int ac_layout_check_used(const ac_layout *l, const char *part, ac_diag *dg);

/* "sd1" "sd2" "sdxl" by the width of the text that the UNet attends to; "custom": another width, or no UNet. */
const char *ac_layout_family(const ac_layout *l);

/* Copies a tensor in canonical shape and order to dst (dense), converted to `type`. */
void ac_source_read(const ac_source *s, ac_type type, void *dst);
/* The storage type itself for f16, bf16 and f32; f32 for f64. */
ac_type ac_source_type(const ac_source *s);
int64_t ac_source_count(const ac_source *s); /* number of elements */

/* The weight file of a diffusers part folder, in new memory: diffusion_pytorch_model or model, .fp16 variants and shard
 * indexes included, the plain full one first. Formats that are not read (.bin, .ckpt) are named in the error. */
AC_CHECK_RESULT int ac_layout_weights(const char *dir, ac_diag *dg, char **path);

/* Is there a weight file, of whatever format? */
AC_CHECK_RESULT int ac_layout_has_weights(const char *dir, ac_diag *dg, bool *has);

/* Keys of __metadata__ in single files that add-cl wrote. */
#define AC_META_CONFIG "add_cl.config" /* JSON object in the form of ac_layout_configs */
#define AC_META_VOCAB                                                                                                  \
    "add_cl.vocab" /* text of tokenizer/vocab.json and merges.txt, unless CLIP's own; _2: tokenizer_2 */
#define AC_META_MERGES   "add_cl.merges"
#define AC_META_VOCAB_2  "add_cl.vocab_2"
#define AC_META_MERGES_2 "add_cl.merges_2"

/* The configuration files of a diffusers folder, as one object: "model_index", "scheduler", "tokenizer"
 * (tokenizer_config), "special_tokens", and the parts in the file, each equal in meaning to its JSON file. From
 * AC_META_CONFIG when the file has it, else inferred from names and shapes, and the file name (turbo, lightning, lcm).
 * Left out when unknown: scheduler.prediction_type, and vae.scaling_factor of a VAE without UNet. The caller owns *out.
 */
AC_CHECK_RESULT int ac_layout_configs(const ac_layout *l, ac_diag *dg, json_t **out);

#endif
