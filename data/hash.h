/* hash.h - CRC32C (Castagnoli, as iSCSI and ext4 use it): the quick check of shard blocks on first touch.  SHA-256
 * of whole files is in model/sha256.h. */
#ifndef EHR_DATA_HASH_H
#define EHR_DATA_HASH_H
#include <stddef.h>
#include <stdint.h>

/* Continues a checksum: crc32c(crc32c(0, a, n), b, m) is that of a followed by b. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size); /* the same without SSE4.2; slower */

#endif
