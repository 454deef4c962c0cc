/* image_file.h - what the image readers share; private to src/io/image*.c. */
#ifndef AC_IMAGE_FILE_H
#define AC_IMAGE_FILE_H

#include "io/image.h"

#define AC_IMAGE_FILE_MAX ((size_t)512 << 20) /* bytes */

/* A whole file in memory. */
typedef struct ac_image_src {
    const uint8_t *data;
    size_t n;
    const char *name; /* for messages */
    const ac_image_opts *opts;
} ac_image_src;

/* Readers of one format. */
AC_CHECK_RESULT int ac_png_read(const ac_image_src *src, ac_diag *dg, addcl_image **out);
AC_CHECK_RESULT int ac_jpeg_read(const ac_image_src *src, ac_diag *dg, addcl_image **out);

/* Is the size that a file's header claims one that is supported? */
AC_CHECK_RESULT int ac_image_check_size(const ac_image_src *src, size_t width, size_t height, ac_diag *dg);
/* A new image of that size, which is checked. */
AC_CHECK_RESULT int ac_image_claim(const ac_image_src *src, size_t width, size_t height, ac_diag *dg,
                                   addcl_image **out);

#endif
