/*
 * The floor: starts the container that pycontainer starts by default, with the same system calls
 * and nothing around them: no plan, no host process, no protocol.  What is slower than this is
 * what a library or an engine adds; faster than this would be another container.
 *
 *     floor --lower DIR --scratch DIR --filter FILE [--count N] [--cgroup DIR [--limit FILE=VALUE]...]...
 *           [--into DIR] [--collect FILE]... -- PROGRAM [ARGUMENT]...
 *
 * Prints one line per start: nanoseconds from before the first system call until after the last.
 * Without --count each line on standard input asks for one start.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

#define MAX_CGROUPS 8
#define MAX_FILES 32
#define LENGTH(array) (sizeof(array) / sizeof(array)[0])
#define HIDDEN (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define CAP(name) (1ull << CAP_##name)
#define CAPABILITIES                                                                   \
    (CAP(CHOWN) | CAP(DAC_OVERRIDE) | CAP(FOWNER) | CAP(FSETID) | CAP(KILL) |          \
     CAP(NET_BIND_SERVICE) | CAP(SETFCAP) | CAP(SETGID) | CAP(SETPCAP) | CAP(SETUID) | \
     CAP(SYS_CHROOT))

struct file {
    const char *path;
    const char *value;
};

static struct {
    const char *lower;
    const char *scratch; /* where the container's tmpfs for its writes goes */
    struct sock_fprog filter;
    const char *cgroups[MAX_CGROUPS];
    unsigned ncgroups;
    struct file limits[MAX_FILES];
    unsigned nlimits;
    const char *collect[MAX_FILES];
    unsigned ncollect;
    const char *into;
    char **argv;
} want;

static char *const environment[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};

static int lifeline[2];
static int root = -1;

/* Everything here works on the machine that the benchmark runs on, or there is no benchmark. */
static long
must(long result, const char *what)
{
    if (result < 0) {
        err(127, "%s", what);
    }
    return result;
}

static int
open_target(const char *path, uint64_t flags)
{
    struct open_how how = {
        .flags = flags | O_CLOEXEC,
        .resolve = RESOLVE_NO_MAGICLINKS | (root >= 0 ? RESOLVE_IN_ROOT : 0),
    };
    return (int)syscall(SYS_openat2, root >= 0 ? root : AT_FDCWD, path, &how, sizeof how);
}

static void
set_root(const char *path)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC};

    if (root >= 0) {
        close(root);
    }
    root = (int)must(syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how), path);
}

static void
mount_on(const char *target, const char *type, unsigned long flags, const char *data)
{
    int directory = (int)must(open_target(target, O_PATH), target);

    must(fchdir(directory), target);
    must(mount(type, ".", type, flags, data), target);
    close(directory);
}

/* /sys/fs/cgroup and what lies in it */

static void
write_file(const char *path, const char *text)
{
    int fd = (int)must(open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), path);

    must(write(fd, text, strlen(text)), path);
    close(fd);
}

static void
make_cgroups(void)
{
    for (unsigned i = 0; i < want.ncgroups; i++) {
        must(mkdir(want.cgroups[i], 0755), want.cgroups[i]);
    }
    for (unsigned i = 0; i < want.nlimits; i++) {
        write_file(want.limits[i].path, want.limits[i].value);
    }
}

static void
join_cgroups(void)
{
    char path[PATH_MAX];

    for (unsigned i = 0; i < want.ncgroups; i++) {
        snprintf(path, sizeof path, "%s/cgroup.procs", want.cgroups[i]);
        write_file(path, "0");
    }
}

