/* import_omop.c - OMOP CDM 5.3 / 5.4 CSV files -> events.h5: the order of steps.  See import_omop.h. */
#include "data/import_omop.h"

static Status omop_run(Omop *o, Err *err) {
    Status status = omop_read_tables(o, err);
    if (!status) status = import_choose_extract(&o->im, err);
    if (!status) status = import_writer_open(&o->im, err);
    if (!status) status = omop_resolve_codes(o, err);
    concepts_free(&o->concepts);
    if (!status) status = import_write_people(&o->im, err);
    return status ? status : import_finish(&o->im, err);
}

Status import_omop(const ImportOptions *options, ImportReport *r, Err *err) {
    Omop o = {0};
    Status status = import_begin(&o.im, options, r, "omop", sizeof(StageRow), err);
    if (status) return status;
    o.im.concept_codes = 1;
    o.im.table_visit = TABLE_VISIT;
    o.im.table_period = TABLE_PERIOD;
    o.im.source_date_from = "cdm_source";
    status = omop_run(&o, err);
    concepts_free(&o.concepts);
    import_end(&o.im);
    return status;
}
