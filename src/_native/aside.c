#define _GNU_SOURCE
#include "aside.h"

#include "netpool.h"
#include "spares.h"
#include "util.h"

#include <errno.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    int sock;
    pid_t pid; /* 0: not tried yet */
    bool watched;
} aside = {.sock = -1};

/* An order, and the answer to it. */
struct message {
    uint8_t kind;
    uint8_t place;
    uint8_t done;
};

static int
carry_out(int sock, const struct message *order, int fd, int home)
{
    struct message answer = *order;
    int made[PCTR_NETPOOL_FDS];
    unsigned count = 0;

    switch ((enum pctr_aside_kind)order->kind) {
    case PCTR_ASIDE_CLOSE:
        return 0;
    case PCTR_ASIDE_CLEAN:
        answer.done = pctr_spares_clean(fd, order->place, false);
        break;
    case PCTR_ASIDE_CHECK:
        answer.done = pctr_spares_clean(fd, order->place, true);
        break;
    case PCTR_ASIDE_NETWORK:
        if (pctr_netpool_produce(home, made, &count) < 0) {
            return -1;
        }
        break;
    }
    int error = pctr_send_fds(sock, &answer, sizeof answer, made, count, 0);
    while (count > 0) {
        pctr_close(&made[--count]);
    }
    return error;
}

/* The end of file on the socket is the lifeline. */
static void
serve(int sock)
{
    PCTR_AUTO_FD home = pctr_netpool_home();

    for (;;) {
        struct message order;
        int fd = -1;
        unsigned count = 1;
        ssize_t got = pctr_receive_fds(sock, &order, sizeof order, &fd, &count, 0);
        if (got == -EINTR) {
            continue;
        }
        if (got != (ssize_t)sizeof order) {
            return;
        }
        int error = carry_out(sock, &order, fd, home);
        pctr_close(&fd);
        if (error < 0) {
            return;
        }
    }
}

static void
start(void)
{
    int pair[2];

    aside.pid = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return;
    }
    aside.pid = fork();
    if (aside.pid == 0) {
        int keep[] = {0, 1, 2, pair[1]};
        if (pctr_close_all_but(keep, sizeof keep / sizeof keep[0]) == 0) {
            prctl(PR_SET_NAME, "pycontainer-net", 0, 0, 0);
            serve(pair[1]);
        }
        _exit(0);
    }
    pctr_close(&pair[1]);
    if (aside.pid < 0) {
        pctr_close(&pair[0]);
    }
    aside.sock = pair[0];
}

int
pctr_aside_order(enum pctr_aside_kind kind, unsigned place, int fd)
{
    const struct message order = {(uint8_t)kind, (uint8_t)place, 0};

    if (aside.pid == 0) {
        start();
    }
    return pctr_send_fds(aside.sock, &order, sizeof order, &fd, fd >= 0 ? 1 : 0, MSG_DONTWAIT);
}

int
pctr_aside_began(void)
{
    if (aside.watched || aside.sock < 0) {
        return -1;
    }
    aside.watched = true;
    return aside.sock;
}

void
pctr_aside_receive(void)
{
    struct message answer;
    int fds[PCTR_NETPOOL_FDS];
    unsigned count = PCTR_NETPOOL_FDS;

    ssize_t got = pctr_receive_fds(aside.sock, &answer, sizeof answer, fds, &count, MSG_DONTWAIT);
    if (got == -EAGAIN || got == -EINTR) {
        return;
    }
    if (got == (ssize_t)sizeof answer && answer.kind != PCTR_ASIDE_NETWORK) {
        pctr_spares_cleaned(answer.place, answer.done != 0);
    }
    else if (got == (ssize_t)sizeof answer) {
        pctr_netpool_arrived(fds, count);
        count = 0;
    }
    else {
        /* It was found dead: it will not come back. */
        pctr_close(&aside.sock);
        pctr_netpool_arrived(NULL, 0);
        pctr_spares_abandoned();
    }
    while (count > 0) {
        pctr_close(&fds[--count]);
    }
}

void
pctr_aside_close(int *fd)
{
    if (*fd >= 0 && aside.sock >= 0) {
        (void)pctr_aside_order(PCTR_ASIDE_CLOSE, 0, *fd);
    }
    pctr_close(fd);
}

void
pctr_aside_end(void)
{
    pctr_close(&aside.sock);
    while (aside.pid > 0 && waitpid(aside.pid, NULL, 0) < 0 && errno == EINTR) {
    }
}
