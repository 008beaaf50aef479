/* diagnose_walk.c - see diagnose_walk.h. */
#include "infer/diagnose_walk.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Encounter e;
    int64_t at;         /* its first row */
    uint8_t *asked;     /* (n_test) */
    int step, n_asked, last, recorded; /* rows so far; tests asked for; id of the last one and its answer */
    double cost, minutes;
    Belief belief, fallback;
} Walk;

typedef struct {
    const DiagnosisCodes *c;
    const WalkOptions *o;
    Dataset *d;
    Diagnoser *g;
    WalkReport *report;
    Belief truth;
    uint64_t *key;
    int64_t *row, *opening, *step, *asked, *recorded, *named, *right, *n_new, *n_recorded, *common, *common_right;
    double *cost, *minutes, *next_p, *confidence, *fit, *recorded_cost, *recorded_minutes, *truth_named, *truth_best;
} Run;

/* ---- which encounters -------------------------------------------------------------------------------------------- */

static int believes(const Run *r, const Encounter *e, const uint8_t *asked, Belief *out) {
    return oracle_believes(r->o->oracle, r->d, r->c, e, asked, r->o->oracle_samples, r->o->d.seed, out);
}

/* One of the patient's encounters in which a new diagnosis follows a test, each as likely as the others; 0: none. */
static int choose(Run *r, const PatientView *p, Encounter *e, const uint8_t *nothing) {
    int n = 0, wanted = -1;
    for (int pass = 0; pass < 2; pass++) {
        int k = 0;
        for (int64_t at = 0; encounter_next(r->c, p, at, e); at = e->end) {
            if (!e->n_fresh || (r->o->by_generator && !believes(r, e, nothing, &r->truth))) continue;
            if (k++ == wanted) return 1;
        }
        if (!(n = k)) return 0;
        wanted = (int)(philox_uniform(philox4x32(r->o->d.seed, p->key, philox_hash("encounter")), 0) * n);
    }
    return 0;
}

static Status choose_all(Run *r, Walk **out, int64_t *n, Err *err) {
    int64_t patients = r->d->n_patients[r->o->split], room = 0;
    uint8_t *nothing = xcalloc((size_t)r->c->n_test + 1, 1);
    Encounter e;
    Status st = OK;
    *n = 0;
    *out = NULL;
    encounter_init(&e, r->c);
    for (int64_t i = 0; !st && i < patients && *n < r->o->limit; i++) {
        PatientView p;
        if ((st = dataset_patient(r->d, r->o->split, i, &p, err))) break;
        r->report->looked_at++;
        if (!choose(r, &p, &e, nothing)) continue;
        if (*n == room) *out = xrealloc(*out, (size_t)(room = room ? 2 * room : 64) * sizeof **out);
        Walk *w = &(*out)[(*n)++];
        *w = (Walk){.e = e, .last = -1, .asked = xcalloc((size_t)r->c->n_test + 1, 1)};
        encounter_init(&e, r->c);
    }
    r->report->eligible = *n;
    encounter_free(&e);
    free(nothing);
    return st;
}

/* ---- one row ----------------------------------------------------------------------------------------------------- */

static int next_test(const Run *r, const Walk *w) {
    int best = -1;
    double most = -1;
    for (int t = 0; t < r->c->n_test; t++) {
        /* Beliefs that are equal, of tests that were never drawn, leave it to how usual a test is. */
        double x = r->o->ask == ASK_USUAL ? r->c->usual[t] : w->belief.test[t] + 1e-9 * r->c->usual[t];
        if (w->asked[t] || x <= most) continue;
        most = x;
        best = t;
    }
    return best;
}

static int name_one(const Run *r, const Walk *w, const double *p) {
    int best = -1;
    for (int x = 0; x < r->c->n_dx; x++)
        if (!w->e.had[x] && (best < 0 || p[x] > p[best])) best = x;
    return best;
}

static double given_any(double p, double any) { return any > 0 ? fmin(1, p / any) : 0; }

