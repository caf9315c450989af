/*
 * The floor: starts the container that pycontainer starts by default, with the same system calls
 * in the same order and nothing around them: no plan, no host process, no protocol.  What is
 * slower than this is what a library or an engine adds; faster would be another container, or
 * work done elsewhere: pycontainer takes its network namespaces from a pool and makes control
 * groups of version 1 beside the container's own process, while here one process does it all.
 *
 *     floor --lower DIRS --filter FILE [--layer DIR] [--count N] [--mkdir|--write|--join|
 *           --collect|--cgroup-mount|--bind|--hide|--own|--mask|--readonly WHAT]... [--into DIR]
 *           -- PROGRAM...
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
#include <linux/magic.h>
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
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

#define MAX_ITEMS 64
#define BASE "/sys" /* where the root is put together, on a file system in memory */
#define EMPTY BASE "/empty"
#define CGROUP "/sys/fs/cgroup"
#define LENGTH(array) (sizeof(array) / sizeof(array)[0])
#define HIDDEN (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define HIDDEN_ATTRIBUTES \
    (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
#define CAP(name) (1ull << CAP_##name)
#define CAPABILITIES                                                                   \
    (CAP(CHOWN) | CAP(DAC_OVERRIDE) | CAP(FOWNER) | CAP(FSETID) | CAP(KILL) |          \
     CAP(NET_BIND_SERVICE) | CAP(SETFCAP) | CAP(SETGID) | CAP(SETPCAP) | CAP(SETUID) | \
     CAP(SYS_CHROOT))

struct list {
    unsigned count;
    char *items[MAX_ITEMS];
};

struct cgroup_mount {
    char *target, *type, *data;
};

static struct {
    char *lower;
    char *layer; /* a directory that is made and removed, or NULL: in memory */
    struct sock_fprog filter;
    struct list mkdir;   /* control groups; removed at the end */
    struct list write;   /* FILE=VALUE, their limits */
    struct list join;    /* files that take a process, on version 1 */
    char *into;          /* the control group to clone into, on version 2 */
    struct list collect; /* files that are read at the end */
    struct list bind;    /* mounts of the host that belong to its root */
    struct list hide;    /* directories of the host that are shown empty */
    struct list own;     /* files with contents of the container's own */
    struct list mask;
    struct list readonly;
    unsigned cgroup_mounts; /* on version 1 a "tmpfs", then the hierarchies in it */
    struct cgroup_mount cgroup_mount[MAX_ITEMS];
    char **argv;
} want;

static char *const environment[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};

static int input = -1; /* the program's standard input: nothing */
static int self;       /* our pidfd */
static int root = -1;
static int own_trees[MAX_ITEMS]; /* of want.own */
static int groups[MAX_ITEMS];    /* want.join, open */

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
make_directories(const char *path, mode_t mode)
{
    char prefix[PATH_MAX];
    int at = (int)must(open_beneath(root, "/", O_PATH | O_DIRECTORY), "/");

    for (size_t i = 0; path[i] != '\0';) {
        size_t start = i + strspn(path + i, "/");
        size_t end = start + strcspn(path + start, "/");
        memcpy(prefix, path, end);
        prefix[end] = '\0';
        if (mkdirat(at, prefix + start, mode) < 0 && errno != EEXIST) {
            err(127, "%s", path);
        }
        close(at);
        at = (int)must(open_beneath(root, prefix, O_PATH | O_DIRECTORY), prefix);
        i = end;
    }
    return at;
}

/* A link in an image leads no mount onto the kernel's own files. */
static void
check_target(int target, const char *path)
{
    struct statfs status;
    const char *own = "";

    must(fstatfs(target, &status), path);
    if (status.f_type == PROC_SUPER_MAGIC) {
        own = "/proc";
    }
    else if (status.f_type == SYSFS_MAGIC || status.f_type == CGROUP_SUPER_MAGIC ||
             status.f_type == CGROUP2_SUPER_MAGIC) {
        own = "/sys";
    }
    if (strncmp(path, own, strlen(own)) != 0) {
        errx(127, "%s leads elsewhere", path);
    }
}

static void
mount_on(const char *target, const char *type, unsigned long flags, const char *data)
{
    int directory = open_target(target);

    if (directory < 0) {
        directory = make_directories(target, 0755);
    }
    check_target(directory, target);
    must(fchdir(directory), target);
    must(mount(type, ".", type, flags, data), target);
    close(directory);
}

static int
copy_tree(int directory, const char *path, unsigned flags)
{
    flags |= OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    return (int)must(syscall(SYS_open_tree, directory, path, flags), path);
}

static void
set_attributes(int tree, uint64_t flags, unsigned recursive)
{
    struct mount_attr attr = {.attr_set = flags};

    must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | recursive, &attr, sizeof attr),
         "mount_setattr");
}

