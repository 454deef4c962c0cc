/* safetensors.h - weight files: a read-only view of *.safetensors files, alone or in shards, and an atomic writer.
 *
 * Format: 8 bytes little-endian length of the header, the header (JSON: name -> dtype, shape, data_offsets; optional
 * "__metadata__" of strings), then the data, little-endian, row-major, without holes. */
#ifndef AC_SAFETENSORS_H
#define AC_SAFETENSORS_H

#include "base/mem.h"

/* In the order of the reference library: a file written by either lists its tensors from the last type to the first. */
typedef enum ac_st_dtype {
    AC_ST_BOOL,
    AC_ST_U8,
    AC_ST_I8,
    AC_ST_F8_E5M2,
    AC_ST_F8_E4M3,
    AC_ST_F8_E8M0,
    AC_ST_F8_E4M3FNUZ,
    AC_ST_F8_E5M2FNUZ,
    AC_ST_I16,
    AC_ST_U16,
    AC_ST_F16,
    AC_ST_BF16,
    AC_ST_I32,
    AC_ST_U32,
    AC_ST_F32,
    AC_ST_C64,
    AC_ST_F64,
    AC_ST_I64,
    AC_ST_U64
} ac_st_dtype;

#define AC_ST_DIMS 8 /* most dimensions of a tensor */

size_t ac_st_dtype_size(ac_st_dtype t);      /* bytes of one element */
const char *ac_st_dtype_name(ac_st_dtype t); /* "F16", as in the header */

/* Bytes of a tensor of this type and shape; false when the number does not fit or a dimension is negative. */
bool ac_st_bytes(ac_st_dtype t, int dims, const int64_t *dim, size_t *bytes);

typedef struct ac_st ac_st; /* opened file, or opened set of shards */

typedef struct ac_st_tensor {
    const char *name;
    ac_st_dtype dtype;
    int dims; /* 0: a scalar, one element */
    int64_t dim[AC_ST_DIMS];
    const void *data; /* in a read-only mapping of the file; may be unaligned */
    uint64_t bytes;
    int file; /* number of the shard, 0 for a single file */
} ac_st_tensor;

/* Opens a .safetensors file, or with its shards an index (*.safetensors.index.json). Everything in the headers is
 * checked here (E_FORMAT, E_UNSUPPORTED); the data are not touched. A file that another program cuts short while it is
 * open raises SIGBUS on access, as with any mapping: replace weight files by rename. */
AC_CHECK_RESULT int ac_st_open(const char *path, ac_diag *dg, ac_st **out);
void ac_st_close(ac_st *st); /* accepts NULL; ends the life of all tensors, names and metadata */

/* Tensors in the order of their names (bytewise). */
size_t ac_st_count(const ac_st *st);
const ac_st_tensor *ac_st_at(const ac_st *st, size_t i);
const ac_st_tensor *ac_st_find(const ac_st *st, const char *name); /* NULL: there is none */

/* "__metadata__" in file order; that of the first shard when there are several. */
size_t ac_st_meta_count(const ac_st *st);
void ac_st_meta_at(const ac_st *st, size_t i, const char **key, const char **value);
const char *ac_st_meta(const ac_st *st, const char *key); /* NULL: there is none */

/* Gives the memory of the tensor's mapped pages back; they are read again when touched. */
void ac_st_drop(const ac_st *st, const ac_st_tensor *t);

typedef struct ac_st_entry {
    const char *name; /* UTF-8 */
    ac_st_dtype dtype;
    int dims;
    int64_t dim[AC_ST_DIMS];
} ac_st_entry;

/* Writes a file, byte for byte as the reference library does: tensors sorted by type (last first), then name; metadata
 * in the given order. The data of e[i] come from fill(user, i, dst, bytes), called once for each tensor that has
 * elements, in file order; a negative result stops the writing and is returned. The target appears, or is replaced,
 * only when everything is on disk. */
AC_CHECK_RESULT int ac_st_write(const char *path, const ac_st_entry *e, size_t n, const char *const (*meta)[2],
                                size_t n_meta, int (*fill)(void *user, size_t i, void *dst, size_t bytes), void *user,
                                ac_diag *dg);

#endif
