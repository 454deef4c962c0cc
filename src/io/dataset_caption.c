/* dataset_caption.c - captions: templates with weights, filled with the fields of a sample. */
#include "io/dataset_file.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ----------------------------------------------------------------------------------------------------- parsing */

/* Index of a field's name, which is added when it is new. */
static int field_index(ac_caption *c, const char *name, size_t n, ac_diag *dg, size_t *out)
{
    char *copy;

    for (size_t i = 0; i < c->field.n; i++)
        if (strlen(c->field.p[i]) == n && memcmp(c->field.p[i], name, n) == 0)
            return *out = i, 0;
    copy = ac_strndup(name, n);
    if (!copy || !AC_PUSH(&c->field, copy)) {
        free(copy);
        return ac_nomem(dg, n + 1);
    }
    *out = c->field.n - 1;
    return 0;
}

/* A count of at least 1 at *s, which is moved behind it; 0 when there is none. */
static unsigned read_count(const char **s)
{
    char *end;
    unsigned long n;

    if (!isdigit((unsigned char)**s))
        return 0;
    n = strtoul(*s, &end, 10);
    *s = end;
    return n > 1000 ? 0 : (unsigned)n;
}

/* "{name}", "{name:n}" or "{name:n-m}", from `s` to its closing brace at `end`. */
static int parse_field(ac_caption *c, const char *s, const char *end, ac_diag *dg)
{
    const char *name = s + 1, *p = name + strcspn(name, ":{}");
    ac_caption_piece piece = {.kind = AC_PIECE_FIELD};
    bool good = p > name;
    int rc;

    AC_TRY(field_index(c, name, (size_t)(p - name), dg, &piece.field));
    if (*p == ':') {
        p++;
        piece.min = piece.max = read_count(&p);
        if (*p == '-') {
            p++;
            piece.max = read_count(&p);
        }
        good &= piece.min >= 1 && piece.max >= piece.min;
    }
    if (!good || p != end)
        return ac_fail(dg, ADDCL_E_ARG, "caption: '%.*s': expected {field}, {field:n} or {field:n-m}, 1 <= n <= m",
                       (int)(end - s + 1), s);
    if (!AC_PUSH(&c->piece, piece))
        rc = ac_nomem(dg, sizeof piece);
out:
    return rc;
}

static int add_text(ac_caption *c, const char *s, const char *end, ac_diag *dg)
{
    const ac_caption_piece piece = {.kind = AC_PIECE_TEXT, .text = s, .n = (size_t)(end - s)};

    return piece.n == 0 || AC_PUSH(&c->piece, piece) ? 0 : ac_nomem(dg, sizeof piece);
}

/* The template between s and end, which is NUL or '|'. */
static int parse_template(ac_caption *c, const char *s, const char *end, ac_diag *dg)
{
    const ac_caption_piece comma = {.kind = AC_PIECE_COMMA};
    int rc = 0;

    while (s < end) {
        const char *stop = s + strcspn(s, "{},|");
        AC_TRY(add_text(c, s, stop, dg));
        s = stop;
        if (s < end && *s == ',') {
            if (!AC_PUSH(&c->piece, comma))
                AC_TRY(ac_nomem(dg, sizeof comma));
            s++;
        } else if (s < end) {
            stop = *s == '{' ? s + strcspn(s, "}|") : end;
            if (*stop != '}')
                return ac_fail(dg, ADDCL_E_ARG, "caption: '%.*s': braces do not pair", (int)(end - s), s);
            AC_TRY(parse_field(c, s, stop, dg));
            s = stop + 1;
        }
    }
out:
    return rc;
}

/* "weight *" before a template; 1 where there is none. */
static double read_weight(const char **s)
{
    char *end;
    double w = strtod(*s, &end);

    while (isspace((unsigned char)*end))
        end++;
    if (end == *s || *end != '*')
        return 1;
    *s = end + 1;
    return w;
}

int ac_caption_parse(const char *text, ac_diag *dg, ac_caption *out)
{
    double sum = 0;
    int rc = 0;

    if (!(out->text = ac_strdup(text)))
        return ac_nomem(dg, strlen(text) + 1);
    for (const char *s = out->text, *end; s; s = *end ? end + 1 : NULL) {
        size_t first = out->piece.n;
        double weight = read_weight(&s);
        end = s + strcspn(s, "|");
        if (!(weight > 0 && isfinite(weight)))
            return ac_fail(dg, ADDCL_E_ARG, "caption: weight %g: expected more than 0", weight);
        AC_TRY(parse_template(out, s, end, dg));
        sum += weight;
        if (!AC_PUSH(&out->alt, ((ac_caption_alt){.until = sum, .first = first, .n = out->piece.n - first})))
            AC_TRY(ac_nomem(dg, sizeof *out->alt.p));
    }
out:
    return rc;
}

