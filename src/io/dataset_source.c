/* dataset_source.c - where samples come from: what a path is, folders with metadata.jsonl, folders with side-cars. */
#include "io/dataset_file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "base/file.h"
#include "io/json.h"

#define METADATA_MAX ((size_t)1 << 30) /* bytes of metadata.jsonl */
#define DEPTH_MAX    32                /* folders in folders */
#define SHARDS_MAX   1000000           /* of one "{000..999}" list */

bool ac_data_is_picture(const char *extension)
{
    static const char *const known[] = {"png", "jpg", "jpeg", "webp"};

    for (size_t i = 0; i < AC_LEN(known); i++)
        if (strcasecmp(extension, known[i]) == 0)
            return true;
    return false;
}

/* ------------------------------------------------------------------------------------------------- imagefolder */

/* A relative path that does not climb out of its folder. */
static bool is_inside(const char *path)
{
    if (*path == '/' || *path == '\0')
        return false;
    for (const char *p = path; p; p = strchr(p, '/'), p = p ? p + 1 : NULL)
        if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == '\0'))
            return false;
    return true;
}

static int add_line(ac_data *d, const char *path, size_t line, char *text, size_t n, ac_diag *dg)
{
    json_error_t e;
    json_t *fields = ac_json_parse(text, n, &e);
    const char *name = json_string_value(json_object_get(fields, "file_name"));
    int rc;

    if (!fields && json_error_code(&e) == json_error_out_of_memory)
        rc = ac_nomem(dg, n);
    else if (!fields)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s:%zu:%d: %s", path, line, e.column, e.text);
    else if (!name)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s:%zu: no \"file_name\"", path, line);
    else if (!is_inside(name))
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s:%zu: file_name '%.200s' is no path within the folder", path, line, name);
    else {
        char *copy = ac_strdup(name); /* ac_data_add replaces the field */
        rc = copy ? ac_data_add(d, copy, 0, 0, fields, dg) : ac_nomem(dg, strlen(name) + 1);
        free(copy);
    }
    json_decref(fields);
    return rc;
}

static int add_metadata(ac_data *d, const char *path, ac_diag *dg)
{
    size_t n, line = 1;
    char *text, *end;
    int rc = ac_file_read(path, METADATA_MAX, dg, &text, &n);

    for (char *p = text; rc == 0 && p < text + n; p = end + 1, line++) {
        if (!(end = memchr(p, '\n', (size_t)(text + n - p))))
            end = text + n;
        if (strspn(p, " \t\r") < (size_t)(end - p))
            rc = add_line(d, path, line, p, (size_t)(end - p), dg);
    }
    free(text);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------- kohya */

/* What a folder and those below it hold; paths are relative to it, in the order of strcmp within each folder. */
typedef AC_VEC(char *) names;
typedef struct listing {
    const char *root;
    names picture;
    names shard; /* only of the folder itself */
} listing;

static void names_free(names *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->p[i]);
    free(v->p);
}

static int add_name(names *v, const char *name, ac_diag *dg)
{
    char *copy = ac_strdup(name);

    if (copy && AC_PUSH(v, copy))
        return 0;
    free(copy);
    return ac_nomem(dg, strlen(name) + 1);
}

/* Hidden files are of programs, not of people: .ipynb_checkpoints, ._picture.jpg. */
static int is_visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int walk(listing *l, const char *folder, int depth, ac_diag *dg);

/* Lists one entry, `rel`. Links to files are followed, links to folders are not: they may lead in circles. */
static int add_entry(listing *l, const char *rel, int depth, ac_diag *dg)
{
    char *path = ac_path_join(l->root, rel);
    const char *dot = strrchr(rel, '.');
    struct stat link, target;
    names *to = NULL;
    int rc = 0;

    if (!path)
        return ac_nomem(dg, strlen(rel));
    if (lstat(path, &link) != 0 || stat(path, &target) != 0)
        goto out; /* it went away, or is a link to nothing */
    if (S_ISDIR(link.st_mode) && depth < DEPTH_MAX)
        rc = walk(l, rel, depth + 1, dg);
    else if (S_ISREG(target.st_mode) && dot && ac_data_is_picture(dot + 1))
        to = &l->picture;
    else if (S_ISREG(target.st_mode) && dot && depth == 0 && strcasecmp(dot, ".tar") == 0)
        to = &l->shard;
    if (to)
        rc = add_name(to, rel, dg);
out:
    free(path);
    return rc;
}

static int walk(listing *l, const char *folder, int depth, ac_diag *dg)
{
    char *path = ac_path_join(l->root, folder);
    struct dirent **entry = NULL;
    int n = path ? scandir(path, &entry, is_visible, by_name) : 0, rc = 0;

    if (!path)
        rc = ac_nomem(dg, strlen(folder));
    else if (n < 0)
        rc = ac_fail(dg, ADDCL_E_IO, "cannot list '%s': %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        char *rel = rc == 0 ? ac_path_join(folder, entry[i]->d_name) : NULL;
        if (rel)
            rc = add_entry(l, rel, depth, dg);
        else if (rc == 0)
            rc = ac_nomem(dg, strlen(entry[i]->d_name));
        free(rel);
        free(entry[i]);
    }
    free(entry);
    free(path);
    return rc;
}

