/* t_image.c - reading pictures: every kind of PNG, JPEG and WebP, damaged files, hostile headers, failing memory. */
#include "image_support.h"

#include <png.h>
#include <jpeglib.h>
#include <stdio.h>
#include <string.h>
#include <webp/encode.h>

/* The file is refused with `code` (0: any) and a message that holds `says`. */
static void refuse(const char *path, int code, const char *says)
{
    ac_diag dg = {0};
    addcl_image *im = (addcl_image *)&dg;
    int rc = ac_image_read(path, &dg, &im);

    assert_null(im);
    assert_true(rc < 0 && (code == 0 || rc == code));
    if (!strstr(dg.msg, says))
        fail_msg("message '%s', expected something of '%s'", dg.msg, says);
}

/* --------------------------------------------------------------------------------------------------- PNG kinds */

#define KIND_W 13
#define KIND_H 9

typedef struct kind {
    const char *name;
    int color, depth, channels;
    bool trns;
} kind;

static const kind kinds[] = {
    {"grey1", PNG_COLOR_TYPE_GRAY, 1, 1, false},
    {"grey2", PNG_COLOR_TYPE_GRAY, 2, 1, false},
    {"grey4_trns", PNG_COLOR_TYPE_GRAY, 4, 1, true},
    {"grey8", PNG_COLOR_TYPE_GRAY, 8, 1, false},
    {"grey8_trns", PNG_COLOR_TYPE_GRAY, 8, 1, true},
    {"grey16", PNG_COLOR_TYPE_GRAY, 16, 1, false},
    {"grey16_trns", PNG_COLOR_TYPE_GRAY, 16, 1, true},
    {"grey_alpha8", PNG_COLOR_TYPE_GRAY_ALPHA, 8, 2, false},
    {"grey_alpha16", PNG_COLOR_TYPE_GRAY_ALPHA, 16, 2, false},
    {"rgb8", PNG_COLOR_TYPE_RGB, 8, 3, false},
    {"rgb8_trns", PNG_COLOR_TYPE_RGB, 8, 3, true},
    {"rgb16", PNG_COLOR_TYPE_RGB, 16, 3, false},
    {"rgba8", PNG_COLOR_TYPE_RGB_ALPHA, 8, 4, false},
    {"rgba16", PNG_COLOR_TYPE_RGB_ALPHA, 16, 4, false},
    {"palette1", PNG_COLOR_TYPE_PALETTE, 1, 1, false},
    {"palette4_trns", PNG_COLOR_TYPE_PALETTE, 4, 1, true},
    {"palette8", PNG_COLOR_TYPE_PALETTE, 8, 1, false},
};

/* Palette entry i, and the alpha of the first 100 entries when there is a tRNS. */
static png_color entry(unsigned i)
{
    return (png_color){(uint8_t)(i * 7), (uint8_t)(255 - i), (uint8_t)(i * i)};
}

static unsigned entry_alpha(unsigned i)
{
    return i < 8 ? i * 36 : 255;
}

/* Sample s of a row that libpng packed. */
static unsigned sample(const uint8_t *row, int depth, size_t s)
{
    size_t bit = s * (size_t)depth;

    if (depth == 16)
        return (unsigned)row[2 * s] << 8 | row[2 * s + 1];
    return (unsigned)row[bit / 8] >> (8 - (unsigned)depth - bit % 8) & ((1u << depth) - 1);
}

/* What the reader should make of pixel x, in double. `clear`: the samples that tRNS makes transparent. */
static void expect_pixel(const kind *k, const uint8_t *row, size_t x, const unsigned clear[3], const uint8_t back[3],
                         double rgb[3])
{
    double max = (double)((1u << k->depth) - 1), alpha = 1;
    unsigned s[4] = {0};
    bool grey = k->channels < 3;

    for (int c = 0; c < k->channels; c++)
        s[c] = sample(row, k->depth, x * (size_t)k->channels + (size_t)c);
    if (k->color == PNG_COLOR_TYPE_PALETTE) {
        png_color p = entry(s[0]);
        rgb[0] = p.red, rgb[1] = p.green, rgb[2] = p.blue;
        alpha = k->trns ? entry_alpha(s[0]) / 255.0 : 1;
    } else {
        for (int c = 0; c < 3; c++)
            rgb[c] = s[grey ? 0 : c] / max * 255;
        if (k->channels % 2 == 0)
            alpha = s[k->channels - 1] / max;
        else if (k->trns && s[0] == clear[0] && (grey || (s[1] == clear[1] && s[2] == clear[2])))
            alpha = 0;
    }
    for (int c = 0; c < 3; c++)
        rgb[c] = rgb[c] * alpha + back[c] * (1 - alpha);
}

