/* Connections: bytes go from socket to socket by splice(2), through a pipe that is borrowed for as
 * long as there is something in it.  Events are edge-triggered: whoever has something to carry is
 * in a queue until nothing is to be had or nothing more is taken. */
#define _GNU_SOURCE
#include "forward.h"

#include "util.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    AT_ONCE = 1024 * 1024, /* bytes */
    LARGE_PIPES = 4,       /* have room for that, others for what the kernel gives them */
    ROUNDS = 4,            /* of one direction, before it is another connection's turn */
    TURNS = 8,             /* of connections, before new events are looked at */
    BATCH = 16,            /* connections taken in from a listener, listeners at a time */
    COPY = 65536,          /* bytes at a time without a pipe */
    KEEPALIVE = 60,        /* seconds until a silent client is asked whether it is there */
};

static const uint64_t PAUSE_NS = 100000000; /* when the kernel has no room for another connection */
static const uint64_t FINISH_NS = 200000000;
static const uint64_t KEEP_NS = 1000000000;

enum { CLIENT, TARGET };

struct pipe {
    int out; /* -1: none */
    int in;
    bool large;
};

/* From one side to the other. */
struct way {
    struct pipe pipe;
    size_t held; /* bytes in it */
    bool ready;  /* there may be something to carry */
    bool stuck;  /* the other side takes no more for now */
    bool over;   /* the end has come and was told to the other side */
};

struct connection {
    bool used;
    bool connecting;
    bool queued;
    bool copies; /* urgent data is in the way of splice(2) */
    bool broken;
    bool dead[2]; /* this side was reset */
    uint32_t serial;
    unsigned port;
    unsigned address; /* the next one to try */
    int fd[2];
    struct way way[2]; /* by the side that it comes from */
};

static struct connection table[PCTR_FORWARD_CONNECTIONS];
static uint16_t free_places[PCTR_FORWARD_CONNECTIONS];
static unsigned freed, touched, count;

static uint16_t queue[PCTR_FORWARD_CONNECTIONS];
static unsigned queue_head, queued;

static const struct pipe no_pipe = {-1, -1, false};
static struct pipe pool[PCTR_FORWARD_PIPES];
static unsigned pooled, pipes, large_pipes;
static uint64_t borrowed_ns;

static bool admitting;
static uint64_t paused_until_ns;

static void
enqueue(struct connection *connection)
{
    if (!connection->queued) {
        connection->queued = true;
        queue[(queue_head + queued++) % PCTR_FORWARD_CONNECTIONS] = (uint16_t)(connection - table);
    }
}

/* There is a place: who accepts has looked. */
static struct connection *
new_connection(void)
{
    struct connection *connection = &table[freed > 0 ? free_places[--freed] : touched++];
    /* Who had the place before may still be in the queue. */
    *connection = (struct connection){
        .used = true,
        .queued = connection->queued,
        .serial = connection->serial + 1,
        .fd = {-1, -1},
        .way = {{.pipe = no_pipe}, {.pipe = no_pipe}},
    };
    count++;
    return connection;
}

/* Pipes. */

static void
close_pipe(struct pipe *pipe)
{
    pctr_close(&pipe->out);
    pctr_close(&pipe->in);
    pipes--;
    large_pipes -= pipe->large;
    pipe->large = false;
}

/* False where there is none to be had. */
static bool
borrow_pipe(const struct pctr_forward *forward, struct pipe *pipe)
{
    int ends[2];

    borrowed_ns = forward->now_ns;
    if (pooled > 0) {
        *pipe = pool[--pooled];
        return true;
    }
    if (pipes >= forward->max_pipes || pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0) {
        return false;
    }
    *pipe = (struct pipe){.out = ends[0], .in = ends[1]};
    pipes++;
    /* Refused to a user who has many pipes: then it has the size that it has. */
    if (large_pipes < LARGE_PIPES && fcntl(pipe->in, F_SETPIPE_SZ, AT_ONCE) >= 0) {
        pipe->large = true;
        large_pipes++;
    }
    return true;
}

