/* table.c - see table.h.  In HDF5 a table is one dataset per column, in order of creation, and text attributes of the
 * root. */
#include "data/table.h"
#include "data/h5.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TABLE_FORMAT "ehr.c table"

void table_init(Table *t, int64_t n) {
    REQUIRE(n >= 0);
    *t = (Table){.n = n};
}

void table_free(Table *t) {
    for (int i = 0; i < t->n_columns; i++) free(t->column[i].data);
    for (int i = 0; i < t->n_attributes; i++) {
        free(t->attribute_name[i]);
        free(t->attribute[i]);
    }
    free(t->column);
    free(t->attribute_name);
    free(t->attribute);
    memset(t, 0, sizeof *t);
}

static void column_push(Table *t, const char *name, ColumnType type, void *data) {
    t->column = xrealloc(t->column, sizeof *t->column * (size_t)(t->n_columns + 1));
    Column *c = &t->column[t->n_columns++];
    *c = (Column){.type = type, .width = 1, .data = data};
    snprintf(c->name, sizeof c->name, "%s", name);
}

void *table_add(Table *t, const char *name, ColumnType type) {
    REQUIRE(strlen(name) < sizeof t->column->name);
    void *data = xcalloc((size_t)t->n, 8);
    column_push(t, name, type, data);
    return data;
}

float *table_add_matrix(Table *t, const char *name, int width) {
    REQUIRE(strlen(name) < sizeof t->column->name && width >= 1);
    float *data = (size_t)width <= SIZE_MAX / 4 / ((size_t)t->n + 1) ? try_calloc((size_t)t->n * (size_t)width, sizeof *data) : NULL;
    if (!data) return NULL;
    column_push(t, name, COLUMN_F32, data);
    t->column[t->n_columns - 1].width = width;
    return data;
}

static size_t row_bytes(const Column *c) { return c->type == COLUMN_F32 ? 4 * (size_t)c->width : 8; }

void table_set(Table *t, const char *name, const char *text) {
    for (int i = 0; i < t->n_attributes; i++)
        if (!strcmp(t->attribute_name[i], name)) {
            free(t->attribute[i]);
            t->attribute[i] = xstrdup(text);
            return;
        }
    size_t n = (size_t)t->n_attributes + 1;
    t->attribute_name = xrealloc(t->attribute_name, n * sizeof *t->attribute_name);
    t->attribute = xrealloc(t->attribute, n * sizeof *t->attribute);
    t->attribute_name[n - 1] = xstrdup(name);
    t->attribute[n - 1] = xstrdup(text);
    t->n_attributes = (int)n;
}

const void *table_get(const Table *t, const char *name, ColumnType type) {
    for (int i = 0; i < t->n_columns; i++)
        if (t->column[i].type == type && !strcmp(t->column[i].name, name)) return t->column[i].data;
    return NULL;
}

const char *table_attribute(const Table *t, const char *name) {
    for (int i = 0; i < t->n_attributes; i++)
        if (!strcmp(t->attribute_name[i], name)) return t->attribute[i];
    return NULL;
}

/* ---- HDF5 -------------------------------------------------------------------------------------------------------- */

static hid_t column_h5_type(ColumnType type) {
    return type == COLUMN_I64   ? H5T_STD_I64LE
           : type == COLUMN_U64 ? H5T_STD_U64LE
           : type == COLUMN_F32 ? H5T_IEEE_F32LE
                                : H5T_IEEE_F64LE;
}

/* Room for every column; place[i] is where its data go. */
static Status write_structure(const Table *t, const char *path, int64_t *place, Err *err) {
    hid_t file;
    Status status = h5_create(&file, path, err);
    if (status) return status;
    status = h5_write_text(file, path, "format", TABLE_FORMAT, err);
    for (int i = 0; i < t->n_attributes && !status; i++)
        status = h5_write_text(file, path, t->attribute_name[i], t->attribute[i], err);
    for (int i = 0; i < t->n_columns && !status; i++) {
        const Column *c = &t->column[i];
        hsize_t dim[2] = {(hsize_t)t->n, (hsize_t)c->width};
        status = h5_place_dataset(file, path, c->name, column_h5_type(c->type), c->type == COLUMN_F32 ? 2 : 1, dim, &place[i], err);
    }
    if (H5Fclose(file) < 0 && !status) status = err_set(err, ERR_IO, "cannot write %s (disk full?)", path);
    return status;
}

