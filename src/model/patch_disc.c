/* patch_disc.c - a discriminator that judges patches of a picture, each by itself (PatchGAN; Isola et al. 2017,
 * appendix 6.1.2). Group normalisation stands where the original has batch normalisation: verdicts do not depend on the
 * rest of the batch, and there are no running statistics to keep. */
#include "model/nets.h"

enum { WIDTH = 64, LEVELS = 3, LEAST = 8, GROUPS = 32 };

/* How often the picture is halved: as long as LEAST pixels are left, but once in any case. */
static int levels_for(int64_t side)
{
    int n = 1;

    while (n < LEVELS && side >> (n + 1) >= LEAST)
        n++;
    return n;
}

ac_id ac_patch_disc(ac_net *m, ac_id image)
{
    static const ac_conv_at half = {2, 1, 1, 1, 1, 0, 0}, same = {1, 1, 1, 1, 1, 0, 0}; /* same: one pixel less */
    static const double slope = 0.2, eps = 1e-5;
    int levels = levels_for(AC_MIN(nn_dim(m, image, 1), nn_dim(m, image, 2)));
    ac_id h = ac_leaky_relu(m->g, nn_conv(m, "conv_in", image, WIDTH, 4, &half), slope);

    for (int i = 1; i <= levels; i++)
        WITH_SCOPE (m, "blocks.%d", i - 1) {
            h = nn_conv(m, "conv", h, WIDTH << i, 4, i < levels ? &half : &same);
            h = ac_leaky_relu(m->g, nn_group_norm(m, "norm", h, GROUPS, eps, AC_ACT_NONE), slope);
        }
    return nn_conv(m, "conv_out", h, 1, 4, &same);
}
