/* audit.h - who asked what of which model, when, and what came of it: a file of JSON lines that is only appended to,
 * each carrying the hash of the one before.
 *
 * A line: {"seq": 1, "time": "2026-11-30T00:50:12.123Z", "who", "from", "action", "status", "model", "input", "output",
 *   "prev": hash of the line before (64 zeros for the first), "hash": SHA-256 of the line up to its own hash}
 * No patient data: `input` is a keyed hash (BLAKE2b) of the request's body, whose key lies beside the log in FILE.key,
 * `output` the SHA-256 of the answer's.  An edited, removed or inserted line breaks the chain; lines cut off the end do
 * not, so keep the last hash somewhere else and give it to audit_verify. */
#ifndef EHR_INFER_AUDIT_H
#define EHR_INFER_AUDIT_H
#include "model/base.h"

typedef struct Audit Audit;
typedef struct {
    const char *who, *from, *action, *model; /* key's name, address, "POST /v1/risk", sha256 of the weights */
    int status;                              /* of HTTP; 0 = none */
    const void *input, *output;
    size_t input_size, output_size;
    const char *input_hash, *output_hash; /* instead of input and output, as the line tells them; NULL: none */
} AuditEntry;

/* Makes the file and its key when they are missing; checks the whole chain when it is there, cuts off a last line that
 * a crash left half written, and keeps other processes out.  *cut: bytes of such a line. */
Status audit_open(Audit **out, const char *path, int64_t *cut, Err *err);
void audit_close(Audit *a);
/* Appends; with sync it is on the disk on return.  Threads may call it at once. */
Status audit_write(Audit *a, const AuditEntry *e, int sync, Err *err);
/* All that was appended is on the disk on return. */
Status audit_sync(Audit *a, Err *err);
/* What the line tells of an input: its keyed hash, in hexadecimal digits. */
void audit_input_hash(const Audit *a, const void *input, size_t size, char out[65]);

typedef struct {
    int64_t lines;
    char head[65]; /* hash of the last line */
    char from[32], to[32];
} AuditReport;
/* ERR_FORMAT names the first line that is not as it was written.  head NULL: any end counts. */
Status audit_verify(const char *path, const char *head, AuditReport *r, Err *err);

#endif
