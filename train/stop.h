/* stop.h - a polite end: SIGUSR1, SIGTERM and SIGINT ask for a checkpoint at the next step and exit 0. */
#ifndef EHR_TRAIN_STOP_H
#define EHR_TRAIN_STOP_H

void        stop_install(void);   /* also lets a write past a file-size limit fail instead of killing the process */
int         stop_requested(void); /* this process has had such a signal */
const char *stop_signal(void);    /* its name */

#endif
