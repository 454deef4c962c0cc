/* t_graph.c - graphs and their passes: sharing, errors, equal results with and without each pass, buffers, memory. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_internal.h"
#include "base/rng.h"
#include "graph/pass.h"
#include "ops/ops.h"


static ac_graph *new_graph(void)
{
    ac_graph *g = ac_graph_new(test_diag(), AC_F32);
    assert_non_null(g);
    ac_clear(test_diag());
    return g;
}

static ac_id input(ac_graph *g, const char *name, ac_shape s)
{
    return ac_input(g, name, AC_F32, s);
}

/* ------------------------------------------------------------------------------------------ nodes */

static void equal_nodes_are_one(void **state)
{
    ac_graph *g = new_graph();
    ac_id x = input(g, "x", ac_dims(2, 3, 4)), y = input(g, "y", ac_dims(2, 3, 4)), other;
    size_t nodes;

    (void)state;
    assert_int_equal(ac_add(g, x, y), ac_add(g, x, y));
    assert_int_equal(ac_scale(g, x, 2, 0), ac_scale(g, x, 2, 0));
    assert_int_not_equal(ac_scale(g, x, 2, 0), ac_scale(g, x, 2, 1));
    assert_int_not_equal(ac_add(g, x, y), ac_add(g, y, x));
    assert_int_not_equal(x, y); /* inputs of equal shape and other name */
    other = ac_silu(g, x);
    g->salt = 1;
    assert_int_not_equal(ac_silu(g, x), other); /* asked to be computed again */
    g->salt = 0;
    assert_int_equal(ac_silu(g, x), other);
    nodes = g->nodes.n;
    for (int i = 0; i < 5000; i++) /* the table grows many times */
        assert_int_equal(ac_scale(g, x, i, 7), (ac_id)(nodes + (size_t)i));
    for (int i = 0; i < 5000; i++)
        assert_int_equal(ac_scale(g, x, i, 7), (ac_id)(nodes + (size_t)i));
    assert_int_equal(g->rc, 0);
    ac_graph_free(g);
}

static void views_and_nothing(void **state)
{
    ac_graph *g = new_graph();
    ac_id x = input(g, "x", ac_dims(3, 2, 3, 4));

    (void)state;
    assert_int_equal(ac_reshape(g, x, ac_dims(3, 2, 3, 4)), x);
    assert_int_equal(ac_slice(g, x, 1, 0, 3), x);
    assert_int_equal(ac_pad(g, x, 1, 0, 0), x);
    assert_int_equal(ac_cast(g, x, AC_F32), x);
    assert_int_equal(ac_shape_of(g, ac_reshape(g, x, ac_dims(2, -1, 6)))->d[0], 4);
    assert_int_equal(g->rc, 0);
    ac_graph_free(g);
}

/* The first error stays, with its scope; everything made after it is poison. */
static void errors_stick(void **state)
{
    ac_graph *g = new_graph();
    ac_exec *x = NULL;
    ac_id a = input(g, "a", ac_dims(2, 3, 4)), bad, top;
    const char *outer = ac_scope(g, "%s", "block.0"), *inner = ac_scope(g, "conv%d", 1);

    (void)state;
    bad = ac_concat(g, a, input(g, "b", ac_dims(2, 5, 5)), 0);
    ac_scope_end(g, inner);
    ac_scope_end(g, outer);
    assert_int_equal(bad, AC_POISON);
    assert_int_equal(g->rc, ADDCL_E_SHAPE);
    assert_string_equal(test_diag()->msg, "block.0.conv1: concat: [3,4] and [5,5] do not fit along axis 0");
    top = ac_add(g, bad, a);
    assert_int_equal(top, AC_POISON);
    assert_int_equal(ac_silu(g, a), AC_POISON);
    assert_int_equal(input(g, "c", ac_dims(1, 1)), AC_POISON);
    ac_set_output(g, "y", top);
    assert_int_equal(ac_exec_new(test_device(), g, NULL, &x), ADDCL_E_SHAPE);
    assert_null(x);
    assert_string_equal(test_diag()->msg, "block.0.conv1: concat: [3,4] and [5,5] do not fit along axis 0");
    ac_graph_free(g);
    ac_clear(test_diag());
}

