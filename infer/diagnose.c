/* diagnose.c - see diagnose.h: simulated courses of encounters, their weights, and what they come to. */
#include "infer/diagnose.h"
#include "infer/decode_pass.h"
#include "infer/rollout_window.h"
#include "kernels/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const Encounter *e;
    RolloutWindow window;
    KvSequence kv;
    float *logits; /* (Vp) after the opening */
} Opened;

typedef struct {
    int live, opened, sample;
    int n, length;        /* tokens drawn; tokens in its cache, prefix included */
    int32_t *token;       /* (max_tokens) drawn; the last one is pending until decoded */
    int unplaced;         /* revealed results that are still to come */
    int any_test, found;  /* a test has come; a diagnosis that the record did not have */
    uint8_t *placed;      /* (n_test) revealed results that have come */
    uint8_t *seen;        /* (n_test + n_dx) codes drawn */
    double *dx, any;      /* (n_dx) sums of weight times the law's probability up to the first occurrence */
    double weight;        /* so far; 0: inconsistent */
    KvSequence kv;
} Course;

struct Diagnoser {
    const Law *law;
    const Vocabulary *v;
    const DiagnosisCodes *c;
    DiagnoseOptions o;
    int width, n_opened, n_courses, Vp, max_blocks, max_rows;
    int64_t tokens;
    Opened *opened;               /* (width) */
    Course *course;               /* (n_courses) those of one encounter side by side */
    const uint8_t *const *asked;  /* (n_opened) during diagnoser_ask */
    uint8_t *forbidden, *blocked; /* (V), (n_test) */
    double *p, *mass;             /* (V), (n_test) */
    float *logits;                /* (n_courses, Vp) */
    int *order;                   /* (n_courses) live courses */
    DecodeRow *row;               /* (n_courses) of a pass */
    int32_t *group_offset, *group_shared; /* (n_courses + 1) */
    KvCache cache;
    Acts *acts;
    float *d_logits;
    DecodePass pass;
};

void belief_init(Belief *b, const DiagnosisCodes *c) {
    *b = (Belief){.test = xcalloc((size_t)c->n_test + 1, sizeof *b->test), .dx = xcalloc((size_t)c->n_dx + 1, sizeof *b->dx)};
}

