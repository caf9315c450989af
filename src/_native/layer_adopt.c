/* Directories that a layer implied take the look that the layers below give them. */
#define _GNU_SOURCE
#include "layer_notes.h"
#include "tar.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Directories opened in all. Names thousands of levels deep in hundreds of layers would take hours;
 * this is enough for ten thousand of three levels in all of 500 layers. */
#define STEPS (1u << 24)

#define XATTR_NAMES 4096u
#define XATTR_VALUE 65536u

struct adoption {
    int root_fd;
    const struct pctr_layer_lower *lower;
    uint32_t flags;
    uint32_t steps;
    struct pctr_layer_error *error;
    char path[PCTR_TAR_PATH];
    char value[XATTR_VALUE];
};

static int
fail(struct adoption *all, enum pctr_layer_code code, int err, const char *what)
{
    struct pctr_layer_error *error = all->error;
    error->code = (int32_t)code;
    error->err = err;
    size_t length = strnlen(all->path, sizeof(error->path) - 1);
    memcpy(error->path, all->path, length);
    error->path[length] = '\0';
    length = strnlen(what, sizeof(error->what) - 1);
    memcpy(error->what, what, length);
    error->what[length] = '\0';
    return -1;
}

static int
fail_errno(struct adoption *all, const char *what)
{
    return fail(all, PCTR_LAYER_IO, errno, what);
}

static bool
is_opaque(const struct adoption *all, int fd)
{
    const char *name = (all->flags & PCTR_LAYER_USERXATTR) != 0 ? "user.overlay.opaque"
                                                                : "trusted.overlay.opaque";
    char value;
    return fgetxattr(fd, name, &value, 1) == 1 && value == 'y';
}

enum found {
    FOUND,
    MISSING, /* only the layers below may have it */
    HIDDEN,  /* this layer sees to it that there is none */
    FAILED,
};

struct way {
    int fd;       /* the directory, where it was found */
    bool covered; /* an opaque directory lies above it: nothing of the layers below shows */
};

static enum found
not_there(struct adoption *all, const struct way *way)
{
    switch (errno) {
    case ENOENT:
        return way->covered ? HIDDEN : MISSING;
    case ENOTDIR: /* a whiteout, too */
    case ELOOP:
        return HIDDEN;
    default:
        fail_errno(all, "opening an implied directory");
        return FAILED;
    }
}

