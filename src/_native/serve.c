/* Serving the files beneath a container's root to the host: one request, one answer, and for an
 * opened file its descriptor.  The tree may be an enemy's, and may change under our hands: every
 * path is resolved to a descriptor beneath the root, and what is done is done to that. */
#define _GNU_SOURCE
#include "ops.h"
#include "resolve.h"
#include "tree.h"
#include "util.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

enum {
    OPEN_FLAGS = O_ACCMODE | O_CREAT | O_EXCL | O_APPEND | O_DIRECTORY | O_NOFOLLOW,
    MAX_REQUEST = (int)sizeof(struct pctr_file_request) + 2 * PATH_MAX,
};

struct served {
    struct pctr_context *context;
    const struct pctr_file_request *request;
    const char *path;
    const char *other;
    int at; /* where `path` begins, or -1: at the root */
    int other_at;
    struct pctr_file_reply reply;
    char text[PATH_MAX];
    int fd; /* goes along with the reply, or -1 */
};

static int
open_from(const struct served *served, int at, const char *path, uint64_t flags, uint64_t mode)
{
    if (at >= 0) {
        return pctr_openat2(at, *path != '\0' ? path : ".", flags, mode,
                            RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
    }
    return pctr_openat2(served->context->root, *path != '\0' ? path : "/", flags, mode,
                        RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

static int
open_path(const struct served *served, uint64_t flags, uint64_t mode)
{
    return open_from(served, served->at, served->path, flags, mode);
}

/* The directory that holds what `path` names. */
static int
open_parent(const struct served *served, int at, const char *path, const char **name)
{
    char parent[PATH_MAX];
    int error = pctr_split_path(path, parent, name);

    return error < 0 ? error : open_from(served, at, parent, O_PATH | O_DIRECTORY, 0);
}

/* The file itself, or what a link at its name points to. */
static int
open_named(const struct served *served)
{
    bool follow = (served->request->flags & PCTR_FILE_FOLLOW) != 0;
    return open_path(served, O_PATH | (follow ? 0 : O_NOFOLLOW), 0);
}

/* The kernel's own files are not the container's to give: a link to /proc/sys would make the
 * host's settings of them. */
static int
check_kind(int fd, bool writes)
{
    struct stat status;
    struct statfs system;

    if (fstat(fd, &status) < 0 || fstatfs(fd, &system) < 0) {
        return -errno;
    }
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
        return -ENXIO;
    }
    bool kernels = system.f_type == PROC_SUPER_MAGIC || system.f_type == SYSFS_MAGIC ||
                   system.f_type == CGROUP_SUPER_MAGIC || system.f_type == CGROUP2_SUPER_MAGIC;
    return kernels && writes ? -EPERM : 0;
}

/* O_NONBLOCK: a fifo without a writer would keep us.  O_TRUNC is done once it is known what it is. */
static int
serve_open(struct served *served)
{
    uint32_t asked = served->request->flags;
    uint64_t flags = (asked & OPEN_FLAGS) | O_NONBLOCK | O_NOCTTY;
    uint64_t mode = (flags & O_CREAT) ? served->request->mode & 07777 : 0;
    PCTR_AUTO_FD fd = open_path(served, flags, mode);
    if (fd < 0) {
        return fd;
    }
    int error = check_kind(fd, (asked & O_ACCMODE) != O_RDONLY);
    if (error >= 0 && (asked & O_TRUNC) && ftruncate(fd, 0) < 0) {
        error = -errno;
    }
    if (error >= 0 && fcntl(fd, F_SETFL, (int)(flags & O_APPEND)) < 0) {
        error = -errno;
    }
    if (error >= 0) {
        served->fd = pctr_steal_fd(&fd);
    }
    return error;
}

enum { SECOND = 1000000000 };

/* A file system may tell times that are further away than this can say. */
static int64_t
nanoseconds(struct timespec time)
{
    int64_t result;

    if (__builtin_mul_overflow((int64_t)time.tv_sec, SECOND, &result) ||
        __builtin_add_overflow(result, time.tv_nsec, &result)) {
        return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
    }
    return result;
}

static struct timespec
timespec_of(int64_t ns)
{
    int64_t rest = ns % SECOND;

    return rest < 0 ? (struct timespec){.tv_sec = ns / SECOND - 1, .tv_nsec = rest + SECOND}
                    : (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = rest};
}

static int
serve_stat(struct served *served)
{
    struct pctr_file_reply *reply = &served->reply;
    struct stat status;
    PCTR_AUTO_FD fd = open_named(served);

    if (fd < 0) {
        return fd;
    }
    if (fstat(fd, &status) < 0) {
        return -errno;
    }
    reply->mode = status.st_mode;
    reply->uid = status.st_uid;
    reply->gid = status.st_gid;
    reply->links = status.st_nlink;
    reply->inode = status.st_ino;
    reply->device = status.st_dev;
    reply->rdev = status.st_rdev;
    reply->length = (uint64_t)status.st_size;
    reply->blocks = (uint64_t)status.st_blocks;
    reply->atime_ns = nanoseconds(status.st_atim);
    reply->mtime_ns = nanoseconds(status.st_mtim);
    reply->ctime_ns = nanoseconds(status.st_ctim);
    return 0;
}

static int
serve_readlink(struct served *served)
{
    PCTR_AUTO_FD fd = open_path(served, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0) {
        return fd;
    }
    ssize_t got = readlinkat(fd, "", served->text, sizeof served->text);
    if (got < 0) {
        /* What an empty path at something else than a link gives. */
        return errno == ENOENT ? -EINVAL : -errno;
    }
    served->reply.text = (uint32_t)got;
    return 0;
}

static int
serve_rename(struct served *served, int from, const char *from_name)
{
    const char *name;
    PCTR_AUTO_FD to = open_parent(served, served->other_at, served->other, &name);

    if (to < 0) {
        return to;
    }
    unsigned flags = served->request->flags & PCTR_FILE_EXCLUSIVE ? RENAME_NOREPLACE : 0;
    return pctr_result(syscall(SYS_renameat2, from, from_name, to, name, flags));
}

static int
serve_link(struct served *served, int to, const char *to_name)
{
    const char *name;
    PCTR_AUTO_FD from = open_parent(served, served->other_at, served->other, &name);

    return from < 0 ? from : pctr_result(linkat(from, name, to, to_name, 0));
}

static int
serve_remove_tree(struct served *served, int parent, const char *name)
{
    struct pctr_tree_error error = {.err = EIO};

    if (pctr_tree_remove(parent, name, &error) == 0) {
        return 0;
    }
    size_t length = strlen(error.path);
    memcpy(served->text, error.path, length);
    served->reply.text = (uint32_t)length;
    return -error.err;
}

/* What is done to a name in a directory. */
static int
serve_named(struct served *served)
{
    const char *name;
    mode_t mode = served->request->mode & 07777;
    PCTR_AUTO_FD parent = open_parent(served, served->at, served->path, &name);

    if (parent < 0) {
        return parent;
    }
    switch ((enum pctr_file_verb)served->request->verb) {
    case PCTR_FILE_MKDIR:
        return pctr_result(mkdirat(parent, name, mode));
    case PCTR_FILE_MKFIFO:
        return pctr_result(mknodat(parent, name, S_IFIFO | mode, 0));
    case PCTR_FILE_UNLINK:
        return pctr_result(unlinkat(parent, name, 0));
    case PCTR_FILE_RMDIR:
        return pctr_result(unlinkat(parent, name, AT_REMOVEDIR));
    case PCTR_FILE_SYMLINK:
        return pctr_result(symlinkat(served->other, parent, name));
    case PCTR_FILE_RENAME:
        return serve_rename(served, parent, name);
    case PCTR_FILE_LINK:
        return serve_link(served, parent, name);
    case PCTR_FILE_REMOVE_TREE:
        return serve_remove_tree(served, parent, name);
    case PCTR_FILE_OPEN:
    case PCTR_FILE_STAT:
    case PCTR_FILE_READLINK:
    case PCTR_FILE_CHMOD:
    case PCTR_FILE_CHOWN:
    case PCTR_FILE_UTIME:
    case PCTR_FILE_SOCKET:
    case PCTR_FILE_CONNECT:
        break;
    }
    return -EBADMSG;
}

/* Before Linux 6.6 only an open file's mode can be changed without going through procfs, of which
 * there may be none, or one of the container's making. */
static int
serve_chmod(struct served *served)
{
    mode_t mode = served->request->mode & 07777;
    PCTR_AUTO_FD fd = open_named(served);
    if (fd < 0) {
        return fd;
    }
    int result = pctr_result(syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH));
    if (result != -ENOSYS) {
        return result;
    }
    bool follow = (served->request->flags & PCTR_FILE_FOLLOW) != 0;
    PCTR_AUTO_FD file =
        open_path(served, O_RDONLY | O_NONBLOCK | O_NOCTTY | (follow ? 0 : O_NOFOLLOW), 0);
    if (file < 0) {
        return file;
    }
    result = check_kind(file, true);
    return result < 0 ? result : pctr_result(fchmod(file, mode));
}

static int
serve_chown(struct served *served)
{
    PCTR_AUTO_FD fd = open_named(served);

    return fd < 0 ? fd
                  : pctr_result(fchownat(fd, "", served->request->uid, served->request->gid,
                                         AT_EMPTY_PATH));
}

static int
serve_utime(struct served *served)
{
    const struct pctr_file_request *request = served->request;
    struct timespec times[2] = {timespec_of(request->atime_ns), timespec_of(request->mtime_ns)};
    PCTR_AUTO_FD fd = open_named(served);

    return fd < 0 ? fd : pctr_result(utimensat(fd, "", times, AT_EMPTY_PATH));
}

static int
serve_socket(struct served *served)
{
    int type = (int)(served->request->mode & (SOCK_STREAM | SOCK_DGRAM)) | SOCK_CLOEXEC;

    served->fd = pctr_result(socket((int)served->request->flags, type, 0));
    return served->fd < 0 ? served->fd : 0;
}

/* By its name in its directory: that is short enough for an address, and has no way out of it.  Whoever
 * joined a container's mount namespace has the container's root for links, too. */
static int
serve_connect(struct served *served)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *name;
    PCTR_AUTO_FD parent = open_parent(served, served->at, served->path, &name);

    if (parent < 0) {
        return parent;
    }
    if (strlen(name) >= sizeof address.sun_path) {
        return -ENAMETOOLONG;
    }
    memcpy(address.sun_path, name, strlen(name));
    /* Without waiting for a listener that does not accept: EAGAIN, and the host may ask again. */
    PCTR_AUTO_FD sock = pctr_result(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (sock < 0) {
        return sock;
    }
    if (fchdir(parent) < 0 ||
        connect(sock, (const struct sockaddr *)&address, sizeof address) < 0 ||
        fcntl(sock, F_SETFL, 0) < 0) {
        return -errno;
    }
    served->fd = pctr_steal_fd(&sock);
    return 0;
}

static int
serve_one(struct served *served)
{
    switch ((enum pctr_file_verb)served->request->verb) {
    case PCTR_FILE_OPEN:
        return serve_open(served);
    case PCTR_FILE_STAT:
        return serve_stat(served);
    case PCTR_FILE_READLINK:
        return serve_readlink(served);
    case PCTR_FILE_CHMOD:
        return serve_chmod(served);
    case PCTR_FILE_CHOWN:
        return serve_chown(served);
    case PCTR_FILE_UTIME:
        return serve_utime(served);
    case PCTR_FILE_SOCKET:
        return serve_socket(served);
    case PCTR_FILE_CONNECT:
        return serve_connect(served);
    case PCTR_FILE_MKDIR:
    case PCTR_FILE_MKFIFO:
    case PCTR_FILE_UNLINK:
    case PCTR_FILE_RMDIR:
    case PCTR_FILE_SYMLINK:
    case PCTR_FILE_RENAME:
    case PCTR_FILE_LINK:
    case PCTR_FILE_REMOVE_TREE:
        return serve_named(served);
    }
    return -EBADMSG;
}

/* Two strings, each ended by NUL, and nothing after them. */
static bool
split(struct served *served, const char *bytes, size_t size)
{
    const char *end = size > 0 ? memchr(bytes, '\0', size) : NULL;

    if (end == NULL || bytes[size - 1] != '\0') {
        return false;
    }
    served->path = bytes;
    served->other = end + 1;
    return end + 1 + strlen(end + 1) + 1 == bytes + size;
}

static int
answer(int sock, struct served *served)
{
    static char message[sizeof served->reply + sizeof served->text];

    memcpy(message, &served->reply, sizeof served->reply);
    memcpy(message + sizeof served->reply, served->text, served->reply.text);
    return pctr_send_fds(sock, message, sizeof served->reply + served->reply.text, &served->fd,
                         served->fd >= 0 ? 1 : 0, 0);
}

static void
serve_request(struct served *served, const char *buffer, size_t size, const int *fds,
              unsigned count)
{
    size_t head = sizeof(struct pctr_file_request);

    memset(&served->reply, 0, sizeof served->reply);
    served->request = (const struct pctr_file_request *)(const void *)buffer;
    served->fd = -1;
    served->at = count > 0 ? fds[0] : -1;
    served->other_at = count > 0 ? fds[count - 1] : -1;
    served->reply.serial = size >= head ? served->request->serial : 0;
    bool whole = size > head && split(served, buffer + head, size - head);
    served->reply.error = whole ? -serve_one(served) : EBADMSG;
}

/* Until the host closes its end. */
int
pctr_op_serve(struct pctr_context *context, const struct pctr_op *op)
{
    static _Alignas(16) char buffer[MAX_REQUEST];
    static struct served served;
    int sock = context->fds[op->arg];

    served.context = context;
    for (;;) {
        int fds[2];
        unsigned count = 2;
        ssize_t got = pctr_receive_fds(sock, buffer, sizeof buffer, fds, &count, 0);
        if (got == -EINTR) {
            continue;
        }
        if (got <= 0) {
            return got == 0 || got == -ECONNRESET ? 0 : (int)got;
        }
        serve_request(&served, buffer, (size_t)got, fds, count);
        int error = answer(sock, &served);
        pctr_close(&served.fd);
        while (count > 0) {
            pctr_close(&fds[--count]);
        }
        if (error < 0) {
            return error == -EPIPE || error == -ECONNRESET ? 0 : error;
        }
    }
}
