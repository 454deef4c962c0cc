/* t_lora_merge.c - LoRA files merged into a model when its graph is made ready: merged weights, text states and UNet
 * outputs of the fixture for every file and scale in it. */
#include "model_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOL 1e-5 /* the fixtures' allowance for float32 */

/* The base model, the fixture's values, and one LoRA file at one scale on it. */
typedef struct merge {
    net_files unet, text;
    ac_st *io;
    bool *seen;
    char prefix[64]; /* of the keys: "<file>.<scale>." */
    const ac_lora *lora;
    double weight;
} merge;

static bool merge_open(merge *m)
{
    memset(m, 0, sizeof *m);
    if (!net_open(&m->unet, "lora/unet", "unet"))
        return false;
    assert_true(net_open(&m->text, "lora/text_encoder", "text_encoder"));
    m->io = fixture_open("lora/io.safetensors");
    m->seen = calloc(ac_st_count(m->io), sizeof *m->seen);
    assert_non_null(m->seen);
    return true;
}

static void merge_close(merge *m)
{
    free(m->seen);
    ac_st_close(m->io);
    net_close(&m->unet);
    net_close(&m->text);
}

static ac_lora *lora_open(merge *m, const char *file)
{
    net_files *f[] = {&m->unet, &m->text};
    const char **names[2];
    ac_lora_base base[2];
    char path[4096], rel[96];
    ac_diag dg = {0};
    ac_lora *lora;

    for (size_t i = 0; i < 2; i++) {
        names[i] = malloc(f[i]->layout->n * sizeof *names[i]);
        assert_non_null(names[i]);
        for (size_t k = 0; k < f[i]->layout->n; k++)
            names[i][k] = f[i]->layout->src[k].name;
        base[i] = (ac_lora_base){f[i]->part, names[i], f[i]->layout->n};
    }
    snprintf(rel, sizeof rel, "lora/%s.safetensors", file);
    assert_true(fixture_path(path, sizeof path, rel));
    if (ac_lora_open(path, base, 2, &dg, &lora) != 0)
        fail_msg("%s", dg.msg);
    free(names[0]);
    free(names[1]);
    return lora;
}

/* A graph of one of the networks with the LoRA on it. */
static void begin(const merge *m, rig *r, net_files *f, ac_type storage)
{
    rig_begin(r, f, m->io, storage);
    r->seen = m->seen;
    r->w.loras = &m->lora;
    r->w.lora_weights = &m->weight;
    r->w.n_loras = 1;
}

static void end(rig *r, const char *what, double tol)
{
    rig_result res = rig_run(r, false);

    check_result(what, &res, tol);
    rig_end(r);
}

static const char *key_of(const merge *m, char buf[AC_NAME_MAX], const char *name)
{
    snprintf(buf, AC_NAME_MAX, "%s%s", m->prefix, name);
    return buf;
}

static void check_text(merge *m, double tol, ac_type storage)
{
    char key[AC_NAME_MAX];
    ac_clip_cfg c;
    rig r;

    if (ac_clip_config(&m->text.json, &c) != 0)
        fail_msg("%s", m->text.dg.msg);
    begin(m, &r, &m->text, storage);
    rig_expect(&r, key_of(m, key, "hidden"), ac_clip_text(&r.m, &c, rig_input(&r, "ids", false), AC_NONE).last);
    end(&r, key, tol);
}

/* The UNet attends to the fixture's states, so that its error is its own. */
static void check_unet(merge *m, double tol, ac_type storage)
{
    char key[AC_NAME_MAX];
    ac_unet_cfg c;
    ac_unet_in in;
    rig r;

    if (ac_unet_config(&m->unet.json, &c) != 0)
        fail_msg("%s", m->unet.dg.msg);
    begin(m, &r, &m->unet, storage);
    in = (ac_unet_in){.x = rig_input(&r, "sample", true),
                      .t = rig_input(&r, "timestep", true),
                      .ctx = rig_input(&r, key_of(m, key, "hidden"), true)};
    rig_expect(&r, key_of(m, key, "out"), ac_unet(&r.m, &c, &in));
    end(&r, key, tol);
}

