/* api_sample.c - addcl_sample: options, defaults, plan, and the order of the stages. */
#include "api_sample.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------ choices */

static int64_t random_seed(void)
{
    uint32_t s = 0;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, &s, sizeof s) != (ssize_t)sizeof s)
        s = (uint32_t)(ac_now() * 1e6);
    if (fd >= 0)
        close(fd);
    return s;
}

static int choose_size(const addcl_model *m, const addcl_sample_opts *o, ac_choice *c)
{
    ac_diag *dg = &m->ctx->dg;
    int f = m->info.factor;

    c->width = o->width ? o->width : o->init ? o->init->width / f * f : m->info.width;
    c->height = o->height ? o->height : o->init ? o->init->height / f * f : m->info.height;
    if (c->width < f || c->height < f || c->width % f || c->height % f || c->width > 16384 || c->height > 16384)
        return ac_fail(dg, ADDCL_E_ARG, "a size of %dx%d does not work: width and height must be multiples of %d up to 16384 (nearest: %dx%d)",
                       c->width, c->height, f, AC_MAX(f, (c->width + f / 2) / f * f), AC_MAX(f, (c->height + f / 2) / f * f));
    if (o->init && (o->init->width != c->width || o->init->height != c->height))
        return ac_fail(dg, ADDCL_E_ARG, "the initial image is %dx%d, the size asked for %dx%d", o->init->width, o->init->height, c->width,
                       c->height);
    c->w = c->width / f;
    c->h = c->height / f;
    return 0;
}

static int choose_sampler(addcl_model *m, const addcl_sample_opts *o, ac_choice *c)
{
    ac_schedule *sch = m->sch;
    ac_sampler_opts so = {.kind = sch->cfg.sampler, .timesteps = o->timesteps, .n_timesteps = o->n_timesteps, .sigmas = o->sigmas,
                          .n_sigmas = o->n_sigmas, .eta = o->eta};
    ac_spacing spacing = sch->cfg.spacing;
    int rc, k;

    if (o->sampler) {
        if ((k = ac_sampler_by_name(o->sampler)) < 0)
            return ac_fail(&m->ctx->dg, ADDCL_E_ARG, "\"%s\" is no sampler: euler, euler_a, ddim, lcm or dpmpp_2m", o->sampler);
        so.kind = (ac_sampler_kind)k;
    }
    if (o->spacing) {
        if ((k = ac_spacing_by_name(o->spacing)) < 0)
            return ac_fail(&m->ctx->dg, ADDCL_E_ARG, "\"%s\" is no spacing: trailing, leading or linspace", o->spacing);
        sch->cfg.spacing = (ac_spacing)k;
    }
    so.steps = o->steps ? o->steps : m->info.steps;
    if (o->init)
        so.strength = o->strength > 0 ? o->strength : 0.75;
    rc = ac_sampler_new(sch, &so, &m->ctx->dg, &c->sampler);
    sch->cfg.spacing = spacing;
    if (rc == 0)
        c->steps = (int)c->sampler->n;
    return rc;
}

int ac_choose(addcl_model *m, const addcl_sample_opts *o, ac_choice *c)
{
    ac_diag *dg = &m->ctx->dg;
    int rc;

    memset(c, 0, sizeof *c);
    c->o = o;
    if (!o->n_prompts || !o->prompts)
        return ac_fail(dg, ADDCL_E_ARG, "a prompt is needed");
    if (o->count < 0 || o->count > 1000000 || o->batch_size < 0 || o->batch_size > 256 || o->steps < 0)
        return ac_fail(dg, ADDCL_E_ARG, "%d images in batches of %d with %d steps: out of range", o->count, o->batch_size, o->steps);
    c->count = o->count ? o->count : (int)o->n_prompts;
    c->batch = AC_MIN(o->batch_size ? o->batch_size : 1, c->count);
    AC_TRY(choose_size(m, o, c));
    c->cfg = o->cfg_scale < 0 ? m->info.cfg_scale : o->cfg_scale;
    c->guided = c->cfg != 0 && c->cfg != 1;
    c->seed = o->seed < 0 ? random_seed() : o->seed;
    c->rng = AC_RNG_CPU;
    if (o->rng && !strcmp(o->rng, "cuda")) {
        c->rng = AC_RNG_CUDA;
    } else if (o->rng && strcmp(o->rng, "cpu")) {
        rc = ac_fail(dg, ADDCL_E_ARG, "\"%s\" is no generator: cpu or cuda", o->rng);
        goto out;
    }
    rc = choose_sampler(m, o, c);
out:
    if (rc < 0)
        ac_choice_free(c);
    return rc;
}

