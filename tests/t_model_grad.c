/* t_model_grad.c - gradients of the networks against PyTorch's: of inputs and of every parameter; on the device, with
 * blocks computed again instead of kept, and in the double-precision reference. */
#include "model_support.h"
#include "graph/op.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUTS = 8 };

/* A network whose loss, the sum of outputs times given cotangents, is to be differentiated. */
typedef struct sweep {
    rig r;
    ac_params params; /* unless the weights are frozen */
    ac_id loss;       /* [1] */
    struct {
        char key[64]; /* of the expected gradient */
        ac_id id;
    } input[INPUTS]; /* inputs whose gradient is known */
    int inputs;
} sweep;

/* Builds the network, its inputs by `input` and its loss by `add_loss`. */
typedef void build_fn(sweep *s);

/* An input, whose gradient is compared when the fixture holds it as `grad`; NULL: as "grad.<key>". */
static ac_id input(sweep *s, const char *key, const char *grad)
{
    ac_id id = rig_input(&s->r, key, true);
    char name[64];

    snprintf(name, sizeof name, "%s%s", grad ? "" : "grad.", grad ? grad : key);
    if (ac_st_find(s->r.io, name)) {
        assert_in_range(s->inputs, 0, INPUTS - 1);
        memcpy(s->input[s->inputs].key, name, sizeof name);
        s->input[s->inputs++].id = id;
    }
    return id;
}

static void add_loss(sweep *s, ac_id y, const char *cotangent)
{
    ac_graph *g = s->r.g;
    ac_id part = ac_mul(g, y, rig_input(&s->r, cotangent, true));

    part = ac_sum(g, ac_reshape(g, part, (ac_shape){1, {-1}}), 1);
    s->loss = s->loss ? ac_add(g, s->loss, part) : part;
}

static void must(const sweep *s, int rc)
{
    if (rc != 0)
        fail_msg("%s", s->r.f->dg.msg);
}

/* ------------------------------------------------------------------------------------------------- networks */

static void unet(sweep *s)
{
    ac_unet_cfg c;
    ac_unet_in in;

    must(s, ac_unet_config(&s->r.f->json, &c));
    in = (ac_unet_in){
        .x = input(s, "sample", NULL), .t = input(s, "timestep", NULL), .ctx = input(s, "encoder_hidden_states", NULL)};
    if (c.time_ids) {
        in.pooled = input(s, "text_embeds", NULL);
        in.time_ids = input(s, "time_ids", NULL);
    }
    add_loss(s, ac_unet(&s->r.m, &c, &in), "cotangent");
}

static void vae_encode(sweep *s)
{
    ac_graph *g = s->r.g;
    ac_vae_cfg c;
    ac_id moments;

    must(s, ac_vae_config(&s->r.f->json, &c));
    moments = ac_vae_encode(&s->r.m, &c, input(s, "image", NULL));
    add_loss(s, ac_slice(g, moments, 3, 0, c.latent), "cotangent_mean");
    add_loss(s, ac_slice(g, moments, 3, c.latent, c.latent), "cotangent_logvar");
}

static void vae_decode(sweep *s)
{
    ac_vae_cfg c;

    must(s, ac_vae_config(&s->r.f->json, &c));
    add_loss(s, ac_vae_decode(&s->r.m, &c, input(s, "z", NULL)), "cotangent");
}

static void taesd_encode(sweep *s)
{
    ac_taesd_cfg c;

    must(s, ac_taesd_config(&s->r.f->json, &c));
    add_loss(s, ac_taesd_encode(&s->r.m, &c, input(s, "image", NULL)), "cotangent_encoded");
}

static void taesd_decode(sweep *s)
{
    ac_taesd_cfg c;

    must(s, ac_taesd_config(&s->r.f->json, &c));
    add_loss(s, ac_taesd_decode(&s->r.m, &c, input(s, "z", NULL)), "cotangent");
}

