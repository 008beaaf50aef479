"""predict.py - the products of a training step on an H200 as kernels/cuda/matmul.cuh expects them: tile, work, time.

Prints the table of tests/gpu/PENDING.md, which tests/test_cuda_build.sh compares with it.  Needs g++ and the CUDA headers."""

import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMS, GHZ, N = 132, 1.755, 8192  # multiprocessors and clock of an H200; rows of a step
PRESETS = {"119 M": dict(C=768, H=6, G=2, F=2048), "1 B": dict(C=2048, H=16, G=4, F=5632)}
D, V = 128, 7168

# Forward has one tile more than the others, the last, for a few rows.
CHOOSER = """
#include "kernels/cuda/matmul_sm90.cu"
#include <stdio.h>
int main(void) {
    int M, N, K, tiles, splits, sms = %d;
    while (scanf("%%d %%d %%d %%d %%d", &M, &N, &K, &tiles, &splits) == 5) {
        const TileChoice c = hopper_choose(shapes, tiles, M, N, K, splits, sms);
        const HopperShape *t = &shapes[c.tile];
        long long clocks = hopper_clocks(t, M, N, K, c.splits, sms);
        if (c.splits > 1) clocks += 2000 + (2 * c.splits + 1) * 4ll * M * N / (36 * sms);
        printf("%%d %%d %%d %%d %%lld\\n", t->m, t->n, t->cluster, c.splits, clocks);
    }
}
"""


def chosen(products):
    """(m, n, blocks of a cluster, parts of k, clocks) of each (M, N, K, is forward, is wgrad), by the code that chooses on a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = pathlib.Path(folder) / "choose.cpp", pathlib.Path(folder) / "choose"
        source.write_text(CHOOSER % SMS)
        cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        # Kernels that nobody calls are left out by the linker, and with them what they would need of the emulator.
        subprocess.run([os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-w", "-Wno-psabi", "-D_GNU_SOURCE", "-DHAVE_CUDA", f"-I{ROOT}", "-isystem",
                        f"{cuda}/include", "-ffunction-sections", "-fdata-sections", "-include", ROOT / "tests/emulator/cuda_emu.h", source, "-o",
                        program, "-Wl,--gc-sections"], check=True)  # fmt: skip
        asked = "".join(f"{m} {n} {k} {6 if forward else 5} {16 if wgrad else 1}\n" for m, n, k, forward, wgrad in products)
        told = subprocess.run([program], input=asked, capture_output=True, text=True, check=True).stdout
    return [tuple(int(x) for x in line.split()) for line in told.splitlines()]


def products(C, H, G, F):
    """(name, M, N, K, bytes a result element costs, is forward, is wgrad) of a block's products and the head's."""
    for what, weight, rows, cols, bytes_out in [("matmul_forward", "qkv", (H + 2 * G) * D, C, 2), ("matmul_add_forward", "attn_out", C, H * D, 4),
                                                ("matmul_swiglu_forward", "gate_up", 2 * F, C, 3), ("matmul_add_forward", "down", C, F, 4),
                                                ("logits_forward", "head", V, C, 4)]:  # fmt: skip
        yield f"{what} {weight}", N, rows, cols, bytes_out, True, False
        yield f"matmul_dgrad {weight}", N, cols, rows, 2, False, False
        yield f"matmul_wgrad {weight}", rows, cols, N, 8, False, True


def main():
    print("| preset | product | tile | GFLOP | MB | us | TFLOP/s |\n| --- | --- | --- | --- | --- | --- | --- |")
    for preset, sizes in PRESETS.items():
        rows = list(products(**sizes))
        for (name, m, n, k, out, *_), (tile_m, tile_n, cluster, parts, clocks) in zip(rows, chosen([(*r[1:4], *r[5:]) for r in rows]), strict=True):
            flop, us = 2 * m * n * k, clocks / GHZ / 1e3
            tile = f"{tile_m} x {tile_n}" + (", pair" if cluster > 1 else "") + (f", {parts} parts" if parts > 1 else "")
            print(f"| {preset} | {name} | {tile} | {flop / 1e9:.1f} | {(2 * (m * k + n * k) + out * m * n) / 1e6:.0f} | {us:.0f} | {flop / us / 1e6:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