static void
leave_cgroups(void)
{
    char text[4096];

    for (unsigned i = 0; i < want.ncollect; i++) {
        int fd = open(want.collect[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0) {
            must(read(fd, text, sizeof text), want.collect[i]);
            close(fd);
        }
    }
    for (unsigned i = 0; i < want.ncgroups; i++) {
        must(rmdir(want.cgroups[i]), want.cgroups[i]);
    }
}

/* The file system */

static void
make_root(void)
{
    char upper[256], work[256], merged[256], options[PATH_MAX];

    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "propagation");
    mount_on(want.scratch, "tmpfs", 0, "mode=700");
    snprintf(upper, sizeof upper, "%s/upper", want.scratch);
    snprintf(work, sizeof work, "%s/work", want.scratch);
    snprintf(merged, sizeof merged, "%s/root", want.scratch);
    must(mkdir(upper, 0755), upper);
    must(mkdir(work, 0755), work);
    must(mkdir(merged, 0755), merged);
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s,volatile", want.lower,
             upper, work);
    mount_on(merged, "overlay", 0, options);
    set_root(merged);
}

static void
make_devices(void)
{
    static const struct {
        const char *name;
        unsigned major, minor;
    } nodes[] = {{"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
                 {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    static const struct file links[] = {{"fd", "/proc/self/fd"},
                                        {"stdin", "/proc/self/fd/0"},
                                        {"stdout", "/proc/self/fd/1"},
                                        {"stderr", "/proc/self/fd/2"},
                                        {"ptmx", "pts/ptmx"}};

    for (unsigned i = 0; i < LENGTH(nodes); i++) {
        int dev = (int)must(open_target("/dev", O_PATH | O_DIRECTORY), "/dev");
        must(mknodat(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)),
             nodes[i].name);
        close(dev);
    }
    for (unsigned i = 0; i < LENGTH(links); i++) {
        int dev = (int)must(open_target("/dev", O_PATH | O_DIRECTORY), "/dev");
        must(symlinkat(links[i].value, dev, links[i].path), links[i].path);
        close(dev);
    }
}

static void
make_dir(const char *parent, const char *name)
{
    int directory = (int)must(open_target(parent, O_PATH | O_DIRECTORY), parent);

    must(mkdirat(directory, name, 0755), name);
    close(directory);
}

static void
mount_all(void)
{
    mount_on("/proc", "proc", HIDDEN, "");
    mount_on("/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    make_dir("/dev", "pts");
    mount_on("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
             "newinstance,ptmxmode=0666,mode=0620,gid=5");
    make_dir("/dev", "shm");
    mount_on("/dev/shm", "tmpfs", HIDDEN, "mode=1777,size=65536k");
    make_dir("/dev", "mqueue");
    mount_on("/dev/mqueue", "mqueue", HIDDEN, "");
    mount_on("/sys", "sysfs", MS_RDONLY | HIDDEN, "");
    make_devices();
}

/* An open_tree(2) copy of `source`, read-only when asked for, on top of `target`. */
static void
bind_over(int source, int target, int readonly)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    int tree = (int)must(
        syscall(SYS_open_tree, source, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH),
        "open_tree");

    if (readonly) {
        must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr),
             "mount_setattr");
    }
    must(syscall(SYS_move_mount, tree, "", target, "",
                 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
         "move_mount");
    close(tree);
}

static void
mask(const char *path)
{
    struct stat status;
    int target = open_target(path, O_PATH);

    if (target < 0) {
        return;
    }
    must(fstat(target, &status), path);
    if (S_ISDIR(status.st_mode)) {
        must(fchdir(target), path);
        must(mount("tmpfs", ".", "tmpfs", MS_RDONLY | HIDDEN, "size=0,mode=555"), path);
    }
    else {
        int null = (int)must(open_target("dev/null", O_PATH), "/dev/null");
        bind_over(null, target, 0);
        close(null);
    }
    close(target);
}

static void
make_readonly(const char *path)
{
    int target = open_target(path, O_PATH);

    if (target >= 0) {
        bind_over(target, target, 1);
        close(target);
    }
}

static void
hide(void)
{
    static const char *const masked[] = {
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/firmware",
        "/sys/fs/selinux",
        "/sys/devices/virtual/powercap",
    };
    static const char *const readonly[] = {
        "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
    };

    for (unsigned i = 0; i < LENGTH(masked); i++) {
        mask(masked[i]);
    }
    for (unsigned i = 0; i < LENGTH(readonly); i++) {
        make_readonly(readonly[i]);
    }
}

static void
pivot(void)
{
    must(fchdir(root), "root");
    must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(umount2(".", MNT_DETACH), "umount");
    must(chdir("/"), "chdir");
    set_root("/");
}

/* The process */

static void
loopback_up(void)
{
    struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING, .ifr_name = "lo"};
    int sock = (int)must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");

    must(ioctl(sock, SIOCSIFFLAGS, &request), "lo");
    close(sock);
}

