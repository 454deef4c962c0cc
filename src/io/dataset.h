/* dataset.h - pictures with captions for training: where they come from, which of them an epoch shows and how.
 *
 * A source is a path; several may be given, and what each is, is detected:
 *
 * - imagefolder: a folder with metadata.jsonl, each line an object {"file_name": "a/b.png", ...} whose other keys are
 *   fields;
 *
 * - kohya: a folder of pictures, in it or in its folders; x.txt or x.caption beside x.png is the field `text`;
 *
 * - webdataset: a .tar shard, a folder of shards, or a list like "train-{000..012}.tar". Members whose paths are the
 *   same up to the first dot of the file name are one sample: .png .jpg .jpeg .webp is the picture, .txt or .caption
 *   the field `text`, .json more fields.
 *
 * Fields are text, numbers, true, false, or lists of these; other values of JSON count as absent. Every sample also has
 * the field `file_name`, its path within the folder or shard.
 *
 * Everything random comes from (seed, epoch, sample) alone: the same seed gives the same pictures, crops and captions
 * in the same order on any machine, and a run continues from its sample counter (loader.h). */
#ifndef AC_DATASET_H
#define AC_DATASET_H

#include "base/mem.h"

/* How a picture that is not square becomes square. */
typedef enum ac_fit {
    AC_FIT_CROP,        /* scale the short side, take the middle */
    AC_FIT_RANDOM_CROP, /* scale the short side, take any part */
    AC_FIT_PAD,         /* scale the long side, fill with the background */
    AC_FIT_STRETCH      /* scale both sides, whatever that does to the shapes */
} ac_fit;

typedef struct ac_data_opts {
    const char *const *source; /* n_source paths */
    size_t n_source;
    int resolution; /* side of the pictures in pixels; 0: the shorter side of the first picture */
    ac_fit fit;
    double flip;           /* probability of a mirror image, left to right */
    uint8_t background[3]; /* RGB behind transparent pixels and for AC_FIT_PAD */
    /* Captions are drawn anew each epoch from alternatives "weight * template | weight * template", the weight 1 unless
     * written. A template is literal text with {field}, which stands for the field's text (of a list: all elements),
     * {field:n}, n different elements in random order, or {field:n-m}, n to m of them. Lists are joined by ", ". Of the
     * template's parts between commas, one whose fields are all empty vanishes with its comma.
     *   3 * {label}, {style} | 5 * {label}, {tags:1-3}, {style}
     * NULL: "{text}". */
    const char *caption;
    const char *caption_values; /* "field=pattern:text, ...": such values of the field are written so; NULL: none */
    double caption_dropout;     /* probability of the empty caption */
    /* Conditions "field=pattern", "field!=pattern" with the shell's * ? [a-z]; a list meets one when an element does. A
     * pattern cannot hold a comma: write ?. */
    const char *filter;    /* conditions that a sample must all meet, between commas; NULL: none */
    const char *subsample; /* "field=pattern:share, ...": of samples that meet it (and no earlier one) only this share
                            * is seen in an epoch, other ones in each; NULL: none */
    const char *val_split; /* list of held-out samples; NULL: none. A text file of file names, or a .json file with
                            * "file_names" and "labels" (of the field `label`), either may lack */
    const char *exclude_list; /* samples to be left out of everything, same formats; NULL: none */
    uint64_t seed;
    size_t cache_bytes; /* decoded pictures are kept in memory up to this amount */
} ac_data_opts;
/* Fields not named have these values. */
#define AC_DATA_OPTS_INIT                                                                                              \
    {                                                                                                                  \
        .background = { 255, 255, 255 }                                                                                \
    }

typedef enum ac_split { AC_SPLIT_TRAIN, AC_SPLIT_VAL } ac_split;

typedef struct ac_data ac_data;

/* Lists the sources and reads all captions, but no pictures. Sources that cannot be understood, options that cannot be
 * met and splits without samples in training are errors. */
AC_CHECK_RESULT int ac_data_open(const ac_data_opts *opts, ac_diag *dg, ac_data **out);
void ac_data_close(ac_data *d);

/* Number of samples of a split; and of samples that one epoch of it shows, fewer where `subsample` applies. */
size_t ac_data_count(const ac_data *d, ac_split split);
size_t ac_data_epoch_size(const ac_data *d, ac_split split);
/* The samples of a split in the order of the sources (ac_data_count many), good until the end. */
const uint32_t *ac_data_members(const ac_data *d, ac_split split);
/* What epoch `epoch` of a split shows: ac_data_epoch_size samples, a permutation drawn from (seed, epoch). */
void ac_data_order(const ac_data *d, ac_split split, uint64_t epoch, uint32_t *order);

int ac_data_resolution(const ac_data *d);
/* Of any sample, borrowed: path within its source. */
const char *ac_data_name(const ac_data *d, uint32_t index);

/* Which part of a scaled picture is shown, and how. */
typedef struct ac_view {
    int x, y; /* corner of the crop in pixels of the scaled picture */
    bool flip;
} ac_view;

/* One showing of one sample. */
typedef struct ac_sample {
    uint32_t index;
    uint64_t epoch;
    const char *name; /* borrowed from the data set */
    uint8_t hash[32]; /* SHA-256 of the picture's file */
    ac_view view;
    char *caption; /* owned; free() */
} ac_sample;

#define AC_EPOCH_PLAIN UINT64_MAX /* no augmentation: middle crop, no flip, no caption dropout */

/* Sample `index` as epoch `epoch` shows it. `image`: room for [resolution,resolution,3] floats in -1..1; NULL when the
 * pixels are not wanted: then the file is read only the first time. A picture that cannot be read, damaged, not a
 * picture or absurdly large, is ADDCL_E_FORMAT, ADDCL_E_IO or ADDCL_E_UNSUPPORTED and is remembered, the next time
 * without reading; other codes are failures of this machine. May be called by several threads at once. */
AC_CHECK_RESULT int ac_data_fetch(ac_data *d, uint32_t index, uint64_t epoch, ac_diag *dg, float *image,
                                  ac_sample *out);
/* Is `rc` of ac_data_fetch about the picture, so that another one can take its place? */
bool ac_data_is_broken(int rc);
/* Number of broken pictures met so far; the message of number i is copied to msg[n] ("" when it is not kept: the first
 * AC_DATA_BROKEN_KEPT are). */
#define AC_DATA_BROKEN_KEPT 32
size_t ac_data_broken(ac_data *d, size_t i, char *msg, size_t n);
/* Sends a warning for each broken picture that none was sent for yet. */
void ac_data_note_broken(ac_data *d, ac_diag *dg);

/* What makes the pixels of a showing besides the file, for ac_cache_key: resolution, fit, background and view. */
void ac_data_view_key(const ac_data *d, const ac_view *view, char key[96]);

#endif
