/* Questions on connections: each message is behind its length in two bytes (RFC 1035, section 4.2.2).  What
 * others are to answer is asked on a connection, too, one for each question. */
#define _GNU_SOURCE
#include "dns.h"

#include "util.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
    LENGTH = 2,
    QUESTIONS_A_TURN = 16,
};

static const uint64_t IDLE_NS = UINT64_C(10000000000);
static const uint64_t SERVER_NS = UINT64_C(5000000000);

enum state {
    READING,   /* the asker's question into `in` */
    ASKING,    /* that, to the server */
    AWAITING,  /* the server's answer into `out` */
    ANSWERING, /* that, to the asker */
};

struct connection {
    bool used;
    enum state state;
    int asker_fd;
    int server_fd;
    unsigned server; /* whose turn it is */
    uint32_t serial;
    uint64_t expires_ns;
    union pctr_dns_sockaddr asker;
    size_t at; /* bytes that have passed, of the length as well */
    unsigned char in[LENGTH + PCTR_DNS_QUESTION];
    unsigned char out[LENGTH + PCTR_DNS_LARGEST];
};

static struct connection table[PCTR_DNS_CONNECTIONS];

static unsigned
index_of(const struct connection *connection)
{
    return (unsigned)(connection - table);
}

static void
end(struct connection *connection)
{
    pctr_close(&connection->asker_fd);
    pctr_close(&connection->server_fd);
    connection->used = false;
}

/* Is told of what the asker does: READING and ANSWERING; of the rest only that it went away. */
static void
enter(struct pctr_dns *dns, struct connection *connection, enum state state)
{
    uint32_t events = state == READING ? EPOLLIN : state == ANSWERING ? EPOLLOUT : 0;

    connection->state = state;
    connection->at = 0;
    connection->expires_ns = dns->now_ns +
                             (state == READING || state == ANSWERING ? IDLE_NS : SERVER_NS);
    if (pctr_dns_watch(dns, EPOLL_CTL_MOD, connection->asker_fd, events, PCTR_DNS_ASKER,
                       index_of(connection), connection->serial) < 0) {
        end(connection);
    }
}

/* 1: all that is expected, at `bytes`, is there; 0: not yet; -1: it will never be. */
static int
receive(int fd, unsigned char *bytes, size_t room, size_t *at)
{
    for (;;) {
        size_t wanted = *at < LENGTH ? LENGTH : LENGTH + pctr_dns_get(bytes);
        if (*at == wanted && *at > LENGTH) {
            return 1;
        }
        if (wanted > room || *at == wanted) {
            return -1; /* larger than any, or empty */
        }
        ssize_t got = recv(fd, bytes + *at, wanted - *at, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return 0;
        }
        if (got <= 0) {
            return -1;
        }
        *at += (size_t)got;
    }
}

/* The same for what is to be sent. */
static int
transmit(int fd, const unsigned char *bytes, size_t *at)
{
    size_t size = LENGTH + pctr_dns_get(bytes);

    while (*at < size) {
        ssize_t sent = send(fd, bytes + *at, size - *at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
            return 0;
        }
        if (sent <= 0) {
            return -1;
        }
        *at += (size_t)sent;
    }
    return 1;
}

static void
answer(struct pctr_dns *dns, struct connection *connection, size_t size)
{
    pctr_dns_put(connection->out, (unsigned)size);
    enter(dns, connection, ANSWERING);
}

static void
give_up(struct pctr_dns *dns, struct connection *connection)
{
    struct pctr_dns_question question;
    struct pctr_dns_writer writer;
    const unsigned char *asked = connection->in + LENGTH;

    if (pctr_dns_read(asked, pctr_dns_get(connection->in), &question) != PCTR_DNS_OK) {
        end(connection);
        return;
    }
    pctr_dns_begin(&writer, connection->out + LENGTH, PCTR_DNS_LARGEST, asked, &question,
                   PCTR_DNS_SERVER_FAILURE);
    answer(dns, connection, pctr_dns_end(&writer));
}

static int
connect_to(const struct pctr_dns *dns, struct connection *connection)
{
    const union pctr_dns_sockaddr *server = &dns->server[connection->server];
    PCTR_AUTO_FD sock =
        pctr_result(socket(server->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));

    if (sock < 0) {
        return sock;
    }
    if (connect(sock, &server->any, pctr_dns_length(server)) < 0 && errno != EINPROGRESS) {
        return -errno;
    }
    int error = pctr_dns_watch(dns, EPOLL_CTL_ADD, sock, EPOLLOUT, PCTR_DNS_UPSTREAM,
                               index_of(connection), connection->serial);
    if (error < 0) {
        return error;
    }
    connection->server_fd = pctr_steal_fd(&sock);
    return 0;
}

/* Goes on with the first server, from this one on, to which there is a way. */
static void
ask(struct pctr_dns *dns, struct connection *connection, unsigned server)
{
    pctr_close(&connection->server_fd);
    for (; server < dns->servers; server++) {
        connection->server = server;
        if (connect_to(dns, connection) == 0) {
            enter(dns, connection, ASKING);
            return;
        }
    }
    give_up(dns, connection);
}

static void
take_question(struct pctr_dns *dns, struct connection *connection)
{
    int size = pctr_dns_answer(&dns->names, connection->in + LENGTH, pctr_dns_get(connection->in),
                               dns->servers > 0, connection->out + LENGTH, PCTR_DNS_LARGEST);

    if (size == PCTR_DNS_ELSEWHERE) {
        ask(dns, connection, 0);
    }
    else if (size > 0) {
        answer(dns, connection, (size_t)size);
    }
    else {
        end(connection);
    }
}

