/* loss.c - losses as graphs. */
#include "diff/loss.h"

static unsigned all_axes(ac_graph *g, ac_id x)
{
    return g->rc ? 1 : (1u << ac_shape_of(g, x)->n) - 1;
}

ac_id ac_mean_all(ac_graph *g, ac_id x)
{
    return ac_reshape(g, ac_mean(g, x, all_axes(g, x)), ac_dims(1, 1));
}

ac_id ac_sum_all(ac_graph *g, ac_id x)
{
    return ac_reshape(g, ac_sum(g, x, all_axes(g, x)), ac_dims(1, 1));
}

ac_id ac_loss_mse(ac_graph *g, ac_id a, ac_id b, ac_id weight)
{
    ac_id d = ac_sub(g, a, b), sq = ac_mul(g, d, d);

    if (weight != AC_NONE && g->rc == 0) {
        ac_shape s = {.n = ac_shape_of(g, a)->n, .d = {-1, 1, 1, 1}};
        sq = ac_mul(g, sq, ac_reshape(g, weight, s));
    }
    return ac_mean_all(g, sq);
}

ac_id ac_loss_l1(ac_graph *g, ac_id a, ac_id b)
{
    return ac_mean_all(g, ac_abs(g, ac_sub(g, a, b)));
}

ac_id ac_loss_edge(ac_graph *g, ac_id a, ac_id b)
{
    ac_id d = ac_sub(g, a, b), sum = AC_POISON;

    for (int axis = 1; axis <= 2 && g->rc == 0; axis++) {
        int64_t n = ac_shape_of(g, d)->d[axis];
        ac_id e = ac_sub(g, ac_slice(g, d, axis, 1, n - 1), ac_slice(g, d, axis, 0, n - 1));
        e = ac_mean_all(g, ac_abs(g, e));
        sum = axis == 1 ? e : ac_add(g, sum, e);
    }
    return sum;
}

ac_id ac_loss_kl(ac_graph *g, ac_id mean, ac_id logvar)
{
    ac_id e = ac_add(g, ac_mul(g, mean, mean), ac_sub(g, ac_exp(g, logvar), ac_scale(g, logvar, 1, 1)));
    double batch;

    if (g->rc)
        return AC_POISON;
    batch = (double)ac_shape_of(g, mean)->d[0];
    return ac_scale(g, ac_sum_all(g, e), 0.5 / batch, 0);
}

ac_id ac_unit_rows(ac_graph *g, ac_id x)
{
    return ac_div(g, x, ac_sqrt(g, ac_scale(g, ac_sum(g, ac_mul(g, x, x), 2), 1, 1e-12)));
}

/* mean over rows of -log softmax at the diagonal. Logits are bounded by the scale, so that exp cannot overflow after the largest
 * possible one is taken off: the caller passes logits - scale, all <= 0. */
static ac_id diagonal_cross_entropy(ac_graph *g, ac_id logits, ac_id diagonal, unsigned axis)
{
    ac_id lse = ac_log(g, ac_sum(g, ac_exp(g, logits), axis));
    return ac_sub(g, ac_mean_all(g, lse), ac_mean_all(g, diagonal));
}

ac_id ac_loss_clip(ac_graph *g, ac_id image, ac_id text, ac_id scale)
{
    ac_id a = ac_unit_rows(g, image), b = ac_unit_rows(g, text), cosines, logits, diagonal;

    cosines = ac_matmul(g, a, b, false, true);
    logits = ac_mul(g, ac_scale(g, cosines, 1, -1), scale);
    diagonal = ac_mul(g, ac_scale(g, ac_sum(g, ac_mul(g, a, b), 2), 1, -1), scale);
    return ac_scale(g, ac_add(g, diagonal_cross_entropy(g, logits, diagonal, 2), diagonal_cross_entropy(g, logits, diagonal, 1)), 0.5, 0);
}

ac_id ac_loss_discriminator(ac_graph *g, ac_id real, ac_id made)
{
    ac_id below = ac_mean_all(g, ac_relu(g, ac_scale(g, real, -1, 1)));
    ac_id above = ac_mean_all(g, ac_relu(g, ac_scale(g, made, 1, 1)));

    return ac_scale(g, ac_add(g, below, above), 0.5, 0);
}

ac_id ac_loss_generator(ac_graph *g, ac_id made)
{
    return ac_scale(g, ac_mean_all(g, made), -1, 0);
}

ac_id ac_gradient_alone(ac_graph *g, ac_id x)
{
    return ac_sub(g, x, ac_stop(g, x));
}

double ac_snr_weight_at(ac_snr_weight kind, double gamma, ac_prediction p, double alpha, double sigma)
{
    double a2 = alpha * alpha, s2 = sigma * sigma; /* S = a2 / s2, S + 1 = 1 / s2 */

    if (kind == AC_SNR_NONE)
        return 1;
    if (kind == AC_SNR_CAPPED)
        return AC_MIN(1.0, gamma * s2);
    switch (p) {
    case AC_PREDICT_V:
        return AC_MIN(a2, gamma * s2);
    case AC_PREDICT_EPS:
        return a2 <= gamma * s2 ? 1 : gamma * s2 / a2;
    case AC_PREDICT_SAMPLE:
    default:
        return AC_MIN(a2 / s2, gamma);
    }
}

void ac_target(ac_prediction p, double alpha, double sigma, double *of_x0, double *of_noise)
{
    *of_x0 = p == AC_PREDICT_V ? -sigma : p == AC_PREDICT_SAMPLE ? 1 : 0;
    *of_noise = p == AC_PREDICT_V ? alpha : p == AC_PREDICT_EPS ? 1 : 0;
}
