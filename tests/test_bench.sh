#!/bin/bash
# test_bench.sh BUILD - the benchmarks run, in their shortest form, and say what they are for.
. "$(dirname "$0")/shell.sh"
table=$work/table
rows() { # rows NAME PATTERN COUNT: at least so many lines of the table
    [ "$(grep -cE "$2" "$table")" -ge "$3" ]
    verdict $? "$1" "$table"
}

OUT=$table BUILD=$build bash tests/bench.sh --smoke > "$work/log" 2>&1
verdict $? "bench.sh --smoke ends well" "$work/log"
rows "products have rates and a share of the peak" '^[a-z]+ [a-z_]+ +N.* [0-9.]+ +[0-9]+%' 6
rows "attention, forward and backward" '^ *[0-9]+ x [0-9]+ .*%.*%' 1
rows "inference in three kinds of weights" '^(one stream|prefill|32 rollouts).* (f32|bf16|int8) .*%$' 9
rows "the loader's targets a second" '^ +[0-9]+ +[0-9]+ .* M/s .* ns' 2
rows "where a step's time goes" '^  [A-Za-z].* [0-9.]+%.*% of (arithmetic|memory)$' 12
rows "the whole step beside the best sgemm" 'whole step, best: .*% of the best sgemm' 1
rows "steal and machine" '^others kept|^## 20' 6
exit $failed
