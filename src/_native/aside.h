/* A process beside the supervisor, for what the kernel takes long about and nobody should wait for. */
#ifndef PCTR_ASIDE_H
#define PCTR_ASIDE_H

enum pctr_aside_kind {
    PCTR_ASIDE_CLOSE = 'c',   /* closes a descriptor; no answer */
    PCTR_ASIDE_NETWORK = 'n', /* makes a network namespace (netpool.h) */
    PCTR_ASIDE_CLEAN = 's',   /* makes a spare directory as new (spares.h) */
    PCTR_ASIDE_CHECK = 'k',   /* looks whether one that is mounted is as new */
};

/* One order, with a descriptor or -1; the process is started at the first.  0, or -errno where there is
 * none that takes it. */
int pctr_aside_order(enum pctr_aside_kind kind, unsigned place, int fd);

/* A descriptor to watch, once after the start; else -1. */
int pctr_aside_began(void);

/* Takes in an answer, and gives it to whom it concerns. */
void pctr_aside_receive(void);

/* Closes a descriptor, in that process where it can be: what this is the last of goes with it.  -1 is
 * none. */
void pctr_aside_close(int *fd);

/* Returns when all orders are carried out, and the process is gone. */
void pctr_aside_end(void);

#endif
