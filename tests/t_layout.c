/* t_layout.c - names and shapes of every tensor of the published models, recognition of files, bad files. Files are
 * real headers followed by a hole, so full-size models cost no disk. */
#include "model_lists.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model/layout.h"

typedef struct opened {
    ac_st *st;
    ac_layout *l;
    ac_diag dg;
    int rc;
} opened;

/* Writes the list to a file, frees it, and lets the layout look at the file. */
static opened detect(const char *name, list *l, const char *part)
{
    opened o = {0};
    const char *file = write_sparse(name, l);

    free(l->p);
    *l = (list){0};
    if (ac_st_open(file, &o.dg, &o.st) != 0)
        fail_msg("%s", o.dg.msg);
    o.rc = ac_layout_detect(o.st, file, part, &o.dg, &o.l);
    return o;
}

static void close_opened(opened *o)
{
    ac_layout_free(o->l);
    ac_st_close(o->st);
}

/* Every canonical tensor of `want` is there with its shape, there is no other, and the parameters add up. */
static void check_part(opened *o, const char *part, list *want, int64_t params)
{
    int64_t total = 0;
    size_t n = 0;

    if (o->rc != 0)
        fail_msg("%s", o->dg.msg);
    for (size_t i = 0; i < want->n; i++) {
        const ac_source *s;
        if (ac_layout_get(o->l, part, want->p[i].name, want->p[i].dims, want->p[i].dim, &o->dg, &s) != 0)
            fail_msg("%s", o->dg.msg);
        total += ac_source_count(s);
    }
    for (size_t i = 0; i < o->l->n; i++)
        n += strcmp(o->l->src[i].part, part) == 0;
    if (ac_layout_check_used(o->l, part, &o->dg) != 0)
        fail_msg("%s", o->dg.msg);
    assert_int_equal(n, want->n);
    assert_int_equal(total, params);
    free(want->p);
    *want = (list){0};
}

/* Names go back to the stored ones, with the structure learnt from either side. */
static void check_way_back(const opened *o)
{
    for (int p = 0; p < o->l->n_parts; p++) {
        const ac_layout_part *part = &o->l->parts[p];
        ac_names again = {.scheme = part->names.scheme};
        for (size_t i = 0; i < o->l->n; i++)
            if (o->l->src[i].part == part->part)
                ac_names_learn(&again, o->l->src[i].name);
        for (size_t i = 0; i < o->l->n; i++) {
            const ac_source *s = &o->l->src[i];
            ac_renamed r;
            if (s->part != part->part)
                continue;
            assert_true(ac_name_stored(&part->names, s->name, &r));
            assert_string_equal(r.name, s->t->name + strlen(part->prefix));
            assert_int_equal(s->row, r.third * s->rows);
            assert_true(ac_name_stored(&again, s->name, &r));
            assert_string_equal(r.name, s->t->name + strlen(part->prefix));
        }
    }
}

#define UNET_SD1 859520964
#define UNET_SD2 865910724
#define UNET_XL  2567463684
#define VAE      83653863
#define CLIP_L   123060480
#define VIT_H    340387840
#define BIG_G    694659840

/* The inferred configuration holds at least `want` (JSON). */
static void check_config(const opened *o, const char *key, const char *want)
{
    json_t *configs, *part, *w = json_loads(want, 0, NULL), *value;
    ac_diag dg = {0};
    const char *k;

    assert_non_null(w);
    if (ac_layout_configs(o->l, &dg, &configs) != 0)
        fail_msg("%s", dg.msg);
    part = json_object_get(configs, key);
    assert_non_null(part);
    json_object_foreach(w, k, value)
    {
        json_t *have = json_object_get(part, k);
        if (json_is_null(value) ? have != NULL : !json_equal(have, value))
            fail_msg("%s.%s differs from %s", key, k, want);
    }
    json_decref(w);
    json_decref(configs);
}