void belief_free(Belief *b) {
    free(b->test);
    free(b->dx);
    *b = (Belief){0};
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static Status open_device(Diagnoser *g, Err *err) {
    Model *m = g->law->model;
    g->d_logits = device_alloc(m->dev, (size_t)g->n_courses * (size_t)g->Vp * sizeof(float));
    if (!g->d_logits)
        return err_set(err, ERR_NOMEM, "%s has no memory for %d courses at a time: use a smaller --batch", device_name(m->dev), g->n_courses);
    int own = (g->o.max_tokens + KV_PAGE - 1) / KV_PAGE + 2;
    Status st = acts_open(&g->acts, m, g->max_rows, 0, RECOMPUTE_NONE, err);
    if (!st) st = kv_cache_open(&g->cache, m, g->width * (g->max_blocks + 1) + g->n_courses * own, err);
    size_t extra = decode_pass_aligned(sizeof(int32_t)); /* the row whose logits are wanted */
    return st ? st : decode_pass_open(&g->pass, m, g->acts, &g->cache, g->max_rows, g->n_courses, g->max_blocks, extra, err);
}

Status diagnoser_open(Diagnoser **out, const Law *law, const Vocabulary *v, const DiagnosisCodes *c, const DiagnoseOptions *o,
                      Err *err) {
    Diagnoser *g = *out = xcalloc(1, sizeof *g);
    *g = (Diagnoser){.law = law, .v = v, .c = c, .o = *o};
    g->width = o->batch / o->samples > 0 ? o->batch / o->samples : 1;
    g->n_courses = g->width * o->samples;
    g->Vp = law->model ? law->model->cfg.vocab_padded : v->n;
    g->max_blocks = (law->seq_len + KV_PAGE - 1) / KV_PAGE;
    g->max_rows = law->model && law->seq_len > g->n_courses ? law->seq_len : g->n_courses;
    size_t T = (size_t)c->n_test, D = (size_t)c->n_dx;
    g->opened = xcalloc((size_t)g->width, sizeof *g->opened);
    g->course = xcalloc((size_t)g->n_courses, sizeof *g->course);
    g->order = xcalloc((size_t)g->n_courses, sizeof *g->order);
    g->row = xcalloc((size_t)g->n_courses, sizeof *g->row);
    g->group_offset = xcalloc((size_t)g->n_courses + 1, sizeof *g->group_offset);
    g->group_shared = xcalloc((size_t)g->n_courses + 1, sizeof *g->group_shared);
    g->forbidden = xcalloc((size_t)v->n, 1);
    g->blocked = xcalloc(T + 1, 1);
    g->p = xcalloc((size_t)v->n, sizeof *g->p);
    g->mass = xcalloc(T + 1, sizeof *g->mass);
    g->logits = xcalloc((size_t)g->n_courses * (size_t)g->Vp, sizeof *g->logits);
    vocabulary_forbidden(v, g->forbidden);
    for (int i = 0; i < g->width; i++) g->opened[i].logits = xcalloc((size_t)g->Vp, sizeof(float));
    for (int i = 0; i < g->n_courses; i++) {
        Course *k = &g->course[i];
        k->token = xcalloc((size_t)o->max_tokens + 1, sizeof *k->token);
        k->placed = xcalloc(T + 1, 1);
        k->seen = xcalloc(T + D + 1, 1);
        k->dx = xcalloc(D + 1, sizeof *k->dx);
    }
    return law->model ? open_device(g, err) : OK;
}

void diagnoser_close(Diagnoser *g) {
    if (!g) return;
    for (int i = 0; i < g->width; i++) {
        rollout_window_free(&g->opened[i].window);
        kv_sequence_free(&g->opened[i].kv);
        free(g->opened[i].logits);
    }
    for (int i = 0; i < g->n_courses; i++) {
        Course *k = &g->course[i];
        void *own[] = {k->token, k->placed, k->seen, k->dx};
        for (size_t j = 0; j < sizeof own / sizeof *own; j++) free(own[j]);
        kv_sequence_free(&k->kv);
    }
    if (g->law->model) {
        decode_pass_close(&g->pass);
        device_free(g->law->model->dev, g->d_logits);
        if (g->acts) acts_close(g->acts);
        kv_cache_close(&g->cache);
    }
    void *all[] = {g->opened, g->course, g->order, g->forbidden, g->blocked, g->p, g->mass, g->logits, g->row, g->group_offset, g->group_shared, g};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

int diagnoser_width(const Diagnoser *g) { return g->width; }
int64_t diagnoser_tokens(const Diagnoser *g) { return g->tokens; }

/* ---- the model's passes ------------------------------------------------------------------------------------------ */

static Status logits_take(Diagnoser *g, float *out, int n, Err *err) {
    const Model *m = g->law->model;
    device_download(m->dev, out, g->d_logits, (size_t)n * (size_t)g->Vp * sizeof *out);
    return device_error(m->dev) ? err_set(err, ERR_DEVICE, "diagnose: %s", device_error(m->dev)) : OK;
}

static Status opened_prefill(Diagnoser *g, Opened *o, Err *err) {
    if (!g->law->model) {
        g->law->logits(g->law->ctx, o->window.token, o->window.n, o->logits);
        return OK;
    }
    const int32_t offset[] = {0, 1}, shared = 0, last = o->window.n - 1;
    const DecodeRow row = {&o->kv, o->window.token, o->window.n};
    int32_t *d_row;
    Status st = decode_pass_lay(&g->pass, &row, 1, offset, &shared, 1, err);
    if (st) return st;
    decode_pass_copy(&g->pass, &last, 1, sizeof last, &d_row);
    decode_pass_run(&g->pass);
    model_logits(g->law->model, g->acts, g->d_logits, d_row, 1);
    return logits_take(g, o->logits, 1, err);
}

/* One token of every live course: logits (row i: course order[i]). */
static Status courses_decode(Diagnoser *g, int n, Err *err) {
    if (!g->law->model) {
        for (int i = 0; i < n; i++) {
            const Course *k = &g->course[g->order[i]];
            const RolloutWindow *w = &g->opened[k->opened].window;
            int32_t *all = xmalloc((size_t)(w->n + k->n) * sizeof *all);
            memcpy(all, w->token, (size_t)w->n * sizeof *all);
            memcpy(all + w->n, k->token, (size_t)k->n * sizeof *all);
            g->law->logits(g->law->ctx, all, w->n + k->n, g->logits + (size_t)i * (size_t)g->Vp);
            free(all);
        }
        return OK;
    }
    int groups = 0;
    for (int i = 0; i < n; i++) {
        Course *k = &g->course[g->order[i]];
        g->row[i] = (DecodeRow){&k->kv, k->token + k->n - 1, 1};
        if (i && g->course[g->order[i - 1]].opened == k->opened) continue;
        g->group_offset[groups] = i;
        g->group_shared[groups++] = g->opened[k->opened].kv.len / KV_PAGE;
    }
    g->group_offset[groups] = n;
    Status st = decode_step_lay(&g->pass, g->row, n, g->group_offset, g->group_shared, groups, err);
    if (st) return st;
    decode_step_run(&g->pass, g->d_logits);
    return logits_take(g, g->logits, n, err);
}

/* ---- one token of a course --------------------------------------------------------------------------------------- */

/* What may come next: nothing of a code that was asked for but its revealed result, nothing but tests until those results
 * and at least one test have come (the opening ends where a test follows), and no test that never comes before one of
 * those that are still to come. */
enum { CLOSED, OPEN, PLACE };

/* A factor that every consistent course gets once a result, so that many of them do not take weights out of range. */
static const double PLACED = 100;

static int token_class(const Diagnoser *g, const Course *k, int id) {
    int t = g->c->test[id];
    if (g->forbidden[id]) return CLOSED;
    if (t < 0) return !k->unplaced && k->any_test ? OPEN : CLOSED;
    if (g->blocked[t]) return CLOSED;
    if (!g->asked[k->opened][t]) return OPEN;
    return g->opened[k->opened].e->result[t] == id && !k->placed[t] ? PLACE : CLOSED;
}

static int to_come(const Diagnoser *g, const Course *k, int t) {
    return g->asked[k->opened][t] && g->opened[k->opened].e->result[t] >= 0 && !k->placed[t];
}

static void block_tests(Diagnoser *g, const Course *k) {
    const DiagnosisCodes *c = g->c;
    memset(g->blocked, 0, (size_t)c->n_test);
    for (int r = 0; k->unplaced && r < c->n_test; r++)
        for (int t = 0; to_come(g, k, r) && t < c->n_test; t++)
            g->blocked[t] |= t != r && c->never_before[(size_t)t * (size_t)c->n_test + (size_t)r];
}

/* p: the law's probabilities, 0 where forbidden; mass: of each test, over its levels. */
static void probabilities(Diagnoser *g, const float *logits) {
    double max = -INFINITY, all = 0;
    for (int id = 0; id < g->v->n; id++)
        if (!g->forbidden[id] && logits[id] > max) max = logits[id];
    for (int id = 0; id < g->v->n; id++) all += g->p[id] = g->forbidden[id] ? 0 : exp(logits[id] - max);
    memset(g->mass, 0, (size_t)g->c->n_test * sizeof *g->mass);
    for (int id = 0; id < g->v->n; id++) {
        g->p[id] /= all;
        if (g->c->test[id] >= 0) g->mass[g->c->test[id]] += g->p[id];
    }
}

/* A diagnosis gets what the law gives it here, times the weight that the course has so far: nothing that is forced comes
 * after a diagnosis, so that this is its part of the probability whatever is drawn. */
static void diagnosis_add(Diagnoser *g, Course *k, int id) {
    int d = g->c->dx[id];
    if (d < 0) return;
    if (!k->seen[g->c->n_test + d]) k->dx[d] += k->weight * g->p[id];
    if (!k->found && !g->opened[k->opened].e->had[d]) k->any += k->weight * g->p[id];
}

static void token_take(Diagnoser *g, Course *k, int id) {
    int t = g->c->test[id], d = g->c->dx[id];
    k->token[k->n++] = id;
    k->length++;
    g->tokens++;
    if (t >= 0) {
        k->any_test = 1;
        k->seen[t] = 1;
        if (to_come(g, k, t)) {
            k->placed[t] = 1;
            k->unplaced--;
        }
    }
    if (d >= 0) {
        k->seen[g->c->n_test + d] = 1;
        k->found |= !g->opened[k->opened].e->had[d];
    }
    k->live = !g->c->ends[id] && k->n < g->o.max_tokens && (!g->law->model || k->length < g->law->seq_len);
    if (!k->live && k->unplaced) k->weight = 0;
}

static double course_uniform(const Diagnoser *g, const Course *k) {
    const Encounter *e = g->opened[k->opened].e;
    uint64_t stream = philox_mix(philox_mix(g->o.seed, e->patient.key), (uint64_t)e->opening);
    return philox_uniform(philox4x32(stream, (uint64_t)k->sample << 32 | (uint32_t)k->n, philox_hash("diagnose")), 0);
}

static void course_fail(Course *k) {
    k->live = 0;
    k->weight = 0;
}

static void course_advance(Diagnoser *g, Course *k, const float *logits) {
    const int V = g->v->n;
    double open = 0, place = 0, u = course_uniform(g, k), at = 0, taken = 0;
    block_tests(g, k);
    probabilities(g, logits);
    for (int id = 0; id < V; id++) {
        int class = token_class(g, k, id);
        if (class == OPEN) open += g->p[id];
        if (class == PLACE) place += g->mass[g->c->test[id]];
    }
    /* While results are still to come, they have all that the law does not give to tests that may come before them. */
    double rest = place > 0 ? 1 - open : 0, scale = place > 0 ? 1 : open;
    int drawn = -1;
    if (rest < 0) rest = 0;
    if (!(scale > 0)) {
        course_fail(k);
        return;
    }
    for (int id = 0; id < V; id++) {
        int class = token_class(g, k, id);
        double p = class == OPEN    ? g->p[id] / scale
                   : class == PLACE && place > 0 ? rest * g->mass[g->c->test[id]] / place
                                                 : 0;
        if (class == OPEN) diagnosis_add(g, k, id);
        if (p <= 0) continue;
        if (drawn < 0 || at <= u) {
            drawn = id;
            taken = p;
        }
        at += p;
    }
    if (drawn < 0 || g->p[drawn] <= 0) {
        course_fail(k);
        return;
    }
    k->weight *= g->p[drawn] / taken;
    if (token_class(g, k, drawn) == PLACE) k->weight *= PLACED;
    token_take(g, k, drawn);
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

Status diagnoser_load(Diagnoser *g, const Encounter *const *e, int n, Err *err) {
    REQUIRE(n <= g->width);
    const RolloutOptions none = {0};
    for (int i = 0; i < g->n_opened && g->law->model; i++) kv_sequence_release(&g->cache, &g->opened[i].kv);
    g->n_opened = 0;
    for (int i = 0; i < n; i++) {
        Opened *o = &g->opened[i];
        o->e = e[i];
        rollout_window_free(&o->window);
        RolloutJob job = {.patient = e[i]->patient, .n_known = e[i]->opening};
        job.index_minutes = job.n_known ? job.patient.minutes[job.n_known - 1] : 0;
        rollout_window(g->v, &none, g->law->seq_len, &job, &o->window);
        g->n_opened = i + 1;
        Status st = opened_prefill(g, o, err);
        if (st) return st;
    }
    return OK;
}

static Status course_start(Diagnoser *g, Course *k, int opened, int sample, Err *err) {
    size_t T = (size_t)g->c->n_test, D = (size_t)g->c->n_dx;
    const Opened *o = &g->opened[opened];
    k->live = 1;
    k->opened = opened;
    k->sample = sample;
    k->n = k->unplaced = k->any_test = k->found = 0;
    k->length = o->window.n;
    k->any = 0;
    k->weight = 1;
    memset(k->placed, 0, T);
    memset(k->seen, 0, T + D);
    memset(k->dx, 0, D * sizeof *k->dx);
    for (int t = 0; t < g->c->n_test; t++) k->unplaced += to_come(g, k, t);
    if (g->law->model && !kv_sequence_fork(&g->cache, &k->kv, &o->kv))
        return err_set(err, ERR_NOMEM, "the key-value cache is full: use a smaller --batch");
    return OK;
}

static void belief_take(const Diagnoser *g, const Course *k, Belief *b) {
    double sum = 0, squares = 0;
    int T = g->c->n_test, D = g->c->n_dx;
    b->fit = b->any = 0;
    memset(b->test, 0, (size_t)T * sizeof *b->test);
    memset(b->dx, 0, (size_t)D * sizeof *b->dx);
    for (int i = 0; i < g->o.samples; i++) {
        sum += k[i].weight;
        squares += k[i].weight * k[i].weight;
        b->any += k[i].any;
        for (int t = 0; t < T; t++) b->test[t] += k[i].weight * k[i].seen[t];
        for (int d = 0; d < D; d++) b->dx[d] += k[i].dx[d];
    }
    if (!(sum > 0)) return;
    b->any /= sum;
    for (int t = 0; t < T; t++) b->test[t] /= sum;
    for (int d = 0; d < D; d++) b->dx[d] /= sum;
    b->fit = sum * sum / squares;
}

Status diagnoser_ask(Diagnoser *g, const uint8_t *const *asked, Belief *belief, Err *err) {
    Status st = OK;
    int started = 0;
    g->asked = asked;
    for (int i = 0; i < g->n_opened; i++)
        for (int s = 0; !st && asked[i] && s < g->o.samples; s++) {
            Course *k = &g->course[started++];
            if (!(st = course_start(g, k, i, s, err))) course_advance(g, k, g->opened[i].logits);
        }
    while (!st) {
        int n = 0;
        for (int i = 0; i < started; i++)
            if (g->course[i].live) g->order[n++] = i;
        if (!n) break;
        st = courses_decode(g, n, err);
        for (int i = 0; !st && i < n; i++) course_advance(g, &g->course[g->order[i]], g->logits + (size_t)i * (size_t)g->Vp);
    }
    for (int i = 0, at = 0; i < g->n_opened; i++) {
        if (!asked[i] || at >= started) continue;
        if (!st) belief_take(g, &g->course[at], &belief[i]);
        at += g->o.samples;
    }
    for (int i = 0; g->law->model && i < started; i++) kv_sequence_release(&g->cache, &g->course[i].kv);
    return st;
}

/* ---- the generator in place of a model --------------------------------------------------------------------------- */

int oracle_believes(const OracleLaw *law, const Dataset *d, const DiagnosisCodes *c, const Encounter *e, const uint8_t *asked,
                    int samples, uint64_t seed, Belief *out) {
    OracleCursor cursor;
    OracleVisit visit;
    Err err = {OK, ""};
    int32_t prefix[16];
    int answer[ORACLE_LABS];
    uint32_t had = 0;
    oracle_law_start(&cursor);
    for (int i = 0, n = dataset_prefix(d, &e->patient, 0, prefix, 16); i < n; i++)
        if (oracle_law_feed(law, &cursor, prefix[i], &err)) return 0;
    for (int64_t i = 0; i < e->opening; i++)
        if (oracle_law_feed(law, &cursor, (int)patient_token(&e->patient, i), &err)) return 0;
    for (int j = 0; j < ORACLE_LABS; j++) answer[j] = ORACLE_ANSWER_NONE;
    for (int t = 0; t < c->n_test; t++) {
        int what = law->what[c->test_id[t]];
        if (what < 0 || !oracle_is_lab(what)) return 0;
        if (asked[t]) answer[what - ORACLE_LAB] = e->result[t] < 0 ? ORACLE_ANSWER_ABSENT : law->level[e->result[t]];
    }
    for (int x = 0; x < c->n_dx; x++) {
        int what = law->what[c->dx_id[x]];
        if (e->had[x] && what >= ORACLE_CHRONIC_DX && what < ORACLE_ACUTE_DX) had |= 1u << (what - ORACLE_CHRONIC_DX);
    }
    uint64_t key = philox_mix(philox_mix(seed, e->patient.key), (uint64_t)e->opening);
    if (!oracle_visit(&cursor.state, answer, had, samples, key, &visit)) return 0;
    for (int t = 0; t < c->n_test; t++) out->test[t] = visit.p[law->what[c->test_id[t]]];
    for (int x = 0; x < c->n_dx; x++) out->dx[x] = law->what[c->dx_id[x]] < 0 ? 0 : visit.p[law->what[c->dx_id[x]]];
    out->any = visit.any;
    out->fit = samples;
    return 1;
}
