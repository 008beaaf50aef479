/* serve_once.h - requests that are answered once.  Whoever asks may name a request (the header Idempotency-Key); what
 * comes again under that name, such as a copy that somebody caught, is refused.  The last ONCE_MAX names are remembered,
 * until the server ends. */
#ifndef EHR_INFER_SERVE_ONCE_H
#define EHR_INFER_SERVE_ONCE_H
#include "model/base.h"

enum { ONCE_MAX = 65536, ONCE_NAME_MAX = 255 };
typedef struct {
    uint64_t *seen; /* (ONCE_MAX) hashes of who and name, 0: none; NULL before the first */
    int at;         /* of the oldest */
    unsigned char key[16];
} Once;

/* 1: nobody of that name has asked under this name yet, and now it is remembered; 0: it is known. */
int serve_once_take(Once *o, const char *who, const char *name);
void serve_once_close(Once *o);

#endif