static void
give_pipe_back(struct way *way)
{
    if (way->pipe.in < 0) {
        return;
    }
    if (way->held == 0) {
        pool[pooled++] = way->pipe;
        way->pipe = no_pipe;
    }
    else {
        close_pipe(&way->pipe);
    }
}

/* What a user's pipes may hold is limited for all of them together, used or not: so none is kept
 * for long.  Milliseconds until the next look, or -1. */
static int
forget_pipes(const struct pctr_forward *forward)
{
    if (forward->now_ns - borrowed_ns >= KEEP_NS) {
        while (pooled > 0) {
            close_pipe(&pool[--pooled]);
        }
    }
    return pooled > 0 ? (int)(KEEP_NS / 1000000) : -1;
}

/* The end of a connection. */

static void
end(struct connection *connection, bool reset)
{
    const struct linger now = {.l_onoff = 1, .l_linger = 0};

    for (int side = 0; side < 2; side++) {
        if (reset && connection->fd[side] >= 0) {
            /* Nothing but a graceful end comes of a failure. */
            (void)setsockopt(connection->fd[side], SOL_SOCKET, SO_LINGER, &now, sizeof now);
        }
        pctr_close(&connection->fd[side]);
        give_pipe_back(&connection->way[side]);
    }
    connection->used = false;
    free_places[freed++] = (uint16_t)(connection - table);
    count--;
}

/* Carrying. */

/* Without a pipe nothing may be taken out that might not be got rid of: so it is looked at first. */
static ssize_t
copy_some(struct way *way, int in, int out)
{
    static char buffer[COPY];

    ssize_t seen = recv(in, buffer, sizeof buffer, MSG_PEEK);
    if (seen <= 0) {
        return pctr_result(seen);
    }
    ssize_t sent = send(out, buffer, (size_t)seen, MSG_NOSIGNAL);
    if (sent < 0) {
        way->stuck = errno == EAGAIN;
        return -errno;
    }
    return pctr_result(recv(in, NULL, (size_t)sent, MSG_TRUNC));
}

/* Bytes that went on, 0 for the end, or -errno.  Only an empty pipe is filled: so EAGAIN has one
 * meaning. */
static ssize_t
carry_some(const struct pctr_forward *forward, struct connection *connection, int side)
{
    const unsigned flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;
    struct way *way = &connection->way[side];
    int in = connection->fd[side], out = connection->fd[!side];
    ssize_t moved;

    if (way->held == 0) {
        if (connection->copies || (way->pipe.in < 0 && !borrow_pipe(forward, &way->pipe))) {
            return copy_some(way, in, out);
        }
        moved = splice(in, NULL, way->pipe.in, NULL, AT_ONCE, flags);
        if (moved <= 0) {
            return pctr_result(moved);
        }
        way->held = (size_t)moved;
    }
    moved = splice(way->pipe.out, NULL, out, NULL, way->held, flags);
    if (moved <= 0) {
        way->stuck = moved < 0 && errno == EAGAIN;
        return moved == 0 ? -EPIPE : -errno;
    }
    way->held -= (size_t)moved;
    return moved;
}

/* True when there may be more to carry at once. */
static bool
carry(const struct pctr_forward *forward, struct connection *connection, int side)
{
    struct way *way = &connection->way[side];
    ssize_t moved = 1;

    if (!way->ready) {
        return false;
    }
    way->stuck = false;
    for (int round = 0; round < ROUNDS && !way->over; round++) {
        moved = carry_some(forward, connection, side);
        if (moved > 0 || moved == -EINTR) {
            continue;
        }
        if (moved == 0) {
            /* A side that is gone meanwhile shows that when it is read from. */
            (void)shutdown(connection->fd[!side], SHUT_WR);
            way->over = true;
        }
        else if (moved != -EAGAIN) {
            connection->broken = true;
            way->over = true;
        }
        break;
    }
    if (way->held == 0 || way->over) {
        give_pipe_back(way);
    }
    way->ready = !way->over && (moved > 0 || moved == -EINTR);
    return way->ready;
}

