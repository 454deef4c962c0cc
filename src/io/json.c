/* json.c - JSON configuration files over jansson. */
#include "io/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"

/* Some configurations hold integers of no 64-bit type (tokenizers write int(1e30) for "no limit"), which jansson
 * refuses; such a file is read again with its integers as doubles. */
static json_t *parse(const char *text, size_t n, json_error_t *e)
{
    json_t *doc = json_loadb(text, n, JSON_REJECT_DUPLICATES, e);

    if (!doc && json_error_code(e) == json_error_numeric_overflow)
        doc = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, e);
    return doc;
}

/* Python's json module writes Infinity, -Infinity and NaN, which JSON has not: they become null, so keys that hold them read
 * as absent. Done in place, outside of strings. */
static void blank_non_finite(char *text, size_t n)
{
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    bool quoted = false;

    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\\' && quoted)
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        for (size_t w = 0; !quoted && i < n && w < AC_LEN(words); w++) {
            size_t len = strlen(words[w]);
            if (n - i >= len && !memcmp(text + i, words[w], len)) {
                memset(text + i, ' ', len);
                memcpy(text + i, len < 4 ? "0.0" : "null", len < 4 ? 3 : 4); /* null has no room in NaN */
            }
        }
    }
}

json_t *ac_json_parse(char *text, size_t n, json_error_t *e)
{
    blank_non_finite(text, n);
    return parse(text, n, e);
}

int ac_json_open(const char *path, ac_diag *dg, ac_json *out)
{
    json_error_t e;
    char *text;
    size_t n;
    int rc = ac_file_read(path, AC_JSON_FILE_MAX, dg, &text, &n);

    *out = (ac_json){.path = path, .dg = dg};
    if (rc < 0)
        return out->rc = rc;
    out->obj = ac_json_parse(text, n, &e);
    free(text);
    if (!out->obj && json_error_code(&e) == json_error_out_of_memory)
        out->rc = ac_nomem(dg, n);
    else if (!out->obj)
        out->rc = ac_fail(dg, ADDCL_E_FORMAT, "%s:%d:%d: %s", path, e.line, e.column, e.text);
    else if (!json_is_object(out->obj))
        out->rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: an array where an object was expected", path);
    if (out->rc < 0)
        ac_json_close(out);
    return out->rc;
}

void ac_json_close(ac_json *j)
{
    json_decref(j->obj);
    j->obj = NULL;
}

/* The value of a key; NULL when it is absent or null, or after an error. */
static json_t *get(const ac_json *j, const char *key)
{
    json_t *v = j->rc == 0 ? json_object_get(j->obj, key) : NULL;
    return json_is_null(v) ? NULL : v;
}

static void wrong(ac_json *j, const char *key, const json_t *v, const char *expected)
{
    static const char *const type[] = {"an object", "an array", "a string", "an integer",
                                       "a number",  "true",     "false",    "null"};

    j->rc =
        ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"%s\" is %s: expected %s", j->path, key, type[json_typeof(v)], expected);
}

/* A number without fraction that a double holds exactly or an integer of JSON; false: something else. */
static bool to_int(const json_t *v, int64_t *out)
{
    double d;

    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return true;
    }
    d = json_real_value(v); /* 0 for all other types */
    if (!json_is_real(v) || d != floor(d) || fabs(d) > 0x1p53)
        return false;
    *out = (int64_t)d;
    return true;
}

bool ac_json_has(const ac_json *j, const char *key)
{
    return get(j, key) != NULL;
}

int64_t ac_json_int(ac_json *j, const char *key, int64_t def, int64_t min, int64_t max)
{
    const json_t *v = get(j, key);
    int64_t x;

    if (!v)
        return def;
    if (!to_int(v, &x)) {
        wrong(j, key, v, "an integer");
        return def;
    }
    if (x < min || x > max) {
        j->rc = ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"%s\" is %jd: expected %jd to %jd", j->path, key, (intmax_t)x,
                        (intmax_t)min, (intmax_t)max);
        return def;
    }
    return x;
}

double ac_json_num(ac_json *j, const char *key, double def)
{
    const json_t *v = get(j, key);

    if (!v)
        return def;
    if (!json_is_number(v)) {
        wrong(j, key, v, "a number");
        return def;
    }
    return json_number_value(v);
}

bool ac_json_bool(ac_json *j, const char *key, bool def)
{
    const json_t *v = get(j, key);

    if (!v)
        return def;
    if (!json_is_boolean(v)) {
        wrong(j, key, v, "true or false");
        return def;
    }
    return json_is_true(v);
}

const char *ac_json_str(ac_json *j, const char *key, const char *def)
{
    const json_t *v = get(j, key);

    if (!v)
        return def;
    if (!json_is_string(v)) {
        wrong(j, key, v, "a string");
        return def;
    }
    return json_string_value(v);
}

/* Length of the array v, or 0 after an error: not an array, longer than max_n. */
static size_t array_size(ac_json *j, const char *key, const json_t *v, size_t max_n)
{
    size_t n = json_array_size(v);

    if (!json_is_array(v)) {
        wrong(j, key, v, "an array");
    } else if (n > max_n) {
        j->rc =
            ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"%s\" has %zu elements: expected at most %zu", j->path, key, n, max_n);
        return 0;
    }
    return n;
}

size_t ac_json_ints(ac_json *j, const char *key, int *dst, size_t max_n)
{
    const json_t *v = get(j, key);
    bool single = json_is_number(v);
    size_t n = !v ? 0 : single ? 1 : array_size(j, key, v, max_n);

    for (size_t i = 0; i < n; i++) {
        int64_t x;
        if (!to_int(single ? v : json_array_get(v, i), &x) || x < 0 || x > INT32_MAX) {
            wrong(j, key, v, "an array of integers from 0 to 2147483647");
            return 0;
        }
        dst[i] = (int)x;
    }
    return n;
}

size_t ac_json_strs(ac_json *j, const char *key, const char **dst, size_t max_n)
{
    const json_t *v = get(j, key);
    size_t n = v ? array_size(j, key, v, max_n) : 0;

    for (size_t i = 0; i < n; i++) {
        dst[i] = json_string_value(json_array_get(v, i));
        if (!dst[i]) {
            wrong(j, key, v, "an array of strings");
            return 0;
        }
    }
    return n;
}

bool ac_json_sub(ac_json *j, const char *key, ac_json *sub)
{
    json_t *v = get(j, key);

    *sub = (ac_json){.path = j->path, .dg = j->dg, .rc = j->rc};
    if (v && !json_is_object(v)) {
        wrong(j, key, v, "an object");
        sub->rc = j->rc;
        return false;
    }
    sub->obj = v;
    return v != NULL;
}

char *ac_json_text(const json_t *j, size_t flags)
{
    char *text = json_dumps(j, flags | JSON_REAL_PRECISION(15));
    json_t *back = text ? json_loads(text, 0, NULL) : NULL;

    if (back && !json_equal(back, j)) {
        free(text);
        text = json_dumps(j, flags | JSON_REAL_PRECISION(17));
    }
    json_decref(back);
    return text;
}

json_t *ac_json_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}
