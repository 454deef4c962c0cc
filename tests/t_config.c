/* t_config.c - the configuration of training runs. */
#include "support.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "diff/train_keys.h"
#include "io/ini.h"

/* ----------------------------------------------------------------------------------------------- the table */

static void test_table(void **state)
{
    char expected[160];

    (void)state;
    for (size_t i = 0; i < ac_n_keys; i++) {
        const ac_key *k = &ac_keys[i];
        bool section = false;
        for (size_t j = 0; j < ac_n_key_sections; j++)
            section |= strcmp(ac_key_sections[j][0], k->section) == 0;
        for (size_t j = 0; j < i; j++)
            if ((strcmp(ac_keys[j].name, k->name) == 0 && strcmp(ac_keys[j].section, k->section) == 0) || ac_keys[j].at == k->at)
                fail_msg("%s stands in the table twice", k->name);
        if (!section || !k->meaning || strlen(k->name) > AC_INI_NAME)
            fail_msg("%s: section, meaning or name", k->name);
        if (!k->fallback && k->methods)
            fail_msg("%s: what only some methods use needs a default", k->name);
        if ((k->type == AC_KEY_WORD) != (k->words && k->type != AC_KEY_PATH))
            fail_msg("%s: words", k->name);
        for (const char *m = k->methods; m && *m; m += strcspn(m, "|"), m += *m == '|') {
            char method[32];
            snprintf(method, sizeof method, "%.*s", (int)strcspn(m, "|"), m);
            if (ac_key_word(ac_keys[0].words, method) < 0)
                fail_msg("%s: there is no method '%s'", k->name, method);
        }
        ac_key_expects(k, expected, sizeof expected);
        assert_true(strlen(expected) > 3 && strlen(expected) < sizeof expected - 1);
    }
    assert_string_equal(ac_keys[0].name, "method");
}

/* --------------------------------------------------------------------------------------------- configurations */

#define VAE                                                                                                            \
    "[run]\nmethod = vae\noutput_dir = out\n[model]\nconfig = vae\n[data]\ntrain_data_dir = pictures\n" /* 7 lines */

static char notes[4096]; /* of the last load */

static void take_note(void *user, int level, const char *line)
{
    size_t n = strlen(notes);

    (void)user;
    snprintf(notes + n, sizeof notes - n, "%d %s\n", level, line);
}

/* Loads `ini` with up to one override. */
static int load(const char *ini, const char *set, ac_diag *dg, ac_train_cfg **c)
{
    notes[0] = '\0';
    *dg = (ac_diag){.note = take_note};
    return ac_train_config_load(ini, &set, set != NULL, dg, c);
}

static ac_train_cfg *good(const char *ini, const char *set)
{
    ac_diag dg;
    ac_train_cfg *c;

    if (load(ini, set, &dg, &c) < 0)
        fail_msg("%s", dg.msg);
    return c;
}

/* The text makes an error whose message is `message`, where @ is the name of the file. */
static void bad(const char *text, const char *set, const char *message)
{
    const char *path = temp_write("bad.ini", text, strlen(text)), *at = strchr(message, '@');
    char want[2048];
    ac_diag dg;
    ac_train_cfg *c;

    snprintf(want, sizeof want, "%.*s%s%s", at ? (int)(at - message) : 0, message, at ? path : "",
             at ? at + 1 : message);
    assert_int_equal(load(path, set, &dg, &c), ADDCL_E_ARG);
    assert_null(c);
    assert_string_equal(dg.msg, want);
}

static const char *vae_ini(void)
{
    return temp_write("vae.ini", VAE, strlen(VAE));
}

