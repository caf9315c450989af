#define _GNU_SOURCE
#include "tree.h"

#include "beneath.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH 32u   /* levels kept open: deeper ones are moved up */
#define CHUNK 4096u /* bytes of directory entries read at once, a level: some 100 names */
#define SPARE_PASSES \
    64u /* times that a directory may be read again without anything moved into it */

struct level {
    int fd;
    uint32_t at; /* the current entry ... */
    uint32_t next;
    uint32_t have; /* ... in this many bytes of `chunk` */
    bool progress; /* something went since the reading began */
    uint64_t passes;
    _Alignas(struct dirent64) char chunk[CHUNK];
};

struct removal {
    int parent_fd;
    const char *name;
    uint32_t depth; /* levels in use */
    uint64_t moved; /* directories moved up so far */
    struct pctr_tree_error *error;
    struct level levels[DEPTH];
};

static struct level *
top(struct removal *removal)
{
    return &removal->levels[removal->depth - 1];
}

static const char *
entry_name(const struct level *level)
{
    const struct dirent64 *entry = (const void *)(level->chunk + level->at);
    return entry->d_name;
}

/* Puts `part` and a slash ahead of the path, as far as there is room. */
static size_t
prepend(char *path, size_t start, const char *part)
{
    size_t length = strlen(part);
    size_t keep = length < start ? length : start;
    memcpy(path + start - keep, part + length - keep, keep);
    start -= keep;
    if (start > 0) {
        path[--start] = '/';
    }
    return start;
}

/* Fills the error: `levels` entries of the path are those that the levels are at. */
static int
fail(struct removal *removal, uint32_t levels, const char *what)
{
    struct pctr_tree_error *error = removal->error;
    error->err = errno;
    snprintf(error->what, sizeof(error->what), "%s", what);
    size_t last = sizeof(error->path) - 1;
    size_t start = last;
    for (uint32_t i = levels; i > 0; i--) {
        start = prepend(error->path, start, entry_name(&removal->levels[i - 1]));
    }
    start += start < last && error->path[start] == '/' ? 1 : 0;
    memmove(error->path, error->path + start, last - start);
    error->path[last - start] = '\0';
    return -1;
}

/* Gives the owner all rights on a directory that cannot be opened for lack of them, and on `dir_fd`
 * that holds it, when that `is_inside` the tree. chmod(2) would follow a link, and fchmod(2)
 * refuses an O_PATH descriptor, so the way is the descriptor's name in /proc. */
static int
open_up(int dir_fd, const char *name, bool is_inside)
{
    char proc[64];
    if (is_inside && fchmod(dir_fd, S_IRWXU) < 0) {
        return -1;
    }
    int fd = openat(dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    int status = chmod(proc, S_IRWXU);
    int err = errno;
    close(fd);
    errno = err;
    return status;
}

/* unlinkat(2); when the directory forbids it to its owner, once more with that changed. */
static int
unlink_in(int dir_fd, const char *name, int flags)
{
    if (unlinkat(dir_fd, name, flags) == 0 || errno == ENOENT) {
        return 0;
    }
    if (errno != EACCES) {
        return -1;
    }
    if (fchmod(dir_fd, S_IRWXU) < 0) {
        errno = EACCES;
        return -1;
    }
    return unlinkat(dir_fd, name, flags) == 0 || errno == ENOENT ? 0 : -1;
}

/* Opens a directory as the next level: 0, or -1 with errno. */
static int
push(struct removal *removal, int dir_fd, const char *name)
{
    int fd = pctr_open_dir_beneath(dir_fd, name);
    if (fd < 0 && errno == EACCES) {
        if (open_up(dir_fd, name, removal->depth > 0) < 0) {
            errno = errno == ENOENT ? ENOENT : EACCES;
            return -1;
        }
        fd = pctr_open_dir_beneath(dir_fd, name);
    }
    if (fd < 0) {
        return -1;
    }
    struct level *level = &removal->levels[removal->depth++];
    level->fd = fd;
    level->at = 0;
    level->next = 0;
    level->have = 0;
    level->progress = false;
    level->passes = 0;
    return 0;
}

static bool
is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* Moves the level to its next entry: 1, 0 after the last, -1 with errno. */
static int
next_entry(struct level *level)
{
    do {
        if (level->next >= level->have) {
            ssize_t got = getdents64(level->fd, level->chunk, sizeof(level->chunk));
            if (got < 0 && errno == ENOENT) {
                return 0; /* somebody else has removed the directory meanwhile */
            }
            if (got <= 0) {
                return (int)got;
            }
            level->have = (uint32_t)got;
            level->next = 0;
        }
        const struct dirent64 *entry = (const void *)(level->chunk + level->next);
        level->at = level->next;
        level->next += entry->d_reclen;
    } while (is_dots(entry_name(level)));
    return 1;
}

/* Moves a directory that lies too deep to the top of the tree, under a name that is free there. The
 * kernel wants write permission on both its parents and, as its `..` changes, on itself. */
static int
move_up(struct removal *removal, struct level *level, const char *name)
{
    bool opened = false;
    for (;;) {
        char up[32];
        snprintf(up, sizeof(up), ".pctr-gone-%llu", (unsigned long long)removal->moved++);
        if (renameat(level->fd, name, removal->levels[0].fd, up) == 0 || errno == ENOENT) {
            return 0;
        }
        if (errno == EACCES && !opened) {
            opened = true;
            if (open_up(level->fd, name, true) < 0 || fchmod(removal->levels[0].fd, S_IRWXU) < 0) {
                errno = EACCES;
                return -1;
            }
        }
        else if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR) {
            return -1; /* those three: the tree has that name already */
        }
    }
}

