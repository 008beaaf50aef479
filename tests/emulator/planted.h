/* planted.h - what the emulator's own test runs: instructions and functions that must be right, and small
 * programs with a bug that can be switched on, with the way each is caught. */
#ifndef EHR_TESTS_EMULATOR_PLANTED_H
#define EHR_TESTS_EMULATOR_PLANTED_H

/* How the bug shows. */
enum Caught {
    WRONG_RESULT,  /* in some schedule; where accesses are checked, in every one, as a fault that says `message` if any
                    */
    CHECKED_FAULT, /* a FAULT that only those see who check accesses */
    FAULT,         /* the emulator says what is wrong: `message` */
    RUNTIME_ERROR  /* the runtime's function returns an error, and `message` is printed or empty */
};

struct Planted {
    const char *name;
    int (*run)(bool bug); /* 0 = right, 1 = wrong result, 2 = the runtime said no */
    Caught caught;
    const char *message;
    /* Of bugs whose program without a bug is the same one: what names it.  It runs once for all of them. */
    const void *twin = nullptr;
};

/* What must simply be right. */
struct Instruction {
    const char *name;
    int (*run)(); /* 0 = right; otherwise stderr says what is wrong */
};

extern const Instruction instructions[], hopper_instructions[], runtime_functions[];
extern const int n_instructions, n_hopper_instructions, n_runtime_functions;
extern const Planted planted_kernels[], planted_hopper[], planted_cluster[], planted_host[];
extern const int n_planted_kernels, n_planted_hopper, n_planted_cluster, n_planted_host;

#endif
