/* train_value.c - values of a configuration: from text to the types of the table. */
#include "diff/train_value.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/guess.h"

_Static_assert(sizeof(ac_method) == sizeof(unsigned), "parse_word sets an enum as an unsigned");

void *ac_train_own(ac_train_cfg *c, void *p)
{
    if (p && !AC_PUSH(&c->texts->memory, p)) {
        free(p);
        return NULL;
    }
    return p;
}

char *ac_trimmed(char *s)
{
    char *end;

    s += strspn(s, " \t");
    for (end = s + strlen(s); end > s && (end[-1] == ' ' || end[-1] == '\t'); end--)
        end[-1] = '\0';
    return s;
}

/* What there is to say of a value besides what was expected. Returns E_ARG. */
static int wrong(char why[128], const char *fmt, ...) AC_PRINTF(2, 3);
static int wrong(char why[128], const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, 128, fmt, ap);
    va_end(ap);
    return ADDCL_E_ARG;
}

/* Reads the number at s; *end is behind it. No blanks, hexadecimal digits, infinities as strtod would take. */
static bool number(const char *s, double *v, const char **end)
{
    char *stop;

    *v = strtod(s, &stop);
    *end = stop;
    return stop > s && stop <= s + strspn(s, "+-.0123456789eE") && isfinite(*v);
}

/* A number within the key's range. */
static int parse_num(const ac_key *k, const char *s, double *v, char why[128])
{
    const char *end;

    if (!number(s, v, &end) || *end)
        return ADDCL_E_ARG;
    return *v >= k->min && *v <= k->max ? 0 : wrong(why, "out of range; ");
}

/* A whole number within the key's range; 2^63 - 1 stands for all that do not fit. */
static int parse_int(const ac_key *k, const char *s, int64_t *v, char why[128])
{
    size_t n = strspn(s + (*s == '-' || *s == '+'), "0123456789");
    char *end;

    *v = strtoll(s, &end, 10);
    if (n == 0 || *end)
        return ADDCL_E_ARG;
    return (double)*v >= k->min && (double)*v <= k->max && *v < INT64_MAX ? 0 : wrong(why, "out of range; ");
}

/* "1h30m": seconds; a number without a unit is of seconds. */
static int parse_time(const ac_key *k, const char *s, double *seconds, char why[128])
{
    static const struct {
        char letter;
        double seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'\0', 1}};
    double v;

    *seconds = 0;
    do {
        size_t u = 0;
        if (!number(s, &v, &s))
            return ADDCL_E_ARG;
        while (u < AC_LEN(units) && units[u].letter != *s)
            u++;
        if (u == AC_LEN(units))
            return ADDCL_E_ARG;
        *seconds += v * units[u].seconds;
        s += *s != '\0';
    } while (*s);
    return *seconds >= k->min && *seconds <= k->max ? 0 : wrong(why, "out of range; ");
}

/* A switch, in the words of the INI files of other programs, too. */
static int parse_bool(const char *s, bool *v)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};

    for (size_t i = 0; i < AC_LEN(words); i++)
        if (strcasecmp(s, words[i]) == 0) {
            *v = i % 2 == 1;
            return 0;
        }
    return ADDCL_E_ARG;
}

/* Index of one of the key's words; enums have the size of an unsigned. */
static int parse_word(const ac_key *k, const char *s, unsigned *v, char why[128])
{
    int i = ac_key_word(k->words, s);
    ac_guess g = ac_guess_for(s);

    if (i >= 0) {
        *v = (unsigned)i;
        return 0;
    }
    for (const char *w = k->words; *w; w += strcspn(w, "|"), w += *w == '|')
        ac_guess_try(&g, w, strcspn(w, "|"));
    return g.found ? wrong(why, "did you mean '%.*s'? ", g.n, g.found) : ADDCL_E_ARG;
}

