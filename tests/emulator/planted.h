/* planted.h - small programs with a bug that can be switched on, and how each is caught. */
#ifndef EHR_TESTS_EMULATOR_PLANTED_H
#define EHR_TESTS_EMULATOR_PLANTED_H

/* How the bug shows. */
enum Caught {
    WRONG_RESULT, /* in some schedule; where accesses are checked, in every one, as a fault that says `message` if any
                   */
    FAULT,        /* the emulator says what is wrong: `message` */
    RUNTIME_ERROR /* the runtime's function returns an error, and `message` is printed or empty */
};

struct Planted {
    const char *name;
    int (*run)(bool bug); /* 0 = right, 1 = wrong result, 2 = the runtime said no */
    Caught caught;
    const char *message;
};

extern const Planted planted_kernels[], planted_host[];
extern const int n_planted_kernels, n_planted_host;

#endif
