/* phi_scan.h - looks for identifiers of persons in files, whatever wrote them: CSV by column names and by what fields
 * hold, JSON by keys and text, HDF5 by its strings (and an events file by its times and ids), zip and gz by their
 * content.  What is found is told by place and number, never shown. */
#ifndef EHR_DATA_PHI_SCAN_H
#define EHR_DATA_PHI_SCAN_H
#include "data/phi_scan_patterns.h"

enum { PHI_ROWS_MAX = 3 };
typedef struct {
    char *file, *place; /* "column SSN", "text", "key family", "/codes", "attribute source" */
    int kind;
    int64_t count;
    int64_t row[PHI_ROWS_MAX]; /* records, lines or strings from 1: of the first */
} PhiFinding;

typedef struct {
    int n, capacity;
    PhiFinding *finding;
    int64_t files, bytes;
    int n_skipped;
    char **skipped; /* files that hold no text, or cannot be read, and why */
    int n_unsearched; /* among them: folders that lie too deep, HDF5 with text that was not searched */
} PhiReport;

/* path: a file, or a folder with all below it; links are not followed.  r is added to. */
Status phi_scan(PhiReport *r, const PhiPatterns *p, const char *path, FILE *progress, Err *err);
/* Adds the names of persons that a source tells in columns or keys of names. */
Status phi_names_read(PhiPatterns *p, const char *path, Err *err);
int64_t phi_report_count(const PhiReport *r, const char *file_part, const char *place, int kind); /* NULL, -1: any */
void phi_report_print(const PhiReport *r, FILE *out);
char *phi_report_json(const PhiReport *r); /* free() it */
void phi_report_free(PhiReport *r);

#endif
