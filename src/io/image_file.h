/* image_file.h - what the image readers share; private to src/io/image*.c. */
#ifndef AC_IMAGE_FILE_H
#define AC_IMAGE_FILE_H

#include <stdio.h>
#include "io/image.h"

/* Readers of one format: the open file from its beginning -> *out; `path` is for messages. */
AC_CHECK_RESULT int ac_png_read(FILE *f, const char *path, ac_diag *dg, addcl_image **out);
AC_CHECK_RESULT int ac_jpeg_read(FILE *f, const char *path, ac_diag *dg, addcl_image **out);

/* Is the size that a file's header claims one that is supported? */
AC_CHECK_RESULT int ac_image_check_size(size_t width, size_t height, const char *path, ac_diag *dg);
/* A new image of that size, which is checked. */
AC_CHECK_RESULT int ac_image_claim(size_t width, size_t height, const char *path, ac_diag *dg, addcl_image **out);

#endif
