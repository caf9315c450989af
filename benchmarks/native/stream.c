/*
 * Sends bytes over a TCP connection for a time, or takes them: both ends of every throughput figure.
 *
 *     stream receive PORT
 *     stream send ADDRESS PORT SECONDS
 *
 * The receiver listens on all IPv4 addresses, takes one connection after another until each ends, and
 * answers with the number of bytes that arrived (eight bytes, as this machine has them).  The sender
 * connects, or has with the address "-" a connected socket as standard input, sends blocks of a
 * MiB until the time is over, waits for that answer and prints bytes and nanoseconds: what it tells
 * has arrived.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, BACKLOG = 16, SECOND = 1000000000 };

static char block[BLOCK];

static int64_t
now(void)
{
    struct timespec time;

    if (clock_gettime(CLOCK_MONOTONIC, &time) < 0) {
        err(1, "clock_gettime");
    }
    return (int64_t)time.tv_sec * SECOND + time.tv_nsec;
}

static double
number(const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= low && value <= high)) {
        errx(1, "%s: not a number from %g to %g", text, low, high);
    }
    return value;
}

static struct sockaddr_in
address_of(const char *address, const char *port)
{
    struct sockaddr_in found = {.sin_family = AF_INET};

    found.sin_port = htons((uint16_t)number(port, 1, 65535));
    if (inet_pton(AF_INET, address, &found.sin_addr) != 1) {
        errx(1, "%s: not an address", address);
    }
    return found;
}

static int
new_socket(void)
{
    int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (made < 0) {
        err(1, "socket");
    }
    return made;
}

/* A connection that breaks is its sender's matter, who then says so. */
static void
take(int connection)
{
    uint64_t taken = 0;
    ssize_t got;

    while ((got = recv(connection, block, sizeof block, 0)) > 0) {
        taken += (uint64_t)got;
    }
    if (got < 0 || send(connection, &taken, sizeof taken, MSG_NOSIGNAL) != sizeof taken) {
        warn("a connection");
    }
}

static void
receive(const char *port)
{
    struct sockaddr_in address = address_of("0.0.0.0", port);
    int listener = new_socket();
    int yes = 1;

    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, BACKLOG) < 0) {
        err(1, "listening on port %s", port);
    }
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) {
            err(1, "accept");
        }
        take(connection);
        close(connection);
    }
}

static int
connected(const char *address, const char *port)
{
    if (strcmp(address, "-") == 0) {
        return STDIN_FILENO;
    }
    struct sockaddr_in there = address_of(address, port);
    int made = new_socket();
    if (connect(made, (struct sockaddr *)&there, sizeof there) < 0) {
        err(1, "connecting to %s port %s", address, port);
    }
    return made;
}

static void
give(int connection, int64_t nanoseconds)
{
    int64_t begun = now();
    uint64_t given = 0, taken;

    while (now() - begun < nanoseconds) {
        ssize_t sent = send(connection, block, sizeof block, MSG_NOSIGNAL);
        if (sent < 0) {
            err(1, "send");
        }
        given += (uint64_t)sent;
    }
    if (shutdown(connection, SHUT_WR) < 0) {
        err(1, "shutdown");
    }
    if (recv(connection, &taken, sizeof taken, MSG_WAITALL) != sizeof taken) {
        errx(1, "no answer from the receiver");
    }
    int64_t took = now() - begun;
    if (taken != given) {
        errx(1, "%llu bytes of %llu arrived", (unsigned long long)taken, (unsigned long long)given);
    }
    printf("%llu %lld\n", (unsigned long long)given, (long long)took);
}

int
main(int count, char **words)
{
    if (count == 3 && strcmp(words[1], "receive") == 0) {
        receive(words[2]);
    }
    else if (count == 5 && strcmp(words[1], "send") == 0) {
        int64_t time = (int64_t)(number(words[4], 0.001, 60) * SECOND);
        give(connected(words[2], words[3]), time);
    }
    else {
        errx(1, "stream receive PORT | stream send ADDRESS PORT SECONDS");
    }
    return 0;
}
