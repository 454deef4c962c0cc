/* api_bench.c - benchmarks: heavy ops on their full shapes, whole networks of Stable Diffusion 2.1's size with random weights.
 *
 * Every speed stands beside a limit measured in the same run: the FMA peak of the device, or the bandwidth of a copy. */
#include "api_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/check.h"
#include "ops/ops.h"
#include "train/train.h"

typedef struct bench {
    addcl_ctx *ctx;
    addcl_type api_type;
    ac_type type;
    int reps;
    addcl_case_fn fn;
    void *user;
    double peak; /* GFLOP/s of FMA */
    double copy; /* GB/s, read and written */
} bench;

static int report(const bench *b, const char *name, double seconds, double flop, double bytes)
{
    addcl_case c = {.name = name, .seconds = seconds};

    if (flop > 0) {
        c.gflops = flop / seconds * 1e-9;
        c.peak_gflops = b->peak;
    }
    if (bytes > 0) {
        c.gbs = bytes / seconds * 1e-9;
        c.copy_gbs = b->copy;
    }
    return b->fn && b->fn(b->user, &c) ? ac_fail(&b->ctx->dg, ADDCL_E_CANCELLED, "cancelled") : 0;
}

/* ------------------------------------------------------------------------------------------ limits */

static int timed_launch(ac_dev *dev, ac_launch *l, ac_buf *out, ac_buf *in, int reps, double *best)
{
    ac_buf *inputs[1] = {in};
    int rc = 0;

    *best = 1e30;
    for (int i = 0; i < reps; i++) {
        double t = ac_now();
        AC_TRY(ac_launch_run(dev, l, out, inputs, NULL));
        AC_TRY(ac_dev_finish(dev));
        *best = AC_MIN(*best, ac_now() - t);
    }
out:
    return rc;
}

/* FMA chains without memory: the peak this device reaches from OpenCL C. Measured before and after each case; the best so far
 * counts, so that a busy moment does not flatter the case. */
static int measure_peak(bench *b)
{
    const ac_limits *lim = ac_dev_limits(b->ctx->dev);
    bool cpu = lim->cls == AC_CLASS_CPU;
    int rounds = cpu ? 20000 : 4096;
    size_t items = cpu ? 64 * (size_t)lim->units : 256 * 64 * (size_t)lim->units;
    ac_launch l = {.file = "bench", .kernel = "fma_peak", .wg = AC_MIN((size_t)256, lim->max_wg)};
    ac_buf *y = NULL;
    double best;
    int rc;

    ac_def(&l, "VW=%d", cpu ? lim->vw : 4);
    ac_arg_buf(&l, -1);
    ac_arg_int(&l, rounds);
    ac_arg_float(&l, 0.999);
    ac_grid1(&l, items, cpu ? 1 : 64);
    AC_TRY(ac_buf_new(b->ctx->dev, items * sizeof(float), &y));
    AC_TRY(timed_launch(b->ctx->dev, &l, y, NULL, 4, &best));
    b->peak = AC_MAX(b->peak, (double)items * rounds * 16 * 2 * (cpu ? lim->vw : 4) / best * 1e-9);
out:
    ac_buf_free(b->ctx->dev, y);
    return rc;
}

int ac_fma_peak(ac_dev *dev, double *flops)
{
    addcl_ctx ctx = {.dev = dev};
    bench b = {.ctx = &ctx};
    int rc = measure_peak(&b);

    *flops = b.peak * 1e9;
    return rc;
}

