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

/* Orders what is missing; with `missed`, one more than there were, as long as that is not too many.
 * Returns a descriptor that becomes readable when one arrives, the first time; -1 later, or when there is
 * nobody to make them. */
int pctr_netpool_refill(bool missed);

/* Takes in what has arrived there. */
void pctr_netpool_receive(void);

/* A new network namespace for the calling process, with loopback up: 0 or -errno. */
int pctr_netpool_make(void);

/* For who makes them (aside.c): one order, one answer, which is a message with descriptors, or an
 * empty-handed one after a failure.  He stays in none of those that he hands out, which are to end with
 * their containers; nor may an ordinary user's go back to where it came from: so he makes a `home` first,
 * -1 if he cannot.  `answer` gives 0 or -errno. */
enum { PCTR_NETPOOL_ORDER = 'n' };
int pctr_netpool_home(void);
int pctr_netpool_answer(int sock, int home);

#endif
