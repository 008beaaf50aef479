#!/usr/bin/env python3
"""bench_torch.py - the rival of bench_step: the same model in PyTorch on the CPU, in float32, driven over a pipe so that
its steps and ours take turns.

    bench_torch.py LAYERS C HEADS KV_HEADS HEAD_DIM D_FF VOCABULARY TIED ROWS T THREADS eager|compile

Answers a line for each line it reads: `step` (forward, loss, backward, clipping, AdamW) and `forward` (forward and loss,
no gradient) with the seconds that took, of its own CPU time where there is one thread; `memory` with the bytes it has held
at most.  The first line it writes says what it is.
"""

import math
import os
import resource
import sys
import time

if len(sys.argv) != 13:
    sys.exit(__doc__)
threads = int(sys.argv[11])
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu"))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from rivals import Block, RMSNorm  # noqa: E402

L, C, H, G, D, d_ff, vocabulary, tied, rows, T = map(int, sys.argv[1:11])
torch.set_num_threads(threads)
torch.manual_seed(1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, C)
        self.blocks = nn.ModuleList(Block(C, H, G, D, d_ff) for _ in range(L))
        self.norm = RMSNorm(C)
        self.head = None if tied else nn.Linear(C, vocabulary, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)
        angle = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, D, 2) / D)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embedding.weight if tied else self.head.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


model = Model()
run = torch.compile(model) if sys.argv[12] == "compile" else model
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
tokens = torch.randint(vocabulary, (rows, T))
targets = torch.randint(vocabulary, (rows, T))


def step():
    loss = run(tokens, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def forward():
    with torch.no_grad():
        return run(tokens, targets).item()


def main():
    clock = time.process_time if threads == 1 else time.perf_counter
    first = step()
    if not abs(first - math.log(vocabulary)) < 0.5:
        sys.exit(f"bench_torch.py: the first loss is {first:.3f}, expected about {math.log(vocabulary):.3f}")
    step()  # the first two are slow: memory is new to them
    forward()
    parameters = sum(p.numel() for p in model.parameters())
    # MKL takes its wide kernels on Intel's machines only, unless it is told that this is one.
    told = " (MKL told that this is Intel)" if "intel" in os.environ.get("LD_PRELOAD", "") else ""
    print(f"PyTorch {torch.__version__} {sys.argv[12]}{told}, {parameters / 1e6:.2f} million parameters", flush=True)
    for line in sys.stdin:
        what = line.strip()
        if what == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
            continue
        start = clock()
        {"step": step, "forward": forward}[what]()
        print(clock() - start, flush=True)


main()
