#define _GNU_SOURCE
#include "layer_dirs.h"

#include "beneath.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LINKS 40 /* the kernel's own bound on links in one path */

/* Steps of walks allowed for each entry, and as if there were so many more at the start: every entry
 * of a layer may go through 40 links to thousands of directories, which takes hours for a million. */
#define STEPS 64u
#define SPARE_ENTRIES 512u

bool
pctr_layer_is_whiteout(const struct stat *stat)
{
    return S_ISCHR(stat->st_mode) && stat->st_rdev == makedev(0, 0);
}

/* Gives back the time: 0, or -1 with errno. */
static int
restore(struct pctr_layer_dir *dir)
{
    const struct timespec times[2] = {dir->mtime, dir->mtime};
    if (dir->dirty && futimens(dir->fd, times) < 0) {
        return -1;
    }
    dir->dirty = false;
    return 0;
}

static void
release(struct pctr_layer_dir *dir)
{
    if (dir->fd >= 0) {
        close(dir->fd);
    }
    dir->fd = -1;
    dir->pins = 0;
}

static struct pctr_layer_dir *
lookup(struct pctr_layer_dirs *dirs, const char *path, size_t length)
{
    for (uint32_t i = 0; i < PCTR_LAYER_DIRS; i++) {
        struct pctr_layer_dir *dir = &dirs->slots[i];
        if (dir->fd >= 0 && dir->length == length && memcmp(dir->path, path, length) == 0) {
            dir->used = ++dirs->clock;
            dir->pins++;
            return dir;
        }
    }
    return NULL;
}

/* The slot that was not used for the longest time, emptied; NULL with errno. No entry pins more
 * than a handful. */
static struct pctr_layer_dir *
free_slot(struct pctr_layer_dirs *dirs)
{
    struct pctr_layer_dir *oldest = NULL;
    for (uint32_t i = 0; i < PCTR_LAYER_DIRS; i++) {
        struct pctr_layer_dir *dir = &dirs->slots[i];
        if (dir->fd < 0) {
            return dir;
        }
        if (dir->pins == 0 && (oldest == NULL || dir->used < oldest->used)) {
            oldest = dir;
        }
    }
    if (oldest == NULL) {
        errno = EMFILE;
        return NULL;
    }
    if (restore(oldest) < 0) {
        return NULL;
    }
    release(oldest);
    return oldest;
}

/* Takes `fd` over as the directory `path`: pinned; NULL with errno, and fd closed. */
static struct pctr_layer_dir *
adopt(struct pctr_layer_dirs *dirs, int fd, const char *path, size_t length)
{
    struct stat stat;
    struct pctr_layer_dir *dir = fstat(fd, &stat) == 0 ? free_slot(dirs) : NULL;
    if (dir == NULL) {
        int err = errno;
        close(fd);
        errno = err;
        return NULL;
    }
    dir->fd = fd;
    dir->pins = 1;
    dir->dirty = false;
    dir->used = ++dirs->clock;
    dir->mtime = stat.st_mtim;
    dir->length = length;
    memcpy(dir->path, path, length);
    dir->path[length] = '\0';
    return dir;
}

/* Opens the directory `path` itself, links not followed: pinned, or NULL with errno. */
static struct pctr_layer_dir *
open_path(struct pctr_layer_dirs *dirs, const char *path, size_t length)
{
    struct pctr_layer_dir *dir = lookup(dirs, path, length);
    if (dir != NULL) {
        return dir;
    }
    int fd = pctr_open_dir_beneath(dirs->root_fd, path);
    return fd < 0 ? NULL : adopt(dirs, fd, path, length);
}

struct pctr_layer_dir *
pctr_layer_dirs_child(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    char path[PCTR_TAR_PATH];
    size_t name_length = strlen(name);
    size_t length = dir->length + (dir->length > 0 ? 1 : 0) + name_length;
    if (length >= sizeof(path)) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    memcpy(path, dir->path, dir->length);
    path[dir->length] = '/'; /* overwritten by the name beneath the root */
    memcpy(path + length - name_length, name, name_length + 1);
    struct pctr_layer_dir *child = lookup(&layer->dirs, path, length);
    if (child != NULL) {
        return child;
    }
    int fd = pctr_open_dir_beneath(dir->fd, name);
    return fd < 0 ? NULL : adopt(&layer->dirs, fd, path, length);
}

/* Forgets the directory `name` of `dir`, and all beneath it, without giving times back: they are
 * about to go. */
