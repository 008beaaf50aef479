/* event.h - the internal event record that every importer produces, and the events file (events.h5): the MEDS schema in
 * HDF5, patient-contiguous.
 *
 *   /subject_id i64 [P]   /patient_offsets u64 [P+1]   /observation_end i64 [P] (us; INT64_MIN = unknown)
 *   /split u8 [P] (optional: 0 train, 1 tuning, 2 held_out, fixed by the source)
 *   /time i64 [E]  /available i64 [E]  us since 1970, INT64_MIN = static   /code u32 [E] into /codes
 *   /numeric_value f32 [E] (NaN = none)  /comparator u8 [E]  /unit u16 [E] into /units  /precision u8 [E]  /visit u32
 * [E] /codes fixed-length strings, sorted; /code_kind u8; /code_name and /code_parent fixed-length strings (may be "")
 *   /note_event u64 [N] /note_offsets u64 [N+1] /note_text u8 (optional: free texts, of the events at those rows; only
 *   what was imported with --notes, and released with a signed statement that it was scrubbed, has any)
 *   /units fixed-length strings; attributes of the root: format "ehr.c events", format_version, source, provenance JSON
 *   Reserved for vectors that another program computed of an image, a slide or a signal, one an event as texts are:
 *   /vector_event u64 [N] /vector f16|f32 [N, D], attribute vector_source (the model that made them).  Nothing writes or
 *   reads them yet; a reader passes over them.
 *   The file ends with a SHA-256 of itself (event_format.h): damage shows on opening.
 *
 * Patients ascend by subject id; a patient's events are in timeline order: available time, kind (EventKind order), code
 * string, value; never source row.  Static events come first.  HDF5 object times are off: same input, same bytes. */
#ifndef EHR_DATA_EVENT_H
#define EHR_DATA_EVENT_H
#include "model/base.h"

/* In the order in which events of one minute are told. */
typedef enum {
    KIND_STATIC,      /* SEX//F, RACE//..., no time */
    KIND_BIRTH,       /* MEDS_BIRTH */
    KIND_VISIT_START, /* VISIT//IP, VISIT//OUT, ... */
    KIND_TRANSFER,    /* ICU_IN, ICU_OUT */
    KIND_LAB,         /* measurements and vital signs */
    KIND_DIAGNOSIS,
    KIND_PROCEDURE,
    KIND_DRUG,
    KIND_OTHER,     /* observations, devices, complaints */
    KIND_VISIT_END, /* VISIT_END... */
    KIND_DEATH,     /* MEDS_DEATH */
    KIND_COUNT
} EventKind;
const char *event_kind_name(int kind); /* "diagnosis" */
int event_kind_find(const char *name); /* -1: none */

typedef enum { PRECISION_SECOND, PRECISION_MINUTE, PRECISION_DAY, PRECISION_NONE } TimePrecision;
typedef enum { COMPARE_EQ, COMPARE_LT, COMPARE_LE, COMPARE_GE, COMPARE_GT } Comparator;
enum { SPLIT_TRAIN, SPLIT_TUNING, SPLIT_HELD_OUT, SPLIT_COUNT, SPLIT_UNSET = 255 };
const char *split_name(int split); /* "train", "tuning", "held_out" */
int split_find(const char *name);  /* also "val", "validation", "test"; -1: none */

#define TIME_NONE INT64_MIN /* static: no time */
#define US_PER_MINUTE 60000000ll
#define US_PER_DAY 86400000000ll

typedef struct {
    int64_t subject;
    int64_t time;      /* us since 1970: when it happened */
    int64_t available; /* us since 1970: when the system knew it; never before time for things that happen at once */
    uint32_t code;     /* id from event_writer_code, or index into codes when read */
    float value;       /* NaN = none */
    uint32_t visit;    /* 1-based ordinal of the visit inside the subject, 0 = none */
    uint32_t source_row;
    uint16_t unit; /* id from event_writer_unit, 0 = none */
    uint8_t comparator, precision;
    uint32_t note; /* read only: 1 + number of its text among the patient's, 0 = none */
} Event;
enum { EVENT_TEXT_MAX = 1 << 20 }; /* bytes of a text */
uint64_t event_text_hash(const char *text, size_t n); /* orders the texts of events that are else equal */

