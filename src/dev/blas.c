/* blas.c - GEMM by CLBlast, where the build has it. */
#include "dev/cl_internal.h"

#ifdef HAVE_CLBLAST
#include <clblast_c.h>

bool ac_blas_available(void)
{
    return true;
}

int ac_blas_run(ac_dev *dev, const ac_gemm *g, ac_buf *c, ac_buf *const *in, double *seconds)
{
    cl_event ev = NULL;
    int rc = 0;
    CLBlastStatusCode s = CLBlastSgemm(CLBlastLayoutRowMajor, g->ta ? CLBlastTransposeYes : CLBlastTransposeNo,
                                       g->tb ? CLBlastTransposeYes : CLBlastTransposeNo, g->m, g->n, g->k, 1.0f, in[0]->mem, 0,
                                       g->lda, in[1]->mem, 0, g->ldb, 0.0f, c->mem, 0, g->ldc, &dev->queue, &ev);

    if (s != CLBlastSuccess)
        return ac_fail(dev->dg, ADDCL_E_CL, "CLBlast failed with status %d on %s for a %zux%zux%zu product", (int)s, dev->info.name, g->m,
                       g->n, g->k);
    if (seconds) {
        CL_TRY(dev, clWaitForEvents(1, &ev), "clWaitForEvents");
        *seconds = ac_event_seconds(ev);
    }
out:
    if (ev)
        clReleaseEvent(ev);
    return rc;
}
#else
bool ac_blas_available(void)
{
    return false;
}

int ac_blas_run(ac_dev *dev, const ac_gemm *g, ac_buf *c, ac_buf *const *in, double *seconds)
{
    (void)g, (void)c, (void)in, (void)seconds;
    return ac_fail(dev->dg, ADDCL_E_INTERNAL, "add-cl was built without CLBlast");
}
#endif
