/* safetensors.c - reader and writer of weight files.
 *
 * The header is data from anywhere: it is bounded before jansson sees it (length, number of values), and every offset
 * is checked before it becomes a pointer. Names and metadata are borrowed from the parsed headers, which live as long
 * as the ac_st. Stricter than the reference library in one point: duplicate names are an error. */
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"
#include "io/json.h"

#define PREFIX     8                   /* bytes of the header's length */
#define HEADER_MAX ((size_t)100000000) /* limit of the format */
#define VALUES_MAX                                                                                                     \
    ((size_t)2000000) /* of a header: a tensor of d dimensions takes d + 6; about 150 bytes of memory each */
#define METADATA "__metadata__"

typedef struct mapping {
    char *path;
    char *base; /* NULL: not mapped (yet) */
    size_t size;
    json_t *header; /* NULL: not parsed (yet) */
} mapping;

typedef struct pair {
    const char *key, *value;
} pair;

struct ac_st {
    AC_VEC(mapping) file;
    AC_VEC(ac_st_tensor) tensor; /* sorted by name */
    AC_VEC(pair) meta;           /* of the first file */
    size_t page;                 /* bytes of a memory page */
};

static const struct {
    const char *name;
    size_t size;
} dtype_table[] = {
    [AC_ST_BOOL] = {"BOOL", 1},
    [AC_ST_U8] = {"U8", 1},
    [AC_ST_I8] = {"I8", 1},
    [AC_ST_F8_E5M2] = {"F8_E5M2", 1},
    [AC_ST_F8_E4M3] = {"F8_E4M3", 1},
    [AC_ST_F8_E8M0] = {"F8_E8M0", 1},
    [AC_ST_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 1},
    [AC_ST_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 1},
    [AC_ST_I16] = {"I16", 2},
    [AC_ST_U16] = {"U16", 2},
    [AC_ST_F16] = {"F16", 2},
    [AC_ST_BF16] = {"BF16", 2},
    [AC_ST_I32] = {"I32", 4},
    [AC_ST_U32] = {"U32", 4},
    [AC_ST_F32] = {"F32", 4},
    [AC_ST_C64] = {"C64", 8},
    [AC_ST_F64] = {"F64", 8},
    [AC_ST_I64] = {"I64", 8},
    [AC_ST_U64] = {"U64", 8},
};

size_t ac_st_dtype_size(ac_st_dtype t)
{
    return dtype_table[t].size;
}

const char *ac_st_dtype_name(ac_st_dtype t)
{
    return dtype_table[t].name;
}

bool ac_st_bytes(ac_st_dtype t, int dims, const int64_t *dim, size_t *bytes)
{
    size_t n = dtype_table[t].size;

    for (int i = 0; i < dims; i++)
        if (dim[i] < 0 || (uint64_t)dim[i] > SIZE_MAX || !ac_mul_size(n, (size_t)dim[i], &n))
            return false;
    *bytes = n;
    return true;
}

/* ------------------------------------------------------------------------------------------------ one tensor */

/* A non-negative integer; jansson has refused what int64_t does not hold. */
static bool get_size(const json_t *v, int64_t *out)
{
    *out = json_integer_value(v);
    return json_is_integer(v) && *out >= 0;
}

static int read_dtype(const char *name, const json_t *info, ac_diag *dg, ac_st_dtype *out)
{
    const char *text = json_string_value(json_object_get(info, "dtype"));

    if (!text)
        return ac_fail(dg, ADDCL_E_FORMAT, "tensor '%.200s': dtype is missing or no string", name);
    for (size_t i = 0; i < AC_LEN(dtype_table); i++)
        if (strcmp(dtype_table[i].name, text) == 0) {
            *out = (ac_st_dtype)i;
            return 0;
        }
    return ac_fail(dg, ADDCL_E_UNSUPPORTED, "tensor '%.200s': dtype '%.40s' is not known", name, text);
}

