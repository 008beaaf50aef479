/* stop.c - see stop.h.  A second interrupt from the keyboard ends the process the ordinary way. */
#include "train/stop.h"
#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t stop_number;

static void stop_note(int number) {
    stop_number = number;
    if (number == SIGINT) signal(SIGINT, SIG_DFL);
}

void stop_install(void) {
    struct sigaction action = {.sa_handler = stop_note, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGXFSZ, SIG_IGN);
}

int stop_requested(void) { return stop_number != 0; }

const char *stop_signal(void) {
    return stop_number == SIGUSR1 ? "SIGUSR1" : stop_number == SIGTERM ? "SIGTERM" : "SIGINT";
}