/* Fails where the fields of two configurations differ. */
static void assert_same(const ac_train_cfg *a, const ac_train_cfg *b)
{
    for (size_t i = 0; i < ac_n_keys; i++) {
        const ac_key *k = &ac_keys[i];
        const void *x = (const char *)a + k->at, *y = (const char *)b + k->at;
        const ac_texts *s = x, *t = y;
        const ac_ints *m = x, *n = y;
        const ac_factors *f = x, *g = y;
        bool same = true;
        switch (k->type) {
        case AC_KEY_BOOL:
            same = *(const bool *)x == *(const bool *)y;
            break;
        case AC_KEY_INT:
            same = *(const int64_t *)x == *(const int64_t *)y;
            break;
        case AC_KEY_NUM:
        case AC_KEY_TIME:
            same = !memcmp(x, y, sizeof(double));
            break;
        case AC_KEY_TEXT:
        case AC_KEY_PATH:
            same = !strcmp(*(const char *const *)x, *(const char *const *)y);
            break;
        case AC_KEY_WORD:
            same = *(const unsigned *)x == *(const unsigned *)y;
            break;
        case AC_KEY_INTS:
            same = m->n == n->n && !memcmp(m->p, n->p, m->n * sizeof *m->p);
            break;
        case AC_KEY_PATHS:
            same = s->n == t->n;
            for (size_t j = 0; same && j < s->n; j++)
                same = !strcmp(s->p[j], t->p[j]);
            break;
        case AC_KEY_FACTORS:
            same = f->n == g->n;
            for (size_t j = 0; same && j < f->n; j++)
                same = !strcmp(f->p[j].pattern, g->p[j].pattern) &&
                       !memcmp(&f->p[j].factor, &g->p[j].factor, sizeof(double));
            break;
        }
        if (!same)
            fail_msg("[%s] %s differs", k->section, k->name);
    }
}

/* A configuration's text, read again from another folder, gives the configuration. */
static void assert_round_trip(const ac_train_cfg *c)
{
    ac_diag dg = {0};
    ac_train_cfg *again;
    char *text, *second;
    const char *path;

    assert_int_equal(ac_train_config_text(c, &dg, &text), 0);
    (void)mkdir(temp_path("elsewhere"), 0700); /* may be there from the last time */
    path = temp_write("elsewhere/again.ini", text, strlen(text));
    again = good(path, NULL);
    assert_string_equal(notes, "");
    assert_same(c, again);
    assert_int_equal(ac_train_config_text(again, &dg, &second), 0);
    assert_string_equal(text, second);
    ac_train_config_free(again);
    free(text);
    free(second);
}

static void test_defaults(void **state)
{
    ac_train_cfg *c = good(vae_ini(), NULL);
    char path[512];

    (void)state;
    assert_string_equal(notes, "");
    assert_int_equal(c->run.method, AC_METHOD_VAE);
    assert_int_equal(c->run.seed, 0);
    assert_true(c->run.tensorboard);
    assert_true(c->optimizer.learning_rate == 1e-4);
    assert_int_equal(c->data.background.n, 3);
    assert_int_equal(c->data.background.p[2], 255);
    assert_int_equal(c->data.fit, AC_FIT_CROP);
    assert_int_equal(c->validation.sampler, AC_SAMPLER_OF_MODEL);
    assert_int_equal(c->checkpoint.save_precision, AC_F32);
    assert_int_equal(c->optimizer.lr_groups.n, 0);
    assert_string_equal(c->checkpoint.resume_from_checkpoint, "");
    snprintf(path, sizeof path, "%s/pictures", c->run.base_dir);
    assert_int_equal(c->data.train_data_dir.n, 1);
    assert_string_equal(c->data.train_data_dir.p[0], path);
    assert_round_trip(c);
    ac_train_config_free(c);
    ac_train_config_free(NULL);
}

