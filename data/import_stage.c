/* import_stage.c - see import_stage.h. */
#include "data/import_stage.h"
#include "data/units.h"
#include "kernels/philox.h"
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys -------------------------------------------------------------------------------------------------------- */

static uint32_t key_probe(const KeyTable *t, const CodeKey *k) {
    uint64_t h = philox_mix(philox_mix((uint64_t)k->concept, (uint64_t)k->value_concept),
                            (uint64_t)k->text << 24 | (uint64_t)k->role << 16 | (uint64_t)k->kind << 8 | k->table);
    uint32_t mask = t->n_slots - 1, i = (uint32_t)h & mask;
    for (; t->slot[i] != INTERN_NONE; i = (i + 1) & mask) {
        const CodeKey *x = &t->key[t->slot[i]];
        if (x->concept == k->concept && x->value_concept == k->value_concept && x->text == k->text &&
            x->role == k->role && x->kind == k->kind && x->table == k->table)
            break;
    }
    return i;
}

uint32_t key_add(KeyTable *t, const CodeKey *key) {
    if (t->n == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 256;
        t->key = xrealloc(t->key, t->capacity * sizeof *t->key);
        t->n_slots = 2 * t->capacity;
        t->slot = xrealloc(t->slot, t->n_slots * sizeof *t->slot);
        memset(t->slot, 0xff, t->n_slots * sizeof *t->slot);
        for (uint32_t i = 0; i < t->n; i++) t->slot[key_probe(t, &t->key[i])] = i;
        t->bytes = t->capacity * (sizeof *t->key + 2 * sizeof *t->slot);
    }
    uint32_t i = key_probe(t, key);
    if (t->slot[i] == INTERN_NONE) {
        t->slot[i] = t->n;
        t->key[t->n++] = *key;
    }
    return t->slot[i];
}

static int compare_i64(int64_t a, int64_t b) { return a < b ? -1 : a > b; }

/* By content, since ids depend on the order of arrival. */
static int key_compare(const Import *im, uint32_t a, uint32_t b) {
    if (a == b) return 0;
    if (a == INTERN_NONE || b == INTERN_NONE) return a == INTERN_NONE ? -1 : 1;
    const CodeKey *x = &im->keys.key[a], *y = &im->keys.key[b];
    int c = compare_i64(x->concept, y->concept);
    if (!c) c = compare_i64(x->value_concept, y->value_concept);
    if (!c && x->text != y->text)
        c = x->text == INTERN_NONE   ? -1
            : y->text == INTERN_NONE ? 1
                                     : strcmp(im->texts.item[x->text], im->texts.item[y->text]);
    return c;
}

/* Versions of a record come together, the newest first; of equal ones the last that was written. */
static int resource_compare(const StageResource *x, const StageResource *y) {
    if (x->resource != y->resource) return x->resource < y->resource ? -1 : 1;
    int c = compare_i64(y->version, x->version);
    if (!c) c = compare_i64(y->row.table, x->row.table);
    return c ? c : compare_i64(y->row.row, x->row.row);
}

static int stage_compare(const void *a, const void *b, void *import) {
    const StageRow *x = a, *y = b;
    const Import *im = import;
    int c = compare_i64(x->person, y->person);
    if (!c) c = (int)x->stage - y->stage;
    if (c) return c;
    if (x->stage == STAGE_CLINICAL && im->versioned) return resource_compare(a, b);
    if (x->stage == STAGE_CLINICAL) return compare_i64(x->start, y->start); /* among equals the order does not show */
    c = compare_i64(x->visit, y->visit);
    if (!c && im->versioned) c = resource_compare(a, b);
    if (!c) c = compare_i64(x->start, y->start);
    if (c) return c;
    if (x->stage == STAGE_PERSON) {
        c = key_compare(im, (uint32_t)(x->end >> 32), (uint32_t)(y->end >> 32));
        if (!c) c = key_compare(im, (uint32_t)x->end, (uint32_t)y->end);
    } else {
        c = compare_i64(x->end, y->end);
    }
    if (!c) c = (int)x->start_precision - y->start_precision;
    if (!c) c = (int)x->end_precision - y->end_precision;
    return c ? c : key_compare(im, x->key, y->key);
}

/* ---- codes that are referred to ---------------------------------------------------------------------------------- */

