/* eval.h - what an evaluation looks at: sets of pictures, and what frozen networks make of them. */
#ifndef AC_EVAL_H
#define AC_EVAL_H

#include "api_internal.h"
#include "io/dataset.h"

/* ---- measures.c: the numbers of a row, in the order of tables. */
typedef struct ac_eval_measure {
    const char *name, *head; /* in JSON; in a table, where it is multiplied by `factor` and has `digits` decimals */
    size_t at;               /* offset in addcl_eval_row */
    double factor;
    int digits;
} ac_eval_measure;
enum { AC_MEASURES = 8 };
extern const ac_eval_measure ac_eval_measures[AC_MEASURES];
double *ac_eval_value(addcl_eval_row *r, int k);
/* {"fid": 12.3, "kid": null ...} */
json_t *ac_eval_json(addcl_eval_row *r);
/* "12.30", with a spread that is a number "12.30 +- 0.41"; "" for NaN. */
void ac_eval_cell(int k, double value, double spread, char *buf, size_t size);

/* ---- set.c: pictures of a folder or of shards, as squares of equal size. */
typedef struct ac_eval_set {
    const char *path; /* borrowed */
    ac_data *data;
    uint32_t *order;  /* which of them, n */
    size_t n;
    int side;         /* pixels */
    bool prompts;     /* captions are the prompts that the PNG files tell */
    bool captions;    /* captions are made of the set's fields */
} ac_eval_set;

/* side 0: the shorter side of the first picture. count 0: all, else as many at most, drawn by the seed. The captions of pictures
 * that add-cl made are in their files; others follow `caption` (see dataset.h; NULL: they have none), with its values. */
typedef struct ac_eval_set_opts {
    int side;
    size_t count;
    uint64_t seed;
    const char *caption, *caption_values, *filter;
} ac_eval_set_opts;
int ac_eval_set_open(const char *path, const ac_eval_set_opts *o, ac_diag *dg, ac_eval_set *s) AC_CHECK_RESULT;
void ac_eval_set_close(ac_eval_set *s);
/* Picture i: rgb [side,side,3]; *caption (NULL: not wanted) in new memory, NULL where there is none. */
int ac_eval_set_get(const ac_eval_set *s, size_t i, ac_diag *dg, uint8_t *rgb, char **caption) AC_CHECK_RESULT;
/* The picture whose name is that of picture i of another set; its index in *at. */
int ac_eval_set_match(const ac_eval_set *s, const ac_eval_set *other, size_t i, ac_diag *dg, size_t *at) AC_CHECK_RESULT;

/* ---- tower.c: an image transformer, and the text transformer beside it, for batches of B. */
typedef struct ac_eval_tower {
    ac_part image, text;
    ac_vit_cfg vit;
    ac_clip_cfg clip;
    ac_bpe *bpe;
    ac_weights weights[2];
    ac_graph *graph[2];
    ac_exec *x[2];        /* [1] NULL: no text */
    int B, side;          /* side: of the pictures that the network sees */
    size_t d, D;          /* widths of features and of embeddings (0: none) */
    double mean[3], std[3];
    float *pixels;        /* [B,side,side,3] */
    int32_t *ids, *eos;
} ac_eval_tower;

/* with_text: <dir>/text_encoder and <dir>/tokenizer, too; then both have embeddings of one width. */
int ac_eval_tower_open(addcl_ctx *ctx, const char *dir, bool with_text, int B, ac_eval_tower *t) AC_CHECK_RESULT;
void ac_eval_tower_close(ac_eval_tower *t);
/* n <= B pictures of side x side pixels: features [n,d], the class token after the final norm; embeddings [n,D]. Either may be
 * NULL. Pictures of another size are resized as Pillow does it, bicubic and antialiased. */
int ac_eval_tower_images(ac_eval_tower *t, uint8_t *rgb, size_t n, int side, ac_diag *dg, float *features, float *embeddings) AC_CHECK_RESULT;
/* Embeddings [n,D] of captions; longer ones are cut. */
int ac_eval_tower_texts(ac_eval_tower *t, char *const *caption, size_t n, ac_diag *dg, float *embeddings) AC_CHECK_RESULT;

#endif
