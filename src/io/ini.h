/* ini.h - INI files, strictly: every line is understood or the whole file is refused.
 *
 *     # comment          [section]          key = value ; comment
 *
 * Read through libinih, which cuts long lines, drops what follows a section's name, joins indented lines and lets
 * repetitions pass, all silently. So each line is looked at before it is handed over, and one wrong line is an error
 * that names file and line. Such errors are E_ARG: an INI file is the user's options. */
#ifndef AC_INI_H
#define AC_INI_H

#include "base/mem.h"

enum {
    AC_INI_LINE = 192,     /* most bytes of a line that is no comment, blanks around it not counted (libinih: 197) */
    AC_INI_NAME = 48,      /* most bytes of the name of a section or key (libinih: 49) */
    AC_INI_FILE = 1 << 20, /* most bytes of a file */
    AC_INI_ENTRIES = 1000  /* most keys and sections of a file */
};

typedef struct ac_ini_entry {
    char *section, *key, *value; /* blanks and comments around them removed; key "": the line of the section's name */
    int line;                    /* from 1 */
} ac_ini_entry;

typedef struct ac_ini {
    AC_VEC(ac_ini_entry) entry; /* in the order of the file */
} ac_ini;

/* Reads a file. CR LF and a UTF-8 byte order mark are taken. */
AC_CHECK_RESULT int ac_ini_read(const char *path, ac_diag *dg, ac_ini **out);
/* Reads the n bytes at `text`, which has a NUL behind them; `name` stands for the file in messages. */
AC_CHECK_RESULT int ac_ini_parse(const char *name, const char *text, size_t n, ac_diag *dg, ac_ini **out);
void ac_ini_free(ac_ini *ini); /* accepts NULL */

/* Why "key = value" would not be read back as it is; NULL: it would. */
const char *ac_ini_unwritable(const char *key, const char *value);

#endif
