/* graph.c - nodes: making, checking, sharing. */
#include "graph/pass.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OP(x) &ac_op_##x,
const ac_op *const ac_ops[] = {
#include "ops/ops.def"
    NULL};
#undef OP

/* ------------------------------------------------------------------------------------------ shapes */

ac_shape ac_dims(int n, ...)
{
    ac_shape s = {.n = n};
    va_list ap;

    va_start(ap, n);
    for (int i = 0; i < n && i < AC_DIMS; i++)
        s.d[i] = va_arg(ap, int);
    va_end(ap);
    return s;
}

int64_t ac_count(const ac_shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->n; i++)
        n *= s->d[i];
    return n;
}

bool ac_same_shape(const ac_shape *a, const ac_shape *b)
{
    if (a->n != b->n)
        return false;
    for (int i = 0; i < a->n; i++)
        if (a->d[i] != b->d[i])
            return false;
    return true;
}

const char *ac_shape_text(const ac_shape *s, char buf[96])
{
    size_t n = 0;

    buf[0] = '\0';
    for (int i = 0; i < s->n && n < 96; i++)
        n += (size_t)snprintf(buf + n, 96 - n, "%s%" PRId64, i ? "," : "[", s->d[i]);
    if (n < 95)
        memcpy(buf + n, s->n ? "]" : "[]", s->n ? 2 : 3);
    return buf;
}

/* Every tensor stays below 2^31 elements, so that kernels may index with int within one tensor. */
static bool shape_ok(const ac_shape *s)
{
    int64_t n = 1;

    for (int i = 0; i < s->n; i++) {
        if (s->d[i] <= 0 || s->d[i] > INT32_MAX)
            return false;
        n *= s->d[i];
        if (n > INT32_MAX)
            return false;
    }
    return s->n >= 1 && s->n <= AC_DIMS;
}

/* ------------------------------------------------------------------------------------------ graph */

ac_graph *ac_graph_new(ac_diag *dg, ac_type weight_type)
{
    static const ac_op poison = {.name = "poison", .flags = AC_OP_LEAF};
    ac_graph *g = ac_calloc(1, sizeof *g);

    if (!g)
        return NULL;
    g->dg = dg;
    g->weight_type = weight_type;
    g->scope = "";
    if (!AC_PUSH(&g->nodes, ((ac_node){.op = &poison, .scope = "", .shape = {.n = 1, .d = {1}}}))) {
        ac_graph_free(g);
        return NULL;
    }
    return g;
}

void ac_graph_free(ac_graph *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->strings.n; i++)
        free(g->strings.p[i]);
    free(g->strings.p);
    free(g->nodes.p);
    free(g->outputs.p);
    free(g->effects.p);
    free(g->table);
    free(g);
}

const ac_node *ac_at_node(const ac_graph *g, ac_id id)
{
    return &g->nodes.p[id];
}

const ac_shape *ac_shape_of(const ac_graph *g, ac_id id)
{
    return &g->nodes.p[id].shape;
}

static ac_id nomem(ac_graph *g)
{
    if (!g->rc)
        g->rc = ac_nomem(g->dg, sizeof(ac_node));
    return AC_POISON;
}

ac_id ac_graph_fail(ac_graph *g, int code, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    if (g->rc)
        return AC_POISON;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    g->rc = ac_fail(g->dg, code, "%s%s%s", g->scope, *g->scope ? ": " : "", text);
    return AC_POISON;
}

static const char *own_string(ac_graph *g, char *s)
{
    if (s && AC_PUSH(&g->strings, s))
        return s;
    free(s);
    nomem(g);
    return NULL;
}

const char *ac_scope(ac_graph *g, const char *fmt, ...)
{
    const char *before = g->scope, *s;
    char text[128];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    s = own_string(g, ac_printf("%s%s%s", before, *before ? "." : "", text));
    if (s)
        g->scope = s;
    return before;
}

void ac_scope_end(ac_graph *g, const char *before)
{
    g->scope = before;
}

void ac_segment_begin(ac_graph *g)
{
    g->segment = ++g->segments;
}

void ac_segment_end(ac_graph *g)
{
    g->segment = 0;
}

/* ------------------------------------------------------------------------------------------ variables */

