/* ini.c - strict INI files on top of libinih. */
#include "io/ini.h"

#include <ini.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* A file on its way through libinih: take_line hands it lines, take_entry gets what it finds in them. As libinih reads
 * a line only when it is done with the one before, `line` is the line of every entry. */
typedef struct reader {
    const char *name;
    const char *next, *end; /* what is not handed over yet */
    int line;               /* that was handed over last */
    ac_ini *ini;
    ac_diag *dg;
    int rc;
} reader;

static int refuse(reader *r, const char *what)
{
    return r->rc = ac_fail(r->dg, ADDCL_E_ARG, "%s:%d: %s", r->name, r->line, what);
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* ----------------------------------------------------------------------------------------------------- entries */

/* The line that has this section and key before; 0: none. Key "": the section's own line. */
static int line_of(const ac_ini *ini, const char *section, const char *key)
{
    for (size_t i = 0; i < ini->entry.n; i++)
        if (strcmp(ini->entry.p[i].section, section) == 0 && strcmp(ini->entry.p[i].key, key) == 0)
            return ini->entry.p[i].line;
    return 0;
}

static void free_entry(ac_ini_entry *e)
{
    free(e->section);
    free(e->key);
    free(e->value);
}

static int add(reader *r, const char *section, const char *key, const char *value)
{
    ac_ini_entry e = {ac_strdup(section), ac_strdup(key), ac_strdup(value), r->line};
    int before = line_of(r->ini, section, key);

    if (before)
        r->rc = ac_fail(r->dg, ADDCL_E_ARG, "%s:%d: [%s]%s%s stands in line %d already", r->name, r->line, section,
                        *key ? " " : "", key, before);
    else if (r->ini->entry.n == AC_INI_ENTRIES)
        r->rc = ac_fail(r->dg, ADDCL_E_ARG, "%s:%d: more than %d keys and sections", r->name, r->line, AC_INI_ENTRIES);
    else if (!e.section || !e.key || !e.value || !AC_PUSH(&r->ini->entry, e))
        r->rc = ac_nomem(r->dg, sizeof e);
    if (r->rc < 0)
        free_entry(&e);
    return r->rc;
}

/* libinih's callback for "key = value"; 0 tells it to give up, which take_line makes it do. */
static int take_entry(void *user, const char *section, const char *key, const char *value)
{
    reader *r = user;
    const char *why;

    if (r->rc < 0)
        return 0;
    if (!*section)
        r->rc = ac_fail(r->dg, ADDCL_E_ARG, "%s:%d: '%s' stands before any [section]", r->name, r->line, key);
    else if (!*key)
        refuse(r, "nothing before the '='");
    else if ((why = ac_ini_unwritable(key, value)))
        refuse(r, why);
    else
        add(r, section, key, value);
    return r->rc == 0;
}

const char *ac_ini_unwritable(const char *key, const char *value)
{
    size_t n = strlen(value);

    if (strlen(key) > AC_INI_NAME)
        return "a name longer than 48 bytes";
    if (strlen(key) + strlen(" = ") + n > AC_INI_LINE)
        return "longer than the 192 bytes that a line may have";
    if (n > 0 && (blank(value[0]) || blank(value[n - 1])))
        return "blanks around the value";
    for (size_t i = 0; i < n; i++) {
        if (((unsigned char)value[i] < ' ' && value[i] != '\t') || value[i] == 0x7f)
            return "a control character in the value";
        if ((value[i] == ';' || value[i] == '#') && (i == 0 || blank(value[i - 1])))
            return "a blank and '#' or ';' in the value: text behind a value is a comment only after ' ;'";
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------- lines */

/* Checks the n bytes of a line that begins with '[', and keeps the section's name. */
static int take_section(reader *r, const char *line, size_t n)
{
    const char *close = memchr(line, ']', n);
    char name[AC_INI_NAME + 1];
    size_t len;

    if (!close)
        return refuse(r, "a '[' without its ']'");
    len = (size_t)(close - line) - 1;
    if (len == 0 || len > AC_INI_NAME || memchr(line, ';', len + 1))
        return refuse(r, "a section's name has 1 to 48 bytes, none of them ';'");
    for (const char *c = close + 1; c < line + n && *c != ';' && *c != '#'; c++)
        if (!blank(*c))
            return refuse(r, "text behind the ']'");
    memcpy(name, line + 1, len);
    name[len] = '\0';
    return add(r, name, "", "");
}

/* Looks at the n bytes of a line without blanks around it: what libinih would take wrongly is refused. */
static int check_line(reader *r, const char *line, size_t n)
{
    size_t name = 0;

    if (n > AC_INI_LINE)
        return r->rc = ac_fail(r->dg, ADDCL_E_ARG, "%s:%d: a line of %zu bytes; at most %d are allowed", r->name,
                               r->line, n, AC_INI_LINE);
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)line[i] < ' ' && line[i] != '\t') || line[i] == 0x7f)
            return r->rc = ac_fail(r->dg, ADDCL_E_ARG, "%s:%d: byte %zu is the control character 0x%02x: no INI file?",
                                   r->name, r->line, i + 1, (unsigned char)line[i]);
    if (line[0] == '[')
        return take_section(r, line, n);
    while (name < n && !strchr("=:;", line[name])) /* libinih would take "key: value", too */
        name++;
    if (name == n || line[name] != '=')
        return refuse(r, "neither [section] nor key = value");
    return 0;
}

