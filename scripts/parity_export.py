"""Reads exported weights with the packages of those who will: gguf, safetensors.

Usage: parity_export.py FOLDER FILE.gguf...  FOLDER: float32 safetensors, whole or split.  Exit 0 when each GGUF file has the
same tensors under the names of its Qwen3, every one as near as its type allows, and the vocabulary.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
from safetensors.numpy import load_file

# Largest error over the largest value of a tensor: half a unit in the last place of 8, 11 and 24 bits; Q8_0 rounds to
# half of 1/127 of a block's largest, whose scale is rounded to 11 bits as well.
BOUND = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8, "Q8_0": 0.5 / 127 + 2.0**-11}


def compare(path, weights, codes):
    reader = gguf.GGUFReader(path)
    layers = int(reader.get_field("qwen3.block_count").contents())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    there = {t.name: t for t in reader.tensors}
    wrong = [] if len(there) == len(weights) else [f"{len(there)} tensors, not {len(weights)}"]
    worst = 0.0
    for name, value in weights.items():
        tensor = there.get(names.get_name(name, try_suffixes=(".weight",)))
        if tensor is None:
            wrong.append(f"{name} is missing")
            continue
        read = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(value.shape)
        error = float(np.abs(read - value).max() / np.abs(value).max())
        worst = np.fmax(worst, error)
        if not error <= BOUND[tensor.tensor_type.name]:
            wrong.append(f"{name}: {error:.2e} off, {tensor.tensor_type.name} allows {BOUND[tensor.tensor_type.name]:.2e}")
    if reader.get_field("tokenizer.ggml.tokens").contents() != codes:
        wrong.append("the tokens are not the codes of vocabulary.json")
    print(f"{path.name}: {len(there)} tensors, largest relative error {worst:.2e}{''.join('; ' + w for w in wrong)}")
    return not wrong


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    folder = pathlib.Path(sys.argv[1])
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(path))
    codes = [t["code"] for t in json.loads((folder / "vocabulary.json").read_text())["tokens"]]
    good = [compare(pathlib.Path(p), weights, codes) for p in sys.argv[2:]]
    sys.exit(0 if weights and all(good) else 1)


if __name__ == "__main__":
    main()
