/* file.h - whole files: atomic writing, capped reading, paths. */
#ifndef AC_FILE_H
#define AC_FILE_H

#include "base/mem.h"

typedef struct ac_file ac_file; /* a file being written */

/* Starts writing `path` through a temporary file beside it; a reader sees the old file or the whole new one, never a
 * part. A symbolic link is followed. A target that is no regular file (a pipe, /dev/stdout) is written directly. */
AC_CHECK_RESULT int ac_file_begin(const char *path, ac_diag *dg, ac_file **out);
AC_CHECK_RESULT int ac_file_write(ac_file *f, const void *data, size_t n, ac_diag *dg);
/* fsync, rename onto the target, fsync of the folder. Frees f in any case; on failure the temporary file is removed. */
AC_CHECK_RESULT int ac_file_commit(ac_file *f, ac_diag *dg);
/* Gives up: removes the temporary file, leaves the target as it was. Accepts NULL. */
void ac_file_abort(ac_file *f);
/* An E_IO that names the file and says why, from errno: "cannot <what> '<path>': ...". */
int ac_io_fail(ac_diag *dg, const char *what, const char *path);
/* begin, write, commit in one call. */
AC_CHECK_RESULT int ac_file_save(const char *path, const void *data, size_t n, ac_diag *dg);

/* The text as file `name` of a folder. */
AC_CHECK_RESULT int ac_file_save_text(const char *dir, const char *name, const char *text, ac_diag *dg);

/* The content of a file of at most `max` bytes in new memory (free()), with a NUL behind it that *n does not count. */
AC_CHECK_RESULT int ac_file_read(const char *path, size_t max, ac_diag *dg, char **data, size_t *n);

/* Lines of a text that say anything, without their ends; all owned. */
typedef AC_VEC(char *) ac_lines;
AC_CHECK_RESULT int ac_lines_add(ac_lines *v, const char *line, size_t n, ac_diag *dg);
void ac_lines_free(ac_lines *v);
/* Prompts: the lines of a file of at most 64 MiB. One without any is E_ARG. */
AC_CHECK_RESULT int ac_prompts_read(const char *path, ac_diag *dg, ac_lines *out);

bool ac_exists(const char *path); /* anything that can be reached */
bool ac_is_dir(const char *path);
/* Bytes of `path` up to its last name: "a/b" -> 2, "b" -> 0. */
size_t ac_path_folder(const char *path);
/* "dir/name" in new memory; NULL when memory is short. An empty dir gives name alone. */
char *ac_path_join(const char *dir, const char *name);

#endif