/* Codes, texts and references are held, so that there must not be too many. */
static Status codes_judge(const Import *im, Err *err) {
    size_t refs = (im->refs.n_slots + im->voids.n_slots) * sizeof *im->refs.item;
    if (im->keys.bytes + im->texts.bytes + refs <= (size_t)im->options->memory / 4) return OK;
    return err_set(err, ERR_NOMEM,
                   "%s: %u distinct codes and %zu records that others refer to do not fit into a quarter of --memory "
                   "%lld; give more, or check that columns of codes do not hold identifiers",
                   im->options->path, im->keys.n, im->refs.n + im->voids.n, (long long)im->options->memory);
}

static struct CodeRef *ref_probe(const RefTable *t, uint64_t resource) {
    size_t mask = t->n_slots - 1, i = (size_t)philox_mix(resource, 0) & mask;
    while (t->item[i].resource && t->item[i].resource != resource) i = (i + 1) & mask;
    return &t->item[i];
}

/* The newest version stays. */
static void ref_set(RefTable *t, uint64_t resource, int64_t version, uint32_t key) {
    if (2 * t->n >= t->n_slots) {
        RefTable old = *t;
        t->n_slots = old.n_slots ? 2 * old.n_slots : 256;
        t->item = xcalloc(t->n_slots, sizeof *t->item);
        for (size_t i = 0; i < old.n_slots; i++)
            if (old.item[i].resource) *ref_probe(t, old.item[i].resource) = old.item[i];
        free(old.item);
    }
    struct CodeRef *r = ref_probe(t, resource);
    if (!r->resource) t->n++;
    else if (r->version > version) return;
    *r = (struct CodeRef){resource, version, key};
}

Status import_refer(Import *im, uint64_t resource, int64_t version, uint32_t key, Err *err) {
    ref_set(&im->refs, resource, version, key);
    return codes_judge(im, err);
}

Status import_void(Import *im, uint64_t resource, int64_t version, Err *err) {
    ref_set(&im->voids, resource, version, INTERN_NONE);
    return codes_judge(im, err);
}

int import_is_void(const Import *im, uint64_t resource, int64_t version) {
    if (!im->voids.n) return 0;
    const struct CodeRef *r = ref_probe(&im->voids, resource);
    return r->resource && r->version >= version;
}

uint32_t import_referred(const Import *im, uint64_t resource) {
    if (!im->refs.n_slots) return INTERN_NONE;
    const struct CodeRef *r = ref_probe(&im->refs, resource);
    return r->resource ? r->key : INTERN_NONE;
}

/* ---- one import -------------------------------------------------------------------------------------------------- */

Status import_begin(Import *im, const ImportOptions *options, ImportReport *r, const char *source, size_t row_size,
                    Err *err) {
    *r = (ImportReport){.source = source};
    *im = (Import){.options = options,
                   .report = r,
                   .last_period_end = TIME_NONE,
                   .source_date = TIME_NONE,
                   .table_visit = -1,
                   .table_period = -1,
                   .versioned = row_size == sizeof(StageResource)};
    intern_init(&im->texts);
    code_map_init(&im->map, options->memory / 4);
    Status status = archive_open(&im->archive, options->path, err);
    if (status) return status;
    im->day_rows = xcalloc(DAY_COUNT, sizeof *im->day_rows);
    im->stage = sorter_open(options->out, row_size, stage_compare, im, options->memory / 4);
    return OK;
}

Status import_writer_open(Import *im, Err *err) {
    const StringList *maps = &im->options->maps;
    Status status = OK;
    for (int i = 0; i < maps->n; i++) {
        if ((status = code_map_add(&im->map, maps->item[i], err))) return status;
    }
    status = event_writer_open(&im->writer, im->options->out, im->options->memory / 4, err);
    if (!status && im->options->notes) event_writer_with_texts(im->writer);
    return status;
}

Status import_errors_judge(const Import *im, Err *err) {
    int64_t rows, errors = import_report_errors(im->report, &rows), most = im->options->max_errors;
    if (most < 0) most = rows / 100 > 100 ? rows / 100 : 100;
    if (errors <= most) return OK;
    return err_set(err, ERR_FORMAT,
                   "%lld of %lld rows of %s could not be read, more than --max-errors %lld; the report names the "
                   "reasons",
                   (long long)errors, (long long)rows, im->options->path, (long long)most);
}

/* The day the data were pulled: as told, or as the source says unless more than 1% of the rows (10 in a handful) are
 * later: dates were shifted then; or the last day in the data. */
