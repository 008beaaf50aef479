#!/bin/bash
# test_bench.sh BUILD - the benchmarks run, in their shortest form, and say what they are for.
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
table=$(mktemp)
trap 'rm -f "$table"' EXIT
check() { # check NAME PATTERN COUNT: at least so many lines of the table
    if [ "$(grep -cE "$2" "$table")" -ge "$3" ]; then echo "ok - $1"; else
        echo "not ok - $1"
        sed 's/^/    /' "$table"
    fi
}

if OUT=$table BUILD=$build bash tests/bench.sh --smoke > "$table.log" 2>&1; then echo "ok - bench.sh --smoke ends well"; else
    echo "not ok - bench.sh --smoke"
    sed 's/^/    /' "$table.log"
fi
rm -f "$table.log"
check "products have rates and a share of the peak" '^[a-z]+ [a-z_]+ +N.* [0-9.]+ +[0-9]+%' 6
check "attention, forward and backward" '^ *[0-9]+ x [0-9]+ .*%.*%' 1
check "inference in three kinds of weights" '^(one stream|prefill|32 rollouts).* (f32|bf16|int8) .*%$' 9
check "the loader's targets a second" '^ +[0-9]+ +[0-9]+ .* M/s .* ns' 2
check "where a step's time goes" '^  [A-Za-z].* [0-9.]+%.*% of (arithmetic|memory)$' 12
check "the whole step beside the best sgemm" 'whole step, best: .*% of the best sgemm' 1
check "steal and machine" '^others kept|^## 20' 6
