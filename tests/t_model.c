/* t_model.c - the networks against PyTorch's values: every module and output, in the graph as built and as fused, in
 * every storage type, on the device and in the double-precision reference. */
#include "model_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------- programs */

/* Builds the network on the fixture's inputs, and names what it must give. */
typedef void build_fn(rig *r);

static ac_id unet(rig *r, const char *prefix)
{
    static const char *const keys[] = {"sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"};
    char key[AC_LEN(keys)][64];
    ac_unet_in in;
    ac_unet_cfg c;

    if (ac_unet_config(&r->f->json, &c) != 0)
        fail_msg("%s", r->f->dg.msg);
    for (size_t i = 0; i < AC_LEN(keys); i++)
        snprintf(key[i], sizeof key[i], "%s%s", prefix, keys[i]);
    in = (ac_unet_in){
        .x = rig_input(r, key[0], true), .t = rig_input(r, key[1], true), .ctx = rig_input(r, key[2], true)};
    if (c.time_ids) {
        in.pooled = rig_input(r, key[3], true);
        in.time_ids = rig_input(r, key[4], true);
    }
    return ac_unet(&r->m, &c, &in);
}

static void unet_even(rig *r)
{
    rig_expect(r, "out", unet(r, ""));
}

/* The activations in the fixture belong to the other input. */
static void unet_odd(rig *r)
{
    r->m.tap = NULL;
    rig_expect(r, "odd.out", unet(r, "odd."));
}

static ac_vae_cfg vae_config(rig *r)
{
    ac_vae_cfg c;

    if (ac_vae_config(&r->f->json, &c) != 0)
        fail_msg("%s", r->f->dg.msg);
    return c;
}

static void vae_encode(rig *r)
{
    ac_vae_cfg c = vae_config(r);
    ac_id moments = ac_vae_encode(&r->m, &c, rig_input(r, "image", true));

    rig_expect(r, "mean", ac_slice(r->g, moments, 3, 0, c.latent));
    rig_expect(r, "logvar", ac_slice(r->g, moments, 3, c.latent, c.latent));
}

static void vae_decode(rig *r)
{
    ac_vae_cfg c = vae_config(r);

    rig_expect(r, "decoded", ac_vae_decode(&r->m, &c, rig_input(r, "z", true)));
}

static ac_taesd_cfg taesd_config(rig *r)
{
    ac_taesd_cfg c;

    if (ac_taesd_config(&r->f->json, &c) != 0)
        fail_msg("%s", r->f->dg.msg);
    return c;
}

static void taesd_encode(rig *r)
{
    ac_taesd_cfg c = taesd_config(r);

    rig_expect(r, "encoded", ac_taesd_encode(&r->m, &c, rig_input(r, "image", true)));
}

static void taesd_decode(rig *r)
{
    ac_taesd_cfg c = taesd_config(r);

    rig_expect(r, "decoded", ac_taesd_decode(&r->m, &c, rig_input(r, "z", true)));
}

/* hidden_first and hidden_last are states that only a tap sees. */
static void clip_tap(void *user, ac_graph *g, const char *path, ac_id value)
{
    char key[AC_NAME_MAX], last[64];
    rig *r = user;
    ac_clip_cfg c;

    (void)g;
    assert_int_equal(ac_clip_config(&r->f->json, &c), 0);
    snprintf(last, sizeof last, "text_model.encoder.layers.%d", c.layers - 1);
    if (strcmp(path, "text_model.embeddings") == 0)
        rig_expect(r, "hidden_first", value);
    if (strcmp(path, last) == 0)
        rig_expect(r, "hidden_last", value);
    snprintf(key, sizeof key, "act.%s", path);
    if (ac_st_find(r->io, key))
        rig_expect(r, key, value);
}

static void clip_text(rig *r)
{
    int32_t *eos;
    ac_clip_cfg c;
    ac_clip_out out;
    ac_id ids;
    int64_t B, T;

    if (ac_clip_config(&r->f->json, &c) != 0)
        fail_msg("%s", r->f->dg.msg);
    if (r->m.tap)
        r->m.tap = clip_tap;
    ids = rig_input(r, "ids", false);
    B = ac_shape_of(r->g, ids)->d[0];
    T = ac_shape_of(r->g, ids)->d[1];
    eos = calloc((size_t)B, sizeof *eos);
    assert_non_null(eos);
    for (int64_t b = 0; b < B; b++)
        eos[b] = (int32_t)(b * T) + ac_clip_eos(&c, r->feeds.p[0].i + b * T, (int)T);
    out = ac_clip_text(&r->m, &c, ids, rig_input_ints(r, "eos", (ac_shape){2, {B, 1}}, eos));
    rig_expect(r, "last_hidden_state", out.last);
    rig_expect(r, "hidden_penultimate", out.penultimate);
    rig_expect(r, "pooled", out.pooled);
    free(eos);
}