/* libinih's source of lines, with the contract of fgets: room for `size` bytes at `buf`. Lines come without the blanks
 * around them, so that none is taken for the continuation of the one before; comments come as empty lines. */
static char *take_line(char *buf, int size, void *user)
{
    reader *r = user;
    const char *line = r->next, *stop;
    size_t n;

    if (r->rc < 0 || line == r->end)
        return NULL;
    stop = memchr(line, '\n', (size_t)(r->end - line));
    r->next = stop ? stop + 1 : r->end;
    r->line++;
    n = (size_t)((stop ? stop : r->end) - line);
    n -= n > 0 && line[n - 1] == '\r';
    for (; n > 0 && blank(line[0]); n--)
        line++;
    while (n > 0 && blank(line[n - 1]))
        n--;
    if (n > 0 && (line[0] == '#' || line[0] == ';'))
        n = 0;
    if (n > 0 && check_line(r, line, n) < 0)
        return NULL;
    if (size < 2 || n > (size_t)size - 2) { /* a libinih made with less room */
        refuse(r, "a line longer than this libinih can read");
        return NULL;
    }
    memcpy(buf, line, n);
    buf[n] = '\n';
    buf[n + 1] = '\0';
    return buf;
}

int ac_ini_parse(const char *name, const char *text, size_t n, ac_diag *dg, ac_ini **out)
{
    reader r = {.name = name, .next = text, .end = text + n, .dg = dg};
    int wrong;

    *out = NULL;
    if (n >= 2 && (memcmp(text, "\xff\xfe", 2) == 0 || memcmp(text, "\xfe\xff", 2) == 0))
        return ac_fail(dg, ADDCL_E_ARG, "%s:1: a file in UTF-16; save it as UTF-8", name);
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        r.next += 3;
    if (!(r.ini = ac_calloc(1, sizeof *r.ini)))
        return ac_nomem(dg, sizeof *r.ini);
    wrong = ini_parse_stream(take_line, &r, take_entry, &r);
    r.line = wrong;
    if (wrong > 0 && r.rc == 0) /* nothing that check_line lets pass is known to do this */
        refuse(&r, "libinih cannot read this line");
    else if (wrong < 0 && r.rc == 0)
        r.rc = ac_nomem(dg, AC_INI_LINE);
    if (r.rc < 0)
        ac_ini_free(r.ini);
    else
        *out = r.ini;
    return r.rc;
}

int ac_ini_read(const char *path, ac_diag *dg, ac_ini **out)
{
    char *text = NULL;
    size_t n;
    int rc;

    *out = NULL;
    AC_TRY(ac_file_read(path, AC_INI_FILE, dg, &text, &n));
    AC_TRY(ac_ini_parse(path, text, n, dg, out));
out:
    free(text);
    return rc;
}

void ac_ini_free(ac_ini *ini)
{
    if (!ini)
        return;
    for (size_t i = 0; i < ini->entry.n; i++)
        free_entry(&ini->entry.p[i]);
    free(ini->entry.p);
    free(ini);
}
