/* api_hash.c - SHA-256 of a model file in a thread, cached by path, size and time of change. */
#include "api_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/sha256.h"

/* "<cache>/hash/<sha256 of path, size, time>", the folder made; NULL: no cache. Owned by the caller. */
static char *cache_file(const char *path, const struct stat *st)
{
    char *dir = ac_cache_dir(), *real = realpath(path, NULL), *key, *file = NULL, hex[65];

    key = real ? ac_printf("%s %lld %lld.%09ld", real, (long long)st->st_size, (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec) : NULL;
    if (dir && key) {
        char *sub = ac_path_join(dir, "hash");
        mkdir(dir, 0700); /* failures show when the file is written: then there is no cache */
        if (sub)
            mkdir(sub, 0700);
        ac_sha256_hex(key, strlen(key), hex);
        file = sub ? ac_path_join(sub, hex) : NULL;
        free(sub);
    }
    free(dir);
    free(real);
    free(key);
    return file;
}

static bool cached(const char *file, char hex[65])
{
    ac_diag quiet = {0};
    char *text = NULL;
    size_t n;
    bool ok = file && ac_exists(file) && ac_file_read(file, 128, &quiet, &text, &n) == 0 && n == 64 && strspn(text, "0123456789abcdef") == 64;

    if (ok)
        memcpy(hex, text, 65);
    free(text);
    return ok;
}

static int hash_file(ac_hash *h, int fd)
{
    enum { BLOCK = 1 << 20 };
    unsigned char *buf = ac_calloc(BLOCK, 1), digest[32];
    ac_sha256 s;
    ssize_t n = 0;

    if (!buf)
        return ac_nomem(&h->dg, BLOCK);
    ac_sha256_init(&s);
    while (!h->stop && (n = read(fd, buf, BLOCK)) > 0)
        ac_sha256_update(&s, buf, (size_t)n);
    free(buf);
    if (h->stop)
        return ac_fail(&h->dg, ADDCL_E_CANCELLED, "%s: not hashed", h->path);
    if (n < 0)
        return ac_fail(&h->dg, ADDCL_E_IO, "%s cannot be read", h->path);
    ac_sha256_final(&s, digest);
    ac_sha256_text(digest, h->hex);
    return 0;
}

static void *work(void *arg)
{
    ac_hash *h = arg;
    ac_diag quiet = {0};
    struct stat st;
    char *file;
    int fd = open(h->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        h->rc = ac_fail(&h->dg, ADDCL_E_IO, "%s cannot be opened", h->path);
    } else {
        file = cache_file(h->path, &st);
        if (!cached(file, h->hex)) {
            h->rc = hash_file(h, fd);
            if (h->rc == 0 && file && ac_file_save(file, h->hex, 64, &quiet) < 0)
                h->rc = 0; /* no cache: it is computed again next time */
        }
        free(file);
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

int ac_hash_start(ac_hash *h, const char *path, ac_diag *dg)
{
    if (!(h->path = ac_strdup(path)))
        return ac_nomem(dg, strlen(path));
    h->started = pthread_create(&h->thread, NULL, work, h) == 0;
    return 0; /* without a thread it is computed when asked for */
}

int ac_hash_wait(ac_hash *h, ac_diag *dg, char hex[65])
{
    if (!h->joined) {
        if (h->started)
            pthread_join(h->thread, NULL);
        else
            work(h);
        h->joined = true;
    }
    if (h->rc < 0)
        return ac_fail(dg, h->rc, "%s", h->dg.msg);
    memcpy(hex, h->hex, 65);
    return 0;
}

void ac_hash_free(ac_hash *h)
{
    h->stop = true;
    if (h->started && !h->joined)
        pthread_join(h->thread, NULL);
    free(h->path);
}
