/* csv.h - comma- or tab-separated records from a stream, one at a time, in bounded memory.
 *
 * The header line tells the separator.  Comma files follow RFC 4180 (quoted fields may hold separators, doubled quotes
 * and line ends); in tab files, which vocabulary downloads are, a quote is an ordinary character unless it stands at
 * both ends of a field.  A byte order mark, CRLF and a missing last line end are fine.  Bytes that are not UTF-8 are
 * taken as Latin-1 and counted; NUL bytes become blanks and are counted.  A record with the wrong number of fields, one
 * longer than max_line and the line where a quote opens that never closes are passed over and counted: reading goes on
 * behind them. */
#ifndef EHR_DATA_CSV_H
#define EHR_DATA_CSV_H
#include "data/archive.h"

typedef struct {
    int64_t rows;        /* records after the header, those passed over included */
    int64_t wrong_count; /* passed over: number of fields */
    int64_t too_long;    /* passed over: longer than max_line */
    int64_t open_quote;  /* passed over: a quote that never closes */
    int64_t bad_utf8;    /* records with bytes that are not UTF-8 */
    int64_t nul_bytes;   /* records with NUL bytes */
    int64_t first_bad;   /* number of the first record passed over, from 1; 0 = none */
} CsvCounts;

typedef struct {
    Stream *stream; /* borrowed */
    char separator;
    int n_columns;
    char **column; /* names, lower case, trimmed */
    char **field;  /* (n_columns) of the current record, NUL-terminated, valid until the next csv_next */
    CsvCounts counts;

    size_t max_line;
    char *buffer; /* [begin, end) is not consumed yet */
    size_t begin, end, capacity;
    int at_end; /* the stream is used up */
    int field_capacity, n_fields;
    char *clean; /* a record made valid UTF-8 */
    size_t clean_capacity;
} Csv;

/* Reads the header.  ERR_FORMAT for an empty file, UTF-16 or a header without names. */
Status csv_open(Csv *c, Stream *stream, size_t max_line, Err *err);
void csv_close(Csv *c);
/* Number of a column by name in any case; -1: none. */
int csv_column(const Csv *c, const char *name);
/* *got = 1: c->field holds the next record; 0: no more. */
Status csv_next(Csv *c, int *got, Err *err);

#endif
