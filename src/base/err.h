/* err.h - errors and notes: where a failing function leaves its message, and the two control-flow macros.
 *
 * A fallible function returns 0 or a negative ADDCL_E_* and leaves one line in an ac_diag: lower case, what failed, the
 * numbers, what was expected. The first message wins (it is the root cause); callers only append context. */
#ifndef AC_ERR_H
#define AC_ERR_H

#include <stdarg.h>
#include "addcl.h"

#define AC_MSG_MAX 2048

#define AC_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define AC_CHECK_RESULT __attribute__((warn_unused_result))

typedef struct ac_diag {
    int code;                                           /* first error, 0: none */
    char msg[AC_MSG_MAX];                               /* its message, "" when none */
    void (*note)(void *user, int level, const char *s); /* receiver of notes (ADDCL_LOG_*), may be NULL */
    void *user;                                         /* passed to note */
} ac_diag;

/* Records (code, message) unless an error is already recorded; returns `code`. `dg` may be NULL. */
int ac_fail(ac_diag *dg, int code, const char *fmt, ...) AC_PRINTF(3, 4);
/* Prepends "<context>: " to the recorded message, if any; returns the recorded code. */
int ac_context(ac_diag *dg, const char *fmt, ...) AC_PRINTF(2, 3);
/* Sends one line to the receiver of notes, if any. `level` is ADDCL_LOG_*. */
void ac_note(ac_diag *dg, int level, const char *fmt, ...) AC_PRINTF(3, 4);
/* Forgets the recorded error. */
void ac_clear(ac_diag *dg);

/* Needs `int rc` and a label `out` in scope. The one `out:` serves success and failure. */
#define AC_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        rc = (expr);                                                                                                   \
        if (rc < 0)                                                                                                    \
            goto out;                                                                                                  \
    } while (0)

#endif
