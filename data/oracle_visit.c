/* oracle_visit.c - what an outpatient visit of the oracle's law will hold, given some answers about its labs.
 *
 * In a visit's list the labs come first and their chances and levels are functions of the state before the list, so that
 * they are independent of each other; conditions come after them, one by one, and their chances do depend on all that
 * came before.  Labs are therefore drawn or set, and each condition adds its chance along the path that is drawn. */
#include "data/oracle.h"
#include <string.h>

/* Draws or sets the labs; taken (ORACLE_LABS): which are recorded.  Returns how many. */
static int draw_labs(OracleState *s, const double *q, const int *answer, OracleRng *rng, uint8_t *taken) {
    int n = 0;
    for (int j = 0; j < ORACLE_LABS; j++) {
        double p, u = oracle_rng_uniform(rng), v = oracle_rng_uniform(rng);
        int level = answer[j];
        if (level == ORACLE_ANSWER_NONE) level = u < q[j] ? oracle_level_draw(s, j, v, &p) : 0;
        taken[j] = level > 0;
        if (level <= 0) continue;
        oracle_feed(s, ORACLE_LAB + j, level);
        n++;
    }
    return n;
}

/* Adds the chances of conditions along one path, and that of any new one: new ones change later chances, so that none
 * being found is the product of the chances before any is. */
static void draw_conditions(OracleState *s, uint32_t had, OracleRng *rng, OracleVisit *sum) {
    double none = 1;
    for (int item = 0, n = oracle_list_size(s); item < n; item++) {
        int what = oracle_list_what(s, item), i = what - ORACLE_CHRONIC_DX;
        if (i >= 0 && i < ORACLE_CHRONIC && !(had >> i & 1)) none *= 1 - oracle_list_q(s, item);
    }
    sum->any += 1 - none;
    for (int item = 0, n = oracle_list_size(s); item < n; item++) {
        int what = oracle_list_what(s, item);
        if (what < ORACLE_CHRONIC_DX || what >= ORACLE_ACUTE_DX) continue;
        double q = oracle_list_q(s, item);
        sum->p[what] += q;
        if (oracle_rng_uniform(rng) < q) oracle_feed(s, what, 0);
    }
}

int oracle_visit(const OracleState *at, const int *answer, uint32_t had, int samples, uint64_t key, OracleVisit *out) {
    double q[ORACLE_LABS];
    OracleState here = *at;
    uint8_t taken[ORACLE_LABS];
    int drawn = 0;
    memset(out, 0, sizeof *out);
    if (at->mode != ORACLE_MODE_OUT || at->position || oracle_list_size(at) == 0) return 0;
    for (int j = 0; j < ORACLE_LABS; j++) q[j] = oracle_list_q(&here, j);
    for (int i = 0; i < samples; i++) {
        OracleState s = here;
        OracleRng rng;
        oracle_rng_init(&rng, key, (uint64_t)i);
        if (!draw_labs(&s, q, answer, &rng, taken)) continue;
        drawn++;
        for (int j = 0; j < ORACLE_LABS; j++) out->p[ORACLE_LAB + j] += taken[j];
        draw_conditions(&s, had, &rng, out);
    }
    for (int w = 0; drawn && w < ORACLE_WHATS; w++) out->p[w] /= drawn;
    if (drawn) out->any /= drawn;
    return drawn > 0;
}
