/* json.h - JSON configuration files: loading with a size cap and positions in errors, and getters that check types.
 *
 * Getters share a sticky error: after the first failure `rc` holds its code, the message is in dg, and the following
 * getters return their defaults. So a configuration is read key by key without checks and `rc` is looked at once. */
#ifndef AC_JSON_H
#define AC_JSON_H

#include <jansson.h>
#include "base/mem.h"

#define AC_JSON_FILE_MAX ((size_t)16 << 20) /* bytes of a configuration file */

typedef struct ac_json {
    json_t *obj;      /* an object; borrowed from the document, owned by the ac_json that ac_json_open filled */
    const char *path; /* of the file, for messages; the caller's */
    ac_diag *dg;
    int rc; /* 0, or the code of the first error */
} ac_json;

/* The value in a text of n bytes, which is changed: the non-finite numbers that Python writes become null or 0. NULL with
 * the reason in *e when it is no JSON or has duplicate keys. */
json_t *ac_json_parse(char *text, size_t n, json_error_t *e);

/* Loads a file that holds one JSON object: no duplicate keys, at most AC_JSON_FILE_MAX bytes. On failure out->obj is
 * NULL; ac_json_close is fine then. `path` and `dg` must live as long as `out`. */
AC_CHECK_RESULT int ac_json_open(const char *path, ac_diag *dg, ac_json *out);
void ac_json_close(ac_json *j);

/* Absent keys and null give the default; a value of another type or out of [min, max] is an error that names file and
 * key. Strings are borrowed from j. */
bool ac_json_has(const ac_json *j, const char *key); /* present and not null */
int64_t ac_json_int(ac_json *j, const char *key, int64_t def, int64_t min, int64_t max);
double ac_json_num(ac_json *j, const char *key, double def);
bool ac_json_bool(ac_json *j, const char *key, bool def);
const char *ac_json_str(ac_json *j, const char *key, const char *def);
/* Arrays, at most `max_n` long: the number of elements stored in dst, 0 when the key is absent. A single integer counts
 * as an array of one (libraries write either). Integers must lie in [0, INT32_MAX]. */
size_t ac_json_ints(ac_json *j, const char *key, int *dst, size_t max_n);
size_t ac_json_strs(ac_json *j, const char *key, const char **dst, size_t max_n);
/* The object below `key`, borrowed (do not close); false when absent. Its errors are its own: look at sub->rc. */
bool ac_json_sub(ac_json *j, const char *key, ac_json *sub);


/* A value as text with the fewest digits that lose nothing: 15 do for what people write, 17 always. `flags`: jansson's
 * JSON_INDENT(n), JSON_COMPACT. New memory (free()); NULL when it is short. */
char *ac_json_text(const json_t *j, size_t flags);

/* x, or null where it is not finite, which JSON cannot say. */
json_t *ac_json_number(double x);

#endif