/* 128 MiB from one buffer to another, by the driver. */
static int measure_copy(bench *b)
{
    const size_t bytes = AC_MIN((size_t)128 << 20, (size_t)ac_dev_limits(b->ctx->dev)->max_alloc);
    ac_dev *dev = b->ctx->dev;
    ac_buf *x = NULL, *y = NULL;
    double best = 1e30;
    int rc;

    AC_TRY(ac_buf_new(dev, bytes, &x));
    AC_TRY(ac_buf_new(dev, bytes, &y));
    AC_TRY(ac_buf_fill(dev, x, 0, bytes));
    for (int i = 0; i < 6; i++) {
        double t = ac_now();
        AC_TRY(ac_buf_copy(dev, y, x, bytes));
        AC_TRY(ac_dev_finish(dev));
        best = AC_MIN(best, ac_now() - t);
    }
    b->copy = AC_MAX(b->copy, 2 * (double)bytes / best * 1e-9);
out:
    ac_buf_free(dev, x);
    ac_buf_free(dev, y);
    return rc;
}

/* ------------------------------------------------------------------------------------------ ops */

static int run_op(bench *b, const ac_op *op, const ac_case *c, const char *group)
{
    ac_dev *dev = b->ctx->dev;
    ac_case_graph cg;
    ac_exec *x = NULL;
    double best = 1e30, flop, bytes = 0;
    char name[96], in[8];
    int rc;

    AC_TRY(ac_case_graph_new(op, c, b->type, &b->ctx->dg, &cg));
    rc = ac_exec_new(dev, cg.g, NULL, &x);
    for (int k = 0; rc == 0 && k < AC_MAX_IN; k++) {
        snprintf(in, sizeof in, "%d", k);
        if (cg.data[k] && !cg.param[k].data)
            rc = ac_feed(x, in, cg.data[k], cg.bytes[k]);
    }
    for (int i = 0; rc == 0 && i <= b->reps; i++) {
        double t = ac_now();
        rc = ac_run(x);
        if (rc == 0)
            rc = ac_dev_finish(dev);
        if (i > 0) /* the first compiles */
            best = AC_MIN(best, ac_now() - t);
    }
    if (rc == 0) {
        flop = ac_exec_info(x)->flop;
        if (!strcmp(group, "norm")) { /* group norm reads its input twice, both write it once */
            bytes = (double)ac_count(&c->in[0]) * 4 * (op == &ac_op_group_norm ? 3 : 2);
            flop = 0;
            rc = measure_copy(b);
        } else {
            rc = measure_peak(b);
        }
        snprintf(name, sizeof name, "%s/%s%s%s", group, !strcmp(group, "norm") ? op->name : "", !strcmp(group, "norm") ? "/" : "", c->name);
        if (rc == 0)
            rc = report(b, name, best, flop, bytes);
    }
    ac_exec_free(x);
    ac_case_graph_free(&cg);
out:
    return rc;
}

static int bench_ops(bench *b, const ac_op *op, const char *group)
{
    int rc = 0;

    for (const ac_case *c = op->cases; c->name; c++)
        if (c->tags & AC_FULL)
            AC_TRY(run_op(b, op, c, group));
out:
    return rc;
}

/* ------------------------------------------------------------------------------------------ networks */

/* Stable Diffusion 2.1's sizes. */
static const ac_unet_cfg unet_cfg = {.in_channels = 4, .out_channels = 4, .sample_size = 64, .levels = 4, .channels = {320, 640, 1280, 1280},
                                     .layers = 2, .down_attn = {1, 1, 1, 0}, .up_attn = {0, 1, 1, 1}, .mid_attn = true,
                                     .heads = {5, 10, 20, 20}, .blocks = {1, 1, 1, 1}, .context = 1024, .linear = true, .groups = 32,
                                     .eps = 1e-5, .flip = true};
static const ac_vae_cfg vae_cfg = {.in_channels = 3, .out_channels = 3, .latent = 4, .sample_size = 512, .levels = 4,
                                   .channels = {128, 256, 512, 512}, .layers = 2, .groups = 32, .quant = true, .post_quant = true,
                                   .mid_attn = true, .scaling = 0.18215};
static const ac_taesd_cfg taesd_cfg = {.in_channels = 3, .out_channels = 3, .latent = 4, .levels = 4, .enc_blocks = {1, 3, 3, 3},
                                       .dec_blocks = {3, 3, 3, 1}, .channels = {64, 64, 64, 64}, .dec_channels = {64, 64, 64, 64}, .scaling = 1};