int ac_var_new(ac_dev *dev, const char *name, ac_type type, ac_shape shape, ac_var **out)
{
    ac_var *v = ac_calloc(1, sizeof *v);
    int rc = 0;

    *out = NULL;
    if (!v || !(v->name = ac_strdup(name))) {
        rc = ac_nomem(ac_dev_diag(dev), sizeof *v);
        goto out;
    }
    v->type = type;
    v->shape = shape;
    v->dev = dev;
    if (!ac_dev_is_fake(dev)) {
        AC_TRY(ac_buf_new(dev, ac_var_bytes(v), &v->buf));
        AC_TRY(ac_buf_fill(dev, v->buf, 0, ac_var_bytes(v)));
    }
    *out = v;
    v = NULL;
out:
    if (rc < 0)
        ac_context(ac_dev_diag(dev), "variable %s", name);
    ac_var_free(v);
    return rc;
}

void ac_var_free(ac_var *v)
{
    if (!v)
        return;
    ac_buf_free(v->dev, v->buf);
    free(v->name);
    free(v);
}

size_t ac_var_bytes(const ac_var *v)
{
    return (size_t)ac_count(&v->shape) * ac_type_size(v->type);
}

int ac_var_write(ac_var *v, const void *data)
{
    return v->buf ? ac_buf_write(v->dev, v->buf, 0, data, ac_var_bytes(v)) : 0;
}

int ac_var_read(const ac_var *v, void *data)
{
    if (!v->buf)
        memset(data, 0, ac_var_bytes(v));
    return v->buf ? ac_buf_read(v->dev, v->buf, 0, data, ac_var_bytes(v)) : 0;
}

/* ------------------------------------------------------------------------------------------ sharing */

static uint64_t hash(const ac_node *n)
{
    uint64_t h = ac_fnv(AC_FNV, &n->op, sizeof n->op);
    h = ac_fnv(h, n->in, sizeof n->in);
    h = ac_fnv(h, &n->at, sizeof n->at);
    h = ac_fnv(h, &n->salt, sizeof n->salt);
    h = ac_fnv(h, &n->var, sizeof n->var);
    return ac_fnv(h, &n->src, sizeof n->src);
}

static bool equal(const ac_node *a, const ac_node *b)
{
    return a->op == b->op && a->salt == b->salt && a->src == b->src && a->var == b->var && a->name == b->name &&
           !memcmp(a->in, b->in, sizeof a->in) && !memcmp(&a->at, &b->at, sizeof a->at);
}

static bool table_grow(ac_graph *g)
{
    size_t n = g->table_n ? 2 * g->table_n : 1024;
    ac_id *t;

    if (g->nodes.n * 2 < g->table_n)
        return true;
    if (!(t = ac_calloc(n, sizeof *t)))
        return false;
    for (size_t i = 1; i < g->nodes.n; i++) {
        size_t k = hash(&g->nodes.p[i]) & (n - 1);
        while (t[k])
            k = (k + 1) & (n - 1);
        t[k] = (ac_id)i;
    }
    free(g->table);
    g->table = t;
    g->table_n = n;
    return true;
}

ac_id ac_share_node(ac_graph *g, const ac_node *n)
{
    size_t k;

    if (g->rc)
        return AC_POISON;
    if (!table_grow(g))
        return nomem(g);
    for (k = hash(n) & (g->table_n - 1); g->table[k]; k = (k + 1) & (g->table_n - 1))
        if (equal(&g->nodes.p[g->table[k]], n))
            return g->table[k];
    if (g->nodes.n >= INT32_MAX / 2 || !AC_PUSH(&g->nodes, *n))
        return nomem(g);
    if (n->op->flags & AC_OP_EFFECT && !AC_PUSH(&g->effects, (ac_id)(g->nodes.n - 1)))
        return nomem(g);
    return g->table[k] = (ac_id)(g->nodes.n - 1);
}

/* ------------------------------------------------------------------------------------------ nodes */

/* Inputs that the op takes only as f32 are cast; integers and numbers must not be mixed up. */
static bool check_inputs(ac_graph *g, ac_node *n)
{
    for (int k = 0; k < n->n_in; k++) {
        ac_type t;
        if (n->in[k] == AC_NONE) {
            if (k >= n->op->n_in)
                continue;
            ac_graph_fail(g, ADDCL_E_INTERNAL, "%s: input %d is missing", n->op->name, k);
            return false;
        }
        if (n->in[k] == AC_POISON)
            return false;
        t = ac_at_node(g, n->in[k])->type;
        if ((t == AC_I32) != ((n->op->ints >> k & 1) != 0)) {
            ac_graph_fail(g, ADDCL_E_SHAPE, "%s: input %d must be %s", n->op->name, k, t == AC_I32 ? "floating point" : "integer");
            return false;
        }
        if ((t == AC_F16 || t == AC_BF16) && !(n->op->typed >> k & 1)) {
            ac_at at = {.i = {AC_F32}};
            n->in[k] = ac_add_node(g, &ac_op_cast, &n->in[k], 1, &at);
        }
    }
    return g->rc == 0;
}

