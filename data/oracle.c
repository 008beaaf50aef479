/* oracle.c - the oracle's law: state, next-token distribution as a chain of steps, sampling.
 *
 * The chain: the items of the present list in their fixed order, each taken with probability q or passed over, and then
 * one of a few choices (a disposition, a gap, a type of contact).  q depends on the state after the last token only, so
 * passing an item over changes nothing and the probabilities multiply.
 *
 * One rule is ours: a round of a stay that recorded nothing cannot "continue", because its two gaps would be written,
 * and read back, as one. */
#include "data/oracle.h"

/* Nobody reads the floating-point exception flags here; believing so lets loops over sg() vectorise.  No bit changes.
 */
#pragma GCC optimize("no-trapping-math")

#include <math.h>
#include <string.h>

#include "data/event.h"
#include "data/oracle_tables.h"
#include "kernels/philox.h"

enum { STAGE_CHOICE, STAGE_LIST, STAGE_GAP, STAGE_TYPE };
enum { GAP_8H = 7, GAP_1D = 10 }; /* bins of GAP_MINUTES */
static const double MINUTES_PER_YEAR = 525960.0;
static const double MINUTES_PER_DAY = 1440.0;
static const double CONTINUE_GAP[3] = {0.3, 0.4, 0.3}; /* 8h-12h, 12h-18h, 18h-1d */

/* e^x for |x| < 700: Cody-Waite reduction and a Taylor polynomial, about 1 ulp.  Ours because libm's last bit differs
 * between machines, and a cohort must not. */