static int read_shape(const char *name, const json_t *info, ac_diag *dg, ac_st_tensor *t)
{
    const json_t *shape = json_object_get(info, "shape");
    size_t n = json_array_size(shape);

    if (!json_is_array(shape))
        return ac_fail(dg, ADDCL_E_FORMAT, "tensor '%.200s': shape is missing or no array", name);
    if (n > AC_ST_DIMS)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "tensor '%.200s': %zu dimensions, at most %d are supported", name, n,
                       AC_ST_DIMS);
    for (size_t i = 0; i < n; i++)
        if (!get_size(json_array_get(shape, i), &t->dim[i]))
            return ac_fail(dg, ADDCL_E_FORMAT, "tensor '%.200s': dimension %zu is no integer from 0", name, i);
    t->dims = (int)n;
    return 0;
}

/* One entry of the header; `data` are the `n` bytes behind the header. */
static int read_tensor(const char *name, const json_t *info, const char *data, size_t n, ac_diag *dg, ac_st_tensor *t)
{
    const json_t *offsets = json_object_get(info, "data_offsets");
    int64_t begin, end;
    size_t bytes;
    int rc = read_dtype(name, info, dg, &t->dtype);

    if (rc == 0)
        rc = read_shape(name, info, dg, t);
    if (rc < 0)
        return rc;
    if (json_array_size(offsets) != 2 || !get_size(json_array_get(offsets, 0), &begin) ||
        !get_size(json_array_get(offsets, 1), &end))
        return ac_fail(dg, ADDCL_E_FORMAT, "tensor '%.200s': data_offsets are not two integers from 0", name);
    if (end < begin || (uint64_t)end > n)
        return ac_fail(dg, ADDCL_E_FORMAT,
                       "tensor '%.200s': data_offsets %jd to %jd do not lie in the %zu bytes of data", name,
                       (intmax_t)begin, (intmax_t)end, n);
    if (!ac_st_bytes(t->dtype, t->dims, t->dim, &bytes))
        return ac_fail(dg, ADDCL_E_FORMAT, "tensor '%.200s': its size overflows", name);
    if ((uint64_t)(end - begin) != bytes)
        return ac_fail(dg, ADDCL_E_FORMAT, "tensor '%.200s': %jd bytes of data, its shape takes %zu", name,
                       (intmax_t)(end - begin), bytes);
    t->name = name;
    t->data = data + begin;
    t->bytes = bytes;
    return 0;
}

/* ------------------------------------------------------------------------------------------------ one file */

static int map_file(const char *path, ac_diag *dg, mapping *m)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0; /* a pipe without writer must not block */
    struct stat sb;
    void *p;

    if (fd < 0)
        return ac_fail(dg, ADDCL_E_IO, "cannot open: %s", strerror(errno));
    if (fstat(fd, &sb) != 0)
        rc = ac_fail(dg, ADDCL_E_IO, "cannot read: %s", strerror(errno));
    else if (!S_ISREG(sb.st_mode))
        rc = ac_fail(dg, ADDCL_E_IO, "is no regular file");
    else if (sb.st_size < PREFIX)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "no safetensors file: %jd bytes", (intmax_t)sb.st_size);
    else if ((uintmax_t)sb.st_size > SIZE_MAX / 2)
        rc = ac_fail(dg, ADDCL_E_UNSUPPORTED, "too large for this machine: %jd bytes", (intmax_t)sb.st_size);
    if (rc == 0) {
        m->size = (size_t)sb.st_size;
        p = mmap(NULL, m->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = ac_fail(dg, ADDCL_E_IO, "cannot map %zu bytes: %s", m->size, strerror(errno));
        else
            m->base = p;
    }
    close(fd);
    return rc;
}

/* Refuses a header of more values than VALUES_MAX before memory is spent on them: counts '[', '{' and ',' outside
 * strings. What is no JSON is left to the parser. */
static int check_values(const char *text, size_t n, ac_diag *dg)
{
    size_t values = 0;
    bool string = false;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '"')
            string = !string;
        else if (string)
            i += c == '\\';
        else
            values += c == ',' || c == '[' || c == '{';
    }
    if (values > VALUES_MAX)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "the header holds %zu values, at most %zu are supported", values,
                       VALUES_MAX);
    return 0;
}

static int parse_header(const char *text, size_t n, ac_diag *dg, json_t **out)
{
    json_error_t e;

    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!*out && json_error_code(&e) == json_error_out_of_memory)
        return ac_nomem(dg, n);
    if (!*out)
        return ac_fail(dg, ADDCL_E_FORMAT, "bad header at byte %d: %s", e.position, e.text);
    if (!json_is_object(*out))
        return ac_fail(dg, ADDCL_E_FORMAT, "bad header: no JSON object");
    return 0;
}

