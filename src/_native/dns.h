/* What the parts of the name server of a network share: dns.c has the host's requests, the loop and the
 * questions in datagrams, dns_tcp.c those on connections, dns_upstream.c what others are asked;
 * dns_message.c reads and writes messages (RFC 1035), dns_names.c knows who is called what, and
 * dns_answer.c answers.
 *
 * It is one process with one thread, and its own: what it needs lies in fixed tables, of which only the
 * part that was in use so far is ever touched. */
#ifndef PCTR_DNS_H
#define PCTR_DNS_H

#include "protocol.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PCTR_DNS_PORT = 53,
    PCTR_DNS_HEAD = 12,
    PCTR_DNS_NAME = 254,      /* bytes of a name as text, with its NUL */
    PCTR_DNS_QUESTION = 1232, /* of a question with all that comes with it */
    PCTR_DNS_DATAGRAM = 512,  /* of what we say in one: enough for all who do not say more */
    PCTR_DNS_LARGEST = 65535,
    PCTR_DNS_TTL = 1, /* seconds: members come and go */
    PCTR_DNS_MEMBERS = 1024,
    PCTR_DNS_NAMES = 8192,
    PCTR_DNS_SERVERS = 3,
    PCTR_DNS_PENDING = 512,
    PCTR_DNS_PENDING_OF_ONE = 128, /* asker: nobody keeps all others from asking */
    PCTR_DNS_CONNECTIONS = 16,
    PCTR_DNS_CONNECTIONS_OF_ONE = 8,
};

enum pctr_dns_code {
    PCTR_DNS_OK = 0,
    PCTR_DNS_FORMAT_ERROR = 1,
    PCTR_DNS_SERVER_FAILURE = 2,
    PCTR_DNS_NO_NAME = 3,
    PCTR_DNS_NOT_IMPLEMENTED = 4,
    PCTR_DNS_REFUSED = 5,
};

enum {
    PCTR_DNS_A = 1,
    PCTR_DNS_PTR = 12,
    PCTR_DNS_AAAA = 28,
    PCTR_DNS_IXFR = 251,
    PCTR_DNS_AXFR = 252,
    PCTR_DNS_ANY = 255, /* type, or class */
    PCTR_DNS_IN = 1,
};

/* dns_message.c */

struct pctr_dns_question {
    unsigned type;
    unsigned class;
    unsigned end;             /* where in the message it ends */
    bool plain;               /* the text says it all: no label has a dot or NUL in it */
    char text[PCTR_DNS_NAME]; /* in lower case, without a dot at its end */
};

enum { PCTR_DNS_IGNORE = -1 };

/* The one question of a message: PCTR_DNS_OK, the code to refuse it with, or PCTR_DNS_IGNORE where not even
 * that is to be said. */
int pctr_dns_read(const unsigned char *bytes, size_t size, struct pctr_dns_question *question);

/* Whether a message is the answer to that question (a message of `asked_size` bytes), both with the same
 * id.  An error's need not repeat the question. */
bool pctr_dns_answers(const unsigned char *bytes, size_t size, const unsigned char *asked,
                      size_t asked_size);

static inline unsigned
pctr_dns_get(const unsigned char *bytes)
{
    return (unsigned)bytes[0] << 8 | bytes[1];
}

static inline void
pctr_dns_put(unsigned char *bytes, unsigned value)
{
    bytes[0] = (unsigned char)(value >> 8);
    bytes[1] = (unsigned char)value;
}

static inline enum pctr_dns_code
pctr_dns_code_of(const unsigned char *bytes)
{
    return (enum pctr_dns_code)(bytes[3] & 15);
}

struct pctr_dns_writer {
    unsigned char *out;
    size_t size;
    size_t limit;
    unsigned count;
    bool full; /* not all had room: the answer says so */
};

/* An answer without the question, PCTR_DNS_HEAD bytes of `out`; gives that. */
size_t pctr_dns_refuse(unsigned char *out, const unsigned char *asked, enum pctr_dns_code code);

/* An answer that repeats the question; `limit` bytes have room for that. */
void pctr_dns_begin(struct pctr_dns_writer *writer, unsigned char *out, size_t limit,
                    const unsigned char *asked, const struct pctr_dns_question *question,
                    enum pctr_dns_code code);
void pctr_dns_add(struct pctr_dns_writer *writer, unsigned type, const unsigned char *data,
                  size_t size);
/* As `add`, a name as text. */
void pctr_dns_add_name(struct pctr_dns_writer *writer, unsigned type, const char *text);
/* Its size. */
size_t pctr_dns_end(struct pctr_dns_writer *writer);

/* Whether such a name can be said: labels of 1 to 63 bytes. */
bool pctr_dns_is_name(const char *text);
void pctr_dns_lower(char *text);

/* dns_names.c */