void ac_choice_free(ac_choice *c)
{
    ac_sampler_free(c->sampler);
    c->sampler = NULL;
}

/* ------------------------------------------------------------------------------------------ plan */

static int plan_decode(const ac_nets *n, int h, int w, ac_plan_info *info)
{
    ac_stage_size z = {.batch = 1, .h = h, .w = w, .plan_only = true};
    ac_stage s;
    int rc;

    AC_TRY(ac_stage_decode(n, &z, &s));
    *info = *ac_exec_info(s.x);
    ac_stage_free(&s);
out:
    return rc;
}

/* What the decoder may take: device memory with a reserve for the driver and others. */
static bool fits(const ac_nets *n, const ac_plan_info *info)
{
    const ac_limits *lim = ac_dev_limits(n->dev);
    uint64_t reserve = AC_MAX((uint64_t)400 << 20, lim->global_mem / 10);

    return info->largest <= lim->max_alloc && info->peak + reserve <= AC_MAX(lim->global_mem, reserve);
}

int ac_choose_tiles(const ac_nets *n, const addcl_sample_opts *o, ac_choice *c, ac_plan_info *info)
{
    int f = ac_latent_factor(n), tile = (o->vae_tile_size ? o->vae_tile_size : 512) / f;
    double overlap = o->vae_tile_overlap > 0 ? o->vae_tile_overlap : 0.25;
    int rc;

    c->tile = 0;
    if (tile < 4 || overlap >= 0.9)
        return ac_fail(n->dg, ADDCL_E_ARG, "decoder tiles of %d pixels with an overlap of %g do not work: at least %d pixels, overlap below 0.9",
                       o->vae_tile_size, overlap, 4 * f);
    AC_TRY(plan_decode(n, c->h, c->w, info));
    if (o->vae_tiling == ADDCL_TILING_OFF || (o->vae_tiling == ADDCL_TILING_AUTO && fits(n, info)))
        return 0;
    c->tile = AC_MIN(tile, AC_MAX(c->h, c->w));
    for (;; c->tile = AC_MAX(c->tile / 2, 8)) { /* smaller until it fits */
        AC_TRY(plan_decode(n, AC_MIN(c->tile, c->h), AC_MIN(c->tile, c->w), info));
        if (o->vae_tiling == ADDCL_TILING_ON || fits(n, info) || c->tile <= 8)
            break;
    }
    c->tile_step = AC_MAX(1, (int)(c->tile * (1 - overlap)));
out:
    return rc;
}

static void fill_result(const addcl_model *m, const ac_choice *c, addcl_sample_result *r)
{
    const addcl_sample_opts *o = c->o;

    memset(r, 0, sizeof *r);
    r->seed = c->seed;
    r->steps = c->steps;
    r->width = c->width;
    r->height = c->height;
    r->count = c->count;
    r->cfg_scale = c->cfg;
    strncpy(r->sampler, ac_sampler_name(c->sampler->kind), sizeof r->sampler - 1);
    strncpy(r->spacing, o->spacing ? o->spacing : ac_spacing_name(m->sch->cfg.spacing), sizeof r->spacing - 1);
    strncpy(r->prediction, ac_prediction_name(m->sch->cfg.prediction), sizeof r->prediction - 1);
}

static int plan_stages(ac_job *r, addcl_estimate *e)
{
    ac_stage_size z = {.batch = r->c.batch, .h = r->c.h, .w = r->c.w, .tokens = r->m->clip[0].positions, .guided = r->c.guided,
                       .plan_only = true};
    ac_plan_info dec;
    ac_stage s;
    int rc = 0;

    memset(e, 0, sizeof *e);
    for (int i = 0; i < 2; i++) {
        if (!r->m->part[AC_TEXT + i].present)
            continue;
        AC_TRY(ac_stage_text(&r->nets, i, r->m->unet.time_ids != 0, i == 1, &z, &s));
        e->text_bytes = AC_MAX(e->text_bytes, ac_exec_info(s.x)->peak);
        e->text_flop += ac_exec_info(s.x)->flop;
        ac_stage_free(&s);
    }
    AC_TRY(ac_stage_unet(&r->nets, &z, &s));
    e->unet_bytes = ac_exec_info(s.x)->peak;
    e->unet_flop = ac_exec_info(s.x)->flop;
    ac_stage_free(&s);
    AC_TRY(ac_choose_tiles(&r->nets, r->c.o, &r->c, &dec));
    e->vae_bytes = dec.peak;
    e->vae_flop = dec.flop;
    r->r.tiled = r->c.tile > 0;
    r->r.planned_bytes = AC_MAX(AC_MAX(e->text_bytes, e->unet_bytes), e->vae_bytes);
out:
    return rc;
}

