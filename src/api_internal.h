/* api_internal.h - what the files behind addcl.h share. */
#ifndef AC_API_INTERNAL_H
#define AC_API_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "diff/sampler.h"
#include "io/bpe.h"
#include "io/json.h"
#include "model/nets.h"

struct addcl_ctx {
    ac_diag dg;
    ac_dev *dev; /* NULL before addcl_open_device */
    int seat, seats; /* which of how many processes on this machine; of 0: nobody has told */
    addcl_progress_fn progress;
    void *progress_user;
};

/* One network of a model: its configuration and where its weights are. */
typedef struct ac_part {
    const char *name; /* "unet" ... */
    bool present;
    ac_st *st;          /* owned; NULL: in the model's single file */
    ac_layout *layout;  /* owned by `own_layout` or the model */
    bool own_layout;
    char *file;         /* weight file, owned */
    ac_json json;       /* its config.json */
    bool own_json;
} ac_part;

/* Opens a part's folder: config.json and weights; without weights only where they are `optional`. What was opened is closed by
 * ac_part_close, also after a failure. */
int ac_part_open(ac_diag *dg, const char *dir, const char *name, bool optional, ac_part *p) AC_CHECK_RESULT;
void ac_part_close(ac_part *p);
/* Opens an image transformer with weights: DINOv2's or CLIP's folder, or one that has it in image_encoder/. */
int ac_image_tower_open(ac_diag *dg, const char *dir, ac_part *p, ac_vit_cfg *c) AC_CHECK_RESULT;

typedef enum ac_part_id { AC_UNET, AC_VAE, AC_TEXT, AC_TEXT_2, AC_TAESD, AC_PARTS } ac_part_id;

typedef struct ac_hash {
    pthread_t thread;
    bool started, joined;
    atomic_bool stop; /* nobody wants it any more: the thread gives up */
    char *path;
    ac_diag dg;
    int rc;
    char hex[65];
} ac_hash;

struct addcl_model {
    addcl_ctx *ctx;
    addcl_model_info info;
    char *path, *name, *few_why, *scheduler_class;
    bool single;          /* one file for all */
    ac_st *st;            /* of the single file */
    ac_layout *layout;
    json_t *configs;      /* of the single file */
    ac_part part[AC_PARTS];
    ac_unet_cfg unet;
    ac_vae_cfg vae;
    ac_taesd_cfg taesd;
    ac_clip_cfg clip[2];
    ac_bpe *bpe[2];
    int pad[2];           /* pad id of each tokenizer */
    ac_schedule *sch;
    bool zero_empty;       /* an empty negative prompt is all zeros, not encoded */
    bool prediction_known; /* else found out by a probe before the first run */
    ac_type type;
    bool partial;          /* opened for training: parts and weights may be missing */
    ac_params *train[AC_PARTS]; /* parameters in training that stand for a part's weights; NULL: frozen. Borrowed */
    char *part_path[AC_PARTS];           /* parts that the user replaced, by what; NULL: the model's own */
    const char *part_option[AC_PARTS];   /* under which option: "vae", "text_encoder" ... */
    bool prediction_given;               /* by the user */
    ac_lora **lora;
    char **lora_path;
    double *lora_weight;
    size_t n_loras;
    ac_hash hash;
};

/* As addcl_model_load. training: a folder may lack parts, and parts their weights, which are then made at random; nothing is
 * assumed about the few steps or the prediction of the result. tokenizer, scheduler: folders in place of the model's, or NULL. */
typedef struct ac_model_from {
    bool training;
    const char *tokenizer, *scheduler;
} ac_model_from;
int ac_model_open(addcl_ctx *ctx, const addcl_model_opts *o, const ac_model_from *from, addcl_model **out) AC_CHECK_RESULT;

/* Begins a public call: the error of the last one is forgotten. */
ac_diag *ac_begin(addcl_ctx *ctx);
/* Reports progress; E_CANCELLED when the callback says so. */
int ac_progress(addcl_ctx *ctx, const char *stage, int64_t done, int64_t total, double seconds, int image, int images) AC_CHECK_RESULT;
double ac_now(void); /* seconds, monotonic */
int ac_need_device(addcl_ctx *ctx) AC_CHECK_RESULT;
/* "$ADDCL_CACHE_DIR", else $XDG_CACHE_HOME/add-cl, else ~/.cache/add-cl; NULL: none. Owned by the caller. */
char *ac_cache_dir(void);
/* Folder of CLIP's own vocabulary, in new memory. */
int ac_clip_vocabulary(ac_diag *dg, char **dir) AC_CHECK_RESULT;