static void test_sd1(void **state)
{
    list l = {0}, want = {0};
    opened o;

    (void)state;
    ldm_unet(&l, &sd1);
    ldm_vae(&l, "first_stage_model.");
    hf_text(&l, "cond_stage_model.transformer.", 768, 12, false);
    position_ids(&l, "cond_stage_model.transformer.");
    leftovers(&l);
    o = detect("v1-5-pruned.safetensors", &l, NULL);
    hf_unet(&want, &sd1);
    check_part(&o, "unet", &want, UNET_SD1);
    hf_vae(&want);
    check_part(&o, "vae", &want, VAE);
    hf_text(&want, "", 768, 12, false);
    check_part(&o, "text_encoder", &want, CLIP_L);
    check_way_back(&o);
    assert_string_equal(ac_layout_family(o.l), "sd1");
    check_config(&o, "unet",
                 "{\"attention_head_dim\":8,\"block_out_channels\":[320,640,1280,1280],\"cross_attention_dim\":768,"
                 "\"use_linear_projection\":false,\"layers_per_block\":2,\"transformer_layers_per_block\":[1,1,1,1],"
                 "\"down_block_types\":[\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\","
                 "\"DownBlock2D\"],\"in_channels\":4,\"sample_size\":64,\"addition_embed_type\":null}");
    check_config(&o, "vae",
                 "{\"scaling_factor\":0.18215,\"block_out_channels\":[128,256,512,512],\"layers_per_block\":2,"
                 "\"latent_channels\":4}");
    check_config(&o, "text_encoder",
                 "{\"hidden_act\":\"quick_gelu\",\"hidden_size\":768,\"num_hidden_layers\":12,"
                 "\"num_attention_heads\":12,\"intermediate_size\":3072,\"vocab_size\":49408}");
    check_config(&o, "scheduler", "{\"timestep_spacing\":\"leading\",\"beta_start\":0.00085,\"prediction_type\":null}");
    check_config(&o, "tokenizer", "{\"pad_token\":\"<|endoftext|>\"}");
    close_opened(&o);
}

/* The prefixes of ldm and of sgm, in which SD-Turbo is published. */
static void test_sd2(void **state)
{
    static const char *const prefix[] = {"cond_stage_model.model.", "conditioner.embedders.0.model."};
    static const char *const name[] = {"v2-1_512-ema-pruned.safetensors", "sd_turbo.safetensors"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        list l = {0}, want = {0};
        opened o;
        ldm_unet(&l, &sd2);
        ldm_vae(&l, "first_stage_model.");
        open_clip_text(&l, prefix[i], 1024, 24);
        add(&l, 1000, 0, 0, 0, "denoiser.sigmas");
        o = detect(name[i], &l, NULL);
        hf_unet(&want, &sd2);
        check_part(&o, "unet", &want, UNET_SD2);
        hf_vae(&want);
        check_part(&o, "vae", &want, VAE);
        hf_text(&want, "", 1024, 23, false);
        check_part(&o, "text_encoder", &want, VIT_H);
        check_way_back(&o);
        assert_string_equal(ac_layout_family(o.l), "sd2");
        check_config(&o, "unet",
                     "{\"attention_head_dim\":[5,10,20,20],\"cross_attention_dim\":1024,"
                     "\"use_linear_projection\":true,\"up_block_types\":[\"UpBlock2D\",\"CrossAttnUpBlock2D\","
                     "\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\"]}");
        check_config(&o, "text_encoder",
                     "{\"hidden_act\":\"gelu\",\"num_hidden_layers\":23,\"num_attention_heads\":16,"
                     "\"architectures\":[\"CLIPTextModel\"]}");
        check_config(&o, "scheduler",
                     i ? "{\"timestep_spacing\":\"trailing\",\"prediction_type\":\"epsilon\"}"
                       : "{\"timestep_spacing\":\"leading\",\"prediction_type\":null}");
        check_config(&o, "tokenizer", "{\"pad_token\":\"!\"}");
        close_opened(&o);
    }
}