/* Wrong shapes, one op after the other. Each case makes its own graph. */
enum { N_BAD = 32 };
static ac_id make_bad(ac_graph *g, int k)
{
    ac_id v4 = input(g, "v4", ac_dims(1, 4)), m34 = input(g, "m34", ac_dims(2, 3, 4)),
          m35 = input(g, "m35", ac_dims(2, 3, 5));
    ac_id t234 = input(g, "t234", ac_dims(3, 2, 3, 4)), t235 = input(g, "t235", ac_dims(3, 2, 3, 5));
    ac_id image = input(g, "image", ac_dims(4, 1, 6, 6, 4)), w = input(g, "w", ac_dims(4, 8, 4, 3, 3));
    ac_id ids = ac_input(g, "ids", AC_I32, ac_dims(2, 1, 4)), huge = input(g, "huge", ac_dims(2, 65536, 16384));
    ac_conv_at plain = {.stride = 1}, backward = {.stride = -1};

    switch (k) {
    case 0:
        return ac_add(g, m34, m35);
    case 1:
        return ac_mul(g, t234, m35);
    case 2:
        return ac_reshape(g, m34, ac_dims(2, 5, 2));
    case 3:
        return ac_reshape(g, m34, ac_dims(2, -1, 5));
    case 4:
        return ac_geglu(g, m35);
    case 5:
        return ac_sum(g, m34, 0);
    case 6:
        return ac_sum(g, m34, 4);
    case 7:
        return ac_transpose(g, m34, 0, 0, -1, -1);
    case 8:
        return ac_transpose(g, m34, 0, 2, -1, -1);
    case 9:
        return ac_slice(g, m34, 2, 0, 1);
    case 10:
        return ac_slice(g, m34, 1, 2, 3);
    case 11:
        return ac_slice(g, m34, 1, -1, 2);
    case 12:
        return ac_concat(g, m34, m35, 0);
    case 13:
        return ac_concat(g, m34, t234, 1);
    case 14:
        return ac_pad(g, m34, -1, 1, 1);
    case 15:
        return ac_pad(g, m34, 0, -1, 1);
    case 16:
        return ac_resample(g, m34, 2, 2);
    case 17:
        return ac_resample(g, image, 0, 2);
    case 18:
        return ac_embed(g, v4, ids);
    case 19:
        return ac_embed(g, m34, v4); /* ids must be integers */
    case 20:
        return ac_time_embed(g, v4, 3, false, 0);
    case 21:
        return ac_randn(g, ac_input(g, "key", AC_I32, ac_dims(1, 3)), ac_dims(1, 8));
    case 22:
        return ac_group_norm(g, image, v4, v4, 3, 1e-5, 0);
    case 23:
        return ac_group_norm(g, image, v4, m34, 2, 1e-5, 0);
    case 24:
        return ac_layer_norm(g, m35, v4, v4, 1e-5);
    case 25:
        return ac_matmul(g, m34, m35, false, false);
    case 26:
        return ac_linear(g, m34, m34, v4, 0);
    case 27:
        return ac_conv(g, image, input(g, "w5", ac_dims(4, 8, 5, 3, 3)), AC_NONE, plain);
    case 28:
        return ac_conv(g, image, w, v4, plain);
    case 29:
        return ac_conv(g, image, w, AC_NONE, backward);
    case 30:
        return ac_attention(g, t234, t235, t235, 1, false);
    case 31:
        return ac_add(g, ac_reshape(g, huge, ac_dims(3, 65536, 1, 16384)),
                      ac_fill(g, ac_dims(3, 1, 4, 1), 0)); /* 2^32 elements */
    default:
        return AC_NONE;
    }
}

static void wrong_shapes(void **state)
{
    (void)state;
    for (int k = 0; k < N_BAD; k++) {
        ac_graph *g = new_graph();
        const char *top = ac_scope(g, "layer%d", k);
        char head[32];
        ac_id id = make_bad(g, k);
        snprintf(head, sizeof head, "layer%d: ", k);
        if (id != AC_POISON || g->rc != ADDCL_E_SHAPE || strncmp(test_diag()->msg, head, strlen(head)) != 0 ||
            strchr(test_diag()->msg, '\n'))
            fail_msg("case %d: node %d, code %d, message \"%s\"", k, (int)id, g->rc, test_diag()->msg);
        ac_scope_end(g, top);
        ac_graph_free(g);
    }
    ac_clear(test_diag());
}

/* ------------------------------------------------------------------------------------------ running */

typedef struct feed {
    float *v[16];
    double *d[16];
    int n;
} feed;

