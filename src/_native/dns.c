/* The name server of a network: in its namespace, at the gateway's addresses.  What the members are called
 * it knows from the host; about everything else it asks others, if it may.  Everybody who asks may be an
 * enemy, as may be whoever answers: that costs the enemy's own questions alone. */
#define _GNU_SOURCE
#include "dns.h"

#include "ops.h"
#include "util.h"

#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    EVENTS = 64, /* taken in at a time */
    AT_A_TURN = 32,
    SPARE_FDS = 24,
    BACKLOG = 64,
};

struct message {
    struct pctr_resolve_request request;
    char text[PCTR_RESOLVE_TEXT];
};

int
pctr_dns_watch(const struct pctr_dns *dns, int operation, int fd, uint32_t events,
               enum pctr_dns_kind kind, unsigned index, uint32_t serial)
{
    struct epoll_event event = {.events = events,
                                .data.u64 = (uint64_t)kind << 56 | (uint64_t)index << 32 | serial};

    return pctr_result(epoll_ctl(dns->epoll, operation, fd, &event));
}

socklen_t
pctr_dns_length(const union pctr_dns_sockaddr *address)
{
    return address->any.sa_family == AF_INET ? sizeof address->four : sizeof address->six;
}

bool
pctr_dns_same_host(const union pctr_dns_sockaddr *one, const union pctr_dns_sockaddr *other)
{
    if (one->any.sa_family != other->any.sa_family) {
        return false;
    }
    return one->any.sa_family == AF_INET
               ? one->four.sin_addr.s_addr == other->four.sin_addr.s_addr
               : IN6_ARE_ADDR_EQUAL(&one->six.sin6_addr, &other->six.sin6_addr);
}

void
pctr_dns_say(const struct pctr_dns *dns, unsigned listener, const union pctr_dns_sockaddr *asker,
             const unsigned char *bytes, size_t size)
{
    (void)sendto(dns->datagrams[listener], bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL, &asker->any,
                 pctr_dns_length(asker));
}

int
pctr_dns_sooner(int one, int other)
{
    return one < 0 || (other >= 0 && other < one) ? other : one;
}

int
pctr_dns_until(const struct pctr_dns *dns, uint64_t then_ns)
{
    uint64_t left = then_ns > dns->now_ns ? then_ns - dns->now_ns : 0;

    return (int)((left + 999999) / 1000000);
}

/* Questions in datagrams. */

static void
take_datagrams(struct pctr_dns *dns, unsigned listener)
{
    static unsigned char bytes[PCTR_DNS_LARGEST + 1], out[PCTR_DNS_DATAGRAM];

    for (unsigned i = 0; i < AT_A_TURN; i++) {
        union pctr_dns_sockaddr asker = {0};
        socklen_t length = sizeof asker;
        ssize_t got = recvfrom(dns->datagrams[listener], bytes, sizeof bytes, MSG_DONTWAIT,
                               &asker.any, &length);
        if (got < 0) {
            /* Others are what the network says about an answer of before. */
            if (errno == EAGAIN || errno == EINTR) {
                return;
            }
            continue;
        }
        int size =
            pctr_dns_answer(&dns->names, bytes, (size_t)got, dns->servers > 0, out, sizeof out);
        if (size == PCTR_DNS_ELSEWHERE) {
            pctr_dns_upstream_ask(dns, listener, &asker, bytes, (size_t)got);
        }
        else if (size > 0) {
            pctr_dns_say(dns, listener, &asker, out, (size_t)size);
        }
    }
}

/* What the host asks. */

static int
to_sockaddr(const struct pctr_address *from, union pctr_dns_sockaddr *to)
{
    memset(to, 0, sizeof *to);
    if (from->family == AF_INET) {
        to->four.sin_family = AF_INET;
        to->four.sin_port = htons(PCTR_DNS_PORT);
        memcpy(&to->four.sin_addr, from->bytes, sizeof to->four.sin_addr);
        return 0;
    }
    to->six.sin6_family = AF_INET6;
    to->six.sin6_port = htons(PCTR_DNS_PORT);
    memcpy(&to->six.sin6_addr, from->bytes, sizeof to->six.sin6_addr);
    return from->family == AF_INET6 ? 0 : -EAFNOSUPPORT;
}