Status import_choose_extract(Import *im, Err *err) {
    FieldTime t;
    int64_t rows = 0, later = 0, last = -1;
    for (int64_t d = 0; d < DAY_COUNT; d++) {
        rows += im->day_rows[d];
        if (im->day_rows[d]) last = d;
        if (im->source_date != TIME_NONE && d + DAY_FIRST > day_of(im->source_date)) later += im->day_rows[d];
    }
    if (im->options->extract_date) {
        if (field_time(im->options->extract_date, &t) <= 0)
            return err_set(err, ERR_USAGE, "--extract-date takes YYYY-MM-DD, not '%s'", im->options->extract_date);
        im->extract = day_of(t.us) * US_PER_DAY;
        im->report->extract_from = "--extract-date";
    } else if (im->source_date != TIME_NONE && (later <= rows / 100 || (later <= 10 && later <= rows / 2))) {
        im->extract = day_of(im->source_date) * US_PER_DAY;
        im->report->extract_from = im->source_date_from;
    } else if (last >= 0) {
        im->extract = (last + DAY_FIRST) * US_PER_DAY;
        im->report->extract_from = "last date in the data";
    } else {
        return err_set(err, ERR_FORMAT, "%s has no row with a usable date", im->options->path);
    }
    int y, mo, d, h, mi, s;
    time_to_civil(im->extract, &y, &mo, &d, &h, &mi, &s);
    snprintf(im->report->extract_date, sizeof im->report->extract_date, "%04d-%02d-%02d", y, mo, d);
    return OK;
}

Status import_finish(Import *im, Err *err) {
    ImportReport *r = im->report;
    sorter_close(im->stage);
    im->stage = NULL;
    for (uint32_t i = 0; i < im->keys.n; i++) /* of concepts the OMOP importer has counted its own */
        r->codes += im->keys.key[i].role == KEY_CLINICAL && !im->concept_codes;
    char *provenance = import_report_json(r, 0);
    EventWriter *w = im->writer;
    im->writer = NULL; /* closing frees it */
    Status status = event_writer_close(w, r->source, provenance, &r->n_patients, &r->n_events, &r->n_duplicates, err);
    free(provenance);
    return status;
}

void import_end(Import *im) {
    event_writer_abort(im->writer);
    sorter_close(im->stage);
    intern_free(&im->texts);
    text_heap_free(&im->notes);
    code_map_free(&im->map);
    free(im->keys.key);
    free(im->keys.slot);
    free(im->refs.item);
    free(im->voids.item);
    free(im->day_rows);
    archive_close(&im->archive);
}

static int compare_ids(const void *a, const void *b) { return compare_i64(*(const int64_t *)a, *(const int64_t *)b); }

int import_is_excluded(const Import *im, int64_t person) {
    const ImportOptions *o = im->options;
    return o->n_excluded && bsearch(&person, o->excluded, (size_t)o->n_excluded, sizeof person, compare_ids);
}

Status import_stage(Import *im, const StageRow *row, Err *err) {
    if (import_is_excluded(im, row->person)) {
        if (!(row->flags & ROW_MORE)) import_report_count(im->report, row->table, DROP_EXCLUDED, row->row);
        return OK;
    }
    if (sorter_full(im->stage)) {
        Status status = sorter_spill(im->stage, err);
        if (status) return status;
    }
    sorter_add(im->stage, row);
    return codes_judge(im, err);
}

void import_day_count(Import *im, int64_t us) {
    int64_t day = day_of(us) - DAY_FIRST;
    if (day >= 0 && day < DAY_COUNT && im->day_rows[day] < UINT32_MAX) im->day_rows[day]++;
}

uint32_t import_text_add(Import *im, const char *s) {
    char text[181];
    while (*s == ' ') s++;
    size_t n = utf8_cut(s, sizeof text - 1);
    for (size_t i = 0; i < n; i++) text[i] = (unsigned char)s[i] < ' ' ? ' ' : s[i];
    while (n && text[n - 1] == ' ') n--;
    text[n] = 0;
    return n ? intern_add(&im->texts, text) : INTERN_NONE;
}

const char *import_mapped(const Import *im, KeyRole role, const char *code, const char **name, uint8_t *mapped) {
    int wider;
    const char *to = role == KEY_CLINICAL && im->map.from.n ? code_map_find(&im->map, code, &wider) : NULL;
    const char *known = im->map.named.n ? code_map_name(&im->map, to ? to : code) : NULL;
    if (known) *name = known;
    if (!to) return code;
    *mapped = wider ? 2 : 1;
    return to;
}

