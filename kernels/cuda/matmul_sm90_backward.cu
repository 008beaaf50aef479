/* matmul_sm90_backward.cu - gradients of a product in bf16 on Hopper: dinp = dout @ W, and dweight += dout^T @ inp. */
#include "kernels/cuda/matmul_sm90.cuh"
#include "kernels/cuda/matmul_split.cuh"

namespace {

/* As in matmul_sm90.cu. */
typedef HopperTile<128, 256, 4, 1, 2> LargePair;
typedef HopperTile<128, 192, 4, 1, 2> WidePair;
typedef HopperTile<128, 256, 4, 1> Large;
typedef HopperTile<128, 128, 6, 1> Medium;
typedef HopperTile<64, 64, 5, 2> Small;

const HopperShape shapes[] = {LargePair::shape(), WidePair::shape(), Large::shape(), Medium::shape(), Small::shape()};

template <bool A_ALONG_K> void launch(Device *dev, const char *op, const Product &p, int tile) {
    constexpr int ENDINGS = A_ALONG_K ? DGRAD_ENDINGS : WGRAD_ENDINGS;
    switch (tile) {
    case 0: hopper_launch<LargePair, A_ALONG_K, false, ENDINGS>(dev, op, p); break;
    case 1: hopper_launch<WidePair, A_ALONG_K, false, ENDINGS>(dev, op, p); break;
    case 2: hopper_launch<Large, A_ALONG_K, false, ENDINGS>(dev, op, p); break;
    case 3: hopper_launch<Medium, A_ALONG_K, false, ENDINGS>(dev, op, p); break;
    case 4: hopper_launch<Small, A_ALONG_K, false, ENDINGS>(dev, op, p); break;
    }
}

} // namespace

int sm90_dgrad(Device *dev, const char *op, Product p) {
    if (!sm90_takes(dev, &p)) return 0;
    p.split_k = p.K;
    launch<true>(dev, op, p, hopper_choose(shapes, 5, p.M, p.N, p.K, 1, cuda_sm_count(dev)).tile);
    return 1;
}

int sm90_wgrad(Device *dev, const char *op, Product p, void *scratch) {
    if (!sm90_takes(dev, &p)) return 0;
    const TileChoice c = hopper_choose(shapes, 5, p.M, p.N, p.K, SPLITS_MAX, cuda_sm_count(dev));
    wgrad_in_splits(dev, op, p, c.splits, scratch, [&](const Product &part) { launch<false>(dev, op, part, c.tile); });
    return 1;
}
