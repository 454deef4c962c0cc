/* add.h - the graph of a step of Adversarial Diffusion Distillation (Sauer et al. 2023), from its networks and inputs.
 *
 * One loss for both players: its gradient by the student is that of L_adv^G + lambda L_distill, its gradient by the heads that
 * of the hinge loss and gamma R1; its value is the student's part. The discriminator sees the pictures of the same step, made
 * before either player moves. */
#ifndef AC_ADD_H
#define AC_ADD_H

#include "diff/schedule.h"
#include "model/nets.h"
#include "train/student.h"

enum { AC_TAPS = 16, AC_TEACHER_STEPS = 8 };

/* What the discriminator sees of a picture: outputs of blocks of a frozen image transformer, the class token added to every
 * patch token and dropped; then, with `embedding`, the sequence after the positions.
 * With `unet` it sees latents instead (latent adversarial diffusion distillation, Sauer et al. 2024): noised, through the teacher, the
 * output of every transformer block. */
typedef struct ac_features {
    ac_net *net;
    const ac_vit_cfg *vit;
    const ac_unet_cfg *unet;
    int tap[AC_TAPS], n_taps; /* blocks, counted from 0 */
    bool embedding;
    int size;            /* height and width that pictures are resized to (area); 0: as they are */
    double mean[3], std[3]; /* of pixels in 0..1 */
    const float *whiten[AC_TAPS + 1]; /* of each head's features: a map's weight [C,C], then its bias [C]; NULL: none */
} ac_features;

/* Transformer blocks of a UNet, which n_taps must be then. */
int ac_unet_taps(const ac_unet_cfg *c);

typedef struct ac_add_nets {
    ac_net *student, *teacher, *decoder, *head;
    const ac_unet_cfg *unet, *teacher_unet;
    const ac_vae_cfg *vae;
    ac_features features;
    ac_heads *heads;
} ac_add_nets;

typedef struct ac_add_opts {
    int B, h, w, side, T;   /* batch; latent; pictures; tokens */
    int text_dim;           /* width of the text embedding that conditions the heads; 0: none */
    bool image_condition;   /* by the class token of the real picture */
    bool decode_real;       /* real pictures are what the decoder makes of their latents */
    bool augment;           /* DiffAugment (Zhao et al. 2020) before the features */
    bool adversarial, distill;
    double adversary_weight; /* of the student's wish to be taken for real */
    double gamma, lambda;
    bool pixels;            /* the distance is that of decoded pictures; else of latents */
    int teacher_steps;      /* at least 1 */
    double guidance;        /* of the teacher; 1: none */
    bool sds;               /* c(t) = alpha sigma / 2 in place of alpha; with nfsd in any case */
    bool nfsd;              /* noise-free score distillation (Katzir et al. 2023) in place of the teacher's picture */
    double nfsd_scale;
} ac_add_opts;

/* The loss [1]. Inputs that the graph has then, f32 unless noted; "a sample's" are [B]:
 *
 *   x_s [B,h,w,C], s             what the student sees; its time step
 *   s.x, s.out                   a sample's: x^ = s.x x_s + s.out student(x_s)
 *   ctx [B,T,D]                  states of the captions; null_ctx, negative_ctx [1,T,D] for guidance and NFSD
 *   pixels [B,side,side,3]       real pictures; text [B,text_dim]
 *   augment.<p>.color [B,3], augment.<p>.place [B,side side] i32   for p in made, fake, real: see ac_diffaug
 *   noise                        eps' of the distillation [B,h,w,C]
 *   t.x0, t.noise                a sample's: x_t = t.x0 x^ + t.noise eps'
 *   t.<k>                        a sample's: time step of the teacher's step k
 *   t.<k>.x, t.<k>.out           a sample's: what follows from x_k and the network's output: x_{k+1}, at the last step x0
 *   eps.x, eps.out               a sample's: eps^ of the teacher = eps.x x_t + eps.out out
 *   c                            a sample's: weight of its distance
 *   c.gradient, c.value          a sample's, in latents with one step or NFSD: weights of the residual eps^ - eps' (NFSD:
 *                                delta_D + s delta_C) in the gradient and of its square in the value, c sigma/alpha and
 *                                c (sigma/alpha)^2 in a form that stays finite
 *   nfsd.negative, nfsd.ratio    a sample's: 1 where delta_D has the negative prompt, else 0; sigma/alpha
 *
 *   x0 [B,h,w,C]                 with decode_real, in place of pixels: real latents
 *   x0, ladd.made, ladd.real     with features of the teacher, in place of pixels: real latents, noises [B,h,w,C]
 *   ladd.t, ladd.x0, ladd.noise  a sample's: time step, and what both latents and noises are multiplied by
 *
 * Outputs: x_hat, and as scalars adv, distill, hinge, r1; real_above, fake_below, shares of logits on the right side; adv_slope,
 * distill_slope, norms of the gradients, weights included, by what the student moves (pictures or latents, see `pixels`);
 * feature_distance of the made pictures' mean features from the real ones', squared and relative. */
ac_id ac_add_loss(ac_graph *g, const ac_add_nets *n, const ac_add_opts *o);

/* What the heads see of the step's real pictures or latents: features [B,T,C], ac_feature_count of them; inputs as of the loss. */
void ac_add_real_features(ac_graph *g, const ac_add_nets *n, const ac_add_opts *o, ac_id out[AC_TAPS + 1]);

/* Those of the inputs that follow from time steps; sample i's, for s of the student and t of the teacher. */
int ac_add_times_open(int B, ac_diag *dg, ac_each *a) AC_CHECK_RESULT;
void ac_add_times_set(ac_each *a, int i, const ac_add_opts *o, const ac_schedule *student, const ac_schedule *teacher, int s, int t);

/* DiffAugment's color, translation and cutout, as drawn: color [B,3] is added to all values (brightness), multiplies the
 * distance from a pixel's mean (saturation), then that from the picture's (contrast); place [B,H W] i32: which pixel of the
 * batch stands where, B H W for black. */
ac_id ac_diffaug(ac_graph *g, ac_id x, ac_id color, ac_id place);
/* Fills color and place of one sample i: a shift of at most an eighth of the picture, and a square of a fifth cut out. */
void ac_diffaug_draw(uint64_t *state, int B, int side, int i, float color[3], int32_t *place);
/* place of one sample for a given shift (rows, columns) and centre of what is cut out. */
void ac_diffaug_place(int B, int side, int i, const int shift[2], const int cutout[2], int32_t *place);

/* Features [B,T,C] of pictures in -1..1, ac_feature_count of them, whitened where there is a map; *token: the class token after the final norm [B,C]. */
void ac_features_of(const ac_features *f, ac_id image, ac_id out[AC_TAPS + 1], ac_id *token);
int ac_feature_count(const ac_features *f);

#endif
