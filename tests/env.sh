# env.sh - sourced, in the build folder, before every test: caches stay inside the build, and PoCL is the only
# implementation of OpenCL unless the caller chose another with OCL_ICD_VENDORS (and ADDCL_DEVICE), so that the quirks
# of the others stay out.

XDG_CACHE_HOME=$PWD/tests/cache
POCL_CACHE_DIR=$PWD/tests/cache/pocl
export XDG_CACHE_HOME POCL_CACHE_DIR
unset ADDCL_CACHE_DIR ADDCL_MODEL_DIR
mkdir -p "$POCL_CACHE_DIR"

# use_icd NAME - only the implementation that /etc/OpenCL/vendors/NAME.icd declares; false when there is none.
use_icd()
{
    OCL_ICD_VENDORS=$PWD/tests/icd/$1
    if [ ! -e "$OCL_ICD_VENDORS/$1.icd" ]; then
        [ -e "/etc/OpenCL/vendors/$1.icd" ] || return 1
        mkdir -p "$OCL_ICD_VENDORS"
        cp "/etc/OpenCL/vendors/$1.icd" "$OCL_ICD_VENDORS/$1.$$"
        mv "$OCL_ICD_VENDORS/$1.$$" "$OCL_ICD_VENDORS/$1.icd" # at once: tests run in parallel
    fi
    export OCL_ICD_VENDORS
    unset ADDCL_DEVICE
}

[ -n "${OCL_ICD_VENDORS-}" ] || use_icd pocl || unset OCL_ICD_VENDORS
