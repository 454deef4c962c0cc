/* t_convert.c - models from folders to single files and back: nothing is lost, nothing half-done is left. */
#include "support.h"

#include <dirent.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/half.h"
#include "base/file.h"
#include "model/convert.h"
#include "model/layout.h"

/* ----------------------------------------------------------------------------------------------- helpers */

static ac_st *open_st(const char *dir, const char *file)
{
    char *path = ac_path_join(dir, file);
    ac_diag dg = {0};
    ac_st *st;

    if (ac_st_open(path, &dg, &st) != 0)
        fail_msg("%s", dg.msg);
    free(path);
    return st;
}

static char *read_text(const char *dir, const char *file)
{
    char *path = ac_path_join(dir, file), *text;
    ac_diag dg = {0};
    size_t n;

    if (ac_file_read(path, 1 << 24, &dg, &text, &n) != 0)
        fail_msg("%s", dg.msg);
    free(path);
    return text;
}

static json_t *read_json(const char *dir, const char *file)
{
    char *text = read_text(dir, file);
    json_t *j = json_loads(text, 0, NULL);

    assert_non_null(j);
    free(text);
    return j;
}

static void check_same_json(const char *dir_a, const char *dir_b, const char *file)
{
    json_t *a = read_json(dir_a, file), *b = read_json(dir_b, file);

    if (!json_equal(a, b))
        fail_msg("%s differs", file);
    json_decref(a);
    json_decref(b);
}

static void check_same_text(const char *dir_a, const char *dir_b, const char *file)
{
    char *a = read_text(dir_a, file), *b = read_text(dir_b, file);

    assert_string_equal(a, b);
    free(a);
    free(b);
}

/* Same names, shapes, types and bytes. */
static void check_same_tensors(const char *dir_a, const char *dir_b, const char *file)
{
    ac_st *a = open_st(dir_a, file), *b = open_st(dir_b, file);

    assert_int_equal(ac_st_count(a), ac_st_count(b));
    for (size_t i = 0; i < ac_st_count(a); i++) {
        const ac_st_tensor *x = ac_st_at(a, i), *y = ac_st_at(b, i);
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->dtype, y->dtype);
        assert_int_equal(x->dims, y->dims);
        assert_memory_equal(x->dim, y->dim, sizeof x->dim);
        if (memcmp(x->data, y->data, x->bytes) != 0)
            fail_msg("%s of %s differs", x->name, file);
    }
    ac_st_close(a);
    ac_st_close(b);
}

static void convert(const char *in, const char *out, int type, const char *clip_dir)
{
    ac_diag dg = {0};

    if (ac_convert(in, out, type, clip_dir, &dg) != 0)
        fail_msg("%s", dg.msg);
}

static void expect_failure(const char *in, const char *out, int code, const char *says)
{
    ac_diag dg = {0};

    assert_int_equal(ac_convert(in, out, -1, NULL, &dg), code);
    if (!strstr(dg.msg, says))
        fail_msg("\"%s\" does not say \"%s\"", dg.msg, says);
}

static void save_text(const char *dir, const char *file, const char *text)
{
    char *path = ac_path_join(dir, file);
    ac_diag dg = {0};

    if (ac_file_save(path, text, strlen(text), &dg) != 0)
        fail_msg("%s", dg.msg);
    free(path);
}

static void make_dir(const char *dir, const char *name)
{
    char *path = ac_path_join(dir, name);

    assert_int_equal(mkdir(path, 0777), 0);
    free(path);
}

