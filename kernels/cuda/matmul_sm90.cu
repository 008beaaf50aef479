/* matmul_sm90.cu - out (N, rows) = inp @ W^T in bf16 on Hopper, from one row (decoding) to thousands. */
#include "kernels/cuda/matmul_sm90.cuh"

namespace {

/* Pairs of 128 x 256 for what is large, and of 128 x 192 where that leaves fewer multiprocessors idle at the end (768
 * columns are four of these and three of those); a pair needs two tiles in height.  64 x 16 spreads a weight's rows
 * over the card when few rows ask for it: of their operand the copy engine reads the rows that there are, and two
 * blocks a multiprocessor have 40 KiB of weight under way. */
typedef HopperTile<128, 256, 4, 1, 2> LargePair;
typedef HopperTile<128, 192, 4, 1, 2> WidePair;
typedef HopperTile<128, 256, 4, 1> Large;
typedef HopperTile<128, 128, 6, 1> Medium;
typedef HopperTile<64, 64, 5, 2> Small;
typedef HopperTile<64, 16, 10, 2> Narrow;

const HopperShape shapes[] = {LargePair::shape(), WidePair::shape(), Large::shape(),
                              Medium::shape(),    Small::shape(),    Narrow::shape()};

} // namespace

int sm90_forward(Device *dev, const char *op, Product p) {
    if (!sm90_takes(dev, &p)) return 0;
    p.split_k = p.K;
    switch (hopper_choose(shapes, 6, p.M, p.N, p.K, 1, cuda_sm_count(dev)).tile) {
    case 0: hopper_launch<LargePair, true, true, FORWARD_ENDINGS>(dev, op, p); break;
    case 1: hopper_launch<WidePair, true, true, FORWARD_ENDINGS>(dev, op, p); break;
    case 2: hopper_launch<Large, true, true, FORWARD_ENDINGS>(dev, op, p); break;
    case 3: hopper_launch<Medium, true, true, FORWARD_ENDINGS>(dev, op, p); break;
    case 4: hopper_launch<Small, true, true, FORWARD_ENDINGS>(dev, op, p); break;
    case 5: hopper_launch<Narrow, true, true, FORWARD_ENDINGS>(dev, op, p); break;
    }
    return 1;
}
