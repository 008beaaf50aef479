/* page.h - one patient's forecast as a page that opens anywhere: HTML with drawings inside, no script, nothing to load.
 * The recorded timeline, the simulated futures beneath each other, and the risk of outcomes over time with intervals.
 */
#ifndef EHR_INFER_PAGE_H
#define EHR_INFER_PAGE_H
#include "infer/estimate.h"
#include "infer/session.h"

enum { PAGE_FUTURES_MAX = 80 }; /* drawn; risks are taken over all */

typedef struct {
    const Session *s;
    const RolloutJob *job;
    const RolloutSample *sample; /* (n) with paths */
    int n;
    double horizon_minutes;
    const uint32_t *mark;       /* (V) bit o: the id is outcome o */
    const char *const *outcome; /* (n_outcomes) names */
    int n_outcomes;
} Page;

void page_write(const Page *p, FILE *out);

/* Share of the futures with outcome o by minute t, with its interval. */
RiskEstimate page_risk_by(const Page *p, int o, double t);

#endif
