/* grid.c - sheets of samples. */
#include "io/grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "io/image.h"

#define GAP   4    /* pixels between two pictures; half of that around the sheet */
#define PAPER 0xe9 /* grey of the gaps: seen beside white and black pictures */

/* A picture on a piece of paper; all paper when rgb is NULL. clamp(v / 2 + 0.5) to 8 bits, half to even. */
static addcl_image *make_cell(const float *rgb, int width, int height)
{
    addcl_image *cell = ac_image_new(width + GAP, height + GAP);

    if (!cell)
        return NULL;
    memset(cell->rgb, PAPER, (size_t)cell->width * (size_t)cell->height * 3);
    for (int y = 0; rgb && y < height; y++) {
        uint8_t *row = cell->rgb + ((size_t)(y + GAP / 2) * (size_t)cell->width + GAP / 2) * 3;
        for (int i = 0; i < 3 * width; i++) {
            float v = *rgb++ / 2 + 0.5f;
            row[i] = (uint8_t)lrintf((v > 0 ? (v < 1 ? v : 1) : 0) * 255);
        }
    }
    return cell;
}

int ac_grid_png(const char *path, const float *rgb, size_t n, int width, int height, int columns, ac_diag *dg)
{
    size_t across = columns > 0 ? AC_MIN((size_t)columns, n) : (size_t)ceil(sqrt((double)n));
    size_t cells = across ? AC_CEIL_DIV(n, across) * across : 0, made = 0;
    addcl_image **cell = ac_calloc(cells, sizeof *cell), *sheet = NULL;
    int rc = 0;

    for (; cell && made < cells; made++) {
        const float *picture = made < n ? rgb + made * (size_t)width * (size_t)height * 3 : NULL;
        if (!(cell[made] = make_cell(picture, width, height)))
            break;
    }
    if (!cell || made < cells)
        AC_TRY(ac_nomem(dg, cells * (size_t)width * (size_t)height * 3));
    AC_TRY(ac_image_grid((const addcl_image *const *)cell, cells, (int)across, dg, &sheet));
    rc = ac_image_write_png(path, sheet, NULL, 0, dg);
out:
    for (size_t i = 0; i < made; i++)
        ac_image_free(cell[i]);
    free(cell);
    ac_image_free(sheet);
    return rc;
}
