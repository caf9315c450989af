/* Starting one process of a job: from the supervisor's clone to the program's exec. */
#ifndef PCTR_SPAWN_H
#define PCTR_SPAWN_H

#include "ops.h"

struct pctr_spawn {
    const struct pctr_request *request;
    struct pctr_context context;
    int own_pidns; /* the supervisor's PID namespace, to come back to */
};

/* Runs `prepare` and clones.  Returns the child's PID, or -errno with the record filled in. */
pid_t pctr_spawn(struct pctr_spawn *spawn);

/* The child of the clone: runs `setup` and `tail`; with INIT it stays as the init process. */
_Noreturn void pctr_child(struct pctr_spawn *spawn);

#endif
