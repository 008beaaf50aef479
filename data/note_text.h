/* note_text.h - notes out of the tokens of a timeline, as people read them. */
#ifndef EHR_DATA_NOTE_TEXT_H
#define EHR_DATA_NOTE_TEXT_H
#include "data/vocabulary.h"

typedef struct {
    char *text; /* NUL-terminated UTF-8 without control characters but line ends, whatever the tokens were */
    size_t n, capacity;
    int open; /* tokens came since the last whole note */
} NoteText;

typedef enum { NOTE_NONE, NOTE_GOES_ON, NOTE_WHOLE } NoteState;

void note_text_free(NoteText *t);
/* Takes the next token of a timeline.  NOTE_NONE: it is no token of a text, and a note that was open ends before it
 * (t->open tells, note_text_close makes its text); NOTE_GOES_ON: it was one; NOTE_WHOLE: it was the last, t->text is
 * the note, until the next call. */
NoteState note_text_take(NoteText *t, const Vocabulary *v, int id);
void note_text_close(NoteText *t, int cut);
/* Line by line, each after `indent` blanks. */
void note_text_print(const NoteText *t, int indent, FILE *out);

#endif
