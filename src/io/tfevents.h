/* tfevents.h - TensorBoard event files: scalars and pictures.
 *
 * A file is a sequence of TFRecords (length, masked CRC-32C, data, masked CRC-32C), each of which is an Event message
 * in protobuf's wire format (tensorflow/core/util/event.proto, framework/summary.proto). */
#ifndef AC_TFEVENTS_H
#define AC_TFEVENTS_H

#include "base/mem.h"

typedef struct ac_tfevents ac_tfevents;

/* Starts a new file in folder `dir`. `step`: TensorBoard shall forget what earlier files of this folder say from this
 * step on; -1: nothing. */
AC_CHECK_RESULT int ac_tfevents_open(const char *dir, int64_t step, ac_diag *dg, ac_tfevents **out);
void ac_tfevents_close(ac_tfevents *t); /* accepts NULL */

/* Adds n scalars under their tags; NaN: left out. */
AC_CHECK_RESULT int ac_tfevents_scalars(ac_tfevents *t, int64_t step, const char *const *tag, const double *value,
                                        size_t n, ac_diag *dg);
/* Adds the picture in n bytes of a PNG file. */
AC_CHECK_RESULT int ac_tfevents_png(ac_tfevents *t, int64_t step, const char *tag, const void *png, size_t n,
                                    ac_diag *dg);

#endif