/* Every key of every method, set to something that is not the default, survives being written and read. */
static void test_round_trip(void **state)
{
    static const char text[] = "[run]\nmethod = diffusion\noutput_dir = out\nseed = 9007199254740993\ndevice = 0:1\n"
                               "max_train_time = 1d2h30m1.5s\ntensorboard = off\n"
                               "[model]\npretrained_model = ../m\nprediction_type = v_prediction\n"
                               "[data]\ntrain_data_dir = a ,/b/{000..012}.tar,  ../c\nrandom_flip = TRUE\n"
                               "background = 0,127 , 255\nfit = pad\nfilter = style=noto, label!=*face*\n"
                               "caption = 3 * {label}, {style} | 5 * {label}, {tags:1-3}, {style}\n"
                               "[optimizer]\nlearning_rate = .1\nadam_epsilon = 1e-30\n"
                               "lr_groups = text_encoder.*:0.1, *bias : 2, a:b:0\nlr_scheduler = cosine\n"
                               "[loss]\nloss_weighting = capped_snr\nsnr_gamma = 6\n"
                               "[checkpoint]\nresume_from_checkpoint = latest\nsave_precision = bf16\n";
    ac_train_cfg *c = good(temp_write("full.ini", text, sizeof text - 1), NULL);

    (void)state;
    assert_true(c->run.seed == 9007199254740993);
    assert_true(c->run.max_train_time == 86400 + 7200 + 1800 + 1.5);
    assert_false(c->run.tensorboard);
    assert_true(c->data.random_flip);
    assert_int_equal(c->model.prediction_type, AC_TRAIN_PREDICT_EPS + AC_PREDICT_V);
    assert_int_equal(c->data.train_data_dir.n, 3);
    assert_string_equal(c->data.train_data_dir.p[1], "/b/{000..012}.tar");
    assert_int_equal(c->data.background.p[1], 127);
    assert_int_equal(c->data.fit, AC_FIT_PAD);
    assert_int_equal(c->optimizer.lr_groups.n, 3);
    assert_string_equal(c->optimizer.lr_groups.p[0].pattern, "text_encoder.*");
    assert_true(c->optimizer.lr_groups.p[0].factor == 0.1);
    assert_string_equal(c->optimizer.lr_groups.p[1].pattern, "*bias");
    assert_string_equal(c->optimizer.lr_groups.p[2].pattern, "a:b");
    assert_int_equal(c->loss.loss_weighting, AC_SNR_CAPPED);
    assert_string_equal(c->checkpoint.resume_from_checkpoint, "latest");
    assert_int_equal(c->checkpoint.save_precision, AC_BF16);
    assert_round_trip(c);
    ac_train_config_free(c);
}

static void test_words(void **state)
{
    static const char *const yes[] = {"yes", "Yes", "TRUE", "true", "on", "1"}, *const no[] = {"no", "False", "OFF",
                                                                                               "0"};
    char set[256];

    (void)state;
    for (size_t i = 0; i < AC_LEN(yes) + AC_LEN(no); i++) {
        bool want = i < AC_LEN(yes);
        snprintf(set, sizeof set, "data.random_flip=%s", want ? yes[i] : no[i - AC_LEN(yes)]);
        ac_train_cfg *c = good(vae_ini(), set);
        assert_int_equal(c->data.random_flip, want);
        ac_train_config_free(c);
    }
    for (size_t i = 0; i < ac_n_keys; i++) { /* every word of every key, in the order of its enum */
        const ac_key *k = &ac_keys[i];
        int n = 0;
        if (k->type != AC_KEY_WORD || strcmp(k->name, "method") == 0)
            continue;
        for (const char *w = k->words; *w; w += strcspn(w, "|"), w += *w == '|', n++) {
            snprintf(set, sizeof set, "%s.%s=%.*s", k->section, k->name, (int)strcspn(w, "|"), w);
            ac_train_cfg *c = good(vae_ini(), set);
            assert_int_equal(*(unsigned *)((char *)c + k->at), n);
            ac_train_config_free(c);
        }
    }
}

/* The words stand in the order of enums that are defined elsewhere. */
static void test_enums(void **state)
{
    const char *words = NULL;

    (void)state;
    for (size_t i = 0; i < ac_n_keys; i++)
        if (strcmp(ac_keys[i].name, "sampler") == 0)
            words = ac_keys[i].words;
    assert_non_null(words);
    for (int i = AC_EULER; i <= AC_DPMPP_2M; i++)
        assert_int_equal(ac_key_word(words, ac_sampler_name((ac_sampler_kind)i)), i);
    assert_int_equal(ac_key_word(words, "model"), AC_SAMPLER_OF_MODEL);
    for (size_t i = 0; i < ac_n_keys; i++) {
        const char *w = ac_keys[i].words;
        if (strcmp(ac_keys[i].name, "save_precision") == 0)
            for (int t = AC_F32; t <= AC_BF16; t++)
                assert_int_equal(ac_key_word(w, ac_type_name((ac_type)t)), t);
        if (strcmp(ac_keys[i].name, "prediction_type") == 0) {
            assert_int_equal(ac_prediction_by_name("epsilon"), ac_key_word(w, "epsilon") - AC_TRAIN_PREDICT_EPS);
            assert_int_equal(ac_prediction_by_name("v_prediction"),
                             ac_key_word(w, "v_prediction") - AC_TRAIN_PREDICT_EPS);
            assert_int_equal(ac_prediction_by_name("sample"), ac_key_word(w, "sample") - AC_TRAIN_PREDICT_EPS);
        }
    }
}

