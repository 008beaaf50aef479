/* deidentify_codes.c - see deidentify_codes.h.
 *
 * A code with k patients needs no list of them, and one with fewer needs a short one: the lists of all rare codes
 * together are small, so that roll-up merges them in memory, leaves of the hierarchy first. */
#include "data/deidentify_codes.h"
#include "data/tokenizer_timeline.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS_MAX = 6, CODE_BODY_MAX = 60 };

const char *code_fate_text(int fate) {
    static const char *const text[FATE_COUNT] = {
        "kept",
        "dropped: a place smaller than a state",
        "dropped: a static column that is not on the list",
        "dropped: it looks like an identifier",
        "dropped: free text of the source",
        "lost an answer in prose: the question stays",
        "rolled up to a code with enough patients",
        "became RARE//kind: too few patients, no such ancestor",
        "dropped: too few patients, also as RARE//kind",
    };
    return text[fate];
}

/* ---- what a code says -------------------------------------------------------------------------------------------- */

static int one_of(const char *list, const char *name, size_t n) {
    char key[80];
    if (n > sizeof key - 3) return 0;
    key[0] = ' ';
    for (size_t i = 0; i < n; i++) key[i + 1] = (char)tolower((unsigned char)name[i]);
    key[n + 1] = ' ';
    key[n + 2] = 0;
    return strstr(list, key) != NULL;
}

static size_t space_of(const char *code) {
    const char *end = strstr(code, "//");
    return end ? (size_t)(end - code) : strlen(code);
}

int code_is_public(const char *code) {
    static const char spaces[] = " snomed snomed-ct snomedct loinc rxnorm icd9 icd9cm icd9proc icd9pcs icd10 icd10cm "
                                 "icd10pcs icdo3 cpt cpt4 hcpcs ndc atc cvx drg msdrg ms-drg apr-drg aprdrg hcfa omop "
                                 "ucum hgnc clinvar dbsnp so hpo radlex omop genomic visit visit_end sex race ethnicity marital birth death meds_birth "
                                 "meds_death icu_in icu_out gender unknown rare vaccine visit_start dicom hl7 ";
    return one_of(spaces, code, space_of(code));
}

static int is_place(const char *code, int keep_state) {
    static const char places[] = " address city town county zip zip3 zip5 postcode postal_code location district "
                                 "birthplace lat lon fips country state region geography neighborhood tract ";
    size_t n = space_of(code);
    return one_of(places, code, n) && !(keep_state && one_of(" state ", code, n));
}

static int column_is_listed(const char *code, const char *more) {
    size_t n = space_of(code);
    if (one_of(" sex gender race ethnicity marital ", code, n)) return 1;
    for (const char *at = more; at && *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == n && !strncmp(at, code, n)) return 1;
    return 0;
}

/* Columns of institutions, people and things. */
static int column_identifies(const char *code) {
    static const char spaces[] = " care_site caresite provider npi organization organisation payer mrn ssn account "
                                 "claim udi device_id serial lot note_id hadm_id stay_id name email phone url photo ";
    char space[64];
    snprintf(space, sizeof space, "%.*s", (int)(space_of(code) < sizeof space ? space_of(code) : 0), code);
    return one_of(spaces, code, space_of(code)) || phi_column_kind(space) >= 0;
}

/* Prose rather than a code: several words where a source's own texts are kept, many words or something long elsewhere
 * in a local vocabulary. */
static int is_text(const char *code) {
    static const char texts[] = " condition_occurrence drug_exposure procedure_occurrence measurement observation "
                                "device_exposure note text comment ";
    const char *body = strstr(code, "//");
    if (code_is_public(code)) return 0;
    body = body ? body + 2 : code;
    int words = 1;
    for (const char *s = body; *s; s++) words += *s == ' ' && s[1] && s[1] != ' ';
    return words >= (one_of(texts, code, space_of(code)) ? 2 : WORDS_MAX) || strlen(body) > CODE_BODY_MAX;
}

