/* model_lists.c - tensor lists of the published models. */
#include "model_lists.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void add(list *l, int64_t a, int64_t b, int64_t c, int64_t d, const char *fmt, ...)
{
    tensor t = {.dtype = AC_ST_F16, .dims = (a > 0) + (b > 0) + (c > 0) + (d > 0), .dim = {a, b, c, d}};
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(t.name, sizeof t.name, fmt, ap);
    va_end(ap);
    assert_true(AC_PUSH(l, t));
}

static void linear(list *l, int64_t out, int64_t in, const char *name)
{
    add(l, out, in, 0, 0, "%s.weight", name);
    add(l, out, 0, 0, 0, "%s.bias", name);
}

static void conv(list *l, int64_t out, int64_t in, int64_t side, const char *name)
{
    add(l, out, in, side, side, "%s.weight", name);
    add(l, out, 0, 0, 0, "%s.bias", name);
}

static void norm(list *l, int64_t n, const char *name)
{
    add(l, n, 0, 0, 0, "%s.weight", name);
    add(l, n, 0, 0, 0, "%s.bias", name);
}

/* A formatted name that is good until 256 others were made. */
AC_PRINTF(1, 2) static const char *path(const char *fmt, ...)
{
    static char buf[256][sizeof((tensor *)0)->name];
    static unsigned next;
    char *s = buf[next++ % AC_LEN(buf)];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(s, sizeof buf[0], fmt, ap);
    va_end(ap);
    return s;
}

static const char *sub(const char *prefix, const char *name)
{
    return path("%s.%s", prefix, name);
}

const unet sd1 = {4, {320, 640, 1280, 1280}, {1, 1, 1, 0}, 1, 768, 0, false};
const unet sd2 = {4, {320, 640, 1280, 1280}, {1, 1, 1, 0}, 1, 1024, 0, true};
const unet sdxl = {3, {320, 640, 1280}, {0, 2, 10}, 10, 2048, 2816, true};

/* Names inside a residual block, in either library; the embedding is NULL in a VAE. */
typedef struct block_names {
    const char *norm1, *conv1, *emb, *norm2, *conv2, *shortcut;
} block_names;

static const block_names ldm_block = {"in_layers.0",  "in_layers.2",  "emb_layers.1",
                                      "out_layers.0", "out_layers.3", "skip_connection"};
static const block_names hf_block = {"norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"};
static const block_names ldm_vae_block = {"norm1", "conv1", NULL, "norm2", "conv2", "nin_shortcut"};
static const block_names hf_vae_block = {"norm1", "conv1", NULL, "norm2", "conv2", "conv_shortcut"};

static void resnet(list *l, const block_names *n, const char *p, int64_t in, int64_t out, int64_t emb)
{
    norm(l, in, sub(p, n->norm1));
    conv(l, out, in, 3, sub(p, n->conv1));
    if (n->emb)
        linear(l, out, emb, sub(p, n->emb));
    norm(l, out, sub(p, n->norm2));
    conv(l, out, out, 3, sub(p, n->conv2));
    if (in != out)
        conv(l, out, in, 1, sub(p, n->shortcut));
}

static void attention(list *l, const char *p, int64_t c, int64_t text)
{
    add(l, c, c, 0, 0, "%s.to_q.weight", p);
    add(l, c, text, 0, 0, "%s.to_k.weight", p);
    add(l, c, text, 0, 0, "%s.to_v.weight", p);
    linear(l, c, c, sub(p, "to_out.0"));
}

/* The same names in both libraries. */
static void transformer(list *l, const unet *u, const char *p, int64_t c, int depth)
{
    norm(l, c, sub(p, "norm"));
    (u->linear ? linear(l, c, c, sub(p, "proj_in")) : conv(l, c, c, 1, sub(p, "proj_in")));
    for (int i = 0; i < depth; i++) {
        const char *b = path("%s.transformer_blocks.%d", p, i);
        attention(l, sub(b, "attn1"), c, c);
        attention(l, sub(b, "attn2"), c, u->text);
        linear(l, 8 * c, c, sub(b, "ff.net.0.proj"));
        linear(l, c, 4 * c, sub(b, "ff.net.2"));
        for (int k = 1; k <= 3; k++)
            norm(l, c, path("%s.norm%d", b, k));
    }
    (u->linear ? linear(l, c, c, sub(p, "proj_out")) : conv(l, c, c, 1, sub(p, "proj_out")));
}

