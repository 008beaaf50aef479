#!/bin/bash
# test_cuda_build.sh BUILD - what nvcc made: no warnings, no spilled registers where that would hurt, both architectures in
# every kernel file, and programs that need no CUDA library and start without a GPU.
. "$(dirname "$0")/shell.sh"
train=$build/ehr-train infer=$build/ehr-infer

# ---- true of every build -------------------------------------------------------------------------------------------
check "programs need no CUDA library to start" \
    "$(for p in "$build"/ehr-{data,train,infer}; do ldd "$p" 2>&1; done | grep -iE 'cuda|cublas|nccl|nvidia|nvrtc|not found')"
check "ehr-data carries no kernels" "$(nm "$build/ehr-data" | grep -iE ' cuda(Malloc|LaunchKernel)$|fatbin')"
if ls /dev/nvidia[0-9]* > /dev/null 2>&1; then
    echo "skip - what programs say without a GPU: there is one here"
else
    $train --device cuda --data "$work" --out "$work/run" > "$work/out" 2> "$work/err"
    rc=$?
    check "ehr-train --device cuda ends with exit code 1" "$([ $rc = 1 ] || { echo "exit code $rc"; cat "$work/err"; })"
    check "ehr-train --device cuda says why and what to do, in one line" \
        "$(grep -qE 'GPU.*--device cpu' "$work/err" && [ "$(grep -c . "$work/err")" = 1 ] || { echo "it said:"; cat "$work/err"; })"
    $train --device auto --data "$work" --out "$work/run" > "$work/out" 2> "$work/err"
    check "ehr-train --device auto goes on to its data on the CPU" \
        "$(grep -q 'dataset.json' "$work/err" && ! grep -q GPU "$work/err" || { echo "it said:"; cat "$work/err"; })"
    check "ehr-infer starts" "$($infer --help > "$work/out" 2>&1 || { echo "it said:"; cat "$work/out"; })"
fi

# ---- what is predicted is what the code that chooses says ------------------------------------------------------------
if grep -qE '^  emulator +yes' "$build/detect.txt" && [ -x .venv/bin/python ]; then
    .venv/bin/python tests/gpu/predict.py > "$work/predicted" 2> "$work/err"
    rc=$?
    check "the products that tests/gpu/PENDING.md predicts are chosen and take the time that it says" \
        "$([ $rc = 0 ] || tail -n 3 "$work/err"; grep -E '^\| (119 M|1 B) \| [a-z_]+ [a-z_]+ \| 128 x' tests/gpu/PENDING.md | diff - <(tail -n +3 "$work/predicted"))"
else
    echo "skip - predicted products: no C++ compiler, no CUDA headers or no .venv"
fi

# ---- nvcc's part ---------------------------------------------------------------------------------------------------
if ! ls "$build"/kernels/cuda/*.ptxas > /dev/null 2>&1; then
    echo "skip - kernels by nvcc: $(grep -E '^  CUDA ' "$build/detect.txt" | sed 's/^ *CUDA *[a-z]* *//')"
    exit 0
fi
report=$work/report
bash scripts/cuda_report.sh "$build" > "$report"
check "nvcc and ptxas have nothing to warn of" "$(grep -hiE 'warning|error' "$build"/kernels/cuda/*.ptxas)"
check "every file with kernels has them for sm_80 and sm_90a" \
    "$(for f in $(grep -lE '__global__' kernels/cuda/*.cu); do
        n=$(basename "$f" .cu)
        for a in sm_80 sm_90a; do grep -qE "^$n: .* $a " "$report" || echo "$n has none for $a"; done
    done)"
check "matrix products and attention spill no registers" \
    "$(grep -E '^(matmul|attention|classifier)[a-z_0-9]*: ' "$report" | awk '$NF > 0 || $(NF - 1) > 0')"
check "row kernels spill no registers" \
    "$(grep -E '^(embedding|rmsnorm|rope|rows|swiglu|optimizer|sample|quantize): ' "$report" | awk '$NF > 0')"
exit $failed
