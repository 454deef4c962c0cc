/* t_lora.c - LoRA files: the three namings of the fixture against its merged weights, SDXL's sgm names, bad files. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model/layout.h"
#include "model/lora.h"

/* The fixture's base model and the names of its weights. */
typedef struct base {
    ac_st *st[2];
    ac_layout *l[2];
    const char **names[2];
    ac_lora_base parts[2];
} base;

static void base_open(base *b)
{
    static const char *const part[] = {"unet", "text_encoder"};
    static const char *const file[] = {"lora/unet/diffusion_pytorch_model.safetensors",
                                       "lora/text_encoder/model.safetensors"};
    ac_diag dg = {0};

    for (int i = 0; i < 2; i++) {
        b->st[i] = fixture_open(file[i]);
        if (ac_layout_detect(b->st[i], file[i], part[i], &dg, &b->l[i]) != 0)
            fail_msg("%s", dg.msg);
        b->names[i] = malloc(b->l[i]->n * sizeof *b->names[i]);
        for (size_t k = 0; k < b->l[i]->n; k++)
            b->names[i][k] = b->l[i]->src[k].name;
        b->parts[i] = (ac_lora_base){part[i], b->names[i], b->l[i]->n};
    }
}

static void base_close(base *b)
{
    for (int i = 0; i < 2; i++) {
        free(b->names[i]);
        ac_layout_free(b->l[i]);
        ac_st_close(b->st[i]);
    }
}

static const ac_lora_delta *find_delta(const ac_lora *l, const char *part, const char *module)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->delta[i].part, part) == 0 && strcmp(l->delta[i].module, module) == 0)
            return &l->delta[i];
    return NULL;
}

/* Every matrix of the file is in a delta, whose shapes fit the base's weight. */
static void check_fit(const ac_lora *l, const base *b)
{
    size_t matrices = 0;

    for (size_t i = 0; i < ac_st_count(l->st); i++)
        matrices += ac_st_at(l->st, i)->dims > 1;
    assert_int_equal(matrices, 2 * l->n);
    for (size_t i = 0; i < l->n; i++) {
        const ac_lora_delta *d = &l->delta[i];
        char weight[AC_NAME_MAX];
        const ac_source *s;
        snprintf(weight, sizeof weight, "%s.weight", d->module);
        s = ac_layout_find(b->l[strcmp(d->part, "unet") != 0], d->part, weight);
        assert_non_null(s);
        assert_int_equal(s->dim[0], d->up->dim[0]);
        assert_int_equal(s->dim[1], d->down->dim[1]);
        assert_int_equal(s->dims, d->down->dims);
    }
}

static void test_namings(void **state)
{
    static const char *const files[] = {"kohya", "peft", "old"};
    char path[4096];
    base b;

    (void)state;
    if (!fixture_path(path, sizeof path, "lora/kohya.safetensors"))
        skip();
    base_open(&b);
    for (size_t i = 0; i < AC_LEN(files); i++) {
        ac_diag dg = {0};
        ac_lora *l;
        char rel[64];
        snprintf(rel, sizeof rel, "lora/%s.safetensors", files[i]);
        assert_true(fixture_path(path, sizeof path, rel));
        if (ac_lora_open(path, b.parts, 2, &dg, &l) != 0)
            fail_msg("%s", dg.msg);
        check_fit(l, &b);
        for (size_t k = 0; k < l->n && i > 0; k++)
            assert_true(l->delta[k].scale == 1);
        ac_lora_close(l);
    }
    base_close(&b);
}

