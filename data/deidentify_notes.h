/* deidentify_notes.h - free texts of a release: only with a signed statement that a scrubber went over them, and what
 * the patterns of phi-scan still find in them, or an age past 89, is masked as [DATE], [PHONE], [AGE], and counted. */
#ifndef EHR_DATA_DEIDENTIFY_NOTES_H
#define EHR_DATA_DEIDENTIFY_NOTES_H
#include "data/deidentify_patient.h"

/* The texts of one patient: equal ones are held once. */
typedef struct {
    uint32_t n, capacity;
    struct ReleaseText {
        char *text;
        size_t size;
    } * item;
} ReleaseTexts;

void release_texts_free(ReleaseTexts *t);
/* Reads and masks the texts of p's events, which then hold 1 + a place in t as their note.  r counts. */
Status release_texts_read(ReleaseTexts *t, Deid *d, DeidPatient *p, DeidentifyReport *r, Err *err);
/* A text with what identifies masked; free() it.  masked (PHI_COUNT + 1): added to by kind, the last are ages. */
char *text_mask(const PhiPatterns *phi, const char *text, size_t *n, int64_t *masked);

#endif
