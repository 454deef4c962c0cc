#!/bin/sh
# check-gpu.sh [LIST] - compiles every kernel variant for GPUs that need not be here: AMD (clang), NVIDIA (clang,
# ptxas) and Intel (ocloc). LIST has lines "file<TAB>build options"; without it, it is what tests/list-variants
# prints. Run in the build folder.
#
# Prints a table of registers, occupancy and memory that registers were spilled to. Fails when no compiler is found,
# when a variant does not compile, and when a kernel named *_tile or *_any spills or uses scratch memory.
#
# Compilers: $CLANG, $PTXAS, $OCLOC; $LIBCLC is the folder of libclc's bitcode.

set -u
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
: "${CLANG=$(command -v clang-15 || command -v clang)}" "${OCLOC=$(command -v ocloc)}" "${LIBCLC=/usr/lib/clc}"
: "${PTXAS=$(PATH=$PATH:/usr/local/cuda/bin command -v ptxas)}"
export CLANG PTXAS OCLOC LIBCLC

amd="gfx900 gfx90a gfx1030 gfx1100"
nvidia="sm_75 sm_86 sm_90"
intel="skl dg2"

# ------------------------------------------------------------------------------------ one variant, one compiler

# compile TRIPLE BITCODE FLAG... - clang with libclc's library. Warnings are errors here.
compile()
{
    triple=$1 bitcode=$2
    shift 2
    # $options is split into words on purpose.
    "$CLANG" -x cl -cl-std=CL1.2 $options -target "$triple" -nogpulib -Xclang -fdeclare-opencl-builtins \
        -Xclang -finclude-default-header -Xclang -mlink-builtin-bitcode -Xclang "$LIBCLC/$bitcode" \
        -Wall -Werror -Wno-unused-function -O3 -S "$@" "$source"
}

# The report_* functions print lines "target kernel registers occupancy spilled" for target $1: occupancy in per cent
# of the hardware's threads (Intel: the number of lanes), spilled in bytes, or registers moved, a thread.

# Numbers that LLVM leaves as comments and as metadata in the assembler file $2.
report_amd()
{
    awk -v arch="$1" '
        /^\t\.amdhsa_kernel / { kernel = $2; order[++n] = kernel }
        /^; NumVgprs: / { vgprs[kernel] = $3 }
        /^; ScratchSize: / { scratch[kernel] = $3 }
        /^; Occupancy: / { waves[kernel] = $3 }
        /^    \.name: / { name = $2 }
        /^    \.sgpr_spill_count: / { spills[name] = $2 }
        END {
            most = arch == "gfx900" ? 10 : arch == "gfx90a" ? 8 : 16 # waves of a SIMD unit
            for (i = 1; i <= n; i++) {
                k = order[i]
                print arch, k, vgprs[k], int(100 * waves[k] / most), scratch[k] + spills[k]
            }
        }' "$2"
}

# $2: what ptxas said. Occupancy for work-groups of 256 from the limits in the table "Technical Specifications per
# Compute Capability" of the CUDA C programming guide: warps, blocks and shared memory of a multiprocessor; 65,536
# registers, given to warps by the 256.
report_nvidia()
{
    awk -v arch="$1" '
        /Compiling entry function/ { split($0, part, "\047"); kernel = part[2] }
        /bytes stack frame/ { stack[kernel] = $1 + $5 }
        /Used [0-9]+ registers/ {
            registers = shared = 0
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^registers/) registers = $(i - 1)
                if ($i ~ /^smem/) shared = $(i - 2)
            }
            max_warps = arch == "sm_75" ? 32 : arch == "sm_86" ? 48 : 64
            max_shared = 1024 * (arch == "sm_75" ? 64 : arch == "sm_86" ? 100 : 228)
            warps = 256 / 32
            blocks = int(65536 / (int((registers * 32 + 255) / 256) * 256 * warps))
            if (shared && blocks > int(max_shared / (shared + 1024))) blocks = int(max_shared / (shared + 1024))
            if (blocks * warps > max_warps) blocks = int(max_warps / warps)
            print arch, kernel, registers, int(100 * blocks * warps / max_warps), stack[kernel]
        }' "$2"
}

# The kernel table (.ze_info, YAML) in the ELF file $2.
report_intel()
{
    strings -n 2 "$2" | awk -v arch="$1" '
        function flush() { if (kernel) print arch, kernel, registers, lanes, spilled; kernel = ""; spilled = 0 }
        /^kernels:/ { inside = 1 }
        /^kernels_misc_info:/ { inside = 0 }
        !inside { next }
        /^  - name:/ { flush(); kernel = $3; buffers = 0 }
        /^    [a-z_]+:/ { buffers = $1 == "per_thread_memory_buffers:" }
        /^      grf_count:/ { registers = $2 }
        /^      simd_size:/ { lanes = $2 }
        /^        size:/ { if (buffers) spilled += $2 }
        END { flush() }'
}

# The make_* functions compile $source (with $options) and report; files are named $out.*.

make_amd()
{
    compile amdgcn--amdhsa amdgcn--amdhsa.bc -mcpu="$1" -o "$out.s" && report_amd "$1" "$out.s"
}

# PTX for the oldest serves all.
make_nvidia()
{
    compile nvptx64--nvidiacl nvptx64--nvidiacl.bc -Xclang -target-cpu -Xclang sm_75 -o "$out.ptx" || return
    for target in $nvidia; do
        "$PTXAS" -arch="$target" -v "$out.ptx" -o "$out.o" >"$out.log" 2>&1 || { cat "$out.log" >&2; return 1; }
        report_nvidia "$target" "$out.log"
    done
}

