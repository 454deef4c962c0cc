/* image.c - 8-bit RGB pictures: making, reading by content, WebP, grids and resizing. */
#include "io/image_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>
#include "base/file.h"

static bool good_side(size_t n)
{
    return n >= 1 && n <= AC_IMAGE_SIDE_MAX;
}

addcl_image *ac_image_new(int width, int height)
{
    addcl_image *image = NULL;

    if (good_side((size_t)width) && good_side((size_t)height))                    /* a negative side is huge */
        image = ac_calloc(1, sizeof *image + (size_t)width * (size_t)height * 3); /* the pixels follow the struct */
    if (image)
        *image = (addcl_image){.width = width, .height = height, .rgb = (uint8_t *)(image + 1)};
    return image;
}

void ac_image_free(addcl_image *image)
{
    free(image);
}

static int no_room(ac_diag *dg, size_t width, size_t height)
{
    return ac_nomem(dg, sizeof(addcl_image) + width * height * 3);
}

int ac_image_check_size(const ac_image_src *src, size_t width, size_t height, ac_diag *dg)
{
    if (!good_side(width) || !good_side(height))
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: image of %zu x %zu pixels: expected sides of 1..%d", src->name,
                       width, height, AC_IMAGE_SIDE_MAX);
    if (src->opts->max_pixels > 0 && width * height > src->opts->max_pixels)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: image of %zu x %zu pixels: expected at most %zu in all", src->name,
                       width, height, src->opts->max_pixels);
    return 0;
}

int ac_image_claim(const ac_image_src *src, size_t width, size_t height, ac_diag *dg, addcl_image **out)
{
    int rc = ac_image_check_size(src, width, height, dg);

    if (rc < 0)
        return rc;
    *out = ac_image_new((int)width, (int)height);
    return *out ? 0 : no_room(dg, width, height);
}

/* ----------------------------------------------------------------------------------------------------- reading */

static int webp_fail(ac_diag *dg, const char *path, VP8StatusCode status)
{
    static const char *const why[] = {"no error",     "out of memory",        "bad parameter",
                                      "damaged data", "unknown feature",      "decoding was suspended",
                                      "aborted",      "the file is truncated"};

    if (status == VP8_STATUS_OUT_OF_MEMORY)
        return ac_fail(dg, ADDCL_E_NOMEM, "%s: WebP: out of memory", path);
    return ac_fail(dg, ADDCL_E_FORMAT, "%s: WebP: %s", path, status < AC_LEN(why) ? why[status] : "unknown error");
}

/* n pixels of RGBA -> RGB on a background. */
static void blend(uint8_t *rgb, const uint8_t *rgba, size_t n, const uint8_t background[3])
{
    for (size_t i = 0; i < n; i++, rgb += 3, rgba += 4) {
        unsigned a = rgba[3];
        for (int c = 0; c < 3; c++)
            rgb[c] = (uint8_t)((rgba[c] * a + background[c] * (255 - a) + 127) / 255);
    }
}

static int read_webp(const ac_image_src *src, ac_diag *dg, addcl_image **out)
{
    WebPDecoderConfig cfg;
    uint8_t *rgba = NULL;
    size_t pixels;
    VP8StatusCode status;
    int rc = 0;

    if (!WebPInitDecoderConfig(&cfg))
        return ac_fail(dg, ADDCL_E_INTERNAL, "%s: WebP: the library's version does not fit its header", src->name);
    if ((status = WebPGetFeatures(src->data, src->n, &cfg.input)) != VP8_STATUS_OK)
        return webp_fail(dg, src->name, status);
    if (cfg.input.has_animation)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: WebP: animations are not supported", src->name);
    AC_TRY(ac_image_claim(src, (size_t)cfg.input.width, (size_t)cfg.input.height, dg, out));
    pixels = (size_t)cfg.input.width * (size_t)cfg.input.height;
    if (cfg.input.has_alpha && !(rgba = ac_calloc(pixels, 4)))
        AC_TRY(ac_nomem(dg, pixels * 4));
    cfg.output.colorspace = rgba ? MODE_RGBA : MODE_RGB;
    cfg.output.is_external_memory = 1;
    cfg.output.u.RGBA.rgba = rgba ? rgba : (*out)->rgb;
    cfg.output.u.RGBA.stride = cfg.input.width * (rgba ? 4 : 3);
    cfg.output.u.RGBA.size = pixels * (rgba ? 4 : 3);
    status = WebPDecode(src->data, src->n, &cfg);
    WebPFreeDecBuffer(&cfg.output);
    if (status != VP8_STATUS_OK)
        AC_TRY(webp_fail(dg, src->name, status));
    if (rgba)
        blend((*out)->rgb, rgba, pixels, src->opts->background);
out:
    free(rgba);
    return rc;
}

