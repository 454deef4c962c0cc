/* bench.c - the time of a training step of the shipped model's size, on random values: its UNet's (train_unet: batch 64, 24 tokens,
 * clipping, AdamW, EMA), and one of adversarial diffusion distillation (add_step: batch 32, 77 tokens, a feature network of 5.4
 * million parameters, pictures of 64 x 64). */
#include <stdlib.h>
#include <string.h>

#include "diff/loss.h"
#include "train/add.h"
#include "train/train.h"

enum { SIDE = 16, FEATURE = 192 };

static const ac_unet_cfg unet = {.in_channels = 4, .out_channels = 4, .sample_size = SIDE, .levels = 3, .channels = {64, 128, 192}, .layers = 1,
                                 .down_attn = {1, 1, 0}, .up_attn = {0, 1, 1}, .mid_attn = true, .heads = {2, 4, 6}, .blocks = {1, 1, 1},
                                 .context = 128, .linear = true, .groups = 32, .eps = 1e-5, .flip = true};
static const ac_vae_cfg vae = {.in_channels = 3, .out_channels = 3, .latent = 4, .sample_size = 4 * SIDE, .levels = 3, .channels = {16, 32, 64},
                               .layers = 1, .groups = 8, .quant = true, .post_quant = true, .mid_attn = true, .scaling = 0.83013};
static const ac_vit_cfg vit = {.width = FEATURE, .ff = 4 * FEATURE, .layers = 12, .heads = 3, .channels = 3, .patch = 8, .image_size = 4 * SIDE,
                               .act = AC_ACT_GELU, .eps = 1e-6, .qkv_bias = true};

static ac_id unet_loss(ac_training *r, ac_graph *g, int B)
{
    enum { TOKENS = 24 };
    ac_weights w;
    ac_net m = ac_train_net(r, g, 0, &w);
    ac_shape latent = ac_dims(4, B, SIDE, SIDE, unet.in_channels);
    ac_unet_in in = {.x = ac_input(g, "x", AC_F32, latent),
                     .t = ac_input(g, "t", AC_F32, ac_dims(1, B)),
                     .ctx = ac_input(g, "ctx", AC_F32, ac_dims(3, B, TOKENS, unet.context))};

    return ac_loss_mse(g, ac_unet(&m, &unet, &in), ac_input(g, "target", AC_F32, latent), AC_NONE);
}

static ac_net frozen(ac_training *r, ac_graph *g, ac_weights *w, const char *part)
{
    *w = (ac_weights){.part = part, .dg = r->dg};
    return (ac_net){.g = g, .w = w};
}

static ac_id add_loss(ac_training *r, ac_graph *g, int B)
{
    const ac_add_opts o = {.B = B, .h = SIDE, .w = SIDE, .side = 4 * SIDE, .T = 77, .text_dim = unet.context, .image_condition = true, .augment = true,
                           .adversarial = true, .distill = true, .adversary_weight = 1, .gamma = 1e-5, .lambda = 2.5, .pixels = true,
                           .teacher_steps = 1, .guidance = 1};
    ac_train_bench *b = r->method;
    ac_heads heads = {.virtual_batch = 8, .cmap = 64};
    ac_weights ws, wh;
    ac_net student = ac_train_net(r, g, 0, &ws), head = ac_train_net(r, g, 1, &wh), teacher = frozen(r, g, &b->frozen[0], "unet"),
           decoder = frozen(r, g, &b->frozen[1], "vae"), feature = frozen(r, g, &b->frozen[2], "image_encoder");
    ac_add_nets n = {.student = &student, .teacher = &teacher, .decoder = &decoder, .head = &head, .unet = &unet, .teacher_unet = &unet, .vae = &vae,
                     .heads = &heads, .features = {.net = &feature, .vit = &vit, .tap = {2, 5, 8, 11}, .n_taps = 4, .embedding = true}};
    ac_id y;

    ac_vit_norm(&vit, n.features.mean, n.features.std);
    y = ac_add_loss(g, &n, &o);
    ac_heads_keep(&heads, g);
    ac_heads_free(&heads);
    return y;
}

/* The same inputs in every step; they come from the host, as a data set's do. */
static int feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    const ac_train_bench *t = r->method;
    const ac_graph *g = r->stepper.g;
    int rc = 0;

    (void)b;
    for (size_t i = 0; i < g->nodes.n && rc == 0; i++)
        if (g->nodes.p[i].name)
            rc = ac_feed(x, g->nodes.p[i].name, g->nodes.p[i].type == AC_I32 ? (const void *)t->zeros : t->values,
                         (size_t)ac_count(&g->nodes.p[i].shape) * sizeof *t->values);
    return rc;
}

static const ac_recipe unet_recipe = {.name = "train_unet", .measure = "loss", .loss = unet_loss, .feed = feed};
static const ac_recipe add_recipe = {.name = "add_step", .measure = "error", .loss = add_loss, .feed = feed};

int ac_train_bench_open(addcl_ctx *ctx, const char *name, ac_train_bench *b)
{
    enum { MOST = 32 * 64 * 64 * 3 }; /* values of the largest input */
    bool add = !strcmp(name, "add_step");
    const char *const set[] = {"run.method=diffusion", "run.output_dir=bench", "model.config=bench", "data.train_data_dir=bench",
                               add ? "data.train_batch_size=32" : "data.train_batch_size=64"};
    uint64_t seed = 1;
    int rc;

    memset(b, 0, sizeof *b);
    AC_TRY(ac_train_config_load(NULL, set, AC_LEN(set), &ctx->dg, &b->cfg));
    b->r = (ac_training){.ctx = ctx, .dev = ctx->dev, .dg = &ctx->dg, .cfg = b->cfg, .ranks = 1, .recipe = add ? &add_recipe : &unet_recipe, .method = b,
                         .n_sets = add ? 2 : 1};
    b->r.sets[0] = (ac_params){.dev = ctx->dev, .dg = &ctx->dg, .part = "unet"};
    b->r.sets[1] = (ac_params){.dev = ctx->dev, .dg = &ctx->dg, .part = "discriminator", .live_only = true, .adversary = true};
    b->values = ac_calloc(MOST, sizeof *b->values);
    b->zeros = ac_calloc(MOST, sizeof *b->zeros);
    if (!b->values || !b->zeros) {
        rc = ac_nomem(&ctx->dg, MOST * sizeof *b->values);
        goto out;
    }
    ac_mix_fill(&seed, b->values, MOST);
    rc = ac_step_open(&b->r, &b->r.stepper);
out:
    if (rc < 0)
        ac_train_bench_close(b);
    return rc;
}

void ac_train_bench_close(ac_train_bench *b)
{
    ac_step_close(&b->r.stepper);
    for (int k = 0; k < b->r.n_sets; k++)
        ac_params_free(&b->r.sets[k]);
    for (size_t k = 0; k < AC_LEN(b->frozen); k++)
        ac_weights_free(&b->frozen[k]);
    free(b->values);
    free(b->zeros);
    ac_train_config_free(b->cfg);
    memset(b, 0, sizeof *b);
}
