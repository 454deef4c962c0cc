/* loader.h - batches of a data set, made ahead by threads.
 *
 * Row n of the endless sequence of samples is position n % E of epoch n / E, E = ac_data_epoch_size. A batch of R ranks
 * is R * batch consecutive rows, of which rank r gets r * batch .. (r + 1) * batch - 1: R ranks together see what one
 * rank sees with R times the batch. Where a picture is broken, the next good one of its epoch stands in its place, the
 * same on every rank. */
#ifndef AC_LOADER_H
#define AC_LOADER_H

#include "io/dataset.h"

typedef struct ac_loader_opts {
    ac_split split;
    bool ordered;       /* for evaluation: all samples in the sources' order, as AC_EPOCH_PLAIN shows them */
    bool no_images;     /* images are not wanted: everything else comes, batch->image is NULL */
    size_t batch;       /* rows of a batch of one rank */
    size_t rank, ranks; /* ranks 0: 1 */
    uint64_t start;     /* row that the first batch of all ranks begins with: to continue a run, rows used so far */
    size_t threads;     /* 0: 1 */
    size_t ahead;       /* batches made ahead; 0: threads + 1 */
} ac_loader_opts;

typedef struct ac_batch {
    uint64_t row; /* of the first sample, in the endless sequence */
    size_t n;
    float *image;      /* [n, resolution, resolution, 3] in -1..1 */
    ac_sample *sample; /* n */
} ac_batch;

typedef struct ac_loader ac_loader;

/* `d` must outlive the loader; several loaders may share it. Fails when the split is empty. */
AC_CHECK_RESULT int ac_loader_open(ac_data *d, const ac_loader_opts *opts, ac_diag *dg, ac_loader **out);
/* The next batch, good until the next call or the close. After an error every call gives that error. Notes in `dg` name
 * the broken pictures met since the last call. */
AC_CHECK_RESULT int ac_loader_next(ac_loader *l, ac_diag *dg, const ac_batch **batch);
/* Stops the threads wherever they are. Accepts NULL. */
void ac_loader_close(ac_loader *l);

#endif
