/* oracle.c - the oracle's law: state, next-token distribution as a chain of steps, sampling.
 *
 * The chain: the items of the present list in their fixed order, each taken with probability q or passed over, and then
 * one of a few choices (a disposition, a gap, a type of contact).  q depends on the state after the last token only, so
 * passing an item over changes nothing and the probabilities multiply.
 *
 * One rule is ours: a round of a stay that recorded nothing cannot "continue", because its two gaps would be written, and
 * read back, as one. */
#include "data/oracle.h"

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
    double n = (x * 0x1.71547652b82fep0 + shift) - shift;
    double r = (x - n * ln2_hi) - n * ln2_lo;
    double r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    double p01 = 1.0 + r, p23 = 1.0 / 2 + r * (1.0 / 6), p45 = 1.0 / 24 + r * (1.0 / 120);
    double p67 = 1.0 / 720 + r * (1.0 / 5040), p89 = 1.0 / 40320 + r * (1.0 / 362880);
    double pab = 1.0 / 3628800 + r * (1.0 / 39916800), pc = 1.0 / 479001600;
    double p = (p01 + r2 * p23) + r4 * (p45 + r2 * p67) + r8 * ((p89 + r2 * pab) + r4 * pc);
    uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
    double scale;
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

/* ---- how things are written ---------------------------------------------------------------------------------------- */

