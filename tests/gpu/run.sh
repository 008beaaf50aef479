#!/bin/bash
# run.sh check|bench|rivals [PLACE] - what only a GPU can say, each in at most 8 minutes, with a table at the end:
#
#   check    every kernel against the reference, 100 steps of training against the CPU's losses, the same bits twice, two
#            ranks on one GPU, NCCL with one rank, the commands from the outside, compute-sanitizer on the kernels' tests
#   bench    every operation (us, TFLOP/s or GB/s, share of what the card was measured to do), tokens a second and MFU of
#            training at the 119 M and 1 B presets with rows of 8,192 tokens
#   rivals   the same beside cuBLASLt and PyTorch on this card in these minutes
#
# PLACE is a bundle (`make bundle`, copied to the machine with the GPU) or a tree in which `make cuda benches` ran; the
# one that this file is in, if left out.  What a tool that is not there would have checked is skipped, with the reason.
# Logs and tables as files go to OUT (a new folder under TMPDIR).  Exit code 0: nothing failed.  EHR_GPU_SMALL=1: tiny
# sizes and no hurry, to try this script itself, in the emulator for one.
set -a # steps run under timeout, in a shell of their own
what=${1:-}
place=$(cd "${2:-$(dirname "$0")/../..}" 2> /dev/null && pwd) || { echo "run.sh: there is no folder $2" >&2; exit 2; }
case $what in check | bench | rivals) ;; *)
    sed -n '2,/^what=/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
small=${EHR_GPU_SMALL:-}
readonly LIMIT_S=$([ -n "$small" ] && echo 7200 || echo 470)
out=${OUT:-$(mktemp -d "${TMPDIR:-/tmp}/ehr-gpu-XXXXXX")}
mkdir -p "$out" || exit 1
PYTHON=${PYTHON:-python3}

# ---- what is here --------------------------------------------------------------------------------------------------------
program() { # program NAME: its path, in a bundle, a tree's bundle, or a tree
    local d
    for d in "$place/bin" "$place/build/bundle/bin" "$place/build" "$place/build/tests"; do
        [ -x "$d/$1" ] && [ -f "$d/$1" ] && { echo "$d/$1"; return 0; }
    done
    return 1
}
left() { echo $((LIMIT_S - SECONDS)); }
rows=()
failed=0 passed=0 skipped=0
note() { # note ok|FAILED|skipped NAME SECONDS REMARK
    rows+=("$(printf '%-8s %-44s %6s s   %s' "$1" "$2" "$3" "$4")")
    case $1 in ok) passed=$((passed + 1)) ;; skipped) skipped=$((skipped + 1)) ;; *) failed=$((failed + 1)) ;; esac
    printf '%s\n' "${rows[-1]}"
}
timed() { # timed NAME SECONDS LOG COMMAND...: one row; no time left, and it is skipped
    local name=$1 most=$2 log=$3 start=$SECONDS rc
    shift 3
    [ "$(left)" -ge 5 ] || { note skipped "$name" 0 "no time left"; return 1; }
    [ -n "$small" ] && most=1200
    [ "$most" -gt "$(left)" ] && most=$(left)
    timeout -k 5 "$most" bash -c '"$@"' - "$@" > "$log" 2>&1 < /dev/null
    rc=$?
    case $rc in
    0) note ok "$name" $((SECONDS - start)) "$(sed -n 's/^remark: //p' "$log" | tail -n 1)" ;;
    124 | 137) note FAILED "$name" $((SECONDS - start)) "still at work after $most s; see $log" ;;
    *)
        note FAILED "$name" $((SECONDS - start)) "exit $rc; see $log"
        grep -E '^not ok|\[  FAILED|ERROR|rror:|rank [0-9]+ on|bench_|ehr-' "$log" | tail -n 5 | sed 's/^/             /'
        ;;
    esac
    return $rc
}
ending() {
    echo
    echo "== $what: $(date -u +%FT%TZ), $card"
    printf '%s\n' "${rows[@]}"
    echo "$passed passed, $failed failed, $skipped skipped, in $SECONDS s; logs and tables in $out"
    [ $failed = 0 ]
    exit
}

