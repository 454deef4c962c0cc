/* nn.c - layers with named weights. */
#include "model/nn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------ weights */

void ac_weights_free(ac_weights *w)
{
    for (size_t i = 0; i < w->values.n; i++)
        free(w->values.p[i]);
    for (size_t i = 0; i < w->blocks.n; i++)
        free(w->blocks.p[i]);
    free(w->values.p);
    free(w->blocks.p);
    free(w->noise);
    memset(w, 0, sizeof *w);
}

static void drop_pages(void *user, const ac_values *v)
{
    const ac_weights *w = user;
    const ac_source *s = ac_layout_find(w->layout, w->part, v->name);
    if (s)
        ac_st_drop(w->layout->st, s->t);
}

/* Values that all random weights share: small, without structure, the same in every run. */
static bool make_noise(ac_weights *w, size_t n)
{
    uint32_t state = 1;

    if (w->n_noise >= n)
        return true;
    free(w->noise);
    w->n_noise = 0;
    if (!(w->noise = ac_calloc(n, sizeof *w->noise)))
        return false;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        w->noise[i] = ac_float_to_half(((float)(state >> 8) * 0x1p-24f - 0.5f) * 0.05f);
    }
    w->n_noise = n;
    return true;
}

enum { NOISE = 64 << 20 }; /* elements: more than any weight of the models here has */

static const void *random_data(ac_weights *w, ac_values *v)
{
    v->type = AC_F16;
    return ac_count(&v->shape) <= NOISE && make_noise(w, NOISE) ? w->noise : NULL;
}

/* Types that the device does not read are converted to f32 here, once. */
static const void *stored_data(ac_weights *w, const ac_source *s, ac_values *v)
{
    ac_st_dtype t = s->t->dtype;
    size_t row = s->t->dims ? (size_t)s->t->bytes / (size_t)AC_MAX(s->t->dim[0], (int64_t)1) : (size_t)s->t->bytes;
    void *copy;

    if (t == AC_ST_F32 || t == AC_ST_F16 || t == AC_ST_BF16) {
        v->type = t == AC_ST_F32 ? AC_F32 : t == AC_ST_F16 ? AC_F16 : AC_BF16;
        v->drop = drop_pages;
        v->user = w;
        return (const char *)s->t->data + (size_t)s->row * row;
    }
    v->type = AC_F32;
    copy = ac_calloc((size_t)ac_source_count(s), sizeof(float));
    if (!copy || !AC_PUSH(&w->blocks, copy)) {
        free(copy);
        return NULL;
    }
    ac_source_read(s, AC_F32, copy);
    return copy;
}

/* The values of a source that were asked for before; NULL: they were not. */
static ac_values *known(const ac_weights *w, const ac_source *s, const ac_shape *shape)
{
    for (size_t i = 0; s && i < w->values.n; i++)
        if (w->values.p[i]->name == s->name && ac_count(&w->values.p[i]->shape) == ac_count(shape))
            return w->values.p[i];
    return NULL;
}

/* The node of a weight as stored; transposed where the file has it so. */
static ac_id stored(ac_net *m, const char *path, const ac_shape *shape)
{
    ac_weights *w = m->w;
    const ac_source *s = NULL;
    ac_values *v;
    ac_id id;
    bool swap;

    if (w->layout) {
        int rc = ac_layout_get(w->layout, w->part, path, shape->n, shape->d, w->dg, &s);
        if (rc < 0) {
            m->g->rc = m->g->rc ? m->g->rc : rc;
            return AC_POISON;
        }
    }
    swap = s && s->transpose;
    if ((v = known(w, s, shape))) {
        id = ac_param(m->g, v);
        return swap ? ac_transpose(m->g, id, 1, 0, -1, -1) : id;
    }
    if (!(v = ac_calloc(1, sizeof *v)) || !AC_PUSH(&w->values, v)) {
        free(v);
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory");
    }
    v->name = s ? s->name : "random";
    v->shape = *shape;
    if (swap)
        v->shape = (ac_shape){2, {shape->d[1], shape->d[0]}};
    w->params += ac_count(shape);
    if (!(v->data = s ? stored_data(w, s, v) : random_data(w, v)))
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory for weight %s", path);
    id = ac_param(m->g, v);
    return swap ? ac_transpose(m->g, id, 1, 0, -1, -1) : id;
}

