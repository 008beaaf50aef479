/* phi_scan_report.h - inside phi_scan: one file's findings while it is read. */
#ifndef EHR_DATA_PHI_SCAN_REPORT_H
#define EHR_DATA_PHI_SCAN_REPORT_H
#include "data/phi_scan.h"

typedef struct {
    PhiReport *r;
    const PhiPatterns *p;
    const char *file;
    int first; /* finding of this file */
} PhiFile;

void phi_file_begin(PhiFile *f, PhiReport *r, const PhiPatterns *p, const char *file);
void phi_file_add(PhiFile *f, const char *place, int kind, int64_t row, int64_t count);
/* Whatever patterns find in a text. */
void phi_file_text(PhiFile *f, const char *place, const char *text, size_t n, int64_t row);
void phi_file_skip(PhiReport *r, const char *file, const char *why);
/* phi_scan_h5.c */
Status phi_scan_h5(PhiFile *f, const char *path, Err *err);

#endif
