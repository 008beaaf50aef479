/* tiny_law.h - a vocabulary of 28 ids, patients in it, and a law over it that is small enough to enumerate. */
#ifndef EHR_TESTS_TINY_LAW_H
#define EHR_TESTS_TINY_LAW_H
#include <math.h>
#include "infer/rollout.h"

/* ---- a vocabulary of 28 ids ---------------------------------------------------------------------------------------- */

enum { SEX = 3, AGE = 4, GAP = 5, DEATH = GAP + GAP_TOKENS, EVENT_A, EVENT_B, N_TOKENS };

static VocabToken token_table[N_TOKENS];

static inline Vocabulary make_vocabulary(void) {
    static char *statics[] = {"SEX"};
    Vocabulary v = {.n = N_TOKENS, .token = token_table, .gap_lo = GAP, .age_lo = AGE, .n_age = 1, .age_bin_years = 5,
                    .n_static = 1, .static_name = statics, .death = DEATH};
    for (int i = 0; i < N_TOKENS; i++) {
        VocabToken *t = &token_table[i];
        t->code = t->base = t->name = t->unit = (char *)"";
        t->event_kind = -1;
        t->kind = i < SEX ? TOKEN_SPECIAL : i == SEX ? TOKEN_STATIC : i == AGE ? TOKEN_AGE : i < DEATH ? TOKEN_GAP : TOKEN_EVENT;
    }
    for (int b = 0; b < GAP_TOKENS; b++) {
        double lo = GAP_MINUTES[b], hi = b + 1 < GAP_TOKENS ? GAP_MINUTES[b + 1] : lo;
        for (int q = 0; q < GAP_QUANTILES; q++)
            v.gap_quantile[b][q] = b == GAP_BINS ? lo : lo + (hi - lo) * (q + 0.5) / GAP_QUANTILES;
    }
    return v;
}

static const uint16_t patient_statics[] = {SEX};

/* n tokens: gap (1 d - 2 d), A or B, and so on. */
static inline PatientView make_patient(uint64_t key, int n, uint16_t *tokens, int32_t *minutes) {
    int32_t now = 0;
    for (int i = 0; i < n; i++) {
        if (i % 2) now += 2000;
        tokens[i] = (uint16_t)(i % 2 ? GAP + 10 : (int)(key + (uint64_t)i / 2) % 2 ? EVENT_A : EVENT_B);
        minutes[i] = now;
    }
    return (PatientView){.key = key, .n = n, .tokens = tokens, .minutes = minutes, .statics = patient_statics,
                         .age_years = 40, .observation_end = now};
}

/* ---- a law to enumerate -------------------------------------------------------------------------------------------- */

/* After a gap: A .1, B .85, DEATH .05.  After an event: a gap of 30 d - 60 d .3, or 60 d - 180 d .5, A at once .2. */
static inline void tiny_law(void *ctx, const int32_t *tokens, int n, float *out) {
    (void)ctx;
    int last = tokens[n - 1];
    for (int i = 0; i < N_TOKENS; i++) out[i] = -INFINITY;
    if (last >= GAP && last < DEATH) {
        out[EVENT_A] = logf(.1f);
        out[EVENT_B] = logf(.85f);
        out[DEATH] = logf(.05f);
    } else {
        out[GAP + 16] = logf(.3f);
        out[GAP + 17] = logf(.5f);
        out[EVENT_A] = logf(.2f);
    }
}

#endif
