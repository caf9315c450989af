/*
 * The floor: starts the container that pycontainer starts by default, with the same system calls
 * in the same order and nothing around them: no plan, no host process, no protocol.  What is
 * slower than this is what a library or an engine adds; faster would be another container.
 *
 *     floor --lower DIRS --filter FILE [--layer DIR] [--count N] [--mkdir|--write|--join|
 *           --collect|--cgroup-mount|--bind|--hide|--mask|--readonly WHAT]... [--into DIR] -- PROGRAM...
 *
 * Paths that depend on the machine (control groups, what is masked) are given by the harness, which
 * asks pycontainer for them.  Without --layer the writable layer lies in memory.  Prints one line
 * per start: nanoseconds from before the first system call until after the last.  Without --count
 * each line on standard input asks for one start.
 */
#define _GNU_SOURCE
#include <dirent.h>
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

#define MAX_ITEMS 64
#define BASE "/sys" /* where the root is put together */
#define LENGTH(array) (sizeof(array) / sizeof(array)[0])
#define HIDDEN (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define CAP(name) (1ull << CAP_##name)
#define CAPABILITIES                                                                   \
    (CAP(CHOWN) | CAP(DAC_OVERRIDE) | CAP(FOWNER) | CAP(FSETID) | CAP(KILL) |          \
     CAP(NET_BIND_SERVICE) | CAP(SETFCAP) | CAP(SETGID) | CAP(SETPCAP) | CAP(SETUID) | \
     CAP(SYS_CHROOT))

struct list {
    unsigned count;
    char *items[MAX_ITEMS];
};

static struct {
    char *lower;
    char *layer; /* a directory that is made and removed, or NULL: in memory */
    struct sock_fprog filter;
    struct list mkdir;        /* control groups; removed at the end */
    struct list write;        /* FILE=VALUE, their limits */
    struct list join;         /* files that take a process */
    char *into;               /* the control group to clone into, on version 2 */
    struct list collect;      /* files that are read at the end */
    struct list cgroup_mount; /* TARGET=TYPE=DATA */
    struct list bind;         /* mounts of the host that belong to its root */
    struct list hide;         /* directories of the host that are shown empty */
    struct list mask;
    struct list readonly;
    char **argv;
} want;

static char *const environment[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};

static int input = -1; /* the program's standard input: nothing */
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
open_beneath(int directory, const char *path, uint64_t flags)
{
    struct open_how how = {
        .flags = flags | O_CLOEXEC,
        .resolve = RESOLVE_NO_MAGICLINKS | (directory >= 0 ? RESOLVE_IN_ROOT : 0),
    };
    return (int)syscall(SYS_openat2, directory >= 0 ? directory : AT_FDCWD, path, &how, sizeof how);
}

static int
open_target(const char *path)
{
    return open_beneath(root, path, O_PATH);
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

/* Each name is made in what the names before it resolve to. */
static int
make_directories(const char *path)
{
    char prefix[PATH_MAX];
    int at = (int)must(open_beneath(root, "/", O_PATH | O_DIRECTORY), "/");

    for (size_t i = 0; path[i] != '\0';) {
        size_t start = i + strspn(path + i, "/");
        size_t end = start + strcspn(path + start, "/");
        memcpy(prefix, path, end);
        prefix[end] = '\0';
        if (mkdirat(at, prefix + start, 0755) < 0 && errno != EEXIST) {
            err(127, "%s", path);
        }
        close(at);
        at = (int)must(open_beneath(root, prefix, O_PATH | O_DIRECTORY), prefix);
        i = end;
    }
    return at;
}

static void
mount_at(int directory, const char *target, const char *type, unsigned long flags, const char *data)
{
    must(fchdir(directory), target);
    must(mount(type, ".", type, flags, data), target);
    close(directory);
}

static void
mount_on(const char *target, const char *type, unsigned long flags, const char *data)
{
    int directory = open_target(target);

    if (directory < 0) {
        directory = make_directories(target);
    }
    mount_at(directory, target, type, flags, data);
}

/* Control groups */

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
    for (unsigned i = 0; i < want.mkdir.count; i++) {
        must(mkdir(want.mkdir.items[i], 0755), want.mkdir.items[i]);
    }
    for (unsigned i = 0; i < want.write.count; i++) {
        char *value = strchr(want.write.items[i], '=');
        *value = '\0';
        write_file(want.write.items[i], value + 1);
        *value = '=';
    }
}

