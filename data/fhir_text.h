/* fhir_text.h - FHIR resources out of a stream, one at a time, in memory bounded by the longest resource.
 *
 * A stream is lines (.ndjson, .jsonl: a resource or a bundle each) or documents (.json: bundles, resources, arrays of
 * them, one after the other).  Bundles are never held whole: each entry is a piece of its own.  The text is only cut
 * here, not parsed: brackets and strings are followed, nothing else is believed. */
#ifndef EHR_DATA_FHIR_TEXT_H
#define EHR_DATA_FHIR_TEXT_H
#include "data/archive.h"

enum { FHIR_DEPTH_MAX = 64, FHIR_TYPE_MAX = 40 };

typedef enum {
    FHIR_PIECE_WHOLE,
    FHIR_PIECE_CUT,  /* the line or the stream ends inside it */
    FHIR_PIECE_LONG, /* longer than max_piece; text is empty */
    FHIR_PIECE_DEEP, /* nested deeper than FHIR_DEPTH_MAX */
    FHIR_PIECE_STRAY /* text outside of any object */
} FhirPieceState;

typedef struct {
    char *text; /* may be changed, valid until the next piece */
    size_t size;
    int is_entry; /* an entry of a bundle: {"fullUrl":, "resource":} */
    FhirPieceState state;
    char type[FHIR_TYPE_MAX]; /* resourceType as far as it was seen, "" = none */
} FhirPiece;

typedef struct {
    Stream *stream; /* borrowed */
    int lines;
    size_t max_piece;
    char *buffer;
    size_t piece, at, end, capacity; /* [piece, at) of the buffer is the piece so far, [at, end) is not looked at yet */
    int at_end, in_piece, discard, too_deep, stray;
    /* where the scan stands */
    int depth, in_string, escaped, in_entries, done_entries;
    char word[FHIR_TYPE_MAX]; /* the last string, if word_size >= 0 */
    char key[FHIR_TYPE_MAX];  /* the key whose value comes next */
    char type[FHIR_TYPE_MAX]; /* of the document, or of the piece */
    char document_type[FHIR_TYPE_MAX];
    int word_size;
} FhirText;

void fhir_text_open(FhirText *t, Stream *stream, int lines, size_t max_piece);
void fhir_text_close(FhirText *t);
/* *got = 0 at the end. */
Status fhir_text_next(FhirText *t, FhirPiece *piece, int *got, Err *err);

#endif
