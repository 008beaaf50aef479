/* http.c - see http.h.
 *
 * An exchange is suspended before its handler sees it and resumed by its answer, so that answers may come from
 * anywhere. The library's own timeout starts again with every byte; a client that sends one a second would hold a
 * connection for ever, so connections have a limit on the whole of reading and the whole of writing besides
 * (http_tick). */
#include "infer/http.h"
#include <stdlib.h>
#ifdef HAVE_MICROHTTPD
#include <arpa/inet.h>
#include <linux/tcp.h> /* of the C library's tcp_info half is missing */
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HEADER_BYTES = 32768 /* of a connection's headers and read buffer */,
    IDLE_S = 30,
    STREAM_BYTES = 1 << 20, /* of a stream that the other side has not taken yet, at most */
    GONE_AT_ONCE = 64,
    STRAY_BYTES = 2, /* behind a request: a line's end, which some clients send */
    /* What TLS says goodbye with, the record's own bytes included; older versions, by their widest cipher. */
    TLS_1_3 = 5, /* as MHD_CONNECTION_INFO_PROTOCOL tells it */
    GOODBYE_BYTES = 24,
    GOODBYE_BYTES_OLD = 85
};
typedef enum { PHASE_READING, PHASE_WORKING, PHASE_WRITING } Phase;

typedef struct Connection {
    struct Connection *next, **link;
    int fd;
    Phase phase;
    double since;
    uint64_t exchange; /* its last; 0: nothing that is HTTP has come */
    uint64_t read;     /* bytes of its exchanges' requests */
    int64_t wire;      /* with TLS: bytes that had come when its last request was read; -1: not known */
    int goodbye;       /* with TLS: bytes of a goodbye */
    int uncounted;     /* 1: of some of them it is not known how many */
    int last;          /* 1: nothing follows its last exchange: it was refused, or asked to be the last */
    int timed_out;
    char from[48];
} Connection;

struct HttpExchange {
    Http *http;
    struct MHD_Connection *connection;
    Connection *of;
    HttpRequest r;
    const char *version; /* of HTTP */
    char *path, *text;
    size_t room;
    int too_long, whole, working, answered, queued; /* whole: all of the request has been read */
    /* Of the answer. */
    struct MHD_Response *response;
    int status;
};

struct Http {
    HttpOptions o;
    struct MHD_Daemon *daemon;
    char *cert, *key;
    int listening, closing;
    uint64_t exchanges;   /* begun so far */
    pthread_mutex_t lock; /* of the list of connections, and of answers */
    Connection *first;
};

/* ---- connections ------------------------------------------------------------------------------------------------- */

static void phase_set(HttpExchange *x, Phase phase) {
    pthread_mutex_lock(&x->http->lock);
    if (x->of) {
        x->of->phase = phase;
        x->of->since = clock_s();
    }
    pthread_mutex_unlock(&x->http->lock);
}

static void address_text(struct MHD_Connection *connection, char out[48]) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info ? info->client_addr : NULL;
    snprintf(out, 48, "unknown");
    if (a && a->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)a)->sin_addr, out, 48);
    if (a && a->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, out, 48);
}

/* What the other side has sent, the stream's end counted as one; -1: not known. */
static int64_t bytes_received(int fd) {
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) ||
        size < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received)
        return -1;
    return (int64_t)info.tcpi_bytes_received;
}

/* What came behind a connection's last exchange and became none: the library closes on it and tells nobody.  Seen by
 * bytes that no exchange took; where those cannot be told (TLS, chunks) by a connection that we closed and not the other
 * side, be it by TLS's goodbye alone.  Returns the status of the refusal, 0: there was nothing. */
static int left_behind(const Http *h, const Connection *c) {
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
    const int status = c->timed_out ? 408 : 400;
    if (!c->exchange) return 400;
    if (c->last || h->closing || c->fd < 0) return 0;
    const int64_t received = bytes_received(c->fd);
    if (!h->cert && !c->uncounted && received >= 0) return received > (int64_t)c->read + 1 ? status : 0;
    if (h->cert && c->wire >= 0 && received > c->wire && received <= c->wire + c->goodbye) return 0;
    return c->timed_out || clock_s() - c->since > IDLE_S - 1 || (poll(&p, 1, 0) == 1 && p.revents) ? 0 : status;
}

