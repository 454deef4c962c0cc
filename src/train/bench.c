/* bench.c - the time of a training step: the shipped model's UNet, batch 64, 24 tokens, with clipping, AdamW and EMA. */
#include <stdlib.h>
#include <string.h>

#include "diff/loss.h"
#include "train/train.h"

enum { BATCH = 64, TOKENS = 24, SIDE = 16 };

static const ac_unet_cfg net = {.in_channels = 4, .out_channels = 4, .sample_size = SIDE, .levels = 3, .channels = {64, 128, 192}, .layers = 1,
                                .down_attn = {1, 1, 0}, .up_attn = {0, 1, 1}, .mid_attn = true, .heads = {2, 4, 6}, .blocks = {1, 1, 1},
                                .context = 128, .linear = true, .groups = 32, .eps = 1e-5, .flip = true};

static ac_id loss(ac_training *r, ac_graph *g, int B)
{
    ac_weights w = {.train = &r->sets[0], .part = "unet", .dg = r->dg};
    ac_net m = {.g = g, .w = &w};
    ac_shape latent = ac_dims(4, B, SIDE, SIDE, net.in_channels);
    ac_unet_in in = {.x = ac_input(g, "x", AC_F32, latent),
                     .t = ac_input(g, "t", AC_F32, ac_dims(1, B)),
                     .ctx = ac_input(g, "ctx", AC_F32, ac_dims(3, B, TOKENS, net.context))};

    return ac_loss_mse(g, ac_unet(&m, &net, &in), ac_input(g, "target", AC_F32, latent), AC_NONE);
}

/* The same inputs in every step; they come from the host, as a data set's do. */
static int feed(ac_training *r, ac_exec *x, const ac_batch *b)
{
    static const struct {
        const char *name;
        size_t n;
    } inputs[] = {{"x", (size_t)BATCH * SIDE * SIDE * 4}, {"target", (size_t)BATCH * SIDE * SIDE * 4}, {"t", BATCH}, {"ctx", (size_t)BATCH * TOKENS * 128}};
    float *v = r->method;
    int rc = 0;

    (void)b;
    for (size_t i = 0; i < AC_LEN(inputs) && rc == 0; i++)
        rc = ac_feed(x, inputs[i].name, v, inputs[i].n * sizeof *v);
    return rc;
}

static const ac_recipe recipe = {.name = "bench", .measure = "loss", .loss = loss, .feed = feed};

int ac_train_bench_open(addcl_ctx *ctx, ac_train_bench *b)
{
    static const char *const set[] = {"run.method=diffusion", "run.output_dir=bench", "model.config=bench", "data.train_data_dir=bench",
                                      "data.train_batch_size=64"};
    size_t n = (size_t)BATCH * TOKENS * 128;
    uint64_t seed = 1;
    float *v;
    int rc;

    memset(b, 0, sizeof *b);
    AC_TRY(ac_train_config_load(NULL, set, AC_LEN(set), &ctx->dg, &b->cfg));
    b->r = (ac_training){.ctx = ctx, .dev = ctx->dev, .dg = &ctx->dg, .cfg = b->cfg, .ranks = 1, .recipe = &recipe, .n_sets = 1};
    b->r.sets[0] = (ac_params){.dev = ctx->dev, .dg = &ctx->dg, .part = "unet"};
    if (!(v = ac_calloc(n, sizeof *v))) {
        rc = ac_nomem(&ctx->dg, n * sizeof *v);
        goto out;
    }
    ac_mix_fill(&seed, v, n);
    b->r.method = v;
    rc = ac_step_open(&b->r, &b->r.stepper);
out:
    if (rc < 0)
        ac_train_bench_close(b);
    return rc;
}

void ac_train_bench_close(ac_train_bench *b)
{
    ac_step_close(&b->r.stepper);
    ac_params_free(&b->r.sets[0]);
    free(b->r.method);
    ac_train_config_free(b->cfg);
    memset(b, 0, sizeof *b);
}
