/* score_detail.h - what the whole law of the next token says at each target, beside the target's own loss: how far down
 * the token that came was, which was likeliest, the chances of each kind of event, and where among the gaps the gap
 * that came lies.  For calibration and accuracy, whose statistics are Python's. */
#ifndef EHR_INFER_SCORE_DETAIL_H
#define EHR_INFER_SCORE_DETAIL_H
#include "data/table.h"
#include "infer/session.h"
#include "model/batch.h"

enum { DETAIL_GAP, DETAIL_VALUE, DETAIL_EVENT, DETAIL_KINDS = DETAIL_EVENT + KIND_COUNT };

typedef struct {
    int64_t patient, index; /* row in the split; token index, -1: a gap after the record's end */
    int64_t order;          /* when it was taken */
    int32_t token;          /* id that came; of a censored gap the shortest it can be */
    int32_t rank;           /* 1 + ids with a higher chance; 0: censored */
    int32_t rank_in_kind;   /* the same among ids of the token's own kind; 0: censored */
    int32_t best;           /* likeliest id */
    float loss, p_best;
    float gap_below, gap_at; /* if a gap comes: chances of a shorter one, and of this one (censored: 0) */
    float p_asked;           /* chance of the ids asked for */
    /* Of the first mention of a code, among ids of its kind that the record does not have yet: its rank, their chance,
     * and that of those asked for.  Rank 0 elsewhere, and where none are asked for. */
    int32_t rank_new;
    float p_new, p_asked_new;
    float kind[DETAIL_KINDS];
} TargetDetail;

typedef struct ScoreDetail ScoreDetail;

/* asked (V): not 0 for ids whose chance is wanted together, and that of new ones as well; NULL: none. */
Status score_detail_open(ScoreDetail **out, Session *s, const uint32_t *asked, Err *err);
/* Adds the targets of b's sequences of the split's patients below `n_patients`; call after a pass over b by `acts`.
 * losses (N). */
Status score_detail_take(ScoreDetail *d, Acts *acts, int split, const Batch *b, const float *losses, int64_t n_patients,
                         Err *err);
/* A row a target; the attribute "kinds" names the columns of the matrix `kinds`.  table_free() it, also after an error.
 */
Status score_detail_table(ScoreDetail *d, int split, Table *out, Err *err);
void score_detail_close(ScoreDetail *d); /* NULL is fine */

#endif