/* Values for every input of the graph, in creation order. */
static void make_feed(const ac_graph *g, feed *f)
{
    uint64_t seed = 7;

    f->n = 0;
    for (size_t i = 1; i < g->nodes.n; i++) {
        size_t n = (size_t)ac_count(&g->nodes.p[i].shape);
        if (g->nodes.p[i].op != &ac_op_input)
            continue;
        assert_true(f->n < (int)AC_LEN(f->v));
        assert_non_null(f->v[f->n] = ac_calloc(n, sizeof(float)));
        assert_non_null(f->d[f->n] = ac_calloc(n, sizeof(double)));
        ac_mix_fill(&seed, f->v[f->n], n);
        for (size_t k = 0; k < n; k++)
            f->d[f->n][k] = (double)f->v[f->n][k];
        f->n++;
    }
}

static void free_feed(feed *f)
{
    for (int i = 0; i < f->n; i++) {
        free(f->v[i]);
        free(f->d[i]);
    }
}

static void feed_all(ac_exec *x, const ac_graph *g, const feed *f)
{
    int k = 0;

    for (size_t i = 1; i < g->nodes.n; i++)
        if (g->nodes.p[i].op == &ac_op_input) {
            assert_int_equal(
                ac_feed(x, g->nodes.p[i].name, f->v[k], (size_t)ac_count(&g->nodes.p[i].shape) * sizeof(float)), 0);
            k++;
        }
}

/* All outputs of g, run twice with the passes named in `off` left out, are near the reference's. */
static void run_without(const ac_graph *g, const feed *f, double **want, const char *off, bool guard)
{
    ac_exec_opts opts = {.guard = guard};
    ac_exec *x = NULL;

    setenv("ADDCL_OFF", off, 1);
    if (ac_exec_new(test_device(), g, &opts, &x) != 0)
        fail_msg("%s", test_diag()->msg);
    unsetenv("ADDCL_OFF");
    feed_all(x, g, f);
    for (int run = 0; run < 2; run++)
        assert_int_equal(ac_run(x), 0);
    for (size_t o = 0; o < g->outputs.n; o++) {
        size_t n = (size_t)ac_count(ac_shape_of(g, g->outputs.p[o].id));
        float *y = ac_calloc(n, sizeof *y);
        double top = 1e-3;
        assert_int_equal(ac_fetch(x, g->outputs.p[o].name, y, n * sizeof *y), 0);
        for (size_t i = 0; i < n; i++)
            top = fmax(top, fabs(want[o][i]));
        for (size_t i = 0; i < n; i++)
            if (!(fabs((double)y[i] - want[o][i]) <= 3e-5 * top))
                fail_msg("without \"%s\": output %s, element %zu is %.9g, expected %.9g", off, g->outputs.p[o].name, i,
                         (double)y[i], want[o][i]);
        free(y);
    }
    assert_true(!guard || ac_exec_guards_intact(x));
    ac_exec_free(x);
}

static void check_all_ways(const ac_graph *g)
{
    static const char *const off[] = {"", "fuse", "plan", "fold", "fuse,plan", "fuse,plan,fold"};
    double *want[16];
    feed f;

    assert_int_equal(g->rc, 0);
    assert_true(g->outputs.n <= AC_LEN(want));
    make_feed(g, &f);
    assert_int_equal(ac_ref_run(g, (const double *const *)f.d, want), 0);
    for (size_t i = 0; i < AC_LEN(off); i++)
        run_without(g, &f, want, off[i], i % 2);
    for (size_t o = 0; o < g->outputs.n; o++)
        free(want[o]);
    free_feed(&f);
}

static float weights[1 << 16];

/* A parameter of random values. */
static ac_id param(ac_graph *g, ac_values *v, ac_shape s)
{
    uint64_t seed = 3;

    if (weights[0] == 0)
        ac_mix_fill(&seed, weights, AC_LEN(weights));
    assert_true(ac_count(&s) + 64 <= (int64_t)AC_LEN(weights));
    *v = (ac_values){.name = "weight", .data = weights + s.d[0] % 61, .type = AC_F32, .shape = s};
    return ac_param(g, v);
}

/* A small network with all that the passes look for: chains to fuse, values used again later, views, constants that
 * fold, in-place candidates, outputs in the middle, an output that is an input and one that is a constant. */
