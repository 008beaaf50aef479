/* vocabulary.h - what token ids mean: vocabulary.json of a dataset and of every checkpoint trained on it.
 *
 * Layout of ids: 0 PAD, 1 RECORD_START, 2 RECORD_CONTINUES, other specials; static tokens (SEX//F ...); AGE tokens,
 * contiguous; gap tokens, contiguous and ascending, =6mt last; shared value tokens Q1..Q10 (separate values only); then
 * events in frequency-free order (kind, code, level), with one UNKNOWN//kind token a kind; MEDS_DEATH among them; then,
 * of a vocabulary that tells notes, NOTE_BEGIN, NOTE_END, NOTE_CUT and the symbols of bpe.h, 256 bytes first.
 *
 * JSON: {"format": "ehr.c vocabulary", "format_version": 1, "values": "fused"|"separate", "static": ["SEX","RACE"],
 *   "age_bin_years": 1, "gap_bins": [{"id","code","lo_minutes","hi_minutes","quantiles_minutes":[16]}...],
 *   "tokens": [{"id":0,"code":"PAD","kind":"special","name":..., "patients_band":...,
 *               "base": "LOINC//4548-4", "level": 7, "lo": 6.1, "hi": 7.0, "unit": "%"}...],
 *     kind: special, static, age, gap, value, event, unknown, text; event and unknown also carry "event_kind": "lab"
 *     (event.h);
 *     level -1 / -2 are the detection limits =LT / =GT; lo and hi are null where open
 *   "rollup": {"ICD10CM//E11.65": "ICD10CM//E11.6", ...},   codes that map to an ancestor's token or UNKNOWN//kind
 *   "edges": {"LOINC//4548-4|%": [9 numbers], ...}, "edge_shares": {same keys: n+1 numbers, share of the values in each
 *   level when fitted, for drift}, "notes": {"begin": id, "max_tokens": 512, "merges": [[32, 116], ...]},
 *   "fitted_on": {...}}   rollup, edges, edge_shares, notes and fitted_on may be absent.
 *
 * A note is its event's token, then NOTE_BEGIN, symbols, and NOTE_END, or NOTE_CUT where max_tokens ran out, all at
 * the minute in which it was known.
 *
 * A value v of (code, unit) has level 1 + #{edges < v}, compared in float32 as values are stored: a value equal to an
 * edge stays low.  When a code has values in several units, the commonest owns "CODE=Qk"; the others are
 * "CODE|unit=Qk". */
#ifndef EHR_DATA_VOCABULARY_H
#define EHR_DATA_VOCABULARY_H
#include "data/bpe.h"

enum { TOKEN_PAD = 0, TOKEN_START = 1, TOKEN_CONTINUES = 2, GAP_QUANTILES = 16, GAP_BINS = 18, GAP_TOKENS = 19 };
enum { AGE_UNKNOWN = 65535 };          /* age_years of a patient without a date of birth; token AGE//UNKNOWN */
enum { LEVEL_LT = -1, LEVEL_GT = -2 }; /* below / above what the test can measure */

typedef enum {
    TOKEN_SPECIAL,
    TOKEN_STATIC,
    TOKEN_AGE,
    TOKEN_GAP,
    TOKEN_VALUE,
    TOKEN_EVENT,
    TOKEN_UNKNOWN,
    TOKEN_TEXT,
    TOKEN_KINDS
} TokenKind;

typedef struct {
    char *code;     /* "LOINC//4548-4=Q7", "GAP//5min-15min", "GAP//=6mt", "AGE//40-44", "SEX//F", "Q7" */
    char *base;     /* the event code of a fused value token ("LOINC//4548-4"); else equal to code */
    char *name;     /* for people, "" when unknown */
    char *unit;     /* of values, "" when none */
    int kind;       /* TokenKind */
    int event_kind; /* EventKind of event and unknown tokens; -1 otherwise */
    int level;      /* value level 1.., 0 = none; LT / GT detection-limit tokens: -1 / -2 */
    double lo, hi;  /* value edges of the level; infinite where open */
} VocabToken;

/* Lower bounds of the gap bins in minutes; GAP_MINUTES[GAP_BINS] = 180 d is the =6mt token's length (ETHOS-ARES). */
extern const int32_t GAP_MINUTES[GAP_TOKENS];
extern const char *const GAP_NAME[GAP_TOKENS]; /* token codes: "GAP//5min-15min" ... "GAP//=6mt" */

