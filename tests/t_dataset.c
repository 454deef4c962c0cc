/* t_dataset.c - data sets: folders, captions, splits, fitting. */
#include "dataset_support.h"

#include <math.h>
#include <unistd.h>
#include "io/dataset_file.h"

/* ----------------------------------------------------------------------------------------------------- folders */

static void test_imagefolder(void **state)
{
    ac_data_opts o = plain_opts("folder");
    ac_data *d;

    (void)state;
    make_folder("folder");
    make_folder("folder/sub");
    write_picture("folder/b.png", 8, 8, 1);
    write_picture("folder/sub/a.png", 8, 8, 2);
    write_text("folder/metadata.jsonl",
               "{\"file_name\": \"sub/a.png\", \"text\": \" first\\tone \", \"n\": 3}\n\r\n"
               "{\"file_name\": \"b.png\", \"tags\": [\"x\", 2.5, true, null, \"\"], \"s\": NaN}");
    o.caption = "{text}, {tags}, {n}, {file_name}";
    d = open_good(&o);
    assert_int_equal(ac_data_count(d, AC_SPLIT_TRAIN), 2);
    assert_int_equal(ac_data_count(d, AC_SPLIT_VAL), 0);
    assert_string_equal(ac_data_name(d, 0), "sub/a.png");
    assert_string_equal(caption_of(d, 0, 0), "first one, 3, sub/a.png");
    assert_string_equal(caption_of(d, 1, 0), "x, 2.5, true, b.png");
    ac_data_close(d);
}

static void test_bad_metadata(void **state)
{
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"{\"file_name\": ", "metadata.jsonl:2:"},
        {"{\"text\": \"a\"}", "metadata.jsonl:2: no \"file_name\""},
        {"{\"file_name\": 3}", "no \"file_name\""},
        {"[1]", "no \"file_name\""},
        {"{\"file_name\": \"../a.png\"}", "no path within the folder"},
        {"{\"file_name\": \"a/../../a.png\"}", "no path within the folder"},
        {"{\"file_name\": \"/etc/a.png\"}", "no path within the folder"},
        {"{\"file_name\": \"\"}", "no path within the folder"},
        {"{\"file_name\": \"a\\u0000.png\"}", "metadata.jsonl:2:"},
    };
    ac_data_opts o = plain_opts("bad");

    (void)state;
    make_folder("bad");
    for (size_t i = 0; i < AC_LEN(bad); i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"file_name\": \"..a/b..\"}\n%s\n", bad[i].line);
        write_text("bad/metadata.jsonl", text);
        refuse_data(&o, ADDCL_E_FORMAT, bad[i].says);
    }
    write_text("bad/metadata.jsonl", "\n");
    refuse_data(&o, ADDCL_E_ARG, "no sample");
}

static int warnings;

static void count_warnings(void *user, int level, const char *text)
{
    (void)user, (void)text;
    warnings += level == ADDCL_LOG_WARN;
}

static void test_kohya(void **state)
{
    ac_diag dg = {.note = count_warnings};
    ac_data_opts o = plain_opts("kohya");
    ac_data *d;

    (void)state;
    make_folder("kohya");
    make_folder("kohya/10_cat");
    make_folder("kohya/.hidden");
    write_picture("kohya/z.PNG", 8, 8, 1);
    write_picture("kohya/10_cat/a.b.png", 8, 8, 2);
    write_picture("kohya/.hidden/h.png", 8, 8, 3);
    write_picture("kohya/._z.png", 8, 8, 3);
    assert_int_equal(symlink("..", temp_path("kohya/10_cat/circle")), 0);
    assert_int_equal(symlink("nothing", temp_path("kohya/broken.png")), 0);
    assert_int_equal(ac_data_open(&o, &dg, &d), 0); /* no captions at all: good for autoencoders, and said */
    assert_int_equal(warnings, 1);
    ac_data_close(d);
    o.caption = "{text}";
    refuse_data(&o, ADDCL_E_ARG, "none of the 2 samples has a field 'text'");
    write_text("kohya/z.txt", "the\nletter\n\n");
    write_text("kohya/10_cat/a.b.caption", "two letters");
    d = open_good(&o);
    assert_int_equal(ac_data_count(d, AC_SPLIT_TRAIN), 2);
    assert_string_equal(ac_data_name(d, 0), "10_cat/a.b.png");
    assert_string_equal(caption_of(d, 0, 0), "two letters");
    assert_string_equal(ac_data_name(d, 1), "z.PNG");
    assert_string_equal(caption_of(d, 1, 0), "the letter");
    ac_data_close(d);
}

