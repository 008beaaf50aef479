/* matmul_backward.cu - gradients of a product in bf16: dinp = dout @ W, and dweight += dout^T @ inp in float. */
#include "kernels/cuda/matmul_split.cuh"
#include "kernels/cuda/matmul_tile.cuh"

namespace {

typedef Tile<128, 256, 128, 2, 4, 3, 1> Large;
typedef Tile<128, 128, 64, 2, 2, 4, 2> Medium;
typedef Tile<64, 64, 128, 2, 2, 3, 3> Small;

const TileShape shapes[] = {Large::shape(), Medium::shape(), Small::shape()};

template <bool A_ALONG_K, bool ALIGNED> void launch(Device *dev, const char *op, const Product &p, int tile) {
    if constexpr (!ALIGNED) {
        tile_launch<Bf16Math, bf16, Small, A_ALONG_K, false, false>(dev, op, p);
    } else {
        switch (tile) {
        case 0: tile_launch<Bf16Math, bf16, Large, A_ALONG_K, false, true>(dev, op, p); break;
        case 1: tile_launch<Bf16Math, bf16, Medium, A_ALONG_K, false, true>(dev, op, p); break;
        case 2: tile_launch<Bf16Math, bf16, Small, A_ALONG_K, false, true>(dev, op, p); break;
        }
    }
}

} // namespace

template <> void product_dgrad<bf16>(Device *dev, const char *op, Product p) {
    if (sm90_dgrad(dev, op, p)) return;
    p.split_k = p.K;
    if (!lines_aligned(&p, sizeof(bf16))) {
        launch<true, false>(dev, op, p, 0);
        return;
    }
    TileChoice c =
        tile_choose(shapes, 3, RATE_TENSOR, p.M, p.N, 2 * p.K, 1, cuda_sm_count(dev), cuda_compute_capability(dev));
    launch<true, true>(dev, op, p, c.tile);
}

/* A weight has few tiles and a batch many rows: the rows may be split. */
template <> void product_wgrad<bf16>(Device *dev, const char *op, Product p, void *scratch) {
    if (sm90_wgrad(dev, op, p, scratch)) return;
    bool aligned = lines_aligned(&p, sizeof(bf16));
    TileChoice c = tile_choose(aligned ? shapes : shapes + 2, aligned ? 3 : 1, RATE_TENSOR, p.M, p.N, 2 * p.K,
                               SPLITS_MAX, cuda_sm_count(dev), cuda_compute_capability(dev));
    wgrad_in_splits(dev, op, p, c.splits, scratch, [&](const Product &part) {
        if (aligned) launch<false, true>(dev, op, part, c.tile);
        else launch<false, false>(dev, op, part, 0);
    });
}
