/* student.h - what methods that teach a student of few steps from a frozen teacher share: schedules, inputs of a batch, values of
 * each sample, the teacher's network, validation. */
#ifndef AC_STUDENT_H
#define AC_STUDENT_H

#include "train/inputs.h"

/* Values of each sample that a graph has as inputs [B]: name k's begin at value[k B]. */
typedef struct ac_each {
    const char *const *name; /* n of them, borrowed */
    int n, B;
    float *value;
} ac_each;
int ac_each_open(const char *const *name, int n, int B, ac_diag *dg, ac_each *e) AC_CHECK_RESULT;
void ac_each_close(ac_each *e);
void ac_each_set(ac_each *e, int i, int k, double v); /* of sample i */
int ac_each_feed(const ac_each *e, ac_exec *x) AC_CHECK_RESULT;
/* Input `name` [B] for products with [B,h,w,C]. */
ac_id ac_each_input(ac_graph *g, const char *name, int B);
/* a x + b y with such inputs. */
ac_id ac_each_mix(ac_graph *g, int B, const char *a, ac_id x, const char *b, ac_id y);

typedef struct ac_student {
    ac_training *r;
    ac_schedule *student, *teacher; /* the student's is the model's */
    ac_latents latents;
    ac_states states;
    int B, h, w, C, T, context;
    float *x0, *x, *noise; /* [B,h,w,C] */
    float *ctx;            /* [B,T,context] */
    float *null_ctx;       /* [1,T,context]: of no caption */
    float *pooled;         /* of SDXL, unused */
    float *weight;         /* [B] in validation */
} ac_student;

/* Opens all but the graph, and adds the student's parameters to the run. pure_noise: the student's schedule ends in noise alone, as
 * far as its prediction allows. That is exported, too, and so is the sampler that suits such a student, with trailing steps. */
int ac_student_open(ac_training *r, bool pure_noise, ac_sampler_kind sampler, ac_student *s) AC_CHECK_RESULT;
void ac_student_close(ac_student *s);
ac_net ac_student_frozen(ac_training *r, ac_graph *g, ac_weights *w, const ac_part *p, const char *part);
/* The teacher in graph g. */
ac_net ac_student_teacher(ac_student *s, ac_graph *g);
/* States of the batch's captions into s->ctx, latents of its pictures into s->x0. */
int ac_student_batch(ac_student *s, const ac_batch *b) AC_CHECK_RESULT;
/* x of sample i: its x0 under noise from *state, at (alpha, sigma). The noise itself in noise[n] where it is not NULL. */
void ac_student_noised(ac_student *s, size_t i, double alpha, double sigma, uint64_t *state, float *noise);

/* Builders for its inputs: latents, states of captions (null: of none, for all samples alike). */
ac_id ac_student_latent(const ac_student *s, ac_graph *g, const char *name);
ac_id ac_student_ctx(const ac_student *s, ac_graph *g, bool null);

/* The recipe's validate() of these methods: the mean squared distance of the student's x^ from the latents that it sees under noise,
 * over n time steps, the last of which is noise alone where the schedule says so. */
int ac_student_validate(ac_student *s, const int64_t *step, size_t n, double *held_out, double *training) AC_CHECK_RESULT;

#endif
