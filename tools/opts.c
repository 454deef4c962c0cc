/* opts.c - parsing of options by their table. */
#include "opts.h"
#include "gen_docs.h"
#include "tool.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONG_BASE 256 /* getopt's value of row i is LONG_BASE + i: above every letter */

int usage_error(const cmd_def *cmd, const char *fmt, ...)
{
    va_list ap;

    fputs("add-cl", stderr);
    if (cmd)
        fprintf(stderr, " %s", cmd->name);
    fputs(": ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, " (see 'add-cl help%s%s')\n", cmd ? " " : "", cmd ? cmd->name : "");
    return TOOL_USAGE;
}

/* Levenshtein distance of a and the n characters at b; 99 for words too long to be names of ours. */
static int distance(const char *a, const char *b, size_t n)
{
    int row[32], diagonal, above;
    size_t m = strlen(a);

    if (m >= 99 || n >= sizeof row / sizeof row[0])
        return 99;
    for (size_t j = 0; j <= n; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= m; i++) {
        diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= n; j++) {
            above = row[j];
            row[j] = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < row[j])
                row[j] = above + 1;
            if (row[j - 1] + 1 < row[j])
                row[j] = row[j - 1] + 1;
            diagonal = above;
        }
    }
    return row[n];
}

const char *nearest(const char *word, const char *words, char *buf, size_t size)
{
    int best = (int)(strlen(word) + 2) / 3 + 1; /* a third of the letters may be wrong */
    const char *found = NULL;

    for (const char *w = words; *w; w += strcspn(w, "|"), w += *w == '|') {
        size_t n = strcspn(w, "|");
        int d = distance(word, w, n);
        if (d < best && n < size) {
            best = d;
            memcpy(buf, w, n);
            buf[n] = '\0';
            found = buf;
        }
    }
    return found;
}

static bool word_in(const char *word, const char *words)
{
    size_t n = strlen(word);

    for (const char *w = words; *w; w += strcspn(w, "|"), w += *w == '|')
        if (strcspn(w, "|") == n && memcmp(w, word, n) == 0)
            return true;
    return false;
}

/* Appends the words "a|b|c" to buf as "a, b, c". */
static void add_words(const char *words, char *buf, size_t size)
{
    size_t n = strlen(buf);

    for (; *words && n + 2 < size; words++) {
        buf[n++] = *words == '|' ? ',' : *words;
        if (*words == '|')
            buf[n++] = ' ';
    }
    buf[n] = '\0';
}

/* What a row accepts, for messages: "a whole number from 1 to 100". */
static void expected(const opt_def *d, char *buf, size_t size)
{
    if (d->kind == OPT_WORD) {
        snprintf(buf, size, "one of ");
        add_words(d->arg, buf, size);
    } else if (d->kind == OPT_FILE || d->kind == OPT_FILES) {
        snprintf(buf, size, "the name of a file");
    } else if (d->kind == OPT_INT && d->max > 1e15) {
        snprintf(buf, size, "a whole number of at least %.0f", d->min);
    } else {
        snprintf(buf, size, "%s from %.15g to %.15g%s",
                 d->kind == OPT_INT   ? "a whole number"
                 : d->kind == OPT_NUM ? "a number"
                                      : "a list of numbers",
                 d->min, d->max, d->kind == OPT_NUMS ? " with commas between" : "");
    }
}

/* Reads the number at s, which must be in the row's range; *end is behind it. strtod alone would take blanks, "inf" and
 * "nan". */
static bool number(const opt_def *d, const char *s, double *v, char **end)
{
    *v = strtod(s, end);
    return *end != s && (*s == '-' || *s == '.' || (*s >= '0' && *s <= '9')) && isfinite(*v) && *v >= d->min &&
           *v <= d->max;
}

static bool whole_number(const opt_def *d, const char *s, int64_t *v)
{
    char *end;

    errno = 0;
    *v = strtoll(s, &end, 10);
    return end != s && !*end && errno == 0 && (*s == '-' || (*s >= '0' && *s <= '9')) && (double)*v >= d->min &&
           (double)*v <= d->max;
}