/* Closes the tree: it has its place. */
static void
attach_tree(int tree, int target)
{
    must(syscall(SYS_move_mount, tree, "", target, "",
                 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
         "move_mount");
    close(tree);
}

/* Closes the tree; gives -1 where there is no such path. */
static int
bind_tree(int tree, const char *path, uint64_t flags, unsigned recursive)
{
    struct mount_attr private = {.propagation = MS_PRIVATE};
    struct stat status;

    must(fstat(tree, &status), path);
    set_attributes(tree, flags, recursive);
    must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &private,
                 sizeof private),
         path);
    int target = open_target(path);
    if (target < 0) {
        close(tree);
        return -1;
    }
    check_target(target, path);
    attach_tree(tree, target);
    close(target);
    return 0;
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
    for (unsigned i = 0; i < want.join.count; i++) {
        const char *path = want.join.items[i];
        groups[i] = (int)must(open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW), path);
    }
}

/* After the mounts, whose memory would be accounted to the group otherwise, which makes each of
 * them slower; the files are out of sight by then, and open. */
static void
join_cgroups(void)
{
    for (unsigned i = want.join.count; i-- > 0;) {
        must(write(groups[i], "0", 1), want.join.items[i]);
        close(groups[i]);
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

/* One file system in memory for all that is small: the writable layer of the host's root, what
 * hides other directories, mount points. */
static void
make_scratch(void)
{
    static const char *const names[] = {"upper", "work", "root", "run"};

    mount_on(BASE, "tmpfs", MS_NODEV, "mode=755");
    set_root(BASE);
    for (unsigned i = 0; i < LENGTH(names); i++) {
        close(make_directories(names[i], 0755));
    }
    for (unsigned i = 0; want.cgroup_mounts > 1 && i < want.cgroup_mounts; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "cgroup%s", want.cgroup_mount[i].target + strlen(CGROUP));
        close(make_directories(path, 0755));
    }
    close(make_directories("empty", 0555));
}

/* What is in a file of the container's own matters to nobody here, but that it is written. */
static void
make_own_files(void)
{
    static const char text[] = "127.0.0.1\tlocalhost\n127.0.1.1\tfloor\n";

    if (want.own.count > 0) {
        close(make_directories("files", 0755));
    }
    for (unsigned i = 0; i < want.own.count; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, BASE "/files/own%u", i);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        must(fd, path);
        must(write(fd, text, sizeof text - 1), path);
        close(fd);
        own_trees[i] = copy_tree(AT_FDCWD, path, 0);
    }
}

/* An image has them, or the file that the mount needs is made in its writable layer. */
static void
bind_own_files(void)
{
    for (unsigned i = 0; i < want.own.count; i++) {
        const char *path = want.own.items[i];
        struct open_how how = {
            .flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
            .mode = 0644,
            .resolve = RESOLVE_NO_MAGICLINKS | RESOLVE_IN_ROOT,
        };
        int there = open_target(path);
        if (there < 0) {
            there = (int)must(syscall(SYS_openat2, root, path, &how, sizeof how), path);
        }
        close(there);
        must(bind_tree(own_trees[i], path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                       0),
             path);
    }
}

