/* code_map.c - see code_map.h. */
#include "data/code_map.h"
#include "data/csv.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { CODE_MAX = 256 };

/* ---- ICD --------------------------------------------------------------------------------------------------------- */

int icd_code(char *out, size_t size, const char *text, int version, int is_procedure) {
    static const char *const vocabulary[2][2] = {{"ICD9CM", "ICD10CM"}, {"ICD9Proc", "ICD10PCS"}};
    char code[16];
    size_t n = 0;
    for (; *text && n + 1 < sizeof code; text++)
        if (isalnum((unsigned char)*text)) code[n++] = (char)toupper((unsigned char)*text);
    code[n] = 0;
    size_t shortest = is_procedure && version == 9 ? 2 : 3, longest = version == 9 ? 5 : 7;
    /* V and E codes of ICD-9 are diagnoses; E codes have one digit more before the dot. */
    size_t whole = is_procedure ? (version == 9 ? 2 : 7) : version == 9 && code[0] == 'E' ? 4 : 3;
    if (n < shortest || n > longest) return 0;
    const char *name = vocabulary[!!is_procedure][version != 9];
    snprintf(out, size, n > whole ? "%s//%.*s.%s" : "%s//%.*s%s", name, (int)whole, code,
             n > whole ? code + whole : "");
    return 1;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

void code_map_init(CodeMap *m, int64_t memory) { *m = (CodeMap){.memory = (size_t)memory}; }

void code_map_free(CodeMap *m) {
    for (uint32_t i = 0; i < m->from.n; i++) free(m->to[i]);
    for (uint32_t i = 0; i < m->named.n; i++) free(m->name[i]);
    free(m->to);
    free(m->wider);
    free(m->name);
    intern_free(&m->from);
    intern_free(&m->named);
    *m = (CodeMap){0};
}

static Status room_check(const CodeMap *m, const char *path, Err *err) {
    size_t bytes = m->bytes + m->from.bytes + m->named.bytes;
    if (bytes <= m->memory) return OK;
    return err_set(err, ERR_NOMEM,
                   "--map %s: maps and names of codes take more than %zu bytes, their share of --memory", path,
                   m->memory);
}

static void name_add(CodeMap *m, const char *code, const char *name) {
    if (!*code || !*name || intern_find(&m->named, code) != INTERN_NONE) return;
    uint32_t i = intern_add(&m->named, code);
    if (i >= m->name_room) m->name = xrealloc(m->name, (m->name_room = m->named.capacity) * sizeof *m->name);
    m->name[i] = xstrdup(name);
    m->bytes += strlen(name) + 24;
}

/* Id of a source; new ones have no target. */
static uint32_t source_add(CodeMap *m, const char *from) {
    uint32_t n = m->from.n, i = intern_add(&m->from, from);
    if (i < n) return i;
    if (i >= m->room) {
        m->room = m->from.capacity;
        m->to = xrealloc(m->to, m->room * sizeof *m->to);
        m->wider = xrealloc(m->wider, m->room);
    }
    m->to[i] = NULL;
    m->wider[i] = 0;
    return i;
}

static void target_set(CodeMap *m, uint32_t i, const char *to) {
    if (m->to[i]) m->bytes -= strlen(m->to[i]) + 24;
    free(m->to[i]);
    m->to[i] = to ? xstrdup(to) : NULL;
    if (to) m->bytes += strlen(to) + 24;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

typedef struct {
    CodeMap *m;
    Csv csv;
    int column[3];
    int is_procedure;
    uint32_t before; /* sources of earlier files are left as they are */
} MapFile;

static const char *field(const MapFile *f, int k) {
    char *s = f->csv.field[f->column[k]];
    while (*s == ' ') s++;
    for (size_t n = strlen(s); n && s[n - 1] == ' '; n--) s[n - 1] = 0;
    return s;
}

/* What two codes have in common, without a dot at the end; 0: not even a category. */
static int common_code(char *a, const char *b) {
    size_t n = 0, at = (size_t)(strstr(a, "//") + 2 - a);
    while (a[n] && a[n] == b[n]) n++;
    if (n < at + 3) return 0;
    if (a[n - 1] == '.') n--;
    a[n] = 0;
    return 1;
}

static void icd_row(MapFile *f) {
    char from[CODE_MAX], to[CODE_MAX], joined[CODE_MAX];
    if (!icd_code(from, sizeof from, field(f, 0), 9, f->is_procedure)) return;
    uint32_t n = f->m->from.n, i = intern_find(&f->m->from, from);
    if (i != INTERN_NONE && i < f->before) return;
    int has = icd_code(to, sizeof to, field(f, 1), 10, f->is_procedure) && strcasecmp(field(f, 1), "NoDx") &&
              strcasecmp(field(f, 1), "NoPCS");
    if (!has) return;
    i = source_add(f->m, from);
    if (i >= n) {
        target_set(f->m, i, to);
    } else if (f->m->to[i] && strcmp(f->m->to[i], to)) {
        snprintf(joined, sizeof joined, "%s", f->m->to[i]);
        target_set(f->m, i, common_code(joined, to) ? joined : NULL);
        f->m->wider[i] = 1;
    }
}

static void drug_row(MapFile *f) {
    char from[CODE_MAX], to[CODE_MAX];
    snprintf(from, sizeof from, "DRUG//%s", field(f, 0));
    for (char *p = from; *p; p++) *p = (char)tolower((unsigned char)*p);
    snprintf(to, sizeof to, "ATC//%s", field(f, 1));
    if (!*field(f, 0) || !*field(f, 1) || intern_find(&f->m->from, from) != INTERN_NONE) return;
    target_set(f->m, source_add(f->m, from), to);
}

static void whole_row(MapFile *f) {
    const char *from = field(f, 0), *to = field(f, 1);
    if (!*from || !*to || strlen(to) >= CODE_MAX || intern_find(&f->m->from, from) != INTERN_NONE) return;
    target_set(f->m, source_add(f->m, from), to);
}

static void icd_name_row(MapFile *f) {
    char code[CODE_MAX];
    if (icd_code(code, sizeof code, field(f, 0), 10, 0)) name_add(f->m, code, field(f, 1));
}

static void atc_name_row(MapFile *f) {
    char code[CODE_MAX];
    snprintf(code, sizeof code, "ATC//%s", field(f, 0));
    if (*field(f, 0)) name_add(f->m, code, field(f, 1));
}

static const struct {
    const char *column[3]; /* the first two are read; the third only tells the format */
    void (*row)(MapFile *f);
} formats[] = {{{"icd_9", "icd_10"}, icd_row},
               {{"drug", "atc_code"}, drug_row},
               {{"source", "target"}, whole_row},
               {{"code", "long", "billable"}, icd_name_row},
               {{"atc_code", "atc_name"}, atc_name_row}};

static int format_find(MapFile *f) {
    for (size_t k = 0; k < sizeof formats / sizeof *formats; k++) {
        int all = 1;
        for (int c = 0; c < 3 && formats[k].column[c]; c++)
            all &= (f->column[c] = csv_column(&f->csv, formats[k].column[c])) >= 0;
        if (all) return (int)k;
    }
    return -1;
}

/* Calls `row` for every record, or with row NULL sees whether every target is as long as a procedure's. */
static Status file_pass(MapFile *f, const char *path, int *format, int look, Err *err) {
    Stream stream;
    Status status = stream_open_path(&stream, path, err);
    if (status) return status;
    status = csv_open(&f->csv, &stream, 1 << 20, err);
    if (!status) {
        *format = format_find(f);
        if (*format < 0)
            status = err_set(err, ERR_FORMAT,
                             "--map %s is no map that is known: columns icd_9,icd_10 or drug,atc_code or source,target "
                             "were expected (or names: code,billable,long or atc_code,atc_name), the first is %.60s",
                             path, f->csv.column[0]);
        if (look) f->is_procedure = 1;
        for (int got = 1; !status && !(status = csv_next(&f->csv, &got, err)) && got;) {
            if (look && !strncasecmp(field(f, 1), "No", 2)) continue;
            if (look) f->is_procedure &= strlen(field(f, 1)) == 7;
            else formats[*format].row(f);
            if (!(f->csv.counts.rows & 1023)) status = room_check(f->m, path, err);
        }
        csv_close(&f->csv);
    }
    stream_close(&stream);
    return status;
}

Status code_map_add(CodeMap *m, const char *path, Err *err) {
    MapFile f = {.m = m, .before = m->from.n};
    int format = 0;
    Status status = file_pass(&f, path, &format, 1, err);
    if (!status) status = file_pass(&f, path, &format, 0, err);
    return status ? status : room_check(m, path, err);
}

const char *code_map_find(const CodeMap *m, const char *code, int *wider) {
    char lower[CODE_MAX];
    *wider = 0;
    if (!m->from.n) return NULL;
    if (!strncmp(code, "DRUG//", 6)) {
        size_t n = 0;
        for (; code[n] && n + 1 < sizeof lower; n++) lower[n] = (char)tolower((unsigned char)code[n]);
        lower[n] = 0;
    }
    uint32_t i = intern_find(&m->from, code);
    if (i == INTERN_NONE && !strncmp(code, "DRUG//", 6)) i = intern_find(&m->from, lower);
    if (i == INTERN_NONE) return NULL;
    *wider = m->wider[i];
    return m->to[i];
}

const char *code_map_name(const CodeMap *m, const char *code) {
    uint32_t i = intern_find(&m->named, code);
    return i == INTERN_NONE ? NULL : m->name[i];
}
