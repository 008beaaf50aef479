/* schedule.c - see schedule.h. */
#include "train/schedule.h"
#include <math.h>
#include <string.h>

int schedule_find(const char *name, ScheduleKind *kind) {
    static const char *const names[] = {"cosine", "wsd", "constant"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(names[i], name)) {
            *kind = (ScheduleKind)i;
            return 0;
        }
    return -1;
}

double schedule_rate(const Schedule *s, int64_t step) {
    const double pi = 3.14159265358979323846;
    double low = s->peak * s->min_ratio;
    if (step <= s->warmup_steps) return s->peak * (double)step / (double)s->warmup_steps;
    if (s->kind == SCHEDULE_CONSTANT) return s->peak;
    int64_t start = s->kind == SCHEDULE_WSD ? s->total_steps - s->decay_steps : s->warmup_steps;
    if (start < s->warmup_steps) start = s->warmup_steps;
    if (step <= start) return s->peak;
    if (step >= s->total_steps) return low;
    double done = (double)(step - start) / (double)(s->total_steps - start);
    return s->kind == SCHEDULE_WSD ? s->peak + (low - s->peak) * done : low + 0.5 * (s->peak - low) * (1 + cos(pi * done));
}
