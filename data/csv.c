/* csv.c - see csv.h.
 *
 * A record is first looked for in the buffer of raw bytes (record_scan), which is refilled or grown until it is whole;
 * then it is cut into fields in place (record_cut), which only ever shortens it. */
#include "data/csv.h"
#include "data/intern.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { CSV_BUFFER = 1 << 16 };

/* Makes room behind the bytes held and reads on.  *grown = 0: max_line bytes are held and nothing more fits. */
static Status buffer_fill(Csv *c, int *grown, Err *err) {
    *grown = 1;
    if (c->begin) {
        memmove(c->buffer, c->buffer + c->begin, c->end - c->begin);
        c->end -= c->begin;
        c->begin = 0;
    }
    if (c->end >= c->max_line) {
        *grown = 0;
        return OK;
    }
    if (c->end + CSV_BUFFER / 2 > c->capacity) {
        c->capacity = c->capacity ? 2 * c->capacity : CSV_BUFFER;
        c->buffer = xrealloc(c->buffer, c->capacity + 1); /* +1: the NUL of a last field without line end */
    }
    size_t got;
    Status status = stream_read(c->stream, c->buffer + c->end, c->capacity - c->end, &got, err);
    c->end += got;
    c->at_end = !got;
    return status;
}

/* Length of the record at `begin`, its line end included; 0: the buffer ends first.  *quoted: it ends inside quotes. */
static size_t record_scan(const Csv *c, int *quoted) {
    const char *p = c->buffer + c->begin, *start = p, *end = c->buffer + c->end;
    *quoted = 0;
    const char *stop = memchr(p, '\n', (size_t)(end - p));
    if (c->separator == '\t' || !memchr(p, '"', (size_t)((stop ? stop : end) - p))) /* nearly all */
        return stop ? (size_t)(stop + 1 - start) : 0;
    int field_start = 1;
    for (; p < end; p++) {
        if (*quoted) {
            p = memchr(p, '"', (size_t)(end - p));
            if (!p) return 0;
            if (p + 1 < end && p[1] == '"') p++;
            else *quoted = 0;
        } else if (*p == '\n') {
            return (size_t)(p + 1 - start);
        } else if (*p == '"' && field_start) {
            *quoted = 1;
        }
        field_start = *p == c->separator;
    }
    return 0;
}

static void field_add(Csv *c, char *text) {
    if (c->n_fields == c->field_capacity) {
        c->field_capacity = c->field_capacity ? 2 * c->field_capacity : 64;
        c->field = xrealloc(c->field, (size_t)c->field_capacity * sizeof *c->field);
    }
    c->field[c->n_fields++] = text;
}

/* Fields of the n bytes at p, unquoted in place; p[n] is overwritten. */
static void record_cut(Csv *c, char *p, size_t n) {
    char *end = p + n, *to = p;
    c->n_fields = 0;
    for (int more = 1; more;) {
        char *text = to;
        if (c->separator != '\t' && p < end && *p == '"') {
            for (p++; p < end; *to++ = *p++)
                if (*p == '"') {
                    if (p + 1 == end || p[1] != '"') break;
                    p++;
                }
            if (p < end) p++; /* the closing quote; what follows it up to the separator is kept as it is */
        }
        char *stop = memchr(p, c->separator, (size_t)(end - p));
        more = stop != NULL;
        if (!stop) stop = end;
        memmove(to, p, (size_t)(stop - p));
        to += stop - p;
        p = stop + more;
        if (c->separator == '\t' && to - text >= 2 && *text == '"' && to[-1] == '"') {
            text++;
            to--;
            *to++ = 0;
        } else {
            *to++ = 0;
        }
        field_add(c, text);
    }
}

/* Rewrites every field that is not UTF-8, its stray bytes taken as Latin-1. */
static void record_repair(Csv *c) {
    size_t need = 0, used = 0;
    int bad = 0;
    for (int i = 0; i < c->n_fields; i++) {
        const unsigned char *s = (const unsigned char *)c->field[i];
        need += strlen(c->field[i]) * 2 + 1;
        for (int n; *s && !bad; s += n)
            if (!(n = utf8_length(s))) bad = 1;
    }
    if (!bad) return;
    c->counts.bad_utf8++;
    if (need > c->clean_capacity) c->clean = xrealloc(c->clean, c->clean_capacity = need);
    for (int i = 0; i < c->n_fields; i++) {
        const unsigned char *s = (const unsigned char *)c->field[i];
        c->field[i] = c->clean + used;
        used += utf8_repair((const char *)s, strlen((const char *)s), c->clean + used);
        c->clean[used++] = 0;
    }
}

static void count_bad(Csv *c, int64_t *reason) {
    ++*reason;
    c->counts.rows++;
    if (!c->counts.first_bad) c->counts.first_bad = c->counts.rows;
}

