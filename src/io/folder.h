/* folder.h - folders that appear and disappear whole, whatever is killed or unplugged meanwhile.
 *
 * A folder is written under a hidden name beside its final one and renamed when all of it is on the disk. What a killed
 * process leaves behind has a hidden name, by which ac_folder_recover knows what to do with it. */
#ifndef AC_FOLDER_H
#define AC_FOLDER_H

#include "base/mem.h"

/* mkdir -p. */
AC_CHECK_RESULT int ac_folder_make(const char *path, ac_diag *dg);
/* Makes the names in a folder durable: what was made, renamed or removed there. */
AC_CHECK_RESULT int ac_folder_sync(const char *path, ac_diag *dg);

typedef struct ac_folder ac_folder; /* a folder being written */

/* Starts the folder `path`, whose parent must exist. */
AC_CHECK_RESULT int ac_folder_begin(const char *path, ac_diag *dg, ac_folder **out);
/* Where its files are to be written (and synced: ac_file does it). */
const char *ac_folder_temp(const ac_folder *f);
/* Gives it its name; a folder that has it is replaced. Frees f in any case. After a failure the
 * old folder is there, or where only the last sync failed, the new one. */
AC_CHECK_RESULT int ac_folder_commit(ac_folder *f, ac_diag *dg);
/* Gives up and removes what was written. Accepts NULL. */
void ac_folder_abort(ac_folder *f);

/* Removes a folder with all that is in it. It is gone as a whole or still there as a whole. */
AC_CHECK_RESULT int ac_folder_remove(const char *path, ac_diag *dg);

/* Puts in order what killed processes left in `parent`: unfinished folders and files, half removed ones, and one that
 * was about to be replaced, which gets its name back. No other process may be writing there. */
AC_CHECK_RESULT int ac_folder_recover(const char *parent, ac_diag *dg);

#endif
