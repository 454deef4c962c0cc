/* dataset.c - data sets: which samples belong to it, to its splits, and to an epoch. */
#include "io/dataset_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "io/image.h"

/* ---------------------------------------------------------------------------------------------- adding samples */

int ac_data_add_root(ac_data *d, const char *path, bool shard, ac_diag *dg)
{
    ac_data_root root = {.path = ac_strdup(path), .shard = shard};

    if (root.path && AC_PUSH(&d->root, root))
        return 0;
    free(root.path);
    return ac_nomem(dg, strlen(path) + 1);
}

/* What is written for an element of a field. */
static const char *written(const ac_data *d, const char *field, const char *element)
{
    for (size_t i = 0; i < d->values.rule.n; i++) {
        const ac_rule *r = &d->values.rule.p[i];
        if (strcmp(r->field, field) == 0 && ac_rule_fits(r, element))
            return r->tail;
    }
    return element;
}

/* Adds one element to a list: control characters become blanks, those at the ends go. Nothing is added when nothing is
 * left, for an empty element ends the list. */
static bool add_element(ac_str *s, const char *element)
{
    size_t n = strlen(element), at = s->n;

    while (n > 0 && (unsigned char)*element <= ' ')
        element++, n--;
    while (n > 0 && (unsigned char)element[n - 1] <= ' ')
        n--;
    if (n == 0)
        return false;
    ac_str_addn(s, element, n);
    ac_str_addn(s, "", 1);
    for (; !s->failed && at < s->n - 1; at++)
        if ((unsigned char)s->p[at] < ' ' || s->p[at] == 0x7f)
            s->p[at] = ' ';
    return true;
}

/* Appends what captions may need, as ac_caption_draw wants it. */
static void add_fields(ac_data *d, const json_t *fields)
{
    char buf[32];

    for (size_t k = 0; k < d->caption.field.n; k++) {
        const char *name = d->caption.field.p[k];
        const json_t *value = json_object_get(fields, name);
        bool any = false;
        for (size_t i = 0; i < ac_field_count(value); i++)
            any |= add_element(&d->text, written(d, name, ac_field_text(value, i, buf)));
        ac_str_addn(&d->text, "", 1);
        d->seen[k] += any;
    }
}

static bool is_wanted(const ac_data *d, const char *name, const json_t *fields)
{
    for (size_t i = 0; i < d->filter.rule.n; i++)
        if (!ac_rule_met(&d->filter.rule.p[i], fields))
            return false;
    return !ac_data_listed(&d->exclude, name, fields);
}

int ac_data_add(ac_data *d, const char *name, uint64_t at, uint64_t bytes, json_t *fields, ac_diag *dg)
{
    ac_data_item item = {.name = d->text.n, .at = at, .bytes = bytes, .root = (uint32_t)(d->root.n - 1)};

    if (json_object_set_new_nocheck(fields, "file_name", json_string_nocheck(name)) != 0)
        return ac_nomem(dg, strlen(name));
    if (!is_wanted(d, name, fields))
        return 0;
    item.split = ac_data_listed(&d->val, name, fields) ? AC_SPLIT_VAL : AC_SPLIT_TRAIN;
    while (item.group < d->subsample.rule.n && !ac_rule_met(&d->subsample.rule.p[item.group], fields))
        item.group++;
    item.group = item.group < d->subsample.rule.n ? item.group + 1 : 0;
    ac_str_addn(&d->text, name, strlen(name) + 1);
    item.fields = d->text.n;
    add_fields(d, fields);
    if (d->item.n == UINT32_MAX)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "data set of more than %u samples", UINT32_MAX);
    return !d->text.failed && AC_PUSH(&d->item, item) ? 0 : ac_nomem(dg, d->text.n + sizeof item);
}

/* ------------------------------------------------------------------------------------------------------ splits */

/* Samples of a group that one epoch shows. */
static size_t drawn(const ac_data *d, size_t group)
{
    return (size_t)llround(d->group[group].share * (double)d->group[group].n);
}