Status table_write_h5(const Table *t, const char *path, Err *err) {
    char *tmp = xasprintf("%s.tmp", path);
    int64_t *place = xcalloc((size_t)t->n_columns, sizeof *place), text = 0, bytes = 0;
    for (int i = 0; i < t->n_columns; i++) bytes += t->n * (int64_t)row_bytes(&t->column[i]);
    for (int i = 0; i < t->n_attributes; i++) text += (int64_t)strlen(t->attribute[i]) + 256;
    Status status = h5_probe(tmp, bytes + 1024 * (int64_t)t->n_columns, text, err);
    if (!status) status = write_structure(t, tmp, place, err);
    int fd = status ? -1 : open(tmp, O_WRONLY | O_CLOEXEC);
    if (!status && fd < 0) status = err_set(err, ERR_IO, "cannot write %s: %s", tmp, strerror(errno));
    for (int i = 0; i < t->n_columns && !status; i++)
        status = h5_write_at(fd, tmp, t->column[i].data, row_bytes(&t->column[i]) * (size_t)t->n, place[i], err);
    status = h5_publish(fd, tmp, path, status, err);
    free(place);
    free(tmp);
    return status;
}

static int column_type_of(hid_t set, ColumnType *out) {
    hid_t type = H5Dget_type(set);
    int known = type >= 0;
    if (known && H5Tget_class(type) == H5T_FLOAT) *out = COLUMN_F64;
    else if (known && H5Tget_class(type) == H5T_INTEGER)
        *out = H5Tget_sign(type) == H5T_SGN_NONE && H5Tget_size(type) == 8 ? COLUMN_U64 : COLUMN_I64;
    else known = 0;
    if (type >= 0) H5Tclose(type);
    return known;
}

