/* Directories that a layer implied take the look that the layers below give them. */
#define _GNU_SOURCE
#include "beneath.h"
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

/* Directories looked up in all. Names thousands of levels deep in hundreds of layers would take hours
 * otherwise; others never come near it. */
#define STEPS (1u << 22)

#define XATTR_NAMES 4096u
#define XATTR_VALUE 65536u

/* A directory of the layer itself; covered: it or one above it is opaque, so that nothing of the
 * layers below shows in it. */
struct known {
    char path[PCTR_TAR_PATH];
    bool covered;
};

struct adoption {
    int root_fd;
    const struct pctr_layer_lower *lower;
    uint32_t flags;
    uint32_t steps;
    struct pctr_layer_error *error;
    char path[PCTR_TAR_PATH];
    struct known parent;       /* parents come ahead of their children in the notes: */
    struct known last;         /* mostly one of these two is the next one's parent */
    char fresh[PCTR_TAR_PATH]; /* the last one that no layer below has, nor anything beneath it */
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

static int
count(struct adoption *all)
{
    return ++all->steps > STEPS ? fail(all, PCTR_LAYER_TOO_MANY, 0, "implied directories") : 0;
}

static bool
is_absent(int err)
{
    return err == ENOENT || err == ENOTDIR || err == ELOOP;
}

/* Whether the directory `path` of one layer, or as much of it as is there, or one above that, is
 * opaque: 1, 0, or -1. */
static int
is_covered(struct adoption *all, int layer_fd, const char *path)
{
    char name[NAME_MAX + 1];
    int fd = dup(layer_fd),
        covered = fd < 0 ? fail_errno(all, "looking for opaque directories") : 0;
    while (covered == 0 && *path != '\0') {
        size_t length = strcspn(path, "/");
        if (length == 0 || length > NAME_MAX) {
            covered = fail(all, PCTR_LAYER_INVALID, EINVAL, "the notes");
            break;
        }
        memcpy(name, path, length);
        name[length] = '\0';
        path += length + (path[length] == '/' ? 1 : 0);
        int next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0) {
            covered = is_absent(errno) ? 0 : fail_errno(all, "looking for opaque directories");
            break;
        }
        close(fd);
        fd = next;
        covered = count(all) < 0 ? -1 : is_opaque(all, fd);
    }
    if (fd >= 0) {
        close(fd);
    }
    return covered;
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

static bool
is_beneath(const char *path, const char *above)
{
    size_t length = strlen(above);
    return length > 0 && strncmp(path, above, length) == 0 && path[length] == '/';
}

/* The directory of that name in the uppermost layer below that has it: a descriptor, -1, or -2
 * where there is none. */
static int
find_lower(struct adoption *all)
{
    for (uint32_t i = 0; i < all->lower->count; i++) {
        int fd = pctr_open_dir_beneath(all->lower->fds[i], all->path);
        if (fd >= 0) {
            return fd;
        }
        if (!is_absent(errno)) {
            return fail_errno(all, "opening a directory of a layer below");
        }
        if (errno != ENOENT) {
            return -2; /* a whiteout, link or file hides what lies below it */
        }
        int covered = count(all) < 0 ? -1 : is_covered(all, all->lower->fds[i], all->path);
        if (covered != 0) {
            return covered < 0 ? -1 : -2;
        }
    }
    return -2;
}

static int
adopt_from_lower(struct adoption *all, int fd)
{
    int from = find_lower(all);
    if (from < 0) {
        if (from == -2) {
            strcpy(all->fresh, all->path);
        }
        return from == -2 ? 0 : -1;
    }
    int status = copy_look(all, from, fd);
    close(from);
    return status;
}

/* Sees to it that all->parent is the parent of all->path. */
static int
know_parent(struct adoption *all)
{
    char path[PCTR_TAR_PATH];
    strcpy(path, all->path);
    char *slash = strrchr(path, '/');
    *(slash != NULL ? slash : path) = '\0';
    if (strcmp(path, all->parent.path) == 0) {
        return 0;
    }
    if (strcmp(path, all->last.path) == 0) {
        all->parent = all->last;
        return 0;
    }
    int covered = is_covered(all, all->root_fd, path);
    if (covered < 0) {
        return -1;
    }
    strcpy(all->parent.path, path);
    all->parent.covered = covered != 0;
    return 0;
}

static int
adopt_into(struct adoption *all, int fd)
{
    if (know_parent(all) < 0) {
        return -1;
    }
    strcpy(all->last.path, all->path);
    all->last.covered = all->parent.covered || is_opaque(all, fd);
    /* The mark tells whether it is implied still: it may have got an entry of its own afterwards. */
    if (fremovexattr(fd, pctr_layer_mark(all->flags)) < 0) {
        return errno == ENODATA || errno == ENOTSUP ? 0 : fail_errno(all, "removing the mark");
    }
    if (all->parent.covered || is_beneath(all->path, all->fresh)) {
        return 0;
    }
    return adopt_from_lower(all, fd);
}

static int
adopt_one(struct adoption *all)
{
    if (all->path[0] == '\0') {
        return fail(all, PCTR_LAYER_INVALID, EINVAL, "the notes");
    }
    int fd = pctr_open_dir_beneath(all->root_fd, all->path);
    if (fd < 0) {
        /* Something else may have replaced it. */
        return is_absent(errno) ? 0 : fail_errno(all, "opening an implied directory");
    }
    int status = adopt_into(all, fd);
    close(fd);
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
    all.path[0] = all.fresh[0] = '\0';
    all.parent = all.last = (struct known){.covered = false};
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