/* Collects the metadata when `keep` is set; checks them always. */
static int read_metadata(ac_st *st, json_t *info, bool keep, ac_diag *dg)
{
    const char *key;
    json_t *value;

    if (!json_is_object(info))
        return ac_fail(dg, ADDCL_E_FORMAT, METADATA " is no object");
    json_object_foreach(info, key, value)
    {
        if (!json_is_string(value))
            return ac_fail(dg, ADDCL_E_FORMAT, METADATA ": value of '%.200s' is no string", key);
        if (keep && !AC_PUSH(&st->meta, ((pair){key, json_string_value(value)})))
            return ac_nomem(dg, sizeof(pair) * (st->meta.n + 1));
    }
    return 0;
}

static int by_data(const void *a, const void *b)
{
    const ac_st_tensor *x = a, *y = b;

    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The n tensors of one file must cover its data, one after the other. Leaves them sorted by position. */
static int check_cover(ac_st_tensor *t, size_t n, const char *data, size_t size, ac_diag *dg)
{
    size_t at = 0;

    if (n)
        qsort(t, n, sizeof *t, by_data);
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)((const char *)t[i].data - data);
        if (begin != at)
            return ac_fail(dg, ADDCL_E_FORMAT,
                           "tensor '%.200s': its data begin at byte %zu, the data before end at %zu", t[i].name, begin,
                           at);
        at += (size_t)t[i].bytes;
    }
    if (at != size)
        return ac_fail(dg, ADDCL_E_FORMAT, "%zu bytes that belong to no tensor follow the data", size - at);
    return 0;
}

/* Takes over the entries of a parsed header as tensors of file number `file`. */
static int read_entries(ac_st *st, int file, const char *data, size_t n, ac_diag *dg)
{
    json_t *header = st->file.p[file].header, *info;
    size_t first = st->tensor.n;
    const char *name;
    int rc;

    if (!AC_RESERVE(&st->tensor, first + json_object_size(header)))
        return ac_nomem(dg, json_object_size(header) * sizeof(ac_st_tensor));
    json_object_foreach(header, name, info)
    {
        ac_st_tensor t = {.file = file};
        if (strcmp(name, METADATA) == 0) {
            AC_TRY(read_metadata(st, info, file == 0, dg));
        } else {
            AC_TRY(read_tensor(name, info, data, n, dg, &t));
            st->tensor.p[st->tensor.n++] = t;
        }
    }
    rc = check_cover(st->tensor.p + first, st->tensor.n - first, data, n, dg);
out:
    return rc;
}

/* Maps the file and appends its tensors. */
static int add_file(ac_st *st, const char *path, ac_diag *dg)
{
    int file = (int)st->file.n, rc;
    uint64_t length = 0;
    mapping *m;

    if (!AC_PUSH(&st->file, ((mapping){.path = ac_strdup(path)})) || !st->file.p[file].path)
        return ac_nomem(dg, strlen(path) + sizeof *m);
    m = &st->file.p[file];
    AC_TRY(map_file(path, dg, m));
    for (int i = PREFIX; i-- > 0;)
        length = length << 8 | (unsigned char)m->base[i];
    if (length > HEADER_MAX || length > m->size - PREFIX) {
        rc = ac_fail(dg, ADDCL_E_FORMAT, "no safetensors file, or cut short: header of %ju bytes in a file of %zu",
                     (uintmax_t)length, m->size);
        goto out;
    }
    AC_TRY(check_values(m->base + PREFIX, (size_t)length, dg));
    AC_TRY(parse_header(m->base + PREFIX, (size_t)length, dg, &m->header));
    AC_TRY(read_entries(st, file, m->base + PREFIX + length, m->size - PREFIX - (size_t)length, dg));
out:
    if (rc < 0)
        ac_context(dg, "%s", path);
    return rc;
}

/* ------------------------------------------------------------------------------------------------ shards */

static int stat_folder(const char *path, ac_diag *dg, struct stat *sb)
{
    char *folder = ac_printf("%.*s.", (int)ac_path_folder(path), path);
    int rc = 0;

    if (!folder)
        return ac_nomem(dg, strlen(path) + 2);
    if (stat(folder, sb) != 0)
        rc = ac_fail(dg, ADDCL_E_IO, "folder '%.200s': %s", folder, strerror(errno));
    free(folder);
    return rc;
}