static Status read_column(Table *t, hid_t file, const char *path, const char *name, Err *err) {
    hid_t set;
    hsize_t n;
    ColumnType type = COLUMN_F64;
    if (strlen(name) >= sizeof t->column->name) return err_set(err, ERR_FORMAT, "%s: column name too long", path);
    Status status = h5_open_dataset(&set, file, path, name, 1, &n, err);
    if (status) return status;
    void *data = NULL;
    if (!column_type_of(set, &type)) status = err_set(err, ERR_FORMAT, "%s: column %s is not numeric", path, name);
    else if (t->n_columns && (hsize_t)t->n != n)
        status = err_set(err, ERR_FORMAT, "%s: column %s has %llu rows, %lld were expected", path, name,
                         (unsigned long long)n, (long long)t->n);
    else if (n && H5Dget_storage_size(set) < n)
        status = err_set(err, ERR_FORMAT, "%s: column %s has no data", path, name);
    else if (!(data = try_calloc((size_t)n, 8)))
        status = err_set(err, ERR_NOMEM, "%s: no memory for column %s of %llu rows", path, name, (unsigned long long)n);
    else if (n && H5Dread(set, column_h5_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        status = err_set(err, ERR_FORMAT, "%s: column %s cannot be read (damaged?)", path, name);
    H5Dclose(set);
    if (status) {
        free(data);
        return status;
    }
    t->n = (int64_t)n;
    column_push(t, name, type, data);
    return OK;
}

static Status read_columns(Table *t, hid_t file, const char *path, Err *err) {
    H5G_info_t info;
    if (H5Gget_info(file, &info) < 0) return err_set(err, ERR_FORMAT, "%s has no readable root (damaged?)", path);
    /* Files of other writers may not track the order of creation. */
    char probe[2];
    H5_index_t order = info.nlinks && H5Lget_name_by_idx(file, ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, 0, probe,
                                                         sizeof probe, H5P_DEFAULT) >= 0
                           ? H5_INDEX_CRT_ORDER
                           : H5_INDEX_NAME;
    for (hsize_t i = 0; i < info.nlinks; i++) {
        char name[128];
        ssize_t n = H5Lget_name_by_idx(file, ".", order, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
        if (n < 0)
            return err_set(err, ERR_FORMAT, "%s: column %llu has no name (damaged?)", path, (unsigned long long)i);
        Status status = read_column(t, file, path, name, err);
        if (status) return status;
    }
    return OK;
}

static Status read_attributes(Table *t, hid_t file, const char *path, Err *err) {
    H5O_info_t info;
    if (H5Oget_info_by_name(file, ".", &info, H5P_DEFAULT) < 0)
        return err_set(err, ERR_FORMAT, "%s has no readable root (damaged?)", path);
    for (int i = 0; i < (int)info.num_attrs; i++) {
        char name[256], *text;
        hid_t a = H5Aopen_by_idx(file, ".", H5_INDEX_NAME, H5_ITER_INC, (hsize_t)i, H5P_DEFAULT, H5P_DEFAULT);
        int bad = a < 0 || H5Aget_name(a, sizeof name, name) < 0;
        if (a >= 0) H5Aclose(a);
        if (bad) return err_set(err, ERR_FORMAT, "%s: attribute %d cannot be read (damaged?)", path, i);
        if (!strcmp(name, "format")) continue;
        Status status = h5_read_text(file, path, name, &text, err);
        if (status) return status;
        table_set(t, name, text);
        free(text);
    }
    return OK;
}

Status table_read_h5(Table *t, const char *path, Err *err) {
    hid_t file;
    char *format = NULL;
    memset(t, 0, sizeof *t);
    Status status = h5_open(&file, path, err);
    if (status) return status;
    status = h5_read_text(file, path, "format", &format, err);
    if (!status && strcmp(format, TABLE_FORMAT))
        status = err_set(err, ERR_FORMAT, "%s is a file of \"%s\", a table (labels, risks, scores) was expected", path,
                         format);
    free(format);
    if (!status) status = read_attributes(t, file, path, err);
    if (!status) status = read_columns(t, file, path, err);
    H5Fclose(file);
    if (status) table_free(t);
    return status;
}

/* ---- CSV --------------------------------------------------------------------------------------------------------- */

static void print_cell(FILE *f, const Column *c, int64_t row) {
    for (int k = 0; c->type == COLUMN_F32 && k < c->width; k++)
        fprintf(f, "%s%.9g", k ? "," : "", (double)((const float *)c->data)[row * c->width + k]);
    if (c->type == COLUMN_F32) return;
    if (c->type == COLUMN_I64) fprintf(f, "%lld", (long long)((const int64_t *)c->data)[row]);
    else if (c->type == COLUMN_U64) fprintf(f, "%llu", (unsigned long long)((const uint64_t *)c->data)[row]);
    else if (!isnan(((const double *)c->data)[row])) fprintf(f, "%.9g", ((const double *)c->data)[row]);
}

/* A line break inside an attribute would end its comment. */
static void print_comment(FILE *f, const char *name, const char *text) {
    fprintf(f, "# %s: ", name);
    for (; *text; text++) fputc(*text == '\n' || *text == '\r' ? ' ' : *text, f);
    fputc('\n', f);
}

Status table_write_csv(const Table *t, const char *path, int comments, Err *err) {
    OutFile out;
    Status  s = out_file_open(&out, path, err);
    FILE   *f = out.f;
    if (s) return out_file_close(&out, s, err);
    for (int i = 0; comments && i < t->n_attributes; i++) print_comment(f, t->attribute_name[i], t->attribute[i]);
    for (int i = 0; i < t->n_columns; i++)
        for (int k = 0; k < t->column[i].width; k++) {
            fprintf(f, "%s%s", i || k ? "," : "", t->column[i].name);
            if (t->column[i].type == COLUMN_F32) fprintf(f, "_%d", k);
        }
    fputc('\n', f);
    for (int64_t row = 0; row < t->n; row++)
        for (int i = 0; i < t->n_columns; i++) {
            print_cell(f, &t->column[i], row);
            fputc(i + 1 < t->n_columns ? ',' : '\n', f);
        }
    return out_file_close(&out, OK, err);
}