static void add_palette(png_structp png, png_infop info, const kind *k)
{
    png_color palette[256];
    png_byte alpha[256];

    for (unsigned i = 0; i < 256; i++) {
        palette[i] = entry(i);
        alpha[i] = (png_byte)entry_alpha(i);
    }
    png_set_PLTE(png, info, palette, 1 << k->depth);
    if (k->trns)
        png_set_tRNS(png, info, alpha, 1 << k->depth, NULL);
}

/* Writes noise of this kind, its first pixel transparent where there is a tRNS. */
static void write_kind(const char *path, const kind *k, int interlace, uint8_t rows[KIND_H][KIND_W * 8],
                       unsigned clear[3])
{
    FILE *f = fopen(path, "wb");
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_bytep row[KIND_H];
    uint32_t seed = 5;

    assert_true(f && !setjmp(png_jmpbuf(png)));
    for (size_t y = 0; y < KIND_H; y++) {
        row[y] = rows[y];
        for (size_t x = 0; x < KIND_W * 8; x++)
            rows[y][x] = noise(&seed);
    }
    for (size_t c = 0; c < 3; c++)
        clear[c] = sample(rows[0], k->depth, k->channels == 3 ? c : 0);
    png_init_io(png, f);
    png_set_IHDR(png, info, KIND_W, KIND_H, k->depth, k->color, interlace, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (interlace)
        png_set_sRGB_gAMA_and_cHRM(png, info, PNG_sRGB_INTENT_PERCEPTUAL); /* must change nothing */
    if (k->color == PNG_COLOR_TYPE_PALETTE)
        add_palette(png, info, k);
    else if (k->trns) {
        png_color_16 t = {0, (uint16_t)clear[0], (uint16_t)clear[1], (uint16_t)clear[2], (uint16_t)clear[0]};
        png_set_tRNS(png, info, NULL, 0, &t);
    }
    png_write_info(png, info);
    png_write_image(png, row);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    fclose(f);
}

/* On white as ac_image_read blends, and on a colour. */
static const uint8_t white[3] = {255, 255, 255}, tinted[3] = {200, 0, 31};

static addcl_image *decode_good(const char *path, const ac_image_opts *opts)
{
    addcl_image *im = NULL;
    ac_diag dg = {0};
    uint8_t *data;
    size_t n;

    data = slurp(path, &n);
    if (ac_image_decode(data, n, path, opts, &dg, &im) != 0)
        fail_msg("%s", dg.msg);
    free(data);
    return im;
}

static addcl_image *read_on(const char *path, const uint8_t back[3])
{
    return back == white ? read_good(path)
                         : decode_good(path, &(ac_image_opts){.background = {back[0], back[1], back[2]}});
}

static void test_png_kinds(void **state)
{
    (void)state;
    for (size_t i = 0; i < AC_LEN(kinds) * 4; i++) {
        const kind *k = &kinds[i / 4];
        const uint8_t *back = i / 2 % 2 ? tinted : white;
        const char *path = temp_path("kind.png");
        uint8_t rows[KIND_H][KIND_W * 8];
        unsigned clear[3];
        addcl_image *im;
        write_kind(path, k, i % 2 ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, rows, clear);
        im = read_on(path, back);
        assert_int_equal(im->width, KIND_W);
        assert_int_equal(im->height, KIND_H);
        for (size_t p = 0; p < KIND_W * KIND_H; p++) {
            double want[3];
            expect_pixel(k, rows[p / KIND_W], p % KIND_W, clear, back, want);
            for (size_t c = 0; c < 3; c++)
                if (!(want[c] - im->rgb[p * 3 + c] < 0.51 && im->rgb[p * 3 + c] - want[c] < 0.51))
                    fail_msg("%s: pixel %zu is %d, expected %g", k->name, p, im->rgb[p * 3 + c], want[c]);
        }
        ac_image_free(im);
    }
}

/* ----------------------------------------------------------------------------------------------- JPEG and WebP */

/* A picture of one colour, grey or set of inks, by the number of channels, for which the file's rounding is small; of
 * noise where pixel is NULL. */
static void write_jpeg(const char *path, int channels, bool progressive, const uint8_t *pixel)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr mgr;
    uint8_t row[40 * 4];
    uint32_t seed = 13;
    JSAMPROW rows = row;
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    c.err = jpeg_std_error(&mgr);
    jpeg_create_compress(&c);
    jpeg_stdio_dest(&c, f);
    c.image_width = 40;
    c.image_height = 30;
    c.input_components = channels;
    c.in_color_space = channels == 1 ? JCS_GRAYSCALE : (channels == 3 ? JCS_RGB : JCS_CMYK);
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 95, TRUE);
    if (progressive)
        jpeg_simple_progression(&c);
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
        for (size_t i = 0; i < sizeof row; i++)
            row[i] = pixel ? pixel[i % (size_t)channels] : noise(&seed);
        jpeg_write_scanlines(&c, &rows, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    fclose(f);
}