typedef struct {
    char *code, *unit;
    int n; /* edges, ascending; n + 1 levels */
    double *edge;
    double *share; /* (n + 1) of the values it was fitted on, NULL when not recorded */
} VocabEdges;

typedef struct {
    int n;
    VocabToken *token;
    int gap_lo;                                     /* ids [gap_lo, gap_lo + GAP_TOKENS) */
    double gap_quantile[GAP_TOKENS][GAP_QUANTILES]; /* minutes, ascending: mid-quantiles of the gaps observed */
    int age_lo, n_age, age_bin_years;               /* age id = age_lo + years / age_bin_years - age_first, clamped */
    int age_first_years;                            /* lower edge of the first age bin */
    int age_unknown;                                /* id of AGE//UNKNOWN, -1: none (the last age token then) */
    int n_static;                                   /* static columns of the prefix, in order */
    char **static_name;                             /* "SEX", "RACE" */
    int separate_values;
    int death;       /* id of MEDS_DEATH */
    int unknown[16]; /* by EventKind: id of UNKNOWN//kind, -1 = none */
    int n_edges;
    VocabEdges *edges; /* sorted by (code, unit) */
    int n_rollup;
    char **rollup_from, **rollup_to; /* sorted by rollup_from; rollup_to is the code of a token */
    int text_begin;                  /* id of NOTE_BEGIN, END, CUT and the symbols behind it; -1: notes are not told */
    int text_max;                    /* symbols told of a note at most */
    Bpe text;
    char *json; /* the file, verbatim */
    char sha256[65];
    int32_t *slot; /* hash of codes: token id or -1 */
    int n_slots;
} Vocabulary;

Status vocabulary_parse(Vocabulary *v, const char *json, size_t size, const char *where, Err *err);
Status vocabulary_load(Vocabulary *v, const char *path, Err *err);
void vocabulary_free(Vocabulary *v);
int vocabulary_find(const Vocabulary *v, const char *code);  /* token code -> id; -1: none */
int vocabulary_age_token(const Vocabulary *v, double years); /* NaN, < 0 or >= 200 (AGE_UNKNOWN): AGE//UNKNOWN */
const VocabEdges *vocabulary_edges(const Vocabulary *v, const char *code, const char *unit); /* NULL: none */
int edges_level(const VocabEdges *e, float value);                                           /* 1 + #{edges < value} */
int vocabulary_gap_bin(int32_t minutes); /* 0 .. GAP_BINS-1 for [5 min, 180 d); -1 below 5 min; GAP_BINS from 180 d */

/* Ids whose event code matches any pattern: a pattern is an exact code, or a prefix that ends at a code boundary
 * (before . / or =: "ICD10CM//I50" matches ICD10CM//I50 and ICD10CM//I50.1; a trailing * matches anything).  Marks
 * mark[id] |= bit; returns how many ids matched. */
int vocabulary_match(const Vocabulary *v, const char *const *patterns, int n_patterns, uint32_t bit, uint32_t *mark);
int code_matches(const char *code, const char *pattern);
enum { TEXT_BEGIN, TEXT_END, TEXT_CUT, TEXT_FIRST, TEXT_MAX_TOKENS = 65536 };
/* Of a token of kind text: its bytes, NULL for the three that are none. */
const char *vocabulary_text(const Vocabulary *v, int id, int *n);
/* Nearest codes to a pattern that matched nothing, for messages: "a, b, c". */
void vocabulary_nearest(const Vocabulary *v, const char *pattern, char *out, size_t size);
/* forbidden (V): 1 for ids that can never follow in a record (PAD, RECORD_*, static, age). */
void vocabulary_forbidden(const Vocabulary *v, uint8_t *forbidden);
/* Minutes that gap token id stands for: its observed quantiles interpolated at u in [0,1), or their mean when u < 0;
 * 0 for others. */
double vocabulary_gap_minutes(const Vocabulary *v, int id, double u);
/* "LOINC//4548-4=Q7  Hemoglobin A1c  6.1-7.0 %" for people. */
void vocabulary_describe(const Vocabulary *v, int id, char *out, size_t size);

/* vocabulary.json of v, whose fields other than json, sha256, slot, unknown, death and age_* were filled in by the
 * caller (token, gap_lo, gap_quantile, n_static, static_name, separate_values, age_bin_years, edges, rollup, text*).
 * patients_band (n) strings and fitted_on_json may be NULL.  Deterministic; free() it.  vocabulary_parse checks and
 * completes it. */
char *vocabulary_format(const Vocabulary *v, const char *const *patients_band, const char *fitted_on_json);

#endif
