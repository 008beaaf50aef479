/* matmul_forward.cu - out (N, rows) = inp @ W^T in bf16, from one row (decoding) to thousands. */
#include "kernels/cuda/matmul_tile.cuh"

namespace {

/* 128 x 256 asks least of L2 (85 multiply-adds a byte) and is one block a multiprocessor; 128 x 128 comes in twos,
 * which fill and empty their pipelines behind each other's backs and leave smaller remainders.  Tiles of 16 and 64 rows
 * are for decoding, where the weight's rows must spread over the card: 16 x 16 is a single warp, 28 KiB of weight and
 * activations in flight. */
typedef Tile<128, 256, 128, 2, 4, 3, 1> Large;
typedef Tile<128, 128, 64, 2, 2, 4, 2> Medium;
typedef Tile<64, 64, 128, 2, 2, 3, 3> Small;
typedef Tile<64, 32, 128, 2, 2, 4, 4> Narrow;
typedef Tile<16, 64, 128, 1, 4, 6, 3> Low;
typedef Tile<16, 16, 128, 1, 1, 8, 6> Single;

const TileShape shapes[] = {Large::shape(),  Medium::shape(), Small::shape(),
                            Narrow::shape(), Low::shape(),    Single::shape()};

template <class Tile, bool ALIGNED> void forward_launch(Device *dev, const char *op, const Product &p) {
    tile_launch<Bf16Math, bf16, Tile, true, true, ALIGNED>(dev, op, p);
}

} // namespace

template <> void product_forward<bf16>(Device *dev, const char *op, Product p) {
    if (sm90_forward(dev, op, p)) return;
    p.split_k = p.K;
    if (!lines_aligned(&p, sizeof(bf16))) { /* correct, not fast */
        forward_launch<Small, false>(dev, op, p);
        return;
    }
    switch (tile_choose(shapes, 6, RATE_TENSOR, p.M, p.N, 2 * p.K, 1, cuda_sm_count(dev), cuda_compute_capability(dev))
                .tile) {
    case 0: forward_launch<Large, true>(dev, op, p); break;
    case 1: forward_launch<Medium, true>(dev, op, p); break;
    case 2: forward_launch<Small, true>(dev, op, p); break;
    case 3: forward_launch<Narrow, true>(dev, op, p); break;
    case 4: forward_launch<Low, true>(dev, op, p); break;
    case 5: forward_launch<Single, true>(dev, op, p); break;
    }
}
