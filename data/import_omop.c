/* import_omop.c - OMOP CDM 5.3 / 5.4 CSV files -> events.h5: the order of steps.  See import_omop.h. */
#include "data/import_omop.h"
#include <stdlib.h>
#include <string.h>

int omop_table_name(const char *entry, char table[64]) {
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

Status omop_find_table(const Omop *o, const char *table, int *entry, Err *err) {
    char name[64];
    *entry = -1;
    for (int i = 0; i < o->archive.n; i++) {
        if (!omop_table_name(o->archive.entry[i].name, name) || strcmp(name, table)) continue;
        if (*entry >= 0)
            return err_set(err, ERR_FORMAT, "%s holds the table %s twice: %.150s and %.150s; keep one", o->archive.path,
                           table, o->archive.entry[*entry].name, o->archive.entry[i].name);
        *entry = i;
    }
    return OK;
}

/* The day the data were pulled: as told, or as cdm_source says unless more than 1% of the rows (10 in a handful) are
 * later: dates were shifted then; or the last day in the data. */
Status omop_choose_extract(Omop *o, Err *err) {
    FieldTime t;
    int64_t rows = 0, later = 0, last = -1;
    for (int64_t d = 0; d < DAY_COUNT; d++) {
        rows += o->day_rows[d];
        if (o->day_rows[d]) last = d;
        if (o->source_date != TIME_NONE && d + DAY_FIRST > day_of(o->source_date)) later += o->day_rows[d];
    }
    if (o->options->extract_date) {
        if (field_time(o->options->extract_date, &t) <= 0)
            return err_set(err, ERR_USAGE, "--extract-date takes YYYY-MM-DD, not '%s'", o->options->extract_date);
        o->extract = day_of(t.us) * US_PER_DAY;
        o->report->extract_from = "--extract-date";
    } else if (o->source_date != TIME_NONE && (later <= rows / 100 || (later <= 10 && later <= rows / 2))) {
        o->extract = day_of(o->source_date) * US_PER_DAY;
        o->report->extract_from = "cdm_source";
    } else if (last >= 0) {
        o->extract = (last + DAY_FIRST) * US_PER_DAY;
        o->report->extract_from = "last date in the data";
    } else {
        return err_set(err, ERR_FORMAT, "%s has no row with a usable date", o->options->path);
    }
    int y, mo, d, h, mi, s;
    time_to_civil(o->extract, &y, &mo, &d, &h, &mi, &s);
    snprintf(o->report->extract_date, sizeof o->report->extract_date, "%04d-%02d-%02d", y, mo, d);
    return OK;
}

static Status omop_run(Omop *o, Err *err) {
    ImportReport *r = o->report;
    Status status = omop_read_tables(o, err);
    if (!status) status = omop_choose_extract(o, err);
    if (!status) status = event_writer_open(&o->writer, o->options->out, o->options->memory / 4, err);
    if (!status) status = omop_resolve_codes(o, err);
    concepts_free(&o->concepts);
    if (!status) status = omop_write_people(o, err);
    if (status) return status;
    sorter_close(o->stage);
    o->stage = NULL;
    char *provenance = import_report_json(r, 0);
    EventWriter *w = o->writer;
    o->writer = NULL; /* closing frees it */
    status = event_writer_close(w, "omop", provenance, &r->n_patients, &r->n_events, &r->n_duplicates, err);
    free(provenance);
    return status;
}

Status import_omop(const ImportOptions *options, ImportReport *r, Err *err) {
    *r = (ImportReport){.source = "omop"};
    Omop o = {.options = options, .report = r, .last_period_end = TIME_NONE, .source_date = TIME_NONE};
    intern_init(&o.texts);
    Status status = archive_open(&o.archive, options->path, err);
    if (status) return status;
    o.day_rows = xcalloc(DAY_COUNT, sizeof *o.day_rows);
    o.stage = sorter_open(options->out, sizeof(StageRow), stage_compare, &o, options->memory / 4);
    status = omop_run(&o, err);
    event_writer_abort(o.writer);
    sorter_close(o.stage);
    concepts_free(&o.concepts);
    intern_free(&o.texts);
    free(o.keys.key);
    free(o.keys.slot);
    free(o.day_rows);
    archive_close(&o.archive);
    return status;
}
