"""Compares logits written by tests/parity_logits.c with those of transformers on the same checkpoint folder.

Usage: parity.py CHECKPOINT LOGITS [BASE].  With BASE the checkpoint is a LoRA adapter, which peft puts on that model.
Exit 0 when the largest difference is below 1e-4, the likeliest continuations of ten timelines are the same, and the
tokenizer agrees, up to a prompt of text.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 1e-4
CONTINUED = 10  # timelines


def main():
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    checkpoint, path = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[3] if len(sys.argv) > 3 else checkpoint, dtype=torch.float32).eval()
    if len(sys.argv) > 3:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, checkpoint).eval()
    data = np.fromfile(path, np.int32)
    n, vocabulary, greedy = (int(x) for x in data[:3])
    at, worst, rows, scale, continued = 3, 0.0, 0, 0.0, 0
    model.generation_config.update(do_sample=False, eos_token_id=None, temperature=None, top_k=None, top_p=None)
    with torch.no_grad():
        for i in range(n):
            length = int(data[at])
            tokens = data[at + 1 : at + 1 + length].astype(np.int64)
            at += 1 + length
            ours = data[at : at + length * vocabulary].view(np.float32).reshape(length, vocabulary)
            at += length * vocabulary
            ours_next = data[at : at + greedy]
            at += greedy
            theirs = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
            worst = np.maximum(worst, np.abs(ours - theirs).max())  # keeps what is not a number
            scale = max(scale, float(np.abs(theirs).max()))
            rows += length
            if i < CONTINUED:
                prompt = torch.from_numpy(tokens)[None]
                theirs_next = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=greedy)
                continued += np.array_equal(theirs_next[0, length:].numpy(), ours_next)
    print(f"{n} timelines, {rows} positions, {vocabulary} logits each: largest difference {worst:.2e} (largest logit {scale:.1f})")
    print(f"likeliest {greedy} tokens: the same after {continued} of {min(n, CONTINUED)} timelines")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = tokenizer(tokenizer.decode(tokens), return_tensors="pt")  # as text, the last timeline
    with torch.no_grad():
        told = model.generate(**prompt, max_new_tokens=greedy)[0, length:].numpy()
    print(f"the last as text: {'the same' if np.array_equal(told, ours_next) else 'another'} continuation")
    codes = [t["code"] for t in json.loads((checkpoint / "vocabulary.json").read_text())["tokens"]]
    wrong = [c for i, c in enumerate(codes) if " " not in c and tokenizer.convert_tokens_to_ids(c) != i]
    print(f"tokenizer: {len(codes)} codes, {len(wrong)} with another id in transformers")
    sys.exit(0 if worst < LIMIT and n > 0 and continued == min(n, CONTINUED) and not wrong and np.array_equal(told, ours_next) else 1)


if __name__ == "__main__":
    main()