train=$(program ehr-train) && data=$(program ehr-data) && ops=$(program bench_ops) && step=$(program bench_step) || {
    echo "run.sh: no programs in $place: give a bundle, or run \`make cuda benches\` there first" >&2
    exit 1
}
bin=$(dirname "$train")
if ! "$ops" --quick --presets none > "$out/gpu.log" 2>&1 < /dev/null; then
    echo "run.sh: $(grep -v '^no cuBLASLt' "$out/gpu.log" | tail -n 1)" >&2
    exit 1
fi
card=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader 2> /dev/null | head -n 1)
card=${card:-$(grep -m 1 '^GPU ' "$out/gpu.log")}
# NCCL and cuBLASLt as PyTorch brings them, where the system has none.
for library in libnccl.so.2 libcublasLt.so.13 libcublasLt.so.12; do
    ldconfig -p 2> /dev/null | grep -q "$library " && continue
    folder=$("$PYTHON" - "$library" 2> /dev/null << 'END'
import glob, os, site, sys
for root in site.getsitepackages() + [site.getusersitepackages()]:
    for found in glob.glob(os.path.join(root, "nvidia", "*", "lib", sys.argv[1])):
        print(os.path.dirname(found))
        raise SystemExit
END
    )
    [ -n "$folder" ] && export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
echo "== $what on $card"
echo "   programs: $bin"