/* Goes from way->fd, which is the caller's unless it is `start`, to its child directory. */
static enum found
step(struct adoption *all, int start, struct way *way, const char *name)
{
    if (++all->steps > STEPS) {
        fail(all, PCTR_LAYER_TOO_MANY, 0, "implied directories");
        return FAILED;
    }
    way->covered = way->covered || (way->fd != start && is_opaque(all, way->fd));
    int next = openat(way->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (next < 0) {
        return not_there(all, way);
    }
    if (way->fd != start) {
        close(way->fd);
    }
    way->fd = next;
    return FOUND;
}

/* Opens all->path in one layer, through no links. */
static enum found
find(struct adoption *all, int layer_fd, struct way *way)
{
    char name[NAME_MAX + 1];
    const char *at = all->path;
    enum found found = FOUND;
    way->fd = layer_fd;
    way->covered = false;
    do {
        size_t length = strcspn(at, "/");
        if (length == 0 || length > NAME_MAX) {
            fail(all, PCTR_LAYER_INVALID, EINVAL, "the notes");
            found = FAILED;
            break;
        }
        memcpy(name, at, length);
        name[length] = '\0';
        at += length + (at[length] == '/' ? 1 : 0);
        found = step(all, layer_fd, way, name);
    } while (found == FOUND && *at != '\0');
    if (found != FOUND && way->fd != layer_fd) {
        close(way->fd);
    }
    return found;
}

static int
copy_xattrs(struct adoption *all, int from, int to)
{
    char names[XATTR_NAMES];
    ssize_t size = flistxattr(from, names, sizeof(names));
    if (size < 0) {
        return errno == ENOTSUP || errno == ERANGE ? 0 : fail_errno(all, "listing attributes");
    }
    for (const char *name = names; name < names + size; name += strlen(name) + 1) {
        if (!pctr_layer_keeps_xattr(name)) {
            continue;
        }
        ssize_t length = fgetxattr(from, name, all->value, sizeof(all->value));
        if (length < 0 || fsetxattr(to, name, all->value, (size_t)length, 0) < 0) {
            return fail_errno(all, "copying an attribute");
        }
    }
    return 0;
}

static int
copy_look(struct adoption *all, int from, int to)
{
    struct stat stat;
    if (fstat(from, &stat) < 0) {
        return fail_errno(all, "looking at a layer below");
    }
    const struct timespec times[2] = {stat.st_mtim, stat.st_mtim};
    bool single = (all->flags & PCTR_LAYER_ROOTLESS_SINGLE) != 0;
    if (!single && fchown(to, stat.st_uid, stat.st_gid) < 0) {
        return fail_errno(all, "setting the owner");
    }
    if (copy_xattrs(all, from, to) < 0) {
        return -1;
    }
    if (fchmod(to, stat.st_mode & 07777) < 0 || futimens(to, times) < 0) {
        return fail_errno(all, "setting mode and time");
    }
    return 0;
}

/* Looks the directory up in the layers below, from the uppermost on. */
static int
adopt_from_lower(struct adoption *all, int fd)
{
    for (uint32_t i = 0; i < all->lower->count; i++) {
        struct way way;
        enum found found = find(all, all->lower->fds[i], &way);
        if (found == MISSING) {
            continue;
        }
        if (found != FOUND) {
            return found == FAILED ? -1 : 0;
        }
        int status = copy_look(all, way.fd, fd);
        close(way.fd);
        return status;
    }
    return 0;
}

/* The mark tells whether it is implied still: it may have got an entry of its own afterwards. */
static int
adopt_one(struct adoption *all)
{
    struct way way;
    enum found found = find(all, all->root_fd, &way);
    if (found != FOUND) {
        return found == FAILED ? -1 : 0; /* replaced by something else */
    }
    int status = 0;
    if (fremovexattr(way.fd, pctr_layer_mark(all->flags)) == 0) {
        status = way.covered ? 0 : adopt_from_lower(all, way.fd);
    }
    else if (errno != ENODATA && errno != ENOTSUP) {
        status = fail_errno(all, "removing the mark");
    }
    close(way.fd);
    return status;
}

/* The next path into all->path: 1, 0 at the end of the notes, -1. */
static int
next_path(struct adoption *all, FILE *notes)
{
    size_t length = 0;
    for (int c; (c = getc_unlocked(notes)) != EOF;) {
        all->path[length] = (char)c;
        if (c == '\0') {
            return 1;
        }
        if (++length == sizeof(all->path)) {
            break;
        }
    }
    all->path[0] = '\0';
    if (ferror(notes)) {
        return fail_errno(all, "reading the notes");
    }
    return length == 0 ? 0 : fail(all, PCTR_LAYER_INVALID, EINVAL, "the notes");
}

int
pctr_layer_adopt(int notes_fd, int root_fd, const struct pctr_layer_lower *lower, uint32_t flags,
                 struct pctr_layer_error *error)
{
    static struct adoption all;
    memset(error, 0, sizeof(*error));
    all.root_fd = root_fd;
    all.lower = lower;
    all.flags = flags;
    all.steps = 0;
    all.error = error;
    all.path[0] = '\0';
    int copy = fcntl(notes_fd, F_DUPFD_CLOEXEC, 0);
    FILE *notes = copy < 0 ? NULL : fdopen(copy, "r");
    if (notes == NULL) {
        fail_errno(&all, "opening the notes");
        if (copy >= 0) {
            close(copy);
        }
        return -1;
    }
    int status;
    while ((status = next_path(&all, notes)) > 0 && strcmp(all.path, "/") != 0) {
        if (adopt_one(&all) < 0) {
            status = -1;
            break;
        }
    }
    fclose(notes);
    return status < 0 ? -1 : 0;
}