static void test_bad_values(void **state)
{
    static const struct {
        const char *set, *message;
    } cases[] = {
        {"run.seed=x", "[run] seed = x: expected a whole number of at least 0"},
        {"run.seed=", "[run] seed = : expected a whole number of at least 0"},
        {"run.seed=7x", "[run] seed = 7x: expected a whole number of at least 0"},
        {"run.seed=1.5", "[run] seed = 1.5: expected a whole number of at least 0"},
        {"run.seed=0x10", "[run] seed = 0x10: expected a whole number of at least 0"},
        {"run.seed=-1", "[run] seed = -1: out of range; expected a whole number of at least 0"},
        {"run.seed=99999999999999999999",
         "[run] seed = 99999999999999999999: out of range; expected a whole number of at least 0"},
        {"run.max_train_steps=0",
         "[run] max_train_steps = 0: out of range; expected a whole number from 1 to 1000000000"},
        {"run.tensorboard=maybe", "[run] tensorboard = maybe: expected yes or no"},
        {"run.max_train_time=3w", "[run] max_train_time = 3w: expected a time such as 90s, 30m, 8h or 1d12h"},
        {"run.max_train_time=", "[run] max_train_time = : expected a time such as 90s, 30m, 8h or 1d12h"},
        {"run.max_train_time=-1h",
         "[run] max_train_time = -1h: out of range; expected a time such as 90s, 30m, 8h or 1d12h"},
        {"run.method=vaee", "[run] method = vaee: did you mean 'vae'? expected one of vae, diffusion, clip, add, gan, ladd, lcm, progressive, reflow"},
        {"run.method=xyzzy", "[run] method = xyzzy: expected one of vae, diffusion, clip, add, gan, ladd, lcm, progressive, reflow"},
        {"optimizer.learning_rate=nan", "[optimizer] learning_rate = nan: expected a number from 0 to 10"},
        {"optimizer.learning_rate=inf", "[optimizer] learning_rate = inf: expected a number from 0 to 10"},
        {"optimizer.learning_rate=0x1p3", "[optimizer] learning_rate = 0x1p3: expected a number from 0 to 10"},
        {"optimizer.learning_rate=1e-4f", "[optimizer] learning_rate = 1e-4f: expected a number from 0 to 10"},
        {"optimizer.learning_rate=0,1", "[optimizer] learning_rate = 0,1: expected a number from 0 to 10"},
        {"optimizer.learning_rate=1e999", "[optimizer] learning_rate = 1e999: expected a number from 0 to 10"},
        {"optimizer.learning_rate=11", "[optimizer] learning_rate = 11: out of range; expected a number from 0 to 10"},
        {"optimizer.adam_beta2=1", "[optimizer] adam_beta2 = 1: out of range; expected a number from 0 to 0.999999999"},
        {"optimizer.lr_scheduler=cosin",
         "[optimizer] lr_scheduler = cosin: did you mean 'cosine'? expected one of constant, linear, cosine"},
        {"optimizer.lr_groups=x", "[optimizer] lr_groups = x: element 1, 'x': expected pattern:factor with commas "
                                  "between, each factor from 0 to 1000"},
        {"optimizer.lr_groups=x:1,:2", "[optimizer] lr_groups = x:1,:2: element 2, ':2': expected pattern:factor with "
                                       "commas between, each factor from 0 to 1000"},
        {"optimizer.lr_groups=x:-1", "[optimizer] lr_groups = x:-1: element 1, 'x:-1': out of range; expected "
                                     "pattern:factor with commas between, each factor from 0 to 1000"},
        {"data.background=1,,3", "[data] background = 1,,3: element 2, '': expected whole numbers from 0 to 255, with "
                                 "commas between"},
        {"data.background=1,2,256",
         "[data] background = 1,2,256: element 3, '256': out of range; expected whole numbers "
         "from 0 to 255, with commas between"},
        {"data.background=1,2", "[data] background = 1,2: three numbers are expected: red, green, blue"},
        {"data.train_data_dir=a,", "[data] train_data_dir = a,: element 2, '': expected paths with commas between"},
        {"model.pretrained_model=m",
         "[model] config = vae: pretrained_model is given, too: go on from it, or begin from scratch?"},
    };
    char text[512], message[512], key[64];

    (void)state;
    for (size_t i = 0; i < AC_LEN(cases); i++) {
        const char *dot = strchr(cases[i].set, '.'), *equals = strchr(cases[i].set, '=');
        bool exists, from_file = strstr(cases[i].message, "config = vae") != NULL;
        snprintf(message, sizeof message, "%s%s", from_file ? "@:5: " : "--set: ", cases[i].message);
        bad(VAE, cases[i].set, message);
        /* the same in the file */
        snprintf(key, sizeof key, "\n%.*s =", (int)(equals - dot - 1), dot + 1);
        exists = strstr(VAE, key) != NULL || from_file;
        if (exists || strncmp(cases[i].set, "data.", 5) != 0)
            continue;
        snprintf(text, sizeof text, VAE "%.*s = %s\n", (int)(equals - dot - 1), dot + 1, equals + 1);
        snprintf(message, sizeof message, "@:8: %s", cases[i].message);
        bad(text, NULL, message);
    }
}

