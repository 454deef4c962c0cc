/* exec.c - a graph made ready for one device: buffers, folded constants, launches, runs. */
#include "graph/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ac_exec {
    ac_dev *dev;
    ac_graph *g;       /* selected: every node that computes has a kernel */
    ac_slots slots;
    ac_buf **buf;      /* by slot; NULL: not allocated (plan only, or nothing lives there) */
    ac_launch *launch; /* by node */
    ac_plan_info info;
    bool fold, trace, check, guard;
};

static bool computes(const ac_node *n)
{
    return !(n->op->flags & (AC_OP_LEAF | AC_OP_ALIAS));
}

/* Nodes that were computed once, before the first run. */
static bool folded(const ac_exec *x, const ac_node *n)
{
    return x->fold && n->constant;
}

/* ------------------------------------------------------------------------------------------ making */

static int prepare_launch(ac_exec *x, ac_id i, bool build)
{
    const ac_node *n = &x->g->nodes.p[i];
    const ac_limits *lim = ac_dev_limits(x->dev);
    size_t cap = AC_MIN(AC_MIN((size_t)256, lim->max_wg), lim->max_item[0]), max_wg = 0, wg;
    int rc = 0;

    for (;; cap /= 2) { /* the compiler may allow a kernel less than the device allows in general */
        ac_launch *l = &x->launch[i];
        *l = (ac_launch){.file = n->kern->file, .kernel = n->kern->name, .wg = cap};
        n->kern->setup(lim, x->g, n, l);
        if (!build)
            return 0;
        AC_TRY(ac_launch_build(x->dev, l, &max_wg));
        wg = 1;
        for (int d = 0; d < l->dims; d++)
            wg *= l->local[d];
        if (wg <= max_wg || cap <= 1)
            break;
    }
out:
    return rc;
}

static void sum_plan(ac_exec *x)
{
    for (size_t s = 0; s < x->slots.bytes.n; s++) {
        size_t b = x->slots.bytes.p[s];
        *(x->slots.constant.p[s] ? &x->info.weights : &x->info.activations) += b;
        x->info.largest = AC_MAX(x->info.largest, b);
    }
    /* Activations are allocated after folding, when its temporaries are gone. */
    x->info.peak = AC_MAX(x->slots.temp_peak, x->info.weights + x->info.activations);
    for (size_t i = 1; i < x->g->nodes.n; i++) {
        const ac_node *n = &x->g->nodes.p[i];
        if (!computes(n) || folded(x, n))
            continue;
        x->info.launches++;
        if (n->op->flop)
            x->info.flop += n->op->flop(x->g, n);
    }
}

static int check_budget(ac_exec *x)
{
    const ac_limits *lim = ac_dev_limits(x->dev);

    if (x->info.largest > lim->max_alloc)
        return ac_fail(x->g->dg, ADDCL_E_DEVMEM, "a tensor of %.0f MB is over the %.0f MB that %s allows for one buffer: choose a smaller size",
                       (double)x->info.largest / 1e6, (double)lim->max_alloc / 1e6, ac_dev_info(x->dev)->name);
    return 0;
}

/* ------------------------------------------------------------------------------------------ folding */

typedef struct fold_state {
    ac_buf **temp; /* by node: a constant that is not kept */
    int *left;     /* by node (root): constant readers still to come */
} fold_state;

static ac_buf *buffer_of(const ac_exec *x, const fold_state *f, ac_id i)
{
    ac_id r = x->slots.root[i];
    return x->slots.slot[r] >= 0 ? x->buf[x->slots.slot[r]] : f ? f->temp[r] : NULL;
}

/* A buffer for constant node r: its own slot's, or a temporary. */
static int constant_buffer(ac_exec *x, fold_state *f, ac_id r)
{
    int slot = x->slots.slot[r];
    return ac_buf_new(x->dev, ac_node_bytes(&x->g->nodes.p[r]), slot >= 0 ? &x->buf[slot] : &f->temp[r]);
}

