/* ckpt.c - checkpoints: writing, verifying, finding, rotating. */
#include "io/ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "base/crc32c.h"
#include "base/file.h"
#include "base/sha256.h"
#include "io/folder.h"
#include "io/json.h"

#define FORMAT        1 /* of the manifest */
#define MANIFEST      "manifest.json"
#define STATE         "state.json"
#define WEIGHTS       ".safetensors"
#define CHUNK         ((size_t)1 << 20) /* bytes read at once */
#define STEP_NAME_MAX 32

/* "step-000500", and back: -1 when it is no name of a checkpoint. */
static void step_name(int64_t step, char name[STEP_NAME_MAX])
{
    snprintf(name, STEP_NAME_MAX, "step-%06" PRId64, step);
}

static int64_t step_of(const char *name)
{
    char back[STEP_NAME_MAX];
    long long step;

    if (strncmp(name, "step-", 5) != 0 || strlen(name) >= STEP_NAME_MAX)
        return -1;
    step = strtoll(name + 5, NULL, 10);
    step_name(step, back);
    return step >= 0 && strcmp(name, back) == 0 ? step : -1;
}

static char *path_of_step(const char *run_dir, int64_t step)
{
    char name[STEP_NAME_MAX];

    step_name(step, name);
    return ac_printf("%s/checkpoints/%s", run_dir, name);
}

static int no_path(ac_diag *dg, const char *dir)
{
    return ac_nomem(dg, strlen(dir) + STEP_NAME_MAX + 16);
}

/* ------------------------------------------------------------------------------------------------------ checksums */

/* A file that is read from its beginning to its end. read() and not a mapping: a bad sector is an error here, no
 * SIGBUS. */
typedef struct reader {
    int fd;
    const char *path;
    ac_sha256 sha;
    char *chunk; /* CHUNK bytes */
    ac_diag *dg;
} reader;

/* Takes the next n bytes in; *crc is theirs. */
static int take(reader *r, uint64_t n, uint32_t *crc)
{
    *crc = 0;
    while (n > 0) {
        ssize_t got = read(r->fd, r->chunk, AC_MIN(n, CHUNK));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ac_fail(r->dg, ADDCL_E_IO, "cannot read '%s': %s", r->path, strerror(errno));
        if (got == 0)
            return ac_fail(r->dg, ADDCL_E_FORMAT, "'%s' ends %" PRIu64 " bytes early", r->path, n);
        ac_sha256_update(&r->sha, r->chunk, (size_t)got);
        *crc = ac_crc32c(*crc, r->chunk, (size_t)got);
        n -= (uint64_t)got;
    }
    return 0;
}

/* Sorts pointers to tensors by their place in the file. */
static int by_place(const void *a, const void *b)
{
    const char *x = (*(const ac_st_tensor *const *)a)->data, *y = (*(const ac_st_tensor *const *)b)->data;
    return (x > y) - (x < y);
}

/* The header, then the tensors, which follow it without holes: {name: CRC-32C}. */
static int take_tensors(reader *r, uint64_t size, const ac_st *st, json_t *sums)
{
    size_t n = ac_st_count(st);
    const ac_st_tensor **order = ac_calloc(n, sizeof *order);
    uint64_t header = size;
    char hex[16];
    uint32_t crc;
    int rc;

    if (!order)
        return ac_nomem(r->dg, n * sizeof *order);
    for (size_t i = 0; i < n; i++) {
        order[i] = ac_st_at(st, i);
        header -= order[i]->bytes;
    }
    qsort(order, n, sizeof *order, by_place);
    AC_TRY(take(r, header, &crc));
    for (size_t i = 0; i < n; i++) {
        AC_TRY(take(r, order[i]->bytes, &crc));
        snprintf(hex, sizeof hex, "%08" PRIx32, crc);
        if (json_object_set_new(sums, order[i]->name, json_string(hex)) != 0)
            AC_TRY(ac_nomem(r->dg, strlen(order[i]->name)));
    }
out:
    free(order);
    return rc;
}

/* What the manifest says of a file: {"bytes": n, "sha256": hex, "tensors": {name: CRC-32C}}. `st` is the same file,
 * opened, or NULL when it holds no tensors. */
