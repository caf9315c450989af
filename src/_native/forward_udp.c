/* Datagrams: each client of a port has a connected socket in the namespace, so that answers find
 * their way back.  Nobody says when that is over: it is when nothing came for a while, or when
 * others need the place more. */
#define _GNU_SOURCE
#include "forward.h"

#include "util.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
    BATCH = 16,      /* datagrams at a time */
    LARGEST = 65536, /* more than one can have */
    BUCKETS = 4096,  /* a power of two */
    LOOK_MS = 1000,  /* between two looks for idle flows */
};

static const uint64_t SECOND_NS = 1000000000;
static const uint64_t IDLE_NS = 90 * SECOND_NS;
static const uint64_t UNANSWERED_NS = 30 * SECOND_NS;

/* Who asks, and at which of the host's addresses: the answer comes from there. */
struct peer {
    union pctr_forward_sockaddr client;
    struct in6_addr
        local; /* unspecified: as the kernel chooses; AF_INET: in the first four bytes */
    uint32_t interface;
};

struct flow {
    bool used;
    bool answered;
    uint16_t next; /* in its bucket */
    uint32_t serial;
    unsigned port;
    unsigned address;
    int fd;
    uint64_t last_ns;
    struct peer peer;
};

static struct flow table[PCTR_FORWARD_FLOWS];
static uint16_t buckets[BUCKETS]; /* index + 1, or 0 */
static unsigned touched, count;
static uint64_t seed, next_look_ns;

static char data[BATCH][LARGEST];
static _Alignas(struct cmsghdr) char control[BATCH][CMSG_SPACE(sizeof(struct in6_pktinfo))];
static struct peer peers[BATCH];
static struct iovec parts[BATCH];
static struct mmsghdr messages[BATCH];

/* Flows. */

static uint64_t
mixed(uint64_t state, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;

    for (size_t i = 0; i < size; i++) {
        state = (state ^ at[i]) * 0x9e3779b97f4a7c15;
        state ^= state >> 29;
    }
    return state;
}

/* Not to be foreseen by clients, who else could make all of them meet. */
static unsigned
bucket_of(unsigned port, const struct peer *peer)
{
    uint64_t hash = mixed(seed, &port, sizeof port);

    return (unsigned)(mixed(hash, peer, sizeof *peer) % BUCKETS);
}

static struct flow *
find(unsigned port, const struct peer *peer)
{
    for (unsigned at = buckets[bucket_of(port, peer)]; at != 0; at = table[at - 1].next) {
        struct flow *flow = &table[at - 1];
        if (flow->port == port && memcmp(&flow->peer, peer, sizeof *peer) == 0) {
            return flow;
        }
    }
    return NULL;
}

static void
end(struct pctr_forward *forward, struct flow *flow)
{
    uint16_t *at = &buckets[bucket_of(flow->port, &flow->peer)];

    while (*at != flow - table + 1) {
        at = &table[*at - 1].next;
    }
    *at = flow->next;
    pctr_close(&flow->fd);
    flow->used = false;
    forward->ports[flow->port].flows--;
    count--;
}

/* The one that was idle for longest, of the port or (-1) of all of them. */
static void
end_oldest(struct pctr_forward *forward, int port)
{
    struct flow *oldest = NULL;

    for (unsigned i = 0; i < touched; i++) {
        struct flow *flow = &table[i];
        if (flow->used && (port < 0 || flow->port == (unsigned)port) &&
            (oldest == NULL || flow->last_ns < oldest->last_ns)) {
            oldest = flow;
        }
    }
    if (oldest != NULL) {
        end(forward, oldest);
    }
}

static struct flow *
free_place(struct pctr_forward *forward, unsigned port)
{
    if (forward->ports[port].flows >= PCTR_FORWARD_FLOWS_OF_PORT) {
        end_oldest(forward, (int)port);
    }
    if (count >= forward->max_flows) {
        end_oldest(forward, -1);
    }
    for (unsigned i = 0; i < touched; i++) {
        if (!table[i].used) {
            return &table[i];
        }
    }
    return touched < forward->max_flows ? &table[touched++] : NULL;
}