/* "LOINC//72166-2=words": where the question ends; 0: the code is no question, or its answer is a code itself. */
static size_t question_of(const char *code) {
    const char *equals = strchr(code, '=');
    return equals && equals > code && !strstr(equals, "//") ? (size_t)(equals - code) : 0;
}

/* An answer in many words, long, or of the look of an identifier. */
static int answer_is_prose(const PhiPatterns *phi, const char *answer) {
    PhiHit hit[1];
    int words = 1;
    for (const char *s = answer; *s; s++) words += *s == ' ' && s[1] && s[1] != ' ';
    return words >= WORDS_MAX || strlen(answer) > CODE_BODY_MAX || phi_find(phi, answer, strlen(answer), hit, 1) > 0;
}

static int looks_like_identifier(const PhiPatterns *phi, const char *code) {
    PhiHit hit[1];
    return !code_is_public(code) && phi_find(phi, code, strlen(code), hit, 1) > 0;
}

static CodeFate fate_of(const PhiPatterns *phi, const char *code, int kind, const CodeRules *rules) {
    if (kind == KIND_BIRTH || kind == KIND_DEATH) return FATE_KEPT;
    if (is_place(code, rules->keep_state)) return FATE_GEOGRAPHY;
    if (kind == KIND_STATIC && !column_is_listed(code, rules->statics) &&
        !(rules->keep_state && one_of(" state ", code, space_of(code))))
        return FATE_COLUMN;
    if (kind != KIND_STATIC && column_identifies(code)) return FATE_IDENTIFIER;
    size_t question = question_of(code);
    if (question && answer_is_prose(phi, code + question + 1) && !rules->keep_text) return FATE_ANSWER;
    if (looks_like_identifier(phi, code)) return FATE_IDENTIFIER;
    if (!rules->keep_text && is_text(code)) return FATE_TEXT;
    return FATE_KEPT;
}

/* ---- the table of codes ------------------------------------------------------------------------------------------ */

static uint32_t node_add(ReleaseCodes *m, const char *code, int kind) {
    uint32_t i = intern_find(&m->out, code);
    if (i != INTERN_NONE) return i;
    i = intern_add(&m->out, code);
    if (i >= m->capacity) {
        uint32_t capacity = m->capacity ? 2 * m->capacity : 256;
        m->out_kind = xrealloc(m->out_kind, capacity);
        m->forward = xrealloc(m->forward, capacity * sizeof *m->forward);
        m->source = xrealloc(m->source, capacity * sizeof *m->source);
        m->holders = xrealloc(m->holders, capacity * sizeof *m->holders);
        m->capacity = capacity;
    }
    m->out_kind[i] = (uint8_t)kind;
    m->forward[i] = i;
    m->source[i] = (int32_t)event_file_code(m->f, code);
    m->holders[i] = (Holders){0};
    return i;
}

Status release_codes_open(ReleaseCodes *m, const EventFile *f, int64_t k, const CodeRules *rules, Err *err) {
    PhiPatterns *phi;
    *m = (ReleaseCodes){.f = f, .k = k};
    intern_init(&m->out);
    Status status = phi_patterns_open(&phi, err);
    if (status) return status;
    m->first = xmalloc((size_t)(f->n_codes + 1) * sizeof *m->first);
    m->fate = xcalloc((size_t)f->n_codes + 1, 1);
    m->used = xcalloc((size_t)f->n_codes + 1, 1);
    m->unit_kept = xcalloc((size_t)f->n_units, 1);
    m->unit_holders = xcalloc((size_t)f->n_units, sizeof *m->unit_holders);
    for (int64_t c = 0; c < f->n_codes; c++) {
        m->fate[c] = (uint8_t)fate_of(phi, f->codes[c], f->code_kind[c], rules);
        m->first[c] = m->fate[c] == FATE_KEPT ? node_add(m, f->codes[c], f->code_kind[c]) : CODE_GONE;
        if (m->fate[c] != FATE_ANSWER) continue;
        char *question = xasprintf("%.*s", (int)question_of(f->codes[c]), f->codes[c]);
        m->first[c] = node_add(m, question, f->code_kind[c]);
        free(question);
    }
    for (int64_t u = 0; u < f->n_units; u++) {
        PhiHit hit[1];
        size_t n = strlen(f->units[u]);
        m->unit_kept[u] = !u || !phi_find(phi, f->units[u], n, hit, 1);
    }
    phi_patterns_close(phi);
    return OK;
}

