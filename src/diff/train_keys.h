/* train_keys.h - the table of the keys that the INI file of a training run may have. */
#ifndef AC_TRAIN_KEYS_H
#define AC_TRAIN_KEYS_H

#include "diff/train_config.h"

/* Type of a value, and of the field it is kept in. */
typedef enum ac_key_type {
    AC_KEY_BOOL,   /* bool */
    AC_KEY_INT,    /* int64_t */
    AC_KEY_NUM,    /* double */
    AC_KEY_TIME,   /* double, seconds */
    AC_KEY_TEXT,   /* const char * */
    AC_KEY_PATH,   /* const char *, resolved */
    AC_KEY_WORD,   /* an enum: index of the word */
    AC_KEY_INTS,   /* ac_ints */
    AC_KEY_PATHS,  /* ac_texts, resolved */
    AC_KEY_FACTORS /* ac_factors */
} ac_key_type;

typedef struct ac_key {
    const char *section, *name;
    ac_key_type type;
    size_t at;            /* offset of the field in ac_train_cfg */
    const char *fallback; /* the default, written as in a file; NULL: must be given */
    const char *student;  /* the default of methods that make students of few steps; NULL: the same */
    const char *shown;    /* what an empty default means, in words */
    const char *words;    /* "a|b|c", of AC_KEY_WORD; of a path: what is no path but stands for itself */
    const char *unit;     /* NULL: none */
    const char *methods;  /* "vae|clip": the methods that use the key; NULL: all */
    double min, max;      /* of numbers, also in lists; inclusive */
    const char *meaning;
} ac_key;

extern const ac_key ac_keys[];
extern const size_t ac_n_keys;
/* The sections in their order, each with what it is about. */
extern const char *const ac_key_sections[][2];
extern const size_t ac_n_key_sections;

/* Is `word` one of `words` ("a|b|c")? Its index, else -1. */
int ac_key_word(const char *words, const char *word);
/* The default where `method` (NULL: none) is trained; NULL: must be given. */
const char *ac_key_default(const ac_key *k, const char *method);
/* What a key accepts: "a whole number from 1 to 100", "one of adamw, adam". */
void ac_key_expects(const ac_key *k, char *buf, size_t size);

#endif
