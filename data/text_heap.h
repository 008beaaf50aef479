/* text_heap.h - texts kept on disk beside an output while rows that name them are sorted: added in any order, read back
 * in any.  The file is unlinked as soon as it is open, so that nothing is left behind however the program ends. */
#ifndef EHR_DATA_TEXT_HEAP_H
#define EHR_DATA_TEXT_HEAP_H
#include "model/base.h"

typedef struct {
    char *path; /* what the file is put beside */
    int fd;     /* -1 = none yet */
    uint64_t end;
    char *text; /* the one read last */
    size_t capacity;
} TextHeap;

void text_heap_init(TextHeap *h, const char *path);
void text_heap_free(TextHeap *h);
/* *at: what to ask for it by, never 0. */
Status text_heap_add(TextHeap *h, const char *text, size_t n, uint64_t *at, Err *err);
/* Valid until the next call. */
Status text_heap_get(TextHeap *h, uint64_t at, const char **text, size_t *n, Err *err);

#endif
