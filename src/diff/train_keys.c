/* train_keys.c - the table of the keys of a training run.
 *
 * Names follow diffusers' and kohya's training scripts where these have the thing. */
#include "diff/train_keys.h"

#include <stdio.h>
#include <string.h>

/* Methods that make students of few steps. */
#define STUDENTS "add|gan|ladd|lcm|progressive|reflow"

/* Behind the default come the meaning and any of the fields below. */
#define KEY(type_, section_, name_, fallback_, ...)                                                                    \
    {                                                                                                                  \
        .section = #section_, .name = #name_, .type = AC_KEY_##type_, .at = offsetof(ac_train_cfg, section_.name_),    \
        .fallback = fallback_, .meaning = __VA_ARGS__                                                                  \
    }
#define RANGE(from, to) .min = from, .max = to
#define ANY             1e300 /* no upper limit */
#define UNIT(text)      .unit = text
#define FOR(list)       .methods = list
#define WORDS(list)     .words = list
#define SHOWN(text)     .shown = text
#define STUDENT(text)   .student = text
#define REQUIRED        NULL

const char *const ac_key_sections[][2] = {
    {"run", "what is trained, where to, for how long"},
    {"model", "the networks: a model to go on from, or configurations to begin with"},
    {"data", "pictures and captions"},
    {"optimizer", "steps of the parameters"},
    {"loss", "what is minimised"},
    {"discriminator", "features of a frozen network, heads that judge them, and their optimiser"},
    {"distillation", "what the student learns from the teacher"},
    {"validation", "held-out loss and sample pictures on the way"},
    {"checkpoint", "saving and resuming"},
};
const size_t ac_n_key_sections = AC_LEN(ac_key_sections);

const char *ac_key_default(const ac_key *k, const char *method)
{
    return k->student && method && ac_key_word(STUDENTS, method) >= 0 ? k->student : k->fallback;
}

