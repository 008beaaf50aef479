/* event.c - names of kinds and splits, and the calendar. */
#include "data/event.h"
#include <string.h>

static const char *const kind_names[KIND_COUNT] = {"static", "birth",     "visit_start", "transfer",
                                                   "lab",    "diagnosis", "procedure",   "drug",
                                                   "other",  "visit_end", "death"};

const char *event_kind_name(int kind) { return kind >= 0 && kind < KIND_COUNT ? kind_names[kind] : "unknown"; }

int event_kind_find(const char *name) {
    for (int k = 0; k < KIND_COUNT; k++)
        if (!strcmp(name, kind_names[k])) return k;
    return -1;
}

const char *split_name(int split) {
    static const char *const names[SPLIT_COUNT] = {"train", "tuning", "held_out"};
    return split >= 0 && split < SPLIT_COUNT ? names[split] : "unset";
}

int split_find(const char *name) {
    static const struct {
        const char *name;
        int split;
    } names[] = {{"train", SPLIT_TRAIN},       {"tuning", SPLIT_TUNING}, {"val", SPLIT_TUNING},
                 {"validation", SPLIT_TUNING}, {"valid", SPLIT_TUNING},  {"held_out", SPLIT_HELD_OUT},
                 {"held-out", SPLIT_HELD_OUT}, {"test", SPLIT_HELD_OUT}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i].name)) return names[i].split;
    return -1;
}

/* Days since 1970-01-01 by counting years from March, so that the leap day is the last of its year. */
int64_t time_from_civil(int year, int month, int day, int hour, int minute, int second) {
    int64_t y = (int64_t)year - (month <= 2), era = (y >= 0 ? y : y - 399) / 400, in_era = y - era * 400;
    int64_t in_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t days = era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year - 719468;
    return days * US_PER_DAY + ((int64_t)hour * 3600 + minute * 60 + second) * 1000000ll;
}

void time_to_civil(int64_t us, int *year, int *month, int *day, int *hour, int *minute, int *second) {
    int64_t days = us / US_PER_DAY, rest = us % US_PER_DAY;
    if (rest < 0) {
        rest += US_PER_DAY;
        days--;
    }
    int64_t seconds = rest / 1000000, z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097,
            in_era = z - era * 146097;
    int64_t y = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    int64_t in_year = in_era - (365 * y + y / 4 - y / 100), m = (5 * in_year + 2) / 153;
    *day = (int)(in_year - (153 * m + 2) / 5 + 1);
    *month = (int)(m < 10 ? m + 3 : m - 9);
    *year = (int)(y + era * 400 + (*month <= 2));
    *hour = (int)(seconds / 3600);
    *minute = (int)(seconds / 60 % 60);
    *second = (int)(seconds % 60);
}
