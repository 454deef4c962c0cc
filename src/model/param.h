/* param.h - the parameters of a network that is trained, and what the optimiser keeps for each of them. */
#ifndef AC_PARAM_H
#define AC_PARAM_H

#include "base/rng.h"
#include "graph/graph.h"
#include "model/layout.h"

/* One parameter; all variables f32 and of its shape. */
typedef struct ac_parameter {
    char *name;          /* as in the checkpoint, without the part */
    ac_var *w;           /* its value */
    ac_var *m, *v;       /* Adam's moments; NULL: not trained (yet) */
    ac_var *ema;         /* running average of w; NULL: none is kept */
    ac_var *grad;        /* sum of gradients over micro-steps and ranks; NULL: the step needs none */
} ac_parameter;

typedef AC_VEC(ac_parameter) ac_parameter_list;

/* The parameters of one part of a model, made when a graph first asks for them. */
typedef struct ac_params {
    ac_dev *dev;
    ac_diag *dg;
    const char *part;    /* "unet" ... */
    ac_layout *layout;   /* where initial values come from, only read while parameters are made; NULL: random ones */
    uint64_t seed;       /* of random initial values */
    double logit_scale;  /* initial value of a parameter of that name */
    int64_t start;       /* updates of the run before these take part; the loss makes their gradients 0 until then */
    bool live_only;      /* no averages are kept */
    bool adversary;      /* the second of two players: an optimiser and a gradient norm of its own */
    bool averages;       /* graphs built now read ema instead of w */
    struct ac_weights *base; /* low-rank updates of these frozen weights are trained, not the weights (Hu et al. 2021); borrowed.
                              * NULL: the weights */
    int rank;                /* of the updates */
    double scale;            /* W = base + scale lora_B lora_A */
    ac_parameter_list p; /* in the order of first use */
    ac_parameter_list kept; /* what passes change but no gradient moves: only w */
} ac_params;

void ac_params_free(ac_params *s); /* what it owns, not s itself */
/* The leaf of parameter `name` in g; makes the parameter when there is none yet. Errors go into the graph. */
ac_id ac_params_leaf(ac_params *s, ac_graph *g, const char *name, const ac_shape *shape);
/* A variable that is kept beside the parameters, as vectors of spectral norms are. NULL: the error is in the graph. */
ac_var *ac_params_kept(ac_params *s, ac_graph *g, const char *name, const ac_shape *shape);
ac_parameter *ac_params_find(const ac_params *s, const char *name); /* NULL: there is none */
int64_t ac_params_count(const ac_params *s);                        /* elements */

/* Makes moments, with `ema` averages (starting at the values; unless live_only) and with `grads` gradient sums for all
 * parameters, where they are missing. */
int ac_params_train(ac_params *s, bool ema, bool grads) AC_CHECK_RESULT;
/* Calls fn with every variable that the state of a training consists of and its kind, "w", "m", "v" or "ema"; gradient sums are
 * not among them. Not 0: stops with it. */
typedef int (*ac_var_fn)(void *user, const char *kind, ac_var *v);
int ac_params_each(const ac_params *s, ac_var_fn fn, void *user);
/* Bytes of all variables. */
uint64_t ac_params_bytes(const ac_params *s);

#endif