const ac_key ac_keys[] = {
    KEY(WORD, run, method, REQUIRED,
        "what is trained: an autoencoder, a text-to-image diffusion model, an image and a text tower contrastively, or a "
        "student of few steps by adversarial diffusion distillation, by adversaries alone, by those in latents, by consistency, "
        "by halving steps, or from pairs of noise and the teacher's pictures",
        WORDS("vae|diffusion|clip|" STUDENTS)),
    KEY(PATH, run, output_dir, REQUIRED, "run folder: log, samples, checkpoints, and in the end the model"),
    KEY(PATH, run, base_dir, "", "folder that relative paths start from", SHOWN("the folder of the INI file")),
    KEY(INT, run, seed, "0", "start of all random numbers: first weights, order of the data, crops, captions, noise",
        RANGE(0, ANY)),
    KEY(TEXT, run, device, "", "device that computes, see 'add-cl devices'",
        SHOWN("$ADDCL_DEVICE, else the best usable one")),
    KEY(INT, run, max_train_steps, "10000", "length of the run, and of the learning rate's schedule", RANGE(1, 1e9),
        UNIT("steps")),
    KEY(TIME, run, max_train_time, "0", "saves and ends after this time; a resumed run gets it anew. 0: no limit",
        RANGE(0, 1e9)),
    KEY(INT, run, report_steps, "10", "interval of log rows and progress lines", RANGE(1, 1e9), UNIT("steps")),
    KEY(INT, run, max_bad_steps, "20",
        "steps in a row without a finite loss and gradient, which are skipped, that end "
        "the run",
        RANGE(1, 1e9), UNIT("steps")),
    KEY(BOOL, run, tensorboard, "yes", "write TensorBoard event files, too"),

    KEY(PATH, model, pretrained_model, "", "model to go on from: a diffusers folder or a single .safetensors file",
        SHOWN("none")),
    KEY(PATH, model, config, "",
        "folder of configurations to begin from scratch with: config.json for one network, or "
        "unet/config.json, vae/config.json ... as in a diffusers folder",
        SHOWN("none")),
    KEY(PATH, model, unet, "", "UNet from elsewhere: folder or .safetensors file", SHOWN("the model's"),
        FOR("diffusion|" STUDENTS)),
    KEY(PATH, model, vae, "", "autoencoder from elsewhere: folder or .safetensors file", SHOWN("the model's"),
        FOR("vae|diffusion|" STUDENTS)),
    KEY(PATH, model, text_encoder, "", "text encoder from elsewhere: folder or .safetensors file", SHOWN("the model's"),
        FOR("diffusion|clip|" STUDENTS)),
    KEY(PATH, model, tokenizer, "", "tokenizer from elsewhere: folder with vocab.json and merges.txt",
        SHOWN("the model's"), FOR("diffusion|clip|" STUDENTS)),
    KEY(PATH, model, scheduler, "", "noise schedule from elsewhere: folder with scheduler_config.json",
        SHOWN("the model's"), FOR("diffusion|" STUDENTS)),
    KEY(WORD, model, prediction_type, "model",
        "what the UNet predicts; model: what the noise schedule's configuration "
        "says",
        WORDS("model|epsilon|v_prediction|sample"), FOR("diffusion")),
    KEY(BOOL, model, train_text_encoder, "no", "train the text encoder together with the UNet", FOR("diffusion")),
    KEY(INT, model, lora_rank, "0", "train updates of this rank to the UNet's linear layers (LoRA), not its weights; 0: the weights",
        RANGE(0, 4096), FOR("diffusion|" STUDENTS)),
    KEY(NUM, model, lora_alpha, "0", "the updates count alpha / rank times; 0: once", RANGE(0, 1e6), FOR("diffusion|" STUDENTS)),
    KEY(BOOL, model, gradient_checkpointing, "no",
        "compute activations again in the backward pass instead of keeping "
        "them: less memory, about a third more time"),
    KEY(INT, model, vit_image_size, "0", "side of the pictures that the image tower sees; 0: data.resolution",
        RANGE(0, 4096), UNIT("pixels"), FOR("clip")),
    KEY(INT, model, vit_patch_size, "8", "side of a patch", RANGE(1, 256), UNIT("pixels"), FOR("clip")),
    KEY(INT, model, vit_hidden_size, "192", "width of the image tower", RANGE(1, 16384), FOR("clip")),
    KEY(INT, model, vit_layers, "12", "blocks of the image tower", RANGE(1, 64), FOR("clip")),
    KEY(INT, model, vit_heads, "3", "attention heads of the image tower", RANGE(1, 256), FOR("clip")),
    KEY(INT, model, vit_mlp_ratio, "4", "width of the image tower's feed-forward layers, as a multiple of its own",
        RANGE(1, 64), FOR("clip")),
    KEY(INT, model, text_hidden_size, "192", "width of the text tower", RANGE(1, 16384), FOR("clip")),
    KEY(INT, model, text_layers, "6", "blocks of the text tower", RANGE(1, 256), FOR("clip")),
    KEY(INT, model, text_heads, "3", "attention heads of the text tower", RANGE(1, 256), FOR("clip")),
    KEY(INT, model, text_tokens, "77", "tokens of a caption, longer ones are cut", RANGE(3, 4096), UNIT("tokens"),
        FOR("clip")),
    KEY(INT, model, projection_dim, "192", "size of the embeddings that are compared", RANGE(1, 16384), FOR("clip")),

    KEY(PATHS, data, train_data_dir, REQUIRED,
        "folders with metadata.jsonl (imagefolder) or with x.txt beside x.png "
        "(kohya), and .tar shards (webdataset), such as shards/{000..012}.tar"),
    KEY(PATH, data, validation_list, "",
        "list of held-out samples: file names in a text file, or a .json file with "
        "\"file_names\" or \"labels\"",
        SHOWN("none")),
    KEY(PATH, data, exclude_list, "", "list of samples that are not used at all, in the same forms", SHOWN("none")),
    KEY(TEXT, data, filter, "",
        "conditions that samples must all meet: field=pattern, field!=pattern, ... with * and ?", SHOWN("none")),
    KEY(TEXT, data, subsample, "", "field=pattern:share, ...: of samples that match, an epoch shows only this share",
        SHOWN("all")),
    KEY(INT, data, resolution, "512", "side of the pictures", RANGE(8, 4096), UNIT("pixels")),
    KEY(WORD, data, fit, "crop",
        "what makes pictures square: cut out the middle or a random part, pad with the "
        "background, or stretch",
        WORDS("crop|random_crop|pad|stretch")),
    KEY(INTS, data, background, "255, 255, 255", "red, green, blue behind transparent and padded pictures",
        RANGE(0, 255)),
    KEY(BOOL, data, random_flip, "no", "show every second picture mirrored, drawn anew each epoch"),
    KEY(TEXT, data, caption, "{text}",
        "captions: weight * template | weight * template ...; {field} is a field of the "
        "sample, {tags:1-3} one to three of a list's elements",
        FOR("diffusion|clip|" STUDENTS)),
    KEY(TEXT, data, caption_values, "", "field=value:text, ...: this value of this field is written so in captions",
        SHOWN("none"), FOR("diffusion|clip|" STUDENTS)),
    KEY(INT, data, max_token_length, "0",
        "tokens of a caption, longer ones are cut; 0: as many as the text encoder takes", RANGE(0, 4096),
        UNIT("tokens"), FOR("diffusion|" STUDENTS)),
    KEY(NUM, data, caption_dropout, "0.1", "share of captions replaced by the empty one, which guidance needs",
        RANGE(0, 1), FOR("diffusion")),
    KEY(INT, data, train_batch_size, "16", "pictures in a step of one rank, before accumulation", RANGE(1, 65536)),
    KEY(INT, data, dataloader_threads, "1", "threads that read pictures ahead", RANGE(1, 64)),
    KEY(INT, data, image_cache, "512", "memory for decoded pictures", RANGE(0, 1e6), UNIT("MiB")),
    KEY(BOOL, data, cache_latents, "yes", "keep the autoencoder's latents and the frozen text encoder's states on disk",
        FOR("diffusion|" STUDENTS)),
    KEY(PATH, data, cache_dir, "", "folder for these", SHOWN("cache in output_dir"), FOR("diffusion|" STUDENTS)),

    KEY(WORD, optimizer, optimizer, "adamw", "adamw: weight decay apart from the gradient; adam: within it",
        WORDS("adamw|adam")),
    KEY(NUM, optimizer, learning_rate, "1e-4", "peak learning rate", RANGE(0, 10)),
    KEY(FACTORS, optimizer, lr_groups, "",
        "pattern:factor, ...: learning rates of parameters by name, as multiples, such as "
        "text_encoder.*:0.1",
        RANGE(0, 1000), SHOWN("one rate for all")),
    KEY(WORD, optimizer, lr_scheduler, "constant", "course of the learning rate after the warm-up",
        WORDS("constant|linear|cosine")),
    KEY(INT, optimizer, lr_warmup_steps, "0", "steps in which the learning rate rises from 0", RANGE(0, 1e9),
        UNIT("steps")),
    KEY(NUM, optimizer, lr_min_ratio, "0", "where linear and cosine end, as a share of learning_rate", RANGE(0, 1)),
    KEY(NUM, optimizer, adam_beta1, "0.9", "decay of the gradient's mean", RANGE(0, 0.999999)),
    KEY(NUM, optimizer, adam_beta2, "0.999", "decay of the squared gradient's mean", RANGE(0, 0.999999999)),
    KEY(NUM, optimizer, adam_epsilon, "1e-8", "added to the root of the squared gradient's mean", RANGE(1e-30, 1)),
    KEY(NUM, optimizer, adam_weight_decay, "0.01", "weight decay of all parameters", RANGE(0, 10)),
    KEY(NUM, optimizer, max_grad_norm, "1", "length to which a longer gradient of all parameters is cut; 0: never",
        RANGE(0, ANY)),
    KEY(INT, optimizer, gradient_accumulation_steps, "1", "batches whose gradients make one step", RANGE(1, 65536)),
    KEY(NUM, optimizer, ema_decay, "0.999",
        "decay of the moving average of the parameters, which is what is exported; "
        "0: none",
        RANGE(0, 0.999999999)),
    KEY(BOOL, optimizer, ema_ramp, "yes", "let the decay of step k begin small: at most (1 + k) / (10 + k)"),

    KEY(NUM, loss, l1_weight, "1", "weight of the mean absolute error", RANGE(0, 1e6), FOR("vae")),
    KEY(NUM, loss, l2_weight, "0", "weight of the mean squared error", RANGE(0, 1e6), FOR("vae")),
    KEY(NUM, loss, edge_weight, "0.5", "weight of the mean absolute error of differences between neighbouring pixels",
        RANGE(0, 1e6), FOR("vae")),
    KEY(NUM, loss, kl_weight, "1e-6", "weight of the latents' divergence from the normal distribution, a picture's sum",
        RANGE(0, 1e6), FOR("vae")),
    KEY(NUM, loss, adversarial_weight, "0",
        "weight of a discriminator's verdict on the decoded picture, a constant one; the discriminator learns along, "
        "at a rate of its own with lr_groups = discriminator.*:factor; 0: none",
        RANGE(0, 1e6), FOR("vae")),
    KEY(INT, loss, adversarial_start, "0",
        "steps, skipped ones not counted, before the discriminator takes part and learns", RANGE(0, 1e9), UNIT("steps"),
        FOR("vae")),
    KEY(WORD, loss, loss_weighting, "none",
        "weight of the squared error at signal-to-noise ratio S: min_snr: min(S, g) "
        "/ S (v: / (S + 1)); capped_snr: min(1, g / (S + 1)); g is snr_gamma",
        WORDS("none|min_snr|capped_snr"), FOR("diffusion")),
    KEY(NUM, loss, snr_gamma, "5", "g of loss_weighting", RANGE(1e-6, 1e6), FOR("diffusion")),
    KEY(BOOL, loss, zero_terminal_snr, "no", "rescale the noise schedule so that its last step is pure noise",
        FOR("diffusion")),
    KEY(BOOL, loss, stratified_timesteps, "yes", "spread the time steps of a batch evenly: less variance, same mean",
        FOR("diffusion")),
    KEY(NUM, loss, logit_scale_init, "14.2857", "factor of the cosines at the start; it is trained", RANGE(1e-3, 1e4),
        FOR("clip")),
    KEY(NUM, loss, logit_scale_max, "100", "limit of that factor", RANGE(1e-3, 1e4), FOR("clip")),

    KEY(PATH, discriminator, feature_network, "",
        "frozen image transformer: a folder with config.json and weights of DINOv2 or CLIP's image tower, or with "
        "image_encoder/ as method clip writes it",
        SHOWN("must be given"), FOR("add|gan")),
    KEY(INTS, discriminator, feature_blocks, "2, 5, 8, 11", "blocks, counted from 0, whose output a head sees",
        RANGE(0, 63), FOR("add|gan")),
    KEY(BOOL, discriminator, feature_embedding, "yes", "one more head sees the patches before the first block", FOR("add|gan")),
    KEY(BOOL, discriminator, feature_whitening, "no",
        "heads see features made uncorrelated and of variance 1 on training samples", FOR("add|gan|ladd")),
    KEY(INT, discriminator, feature_size, "0", "side that pictures are resized to for the network; 0: as they are",
        RANGE(0, 4096), UNIT("pixels"), FOR("add|gan")),
    KEY(BOOL, discriminator, text_condition, "yes", "heads know the caption's embedding", FOR("add|gan|ladd")),
    KEY(BOOL, discriminator, image_condition, "yes", "heads know the class token of the real picture", FOR("add|gan")),
    KEY(INT, discriminator, projection_dim, "64", "width of the projection by that condition", RANGE(1, 4096), FOR("add|gan|ladd")),
    KEY(INT, discriminator, virtual_batch, "8", "pictures that a batch norm takes together", RANGE(1, 4096), FOR("add|gan|ladd")),
    KEY(BOOL, discriminator, decode_real, "no", "real pictures pass the autoencoder, too: what it loses is not held against the student",
        FOR("add|gan")),
    KEY(BOOL, discriminator, diffaugment, "yes", "colours, shifts and cut-outs before the features (DiffAugment)", FOR("add|gan")),
    KEY(NUM, discriminator, r1_weight, "1e-5", "weight of the penalty on the slope of the heads at real features",
        RANGE(0, 1e6), FOR("add|gan|ladd")),
    KEY(NUM, discriminator, noise_mean, "1", "time step of the noise under which the teacher sees latents: mean of its logit", RANGE(-20, 20),
        FOR("ladd")),
    KEY(NUM, discriminator, noise_std, "1", "and the deviation of its logit", RANGE(0, 20), FOR("ladd")),
    KEY(NUM, discriminator, learning_rate, "2e-4", "peak learning rate of the heads", RANGE(0, 10), FOR("add|gan|ladd")),
    KEY(INT, discriminator, lr_warmup_steps, "0", "steps in which it rises from 0", RANGE(0, 1e9), UNIT("steps"), FOR("add|gan|ladd")),
    KEY(NUM, discriminator, adam_beta1, "0", "decay of the gradient's mean", RANGE(0, 0.999999), FOR("add|gan|ladd")),
    KEY(NUM, discriminator, adam_beta2, "0.99", "decay of the squared gradient's mean", RANGE(0, 0.999999999), FOR("add|gan|ladd")),
    KEY(NUM, discriminator, adam_weight_decay, "0", "weight decay of the heads", RANGE(0, 10), FOR("add|gan|ladd")),

    KEY(INTS, distillation, student_timesteps, "249, 499, 749, 999", "time steps at which the student learns, one that is listed twice twice as often; the last is pure noise",
        RANGE(0, 99999), FOR("add|gan|ladd")),
    KEY(WORD, distillation, student_init, "pretrained", "where the student begins: as the teacher, or at random",
        WORDS("pretrained|random"), FOR(STUDENTS)),
    KEY(NUM, distillation, adversarial_weight, "1", "weight of the discriminator's verdict; 0: none", RANGE(0, 1e6), FOR("add|gan|ladd")),
    KEY(NUM, distillation, distillation_weight, "2.5", "weight of the distance from the teacher's picture; 0: none",
        RANGE(0, 1e6), FOR("add")),
    KEY(WORD, distillation, space, "pixel", "what the distance is between: decoded pictures, or latents", WORDS("pixel|latent"),
        FOR("add")),
    KEY(WORD, distillation, weighting, "exponential",
        "weight of the distance at the teacher's time step: alpha; of score distillation; or score distillation without "
        "its noise",
        WORDS("exponential|sds|nfsd"), FOR("add")),
    KEY(INT, distillation, teacher_steps, "1", "steps in which the teacher makes its picture", RANGE(1, 8), UNIT("steps"),
        FOR("add")),
    KEY(NUM, distillation, teacher_guidance, "1", "guidance of the teacher; 1: none", RANGE(0, 1000), FOR("add|progressive|reflow")),
    KEY(NUM, distillation, nfsd_scale, "7.5", "weight of the caption in nfsd", RANGE(0, 1000), FOR("add")),
    KEY(TEXT, distillation, negative_prompt,
        "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy",
        "what nfsd leads away from", FOR("add")),
    KEY(INT, distillation, ddim_steps, "50", "steps of the teacher's DDIM, one of which the student learns to skip at a time",
        RANGE(1, 1000), UNIT("steps"), FOR("lcm")),
    KEY(NUM, distillation, lcm_guidance_min, "5", "least guidance of the teacher, drawn for each sample", RANGE(0, 1000), FOR("lcm")),
    KEY(NUM, distillation, lcm_guidance_max, "15", "most guidance of the teacher", RANGE(0, 1000), FOR("lcm")),
    KEY(WORD, distillation, lcm_target, "average", "whose picture behind the step is aimed at: the averaged student's, or the student's",
        WORDS("average|student"), FOR("lcm")),
    KEY(NUM, distillation, huber_c, "0.001", "smaller distances count by their squares (pseudo-Huber loss); 0: all do", RANGE(0, 1e6),
        FOR("lcm")),
    KEY(INT, distillation, student_steps, "4", "steps that the student takes for a picture; the teacher takes twice as many",
        RANGE(1, 500), UNIT("steps"), FOR("progressive")),
    KEY(INT, distillation, reflow_steps, "25", "steps of DDIM in which the teacher makes the pictures", RANGE(1, 1000), UNIT("steps"), FOR("reflow")),
    KEY(INT, distillation, reflow_pairs, "1", "pictures that it makes of each caption; they are kept in the cache", RANGE(1, 1e6), FOR("reflow")),

    KEY(INT, validation, validation_steps, "500",
        "interval of the loss on held-out samples, whose noise and time steps "
        "are the same each time; 0: never",
        RANGE(0, 1e9), UNIT("steps")),
    KEY(INT, validation, validation_images, "0", "held-out samples looked at; 0: all", RANGE(0, 1e9)),
    KEY(INT, validation, sample_steps, "500", "interval of sheets of sample pictures; 0: never", RANGE(0, 1e9),
        UNIT("steps"), FOR("vae|diffusion|" STUDENTS)),
    KEY(PATH, validation, validation_prompts_file, "", "text file of prompts for the samples, one a line",
        SHOWN("captions of held-out samples"), FOR("diffusion|" STUDENTS)),
    KEY(INT, validation, num_validation_images, "16", "pictures of a sheet", RANGE(1, 1024), FOR("vae|diffusion|" STUDENTS)),
    KEY(WORD, validation, sampler, "model", "sampler of the pictures; model: the model's own",
        WORDS("euler|euler_a|ddim|lcm|dpmpp_2m|model"), FOR("diffusion|" STUDENTS)),
    KEY(NUM, validation, guidance_scale, "4", "guidance of the pictures; 0 and 1: none", RANGE(0, 1000),
        STUDENT("0"), FOR("diffusion|" STUDENTS)),
    KEY(INT, validation, num_inference_steps, "25", "denoising steps of the pictures", RANGE(1, 1000), UNIT("steps"),
        STUDENT("1"), FOR("diffusion|" STUDENTS)),
    KEY(INT, validation, validation_seed, "0", "start of the random numbers of samples and held-out loss",
        RANGE(0, ANY)),

    KEY(INT, checkpoint, checkpointing_steps, "500", "interval of checkpoints; 0: only one at the end", RANGE(0, 1e9),
        UNIT("steps")),
    KEY(INT, checkpoint, checkpoints_total_limit, "3", "newest checkpoints to keep; 0: all", RANGE(0, 1e6)),
    KEY(INT, checkpoint, checkpoint_keep_every, "0",
        "checkpoints whose step is a multiple of this are kept, too; 0: "
        "none",
        RANGE(0, 1e9), UNIT("steps")),
    KEY(PATH, checkpoint, resume_from_checkpoint, "",
        "go on from the checkpoint in this folder; latest: from the newest "
        "of output_dir, if there is one",
        WORDS("latest"), SHOWN("start anew")),
    KEY(WORD, checkpoint, save_precision, "f32", "storage type of the exported model", WORDS("f32|f16|bf16")),
};
const size_t ac_n_keys = AC_LEN(ac_keys);

