#define _GNU_SOURCE
#include "init.h"

#include "util.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

/* Only what forwarding a signal to another user's process takes.  With no_new_privs, because a
 * container that was given CAP_SYS_PTRACE could make this process, which is root with the host's
 * bounding set, execute something; and not dumpable, whatever fs.suid_dumpable made of the memory
 * when the program's process changed its user. */
static void
drop_privileges(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {.effective = 1u << CAP_KILL, .permitted = 1u << CAP_KILL},
    };

    if (syscall(SYS_capset, &header, data) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) {
        _exit(126);
    }
}

/* Returns when every child is gone, with the program's status if it was among them. */
static int
reap(pid_t program, int *status, int options)
{
    int one, ended = 0;
    pid_t pid;

    while ((pid = waitpid(-1, &one, options | __WALL)) != 0) {
        if (pid < 0) {
            if (errno == EINTR) {
                continue;
            }
            break;
        }
        if (pid == program) {
            *status = one;
            ended = 1;
        }
    }
    return ended;
}

/* Kills our children, as procfs names them.  Theirs become ours when they die (we are their
 * reaper), so repeating this until there is none left ends the whole tree. */
static int
kill_children(int children)
{
    char text[4096];
    ssize_t got = pread(children, text, sizeof text - 1, 0);

    if (got <= 0) {
        return 0;
    }
    text[got] = '\0';
    int killed = 0;
    for (char *at = text, *next; *at != '\0'; at = next) {
        long pid = strtol(at, &next, 10);
        if (next == at) {
            break;
        }
        /* A number cut off at the end of the buffer is complete in the next round. */
        if (*next == ' ' && pid > 1 && kill((pid_t)pid, SIGKILL) == 0) {
            killed = 1;
        }
    }
    return killed;
}

static int
open_children(void)
{
    struct statfs status;
    PCTR_AUTO_FD file = pctr_openat2(AT_FDCWD, "/proc/thread-self/children", O_RDONLY, 0, 0);

    if (file < 0 || fstatfs(file, &status) < 0 || status.f_type != PROC_SUPER_MAGIC) {
        return -1;
    }
    return pctr_steal_fd(&file);
}

static void
kill_tree(pid_t program)
{
    PCTR_AUTO_FD children = getpid() == 1 ? -1 : open_children();

    kill(program, SIGKILL);
    while (children >= 0 && kill_children(children)) {
        int ignored;
        /* At least one is dying: wait for it, so that its children are ours next time. */
        if (waitpid(-1, &ignored, __WALL) < 0 && errno == ECHILD) {
            break;
        }
    }
}

static _Noreturn void
finish(struct pctr_spawn *spawn, int status, uint64_t started)
{
    struct pctr_record *record = spawn->context.record;

    memset(record, 0, sizeof *record);
    record->kind = PCTR_RECORD_EXITED;
    record->status = status;
    record->started_ns = started;
    record->exited_ns = pctr_now_ns();
    (void)pctr_send_fds(spawn->context.report, record, sizeof *record, NULL, 0, 0);
    _exit(0);
}

uintptr_t
pctr_carrier_key(void)
{
    static uintptr_t key;

    while (key == 0 && syscall(SYS_getrandom, &key, sizeof key, 0) != sizeof key) {
        key = 0;
    }
    return key & ~(uintptr_t)0xff;
}

static void
forward(pid_t program, const siginfo_t *info, int *killing)
{
    int signal = info->si_signo;

    uintptr_t value = (uintptr_t)info->si_value.sival_ptr;
    if (signal == PCTR_CARRIER_SIGNAL && info->si_code == SI_QUEUE &&
        (value & ~(uintptr_t)0xff) == pctr_carrier_key()) {
        signal = (int)(value & 0xff);
        if (signal == SIGKILL) {
            *killing = 1;
            return;
        }
    }
    (void)kill(program, signal);
}

_Noreturn void
pctr_init_run(struct pctr_spawn *spawn, pid_t program)
{
    uint64_t started = spawn->context.executed_ns;
    int keep[] = {spawn->context.report};
    int status = 0, killing = 0;
    sigset_t all;
    siginfo_t info;

    prctl(PR_SET_NAME, "pycontainer-ini", 0, 0, 0);
    if (pctr_close_all_but(keep, 1) < 0 || chdir("/") < 0) {
        _exit(126);
    }
    drop_privileges();
    if (spawn->request->flags & PCTR_START_REPORT) {
        struct pctr_record *record = spawn->context.record;
        memset(record, 0, sizeof *record);
        record->kind = PCTR_RECORD_STARTED;
        record->started_ns = started;
        (void)pctr_send_fds(spawn->context.report, record, sizeof *record, NULL, 0, 0);
    }
    sigfillset(&all);
    for (;;) {
        int ended = reap(program, &status, WNOHANG);
        if (ended) {
            finish(spawn, status, started);
        }
        if (sigwaitinfo(&all, &info) > 0 && info.si_signo != SIGCHLD) {
            forward(program, &info, &killing);
        }
        if (killing) {
            kill_tree(program);
            /* Whoever reaped it in there has its status: it was this signal. */
            finish(spawn, SIGKILL, started);
        }
    }
}