/* Passes over the physical line at `begin`, however long it is. */
static Status line_skip(Csv *c, Err *err) {
    for (;;) {
        char *stop = memchr(c->buffer + c->begin, '\n', c->end - c->begin);
        if (stop) {
            c->begin = (size_t)(stop + 1 - c->buffer);
            return OK;
        }
        c->begin = c->end;
        if (c->at_end) return OK;
        int grown;
        Status status = buffer_fill(c, &grown, err);
        if (status) return status;
    }
}

/* The next record that is whole, cut into fields; *got = 0 at the end of the stream. */
static Status record_next(Csv *c, int *got, Err *err) {
    *got = 0;
    for (;;) {
        int quoted, grown = 1;
        size_t n = record_scan(c, &quoted);
        while (!n && !c->at_end && grown) {
            Status status = buffer_fill(c, &grown, err);
            if (status) return status;
            n = record_scan(c, &quoted);
        }
        if (!n && c->begin == c->end) return OK;
        if (!n && (quoted || !grown)) {
            count_bad(c, quoted ? &c->counts.open_quote : &c->counts.too_long);
            Status status = line_skip(c, err);
            if (status) return status;
            continue;
        }
        char *p = c->buffer + c->begin;
        size_t length = n ? n - 1 : c->end - c->begin;
        c->begin += n ? n : length;
        if (length && p[length - 1] == '\r') length--;
        if (!length) continue; /* an empty line */
        char high = 0;
        for (size_t i = 0; i < length; i++) high |= p[i];
        high &= (char)0x80;
        if (memchr(p, 0, length)) {
            for (size_t i = 0; i < length; i++)
                if (!p[i]) p[i] = ' ';
            c->counts.nul_bytes++;
        }
        record_cut(c, p, length);
        if (high) record_repair(c);
        *got = 1;
        return OK;
    }
}

static char separator_find(const char *p, const char *end) {
    static const char candidates[] = {',', '\t', ';', '|'};
    int count[sizeof candidates] = {0}, best = 0, quoted = 0;
    for (; p < end && (quoted || *p != '\n'); p++) {
        quoted ^= *p == '"';
        for (size_t k = 0; k < sizeof candidates && !quoted; k++) count[k] += *p == candidates[k];
    }
    for (size_t k = 1; k < sizeof candidates; k++)
        if (count[k] > count[best]) best = (int)k;
    return candidates[best];
}

static char *name_trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]); n--) s[n - 1] = 0;
    for (char *p = s; *p; p++) *p = (char)tolower((unsigned char)*p);
    return s;
}

Status csv_open(Csv *c, Stream *stream, size_t max_line, Err *err) {
    *c = (Csv){.stream = stream, .max_line = max_line < CSV_BUFFER ? CSV_BUFFER : max_line};
    int grown, got = 0;
    Status status = buffer_fill(c, &grown, err);
    while (!status && !c->at_end && c->end < 4096) status = buffer_fill(c, &grown, err);
    const unsigned char *b = (const unsigned char *)c->buffer;
    if (!status && c->end >= 2 && ((b[0] == 0xFF && b[1] == 0xFE) || (b[0] == 0xFE && b[1] == 0xFF)))
        status = err_set(err, ERR_FORMAT, "%s is UTF-16; save it as UTF-8", stream->name);
    if (!status) {
        if (c->end >= 3 && b[0] == 0xEF && b[1] == 0xBB && b[2] == 0xBF) c->begin = 3;
        c->separator = separator_find(c->buffer + c->begin, c->buffer + c->end);
        status = record_next(c, &got, err);
    }
    if (!status && (!got || c->counts.rows))
        status = err_set(err, ERR_FORMAT, "%s has no header line of column names", stream->name);
    if (status) {
        csv_close(c);
        return status;
    }
    c->n_columns = c->n_fields;
    c->column = xcalloc((size_t)c->n_columns, sizeof *c->column);
    for (int i = 0; i < c->n_columns; i++) c->column[i] = xstrdup(name_trim(c->field[i]));
    c->counts = (CsvCounts){0};
    return OK;
}

void csv_close(Csv *c) {
    for (int i = 0; i < c->n_columns && c->column; i++) free(c->column[i]);
    free(c->column);
    free(c->field);
    free(c->buffer);
    free(c->clean);
    *c = (Csv){0};
}

int csv_column(const Csv *c, const char *name) {
    for (int i = 0; i < c->n_columns; i++)
        if (!strcasecmp(c->column[i], name)) return i;
    return -1;
}

Status csv_next(Csv *c, int *got, Err *err) {
    for (;;) {
        Status status = record_next(c, got, err);
        if (status || !*got) return status;
        int extra = 0; /* separators at the end of a line are no fields */
        for (int i = c->n_columns; i < c->n_fields; i++) extra |= c->field[i][0] != 0;
        if (c->n_fields >= c->n_columns && !extra) {
            c->counts.rows++;
            return OK;
        }
        count_bad(c, &c->counts.wrong_count);
    }
}