int ac_key_word(const char *words, const char *word)
{
    size_t n = strlen(word);
    int i = 0;

    for (const char *w = words; *w; w += strcspn(w, "|"), w += *w == '|', i++)
        if (strcspn(w, "|") == n && memcmp(w, word, n) == 0)
            return i;
    return -1;
}

/* Writes the key's range between two texts. */
static void with_range(const ac_key *k, const char *before, const char *behind, char *buf, size_t size)
{
    if (k->max >= 1e15)
        snprintf(buf, size, "%s of at least %g%s", before, k->min, behind);
    else
        snprintf(buf, size, "%s from %.12g to %.12g%s", before, k->min, k->max, behind);
}

/* "one of a, b, c" */
static void one_of(const char *words, char *buf, size_t size)
{
    size_t n = (size_t)snprintf(buf, size, "one of ");

    for (; *words && n + 2 < size; words++) {
        buf[n++] = *words == '|' ? ',' : *words;
        if (*words == '|')
            buf[n++] = ' ';
    }
    buf[n] = '\0';
}

void ac_key_expects(const ac_key *k, char *buf, size_t size)
{
    static const char *const plain[] = {
        [AC_KEY_BOOL] = "yes or no", [AC_KEY_TIME] = "a time such as 90s, 30m, 8h or 1d12h", [AC_KEY_TEXT] = "a text",
        [AC_KEY_PATH] = "a path",    [AC_KEY_PATHS] = "paths with commas between",
    };

    if (k->type == AC_KEY_INT)
        with_range(k, "a whole number", "", buf, size);
    else if (k->type == AC_KEY_NUM)
        with_range(k, "a number", "", buf, size);
    else if (k->type == AC_KEY_INTS)
        with_range(k, "whole numbers", ", with commas between", buf, size);
    else if (k->type == AC_KEY_FACTORS)
        with_range(k, "pattern:factor with commas between, each factor", "", buf, size);
    else if (k->type == AC_KEY_WORD)
        one_of(k->words, buf, size);
    else
        snprintf(buf, size, "%s%s%s", plain[k->type], k->words ? ", or " : "", k->words ? k->words : "");
}
