/* addcl.h - the public interface of libaddcl: diffusion models on any OpenCL 1.2 device, used and trained.
 *
 * Errors      Fallible functions return 0 or a negative ADDCL_E_*; addcl_error() gives the message, one line. The library
 *             never prints, exits or aborts: a file, a driver or a full disk can only produce an error.
 * Ownership   `const char *` results are borrowed and live as long as the object asked. `T **out` results belong to the
 *             caller, are NULL on failure, and are released by the matching _free, which accepts NULL.
 * Threads     A context and everything made from it is used by one thread at a time. Contexts are independent.
 * Options     Every option struct is initialised by its ADDCL_*_OPTS_INIT macro; a field left alone means "the default".
 */
#ifndef ADDCL_H
#define ADDCL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ADDCL_API __attribute__((visibility("default")))
#define ADDCL_CHECKED __attribute__((visibility("default"), warn_unused_result))
#else
#define ADDCL_API
#define ADDCL_CHECKED
#endif

/* Error codes. After all of them but E_DEVMEM, E_CL and E_INTERNAL the context stays usable. */
enum {
    ADDCL_OK = 0,
    ADDCL_E_ARG = -1,          /* the caller's or user's option is wrong */
    ADDCL_E_NOMEM = -2,        /* host memory is short */
    ADDCL_E_DEVMEM = -3,       /* device memory is short; the context may be used for something smaller */
    ADDCL_E_CL = -4,           /* an OpenCL call failed; open a new context */
    ADDCL_E_BUILD = -5,        /* a kernel does not compile on this device */
    ADDCL_E_IO = -6,           /* a file cannot be read or written */
    ADDCL_E_FORMAT = -7,       /* a file is not what it should be */
    ADDCL_E_SHAPE = -8,        /* tensors do not fit together */
    ADDCL_E_UNSUPPORTED = -9,  /* known, and not supported */
    ADDCL_E_DIVERGED = -10,    /* a non-finite value was found */
    ADDCL_E_CANCELLED = -11,   /* the progress callback asked to stop */
    ADDCL_E_INTERNAL = -12,    /* a defect of this library */
    ADDCL_E_NODEVICE = -13     /* no usable OpenCL device */
};

/* "ADDCL_E_IO" for ADDCL_E_IO; "ADDCL_E_?" for a number that is no code. */
ADDCL_API const char *addcl_code_name(int code);
/* "add-cl" version, e.g. "0.1.0". */
ADDCL_API const char *addcl_version(void);

/* Levels of log lines. */
enum { ADDCL_LOG_ERROR, ADDCL_LOG_WARN, ADDCL_LOG_INFO, ADDCL_LOG_DEBUG };

typedef struct addcl_ctx addcl_ctx;     /* error, log, device */
typedef struct addcl_model addcl_model; /* an opened model: configurations, mapped weights, tokenizers */

/* A context without a device; touches neither OpenCL nor files. NULL only when memory is short. */
ADDCL_API addcl_ctx *addcl_new(void);
/* Frees the context; models made from it must be freed before. */
ADDCL_API void addcl_free(addcl_ctx *ctx);
/* Message of the last failed call on this context, "" when none. Borrowed; overwritten by the next failing call. */
ADDCL_API const char *addcl_error(const addcl_ctx *ctx);
/* Receiver of one-line notes (no newline at the end); NULL switches them off. */
ADDCL_API void addcl_set_log(addcl_ctx *ctx, void (*fn)(void *user, int level, const char *line), void *user);

/* Events while a long call runs. The callback returns 0 to go on, else the call ends with ADDCL_E_CANCELLED at the next
 * step (nothing half-written is left). */
typedef struct addcl_progress {
    const char *stage; /* "load" "text" "encode" "sample" "decode" "selftest" "bench" */
    int64_t done, total; /* steps of the stage */
    double seconds;      /* since the stage began */
    int image, images;   /* first image of the batch in work (0-based), number of images in all */
} addcl_progress;
typedef int (*addcl_progress_fn)(void *user, const addcl_progress *p);
ADDCL_API void addcl_set_progress(addcl_ctx *ctx, addcl_progress_fn fn, void *user);

/* ---------------------------------------------------------------------------------------------------- devices */

