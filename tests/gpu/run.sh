#!/bin/bash
# run.sh check|bench|rivals [PLACE] - what only a GPU can say, in at most 8 minutes each.  PLACE: a bundle (`make bundle`) or a
# tree built with `make all cuda`; default: the bundle this lies in, build/bundle, or build.  Needs a driver and a GPU from sm_80 on; no OpenMPI, no
# HDF5, no toolkit when PLACE is a bundle.  Python with torch for `rivals`; compute-sanitizer and libnccl are used if found.
#
#   check   every CUDA test program on the real kernels, invariance and determinism among them; 100 steps of training
#           against the CPU's losses; the same run twice; two ranks on one GPU; NCCL with one rank; compute-sanitizer
#   bench   every operation at the 119 M and 1 B presets beside cuBLASLt; training tokens a second and MFU
#   rivals  attention beside PyTorch's SDPA, a training step beside PyTorch's compiled one, same model, same run
cd "$(dirname "$0")/../.." || exit 1
mode=${1:-}
place=${2:-}
case $mode in check | bench | rivals) ;; *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
if [ -z "$place" ]; then
    place=build
    [ -x build/bundle/bin/ehr-train ] && place=build/bundle
    [ -x bin/ehr-train ] && place=. # this script lies in a bundle itself
fi
bin=$place
[ -d "$place/bin" ] && bin=$place/bin
[ -x "$bin/ehr-train" ] || { echo "run.sh: no ehr-train in $bin: run \`make bundle\` or \`make all cuda\` where nvcc is" >&2; exit 1; }
[ -f scripts/env.sh ] && . scripts/env.sh
mpirun=mpirun
[ -x "$bin/mpirun" ] && mpirun=$bin/mpirun
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
steps=${STEPS:-100} # fewer only to try this script itself
passed=0 failed=0 skipped=0
long=${EHR_TEST_LONG-1} # the long lists of shapes
ok() { passed=$((passed + 1)); echo "ok - $*"; }
not_ok() { failed=$((failed + 1)); echo "not ok - $*"; }
skip() { skipped=$((skipped + 1)); echo "skip - $*"; }
verdict() { local rc=$1; shift; if [ "$rc" = 0 ]; then ok "$@"; else not_ok "$@"; fi; }

say_gpu() {
    if ! "$bin/bench_step" --device cuda --shape nano --steps 1 --batch 1 --seq-len 64 > "$tmp/first" 2>&1; then
        sed 's/^/run.sh: /' "$tmp/first" >&2
        echo "run.sh: no GPU answers here; nothing was checked or measured" >&2
        exit 1
    fi
    echo "== $mode on $(head -n 1 "$tmp/first")"
    command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.limit --format=csv,noheader
}

# ---- check ----------------------------------------------------------------------------------------------------------------

programs() { # every test program against the real kernels; the ranks' test has its own place below
    local t name
    for t in "$bin"/test_cuda_* "$place"/tests/test_cuda_*; do
        [ -x "$t" ] && [ ! -d "$t" ] || continue
        name=$(basename "$t")
        case $name in *.* | test_cuda_cublas | test_cuda_dist) continue ;; esac
        EHR_TEST_LONG=$long timeout 150 "$t" > "$tmp/$name" 2>&1
        verdict $? "$name: $(grep -c '^\[       OK' "$tmp/$name") tests" || true
        grep -E '^\[  FAILED' "$tmp/$name" | sort -u | head -8 | sed 's/^/    /'
    done
}

dataset() {
    "$bin/ehr-data" synth --patients 2000 --seed 1 --risk-samples 16 --out "$tmp/events" > "$tmp/synth.log" 2>&1 &&
        "$bin/ehr-data" tokenize "$tmp/events/events.h5" --vocabulary "$tmp/events/vocabulary.json" --out "$tmp/data" >> "$tmp/synth.log" 2>&1
}

train() { # train OUT FLAGS...: $steps steps of nano; losses end up in OUT.loss, one a line
    local out=$1
    shift
    "${launch[@]}" "$bin/ehr-train" --data "$tmp/data" --model nano --steps "$steps" --batch 8 --seed 1 --eval-every "$steps" \
        --checkpoint-every "$steps" --out "$out" "$@" > "$out.log" 2>&1 || { tail -n 3 "$out.log" | sed 's/^/    /'; return 1; }
    sed -n 's/.*"step": *\([0-9]*\).*"loss": *\([0-9.eE+-]*\).*/\1 \2/p' "$out/log.jsonl" > "$out.loss"
}

near() { # near A B LIMIT WHAT: the largest relative difference of two runs' losses
    local worst
    worst=$(paste "$1.loss" "$2.loss" | awk '$1 == $3 && NF == 4 {d = ($2 - $4) / $4; if (d < 0) d = -d; if (d > m) m = d; n++} END {print n >= s ? m : 9}' s="$steps" -)
    awk -v w="$worst" -v l="$3" 'BEGIN {exit !(w <= l)}'
    verdict $? "$4: largest relative difference of $steps losses $worst (at most $3)"
}

