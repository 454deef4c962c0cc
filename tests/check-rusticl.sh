#!/bin/sh
# check-rusticl.sh - a second implementation of OpenCL: every op and one image through Mesa's rusticl on llvmpipe. Run
# in the build folder.

. "$(dirname "$0")/env.sh"

if ! use_icd rusticl; then
    echo "NOT CHECKED: rusticl (needs mesa-opencl-icd)"
    echo "# 0 passed, 1 failed"
    exit 1
fi
RUSTICL_ENABLE=llvmpipe
export RUSTICL_ENABLE

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The last line: "N passed, N failed, N skipped".
./add-cl selftest >"$work/selftest"
status=$?
cat "$work/selftest"
set -- $(tail -n 1 "$work/selftest")
case $status/${2-}/${4-} in
0/passed,/failed,) passed=$1 failed=$3 ;;
*/passed,/failed,) passed=$1 failed=$(($3 > 0 ? $3 : 1)) ;;
*) passed=0 failed=1 ;;
esac
[ "$passed" -gt 0 ] || failed=$((failed + 1))

png=$(printf '\211PNG')
if ./add-cl sample -p "red heart, flat emoji" --seed 7 --steps 2 -o "$work/heart.png" &&
    [ "$(head -c 4 "$work/heart.png")" = "$png" ]; then
    echo "sample: $(wc -c <"$work/heart.png") bytes"
    passed=$((passed + 1))
else
    echo "sample: FAILED"
    failed=$((failed + 1))
fi

echo "# $passed passed, $failed failed"
[ "$failed" = 0 ]
