#!/bin/bash
# parity.sh - `make test-parity`: a checkpoint trained here, and what is exported from it, gives our logits and our
# likeliest continuations in transformers; the gguf and safetensors packages read the weights back.  With the package
# llama-cpp-python in .venv (set-up does not install it) llama.cpp does the same.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
work=$(mktemp -d)
trap 'rc=$?; [ $rc = 0 ] || tail -n 20 "$work/log"; rm -rf "$work"' EXIT
sh scripts/setup.sh parity
"${MAKE:-make}" --no-print-directory build/tests/parity_logits >> "$work/log" 2>&1
passed=0 failed=0 skipped=0
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
    for type in f32 bf16; do
        build/ehr-infer export "$work/$head/latest" --dtype $type --max-file 500K --out "$work/$head-$type" >> "$work/log" 2>&1
        build/tests/parity_logits "$work/$head-$type" "$work/d" 64 "$work/$head-$type.logits"
        check "and so do those of the exported folder, in files of 500 KB ($head head, $type)" \
            .venv/bin/python scripts/parity.py "$work/$head-$type" "$work/$head-$type.logits"
    done
    .venv/bin/python -c 'import sys, transformers as t; t.AutoModelForCausalLM.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2], max_shard_size="500KB")' \
        "$work/$head-f32" "$work/$head-saved" >> "$work/log" 2>&1
    cp "$work/$head-f32/vocabulary.json" "$work/$head-saved"
    build/tests/parity_logits "$work/$head-saved" "$work/d" 64 "$work/$head-saved.logits"
    check "a folder that transformers saved, in files of 500 KB, gives us the same logits, bit for bit ($head head)" \
        cmp "$work/$head-saved.logits" "$work/$head.logits"
    for type in f32 bf16 f16 q8_0; do
        build/ehr-infer export "$work/$head/latest" --format gguf --dtype $type --out "$work/$head-$type.gguf" >> "$work/log" 2>&1
    done
    if .venv/bin/python -c 'import llama_cpp' 2>> "$work/log"; then
        check "llama.cpp gives our logits, as near as f32, f16, bf16 and q8_0 allow, from ids and from text ($head head)" \
            .venv/bin/python scripts/parity_llama.py "$work/$head-f32" "$work/$head.logits" "$work/$head"-{f32,f16,bf16,q8_0}.gguf
    else
        echo "skip - llama.cpp ($head head): no package llama_cpp; .venv/bin/pip install llama-cpp-python compiles it (minutes)"
        skipped=$((skipped + 1))
    fi
    build/ehr-train --data "$work/d" --init "$work/$head" --lora-rank 8 --learning-rate 5e-3 --steps 20 --batch 4 --out "$work/$head-lora" >> "$work/log" 2>&1
    build/tests/parity_logits "$work/$head-lora/latest" "$work/d" 64 "$work/$head-lora.logits"
    check "peft puts our LoRA adapter on our exported base and gives our logits ($head head)" \
        .venv/bin/python scripts/parity.py "$work/$head-lora/latest" "$work/$head-lora.logits" "$work/$head-f32"
    check "transformers loads the LoRA checkpoint's folder as it stands ($head head)" \
        .venv/bin/python scripts/parity.py "$work/$head-lora/latest" "$work/$head-lora.logits"
    build/ehr-train --data "$work/d" --init "$work/$head" --lora-rank 4 --train-embeddings --steps 10 --batch 4 --out "$work/$head-whole" >> "$work/log" 2>&1
    build/tests/parity_logits "$work/$head-whole/latest" "$work/d" 64 "$work/$head-whole.logits"
    check "peft takes the embeddings that were trained whole, too ($head head)" \
        .venv/bin/python scripts/parity.py "$work/$head-whole/latest" "$work/$head-whole.logits" "$work/$head-f32"
    build/ehr-infer export "$work/$head-lora" --dtype f32 --out "$work/$head-merged" >> "$work/log" 2>&1
    check "so does the exported model with the adapter merged ($head head)" \
        .venv/bin/python scripts/parity.py "$work/$head-merged" "$work/$head-lora.logits"
    check "the gguf package reads the same tensors ($head head)" \
        .venv/bin/python scripts/parity_export.py "$work/$head-f32" "$work/$head"-{f32,bf16,f16,q8_0}.gguf
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