static int make_splits(ac_data *d, ac_diag *dg)
{
    for (int s = 0; s < 2; s++)
        if (!(d->member[s] = ac_calloc(d->item.n, sizeof *d->member[s])))
            return ac_nomem(dg, d->item.n * sizeof *d->member[s]);
    for (uint32_t i = 0; i < d->item.n; i++) {
        const ac_data_item *item = &d->item.p[i];
        d->member[item->split][d->n_member[item->split]++] = i;
        d->group[item->group].n += item->split == AC_SPLIT_TRAIN;
    }
    d->n_epoch[AC_SPLIT_VAL] = d->n_member[AC_SPLIT_VAL];
    for (size_t g = 0; g <= d->subsample.rule.n; g++) {
        d->n_epoch[AC_SPLIT_TRAIN] += drawn(d, g);
        if (d->group[g].n == 0 && g > 0)
            ac_note(dg, ADDCL_LOG_WARN, "subsample: no sample for training meets '%s'",
                    d->subsample.rule.p[g - 1].pattern);
    }
    return 0;
}

static int check_splits(const ac_data *d, ac_diag *dg)
{
    if (d->item.n == 0)
        return ac_fail(dg, ADDCL_E_ARG, "data set: filter and exclude_list leave no sample");
    if (d->n_epoch[AC_SPLIT_TRAIN] == 0)
        return ac_fail(dg, ADDCL_E_ARG, "data set: no sample is left for training: %zu are held out, %zu to subsample",
                       d->n_member[AC_SPLIT_VAL], d->n_member[AC_SPLIT_TRAIN]);
    if (d->opts.val_split && d->n_member[AC_SPLIT_VAL] == 0)
        return ac_fail(dg, ADDCL_E_ARG, "val_split: none of the %zu samples is in the list '%s'", d->item.n,
                       d->opts.val_split);
    return 0;
}

/* A field that no sample has was surely spelt wrong, unless it is the default's. */
static int check_fields(const ac_data *d, ac_diag *dg)
{
    for (size_t k = 0; k < d->caption.field.n; k++) {
        if (d->seen[k] == 0 && d->opts.caption)
            return ac_fail(dg, ADDCL_E_ARG, "caption: none of the %zu samples has a field '%s'", d->item.n,
                           d->caption.field.p[k]);
        if (d->seen[k] < d->item.n)
            ac_note(dg, d->seen[k] ? ADDCL_LOG_INFO : ADDCL_LOG_WARN, "%zu of %zu samples have no '%s' for captions",
                    d->item.n - d->seen[k], d->item.n, d->caption.field.p[k]);
    }
    return 0;
}

/* A new subset of a group for `order`, by selection sampling (Knuth, TAOCP 2, algorithm 3.4.2 S): a member is taken
 * with probability (still wanted) / (still to come). Returns its size. */
static size_t draw_group(const ac_data *d, size_t group, uint64_t *random, uint32_t *order)
{
    size_t want = drawn(d, group), left = d->group[group].n, n = 0;

    for (size_t i = 0; n < want; i++) {
        uint32_t index = d->member[AC_SPLIT_TRAIN][i];
        if (d->item.p[index].group == group && ac_data_below(random, left--) < want - n)
            order[n++] = index;
    }
    return n;
}

