/* t_adversarial.c - an autoencoder against a discriminator: whose loss moves what, from when on, and that both learn.
 */
#include "model_support.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "diff/loss.h"
#include "train/train.h"

enum { SIDE = 16, FACTOR = 2, LATENT = 4, BATCH = 2, PIXELS = BATCH * SIDE * SIDE * 3 };
enum { VAE, DISC };          /* sets of parameters */
enum { L1, KL, GEN, HINGE }; /* scalars of a step */
#define WEIGHT "0.7"

/* ------------------------------------------------------------------------------------------ a run on two pictures */

typedef struct duel {
    addcl_ctx ctx;
    addcl_model model;
    ac_train_cfg *cfg;
    ac_training r;
    float image[PIXELS];
} duel;

/* The recipe's own feed, of the same batch in every step. */
static int feed_same(ac_training *r, ac_exec *x, const ac_batch *b)
{
    duel *d = (duel *)r->ctx;
    ac_batch same = {.n = BATCH, .image = d->image};

    (void)b;
    return ac_recipe_vae.feed(r, x, &same);
}

/* `more`: further settings, ends with NULL. */
static void duel_open(duel *d, const char *const *more)
{
    const char *set[24] = {"run.method=vae",           "run.output_dir=none",
                           "run.max_train_steps=100",  "model.config=none",
                           "data.train_data_dir=none", "data.resolution=16",
                           "data.train_batch_size=2",  "optimizer.learning_rate=1e-3",
                           "optimizer.ema_decay=0.9",  ("loss.adversarial_weight=" WEIGHT)};
    size_t n = 0;
    uint64_t seed = 1;

    while (set[n])
        n++;
    for (; *more; more++)
        set[n++] = *more;
    memset(d, 0, sizeof *d);
    d->ctx.dev = test_device();
    if (ac_train_config_load(NULL, set, n, &d->ctx.dg, &d->cfg) < 0)
        fail_msg("%s", d->ctx.dg.msg);
    d->model.vae = (ac_vae_cfg){.in_channels = 3,
                                .out_channels = 3,
                                .latent = LATENT,
                                .levels = 2,
                                .channels = {8, 16},
                                .layers = 1,
                                .groups = 4,
                                .quant = true,
                                .post_quant = true,
                                .scaling = 1};
    d->model.part[AC_VAE].present = true;
    d->r = (ac_training){.ctx = &d->ctx,
                         .dev = test_device(),
                         .dg = ac_dev_diag(test_device()),
                         .cfg = d->cfg,
                         .recipe = &ac_recipe_vae,
                         .model = &d->model,
                         .ranks = 1};
    assert_int_equal(ac_recipe_vae.open(&d->r), 0);
    ac_mix_fill(&seed, d->image, PIXELS);
}

static void duel_close(duel *d)
{
    ac_step_close(&d->r.stepper);
    ac_recipe_vae.close(&d->r);
    for (int k = 0; k < d->r.n_sets; k++)
        ac_params_free(&d->r.sets[k]);
    ac_train_config_free(d->cfg);
}

/* ------------------------------------------------------------------------------------------ gradients */

static ac_id input_of(const ac_graph *g, const char *name)
{
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++)
        if (g->nodes.p[i].name && !strcmp(g->nodes.p[i].name, name))
            return i;
    fail_msg("no input %s", name);
    return AC_POISON;
}

static ac_id leaves_distance(ac_graph *g, const ac_id *a, const ac_id *b, int n)
{
    ac_id *d = calloc((size_t)n, sizeof *d), sum;

    assert_non_null(d);
    for (int i = 0; i < n; i++)
        d[i] = ac_sub(g, a[i], b[i]);
    sum = ac_sum_squares(g, d, n);
    free(d);
    return sum;
}

/* Outputs: squared distance of the gradient of `combined` from that of `own` by the parameters of a set, and its
 * square. */
static void compare_gradients(duel *d, ac_graph *g, int set, ac_id combined, ac_id own, const char *distance,
                              const char *square)
{
    ac_params *s = &d->r.sets[set];
    int n = (int)s->p.n;
    ac_id *leaf = calloc((size_t)n, sizeof *leaf), *got = calloc((size_t)n, sizeof *got),
          *want = calloc((size_t)n, sizeof *want);

    assert_true(leaf && got && want);
    for (int i = 0; i < n; i++)
        leaf[i] = ac_state(g, s->p.p[i].w);
    ac_grad(g, combined, AC_NONE, leaf, n, got);
    ac_grad(g, own, AC_NONE, leaf, n, want);
    ac_set_output(g, distance, leaves_distance(g, got, want, n));
    ac_set_output(g, square, ac_sum_squares(g, want, n));
    free(leaf);
    free(got);
    free(want);
}