Status import_code(Import *im, KeyRole role, int kind, const char *code, const char *name, int mark, uint32_t *key,
                   Err *err) {
    CodeKey k = {.role = (uint8_t)role, .kind = (uint8_t)kind, .mark = (uint8_t)mark};
    k.text = import_text_add(im, code);
    if (k.text == INTERN_NONE) {
        *key = INTERN_NONE;
        return OK;
    }
    code = im->texts.item[k.text];
    char text[220], ending[300];
    Status status;
    if (role == KEY_VISIT) {
        snprintf(text, sizeof text, "VISIT//%s", code);
        status = event_writer_code(im->writer, text, KIND_VISIT_START, name, NULL, &k.code, err);
        snprintf(text, sizeof text, "VISIT_END//%s", code);
        if (!name) name = code;
        snprintf(ending, sizeof ending, "End: %.*s", (int)utf8_cut(name, 250), name);
        if (!status) status = event_writer_code(im->writer, text, KIND_VISIT_END, ending, NULL, &k.end_code, err);
    } else {
        code = import_mapped(im, role, code, &name, &k.mapped);
        status = event_writer_code(im->writer, code, kind, name, NULL, &k.code, err);
        k.analyte = (uint8_t)(unit_analyte(code) + 1);
    }
    *key = key_add(&im->keys, &k);
    return status;
}

Status import_answer(Import *im, int kind, const char *code, const char *name, const char *answer,
                     const char *answer_name, uint32_t *key, Err *err) {
    char text[400], both[600];
    if (!name || !*name) name = code;
    snprintf(text, sizeof text, "%s=%.*s", code, (int)utf8_cut(answer, 160), answer);
    snprintf(both, sizeof both, "%.*s: %.*s", (int)utf8_cut(name, 250), name, (int)utf8_cut(answer_name, 250),
             answer_name);
    CodeKey k = {.role = KEY_CLINICAL, .kind = (uint8_t)kind, .text = import_text_add(im, text)};
    Status status = event_writer_code(im->writer, im->texts.item[k.text], kind, both, code, &k.code, err);
    *key = key_add(&im->keys, &k);
    return status;
}

uint32_t import_words(Import *im, uint32_t question, const char *words) {
    char text[400];
    CodeKey k = {.role = KEY_CLINICAL, .kind = im->keys.key[question].kind, .words = question + 1};
    const char *code = im->texts.item[im->keys.key[question].text];
    snprintf(text, sizeof text, "%s=%.*s", code, (int)utf8_cut(words, 160), words);
    k.text = import_text_add(im, text);
    im->has_words = 1;
    return key_add(&im->keys, &k);
}

Status import_unit_add(Import *im, const char *unit, CodeKey *k, Err *err) {
    uint16_t id = 0;
    k->text = intern_add(&im->texts, unit_spelling(unit));
    Status status = event_writer_unit(im->writer, im->texts.item[k->text], &id, err);
    k->code = id;
    return status;
}

Status import_unit(Import *im, const char *unit, uint32_t *key, Err *err) {
    CodeKey k = {.role = KEY_UNIT, .text = import_text_add(im, unit)};
    *key = INTERN_NONE;
    if (k.text == INTERN_NONE) return OK;
    Status status = import_unit_add(im, im->texts.item[k.text], &k, err);
    *key = key_add(&im->keys, &k);
    return status;
}

int64_t import_id_hash(const char *id, uint16_t *check) {
    static const unsigned char key[2][crypto_shorthash_KEYBYTES] = {"ehr.c person id", "ehr.c id checks"};
    uint64_t h[2];
    for (int k = 0; k < 2; k++) crypto_shorthash((unsigned char *)&h[k], (const unsigned char *)id, strlen(id), key[k]);
    if (check) *check = (uint16_t)h[1];
    int64_t positive = (int64_t)(h[0] & INT64_MAX);
    return positive ? positive : 1;
}

Status import_zone(Import *im, int west_min, int east_min, Err *err) {
    const char *given = im->options->utc_offset;
    if (given) {
        char text[64];
        FieldTime t;
        snprintf(text, sizeof text, "2000-01-01T12:00:00%.20s", given);
        if (field_time(text, &t) <= 0 || !t.zone)
            return err_set(err, ERR_USAGE, "--utc-offset takes +HH:MM, -HH:MM or Z, not '%s'", given);
        west_min = t.offset_min < 0 ? -t.offset_min : 0;
        east_min = t.offset_min > 0 ? t.offset_min : 0;
        im->zone_given = 1;
    }
    im->zoned = 1;
    im->west = west_min * US_PER_MINUTE;
    im->east = east_min * US_PER_MINUTE;
    return OK;
}

