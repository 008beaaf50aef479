/* oracle_law.c - the law in terms of a vocabulary's token ids: what `--score`, `--risk` and the rollout tests feed. */
#include <stdlib.h>
#include <string.h>

#include "data/oracle.h"
#include "kernels/philox.h"

enum { PREFIX_NONE = 0, PREFIX_SEX = 1, PREFIX_RACE = 11, PREFIX_AGE = 31, PREFIX_START = 99 };
enum { LEVELS_PLUS = ORACLE_LEVELS + 1 };

uint64_t oracle_history_step(uint64_t history, int what, int level) {
    return philox_mix(history, (uint64_t)(what * LEVELS_PLUS + level));
}

uint64_t oracle_history_prefix(int sex, int race, int age_bin) {
    uint64_t h = philox_mix(0, (uint64_t)(PREFIX_SEX + sex));
    h = philox_mix(h, (uint64_t)(PREFIX_RACE + race));
    return philox_mix(h, (uint64_t)(PREFIX_AGE + age_bin));
}

/* The prefix part a token stands for. */
static int prefix_of(const Vocabulary *v, int id) {
    if (id == TOKEN_START || id == TOKEN_CONTINUES) return PREFIX_START;
    for (int i = 0; i < ORACLE_SEXES; i++)
        if (!strcmp(v->token[id].code, oracle_sex_code(i))) return PREFIX_SEX + i;
    for (int i = 0; i < ORACLE_RACES; i++)
        if (!strcmp(v->token[id].code, oracle_race_code(i))) return PREFIX_RACE + i;
    if (id >= v->age_lo && id < v->age_lo + v->n_age) {
        int years = v->age_first_years + (id - v->age_lo) * v->age_bin_years;
        int bin = (years - ORACLE_AGE_FIRST) / ORACLE_AGE_BIN;
        return PREFIX_AGE + (years < ORACLE_AGE_FIRST ? 0 : bin < ORACLE_AGES ? bin : ORACLE_AGES - 1);
    }
    return PREFIX_NONE;
}

static Status missing(const Vocabulary *v, const char *code, int level, Err *err) {
    (void)v;
    char name[128];
    if (level) snprintf(name, sizeof name, "%s=Q%d", code, level);
    else snprintf(name, sizeof name, "%s", code);
    return err_set(err, ERR_FORMAT,
                   "this vocabulary has no token for %s, so the oracle's law cannot be told in it; tokenise the oracle "
                   "cohort with the vocabulary.json that `ehr-data synth` wrote beside it",
                   name);
}

static void law_bind(OracleLaw *law, int id, int what, int level) {
    law->what[id] = what;
    law->level[id] = level;
    law->id[what * LEVELS_PLUS + level] = id;
}

static Status bind_lab(OracleLaw *law, const Vocabulary *v, int what, Err *err) {
    const char *code = oracle_item(what).code;
    if (law->separate) {
        int id = vocabulary_find(v, code);
        if (id < 0) return missing(v, code, 0, err);
        law_bind(law, id, what, 0);
        return OK;
    }
    for (int level = 1; level <= ORACLE_LEVELS; level++) {
        char name[128];
        snprintf(name, sizeof name, "%s=Q%d", code, level);
        int id = vocabulary_find(v, name);
        if (id < 0) return missing(v, code, level, err);
        law_bind(law, id, what, level);
    }
    return OK;
}