static void
forget(struct pctr_layer_dirs *dirs, const struct pctr_layer_dir *dir, const char *name)
{
    size_t start = dir->length > 0 ? dir->length + 1 : 0;
    size_t end = start + strlen(name);
    for (uint32_t i = 0; i < PCTR_LAYER_DIRS; i++) {
        struct pctr_layer_dir *other = &dirs->slots[i];
        if (other->fd >= 0 && other->length >= end &&
            memcmp(other->path, dir->path, dir->length) == 0 &&
            (start == 0 || other->path[start - 1] == '/') &&
            memcmp(other->path + start, name, end - start) == 0 &&
            (other->path[end] == '/' || other->path[end] == '\0')) {
            release(other);
        }
    }
}

int
pctr_layer_dirs_remove(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    struct pctr_tree_error error;
    forget(&layer->dirs, dir, name);
    dir->dirty = true;
    if (pctr_tree_remove(dir->fd, name, &error) < 0) {
        errno = error.err;
        return pctr_layer_fail_errno(layer, "replacing an earlier entry");
    }
    return 0;
}

struct pctr_layer_dir *
pctr_layer_dirs_make(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    if (mkdirat(dir->fd, name, S_IRWXU) < 0) {
        pctr_layer_fail_errno(layer, "making a directory");
        return NULL;
    }
    dir->dirty = true;
    struct pctr_layer_dir *child = pctr_layer_dirs_child(layer, dir, name);
    if (child == NULL) {
        pctr_layer_fail_errno(layer, "opening a new directory");
    }
    return child;
}

/* Makes a parent that the archive has no entry for. An opaque one has nothing below to look like. */
static struct pctr_layer_dir *
make_implied(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name, bool opaque)
{
    if (strncmp(name, PCTR_LAYER_WHITEOUT, sizeof(PCTR_LAYER_WHITEOUT) - 1) == 0) {
        pctr_layer_fail(layer, PCTR_LAYER_MALFORMED, 0, "a directory with a whiteout's name");
        return NULL;
    }
    if (pctr_layer_count(layer) < 0) {
        return NULL;
    }
    struct pctr_layer_dir *child = pctr_layer_dirs_make(layer, dir, name);
    if (child == NULL || (opaque && pctr_layer_opaque(layer, child->fd) < 0)) {
        return NULL;
    }
    child->mtime.tv_sec = layer->tar.entry.mtime_sec;
    child->mtime.tv_nsec = layer->tar.entry.mtime_nsec;
    child->dirty = true;
    if (fchmod(child->fd, 0755) < 0 ||
        (!opaque && pctr_layer_note_implied(&layer->notes, child->fd, child->path) < 0)) {
        pctr_layer_fail_errno(layer, "setting up an implied directory");
        return NULL;
    }
    return child;
}

/* Takes the next component off layer->todo; false at its end. */
static bool
next_name(struct pctr_layer *layer, char *name, size_t size)
{
    char *todo = layer->todo;
    size_t start = strspn(todo, "/");
    size_t length = strcspn(todo + start, "/");
    if (length == 0) {
        return false;
    }
    size_t kept = length < size
                      ? length
                      : size - 1; /* too long a name stays too long: the kernel refuses it */
    memcpy(name, todo + start, kept);
    name[kept] = '\0';
    memmove(todo, todo + start + length, strlen(todo + start + length) + 1);
    return true;
}

/* Puts the target of the link dir/name ahead of layer->todo: 0, or -1 with a recorded error. */
static int
follow(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    char target[PCTR_TAR_PATH];
    ssize_t length = readlinkat(dir->fd, name, target, sizeof(target));
    if (length < 0) {
        return pctr_layer_fail_errno(layer, "reading a link");
    }
    size_t rest = strlen(layer->todo) + 1;
    if ((size_t)length + 1 + rest > sizeof(layer->todo)) {
        return pctr_layer_fail(layer, PCTR_LAYER_TOO_LONG, 0, "a path through links");
    }
    memmove(layer->todo + length + 1, layer->todo, rest);
    memcpy(layer->todo, target, (size_t)length);
    layer->todo[length] = '/';
    if (target[0] == '/') {
        layer->found[0] = '\0';
    }
    return 0;
}

/* Cuts the last component off layer->found. That is the parent, as there are no links in it; the
 * root is its own. */
static void
ascend(struct pctr_layer *layer)
{
    char *slash = strrchr(layer->found, '/');
    *(slash != NULL ? slash : layer->found) = '\0';
}

/* Goes from `dir` into what is no directory yet. */
static struct pctr_layer_dir *
make_way(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name, bool stands,
         enum pctr_layer_missing missing)
{
    if (missing == PCTR_LAYER_FIND || (missing == PCTR_LAYER_HIDE && stands)) {
        errno = stands ? ENOTDIR : ENOENT;
        return NULL;
    }
    if (stands && pctr_layer_dirs_remove(layer, dir, name) < 0) {
        return NULL;
    }
    return make_implied(layer, dir, name, stands);
}

