/* winograd.c - host side of cl/winograd.cl: convolution of stride 1 with 3x3 and 1x9 filters, and its gradients, on CPUs. */
#include "ops/mm.h"
#include "ops/ops.h"
#include "ops/vec.h"

/* ------------------------------------------------------------------------------------------ winograd_pack
 * w [K,C,3,3] -> [panels, 16, C, panel]; [K,C,1,9] -> [panels, 20, C, panel]. at.i: 0 lanes, 1: for the gradient of an
 * input, [panels of C, .., K, panel] */

enum { PK_VW, PK_BACK };

/* Places of a patch, which gives 2 x 2 outputs, or 6 of a line. */
enum { PLACES = 16, LINE_PLACES = 20, LINE_OUTS = 6 };

static int infer_pack(ac_graph *g, ac_node *n)
{
    const ac_shape *w = ac_shape_of(g, n->in[0]);
    int back = n->at.i[PK_BACK], panel = 2 * n->at.i[PK_VW];

    n->shape = (ac_shape){4, {AC_CEIL_DIV(w->d[back], (int64_t)panel), w->d[2] == 1 ? LINE_PLACES : PLACES, w->d[!back], panel}};
    return 1;
}

/* G f G'^T at a place of a filter of 3 x 3. */
static double transformed(const double *f, bool back, bool line, int place)
{
    static const double G[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}},
                        G_line[5][3] = {{0.5, 0, 0}, {-0.5, -0.5, -0.5}, {-1. / 6, 1. / 6, -1. / 6}, {1. / 6, 1. / 3, 2. / 3}, {0, 0, 1}};
    const double *down = G[place / (line ? 5 : 4)], *across = line ? G_line[place % 5] : G[place % 4];
    double sum = 0;

    for (int r = 0; r < 3; r++)
        for (int s = 0; s < 3; s++)
            sum += down[r] * across[s] * f[back ? 8 - 3 * r - s : 3 * r + s];
    return sum;
}

static void ref_pack(const ac_ref *r)
{
    const int64_t *d = r->n->shape.d, *w = r->shape[0]->d;
    bool back = r->n->at.i[PK_BACK];
    double *to = r->out;

    for (int64_t p = 0; p < d[0]; p++)
        for (int place = 0; place < (int)d[1]; place++)
            for (int64_t row = 0; row < d[2]; row++)
                for (int64_t lane = p * d[3]; lane < (p + 1) * d[3]; lane++) {
                    int64_t k = back ? row : lane, c = back ? lane : row;
                    bool is = k < w[0] && c < w[1];
                    *to++ = is ? transformed(r->in[0] + (k * w[1] + c) * 9, back, w[2] == 1, place) : 0;
                }
}

static void setup_pack(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    enum { PACK_N = 16 }; /* as in cl/winograd.cl */
    const ac_node *w = ac_at_node(g, n->in[0]);

    (void)lim;
    ac_def(l, "VW=%d", n->at.i[PK_VW]);
    ac_def(l, "ST=%d", w->type);
    if (n->at.i[PK_BACK])
        ac_def(l, "BACK");
    if (w->shape.d[2] == 1)
        ac_def(l, "LINE");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_int(l, w->shape.d[0]);
    ac_arg_int(l, w->shape.d[1]);
    ac_one_item_grid(l, AC_CEIL_DIV(n->shape.d[2], (int64_t)PACK_N), n->shape.d[0], 1);
}

static const ac_kern kern_pack[] = {{"winograd_pack", "winograd", AC_CLASS_CPU, NULL, NULL, setup_pack}, {0}};
static const ac_case case_pack[] = {{"37x5", AC_SMALL, {{4, {37, 5, 3, 3}}}, {{8, 0}, {0}}, 1e-6},
                                    {"70x24_f16", AC_SMALL, {{4, {70, 24, 3, 3}}}, {{4, 0}, {0}}, 1e-6},
                                    {"back_19x70", AC_SMALL, {{4, {19, 70, 3, 3}}}, {{16, 1}, {0}}, 1e-6},
                                    {"line_40x20", AC_SMALL, {{4, {40, 20, 1, 9}}}, {{8, 0}, {0}}, 1e-6},
                                    {"line_back_19x70", AC_SMALL, {{4, {19, 70, 1, 9}}}, {{16, 1}, {0}}, 1e-6},
                                    {0}};
const ac_op ac_op_winograd_pack = {
    .name = "winograd_pack", .n_in = 1, .typed = 1, .infer = infer_pack, .ref = ref_pack, .kern = kern_pack, .cases = case_pack};