static void row_write(Run *r, Walk *w, int64_t at) {
    const DiagnosisCodes *c = r->c;
    int named = name_one(r, w, w->belief.dx), common = name_one(r, w, c->common), next = next_test(r, w);
    r->key[at] = w->e.patient.key;
    r->row[at] = w->e.patient.row;
    r->opening[at] = w->e.opening;
    r->step[at] = w->n_asked;
    r->cost[at] = w->cost;
    r->minutes[at] = w->minutes;
    r->asked[at] = w->last;
    r->recorded[at] = w->recorded;
    r->next_p[at] = next < 0 ? NAN : fmin(1, w->belief.test[next]);
    r->named[at] = c->dx_id[named];
    r->confidence[at] = given_any(w->belief.dx[named], w->belief.any);
    r->right[at] = w->e.fresh[named];
    r->fit[at] = w->belief.fit;
    r->n_new[at] = w->e.n_fresh;
    r->n_recorded[at] = w->e.n_recorded;
    r->common[at] = c->dx_id[common];
    r->common_right[at] = w->e.fresh[common];
    for (int t = 0; t < c->n_test; t++) {
        if (w->e.result[t] < 0) continue;
        r->recorded_cost[at] += c->price[t];
        r->recorded_minutes[at] = fmax(r->recorded_minutes[at], c->minutes[t]);
    }
    if (!r->truth_named) return;
    r->truth_named[at] = r->truth_best[at] = NAN;
    if (!believes(r, &w->e, w->asked, &r->truth)) return;
    r->truth_named[at] = given_any(r->truth.dx[named], r->truth.any);
    r->truth_best[at] = given_any(r->truth.dx[name_one(r, w, r->truth.dx)], r->truth.any);
}

static void ask(const Run *r, Walk *w, int t) {
    w->asked[t] = 1;
    w->n_asked++;
    w->cost += r->c->price[t];
    w->minutes += r->c->minutes[t];
    w->last = r->c->test_id[t];
    w->recorded = w->e.result[t] >= 0;
}

/* All that are left, at once. */
static void ask_rest(const Run *r, Walk *w) {
    double wait = 0;
    int found = 0;
    for (int t = 0; t < r->c->n_test; t++) {
        if (w->asked[t]) continue;
        double before = w->minutes;
        ask(r, w, t);
        w->minutes = before;
        wait = fmax(wait, r->c->minutes[t]);
        found += w->recorded;
    }
    w->minutes += wait;
    w->last = -2;
    w->recorded = found;
}

/* ---- walking ----------------------------------------------------------------------------------------------------- */

/* Beliefs of walks w (n) at their present step; where no course is consistent with the answers the last ones stand. */
static Status believe(Run *r, Walk *w, int n, Err *err) {
    if (r->o->by_generator) {
        for (int i = 0; i < n; i++) believes(r, &w[i].e, w[i].asked, &w[i].belief);
        return OK;
    }
    const uint8_t **asked = xcalloc((size_t)n, sizeof(uint8_t *));
    Belief *belief = xcalloc((size_t)n, sizeof *belief);
    for (int i = 0; i < n; i++) {
        asked[i] = w[i].asked;
        belief[i] = w[i].fallback;
    }
    Status st = diagnoser_ask(r->g, asked, belief, err);
    for (int i = 0; !st && i < n; i++) {
        w[i].fallback = belief[i];
        if (belief[i].fit > 0 || !w[i].step) {
            w[i].fallback = w[i].belief;
            w[i].belief = belief[i];
        } else w[i].belief.fit = 0;
        r->report->unfit += !(belief[i].fit > 0);
    }
    free(asked);
    free(belief);
    return st;
}