static void
leave_cgroups(void)
{
    char text[4096];

    for (unsigned i = 0; i < want.collect.count; i++) {
        int fd = open(want.collect.items[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0) {
            must(read(fd, text, sizeof text), want.collect.items[i]);
            close(fd);
        }
    }
    for (unsigned i = 0; i < want.mkdir.count; i++) {
        must(rmdir(want.mkdir.items[i]), want.mkdir.items[i]);
    }
}

/* The file system */

static void
make_layer(void)
{
    char path[PATH_MAX];

    must(mkdir(want.layer, 0700), want.layer);
    snprintf(path, sizeof path, "%s/upper", want.layer);
    must(mkdir(path, 0755), path);
    snprintf(path, sizeof path, "%s/work", want.layer);
    must(mkdir(path, 0700), path);
}

/* Removes what is beneath `directory`, which it closes: a layer of a container that did little. */
static void
remove_beneath(int directory, int depth)
{
    DIR *stream = fdopendir(directory);
    const struct dirent *entry;

    if (stream == NULL || depth == 0) {
        errx(1, "cannot remove the layer");
    }
    while ((entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (entry->d_type == DT_DIR) {
            int below = openat(directory, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            remove_beneath((int)must(below, entry->d_name), depth - 1);
        }
        must(unlinkat(directory, entry->d_name, entry->d_type == DT_DIR ? AT_REMOVEDIR : 0),
             entry->d_name);
    }
    closedir(stream);
}

static void
remove_layer(void)
{
    int directory = open(want.layer, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    remove_beneath((int)must(directory, want.layer), 8);
    must(rmdir(want.layer), want.layer);
}

static void
mount_overlay(const char *target, const char *upper_and_work)
{
    char data[4096];

    snprintf(data, sizeof data, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work,volatile",
             want.lower, upper_and_work, upper_and_work);
    mount_on(target, "overlay", MS_NODEV, data);
}

static int
copy_tree(const char *path)
{
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;

    return (int)must(syscall(SYS_open_tree, AT_FDCWD, path, flags), path);
}

static void
bind_tree(int tree, const char *path)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV};
    struct stat status;
    int target = (int)must(open_target(path), path);

    must(fstat(tree, &status), path);
    must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr),
         path);
    must(syscall(SYS_move_mount, tree, "", target, "",
                 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
         path);
    close(target);
    close(tree);
}

static void
make_root(void)
{
    int trees[MAX_ITEMS];

    for (unsigned i = 0; i < want.bind.count; i++) {
        trees[i] = copy_tree(want.bind.items[i]);
    }
    if (want.layer != NULL) {
        mount_overlay(BASE, want.layer);
        set_root(BASE);
        return;
    }
    mount_on(BASE, "tmpfs", MS_NODEV, "mode=755");
    set_root(BASE);
    close(make_directories("upper"));
    close(make_directories("work"));
    close(make_directories("root"));
    mount_overlay("root", BASE);
    set_root(BASE "/root");
    for (unsigned i = 0; i < want.bind.count; i++) {
        bind_tree(trees[i], want.bind.items[i]);
    }
    mount_on("run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=20%");
    for (unsigned i = 0; i < want.hide.count; i++) {
        int directory = open_target(want.hide.items[i]);
        if (directory >= 0) {
            mount_at(directory, want.hide.items[i], "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV,
                     "size=4k,mode=555");
        }
    }
}

static void
fill_dev(void)
{
    static const struct {
        const char *name;
        unsigned major, minor;
    } nodes[] = {{"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
                 {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    static const struct {
        const char *name, *target;
    } links[] = {{"fd", "/proc/self/fd"},
                 {"stdin", "/proc/self/fd/0"},
                 {"stdout", "/proc/self/fd/1"},
                 {"stderr", "/proc/self/fd/2"},
                 {"ptmx", "pts/ptmx"}};

    for (unsigned i = 0; i < LENGTH(nodes); i++) {
        int dev = (int)must(open_beneath(root, "/dev", O_PATH | O_DIRECTORY), "/dev");
        must(mknodat(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)),
             nodes[i].name);
        close(dev);
    }
    for (unsigned i = 0; i < LENGTH(links); i++) {
        int dev = (int)must(open_beneath(root, "/dev", O_PATH | O_DIRECTORY), "/dev");
        must(symlinkat(links[i].target, dev, links[i].name), links[i].name);
        close(dev);
    }
}

static void
set_readonly(int tree)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};

    must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr), "mount_setattr");
}

/* On version 1 a directory with a mount for each hierarchy, which becomes read-only when full. */
static void
mount_cgroups(void)
{
    for (unsigned i = 0; i < want.cgroup_mount.count; i++) {
        char *target = strdup(want.cgroup_mount.items[i]);
        char *type = strchr(target, '='), *data = type == NULL ? NULL : strchr(type + 1, '=');
        if (data == NULL) {
            errx(2, "--cgroup-mount TARGET=TYPE=DATA");
        }
        *type++ = '\0';
        *data++ = '\0';
        mount_on(target, type, HIDDEN | (strcmp(type, "tmpfs") == 0 ? 0 : MS_RDONLY), data);
        free(target);
    }
    if (want.cgroup_mount.count > 1) {
        int target = (int)must(open_target("/sys/fs/cgroup"), "/sys/fs/cgroup");
        set_readonly(target);
        close(target);
    }
}

