/* intern.h - a table of distinct strings with dense ids in order of arrival, and its size in bytes for memory budgets.
 */
#ifndef EHR_DATA_INTERN_H
#define EHR_DATA_INTERN_H
#include <stddef.h>
#include <stdint.h>

#define INTERN_NONE UINT32_MAX

typedef struct {
    char **item; /* (n) */
    uint32_t n, capacity;
    uint32_t *slot; /* (n_slots) id or INTERN_NONE, open addressing, at most half full */
    uint32_t n_slots;
    size_t bytes; /* held, roughly: strings, array and slots */
} Intern;

void intern_init(Intern *t);
void intern_free(Intern *t);
uint32_t intern_add(Intern *t, const char *s);        /* id, new or old */
uint32_t intern_find(const Intern *t, const char *s); /* INTERN_NONE: not there */
/* rank[id] = place of the string in strcmp order; (n), free() it */
uint32_t *intern_ranks(const Intern *t);

/* Bytes of s up to `max`, not ending inside a UTF-8 character. */
size_t utf8_cut(const char *s, size_t max);
/* Bytes of a valid UTF-8 character at s, 0 if there is none. */
int utf8_length(const unsigned char *s);
/* The n bytes at text with those that are not UTF-8 taken as Latin-1 -> out (2 n), returns how many. */
size_t utf8_repair(const char *text, size_t n, char *out);

#endif