/* UNetModel of ldm: one running number through all input, then all output blocks, a stack of skipped widths. */
void ldm_unet(list *l, const unet *u)
{
    static const char p[] = "model.diffusion_model";
    int64_t mc = u->width[0], emb = 4 * mc, ch = mc, stack[16];
    int n = 0, top = 0;

    linear(l, emb, mc, sub(p, "time_embed.0"));
    linear(l, emb, emb, sub(p, "time_embed.2"));
    if (u->added) {
        linear(l, emb, u->added, sub(p, "label_emb.0.0"));
        linear(l, emb, emb, sub(p, "label_emb.0.2"));
    }
    conv(l, mc, 4, 3, sub(p, "input_blocks.0.0"));
    stack[top++] = mc;
    for (int level = 0; level < u->levels; level++) {
        for (int i = 0; i < 2; i++) {
            resnet(l, &ldm_block, path("%s.input_blocks.%d.0", p, ++n), ch, u->width[level], emb);
            stack[top++] = ch = u->width[level];
            if (u->depth[level])
                transformer(l, u, path("%s.input_blocks.%d.1", p, n), ch, u->depth[level]);
        }
        if (level < u->levels - 1) {
            conv(l, ch, ch, 3, path("%s.input_blocks.%d.0.op", p, ++n));
            stack[top++] = ch;
        }
    }
    resnet(l, &ldm_block, sub(p, "middle_block.0"), ch, ch, emb);
    transformer(l, u, path("%s.middle_block.1", p), ch, u->mid_depth);
    resnet(l, &ldm_block, sub(p, "middle_block.2"), ch, ch, emb);
    n = 0;
    for (int level = u->levels - 1; level >= 0; level--)
        for (int i = 0; i < 3; i++, n++) {
            int k = 1;
            resnet(l, &ldm_block, path("%s.output_blocks.%d.0", p, n), ch + stack[--top], u->width[level], emb);
            ch = u->width[level];
            if (u->depth[level])
                transformer(l, u, path("%s.output_blocks.%d.%d", p, n, k++), ch, u->depth[level]);
            if (level && i == 2)
                conv(l, ch, ch, 3, path("%s.output_blocks.%d.%d.conv", p, n, k));
        }
    norm(l, ch, sub(p, "out.0"));
    conv(l, 4, ch, 3, sub(p, "out.2"));
}

/* UNet2DConditionModel of diffusers: blocks know their neighbours' widths. */
void hf_unet(list *l, const unet *u)
{
    int64_t w0 = u->width[0], emb = 4 * w0, last = u->width[u->levels - 1];

    conv(l, w0, 4, 3, "conv_in");
    linear(l, emb, w0, "time_embedding.linear_1");
    linear(l, emb, emb, "time_embedding.linear_2");
    if (u->added) {
        linear(l, emb, u->added, "add_embedding.linear_1");
        linear(l, emb, emb, "add_embedding.linear_2");
    }
    for (int i = 0; i < u->levels; i++) {
        int64_t in = i ? u->width[i - 1] : w0, out = u->width[i];
        for (int j = 0; j < 2; j++) {
            resnet(l, &hf_block, path("down_blocks.%d.resnets.%d", i, j), j ? out : in, out, emb);
            if (u->depth[i])
                transformer(l, u, path("down_blocks.%d.attentions.%d", i, j), out, u->depth[i]);
        }
        if (i < u->levels - 1)
            conv(l, out, out, 3, path("down_blocks.%d.downsamplers.0.conv", i));
    }
    resnet(l, &hf_block, "mid_block.resnets.0", last, last, emb);
    transformer(l, u, "mid_block.attentions.0", last, u->mid_depth);
    resnet(l, &hf_block, "mid_block.resnets.1", last, last, emb);
    for (int i = 0; i < u->levels; i++) {
        int level = u->levels - 1 - i;
        int64_t out = u->width[level], before = i ? u->width[level + 1] : out, next = u->width[level ? level - 1 : 0];
        for (int j = 0; j < 3; j++) {
            int64_t in = (j ? out : before) + (j == 2 ? next : out);
            resnet(l, &hf_block, path("up_blocks.%d.resnets.%d", i, j), in, out, emb);
            if (u->depth[level])
                transformer(l, u, path("up_blocks.%d.attentions.%d", i, j), out, u->depth[level]);
        }
        if (level)
            conv(l, out, out, 3, path("up_blocks.%d.upsamplers.0.conv", i));
    }
    norm(l, w0, "conv_norm_out");
    conv(l, 4, w0, 3, "conv_out");
}