static int sum_file(const char *path, const ac_st *st, ac_diag *dg, json_t **out)
{
    reader r = {.fd = open(path, O_RDONLY | O_CLOEXEC), .path = path, .dg = dg};
    json_t *tensors = st ? json_object() : NULL;
    uint8_t digest[32];
    char hex[65];
    struct stat s;
    uint32_t crc;
    int rc;

    *out = NULL;
    if (r.fd < 0 || fstat(r.fd, &s) != 0)
        AC_TRY(ac_fail(dg, ADDCL_E_IO, "cannot read '%s': %s", path, strerror(errno)));
    if (!(r.chunk = ac_calloc(CHUNK, 1)) || (st && !tensors))
        AC_TRY(ac_nomem(dg, CHUNK));
    ac_sha256_init(&r.sha);
    AC_TRY(st ? take_tensors(&r, (uint64_t)s.st_size, st, tensors) : take(&r, (uint64_t)s.st_size, &crc));
    ac_sha256_final(&r.sha, digest);
    ac_sha256_text(digest, hex);
    *out = json_pack("{sI ss sO*}", "bytes", (json_int_t)s.st_size, "sha256", hex, "tensors", tensors);
    rc = *out ? 0 : ac_nomem(dg, sizeof hex);
out:
    if (r.fd >= 0)
        close(r.fd);
    free(r.chunk);
    json_decref(tensors);
    return rc;
}

/* SHA-256 of the manifest without its member "sha256", in a form that does not depend on how it is laid out. */
static int sum_manifest(const json_t *manifest, ac_diag *dg, char hex[65])
{
    json_t *rest = json_copy((json_t *)(uintptr_t)manifest); /* jansson's argument is not const */
    char *text = NULL;
    int rc = 0;

    if (rest) {
        (void)json_object_del(rest, "sha256"); /* fails when there is none */
        text = json_dumps(rest, JSON_COMPACT | JSON_SORT_KEYS);
    }
    if (text)
        ac_sha256_hex(text, strlen(text), hex);
    else
        rc = ac_nomem(dg, AC_JSON_FILE_MAX);
    free(text);
    json_decref(rest);
    return rc;
}

/* -------------------------------------------------------------------------------------------------------- writing */

/* No file is written that the reader would find too large. */
static int save_json(const char *dir, const char *name, const json_t *value, ac_diag *dg)
{
    char *path = ac_path_join(dir, name), *text = json_dumps(value, JSON_INDENT(2));
    size_t n = text ? strlen(text) : 0;
    int rc;

    if (!path || !text)
        rc = no_path(dg, dir);
    else if (n > AC_JSON_FILE_MAX)
        rc = ac_fail(dg, ADDCL_E_ARG, "%s would have %zu bytes: at most %zu can be read again", name, n,
                     AC_JSON_FILE_MAX);
    else
        rc = ac_file_save(path, text, n, dg);
    free(text);
    free(path);
    return rc;
}

/* Adds what the manifest says of the finished file `name` to `files`. */
static int add_sums(json_t *files, const char *dir, const char *name, bool weights, ac_diag *dg)
{
    char *path = ac_path_join(dir, name);
    json_t *sums = NULL;
    ac_st *st = NULL;
    int rc;

    if (!path)
        return no_path(dg, dir);
    if (weights)
        AC_TRY(ac_st_open(path, dg, &st));
    AC_TRY(sum_file(path, st, dg, &sums));
    if (json_object_set(files, name, sums) != 0)
        rc = no_path(dg, dir);
out:
    json_decref(sums);
    ac_st_close(st);
    free(path);
    return rc;
}

static int write_part(json_t *files, const char *dir, const ac_ckpt_part *p, ac_diag *dg)
{
    char *name = ac_printf("%s" WEIGHTS, p->name), *path = name ? ac_path_join(dir, name) : NULL;
    int rc;

    if (!path)
        rc = no_path(dg, dir);
    else
        rc = ac_st_write(path, p->entry, p->n, NULL, 0, p->fill, p->user, dg);
    if (rc == 0)
        rc = add_sums(files, dir, name, true, dg);
    free(path);
    free(name);
    return rc;
}