static Status walk_together(Run *r, Walk *w, int n, int rows, Err *err) {
    const Encounter **e = xcalloc((size_t)n, sizeof(Encounter *));
    Status st = OK;
    for (int i = 0; i < n; i++) {
        e[i] = &w[i].e;
        belief_init(&w[i].belief, r->c);
        belief_init(&w[i].fallback, r->c);
    }
    if (!r->o->by_generator) st = diagnoser_load(r->g, e, n, err);
    for (int s = 0; !st && s < rows; s++) {
        if ((st = believe(r, w, n, err))) break;
        for (int i = 0; i < n; i++) {
            row_write(r, &w[i], w[i].at + s);
            w[i].step = s + 1;
            if (s < r->o->max_asks) {
                int t = next_test(r, &w[i]);
                if (t >= 0) ask(r, &w[i], t);
            } else ask_rest(r, &w[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        belief_free(&w[i].belief);
        belief_free(&w[i].fallback);
    }
    free(e);
    return st;
}

static void columns_add(Run *r, Table *t) {
    r->key = table_add(t, "patient_key", COLUMN_U64);
    struct {
        int64_t **at;
        const char *name;
    } whole[] = {{&r->row, "patient_row"}, {&r->opening, "opening"}, {&r->step, "step"}, {&r->asked, "asked"}, {&r->recorded, "recorded"},
                 {&r->named, "named"}, {&r->right, "right"}, {&r->n_new, "n_new"}, {&r->n_recorded, "n_recorded"}, {&r->common, "common"},
                 {&r->common_right, "common_right"}};
    struct {
        double **at;
        const char *name;
    } real[] = {{&r->cost, "cost"}, {&r->minutes, "minutes"}, {&r->next_p, "next_p"}, {&r->confidence, "confidence"}, {&r->fit, "fit"},
                {&r->recorded_cost, "recorded_cost"}, {&r->recorded_minutes, "recorded_minutes"}, {&r->truth_named, "truth_named"},
                {&r->truth_best, "truth_best"}};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) *whole[i].at = table_add(t, whole[i].name, COLUMN_I64);
    size_t n = sizeof real / sizeof *real - (r->o->oracle ? 0 : 2);
    for (size_t i = 0; i < n; i++) *real[i].at = table_add(t, real[i].name, COLUMN_F64);
}

Status diagnose_walk(const Law *law, Dataset *d, const DiagnosisCodes *c, const WalkOptions *o, FILE *progress, Table *out,
                     WalkReport *report, Err *err) {
    Run r = {.c = c, .o = o, .d = d, .report = report};
    Walk *walk = NULL;
    int64_t n = 0;
    int rows = o->max_asks < c->n_test ? o->max_asks + 2 : c->n_test + 1;
    *report = (WalkReport){0};
    table_init(out, 0);
    belief_init(&r.truth, c);
    Status st = choose_all(&r, &walk, &n, err);
    if (!st && !n)
        st = err_set(err, ERR_USAGE, "none of %lld patients of the %s split has an encounter in which a new diagnosis follows a test",
                     (long long)report->looked_at, split_name(o->split));
    if (!st) {
        table_init(out, n * rows);
        columns_add(&r, out);
        for (int64_t i = 0; i < n; i++) walk[i].at = i * rows;
        if (!o->by_generator) st = diagnoser_open(&r.g, law, &d->vocabulary, c, &o->d, err);
    }
    int width = r.g ? diagnoser_width(r.g) : 64;
    Progress p;
    progress_open(&p, progress, "diagnose", "encounters", n);
    for (int64_t at = 0; !st && at < n; at += width) {
        int some = n - at < width ? (int)(n - at) : width;
        st = walk_together(&r, walk + at, some, rows, err);
        progress_update(&p, at + some);
    }
    progress_close(&p, n);
    report->encounters = n;
    report->tokens = r.g ? diagnoser_tokens(r.g) : 0;
    diagnoser_close(r.g);
    for (int64_t i = 0; i < n; i++) {
        encounter_free(&walk[i].e);
        free(walk[i].asked);
    }
    free(walk);
    belief_free(&r.truth);
    if (st) table_free(out);
    return st;
}