/* Whether it went on to another state. */
static bool
go_on_with_asker(struct pctr_dns *dns, struct connection *connection)
{
    int done =
        connection->state == READING
            ? receive(connection->asker_fd, connection->in, sizeof connection->in, &connection->at)
            : transmit(connection->asker_fd, connection->out, &connection->at);

    if (done < 0) {
        end(connection);
        return false;
    }
    if (done == 0) {
        return false;
    }
    if (connection->state == READING) {
        take_question(dns, connection);
    }
    else {
        enter(dns, connection, READING);
    }
    return true;
}

static void
asker_event(struct pctr_dns *dns, struct connection *connection)
{
    if (connection->state != READING && connection->state != ANSWERING) {
        end(connection); /* it hung up: nothing else is told then */
        return;
    }
    for (unsigned i = 0; i < 2 * QUESTIONS_A_TURN; i++) {
        if (!go_on_with_asker(dns, connection) || !connection->used ||
            (connection->state != READING && connection->state != ANSWERING)) {
            return;
        }
    }
}

static void
take_answer(struct pctr_dns *dns, struct connection *connection)
{
    const unsigned char *bytes = connection->out + LENGTH;
    size_t size = pctr_dns_get(connection->out);
    enum pctr_dns_code code = size >= PCTR_DNS_HEAD ? pctr_dns_code_of(bytes) : PCTR_DNS_REFUSED;
    bool last = connection->server + 1 >= dns->servers;

    if (!pctr_dns_answers(bytes, size, connection->in + LENGTH, pctr_dns_get(connection->in)) ||
        (code != PCTR_DNS_OK && code != PCTR_DNS_NO_NAME && !last)) {
        ask(dns, connection, connection->server + 1);
        return;
    }
    pctr_close(&connection->server_fd);
    answer(dns, connection, size);
}

static void
server_event(struct pctr_dns *dns, struct connection *connection)
{
    int done = connection->state == ASKING
                   ? transmit(connection->server_fd, connection->in, &connection->at)
                   : receive(connection->server_fd, connection->out, sizeof connection->out,
                             &connection->at);

    if (done > 0 && connection->state == AWAITING) {
        take_answer(dns, connection);
        return;
    }
    if (done > 0) {
        done = pctr_dns_watch(dns, EPOLL_CTL_MOD, connection->server_fd, EPOLLIN, PCTR_DNS_UPSTREAM,
                              index_of(connection), connection->serial);
        if (done == 0) {
            enter(dns, connection, AWAITING);
        }
    }
    if (done < 0) {
        ask(dns, connection, connection->server + 1);
    }
}

void
pctr_dns_tcp_event(struct pctr_dns *dns, enum pctr_dns_kind kind, unsigned index, uint32_t serial)
{
    struct connection *connection = &table[index];

    if (!connection->used || connection->serial != serial) {
        return;
    }
    if (kind == PCTR_DNS_ASKER) {
        asker_event(dns, connection);
    }
    else if (connection->server_fd >= 0) {
        server_event(dns, connection);
    }
}

/* A place for one more; where all are taken, of that which waits longest for its asker. */
static struct connection *
find_place(const union pctr_dns_sockaddr *asker)
{
    struct connection *place = NULL, *idle = NULL;
    unsigned of_asker = 0;

    for (unsigned i = 0; i < PCTR_DNS_CONNECTIONS; i++) {
        struct connection *connection = &table[i];
        if (!connection->used) {
            place = connection;
            continue;
        }
        of_asker += pctr_dns_same_host(&connection->asker, asker);
        if ((connection->state == READING || connection->state == ANSWERING) &&
            (idle == NULL || connection->expires_ns < idle->expires_ns)) {
            idle = connection;
        }
    }
    if (of_asker >= PCTR_DNS_CONNECTIONS_OF_ONE) {
        return NULL;
    }
    if (place == NULL && idle != NULL) {
        end(idle);
        place = idle;
    }
    return place;
}

void
pctr_dns_tcp_accept(struct pctr_dns *dns, unsigned listener)
{
    union pctr_dns_sockaddr asker = {0};
    socklen_t length = sizeof asker;
    PCTR_AUTO_FD sock = pctr_result(
        accept4(dns->listeners[listener], &asker.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));

    if (sock < 0) {
        return;
    }
    struct connection *connection = find_place(&asker);
    if (connection == NULL) {
        return;
    }
    connection->used = true;
    connection->state = READING;
    connection->serial++;
    connection->server_fd = -1;
    connection->asker = asker;
    connection->at = 0;
    connection->expires_ns = dns->now_ns + IDLE_NS;
    connection->asker_fd = pctr_steal_fd(&sock);
    if (pctr_dns_watch(dns, EPOLL_CTL_ADD, connection->asker_fd, EPOLLIN, PCTR_DNS_ASKER,
                       index_of(connection), connection->serial) < 0) {
        end(connection);
    }
}

int
pctr_dns_tcp_expire(struct pctr_dns *dns)
{
    int wait = -1;

    for (unsigned i = 0; i < PCTR_DNS_CONNECTIONS; i++) {
        struct connection *connection = &table[i];
        if (connection->used && connection->expires_ns <= dns->now_ns) {
            if (connection->state == ASKING || connection->state == AWAITING) {
                ask(dns, connection, connection->server + 1);
            }
            else {
                end(connection);
            }
        }
        if (connection->used) {
            wait = pctr_dns_sooner(wait, pctr_dns_until(dns, connection->expires_ns));
        }
    }
    return wait;
}

void
pctr_dns_tcp_finish(void)
{
    for (unsigned i = 0; i < PCTR_DNS_CONNECTIONS; i++) {
        if (table[i].used) {
            end(&table[i]);
        }
    }
}
