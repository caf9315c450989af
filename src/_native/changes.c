#define _GNU_SOURCE
#include "changes.h"

#include "made.h"
#include "names.h"
#include "tar_head.h"
#include "tar_out.h"
#include "util.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define DEPTH (PCTR_TAR_PATH / 2 + 1)
#define MEMORY (512u << 20) /* bytes for names */
#define OPEN_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

struct level {
    int fd;
    int lower;     /* the directory of the same name below, or -1 */
    bool opaque;   /* nothing of that shows through */
    size_t prefix; /* bytes of the path that are this directory's, its slash included */
    struct pctr_names names;
    size_t next;
};

struct walk {
    uint32_t flags;
    struct pctr_tar_write_error *error;
    size_t budget; /* bytes of memory that may still be taken */
    size_t depth;  /* levels in use */
    char path[PCTR_TAR_PATH];
    struct level levels[DEPTH];
    struct pctr_tar_out out;
};

static int
fail(struct walk *walk, enum pctr_tar_write_code code, int err)
{
    walk->error->code = (int32_t)code;
    walk->error->err = err;
    pctr_copy_text(walk->error->path, sizeof walk->error->path, walk->path);
    return -1;
}

static int
fail_read(struct walk *walk)
{
    return fail(walk, PCTR_TAR_WRITE_READ, errno);
}

static struct level *
top(struct walk *walk)
{
    return &walk->levels[walk->depth - 1];
}

static int
set_path(struct walk *walk, const char *name)
{
    size_t prefix = top(walk)->prefix, length = strlen(name);

    /* With room for a slash. */
    if (prefix + length + 2 > sizeof walk->path) {
        walk->path[prefix] = '\0';
        return fail(walk, PCTR_TAR_WRITE_TOO_LONG, 0);
    }
    memcpy(walk->path + prefix, name, length + 1);
    return 0;
}

static int
put(struct walk *walk, enum pctr_change kind)
{
    char letter = (char)kind;

    if (pctr_tar_out_put(&walk->out, &letter, 1) < 0 ||
        pctr_tar_out_put(&walk->out, walk->path, strlen(walk->path) + 1) < 0) {
        return fail(walk, PCTR_TAR_WRITE_OUTPUT, walk->out.err);
    }
    return 0;
}

/* Whether a directory hides what is below it: it has overlay's mark, or was made in one that does. */
static int
is_opaque(struct walk *walk, int fd, bool *opaque)
{
    char value = '\0';
    const char *mark = (walk->flags & PCTR_CHANGES_USERXATTR) ? "user.overlay.opaque"
                                                              : "trusted.overlay.opaque";

    *opaque = walk->depth > 0 && top(walk)->opaque;
    /* ERANGE: overlay heeds a single byte only. */
    if (fgetxattr(fd, mark, &value, 1) < 0 && errno != ENODATA && errno != EOPNOTSUPP &&
        errno != ERANGE) {
        return fail_read(walk);
    }
    *opaque = *opaque || value == 'y';
    return 0;
}

