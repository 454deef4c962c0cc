/* runlog.c - log.csv, events.jsonl, and what goes to TensorBoard. */
#include "io/runlog.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/file.h"
#include "io/tfevents.h"

#define LOG_MAX     ((size_t)1 << 30) /* bytes of a log that is read */
#define PICTURE_MAX ((size_t)1 << 28)

/* A file that only grows, by whole lines. */
typedef struct line_file {
    char *path;
    int fd;
    off_t size; /* up to the end of the last line */
} line_file;

struct ac_runlog {
    line_file csv, events;
    char **column;   /* the names given at opening */
    size_t n, extra; /* their number, and of those that only earlier rows have */
    ac_tfevents *tb;
};

/* --------------------------------------------------------------------------------------------------- files of lines */

static int line_fail(const line_file *f, const char *what, ac_diag *dg)
{
    return ac_fail(dg, ADDCL_E_IO, "cannot %s '%s': %s", what, f->path, strerror(errno));
}

/* Where the last line ends: a killed process may have left a part of the next. */
static int find_end(line_file *f, ac_diag *dg)
{
    struct stat st;
    char c;

    if (fstat(f->fd, &st) != 0)
        return line_fail(f, "read", dg);
    for (f->size = st.st_size; f->size > 0; f->size--) {
        if (pread(f->fd, &c, 1, f->size - 1) != 1)
            return line_fail(f, "read", dg);
        if (c == '\n')
            break;
    }
    return f->size < st.st_size && ftruncate(f->fd, f->size) != 0 ? line_fail(f, "repair", dg) : 0;
}

static int line_open(line_file *f, const ac_rundir *run, const char *name, bool anew, ac_diag *dg)
{
    f->path = ac_path_join(ac_rundir_path(run), name);
    if (!f->path)
        return ac_nomem(dg, strlen(ac_rundir_path(run)) + strlen(name) + 2);
    f->fd = open(f->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | (anew ? O_TRUNC : 0), 0666);
    return f->fd < 0 ? line_fail(f, "open", dg) : find_end(f, dg);
}