static void on_connection(void *ctx, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    Http *h = ctx;
    Connection *c = *socket_context;
    pthread_mutex_lock(&h->lock);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        c = xcalloc(1, sizeof *c);
        *c = (Connection){.next = h->first, .link = &h->first, .fd = info ? info->connect_fd : -1, .since = clock_s()};
        if (c->next) c->next->link = &c->next;
        address_text(connection, c->from);
        h->first = c;
        *socket_context = c;
    } else if (c) {
        *c->link = c->next;
        if (c->next) c->next->link = c->link;
        *socket_context = NULL;
    }
    pthread_mutex_unlock(&h->lock);
    if (code == MHD_CONNECTION_NOTIFY_STARTED || !c) return;
    const int status = left_behind(h, c);
    if (status) {
        HttpRequest r = {.method = "", .path = "", .body = ""};
        memcpy(r.from, c->from, sizeof r.from);
        h->o.refused(h->o.ctx, &r, status);
    }
    free(c);
}

/* A closed connection shows while it is suspended only to who asks. */
static int is_closed(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) == 1 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

void http_tick(Http *h) {
    const double now = clock_s();
    uint64_t gone[GONE_AT_ONCE];
    int n = 0;
    pthread_mutex_lock(&h->lock);
    for (Connection *c = h->first; c; c = c->next) {
        const double limit = c->phase == PHASE_READING ? h->o.read_s : c->phase == PHASE_WRITING ? h->o.write_s : 1e9;
        if (now - c->since > limit && c->fd >= 0) {
            c->timed_out = 1;
            shutdown(c->fd, SHUT_RDWR);
        }
        if (c->phase == PHASE_WORKING && c->fd >= 0 && n < GONE_AT_ONCE && is_closed(c->fd)) gone[n++] = c->exchange;
    }
    pthread_mutex_unlock(&h->lock);
    for (int i = 0; i < n; i++) h->o.gone(h->o.ctx, gone[i]);
}

/* ---- exchanges --------------------------------------------------------------------------------------------------- */

static void answer_give(HttpExchange *x, int status, const char *type, struct MHD_Response *response, int retry_s) {
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (x->http->o.page_policy && !strncmp(type, "text/html", 9)) {
        MHD_add_response_header(response, "Content-Security-Policy", x->http->o.page_policy);
        MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    }
    if (status == MHD_HTTP_UNAUTHORIZED) MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (retry_s > 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", retry_s);
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, text);
    }
    pthread_mutex_lock(&x->http->lock);
    REQUIRE(!x->answered);
    x->response = response;
    x->status = status;
    x->answered = 1;
    const int resume = x->working;
    pthread_mutex_unlock(&x->http->lock);
    if (resume) MHD_resume_connection(x->connection);
}

void http_answer(HttpExchange *x, int status, const char *type, char *body, size_t size, int retry_s) {
    struct MHD_Response *response = MHD_create_response_from_buffer(size, body, MHD_RESPMEM_MUST_FREE);
    REQUIRE(response != NULL);
    answer_give(x, status, type, response, retry_s);
}

/* ---- answers in pieces ------------------------------------------------------------------------------------------- */

/* One owner writes (http_stream_send), the other is MHD's response. */
struct HttpStream {
    pthread_mutex_t lock;
    HttpExchange *x; /* of the response */
    char *text;
    size_t n, at, room; /* text[at .. n) is still to be sent */
    int suspended, ended, broken, gone, owners;
};