static void holders_clear(Holders *h) {
    free(h->row);
    *h = (Holders){0};
}

void release_codes_close(ReleaseCodes *m) {
    for (uint32_t i = 0; i < m->out.n && m->holders; i++) holders_clear(&m->holders[i]);
    for (int64_t u = 0; m->unit_holders && u < m->f->n_units; u++) holders_clear(&m->unit_holders[u]);
    intern_free(&m->out);
    free(m->out_kind);
    free(m->forward);
    free(m->source);
    free(m->holders);
    free(m->first);
    free(m->fate);
    free(m->used);
    free(m->unit_kept);
    free(m->unit_holders);
    *m = (ReleaseCodes){0};
}

static uint32_t resolve(const ReleaseCodes *m, uint32_t i) {
    while (i != CODE_GONE && m->forward[i] != i) i = m->forward[i];
    return i;
}

uint32_t release_codes_of(const ReleaseCodes *m, uint32_t code) {
    return m->first[code] == CODE_GONE ? CODE_GONE : resolve(m, m->first[code]);
}

/* ---- how many have it -------------------------------------------------------------------------------------------- */

static void holder_add(Holders *h, int64_t row, int64_t k) {
    if (h->n >= k || (h->n && h->row[h->n - 1] == row)) return; /* patients come one after the other */
    if (h->n + 1 == k) {
        holders_clear(h);
        h->n = k;
        return;
    }
    if (h->n == h->capacity) {
        h->capacity = 2 * h->capacity + 4;
        h->row = xrealloc(h->row, (size_t)h->capacity * sizeof *h->row);
    }
    h->row[h->n++] = row;
}

void release_codes_count_begin(ReleaseCodes *m) {
    for (uint32_t i = 0; i < m->out.n; i++) holders_clear(&m->holders[i]);
    for (int64_t u = 0; u < m->f->n_units; u++) holders_clear(&m->unit_holders[u]);
}

void release_codes_count(ReleaseCodes *m, int64_t row, uint32_t out_code, uint16_t unit) {
    holder_add(&m->holders[out_code], row, m->k);
    if (unit) holder_add(&m->unit_holders[unit], row, m->k);
}

/* ---- roll-up ----------------------------------------------------------------------------------------------------- */

static int is_exempt(const ReleaseCodes *m, uint32_t i) {
    return m->out_kind[i] == KIND_BIRTH || m->out_kind[i] == KIND_DEATH;
}

static int is_rare(const ReleaseCodes *m, uint32_t i) {
    return m->forward[i] == i && m->holders[i].n > 0 && m->holders[i].n < m->k && !is_exempt(m, i);
}

/* The last resort of a code: static values become unknown by being left out. */
static uint32_t bucket_of(ReleaseCodes *m, uint32_t i) {
    int kind = m->out_kind[i];
    char name[64];
    if (kind == KIND_STATIC) return CODE_GONE;
    if (kind == KIND_VISIT_START) snprintf(name, sizeof name, "VISIT//OTHER");
    else if (kind == KIND_VISIT_END) snprintf(name, sizeof name, "VISIT_END//OTHER");
    else snprintf(name, sizeof name, "RARE//%s", event_kind_name(kind));
    uint32_t bucket = node_add(m, name, kind);
    return bucket == i ? CODE_GONE : bucket;
}

