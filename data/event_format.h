/* event_format.h - what the writer and the reader of events files agree on beyond event.h: the columns and the seal.
 *
 * Seal: the file's last 32 bytes, after what HDF5 knows of, are the SHA-256 of all before.  It is checked before HDF5
 * looks at the file, so that no flipped bit goes unseen and HDF5 is not asked to make sense of damaged structures. */
#ifndef EHR_DATA_EVENT_FORMAT_H
#define EHR_DATA_EVENT_FORMAT_H
#include "data/event.h"
#include <stddef.h>
#include <string.h>

#define EVENT_FORMAT "ehr.c events"
enum { EVENT_FORMAT_VERSION = 1, EVENT_STRING_MAX = 255 /* bytes of a code, name or unit */, EVENT_SEAL = 32 };

/* An event on its way through the sort.  A subject's own record travels as a row too, before the subject's events: time
 * is its observation_end, precision its split. */
#define ROW_SUBJECT UINT32_MAX
typedef struct {
    int64_t subject, available, time;
    uint32_t code, visit; /* code: arrival id, or ROW_SUBJECT */
    float value;          /* never -0; one NaN only */
    uint16_t unit;        /* arrival id */
    uint8_t comparator, precision;
    uint64_t text_at, text_hash; /* of a TextHeap, 0 = no text; only rows of files with texts are this long */
    uint32_t text_size;
} EventRow;
#define EVENT_ROW_PLAIN offsetof(EventRow, text_at)

typedef enum { STORE_I64, STORE_U64, STORE_U32, STORE_U16, STORE_U8, STORE_F32, STORE_COUNT } StoreType;

typedef struct {
    const char *name;
    StoreType type;
    int size;
    size_t row_offset, event_offset; /* in EventRow, in Event */
} EventColumn;

enum { EVENT_COLUMNS = 8, PATIENT_COLUMNS = 4 };
static const EventColumn event_columns[EVENT_COLUMNS] = {
    {"time", STORE_I64, 8, offsetof(EventRow, time), offsetof(Event, time)},
    {"available", STORE_I64, 8, offsetof(EventRow, available), offsetof(Event, available)},
    {"code", STORE_U32, 4, offsetof(EventRow, code), offsetof(Event, code)},
    {"numeric_value", STORE_F32, 4, offsetof(EventRow, value), offsetof(Event, value)},
    {"comparator", STORE_U8, 1, offsetof(EventRow, comparator), offsetof(Event, comparator)},
    {"unit", STORE_U16, 2, offsetof(EventRow, unit), offsetof(Event, unit)},
    {"precision", STORE_U8, 1, offsetof(EventRow, precision), offsetof(Event, precision)},
    {"visit", STORE_U32, 4, offsetof(EventRow, visit), offsetof(Event, visit)},
};

typedef struct {
    int64_t subject;
    uint64_t offset;
    int64_t observation_end;
    uint8_t split;
} PatientRow;

typedef struct {
    const char *name;
    StoreType type;
    int size;
    size_t offset; /* in PatientRow */
} PatientColumn;
static const PatientColumn patient_columns[PATIENT_COLUMNS] = {
    {"subject_id", STORE_I64, 8, offsetof(PatientRow, subject)},
    {"patient_offsets", STORE_U64, 8, offsetof(PatientRow, offset)},
    {"observation_end", STORE_I64, 8, offsetof(PatientRow, observation_end)},
    {"split", STORE_U8, 1, offsetof(PatientRow, split)}, /* the last: absent when no subject's split is fixed */
};

/* One field of n records, `stride` bytes apart, to or from a dense column.  The switch makes each copy one move. */
#define COLUMN_COPY(to, to_stride, from, from_stride, bytes)                                                           \
    for (int64_t i = 0; i < n; i++)                                                                                    \
    memcpy((char *)(to) + (size_t)i * (to_stride), (const char *)(from) + (size_t)i * (from_stride), bytes)
#define COLUMN_COPY_BY_SIZE(to, to_stride, from, from_stride)                                                          \
    switch (size) {                                                                                                    \
    case 8: COLUMN_COPY(to, to_stride, from, from_stride, 8); break;                                                   \
    case 4: COLUMN_COPY(to, to_stride, from, from_stride, 4); break;                                                   \
    case 2: COLUMN_COPY(to, to_stride, from, from_stride, 2); break;                                                   \
    default: COLUMN_COPY(to, to_stride, from, from_stride, 1);                                                         \
    }
static inline void column_gather(void *column, const void *field, size_t stride, int size, int64_t n) {
    COLUMN_COPY_BY_SIZE(column, (size_t)size, field, stride)
}
static inline void column_scatter(void *field, size_t stride, const void *column, int size,
                                  int64_t n){COLUMN_COPY_BY_SIZE(field, stride, column, (size_t)size)}

/* SHA-256 of the first `size` bytes of fd, and in hex that of the next `more` bytes too (hex may be NULL). */
Status event_seal_compute(int fd, const char *path, int64_t size, int64_t more, unsigned char seal[EVENT_SEAL],
                          char hex[65], Err *err);

#endif
