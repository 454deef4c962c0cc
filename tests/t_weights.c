/* t_weights.c - opening models whose files are damaged or do not fit: an error that names the tensor or file. */
#include "sample_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"

#define VAE_FILE "diffusion_pytorch_model.safetensors"
#define VICTIM   "decoder.conv_in.bias"

/* --------------------------------------------------------------------------------------------------- helpers */

/* Opens the model and expects an error of this code whose message has both texts. */
static void refuses(const addcl_model_opts *o, int code, const char *says, const char *and_says)
{
    addcl_model *m = NULL;
    int rc = addcl_model_load(test_context(), o, &m);
    const char *msg = addcl_error(test_context());

    if (rc != code)
        fail_msg("%s, expected %s: %s", addcl_code_name(rc), addcl_code_name(code), msg);
    assert_null(m);
    assert_null(strchr(msg, '\n'));
    if (!strstr(msg, says) || !strstr(msg, and_says))
        fail_msg("\"%s\" does not say \"%s\" and \"%s\"", msg, says, and_says);
}

static void refuses_model(const char *path, int code, const char *says)
{
    addcl_model_opts o = ADDCL_MODEL_OPTS_INIT;

    o.path = path;
    refuses(&o, code, says, "");
}

/* The shipped model with another VAE. */
static addcl_model_opts with_vae(const char *vae)
{
    addcl_model_opts o = ADDCL_MODEL_OPTS_INIT;

    o.path = shipped_model();
    o.vae = vae;
    return o;
}

/* A copy of one of the shipped model's files. */
static void copy_file(const char *from, const char *to)
{
    char path[4096], *text;
    ac_diag dg = {0};
    size_t n;

    snprintf(path, sizeof path, "%s/%s", shipped_model(), from);
    if (ac_file_read(path, (size_t)1 << 24, &dg, &text, &n) != 0)
        fail_msg("%s", dg.msg);
    temp_write(to, text, n);
    free(text);
}

static int zeros(void *user, size_t i, void *dst, size_t bytes)
{
    (void)user, (void)i;
    memset(dst, 0, bytes);
    return 0;
}

static void write_st(const char *path, const ac_st_entry *e, size_t n)
{
    ac_diag dg = {0};

    if (ac_st_write(path, e, n, NULL, 0, zeros, NULL, &dg) != 0)
        fail_msg("%s", dg.msg);
}

/* The folder `vae` in the temporary folder: the shipped VAE's shapes, after edit(), and its configuration. */
static const char *write_vae(size_t (*edit)(ac_st_entry *e, size_t n))
{
    char path[4096];
    ac_diag dg = {0};
    ac_st_entry *e;
    size_t n;
    ac_st *st;

    mkdir(temp_path("vae"), 0777);
    copy_file("vae/config.json", "vae/config.json");
    snprintf(path, sizeof path, "%s/vae/" VAE_FILE, shipped_model());
    if (ac_st_open(path, &dg, &st) != 0)
        fail_msg("%s", dg.msg);
    n = ac_st_count(st);
    e = calloc(n + 1, sizeof *e); /* one more for edit() */
    assert_non_null(e);
    for (size_t i = 0; i < n; i++) {
        const ac_st_tensor *t = ac_st_at(st, i);
        e[i] = (ac_st_entry){.name = t->name, .dtype = t->dtype, .dims = t->dims};
        memcpy(e[i].dim, t->dim, sizeof e[i].dim);
    }
    if (edit)
        n = edit(e, n);
    write_st(temp_path("vae/" VAE_FILE), e, n);
    free(e);
    ac_st_close(st);
    return temp_path("vae");
}

static ac_st_entry *victim(ac_st_entry *e, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(e[i].name, VICTIM) == 0)
            return &e[i];
    fail_msg("the VAE has no " VICTIM);
    return NULL;
}

/* --------------------------------------------------------------------------------------------------- tensors */

static size_t remove_one(ac_st_entry *e, size_t n)
{
    *victim(e, n) = e[n - 1];
    return n - 1;
}

static size_t add_one(ac_st_entry *e, size_t n)
{
    e[n] = (ac_st_entry){"decoder.up_blocks.9.resnets.0.conv1.bias", AC_ST_F16, 1, {16}};
    return n + 1;
}

static size_t widen_one(ac_st_entry *e, size_t n)
{
    victim(e, n)->dim[0]++;
    return n;
}

static size_t retype_one(ac_st_entry *e, size_t n)
{
    victim(e, n)->dtype = AC_ST_I32;
    return n;
}

static void test_tensors(void **state)
{
    static const struct {
        size_t (*edit)(ac_st_entry *e, size_t n);
        int code;
        const char *says, *and_says;
    } cases[] = {
        {remove_one, ADDCL_E_FORMAT, VICTIM, "missing"},
        {add_one, ADDCL_E_FORMAT, "decoder.up_blocks.9.resnets.0.conv1.bias", "no place"},
        {widen_one, ADDCL_E_SHAPE, VICTIM, "expected"},
        {retype_one, ADDCL_E_UNSUPPORTED, VICTIM, "I32"},
    };
    addcl_model_opts o = with_vae(write_vae(NULL));
    addcl_model *m;

    (void)state;
    if (addcl_model_load(test_context(), &o, &m) != 0) /* unedited, it fits */
        fail_msg("%s", addcl_error(test_context()));
    addcl_model_free(m);
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        o.vae = write_vae(cases[i].edit);
        refuses(&o, cases[i].code, cases[i].says, cases[i].and_says);
    }
}

