/* state.c - checkpoints of a run: parameters, moments, averages, counters. Everything random follows from the seed and the
 * counters, so nothing else has to be kept. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"

/* ------------------------------------------------------------------------------------------ saving */

/* The variables of a set as tensors "<kind>.<name>". */
typedef struct part_list {
    AC_VEC(ac_st_entry) entry;
    AC_VEC(ac_var *) var; /* of each entry */
    ac_diag *dg;
} part_list;

static int add_entry(void *user, const char *kind, ac_var *v)
{
    part_list *l = user;
    ac_st_entry e = {.name = ac_printf("%s.%s", kind, v->name), .dtype = AC_ST_F32, .dims = v->shape.n};

    memcpy(e.dim, v->shape.d, sizeof v->shape.d);
    if (e.name && AC_PUSH(&l->entry, e)) {
        if (AC_PUSH(&l->var, v))
            return 0;
    } else {
        free((char *)(uintptr_t)e.name);
    }
    return ac_nomem(l->dg, sizeof e);
}

static void free_list(part_list *l)
{
    for (size_t i = 0; i < l->entry.n; i++)
        free((char *)(uintptr_t)l->entry.p[i].name);
    free(l->entry.p);
    free(l->var.p);
}

static int read_variable(void *user, size_t i, void *dst, size_t bytes)
{
    const part_list *l = user;

    (void)bytes;
    return ac_var_read(l->var.p[i], dst);
}

static json_t *state_json(const ac_training *r)
{
    const ac_progress_state *a = &r->at;

    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f}", "method", r->recipe->name, "step", (json_int_t)a->step, "updates",
                     (json_int_t)a->updates, "skipped", (json_int_t)a->skipped, "bad", (json_int_t)a->bad, "rows", (json_int_t)a->rows,
                     "seconds", a->seconds);
}

int ac_state_save(ac_training *r)
{
    part_list list[AC_SETS] = {0};
    ac_ckpt_part part[AC_SETS];
    json_t *state = state_json(r);
    int rc = state ? 0 : ac_nomem(r->dg, 1);

    for (int k = 0; k < r->n_sets && rc == 0; k++) {
        list[k].dg = r->dg;
        AC_TRY(ac_params_each(&r->sets[k], add_entry, &list[k]));
        part[k] = (ac_ckpt_part){r->sets[k].part, list[k].entry.p, list[k].entry.n, read_variable, &list[k]};
    }
    AC_TRY(rc);
    AC_TRY(ac_ckpt_write(r->dir, r->at.step, part, (size_t)r->n_sets, state, r->dg));
    rc = ac_ckpt_rotate(r->dir, (size_t)r->cfg->checkpoint.checkpoints_total_limit, r->cfg->checkpoint.checkpoint_keep_every, r->dg);
out:
    for (int k = 0; k < r->n_sets; k++)
        free_list(&list[k]);
    json_decref(state);
    return rc;
}

/* ------------------------------------------------------------------------------------------ restoring */

typedef struct restoring {
    ac_training *r;
    const ac_ckpt *c;
    const ac_st *st; /* of the set */
} restoring;

static int restore_variable(void *user, const char *kind, ac_var *v)
{
    const restoring *from = user;
    ac_diag *dg = from->r->dg;
    const ac_st *st = from->st;
    char *name = ac_printf("%s.%s", kind, v->name);
    const ac_st_tensor *t = name ? ac_st_find(st, name) : NULL;
    bool same = t && t->dtype == AC_ST_F32 && t->dims == v->shape.n;
    void *copy = NULL;
    int rc = name ? 0 : ac_nomem(dg, 1);

    for (int d = 0; same && d < t->dims; d++)
        same = t->dim[d] == v->shape.d[d];
    if (rc == 0 && !same)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s has no tensor %s of this model's shape: it belongs to another configuration", ac_ckpt_path(from->c),
                     name);
    AC_TRY(rc);
    if (!(copy = ac_calloc(1, ac_var_bytes(v)))) { /* aligned for the device */
        rc = ac_nomem(dg, ac_var_bytes(v));
        goto out;
    }
    memcpy(copy, t->data, ac_var_bytes(v));
    rc = ac_var_write(v, copy);
    ac_st_drop(st, t);
out:
    free(copy);
    free(name);
    return rc;
}

static int restore_set(ac_training *r, const ac_ckpt *c, const ac_params *set)
{
    restoring from = {r, c, ac_ckpt_part_of(c, set->part)};

    if (!from.st)
        return ac_fail(r->dg, ADDCL_E_FORMAT, "%s holds no %s: it belongs to another configuration", ac_ckpt_path(c), set->part);
    return ac_params_each(set, restore_variable, &from);
}

