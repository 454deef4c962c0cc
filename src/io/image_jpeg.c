/* image_jpeg.c - JPEG files through libjpeg. */
#include "io/image_file.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
#include <jerror.h>

/* A progressive file of few bytes can ask for any number of passes over the picture; real ones have about ten. */
#define SCANS_MAX 200
/* Bytes that libjpeg may use; a progressive file needs up to 6 a pixel, whatever its own length. */
#define MEMORY_MAX (1L << 30)

typedef struct job {
    struct jpeg_error_mgr mgr; /* libjpeg's view of this struct */
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct d; /* client_data: the job */
    jmp_buf fail;
    int code; /* of the error that jumped */
    const char *path;
    ac_diag *dg;
    FILE *in;
    addcl_image *image;
    uint8_t *cmyk; /* one row, 4 * width; NULL for grey and colour files */
} job;

static void give_up(job *j, int code, const char *why)
{
    ac_fail(j->dg, code, "%s: JPEG: %s", j->path, why);
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

static int read_pixels(job *j)
{
    struct jpeg_decompress_struct *d = &j->d;
    bool cmyk;
    int rc;

    jpeg_create_decompress(d);
    d->mem->max_memory_to_use = MEMORY_MAX;
    d->progress = &j->progress;
    jpeg_stdio_src(d, j->in);
    jpeg_read_header(d, TRUE);
    AC_TRY(ac_image_claim(d->image_width, d->image_height, j->path, j->dg, &j->image));
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
    jpeg_finish_decompress(d);
out:
    return rc;
}

static int guarded(job *j)
{
    if (setjmp(j->fail))
        return j->code;
    return read_pixels(j);
}

int ac_jpeg_read(FILE *f, const char *path, ac_diag *dg, addcl_image **out)
{
    job *j = ac_calloc(1, sizeof *j);
    int rc;

    *out = NULL;
    if (!j)
        return ac_nomem(dg, sizeof *j);
    j->path = path;
    j->dg = dg;
    j->in = f;
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
