/* model_support.c - networks of the fixtures as graphs. */
#include "model_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------------------------------------------- files */

bool net_open(net_files *f, const char *dir, const char *part)
{
    char rel[256], *file = NULL;

    memset(f, 0, sizeof *f);
    f->part = part;
    snprintf(rel, sizeof rel, "%s/config.json", dir);
    if (!fixture_path(f->path, sizeof f->path, rel))
        return false;
    if (ac_json_open(f->path, &f->dg, &f->json) != 0)
        fail_msg("%s", f->dg.msg);
    *strrchr(f->path, '/') = '\0';
    if (ac_layout_weights(f->path, &f->dg, &file) != 0 || ac_st_open(file, &f->dg, &f->st) != 0 ||
        ac_layout_detect(f->st, file, part, &f->dg, &f->layout) != 0)
        fail_msg("%s", f->dg.msg);
    free(file);
    return true;
}

void net_close(net_files *f)
{
    ac_layout_free(f->layout);
    ac_st_close(f->st);
    ac_json_close(&f->json);
}

/* ---------------------------------------------------------------------------------------------------- rig */

void rig_begin(rig *r, net_files *f, const ac_st *io, ac_type storage)
{
    memset(r, 0, sizeof *r);
    r->f = f;
    r->io = io;
    r->g = ac_graph_new(&f->dg, storage);
    assert_non_null(r->g);
    r->w = (ac_weights){.layout = f->layout, .part = f->part, .dg = &f->dg};
    r->m = (ac_net){.g = r->g, .w = &r->w};
}

void rig_end(rig *r)
{
    for (size_t i = 0; i < r->feeds.n; i++) {
        free(r->feeds.p[i].f);
        free(r->feeds.p[i].i);
        free(r->feeds.p[i].d);
    }
    free(r->feeds.p);
    free(r->wants.p);
    ac_graph_free(r->g);
    ac_weights_free(&r->w);
}

static const ac_st_tensor *tensor(rig *r, const char *key)
{
    const ac_st_tensor *t = ac_st_find(r->io, key);

    if (!t)
        fail_msg("the fixture has no tensor '%s'", key);
    for (size_t i = 0; r->seen && i < ac_st_count(r->io); i++)
        r->seen[i] |= ac_st_at(r->io, i) == t;
    return t;
}

/* [B,C,P] -> [B,P,C], new memory; [B,P,C] -> [B,C,P] with C and P exchanged. */
static double *exchange(const double *x, int64_t B, int64_t C, int64_t P)
{
    double *y = malloc((size_t)(B * C * P) * sizeof *y);

    assert_non_null(y);
    for (int64_t b = 0; b < B; b++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t p = 0; p < P; p++)
                y[(b * P + p) * C + c] = x[(b * C + c) * P + p];
    return y;
}

/* Takes over `d`. */
static void add_feed(rig *r, const char *name, double *d, size_t n, bool is_int)
{
    rig_feed f = {.n = n, .is_int = is_int, .d = d};

    snprintf(f.name, sizeof f.name, "%s", name);
    f.f = malloc(n * sizeof *f.f);
    f.i = malloc(n * sizeof *f.i);
    assert_true(f.f && f.i);
    for (size_t k = 0; k < n; k++) {
        f.f[k] = (float)d[k];
        f.i[k] = (int32_t)d[k];
    }
    assert_true(AC_PUSH(&r->feeds, f));
}

ac_id rig_input(rig *r, const char *key, bool as_float)
{
    const ac_st_tensor *t = tensor(r, key);
    bool is_int = t->dtype != AC_ST_F32 && !as_float;
    ac_shape s = {.n = t->dims};
    size_t n;
    double *d = fixture_f64(r->io, key, &n);

    assert_in_range(t->dims, 1, AC_DIMS);
    memcpy(s.d, t->dim, (size_t)t->dims * sizeof *s.d);
    if (t->dims == 4) {
        double *image = exchange(d, s.d[0], s.d[1], s.d[2] * s.d[3]);
        free(d);
        d = image;
        s = (ac_shape){4, {t->dim[0], t->dim[2], t->dim[3], t->dim[1]}};
    }
    add_feed(r, key, d, n, is_int);
    return ac_input(r->g, key, is_int ? AC_I32 : AC_F32, s);
}

ac_id rig_input_ints(rig *r, const char *name, ac_shape shape, const int32_t *values)
{
    size_t n = (size_t)ac_count(&shape);
    double *d = malloc(n * sizeof *d);

    assert_non_null(d);
    for (size_t i = 0; i < n; i++)
        d[i] = values[i];
    add_feed(r, name, d, n, true);
    return ac_input(r->g, name, AC_I32, shape);
}

static void expect(rig *r, const char *key, ac_id id, bool image)
{
    rig_want w = {.id = id, .image = image};

    snprintf(w.key, sizeof w.key, "%s", key);
    tensor(r, key);
    ac_set_output(r->g, key, id);
    assert_true(AC_PUSH(&r->wants, w));
}

void rig_expect(rig *r, const char *key, ac_id id)
{
    expect(r, key, id, r->g->rc == 0 && ac_shape_of(r->g, id)->n == 4);
}

