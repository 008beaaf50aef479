#!/bin/bash
# bench.sh [--smoke] - what `make bench` runs: products, attention, inference, the loader and whole training steps, each beside
# rivals in the same run (OpenBLAS, oneDNN, PyTorch: those that are here) and the machine's own ceilings, and where a step's
# time goes.  Appends machine, date, commit and the tables to BENCHMARKS.md.
# On a shared machine only ratios mean anything: with each part stand the cores that others kept busy before it, the share of
# time that the host took away (steal) and, with several threads, how long a cache line takes from core to core
# (bench_cores.c).  One thread is timed by its own clock, which stands still while others have the core; parts on more
# threads are left out while others are busy.
#
#   --smoke             seconds instead of minutes, to see that everything runs; nothing is appended anywhere but to OUT
#   OUT=FILE            append there instead
#   SECONDS_A_ROW=S     longer rows, less noise [0.2]
#   ALWAYS=1            several threads even while others are busy
#   TORCH_PYTHON=FILE   a python that has PyTorch [.venv/bin/python, where `sh scripts/setup.sh parity` put it]
#   PARTS="gemm ..."    of gemm attention infer import loader step [all]
#   BUILD=FOLDER        where the programs are [build]
cd "$(dirname "$0")/.." || exit 1
. scripts/env.sh
build=${BUILD:-build}
smoke=0
if [ "${1:-}" = --smoke ]; then smoke=1; fi
out=${OUT:-$([ $smoke = 1 ] && echo /dev/null || echo BENCHMARKS.md)}
seconds=${SECONDS_A_ROW:-$([ $smoke = 1 ] && echo 0 || echo 0.2)}
parts=" ${PARTS:-gemm attention infer import loader step} "
work=$(mktemp -d)
table=$work/table
failed=0
trap 'rm -rf "$work"' EXIT

# ---- rivals ----------------------------------------------------------------------------------------------------------------
library() { ldconfig -p 2> /dev/null | grep -q "$1"; }
if [ $smoke = 0 ] && ! { library libopenblas.so.0 && library libdnnl.so; } && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "bench: installing OpenBLAS and oneDNN to compare with"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends libopenblas0-openmp > /dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends libdnnl2 > /dev/null 2>&1
fi
python=${TORCH_PYTHON:-.venv/bin/python}
rival=()
if [ $smoke = 1 ]; then
    :
elif "$python" -c 'import torch' 2> /dev/null; then
    rival=(--rival "$python tests/bench_torch.py")
    # MKL, which multiplies for PyTorch, takes its wide kernels on Intel's machines only: half the speed elsewhere.  The
    # fastest setting is the rival, so it is told that this is one.
    if ! grep -q GenuineIntel /proc/cpuinfo && echo 'int mkl_serv_intel_cpu_true(void) { return 1; }' > "$work/intel.c" &&
        ${CC:-gcc} -shared -fPIC "$work/intel.c" -o "$work/libintel.so"; then
        rival=(--rival "env LD_PRELOAD=$work/libintel.so $python tests/bench_torch.py")
    fi
else
    echo "bench: no PyTorch to compare steps with (sh scripts/setup.sh parity)"
fi

# ---- parts -----------------------------------------------------------------------------------------------------------------
ticks() { awk '/^cpu /{ print $2 + $3 + $4 + $7 + $8, $9, $5 + $6 }' /proc/stat; } # busy, steal, idle
others() { # cores that others keep busy, over a second
    local a b
    a=$(ticks)
    sleep 1
    b=$(ticks)
    echo "$a $b $(nproc)" | awk '{ busy = $4 + $5 - $1 - $2; all = busy + $6 - $3; printf "%.1f", (all > 0 ? $7 * busy / all : 0) }'
}
apart() { # ns from core to core: the host may move ours between chiplets, and parts on several threads feel it
    if [ "$1" -gt 1 ]; then "$build/bench_cores"; fi
}
part() { # part KIND THREADS TITLE COMMAND...
    local threads=$2 title=$3 before after apart busy=0
    case $parts in *" $1 "*) ;; *) return ;; esac
    shift 3
    if [ $smoke = 0 ]; then busy=$(others); fi
    if [ "$threads" -gt 1 ] && [ -z "$ALWAYS" ] && awk "BEGIN { exit !($busy > 0.3) }"; then
        printf '\n%s: left out, others keep %s cores busy.\n' "$title" "$busy" | tee -a "$table"
        return
    fi
    before=$(ticks) apart=$(apart "$threads")
    printf '\n### %s\n\n```\n' "$title" | tee -a "$table"
    timeout 900 "$@" > >(tee -a "$table") 2>&1
    if [ $? != 0 ]; then failed=1; fi
    wait
    after=$(ticks)
    echo "$before $after $busy" | awk '{ b = $4 - $1; s = $5 - $2;
        printf "```\n\nothers kept %s cores busy before it; steal %.1f%%", $7, (b + s > 0 ? 100 * s / (b + s) : 0) }' | tee -a "$table"
    if [ -n "$apart" ]; then
        printf '; a cache line went from core to core in %s ns before it, %s after it' "$apart" "$(apart "$threads")" | tee -a "$table"
    fi
    echo | tee -a "$table"
}

{
    printf '\n## %s, %s, commit %s\n\n' "$(date -u +%F)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
        "$(git describe --always --dirty 2> /dev/null)"
    printf '%s cores, caches %s, load %s before the run.\n' "$(nproc)" \
        "$(lscpu 2> /dev/null | awk -F: '/^L[123]d? cache/{ gsub(/^ +| \(.*/, "", $2); printf "%s%s", s, $2; s = ", " }')" \
        "$(cut -d' ' -f1 /proc/loadavg)"
} | tee -a "$table"
threads() { echo "$1 thread$([ "$1" = 1 ] || echo s)"; }
counts="1$([ $smoke = 0 ] && [ "$(nproc)" -gt 1 ] && echo " $(nproc)")"
for n in $counts; do part gemm "$n" "Products, $(threads "$n")" "$build/bench_gemm" --threads "$n" --seconds "$seconds" --smoke $smoke; done
for n in $counts; do
    part attention "$n" "Attention, $(threads "$n")" "$build/bench_attention" --threads "$n" --seconds "$seconds" --smoke $smoke
done
for n in $counts; do
    part infer "$n" "Inference, 134 M, $(threads "$n")" "$build/bench_infer" --threads "$n" --seconds "$seconds" --smoke $smoke
done
part import 1 "Importing and tokenising OMOP" env EVENTS=$([ $smoke = 1 ] && echo 20000 || echo 2000000) bash tests/bench_import.sh "$build"
part loader 1 "Loader" "$build/bench_loader" --seconds "$seconds" --smoke $smoke
step() { # step THREADS SHAPE T STEPS
    part step "$1" "Training step, $2, 4 x $3, $(threads "$1")" \
        "$build/bench_step" --shape "$2" --batch 4 --seq-len "$3" --threads "$1" --steps "$4" --profile "${rival[@]}"
}
if [ $smoke = 1 ]; then
    step 1 nano 64 1
else
    for n in $counts; do
        step "$n" gpt14m 64 9
        step "$n" gpt14m 256 7
        step "$n" gpt124m 64 5
        step "$n" gpt124m 256 4
    done
    part step 1 "Training step, nano, 2 x 512 in 6 sequences, 1 thread" \
        "$build/bench_step" --shape nano --vocabulary 208 --batch 2 --seq-len 512 --sequences 3 --threads 1 --steps 50 --profile
fi
cat "$table" >> "$out"
echo "bench: appended to $out"
exit $failed
