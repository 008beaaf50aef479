/* encode.h - weights in the number formats that other programs read. */
#ifndef EHR_INFER_ENCODE_H
#define EHR_INFER_ENCODE_H
#include "model/base.h"

typedef enum { ENCODE_F32, ENCODE_BF16, ENCODE_F16, ENCODE_Q8_0 } Encoding;
enum { Q8_0_BLOCK = 32 }; /* values that share a scale; 34 bytes */

const char *encode_name(Encoding e); /* "f32", "bf16", "f16", "q8_0" */
int encode_find(const char *name);   /* -1: none */
/* Bytes of n values; for Q8_0 n is a multiple of Q8_0_BLOCK. */
int64_t encode_bytes(Encoding e, int64_t n);

/* x (n) -> out (encode_bytes(e, n)), little-endian.  F16 and BF16 round to nearest, ties to even.  Q8_0: blocks of 32
 * with scale d = max |x| / 127 as F16 and round(x / d) as int8, the way of ggml.  Returns the first element that the
 * format cannot hold (F16 ends at 65504), n when all went well. */
int64_t encode_floats(Encoding e, const float *x, int64_t n, void *out);
float half_to_float(uint16_t h);
uint16_t half_from_float(float x); /* beyond 65504: infinity */
uint16_t bf16_from(float x);

#endif
