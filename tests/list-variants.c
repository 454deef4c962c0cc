/* list-variants.c - prints "file<TAB>build options", each once, for the programs that the library would build on a GPU:
 * for the cases of every op by every kernel that takes them, for Stable Diffusion 2.1's networks, for the model of the
 * repository. Kernels for CPUs only are not among them: they hold more in private memory than a GPU has. Nothing is run:
 * only the plans are made, for a device that does not exist. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"

/* Limits of a common GPU. */
static const ac_limits gpu = {.cls = AC_CLASS_GPU,
                              .vw = 4,
                              .units = 32,
                              .max_wg = 1024,
                              .max_item = {1024, 1024, 64},
                              .global_mem = (uint64_t)8 << 30,
                              .max_alloc = (uint64_t)2 << 30,
                              .local_mem = 48 << 10};

typedef AC_VEC(char *) lines; /* owned */

static void add_line(void *user, const ac_launch *l)
{
    lines *v = user;
    char *s = ac_printf("%s\t%s", l->file, l->defs + (*l->defs == ' '));

    for (size_t i = 0; s && i < v->n; i++)
        if (!strcmp(s, v->p[i])) {
            free(s);
            return;
        }
    if (!s || !AC_PUSH(v, s)) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
}

/* The programs of a case by one kernel (NULL: the op is lowered). As in ops/check.c, but no values are made. */
static int add_case(ac_dev *dev, const ac_op *op, const ac_case *c, ac_type type, const ac_kern *kern, lines *v)
{
    ac_exec_opts opts = {.plan_only = true, .force = kern};
    ac_values values[AC_MAX_IN];
    ac_id in[AC_MAX_IN];
    ac_graph *g = ac_graph_new(ac_dev_diag(dev), type);
    ac_exec *x = NULL;
    int rc;

    if (!g)
        return ac_nomem(ac_dev_diag(dev), sizeof *g);
    for (int k = 0; k < op->n_in + op->n_opt; k++) {
        char name[2] = {(char)('0' + k), '\0'};
        values[k] = (ac_values){.name = "weight", .type = type, .shape = c->in[k]};
        in[k] = !c->in[k].n          ? AC_NONE
                : op->typed >> k & 1 ? ac_param(g, &values[k])
                                     : ac_input(g, name, op->ints >> k & 1 ? AC_I32 : AC_F32, c->in[k]);
    }
    ac_set_output(g, "y", ac_add_node(g, op, in, op->n_in + op->n_opt, &c->at));
    rc = ac_exec_new(dev, g, &opts, &x);
    if (rc == 0 && (!kern || ac_exec_uses(x, kern)))
        ac_exec_launches(x, add_line, v);
    ac_exec_free(x);
    ac_graph_free(g);
    return rc;
}

/* Weights in f16; the first case of an op in the other types too, which differ in how they load only. */
static int add_ops(ac_dev *dev, lines *v)
{
    static const ac_type types[] = {AC_F16, AC_F32, AC_BF16};
    int rc = 0;

    for (const ac_op *const *op = ac_ops; *op; op++)
        for (const ac_case *c = (*op)->cases; c && c->name; c++)
            for (size_t t = 0; t < ((*op)->typed && c == (*op)->cases ? AC_LEN(types) : 1); t++) {
                if (!(*op)->kern)
                    AC_TRY(add_case(dev, *op, c, types[t], NULL, v));
                for (const ac_kern *k = (*op)->kern; k && k->name; k++)
                    if (k->cls & AC_CLASS_GPU)
                        AC_TRY(add_case(dev, *op, c, types[t], k, v));
            }
out:
    return rc;
}

/* Adds what a stage launches, and frees it. */
static int add_stage(int rc, ac_stage *s, lines *v)
{
    if (rc == 0)
        ac_exec_launches(s->x, add_line, v);
    ac_stage_free(s);
    return rc;
}

static int add_nets(const ac_nets *n, const ac_stage_size *z, lines *v)
{
    ac_nets plain = *n;
    ac_stage s = {0};
    int rc;

    AC_TRY(add_stage(ac_stage_text(n, 0, false, true, z, &s), &s, v));
    AC_TRY(add_stage(ac_stage_unet(n, z, &s), &s, v));
    AC_TRY(add_stage(ac_stage_decode(n, z, &s), &s, v));
    AC_TRY(add_stage(ac_stage_encode(n, z, &s), &s, v));
    if (n->taesd && n->vae) {
        plain.taesd = NULL;
        AC_TRY(add_stage(ac_stage_decode(&plain, z, &s), &s, v));
        AC_TRY(add_stage(ac_stage_encode(&plain, z, &s), &s, v));
    }
out:
    return rc;
}

static int add_gpu(addcl_ctx *ctx, const addcl_model *m, lines *v)
{
    const ac_stage_size large = {.batch = 1, .h = 64, .w = 64, .tokens = 77, .guided = true, .plan_only = true};
    const ac_stage_size small = {.batch = 1, .h = 16, .w = 16, .tokens = 77, .guided = true, .plan_only = true};
    ac_dev *dev = NULL;
    ac_nets n;
    int rc;

    AC_TRY(ac_dev_fake(&gpu, &ctx->dg, &dev));
    AC_TRY(add_ops(dev, v));
    n = ac_bench_nets(dev, &ctx->dg, AC_F16);
    AC_TRY(add_nets(&n, &large, v));
    n = ac_model_nets(m);
    n.dev = dev;
    AC_TRY(add_nets(&n, &small, v));
out:
    ac_dev_close(dev);
    return rc;
}

int main(void)
{
    const char *src = getenv("srcdir");
    char path[4096];
    addcl_model_opts o = {.path = path};
    addcl_ctx *ctx = addcl_new();
    addcl_model *m = NULL;
    lines v = {0};
    int rc;

    if (!ctx)
        return 1;
    snprintf(path, sizeof path, "%s/models/emoji-teacher", src && *src ? src : ".");
    AC_TRY(addcl_model_load(ctx, &o, &m));
    AC_TRY(add_gpu(ctx, m, &v));
out:
    if (rc < 0)
        fprintf(stderr, "list-variants: %s\n", addcl_error(ctx));
    for (size_t i = 0; i < v.n; i++) {
        if (rc == 0)
            puts(v.p[i]);
        free(v.p[i]);
    }
    free(v.p);
    addcl_model_free(m);
    addcl_free(ctx);
    return rc < 0;
}