static int entries(const char *dir)
{
    DIR *d = opendir(dir);
    int n = -2;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* dir/part with the fixture's configuration, and a link to its weights. */
static bool add_part(const char *dir, const char *part, const char *fixture, const char *weights)
{
    char rel[128], path[4096], real[PATH_MAX], to[4096];
    json_t *config;

    snprintf(rel, sizeof rel, "%s/model.safetensors", fixture);
    if (!fixture_path(path, sizeof path, rel))
        return false;
    make_dir(dir, part);
    assert_non_null(realpath(path, real));
    snprintf(to, sizeof to, "%s/%s/%s", dir, part, weights);
    assert_int_equal(symlink(real, to), 0);
    snprintf(rel, sizeof rel, "%s/config.json", fixture);
    config = read_json(fixture_dir(), rel);
    snprintf(to, sizeof to, "%s/%s/config.json", dir, part);
    assert_int_equal(json_dump_file(config, to, 0), 0);
    json_decref(config);
    return true;
}

#define UNET_FILE "diffusion_pytorch_model.safetensors"

/* A folder in the shape of SDXL, or of SD 1, out of the model fixtures. */
static bool make_model(const char *dir, bool xl)
{
    assert_int_equal(mkdir(dir, 0777), 0);
    if (!add_part(dir, "unet", xl ? "unet_sdxl" : "unet_sd1", UNET_FILE) || !add_part(dir, "vae", "vae", UNET_FILE) ||
        !add_part(dir, "text_encoder", "clip_text_quick_gelu", "model.safetensors") ||
        (xl && !add_part(dir, "text_encoder_2", "clip_text_gelu_proj", "model.safetensors")))
        return false;
    make_dir(dir, "scheduler");
    save_text(dir, "scheduler/scheduler_config.json",
              "{\"_class_name\":\"EulerDiscreteScheduler\",\"beta_start\":0.00085,\"x\":0.1234567890123456789}");
    save_text(dir, "model_index.json", "{\"_class_name\":\"StableDiffusionXLPipeline\"}");
    return true;
}

/* ------------------------------------------------------------------------------------------------- tests */

static void test_shipped_model(void **state)
{
    static const char *const weights[] = {"unet/" UNET_FILE, "vae/" UNET_FILE, "text_encoder/model.safetensors"};
    static const char *const jsons[] = {"unet/config.json",
                                        "vae/config.json",
                                        "text_encoder/config.json",
                                        "scheduler/scheduler_config.json",
                                        "tokenizer/tokenizer_config.json",
                                        "tokenizer/special_tokens_map.json",
                                        "model_index.json"};
    char model[4096];
    const char *file = temp_path("shipped.safetensors"), *back = temp_path("shipped");
    json_t *configs, *config;
    ac_layout *l;
    ac_diag dg = {0};
    ac_st *st;

    (void)state;
    source_path(model, sizeof model, "models/emoji-teacher");
    convert(model, file, -1, NULL);
    st = open_st("", file);
    assert_non_null(ac_st_find(st, "model.diffusion_model.output_blocks.1.1.conv.weight"));
    assert_non_null(ac_st_find(st, "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"));
    assert_int_equal(ac_st_find(st, "first_stage_model.encoder.mid.attn_1.q.weight")->dims, 4);
    assert_int_equal(ac_layout_detect(st, file, NULL, &dg, &l), 0);
    assert_int_equal(ac_layout_configs(l, &dg, &configs), 0);
    config = read_json(model, "unet/config.json");
    assert_true(json_equal(json_object_get(configs, "unet"), config));
    json_decref(config);
    json_decref(configs);
    ac_layout_free(l);
    ac_st_close(st);
    convert(file, back, -1, NULL);
    for (size_t i = 0; i < AC_LEN(weights); i++)
        check_same_tensors(model, back, weights[i]);
    for (size_t i = 0; i < AC_LEN(jsons); i++)
        check_same_json(model, back, jsons[i]);
    check_same_text(model, back, "tokenizer/vocab.json");
    check_same_text(model, back, "tokenizer/merges.txt");
}

/* Two text encoders: q, k and v join and split, the projection is turned and turned back. */
static void test_sdxl(void **state)
{
    const char *dir = temp_path("xl"), *file = temp_path("xl.safetensors"), *back = temp_path("xl-back");
    const ac_st_tensor *fused, *q, *v, *turned, *straight;
    ac_st *st, *text;
    size_t third;

    (void)state;
    if (!make_model(dir, true))
        skip();
    convert(dir, file, -1, NULL);
    st = open_st("", file);
    text = open_st(dir, "text_encoder_2/model.safetensors");
    fused = ac_st_find(st, "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight");
    q = ac_st_find(text, "text_model.encoder.layers.1.self_attn.q_proj.weight");
    v = ac_st_find(text, "text_model.encoder.layers.1.self_attn.v_proj.weight");
    assert_true(fused && q && v);
    assert_int_equal(fused->dim[0], 3 * q->dim[0]);
    third = (size_t)q->bytes;
    assert_memory_equal(fused->data, q->data, third);
    assert_memory_equal((const char *)fused->data + 2 * third, v->data, third);
    turned = ac_st_find(st, "conditioner.embedders.1.model.text_projection");
    straight = ac_st_find(text, "text_projection.weight");
    assert_true(turned && straight);
    assert_int_equal(turned->dim[0], straight->dim[1]);
    assert_int_equal(turned->dim[1], straight->dim[0]);
    assert_memory_equal((const float *)turned->data + 1, (const float *)straight->data + straight->dim[1], 4);
    assert_non_null(ac_st_find(st, "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"));
    ac_st_close(text);
    ac_st_close(st);
    convert(file, back, -1, NULL);
    check_same_tensors(dir, back, "unet/" UNET_FILE);
    check_same_tensors(dir, back, "vae/" UNET_FILE);
    check_same_tensors(dir, back, "text_encoder/model.safetensors");
    check_same_tensors(dir, back, "text_encoder_2/model.safetensors");
    check_same_json(dir, back, "scheduler/scheduler_config.json");
}

/* The text encoder of SD 2 is known by its configuration and written as OpenCLIP names it. */
static void test_vit_h(void **state)
{
    const char *dir = temp_path("h"), *file = temp_path("h.safetensors"), *back = temp_path("h-back");
    ac_st *st;

    (void)state;
    if (!make_model(dir, false))
        skip();
    save_text(dir, "text_encoder/config.json",
              "{\"hidden_size\":1024,\"num_hidden_layers\":23,\"hidden_act\":\"gelu\"}");
    convert(dir, file, -1, NULL);
    st = open_st("", file);
    assert_non_null(ac_st_find(st, "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight"));
    ac_st_close(st);
    convert(file, back, -1, NULL);
    check_same_tensors(dir, back, "text_encoder/model.safetensors");
}

static void test_types(void **state)
{
    static const int types[] = {AC_F16, AC_BF16, AC_F32};
    const char *dir = temp_path("t"), *file = temp_path("t.safetensors");
    static const char stored[] = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight";

    (void)state;
    if (!make_model(dir, false))
        skip();
    for (size_t i = 0; i < AC_LEN(types); i++) {
        ac_st *st, *unet = open_st(dir, "unet/" UNET_FILE);
        const ac_st_tensor *a, *b;
        convert(dir, file, types[i], NULL);
        st = open_st("", file);
        a = ac_st_find(st, stored);
        b = ac_st_find(unet, "down_blocks.0.resnets.0.conv1.weight");
        for (size_t k = 0; k < b->bytes / 4; k++) {
            uint16_t h;
            float f, want;
            memcpy(&want, (const char *)b->data + 4 * k, 4);
            memcpy(&h, (const char *)a->data + 2 * (types[i] == AC_F32 ? 0 : k), 2);
            memcpy(&f, (const char *)a->data + 4 * (types[i] == AC_F32 ? k : 0), 4);
            if (types[i] == AC_F16)
                assert_int_equal(h, ac_float_to_half(want));
            else if (types[i] == AC_BF16)
                assert_int_equal(h, ac_float_to_bf16(want));
            else
                assert_true(f == want);
        }
        ac_st_close(st);
        ac_st_close(unet);
    }
}

/* CLIP's own vocabulary is not copied into the file and comes back from where it lies. */
static void test_clip_vocabulary(void **state)
{
    const char *dir = temp_path("c"), *file = temp_path("c.safetensors"), *back = temp_path("c-back");
    char vocab[4096], clip_dir[4096], *text;
    ac_st *st;

    (void)state;
    if (!make_model(dir, false) || !fixture_path(vocab, sizeof vocab, "tokenizer/vocab.json"))
        skip();
    snprintf(clip_dir, sizeof clip_dir, "%s/tokenizer", fixture_dir());
    make_dir(dir, "tokenizer");
    text = read_text(clip_dir, "vocab.json");
    save_text(dir, "tokenizer/vocab.json", text);
    free(text);
    text = read_text(clip_dir, "merges.txt");
    save_text(dir, "tokenizer/merges.txt", text);
    free(text);
    save_text(dir, "tokenizer/tokenizer_config.json", "{\"model_max_length\":77}");
    convert(dir, file, -1, NULL);
    st = open_st("", file);
    assert_null(ac_st_meta(st, AC_META_VOCAB));
    assert_null(ac_st_meta(st, AC_META_MERGES));
    ac_st_close(st);
    convert(file, back, -1, clip_dir);
    check_same_text(dir, back, "tokenizer/vocab.json");
    check_same_text(dir, back, "tokenizer/merges.txt");
}

static void test_marks(void **state)
{
    const char *dir = temp_path("m"), *file = temp_path("m.safetensors"), *back = temp_path("m-back");
    char *card;
    ac_st *st;

    (void)state;
    if (!make_model(dir, false))
        skip();
    save_text(dir, "README.md", "---\nlicense: mit\nadd_cl.steps: 1\nadd_cl.cfg_scale:  4.5\n---\nadd_cl.not: this\n");
    convert(dir, file, -1, NULL);
    st = open_st("", file);
    assert_string_equal(ac_st_meta(st, "add_cl.steps"), "1");
    assert_string_equal(ac_st_meta(st, "add_cl.cfg_scale"), "4.5");
    assert_null(ac_st_meta(st, "add_cl.not"));
    ac_st_close(st);
    convert(file, back, -1, NULL);
    card = read_text(back, "README.md");
    assert_string_equal(card, "---\nadd_cl.steps: 1\nadd_cl.cfg_scale: 4.5\n---\n");
    free(card);
}

static void test_failures(void **state)
{
    const char *dir = temp_path("f"), *file = temp_path("f.safetensors"), *full = temp_path("full");
    const char *work = temp_path("work"), *gone = temp_path("work/none/x.safetensors");
    const char *out = temp_path("work/out"), *half = temp_path("half");

    (void)state;
    if (!make_model(dir, false))
        skip();
    convert(dir, file, -1, NULL);
    assert_int_equal(mkdir(work, 0777), 0);
    assert_int_equal(mkdir(full, 0777), 0);
    save_text(full, "keep", "me");
    expect_failure(file, full, ADDCL_E_ARG, "exists already");
    assert_int_equal(entries(full), 1);
    expect_failure(dir, gone, ADDCL_E_IO, "none");
    expect_failure(temp_path("absent"), out, ADDCL_E_IO, "absent");
    expect_failure(full, out, ADDCL_E_FORMAT, "holds no unet");
    /* a part without configuration, then a part without weights, then a tensor without a place */
    assert_int_equal(mkdir(half, 0777), 0);
    assert_true(add_part(half, "unet", "unet_sd1", UNET_FILE));
    expect_failure(half, out, ADDCL_E_FORMAT, "holds no vae");
    make_dir(half, "vae");
    expect_failure(half, out, ADDCL_E_IO, "holds no weights");
    save_text(half, "vae/pytorch_model.bin", "PK");
    expect_failure(half, out, ADDCL_E_UNSUPPORTED, "pickle");
    assert_int_equal(entries(work), 0);
}

static int fill_zero(void *user, size_t i, void *dst, size_t bytes)
{
    (void)user, (void)i;
    memset(dst, 0, bytes);
    return 0;
}

static void test_bad_metadata(void **state)
{
    static const ac_st_entry e = {"text_model.embeddings.token_embedding.weight", AC_ST_F32, 2, {4, 4}};
    static const char *const values[] = {"{\"unet\":", "[1]", "{\"unet\":3}", "{\"a\":{},\"a\":{}}"};
    const char *file = temp_path("meta.safetensors");

    (void)state;
    for (size_t i = 0; i < AC_LEN(values); i++) {
        const char *const meta[][2] = {{AC_META_CONFIG, values[i]}};
        ac_diag dg = {0};
        if (ac_st_write(file, &e, 1, meta, 1, fill_zero, NULL, &dg) != 0)
            fail_msg("%s", dg.msg);
        expect_failure(file, temp_path("meta"), ADDCL_E_FORMAT, "metadata " AC_META_CONFIG);
    }
}

/* A folder that cannot be finished is taken away: here one whose last file cannot be read. */
static void test_nothing_left(void **state)
{
    const char *dir = temp_path("n"), *file = temp_path("n.safetensors"), *work = temp_path("n-work");
    ac_diag dg = {0};

    (void)state;
    if (!make_model(dir, false))
        skip();
    make_dir(dir, "tokenizer");
    save_text(dir, "tokenizer/tokenizer_config.json", "{}");
    convert(dir, file, -1, NULL);
    assert_int_equal(mkdir(work, 0777), 0);
    assert_int_equal(ac_convert(file, temp_path("n-work/out"), -1, temp_path("no-clip"), &dg), ADDCL_E_IO);
    assert_int_equal(entries(work), 0);
}

static void test_short_memory(void **state)
{
    const char *dir = temp_path("s"), *file = temp_path("s.safetensors"), *back = temp_path("s-back");
    const char *from[] = {dir, file}, *to[] = {file, back};

    (void)state;
    if (!make_model(dir, true))
        skip();
    for (int k = 0; k < 2; k++) {
        int rc = -1;
        for (unsigned long n = 1; rc != 0; n += 1 + n / 8) {
            assert_true(n < 1000000);
            ac_diag dg = {0};
            ac_alloc_fail_at(n);
            rc = ac_convert(from[k], to[k], AC_F16, NULL, &dg);
            ac_alloc_fail_at(0);
            assert_true(rc == 0 || dg.msg[0]);
            assert_true(rc == 0 || !ac_exists(to[k]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shipped_model),   cmocka_unit_test(test_sdxl),
        cmocka_unit_test(test_vit_h),           cmocka_unit_test(test_types),
        cmocka_unit_test(test_clip_vocabulary), cmocka_unit_test(test_marks),
        cmocka_unit_test(test_failures),        cmocka_unit_test(test_bad_metadata),
        cmocka_unit_test(test_nothing_left),    cmocka_unit_test(test_short_memory),
    };

    return cmocka_run_group_tests_name("convert", tests, temp_setup, temp_teardown);
}
