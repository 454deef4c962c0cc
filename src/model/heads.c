/* heads.c - discriminator heads on the features of a frozen network (StyleGAN-T; Sauer et al. 2023). All of them is made of
 * primitives, so that the gradient penalty can be differentiated. */
#include "model/nets.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double slope = 0.2, norm_eps = 1e-5, spectral_eps = 1e-12;

/* ------------------------------------------------------------------------------------------ spectral norm */

/* x over its length, a row. */
static ac_id unit(ac_graph *g, ac_id x)
{
    ac_id length = ac_sqrt(g, ac_sum(g, ac_mul(g, x, x), 3));

    return ac_div(g, x, ac_clamp(g, length, spectral_eps, FLT_MAX));
}

static ac_var *vector(ac_net *m, const char *name, int64_t n)
{
    char path[AC_NAME_MAX];
    ac_shape s = ac_dims(1, n);

    snprintf(path, sizeof path, "%s%s%s", m->g->scope, *m->g->scope ? "." : "", name);
    return ac_params_kept(m->w->train, m->g, path, &s);
}

/* That of the open scope, where its last use has left it. NULL: the error is in the graph. */
static ac_spectral *spectral(ac_net *m, ac_heads *h, int64_t rows, int64_t columns)
{
    ac_spectral s = {.u = vector(m, "weight_u", rows), .v = vector(m, "weight_v", columns)};

    if (!s.u || !s.v)
        return NULL;
    for (size_t i = 0; i < h->norms.n; i++)
        if (h->norms.p[i].u == s.u)
            return &h->norms.p[i];
    s.now[0] = ac_reshape(m->g, ac_state(m->g, s.u), ac_dims(2, 1, rows));
    if (AC_PUSH(&h->norms, s))
        return &h->norms.p[h->norms.n - 1];
    m->g->rc = ac_nomem(m->g->dg, sizeof s);
    return NULL;
}

/* Weight [out,in,k] over its largest singular value as one power iteration finds it; u and v are constants. */
static ac_id normed_weight(ac_net *m, ac_heads *h, int64_t out, int64_t in, int k)
{
    ac_graph *g = m->g;
    ac_id w = nn_weight(m, "weight_orig", 3, (int)out, (int)in, k), flat = ac_reshape(g, w, ac_dims(2, out, in * k)), product, sigma;
    ac_spectral *s = spectral(m, h, out, in * k);

    if (!s)
        return AC_POISON;
    s->now[1] = unit(g, ac_matmul(g, s->now[0], ac_stop(g, flat), false, false));
    product = ac_linear(g, s->now[1], flat, AC_NONE, AC_ACT_NONE);
    s->now[0] = unit(g, ac_stop(g, product));
    sigma = ac_sum(g, ac_mul(g, s->now[0], product), 3);
    return ac_div(g, w, ac_reshape(g, sigma, ac_dims(3, 1, 1, 1)));
}

void ac_heads_keep(ac_heads *h, ac_graph *g)
{
    for (size_t i = 0; i < h->norms.n; i++) {
        const ac_spectral *s = &h->norms.p[i];
        ac_store(g, ac_state(g, s->u), ac_reshape(g, s->now[0], s->u->shape));
        ac_store(g, ac_state(g, s->v), ac_reshape(g, s->now[1], s->v->shape));
    }
}

void ac_heads_free(ac_heads *h)
{
    free(h->norms.p);
    memset(h, 0, sizeof *h);
}

/* ------------------------------------------------------------------------------------------ layers */

