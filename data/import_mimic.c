/* import_mimic.c - MIMIC-IV (hosp and icu) -> events.h5: the order of steps.  See import_mimic.h. */
#include "data/import_mimic.h"
#include <stdlib.h>
#include <string.h>

/* ---- names of codes ---------------------------------------------------------------------------------------------- */

typedef struct {
    const char *table;
    const char *code, *version, *name[3]; /* columns; the first name, then those in brackets */
    const char *vocabulary;               /* NULL: ICD */
    int is_procedure;
} Dictionary;

static const Dictionary dictionaries[] = {
    {"d_labitems", "itemid", NULL, {"label", "fluid", "category"}, "MIMIC_LAB", 0},
    {"d_items", "itemid", NULL, {"label"}, "MIMIC_ITEM", 0},
    {"d_icd_diagnoses", "icd_code", "icd_version", {"long_title"}, NULL, 0},
    {"d_icd_procedures", "icd_code", "icd_version", {"long_title"}, NULL, 1},
    {"d_hcpcs", "code", NULL, {"short_description"}, "HCPCS", 0},
};

static const char *text(const Csv *c, const char *column) {
    int k = column ? csv_column(c, column) : -1;
    return k < 0 ? "" : c->field[k];
}

/* The name of one code, if anything uses it. */
static Status name_give(Mimic *m, const Dictionary *d, const Csv *c, Err *err) {
    char code[256], name[300], end[270];
    int64_t version = 0;
    uint32_t id;
    if (!d->vocabulary) {
        if (field_int(text(c, d->version), &version) <= 0 ||
            !icd_code(code, sizeof code, text(c, d->code), (int)version, d->is_procedure))
            return OK;
    } else {
        snprintf(code, sizeof code, "%s//%.*s", d->vocabulary, UTF8_CUT(text(c, d->code), 180));
    }
    snprintf(name, sizeof name, "%.*s", UTF8_CUT(text(c, d->name[0]), 200));
    if (*text(c, d->name[1]))
        snprintf(name, sizeof name, "%.*s (%.*s, %.*s)", UTF8_CUT(text(c, d->name[0]), 120),
                 UTF8_CUT(text(c, d->name[1]), 40), UTF8_CUT(text(c, d->name[2]), 40));
    /* Codes have a kind already: the last of all changes nothing. */
    Status status = OK;
    if (event_writer_knows(m->im.writer, code))
        status = event_writer_code(m->im.writer, code, KIND_DEATH, name, NULL, &id, err);
    snprintf(end, sizeof end, "%s//END", code);
    if (!status && event_writer_knows(m->im.writer, end)) {
        size_t n = strlen(name);
        snprintf(name + n, sizeof name - n, ": end");
        status = event_writer_code(m->im.writer, end, KIND_DEATH, name, NULL, &id, err);
    }
    return status;
}

static Status dictionary_read(Mimic *m, const Dictionary *d, Err *err) {
    int entry, got = 1;
    Stream stream;
    Csv csv;
    Status status = import_table_find(&m->im, d->table, &entry, err);
    if (status || entry < 0) return status;
    if ((status = stream_open(&stream, &m->im.archive, entry, err))) return status;
    status = csv_open(&csv, &stream, (size_t)m->im.options->max_line, err);
    if (!status) {
        while (!(status = csv_next(&csv, &got, err)) && got && !(status = name_give(m, d, &csv, err))) continue;
        csv_close(&csv);
    }
    stream_close(&stream);
    return status;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static Status mimic_run(Mimic *m, Err *err) {
    Status status = archive_add_folder(&m->im.archive, "hosp", err);
    if (!status) status = archive_add_folder(&m->im.archive, "icu", err);
    if (!status && m->im.options->notes) status = archive_add_folder(&m->im.archive, "note", err);
    if (!status) status = import_writer_open(&m->im, err);
    if (!status) status = mimic_read_tables(m, err);
    for (size_t i = 0; i < sizeof dictionaries / sizeof *dictionaries && !status; i++)
        status = dictionary_read(m, &dictionaries[i], err);
    if (!status) status = mimic_write_people(m, err);
    return status ? status : import_finish(&m->im, err);
}

Status import_mimic(const ImportOptions *options, ImportReport *r, Err *err) {
    *r = (ImportReport){.source = "mimic",
                        .extract_from = "dates are shifted by patient; observed until a year after the last discharge"};
    Mimic m = {.im = {.options = options, .report = r}};
    intern_init(&m.im.texts);
    code_map_init(&m.im.map, options->memory / 4);
    Status status = archive_open(&m.im.archive, options->path, err);
    if (status) return status;
    m.im.stage = sorter_open(options->out, sizeof(MimicRow), mimic_row_compare, NULL, options->memory / 4);
    status = mimic_run(&m, err);
    import_end(&m.im);
    return status;
}