/* The method's loss, and both losses as they are defined, each differentiated by the parameters of its own player only.
 */
static ac_graph *gradients(duel *d)
{
    ac_graph *g = ac_graph_new(d->r.dg, AC_F32);
    ac_weights wv = {.train = &d->r.sets[VAE], .part = "vae", .dg = d->r.dg};
    ac_weights wd = {.train = &d->r.sets[DISC], .part = "discriminator", .dg = d->r.dg};
    ac_net vae = {.g = g, .w = &wv}, disc = {.g = g, .w = &wd};
    ac_id combined, image, on, moments, z, decoded, made, own;

    assert_non_null(g);
    g->training = true;
    combined = ac_recipe_vae.loss(&d->r, g, BATCH);
    image = input_of(g, "image");
    on = input_of(g, "adversarial");
    moments = ac_vae_encode(&vae, &d->model.vae, image);
    z = ac_exp(g, ac_scale(g, ac_slice(g, moments, 3, LATENT, LATENT), 0.5, 0));
    z = ac_add(g, ac_slice(g, moments, 3, 0, LATENT), ac_mul(g, z, input_of(g, "noise")));
    decoded = ac_vae_decode(&vae, &d->model.vae, z);
    made = ac_patch_disc(&disc, decoded);
    own = ac_mul(g, on, ac_scale(g, ac_loss_generator(g, made), atof(WEIGHT), 0));
    own = ac_add(g, ac_vae_loss(g, d->cfg, image, decoded, moments), own);
    ac_set_output(g, "combined", combined);
    ac_set_output(g, "own", own);
    compare_gradients(d, g, VAE, combined, own, "distance_vae", "square_vae");
    own = ac_mul(g, on, ac_loss_discriminator(g, ac_patch_disc(&disc, image), made));
    compare_gradients(d, g, DISC, combined, own, "distance_disc", "square_disc");
    if (g->rc)
        fail_msg("%s", d->r.dg->msg);
    return g;
}

typedef struct outcome {
    double combined, own, distance[2], square[2];
} outcome;

static const char *const output_names[] = {"combined",      "own",        "distance_vae",
                                           "distance_disc", "square_vae", "square_disc"};

/* In the order of output_names. */
static double *slot_of(outcome *o, size_t k)
{
    return (double *[]){
        &o->combined, &o->own, &o->distance[VAE], &o->distance[DISC], &o->square[VAE], &o->square[DISC]}[k];
}

enum { NOISE = BATCH * (SIDE / FACTOR) * (SIDE / FACTOR) * LATENT };

static outcome on_host(const ac_graph *g, const float *image, const float *noise, float on)
{
    double images[PIXELS], noises[NOISE], one = (double)on, *out[16];
    const double *feeds[] = {images, noises, &one}; /* in the order in which the method makes its inputs */
    outcome o;

    assert_in_range(g->outputs.n, 1, AC_LEN(out));
    for (int i = 0; i < PIXELS; i++)
        images[i] = (double)image[i];
    for (int i = 0; i < NOISE; i++)
        noises[i] = (double)noise[i];
    assert_int_equal(ac_ref_run(g, feeds, out), 0);
    for (size_t i = 0; i < g->outputs.n; i++) {
        for (size_t k = 0; k < AC_LEN(output_names); k++)
            if (!strcmp(g->outputs.p[i].name, output_names[k]))
                *slot_of(&o, k) = out[i][0];
        free(out[i]);
    }
    return o;
}

static outcome on_device(const ac_graph *g, const float *image, const float *noise, float on)
{
    ac_exec_opts opts = {.guard = true};
    ac_exec *x;
    outcome o;

    assert_int_equal(ac_exec_new(test_device(), g, &opts, &x), 0);
    assert_int_equal(ac_feed(x, "image", image, PIXELS * sizeof *image), 0);
    assert_int_equal(ac_feed(x, "noise", noise, NOISE * sizeof *noise), 0);
    assert_int_equal(ac_feed(x, "adversarial", &on, sizeof on), 0);
    assert_int_equal(ac_run(x), 0);
    for (size_t k = 0; k < AC_LEN(output_names); k++) {
        float f;
        assert_int_equal(ac_fetch(x, output_names[k], &f, sizeof f), 0);
        *slot_of(&o, k) = (double)f;
    }
    assert_true(ac_exec_guards_intact(x));
    ac_exec_free(x);
    return o;
}

