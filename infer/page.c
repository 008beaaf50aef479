/* page.c - see page.h. */
#include "infer/page.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 1080, LEFT = 150, RIGHT = 20, LANE = 22, FUTURE = 13, CURVE_HEIGHT = 210, POINTS = 240 };
#define YEAR_MINUTES 525960.0

/* What a kind of event looks like. */
typedef struct {
    const char *name, *color;
} Look;
static const Look look[KIND_COUNT] = {
    [KIND_STATIC] = {"static", "#999999"},        [KIND_BIRTH] = {"birth", "#999999"},
    [KIND_VISIT_START] = {"visits", "#8a94a0"},   [KIND_TRANSFER] = {"intensive care", "#cc79a7"},
    [KIND_LAB] = {"measurements", "#56b4e9"},     [KIND_DIAGNOSIS] = {"diagnoses", "#d55e00"},
    [KIND_PROCEDURE] = {"procedures", "#0072b2"}, [KIND_DRUG] = {"drugs", "#009e73"},
    [KIND_OTHER] = {"other", "#b0a080"},          [KIND_VISIT_END] = {"visits", "#8a94a0"},
    [KIND_DEATH] = {"death", "#000000"},
};
static const int lane_kind[] = {KIND_VISIT_START, KIND_TRANSFER, KIND_DIAGNOSIS, KIND_PROCEDURE,
                                KIND_DRUG,        KIND_LAB,      KIND_OTHER};
enum { LANES = sizeof lane_kind / sizeof *lane_kind };

static void put_text(FILE *out, const char *text) {
    for (; *text; text++) {
        if (*text == '&') fputs("&amp;", out);
        else if (*text == '<') fputs("&lt;", out);
        else if (*text == '>') fputs("&gt;", out);
        else if (*text == '"') fputs("&quot;", out);
        else if ((unsigned char)*text >= 32) fputc(*text, out);
    }
}

static int is_gap(const Vocabulary *v, int id) { return id >= v->gap_lo && id < v->gap_lo + GAP_TOKENS; }

static int is_stay(const char *code) {
    return !strncmp(code, "VISIT//IP", 9) || !strncmp(code, "VISIT//IN", 9) || !strncmp(code, "VISIT//ERIP", 11);
}

/* Every mark says what it is when pointed at. */
static void put_title(const Page *p, FILE *out, int id, double minutes) {
    char what[256], when[48];
    vocabulary_describe(&p->s->dataset.vocabulary, id, what, sizeof what);
    minutes_text(minutes, when, sizeof when);
    fputs("<title>", out);
    put_text(out, when);
    fputs("  ", out);
    put_text(out, what);
    fputs("</title>", out);
}

static void put_mark(const Page *p, FILE *out, int id, double x, double y, double size, double minutes) {
    const VocabToken *t = &p->s->dataset.vocabulary.token[id];
    int kind = t->event_kind;
    if (kind < 0 || kind == KIND_VISIT_END || kind == KIND_STATIC || kind == KIND_BIRTH) return;
    if (p->mark[id])
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"none\" stroke=\"#c00\" stroke-width=\"1.4\"/>",
                x, y, size + 2.4);
    if (kind == KIND_DEATH) {
        fprintf(out, "<path d=\"M%.1f %.1fl%.1f %.1fm0 %.1fl%.1f %.1f\" stroke=\"#000\" stroke-width=\"2\">", x - size,
                y - size, 2 * size, 2 * size, -2 * size, -2 * size, 2 * size);
    } else if (kind == KIND_VISIT_START && is_stay(t->code)) {
        fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#e69f00\">", x - size, y - size,
                2 * size, 2 * size);
        put_title(p, out, id, minutes);
        fputs("</rect>", out);
        return;
    } else {
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\">", x, y,
                kind == KIND_LAB ? size * 0.6 : size * 0.8, look[kind].color);
    }
    put_title(p, out, id, minutes);
    fputs(kind == KIND_DEATH ? "</path>" : "</circle>", out);
}

