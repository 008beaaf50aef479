/* deidentify_record.h - the de-identification record: which rules ran on a release, what they did, what risk remains.
 * It is written by deidentify into events.h5 and goes from there into dataset.json, every shard and every checkpoint.
 *
 * Levels: "synthetic" (nobody to protect), "structural" (row keys and relative time, no more), "safe-harbor-rules"
 * (these rules ran), and "safe-harbor" or "expert", which only the signed attestation of a named person gives. */
#ifndef EHR_DATA_DEIDENTIFY_RECORD_H
#define EHR_DATA_DEIDENTIFY_RECORD_H
#include "data/event.h"
#include <jansson.h>

#define DEIDENTIFY_RECORD_FORMAT "ehr.c de-identification record"

/* The record of an events file; NULL: it did not go through deidentify.  json_decref it. */
json_t *deidentify_record_of(const EventFile *f);
/* Patients behind each code, by the record; 0: it does not say. */
int64_t deidentify_record_k(const json_t *record);
/* Whether its free texts stayed because a person attested that they were scrubbed. */
int deidentify_record_texts_attested(const json_t *record);
/* SHA-256 of a record's canonical text: what attestations name. */
void deidentify_record_sha256(const json_t *record, char hex[65]);
/* The "deidentification" object of a dataset made from f: level, record, and the attestation in `path` (NULL: none),
 * which must be signed and be about this very file.  json_decref it. */
Status deidentify_dataset_object(json_t **out, const EventFile *f, int synthetic, const char *path, Err *err);
/* Whether a dataset's claim stands: a level beyond structural needs its record, one beyond safe-harbor-rules its valid
 * attestation.  object: "deidentification" of dataset.json. */
Status deidentify_claim_check(const json_t *object, const char *events_sha256, const char *what, Err *err);
/* 1 for every level that deidentify or a person gives; 0 for structural and none. */
int deidentify_level_is_release(const char *level);

#endif
