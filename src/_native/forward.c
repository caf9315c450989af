/* Carrying what comes to sockets of the host's to ports of a container's network namespace, which
 * this process has joined.  Bytes and datagrams are carried, never looked at.  Both sides may be
 * enemies: whatever one of them does costs its own connections alone. */
#define _GNU_SOURCE
#include "forward.h"

#include "ops.h"
#include "util.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    EVENTS = 64, /* taken in at a time */
    SPARE_FDS = 24,
};

static uint64_t
pack(enum pctr_forward_kind kind, unsigned index, uint32_t serial)
{
    return (uint64_t)kind << 56 | (uint64_t)index << 32 | serial;
}

int
pctr_forward_watch(int epoll, int fd, uint32_t events, enum pctr_forward_kind kind, unsigned index,
                   uint32_t serial)
{
    struct epoll_event event = {.events = events, .data.u64 = pack(kind, index, serial)};

    return pctr_result(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

int
pctr_forward_socket(const struct pctr_forward_port *port, unsigned address, int type,
                    union pctr_forward_sockaddr *to)
{
    const struct pctr_address *from = &port->addresses[address];

    memset(to, 0, sizeof *to);
    to->any.sa_family = (sa_family_t)from->family;
    if (from->family == AF_INET) {
        to->four.sin_port = port->port;
        memcpy(&to->four.sin_addr, from->bytes, sizeof to->four.sin_addr);
    }
    else {
        to->six.sin6_port = port->port;
        memcpy(&to->six.sin6_addr, from->bytes, sizeof to->six.sin6_addr);
    }
    return pctr_result(socket((int)from->family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

static int
socket_option(int fd, int name)
{
    int value;
    socklen_t size = sizeof value;

    return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -errno : value;
}

/* Whether the socket is of the kind that the request says. */
static int
check_socket(const struct pctr_forward_request *request, int fd)
{
    bool tcp = request->protocol == PCTR_FORWARD_TCP;
    int family = socket_option(fd, SO_DOMAIN);

    if (family < 0) {
        return family;
    }
    if ((family != AF_INET && family != AF_INET6) ||
        socket_option(fd, SO_PROTOCOL) != (int)request->protocol ||
        (tcp && socket_option(fd, SO_ACCEPTCONN) != 1)) {
        return -EINVAL;
    }
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -errno : pctr_result(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

static bool
makes_sense(const struct pctr_forward_request *request)
{
    if ((request->protocol != PCTR_FORWARD_TCP && request->protocol != PCTR_FORWARD_UDP) ||
        request->port == 0 || request->port > UINT16_MAX || request->count == 0 ||
        request->count > PCTR_FORWARD_ADDRESSES) {
        return false;
    }
    for (unsigned i = 0; i < request->count; i++) {
        uint32_t family = request->addresses[i].family;
        if (family != AF_INET && family != AF_INET6) {
            return false;
        }
    }
    return true;
}

/* The place of the port with this id, or else the first free one, or else -1. */
static int
find(const struct pctr_forward *forward, uint32_t id, bool *found)
{
    int free_place = -1;

    for (unsigned i = 0; i < forward->max_ports; i++) {
        const struct pctr_forward_port *port = &forward->ports[i];
        if (port->used && port->id == id) {
            *found = true;
            return (int)i;
        }
        if (!port->used && free_place < 0) {
            free_place = (int)i;
        }
        if (!port->used && port->id == 0) {
            break; /* never was in use, as all that follow */
        }
    }
    *found = false;
    return free_place;
}

static int
add_port(struct pctr_forward *forward, const struct pctr_forward_request *request, int *fd)
{
    bool found;
    int place = find(forward, request->id, &found);

    if (*fd < 0 || request->id == 0 || !makes_sense(request)) {
        return -EBADMSG;
    }
    if (found || place < 0) {
        return found ? -EEXIST : -ENOSPC;
    }
    int error = check_socket(request, *fd);
    if (error < 0) {
        return error;
    }
    struct pctr_forward_port *port = &forward->ports[place];
    *port = (struct pctr_forward_port){
        .fd = *fd,
        .id = request->id,
        .protocol = request->protocol,
        .family = socket_option(*fd, SO_DOMAIN),
        .port = htons((uint16_t)request->port),
        .count = request->count,
    };
    memcpy(port->addresses, request->addresses, sizeof port->addresses);
    error = request->protocol == PCTR_FORWARD_TCP ? pctr_forward_tcp_add(forward, (unsigned)place)
                                                  : pctr_forward_udp_add(forward, (unsigned)place);
    if (error < 0) {
        return error;
    }
    port->used = true;
    *fd = -1;
    return 0;
}

/* Closing is not enough for epoll(7): the host has the socket, too. */
static int
remove_port(struct pctr_forward *forward, uint32_t id)
{
    bool found;
    int place = find(forward, id, &found);

    if (!found) {
        return -ENOENT;
    }
    struct pctr_forward_port *port = &forward->ports[place];
    if (port->protocol == PCTR_FORWARD_TCP) {
        pctr_forward_tcp_remove(forward, (unsigned)place);
    }
    else {
        pctr_forward_udp_remove(forward, (unsigned)place);
    }
    pctr_close(&port->fd);
    port->used = false;
    return 0;
}

static int
carry_out(struct pctr_forward *forward, const struct pctr_forward_request *request, int *fd)
{
    switch ((enum pctr_forward_verb)request->verb) {
    case PCTR_FORWARD_ADD:
        return add_port(forward, request, fd);
    case PCTR_FORWARD_REMOVE:
        return remove_port(forward, request->id);
    }
    return -EBADMSG;
}

static bool
host_is_gone(int error)
{
    return error == -EPIPE || error == -ECONNRESET;
}

/* One request of the host's.  1: there may be more; 0: the host hung up. */
static int
converse(struct pctr_forward *forward, int sock)
{
    struct pctr_forward_request request = {0};
    int fd = -1;
    unsigned count = 1;

    ssize_t got = pctr_receive_fds(sock, &request, sizeof request, &fd, &count, MSG_DONTWAIT);
    if (got == -EAGAIN || got == -EINTR) {
        return 1;
    }
    /* Longer or without room for its descriptor: answered all the same. */
    bool whole = got == (ssize_t)sizeof request;
    if (!whole && got != -EMSGSIZE && got != -EMFILE && got <= 0) {
        return got == 0 || host_is_gone((int)got) ? 0 : (int)got;
    }
    struct pctr_forward_reply reply = {.serial = request.serial};
    reply.error = got == -EMFILE ? EMFILE : whole ? -carry_out(forward, &request, &fd) : EBADMSG;
    pctr_close(&fd);
    /* The host reads an answer before it asks again: one that does not is not waited for. */
    int error = pctr_send_fds(sock, &reply, sizeof reply, NULL, 0, MSG_DONTWAIT);
    if (error < 0) {
        return host_is_gone(error) ? 0 : error;
    }
    return 1;
}

static unsigned
least(unsigned one, unsigned other)
{
    return one < other ? one : other;
}

/* Full tables where the limit allows for them, else parts of what it allows. */
static int
divide_descriptors(struct pctr_forward *forward)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return -errno;
    }
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return -errno;
    }
    if (limit.rlim_cur < 2 * SPARE_FDS) {
        return -EMFILE;
    }
    unsigned rest = limit.rlim_cur < INT_MAX ? (unsigned)limit.rlim_cur : INT_MAX;
    rest -= SPARE_FDS;
    forward->max_connections = least(PCTR_FORWARD_CONNECTIONS, rest / 4);
    forward->max_ports = least(PCTR_FORWARD_PORTS, rest / 8);
    forward->max_flows = least(PCTR_FORWARD_FLOWS, rest / 8);
    forward->max_pipes = least(PCTR_FORWARD_PIPES, rest / 8);
    return 0;
}

static int
start(struct pctr_forward *forward, int sock)
{
    /* splice(2) has no MSG_NOSIGNAL. */
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR) {
        return -errno;
    }
    int error = divide_descriptors(forward);
    if (error < 0) {
        return error;
    }
    forward->epoll = epoll_create1(EPOLL_CLOEXEC);
    forward->listeners = epoll_create1(EPOLL_CLOEXEC);
    if (forward->epoll < 0 || forward->listeners < 0) {
        return -errno;
    }
    return pctr_forward_watch(forward->epoll, sock, EPOLLIN, PCTR_FORWARD_CONTROL, 0, 0);
}

/* 1: go on; 0: the host hung up. */
static int
dispatch(struct pctr_forward *forward, int sock, const struct epoll_event *event)
{
    enum pctr_forward_kind kind = (enum pctr_forward_kind)(event->data.u64 >> 56);
    unsigned index = (unsigned)(event->data.u64 >> 32) & 0xffffff;
    uint32_t serial = (uint32_t)event->data.u64;

    switch (kind) {
    case PCTR_FORWARD_CONTROL:
        return converse(forward, sock);
    case PCTR_FORWARD_LISTENERS:
    case PCTR_FORWARD_LISTENER:
        pctr_forward_tcp_accept(forward);
        break;
    case PCTR_FORWARD_CLIENT:
    case PCTR_FORWARD_TARGET:
        pctr_forward_tcp_event(forward, kind, index, serial, event->events);
        break;
    case PCTR_FORWARD_BOUND:
        pctr_forward_udp_request(forward, index, event->events);
        break;
    case PCTR_FORWARD_FLOW:
        pctr_forward_udp_reply(forward, index, serial);
        break;
    }
    return 1;
}

static int
sooner(int one, int other)
{
    return one < 0 || (other >= 0 && other < one) ? other : one;
}

static int
serve(struct pctr_forward *forward, int sock)
{
    struct epoll_event events[EVENTS];
    bool busy = false;

    for (;;) {
        forward->now_ns = pctr_now_ns();
        int wait = sooner(pctr_forward_tcp_housekeep(forward), pctr_forward_udp_expire(forward));
        int count = epoll_wait(forward->epoll, events, EVENTS, busy ? 0 : wait);
        if (count < 0 && errno != EINTR) {
            return -errno;
        }
        forward->now_ns = pctr_now_ns();
        /* Its event may be behind those of thousands of busy connections. */
        int more = busy ? converse(forward, sock) : 1;
        for (int i = 0; i < count && more > 0; i++) {
            more = dispatch(forward, sock, &events[i]);
        }
        if (more <= 0) {
            return more;
        }
        busy = pctr_forward_tcp_run(forward);
    }
}

/* Until the host closes its end. */
int
pctr_op_forward(struct pctr_context *context, const struct pctr_op *op)
{
    static struct pctr_forward forward;
    int sock = context->fds[op->arg];
    int error = start(&forward, sock);

    if (error < 0) {
        return error;
    }
    error = serve(&forward, sock);
    pctr_forward_tcp_finish(&forward);
    return error;
}
