/* t_report.c - report.html, the model card, sheets of samples. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "io/grid.h"
#include "io/image.h"
#include "io/report.h"
#include "io/runlog.h"

static char *load(const char *path)
{
    ac_diag dg = {0};
    char *data;
    size_t n;

    if (ac_file_read(path, (size_t)1 << 26, &dg, &data, &n) != 0)
        fail_msg("%s", dg.msg);
    return data;
}

static void has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("'%s' is missing", part);
}

static void lacks(const char *text, const char *part)
{
    if (strstr(text, part))
        fail_msg("there is a '%s'", part);
}

static int count(const char *text, const char *part)
{
    int n = 0;

    for (; (text = strstr(text, part)); text += strlen(part))
        n++;
    return n;
}

static char notes[4096];
static void on_note(void *user, int level, const char *s)
{
    (void)user, (void)level;
    snprintf(notes + strlen(notes), sizeof notes - strlen(notes), "%s\n", s);
}

/* ---------------------------------------------------------------------------------------------------------- sheets */

/* n pictures of 3 x 2 pixels; picture i has red i / 8 * 2 - 1, green out of range, blue 0. */
static void write_sheet(const char *path, size_t n, int columns)
{
    float *rgb = calloc(n * 18, sizeof *rgb);
    ac_diag dg = {0};

    assert_non_null(rgb);
    for (size_t i = 0; i < n * 6; i++) {
        rgb[i * 3] = (float)(i / 6) / 4 - 1;
        rgb[i * 3 + 1] = i % 2 ? 7 : -7;
    }
    if (ac_grid_png(path, rgb, n, 3, 2, columns, &dg) != 0)
        fail_msg("%s", dg.msg);
    free(rgb);
}

static void expect_pixel(const addcl_image *im, int x, int y, int r, int g, int b)
{
    const uint8_t *p = im->rgb + 3 * (y * im->width + x);

    if (p[0] != r || p[1] != g || p[2] != b)
        fail_msg("pixel %d, %d is %d %d %d", x, y, p[0], p[1], p[2]);
}

static void test_grid(void **state)
{
    const char *path = temp_path("grid.png");
    addcl_image *im;
    ac_diag dg = {0};

    (void)state;
    write_sheet(path, 5, 0);
    assert_int_equal(ac_image_read(path, &dg, &im), 0);
    assert_int_equal(im->width, 3 * (3 + 4));
    assert_int_equal(im->height, 2 * (2 + 4));
    for (int i = 0; i < 6; i++) {
        int x = i % 3 * 7, y = i / 3 * 6, red = (int)lrint(i / 8.0 * 255);
        expect_pixel(im, x + 1, y + 2, 233, 233, 233);
        expect_pixel(im, x + 5, y + 2, 233, 233, 233);
        expect_pixel(im, x + 2, y + 2, i < 5 ? red : 233, i < 5 ? 0 : 233, i < 5 ? 128 : 233);
        expect_pixel(im, x + 3, y + 3, i < 5 ? red : 233, i < 5 ? 0 : 233, i < 5 ? 128 : 233);
    }
    expect_pixel(im, 3, 2, 0, 255, 128);
    ac_image_free(im);
    write_sheet(path, 5, 2);
    assert_int_equal(ac_image_read(path, &dg, &im), 0);
    assert_int_equal(im->width, 2 * 7);
    assert_int_equal(im->height, 3 * 6);
    ac_image_free(im);
    assert_int_equal(ac_grid_png(path, NULL, 0, 3, 2, 0, &dg), ADDCL_E_ARG);
}

/* ---------------------------------------------------------------------------------------------------------- report */

static const char *const columns[] = {"step", "loss", "val_loss", "grad_norm", "lr", "empty"};
static const ac_report_chart charts[] = {
    {"Loss & more", "v-MSE", {"loss", "nowhere", "val_loss"}, {NULL, NULL, "held out"}, false},
    {"Gradient", "", {"grad_norm"}, {0}, false},
    {"Rate", "", {"lr"}, {0}, true},
    {"Empty chart", "", {"empty"}, {0}, false},
    {"Missing chart", "", {"nowhere"}, {0}, false}};
