/* sha256.h - SHA-256 of bytes and files, as 64 hexadecimal digits (libsodium).  Leaf: anyone may include it. */
#ifndef EHR_MODEL_SHA256_H
#define EHR_MODEL_SHA256_H
#include "model/base.h"

void   bytes_sha256(const void *data, size_t size, char hex[65]);
Status file_sha256(const char *path, char hex[65], Err *err);

#endif
