/* archive.h - the files of a folder or of a .zip, or one file of JSON, read as streams; nothing is ever unpacked to
 * disk.  A file that changes while it is read is an error.
 *
 * A zip is not trusted: names that point outside it, encrypted entries, entries that unpack to more than they declare
 * or to more than ARCHIVE_RATIO_MAX times their packed size, and archives that do so in sum, are refused.  Resource
 * forks
 * (__MACOSX/, ._NAME), hidden files and folders are passed over. */
#ifndef EHR_DATA_ARCHIVE_H
#define EHR_DATA_ARCHIVE_H
#include "model/base.h"

enum {
    ARCHIVE_RATIO_MAX = 250,
    ARCHIVE_ENTRIES_MAX = 100000,
    ARCHIVE_SMALL = 16 << 20 /* bytes: no ratio below this */
};

typedef struct {
    char *name;      /* path inside the folder or archive */
    int64_t size;    /* unpacked bytes; of a .gz file its packed bytes */
    int64_t index;   /* in the zip */
    int64_t changed; /* of a file: when, ns since 1970 */
} ArchiveEntry;

typedef struct {
    char *path;
    void *zip; /* zip_t *, NULL for a folder */
    int n;
    ArchiveEntry *entry; /* by name */
} Archive;

Status archive_open(Archive *a, const char *path, Err *err);
void archive_close(Archive *a);
/* Adds the files of a folder inside the folder; nothing happens when it is not there, or when it is an archive. */
Status archive_add_folder(Archive *a, const char *name, Err *err);

typedef struct {
    char *name; /* for messages: "ARCHIVE:ENTRY" or the path */
    int64_t size, done, changed;
    int fd;              /* plain file */
    void *gz, *zip_file; /* .gz file; zip entry */
    void *inflate;       /* zip entry that is a .gz itself */
    const char *memory;  /* bytes in memory */
} Stream;

Status stream_open(Stream *s, const Archive *a, int entry, Err *err);
Status stream_open_path(Stream *s, const char *path, Err *err); /* a file alone, plain or .gz */
void stream_memory(Stream *s, const char *name, const void *data, int64_t size); /* data is borrowed */
/* Up to n bytes into out; *got = 0 at the end. */
Status stream_read(Stream *s, void *out, size_t n, size_t *got, Err *err);
void stream_close(Stream *s);

#endif