static int
set_on(int fd, int level, int name)
{
    const int on = 1;

    return pctr_result(setsockopt(fd, level, name, &on, sizeof on));
}

/* A socket of that type at the address, or -errno. */
static int
bind_to(const union pctr_dns_sockaddr *address, int type)
{
    bool six = address->any.sa_family == AF_INET6;
    PCTR_AUTO_FD sock =
        pctr_result(socket(address->any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));

    if (sock < 0) {
        return sock;
    }
    int error = type == SOCK_STREAM ? set_on(sock, SOL_SOCKET, SO_REUSEADDR) : 0;
    /* A bridge without a port that is up has no IPv6 addresses to be bound yet. */
    if (error == 0 && six) {
        error = set_on(sock, IPPROTO_IPV6, IPV6_FREEBIND);
    }
    if (error < 0) {
        return error;
    }
    if (bind(sock, &address->any, pctr_dns_length(address)) < 0 ||
        (type == SOCK_STREAM && listen(sock, BACKLOG) < 0)) {
        return -errno;
    }
    return pctr_steal_fd(&sock);
}

static int
listen_at(struct pctr_dns *dns, const struct pctr_address *address)
{
    union pctr_dns_sockaddr at;
    unsigned index = dns->addresses;
    int error = to_sockaddr(address, &at);

    if (error < 0) {
        return error;
    }
    PCTR_AUTO_FD datagrams = bind_to(&at, SOCK_DGRAM);
    if (datagrams < 0) {
        return datagrams;
    }
    PCTR_AUTO_FD listener = bind_to(&at, SOCK_STREAM);
    if (listener < 0) {
        return listener;
    }
    error = pctr_dns_watch(dns, EPOLL_CTL_ADD, datagrams, EPOLLIN, PCTR_DNS_DATAGRAMS, index, 0);
    if (error == 0) {
        error = pctr_dns_watch(dns, EPOLL_CTL_ADD, listener, EPOLLIN, PCTR_DNS_LISTENER, index, 0);
    }
    if (error < 0) {
        return error;
    }
    dns->datagrams[index] = pctr_steal_fd(&datagrams);
    dns->listeners[index] = pctr_steal_fd(&listener);
    dns->addresses++;
    return 0;
}

static void
hear_nothing(struct pctr_dns *dns)
{
    for (unsigned i = 0; i < dns->addresses; i++) {
        pctr_close(&dns->datagrams[i]);
        pctr_close(&dns->listeners[i]);
    }
    dns->addresses = 0;
}

static int
begin(struct pctr_dns *dns, const struct pctr_resolve_request *request)
{
    int error = 0;

    if (dns->begun) {
        return -EALREADY;
    }
    if (request->servers > PCTR_DNS_SERVERS || request->count > PCTR_RESOLVE_ADDRESSES ||
        request->count + request->servers > PCTR_RESOLVE_ADDRESSES) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < request->servers && error == 0; i++) {
        error = to_sockaddr(&request->addresses[request->count + i], &dns->server[i]);
    }
    for (unsigned i = 0; i < request->count && error == 0; i++) {
        error = listen_at(dns, &request->addresses[i]);
    }
    if (error < 0) {
        hear_nothing(dns);
        return error;
    }
    dns->servers = request->servers;
    dns->begun = true;
    return 0;
}

static int
carry_out(struct pctr_dns *dns, const struct message *message)
{
    const struct pctr_resolve_request *request = &message->request;

    switch ((enum pctr_resolve_verb)request->verb) {
    case PCTR_RESOLVE_BEGIN:
        return begin(dns, request);
    case PCTR_RESOLVE_ADD:
        return pctr_dns_names_add(&dns->names, request->id, request->addresses, request->count,
                                  message->text, request->text);
    case PCTR_RESOLVE_REMOVE:
        return pctr_dns_names_remove(&dns->names, request->id);
    }
    return -EBADMSG;
}