/* ------------------------------------------------------------------------------------------ conv, conv_bx */

static bool is_line(const ac_cv *d)
{
    return d->R == 1;
}

static int64_t places_of(const ac_cv *d)
{
    return is_line(d) ? LINE_PLACES : PLACES;
}

static int64_t patches_of(const ac_cv *d)
{
    int64_t down = is_line(d) ? d->OH : AC_CEIL_DIV(d->OH, 2), across = AC_CEIL_DIV(d->OW, is_line(d) ? LINE_OUTS : 2);

    return d->B * down * across;
}

/* Filters of these sizes, stride 1, and patches at the edges that do not waste what is saved? */
static bool fits(const ac_cv *d)
{
    bool sized = (d->R == 3 && d->S == 3) || (d->R == 1 && d->S == 9 && !d->up_h);

    return sized && d->stride == 1 && d->C >= 8 && d->K >= 8 &&
           4 * places_of(d) * patches_of(d) <= 3 * 9 * (int64_t)d->B * d->OH * d->OW;
}

/* As transformed filters take 16/9 or 20/9 of the memory, and always in f32, they should be few beside the pictures. */
static bool accepts(const ac_cv *d)
{
    enum { MOST = 4 }; /* bytes of filters for each of pictures */
    double pictures = (double)d->B * ((double)d->H * d->W * d->C + (double)d->OH * d->OW * d->K);

    return fits(d) && (double)places_of(d) * d->C * d->K <= MOST * pictures;
}

static void prep(const ac_limits *lim, ac_graph *g, ac_node *n, bool back)
{
    ac_at at = {.i = {[PK_VW] = lim->vw, [PK_BACK] = back}};

    n->in[1] = ac_add_node(g, &ac_op_winograd_pack, &n->in[1], 1, &at);
    ac_vec_zeros(g, n);
}

/* Register tiles below one another, panels beside one another, and channels at a time, of a work-item. */
typedef struct block {
    int64_t run, group, depth;
} block;

/* As large as fits the kernel's arrays, as long as every compute unit has several work-items; even shares. */
static block block_of(const ac_limits *lim, int64_t places, int64_t tiles, int64_t panels, int64_t C)
{
    enum { MOST_V = 16 * 44 * 64, MOST_T = 16 * 12, DEPTH = 128, RUN = 4 }; /* as in cl/winograd.cl */
    int64_t rows = ac_vec_rows(lim), items = (int64_t)lim->units * AC_ITEMS_PER_UNIT, vw = lim->vw;
    block b = {.depth = AC_CEIL_DIV(C, AC_CEIL_DIV(C, (int64_t)DEPTH))};

    b.depth = AC_CEIL_DIV(b.depth, vw) * vw;
    b.run = AC_MIN((int64_t)RUN, MOST_V / (places * rows * b.depth));
    while (b.run > 1 && AC_CEIL_DIV(tiles, b.run) < items)
        b.run--;
    b.group = AC_MIN(panels, MOST_T / (places * b.run));
    while (b.group > 1 && AC_CEIL_DIV(tiles, b.run) * AC_CEIL_DIV(panels, b.group) < items)
        b.group--;
    b.group = AC_CEIL_DIV(panels, AC_CEIL_DIV(panels, b.group));
    return b;
}

static void geometry_args(const ac_cv *d, ac_launch *l)
{
    const int size[] = {d->B, d->H, d->W, d->C, d->K, d->OH, d->OW, d->top, d->left};

    for (size_t i = 0; i < AC_LEN(size); i++)
        ac_arg_int(l, size[i]);
}

static void setup(const ac_limits *lim, const ac_node *n, const ac_cv *d, ac_launch *l)
{
    int64_t tiles = AC_CEIL_DIV(patches_of(d), (int64_t)ac_vec_rows(lim)), panels = AC_CEIL_DIV(d->K, ac_vec_panel(lim));
    block b = block_of(lim, places_of(d), tiles, panels, d->C);

    ac_vec_epilogue_defs(lim, n, l);
    if (d->up_h)
        ac_def(l, "UPSAMPLE");
    if (is_line(d))
        ac_def(l, "LINE");
    ac_arg_buf(l, -1);
    ac_arg_buf(l, 0);
    ac_arg_buf(l, 1);
    ac_arg_buf(l, AC_VEC_ZEROS);
    ac_vec_epilogue_args(n, l);
    geometry_args(d, l);
    if (d->up_h) {
        ac_arg_int(l, d->up_h);
        ac_arg_int(l, d->up_w);
    }
    ac_arg_int(l, b.run);
    ac_arg_int(l, b.group);
    ac_arg_int(l, b.depth);
    ac_one_item_grid(l, AC_CEIL_DIV(panels, b.group), AC_CEIL_DIV(tiles, b.run), 1);
}

