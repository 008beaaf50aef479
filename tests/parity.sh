#!/bin/bash
# parity.sh - `make test-parity`: a checkpoint trained here, opened by transformers, gives our logits.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
work=$(mktemp -d)
trap 'rc=$?; [ $rc = 0 ] || tail -n 20 "$work/log"; rm -rf "$work"' EXIT
sh scripts/setup.sh parity
make --no-print-directory build/tests/parity_logits >> "$work/log" 2>&1
passed=0 failed=0
check() { # check NAME COMMAND...
    local name=$1
    shift
    if "$@"; then echo "ok - $name"; passed=$((passed + 1)); else echo "not ok - $name"; failed=$((failed + 1)); fi
}
build/ehr-data synth --patients 600 --seed 5 --risk-samples 16 --out "$work" >> "$work/log" 2>&1
build/ehr-data tokenize "$work/events.h5" --vocabulary "$work/vocabulary.json" --out "$work/d" >> "$work/log" 2>&1
for head in tied untied; do
    build/ehr-train --data "$work/d" --model nano --tied=$([ $head = tied ] && echo yes || echo no) --steps 30 --batch 4 \
        --seq-len 256 --out "$work/$head" >> "$work/log" 2>&1
    build/tests/parity_logits "$work/$head/latest" "$work/d" 64 "$work/$head.logits"
    check "logits of 64 timelines equal those of transformers ($head head)" \
        .venv/bin/python scripts/parity.py "$work/$head/latest" "$work/$head.logits"
done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
