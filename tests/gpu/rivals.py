#!/usr/bin/env python3
"""rivals.py - what PyTorch does on this GPU at the shapes of bench_ops and bench_step, beside what they did.

    rivals.py [--ops OPS.csv] [--step PRESET=TOKENS_PER_SECOND ...] [--deadline SECONDS] [--smoke]

--ops is the file that `bench_ops --csv` wrote; --step the tokens a second of `bench_step`, one for each preset.
Products are torch.matmul (cuBLAS), attention is the fastest of PyTorch's scaled_dot_product_attention back ends that
runs, training is the same Qwen3-shaped model with torch.compile, bfloat16 autocast over float32 weights, fused AdamW.
The order of work is: training first, then attention, then products; what the deadline leaves no time for is named.
--smoke runs everything at tiny sizes on a CPU, to see that it runs.
"""

import argparse
import csv
import math
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    sys.exit("rivals.py: there is no PyTorch here (python3 -m pip install torch)")

# layers, d_model, heads, kv heads, head_dim, d_ff: the presets of model/config.c
PRESETS = {
    "tiny": (2, 64, 2, 1, 32, 96),
    "small": (18, 512, 4, 2, 128, 1536),
    "medium": (18, 768, 6, 2, 128, 2048),
    "large": (22, 2048, 16, 4, 128, 5632),
}
VOCABULARY = 7168
START = time.monotonic()


def left(deadline):
    return deadline - (time.monotonic() - START)


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(body, device, least=0.02, samples=5):
    """Median seconds of one call; calls are queued in rows long enough that waiting for the last is nothing."""
    body()
    wait(device)
    start = time.perf_counter()
    body()
    wait(device)
    calls = max(1, int(least / max(time.perf_counter() - start, 1e-6)))
    took = []
    for _ in range(samples):
        start = time.perf_counter()
        for _ in range(calls):
            body()
        wait(device)
        took.append((time.perf_counter() - start) / calls)
    return statistics.median(took)


# ---- the model ------------------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-6)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, C, H, G, D, d_ff):
        super().__init__()
        self.H, self.G, self.D = H, G, D
        self.attention_norm, self.mlp_norm = RMSNorm(C), RMSNorm(C)
        self.q_norm, self.k_norm = RMSNorm(D), RMSNorm(D)
        self.qkv = nn.Linear(C, (H + 2 * G) * D, bias=False)
        self.out = nn.Linear(H * D, C, bias=False)
        self.gate_up = nn.Linear(C, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, C, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        H, G, D = self.H, self.G, self.D
        q, k, v = self.qkv(self.attention_norm(x)).view(B, T, H + 2 * G, D).transpose(1, 2).split((H, G, G), dim=1)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != G)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, H * D))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    """Qwen3's block, tied head, as model/model.c has it."""

    def __init__(self, preset, vocabulary):
        super().__init__()
        L, C, H, G, D, d_ff = PRESETS[preset]
        self.D = D
        self.embedding = nn.Embedding(vocabulary, C)
        self.blocks = nn.ModuleList(Block(C, H, G, D, d_ff) for _ in range(L))
        self.norm = RMSNorm(C)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        T = tokens.shape[1]
        angle = torch.arange(T, device=tokens.device)[:, None] * 10000.0 ** (
            -torch.arange(0, self.D, 2, device=tokens.device) / self.D
        )
        x = self.embedding(tokens).to(torch.bfloat16)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = F.linear(self.norm(x), self.embedding.weight.to(x.dtype))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def flops_per_token(preset, n_params, T):
    L, _, H, _, D, _ = PRESETS[preset]
    return 6 * n_params + 6 * L * H * D * T


def train(preset, T, rows, vocabulary, device, compile_it, steps):
    torch.manual_seed(1)
    model = Model(preset, vocabulary).to(device)
    n_params = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=device.type == "cuda"
    )
    tokens = torch.randint(vocabulary, (rows, T), device=device)
    targets = torch.randint(vocabulary, (rows, T), device=device)
    run = torch.compile(model) if compile_it else model

    def step():
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = run(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    first = step().item()
    step()
    wait(device)
    took = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = step()
        wait(device)
        took.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0
    if not abs(first - math.log(vocabulary)) < 0.5 or not math.isfinite(loss.item()):
        raise RuntimeError(f"{preset}: the first loss is {first:.3f}, expected about {math.log(vocabulary):.3f}")
    return n_params, rows * T / statistics.median(took), memory


# ---- attention and products -----------------------------------------------------------------------------------------


def attention_backends():
    from torch.nn.attention import SDPBackend

    names = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
    return [(n.split("_")[0].lower(), getattr(SDPBackend, n)) for n in names if hasattr(SDPBackend, n)]


def attention(n_seq, T, H, G, D, backward, device):
    """The fastest back end: its name and seconds; the one that materialises T x T only where nothing else runs."""
    from torch.nn.attention import sdpa_kernel

    def of(heads):
        return torch.randn(n_seq, heads, T, D, device=device, dtype=torch.bfloat16, requires_grad=backward)

    best = None
    for name, backend in attention_backends():
        if name == "math" and (best or T > 2048):
            continue
        q, k, v = of(H), of(G), of(G)
        try:
            with sdpa_kernel(backend):

                def forward():
                    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != G)

                if backward:
                    out = forward()
                    dout = torch.randn_like(out)
                    took = seconds_of(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True), device)
                else:
                    with torch.no_grad():
                        took = seconds_of(forward, device)
        except RuntimeError:
            continue
        if best is None or took < best[1]:
            best = (name, took)
    return best