int ac_hash_start(ac_hash *h, const char *path, ac_diag *dg) AC_CHECK_RESULT;
int ac_hash_wait(ac_hash *h, ac_diag *dg, char hex[65]) AC_CHECK_RESULT;
void ac_hash_free(ac_hash *h);

/* ---- stages (api_stage.c): a network made ready on the device, with the weights it was made from */
typedef struct ac_stage {
    ac_graph *g;
    ac_weights w;
    ac_exec *x;
} ac_stage;
void ac_stage_free(ac_stage *s);

/* What a stage is made for. */
typedef struct ac_stage_size {
    int batch;      /* images together */
    int h, w;       /* latent size */
    int tokens;
    bool guided;    /* classifier-free guidance: the UNet sees every image twice */
    bool plan_only;
} ac_stage_size;

/* The networks' sizes and weights: a model's, or random ones of full size for benchmarks. */
typedef struct ac_nets {
    ac_dev *dev;
    ac_diag *dg;
    ac_type type;
    const ac_unet_cfg *unet;
    const ac_vae_cfg *vae;
    const ac_taesd_cfg *taesd;
    const ac_clip_cfg *clip; /* two */
    ac_layout *layout[AC_PARTS]; /* NULL: random */
    ac_params *train[AC_PARTS];  /* the part is in training: its variables are read, the average ones if there are such */
    const ac_lora *const *loras;
    const double *lora_weights;
    size_t n_loras;
} ac_nets;
ac_nets ac_model_nets(const addcl_model *m);
/* Stable Diffusion 2.1's networks with random weights (api_bench.c); decoding takes `taesd` unless it is set to NULL. */
ac_nets ac_bench_nets(ac_dev *dev, ac_diag *dg, ac_type type);

/* Text encoder `i` (0, 1): input "ids" [1,T], "eos" [1,1]; outputs "states" [1,T,C] (last or penultimate), "pooled". */
int ac_stage_text(const ac_nets *n, int i, bool penultimate, bool pooled, const ac_stage_size *z, ac_stage *s) AC_CHECK_RESULT;
/* One sampling step: inputs x, prev, noise [B,h,w,C], t [B or 2B], ctx, coef [8], pooled, time_ids; outputs x_next, x0. */
int ac_stage_unet(const ac_nets *n, const ac_stage_size *z, ac_stage *s) AC_CHECK_RESULT;
/* The UNet alone: inputs x, t, ctx (pooled, time_ids), output "out". */
int ac_stage_unet_plain(const ac_nets *n, const ac_stage_size *z, ac_stage *s) AC_CHECK_RESULT;
/* Latent "z" [1,h,w,C] as the UNet has it -> "image" [1,H,W,3] in -1..1. */
int ac_stage_decode(const ac_nets *n, const ac_stage_size *z, ac_stage *s) AC_CHECK_RESULT;
/* "image" -> "moments" [1,h,w,2C]: mean and log variance, unscaled (TAESD: "z", scaled). h, w: latent size. */
int ac_stage_encode(const ac_nets *n, const ac_stage_size *z, ac_stage *s) AC_CHECK_RESULT;
/* Builds the graph of a part without a device, so that every weight is asked for by name and shape; adds their number. */
int ac_stage_check(const ac_nets *n, ac_part_id id, const ac_stage_size *z, int64_t *params) AC_CHECK_RESULT;
/* FLOP/s of FMA that the device reaches from OpenCL C, measured now. */
int ac_fma_peak(ac_dev *dev, double *flops) AC_CHECK_RESULT;
int ac_latent_factor(const ac_nets *n); /* pixels per latent pixel */

/* Coefficients of the input "coef". */
enum { AC_COEF_IN, AC_COEF_AX, AC_COEF_AOUT, AC_COEF_CX, AC_COEF_CX0, AC_COEF_CPREV, AC_COEF_CNOISE, AC_COEF_CFG, AC_COEFS };

#endif