# ---- check ----------------------------------------------------------------------------------------------------------------
results_of() { # results_of LOG: cmocka's counts as a remark, and whether all is well
    local log=$1 ok bad skip
    ok=$(grep -c '^\[       OK \]' "$log")
    bad=$(grep -E '^\[  FAILED  \] [A-Za-z_]' "$log" | sort -u | wc -l)
    skip=$(grep -E '^\[  SKIPPED \] [A-Za-z_]' "$log" | sort -u | wc -l)
    echo "remark: $ok passed, $bad failed, $skip skipped"
    [ "$bad" = 0 ] && [ "$ok" -gt 0 ]
}
kernel_test() { # kernel_test PROGRAM
    "$1" > "$out/$(basename "$1").full" 2>&1
    local rc=$?
    cat "$out/$(basename "$1").full"
    results_of "$out/$(basename "$1").full" && [ $rc = 0 ]
}
losses() { sed -n 's/^{"step":\([0-9]*\),.*"loss":\([-0-9.e]*\)[,}].*/\1 \2/p' "$1/log.jsonl"; }
apart() { # apart RUN RUN: steps, and the largest and mean relative difference of their losses
    paste <(losses "$1") <(losses "$2") | awk '
        { d = ($2 - $4) / $4; if (d < 0) d = -d; if (d > most) most = d; sum += d; n++; if ($1 != $3) n = -1e9 }
        END { print n + 0, most + 0, (n > 0 ? sum / n : 0) }'
}
compare() { # compare RUN RUN EACH MEAN: losses of all steps differ by at most EACH of them, on average by at most MEAN
    apart "$1" "$2" | awk -v each="$3" -v mean="$4" '
        { printf "remark: %d steps, largest difference %.2g of %.2g, mean %.2g of %.2g\n", $1, $2, each, $3, mean
          good = $1 > 0 && $2 <= each && $3 <= mean }
        END { exit !good }'
}
steps=$([ -n "$small" ] && echo 4 || echo 100)
recipe="--data $out/data --steps $steps --eval-every $steps --eval-tokens 4096 --learning-rate 1e-3 --seed 3 --batch 8"
if [ -n "$small" ]; then recipe="$recipe --layers 1 --d-model 64 --heads 1 --kv-heads 1 --head-dim 64 --d-ff 64 --seq-len 32"
else recipe="$recipe --layers 4 --d-model 256 --heads 4 --kv-heads 2 --head-dim 64 --d-ff 768 --seq-len 256"; fi
make_data() {
    "$data" synth --patients $([ -n "$small" ] && echo 60 || echo 400) --risk-samples 4 --out "$out/events" && "$data" tokenize "$out/events/events.h5" --out "$out/data"
}
against_cpu() { # against_cpu RUN EACH MEAN FLAGS...
    local run=$1 each=$2 mean=$3
    shift 3
    "$train" $recipe --device cuda --out "$out/$run" "$@" && compare "$out/cpu" "$out/$run" "$each" "$mean"
}
other_orders() {
    "$train" $recipe --device cpu --micro-batch 1 --out "$out/order1" && "$train" $recipe --device cpu --micro-batch 2 --out "$out/order2" &&
        echo "remark: $(apart "$out/cpu" "$out/order1" | cut -d' ' -f2) and $(apart "$out/cpu" "$out/order2" | cut -d' ' -f2) apart at most"
}
same_bytes() { # same_bytes RUN FLAGS...: as the first run in bfloat16
    local run=$1
    shift
    "$train" $recipe --device cuda --out "$out/$run" "$@" && cmp "$out/bf16/step-$steps/model.safetensors" "$out/$run/step-$steps/model.safetensors"
}
same_futures() {
    for i in 1 2; do
        "$(dirname "$train")/ehr-infer" generate "$out/bf16/latest" --data "$out/data" --patient 0 --samples 4 --device cuda --seed 3 \
            ${small:+--max-tokens 8} > "$out/futures$i" || return 1
    done
    [ -s "$out/futures1" ] && cmp "$out/futures1" "$out/futures2"
}
two_ranks() {
    "$mpirun" -np 2 "$train" $recipe --micro-batch 4 --device cuda --out "$out/two" && compare "$out/cpu" "$out/two" $bf16_limits
}
sanitize() { # sanitize TOOL PROGRAM
    "$sanitizer" --tool "$1" --target-processes all --error-exitcode 9 --print-limit 5 "$2" > "$out/sanitizer.full" 2>&1
    local rc=$?
    tail -n 60 "$out/sanitizer.full"
    grep -q 'ERROR SUMMARY: 0 errors\|RACECHECK SUMMARY: 0 hazards' "$out/sanitizer.full" && [ $rc = 0 ]
}
check() {
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl=self,vader
    export OMPI_MCA_odls_base_sigkill_timeout=1 OMPI_MCA_hwloc_base_binding_policy=none
    local test name
    mpirun=$(program mpirun || command -v mpirun)
    [ -n "$mpirun" ] && PATH=$(dirname "$mpirun"):$PATH
    for test in $(for d in "$bin" "$place/build/tests"; do ls "$d"/test_cuda_* 2> /dev/null; done | grep -v '\.[od]$' | sort -u); do
        [ -x "$test" ] || continue
        name=$(basename "$test")
        EHR_TEST_LONG=$([ -n "$small" ] && echo 0 || echo 1) timed "$name" 100 "$out/$name.log" kernel_test "$test"
    done
    timed "records and a dataset" 60 "$out/data.log" make_data || return
    timed "the CPU's losses, $steps steps" 120 "$out/cpu.log" "$train" $recipe --device cpu --out "$out/cpu" || return
    # Training amplifies rounding.  How far float32 may come apart is measured: the CPU's own run with its sums in other
    # orders, twice the largest difference and a few units in the last place.  bfloat16: one rounding to 8 bits (2^-8) on
    # average, four at any step.
    local f32_limits bf16_limits='0.015625 0.00390625'
    timed "the CPU's losses, sums in other orders" 200 "$out/orders.log" other_orders || return
    f32_limits=$(for run in order1 order2; do apart "$out/cpu" "$out/$run"; done |
        awk '{ if ($2 > most) most = $2; if ($3 > mean) mean = $3 } END { print 2 * most + 1e-6, 2 * mean + 1e-6 }')
    timed "float32 against the CPU's losses" 60 "$out/f32.log" against_cpu f32 $f32_limits --dtype f32
    timed "bfloat16 against the CPU's losses" 60 "$out/bf16.log" against_cpu bf16 $bf16_limits
    timed "the same bits twice" 60 "$out/again.log" same_bytes again
    timed "the same bits operation by operation" 60 "$out/plain.log" same_bytes plain --graphs=no
    timed "the same futures twice" 60 "$out/futures.log" same_futures
    if [ -z "$mpirun" ]; then note skipped "two ranks on this GPU" 0 "no mpirun"; else
        timed "two ranks on this GPU" 90 "$out/two.log" two_ranks
    fi
    if "$train" $recipe --device cuda --transport nccl --dry-run > "$out/nccl.log" 2>&1; then
        timed "NCCL with one rank: the same bits" 60 "$out/nccl.log" same_bytes nccl --transport nccl
    else
        note skipped "NCCL with one rank" 0 "$(tail -n 1 "$out/nccl.log" | cut -c 1-100)"
    fi
    if [ -f "$place/tests/test_cuda_cli.sh" ]; then
        EHR_PROGRAMS=$bin timed "the commands from the outside" 150 "$out/cli.log" bash "$place/tests/test_cuda_cli.sh" "$bin"
    fi
    sanitizer=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer)
    if [ -z "$sanitizer" ]; then note skipped "compute-sanitizer" 0 "it is not here"; else
        for name in rows matmul attention; do
            test=$(program test_cuda_$name) || continue
            timed "memcheck test_cuda_$name" 60 "$out/memcheck-$name.log" sanitize memcheck "$test"
            timed "racecheck test_cuda_$name" 60 "$out/racecheck-$name.log" sanitize racecheck "$test"
            timed "synccheck test_cuda_$name" 60 "$out/synccheck-$name.log" sanitize synccheck "$test"
        done
    fi
}

