/* Questions that others answer.  Each has a socket of its own, connected to the server, with a port and an
 * id that nobody can foresee: what comes from elsewhere, or for another question, is not looked at. */
#define _GNU_SOURCE
#include "dns.h"

#include "util.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
    REPLIES_A_TURN = 16,
    LEAST_TRIES = 2, /* a datagram may be lost */
};

static const uint64_t PATIENCE_NS = UINT64_C(2000000000);

struct pending {
    bool used;
    unsigned listener;
    unsigned tries;
    unsigned server;
    int fd;
    uint16_t asked_id;
    uint32_t serial;
    uint64_t expires_ns;
    size_t size;
    union pctr_dns_sockaddr asker;
    unsigned char bytes[PCTR_DNS_QUESTION]; /* with an id of ours */
};

static struct pending table[PCTR_DNS_PENDING];
static unsigned touched, count;

static void
end(struct pending *pending)
{
    pctr_close(&pending->fd);
    pending->used = false;
    count--;
}

static void
give_up(const struct pctr_dns *dns, unsigned listener, const union pctr_dns_sockaddr *asker,
        const unsigned char *asked, size_t size, unsigned id)
{
    unsigned char out[PCTR_DNS_DATAGRAM];
    struct pctr_dns_question question;
    struct pctr_dns_writer writer;

    if (pctr_dns_read(asked, size, &question) != PCTR_DNS_OK) {
        return;
    }
    pctr_dns_begin(&writer, out, sizeof out, asked, &question, PCTR_DNS_SERVER_FAILURE);
    pctr_dns_put(out, id);
    pctr_dns_say(dns, listener, asker, out, pctr_dns_end(&writer));
}

/* A new socket and id for the server whose turn it is; the kernel chooses the port at random. */
static int
open_socket(const struct pctr_dns *dns, struct pending *pending)
{
    const union pctr_dns_sockaddr *server = &dns->server[pending->server];
    PCTR_AUTO_FD sock =
        pctr_result(socket(server->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));

    if (sock < 0) {
        return sock;
    }
    if (connect(sock, &server->any, pctr_dns_length(server)) < 0 ||
        getrandom(pending->bytes, 2, 0) != 2) {
        return -errno;
    }
    pending->serial++;
    int error = pctr_dns_watch(dns, EPOLL_CTL_ADD, sock, EPOLLIN, PCTR_DNS_REPLY,
                               (unsigned)(pending - table), pending->serial);
    if (error < 0) {
        return error;
    }
    pending->fd = pctr_steal_fd(&sock);
    return 0;
}

static unsigned
most_tries(const struct pctr_dns *dns)
{
    return dns->servers > LEAST_TRIES ? dns->servers : LEAST_TRIES;
}

/* Asks the next server; false where all were asked. */
static bool
try(const struct pctr_dns *dns, struct pending *pending)
{
    while (pending->tries < most_tries(dns)) {
        unsigned server = pending->tries++ % dns->servers;
        /* The same one may yet answer what it was asked before. */
        if (server != pending->server || pending->fd < 0) {
            pctr_close(&pending->fd);
            pending->server = server;
            if (open_socket(dns, pending) < 0) {
                continue;
            }
        }
        if (send(pending->fd, pending->bytes, pending->size, MSG_NOSIGNAL) >= 0) {
            pending->expires_ns = dns->now_ns + PATIENCE_NS;
            return true;
        }
    }
    return false;
}

static void
try_or_give_up(const struct pctr_dns *dns, struct pending *pending)
{
    if (!try(dns, pending)) {
        give_up(dns, pending->listener, &pending->asker, pending->bytes, pending->size,
                pending->asked_id);
        end(pending);
    }
}

static bool
same_asker(const union pctr_dns_sockaddr *one, const union pctr_dns_sockaddr *other)
{
    /* The port is in the same place. */
    return pctr_dns_same_host(one, other) && one->four.sin_port == other->four.sin_port;
}

/* A free place, or NULL; `asked` when the very same question waits already. */
static struct pending *
find_place(const struct pctr_dns *dns, const union pctr_dns_sockaddr *asker, unsigned id,
           bool *asked)
{
    struct pending *place = NULL;
    unsigned of_asker = 0;

    *asked = false;
    for (unsigned i = 0; i < touched; i++) {
        struct pending *pending = &table[i];
        if (!pending->used) {
            place = pending;
        }
        else if (pctr_dns_same_host(&pending->asker, asker)) {
            of_asker++;
            *asked = *asked || (pending->asked_id == id && same_asker(&pending->asker, asker));
        }
    }
    if (*asked || of_asker >= PCTR_DNS_PENDING_OF_ONE || count >= dns->max_pending) {
        return NULL;
    }
    return place != NULL ? place : &table[touched++];
}

void
pctr_dns_upstream_ask(struct pctr_dns *dns, unsigned listener, const union pctr_dns_sockaddr *asker,
                      const unsigned char *bytes, size_t size)
{
    unsigned id = pctr_dns_get(bytes);
    bool asked;
    struct pending *pending = find_place(dns, asker, id, &asked);

    if (asked) {
        return;
    }
    if (pending == NULL) {
        give_up(dns, listener, asker, bytes, size, id);
        return;
    }
    uint32_t serial = pending->serial;
    *pending = (struct pending){.used = true,
                                .listener = listener,
                                .fd = -1,
                                .asked_id = (uint16_t)id,
                                .serial = serial,
                                .size = size,
                                .asker = *asker};
    memcpy(pending->bytes, bytes, size);
    count++;
    try_or_give_up(dns, pending);
}

/* A server that will not is no better than one that is silent, as long as there are others. */
static bool
worth_passing_on(const struct pctr_dns *dns, const struct pending *pending,
                 const unsigned char *bytes)
{
    enum pctr_dns_code code = pctr_dns_code_of(bytes);

    return code == PCTR_DNS_OK || code == PCTR_DNS_NO_NAME || pending->tries >= dns->servers;
}

void
pctr_dns_upstream_reply(struct pctr_dns *dns, unsigned index, uint32_t serial)
{
    static unsigned char bytes[PCTR_DNS_LARGEST];
    struct pending *pending = &table[index];

    for (unsigned i = 0; i < REPLIES_A_TURN; i++) {
        if (!pending->used || pending->serial != serial) {
            return;
        }
        ssize_t got = recv(pending->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (got < 0) {
            /* Nobody is there: a socket of its own for the next try. */
            pctr_close(&pending->fd);
            try_or_give_up(dns, pending);
            return;
        }
        if (!pctr_dns_answers(bytes, (size_t)got, pending->bytes, pending->size)) {
            continue;
        }
        if (!worth_passing_on(dns, pending, bytes)) {
            try_or_give_up(dns, pending);
            return;
        }
        pctr_dns_put(bytes, pending->asked_id);
        pctr_dns_say(dns, pending->listener, &pending->asker, bytes, (size_t)got);
        end(pending);
        return;
    }
}

int
pctr_dns_upstream_expire(struct pctr_dns *dns)
{
    int wait = -1;

    for (unsigned i = 0; i < touched && count > 0; i++) {
        struct pending *pending = &table[i];
        if (pending->used && pending->expires_ns <= dns->now_ns) {
            try_or_give_up(dns, pending);
        }
        if (pending->used) {
            wait = pctr_dns_sooner(wait, pctr_dns_until(dns, pending->expires_ns));
        }
    }
    return wait;
}

void
pctr_dns_upstream_finish(void)
{
    for (unsigned i = 0; i < touched; i++) {
        if (table[i].used) {
            end(&table[i]);
        }
    }
    touched = 0;
}
