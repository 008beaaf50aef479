/* event_sort.h - out-of-core sort of event rows, inside the events writer.
 *
 * Rows gather in one buffer; a full buffer is sorted and appended as a *run* to a spill file beside the output, which is
 * unlinked as soon as it is open, so that nothing is left behind however the program ends.  Reading merges the runs, in
 * several passes when there are more of them than the memory has room for read buffers. */
#ifndef EHR_DATA_EVENT_SORT_H
#define EHR_DATA_EVENT_SORT_H
#include "model/base.h"

/* A subject's own record travels as a row too: time is its observation_end, precision its split; it comes before the
 * subject's events. */
#define ROW_SUBJECT UINT32_MAX

typedef struct {
    int64_t  subject, available, time;
    uint32_t code, visit; /* code: arrival id, or ROW_SUBJECT */
    float    value;       /* never -0; one NaN only */
    uint16_t unit;        /* arrival id */
    uint8_t  comparator, precision;
} EventRow;

/* Places of codes (by kind, then string) and of units (by string), by arrival id. */
typedef struct {
    const uint32_t *code, *unit;
} RowRanks;

int event_row_compare(const EventRow *a, const EventRow *b, const RowRanks *ranks);

typedef struct EventSorter EventSorter;
Status event_sorter_open(EventSorter **out, const char *path, int64_t memory, Err *err);
void   event_sorter_close(EventSorter *s);
/* Rows the buffer may hold when `reserved` bytes of the memory are in use elsewhere; the sort's scratch is included. */
int64_t event_sorter_room(const EventSorter *s, size_t reserved);
int64_t event_sorter_held(const EventSorter *s); /* rows in the buffer */
void    event_sorter_add(EventSorter *s, const EventRow *row);
Status  event_sorter_spill(EventSorter *s, const RowRanks *ranks, Err *err);
/* Sorts every run again: the ranks of codes changed their order since. */
Status event_sorter_resort(EventSorter *s, const RowRanks *ranks, Err *err);
/* No more rows.  ranks must stay valid for event_sorter_next. */
Status event_sorter_finish(EventSorter *s, const RowRanks *ranks, Err *err);
/* Goes to the first row; may be called again. */
Status event_sorter_rewind(EventSorter *s, Err *err);
/* The next row in order, valid until the next call; NULL at the end. */
Status event_sorter_next(EventSorter *s, const EventRow **row, Err *err);

#endif
