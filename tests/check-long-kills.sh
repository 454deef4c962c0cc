#!/bin/sh
# check-long-kills.sh - tests/train.sh with the run killed 50 times at random moments. Prints TAP.

ADDCL_KILLS=50
export ADDCL_KILLS
exec sh "${SRCDIR:-${srcdir:-.}}/tests/train.sh"
