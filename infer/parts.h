/* parts.h - long work in parts, each a file beside the result: what ranks share out among themselves, what a run that
 * was killed does not do again, and what is joined to the result when all are there.
 *
 * OUT.parts/00007.h5 is a table (data/table.h) with the rows of part 7, a column `row` that says where they belong in
 * the result, and attributes parts (how many there are), fingerprint (of everything that decides the numbers) and those
 * of the result.  No messages are passed: ranks meet in the folder alone, so nothing but a launcher is needed. */
#ifndef EHR_INFER_PARTS_H
#define EHR_INFER_PARTS_H
#include "data/table.h"
#include "model/launch.h"

Launch ranks_read(void); /* of the launcher, if any */
/* The cores of this process; its part of the host's when it is bound to none. */
int ranks_threads(const Launch *l);

/* Items are cut into parts that depend on their number alone. */
int64_t part_size(int64_t n_items);
int part_count(int64_t n_items);

typedef struct {
    const char *out;         /* the result: FILE.csv or FILE.h5 */
    const char *suffix;      /* "" or "-curve": of a second table of the same parts */
    const char *fingerprint; /* hexadecimal */
    int n;
} Parts;

/* Makes OUT.parts. */
Status parts_open(const Parts *p, Err *err);
/* 1: part k is there and was made with this fingerprint; 0: not there.  ERR_USAGE: made by other settings. */
Status part_there(const Parts *p, int k, int *there, Err *err);
/* Adds the attributes to t and writes it. */
Status part_write(const Parts *p, int k, Table *t, Err *err);

/* Joins all parts of OUT to OUT, and of OUT.parts' second tables to their files, if all are there; then removes them.  One
 * process at a time, by a lock on a file there, so that the last one to come sees all.  *missing: parts that are not there
 * yet (nothing is done then).  Names of what was written are printed on names. */
Status parts_join(const char *out, int *missing, FILE *names, Err *err);

/* FILE.csv and "-curve" -> FILE-curve.csv; free() it. */
char *out_name(const char *out, const char *suffix);
/* ERR_USAGE unless the name ends in .csv or .h5, ERR_IO unless its folder is there: before the hours of work. */
Status out_check(const char *out, Err *err);
Status out_write(const Table *t, const char *out, Err *err);

#endif