static void test_sdxl(void **state)
{
    list l = {0}, want = {0};
    opened o;

    (void)state;
    ldm_unet(&l, &sdxl);
    ldm_vae(&l, "first_stage_model.");
    hf_text(&l, "conditioner.embedders.0.transformer.", 768, 12, false);
    position_ids(&l, "conditioner.embedders.0.transformer.");
    open_clip_text(&l, "conditioner.embedders.1.model.", 1280, 32);
    o = detect("sd_xl_base_1.0.safetensors", &l, NULL);
    hf_unet(&want, &sdxl);
    check_part(&o, "unet", &want, UNET_XL);
    hf_vae(&want);
    check_part(&o, "vae", &want, VAE);
    hf_text(&want, "", 768, 12, false);
    check_part(&o, "text_encoder", &want, CLIP_L);
    hf_text(&want, "", 1280, 32, true);
    check_part(&o, "text_encoder_2", &want, BIG_G);
    check_way_back(&o);
    assert_true(ac_layout_find(o.l, "text_encoder_2", "text_projection.weight")->transpose);
    assert_string_equal(ac_layout_family(o.l), "sdxl");
    check_config(&o, "unet",
                 "{\"attention_head_dim\":[5,10,20],\"transformer_layers_per_block\":[1,2,10],"
                 "\"addition_embed_type\":\"text_time\",\"addition_time_embed_dim\":256,"
                 "\"projection_class_embeddings_input_dim\":2816,\"sample_size\":128}");
    check_config(&o, "vae", "{\"scaling_factor\":0.13025}");
    check_config(
        &o, "text_encoder_2",
        "{\"architectures\":[\"CLIPTextModelWithProjection\"],\"projection_dim\":1280,\"hidden_act\":\"gelu\"}");
    check_config(&o, "model_index", "{\"_class_name\":\"StableDiffusionXLPipeline\"}");
    close_opened(&o);
}

/* Files of one part, in every naming. */
static void test_single_parts(void **state)
{
    list l = {0}, want = {0};
    opened o;

    (void)state;
    ldm_unet(&l, &sd2);
    o = detect("unet.safetensors", &l, "unet");
    hf_unet(&want, &sd2);
    check_part(&o, "unet", &want, UNET_SD2);
    close_opened(&o);
    hf_unet(&l, &sdxl);
    o = detect("unet.safetensors", &l, NULL);
    hf_unet(&want, &sdxl);
    check_part(&o, "unet", &want, UNET_XL);
    assert_string_equal(ac_layout_family(o.l), "sdxl");
    close_opened(&o);
    ldm_vae(&l, "");
    add(&l, 1, 0, 0, 0, "loss.logvar");
    o = detect("vae.safetensors", &l, NULL);
    hf_vae(&want);
    check_part(&o, "vae", &want, VAE);
    check_config(&o, "vae", "{\"scaling_factor\":null}");
    close_opened(&o);
    ldm_vae(&l, "first_stage_model.");
    o = detect("vae.safetensors", &l, "vae");
    hf_vae(&want);
    check_part(&o, "vae", &want, VAE);
    close_opened(&o);
    hf_text(&l, "", 1280, 32, true);
    o = detect("model.safetensors", &l, "text_encoder_2");
    hf_text(&want, "", 1280, 32, true);
    check_part(&o, "text_encoder_2", &want, BIG_G);
    close_opened(&o);
    ldm_unet(&l, &sd1); /* one part out of a whole checkpoint */
    ldm_vae(&l, "first_stage_model.");
    o = detect("whole.safetensors", &l, "vae");
    hf_vae(&want);
    check_part(&o, "vae", &want, VAE);
    assert_false(ac_layout_has(o.l, "unet"));
    close_opened(&o);
}