static void test_no_source(void **state)
{
    ac_data_opts o = plain_opts("empty");

    (void)state;
    refuse_data(&o, ADDCL_E_IO, "No such file");
    make_folder("empty");
    refuse_data(&o, ADDCL_E_FORMAT, "looked for metadata.jsonl");
    temp_write("a.zip", "PK", 2);
    o = plain_opts("a.zip");
    refuse_data(&o, ADDCL_E_FORMAT, "neither a folder nor a .tar");
    o.n_source = 0;
    refuse_data(&o, ADDCL_E_ARG, "no source");
    o = plain_opts("empty");
    o.resolution = -1;
    refuse_data(&o, ADDCL_E_ARG, "resolution -1");
    o = plain_opts("empty");
    o.flip = 1.5;
    refuse_data(&o, ADDCL_E_ARG, "flip 1.5");
    o = plain_opts("empty");
    o.caption_dropout = (double)NAN;
    refuse_data(&o, ADDCL_E_ARG, "caption_dropout nan");
}

/* ---------------------------------------------------------------------------------------------------- captions */

static void test_bad_captions(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{text", "braces"},           {"text}", "braces"},          {"{}", "expected {field}"},
        {"{a:0}", "expected {field}"}, {"{a:3-1}", "expected"},      {"{a:x}", "expected"},
        {"{a:1-}", "expected"},        {"{a:1 }", "expected"},       {"{a:1-99999}", "expected"},
        {"{a|b}", "braces"},           {"0 * {text}", "weight 0"},   {"inf * {text}", "weight inf"},
        {"{a{b}", "expected"},         {"-1 * {text}", "weight -1"}, {"nan*{text}", "weight nan"},
    };

    (void)state;
    for (size_t i = 0; i < AC_LEN(bad); i++) {
        ac_caption c = {0};
        ac_diag dg = {0};
        assert_int_equal(ac_caption_parse(bad[i].text, &dg, &c), ADDCL_E_ARG);
        if (!strstr(dg.msg, bad[i].says))
            fail_msg("'%s': '%s', expected something of '%s'", bad[i].text, dg.msg, bad[i].says);
        ac_caption_free(&c);
    }
}

/* What a template makes of a = "A", b = nothing, c = {"x", "y"}. */
static void test_templates(void **state)
{
    static const char *const row[][2] = {
        {"{a}", "A"},
        {"", ""},
        {" , ", ""},
        {"{b}", ""},
        {"{c}", "x, y"},
        {"{a}, {b}, {c}", "A, x, y"},
        {"{b}, {a} ,{b}", "A"},
        {"  photo of {a} and {b}  , fine ", "photo of A and, fine"},
        {"photo of {b}, fine", "fine"},
        {"{a}{c}", "Ax, y"},
        {"3 dogs, {a}", "3 dogs, A"},
        {"2 * {a}", "A"},
        {"1e3* plain", "plain"},
        {"{c:7}{b:2}", NULL}, /* both, in any order */
    };
    static const char fields[] = "A\0\0\0x\0y\0"; /* and the NUL that ends the literal */

    (void)state;
    for (size_t i = 0; i < AC_LEN(row); i++) {
        ac_caption c = {0}, abc = {0};
        ac_diag dg = {0};
        uint64_t random = i;
        char *text, *spec = ac_printf("{a}{b}{c}|%s", row[i][0]); /* so that the fields are in this order */
        assert_int_equal(ac_caption_parse(spec, &dg, &abc), 0);
        assert_int_equal(ac_caption_parse(row[i][0], &dg, &c), 0);
        abc.alt.p[0] = abc.alt.p[1]; /* the first alternative steps aside */
        abc.alt.n = 1;
        assert_int_equal(ac_caption_draw(&abc, fields, &random, &dg, &text), 0);
        if (row[i][1])
            assert_string_equal(text, row[i][1]);
        else
            assert_true(strcmp(text, "x, y") == 0 || strcmp(text, "y, x") == 0);
        free(text);
        free(spec);
        ac_caption_free(&c);
        ac_caption_free(&abc);
    }
}