static void
die_with_parent(int fd)
{
    struct pollfd peer = {.fd = fd};

    must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "pdeathsig");
    must(poll(&peer, 1, 0), "poll");
}

static void
set_capabilities(uint64_t set)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {.effective = (uint32_t)set, .permitted = (uint32_t)set},
        {.effective = (uint32_t)(set >> 32), .permitted = (uint32_t)(set >> 32)},
    };

    must(syscall(SYS_capset, &header, data), "capset");
}

static void
drop_bounding(void)
{
    for (int capability = 0; capability < 64; capability++) {
        if (!((CAPABILITIES >> capability) & 1) &&
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
            break;
        }
    }
}

static void
default_signals(void)
{
    struct sigaction action;
    sigset_t none;

    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_DFL;
    for (int number = 1; number < _NSIG; number++) {
        (void)sigaction(number, &action, NULL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void
become_program(void)
{
    char where[PATH_MAX];

    default_signals();
    must(setsid(), "setsid");
    umask(022);
    drop_bounding();
    must(syscall(SYS_setgroups, 0, NULL), "setgroups");
    must(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keepcaps");
    must(syscall(SYS_setresgid, 0, 0, 0), "setresgid");
    must(syscall(SYS_setresuid, 0, 0, 0), "setresuid");
    must(chdir("/"), "chdir");
    must(syscall(SYS_getcwd, where, sizeof where), "getcwd");
    must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient");
    set_capabilities(CAPABILITIES);
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &want.filter), "seccomp");
    execve(want.argv[0], want.argv, environment);
    err(127, "%s", want.argv[0]);
}

/* PID 1: waits for the program, whose end is the container's, and reaps whom it leaves behind. */
static _Noreturn void
run_init(pid_t program)
{
    sigset_t all;
    siginfo_t info;

    must(prctl(PR_SET_NAME, "floor-init", 0, 0, 0), "name");
    must(syscall(SYS_close_range, 3, UINT_MAX, 0), "close_range");
    must(chdir("/"), "chdir");
    set_capabilities(CAP(KILL));
    sigfillset(&all);
    for (;;) {
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
            if (pid == program) {
                _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
            }
        }
        (void)sigwaitinfo(&all, &info);
    }
}

static _Noreturn void
become_init(void)
{
    pid_t program = vfork();

    if (program == 0) {
        become_program();
    }
    must(program, "vfork");
    run_init(program);
}

static _Noreturn void
container(void)
{
    umask(0);
    must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable");
    die_with_parent(lifeline[1]);
    must(syscall(SYS_close_range, 3, (unsigned)lifeline[1] - 1, 0), "close_range");
    must(syscall(SYS_close_range, (unsigned)lifeline[1] + 1, UINT_MAX, 0), "close_range");
    join_cgroups();
    must(unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP),
         "unshare");
    must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL), "keyring");
    loopback_up();
    make_root();
    mount_all();
    hide();
    pivot();
    must(sethostname("floor", 5), "hostname");
    become_init();
}

static uint64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static pid_t
clone_container(void)
{
    struct clone_args args = {.flags = CLONE_NEWPID, .exit_signal = SIGCHLD};
    int cgroup = -1;

    if (want.into != NULL) {
        cgroup = (int)must(open(want.into, O_RDONLY | O_DIRECTORY | O_CLOEXEC), want.into);
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)cgroup;
    }
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) {
        container();
    }
    must(pid, "clone3");
    if (cgroup >= 0) {
        close(cgroup);
    }
    return (pid_t)pid;
}

