/* err.c - errors and notes. */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

int ac_fail(ac_diag *dg, int code, const char *fmt, ...)
{
    if (dg && dg->code == 0) {
        va_list ap;
        dg->code = code;
        va_start(ap, fmt);
        vsnprintf(dg->msg, sizeof dg->msg, fmt, ap);
        va_end(ap);
        for (char *c = dg->msg; *c; c++) /* text from files may hold control characters */
            if ((unsigned char)*c < ' ' || *c == 0x7f)
                *c = ' ';
    }
    return code;
}

int ac_context(ac_diag *dg, const char *fmt, ...)
{
    char head[AC_MSG_MAX / 2];
    va_list ap;
    size_t n, have;

    if (!dg || dg->code == 0)
        return dg ? dg->code : 0;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    n = strlen(head);
    if (n + 3 > sizeof dg->msg)
        return dg->code;
    have = strlen(dg->msg);
    if (have > sizeof dg->msg - n - 3)
        have = sizeof dg->msg - n - 3;
    memmove(dg->msg + n + 2, dg->msg, have);
    memcpy(dg->msg, head, n);
    memcpy(dg->msg + n, ": ", 2);
    dg->msg[n + 2 + have] = '\0';
    return dg->code;
}

void ac_note(ac_diag *dg, int level, const char *fmt, ...)
{
    char line[AC_MSG_MAX];
    va_list ap;

    if (!dg || !dg->note)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    dg->note(dg->user, level, line);
}

void ac_clear(ac_diag *dg)
{
    dg->code = 0;
    dg->msg[0] = '\0';
}