bool ac_conv_winograd_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    ac_cv d;

    (void)lim;
    ac_conv_dims(g, n, &d);
    return accepts(&d);
}

void ac_conv_winograd_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    prep(lim, g, n, false);
}

void ac_conv_winograd_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_cv d;

    ac_conv_dims(g, n, &d);
    setup(lim, n, &d, l);
}

bool ac_conv_bx_winograd_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    ac_cv d;

    (void)lim;
    return ac_conv_bx_as_conv(g, n, &d) == 0 && accepts(&d);
}

void ac_conv_bx_winograd_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    prep(lim, g, n, true);
}

void ac_conv_bx_winograd_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    ac_cv d;

    ac_conv_bx_as_conv(g, n, &d);
    setup(lim, n, &d, l);
}

/* ------------------------------------------------------------------------------------------ conv_bw */

bool ac_conv_bw_winograd_accepts(const ac_limits *lim, const ac_graph *g, const ac_node *n)
{
    ac_cv d;

    ac_conv_bw_dims(g, n, &d);
    return fits(&d) && 2 * d.C > ac_vec_panel(lim) && ac_conv_bw_parts(n) == 1 && !ac_conv_bw_in_parts(lim, n);
}

void ac_conv_bw_winograd_prep(const ac_limits *lim, ac_graph *g, ac_node *n)
{
    (void)lim;
    ac_vec_zeros(g, n);
}

/* Rounds of work-items on all compute units, times about what one takes for a patch, in multiplications of vectors. */
static double time_of(const ac_limits *lim, int64_t places, int64_t tiles, int64_t panels, int64_t high, int64_t wide)
{
    enum { PATCH = 80, GRADIENT = 60 }; /* transforms of a vector of channels */
    int64_t rows = ac_vec_rows(lim), items = AC_CEIL_DIV(tiles, high) * AC_CEIL_DIV(panels, wide);

    return (double)AC_CEIL_DIV(items, (int64_t)lim->units) *
           (double)(high * wide * places * 2 * rows + wide * 2 * PATCH + AC_CEIL_DIV(high * rows, (int64_t)lim->vw) * GRADIENT);
}

void ac_conv_bw_winograd_setup(const ac_limits *lim, const ac_graph *g, const ac_node *n, ac_launch *l)
{
    enum { MOST_X = 16 * 48 * 64, MOST_G = 16 * 48 * 80, MOST_S = 16 * 12, TERMS = 48 }; /* as in cl/winograd.cl */
    int64_t rows = ac_vec_rows(lim), panel = ac_vec_panel(lim), high = 1, wide = 1, tiles, panels, pitch, terms, places, most;
    ac_cv d;

    ac_conv_bw_dims(g, n, &d);
    places = places_of(&d);
    most = MOST_S / places;
    tiles = AC_CEIL_DIV(d.K, rows);
    panels = AC_CEIL_DIV(d.C, panel);
    for (int64_t i = 1; i <= AC_MIN(tiles, most); i++)
        for (int64_t j = 1; j <= AC_MIN(panels, most / i) && j <= 2; j++)
            if (time_of(lim, places, tiles, panels, i, j) < time_of(lim, places, tiles, panels, high, wide)) {
                high = i;
                wide = j;
            }
    pitch = AC_CEIL_DIV(rows * high, (int64_t)lim->vw) * lim->vw;
    terms = AC_MIN(AC_MIN(MOST_X / (places * panel * wide), MOST_G / (places * pitch)), (int64_t)TERMS);
    ac_def(l, "VW=%d", lim->vw);
    ac_def(l, "ROWS=%d", (int)rows);
    if (is_line(&d))
        ac_def(l, "LINE");
    for (int k = -1; k < 2; k++)
        ac_arg_buf(l, k);
    ac_arg_buf(l, AC_VEC_ZEROS);
    geometry_args(&d, l);
    ac_arg_int(l, high);
    ac_arg_int(l, wide);
    ac_arg_int(l, terms);
    ac_one_item_grid(l, AC_CEIL_DIV(panels, wide), AC_CEIL_DIV(tiles, high), 1);
}