static int begin(addcl_model *m, const addcl_sample_opts *o, ac_job *r)
{
    int rc;

    memset(r, 0, sizeof *r);
    ac_begin(m->ctx);
    r->m = m;
    r->ctx = m->ctx;
    AC_TRY(ac_need_device(m->ctx));
    AC_TRY(ac_probe_prediction(m));
    AC_TRY(ac_choose(m, o, &r->c));
    r->nets = ac_model_nets(m);
    fill_result(m, &r->c, &r->r);
out:
    return rc;
}

int addcl_sample_plan(addcl_model *m, const addcl_sample_opts *o, addcl_sample_result *result, addcl_estimate *est)
{
    addcl_estimate e;
    ac_job r;
    int rc;

    AC_TRY(begin(m, o, &r));
    AC_TRY(plan_stages(&r, &e));
    if (result)
        *result = r.r;
    if (est)
        *est = e;
out:
    ac_job_free(&r);
    return rc;
}

/* ------------------------------------------------------------------------------------------ run */

int addcl_sample(addcl_model *m, const addcl_sample_opts *o, addcl_sample_result *result)
{
    addcl_estimate e;
    ac_job r;
    int rc;

    AC_TRY(begin(m, o, &r));
    ac_dev_reset_peak(m->ctx->dev);
    AC_TRY(plan_stages(&r, &e));
    if (r.c.tile)
        ac_note(&m->ctx->dg, ADDCL_LOG_INFO, "decoding in tiles of %d pixels", r.c.tile * m->info.factor);
    AC_TRY(ac_job_text(&r));
    AC_TRY(ac_job_unet(&r));
    AC_TRY(ac_job_decode(&r));
    r.r.peak_bytes = ac_dev_peak(m->ctx->dev);
    if (result)
        *result = r.r;
out:
    ac_job_free(&r);
    return rc;
}

void ac_job_free(ac_job *r)
{
    for (size_t i = 0; r->text && i < r->n_texts; i++) {
        free(r->text[i].states);
        free(r->text[i].pooled);
    }
    free(r->text);
    free(r->texts);
    free(r->prompt_of);
    free(r->latents);
    ac_choice_free(&r->c);
}

/* ------------------------------------------------------------------------------------------ prediction */

/* Runs the network once at t = 999 on a constant input of 0.5 with a context of 0.5. A network that predicts noise returns
 * about its input; one that predicts v = alpha n - sigma x0 something far below. */
int ac_probe_prediction(addcl_model *m)
{
    enum { SIDE = 8, TOKENS = 77 };
    ac_stage_size z = {.batch = 1, .h = SIDE, .w = SIDE, .tokens = TOKENS};
    ac_nets n = ac_model_nets(m);
    size_t nx = (size_t)SIDE * SIDE * (size_t)m->unet.in_channels, nc = (size_t)TOKENS * (size_t)m->unet.context;
    float *v, t = 999;
    double mean = 0;
    ac_stage s = {0};
    int rc;

    if (m->prediction_known)
        return 0;
    if (m->unet.time_ids) { /* every public SDXL model predicts noise unless it says otherwise */
        m->prediction_known = true;
        return 0;
    }
    if (!(v = ac_calloc(AC_MAX(nx, nc), sizeof *v)))
        return ac_nomem(n.dg, AC_MAX(nx, nc) * sizeof *v);
    for (size_t i = 0; i < AC_MAX(nx, nc); i++)
        v[i] = 0.5f;
    AC_TRY(ac_stage_unet_plain(&n, &z, &s));
    AC_TRY(ac_feed(s.x, "x", v, nx * sizeof *v));
    AC_TRY(ac_feed(s.x, "ctx", v, nc * sizeof *v));
    AC_TRY(ac_feed(s.x, "t", &t, sizeof t));
    AC_TRY(ac_run(s.x));
    AC_TRY(ac_fetch(s.x, "out", v, nx * sizeof *v));
    for (size_t i = 0; i < nx; i++)
        mean += ((double)v[i] - 0.5) / (double)nx;
    m->sch->cfg.prediction = mean < -1 ? AC_PREDICT_V : AC_PREDICT_EPS;
    m->prediction_known = true;
    m->info.prediction = ac_prediction_name(m->sch->cfg.prediction);
    if (m->single && mean < -1 && !strcmp(m->info.family, "sd2")) /* the v models of SD 2 were trained at 768 */
        m->info.width = m->info.height = 768;
    ac_note(n.dg, ADDCL_LOG_INFO, "the file does not say what its network predicts; a probe says %s (--prediction overrides)",
            m->info.prediction);
out:
    ac_stage_free(&s);
    free(v);
    return rc;
}