/* ---- writing: any order in, sorted out of core ------------------------------------------------------------------- */
typedef struct EventWriter EventWriter;

/* memory: bytes the writer may use, at least 1 MiB; spills sorted runs beside path.  Nothing appears under `path`
 * before event_writer_close succeeds.  Exact duplicates (all fields but source_row) are dropped and counted. */
Status event_writer_open(EventWriter **out, const char *path, int64_t memory, Err *err);
/* Interns a code of 1 to 255 bytes; name is what a person would call it and parent the next code up its hierarchy (both
 * may be NULL; the smallest text given is kept).  A code given with several kinds takes the first in EventKind order.
 * ERR_NOMEM when the distinct codes take more than half of the memory. */
Status event_writer_code(EventWriter *w, const char *code, int kind, const char *name, const char *parent, uint32_t *id,
                         Err *err);
int event_writer_knows(const EventWriter *w, const char *code); /* whether it was interned */
Status event_writer_unit(EventWriter *w, const char *unit, uint16_t *id, Err *err); /* "" = 0 */
/* time and available are both TIME_NONE (static) or both set; value is finite or NaN. */
Status event_writer_add(EventWriter *w, const Event *e, Err *err);
/* The same of an event with a free text of 1 to EVENT_TEXT_MAX bytes.  Equal texts of equal events are duplicates. */
Status event_writer_add_text(EventWriter *w, const Event *e, const char *text, size_t n, Err *err);
void event_writer_with_texts(EventWriter *w); /* before the first row: some events will have a text */
/* Once a subject; subjects without events are kept out of the file.  split: SPLIT_UNSET when the source does not say.
 */
Status event_writer_subject(EventWriter *w, int64_t subject, int64_t observation_end, int split, Err *err);
/* source: "omop", "oracle"...; provenance_json: stored as it is.  Frees w, also when it fails. */
Status event_writer_close(EventWriter *w, const char *source, const char *provenance_json, int64_t *n_patients,
                          int64_t *n_events, int64_t *n_duplicates, Err *err);
void event_writer_abort(EventWriter *w); /* removes everything it wrote */

/* ---- reading: patient by patient, memory bounded by the longest patient ------------------------------------------ */
typedef struct {
    char *path, *source, *provenance;
    int64_t n_patients, n_events;
    int64_t n_codes, n_units;
    int64_t n_notes, note_bytes; /* free texts */
    char **codes, **code_name, **code_parent, **units;
    uint8_t *code_kind;
    char sha256[65]; /* of the file */
    struct EventFileImpl *impl;
} EventFile;

typedef struct {
    int64_t subject, observation_end;
    int split; /* SPLIT_UNSET = not fixed */
    int64_t n;
    Event *event;        /* valid until the next read */
    int64_t first_event; /* row of event[0] in the file */
    int64_t first_note, n_notes; /* texts of its events, in their order: numbers in the file */
} EventPatient;

/* Checks structure, ranges of offsets, codes and units; an events file is data, never trusted. */
Status event_file_open(EventFile *f, const char *path, Err *err);
void event_file_close(EventFile *f);
int event_file_is_relative(const EventFile *f); /* a release: times count from each patient's first event */
/* Another reader of an open file, for another thread: with windows of its own and f's everything else, while f is open. */
void event_file_share(EventFile *copy, const EventFile *f);
void event_file_unshare(EventFile *copy);
Status event_file_patient(EventFile *f, int64_t row, EventPatient *out, Err *err);
/* Text `note` of the file, valid until the next call; any bytes, it is not trusted. */
Status event_file_text(EventFile *f, int64_t note, const char **text, size_t *n, Err *err);
int64_t event_file_code(const EventFile *f, const char *code); /* -1: none */

/* us since 1970 from a proleptic Gregorian date and time, and back. */
int64_t time_from_civil(int year, int month, int day, int hour, int minute, int second);
void time_to_civil(int64_t us, int *year, int *month, int *day, int *hour, int *minute, int *second);

#endif