static void
tend(const struct pctr_forward *forward, struct connection *connection)
{
    bool more = carry(forward, connection, CLIENT);

    more |= carry(forward, connection, TARGET);
    for (int side = 0; side < 2; side++) {
        connection->broken |= connection->dead[side] && connection->way[side].over;
    }
    /* Who was reset may have said something before: that is delivered as long as it is taken. */
    if (more) {
        enqueue(connection);
    }
    else if (connection->broken) {
        end(connection, true);
    }
    else if (connection->way[CLIENT].over && connection->way[TARGET].over) {
        end(connection, false);
    }
}

/* Connecting. */

static int
watch(const struct pctr_forward *forward, const struct connection *connection, int side)
{
    return pctr_forward_watch(forward->epoll, connection->fd[side],
                              EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                              side == CLIENT ? PCTR_FORWARD_CLIENT : PCTR_FORWARD_TARGET,
                              (unsigned)(connection - table), connection->serial);
}

/* A socket that is connected, or on its way there. */
static int
connect_to(const struct pctr_forward_port *port, unsigned address)
{
    const int on = 1;
    union pctr_forward_sockaddr to;
    PCTR_AUTO_FD sock = pctr_forward_socket(port, address, SOCK_STREAM, &to);

    if (sock < 0) {
        return sock;
    }
    if (setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(sock, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on) < 0) {
        return -errno;
    }
    if (connect(sock, &to.any, sizeof to) < 0 && errno != EINPROGRESS) {
        return -errno;
    }
    return pctr_steal_fd(&sock);
}

/* To the next address; when there is none, the client sees what it would see without us. */
static void
connect_next(const struct pctr_forward *forward, struct connection *connection)
{
    const struct pctr_forward_port *port = &forward->ports[connection->port];

    pctr_close(&connection->fd[TARGET]);
    while (connection->address < port->count) {
        connection->fd[TARGET] = connect_to(port, connection->address++);
        if (connection->fd[TARGET] < 0) {
            continue;
        }
        if (watch(forward, connection, TARGET) == 0) {
            return;
        }
        break;
    }
    end(connection, true);
}

static void
start_carrying(struct connection *connection)
{
    connection->way[CLIENT].ready = connection->way[TARGET].ready = true;
    enqueue(connection);
}

static void
connecting_event(const struct pctr_forward *forward, struct connection *connection, int side,
                 uint32_t events)
{
    int error = 0;
    socklen_t size = sizeof error;

    if (side == CLIENT) {
        /* It may have said all it had to say, but not have gone. */
        if (events & (EPOLLERR | EPOLLHUP)) {
            end(connection, true);
        }
        return;
    }
    if (getsockopt(connection->fd[TARGET], SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0) {
        connect_next(forward, connection);
        return;
    }
    if (events & EPOLLOUT) {
        connection->connecting = false;
        start_carrying(connection);
    }
}

void
pctr_forward_tcp_event(struct pctr_forward *forward, enum pctr_forward_kind kind, unsigned index,
                       uint32_t serial, uint32_t events)
{
    struct connection *connection = &table[index];
    int side = kind == PCTR_FORWARD_CLIENT ? CLIENT : TARGET;

    if (!connection->used || connection->serial != serial) {
        return;
    }
    connection->copies |= (events & EPOLLPRI) != 0;
    if (connection->connecting) {
        connecting_event(forward, connection, side, events);
        return;
    }
    connection->dead[side] |= (events & EPOLLERR) != 0;
    connection->way[side].ready |= (events & ~(uint32_t)EPOLLOUT) != 0;
    connection->way[!side].ready |= connection->way[!side].stuck;
    enqueue(connection);
}

bool
pctr_forward_tcp_run(struct pctr_forward *forward)
{
    unsigned turns = queued < TURNS ? queued : TURNS;

    for (; turns > 0; turns--) {
        struct connection *connection = &table[queue[queue_head]];
        queue_head = (queue_head + 1) % PCTR_FORWARD_CONNECTIONS;
        queued--;
        connection->queued = false;
        if (connection->used && !connection->connecting) {
            tend(forward, connection);
        }
    }
    return queued > 0;
}

/* Accepting. */

static void
take_in(const struct pctr_forward *forward, unsigned port, int client)
{
    struct connection *connection = new_connection();

    connection->port = port;
    connection->connecting = true;
    connection->fd[CLIENT] = client;
    if (watch(forward, connection, CLIENT) < 0) {
        end(connection, true);
        return;
    }
    connect_next(forward, connection);
}

/* What accept(2) may give for one connection that is lost, while there are others. */
static bool
lost_one(int error)
{
    return error == EINTR || error == ECONNABORTED || error == EPROTO || error == EPERM ||
           error == ENETDOWN || error == ENETUNREACH || error == EHOSTDOWN ||
           error == EHOSTUNREACH || error == ENONET || error == ENOPROTOOPT || error == EOPNOTSUPP;
}

static void
accept_some(const struct pctr_forward *forward, unsigned index)
{
    const struct pctr_forward_port *port = &forward->ports[index];

    for (int i = 0; i < BATCH && count < forward->max_connections; i++) {
        int client = accept4(port->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client >= 0) {
            take_in(forward, index, client);
        }
        else if (errno == EAGAIN) {
            return;
        }
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            paused_until_ns = forward->now_ns + PAUSE_NS;
            return;
        }
        else if (!lost_one(errno)) {
            /* It listens no more, and would say so for ever. */
            (void)epoll_ctl(forward->listeners, EPOLL_CTL_DEL, port->fd, NULL);
            return;
        }
    }
}

