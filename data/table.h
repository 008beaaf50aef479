/* table.h - result tables (labels, risks, scores): columns of one length in HDF5 or CSV, with string attributes. */
#ifndef EHR_DATA_TABLE_H
#define EHR_DATA_TABLE_H
#include "model/base.h"

typedef enum { COLUMN_I64, COLUMN_U64, COLUMN_F64, COLUMN_F32 /* matrices only */ } ColumnType;
typedef struct {
    char name[64];
    ColumnType type;
    int width;  /* of a matrix; 1 otherwise */
    void *data; /* (n, width) */
} Column;
typedef struct {
    int64_t n; /* rows */
    int n_columns;
    Column *column;
    int n_attributes;
    char **attribute_name, **attribute;
} Table;

void table_init(Table *t, int64_t n);
void *table_add(Table *t, const char *name, ColumnType type); /* zeroed (n) data, owned by the table */
/* A matrix of float (n, width), zeroed; NULL when there is no memory.  Written, to HDF5 as one dataset and to CSV as
 * NAME_0, NAME_1 ..., never read. */
float *table_add_matrix(Table *t, const char *name, int width);
void table_set(Table *t, const char *name, const char *text);
void table_free(Table *t);
const void *table_get(const Table *t, const char *name, ColumnType type); /* NULL: no such column of that type */
const char *table_attribute(const Table *t, const char *name);            /* NULL: none */

Status table_write_h5(const Table *t, const char *path, Err *err); /* to a temporary name, then renamed */
Status table_read_h5(Table *t, const char *path, Err *err);
/* Header line, %.9g for F64 and F32, empty field for NaN; attributes as "# name: value" lines before it when comments != 0. */
Status table_write_csv(const Table *t, const char *path, int comments, Err *err);

#endif
