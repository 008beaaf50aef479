/* note_text.c - see note_text.h. */
#include "data/note_text.h"
#include "data/intern.h"
#include <stdlib.h>
#include <string.h>

void note_text_free(NoteText *t) {
    free(t->text);
    *t = (NoteText){0};
}

static void text_add(NoteText *t, const char *bytes, size_t n) {
    if (t->n + n + 8 > t->capacity) {
        t->capacity = 2 * (t->n + n) + 256;
        t->text = xrealloc(t->text, t->capacity);
    }
    memcpy(t->text + t->n, bytes, n);
    t->n += n;
    t->text[t->n] = 0;
}

/* A model may write any bytes, and tokens may end inside a character: what a terminal or JSON cannot take becomes ?. */
void note_text_close(NoteText *t, int cut) {
    text_add(t, " ...", cut ? 4 : 0);
    for (size_t i = 0; i < t->n;) {
        unsigned char *c = (unsigned char *)t->text + i;
        int size = *c < 0x80 ? 1 : utf8_length(c); /* the NUL at the end stops it */
        int control = (*c < ' ' && *c != '\n') || *c == 0x7f || (*c == 0xc2 && size == 2 && c[1] < 0xa0);
        if (control || !size) {
            for (int k = 0; k < (size ? size : 1); k++) c[k] = '?';
        }
        i += size ? (size_t)size : 1;
    }
    t->open = 0;
}

NoteState note_text_take(NoteText *t, const Vocabulary *v, int id) {
    int n, marker = v->text_begin < 0 ? -1 : id - v->text_begin;
    const char *bytes = vocabulary_text(v, id, &n);
    if (!bytes && (marker < TEXT_BEGIN || marker > TEXT_CUT)) return NOTE_NONE;
    if (!t->open || marker == TEXT_BEGIN) t->n = 0;
    t->open = 1;
    text_add(t, bytes ? bytes : "", (size_t)n);
    if (marker != TEXT_END && marker != TEXT_CUT) return NOTE_GOES_ON;
    note_text_close(t, marker == TEXT_CUT);
    return NOTE_WHOLE;
}

void note_text_print(const NoteText *t, int indent, FILE *out) {
    for (const char *s = t->text; *s; s += *s == '\n') {
        size_t n = strcspn(s, "\n");
        fprintf(out, "%*s%.*s\n", indent, "", (int)n, s);
        s += n;
    }
}