/* Adds a line, which ends with '\n'; one that does not fit leaves no part of itself behind. */
static int line_add(line_file *f, const ac_str *line, ac_diag *dg)
{
    size_t done = 0;

    if (line->failed)
        return ac_nomem(dg, line->n);
    while (done < line->n) {
        ssize_t n = write(f->fd, line->p + done, line->n - done);
        if (n < 0 && errno != EINTR) {
            int rc = line_fail(f, "write", dg);
            (void)!ftruncate(f->fd, f->size); /* else the next opening does it */
            return rc;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    f->size += (off_t)line->n;
    return 0;
}

static int line_sync(const line_file *f, ac_diag *dg)
{
    return fsync(f->fd) == 0 ? 0 : line_fail(f, "sync", dg);
}

static void line_close(line_file *f)
{
    if (f->fd >= 0) {
        (void)fsync(f->fd);
        close(f->fd);
    }
    free(f->path);
}

/* ---------------------------------------------------------------------------------------------------------- tables */

/* The next field of a line, without its end; *s moves behind it, to NULL after the last. */
static char *next_field(char **s)
{
    char *field = *s, *comma = field + strcspn(field, ",");

    *s = *comma ? comma + 1 : NULL;
    *comma = '\0';
    return field;
}

static size_t count_fields(const char *line)
{
    size_t n = 1;

    for (; *line; line++)
        n += *line == ',';
    return n;
}

static int read_head(char *line, ac_diag *dg, ac_table *t)
{
    t->columns = count_fields(line);
    t->column = ac_calloc(t->columns, sizeof *t->column);
    for (size_t i = 0; t->column && i < t->columns; i++)
        if (!(t->column[i] = ac_strdup(next_field(&line))))
            break;
    return t->column && t->column[t->columns - 1] ? 0 : ac_nomem(dg, t->columns * sizeof *t->column);
}

/* One line to t->columns numbers. */
static int read_row(char *line, const char *path, size_t number, ac_diag *dg, const ac_table *t, double *value)
{
    size_t n = count_fields(line);

    if (n != t->columns)
        return ac_fail(dg, ADDCL_E_FORMAT, "%s:%zu: %zu fields, expected %zu", path, number, n, t->columns);
    for (size_t i = 0; i < t->columns; i++) {
        char *field = next_field(&line), *end;
        value[i] = *field ? strtod(field, &end) : (double)NAN;
        if (*field && *end)
            return ac_fail(dg, ADDCL_E_FORMAT, "%s:%zu: '%.40s' is no number", path, number, field);
    }
    return 0;
}

/* All whole lines of the text, in place. */
static int read_lines(char *text, const char *path, ac_diag *dg, ac_table *t)
{
    AC_VEC(double) v = {0};
    char *end;
    int rc = 0;

    for (size_t number = 1; rc == 0 && (end = strchr(text, '\n')); number++, text = end + 1) {
        *end = '\0';
        if (number == 1) {
            rc = read_head(text, dg, t);
            continue;
        }
        if (!AC_RESERVE(&v, v.n + t->columns))
            rc = ac_nomem(dg, (v.n + t->columns) * sizeof *v.p);
        else
            rc = read_row(text, path, number, dg, t, v.p + v.n);
        v.n += t->columns;
        t->rows++;
    }
    t->value = v.p;
    return rc;
}

int ac_table_read(const char *path, ac_diag *dg, ac_table *out)
{
    char *text;
    size_t n;
    int rc;

    *out = (ac_table){0};
    if (!ac_exists(path))
        return 0;
    AC_TRY(ac_file_read(path, LOG_MAX, dg, &text, &n));
    rc = read_lines(text, path, dg, out);
    free(text);
out:
    if (rc < 0)
        ac_table_free(out);
    return rc;
}

void ac_table_free(ac_table *t)
{
    for (size_t i = 0; t->column && i < t->columns; i++)
        free(t->column[i]);
    free(t->column);
    free(t->value);
    *t = (ac_table){0};
}

int ac_table_find(const ac_table *t, const char *name)
{
    for (size_t i = 0; i < t->columns; i++)
        if (strcmp(t->column[i], name) == 0)
            return (int)i;
    return -1;
}

/* --------------------------------------------------------------------------------------------------------- log.csv */

/* Nine digits keep every float, and what is read and written again stays the same text. Whole numbers keep all of
 * theirs. */
static void put_number(ac_str *s, double x)
{
    if (isnan(x))
        return;
    ac_str_addf(s, x == floor(x) && fabs(x) < 0x1p53 ? "%.0f" : "%.9g", x);
}

/* Is a column of the file one of those given? */
static bool given(const ac_runlog *log, const char *name)
{
    for (size_t i = 0; i < log->n; i++)
        if (strcmp(log->column[i], name) == 0)
            return true;
    return false;
}

static void put_head(const ac_runlog *log, const ac_table *old, ac_str *s)
{
    for (size_t i = 0; i < log->n; i++)
        ac_str_addf(s, "%s%s", i ? "," : "", log->column[i]);
    for (size_t i = 0; i < old->columns; i++)
        if (!given(log, old->column[i]))
            ac_str_addf(s, ",%s", old->column[i]);
    ac_str_add(s, "\n");
}

/* A row of the old file, with its fields where the new columns are. */
static void put_old_row(const ac_runlog *log, const ac_table *old, const double *row, ac_str *s)
{
    for (size_t i = 0; i < log->n; i++) {
        int k = ac_table_find(old, log->column[i]);
        ac_str_add(s, i ? "," : "");
        put_number(s, k < 0 ? (double)NAN : row[k]);
    }
    for (size_t i = 0; i < old->columns; i++)
        if (!given(log, old->column[i])) {
            ac_str_add(s, ",");
            put_number(s, row[i]);
        }
    ac_str_add(s, "\n");
}

/* Makes the file anew: the head, and the rows up to `step`. */
static int start_csv(ac_runlog *log, const char *path, int64_t step, ac_diag *dg)
{
    ac_table old = {0};
    ac_str s = {0};
    int rc = step < 0 ? 0 : ac_table_read(path, dg, &old), at = ac_table_find(&old, "step");

    if (rc == 0 && old.columns > 0 && at < 0)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "'%s' has no column \"step\"", path);
    if (rc == 0) {
        put_head(log, &old, &s);
        for (size_t r = 0; r < old.rows; r++)
            if (old.value[r * old.columns + (size_t)at] <= (double)step)
                put_old_row(log, &old, old.value + r * old.columns, &s);
        rc = s.failed ? ac_nomem(dg, s.n) : ac_file_save(path, s.p, s.n, dg);
    }
    for (size_t i = 0; i < old.columns; i++)
        log->extra += !given(log, old.column[i]);
    ac_str_free(&s);
    ac_table_free(&old);
    return rc;
}

static int open_csv(ac_runlog *log, const ac_rundir *run, int64_t step, ac_diag *dg)
{
    char *path = ac_path_join(ac_rundir_path(run), "log.csv");
    int rc = path ? start_csv(log, path, step, dg) : ac_nomem(dg, strlen(ac_rundir_path(run)) + 9);

    free(path);
    return rc < 0 ? rc : line_open(&log->csv, run, "log.csv", false, dg);
}

int ac_runlog_row(ac_runlog *log, const double *value, ac_diag *dg)
{
    ac_str s = {0};
    int rc;

    for (size_t i = 0; i < log->n; i++) {
        ac_str_add(&s, i ? "," : "");
        put_number(&s, value[i]);
    }
    for (size_t i = 0; i < log->extra; i++)
        ac_str_add(&s, ",");
    ac_str_add(&s, "\n");
    rc = line_add(&log->csv, &s, dg);
    ac_str_free(&s);
    if (rc == 0 && log->tb)
        rc = ac_tfevents_scalars(log->tb, (int64_t)value[0], (const char *const *)log->column + 1, value + 1,
                                 log->n - 1, dg);
    return rc;
}

/* ----------------------------------------------------------------------------------------------- events, pictures */

/* "2026-11-23T07:00:45Z" */
static void utc_now(char text[32])
{
    time_t now = time(NULL);
    struct tm tm;

    if (!gmtime_r(&now, &tm) || !strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &tm))
        text[0] = '\0';
}