static int upload(ac_exec *x, fold_state *f, ac_id r)
{
    const ac_values *s = x->g->nodes.p[r].src;
    int rc;

    AC_TRY(constant_buffer(x, f, r));
    AC_TRY(ac_buf_write(x->dev, buffer_of(x, f, r), 0, s->data, ac_node_bytes(&x->g->nodes.p[r])));
    if (s->drop)
        s->drop(s->user, s);
out:
    if (rc < 0)
        ac_context(x->g->dg, "parameter %s", s->name);
    return rc;
}

static int fold_node(ac_exec *x, fold_state *f, ac_id i)
{
    const ac_node *n = &x->g->nodes.p[i];
    ac_buf *in[AC_MAX_IN] = {0};
    int rc = 0;

    for (int k = 0; k < n->n_in; k++) {
        ac_id r = n->in[k] == AC_NONE ? AC_NONE : x->slots.root[n->in[k]];
        if (r == AC_NONE)
            continue;
        if (!buffer_of(x, f, r))
            AC_TRY(upload(x, f, r));
        in[k] = buffer_of(x, f, r);
    }
    AC_TRY(constant_buffer(x, f, i));
    AC_TRY(prepare_launch(x, i, true));
    AC_TRY(ac_launch_run(x->dev, &x->launch[i], buffer_of(x, f, i), in, NULL));
    for (int k = 0; k < n->n_in; k++) {
        ac_id r = n->in[k] == AC_NONE ? AC_NONE : x->slots.root[n->in[k]];
        if (r != AC_NONE && --f->left[r] == 0 && f->temp[r]) {
            ac_buf_free(x->dev, f->temp[r]);
            f->temp[r] = NULL;
        }
    }
out:
    return rc;
}

/* Computes every constant once. Sources are uploaded when their first reader comes up and freed after the last. */
static int fold(ac_exec *x)
{
    size_t nodes = x->g->nodes.n;
    fold_state f = {ac_calloc(nodes, sizeof(ac_buf *)), ac_calloc(nodes, sizeof(int))};
    unsigned done = 0;
    int rc = 0;

    if (!f.temp || !f.left) {
        rc = ac_nomem(x->g->dg, nodes * sizeof(ac_buf *));
        goto out;
    }
    for (size_t i = 1; i < nodes; i++)
        for (int k = 0; folded(x, &x->g->nodes.p[i]) && computes(&x->g->nodes.p[i]) && k < x->g->nodes.p[i].n_in; k++)
            if (x->g->nodes.p[i].in[k] != AC_NONE)
                f.left[x->slots.root[x->g->nodes.p[i].in[k]]]++;
    for (ac_id i = 1; i < (ac_id)nodes; i++) {
        const ac_node *n = &x->g->nodes.p[i];
        if (n->op == &ac_op_param && x->slots.slot[i] >= 0 && !x->buf[x->slots.slot[i]])
            AC_TRY(upload(x, &f, i));
        else if (computes(n) && folded(x, n))
            AC_TRY(fold_node(x, &f, i));
        if (++done % 64 == 0) /* memory of freed temporaries returns only when their readers are done */
            AC_TRY(ac_dev_finish(x->dev));
    }
    AC_TRY(ac_dev_finish(x->dev));
out:
    for (size_t i = 0; f.temp && i < nodes; i++)
        ac_buf_free(x->dev, f.temp[i]);
    free(f.temp);
    free(f.left);
    return rc;
}

/* What tests find in values that were never written, and behind the end of buffers: a NaN of no arithmetic. */
static const uint32_t guard_word = 0x7fc0dead;
enum { GUARD = 64 }; /* bytes */

static int new_activation(ac_exec *x, size_t s)
{
    size_t bytes = AC_CEIL_DIV(x->slots.bytes.p[s], (size_t)4) * 4 + (x->guard ? GUARD : 0);
    int rc;

    AC_TRY(ac_buf_new(x->dev, bytes, &x->buf[s]));
    if (x->guard)
        AC_TRY(ac_buf_fill(x->dev, x->buf[s], guard_word, bytes));
out:
    return rc;
}