static const int64_t vae_width[] = {128, 256, 512, 512};

static void ldm_vae_middle(list *l, const char *p)
{
    static const char *const names[] = {"q", "k", "v", "proj_out"};

    resnet(l, &ldm_vae_block, sub(p, "mid.block_1"), 512, 512, 0);
    norm(l, 512, sub(p, "mid.attn_1.norm"));
    for (int i = 0; i < 4; i++)
        conv(l, 512, 512, 1, path("%s.mid.attn_1.%s", p, names[i]));
    resnet(l, &ldm_vae_block, sub(p, "mid.block_2"), 512, 512, 0);
}

/* AutoencoderKL of ldm; `p` is "" or ends with a dot. */
void ldm_vae(list *l, const char *p)
{
    const char *e = path("%sencoder", p), *d = path("%sdecoder", p);

    conv(l, 128, 3, 3, sub(e, "conv_in"));
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 2; j++)
            resnet(l, &ldm_vae_block, path("%s.down.%d.block.%d", e, i, j), j || !i ? vae_width[i] : vae_width[i - 1],
                   vae_width[i], 0);
        if (i < 3)
            conv(l, vae_width[i], vae_width[i], 3, path("%s.down.%d.downsample.conv", e, i));
    }
    ldm_vae_middle(l, e);
    norm(l, 512, sub(e, "norm_out"));
    conv(l, 8, 512, 3, sub(e, "conv_out"));
    conv(l, 512, 4, 3, sub(d, "conv_in"));
    ldm_vae_middle(l, d);
    for (int i = 3; i >= 0; i--) {
        for (int j = 0; j < 3; j++)
            resnet(l, &ldm_vae_block, path("%s.up.%d.block.%d", d, i, j), j || i == 3 ? vae_width[i] : vae_width[i + 1],
                   vae_width[i], 0);
        if (i)
            conv(l, vae_width[i], vae_width[i], 3, path("%s.up.%d.upsample.conv", d, i));
    }
    norm(l, 128, sub(d, "norm_out"));
    conv(l, 3, 128, 3, sub(d, "conv_out"));
    conv(l, 8, 8, 1, path("%squant_conv", p));
    conv(l, 4, 4, 1, path("%spost_quant_conv", p));
}

static void hf_vae_middle(list *l, const char *p)
{
    static const char *const names[] = {"to_q", "to_k", "to_v", "to_out.0"};

    resnet(l, &hf_vae_block, sub(p, "mid_block.resnets.0"), 512, 512, 0);
    norm(l, 512, sub(p, "mid_block.attentions.0.group_norm"));
    for (int i = 0; i < 4; i++)
        linear(l, 512, 512, path("%s.mid_block.attentions.0.%s", p, names[i]));
    resnet(l, &hf_vae_block, sub(p, "mid_block.resnets.1"), 512, 512, 0);
}

void hf_vae(list *l)
{
    static const int64_t up[] = {512, 512, 256, 128};

    conv(l, 128, 3, 3, "encoder.conv_in");
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 2; j++)
            resnet(l, &hf_vae_block, path("encoder.down_blocks.%d.resnets.%d", i, j),
                   j || !i ? vae_width[i] : vae_width[i - 1], vae_width[i], 0);
        if (i < 3)
            conv(l, vae_width[i], vae_width[i], 3, path("encoder.down_blocks.%d.downsamplers.0.conv", i));
    }
    hf_vae_middle(l, "encoder");
    norm(l, 512, "encoder.conv_norm_out");
    conv(l, 8, 512, 3, "encoder.conv_out");
    conv(l, 512, 4, 3, "decoder.conv_in");
    hf_vae_middle(l, "decoder");
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 3; j++)
            resnet(l, &hf_vae_block, path("decoder.up_blocks.%d.resnets.%d", i, j), j || !i ? up[i] : up[i - 1], up[i],
                   0);
        if (i < 3)
            conv(l, up[i], up[i], 3, path("decoder.up_blocks.%d.upsamplers.0.conv", i));
    }
    norm(l, 128, "decoder.conv_norm_out");
    conv(l, 3, 128, 3, "decoder.conv_out");
    conv(l, 8, 8, 1, "quant_conv");
    conv(l, 4, 4, 1, "post_quant_conv");
}

