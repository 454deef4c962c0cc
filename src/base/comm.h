/* comm.h - the processes that work together: those that mpirun started. Only comm.c knows MPI.
 *
 * A process that no mpirun started has no ac_comm: every function takes NULL, which stands for rank 0 of 1. All
 * processes call the same functions in the same order, each from one thread; after a failure only ac_comm_close and
 * ac_comm_abort may follow. Who waits sleeps in between: the cores of a waiting process may be what the others compute
 * on. */
#ifndef AC_COMM_H
#define AC_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

typedef struct ac_comm ac_comm;
typedef struct ac_allsum ac_allsum; /* a sum over all processes that is being made */

/* Meets the other processes; *out stays NULL where there is no mpirun. `dg` gets the messages of all that follows. MPI
 * that the application has initialised is used and left as it is; else MPI can be opened once in the life of a process.
 */
int ac_comm_open(ac_diag *dg, ac_comm **out) AC_CHECK_RESULT;
/* Waits until all have come so far; not after a failure (`orderly` false), when they never might. */
void ac_comm_close(ac_comm *c, bool orderly);
/* Ends all processes, this one included, with an exit status. Returns only for NULL. */
void ac_comm_abort(ac_comm *c, int status);

int ac_comm_rank(const ac_comm *c);
int ac_comm_size(const ac_comm *c);
/* The place among the processes on this machine, and their number. */
void ac_comm_seat(const ac_comm *c, int *seat, int *seats);

/* All get the bytes that `root` has. */
int ac_comm_share(ac_comm *c, int root, void *data, size_t bytes) AC_CHECK_RESULT;
/* Sums over all processes, element by element: bit for bit the same on each. */
int ac_comm_sum(ac_comm *c, double *v, int n) AC_CHECK_RESULT;
/* The same, begun and looked after while other things go on: x may be touched again when ac_allsum_over has set *over,
 * as it also does when it fails; then the sum is gone. Only these calls move the data: look often. */
int ac_allsum_begin(ac_comm *c, float *x, size_t n, ac_allsum **out) AC_CHECK_RESULT;
int ac_allsum_over(ac_allsum *s, bool *over) AC_CHECK_RESULT;
/* A moment of sleep, for loops that look. */
void ac_comm_pause(void);

#endif
