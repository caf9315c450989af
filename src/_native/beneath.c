#define _GNU_SOURCE
#include "beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define NAME_SIZE 256

static int
close_keeping_errno(int fd)
{
    int err = errno;
    close(fd);
    errno = err;
    return -1;
}

/* A number that differs between mounts: the mount's id, or the device's where the kernel (before
 * 5.8) has none. */
static int
mount_of(int fd, uint64_t *mount)
{
    struct statx stat;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &stat) < 0) {
        return -1;
    }
    bool has_id = (stat.stx_mask & STATX_MNT_ID) != 0;
    *mount = has_id ? stat.stx_mnt_id : (uint64_t)stat.stx_dev_major << 32 | stat.stx_dev_minor;
    return 0;
}

/* Opens one component of a path. */
static int
step(int dir_fd, const char *name, uint64_t mount)
{
    if (strcmp(name, "..") == 0) {
        errno = EXDEV;
        return -1;
    }
    int fd = openat(dir_fd, name, DIR_FLAGS);
    if (fd < 0) {
        return -1;
    }
    uint64_t its_mount;
    if (mount_of(fd, &its_mount) < 0) {
        return close_keeping_errno(fd);
    }
    if (its_mount != mount) {
        errno = EXDEV;
        return close_keeping_errno(fd);
    }
    return fd;
}

/* The same promise without openat2, one component at a time. */
static int
walk(int dir_fd, const char *path)
{
    uint64_t mount;
    int fd = openat(dir_fd, ".", DIR_FLAGS);
    if (fd < 0) {
        return -1;
    }
    if (mount_of(fd, &mount) < 0) {
        return close_keeping_errno(fd);
    }
    while (*path != '\0') {
        char name[NAME_SIZE];
        size_t length = strcspn(path, "/");
        if (length >= sizeof(name)) {
            errno = ENAMETOOLONG;
            return close_keeping_errno(fd);
        }
        memcpy(name, path, length);
        name[length] = '\0';
        path += length + (path[length] == '/' ? 1 : 0);
        if (length == 0) {
            continue;
        }
        int next = step(fd, name, mount);
        close_keeping_errno(fd);
        if (next < 0) {
            return -1;
        }
        fd = next;
    }
    return fd;
}

int
pctr_open_dir_beneath(int dir_fd, const char *path)
{
    /* Old kernels lack openat2; old seccomp profiles answer EPERM for what they do not know.
     * Opening a directory for reading has no EPERM of its own, so both mean "not here", for as long
     * as the process lives. */
    static bool missing = false;
    if (!missing) {
        struct open_how how = {
            .flags = DIR_FLAGS,
            .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS |
                       RESOLVE_NO_XDEV,
        };
        long fd = syscall(SYS_openat2, dir_fd, *path != '\0' ? path : ".", &how, sizeof(how));
        if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return (int)fd;
        }
        missing = true;
    }
    return walk(dir_fd, path);
}
