/* linkage.h - which source subject is which patient of a dataset.  It stays with the steward, beside the events file
 * and never in the dataset.
 *
 * EVENTS.linkage.h5 belongs to the dataset made last from EVENTS.h5; that of an earlier dataset is kept as
 * EVENTS.linkage-SHA.h5, SHA the first 16 digits of that dataset's dataset.json.  A table (table.h), ascending by
 * subject: subject_id i64 | patient_key u64 | split i64 | patient_row i64 (rank in the split) | origin_us i64 (minute
 * 0) attributes: name, events_sha256, dataset_sha256.
 *
 * The linkage of a release, which `deidentify` writes where --linkage says, is such a table without patient_row: its
 * attributes are name "release linkage", release, events_sha256, released_sha256. */
#ifndef EHR_DATA_LINKAGE_H
#define EHR_DATA_LINKAGE_H
#include "data/table.h"

#define RELEASE_LINKAGE "release linkage"

typedef struct {
    Table table;
    const int64_t *subject, *split, *row, *origin;
    const uint64_t *key;
} Linkage;

/* Where the linkage of the dataset made last lies; where that of a certain dataset is kept.  free() it. */
char *linkage_path(const char *events);
char *linkage_path_of(const char *events, const char *dataset_sha256);

/* Writes t as the linkage of the dataset made last; another dataset's, found in its place, moves to its own name unless
 * that dataset is `replaced` (its SHA-256, "" = none).  ERR_FORMAT when what is in its place is no linkage. */
Status linkage_write(const Table *t, const char *events, const char *replaced, Err *err);
/* The linkage of a dataset (dataset_path for messages): of path if given, else found beside the events. */
Status linkage_open(Linkage *l, const char *path, const char *events, const char *dataset_sha256,
                    const char *dataset_path, Err *err);
void linkage_close(Linkage *l);
/* Source ids to the ids of released events, by the linkage file of the release; sorted again.  Those that are not in
 * the release are left out and counted. */
Status linkage_translate(int64_t *id, int64_t *n, int64_t *n_unknown, const char *path, const char *events_sha256,
                         Err *err);
int64_t linkage_find(const Linkage *l, int64_t subject); /* row of the table, -1: none */

#endif
