/* report.c - report.html: its frame, summary, events and configuration. */
#include "io/report_page.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/file.h"

#define EVENTS_MAX ((size_t)64 << 20) /* bytes of events.jsonl */
#define ROWS_MAX   100                /* events in the table */
#define KINDS_MAX  16                 /* kinds of events that are counted */

typedef AC_VEC(json_t *) events;

void ac_html_text(ac_str *s, const char *text)
{
    for (;;) {
        size_t n = strcspn(text, "&<>\"");
        ac_str_addn(s, text, n);
        text += n;
        if (!*text)
            return;
        ac_str_add(s, *text == '&' ? "&amp;" : *text == '<' ? "&lt;" : *text == '>' ? "&gt;" : "&quot;");
        text++;
    }
}

void ac_html_count(ac_str *s, int64_t n)
{
    char digits[24];
    size_t len = (size_t)snprintf(digits, sizeof digits, "%" PRId64, n);

    for (size_t i = 0; i < len; i++) {
        if (i > 0 && digits[i - 1] != '-' && (len - i) % 3 == 0)
            ac_str_add(s, ",");
        ac_str_addn(s, digits + i, 1);
    }
}

/* ---------------------------------------------------------------------------------------------------------- input */

static void free_events(events *v)
{
    for (size_t i = 0; i < v->n; i++)
        json_decref(v->p[i]);
    free(v->p);
}

/* The lines of events.jsonl that are objects. */
static int read_events(const char *run_dir, ac_diag *dg, events *v)
{
    char *path = ac_path_join(run_dir, "events.jsonl"), *text = NULL;
    size_t n;
    int rc = 0;

    if (!path)
        return ac_nomem(dg, strlen(run_dir) + 14);
    if (ac_exists(path))
        rc = ac_file_read(path, EVENTS_MAX, dg, &text, &n);
    for (char *line = text, *end; rc == 0 && line && (end = strchr(line, '\n')); line = end + 1) {
        json_t *e = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (!json_is_object(e)) {
            json_decref(e);
        } else if (!AC_PUSH(v, e)) {
            json_decref(e);
            rc = ac_nomem(dg, v->n * sizeof e);
        }
    }
    free(text);
    free(path);
    return rc;
}

static int read_log(const char *run_dir, ac_diag *dg, ac_table *log)
{
    char *path = ac_path_join(run_dir, "log.csv");
    int rc = path ? ac_table_read(path, dg, log) : ac_nomem(dg, strlen(run_dir) + 9);

    free(path);
    return rc;
}

/* What cannot be read is left out: a report that lacks a part is better than none. */
static int tolerate(int rc, ac_diag *why, ac_diag *dg)
{
    if (rc == ADDCL_E_NOMEM)
        return ac_fail(dg, rc, "%s", why->msg);
    if (rc < 0)
        ac_note(dg, ADDCL_LOG_WARN, "report: %s", why->msg);
    ac_clear(why);
    return 0;
}

/* The last step of the log; INT64_MAX: there is none. */
static int64_t last_step(const ac_table *log)
{
    int k = ac_table_find(log, "step");
    double step = k >= 0 && log->rows > 0 ? log->value[(log->rows - 1) * log->columns + (size_t)k] : (double)NAN;

    return fabs(step) < 0x1p62 ? (int64_t)step : INT64_MAX;
}

static const char *kind_of(const json_t *event)
{
    const char *kind = json_string_value(json_object_get(event, "kind"));
    return kind ? kind : "";
}

/* ----------------------------------------------------------------------------------------------------------- page */

void ac_page_head_add(ac_str *s, const char *title)
{
    /* Nothing is loaded from anywhere: the policy makes the browser see to it. */
    ac_str_add(s, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                  "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
                  "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n<title>");
    ac_html_text(s, title);
    ac_str_addf(s, "</title>\n<style>\n%s</style></head>\n<body><header><h1>", ac_report_style);
    ac_html_text(s, title);
    ac_str_add(s, "</h1>");
}