bool ac_exec_guards_intact(ac_exec *x)
{
    uint32_t w[GUARD / 4];

    for (size_t s = 0; s < x->slots.bytes.n; s++) {
        if (!x->buf[s] || x->slots.constant.p[s] || x->slots.bytes.p[s] == 0) /* 0: a variable's own buffer, without a guard */
            continue;
        if (ac_buf_read(x->dev, x->buf[s], AC_CEIL_DIV(x->slots.bytes.p[s], (size_t)4) * 4, w, sizeof w) < 0)
            return false;
        for (size_t i = 0; i < AC_LEN(w); i++)
            if (w[i] != guard_word)
                return false;
    }
    return true;
}

bool ac_exec_uses(const ac_exec *x, const ac_kern *k)
{
    for (size_t i = 1; i < x->g->nodes.n; i++)
        if (x->g->nodes.p[i].kern == k)
            return true;
    return false;
}

static int allocate(ac_exec *x)
{
    int rc = 0;

    AC_TRY(fold(x));
    for (size_t s = 0; s < x->slots.bytes.n; s++)
        if (!x->buf[s] && x->slots.bytes.p[s])
            AC_TRY(new_activation(x, s));
    for (ac_id i = 1; i < (ac_id)x->g->nodes.n; i++)
        if (computes(&x->g->nodes.p[i]) && !folded(x, &x->g->nodes.p[i]))
            AC_TRY(prepare_launch(x, i, true));
out:
    return rc;
}

int ac_exec_new(ac_dev *dev, const ac_graph *g, const ac_exec_opts *opts, ac_exec **out)
{
    static const ac_exec_opts none;
    const char *trace = getenv("ADDCL_TRACE"), *check = getenv("ADDCL_CHECK");
    ac_graph *fused = NULL;
    ac_exec *x = NULL;
    int rc = g->rc;

    *out = NULL;
    opts = opts ? opts : &none;
    if (rc)
        return rc;
    if (!(x = ac_calloc(1, sizeof *x)))
        return ac_nomem(g->dg, sizeof *x);
    x->dev = dev;
    x->fold = !ac_pass_off("fold");
    x->guard = opts->guard;
    x->trace = trace && *trace && strcmp(trace, "0") != 0;
    x->check = check && *check && strcmp(check, "0") != 0;
    if (!ac_pass_off("fuse") && !opts->all_outputs_kept)
        AC_TRY(ac_fuse(g, &fused));
    AC_TRY(ac_select(ac_dev_limits(dev), fused ? fused : g, opts->force, &x->g));
    AC_TRY(ac_plan_slots(x->g, ac_pass_off("plan") || opts->all_outputs_kept, x->fold, &x->slots));
    x->buf = ac_calloc(x->slots.bytes.n, sizeof *x->buf);
    x->launch = ac_calloc(x->g->nodes.n, sizeof *x->launch);
    if (!x->buf || !x->launch) {
        rc = ac_nomem(g->dg, x->g->nodes.n * sizeof *x->launch);
        goto out;
    }
    for (size_t i = 1; i < x->g->nodes.n; i++)
        if (x->g->nodes.p[i].var)
            x->buf[x->slots.slot[i]] = x->g->nodes.p[i].var->buf;
    sum_plan(x);
    if (opts->plan_only) {
        for (ac_id i = 1; i < (ac_id)x->g->nodes.n; i++)
            if (computes(&x->g->nodes.p[i]))
                AC_TRY(prepare_launch(x, i, false));
    } else {
        AC_TRY(check_budget(x));
        AC_TRY(allocate(x));
    }
    *out = x;
    x = NULL;
out:
    ac_graph_free(fused);
    ac_exec_free(x);
    return rc;
}

void ac_exec_free(ac_exec *x)
{
    if (!x)
        return;
    for (size_t i = 1; x->buf && i < x->g->nodes.n; i++) /* variables keep their buffers */
        if (x->g->nodes.p[i].var)
            x->buf[x->slots.slot[i]] = NULL;
    for (size_t s = 0; x->buf && s < x->slots.bytes.n; s++)
        ac_buf_free(x->dev, x->buf[s]);
    ac_slots_free(&x->slots);
    ac_graph_free(x->g);
    free(x->buf);
    free(x->launch);
    free(x);
}