static bool begins(const ac_image_src *src, const char *magic, size_t n)
{
    return src->n >= n && memcmp(src->data, magic, n) == 0;
}

int ac_image_decode(const void *data, size_t n, const char *name, const ac_image_opts *opts, ac_diag *dg,
                    addcl_image **out)
{
    const ac_image_src src = {.data = data, .n = n, .name = name, .opts = opts};
    int rc;

    *out = NULL;
    if (begins(&src, "\x89PNG\r\n\x1a\n", 8))
        rc = ac_png_read(&src, dg, out);
    else if (begins(&src, "\xff\xd8\xff", 3))
        rc = ac_jpeg_read(&src, dg, out);
    else if (begins(&src, "RIFF", 4) && n >= 12 && memcmp(src.data + 8, "WEBP", 4) == 0)
        rc = read_webp(&src, dg, out);
    else
        rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: neither PNG, JPEG nor WebP", name);
    if (rc < 0) {
        ac_image_free(*out);
        *out = NULL;
    }
    return rc;
}

int ac_image_read(const char *path, ac_diag *dg, addcl_image **out)
{
    static const ac_image_opts on_white = {.background = {255, 255, 255}};
    char *data;
    size_t n;
    int rc = ac_file_read(path, AC_IMAGE_FILE_MAX, dg, &data, &n);

    *out = NULL;
    if (rc == 0)
        rc = ac_image_decode(data, n, path, &on_white, dg, out);
    free(data);
    return rc;
}

/* ------------------------------------------------------------------------------------------------------- grids */

int ac_image_grid(const addcl_image *const *images, size_t n, int columns, ac_diag *dg, addcl_image **out)
{
    size_t w, h, across, down;

    *out = NULL;
    if (n == 0)
        return ac_fail(dg, ADDCL_E_ARG, "grid: there are no images");
    w = (size_t)images[0]->width;
    h = (size_t)images[0]->height;
    for (size_t i = 1; i < n; i++)
        if (images[i]->width != images[0]->width || images[i]->height != images[0]->height)
            return ac_fail(dg, ADDCL_E_SHAPE, "grid: image %zu has %d x %d pixels, image 0 has %zu x %zu", i,
                           images[i]->width, images[i]->height, w, h);
    across = columns > 0 ? AC_MIN((size_t)columns, n) : (size_t)ceil(sqrt((double)n));
    down = AC_CEIL_DIV(n, across);
    if (across > AC_IMAGE_SIDE_MAX || down > AC_IMAGE_SIDE_MAX || !good_side(across * w) || !good_side(down * h))
        return ac_fail(dg, ADDCL_E_ARG, "grid: %zu x %zu images of %zu x %zu pixels give sides over %d", across, down,
                       w, h, AC_IMAGE_SIDE_MAX);
    if (!(*out = ac_image_new((int)(across * w), (int)(down * h))))
        return no_room(dg, across * w, down * h);
    for (size_t i = 0; i < n; i++) {
        uint8_t *dst = (*out)->rgb + (i / across * h * across + i % across) * w * 3;
        for (size_t y = 0; y < h; y++)
            memcpy(dst + y * across * w * 3, images[i]->rgb + y * w * 3, w * 3);
    }
    return 0;
}

/* ---------------------------------------------------------------------------------------------------- resizing */

/* Weights are integers of 2^-22, sums start at a half: the numbers of Pillow's 8-bit resampling. */
#define WEIGHT_BITS 22

/* Output sample i of one axis is the sum of weight[i * stride + k] * input[first[i] + k], k < count[i]. */
typedef struct taps {
    size_t n, stride;
    int *first, *count;
    int32_t *weight;
} taps;

