/* image_jpeg.c - JPEG files through libjpeg. */
#include "io/image_file.h"

#include <setjmp.h>
#include <stdio.h> /* jpeglib.h wants it */
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
#include <jerror.h>

/* A progressive file of few bytes can ask for any number of passes over the picture; real ones have about ten. */
#define SCANS_MAX 200
/* Bytes that libjpeg may use; a progressive file needs up to 6 a pixel, whatever its own length. */
#define MEMORY_MAX  (1L << 30)
#define EXIF_MARKER (JPEG_APP0 + 1)

typedef struct job {
    struct jpeg_error_mgr mgr; /* libjpeg's view of this struct */
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct d; /* client_data: the job */
    jmp_buf fail;
    int code; /* of the error that jumped */
    const ac_image_src *src;
    ac_diag *dg;
    addcl_image *image;
    uint8_t *cmyk; /* one row, 4 * width; NULL for grey and colour files */
} job;

static void give_up(job *j, int code, const char *why)
{
    ac_fail(j->dg, code, "%s: JPEG: %s", j->src->name, why);
    j->code = code;
    longjmp(j->fail, 1);
}

static void on_error(j_common_ptr d)
{
    char why[JMSG_LENGTH_MAX];

    d->err->format_message(d, why);
    give_up(d->client_data, d->err->msg_code == JERR_OUT_OF_MEMORY ? ADDCL_E_NOMEM : ADDCL_E_FORMAT, why);
}

/* Warnings have level -1. Missing data would come out grey and is an error; stray bytes are not worth a word. */
static void on_message(j_common_ptr d, int level)
{
    if (level < 0 && d->err->msg_code == JWRN_JPEG_EOF)
        give_up(d->client_data, ADDCL_E_FORMAT, "the file is truncated");
}

static void on_progress(j_common_ptr d)
{
    job *j = d->client_data;

    if (j->d.input_scan_number > SCANS_MAX)
        give_up(j, ADDCL_E_FORMAT, "too many scans");
}

/* A row of CMYK -> RGB. Files with Adobe's marker hold the inks inverted. */
static void from_cmyk(uint8_t *rgb, const uint8_t *cmyk, size_t n, bool inverted)
{
    unsigned flip = inverted ? 0 : 255;

    for (size_t i = 0; i < n; i++, rgb += 3, cmyk += 4)
        for (int c = 0; c < 3; c++)
            rgb[c] = (uint8_t)(((cmyk[c] ^ flip) * (cmyk[3] ^ flip) + 127) / 255);
}

/* ------------------------------------------------------------------------------------------------- orientation */

/* Number of `bytes` bytes at p in the byte order of a TIFF header. */
static uint32_t tiff_number(const uint8_t *p, int bytes, bool big_endian)
{
    uint32_t x = 0;

    for (int i = 0; i < bytes; i++)
        x |= (uint32_t)p[i] << 8 * (big_endian ? bytes - 1 - i : i);
    return x;
}

/* The orientation, 1..8, that the Exif marker among the saved ones tells (Exif 2.3, 4.6.4: tag 0x112 of the first
 * directory); 1 when there is none or it is damaged. */
static int exif_orientation(const struct jpeg_marker_struct *m)
{
    const uint8_t *tiff, *entry;
    uint32_t n, at, count;
    bool big;

    while (m && !(m->marker == EXIF_MARKER && m->data_length >= 14 && memcmp(m->data, "Exif\0\0", 6) == 0))
        m = m->next;
    if (!m)
        return 1;
    tiff = m->data + 6;
    n = m->data_length - 6;
    big = tiff[0] == 'M';
    at = tiff_number(tiff + 4, 4, big);
    if (at > n || n - at < 2)
        return 1;
    count = tiff_number(tiff + at, 2, big);
    entry = tiff + at + 2;
    for (uint32_t i = 0; i < count && i < (n - at - 2) / 12; i++, entry += 12)
        if (tiff_number(entry, 2, big) == 0x112 && tiff_number(entry + 2, 2, big) == 3) {
            uint32_t value = tiff_number(entry + 8, 2, big);
            return value >= 1 && value <= 8 ? (int)value : 1;
        }
    return 1;
}