/* Deals with a directory: into it, or up with it, or away with it when it has become something
 * else. */
static int
enter(struct removal *removal)
{
    struct level *level = top(removal);
    const char *name = entry_name(level);
    if (removal->depth == DEPTH) {
        /* An empty one, and a mount, need no move. */
        if (unlink_in(level->fd, name, AT_REMOVEDIR) < 0) {
            if (errno != ENOTEMPTY && errno != EEXIST) {
                return fail(removal, removal->depth, "removing a directory");
            }
            if (move_up(removal, level, name) < 0) {
                return fail(removal, removal->depth, "moving a directory up");
            }
            removal->levels[0].progress = true;
            removal->levels[0].passes = 0;
        }
        level->progress = true;
        return 0;
    }
    if (push(removal, level->fd, name) == 0) {
        return 0;
    }
    if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) {
        return fail(removal, removal->depth,
                    errno == EXDEV ? "a mount stands here" : "opening a directory");
    }
    if (unlink_in(level->fd, name, 0) < 0) {
        return fail(removal, removal->depth, "removing a file");
    }
    level->progress = true;
    return 0;
}

/* Removes the level's current entry, or enters it. */
static int
remove_entry(struct removal *removal)
{
    struct level *level = top(removal);
    const struct dirent64 *entry = (const void *)(level->chunk + level->at);
    if (entry->d_type == DT_DIR) {
        return enter(removal);
    }
    if (unlink_in(level->fd, entry->d_name, 0) == 0) {
        level->progress = true;
        return 0;
    }
    /* File systems that do not tell kinds in a listing tell them here. */
    return errno == EISDIR ? enter(removal) : fail(removal, removal->depth, "removing a file");
}

/* Removes the level's own directory, once its entries are gone: 0, also when it must be read again,
 * or -1. */
static int
pop(struct removal *removal)
{
    struct level *level = top(removal);
    uint32_t above = removal->depth - 1;
    int dir_fd = above > 0 ? removal->levels[above - 1].fd : removal->parent_fd;
    const char *name = above > 0 ? entry_name(&removal->levels[above - 1]) : removal->name;
    /* The tree's own parent is not part of the tree: its mode stays as it is. */
    int status = above > 0 ? unlink_in(dir_fd, name, AT_REMOVEDIR)
                           : unlinkat(dir_fd, name, AT_REMOVEDIR);
    if (status == 0 || errno == ENOENT) {
        close(level->fd);
        removal->depth--;
        if (above > 0) {
            removal->levels[above - 1].progress = true;
        }
        return 0;
    }
    /* Some file systems skip entries when others go meanwhile, and deep directories were moved
     * here. */
    if ((errno == ENOTEMPTY || errno == EEXIST) && level->progress &&
        level->passes++ < SPARE_PASSES) {
        level->progress = false;
        level->next = 0;
        level->have = 0;
        return lseek(level->fd, 0, SEEK_SET) < 0 ? fail(removal, above, "reading a directory again")
                                                 : 0;
    }
    return fail(removal, above, "removing a directory");
}

static int
remove_all(struct removal *removal)
{
    while (removal->depth > 0) {
        int status = next_entry(top(removal));
        if (status < 0) {
            return fail(removal, removal->depth - 1, "reading a directory");
        }
        if ((status > 0 ? remove_entry(removal) : pop(removal)) < 0) {
            return -1;
        }
    }
    return 0;
}

int
pctr_tree_remove(int parent_fd, const char *name, struct pctr_tree_error *error)
{
    static struct removal removal;
    removal.parent_fd = parent_fd;
    removal.name = name;
    removal.depth = 0;
    removal.moved = 0;
    removal.error = error;
    memset(error, 0, sizeof(*error));
    if (name[0] == '\0' || is_dots(name) || strchr(name, '/') != NULL) {
        errno = EINVAL;
        return fail(&removal, 0, "the name is not one component");
    }
    if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT) {
        return 0;
    }
    if (errno != EISDIR) {
        return fail(&removal, 0, "removing a file");
    }
    if (push(&removal, parent_fd, name) < 0) {
        if (errno == ENOENT) {
            return 0;
        }
        return fail(&removal, 0, errno == EXDEV ? "a mount stands here" : "opening a directory");
    }
    int status = remove_all(&removal);
    while (removal.depth > 0) {
        close(top(&removal)->fd);
        removal.depth--;
    }
    return status;
}
