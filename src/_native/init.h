/* The init process of a container, or the reaper above a program that joined one. */
#ifndef PCTR_INIT_H
#define PCTR_INIT_H

#include "spawn.h"

/* The signal that carries another one, as its value, from the supervisor to the init process:
 * so SIGSTOP and SIGKILL can be meant for the program. */
#define PCTR_CARRIER_SIGNAL 63

_Noreturn void pctr_init_run(struct pctr_spawn *spawn, pid_t program);

#endif
