/* import_fhir.c - FHIR R4 JSON -> events.h5.  See import_fhir.h.
 *
 * Nothing is believed of the text before jansson has read it, and jansson sees one bounded resource at a time.  Types
 * that hold no event (claims, provenance, organizations) are cut out of the stream without being parsed. */
#include "data/import_fhir.h"
#include "data/fhir_text.h"
#include "kernels/philox.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OTHERS_MAX = 200 };

static int table_others(void) { return fhir_type_count; }
static int table_unreadable(void) { return fhir_type_count + 1; }

/* 0 = not FHIR by its name, 1 = documents, 2 = lines. */
static int entry_form(const char *name) {
    static const struct {
        const char *ending;
        int form;
    } endings[] = {{".json", 1}, {".ndjson", 2}, {".jsonl", 2}};
    size_t n = strlen(name);
    if (n > 3 && !strcasecmp(name + n - 3, ".gz")) n -= 3;
    for (size_t k = 0; k < sizeof endings / sizeof *endings; k++) {
        size_t m = strlen(endings[k].ending);
        if (n > m && !strncasecmp(name + n - m, endings[k].ending, m)) return endings[k].form;
    }
    return 0;
}

/* ---- one resource ------------------------------------------------------------------------------------------------ */

static void other_add(Fhir *f, const char *name) {
    char type[FHIR_TYPE_MAX];
    int n = 0;
    for (; name[n]; n++)
        type[n] = isalnum((unsigned char)name[n]) && name[n] > 0 ? name[n] : '?'; /* it is not trusted */
    type[n] = 0;
    for (int i = 0; i < f->n_others; i++)
        if (!strcmp(f->others[i], type)) return;
    if (f->n_others == OTHERS_MAX) return;
    f->others = xrealloc(f->others, (size_t)(f->n_others + 1) * sizeof *f->others);
    f->others[f->n_others++] = xstrdup(type);
}

static void account(Fhir *f, int table, ReportReason reason) {
    ImportReport *r = f->im.report;
    ReportTable *t = &r->table[table];
    t->present = 1;
    import_report_count(r, table, reason, ++t->read);
    if (reason < DROP_ERRORS_END && !*r->first_unreadable)
        snprintf(r->first_unreadable, sizeof r->first_unreadable, "%.*s, resource %lld", (int)utf8_cut(f->file, 160),
                 f->file, (long long)f->piece);
}

/* meta.lastUpdated in us, fractions of a second included; else meta.versionId. */
static int64_t version_read(const json_t *resource) {
    const json_t *meta = json_object_get(resource, "meta");
    const char *updated = fhir_text(meta, "lastUpdated"), *dot = strchr(updated, '.');
    FieldTime t;
    int64_t id, fraction = 0, scale = 100000;
    if (field_time(updated, &t) > 0) {
        for (const char *p = dot ? dot + 1 : ""; *p >= '0' && *p <= '9' && scale; p++, scale /= 10)
            fraction += (*p - '0') * scale;
        return t.us - t.offset_min * US_PER_MINUTE + fraction;
    }
    return field_int(fhir_text(meta, "versionId"), &id) > 0 ? id : TIME_NONE;
}

/* What references call it: in a bundle its fullUrl when that is a urn, else its id. */
static void identity_read(FhirRow *r, const json_t *entry) {
    const char *url = fhir_text(entry, "fullUrl"), *id = fhir_text(r->resource, "id");
    if (!strncmp(url, "urn:uuid:", 9)) id = url + 9;
    else if (!*id && *url) id = strrchr(url, '/') ? strrchr(url, '/') + 1 : url;
    if (strlen(id) < sizeof r->id) snprintf(r->id, sizeof r->id, "%s", id);
}