check() {
    local sanitizer rows launch=()
    programs
    if ! dataset; then not_ok "a dataset to train on"; tail -n 3 "$tmp/synth.log"; return; fi
    train "$tmp/cpu" --device cpu; verdict $? "$steps steps on the CPU"
    train "$tmp/f32" --device cuda --dtype f32; verdict $? "$steps steps on the GPU in float32"
    train "$tmp/bf16" --device cuda --dtype bf16; verdict $? "$steps steps on the GPU in bf16"
    # Rounding differences of a chaotic process grow with the steps; a wrong gradient shows far above these.
    near "$tmp/f32" "$tmp/cpu" 5e-3 "float32 on the GPU as on the CPU"
    near "$tmp/bf16" "$tmp/cpu" 2e-2 "bf16 on the GPU as float32 on the CPU"
    train "$tmp/again" --device cuda --dtype bf16
    cmp -s "$tmp/bf16/latest/model.safetensors" "$tmp/again/latest/model.safetensors"; verdict $? "the same run twice gives the same bytes"
    train "$tmp/plain" --device cuda --dtype bf16 --graphs=no
    cmp -s "$tmp/bf16/latest/model.safetensors" "$tmp/plain/latest/model.safetensors"; verdict $? "recorded passes give the bytes of plain ones"
    if command -v "$mpirun" > /dev/null; then
        launch=("$mpirun" -np 2)
        train "$tmp/two" --device cuda --dtype bf16; verdict $? "two ranks on one GPU"
        near "$tmp/two" "$tmp/bf16" 2e-2 "two ranks as one"
        launch=("$mpirun" -np 1)
    else
        skip "two ranks on one GPU: no mpirun"
    fi
    if ldconfig -p 2> /dev/null | grep -q 'libnccl\.so\.2' || [ -n "${NCCL_HOME:-}" ]; then
        train "$tmp/nccl" --device cuda --dtype bf16 --transport nccl; verdict $? "one rank over the real NCCL"
        near "$tmp/nccl" "$tmp/bf16" 2e-2 "NCCL as none"
    else
        skip "one rank over the real NCCL: no libnccl.so.2"
    fi
    launch=()
    "$bin/ehr-infer" generate "$tmp/bf16/latest" --data "$tmp/data" --patient 0 --samples 4 --device cuda --seed 3 > "$tmp/g1" 2> "$tmp/g.log"
    verdict $? "futures on the GPU"
    "$bin/ehr-infer" generate "$tmp/bf16/latest" --data "$tmp/data" --patient 0 --samples 4 --device cuda --seed 3 > "$tmp/g2" 2>> "$tmp/g.log"
    cmp -s "$tmp/g1" "$tmp/g2"; verdict $? "the same futures twice"
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
    if [ -n "$sanitizer" ]; then
        rows=$bin/test_cuda_rows
        [ -x "$rows" ] || rows=$place/tests/test_cuda_rows
        for tool in memcheck racecheck synccheck; do
            timeout 90 "$sanitizer" --target-processes all --tool $tool --error-exitcode 9 "$rows" > "$tmp/$tool" 2>&1
            verdict $? "compute-sanitizer $tool on the row kernels"
        done
    else
        skip "compute-sanitizer: not here"
    fi
}

# ---- bench and rivals -----------------------------------------------------------------------------------------------------

bench() {
    echo && "$bin/bench_ops" --presets medium,large
    verdict $? "operations"
    echo && "$bin/bench_step" --device cuda --preset medium --batch 4 --seq-len 8192 --steps 8
    verdict $? "training step, medium, T = 8192"
    echo && "$bin/bench_step" --device cuda --preset large --batch 2 --seq-len 8192 --steps 5 --recompute mlp
    verdict $? "training step, large, T = 8192"
    echo && "$bin/bench_step" --device cuda --preset medium --batch 4 --seq-len 8192 --sequences 40 --steps 8
    verdict $? "training step, medium, rows packed with 40 sequences"
}

rivals() {
    local python=${PYTHON:-python3} p
    "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2> /dev/null ||
        { skip "rivals: $python has no torch that sees the GPU (PYTHON names another)"; return; }
    "$bin/bench_ops" --presets medium --csv "$tmp/operations" > /dev/null
    verdict $? "our operations"
    for p in medium:4 large:2; do
        echo "${p%:*} $("$bin/bench_step" --device cuda --preset "${p%:*}" --batch "${p#*:}" --seq-len 8192 --steps 6 \
            $([ "${p%:*}" = large ] && echo --recompute mlp) | grep 'tokens/s' | tail -n 1)"
    done > "$tmp/steps"
    timeout 360 "$python" tests/gpu/rivals.py --attention "$tmp/operations" --steps "$tmp/steps"
    verdict $? "PyTorch beside"
}

say_gpu
start=$SECONDS
$mode
echo "$mode took $((SECONDS - start)) s"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
