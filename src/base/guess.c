/* guess.c - what a misspelt word was meant to be. */
#include "base/guess.h"

#include <string.h>

#include "base/mem.h"

/* Levenshtein distance of a word to the n characters at b; a large number for words longer than any name. */
static int distance(const char *a, const char *b, size_t n)
{
    int row[AC_GUESS_MAX + 1], diagonal, above;

    if (strlen(a) > AC_GUESS_MAX || n > AC_GUESS_MAX)
        return 1000;
    for (int j = 0; j <= (int)n; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            above = row[j];
            row[j] = AC_MIN(diagonal + (a[i - 1] != b[j - 1]), AC_MIN(above, row[j - 1]) + 1);
            diagonal = above;
        }
    }
    return row[n];
}

ac_guess ac_guess_for(const char *word)
{
    return (ac_guess){.word = word, .limit = (int)strlen(word) / 3 + 2}; /* a third of the letters may be wrong */
}

void ac_guess_try(ac_guess *g, const char *candidate, size_t n)
{
    int d = distance(g->word, candidate, n);

    if (d < g->limit)
        *g = (ac_guess){g->word, d, candidate, (int)n};
}
