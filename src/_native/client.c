/* Compiled into the Python extension: it runs in somebody else's threaded process, so it keeps
 * no state, takes no locks and leaves errno-based results to its caller. */
#define _GNU_SOURCE
#include "client.h"

#include "protocol.h"
#include "supervisor.h"
#include "util.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

/* A copy that nobody can change, neither we nor what runs in a container: the file on disk
 * could be overwritten through /proc/PID/exe by whoever is root in one. */
static int
seal_copy(int program)
{
    struct stat status;

    PCTR_AUTO_FD copy = pctr_result(
        memfd_create("pycontainer-supervisor", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC));
    if (copy == -EINVAL) {
        /* Before Linux 6.3 there was no MFD_EXEC, and every memfd could be executed. */
        copy = pctr_result(memfd_create("pycontainer-supervisor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    }
    if (copy < 0) {
        return copy;
    }
    if (fstat(program, &status) < 0) {
        return -errno;
    }
    for (off_t offset = 0; offset < status.st_size;) {
        ssize_t sent = sendfile(copy, program, &offset, (size_t)(status.st_size - offset));
        if (sent < 0 && errno != EINTR) {
            return -errno;
        }
        if (sent == 0) {
            return -EIO;
        }
    }
    if (fcntl(copy, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
        return -errno;
    }
    return pctr_steal_fd(&copy);
}

struct launch {
    int fds[3];  /* in the order of PCTR_FD_HOST, _HOST_PID, _PROGRAM */
    char *stack; /* of the second child */
    size_t stack_size;
    volatile int error;
};

/* The supervisor-to-be: shares our memory until it execs, so it only makes system calls. */
static int
supervisor_main(void *argument)
{
    struct launch *launch = argument;
    char *argv[] = {"pycontainer-supervisor", NULL};
    char *envp[] = {NULL};
    int moved[3];

    for (int i = 0; i < 3; i++) {
        moved[i] = fcntl(launch->fds[i], F_DUPFD_CLOEXEC, PCTR_FD_PROGRAM + 1);
        if (moved[i] < 0) {
            launch->error = errno;
            _exit(1);
        }
    }
    for (int i = 0; i < 3; i++) {
        if (dup2(moved[i], PCTR_FD_HOST + i) < 0) {
            launch->error = errno;
            _exit(1);
        }
    }
    /* Not only at the exec: copies of the host's locks would outlive a host that is killed now. */
    syscall(SYS_close_range, PCTR_FD_PROGRAM + 1, UINT_MAX, 0);
    syscall(SYS_execveat, PCTR_FD_PROGRAM, "", argv, envp, AT_EMPTY_PATH);
    launch->error = errno;
    _exit(1);
}

/* Shares its descriptors with the supervisor-to-be, so that what that one closes is closed here.
 * Between us and the supervisor, and gone before we go on: so the supervisor has no parent in
 * this process, and no waitpid(-1) of the host's ever meets it. */
static int
parent_main(void *argument)
{
    struct launch *launch = argument;

    if (clone(supervisor_main, launch->stack + launch->stack_size,
              CLONE_VM | CLONE_FILES | CLONE_VFORK | SIGCHLD, launch) < 0) {
        launch->error = errno;
    }
    _exit(0);
}

static int
launch_detached(struct launch *launch, char *stack, size_t size)
{
    sigset_t all, before;
    int status;

    /* No handler of the host's may run in a child that shares its memory. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    /* Exit signal 0: neither SIGCHLD nor a plain waitpid(-1) sees this child. */
    pid_t pid = clone(parent_main, stack + size, CLONE_VM | CLONE_VFORK, launch);
    int error = pid < 0 ? -errno : 0;
    while (pid > 0 && waitpid(pid, &status, __WCLONE) < 0 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error < 0 ? error : -launch->error;
}

static int
launch_program(int program, int sock, int host)
{
    enum { STACK = 64 * 1024 };
    char *stacks = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);

    if (stacks == MAP_FAILED) {
        return -errno;
    }
    struct launch launch = {
        .fds = {sock, host, program}, .stack = stacks + STACK, .stack_size = STACK};
    int error = launch_detached(&launch, stacks, STACK);
    munmap(stacks, 2 * STACK);
    return error;
}

int
pctr_client_start(int program, int *memory)
{
    int pair[2];

    PCTR_AUTO_FD host = pctr_result(syscall(SYS_pidfd_open, getpid(), 0));
    if (host < 0) {
        return host;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    PCTR_AUTO_FD ours = pair[0], theirs = pair[1];
    PCTR_AUTO_FD copy = seal_copy(program);
    int error = copy < 0 ? copy : launch_program(copy, theirs, host);
    *memory = error >= 0;
    if (error < 0) {
        /* Memory that may not be executed (vm.memfd_noexec, a security module): the installed
         * file, through a descriptor that cannot write it. */
        error = launch_program(program, theirs, host);
    }
    return error < 0 ? error : pctr_steal_fd(&ours);
}

int
pctr_client_request(int sock, const void *data, size_t size, const int *fds, unsigned count,
                    int *channel)
{
    int pair[2] = {-1, -1}, all[PCTR_MAX_FDS];
    unsigned extra = channel != NULL ? 1 : 0;

    if (count + extra > PCTR_MAX_FDS) {
        return -EMFILE;
    }
    if (channel != NULL && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    PCTR_AUTO_FD ours = pair[0], theirs = pair[1];
    all[0] = theirs;
    for (unsigned i = 0; i < count; i++) {
        all[i + extra] = fds[i];
    }
    int error = pctr_send_fds(sock, data, size, all, count + extra, 0);
    if (error >= 0 && channel != NULL) {
        *channel = pctr_steal_fd(&ours);
    }
    return error;
}

long
pctr_client_receive(int sock, void *data, size_t size, int *fds, unsigned *count, int peek)
{
    return pctr_receive_fds(sock, data, size, fds, count, MSG_DONTWAIT | (peek ? MSG_PEEK : 0));
}

int
pctr_client_watch(int directory)
{
    enum { EVENTS = IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF };
    char path[32]; /* by its descriptor: a name could mean something else by now */

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", directory);
    PCTR_AUTO_FD fd = pctr_result(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (fd < 0) {
        return fd;
    }
    int watch = pctr_result(inotify_add_watch(fd, path, EVENTS | IN_ONLYDIR));
    return watch < 0 ? watch : pctr_steal_fd(&fd);
}

long
pctr_client_lend(int pipe, const void *data, size_t size)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    ssize_t lent = vmsplice(pipe, &part, 1, 0);

    return lent < 0 ? -errno : lent;
}

void
pctr_client_close(int *cell)
{
    pctr_close(cell);
}