static int write_files(const char *dir, int64_t step, const ac_ckpt_part *parts, size_t n, const json_t *state,
                       ac_diag *dg)
{
    json_t *files = json_object();
    json_t *manifest = json_pack("{si sI sO}", "format", FORMAT, "step", (json_int_t)step, "files", files);
    char hex[65];
    int rc = 0;

    if (!manifest)
        AC_TRY(no_path(dg, dir));
    for (size_t i = 0; i < n; i++)
        AC_TRY(write_part(files, dir, &parts[i], dg));
    AC_TRY(save_json(dir, STATE, state, dg));
    AC_TRY(add_sums(files, dir, STATE, false, dg));
    AC_TRY(sum_manifest(manifest, dg, hex));
    if (json_object_set_new(manifest, "sha256", json_string(hex)) != 0)
        AC_TRY(no_path(dg, dir));
    rc = save_json(dir, MANIFEST, manifest, dg);
out:
    json_decref(manifest);
    json_decref(files);
    return rc;
}

/* Adds to the message how much room was needed, and there is. */
static int explain(const char *path, const ac_rundir *run, const ac_ckpt_part *parts, size_t n, ac_diag *dg)
{
    uintmax_t need = 0;
    struct statvfs fs;
    size_t bytes;

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < parts[i].n; j++) {
            const ac_st_entry *e = &parts[i].entry[j];
            need += ac_st_bytes(e->dtype, e->dims, e->dim, &bytes) ? bytes : 0;
        }
    if (statvfs(ac_rundir_path(run), &fs) != 0)
        return ac_context(dg, "checkpoint '%s' of %ju bytes is not written", path, need);
    return ac_context(dg, "checkpoint '%s' of %ju bytes is not written (%ju bytes are free)", path, need,
                      (uintmax_t)fs.f_bavail * fs.f_frsize);
}

int ac_ckpt_write(ac_rundir *run, int64_t step, const ac_ckpt_part *parts, size_t n, const json_t *state, ac_diag *dg)
{
    char *path = path_of_step(ac_rundir_path(run), step);
    ac_folder *f = NULL;
    int rc;

    if (!path)
        return no_path(dg, ac_rundir_path(run));
    AC_TRY(ac_folder_begin(path, dg, &f));
    AC_TRY(write_files(ac_folder_temp(f), step, parts, n, state, dg));
    rc = ac_folder_commit(f, dg);
    f = NULL;
out:
    ac_folder_abort(f);
    if (rc < 0)
        explain(path, run, parts, n, dg);
    free(path);
    return rc;
}

/* -------------------------------------------------------------------------------------------------------- reading */

typedef struct part {
    char *name;
    ac_st *st;
} part;

struct ac_ckpt {
    char *path;
    int64_t step;
    json_t *state;
    AC_VEC(part) part;
};

/* Compares what the manifest says of a file with what the file says. */
static int compare(const char *path, const json_t *was, const json_t *is, ac_diag *dg)
{
    const char *name, *sum;
    json_t *value;

    if (json_equal(was, is))
        return 0;
    json_object_foreach(json_object_get(was, "tensors"), name, value)
    {
        sum = json_string_value(json_object_get(json_object_get(is, "tensors"), name));
        if (!sum)
            return ac_fail(dg, ADDCL_E_FORMAT, "'%s' lacks tensor '%.200s'", path, name);
        if (strcmp(sum, json_string_value(value) ? json_string_value(value) : "") != 0)
            return ac_fail(dg, ADDCL_E_FORMAT, "'%s': tensor '%.200s' is damaged (CRC-32C %s, the manifest says %.8s)",
                           path, name, sum, json_string_value(value));
    }
    return ac_fail(dg, ADDCL_E_FORMAT, "'%s' is damaged (its SHA-256 is not the manifest's)", path);
}

/* A size that differs is told before the file is opened: the reader of a file cut short would only complain of its
 * header. */
static int check_size(const char *path, const json_t *was, ac_diag *dg)
{
    json_int_t bytes = json_integer_value(json_object_get(was, "bytes"));
    struct stat s;

    if (stat(path, &s) != 0)
        return ac_fail(dg, ADDCL_E_IO, "cannot read '%s': %s", path, strerror(errno));
    if (s.st_size != bytes)
        return ac_fail(dg, ADDCL_E_FORMAT, "'%s' has %jd bytes, the manifest says %jd", path, (intmax_t)s.st_size,
                       (intmax_t)bytes);
    return 0;
}

/* A copy of `name` without its ending; NULL when it has another, or is no plain name of a file. */
static char *part_name(const char *name)
{
    size_t n = strlen(name), tail = strlen(WEIGHTS);

    return n > tail && strcmp(name + n - tail, WEIGHTS) == 0 && !strchr(name, '/') ? ac_strndup(name, n - tail) : NULL;
}

