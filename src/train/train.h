/* train.h - a training run: what its parts share.
 *
 *   method_*.c   what is trained: networks, loss, inputs, validation, pictures
 *   step.c       one optimiser step as graphs on the device
 *   reduce.c     gradients summed over the ranks
 *   state.c      checkpoints of a run, and going on from one
 *   export.c     the trained model as a diffusers folder
 *   run.c        the loop */
#ifndef AC_TRAIN_H
#define AC_TRAIN_H

#include "api_internal.h"
#include "base/comm.h"
#include "base/file.h"
#include "diff/train_config.h"
#include "io/ckpt.h"
#include "io/loader.h"
#include "io/report.h"
#include "io/runlog.h"

struct ac_training;

enum { AC_SCALARS = 9 }; /* most scalars of a method besides the loss */

/* A method: what `[run] method =` names. */
typedef struct ac_recipe {
    const char *name;
    const char *measure;                /* what validate() measures: "loss", "psnr" */
    const char *scalar[AC_SCALARS + 1]; /* outputs of the loss graph that are logged; ends with NULL */
    /* Opens data-independent parts: networks, tokenizer. Sets run->sets. */
    int (*open)(struct ac_training *r);
    void (*close)(struct ac_training *r);
    /* Nodes of the mean loss of `batch` samples, in a graph whose parameters are those of run->sets. */
    ac_id (*loss)(struct ac_training *r, ac_graph *g, int batch);
    /* Feeds the inputs that loss() made. */
    int (*feed)(struct ac_training *r, ac_exec *x, const ac_batch *b);
    /* The measure on held-out and on as many training samples, with the averaged parameters. NAN: there are none. */
    int (*validate)(struct ac_training *r, double *held_out, double *training);
    /* Writes a sheet of pictures made with the averaged parameters. */
    int (*pictures)(struct ac_training *r, const char *path);
    /* Writes the model's parts into a folder that exists. */
    int (*export)(struct ac_training *r, const char *dir);
} ac_recipe;

/* Loss of an autoencoder's picture, and the outputs "l1" and "kl"; moments as of ac_vae_encode. */
ac_id ac_vae_loss(ac_graph *g, const ac_train_cfg *c, ac_id image, ac_id decoded, ac_id moments);

extern const ac_recipe ac_recipe_vae, ac_recipe_diffusion, ac_recipe_clip, ac_recipe_add, ac_recipe_gan, ac_recipe_ladd, ac_recipe_lcm, ac_recipe_progressive,
    ac_recipe_reflow;

/* One step on the device: the loss of a micro-batch and its gradients, then clipping, Adam and EMA. Without accumulation and
 * other ranks both are one graph; else gradients are summed in variables, and the update is a graph of its own. */
typedef struct ac_stepper {
    ac_graph *g, *update_graph;
    ac_exec *x, *update; /* update NULL: part of x */
    struct ac_reducer *reducer; /* NULL: there are no other ranks */
    int micro;           /* micro-batches of a step */
} ac_stepper;

/* What is the case after `step` steps; saved in checkpoints. */
typedef struct ac_progress_state {
    int64_t step;     /* steps done, skipped ones included */
    int64_t updates;  /* steps that changed the parameters: Adam's t */
    int64_t skipped;  /* steps with a loss or gradient that was not finite */
    int64_t bad;      /* of these, the last ones in a row */
    uint64_t rows;    /* samples used by all ranks (loader.h) */
    double seconds;   /* of training, all sittings */
} ac_progress_state;

enum { AC_SETS = 4 };

typedef struct ac_training {
    addcl_ctx *ctx;
    ac_dev *dev;
    ac_diag *dg;
    const ac_train_cfg *cfg;
    const ac_recipe *recipe;
    void *method;             /* the method's own */
    addcl_model *model;       /* networks, tokenizers, schedule; of the method clip: NULL */
    ac_params sets[AC_SETS];  /* parameters in training, by part */
    ac_weights unet;          /* as it was read, in all graphs that have it frozen */
    int n_sets;
    bool plan_only;           /* nothing runs: memory and work are planned */
    bool no_steps;            /* the optimiser will not step: its graphs are only planned */
    ac_data *data;
    ac_loader *loader;
    ac_stepper stepper;
    ac_progress_state at;
    ac_comm *comm;            /* the other ranks; borrowed. NULL: none */
    int rank, ranks;
    bool together;            /* an end with an error that all ranks have seen */
    const addcl_train_opts *opts;
    ac_lines prompts;         /* of sample pictures */
    ac_rundir *dir;
    ac_runlog *log;
} ac_training;

/* ---- run.c: the device of ctx is open. *together: all ranks end with an error, for the same reason; rank 0 tells it. */
int ac_train(addcl_ctx *ctx, ac_comm *comm, const ac_train_cfg *cfg, const addcl_train_opts *opts, bool *together) AC_CHECK_RESULT;

/* ---- step.c */
/* Builds the step's graphs for cfg's batch and makes them ready. */
int ac_step_open(ac_training *r, ac_stepper *s) AC_CHECK_RESULT;
void ac_step_close(ac_stepper *s);
/* What a step was like. */
typedef struct ac_step_result {
    double loss, grad_norm, scalar[AC_SCALARS]; /* grad_norm before clipping */
    bool skipped;                               /* loss or norm not finite: parameters are as they were */
} ac_step_result;
/* One step on the loader's next batches; advances r->at. */
int ac_step_run(ac_training *r, ac_stepper *s, ac_step_result *out) AC_CHECK_RESULT;
/* Learning rate and EMA decay of update `k`, counted from 0. */
double ac_learning_rate(const ac_train_cfg *c, int64_t k);
double ac_ema_decay(const ac_train_cfg *c, int64_t k);
/* After a step that was not finite: runs it again with every value looked at, and fails naming the first bad one. */
int ac_step_blame(ac_training *r, ac_stepper *s) AC_CHECK_RESULT;

