/* dataset_tar.c - webdataset shards: the members of a tar archive, grouped to samples.
 *
 * Format: POSIX.1-2001 ustar and pax, and GNU's long names and binary sizes (GNU tar manual, "Basic Tar Format").
 * Names are keys, never paths on this machine. */
#include "io/dataset_file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include "io/json.h"

#define BLOCK      512
#define HEADER_MAX ((uint64_t)1 << 20) /* bytes of a pax header or a long name */

/* Fields of a header block: place and length. */
enum {
    NAME = 0,
    NAME_N = 100,
    SIZE = 124,
    SIZE_N = 12,
    CHECKSUM = 148,
    CHECKSUM_N = 8,
    TYPE = 156,
    MAGIC = 257,
    PREFIX = 345,
    PREFIX_N = 155
};

typedef struct tar {
    int fd;
    const char *path;
    uint64_t n, at; /* bytes of the file; place of the next header */
    char *name;     /* from a long name or pax header, for the next member; owned; NULL: none */
    bool has_size;  /* from a pax header, likewise */
    uint64_t size;
    ac_diag *dg;
} tar;

/* One part of a sample. */
typedef struct member {
    char *name;     /* owned */
    size_t key;     /* bytes of the name that are the sample's key */
    size_t order;   /* in the archive */
    uint64_t at, n; /* its data */
    enum { PICTURE, TEXT, JSON } kind;
} member;

typedef AC_VEC(member) members;

/* ----------------------------------------------------------------------------------------------------- headers */

static int read_at(const tar *t, uint64_t at, void *dst, size_t n)
{
    char *p = dst;

    while (n > 0) {
        ssize_t r = pread(t->fd, p, n, (off_t)at);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return ac_fail(t->dg, ADDCL_E_IO, "cannot read '%s' at byte %ju: %s", t->path, (uintmax_t)at,
                           r < 0 ? strerror(errno) : "it became shorter");
        p += r;
        at += (uint64_t)r;
        n -= (size_t)r;
    }
    return 0;
}

