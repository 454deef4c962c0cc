/* mem.h - memory: one allocator (with a fail-at-n hook for tests), checked sizes, growable arrays, strings. */
#ifndef AC_MEM_H
#define AC_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

/* Zeroed memory for n elements of `size` bytes; NULL when n * size overflows or memory is short. n = 0 gives a valid
 * pointer. Free with free(). */
void *ac_calloc(size_t n, size_t size);
/* realloc for n elements of `size` bytes, new bytes not zeroed; NULL (old block kept) when it cannot be had. */
void *ac_realloc(void *p, size_t n, size_t size);
char *ac_strdup(const char *s);
char *ac_strndup(const char *s, size_t n);
/* printf into new memory; NULL when memory is short. */
char *ac_printf(const char *fmt, ...) AC_PRINTF(1, 2);
bool ac_ends_with(const char *s, const char *end);
/* Goes on with a hash (FNV-1a) from h; AC_FNV: begins one. */
#define AC_FNV 0xcbf29ce484222325u
uint64_t ac_fnv(uint64_t h, const void *data, size_t n);
/* Reports that n bytes could not be had; returns ADDCL_E_NOMEM. */
int ac_nomem(ac_diag *dg, size_t bytes);

/* *out = a * b, false on overflow. */
bool ac_mul_size(size_t a, size_t b, size_t *out);
bool ac_add_size(size_t a, size_t b, size_t *out);

/* Tests: the n-th allocation from now on fails (1 = the next one), once; 0 switches the hook off. Returns the number of
 * allocations made since the last call. Not thread-safe; never used by the library itself. */
unsigned long ac_alloc_fail_at(unsigned long n);

/* Growable array: struct { T *p; size_t n, cap; }. AC_PUSH is true when the element was appended. */
#define AC_VEC(T)                                                                                                      \
    struct {                                                                                                           \
        T *p;                                                                                                          \
        size_t n, cap;                                                                                                 \
    }
bool ac_grow(void **p, size_t *cap, size_t need, size_t size);
#define AC_PUSH(v, x)                                                                                                  \
    (((v)->n < (v)->cap || ac_grow((void **)&(v)->p, &(v)->cap, (v)->n + 1, sizeof *(v)->p))                           \
         ? ((v)->p[(v)->n++] = (x), true)                                                                              \
         : false)
/* Room for `need` elements in all. */
#define AC_RESERVE(v, need) ((v)->cap >= (need) || ac_grow((void **)&(v)->p, &(v)->cap, (need), sizeof *(v)->p))

/* String builder; sticky: after a failed append `failed` is set and further appends do nothing. */
typedef struct ac_str {
    char *p; /* always NUL-terminated once something was appended; may be NULL when empty */
    size_t n, cap;
    bool failed;
} ac_str;
void ac_str_add(ac_str *s, const char *text);
void ac_str_addn(ac_str *s, const char *text, size_t n);
void ac_str_addf(ac_str *s, const char *fmt, ...) AC_PRINTF(2, 3);
void ac_str_free(ac_str *s);

#define AC_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define AC_MIN(a, b) ((a) < (b) ? (a) : (b))
#define AC_MAX(a, b) ((a) > (b) ? (a) : (b))
#define AC_CEIL_DIV(a, b) (((a) + (b) - 1) / (b))

#endif
