/* image_png.c - PNG files through libpng. */
#include "io/image_file.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "io/utf8.h"

/* Text chunks that are kept; libpng lets each unpack to 8 MB. */
#define TEXTS_MAX 32

/* Everything that an error in libpng, which jumps, must leave reachable. */
typedef struct job {
    jmp_buf fail;
    int code; /* of an error that libpng finds */
    const char *path;
    ac_diag *dg;
    const ac_image_src *src; /* reading: the caller's */
    size_t used;             /* bytes of it */
    png_structp png;
    png_infop info;
    ac_file *file; /* writing: NULL is standard output */
    addcl_image *image;
    const addcl_image *source;
    AC_VEC(png_text) texts; /* writing; the strings are owned */
} job;

static void on_error(png_structp png, const char *message)
{
    job *j = png_get_error_ptr(png);

    ac_fail(j->dg, j->code, "%s: PNG: %s", j->path, message);
    longjmp(j->fail, 1);
}

/* Oddities that libpng reads over (profiles, unknown chunks) concern nobody. */
static void on_warning(png_structp png, const char *message)
{
    (void)png, (void)message;
}

/* Runs `body`; an error that libpng finds in it ends it with j->code. */
static int guarded(job *j, int (*body)(job *))
{
    if (setjmp(j->fail))
        return j->code;
    return body(j);
}

/* ----------------------------------------------------------------------------------------------------- reading */

static void read_bytes(png_structp png, png_bytep dst, size_t n)
{
    job *j = png_get_io_ptr(png);

    if (n > j->src->n - j->used)
        png_error(png, "the file is truncated");
    memcpy(dst, j->src->data + j->used, n);
    j->used += n;
}

static int start_reading(job *j)
{
    j->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, j, on_error, on_warning);
    j->info = j->png ? png_create_info_struct(j->png) : NULL;
    if (!j->info)
        return ac_nomem(j->dg, sizeof(job));
    png_set_read_fn(j->png, j, read_bytes);
    png_set_user_limits(j->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* sizes are judged, with a better message, later */
    png_set_chunk_cache_max(j->png, TEXTS_MAX);
    png_read_info(j->png, j->info);
    return ac_image_check_size(j->src, png_get_image_width(j->png, j->info), png_get_image_height(j->png, j->info),
                               j->dg);
}

/* Decodes all rows, `stride` bytes apart, to `rgb`, or to nowhere when that is NULL, and reads up to the end of the
 * file. */
static void read_rows(job *j, int passes, uint8_t *rgb, size_t stride)
{
    size_t height = png_get_image_height(j->png, j->info);

    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < height; y++)
            png_read_row(j->png, rgb ? rgb + y * stride : NULL, NULL);
    png_read_end(j->png, j->info); /* a file that lacks its end is damaged */
}

static int read_pixels(job *j)
{
    const uint8_t *rgb = j->src->opts->background;
    const png_color_16 background = {.red = rgb[0], .green = rgb[1], .blue = rgb[2]};
    size_t stride;
    int passes, rc;

    AC_TRY(start_reading(j));
    AC_TRY(ac_image_claim(j->src, png_get_image_width(j->png, j->info), png_get_image_height(j->png, j->info), j->dg,
                          &j->image));
    png_set_expand(j->png); /* palette, 1, 2 and 4 bits of grey -> 8 bits, tRNS -> alpha */
    png_set_scale_16(j->png);
    png_set_gray_to_rgb(j->png);
    png_set_gamma(j->png, 1.0, 1.0); /* whatever gAMA and sRGB say: blending of the stored values */
    png_set_background(j->png, &background, PNG_BACKGROUND_GAMMA_SCREEN, 0, 1.0);
    passes = png_set_interlace_handling(j->png);
    png_read_update_info(j->png, j->info);
    stride = (size_t)j->image->width * 3;
    if (png_get_rowbytes(j->png, j->info) != stride)
        return ac_fail(j->dg, ADDCL_E_INTERNAL, "%s: libpng gives rows of %zu bytes, expected %zu", j->path,
                       png_get_rowbytes(j->png, j->info), stride);
    read_rows(j, passes, j->image->rgb, stride);
out:
    return rc;
}

int ac_png_read(const ac_image_src *src, ac_diag *dg, addcl_image **out)
{
    job j = {.code = ADDCL_E_FORMAT, .path = src->name, .dg = dg, .src = src};
    int rc = guarded(&j, read_pixels);

    png_destroy_read_struct(&j.png, &j.info, NULL);
    if (rc < 0) {
        ac_image_free(j.image);
        j.image = NULL;
    }
    *out = j.image;
    return rc;
}

/* -------------------------------------------------------------------------------------------------------- text */

/* Latin-1 or UTF-8 (broken sequences become U+FFFD) -> UTF-8 in new memory; NULL when memory is short. */
static char *to_utf8(const char *text, size_t n, bool latin1)
{
    const char *end = text + n;
    ac_str s = {0};

    ac_str_add(&s, "");
    while (text < end) {
        utf8proc_uint8_t buf[4];
        int32_t c = latin1 ? (uint8_t)*text++ : ac_utf8_next(&text, end);
        ac_str_addn(&s, (const char *)buf, (size_t)utf8proc_encode_char(c, buf));
    }
    if (s.failed)
        ac_str_free(&s);
    return s.p;
}

/* UTF-8 -> Latin-1 in new memory, for tEXt (PNG 11.3.4.3: printable characters and line feeds); *fits is false, and the
 * result NULL, when some character has no place there. */