/* The rule that the emoji teacher was trained with: shares of each form, each tag and each place. */
static void test_caption_shares(void **state)
{
    ac_data_opts o = plain_opts("shares");
    int empty = 0, plain = 0, tags[4] = {0}, apple = 0, n = 20000;
    ac_data *d;

    (void)state;
    make_folder("shares");
    write_picture("shares/a.png", 8, 8, 1);
    write_text("shares/metadata.jsonl", "{\"file_name\": \"a.png\", \"label\": \"red apple\", \"style\": \"noto\", "
                                        "\"tags\": [\"apple\", \"fruit\", \"red\", \"health\", \"food\"]}");
    o.caption = "3 * {label}, {style} | 5 * {label}, {tags:1-3}, {style}";
    o.caption_values = "style=noto:flat emoji, style=fluent:3d emoji";
    o.caption_dropout = 0.1;
    d = open_good(&o);
    for (int i = 0; i < n; i++) {
        const char *text = caption_of(d, 0, (uint64_t)i);
        int commas = 0;
        for (const char *p = text; *p; p++)
            commas += *p == ',';
        if (!*text) {
            empty++;
            continue;
        }
        assert_memory_equal(text, "red apple, ", 11);
        assert_string_equal(text + strlen(text) - 12, ", flat emoji");
        assert_in_range(commas, 1, 4);
        plain += commas == 1;
        tags[commas - 1]++;
        apple += strstr(text, ", apple,") != NULL;
    }
    ac_data_close(d);
    /* 5 standard deviations of a share p are 5 sqrt(p (1 - p) / n) <= 0.018 */
    assert_true(fabs((double)empty / n - 0.1) < 0.018);
    assert_true(fabs((double)plain / (n - empty) - 3.0 / 8) < 0.018);
    for (int k = 1; k <= 3; k++)
        assert_true(fabs((double)tags[k] / (n - empty) - 5.0 / 24) < 0.018);
    assert_true(fabs((double)apple / (n - empty) - 5.0 / 8 * 2 / 5) < 0.018);
}

/* ------------------------------------------------------------------------------------------------------ splits */

static void test_splits(void **state)
{
    ac_data_opts o = plain_opts("split");
    ac_data *d;

    (void)state;
    write_set("split", 20);
    o.val_split = temp_write("val.txt", "3.png\r\n\n 4.png \nabsent.png", 27);
    o.exclude_list = temp_write("out.json", "{\"file_names\": [\"4.png\"], \"labels\": [\"5\", \"6\"], \"n\": 1}", 55);
    d = open_good(&o);
    assert_int_equal(ac_data_count(d, AC_SPLIT_TRAIN), 16);
    assert_int_equal(ac_data_count(d, AC_SPLIT_VAL), 1);
    assert_string_equal(ac_data_name(d, ac_data_members(d, AC_SPLIT_VAL)[0]), "3.png");
    ac_data_close(d);
    o.exclude_list = NULL;
    o.filter = "kind=od?, file_name!=7.*";
    d = open_good(&o);
    assert_int_equal(ac_data_count(d, AC_SPLIT_TRAIN), 8);
    ac_data_close(d);
    o.filter = "kind=even,file_name!=4.png";
    refuse_data(&o, ADDCL_E_ARG, "val_split: none of the 9 samples is in the list");
    o.filter = "kind=none";
    refuse_data(&o, ADDCL_E_ARG, "leave no sample");
    o.filter = "kind";
    refuse_data(&o, ADDCL_E_ARG, "filter: 'kind'");
    o.filter = "!=odd";
    refuse_data(&o, ADDCL_E_ARG, "filter: '!=odd'");
    o.filter = NULL;
    o.val_split = temp_write("bad.json", "{\"names\": []}", 13);
    refuse_data(&o, ADDCL_E_FORMAT, "neither \"file_names\" nor \"labels\"");
    o.val_split = temp_write("bad.json", "{\"labels\": [1]}", 15);
    refuse_data(&o, ADDCL_E_FORMAT, "no string");
    o.val_split = temp_path("absent.txt");
    refuse_data(&o, ADDCL_E_IO, "absent.txt");
}