void rig_expect_weight(rig *r, const char *key, ac_id id)
{
    expect(r, key, id, false);
}

static void tapped(void *user, ac_graph *g, const char *path, ac_id value)
{
    char key[AC_NAME_MAX];
    rig *r = user;

    (void)g;
    snprintf(key, sizeof key, "act.%s", path);
    if (ac_st_find(r->io, key))
        rig_expect(r, key, value);
}

void rig_tap(rig *r)
{
    r->m.tap = tapped;
    r->m.user = r;
}

/* ---------------------------------------------------------------------------------------------------- runs */

static void check_shape(const rig *r, const rig_want *w)
{
    const ac_st_tensor *t = ac_st_find(r->io, w->key);
    ac_shape s = *ac_shape_of(r->g, w->id), want = {.n = t->dims};
    char a[96], b[96];

    assert_in_range(t->dims, 1, AC_DIMS);
    memcpy(want.d, t->dim, (size_t)t->dims * sizeof *want.d);
    if (w->image)
        s = (ac_shape){4, {s.d[0], s.d[3], s.d[1], s.d[2]}};
    if (!ac_same_shape(&s, &want))
        fail_msg("%s: shape %s, expected %s", w->key, ac_shape_text(&s, a), ac_shape_text(&want, b));
}

double *rig_wanted(const rig *r, const rig_want *w, size_t *n)
{
    const ac_st_tensor *t = ac_st_find(r->io, w->key);
    double *d = fixture_f64(r->io, w->key, n), *image;

    if (!w->image)
        return d;
    image = exchange(d, t->dim[0], t->dim[1], t->dim[2] * t->dim[3]);
    free(d);
    return image;
}

/* Takes over `got`, in the graph's layout. */
static void compare(const rig *r, const rig_want *w, double *got, rig_result *res)
{
    double diff = 0, scale = 0, *want;
    size_t n;

    check_shape(r, w);
    want = rig_wanted(r, w, &n);
    for (size_t i = 0; i < n; i++) {
        double d = fabs(got[i] - want[i]);
        diff = d <= diff ? diff : d; /* keeps NaN */
        scale = fmax(scale, fabs(want[i]));
    }
    diff = scale > 0 ? diff / scale : diff;
    if (!(diff <= res->worst) || !res->compared) {
        res->worst = diff;
        snprintf(res->key, sizeof res->key, "%s", w->key);
    }
    res->compared++;
    free(want);
    free(got);
}

static double *fetch(rig *r, ac_exec *x, const rig_want *w)
{
    size_t n = (size_t)ac_count(ac_shape_of(r->g, w->id));
    float *f = malloc(n * sizeof *f);
    double *d = malloc(n * sizeof *d);

    assert_true(f && d);
    if (ac_fetch(x, w->key, f, n * sizeof *f) != 0)
        fail_msg("%s", r->f->dg.msg);
    for (size_t i = 0; i < n; i++)
        d[i] = (double)f[i];
    free(f);
    return d;
}

static double **device_values(rig *r)
{
    double **v = calloc(r->wants.n + 1, sizeof *v);
    ac_exec *x = NULL;

    assert_non_null(v);
    if (r->g->rc || ac_exec_new(test_device(), r->g, NULL, &x) != 0)
        fail_msg("%s%s", r->f->dg.msg, test_diag()->msg);
    for (size_t i = 0; i < r->feeds.n; i++) {
        const rig_feed *f = &r->feeds.p[i];
        assert_int_equal(ac_feed(x, f->name, f->is_int ? (void *)f->i : (void *)f->f, f->n * 4), 0);
    }
    if (ac_run(x) != 0)
        fail_msg("%s", test_diag()->msg);
    for (size_t i = 0; i < r->wants.n; i++)
        v[i] = fetch(r, x, &r->wants.p[i]);
    ac_exec_free(x);
    return v;
}

static double **reference_values(rig *r)
{
    const double **feeds = calloc(r->feeds.n + 1, sizeof *feeds);
    double **v = calloc(r->g->outputs.n + 1, sizeof *v);

    assert_true(feeds && v);
    for (size_t i = 0; i < r->feeds.n; i++)
        feeds[i] = r->feeds.p[i].d;
    if (ac_ref_run(r->g, feeds, v) != 0)
        fail_msg("%s", r->f->dg.msg);
    free(feeds);
    return v;
}

double **rig_values(rig *r, bool reference)
{
    assert_int_equal(r->g->outputs.n, r->wants.n); /* the reference gives outputs, which are in the order of rig_expect */
    return reference ? reference_values(r) : device_values(r);
}

rig_result rig_run(rig *r, bool reference)
{
    double **v = rig_values(r, reference);
    rig_result res = {0};

    for (size_t i = 0; i < r->wants.n; i++)
        compare(r, &r->wants.p[i], v[i], &res);
    free(v);
    return res;
}

void check_result(const char *what, const rig_result *res, double tol)
{
    print_message("# %s: %d tensors, worst %.2g in %s\n", what, res->compared, res->worst, res->key);
    assert_true(res->compared > 0);
    if (!(res->worst <= tol))
        fail_msg("%s: %s differs by %.3g of its largest value, at most %g", what, res->key, res->worst, tol);
}