/* The next code up; CODE_GONE: none. */
static uint32_t parent_of(ReleaseCodes *m, uint32_t i) {
    char up[1024];
    if (m->out_kind[i] == KIND_STATIC || !code_parent(m->f, m->out.item[i], up, sizeof up) || strlen(up) > 255)
        return CODE_GONE;
    uint32_t parent = node_add(m, up, m->out_kind[i]);
    return resolve(m, parent) == i ? CODE_GONE : parent;
}

/* Both lists ascend by row; so does what comes of them. */
static void holders_merge(Holders *into, const Holders *from, int64_t k) {
    Holders all = {0};
    int64_t a = 0, b = 0;
    if (into->n >= k) return;
    while (a < into->n || b < from->n) {
        int first = b == from->n || (a < into->n && into->row[a] <= from->row[b]);
        holder_add(&all, first ? into->row[a++] : from->row[b++], k);
        if (all.n >= k) break;
    }
    holders_clear(into);
    *into = all;
}

static void move(ReleaseCodes *m, uint32_t from, uint32_t to) {
    to = resolve(m, to);
    if (to == from) to = CODE_GONE;
    m->forward[from] = to;
    if (to != CODE_GONE) holders_merge(&m->holders[to], &m->holders[from], m->k);
    holders_clear(&m->holders[from]);
}

/* One round over what is rare now: whoever waits for children that may still arrive stays.  Returns how many moved. */
static int64_t move_leaves(ReleaseCodes *m, int everybody) {
    int64_t moved = 0, n_rare = 0;
    uint32_t n = m->out.n, *rare = xmalloc((n + 1) * sizeof *rare), *up = xmalloc((n + 1) * sizeof *up);
    for (uint32_t i = 0; i < n; i++)
        if (is_rare(m, i)) rare[n_rare++] = i;
    for (int64_t r = 0; r < n_rare; r++) up[r] = parent_of(m, rare[r]);
    uint8_t *awaited = xcalloc(m->out.n, 1);
    for (int64_t r = 0; r < n_rare && !everybody; r++)
        if (up[r] != CODE_GONE && resolve(m, up[r]) != CODE_GONE) awaited[resolve(m, up[r])] = 1;
    for (int64_t r = 0; r < n_rare; r++) {
        uint32_t i = rare[r];
        /* The buckets come last: everything may still arrive there. */
        uint32_t bucket = up[r] == CODE_GONE ? bucket_of(m, i) : 0;
        if (awaited[i] || (bucket == CODE_GONE && m->out_kind[i] != KIND_STATIC && n_rare > 1 && !everybody)) continue;
        if (!is_rare(m, i)) continue;
        move(m, i, up[r] == CODE_GONE ? bucket : up[r]);
        moved++;
    }
    free(rare);
    free(up);
    free(awaited);
    return moved;
}

int release_codes_roll_up(ReleaseCodes *m) {
    int changed = 0;
    for (;;) {
        int64_t moved = move_leaves(m, 0);
        if (!moved) moved = move_leaves(m, 1); /* buckets, or a circle in the hierarchy */
        if (!moved) break;
        changed = 1;
    }
    for (int64_t u = 1; u < m->f->n_units; u++)
        if (m->unit_kept[u] && m->unit_holders[u].n > 0 && m->unit_holders[u].n < m->k) {
            m->unit_kept[u] = 0;
            changed = 1;
        }
    for (int64_t c = 0; c < m->f->n_codes; c++) {
        if (m->first[c] == CODE_GONE) continue;
        uint32_t to = release_codes_of(m, (uint32_t)c);
        if (to == m->first[c] && m->fate[c] == FATE_ANSWER) continue;
        m->fate[c] = to == CODE_GONE ? FATE_DROPPED : to == m->first[c] ? FATE_KEPT : FATE_ROLLED_UP;
        if (to != CODE_GONE && to != m->first[c] &&
            (!strncmp(m->out.item[to], "RARE//", 6) || strstr(m->out.item[to], "//OTHER")))
            m->fate[c] = FATE_RARE;
    }
    return changed;
}
