/* api_train.c - training through the public interface. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

#include "diff/train_keys.h"

struct addcl_training {
    addcl_ctx *ctx;
    ac_train_cfg *cfg;
    ac_comm *comm;
    bool failed, together; /* the run did; all ranks for the same reason */
};

static const char *section_meaning(const char *section)
{
    size_t i = 0;

    while (strcmp(ac_key_sections[i][0], section) != 0)
        i++;
    return ac_key_sections[i][1];
}

int addcl_train_get_key(size_t i, addcl_train_key *key)
{
    const ac_key *k = &ac_keys[i];

    if (i >= ac_n_keys)
        return 0;
    *key = (addcl_train_key){.section = k->section,
                             .name = k->name,
                             .meaning = k->meaning,
                             .section_meaning = section_meaning(k->section),
                             .fallback = k->fallback,
                             .student = k->student,
                             .shown = k->shown,
                             .unit = k->unit,
                             .methods = k->methods};
    ac_key_expects(k, key->expects, sizeof key->expects);
    return 1;
}

int addcl_train_template(addcl_ctx *ctx, char **text)
{
    return ac_train_config_template(NULL, ac_begin(ctx), text);
}

int addcl_training_open(addcl_ctx *ctx, const char *ini, const char *const *set, size_t n, addcl_training **out)
{
    ac_diag *dg = ac_begin(ctx);
    addcl_training *t = ac_calloc(1, sizeof *t);
    int rc;

    *out = NULL;
    if (!t)
        return ac_nomem(dg, sizeof *t);
    t->ctx = ctx;
    AC_TRY(ac_train_config_load(ini, set, n, dg, &t->cfg));
    AC_TRY(ac_comm_open(dg, &t->comm));
    if (t->comm)
        ac_comm_seat(t->comm, &ctx->seat, &ctx->seats);
    *out = t;
    t = NULL;
out:
    addcl_training_free(t);
    return rc;
}

void addcl_training_free(addcl_training *t)
{
    if (!t)
        return;
    ac_comm_close(t->comm, !t->failed || t->together);
    ac_train_config_free(t->cfg);
    free(t);
}

int addcl_training_rank(const addcl_training *t, int *ranks)
{
    if (ranks)
        *ranks = ac_comm_size(t->comm);
    return ac_comm_rank(t->comm);
}

void addcl_training_abort(addcl_training *t, int status)
{
    if (t && !t->together && ac_comm_size(t->comm) > 1)
        ac_comm_abort(t->comm, status);
}

const char *addcl_training_device(const addcl_training *t)
{
    return t->cfg->run.device;
}

int addcl_training_text(const addcl_training *t, char **text)
{
    return ac_train_config_text(t->cfg, ac_begin(t->ctx), text);
}

int addcl_train(addcl_training *t, const addcl_train_opts *opts)
{
    int rc;

    ac_begin(t->ctx);
    rc = ac_need_device(t->ctx);
    if (rc == 0)
        rc = ac_train(t->ctx, t->comm, t->cfg, opts, &t->together);
    t->failed = rc < 0;
    return rc;
}