static bool
is_there(int directory, const char *name)
{
    struct stat status;

    return fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

/* What is in the lower directory and not in the upper one, both sorted, is gone. */
static int
put_hidden(struct walk *walk, struct pctr_names *lower)
{
    struct level *level = top(walk);
    size_t mine = 0;

    for (size_t i = 0; i < lower->count; i++) {
        const char *name = pctr_names_at(lower, i);
        while (mine < level->names.count && strcmp(pctr_names_at(&level->names, mine), name) < 0) {
            mine++;
        }
        if (mine < level->names.count && strcmp(pctr_names_at(&level->names, mine), name) == 0) {
            continue;
        }
        /* Overlay lists whiteouts of a directory that only one of its layers has. */
        if (pctr_names_kind(lower, i) == DT_CHR && !is_there(level->lower, name)) {
            continue;
        }
        if (set_path(walk, name) < 0 || put(walk, PCTR_CHANGE_DELETED) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
put_opaque(struct walk *walk)
{
    struct pctr_names lower = {0};
    PCTR_AUTO_FD fd = openat(top(walk)->lower, ".", OPEN_FLAGS);

    if (fd < 0) {
        return fail_read(walk);
    }
    int error = pctr_names_read(&lower, fd, &walk->budget);
    int result = error < 0 ? fail(walk, PCTR_TAR_WRITE_READ, -error) : put_hidden(walk, &lower);
    pctr_names_free(&lower, &walk->budget);
    return result;
}

/* Goes down into a directory and the one below it, which both become the level's own. */
static int
push(struct walk *walk, int *fd, int *lower)
{
    bool opaque;

    if (walk->depth == DEPTH) {
        return fail(walk, PCTR_TAR_WRITE_TOO_LONG, 0);
    }
    if (is_opaque(walk, *fd, &opaque) < 0) {
        return -1;
    }
    struct level *level = &walk->levels[walk->depth++];
    *level = (struct level){.fd = pctr_steal_fd(fd),
                            .lower = pctr_steal_fd(lower),
                            .opaque = opaque,
                            .prefix = strlen(walk->path)};
    int error = pctr_names_read(&level->names, level->fd, &walk->budget);
    if (error < 0) {
        return fail(walk, error == -ENOMEM ? PCTR_TAR_WRITE_TOO_MANY : PCTR_TAR_WRITE_READ, -error);
    }
    return level->opaque && level->lower >= 0 ? put_opaque(walk) : 0;
}

static void
pop(struct walk *walk)
{
    struct level *level = &walk->levels[--walk->depth];

    pctr_close(&level->fd);
    pctr_close(&level->lower);
    pctr_names_free(&level->names, &walk->budget);
}

static enum pctr_change
compare(const struct stat *upper, const struct stat *lower)
{
    if (upper->st_mode != lower->st_mode || upper->st_uid != lower->st_uid ||
        upper->st_gid != lower->st_gid) {
        return PCTR_CHANGE_LOOK;
    }
    bool same = upper->st_mtim.tv_sec == lower->st_mtim.tv_sec &&
                upper->st_mtim.tv_nsec == lower->st_mtim.tv_nsec;
    return same ? PCTR_CHANGE_NOTHING : PCTR_CHANGE_TIME;
}

/* `below` is what is there in the layers below, NULL where nothing is. */
static int
put_directory(struct walk *walk, const char *name, const struct stat *below)
{
    struct stat status;
    enum pctr_change kind = PCTR_CHANGE_MODIFIED;
    PCTR_AUTO_FD lower = -1;
    PCTR_AUTO_FD fd = openat(top(walk)->fd, name, OPEN_FLAGS);

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) {
        return 0;
    }
    if (fd < 0 || fstat(fd, &status) < 0) {
        return fail_read(walk);
    }
    if (below == NULL) {
        kind = pctr_is_made(fd) ? PCTR_CHANGE_MADE : PCTR_CHANGE_ADDED;
    }
    else if (S_ISDIR(below->st_mode)) {
        lower = openat(top(walk)->lower, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (lower < 0) {
            return fail_read(walk);
        }
        kind = compare(&status, below);
    }
    if (put(walk, kind) < 0) {
        return -1;
    }
    size_t length = strlen(walk->path);
    memcpy(walk->path + length, "/", 2);
    return push(walk, &fd, &lower);
}

/* An empty file is opened to see whether it is a mount point: only if it is a file, since opening
 * something else may have consequences. */
static int
put_file(struct walk *walk, const char *name, const struct stat *status)
{
    if (status->st_size > 0) {
        return put(walk, PCTR_CHANGE_ADDED);
    }
    PCTR_AUTO_FD fd = openat(top(walk)->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return fail_read(walk);
    }
    return put(walk, pctr_is_made(fd) ? PCTR_CHANGE_MADE : PCTR_CHANGE_ADDED);
}

static int
put_entry(struct walk *walk, const char *name)
{
    struct stat status, below;
    const struct level *level = top(walk);

    if (set_path(walk, name) < 0) {
        return -1;
    }
    if (fstatat(level->fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        /* Taken away since the directory was read: a container that runs may do that. */
        return errno == ENOENT ? 0 : fail_read(walk);
    }
    bool known = level->lower >= 0;
    if (known && fstatat(level->lower, name, &below, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT) {
            return fail_read(walk);
        }
        known = false;
    }
    if (S_ISDIR(status.st_mode)) {
        return put_directory(walk, name, known ? &below : NULL);
    }
    if (S_ISCHR(status.st_mode) && status.st_rdev == 0) {
        return known ? put(walk, PCTR_CHANGE_DELETED) : 0;
    }
    if (known) {
        return put(walk, PCTR_CHANGE_MODIFIED);
    }
    return S_ISREG(status.st_mode) ? put_file(walk, name, &status) : put(walk, PCTR_CHANGE_ADDED);
}

/* Depth first, without recursion. */
static int
put_tree(struct walk *walk, int upper_fd, int lower_fd)
{
    PCTR_AUTO_FD fd = openat(upper_fd, ".", OPEN_FLAGS);
    PCTR_AUTO_FD lower = openat(lower_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || lower < 0) {
        return fail_read(walk);
    }
    if (push(walk, &fd, &lower) < 0) {
        return -1;
    }
    while (walk->depth > 0) {
        struct level *level = top(walk);
        if (level->next == level->names.count) {
            pop(walk);
            continue;
        }
        if (put_entry(walk, pctr_names_at(&level->names, level->next++)) < 0) {
            return -1;
        }
    }
    return 0;
}

int
pctr_changes_write(int upper_fd, int lower_fd, int out_fd, uint32_t flags,
                   struct pctr_tar_write_error *error)
{
    static struct walk walk;

    memset(error, 0, sizeof(*error));
    walk.flags = flags;
    walk.error = error;
    walk.budget = MEMORY;
    walk.depth = 0;
    walk.path[0] = '\0';
    pctr_tar_out_begin(&walk.out, out_fd);
    int status = put_tree(&walk, upper_fd, lower_fd);
    if (status == 0 && pctr_tar_out_flush(&walk.out) < 0) {
        walk.path[0] = '\0';
        status = fail(&walk, PCTR_TAR_WRITE_OUTPUT, walk.out.err);
    }
    while (walk.depth > 0) {
        pop(&walk);
    }
    return status;
}
