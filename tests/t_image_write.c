/* t_image_write.c - PNG out, its text, full disks; grids and resizing; failing memory. */
#include "image_support.h"

#include <dirent.h>
#include <fcntl.h>
#include <png.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int count_files(void)
{
    DIR *d = opendir(temp_path("."));
    int n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* -------------------------------------------------------------------------------------------------------- text */

static char *text_of(const char *path, const char *key)
{
    ac_diag dg = {0};
    char *text = NULL;

    if (ac_image_png_text(path, key, &dg, &text) != 0)
        fail_msg("%s", dg.msg);
    return text;
}

static void check_chunk(const char *path, const char *key, const char *want)
{
    char *text = text_of(path, key);

    assert_non_null(text);
    assert_string_equal(text, want);
    free(text);
}

static bool holds(const uint8_t *data, size_t n, const char *part, size_t len)
{
    return memmem(data, n, part, len) != NULL;
}

static void test_text(void **state)
{
    static const char *const texts[][2] = {
        {"parameters", "a caf\xc3\xa9\nSteps: 1, Sampler: Euler"},
        {"add-cl", "{\"prompt\":\"\xe7\x8c\xab \xf0\x9f\x98\x80\"}"},
        {"empty", ""},
        {"tab", "a\tb"},
        {"control", "a\xc2\x85"},
        {"broken", "a\xff\xe7\x8c"},
        {"parameters", "the second of a name is not found"},
    };
    addcl_image *im = noise_image(20, 10, 3), *back;
    const char *path = temp_path("text.png");
    size_t n;
    uint8_t *data;

    (void)state;
    write_good(path, im, texts, AC_LEN(texts));
    for (size_t i = 0; i < 5; i++)
        check_chunk(path, texts[i][0], texts[i][1]);
    check_chunk(path, "broken", "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    assert_null(text_of(path, "parameter"));
    data = slurp(path, &n);
    assert_true(holds(data, n, "tEXtparameters\0a caf\xe9\n", 22));
    assert_true(holds(data, n, "iTXtadd-cl\0\0\0\0\0{", 16));
    assert_true(holds(data, n, "iTXttab", 7));
    assert_true(holds(data, n, "iTXtcontrol", 11));
    assert_false(holds(data, n, "tIME", 4));
    back = read_good(path);
    assert_same_image(im, back);
    free(data);
    ac_image_free(back);
    ac_image_free(im);
}

/* Compressed chunks, and chunks behind the pixels, as other programs write them. */
static void test_text_of_others(void **state)
{
    static char name[][8] = {"zipped", "izip", "late"}, latin1[] = "caf\xe9 caf\xe9",
                utf8[] = "\xe7\x8c\xab\xe7\x8c\xab";
    png_text text[] = {
        {.compression = PNG_TEXT_COMPRESSION_zTXt, .key = name[0], .text = latin1},
        {.compression = PNG_ITXT_COMPRESSION_zTXt, .key = name[1], .text = utf8},
        {.compression = PNG_TEXT_COMPRESSION_NONE, .key = name[2], .text = latin1},
    };
    const char *path = temp_path("others.png");
    FILE *f = fopen(path, "wb");
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_byte row[16] = {0};

    (void)state;
    assert_true(f && !setjmp(png_jmpbuf(png)));
    png_init_io(png, f);
    png_set_IHDR(png, info, 16, 16, 8, PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_text(png, info, text, 2);
    png_write_info(png, info);
    for (int y = 0; y < 16; y++)
        png_write_row(png, row);
    png_set_text(png, info, text + 2, 1);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    fclose(f);
    check_chunk(path, "zipped", "caf\xc3\xa9 caf\xc3\xa9");
    check_chunk(path, "izip", utf8);
    check_chunk(path, "late", "caf\xc3\xa9 caf\xc3\xa9");
}

static void test_text_errors(void **state)
{
    static const char *const too_long[][2] = {
        {"12345678901234567890123456789012345678901234567890123456789012345678901234567890", "x"}};
    static const char *const unnamed[][2] = {{"", "x"}};
    addcl_image *im = noise_image(4, 4, 4);
    ac_diag dg = {0};
    char *text = (char *)&dg;

    (void)state;
    assert_int_equal(ac_image_write_png(temp_path("long.png"), im, too_long, 1, &dg), ADDCL_E_ARG);
    assert_int_equal(ac_image_write_png(temp_path("long.png"), im, unnamed, 1, &dg), ADDCL_E_ARG);
    assert_false(ac_exists(temp_path("long.png")));
    assert_int_equal(ac_image_png_text(temp_path("absent.png"), "a", &dg, &text), ADDCL_E_IO);
    assert_null(text);
    assert_int_equal(ac_image_png_text(temp_write("no.png", "no PNG", 6), "a", &dg, &text), ADDCL_E_FORMAT);
    assert_null(text);
    ac_image_free(im);
}

/* ----------------------------------------------------------------------------------------------------- writing */

static void test_equal_bytes(void **state)
{
    static const char *const texts[][2] = {{"parameters", "x"}};
    addcl_image *im = noise_image(33, 21, 5);
    size_t n, m;
    uint8_t *a, *b;

    (void)state;
    write_good(temp_path("one.png"), im, texts, 1);
    write_good(temp_path("two.png"), im, texts, 1);
    a = slurp(temp_path("one.png"), &n);
    b = slurp(temp_path("two.png"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
    ac_image_free(im);
}

static void test_write_errors(void **state)
{
    addcl_image *im = noise_image(200, 200, 6), none = {.width = 0, .height = 4, .rgb = im->rgb};
    ac_diag full = {0}, folder = {0}, absent = {0}, size = {0};
    int files;

    (void)state;
    mkdir(temp_path("folder"), 0777);
    files = count_files();
    assert_int_equal(ac_image_write_png("/dev/full", im, NULL, 0, &full), ADDCL_E_IO);
    assert_non_null(strstr(full.msg, "/dev/full"));
    assert_int_equal(ac_image_write_png(temp_path("folder"), im, NULL, 0, &folder), ADDCL_E_IO);
    assert_non_null(strstr(folder.msg, "folder"));
    assert_int_equal(ac_image_write_png(temp_path("absent/x.png"), im, NULL, 0, &absent), ADDCL_E_IO);
    assert_string_not_equal(absent.msg, "");
    assert_int_equal(ac_image_write_png(temp_path("none.png"), &none, NULL, 0, &size), ADDCL_E_ARG);
    assert_int_equal(count_files(), files);
    ac_image_free(im);
}

/* Writes to standard output, which is `target`, in a child; returns its result. */
static int write_to_stdout(const char *target, const addcl_image *im)
{
    int status;
    pid_t child;

    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        ac_diag dg = {0};
        int fd = open(target, O_WRONLY | O_CREAT | O_TRUNC, 0666), rc;
        if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0)
            _exit(99);
        rc = ac_image_write_png("-", im, NULL, 0, &dg);
        _exit(rc < 0 && !*dg.msg ? 98 : -rc);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return -WEXITSTATUS(status);
}

static void test_stdout(void **state)
{
    addcl_image *im = noise_image(50, 40, 7), *back;

    (void)state;
    assert_int_equal(write_to_stdout(temp_path("stdout.png"), im), 0);
    back = read_good(temp_path("stdout.png"));
    assert_same_image(im, back);
    assert_int_equal(write_to_stdout("/dev/full", im), ADDCL_E_IO);
    ac_image_free(back);
    ac_image_free(im);
}

/* ------------------------------------------------------------------------------------------- grids and resizing */

static void test_grid(void **state)
{
    addcl_image *im[5], *grid = NULL, *odd = noise_image(3, 3, 9);
    ac_diag dg = {0};

    (void)state;
    for (uint32_t i = 0; i < 5; i++)
        im[i] = noise_image(4, 2, i);
    assert_int_equal(ac_image_grid((const addcl_image *const *)im, 5, 0, &dg, &grid), 0);
    assert_int_equal(grid->width, 12);
    assert_int_equal(grid->height, 4);
    for (size_t i = 0; i < 6; i++)
        for (size_t p = 0; p < 4 * 2 * 3; p++) {
            size_t x = i % 3 * 12 + p % 12, y = i / 3 * 2 + p / 12;
            assert_int_equal(grid->rgb[y * 36 + x], i < 5 ? im[i]->rgb[p] : 0);
        }
    ac_image_free(grid);
    assert_int_equal(ac_image_grid((const addcl_image *const *)im, 5, 2, &dg, &grid), 0);
    assert_int_equal(grid->width, 8);
    assert_int_equal(grid->height, 6);
    ac_image_free(grid);
    assert_int_equal(ac_image_grid((const addcl_image *const *)im, 2, 9, &dg, &grid), 0);
    assert_int_equal(grid->width, 8);
    ac_image_free(grid);
    assert_int_equal(ac_image_grid((const addcl_image *const[]){im[0], odd}, 2, 0, &dg, &grid), ADDCL_E_SHAPE);
    assert_null(grid);
    for (size_t i = 0; i < 5; i++)
        ac_image_free(im[i]);
    ac_image_free(odd);
}

static void test_grid_too_large(void **state)
{
    addcl_image *wide = noise_image(10000, 1, 1), *grid = NULL;
    ac_diag dg = {0};

    (void)state;
    assert_int_equal(ac_image_grid((const addcl_image *const[]){wide, wide}, 2, 2, &dg, &grid), ADDCL_E_ARG);
    assert_null(grid);
    ac_image_free(wide);
}

/* Pixels of Pillow 13's ImageOps.fit(image, size, Image.BICUBIC) of byte i = (37 i + 11) mod 256. */
static void test_resize(void **state)
{
    static const struct {
        int w, h;
        uint8_t rgb[126];
    } want[] = {
        {3, 2, {91, 129, 166, 149, 98, 135, 158, 150, 98, 144, 150, 117, 117, 142, 102, 109, 114, 151}},
        {2, 5, {233, 14,  51,  88,  125, 162, 131, 168, 205, 242, 23,  60,  29,  66,  103,
                140, 177, 214, 183, 220, 1,   38,  75,  112, 81,  118, 155, 192, 229, 10}},
        {4, 7, {191, 101, 138, 227, 8,   48,  90,  111, 162, 156, 214, 72,  104, 97,  134, 189, 101,
                140, 185, 56,  99,  151, 130, 105, 56,  113, 153, 111, 143, 187, 224, 64,  101, 174,
                66,  130, 116, 153, 190, 31,  71,  108, 122, 172, 209, 221, 90,  127, 113, 162, 114,
                142, 179, 16,  52,  100, 131, 136, 131, 187, 138, 101, 81,  144, 187, 59,  104, 142,
                54,  98,  146, 139, 171, 30,  87,  81,  132, 153, 195, 235, 16,  105, 142, 52}},
        {7, 6, {5,   42,  79,  104, 156, 193, 220, 50,  87,  159, 51,  105, 113, 176, 124, 189, 226, 18,
                48,  85,  132, 138, 175, 212, 39,  79,  116, 115, 123, 160, 202, 85,  125, 185, 63,  90,
                112, 178, 134, 181, 218, 38,  100, 137, 192, 117, 153, 192, 62,  117, 168, 120, 111, 158,
                206, 95,  140, 188, 71,  105, 161, 198, 121, 122, 159, 82,  138, 187, 215, 103, 143, 95,
                74,  131, 111, 133, 127, 181, 211, 87,  126, 51,  88,  143, 205, 242, 62,  109, 94,  115,
                153, 171, 52,  119, 159, 41,  77,  120, 128, 111, 164, 204, 31,  68,  105, 111, 148, 195,
                225, 16,  54,  119, 68,  130, 137, 191, 85,  156, 193, 23,  50,  87,  139, 164, 201, 238}},
    };
    addcl_image *im = ac_image_new(6, 5), *out = NULL;
    ac_diag dg = {0};

    (void)state;
    for (unsigned i = 0; i < 6 * 5 * 3; i++)
        im->rgb[i] = (uint8_t)(37 * i + 11);
    for (size_t i = 0; i < AC_LEN(want); i++) {
        assert_int_equal(ac_image_resize(im, want[i].w, want[i].h, &dg, &out), 0);
        assert_int_equal(out->width, want[i].w);
        assert_int_equal(out->height, want[i].h);
        assert_memory_equal(out->rgb, want[i].rgb, (size_t)(want[i].w * want[i].h * 3));
        ac_image_free(out);
    }
    assert_int_equal(ac_image_resize(im, 6, 5, &dg, &out), 0);
    assert_same_image(im, out);
    ac_image_free(out);
    assert_int_equal(ac_image_resize(im, 0, 5, &dg, &out), ADDCL_E_ARG);
    assert_null(out);
    assert_int_equal(ac_image_resize(im, 6, 16385, &dg, &out), ADDCL_E_ARG);
    ac_image_free(im);
}

/* A plain image stays plain at any size and aspect. */
static void test_resize_plain(void **state)
{
    static const int side[] = {1, 2, 3, 50, 333};
    addcl_image *im = ac_image_new(37, 91), *out;
    ac_diag dg = {0};

    (void)state;
    memset(im->rgb, 201, 37 * 91 * 3);
    for (size_t i = 0; i < AC_LEN(side) * AC_LEN(side); i++) {
        int w = side[i % AC_LEN(side)], h = side[i / AC_LEN(side)];
        assert_int_equal(ac_image_resize(im, w, h, &dg, &out), 0);
        for (size_t p = 0; p < (size_t)w * (size_t)h * 3; p++)
            assert_int_equal(out->rgb[p], 201);
        ac_image_free(out);
    }
    ac_image_free(im);
}

/* ---------------------------------------------------------------------------------------------- failing memory */

static const addcl_image *fault_image;

static int fault_write(ac_diag *dg)
{
    static const char *const texts[][2] = {{"a", "latin"}, {"b", "\xe7\x8c\xab"}};
    return ac_image_write_png(temp_path("fault.png"), fault_image, texts, 2, dg);
}

static int fault_text(ac_diag *dg)
{
    char *text;
    int rc = ac_image_png_text(temp_path("fault.png"), "b", dg, &text);

    free(text);
    return rc;
}

static int fault_grid(ac_diag *dg)
{
    addcl_image *out;
    int rc = ac_image_grid(&fault_image, 1, 1, dg, &out);

    ac_image_free(out);
    return rc;
}

static int fault_resize(ac_diag *dg)
{
    addcl_image *out;
    int rc = ac_image_resize(fault_image, 5, 5, dg, &out);

    ac_image_free(out);
    return rc;
}

static void test_failing_memory(void **state)
{
    addcl_image *im = noise_image(9, 7, 8);

    (void)state;
    fault_image = im;
    check_failing_memory(fault_write);
    check_failing_memory(fault_text);
    check_failing_memory(fault_grid);
    check_failing_memory(fault_resize);
    ac_image_free(im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),         cmocka_unit_test(test_text_of_others), cmocka_unit_test(test_text_errors),
        cmocka_unit_test(test_equal_bytes),  cmocka_unit_test(test_write_errors),   cmocka_unit_test(test_stdout),
        cmocka_unit_test(test_grid),         cmocka_unit_test(test_grid_too_large), cmocka_unit_test(test_resize),
        cmocka_unit_test(test_resize_plain), cmocka_unit_test(test_failing_memory),
    };

    return cmocka_run_group_tests_name("image_write", tests, temp_setup, temp_teardown);
}