/* The data of a member with a NUL behind it, in new memory. */
static int read_text(const tar *t, uint64_t at, uint64_t n, const char *what, char **out)
{
    int rc;

    *out = NULL;
    if (n > HEADER_MAX)
        return ac_fail(t->dg, ADDCL_E_FORMAT, "%s: %s of %ju bytes: expected at most %ju", t->path, what, (uintmax_t)n,
                       (uintmax_t)HEADER_MAX);
    if (!(*out = ac_calloc((size_t)n + 1, 1)))
        return ac_nomem(t->dg, (size_t)n + 1);
    rc = read_at(t, at, *out, (size_t)n);
    if (rc < 0) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

/* A number of a header: octal digits, or GNU's big-endian binary with the top bit set. False: neither. */
static bool read_number(const uint8_t *field, size_t n, uint64_t *out)
{
    size_t i = 0;

    *out = 0;
    if (field[0] & 0x80) {
        for (*out = field[0] & 0x7f, i = 1; i < n; i++) {
            if (*out >> 55)
                return false;
            *out = *out << 8 | field[i];
        }
        return true;
    }
    while (i < n && field[i] == ' ')
        i++;
    for (; i < n && field[i] >= '0' && field[i] <= '7'; i++)
        *out = *out << 3 | (uint64_t)(field[i] - '0');
    return i == n || field[i] == ' ' || field[i] == '\0';
}

/* The sum of all bytes, those of the checksum itself as blanks. */
static bool checksum_holds(const uint8_t header[BLOCK])
{
    uint64_t want, sum = 0;

    for (int i = 0; i < BLOCK; i++)
        sum += i >= CHECKSUM && i < CHECKSUM + CHECKSUM_N ? ' ' : header[i];
    return read_number(header + CHECKSUM, CHECKSUM_N, &want) && want == sum;
}

/* Records "length key=value\n" of a pax header: `path` and `size` of the next member. */
static int read_pax(tar *t, char *text, size_t n)
{
    for (char *p = text, *end = text + n; p < end;) {
        char *key, *value;
        unsigned long len = strtoul(p, &key, 10);
        if (!isdigit((unsigned char)*p) || len == 0 || len > (size_t)(end - p) || *key != ' ' || p[len - 1] != '\n' ||
            !(value = memchr(key, '=', (size_t)(p + len - key))))
            return ac_fail(t->dg, ADDCL_E_FORMAT, "%s: damaged pax header before byte %ju", t->path, (uintmax_t)t->at);
        p[len - 1] = '\0';
        *value++ = '\0';
        if (strcmp(key, " path") == 0) {
            free(t->name);
            if (!(t->name = ac_strdup(value)))
                return ac_nomem(t->dg, strlen(value) + 1);
        } else if (strcmp(key, " size") == 0) {
            t->has_size = true;
            t->size = strtoull(value, NULL, 10);
        }
        p += len;
    }
    return 0;
}

/* The name in a header, whose prefix only ustar has: GNU's headers use those bytes for something else. */
static char *header_name(const uint8_t *header)
{
    const char *name = (const char *)header + NAME, *prefix = (const char *)header + PREFIX;
    bool ustar = memcmp(header + MAGIC, "ustar", 6) == 0 && *prefix;

    return ac_printf("%.*s%s%.*s", ustar ? PREFIX_N : 0, prefix, ustar ? "/" : "", NAME_N, name);
}

/* Takes in what header `type` says about the member behind it; other types are that member's own. */
static int read_extension(tar *t, char type, uint64_t at, uint64_t n)
{
    char *text;
    int rc;

    if (type == 'L') {
        free(t->name);
        return read_text(t, at, n, "long name", &t->name);
    }
    AC_TRY(read_text(t, at, n, "pax header", &text));
    rc = read_pax(t, text, (size_t)n);
    free(text);
out:
    return rc;
}

/* The next member that is a file: 1, its name in new memory; 0 at the end of the archive. */
static int next_file(tar *t, char **name, uint64_t *at, uint64_t *n)
{
    static const uint8_t zero[BLOCK];
    uint8_t header[BLOCK];
    int rc = 0;

    while (t->at + BLOCK <= t->n) {
        char type;
        AC_TRY(read_at(t, t->at, header, BLOCK));
        if (memcmp(header, zero, BLOCK) == 0)
            return 0;
        type = (char)header[TYPE];
        if (!checksum_holds(header) || !read_number(header + SIZE, SIZE_N, n))
            return ac_fail(t->dg, ADDCL_E_FORMAT, "%s: no tar header at byte %ju", t->path, (uintmax_t)t->at);
        if (t->has_size && !strchr("Lxg", type))
            *n = t->size;
        if (type >= '1' && type <= '6') /* links, devices, folders: whatever their size says, no data */
            *n = 0;
        *at = t->at += BLOCK;
        if (*n > t->n - t->at)
            return ac_fail(t->dg, ADDCL_E_FORMAT, "%s: truncated: %ju bytes of data at byte %ju, the file has %ju",
                           t->path, (uintmax_t)*n, (uintmax_t)t->at, (uintmax_t)t->n);
        t->at += (*n + BLOCK - 1) / BLOCK * BLOCK;
        if (type == 'L' || type == 'x') {
            AC_TRY(read_extension(t, type, *at, *n));
            continue;
        }
        if (type == 'K' || type == 'g')
            continue;
        *name = t->name ? t->name : header_name(header);
        t->name = NULL;
        t->has_size = false;
        if (!*name)
            return ac_nomem(t->dg, BLOCK);
        if (type == '0' || type == '7' || type == '\0')
            return 1;
        free(*name);
        *name = NULL;
    }
    if (t->at < t->n)
        rc = ac_fail(t->dg, ADDCL_E_FORMAT, "%s: truncated: a part of a header at byte %ju", t->path, (uintmax_t)t->at);
out:
    return rc;
}

/* ----------------------------------------------------------------------------------------------------- samples */

/* Sets key and kind from the name; false when the member is of no use. */
static bool classify(member *m)
{
    const char *slash = strrchr(m->name, '/'), *base = slash ? slash + 1 : m->name, *dot = strchr(base, '.');

    if (!dot || dot == base)
        return false;
    m->key = (size_t)(dot - m->name);
    dot++;
    if (ac_data_is_picture(dot))
        m->kind = PICTURE;
    else if (strcasecmp(dot, "txt") == 0 || strcasecmp(dot, "caption") == 0)
        m->kind = TEXT;
    else if (strcasecmp(dot, "json") == 0)
        m->kind = JSON;
    else
        return false;
    return true;
}

/* All members of use. */
static int list_members(tar *t, members *out)
{
    member m = {0};
    int rc;

    while ((rc = next_file(t, &m.name, &m.at, &m.n)) > 0) {
        m.order = out->n;
        if (!classify(&m))
            free(m.name);
        else if (!AC_PUSH(out, m)) {
            free(m.name);
            return ac_nomem(t->dg, sizeof m);
        }
    }
    return rc;
}

/* Order of the keys as bytes; equal keys compare equal. */
static int compare_keys(const member *a, const member *b)
{
    int c = memcmp(a->name, b->name, AC_MIN(a->key, b->key));
    return c ? c : (a->key > b->key) - (a->key < b->key);
}

static int by_key(const void *a, const void *b)
{
    const member *x = a, *y = b;
    int c = compare_keys(x, y);
    return c ? c : (x->order > y->order) - (x->order < y->order);
}

/* Puts what a .txt or .json member says into `fields`, .txt over .json. JSON that is no object has no fields. */
static int read_fields(const tar *t, const member *m, json_t *fields)
{
    json_error_t e;
    json_t *json;
    char *text;
    int rc = 0;

    AC_TRY(read_text(t, m->at, m->n, m->name, &text));
    if (m->kind == TEXT) {
        json = json_string_nocheck(text);
        if (!json || json_object_set_nocheck(fields, "text", json) != 0)
            rc = ac_nomem(t->dg, (size_t)m->n);
    } else if (!(json = ac_json_parse(text, (size_t)m->n, &e))) {
        rc = ac_fail(t->dg, ADDCL_E_FORMAT, "%s: %s:%d:%d: %s", t->path, m->name, e.line, e.column, e.text);
    } else if (json_is_object(json) && json_object_update_missing(fields, json) != 0) {
        rc = ac_nomem(t->dg, (size_t)m->n);
    }
    json_decref(json);
    free(text);
out:
    return rc;
}

/* Adds the sample that the n members are, of several pictures the last, unless there is none. */
static int add_group(ac_data *d, const tar *t, const member *m, size_t n)
{
    const member *picture = NULL;
    json_t *fields = json_object();
    int rc = 0;

    if (!fields)
        return ac_nomem(t->dg, sizeof *m);
    for (size_t i = 0; i < n; i++)
        if (m[i].kind == PICTURE)
            picture = &m[i];
    for (size_t i = 0; i < n && picture; i++)
        if (m[i].kind != PICTURE)
            AC_TRY(read_fields(t, &m[i], fields));
    if (picture)
        rc = ac_data_add(d, picture->name, picture->at, picture->n, fields, t->dg);
out:
    json_decref(fields);
    return rc;
}

static int add_groups(ac_data *d, const tar *t, const member *m, size_t n)
{
    size_t pictures = 0;
    int rc = 0;

    for (size_t i = 0; i < n; i++)
        pictures += m[i].kind == PICTURE;
    if (pictures == 0)
        return ac_fail(t->dg, ADDCL_E_FORMAT, "%s: no member is a picture (.png .jpg .jpeg .webp)", t->path);
    for (size_t first = 0, i = 1; i <= n; i++)
        if (i == n || compare_keys(&m[i], &m[first]) != 0) {
            AC_TRY(add_group(d, t, m + first, i - first));
            first = i;
        }
out:
    return rc;
}

int ac_data_add_shard(ac_data *d, const char *path, ac_diag *dg)
{
    tar t = {.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), .path = path, .dg = dg};
    members m = {0};
    struct stat st;
    int rc;

    if (t.fd < 0 || fstat(t.fd, &st) != 0)
        AC_TRY(ac_fail(dg, ADDCL_E_IO, "cannot open '%s': %s", path, strerror(errno)));
    if (!S_ISREG(st.st_mode))
        AC_TRY(ac_fail(dg, ADDCL_E_FORMAT, "'%s' is no regular file", path));
    t.n = (uint64_t)st.st_size;
    AC_TRY(list_members(&t, &m));
    if (m.n > 0)
        qsort(m.p, m.n, sizeof *m.p, by_key);
    AC_TRY(ac_data_add_root(d, path, true, dg));
    rc = add_groups(d, &t, m.p, m.n);
out:
    if (t.fd >= 0)
        close(t.fd);
    for (size_t i = 0; i < m.n; i++)
        free(m.p[i].name);
    free(m.p);
    free(t.name);
    return rc;
}
