/* memo.c - tensors by content, in memory and on disk. */
#include "train/memo.h"

#include <stdlib.h>
#include <string.h>

#include "io/cache.h"

typedef struct entry {
    uint8_t key[32];
    float *data; /* NULL: the place is empty */
} entry;

struct ac_memo {
    ac_diag *dg;
    ac_cache *disk; /* NULL: none, or it failed */
    char *network;
    size_t n, limit, used; /* floats of a tensor; bytes allowed and kept in memory */
    entry *table;          /* open addressing by the key's first bytes */
    size_t places, filled; /* places: a power of two */
};

int ac_memo_new(const char *dir, const char *network, size_t n, size_t limit, ac_diag *dg, ac_memo **out)
{
    ac_memo *m = ac_calloc(1, sizeof *m);
    int rc = 0;

    *out = NULL;
    if (!m || !(m->network = ac_strdup(network)) || !(m->table = ac_calloc(1024, sizeof *m->table))) {
        rc = ac_nomem(dg, 1024 * sizeof(entry));
        goto out;
    }
    m->dg = dg;
    m->n = n;
    m->limit = limit;
    m->places = 1024;
    if (dir)
        AC_TRY(ac_cache_open(dir, dg, &m->disk));
    *out = m;
    m = NULL;
out:
    ac_memo_free(m);
    return rc;
}

void ac_memo_free(ac_memo *m)
{
    if (!m)
        return;
    for (size_t i = 0; m->table && i < m->places; i++)
        free(m->table[i].data);
    ac_cache_close(m->disk);
    free(m->table);
    free(m->network);
    free(m);
}

/* The place of a key, or the empty one where it belongs. */
static entry *place(entry *table, size_t places, const uint8_t key[32])
{
    uint64_t h;
    size_t i;

    memcpy(&h, key, sizeof h); /* SHA-256: its first bytes are as good as any hash */
    for (i = h & (places - 1); table[i].data && memcmp(table[i].key, key, 32); i = (i + 1) & (places - 1))
        ;
    return &table[i];
}

static bool grow(ac_memo *m)
{
    entry *t;

    if (2 * m->filled < m->places)
        return true;
    if (!(t = ac_calloc(2 * m->places, sizeof *t)))
        return false;
    for (size_t i = 0; i < m->places; i++)
        if (m->table[i].data)
            *place(t, 2 * m->places, m->table[i].key) = m->table[i];
    free(m->table);
    m->table = t;
    m->places *= 2;
    return true;
}

/* Without memory, or beyond the limit, a tensor is simply not kept. */
static void remember(ac_memo *m, const uint8_t key[32], const float *src)
{
    size_t bytes = m->n * sizeof *src;
    entry *e;

    if (m->used + bytes > m->limit || !grow(m))
        return;
    e = place(m->table, m->places, key);
    if (!e->data && (e->data = ac_calloc(m->n, sizeof *src))) {
        memcpy(e->key, key, 32);
        m->used += bytes;
        m->filled++;
    }
    if (e->data)
        memcpy(e->data, src, bytes);
}

bool ac_memo_get(ac_memo *m, const void *content, size_t bytes, const char *how, float *dst)
{
    uint8_t key[32];
    const entry *e;

    ac_cache_key(m->network, content, bytes, how, key);
    e = place(m->table, m->places, key);
    if (e->data) {
        memcpy(dst, e->data, m->n * sizeof *dst);
        return true;
    }
    if (!m->disk || !ac_cache_get(m->disk, key, dst, m->n * sizeof *dst))
        return false;
    remember(m, key, dst);
    return true;
}

int ac_memo_put(ac_memo *m, const void *content, size_t bytes, const char *how, const float *src)
{
    ac_diag quiet = {0};
    uint8_t key[32];
    int rc;

    ac_cache_key(m->network, content, bytes, how, key);
    remember(m, key, src);
    rc = m->disk ? ac_cache_put(m->disk, key, src, m->n * sizeof *src, &quiet) : 0;
    if (rc == ADDCL_E_IO) {
        ac_note(m->dg, ADDCL_LOG_WARN, "%s; going on without the cache on disk", quiet.msg);
        ac_cache_close(m->disk);
        m->disk = NULL;
        rc = 0;
    }
    return rc < 0 ? ac_fail(m->dg, rc, "%s", quiet.msg) : 0;
}