/* transformers 5 leaves text_model. out; diffusers before 0.18 had other names for the VAE's attention. */
static void test_older_and_newer_names(void **state)
{
    static const char *const old[] = {"query", "key", "value", "proj_attn"};
    static const char *const now[] = {"to_q", "to_k", "to_v", "to_out.0"};
    list l = {0}, want = {0};
    opened o;

    (void)state;
    hf_text(&l, "", 1024, 23, false);
    for (size_t i = 0; i < l.n; i++)
        memmove(l.p[i].name, l.p[i].name + strlen("text_model."), strlen(l.p[i].name) + 1 - strlen("text_model."));
    o = detect("model.safetensors", &l, "text_encoder");
    hf_text(&want, "", 1024, 23, false);
    check_part(&o, "text_encoder", &want, VIT_H);
    close_opened(&o);
    hf_vae(&l);
    for (size_t i = 0; i < l.n; i++)
        for (int k = 0; k < 4; k++) {
            char *at = strstr(l.p[i].name, now[k]), rest[32];
            if (!at)
                continue;
            snprintf(rest, sizeof rest, "%s", at + strlen(now[k]));
            snprintf(at, 64, "%s%s", old[k], rest);
            if (l.p[i].dims == 2)
                l.p[i].dims = 4, l.p[i].dim[2] = l.p[i].dim[3] = 1;
        }
    o = detect("vae.safetensors", &l, "vae");
    hf_vae(&want);
    check_part(&o, "vae", &want, VAE);
    close_opened(&o);
}

/* TAESD as its repository numbers it, against the fixture's tensors. */
static void test_taesd(void **state)
{
    ac_st *st;
    list l = {0}, want = {0};
    char file[4096];
    opened o;

    (void)state;
    if (!fixture_path(file, sizeof file, "taesd/model.safetensors"))
        skip();
    st = fixture_open("taesd/model.safetensors");
    for (size_t i = 0; i < ac_st_count(st); i++) {
        const ac_st_tensor *t = ac_st_at(st, i);
        int layer, at;
        tensor d = {.dtype = t->dtype, .dims = t->dims, .dim = {t->dim[0], t->dim[1], t->dim[2], t->dim[3]}};
        snprintf(d.name, sizeof d.name, "%s", t->name);
        assert_true(AC_PUSH(&want, d));
        assert_int_equal(sscanf(t->name, "%*[a-z].layers.%d%n", &layer, &at), 1);
        snprintf(d.name, sizeof d.name, "%.7s.%d%s", t->name, layer + (t->name[0] == 'd'), t->name + at);
        assert_true(AC_PUSH(&l, d));
    }
    o = detect("taesd.safetensors", &l, NULL);
    int64_t params = 0;
    for (size_t i = 0; i < ac_st_count(st); i++)
        params += (int64_t)(ac_st_at(st, i)->bytes / 4);
    check_part(&o, "taesd", &want, params);
    check_way_back(&o);
    check_config(&o, "taesd",
                 "{\"num_encoder_blocks\":[1,3,3,3],\"num_decoder_blocks\":[3,3,3,1],\"latent_channels\":4}");
    close_opened(&o);
    ac_st_close(st);
}

/* ---------------------------------------------------------------------------------------------- bad files */

static tensor *named(list *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->p[i].name, name) == 0)
            return &l->p[i];
    fail_msg("no %s", name);
    return NULL;
}

static void expect_failure(list *l, const char *part, int code, const char *says)
{
    opened o = detect("bad.safetensors", l, part);

    assert_int_equal(o.rc, code);
    assert_null(o.l);
    if (!strstr(o.dg.msg, says))
        fail_msg("\"%s\" does not say \"%s\"", o.dg.msg, says);
    close_opened(&o);
}

