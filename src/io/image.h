/* image.h - 8-bit RGB pictures: PNG, JPEG and WebP in, PNG with text out, fitting and grids. */
#ifndef AC_IMAGE_H
#define AC_IMAGE_H

#include "base/mem.h"

#define AC_IMAGE_SIDE_MAX 16384 /* pixels; so at most 2^28 pixels in all */

/* A black image; NULL when a side is not in 1..AC_IMAGE_SIDE_MAX or memory is short. */
addcl_image *ac_image_new(int width, int height);
void ac_image_free(addcl_image *image);

typedef struct ac_image_opts {
    uint8_t background[3]; /* RGB behind transparent pixels */
    bool orient;           /* turn a JPEG as its Exif orientation asks */
    size_t max_pixels;     /* larger ones are refused; 0: AC_IMAGE_SIDE_MAX alone decides */
} ac_image_opts;

/* Decodes a PNG, JPEG or WebP file of n bytes, known by its content. Grey and palettes become RGB, 16 bits are rounded
 * to 8, alpha is blended in the stored values; colour profiles are not applied. A damaged or truncated file is an
 * error. `name` is for messages. */
AC_CHECK_RESULT int ac_image_decode(const void *data, size_t n, const char *name, const ac_image_opts *opts,
                                    ac_diag *dg, addcl_image **out);
/* Decodes the file `path`: on white, no orientation applied. */
AC_CHECK_RESULT int ac_image_read(const char *path, ac_diag *dg, addcl_image **out);

/* Writes a PNG with n text chunks {keyword, UTF-8 text}: tEXt where Latin-1 can hold the text, else iTXt. A file
 * appears whole or not at all; "-" is standard output. Equal arguments give equal bytes. */
AC_CHECK_RESULT int ac_image_write_png(const char *path, const addcl_image *image, const char *const (*texts)[2],
                                       size_t n, ac_diag *dg);
/* The text of the first tEXt, zTXt or iTXt chunk of a PNG with this keyword, as UTF-8 in new memory (free()); NULL when
 * there is none. */
AC_CHECK_RESULT int ac_image_png_text(const char *path, const char *key, ac_diag *dg, char **text);

/* One picture of n > 0 pictures of equal size, row by row in `columns` columns (0: near square), black where none is
 * left. */
AC_CHECK_RESULT int ac_image_grid(const addcl_image *const *images, size_t n, int columns, ac_diag *dg,
                                  addcl_image **out);
/* Crops the middle of `image` to the aspect ratio of width x height and resizes it: bicubic (a = -0.5), antialiased.
 * The pixels are those of Pillow's ImageOps.fit with BICUBIC (which since version 13 may take columns before rows). */
AC_CHECK_RESULT int ac_image_resize(const addcl_image *image, int width, int height, ac_diag *dg, addcl_image **out);
/* Resizes the whole image likewise, changing its aspect ratio as it must. */
AC_CHECK_RESULT int ac_image_scale(const addcl_image *image, int width, int height, ac_diag *dg, addcl_image **out);

#endif