void ac_page_written_add(ac_str *s)
{
    time_t now = time(NULL);
    char when[32] = "";
    struct tm tm;

    if (gmtime_r(&now, &tm))
        (void)!strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", &tm);
    ac_str_addf(s, "written %s</p></header>\n", when);
}

static void put_head(ac_str *s, const ac_report *r, const ac_table *log)
{
    ac_page_head_add(s, r->title);
    ac_str_add(s, "<span class=\"status ");
    ac_html_text(s, r->status);
    ac_str_add(s, "\">");
    ac_html_text(s, r->status);
    ac_str_add(s, "</span><p>");
    if (log->rows > 0) {
        ac_str_add(s, "step ");
        ac_html_count(s, last_step(log));
        ac_str_add(s, " &middot; ");
    }
    ac_page_written_add(s);
}

void ac_page_facts_add(ac_str *s, const char *const (*fact)[2], size_t n)
{
    if (n == 0)
        return;
    ac_str_add(s, "<dl>");
    for (size_t i = 0; i < n; i++) {
        ac_str_add(s, "<div><dt>");
        ac_html_text(s, fact[i][0]);
        ac_str_add(s, "</dt><dd>");
        ac_html_text(s, fact[i][1]);
        ac_str_add(s, "</dd></div>");
    }
    ac_str_add(s, "</dl>\n");
}

static int put_charts(ac_str *s, const ac_report *r, const ac_table *log, const events *v, ac_diag *dg)
{
    AC_VEC(double) mark = {0};
    size_t before;
    int rc = 0;

    for (size_t i = 0; i < v->n; i++)
        if (strcmp(kind_of(v->p[i]), "resume") == 0 &&
            !AC_PUSH(&mark, (double)json_integer_value(json_object_get(v->p[i], "step"))))
            AC_TRY(ac_nomem(dg, mark.n * sizeof *mark.p));
    ac_str_add(s, "<h2>Curves</h2>\n<div class=\"charts\">\n");
    before = s->n;
    for (size_t i = 0; i < r->n_charts; i++)
        AC_TRY(ac_report_chart_add(s, &r->chart[i], log, mark.p, mark.n, dg));
    if (s->n == before)
        ac_str_add(s, "<p>Nothing is logged yet.</p>");
    ac_str_add(s, "</div>\n");
out:
    free(mark.p);
    return rc;
}

/* How many events there are of each kind. */
static void put_counts(ac_str *s, const events *v)
{
    struct {
        const char *kind;
        int64_t n;
    } count[KINDS_MAX];
    size_t kinds = 0, k;

    for (size_t i = 0; i < v->n; i++) {
        const char *kind = kind_of(v->p[i]);
        for (k = 0; k < kinds && strcmp(count[k].kind, kind) != 0; k++)
            ;
        if (k == KINDS_MAX)
            continue;
        if (k == kinds) {
            count[kinds].kind = kind;
            count[kinds++].n = 0;
        }
        count[k].n++;
    }
    ac_str_add(s, "<p class=\"counts\">");
    for (k = 0; k < kinds; k++) {
        ac_str_add(s, "<span><b>");
        ac_html_count(s, count[k].n);
        ac_str_add(s, "</b> ");
        ac_html_text(s, count[k].kind);
        ac_str_add(s, "</span>");
    }
    ac_str_add(s, "</p>\n");
}

/* The fields that not every event has: "name value, name value". */
static void put_details(ac_str *s, const json_t *event)
{
    const char *key, *comma = "";
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)event, key, value)
    {
        char *text;
        if (strcmp(key, "time") == 0 || strcmp(key, "step") == 0 || strcmp(key, "kind") == 0)
            continue;
        ac_str_add(s, comma);
        if (strcmp(key, "message") != 0) {
            ac_html_text(s, key);
            ac_str_add(s, " ");
        }
        text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        ac_html_text(s, text ? text : json_is_string(value) ? json_string_value(value) : "");
        free(text);
        comma = ", ";
    }
}

