/* import_notes.c - free texts on their way to events: made plain, bounded, and kept on disk until their row is written.
 *
 * A text is data, never trusted: what is not UTF-8 is taken as Latin-1, control characters become blanks, what is
 * longer than EVENT_TEXT_MAX is cut, and all of it is counted. */
#include "data/import_stage.h"
#include <ctype.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

size_t field_text(const char *text, size_t n, char *out, int *bad, int *nul) {
    size_t k = 0;
    *bad = *nul = 0;
    for (size_t i = 0; i < n; i++) *nul |= !text[i];
    for (size_t i = 0; i < n && !*bad;) {
        int step = (unsigned char)text[i] < 0x80 ? 1 : utf8_length((const unsigned char *)text + i);
        if (!step || (size_t)step > n - i) *bad = 1;
        i += (size_t)step;
    }
    size_t held = *bad ? utf8_repair(text, n, out) : n;
    if (!*bad) memcpy(out, text, n);
    for (size_t i = 0; i < held; i++) {
        unsigned char c = (unsigned char)out[i];
        if (c == '\r' && i + 1 < held && out[i + 1] == '\n') continue;
        if (c == '\r' || c == '\f' || c == '\v') c = '\n';
        if ((c < ' ' && c != '\n') || c == 0x7f) c = ' ';
        if (c == 0xc2 && i + 1 < held && (unsigned char)out[i + 1] < 0xa0) { /* U+0080 to U+009F */
            i++;
            c = ' ';
        }
        out[k++] = (char)c;
    }
    size_t first = 0;
    while (k && (out[k - 1] == ' ' || out[k - 1] == '\n')) k--;
    while (first < k && (out[first] == ' ' || out[first] == '\n')) first++;
    memmove(out, out + first, k - first);
    out[k - first] = 0;
    return k - first;
}

Status import_note(Import *im, int table, int64_t row, const char *text, size_t n, uint64_t *at, Err *err) {
    enum { BYTES_MAX = EVENT_TEXT_MAX };
    int bad, nul;
    *at = 0;
    size_t most = n < 2 * BYTES_MAX ? n : 2 * BYTES_MAX; /* what is beyond is cut whatever it is */
    char *tidy = try_calloc(2 * most + 1, 1);
    if (!tidy) return err_set(err, ERR_NOMEM, "no memory for a text of %zu bytes", n);
    size_t held = field_text(text, most, tidy, &bad, &nul);
    if (most < n || held > BYTES_MAX) import_report_count(im->report, table, NOTE_TEXT_CUT, row);
    if (held > BYTES_MAX) held = utf8_cut(tidy, BYTES_MAX);
    if (bad) import_report_count(im->report, table, NOTE_UTF8, row);
    if (nul) import_report_count(im->report, table, NOTE_NUL, row);
    if (!im->notes.path) text_heap_init(&im->notes, im->options->out);
    Status status = held ? text_heap_add(&im->notes, tidy, held, at, err) : OK;
    if (*at) import_report_count(im->report, table, NOTE_WITH_TEXT, row);
    free(tidy);
    return status;
}

Status import_emit(Import *im, const Event *e, uint64_t text_at, Err *err) {
    const char *text;
    size_t n;
    if (!text_at) return event_writer_add(im->writer, e, err);
    Status status = text_heap_get(&im->notes, text_at, &text, &n, err);
    return status ? status : event_writer_add_text(im->writer, e, text, n, err);
}

char *import_base64(const char *text, size_t *n) {
    size_t size = strlen(text), room = size / 4 * 3 + 4;
    unsigned char *out = try_calloc(room, 1);
    const char *end = NULL;
    *n = 0;
    if (out && !sodium_base642bin(out, room, text, size, " \t\r\n", n, &end, sodium_base64_VARIANT_ORIGINAL) &&
        end == text + size)
        return (char *)out;
    free(out);
    return NULL;
}