/* Opens and verifies a file of the manifest. */
static int open_file(ac_ckpt *c, const char *name, const json_t *was, ac_diag *dg)
{
    part p = {.name = part_name(name)};
    char *path = ac_path_join(c->path, name);
    ac_json state = {0};
    json_t *is = NULL;
    int rc = 0;

    if (!path)
        AC_TRY(no_path(dg, c->path));
    if (!p.name && strcmp(name, STATE) != 0)
        AC_TRY(ac_fail(dg, ADDCL_E_FORMAT, "'%s/" MANIFEST "' names an unknown file '%.200s'", c->path, name));
    AC_TRY(check_size(path, was, dg));
    if (p.name)
        AC_TRY(ac_st_open(path, dg, &p.st));
    AC_TRY(sum_file(path, p.st, dg, &is));
    AC_TRY(compare(path, was, is, dg));
    if (!p.name) {
        AC_TRY(ac_json_open(path, dg, &state));
        c->state = json_incref(state.obj);
    } else if (AC_PUSH(&c->part, p)) {
        p = (part){0};
    } else {
        rc = no_path(dg, c->path);
    }
out:
    ac_json_close(&state);
    json_decref(is);
    ac_st_close(p.st);
    free(p.name);
    free(path);
    return rc;
}

/* The manifest itself: whole, known format, of this step. *files is borrowed from m. */
static int check_manifest(ac_ckpt *c, ac_json *m, json_t **files)
{
    const char *sum = ac_json_str(m, "sha256", "");
    char hex[65];
    ac_json sub;
    int rc = m->rc;

    *files = NULL;
    if (rc == 0)
        rc = sum_manifest(m->obj, m->dg, hex);
    if (rc < 0)
        return rc;
    if (strcmp(sum, hex) != 0)
        return ac_fail(m->dg, ADDCL_E_FORMAT, "'%s' is damaged: its SHA-256 is not the one it ends with", m->path);
    if (ac_json_int(m, "format", 0, 0, INT32_MAX) != FORMAT)
        return ac_fail(m->dg, ADDCL_E_UNSUPPORTED, "'%s' has format %jd, this version reads %d", m->path,
                       (intmax_t)ac_json_int(m, "format", 0, INT64_MIN, INT64_MAX), FORMAT);
    c->step = ac_json_int(m, "step", -1, 0, INT64_MAX);
    if (ac_json_sub(m, "files", &sub))
        *files = sub.obj;
    return m->rc;
}

int ac_ckpt_open(const char *path, ac_diag *dg, ac_ckpt **out)
{
    ac_ckpt *c = ac_calloc(1, sizeof *c);
    char *manifest = ac_path_join(path, MANIFEST);
    ac_json m = {0};
    json_t *files, *was;
    const char *name;
    int rc;

    *out = NULL;
    if (!c || !manifest || !(c->path = ac_strdup(path)))
        AC_TRY(no_path(dg, path));
    AC_TRY(ac_json_open(manifest, dg, &m));
    AC_TRY(check_manifest(c, &m, &files));
    json_object_foreach(files, name, was)
    {
        AC_TRY(open_file(c, name, was, dg));
    }
    if (!c->state)
        AC_TRY(ac_fail(dg, ADDCL_E_FORMAT, "'%s' names no " STATE, manifest));
    *out = c;
    c = NULL;
out:
    ac_json_close(&m);
    free(manifest);
    ac_ckpt_close(c);
    return rc;
}

void ac_ckpt_close(ac_ckpt *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->part.n; i++) {
        ac_st_close(c->part.p[i].st);
        free(c->part.p[i].name);
    }
    free(c->part.p);
    json_decref(c->state);
    free(c->path);
    free(c);
}

int64_t ac_ckpt_step(const ac_ckpt *c)
{
    return c->step;
}

const char *ac_ckpt_path(const ac_ckpt *c)
{
    return c->path;
}

const json_t *ac_ckpt_state(const ac_ckpt *c)
{
    return c->state;
}

const ac_st *ac_ckpt_part_of(const ac_ckpt *c, const char *name)
{
    for (size_t i = 0; i < c->part.n; i++)
        if (strcmp(c->part.p[i].name, name) == 0)
            return c->part.p[i].st;
    return NULL;
}