static void check_outcome(const outcome *o, bool on, double tol)
{
    double vae = sqrt(o->distance[VAE] / o->square[VAE]), disc = on ? sqrt(o->distance[DISC] / o->square[DISC]) : 0;

    print_message("# %s: gradients differ by %.2g and %.2g, values by %.2g\n", on ? "on" : "off", vae, disc,
                  fabs(o->combined - o->own));
    assert_true(o->square[VAE] > 0 && vae <= tol);
    assert_true(fabs(o->combined - o->own) <= tol * fabs(o->own));
    if (on)
        assert_true(o->square[DISC] > 0 && disc <= tol);
    else /* not a trace, as the optimiser relies on */
        assert_true(o->square[DISC] == 0 && o->distance[DISC] == 0);
}

/* One scalar has, for each player, the gradient of that player's loss and nothing else; its value is the autoencoder's
 * loss. */
static void one_scalar(void **state)
{
    duel d;
    float noise[NOISE];
    uint64_t seed = 2;
    ac_graph *g;

    (void)state;
    duel_open(&d, (const char *[]){NULL});
    g = gradients(&d);
    ac_mix_fill(&seed, noise, NOISE);
    for (int on = 0; on < 2; on++) {
        outcome host = on_host(g, d.image, noise, (float)on), device = on_device(g, d.image, noise, (float)on);
        check_outcome(&host, on, 1e-12);
        check_outcome(&device, on, 2e-5);
    }
    ac_graph_free(g);
    duel_close(&d);
}

/* ------------------------------------------------------------------------------------------ steps */

static void begin(duel *d, ac_recipe *recipe, const char *const *more)
{
    duel_open(d, more);
    *recipe = *d->r.recipe;
    recipe->feed = feed_same;
    d->r.recipe = recipe;
    if (ac_step_open(&d->r, &d->r.stepper) < 0)
        fail_msg("%s", d->r.dg->msg);
}

static ac_step_result step(duel *d)
{
    ac_step_result s;

    if (ac_step_run(&d->r, &d->r.stepper, &s) < 0)
        fail_msg("%s", d->r.dg->msg);
    assert_false(s.skipped);
    for (int k = 0; k < AC_SCALARS; k++)
        assert_true(isfinite(s.scalar[k]));
    return s;
}

/* All values of a set, one parameter after the other. */
static float *values_of(const ac_params *s)
{
    float *x = calloc((size_t)ac_params_count(s), sizeof *x), *at = x;

    assert_non_null(x);
    for (size_t i = 0; i < s->p.n; at += ac_count(&s->p.p[i++].w->shape))
        assert_int_equal(ac_var_read(s->p.p[i].w, at), 0);
    return x;
}

/* One step; the largest change of a value of each set. */
static void largest_changes(duel *d, double change[2])
{
    float *before[2] = {values_of(&d->r.sets[VAE]), values_of(&d->r.sets[DISC])};

    step(d);
    for (int k = 0; k < 2; k++) {
        float *after = values_of(&d->r.sets[k]);
        change[k] = 0;
        for (int64_t i = 0; i < ac_params_count(&d->r.sets[k]); i++)
            change[k] = fmax(change[k], fabs((double)after[i] - (double)before[k][i]));
        free(after);
        free(before[k]);
    }
}

/* Before adversarial_start the discriminator stays as it was made, whatever the weight decay; then its first step is
 * Adam's first: as long as the learning rate, the decay aside. */
static void start(const char *optimizer, double decay)
{
    enum { START = 3 };
    ac_recipe recipe;
    double change[2];
    duel d;

    begin(&d, &recipe,
          (const char *[]){"loss.adversarial_start=3", "optimizer.adam_weight_decay=0.1", optimizer, NULL});
    for (int k = 0; k < START; k++) {
        largest_changes(&d, change);
        assert_true(change[VAE] > 1e-4);
        assert_true(change[DISC] == 0);
    }
    largest_changes(&d, change);
    assert_true(change[DISC] > 0.99e-3 && change[DISC] < 1e-3 * (1.01 + decay));
    largest_changes(&d, change);
    assert_true(change[VAE] > 1e-5 && change[DISC] > 1e-5);
    for (size_t i = 0; i < d.r.sets[DISC].p.n; i++) /* nobody would read them */
        assert_null(d.r.sets[DISC].p.p[i].ema);
    assert_non_null(d.r.sets[VAE].p.p[0].ema);
    duel_close(&d);
}

static void start_adamw(void **state)
{
    (void)state;
    start("optimizer.optimizer=adamw", 0.1);
}

static void start_adam(void **state)
{
    (void)state;
    start("optimizer.optimizer=adam", 0);
}