Status oracle_law_open(OracleLaw *law, const Vocabulary *v, Err *err) {
    memset(law, 0, sizeof *law);
    law->n = v->n;
    law->separate = v->separate_values;
    law->what = xmalloc((size_t)v->n * sizeof(int));
    law->level = xcalloc((size_t)v->n, sizeof(int));
    law->prefix = xcalloc((size_t)v->n, sizeof(int));
    law->id = xmalloc(ORACLE_WHATS * LEVELS_PLUS * sizeof(int));
    for (int i = 0; i < v->n; i++) law->what[i] = -1;
    for (int i = 0; i < ORACLE_WHATS * LEVELS_PLUS; i++) law->id[i] = -1;
    Status status = OK;
    for (int id = 0; id < v->n; id++) law->prefix[id] = prefix_of(v, id);
    for (int level = 1; status == OK && law->separate && level <= ORACLE_LEVELS; level++) {
        char name[16];
        snprintf(name, sizeof name, "Q%d", level);
        int id = law->level_id[level] = vocabulary_find(v, name);
        if (id < 0) status = missing(v, name, 0, err);
        else law->level[id] = level;
    }
    for (int what = 0; status == OK && what < ORACLE_WHATS; what++) {
        if (oracle_is_gap(what)) {
            law_bind(law, v->gap_lo + what - ORACLE_GAP, what, 0);
            continue;
        }
        if (oracle_is_lab(what)) {
            status = bind_lab(law, v, what, err);
            continue;
        }
        int id = vocabulary_find(v, oracle_item(what).code);
        if (id < 0) status = missing(v, oracle_item(what).code, 0, err);
        else law_bind(law, id, what, 0);
    }
    if (status != OK) oracle_law_close(law);
    return status;
}

void oracle_law_close(OracleLaw *law) {
    free(law->what);
    free(law->level);
    free(law->prefix);
    free(law->id);
    memset(law, 0, sizeof *law);
}

void oracle_law_start(OracleCursor *c) {
    memset(c, 0, sizeof *c);
    oracle_start(&c->state, 0, 0, 0);
    c->lab = -1;
}

static void feed_prefix(OracleCursor *c, int part) {
    if (part == PREFIX_START) {
        oracle_law_start(c);
        return;
    }
    c->history = philox_mix(c->history, (uint64_t)part);
    if (part >= PREFIX_AGE) {
        int sex = c->state.sex, race = c->state.race;
        oracle_start(&c->state, sex, race, part - PREFIX_AGE);
    } else if (part >= PREFIX_RACE) c->state.race = (uint8_t)(part - PREFIX_RACE);
    else c->state.sex = (uint8_t)(part - PREFIX_SEX);
}

Status oracle_law_feed(const OracleLaw *law, OracleCursor *c, int token, Err *err) {
    if (token < 0 || token >= law->n)
        return err_set(err, ERR_FORMAT, "oracle law: token id %d is outside the vocabulary of %d", token, law->n);
    if (law->prefix[token]) {
        feed_prefix(c, law->prefix[token]);
        return OK;
    }
    int what = law->what[token], level = law->level[token];
    if (what < 0 && level && c->lab >= 0) { /* a shared Q token completes its lab */
        what = c->lab;
        c->lab = -1;
    } else if (what >= 0 && oracle_is_lab(what) && !level) {
        c->lab = what;
        return OK;
    }
    if (what < 0)
        return err_set(err, ERR_FORMAT,
                       "oracle law: token id %d is not one the law can give; was the cohort tokenised "
                       "with its own vocabulary.json?",
                       token);
    oracle_feed(&c->state, what, level);
    c->history = oracle_history_step(c->history, what, level);
    return OK;
}

void oracle_law_probs(const OracleLaw *law, const OracleCursor *c, double *p) {
    double what[ORACLE_WHATS], level[ORACLE_LEVELS];
    for (int i = 0; i < law->n; i++) p[i] = 0;
    if (c->lab >= 0) {
        oracle_levels(&c->state, c->lab - ORACLE_LAB, level);
        for (int k = 0; k < ORACLE_LEVELS; k++) p[law->level_id[k + 1]] = level[k];
        return;
    }
    OracleState s = c->state;
    oracle_what_probs(&s, what);
    for (int w = 0; w < ORACLE_WHATS; w++) {
        const int *id = law->id + w * LEVELS_PLUS;
        if (what[w] == 0) continue;
        if (id[0] >= 0) {
            p[id[0]] += what[w];
            continue;
        }
        oracle_levels(&c->state, w - ORACLE_LAB, level);
        for (int k = 0; k < ORACLE_LEVELS; k++) p[id[k + 1]] += what[w] * level[k];
    }
}