const ac_plan_info *ac_exec_info(const ac_exec *x)
{
    return &x->info;
}

/* ------------------------------------------------------------------------------------------ data in and out */

static ac_id find_input(const ac_exec *x, const char *name)
{
    for (ac_id i = 1; i < (ac_id)x->g->nodes.n; i++)
        if (x->g->nodes.p[i].op == &ac_op_input && !strcmp(x->g->nodes.p[i].name, name))
            return i;
    return AC_NONE;
}

static ac_id find_output(const ac_exec *x, const char *name)
{
    for (size_t i = 0; i < x->g->outputs.n; i++)
        if (!strcmp(x->g->outputs.p[i].name, name))
            return x->g->outputs.p[i].id;
    return AC_NONE;
}

static int bad_name(const ac_exec *x, const char *kind, const char *name)
{
    return ac_fail(x->g->dg, ADDCL_E_INTERNAL, "the graph has no %s \"%s\" of this size", kind, name);
}

int ac_feed(ac_exec *x, const char *name, const void *data, size_t bytes)
{
    ac_id i = find_input(x, name);

    if (i == AC_NONE) /* not needed by any output */
        return 0;
    if (ac_node_bytes(&x->g->nodes.p[i]) != bytes)
        return bad_name(x, "input", name);
    return ac_buf_write(x->dev, x->buf[x->slots.slot[i]], 0, data, bytes);
}

int ac_fetch(ac_exec *x, const char *name, void *data, size_t bytes)
{
    ac_id i = find_output(x, name);

    if (i == AC_NONE || ac_node_bytes(&x->g->nodes.p[i]) != bytes)
        return bad_name(x, "output", name);
    return ac_buf_read(x->dev, x->buf[x->slots.slot[i]], 0, data, bytes);
}

int ac_carry(ac_exec *from, const char *output, ac_exec *to, const char *input)
{
    ac_id a = find_output(from, output), b = find_input(to, input);

    if (b == AC_NONE)
        return 0;
    if (a == AC_NONE || ac_node_bytes(&from->g->nodes.p[a]) != ac_node_bytes(&to->g->nodes.p[b]))
        return bad_name(from, "output", output);
    return ac_buf_copy(to->dev, to->buf[to->slots.slot[b]], from->buf[from->slots.slot[a]], ac_node_bytes(&to->g->nodes.p[b]));
}

/* ------------------------------------------------------------------------------------------ running */

static double node_bytes_moved(const ac_graph *g, const ac_node *n)
{
    double b = (double)ac_node_bytes(n);

    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] != AC_NONE)
            b += (double)ac_node_bytes(&g->nodes.p[n->in[k]]);
    return b;
}

static void trace_line(const ac_exec *x, const ac_node *n, const ac_launch *l, double s)
{
    double flop = n->op->flop ? n->op->flop(x->g, n) : 0;
    char shape[96];

    ac_note(x->g->dg, ADDCL_LOG_INFO, "%-52s %-14s %-20s %-20s %9.1f us %7.1f GB/s %7.1f GFLOP/s", n->scope, n->op->name,
            ac_shape_text(&n->shape, shape), l->kernel ? l->kernel : "clblast", s * 1e6, s > 0 ? node_bytes_moved(x->g, n) / s * 1e-9 : 0,
            s > 0 ? flop / s * 1e-9 : 0);
}

static int check_finite(ac_exec *x, ac_id i)
{
    const ac_node *n = &x->g->nodes.p[i];
    size_t count = (size_t)ac_count(&n->shape), bytes = ac_node_bytes(n);
    float *v = NULL;
    char shape[96];
    int rc = 0;

    if (n->type != AC_F32)
        return 0;
    if (!(v = ac_calloc(count, sizeof *v)))
        return ac_nomem(x->g->dg, bytes);
    AC_TRY(ac_buf_read(x->dev, x->buf[x->slots.slot[i]], 0, v, bytes));
    for (size_t k = 0; k < count; k++)
        if (!isfinite(v[k])) {
            rc = ac_fail(x->g->dg, ADDCL_E_DIVERGED, "%s%s%s%s%s %s: element %zu is %f", n->scope, *n->scope ? ": " : "", n->op->name,
                         n->var || n->name ? " " : "", n->var ? n->var->name : n->name ? n->name : "", ac_shape_text(&n->shape, shape), k,
                         (double)v[k]);
            break;
        }
out:
    free(v);
    return rc;
}

