/* param.c - parameters in training: initial values, variables. */
#include "model/param.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void free_parameter(ac_parameter *p)
{
    ac_var *const vars[] = {p->w, p->m, p->v, p->ema, p->grad};

    for (size_t i = 0; i < AC_LEN(vars); i++)
        ac_var_free(vars[i]);
    free(p->name);
}

static void free_list(ac_parameter_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free_parameter(&l->p[i]);
    free(l->p);
}

void ac_params_free(ac_params *s)
{
    free_list(&s->p);
    free_list(&s->kept);
    memset(s, 0, sizeof *s);
}

static ac_parameter *find(const ac_parameter_list *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->p[i].name, name))
            return &l->p[i];
    return NULL;
}

ac_parameter *ac_params_find(const ac_params *s, const char *name)
{
    return find(&s->p, name);
}

int64_t ac_params_count(const ac_params *s)
{
    int64_t n = 0;

    for (size_t i = 0; i < s->p.n; i++)
        n += ac_count(&s->p.p[i].w->shape);
    return n;
}

/* ------------------------------------------------------------------------------------------ initial values */

/* Layers whose output joins a residual stream, or is the network's: they start at zero, so that every block starts as the
 * identity (as in the published latent diffusion code). */
static bool starts_at_zero(const char *part, const char *name)
{
    return !strcmp(part, "unet") && (ac_ends_with(name, ".conv2.weight") || ac_ends_with(name, ".proj_out.weight") || !strcmp(name, "conv_out.weight"));
}

static bool is_table(const char *name)
{
    return strstr(name, "embedding.weight") || ac_ends_with(name, "cls_token") || ac_ends_with(name, "class_embedding") || ac_ends_with(name, "mask_token") || strstr(name, "position_embeddings");
}

static void unit_vector(uint64_t *state, float *x, size_t n)
{
    double square = 0;

    ac_mix_normal(state, x, n);
    for (size_t i = 0; i < n; i++)
        square += (double)x[i] * (double)x[i];
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((double)x[i] / sqrt(square));
}

/* Weights of linear layers and convolutions are uniform in +-1/sqrt(fan in), PyTorch's default; tables are normal with
 * standard deviation 0.02; scales are one, biases zero. A head's condition multiplies its channels by factors that start near one:
 * it judges from the first step, and learns what the condition has to do with it. Each parameter has a stream of its own: its values do not depend on
 * the order in which graphs ask. */
static void initial_values(const ac_params *s, const char *name, const ac_shape *shape, float *x)
{
    size_t n = (size_t)ac_count(shape);
    uint64_t state = s->seed ^ ac_fnv(AC_FNV, name, strlen(name));
    double bound = sqrt((double)shape->d[0] / (double)n);

    if (ac_ends_with(name, "lora_B.weight")) {
        memset(x, 0, n * sizeof *x); /* the first step finds the base as it is */
    } else if (ac_ends_with(name, "logit_scale")) {
        x[0] = (float)s->logit_scale;
    } else if (is_table(name)) {
        ac_mix_normal(&state, x, n);
        for (size_t i = 0; i < n; i++)
            x[i] *= 0.02f;
    } else if (ac_ends_with(name, "cmapper.weight")) {
        ac_mix_normal(&state, x, n);
    } else if (ac_ends_with(name, "weight_u") || ac_ends_with(name, "weight_v")) {
        unit_vector(&state, x, n);
    } else if (shape->n == 1) {
        for (size_t i = 0; i < n; i++)
            x[i] = ac_ends_with(name, "bias") && !ac_ends_with(name, "cmapper.bias") ? 0 : 1;
    } else if (!starts_at_zero(s->part, name)) {
        for (size_t i = 0; i < n; i++)
            x[i] = (float)(bound * (2 * ac_mix_uniform(&state) - 1));
    }
}

static int set_values(ac_params *s, ac_parameter *p)
{
    const ac_shape *shape = &p->w->shape;
    const ac_source *src = NULL;
    float *x;
    int rc = 0;

    if (!p->w->buf) /* only planned: but a checkpoint that does not fit is told now */
        return s->layout ? ac_layout_get(s->layout, s->part, p->name, shape->n, shape->d, s->dg, &src) : 0;
    if (!(x = ac_calloc((size_t)ac_count(shape), sizeof *x)))
        return ac_nomem(s->dg, ac_var_bytes(p->w));
    if (s->layout) {
        AC_TRY(ac_layout_get(s->layout, s->part, p->name, shape->n, shape->d, s->dg, &src));
        ac_source_read(src, AC_F32, x);
    } else {
        initial_values(s, p->name, shape, x);
    }
    rc = ac_var_write(p->w, x);
out:
    free(x);
    return rc;
}

