#define _GNU_SOURCE
#include "aside.h"

#include "netpool.h"
#include "util.h"

#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
    int sock;
    bool tried;
} aside = {.sock = -1};

/* The end of file on the socket is the lifeline. */
static void
serve(int sock)
{
    PCTR_AUTO_FD home = pctr_netpool_home();

    for (;;) {
        char order;
        int given = -1;
        unsigned count = 1;
        ssize_t got = pctr_receive_fds(sock, &order, 1, &given, &count, 0);
        if (got == -EINTR) {
            continue;
        }
        if (got != 1) {
            return;
        }
        pctr_close(&given);
        if (order == PCTR_NETPOOL_ORDER && pctr_netpool_answer(sock, home) < 0) {
            return;
        }
    }
}

static void
start(void)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return;
    }
    pid_t worker = fork();
    if (worker == 0) {
        int keep[] = {0, 1, 2, pair[1]};
        if (pctr_close_all_but(keep, sizeof keep / sizeof keep[0]) == 0) {
            prctl(PR_SET_NAME, "pycontainer-net", 0, 0, 0);
            serve(pair[1]);
        }
        _exit(0);
    }
    pctr_close(&pair[1]);
    if (worker < 0) {
        pctr_close(&pair[0]);
    }
    aside.sock = pair[0];
}

int
pctr_aside(int *first)
{
    *first = !aside.tried;
    if (!aside.tried) {
        aside.tried = true;
        start();
    }
    return aside.sock;
}

void
pctr_aside_lost(void)
{
    pctr_close(&aside.sock);
}

void
pctr_aside_close(int *fd)
{
    if (*fd >= 0 && aside.sock >= 0) {
        (void)pctr_send_fds(aside.sock, "c", 1, fd, 1, MSG_DONTWAIT);
    }
    pctr_close(fd);
}
