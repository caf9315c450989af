/* A network that is slow, narrow and loses things: frames are carried between two links of the network
 * namespace by packet(7) sockets.  Nothing in a frame is looked at. */
#define _GNU_SOURCE
#include "impair_queue.h"
#include "ops.h"
#include "util.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    MAX_FRAME = 128 << 10, /* the largest that GSO makes of TCP by default is half of that */
    TAG = 4,               /* bytes of IEEE 802.1Q */
    TAG_AT = 2 * ETH_ALEN,
    SOCKET_BUFFER = 1 << 20,
    MAX_EVENTS = 64,
    FRAMES_A_TURN = 32,
    CONTROL = 2 * PCTR_IMPAIR_MAX_PORTS, /* after the numbers of the ports' sockets */
    TIMER,
};

#define BUSY_NS UINT64_C(100000)

/* Socket i takes in what queue i carries, which leaves by the other socket. */
struct port {
    uint32_t id; /* 0: this place is free */
    int socks[2];
    struct pctr_queue queues[2];
    struct pctr_impairment how[2]; /* what is done to each queue */
};

struct impairer {
    int control;
    int epoll;
    int timer;
    uint64_t armed_ns; /* what the timer is set to; 0: nothing */
    struct pctr_impairment how;
    struct pctr_queues queues;
    unsigned used; /* places for ports that were ever taken */
    struct port ports[PCTR_IMPAIR_MAX_PORTS];
    struct pctr_queue *heap[2 * PCTR_IMPAIR_MAX_PORTS];
};

static int
watch(const struct impairer *impairer, int fd, uint32_t number, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u32 = number};

    return pctr_result(epoll_ctl(impairer->epoll, EPOLL_CTL_ADD, fd, &event));
}

/* As much as this user may: a few frames of 64 KiB fill what is the default. */
static void
widen(int sock, int forced, int otherwise)
{
    const int size = SOCKET_BUFFER;

    if (setsockopt(sock, SOL_SOCKET, forced, &size, sizeof size) < 0) {
        (void)setsockopt(sock, SOL_SOCKET, otherwise, &size, sizeof size);
    }
}

/* Sees what comes in by a link, not what goes out; frames that are still to be cut into segments
 * or lack their checksum stay so. */
