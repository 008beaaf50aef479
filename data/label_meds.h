/* label_meds.h - label files in MEDS's terms, as CSV: subject_id, prediction_time (or prediction_time_us, us since
 * 1970) and, if there, boolean_value.  scripts/meds_labels.py makes them of label parquet, such as ACES writes.  Data
 * up to and including the prediction time may be used. */
#ifndef EHR_DATA_LABEL_MEDS_H
#define EHR_DATA_LABEL_MEDS_H
#include "model/base.h"

typedef struct {
    int64_t subject, index_us;
    int outcome; /* 1, 0; -1 = the file does not say */
} MedsLabel;

typedef struct {
    MedsLabel *label; /* (n) by subject, then time; each pair once */
    int64_t n;
    int64_t n_repeated; /* left out: the same row again */
    int64_t n_unknown;  /* left out: the subject is not in the release */
    int with_outcomes;
} MedsLabels;

/* release_linkage: of a de-identified release, whose ids and times the labels are put into; NULL = they are its own. */
Status meds_labels_read(MedsLabels *m, const char *path, const char *release_linkage, Err *err);
void meds_labels_free(MedsLabels *m);
/* The labels of a subject; *n of them. */
const MedsLabel *meds_labels_find(const MedsLabels *m, int64_t subject, int64_t *n);

#endif
