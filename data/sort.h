/* sort.h - out-of-core sort of fixed-size rows.
 *
 * Rows gather in one buffer; a full buffer is sorted and appended as a *run* to a spill file beside the output, which
 * is unlinked as soon as it is open, so that nothing is left behind however the program ends.  Reading merges the runs,
 * in several passes when there are more of them than the memory has room for read buffers. */
#ifndef EHR_DATA_SORT_H
#define EHR_DATA_SORT_H
#include "model/base.h"

typedef int (*RowCompare)(const void *a, const void *b, void *context); /* as qsort_r */

typedef struct Sorter Sorter;
/* memory: bytes for buffers.  path: what the spill file is put beside. */
Sorter *sorter_open(const char *path, size_t row_size, RowCompare compare, void *context, int64_t memory);
void sorter_close(Sorter *s);
/* Bytes of the memory that are in use elsewhere; the buffer gets what remains. */
void sorter_reserve(Sorter *s, size_t bytes);
int sorter_full(const Sorter *s); /* the next row would need sorter_spill first */
void sorter_add(Sorter *s, const void *row);
int sorter_spilled(const Sorter *s);
Status sorter_spill(Sorter *s, Err *err);
/* Sorts every run again: the comparison has changed since. */
Status sorter_resort(Sorter *s, Err *err);
Status sorter_finish(Sorter *s, Err *err); /* no more rows */
Status sorter_rewind(Sorter *s, Err *err); /* goes to the first row; may be called again */
/* The next row in order, valid until the next call; NULL at the end. */
Status sorter_next(Sorter *s, const void **row, Err *err);

#endif