def product(name, N, rows, cols, device):
    """torch.matmul for the product of that name; cuBLAS adds neither residual nor SwiGLU."""

    def of(*shape):
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    if "dgrad" in name:
        a, b = of(N, rows), of(rows, cols)
    elif "wgrad" in name:
        a, b = of(N, rows).t(), of(N, cols)
    else:
        a, b = of(N, cols), of(rows, cols).t()
    out = torch.empty(a.shape[0], b.shape[1], device=device, dtype=torch.bfloat16)
    return seconds_of(lambda: torch.matmul(a, b, out=out), device)


def numbers(text):
    return [int(word) for word in text.replace(",", " ").replace("x", " ").split() if word.isdigit()]


def operations(rows, device, deadline):
    print(f"{'preset':8} {'operation':34} {'shape':30} {'ours us':>9} {'torch us':>9} {'ours is':>8}  by")
    products, attentions, late = [], [], 0
    order = [r for r in rows if r["operation"].startswith("attention_")]
    order += [r for r in rows if r["operation"].startswith(("matmul_", "logits_"))]
    for r in order:
        name, ours, by = r["operation"], float(r["us"]), "cuBLAS"
        if name == "attention_paged":
            continue
        if left(deadline) < 10:
            late += 1
            continue
        n = numbers(r["shape"])
        if name.startswith("attention_"):
            found = attention(*n[:5], name == "attention_backward", device)
            if not found:
                print(f"{r['preset']:8} {name:34} {r['shape']:30} {ours:9.1f} {'-':>9} {'-':>8}  no back end runs")
                continue
            by, took = found
            attentions += [1e6 * took / ours] if ours else []
        else:
            took = product(name, *n[:3], device)
            products += [1e6 * took / ours] if ours else []
        ratio = f"{1e6 * took / ours:.2f}x" if ours else "-"
        print(f"{r['preset']:8} {name:34} {r['shape']:30} {ours or '-':>9} {1e6 * took:9.1f} {ratio:>8}  {by}")
    for what, ratios in (("products", products), ("attention", attentions)):
        if ratios:
            mean = math.exp(statistics.mean(map(math.log, ratios)))
            print(f"{what}: geometric mean {mean:.2f}x PyTorch's speed, least {min(ratios):.2f}x, of {len(ratios)}")
    if late:
        print(f"no time left for {late} operations")


# ---- program --------------------------------------------------------------------------------------------------------


def training(ours, args, device):
    T = 64 if args.smoke else 8192
    print(f"{'preset':8} {'parameters':>11} {'rows x T':>10} {'ours tok/s':>11} {'torch tok/s':>11} {'ours is':>8} "
          f"{'torch MFU':>9} {'torch GiB':>9}")
    for preset in ["tiny"] if args.smoke else ["medium", "large"]:
        if left(args.deadline) < 90 and not args.smoke:
            print(f"{preset:8} no time left")
            continue
        try:
            n, rate, memory = train(preset, T, args.rows, 500 if args.smoke else VOCABULARY, device,
                                    not args.eager, 2 if args.smoke else 8)
        except torch.OutOfMemoryError:
            print(f"{preset:8} out of memory with {args.rows} x {T}")
            continue
        mfu = flops_per_token(preset, n, T) * rate / (args.peak * 1e12)
        mine = ours.get(preset)
        print(f"{preset:8} {n / 1e6:9.1f} M {f'{args.rows} x {T}':>10} {mine or 0:11.0f} {rate:11.0f} "
              f"{f'{mine / rate:.2f}x' if mine else '-':>8} {100 * mfu:8.1f}% {memory:9.1f}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ops", help="table of bench_ops --csv")
    p.add_argument("--step", nargs="*", default=[], metavar="PRESET=RATE", help="tokens a second of bench_step")
    p.add_argument("--rows", type=int, default=1, help="rows of 8,192 tokens a step in training")
    p.add_argument("--peak", type=float, default=989, help="TFLOP/s in bf16 that MFU is of")
    p.add_argument("--deadline", type=float, default=420, help="seconds for everything")
    p.add_argument("--eager", action="store_true", help="without torch.compile")
    p.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU")
    args = p.parse_args()
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("rivals.py: PyTorch sees no GPU here; --smoke runs tiny sizes on the CPU")
    device = torch.device("cpu" if args.smoke else "cuda")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    print(f"PyTorch {torch.__version__} on {'CPU' if args.smoke else torch.cuda.get_device_name()}")
    training({k: float(v) for k, v in (pair.split("=") for pair in args.step)}, args, device)
    if args.smoke and not args.ops:
        rows = [{"preset": "tiny", "operation": o, "shape": s, "us": "0"} for o, s in (
            ("attention_forward", "2 x 64, H 4 G 2 D 32"), ("attention_backward", "2 x 64, H 4 G 2 D 32"),
            ("matmul_forward qkv", "64 x 96 x 32"), ("matmul_dgrad qkv", "64 x 96 x 32"),
            ("matmul_wgrad qkv", "64 x 96 x 32"))]
    elif args.ops:
        with open(args.ops) as f:
            rows = [r for r in csv.DictReader(f)]
    else:
        rows = []
    operations(rows, device, args.deadline)


if __name__ == "__main__":
    main()