/* A player whose adversary stands still gets better at the game. */
static void learns(const char *frozen, int scalar, double by)
{
    ac_recipe recipe;
    double first, last = 0;
    duel d;

    begin(&d, &recipe, (const char *[]){frozen, NULL});
    first = step(&d).scalar[scalar];
    for (int k = 0; k < 25; k++)
        last = step(&d).scalar[scalar];
    print_message("# %s: %.3f -> %.3f\n", recipe.scalar[scalar], first, last);
    assert_true(last < first - by);
    duel_close(&d);
}

static void discriminator_learns(void **state)
{
    (void)state;
    learns("optimizer.lr_groups=vae.*:0", HINGE, 0.5);
}

static void autoencoder_learns(void **state)
{
    (void)state;
    learns("optimizer.lr_groups=discriminator.*:0", GEN, 0.5);
}

/* Sums of gradients over micro-batches: both play, and stay finite. */
static void accumulated(void **state)
{
    ac_recipe recipe;
    double change[2];
    duel d;

    (void)state;
    begin(&d, &recipe, (const char *[]){"optimizer.gradient_accumulation_steps=2", NULL});
    for (int k = 0; k < 3; k++) {
        largest_changes(&d, change);
        assert_true(change[VAE] > 0 && change[DISC] > 0);
    }
    duel_close(&d);
}

/* Without a weight there is neither a discriminator nor a column for it. */
static void none(void **state)
{
    duel d;

    (void)state;
    duel_open(&d, (const char *[]){"loss.adversarial_weight=0", NULL});
    assert_int_equal(d.r.n_sets, 1);
    assert_string_equal(d.r.recipe->scalar[KL], "kl");
    assert_null(d.r.recipe->scalar[GEN]);
    duel_close(&d);
}

/* ------------------------------------------------------------------------------------------ losses, network */

static void losses(void **state)
{
    static const double real[] = {2, 0.5, -1}, made[] = {-2, -0.25, 1};
    const double *feeds[] = {real, made};
    ac_graph *g = ac_graph_new(ac_dev_diag(test_device()), AC_F32);
    ac_id r = ac_input(g, "real", AC_F32, ac_dims(1, 3)), m = ac_input(g, "made", AC_F32, ac_dims(1, 3));
    double *out[2];

    (void)state;
    ac_set_output(g, "discriminator", ac_loss_discriminator(g, r, m));
    ac_set_output(g, "generator", ac_loss_generator(g, m));
    assert_int_equal(ac_ref_run(g, feeds, out), 0);
    assert_float_equal(out[0][0], (0 + 0.5 + 2 + 0 + 0.75 + 2) / 3 / 2, 1e-6);
    assert_float_equal(out[1][0], 1.25 / 3, 1e-6);
    free(out[0]);
    free(out[1]);
    ac_graph_free(g);
}

/* Verdicts on a picture by its side, and how many parameters it takes: 2, 4 for each block, 2. */
static void patches(void **state)
{
    static const struct {
        int height, width, h, w;
        size_t parameters;
    } expect[] = {{8, 8, 2, 2, 8},    {16, 16, 6, 6, 8},   {32, 32, 6, 6, 12},
                  {64, 64, 6, 6, 16}, {96, 64, 10, 6, 16}, {256, 16, 126, 6, 8}};

    (void)state;
    for (size_t i = 0; i < AC_LEN(expect); i++) {
        ac_diag *dg = ac_dev_diag(test_device());
        ac_params set = {.dev = test_device(), .dg = dg, .part = "discriminator"};
        ac_weights w = {.train = &set, .part = "discriminator", .dg = dg};
        ac_net m = {.g = ac_graph_new(dg, AC_F32), .w = &w};
        ac_shape want = {4, {1, expect[i].h, expect[i].w, 1}};
        ac_id y =
            ac_patch_disc(&m, ac_input(m.g, "image", AC_F32, ac_dims(4, 1, expect[i].height, expect[i].width, 3)));
        assert_int_equal(m.g->rc, 0);
        assert_true(ac_same_shape(ac_shape_of(m.g, y), &want));
        assert_int_equal(set.p.n, expect[i].parameters);
        ac_graph_free(m.g);
        ac_params_free(&set);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_scalar),
        cmocka_unit_test(start_adamw),
        cmocka_unit_test(start_adam),
        cmocka_unit_test(discriminator_learns),
        cmocka_unit_test(autoencoder_learns),
        cmocka_unit_test(accumulated),
        cmocka_unit_test(none),
        cmocka_unit_test(losses),
        cmocka_unit_test(patches),
    };

    return cmocka_run_group_tests_name("adversarial", tests, device_setup, device_teardown);
}