static void clip_text(sweep *s)
{
    ac_id ids = rig_input(&s->r, "ids", false);
    const ac_shape shape = *ac_shape_of(s->r.g, ids); /* [B,T] */
    int T = (int)shape.d[1];
    int32_t *eos = calloc((size_t)shape.d[0], sizeof *eos);
    ac_clip_cfg c;
    ac_clip_out out;

    assert_non_null(eos);
    must(s, ac_clip_config(&s->r.f->json, &c));
    for (int b = 0; b < shape.d[0]; b++)
        eos[b] = b * T + ac_clip_eos(&c, s->r.feeds.p[0].i + b * T, T);
    out = ac_clip_text(&s->r.m, &c, ids, rig_input_ints(&s->r, "eos", (ac_shape){2, {shape.d[0], 1}}, eos));
    add_loss(s, out.last, "cotangent");
    add_loss(s, out.pooled, "cotangent_pooled");
    free(eos);
}

/* The fixture "dinov2" has three sizes of image; its keys begin with which. */
static void dinov2(sweep *s, const char *tag)
{
    char pixels[64], grad[64], cotangent[64];
    ac_vit_cfg c;
    ac_vit_out out;

    snprintf(pixels, sizeof pixels, "%s.pixel_values", tag);
    snprintf(grad, sizeof grad, "%s.grad.pixel_values", tag);
    snprintf(cotangent, sizeof cotangent, "%s.cotangent_tap5_plus_tap11", tag);
    must(s, ac_vit_config(&s->r.f->json, &c));
    out = ac_vit(&s->r.m, &c, input(s, pixels, grad));
    add_loss(s, ac_add(s->r.g, out.block[5], out.block[11]), cotangent);
}

static void dinov2_square(sweep *s)
{
    dinov2(s, "sq");
}

static void dinov2_rectangle(sweep *s)
{
    dinov2(s, "rect");
}

static void dinov2_with_rest(sweep *s)
{
    dinov2(s, "floor");
}

static ac_vit_out clip_image(sweep *s, const char *grad)
{
    ac_vit_cfg c;

    must(s, ac_vit_config(&s->r.f->json, &c));
    return ac_vit(&s->r.m, &c, input(s, "pixel_values", grad));
}

static void clip_image_embeds(sweep *s)
{
    add_loss(s, clip_image(s, NULL).embeds, "cotangent_image_embeds");
}

static void clip_image_normalised(sweep *s)
{
    ac_id e = clip_image(s, "grad_normalized.pixel_values").embeds;
    ac_id length = ac_sqrt(s->r.g, ac_sum(s->r.g, ac_mul(s->r.g, e, e), 2));

    add_loss(s, ac_div(s->r.g, e, length), "cotangent_image_embeds");
}

static void clip_image_layer(sweep *s)
{
    add_loss(s, clip_image(s, "grad_layer1.pixel_values").block[1], "cotangent_layer1");
}

static const struct net {
    const char *dir, *part;
    bool frozen, blocks; /* weights are constants; is made of blocks that can be computed again */
    build_fn *build[3];
} nets[] = {
    {"unet_sd1", "unet", false, true, {unet}},
    {"unet_sd2", "unet", false, true, {unet}},
    {"unet_sdxl", "unet", false, true, {unet}},
    {"vae", "vae", false, true, {vae_encode, vae_decode}},
    {"taesd", "taesd", false, false, {taesd_encode, taesd_decode}},
    {"clip_text_quick_gelu", "text_encoder", false, true, {clip_text}},
    {"clip_text_gelu_proj", "text_encoder", false, true, {clip_text}},
    {"clip_vision", "image_encoder", true, true, {clip_image_embeds, clip_image_normalised, clip_image_layer}},
    {"dinov2", "image_encoder", true, true, {dinov2_square, dinov2_rectangle, dinov2_with_rest}},
};

/* ------------------------------------------------------------------------------------------------- gradients */

/* `id`, whole or by its statistics, is what the fixture says about parameter `name`. */
static void expect_parameter(rig *r, const char *name, ac_id id)
{
    static const char *const kinds[] = {"grad", "gradstat"};

    for (size_t i = 0; i < AC_LEN(kinds); i++) {
        char key[AC_NAME_MAX];
        snprintf(key, sizeof key, "%s.%s", kinds[i], name);
        if (ac_st_find(r->io, key))
            rig_expect_weight(r, key, id);
    }
}