/* The caption beside the picture `path`, in new memory; NULL when there is none. */
static int read_sidecar(const char *path, ac_diag *dg, char **text)
{
    static const char *const extension[] = {".txt", ".caption"};
    int stem = (int)(strrchr(path, '.') - path), rc = 0;

    *text = NULL;
    for (size_t i = 0; i < AC_LEN(extension) && !*text && rc == 0; i++) {
        char *side = ac_printf("%.*s%s", stem, path, extension[i]);
        size_t n;
        if (!side)
            rc = ac_nomem(dg, strlen(path));
        else if (ac_exists(side))
            rc = ac_file_read(side, AC_DATA_TEXT_MAX, dg, text, &n);
        free(side);
    }
    return rc;
}

static int add_picture(ac_data *d, const char *root, const char *rel, ac_diag *dg)
{
    json_t *fields = json_object();
    char *path = ac_path_join(root, rel), *text = NULL;
    int rc = 0;

    if (!path || !fields)
        AC_TRY(ac_nomem(dg, strlen(rel)));
    AC_TRY(read_sidecar(path, dg, &text));
    if (text && json_object_set_new_nocheck(fields, "text", json_string_nocheck(text)) != 0)
        AC_TRY(ac_nomem(dg, strlen(text)));
    rc = ac_data_add(d, rel, 0, 0, fields, dg);
out:
    free(text);
    free(path);
    json_decref(fields);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------- paths */

static int add_listing(ac_data *d, const listing *l, ac_diag *dg)
{
    int rc = 0;

    if (l->picture.n == 0 && l->shard.n == 0)
        return ac_fail(
            dg, ADDCL_E_FORMAT,
            "'%s' is no data set: looked for metadata.jsonl, for pictures (.png .jpg .jpeg .webp) in it and its "
            "folders, and for .tar shards",
            l->root);
    if (l->picture.n > 0)
        AC_TRY(ac_data_add_root(d, l->root, false, dg));
    for (size_t i = 0; i < l->picture.n; i++)
        AC_TRY(add_picture(d, l->root, l->picture.p[i], dg));
    for (size_t i = 0; i < l->shard.n && l->picture.n == 0; i++) {
        char *path = ac_path_join(l->root, l->shard.p[i]);
        rc = path ? ac_data_add_shard(d, path, dg) : ac_nomem(dg, strlen(l->root));
        free(path);
        AC_TRY(rc);
    }
out:
    return rc;
}

static int add_folder(ac_data *d, const char *path, ac_diag *dg)
{
    char *metadata = ac_path_join(path, "metadata.jsonl");
    listing l = {.root = path};
    int rc;

    if (!metadata)
        return ac_nomem(dg, strlen(path));
    if (ac_exists(metadata)) {
        AC_TRY(ac_data_add_root(d, path, false, dg));
        rc = add_metadata(d, metadata, dg);
    } else {
        AC_TRY(walk(&l, "", 0, dg));
        rc = add_listing(d, &l, dg);
    }
out:
    names_free(&l.picture);
    names_free(&l.shard);
    free(metadata);
    return rc;
}

/* All shards of "a-{first..last}b": numbers as wide as `first` is written. b may hold further braces. */
static int add_range(ac_data *d, const char *path, ac_diag *dg)
{
    const char *open = strchr(path, '{');
    unsigned long first, last;
    int digits, end = 0, rc = 0;

    if (!open)
        return ac_data_add_shard(d, path, dg);
    if (sscanf(open, "{%lu..%lu}%n", &first, &last, &end) < 2 || end == 0 || first > last || last > UINT32_MAX ||
        last - first >= SHARDS_MAX)
        return ac_fail(dg, ADDCL_E_ARG, "'%s': expected a list like {000..012} of at most %d shards", path, SHARDS_MAX);
    digits = (int)strcspn(open, ".") - 1;
    for (unsigned long i = first; i <= last && rc == 0; i++) {
        char *one = ac_printf("%.*s%0*lu%s", (int)(open - path), path, digits, i, open + end);
        rc = one ? add_range(d, one, dg) : ac_nomem(dg, strlen(path));
        free(one);
    }
    return rc;
}

int ac_data_add_source(ac_data *d, const char *path, ac_diag *dg)
{
    const char *dot = strrchr(path, '.');

    if (ac_is_dir(path))
        return add_folder(d, path, dg);
    if (dot && strcasecmp(dot, ".tar") == 0)
        return add_range(d, path, dg);
    if (!ac_exists(path))
        return ac_fail(dg, ADDCL_E_IO, "cannot open '%s': %s", path, strerror(errno));
    return ac_fail(dg, ADDCL_E_FORMAT, "'%s' is neither a folder nor a .tar shard", path);
}
