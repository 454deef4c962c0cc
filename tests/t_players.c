/* t_players.c - who learns from what in adversarial distillation, in pictures and in latents: on small networks with random weights, all
 * of them as if they were trained. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "train/add.h"

enum { B = 4 };

static void must(int rc, const ac_diag *dg)
{
    if (rc != 0)
        fail_msg("%s", dg->msg);
}

enum { STUDENT, HEADS, TEACHER, DECODER, FEATURES, PLAYERS };

static const char *const player_names[PLAYERS] = {"unet", "discriminator", "unet", "vae", "image_encoder"};
static const ac_unet_cfg small_unet = {.in_channels = 4, .out_channels = 4, .sample_size = 4, .levels = 2, .channels = {32, 32}, .layers = 1,
                                       .down_attn = {1, 0}, .up_attn = {0, 1}, .mid_attn = true, .heads = {2, 2}, .blocks = {1, 1}, .context = 8,
                                       .linear = true, .groups = 32, .eps = 1e-5, .flip = true};
static const ac_vae_cfg small_vae = {.in_channels = 3, .out_channels = 3, .latent = 4, .levels = 3, .channels = {8, 8, 8}, .layers = 1, .groups = 4,
                                     .post_quant = true, .quant = true, .scaling = 1};
static const ac_vit_cfg small_vit = {.width = 16, .ff = 32, .layers = 2, .heads = 2, .channels = 3, .patch = 4, .image_size = 16, .act = AC_ACT_GELU,
                                     .eps = 1e-6, .qkv_bias = true};

typedef struct arena {
    ac_params set[PLAYERS];
    ac_weights weights[PLAYERS];
    ac_net net[PLAYERS];
    ac_add_opts o;
    ac_graph *g;
    ac_id loss;
    ac_exec *x;
} arena;

enum { ADVERSARIAL = 1, DISTILL = 2, IN_LATENTS = 4 /* the discriminator looks through the teacher */, DECODE_REAL = 8 };

static void arena_nets(arena *a, int with, ac_heads *heads, ac_add_nets *n)
{
    memset(a, 0, sizeof *a);
    a->o = (ac_add_opts){.B = B, .h = 4, .w = 4, .side = 16, .T = 3, .text_dim = 8, .image_condition = true, .augment = true,
                         .adversarial = with & ADVERSARIAL, .distill = with & DISTILL, .decode_real = with & DECODE_REAL,
                         .adversary_weight = 1, .gamma = 0.1, .lambda = 2.5, .pixels = true, .teacher_steps = 1, .guidance = 1};
    a->g = ac_graph_new(test_diag(), AC_F32);
    for (int k = 0; k < PLAYERS; k++) {
        a->set[k] = (ac_params){.dev = test_device(), .dg = test_diag(), .part = player_names[k], .seed = 11 + (uint64_t)k};
        a->weights[k] = (ac_weights){.train = &a->set[k], .part = player_names[k], .dg = test_diag()};
        a->net[k] = (ac_net){.g = a->g, .w = &a->weights[k]};
    }
    *n = (ac_add_nets){.student = &a->net[STUDENT], .teacher = &a->net[TEACHER], .decoder = &a->net[DECODER], .head = &a->net[HEADS], .unet = &small_unet,
                       .teacher_unet = &small_unet, .vae = &small_vae, .heads = heads,
                       .features = {.net = &a->net[FEATURES], .vit = &small_vit, .tap = {0, 1}, .n_taps = 2, .embedding = true}};
    ac_vit_norm(&small_vit, n->features.mean, n->features.std);
    if (with & IN_LATENTS) {
        a->o.augment = a->o.image_condition = a->o.pixels = false;
        n->features = (ac_features){.net = &a->net[TEACHER], .unet = &small_unet, .n_taps = ac_unet_taps(&small_unet)};
    }
}

static void arena_open(arena *a, int with)
{
    ac_heads heads = {.virtual_batch = 2, .cmap = 4};
    ac_add_nets n;

    arena_nets(a, with, &heads, &n);
    a->loss = ac_add_loss(a->g, &n, &a->o);
    if (with & DECODE_REAL)
        ac_set_output(a->g, "real", ac_vae_decode(&a->net[DECODER], &small_vae, ac_input(a->g, "x0", AC_F32, ac_dims(4, B, 4, 4, 4))));
    ac_heads_keep(&heads, a->g);
    ac_heads_free(&heads);
    ac_set_output(a->g, "loss", a->loss);
    if (a->g->rc)
        fail_msg("%s", test_diag()->msg);
}