struct pctr_dns_member {
    uint32_t id; /* 0: this place is free */
    unsigned count;
    struct pctr_address addresses[PCTR_RESOLVE_ADDRESSES];
    char name[PCTR_DNS_NAME]; /* the first of its names, or "" */
};

struct pctr_dns_name {
    uint16_t member;
    uint8_t turns[2]; /* who is told first of those who are called so: of A, and of all else */
    char text[PCTR_DNS_NAME];
};

struct pctr_dns_names {
    unsigned touched; /* places for members that were ever taken */
    unsigned count;   /* of names */
    struct pctr_dns_member members[PCTR_DNS_MEMBERS];
    uint32_t hashes[PCTR_DNS_NAMES];
    struct pctr_dns_name names[PCTR_DNS_NAMES];
};

/* `text` is `size` bytes of names, each ended by NUL.  0 or -errno, and then nothing of it is known. */
int pctr_dns_names_add(struct pctr_dns_names *names, uint32_t id,
                       const struct pctr_address *addresses, unsigned count, const char *text,
                       size_t size);
int pctr_dns_names_remove(struct pctr_dns_names *names, uint32_t id);

/* How many members are called so; fills in the places of their names. */
unsigned pctr_dns_names_find(const struct pctr_dns_names *names, const char *text,
                             uint16_t found[PCTR_DNS_MEMBERS]);
/* Who has the address that a name beneath in-addr.arpa or ip6.arpa is for, or NULL. */
const struct pctr_dns_member *pctr_dns_names_reverse(const struct pctr_dns_names *names,
                                                     const char *text);

/* dns_answer.c */

enum { PCTR_DNS_ELSEWHERE = -1, PCTR_DNS_NOTHING = 0 };

/* What is to be said to that message: the size of the answer in `out`, at most `limit` bytes;
 * PCTR_DNS_NOTHING; or, where somebody else can be asked (`leads_out`), PCTR_DNS_ELSEWHERE. */
int pctr_dns_answer(struct pctr_dns_names *names, const unsigned char *asked, size_t size,
                    bool leads_out, unsigned char *out, size_t limit);

/* dns.c */

union pctr_dns_sockaddr {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

/* What an event of epoll(7) is about. */
enum pctr_dns_kind {
    PCTR_DNS_CONTROL,
    PCTR_DNS_DATAGRAMS, /* index: of the address where we listen */
    PCTR_DNS_LISTENER,  /* the same */
    PCTR_DNS_REPLY,     /* index: pending question */
    PCTR_DNS_ASKER,     /* index: connection */
    PCTR_DNS_UPSTREAM,  /* index: connection */
};

struct pctr_dns {
    int epoll;
    bool begun;
    uint64_t now_ns;
    unsigned max_pending; /* as many as there may be descriptors for */
    unsigned addresses;
    int datagrams[PCTR_RESOLVE_ADDRESSES];
    int listeners[PCTR_RESOLVE_ADDRESSES];
    unsigned servers;
    union pctr_dns_sockaddr server[PCTR_DNS_SERVERS];
    struct pctr_dns_names names;
};

/* `serial` tells who has the place at `index` from who had it. */
int pctr_dns_watch(const struct pctr_dns *dns, int operation, int fd, uint32_t events,
                   enum pctr_dns_kind kind, unsigned index, uint32_t serial);
socklen_t pctr_dns_length(const union pctr_dns_sockaddr *address);
/* Whether it is the same host, on whatever port. */
bool pctr_dns_same_host(const union pctr_dns_sockaddr *one, const union pctr_dns_sockaddr *other);
/* What is lost is asked again. */
void pctr_dns_say(const struct pctr_dns *dns, unsigned listener,
                  const union pctr_dns_sockaddr *asker, const unsigned char *bytes, size_t size);
int pctr_dns_sooner(int one, int other);
/* Milliseconds until then, rounded up. */
int pctr_dns_until(const struct pctr_dns *dns, uint64_t then_ns);

/* dns_upstream.c */

void pctr_dns_upstream_ask(struct pctr_dns *dns, unsigned listener,
                           const union pctr_dns_sockaddr *asker, const unsigned char *bytes,
                           size_t size);
void pctr_dns_upstream_reply(struct pctr_dns *dns, unsigned index, uint32_t serial);
/* Asks again, or gives up, where no answer came; milliseconds until the next time, or -1. */
int pctr_dns_upstream_expire(struct pctr_dns *dns);
void pctr_dns_upstream_finish(void);

/* dns_tcp.c */

void pctr_dns_tcp_accept(struct pctr_dns *dns, unsigned listener);
void pctr_dns_tcp_event(struct pctr_dns *dns, enum pctr_dns_kind kind, unsigned index,
                        uint32_t serial);
/* Ends what was idle for long; milliseconds until the next time, or -1. */
int pctr_dns_tcp_expire(struct pctr_dns *dns);
void pctr_dns_tcp_finish(void);

#endif
