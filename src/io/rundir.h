/* rundir.h - the run folder of a training, which one process owns.
 *
 *   .lock                      held (flock) by the trainer; tells its process and machine
 *   config.ini                 the effective configuration
 *   log.csv, events.jsonl, tb/ runlog.h, tfevents.h
 *   checkpoints/step-000500/   ckpt.h
 *   samples/step-000500.png    sheets of pictures (grid.h); step-000500-ema.png is of another series, "ema"
 *   report.html                report.h
 *   model/                     the exported model */
#ifndef AC_RUNDIR_H
#define AC_RUNDIR_H

#include "base/mem.h"

typedef struct ac_rundir ac_rundir;

/* Makes the folder and those in it where they are missing, takes the lock, and clears away what killed runs left
 * behind. E_IO when another process holds the lock; the message names it. Where the file system knows no locks nothing
 * is cleared away, and a note says so. */
AC_CHECK_RESULT int ac_rundir_open(const char *path, ac_diag *dg, ac_rundir **out);
void ac_rundir_close(ac_rundir *run); /* gives the lock back; accepts NULL */
const char *ac_rundir_path(const ac_rundir *run);

#endif
