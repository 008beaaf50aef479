/* h5.h - the few HDF5 calls that shards and tables share: files whose bytes depend on their content alone (no object
 * times), checksummed metadata, string and integer attributes, datasets that are contiguous and unfiltered. */
#ifndef EHR_DATA_H5_H
#define EHR_DATA_H5_H
#include "model/base.h"
#include <hdf5.h>

/* HDF5 prints its error stack unless told not to, per thread; every entry point of ours calls this first. */
static inline void h5_quiet(void) { H5Eset_auto2(H5E_DEFAULT, NULL, NULL); }

/* ---- writing --------------------------------------------------------------------------------------------------------
 * HDF5 1.10 frees its own state twice when a disk is full as a file is closed.  So it makes the structure alone, a few
 * KiB, after h5_probe has seen that there is room for the whole; the arrays are then written to the places that
 * h5_place_dataset told, by calls whose failure is harmless. */

/* Whether the disk takes a file of `bytes` and `text` bytes of attributes; leaves a file at path, for h5_create. */
Status h5_probe(const char *path, int64_t bytes, int64_t text, Err *err);
Status h5_create(hid_t *file, const char *path, Err *err);
/* A contiguous dataset of ndim dimensions; *place is where its data go in the file, 0 when it has no rows. */
Status h5_place_dataset(hid_t file, const char *path, const char *name, hid_t type, int ndim, const hsize_t *dim,
                        int64_t *place, Err *err);
Status h5_write_text(hid_t object, const char *path, const char *name, const char *text, Err *err);
Status h5_write_int(hid_t object, const char *path, const char *name, int64_t value, Err *err);
Status h5_write_at(int fd, const char *path, const void *data, size_t size, int64_t place, Err *err);
/* fsync, close fd, rename; removes tmp when given a status that is not OK or when it fails itself.  fd may be -1. */
Status h5_publish(int fd, const char *tmp, const char *path, Status status, Err *err);

/* ---- reading ----------------------------------------------------------------------------------------------------- */

Status h5_open(hid_t *file, const char *path, Err *err); /* read only; ERR_FORMAT when it is not HDF5 */
/* Opens a dataset and refuses whatever could make reading it run code or touch other files: external and soft links,
 * external storage, filters, chunks.  dim must have room for ndim. */
Status h5_open_dataset(hid_t *out, hid_t file, const char *path, const char *name, int ndim, hsize_t *dim, Err *err);

Status h5_read_text(hid_t object, const char *path, const char *name, char **out, Err *err); /* free() it */
Status h5_read_int(hid_t object, const char *path, const char *name, int64_t *out, Err *err);
/* The root attribute "format" of an HDF5 file; NULL when there is none or it is not HDF5.  free() it. */
char *h5_format(const char *path);
/* Whether to read a path as an events file: it says it is one, or it is a damaged .h5 file that says nothing. */
int h5_is_events(const char *path);

#endif