static bool
host_is_gone(int error)
{
    return error == -EPIPE || error == -ECONNRESET;
}

/* 1: there may be more; 0: the host hung up. */
static int
converse(struct pctr_dns *dns, int sock)
{
    static struct message message;

    /* With MSG_TRUNC it says how long the message was. */
    ssize_t got = recv(sock, &message, sizeof message, MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 1;
    }
    if (got <= 0) {
        return got == 0 || errno == ECONNRESET ? 0 : -errno;
    }
    struct pctr_resolve_reply reply = {.error = EBADMSG};
    if (got >= (ssize_t)sizeof message.request) {
        reply.serial = message.request.serial;
        if (message.request.text <= sizeof message.text &&
            (size_t)got == sizeof message.request + message.request.text) {
            reply.error = -carry_out(dns, &message);
        }
    }
    int error = pctr_send_fds(sock, &reply, sizeof reply, NULL, 0, MSG_DONTWAIT);
    if (error < 0) {
        return host_is_gone(error) ? 0 : error;
    }
    return 1;
}

/* The loop. */

static int
start(struct pctr_dns *dns, int sock)
{
    const unsigned fixed = SPARE_FDS + 2 * PCTR_RESOLVE_ADDRESSES + 2 * PCTR_DNS_CONNECTIONS;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return -errno;
    }
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return -errno;
    }
    if (limit.rlim_cur <= fixed) {
        return -EMFILE;
    }
    rlim_t rest = limit.rlim_cur - fixed;
    dns->max_pending = rest < PCTR_DNS_PENDING ? (unsigned)rest : PCTR_DNS_PENDING;
    dns->epoll = pctr_result(epoll_create1(EPOLL_CLOEXEC));
    if (dns->epoll < 0) {
        return dns->epoll;
    }
    return pctr_dns_watch(dns, EPOLL_CTL_ADD, sock, EPOLLIN, PCTR_DNS_CONTROL, 0, 0);
}

/* 1: go on; 0: the host hung up. */
static int
dispatch(struct pctr_dns *dns, int sock, const struct epoll_event *event)
{
    enum pctr_dns_kind kind = (enum pctr_dns_kind)(event->data.u64 >> 56);
    unsigned index = (unsigned)(event->data.u64 >> 32) & 0xffffff;
    uint32_t serial = (uint32_t)event->data.u64;

    switch (kind) {
    case PCTR_DNS_CONTROL:
        return converse(dns, sock);
    case PCTR_DNS_DATAGRAMS:
        take_datagrams(dns, index);
        break;
    case PCTR_DNS_LISTENER:
        pctr_dns_tcp_accept(dns, index);
        break;
    case PCTR_DNS_REPLY:
        pctr_dns_upstream_reply(dns, index, serial);
        break;
    case PCTR_DNS_ASKER:
    case PCTR_DNS_UPSTREAM:
        pctr_dns_tcp_event(dns, kind, index, serial);
        break;
    }
    return 1;
}

static int
serve(struct pctr_dns *dns, int sock)
{
    struct epoll_event events[EVENTS];

    for (;;) {
        dns->now_ns = pctr_now_ns();
        int wait = pctr_dns_sooner(pctr_dns_upstream_expire(dns), pctr_dns_tcp_expire(dns));
        int count = epoll_wait(dns->epoll, events, EVENTS, wait);
        if (count < 0 && errno != EINTR) {
            return -errno;
        }
        dns->now_ns = pctr_now_ns();
        for (int i = 0; i < count; i++) {
            int more = dispatch(dns, sock, &events[i]);
            if (more <= 0) {
                return more;
            }
        }
    }
}

/* Until the host closes its end. */
int
pctr_op_resolve(struct pctr_context *context, const struct pctr_op *op)
{
    static struct pctr_dns dns;
    int sock = context->fds[op->arg];
    int error = start(&dns, sock);

    if (error == 0) {
        error = serve(&dns, sock);
    }
    pctr_dns_upstream_finish();
    pctr_dns_tcp_finish();
    hear_nothing(&dns);
    pctr_close(&dns.epoll);
    return error;
}