static void check_jpeg(int channels, bool progressive, const uint8_t *pixel, const uint8_t *rgb)
{
    const char *path = temp_path("a.jpg");
    addcl_image *im;

    write_jpeg(path, channels, progressive, pixel);
    im = read_good(path);
    assert_int_equal(im->width, 40);
    assert_int_equal(im->height, 30);
    for (size_t i = 0; i < 40 * 30 * 3; i++)
        assert_in_range(im->rgb[i] + 4, rgb[i % 3] + 1, rgb[i % 3] + 7);
    ac_image_free(im);
}

static void test_jpeg(void **state)
{
    static const uint8_t colour[] = {200, 90, 30}, grey[] = {77}, same[] = {77, 77, 77};
    static const uint8_t inks[] = {200, 255, 55, 128}, mixed[] = {100, 128, 28}; /* Adobe's: 255 is no ink */

    (void)state;
    check_jpeg(3, false, colour, colour);
    check_jpeg(3, true, colour, colour);
    check_jpeg(1, false, grey, same);
    check_jpeg(4, false, inks, mixed);
}

#define EXIF_N 40 /* bytes */

/* A JPEG of noise with the first bytes of an Exif marker whose first directory has two entries, the second the
 * orientation. */
static void write_exif(const char *name, int orientation, bool big_endian, size_t exif_n)
{
    static const uint8_t little[EXIF_N + 1] =
        "Exif\0\0II*\0\x08\0\0\0\2\0\0\1\3\0\1\0\0\0\5\0\0\0\x12\1\3\0\1\0\0\0?\0\0\0";
    static const uint8_t big[EXIF_N + 1] =
        "Exif\0\0MM\0*\0\0\0\x08\0\2\1\0\0\3\0\0\0\1\0\5\0\0\1\x12\0\3\0\0\0\1\0?\0\0";
    size_t n, at = 6 + 8 + 2 + 12 + 8;
    ac_str file = {0};
    uint8_t *jpeg, *exif;

    write_jpeg(temp_path("plain.jpg"), 3, false, NULL);
    jpeg = slurp(temp_path("plain.jpg"), &n);
    ac_str_addn(&file, (const char *)jpeg, 2);
    ac_str_addn(&file, (const char[]){'\xff', '\xe1', 0, (char)(exif_n + 2)}, 4);
    ac_str_addn(&file, (const char *)(big_endian ? big : little), exif_n);
    exif = (uint8_t *)file.p + 6;
    if (exif_n == EXIF_N)
        exif[at + big_endian] = (uint8_t)orientation;
    ac_str_addn(&file, (const char *)jpeg + 2, n - 2);
    temp_write(name, file.p, file.n);
    ac_str_free(&file);
    free(jpeg);
}

/* Where pixel (x,y) of a picture that stands upright is stored in one of w x h, by Exif 2.3's words for `orientation`:
 * which visual sides the 0th row and column are. */
