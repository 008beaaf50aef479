/* serve_maps.h - recalibration.json of `evaluate`: for each outcome of one model the map from a raw risk to one that
 * says how often it happened among tuning patients, logit(p) -> intercept + slope logit(p) (Cox 1958). */
#ifndef EHR_INFER_SERVE_MAPS_H
#define EHR_INFER_SERVE_MAPS_H
#include "infer/serve_ask.h"

typedef struct {
    char *name, *fitted;   /* of the task; what was fitted, in words */
    char **codes, **stops; /* sorted */
    int n_codes, n_stops;
    int later; /* 1: of outcomes that count from some time after the index on, which no request can ask for */
    double horizon; /* minutes */
    Estimator estimator;
    double intercept, slope, threshold, alerts_per_100;
    char sha256[65]; /* of the record: the map's id */
} RecalibrationMap;
typedef struct {
    int n;
    RecalibrationMap *map;
} RecalibrationMaps;

/* Refuses a record that was changed after it was fitted, or belongs to another model. */
Status maps_read(RecalibrationMaps *m, const char *path, const char *model_sha256, Err *err);
void maps_free(RecalibrationMaps *m);
/* The map of the outcome's name, if it was fitted for the same codes, stops, horizon and estimator; else NULL, and why
 * not. */
const RecalibrationMap *maps_find(const RecalibrationMaps *m, const AskOutcome *o, Estimator e, const char **why);
/* Name, codes, stops, horizon and estimator of each that a request can ask for: what /info tells, so that a client knows
 * what it must ask. */
json_t *maps_json(const RecalibrationMaps *m);
double map_apply(const RecalibrationMap *m, double risk);
double map_undo(const RecalibrationMap *m, double recalibrated); /* the risk that becomes it */

#endif