/* ---- tables of CSV files ----------------------------------------------------------------------------------------- */

int import_table_name(const char *entry, char table[64]) {
    static const char *const endings[] = {".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz"};
    const char *slash = strrchr(entry, '/'), *name = slash ? slash + 1 : entry, *dot = strchr(name, '.');
    int match = 0;
    for (size_t k = 0; dot && k < sizeof endings / sizeof *endings; k++) match |= !strcasecmp(dot, endings[k]);
    if (!match || dot - name > 63) return 0;
    for (; name < dot; name++, table++) {
        *table = (char)(*name >= 'A' && *name <= 'Z' ? *name + 32 : *name);
        if (*name < ' ' || *name > '~') *table = '?';
    }
    *table = 0;
    return 1;
}

Status import_table_find(const Import *im, const char *table, int *entry, Err *err) {
    char name[64];
    *entry = -1;
    for (int i = 0; i < im->archive.n; i++) {
        if (!import_table_name(im->archive.entry[i].name, name) || strcmp(name, table)) continue;
        if (*entry >= 0)
            return err_set(err, ERR_FORMAT, "%s holds the table %s twice: %.150s and %.150s; keep one",
                           im->archive.path, table, im->archive.entry[*entry].name, im->archive.entry[i].name);
        *entry = i;
    }
    return OK;
}

void import_tables_unused(Import *im, const char *const *known, int n_known) {
    char text[2048] = "", name[64];
    for (int i = 0; i < im->archive.n; i++) {
        if (!import_table_name(im->archive.entry[i].name, name)) continue;
        int is_known = 0;
        for (int k = 0; k < n_known; k++) is_known |= !strcmp(name, known[k]);
        size_t n = strlen(text);
        if (!is_known && n + strlen(name) + 3 < sizeof text)
            snprintf(text + n, sizeof text - n, "%s%s", n ? ", " : "", name);
    }
    free(im->report->unused);
    im->report->unused = xstrdup(text);
}

static void counts_add(TableReader *r) {
    const CsvCounts *c = &r->csv.counts;
    ReportTable *t = &r->im->report->table[r->table];
    const struct {
        ReportReason reason;
        int64_t n;
    } bad[] = {{DROP_FIELDS, c->wrong_count},
               {DROP_TOO_LONG, c->too_long},
               {DROP_OPEN_QUOTE, c->open_quote},
               {NOTE_UTF8, c->bad_utf8},
               {NOTE_NUL, c->nul_bytes}};
    t->read = c->rows;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        t->count[bad[i].reason] += bad[i].n;
        if (bad[i].n && bad[i].reason < DROP_END) t->first_row[bad[i].reason] = c->first_bad;
    }
}

/* Number of the first column there is of "START|DATE". */
static int column_bind(const Csv *csv, const char *names) {
    char name[64];
    for (int k = -1; names; names = strchr(names, '|') ? strchr(names, '|') + 1 : NULL) {
        size_t n = strcspn(names, "|");
        snprintf(name, sizeof name, "%.*s", (int)n, names);
        if ((k = csv_column(csv, name)) >= 0) return k;
    }
    return -1;
}

Status import_table_read(Import *im, int table, int entry, const void *source, const char *const *columns,
                         int n_columns, TableStep ready, TableStep row, Err *err) {
    TableReader r = {.im = im, .source = source, .table = table};
    Stream stream;
    REQUIRE(n_columns <= IMPORT_COLUMNS_MAX);
    Status status = stream_open(&stream, &im->archive, entry, err);
    if (status) return status;
    status = csv_open(&r.csv, &stream, (size_t)im->options->max_line, err);
    if (!status) {
        im->report->table[table].present = 1;
        im->report->table[table].bytes = stream.size;
        for (int k = 0; k < n_columns; k++) r.bound[k] = column_bind(&r.csv, columns[k]);
        if (ready) status = ready(&r, err);
        for (int got = 1; !status && !(status = csv_next(&r.csv, &got, err)) && got;) {
            r.row = r.csv.counts.rows;
            status = row(&r, err);
            if (!(r.row & 4095)) progress_update(&im->progress, (im->bytes_done + stream.done) >> 20);
        }
        counts_add(&r);
        csv_close(&r.csv);
    }
    im->bytes_done += stream.done;
    stream_close(&stream);
    return status;
}
