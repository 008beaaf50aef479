/* phi_scan.c - see phi_scan.h. */
#include "data/bpe.h"
#include "data/csv.h"
#include "data/h5.h"
#include "data/phi_scan_report.h"
#include <ctype.h>
#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LINE_MAX_BYTES = 1 << 20, OVERLAP = 256, DEPTH_MAX = 32, JSON_MAX = 1 << 29, SNIFF = 4096 };

static int ends_with(const char *name, const char *end) {
    size_t n = strlen(name), k = strlen(end);
    return n > k && !strcasecmp(name + n - k, end);
}

static int is_table(const char *name) {
    return ends_with(name, ".csv") || ends_with(name, ".tsv") || ends_with(name, ".csv.gz") ||
           ends_with(name, ".tsv.gz");
}
static int is_json(const char *name) {
    return ends_with(name, ".json") || ends_with(name, ".ndjson") || ends_with(name, ".jsonl") ||
           ends_with(name, ".json.gz") || ends_with(name, ".ndjson.gz") || ends_with(name, ".jsonl.gz");
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static Status scan_csv(PhiFile *f, Stream *s, Err *err) {
    Csv c;
    Status status = csv_open(&c, s, 16 << 20, err);
    if (status) return status;
    char **place = xcalloc((size_t)c.n_columns + 1, sizeof *place);
    int *kind = xcalloc((size_t)c.n_columns + 1, sizeof *kind), got = 1;
    for (int i = 0; i < c.n_columns; i++) {
        place[i] = xasprintf("column %s", c.column[i]);
        kind[i] = phi_column_kind(c.column[i]);
    }
    while (!(status = csv_next(&c, &got, err)) && got)
        for (int i = 0; i < c.n_columns; i++) {
            const char *text = c.field[i];
            if (!*text) continue;
            if (kind[i] >= 0) phi_file_add(f, place[i], kind[i], c.counts.rows, 1);
            else phi_file_text(f, place[i], text, strlen(text), c.counts.rows);
        }
    for (int i = 0; i < c.n_columns; i++) free(place[i]);
    free(place);
    free(kind);
    csv_close(&c);
    return status;
}

/* ---- text and JSON ----------------------------------------------------------------------------------------------- */

/* Keys that hold identifiers wherever they stand.  A key such as "name" names anything in JSON. */
static int key_kind(const char *key) {
    static const char *const keys[] = {
        "family",     "given",    "birthDate", "deceasedDateTime", "postalCode", "city",      "district",
        "ssn",        "mrn",      "passport",  "latitude",         "longitude",  "phone",     "email",
        "maidenName", "lastName", "firstName", "memberId",         "line",       "udiCarrier"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcasecmp(key, keys[i])) return !strcmp(keys[i], "udiCarrier") ? PHI_NUMBER : phi_column_kind(keys[i]);
    return -1;
}

/* The character of the four hexadecimal digits of a \u at text; -1: they are none. */
static int escaped_character(const char *text, const char *end) {
    int c = 0;
    if (end - text < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdef", *at = strchr(digits, tolower((unsigned char)text[i]));
        if (!at || !*at) return -1;
        c = c << 4 | (int)(at - digits);
    }
    return c;
}

/* JSON with its escapes undone, for as it stands the n of a \n would be part of the word behind it.  Surrogates become
 * three bytes each: they are of no identifier's characters.  out has n bytes. */
static size_t unescape(char *out, const char *text, size_t n) {
    static const char escape[] = "bfnrt", meant[] = "\b\f\n\r\t";
    const char *end = text + n;
    char *to = out;
    while (text < end) {
        int c = -1;
        if (*text != '\\' || text + 1 == end) {
            *to++ = *text++;
        } else if (text[1] == 'u' && (c = escaped_character(text + 2, end)) >= 0) {
            if (c >= 0x800) *to++ = (char)(0xe0 | c >> 12), *to++ = (char)(0x80 | (c >> 6 & 0x3f));
            else if (c >= 0x80) *to++ = (char)(0xc0 | c >> 6);
            *to++ = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
            text += 6;
        } else {
            const char *known = strchr(escape, text[1]);
            *to++ = known && *known ? meant[known - escape] : text[1];
            text += 2;
        }
    }
    return (size_t)(to - out);
}

static void look_json(PhiFile *f, const char *place, const char *text, size_t n, int64_t line) {
    if (!memchr(text, '\\', n)) {
        phi_file_text(f, place, text, n, line);
        return;
    }
    char *plain = xmalloc(n);
    phi_file_text(f, place, plain, unescape(plain, text, n), line);
    free(plain);
}

/* The quote that ends a string of JSON; NULL: it does not end. */
static const char *string_close(const char *text, const char *end) {
    for (; text < end && *text != '"'; text++) text += *text == '\\';
    return text < end ? text : NULL;
}

/* "key": with something behind it. */
static void look_keys(PhiFile *f, const char *text, size_t n, int64_t line) {
    const char *end = text + n;
    for (const char *p = text; (p = memchr(p, '"', (size_t)(end - p))); p++) {
        const char *close = string_close(p + 1, end);
        if (!close) return;
        const char *after = close + 1;
        while (after < end && (*after == ' ' || *after == '\t')) after++;
        if (after < end && *after == ':' && close - p < 24) {
            char key[24], place[40];
            memcpy(key, p + 1, (size_t)(close - p - 1));
            key[close - p - 1] = 0;
            int kind = key_kind(key);
            for (after++; after < end && *after == ' '; after++) {
            }
            int empty =
                after + 1 < end && ((after[0] == '"' && after[1] == '"') || (after[0] == '[' && after[1] == ']'));
            if (kind >= 0 && !empty && after < end && *after != 'n') {
                snprintf(place, sizeof place, "key %s", key);
                phi_file_add(f, place, kind, line, 1);
            }
        }
        p = close;
    }
}

/* Tokens of texts in a vocabulary or a tokenizer: "SPELL//", then bytes as letters, quoted as JSON. */
static void look_spelled(PhiFile *f, const char *text, size_t n, int64_t line) {
    static const char start[] = "\"SPELL//";
    const char *end = text + n;
    for (const char *p = text; (p = memmem(p, (size_t)(end - p), start, sizeof start - 1)); p++) {
        char spelled[4 * BPE_WORD_MAX + 1], bytes[4 * BPE_WORD_MAX + 1];
        size_t k = 0;
        for (p += sizeof start - 1; p < end && *p != '"' && k < sizeof spelled - 1; p++) {
            if (*p == '\\' && p + 1 < end) p++;
            spelled[k++] = *p;
        }
        spelled[k] = 0;
        int size = bpe_unspell(spelled, bytes);
        if (size > 0) phi_file_text(f, "token of a text", bytes, (size_t)size, line);
    }
}

static void look_line(PhiFile *f, const char *text, size_t n, int64_t line, int json) {
    if (!json) {
        phi_file_text(f, "text", text, n, line);
        return;
    }
    look_json(f, "text", text, n, line);
    look_keys(f, text, n, line);
    look_spelled(f, text, n, line);
}

/* Line by line; what is longer than a mebibyte goes in pieces that overlap. */
static Status scan_text(PhiFile *f, Stream *s, const char *head, size_t n_head, int json, Err *err) {
    char *buffer = xmalloc(LINE_MAX_BYTES + 1);
    size_t held = n_head, got = 1;
    int64_t line = 1;
    Status status = OK;
    memcpy(buffer, head, n_head);
    while (!status && (got || held)) {
        if (got && held < LINE_MAX_BYTES) status = stream_read(s, buffer + held, LINE_MAX_BYTES - held, &got, err);
        if (status) break;
        held += got;
        size_t at = 0;
        for (char *stop; (stop = memchr(buffer + at, '\n', held - at)) || (!got && at < held); line++) {
            size_t n = stop ? (size_t)(stop - buffer) - at : held - at;
            look_line(f, buffer + at, n, line, json);
            at += n + (stop != NULL);
        }
        if (!at && held == LINE_MAX_BYTES) {
            look_line(f, buffer, held, line, json);
            at = held - OVERLAP;
        }
        memmove(buffer, buffer + at, held - at);
        held -= at;
    }
    free(buffer);
    return status;
}

/* The JSON at the head of a file of tensors. */
static Status scan_safetensors(PhiFile *f, Stream *s, const char *head, size_t n_head, Err *err) {
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | (unsigned char)head[i];
    if (n_head < 8 || n > 100 << 20) return err_set(err, ERR_FORMAT, "%s has no header of tensors", s->name);
    char *text = xmalloc((size_t)n + 1);
    size_t held = n_head - 8 < n ? n_head - 8 : (size_t)n, got = 1;
    memcpy(text, head + 8, held);
    Status status = OK;
    while (!status && held < n && got) {
        status = stream_read(s, text + held, (size_t)n - held, &got, err);
        held += got;
    }
    if (!status) look_json(f, "header", text, held, 1);
    if (!status && held < n) status = err_set(err, ERR_FORMAT, "%s ends within its header of tensors", s->name);
    free(text);
    return status;
}

static Status scan_stream(PhiReport *r, const PhiPatterns *p, Stream *s, Err *err) {
    PhiFile f;
    char head[SNIFF];
    size_t n = 0, got = 1;
    Status status = OK;
    phi_file_begin(&f, r, p, s->name);
    if (is_table(s->name)) {
        status = scan_csv(&f, s, err);
    } else {
        while (!status && n < sizeof head && got) {
            status = stream_read(s, head + n, sizeof head - n, &got, err);
            n += got;
        }
        if (!status && ends_with(s->name, ".safetensors")) status = scan_safetensors(&f, s, head, n, err);
        else if (!status && n && memchr(head, 0, n)) phi_file_skip(r, s->name, "it holds no text");
        else if (!status) status = scan_text(&f, s, head, n, is_json(s->name), err);
    }
    r->bytes += s->done;
    return status;
}

/* ---- files and folders ------------------------------------------------------------------------------------------- */

/* What could not be read to its end: nobody knows what it holds. */
static void unsearched(PhiReport *r, const char *name, const Err *why) {
    phi_file_skip(r, name, why->msg);
    r->n_unsearched++;
}

static Status scan_entries(PhiReport *r, const PhiPatterns *p, const Archive *a, Err *err) {
    Status status = OK;
    for (int i = 0; i < a->n && !status; i++) {
        Stream s;
        Err why = {0};
        if ((status = stream_open(&s, a, i, err))) break;
        if (scan_stream(r, p, &s, &why)) unsearched(r, s.name, &why);
        stream_close(&s);
    }
    return status;
}

static Status scan_file(PhiReport *r, const PhiPatterns *p, const char *path, Err *err) {
    Archive a = {0};
    Stream s;
    Err why = {0};
    if (H5Fis_hdf5(path) > 0) {
        PhiFile f;
        phi_file_begin(&f, r, p, path);
        if (phi_scan_h5(&f, path, &why)) unsearched(r, path, &why);
        return OK;
    }
    if (ends_with(path, ".zip")) {
        Status status = archive_open(&a, path, err);
        if (!status) status = scan_entries(r, p, &a, err);
        archive_close(&a);
        return status;
    }
    Status status = stream_open_path(&s, path, err);
    if (status) return status;
    if (scan_stream(r, p, &s, &why)) unsearched(r, path, &why);
    stream_close(&s);
    return OK;
}

typedef Status (*FileVisit)(void *context, const char *path, Err *err);

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* deeper: is told of folders that lie too deep; NULL: they are an error. */
static Status walk(const char *path, FileVisit visit, void *context, PhiReport *deeper, int depth, Err *err) {
    if (!path_exists(path)) return err_set(err, ERR_IO, "cannot read %s: there is no such file", path);
    if (!path_is_dir(path)) return visit(context, path, err);
    struct dirent **entry = NULL;
    Status status = OK;
    if (depth >= DEPTH_MAX) {
        if (!deeper)
            return err_set(err, ERR_FORMAT, "%s lies too deep in folders (%d): give it as a source of its own", path,
                           DEPTH_MAX);
        phi_file_skip(deeper, path, "it lies too deep in folders: give it as a PATH of its own");
        deeper->n_unsearched++;
        return OK;
    }
    int n = scandir(path, &entry, NULL, by_name);
    if (n < 0) return err_set(err, ERR_IO, "cannot read folder %s", path);
    for (int i = 0; i < n; i++) {
        struct stat st;
        size_t size = strlen(path);
        char *child = xasprintf("%s%s%s", path, size && path[size - 1] == '/' ? "" : "/", entry[i]->d_name);
        int is_dot = !strcmp(entry[i]->d_name, ".") || !strcmp(entry[i]->d_name, "..");
        if (!status && !is_dot && !lstat(child, &st) && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
            status = walk(child, visit, context, deeper, depth + 1, err);
        free(child);
        free(entry[i]);
    }
    free(entry);
    return status;
}

typedef struct {
    PhiReport *r;
    const PhiPatterns *p;
    Progress bar;
} Scan;

static Status scan_visit(void *context, const char *path, Err *err) {
    Scan *s = context;
    Status status = scan_file(s->r, s->p, path, err);
    progress_update(&s->bar, s->r->bytes >> 20);
    return status;
}

Status phi_scan(PhiReport *r, const PhiPatterns *p, const char *path, FILE *progress, Err *err) {
    Scan s = {.r = r, .p = p};
    h5_quiet();
    progress_open(&s.bar, progress, "phi-scan", "MiB", 0);
    Status status = walk(path, scan_visit, &s, r, 0, err);
    progress_close(&s.bar, r->bytes >> 20);
    return status;
}

/* ---- names of a source ------------------------------------------------------------------------------------------- */

/* "name": [{"family": ..., "given": [...]}] of people; organisations have a text for a name. */
static void names_of_json(PhiPatterns *p, const json_t *o) {
    const char *key;
    json_t *value;
    size_t i;
    if (json_is_array(o)) json_array_foreach(o, i, value) names_of_json(p, value);
    if (!json_is_object(o)) return;
    json_object_foreach((json_t *)o, key, value) {
        int is_name = !strcmp(key, "family") || !strcmp(key, "given") || phi_column_is_name(key);
        if (is_name && json_is_string(value)) phi_names_add(p, json_string_value(value));
        json_t *part;
        if (is_name && json_is_array(value)) json_array_foreach(value, i, part) {
                if (json_is_string(part)) phi_names_add(p, json_string_value(part));
            }
        else names_of_json(p, value);
    }
}

static Status names_of_stream(PhiPatterns *p, Stream *s, Err *err) {
    Csv c;
    int got = 1;
    Status status = OK;
    if (is_table(s->name)) {
        if (csv_open(&c, s, 16 << 20, err)) return OK; /* nothing that has columns */
        while (!(status = csv_next(&c, &got, err)) && got)
            for (int i = 0; i < c.n_columns; i++)
                if (*c.field[i] && phi_column_is_name(c.column[i])) phi_names_add(p, c.field[i]);
        csv_close(&c);
        return status;
    }
    if (!is_json(s->name)) return OK;
    size_t held = 0, capacity = 1 << 16;
    char *text = xmalloc(capacity);
    while (got && !status && held < JSON_MAX) {
        size_t n;
        if (held == capacity) text = xrealloc(text, capacity *= 2);
        status = stream_read(s, text + held, capacity - held, &n, err);
        held += n;
        got = n > 0;
    }
    if (!status && got)
        status = err_set(err, ERR_FORMAT, "--names %s: more than %d MiB of JSON: split it into smaller files", s->name,
                         JSON_MAX >> 20);
    for (size_t at = 0; !status && at < held;) {
        json_error_t why;
        json_t *root = json_loadb(text + at, held - at, JSON_DISABLE_EOF_CHECK, &why);
        if (!root) break;
        names_of_json(p, root);
        json_decref(root);
        at += (size_t)why.position;
        while (at < held && strchr(" \r\n\t", text[at])) at++;
    }
    free(text);
    return status;
}

static Status names_visit(void *context, const char *path, Err *err) {
    Archive a;
    Stream s;
    int zip = ends_with(path, ".zip");
    Status status = zip ? archive_open(&a, path, err) : stream_open_path(&s, path, err);
    if (status) return status;
    if (!zip) {
        status = names_of_stream(context, &s, err);
        stream_close(&s);
        return status;
    }
    for (int i = 0; i < a.n && !status; i++) {
        if ((status = stream_open(&s, &a, i, err))) break;
        status = names_of_stream(context, &s, err);
        stream_close(&s);
    }
    archive_close(&a);
    return status;
}

Status phi_names_read(PhiPatterns *p, const char *path, Err *err) { return walk(path, names_visit, p, NULL, 0, err); }