static Status resource_read(Fhir *f, int type, const json_t *entry, const json_t *resource, Err *err) {
    ReportTable *t = &f->im.report->table[type];
    FhirRow r = {.f = f, .resource = resource, .table = type, .row = ++t->read};
    char name[200];
    t->present = 1;
    identity_read(&r, entry);
    snprintf(name, sizeof name, "%.30s/%s", fhir_type_name(type), r.id);
    r.stage = (StageResource){.row = {.stage = STAGE_CLINICAL,
                                      .table = (uint8_t)type,
                                      .row = (uint32_t)r.row,
                                      .key = INTERN_NONE,
                                      .unit = INTERN_NONE,
                                      .value = NAN,
                                      .start = TIME_NONE,
                                      .end = TIME_NONE,
                                      .end_precision = PRECISION_NONE},
                              /* Without an id it has no other versions. */
                              .resource = *r.id ? (uint64_t)import_id_hash(name, NULL)
                                                : philox_mix((uint64_t)type + 1, (uint64_t)r.row) | (uint64_t)1 << 63,
                              .version = version_read(resource),
                              .drop = -1};
    return fhir_resource(&r, type, err);
}

/* An entry of a bundle that deletes a record: {"request": {"method": "DELETE", "url": "Observation/1"}}. */
static Status deletion_read(Fhir *f, const json_t *entry, Err *err) {
    const char *url = fhir_text(json_object_get(entry, "request"), "url"), *id = strrchr(url, '/'), *type;
    FieldTime t;
    char name[200];
    account(f, table_others(), DROP_DELETION);
    if (!id || id == url) return OK;
    for (type = id; type > url && type[-1] != '/';) type--;
    snprintf(name, sizeof name, "%.*s/%.160s", (int)(id - type < 30 ? id - type : 30), type, id + 1);
    int64_t when = INT64_MAX;
    if (field_time(fhir_text(json_object_get(entry, "response"), "lastModified"), &t) > 0)
        when = t.us - t.offset_min * US_PER_MINUTE + 999999; /* to the second */
    return import_void(&f->im, (uint64_t)import_id_hash(name, NULL), when, err);
}

/* ---- its text ---------------------------------------------------------------------------------------------------- */

static ReportReason parse_reason(const json_error_t *error) {
    switch (json_error_code(error)) {
    case json_error_duplicate_key: return DROP_JSON_TWICE;
    case json_error_stack_overflow: return DROP_JSON_DEEP;
    case json_error_premature_end_of_input: return DROP_JSON_CUT;
    default: return DROP_JSON;
    }
}

/* Bytes that are not UTF-8 taken as Latin-1, NUL bytes as blanks; *what: NOTE_UTF8, NOTE_NUL or DROP_END. */
static json_t *piece_parse(FhirPiece *p, ReportReason *what, json_error_t *error) {
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL;
    *what = DROP_END;
    for (char *nul; (nul = memchr(p->text, 0, p->size)); *nul = ' ') *what = NOTE_NUL;
    json_t *json = json_loadb(p->text, p->size, flags, error);
    if (json || json_error_code(error) != json_error_invalid_utf8) return json;
    char *clean = xmalloc(2 * p->size + 1);
    size_t n = utf8_repair(p->text, p->size, clean);
    *what = NOTE_UTF8;
    json = json_loadb(clean, n, flags, error);
    free(clean);
    return json;
}