static bool same_inode(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* A shard must lie in the folder of the index. Where the index is a symbolic link, as in the download cache of the
 * Hugging Face hub, it may instead lie in the folder which that link leads to. */
static int check_place(const char *index, const char *path, ac_diag *dg)
{
    char *real = realpath(path, NULL), *real_index = NULL;
    struct stat shard, folder, real_folder;
    int rc;

    if (!real || !(real_index = realpath(index, NULL))) {
        rc = ac_fail(dg, ADDCL_E_IO, "shard '%.200s': %s", path, strerror(errno));
        goto out;
    }
    AC_TRY(stat_folder(real, dg, &shard));
    AC_TRY(stat_folder(index, dg, &folder));
    AC_TRY(stat_folder(real_index, dg, &real_folder));
    if (!same_inode(&shard, &folder) && !same_inode(&shard, &real_folder))
        rc = ac_fail(dg, ADDCL_E_FORMAT, "shard '%.200s' is a link that leaves the folder", path);
out:
    free(real);
    free(real_index);
    return rc;
}

/* Adds the shard called `name` unless it is there already. */
static int add_shard(ac_st *st, const char *index, const char *name, ac_diag *dg)
{
    size_t n = ac_path_folder(index);
    char *path;
    int rc;

    for (size_t i = 0; i < st->file.n; i++)
        if (strcmp(st->file.p[i].path + n, name) == 0)
            return 0;
    if (!*name || strchr(name, '/'))
        return ac_fail(dg, ADDCL_E_FORMAT, "shard '%.200s' is no plain file name", name);
    if (!(path = ac_printf("%.*s%s", (int)n, index, name)))
        return ac_nomem(dg, n + strlen(name) + 1);
    rc = check_place(index, path, dg);
    if (rc == 0)
        rc = add_file(st, path, dg);
    free(path);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    const ac_st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Sorts the tensors for ac_st_find. Within a file the parser has refused equal names. */
static int sort_names(ac_st *st, ac_diag *dg)
{
    const ac_st_tensor *t = st->tensor.p;

    if (st->tensor.n)
        qsort(st->tensor.p, st->tensor.n, sizeof *t, by_name);
    for (size_t i = 1; i < st->tensor.n; i++)
        if (strcmp(t[i - 1].name, t[i].name) == 0)
            return ac_fail(dg, ADDCL_E_FORMAT, "tensor '%.200s' is in two shards: '%.200s' and '%.200s'", t[i].name,
                           st->file.p[t[i - 1].file].path, st->file.p[t[i].file].path);
    return 0;
}

/* Opens every shard that the index names, then checks that each tensor lies where the index says. */
static int open_index(ac_st *st, const char *path, ac_diag *dg)
{
    const char *name;
    json_t *shard;
    ac_json index, map;
    int rc;

    AC_TRY(ac_json_open(path, dg, &index));
    if (!ac_json_sub(&index, "weight_map", &map)) {
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: no index of shards: \"weight_map\" is missing", path);
        goto out;
    }
    json_object_foreach(map.obj, name, shard)
    {
        if (!json_is_string(shard)) {
            rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: shard of tensor '%.200s' is no string", path, name);
            goto out;
        }
        AC_TRY(add_shard(st, path, json_string_value(shard), dg));
    }
    AC_TRY(sort_names(st, dg));
    json_object_foreach(map.obj, name, shard)
    {
        const ac_st_tensor *t = ac_st_find(st, name);
        if (!t || strcmp(st->file.p[t->file].path + ac_path_folder(path), json_string_value(shard)) != 0) {
            rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: tensor '%.200s' is not in shard '%.200s'", path, name,
                         json_string_value(shard));
            goto out;
        }
    }
out:
    ac_json_close(&index);
    return rc;
}

/* ------------------------------------------------------------------------------------------------ reader */

int ac_st_open(const char *path, ac_diag *dg, ac_st **out)
{
    ac_st *st = ac_calloc(1, sizeof *st);
    int rc;

    *out = NULL;
    if (!st)
        return ac_nomem(dg, sizeof *st);
    st->page = (size_t)sysconf(_SC_PAGESIZE);
    if (ac_ends_with(path, ".json")) {
        AC_TRY(open_index(st, path, dg));
    } else {
        AC_TRY(add_file(st, path, dg));
        AC_TRY(sort_names(st, dg));
    }
    *out = st;
    return 0;
out:
    ac_st_close(st);
    return rc;
}

