/* schedule.h - the learning rate of each step. */
#ifndef EHR_TRAIN_SCHEDULE_H
#define EHR_TRAIN_SCHEDULE_H
#include <stdint.h>

typedef enum { SCHEDULE_COSINE, SCHEDULE_WSD, SCHEDULE_CONSTANT } ScheduleKind;
typedef struct {
    ScheduleKind kind;
    double  peak, min_ratio; /* the rate ends at peak * min_ratio */
    int64_t warmup_steps;    /* linear from peak / warmup_steps */
    int64_t decay_steps;     /* wsd: the last steps, falling linearly (warm-up, stable, decay; Hu et al. 2024) */
    int64_t total_steps;
} Schedule;

int    schedule_find(const char *name, ScheduleKind *kind); /* "cosine|wsd|constant"; 0 = found */
double schedule_rate(const Schedule *s, int64_t step);      /* step 1 ... total_steps */

#endif
