/* h5.h - the few HDF5 calls that shards and tables share: files whose bytes depend on their content alone (no object
 * times), checksummed metadata, string and integer attributes, datasets that are contiguous and unfiltered. */
#ifndef EHR_DATA_H5_H
#define EHR_DATA_H5_H
#include "model/base.h"
#include <hdf5.h>

/* HDF5 prints its error stack unless told not to, per thread; every entry point of ours calls this first. */
static inline void h5_quiet(void) { H5Eset_auto2(H5E_DEFAULT, NULL, NULL); }

Status h5_create(hid_t *file, const char *path, Err *err);
Status h5_open(hid_t *file, const char *path, Err *err); /* read only; ERR_FORMAT when it is not HDF5 */

/* Contiguous dataset of ndim dimensions, storage allocated at once; data may be NULL (written later by slabs). */
Status h5_write_dataset(hid_t file, const char *path, const char *name, hid_t type, int ndim, const hsize_t *dim,
                        const void *data, Err *err);
/* Opens a dataset and refuses whatever could make reading it run code or touch other files: external and soft links,
 * external storage, filters, chunks.  dim must have room for ndim. */
Status h5_open_dataset(hid_t *out, hid_t file, const char *path, const char *name, int ndim, hsize_t *dim, Err *err);

Status h5_write_text(hid_t object, const char *path, const char *name, const char *text, Err *err);
Status h5_read_text(hid_t object, const char *path, const char *name, char **out, Err *err); /* free() it */
Status h5_write_int(hid_t object, const char *path, const char *name, int64_t value, Err *err);
Status h5_read_int(hid_t object, const char *path, const char *name, int64_t *out, Err *err);
/* The root attribute "format" of an HDF5 file; NULL when there is none or it is not HDF5.  free() it. */
char  *h5_format(const char *path);
/* Whether to read a path as an events file: it says it is one, or it is a damaged .h5 file that says nothing. */
int    h5_is_events(const char *path);

#endif