static int by_number(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Number of positions at which two orders differ. */
static size_t differences(const uint32_t *a, const uint32_t *b, size_t n)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += a[i] != b[i];
    return count;
}

static void test_order(void **state)
{
    ac_data_opts o = plain_opts("order");
    uint32_t a[60], b[60];
    ac_data *d, *other;

    (void)state;
    write_set("order", 60);
    d = open_good(&o);
    o.seed = 8;
    other = open_good(&o);
    assert_int_equal(ac_data_epoch_size(d, AC_SPLIT_TRAIN), 60);
    ac_data_order(d, AC_SPLIT_TRAIN, 3, a);
    ac_data_order(d, AC_SPLIT_TRAIN, 3, b);
    assert_memory_equal(a, b, sizeof a);
    ac_data_order(d, AC_SPLIT_TRAIN, 4, b);
    assert_true(differences(a, b, 60) > 40);
    ac_data_order(other, AC_SPLIT_TRAIN, 3, b);
    assert_true(differences(a, b, 60) > 40);
    qsort(a, 60, sizeof *a, by_number);
    for (uint32_t i = 0; i < 60; i++)
        assert_int_equal(a[i], i);
    ac_data_close(d);
    ac_data_close(other);
}

/* Each epoch has all the even and new 8 of the 40 odd ones, each equally often. */
static void test_subsample(void **state)
{
    ac_data_opts o = plain_opts("sub");
    int seen[80] = {0};
    ac_data *d;

    (void)state;
    write_set("sub", 80);
    o.subsample = "kind=odd:0.2, label=*:1";
    d = open_good(&o);
    assert_int_equal(ac_data_count(d, AC_SPLIT_TRAIN), 80);
    assert_int_equal(ac_data_epoch_size(d, AC_SPLIT_TRAIN), 48);
    for (uint64_t epoch = 0; epoch < 1000; epoch++) {
        uint32_t order[48];
        ac_data_order(d, AC_SPLIT_TRAIN, epoch, order);
        for (size_t i = 0; i < 48; i++)
            seen[order[i]]++;
    }
    for (int i = 0; i < 80; i++) /* 5 standard deviations of 200 */
        assert_in_range(seen[i], i % 2 ? 200 - 63 : 1000, i % 2 ? 200 + 63 : 1000);
    ac_data_close(d);
    o.subsample = "kind=odd:2";
    refuse_data(&o, ADDCL_E_ARG, "subsample: share '2'");
    o.subsample = "kind=odd";
    refuse_data(&o, ADDCL_E_ARG, "subsample: 'kind=odd'");
    o.subsample = "label=*:0";
    refuse_data(&o, ADDCL_E_ARG, "no sample is left for training");
}

/* ----------------------------------------------------------------------------------------------------- fitting */

/* Sample 0, plain or of an epoch. */
static ac_view fetch_image(ac_data *d, uint64_t epoch, float *image)
{
    ac_diag dg = {0};
    ac_sample s;

    if (ac_data_fetch(d, 0, epoch, &dg, image, &s) != 0)
        fail_msg("%s", dg.msg);
    free(s.caption);
    return s.view;
}

