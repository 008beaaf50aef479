/* bench_process.h - a rival in a process of its own: it answers each line written to it with a line of its own, so that
 * its steps and ours take turns. */
#ifndef EHR_TESTS_BENCH_PROCESS_H
#define EHR_TESTS_BENCH_PROCESS_H
#include "tests/bench_machine.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    pid_t pid;
    FILE *to, *from;
    char name[160]; /* the first line it wrote, up to a comma */
    BenchTimes step, forward;
    double memory;
} RivalProcess;

/* Runs a shell's command, whose first line is still to come. */
static inline void rival_start(RivalProcess *r, const char *command) {
    int in[2], out[2];
    *r = (RivalProcess){0};
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) return;
    signal(SIGPIPE, SIG_IGN);
    r->pid = fork();
    if (r->pid == 0) {
        dup2(in[0], 0), dup2(out[1], 1);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(in[0]), close(out[1]);
    r->to = fdopen(in[1], "w"), r->from = fdopen(out[0], "r");
}

/* Waits for the first line: 0, or -1 when it ended without one. */
static inline int rival_ready(RivalProcess *r) {
    if (r->pid < 0 || !r->to || !r->from || !fgets(r->name, sizeof r->name, r->from)) return -1;
    r->name[strcspn(r->name, ",\n")] = 0;
    return 0;
}

/* The number it answers with; NaN when it is gone. */
static inline double rival_ask(RivalProcess *r, const char *line) {
    double answer;
    if (fprintf(r->to, "%s\n", line) < 0 || fflush(r->to) || fscanf(r->from, "%lf", &answer) != 1) return NAN;
    return answer;
}

static inline void rival_end(RivalProcess *r) {
    if (r->to) fclose(r->to);
    if (r->from) fclose(r->from);
    if (r->pid > 0) waitpid(r->pid, NULL, 0);
    r->pid = 0;
}

#endif
