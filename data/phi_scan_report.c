/* phi_scan_report.c - findings, by file, place and kind; and how they are told. */
#include "data/phi_scan_report.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { HITS_MAX = 64 };

void phi_file_begin(PhiFile *f, PhiReport *r, const PhiPatterns *p, const char *file) {
    *f = (PhiFile){r, p, file, r->n};
    r->files++;
}

void phi_file_add(PhiFile *f, const char *place, int kind, int64_t row, int64_t count) {
    PhiReport *r = f->r;
    PhiFinding *at = NULL;
    for (int i = r->n - 1; i >= f->first && !at; i--)
        if (r->finding[i].kind == kind && !strcmp(r->finding[i].place, place)) at = &r->finding[i];
    if (!at) {
        if (r->n == r->capacity) {
            r->capacity = 2 * r->capacity + 16;
            r->finding = xrealloc(r->finding, (size_t)r->capacity * sizeof *r->finding);
        }
        at = &r->finding[r->n++];
        *at = (PhiFinding){.file = xstrdup(f->file), .place = xstrdup(place), .kind = kind};
    }
    for (int i = 0; i < PHI_ROWS_MAX; i++) {
        if (at->row[i] == row) break;
        if (at->row[i]) continue;
        at->row[i] = row;
        break;
    }
    at->count += count;
}

void phi_file_text(PhiFile *f, const char *place, const char *text, size_t n, int64_t row) {
    PhiHit hit[HITS_MAX];
    int64_t found = phi_find(f->p, text, n, hit, HITS_MAX);
    for (int64_t i = 0; i < found && i < HITS_MAX; i++) phi_file_add(f, place, hit[i].kind, row, 1);
    /* More in one text than are told apart count as the last kind. */
    if (found > HITS_MAX) phi_file_add(f, place, hit[HITS_MAX - 1].kind, row, found - HITS_MAX);
}

void phi_file_skip(PhiReport *r, const char *file, const char *why) {
    r->skipped = xrealloc(r->skipped, (size_t)(r->n_skipped + 1) * sizeof *r->skipped);
    r->skipped[r->n_skipped++] = xasprintf("%s: %s", file, why);
}

int64_t phi_report_count(const PhiReport *r, const char *file_part, const char *place, int kind) {
    int64_t n = 0;
    for (int i = 0; i < r->n; i++) {
        const PhiFinding *f = &r->finding[i];
        if ((!file_part || strstr(f->file, file_part)) && (!place || !strcmp(f->place, place)) &&
            (kind < 0 || f->kind == kind))
            n += f->count;
    }
    return n;
}

void phi_report_print(const PhiReport *r, FILE *out) {
    const char *file = "";
    for (int i = 0; i < r->n; i++) {
        const PhiFinding *f = &r->finding[i];
        if (strcmp(file, f->file)) fprintf(out, "%s\n", f->file);
        file = f->file;
        fprintf(out, "  %-10s %10lld  %s, first at", phi_kind_name(f->kind), (long long)f->count, f->place);
        for (int k = 0; k < PHI_ROWS_MAX && f->row[k]; k++) fprintf(out, " %lld", (long long)f->row[k]);
        fprintf(out, "\n");
    }
    for (int i = 0; i < r->n_skipped; i++) fprintf(out, "not searched: %s\n", r->skipped[i]);
    fprintf(out, "%lld files, %.1f MB searched: %lld possible identifiers in %d places\n", (long long)r->files,
            1e-6 * (double)r->bytes, (long long)phi_report_count(r, NULL, NULL, -1), r->n);
}

static json_t *text_json(const char *text) {
    json_t *t = json_string(text);
    return t ? t : json_string("(not valid UTF-8)");
}

char *phi_report_json(const PhiReport *r) {
    json_t *list = json_array(), *skipped = json_array();
    for (int i = 0; i < r->n; i++) {
        const PhiFinding *f = &r->finding[i];
        json_t *rows = json_array();
        for (int k = 0; k < PHI_ROWS_MAX && f->row[k]; k++) json_array_append_new(rows, json_integer(f->row[k]));
        json_array_append_new(list, json_pack("{s:o, s:o, s:s, s:I, s:o}", "file", text_json(f->file), "place",
                                              text_json(f->place), "kind", phi_kind_name(f->kind), "count",
                                              (json_int_t)f->count, "first", rows));
    }
    for (int i = 0; i < r->n_skipped; i++) json_array_append_new(skipped, text_json(r->skipped[i]));
    json_t *root =
        json_pack("{s:I, s:I, s:I, s:o, s:o}", "files", (json_int_t)r->files, "bytes", (json_int_t)r->bytes, "count",
                  (json_int_t)phi_report_count(r, NULL, NULL, -1), "findings", list, "not_searched", skipped);
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    json_decref(root);
    REQUIRE(text);
    return text;
}

void phi_report_free(PhiReport *r) {
    for (int i = 0; i < r->n; i++) {
        free(r->finding[i].file);
        free(r->finding[i].place);
    }
    for (int i = 0; i < r->n_skipped; i++) free(r->skipped[i]);
    free(r->finding);
    free(r->skipped);
    *r = (PhiReport){0};
}