static ac_graph *make_network(ac_values v[16])
{
    ac_graph *g = new_graph();
    ac_conv_at same = {.stride = 1, .top = 1, .left = 1, .bottom = 1, .right = 1};
    ac_id x = input(g, "x", ac_dims(4, 2, 8, 8, 8)), t = input(g, "t", ac_dims(2, 2, 16)),
          unused = input(g, "unused", ac_dims(1, 3));
    ac_id w1 = param(g, &v[0], ac_dims(4, 16, 8, 3, 3)), b1 = param(g, &v[1], ac_dims(1, 16)),
          w2 = param(g, &v[2], ac_dims(4, 16, 16, 3, 3));
    ac_id w3 = param(g, &v[3], ac_dims(4, 16, 8, 1, 1)), q = param(g, &v[4], ac_dims(2, 48, 16)),
          s = param(g, &v[5], ac_dims(1, 16));
    ac_id lora = ac_scale(
        g, ac_matmul(g, param(g, &v[6], ac_dims(2, 48, 2)), param(g, &v[7], ac_dims(2, 2, 16)), false, false), 0.1, 0);
    ac_id skip = ac_conv(g, x, w3, AC_NONE, (ac_conv_at){.stride = 1}), h, qkv, seq, a;

    (void)unused;
    h = ac_conv(g, x, w1, b1, same);
    h = ac_add(g, h, ac_reshape(g, ac_silu(g, t), ac_dims(4, 2, 1, 1, 16))); /* a row: fused */
    h = ac_silu(g, h);                                                       /* fused */
    ac_set_output(g, "middle", h);
    h = ac_group_norm(g, h, s, b1, 4, 1e-5, AC_ACT_SILU);
    h = ac_conv(g, h, w2, s, same);
    h = ac_add(g, skip, h); /* residual: fused */
    seq = ac_reshape(g, h, ac_dims(3, 2, 64, 16));
    a = ac_layer_norm(g, seq, s, b1, 1e-5);
    qkv = ac_linear(g, a, ac_add(g, q, lora), AC_NONE, AC_ACT_NONE); /* the sum folds */
    a = ac_attention(g, ac_slice(g, qkv, 2, 0, 16), ac_slice(g, qkv, 2, 16, 16), ac_slice(g, qkv, 2, 32, 16), 2, false);
    seq = ac_add(g, seq, a);
    seq = ac_mul(g, ac_tanh(g, seq), ac_sigmoid(g, seq)); /* seq dies in the second */
    ac_set_output(g, "y", ac_add(g, ac_exp(g, ac_scale(g, seq, 0.5, 0)), seq));
    ac_set_output(g, "view", ac_reshape(g, seq, ac_dims(2, 128, 16)));
    ac_set_output(g, "same", x);
    ac_set_output(g, "constant", ac_scale(g, lora, 2, 1));
    ac_set_output(g, "weight", s);
    return g;
}

static void passes_change_nothing(void **state)
{
    ac_values v[16];
    ac_graph *g = make_network(v);

    (void)state;
    check_all_ways(g);
    ac_graph_free(g);
}

/* What may follow a product, in every order and with operands that must not be absorbed. */
static void fusing_what_fits(void **state)
{
    for (int k = 0; k < 12; k++) {
        ac_values v[4];
        ac_graph *g = new_graph();
        ac_id x = input(g, "x", ac_dims(3, 2, 5, 12)), w = param(g, &v[0], ac_dims(2, 24, 12)),
              b = param(g, &v[1], ac_dims(1, 24));
        ac_id r = input(g, "r", ac_dims(3, 2, 5, 24)), row = input(g, "row", ac_dims(3, 2, 1, 24)),
              wide = param(g, &v[2], ac_dims(2, 48, 12));
        ac_id p = ac_linear(g, x, w, AC_NONE, 0), y = p, k3 = input(g, "k3", ac_dims(3, 2, 12, 24));
        switch (k) {
        case 0: /* all of it */
            y = ac_add(g, ac_silu(g, ac_add(g, ac_add(g, p, b), row)), r);
            break;
        case 1: /* the activation after the residual stays outside */
            y = ac_gelu(g, ac_add(g, ac_add(g, p, b), r));
            break;
        case 2: /* bias after the activation */
            y = ac_add(g, ac_relu(g, p), b);
            break;
        case 3: /* two residuals, of which one is another product */
            y = ac_add(g, ac_add(g, r, p), ac_linear(g, x, w, b, AC_ACT_SILU));
            break;
        case 4: /* twice itself */
            y = ac_add(g, p, p);
            break;
        case 5: /* used by two */
            y = ac_add(g, ac_silu(g, p), ac_relu(g, p));
            break;
        case 6: /* the output is the value before the activation */
            ac_set_output(g, "raw", p);
            y = ac_silu(g, p);
            break;
        case 7: /* a broadcast that is neither bias nor row */
            y = ac_add(g, p, input(g, "col", ac_dims(3, 2, 5, 1)));
            break;
        case 8: /* one product of a batch each */
            y = ac_add(g, ac_silu(g, ac_add(g, ac_matmul(g, x, k3, false, false), b)), r);
            break;
        case 9: /* a row cannot join a batch of products */
            y = ac_add(g, ac_matmul(g, x, k3, false, false), row);
            break;
        case 10: /* a gated product takes a bias of its own size only */
            y = ac_add(g, ac_silu(g, ac_add(g, ac_linear_geglu(g, x, wide, AC_NONE), b)), r);
            break;
        default: /* activation twice, then a scalar */
            y = ac_add(g, ac_relu(g, ac_silu(g, p)), ac_fill(g, ac_dims(1, 1), 0.5));
        }
        ac_set_output(g, "y", y);
        check_all_ways(g);
        ac_graph_free(g);
    }
    (void)state;
}

