#!/bin/bash
# bench.sh - what `make bench` runs: products beside OpenBLAS, attention, whole training steps and where their time goes, each
# beside the machine's own ceiling in the same minutes.  Appends machine, date, commit and the tables to BENCHMARKS.md.
# On a shared machine only ratios mean anything; the share of time that the host took away (steal) is printed with each part.
#
#   OUT=FILE    append there instead     SECONDS_A_ROW=S    longer rows, less noise [0.3]
cd "$(dirname "$0")/.." || exit 1
. scripts/env.sh
out=${OUT:-BENCHMARKS.md}
seconds=${SECONDS_A_ROW:-0.3}
table=$(mktemp)
trap 'rm -f "$table"' EXIT

openblas() { ldconfig -p 2> /dev/null | grep -q libopenblas.so.0; }
if ! openblas && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "bench: installing OpenBLAS to compare with"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends libopenblas0-openmp > /dev/null 2>&1
fi
openblas || echo "bench: no OpenBLAS here: products are shown beside the machine's peak only"
# OpenBLAS 0.3.21 does not know newer machines and takes kernels of half their width: it gets its widest.
if [ -z "$OPENBLAS_CORETYPE" ] && grep -q avx512vl /proc/cpuinfo; then export OPENBLAS_CORETYPE=SKYLAKEX; fi

ticks() { awk '/^cpu /{ print $2 + $3 + $4 + $7 + $8, $9 }' /proc/stat; } # busy, steal
part() { # part TITLE COMMAND...
    local title=$1 before after
    shift
    before=$(ticks)
    printf '\n### %s\n\n```\n' "$title" | tee -a "$table"
    "$@" 2>&1 | tee -a "$table"
    after=$(ticks)
    echo "$before $after" | awk '{ b = $3 - $1; s = $4 - $2; printf "```\n\nsteal %.1f%%\n", b + s > 0 ? 100 * s / (b + s) : 0 }' | tee -a "$table"
}

{
    printf '\n## %s, %s, commit %s\n\n' "$(date -u +%F)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
        "$(git describe --always --dirty)"
    printf '%s cores, load %s before the run; OpenBLAS kernels: %s.\n' "$(nproc)" "$(cut -d' ' -f1 /proc/loadavg)" \
        "${OPENBLAS_CORETYPE:-its own choice}"
} | tee -a "$table"
for threads in 1 2; do part "Products, $threads threads" build/bench_gemm --threads $threads --seconds "$seconds"; done
for threads in 1 2; do part "Attention, $threads threads" build/bench_attention --threads $threads --seconds "$seconds"; done
for shape in gpt14m gpt124m llama134m; do
    for T in 64 256; do
        part "Training step, $shape, 4 x $T, 2 threads" build/bench_step --shape $shape --batch 4 --seq-len $T --threads 2 --steps 5 --profile
    done
done
part "Training step, nano, 2 x 512 in 6 sequences, 1 thread" \
    build/bench_step --shape nano --vocabulary 208 --batch 2 --seq-len 512 --sequences 3 --threads 1 --steps 50 --profile
cat "$table" >> "$out"
echo "bench: appended to $out"
