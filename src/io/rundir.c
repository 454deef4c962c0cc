/* rundir.c - making, locking and tidying a run folder. */
#include "io/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include "base/file.h"
#include "io/folder.h"

struct ac_rundir {
    char *path;
    int lock; /* the open lock file */
};

static const char *const folders[] = {"", "checkpoints", "samples", "tb"};

/* Who holds the lock, as the lock file tells. */
static int busy(const char *path, int fd, ac_diag *dg)
{
    char who[128];
    ssize_t n = pread(fd, who, sizeof who - 1, 0);

    who[n > 0 ? n : 0] = '\0';
    who[strcspn(who, "\n")] = '\0';
    return ac_fail(dg, ADDCL_E_IO, "the run folder '%s' is in use by %s; two trainings cannot share one", path,
                   *who ? who : "another process");
}

static int write_owner(const ac_rundir *run, const char *path, ac_diag *dg)
{
    char host[64] = "", text[128];
    int n;

    (void)gethostname(host, sizeof host - 1);
    n = snprintf(text, sizeof text, "process %ld on %s\n", (long)getpid(), *host ? host : "this machine");
    if (ftruncate(run->lock, 0) != 0 || pwrite(run->lock, text, (size_t)n, 0) != n)
        return ac_fail(dg, ADDCL_E_IO, "cannot write '%s': %s", path, strerror(errno));
    return 0;
}

/* Sets *held where locks exist. The file stays when the lock is given back: who removes it could remove one
 * that another process has just locked. */
static int take_lock(ac_rundir *run, ac_diag *dg, bool *held)
{
    char *path = ac_path_join(run->path, ".lock");
    int rc = 0;

    if (!path)
        return ac_nomem(dg, strlen(run->path) + 8);
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0)
        rc = ac_fail(dg, ADDCL_E_IO, "cannot open '%s': %s", path, strerror(errno));
    else if (flock(run->lock, LOCK_EX | LOCK_NB) == 0)
        *held = true;
    else if (errno == EWOULDBLOCK)
        rc = busy(run->path, run->lock, dg);
    else
        ac_note(dg, ADDCL_LOG_WARN, "the run folder '%s' cannot be locked (%s): see that no other training uses it",
                run->path, strerror(errno));
    if (*held)
        rc = write_owner(run, path, dg);
    free(path);
    return rc;
}

/* Every folder of the run: made, or put in order. */
static int each_folder(const ac_rundir *run, int (*action)(const char *path, ac_diag *dg), ac_diag *dg)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < AC_LEN(folders); i++) {
        char *path = ac_path_join(run->path, folders[i]);
        rc = path ? action(path, dg) : ac_nomem(dg, strlen(run->path) + 16);
        free(path);
    }
    return rc;
}

int ac_rundir_open(const char *path, ac_diag *dg, ac_rundir **out)
{
    ac_rundir *run = ac_calloc(1, sizeof *run);
    bool held = false;
    int rc;

    *out = NULL;
    if (!run)
        return ac_nomem(dg, sizeof *run);
    run->lock = -1;
    if (!(run->path = ac_strdup(path)))
        AC_TRY(ac_nomem(dg, strlen(path) + 1));
    AC_TRY(each_folder(run, ac_folder_make, dg));
    AC_TRY(take_lock(run, dg, &held));
    if (held)
        AC_TRY(each_folder(run, ac_folder_recover, dg));
    *out = run;
    return 0;
out:
    ac_rundir_close(run);
    return rc;
}

void ac_rundir_close(ac_rundir *run)
{
    if (!run)
        return;
    if (run->lock >= 0)
        close(run->lock);
    free(run->path);
    free(run);
}

const char *ac_rundir_path(const ac_rundir *run)
{
    return run->path;
}
