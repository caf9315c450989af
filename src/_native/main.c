/* The supervisor program: see docs/architecture.md.  It is started by client.c with three
 * descriptors, lives as long as the host process and takes no arguments from a person. */
#define _GNU_SOURCE
#include "nofile.h"
#include "supervisor.h"
#include "util.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whatever the host ignores or handles is not ours: an ignored SIGCHLD would reap for us. */
static void
reset_signals(void)
{
    sigset_t all;

    pctr_default_signals();
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

/* The host's standard streams are not ours to hold open. */
static int
detach_streams(void)
{
    PCTR_AUTO_FD null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0) {
        return -errno;
    }
    for (int fd = 0; fd <= 2; fd++) {
        if (dup2(null, fd) < 0) {
            return -errno;
        }
    }
    return 0;
}

int
main(void)
{
    const int keep[] = {0, 1, 2, PCTR_FD_HOST, PCTR_FD_HOST_PID, PCTR_FD_PROGRAM};

    reset_signals();
    if (pctr_close_all_but(keep, sizeof keep / sizeof keep[0]) < 0 || detach_streams() < 0 ||
        chdir("/") < 0) {
        return 1;
    }
    for (int fd = PCTR_FD_HOST; fd <= PCTR_FD_PROGRAM; fd++) {
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
            return 1;
        }
    }
    /* EPERM: executed again inside a user namespace, and leader of its session already. */
    (void)setsid();
    prctl(PR_SET_NAME, "pycontainer-sup", 0, 0, 0);
    pctr_nofile_raise();
    return pctr_supervisor_run();
}