/* Turns the image so that orientation `o` becomes 1. Pixel (x,y) of the result is (x,y) of the stored one, for o > 4
 * (y,x), then mirrored along its axes as the tables say. */
static int turn(job *j, int o)
{
    static const bool mirror_x[] = {0, 1, 1, 0, 0, 0, 1, 1}, mirror_y[] = {0, 0, 1, 1, 0, 1, 1, 0};
    const addcl_image *in = j->image;
    addcl_image *out;
    bool swap = o > 4;

    if (o == 1)
        return 0;
    if (!(out = ac_image_new(swap ? in->height : in->width, swap ? in->width : in->height)))
        return ac_nomem(j->dg, sizeof *out + (size_t)in->width * (size_t)in->height * 3);
    for (int y = 0; y < out->height; y++)
        for (int x = 0; x < out->width; x++) {
            int sx = swap ? y : x, sy = swap ? x : y;
            sx = mirror_x[o - 1] ? in->width - 1 - sx : sx;
            sy = mirror_y[o - 1] ? in->height - 1 - sy : sy;
            memcpy(out->rgb + ((size_t)y * (size_t)out->width + (size_t)x) * 3,
                   in->rgb + ((size_t)sy * (size_t)in->width + (size_t)sx) * 3, 3);
        }
    ac_image_free(j->image);
    j->image = out;
    return 0;
}

/* ----------------------------------------------------------------------------------------------------- reading */

static int read_pixels(job *j)
{
    struct jpeg_decompress_struct *d = &j->d;
    int orientation, rc;
    bool cmyk;

    jpeg_create_decompress(d);
    d->mem->max_memory_to_use = MEMORY_MAX;
    d->progress = &j->progress;
    jpeg_mem_src(d, j->src->data, (unsigned long)j->src->n);
    if (j->src->opts->orient)
        jpeg_save_markers(d, EXIF_MARKER, 0xffff);
    jpeg_read_header(d, TRUE);
    AC_TRY(ac_image_claim(j->src, d->image_width, d->image_height, j->dg, &j->image));
    cmyk = d->jpeg_color_space == JCS_CMYK || d->jpeg_color_space == JCS_YCCK;
    d->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    if (cmyk && !(j->cmyk = ac_calloc(d->image_width, 4)))
        AC_TRY(ac_nomem(j->dg, (size_t)d->image_width * 4));
    jpeg_start_decompress(d);
    while (d->output_scanline < d->output_height) {
        JSAMPROW rgb = j->image->rgb + (size_t)d->output_scanline * d->output_width * 3, row = cmyk ? j->cmyk : rgb;
        jpeg_read_scanlines(d, &row, 1);
        if (cmyk)
            from_cmyk(rgb, row, d->output_width, d->saw_Adobe_marker);
    }
    orientation = exif_orientation(d->marker_list); /* no markers are saved unless it is wanted */
    jpeg_finish_decompress(d);
    rc = turn(j, orientation);
out:
    return rc;
}

static int guarded(job *j)
{
    if (setjmp(j->fail))
        return j->code;
    return read_pixels(j);
}

int ac_jpeg_read(const ac_image_src *src, ac_diag *dg, addcl_image **out)
{
    job *j = ac_calloc(1, sizeof *j);
    int rc;

    *out = NULL;
    if (!j)
        return ac_nomem(dg, sizeof *j);
    j->src = src;
    j->dg = dg;
    j->d.err = jpeg_std_error(&j->mgr);
    j->d.client_data = j;
    j->mgr.error_exit = on_error;
    j->mgr.emit_message = on_message;
    j->progress.progress_monitor = on_progress;
    rc = guarded(j);
    jpeg_destroy_decompress(&j->d);
    if (rc < 0)
        ac_image_free(j->image);
    else
        *out = j->image;
    free(j->cmyk);
    free(j);
    return rc;
}
