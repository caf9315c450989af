/* Network namespaces made in advance: making one takes a third of a container's start.  A worker
 * process makes them, with loopback up, and hands over their descriptors; each is used once. */
#ifndef PCTR_NETPOOL_H
#define PCTR_NETPOOL_H

/* A fresh network namespace, or -1 when there is none ready: the container makes its own then. */
int pctr_netpool_take(void);

/* Orders what is missing, from a worker that is started at the first call.  Returns a descriptor
 * that becomes readable when one arrives, the first time; -1 later, or when there is no worker. */
int pctr_netpool_refill(void);

/* Takes in what has arrived.  Returns 0, or -1 when the worker is gone and will not come back. */
int pctr_netpool_receive(void);

/* A new network namespace for the calling process, with loopback up: 0 or -errno. */
int pctr_netpool_make(void);

#endif
