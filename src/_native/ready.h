/* One container that is set up before anybody asks for its program: a START with READY.  It is kept
 * until no one-shot job has been under way for a moment, so that nothing which somebody waits for is
 * slowed down, unless it is asked for AT_ONCE; then its child goes as far as its last mount, and waits
 * for the START of the same number that brings the program.  Where that does not come within
 * PCTR_READY_NS, or that long after the program beside which it was begun, it is removed. */
#ifndef PCTR_READY_H
#define PCTR_READY_H

#include "job.h"

/* Takes a copy of the request, and the lock that may come with it out of `fds`.  What was kept or
 * set up before is removed. */
void pctr_ready_keep(const char *message, size_t got, int *fds, unsigned count);

/* A job that somebody waited for is over.  What was kept or set up meanwhile has its time from here on,
 * or goes where it did not end well. */
void pctr_ready_after(bool well);

/* Milliseconds until it is time to begin what is kept, -1 when there is nothing or somebody waits for
 * something else. */
int pctr_ready_wait(void);

/* The request that is to be begun now, with its size and its lock (the caller's from here on), or
 * NULL.  It stays valid until the next `keep`. */
char *pctr_ready_due(size_t *got, int *held);

/* Its child lives: counts the time from here. */
void pctr_ready_began(struct pctr_job *job);

/* A START: hands it to the child that waits for it.  False where there is none (any more): then
 * nothing is left of it, and the container is set up anew, under the same names. */
bool pctr_ready_go(const char *message, size_t got, int *fds, unsigned count);

#endif
