/* deidentify_notes.c - see deidentify_notes.h. */
#include "data/deidentify_notes.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void release_texts_free(ReleaseTexts *t) {
    for (uint32_t i = 0; i < t->n; i++) free(t->item[i].text);
    free(t->item);
    *t = (ReleaseTexts){0};
}

/* ---- masking ----------------------------------------------------------------------------------------------------- */

typedef struct {
    PhiHit *hit;
    int64_t n, capacity;
} Hits;

static void hit_add(Hits *h, int kind, size_t at, size_t n) {
    if (h->n == h->capacity) {
        h->capacity = 2 * h->capacity + 16;
        h->hit = xrealloc(h->hit, (size_t)h->capacity * sizeof *h->hit);
    }
    h->hit[h->n++] = (PhiHit){kind, at, n};
}

/* A pattern stops when it is sure: the rest of the word belongs to what it found. */
static void hit_extend(PhiHit *h, const char *text, size_t n) {
    int address = h->kind == PHI_URL || h->kind == PHI_EMAIL;
    if (h->kind == PHI_NAME || h->kind == PHI_DATE) return;
    for (size_t end = h->at + h->n; end < n; end++, h->n++) {
        unsigned char c = (unsigned char)text[end];
        if (c <= ' ' || strchr(address ? "\"'<>()," : "\"'<>(),;.:/", c)) break;
    }
    /* The full stop of the sentence stays. */
    while (address && h->n > 1 && strchr(".;:", text[h->at + h->n - 1])) h->n--;
}

/* "92 year-old", "101 y/o": ages past 89 are dates by 45 CFR 164.514(b)(2)(i)(C). */
static void find_ages(Hits *h, const char *text, size_t n) {
    static const char *const words[] = {"year", "yr", "y/o", "y.o", "yo "};
    for (size_t i = 0; i < n;) {
        size_t digits = 0, at = i;
        int years = 0;
        while (i + digits < n && isdigit((unsigned char)text[i + digits]) && digits < 4)
            years = 10 * years + text[i + digits++] - '0';
        i += digits ? digits : 1;
        if (digits < 2 || digits > 3 || years < 90 || years > 130 || (at && isalnum((unsigned char)text[at - 1])))
            continue;
        size_t after = i;
        while (after < n && (text[after] == ' ' || text[after] == '-')) after++;
        for (size_t k = 0; k < sizeof words / sizeof *words; k++)
            if (n - after >= strlen(words[k]) && !strncasecmp(text + after, words[k], strlen(words[k]))) {
                hit_add(h, PHI_COUNT, at, digits);
                break;
            }
    }
}

static int by_place(const void *a, const void *b) {
    const PhiHit *x = a, *y = b;
    if (x->at != y->at) return x->at < y->at ? -1 : 1;
    return x->n < y->n ? 1 : x->n > y->n ? -1 : x->kind - y->kind;
}

char *text_mask(const PhiPatterns *phi, const char *text, size_t *size, int64_t *masked) {
    Hits h = {0};
    size_t n = *size, done = 0, k = 0;
    int64_t found = phi_find(phi, text, n, NULL, 0);
    if (found > INT32_MAX) found = INT32_MAX;
    h.hit = xmalloc(((size_t)found + 1) * sizeof *h.hit);
    h.capacity = found + 1;
    if (found) h.n = phi_find(phi, text, n, h.hit, (int)found);
    if (h.n > found) h.n = found;
    for (int64_t i = 0; i < h.n; i++) hit_extend(&h.hit[i], text, n);
    find_ages(&h, text, n);
    if (h.n) qsort(h.hit, (size_t)h.n, sizeof *h.hit, by_place);
    char *out = xmalloc(n + 16 * (size_t)h.n + 1);
    for (int64_t i = 0; i < h.n; i++) {
        size_t end = h.hit[i].at + h.hit[i].n;
        if (h.hit[i].at < done) { /* it overlaps the one before */
            if (end > done) done = end;
            continue;
        }
        memcpy(out + k, text + done, h.hit[i].at - done);
        k += h.hit[i].at - done;
        done = end;
        const char *name = h.hit[i].kind == PHI_COUNT ? "age" : phi_kind_name(h.hit[i].kind);
        out[k++] = '[';
        for (; *name && k < n + 16 * (size_t)h.n; name++) out[k++] = (char)toupper((unsigned char)*name);
        out[k++] = ']';
        masked[h.hit[i].kind]++;
    }
    if (done < n) {
        memcpy(out + k, text + done, n - done);
        k += n - done;
    }
    out[k] = 0;
    *size = k > EVENT_TEXT_MAX ? utf8_cut(out, EVENT_TEXT_MAX) : k;
    free(h.hit);
    return out;
}

/* ---- a patient --------------------------------------------------------------------------------------------------- */

static uint32_t text_add(ReleaseTexts *t, char *text, size_t n) {
    for (uint32_t i = 0; i < t->n; i++)
        if (t->item[i].size == n && !memcmp(t->item[i].text, text, n)) {
            free(text);
            return i;
        }
    if (t->n == t->capacity) {
        t->capacity = 2 * t->capacity + 16;
        t->item = xrealloc(t->item, t->capacity * sizeof *t->item);
    }
    t->item[t->n].text = text;
    t->item[t->n].size = n;
    return t->n++;
}

Status release_texts_read(ReleaseTexts *t, Deid *d, DeidPatient *p, DeidentifyReport *r, Err *err) {
    for (uint32_t i = 0; i < t->n; i++) free(t->item[i].text);
    t->n = 0;
    for (int64_t i = 0; i < p->n; i++) {
        Event *e = &p->event[i];
        const char *text;
        size_t n;
        if (!e->note) continue;
        Status status = event_file_text(&d->f, p->first_note + e->note - 1, &text, &n, err);
        if (status) return status;
        char *masked = text_mask(d->phi, text, &n, r->masked);
        e->note = 1 + text_add(t, masked, n);
    }
    return OK;
}