static inline double exp_portable(double x) {
    const double shift = 0x1.8p52, ln2_hi = 0x1.62e42feep-1, ln2_lo = 0x1.a39ef35793c76p-33;
    double shifted =
        x * 0x1.71547652b82fep0 + shift; /* its low bits are the integer n: no conversion, so loops vectorise */
    double n = shifted - shift;
    double r = (x - n * ln2_hi) - n * ln2_lo;
    double r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    double p01 = 1.0 + r, p23 = 1.0 / 2 + r * (1.0 / 6), p45 = 1.0 / 24 + r * (1.0 / 120);
    double p67 = 1.0 / 720 + r * (1.0 / 5040), p89 = 1.0 / 40320 + r * (1.0 / 362880);
    double pab = 1.0 / 3628800 + r * (1.0 / 39916800), pc = 1.0 / 479001600;
    double p = (p01 + r2 * p23) + r4 * (p45 + r2 * p67) + r8 * ((p89 + r2 * pab) + r4 * pc);
    uint64_t bits;
    double scale;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

static inline double clamp(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }
static inline double sg(double z) { return 1.0 / (1.0 + exp_portable(-clamp(z, -8, 4))); }
static inline double decades(const OracleState *s) { return (s->age - 60) / 10; }

static inline double sum_bits(const Cause *c, uint32_t bits) {
    double z = 0;
    for (int i = 0; i < CAUSES && c[i].weight != 0; i++)
        if (bits >> c[i].at & 1) z += c[i].weight;
    return z;
}

static double severity(const OracleState *s) {
    double sev = 0;
    for (int j = 0; j < ORACLE_LABS; j++)
        if (LABS[j].severe) sev += s->bad[j];
    return sev;
}

/* ---- how things are written -------------------------------------------------------------------------------------- */

OracleItem oracle_item(int what) {
    static const OracleItem marks[] = {
        {"VISIT//OUT", "Outpatient visit", NULL, NULL, KIND_VISIT_START},
        {"VISIT//IN", "Hospital admission", NULL, NULL, KIND_VISIT_START},
        {"VISIT_END", "End of visit", NULL, NULL, KIND_VISIT_END},
        {"ICU_IN", "To the intensive care unit", NULL, NULL, KIND_TRANSFER},
        {"ICU_OUT", "Out of the intensive care unit", NULL, NULL, KIND_TRANSFER},
        {"MEDS_DEATH", "Death", NULL, NULL, KIND_DEATH},
    };
    REQUIRE(what >= 0 && what < ORACLE_WHATS && !oracle_is_gap(what));
    if (what < ORACLE_GAP) return marks[what];
    if (what < ORACLE_CHRONIC_DX) {
        const LabRow *r = &LABS[what - ORACLE_LAB];
        return (OracleItem){r->code, r->name, r->unit, r->edge, KIND_LAB};
    }
    if (what < ORACLE_ACUTE_DX) {
        const ChronicRow *r = &CHRONIC[what - ORACLE_CHRONIC_DX];
        return (OracleItem){r->code, r->name, NULL, NULL, KIND_DIAGNOSIS};
    }
    if (what < ORACLE_DRUG) {
        const AcuteRow *r = &ACUTE[what - ORACLE_ACUTE_DX];
        return (OracleItem){r->code, r->name, NULL, NULL, KIND_DIAGNOSIS};
    }
    if (what < ORACLE_PROCEDURE) {
        const DrugRow *r = &DRUGS[what - ORACLE_DRUG];
        return (OracleItem){r->code, r->name, NULL, NULL, KIND_DRUG};
    }
    if (what < ORACLE_COMPLAINT) {
        const ProcedureRow *r = &PROCEDURES[what - ORACLE_PROCEDURE];
        return (OracleItem){r->code, r->name, NULL, NULL, KIND_PROCEDURE};
    }
    const ComplaintRow *r = &COMPLAINTS[what - ORACLE_COMPLAINT];
    return (OracleItem){r->code, r->name, NULL, NULL, KIND_OTHER};
}

const char *oracle_sex_code(int sex) { return SEX_CODE[sex]; }
const char *oracle_race_code(int race) { return RACE_CODE[race]; }
double oracle_sex_share(int sex) { return SEX_SHARE[sex]; }
double oracle_race_share(int race) { return RACE_SHARE[race]; }
double oracle_age_share(int bin) { return AGE_SHARE[bin]; }

int32_t oracle_gap_lo(int what) { return GAP_MINUTES[what - ORACLE_GAP]; }
int32_t oracle_gap_hi(int what) {
    int bin = what - ORACLE_GAP;
    return bin < GAP_BINS ? GAP_MINUTES[bin + 1] : GAP_MINUTES[bin];
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

/* What depends on the prefix, the conditions and the drugs alone. */
static void drugs_refresh(OracleState *s) {
    uint32_t treated = 0;
    for (uint32_t left = s->drugs; left; left &= left - 1) treated |= 1u << DRUGS[__builtin_ctz(left)].treats;
    for (int j = 0; j < ORACLE_LABS; j++)
        s->push[j] = sum_bits(LABS[j].worse, s->chronic) - sum_bits(LABS[j].better, s->drugs);
    for (int k = 0; k < RATES; k++) s->rate_z[k] = RATE[k].sex[s->sex] + RATE[k].race[s->race];
    for (uint32_t left = s->chronic; left; left &= left - 1) {
        int i = __builtin_ctz(left), t = treated >> i & 1;
        s->rate_z[RATE_OUT] += CHRONIC[i].out * (1 + t * RATE[RATE_OUT].treated);
        s->rate_z[RATE_IN] += CHRONIC[i].in * (1 + t * RATE[RATE_IN].treated);
        s->rate_z[RATE_DEATH] += CHRONIC[i].death * (1 + t * RATE[RATE_DEATH].treated);
    }
}

static void conditions_refresh(OracleState *s) {
    double sum = 0;
    for (int j = 0; j < ORACLE_LABS; j++) s->lab_q[j] = LABS[j].base + sum_bits(LABS[j].asked, s->chronic);
    for (int j = 0; j < ORACLE_LABS; j++) s->lab_q[j] = sg(s->lab_q[j]);
    for (int i = 0; i < ORACLE_CHRONIC; i++) {
        const ChronicRow *r = &CHRONIC[i];
        s->chronic_z[i] = r->base + r->sex[s->sex] + r->race[s->race] + sum_bits(r->from, s->chronic);
    }
    for (int i = 0; i < ORACLE_COMPLAINTS; i++)
        s->complaint[i] = COMPLAINTS[i].base + sum_bits(COMPLAINTS[i].from, s->chronic);
    for (int i = 0; i < ORACLE_COMPLAINTS; i++) s->complaint[i] = exp_portable(s->complaint[i]);
    for (int i = 0; i < ORACLE_COMPLAINTS; i++) sum += s->complaint[i];
    for (int i = 0; i < ORACLE_COMPLAINTS; i++) s->complaint[i] /= sum;
    for (int m = 0; m < ORACLE_DRUGS; m++) s->drug_q[m] = s->chronic >> DRUGS[m].treats & 1 ? DRUG_GIVEN : 0;
    s->chronic_ready = 0;
    drugs_refresh(s);
}

/* Rule 9 for all conditions at once; it holds until a lab, a new condition, a gap or the end of a visit. */
static void chronic_refresh(OracleState *s) {
    double z[ORACLE_CHRONIC], x = decades(s), visit = s->visits ? CHRONIC_LATER : CHRONIC_FIRST;
    for (int i = 0; i < ORACLE_CHRONIC; i++) z[i] = s->chronic_z[i] + visit + CHRONIC[i].age * x;
    for (int j = 0; j < ORACLE_LABS; j++) {
        const Cause *e = LABS[j].reveals;
        for (int k = 0; s->bad[j] > 0 && e[k].weight != 0; k++) z[e[k].at] += e[k].weight * s->bad[j];
    }
    for (int i = 0; i < ORACLE_CHRONIC; i++) s->chronic_q[i] = sg(z[i]);
    for (uint32_t left = s->chronic; left; left &= left - 1) s->chronic_q[__builtin_ctz(left)] = CHRONIC_KNOWN;
    s->chronic_ready = 1;
}

static void set_conditions(OracleState *s, uint32_t chronic) {
    if (chronic == s->chronic) return;
    s->chronic = chronic;
    conditions_refresh(s);
}

static void set_drugs(OracleState *s, uint32_t drugs) {
    if (drugs == s->drugs) return;
    s->drugs = drugs;
    drugs_refresh(s);
}

static void set_level(OracleState *s, int lab, int level) {
    double d = LABS[lab].bad * (level - 5.5) - 1;
    s->level[lab] = (uint8_t)level;
    s->bad[lab] = level && d > 0 ? d / 3 : 0;
    s->chronic_ready = 0;
}

void oracle_start(OracleState *s, int sex, int race, int age_bin) {
    memset(s, 0, sizeof *s);
    s->sex = (uint8_t)sex;
    s->race = (uint8_t)race;
    s->age = ORACLE_AGE_FIRST + ORACLE_AGE_BIN * (age_bin + 0.5);
    for (int i = 0; i < ORACLE_PROCEDURES; i++)
        for (int icu = 0; icu < 2; icu++) s->procedure_q[icu][i] = sg(PROCEDURES[i].base + icu * PROCEDURE_ICU);
    conditions_refresh(s);
}

static int in_stay(const OracleState *s) { return s->mode == ORACLE_MODE_WARD || s->mode == ORACLE_MODE_ICU; }

static void open_list(OracleState *s) {
    s->stage = STAGE_LIST;
    s->position = 0;
}

static void feed_gap(OracleState *s, int what) {
    int32_t lo = oracle_gap_lo(what), hi = oracle_gap_hi(what);
    double years = 0.5 * ((double)lo + hi) / MINUTES_PER_YEAR;
    s->after_gap = 1;
    s->chronic_ready = 0;
    if (s->mode == ORACLE_MODE_HOME && what != ORACLE_GAP + GAP_BINS) {
        s->pending += years; /* the rates stay frozen until the event that ends the gap */
        s->stage = STAGE_TYPE;
        return;
    }
    s->age += years;
    if (in_stay(s) && s->stage != STAGE_CHOICE) {
        s->day++;
        open_list(s);
    }
}

/* Place of an item in the list of the present mode, -1: it is not in it. */
static int list_position(const OracleState *s, int what) {
    if (s->mode == ORACLE_MODE_OUT) {
        if (what >= ORACLE_LAB && what < ORACLE_ACUTE_DX) return what - ORACLE_LAB;
        if (what >= ORACLE_DRUG && what < ORACLE_PROCEDURE) return what - ORACLE_DRUG + ORACLE_LABS + ORACLE_CHRONIC;
        return -1;
    }
    if (what >= ORACLE_LAB && what < ORACLE_LAB + ORACLE_ACUTE_LABS) return what - ORACLE_LAB;
    if (what >= ORACLE_PROCEDURE && what < ORACLE_COMPLAINT) return what - ORACLE_PROCEDURE + ORACLE_ACUTE_LABS;
    if (what >= ORACLE_DRUG && what < ORACLE_PROCEDURE)
        return what - ORACLE_DRUG + ORACLE_ACUTE_LABS + ORACLE_PROCEDURES;
    return -1;
}

static void feed_mark(OracleState *s, int what) {
    s->chronic_ready = 0;
    switch (what) {
    case ORACLE_VISIT_OUT:
        s->mode = ORACLE_MODE_OUT;
        s->stage = STAGE_CHOICE;
        break;
    case ORACLE_VISIT_IN:
        s->mode = ORACLE_MODE_WARD;
        s->stage = STAGE_CHOICE;
        s->day = 0;
        if (s->admissions < 3) s->admissions++;
        break;
    case ORACLE_VISIT_END:
        s->last_inpatient = (uint8_t)in_stay(s);
        s->visits++;
        s->mode = ORACLE_MODE_HOME;
        s->stage = STAGE_CHOICE;
        break;
    case ORACLE_ICU_IN:
    case ORACLE_ICU_OUT:
        s->mode = what == ORACLE_ICU_IN ? ORACLE_MODE_ICU : ORACLE_MODE_WARD;
        s->stage = STAGE_GAP;
        break;
    default: s->mode = ORACLE_MODE_DEAD; break;
    }
}

void oracle_feed(OracleState *s, int what, int level) {
    if (oracle_is_gap(what)) {
        feed_gap(s, what);
        return;
    }
    if (s->pending != 0) s->chronic_ready = 0;
    s->age += s->pending;
    s->pending = 0;
    s->after_gap = 0;
    if (what < ORACLE_GAP) {
        feed_mark(s, what);
        return;
    }
    if (oracle_is_lab(what)) set_level(s, what - ORACLE_LAB, level);
    else if (what < ORACLE_ACUTE_DX) set_conditions(s, s->chronic | 1u << (what - ORACLE_CHRONIC_DX));
    else if (what < ORACLE_DRUG) {
        int parent = ACUTE[what - ORACLE_ACUTE_DX].parent;
        if (parent >= 0) set_conditions(s, s->chronic | 1u << parent);
        if (in_stay(s) && s->stage == STAGE_CHOICE) {
            s->day = 1;
            open_list(s);
            return;
        }
    } else if (what < ORACLE_PROCEDURE) set_drugs(s, s->drugs | 1u << (what - ORACLE_DRUG));
    else if (what >= ORACLE_COMPLAINT && s->mode == ORACLE_MODE_OUT && s->stage == STAGE_CHOICE) {
        open_list(s);
        return;
    }
    if (s->stage != STAGE_LIST) return;
    int at = list_position(s, what);
    if (at >= s->position) s->position = (uint8_t)(at + 1);
}

/* ---- the next token ---------------------------------------------------------------------------------------------- */

int oracle_list_runs(const OracleState *s, OracleRun *run) {
    if (s->stage != STAGE_LIST) return 0;
    run[0] = (OracleRun){ORACLE_LAB, ORACLE_LABS, s->lab_q};
    run[1] = (OracleRun){ORACLE_CHRONIC_DX, ORACLE_CHRONIC, s->chronic_q};
    run[2] = (OracleRun){ORACLE_DRUG, ORACLE_DRUGS, s->drug_q};
    if (s->mode == ORACLE_MODE_OUT) return ORACLE_RUNS;
    run[0].n = ORACLE_ACUTE_LABS;
    run[1] = (OracleRun){ORACLE_PROCEDURE, ORACLE_PROCEDURES, s->procedure_q[s->mode == ORACLE_MODE_ICU]};
    return in_stay(s) ? ORACLE_RUNS : 0;
}

void oracle_list_refresh(OracleState *s) {
    if (!s->chronic_ready) chronic_refresh(s);
}

int oracle_list_size(const OracleState *s) {
    OracleRun run[ORACLE_RUNS];
    int size = 0;
    for (int k = 0, n = oracle_list_runs(s, run); k < n; k++) size += run[k].n;
    return size;
}

int oracle_list_what(const OracleState *s, int item) {
    OracleRun run[ORACLE_RUNS];
    int k = 0, n = oracle_list_runs(s, run);
    for (; k < n && item >= run[k].n; k++) item -= run[k].n;
    return k < n ? run[k].what + item : -1;
}

double oracle_list_q(OracleState *s, int item) {
    OracleRun run[ORACLE_RUNS];
    int k = 0, n = oracle_list_runs(s, run);
    for (; k < n && item >= run[k].n; k++) item -= run[k].n;
    if (k == n) return 0;
    if (run[k].q == s->chronic_q && !s->chronic_ready) chronic_refresh(s);
    return run[k].q[item];
}

static void add(OracleChoices *c, int what, double p) {
    c->what[c->n] = what;
    c->p[c->n++] = p;
}

/* Turns logits into probabilities. */
static void softmax(OracleChoices *c) {
    double sum = 0;
    for (int i = 0; i < c->n; i++) sum += c->p[i] = exp_portable(c->p[i]);
    for (int i = 0; i < c->n; i++) c->p[i] /= sum;
}

double oracle_home_rates(const OracleState *s, double *rate) {
    double x = decades(s), sev = severity(s), sum = 0;
    for (int k = 0; k < RATES; k++) {
        const RateRow *r = &RATE[k];
        double z = s->rate_z[k] + r->x * x + r->sev * sev + r->admissions * s->admissions +
                   r->last_inpatient * s->last_inpatient;
        sum += rate[k] = r->base * exp_portable(clamp(z, -3, 5));
    }
    return sum;
}

static void home_choices(const OracleState *s, OracleChoices *c) {
    double rate[RATES], sum = oracle_home_rates(s, rate);
    if (s->stage == STAGE_TYPE) {
        add(c, ORACLE_VISIT_OUT, rate[RATE_OUT] / sum);
        add(c, ORACLE_VISIT_IN, rate[RATE_IN] / sum);
        add(c, ORACLE_DEATH, rate[RATE_DEATH] / sum);
        return;
    }
    /* Survival to each bin's lower bound, given survival to one day. */
    double survival[GAP_TOKENS - GAP_1D];
    for (int i = 1; i < GAP_TOKENS - GAP_1D; i++) survival[i] = -sum * (GAP_MINUTES[GAP_1D + i] / MINUTES_PER_DAY - 1);
    for (int i = 1; i < GAP_TOKENS - GAP_1D; i++) survival[i] = exp_portable(survival[i]);
    survival[0] = 1;
    for (int bin = GAP_1D; bin < GAP_BINS; bin++)
        add(c, ORACLE_GAP + bin, survival[bin - GAP_1D] - survival[bin + 1 - GAP_1D]);
    add(c, ORACLE_GAP + GAP_BINS, survival[GAP_BINS - GAP_1D]);
}

static void disposition_choices(const OracleState *s, OracleChoices *c) {
    double sev = severity(s), x = decades(s), old = x > 0 ? x : 0;
    OracleChoices d = {0};
    if (s->mode == ORACLE_MODE_WARD) {
        add(&d, ORACLE_ICU_IN, -5 + 0.8 * sev);
        add(&d, ORACLE_VISIT_END, -1.3 + 0.1 * s->day - 0.3 * sev);
        add(&d, ORACLE_DEATH, -7.6 + 0.8 * sev + 0.35 * old);
    } else {
        add(&d, ORACLE_ICU_OUT, -1 - 0.3 * sev);
        add(&d, ORACLE_DEATH, -5.4 + 0.7 * sev + 0.35 * old);
    }
    int empty = s->after_gap; /* nothing recorded in this round: it cannot continue (see the top) */
    if (!empty) add(&d, -1, 0);
    softmax(&d);
    for (int i = 0; i < d.n; i++) {
        if (d.what[i] >= 0) {
            add(c, d.what[i], d.p[i]);
            continue;
        }
        for (int k = 0; k < 3; k++) add(c, ORACLE_GAP + GAP_8H + k, d.p[i] * CONTINUE_GAP[k]);
    }
}

void oracle_choices(const OracleState *s, OracleChoices *c) {
    c->n = 0;
    switch (s->mode) {
    case ORACLE_MODE_START: add(c, ORACLE_VISIT_OUT, 1); break;
    case ORACLE_MODE_OUT:
        if (s->stage != STAGE_CHOICE) {
            add(c, ORACLE_VISIT_END, 1);
            break;
        }
        for (int i = 0; i < ORACLE_COMPLAINTS; i++) add(c, ORACLE_COMPLAINT + i, s->complaint[i]);
        break;
    case ORACLE_MODE_HOME: home_choices(s, c); break;
    case ORACLE_MODE_WARD:
    case ORACLE_MODE_ICU:
        if (s->stage == STAGE_LIST) disposition_choices(s, c);
        else if (s->stage == STAGE_GAP) {
            for (int k = 0; k < 3; k++) add(c, ORACLE_GAP + GAP_8H + k, CONTINUE_GAP[k]);
        } else {
            for (int i = 0; i < ORACLE_ACUTE; i++)
                add(c, ORACLE_ACUTE_DX + i, ACUTE[i].base + sum_bits(ACUTE[i].from, s->chronic));
            softmax(c);
        }
        break;
    default: break; /* dead */
    }
}

/* Unnormalised; returns their sum. */
static double level_weights(const OracleState *s, int lab, double *w) {
    /* e^(-k^2/4.5): exp(-(k-mu)^2/4.5) is that times z^k with z = e^(2 mu/4.5), up to a factor that cancels. */
    /* clang-format off */
    static const double bell[ORACLE_LEVELS + 1] = {1, 0x1.99fa40bc6c5f7p-1, 0x1.a4fa9ecad91c2p-2,
        0x1.152aaa3bf81ccp-3, 0x1.d40464ea76e2cp-6, 0x1.fab6c122cebaap-9, 0x1.5fc21041027adp-12,
        0x1.392348d10b829p-16, 0x1.6577d2bee8d4ap-21, 0x1.05a628c699fa1p-26, 0x1.eb2e4573b9f6cp-33};
    /* clang-format on */
    double last = s->level[lab] ? s->level[lab] : 5.5, push = s->push[lab];
    if (in_stay(s)) push += LAB_WARD;
    if (s->mode == ORACLE_MODE_ICU) push += LAB_ICU;
    double mu = clamp(5.5 + 0.6 * (last - 5.5) + LABS[lab].bad * push, 0.5, 10.5);
    double z = exp_portable(2 * mu / 4.5), power = 1, sum = 0;
    for (int k = 1; k <= ORACLE_LEVELS; k++) {
        power *= z;
        sum += w[k - 1] = bell[k] * power;
    }
    return sum;
}

void oracle_levels(const OracleState *s, int lab, double *p) {
    double sum = level_weights(s, lab, p);
    for (int k = 0; k < ORACLE_LEVELS; k++) p[k] /= sum;
}

void oracle_what_probs(OracleState *s, double *p) {
    for (int i = 0; i < ORACLE_WHATS; i++) p[i] = 0;
    double passed = 1;
    for (int item = s->position, n = oracle_list_size(s); item < n; item++) {
        double q = oracle_list_q(s, item);
        p[oracle_list_what(s, item)] = passed * q;
        passed *= 1 - q;
    }
    OracleChoices c;
    oracle_choices(s, &c);
    for (int i = 0; i < c.n; i++) p[c.what[i]] += passed * c.p[i];
}

int oracle_what_draw(OracleState *s, double u, double *p) {
    OracleRun run[ORACLE_RUNS];
    double passed = 1;
    for (int k = 0, skip = s->position, n = oracle_list_runs(s, run); k < n; skip -= run[k++].n) {
        if (skip >= run[k].n) continue;
        if (run[k].q == s->chronic_q && !s->chronic_ready) chronic_refresh(s);
        for (int i = skip > 0 ? skip : 0; i < run[k].n; i++) {
            double take = passed * run[k].q[i];
            if (u < take) {
                *p = take;
                return run[k].what + i;
            }
            u -= take;
            passed -= take;
        }
    }
    OracleChoices c;
    oracle_choices(s, &c);
    *p = 0;
    for (int i = 0; i < c.n; i++) {
        *p = passed * c.p[i];
        if (u < *p || i == c.n - 1) return c.what[i];
        u -= *p;
    }
    return -1;
}

int oracle_level_draw(const OracleState *s, int lab, double u, double *p) {
    double w[ORACLE_LEVELS], sum = level_weights(s, lab, w);
    int k = 0;
    u *= sum;
    while (k < ORACLE_LEVELS - 1 && u >= w[k]) u -= w[k++];
    *p = w[k] / sum;
    return k + 1;
}

/* ---- randomness -------------------------------------------------------------------------------------------------- */

void oracle_rng_init(OracleRng *r, uint64_t key, uint64_t stream) { *r = (OracleRng){.key = key, .stream = stream}; }

double oracle_rng_uniform(OracleRng *r) {
    if (r->has_spare) {
        r->has_spare = 0;
        return r->spare;
    }
    Philox4 block = philox4x32(r->key, r->counter++, r->stream);
    r->spare = philox_uniform(block, 1);
    r->has_spare = 1;
    return philox_uniform(block, 0);
}

int32_t oracle_gap_draw(int what, OracleRng *r) {
    int32_t lo = oracle_gap_lo(what), hi = oracle_gap_hi(what);
    return hi > lo ? lo + (int32_t)(oracle_rng_uniform(r) * (hi - lo)) : lo;
}