ac_id ac_add_node(ac_graph *g, const ac_op *op, const ac_id *in, int n_in, const ac_at *at)
{
    ac_node n = {.op = op, .n_in = op->n_in + op->n_opt, .type = AC_F32, .salt = g->salt, .segment = g->segment,
                 .scope = g->scope, .constant = true};

    if (g->rc)
        return AC_POISON;
    for (int k = 0; k < AC_MAX_IN; k++)
        n.in[k] = k < n_in ? in[k] : AC_NONE;
    if (at)
        n.at = *at;
    if (!check_inputs(g, &n) || op->infer(g, &n) == AC_POISON || g->rc)
        return AC_POISON;
    if (!shape_ok(&n.shape)) {
        char b[96];
        return ac_graph_fail(g, ADDCL_E_SHAPE, "%s: a tensor of shape %s has over 2^31 elements or none", op->name,
                             ac_shape_text(&n.shape, b));
    }
    for (int k = 0; k < n.n_in; k++)
        if (n.in[k] != AC_NONE && !g->nodes.p[n.in[k]].constant)
            n.constant = false;
    return ac_share_node(g, &n);
}

/* The input of that name; AC_NONE: there is none yet. */
static ac_id find_input(const ac_graph *g, const char *name)
{
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++)
        if (g->nodes.p[i].op == &ac_op_input && !strcmp(g->nodes.p[i].name, name))
            return i;
    return AC_NONE;
}

ac_id ac_input(ac_graph *g, const char *name, ac_type type, ac_shape shape)
{
    ac_node n = {.op = &ac_op_input, .type = type, .shape = shape, .scope = g->scope};
    char a[96], b[96];
    ac_id old;

    if (g->rc)
        return AC_POISON;
    for (int k = 0; k < AC_MAX_IN; k++)
        n.in[k] = AC_NONE;
    if (!shape_ok(&shape))
        return ac_graph_fail(g, ADDCL_E_SHAPE, "input %s: bad shape %s", name, ac_shape_text(&shape, b));
    if ((old = find_input(g, name)) != AC_NONE) {
        const ac_node *o = ac_at_node(g, old);
        if (o->type != type || !ac_same_shape(&o->shape, &shape))
            return ac_graph_fail(g, ADDCL_E_SHAPE, "input %s is of shape %s, but %s is asked for", name, ac_shape_text(&o->shape, a), ac_shape_text(&shape, b));
        return old;
    }
    if (!(n.name = own_string(g, ac_strdup(name))))
        return AC_POISON;
    return ac_share_node(g, &n);
}

ac_id ac_param(ac_graph *g, const ac_values *src)
{
    ac_node n = {.op = &ac_op_param, .type = src->type, .shape = src->shape, .src = src, .scope = g->scope, .constant = true};
    char b[96];

    if (g->rc)
        return AC_POISON;
    for (int k = 0; k < AC_MAX_IN; k++)
        n.in[k] = AC_NONE;
    if (!shape_ok(&src->shape))
        return ac_graph_fail(g, ADDCL_E_SHAPE, "parameter %s: bad shape %s", src->name, ac_shape_text(&src->shape, b));
    return ac_share_node(g, &n);
}

ac_id ac_state(ac_graph *g, ac_var *v)
{
    ac_node n = {.op = &ac_op_state, .type = v->type, .shape = v->shape, .var = v, .scope = g->scope};
    char b[96];

    if (g->rc)
        return AC_POISON;
    for (int k = 0; k < AC_MAX_IN; k++)
        n.in[k] = AC_NONE;
    if (!shape_ok(&v->shape))
        return ac_graph_fail(g, ADDCL_E_SHAPE, "variable %s: bad shape %s", v->name, ac_shape_text(&v->shape, b));
    return ac_share_node(g, &n);
}

void ac_set_output(ac_graph *g, const char *name, ac_id id)
{
    const char *s = own_string(g, ac_strdup(name));

    if (s && !AC_PUSH(&g->outputs, ((ac_output){s, id})))
        nomem(g);
}

ac_type ac_pack_type(const ac_graph *g, ac_id id)
{
    return g->nodes.p[id].constant ? g->weight_type : AC_F32;
}

ac_id ac_stored(ac_graph *g, ac_id id)
{
    ac_at at = {.i = {g->weight_type}};

    if (id == AC_POISON || !g->nodes.p[id].constant || ac_type_size(g->nodes.p[id].type) <= ac_type_size(g->weight_type))
        return id;
    return ac_add_node(g, &ac_op_cast, &id, 1, &at);
}