static void stored_at(int orientation, int w, int h, int x, int y, int *sx, int *sy)
{
    const int at[8][2] = {
        {x, y},                 /* top, left */
        {w - 1 - x, y},         /* top, right */
        {w - 1 - x, h - 1 - y}, /* bottom, right */
        {x, h - 1 - y},         /* bottom, left */
        {y, x},                 /* left, top */
        {y, h - 1 - x},         /* right, top */
        {w - 1 - y, h - 1 - x}, /* right, bottom */
        {w - 1 - y, x},         /* left, bottom */
    };

    *sx = at[orientation - 1][0];
    *sy = at[orientation - 1][1];
}

static void test_jpeg_orientation(void **state)
{
    const ac_image_opts turn = {.orient = true}, leave = {.orient = false};

    (void)state;
    for (int i = 0; i < 20; i++) { /* 0 and 9 are none */
        int o = i / 2, w, h;
        addcl_image *stored, *im;
        write_exif("turned.jpg", o, i % 2, EXIF_N);
        stored = decode_good(temp_path("turned.jpg"), &leave);
        im = decode_good(temp_path("turned.jpg"), &turn);
        o = o < 1 || o > 8 ? 1 : o;
        w = stored->width;
        h = stored->height;
        assert_int_equal(im->width, o > 4 ? h : w);
        assert_int_equal(im->height, o > 4 ? w : h);
        for (int p = 0; p < w * h; p++) {
            int sx, sy;
            stored_at(o, w, h, p % im->width, p / im->width, &sx, &sy);
            assert_memory_equal(im->rgb + p * 3, stored->rgb + (sy * w + sx) * 3, 3);
        }
        ac_image_free(stored);
        ac_image_free(im);
    }
    for (size_t n = 0; n < EXIF_N; n++) { /* cut markers turn nothing */
        addcl_image *im;
        write_exif("turned.jpg", 6, n % 2, n);
        im = decode_good(temp_path("turned.jpg"), &turn);
        assert_int_equal(im->width, 40);
        ac_image_free(im);
    }
}

/* A lossless WebP of noise; `alpha`: its channel is noise too, else opaque. */
static void write_webp(const char *path, bool alpha, uint8_t rgba[30 * 40 * 4])
{
    WebPConfig cfg;
    WebPPicture pic;
    WebPMemoryWriter out;
    uint32_t seed = 11;

    for (size_t i = 0; i < 30 * 40 * 4; i++)
        rgba[i] = alpha || i % 4 != 3 ? noise(&seed) : 255;
    assert_true(WebPConfigInit(&cfg) && WebPPictureInit(&pic));
    cfg.lossless = cfg.exact = 1;
    pic.use_argb = 1;
    pic.width = 40;
    pic.height = 30;
    WebPMemoryWriterInit(&out);
    pic.writer = WebPMemoryWrite;
    pic.custom_ptr = &out;
    assert_true(WebPPictureImportRGBA(&pic, rgba, 40 * 4) && WebPEncode(&cfg, &pic));
    WebPPictureFree(&pic);
    assert_true(strrchr(path, '/') && *temp_write(strrchr(path, '/') + 1, out.mem, out.size));
    WebPMemoryWriterClear(&out);
}

static void test_webp(void **state)
{
    uint8_t rgba[30 * 40 * 4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        const char *path = temp_path("a.webp");
        const uint8_t *back = i < 2 ? white : tinted;
        addcl_image *im;
        write_webp(path, i % 2, rgba);
        im = read_on(path, back);
        assert_int_equal(im->width, 40);
        assert_int_equal(im->height, 30);
        for (size_t k = 0; k < 30 * 40 * 3; k++) {
            unsigned a = rgba[k / 3 * 4 + 3];
            assert_int_equal(im->rgb[k], (rgba[k / 3 * 4 + k % 3] * a + back[k % 3] * (255 - a) + 127) / 255);
        }
        ac_image_free(im);
    }
}

