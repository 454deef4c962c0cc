/* dataset_file.h - what the parts of a data set share; private to src/io/dataset*.c. */
#ifndef AC_DATASET_FILE_H
#define AC_DATASET_FILE_H

#include <jansson.h>
#include <pthread.h>
#include "base/rng.h"
#include "io/dataset.h"

#define AC_DATA_TEXT_MAX ((size_t)1 << 20) /* bytes of a caption file or of one sample's JSON */

/* ------------------------------------------------------------------------------------------- fields and conditions */

/* Number of elements of a field: 0 for what is absent or no text, 1 for a value, more for a list. */
size_t ac_field_count(const json_t *value);
/* Element i as text, borrowed from `value` or printed to buf; "" when it is of another kind. */
const char *ac_field_text(const json_t *value, size_t i, char buf[32]);

/* "field=pattern" or "field!=pattern", perhaps with ":tail" behind it. */
typedef struct ac_rule {
    const char *field, *pattern, *tail; /* borrowed from ac_rules.text; tail is NULL when none was asked for */
    bool negated;
} ac_rule;

typedef struct ac_rules {
    char *text; /* a copy of the option, cut into pieces */
    AC_VEC(ac_rule) rule;
} ac_rules;

/* Reads a list of rules; `option` is its name, for messages. NULL text: an empty list. */
AC_CHECK_RESULT int ac_rules_parse(const char *option, const char *text, bool with_tail, ac_diag *dg, ac_rules *out);
void ac_rules_free(ac_rules *r);
/* Does a text, does a sample with these fields meet the rule? Its value is a pattern of fnmatch. */
bool ac_rule_fits(const ac_rule *r, const char *text);
bool ac_rule_met(const ac_rule *r, const json_t *fields);

/* A list of samples: two sets, as objects whose keys are the elements; NULL: empty. */
typedef struct ac_data_list {
    json_t *names, *labels;
} ac_data_list;

AC_CHECK_RESULT int ac_data_list_read(const char *path, ac_diag *dg, ac_data_list *out);
void ac_data_list_free(ac_data_list *l);
bool ac_data_listed(const ac_data_list *l, const char *name, const json_t *fields);

/* -------------------------------------------------------------------------------------------------------- captions */

/* A template is a row of these; COMMA ends a part. */
typedef struct ac_caption_piece {
    enum { AC_PIECE_TEXT, AC_PIECE_FIELD, AC_PIECE_COMMA } kind;
    const char *text; /* TEXT: n bytes, borrowed from ac_caption.text */
    size_t n;
    size_t field;      /* FIELD: index of its name */
    unsigned min, max; /* FIELD: elements drawn; max 0: all */
} ac_caption_piece;

typedef struct ac_caption_alt {
    double until;    /* sum of the weights up to this alternative, itself included */
    size_t first, n; /* its pieces */
} ac_caption_alt;

typedef struct ac_caption {
    char *text;
    AC_VEC(ac_caption_piece) piece;
    AC_VEC(ac_caption_alt) alt;
    AC_VEC(char *) field; /* names, each once; owned */
} ac_caption;

AC_CHECK_RESULT int ac_caption_parse(const char *text, ac_diag *dg, ac_caption *out);
void ac_caption_free(ac_caption *c);
/* A caption of one sample in new memory. `fields`: for each name in c->field its elements, each ended by NUL, and an
 * empty element behind the last. `random`: the state of an ac_mix stream. */
AC_CHECK_RESULT int ac_caption_draw(const ac_caption *c, const char *fields, uint64_t *random, ac_diag *dg, char **out);

/* -------------------------------------------------------------------------------------------------------- the set */

/* Where pictures lie: a folder, or a shard. */
typedef struct ac_data_root {
    char *path;
    bool shard;
} ac_data_root;

typedef struct ac_data_item {
    size_t name, fields; /* offsets in ac_data.text; fields as ac_caption_draw wants them */
    uint64_t at, bytes;  /* in a shard: place of the file */
    uint32_t root;
    uint32_t group; /* 0: in every epoch; k: the k-th rule of `subsample` decides */
    ac_split split;
} ac_data_item;

/* What is known about a picture. */
typedef struct ac_data_slot {
    enum { AC_SLOT_UNKNOWN, AC_SLOT_GOOD, AC_SLOT_BROKEN } state;
    int code;          /* BROKEN: what reading it gave */
    int width, height; /* GOOD: after scaling */
    uint8_t hash[32];
    addcl_image *kept; /* GOOD: the scaled picture, once there is room; never changed again */
} ac_data_slot;

/* What one rule of `subsample` concerns. */
typedef struct ac_data_group {
    double share; /* of its members, for an epoch */
    size_t n;     /* members in the training split */
} ac_data_group;

struct ac_data {
    ac_data_opts opts; /* its pointers are not used after opening */
    ac_caption caption;
    ac_rules values, filter, subsample;
    ac_data_list val, exclude;
    AC_VEC(ac_data_root) root;
    AC_VEC(ac_data_item) item;
    ac_str text;          /* names and fields of all samples */
    size_t *seen;         /* for each caption field: samples that have it */
    uint32_t *member[2];  /* of each split: indices of items */
    size_t n_member[2];   /* how many */
    size_t n_epoch[2];    /* of them in an epoch */
    ac_data_group *group; /* subsample.rule.n + 1; [0]: the samples that no rule concerns */

    pthread_mutex_t lock; /* guards all below */
    ac_data_slot *slot;   /* one an item */
    size_t kept_bytes;
    size_t n_broken, n_noted;
    char *broken[AC_DATA_BROKEN_KEPT]; /* messages; NULL where memory was short */
};

/* Shorter side of a picture as its file has it. */
AC_CHECK_RESULT int ac_data_native(const ac_data *d, uint32_t index, ac_diag *dg, int *side);
/* Adds the samples of one source. */
AC_CHECK_RESULT int ac_data_add_source(ac_data *d, const char *path, ac_diag *dg);
AC_CHECK_RESULT int ac_data_add_shard(ac_data *d, const char *path, ac_diag *dg);

/* A new root, which items added from now on belong to. */
AC_CHECK_RESULT int ac_data_add_root(ac_data *d, const char *path, bool shard, ac_diag *dg);
/* Adds the sample `name` unless it is filtered out. `fields` is an object; it is changed, not owned. */
AC_CHECK_RESULT int ac_data_add(ac_data *d, const char *name, uint64_t at, uint64_t bytes, json_t *fields, ac_diag *dg);

/* .png .jpg .jpeg .webp in any case, without the point. */
bool ac_data_is_picture(const char *extension);

/* State of the ac_mix stream for one purpose: equal arguments, equal numbers. */
typedef enum ac_data_use { AC_USE_ORDER, AC_USE_VIEW, AC_USE_CAPTION } ac_data_use;
static inline uint64_t ac_data_stream(uint64_t seed, uint64_t epoch, uint64_t index, ac_data_use use)
{
    uint64_t s = seed;

    s = ac_mix(&s) ^ epoch;
    s = ac_mix(&s) ^ index;
    s = ac_mix(&s) ^ (uint64_t)use;
    return s;
}

/* An integer in 0..n-1, n <= 2^32, of equal chances within n / 2^32; and a number in [0,1). */
static inline size_t ac_data_below(uint64_t *random, size_t n)
{
    return (size_t)((ac_mix(random) >> 32) * n >> 32);
}

static inline double ac_data_uniform(uint64_t *random)
{
    return (double)(ac_mix(random) >> 11) * 0x1p-53;
}

#endif
