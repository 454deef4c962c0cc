# shell.sh - sourced by tests of the program: counts and prints TAP, in a folder of its own that goes away at the end.
# ADD_CL: the program (./add-cl); SRCDIR: the source tree ($srcdir, else .), whose tests/env.sh names an OpenCL implementation
# and caches. Afterwards both are absolute paths. The test ends with `finish`.

SRCDIR=${SRCDIR:-${srcdir:-.}}
ADD_CL=${ADD_CL:-./add-cl}
case $ADD_CL in
/*) ;;
*) ADD_CL=$PWD/$ADD_CL ;;
esac
if [ -r "$SRCDIR/tests/env.sh" ]; then
    . "$SRCDIR/tests/env.sh"
fi
SRCDIR=$(cd "$SRCDIR" && pwd) || exit 99

tests=0
failures=0
pid= # of a process that must not outlive the test

tmp=$(mktemp -d "${TMPDIR:-/tmp}/add-cl-test.XXXXXX") || exit 99
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 99' HUP INT TERM
cd "$tmp" || exit 99

ok()
{
    tests=$((tests + 1))
    echo "ok $tests - $1"
}

# not_ok NAME LINE...
not_ok()
{
    tests=$((tests + 1))
    failures=$((failures + 1))
    echo "not ok $tests - $1"
    shift
    printf '%s\n' "$@" | sed 's/^/# /'
}

skip()
{
    tests=$((tests + 1))
    echo "ok $tests - $1 # SKIP $2"
}

# check NAME COMMAND... - the command succeeds.
check()
{
    name=$1
    shift
    if "$@"; then ok "$name"; else not_ok "$name" "failed: $*" "$(tail -n 3 err 2>/dev/null)"; fi
}

# run CODE NAME PATTERN ARGUMENT... - add-cl with these arguments ends with CODE, and what it says on standard error matches the
# basic regular expression PATTERN ("": anything). Output and messages stay in the files `out` and `err`.
run()
{
    want=$1 name=$2 pattern=$3
    shift 3
    "$ADD_CL" "$@" >out 2>err
    got=$?
    if [ $got -ne "$want" ]; then
        not_ok "$name" "exit code $got, not $want: add-cl $*" "$(tail -n 3 err)"
    elif [ -n "$pattern" ] && ! grep -q -e "$pattern" err; then
        not_ok "$name" "no '$pattern' in the messages of: add-cl $*" "$(tail -n 3 err)"
    else
        ok "$name"
    fi
}

finish()
{
    echo "1..$tests"
    exit $((failures > 0))
}