static int
open_link(int link)
{
    const int on = 1;
    struct packet_mreq everything = {.mr_ifindex = link, .mr_type = PACKET_MR_PROMISC};
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = link};

    /* Index 0 would be all links. */
    if (link <= 0) {
        return -ENODEV;
    }
    /* Without a protocol, nothing of other links comes in before it is bound. */
    PCTR_AUTO_FD sock = pctr_result(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (sock < 0) {
        return sock;
    }
    widen(sock, SO_RCVBUFFORCE, SO_RCVBUF);
    widen(sock, SO_SNDBUFFORCE, SO_SNDBUF);
    if (setsockopt(sock, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0 ||
        setsockopt(sock, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on) < 0 ||
        setsockopt(sock, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) < 0 ||
        setsockopt(sock, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &everything, sizeof everything) < 0 ||
        bind(sock, (const struct sockaddr *)&address, sizeof address) < 0) {
        return -errno;
    }
    return pctr_steal_fd(&sock);
}

static struct port *
port_by_id(struct impairer *impairer, uint32_t id)
{
    for (unsigned i = 0; i < impairer->used; i++) {
        if (impairer->ports[i].id == id) {
            return &impairer->ports[i];
        }
    }
    return NULL;
}

/* What goes from one port to another one is late, or lost, where it comes in, and not a second time where
 * it goes out; either line may be the slower one. */
static void
decide(struct port *port, const struct pctr_impairment *how)
{
    port->how[0] = *how;
    port->how[1] = (struct pctr_impairment){.rate = how->rate};
}

static int
add(struct impairer *impairer, const struct pctr_impair_request *request)
{
    struct port *port = port_by_id(impairer, 0);

    if (request->id == 0 || port_by_id(impairer, request->id) != NULL) {
        return -EEXIST;
    }
    if (port == NULL && impairer->used == PCTR_IMPAIR_MAX_PORTS) {
        return -ENOSPC;
    }
    PCTR_AUTO_FD one = open_link(request->links[0]);
    if (one < 0) {
        return one;
    }
    PCTR_AUTO_FD other = open_link(request->links[1]);
    if (other < 0) {
        return other;
    }
    port = port != NULL ? port : &impairer->ports[impairer->used];
    uint32_t number = 2 * (uint32_t)(port - impairer->ports);
    /* What one watches and fails at is forgotten with its descriptor. */
    int error = watch(impairer, one, number, EPOLLIN);
    if (error >= 0) {
        error = watch(impairer, other, number + 1, EPOLLIN);
    }
    if (error < 0) {
        return error;
    }
    impairer->used += port == &impairer->ports[impairer->used];
    *port = (struct port){.id = request->id};
    decide(port, &impairer->how);
    port->socks[0] = pctr_steal_fd(&one);
    port->socks[1] = pctr_steal_fd(&other);
    return 0;
}

static void
impair(struct impairer *impairer, struct port *port, const struct pctr_impairment *how)
{
    uint64_t now = pctr_now_ns();

    decide(port, how);
    for (int i = 0; i < 2; i++) {
        pctr_queue_retime(&impairer->queues, &port->queues[i], &port->how[i], now);
    }
}

static int
set(struct impairer *impairer, const struct pctr_impair_request *request)
{
    struct pctr_impairment how = {.delay_ns = request->delay_ns,
                                  .jitter_ns = request->jitter_ns,
                                  .rate = request->rate,
                                  .loss = request->loss};

    if (how.delay_ns > PCTR_IMPAIR_MAX_DELAY_NS || how.jitter_ns > PCTR_IMPAIR_MAX_DELAY_NS) {
        return -EINVAL;
    }
    if (request->id != 0) {
        struct port *port = port_by_id(impairer, request->id);
        if (port == NULL) {
            return -ENOENT;
        }
        impair(impairer, port, &how);
        return 0;
    }
    impairer->how = how;
    for (unsigned i = 0; i < impairer->used; i++) {
        if (impairer->ports[i].id != 0) {
            impair(impairer, &impairer->ports[i], &how);
        }
    }
    return 0;
}

/* Whoever closes such a socket waits until no processor looks at it any more, which takes milliseconds:
 * a process of a moment, which shares our descriptors, does it, so that others' frames are not late. */
static void
close_apart(struct port *port)
{
    struct clone_args args = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &args, sizeof args);

    if (pid <= 0) {
        pctr_close(&port->socks[0]);
        pctr_close(&port->socks[1]);
    }
    if (pid == 0) {
        _exit(0);
    }
    port->socks[0] = port->socks[1] = -1;
}

static void
drop_port(struct impairer *impairer, struct port *port)
{
    for (int i = 0; i < 2; i++) {
        /* It is there: to fail means that nothing of it comes from there anyway. */
        (void)epoll_ctl(impairer->epoll, EPOLL_CTL_DEL, port->socks[i], NULL);
        pctr_queue_clear(&impairer->queues, &port->queues[i]);
    }
    close_apart(port);
    port->id = 0;
}

static int
remove_port(struct impairer *impairer, uint32_t id)
{
    struct port *port = id == 0 ? NULL : port_by_id(impairer, id);

    if (port == NULL) {
        return -ENOENT;
    }
    drop_port(impairer, port);
    return 0;
}

static int
obey(struct impairer *impairer, const struct pctr_impair_request *request)
{
    switch ((enum pctr_impair_verb)request->verb) {
    case PCTR_IMPAIR_ADD:
        return add(impairer, request);
    case PCTR_IMPAIR_SET:
        return set(impairer, request);
    case PCTR_IMPAIR_REMOVE:
        return remove_port(impairer, request->id);
    }
    return -EBADMSG;
}

