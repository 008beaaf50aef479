/* memory.h - how much memory a run may count on. */
#ifndef EHR_INFER_MEMORY_H
#define EHR_INFER_MEMORY_H
#include "kernels/device.h"

/* Bytes free: of the device; on a CPU what Linux could make free, as far as the process's own limit (ulimit -v) and its
 * control group's leave it. */
double memory_free(const Device *dev);

#endif