static void arena_close(arena *a)
{
    ac_exec_free(a->x);
    ac_graph_free(a->g);
    for (int k = 0; k < PLAYERS; k++)
        ac_params_free(&a->set[k]);
}

/* Random values for every input; those named `other` come from another seed. The real pictures may be given. */
static void arena_run(arena *a, const char *other, const float *pixels)
{
    for (size_t i = 0; i < a->g->nodes.n; i++) {
        const ac_node *n = &a->g->nodes.p[i];
        size_t count = n->name ? (size_t)ac_count(&n->shape) : 0;
        uint64_t seed = n->name ? ac_fnv(AC_FNV, n->name, strlen(n->name)) + (other && !strcmp(other, n->name)) : 0;
        float *v;
        if (!n->name)
            continue;
        assert_non_null(v = calloc(count, sizeof *v));
        if (n->type == AC_F32)
            ac_mix_fill(&seed, v, count);
        must(ac_feed(a->x, n->name, pixels && !strcmp(n->name, "pixels") ? pixels : v, count * sizeof *v), test_diag());
        free(v);
    }
    must(ac_run(a->x), test_diag());
}

static float arena_value(arena *a, const char *name)
{
    float v;

    must(ac_fetch(a->x, name, &v, sizeof v), test_diag());
    return v;
}

/* Number of parameters of a player that the loss has a gradient for; and in the output "square", which is made where there are
 * any, the sum of its squares. */
static size_t reached(arena *a, int player)
{
    int n = (int)a->set[player].p.n;
    ac_id *leaf = calloc((size_t)n + 1, sizeof *leaf), *gx = calloc((size_t)n + 1, sizeof *gx);
    size_t count = 0;

    assert_true(leaf && gx);
    for (int i = 0; i < n; i++)
        leaf[i] = ac_state(a->g, a->set[player].p.p[i].w);
    ac_grad(a->g, a->loss, AC_NONE, leaf, n, gx);
    for (int i = 0; i < n; i++)
        if (gx[i] != AC_NONE)
            gx[count++] = gx[i];
    if (count)
        ac_set_output(a->g, "square", ac_reshape(a->g, ac_sum_squares(a->g, gx, (int)count), ac_dims(1, 1)));
    free(leaf);
    free(gx);
    return count;
}

/* Student and heads learn, each from its own terms. Neither teacher nor features could, if they were trained; a decoder could. */
static void learners(void **state)
{
    arena a;

    (void)state;
    for (int with = 1; with < 6; with++) {
        if (with == IN_LATENTS)
            continue;
        arena_open(&a, with);
        assert_int_equal(reached(&a, TEACHER), 0);
        assert_int_equal(reached(&a, FEATURES), 0);
        assert_int_equal(reached(&a, HEADS), with & ADVERSARIAL ? a.set[HEADS].p.n : 0);
        arena_close(&a);
        arena_open(&a, with);
        assert_int_equal(reached(&a, STUDENT), a.set[STUDENT].p.n);
        must(ac_exec_new(test_device(), a.g, NULL, &a.x), test_diag());
        /* The UNet's last filters begin at zero, and so does what lies before them: a little of everything. */
        for (size_t i = 0; i < a.set[STUDENT].p.n; i++) {
            ac_var *v = a.set[STUDENT].p.p[i].w;
            size_t n = (size_t)ac_count(&v->shape);
            float *x = calloc(n, sizeof *x);
            uint64_t seed = i;
            assert_non_null(x);
            ac_mix_fill(&seed, x, n);
            for (size_t j = 0; j < n; j++)
                x[j] *= 0.2f;
            assert_int_equal(ac_var_write(v, x), 0);
            free(x);
        }
        arena_run(&a, NULL, NULL);
        assert_true(arena_value(&a, "square") > 0);
        arena_close(&a);
    }
}

/* What the student makes changes no verdict on real pictures, nor its slope: they share no batch norm. The spectral norms, which
 * every pass moves, are the same in both runs. */