typedef struct addcl_device {
    int platform, index;      /* "P:D", the stable name of the device in this list */
    char type[16];            /* "gpu" "cpu" "accelerator" "other" */
    char name[128], vendor[128], driver[128], version[128];
    char platform_name[128], platform_version[128];
    uint64_t global_mem, max_alloc, local_mem; /* bytes, as the driver reports them */
    unsigned compute_units, clock_mhz, vector_width; /* vector_width: native floats */
    size_t max_work_group;
    int usable;               /* 0: `why` tells what is missing */
    char why[256];
} addcl_device;

/* Lists every device of every platform, usable or not: *n entries in *list, one block, released by addcl_devices_free.
 * No platform at all is not an error: *n is 0 and addcl_error() explains what to install. */
ADDCL_CHECKED int addcl_devices(addcl_ctx *ctx, addcl_device **list, size_t *n);
ADDCL_API void addcl_devices_free(addcl_device *list);

/* Opens the device that computes. `spec`: "P:D", "P", part of a device or platform name, "gpu", "cpu", "any"; NULL or "":
 * $ADDCL_DEVICE, else the best usable one (GPUs first). E_NODEVICE when none fits: the message lists what there is. */
ADDCL_CHECKED int addcl_open_device(addcl_ctx *ctx, const char *spec);
/* The open device; NULL before addcl_open_device. */
ADDCL_API const addcl_device *addcl_current_device(const addcl_ctx *ctx);
/* Compiles and runs a small kernel on the open device and checks its result. */
ADDCL_CHECKED int addcl_probe_device(addcl_ctx *ctx);

/* ----------------------------------------------------------------------------------------------------- models */

/* Storage of the weights on the device; arithmetic is always f32. */
typedef enum addcl_type { ADDCL_F16, ADDCL_F32, ADDCL_BF16 } addcl_type;

typedef struct addcl_lora {
    const char *path; /* a .safetensors file: kohya, peft or older diffusers naming */
    double weight;    /* multiplier */
} addcl_lora;

typedef struct addcl_model_opts {
    const char *path;         /* diffusers folder or single .safetensors file; NULL: the model that ships with add-cl */
    const char *unet, *vae, *text_encoder, *taesd; /* replace a part: folder with config.json, or .safetensors; NULL: none */
    const addcl_lora *loras;  /* merged at load, in order */
    size_t n_loras;
    addcl_type type;
    const char *prediction;   /* "eps" "v"; NULL: as the model says */
} addcl_model_opts;
#define ADDCL_MODEL_OPTS_INIT {0}

/* Opens a model: reads configurations, maps weight files, checks every tensor's name and shape. Needs no device. */
ADDCL_CHECKED int addcl_model_load(addcl_ctx *ctx, const addcl_model_opts *opts, addcl_model **out);
ADDCL_API void addcl_model_free(addcl_model *model);

/* The folder of the model that ships with add-cl: $ADDCL_MODEL_DIR, source or build tree, installed data. */
ADDCL_CHECKED int addcl_default_model(addcl_ctx *ctx, char *path, size_t size);

/* Facts about an opened model, for defaults and reports. */
typedef struct addcl_model_info {
    const char *path, *name;       /* as given; last component without .safetensors */
    const char *family;            /* "sd1" "sd2" "sdxl" "custom" */
    const char *layout;            /* "diffusers" "single-file" */
    const char *prediction;        /* "epsilon" "v_prediction" "sample"; NULL while still to be probed (single files) */
    const char *scheduler;         /* class named by the model, "" if none */
    const char *sampler;           /* sampler used by default: "euler" ... */
    int width, height;             /* native size in pixels */
    int factor;                    /* width and height must be multiples of this */
    int steps;                     /* default number of steps */
    double cfg_scale;              /* default guidance; 1: off */
    int few_step;                  /* 1: a distilled few-step student */
    const char *few_step_why;      /* how that was decided, one line */
    const char *unet_file;         /* the UNet's weight file (for the hash) */
    int64_t unet_params, vae_params, text_params; /* numbers of parameters; text: all encoders */
    uint64_t bytes;                /* of the weight files mapped */
} addcl_model_info;
ADDCL_API const addcl_model_info *addcl_model_get_info(const addcl_model *model);

/* SHA-256 of the file that makes the "Model hash" (the UNet's weights; single file: the file), 64 hex digits and NUL. Starts a
 * thread at addcl_model_load when nothing is cached for (path, size, mtime); this call waits for it. */
