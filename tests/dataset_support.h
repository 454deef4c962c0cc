/* dataset_support.h - what the tests of data sets share. */
#ifndef AC_DATASET_SUPPORT_H
#define AC_DATASET_SUPPORT_H

#include "image_support.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "io/dataset.h"

/* The options of most tests: the one source temp_path(name), pictures of 8 x 8. Good until the next call. */
static inline ac_data_opts plain_opts(const char *name)
{
    static char path[2048];
    static const char *const source[] = {path};
    ac_data_opts o = AC_DATA_OPTS_INIT;

    snprintf(path, sizeof path, "%s", temp_path(name));
    o.source = source;
    o.n_source = 1;
    o.resolution = 8;
    o.seed = 7;
    return o;
}

static inline ac_data *open_good(const ac_data_opts *o)
{
    ac_diag dg = {0};
    ac_data *d = NULL;

    if (ac_data_open(o, &dg, &d) != 0)
        fail_msg("%s", dg.msg);
    return d;
}

/* Opening fails with `code` and a message that holds `says`. */
static inline void refuse_data(const ac_data_opts *o, int code, const char *says)
{
    ac_diag dg = {0};
    ac_data *d = (ac_data *)&dg;
    int rc = ac_data_open(o, &dg, &d);

    assert_null(d);
    if (rc != code || !strstr(dg.msg, says))
        fail_msg("%d, '%s', expected %d and something of '%s'", rc, dg.msg, code, says);
}

static inline void make_folder(const char *name)
{
    assert_int_equal(mkdir(temp_path(name), 0777), 0);
}

static inline void write_text(const char *name, const char *text)
{
    temp_write(name, text, strlen(text));
}

/* A picture of noise. */
static inline void write_picture(const char *name, int w, int h, uint32_t seed)
{
    addcl_image *im = noise_image(w, h, seed);

    write_good(temp_path(name), im, NULL, 0);
    ac_image_free(im);
}

/* A folder of n pictures 0.png, 1.png, ... and its metadata.jsonl, the text "picture <i>", the kind "odd" or "even". */
static inline void write_set(const char *folder, int n)
{
    ac_str lines = {0};
    char name[256];

    make_folder(folder);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s/%d.png", folder, i);
        write_picture(name, 8, 8, (uint32_t)i + 1);
        ac_str_addf(&lines, "{\"file_name\": \"%d.png\", \"text\": \"picture %d\", \"kind\": \"%s\", \"label\": %d}\n",
                    i, i, i % 2 ? "odd" : "even", i);
    }
    snprintf(name, sizeof name, "%s/metadata.jsonl", folder);
    temp_write(name, lines.p, lines.n);
    ac_str_free(&lines);
}

/* The caption of a sample, good until the next call. */
static inline const char *caption_of(ac_data *d, uint32_t index, uint64_t epoch)
{
    static char text[512];
    ac_diag dg = {0};
    ac_sample s;

    if (ac_data_fetch(d, index, epoch, &dg, NULL, &s) != 0)
        fail_msg("%s", dg.msg);
    snprintf(text, sizeof text, "%s", s.caption);
    free(s.caption);
    return text;
}

#endif