/* Pixel (x,y) of `image` is pixel (sx,sy) of the picture. */
static void same_pixel(const float *image, int x, int y, const addcl_image *im, int sx, int sy)
{
    for (int c = 0; c < 3; c++)
        assert_float_equal(image[(y * 8 + x) * 3 + c], (float)im->rgb[(sy * im->width + sx) * 3 + c] / 127.5f - 1, 0);
}

static void test_fit(void **state)
{
    ac_data_opts o = plain_opts("fit");
    addcl_image *im, *want;
    float image[8 * 8 * 3];
    ac_diag dg = {0};
    ac_data *d;

    (void)state;
    make_folder("fit");
    im = noise_image(8, 19, 3);
    write_good(temp_path("fit/a.png"), im, NULL, 0);
    d = open_good(&o); /* the middle: rows 5 to 12 */
    assert_int_equal(fetch_image(d, 0, image).y, 5);
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++)
            same_pixel(image, x, y, im, x, y + 5);
    ac_data_close(d);
    o.fit = AC_FIT_RANDOM_CROP;
    o.flip = 0.5;
    d = open_good(&o);
    for (unsigned seen = 0, epoch = 0; seen != 0xfff || epoch < 40; epoch++) { /* any of 12 places */
        ac_view v = fetch_image(d, epoch, image);
        assert_int_equal(v.x, 0);
        assert_in_range(v.y, 0, 11);
        seen |= 1u << v.y;
        for (int x = 0; x < 8; x++)
            same_pixel(image, x, 2, im, v.flip ? 7 - x : x, 2 + v.y);
        assert_true(epoch < 1000);
    }
    assert_false(fetch_image(d, AC_EPOCH_PLAIN, image).flip);
    assert_int_equal(fetch_image(d, AC_EPOCH_PLAIN, image).y, 5);
    ac_data_close(d);
    o.fit = AC_FIT_STRETCH;
    d = open_good(&o);
    assert_int_equal(ac_image_scale(im, 8, 8, &dg, &want), 0);
    fetch_image(d, AC_EPOCH_PLAIN, image);
    for (int i = 0; i < 64; i++)
        same_pixel(image, i % 8, i / 8, want, i % 8, i / 8);
    ac_image_free(want);
    ac_data_close(d);
    o.fit = AC_FIT_PAD; /* 3.4 columns become 3, in columns 2 to 4 */
    o.background[0] = 0;
    d = open_good(&o);
    assert_int_equal(ac_image_scale(im, 3, 8, &dg, &want), 0);
    fetch_image(d, AC_EPOCH_PLAIN, image);
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++)
            if (x >= 2 && x < 5)
                same_pixel(image, x, y, want, x - 2, y);
            else
                assert_true(image[(y * 8 + x) * 3] == -1 && image[(y * 8 + x) * 3 + 1] == 1);
    ac_image_free(want);
    ac_data_close(d);
    ac_image_free(im);
}

/* The middle of a wide picture, and any part. */
static void test_fit_wide(void **state)
{
    ac_data_opts o = plain_opts("wide");
    addcl_image *im = noise_image(13, 8, 4);
    float image[8 * 8 * 3];
    ac_data *d;

    (void)state;
    make_folder("wide");
    write_good(temp_path("wide/a.png"), im, NULL, 0);
    for (int k = 0; k < 2; k++) {
        o.fit = k ? AC_FIT_RANDOM_CROP : AC_FIT_CROP;
        d = open_good(&o);
        for (uint64_t epoch = 0; epoch < 20; epoch++) {
            ac_view v = fetch_image(d, epoch, image);
            assert_true(k ? v.x >= 0 && v.x <= 5 : v.x == 2);
            assert_int_equal(v.y, 0);
            for (int i = 0; i < 64; i++)
                same_pixel(image, i % 8, i / 8, im, i % 8 + v.x, i / 8);
        }
        ac_data_close(d);
    }
    ac_image_free(im);
}

