/* flags.h - command lines from one table: parsing, range checks, --help, the start-up banner and the settings stored
 * with outputs all read it.  Leaf. */
#ifndef EHR_MODEL_FLAGS_H
#define EHR_MODEL_FLAGS_H
#include "model/base.h"

typedef enum {
    FLAG_INT,      /* int64_t * */
    FLAG_FLOAT,    /* double * */
    FLAG_BOOL,     /* int *; "--name" or "--name=yes|no" */
    FLAG_STRING,   /* const char ** */
    FLAG_ENUM,     /* const char **, one of choices "a|b|c" */
    FLAG_SIZE,     /* int64_t *, bytes: 512M, 2G, 4096 */
    FLAG_DURATION, /* int64_t *, minutes: 365d, 12h, 90min, 2y (= 365.25 d each) */
    FLAG_LIST      /* StringList *, may be repeated */
} FlagType;

enum { STRING_LIST_MAX = 64 };
typedef struct {
    int         n;
    const char *item[STRING_LIST_MAX];
} StringList;

typedef struct {
    const char *name; /* "--seq-len" */
    FlagType    type;
    void       *value;    /* holds the default before flags_parse */
    double      min, max; /* numbers; both 0 = no limit */
    const char *choices;  /* FLAG_ENUM: "cosine|linear|constant" */
    const char *help;     /* one line, with the unit */
    int         seen;     /* set by flags_parse */
} Flag;

/* "--name value" or "--name=value"; other arguments are positional and stored in order in pos (at most pos_max).
 * Unknown names (the nearest is suggested), repeated flags, trailing junk ("12x"), overflow and values out of range
 * are ERR_USAGE naming the flag.  "--help"/"-h" sets *help and returns OK.  argv[0] is the first argument looked at. */
Status flags_parse(Flag *flags, int n, int argc, char **argv, const char **pos, int pos_max, int *n_pos, int *help,
                   Err *err);
void   flags_help(const Flag *flags, int n, const char *usage, const char *about, FILE *out);
void   flags_print(const Flag *flags, int n, FILE *out); /* banner, one aligned line each; marks what is not default */
char  *flags_json(const Flag *flags, int n);             /* {"seq-len": 512, ...}; free() it */

int text_distance(const char *a, const char *b); /* Levenshtein's, for "did you mean" */

/* One row per command of a program, for programs with commands. */
typedef struct {
    const char *name, *about;
    Status (*run)(int argc, char **argv, Err *err); /* argv[0] is the first argument after the command */
} Command;

/* Runs argv[1] of a program, prints help or "did you mean", reports errors on stderr; returns the exit code 0, 1, 2. */
int command_main(const Command *commands, int n, const char *program, const char *about, int argc, char **argv);

/* The line that opens every --help. */
#define PIPELINE_LINE "import -> deidentify -> tokenize -> validate -> label -> train -> risk -> evaluate"

#endif