static bool number_list(const opt_def *d, const char *s, num_list *list)
{
    size_t n = 1;
    double *p;
    char *end;

    for (const char *c = s; *c; c++)
        n += *c == ',';
    if (!(p = calloc(n, sizeof *p)))
        return false;
    for (size_t i = 0; i < n; i++, s = end + 1) {
        if (!number(d, s, &p[i], &end) || *end != (i + 1 < n ? ',' : '\0')) {
            free(p);
            return false;
        }
    }
    free(list->p);
    *list = (num_list){p, n};
    return true;
}

static bool append(text_list *list, const char *text)
{
    const char **p = realloc(list->p, (list->n + 1) * sizeof *p);

    if (!p)
        return false;
    p[list->n++] = text;
    list->p = p;
    return true;
}

bool opts_set(cmd_line *o, size_t row, const char *text, char *why, size_t size)
{
    const opt_def *d = &o->cmd->rows[row];
    void *at = (char *)o->values + d->at;
    char want[160], *end;
    double v;
    bool ok = true;

    switch (d->kind) {
    case OPT_GROUP:
    case OPT_HELP:
        break;
    case OPT_FLAG:
        *(bool *)at = true;
        break;
    case OPT_INT:
        ok = whole_number(d, text, at);
        break;
    case OPT_NUM:
        if ((ok = number(d, text, &v, &end) && !*end))
            *(double *)at = v;
        break;
    case OPT_NUMS:
        ok = number_list(d, text, at);
        break;
    case OPT_WORD:
        if ((ok = word_in(text, d->arg)))
            *(const char **)at = text;
        break;
    case OPT_FILE:
        ok = *text != '\0';
        *(const char **)at = text;
        break;
    case OPT_TEXT:
        *(const char **)at = text;
        break;
    case OPT_FILES:
        ok = *text && append(at, text);
        break;
    case OPT_TEXTS:
        ok = append(at, text);
        break;
    }
    if (!ok) {
        expected(d, want, sizeof want);
        snprintf(why, size, "'%.100s' is not %s", text, want);
    }
    return ok;
}

bool opts_given(const cmd_line *o, const char *name)
{
    size_t i = 0;

    while (i < o->cmd->n_rows && !(o->cmd->rows[i].name && strcmp(o->cmd->rows[i].name, name) == 0))
        i++;
    assert(i < o->cmd->n_rows);
    return o->given[i];
}

/* "--name" or "-x" as the user wrote it at getopt's value `val`. */
static void spelled(const cmd_def *cmd, int val, char *buf, size_t size)
{
    if (val >= LONG_BASE)
        snprintf(buf, size, "--%s", cmd->rows[val - LONG_BASE].name);
    else
        snprintf(buf, size, "-%c", val);
}

/* Reports the long option `arg` ("--stepz=3") that getopt does not know: unknown, or the beginning of several. */
static int unknown_long(const cmd_def *cmd, const char *arg)
{
    char words[2048] = "", like[64];
    size_t used = 0, n = strcspn(arg += 2, "=");
    int matches = 0;
    char *name = strndup(arg, n);
    int code;

    for (size_t i = 0; i < cmd->n_rows && used < sizeof words; i++) {
        const opt_def *d = &cmd->rows[i];
        if (!opt_shown(d))
            continue;
        matches += strncmp(d->name, arg, n) == 0;
        used += (size_t)snprintf(words + used, sizeof words - used, "%s%s", used ? "|" : "", d->name);
    }
    if (matches > 1)
        code = usage_error(cmd, "option '--%.*s' is ambiguous", (int)n, arg);
    else if (name && nearest(name, words, like, sizeof like))
        code = usage_error(cmd, "unknown option '--%s'; did you mean '--%s'?", name, like);
    else
        code = usage_error(cmd, "unknown option '--%.*s'", (int)n, arg);
    free(name);
    return code;
}

/* Makes getopt's two descriptions of a table. */
static void describe(const cmd_def *cmd, struct option *longs, char *shorts)
{
    *shorts++ = ':';
    for (size_t i = 0; i < cmd->n_rows; i++) {
        const opt_def *d = &cmd->rows[i];
        bool takes = opt_takes_value(d);
        if (!d->name)
            continue;
        *longs++ = (struct option){d->name,
                                   !takes    ? no_argument
                                   : d->bare ? optional_argument
                                             : required_argument,
                                   NULL, LONG_BASE + (int)i};
        if (d->letter) {
            *shorts++ = d->letter;
            for (int colons = takes ? 1 + (d->bare != NULL) : 0; colons > 0; colons--)
                *shorts++ = ':';
        }
    }
    *longs = (struct option){0};
    *shorts = '\0';
}