/* ---- axes
 * -------------------------------------------------------------------------------------------------------------*/

static double scale(double t, double from, double to) {
    return LEFT + (t - from) / (to > from ? to - from : 1) * (WIDTH - LEFT - RIGHT);
}

/* A step of 1, 2 or 5 times a power of ten, about `wanted` of them. */
static double nice_step(double range, int wanted) {
    double raw = range / wanted, power = pow(10, floor(log10(raw > 0 ? raw : 1))), m = raw / power;
    return power * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

static void put_axis(FILE *out, double from, double to, double unit, double offset, double y, const char *label) {
    double step = nice_step((to - from) / unit, 8);
    fprintf(out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" class=\"axis\"/>", LEFT, y, WIDTH - RIGHT, y);
    for (double v = ceil((from / unit + offset) / step) * step; v <= to / unit + offset + 1e-9; v += step) {
        double x = scale((v - offset) * unit, from, to);
        fprintf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"axis\"/>", x, y, x, y + 4);
        fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"tick\" text-anchor=\"middle\">%g</text>", x, y + 16, v);
    }
    fprintf(out, "<text x=\"%d\" y=\"%.1f\" class=\"tick\" text-anchor=\"end\">%s</text>\n", LEFT - 26, y + 16, label);
}

/* ---- the record
 * ---------------------------------------------------------------------------------------------------------*/

static int lane_of(int kind) {
    for (int i = 0; i < LANES; i++)
        if (lane_kind[i] == kind) return i;
    return kind == KIND_DEATH ? 0 : -1;
}

static void put_record(const Page *p, FILE *out) {
    const Vocabulary *v = &p->s->dataset.vocabulary;
    const PatientView *r = &p->job->patient;
    int used[LANES] = {0}, row[LANES], rows = 0;
    for (int64_t i = 0; i < p->job->n_known; i++) {
        int lane = lane_of(v->token[patient_token(r, i)].event_kind);
        if (lane >= 0) used[lane] = 1;
    }
    for (int i = 0; i < LANES; i++) row[i] = used[i] ? rows++ : -1;
    double to = p->job->index_minutes > 1440 ? p->job->index_minutes : 1440, bottom = 24 + rows * LANE;
    int known_age = r->age_years != AGE_UNKNOWN;
    fprintf(out, "<h2>Recorded: %lld tokens known at the index time</h2>\n", (long long)p->job->n_known);
    if (!p->job->n_known)
        fprintf(out, "<p>Nothing is known of this patient at the index time but what the prefix tells.</p>\n");
    fprintf(out, "<div class=\"drawn\"><svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"recorded timeline\">\n", WIDTH, bottom + 30);
    for (int i = 0; i < LANES; i++) {
        if (row[i] < 0) continue;
        double y = 24 + row[i] * LANE;
        fprintf(out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" class=\"lane\"/>", LEFT, y, WIDTH - RIGHT, y);
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" class=\"name\" text-anchor=\"end\">%s</text>\n", LEFT - 8, y + 4,
                look[lane_kind[i]].name);
    }
    for (int64_t i = 0; i < p->job->n_known; i++) {
        int id = (int)patient_token(r, i), lane = lane_of(v->token[id].event_kind);
        if (lane < 0 || is_gap(v, id)) continue;
        put_mark(p, out, id, scale(r->minutes[i], 0, to), 24 + row[lane] * LANE, 4.5,
                 r->minutes[i] - (double)p->job->index_minutes);
        if (i % 8 == 7) fputc('\n', out);
    }
    fprintf(out, "<line x1=\"%d\" y1=\"10\" x2=\"%d\" y2=\"%.1f\" class=\"index\"/>\n", WIDTH - RIGHT, WIDTH - RIGHT,
            bottom);
    put_axis(out, 0, to, YEAR_MINUTES, known_age ? r->age_years : 0, bottom, known_age ? "age, about" : "years");
    fprintf(out, "</svg></div>\n");
}

/* ---- futures
 * --------------------------------------------------------------------------------------------------------------*/

