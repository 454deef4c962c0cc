/* set.c - sets of pictures to be measured. */
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/image.h"

/* The prompt that add-cl left in a picture of a folder; NULL: there is none, or no folder. */
static char *own_prompt(const ac_eval_set *s, uint32_t index)
{
    char *path = ac_path_join(s->path, ac_data_name(s->data, index)), *text = NULL, *prompt = NULL;
    ac_diag quiet = {0};
    const char *value;
    json_t *j;

    if (path && ac_ends_with(path, ".png") && ac_exists(path) && ac_image_png_text(path, "add-cl", &quiet, &text) == 0 && text &&
        (j = json_loads(text, 0, NULL))) {
        value = json_string_value(json_object_get(j, "prompt"));
        prompt = value ? ac_strdup(value) : NULL;
        json_decref(j);
    }
    free(path);
    free(text);
    return prompt;
}

/* caption NULL: none. */
static int open_data(ac_eval_set *s, const ac_eval_set_opts *o, const char *caption, ac_diag *dg)
{
    ac_data_opts d = AC_DATA_OPTS_INIT;

    ac_data_close(s->data);
    s->data = NULL;
    d.source = &s->path;
    d.n_source = 1;
    d.resolution = o->side;
    d.caption = caption ? caption : "{file_name}"; /* which every sample has */
    d.caption_values = o->caption_values;
    d.filter = o->filter;
    d.seed = o->seed;
    return ac_data_open(&d, dg, &s->data);
}

int ac_eval_set_open(const char *path, const ac_eval_set_opts *o, ac_diag *dg, ac_eval_set *s)
{
    const uint32_t *members;
    char *prompt;
    size_t all;
    int rc;

    *s = (ac_eval_set){.path = path};
    AC_TRY(open_data(s, o, NULL, dg));
    prompt = own_prompt(s, ac_data_members(s->data, AC_SPLIT_TRAIN)[0]);
    s->prompts = prompt != NULL;
    free(prompt);
    s->captions = !s->prompts && o->caption;
    if (s->captions)
        AC_TRY(open_data(s, o, o->caption, dg));
    s->side = ac_data_resolution(s->data);
    members = ac_data_members(s->data, AC_SPLIT_TRAIN);
    all = ac_data_count(s->data, AC_SPLIT_TRAIN);
    s->n = o->count ? AC_MIN(o->count, all) : all;
    if (!(s->order = ac_calloc(all, sizeof *s->order))) {
        rc = ac_nomem(dg, all * sizeof *s->order);
        goto out;
    }
    if (s->n < all)
        ac_data_order(s->data, AC_SPLIT_TRAIN, 0, s->order);
    else
        memcpy(s->order, members, all * sizeof *members);
out:
    return rc;
}

void ac_eval_set_close(ac_eval_set *s)
{
    ac_data_close(s->data);
    free(s->order);
    *s = (ac_eval_set){0};
}

int ac_eval_set_get(const ac_eval_set *s, size_t i, ac_diag *dg, uint8_t *rgb, char **caption)
{
    size_t n = (size_t)s->side * (size_t)s->side * 3;
    float *pixels = ac_calloc(n, sizeof *pixels);
    ac_sample sample = {0};
    int rc = pixels ? ac_data_fetch(s->data, s->order[i], AC_EPOCH_PLAIN, dg, pixels, &sample) : ac_nomem(dg, n * sizeof *pixels);

    if (rc == 0)
        for (size_t k = 0; k < n; k++)
            rgb[k] = (uint8_t)lrintf((pixels[k] + 1) * 127.5f);
    if (rc == 0 && caption) {
        *caption = s->prompts ? own_prompt(s, s->order[i]) : NULL;
        if (!*caption && s->captions) {
            *caption = sample.caption;
            sample.caption = NULL;
        }
    }
    free(sample.caption);
    free(pixels);
    if (rc < 0)
        ac_context(dg, "%s", s->path);
    return rc;
}

int ac_eval_set_match(const ac_eval_set *s, const ac_eval_set *other, size_t i, ac_diag *dg, size_t *at)
{
    const char *name = ac_data_name(other->data, other->order[i]);

    /* Sets in the same order are the rule: looked for from the same place on. */
    for (size_t k = 0; k < s->n; k++) {
        *at = (i + k) % s->n;
        if (!strcmp(ac_data_name(s->data, s->order[*at]), name))
            return 0;
    }
    return ac_fail(dg, ADDCL_E_ARG, "%s has no picture '%s', which %s has: pairs are compared by name", s->path, name, other->path);
}