HttpStream *http_stream_open(void) {
    HttpStream *s = xcalloc(1, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    s->owners = 1;
    return s;
}

/* Unlocks, and frees with the last owner. */
static void stream_leave(HttpStream *s, int owners) {
    const int left = s->owners -= owners;
    pthread_mutex_unlock(&s->lock);
    if (left) return;
    pthread_mutex_destroy(&s->lock);
    free(s->text);
    free(s);
}

static ssize_t stream_read(void *ctx, uint64_t position, char *out, size_t most) {
    HttpStream *s = ctx;
    (void)position;
    pthread_mutex_lock(&s->lock);
    ssize_t n = (ssize_t)(s->n - s->at < most ? s->n - s->at : most);
    /* Time to take an answer begins anew with each piece, until the last of them is there. */
    const int more = !s->ended && !s->broken;
    if (s->broken) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (n > 0) {
        memcpy(out, s->text + s->at, (size_t)n);
        s->at += (size_t)n;
        if (s->at == s->n) s->at = s->n = 0;
    } else if (s->ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        s->suspended = 1;
        MHD_suspend_connection(s->x->connection);
    }
    const int waits = s->suspended;
    pthread_mutex_unlock(&s->lock);
    if (more) phase_set(s->x, waits ? PHASE_WORKING : PHASE_WRITING);
    return n;
}

static void stream_gone(void *ctx) {
    HttpStream *s = ctx;
    pthread_mutex_lock(&s->lock);
    s->gone = 1;
    stream_leave(s, 1);
}

/* Unlocks.  A suspended connection stays until it is resumed, by the one who took the mark away. */
static void stream_wake(HttpStream *s, int owners) {
    struct MHD_Connection *c = s->suspended ? s->x->connection : NULL;
    s->suspended = 0;
    stream_leave(s, owners);
    if (c) MHD_resume_connection(c);
}

int http_stream_send(HttpStream *s, const char *text, size_t size) {
    pthread_mutex_lock(&s->lock);
    if (s->n - s->at + size > STREAM_BYTES) s->broken = 1;
    const int read = !s->gone && !s->broken;
    if (read) {
        if (s->at) memmove(s->text, s->text + s->at, s->n - s->at);
        s->n -= s->at;
        s->at = 0;
        if (s->n + size > s->room) s->text = xrealloc(s->text, s->room = 2 * (s->n + size) + 1024);
        memcpy(s->text + s->n, text, size);
        s->n += size;
    }
    stream_wake(s, 0);
    return read;
}

void http_stream_end(HttpStream *s, int whole) {
    pthread_mutex_lock(&s->lock);
    s->ended = 1;
    s->broken |= !whole;
    stream_wake(s, 1);
}

void http_stream_start(HttpExchange *x, HttpStream *s, const char *type) {
    pthread_mutex_lock(&s->lock);
    s->owners++;
    s->x = x;
    pthread_mutex_unlock(&s->lock);
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_read, s, stream_gone);
    REQUIRE(response != NULL);
    answer_give(x, 200, type, response, 0);
}

/* ---- exchanges, on the library's thread -------------------------------------------------------------------------- */

static enum MHD_Result answer_queue(HttpExchange *x) {
    x->queued = 1;
    phase_set(x, PHASE_WRITING);
    return MHD_queue_response(x->connection, (unsigned)x->status, x->response);
}

static void too_long(HttpExchange *x) {
    char *text = xasprintf(
        "{\"error\":{\"code\":413,\"type\":\"too_large\",\"message\":\"the body is longer than %zu bytes\"}}\n",
        x->http->o.body_max);
    x->http->o.refused(x->http->o.ctx, &x->r, 413);
    http_answer(x, MHD_HTTP_CONTENT_TOO_LARGE, "application/json", text, strlen(text), 0);
}

/* Only the library's thread reads or writes what is counted. */
static void exchange_count(HttpExchange *x) {
    struct MHD_Connection *c = x->connection;
    const union MHD_ConnectionInfo *head = MHD_get_connection_info(c, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    const char *says = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONNECTION);
    x->of->exchange = x->r.id;
    x->of->read += STRAY_BYTES + (head ? head->header_size : 0);
    x->of->uncounted |= !head || MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    x->of->last = (says && strcasestr(says, "close")) || strcmp(x->version, MHD_HTTP_VERSION_1_1);
}

/* With TLS: how much had come by now, and how long a goodbye will be. */
static void wire_count(const HttpExchange *x) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_PROTOCOL);
    x->of->wire = bytes_received(x->of->fd);
    x->of->goodbye = info && info->protocol == TLS_1_3 ? GOODBYE_BYTES : GOODBYE_BYTES_OLD;
}

