/* folder.c - folders that appear and disappear whole. */
#include "io/folder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"

/* Hidden names are ".<name>.<kind>-<pid>". */
#define TMP   "tmp"   /* being written */
#define OLD   "old"   /* about to be replaced by a finished .tmp */
#define TRASH "trash" /* being removed */

struct ac_folder {
    char *path, *temp, *old, *parent;
};

int ac_folder_make(const char *path, ac_diag *dg)
{
    char *p = ac_strdup(path);
    int rc = 0;

    if (!p)
        return ac_nomem(dg, strlen(path) + 1);
    for (char *s = p + 1; rc == 0 && *p; s++) {
        char end = *s;
        if (end != '/' && end != '\0')
            continue;
        *s = '\0';
        if (mkdir(p, 0777) != 0 && !(errno == EEXIST && ac_is_dir(p)))
            rc = ac_io_fail(dg, "make the folder", p);
        *s = end;
        if (end == '\0')
            break;
    }
    free(p);
    return rc;
}

int ac_folder_sync(const char *path, ac_diag *dg)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return ac_io_fail(dg, "open the folder", path);
    if (fsync(fd) != 0 && errno != EINVAL) /* EINVAL: the file system knows no fsync of folders */
        rc = ac_io_fail(dg, "sync the folder", path);
    close(fd);
    return rc;
}

/* --------------------------------------------------------------------------------------------------------- names */

static char *parent_of(const char *path)
{
    size_t n = ac_path_folder(path);
    return n ? ac_strndup(path, n) : ac_strdup(".");
}

static char *hidden_name(const char *path, const char *kind)
{
    size_t n = ac_path_folder(path);
    return ac_printf("%.*s.%s.%s-%ld", (int)n, path, path + n, kind, (long)getpid());
}

/* Is it "-<digits>", to the end? */
static bool is_number(const char *s)
{
    return s[0] == '-' && isdigit((unsigned char)s[1]) && s[1 + strspn(s + 1, "0123456789")] == '\0';
}

/* The name that a hidden one of this kind stands for, in new memory; NULL when it is none. */
static char *plain_name(const char *hidden, const char *kind)
{
    const char *dot = strrchr(hidden, '.');
    size_t n = strlen(kind);

    if (hidden[0] != '.' || dot < hidden + 2 || strncmp(dot + 1, kind, n) != 0 || !is_number(dot + 1 + n))
        return NULL;
    return ac_strndup(hidden + 1, (size_t)(dot - hidden) - 1);
}

/* ------------------------------------------------------------------------------------------------------- removing */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* What cannot be removed now has a hidden name and goes at the next recovery. */
static void remove_tree(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int ac_folder_remove(const char *path, ac_diag *dg)
{
    char *trash = hidden_name(path, TRASH);
    int rc = 0;

    if (!trash)
        return ac_nomem(dg, strlen(path) + 32);
    remove_tree(trash);
    if (rename(path, trash) != 0)
        rc = ac_io_fail(dg, "remove the folder", path);
    else
        remove_tree(trash);
    free(trash);
    return rc;
}

/* -------------------------------------------------------------------------------------------------------- writing */

static void free_folder(ac_folder *f)
{
    free(f->path);
    free(f->temp);
    free(f->old);
    free(f->parent);
    free(f);
}

int ac_folder_begin(const char *path, ac_diag *dg, ac_folder **out)
{
    ac_folder *f = ac_calloc(1, sizeof *f);
    int rc = 0;

    *out = NULL;
    if (!f)
        return ac_nomem(dg, sizeof *f);
    *f = (ac_folder){ac_strdup(path), hidden_name(path, TMP), hidden_name(path, OLD), parent_of(path)};
    if (!f->path || !f->temp || !f->old || !f->parent) {
        rc = ac_nomem(dg, strlen(path) + 32);
    } else {
        remove_tree(f->temp);
        if (mkdir(f->temp, 0777) != 0)
            rc = ac_io_fail(dg, "make the folder", f->temp);
    }
    if (rc < 0)
        free_folder(f);
    else
        *out = f;
    return rc;
}

const char *ac_folder_temp(const ac_folder *f)
{
    return f->temp;
}

/* The rename, with the folder that stands in its way put aside. On failure that one is back in its place. */
static int take_place(const ac_folder *f, ac_diag *dg)
{
    bool replace = ac_exists(f->path);

    if (replace) {
        remove_tree(f->old);
        if (rename(f->path, f->old) != 0)
            return ac_io_fail(dg, "replace the folder", f->path);
    }
    if (rename(f->temp, f->path) != 0) {
        int rc = ac_io_fail(dg, "rename the finished folder to", f->path);
        if (replace)
            (void)rename(f->old, f->path); /* else recovery does it */
        return rc;
    }
    return 0;
}

int ac_folder_commit(ac_folder *f, ac_diag *dg)
{
    int rc;

    AC_TRY(ac_folder_sync(f->temp, dg));
    AC_TRY(take_place(f, dg));
    AC_TRY(ac_folder_sync(f->parent, dg));
    remove_tree(f->old); /* not before the new one is there for good */
out:
    if (rc < 0)
        remove_tree(f->temp);
    free_folder(f);
    return rc;
}

void ac_folder_abort(ac_folder *f)
{
    if (!f)
        return;
    remove_tree(f->temp);
    free_folder(f);
}

/* ------------------------------------------------------------------------------------------------------- recovery */

/* Is it a temporary file of ac_file: "<name>.tmp-<pid>-<number>"? */
static bool is_temp_file(const char *name)
{
    const char *dot = strrchr(name, '.');
    const char *number = dot ? strrchr(dot, '-') : NULL;

    return number && strncmp(dot, ".tmp-", 5) == 0 && number > dot + 5 &&
           strspn(dot + 5, "0123456789") == (size_t)(number - dot - 5) && is_number(number);
}

/* A folder that was put aside: its name is free when the process was killed before the new one took it. */
static int give_back(const char *path, const char *parent, const char *name, ac_diag *dg)
{
    char *plain = ac_path_join(parent, name);
    int rc = 0;

    if (!plain)
        rc = ac_nomem(dg, strlen(parent) + strlen(name) + 2);
    else if (ac_exists(plain))
        remove_tree(path);
    else if (rename(path, plain) != 0)
        rc = ac_io_fail(dg, "give its name back to", path);
    free(plain);
    return rc;
}

static int recover_one(const char *parent, const char *name, ac_diag *dg)
{
    char *tmp = plain_name(name, TMP), *old = plain_name(name, OLD), *trash = plain_name(name, TRASH);
    char *path = NULL;
    int rc = 0;

    if (!tmp && !old && !trash && !is_temp_file(name))
        return 0;
    if (!(path = ac_path_join(parent, name)))
        rc = ac_nomem(dg, strlen(parent) + strlen(name) + 2);
    else if (old)
        rc = give_back(path, parent, old, dg);
    else
        remove_tree(path);
    free(path);
    free(tmp);
    free(old);
    free(trash);
    return rc;
}

int ac_folder_recover(const char *parent, ac_diag *dg)
{
    DIR *d = opendir(parent);
    struct dirent *e;
    int rc = 0;

    if (!d)
        return ac_io_fail(dg, "open the folder", parent);
    while (rc == 0 && (e = readdir(d)))
        rc = recover_one(parent, e->d_name, dg);
    closedir(d);
    return rc;
}