void ac_st_close(ac_st *st)
{
    if (!st)
        return;
    for (size_t i = 0; i < st->file.n; i++) {
        mapping *m = &st->file.p[i];
        if (m->base)
            munmap(m->base, m->size);
        json_decref(m->header);
        free(m->path);
    }
    free(st->file.p);
    free(st->tensor.p);
    free(st->meta.p);
    free(st);
}

size_t ac_st_count(const ac_st *st)
{
    return st->tensor.n;
}

const ac_st_tensor *ac_st_at(const ac_st *st, size_t i)
{
    return &st->tensor.p[i];
}

const ac_st_tensor *ac_st_find(const ac_st *st, const char *name)
{
    const ac_st_tensor key = {.name = name};

    return st->tensor.n ? bsearch(&key, st->tensor.p, st->tensor.n, sizeof key, by_name) : NULL;
}

size_t ac_st_meta_count(const ac_st *st)
{
    return st->meta.n;
}

void ac_st_meta_at(const ac_st *st, size_t i, const char **key, const char **value)
{
    *key = st->meta.p[i].key;
    *value = st->meta.p[i].value;
}

const char *ac_st_meta(const ac_st *st, const char *key)
{
    for (size_t i = 0; i < st->meta.n; i++)
        if (strcmp(st->meta.p[i].key, key) == 0)
            return st->meta.p[i].value;
    return NULL;
}

void ac_st_drop(const ac_st *st, const ac_st_tensor *t)
{
    char *base = st->file.p[t->file].base; /* starts a page */
    size_t begin = (size_t)((const char *)t->data - base), end = begin + (size_t)t->bytes;

    /* Only pages that no neighbour shares. Failure is harmless: the kernel drops clean pages by itself later. */
    begin = AC_CEIL_DIV(begin, st->page) * st->page;
    end = end / st->page * st->page;
    if (begin < end)
        (void)madvise(base + begin, end - begin, MADV_DONTNEED);
}

/* ------------------------------------------------------------------------------------------------ writer */

/* Order in the file: largest dtype (in the order of the enum) first, then by name. Sorts pointers to entries. */
static int by_file_order(const void *a, const void *b)
{
    const ac_st_entry *x = *(const ac_st_entry *const *)a, *y = *(const ac_st_entry *const *)b;

    return x->dtype != y->dtype ? (x->dtype < y->dtype) - (x->dtype > y->dtype) : strcmp(x->name, y->name);
}

