/* What the parts of the forwarder share: forward.c has the host's requests and the loop,
 * forward_tcp.c the connections, forward_udp.c the datagrams.
 *
 * It is one process with one thread, and its own: what it needs lies in fixed tables, of which
 * only the part that was in use so far is ever touched. */
#ifndef PCTR_FORWARD_H
#define PCTR_FORWARD_H

#include "protocol.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    PCTR_FORWARD_PORTS = 4096,
    PCTR_FORWARD_CONNECTIONS = 4096,
    PCTR_FORWARD_PIPES = 64,
    PCTR_FORWARD_FLOWS = 4096,
    PCTR_FORWARD_FLOWS_OF_PORT = 1024,
};

/* What an event of epoll(7) is about. */
enum pctr_forward_kind {
    PCTR_FORWARD_CONTROL,
    PCTR_FORWARD_LISTENERS, /* some listener: they have an epoll of their own */
    PCTR_FORWARD_LISTENER,  /* index: port */
    PCTR_FORWARD_CLIENT,    /* index: connection */
    PCTR_FORWARD_TARGET,    /* index: connection */
    PCTR_FORWARD_BOUND,     /* index: port */
    PCTR_FORWARD_FLOW,      /* index: flow */
};

struct pctr_forward_port {
    bool used;
    int fd;
    uint32_t id;
    uint32_t protocol;
    int family; /* of the socket */
    in_port_t port;
    unsigned count;
    unsigned preferred; /* UDP: the address that answered last */
    unsigned flows;
    struct pctr_address addresses[PCTR_FORWARD_ADDRESSES];
};

struct pctr_forward {
    int epoll;
    int listeners;
    uint64_t now_ns;
    /* How much of what descriptors are needed for there may be. */
    unsigned max_ports;
    unsigned max_connections;
    unsigned max_flows;
    unsigned max_pipes;
    struct pctr_forward_port ports[PCTR_FORWARD_PORTS];
};

union pctr_forward_sockaddr {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

/* forward.c */
/* Has `fd` watched in the given epoll; `serial` tells who has the place at `index` from who had it. */
int pctr_forward_watch(int epoll, int fd, uint32_t events, enum pctr_forward_kind kind,
                       unsigned index, uint32_t serial);
/* A new socket of the namespace for one of the port's addresses, and in `to` that address. */
int pctr_forward_socket(const struct pctr_forward_port *port, unsigned address, int type,
                        union pctr_forward_sockaddr *to);

/* forward_tcp.c */
int pctr_forward_tcp_add(struct pctr_forward *forward, unsigned port);
void pctr_forward_tcp_remove(struct pctr_forward *forward, unsigned port);
void pctr_forward_tcp_accept(struct pctr_forward *forward);
void pctr_forward_tcp_event(struct pctr_forward *forward, enum pctr_forward_kind kind,
                            unsigned index, uint32_t serial, uint32_t events);
/* Goes on with some of the connections that have something to carry; true when more have. */
bool pctr_forward_tcp_run(struct pctr_forward *forward);
/* Listens or not, as there is room; milliseconds until there is something to do again, or -1. */
int pctr_forward_tcp_housekeep(struct pctr_forward *forward);
/* Delivers what has arrived, as far as it can be at once, and resets what is not over then. */
void pctr_forward_tcp_finish(struct pctr_forward *forward);

/* forward_udp.c */
int pctr_forward_udp_add(struct pctr_forward *forward, unsigned port);
void pctr_forward_udp_remove(struct pctr_forward *forward, unsigned port);
void pctr_forward_udp_request(struct pctr_forward *forward, unsigned port, uint32_t events);
void pctr_forward_udp_reply(struct pctr_forward *forward, unsigned flow, uint32_t serial);
/* Ends flows that were idle for long; milliseconds until the next look, or -1. */
int pctr_forward_udp_expire(struct pctr_forward *forward);

#endif
