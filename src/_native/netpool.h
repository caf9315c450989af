/* Network namespaces made in advance: making one and taking it down is a third of a container's work.
 * A worker process makes them, with loopback up, and hands over their descriptors.  One in which nothing
 * happened is used again: its container could change nothing in there, and neither sent a packet nor
 * left a socket. */
#ifndef PCTR_NETPOOL_H
#define PCTR_NETPOOL_H

#include <stdbool.h>

/* Descriptors of a namespace and of files that tell what happened in it (proc_pid_net(5)): the last two
 * are -1 where there is no procfs.  `ns` is -1 for none. */
struct pctr_network {
    int ns;
    int sockets;
    int devices;
};

#define PCTR_NO_NETWORK \
    {                   \
        -1, -1, -1      \
    }

/* One to use, or none: the container makes its own then. */
void pctr_netpool_take(struct pctr_network *network);

/* Gives one back whose processes are all gone, `unchanged` where they had no right to change it.  None is
 * no harm.  When nobody is `busy` any more, only a few are kept. */
void pctr_netpool_return(struct pctr_network *network, bool unchanged, bool busy);

/* Orders what is missing, from a worker that is started at the first call; with `missed`, one more than
 * there were, as long as that is not too many.  Returns a descriptor that becomes readable when one
 * arrives, the first time; -1 later, or when there is no worker. */
int pctr_netpool_refill(bool missed);

/* Takes in what has arrived.  Returns 0, or -1 when the worker is gone and will not come back. */
int pctr_netpool_receive(void);

/* A new network namespace for the calling process, with loopback up: 0 or -errno. */
int pctr_netpool_make(void);

#endif
