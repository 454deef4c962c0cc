/* api_sample.h - a run of addcl_sample: what was asked, resolved against the model, and what it works on. */
#ifndef AC_API_SAMPLE_H
#define AC_API_SAMPLE_H

#include "api_internal.h"
#include "base/rng.h"

/* Options with every default filled in. */
typedef struct ac_choice {
    const addcl_sample_opts *o;
    int count, batch, width, height, h, w; /* h, w: latent size */
    double cfg;
    bool guided;
    int64_t seed;
    ac_rng_kind rng;
    ac_sampler *sampler; /* owned */
    int steps;
    int tile; /* latent pixels of a decoder tile; 0: the whole image at once */
    int tile_step;
} ac_choice;

/* What the text encoders made of one text. */
typedef struct ac_text {
    float *states; /* [T, context] */
    float *pooled; /* [pooled] or NULL */
} ac_text;

typedef struct ac_job {
    addcl_model *m;
    addcl_ctx *ctx;
    ac_choice c;
    ac_nets nets;
    addcl_sample_result r;
    ac_text *text;   /* distinct texts, the negative prompt first */
    const char **texts;
    size_t n_texts;
    int *prompt_of;  /* index into text, by prompt */
    float *latents;  /* [count, h, w, C] */
} ac_job;

/* Checks the options and fills in the model's defaults. The choice is freed with ac_choice_free. */
int ac_choose(addcl_model *m, const addcl_sample_opts *o, ac_choice *c) AC_CHECK_RESULT;
void ac_choice_free(ac_choice *c);
/* Decides about tiles from the decoder's plan. */
int ac_choose_tiles(const ac_nets *n, const addcl_sample_opts *o, ac_choice *c, ac_plan_info *info) AC_CHECK_RESULT;
/* Finds out by a probe whether the network predicts noise or v, when the files do not tell. */
int ac_probe_prediction(addcl_model *m) AC_CHECK_RESULT;

/* ---- the stages of a run (api_job.c) */
int ac_job_text(ac_job *r) AC_CHECK_RESULT;
int ac_job_unet(ac_job *r) AC_CHECK_RESULT;
int ac_job_decode(ac_job *r) AC_CHECK_RESULT;
void ac_job_free(ac_job *r);

/* [h,w,C] <-> [C,h,w], n images. */
void ac_to_nhwc(float *dst, const float *src, int n, int C, int h, int w);
void ac_to_nchw(float *dst, const float *src, int n, int C, int h, int w);

#endif
