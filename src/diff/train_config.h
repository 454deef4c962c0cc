/* train_config.h - the configuration of a training run: an INI file, overrides, and the values they mean.
 *
 * What keys there are stands in one table (train_keys.c): a row is a field of ac_train_cfg with its type, default,
 * range, unit and meaning. Reading, checking, writing and the documentation go by the table, so a new key is a field
 * here and a row there. */
#ifndef AC_TRAIN_CONFIG_H
#define AC_TRAIN_CONFIG_H

#include "base/half.h"
#include "diff/loss.h"
#include "diff/schedule.h"
#include "io/dataset.h"

/* Lists: written with commas between. */
typedef struct ac_texts {
    const char **p;
    size_t n;
} ac_texts;
typedef struct ac_ints {
    int64_t *p;
    size_t n;
} ac_ints;
/* "pattern:factor" */
typedef struct ac_factors {
    struct ac_factor {
        const char *pattern; /* shell wildcards, matched against names of parameters */
        double factor;
    } *p;
    size_t n;
} ac_factors;

/* Values of the keys that take a word, in the order of the words in the table. */
typedef enum ac_method {
    AC_METHOD_VAE,
    AC_METHOD_DIFFUSION,
    AC_METHOD_CLIP,
    AC_METHOD_ADD,
    AC_METHOD_GAN,
    AC_METHOD_LADD,
    AC_METHOD_LCM,
    AC_METHOD_PROGRESSIVE,
    AC_METHOD_REFLOW
} ac_method;
typedef enum ac_init { AC_INIT_PRETRAINED, AC_INIT_RANDOM } ac_init;
typedef enum ac_space { AC_SPACE_PIXEL, AC_SPACE_LATENT } ac_space;
typedef enum ac_target_of { AC_TARGET_AVERAGE, AC_TARGET_STUDENT } ac_target_of;
typedef enum ac_distill { AC_DISTILL_EXPONENTIAL, AC_DISTILL_SDS, AC_DISTILL_NFSD } ac_distill;
typedef enum ac_train_predict {
    AC_TRAIN_PREDICT_MODEL, /* as the model's scheduler_config.json says */
    AC_TRAIN_PREDICT_EPS,   /* from here on: this + ac_prediction */
    AC_TRAIN_PREDICT_V,
    AC_TRAIN_PREDICT_SAMPLE
} ac_train_predict;
typedef enum ac_optimizer { AC_OPTIM_ADAMW, AC_OPTIM_ADAM } ac_optimizer;
typedef enum ac_lr_scheduler { AC_LR_CONSTANT, AC_LR_LINEAR, AC_LR_COSINE } ac_lr_scheduler;

enum { AC_SAMPLER_OF_MODEL = AC_DPMPP_2M + 1 };

/* Texts and paths are never NULL: "" is none. Paths are absolute or relative to the working directory of the process;
 * what the user wrote was relative to run.base_dir. The struct owns everything it points to. */
