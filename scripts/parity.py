"""Compares logits written by tests/parity_logits.c with those of transformers on the same checkpoint folder.

Usage: parity.py CHECKPOINT LOGITS.  Exit 0 when the largest difference is below 1e-4 and the tokenizer agrees.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 1e-4


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    checkpoint, path = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    data = np.fromfile(path, np.int32)
    n, vocabulary = int(data[0]), int(data[1])
    at, worst, rows, scale = 2, 0.0, 0, 0.0
    with torch.no_grad():
        for _ in range(n):
            length = int(data[at])
            tokens = data[at + 1 : at + 1 + length].astype(np.int64)
            at += 1 + length
            ours = data[at : at + length * vocabulary].view(np.float32).reshape(length, vocabulary)
            at += length * vocabulary
            theirs = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
            worst = max(worst, float(np.abs(ours - theirs).max()))
            scale = max(scale, float(np.abs(theirs).max()))
            rows += length
    print(f"{n} timelines, {rows} positions, {vocabulary} logits each: largest difference {worst:.2e} (largest logit {scale:.1f})")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    codes = [t["code"] for t in json.loads((checkpoint / "vocabulary.json").read_text())["tokens"]]
    wrong = [c for i, c in enumerate(codes) if " " not in c and tokenizer.convert_tokens_to_ids(c) != i]
    print(f"tokenizer: {len(codes)} codes, {len(wrong)} with another id in transformers")
    sys.exit(0 if worst < LIMIT and n > 0 and not wrong else 1)


if __name__ == "__main__":
    main()