static char *to_latin1(const char *text, bool *fits)
{
    const char *end = text + strlen(text);
    ac_str s = {0};

    *fits = true;
    ac_str_add(&s, "");
    while (text < end && *fits) {
        int32_t c = ac_utf8_next(&text, end);
        char byte = (char)(uint8_t)c;
        *fits = c == '\n' || (c >= 0x20 && c < 0x7f) || (c >= 0xa0 && c <= 0xff);
        ac_str_addn(&s, &byte, 1);
    }
    if (s.failed || !*fits)
        ac_str_free(&s);
    return s.p;
}

static int find_text(job *j, const char *key, char **text)
{
    png_textp entry = NULL;
    int n = 0;

    png_get_text(j->png, j->info, &entry, &n);
    for (int i = 0; i < n; i++) {
        bool latin1 = entry[i].compression < PNG_ITXT_COMPRESSION_NONE;
        size_t len = latin1 ? entry[i].text_length : entry[i].itxt_length;
        if (strcmp(entry[i].key, key) == 0)
            return (*text = to_utf8(entry[i].text, len, latin1)) ? 0 : ac_nomem(j->dg, len);
    }
    return 0;
}

static int read_all_chunks(job *j)
{
    int rc;

    AC_TRY(start_reading(j));
    read_rows(j, png_set_interlace_handling(j->png), NULL, 0);
out:
    return rc;
}

int ac_image_png_text(const char *path, const char *key, ac_diag *dg, char **text)
{
    const ac_image_opts any = {0};
    ac_image_src src = {.name = path, .opts = &any};
    job j = {.code = ADDCL_E_FORMAT, .path = path, .dg = dg, .src = &src};
    char *data;
    int rc = ac_file_read(path, AC_IMAGE_FILE_MAX, dg, &data, &src.n);

    *text = NULL;
    src.data = (const uint8_t *)data;
    if (rc == 0)
        rc = guarded(&j, read_all_chunks);
    if (rc == 0)
        rc = find_text(&j, key, text);
    png_destroy_read_struct(&j.png, &j.info, NULL);
    free(data);
    return rc;
}

/* ----------------------------------------------------------------------------------------------------- writing */

static void write_bytes(png_structp png, png_bytep data, size_t n)
{
    job *j = png_get_io_ptr(png);

    if (j->file ? ac_file_write(j->file, data, n, j->dg) == 0 : fwrite(data, 1, n, stdout) == n)
        return;
    png_error(png, strerror(errno));
}

static void flush_nothing(png_structp png)
{
    (void)png;
}

static int write_pixels(job *j)
{
    const addcl_image *im = j->source;

    j->png = png_create_write_struct(PNG_LIBPNG_VER_STRING, j, on_error, on_warning);
    j->info = j->png ? png_create_info_struct(j->png) : NULL;
    if (!j->info)
        return ac_nomem(j->dg, sizeof(job));
    png_set_write_fn(j->png, j, write_bytes, flush_nothing);
    png_set_IHDR(j->png, j->info, (png_uint_32)im->width, (png_uint_32)im->height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_text(j->png, j->info, j->texts.p, (int)j->texts.n);
    png_write_info(j->png, j->info);
    for (size_t y = 0; y < (size_t)im->height; y++)
        png_write_row(j->png, im->rgb + y * (size_t)im->width * 3);
    png_write_end(j->png, NULL);
    return 0;
}

static int add_text(job *j, const char *key, const char *text)
{
    bool fits;
    png_text t = {.compression = PNG_TEXT_COMPRESSION_NONE};
    size_t len = strlen(key);

    if (len < 1 || len > 79)
        return ac_fail(j->dg, ADDCL_E_ARG, "text keyword '%.80s' has %zu bytes, expected 1..79", key, len);
    t.key = ac_strdup(key);
    t.text = to_latin1(text, &fits);
    if (!fits) {
        t.compression = PNG_ITXT_COMPRESSION_NONE;
        t.text = to_utf8(text, strlen(text), false);
    }
    if (t.key && t.text && AC_PUSH(&j->texts, t))
        return 0;
    free(t.key);
    free(t.text);
    return ac_nomem(j->dg, strlen(text) + 1);
}

static int finish_file(job *j)
{
    ac_file *file = j->file;

    j->file = NULL;
    if (file)
        return ac_file_commit(file, j->dg);
    return fflush(stdout) == 0 ? 0 : ac_fail(j->dg, ADDCL_E_IO, "cannot write %s: %s", j->path, strerror(errno));
}

int ac_image_write_png(const char *path, const addcl_image *image, const char *const (*texts)[2], size_t n, ac_diag *dg)
{
    bool to_stdout = strcmp(path, "-") == 0;
    job j = {.code = ADDCL_E_IO, .path = to_stdout ? "standard output" : path, .dg = dg, .source = image};
    int rc = 0;

    if (image->width < 1 || image->height < 1 || image->width > AC_IMAGE_SIDE_MAX || image->height > AC_IMAGE_SIDE_MAX)
        return ac_fail(dg, ADDCL_E_ARG, "image of %d x %d pixels: expected sides of 1..%d", image->width, image->height,
                       AC_IMAGE_SIDE_MAX);
    for (size_t i = 0; i < n; i++)
        AC_TRY(add_text(&j, texts[i][0], texts[i][1]));
    if (!to_stdout)
        AC_TRY(ac_file_begin(path, dg, &j.file));
    AC_TRY(guarded(&j, write_pixels));
    rc = finish_file(&j);
out:
    png_destroy_write_struct(&j.png, &j.info);
    ac_file_abort(j.file);
    for (size_t i = 0; i < j.texts.n; i++) {
        free(j.texts.p[i].key);
        free(j.texts.p[i].text);
    }
    free(j.texts.p);
    return rc;
}
