/* base.h - errors, checked allocation, clocks and progress lines.  Leaf: libc only, anyone may include it. */
#ifndef EHR_MODEL_BASE_H
#define EHR_MODEL_BASE_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Every function that can fail on input, files or hardware returns Status, 0 meaning success, and takes Err last.
 * No other convention is used.  A program maps ERR_USAGE to exit code 2 and everything else to 1. */
typedef enum {
    OK = 0,
    ERR_USAGE,  /* flag or option value */
    ERR_FORMAT, /* a file is not what it says it is */
    ERR_IO,     /* open, read, write, rename, disk full */
    ERR_NOMEM,  /* an allocation whose size comes from input or flags */
    ERR_DEVICE, /* sticky: the process cannot continue */
    ERR_COMM    /* sticky: the whole job cannot continue */
} Status;

typedef struct {
    Status code;
    char   msg[1024];
} Err;

/* Both return the code, so that callers write: return err_set(err, ERR_IO, ...).  A message says what was being done,
 * to which file or flag, what was expected, what was found, and what to do next. */
Status err_set(Err *err, Status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
Status err_context(Err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* prepends "fmt: " */

/* A broken promise between two pieces of our own code.  Always compiled in. */
#define REQUIRE(cond) ((cond) ? (void)0 : require_failed(#cond, __FILE__, __LINE__))
void require_failed(const char *cond, const char *file, int line) __attribute__((noreturn));

/* Host memory for sizes that our own code bounds; abort when there is none.  Sizes that input decides go through
 * try_calloc: NULL when count * size overflows or memory is short, for the caller to report as ERR_NOMEM. */
void *xmalloc(size_t bytes);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t bytes);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *try_calloc(size_t count, size_t size);

double clock_s(void); /* monotonic seconds */

/* A line of progress for long work: rewritten in place with rate and time left on a terminal, a plain line every
 * 10 s when piped.  Nothing is printed for work that ends within a second. */
typedef struct {
    FILE       *out;   /* NULL: silent */
    const char *label; /* "tokenize" */
    const char *unit;  /* "patients" */
    int64_t     total; /* 0 = unknown */
    double      start_s, last_s;
    int         terminal, shown;
    char        note[48]; /* told behind the rate: ", 1200 tokens/s" */
} Progress;
void progress_open(Progress *p, FILE *out, const char *label, const char *unit, int64_t total);
void progress_update(Progress *p, int64_t done);
void progress_close(Progress *p, int64_t done);

/* A file that appears whole or not at all, and outlives a power failure: path.tmp, fsync, rename, fsync of the folder.  What
 * is there and no plain file (a pipe, a device) is written to as it is.  out_file_close after every out_file_open, failed
 * ones too; s: how the writing went (not OK: what was at path stays), which it returns, or its own failure. */
typedef struct {
    FILE *f;
    char *tmp, *path; /* tmp NULL: written in place */
} OutFile;
Status out_file_open(OutFile *o, const char *path, Err *err);
Status out_file_close(OutFile *o, Status s, Err *err);
/* For what is written by other means, fsync included: gives tmp the name path for good, unless that is no plain file's. */
Status file_publish(const char *tmp, const char *path, Err *err);

/* Whole small files.  file_read: at most max_bytes, NUL appended, free with free().  file_write: as an OutFile. */
Status file_read(const char *path, size_t max_bytes, char **out, size_t *size, Err *err);
Status file_write(const char *path, const void *data, size_t size, Err *err);
Status dir_make(const char *path, Err *err); /* with parents, for good; an existing folder is fine */
/* Names that were made in a folder, or beside `path`, outlive a power failure from here on; nonzero: errno says why not. */
int dir_sync(const char *path);
int dir_sync_parent(const char *path);
int    path_exists(const char *path);
int    path_is_dir(const char *path);
char  *path_copy(const char *path); /* without slashes at its end; free() */

/* Splits "a,b,c" in place; returns the number of parts written (at most max). */
int split_list(char *s, char **parts, int max);
/* All parts of the list, *n of them; free() the array. */
char **split_all(char *s, int *n);

#endif