static HttpExchange *exchange_begin(Http *h, struct MHD_Connection *connection, const char *path, const char *method,
                                    const char *version) {
    HttpExchange *x = xcalloc(1, sizeof *x);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    x->http = h;
    x->connection = connection;
    x->of = info ? info->socket_context : NULL;
    x->path = xstrdup(path);
    x->version = version;
    x->r = (HttpRequest){.method = method, .path = x->path, .body = "", .id = ++h->exchanges};
    if (x->of) exchange_count(x);
    x->r.authorization = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    x->r.idempotency_key = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Idempotency-Key");
    address_text(connection, x->r.from);
    return x;
}

/* Bytes of a body: kept up to the limit, counted a while beyond it.  0: nobody sends that much by mistake. */
static int body_add(HttpExchange *x, const char *data, size_t n) {
    const size_t most = x->http->o.body_max;
    if (x->r.size + n > most) {
        x->too_long = 1;
        x->r.size += n;
        return x->r.size <= 2 * most + (1 << 20);
    }
    if (x->r.size + n + 1 > x->room) {
        x->room = 2 * (x->r.size + n) + 1024;
        x->text = xrealloc(x->text, x->room);
        x->r.body = x->text;
    }
    memcpy(x->text + x->r.size, data, n);
    x->r.size += n;
    x->text[x->r.size] = 0;
    return 1;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **con_cls) {
    Http *h = ctx;
    HttpExchange *x = *con_cls;
    if (!x) {
        *con_cls = x = exchange_begin(h, connection, url, method, version);
        const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
        if (h->o.head(h->o.ctx, x, &x->r)) return answer_queue(x);
        if (length && strtoull(length, NULL, 10) > h->o.body_max) {
            too_long(x);
            return answer_queue(x);
        }
        return MHD_YES;
    }
    if (x->queued) return MHD_YES;
    if (*size) {
        const int go_on = body_add(x, data, *size);
        *size = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    x->whole = 1;
    if (h->cert && x->of) wire_count(x);
    if (x->answered) return answer_queue(x);
    if (x->too_long) {
        too_long(x);
        return answer_queue(x);
    }
    phase_set(x, PHASE_WORKING);
    x->working = 1;
    MHD_suspend_connection(connection);
    h->o.handle(h->o.ctx, x, &x->r);
    return MHD_YES;
}

static void on_completed(void *ctx, struct MHD_Connection *connection, void **con_cls,
                         enum MHD_RequestTerminationCode why) {
    Http *h = ctx;
    HttpExchange *x = *con_cls;
    (void)connection;
    if (!x) return;
    if (x->of) {
        x->of->read += x->r.size;
        /* Answered before all of it was read, or cut off: it is the last, and has been told. */
        x->of->last |= (!x->working && !x->whole) || why != MHD_REQUEST_TERMINATED_COMPLETED_OK;
    }
    phase_set(x, PHASE_READING);
    if (!x->answered) h->o.refused(h->o.ctx, &x->r, 408);
    h->o.done(h->o.ctx, &x->r);
    if (x->response) MHD_destroy_response(x->response);
    free(x->path);
    free(x->text);
    free(x);
    *con_cls = NULL;
}

/* Paths are compared as they were sent: no escape can make one of ours out of another. */
static size_t unescape_nothing(void *ctx, struct MHD_Connection *connection, char *text) {
    (void)ctx;
    (void)connection;
    return strlen(text);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void silent(void *ctx, const char *format, va_list args) {
    (void)ctx;
    (void)format;
    (void)args;
}

static Status address_of(const HttpOptions *o, struct sockaddr_storage *out, Err *err) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, o->bind, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)o->port);
        return OK;
    }
    if (inet_pton(AF_INET6, o->bind, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)o->port);
        return OK;
    }
    return err_set(err, ERR_USAGE, "--bind takes an address such as 127.0.0.1 or ::1, not '%s'", o->bind);
}

static Status tls_read(Http *h, Err *err) {
    if (!h->o.cert && !h->o.key) return OK;
    if (!h->o.cert || !h->o.key) return err_set(err, ERR_USAGE, "TLS needs both --tls-cert and --tls-key");
    if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return err_set(err, ERR_USAGE,
                       "--tls-cert: the libmicrohttpd of this machine was built without TLS; put a proxy in front");
    Status s = file_read(h->o.cert, 1 << 20, &h->cert, NULL, err);
    return s ? s : file_read(h->o.key, 1 << 20, &h->key, NULL, err);
}

