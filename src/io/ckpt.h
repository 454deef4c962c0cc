/* ckpt.h - checkpoints of a training: written whole or not at all, verified when read.
 *
 * <run>/checkpoints/step-000500/ holds
 *   <part>.safetensors   any number of them
 *   state.json           whatever the trainer needs besides tensors
 *   manifest.json        format version, step, and for each of the files above its size, its SHA-256, and for each of
 *                        its tensors a CRC-32C; at the end the SHA-256 of the manifest's own content
 * SHA-256 decides whether a file is what was written (and `sha256sum` can be asked too); the CRC-32C, which costs a
 * quarter of that, only serves to name the tensor that was damaged.
 *
 * A checkpoint is written to checkpoints/.step-000500.tmp-<pid>/, every file and the folder are synced, the folder gets
 * its name, and checkpoints/ is synced. So at every moment, whatever is killed or unplugged, the checkpoints with a
 * proper name are whole. */
#ifndef AC_CKPT_H
#define AC_CKPT_H

#include <jansson.h>
#include "io/rundir.h"
#include "io/safetensors.h"

/* One safetensors file to be written. */
typedef struct ac_ckpt_part {
    const char *name; /* "unet" makes unet.safetensors */
    const ac_st_entry *entry;
    size_t n;
    /* Gives the data of entry[i]: called once for each tensor that has elements, one after the other; negative: stop.
     */
    int (*fill)(void *user, size_t i, void *dst, size_t bytes);
    void *user;
} ac_ckpt_part;

/* Writes the checkpoint of `step` >= 0. One of that step that is there already is replaced once the new one is whole.
 * `state` is a JSON object (integers have 64 bits, reals keep every bit; NaN and infinities do not exist in JSON).
 * After a failure the other checkpoints are as they were; the message tells the bytes needed. */
AC_CHECK_RESULT int ac_ckpt_write(ac_rundir *run, int64_t step, const ac_ckpt_part *parts, size_t n,
                                  const json_t *state, ac_diag *dg);

/* Removes all checkpoints but the `newest` (0: all are kept) and those whose step is a multiple of `every` (0: none).
 * To be called after ac_ckpt_write: the one just written always stays. */
AC_CHECK_RESULT int ac_ckpt_rotate(ac_rundir *run, size_t newest, int64_t every, ac_diag *dg);

/* For a training that goes on from `step`: checkpoints of later steps, damaged or given up, would count as newer than
 * what it writes. They are renamed to "<name>.aside", with a note for each. step -1 sets all aside. */
AC_CHECK_RESULT int ac_ckpt_rewind(ac_rundir *run, int64_t step, ac_diag *dg);

typedef struct ac_ckpt ac_ckpt; /* a verified checkpoint, open for reading */

/* Opens the checkpoint in folder `path` after checking every byte of it. E_FORMAT names the file and, where that can be
 * told, the tensor that is damaged. */
AC_CHECK_RESULT int ac_ckpt_open(const char *path, ac_diag *dg, ac_ckpt **out);
void ac_ckpt_close(ac_ckpt *c); /* accepts NULL */

/* Opens the newest checkpoint of a run folder that verifies. One that does not is passed over with a warning. *out is
 * NULL and the result 0 when the run has no checkpoint; E_FORMAT when it has some but none is whole. Needs no lock. */
AC_CHECK_RESULT int ac_ckpt_latest(const char *run_dir, ac_diag *dg, ac_ckpt **out);

int64_t ac_ckpt_step(const ac_ckpt *c);
const char *ac_ckpt_path(const ac_ckpt *c);
const json_t *ac_ckpt_state(const ac_ckpt *c); /* borrowed */
/* The tensors of a part; NULL when there is no such part. Borrowed. */
const ac_st *ac_ckpt_part_of(const ac_ckpt *c, const char *name);

#endif