/* Events of one visit lie on one spot: shown are visits, intensive care, death, outcomes, and a little above them
 * diagnoses that are new.  told (V): codes of the record and, growing, of this row. */
static void put_future_event(const Page *p, FILE *out, int id, double minutes, double y, uint8_t *told) {
    const Vocabulary *v = &p->s->dataset.vocabulary;
    int kind = v->token[id].event_kind, new = kind == KIND_DIAGNOSIS && !told[id];
    if (is_gap(v, id)) return;
    told[id] = 1;
    if (kind == KIND_VISIT_START || kind == KIND_TRANSFER || kind == KIND_DEATH || p->mark[id] || new)
        put_mark(p, out, id, scale(minutes, 0, p->horizon_minutes), new ? y - 4 : y, 3.2, minutes);
}

static uint8_t *codes_told(const Page *p) {
    uint8_t *told = xcalloc((size_t)p->s->dataset.vocabulary.n, 1);
    for (int64_t i = 0; i < p->job->n_known; i++) told[patient_token(&p->job->patient, i)] = 1;
    return told;
}

static void put_future(const Page *p, FILE *out, const RolloutSample *s, double y, double middle) {
    double end = scale(s->minutes, 0, p->horizon_minutes), bend = LEFT + 26;
    fprintf(out, "<path d=\"M%d %.1fC%.1f %.1f %d %.1f %.1f %.1fL%.1f %.1f\" class=\"future\"/>", LEFT - 60, middle,
            (double)LEFT - 20, middle, LEFT - 20, y, (double)LEFT, y, end > bend ? end : bend, y);
    uint8_t *told = codes_told(p);
    for (int i = 0; i < s->n_tokens; i++) put_future_event(p, out, s->tokens[i], s->token_minutes[i], y, told);
    free(told);
    fputc('\n', out);
}

static void put_futures(const Page *p, FILE *out) {
    const PatientView *r = &p->job->patient;
    int shown = p->n < PAGE_FUTURES_MAX ? p->n : PAGE_FUTURES_MAX, truth = p->job->n_known < r->n;
    double top = 16, middle = top + (shown - 1) * FUTURE / 2.0, bottom = top + shown * FUTURE + (truth ? 22 : 0);
    fprintf(out, "<h2>%d simulated futures", p->n);
    if (shown < p->n) fprintf(out, ", the first %d drawn", shown);
    fprintf(out,
            "</h2>\n<p>Visits, intensive care, death and outcomes; above the line, diagnoses that are new.</p>\n<div "
            "class=\"drawn\"><svg "
            "viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"simulated futures\">\n",
            WIDTH, bottom + 34);
    for (int k = 0; k < shown; k++) put_future(p, out, &p->sample[k], top + k * FUTURE, middle);
    fprintf(out,
            "<circle cx=\"%d\" cy=\"%.1f\" r=\"4\" fill=\"#444\"/><text x=\"%d\" y=\"%.1f\" class=\"name\" "
            "text-anchor=\"end\">index time</text>\n",
            LEFT - 60, middle, LEFT - 70, middle + 4);
    double y = top + shown * FUTURE + 10, seen = p->horizon_minutes;
    if (r->observation_end - (double)p->job->index_minutes < seen)
        seen = r->observation_end - (double)p->job->index_minutes;
    if (truth) {
        if (r->minutes[r->n - 1] - (double)p->job->index_minutes > seen)
            seen = r->minutes[r->n - 1] - (double)p->job->index_minutes;
        if (seen > p->horizon_minutes) seen = p->horizon_minutes;
        fprintf(out,
                "<line x1=\"%d\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"truth\"/><text x=\"%d\" y=\"%.1f\" "
                "class=\"name\" text-anchor=\"end\">"
                "what happened</text>\n",
                LEFT, y, scale(seen, 0, p->horizon_minutes), y, LEFT - 8, y + 4);
    }
    uint8_t *told = codes_told(p);
    for (int64_t i = p->job->n_known; truth && i < r->n; i++) {
        double t = r->minutes[i] - (double)p->job->index_minutes;
        if (t > p->horizon_minutes) break;
        put_future_event(p, out, (int)patient_token(r, i), t, y, told);
    }
    free(told);
    int years = p->horizon_minutes > 3 * YEAR_MINUTES;
    put_axis(out, 0, p->horizon_minutes, years ? YEAR_MINUTES : 1440, 0, bottom + 4,
             years ? "years after" : "days after");
    fprintf(out, "</svg></div>\n");
}