static void test_max_pixels(void **state)
{
    const ac_image_opts enough = {.max_pixels = 1200}, less = {.max_pixels = 1199};
    addcl_image *im = noise_image(40, 30, 1);
    const char *path[] = {temp_path("max.png"), temp_path("max.jpg"), temp_path("max.webp")};
    uint8_t rgba[30 * 40 * 4];

    (void)state;
    write_good(path[0], im, NULL, 0);
    ac_image_free(im);
    write_jpeg(path[1], 3, false, NULL);
    write_webp(path[2], false, rgba);
    for (size_t i = 0; i < AC_LEN(path); i++) {
        ac_diag dg = {0};
        size_t n;
        uint8_t *data = slurp(path[i], &n);
        ac_image_free(decode_good(path[i], &enough));
        assert_int_equal(ac_image_decode(data, n, "max", &less, &dg, &im), ADDCL_E_UNSUPPORTED);
        assert_string_equal(dg.msg, "max: image of 40 x 30 pixels: expected at most 1199 in all");
        assert_null(im);
        free(data);
    }
}

static void test_webp_animation(void **state)
{
    static const uint8_t head[] = "RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x0f\0\0\x0f\0\0";

    (void)state;
    refuse(temp_write("moving.webp", head, sizeof head - 1), ADDCL_E_UNSUPPORTED, "animation");
}

/* ----------------------------------------------------------------------------------------------- damaged files */

/* A file of its own: some file systems flush when a file is written anew. */
static const char *write_anew(const char *name, const void *data, size_t n)
{
    remove(temp_path(name));
    return temp_write(name, data, n);
}

/* Every 64th length of a good file, and the last 64, must be refused; a flipped bit at every 7th byte must not crash.
 */
static void check_damage(const char *good, const char *name)
{
    size_t n;
    uint8_t *data = slurp(good, &n);

    for (size_t cut = 0; cut < n; cut += cut + 64 < n ? 64 : 1)
        refuse(write_anew(name, data, cut), 0, name);
    for (size_t at = 0; at < n; at += 7) {
        int flip = 1 << at % 8;
        ac_diag dg = {0};
        addcl_image *im;
        data[at] = (uint8_t)(data[at] ^ flip);
        if (ac_image_read(write_anew(name, data, n), &dg, &im) < 0)
            assert_true(*dg.msg && !im);
        ac_image_free(im);
        data[at] = (uint8_t)(data[at] ^ flip);
    }
    free(data);
}

