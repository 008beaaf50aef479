/* fhir_text.c - see fhir_text.h.
 *
 * One pass over the bytes follows strings and brackets; its state outlives the buffer, so that a piece may span any
 * number of reads and one that is too long is scanned to its end without being kept. */
#include "data/fhir_text.h"
#include <stdlib.h>
#include <string.h>

enum { READ_SIZE = 1 << 16 };

void fhir_text_open(FhirText *t, Stream *stream, int lines, size_t max_piece) {
    *t = (FhirText){
        .stream = stream, .lines = lines, .max_piece = max_piece < READ_SIZE ? READ_SIZE : max_piece, .word_size = -1};
}

void fhir_text_close(FhirText *t) {
    free(t->buffer);
    *t = (FhirText){0};
}

/* Reads on behind the bytes held, which are those of the piece so far. */
static Status buffer_fill(FhirText *t, Err *err) {
    size_t from = t->in_piece && !t->discard ? t->piece : t->at;
    if (t->in_piece && !t->discard && t->end - from >= t->max_piece) {
        t->discard = 1;
        from = t->at;
    }
    if (from) {
        memmove(t->buffer, t->buffer + from, t->end - from);
        t->at -= from;
        t->end -= from;
        t->piece = 0;
    }
    if (t->end + READ_SIZE > t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 2 * READ_SIZE;
        t->buffer = xrealloc(t->buffer, t->capacity);
    }
    size_t got;
    Status status = stream_read(t->stream, t->buffer + t->end, t->capacity - t->end, &got, err);
    t->end += got;
    t->at_end = !got;
    return status;
}

static void scan_reset(FhirText *t) {
    t->depth = t->in_string = t->escaped = t->in_entries = t->done_entries = 0;
    t->in_piece = t->discard = t->too_deep = t->stray = 0;
    t->word_size = -1;
    t->key[0] = t->type[0] = t->document_type[0] = 0;
}

static void piece_begin(FhirText *t) {
    t->in_piece = 1;
    t->discard = t->too_deep = 0;
    t->piece = t->at;
    t->type[0] = 0;
}

/* The piece that ends at t->at (behind its last byte). */
static void piece_end(FhirText *t, FhirPiece *p, FhirPieceState state) {
    *p = (FhirPiece){.state = t->discard    ? FHIR_PIECE_LONG
                              : t->too_deep ? FHIR_PIECE_DEEP
                                            : state,
                     .is_entry = t->in_entries};
    if (!t->discard) {
        p->text = t->buffer + t->piece;
        p->size = t->at - t->piece;
    }
    memcpy(p->type, t->type, sizeof p->type);
    t->in_piece = t->discard = t->too_deep = 0;
}

static void string_begin(FhirText *t) {
    t->in_string = 1;
    t->escaped = 0;
    t->word_size = 0;
    t->word[0] = 0;
}

/* A string has ended: is it the value of resourceType? */
static void string_end(FhirText *t) {
    t->in_string = 0;
    if (t->word_size < 0 || strcmp(t->key, "resourceType")) return;
    if (t->in_piece && t->depth == (t->in_entries ? 4 : 1)) memcpy(t->type, t->word, sizeof t->type);
    if (t->depth == 1) memcpy(t->document_type, t->word, sizeof t->document_type);
    t->key[0] = 0;
}

/* Goes on through a string up to its end, the buffer's or, in lines, the line's. */
static void string_scan(FhirText *t) {
    for (; t->at < t->end; t->at++) {
        char c = t->buffer[t->at];
        if (t->escaped) {
            t->escaped = 0;
        } else if (c == '\\') {
            t->escaped = 1;
        } else if (c == '"') {
            t->at++;
            string_end(t);
            return;
        } else if (c == '\n' && t->lines) {
            return;
        }
        if (t->word_size < 0) continue;
        if (t->word_size < FHIR_TYPE_MAX - 1) {
            t->word[t->word_size++] = c;
            t->word[t->word_size] = 0;
        } else {
            t->word_size = -1; /* too long to be a word that matters */
        }
    }
}