/* --------------------------------------------------------------------------------------------- configurations */

static void test_configs(void **state)
{
    static const struct {
        const char *json;
        int code;
        const char *says;
    } cases[] = {
        /* Sizes that are not the weights': names the first tensor that shows it. */
        {"{\"block_out_channels\": [16, 32, 32], \"layers_per_block\": 1, \"norm_num_groups\": 8}", ADDCL_E_SHAPE,
         "has shape"},
        {"{\"block_out_channels\": [16, 32, 64], \"layers_per_block\": 2, \"norm_num_groups\": 8}", ADDCL_E_FORMAT,
         "is missing"},
        {"{\"block_out_channels\": [16, 32, 64], \"layers_per_block\": 1, \"norm_num_groups\": 7}", ADDCL_E_FORMAT,
         "7 groups"},
        {"{\"block_out_channels\": \"wide\"}", ADDCL_E_FORMAT, "block_out_channels"},
        {"{\"block_out_channels\": [16, 32, 64], \"act_fn\": \"mish\"}", ADDCL_E_UNSUPPORTED, "mish"},
        {"{}", ADDCL_E_FORMAT, "block_out_channels"},
        {"[1]", ADDCL_E_FORMAT, "config.json"},
        {"{\"a\": ", ADDCL_E_FORMAT, "config.json"},
    };
    addcl_model_opts o = with_vae(write_vae(NULL));

    (void)state;
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        temp_write("vae/config.json", cases[i].json, strlen(cases[i].json));
        refuses(&o, cases[i].code, cases[i].says, "");
    }
    assert_int_equal(unlink(temp_path("vae/config.json")), 0);
    refuses(&o, ADDCL_E_IO, "config.json", "");
}

/* The shipped text encoder is 128 wide; the UNet of another model would attend to something else. */
static void test_parts_that_do_not_fit(void **state)
{
    addcl_model_opts o = ADDCL_MODEL_OPTS_INIT;
    char path[4096];

    (void)state;
    if (!fixture_path(path, sizeof path, "lora/unet/config.json"))
        skip();
    *strrchr(path, '/') = '\0';
    o.path = shipped_model();
    o.unet = path;
    refuses(&o, ADDCL_E_FORMAT, "128", "the UNet takes");
}

/* ------------------------------------------------------------------------------------------------ whole files */

static void test_broken_files(void **state)
{
    addcl_model_opts o = with_vae(write_vae(NULL));
    const char *file = temp_path("vae/" VAE_FILE);
    struct stat st;

    (void)state;
    assert_int_equal(stat(file, &st), 0);
    for (int part = 1; part < 4; part++) { /* cut shorter and shorter, at last inside the header */
        assert_int_equal(truncate(file, part < 3 ? st.st_size - (st.st_size >> part) : 100), 0);
        refuses(&o, ADDCL_E_FORMAT, VAE_FILE, "");
    }
    assert_int_equal(truncate(file, 0), 0);
    refuses(&o, ADDCL_E_FORMAT, VAE_FILE, "");
    assert_int_equal(unlink(file), 0);
    refuses(&o, ADDCL_E_IO, "holds no weights", "");
    temp_write("vae/diffusion_pytorch_model.bin", "PK\3\4", 4);
    refuses(&o, ADDCL_E_UNSUPPORTED, "diffusion_pytorch_model.bin", "safetensors");
}

static void test_other_models(void **state)
{
    static const ac_st_entry flux = {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight", AC_ST_F16, 2, {6, 2}};
    static const ac_st_entry unknown = {"blocks.0.mystery.weight", AC_ST_F16, 1, {4}};
    char path[4096];

    (void)state;
    write_st(temp_path("flux.safetensors"), &flux, 1);
    refuses_model(temp_path("flux.safetensors"), ADDCL_E_UNSUPPORTED, "Flux");
    write_st(temp_path("unknown.safetensors"), &unknown, 1);
    refuses_model(temp_path("unknown.safetensors"), ADDCL_E_UNSUPPORTED, "blocks.0.mystery.weight");
    refuses_model(temp_write("model.ckpt", "PK\3\4", 4), ADDCL_E_UNSUPPORTED, "safetensors");
    refuses_model(temp_write("model.gguf", "GGUF", 4), ADDCL_E_UNSUPPORTED, "safetensors");
    refuses_model(temp_path("nowhere"), ADDCL_E_IO, "nowhere");
    assert_int_equal(mkdir(temp_path("empty"), 0777), 0);
    refuses_model(temp_path("empty"), ADDCL_E_FORMAT, "model_index.json");
    snprintf(path, sizeof path, "%s/vae/" VAE_FILE, shipped_model()); /* a part is no model */
    refuses_model(path, ADDCL_E_FORMAT, "holds no UNet");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_parts_that_do_not_fit),
        cmocka_unit_test(test_broken_files),
        cmocka_unit_test(test_other_models),
    };
    return cmocka_run_group_tests_name("weights", tests, context_setup, context_teardown);
}