/* A path: absolute, or relative to the base; "" and the key's words stay what they are. */
static int parse_path(ac_train_cfg *c, const ac_key *k, const char *s, const char **v)
{
    bool as_it_is = !*s || *s == '/' || (k->words && ac_key_word(k->words, s) >= 0);

    *v = ac_train_own(c, as_it_is ? ac_strdup(s) : ac_path_join(c->texts->base, s));
    return *v ? 0 : ADDCL_E_NOMEM;
}

/* "pattern:factor"; the pattern may have colons. Changes s, which the pattern is a part of. */
static int parse_factor(const ac_key *k, char *s, struct ac_factor *v, char why[128])
{
    char *colon = strrchr(s, ':');

    if (!colon || colon == s)
        return ADDCL_E_ARG;
    *colon = '\0';
    v->pattern = ac_trimmed(s);
    return parse_num(k, ac_trimmed(colon + 1), &v->factor, why);
}

/* Element i, the text s, of a list at p. */
static int parse_element(ac_train_cfg *c, const ac_key *k, char *s, void *p, size_t i, char why[128])
{
    if (k->type == AC_KEY_INTS)
        return parse_int(k, s, (int64_t *)p + i, why);
    if (k->type == AC_KEY_PATHS)
        return parse_path(c, k, s, (const char **)p + i);
    return parse_factor(k, s, (struct ac_factor *)p + i, why);
}

/* A list; no element is empty, but the list may be. The three list types are all {pointer, count}. */
static int parse_list(ac_train_cfg *c, const ac_key *k, const char *text, void **list, size_t *count, char why[128])
{
    static const size_t sizes[] = {
        [AC_KEY_INTS] = sizeof(int64_t), [AC_KEY_PATHS] = sizeof(char *), [AC_KEY_FACTORS] = sizeof(struct ac_factor)};
    char *s = ac_train_own(c, ac_strdup(text)), said[128], *element;
    size_t n = *text != '\0';
    void *p;
    int rc;

    for (const char *t = text; *t; t++)
        n += *t == ',';
    if (!s || !(p = ac_train_own(c, ac_calloc(n, sizes[k->type]))))
        return ADDCL_E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        element = ac_trimmed(strsep(&s, ","));
        snprintf(said, sizeof said, "element %zu, '%.80s': ", i + 1, element);
        rc = *element ? parse_element(c, k, element, p, i, why) : ADDCL_E_ARG;
        if (rc == ADDCL_E_ARG)
            return wrong(why, "%s%s", said, *why ? "out of range; " : "");
        if (rc < 0)
            return rc;
    }
    *list = p;
    *count = n;
    return 0;
}

int ac_train_parse(ac_train_cfg *c, const ac_key *k, const char *text, char why[128])
{
    void *at = (char *)c + k->at, *p = NULL;
    size_t n = 0;
    int rc;

    switch (k->type) {
    case AC_KEY_BOOL:
        return parse_bool(text, at);
    case AC_KEY_INT:
        return parse_int(k, text, at, why);
    case AC_KEY_NUM:
        return parse_num(k, text, at, why);
    case AC_KEY_TIME:
        return parse_time(k, text, at, why);
    case AC_KEY_WORD:
        return parse_word(k, text, at, why);
    case AC_KEY_PATH:
        return parse_path(c, k, text, at);
    case AC_KEY_TEXT:
        *(const char **)at = ac_train_own(c, ac_strdup(text));
        return *(const char **)at ? 0 : ADDCL_E_NOMEM;
    case AC_KEY_INTS:
        rc = parse_list(c, k, text, &p, &n, why);
        *(ac_ints *)at = (ac_ints){p, n};
        return rc;
    case AC_KEY_PATHS:
        rc = parse_list(c, k, text, &p, &n, why);
        *(ac_texts *)at = (ac_texts){p, n};
        return rc;
    case AC_KEY_FACTORS:
        rc = parse_list(c, k, text, &p, &n, why);
        *(ac_factors *)at = (ac_factors){p, n};
        return rc;
    }
    return ADDCL_E_INTERNAL;
}