# ---- bench and rivals -------------------------------------------------------------------------------------------------------
rate_of() { # rate_of LOG: tokens a second of whole steps
    sed -n '/whole steps/,$s/^ *tokens\/s *\([0-9.]*\).*/\1/p' "$1" | head -n 1
}
measured=()
training() { # training PRESET ROWS STEPS FLAGS...: what ehr-train would do
    local preset=$1 log rate mfu
    shift
    log=$out/step-$preset-$1${3:+-more}.log
    timed "training $preset, $1 x 8192 ${*:3}" 120 "$log" "$step" --device cuda --shape "$([ -n "$small" ] && echo nano || echo "$preset")" \
        --batch "$1" --seq-len $([ -n "$small" ] && echo 32 || echo 8192) --steps "$2" "${@:3}" || return
    rate=$(rate_of "$log")
    mfu=$(sed -n '/whole steps/,$s/.*MFU \([0-9.]*%\).*/\1/p' "$log" | head -n 1)
    rows[-1]="${rows[-1]}$rate tokens/s, MFU $mfu, $(sed -n 's/^ *device *\([0-9.]* GiB\).*/\1/p' "$log")"
    measured+=("$preset=$rate")
}
operations() {
    timed "operations" 240 "$out/ops.log" "$ops" --csv "$out/ops.csv" ${small:+--quick --presets nano}
    cat "$out/ops.log"
    # Products of all presets and shapes beside cuBLASLt; shapes may hold commas, so from the end of a line.
    awk -F, '$2 ~ /^matmul/ && $NF > 0 && $(NF - 5) > 0 {
            x = $NF / $(NF - 5); sum += log(x); n++
            if (!least || x < least) { least = x; where = $1 " " $2 }
        }
        END { if (n) printf "products: %.2f x cuBLASLt (geometric mean of %d), least %.2f (%s)\n", exp(sum / n), n, least, where }' \
        "$out/ops.csv"
}
bench() {
    operations
    training medium 4 10
    training medium 1 10
    training large 1 6
    training large 2 6 --recompute mlp
    # Records of real length: 40 sequences in a row.
    [ -n "$small" ] || training medium 4 10 --sequences 40
}
rivals() {
    local python_ok
    python_ok=$("$PYTHON" -c 'import torch; print(torch.cuda.is_available())' 2>&1 | tail -n 1)
    if [ "$python_ok" != True ]; then
        note skipped "PyTorch" 0 "$PYTHON: $(cut -c 1-80 <<< "$python_ok")"
    fi
    training medium 1 10
    training large 1 6
    operations
    [ "$python_ok" = True ] || return
    timed "PyTorch at the same sizes" "$(left)" "$out/rivals.log" "$PYTHON" "$(dirname "$0")/rivals.py" --ops "$out/ops.csv" \
        --deadline $(($(left) - 20)) ${small:+--smoke} --step "${measured[@]}"
    cat "$out/rivals.log"
}
$what
ending