/* One step of the walk: layer->found moves to the next directory. 0, or -1 with errno or a recorded
 * error. */
static int
walk_step(struct pctr_layer *layer, const char *name, enum pctr_layer_missing missing, int *links)
{
    struct stat stat;
    if (++layer->steps > (layer->totals->entries + SPARE_ENTRIES) * STEPS) {
        return pctr_layer_fail(layer, PCTR_LAYER_TOO_MANY, 0, "long ways through links");
    }
    if (strcmp(name, ".") == 0) {
        return 0;
    }
    if (strcmp(name, "..") == 0) {
        ascend(layer);
        return 0;
    }
    struct pctr_layer_dir *dir = open_path(&layer->dirs, layer->found, strlen(layer->found));
    if (dir == NULL) {
        return pctr_layer_fail_errno(layer, "opening a directory");
    }
    struct pctr_layer_dir *child = NULL;
    int status = fstatat(dir->fd, name, &stat, AT_SYMLINK_NOFOLLOW);
    if (status < 0 && errno != ENOENT) {
        return pctr_layer_fail_errno(layer, "looking at a parent directory");
    }
    if (status == 0 && S_ISLNK(stat.st_mode)) {
        status = ++*links > LINKS
                     ? pctr_layer_fail(layer, PCTR_LAYER_UNSAFE, ELOOP, "links without end")
                     : follow(layer, dir, name);
    }
    else {
        bool is_dir = status == 0 && S_ISDIR(stat.st_mode);
        child = is_dir ? pctr_layer_dirs_child(layer, dir, name)
                       : make_way(layer, dir, name, status == 0, missing);
        status = child != NULL ? 0 : -1;
    }
    if (child != NULL) {
        memcpy(layer->found, child->path, child->length + 1);
        child->pins--;
    }
    dir->pins--;
    return status;
}

/* Walks `path` component by component, through links. */
static struct pctr_layer_dir *
walk(struct pctr_layer *layer, const char *path, enum pctr_layer_missing missing)
{
    char name[NAME_MAX + 2];
    int links = 0;
    layer->found[0] = '\0';
    memcpy(layer->todo, path, strlen(path) + 1);
    while (next_name(layer, name, sizeof(name))) {
        if (walk_step(layer, name, missing, &links) < 0) {
            bool absent = missing != PCTR_LAYER_MAKE && (errno == ENOENT || errno == ENOTDIR);
            if (layer->error->code == PCTR_LAYER_OK && !absent) {
                pctr_layer_fail_errno(layer, "opening a parent directory");
            }
            return NULL;
        }
    }
    struct pctr_layer_dir *dir = open_path(&layer->dirs, layer->found, strlen(layer->found));
    if (dir == NULL) {
        pctr_layer_fail_errno(layer, "opening a directory");
    }
    return dir;
}

struct pctr_layer_dir *
pctr_layer_dirs_find(struct pctr_layer *layer, const char *path, enum pctr_layer_missing missing)
{
    struct pctr_layer_dir *dir = open_path(&layer->dirs, path, strlen(path));
    if (dir != NULL) {
        return dir;
    }
    if (errno != ENOENT && errno != ELOOP && errno != ENOTDIR) {
        pctr_layer_fail_errno(layer, "opening a directory");
        return NULL;
    }
    return walk(layer, path, missing);
}

void
pctr_layer_dirs_unpin(struct pctr_layer *layer)
{
    for (uint32_t i = 0; i < PCTR_LAYER_DIRS; i++) {
        layer->dirs.slots[i].pins = 0;
    }
}

int
pctr_layer_dirs_begin(struct pctr_layer *layer, int root_fd)
{
    layer->dirs.clock = 0;
    for (uint32_t i = 0; i < PCTR_LAYER_DIRS; i++) {
        layer->dirs.slots[i].fd = -1;
        layer->dirs.slots[i].pins = 0;
    }
    layer->dirs.root_fd = pctr_open_dir_beneath(root_fd, "");
    return layer->dirs.root_fd < 0 ? pctr_layer_fail_errno(layer, "opening the root") : 0;
}

int
pctr_layer_dirs_end(struct pctr_layer *layer, bool give_back)
{
    int status = 0;
    for (uint32_t i = 0; i < PCTR_LAYER_DIRS; i++) {
        struct pctr_layer_dir *dir = &layer->dirs.slots[i];
        if (give_back && dir->fd >= 0 && restore(dir) < 0) {
            status = pctr_layer_fail_errno(layer, "setting a directory's time");
        }
        release(dir);
    }
    close(layer->dirs.root_fd);
    return status;
}
