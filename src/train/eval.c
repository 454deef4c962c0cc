/* eval.c - fixed samples and prompts for validation. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/grid.h"
#include "train/train.h"

void ac_use_averages(ac_training *r, bool averages)
{
    for (int k = 0; k < r->n_sets; k++)
        r->sets[k].averages = averages;
}

size_t ac_eval_count(const ac_training *r)
{
    enum { TRAINING_ONLY = 256 }; /* where nothing is held out */
    size_t n = ac_data_count(r->data, AC_SPLIT_VAL), limit = (size_t)r->cfg->validation.validation_images;

    if (n == 0)
        n = AC_MIN(ac_data_count(r->data, AC_SPLIT_TRAIN), (size_t)TRAINING_ONLY);
    return limit ? AC_MIN(n, limit) : n;
}

int ac_eval_batch(ac_training *r, ac_split split, size_t of, size_t k, size_t n, ac_batch *b)
{
    size_t all = ac_data_count(r->data, split), side = (size_t)r->cfg->data.resolution, pixels = side * side * 3,
           room = AC_MAX(n, (size_t)r->cfg->data.train_batch_size);
    const uint32_t *member = ac_data_members(r->data, split);
    int rc = 0;

    memset(b, 0, sizeof *b);
    b->image = ac_calloc(room * pixels, sizeof *b->image);
    b->sample = ac_calloc(n, sizeof *b->sample);
    if (!b->image || !b->sample) {
        ac_eval_free(b);
        return ac_nomem(r->dg, room * pixels * sizeof(float));
    }
    for (size_t i = 0; all && i < n && rc >= 0; i++) {
        rc = ac_data_fetch(r->data, member[(k + i) * all / of], AC_EPOCH_PLAIN, r->dg, b->image + b->n * pixels, &b->sample[b->n]);
        b->n += rc == 0;
        if (rc < 0 && ac_data_is_broken(rc)) {
            ac_clear(r->dg);
            rc = 0;
        }
    }
    if (rc < 0)
        ac_eval_free(b);
    return rc;
}

void ac_eval_free(ac_batch *b)
{
    for (size_t i = 0; b->sample && i < b->n; i++)
        free(b->sample[i].caption);
    free(b->image);
    free(b->sample);
    memset(b, 0, sizeof *b);
}

int ac_eval_each(ac_training *r, ac_exec *x, ac_split split, size_t of, ac_eval_fn fn, void *user, size_t *seen)
{
    size_t B = (size_t)r->cfg->data.train_batch_size;
    int rc = 0;

    *seen = 0;
    for (size_t k = 0; k < of; k += B) {
        ac_batch b;
        AC_TRY(ac_eval_batch(r, split, of, k, AC_MIN(B, of - k), &b));
        rc = fn(r, x, &b, k, user);
        *seen += b.n;
        ac_eval_free(&b);
        AC_TRY(rc);
    }
out:
    return rc;
}

int ac_quiet_sample(ac_training *r, const addcl_sample_opts *o)
{
    addcl_progress_fn progress = r->ctx->progress;
    int rc;

    r->ctx->progress = NULL;
    rc = addcl_sample(r->model, o, NULL);
    r->ctx->progress = progress;
    return rc;
}

/* ------------------------------------------------------------------------------------------ prompts */

int ac_read_prompts(ac_training *r)
{
    const char *path = r->cfg->validation.validation_prompts_file;
    ac_split split = ac_data_count(r->data, AC_SPLIT_VAL) ? AC_SPLIT_VAL : AC_SPLIT_TRAIN;
    size_t all = ac_data_count(r->data, split), n = AC_MIN((size_t)r->cfg->validation.num_validation_images, all);
    int rc = 0;

    if (*path)
        return ac_prompts_read(path, r->dg, &r->prompts);
    for (size_t i = 0; i < n; i++) {
        ac_sample s;
        rc = ac_data_fetch(r->data, ac_data_members(r->data, split)[i * all / n], AC_EPOCH_PLAIN, r->dg, NULL, &s);
        if (rc < 0 && ac_data_is_broken(rc)) {
            ac_clear(r->dg);
            continue;
        }
        AC_TRY(rc);
        rc = ac_lines_add(&r->prompts, s.caption, strlen(s.caption), r->dg);
        free(s.caption);
        AC_TRY(rc);
    }
out:
    return AC_MIN(rc, 0);
}

/* ------------------------------------------------------------------------------------------ sample pictures */

typedef struct sheet {
    float *pixels; /* [n,h,w,3] */
    int width, height;
} sheet;

static int take_image(void *user, int index, const addcl_image *im)
{
    sheet *s = user;
    size_t n = (size_t)s->width * (size_t)s->height * 3;

    if (im->width != s->width || im->height != s->height)
        return 1;
    for (size_t i = 0; i < n; i++)
        s->pixels[(size_t)index * n + i] = (float)im->rgb[i] / 127.5f - 1;
    return 0;
}

int ac_sample_sheet(ac_training *r, const char *path)
{
    const ac_train_cfg *c = r->cfg;
    size_t n = AC_MIN((size_t)c->validation.num_validation_images, r->prompts.n);
    int side = (int)c->data.resolution, sampler = c->validation.sampler, rc = 0;
    sheet s = {ac_calloc(n * (size_t)side * (size_t)side * 3, sizeof(float)), side, side};
    addcl_sample_opts o = {.prompts = (const char *const *)r->prompts.p, .n_prompts = n, .count = (int)n, .batch_size = (int)AC_MIN(n, (size_t)16),
                           .steps = (int)c->validation.num_inference_steps, .cfg_scale = c->validation.guidance_scale, .width = side,
                           .height = side, .seed = c->validation.validation_seed, .sampler = sampler == AC_SAMPLER_OF_MODEL ? NULL : ac_sampler_name((ac_sampler_kind)sampler),
                           .on_image = take_image, .user = &s};

    if (!s.pixels)
        return ac_nomem(r->dg, n * (size_t)side * (size_t)side * 12);
    if (n == 0)
        goto out;
    ac_use_averages(r, true);
    rc = ac_quiet_sample(r, &o);
    ac_use_averages(r, false);
    AC_TRY(rc);
    rc = ac_grid_png(path, s.pixels, n, side, side, 0, r->dg);
out:
    free(s.pixels);
    return rc;
}