typedef struct ac_train_cfg {
    struct {
        ac_method method;
        const char *output_dir;
        const char *base_dir;
        int64_t seed;
        const char *device;
        int64_t max_train_steps;
        double max_train_time; /* seconds; 0: no limit */
        int64_t report_steps;
        int64_t max_bad_steps; /* in a row; then the run ends with E_DIVERGED */
        bool tensorboard;
    } run;
    struct {
        const char *pretrained_model; /* this or `config` is given, not both */
        const char *config;
        const char *unet, *vae, *text_encoder, *tokenizer, *scheduler; /* parts from elsewhere */
        ac_train_predict prediction_type;
        bool train_text_encoder;
        int64_t lora_rank; /* 0: the whole network */
        double lora_alpha; /* 0: the rank */
        bool gradient_checkpointing;
        /* method = clip, from scratch */
        int64_t vit_image_size; /* 0: data.resolution */
        int64_t vit_patch_size, vit_hidden_size, vit_layers, vit_heads, vit_mlp_ratio;
        int64_t text_hidden_size, text_layers, text_heads, text_tokens;
        int64_t projection_dim;
    } model;
    struct {
        ac_texts train_data_dir; /* paths; at least one */
        const char *validation_list, *exclude_list;
        const char *filter, *subsample;
        int64_t resolution;
        ac_fit fit;
        ac_ints background; /* R, G, B */
        bool random_flip;   /* mirrored with probability 1/2 */
        const char *caption, *caption_values;
        int64_t max_token_length; /* 0: the text encoder's */
        double caption_dropout;
        int64_t train_batch_size;
        int64_t dataloader_threads;
        int64_t image_cache; /* MiB */
        bool cache_latents;
        const char *cache_dir;
    } data;
    struct {
        ac_optimizer optimizer;
        double learning_rate;
        ac_factors lr_groups; /* the first pattern that matches a parameter's name counts; none: factor 1 */
        ac_lr_scheduler lr_scheduler;
        int64_t lr_warmup_steps;
        double lr_min_ratio; /* where linear and cosine end, as a share of learning_rate */
        double adam_beta1, adam_beta2, adam_epsilon, adam_weight_decay;
        double max_grad_norm; /* 0: no clipping */
        int64_t gradient_accumulation_steps;
        double ema_decay; /* 0: no EMA */
        bool ema_ramp;    /* decay of step k (from 0): min(ema_decay, (1 + k) / (10 + k)) */
    } optimizer;
    struct {
        double l1_weight, l2_weight, edge_weight, kl_weight, adversarial_weight;
        int64_t adversarial_start;
        ac_snr_weight loss_weighting;
        double snr_gamma;
        bool zero_terminal_snr;
        bool stratified_timesteps;
        double logit_scale_init, logit_scale_max;
    } loss;
    struct {
        const char *feature_network;
        ac_ints feature_blocks;
        bool feature_embedding, feature_whitening;
        int64_t feature_size; /* 0: that of the pictures */
        bool text_condition, image_condition;
        int64_t projection_dim, virtual_batch;
        bool decode_real, diffaugment;
        double r1_weight, noise_mean, noise_std;
        double learning_rate, adam_beta1, adam_beta2, adam_weight_decay;
        int64_t lr_warmup_steps;
    } discriminator;
    struct {
        ac_ints student_timesteps;
        ac_init student_init;
        double adversarial_weight, distillation_weight;
        ac_space space;
        ac_distill weighting;
        int64_t teacher_steps;
        double teacher_guidance, nfsd_scale;
        double lcm_guidance_min, lcm_guidance_max, huber_c;
        int64_t ddim_steps, student_steps, reflow_steps, reflow_pairs;
        ac_target_of lcm_target;
        const char *negative_prompt;
    } distillation;
    struct {
        int64_t validation_steps; /* 0: never */
        int64_t validation_images;
        int64_t sample_steps; /* 0: never */
        const char *validation_prompts_file;
        int64_t num_validation_images;
        int sampler; /* ac_sampler_kind, or AC_SAMPLER_OF_MODEL */
        double guidance_scale;
        int64_t num_inference_steps;
        int64_t validation_seed;
    } validation;
    struct {
        int64_t checkpointing_steps;        /* 0: only at the end */
        int64_t checkpoints_total_limit;    /* 0: all */
        int64_t checkpoint_keep_every;      /* 0: none */
        const char *resume_from_checkpoint; /* "", "latest", or the path of a checkpoint */
        ac_type save_precision;             /* of the exported model: f32, f16 or bf16 */
    } checkpoint;

    struct ac_train_texts *texts; /* what each key was set to, and memory of the values; train_config.c */
} ac_train_cfg;

/* Reads the INI file `ini` (NULL: none), then the overrides "section.key=value" in order. Every value is checked, and
 * that what belongs together is there. E_ARG tells "file:line: [section] key = value: what is wrong" ("--set" in place
 * of file:line); keys that the method does not use get a note. */
AC_CHECK_RESULT int ac_train_config_load(const char *ini, const char *const *set, size_t n_set, ac_diag *dg,
                                         ac_train_cfg **out);
void ac_train_config_free(ac_train_cfg *c); /* accepts NULL */

/* The configuration as an INI file with every key the method uses, explained, its values as given or by default;
 * reading it from anywhere gives the same configuration. New memory (free()). */
AC_CHECK_RESULT int ac_train_config_text(const ac_train_cfg *c, ac_diag *dg, char **text);
/* A configuration to fill in: every key of a method ("vae"; NULL: of all), commented out, with its default. */
AC_CHECK_RESULT int ac_train_config_template(const char *method, ac_diag *dg, char **text);

#endif
