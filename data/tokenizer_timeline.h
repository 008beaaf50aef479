/* tokenizer_timeline.h - from a patient's events to tokens under a given vocabulary.
 *
 * Origin: available time of the first event that is neither static nor birth; minutes are floored differences to it.  A
 * gap of m minutes is floor(m / 180 d) times =6mt, known 180 d apart, then the bin of the remainder (none below 5 min),
 * which is known when its event is.  Death is the last token; what a source records after it is dropped and counted. */
#ifndef EHR_DATA_TOKENIZER_TIMELINE_H
#define EHR_DATA_TOKENIZER_TIMELINE_H
#include "data/event.h"
#include "data/oracle_file.h"
#include "data/vocabulary.h"

/* ---- the events that count, one by one --------------------------------------------------------------------------- */
typedef struct {
    const EventFile *f;
    const EventPatient *p;
    int64_t next;      /* index of the event after the present one */
    int64_t origin_us; /* TIME_NONE before the first */
    int32_t minute;    /* of the present event */
    int32_t gap;       /* minutes since the one before */
    int dead;
    int64_t n_after_death; /* dropped */
    int64_t n_undated;     /* dropped: no time, though not static */
} Walk;

void walk_open(Walk *w, const EventFile *f, const EventPatient *p);
/* The next event, NULL at the end.  ERR_FORMAT (with *e = NULL) when the record spans more minutes than an int32. */
Status walk_next(Walk *w, const Event **e, Err *err);
/* =6mt tokens of a gap; *bin = gap bin of the remainder, -1: none. */
int32_t gap_split(int32_t gap, int *bin);

/* ---- what each code of an events file becomes
 * ------------------------------------------------------------------------ */
typedef enum { MAPPED_OWN, MAPPED_ROLLED_UP, MAPPED_UNKNOWN, MAPPED_COUNT } Mapped;

typedef struct {
    uint16_t unit;
    const VocabEdges *edges;
    int32_t *token; /* (edges->n + 1) by level - 1 */
    int64_t *seen;  /* (edges->n + 1) values seen, for drift */
} UnitLevels;

typedef struct {
    int32_t plain;  /* token of the code without value, -1: none (static, birth) */
    int32_t lt, gt; /* detection limits, -1: none */
    uint8_t mapped;
    int n_units;
    UnitLevels *unit;
} CodeTokens;

typedef struct {
    char *text; /* (n) */
    size_t n;
} NoteInMemory;

typedef struct {
    const Vocabulary *v;
    const EventFile *f;
    EventFile *notes;        /* where texts are read, the same file; NULL: they are not told, or in memory: */
    const NoteInMemory *note; /* by the note of an event less 1; NULL: none is */
    int synthetic;           /* the patients are drawn, nobody to protect: ages past 89 stay as they are */
    CodeTokens *code;        /* (f->n_codes) */
    int *static_column;      /* (f->n_codes) -1: not in the prefix */
    int32_t *static_token;   /* (f->n_codes) */
    int32_t *static_unknown; /* (v->n_static) */
} TokenMap;

Status token_map_open(TokenMap *m, const Vocabulary *v, const EventFile *f, Err *err);
void token_map_close(TokenMap *m);
void token_map_add_seen(TokenMap *m, const TokenMap *other); /* of the same file and vocabulary: values seen */

/* The code one step up from `code`: the file's own hierarchy if it has one, else the structure of ICD-9, ICD-10 and ATC
 * codes.  0: none. */
int code_parent(const EventFile *f, const char *code, char *parent, size_t size);

/* ---- one patient
 * ----------------------------------------------------------------------------------------------------- */
typedef struct {
    int64_t events[KIND_COUNT], mapped[KIND_COUNT][MAPPED_COUNT];
    int64_t values, leveled; /* events with a value; of those, told by a value token */
    int64_t notes, notes_cut, note_tokens; /* told; of them longer than the most that is told; markers included */
    int64_t after_death, undated, static_unused, static_unknown, static_repeated;
    int64_t age_unknown, age_negative, age_shifted; /* patients */
} TokenizeCounts;

typedef struct {
    int64_t n, capacity;
    uint32_t *tokens;
    int32_t *minutes;
    float *logp;       /* written when an oracle is given */
    uint16_t *statics; /* (n_static + 1) */
    int32_t observation_end;
    int64_t origin_us;
    double last_age_years; /* at the last event, after the shift; NaN: unknown */
    int floor_broken;      /* tokens do not stand for the oracle's */
} Timeline;

void timeline_init(Timeline *t, const Vocabulary *v);
void timeline_free(Timeline *t);
/* index_us: loss counts up to it (INT64_MIN: all).  oracle NULL: no logp. */
Status timeline_build(Timeline *t, TokenMap *m, const EventPatient *p, OracleFile *oracle, int64_t index_us,
                      TokenizeCounts *counts, Err *err);

#endif