static const char *const facts[][2] = {{"Method", "diffusion <v>"}, {"Data", "\"emoji64\""}};
static const char *const captions[] = {"a cat & a dog", "<b>", ""};
static const ac_report report = {.title = "run <1>",
                                 .status = "running",
                                 .fact = facts,
                                 .n_facts = 2,
                                 .chart = charts,
                                 .n_charts = AC_LEN(charts),
                                 .caption = captions,
                                 .n_captions = 3,
                                 .columns = 2,
                                 .config = "[run]\n; why <not>\nmethod = diffusion\n"};

/* A run of `rows` rows, one every 10 steps, with events and sheets of samples. */
static ac_rundir *make_run(const char *name, int rows)
{
    ac_rundir *run;
    ac_runlog *log;
    ac_diag dg = {0};

    assert_int_equal(ac_rundir_open(temp_path(name), &dg, &run), 0);
    assert_int_equal(ac_runlog_open(run, columns, AC_LEN(columns), -1, false, &dg, &log), 0);
    assert_int_equal(ac_runlog_event(log, 0, "start", NULL, &dg), 0);
    for (int i = 1; i <= rows; i++) {
        double e = exp(-i / 30.0), noise = (double)(i * 7919 % 101) / 100;
        const double v[] = {i * 10,
                            0.2 + 0.8 * e + 0.1 * noise,
                            i % 20 == 0 ? 0.3 + e : (double)NAN,
                            0.001 + 2 * e * noise,
                            i == 3 ? (double)INFINITY : 1e-5 * i,
                            (double)NAN};
        assert_int_equal(ac_runlog_row(log, v, &dg), 0);
        if (i % 20 == 0) {
            char path[2200];
            snprintf(path, sizeof path, "%s/samples/step-%06d.png", temp_path(name), i * 10);
            write_sheet(path, 5, 0);
            assert_int_equal(ac_runlog_event(log, i * 10, "validation", NULL, &dg), 0);
        }
    }
    assert_int_equal(ac_runlog_event(log, 30, "resume", NULL, &dg), 0);
    assert_int_equal(ac_runlog_event(log, 70, "warning", json_pack("{ss}", "message", "<i>"), &dg), 0);
    assert_int_equal(ac_runlog_event(log, 80, "skip", json_pack("{sssf}", "tensor", "up.weight", "norm", 0.1), &dg), 0);
    ac_runlog_close(log);
    return run;
}

/* The page of a run, in new memory. */
static char *page_of(const char *name)
{
    ac_diag dg = {.note = on_note};
    char path[2200];

    notes[0] = '\0';
    if (ac_report_write(temp_path(name), &report, &dg) != 0)
        fail_msg("%s", dg.msg);
    snprintf(path, sizeof path, "%s/report.html", temp_path(name));
    return load(path);
}

/* Does every element end, in the right order? */
static void check_nesting(const char *html)
{
    static const char *const single[] = {"meta", "img", "!DOCTYPE", NULL};
    char stack[64][16];
    int depth = 0;

    while ((html = strchr(html, '<'))) {
        bool end = html[1] == '/', alone = false;
        const char *close = strchr(html, '>');
        char tag[16];
        assert_non_null(close);
        snprintf(tag, sizeof tag, "%.*s", (int)strcspn(html + 1 + end, " >/\n"), html + 1 + end);
        alone = close[-1] == '/';
        for (int i = 0; single[i]; i++)
            alone = alone || strcmp(tag, single[i]) == 0;
        if (end) {
            assert_true(depth > 0);
            assert_string_equal(stack[--depth], tag);
        } else if (!alone) {
            assert_true(depth < 64);
            memcpy(stack[depth++], tag, sizeof tag);
        }
        html = close;
        if (!end && (strcmp(tag, "style") == 0 || strcmp(tag, "script") == 0))
            html = strstr(html, "</") - 1;
    }
    assert_int_equal(depth, 0);
}