Status http_open(Http **out, const HttpOptions *o, Err *err) {
    struct sockaddr_storage address;
    Http *h = xcalloc(1, sizeof *h);
    h->o = *o;
    h->listening = -1;
    *out = NULL;
    pthread_mutex_init(&h->lock, NULL);
    Status s = address_of(o, &address, err);
    if (!s) s = tls_read(h, err);
    if (!s) {
        unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME;
        if (h->cert) flags |= MHD_USE_TLS;
        if (address.ss_family == AF_INET6) flags |= MHD_USE_IPv6;
        const struct MHD_OptionItem tls[] = {
            {MHD_OPTION_HTTPS_MEM_CERT, 0, h->cert}, {MHD_OPTION_HTTPS_MEM_KEY, 0, h->key}, {MHD_OPTION_END, 0, NULL}};
        const struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
        h->daemon = MHD_start_daemon(
            flags | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, silent, NULL,
            MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_CONNECTION_LIMIT, (unsigned)o->connections,
            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
            MHD_OPTION_NOTIFY_COMPLETED, on_completed, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
            MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_UNESCAPE_CALLBACK, unescape_nothing, NULL, MHD_OPTION_ARRAY,
            h->cert ? tls : none, MHD_OPTION_END);
        if (!h->daemon)
            s = err_set(err, ERR_IO, "cannot listen on %s port %d%s: is the port taken%s?", o->bind, o->port,
                        h->cert ? " with TLS" : "", h->cert ? ", or a certificate or key no PEM file" : "");
    }
    if (s) http_close(h);
    else *out = h;
    return s;
}

int http_port(const Http *h) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info && info->port ? info->port : h->o.port;
}

void http_quiesce(Http *h) {
    if (h->listening < 0) h->listening = MHD_quiesce_daemon(h->daemon);
    if (h->listening >= 0) close(h->listening);
    h->listening = -1;
}

/* Whether an answer is on its way. */
static int is_writing(Http *h) {
    int writing = 0;
    pthread_mutex_lock(&h->lock);
    for (Connection *c = h->first; c; c = c->next) writing |= c->phase != PHASE_READING;
    pthread_mutex_unlock(&h->lock);
    return writing;
}

void http_close(Http *h) {
    const struct timespec moment = {0, 10000000};
    for (double until = clock_s() + 2; h->daemon && is_writing(h) && clock_s() < until;) nanosleep(&moment, NULL);
    h->closing = 1;
    if (h->daemon) MHD_stop_daemon(h->daemon);
    pthread_mutex_destroy(&h->lock);
    free(h->cert);
    free(h->key);
    free(h);
}

#else /* no libmicrohttpd */

Status http_open(Http **out, const HttpOptions *o, Err *err) {
    (void)o;
    *out = NULL;
    return err_set(
        err, ERR_USAGE,
        "this ehr-infer was built without libmicrohttpd and cannot serve: install it (Debian: apt-get install "
        "libmicrohttpd-dev; or `make setup`) and run make again");
}
int http_port(const Http *h) { return h ? 0 : -1; }
void http_tick(Http *h) { (void)h; }
void http_quiesce(Http *h) { (void)h; }
void http_close(Http *h) { (void)h; }
void http_answer(HttpExchange *x, int status, const char *type, char *body, size_t size, int retry_s) {
    (void)x;
    (void)status;
    (void)type;
    (void)size;
    (void)retry_s;
    free(body);
}
HttpStream *http_stream_open(void) { return NULL; }
void http_stream_start(HttpExchange *x, HttpStream *s, const char *type) {
    (void)x;
    (void)s;
    (void)type;
}
int http_stream_send(HttpStream *s, const char *text, size_t size) {
    (void)s;
    (void)text;
    (void)size;
    return 0;
}
void http_stream_end(HttpStream *s, int whole) {
    (void)s;
    (void)whole;
}

#endif