/* 1 when the host has hung up. */
static int
take_request(struct impairer *impairer)
{
    struct pctr_impair_request request = {0};

    /* With MSG_TRUNC it says how long the message was. */
    ssize_t got = recv(impairer->control, &request, sizeof request, MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return 0;
    }
    if (got == 0 || (got < 0 && errno == ECONNRESET)) {
        return 1;
    }
    if (got < 0) {
        return -errno;
    }
    struct pctr_impair_reply reply = {.serial = request.serial, .error = EBADMSG};
    if (got == sizeof request) {
        reply.error = -obey(impairer, &request);
    }
    int error = pctr_send_fds(impairer->control, &reply, sizeof reply, NULL, 0, 0);
    return error == -EPIPE || error == -ECONNRESET ? 1 : error;
}

/* The kernel took the tag out of the frame and tells it beside it. */
static uint32_t
put_tag_back(unsigned char *frame, uint32_t size, const struct tpacket_auxdata *told)
{
    struct virtio_net_hdr head;
    uint16_t tag[2] = {
        htons(told->tp_status & TP_STATUS_VLAN_TPID_VALID ? told->tp_vlan_tpid : ETH_P_8021Q),
        htons(told->tp_vlan_tci)};
    unsigned char *at = frame + PCTR_FRAME_HEAD + TAG_AT;

    memcpy(&head, frame, sizeof head);
    /* In the machine's byte order, as everything in there. */
    head.hdr_len = (uint16_t)(head.hdr_len + (head.hdr_len > 0 ? TAG : 0));
    head.csum_start =
        (uint16_t)(head.csum_start + (head.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM ? TAG : 0));
    memcpy(frame, &head, sizeof head);
    memmove(at + TAG, at, size - PCTR_FRAME_HEAD - TAG_AT);
    memcpy(at, tag, sizeof tag);
    return size + TAG;
}

/* The size of one frame with its head, 0 for one that cannot be carried, or -errno. */
static ssize_t
receive_frame(int sock, unsigned char *frame)
{
    union {
        char buffer[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = frame, .iov_len = MAX_FRAME};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.buffer,
                             .msg_controllen = sizeof control.buffer};

    ssize_t got = recvmsg(sock, &message, 0);
    if (got < 0) {
        /* EINVAL: it has a form that its head has no words for; it is gone.  ENETDOWN: the link is
         * down, and what comes when it is up again will be carried. */
        return errno == EINVAL || errno == ENETDOWN ? 0 : -errno;
    }
    if ((message.msg_flags & MSG_TRUNC) || got < PCTR_FRAME_HEAD + ETH_HLEN) {
        return 0;
    }
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_level == SOL_PACKET && header->cmsg_type == PACKET_AUXDATA) {
        struct tpacket_auxdata told;
        memcpy(&told, CMSG_DATA(header), sizeof told);
        if (told.tp_status & TP_STATUS_VLAN_VALID) {
            return put_tag_back(frame, (uint32_t)got, &told);
        }
    }
    return got;
}

/* False where it is to be tried again.  What a link does not take is lost, as on any other. */
static bool
send_frame(int sock, const void *frame, uint32_t size)
{
    return send(sock, frame, size, MSG_NOSIGNAL) >= 0 || (errno != EAGAIN && errno != EINTR);
}

static int
carry(struct impairer *impairer, struct port *port, int from)
{
    static _Alignas(16) unsigned char frame[MAX_FRAME + TAG];
    struct pctr_queue *queue = &port->queues[from];

    for (int i = 0; i < FRAMES_A_TURN; i++) {
        ssize_t size = receive_frame(port->socks[from], frame);
        if (size < 0) {
            return size == -EAGAIN || size == -EINTR ? 0 : (int)size;
        }
        uint64_t now = pctr_now_ns();
        if (size == 0 ||
            !pctr_queue_admits(&impairer->queues, queue, &port->how[from], (uint32_t)size, now)) {
            continue;
        }
        if (queue->first != NULL || queue->departs_ns > now ||
            !send_frame(port->socks[!from], frame, (uint32_t)size)) {
            pctr_queue_append(&impairer->queues, queue, frame, (uint32_t)size);
        }
    }
    return 0;
}