static const ac_clip_cfg clip_cfg[2] = {{.vocab = 49408, .width = 1024, .ff = 4096, .layers = 23, .heads = 16, .positions = 77,
                                         .act = AC_ACT_GELU, .eps = 1e-5, .eos = 2}};

/* Device seconds by kernel, for the shares. */
typedef struct share {
    char kernel[48];
    double seconds, flop;
    int launches;
} share;
typedef AC_VEC(share) shares;

static void add_share(void *user, const ac_node *n, const char *kernel, double seconds, double flop, double bytes)
{
    shares *s = user;

    (void)n, (void)bytes;
    for (size_t i = 0; i < s->n; i++)
        if (!strcmp(s->p[i].kernel, kernel)) {
            s->p[i].seconds += seconds;
            s->p[i].flop += flop;
            s->p[i].launches++;
            return;
        }
    share one = {.seconds = seconds, .flop = flop, .launches = 1};
    snprintf(one.kernel, sizeof one.kernel, "%s", kernel);
    if (!AC_PUSH(s, one))
        return; /* shares are a service: without memory there are fewer */
}

static int by_seconds(const void *a, const void *b)
{
    const share *x = a, *y = b;
    return x->seconds < y->seconds ? 1 : x->seconds > y->seconds ? -1 : 0;
}

static int log_shares(bench *b, const char *name, ac_exec *x)
{
    shares s = {0};
    double sum = 0;
    int rc = ac_run_timed(x, add_share, &s);

    if (s.n)
        qsort(s.p, s.n, sizeof *s.p, by_seconds);
    for (size_t i = 0; i < s.n; i++)
        sum += s.p[i].seconds;
    for (size_t i = 0; rc == 0 && i < s.n; i++)
        ac_note(&b->ctx->dg, ADDCL_LOG_INFO, "%-8s %-18s %5.1f %% %9.3f ms %4d launches %8.1f GFLOP/s", name, s.p[i].kernel,
                100 * s.p[i].seconds / sum, s.p[i].seconds * 1e3, s.p[i].launches, s.p[i].flop / s.p[i].seconds * 1e-9);
    free(s.p);
    return rc;
}

/* Feeds small values to every input of the graph. */
static int feed_all(bench *b, const ac_stage *s)
{
    int rc = 0;

    for (size_t i = 1; i < s->g->nodes.n && rc == 0; i++) {
        const ac_node *n = &s->g->nodes.p[i];
        size_t count = (size_t)ac_count(&n->shape);
        float *v;
        if (n->op != &ac_op_input)
            continue;
        if (!(v = ac_calloc(count, sizeof *v)))
            return ac_nomem(&b->ctx->dg, count * sizeof *v);
        for (size_t k = 0; n->type == AC_F32 && k < count; k++)
            v[k] = (float)(k * 2654435761u % 1000) * 0.002f - 1;
        rc = ac_feed(s->x, n->name, v, count * sizeof *v);
        free(v);
    }
    return rc;
}

typedef int (*stage_fn)(const ac_nets *n, const ac_stage_size *z, ac_stage *s);

static int text_stage(const ac_nets *n, const ac_stage_size *z, ac_stage *s)
{
    return ac_stage_text(n, 0, false, false, z, s);
}

