/* http.h - HTTP/1.1 over libmicrohttpd: connections, limits of size and time, TLS, answers that come later.  Knows
 * nothing of models.  One thread of the library reads and writes all connections and calls `head` and `handle`; answers
 * may be given by any thread. */
#ifndef EHR_INFER_HTTP_H
#define EHR_INFER_HTTP_H
#include "model/base.h"

typedef struct Http Http;
typedef struct HttpExchange HttpExchange; /* one request and its answer */
typedef struct HttpStream HttpStream;     /* an answer that comes in pieces */

typedef struct {
    const char *method, *path; /* path: as it was sent, without the query */
    const char *authorization, *idempotency_key; /* headers, NULL: none */
    char from[48];             /* address of the other side */
    const char *body;          /* (size) with a NUL behind it; empty in head */
    size_t size;
    uint64_t id; /* no other exchange has it */
    void *user;  /* of the handler: kept from head to done */
} HttpRequest;

typedef struct {
    const char *bind, *cert, *key; /* address; PEM files of TLS, NULL: plain HTTP */
    int port;                      /* 0: any free one */
    int connections;               /* at most; more are closed at once */
    size_t body_max;               /* bytes; longer ones get 413 */
    double read_s, write_s;        /* longest time to send a request, and to take an answer, whatever trickles */
    const char *page_policy;       /* Content-Security-Policy of answers that are pages, NULL: none */
    /* Headers are read: 0 goes on to the body, else the answer has been given through http_answer. */
    int (*head)(void *ctx, HttpExchange *x, HttpRequest *r);
    /* All is read: calls http_answer, now or later from any thread, exactly once. */
    void (*handle)(void *ctx, HttpExchange *x, HttpRequest *r);
    /* The other side of exchange `id` has closed, though its answer is not there yet, or not whole. */
    void (*gone)(void *ctx, uint64_t id);
    /* Refused here: 400 what is no HTTP, 408 what never came whole, 413 a body too long.  r: only `from` where there was
     * no request, also behind others on the same connection. */
    void (*refused)(void *ctx, const HttpRequest *r, int status);
    /* The exchange is over, answered or not. */
    void (*done)(void *ctx, HttpRequest *r);
    void *ctx;
} HttpOptions;

/* ERR_USAGE when this build has no libmicrohttpd, naming the package. */
Status http_open(Http **out, const HttpOptions *o, Err *err);
int http_port(const Http *h);
/* Closes connections that have taken too long, and tells of those that have gone; call it a few times a second. */
void http_tick(Http *h);
/* No new connections; those there go on. */
void http_quiesce(Http *h);
/* Every exchange must have been answered, every stream ended; what is being written gets a moment. */
void http_close(Http *h);

/* What x answers; body (size) is taken over and freed.  retry_s > 0: Retry-After. */
void http_answer(HttpExchange *x, int status, const char *type, char *body, size_t size, int retry_s);

/* A stream gathers pieces from its opening on, sends them from its start on, and is given back by its end.  The three
 * may be called by different threads. */
HttpStream *http_stream_open(void);
/* The stream is what x answers, with status 200. */
void http_stream_start(HttpExchange *x, HttpStream *s, const char *type);
/* text (size) is copied.  0: nobody reads it, or so slowly that too much has gathered. */
int http_stream_send(HttpStream *s, const char *text, size_t size);
/* whole 0: the other side is to see that something is missing. */
void http_stream_end(HttpStream *s, int whole);

#endif
