/* memo.h - what frozen networks made of pictures and captions, kept in memory and on disk, so that it is computed once. */
#ifndef AC_MEMO_H
#define AC_MEMO_H

#include "base/mem.h"

typedef struct ac_memo ac_memo;

/* A store of tensors of n floats made by the network whose hash is `network`; dir NULL: in memory only. It keeps at most `limit`
 * bytes in memory. */
int ac_memo_new(const char *dir, const char *network, size_t n, size_t limit, ac_diag *dg, ac_memo **out) AC_CHECK_RESULT;
void ac_memo_free(ac_memo *m); /* accepts NULL */
/* True and the tensor in dst, when it is known. Content and how: see ac_cache_key. */
bool ac_memo_get(ac_memo *m, const void *content, size_t bytes, const char *how, float *dst);
/* A disk that takes no more is told once; the memory goes on. */
int ac_memo_put(ac_memo *m, const void *content, size_t bytes, const char *how, const float *src) AC_CHECK_RESULT;

#endif
