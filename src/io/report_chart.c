/* report_chart.c - curves of log.csv as inline SVG. */
#include "io/report_page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The picture in SVG units, and the place of the axes in it. */
enum { WIDTH = 640, HEIGHT = 280, LEFT = 54, RIGHT = 626, TOP = 12, BOTTOM = 252 };

#define BINS         300 /* a longer curve is drawn by the extremes of so many pieces */
#define SMOOTH_FROM  40  /* points; shorter curves are drawn as they are */
#define SMOOTH_BINS  120 /* most points of a smoothed curve */
#define NOISY        4   /* a curve goes up and down by more than so many times its range */
#define LOG_FROM     20  /* ratio of the largest to the smallest value */
#define DOTS_UP_TO   80  /* points of a curve that is drawn with dots */
#define SHARE_SPARSE 2   /* a column with a value in less than 1 of so many rows is sparse */

/* Points of a curve, by step. */
typedef struct points {
    size_t n;
    double *x, *y;
} points;

typedef struct series {
    const char *label;
    points raw;    /* the finite values of a column */
    points smooth; /* none: it is drawn as it is */
    bool sparse;
} series;

typedef struct axis {
    double lo, hi;   /* values at its ends */
    double from, to; /* SVG units of those */
    bool log;
} axis;

/* ----------------------------------------------------------------------------------------------------------- data */

static bool make_points(points *p, size_t n)
{
    p->x = ac_calloc(n, sizeof *p->x);
    p->y = ac_calloc(n, sizeof *p->y);
    return p->x && p->y;
}