/* An extra node for values that belong to the LoRA file. */
static ac_id lora_param(ac_net *m, const ac_st_tensor *t, int64_t rows)
{
    ac_values *v = ac_calloc(1, sizeof *v);
    int64_t count = 1;

    if (!v || !AC_PUSH(&m->w->values, v)) {
        free(v);
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory");
    }
    for (int k = 0; k < t->dims; k++)
        count *= t->dim[k];
    if (rows < 1 || count < 1 || count % rows)
        return ac_graph_fail(m->g, ADDCL_E_SHAPE, "lora tensor %s has a bad shape", t->name);
    v->name = t->name;
    v->data = t->data;
    v->shape = (ac_shape){2, {rows, count / rows}};
    if (t->dtype != AC_ST_F32 && t->dtype != AC_ST_F16 && t->dtype != AC_ST_BF16)
        return ac_graph_fail(m->g, ADDCL_E_UNSUPPORTED, "lora tensor %s is of type %s: f32, f16 or bf16 is needed", t->name,
                             ac_st_dtype_name(t->dtype));
    v->type = t->dtype == AC_ST_F32 ? AC_F32 : t->dtype == AC_ST_F16 ? AC_F16 : AC_BF16;
    return ac_param(m->g, v);
}

/* W + multiplier scale (up down), as constant nodes: computed once on the device when the graph is made ready. */
static ac_id with_loras(ac_net *m, ac_id w, const char *path)
{
    ac_shape shape = *ac_shape_of(m->g, w);
    size_t n = strlen(path) - strlen(".weight");

    for (size_t f = 0; f < m->w->n_loras; f++)
        for (size_t i = 0; i < m->w->loras[f]->n; i++) {
            const ac_lora_delta *d = &m->w->loras[f]->delta[i];
            ac_id up, down, delta;
            if (strcmp(d->part, m->w->part) || strncmp(d->module, path, n) || d->module[n])
                continue;
            up = lora_param(m, d->up, d->up->dim[0]);
            down = lora_param(m, d->down, d->down->dim[0]);
            delta = ac_matmul(m->g, ac_cast(m->g, up, AC_F32), ac_cast(m->g, down, AC_F32), false, false);
            delta = ac_scale(m->g, delta, d->scale * m->w->lora_weights[f], 0);
            w = ac_add(m->g, ac_cast(m->g, w, AC_F32), ac_reshape(m->g, delta, shape));
        }
    return w;
}

/* A weight of linear layers with its update, W + scale B A; others as they are. */
static ac_id low_rank(ac_net *m, const char *path, const ac_shape *shape)
{
    ac_params *s = m->w->train;
    ac_net base = {.g = m->g, .w = s->base};
    ac_shape down = ac_dims(2, s->rank, (int)shape->d[1]), up = ac_dims(2, (int)shape->d[0], s->rank);
    int module = (int)strlen(path) - (int)strlen(".weight");
    ac_id w = stored(&base, path, shape), a, b;
    char name[AC_NAME_MAX];

    if (shape->n != 2 || !ac_ends_with(path, ".weight"))
        return w;
    snprintf(name, sizeof name, "%.*s.lora_A.weight", module, path);
    a = ac_params_leaf(s, m->g, name, &down);
    snprintf(name, sizeof name, "%.*s.lora_B.weight", module, path);
    b = ac_params_leaf(s, m->g, name, &up);
    return ac_add(m->g, ac_cast(m->g, w, AC_F32), ac_scale(m->g, ac_matmul(m->g, b, a, false, false), s->scale, 0));
}

ac_id nn_weight(ac_net *m, const char *name, int dims, ...)
{
    ac_shape shape = {.n = dims};
    char path[AC_NAME_MAX];
    va_list ap;
    size_t n;
    ac_id id;

    va_start(ap, dims);
    for (int k = 0; k < dims; k++)
        shape.d[k] = va_arg(ap, int);
    va_end(ap);
    if (m->g->rc)
        return AC_POISON;
    n = (size_t)snprintf(path, sizeof path, "%s%s%s", m->g->scope, *m->g->scope ? "." : "", name);
    if (m->w->train)
        return m->w->train->base ? low_rank(m, path, &shape) : ac_params_leaf(m->w->train, m->g, path, &shape);
    id = stored(m, path, &shape);
    if (m->w->n_loras && n > 7 && n < sizeof path && !strcmp(path + n - 7, ".weight"))
        id = with_loras(m, id, path);
    return id;
}

