/* nn.h - building networks from named weights: layers whose weights are found under the scope they are made in.
 *
 * A network is written as its published code reads: inside scope "down_blocks.0.resnets.0", nn_conv(m, "conv1", ...) reads
 * down_blocks.0.resnets.0.conv1.weight and .bias. Shapes are checked against what the layer needs; the error names the tensor. */
#ifndef AC_NN_H
#define AC_NN_H

#include "model/layout.h"
#include "model/lora.h"
#include "model/param.h"
#include "ops/ops.h"

/* The weights of one part of a model. */
typedef struct ac_weights {
    ac_params *train;   /* the weights are being trained: variables instead of constants. NULL: frozen */
    ac_layout *layout;  /* of frozen weights; NULL: random values, for benchmarks */
    const char *part;   /* "unet" ... */
    ac_diag *dg;
    const ac_lora *const *loras;
    const double *lora_weights; /* multiplier of each file */
    size_t n_loras;
    AC_VEC(ac_values *) values; /* owned: one for each weight asked for */
    AC_VEC(void *) blocks;      /* owned: converted copies of tensors in types the device does not read */
    uint16_t *noise;            /* random values (f16) that all random weights share */
    size_t n_noise;
    int64_t params;             /* elements asked for */
} ac_weights;
void ac_weights_free(ac_weights *w); /* what it owns, not w itself */

typedef struct ac_net {
    ac_graph *g;
    ac_weights *w;
    bool checkpoint; /* the backward pass computes blocks again instead of keeping what is inside them */
    /* Called with the path and value of every module while building (tests of layers); NULL: not, and the graph is smaller. */
    void (*tap)(void *user, ac_graph *g, const char *path, ac_id value);
    void *user;
} ac_net;

/* Scope of a module while its block runs: WITH_SCOPE(m, "resnets.%d", j) { ... } */
#define WITH_SCOPE(m, ...) WITH_SCOPE_(m, __LINE__, __VA_ARGS__)
#define WITH_SCOPE_(m, line, ...) WITH_SCOPE__(m, line, __VA_ARGS__)
#define WITH_SCOPE__(m, line, ...)                                                                                     \
    for (const char *before_##line = ac_scope((m)->g, __VA_ARGS__), *once_##line = ""; once_##line;                    \
         once_##line = NULL, ac_scope_end((m)->g, before_##line))

/* The body of a block: NN_BLOCK(m) { ... } */
#define NN_BLOCK(m)        NN_BLOCK_(m, __LINE__)
#define NN_BLOCK_(m, line) NN_BLOCK__(m, line)
#define NN_BLOCK__(m, line)                                                                                            \
    for (bool once_##line = nn_block_begin(m); once_##line; once_##line = nn_block_end(m))
bool nn_block_begin(ac_net *m); /* true */
bool nn_block_end(ac_net *m);   /* false */

/* The value of the module whose scope is open (or "scope.name"), for the tap. Returns `value`. */
ac_id nn_tap(ac_net *m, const char *name, ac_id value);

/* Weight `name` under the open scope; shape as given (int dimensions). */
ac_id nn_weight(ac_net *m, const char *name, int dims, ...);

/* A tensor of values that the caller has made; takes over `data` (f32, free()). */
ac_id nn_constant(ac_net *m, const char *name, ac_shape shape, float *data);

ac_id nn_linear(ac_net *m, const char *name, ac_id x, int64_t out, bool bias, int act);
ac_id nn_linear_geglu(ac_net *m, const char *name, ac_id x, int64_t out);
/* R x R filters; stride 1 and padding R/2 on all sides by default (at NULL). */
ac_id nn_conv(ac_net *m, const char *name, ac_id x, int64_t out, int R, const ac_conv_at *at);
ac_id nn_conv_no_bias(ac_net *m, const char *name, ac_id x, int64_t out, int R, const ac_conv_at *at);
ac_id nn_group_norm(ac_net *m, const char *name, ac_id x, int groups, double eps, int act);
ac_id nn_layer_norm(ac_net *m, const char *name, ac_id x, double eps);

int64_t nn_dim(ac_net *m, ac_id x, int k); /* size of dimension k; 1 of poison */
int64_t nn_last(ac_net *m, ac_id x);       /* size of the last dimension */

#endif
