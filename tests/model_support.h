/* model_support.h - networks of the fixtures as graphs: inputs and expected values by the fixture's keys. */
#ifndef AC_MODEL_SUPPORT_H
#define AC_MODEL_SUPPORT_H

#include "support.h"
#include "model/nets.h"


/* Configuration and weights of one network: a folder with config.json and a weight file. */
typedef struct net_files {
    char path[4096]; /* of config.json */
    ac_diag dg;
    ac_json json;
    ac_st *st;
    ac_layout *layout;
    const char *part;
} net_files;

/* Opens <fixtures>/dir as part "unet", "vae" ...; false, with a named SKIP, when it is missing. Not to be moved. */
bool net_open(net_files *f, const char *dir, const char *part);
void net_close(net_files *f);

/* Input of a graph, in every form that an execution may want. */
typedef struct rig_feed {
    char name[64];
    size_t n;
    bool is_int;
    float *f;
    int32_t *i;
    double *d;
} rig_feed;

typedef struct rig_want {
    char key[AC_NAME_MAX];
    ac_id id;
    bool image; /* [B,H,W,C] here, [B,C,H,W] in the fixture */
} rig_want;

/* A graph under construction over the weights of `f`, and what the fixture file `io` says about it. */
typedef struct rig {
    net_files *f;
    const ac_st *io;
    bool *seen; /* by index in io: fed or compared. Borrowed; NULL: not kept */
    ac_graph *g;
    ac_weights w;
    ac_net m;
    AC_VEC(rig_feed) feeds;
    AC_VEC(rig_want) wants;
} rig;

void rig_begin(rig *r, net_files *f, const ac_st *io, ac_type storage);
void rig_end(rig *r);
/* Every module for which io has an "act.<path>" becomes an expected value. */
void rig_tap(rig *r);
/* The tensor `key` as an input; images become [B,H,W,C]. Integers become AC_I32 unless `as_float`. */
ac_id rig_input(rig *r, const char *key, bool as_float);
/* An input of the test's own. `values` is copied. */
ac_id rig_input_ints(rig *r, const char *name, ac_shape shape, const int32_t *values);
/* `id` must come out as the tensor `key`. */
void rig_expect(rig *r, const char *key, ac_id id);
void rig_expect_weight(rig *r, const char *key, ac_id id); /* filters: the same layout here and there */

/* The largest difference, over the largest value of its tensor, of all expected values. */
typedef struct rig_result {
    int compared;
    double worst;
    char key[AC_NAME_MAX]; /* where */
} rig_result;
/* Runs on the device, or in double precision on the host; compares; fails the test on any error. */
rig_result rig_run(rig *r, bool reference);
/* As rig_run, but only gives the values, one for each expected one, in the graph's layout. The caller frees all. */
double **rig_values(rig *r, bool reference);

/* What the fixture says, of *n elements in the graph's layout. The caller frees it. */
double *rig_wanted(const rig *r, const rig_want *w, size_t *n);

/* Prints the result as a comment and fails the test when it exceeds `tol` or nothing was compared. */
void check_result(const char *what, const rig_result *res, double tol);

#endif
