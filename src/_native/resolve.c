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

#define MAX_LINKS 8

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

/* A path that is on its way to be made; links in it that lead nowhere are replaced by what they
 * say. */
struct way {
    char path[PATH_MAX];
    unsigned links;
};

static int
way_begin(struct way *way, const char *path)
{
    size_t length = strlen(path);

    if (length >= sizeof way->path) {
        return -ENAMETOOLONG;
    }
    memcpy(way->path, path, length + 1);
    way->links = 0;
    return 0;
}

/* The component from `start` to `end` is there, in `directory`.  A link within a root is replaced
 * by its target, which is then resolved within that root; a relative one counts from the directory
 * that stands before it.  Gives 1 for what is no link. */
static int
way_follow(struct way *way, const struct pctr_context *context, int directory, size_t start,
           size_t end)
{
    char name[NAME_MAX + 1];
    char target[PATH_MAX];
    char rest[PATH_MAX];
    size_t rest_length = strlen(way->path + end);

    if (context->root < 0 || end - start >= sizeof name) {
        return 1;
    }
    memcpy(name, way->path + start, end - start);
    name[end - start] = '\0';
    ssize_t length = readlinkat(directory, name, target, sizeof target);
    if (length < 0) {
        return errno == EINVAL ? 1 : -errno;
    }
    if (++way->links > MAX_LINKS) {
        return -ELOOP;
    }
    size_t before = length > 0 && target[0] == '/' ? 0 : start;
    if (before + (size_t)length + rest_length >= sizeof way->path) {
        return -ENAMETOOLONG;
    }
    memcpy(rest, way->path + end, rest_length + 1);
    memcpy(way->path + before, target, (size_t)length);
    memcpy(way->path + before + length, rest, rest_length + 1);
    return 0;
}

/* One pass over the components: each prefix is resolved from the root anew, so that a link in
 * the middle is followed within the root, and only then is the next name made in it.  A link that
 * leads nowhere begins another pass. */
static int
make_directories(const struct pctr_context *context, struct way *way, size_t length,
                 unsigned op_flags, mode_t mode)
{
    char prefix[PATH_MAX];
    PCTR_AUTO_FD at = open_at_root(context, "/", 0, O_PATH | O_DIRECTORY);

    for (size_t i = 0; at >= 0 && i < length;) {
        size_t start = i + strspn(way->path + i, "/");
        size_t end = start + strcspn(way->path + start, "/");
        if (start >= length) {
            break;
        }
        memcpy(prefix, way->path, end);
        prefix[end] = '\0';
        int made = pctr_result(mkdirat(at, prefix + start, mode));
        if (made < 0 && made != -EEXIST) {
            return made;
        }
        PCTR_AUTO_FD parent = pctr_steal_fd(&at);
        at = open_at_root(context, prefix, op_flags, O_PATH | O_DIRECTORY);
        i = end;
        if (made == 0 && at >= 0 && (op_flags & PCTR_OPF_CREATE)) {
            pctr_mark_made(at);
        }
        if (made == -EEXIST && at == -ENOENT) {
            size_t left = strlen(way->path) - length;
            int followed = way_follow(way, context, parent, start, end);
            if (followed != 0) {
                return followed < 0 ? followed : -ENOENT;
            }
            length = strlen(way->path) - left;
            i = 0;
            at = open_at_root(context, "/", 0, O_PATH | O_DIRECTORY);
        }
    }
    return pctr_steal_fd(&at);
}

int
pctr_make_directories(const struct pctr_context *context, const char *path, unsigned op_flags,
                      mode_t mode)
{
    struct way way;
    int error = way_begin(&way, path);

    return error < 0 ? error : make_directories(context, &way, strlen(path), op_flags, mode);
}

/* Makes the file that `way` names; once more where that is a link that leads nowhere. */
static int
make_empty_file(const struct pctr_context *context, struct way *way, unsigned op_flags)
{
    for (;;) {
        const char *slash = strrchr(way->path, '/');
        size_t start = slash != NULL ? (size_t)(slash - way->path) + 1 : 0;
        size_t after = strlen(way->path) - start;
        PCTR_AUTO_FD directory =
            make_directories(context, way, start, op_flags & PCTR_OPF_CREATE, 0755);
        if (directory < 0) {
            return directory;
        }
        /* Links before it may have been replaced. */
        start = strlen(way->path) - after;
        PCTR_AUTO_FD file =
            pctr_result(openat(directory, way->path + start,
                               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
        if (file >= 0 && (op_flags & PCTR_OPF_CREATE)) {
            pctr_mark_made(file);
        }
        if (file != -EEXIST) {
            return file < 0 ? file : 0;
        }
        int followed = way_follow(way, context, directory, start, start + after);
        if (followed != 0) {
            return followed < 0 ? followed : 0;
        }
    }
}

/* Mostly only the last component is missing.  0, or -errno, which is nobody's failure yet. */
static int
make_last(const struct pctr_context *context, const char *path, unsigned op_flags)
{
    char parent[PATH_MAX];
    const char *name;

    int error = pctr_split_path(path, parent, &name);
    if (error < 0) {
        return error;
    }
    PCTR_AUTO_FD at =
        open_at_root(context, *parent != '\0' ? parent : "/", op_flags, O_PATH | O_DIRECTORY);
    if (at < 0 || mkdirat(at, name, 0755) < 0) {
        return at < 0 ? at : -errno;
    }
    if (op_flags & PCTR_OPF_CREATE) {
        PCTR_AUTO_FD made = pctr_openat2(at, name, O_PATH | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS);
        if (made >= 0) {
            pctr_mark_made(made);
        }
    }
    return 0;
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
        return make_last(context, path, op_flags) == 0
                   ? open_at_root(context, path, op_flags, O_PATH | O_DIRECTORY)
                   : pctr_make_directories(context, path, op_flags, 0755);
    }
    struct way way;
    int error = way_begin(&way, path);
    if (error == 0) {
        error = make_empty_file(context, &way, op_flags);
    }
    return error < 0 ? error : open_at_root(context, path, op_flags, O_PATH);
}