/* Largest difference between base + multiplier * scale * up . down and the fixture's merged weight. */
static double merge_error(const ac_source *w, const ac_lora_delta *d, double multiplier, const ac_st *io,
                          const char *merged)
{
    size_t n, rank = (size_t)d->down->dim[0], rows = (size_t)d->up->dim[0], cols;
    double *want = fixture_f64(io, merged, &n), worst = 0;
    const float *up = d->up->data, *down = d->down->data, *old = w->t->data;

    cols = n / rows;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            double sum = 0;
            for (size_t k = 0; k < rank; k++)
                sum += (double)up[r * rank + k] * (double)down[k * cols + c];
            worst = fmax(worst, fabs((double)old[r * cols + c] + multiplier * d->scale * sum - want[r * cols + c]));
        }
    free(want);
    return worst;
}

static void test_merged(void **state)
{
    static const char prefix[] = "kohya.0.7.merged.", end[] = ".weight";
    char path[4096];
    ac_diag dg = {0};
    ac_lora *l;
    ac_st *io;
    base b;
    int checked = 0;

    (void)state;
    if (!fixture_path(path, sizeof path, "lora/kohya.safetensors"))
        skip();
    base_open(&b);
    io = fixture_open("lora/io.safetensors");
    if (ac_lora_open(path, b.parts, 2, &dg, &l) != 0)
        fail_msg("%s", dg.msg);
    for (size_t i = 0; i < ac_st_count(io); i++) {
        const char *name = ac_st_at(io, i)->name, *weight = name + strlen(prefix);
        if (strncmp(name, prefix, strlen(prefix)) != 0)
            continue;
        for (int p = 0; p < 2; p++) {
            const ac_source *w = ac_layout_find(b.l[p], b.parts[p].part, weight);
            const ac_lora_delta *d;
            char module[AC_NAME_MAX];
            if (!w)
                continue;
            snprintf(module, sizeof module, "%.*s", (int)(strlen(weight) - strlen(end)), weight);
            d = find_delta(l, b.parts[p].part, module);
            assert_non_null(d);
            assert_true(merge_error(w, d, 0.7, io, name) < 1e-6);
            checked++;
        }
    }
    assert_true(checked > 0);
    ac_lora_close(l);
    ac_st_close(io);
    base_close(&b);
}

/* ------------------------------------------------------------------------------------------- made-up files */

typedef struct made {
    const char *name;
    int dims;
    int64_t a, b;
    float value;
} made;

static int fill_made(void *user, size_t i, void *dst, size_t bytes)
{
    const made *m = user;

    for (size_t k = 0; k < bytes / sizeof(float); k++)
        ((float *)dst)[k] = m[i].value;
    return 0;
}

static const char *write_made(const made *m, size_t n, const char *const (*meta)[2], size_t n_meta)
{
    ac_st_entry e[16];
    ac_diag dg = {0};
    made copy[16];
    const char *path = temp_path("made.safetensors");

    assert_true(n <= AC_LEN(e));
    memcpy(copy, m, n * sizeof *m);
    for (size_t i = 0; i < n; i++)
        e[i] = (ac_st_entry){m[i].name, AC_ST_F32, m[i].dims, {m[i].a, m[i].b}};
    if (ac_st_write(path, e, n, meta, n_meta, fill_made, copy, &dg) != 0)
        fail_msg("%s", dg.msg);
    return path;
}

/* Part of SDXL: two layers a block, attention in the second and third of three levels. */
static const char *const xl_unet[] = {
    "down_blocks.0.resnets.0.conv1.weight",
    "down_blocks.0.resnets.1.conv1.weight",
    "down_blocks.1.attentions.0.proj_in.weight",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "down_blocks.1.downsamplers.0.conv.weight",
    "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj.weight",
    "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0.weight",
    "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0.bias",
    "up_blocks.1.upsamplers.0.conv.weight",
};
static const char *const xl_text[] = {"text_model.encoder.layers.0.self_attn.q_proj.weight"};
static const ac_lora_base xl[] = {
    {"unet", xl_unet, AC_LEN(xl_unet)},
    {"text_encoder", xl_text, 1},
    {"text_encoder_2", xl_text, 1},
};