static void test_damaged_files(void **state)
{
    uint8_t rgba[30 * 40 * 4], rows[KIND_H][KIND_W * 8];
    unsigned clear[3];
    addcl_image *im = noise_image(40, 30, 1);

    (void)state;
    write_good(temp_path("good.png"), im, NULL, 0);
    check_damage(temp_path("good.png"), "bad.png");
    write_kind(temp_path("adam.png"), &kinds[AC_LEN(kinds) - 2], PNG_INTERLACE_ADAM7, rows, clear);
    check_damage(temp_path("adam.png"), "bad.png");
    write_jpeg(temp_path("good.jpg"), 3, false, NULL);
    check_damage(temp_path("good.jpg"), "bad.jpg");
    write_jpeg(temp_path("good.jpg"), 3, true, NULL);
    check_damage(temp_path("good.jpg"), "bad.jpg");
    write_webp(temp_path("good.webp"), true, rgba);
    check_damage(temp_path("good.webp"), "bad.webp");
    ac_image_free(im);
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* CRC-32 of PNG (ISO 3309), bit by bit. */
static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t crc = 0xffffffff;

    while (n--) {
        crc ^= *p++;
        for (int k = 0; k < 8; k++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
    }
    return ~crc;
}

/* A size in the header that no data follows: refused by its number, or for want of data, without a large allocation. */
static void test_claimed_sizes(void **state)
{
    static const struct {
        uint32_t w, h;
        int rc;
    } sizes[] = {
        {0, 1, ADDCL_E_FORMAT},          {1, 0, ADDCL_E_FORMAT},
        {16385, 1, ADDCL_E_UNSUPPORTED}, {1, 16385, ADDCL_E_UNSUPPORTED},
        {16384, 16384, ADDCL_E_FORMAT},  {0x7fffffff, 0x7fffffff, 0},
        {0x80000000, 1, ADDCL_E_FORMAT}, {0x10000, 0x10000, ADDCL_E_UNSUPPORTED},
    };
    addcl_image *im = noise_image(8, 8, 2);
    size_t n;
    uint8_t *data;

    (void)state;
    write_good(temp_path("good.png"), im, NULL, 0);
    data = slurp(temp_path("good.png"), &n);
    for (size_t i = 0; i < AC_LEN(sizes); i++) {
        put32(data + 16, sizes[i].w);
        put32(data + 20, sizes[i].h);
        put32(data + 29, crc32_of(data + 12, 17));
        refuse(temp_write("size.png", data, n), sizes[i].rc, "size.png");
    }
    free(data);
    ac_image_free(im);
}

static void test_jpeg_claimed_size(void **state)
{
    static const uint8_t colour[] = {1, 2, 3};
    size_t n, at = 2;
    uint8_t *data;

    (void)state;
    write_jpeg(temp_path("good.jpg"), 3, false, colour);
    data = slurp(temp_path("good.jpg"), &n);
    while (data[at + 1] != 0xc0) /* segments up to the frame header */
        at += 2 + (size_t)(data[at + 2] << 8 | data[at + 3]);
    put32(data + at + 5, 0x80008000);
    refuse(temp_write("size.jpg", data, n), ADDCL_E_UNSUPPORTED, "32768 x 32768");
    free(data);
}

/* A progressive file whose last scan comes 300 times more. */
static void test_jpeg_many_scans(void **state)
{
    size_t n, scan;
    uint8_t *data;
    ac_str many = {0};

    (void)state;
    write_jpeg(temp_path("good.jpg"), 3, true, NULL);
    data = slurp(temp_path("good.jpg"), &n);
    for (scan = n - 2; data[scan] != 0xff || data[scan + 1] != 0xda; scan--)
        ;
    ac_str_addn(&many, (char *)data, n - 2);
    for (int i = 0; i < 300; i++)
        ac_str_addn(&many, (char *)data + scan, n - 2 - scan);
    ac_str_addn(&many, "\xff\xd9", 2);
    refuse(temp_write("scans.jpg", many.p, many.n), ADDCL_E_FORMAT, "too many scans");
    ac_str_free(&many);
    free(data);
}

static void test_no_images(void **state)
{
    (void)state;
    refuse(temp_path("absent.png"), ADDCL_E_IO, "absent.png");
    refuse(temp_path("."), ADDCL_E_IO, "cannot read");
    refuse(temp_write("empty", "", 0), ADDCL_E_FORMAT, "neither");
    refuse(temp_write("text.png", "GIF89a, or a longer text", 24), ADDCL_E_FORMAT, "neither");
    refuse(temp_write("riff.webp", "RIFF\4\0\0\0WAVE", 12), ADDCL_E_FORMAT, "neither");
}

/* ---------------------------------------------------------------------------------------------- failing memory */

static int fault_read(ac_diag *dg, const char *name)
{
    addcl_image *im;
    int rc = ac_image_read(temp_path(name), dg, &im);

    assert_true((rc == 0) == (im != NULL));
    ac_image_free(im);
    return rc;
}

static int fault_png(ac_diag *dg)
{
    return fault_read(dg, "fault.png");
}

static int fault_jpeg(ac_diag *dg)
{
    return fault_read(dg, "fault.jpg");
}

static int fault_webp(ac_diag *dg)
{
    return fault_read(dg, "fault.webp");
}

static void test_failing_memory(void **state)
{
    static const uint8_t inks[] = {1, 2, 3, 4};
    addcl_image *im = noise_image(9, 7, 8);
    uint8_t rgba[30 * 40 * 4];

    (void)state;
    write_good(temp_path("fault.png"), im, NULL, 0);
    write_jpeg(temp_path("fault.jpg"), 4, false, inks);
    write_webp(temp_path("fault.webp"), true, rgba);
    check_failing_memory(fault_png);
    check_failing_memory(fault_jpeg);
    check_failing_memory(fault_webp);
    ac_image_free(im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png_kinds),         cmocka_unit_test(test_jpeg),
        cmocka_unit_test(test_jpeg_orientation),  cmocka_unit_test(test_webp),
        cmocka_unit_test(test_max_pixels),        cmocka_unit_test(test_webp_animation),
        cmocka_unit_test(test_damaged_files),     cmocka_unit_test(test_claimed_sizes),
        cmocka_unit_test(test_jpeg_claimed_size), cmocka_unit_test(test_jpeg_many_scans),
        cmocka_unit_test(test_no_images),         cmocka_unit_test(test_failing_memory),
    };

    return cmocka_run_group_tests_name("image", tests, temp_setup, temp_teardown);
}