/* ------------------------------------------------------------------------------------------ variables */

static int add_parameter(ac_params *s, ac_parameter_list *l, const char *name, const ac_shape *shape)
{
    ac_parameter p = {.name = ac_strdup(name)};
    int rc = p.name ? 0 : ac_nomem(s->dg, strlen(name));

    AC_TRY(rc);
    AC_TRY(ac_var_new(s->dev, name, AC_F32, *shape, &p.w));
    AC_TRY(set_values(s, &p));
    if (!AC_PUSH(l, p))
        rc = ac_nomem(s->dg, sizeof p);
out:
    if (rc < 0)
        free_parameter(&p);
    return rc;
}

/* Makes it when there is none yet. NULL: the error is in the graph. */
static ac_parameter *get(ac_params *s, ac_parameter_list *l, ac_graph *g, const char *name, const ac_shape *shape)
{
    ac_parameter *p = find(l, name);
    char a[96], b[96];

    if (g->rc)
        return NULL;
    if (!p) {
        g->rc = add_parameter(s, l, name, shape);
        if (g->rc < 0)
            return NULL;
        p = &l->p[l->n - 1];
    }
    if (!ac_same_shape(&p->w->shape, shape)) {
        ac_graph_fail(g, ADDCL_E_SHAPE, "parameter %s has shape %s, but %s is asked for", name, ac_shape_text(&p->w->shape, a),
                      ac_shape_text(shape, b));
        return NULL;
    }
    return p;
}

ac_id ac_params_leaf(ac_params *s, ac_graph *g, const char *name, const ac_shape *shape)
{
    const ac_parameter *p = get(s, &s->p, g, name, shape);

    return p ? ac_state(g, s->averages && p->ema ? p->ema : p->w) : AC_POISON;
}

ac_var *ac_params_kept(ac_params *s, ac_graph *g, const char *name, const ac_shape *shape)
{
    const ac_parameter *p = get(s, &s->kept, g, name, shape);

    return p ? p->w : NULL;
}

static int make(const ac_params *s, const ac_parameter *p, ac_var **v)
{
    return *v ? 0 : ac_var_new(s->dev, p->name, AC_F32, p->w->shape, v);
}

int ac_params_train(ac_params *s, bool ema, bool grads)
{
    bool average = ema && !s->live_only;
    int rc = 0;

    for (size_t i = 0; i < s->p.n; i++) {
        ac_parameter *p = &s->p.p[i];
        bool fresh = average && !p->ema;
        AC_TRY(make(s, p, &p->m));
        AC_TRY(make(s, p, &p->v));
        if (average)
            AC_TRY(make(s, p, &p->ema));
        if (grads)
            AC_TRY(make(s, p, &p->grad));
        if (fresh && p->ema->buf)
            AC_TRY(ac_buf_copy(s->dev, p->ema->buf, p->w->buf, ac_var_bytes(p->w)));
    }
out:
    return rc;
}

int ac_params_each(const ac_params *s, ac_var_fn fn, void *user)
{
    int rc = 0;

    for (size_t i = 0; i < s->p.n; i++) {
        const ac_parameter *p = &s->p.p[i];
        const struct {
            const char *kind;
            ac_var *v;
        } all[] = {{"w", p->w}, {"m", p->m}, {"v", p->v}, {"ema", p->ema}};
        for (size_t k = 0; k < AC_LEN(all) && rc == 0; k++)
            rc = all[k].v ? fn(user, all[k].kind, all[k].v) : 0;
    }
    for (size_t i = 0; i < s->kept.n && rc == 0; i++)
        rc = fn(user, "w", s->kept.p[i].w);
    return rc;
}

uint64_t ac_params_bytes(const ac_params *s)
{
    uint64_t n = 0;

    for (size_t i = 0; i < s->p.n; i++) {
        const ac_parameter *p = &s->p.p[i];
        uint64_t vars = 1 + (p->m != NULL) + (p->v != NULL) + (p->ema != NULL) + (p->grad != NULL);
        n += vars * ac_var_bytes(p->w);
    }
    for (size_t i = 0; i < s->kept.n; i++)
        n += ac_var_bytes(s->kept.p[i].w);
    return n;
}
