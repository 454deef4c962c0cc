/* dataset_rules.c - the fields of samples: conditions on them, replaced values, lists of samples. */
#include "io/dataset_file.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/file.h"
#include "io/json.h"

#define LIST_MAX ((size_t)256 << 20) /* bytes of a list of samples */

/* ------------------------------------------------------------------------------------------------------ fields */

size_t ac_field_count(const json_t *value)
{
    if (json_is_array(value))
        return json_array_size(value);
    return value && !json_is_object(value) && !json_is_null(value);
}

const char *ac_field_text(const json_t *value, size_t i, char buf[32])
{
    const json_t *v = json_is_array(value) ? json_array_get(value, i) : value;

    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_STRING:
        return json_string_value(v);
    case JSON_INTEGER:
        snprintf(buf, 32, "%jd", (intmax_t)json_integer_value(v));
        return buf;
    case JSON_REAL:
        snprintf(buf, 32, "%g", json_real_value(v));
        return buf;
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    default:
        return "";
    }
}

/* ------------------------------------------------------------------------------------------------------- rules */

static char *trim(char *s)
{
    size_t n;

    while (isspace((unsigned char)*s))
        s++;
    for (n = strlen(s); n > 0 && isspace((unsigned char)s[n - 1]); n--)
        s[n - 1] = '\0';
    return s;
}

/* Cuts one rule out of `item`; false when it is none. */
static bool parse_rule(char *item, bool with_tail, ac_rule *out)
{
    char *value = strchr(item, '='), *tail = NULL;

    if (!value || value == item)
        return false;
    if (with_tail && !(tail = strrchr(value, ':')))
        return false;
    *out = (ac_rule){.negated = value[-1] == '!'};
    value[out->negated ? -1 : 0] = '\0';
    *value++ = '\0';
    if (tail)
        *tail++ = '\0';
    out->field = trim(item);
    out->pattern = trim(value);
    out->tail = tail ? trim(tail) : NULL;
    return *out->field != '\0';
}

int ac_rules_parse(const char *option, const char *text, bool with_tail, ac_diag *dg, ac_rules *out)
{
    char *rest, *item;

    if (!text)
        return 0;
    if (!(rest = out->text = ac_strdup(text)))
        return ac_nomem(dg, strlen(text) + 1);
    while ((item = strsep(&rest, ","))) {
        size_t at = (size_t)(item - out->text);
        ac_rule rule;
        if (*trim(item) == '\0')
            continue;
        if (!parse_rule(item, with_tail, &rule))
            return ac_fail(dg, ADDCL_E_ARG, "%s: '%.*s': expected field=pattern%s", option,
                           (int)strcspn(text + at, ","), text + at, with_tail ? ":..." : " or field!=pattern");
        if (!AC_PUSH(&out->rule, rule))
            return ac_nomem(dg, sizeof rule);
    }
    return 0;
}

void ac_rules_free(ac_rules *r)
{
    free(r->text);
    free(r->rule.p);
}

static bool fits(const ac_rule *r, const char *text)
{
    return fnmatch(r->pattern, text, 0) == 0;
}

bool ac_rule_fits(const ac_rule *r, const char *text)
{
    return fits(r, text) != r->negated;
}

bool ac_rule_met(const ac_rule *r, const json_t *fields)
{
    const json_t *value = json_object_get(fields, r->field);
    size_t n = ac_field_count(value), i = 0;
    char buf[32];

    while (i < n && !fits(r, ac_field_text(value, i, buf)))
        i++;
    return (i < n) != r->negated;
}

/* ------------------------------------------------------------------------------------------------------- lists */

static int add_to_set(json_t **set, const char *key, ac_diag *dg)
{
    if (!*set)
        *set = json_object();
    return json_object_set_new_nocheck(*set, key, json_true()) == 0 ? 0 : ac_nomem(dg, strlen(key));
}

/* The strings of the array `key`, if it is there. */
static int add_array(const ac_json *j, const char *key, json_t **set)
{
    const json_t *array = json_object_get(j->obj, key);
    int rc = 0;

    if (array && !json_is_array(array))
        return ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"%s\" is no array", j->path, key);
    for (size_t i = 0; i < json_array_size(array) && rc == 0; i++) {
        const char *text = json_string_value(json_array_get(array, i));
        rc = text ? add_to_set(set, text, j->dg)
                  : ac_fail(j->dg, ADDCL_E_FORMAT, "%s: \"%s\" holds something that is no string", j->path, key);
    }
    return rc;
}

static int read_json_list(const char *path, ac_diag *dg, ac_data_list *out)
{
    ac_json j;
    int rc;

    AC_TRY(ac_json_open(path, dg, &j));
    AC_TRY(add_array(&j, "file_names", &out->names));
    AC_TRY(add_array(&j, "labels", &out->labels));
    if (!out->names && !out->labels)
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: neither \"file_names\" nor \"labels\" in it", path);
out:
    ac_json_close(&j);
    return rc;
}

/* One name a line. */
static int read_text_list(const char *path, ac_diag *dg, ac_data_list *out)
{
    char *text, *rest, *line;
    size_t n;
    int rc = ac_file_read(path, LIST_MAX, dg, &text, &n);

    rest = text;
    while (rc == 0 && (line = strsep(&rest, "\n"))) {
        line = trim(line);
        if (*line)
            rc = add_to_set(&out->names, line, dg);
    }
    free(text);
    return rc;
}

int ac_data_list_read(const char *path, ac_diag *dg, ac_data_list *out)
{
    size_t n = strlen(path);

    return n > 5 && strcasecmp(path + n - 5, ".json") == 0 ? read_json_list(path, dg, out)
                                                           : read_text_list(path, dg, out);
}

void ac_data_list_free(ac_data_list *l)
{
    json_decref(l->names);
    json_decref(l->labels);
}

bool ac_data_listed(const ac_data_list *l, const char *name, const json_t *fields)
{
    const json_t *label = json_object_get(fields, "label");
    char buf[32];

    if (json_object_get(l->names, name))
        return true;
    for (size_t i = 0; l->labels && i < ac_field_count(label); i++)
        if (json_object_get(l->labels, ac_field_text(label, i, buf)))
            return true;
    return false;
}
