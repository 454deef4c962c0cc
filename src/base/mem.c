/* mem.c - the one allocator, checked sizes, growable arrays and strings. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Atomic: the threads of a loader allocate too. */
static atomic_ulong alloc_count, alloc_fail_at;

static bool fail_now(void)
{
    unsigned long n = atomic_fetch_add_explicit(&alloc_count, 1, memory_order_relaxed) + 1;
    return n == atomic_load_explicit(&alloc_fail_at, memory_order_relaxed);
}

unsigned long ac_alloc_fail_at(unsigned long n)
{
    unsigned long made = alloc_count;
    alloc_count = 0;
    alloc_fail_at = n;
    return made;
}

bool ac_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool ac_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

void *ac_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (fail_now() || !ac_mul_size(n, size, &bytes))
        return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *ac_realloc(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (fail_now() || !ac_mul_size(n, size, &bytes))
        return NULL;
    return realloc(p, bytes ? bytes : 1);
}

char *ac_strndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *p = ac_calloc(len + 1, 1);
    if (p)
        memcpy(p, s, len);
    return p;
}

char *ac_strdup(const char *s)
{
    return ac_strndup(s, strlen(s));
}

char *ac_printf(const char *fmt, ...)
{
    va_list ap;
    int n;
    char *p;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !(p = ac_calloc((size_t)n + 1, 1)))
        return NULL;
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

bool ac_ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

uint64_t ac_fnv(uint64_t h, const void *data, size_t n)
{
    const unsigned char *c = data;

    for (size_t i = 0; i < n; i++)
        h = (h ^ c[i]) * 0x100000001b3u;
    return h;
}

int ac_nomem(ac_diag *dg, size_t bytes)
{
    return ac_fail(dg, ADDCL_E_NOMEM, "out of memory: %zu bytes of host memory could not be allocated", bytes);
}

bool ac_grow(void **p, size_t *cap, size_t need, size_t size)
{
    size_t want = *cap < 8 ? 8 : *cap + *cap / 2;
    void *q;

    if (want < need)
        want = need;
    if (!(q = ac_realloc(*p, want, size)))
        return false;
    *p = q;
    *cap = want;
    return true;
}

void ac_str_addn(ac_str *s, const char *text, size_t n)
{
    if (s->failed)
        return;
    if (s->n + n + 1 > s->cap && !ac_grow((void **)&s->p, &s->cap, s->n + n + 1, 1)) {
        s->failed = true;
        return;
    }
    memcpy(s->p + s->n, text, n);
    s->n += n;
    s->p[s->n] = '\0';
}

void ac_str_add(ac_str *s, const char *text)
{
    ac_str_addn(s, text, strlen(text));
}

void ac_str_addf(ac_str *s, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (s->failed || n < 0)
        return;
    if (s->n + (size_t)n + 1 > s->cap && !ac_grow((void **)&s->p, &s->cap, s->n + (size_t)n + 1, 1)) {
        s->failed = true;
        return;
    }
    va_start(ap, fmt);
    vsnprintf(s->p + s->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    s->n += (size_t)n;
}

void ac_str_free(ac_str *s)
{
    free(s->p);
    *s = (ac_str){0};
}
