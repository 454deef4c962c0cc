/* api_train.c - training through the public interface. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

#include "diff/train_keys.h"

struct addcl_training {
    addcl_ctx *ctx;
    ac_train_cfg *cfg;
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
    rc = ac_train_config_load(ini, set, n, dg, &t->cfg);
    if (rc < 0)
        free(t);
    else
        *out = t;
    return rc;
}

void addcl_training_free(addcl_training *t)
{
    if (!t)
        return;
    ac_train_config_free(t->cfg);
    free(t);
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
    return rc < 0 ? rc : ac_train(t->ctx, t->cfg, opts);
}