/* Differentiates the loss by the known inputs and by all variables of the graph. */
static void differentiate(sweep *s)
{
    AC_VEC(ac_id) x = {0};
    ac_graph *g = s->r.g;
    ac_id *gx;

    for (int i = 0; i < s->inputs; i++)
        assert_true(AC_PUSH(&x, s->input[i].id));
    for (ac_id i = 1; i < (ac_id)g->nodes.n; i++)
        if (ac_at_node(g, i)->op == &ac_op_state)
            assert_true(AC_PUSH(&x, i));
    gx = calloc(x.n + 1, sizeof *gx);
    assert_non_null(gx);
    ac_grad(g, s->loss, AC_NONE, x.p, (int)x.n, gx);
    must(s, g->rc);
    for (int i = 0; i < (int)x.n; i++) {
        assert_int_not_equal(gx[i], AC_NONE);
        if (i < s->inputs)
            rig_expect(&s->r, s->input[i].key, gx[i]);
        else
            expect_parameter(&s->r, ac_at_node(g, x.p[i])->var->name, gx[i]);
    }
    free(x.p);
    free(gx);
}

/* sum, L2 norm and dot product with the parameter of a gradient of n elements */
static void statistics(const rig *r, const char *name, const double *grad, size_t n, double out[3])
{
    const ac_source *src = ac_layout_find(r->f->layout, r->f->part, name);
    float *w = malloc(n * sizeof *w);

    assert_true(w && src);
    assert_int_equal(ac_source_count(src), n);
    ac_source_read(src, AC_F32, w);
    memset(out, 0, 3 * sizeof *out);
    for (size_t i = 0; i < n; i++) {
        out[0] += grad[i];
        out[1] += grad[i] * grad[i];
        out[2] += grad[i] * (double)w[i];
    }
    out[1] = sqrt(out[1]);
    free(w);
}

static bool is_statistics(const rig_want *w)
{
    return strncmp(w->key, "gradstat.", 9) == 0;
}

/* Largest differences of whole gradients and of statistics, each over the largest value of its tensor. */
typedef struct worst {
    int compared;
    double diff[2];
    char key[2][AC_NAME_MAX];
} worst;

static double largest(const double *x, size_t n)
{
    double m = 0;

    for (size_t i = 0; i < n; i++)
        m = fmax(m, fabs(x[i]));
    return m;
}

static double difference(const double *a, const double *b, size_t n)
{
    double m = 0;

    for (size_t i = 0; i < n; i++) {
        double d = fabs(a[i] - b[i]);
        m = d <= m ? m : d; /* keeps NaN */
    }
    return m;
}

/* The difference of one gradient; `least`: the smallest scale, by kind. */
static void compare(const rig *r, const rig_want *w, const double *got, const double least[2], worst *res)
{
    size_t n;
    double stats[3], *want = rig_wanted(r, w, &n), diff;
    int kind = is_statistics(w);

    if (kind) {
        statistics(r, w->key + 9, got, (size_t)ac_count(ac_shape_of(r->g, w->id)), stats);
        got = stats;
    }
    diff = difference(got, want, n) / fmax(largest(want, n), least[kind]);
    if (!(diff <= res->diff[kind]) || !*res->key[kind]) {
        res->diff[kind] = diff;
        snprintf(res->key[kind], sizeof res->key[kind], "%s", w->key);
    }
    res->compared++;
    free(want);
}

/* Gradients that vanish by mathematics, as those of key biases, are rounding noise: nothing is compared on a smaller
 * scale than this part of the largest expected value of its kind. */
#define LEAST 1e-3

static void least_scales(const rig *r, double least[2])
{
    for (size_t i = 0; i < r->wants.n; i++) {
        const rig_want *w = &r->wants.p[i];
        size_t n;
        double *want = rig_wanted(r, w, &n), *m = &least[is_statistics(w)];
        *m = fmax(*m, LEAST * largest(want, n));
        free(want);
    }
}

static worst run(sweep *s, bool reference)
{
    double **v = rig_values(&s->r, reference), least[2] = {0};
    worst res = {0};

    least_scales(&s->r, least);

    for (size_t i = 0; i < s->r.wants.n; i++) {
        compare(&s->r, &s->r.wants.p[i], v[i], least, &res);
        free(v[i]);
    }
    free(v);
    return res;
}