static void test_bad_files(void **state)
{
    list l = {0};

    (void)state;
    expect_failure(&l, NULL, ADDCL_E_UNSUPPORTED, "no model of a known kind");
    add(&l, 8, 8, 0, 0, "some.weight");
    expect_failure(&l, NULL, ADDCL_E_UNSUPPORTED, "some.weight");
    ldm_unet(&l, &sd1);
    add(&l, 8, 0, 0, 0, "model.diffusion_model.extra.weight");
    add(&l, 8, 0, 0, 0, "embedding_manager.weight");
    expect_failure(&l, NULL, ADDCL_E_FORMAT, "2 tensors have no place");
    ldm_unet(&l, &sd1);
    add(&l, 8, 0, 0, 0, "model.diffusion_model.input_blocks.3.0.in_layers.2.weight"); /* a downsampler's number */
    expect_failure(&l, NULL, ADDCL_E_FORMAT, "input_blocks.3.0.in_layers.2.weight");
    ldm_unet(&l, &sd1);
    named(&l, "model.diffusion_model.input_blocks.0.0.weight")->dim[1] = 9;
    expect_failure(&l, NULL, ADDCL_E_UNSUPPORTED, "inpainting");
    ldm_unet(&l, &sdxl);
    named(&l, "model.diffusion_model.label_emb.0.0.weight")->dim[1] = 2560;
    expect_failure(&l, NULL, ADDCL_E_UNSUPPORTED, "refiner");
    ldm_unet(&l, &sdxl);
    add(&l, 1, 0, 0, 0, "edm_mean");
    expect_failure(&l, NULL, ADDCL_E_UNSUPPORTED, "Playground");
    add(&l, 8, 8, 0, 0, "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight");
    expect_failure(&l, NULL, ADDCL_E_UNSUPPORTED, "Stable Diffusion 3");
    add(&l, 8, 8, 0, 0, "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight");
    expect_failure(&l, NULL, ADDCL_E_UNSUPPORTED, "--lora");
    ldm_unet(&l, &sd1);
    l.p[7].dtype = AC_ST_F8_E4M3;
    expect_failure(&l, NULL, ADDCL_E_UNSUPPORTED, "F8_E4M3");
    open_clip_text(&l, "cond_stage_model.model.", 64, 2);
    named(&l, "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias")->dim[0] = 191;
    expect_failure(&l, NULL, ADDCL_E_SHAPE, "multiple of 3");
    hf_vae(&l);
    add(&l, 512, 512, 0, 0, "encoder.mid_block.attentions.0.query.weight");
    expect_failure(&l, "vae", ADDCL_E_FORMAT, "are both");
    ldm_vae(&l, "first_stage_model.");
    expect_failure(&l, "unet", ADDCL_E_FORMAT, "holds no unet");
}

/* What the layout cannot know comes out when the model asks. */
static void test_wrong_tensors(void **state)
{
    list l = {0};
    const ac_source *s;
    opened o;

    (void)state;
    ldm_unet(&l, &sd1);
    snprintf(named(&l, "model.diffusion_model.output_blocks.2.1.conv.bias")->name, sizeof l.p->name,
             "model.diffusion_model.output_blocks.4.1.more");
    o = detect("wrong.safetensors", &l, NULL);
    assert_int_equal(o.rc, 0);
    assert_int_equal(ac_layout_get(o.l, "unet", "up_blocks.0.upsamplers.0.conv.bias", -1, NULL, &o.dg, &s),
                     ADDCL_E_FORMAT);
    assert_non_null(strstr(o.dg.msg, "tensor model.diffusion_model.output_blocks.2.1.conv.bias is missing"));
    ac_clear(&o.dg);
    assert_int_equal(ac_layout_get(o.l, "unet", "conv_in.weight", 4, (int64_t[]){320, 8, 3, 3}, &o.dg, &s),
                     ADDCL_E_SHAPE);
    assert_non_null(strstr(o.dg.msg, "has shape [320,4,3,3], expected [320,8,3,3]"));
    ac_clear(&o.dg);
    for (size_t i = 0; i < o.l->n; i++)
        if (strcmp(o.l->src[i].name, "up_blocks.1.attentions.1.more") != 0)
            assert_int_equal(ac_layout_get(o.l, "unet", o.l->src[i].name, -1, NULL, &o.dg, &s), 0);
    assert_int_equal(ac_layout_check_used(o.l, "unet", &o.dg), ADDCL_E_FORMAT);
    assert_non_null(strstr(o.dg.msg, "output_blocks.4.1.more"));
    close_opened(&o);
}

/* The last layer of a complete tower goes; a tower that was cut before, and has no projection, is kept. */
static void test_unused_layer(void **state)
{
    const int64_t params = (49408 + 77) * 64 + 2 * (12 * 64 * 64 + 13 * 64) + 2 * 64;

    (void)state;
    for (int cut = 0; cut < 2; cut++) {
        list l = {0}, want = {0};
        opened o;
        open_clip_text(&l, "cond_stage_model.model.", 64, cut ? 2 : 3);
        if (cut)
            snprintf(named(&l, "cond_stage_model.model.text_projection")->name, sizeof l.p->name, "logvar");
        o = detect("tower.safetensors", &l, NULL);
        hf_text(&want, "", 64, 2, false);
        check_part(&o, "text_encoder", &want, params);
        close_opened(&o);
    }
}