static ac_vit_cfg vit_config(rig *r)
{
    ac_vit_cfg c;

    if (ac_vit_config(&r->f->json, &c) != 0)
        fail_msg("%s", r->f->dg.msg);
    return c;
}

/* The fixture "dinov2" has three sizes of image; its keys begin with which. */
static void dinov2_expect(rig *r, const char *tag, const char *what, ac_id id)
{
    char key[AC_NAME_MAX];

    snprintf(key, sizeof key, "%s.%s", tag, what);
    if (ac_st_find(r->io, key))
        rig_expect(r, key, id);
}

/* Outputs of modules that `rig_tap` does not find by their path. */
static const struct {
    const char *path, *key;
} dinov2_modules[] = {{"embeddings.patch_embeddings.projection", "patches"},
                      {"encoder.layer.0.attention.output.dense", "layer0_attention"},
                      {"encoder.layer.0.mlp.fc2", "layer0_mlp"}};

typedef struct dinov2_taps {
    rig *r;
    const char *tag;
} dinov2_taps;

static void dinov2_tap(void *user, ac_graph *g, const char *path, ac_id value)
{
    const dinov2_taps *t = user;

    (void)g;
    for (size_t i = 0; i < AC_LEN(dinov2_modules); i++)
        if (strcmp(path, dinov2_modules[i].path) == 0)
            dinov2_expect(t->r, t->tag, dinov2_modules[i].key, value);
}

static void dinov2(rig *r, const char *tag)
{
    dinov2_taps taps = {r, tag};
    ac_vit_cfg c = vit_config(r);
    char key[64];
    ac_vit_out out;

    if (r->m.tap)
        r->m.tap = dinov2_tap;
    r->m.user = &taps;
    snprintf(key, sizeof key, "%s.pixel_values", tag);
    out = ac_vit(&r->m, &c, rig_input(r, key, true));
    dinov2_expect(r, tag, "embeddings", out.embeddings);
    for (int i = 0; i < c.layers; i++) {
        snprintf(key, sizeof key, "tap%d", i);
        dinov2_expect(r, tag, key, out.block[i]);
    }
    dinov2_expect(r, tag, "last_hidden_state", out.last);
    dinov2_expect(r, tag, "pooled", out.pooled);
}

static void dinov2_square(rig *r)
{
    dinov2(r, "sq");
}

static void dinov2_rectangle(rig *r)
{
    dinov2(r, "rect");
}

static void dinov2_with_rest(rig *r)
{
    dinov2(r, "floor");
}

static void clip_image(rig *r)
{
    ac_vit_cfg c = vit_config(r);
    ac_vit_out out = ac_vit(&r->m, &c, rig_input(r, "pixel_values", true));
    ac_graph *g = r->g;
    ac_id length = ac_sqrt(g, ac_sum(g, ac_mul(g, out.embeds, out.embeds), 1u << 1));

    rig_expect(r, "last_hidden_state", out.last);
    rig_expect(r, "pooled", out.pooled);
    rig_expect(r, "image_embeds", out.embeds);
    rig_expect(r, "image_embeds_normalized", ac_div(g, out.embeds, length));
}

static const struct net {
    const char *dir, *part;
    build_fn *build[3];
    double exact; /* what the reference may differ by; 0: what its mode says */
} nets[] = {
    {"unet_sd1", "unet", {unet_even, unet_odd}, 0},
    {"unet_sd2", "unet", {unet_even, unet_odd}, 0},
    {"unet_sdxl", "unet", {unet_even, unet_odd}, 0},
    {"vae", "vae", {vae_encode, vae_decode}, 0},
    {"taesd", "taesd", {taesd_encode, taesd_decode}, 0},
    {"clip_text_quick_gelu", "text_encoder", {clip_text}, 0},
    {"clip_text_gelu_proj", "text_encoder", {clip_text}, 0},
    {"clip_vision", "image_encoder", {clip_image}, 0},
    /* transformers interpolates the table of positions in float32, whatever the model's type */
    {"dinov2", "image_encoder", {dinov2_square, dinov2_rectangle, dinov2_with_rest}, 2e-6},
};

