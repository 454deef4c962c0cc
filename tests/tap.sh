#!/bin/sh
# tap.sh PROGRAM [ARGUMENT...] - runs a cmocka program for the test harness, as one TAP stream. cmocka starts a new
# one, with its own plan and numbers, for every group of tests, and writes a skipped case as "not ok 3 # SKIP name",
# which TAP reads as a failure: that becomes "ok 3 - name # SKIP".

CMOCKA_MESSAGE_OUTPUT=TAP
export CMOCKA_MESSAGE_OUTPUT

# fd 3 carries the program's exit status around the pipe, fd 4 is the standard output.
exec 4>&1
status=$({
    { "$@" 3>&- 4>&-; echo $? >&3; } | awk '
        /^1\.\.[0-9]+$/ { planned += substr($0, 4); next }
        /^not ok [0-9]+ # SKIP / { sub(/^not ok [0-9]+ # SKIP /, ""); print "ok " ++n " - " $0 " # SKIP"; next }
        /^(not )?ok [0-9]+/ { sub(/ok [0-9]+/, "ok " ++n) }
        { print; fflush() }
        END { print "1.." planned }' >&4
} 3>&1)
exit "$status"
