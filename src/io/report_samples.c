/* report_samples.c - the sheets of samples in report.html. */
#include "io/report_page.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"

#define SHEETS_MAX  12                 /* of a series, the newest and some between it and the first */
#define SHEET_MAX   ((size_t)16 << 20) /* bytes of one that is shown */
#define STRIP_BYTES ((size_t)16 << 20) /* of all the earlier ones together */
#define SHEET_WIDTH 1100 /* pixels it is shown with; one of less than half of that is enlarged, unsmoothed */

/* "step-000500-ema.png" */
typedef struct sheet {
    int64_t step;
    char *series; /* "ema", "" */
    char *path;
} sheet;

typedef AC_VEC(sheet) sheets;

/* A PNG file, in memory. */
typedef struct picture {
    char *data;
    size_t n;
    int width, height;
} picture;

/* ---------------------------------------------------------------------------------------------------------- files */

static void free_sheets(sheets *v)
{
    for (size_t i = 0; i < v->n; i++) {
        free(v->p[i].series);
        free(v->p[i].path);
    }
    free(v->p);
}

/* Adds a file of the folder when its name is that of a sheet of a step up to `last`. */
static int add_sheet(sheets *v, const char *dir, const char *name, int64_t last, ac_diag *dg)
{
    const char *dot = strrchr(name, '.');
    sheet s = {0};
    char *end;

    if (strncmp(name, "step-", 5) != 0 || !dot || strcmp(dot, ".png") != 0 || name[5] < '0' || name[5] > '9')
        return 0;
    s.step = strtoll(name + 5, &end, 10);
    if (s.step > last || (end != dot && *end != '-'))
        return 0;
    end += *end == '-';
    s.series = ac_strndup(end, (size_t)(dot - end));
    s.path = ac_path_join(dir, name);
    if (s.series && s.path && AC_PUSH(v, s))
        return 0;
    free(s.series);
    free(s.path);
    return ac_nomem(dg, strlen(dir) + strlen(name) + 2);
}

static int by_series_and_step(const void *a, const void *b)
{
    const sheet *x = a, *y = b;
    int order = strcmp(x->series, y->series);

    return order ? order : (x->step > y->step) - (x->step < y->step);
}

static int find_sheets(sheets *v, const char *dir, int64_t last, ac_diag *dg)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int rc = 0;

    if (!d && errno != ENOENT)
        ac_note(dg, ADDCL_LOG_WARN, "report: cannot read the folder '%s': %s", dir, strerror(errno));
    while (d && rc == 0 && (e = readdir(d)))
        rc = add_sheet(v, dir, e->d_name, last, dg);
    if (d)
        closedir(d);
    if (v->n)
        qsort(v->p, v->n, sizeof *v->p, by_series_and_step);
    return rc;
}

/* False, with a note, when the file is no PNG that can be shown. */
static bool load(picture *p, const char *path, ac_diag *dg)
{
    ac_diag why = {0};
    const uint8_t *b;

    *p = (picture){0};
    if (ac_file_read(path, SHEET_MAX, &why, &p->data, &p->n) == 0) {
        b = (const uint8_t *)p->data;
        if (p->n >= 24 && memcmp(b, "\x89PNG\r\n\x1a\n", 8) == 0) {
            p->width = b[16] << 24 | b[17] << 16 | b[18] << 8 | b[19];
            p->height = b[20] << 24 | b[21] << 16 | b[22] << 8 | b[23];
            return true;
        }
        ac_fail(&why, ADDCL_E_FORMAT, "'%s' is no PNG", path);
    }
    ac_note(dg, ADDCL_LOG_WARN, "report: a sheet of samples is left out: %s", why.msg);
    free(p->data);
    p->data = NULL;
    return false;
}

/* ----------------------------------------------------------------------------------------------------------- page */