void ac_data_order(const ac_data *d, ac_split split, uint64_t epoch, uint32_t *order)
{
    uint64_t random = ac_data_stream(d->opts.seed, epoch, (uint64_t)split, AC_USE_ORDER);
    size_t n = 0;

    if (split == AC_SPLIT_TRAIN)
        for (size_t g = 0; g <= d->subsample.rule.n; g++)
            n += draw_group(d, g, &random, order + n);
    else
        for (; n < d->n_member[split]; n++)
            order[n] = d->member[split][n];
    for (size_t i = n; i > 1; i--) { /* Fisher and Yates */
        size_t j = ac_data_below(&random, i);
        uint32_t swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
}

/* ----------------------------------------------------------------------------------------------------- opening */

static int check_opts(const ac_data_opts *o, ac_diag *dg)
{
    const struct {
        const char *name;
        double value;
    } probability[] = {{"flip", o->flip}, {"caption_dropout", o->caption_dropout}};

    if (o->n_source == 0)
        return ac_fail(dg, ADDCL_E_ARG, "data set: no source is given");
    if (o->resolution < 0 || o->resolution > AC_IMAGE_SIDE_MAX)
        return ac_fail(dg, ADDCL_E_ARG, "resolution %d: expected 0..%d", o->resolution, AC_IMAGE_SIDE_MAX);
    for (size_t i = 0; i < AC_LEN(probability); i++)
        if (!(probability[i].value >= 0 && probability[i].value <= 1))
            return ac_fail(dg, ADDCL_E_ARG, "%s %g: expected 0..1", probability[i].name, probability[i].value);
    return 0;
}

/* The groups of `subsample`, without members yet. */
static int make_groups(ac_data *d, ac_diag *dg)
{
    if (!(d->group = ac_calloc(d->subsample.rule.n + 1, sizeof *d->group)))
        return ac_nomem(dg, (d->subsample.rule.n + 1) * sizeof *d->group);
    d->group[0].share = 1;
    for (size_t i = 0; i < d->subsample.rule.n; i++) {
        const char *tail = d->subsample.rule.p[i].tail;
        char *end;
        double share = strtod(tail, &end);
        if (end == tail || *end || !(share >= 0 && share <= 1))
            return ac_fail(dg, ADDCL_E_ARG, "subsample: share '%s': expected 0..1", tail);
        d->group[i + 1].share = share;
    }
    return 0;
}

static int read_opts(ac_data *d, ac_diag *dg)
{
    const ac_data_opts *o = &d->opts;
    int rc;

    AC_TRY(check_opts(o, dg));
    AC_TRY(ac_caption_parse(o->caption ? o->caption : "{text}", dg, &d->caption));
    AC_TRY(ac_rules_parse("caption_values", o->caption_values, true, dg, &d->values));
    AC_TRY(ac_rules_parse("filter", o->filter, false, dg, &d->filter));
    AC_TRY(ac_rules_parse("subsample", o->subsample, true, dg, &d->subsample));
    AC_TRY(make_groups(d, dg));
    if (o->val_split)
        AC_TRY(ac_data_list_read(o->val_split, dg, &d->val));
    if (o->exclude_list)
        AC_TRY(ac_data_list_read(o->exclude_list, dg, &d->exclude));
    if (!(d->seen = ac_calloc(d->caption.field.n, sizeof *d->seen)))
        rc = ac_nomem(dg, d->caption.field.n * sizeof *d->seen);
out:
    return rc;
}

int ac_data_open(const ac_data_opts *opts, ac_diag *dg, ac_data **out)
{
    ac_data *d = ac_calloc(1, sizeof *d);
    int rc;

    *out = NULL;
    if (!d)
        return ac_nomem(dg, sizeof *d);
    pthread_mutex_init(&d->lock, NULL);
    d->opts = *opts;
    AC_TRY(read_opts(d, dg));
    for (size_t i = 0; i < opts->n_source; i++)
        AC_TRY(ac_data_add_source(d, opts->source[i], dg));
    AC_TRY(make_splits(d, dg));
    AC_TRY(check_splits(d, dg));
    AC_TRY(check_fields(d, dg));
    if (!(d->slot = ac_calloc(d->item.n, sizeof *d->slot)))
        AC_TRY(ac_nomem(dg, d->item.n * sizeof *d->slot));
    if (d->opts.resolution == 0)
        AC_TRY(ac_data_native(d, d->member[AC_SPLIT_TRAIN][0], dg, &d->opts.resolution));
    *out = d;
    return 0;
out:
    ac_data_close(d);
    return rc;
}

void ac_data_close(ac_data *d)
{
    if (!d)
        return;
    for (size_t i = 0; d->slot && i < d->item.n; i++)
        ac_image_free(d->slot[i].kept);
    for (size_t i = 0; i < d->root.n; i++)
        free(d->root.p[i].path);
    for (size_t i = 0; i < AC_DATA_BROKEN_KEPT; i++)
        free(d->broken[i]);
    ac_caption_free(&d->caption);
    ac_rules_free(&d->values);
    ac_rules_free(&d->filter);
    ac_rules_free(&d->subsample);
    ac_data_list_free(&d->val);
    ac_data_list_free(&d->exclude);
    ac_str_free(&d->text);
    free(d->root.p);
    free(d->item.p);
    free(d->seen);
    free(d->member[0]);
    free(d->member[1]);
    free(d->group);
    free(d->slot);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

size_t ac_data_count(const ac_data *d, ac_split split)
{
    return d->n_member[split];
}

size_t ac_data_epoch_size(const ac_data *d, ac_split split)
{
    return d->n_epoch[split];
}

const uint32_t *ac_data_members(const ac_data *d, ac_split split)
{
    return d->member[split];
}

int ac_data_resolution(const ac_data *d)
{
    return d->opts.resolution;
}

const char *ac_data_name(const ac_data *d, uint32_t index)
{
    return d->text.p + d->item.p[index].name;
}