static void check_apart(int with)
{
    arena a;
    float r1[2], above[2], hinge[2];

    for (int k = 0; k < 2; k++) {
        arena_open(&a, with);
        must(ac_exec_new(test_device(), a.g, NULL, &a.x), test_diag());
        arena_run(&a, k ? "x_s" : NULL, NULL);
        r1[k] = arena_value(&a, "r1");
        above[k] = arena_value(&a, "real_above");
        hinge[k] = arena_value(&a, "hinge");
        arena_close(&a);
    }
    assert_true(r1[0] == r1[1] && r1[0] > 0);
    assert_true(above[0] == above[1]);
    assert_true(hinge[0] != hinge[1]);
}

static void apart(void **state)
{
    (void)state;
    check_apart(ADVERSARIAL);
    check_apart(ADVERSARIAL | IN_LATENTS);
}

/* Real pictures that pass the autoencoder are judged as pictures that look so would be. */
static void decoded(void **state)
{
    static const char *const names[] = {"r1", "hinge", "adv"};
    float value[2][AC_LEN(names)], real[B * 16 * 16 * 3];
    arena a;

    (void)state;
    for (int k = 0; k < 2; k++) {
        arena_open(&a, k ? ADVERSARIAL : ADVERSARIAL | DECODE_REAL);
        must(ac_exec_new(test_device(), a.g, NULL, &a.x), test_diag());
        arena_run(&a, NULL, k ? real : NULL);
        for (size_t i = 0; i < AC_LEN(names); i++)
            value[k][i] = arena_value(&a, names[i]);
        if (k == 0)
            must(ac_fetch(a.x, "real", real, sizeof real), test_diag());
        arena_close(&a);
    }
    for (size_t i = 0; i < AC_LEN(names); i++)
        assert_true(fabsf(value[0][i] - value[1][i]) < 1e-4f * (1 + fabsf(value[0][i])));
}

/* What heads see with a map is what they see without it, mapped. */
static void check_mapped(int with)
{
    enum { MOST = 32, ROWS = B * 16 };
    float map[MOST * MOST + MOST], plain[ROWS * MOST], seen[ROWS * MOST];
    ac_id out[2][AC_TAPS + 1];
    uint64_t seed = 3;
    ac_add_nets n;
    arena a;
    char name[32];

    ac_mix_fill(&seed, map, AC_LEN(map));
    arena_nets(&a, with, NULL, &n);
    a.o.augment = false;
    for (int pass = 0; pass < 2; pass++) {
        for (int k = 1; k < ac_feature_count(&n.features) && pass; k++)
            n.features.whiten[k] = map;
        ac_add_real_features(a.g, &n, &a.o, out[pass]);
        for (int k = 0; k < ac_feature_count(&n.features); k++) {
            snprintf(name, sizeof name, "%d.%d", pass, k);
            ac_set_output(a.g, name, out[pass][k]);
        }
    }
    must(ac_exec_new(test_device(), a.g, NULL, &a.x), test_diag());
    arena_run(&a, NULL, NULL);
    for (int k = 0; k < ac_feature_count(&n.features); k++) {
        const ac_shape *s = ac_shape_of(a.g, out[0][k]);
        int T = (int)s->d[1], C = (int)s->d[2];
        size_t bytes = (size_t)(B * T * C) * sizeof(float);
        assert_true(T * B <= ROWS && C <= MOST);
        snprintf(name, sizeof name, "0.%d", k);
        must(ac_fetch(a.x, name, plain, bytes), test_diag());
        snprintf(name, sizeof name, "1.%d", k);
        must(ac_fetch(a.x, name, seen, bytes), test_diag());
        for (int i = 0; i < B * T; i++)
            for (int c = 0; c < C; c++) {
                double want = k ? (double)map[C * C + c] : (double)plain[i * C + c];
                for (int j = 0; j < C && k; j++)
                    want += (double)map[c * C + j] * (double)plain[i * C + j];
                assert_true(fabs((double)seen[i * C + c] - want) < 1e-4 * (1 + fabs(want)));
            }
    }
    arena_close(&a);
}

static void mapped(void **state)
{
    (void)state;
    check_mapped(ADVERSARIAL);
    check_mapped(ADVERSARIAL | IN_LATENTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(learners), cmocka_unit_test(apart), cmocka_unit_test(decoded), cmocka_unit_test(mapped)};

    return cmocka_run_group_tests_name("players", tests, device_setup, device_teardown);
}