static int run_stage(bench *b, const ac_nets *n, const char *name, stage_fn make, double *seconds, double *flop)
{
    ac_stage_size z = {.batch = 1, .h = 64, .w = 64, .tokens = 77};
    ac_stage s = {0};
    double best = 1e30;
    int rc;

    AC_TRY(make(n, &z, &s));
    AC_TRY(feed_all(b, &s));
    for (int i = 0; i <= b->reps; i++) {
        double t = ac_now();
        AC_TRY(ac_run(s.x));
        AC_TRY(ac_dev_finish(b->ctx->dev));
        if (i > 0)
            best = AC_MIN(best, ac_now() - t);
        AC_TRY(ac_progress(b->ctx, "bench", i + 1, b->reps + 1, best, 0, 1));
    }
    *seconds = best;
    *flop = ac_exec_info(s.x)->flop;
    AC_TRY(log_shares(b, name, s.x));
    AC_TRY(measure_peak(b));
out:
    ac_stage_free(&s);
    return rc;
}

/* The gradient of attention in the forward pass's shape c. */
static int run_attn_bwd(bench *b, const ac_case *c)
{
    ac_stage s = {.g = ac_graph_new(&b->ctx->dg, b->type)};
    ac_id in[5], gx[3];
    char name[64];
    double best = 1e30;
    int rc;

    if (!s.g)
        return ac_nomem(&b->ctx->dg, sizeof *s.g);
    for (int k = 0; k < 5; k++) { /* q, k, v, y, gy */
        snprintf(name, sizeof name, "%d", k);
        in[k] = ac_input(s.g, name, AC_F32, c->in[k == 1 || k == 2]);
    }
    ac_attention_grad(s.g, in, &c->at, gx);
    for (int k = 0; k < 3; k++) {
        snprintf(name, sizeof name, "g%d", k);
        ac_set_output(s.g, name, gx[k]);
    }
    AC_TRY(ac_exec_new(b->ctx->dev, s.g, NULL, &s.x));
    AC_TRY(feed_all(b, &s));
    for (int i = 0; i <= b->reps; i++) {
        double t = ac_now();
        AC_TRY(ac_run(s.x));
        AC_TRY(ac_dev_finish(b->ctx->dev));
        if (i > 0)
            best = AC_MIN(best, ac_now() - t);
    }
    snprintf(name, sizeof name, "attn_bwd/%s", c->name);
    AC_TRY(log_shares(b, name, s.x));
    AC_TRY(measure_peak(b));
    rc = report(b, name, best, ac_exec_info(s.x)->flop, 0);
out:
    ac_stage_free(&s);
    return rc;
}

static int bench_attn_bwd(bench *b)
{
    int rc = 0;

    for (const ac_case *c = ac_op_attention.cases; c->name; c++)
        if (c->tags & AC_FULL)
            AC_TRY(run_attn_bwd(b, c));
out:
    return rc;
}

/* One training step, the update included. */
static int bench_train(bench *b, const char *name)
{
    ac_train_bench t;
    ac_step_result s;
    double best = 1e30;
    int rc;

    AC_TRY(ac_train_bench_open(b->ctx, name, &t));
    for (int i = 0; i <= b->reps && rc == 0; i++) {
        double t0 = ac_now();
        rc = ac_step_run(&t.r, &t.r.stepper, &s);
        if (i > 0)
            best = AC_MIN(best, ac_now() - t0);
    }
    if (rc == 0)
        rc = log_shares(b, name, t.r.stepper.x);
    if (rc == 0)
        rc = measure_peak(b);
    if (rc == 0)
        rc = report(b, name, best, ac_exec_info(t.r.stepper.x)->flop, 0);
    ac_train_bench_close(&t);
out:
    return rc;
}

ac_nets ac_bench_nets(ac_dev *dev, ac_diag *dg, ac_type type)
{
    return (ac_nets){.dev = dev, .dg = dg, .type = type, .unet = &unet_cfg, .vae = &vae_cfg, .taesd = &taesd_cfg, .clip = clip_cfg};
}

