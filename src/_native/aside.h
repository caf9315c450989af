/* A process beside the supervisor, for what the kernel takes long about and nobody should wait for. */
#ifndef PCTR_ASIDE_H
#define PCTR_ASIDE_H

/* Its socket; it is started at the first call, with which *first becomes true.  -1 where there is none. */
int pctr_aside(int *first);

/* It was found dead: it will not come back. */
void pctr_aside_lost(void);

/* Closes a descriptor, in that process where it can be: what this is the last of goes with it.  -1 is
 * none. */
void pctr_aside_close(int *fd);

#endif
