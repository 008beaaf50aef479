/* whereis.h - which events files, datasets and checkpoints contain a patient, for the steward who holds the linkage. */
#ifndef EHR_DATA_WHEREIS_H
#define EHR_DATA_WHEREIS_H
#include "model/base.h"

typedef struct {
    const char *linkage; /* of a release (deidentify) or of a dataset (tokenize) */
    int64_t subject;     /* id in the source */
    const char *const *path;
    int n_paths; /* files, or folders that are searched with all below */
} WhereisOptions;

typedef struct {
    int events, datasets, checkpoints; /* looked at */
    int found;                         /* of them, with the patient */
    int unreadable;                    /* may have the patient: named in the text */
} WhereisReport;

/* One line each on out for what contains the patient, or may. */
Status whereis(const WhereisOptions *o, WhereisReport *r, FILE *out, Err *err);

#endif