static void
mount_all(void)
{
    mount_on("/proc", "proc", HIDDEN, "");
    mount_on("/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    fill_dev();
    mount_on("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
             "newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount_on("/dev/shm", "tmpfs", HIDDEN, "mode=1777,size=65536k");
    mount_on("/dev/mqueue", "mqueue", HIDDEN, "");
    mount_on("/sys", "sysfs", MS_RDONLY | HIDDEN, "");
    mount_cgroups();
}

/* An open_tree(2) copy of `source`, read-only when asked for, on top of `target`. */
static void
bind_over(int source, int target, int readonly)
{
    int tree = (int)must(
        syscall(SYS_open_tree, source, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH),
        "open_tree");

    if (readonly) {
        set_readonly(tree);
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
    int target = open_target(path);

    if (target < 0) {
        return;
    }
    must(fstat(target, &status), path);
    if (S_ISDIR(status.st_mode)) {
        must(fchdir(target), path);
        must(mount("tmpfs", ".", "tmpfs", MS_RDONLY | HIDDEN, "size=0,mode=555"), path);
    }
    else {
        int null = (int)must(open_target("dev/null"), "/dev/null");
        bind_over(null, target, 0);
        close(null);
    }
    close(target);
}

static void
make_readonly(const char *path)
{
    int target = open_target(path);

    if (target >= 0) {
        bind_over(target, target, 1);
        close(target);
    }
}

static void
hide(void)
{
    for (unsigned i = 0; i < want.mask.count; i++) {
        mask(want.mask.items[i]);
    }
    for (unsigned i = 0; i < want.readonly.count; i++) {
        make_readonly(want.readonly.items[i]);
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
    uint32_t group = 0;

    default_signals();
    must(setsid(), "setsid");
    must(dup2(input, 0), "stdin");
    must(dup2(1, 1), "stdout");
    must(dup2(2, 2), "stderr");
    umask(022);
    drop_bounding();
    must(syscall(SYS_setgroups, 1, &group), "setgroups");
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
    must(syscall(SYS_close_range, (unsigned)input + 1, (unsigned)lifeline[1] - 1, 0),
         "close_range");
    must(syscall(SYS_close_range, (unsigned)lifeline[1] + 1, UINT_MAX, 0), "close_range");
    if (want.into == NULL) {
        make_cgroups();
    }
    for (unsigned i = 0; i < want.join.count; i++) {
        write_file(want.join.items[i], "0");
    }
    must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL), "keyring");
    must(unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP),
         "unshare");
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "propagation");
    make_root();
    mount_all();
    pivot();
    hide();
    loopback_up();
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
        make_cgroups();
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
    input = (int)must(open("/dev/null", O_RDONLY | O_CLOEXEC), "/dev/null");
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, lifeline), "socketpair");
    if (want.layer != NULL) {
        make_layer();
    }
    pid_t pid = clone_container();
    close(lifeline[1]);
    close(input);
    must(wait4(pid, &status, __WALL, &usage), "wait4");
    close(lifeline[0]);
    leave_cgroups();
    if (want.layer != NULL) {
        remove_layer();
    }
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

static void
add(struct list *list, char *item)
{
    if (list->count == MAX_ITEMS) {
        errx(2, "%s: one too many", item);
    }
    list->items[list->count++] = item;
}

static long
parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"lower", required_argument, NULL, 'l'},
        {"layer", required_argument, NULL, 'L'},
        {"filter", required_argument, NULL, 'f'},
        {"count", required_argument, NULL, 'n'},
        {"mkdir", required_argument, NULL, 'd'},
        {"write", required_argument, NULL, 'w'},
        {"join", required_argument, NULL, 'j'},
        {"into", required_argument, NULL, 'i'},
        {"collect", required_argument, NULL, 'c'},
        {"hide", required_argument, NULL, 'h'},
        {"cgroup-mount", required_argument, NULL, 'g'},
        {"mask", required_argument, NULL, 'm'},
        {"readonly", required_argument, NULL, 'r'},
        {"bind", required_argument, NULL, 'b'},
        {NULL, 0, NULL, 0},
    };
    struct list *const lists[128] = {
        ['d'] = &want.mkdir,        ['w'] = &want.write, ['j'] = &want.join,
        ['c'] = &want.collect,      ['h'] = &want.hide,  ['b'] = &want.bind,
        ['g'] = &want.cgroup_mount, ['m'] = &want.mask,  ['r'] = &want.readonly,
    };
    long count = LONG_MAX;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'l') {
            want.lower = optarg;
        }
        else if (option == 'L') {
            want.layer = optarg;
        }
        else if (option == 'f') {
            read_filter(optarg);
        }
        else if (option == 'n') {
            count = strtol(optarg, NULL, 10);
        }
        else if (option == 'i') {
            want.into = optarg;
        }
        else if (lists[option & 127] != NULL && (option != 'w' || strchr(optarg, '=') != NULL)) {
            add(lists[option & 127], optarg);
        }
        else {
            errx(2, "see the head of floor.c");
        }
    }
    want.argv = argv + optind;
    if (want.lower == NULL || want.filter.len == 0 || want.argv[0] == NULL) {
        errx(2, "--lower, --filter and a program are needed");
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