/* Cubic convolution kernel (Keys 1981) with a = -0.5. */
static double cubic(double x)
{
    const double a = -0.5;

    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/* Weights of output sample i, whose centre lies at `centre` on the input axis, for a kernel stretched `widen` times. */
static void fill_taps(taps *t, size_t i, double centre, double widen, int n_in)
{
    double support = 2 * widen, narrow = 1 / widen, sum = 0;
    int first = AC_MAX((int)(centre - support + 0.5), 0), count = AC_MIN((int)(centre + support + 0.5), n_in) - first;

    for (int k = 0; k < count; k++)
        sum += cubic((first + k - centre + 0.5) * narrow);
    for (int k = 0; k < count; k++)
        t->weight[i * t->stride + (size_t)k] =
            (int32_t)lround(cubic((first + k - centre + 0.5) * narrow) / sum * (1 << WEIGHT_BITS));
    t->first[i] = first;
    t->count[i] = count;
}

static void taps_free(taps *t)
{
    free(t->first);
    free(t->count);
    free(t->weight);
}

/* Taps that resample [from, to] of n_in input samples to n; false when memory is short. Pillow's edges are floats. */
static bool taps_init(taps *t, int n_in, float from, float to, int n)
{
    double scale = (double)(to - from) / n, widen = AC_MAX(scale, 1.0); /* shrinking widens the kernel: antialiasing */

    t->n = (size_t)n;
    t->stride = (size_t)ceil(2 * widen) * 2 + 1;
    t->first = ac_calloc(t->n, sizeof *t->first);
    t->count = ac_calloc(t->n, sizeof *t->count);
    t->weight = ac_calloc(t->n * t->stride, sizeof *t->weight);
    if (!t->first || !t->count || !t->weight)
        return false;
    for (size_t i = 0; i < t->n; i++)
        fill_taps(t, i, (double)from + ((double)i + 0.5) * scale, widen, n_in);
    return true;
}

/* One output sample from inputs `step` bytes apart. */
static uint8_t apply(const taps *t, size_t i, const uint8_t *in, size_t step)
{
    const int32_t *weight = t->weight + i * t->stride;
    int32_t sum = 1 << (WEIGHT_BITS - 1);

    in += (size_t)t->first[i] * step;
    for (int k = 0; k < t->count[i]; k++, in += step)
        sum += weight[k] * *in;
    sum >>= WEIGHT_BITS;
    return (uint8_t)AC_MIN(AC_MAX(sum, 0), 255);
}

static void resample_rows(addcl_image *dst, const addcl_image *src, const taps *t)
{
    for (size_t y = 0; y < (size_t)dst->height; y++) {
        const uint8_t *in = src->rgb + y * (size_t)src->width * 3;
        uint8_t *out = dst->rgb + y * t->n * 3;
        for (size_t x = 0; x < t->n; x++)
            for (size_t c = 0; c < 3; c++)
                *out++ = apply(t, x, in + c, 3);
    }
}

static void resample_columns(addcl_image *dst, const addcl_image *src, const taps *t)
{
    size_t row = (size_t)dst->width * 3;

    for (size_t y = 0; y < t->n; y++)
        for (size_t x = 0; x < row; x++)
            dst->rgb[y * row + x] = apply(t, y, src->rgb + x, row);
}

/* Rows first. The image between the passes has 8 bits too, so the order can be seen where a value is clipped. */
static bool resample(const addcl_image *image, const taps *tx, const taps *ty, addcl_image **out)
{
    addcl_image *mid = ac_image_new((int)tx->n, image->height);

    *out = mid ? ac_image_new((int)tx->n, (int)ty->n) : NULL;
    if (*out) {
        resample_rows(mid, image, tx);
        resample_columns(*out, mid, ty);
    }
    ac_image_free(mid);
    return *out != NULL;
}

/* Resamples the part of an image around its middle that is span_x x span_y pixels. */
static int resize_middle(const addcl_image *image, double span_x, double span_y, const int size[2], ac_diag *dg,
                         addcl_image **out)
{
    double x = (image->width - span_x) * 0.5, y = (image->height - span_y) * 0.5;
    taps tx = {0}, ty = {0};
    int rc = 0;

    *out = NULL;
    if (!good_side((size_t)size[0]) || !good_side((size_t)size[1]))
        return ac_fail(dg, ADDCL_E_ARG, "cannot resize an image to %d x %d pixels: expected sides of 1..%d", size[0],
                       size[1], AC_IMAGE_SIDE_MAX);
    if (!taps_init(&tx, image->width, (float)x, (float)(x + span_x), size[0]) ||
        !taps_init(&ty, image->height, (float)y, (float)(y + span_y), size[1]) || !resample(image, &tx, &ty, out))
        rc = no_room(dg, (size_t)size[0], (size_t)size[1]);
    taps_free(&tx);
    taps_free(&ty);
    return rc;
}

int ac_image_resize(const addcl_image *image, int width, int height, ac_diag *dg, addcl_image **out)
{
    double span_x = image->width, span_y = image->height, given = span_x / span_y;
    double aspect = (double)width / height;

    if (given > aspect)
        span_x = aspect * span_y;
    else if (given < aspect)
        span_y = span_x / aspect;
    return resize_middle(image, span_x, span_y, (const int[2]){width, height}, dg, out);
}

int ac_image_scale(const addcl_image *image, int width, int height, ac_diag *dg, addcl_image **out)
{
    return resize_middle(image, image->width, image->height, (const int[2]){width, height}, dg, out);
}