int ac_runlog_event(ac_runlog *log, int64_t step, const char *kind, json_t *fields, ac_diag *dg)
{
    char when[32];
    json_t *event;
    char *text = NULL;
    ac_str s = {0};
    int rc;

    utc_now(when);
    event = json_pack("{ss sI ss}", "time", when, "step", (json_int_t)step, "kind", kind);
    if (event && (!fields || json_object_update_missing(event, fields) == 0))
        text = json_dumps(event, JSON_COMPACT);
    if (text) {
        ac_str_addf(&s, "%s\n", text);
        AC_TRY(line_add(&log->events, &s, dg));
        AC_TRY(line_sync(&log->csv, dg));
        rc = line_sync(&log->events, dg);
    } else {
        rc = ac_nomem(dg, 1024);
    }
out:
    ac_str_free(&s);
    free(text);
    json_decref(event);
    json_decref(fields);
    return rc;
}

int ac_runlog_picture(ac_runlog *log, int64_t step, const char *tag, const char *path, ac_diag *dg)
{
    char *png;
    size_t n;
    int rc;

    if (!log->tb)
        return 0;
    rc = ac_file_read(path, PICTURE_MAX, dg, &png, &n);
    if (rc == 0)
        rc = ac_tfevents_png(log->tb, step, tag, png, n, dg);
    free(png);
    return rc;
}

/* --------------------------------------------------------------------------------------------- opening, closing */

static int copy_columns(ac_runlog *log, const char *const *column, size_t n, ac_diag *dg)
{
    if (n == 0 || strcmp(column[0], "step") != 0)
        return ac_fail(dg, ADDCL_E_ARG, "the first column of the log is not \"step\"");
    if (!(log->column = ac_calloc(n, sizeof *log->column)))
        return ac_nomem(dg, n * sizeof *log->column);
    for (; log->n < n; log->n++) {
        if (!*column[log->n] || strpbrk(column[log->n], ",\"\n\r") || given(log, column[log->n]))
            return ac_fail(dg, ADDCL_E_ARG, "column %zu of the log cannot be called '%.80s'", log->n, column[log->n]);
        if (!(log->column[log->n] = ac_strdup(column[log->n])))
            return ac_nomem(dg, strlen(column[log->n]) + 1);
    }
    return 0;
}

static int open_tensorboard(ac_runlog *log, const ac_rundir *run, int64_t step, ac_diag *dg)
{
    char *dir = ac_path_join(ac_rundir_path(run), "tb");
    int rc = dir ? ac_tfevents_open(dir, step < 0 ? 0 : step + 1, dg, &log->tb)
                 : ac_nomem(dg, strlen(ac_rundir_path(run)) + 4);

    free(dir);
    return rc;
}

int ac_runlog_open(const ac_rundir *run, const char *const *column, size_t n, int64_t step, bool tensorboard,
                   ac_diag *dg, ac_runlog **out)
{
    ac_runlog *log = ac_calloc(1, sizeof *log);
    int rc;

    *out = NULL;
    if (!log)
        return ac_nomem(dg, sizeof *log);
    log->csv.fd = log->events.fd = -1;
    AC_TRY(copy_columns(log, column, n, dg));
    AC_TRY(open_csv(log, run, step, dg));
    AC_TRY(line_open(&log->events, run, "events.jsonl", step < 0, dg));
    if (tensorboard)
        AC_TRY(open_tensorboard(log, run, step, dg));
    *out = log;
    return 0;
out:
    ac_runlog_close(log);
    return rc;
}

void ac_runlog_close(ac_runlog *log)
{
    if (!log)
        return;
    line_close(&log->csv);
    line_close(&log->events);
    ac_tfevents_close(log->tb);
    for (size_t i = 0; i < log->n; i++)
        free(log->column[i]);
    free(log->column);
    free(log);
}