static void put_base64(ac_str *s, const void *data, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = data;
    char four[4];

    for (size_t i = 0; i < n; i += 3) {
        unsigned bits = (unsigned)p[i] << 16 | (i + 1 < n ? (unsigned)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        for (int k = 0; k < 4; k++)
            four[k] = digit[bits >> (18 - 6 * k) & 63];
        four[2] = i + 1 < n ? four[2] : '=';
        four[3] = i + 2 < n ? four[3] : '=';
        ac_str_addn(s, four, 4);
    }
}

static void put_image(ac_str *s, const picture *p, const char *class)
{
    ac_str_addf(s, "<img class=\"%s\" width=\"%d\" height=\"%d\" alt=\"samples\" src=\"data:image/png;base64,", class,
                p->width, p->height);
    put_base64(s, p->data, p->n);
    ac_str_add(s, "\">");
}

/* Enlarged by a whole number as far as there is room; returns the width in pixels. */
static int put_sheet(ac_str *s, const picture *p)
{
    int times = p->width > 0 ? AC_MAX(SHEET_WIDTH / p->width, 1) : 1;

    ac_str_addf(s, "<div style=\"max-width:%dpx;margin:auto\">", times * p->width);
    put_image(s, p, times > 1 ? "sheet crisp" : "sheet");
    ac_str_add(s, "</div>\n");
    return times * p->width;
}

/* The captions, each below its picture's column. */
static void put_captions(ac_str *s, const char *const *caption, size_t n, int columns, int width)
{
    if (n == 0)
        return;
    columns = columns > 0 ? columns : (int)ceil(sqrt((double)n));
    ac_str_addf(s, "<ol class=\"captions\" style=\"max-width:%dpx;grid-template-columns:repeat(%d,1fr)\">", width,
                columns);
    for (size_t i = 0; i < n; i++) {
        ac_str_add(s, "<li>");
        ac_html_text(s, *caption[i] ? caption[i] : "(no text)");
        ac_str_add(s, "</li>");
    }
    ac_str_add(s, "</ol>\n");
}

/* The n sheets of a series as a strip, as far as there is room: the newest first, then from the first on. */
static void put_strip(ac_str *s, const sheet *v, size_t n, ac_diag *dg)
{
    size_t shown = AC_MIN(n, SHEETS_MAX), bytes = 0;
    picture p;

    if (n < 2)
        return;
    ac_str_add(s, "<div class=\"strip\">");
    for (size_t i = 0; i < shown; i++) {
        const sheet *e = &v[shown < 2 ? 0 : i * (n - 1) / (shown - 1)];
        if (!load(&p, e->path, dg))
            continue;
        bytes += p.n;
        if (bytes <= STRIP_BYTES || i == shown - 1) {
            ac_str_addf(s, "<button aria-pressed=\"%s\">", i == shown - 1 ? "true" : "false");
            put_image(s, &p, "thumb");
            ac_str_add(s, "step ");
            ac_html_count(s, e->step);
            ac_str_add(s, "</button>\n");
        }
        free(p.data);
    }
    ac_str_add(s, "</div>");
}

/* The n > 0 sheets of one series, by step. */
static void put_series(ac_str *s, const ac_report *r, const sheet *v, size_t n, ac_diag *dg)
{
    picture p;
    int width;

    if (!load(&p, v[n - 1].path, dg))
        return;
    ac_str_add(s, "<section><h2>Samples");
    if (*v->series) {
        ac_str_add(s, " &middot; ");
        ac_html_text(s, v->series);
    }
    ac_str_add(s, " &middot; <span class=\"at\">step ");
    ac_html_count(s, v[n - 1].step);
    ac_str_add(s, "</span></h2>\n<div class=\"card\">");
    width = put_sheet(s, &p);
    put_captions(s, r->caption, r->n_captions, r->columns, width);
    put_strip(s, v, n, dg);
    ac_str_add(s, "</div></section>\n");
    free(p.data);
}

void ac_page_sheet_add(ac_str *s, const char *heading, const char *path, const char *const *caption, size_t n_captions, int columns,
                       ac_diag *dg)
{
    picture p;

    if (!load(&p, path, dg))
        return;
    ac_str_add(s, "<section><h2 class=\"path\">");
    ac_html_text(s, heading);
    ac_str_add(s, "</h2>\n<div class=\"card\">");
    put_captions(s, caption, n_captions, columns, put_sheet(s, &p));
    ac_str_add(s, "</div></section>\n");
    free(p.data);
}

int ac_report_samples_add(ac_str *s, const char *run_dir, const ac_report *r, int64_t last, ac_diag *dg)
{
    char *dir = ac_path_join(run_dir, "samples");
    sheets v = {0};
    int rc = dir ? find_sheets(&v, dir, last, dg) : ac_nomem(dg, strlen(run_dir) + 9);

    for (size_t i = 0, n; rc == 0 && i < v.n; i += n) {
        for (n = 1; i + n < v.n && strcmp(v.p[i].series, v.p[i + n].series) == 0; n++)
            ;
        put_series(s, r, v.p + i, n, dg);
    }
    free_sheets(&v);
    free(dir);
    return rc;
}
