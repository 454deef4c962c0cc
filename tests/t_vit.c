/* t_vit.c - image transformers beyond what the fixtures of t_model show: configurations, names in files, the gated MLP,
 * images that are too small. */
#include "model_lists.h"
#include "model/nets.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------- configurations */

static int config(const char *json, ac_diag *dg, ac_vit_cfg *c)
{
    ac_json j;
    int rc;

    memset(dg, 0, sizeof *dg);
    if (ac_json_open(temp_write("config.json", json, strlen(json)), dg, &j) != 0)
        fail_msg("%s", dg->msg);
    rc = ac_vit_config(&j, c);
    ac_json_close(&j);
    return rc;
}

static void test_config(void **state)
{
    ac_vit_cfg c;
    ac_diag dg;

    (void)state;
    assert_int_equal(config("{}", &dg, &c), 0); /* Dinov2Config's defaults */
    assert_true(!c.clip && c.width == 768 && c.ff == 3072 && c.layers == 12 && c.heads == 12 && c.patch == 14);
    assert_true(c.image_size == 224 && c.qkv_bias && !c.gated && c.projection == 0 && c.act == AC_ACT_GELU);
    assert_float_equal(c.eps, 1e-6, 1e-12);
    /* DINOv2-giant */
    assert_int_equal(config("{\"hidden_size\": 1536, \"num_hidden_layers\": 40, \"num_attention_heads\": 24, "
                            "\"use_swiglu_ffn\": true}",
                            &dg, &c),
                     0);
    assert_true(c.gated && c.ff == 4096);
    assert_int_equal(config("{\"model_type\": \"clip_vision_model\", \"projection_dim\": 64}", &dg, &c), 0);
    assert_true(c.clip && c.projection == 0 && c.act == AC_ACT_QUICK_GELU && c.patch == 32 && c.ff == 3072);
    assert_int_equal(config("{\"model_type\": \"clip_vision_model\", \"projection_dim\": 64, "
                            "\"architectures\": [\"CLIPVisionModelWithProjection\"]}",
                            &dg, &c),
                     0);
    assert_int_equal(c.projection, 64);
}

static void test_bad_config(void **state)
{
    static const struct {
        const char *json, *message;
        int rc;
    } bad[] = {
        {"{\"model_type\": \"siglip\"}", "siglip", ADDCL_E_UNSUPPORTED},
        {"{\"hidden_act\": \"relu\"}", "relu", ADDCL_E_UNSUPPORTED},
        {"{\"hidden_size\": 100}", "100", ADDCL_E_FORMAT},
        {"{\"image_size\": 8}", "8 pixels", ADDCL_E_FORMAT},
        {"{\"num_hidden_layers\": 65}", "num_hidden_layers", ADDCL_E_FORMAT},
        {"{\"patch_size\": 0}", "patch_size", ADDCL_E_FORMAT},
    };
    ac_vit_cfg c;
    ac_diag dg;

    (void)state;
    for (size_t i = 0; i < AC_LEN(bad); i++) {
        assert_int_equal(config(bad[i].json, &dg, &c), bad[i].rc);
        if (!strstr(dg.msg, bad[i].message))
            fail_msg("%s: no \"%s\" in: %s", bad[i].json, bad[i].message, dg.msg);
    }
}

/* ------------------------------------------------------------------------------------------- names in files */

/* The file with these tensors holds an image encoder, `name` among its tensors. */
static void check_names(list *l, const char *name)
{
    const char *file = write_sparse("names.safetensors", l);
    ac_diag dg = {0};
    ac_layout *layout = NULL;
    ac_st *st = NULL;

    free(l->p);
    *l = (list){0};
    if (ac_st_open(file, &dg, &st) != 0 || ac_layout_detect(st, file, NULL, &dg, &layout) != 0)
        fail_msg("%s", dg.msg);
    assert_true(ac_layout_has(layout, "image_encoder"));
    assert_non_null(ac_layout_find(layout, "image_encoder", name));
    ac_layout_free(layout);
    ac_st_close(st);
}

