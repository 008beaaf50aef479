/* text_heap.c - see text_heap.h.  A text is its length in 4 bytes, then its bytes; `at` is 1 + where that stands. */
#include "data/text_heap.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void text_heap_init(TextHeap *h, const char *path) { *h = (TextHeap){.path = xstrdup(path), .fd = -1}; }

void text_heap_free(TextHeap *h) {
    if (!h->path) return;
    if (h->fd >= 0) close(h->fd);
    free(h->path);
    free(h->text);
    *h = (TextHeap){.fd = -1};
}

static Status room(TextHeap *h, size_t n, Err *err) {
    if (n <= h->capacity) return OK;
    free(h->text);
    h->capacity = 0;
    h->text = try_calloc(n, 1);
    if (!h->text) return err_set(err, ERR_NOMEM, "no memory for a text of %zu bytes", n);
    h->capacity = n;
    return OK;
}

static Status heap_create(TextHeap *h, Err *err) {
    char *name = xasprintf("%s.text-XXXXXX", h->path);
    h->fd = mkstemp(name);
    Status status = OK;
    if (h->fd < 0)
        status = err_set(err, ERR_IO, "cannot create a file for texts beside %s: %s; is the folder there and writable?",
                         h->path, strerror(errno));
    else unlink(name);
    free(name);
    return status;
}

Status text_heap_add(TextHeap *h, const char *text, size_t n, uint64_t *at, Err *err) {
    REQUIRE(n <= UINT32_MAX - 4);
    Status status = h->fd < 0 ? heap_create(h, err) : OK;
    if (!status) status = room(h, n + 4, err);
    if (status) return status;
    uint32_t size = (uint32_t)n;
    memcpy(h->text, &size, 4);
    memcpy(h->text + 4, text, n);
    for (size_t done = 0; done < n + 4;) {
        ssize_t k = pwrite(h->fd, h->text + done, n + 4 - done, (off_t)(h->end + done));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return err_set(err, ERR_IO, "cannot write the file for texts beside %s: %s; free some disk space", h->path,
                           k < 0 ? strerror(errno) : "disk full");
        done += (size_t)k;
    }
    *at = h->end + 1;
    h->end += n + 4;
    return OK;
}

static Status bytes_read(TextHeap *h, char *out, size_t n, uint64_t at, Err *err) {
    while (n) {
        ssize_t k = pread(h->fd, out, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return err_set(err, ERR_IO, "cannot read the file for texts beside %s: %s", h->path,
                           k < 0 ? strerror(errno) : "it ended early");
        out += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return OK;
}

Status text_heap_get(TextHeap *h, uint64_t at, const char **text, size_t *n, Err *err) {
    uint32_t size = 0;
    REQUIRE(at && at + 3 <= h->end);
    Status status = bytes_read(h, (char *)&size, 4, at - 1, err);
    if (!status) status = room(h, (size_t)size + 1, err);
    if (!status) status = bytes_read(h, h->text, size, at + 3, err);
    *text = h->text;
    *n = size;
    return status;
}