/* ------------------------------------------------------------------------------------- the checkpoints of a run */

typedef AC_VEC(int64_t) steps;

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The steps of which there is a checkpoint, newest first; none when there is no folder. */
static int list(const char *run_dir, ac_diag *dg, steps *out)
{
    char *path = ac_path_join(run_dir, "checkpoints");
    struct dirent *e;
    DIR *d = NULL;
    int rc = 0;

    if (!path)
        return no_path(dg, run_dir);
    if (!(d = opendir(path)) && errno != ENOENT)
        rc = ac_fail(dg, ADDCL_E_IO, "cannot read the folder '%s': %s", path, strerror(errno));
    while (d && rc == 0 && (e = readdir(d))) {
        int64_t step = step_of(e->d_name);
        if (step >= 0 && !AC_PUSH(out, step))
            rc = no_path(dg, run_dir);
    }
    if (d)
        closedir(d);
    if (out->n)
        qsort(out->p, out->n, sizeof *out->p, newest_first);
    free(path);
    return rc;
}

int ac_ckpt_rotate(ac_rundir *run, size_t newest, int64_t every, ac_diag *dg)
{
    steps s = {0};
    int rc = list(ac_rundir_path(run), dg, &s);

    for (size_t i = newest; rc == 0 && newest > 0 && i < s.n; i++) {
        char *path;
        if (every > 0 && s.p[i] % every == 0)
            continue;
        path = path_of_step(ac_rundir_path(run), s.p[i]);
        rc = path ? ac_folder_remove(path, dg) : no_path(dg, ac_rundir_path(run));
        free(path);
    }
    free(s.p);
    return rc;
}

/* Renames the checkpoint in `path` to "<path>.aside". */
static int set_aside(const char *path, int64_t step, ac_diag *dg)
{
    char *aside = ac_printf("%s.aside", path);
    int rc = 0;

    if (!aside)
        return no_path(dg, path);
    if (ac_exists(aside))
        rc = ac_folder_remove(aside, dg);
    if (rc == 0 && rename(path, aside) != 0)
        rc = ac_fail(dg, ADDCL_E_IO, "cannot rename '%s' to '%s': %s", path, aside, strerror(errno));
    if (rc == 0)
        ac_note(dg, ADDCL_LOG_WARN, "the training goes on from step %" PRId64 ": checkpoint '%s' is now '%s'", step,
                path, aside);
    free(aside);
    return rc;
}

int ac_ckpt_rewind(ac_rundir *run, int64_t step, ac_diag *dg)
{
    steps s = {0};
    int rc = list(ac_rundir_path(run), dg, &s);

    for (size_t i = 0; rc == 0 && i < s.n && s.p[i] > step; i++) {
        char *path = path_of_step(ac_rundir_path(run), s.p[i]);
        rc = path ? set_aside(path, step, dg) : no_path(dg, ac_rundir_path(run));
        free(path);
    }
    free(s.p);
    return rc;
}

/* Opens the checkpoint of a step when it is whole. 0 and *out NULL: it is not, `last` tells why. */
static int try_step(const char *run_dir, int64_t step, ac_diag *last, ac_ckpt **out)
{
    char *path = path_of_step(run_dir, step);
    int rc;

    ac_clear(last);
    if (!path)
        return no_path(last, run_dir);
    rc = ac_ckpt_open(path, last, out);
    if (rc < 0 && rc != ADDCL_E_NOMEM) {
        if (ac_exists(path)) /* else a trainer has just rotated it away */
            ac_note(last, ADDCL_LOG_WARN, "passing over checkpoint step-%06" PRId64 ": %s", step, last->msg);
        rc = 0;
    }
    free(path);
    return rc;
}

int ac_ckpt_latest(const char *run_dir, ac_diag *dg, ac_ckpt **out)
{
    ac_diag last = {.note = dg->note, .user = dg->user};
    steps s = {0};
    int rc = list(run_dir, dg, &s);

    *out = NULL;
    for (size_t i = 0; rc == 0 && !*out && i < s.n; i++)
        if ((rc = try_step(run_dir, s.p[i], &last, out)) < 0)
            ac_fail(dg, rc, "%s", last.msg);
    if (rc == 0 && !*out && s.n > 0)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "none of the %zu checkpoints of '%s' is whole; of the oldest: %s", s.n,
                     run_dir, last.msg);
    free(s.p);
    return rc;
}