OracleItem oracle_item(int what) {
    static const OracleItem marks[] = {
        {"VISIT//OUT", "Outpatient visit", NULL, NULL, KIND_VISIT_START}, {"VISIT//IN", "Hospital admission", NULL, NULL, KIND_VISIT_START},
        {"VISIT_END", "End of visit", NULL, NULL, KIND_VISIT_END},        {"ICU_IN", "To the intensive care unit", NULL, NULL, KIND_TRANSFER},
        {"ICU_OUT", "Out of the intensive care unit", NULL, NULL, KIND_TRANSFER}, {"MEDS_DEATH", "Death", NULL, NULL, KIND_DEATH},
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
double      oracle_sex_share(int sex) { return SEX_SHARE[sex]; }
double      oracle_race_share(int race) { return RACE_SHARE[race]; }
double      oracle_age_share(int bin) { return AGE_SHARE[bin]; }

int32_t oracle_gap_lo(int what) { return GAP_MINUTES[what - ORACLE_GAP]; }
int32_t oracle_gap_hi(int what) {
    int bin = what - ORACLE_GAP;
    return bin < GAP_BINS ? GAP_MINUTES[bin + 1] : GAP_MINUTES[bin];
}

/* ---- state --------------------------------------------------------------------------------------------------------- */

/* What depends on the prefix, the conditions and the drugs alone. */
static void sums_refresh(OracleState *s) {
    uint32_t treated = 0;
    for (uint32_t left = s->drugs; left; left &= left - 1) treated |= 1u << DRUGS[__builtin_ctz(left)].treats;
    for (int j = 0; j < ORACLE_LABS; j++) {
        s->lab_q[j] = sg(LABS[j].base + sum_bits(LABS[j].asked, s->chronic));
        s->push[j] = sum_bits(LABS[j].worse, s->chronic) - sum_bits(LABS[j].better, s->drugs);
    }
    for (int i = 0; i < ORACLE_CHRONIC; i++) {
        const ChronicRow *r = &CHRONIC[i];
        s->chronic_z[i] = r->base + r->sex[s->sex] + r->race[s->race] + sum_bits(r->from, s->chronic);
    }
    double sum = 0;
    for (int i = 0; i < ORACLE_COMPLAINTS; i++)
        sum += s->complaint[i] = exp_portable(COMPLAINTS[i].base + sum_bits(COMPLAINTS[i].from, s->chronic));
    for (int i = 0; i < ORACLE_COMPLAINTS; i++) s->complaint[i] /= sum;
    for (int k = 0; k < RATES; k++) s->rate_z[k] = RATE[k].sex[s->sex] + RATE[k].race[s->race];
    for (uint32_t left = s->chronic; left; left &= left - 1) {
        int i = __builtin_ctz(left), t = treated >> i & 1;
        s->rate_z[RATE_OUT] += CHRONIC[i].out * (1 + t * RATE[RATE_OUT].treated);
        s->rate_z[RATE_IN] += CHRONIC[i].in * (1 + t * RATE[RATE_IN].treated);
        s->rate_z[RATE_DEATH] += CHRONIC[i].death * (1 + t * RATE[RATE_DEATH].treated);
    }
}

static void set_conditions(OracleState *s, uint32_t chronic, uint32_t drugs) {
    if (chronic == s->chronic && drugs == s->drugs) return;
    s->chronic = chronic;
    s->drugs = drugs;
    sums_refresh(s);
}

static void set_level(OracleState *s, int lab, int level) {
    double d = LABS[lab].bad * (level - 5.5) - 1;
    s->level[lab] = (uint8_t)level;
    s->bad[lab] = level && d > 0 ? d / 3 : 0;
}

void oracle_start(OracleState *s, int sex, int race, int age_bin) {
    memset(s, 0, sizeof *s);
    s->sex = (uint8_t)sex;
    s->race = (uint8_t)race;
    s->age = ORACLE_AGE_FIRST + ORACLE_AGE_BIN * (age_bin + 0.5);
    sums_refresh(s);
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
    if (what >= ORACLE_DRUG && what < ORACLE_PROCEDURE) return what - ORACLE_DRUG + ORACLE_ACUTE_LABS + ORACLE_PROCEDURES;
    return -1;
}

static void feed_mark(OracleState *s, int what) {
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
    s->age += s->pending;
    s->pending = 0;
    s->after_gap = 0;
    if (what < ORACLE_GAP) {
        feed_mark(s, what);
        return;
    }
    if (oracle_is_lab(what)) set_level(s, what - ORACLE_LAB, level);
    else if (what < ORACLE_ACUTE_DX) set_conditions(s, s->chronic | 1u << (what - ORACLE_CHRONIC_DX), s->drugs);
    else if (what < ORACLE_DRUG) {
        int parent = ACUTE[what - ORACLE_ACUTE_DX].parent;
        if (parent >= 0) set_conditions(s, s->chronic | 1u << parent, s->drugs);
        if (in_stay(s) && s->stage == STAGE_CHOICE) {
            s->day = 1;
            open_list(s);
            return;
        }
    } else if (what < ORACLE_PROCEDURE) set_conditions(s, s->chronic, s->drugs | 1u << (what - ORACLE_DRUG));
    else if (what >= ORACLE_COMPLAINT && s->mode == ORACLE_MODE_OUT && s->stage == STAGE_CHOICE) {
        open_list(s);
        return;
    }
    if (s->stage != STAGE_LIST) return;
    int at = list_position(s, what);
    if (at >= s->position) s->position = (uint8_t)(at + 1);
}

/* ---- the next token ------------------------------------------------------------------------------------------------ */

int oracle_list_size(const OracleState *s) {
    if (s->stage != STAGE_LIST) return 0;
    if (s->mode == ORACLE_MODE_OUT) return ORACLE_LABS + ORACLE_CHRONIC + ORACLE_DRUGS;
    return in_stay(s) ? ORACLE_ACUTE_LABS + ORACLE_PROCEDURES + ORACLE_DRUGS : 0;
}

int oracle_list_what(const OracleState *s, int item) {
    if (s->mode == ORACLE_MODE_OUT) {
        if (item < ORACLE_LABS + ORACLE_CHRONIC) return ORACLE_LAB + item;
        return ORACLE_DRUG + item - ORACLE_LABS - ORACLE_CHRONIC;
    }
    if (item < ORACLE_ACUTE_LABS) return ORACLE_LAB + item;
    item -= ORACLE_ACUTE_LABS;
    return item < ORACLE_PROCEDURES ? ORACLE_PROCEDURE + item : ORACLE_DRUG + item - ORACLE_PROCEDURES;
}

static double chronic_q(const OracleState *s, int i) {
    if (s->chronic >> i & 1) return CHRONIC_KNOWN;
    const ChronicRow *r = &CHRONIC[i];
    double z = s->chronic_z[i] + (s->visits ? CHRONIC_LATER : CHRONIC_FIRST) + r->age * decades(s);
    for (int k = 0; k < CAUSES && r->labs[k].weight != 0; k++) z += r->labs[k].weight * s->bad[r->labs[k].at];
    return sg(z);
}

double oracle_list_q(const OracleState *s, int item) {
    int what = oracle_list_what(s, item);
    if (oracle_is_lab(what)) return s->lab_q[what - ORACLE_LAB];
    if (what < ORACLE_ACUTE_DX) return chronic_q(s, what - ORACLE_CHRONIC_DX);
    if (what < ORACLE_PROCEDURE) return s->chronic >> DRUGS[what - ORACLE_DRUG].treats & 1 ? DRUG_GIVEN : 0;
    return sg(PROCEDURES[what - ORACLE_PROCEDURE].base + (s->mode == ORACLE_MODE_ICU ? PROCEDURE_ICU : 0));
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

static double home_rates(const OracleState *s, double rate[RATES]) {
    double x = decades(s), sev = severity(s), sum = 0;
    for (int k = 0; k < RATES; k++) {
        const RateRow *r = &RATE[k];
        double z = s->rate_z[k] + r->x * x + r->sev * sev + r->admissions * s->admissions + r->last_inpatient * s->last_inpatient;
        sum += rate[k] = r->base * exp_portable(clamp(z, -3, 5));
    }
    return sum;
}

static void home_choices(const OracleState *s, OracleChoices *c) {
    double rate[RATES], sum = home_rates(s, rate);
    if (s->stage == STAGE_TYPE) {
        add(c, ORACLE_VISIT_OUT, rate[RATE_OUT] / sum);
        add(c, ORACLE_VISIT_IN, rate[RATE_IN] / sum);
        add(c, ORACLE_DEATH, rate[RATE_DEATH] / sum);
        return;
    }
    /* Survival to each bin's lower bound, given survival to one day. */
    double here = 1;
    for (int bin = GAP_1D; bin < GAP_BINS; bin++) {
        double next = exp_portable(-sum * (GAP_MINUTES[bin + 1] / MINUTES_PER_DAY - 1));
        add(c, ORACLE_GAP + bin, here - next);
        here = next;
    }
    add(c, ORACLE_GAP + GAP_BINS, here);
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

void oracle_levels(const OracleState *s, int lab, double *p) {
    /* e^(-k^2/4.5): exp(-(k-mu)^2/4.5) is that times z^k with z = e^(2 mu/4.5), up to a factor that cancels. */
    static const double bell[ORACLE_LEVELS + 1] = {1, 0x1.99fa40bc6c5f7p-1, 0x1.a4fa9ecad91c2p-2,
        0x1.152aaa3bf81ccp-3, 0x1.d40464ea76e2cp-6, 0x1.fab6c122cebaap-9, 0x1.5fc21041027adp-12,
        0x1.392348d10b829p-16, 0x1.6577d2bee8d4ap-21, 0x1.05a628c699fa1p-26, 0x1.eb2e4573b9f6cp-33};
    const LabRow *r = &LABS[lab];
    double last = s->level[lab] ? s->level[lab] : 5.5;
    double push = s->push[lab];
    if (in_stay(s)) push += LAB_WARD;
    if (s->mode == ORACLE_MODE_ICU) push += LAB_ICU;
    double mu = clamp(5.5 + 0.6 * (last - 5.5) + r->bad * push, 0.5, 10.5);
    double z = exp_portable(2 * mu / 4.5), power = 1, sum = 0;
    for (int k = 1; k <= ORACLE_LEVELS; k++) {
        power *= z;
        sum += p[k - 1] = bell[k] * power;
    }
    for (int k = 0; k < ORACLE_LEVELS; k++) p[k] /= sum;
}

void oracle_what_probs(const OracleState *s, double *p) {
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

int oracle_what_draw(const OracleState *s, double u, double *p) {
    double passed = 1;
    for (int item = s->position, n = oracle_list_size(s); item < n; item++) {
        double q = oracle_list_q(s, item);
        if (u < passed * q) {
            *p = passed * q;
            return oracle_list_what(s, item);
        }
        u -= passed * q;
        passed *= 1 - q;
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

int oracle_what_draw_without(const OracleState *s, const uint8_t *mark, double u, double *absent) {
    double passed = 1;
    for (int item = s->position, n = oracle_list_size(s); item < n; item++) {
        int    what = oracle_list_what(s, item);
        double q = oracle_list_q(s, item);
        if (mark[what]) {
            *absent *= 1 - q;
            continue;
        }
        if (u < passed * q) return what;
        u -= passed * q;
        passed *= 1 - q;
    }
    OracleChoices c;
    oracle_choices(s, &c);
    double marked = 0;
    int    last = -1;
    for (int i = 0; i < c.n; i++) {
        if (mark[c.what[i]]) marked += c.p[i];
        else last = i;
    }
    *absent *= 1 - marked;
    if (last < 0) return -1; /* nothing else can happen */
    passed /= 1 - marked;
    for (int i = 0; i < last; i++) {
        if (mark[c.what[i]]) continue;
        if (u < passed * c.p[i]) return c.what[i];
        u -= passed * c.p[i];
    }
    return c.what[last];
}

int oracle_level_draw(const OracleState *s, int lab, double u, double *p) {
    double level[ORACLE_LEVELS];
    oracle_levels(s, lab, level);
    int k = 0;
    while (k < ORACLE_LEVELS - 1 && u >= level[k]) u -= level[k++];
    *p = level[k];
    return k + 1;
}

/* ---- randomness ---------------------------------------------------------------------------------------------------- */

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