/* ---- risks over time
 * --------------------------------------------------------------------------------------------------------*/

static double first_hit(const Page *p, int o, const RolloutSample *s) {
    for (int i = 0; i < s->n_tokens; i++)
        if (p->mark[s->tokens[i]] >> o & 1) return s->token_minutes[i];
    return INFINITY;
}

RiskEstimate page_risk_by(const Page *p, int o, double t) {
    double *x = xcalloc((size_t)p->n, sizeof *x);
    for (int k = 0; k < p->n; k++) x[k] = first_hit(p, o, &p->sample[k]) <= t;
    RiskEstimate e = risk_estimate(ESTIMATOR_MC, x, p->n, 1);
    free(x);
    return e;
}

static void put_curve(const Page *p, FILE *out, int o) {
    static const char *const color[] = {"#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};
    const char *ink = color[o % 6];
    RiskEstimate *e = xcalloc(POINTS + 1, sizeof *e);
    double most = 0, height = CURVE_HEIGHT - 44;
    for (int i = 0; i <= POINTS; i++) {
        e[i] = page_risk_by(p, o, p->horizon_minutes * i / POINTS);
        if (e[i].hi > most) most = e[i].hi;
    }
    double step = nice_step(most, 4), top = ceil(most / step - 1e-9) * step;
    if (top > 1) top = 1;
#define Y(v) (12 + height * (1 - (v) / top))
    fprintf(out, "<h3>");
    put_text(out, p->outcome[o]);
    fprintf(out, " <span>%.3f by the horizon, 95%% of sampling %.3f to %.3f</span></h3>\n", e[POINTS].risk,
            e[POINTS].lo, e[POINTS].hi);
    fprintf(out, "<div class=\"drawn\"><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"cumulative risk\">\n", WIDTH, CURVE_HEIGHT);
    for (double v = 0; v <= top + 1e-9; v += step)
        fprintf(out,
                "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" class=\"lane\"/><text x=\"%d\" y=\"%.1f\" "
                "class=\"tick\" text-anchor=\"end\">%g</text>\n",
                LEFT, Y(v), WIDTH - RIGHT, Y(v), LEFT - 8, Y(v) + 4, v);
    fprintf(out, "<path fill=\"%s\" fill-opacity=\".18\" d=\"M", ink);
    /* Steps: what is true at a point is so until the next. */
    fprintf(out, "%d %.1f", LEFT, Y(e[0].hi));
    for (int i = 1; i <= POINTS; i++) fprintf(out, "H%.1fV%.1f", scale(i, 0, POINTS), Y(e[i].hi));
    for (int i = POINTS; i > 0; i--) fprintf(out, "V%.1fH%.1f", Y(e[i - 1].lo), scale(i - 1, 0, POINTS));
    fprintf(out, "Z\"/>\n<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" d=\"M", ink);
    fprintf(out, "%d %.1f", LEFT, Y(e[0].risk));
    for (int i = 1; i <= POINTS; i++) fprintf(out, "H%.1fV%.1f", scale(i, 0, POINTS), Y(e[i].risk));
    fprintf(out, "\"/>\n");
#undef Y
    int years = p->horizon_minutes > 3 * YEAR_MINUTES;
    put_axis(out, 0, p->horizon_minutes, years ? YEAR_MINUTES : 1440, 0, 12 + height,
             years ? "years after" : "days after");
    fprintf(out, "</svg></div>\n");
    free(e);
}

/* ---- the whole
 * --------------------------------------------------------------------------------------------------------------*/

static void put_head(const Page *p, FILE *out) {
    const PatientView *r = &p->job->patient;
    const Vocabulary *v = &p->s->dataset.vocabulary;
    fprintf(out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
            "content=\"width=device-width,initial-scale=1\"><title>Forecast of patient "
            "%llu</title>\n<style>\n"
            "body{font:15px/1.45 system-ui,sans-serif;max-width:%dpx;margin:24px auto;padding:0 "
            "16px;color:#222;background:#fff}\n"
            "h1{font-size:22px;margin:0}h2{font-size:17px;margin:26px 0 4px}h3{font-size:15px;margin:14px 0 0}h3 "
            "span{font-weight:400;color:#555}\n"
            ".drawn{overflow-x:auto}svg{width:100%%;min-width:720px;height:auto;display:block}.lane{stroke:#e6e6e6}.axis{stroke:#888}.tick,.name{font-size:"
            "12px;fill:#555}\n"
            ".index{stroke:#444;stroke-dasharray:3 "
            "3}.future{fill:none;stroke:#d8d2c4}.truth{stroke:#444;stroke-width:1.5}\n"
            "p,li{color:#444}.legend span{display:inline-block;margin-right:14px}.legend "
            "i{display:inline-block;width:10px;height:10px;"
            "border-radius:5px;margin-right:5px}.note{border-left:3px solid "
            "#c00;padding-left:10px}\n</style></head><body>\n",
            (unsigned long long)r->key, WIDTH);
    fprintf(out, "<h1>Patient %llu</h1>\n<p>", (unsigned long long)r->key);
    for (int i = 0; i < v->n_static; i++) {
        put_text(out, v->token[r->statics[i]].code);
        fputs(", ", out);
    }
    if (r->age_years == AGE_UNKNOWN) fprintf(out, "age unknown");
    else fprintf(out, "age %.0f at the index time", r->age_years + p->job->index_minutes / YEAR_MINUTES);
    fprintf(out, "; data: %s; weights %.12s</p>\n",
            p->s->dataset.deidentification ? p->s->dataset.deidentification : "unknown",
            p->s->model_sha256[0] ? p->s->model_sha256 : "unknown");
    fprintf(out, "<p class=\"note\">Simulated by a statistical model. For research; not a medical device, and no "
                 "finding about a person. Bands show "
                 "the sampling of futures only, not what the model does not know.</p>\n");
}

static void put_legend(FILE *out) {
    fprintf(out, "<p class=\"legend\"><span><i style=\"background:#e69f00;border-radius:0\"></i>hospital stay</span>"
                 "<span><i style=\"background:#8a94a0\"></i>outpatient visit</span>");
    for (int i = 1; i < LANES; i++)
        fprintf(out, "<span><i style=\"background:%s\"></i>%s</span>", look[lane_kind[i]].color,
                look[lane_kind[i]].name);
    fprintf(out, "<span><b>&#215;</b> death</span><span><i style=\"border:1.5px solid "
                 "#c00;box-sizing:border-box\"></i>outcome</span>"
                 "Point at a mark to read it.</p>\n");
}

void page_write(const Page *p, FILE *out) {
    put_head(p, out);
    put_legend(out);
    put_record(p, out);
    put_futures(p, out);
    if (p->n_outcomes)
        fprintf(out,
                "<h2>Risk over time</h2>\n<p>Share of the %d futures that have had the outcome, with 95%% Wilson "
                "intervals, each "
                "point for itself; death without it counts as not having it.</p>\n",
                p->n);
    int cut = 0;
    for (int k = 0; k < p->n; k++) cut += p->sample[k].stop == STOP_LIMIT;
    if (cut)
        fprintf(out,
                "<p class=\"note\">%d of the %d futures were cut at the most tokens allowed, before the horizon: these "
                "risks are too "
                "low from there on. Give more with --max-tokens.</p>\n",
                cut, p->n);
    for (int o = 0; o < p->n_outcomes; o++) put_curve(p, out, o);
    fprintf(out, "</body></html>\n");
}
