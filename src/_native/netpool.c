#define _GNU_SOURCE
#include "netpool.h"

#include "util.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Enough for starts one after another; a burst of them makes its own. */
enum { POOL_SIZE = 2 };

static struct {
    int sock; /* to the worker, or -1 */
    bool tried;
    int ready[POOL_SIZE];
    unsigned count;
    unsigned ordered;
} pool = {.sock = -1};

static int
loopback_up(void)
{
    struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};

    PCTR_AUTO_FD sock = pctr_result(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (sock < 0) {
        return sock;
    }
    memcpy(request.ifr_name, "lo", sizeof "lo");
    return pctr_result(ioctl(sock, SIOCSIFFLAGS, &request));
}

int
pctr_netpool_make(void)
{
    int error = pctr_result(unshare(CLONE_NEWNET));
    return error < 0 ? error : loopback_up();
}

static int
own_namespace(void)
{
    return pctr_result(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
}

/* One order, one answer: a message with a descriptor, or an empty-handed one after a failure.  The
 * worker stays in none of those that it hands out, which are to end with their containers; nor may
 * an ordinary user's go back to where it came from. */
static void
serve(int sock)
{
    char order;
    PCTR_AUTO_FD home = unshare(CLONE_NEWNET) == 0 ? own_namespace() : -1;

    while (home >= 0 && recv(sock, &order, 1, 0) == 1) {
        PCTR_AUTO_FD made = pctr_netpool_make();
        if (made >= 0) {
            made = own_namespace();
        }
        if (setns(home, CLONE_NEWNET) < 0) {
            return;
        }
        if (pctr_send_fds(sock, "n", 1, &made, made >= 0 ? 1 : 0, 0) < 0) {
            return;
        }
    }
}

static void
start_worker(void)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return;
    }
    pid_t worker = fork();
    if (worker == 0) {
        /* The end of file on the socket is the lifeline. */
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
    pool.sock = pair[0];
}

int
pctr_netpool_take(void)
{
    return pool.count > 0 ? pool.ready[--pool.count] : -1;
}

int
pctr_netpool_refill(void)
{
    bool first = !pool.tried;

    if (first) {
        pool.tried = true;
        start_worker();
    }
    while (pool.sock >= 0 && pool.count + pool.ordered < POOL_SIZE &&
           send(pool.sock, "n", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1) {
        pool.ordered++;
    }
    return first ? pool.sock : -1;
}

int
pctr_netpool_receive(void)
{
    char answer;
    int made = -1;
    unsigned count = 1;

    ssize_t got = pctr_receive_fds(pool.sock, &answer, 1, &made, &count, MSG_DONTWAIT);
    if (got == -EAGAIN || got == -EINTR) {
        return 0;
    }
    if (pool.ordered > 0) {
        pool.ordered--;
    }
    if (got == 1 && count == 1) {
        pool.ready[pool.count++] = made;
        return 0;
    }
    /* A limit or a refusal that the next container will meet, too, and report. */
    pctr_close(&pool.sock);
    return -1;
}