/* ------------------------------------------------------------------------------------------ random graphs */

/* A random network of up to `n` nodes on [6,8] matrices: what people did not think of. */
static ac_graph *random_graph(uint64_t seed, int n)
{
    ac_graph *g = new_graph();
    ac_shape s = ac_dims(2, 6, 8);
    ac_id id[128];
    int have = 0;

    id[have++] = input(g, "a", s);
    id[have++] = input(g, "b", s);
    id[have++] = ac_fill(g, s, 0.25);
    while (have < n) {
        uint64_t r = ac_mix(&seed);
        ac_id a = id[(size_t)have - 1 - r % 8 % (uint64_t)have], b = id[r / 8 % (uint64_t)have], y;
        switch (r / 4096 % 11) {
        case 0:
        case 1:
            y = ac_add(g, a, b);
            break;
        case 2:
            y = ac_mul(g, ac_tanh(g, a), b);
            break;
        case 3:
            y = ac_silu(g, a);
            break;
        case 4:
        case 5:
            y = ac_scale(g, ac_matmul(g, a, ac_reshape(g, b, ac_dims(2, 8, 6)), false, false), 0.2, 0); /* [6,6] */
            y = ac_pad(g, y, 1, 0, 2);
            break;
        case 6:
            y = ac_linear(g, a, ac_concat(g, b, ac_slice(g, a, 0, 1, 2), 0), AC_NONE, AC_ACT_NONE);
            break;
        case 7:
            y = ac_softmax(g, a);
            break;
        case 8:
            y = ac_transpose(g, ac_reshape(g, a, ac_dims(2, 8, 6)), 1, 0, -1, -1);
            break;
        case 9:
            y = ac_reshape(g, ac_relu(g, ac_reshape(g, a, ac_dims(1, 48))), s);
            break;
        default:
            y = ac_sub(g, a, ac_slice(g, b, 0, 2, 1));
        }
        id[have++] = ac_clamp(g, y, -4, 4);
        if (r >> 60 == 0)
            id[have - 1] = y; /* sometimes without the clamp, which no product absorbs */
    }
    for (int k = 0; k < 3; k++) {
        char name[8];
        snprintf(name, sizeof name, "y%d", k);
        ac_set_output(g, name, id[have - 1 - k * have / 4]);
    }
    ac_set_output(g, "view", ac_reshape(g, id[have / 3], ac_dims(1, 48)));
    return g;
}

/* No two values that are needed at the same time are in one buffer. Lifetimes are found anew here, from the selected
 * graph. */
