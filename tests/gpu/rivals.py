#!/usr/bin/env python3
"""rivals.py - the same work in PyTorch, in the same minutes: attention by every SDPA backend, and a training step of the
same model (Qwen3 block, torch.compile, fused AdamW, bf16 autocast over float32 weights).

  rivals.py --attention FILE --steps FILE     FILEs hold our rows, as tests/gpu/run.sh writes them
  rivals.py --smoke                           tiny sizes on whatever device there is, to see that it runs
"""
import argparse
import re
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

PRESETS = {  # layers, d_model, heads, kv heads, head_dim, d_ff: DESIGN 6
    "tiny": (2, 128, 2, 1, 64, 192),
    "medium": (18, 768, 6, 2, 128, 2048),
    "large": (22, 2048, 16, 4, 128, 5632),
}


def sync(device):
    if device == "cuda":
        torch.cuda.synchronize()


def best_seconds(run, device, rounds=7, repeat=4):
    """Best mean over `rounds` of `repeat` calls, after two to warm up."""
    for _ in range(2):
        run()
    best = float("inf")
    for _ in range(rounds):
        sync(device)
        start = time.perf_counter()
        for _ in range(repeat):
            run()
        sync(device)
        best = min(best, (time.perf_counter() - start) / repeat)
    return best


# ---- attention ---------------------------------------------------------------------------------------------------------


def attention(B, T, H, D, device):
    """{backend: (forward s, backward s)} of causal attention over B sequences of T, keys already repeated per query head."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    out = {}
    dtype = torch.bfloat16
    q, k, v = (torch.randn(B, H, T, D, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    grad = torch.randn_like(q)
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION),
                          ("efficient", SDPBackend.EFFICIENT_ATTENTION)):
        try:
            with sdpa_kernel(backend):
                forward = best_seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), device)
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                backward = best_seconds(lambda: torch.autograd.grad(y, (q, k, v), grad, retain_graph=True), device)
                out[name] = (forward, backward)
        except RuntimeError:
            continue  # this backend does not take this shape or device
    return out


# ---- the same model ----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, C, H, G, D, ff):
        super().__init__()
        self.H, self.G, self.D = H, G, D
        self.norm1, self.norm2 = nn.RMSNorm(C), nn.RMSNorm(C)
        self.q_norm, self.k_norm = nn.RMSNorm(D), nn.RMSNorm(D)
        self.qkv = nn.Linear(C, (H + 2 * G) * D, bias=False)
        self.out = nn.Linear(H * D, C, bias=False)
        self.gate_up = nn.Linear(C, 2 * ff, bias=False)
        self.down = nn.Linear(ff, C, bias=False)

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).split((self.H * self.D, self.G * self.D, self.G * self.D), -1)
        q = self.rotate(self.q_norm(q.view(B, T, self.H, self.D)).transpose(1, 2), cos, sin)
        k = self.rotate(self.k_norm(k.view(B, T, self.G, self.D)).transpose(1, 2), cos, sin)
        v = v.view(B, T, self.G, self.D).transpose(1, 2)
        k, v = (t.repeat_interleave(self.H // self.G, 1).to(q.dtype) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, -1))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, preset, vocabulary, T):
        super().__init__()
        L, C, H, G, D, ff = PRESETS[preset]
        self.embedding = nn.Embedding(vocabulary, C)
        self.blocks = nn.ModuleList(Block(C, H, G, D, ff) for _ in range(L))
        self.norm = nn.RMSNorm(C)
        angle = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, D, 2) / D)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embedding.weight)  # tied, as ours
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def step_rate(preset, batch, T, vocabulary, device, compiled):
    """Tokens a second of whole training steps."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = Model(preset, vocabulary, T).to(device)
    loss_of = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=device == "cuda")
    tokens = torch.randint(vocabulary, (batch, T), device=device)
    targets = torch.randint(vocabulary, (batch, T), device=device)

    def step():
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return batch * T / best_seconds(step, device, rounds=4, repeat=2)


# ---- tables ------------------------------------------------------------------------------------------------------------


def attention_table(path):
    """The table that bench_ops writes with --csv: rows 'preset,attention_forward,2 x 8192, H 6 G 2 D 128,us,...'."""
    print(f"{'attention':>10} {'B':>3} {'T':>6} {'H':>3} {'D':>4} {'ours us':>9} {'best us':>9} {'best is':>10} {'ratio':>6}")
    rows = re.findall(r",attention_(forward|backward),(\d+) x (\d+), H (\d+) G \d+ D (\d+),([\d.]+)", open(path).read())
    if not rows:
        raise SystemExit(f"rivals.py: no attention in {path}: did bench_ops fail?")
    done = {}
    for way, B, T, H, D, ours in rows:
        shape = B, T, H, D = int(B), int(T), int(H), int(D)
        if shape not in done:
            done[shape] = attention(B, T, H, D, "cuda")
        times = {name: t[way == "backward"] for name, t in done[shape].items()}
        name = min(times, key=times.get)
        print(f"{way:>10} {B:3} {T:6} {H:3} {D:4} {float(ours):9.1f} {1e6 * times[name]:9.1f} {name:>10} "
              f"{1e6 * times[name] / float(ours):6.2f}")


def step_table(path):
    """Lines 'medium   tokens/s 12345.6 ...': the last number of tokens a second that bench_step printed."""
    print(f"{'model':>8} {'ours tok/s':>11} {'compiled':>11} {'ratio':>6}")
    for line in open(path):
        m = re.match(r"(\w+)\s+tokens/s\s+([\d.]+)", line)
        if not m:
            raise SystemExit(f"rivals.py: no rate in the line {line!r}: did bench_step fail?")
        preset, ours = m.group(1), float(m.group(2))
        theirs = None
        for batch in (4, 2, 1) if preset == "medium" else (2, 1):
            try:
                theirs = step_rate(preset, batch, 8192, 7168, "cuda", True)
                break
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        print(f"{preset:>8} {ours:11.0f} {theirs or 0:11.0f} {ours / theirs if theirs else float('nan'):6.2f}")


def smoke():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print("attention", attention(2, 64, 2, 64, device))
    print("step, eager", step_rate("tiny", 2, 64, 300, device, False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention")
    parser.add_argument("--steps")
    parser.add_argument("--smoke", action="store_true")
    o = parser.parse_args()
    if o.smoke:
        smoke()
    if o.attention:
        attention_table(o.attention)
    if o.steps:
        step_table(o.steps)
    if not (o.smoke or o.attention or o.steps):
        parser.error("nothing to do: give --attention, --steps or --smoke")