static void test_sgm_names(void **state)
{
    static const struct {
        const char *key, *part, *module;
    } cases[] = {
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "unet",
         "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"},
        {"lora_unet_input_blocks_6_0_op", "unet", "down_blocks.1.downsamplers.0.conv"},
        {"lora_unet_input_blocks_2_0_in_layers_2", "unet", "down_blocks.0.resnets.1.conv1"},
        {"lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj", "unet",
         "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj"},
        {"lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_out_0", "unet",
         "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0"},
        {"lora_unet_output_blocks_5_2_conv", "unet", "up_blocks.1.upsamplers.0.conv"},
        {"lora_unet_down_blocks_1_attentions_0_proj_in", "unet", "down_blocks.1.attentions.0.proj_in"},
        {"lora_te1_text_model_encoder_layers_0_self_attn_q_proj", "text_encoder",
         "text_model.encoder.layers.0.self_attn.q_proj"},
        {"lora_te2_text_model_encoder_layers_0_self_attn_q_proj", "text_encoder_2",
         "text_model.encoder.layers.0.self_attn.q_proj"},
    };

    (void)state;
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        char down[160], up[160], alpha[160];
        const made m[] = {{down, 2, 4, 8, 1}, {up, 2, 8, 4, 1}, {alpha, 0, 0, 0, 2}};
        ac_diag dg = {0};
        ac_lora *l;
        snprintf(down, sizeof down, "%s.lora_down.weight", cases[i].key);
        snprintf(up, sizeof up, "%s.lora_up.weight", cases[i].key);
        snprintf(alpha, sizeof alpha, "%s.alpha", cases[i].key);
        if (ac_lora_open(write_made(m, 3, NULL, 0), xl, 3, &dg, &l) != 0)
            fail_msg("%s", dg.msg);
        assert_int_equal(l->n, 1);
        assert_string_equal(l->delta[0].part, cases[i].part);
        assert_string_equal(l->delta[0].module, cases[i].module);
        assert_true(l->delta[0].scale == 0.5);
        ac_lora_close(l);
    }
}