static void test_report(void **state)
{
    char *html;

    (void)state;
    ac_rundir_close(make_run("report", 200));
    html = page_of("report");
    assert_string_equal(notes, "");
    check_nesting(html);
    has(html, "<title>run &lt;1&gt;</title>");
    has(html, "step 2,000 &middot;");
    has(html, "<dd>diffusion &lt;v&gt;</dd>");
    has(html, "<h3>Loss &amp; more <small>v-MSE</small></h3>");
    has(html, "held out <b>");
    assert_int_equal(count(html, "<figure"), 3);
    assert_int_equal(count(html, "<circle"), 10);     /* the sparse column */
    assert_int_equal(count(html, "class=\"raw "), 2); /* the noisy ones are smoothed */
    assert_int_equal(count(html, ">resumed at step 30<"), 3);
    lacks(html, "Empty chart");
    lacks(html, "Missing chart");
    has(html, "<td>warning</td><td>&lt;i&gt;</td>");
    has(html, "<td>skip</td><td>tensor up.weight, norm 0.1</td>");
    has(html, "<b>10</b> validation");
    lacks(html, "<td>validation</td>");
    has(html, "<li>a cat &amp; a dog</li><li>&lt;b&gt;</li><li>(no text)</li>");
    has(html, "repeat(2,1fr)");
    has(html, "<b>[run]</b>\n<i>; why &lt;not&gt;</i>\nmethod = diffusion\n");
    free(html);
}

/* Bytes of base64 up to the first other character. */
static size_t decode(const char *text, uint8_t *out)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned bits = 0;
    size_t n = 0, used = 0;

    for (const char *d; *text && (d = strchr(digit, *text)); text++, used += 6) {
        bits = bits << 6 | (unsigned)(d - digit);
        if (used % 8 != 0)
            out[n++] = (uint8_t)(bits >> (used % 8 == 6 ? 4 : used % 8 == 4 ? 2 : 0));
    }
    return n;
}

/* It needs nothing from outside: every address is data, and what they hold are the files. */
static void test_self_contained(void **state)
{
    static const char head[] = "src=\"data:image/png;base64,";
    uint8_t got[4096];
    ac_diag dg = {0};
    size_t n;

    (void)state;
    ac_rundir_close(make_run("alone", 40));
    for (int i = 0; i < 3; i++) { /* files of every length modulo 3 */
        const char *path = temp_path("alone/samples/step-000400.png");
        char *html = page_of("alone"), *want;
        FILE *f;
        lacks(html, "http:");
        lacks(html, "https:");
        lacks(html, "url(");
        lacks(html, "@import");
        lacks(html, "href");
        assert_int_equal(count(html, "src="), count(html, head));
        assert_int_equal(count(html, head), 3); /* the newest, and two in the strip */
        assert_int_equal(ac_file_read(path, sizeof got - 3, &dg, &want, &n), 0);
        assert_int_equal(decode(strstr(html, head) + strlen(head), got), n);
        assert_memory_equal(got, want, n);
        free(want);
        free(html);
        f = fopen(path, "ab");
        assert_non_null(f);
        assert_int_equal(fputc(7 + i, f), 7 + i);
        assert_int_equal(fclose(f), 0);
    }
}

/* Which sheets are shown. */
static void test_sheets(void **state)
{
    char *html;

    (void)state;
    ac_rundir_close(make_run("sheets", 800));
    write_sheet(temp_path("sheets/samples/step-000400-ema.png"), 3, 0);
    write_sheet(temp_path("sheets/samples/step-009000.png"), 3, 0); /* of a part that was given up */
    write_sheet(temp_path("sheets/samples/other.png"), 3, 0);
    temp_write("sheets/samples/step-008000.png", "no png", 6);
    html = page_of("sheets");
    has(notes, "step-008000.png");
    free(html);

    remove(temp_path("sheets/samples/step-008000.png"));
    html = page_of("sheets");
    check_nesting(html);
    lacks(html, "step 9,000");
    has(html, "<span class=\"at\">step 7,800</span>");
    has(html, "Samples &middot; ema &middot; <span class=\"at\">step 400</span>");
    assert_int_equal(count(html, "<button"), 12); /* of 39 */
    has(html, "step 200</button>");
    has(html, "<button aria-pressed=\"true\">");
    free(html);
}