static void test_unknown(void **state)
{
    (void)state;
    bad(VAE "[run]\n", NULL, "@:8: [run] stands in line 1 already");
    bad(VAE "train_data_dir = b\n", NULL, "@:8: [data] train_data_dir stands in line 7 already");
    bad(VAE "[optimiser]\n", NULL, "@:8: unknown section [optimiser]; did you mean [optimizer]?");
    bad(VAE "[ optimizer ]\n", NULL, "@:8: unknown section [ optimizer ]; did you mean [optimizer]?");
    bad(VAE "[something]\n", NULL, "@:8: unknown section [something]");
    bad(VAE "resolutoin = 64\n", NULL, "@:8: [data] resolutoin: unknown key; did you mean 'resolution'?");
    bad(VAE "RESOLUTION = 64\n", NULL, "@:8: [data] RESOLUTION: unknown key");
    bad(VAE "frobnicate = 64\n", NULL, "@:8: [data] frobnicate: unknown key");
    bad(VAE "learning_rate = 1\n", NULL, "@:8: [data] learning_rate: this key belongs to [optimizer]");
    bad(VAE "x\n", NULL, "@:8: neither [section] nor key = value");
    bad(VAE, "run.sed=3", "--set: [run] sed: unknown key; did you mean 'seed'?");
    bad(VAE, "rn.seed=3", "--set: unknown section [rn]; did you mean [run]?");
    bad(VAE, "seed=3", "--set seed=3: expected section.key=value");
    bad(VAE, "run.seed", "--set run.seed: expected section.key=value");
    bad(VAE, "run.=3", "--set run.=3: expected section.key=value");
    bad(VAE, "", "--set : expected section.key=value");
    bad(VAE, "run.device=a ; b",
        "--set: [run] device: a blank and '#' or ';' in the value: text behind a value is a "
        "comment only after ' ;'");
    bad(VAE, "run.device=a\nseed = 3", "--set: [run] device: a control character in the value");
}

static void test_missing(void **state)
{
    (void)state;
    bad("", NULL,
        "@: [run] method is missing: what is trained: an autoencoder, a text-to-image diffusion model, an image and a text "
        "tower contrastively, or a student of few steps by adversarial diffusion distillation, by adversaries alone, by "
        "those in latents, by consistency, by halving steps, or from pairs of noise and the teacher's pictures");
    bad(VAE, "run.output_dir=",
        "@: [run] output_dir is missing: run folder: log, samples, checkpoints, and in the end "
        "the model");
    bad("[run]\nmethod = vae\noutput_dir = x\n[data]\ntrain_data_dir = x\n", NULL,
        "@: [model] needs a pretrained_model to go on from, or the config of a model to begin from scratch");
    bad("[run]\nmethod = clip\noutput_dir = x\n[data]\ntrain_data_dir = x\n", NULL,
        "@: [model] tokenizer is missing: a run from scratch needs one");
}

