/* cache.c - a store of small tensors on disk: one file an entry, in 256 folders.
 *
 * An entry is a header (magic, key, SHA-256 of the data, number of bytes, little-endian) and the data. */
#include "io/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "base/sha256.h"

typedef struct header {
    uint8_t magic[8], key[32], digest[32], n[8];
} header;

struct ac_cache {
    char *dir;
    uint64_t nonce;    /* makes the names of temporary files differ between processes, also of other machines */
    atomic_uint temps; /* temporary files begun */
};

/* ---------------------------------------------------------------------------------------------------- opening */

static int make_folder(const char *path, ac_diag *dg)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST)
        return 0;
    return ac_fail(dg, ADDCL_E_IO, "cannot make the folder '%s': %s", path, strerror(errno));
}

/* The folder and those above it. `path` is cut for a while at each slash. */
static int make_folders(char *path, ac_diag *dg)
{
    int rc = 0;

    for (char *p = path + 1; *p && rc == 0; p++)
        if (*p == '/') {
            *p = '\0';
            rc = make_folder(path, dg);
            *p = '/';
        }
    return rc == 0 ? make_folder(path, dg) : rc;
}

int ac_cache_open(const char *dir, ac_diag *dg, ac_cache **out)
{
    ac_cache *c = ac_calloc(1, sizeof *c);
    struct timespec now;
    struct stat st;
    int rc = 0;

    *out = NULL;
    if (!*dir) {
        rc = ac_fail(dg, ADDCL_E_ARG, "cache: the folder's name is empty");
    } else if (!c || !(c->dir = ac_strdup(dir))) {
        rc = ac_nomem(dg, sizeof *c + strlen(dir));
    } else {
        clock_gettime(CLOCK_REALTIME, &now);
        c->nonce = ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) ^ (uint64_t)getpid() << 40;
        rc = make_folders(c->dir, dg);
        if (rc == 0 && (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode)))
            rc = ac_fail(dg, ADDCL_E_IO, "cache: '%s' is no folder", dir);
    }
    if (rc < 0)
        ac_cache_close(c);
    else
        *out = c;
    return rc;
}

void ac_cache_close(ac_cache *c)
{
    if (c)
        free(c->dir);
    free(c);
}

/* ------------------------------------------------------------------------------------------------------ entries */

void ac_cache_key(const char *network, const void *content, size_t n, const char *how, uint8_t key[32])
{
    const struct {
        const void *p;
        size_t n;
    } part[] = {{network, strlen(network)}, {content, n}, {how, strlen(how)}};
    ac_sha256 s;

    ac_sha256_init(&s);
    for (size_t i = 0; i < AC_LEN(part); i++) {
        uint64_t length = part[i].n;
        uint8_t bytes[8];
        for (int k = 0; k < 8; k++)
            bytes[k] = (uint8_t)(length >> 8 * k);
        ac_sha256_update(&s, bytes, sizeof bytes); /* or ("ab", "c") and ("a", "bc") would be the same */
        ac_sha256_update(&s, part[i].p, part[i].n);
    }
    ac_sha256_final(&s, key);
}

static header make_header(const uint8_t key[32], const void *data, size_t n)
{
    header h = {.magic = {'a', 'd', 'd', 'c', 'l', 't', '1', '\n'}};
    ac_sha256 s;

    memcpy(h.key, key, 32);
    ac_sha256_init(&s);
    ac_sha256_update(&s, data, n);
    ac_sha256_final(&s, h.digest);
    for (int k = 0; k < 8; k++)
        h.n[k] = (uint8_t)((uint64_t)n >> 8 * k);
    return h;
}

/* "<dir>/ab/<other 62 digits of the key>" in new memory. */
static char *entry_path(const ac_cache *c, const uint8_t key[32])
{
    char hex[65];

    ac_sha256_text(key, hex);
    return ac_printf("%s/%.2s/%s", c->dir, hex, hex + 2);
}

bool ac_cache_get(const ac_cache *c, const uint8_t key[32], void *dst, size_t n)
{
    char *path = entry_path(c, key);
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    header found, want;
    char more;
    struct iovec part[] = {{&found, sizeof found}, {dst, n}, {&more, 1}};
    ssize_t r = fd >= 0 ? readv(fd, part, AC_LEN(part)) : -1;

    if (fd >= 0)
        close(fd);
    free(path);
    if (r < 0 || (size_t)r != sizeof found + n)
        return false;
    want = make_header(key, dst, n);
    return memcmp(&found, &want, sizeof want) == 0;
}

/* Writes a new file; it is removed again when that fails. */
static int write_file(const char *path, const void *data, size_t n, ac_diag *dg)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666), rc = 0;
    ssize_t w = fd >= 0 ? write(fd, data, n) : -1;

    if (w < 0 || (size_t)w != n)
        rc = ac_fail(dg, ADDCL_E_IO, "cannot write '%s': %s", path, strerror(w < 0 ? errno : ENOSPC));
    if (fd >= 0 && close(fd) != 0 && rc == 0)
        rc = ac_fail(dg, ADDCL_E_IO, "cannot write '%s': %s", path, strerror(errno));
    if (fd >= 0 && rc < 0)
        unlink(path);
    return rc;
}

/* The entry's file at `path`, through a temporary one beside it. The folder is made when it lacks. */
static int put_file(ac_cache *c, char *path, const void *data, size_t n, ac_diag *dg)
{
    char *temp = ac_printf("%s.%jx-%u", path, (uintmax_t)c->nonce, atomic_fetch_add(&c->temps, 1));
    char *slash = strrchr(path, '/');
    int rc;

    if (!temp)
        return ac_nomem(dg, strlen(path));
    *slash = '\0';
    rc = make_folder(path, dg);
    *slash = '/';
    if (rc == 0)
        rc = write_file(temp, data, n, dg);
    if (rc == 0 && rename(temp, path) != 0) {
        rc = ac_fail(dg, ADDCL_E_IO, "cannot rename '%s': %s", temp, strerror(errno));
        unlink(temp);
    }
    free(temp);
    return rc;
}

int ac_cache_put(ac_cache *c, const uint8_t key[32], const void *data, size_t n, ac_diag *dg)
{
    header h = make_header(key, data, n);
    char *path = entry_path(c, key);
    uint8_t *file = n <= SIZE_MAX - sizeof h ? ac_calloc(sizeof h + n, 1) : NULL;
    int rc;

    if (path && file) {
        memcpy(file, &h, sizeof h);
        memcpy(file + sizeof h, data, n);
        rc = put_file(c, path, file, sizeof h + n, dg);
    } else {
        rc = ac_nomem(dg, sizeof h + n);
    }
    free(file);
    free(path);
    return rc;
}