/* Little, nothing and rubbish. */
static void test_odd_logs(void **state)
{
    static const char *const logs[] = {"step,loss\n5,0.5\n",
                                       "step,loss\n5,\n",
                                       "step,loss\n5,0\n6,0\n7,0\n",
                                       "step,loss\n5,inf\n6,nan\n",
                                       "step,loss\n5,-1e300\n6,1e300\n",
                                       "step,loss\n0,1e-30\n1,1e30\n",
                                       "loss\n1\n2\n",
                                       "",
                                       "step\n",
                                       "step,loss\n5,-3\n"};
    ac_rundir *run = make_run("odd", 0);
    char *html;

    (void)state;
    html = page_of("odd");
    has(html, "Nothing is logged yet");
    free(html);
    for (size_t i = 0; i < AC_LEN(logs); i++) {
        temp_write("odd/log.csv", logs[i], strlen(logs[i]));
        html = page_of("odd");
        check_nesting(html);
        lacks(html, "nan");
        lacks(html, "inf ");
        assert_true(strlen(html) < 40000);
        free(html);
    }
    temp_write("odd/log.csv", "step,loss\n1,x\n", 14);
    temp_write("odd/events.jsonl", "{\"kind\":3}\n[]\nrubbish\n{\"step\":\"x\",\"time\":1}\n", 45);
    html = page_of("odd");
    has(notes, "is no number");
    check_nesting(html);
    free(html);
    ac_rundir_close(run);
}

/* ------------------------------------------------------------------------------------------------------------ card */

static void test_card(void **state)
{
    static const char *const figures[][2] = {{"steps", "5,328"}, {"loss | held out", "0.237"}};
    ac_card c = {.name = "emoji-teacher",
                 .summary = "Makes emoji.",
                 .license = "mit",
                 .base = "runs/\"a\"",
                 .data = "7,158 pictures.",
                 .licenses = "- Noto: Apache-2.0",
                 .figure = figures,
                 .n_figures = 2,
                 .config = "[run]\nmethod = diffusion",
                 .grid = "samples.png",
                 .shows = "24 pictures",
                 .prompt = "a \"cat's\" face",
                 .steps = 30,
                 .guidance = 4,
                 .width = 64,
                 .height = 64};
    ac_diag dg = {0};
    char *text;

    (void)state;
    assert_int_equal(ac_card_write(temp_path(""), &c, &dg), 0);
    text = load(temp_path("README.md"));
    has(text, "---\nlibrary_name: diffusers\npipeline_tag: text-to-image\nlicense: \"mit\"\n"
              "base_model: \"runs/\\\"a\\\"\"\ntags: [add-cl]\nadd_cl.steps: 30\nadd_cl.cfg_scale: 4\n---\n");
    assert_ptr_equal(strstr(text, "---\n"), text);
    has(text, "\n# emoji-teacher\n\nMakes emoji.\n\n![24 pictures](samples.png)\n");
    has(text, "add-cl sample -m . -p 'a \"cat'\\''s\" face' --steps 30 --cfg-scale 4 -W 64 -H 64 -o out.png\n");
    has(text, "pipe(\"a \\\"cat's\\\" face\", num_inference_steps=30, guidance_scale=4,\n");
    has(text, "\n## Data\n\n7,158 pictures.\n");
    has(text, "| loss \\| held out | 0.237 |\n");
    has(text, "````ini\n[run]\nmethod = diffusion\n````\n");
    has(text, "\n## Licences\n\n- Noto: Apache-2.0\n");
    free(text);

    c = (ac_card){.name = "vae"};
    assert_int_equal(ac_card_write(temp_path(""), &c, &dg), 0);
    text = load(temp_path("README.md"));
    lacks(text, "##");
    lacks(text, "add_cl");
    free(text);
    assert_int_equal(ac_card_write(temp_path("nowhere"), &c, &dg), ADDCL_E_IO);
}

static void test_no_memory(void **state)
{
    static const ac_card card = {.name = "m", .prompt = "p", .config = "c", .data = "d"};
    bool done = false;

    (void)state;
    ac_rundir_close(make_run("memory", 60));
    for (unsigned long i = 1; !done; i++) {
        ac_diag dg = {0};
        ac_alloc_fail_at(i);
        done = ac_report_write(temp_path("memory"), &report, &dg) == 0 &&
               ac_card_write(temp_path("memory"), &card, &dg) == 0;
        done = ac_alloc_fail_at(0) < i && done;
        assert_true(done || dg.code == ADDCL_E_NOMEM || dg.code == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grid),      cmocka_unit_test(test_report),   cmocka_unit_test(test_self_contained),
        cmocka_unit_test(test_sheets),    cmocka_unit_test(test_odd_logs), cmocka_unit_test(test_card),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("report", tests, temp_setup, temp_teardown);
}