make_intel()
{
    "$OCLOC" compile -64 -file "$source" -device "$1" -options "-cl-std=CL1.2 $options" \
        -internal_options -cl-intel-allow-zebin -out_dir "$work/bin" -output "${out##*/}" -output_no_suffix >&2 &&
        report_intel "$1" "$work/bin/${out##*/}"
}

# unit LINE JOB - variant number LINE of $work/variants; JOB: a target of AMD or Intel, or "nvidia". Leaves
# $work/LINE.JOB.report, or .failed with the compiler's message.
unit()
{
    out=$work/$1.$2
    variant=$(sed -n "$1p" "$work/variants")
    file=${variant%%	*}
    options=${variant#*	}
    source=$work/$file.cl
    case $2 in
    nvidia) make_nvidia ;;
    gfx*) make_amd "$2" ;;
    *) make_intel "$2" ;;
    esac >"$out.report" 2>"$out.err" || mv "$out.err" "$out.failed"
    [ -s "$out.report" ] || [ -s "$out.failed" ] || echo "there is no kernel in it" >"$out.failed"
}

if [ "${1-}" = --unit ]; then
    work=$2
    unit "$3" "$4"
    exit 0
fi

# ------------------------------------------------------------------------------------------------- all of them

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

if [ $# -gt 0 ]; then
    cat "$1"
else
    ./tests/list-variants
fi | sort -u >"$work/variants"
variants=$(wc -l <"$work/variants")
if [ "$variants" = 0 ]; then
    echo "check-gpu: no kernel variants"
    echo "# 0 passed, 1 failed"
    exit 1
fi

cut -f1 "$work/variants" | sort -u | while read -r file; do
    for part in "${CL_DIR:=$here/../cl}/common.h" "$CL_DIR/$file.cl"; do
        printf '#line 1 "cl/%s"\n' "${part##*/}"
        cat "$part"
    done >"$work/$file.cl"
done

jobs=
if [ -z "$CLANG" ] || [ ! -e "$LIBCLC/amdgcn--amdhsa.bc" ]; then
    echo "NOT CHECKED: AMD (needs clang-15 and libclc-15)"
    echo "NOT CHECKED: NVIDIA (needs clang-15, libclc-15 and ptxas)"
else
    jobs=$amd
    if [ -n "$PTXAS" ]; then
        jobs="$jobs nvidia"
    else
        echo "NOT CHECKED: NVIDIA (needs ptxas: CUDA, or the Python package nvidia-cuda-nvcc-cu12)"
    fi
fi
if [ -n "$OCLOC" ]; then
    jobs="$jobs $intel"
else
    echo "NOT CHECKED: Intel (needs ocloc: intel-opencl-icd)"
fi
if [ -z "$jobs" ]; then
    echo "check-gpu: no compiler for GPUs found"
    echo "# 0 passed, 1 failed"
    exit 1
fi

mkdir "$work/bin"
for job in $jobs; do
    seq "$variants" | sed "s/\$/ $job/"
done | xargs -P "$(nproc)" -n 2 sh "$0" --unit "$work"

# Lines "variant target kernel registers occupancy spilled".
for report in "$work"/*.report; do
    line=${report##*/}
    sed "s/^/${line%%.*} /" "$report"
done | sort -k3,3 -k1,1n >"$work/table"

awk -v targets="$amd $nvidia $intel" '
    FNR == NR { split($0, part, "\t"); file[FNR] = part[1]; options[FNR] = part[2]; next }
    {
        row = $3 " " $1
        if (!(row in seen)) { seen[row] = 1; order[++n] = row }
        cell[row, $2] = $4 ($2 ~ /^(gfx|sm)/ ? "/" $5 "%" : "x" $5) ($6 ? " S" $6 : "")
    }
    END {
        m = split(targets, target, " ")
        print "registers/occupancy of a kernel; Intel: registers x lanes; S: bytes (AMD: or registers) spilled\n"
        printf "| kernel | options |"
        for (j = 1; j <= m; j++) printf " %s |", target[j]
        printf "\n|---|---|"
        for (j = 1; j <= m; j++) printf "---|"
        print ""
        for (i = 1; i <= n; i++) {
            split(order[i], part, " ")
            short = options[part[2]]
            gsub(/-cl-[^ ]+ ?/, "", short)
            gsub(/-D ?/, "", short)
            printf "| %s | %s |", part[1], short
            for (j = 1; j <= m; j++) printf " %s |", cell[order[i], target[j]]
            print ""
        }
        print ""
    }' "$work/variants" "$work/table"

# A line a failure: variants that do not compile, then kernels that spill.
for failed in "$work"/*.failed; do
    [ -e "$failed" ] || continue
    job=${failed##*/}
    line=${job%%.*}
    job=${job%.failed}
    printf 'FAIL %s for %s: ' "$(sed -n "${line}p" "$work/variants")" "${job#*.}"
    grep -v '^$' "$failed" | head -n 4
done >"$work/failures"
awk '
    FNR == NR { variant[FNR] = $0; next }
    $3 ~ /_(tile|any)$/ && $6 > 0 { print "FAIL " $3 " (" variant[$1] ") on " $2 " spills " $6 }
    ' "$work/variants" "$work/table" >"$work/spills"
cat "$work/failures" "$work/spills" | sed "s|$work/|cl/|g"

failed=$(grep -c '^FAIL' "$work/failures")
spills=$(wc -l <"$work/spills")
echo "# $(($(wc -l <"$work/table") - spills)) passed, $((failed + spills)) failed"
[ $((failed + spills)) = 0 ]