/* Connected to one of the port's addresses, from the given one on. */
static bool
connect_from(struct pctr_forward *forward, struct flow *flow, unsigned first)
{
    const struct pctr_forward_port *port = &forward->ports[flow->port];

    pctr_close(&flow->fd);
    flow->serial++;
    for (unsigned i = 0; i < port->count; i++) {
        union pctr_forward_sockaddr to;
        flow->address = (first + i) % port->count;
        PCTR_AUTO_FD sock = pctr_forward_socket(port, flow->address, SOCK_DGRAM, &to);
        if (sock < 0 || connect(sock, &to.any, sizeof to) < 0 ||
            pctr_forward_watch(forward->epoll, sock, EPOLLIN, PCTR_FORWARD_FLOW,
                               (unsigned)(flow - table), flow->serial) < 0) {
            continue;
        }
        flow->fd = pctr_steal_fd(&sock);
        return true;
    }
    return false;
}

/* NULL where the namespace has no way there, or the kernel no room. */
static struct flow *
begin(struct pctr_forward *forward, unsigned port, const struct peer *peer)
{
    struct flow *flow = free_place(forward, port);

    if (flow == NULL) {
        return NULL;
    }
    *flow = (struct flow){.serial = flow->serial, .port = port, .fd = -1, .peer = *peer};
    if (!connect_from(forward, flow, forward->ports[port].preferred)) {
        return NULL;
    }
    uint16_t *head = &buckets[bucket_of(port, peer)];
    flow->next = *head;
    *head = (uint16_t)(flow - table + 1);
    flow->used = true;
    forward->ports[port].flows++;
    count++;
    return flow;
}

/* Requests. */

/* Of a client's datagram. */
static void
read_local(const struct msghdr *message, struct peer *peer)
{
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head != NULL;
         head = CMSG_NXTHDR((struct msghdr *)(uintptr_t)message, head)) {
        if (head->cmsg_level == IPPROTO_IP && head->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(head), sizeof info);
            memcpy(&peer->local, &info.ipi_spec_dst, sizeof info.ipi_spec_dst);
        }
        else if (head->cmsg_level == IPPROTO_IPV6 && head->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(head), sizeof info);
            /* Many were addressed: none of these addresses can answer. */
            if (!IN6_IS_ADDR_MULTICAST(&info.ipi6_addr)) {
                peer->local = info.ipi6_addr;
            }
            if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) {
                peer->interface = info.ipi6_ifindex;
            }
        }
    }
}

/* Whether what was sent last was refused, as far as that is known already: within a machine it is. */
static bool
was_refused(const struct flow *flow)
{
    int error = 0;
    socklen_t size = sizeof error;

    return getsockopt(flow->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == ECONNREFUSED;
}

/* What cannot be delivered is lost, as it may be on any network.  As long as nobody has answered,
 * another address may be the one where somebody listens. */
static void
deliver(struct pctr_forward *forward, struct flow *flow, const void *bytes, size_t size)
{
    unsigned addresses = forward->ports[flow->port].count;

    for (unsigned tries = 0; tries <= addresses; tries++) {
        ssize_t sent = send(flow->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != ECONNREFUSED) {
            return;
        }
        if (sent >= 0 && (flow->answered || addresses == 1 || !was_refused(flow))) {
            return;
        }
        /* A send that fails so tells of the one before. */
        if (sent >= 0 && !connect_from(forward, flow, flow->address + 1)) {
            end(forward, flow);
            return;
        }
    }
}

static void
prepare(unsigned i, size_t size)
{
    parts[i] = (struct iovec){.iov_base = data[i], .iov_len = size};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
}

static int
receive(int fd, bool from_clients)
{
    for (unsigned i = 0; i < BATCH; i++) {
        prepare(i, LARGEST);
        if (from_clients) {
            struct msghdr *message = &messages[i].msg_hdr;
            /* They are compared as a whole. */
            memset(&peers[i], 0, sizeof peers[i]);
            message->msg_name = &peers[i].client;
            message->msg_namelen = sizeof peers[i].client;
            message->msg_control = control[i];
            message->msg_controllen = sizeof control[i];
        }
    }
    return pctr_result(recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL));
}

void
pctr_forward_udp_request(struct pctr_forward *forward, unsigned port, uint32_t events)
{
    const struct pctr_forward_port *from = &forward->ports[port];

    if (!from->used || from->protocol != PCTR_FORWARD_UDP) {
        return;
    }
    if (events & EPOLLHUP) {
        /* The host has shut it, which would be said for ever. */
        (void)epoll_ctl(forward->epoll, EPOLL_CTL_DEL, from->fd, NULL);
        return;
    }
    int got = receive(from->fd, true);
    for (int i = 0; i < got; i++) {
        read_local(&messages[i].msg_hdr, &peers[i]);
        struct flow *flow = find(port, &peers[i]);
        if (flow == NULL) {
            flow = begin(forward, port, &peers[i]);
        }
        if (flow != NULL) {
            flow->last_ns = forward->now_ns;
            deliver(forward, flow, data[i], messages[i].msg_len);
        }
    }
}

