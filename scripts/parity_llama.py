"""Runs exported GGUF files in llama.cpp (the package llama-cpp-python) beside our logits.

Usage: parity_llama.py FOLDER LOGITS FILE.gguf...  FOLDER: the same model as float32 safetensors; LOGITS: of
tests/parity_logits.c.  Exit 0 when F32 gives our logits to 1e-4 and our likeliest continuations of ten timelines, the
other types are off by at most twice what the plain formula in their precision is off, and codes in a text become their ids.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

try:
    from llama_cpp import Llama
except ImportError:
    sys.exit(f"{__doc__}\nparity_llama: llama-cpp-python is missing: .venv/bin/pip install llama-cpp-python")

LIMIT = 1e-4
CONTINUED = 10  # timelines
F32 = 0  # ggml's number of the type, for the cache


def read_logits(path):
    """(tokens, logits, likeliest continuation) of each timeline."""
    data = np.fromfile(path, np.int32)
    n, vocabulary, greedy = (int(x) for x in data[:3])
    at, out = 3, []
    for _ in range(n):
        length = int(data[at])
        end = at + 1 + length + length * vocabulary
        logits = data[at + 1 + length : end].view(np.float32).reshape(length, vocabulary)
        out.append((data[at + 1 : at + 1 + length].tolist(), logits, data[end : end + greedy].tolist()))
        at = end + greedy
    return out


def rounded(x, type_name):
    """x as ggml's products read it when the weights are of this type."""
    if type_name in ("F16", "BF16"):
        return x.to(torch.float16 if type_name == "F16" else torch.bfloat16).to(torch.float32)
    kind = gguf.GGMLQuantizationType[type_name]
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(x.numpy(), kind), kind)).reshape(x.shape)


def plain_formula(folder, path, timelines):
    """Logits by transformers with the file's weights, inputs of its products rounded to the file's types."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reader = gguf.GGUFReader(path)
    there = {t.name: t for t in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, model.config.num_hidden_layers)
    head = "output.weight" if "output.weight" in there else "token_embd.weight"
    with torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                continue
            tensor = there[head if name == "lm_head" else names.get_name(name + ".weight", try_suffixes=(".weight",))]
            kind = tensor.tensor_type
            module.weight.copy_(torch.from_numpy(gguf.quants.dequantize(tensor.data, kind).reshape(module.weight.shape)))
            if isinstance(module, torch.nn.Linear) and kind.name != "F32":
                module.register_forward_pre_hook(lambda _, x, kind=kind: (rounded(x[0], kind.name),))
        return [model(torch.tensor([tokens])).logits[0].numpy() for tokens, _, _ in timelines]


def likeliest(llama, tokens, n):
    out = []
    llama.reset()
    llama.eval(tokens)
    while len(out) < n:
        out.append(int(llama.scores[llama.n_tokens - 1].argmax()))
        if len(out) < n:
            llama.eval(out[-1:])
    return out


def check_text(llama, codes, timelines):
    """Codes in a text are cut out as their ids, and a completion of the text is that of the ids."""
    wrong = [c for i, c in enumerate(codes) if llama.tokenize(c.encode(), add_bos=False, special=True) != [i]]
    for tokens, _, _ in timelines:
        text = " ".join(codes[t] for t in tokens)
        if llama.tokenize(text.encode(), add_bos=False, special=True) != tokens:
            wrong.append(f"a timeline of {len(tokens)} codes")
    tokens, _, after = timelines[0]
    stop = after.index(llama.token_eos()) if llama.token_eos() in after else len(after)
    choice = llama.create_completion(" ".join(codes[t] for t in tokens), max_tokens=len(after), temperature=0)["choices"][0]
    if choice["text"] != "".join(codes[t] for t in after[:stop]):
        wrong.append(f"the completion {choice['text'][:200]!r}")
    print(f"  text: {len(codes)} codes and {len(timelines)} timelines as text, {len(wrong)} not their ids {wrong[:3] or ''}")
    return not wrong


def largest_difference(theirs, timelines):
    return float(np.max([np.abs(t - ours).max() for t, (_, ours, _) in zip(theirs, timelines, strict=True)]))  # NaN if any is


def compare(folder, path, timelines, codes):
    kind = path.stem.rsplit("-", 1)[-1].upper()
    llama = Llama(str(path), n_ctx=0, n_threads=1, logits_all=True, type_k=F32, type_v=F32, flash_attn=False, verbose=False)
    theirs = []
    for tokens, _, _ in timelines:
        llama.reset()
        llama.eval(tokens)
        theirs.append(llama.scores[: len(tokens)].copy())
    off = largest_difference(theirs, timelines)
    agree = np.concatenate([t.argmax(1) == ours.argmax(1) for t, (_, ours, _) in zip(theirs, timelines)])
    continued = sum(likeliest(llama, tokens, len(after)) == after for tokens, _, after in timelines[:CONTINUED])
    said = f"{path.name}: largest difference {off:.2e}; likeliest token the same at {agree.mean():.2%} of {agree.size} places"
    said += f", likeliest {len(timelines[0][2])} after {continued} of {min(len(timelines), CONTINUED)} timelines"
    if kind == "F32":
        print(said)
        return off < LIMIT and continued == min(len(timelines), CONTINUED) and check_text(llama, codes, timelines)
    plain = plain_formula(folder, path, timelines)
    bound = largest_difference(plain, timelines)
    print(f"{said}; the plain formula in {kind} is off by {bound:.2e}")
    return off <= 2 * bound


def main():
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    folder = pathlib.Path(sys.argv[1]).resolve()
    timelines = read_logits(sys.argv[2])
    codes = [t["code"] for t in json.loads((folder / "vocabulary.json").read_text())["tokens"]]
    good = [compare(folder, pathlib.Path(p), timelines, codes) for p in sys.argv[3:]]
    sys.exit(0 if timelines and all(good) else 1)


if __name__ == "__main__":
    main()
