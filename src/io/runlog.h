/* runlog.h - what a training writes down: numbers in log.csv, events in events.jsonl; numbers and pictures for
 * TensorBoard.
 *
 * Every row and event is in the file when the call returns: a killed process loses none. An event makes all that was
 * written before it durable. */
#ifndef AC_RUNLOG_H
#define AC_RUNLOG_H

#include <jansson.h>
#include "io/rundir.h"

typedef struct ac_runlog ac_runlog;

/* Opens the logs of a run for the n columns of log.csv: column[0] is "step". `step`: the training goes on after this
 * step, and rows beyond it are cut off, so that no step stands there twice; -1: it begins, and the rows and events of
 * an earlier run are removed. Columns of an earlier part that are not in `column` stay, at the end. `tensorboard`:
 * write tb/ too. */
AC_CHECK_RESULT int ac_runlog_open(const ac_rundir *run, const char *const *column, size_t n, int64_t step,
                                   bool tensorboard, ac_diag *dg, ac_runlog **out);
/* Syncs and closes; accepts NULL. */
void ac_runlog_close(ac_runlog *log);

/* One row: n values in the order of the columns, value[0] is the step. NaN: an empty field. A row that does not fit on
 * the disk leaves no part of itself behind. */
AC_CHECK_RESULT int ac_runlog_row(ac_runlog *log, const double *value, ac_diag *dg);

/* One line {"time": ..., "step": step, "kind": kind, ...fields}. Kinds: start, resume, checkpoint, validation, skip,
 * warning, end. Takes over `fields`, an object, which may be NULL (JSON has no NaN: leave such a field out). */
AC_CHECK_RESULT int ac_runlog_event(ac_runlog *log, int64_t step, const char *kind, json_t *fields, ac_diag *dg);

/* Shows a PNG file in TensorBoard under `tag`; nothing without TensorBoard. */
AC_CHECK_RESULT int ac_runlog_picture(ac_runlog *log, int64_t step, const char *tag, const char *path, ac_diag *dg);

/* ----------------------------------------------------------------------------------------------------- reading */

/* A file of numbers with a head line. */
typedef struct ac_table {
    size_t columns, rows;
    char **column; /* their names */
    double *value; /* [rows][columns]; NaN: empty field */
} ac_table;

/* Reads a log.csv; an unfinished last line is left out. A missing file gives no rows and no columns. */
AC_CHECK_RESULT int ac_table_read(const char *path, ac_diag *dg, ac_table *out);
void ac_table_free(ac_table *t);
/* Number of the column with that name, -1: there is none. */
int ac_table_find(const ac_table *t, const char *name);

#endif
