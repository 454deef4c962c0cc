/* report.h - what the program tells on standard error: messages and progress; and the signals that end it in order. */
#ifndef REPORT_H
#define REPORT_H

#include <stdbool.h>
#include <jansson.h>
#include "addcl.h"
#include "opts.h"

typedef struct report {
    int level; /* messages up to this ADDCL_LOG_* are shown */
    bool json; /* messages as JSON lines */
    bool colour;
    enum { PROGRESS_NONE, PROGRESS_BAR, PROGRESS_JSON } progress;
    int rank;        /* of this process among several; only 0 tells how things go */
    bool drawn;      /* the cursor stands behind a bar */
    double drawn_at; /* when the bar was last drawn, seconds of the monotonic clock */
    unsigned long seen[32]; /* hashes of the lines logged last: planning and running a job say the same things */
    unsigned n_seen;
} report;

void report_init(report *r, const common_args *a);
/* One of several processes: those other than 0 only warn and fail, and say who they are. */
void report_rank(report *r, int rank);
/* Takes the bar off the terminal; before anything else is written there. */
void report_clear(report *r);
/* Shows `line` in place of the one shown before, as far as the terminal is wide. */
void report_status(report *r, const char *line);
/* One message; `level` is ADDCL_LOG_*. */
void report_say(report *r, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Callbacks for addcl_set_log and addcl_set_progress; `user` is the report. The second ends the call after a signal. */
void report_log(void *user, int level, const char *line);
int report_progress(void *user, const addcl_progress *p);

/* From now on SIGINT, SIGTERM and SIGHUP end long calls through report_progress; a second signal ends the program at
 * once. Signals that the parent had ignored (nohup) stay ignored. */
void catch_signals(void);
/* The exit code that the caught signal asks for; 0: none was caught. */
int caught_signal(void);

/* Seconds of the monotonic clock. */
double clock_now(void);
/* "2:05", "0.8 s" */
const char *text_seconds(double seconds, char buf[24]);
/* "1.5 GiB"; buf has room for 16 characters. */
const char *text_bytes(double bytes, char buf[16]);
/* Prints an untrusted text with its control characters (but newline and tab) as \xNN, so that it cannot steer the
 * terminal. */
void put_text(FILE *f, const char *text);
/* A JSON string; bytes that are not UTF-8 become '?'. */
json_t *json_text(const char *text);
/* x; null when it is not finite. */
json_t *json_number(double x);
/* Writes `value` as one line and gives it back; NULL (memory was short) writes nothing. */
void put_json(FILE *f, json_t *value);

#endif