static void
make_root(const int *host_trees)
{
    const char *place = want.layer != NULL ? want.layer : BASE;
    char data[4096];

    snprintf(data, sizeof data, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work,volatile",
             want.lower, place, place);
    mount_on("root", "overlay", MS_NODEV, data);
    set_root(BASE "/root");
    if (want.layer != NULL) {
        return;
    }
    for (unsigned i = 0; i < want.bind.count; i++) {
        const char *path = want.bind.items[i];
        must(bind_tree(host_trees[i], path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV, AT_RECURSIVE),
             path);
    }
    int run = copy_tree(AT_FDCWD, BASE "/run", 0);
    must(bind_tree(run, "/run", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0), "/run");
    for (unsigned i = 0; i < want.hide.count; i++) {
        /* Not there where it lies on another file system than the host's root. */
        (void)bind_tree(copy_tree(AT_FDCWD, EMPTY, 0), want.hide.items[i],
                        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0);
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

/* On version 1 a directory with a mount for each hierarchy. */
static void
mount_cgroups(void)
{
    for (unsigned i = 0; i < want.cgroup_mounts; i++) {
        const struct cgroup_mount *it = &want.cgroup_mount[i];
        if (strcmp(it->type, "tmpfs") == 0) {
            int tree = copy_tree(AT_FDCWD, BASE "/cgroup", 0);
            must(bind_tree(tree, it->target, HIDDEN_ATTRIBUTES, 0), it->target);
        }
        else {
            mount_on(it->target, it->type, MS_RDONLY | HIDDEN, it->data);
        }
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
    join_cgroups();
    /* The namespace has its root where the process is when it is made. */
    must(unshare(CLONE_NEWCGROUP), "unshare");
    mount_cgroups();
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
        int tree = copy_tree(AT_FDCWD, EMPTY, 0);
        set_attributes(tree, HIDDEN_ATTRIBUTES, 0);
        attach_tree(tree, target);
    }
    else {
        int null = (int)must(open_target("dev/null"), "/dev/null");
        attach_tree(copy_tree(null, "", AT_EMPTY_PATH), target);
        close(null);
    }
    close(target);
}

static void
make_readonly(const char *path)
{
    int target = open_target(path);

    if (target >= 0) {
        int tree = copy_tree(target, "", AT_EMPTY_PATH | AT_RECURSIVE);
        set_attributes(tree, MOUNT_ATTR_RDONLY, AT_RECURSIVE);
        attach_tree(tree, target);
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
die_with_parent(void)
{
    struct pollfd gone = {.fd = self, .events = POLLIN};

    must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "pdeathsig");
    if (must(poll(&gone, 1, 0), "poll") > 0) {
        _exit(127);
    }
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
    must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable");
    must(chdir("/"), "chdir");
    must(syscall(SYS_getcwd, where, sizeof where), "getcwd");
    must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient");
    set_capabilities(CAPABILITIES);
    die_with_parent();
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
    must(syscall(SYS_close_range, 0, UINT_MAX, 0), "close_range");
    must(chdir("/"), "chdir");
    set_capabilities(CAP(KILL));
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable");
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
    int host_trees[MAX_ITEMS];

    umask(0);
    must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable");
    die_with_parent();
    must(syscall(SYS_close_range, (unsigned)input + 1, UINT_MAX, 0), "close_range");
    if (want.into == NULL) {
        make_cgroups();
    }
    must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL), "keyring");
    must(unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET), "unshare");
    loopback_up();
    for (unsigned i = 0; i < want.bind.count; i++) {
        host_trees[i] = copy_tree(AT_FDCWD, want.bind.items[i], AT_RECURSIVE);
    }
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "propagation");
    make_scratch();
    make_own_files();
    make_root(host_trees);
    mount_all();
    bind_own_files();
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
    if (want.layer != NULL) {
        make_layer();
    }
    pid_t pid = clone_container();
    close(input);
    must(wait4(pid, &status, __WALL, &usage), "wait4");
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

static void
add_cgroup_mount(char *text)
{
    char *type = strchr(text, '='), *data = type == NULL ? NULL : strchr(type + 1, '=');

    if (data == NULL || strncmp(text, CGROUP, strlen(CGROUP)) != 0) {
        errx(2, "--cgroup-mount " CGROUP "/NAME=TYPE=DATA");
    }
    if (want.cgroup_mounts == MAX_ITEMS) {
        errx(2, "%s: one too many", text);
    }
    *type++ = '\0';
    *data++ = '\0';
    want.cgroup_mount[want.cgroup_mounts++] = (struct cgroup_mount){text, type, data};
}

static long
parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"lower", required_argument, NULL, 'l'},        {"layer", required_argument, NULL, 'L'},
        {"filter", required_argument, NULL, 'f'},       {"count", required_argument, NULL, 'n'},
        {"mkdir", required_argument, NULL, 'd'},        {"write", required_argument, NULL, 'w'},
        {"join", required_argument, NULL, 'j'},         {"into", required_argument, NULL, 'i'},
        {"collect", required_argument, NULL, 'c'},      {"hide", required_argument, NULL, 'h'},
        {"cgroup-mount", required_argument, NULL, 'g'}, {"mask", required_argument, NULL, 'm'},
        {"readonly", required_argument, NULL, 'r'},     {"bind", required_argument, NULL, 'b'},
        {"own", required_argument, NULL, 'o'},          {NULL, 0, NULL, 0},
    };
    struct list *const lists[128] = {
        ['d'] = &want.mkdir,   ['w'] = &want.write,    ['j'] = &want.join,
        ['c'] = &want.collect, ['h'] = &want.hide,     ['b'] = &want.bind,
        ['m'] = &want.mask,    ['r'] = &want.readonly, ['o'] = &want.own,
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
        else if (option == 'g') {
            add_cgroup_mount(optarg);
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

    /* So that what is opened from now on lies above: a container closes all but these. */
    must(syscall(SYS_close_range, 3, UINT_MAX, 0), "close_range");
    self = (int)must(syscall(SYS_pidfd_open, getpid(), 0), "pidfd_open");
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
