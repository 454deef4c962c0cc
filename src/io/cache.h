/* cache.h - a store of small tensors on disk, found by what they were made of: latents and text embeddings.
 *
 * One file an entry, written beside its place and renamed, so any number of processes may share a folder. A file that
 * is damaged, cut or not this entry's counts as absent. Nothing is synced or removed: losing an entry costs its making.
 */
#ifndef AC_CACHE_H
#define AC_CACHE_H

#include "base/mem.h"

typedef struct ac_cache ac_cache;

/* Makes the folder (and those above it) where it lacks. */
AC_CHECK_RESULT int ac_cache_open(const char *dir, ac_diag *dg, ac_cache **out);
void ac_cache_close(ac_cache *c);

/* Key of what the network `network` (its hash and what else changes its numbers) makes of `content` (hash of a
 * picture's file, or a caption) shown as `how` ("" for none). */
void ac_cache_key(const char *network, const void *content, size_t n, const char *how, uint8_t key[32]);

/* True when the entry is there, whole and of exactly n bytes, which are then in dst. Otherwise dst is undefined. */
bool ac_cache_get(const ac_cache *c, const uint8_t key[32], void *dst, size_t n);
/* Replaces an entry that is there. On failure (disk full, no permission) nothing is left behind. */
AC_CHECK_RESULT int ac_cache_put(ac_cache *c, const uint8_t key[32], const void *data, size_t n, ac_diag *dg);

#endif