static size_t row_of(const cmd_def *cmd, int val)
{
    size_t i = 0;

    if (val >= LONG_BASE)
        return (size_t)(val - LONG_BASE);
    while (cmd->rows[i].letter != val)
        i++;
    return i;
}

static void set_defaults(cmd_line *o)
{
    char why[512];

    for (size_t i = 0; i < o->cmd->n_rows; i++) {
        const opt_def *d = &o->cmd->rows[i];
        bool ok = !d->value || opts_set(o, i, d->value, why, sizeof why);
        assert(ok); /* else the table is wrong */
        (void)ok;
    }
}

/* An operand that must be one of the command's words. */
static bool check_word(const cmd_def *cmd, const char *w, int *code)
{
    char like[64], all[256] = "";

    if (word_in(w, cmd->operand_words))
        return true;
    add_words(cmd->operand_words, all, sizeof all);
    if (nearest(w, cmd->operand_words, like, sizeof like))
        *code = usage_error(cmd, "unknown name '%s'; did you mean '%s'?", w, like);
    else
        *code = usage_error(cmd, "unknown name '%s'; there are %s", w, all);
    return false;
}

static bool check_operands(const cmd_line *o, int *code)
{
    const cmd_def *cmd = o->cmd;

    if (o->n_operands < cmd->min_operands) {
        *code = usage_error(cmd, "an argument is missing: add-cl %s %s", cmd->name, cmd->usage);
        return false;
    }
    if (cmd->max_operands >= 0 && o->n_operands > cmd->max_operands) {
        *code = usage_error(cmd, "unexpected argument '%s'", o->operands[cmd->max_operands]);
        return false;
    }
    for (int i = 0; cmd->operand_words && i < o->n_operands; i++)
        if (!check_word(cmd, o->operands[i], code))
            return false;
    return true;
}

bool opts_parse(cmd_line *o, const cmd_def *cmd, int argc, char **argv, void *values, int *code)
{
    struct option longs[OPTS_MAX + 1];
    char shorts[3 * OPTS_MAX + 2], name[64], why[512];
    int val;

    assert(cmd->n_rows <= OPTS_MAX);
    *o = (cmd_line){.cmd = cmd, .values = values};
    set_defaults(o);
    describe(cmd, longs, shorts);
    opterr = 0;
    while ((val = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        size_t row;
        const opt_def *d;
        if (val == ':' || (val == '?' && optopt >= LONG_BASE)) {
            spelled(cmd, optopt, name, sizeof name);
            *code = usage_error(cmd, "option '%s' %s", name, val == ':' ? "needs a value" : "takes no value");
            return false;
        }
        if (val == '?') {
            *code = optopt ? usage_error(cmd, "unknown option '-%c'", optopt) : unknown_long(cmd, argv[optind - 1]);
            return false;
        }
        row = row_of(cmd, val);
        d = &cmd->rows[row];
        if (d->kind == OPT_HELP) {
            docs_help(stdout, cmd);
            *code = TOOL_OK;
            return false;
        }
        if (!opts_set(o, row, optarg || d->kind == OPT_FLAG ? optarg : d->bare, why, sizeof why)) {
            spelled(cmd, val, name, sizeof name);
            *code = usage_error(cmd, "%s: %s", name, why);
            return false;
        }
        o->given[row] = true;
    }
    o->operands = argv + optind;
    o->n_operands = argc - optind;
    return check_operands(o, code);
}

void opts_free(cmd_line *o)
{
    for (size_t i = 0; i < o->cmd->n_rows; i++) {
        const opt_def *d = &o->cmd->rows[i];
        void *at = (char *)o->values + d->at;
        if (d->kind == OPT_TEXTS || d->kind == OPT_FILES)
            free(((text_list *)at)->p);
        else if (d->kind == OPT_NUMS)
            free(((num_list *)at)->p);
    }
}