/* transformers writes CLIP's image tower with or without vision_model., as its version is. */
static void test_names(void **state)
{
    list l = {0};

    (void)state;
    add(&l, 8, 3, 4, 4, "embeddings.patch_embeddings.projection.weight");
    add(&l, 1, 8, 0, 0, "embeddings.mask_token"); /* of its training; not read */
    check_names(&l, "embeddings.patch_embeddings.projection.weight");
    add(&l, 8, 3, 4, 4, "vision_model.embeddings.patch_embedding.weight");
    add(&l, 8, 0, 0, 0, "vision_model.pre_layrnorm.bias");
    add(&l, 4, 8, 0, 0, "visual_projection.weight");
    check_names(&l, "visual_projection.weight");
    add(&l, 8, 3, 4, 4, "embeddings.patch_embedding.weight");
    add(&l, 8, 0, 0, 0, "pre_layrnorm.bias");
    add(&l, 8, 0, 0, 0, "encoder.layers.0.layer_norm1.bias");
    check_names(&l, "vision_model.encoder.layers.0.layer_norm1.bias");
}

/* ------------------------------------------------------------------------------------------- gated MLP */

/* A network of width 2 with one block and one patch. Both tokens enter the block as (m + 1, m - 1), so that norms give
 * (1, -1); its attention gives nothing but a bias. */
static const struct value {
    ac_st_entry e;
    float first, step; /* element i is first + i step */
} net[] = {
    {{"embeddings.cls_token", AC_ST_F32, 3, {1, 1, 2}}, 1, -2},
    {{"embeddings.position_embeddings", AC_ST_F32, 3, {1, 2, 2}}, 0, 0},
    {{"embeddings.patch_embeddings.projection.weight", AC_ST_F32, 4, {2, 3, 2, 2}}, 0, 0},
    {{"embeddings.patch_embeddings.projection.bias", AC_ST_F32, 1, {2}}, 3, -2},
    {{"encoder.layer.0.norm1.weight", AC_ST_F32, 1, {2}}, 1, 0},
    {{"encoder.layer.0.norm1.bias", AC_ST_F32, 1, {2}}, 0, 0},
    {{"encoder.layer.0.attention.attention.query.weight", AC_ST_F32, 2, {2, 2}}, 1, 0},
    {{"encoder.layer.0.attention.attention.key.weight", AC_ST_F32, 2, {2, 2}}, 1, 0},
    {{"encoder.layer.0.attention.attention.value.weight", AC_ST_F32, 2, {2, 2}}, 1, 0},
    {{"encoder.layer.0.attention.output.dense.weight", AC_ST_F32, 2, {2, 2}}, 0, 0},
    {{"encoder.layer.0.attention.output.dense.bias", AC_ST_F32, 1, {2}}, 1, 1},
    {{"encoder.layer.0.layer_scale1.lambda1", AC_ST_F32, 1, {2}}, 0.5F, -0.25F},
    {{"encoder.layer.0.norm2.weight", AC_ST_F32, 1, {2}}, 1, 0},
    {{"encoder.layer.0.norm2.bias", AC_ST_F32, 1, {2}}, 0, 0},
    {{"encoder.layer.0.mlp.weights_in.weight", AC_ST_F32, 2, {16, 2}}, 0.125F, 0.0625F},
    {{"encoder.layer.0.mlp.weights_in.bias", AC_ST_F32, 1, {16}}, -1, 0.125F},
    {{"encoder.layer.0.mlp.weights_out.weight", AC_ST_F32, 2, {2, 8}}, -1, 0.25F},
    {{"encoder.layer.0.mlp.weights_out.bias", AC_ST_F32, 1, {2}}, 0.5F, -1},
    {{"encoder.layer.0.layer_scale2.lambda1", AC_ST_F32, 1, {2}}, 2, -3},
    {{"layernorm.weight", AC_ST_F32, 1, {2}}, 1, 0},
    {{"layernorm.bias", AC_ST_F32, 1, {2}}, 0, 0},
};

static double value(size_t k, size_t i)
{
    return (double)net[k].first + (double)i * (double)net[k].step;
}

static int fill(void *user, size_t k, void *dst, size_t bytes)
{
    float *x = dst;

    (void)user;
    for (size_t i = 0; i < bytes / sizeof *x; i++)
        x[i] = (float)value(k, i);
    return 0;
}