/* Heads cannot be told from widths that are no multiple of 64. */
static void test_unknown_heads(void **state)
{
    static const unet small = {2, {32, 96}, {1, 1}, 1, 128, 0, true};
    list l = {0};
    json_t *configs;
    opened o;

    (void)state;
    ldm_unet(&l, &small);
    o = detect("small.safetensors", &l, NULL);
    assert_int_equal(o.rc, 0);
    assert_int_equal(ac_layout_configs(o.l, &o.dg, &configs), ADDCL_E_UNSUPPORTED);
    assert_non_null(strstr(o.dg.msg, "attention heads"));
    assert_null(configs);
    close_opened(&o);
}

static void test_short_memory(void **state)
{
    const char *file;
    list l = {0};
    ac_st *st;
    ac_diag dg = {0};
    int rc = -1;

    (void)state;
    open_clip_text(&l, "cond_stage_model.model.", 64, 3);
    file = write_sparse("memory.safetensors", &l);
    free(l.p);
    assert_int_equal(ac_st_open(file, &dg, &st), 0);
    for (unsigned long n = 1; rc != 0; n++) {
        ac_layout *layout;
        ac_clear(&dg);
        ac_alloc_fail_at(n);
        rc = ac_layout_detect(st, file, NULL, &dg, &layout);
        ac_alloc_fail_at(0);
        assert_true(rc == 0 || rc == ADDCL_E_NOMEM);
        assert_true(rc == 0 || (dg.msg[0] && !layout));
        ac_layout_free(layout);
    }
    ac_st_close(st);
}

/* ------------------------------------------------------------------------------------------------ reading */

/* Rows of a fused tensor, a transposed one, and every conversion of types. */
static void test_read(void **state)
{
    static const float w[6] = {1, -2, 3.5f, 1e-3f, -70000, 6};
    ac_st_tensor t = {"w", AC_ST_F32, 2, {3, 2}, w, sizeof w, 0};
    ac_source s = {.t = &t, .row = 1, .rows = 1, .dims = 2, .dim = {1, 2}};
    double w64[6];
    uint16_t half[6], brain[6];
    float f[6];

    (void)state;
    ac_source_read(&s, AC_F32, f);
    assert_true(f[0] == 3.5f && f[1] == 1e-3f);
    ac_source_read(&s, AC_F16, half);
    assert_int_equal(half[1], ac_float_to_half(1e-3f));
    s = (ac_source){.t = &t, .rows = 3, .dims = 2, .dim = {2, 3}, .transpose = true};
    ac_source_read(&s, AC_F32, f);
    assert_true(f[0] == 1 && f[1] == 3.5f && f[2] == -70000 && f[3] == -2 && f[5] == 6);
    for (int i = 0; i < 6; i++)
        w64[i] = w[i], brain[i] = ac_float_to_bf16(w[i]);
    t = (ac_st_tensor){"w", AC_ST_F64, 1, {6}, w64, sizeof w64, 0};
    s = (ac_source){.t = &t, .rows = 6, .dims = 1, .dim = {6}};
    assert_int_equal(ac_source_type(&s), AC_F32);
    ac_source_read(&s, AC_F32, f);
    assert_memory_equal(f, w, sizeof w);
    t = (ac_st_tensor){"w", AC_ST_BF16, 1, {6}, brain, sizeof brain, 0};
    ac_source_read(&s, AC_F32, f);
    assert_true(f[4] == ac_bf16_to_float(brain[4]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sd1),
        cmocka_unit_test(test_sd2),
        cmocka_unit_test(test_sdxl),
        cmocka_unit_test(test_single_parts),
        cmocka_unit_test(test_older_and_newer_names),
        cmocka_unit_test(test_taesd),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_unused_layer),
        cmocka_unit_test(test_unknown_heads),
        cmocka_unit_test(test_short_memory),
        cmocka_unit_test(test_read),
    };

    return cmocka_run_group_tests_name("layout", tests, temp_setup, temp_teardown);
}