void ac_caption_free(ac_caption *c)
{
    for (size_t i = 0; i < c->field.n; i++)
        free(c->field.p[i]);
    free(c->field.p);
    free(c->piece.p);
    free(c->alt.p);
    free(c->text);
}

/* ----------------------------------------------------------------------------------------------------- drawing */

/* The elements of field k. */
static const char *find_field(const char *fields, size_t k)
{
    for (; k > 0; k--) {
        while (*fields)
            fields += strlen(fields) + 1;
        fields++;
    }
    return fields;
}

static void add_element(ac_str *s, const char *element, bool first)
{
    ac_str_add(s, first ? "" : ", ");
    ac_str_add(s, element);
}

/* Adds p->min..p->max elements of the list, by the first steps of a Fisher-Yates shuffle. */
static int draw_elements(const ac_caption_piece *p, const char *list, uint64_t *random, ac_diag *dg, ac_str *s)
{
    size_t want = p->min + ac_data_below(random, p->max - p->min + 1u);
    AC_VEC(const char *) element = {0};
    int rc = 0;

    for (; *list && rc == 0; list += strlen(list) + 1)
        if (!AC_PUSH(&element, list))
            rc = ac_nomem(dg, sizeof list);
    for (size_t i = 0; i < AC_MIN(want, element.n) && rc == 0; i++) {
        size_t j = i + ac_data_below(random, element.n - i);
        const char *chosen = element.p[j];
        element.p[j] = element.p[i];
        add_element(s, chosen, i == 0);
    }
    free(element.p);
    return rc;
}

static int add_field(const ac_caption_piece *p, const char *list, uint64_t *random, ac_diag *dg, ac_str *s)
{
    if (p->max > 0)
        return draw_elements(p, list, random, dg, s);
    for (const char *e = list; *e; e += strlen(e) + 1)
        add_element(s, e, e == list);
    return 0;
}

/* Adds one part of a template, up to its comma, without blanks around it; nothing when it has fields and all are
 * empty. */
static int add_part(const ac_caption_piece *p, size_t n, const char *fields, uint64_t *random, ac_diag *dg, ac_str *s)
{
    size_t values = 0, blanks;
    bool has_fields = false;
    ac_str part = {0};
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++) {
        size_t before = part.n;
        if (p[i].kind == AC_PIECE_TEXT) {
            ac_str_addn(&part, p[i].text, p[i].n);
            continue;
        }
        has_fields = true;
        rc = add_field(&p[i], find_field(fields, p[i].field), random, dg, &part);
        values += part.n - before;
    }
    while (part.n > 0 && part.p[part.n - 1] == ' ')
        part.n--;
    blanks = part.n > 0 ? strspn(part.p, " ") : 0;
    if (part.n > blanks && (values > 0 || !has_fields)) {
        ac_str_add(s, s->n > 0 ? ", " : "");
        ac_str_addn(s, part.p + blanks, part.n - blanks);
    }
    s->failed |= part.failed;
    ac_str_free(&part);
    return rc;
}

int ac_caption_draw(const ac_caption *c, const char *fields, uint64_t *random, ac_diag *dg, char **out)
{
    double r = ac_data_uniform(random) * c->alt.p[c->alt.n - 1].until;
    const ac_caption_piece *p, *end;
    size_t alt = 0, n;
    ac_str s = {0};
    int rc = 0;

    *out = NULL;
    while (alt + 1 < c->alt.n && r >= c->alt.p[alt].until)
        alt++;
    p = c->piece.p ? c->piece.p + c->alt.p[alt].first : NULL;
    end = p ? p + c->alt.p[alt].n : NULL;
    ac_str_add(&s, "");
    for (; p < end && rc == 0; p += n < (size_t)(end - p) ? n + 1 : n) {
        for (n = 0; p + n < end && p[n].kind != AC_PIECE_COMMA; n++)
            ;
        rc = add_part(p, n, fields, random, dg, &s);
    }
    if (rc == 0 && s.failed)
        rc = ac_nomem(dg, s.n);
    if (rc < 0)
        ac_str_free(&s);
    *out = s.p;
    return rc;
}
