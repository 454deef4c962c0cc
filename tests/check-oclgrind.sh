#!/bin/sh
# check-oclgrind.sh - the smallest cases of every kernel in Oclgrind, which reports reads and writes out of bounds,
# races, barriers in divergent code and wrong API calls. Run in the build folder.
# Oclgrind exits 0 whatever it finds: the gate is an empty log, and a canary whose bad kernel must appear in its own.

. "$(dirname "$0")/env.sh"

if ! command -v oclgrind >/dev/null; then
    echo "NOT CHECKED: oclgrind is missing"
    echo "# 0 passed, 1 failed"
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset OCL_ICD_VENDORS ADDCL_DEVICE
ADDCL_TEST_SMALLEST=1
XDG_CACHE_HOME=$work # compiled kernels of an earlier run have no source lines
export ADDCL_TEST_SMALLEST XDG_CACHE_HOME

passed=0 failed=0

# verdict NAME STATUS - counts and says it; STATUS is that of a test.
verdict()
{
    if [ "$2" = 0 ]; then
        passed=$((passed + 1))
        echo "ok - $1"
    else
        failed=$((failed + 1))
        echo "not ok - $1"
    fi
}

# grind LOG PROGRAM - without --uninitialized: that of Oclgrind 21.10 ends at LLVM's "freeze", takes filled buffers for
# unwritten and, without optimisation, reports what was written. t_ops fills every buffer with NaN instead.
grind()
{
    oclgrind --check-api --data-races --max-errors 100000 --log "$1" "$2"
}

grind "$work/canary.log" ./tests/canary
grep -q 'Invalid write of size 4' "$work/canary.log"
verdict "the canary's writes out of bounds are reported" $?

CMOCKA_MESSAGE_OUTPUT=TAP grind "$work/ops.log" ./tests/t_ops >"$work/ops.tap"
verdict "t_ops ends well" $?
grep -v '^ok' "$work/ops.tap"
passed=$((passed + $(grep -c '^ok' "$work/ops.tap")))
failed=$((failed + $(grep '^not ok' "$work/ops.tap" | grep -vc '# SKIP')))
grep -q '^ok' "$work/ops.tap" && [ -e "$work/ops.log" ] && [ ! -s "$work/ops.log" ]
verdict "the log of t_ops is empty" $?
[ ! -s "$work/ops.log" ] || head -n 60 "$work/ops.log"

echo "# $passed passed, $failed failed"
[ "$failed" = 0 ]