/* A convolution along the tokens, which follow one another in a circle. */
static ac_id conv(ac_net *m, ac_heads *h, const char *name, ac_id x, int64_t out, int k)
{
    ac_graph *g = m->g;
    int64_t B = nn_dim(m, x, 0), T = nn_dim(m, x, 1), C = nn_last(m, x);
    int side = k / 2;
    ac_id y = AC_POISON;

    if (T < side)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "%lld tokens are too few for a circular filter of %d", (long long)T, k);
    WITH_SCOPE (m, "%s", name) {
        ac_id w = normed_weight(m, h, out, C, k), bias = nn_weight(m, "bias", 1, (int)out);
        if (k == 1) {
            y = ac_linear(g, x, ac_reshape(g, w, ac_dims(2, out, C)), bias, AC_ACT_NONE);
        } else {
            y = ac_concat(g, ac_concat(g, ac_slice(g, x, 1, T - side, side), x, 1), ac_slice(g, x, 1, 0, side), 1);
            y = ac_conv(g, ac_reshape(g, y, ac_dims(4, B, 1, T + 2 * side, C)), ac_reshape(g, w, ac_dims(4, out, C, 1, k)), bias, (ac_conv_at){.stride = 1});
            y = ac_reshape(g, y, ac_dims(3, B, T, out));
        }
    }
    return y;
}

/* Batch norm over the samples of a group and their tokens, without running statistics. */
static ac_id local_norm(ac_net *m, const ac_heads *h, const char *name, ac_id x)
{
    ac_graph *g = m->g;
    int64_t B = nn_dim(m, x, 0), T = nn_dim(m, x, 1), C = nn_last(m, x), groups = AC_CEIL_DIV(B, (int64_t)h->virtual_batch);
    ac_shape whole = ac_dims(3, B, T, C);
    ac_id y = AC_POISON;

    if (B % groups)
        return ac_graph_fail(g, ADDCL_E_SHAPE, "a batch of %lld does not divide into the %lld groups of a batch norm over %d samples", (long long)B,
                             (long long)groups, h->virtual_batch);
    WITH_SCOPE (m, "%s", name) {
        ac_id w = nn_weight(m, "weight", 1, (int)C), b = nn_weight(m, "bias", 1, (int)C), d, variance;
        x = ac_reshape(g, x, ac_dims(3, groups, B / groups * T, C));
        d = ac_sub(g, x, ac_mean(g, x, 2));
        variance = ac_scale(g, ac_mean(g, ac_mul(g, d, d), 2), 1, norm_eps);
        y = ac_reshape(g, ac_mul(g, d, ac_pow(g, variance, -0.5)), whole);
        y = ac_add(g, ac_mul(g, y, w), b);
    }
    return y;
}

static ac_id block(ac_net *m, ac_heads *h, ac_id x, int k)
{
    x = conv(m, h, "0", x, nn_last(m, x), k);
    return ac_leaky_relu(m->g, local_norm(m, h, "1", x), slope);
}

/* ------------------------------------------------------------------------------------------ a head */

/* The condition as factors of the channels: a linear layer of weights near 1, scaled to its width. */
static ac_id projection(ac_net *m, const ac_heads *h, ac_id condition)
{
    ac_graph *g = m->g;
    int64_t D = nn_last(m, condition);
    ac_id y = AC_POISON;

    WITH_SCOPE (m, "cmapper") {
        ac_id w = ac_scale(g, nn_weight(m, "weight", 2, h->cmap, (int)D), 1 / sqrt((double)D), 0);
        y = ac_linear(g, condition, w, nn_weight(m, "bias", 1, h->cmap), AC_ACT_NONE);
    }
    return y;
}

ac_id ac_head(ac_net *m, ac_heads *h, ac_id features, ac_id condition)
{
    ac_graph *g = m->g;
    int64_t B = nn_dim(m, features, 0), T = nn_dim(m, features, 1);
    ac_id x = AC_POISON, y = AC_POISON;

    WITH_SCOPE (m, "main.0")
        x = block(m, h, features, 1);
    WITH_SCOPE (m, "main.1.fn")
        y = block(m, h, x, 9);
    x = ac_scale(g, ac_add(g, x, y), sqrt(0.5), 0);
    x = conv(m, h, "cls", x, h->cmap ? h->cmap : 1, 1);
    if (h->cmap) {
        y = ac_reshape(g, projection(m, h, condition), ac_dims(3, B, 1, h->cmap));
        x = ac_scale(g, ac_sum(g, ac_mul(g, x, y), 4), 1 / sqrt((double)h->cmap), 0);
    }
    return ac_reshape(g, x, ac_dims(2, B, T));
}