/* ------------------------------------------------------------------------------------------------- tests */

/* Tolerances of gradients and statistics on a device are the fixtures' allowance; PyTorch's own float32 gets 7e-6
 * and 1.6e-5. The reference differs by the fixtures' rounding to float32, and by that of the float32 sinusoids, which
 * PyTorch rounds its own way. */
static const struct mode {
    const char *name;
    bool reference, checkpoint;
    double tol[2];
} modes[] = {
    {"device", false, false, {5e-5, 2e-4}},
    {"blocks computed again", false, true, {5e-5, 2e-4}},
    {"double reference", true, false, {1e-6, 1e-6}},
};

typedef struct job {
    const struct net *net;
    const struct mode *mode;
} job;

static void check_build(const job *j, net_files *f, const ac_st *io, build_fn *build, bool *seen)
{
    static const char *const kind[] = {"gradient", "statistics"};
    sweep s = {.params = {.dev = test_device(), .dg = &f->dg, .part = f->part, .layout = f->layout}};
    worst res;

    rig_begin(&s.r, f, io, AC_F32);
    s.r.seen = seen;
    s.r.g->training = true;
    s.r.m.checkpoint = j->mode->checkpoint;
    s.r.w.train = j->net->frozen ? NULL : &s.params;
    build(&s);
    assert_int_equal(s.r.g->segments > 0, j->mode->checkpoint);
    differentiate(&s);
    res = run(&s, j->mode->reference);
    for (int k = 0; k < 2; k++)
        if (*res.key[k])
            print_message("# %s, %s: %s: %.2g in %s\n", j->net->dir, j->mode->name, kind[k], res.diff[k], res.key[k]);
    for (int k = 0; k < 2; k++)
        if (!(res.diff[k] <= j->mode->tol[k]))
            fail_msg("%s differs by %.3g of its largest value, at most %g", res.key[k], res.diff[k], j->mode->tol[k]);
    rig_end(&s.r);
    ac_params_free(&s.params);
}

static bool has_gradients(const ac_st *io)
{
    for (size_t i = 0; i < ac_st_count(io); i++)
        if (strstr(ac_st_at(io, i)->name, "grad"))
            return true;
    return false;
}

static void test_net(void **state)
{
    const job *j = *state;
    char rel[128];
    bool *seen;
    net_files f;
    ac_st *io;

    if (!net_open(&f, j->net->dir, j->net->part))
        skip();
    snprintf(rel, sizeof rel, "%s/io.safetensors", j->net->dir);
    io = fixture_open(rel);
    if (!has_gradients(io)) {
        print_error("SKIP %s: no gradients in it\n", rel);
        ac_st_close(io);
        net_close(&f);
        skip();
    }
    seen = calloc(ac_st_count(io), sizeof *seen);
    assert_non_null(seen);
    for (size_t i = 0; i < AC_LEN(j->net->build) && j->net->build[i]; i++)
        check_build(j, &f, io, j->net->build[i], seen);
    for (size_t i = 0; i < ac_st_count(io); i++)
        if (!seen[i] && strstr(ac_st_at(io, i)->name, "grad"))
            fail_msg("nothing was compared with %s", ac_st_at(io, i)->name);
    free(seen);
    ac_st_close(io);
    net_close(&f);
}

int main(void)
{
    enum { NETS = AC_LEN(nets), MODES = AC_LEN(modes) };
    static struct CMUnitTest tests[NETS * MODES];
    static char names[NETS * MODES][96];
    static job jobs[NETS * MODES];
    size_t n = 0;

    for (size_t i = 0; i < NETS * MODES; i++) {
        jobs[n] = (job){&nets[i / MODES], &modes[i % MODES]};
        if (jobs[n].mode->checkpoint && !jobs[n].net->blocks)
            continue;
        snprintf(names[n], sizeof names[n], "%s: %s", jobs[n].net->dir, jobs[n].mode->name);
        tests[n] = (struct CMUnitTest){.name = names[n], .test_func = test_net, .initial_state = &jobs[n]};
        n++;
    }
    return cmocka_run_group_tests_name("model_grad", tests, device_setup,
                                       device_teardown); /* empty rows do not count */
}