ADDCL_CHECKED int addcl_model_hash(addcl_model *model, char hex[65]);

/* ---------------------------------------------------------------------------------------------------- sampling */

/* 8-bit RGB image, rows from the top, no padding. */
typedef struct addcl_image {
    int width, height;
    uint8_t *rgb; /* 3 * width * height bytes */
} addcl_image;

/* PNG, JPEG or WebP file (by content), alpha blended on white. */
ADDCL_CHECKED int addcl_image_read(addcl_ctx *ctx, const char *path, addcl_image **out);
ADDCL_API void addcl_image_free(addcl_image *image);
/* Writes a PNG: to `path` through a temporary file beside it, or to standard output for "-". `parameters` and `json` become
 * the text chunks "parameters" and "add-cl" (NULL: left out). */
ADDCL_CHECKED int addcl_image_write(addcl_ctx *ctx, const char *path, const addcl_image *image, const char *parameters,
                                    const char *json);
/* The text chunk `key` of a PNG, in new memory (free()); *text is NULL when the file has none. */
ADDCL_CHECKED int addcl_image_text(addcl_ctx *ctx, const char *path, const char *key, char **text);
/* Crops the middle to the aspect ratio of width x height and resizes it to that (bicubic, antialiased). */
ADDCL_CHECKED int addcl_image_resize(addcl_ctx *ctx, const addcl_image *image, int width, int height, addcl_image **out);
/* One picture of n pictures of equal size in `columns` columns (0: near square). */
ADDCL_CHECKED int addcl_image_grid(addcl_ctx *ctx, const addcl_image *const *images, size_t n, int columns, addcl_image **out);

typedef enum addcl_tiling { ADDCL_TILING_AUTO, ADDCL_TILING_ON, ADDCL_TILING_OFF } addcl_tiling;

typedef struct addcl_sample_opts {
    const char *const *prompts;   /* n_prompts strings, UTF-8; image i uses prompts[i % n_prompts] */
    size_t n_prompts;
    const char *negative_prompt;  /* NULL: "" */
    int count;                    /* images in all; 0: n_prompts */
    int batch_size;               /* images computed together; 0: 1 */
    int steps;                    /* 0: the model's */
    double cfg_scale;             /* < 0: the model's; 0 and 1: off */
    int width, height;            /* 0: the model's */
    int64_t seed;                 /* image i uses seed + i; < 0: random, written to result->seed */
    const char *rng;              /* "cpu" "cuda": the stream of that torch generator; NULL: "cpu" */
    const char *sampler;          /* "euler" "euler_a" "ddim" "lcm" "dpmpp_2m"; NULL: the model's */
    double eta;                   /* of ddim; 0: deterministic */
    const char *spacing;          /* "trailing" "leading" "linspace"; NULL: the model's */
    const double *timesteps; size_t n_timesteps; /* explicit schedule, descending; NULL: from steps */
    const double *sigmas; size_t n_sigmas;       /* explicit sigmas, descending, without the final 0; NULL: from steps */
    const addcl_image *init;      /* image to image; scaled to width x height by the caller; NULL: from noise */
    double strength;              /* of image to image, 0..1; 0: 0.75 */
    const float *noise;           /* initial unit noise [count,4,H/8,W/8] instead of the seed's; NULL: from seed (tests) */
    addcl_tiling vae_tiling;
    int vae_tile_size;            /* pixels; 0: 512 */
    double vae_tile_overlap;      /* share of a tile; 0: 0.25 */
    /* Called once per finished image, in order. Not 0: stop with ADDCL_E_CANCELLED. The image is borrowed. */
    int (*on_image)(void *user, int index, const addcl_image *image);
    /* Tests and tools: the latents [n,C,H,W] of images first..first+n-1 after step `step` (0-based). May be NULL. */
    void (*on_latents)(void *user, int first, int n, int step, const float *latents, const size_t shape[4]);
    void *user;
} addcl_sample_opts;
#define ADDCL_SAMPLE_OPTS_INIT {.cfg_scale = -1, .seed = -1}

