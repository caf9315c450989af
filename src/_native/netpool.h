/* Network namespaces made in advance: making one and taking it down is a third of a container's work.
 * A process aside makes them, with loopback up, and hands over their descriptors.  One in which nothing
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

/* One to use, or none: the container makes its own then.  `unchanged` where nothing in that has a right to
 * change it. */
void pctr_netpool_take(struct pctr_network *network, bool unchanged);

/* Gives one back whose processes are all gone, with the same word as it was taken.  None is no harm.  While nobody else is `busy`, they become fewer each time, down to what is enough. */
void pctr_netpool_return(struct pctr_network *network, bool unchanged, bool busy);

/* Orders what is missing; with `missed`, one more than there were, as long as that is not too many. */
void pctr_netpool_refill(bool missed);

/* What was ordered: a namespace's descriptors, as many as could be had.  None after a failure. */
enum { PCTR_NETPOOL_FDS = 3 };
void pctr_netpool_arrived(const int *fds, unsigned count);

/* A new network namespace for the calling process, with loopback up: 0 or -errno. */
int pctr_netpool_make(void);

/* For who makes them (aside.c).  He stays in none of those that he hands out, which are to end with
 * their containers; nor may an ordinary user's go back to where it came from: so he makes a `home` first,
 * -1 if he cannot.  `produce` gives the descriptors of one, none where it cannot be made, and -errno where
 * he could not go home. */
int pctr_netpool_home(void);
int pctr_netpool_produce(int home, int *made, unsigned *count);

#endif