/* Replies. */

static void
address_reply(const struct pctr_forward_port *port, struct peer *peer, unsigned i)
{
    struct msghdr *message = &messages[i].msg_hdr;
    struct cmsghdr *head = (struct cmsghdr *)(void *)control[i];

    message->msg_name = &peer->client;
    message->msg_namelen = port->family == AF_INET ? sizeof peer->client.four
                                                   : sizeof peer->client.six;
    if (IN6_IS_ADDR_UNSPECIFIED(&peer->local)) {
        return;
    }
    memset(control[i], 0, sizeof control[i]);
    message->msg_control = control[i];
    if (port->family == AF_INET) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, &peer->local, sizeof info.ipi_spec_dst);
        *head = (struct cmsghdr){CMSG_LEN(sizeof info), IPPROTO_IP, IP_PKTINFO};
        memcpy(CMSG_DATA(head), &info, sizeof info);
        message->msg_controllen = CMSG_SPACE(sizeof info);
    }
    else {
        struct in6_pktinfo info = {.ipi6_addr = peer->local, .ipi6_ifindex = peer->interface};
        *head = (struct cmsghdr){CMSG_LEN(sizeof info), IPPROTO_IPV6, IPV6_PKTINFO};
        memcpy(CMSG_DATA(head), &info, sizeof info);
        message->msg_controllen = CMSG_SPACE(sizeof info);
    }
}

void
pctr_forward_udp_reply(struct pctr_forward *forward, unsigned index, uint32_t serial)
{
    struct flow *flow = &table[index];

    if (!flow->used || flow->serial != serial) {
        return;
    }
    struct pctr_forward_port *port = &forward->ports[flow->port];
    int got = receive(flow->fd, false);
    if (got == -ECONNREFUSED && !flow->answered && port->count > 1 &&
        !connect_from(forward, flow, flow->address + 1)) {
        end(forward, flow);
        return;
    }
    if (got <= 0) {
        return;
    }
    flow->answered = true;
    flow->last_ns = forward->now_ns;
    port->preferred = flow->address;
    for (int i = 0; i < got; i++) {
        prepare((unsigned)i, messages[i].msg_len);
        address_reply(port, &flow->peer, (unsigned)i);
    }
    for (int sent = 0; sent < got;) {
        int now = sendmmsg(port->fd, messages + sent, (unsigned)(got - sent), MSG_DONTWAIT);
        /* One that cannot be sent is lost, those after it are not. */
        sent += now > 0 ? now : 1;
    }
}

int
pctr_forward_udp_expire(struct pctr_forward *forward)
{
    if (count == 0) {
        return -1;
    }
    if (forward->now_ns >= next_look_ns) {
        for (unsigned i = 0; i < touched; i++) {
            struct flow *flow = &table[i];
            uint64_t limit = flow->answered ? IDLE_NS : UNANSWERED_NS;
            if (flow->used && forward->now_ns - flow->last_ns > limit) {
                end(forward, flow);
            }
        }
        next_look_ns = forward->now_ns + LOOK_MS * (SECOND_NS / 1000);
    }
    return count > 0 ? LOOK_MS : -1;
}

/* Ports. */

int
pctr_forward_udp_add(struct pctr_forward *forward, unsigned port)
{
    const struct pctr_forward_port *added = &forward->ports[port];
    const int on = 1;
    int error = added->family == AF_INET
                    ? setsockopt(added->fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on)
                    : setsockopt(added->fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);

    if (error < 0 || (seed == 0 && getrandom(&seed, sizeof seed, 0) < 0)) {
        return -errno;
    }
    return pctr_forward_watch(forward->epoll, added->fd, EPOLLIN, PCTR_FORWARD_BOUND, port, 0);
}

void
pctr_forward_udp_remove(struct pctr_forward *forward, unsigned port)
{
    /* It may have been taken out before. */
    (void)epoll_ctl(forward->epoll, EPOLL_CTL_DEL, forward->ports[port].fd, NULL);
    for (unsigned i = 0; i < touched; i++) {
        if (table[i].used && table[i].port == port) {
            end(forward, &table[i]);
        }
    }
}
