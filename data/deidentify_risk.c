/* deidentify_risk.c - how many patients of a release are the only ones with what an acquaintance may know of them.
 *
 * Three of their codes: a sample of patients, three of each one's own distinct codes drawn at random, and one pass that
 * counts who else has all three.  Traits: age in 5-year bins at the first event, sex, race, number of visits. */
#include "data/deidentify_patient.h"
#include "kernels/philox.h"
#include "model/sha256.h"
#include <stdlib.h>
#include <string.h>

enum { SAMPLE = 1000, KNOWN = 3 };

typedef struct {
    int64_t row;
    uint32_t code[KNOWN];
    int n;
    int64_t holders;
} Probe;

typedef struct {
    uint64_t hash;
    int64_t row;
} Draw;

static int compare_draws(const void *a, const void *b) {
    const Draw *x = a, *y = b;
    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : (x->row > y->row) - (x->row < y->row);
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Stamps every timed code a patient has; the distinct ones in order of first use. */
static int64_t distinct_codes(const Deid *d, const DeidPatient *p, int64_t stamp, int64_t *seen, uint32_t *code) {
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++) {
        uint32_t c = p->event[i].code;
        int kind = d->codes.out_kind[c];
        if (kind == KIND_STATIC || kind == KIND_BIRTH || seen[c] == stamp) continue;
        seen[c] = stamp;
        code[n++] = c;
    }
    return n;
}

static uint64_t traits_hash(const Deid *d, const DeidPatient *p) {
    int64_t visits = 0;
    uint64_t h = philox_mix((uint64_t)(p->age_years < 0 ? 99 : p->age_years / 5), 1);
    for (int64_t i = 0; i < p->n; i++) {
        uint32_t c = p->event[i].code;
        const char *text = d->codes.out.item[c];
        visits += d->codes.out_kind[c] == KIND_VISIT_START;
        if (!strncmp(text, "SEX//", 5) || !strncmp(text, "GENDER//", 8) || !strncmp(text, "RACE//", 6))
            h = philox_mix(h, philox_hash(text));
    }
    return philox_mix(h, (uint64_t)visits);
}

static Status draw_probes(Deid *d, const Draw *draw, int64_t n, uint64_t seed, Probe *probe, int64_t *seen,
                          uint32_t *code, DeidPatient *p, Err *err) {
    Status status = OK;
    for (int64_t i = 0; i < n && !status; i++) {
        if ((status = deid_patient(d, draw[i].row, p, NULL, err))) break;
        int64_t have = distinct_codes(d, p, i + 1, seen, code);
        probe[i].row = draw[i].row;
        for (probe[i].n = 0; probe[i].n < KNOWN && have; probe[i].n++) {
            int64_t k = (int64_t)(philox_mix(philox_mix(seed, (uint64_t)i), (uint64_t)probe[i].n) % (uint64_t)have);
            probe[i].code[probe[i].n] = code[k];
            code[k] = code[--have];
        }
    }
    return status;
}

static int holds(const Probe *q, const int64_t *seen, int64_t stamp) {
    for (int k = 0; k < q->n; k++)
        if (seen[q->code[k]] != stamp) return 0;
    return 1;
}

Status deid_risk(Deid *d, DeidentifyReport *r, uint64_t seed, Err *err) {
    int64_t P = d->f.n_patients, n = 0, n_traits = 0;
    size_t codes = (size_t)d->codes.out.n + 1;
    Draw *draw = try_calloc((size_t)P + 1, sizeof *draw);
    uint64_t *traits = try_calloc((size_t)P + 1, sizeof *traits);
    int64_t *seen = try_calloc(codes, sizeof *seen);
    uint32_t *code = try_calloc(codes, sizeof *code);
    Probe *probe = xcalloc(SAMPLE, sizeof *probe);
    DeidPatient p = {0};
    Status status =
        draw && traits && seen && code ? OK : err_set(err, ERR_NOMEM, "no memory to weigh %lld patients", (long long)P);
    for (int64_t row = 0; row < P && !status; row++)
        if (d->cohort.split[row] != SPLIT_UNSET) draw[n++] = (Draw){philox_mix(seed, (uint64_t)row), row};
    if (!status && n) qsort(draw, (size_t)n, sizeof *draw, compare_draws);
    if (n > SAMPLE) n = SAMPLE;
    if (!status) status = draw_probes(d, draw, n, seed, probe, seen, code, &p, err);
    for (int64_t row = 0; row < P && !status; row++) {
        int64_t stamp = SAMPLE + 1 + row;
        status = deid_patient(d, row, &p, NULL, err);
        if (status || !p.n) continue;
        distinct_codes(d, &p, stamp, seen, code);
        traits[n_traits++] = traits_hash(d, &p);
        for (int64_t i = 0; i < n; i++) probe[i].holders += probe[i].n && holds(&probe[i], seen, stamp);
    }
    if (!status && n_traits) qsort(traits, (size_t)n_traits, sizeof *traits, compare_u64);
    for (int64_t i = 0; i < n_traits; i++)
        r->unique_by_traits += (!i || traits[i] != traits[i - 1]) && (i + 1 == n_traits || traits[i] != traits[i + 1]);
    for (int64_t i = 0; i < n; i++) {
        r->sampled += probe[i].n > 0;
        r->unique_by_codes += probe[i].n && probe[i].holders == 1;
    }
    deid_patient_free(&p);
    free(draw);
    free(traits);
    free(seen);
    free(code);
    free(probe);
    return status;
}
