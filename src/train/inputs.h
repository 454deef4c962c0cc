/* inputs.h - what frozen networks make of a batch: latents of its pictures, text states of its captions. */
#ifndef AC_INPUTS_H
#define AC_INPUTS_H

#include "train/memo.h"
#include "train/train.h"

/* Identity of a part's weights: a hash over the names and values of its tensors. */
void ac_part_hash(const addcl_model *m, ac_part_id id, char hex[65]);
/* A store of tensors of n floats in the run's cache, if it keeps one: what the network of that hash made. */
int ac_memo_open(ac_training *r, const char *kind, const char *network, size_t n, ac_memo **out) AC_CHECK_RESULT;

typedef struct ac_latents {
    ac_training *r;
    ac_memo *memo;
    ac_stage stage; /* the encoder; made at the first picture that is not known */
    int B, h, w, C; /* of a batch of latents */
    size_t n;       /* floats of one */
    float *image, *moments; /* of a batch */
} ac_latents;

/* For batches of B pictures of the data set's resolution. */
int ac_latents_open(ac_training *r, int B, ac_latents *l) AC_CHECK_RESULT;
void ac_latents_close(ac_latents *l);
/* Latents as the UNet sees them, (mean - shift) scaling, of the batch's pictures: out [b->n,h,w,C]. */
int ac_latents_get(ac_latents *l, const ac_batch *b, float *out) AC_CHECK_RESULT;

/* Token ids of a caption, padded to n; a longer one is cut. */
int ac_caption_ids(ac_training *r, const char *caption, int n, int32_t *ids) AC_CHECK_RESULT;

typedef struct ac_states {
    ac_training *r;
    ac_memo *memo;
    ac_stage stage[2]; /* text encoders, made when first needed */
    int T, context, pooled; /* tokens, width of the joined states, of the pooled text (SDXL) */
    size_t n;               /* floats of one: T context + pooled */
} ac_states;

int ac_states_open(ac_training *r, int T, ac_states *s) AC_CHECK_RESULT;
void ac_states_close(ac_states *s);
/* States [T,context] and, with SDXL, the pooled text [pooled] of a caption. */
int ac_states_get(ac_states *s, const char *caption, float *states, float *pooled) AC_CHECK_RESULT;

#endif