/* Who hears of nodes that ran. */
typedef struct listener {
    ac_time_fn timed;
    ac_effect_fn effect;
    void *user;
} listener;

static int run(ac_exec *x, bool check, const listener *who)
{
    int rc = 0;

    for (ac_id i = 1; i < (ac_id)x->g->nodes.n; i++) {
        const ac_node *n = &x->g->nodes.p[i];
        ac_buf *in[AC_MAX_IN] = {0};
        double s = 0;
        if (check && (n->op == &ac_op_input || n->op == &ac_op_state))
            AC_TRY(check_finite(x, i));
        if (!computes(n) || folded(x, n))
            continue;
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] != AC_NONE)
                in[k] = x->buf[x->slots.slot[n->in[k]]];
        AC_TRY(ac_launch_run(x->dev, &x->launch[i], x->buf[x->slots.slot[i]], in, x->trace || who->timed ? &s : NULL));
        if (x->trace)
            trace_line(x, n, &x->launch[i], s);
        if (who->timed)
            who->timed(who->user, n, x->launch[i].kernel ? x->launch[i].kernel : "clblast", s, n->op->flop ? n->op->flop(x->g, n) : 0,
                       node_bytes_moved(x->g, n));
        if (who->effect && n->op->flags & AC_OP_EFFECT)
            AC_TRY(who->effect(who->user, x->g->nodes.p[x->slots.root[n->in[0]]].var));
        if (check && !(n->op->flags & AC_OP_EFFECT))
            AC_TRY(check_finite(x, i));
    }
out:
    return rc;
}

int ac_run(ac_exec *x)
{
    return run(x, x->check, &(listener){0});
}

int ac_run_checked(ac_exec *x)
{
    return run(x, true, &(listener){0});
}

int ac_run_effects(ac_exec *x, ac_effect_fn fn, void *user)
{
    return run(x, x->check, &(listener){.effect = fn, .user = user});
}

int ac_run_timed(ac_exec *x, ac_time_fn fn, void *user)
{
    return run(x, x->check, &(listener){.timed = fn, .user = user});
}

/* ------------------------------------------------------------------------------------------ looking at it */

void ac_exec_dump(const ac_exec *x)
{
    char shape[96];

    for (ac_id i = 1; i < (ac_id)x->g->nodes.n; i++) {
        const ac_node *n = &x->g->nodes.p[i];
        if (!computes(n) || folded(x, n))
            continue;
        ac_note(x->g->dg, ADDCL_LOG_INFO, "%-52s %-14s %-20s %-20s buffer %3d %9.2f MB %9.3f GFLOP", n->scope, n->op->name,
                ac_shape_text(&n->shape, shape), n->kern->name ? n->kern->name : "clblast", x->slots.slot[i],
                (double)ac_node_bytes(n) * 1e-6, n->op->flop ? n->op->flop(x->g, n) * 1e-9 : 0);
    }
    ac_note(x->g->dg, ADDCL_LOG_INFO, "%d launches, %.3f GFLOP, weights %.1f MB, activations %.1f MB, peak %.1f MB", x->info.launches,
            x->info.flop * 1e-9, (double)x->info.weights * 1e-6, (double)x->info.activations * 1e-6, (double)x->info.peak * 1e-6);
}

void ac_exec_launches(const ac_exec *x, void (*fn)(void *user, const ac_launch *l), void *user)
{
    for (size_t i = 1; i < x->g->nodes.n; i++)
        if (computes(&x->g->nodes.p[i]) && x->launch[i].kernel)
            fn(user, &x->launch[i]);
}