/* ---- reduce.c */
typedef struct ac_reducer ac_reducer;
/* For the variables that the effects of a graph write. */
int ac_reducer_new(ac_training *r, const ac_graph *g, ac_reducer **out) AC_CHECK_RESULT;
void ac_reducer_free(ac_reducer *d);
/* Runs that graph; then the variables hold the sums over all ranks of what they would hold. */
int ac_reducer_run(ac_reducer *d, ac_exec *x) AC_CHECK_RESULT;
/* Notes the time it took. NULL: nothing to tell. */
void ac_reducer_tell(const ac_reducer *d);

/* ---- bench.c: a step of the shipped model's size on random values, ready to be run. */
typedef struct ac_train_bench {
    ac_train_cfg *cfg;
    ac_training r;
    ac_weights frozen[3];
    float *values; /* for any input */
    int32_t *zeros;
} ac_train_bench;
/* name: "train_unet" or "add_step". */
int ac_train_bench_open(addcl_ctx *ctx, const char *name, ac_train_bench *b) AC_CHECK_RESULT;
void ac_train_bench_close(ac_train_bench *b);

/* ---- state.c */
int ac_state_save(ac_training *r) AC_CHECK_RESULT;
/* Goes on from cfg's checkpoint, or the newest; *found tells whether there was one. */
int ac_state_restore(ac_training *r, const char *which, bool *found) AC_CHECK_RESULT;
/* Makes the state of every rank that of rank 0. */
int ac_state_share(ac_training *r) AC_CHECK_RESULT;
/* Fails on every rank when the parameters of one are not those of rank 0, bit for bit. */
int ac_state_compare(ac_training *r) AC_CHECK_RESULT;

/* ---- export.c */
/* Writes the averaged (or, without EMA, the live) parameters as `dir`, a diffusers folder; replaces it once it is whole. */
int ac_export(ac_training *r, const char *dir) AC_CHECK_RESULT;
/* The recipe's export() of methods whose result is a whole diffusion model, or a part of one: trained parts from their
 * parameters, the others as they were read. */
int ac_export_model(ac_training *r, const char *dir) AC_CHECK_RESULT;
/* The files of tokenizer 0 or 1, in <dir>/tokenizer or tokenizer_2. */
int ac_export_tokenizer(ac_training *r, int i, const char *dir) AC_CHECK_RESULT;
/* One part: <dir>/config.json and <dir>/<file> with the tensors of a parameter set, names prefixed. */
int ac_export_set(ac_training *r, const ac_params *set, const json_t *config, const char *dir, const char *file) AC_CHECK_RESULT;

/* ---- report.c: log rows, report.html and the model card */
int ac_run_log_open(ac_training *r, bool resumed) AC_CHECK_RESULT;
/* A row: means since the last one. held_out, training: NAN when not measured at this step. */
int ac_run_row(ac_training *r, const ac_step_result *mean, double images_per_second, double held_out, double training) AC_CHECK_RESULT;
int ac_run_report(ac_training *r, const char *status) AC_CHECK_RESULT;
/* README.md, with the newest sheet of samples, if there is one. */
int ac_run_card(ac_training *r, const char *dir) AC_CHECK_RESULT;
/* Path of the sheet of samples of the present step, in new memory; NULL when memory is short. */
char *ac_run_sheet(const ac_training *r);
/* "9,650,948" */
const char *ac_thousands(int64_t n, char buf[32]);

/* ---- eval.c: what validation needs */
/* From now on graphs read the averaged parameters, where there are such; or the live ones. */
void ac_use_averages(ac_training *r, bool averages);
/* Number of samples of a split that validation looks at: as many training ones as held-out ones. */
size_t ac_eval_count(const ac_training *r);
/* Samples k .. k+n-1 of `of`, spread over the split, as AC_EPOCH_PLAIN shows them; broken ones are left out. The pictures have room for a
 * whole batch. */
int ac_eval_batch(ac_training *r, ac_split split, size_t of, size_t k, size_t n, ac_batch *b) AC_CHECK_RESULT;
void ac_eval_free(ac_batch *b);
/* Calls fn with batches of all of those samples, the first of which is the k-th; *seen: how many there were. */
typedef int (*ac_eval_fn)(ac_training *r, ac_exec *x, const ac_batch *b, size_t k, void *user);
int ac_eval_each(ac_training *r, ac_exec *x, ac_split split, size_t of, ac_eval_fn fn, void *user, size_t *seen) AC_CHECK_RESULT;
/* addcl_sample without progress reports. */
int ac_quiet_sample(ac_training *r, const addcl_sample_opts *o) AC_CHECK_RESULT;
/* The recipe's pictures() of methods that sample: the prompts' pictures by the averaged parameters. */
int ac_sample_sheet(ac_training *r, const char *path) AC_CHECK_RESULT;
/* Fills run->prompts from the configured file, or with captions of held-out samples. */
int ac_read_prompts(ac_training *r) AC_CHECK_RESULT;

/* ---- helpers of methods, in step.c */
/* A network whose parameters are those of a set; *w must live as long as the network is built. */
ac_net ac_train_net(ac_training *r, ac_graph *g, int set, ac_weights *w);
/* Adds the UNet's parameters, or those of its low-rank updates, to the run; random: not from the model's weights. */
void ac_add_unet_set(ac_training *r, bool random);
/* The k-th random stream of a sample: row of the run (loader.h) and purpose. */
uint64_t ac_row_stream(const ac_training *r, uint64_t row, uint64_t purpose);

#endif
