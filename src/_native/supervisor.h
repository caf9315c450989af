/* The supervisor's loop: requests come in, children end, records go out. */
#ifndef PCTR_SUPERVISOR_H
#define PCTR_SUPERVISOR_H

/* The descriptors that the client leaves us. */
enum { PCTR_FD_HOST = 3, PCTR_FD_HOST_PID = 4, PCTR_FD_PROGRAM = 5 };

/* Returns when the host is gone and everything that was started for it is, too. */
int pctr_supervisor_run(void);

#endif