static Status piece_read(Fhir *f, FhirPiece *p, Err *err) {
    static const ReportReason states[] = {[FHIR_PIECE_WHOLE] = DROP_END,
                                          [FHIR_PIECE_CUT] = DROP_JSON_CUT,
                                          [FHIR_PIECE_LONG] = DROP_TOO_LONG,
                                          [FHIR_PIECE_DEEP] = DROP_JSON_DEEP,
                                          [FHIR_PIECE_STRAY] = DROP_JSON};
    json_error_t error;
    ReportReason what;
    int type = fhir_type_find(p->type);
    if (states[p->state] != DROP_END) {
        account(f, table_unreadable(), states[p->state]);
        return OK;
    }
    if (type < 0 && *p->type) {
        other_add(f, p->type);
        account(f, table_others(), DROP_NOT_EVENT);
        return OK;
    }
    if (type >= 0 && fhir_type_is_document(type) && !f->im.options->notes) {
        account(f, type, DROP_DOCUMENT);
        return OK;
    }
    json_t *json = piece_parse(p, &what, &error);
    const json_t *resource = p->is_entry ? json_object_get(json, "resource") : json;
    Status status = OK;
    if (!json) account(f, table_unreadable(), parse_reason(&error));
    else if (!strcmp(fhir_text(json_object_get(json, "request"), "method"), "DELETE"))
        status = deletion_read(f, json, err);
    else if (type < 0 || strcmp(fhir_text(resource, "resourceType"), p->type))
        account(f, table_unreadable(), DROP_NOT_RESOURCE);
    else {
        if (what != DROP_END) import_report_count(f->im.report, type, what, f->im.report->table[type].read + 1);
        status = resource_read(f, type, p->is_entry ? json : NULL, resource, err);
    }
    json_decref(json);
    return status;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static Status entry_read(Fhir *f, int entry, Err *err) {
    Import *im = &f->im;
    Stream stream;
    FhirText text;
    FhirPiece piece;
    int got = 1;
    f->file = im->archive.entry[entry].name;
    f->piece = 0;
    Status status = stream_open(&stream, &im->archive, entry, err);
    if (status) return status;
    fhir_text_open(&text, &stream, entry_form(im->archive.entry[entry].name) == 2, (size_t)im->options->max_line);
    while (!status && !(status = fhir_text_next(&text, &piece, &got, err)) && got) {
        f->piece++;
        status = piece_read(f, &piece, err);
        if (!(f->piece & 255)) progress_update(&im->progress, (im->bytes_done + stream.done) >> 20);
    }
    im->bytes_done += stream.done;
    fhir_text_close(&text);
    stream_close(&stream);
    return status;
}

static void others_list(Fhir *f) {
    char text[2048] = "";
    for (int i = 0; i < f->n_others; i++) {
        size_t n = strlen(text);
        if (n + strlen(f->others[i]) + 3 < sizeof text)
            snprintf(text + n, sizeof text - n, "%s%s", n ? ", " : "", f->others[i]);
        free(f->others[i]);
    }
    free(f->others);
    f->others = NULL;
    f->n_others = 0;
    free(f->im.report->unused);
    f->im.report->unused = xstrdup(text);
}

static Status fhir_run(Fhir *f, Err *err) {
    Import *im = &f->im;
    ImportReport *r = im->report;
    int files = 0;
    int64_t bytes = 0;
    Status status = import_zone(im, 0, 0, err);
    REQUIRE(fhir_type_count + 2 <= REPORT_TABLES_MAX);
    r->n_tables = fhir_type_count + 2;
    for (int k = 0; k < fhir_type_count; k++) r->table[k] = (ReportTable){.name = fhir_type_name(k)};
    r->table[table_others()] = (ReportTable){.name = "other types"};
    r->table[table_unreadable()] = (ReportTable){.name = "unreadable"};
    im->table_visit = fhir_type_find("Encounter");
    for (int i = 0; i < im->archive.n; i++) {
        if (!entry_form(im->archive.entry[i].name)) continue;
        files++;
        bytes += im->archive.entry[i].size;
    }
    if (!status && !files)
        status =
            err_set(err, ERR_FORMAT, "%s holds no FHIR file (.json, .ndjson or .jsonl, each also .gz, were expected)",
                    im->options->path);
    if (!status) status = import_writer_open(im, err);
    progress_open(&im->progress, im->options->progress, "read resources", "MiB", bytes >> 20);
    for (int i = 0; i < im->archive.n && !status; i++)
        if (entry_form(im->archive.entry[i].name)) status = entry_read(f, i, err);
    progress_close(&im->progress, im->bytes_done >> 20);
    others_list(f); /* also after an error */
    if (!status) status = import_errors_judge(im, err);
    /* Times in UTC alone do not say on which clock dates are. */
    if (!status && !f->zone_told) status = import_zone(im, 12 * 60, 14 * 60, err);
    if (!status) status = import_choose_extract(im, err);
    if (!status) status = import_write_people(im, err);
    return status ? status : import_finish(im, err);
}

Status import_fhir(const ImportOptions *options, ImportReport *r, Err *err) {
    Fhir f = {0};
    Status status = import_begin(&f.im, options, r, "fhir", sizeof(StageResource), err);
    if (status) return status;
    status = fhir_run(&f, err);
    import_end(&f.im);
    return status;
}
