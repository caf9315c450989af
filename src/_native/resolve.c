#define _GNU_SOURCE
#include "resolve.h"

#include "made.h"
#include "util.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int
open_at_root(const struct pctr_context *context, const char *path, unsigned op_flags, int flags)
{
    uint64_t resolve = RESOLVE_NO_MAGICLINKS;

    if (op_flags & PCTR_OPF_NO_SYMLINKS) {
        resolve |= RESOLVE_NO_SYMLINKS;
    }
    if (context->root < 0) {
        return pctr_openat2(AT_FDCWD, path, (uint64_t)flags, 0, resolve);
    }
    return pctr_openat2(context->root, *path != '\0' ? path : "/", (uint64_t)flags, 0,
                        resolve | RESOLVE_IN_ROOT);
}

int
pctr_split_path(const char *path, char parent[PATH_MAX], const char **name)
{
    const char *slash = strrchr(path, '/');

    *name = slash != NULL ? slash + 1 : path;
    if (**name == '\0' || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0) {
        return -EINVAL;
    }
    size_t length = slash != NULL ? (size_t)(slash - path) : 0;
    if (length >= PATH_MAX) {
        return -ENAMETOOLONG;
    }
    memcpy(parent, path, length);
    parent[length] = '\0';
    return 0;
}

int
pctr_resolve_parent(const struct pctr_context *context, const char *path, const char **name)
{
    char parent[PATH_MAX];
    int error = pctr_split_path(path, parent, name);

    return error < 0
               ? error
               : open_at_root(context, *parent != '\0' ? parent : "/", 0, O_PATH | O_DIRECTORY);
}

/* One pass over the components: each prefix is resolved from the root anew, so that a link in
 * the middle is followed within the root, and only then is the next name made in it. */
int
pctr_make_directories(const struct pctr_context *context, const char *path, unsigned op_flags,
                      mode_t mode)
{
    char prefix[PATH_MAX];
    size_t length = strlen(path);

    if (length >= sizeof prefix) {
        return -ENAMETOOLONG;
    }
    PCTR_AUTO_FD at = open_at_root(context, "/", 0, O_PATH | O_DIRECTORY);
    for (size_t i = 0; at >= 0 && i < length;) {
        size_t start = i + strspn(path + i, "/");
        size_t end = start + strcspn(path + start, "/");
        if (end == start) {
            break;
        }
        memcpy(prefix, path, end);
        prefix[end] = '\0';
        int made = pctr_result(mkdirat(at, prefix + start, mode));
        if (made < 0 && made != -EEXIST) {
            return made;
        }
        pctr_close(&at);
        at = open_at_root(context, prefix, op_flags, O_PATH | O_DIRECTORY);
        if (made == 0 && at >= 0 && (op_flags & PCTR_OPF_CREATE)) {
            pctr_mark_made(at);
        }
        i = end;
    }
    return pctr_steal_fd(&at);
}

static int
make_empty_file(const struct pctr_context *context, const char *path, unsigned op_flags)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = slash != NULL ? (size_t)(slash - path) : 0;

    if (length >= sizeof parent) {
        return -ENAMETOOLONG;
    }
    memcpy(parent, path, length);
    parent[length] = '\0';
    PCTR_AUTO_FD directory =
        pctr_make_directories(context, parent, op_flags & PCTR_OPF_CREATE, 0755);
    if (directory < 0) {
        return directory;
    }
    const char *name = slash != NULL ? slash + 1 : path;
    PCTR_AUTO_FD file = pctr_result(
        openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (file >= 0 && (op_flags & PCTR_OPF_CREATE)) {
        pctr_mark_made(file);
    }
    return file < 0 && file != -EEXIST ? file : 0;
}

int
pctr_resolve(const struct pctr_context *context, const char *path, unsigned op_flags,
             enum pctr_make make)
{
    int fd = open_at_root(context, path, op_flags, O_PATH);

    if (fd != -ENOENT || make == PCTR_MAKE_NOTHING) {
        return fd;
    }
    if (make == PCTR_MAKE_DIRECTORY) {
        return pctr_make_directories(context, path, op_flags, 0755);
    }
    int made = make_empty_file(context, path, op_flags);
    return made < 0 ? made : open_at_root(context, path, op_flags, O_PATH);
}
