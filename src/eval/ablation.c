/* ablation.c - see ablation.h. */
#include "eval/ablation.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/guess.h"
#include "io/ini.h"

typedef enum kind { PATH, TEXT, NUMBER, REAL, NUMBERS } kind;

static const struct {
    const char *name;
    kind kind;
    size_t at;
    double min;
} keys[] = {
#define KEY(kind_, name_, min_) {#name_, kind_, offsetof(ac_ablation, name_), min_}
    KEY(PATH, base, 0),      KEY(PATH, output_dir, 0), KEY(NUMBERS, seeds, 0),       KEY(PATH, prompts_file, 0),   KEY(NUMBER, images, 2),
    KEY(NUMBER, steps, 0),   KEY(REAL, guidance, -1),  KEY(TEXT, sampler, 0),        KEY(NUMBER, image_seed, 0),   KEY(NUMBER, batch_size, 1),
    KEY(PATH, reference, 0), KEY(PATH, features, 0),   KEY(PATH, clip, 0),           KEY(TEXT, caption, 0),        KEY(TEXT, caption_values, 0),
    KEY(TEXT, filter, 0),
#undef KEY
};

static bool read_number(const char *text, double min, int64_t *n)
{
    char *end;

    errno = 0;
    *n = strtoll(text, &end, 10);
    return !errno && end != text && !end[strspn(end, " \t")] && (double)*n >= min;
}

