#define _GNU_SOURCE
#include "init.h"

#include "util.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
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

struct family {
    pid_t program; /* 0 once it was reaped: its number may be another's then */
    int status;    /* the program's */
    bool childless;
};

/* Takes in whoever has ended so far. */
static void
reap(struct family *family)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) != 0) {
        if (pid < 0 && errno != EINTR) {
            family->childless = true;
            return;
        }
        if (pid > 0 && pid == family->program) {
            family->program = 0;
            family->status = status;
        }
    }
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

/* Everybody but this process, and what they used becomes its children's usage. */
static void
kill_all(void)
{
    int ignored;

    (void)kill(-1, SIGKILL);
    while (waitpid(-1, &ignored, __WALL) > 0 || errno == EINTR) {
    }
}

static void
kill_tree(const struct family *family)
{
    PCTR_AUTO_FD children = open_children();

    if (family->program > 0) {
        (void)kill(family->program, SIGKILL);
    }
    while (children >= 0 && kill_children(children)) {
        int ignored;
        /* At least one is dying: wait for it, so that its children are ours next time. */
        if (waitpid(-1, &ignored, __WALL) < 0 && errno == ECHILD) {
            break;
        }
    }
}

static void
report(const struct pctr_spawn *spawn, enum pctr_record_kind kind, int status)
{
    struct pctr_record *record = spawn->context.record;
    struct rusage usage;

    memset(record, 0, sizeof *record);
    record->kind = kind;
    record->started_ns = spawn->context.executed_ns;
    if (kind == PCTR_RECORD_EXITED) {
        record->status = status;
        record->exited_ns = pctr_now_ns();
        if (getrusage(RUSAGE_CHILDREN, &usage) == 0) {
            pctr_record_usage(record, &usage);
        }
    }
    (void)pctr_send_fds(spawn->context.report, record, sizeof *record, NULL, 0, 0);
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
forward(pid_t program, const siginfo_t *info, bool *killing)
{
    int signal = info->si_signo;

    uintptr_t value = (uintptr_t)info->si_value.sival_ptr;
    if (signal == PCTR_CARRIER_SIGNAL && info->si_code == SI_QUEUE &&
        (value & ~(uintptr_t)0xff) == pctr_carrier_key()) {
        signal = (int)(value & 0xff);
        if (signal == SIGKILL) {
            *killing = true;
            return;
        }
    }
    if (program > 0) {
        (void)kill(program, signal);
    }
}

_Noreturn void
pctr_init_run(struct pctr_spawn *spawn, pid_t program)
{
    struct family family = {.program = program};
    int keep[] = {spawn->context.report};
    bool killing = false, reported = false;
    sigset_t all;
    siginfo_t info;

    prctl(PR_SET_NAME, "pycontainer-ini", 0, 0, 0);
    if (pctr_close_all_but(keep, 1) < 0 || chdir("/") < 0) {
        _exit(126);
    }
    drop_privileges();
    if (spawn->request->flags & PCTR_START_REPORT) {
        report(spawn, PCTR_RECORD_STARTED, 0);
    }
    sigfillset(&all);
    for (;;) {
        reap(&family);
        if (family.program == 0 && !reported) {
            report(spawn, PCTR_RECORD_EXITED, family.status);
            reported = true;
        }
        /* The container ends with its program.  What a program that joined one has left behind
         * goes on, and can still be killed by whoever asked for it. */
        if (reported && (getpid() == 1 || family.childless)) {
            _exit(0);
        }
        if (sigwaitinfo(&all, &info) > 0 && info.si_signo != SIGCHLD) {
            forward(family.program, &info, &killing);
        }
        if (killing) {
            if (getpid() == 1) {
                kill_all();
            }
            else {
                kill_tree(&family);
            }
            if (!reported) {
                /* Whoever reaped it in there has its status: it was this signal. */
                report(spawn, PCTR_RECORD_EXITED, SIGKILL);
            }
            _exit(0);
        }
    }
}
