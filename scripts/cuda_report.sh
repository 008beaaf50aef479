#!/bin/bash
# cuda_report.sh BUILD - what ptxas said of every kernel (BUILD/kernels/cuda/*.ptxas): a line for each kernel and
# architecture with registers a thread, static shared memory, stack and spilled bytes.
build=${1:-build}
printf '%-56s %-7s %9s %8s %7s %7s\n' kernel arch registers shared stack spills
for log in "$build"/kernels/cuda/*.ptxas; do
    [ -e "$log" ] || continue
    c++filt < "$log" | awk -v file="$(basename "$log" .ptxas)" '
        /Compiling entry function/ {
            arch = $0; sub(/.*for .sm_/, "sm_", arch); sub(/[^a-z0-9_].*/, "", arch)
            name = $0; sub(/.*entry function ./, "", name); sub(/. for .sm_.*/, "", name)
            gsub(/\(anonymous namespace\)::/, "", name); sub(/^void /, "", name); gsub(/__nv_bfloat16/, "bf16", name)
            sub(/\(.*/, "", name); gsub(/\(int\)|\(bool\)/, "", name)
        }
        /bytes stack frame/ { stack = $1; spills = $5 + $9 }
        /Used [0-9]+ registers/ {
            registers = $0; sub(/.*Used /, "", registers); sub(/ .*/, "", registers)
            shared = 0
            if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH) + 0
            printf "%-56s %-7s %9d %8d %7d %7d\n", file ": " name, arch, registers, shared, stack, spills
        }'
done
