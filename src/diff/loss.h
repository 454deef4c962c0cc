/* loss.h - losses as graphs. */
#ifndef AC_LOSS_H
#define AC_LOSS_H

#include "diff/schedule.h"
#include "ops/ops.h"

/* Mean and sum of all values [1]; x / |x| of the rows of a matrix. */
ac_id ac_mean_all(ac_graph *g, ac_id x);
ac_id ac_sum_all(ac_graph *g, ac_id x);
ac_id ac_unit_rows(ac_graph *g, ac_id x);
/* mean over the batch of weight[b] times the mean squared difference of sample b; weight [B], AC_NONE: 1. a, b [B,...]. */
ac_id ac_loss_mse(ac_graph *g, ac_id a, ac_id b, ac_id weight);
/* mean |a - b| */
ac_id ac_loss_l1(ac_graph *g, ac_id a, ac_id b);
/* Mean absolute error of the differences between neighbouring pixels, horizontal plus vertical; a, b [B,H,W,C]. */
ac_id ac_loss_edge(ac_graph *g, ac_id a, ac_id b);
/* mean over the batch of 0.5 sum over pixels and channels of (mean^2 + var - 1 - logvar): the divergence of N(mean, var) from
 * N(0, 1) (Kingma and Welling 2014). */
ac_id ac_loss_kl(ac_graph *g, ac_id mean, ac_id logvar);
/* Cross-entropy of image against text and text against image over a batch of pairs (Radford et al. 2021); embeddings [B,D], any
 * length; scale [1] multiplies their cosines. Half the sum of both directions. */
ac_id ac_loss_clip(ac_graph *g, ac_id image, ac_id text, ac_id scale);

/* Between adversaries (hinge loss; Lim and Ye 2017), of a discriminator's verdicts, any shape. The discriminator wants
 * those on real pictures above 1, those on made ones below -1; the mean of both errors. */
ac_id ac_loss_discriminator(ac_graph *g, ac_id real, ac_id made);
/* The generator wants verdicts on made pictures large: minus their mean. */
ac_id ac_loss_generator(ac_graph *g, ac_id made);
/* 0, with the gradient of x. */
ac_id ac_gradient_alone(ac_graph *g, ac_id x);

/* Weight of the squared error of a prediction at time step t. */
typedef enum ac_snr_weight { AC_SNR_NONE, AC_SNR_MIN, AC_SNR_CAPPED } ac_snr_weight;
/* With S = alpha^2 / sigma^2. MIN (Hang et al. 2023, gamma 5): min(S, gamma) for a network that predicts x0, / S for noise, / (S + 1)
 * for v. CAPPED: min(1, gamma / (S + 1)). */
double ac_snr_weight_at(ac_snr_weight kind, double gamma, ac_prediction p, double alpha, double sigma);
/* Coefficients of what the network shall say of x = alpha x0 + sigma n: target = *of_x0 x0 + *of_noise n. */
void ac_target(ac_prediction p, double alpha, double sigma, double *of_x0, double *of_noise);

#endif
