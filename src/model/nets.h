/* nets.h - the networks of latent diffusion models: sizes from configuration files, graphs from named weights.
 *
 * Images and latents are [B,H,W,C], sequences [B,T,C]. Scopes are the checkpoints' module paths. */
#ifndef AC_NETS_H
#define AC_NETS_H

#include "io/json.h"
#include "model/nn.h"

enum { AC_LEVELS = 8 };

/* ---- UNet2DConditionModel */
typedef struct ac_unet_cfg {
    int in_channels, out_channels, sample_size; /* sample_size: native latent height and width */
    int levels, channels[AC_LEVELS], layers;    /* layers: ResNets of a down block; up blocks have one more */
    bool down_attn[AC_LEVELS], up_attn[AC_LEVELS], mid_attn;
    int heads[AC_LEVELS], blocks[AC_LEVELS];    /* attention heads, transformer blocks of a level */
    int context;                                /* width of the text states */
    bool linear;                                /* proj_in, proj_out are linear layers, else 1x1 convolutions */
    int groups;
    double eps;                                 /* of the ResNets' norms */
    bool flip;                                  /* cosines first */
    double shift;
    int time_ids, pooled;                       /* text_time conditioning: width of one id's sinusoid, of the pooled text; 0: none */
} ac_unet_cfg;
AC_CHECK_RESULT int ac_unet_config(ac_json *j, ac_unet_cfg *c);
/* x [B,H,W,in], t [B], ctx [B,T,context], with text_time: pooled [B,P], time_ids [B,6] -> [B,H,W,out]. */
typedef struct ac_unet_in {
    ac_id x, t, ctx, pooled, time_ids;
} ac_unet_in;
ac_id ac_unet(ac_net *m, const ac_unet_cfg *c, const ac_unet_in *in);

/* ---- AutoencoderKL */
typedef struct ac_vae_cfg {
    int in_channels, out_channels, latent, sample_size;
    int levels, channels[AC_LEVELS], layers, groups;
    bool quant, post_quant, mid_attn;
    double scaling, shift; /* z_model = (z - shift) * scaling */
} ac_vae_cfg;
AC_CHECK_RESULT int ac_vae_config(ac_json *j, ac_vae_cfg *c);
/* Image in -1..1 -> moments [B,h,w,2 latent]: mean, log variance (clamped to -30..20). */
ac_id ac_vae_encode(ac_net *m, const ac_vae_cfg *c, ac_id image);
/* z, unscaled -> image, not clamped. */
ac_id ac_vae_decode(ac_net *m, const ac_vae_cfg *c, ac_id z);
int ac_vae_factor(const ac_vae_cfg *c); /* pixels per latent pixel */

/* ---- AutoencoderTiny */
typedef struct ac_taesd_cfg {
    int in_channels, out_channels, latent;
    int levels, enc_blocks[AC_LEVELS], dec_blocks[AC_LEVELS], channels[AC_LEVELS], dec_channels[AC_LEVELS];
    double scaling; /* 1 */
} ac_taesd_cfg;
AC_CHECK_RESULT int ac_taesd_config(ac_json *j, ac_taesd_cfg *c);
ac_id ac_taesd_encode(ac_net *m, const ac_taesd_cfg *c, ac_id image); /* -1..1 -> z */
ac_id ac_taesd_decode(ac_net *m, const ac_taesd_cfg *c, ac_id z);     /* z -> -1..1, not clamped */
int ac_taesd_factor(const ac_taesd_cfg *c);

