# shell.sh - what the tests that are shell scripts share, sourced at their start:
#
#   . "$(dirname "$0")/shell.sh"
#
# A test then stands in the project's root and has root, build (its argument, absolute), work (a folder that is removed at
# the end) and failed=0, which it ends with.  It prints "ok - NAME", "not ok - NAME" or "skip - NAME: why", a line each;
# tests/run.sh counts them.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) && cd "$root" || exit 1
build=$(realpath -m "${1:-build}")
work=$(mktemp -d "${TMPDIR:-/tmp}/ehr-$(basename "$0" .sh)-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}

ok() { echo "ok - $1"; }
not_ok() { # not_ok NAME [LOG]: with the end of LOG
    echo "not ok - $1"
    failed=1
    [ -n "$2" ] && tail -n 12 "$2" | sed 's/^/    /'
}
verdict() { # verdict RC NAME [LOG]
    if [ "$1" = 0 ]; then ok "$2"; else not_ok "$2" "$3"; fi
}
check() { # check NAME OFFENDERS: well if there are none
    if [ -z "$2" ]; then ok "$1"; else
        not_ok "$1"
        printf '%s\n' "$2" | sed 's/^/    /'
    fi
}
refused() { # refused CODE WORDS COMMAND...: ends with CODE, says WORDS, and not in a traceback
    local code=$1 words=$2 rc
    shift 2
    "$@" > refused.log 2>&1
    rc=$?
    [ $rc = "$code" ] && grep -q -i -e "$words" refused.log && ! grep -q Traceback refused.log
}
skip_all() { # skip_all NAME WHY: ends the test
    echo "skip - $1: $2"
    exit 0
}
local_ranks() { # for plain mpirun on this machine: threads that do not fight, and no patience after a failure
    . scripts/env.sh
    export OMP_NUM_THREADS=1 OMPI_MCA_odls_base_sigkill_timeout=1
}
