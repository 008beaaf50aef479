/* kernels.c - which table of operations serves a device and dtype. */
#include "kernels/backend.h"

const KernelOps *kernels_get(const Device *dev, DType dtype) { return dev->backend->kernels(dev, dtype); }
