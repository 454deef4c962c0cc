/* file.c - whole files: atomic writing, capped reading, paths. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct ac_file {
    char *target;
    char *temp; /* NULL: the target is written directly */
    int fd;
};

int ac_io_fail(ac_diag *dg, const char *what, const char *path)
{
    return ac_fail(dg, ADDCL_E_IO, "cannot %s '%s': %s", what, path, strerror(errno));
}

/* The final close: it may report a write that failed late. */
static int close_file(ac_file *f)
{
    int r = close(f->fd);
    f->fd = -1;
    return r;
}

static void free_file(ac_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->temp)
        unlink(f->temp);
    free(f->temp);
    free(f->target);
    free(f);
}

/* Creates "<target>.tmp-<pid>-<number>". mkstemp is not used: its files are private, these follow the umask. */
static int open_temp(ac_file *f, ac_diag *dg)
{
    for (int i = 0; i < 1000; i++) {
        char *temp = ac_printf("%s.tmp-%ld-%d", f->target, (long)getpid(), i);
        if (!temp)
            return ac_nomem(dg, strlen(f->target) + 32);
        f->fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd >= 0) {
            f->temp = temp;
            return 0;
        }
        free(temp);
        if (errno != EEXIST)
            break;
    }
    return ac_io_fail(dg, "create a temporary file beside", f->target);
}

static int open_target(ac_file *f, ac_diag *dg)
{
    struct stat st;
    bool there = stat(f->target, &st) == 0;
    int rc;

    if (there && S_ISDIR(st.st_mode))
        return ac_fail(dg, ADDCL_E_IO, "cannot write '%s': it is a folder", f->target);
    if (there && !S_ISREG(st.st_mode)) {
        f->fd = open(f->target, O_WRONLY | O_CLOEXEC);
        return f->fd < 0 ? ac_io_fail(dg, "open", f->target) : 0;
    }
    rc = open_temp(f, dg);
    if (rc == 0 && there && fchmod(f->fd, st.st_mode & 0777) != 0)
        rc = ac_io_fail(dg, "keep the permissions of", f->target);
    return rc;
}

int ac_file_begin(const char *path, ac_diag *dg, ac_file **out)
{
    ac_file *f = ac_calloc(1, sizeof *f);
    char *real = realpath(path, NULL); /* NULL: a new file */
    int rc = ADDCL_E_NOMEM;

    *out = NULL;
    if (f) {
        f->fd = -1;
        f->target = ac_strdup(real ? real : path);
    }
    free(real);
    if (!f || !f->target)
        ac_nomem(dg, strlen(path) + 1);
    else
        rc = open_target(f, dg);
    if (rc == 0)
        *out = f;
    else if (f)
        free_file(f);
    return rc;
}