/* CLIPTextModel of transformers; `p` is "" or ends with a dot. */
void hf_text(list *l, const char *p, int64_t w, int layers, bool projection)
{
    static const char *const qkv[] = {"q_proj", "k_proj", "v_proj", "out_proj"};

    add(l, 49408, w, 0, 0, "%stext_model.embeddings.token_embedding.weight", p);
    add(l, 77, w, 0, 0, "%stext_model.embeddings.position_embedding.weight", p);
    for (int i = 0; i < layers; i++) {
        const char *b = path("%stext_model.encoder.layers.%d", p, i);
        for (int k = 0; k < 4; k++)
            linear(l, w, w, path("%s.self_attn.%s", b, qkv[k]));
        linear(l, 4 * w, w, sub(b, "mlp.fc1"));
        linear(l, w, 4 * w, sub(b, "mlp.fc2"));
        norm(l, w, sub(b, "layer_norm1"));
        norm(l, w, sub(b, "layer_norm2"));
    }
    norm(l, w, path("%stext_model.final_layer_norm", p));
    if (projection)
        add(l, w, w, 0, 0, "%stext_projection.weight", p);
}

/* Text side of open_clip's CLIP with all that its state_dict holds. */
void open_clip_text(list *l, const char *p, int64_t w, int layers)
{
    add(l, 77, w, 0, 0, "%spositional_embedding", p);
    add(l, w, w, 0, 0, "%stext_projection", p);
    add(l, 0, 0, 0, 0, "%slogit_scale", p);
    add(l, 49408, w, 0, 0, "%stoken_embedding.weight", p);
    for (int i = 0; i < layers; i++) {
        const char *b = path("%stransformer.resblocks.%d", p, i);
        norm(l, w, sub(b, "ln_1"));
        add(l, 3 * w, w, 0, 0, "%s.attn.in_proj_weight", b);
        add(l, 3 * w, 0, 0, 0, "%s.attn.in_proj_bias", b);
        linear(l, w, w, sub(b, "attn.out_proj"));
        norm(l, w, sub(b, "ln_2"));
        linear(l, 4 * w, w, sub(b, "mlp.c_fc"));
        linear(l, w, 4 * w, sub(b, "mlp.c_proj"));
    }
    norm(l, w, path("%sln_final", p));
}

void leftovers(list *l)
{
    static const char *const tables[] = {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    };

    for (size_t i = 0; i < AC_LEN(tables); i++)
        add(l, 1000, 0, 0, 0, "%s", tables[i]);
    add(l, 0, 0, 0, 0, "model_ema.decay");
    add(l, 0, 0, 0, 0, "model_ema.num_updates");
    l->p[l->n - 1].dtype = AC_ST_I32;
    add(l, 320, 4, 3, 3, "model_ema.diffusion_modelinput_blocks00weight");
}

void position_ids(list *l, const char *p)
{
    add(l, 1, 77, 0, 0, "%stext_model.embeddings.position_ids", p);
    l->p[l->n - 1].dtype = AC_ST_I64;
}

const char *write_sparse(const char *name, const list *l)
{
    ac_str s = {0};
    uint64_t at = 0, n;
    const char *file;

    ac_str_add(&s, "{");
    for (size_t i = 0; i < l->n; i++) {
        const tensor *t = &l->p[i];
        size_t bytes;
        assert_true(ac_st_bytes(t->dtype, t->dims, t->dim, &bytes));
        ac_str_addf(&s, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name, ac_st_dtype_name(t->dtype));
        for (int k = 0; k < t->dims; k++)
            ac_str_addf(&s, "%s%lld", k ? "," : "", (long long)t->dim[k]);
        ac_str_addf(&s, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + bytes));
        at += bytes;
    }
    ac_str_add(&s, "}");
    assert_false(s.failed);
    file = temp_path(name);
    FILE *f = fopen(file, "wb");
    assert_non_null(f);
    n = s.n;
    assert_int_equal(fwrite(&n, 8, 1, f), 1);
    assert_int_equal(fwrite(s.p, 1, s.n, f), s.n);
    assert_int_equal(fflush(f), 0);
    assert_int_equal(ftruncate(fileno(f), (off_t)(8 + n + at)), 0);
    fclose(f);
    ac_str_free(&s);
    return file;
}