/* What was chosen, and what it took. */
typedef struct addcl_sample_result {
    int64_t seed;                 /* of image 0 */
    int steps, width, height, count;
    double cfg_scale;
    char sampler[32], spacing[32], prediction[32];
    int tiled;                    /* 1: the decoder worked in tiles */
    double load_s, text_s, sample_s, decode_s; /* wall-clock seconds; load: building kernels, uploading and packing weights */
    uint64_t planned_bytes;       /* the plan's peak of device buffers */
    uint64_t peak_bytes;          /* the peak that was reached */
} addcl_sample_result;

/* Makes images. Needs an open device. `result` may be NULL. */
ADDCL_CHECKED int addcl_sample(addcl_model *model, const addcl_sample_opts *opts, addcl_sample_result *result);

/* The same checks and plans without running: fills result->planned_bytes and the choices, estimates the work. */
typedef struct addcl_estimate {
    uint64_t text_bytes, unet_bytes, vae_bytes; /* peak of device buffers of each stage, weights included */
    double text_flop, unet_flop, vae_flop;      /* one run of each; unet: one step */
} addcl_estimate;
ADDCL_CHECKED int addcl_sample_plan(addcl_model *model, const addcl_sample_opts *opts, addcl_sample_result *result,
                                    addcl_estimate *est);

/* The "parameters" and "add-cl" metadata of image `index`, in new memory (free()). `model_hash`: 64 hex digits, or NULL. */
ADDCL_CHECKED int addcl_sample_metadata(addcl_model *model, const addcl_sample_opts *opts, const addcl_sample_result *result,
                                        int index, const char *model_hash, char **parameters, char **json);

/* --------------------------------------------------------------------------------------------------- training */

/* Where a training is; means since the report before. */
typedef struct addcl_train_report {
    int64_t step, max_steps;     /* steps done, steps of the run */
    int64_t skipped;             /* steps so far without a finite loss and gradient, which changed nothing */
    double loss, grad_norm;      /* NaN: every step was skipped; the norm is that before clipping */
    double learning_rate;
    double images_per_second;
    double seconds, eta_seconds; /* of training so far, all sittings; until the end */
    double held_out;             /* the method's measure on held-out samples; NaN: not taken at this step */
} addcl_train_report;

/* A key of the INI file that describes a run. Messages, documentation and templates are made from the same table. */
typedef struct addcl_train_key {
    const char *section, *name, *meaning;
    const char *section_meaning;
    const char *fallback;     /* the default, as in a file; NULL: the key must be given */
    const char *student;      /* that of methods that make students of few steps; NULL: the same */
    const char *shown;        /* what an empty default means; NULL: nothing more */
    const char *unit;         /* "steps"; NULL: none */
    const char *methods;      /* "vae|clip": the methods that use the key; NULL: all */
    char expects[160];        /* "a whole number from 1 to 100" */
} addcl_train_key;
/* Key number `i`, in the order of the sections; 0 when there are not so many. */
ADDCL_API int addcl_train_get_key(size_t i, addcl_train_key *key);
/* An INI file to fill in, in new memory (free()): all keys with their defaults, commented out. */
ADDCL_CHECKED int addcl_train_template(addcl_ctx *ctx, char **text);

typedef struct addcl_training addcl_training; /* the checked configuration of a run */

/* Reads the INI file `ini` (NULL: none), then n overrides "section.key=value". Needs no device. E_ARG: the message names file, line,
 * key, and what was expected. A process that mpirun started meets the others here, and addcl_open_device then gives each its own
 * device, or its part of one. */
ADDCL_CHECKED int addcl_training_open(addcl_ctx *ctx, const char *ini, const char *const *set, size_t n, addcl_training **out);
ADDCL_API void addcl_training_free(addcl_training *t);
/* The rank of this process among those of a data-parallel training, and in *ranks (may be NULL) their number: 0 of 1, when it is
 * alone. Only rank 0 writes and reports. */
ADDCL_API int addcl_training_rank(const addcl_training *t, int *ranks);
/* To be called by a process that gives up, as the others would wait for it: ends all of them, itself included, with an exit status.
 * Returns when there are no others, and after a failure of addcl_train that all ranks have seen. */
ADDCL_API void addcl_training_abort(addcl_training *t, int status);
/* [run] device, for addcl_open_device; "" when none is named. */
ADDCL_API const char *addcl_training_device(const addcl_training *t);
/* The configuration as an INI file with every key that has an effect, in new memory (free()). */
ADDCL_CHECKED int addcl_training_text(const addcl_training *t, char **text);

