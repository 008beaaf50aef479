/* shard.h - one memory-mapped shard (the layout is in dataset.h).  Inside data/ only. */
#ifndef EHR_DATA_SHARD_H
#define EHR_DATA_SHARD_H
#include "model/base.h"
#include <stdatomic.h>

#define SHARD_FORMAT "ehr.c shard"
enum { SHARD_FORMAT_VERSION = 1, SHARD_CRC_TOKENS = 65536, SHARD_ARRAYS = 12 };

typedef struct {
    char *path, *deidentification, vocabulary_sha256[65];
    int64_t n_tokens, n_patients;
    int wide, n_static, n_groups;

    const void *tokens;                                    /* (n_tokens) u16 or u32 */
    const int32_t *minutes;                                /* (n_tokens) */
    const float *oracle_logp;                              /* (n_tokens) or NULL */
    const uint64_t *offsets;                               /* (n_patients + 1) */
    const uint64_t *key;                                   /* (n_patients) */
    const uint16_t *statics;                               /* (n_patients, n_static + 1) */
    const int32_t *observation_end;                        /* (n_patients) */
    const uint8_t *group;                                  /* (n_patients, n_groups) */
    const uint32_t *tokens_crc, *minutes_crc, *oracle_crc; /* per SHARD_CRC_TOKENS */

    atomic_uchar *block_checked;   /* per SHARD_CRC_TOKENS: its checksums have been compared */
    atomic_uchar *patient_checked; /* ids and order of that patient have been checked */
    void *map;
    size_t map_size;
    void *read[SHARD_ARRAYS]; /* arrays that could not be mapped and were read instead */
    int n_read;
} Shard;

/* Maps a shard and checks everything but what the tokens say: types, sizes, offsets, checksum of the patient arrays. */
Status shard_open(Shard *s, const char *path, Err *err);
void shard_close(Shard *s);
/* Compares the checksums of the blocks that hold tokens [first, end), once each.  Threads may race: both find the same.
 */
Status shard_check_blocks(Shard *s, int64_t first, int64_t end, Err *err);

#endif