static void free_series(series *s)
{
    free(s->raw.x);
    free(s->raw.y);
    free(s->smooth.x);
    free(s->smooth.y);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool is_noisy(const points *p)
{
    double min = p->y[0], max = min, way = 0;

    for (size_t i = 1; i < p->n; i++) {
        way += fabs(p->y[i] - p->y[i - 1]);
        min = fmin(min, p->y[i]);
        max = fmax(max, p->y[i]);
    }
    return way > NOISY * (max - min);
}

/* The median of each of some pieces, which single outliers do not move, then averaged with its neighbours (1 2 1).
 * `sorted` has room for all values. */
static void smooth(points *to, const points *from, double *sorted)
{
    double before, y;

    for (size_t b = 0; b < to->n; b++) {
        size_t first = b * from->n / to->n, n = (b + 1) * from->n / to->n - first;
        memcpy(sorted, from->y + first, n * sizeof *sorted);
        qsort(sorted, n, sizeof *sorted, ascending);
        to->x[b] = (from->x[first] + from->x[first + n - 1]) / 2;
        to->y[b] = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
    }
    before = to->y[0];
    for (size_t b = 1; b + 1 < to->n; b++) {
        y = to->y[b];
        to->y[b] = (before + 2 * y + to->y[b + 1]) / 4;
        before = y;
    }
}

static int make_smooth(series *s, ac_diag *dg)
{
    size_t bins = AC_MIN(s->raw.n / 8, SMOOTH_BINS);
    double *sorted;

    if (s->sparse || s->raw.n < SMOOTH_FROM || !is_noisy(&s->raw))
        return 0;
    sorted = ac_calloc(s->raw.n, sizeof *sorted);
    if (!sorted || !make_points(&s->smooth, bins)) {
        free(sorted);
        return ac_nomem(dg, s->raw.n * sizeof *sorted);
    }
    s->smooth.n = bins;
    smooth(&s->smooth, &s->raw, sorted);
    free(sorted);
    return 0;
}

/* The finite values of a column over the column "step". */
static int get_series(series *s, const ac_table *log, size_t column, size_t step, ac_diag *dg)
{
    points *p = &s->raw;

    if (!make_points(p, log->rows))
        return ac_nomem(dg, log->rows * sizeof *p->x);
    for (size_t r = 0; r < log->rows; r++) {
        double x = log->value[r * log->columns + step], y = log->value[r * log->columns + column];
        if (isfinite(x) && isfinite(y)) {
            p->x[p->n] = x;
            p->y[p->n++] = y;
        }
    }
    s->sparse = p->n < log->rows / SHARE_SPARSE;
    return make_smooth(s, dg);
}

/* Widens the axis to the smoothed curve and to 98 % of the raw values: a few outliers may leave the picture. */
static int widen(axis *y, const series *s, ac_diag *dg)
{
    size_t n = s->raw.n;
    double *sorted = ac_calloc(n, sizeof *sorted);

    if (!sorted)
        return ac_nomem(dg, n * sizeof *sorted);
    memcpy(sorted, s->raw.y, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, ascending);
    y->lo = fmin(y->lo, sorted[n / 100]);
    y->hi = fmax(y->hi, sorted[n - 1 - n / 100]);
    for (size_t i = 0; i < s->smooth.n; i++) {
        y->lo = fmin(y->lo, s->smooth.y[i]);
        y->hi = fmax(y->hi, s->smooth.y[i]);
    }
    free(sorted);
    return 0;
}

/* Linear or logarithmic, with some room at the ends. */
static void settle(axis *y, bool linear)
{
    double room;

    y->log = !linear && y->lo > 0 && y->hi / y->lo > LOG_FROM;
    if (y->log) {
        room = pow(y->hi / y->lo, 0.04);
        y->lo /= room;
        y->hi *= room;
        return;
    }
    if (y->lo > 0 && y->lo < y->hi * 0.3)
        y->lo = 0;
    room = y->hi > y->lo ? (y->hi - y->lo) * 0.05 : fmax(fabs(y->hi) * 0.1, 1e-12);
    y->lo -= y->lo == 0 ? 0 : room;
    y->hi += room;
}

/* -------------------------------------------------------------------------------------------------------- drawing */

/* SVG units of a value; NaN for one that a logarithmic axis does not know. */
static double place(const axis *a, double v)
{
    double t = a->log ? log(v / a->lo) / log(a->hi / a->lo) : (v - a->lo) / (a->hi - a->lo);

    return v > 0 || !a->log ? a->from + t * (a->to - a->from) : (double)NAN;
}

/* 25000 as "25k", 0.00002 as "2e-5". */
static void put_number(ac_str *s, double v)
{
    double a = fabs(v);

    if (a >= 1e6) {
        ac_str_addf(s, "%.4gM", v / 1e6);
    } else if (a >= 1e4) {
        ac_str_addf(s, "%.4gk", v / 1e3);
    } else if (a > 0 && a < 1e-3) {
        int e = (int)floor(log10(a) + 1e-9);
        ac_str_addf(s, "%.3ge%d", v / pow(10, e), e);
    } else {
        ac_str_addf(s, "%.4g", v);
    }
}

static void put_tick(ac_str *s, const axis *a, double v, bool across)
{
    double at = place(a, v);

    if (across)
        ac_str_addf(s, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT,
                    at, RIGHT, LEFT - 7, at + 4);
    else
        ac_str_addf(s, "<path class=\"grid\" d=\"M%.1f %dv5\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">", at,
                    BOTTOM, at, BOTTOM + 19);
    put_number(s, v);
    ac_str_add(s, "</text>\n");
}

/* A step of 1, 2 or 5 times a power of ten that gives about n ticks. */
static double tick_step(const axis *a, int n)
{
    double rough = (a->hi - a->lo) / n, power = pow(10, floor(log10(rough))), m = rough / power;

    return power * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static void put_linear_ticks(ac_str *s, const axis *a, int n, bool across)
{
    double step = tick_step(a, n), first = ceil(a->lo / step - 1e-9);

    for (int i = 0; i <= 2 * n && (first + i) * step <= a->hi + step * 1e-9; i++)
        put_tick(s, a, (first + i) * step, across);
}

/* Powers of ten, every so many of them where there are many; where there are few, their double and fivefold too. */
static void put_log_ticks(ac_str *s, const axis *a)
{
    static const double part[] = {1, 2, 5};
    int from = (int)floor(log10(a->lo)), to = (int)ceil(log10(a->hi)), every = AC_MAX((to - from) / 6, 1);

    for (int e = from; e <= to; e += every)
        for (size_t i = 0; i < (to - from > 3 ? 1 : AC_LEN(part)); i++) {
            double v = part[i] * pow(10, e);
            if (v >= a->lo && v <= a->hi)
                put_tick(s, a, v, true);
        }
}

static void put_point(ac_str *s, const axis *ax, const axis *ay, double x, double y, bool *pen_down)
{
    double py = place(ay, y);

    if (isnan(py))
        return;
    ac_str_addf(s, "%c%.1f %.1f", *pen_down ? 'L' : 'M', place(ax, x), py);
    *pen_down = true;
}

/* A curve; of one with many points the smallest and the largest in each of BINS pieces, in their order. */
static void put_curve(ac_str *s, const char *class, int number, const points *p, const axis *ax, const axis *ay)
{
    size_t bins = AC_MIN(p->n, BINS);
    bool pen_down = false;

    ac_str_addf(s, "<path class=\"%s c%d\" d=\"", class, number);
    for (size_t b = 0; b < bins; b++) {
        size_t from = b * p->n / bins, to = (b + 1) * p->n / bins, min = from, max = from;
        for (size_t i = from; i < to; i++) {
            min = p->y[i] < p->y[min] ? i : min;
            max = p->y[i] > p->y[max] ? i : max;
        }
        put_point(s, ax, ay, p->x[AC_MIN(min, max)], p->y[AC_MIN(min, max)], &pen_down);
        if (min != max)
            put_point(s, ax, ay, p->x[AC_MAX(min, max)], p->y[AC_MAX(min, max)], &pen_down);
    }
    ac_str_add(s, "\"/>\n");
}

static void put_dots(ac_str *s, int number, const points *p, const axis *ax, const axis *ay)
{
    for (size_t i = 0; i < p->n; i++) {
        double y = place(ay, p->y[i]);
        if (isnan(y))
            continue;
        ac_str_addf(s,
                    "<circle class=\"c%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>step %.0f: %.5g</title></circle>\n",
                    number, place(ax, p->x[i]), y, p->x[i], p->y[i]);
    }
}

/* The curve that stands for the series. */
static const points *main_curve(const series *e)
{
    return e->smooth.n ? &e->smooth : &e->raw;
}

static void put_series(ac_str *s, int number, const series *e, const axis *ax, const axis *ay)
{
    if (e->smooth.n)
        put_curve(s, "raw", number, &e->raw, ax, ay);
    put_curve(s, "line", number, main_curve(e), ax, ay);
    if (e->raw.n == 1 || (e->sparse && e->raw.n <= DOTS_UP_TO))
        put_dots(s, number, &e->raw, ax, ay);
}

/* Title, unit, and each curve's name with its last value. */
static void put_caption(ac_str *s, const ac_report_chart *chart, const series *e, const int *number, size_t n)
{
    ac_str_add(s, "<figcaption><h3>");
    ac_html_text(s, chart->title);
    if (chart->unit && *chart->unit) {
        ac_str_add(s, " <small>");
        ac_html_text(s, chart->unit);
        ac_str_add(s, "</small>");
    }
    ac_str_add(s, "</h3>");
    for (size_t i = 0; i < n; i++) {
        ac_str_addf(s, "<span class=\"key c%d\">", number[i]);
        ac_html_text(s, e[i].label);
        ac_str_add(s, " <b>");
        put_number(s, main_curve(&e[i])->y[main_curve(&e[i])->n - 1]);
        ac_str_add(s, "</b></span>");
    }
    ac_str_add(s, "</figcaption>\n");
}

static void put_axes(ac_str *s, const axis *x, const axis *y)
{
    if (y->log)
        put_log_ticks(s, y);
    else
        put_linear_ticks(s, y, 5, true);
    put_linear_ticks(s, x, 7, false);
    ac_str_addf(s, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, BOTTOM, RIGHT);
}

static int put_chart(ac_str *s, const ac_report_chart *chart, const series *e, const int *number, size_t n,
                     const double *mark, size_t n_marks, ac_diag *dg)
{
    axis x = {.lo = INFINITY, .hi = -INFINITY, .from = LEFT, .to = RIGHT};
    axis y = {.lo = INFINITY, .hi = -INFINITY, .from = BOTTOM, .to = TOP};
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < n; i++) {
        x.lo = fmin(x.lo, e[i].raw.x[0]);
        x.hi = fmax(x.hi, e[i].raw.x[e[i].raw.n - 1]);
        rc = widen(&y, &e[i], dg);
    }
    if (rc < 0)
        return rc;
    settle(&y, chart->linear);
    x.lo = x.lo < x.hi * 0.1 ? 0 : x.lo;
    x.hi = x.hi > x.lo ? x.hi : x.lo + 1;
    ac_str_add(s, "<figure class=\"chart\">");
    put_caption(s, chart, e, number, n);
    ac_str_addf(s, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    ac_html_text(s, chart->title);
    ac_str_add(s, "\">\n");
    put_axes(s, &x, &y);
    ac_str_addf(s, "<svg class=\"plot\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" viewBox=\"%d %d %d %d\">\n", LEFT,
                TOP - 4, RIGHT - LEFT + 6, BOTTOM - TOP + 8, LEFT, TOP - 4, RIGHT - LEFT + 6, BOTTOM - TOP + 8);
    for (size_t i = 0; i < n_marks; i++)
        if (mark[i] > x.lo && mark[i] < x.hi)
            ac_str_addf(s, "<path class=\"mark\" d=\"M%.1f %dV%d\"><title>resumed at step %.0f</title></path>\n",
                        place(&x, mark[i]), TOP, BOTTOM, mark[i]);
    for (size_t i = 0; i < n; i++)
        put_series(s, number[i], &e[i], &x, &y);
    ac_str_add(s, "</svg></svg></figure>\n");
    return 0;
}

int ac_report_chart_add(ac_str *s, const ac_report_chart *chart, const ac_table *log, const double *mark,
                        size_t n_marks, ac_diag *dg)
{
    series e[AC_CHART_SERIES] = {0};
    int number[AC_CHART_SERIES], step = ac_table_find(log, "step"), rc = 0;
    size_t n = 0;

    for (int i = 0; i < AC_CHART_SERIES && chart->column[i] && step >= 0; i++) {
        int k = ac_table_find(log, chart->column[i]);
        if (k < 0)
            continue;
        e[n].label = chart->label[i] ? chart->label[i] : chart->column[i];
        AC_TRY(get_series(&e[n], log, (size_t)k, (size_t)step, dg));
        if (e[n].raw.n > 0) {
            number[n++] = i;
        } else {
            free_series(&e[n]);
            e[n] = (series){0};
        }
    }
    if (n > 0)
        rc = put_chart(s, chart, e, number, n, mark, n_marks, dg);
out:
    for (size_t i = 0; i < AC_CHART_SERIES; i++)
        free_series(&e[i]);
    return rc;
}