/* "<prefix>merged.<parameter>": the weight itself. */
static void check_merged(merge *m, const char *key)
{
    const char *name = key + strlen(m->prefix) + strlen("merged.");
    bool text = ac_layout_find(m->text.layout, "text_encoder", name) != NULL;
    const ac_st_tensor *t = ac_st_find(m->io, key);
    ac_id id;
    rig r;

    assert_true(t->dims == 2 || t->dims == 4);
    begin(m, &r, text ? &m->text : &m->unet, AC_F32);
    id = t->dims == 2 ? nn_weight(&r.m, name, 2, (int)t->dim[0], (int)t->dim[1])
                      : nn_weight(&r.m, name, 4, (int)t->dim[0], (int)t->dim[1], (int)t->dim[2], (int)t->dim[3]);
    rig_expect_weight(&r, key, id);
    end(&r, key, TOL);
}

/* Takes a key "<file>.<scale>.out" apart and opens the LoRA file; NULL: another key. */
static ac_lora *open_run(merge *m, const char *key)
{
    const char *dot = strchr(key, '.'), *tail = key + strlen(key) - strlen(".out");
    char file[32];

    if (tail <= key || strcmp(tail, ".out") != 0 || !dot || dot >= tail)
        return NULL;
    snprintf(file, sizeof file, "%.*s", (int)(dot - key), key);
    snprintf(m->prefix, sizeof m->prefix, "%.*s", (int)(tail + 1 - key), key);
    m->weight = strtod(dot + 1, NULL);
    return lora_open(m, file);
}

static void test_fixture(void **state)
{
    int runs = 0;
    merge m;

    (void)state;
    if (!merge_open(&m))
        skip();
    for (size_t i = 0; i < ac_st_count(m.io); i++) {
        ac_lora *lora = open_run(&m, ac_st_at(m.io, i)->name);
        if (!lora)
            continue;
        m.lora = lora;
        check_text(&m, TOL, AC_F32);
        check_unet(&m, TOL, AC_F32);
        for (size_t k = 0; k < ac_st_count(m.io); k++) {
            const char *key = ac_st_at(m.io, k)->name;
            if (strncmp(key, m.prefix, strlen(m.prefix)) == 0 && strncmp(key + strlen(m.prefix), "merged.", 7) == 0)
                check_merged(&m, key);
        }
        ac_lora_close(lora);
        runs++;
    }
    assert_true(runs > 0);
    for (size_t i = 0; i < ac_st_count(m.io); i++)
        if (!m.seen[i])
            fail_msg("nothing was compared with %s", ac_st_at(m.io, i)->name);
    merge_close(&m);
}

/* The first file and scale with an effect; NULL, with a named SKIP, when the fixture is missing. */
static ac_lora *open_first(merge *m)
{
    ac_lora *lora;

    if (!merge_open(m))
        return NULL;
    for (size_t i = 0; i < ac_st_count(m->io); i++) {
        if (!(lora = open_run(m, ac_st_at(m->io, i)->name)))
            continue;
        if (m->weight > 0)
            return lora;
        ac_lora_close(lora);
    }
    fail_msg("the fixture has no scale above 0");
    return NULL;
}

/* Merged in f32, then stored as f16: no worse than f16 storage of a model without LoRA (t_model). */
static void test_half_storage(void **state)
{
    merge m;
    ac_lora *lora = open_first(&m);

    (void)state;
    if (!lora)
        skip();
    m.lora = lora;
    check_text(&m, 4e-3, AC_F16);
    check_unet(&m, 4e-3, AC_F16);
    ac_lora_close(lora);
    merge_close(&m);
}

/* One file twice at half the weight each is the file once. */
static void test_two_files(void **state)
{
    merge m;
    ac_lora *lora = open_first(&m);
    const ac_lora *both[] = {lora, lora};
    double halves[] = {m.weight / 2, m.weight / 2};
    char key[AC_NAME_MAX];
    ac_clip_cfg c;
    rig r;

    (void)state;
    if (!lora)
        skip();
    assert_int_equal(ac_clip_config(&m.text.json, &c), 0);
    begin(&m, &r, &m.text, AC_F32);
    r.w.loras = both;
    r.w.lora_weights = halves;
    r.w.n_loras = 2;
    rig_expect(&r, key_of(&m, key, "hidden"), ac_clip_text(&r.m, &c, rig_input(&r, "ids", false), AC_NONE).last);
    end(&r, "two halves", TOL);
    ac_lora_close(lora);
    merge_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixture),
        cmocka_unit_test(test_half_storage),
        cmocka_unit_test(test_two_files),
    };
    return cmocka_run_group_tests_name("lora merge", tests, device_setup, device_teardown);
}