static void check_plan(const ac_graph *g, bool fold)
{
    ac_graph *fused = NULL, *low = NULL;
    ac_slots s;
    ac_id *last;
    size_t n;

    assert_int_equal(ac_fuse(g, &fused), 0);
    assert_int_equal(ac_select(ac_dev_limits(test_device()), fused, NULL, &low), 0);
    assert_int_equal(ac_plan_slots(low, false, fold, &s), 0);
    n = low->nodes.n;
    assert_non_null(last = ac_calloc(n, sizeof *last));
    for (size_t i = 1; i < n; i++)
        for (int k = 0; k < low->nodes.p[i].n_in; k++)
            if (low->nodes.p[i].in[k] != AC_NONE) {
                ac_id root = low->nodes.p[i].in[k];
                while (low->nodes.p[root].op->flags & AC_OP_ALIAS)
                    root = low->nodes.p[root].in[0];
                last[root] = (ac_id)i;
            }
    for (size_t o = 0; o < low->outputs.n; o++) {
        ac_id root = low->outputs.p[o].id;
        while (low->nodes.p[root].op->flags & AC_OP_ALIAS)
            root = low->nodes.p[root].in[0];
        last[root] = INT32_MAX;
    }
    for (size_t a = 1; a < n; a++)
        for (size_t b = a + 1; b < n; b++) {
            const ac_node *p = &low->nodes.p[a], *q = &low->nodes.p[b];
            bool own = p->op->flags & AC_OP_LEAF || q->op->flags & AC_OP_LEAF || (fold && (p->constant || q->constant));
            bool in_place = q->op->flags & AC_OP_INPLACE && last[a] == (ac_id)b;
            if ((p->op->flags | q->op->flags) & AC_OP_ALIAS || s.slot[a] < 0 || s.slot[a] != s.slot[b])
                continue;
            if (own || last[a] > (ac_id)b || (last[a] == (ac_id)b && !in_place))
                fail_msg("%s (node %zu, last read by %d) and %s (node %zu) are in one buffer", p->op->name, a,
                         (int)last[a], q->op->name, b);
            assert_true(s.bytes.p[s.slot[a]] >= ac_node_bytes(p) && s.bytes.p[s.slot[b]] >= ac_node_bytes(q));
        }
    free(last);
    ac_slots_free(&s);
    ac_graph_free(fused);
    ac_graph_free(low);
}

static void random_networks(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 25; seed++) {
        ac_graph *g = random_graph(seed, 10 + (int)seed * 2);
        check_plan(g, true);
        check_plan(g, false);
        check_all_ways(g);
        ac_graph_free(g);
    }
}

/* The plans of networks of Stable Diffusion 2.1's size. */
static void plans_of_real_networks(void **state)
{
    const ac_nets n = ac_bench_nets(test_device(), test_diag(), AC_F16);
    ac_stage_size z = {.batch = 2, .h = 24, .w = 16, .tokens = 77, .guided = true, .plan_only = true};
    ac_stage s;

    (void)state;
    assert_int_equal(ac_stage_unet(&n, &z, &s), 0);
    check_plan(s.g, true);
    ac_stage_free(&s);
    assert_int_equal(ac_stage_decode(&n, &z, &s), 0);
    check_plan(s.g, true);
    ac_stage_free(&s);
    assert_int_equal(ac_stage_text(&n, 0, false, true, &z, &s), 0);
    check_plan(s.g, false);
    ac_stage_free(&s);
}

static void not_named(void *user, const ac_launch *l)
{
    const char *end = user, *at = strstr(l->kernel, end);

    if (at && !at[strlen(end)])
        fail_msg("%s is launched", l->kernel);
}

/* A GPU gets no kernel for CPUs, and a CPU none for GPUs. */
static void kernels_of_the_class(void **state)
{
    static const ac_class classes[] = {AC_CLASS_GPU, AC_CLASS_CPU};
    static char *const foreign[] = {"_vec", "_tile"};
    ac_limits lim = *ac_dev_limits(test_device());

    (void)state;
    for (size_t i = 0; i < AC_LEN(classes); i++) {
        ac_stage_size z = {.batch = 1, .h = 16, .w = 16, .tokens = 77, .plan_only = true};
        ac_dev *fake = NULL;
        ac_nets n;
        ac_stage s;
        lim.cls = classes[i];
        assert_int_equal(ac_dev_fake(&lim, test_diag(), &fake), 0);
        n = ac_bench_nets(fake, test_diag(), AC_F16);
        assert_int_equal(ac_stage_unet(&n, &z, &s), 0);
        ac_exec_launches(s.x, not_named, foreign[i]);
        ac_stage_free(&s);
        ac_dev_close(fake);
    }
}

/* ------------------------------------------------------------------------------------------ memory */

