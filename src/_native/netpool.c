#define _GNU_SOURCE
#include "netpool.h"

#include "aside.h"
#include "util.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Enough for starts one after another; for many at once, as many as there are, up to a limit. */
enum { POOL_SIZE = 2, POOL_LIMIT = 8 };

static struct {
    bool refused; /* what was asked for last could not be made */
    struct pctr_network ready[POOL_LIMIT];
    unsigned count;
    unsigned ordered;
    unsigned lent;     /* of those that may come back */
    char unused[1024]; /* what `devices` says of a new one */
    ssize_t unused_size;
} pool;

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

#define PORT_START "/proc/sys/net/ipv4/ip_unprivileged_port_start"
#define PING_GROUPS "/proc/sys/net/ipv4/ping_group_range"

/* A network of its own has no ports to keep from its users, and no reason why they should need raw
 * sockets to ping (ip(7), icmp(7)); docker has it so, too.  Where it cannot be, root still can. */
static void
open_to_users(void)
{
    /* The groups must be there in the user namespace: all, those of a usual range, or root's alone. */
    static const char *const groups[] = {"0 2147483647", "0 65535", "0 0"};

    (void)pctr_write_file(PORT_START, "0", 1);
    for (unsigned i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        if (pctr_write_file(PING_GROUPS, groups[i], strlen(groups[i])) >= 0) {
            return;
        }
    }
}

int
pctr_netpool_make(void)
{
    int error = pctr_result(unshare(CLONE_NEWNET));
    if (error >= 0) {
        error = loopback_up();
    }
    if (error >= 0) {
        open_to_users();
    }
    return error;
}

static int
own_namespace(void)
{
    return pctr_result(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
}

int
pctr_netpool_home(void)
{
    return unshare(CLONE_NEWNET) == 0 ? own_namespace() : -1;
}

int
pctr_netpool_produce(int home, int *made, unsigned *count)
{
    static const char *const tell[] = {"/proc/thread-self/net/sockstat",
                                       "/proc/thread-self/net/dev"};

    *count = 0;
    if (home < 0) {
        return 0;
    }
    if (pctr_netpool_make() == 0 && (made[0] = own_namespace()) >= 0) {
        *count = 1;
    }
    while (*count > 0 && *count < PCTR_NETPOOL_FDS &&
           (made[*count] = open(tell[*count - 1], O_RDONLY | O_CLOEXEC)) >= 0) {
        ++*count;
    }
    return pctr_result(setns(home, CLONE_NEWNET));
}

void
pctr_netpool_take(struct pctr_network *network, bool unchanged)
{
    *network = (struct pctr_network)PCTR_NO_NETWORK;
    if (pool.count > 0) {
        *network = pool.ready[--pool.count];
        pool.lent += unchanged;
    }
}

static void
drop(struct pctr_network *network)
{
    pctr_close(&network->ns);
    pctr_close(&network->sockets);
    pctr_close(&network->devices);
}

/* No interface has come, and none has carried anything, since it was made: so there are no connections
 * that linger either.  A socket that is still there could be somebody's outside. */
static bool
as_new(const struct pctr_network *network)
{
    static const char none[] = "sockets: used 0\n";
    char text[sizeof pool.unused];

    ssize_t got = pread(network->devices, text, sizeof text, 0);
    /* A full buffer may have been cut off; without procfs there is nothing to read. */
    if (got <= 0 || got == sizeof text || got != pool.unused_size ||
        memcmp(text, pool.unused, (size_t)got) != 0) {
        return false;
    }
    return pread(network->sockets, text, sizeof none - 1, 0) == sizeof none - 1 &&
           memcmp(text, none, sizeof none - 1) == 0;
}

void
pctr_netpool_return(struct pctr_network *network, bool unchanged, bool busy)
{
    if (network->ns >= 0) {
        pool.lent -= unchanged;
        if (unchanged && pool.count < POOL_LIMIT && as_new(network)) {
            pool.ready[pool.count++] = *network;
        }
        else {
            drop(network);
        }
        *network = (struct pctr_network)PCTR_NO_NETWORK;
    }
    if (!busy && pool.count > POOL_SIZE) {
        drop(&pool.ready[--pool.count]);
    }
}

void
pctr_netpool_refill(bool missed)
{
    unsigned have = pool.count + pool.ordered + pool.lent;
    unsigned want = missed && have >= POOL_SIZE && have < POOL_LIMIT ? have + 1 : POOL_SIZE;

    for (; have < want && !pool.refused; have++) {
        if (pctr_aside_order(PCTR_ASIDE_NETWORK, 0, -1) < 0) {
            break;
        }
        pool.ordered++;
    }
}

void
pctr_netpool_arrived(const int *fds, unsigned count)
{
    struct pctr_network network = {count > 0 ? fds[0] : -1, count > 1 ? fds[1] : -1,
                                   count > 2 ? fds[2] : -1};

    if (pool.ordered > 0) {
        pool.ordered--;
    }
    if (network.ns >= 0 && pool.count < POOL_LIMIT) {
        pool.unused_size = pread(network.devices, pool.unused, sizeof pool.unused, 0);
        pool.ready[pool.count++] = network;
        return;
    }
    drop(&network);
    /* A limit or a refusal that the next container will meet, too, and report. */
    pool.refused = true;
}