/* ------------------------------------------------------------------------------------------------- coverage */

/* What io.safetensors holds that a forward pass does not give. */
static const char *const left_out[] = {
    "grad",       /* gradients: of a backward pass */
    "cotangent",  /* and what they start from */
    "posterior_", /* drawn from mean and logvar by whoever trains or encodes */
    "kl",         /* a loss */
};

static bool is_left_out(const char *key)
{
    for (size_t i = 0; i < AC_LEN(left_out); i++)
        if (strstr(key, left_out[i]))
            return true;
    return false;
}

/* TAESD numbers its upsamplings, which have no weights, as layers; here they are part of the convolution behind. */
static bool is_upsampling(const net_files *f, const char *key)
{
    char begin[AC_NAME_MAX];
    size_t n = (size_t)snprintf(begin, sizeof begin, "%s.", key + strlen("act."));

    if (strcmp(f->part, "taesd") != 0 || strncmp(key, "act.decoder.layers.", 19) != 0)
        return false;
    for (size_t i = 0; i < ac_st_count(f->st); i++)
        if (strncmp(ac_st_at(f->st, i)->name, begin, n) == 0)
            return false;
    return true;
}

static void check_coverage(net_files *f, const ac_st *io, const bool *seen)
{
    for (size_t i = 0; i < ac_st_count(io); i++) {
        const char *key = ac_st_at(io, i)->name;
        if (!seen[i] && !is_left_out(key) && !is_upsampling(f, key))
            fail_msg("nothing was compared with %s", key);
    }
    if (ac_layout_check_used(f->layout, f->part, &f->dg) != 0)
        fail_msg("%s", f->dg.msg);
}

/* --------------------------------------------------------------------------------------------------- modes */

/* f32: PyTorch's own float32 gets 2e-6, 1e-5 is the fixtures' allowance. Half precision storage rounds each weight by
 * up to 2^-11 (f16) or 2^-8 (bf16) of itself; a few dozen layers of such noise add up to less than eight times that.
 * The reference differs by the rounding of the fixture to float32, 2^-24: a wrong epsilon shows. */
static const struct mode {
    const char *name;
    ac_type storage;
    bool tap, reference;
    double tol;
} modes[] = {
    {"every module", AC_F32, true, false, 1e-5},    {"fused", AC_F32, false, false, 1e-5},
    {"f16 weights", AC_F16, false, false, 4e-3},    {"bf16 weights", AC_BF16, false, false, 3e-2},
    {"double reference", AC_F32, true, true, 3e-7},
};

typedef struct job {
    const struct net *net;
    const struct mode *mode;
} job;

static void run(const job *j, net_files *f, const ac_st *io, build_fn *build, bool *seen)
{
    const struct mode *mode = j->mode;
    char what[96];
    rig_result res;
    rig r;

    rig_begin(&r, f, io, mode->storage);
    r.seen = seen;
    if (mode->tap)
        rig_tap(&r);
    build(&r);
    res = rig_run(&r, mode->reference);
    snprintf(what, sizeof what, "%s, %s", j->net->dir, mode->name);
    check_result(what, &res, mode->reference && j->net->exact > 0 ? j->net->exact : mode->tol);
    if (mode->storage != AC_F32)
        assert_true(res.worst > 1e-5); /* the weights were not kept as f32 */
    rig_end(&r);
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
    seen = calloc(ac_st_count(io), sizeof *seen);
    assert_non_null(seen);
    for (size_t i = 0; i < AC_LEN(j->net->build) && j->net->build[i]; i++)
        run(j, &f, io, j->net->build[i], seen);
    if (j->mode->tap)
        check_coverage(&f, io, seen);
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

    for (size_t i = 0; i < NETS * MODES; i++) {
        jobs[i] = (job){&nets[i / MODES], &modes[i % MODES]};
        snprintf(names[i], sizeof names[i], "%s: %s", jobs[i].net->dir, jobs[i].mode->name);
        tests[i] = (struct CMUnitTest){.name = names[i], .test_func = test_net, .initial_state = &jobs[i]};
    }
    return cmocka_run_group_tests_name("model", tests, device_setup, device_teardown);
}