void
pctr_forward_tcp_accept(struct pctr_forward *forward)
{
    struct epoll_event events[BATCH];
    int ready = epoll_wait(forward->listeners, events, BATCH, 0);

    for (int i = 0; i < ready; i++) {
        accept_some(forward, (unsigned)(events[i].data.u64 >> 32) & 0xffffff);
    }
}

int
pctr_forward_tcp_housekeep(struct pctr_forward *forward)
{
    bool paused = forward->now_ns < paused_until_ns;
    bool room = count < forward->max_connections && !paused;

    if (room && !admitting) {
        admitting = pctr_forward_watch(forward->epoll, forward->listeners, EPOLLIN,
                                       PCTR_FORWARD_LISTENERS, 0, 0) == 0;
    }
    else if (!room && admitting) {
        admitting = epoll_ctl(forward->epoll, EPOLL_CTL_DEL, forward->listeners, NULL) < 0;
    }
    int wait = forget_pipes(forward);
    return paused ? (int)((paused_until_ns - forward->now_ns) / 1000000) + 1 : wait;
}

/* Ports. */

/* What is accepted inherits the options: that is once for all. */
int
pctr_forward_tcp_add(struct pctr_forward *forward, unsigned port)
{
    const int on = 1, seconds = KEEPALIVE;
    int fd = forward->ports[port].fd;

    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds) < 0) {
        return -errno;
    }
    return pctr_forward_watch(forward->listeners, fd, EPOLLIN, PCTR_FORWARD_LISTENER, port, 0);
}

void
pctr_forward_tcp_remove(struct pctr_forward *forward, unsigned port)
{
    /* It may have been taken out before. */
    (void)epoll_ctl(forward->listeners, EPOLL_CTL_DEL, forward->ports[port].fd, NULL);
    for (unsigned i = 0; i < touched; i++) {
        if (table[i].used && table[i].port == port) {
            end(&table[i], true);
        }
    }
}

void
pctr_forward_tcp_finish(struct pctr_forward *forward)
{
    uint64_t until = pctr_now_ns() + FINISH_NS;

    for (unsigned i = 0; i < touched; i++) {
        if (table[i].used) {
            start_carrying(&table[i]);
        }
    }
    while (pctr_forward_tcp_run(forward) && pctr_now_ns() < until) {
    }
    for (unsigned i = 0; i < touched; i++) {
        if (table[i].used) {
            end(&table[i], true);
        }
    }
}
