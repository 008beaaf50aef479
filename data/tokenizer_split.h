/* tokenizer_split.h - which patients a dataset has, in which split and in what order.
 *
 * Both are decided by HMAC-SHA256 of the source id under the split key, so that neither depends on the order of the
 * input, on how many patients there are beside, or on pseudonyms; without a key of one's own the key is fixed and
 * public. */
#ifndef EHR_DATA_TOKENIZER_SPLIT_H
#define EHR_DATA_TOKENIZER_SPLIT_H
#include "data/event.h"

typedef struct {
    const char *split;  /* "patient", "given", "time:YYYY-MM-DD", "site:COLUMN", "site:COLUMN=VALUE,..."; NULL: given
                         * when every patient has one, else patient */
    const uint8_t *key; /* (key_size) NULL: the public key */
    size_t key_size;
    int64_t seed;            /* of the order */
    const int64_t *excluded; /* (n_excluded) subject ids, ascending */
    int64_t n_excluded;
} CohortOptions;

typedef struct {
    int64_t n_rows; /* patients of the events file */
    uint8_t *split; /* (n_rows) SPLIT_UNSET: left out */
    int64_t n;
    int64_t *order;   /* (n) rows of the patients kept, shuffled: the place in here is the patient key */
    int64_t *subject; /* (n_rows) */
    int64_t n_split[SPLIT_COUNT];
    int64_t n_untimed;  /* left out: no event with a time but birth */
    int64_t n_no_site;  /* left out of a split by site: they may be anybody's */
    int64_t n_excluded; /* left out: named in `excluded` */
    char method[200];   /* as stored: "patient", "given", "time:2020-01-01", "site:CARE_SITE" */
} Cohort;

/* One pass over the events.  ERR_USAGE when the split cannot be made (no date, no split in the source, nobody to train
 * on). */
Status cohort_open(Cohort *c, EventFile *f, const CohortOptions *o, FILE *progress, Err *err);
void cohort_close(Cohort *c);

/* A split key: the bytes of a file, without line end at its end; 16 to 4096 of them.  free() it. */
Status split_key_read(const char *path, uint8_t **key, size_t *size, Err *err);
/* The subject id that a source's own id has in an events file: itself when it is a whole number, else what importers make
 * of a text id (a UUID, "Patient/123"). */
int64_t subject_id_of(const char *text);
/* Subject ids, one a line as the source writes them, # starts a comment; sorted, each once.  free() it. */
Status excluded_read(const char *path, int64_t **ids, int64_t *n, Err *err);

#endif