/* A JSON string as serde_json, the reference library's serialiser, writes it. */
static void add_string(ac_str *s, const char *text)
{
    static const char special[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";

    ac_str_add(s, "\"");
    for (; *text; text++) {
        const char *p = strchr(special, *text);
        if (p)
            ac_str_addf(s, "\\%c", letter[p - special]);
        else if ((unsigned char)*text < 0x20)
            ac_str_addf(s, "\\u%04x", (unsigned)*text);
        else
            ac_str_addn(s, text, 1);
    }
    ac_str_add(s, "\"");
}

static void add_metadata(ac_str *s, const char *const (*meta)[2], size_t n)
{
    ac_str_add(s, "\"" METADATA "\":{");
    for (size_t i = 0; i < n; i++) {
        ac_str_add(s, i ? "," : "");
        add_string(s, meta[i][0]);
        ac_str_add(s, ":");
        add_string(s, meta[i][1]);
    }
    ac_str_add(s, "}");
}

/* One entry of the header for data at *at, which moves to their end. */
static int add_entry(ac_str *s, const ac_st_entry *e, size_t *at, ac_diag *dg)
{
    size_t bytes, begin = *at;

    if (strcmp(e->name, METADATA) == 0)
        return ac_fail(dg, ADDCL_E_ARG, "a tensor cannot be called " METADATA);
    if (e->dims < 0 || e->dims > AC_ST_DIMS || !ac_st_bytes(e->dtype, e->dims, e->dim, &bytes) ||
        !ac_add_size(begin, bytes, at))
        return ac_fail(dg, ADDCL_E_ARG, "tensor '%.200s': bad shape of %d dimensions", e->name, e->dims);
    add_string(s, e->name);
    ac_str_addf(s, ":{\"dtype\":\"%s\",\"shape\":[", ac_st_dtype_name(e->dtype));
    for (int i = 0; i < e->dims; i++)
        ac_str_addf(s, "%s%jd", i ? "," : "", (intmax_t)e->dim[i]);
    ac_str_addf(s, "],\"data_offsets\":[%zu,%zu]}", begin, *at);
    return 0;
}

/* The text of the header, padded so that the data begin at a multiple of 8. It is read back once: that finds names that
 * are given twice or are no UTF-8, and keeps it within the limits of the reader. */
static int make_header(const ac_st_entry *const *order, size_t n, const char *const (*meta)[2], size_t n_meta,
                       ac_str *s, ac_diag *dg)
{
    json_t *back = NULL;
    size_t at = 0;
    int rc;

    ac_str_add(s, "{");
    if (n_meta)
        add_metadata(s, meta, n_meta);
    for (size_t i = 0; i < n; i++) {
        ac_str_add(s, i || n_meta ? "," : "");
        AC_TRY(add_entry(s, order[i], &at, dg));
    }
    ac_str_add(s, "}");
    ac_str_addn(s, "       ", (PREFIX - s->n % PREFIX) % PREFIX);
    if (s->failed) {
        rc = ac_nomem(dg, s->n);
        goto out;
    }
    if (s->n > HEADER_MAX) {
        rc = ac_fail(dg, ADDCL_E_ARG, "header of %zu bytes: at most %zu are allowed", s->n, HEADER_MAX);
        goto out;
    }
    AC_TRY(check_values(s->p, s->n, dg));
    AC_TRY(parse_header(s->p, s->n, dg, &back));
out:
    json_decref(back);
    return rc;
}

/* Everything behind the header; `e` is the caller's array, of which `order` holds pointers. */
static int write_data(ac_file *f, const ac_st_entry *const *order, size_t n, const ac_st_entry *e,
                      int (*fill)(void *user, size_t i, void *dst, size_t bytes), void *user, ac_diag *dg)
{
    size_t bytes, largest = 0;
    void *buffer;
    int rc = 0;

    for (size_t i = 0; i < n; i++)
        if (ac_st_bytes(e[i].dtype, e[i].dims, e[i].dim, &bytes))
            largest = AC_MAX(largest, bytes);
    if (!(buffer = ac_calloc(largest, 1)))
        return ac_nomem(dg, largest);
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (!ac_st_bytes(order[i]->dtype, order[i]->dims, order[i]->dim, &bytes) || bytes == 0)
            continue;
        rc = fill(user, (size_t)(order[i] - e), buffer, bytes);
        if (rc < 0)
            ac_fail(dg, rc, "writing stopped at tensor '%.200s'", order[i]->name);
        else
            rc = ac_file_write(f, buffer, bytes, dg);
    }
    free(buffer);
    return rc;
}

int ac_st_write(const char *path, const ac_st_entry *e, size_t n, const char *const (*meta)[2], size_t n_meta,
                int (*fill)(void *user, size_t i, void *dst, size_t bytes), void *user, ac_diag *dg)
{
    const ac_st_entry **order = ac_calloc(n, sizeof *order);
    unsigned char prefix[PREFIX];
    ac_str header = {0};
    ac_file *f = NULL;
    int rc;

    if (!order)
        return ac_nomem(dg, n * sizeof *order);
    for (size_t i = 0; i < n; i++)
        order[i] = &e[i];
    qsort(order, n, sizeof *order, by_file_order);
    AC_TRY(make_header(order, n, meta, n_meta, &header, dg));
    for (int i = 0; i < PREFIX; i++)
        prefix[i] = (unsigned char)((uint64_t)header.n >> 8 * i);

    AC_TRY(ac_file_begin(path, dg, &f));
    AC_TRY(ac_file_write(f, prefix, sizeof prefix, dg));
    AC_TRY(ac_file_write(f, header.p, header.n, dg));
    AC_TRY(write_data(f, order, n, e, fill, user, dg));
    rc = ac_file_commit(f, dg);
    f = NULL;
out:
    ac_file_abort(f);
    ac_str_free(&header);
    free(order);
    return rc;
}