static int read_numbers(const char *text, ac_ablation *a, ac_diag *dg, bool *good)
{
    char *list = ac_strdup(text), *save = NULL;

    if (!list)
        return ac_nomem(dg, strlen(text));
    *good = true;
    for (char *one = strtok_r(list, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
        int64_t n;
        *good &= read_number(one, 0, &n);
        if (*good && !AC_PUSH(&a->seeds, n)) {
            free(list);
            return ac_nomem(dg, sizeof n);
        }
    }
    *good &= a->seeds.n > 0;
    free(list);
    return 0;
}

/* One override of all rows. */
static int take_setting(ac_ablation *a, const char *path, const ac_ini_entry *e, ac_diag *dg)
{
    char *one = ac_printf("%s=%s", e->key, e->value);

    if (!one || !AC_PUSH(&a->settings, one)) {
        free(one);
        return ac_nomem(dg, strlen(e->key) + strlen(e->value));
    }
    return strchr(e->key, '.') ? 0 : ac_fail(dg, ADDCL_E_ARG, "%s:%d: [settings] %s: expected section.key, such as run.max_train_steps", path, e->line, e->key);
}

/* Overrides between '&'. */
static int take_sets(ac_lines *sets, const char *path, const ac_ini_entry *e, ac_diag *dg)
{
    for (const char *p = e->value; *p;) {
        size_t n = strcspn(p, "&"), len = n;
        char *one;
        while (len && strchr(" \t", p[len - 1]))
            len--;
        one = ac_strndup(p, len);
        if (!one || !AC_PUSH(sets, one)) {
            free(one);
            return ac_nomem(dg, len + 1);
        }
        if (!strchr(one, '.') || !strchr(one, '='))
            return ac_fail(dg, ADDCL_E_ARG, "%s:%d: '%s': expected section.key=value, with & between several", path, e->line, one);
        p += n + (p[n] == '&');
        p += strspn(p, " \t");
    }
    return 0;
}

static int take_key(ac_ablation *a, const char *path, const ac_ini_entry *e, ac_diag *dg)
{
    ac_guess g = ac_guess_for(e->key);
    size_t i = 0;
    void *field;
    bool good = true;
    char *end;
    int rc = 0;

    for (; i < AC_LEN(keys) && strcmp(keys[i].name, e->key) != 0; i++)
        ac_guess_try(&g, keys[i].name, strlen(keys[i].name));
    if (i == AC_LEN(keys))
        return ac_fail(dg, ADDCL_E_ARG, "%s:%d: [ablation] %s: unknown key%s%.*s%s", path, e->line, e->key,
                       g.found ? "; did you mean '" : "", g.found ? g.n : 0, g.found ? g.found : "", g.found ? "'?" : "");
    field = (char *)a + keys[i].at;
    switch (keys[i].kind) {
    case PATH:
        *(char **)field = *e->value == '/' ? ac_strdup(e->value) : ac_printf("%.*s%s", (int)ac_path_folder(path), path, e->value);
        if (!*(char **)field)
            rc = ac_nomem(dg, strlen(e->value));
        break;
    case TEXT:
        if (!(*(char **)field = ac_strdup(e->value)))
            rc = ac_nomem(dg, strlen(e->value));
        break;
    case NUMBER:
        good = read_number(e->value, keys[i].min, field);
        break;
    case REAL:
        *(double *)field = strtod(e->value, &end);
        good = end != e->value && !*end;
        break;
    case NUMBERS:
        rc = read_numbers(e->value, a, dg, &good);
        break;
    }
    return good ? rc : ac_fail(dg, ADDCL_E_ARG, "%s:%d: [ablation] %s = %s: expected %s", path, e->line, e->key, e->value,
                               keys[i].kind == NUMBERS ? "whole numbers, with commas between" : "a number");
}

/* Letters and digits of a text, in lower case, with a dash for what is between; owned by the caller. */
static char *slug(const char *text)
{
    char *s = ac_strdup(text), *to = s;

    for (const char *p = text; s && *p; p++)
        if (isalnum((unsigned char)*p))
            *to++ = (char)tolower((unsigned char)*p);
        else if (to > s && to[-1] != '-')
            *to++ = '-';
    while (s && to > s && to[-1] == '-')
        to--;
    if (s)
        *to = '\0';
    return s;
}

static bool same_sets(const ac_lines *a, const ac_lines *b)
{
    bool same = a->n == b->n;

    for (size_t i = 0; i < a->n && same; i++)
        same = !strcmp(a->p[i], b->p[i]);
    return same;
}

/* A row that sets what an earlier one does is that one: it is trained once. */
static int share_folder(const ac_ablation *a, ac_ablation_row *row, ac_diag *dg)
{
    for (const ac_ablation_row *r = a->rows.p; r < row; r++)
        if (same_sets(&r->sets, &row->sets)) {
            free(row->folder);
            row->folder = ac_strdup(r->folder);
            return row->folder ? 0 : ac_nomem(dg, strlen(r->folder));
        }
    return 0;
}

static int take_row(ac_ablation *a, const char *path, const ac_ini_entry *e, ac_diag *dg)
{
    ac_ablation_row row = {.table = ac_strdup(e->section), .name = ac_strdup(e->key)}, *last;
    char *table = slug(e->section), *name = slug(e->key);
    int rc;

    row.folder = table && name ? ac_printf("%s/%s", table, name) : NULL;
    free(table);
    free(name);
    if (!AC_PUSH(&a->rows, row)) {
        free(row.table);
        free(row.name);
        free(row.folder);
        return ac_nomem(dg, sizeof row);
    }
    last = &a->rows.p[a->rows.n - 1];
    if (!last->table || !last->name || !last->folder)
        return ac_nomem(dg, strlen(e->section) + strlen(e->key));
    rc = take_sets(&last->sets, path, e, dg);
    for (size_t i = 0; i + 1 < a->rows.n && rc == 0; i++)
        if (!strcmp(a->rows.p[i].folder, last->folder))
            rc = ac_fail(dg, ADDCL_E_ARG, "%s:%d: [%s] %s: its folder %s is that of '%s', too", path, e->line, e->section, e->key, last->folder,
                         a->rows.p[i].name);
    return rc ? rc : share_folder(a, last, dg);
}

static int check(const ac_ablation *a, const char *path, ac_diag *dg)
{
    const struct {
        const char *name, *value;
    } needed[] = {{"base", a->base}, {"output_dir", a->output_dir}, {"prompts_file", a->prompts_file}, {"reference", a->reference}};

    for (size_t i = 0; i < AC_LEN(needed); i++)
        if (!needed[i].value)
            return ac_fail(dg, ADDCL_E_ARG, "%s: [ablation] %s is missing", path, needed[i].name);
    if (!a->features && !a->clip)
        return ac_fail(dg, ADDCL_E_ARG, "%s: [ablation] features or clip is missing: there is nothing to measure by", path);
    return a->rows.n ? 0 : ac_fail(dg, ADDCL_E_ARG, "%s: there is no table: a section with rows, such as '[losses]' with 'SDS = distillation.weighting=sds'", path);
}

int ac_ablation_read(const char *path, ac_diag *dg, ac_ablation *a)
{
    ac_ini *ini = NULL;
    int rc;

    *a = (ac_ablation){.images = 256, .batch_size = 16, .guidance = -1};
    AC_TRY(ac_ini_read(path, dg, &ini));
    for (size_t i = 0; i < ini->entry.n; i++) {
        const ac_ini_entry *e = &ini->entry.p[i];
        if (*e->key)
            AC_TRY(!strcmp(e->section, "ablation")   ? take_key(a, path, e, dg)
                   : !strcmp(e->section, "settings") ? take_setting(a, path, e, dg)
                                                     : take_row(a, path, e, dg));
    }
    if (!a->seeds.n && !AC_PUSH(&a->seeds, 0))
        AC_TRY(ac_nomem(dg, sizeof *a->seeds.p));
    rc = check(a, path, dg);
out:
    ac_ini_free(ini);
    return rc;
}

void ac_ablation_free(ac_ablation *a)
{
    for (size_t i = 0; i < AC_LEN(keys); i++)
        if (keys[i].kind == PATH || keys[i].kind == TEXT)
            free(*(char **)((char *)a + keys[i].at));
    for (size_t i = 0; i < a->rows.n; i++) {
        ac_ablation_row *r = &a->rows.p[i];
        free(r->table);
        free(r->name);
        free(r->folder);
        ac_lines_free(&r->sets);
    }
    free(a->rows.p);
    ac_lines_free(&a->settings);
    free(a->seeds.p);
    *a = (ac_ablation){0};
}