static int
socket_out(const struct impairer *impairer, const struct pctr_queue *queue)
{
    size_t offset = (size_t)((const char *)queue - (const char *)impairer->ports);
    const struct port *port = &impairer->ports[offset / sizeof *port];

    return port->socks[queue == &port->queues[0]];
}

/* Sends what is due, and has the timer wake us for what is next. */
static int
depart(struct impairer *impairer)
{
    struct pctr_queues *queues = &impairer->queues;
    struct pctr_queue *queue;
    uint64_t next = 0, now = pctr_now_ns();

    while ((queue = pctr_queue_next(queues)) != NULL) {
        const struct pctr_frame *frame = queue->first;
        if (frame->departs_ns > now) {
            next = frame->departs_ns;
            break;
        }
        if (send_frame(socket_out(impairer, queue), frame->bytes, frame->size)) {
            pctr_queue_drop(queues, queue);
        }
        else {
            pctr_queue_postpone(queues, queue, now + BUSY_NS);
        }
    }
    if (next == impairer->armed_ns) {
        return 0;
    }
    impairer->armed_ns = next;
    const struct itimerspec due = {
        .it_value = {.tv_sec = (time_t)(next / 1000000000), .tv_nsec = (long)(next % 1000000000)}};
    return pctr_result(timerfd_settime(impairer->timer, TFD_TIMER_ABSTIME, &due, NULL));
}

static int
turn(struct impairer *impairer, const struct epoll_event *event)
{
    uint32_t number = event->data.u32;

    if (number == CONTROL) {
        return take_request(impairer);
    }
    if (number == TIMER) {
        impairer->armed_ns = 0;
        return 0;
    }
    struct port *port = &impairer->ports[number / 2];
    /* It may have been removed in this very turn. */
    return port->id == 0 ? 0 : carry(impairer, port, (int)(number % 2));
}

static int
prepare(struct impairer *impairer)
{
    struct rlimit files;

    impairer->queues.heap = impairer->heap;
    /* Who closes sockets for us needs nobody to reap it. */
    if (signal(SIGCHLD, SIG_IGN) == SIG_ERR) {
        return -errno;
    }
    if (getrandom(&impairer->queues.random, sizeof impairer->queues.random, 0) < 0) {
        return -errno;
    }
    /* Two descriptors a port; where there are not enough, ADD says so. */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    impairer->epoll = pctr_result(epoll_create1(EPOLL_CLOEXEC));
    if (impairer->epoll < 0) {
        return impairer->epoll;
    }
    impairer->timer = pctr_result(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (impairer->timer < 0) {
        return impairer->timer;
    }
    int error = watch(impairer, impairer->control, CONTROL, EPOLLIN);
    /* Every setting of the timer begins anew, so nobody needs to read how often it rang. */
    return error < 0 ? error : watch(impairer, impairer->timer, TIMER, EPOLLIN | EPOLLET);
}

static int
run(struct impairer *impairer)
{
    struct epoll_event events[MAX_EVENTS];
    int result = 0;

    while (result == 0) {
        int count = epoll_wait(impairer->epoll, events, MAX_EVENTS, -1);
        if (count < 0 && errno != EINTR) {
            return -errno;
        }
        for (int i = 0; i < count && result == 0; i++) {
            result = turn(impairer, &events[i]);
            if (result == 0) {
                result = depart(impairer);
            }
        }
    }
    return result;
}

/* Until the host closes its end. */
int
pctr_op_impair(struct pctr_context *context, const struct pctr_op *op)
{
    static struct impairer impairer;

    impairer.control = context->fds[op->arg];
    int result = prepare(&impairer);
    if (result == 0) {
        result = run(&impairer);
    }
    for (unsigned i = 0; i < impairer.used; i++) {
        if (impairer.ports[i].id != 0) {
            drop_port(&impairer, &impairer.ports[i]);
        }
    }
    /* Children that are not to be reaped are waited for all the same: ECHILD says that all are gone. */
    while (wait(NULL) >= 0 || errno == EINTR) {
    }
    return result < 0 ? result : 0;
}
