# addcl.m4 - macros of this project's configure.ac.

# ADDCL_PKG(VARIABLE, MODULE, DEBIAN-PACKAGE)
# Looks for a library with pkg-config; ADDCL_PKG_REPORT then names the packages of all that are missing, at once.
AC_DEFUN([ADDCL_PKG], [
PKG_CHECK_MODULES([$1], [$2], [], [AS_VAR_APPEND([addcl_missing], [" $3"])])
])

AC_DEFUN([ADDCL_PKG_REPORT], [
AS_IF([test -n "$addcl_missing"],
      [AC_MSG_ERROR([libraries are missing; on Debian: apt-get install$addcl_missing])])
])

# ADDCL_CFLAGS(VARIABLE, FLAGS)
# Appends to VARIABLE those FLAGS that the compiler accepts.
AC_DEFUN([ADDCL_CFLAGS], [
for addcl_flag in $2; do
    addcl_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS -Werror $addcl_flag"
    AC_MSG_CHECKING([whether $CC accepts $addcl_flag])
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
                      [AC_MSG_RESULT([yes])
                       AS_VAR_APPEND([$1], [" $addcl_flag"])],
                      [AC_MSG_RESULT([no])])
    CFLAGS=$addcl_save_CFLAGS
done
AC_SUBST([$1])
])
