/* ablation.h - the file of an ablation: which trainings, how they are measured. */
#ifndef AC_ABLATION_H
#define AC_ABLATION_H

#include "base/file.h"

typedef struct ac_ablation_row {
    char *table, *name, *folder; /* folder: of the row, "d-losses/both-sds"; rows that set the same share the first one's */
    ac_lines sets;               /* overrides "section.key=value" */
} ac_ablation_row;

typedef struct ac_ablation {
    char *base, *output_dir, *prompts_file, *reference, *features, *clip; /* paths, absolute or from here; NULL: not given */
    char *caption, *caption_values, *filter, *sampler;                     /* NULL: not given */
    ac_lines settings; /* overrides of all rows, before their own */
    AC_VEC(int64_t) seeds;
    int64_t images, steps, image_seed, batch_size;
    double guidance;                /* < 0: the model's */
    AC_VEC(ac_ablation_row) rows;
} ac_ablation;

/* E_ARG: the message names file and line. */
int ac_ablation_read(const char *path, ac_diag *dg, ac_ablation *a) AC_CHECK_RESULT;
void ac_ablation_free(ac_ablation *a); /* what it owns */

#endif