static uint64_t
start_to_exit(void)
{
    struct rusage usage;
    int status;

    uint64_t begun = now_ns();
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, lifeline), "socketpair");
    make_cgroups();
    pid_t pid = clone_container();
    close(lifeline[1]);
    must(wait4(pid, &status, __WALL, &usage), "wait4");
    close(lifeline[0]);
    leave_cgroups();
    uint64_t ended = now_ns();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        errx(1, "the container ended with status %#x", (unsigned)status);
    }
    return ended - begun;
}

/* Options */

static void
read_filter(const char *path)
{
    static struct sock_filter program[BPF_MAXINSNS];
    int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
    ssize_t got = read(fd, program, sizeof program);

    if (got <= 0 || (size_t)got % sizeof program[0] != 0) {
        errx(2, "%s: not an array of struct sock_filter", path);
    }
    close(fd);
    want.filter.len = (unsigned short)((size_t)got / sizeof program[0]);
    want.filter.filter = program;
}

static char *
beneath_last_cgroup(const char *name)
{
    char *path;

    if (want.ncgroups == 0 || asprintf(&path, "%s/%s", want.cgroups[want.ncgroups - 1], name) < 0) {
        errx(2, "--limit and --collect follow a --cgroup");
    }
    return path;
}

static void
add_limit(char *text)
{
    char *value = strchr(text, '=');

    if (value == NULL || want.nlimits == MAX_FILES) {
        errx(2, "--limit FILE=VALUE, at most %d", MAX_FILES);
    }
    *value++ = '\0';
    want.limits[want.nlimits++] = (struct file){beneath_last_cgroup(text), value};
}

static void
add_cgroup(const char *path)
{
    if (want.ncgroups == MAX_CGROUPS) {
        errx(2, "at most %d --cgroup", MAX_CGROUPS);
    }
    want.cgroups[want.ncgroups++] = path;
}

static void
add_collect(const char *name)
{
    if (want.ncollect == MAX_FILES) {
        errx(2, "at most %d --collect", MAX_FILES);
    }
    want.collect[want.ncollect++] = beneath_last_cgroup(name);
}

static long
parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"lower", required_argument, NULL, 'l'},
        {"scratch", required_argument, NULL, 't'},
        {"filter", required_argument, NULL, 'f'},
        {"count", required_argument, NULL, 'n'},
        {"cgroup", required_argument, NULL, 'g'},
        {"limit", required_argument, NULL, 's'},
        {"collect", required_argument, NULL, 'c'},
        {"into", required_argument, NULL, 'i'},
        {NULL, 0, NULL, 0},
    };
    long count = LONG_MAX;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'l':
            want.lower = optarg;
            break;
        case 't':
            want.scratch = optarg;
            break;
        case 'f':
            read_filter(optarg);
            break;
        case 'n':
            count = strtol(optarg, NULL, 10);
            break;
        case 'g':
            add_cgroup(optarg);
            break;
        case 's':
            add_limit(optarg);
            break;
        case 'c':
            add_collect(optarg);
            break;
        case 'i':
            want.into = optarg;
            break;
        default:
            errx(2, "see the head of floor.c");
        }
    }
    want.argv = argv + optind;
    if (want.lower == NULL || want.scratch == NULL || want.filter.len == 0 ||
        want.argv[0] == NULL) {
        errx(2, "--lower, --scratch, --filter and a program are needed");
    }
    return count;
}

int
main(int argc, char **argv)
{
    long count = parse(argc, argv);
    char line[16];
    sigset_t all;

    /* Nothing may end PID 1 by its default action, and sigwaitinfo(2) takes what is blocked. */
    sigfillset(&all);
    must(sigprocmask(SIG_SETMASK, &all, NULL), "sigprocmask");
    for (long i = 0; i < count; i++) {
        if (count == LONG_MAX && fgets(line, sizeof line, stdin) == NULL) {
            break;
        }
        printf("%llu\n", (unsigned long long)start_to_exit());
        fflush(stdout);
    }
    return 0;
}