static void open_bracket(FhirText *t, char c) {
    if (c == '{' && t->depth == 0) piece_begin(t);
    if (c == '{' && t->in_entries && t->depth == 2) piece_begin(t);
    if (c == '[' && t->depth == 1 && t->in_piece && !strcmp(t->key, "entry") &&
        (!t->document_type[0] || !strcmp(t->document_type, "Bundle"))) {
        t->in_entries = 1;
        t->in_piece = t->discard = 0; /* what comes before the entries is not wanted */
    }
    if (++t->depth > FHIR_DEPTH_MAX) t->too_deep = 1;
    t->key[0] = 0;
    t->word_size = -1;
}

/* 1: a piece has ended here; t->at is behind it. */
static int close_bracket(FhirText *t, FhirPiece *p) {
    t->key[0] = 0;
    t->word_size = -1;
    t->depth--;
    if (t->in_entries && t->depth == 2 && t->in_piece) {
        piece_end(t, p, FHIR_PIECE_WHOLE);
        return 1;
    }
    if (t->in_entries && t->depth == 1) {
        t->in_entries = 0;
        t->done_entries = 1;
    }
    if (t->depth > 0) return 0;
    int whole = t->in_piece && !t->done_entries;
    if (whole) piece_end(t, p, FHIR_PIECE_WHOLE);
    scan_reset(t);
    return whole;
}

/* One byte outside of strings.  1: a piece is there. */
static int byte_scan(FhirText *t, FhirPiece *p) {
    char c = t->buffer[t->at];
    if (c == '\n' && t->lines) {
        int cut = t->depth > 0 && (t->in_piece || t->in_entries || t->done_entries);
        if (cut) {
            if (!t->in_piece) t->piece = t->at;
            piece_end(t, p, FHIR_PIECE_CUT);
        }
        t->at++;
        scan_reset(t);
        return cut;
    }
    t->at++;
    if (t->depth == 0 && c != '{') {
        /* Arrays of resources and their commas are passed over; anything else outside of an object is counted once. */
        int stray = !strchr(" \t\r\n,[]", c) || !c;
        int first = stray && !t->stray;
        if (stray) t->stray = 1;
        if (first) *p = (FhirPiece){.state = FHIR_PIECE_STRAY};
        return first;
    }
    switch (c) {
    case '"': string_begin(t); return 0;
    case '{':
    case '[':
        t->at--;
        open_bracket(t, c);
        t->at++;
        return 0;
    case '}':
    case ']': return close_bracket(t, p);
    case ':':
        if (t->word_size >= 0) memcpy(t->key, t->word, sizeof t->key);
        else t->key[0] = 0;
        return 0;
    case ',': t->key[0] = 0; return 0;
    default: return 0;
    }
}

Status fhir_text_next(FhirText *t, FhirPiece *piece, int *got, Err *err) {
    *got = 1;
    for (;;) {
        while (t->at < t->end) {
            if (t->in_string && !(t->lines && t->buffer[t->at] == '\n')) {
                string_scan(t);
                continue;
            }
            t->in_string = 0;
            if (byte_scan(t, piece)) return OK;
        }
        if (t->at_end) break;
        int first = !t->capacity;
        Status status = buffer_fill(t, err);
        if (status) return status;
        const unsigned char *b = (const unsigned char *)t->buffer;
        if (first && t->end >= 2 && ((b[0] == 0xFF && b[1] == 0xFE) || (b[0] == 0xFE && b[1] == 0xFF)))
            return err_set(err, ERR_FORMAT, "%s is UTF-16; save it as UTF-8", t->stream->name);
        if (first && t->end >= 3 && b[0] == 0xEF && b[1] == 0xBB && b[2] == 0xBF) t->at = 3;
    }
    *got = t->depth > 0;
    if (*got) {
        if (!t->in_piece) t->piece = t->at;
        piece_end(t, piece, FHIR_PIECE_CUT);
        scan_reset(t);
    }
    return OK;
}