static int bench_net(bench *b, const char *name)
{
    ac_nets n = ac_bench_nets(b->ctx->dev, &b->ctx->dg, b->type);
    double s[3] = {0}, f[3] = {0};
    bool image = !strcmp(name, "image");
    int rc = 0;

    if (!strcmp(name, "vae_tiny"))
        n.vae = NULL;
    else
        n.taesd = NULL;
    if (image || !strcmp(name, "text"))
        AC_TRY(run_stage(b, &n, "text", text_stage, &s[0], &f[0]));
    if (image || !strcmp(name, "unet"))
        AC_TRY(run_stage(b, &n, "unet", ac_stage_unet_plain, &s[1], &f[1]));
    if (image || !strncmp(name, "vae", 3))
        AC_TRY(run_stage(b, &n, name, ac_stage_decode, &s[2], &f[2]));
    rc = report(b, name, s[0] + s[1] + s[2], f[0] + f[1] + f[2], 0);
out:
    return rc;
}

int addcl_bench(addcl_ctx *ctx, const char *name, addcl_type type, int reps, addcl_case_fn fn, void *user)
{
    static const ac_type types[] = {[ADDCL_F16] = AC_F16, [ADDCL_F32] = AC_F32, [ADDCL_BF16] = AC_BF16};
    static const char *const nets[] = {"text", "unet", "vae", "vae_tiny", "image"};
    bench b = {ctx, type, types[type], reps > 0 ? reps : 3, fn, user, 0, 0};
    int rc;

    ac_begin(ctx);
    AC_TRY(ac_need_device(ctx));
    AC_TRY(measure_peak(&b));
    AC_TRY(measure_copy(&b));
    for (size_t i = 0; i < AC_LEN(nets); i++)
        if (!strcmp(name, nets[i]))
            return bench_net(&b, name);
    if (!strcmp(name, "train_unet") || !strcmp(name, "add_step"))
        return bench_train(&b, name);
    if (!strcmp(name, "gemm"))
        return bench_ops(&b, &ac_op_matmul, name);
    if (!strcmp(name, "conv"))
        return bench_ops(&b, &ac_op_conv, name);
    if (!strcmp(name, "conv_bx"))
        return bench_ops(&b, &ac_op_conv_bx, name);
    if (!strcmp(name, "conv_bw"))
        return bench_ops(&b, &ac_op_conv_bw, name);
    if (!strcmp(name, "attn"))
        return bench_ops(&b, &ac_op_attention, name);
    if (!strcmp(name, "attn_bwd"))
        return bench_attn_bwd(&b);
    if (!strcmp(name, "norm")) {
        AC_TRY(bench_ops(&b, &ac_op_group_norm, name));
        return bench_ops(&b, &ac_op_layer_norm, name);
    }
    rc = ac_fail(&ctx->dg, ADDCL_E_ARG, "\"%s\" is no benchmark: gemm conv conv_bx conv_bw attn attn_bwd norm text unet vae vae_tiny image train_unet add_step", name);
out:
    return rc;
}

int addcl_model_plan(addcl_model *m, const char *stage, int width, int height, int batch)
{
    ac_nets n = ac_model_nets(m);
    ac_stage_size z = {.batch = batch > 0 ? batch : 1, .h = (height ? height : m->info.height) / m->info.factor,
                       .w = (width ? width : m->info.width) / m->info.factor, .tokens = m->clip[0].positions, .plan_only = true};
    ac_stage s = {0};
    int rc;

    ac_begin(m->ctx);
    AC_TRY(ac_need_device(m->ctx));
    z.guided = m->info.cfg_scale != 0 && m->info.cfg_scale != 1;
    if (!strcmp(stage, "text"))
        AC_TRY(ac_stage_text(&n, 0, m->unet.time_ids != 0, false, &z, &s));
    else if (!strcmp(stage, "unet"))
        AC_TRY(ac_stage_unet(&n, &z, &s));
    else if (!strcmp(stage, "vae"))
        AC_TRY(ac_stage_decode(&n, &z, &s));
    else
        AC_TRY(ac_fail(&m->ctx->dg, ADDCL_E_ARG, "\"%s\" is no stage: text, unet or vae", stage));
    ac_exec_dump(s.x);
out:
    ac_stage_free(&s);
    return rc;
}
