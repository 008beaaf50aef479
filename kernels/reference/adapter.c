/* adapter.c - low-rank adapters of projections that share a matrix. */
#include "kernels/reference/reference.h"

void reference_adapter_spread(Device *dev, void *b_wide, void *a_turned, const void *a, const void *b, const AdapterBlocks *s) {
    if (device_error(dev)) return;
    const int     width = s->n * s->rank;
    const double *from = b, *lines = a;
    double       *wide = b_wide, *turned = a_turned;
    for (int64_t i = 0; i < (int64_t)s->rows * width; i++) wide[i] = 0;
    for (int i = 0; i < s->n; i++)
        for (int64_t r = s->row[i]; r < s->row[i] + s->height[i]; r++)
            for (int c = 0; c < s->rank; c++) wide[r * width + i * s->rank + c] = s->scale * *from++;
    for (int64_t c = 0; turned && c < s->cols; c++)
        for (int64_t r = 0; r < width; r++) turned[c * width + r] = lines[r * s->cols + c];
}

void reference_adapter_gather(Device *dev, void *db, const void *db_wide, const AdapterBlocks *s) {
    if (device_error(dev)) return;
    const int     width = s->n * s->rank;
    const double *wide = db_wide;
    double       *to = db;
    for (int i = 0; i < s->n; i++)
        for (int64_t r = s->row[i]; r < s->row[i] + s->height[i]; r++)
            for (int c = 0; c < s->rank; c++) *to++ += s->scale * wide[r * width + i * s->rank + c];
}
