/* tokenizer_values.h - what fitting a vocabulary collects about each code, in memory bounded by the vocabulary: sets of
 * patients that are exact as long as that matters, samples of values, and value edges made of them. */
#ifndef EHR_DATA_TOKENIZER_VALUES_H
#define EHR_DATA_TOKENIZER_VALUES_H
#include "model/base.h"

/* Distinct patients.  Who they are is kept only below `enough` of them: a set that has enough stays so whatever joins.
 */
typedef struct {
    uint32_t last, count; /* last patient added; patients come in ascending order, from 1 */
    uint32_t *list;       /* (count) ascending while count < enough, else NULL */
} PatientSet;
void patient_set_add(PatientSet *s, uint32_t patient, uint32_t enough);
void patient_set_merge(PatientSet *into, const PatientSet *from, uint32_t enough);
void patient_set_free(PatientSet *s);

/* A uniform sample of a stream of values, all of it up to SAMPLE_MAX (Vitter's algorithm R, draws keyed by (key, place
 * in the stream): the same stream gives the same sample). */
enum { SAMPLE_MAX = 16384 };
typedef struct {
    uint64_t key;
    int64_t seen;
    int32_t n, capacity;
    float *value;
    uint32_t *patient;
} ValueSample;
void sample_add(ValueSample *s, float value, uint32_t patient);
void sample_free(ValueSample *s);
/* q (n): mid-quantiles (i + 0.5) / n of the sample. */
void sample_quantiles(const ValueSample *s, double *q, int n);

/* Decision thresholds (scripts/tasks/value_edges.json): edges that stand whatever the deciles say. */
typedef struct {
    int n_codes, n_units, n_edges;
    char **code, **unit;
    double *edge; /* ascending; as edges are used: "< 150" became the float below 150 */
} EdgeRule;
typedef struct {
    int n;
    EdgeRule *rule;
} EdgeRules;
Status edge_rules_load(EdgeRules *r, const char *path, Err *err);
void edge_rules_free(EdgeRules *r);
const EdgeRule *edge_rules_find(const EdgeRules *r, const char *code,
                                const char *unit); /* NULL: none; units in any case */

enum { FIT_EDGES_MAX = 48 };
typedef struct {
    int n; /* edges; 0: values of this code are not told apart */
    double edge[FIT_EDGES_MAX], share[FIT_EDGES_MAX + 1];
    uint32_t patients[FIT_EDGES_MAX + 1]; /* distinct patients of each level, in the sample */
} FittedEdges;
/* Deciles, rounded to 3 digits of the spread between the first and the last, united with the rule's edges (NULL: none);
 * then neighbours merge, deciles before thresholds, until every level has min_patients and there are at most
 * max_levels. */
void edges_fit(FittedEdges *out, const ValueSample *s, const EdgeRule *rule, int64_t min_patients, int max_levels);

#endif