static void test_clip(void **state)
{
    static const char text[] = "[run]\nmethod = clip\noutput_dir = x\n[data]\ntrain_data_dir = x\nresolution = 64\n"
                               "[model]\ntokenizer = t\n";
    ac_train_cfg *c = good(temp_write("clip.ini", text, sizeof text - 1), NULL);

    (void)state;
    assert_int_equal(c->model.vit_patch_size, 8);
    assert_round_trip(c);
    ac_train_config_free(c);
    bad(text, "model.vit_patch_size=7",
        "--set: [model] vit_patch_size = 7: pictures of 64 pixels do not split into such "
        "patches");
    bad(text, "data.resolution=60",
        "@: [model] vit_patch_size = 8: pictures of 60 pixels do not split into such patches");
    bad(text, "model.vit_heads=5", "--set: [model] vit_heads = 5: a width of 192 does not split into so many heads");
    bad(text, "model.text_hidden_size=100",
        "@: [model] text_heads = 3: a width of 100 does not split into so many heads");
}

static void test_set(void **state)
{
    static const char *const set[] = {"run.seed=1", " optimizer.learning_rate = 2e-3 ", "run.seed=2",
                                      "data.caption={label} = {style}"};
    ac_diag dg = {.note = take_note};
    ac_train_cfg *c;

    (void)state;
    notes[0] = '\0';
    assert_int_equal(ac_train_config_load(vae_ini(), set, AC_LEN(set), &dg, &c), 0);
    assert_int_equal(c->run.seed, 2);
    assert_true(c->optimizer.learning_rate == 2e-3);
    assert_string_equal(c->data.caption, "{label} = {style}");
    assert_string_equal(notes, "1 --set: [data] caption has no effect with method = vae\n");
    ac_train_config_free(c);
}

/* All from overrides, without a file: paths start from the working directory. */
static void test_no_file(void **state)
{
    static const char *const set[] = {"run.method=vae", "run.output_dir=out", "model.vae=v", "data.train_data_dir=/d"};
    ac_diag dg = {0};
    ac_train_cfg *c;
    char here[4096], path[4200];

    (void)state;
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(ac_train_config_load(NULL, set, AC_LEN(set), &dg, &c), 0);
    snprintf(path, sizeof path, "%s/out", here);
    assert_string_equal(c->run.output_dir, path);
    assert_string_equal(c->data.train_data_dir.p[0], "/d");
    ac_train_config_free(c);
    assert_int_equal(ac_train_config_load(NULL, NULL, 0, &dg, &c), ADDCL_E_ARG);
    assert_non_null(strstr(dg.msg, "--set: [run] method is missing"));
}

static void test_unused_keys(void **state)
{
    static const char text[] = VAE "[loss]\nsnr_gamma = 5\nl1_weight = 2\n[validation]\nguidance_scale = 3\n";
    const char *path = temp_write("unused.ini", text, sizeof text - 1);
    ac_train_cfg *c = good(path, NULL);
    char want[2048];

    (void)state;
    snprintf(want, sizeof want,
             "1 %s:9: [loss] snr_gamma has no effect with method = vae\n"
             "1 %s:12: [validation] guidance_scale has no effect with method = vae\n",
             path, path);
    assert_string_equal(notes, want);
    ac_train_config_free(c);
}

static void test_paths(void **state)
{
    char here[4096], base[512], want[1024], set[512];
    ac_train_cfg *c, *d;

    (void)state;
    assert_non_null(getcwd(here, sizeof here));
    strcpy(base, temp_path("runs-XXXXXX"));
    assert_non_null(mkdtemp(base));
    /* the same file, named from elsewhere */
    c = good(vae_ini(), NULL);
    assert_int_equal(chdir(c->run.base_dir), 0);
    d = good("vae.ini", NULL);
    assert_int_equal(chdir(here), 0);
    assert_same(c, d);
    ac_train_config_free(d);
    /* another folder to start from */
    snprintf(set, sizeof set, "run.base_dir=%s", strrchr(base, '/') + 1);
    d = good(vae_ini(), set);
    snprintf(want, sizeof want, "%s/%s", c->run.base_dir, strrchr(base, '/') + 1);
    assert_string_equal(d->run.base_dir, want);
    strcat(want, "/out");
    assert_string_equal(d->run.output_dir, want);
    assert_round_trip(d);
    ac_train_config_free(d);
    ac_train_config_free(c);
    snprintf(want, sizeof want, "--set: [run] base_dir: there is no folder '%s'", temp_path("nowhere"));
    bad(VAE, "run.base_dir=nowhere", want);
}

