/* The init process of a container, or the reaper above a program that joined one. */
#ifndef PCTR_INIT_H
#define PCTR_INIT_H

#include "spawn.h"

/* The signal that carries another one, as its value, from the supervisor to the init process:
 * so SIGSTOP and SIGKILL can be meant for the program. */
#define PCTR_CARRIER_SIGNAL 63

/* What the value has above its lowest byte.  The supervisor asks for it before its first child,
 * which then has it in its memory; a program that was executed has not. */
uintptr_t pctr_carrier_key(void);

_Noreturn void pctr_init_run(struct pctr_spawn *spawn, pid_t program);

#endif
