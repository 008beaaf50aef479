#!/bin/bash
# run.sh BUILD [NAME...] - runs the test programs and test scripts (all, or those named: `test_model`, `test_train_cli.sh`),
# prints a line for each as it ends, with seconds on the clock and of a core, and closes with
# "N passed, N failed, N skipped".  Logs: BUILD/tests/logs/.
# JOBS: how many run at a time (default: the cores).  FUZZ_SECONDS: time for each fuzzer (default 2); FUZZ_SEED: what it
# draws from.
cd "$(dirname "$0")/.." || exit 1
export build=${1:-build}
shift
export logs=$build/tests/logs
mkdir -p "$logs"
. scripts/env.sh
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0:abort_on_error=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TIMEFORMAT='%R %U %S' LC_ALL=C

# The longest start first, so that at the end no core waits for one of them.
longest="test_cuda_attention test_cuda_paged test_cuda_matmul test_cuda_rows test_deidentify.sh test_serve_load.sh test_infer_cli.sh
    test_risk_cli.sh test_cuda_dist test_cuda_cli.sh test_nccl.sh test_page.sh test_serve.sh test_privacy.sh test_evaluate.sh
    test_cuda_train test_cuda_model test_explain_cli.sh test_mimic.sh test_notes.sh test_pipeline.sh test_train_cli.sh test_cluster.sh
    test_diagnose test_explain test_rollout test_rollout_law.sh test_probe.sh test_meds.sh test_lora_cli.sh test_bundle.sh"

# These run no compiled code of ours, or none that other tests do not (test_risk_cli.sh simulates too much for instrumented
# code; test_outcomes and test_rollout run the same functions): once, in the plain build, is enough.
not_sanitized="test_layout.sh test_evaluate.sh test_cluster.sh test_bundle.sh test_bench.sh test_risk_cli.sh test_page.sh test_cds.sh
    test_privacy.sh test_probe.sh test_cuda_serve.sh"

among() { case " $(echo $2) " in *" $1 "*) ;; *) return 1 ;; esac; } # among NAME NAMES

file_of() { # file_of NAME: the test's source
    local f
    for f in "tests/$1" "tests/$1.c" "tests/emulator/$1.cpp"; do
        [ -f "$f" ] && echo "$f" && return
    done
    return 1
}

command_of() { # command_of NAME: what runs it, for at most how long
    case "$1" in
    *.sh) echo "timeout 1200 bash tests/$1 $build" ;;
    fuzz_*) echo "timeout $((300 + ${FUZZ_SECONDS:-2})) $build/tests/$1 ${FUZZ_SECONDS:-2} $FUZZ_SEED" ;;
    test_cuda_* | test_emulator) echo "timeout 900 $build/emulator/tests/$1" ;; # where there are the toolkit's headers
    *) echo "timeout 900 $build/tests/$1" ;;
    esac
}

counts_of() { # counts_of NAME RC LOG: tests that passed, failed, were skipped
    local ok bad skip
    case "$1" in
    *.sh) ok=$(grep -cE '^ok - ' "$3") bad=$(grep -cE '^not ok - ' "$3") skip=$(grep -cE '^skip - ' "$3") ;;
    fuzz_*) ok=$(($2 == 0)) bad=$(($2 != 0)) skip=0 ;;
    *) # cmocka names failures twice: when they happen and in the closing list.
        ok=$(grep -cE '^\[       OK \]' "$3")
        bad=$(grep -E '^\[  FAILED  \] [A-Za-z_]' "$3" | sort -u | wc -l)
        skip=$(grep -E '^\[  SKIPPED \] [A-Za-z_]' "$3" | sort -u | wc -l)
        ;;
    esac
    if [ "$2" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
        echo "not ok - $1 ended with exit code $2" >> "$3"
    elif [ $((ok + bad + skip)) = 0 ]; then
        bad=1
        echo "not ok - $1 ran no test" >> "$3"
    fi
    echo "$ok $bad $skip"
}

run_one() { # run_one NAME: its line, its log and its counts
    local log=$logs/$1.log rc ok bad skip clock user system
    # shellcheck disable=SC2046
    { time $(command_of "$1") > "$log" 2>&1; } 2> "$logs/$1.time"
    rc=$?
    read -r clock user system < <(tail -n 1 "$logs/$1.time")
    read -r ok bad skip < <(counts_of "$1" $rc "$log" | tee "$logs/$1.counts")
    { # one write, so that lines of tests that end together do not mix
        printf '%-28s %4d passed %3d failed %3d skipped %6.1f s %7.1f s%s\n' "$1" "$ok" "$bad" "$skip" "$clock" \
            "$(echo "$user $system" | awk '{ print $1 + $2 }')" "$([ "$bad" -gt 0 ] && echo "   see $log")"
        grep -hE '^skip - |\[  SKIPPED \] [a-z]' "$log" | sort -u | sed 's/^/    /'
        [ "$bad" = 0 ] ||
            grep -hE '^not ok|\[  FAILED  \]|ERROR|error:|runtime error|AddressSanitizer|broken promise' "$log" | head -n 12 | sed 's/^/    /'
    } > "$logs/$1.line"
    cat "$logs/$1.line"
}
export -f command_of counts_of run_one

all=$(for f in tests/test_*.c tests/emulator/test_*.cpp tests/fuzz_*.c tests/test_*.sh; do f=${f##*/} && echo "${f%.c*}"; done)
names=${*:-$(for n in $longest; do among "$n" "$all" && echo "$n"; done)
    $(for n in $all; do among "$n" "$longest" || echo "$n"; done)}
queue="" failed=0 skipped=0 passed=0
for name in $names; do
    if ! file_of "$name" > /dev/null; then
        echo "not ok - $name: no such test"
        failed=$((failed + 1))
    elif among "$build/$name" "${not_sanitized//test_/build-san/test_}"; then
        continue
    elif [[ $(command_of "$name") == */emulator/tests/* ]] && ! grep -qE '^  emulator +yes' "$build/detect.txt"; then
        echo "skip - $name: no C++ compiler or no CUDA headers to emulate a GPU with"
        skipped=$((skipped + 1))
    else
        queue="$queue $name"
    fi
done
rm -f $(printf "$logs/%s.counts " $queue) # those of an earlier run count for nothing
printf '%s\n' $queue | xargs -r -P "${JOBS:-$(nproc)}" -I{} bash -c "run_one {}"
for name in $queue; do
    p=0 f=1 s=0
    read -r p f s < "$logs/$name.counts"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
