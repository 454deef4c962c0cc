/* report.c - messages, progress and signals. */
#include "report.h"
#include "tool.h"

#include <signal.h>
#include <stdarg.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

double clock_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *text_bytes(double bytes, char buf[16])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;

    while (bytes >= 1000 && u < 4) {
        bytes /= 1024;
        u++;
    }
    snprintf(buf, 16, "%.*f %s", u > 0 && bytes < 100 ? 1 : 0, bytes, units[u]);
    return buf;
}

void put_text(FILE *f, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            fprintf(f, "\\x%02x", c);
        else
            putc(c, f);
    }
}

json_t *json_text(const char *text)
{
    json_t *s = json_string(text);
    char *plain;

    if (s || !(plain = strdup(text)))
        return s;
    for (char *c = plain; *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    s = json_string(plain);
    free(plain);
    return s;
}

json_t *json_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

void put_json(FILE *f, json_t *value)
{
    if (value && json_dumpf(value, f, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0)
        putc('\n', f);
    json_decref(value);
}

/* ------------------------------------------------------------------------------------------------ signals */

static volatile sig_atomic_t caught; /* SIGINT or SIGTERM once one came */

static void on_signal(int sig)
{
    if (caught)
        _exit(128 + caught);
    caught = sig == SIGINT ? SIGINT : SIGTERM;
}

void catch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction old, act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    sigemptyset(&act.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], &act, NULL);
}

int caught_signal(void)
{
    return caught ? 128 + caught : 0;
}

/* ----------------------------------------------------------------------------------------------- messages */

static const char *const level_names[] = {"error", "warning", "info", "debug"};
static const char *const level_colours[] = {"\033[1;31m", "\033[1;35m", "", "\033[2m"};

void report_init(report *r, const common_args *a)
{
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR"), *how = a->progress ? a->progress : "none";
    bool terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;

    *r = (report){.level = a->quiet     ? ADDCL_LOG_ERROR
                           : a->verbose ? ADDCL_LOG_DEBUG
                                        : ADDCL_LOG_INFO,
                  .json = a->log_json};
    r->colour = terminal && !(no_colour && *no_colour);
    if (strcmp(how, "json") == 0)
        r->progress = PROGRESS_JSON;
    else if (strcmp(how, "bar") == 0 || (strcmp(how, "auto") == 0 && terminal && !a->quiet && !a->log_json))
        r->progress = PROGRESS_BAR;
}

void report_rank(report *r, int rank)
{
    r->rank = rank;
    if (rank > 0 && r->level > ADDCL_LOG_WARN)
        r->level = ADDCL_LOG_WARN;
    if (rank > 0)
        r->progress = PROGRESS_NONE;
}

void report_clear(report *r)
{
    if (r->drawn)
        fputs("\r\033[K", stderr);
    r->drawn = false;
}

/* Was this very line logged a moment ago? Remembers it. */
static bool repeated(report *r, const char *line)
{
    unsigned long h = 5381;

    for (const char *c = line; *c; c++)
        h = h * 33 + (unsigned char)*c;
    for (unsigned i = 0; i < sizeof r->seen / sizeof *r->seen && i < r->n_seen; i++)
        if (r->seen[i] == h)
            return true;
    r->seen[r->n_seen++ % (sizeof r->seen / sizeof *r->seen)] = h;
    return false;
}

void report_log(void *user, int level, const char *line)
{
    report *r = user;

    if (level > r->level || (level <= ADDCL_LOG_WARN && repeated(r, line)))
        return;
    report_clear(r);
    if (r->json) {
        put_json(stderr, json_pack("{s:s, s:s, s:o*}", "event", "log", "level", level_names[level], "message",
                                   json_text(line)));
    } else if (level <= ADDCL_LOG_WARN) {
        fprintf(stderr, "add-cl: %s%s:%s ", r->colour ? level_colours[level] : "", level_names[level],
                r->colour ? "\033[0m" : "");
        if (r->rank > 0)
            fprintf(stderr, "rank %d: ", r->rank);
        put_text(stderr, line);
        putc('\n', stderr);
    } else {
        fputs(r->colour ? level_colours[level] : "", stderr);
        put_text(stderr, line);
        fputs(r->colour && level_colours[level][0] ? "\033[0m\n" : "\n", stderr);
    }
}

void report_say(report *r, int level, const char *fmt, ...)
{
    char line[4096];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    report_log(r, level, line);
}

/* ----------------------------------------------------------------------------------------------- progress */

const char *text_seconds(double s, char buf[24])
{
    long n = (long)(s + 0.5);

    if (s < 9.95)
        snprintf(buf, 24, "%.1f s", s);
    else if (n < 60)
        snprintf(buf, 24, "%ld s", n);
    else if (n < 3600)
        snprintf(buf, 24, "%ld:%02ld", n / 60, n % 60);
    else
        snprintf(buf, 24, "%ld:%02ld:%02ld", n / 3600, n / 60 % 60, n % 60);
    return buf;
}

static int terminal_width(void)
{
    struct winsize w;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
}

void report_status(report *r, const char *line)
{
    fprintf(stderr, "\r\033[K%.*s", terminal_width() - 1, line);
    fflush(stderr);
    r->drawn = true;
}

/* One line: "image 2/4  sample 12/25 |#####-----| 0.061 s/it, 0.8 s left", as wide as the terminal allows. */
static void draw_bar(report *r, const addcl_progress *p)
{
    static const char full[] = "########################################",
                      empty[] = "----------------------------------------";
    char head[128], tail[64] = "", left[24];
    double each = p->done > 0 ? p->seconds / (double)p->done : 0;
    int room, filled, n = 0;

    if (p->images > 1)
        n = snprintf(head, sizeof head, "image %d/%d  ", p->image + 1, p->images);
    snprintf(head + n, sizeof head - (size_t)n, "%.16s %lld/%lld", p->stage, (long long)p->done, (long long)p->total);
    if (p->done > 0)
        snprintf(tail, sizeof tail, "%.3g s/it, %s left", each,
                 text_seconds(each * (double)(p->total - p->done), left));
    room = terminal_width() - (int)(strlen(head) + strlen(tail)) - 6;
    if (room > (int)sizeof full - 1)
        room = (int)sizeof full - 1;
    if (room < 4 || p->total <= 0) {
        fprintf(stderr, "\r\033[K%s %s", head, tail);
    } else {
        filled = (int)((double)room * (double)p->done / (double)p->total);
        filled = filled < 0 ? 0 : filled > room ? room : filled;
        fprintf(stderr, "\r\033[K%s |%.*s%.*s| %s", head, filled, full, room - filled, empty, tail);
    }
    fflush(stderr);
    r->drawn = true;
    r->drawn_at = clock_now();
}

int report_progress(void *user, const addcl_progress *p)
{
    report *r = user;

    if (r->progress == PROGRESS_JSON)
        put_json(stderr, json_pack("{s:s, s:s, s:I, s:I, s:f, s:i, s:i}", "event", "progress", "stage", p->stage,
                                   "done", (json_int_t)p->done, "total", (json_int_t)p->total, "seconds", p->seconds,
                                   "image", p->image, "images", p->images));
    else if (r->progress == PROGRESS_BAR && (p->done == p->total || clock_now() - r->drawn_at >= 0.1))
        draw_bar(r, p);
    return caught_signal() != 0;
}