static void test_view_key(void **state)
{
    ac_data_opts o = plain_opts("fit");
    ac_view a = {.x = 1, .y = 2}, b = {.x = 12}, c = {.x = 1, .y = 2, .flip = true};
    char ka[96], kb[96], kc[96];
    ac_data *d;

    (void)state;
    d = open_good(&o);
    ac_data_view_key(d, &a, ka);
    ac_data_view_key(d, &b, kb);
    ac_data_view_key(d, &c, kc);
    assert_string_equal(ka, "8 crop 1,2 straight #ffffff");
    assert_string_not_equal(ka, kb);
    assert_string_not_equal(ka, kc);
    ac_data_close(d);
}

/* ------------------------------------------------------------------------------------------- memory, the real set */

static int open_and_fetch(ac_diag *dg)
{
    ac_data_opts o = plain_opts("kohya");
    const char *const source[] = {o.source[0], temp_path("order")};
    float image[8 * 8 * 3];
    ac_data *d;
    int rc;

    o.source = source;
    o.n_source = 2;
    o.caption = "{text}, {label:1-2}";
    o.caption_values = "text=the letter:a letter";
    o.subsample = "kind=odd:0.5";
    o.filter = "file_name!=[3-9]*.png";
    o.val_split = temp_path("val.txt");
    o.exclude_list = temp_path("out.json");
    o.fit = AC_FIT_PAD;
    o.resolution = 7;
    AC_TRY(ac_data_open(&o, dg, &d));
    for (uint32_t i = 0; i < 9 && rc == 0; i++) {
        ac_sample s;
        rc = ac_data_fetch(d, i, 0, dg, image, &s);
        if (rc == 0)
            free(s.caption);
    }
    ac_data_close(d);
out:
    return rc;
}

static void test_no_memory(void **state)
{
    (void)state;
    temp_write("val.txt", "12.png\n", 7);
    check_failing_memory(open_and_fetch);
}

static void test_emoji(void **state)
{
    char path[4200], list[4200];
    const char *const source[] = {path};
    ac_data_opts o = plain_opts("");
    float *image = malloc(64 * 64 * 3 * sizeof *image);
    ac_diag dg = {0};
    ac_sample s;
    ac_data *d;

    (void)state;
    assert_non_null(image);
    snprintf(path, sizeof path, "%s/../data/emoji64", fixture_dir());
    source_path(list, sizeof list, "models/emoji-teacher/val_split.json");
    if (access(path, R_OK) != 0) {
        free(image);
        fprintf(stderr, "SKIP emoji64: not beside %s\n", fixture_dir());
        skip();
    }
    o.source = source;
    o.resolution = 64;
    o.val_split = list;
    o.subsample = "label=*skin tone*:0.1";
    d = open_good(&o);
    assert_int_equal(ac_data_count(d, AC_SPLIT_TRAIN), 7158 - 393);
    assert_int_equal(ac_data_count(d, AC_SPLIT_VAL), 393);
    assert_int_equal(ac_data_epoch_size(d, AC_SPLIT_TRAIN), 3365 + 340);
    assert_int_equal(ac_data_fetch(d, 0, 0, &dg, image, &s), 0);
    assert_string_equal(s.name, "noto/1f600.png");
    assert_string_equal(s.caption, "grinning face, flat emoji");
    assert_float_equal(image[0], 1, 0); /* on white */
    free(s.caption);
    ac_data_close(d);
    free(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_imagefolder),    cmocka_unit_test(test_bad_metadata), cmocka_unit_test(test_kohya),
        cmocka_unit_test(test_no_source),      cmocka_unit_test(test_bad_captions), cmocka_unit_test(test_templates),
        cmocka_unit_test(test_caption_shares), cmocka_unit_test(test_splits),       cmocka_unit_test(test_order),
        cmocka_unit_test(test_subsample),      cmocka_unit_test(test_fit),          cmocka_unit_test(test_fit_wide),
        cmocka_unit_test(test_view_key),       cmocka_unit_test(test_no_memory),    cmocka_unit_test(test_emoji),
    };

    return cmocka_run_group_tests_name("dataset", tests, temp_setup, temp_teardown);
}
