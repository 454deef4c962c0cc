/* model_lists.h - tensor lists of the published models, in both libraries' names, and files that hold them.
 *
 * Made from the construction of the libraries, independent of the program's own naming tables: as ldm, sgm and
 * open_clip number their modules (what a file stores) and as diffusers and transformers do (what the program asks for).
 */
#ifndef AC_MODEL_LISTS_H
#define AC_MODEL_LISTS_H

#include "support.h"

typedef struct tensor {
    char name[160];
    ac_st_dtype dtype; /* F16 unless changed */
    int dims;
    int64_t dim[4];
} tensor;

typedef AC_VEC(tensor) list; /* free(l.p) */

/* Appends a tensor; dimensions that are 0 do not exist. */
void add(list *l, int64_t a, int64_t b, int64_t c, int64_t d, const char *fmt, ...) AC_PRINTF(6, 7);

/* A UNet with two layers a block. */
typedef struct unet {
    int levels;
    int64_t width[4];
    int depth[4]; /* transformer layers; 0: no attention */
    int mid_depth;
    int64_t text, added; /* cross-attention width; input of the added embedding, 0: none */
    bool linear;         /* projections of the transformers; else 1x1 convolutions */
} unet;

extern const unet sd1, sd2, sdxl;

void ldm_unet(list *l, const unet *u); /* with its prefix */
void hf_unet(list *l, const unet *u);

/* AutoencoderKL; `p` is "" or a prefix that ends with a dot. */
void ldm_vae(list *l, const char *p);
void hf_vae(list *l);

/* Text encoders of width w. open_clip's list has all that a state_dict of it holds. */
void hf_text(list *l, const char *p, int64_t w, int layers, bool projection);
void open_clip_text(list *l, const char *p, int64_t w, int layers);

void leftovers(list *l);                   /* what training programs leave in checkpoints of SD 1 and 2 */
void position_ids(list *l, const char *p); /* what older versions of transformers stored */

/* Writes temp_path(name), which is returned: a header with the list, then a hole in place of the data. */
const char *write_sparse(const char *name, const list *l);

#endif
