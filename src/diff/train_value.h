/* train_value.h - what a configuration keeps besides its values, and values from text. */
#ifndef AC_TRAIN_VALUE_H
#define AC_TRAIN_VALUE_H

#include "diff/train_keys.h"

typedef struct ac_train_texts {
    const char *source;    /* the INI file as the user named it, else "--set" */
    const char *base;      /* folder that relative paths start from */
    const char **given;    /* [ac_n_keys] the value as written; NULL: the default */
    const char **place;    /* [ac_n_keys] "run.ini:12" or "--set" */
    AC_VEC(void *) memory; /* everything that the configuration points to */
} ac_train_texts;

/* Makes p, new memory or NULL, part of the configuration. Returns p, or NULL when memory is short. */
void *ac_train_own(ac_train_cfg *c, void *p);
/* Cuts blanks off both ends of s. */
char *ac_trimmed(char *s);
/* Sets a key's field from text. E_ARG: the text is not what the key expects; `why`, "" before, may have more to tell.
 * Else E_NOMEM. */
AC_CHECK_RESULT int ac_train_parse(ac_train_cfg *c, const ac_key *k, const char *text, char why[128]);

#endif