/* alpha from peft's configuration in the metadata, overruled for one module. */
static void test_metadata_alpha(void **state)
{
    static const char *const meta[][2] = {
        {"lora_adapter_metadata", "{\"unet.r\":4,\"unet.lora_alpha\":8,\"unet.alpha_pattern\":{\"attn1.to_q\":1}}"}};
    static const made m[] = {
        {"unet.down_blocks.1.attentions.0.proj_in.lora_A.weight", 2, 4, 8, 1},
        {"unet.down_blocks.1.attentions.0.proj_in.lora_B.weight", 2, 8, 4, 1},
        {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", 2, 4, 8, 1},
        {"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight", 2, 8, 4, 1},
        {"text_encoder.encoder.layers.0.self_attn.to_q_lora.down.weight", 2, 4, 8, 1},
        {"text_encoder.encoder.layers.0.self_attn.to_q_lora.up.weight", 2, 8, 4, 1},
    };
    ac_diag dg = {0};
    ac_lora *l;

    (void)state;
    if (ac_lora_open(write_made(m, AC_LEN(m), meta, 1), xl, 3, &dg, &l) != 0)
        fail_msg("%s", dg.msg);
    assert_int_equal(l->n, 3);
    assert_true(find_delta(l, "unet", "down_blocks.1.attentions.0.proj_in")->scale == 2);
    assert_true(find_delta(l, "unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")->scale == 0.25);
    assert_true(find_delta(l, "text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")->scale == 1);
    ac_lora_close(l);
}

static void test_bad_files(void **state)
{
#define MID "lora_unet_down_blocks_1_attentions_0_proj_in"
    static const struct {
        made m[4];
        int code;
        const char *says;
    } cases[] = {
        {{{"x.weight", 2, 4, 4, 0}}, ADDCL_E_FORMAT, "holds no LoRA"},
        {{{MID ".alpha", 0, 0, 0, 1}}, ADDCL_E_FORMAT, "holds no LoRA"},
        {{{"lora_unet_nowhere.lora_down.weight", 2, 4, 8, 0}, {"lora_unet_nowhere.lora_up.weight", 2, 8, 4, 0}},
         ADDCL_E_FORMAT,
         "1 entries fit nothing in the model: lora_unet_nowhere"},
        {{{MID ".lora_down.weight", 2, 4, 8, 0}, {MID ".lora_up.weight", 2, 8, 4, 0}, {MID ".strange", 1, 4, 0, 0}},
         ADDCL_E_FORMAT,
         MID ".strange"},
        {{{MID ".lora_down.weight", 2, 4, 8, 0}}, ADDCL_E_FORMAT, "has no up matrix"},
        {{{MID ".lora_up.weight", 2, 8, 4, 0}}, ADDCL_E_FORMAT, "has no down matrix"},
        {{{MID ".lora_down.weight", 2, 4, 8, 0}, {MID ".lora_up.weight", 2, 8, 3, 0}}, ADDCL_E_SHAPE, "ranks"},
        {{{MID ".lora_down.weight", 2, 0, 8, 0}, {MID ".lora_up.weight", 2, 8, 0, 0}}, ADDCL_E_SHAPE, "ranks"},
        {{{MID ".lora_down.weight", 2, 4, 8, 0},
          {MID ".lora_up.weight", 2, 8, 4, 0},
          {MID ".alpha", 0, 0, 0, INFINITY}},
         ADDCL_E_FORMAT,
         "not finite"},
        {{{MID ".lora_down.weight", 2, 4, 8, 0}, {MID ".lora_up.weight", 2, 8, 4, 0}, {MID ".dora_scale", 1, 8, 0, 0}},
         ADDCL_E_UNSUPPORTED,
         "DoRA"},
        {{{MID ".hada_w1_a", 2, 4, 8, 0}}, ADDCL_E_UNSUPPORTED, "LoHa"},
        {{{MID ".lora_down.weight", 2, 4, 8, 0}, {"unet.down_blocks.1.attentions.0.proj_in.lora_A.weight", 2, 4, 8, 0}},
         ADDCL_E_FORMAT,
         "belong to the same module"},
    };

    (void)state;
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        ac_diag dg = {0};
        ac_lora *l;
        size_t n = 0;
        while (n < 4 && cases[i].m[n].name)
            n++;
        assert_int_equal(ac_lora_open(write_made(cases[i].m, n, NULL, 0), xl, 3, &dg, &l), cases[i].code);
        assert_null(l);
        if (!strstr(dg.msg, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", dg.msg, cases[i].says);
    }
}

static void test_short_memory(void **state)
{
    static const made m[] = {{MID ".lora_down.weight", 2, 4, 8, 0},
                             {MID ".lora_up.weight", 2, 8, 4, 0},
                             {"lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight", 2, 4, 8, 0},
                             {"lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight", 2, 8, 4, 0}};
    const char *path;
    ac_diag dg = {0};
    int rc = -1;

    (void)state;
    path = write_made(m, AC_LEN(m), NULL, 0);
    for (unsigned long n = 1; rc != 0; n++) {
        ac_lora *l;
        ac_clear(&dg);
        ac_alloc_fail_at(n);
        rc = ac_lora_open(path, xl, 3, &dg, &l);
        ac_alloc_fail_at(0);
        assert_true(rc == 0 || (rc == ADDCL_E_NOMEM && dg.msg[0] && !l));
        ac_lora_close(l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_namings),        cmocka_unit_test(test_merged),    cmocka_unit_test(test_sgm_names),
        cmocka_unit_test(test_metadata_alpha), cmocka_unit_test(test_bad_files), cmocka_unit_test(test_short_memory),
    };

    return cmocka_run_group_tests_name("lora", tests, temp_setup, temp_teardown);
}