typedef enum addcl_train_mode {
    ADDCL_TRAIN_RUN,
    ADDCL_TRAIN_PLAN,    /* says through the log what memory and time it would take; runs nothing */
    ADDCL_TRAIN_VALIDATE /* measures the model on held-out and training samples; trains nothing */
} addcl_train_mode;

typedef struct addcl_train_opts {
    addcl_train_mode mode;
    int resume;                                              /* 1: go on from the newest checkpoint, if there is one */
    void (*report)(void *user, const addcl_train_report *r); /* every [run] report_steps; NULL: none */
    int (*stop)(void *user); /* asked after every step; not 0: save a checkpoint and end with E_CANCELLED. NULL: never */
    void *user;
} addcl_train_opts;
#define ADDCL_TRAIN_OPTS_INIT {.mode = ADDCL_TRAIN_RUN}

/* Trains to the end of the run and writes the model. Needs an open device. E_DIVERGED: too many steps in a row without a finite
 * loss. E_CANCELLED: `stop` asked for it, on any rank; on ranks other than 0 also that rank 0 tells why all of them end. Whatever
 * happens, the checkpoints written before are whole. */
ADDCL_CHECKED int addcl_train(addcl_training *t, const addcl_train_opts *opts);

/* ---------------------------------------------------------------------------------------------- evaluation */

/* Sets of pictures are folders (with metadata.jsonl, or side-cars, or only pictures) and tar shards, as for training. All pictures
 * become squares of one size: scaled as Pillow does (bicubic, antialiased), then the middle. */
typedef struct addcl_eval_opts {
    const char *const *sets; /* generated pictures */
    size_t n_sets;
    const char *const *autoencoders; /* models whose reconstruction of the reference is a set, too */
    size_t n_autoencoders;
    const char *reference;      /* real pictures; NULL: none, and nothing that compares with them */
    const char *features;       /* image transformer of the distances: folder of DINOv2, of CLIP's image tower, or with image_encoder/ */
    const char *clip;           /* folder with image_encoder/, text_encoder/ and tokenizer/ for the CLIP score; NULL: none */
    const char *caption;        /* captions of pictures that are not of add-cl, as in training: "{label}, {style}"; NULL: none */
    const char *caption_values; /* "style=noto:flat emoji, ..."; NULL: none */
    const char *filter;         /* reference pictures that count: "style=noto"; NULL: all */
    const char *output;         /* folder that gets eval.json, eval.html and sheets of pictures; NULL: none */
    size_t count;               /* pictures of every set, drawn by the seed; 0: all */
    int64_t seed;               /* of the draw, and of the subsets of the kernel distance */
    int resolution;             /* pixels; 0: the shorter side of the first picture of the reference, else of the first set */
    int neighbours;             /* k of precision and recall */
    int pairs;                  /* 1: pictures of the same name in a set and in the reference are compared */
    int batch_size;
} addcl_eval_opts;
#define ADDCL_EVAL_OPTS_INIT {.neighbours = 3, .batch_size = 32}

/* What was measured of a set; NaN: it was not. */
typedef struct addcl_eval_row {
    const char *name; /* path of the set or of the autoencoder */
    size_t pictures;
    double fid;                 /* Frechet distance of the features, from the reference */
    double kid, kid_deviation;  /* kernel distance: mean and deviation over 100 subsets of up to 1,000 pictures */
    double precision, recall;
    double clip_score;          /* mean cosine of picture and caption */
    double psnr, ssim;          /* of pairs, means; PSNR of the mean squared error of each pair, in dB */
    const double *spectrum;     /* mean power at 0, 1, ... rings - 1 waves a picture side */
    int rings;
} addcl_eval_row;

typedef struct addcl_evaluation addcl_evaluation;
/* Needs an open device. */
ADDCL_CHECKED int addcl_eval(addcl_ctx *ctx, const addcl_eval_opts *opts, addcl_evaluation **out);
/* n rows: the reference first, if there is one, then sets and autoencoders in their order. */
ADDCL_API const addcl_eval_row *addcl_evaluation_rows(const addcl_evaluation *e, size_t *n);
ADDCL_API void addcl_evaluation_free(addcl_evaluation *e);