static void put_event(ac_str *s, const json_t *e)
{
    const char *when = json_string_value(json_object_get(e, "time"));

    ac_str_add(s, "<tr class=\"");
    ac_html_text(s, kind_of(e));
    ac_str_add(s, "\"><td>");
    for (; when && *when && *when != 'Z'; when++)
        ac_html_text(s, (char[]){*when == 'T' ? ' ' : *when, '\0'});
    ac_str_add(s, "</td><td>");
    ac_html_count(s, json_integer_value(json_object_get(e, "step")));
    ac_str_add(s, "</td><td>");
    ac_html_text(s, kind_of(e));
    ac_str_add(s, "</td><td>");
    put_details(s, e);
    ac_str_add(s, "</td></tr>\n");
}

/* Checkpoints and validations happen all the time; they are only counted. */
static bool is_special(const json_t *e)
{
    return strcmp(kind_of(e), "checkpoint") != 0 && strcmp(kind_of(e), "validation") != 0;
}

static void put_events(ac_str *s, const events *v)
{
    int64_t special = 0, rows = 0;

    if (v->n == 0)
        return;
    ac_str_add(s, "<h2>Events</h2>\n<div class=\"card\">");
    put_counts(s, v);
    ac_str_add(s, "<table><thead><tr><th>Time (UTC)</th><th>Step</th><th>Kind</th><th>Details</th></tr></thead>\n");
    for (size_t i = v->n; i-- > 0;)
        if (is_special(v->p[i]) && ++special <= ROWS_MAX) {
            put_event(s, v->p[i]);
            rows++;
        }
    ac_str_add(s, "</table>");
    if (special > rows) {
        ac_str_add(s, "<p><small>and ");
        ac_html_count(s, special - rows);
        ac_str_add(s, " earlier ones in events.jsonl</small></p>");
    }
    ac_str_add(s, "</div>\n");
}

/* An INI file, with its sections and comments set off. */
static void put_config(ac_str *s, const char *text)
{
    ac_str line = {0};

    ac_str_add(s, "<h2>Configuration</h2>\n<div class=\"card\"><pre>");
    while (*text) {
        size_t n = strcspn(text, "\n");
        const char *tag = *text == '[' ? "b" : *text == ';' || *text == '#' ? "i" : NULL;
        line.n = 0;
        ac_str_addn(&line, text, n);
        if (tag)
            ac_str_addf(s, "<%s>", tag);
        ac_html_text(s, line.p ? line.p : "");
        if (tag)
            ac_str_addf(s, "</%s>", tag);
        ac_str_add(s, "\n");
        text += n + (text[n] == '\n');
    }
    ac_str_add(s, "</pre></div>\n");
    s->failed |= line.failed;
    ac_str_free(&line);
}

void ac_page_end_add(ac_str *s)
{
    ac_str_addf(s, "<footer>Made by add-cl. This file needs no other.</footer>\n<script>\n%s</script></body></html>\n",
                ac_report_script);
}

static int make_page(ac_str *s, const char *run_dir, const ac_report *r, ac_diag *dg)
{
    ac_diag why = {0};
    ac_table log = {0};
    events v = {0};
    int rc;

    AC_TRY(tolerate(read_log(run_dir, &why, &log), &why, dg));
    AC_TRY(tolerate(read_events(run_dir, &why, &v), &why, dg));
    put_head(s, r, &log);
    ac_page_facts_add(s, r->fact, r->n_facts);
    AC_TRY(ac_report_samples_add(s, run_dir, r, last_step(&log), dg));
    AC_TRY(put_charts(s, r, &log, &v, dg));
    put_events(s, &v);
    if (r->config)
        put_config(s, r->config);
    ac_page_end_add(s);
    if (s->failed)
        rc = ac_nomem(dg, s->n);
out:
    ac_table_free(&log);
    free_events(&v);
    return rc;
}

int ac_report_write(const char *run_dir, const ac_report *r, ac_diag *dg)
{
    char *path = ac_path_join(run_dir, "report.html");
    ac_str s = {0};
    int rc = path ? make_page(&s, run_dir, r, dg) : ac_nomem(dg, strlen(run_dir) + 13);

    if (rc == 0)
        rc = ac_file_save(path, s.p, s.n, dg);
    ac_str_free(&s);
    free(path);
    return rc;
}