int ac_file_write(ac_file *f, const void *data, size_t n, ac_diag *dg)
{
    const char *p = data;

    while (n > 0) {
        ssize_t w = write(f->fd, p, AC_MIN(n, (size_t)1 << 30));
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return ac_io_fail(dg, "write", f->target);
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

/* Makes a rename in the folder of `path` durable. Some file systems know no fsync of folders (EINVAL). */
static int sync_folder(char *path)
{
    char *slash = strrchr(path, '/');
    int fd, r = -1;

    if (slash)
        *slash = '\0';
    fd = open(!slash ? "." : slash == path ? "/" : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (slash)
        *slash = '/';
    if (fd < 0)
        return -1;
    if (fsync(fd) == 0 || errno == EINVAL)
        r = 0;
    close(fd);
    return r;
}

int ac_file_commit(ac_file *f, ac_diag *dg)
{
    int rc = 0;

    if (f->temp && fsync(f->fd) != 0)
        rc = ac_io_fail(dg, "write", f->target);
    if (close_file(f) != 0 && rc == 0)
        rc = ac_io_fail(dg, "write", f->target);
    if (rc == 0 && f->temp) {
        if (rename(f->temp, f->target) != 0) {
            rc = ac_io_fail(dg, "rename the temporary file to", f->target);
        } else {
            free(f->temp);
            f->temp = NULL;
            if (sync_folder(f->target) != 0)
                rc = ac_io_fail(dg, "sync the folder of", f->target);
        }
    }
    free_file(f);
    return rc;
}

void ac_file_abort(ac_file *f)
{
    if (f)
        free_file(f);
}

int ac_file_save(const char *path, const void *data, size_t n, ac_diag *dg)
{
    ac_file *f;
    int rc = ac_file_begin(path, dg, &f);

    if (rc < 0)
        return rc;
    rc = ac_file_write(f, data, n, dg);
    if (rc == 0)
        return ac_file_commit(f, dg);
    ac_file_abort(f);
    return rc;
}

/* Reads to the end or to max + 1 bytes, whichever comes first. The size of the file is only a hint: pipes have none. */
static int read_all(int fd, const char *path, size_t hint, size_t max, ac_diag *dg, ac_str *s)
{
    for (;;) {
        size_t want = AC_MAX(s->n, hint) + 2;
        ssize_t r;

        if (want > s->cap && !ac_grow((void **)&s->p, &s->cap, want, 1))
            return ac_nomem(dg, want);
        r = read(fd, s->p + s->n, s->cap - s->n - 1);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return ac_io_fail(dg, "read", path);
        s->n += (size_t)r;
        s->p[s->n] = '\0';
        if (s->n > max)
            return ac_fail(dg, ADDCL_E_FORMAT, "'%s' is too large: more than %zu bytes", path, max);
        if (r == 0)
            return 0;
    }
}

int ac_file_read(const char *path, size_t max, ac_diag *dg, char **data, size_t *n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;
    ac_str s = {0};
    struct stat st;

    *data = NULL;
    *n = 0;
    if (fd < 0)
        return ac_io_fail(dg, "open", path);
    if (fstat(fd, &st) != 0)
        rc = ac_io_fail(dg, "read", path);
    else if (st.st_size > 0 && (uintmax_t)st.st_size > max)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "'%s' is too large: %jd bytes, at most %zu are read", path,
                     (intmax_t)st.st_size, max);
    else
        rc = read_all(fd, path, AC_MAX((size_t)st.st_size, (size_t)4096), max, dg, &s);
    close(fd);
    if (rc < 0) {
        ac_str_free(&s);
        return rc;
    }
    *data = s.p;
    *n = s.n;
    return 0;
}

bool ac_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool ac_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *ac_path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);

    return ac_printf("%s%s%s", dir, n > 0 && dir[n - 1] != '/' ? "/" : "", name);
}

size_t ac_path_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

int ac_file_save_text(const char *dir, const char *name, const char *text, ac_diag *dg)
{
    char *path = ac_path_join(dir, name);
    int rc = path ? ac_file_save(path, text, strlen(text), dg) : ac_nomem(dg, strlen(dir));

    free(path);
    return rc;
}

int ac_lines_add(ac_lines *v, const char *line, size_t n, ac_diag *dg)
{
    char *copy = ac_strndup(line, n);

    if (copy && AC_PUSH(v, copy))
        return 0;
    free(copy);
    return ac_nomem(dg, n + 1);
}

void ac_lines_free(ac_lines *v)
{
    while (v->n)
        free(v->p[--v->n]);
    free(v->p);
    *v = (ac_lines){0};
}

int ac_prompts_read(const char *path, ac_diag *dg, ac_lines *out)
{
    enum { MOST = 64 << 20 };
    char *text = NULL;
    size_t n;
    int rc;

    AC_TRY(ac_file_read(path, MOST, dg, &text, &n));
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if ((n = strcspn(line, "\r\n")))
            AC_TRY(ac_lines_add(out, line, n, dg));
    if (!out->n)
        rc = ac_fail(dg, ADDCL_E_ARG, "%s holds no prompts", path);
out:
    free(text);
    return rc;
}
