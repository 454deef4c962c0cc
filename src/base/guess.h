/* guess.h - what a misspelt word was meant to be: the nearest of the words that there are. */
#ifndef AC_GUESS_H
#define AC_GUESS_H

#include <stddef.h>

#define AC_GUESS_MAX 48 /* bytes; longer words are never near */

typedef struct ac_guess {
    const char *word;
    int limit;         /* distances from here on are too far */
    const char *found; /* `n` characters, the nearest word so far; NULL: none is near */
    int n;
} ac_guess;

ac_guess ac_guess_for(const char *word);
/* Offers the n characters at `candidate`, which must live as long as the guess. */
void ac_guess_try(ac_guess *g, const char *candidate, size_t n);

#endif
