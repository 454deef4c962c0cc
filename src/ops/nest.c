/* nest.c - dimensions and work-items of kernels that go over y row by row, and what families of ops share. */
#include "ops/nest.h"

#include "ops/ops.h"

void ac_nest_init(ac_nest *t, const ac_shape *y)
{
    *t = (ac_nest){{0}, {{0}}};
    for (int k = 1; k <= AC_DIMS; k++)
        t->d[AC_DIMS - k] = k <= y->n ? y->d[y->n - k] : 1;
}

void ac_nest_operand(ac_nest *t, int k, const ac_shape *x)
{
    int64_t step = 1;

    for (int i = 1; i <= x->n; i++) {
        t->step[k][AC_DIMS - i] = x->d[x->n - i] == 1 ? 0 : step;
        step *= x->d[x->n - i];
    }
}

/* Is a whole turn of dimension b one step of dimension a, for every operand? */
static bool joins(const ac_nest *t, int a, int b)
{
    return t->step[0][a] == t->d[b] * t->step[0][b] && t->step[1][a] == t->d[b] * t->step[1][b];
}

void ac_nest_join(ac_nest *t)
{
    int to = AC_DIMS - 1; /* dimensions behind it are done */

    for (int k = AC_DIMS - 2; k >= 0; k--) {
        if (t->d[k] == 1)
            continue;
        if (t->d[to] > 1 && joins(t, k, to)) {
            t->d[to] *= t->d[k];
            continue;
        }
        to -= t->d[to] > 1;
        t->d[to] = t->d[k];
        for (int i = 0; i < 2; i++)
            t->step[i][to] = t->step[i][k];
    }
    for (int k = 0; k < to; k++)
        t->d[k] = 1;
}

int64_t ac_nest_rows(const ac_nest *t)
{
    return t->d[0] * t->d[1] * t->d[2];
}

void ac_nest_args(const ac_nest *t, int operands, ac_launch *l)
{
    ac_arg_int(l, t->d[1]);
    ac_arg_int(l, t->d[2]);
    for (int i = 0; i < operands; i++)
        for (int k = 0; k < AC_DIMS - 1; k++)
            ac_arg_int(l, t->step[i][k]);
}

void ac_run_grid(const ac_limits *lim, int64_t count, ac_launch *l)
{
    bool cpu = lim->cls == AC_CLASS_CPU;
    int64_t vw = cpu ? lim->vw : 4, span = cpu ? 64 : 1;

    ac_def(l, "VW=%d", (int)vw);
    ac_def(l, "SPAN=%d", (int)span);
    ac_grid1(l, (size_t)AC_CEIL_DIV(count, vw * span), cpu ? 1 : 64);
}

void ac_rows_grid(const ac_limits *lim, int64_t rows, int64_t n, ac_launch *l)
{
    enum { ITEM = 16384 }; /* elements of a work-item on a CPU: launching one costs about as much as 100 of them */
    bool cpu = lim->cls == AC_CLASS_CPU;
    int64_t vw = cpu ? lim->vw : 4, cspan = cpu ? AC_MIN(AC_CEIL_DIV(n, vw) * vw, (int64_t)ITEM) : vw;
    int64_t rspan = cpu ? AC_MAX((int64_t)1, ITEM / cspan) : 1, blocks = AC_CEIL_DIV(n, cspan);

    ac_def(l, "VW=%d", (int)vw);
    ac_arg_int(l, rows);
    ac_arg_int(l, n);
    ac_arg_int(l, blocks);
    ac_arg_int(l, cspan);
    ac_arg_int(l, rspan);
    ac_grid1(l, (size_t)(blocks * AC_CEIL_DIV(rows, rspan)), cpu ? 1 : 64);
}

/* ------------------------------------------------------------------------------------------ shared by families */

int ac_lanes(const ac_limits *lim, int gpu)
{
    return lim->cls == AC_CLASS_CPU ? lim->vw : gpu;
}

double ac_flop_in(const ac_graph *g, const ac_node *n)
{
    return (double)ac_count(ac_shape_of(g, n->in[0]));
}

double ac_flop_out(const ac_graph *g, const ac_node *n)
{
    (void)g;
    return (double)ac_count(&n->shape);
}