static void compare_peaks(const ac_graph *g)
{
    static const char *const off[] = {"", "plan", "fold", "fuse"};

    for (size_t i = 0; i < AC_LEN(off); i++) {
        ac_exec_opts plan = {.plan_only = true};
        uint64_t before = ac_dev_used(test_device()), planned, got;
        ac_exec *x = NULL;
        setenv("ADDCL_OFF", off[i], 1);
        ac_dev_reset_peak(test_device());
        assert_int_equal(ac_exec_new(test_device(), g, &plan, &x), 0);
        planned = ac_exec_info(x)->peak;
        assert_true(ac_exec_info(x)->flop > 0 && ac_exec_info(x)->launches > 0);
        assert_int_equal(ac_dev_peak(test_device()), before); /* a plan takes nothing */
        ac_exec_free(x);
        assert_int_equal(ac_exec_new(test_device(), g, NULL, &x), 0);
        assert_int_equal(ac_exec_info(x)->peak, planned);
        assert_int_equal(ac_run(x), 0);
        got = ac_dev_peak(test_device()) - before;
        if (got > planned || (double)got < 0.9 * (double)planned)
            fail_msg("without \"%s\": planned %llu bytes, used %llu", off[i], (unsigned long long)planned,
                     (unsigned long long)got);
        ac_exec_free(x);
        assert_int_equal(ac_dev_used(test_device()), before); /* all of it is given back */
    }
    unsetenv("ADDCL_OFF");
}

static void planned_is_measured(void **state)
{
    ac_values v[16];
    ac_graph *g = make_network(v);
    ac_id w;

    (void)state;
    compare_peaks(g);
    ac_graph_free(g);
    g = new_graph(); /* folding takes more than running */
    w = param(g, &v[0], ac_dims(2, 240, 256));
    w = ac_sum(g, ac_mul(g, ac_exp(g, w), ac_silu(g, w)), 3);
    ac_set_output(g, "y", ac_scale(g, ac_mul(g, w, input(g, "x", ac_dims(1, 64))), 2, 0));
    compare_peaks(g);
    ac_graph_free(g);
}

/* Buffers are reused: a chain of 40 values needs few. */
static void chains_are_short(void **state)
{
    ac_graph *g = new_graph();
    ac_id y = input(g, "x", ac_dims(2, 64, 64));
    ac_exec_opts plan = {.plan_only = true};
    ac_exec *x = NULL;

    (void)state;
    for (int i = 0; i < 40; i++)
        y = i % 2 ? ac_tanh(g, y) : ac_transpose(g, y, 1, 0, -1, -1);
    ac_set_output(g, "y", y);
    assert_int_equal(ac_exec_new(test_device(), g, &plan, &x), 0);
    assert_true(ac_exec_info(x)->activations <=
                4 * 64 * 64 * sizeof(float)); /* the input, the output and two in turns */
    ac_exec_free(x);
    ac_graph_free(g);
}

/* A tensor over the device's limit of one buffer is refused before anything is allocated. */
static void too_large(void **state)
{
    const ac_limits lim = {.cls = AC_CLASS_GPU,
                           .vw = 4,
                           .units = 8,
                           .max_wg = 256,
                           .max_item = {256, 256, 64},
                           .global_mem = 1 << 20,
                           .max_alloc = 1 << 18,
                           .local_mem = 32 << 10};
    ac_graph *g = new_graph();
    ac_dev *small = NULL;
    ac_exec *x = NULL;

    (void)state;
    assert_int_equal(ac_dev_fake(&lim, test_diag(), &small), 0);
    ac_set_output(g, "y", ac_silu(g, input(g, "x", ac_dims(1, 1 << 20))));
    assert_int_equal(ac_exec_new(small, g, NULL, &x), ADDCL_E_DEVMEM);
    assert_null(x);
    assert_non_null(strstr(test_diag()->msg, "choose a smaller size"));
    ac_clear(test_diag());
    ac_graph_free(g);
    ac_dev_close(small);
}

/* ------------------------------------------------------------------------------------------ running it */

/* ADDCL_CHECK names the place where the first bad value was made. */
static void check_finds_nan(void **state)
{
    float v[8] = {1, 2, 3, -4, 5, 6, 7, 8};
    ac_graph *g = new_graph();
    ac_id x = input(g, "x", ac_dims(1, 8)), y = ac_scale(g, x, 2, 0);
    const char *top = ac_scope(g, "%s", "up.1");
    ac_exec *e = NULL;

    (void)state;
    y = ac_log(g, y); /* of -8 */
    ac_scope_end(g, top);
    ac_set_output(g, "y", ac_add(g, y, x));
    setenv("ADDCL_CHECK", "1", 1);
    assert_int_equal(ac_exec_new(test_device(), g, NULL, &e), 0);
    unsetenv("ADDCL_CHECK");
    assert_int_equal(ac_feed(e, "x", v, sizeof v), 0);
    assert_int_equal(ac_run(e), ADDCL_E_DIVERGED);
    assert_non_null(strstr(test_diag()->msg, "up.1: log [8]: element 3 is "));
    ac_clear(test_diag());
    v[3] = 4;
    assert_int_equal(ac_feed(e, "x", v, sizeof v), 0);
    assert_int_equal(ac_run(e), 0);
    ac_exec_free(e);
    ac_graph_free(g);
}

