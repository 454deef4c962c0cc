/* convert.h - models between diffusers folders and single files. */
#ifndef AC_CONVERT_H
#define AC_CONVERT_H

#include "base/half.h"
#include "base/mem.h"

/* Writes the model at `in` (diffusers folder or single .safetensors file) to `out`: a single file when that ends in
 * .safetensors, else a folder, which must not exist yet or be empty. `type`: AC_F32, AC_F16 or AC_BF16 for all weights,
 * -1: as stored (f64 as f32). A single file keeps every configuration, and a vocabulary that is not CLIP's own, in its
 * metadata, so that the way back gives the same model. `clip_dir`: folder with CLIP's vocab.json and merges.txt, for a
 * folder made from a file without vocabulary; NULL: such a folder gets no vocabulary, which is noted. The target
 * appears when it is complete. */
AC_CHECK_RESULT int ac_convert(const char *in, const char *out, int type, const char *clip_dir, ac_diag *dg);

#endif