/* A folder whose name does not fit a line can be read from, but not written down. */
static void test_long_base(void **state)
{
    char path[1024], set[1100];
    ac_diag dg = {0};
    ac_train_cfg *c;
    char *text;

    (void)state;
    snprintf(path, sizeof path, "%s%0*d", temp_path("long"), 190, 0);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(set, sizeof set, "%s/vae.ini", path);
    FILE *f = fopen(set, "w");
    assert_non_null(f);
    assert_true(fputs(VAE, f) >= 0 && fclose(f) == 0);
    c = good(set, NULL);
    assert_int_equal(ac_train_config_text(c, &dg, &text), ADDCL_E_ARG);
    assert_null(text);
    assert_non_null(strstr(dg.msg, "longer than the 192 bytes that a line may have"));
    ac_train_config_free(c);
}

/* A template is an INI file that says nothing, and has every key of its method. */
static void test_template(void **state)
{
    static const char *const methods[] = {NULL, "vae", "diffusion", "clip", "add", "gan", "ladd", "lcm", "progressive", "reflow"};
    ac_diag dg = {0};
    ac_ini *ini;
    char *text, line[128];

    (void)state;
    for (size_t m = 0; m < AC_LEN(methods); m++) {
        size_t sections = 0, keys = 0, lines = 0;
        const char *last = "";
        assert_int_equal(ac_train_config_template(methods[m], &dg, &text), 0);
        assert_int_equal(ac_ini_parse("template", text, strlen(text), &dg, &ini), 0);
        for (size_t i = 0; i < ac_n_keys; i++)
            if (!methods[m] || !ac_keys[i].methods || ac_key_word(ac_keys[i].methods, methods[m]) >= 0) {
                snprintf(line, sizeof line, "\n#%s =", ac_keys[i].name);
                assert_non_null(strstr(text, line));
                keys++;
                sections += strcmp(last, ac_keys[i].section) != 0;
                last = ac_keys[i].section;
            }
        for (const char *at = text; (at = strstr(at, "\n#")); at++)
            lines += at[2] != ' ' && strcspn(at + 2, "=") < strcspn(at + 2, "\n");
        assert_int_equal(ini->entry.n, sections);
        assert_int_equal(lines, keys);
        ac_ini_free(ini);
        free(text);
    }
    assert_int_equal(ac_train_config_template("gan9", &dg, &text), ADDCL_E_ARG);
}

static void test_locale(void **state)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    ac_train_cfg *c;
    size_t i = 0;

    (void)state;
    while (i < AC_LEN(names) && !setlocale(LC_ALL, names[i]))
        i++;
    if (i == AC_LEN(names))
        skip();
    c = good(vae_ini(), "optimizer.learning_rate=2.5e-1");
    assert_true(c->optimizer.learning_rate == 0.25);
    ac_train_config_free(c);
    setlocale(LC_ALL, "C");
}

/* Each allocation fails once: an error, no crash, no leak. */
static void test_short_memory(void **state)
{
    char path[512];
    unsigned long n = 0;
    int rc;

    (void)state;
    strcpy(path, vae_ini());
    do {
        ac_diag dg = {0};
        ac_train_cfg *c = NULL;
        char *text = NULL;
        const char *set = "optimizer.lr_groups=a:1,b:2";
        ac_alloc_fail_at(++n);
        rc = ac_train_config_load(path, &set, 1, &dg, &c);
        if (rc == 0)
            rc = ac_train_config_text(c, &dg, &text);
        ac_alloc_fail_at(0);
        if (rc < 0)
            assert_true(rc == ADDCL_E_NOMEM && dg.msg[0] && !text);
        ac_train_config_free(c);
        free(text);
    } while (rc < 0);
    assert_true(n > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),       cmocka_unit_test(test_defaults),     cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_words),       cmocka_unit_test(test_enums),        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_unknown),     cmocka_unit_test(test_missing),      cmocka_unit_test(test_clip),
        cmocka_unit_test(test_set),         cmocka_unit_test(test_no_file),      cmocka_unit_test(test_unused_keys),
        cmocka_unit_test(test_paths),       cmocka_unit_test(test_long_base),    cmocka_unit_test(test_template),
        cmocka_unit_test(test_locale),      cmocka_unit_test(test_short_memory),
    };

    return cmocka_run_group_tests_name("config", tests, temp_setup, temp_teardown);
}