static void wrong_feeds(void **state)
{
    float v[8] = {0};
    ac_graph *g = new_graph();
    ac_id x = input(g, "x", ac_dims(1, 8));
    ac_exec *e = NULL;

    (void)state;
    ac_set_output(g, "y", ac_exp(g, x));
    assert_int_equal(ac_exec_new(test_device(), g, NULL, &e), 0);
    assert_int_equal(ac_feed(e, "x", v, sizeof v - 4), ADDCL_E_INTERNAL);
    assert_non_null(strstr(test_diag()->msg, "\"x\""));
    ac_clear(test_diag());
    assert_int_equal(ac_feed(e, "nobody", v, 4), 0); /* an input that no output needs */
    assert_int_equal(ac_feed(e, "x", v, sizeof v), 0);
    assert_int_equal(ac_run(e), 0);
    assert_int_equal(ac_fetch(e, "y", v, sizeof v + 4), ADDCL_E_INTERNAL);
    assert_non_null(strstr(test_diag()->msg, "\"y\""));
    ac_clear(test_diag());
    assert_int_equal(ac_fetch(e, "z", v, sizeof v), ADDCL_E_INTERNAL);
    ac_clear(test_diag());
    assert_int_equal(ac_fetch(e, "y", v, sizeof v), 0);
    assert_true(v[7] == 1);
    ac_exec_free(e);
    ac_graph_free(g);
}

/* From one execution to the next without the host, and in a circle. */
static void carrying(void **state)
{
    float v[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    ac_graph *g = new_graph(), *h = new_graph();
    ac_exec *a = NULL, *b = NULL;

    (void)state;
    ac_set_output(g, "next", ac_scale(g, input(g, "x", ac_dims(1, 8)), 1, 1));
    ac_set_output(h, "y", ac_scale(h, input(h, "x", ac_dims(1, 8)), 10, 0));
    ac_set_output(h, "long", ac_fill(h, ac_dims(1, 9), 0));
    assert_int_equal(ac_exec_new(test_device(), g, NULL, &a), 0);
    assert_int_equal(ac_exec_new(test_device(), h, NULL, &b), 0);
    assert_int_equal(ac_feed(a, "x", v, sizeof v), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ac_run(a), 0);
        assert_int_equal(ac_carry(a, "next", a, "x"), 0);
    }
    assert_int_equal(ac_carry(a, "next", b, "x"), 0);
    assert_int_equal(ac_run(b), 0);
    assert_int_equal(ac_fetch(b, "y", v, sizeof v), 0);
    for (int i = 0; i < 8; i++)
        assert_true(v[i] == (float)(10 * (i + 3)));
    assert_int_equal(ac_carry(a, "nothing", b, "x"), ADDCL_E_INTERNAL);
    assert_int_equal(ac_carry(b, "long", a, "x"), ADDCL_E_INTERNAL);
    assert_int_equal(ac_carry(a, "next", b, "nobody"), 0);
    ac_clear(test_diag());
    ac_exec_free(a);
    ac_exec_free(b);
    ac_graph_free(g);
    ac_graph_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_nodes_are_one),
        cmocka_unit_test(views_and_nothing),
        cmocka_unit_test(errors_stick),
        cmocka_unit_test(wrong_shapes),
        cmocka_unit_test(passes_change_nothing),
        cmocka_unit_test(fusing_what_fits),
        cmocka_unit_test(random_networks),
        cmocka_unit_test(plans_of_real_networks),
        cmocka_unit_test(kernels_of_the_class),
        cmocka_unit_test(planned_is_measured),
        cmocka_unit_test(chains_are_short),
        cmocka_unit_test(too_large),
        cmocka_unit_test(check_finds_nan),
        cmocka_unit_test(wrong_feeds),
        cmocka_unit_test(carrying),
    };
    return cmocka_run_group_tests_name("graph", tests, device_setup, device_teardown);
}
