#!/bin/bash
# run.sh BUILD [NAME...] - runs the test programs and test scripts (all, or those named: `test_model`, `test_train_cli.sh`),
# prints a line for each and closes with "N passed, N failed, N skipped".  Logs: BUILD/tests/logs/.
# FUZZ_SECONDS: time for each fuzzer (default 2); FUZZ_SEED: what it draws from.
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
shift
logs=$build/tests/logs
mkdir -p "$logs"
. scripts/env.sh
passed=0 failed=0 skipped=0
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0:abort_on_error=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

wanted() { # wanted NAME LIST...
    local name=$1 w
    shift
    [ $# = 0 ] && return 0
    for w in "$@"; do [ "$w" = "$name" ] && return 0; done
    return 1
}

report() { # report NAME PASSED FAILED SKIPPED SECONDS LOG
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
    printf '%-28s %4d passed %3d failed %3d skipped %6.1f s%s\n' "$1" "$2" "$3" "$4" "$5" "$([ "$3" -gt 0 ] && echo "   see $6")"
    grep -hE '^skip - |\[  SKIPPED \] [a-z]' "$6" | sort -u | sed 's/^/    /'
    if [ "$3" -gt 0 ]; then
        grep -hE '^not ok|\[  FAILED  \]|ERROR|error:|runtime error|AddressSanitizer|broken promise' "$6" | head -n 12 | sed 's/^/    /'
    fi
}

seconds() { echo "$1 $(date +%s.%N)" | awk '{print $2 - $1}'; }

execute() { # execute NAME PROGRAM: a cmocka program; leaves its log, exit code and time
    local start
    start=$(date +%s.%N)
    timeout 900 "$2" > "$logs/$1.log" 2>&1
    echo "$? $(seconds "$start")" > "$logs/$1.end"
}

account() { # account NAME: of a program that was executed
    local name=$1 log=$logs/$1.log rc time ok bad skip
    read -r rc time < "$logs/$name.end"
    ok=$(grep -cE '^\[       OK \]' "$log")
    # cmocka names failures twice: when they happen and in the closing list.
    bad=$(grep -E '^\[  FAILED  \] [A-Za-z_]' "$log" | sort -u | wc -l)
    skip=$(grep -E '^\[  SKIPPED \] [A-Za-z_]' "$log" | sort -u | wc -l)
    if [ "$rc" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
        echo "not ok - $name ended with exit code $rc" >> "$log"
    elif [ "$ok" = 0 ] && [ "$skip" = 0 ] && [ "$bad" = 0 ]; then
        bad=1
        echo "not ok - $name ran no test" >> "$log"
    fi
    report "$name" "$ok" "$bad" "$skip" "$time" "$log"
}

for program in tests/test_*.c; do
    name=$(basename "$program" .c)
    wanted "$name" "$@" || continue
    case "$name" in test_cuda_*) continue ;; esac
    execute "$name" "$build/tests/$name"
    account "$name"
done

# The CUDA backend's tests run in the emulator, where there are the toolkit's headers; each is one thread, so several run
# at a time.
emulated=""
for program in tests/emulator/test_*.cpp tests/test_cuda_*.c; do
    name=$(basename "${program%.*}")
    wanted "$name" "$@" || continue
    if grep -qE '^  emulator +yes' "$build/detect.txt"; then
        emulated="$emulated $name"
    else
        echo "skip - $name: no C++ compiler or no CUDA headers to emulate a GPU with" > "$logs/$name.log"
        report "$name" 0 0 1 0 "$logs/$name.log"
    fi
done
export -f execute seconds
export logs
printf '%s\n' $emulated | xargs -r -P "$(nproc)" -I{} bash -c "execute {} '$build/emulator/tests/{}'"
for name in $emulated; do account "$name"; done

for program in tests/fuzz_*.c; do
    [ -e "$program" ] || continue
    name=$(basename "$program" .c)
    wanted "$name" "$@" || continue
    log=$logs/$name.log start=$(date +%s.%N)
    if timeout $((300 + ${FUZZ_SECONDS:-2})) "$build/tests/$name" "${FUZZ_SECONDS:-2}" ${FUZZ_SEED:+"$FUZZ_SEED"} > "$log" 2>&1; then ok=1 bad=0; else ok=0 bad=1; fi
    report "$name" $ok $bad 0 "$(seconds "$start")" "$log"
done

for script in tests/test_*.sh; do
    name=$(basename "$script")
    wanted "$name" "$@" || continue
    # These run no compiled code of ours, or none that other tests do not (test_risk_cli.sh simulates too much for instrumented
    # code; test_outcomes and test_rollout run the same functions): once, in the plain build, is enough.
    case "$build/$name" in
    build-san/test_layout.sh | build-san/test_evaluate.sh | build-san/test_cluster.sh | build-san/test_bundle.sh) continue ;;
    build-san/test_bench.sh | build-san/test_risk_cli.sh | build-san/test_page.sh | build-san/test_cds.sh) continue ;;
    build-san/test_privacy.sh | build-san/test_probe.sh) continue ;;
    build-san/test_cuda_serve.sh) continue ;;
    esac
    log=$logs/$name.log start=$(date +%s.%N)
    timeout 1200 bash "$script" "$build" > "$log" 2>&1
    rc=$?
    ok=$(grep -cE '^ok - ' "$log") bad=$(grep -cE '^not ok - ' "$log") skip=$(grep -cE '^skip - ' "$log")
    if [ $rc != 0 ] && [ "$bad" = 0 ]; then
        bad=1
        echo "not ok - $name ended with exit code $rc" >> "$log"
    fi
    report "$name" "$ok" "$bad" "$skip" "$(seconds "$start")" "$log"
done

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