ac_id nn_constant(ac_net *m, const char *name, ac_shape shape, float *data)
{
    ac_values *v = ac_calloc(1, sizeof *v);

    if (!v || !AC_PUSH(&m->w->values, v)) {
        free(v);
        free(data);
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory");
    }
    if (!AC_PUSH(&m->w->blocks, data)) {
        free(data);
        return ac_graph_fail(m->g, ADDCL_E_NOMEM, "out of memory");
    }
    *v = (ac_values){.name = name, .data = data, .type = AC_F32, .shape = shape};
    return ac_param(m->g, v);
}

/* ------------------------------------------------------------------------------------------ layers */

bool nn_block_begin(ac_net *m)
{
    if (m->checkpoint)
        ac_segment_begin(m->g);
    return true;
}

bool nn_block_end(ac_net *m)
{
    if (m->checkpoint)
        ac_segment_end(m->g);
    return false;
}

ac_id nn_tap(ac_net *m, const char *name, ac_id value)
{
    char path[AC_NAME_MAX];

    if (m->tap && m->g->rc == 0) {
        snprintf(path, sizeof path, "%s%s%s", m->g->scope, *m->g->scope && *name ? "." : "", name);
        m->tap(m->user, m->g, path, value);
    }
    return value;
}

int64_t nn_dim(ac_net *m, ac_id x, int k)
{
    return m->g->rc ? 1 : ac_shape_of(m->g, x)->d[k];
}

int64_t nn_last(ac_net *m, ac_id x)
{
    return m->g->rc ? 1 : ac_shape_of(m->g, x)->d[ac_shape_of(m->g, x)->n - 1];
}

ac_id nn_linear(ac_net *m, const char *name, ac_id x, int64_t out, bool bias, int act)
{
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "%s", name)
    {
        ac_id w = nn_weight(m, "weight", 2, (int)out, (int)nn_last(m, x));
        y = nn_tap(m, "", ac_linear(m->g, x, w, bias ? nn_weight(m, "bias", 1, (int)out) : AC_NONE, act));
    }
    return y;
}

ac_id nn_linear_geglu(ac_net *m, const char *name, ac_id x, int64_t out)
{
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "%s", name)
    {
        ac_id w = nn_weight(m, "weight", 2, (int)(2 * out), (int)nn_last(m, x));
        y = ac_linear_geglu(m->g, x, w, nn_weight(m, "bias", 1, (int)(2 * out)));
    }
    return y;
}

static ac_id conv(ac_net *m, const char *name, ac_id x, int64_t out, int R, const ac_conv_at *at, bool bias)
{
    ac_conv_at same = {1, R / 2, R / 2, R / 2, R / 2, 0, 0};
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "%s", name)
    {
        ac_id w = nn_weight(m, "weight", 4, (int)out, (int)nn_last(m, x), R, R);
        y = nn_tap(m, "", ac_conv(m->g, x, w, bias ? nn_weight(m, "bias", 1, (int)out) : AC_NONE, at ? *at : same));
    }
    return y;
}

ac_id nn_conv(ac_net *m, const char *name, ac_id x, int64_t out, int R, const ac_conv_at *at)
{
    return conv(m, name, x, out, R, at, true);
}

ac_id nn_conv_no_bias(ac_net *m, const char *name, ac_id x, int64_t out, int R, const ac_conv_at *at)
{
    return conv(m, name, x, out, R, at, false);
}

ac_id nn_group_norm(ac_net *m, const char *name, ac_id x, int groups, double eps, int act)
{
    int C = (int)nn_last(m, x);
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "%s", name)
    {
        ac_id w = nn_weight(m, "weight", 1, C), b = nn_weight(m, "bias", 1, C);
        if (m->tap && act) /* the tap is before the activation */
            y = ac_silu(m->g, nn_tap(m, "", ac_group_norm(m->g, x, w, b, groups, eps, AC_ACT_NONE)));
        else
            y = nn_tap(m, "", ac_group_norm(m->g, x, w, b, groups, eps, act));
    }
    return y;
}

ac_id nn_layer_norm(ac_net *m, const char *name, ac_id x, double eps)
{
    int C = (int)nn_last(m, x);
    ac_id y = AC_POISON;

    WITH_SCOPE(m, "%s", name)
    {
        ac_id w = nn_weight(m, "weight", 1, C), b = nn_weight(m, "bias", 1, C);
        y = nn_tap(m, "", ac_layer_norm(m->g, x, w, b, eps));
    }
    return y;
}