/* What the block makes of a token (m + 1, m - 1). */
static void expected_block(double m, double y[2])
{
    enum { IN = 14, IN_BIAS, OUT, OUT_BIAS, SCALE };
    double one = 1 / sqrt(1 + 1e-6), h[16]; /* (x - mean) / sqrt(var + eps) */

    for (size_t i = 0; i < 16; i++)
        h[i] = one * (value(IN, 2 * i) - value(IN, 2 * i + 1)) + value(IN_BIAS, i);
    for (size_t c = 0; c < 2; c++) {
        double sum = value(OUT_BIAS, c);
        for (size_t i = 0; i < 8; i++)
            sum += value(OUT, 8 * c + i) * h[i] / (1 + exp(-h[i])) * h[8 + i];
        /* attention adds lambda1 times its bias: (1/2, 1/4) times (1, 2) */
        y[c] = m + (c ? -1 : 1) + 0.5 + value(SCALE, c) * sum;
    }
}

static void ignore_tap(void *user, ac_graph *g, const char *path, ac_id value)
{
    (void)user, (void)g, (void)path, (void)value;
}

static const ac_vit_cfg gated = {.width = 2,
                                 .ff = 8,
                                 .layers = 1,
                                 .heads = 1,
                                 .channels = 3,
                                 .patch = 2,
                                 .image_size = 2,
                                 .act = AC_ACT_GELU,
                                 .eps = 1e-6,
                                 .gated = true};

static void check_gated(ac_layout *layout, ac_diag *dg, bool tap)
{
    ac_graph *g = ac_graph_new(dg, AC_F32);
    ac_weights w = {.layout = layout, .part = "image_encoder", .dg = dg};
    ac_net m = {.g = g, .w = &w, .tap = tap ? ignore_tap : NULL};
    double image[12] = {0}, *out, y[2];
    const double *feed = image;

    assert_non_null(g);
    ac_set_output(g, "y", ac_vit(&m, &gated, ac_input(g, "x", AC_F32, ac_dims(4, 1, 2, 2, 3))).block[0]);
    if (ac_ref_run(g, &feed, &out) != 0)
        fail_msg("%s", dg->msg);
    for (int token = 0; token < 2; token++) {
        expected_block(token ? 2 : 0, y);
        for (int c = 0; c < 2; c++)
            if (!(fabs(out[2 * token + c] - y[c]) <= 1e-12 * fabs(y[c])))
                fail_msg("token %d, channel %d: %.15g, expected %.15g", token, c, out[2 * token + c], y[c]);
    }
    free(out);
    ac_graph_free(g);
    ac_weights_free(&w);
}

static void test_gated(void **state)
{
    ac_st_entry e[AC_LEN(net)];
    const char *file = temp_path("gated.safetensors");
    ac_diag dg = {0};
    ac_layout *layout = NULL;
    ac_st *st = NULL;

    (void)state;
    for (size_t i = 0; i < AC_LEN(net); i++)
        e[i] = net[i].e;
    if (ac_st_write(file, e, AC_LEN(net), NULL, 0, fill, NULL, &dg) != 0 || ac_st_open(file, &dg, &st) != 0 ||
        ac_layout_detect(st, file, NULL, &dg, &layout) != 0)
        fail_msg("%s", dg.msg);
    check_gated(layout, &dg, false);
    check_gated(layout, &dg, true);
    if (ac_layout_check_used(layout, "image_encoder", &dg) != 0)
        fail_msg("%s", dg.msg);
    ac_layout_free(layout);
    ac_st_close(st);
}

/* ------------------------------------------------------------------------------------------- images */

static void test_small_image(void **state)
{
    ac_diag dg = {0};
    ac_graph *g = ac_graph_new(&dg, AC_F32);
    ac_weights w = {.part = "image_encoder", .dg = &dg}; /* random */
    ac_net m = {.g = g, .w = &w};

    (void)state;
    assert_non_null(g);
    ac_vit(&m, &gated, ac_input(g, "x", AC_F32, ac_dims(4, 1, 1, 6, 3)));
    assert_int_equal(g->rc, ADDCL_E_SHAPE);
    assert_string_equal(dg.msg, "an image of 6x1 pixels is smaller than a patch of 2");
    ac_graph_free(g);
    ac_weights_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config), cmocka_unit_test(test_bad_config),  cmocka_unit_test(test_names),
        cmocka_unit_test(test_gated),  cmocka_unit_test(test_small_image),
    };

    return cmocka_run_group_tests_name("vit", tests, temp_setup, temp_teardown);
}
