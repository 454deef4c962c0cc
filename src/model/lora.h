/* lora.h - LoRA files: which low-rank update belongs to which module of a model. Merging is done elsewhere. */
#ifndef AC_LORA_H
#define AC_LORA_H

#include "io/safetensors.h"

/* Names of a part's weights in the base model: canonical, with ".weight" (others are passed over). */
typedef struct ac_lora_base {
    const char *part; /* "unet" "text_encoder" "text_encoder_2"; must outlive the ac_lora */
    const char *const *names;
    size_t n;
} ac_lora_base;

/* W += multiplier * scale * up . down, W being the weight of part/module. */
typedef struct ac_lora_delta {
    const char *part;
    char *module;             /* canonical name without ".weight"; owned by the ac_lora */
    const ac_st_tensor *down; /* [r,in] or, of a convolution, [r,in,R,S] */
    const ac_st_tensor *up;   /* [out,r] or [out,r,1,1] */
    double scale;             /* alpha / r; 1 where no alpha is given */
} ac_lora_delta;

typedef struct ac_lora {
    ac_st *st;
    ac_lora_delta *delta; /* in the order of the base's names */
    size_t n;
} ac_lora;

/* Opens a LoRA file in kohya's naming (modules spelled like diffusers' or, for SDXL, like sgm's), peft's, or that of
 * older diffusers, and finds the module of every entry. An error lists entries that fit no module of the base; kinds of
 * updates other than plain LoRA are E_UNSUPPORTED. */
AC_CHECK_RESULT int ac_lora_open(const char *path, const ac_lora_base *base, size_t n_base, ac_diag *dg, ac_lora **out);
void ac_lora_close(ac_lora *lora);

#endif