static int restore_counters(ac_training *r, const ac_ckpt *c)
{
    ac_json j = {.obj = (json_t *)(uintptr_t)ac_ckpt_state(c), .path = ac_ckpt_path(c), .dg = r->dg};
    const char *method = ac_json_str(&j, "method", "");
    ac_progress_state a = {.step = ac_json_int(&j, "step", -1, 0, INT64_MAX),
                           .updates = ac_json_int(&j, "updates", -1, 0, INT64_MAX),
                           .skipped = ac_json_int(&j, "skipped", -1, 0, INT64_MAX),
                           .bad = ac_json_int(&j, "bad", -1, 0, INT64_MAX),
                           .rows = (uint64_t)ac_json_int(&j, "rows", -1, 0, INT64_MAX),
                           .seconds = ac_json_num(&j, "seconds", 0)};

    if (j.rc)
        return j.rc;
    if (a.step < 0 || a.updates < 0 || a.skipped < 0 || a.bad < 0 || !ac_json_has(&j, "rows"))
        return ac_fail(r->dg, ADDCL_E_FORMAT, "%s: state.json lacks a counter", ac_ckpt_path(c));
    if (strcmp(method, r->recipe->name))
        return ac_fail(r->dg, ADDCL_E_FORMAT, "%s is of method %s, this run of %s", ac_ckpt_path(c), method, r->recipe->name);
    r->at = a;
    return 0;
}

int ac_state_restore(ac_training *r, const char *which, bool *found)
{
    ac_ckpt *c = NULL;
    int rc;

    *found = false;
    if (!*which || !strcmp(which, "latest"))
        AC_TRY(ac_ckpt_latest(r->cfg->run.output_dir, r->dg, &c));
    else
        AC_TRY(ac_ckpt_open(which, r->dg, &c));
    if (!c)
        return 0;
    AC_TRY(restore_counters(r, c));
    for (int k = 0; k < r->n_sets; k++)
        AC_TRY(restore_set(r, c, &r->sets[k]));
    *found = true;
out:
    ac_ckpt_close(c);
    return rc;
}

/* ------------------------------------------------------------------------------------------ ranks */

static int share_variable(void *user, const char *kind, ac_var *v)
{
    ac_training *r = user;
    size_t bytes = ac_var_bytes(v);
    void *x = ac_calloc(1, bytes);
    int rc = x ? 0 : ac_nomem(r->dg, bytes);

    (void)kind;
    if (rc == 0 && r->rank == 0)
        rc = ac_var_read(v, x);
    if (rc == 0)
        rc = ac_comm_share(r->comm, 0, x, bytes);
    if (rc == 0 && r->rank > 0)
        rc = ac_var_write(v, x);
    free(x);
    return rc;
}

int ac_state_share(ac_training *r)
{
    int rc = 0;

    if (r->ranks == 1)
        return 0;
    AC_TRY(ac_comm_share(r->comm, 0, &r->at, sizeof r->at));
    for (int k = 0; k < r->n_sets; k++)
        AC_TRY(ac_params_each(&r->sets[k], share_variable, r));
out:
    return rc;
}

/* Continues a checksum with the values of all parameters. */
static int sum_parameters(ac_training *r, uint32_t *crc)
{
    int rc = 0;

    for (int s = 0; s < r->n_sets; s++)
        for (size_t i = 0; i < r->sets[s].p.n && rc == 0; i++) {
            const ac_var *v = r->sets[s].p.p[i].w;
            void *x = ac_calloc(1, ac_var_bytes(v));
            rc = x ? ac_var_read(v, x) : ac_nomem(r->dg, ac_var_bytes(v));
            if (rc == 0)
                *crc = ac_crc32c(*crc, x, ac_var_bytes(v));
            free(x);
        }
    return rc;
}

int ac_state_compare(ac_training *r)
{
    uint32_t mine = 0, first;
    double others = 0;
    int rc = 0;

    if (r->ranks == 1)
        return 0;
    AC_TRY(sum_parameters(r, &mine));
    first = mine;
    AC_TRY(ac_comm_share(r->comm, 0, &first, sizeof first));
    others = mine != first;
    AC_TRY(ac_comm_sum(r->comm, &others, 1));
    if (others > 0) {
        r->together = true;
        rc = ac_fail(r->dg, ADDCL_E_INTERNAL, "the parameters of %.0f of %d ranks are not those of rank 0 after step %lld: ranks must compute on "
                                              "devices of one kind", others, r->ranks, (long long)r->at.step);
    }
out:
    return rc;
}