/* A table of trainings that differ in some keys, each with several seeds: trained, sampled and evaluated. The INI file:
 *
 *     [ablation]                       ; its keys: docs/evaluation.md
 *     base = add.ini                   ; the training that rows vary
 *     ...
 *     [d: losses]                      ; any other section is a table of the result, its keys are rows with what they set
 *     adversarial only = distillation.distillation_weight=0
 *     both, SDS = distillation.weighting=sds & distillation.teacher_guidance=2
 */
typedef struct addcl_ablate_row {
    const char *table, *name;
    int seeds;                  /* that were evaluated */
    addcl_eval_row mean, spread; /* over them; the spread is the standard deviation (n - 1), NaN for one seed */
} addcl_ablate_row;

typedef struct addcl_ablate_opts {
    void (*report)(void *user, const addcl_train_report *r); /* of the training in work; NULL: none */
    int (*stop)(void *user);                                 /* as of addcl_train */
    void *user;
} addcl_ablate_opts;

typedef struct addcl_ablation addcl_ablation;
/* Needs an open device. What was done before is not done again, and a training that was stopped goes on; after E_CANCELLED call
 * it again. Writes ablation.md and ablation.json into the output folder after every seed. *out may be given after a failure, too:
 * the rows so far. */
ADDCL_CHECKED int addcl_ablate(addcl_ctx *ctx, const char *ini, const addcl_ablate_opts *opts, addcl_ablation **out);
ADDCL_API const addcl_ablate_row *addcl_ablation_rows(const addcl_ablation *a, size_t *n);
ADDCL_API void addcl_ablation_free(addcl_ablation *a);

/* ------------------------------------------------------------------------------------------------ tools */

/* One result of a self-test or benchmark. */
typedef struct addcl_case {
    const char *name;      /* "conv/b2_17x9_s2/conv_vec/f32"; benchmark: "gemm/4096x320x320" */
    int status;            /* self-test: 0 passed, 1 failed, 2 skipped (message tells why) */
    const char *message;
    double error, limit;   /* self-test: worst error and what is allowed */
    double seconds;        /* minimum of the repetitions */
    double gflops, peak_gflops; /* benchmark: achieved, and the FMA peak measured in the same run; 0: not applicable */
    double gbs, copy_gbs;  /* benchmark `norm`: bandwidth, and that of a copy in the same run; 0: not applicable */
} addcl_case;
typedef int (*addcl_case_fn)(void *user, const addcl_case *c); /* not 0: stop */

/* Runs the small cases of every op whose name contains `pattern` (NULL: all) on the open device against the double-precision
 * reference. *failed counts failures. */
ADDCL_CHECKED int addcl_selftest(addcl_ctx *ctx, const char *pattern, addcl_case_fn fn, void *user, int *failed);
/* Runs benchmark cases: "gemm" "conv" "conv_bx" "conv_bw" "attn" "attn_bwd" "norm" "text" "unet" "vae" "vae_tiny" "image"
 * "train_unet" "add_step". */
ADDCL_CHECKED int addcl_bench(addcl_ctx *ctx, const char *name, addcl_type type, int reps, addcl_case_fn fn, void *user);

/* Converts a diffusers folder to a single file or back; the direction follows from `out` (*.safetensors: single file). `type`:
 * "f32" "f16" "bf16", NULL: as stored. */
ADDCL_CHECKED int addcl_convert(addcl_ctx *ctx, const char *in, const char *out, const char *type);

/* Walks the tensors of a safetensors file, or of a diffusers folder ("unet/conv_in.weight"): name, type, shape. Not 0: stop. */
typedef int (*addcl_tensor_fn)(void *user, const char *name, const char *type, const int64_t *shape, int dims);
ADDCL_CHECKED int addcl_file_tensors(addcl_ctx *ctx, const char *path, addcl_tensor_fn fn, void *user);
/* The file's __metadata__, one call a key. */
ADDCL_CHECKED int addcl_file_metadata(addcl_ctx *ctx, const char *path, int (*fn)(void *user, const char *key, const char *value),
                                      void *user);
/* The plan of a stage ("text" "unet" "vae") as text, one line per node, through the log at level INFO. */
ADDCL_CHECKED int addcl_model_plan(addcl_model *model, const char *stage, int width, int height, int batch);

#ifdef __cplusplus
}
#endif

#endif