/* ---- CLIPTextModel, CLIPTextModelWithProjection */
typedef struct ac_clip_cfg {
    int vocab, width, ff, layers, heads, positions;
    int act;        /* AC_ACT_GELU or AC_ACT_QUICK_GELU */
    double eps;
    int eos;        /* 2: pooled at the first largest id; else at the first such id */
    int projection; /* width of the projected pooled output; 0: none */
} ac_clip_cfg;
AC_CHECK_RESULT int ac_clip_config(ac_json *j, ac_clip_cfg *c);
typedef struct ac_clip_out {
    ac_id last;        /* after the final norm [B,T,C] */
    ac_id penultimate; /* output of the last layer but one, no norm */
    ac_id pooled;      /* at `eos` of the normed output, projected if there is a projection: [B,C or projection] */
} ac_clip_out;
/* ids [B,T] i32; eos [B,1] i32: b T + position of the pooled token (ac_clip_eos), AC_NONE: no pooled output. */
ac_clip_out ac_clip_text(ac_net *m, const ac_clip_cfg *c, ac_id ids, ac_id eos);
/* Position of the token that is pooled. */
int ac_clip_eos(const ac_clip_cfg *c, const int32_t *ids, int n);

/* ---- image transformers: Dinov2Model; CLIPVisionModel, CLIPVisionModelWithProjection */
enum { AC_VIT_LAYERS = 64 };
typedef struct ac_vit_cfg {
    bool clip; /* CLIP's image tower; else DINOv2 */
    int width, ff, layers, heads;
    int channels, patch, image_size; /* image_size: what the table of positions is for, height and width in pixels */
    int act;                         /* AC_ACT_GELU or AC_ACT_QUICK_GELU */
    double eps;
    bool gated;     /* DINOv2's SwiGLU in place of the MLP */
    bool qkv_bias;
    int projection; /* width of the projected pooled output; 0: none */
} ac_vit_cfg;
AC_CHECK_RESULT int ac_vit_config(ac_json *j, ac_vit_cfg *c);
typedef struct ac_vit_out {                         /* sequences [B,1+hw,C] begin with the class token */
    ac_id embeddings;                               /* patches and class token, with positions */
    ac_id block[AC_VIT_LAYERS];                     /* what each block gives, no norm */
    ac_id last;                                     /* DINOv2: after the final norm; CLIP: block[layers - 1] */
    ac_id pooled;                                   /* class token after the final norm [B,C] */
    ac_id embeds;                                   /* with a projection: of the pooled output [B,projection] */
} ac_vit_out;
/* Of pixels in 0..1, what the network wants subtracted and divided by: ImageNet's for DINOv2, CLIP's own for CLIP. */
void ac_vit_norm(const ac_vit_cfg *c, double mean[3], double std[3]);
/* image [B,H,W,channels], normalised as the network wants it. H and W need not be image_size: the table of positions is
 * interpolated, and what is left over of whole patches is dropped. */
ac_vit_out ac_vit(ac_net *m, const ac_vit_cfg *c, ac_id image);

/* ---- discriminator of an autoencoder's training. Image of 8x8 pixels or more -> verdicts on patches [B,h,w,1]: large where
 * it looks real. */
ac_id ac_patch_disc(ac_net *m, ac_id image);

/* ---- heads on features: StyleGAN-T's discriminator (Sauer et al. 2023), under the names of its checkpoints. Their weights are
 * in training; every use makes one power iteration of the spectral norms first, and a later use goes on from an earlier one. */
typedef struct ac_spectral {
    ac_var *u, *v;
    ac_id now[2]; /* u and v after the last use */
} ac_spectral;
typedef struct ac_heads {
    int virtual_batch; /* samples that a batch norm takes together; the batch is cut into ceil(B / virtual_batch) equal groups */
    int cmap;          /* width of the projection by a condition; 0: heads are not conditioned */
    AC_VEC(ac_spectral) norms;
} ac_heads;
/* Features [B,T,C], condition [B,D] (AC_NONE without) -> logits [B,T], large where they look real. Twice differentiable. */
ac_id ac_head(ac_net *m, ac_heads *h, ac_id features, ac_id condition);
/* Keeps u and v as the last use has left them: effects. */
void ac_heads_keep(ac_heads *h, ac_graph *g);
void ac_heads_free(ac_heads *h); /* what it owns, not h itself */

#endif
