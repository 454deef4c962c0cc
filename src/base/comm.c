/* comm.c - processes that work together, by MPI; built without it, a process is alone. */
#include "base/comm.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

#ifdef HAVE_MPI
#include <mpi.h>

struct ac_comm {
    ac_diag *dg;
    MPI_Comm all; /* of our own: messages of the application stay apart */
    int rank, size, seat, seats;
    bool ours; /* MPI was initialised here */
};

struct ac_allsum {
    ac_comm *c;
    MPI_Request request;
};

static int check(const ac_comm *c, int e, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    if (e == MPI_SUCCESS)
        return 0;
    MPI_Error_string(e, text, &n);
    return ac_fail(c->dg, ADDCL_E_IO, "%s failed on rank %d of %d: %s", what, c->rank, c->size, text);
}

#define MPI_TRY(c, call)                                                                                               \
    do {                                                                                                               \
        rc = check(c, MPI_##call, "MPI_" #call);                                                                       \
        if (rc < 0)                                                                                                    \
            goto out;                                                                                                  \
    } while (0)

/* MPI's own waiting would keep a core busy. */
static int wait_for(ac_comm *c, MPI_Request *request)
{
    int over = 0, rc = 0;

    while (!over) {
        rc = check(c, MPI_Test(request, &over, MPI_STATUS_IGNORE), "MPI_Test");
        if (rc < 0)
            break;
        if (!over)
            ac_comm_pause();
    }
    return rc;
}

/* ------------------------------------------------------------------------------------------ beginning, ending */

/* Did a launcher of MPI programs start this process: Open MPI's mpirun, or one that speaks PMIx or PMI? */
static bool launched(void)
{
    static const char *const marks[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};

    for (size_t i = 0; i < AC_LEN(marks); i++)
        if (getenv(marks[i]))
            return true;
    return false;
}

static int start(ac_comm *c, bool running)
{
    int level, over = 0;

    MPI_Finalized(&over);
    if (over)
        return ac_fail(c->dg, ADDCL_E_ARG, "MPI was ended in this process, and cannot be begun again");
    c->ours = !running;
    /* the other threads of this process never call MPI */
    if (!running && MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
        return ac_fail(c->dg, ADDCL_E_IO, "MPI_Init_thread failed");
    return 0;
}

int ac_comm_open(ac_diag *dg, ac_comm **out)
{
    MPI_Comm here = MPI_COMM_NULL;
    ac_comm *c = NULL;
    int running = 0, rc;

    *out = NULL;
    MPI_Initialized(&running);
    if (!running && !launched())
        return 0;
    if (!(c = ac_calloc(1, sizeof *c)))
        return ac_nomem(dg, sizeof *c);
    c->dg = dg;
    AC_TRY(start(c, running));
    MPI_TRY(c, Comm_dup(MPI_COMM_WORLD, &c->all));
    MPI_TRY(c, Comm_set_errhandler(c->all, MPI_ERRORS_RETURN));
    MPI_TRY(c, Comm_rank(c->all, &c->rank));
    MPI_TRY(c, Comm_size(c->all, &c->size));
    MPI_TRY(c, Comm_split_type(c->all, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &here));
    MPI_TRY(c, Comm_rank(here, &c->seat));
    MPI_TRY(c, Comm_size(here, &c->seats));
    MPI_TRY(c, Comm_free(&here));
    *out = c;
    c = NULL;
out:
    free(c);
    return rc;
}

void ac_comm_close(ac_comm *c, bool orderly)
{
    MPI_Request request;

    if (!c)
        return;
    if (orderly && check(c, MPI_Ibarrier(c->all, &request), "MPI_Ibarrier") == 0 && wait_for(c, &request) == 0) {
        MPI_Comm_free(&c->all);
        if (c->ours)
            MPI_Finalize();
    }
    free(c);
}

void ac_comm_abort(ac_comm *c, int status)
{
    if (c)
        MPI_Abort(c->all, status);
}

int ac_comm_rank(const ac_comm *c)
{
    return c ? c->rank : 0;
}

int ac_comm_size(const ac_comm *c)
{
    return c ? c->size : 1;
}

void ac_comm_seat(const ac_comm *c, int *seat, int *seats)
{
    *seat = c ? c->seat : 0;
    *seats = c ? c->seats : 1;
}

/* ------------------------------------------------------------------------------------------ data */

int ac_comm_share(ac_comm *c, int root, void *data, size_t bytes)
{
    const size_t most = (size_t)1 << 30; /* MPI counts in int */
    MPI_Request request;
    int rc = 0;

    for (size_t done = 0; c && done < bytes; done += most) {
        MPI_TRY(c, Ibcast((char *)data + done, (int)AC_MIN(bytes - done, most), MPI_BYTE, root, c->all, &request));
        AC_TRY(wait_for(c, &request));
    }
out:
    return rc;
}

int ac_comm_sum(ac_comm *c, double *v, int n)
{
    MPI_Request request;
    int rc = 0;

    if (!c)
        return 0;
    MPI_TRY(c, Iallreduce(MPI_IN_PLACE, v, n, MPI_DOUBLE, MPI_SUM, c->all, &request));
    rc = wait_for(c, &request);
out:
    return rc;
}

int ac_allsum_begin(ac_comm *c, float *x, size_t n, ac_allsum **out)
{
    ac_allsum *s;
    int rc;

    *out = NULL;
    if (n > INT_MAX)
        return ac_fail(c->dg, ADDCL_E_UNSUPPORTED, "a sum of %zu values over all ranks: at most %d are possible", n,
                       INT_MAX);
    if (!(s = ac_calloc(1, sizeof *s)))
        return ac_nomem(c->dg, sizeof *s);
    s->c = c;
    MPI_TRY(c, Iallreduce(MPI_IN_PLACE, x, (int)n, MPI_FLOAT, MPI_SUM, c->all, &s->request));
    *out = s;
    s = NULL;
out:
    free(s);
    return rc;
}

int ac_allsum_over(ac_allsum *s, bool *over)
{
    int flag = 0, rc = check(s->c, MPI_Test(&s->request, &flag, MPI_STATUS_IGNORE), "MPI_Test");

    *over = flag || rc < 0;
    if (*over)
        free(s);
    return rc;
}

#else /* without MPI */

int ac_comm_open(ac_diag *dg, ac_comm **out)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");

    *out = NULL;
    return size && atoi(size) > 1 ? ac_fail(dg, ADDCL_E_UNSUPPORTED,
                                            "mpirun started %s processes, but this add-cl was built without MPI: "
                                            "configure it with --with-mpi",
                                            size)
                                  : 0;
}

void ac_comm_close(ac_comm *c, bool orderly)
{
    (void)c, (void)orderly;
}

void ac_comm_abort(ac_comm *c, int status)
{
    (void)c, (void)status;
}

int ac_comm_rank(const ac_comm *c)
{
    (void)c;
    return 0;
}

int ac_comm_size(const ac_comm *c)
{
    (void)c;
    return 1;
}

void ac_comm_seat(const ac_comm *c, int *seat, int *seats)
{
    (void)c;
    *seat = 0;
    *seats = 1;
}

int ac_comm_share(ac_comm *c, int root, void *data, size_t bytes)
{
    (void)c, (void)root, (void)data, (void)bytes;
    return 0;
}

int ac_comm_sum(ac_comm *c, double *v, int n)
{
    (void)c, (void)v, (void)n;
    return 0;
}

int ac_allsum_begin(ac_comm *c, float *x, size_t n, ac_allsum **out)
{
    (void)c, (void)x, (void)n;
    *out = NULL;
    return 0;
}

int ac_allsum_over(ac_allsum *s, bool *over)
{
    (void)s;
    *over = true;
    return 0;
}

#endif

void ac_comm_pause(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}
