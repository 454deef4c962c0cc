/* measures.c - the numbers of an evaluation. */
#include "eval/eval.h"

#include <math.h>
#include <stdio.h>

#define MEASURE(name_, head_, factor_, digits_) {#name_, head_, offsetof(addcl_eval_row, name_), factor_, digits_}
const ac_eval_measure ac_eval_measures[AC_MEASURES] = {
    MEASURE(fid, "FID", 1, 2),    MEASURE(kid, "KID x 1000", 1000, 3),        MEASURE(precision, "precision", 1, 3),
    MEASURE(recall, "recall", 1, 3), MEASURE(clip_score, "CLIP score", 1, 4), MEASURE(psnr, "PSNR dB", 1, 2),
    MEASURE(ssim, "SSIM", 1, 4),     MEASURE(kid_deviation, "", 1000, 3), /* in tables beside kid */
};

double *ac_eval_value(addcl_eval_row *r, int k)
{
    return (double *)((char *)r + ac_eval_measures[k].at);
}

json_t *ac_eval_json(addcl_eval_row *r)
{
    json_t *o = json_object();

    for (int k = 0; k < AC_MEASURES; k++)
        json_object_set_new(o, ac_eval_measures[k].name, ac_json_number(*ac_eval_value(r, k)));
    return o;
}

void ac_eval_cell(int k, double value, double spread, char *buf, size_t size)
{
    const ac_eval_measure *m = &ac_eval_measures[k];

    if (isnan(value))
        snprintf(buf, size, "%s", "");
    else if (isnan(spread))
        snprintf(buf, size, "%.*f", m->digits, value * m->factor);
    else
        snprintf(buf, size, "%.*f \302\261 %.*f", m->digits, value * m->factor, m->digits, spread * m->factor);
}
