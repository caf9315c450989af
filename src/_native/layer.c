#define _GNU_SOURCE
#include "layer.h"

#include "layer_dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LOOK_EVERY (16u << 20) /* bytes between two looks at the free space */
#define ENTRY_COST 4096u       /* what an entry counts there, beside its content: a block */
#define OVERHEAD (16u << 20)   /* bytes allowed outside files whatever max_bytes says */
#define PIPE_SIZE (1 << 20)
#define WHITEOUT_META ".wh..wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"

/* Copies as much of a text as fits. */
static void
copy_text(char *to, size_t size, const char *text)
{
    size_t length = strnlen(text, size - 1);
    memcpy(to, text, length);
    to[length] = '\0';
}

int
pctr_layer_fail(struct pctr_layer *layer, enum pctr_layer_code code, int err, const char *what)
{
    struct pctr_layer_error *error = layer->error;
    if (error->code != PCTR_LAYER_OK) {
        return -1; /* what failed first is the reason */
    }
    error->code = (int32_t)code;
    error->err = err;
    error->offset = layer->tar.entry.offset;
    copy_text(error->path, sizeof(error->path), layer->tar.entry.path);
    copy_text(error->what, sizeof(error->what), what);
    return -1;
}

int
pctr_layer_fail_errno(struct pctr_layer *layer, const char *what)
{
    enum pctr_layer_code code;
    switch (errno) {
    case ENOSPC:
    case EDQUOT:
        code = PCTR_LAYER_NO_SPACE;
        break;
    case EFBIG:
        code = PCTR_LAYER_TOO_BIG;
        break;
    case ENAMETOOLONG:
        code = PCTR_LAYER_TOO_LONG;
        break;
    case EPERM:
    case EACCES:
    case EROFS:
        code = PCTR_LAYER_DENIED;
        break;
    default:
        code = PCTR_LAYER_IO;
    }
    return pctr_layer_fail(layer, code, errno, what);
}

static int
fail_tar(struct pctr_layer *layer)
{
    const struct pctr_tar *tar = &layer->tar;
    enum pctr_layer_code code = PCTR_LAYER_IO;
    switch (tar->fault) {
    case PCTR_TAR_FINE:
    case PCTR_TAR_IO:
        break;
    case PCTR_TAR_MALFORMED:
        code = PCTR_LAYER_MALFORMED;
        break;
    case PCTR_TAR_TOO_LONG:
        code = PCTR_LAYER_TOO_LONG;
        break;
    case PCTR_TAR_TOO_BIG:
        code = PCTR_LAYER_TOO_BIG;
        break;
    case PCTR_TAR_UNSUPPORTED:
        code = PCTR_LAYER_UNSUPPORTED;
        break;
    }
    return pctr_layer_fail(layer, code, tar->err, tar->what);
}

/* Accounts for `bytes` that go to disk, and looks at what is left there when it is time, or when
 * they are many. */
static int
check_space(struct pctr_layer *layer, uint64_t bytes)
{
    struct statvfs stat;
    layer->unseen += bytes;
    if (layer->limits->reserve_bytes == 0 || layer->unseen < LOOK_EVERY) {
        return 0;
    }
    if (fstatvfs(layer->dirs.root_fd, &stat) < 0) {
        return pctr_layer_fail_errno(layer, "looking at the free space");
    }
    uint64_t free_bytes = (uint64_t)stat.f_bavail * stat.f_frsize;
    uint64_t reserve = layer->limits->reserve_bytes;
    layer->unseen = 0;
    if (free_bytes < reserve || free_bytes - reserve < bytes) {
        return pctr_layer_fail(layer, PCTR_LAYER_NO_SPACE, 0, "the free-space reserve");
    }
    return 0;
}

int
pctr_layer_count(struct pctr_layer *layer)
{
    if (layer->totals->entries >= layer->limits->max_entries) {
        return pctr_layer_fail(layer, PCTR_LAYER_TOO_MANY, 0, "more entries than allowed");
    }
    layer->totals->entries++;
    return check_space(layer, ENTRY_COST);
}

int
pctr_layer_opaque(struct pctr_layer *layer, int fd)
{
    bool user = (layer->limits->flags & PCTR_LAYER_USERXATTR) != 0;
    if (fsetxattr(fd, user ? "user.overlay.opaque" : "trusted.overlay.opaque", "y", 1, 0) < 0) {
        return pctr_layer_fail_errno(layer, "marking a directory opaque");
    }
    return 0;
}

/* Drops what says nothing from a name and refuses what climbs: 0 or -1. */
static int
clean(struct pctr_layer *layer, const char *name, char *to)
{
    size_t at = 0;
    while (*name != '\0') {
        size_t length = strcspn(name, "/");
        if (length == 2 && name[0] == '.' && name[1] == '.') {
            return pctr_layer_fail(layer, PCTR_LAYER_UNSAFE, 0, "`..` in a name");
        }
        if (length > NAME_MAX) {
            return pctr_layer_fail(layer, PCTR_LAYER_TOO_LONG, 0, "a component over 255 bytes");
        }
        if (length > 0 && !(length == 1 && name[0] == '.')) {
            if (at > 0) {
                to[at++] = '/';
            }
            memcpy(to + at, name, length);
            at += length;
        }
        name += length + (name[length] == '/' ? 1 : 0);
    }
    to[at] = '\0';
    return 0;
}

/* Cuts a clean path in two, in place: the last component is returned, *parent is what is ahead of
 * it. */
static const char *
split(char *path, const char **parent)
{
    char *slash = strrchr(path, '/');
    if (slash == NULL) {
        *parent = "";
        return path;
    }
    *slash = '\0';
    *parent = path;
    return slash + 1;
}

static bool
is_single(const struct pctr_layer *layer)
{
    return (layer->limits->flags & PCTR_LAYER_ROOTLESS_SINGLE) != 0;
}

/* Judges a chown(2): 0 or -1. */
static int
judge_chown(struct pctr_layer *layer, int status)
{
    if (status < 0 && (errno == EINVAL || errno == EOVERFLOW)) {
        return pctr_layer_fail(layer, PCTR_LAYER_ID_UNMAPPED, errno, "an owner that is not mapped");
    }
    return status < 0 ? pctr_layer_fail_errno(layer, "setting the owner") : 0;
}

/* With one id there is no other owner to give a file to. */
static bool
keeps_owner(struct pctr_layer *layer)
{
    if (!is_single(layer)) {
        return false;
    }
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    layer->totals->changed_owners += entry->uid != 0 || entry->gid != 0 ? 1 : 0;
    return true;
}

/* The permission bits to set. A set-id bit that spoke of another owner must not speak of this
 * one. */
static mode_t
wanted_mode(const struct pctr_layer *layer)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    mode_t mode = entry->mode;
    if (is_single(layer)) {
        mode &= ~(mode_t)((entry->uid != 0 ? S_ISUID : 0) | (entry->gid != 0 ? S_ISGID : 0));
    }
    return mode;
}

static int
set_xattrs(struct pctr_layer *layer, int fd)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    for (uint32_t i = 0; i < entry->xattr_count; i++) {
        const struct pctr_tar_xattr *xattr = &entry->xattrs[i];
        if (!pctr_layer_keeps_xattr(xattr->name)) {
            layer->totals->skipped_xattrs++;
            continue;
        }
        if (fsetxattr(fd, xattr->name, xattr->value, xattr->size, 0) == 0) {
            continue;
        }
        if (errno == ENOTSUP || errno == EPERM) {
            layer->totals->skipped_xattrs++;
        }
        else if (errno == EINVAL || errno == ERANGE || errno == E2BIG) {
            return pctr_layer_fail(layer, PCTR_LAYER_MALFORMED, errno, "an extended attribute");
        }
        else {
            return pctr_layer_fail_errno(layer, "setting an extended attribute");
        }
    }
    return 0;
}

/* Owner, attributes and mode, in the order in which one does not undo the other: chown(2) takes
 * set-id bits and capabilities away. Most files have both from the start, and looking costs a tenth
 * of setting, which the file system's journal takes part in. */
static int
set_look(struct pctr_layer *layer, int fd)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    const mode_t mode = wanted_mode(layer);
    struct stat stat;
    if (fstat(fd, &stat) < 0) {
        return pctr_layer_fail_errno(layer, "looking at what was made");
    }
    bool other = !keeps_owner(layer) && (stat.st_uid != entry->uid || stat.st_gid != entry->gid);
    if (other && judge_chown(layer, fchown(fd, entry->uid, entry->gid)) < 0) {
        return -1;
    }
    if (set_xattrs(layer, fd) < 0) {
        return -1;
    }
    if (!other && (stat.st_mode & 07777) == mode) {
        return 0;
    }
    return fchmod(fd, mode) < 0 ? pctr_layer_fail_errno(layer, "setting the mode") : 0;
}

static struct timespec
wanted_time(const struct pctr_layer *layer)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    return (struct timespec){.tv_sec = entry->mtime_sec, .tv_nsec = entry->mtime_nsec};
}

/* The same for what cannot be opened: links, FIFOs, devices. None of them takes user.* attributes,
 * and capabilities mean nothing on them. Their mode was given when they were made. */
static int
set_look_at(struct pctr_layer *layer, int dir_fd, const char *name)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    const struct timespec times[2] = {wanted_time(layer), wanted_time(layer)};
    layer->totals->skipped_xattrs += entry->xattr_count;
    if (!keeps_owner(layer) && judge_chown(layer, fchownat(dir_fd, name, entry->uid, entry->gid,
                                                           AT_SYMLINK_NOFOLLOW)) < 0) {
        return -1;
    }
    if (utimensat(dir_fd, name, times, AT_SYMLINK_NOFOLLOW) < 0) {
        return pctr_layer_fail_errno(layer, "setting the time");
    }
    return 0;
}

/* Makes the entry itself, in dir_fd under a name that is free: a descriptor for a file, 0
 * otherwise, -1 with errno. */
static int
make_node(const struct pctr_layer *layer, int dir_fd, const char *name)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    mode_t mode = entry->mode &
                  01777; /* a set-id bit means nothing here, and would outlive the chown */
    switch (entry->type) {
    case PCTR_TAR_FILE:
        return openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                      mode & 0777);
    case PCTR_TAR_SYMLINK:
        return symlinkat(entry->link, dir_fd, name);
    case PCTR_TAR_CHAR:
        return mknodat(dir_fd, name, S_IFCHR | mode, makedev(entry->major, entry->minor));
    case PCTR_TAR_BLOCK_DEVICE:
        return mknodat(dir_fd, name, S_IFBLK | mode, makedev(entry->major, entry->minor));
    case PCTR_TAR_FIFO:
        return mknodat(dir_fd, name, S_IFIFO | mode, 0);
    case PCTR_TAR_DIRECTORY:
    case PCTR_TAR_HARD_LINK:
        break;
    }
    errno = EINVAL;
    return -1;
}

/* The same where something of this layer may stand, which goes. */
static int
make_over(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    int status = make_node(layer, dir->fd, name);
    if (status < 0 && errno == EEXIST) {
        if (pctr_layer_dirs_remove(layer, dir, name) < 0) {
            return -1;
        }
        status = make_node(layer, dir->fd, name);
    }
    dir->dirty = true;
    return status;
}

static int
write_all(struct pctr_layer *layer, int fd, const unsigned char *data, size_t size)
{
    while (size > 0) {
        ssize_t put = write(fd, data, size);
        if (put < 0 && errno != EINTR) {
            return pctr_layer_fail_errno(layer, "writing a file");
        }
        if (put > 0) {
            data += put;
            size -= (size_t)put;
        }
    }
    return 0;
}

/* Copies `size` bytes of the entry's data to where the descriptor stands. */
static int
copy_data(struct pctr_layer *layer, int fd, uint64_t size)
{
    while (size > 0) {
        const unsigned char *chunk;
        ssize_t got = pctr_tar_data(&layer->tar, &chunk,
                                    size < PCTR_TAR_BUFFER ? (size_t)size : PCTR_TAR_BUFFER);
        if (got < 0) {
            return fail_tar(layer);
        }
        if (got == 0) {
            return pctr_layer_fail(layer, PCTR_LAYER_MALFORMED, 0, "less data than announced");
        }
        if (check_space(layer, (uint64_t)got) < 0 || write_all(layer, fd, chunk, (size_t)got) < 0) {
            return -1;
        }
        size -= (uint64_t)got;
    }
    return 0;
}

static int
copy_areas(struct pctr_layer *layer, int fd)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    if (ftruncate(fd, (off_t)entry->size) < 0) {
        return pctr_layer_fail_errno(layer, "setting a sparse file's size");
    }
    for (uint32_t i = 0; i < entry->extent_count; i++) {
        const struct pctr_tar_extent *extent = &entry->extents[i];
        if (extent->length == 0) {
            continue;
        }
        if (lseek(fd, (off_t)extent->offset, SEEK_SET) < 0) {
            return pctr_layer_fail_errno(layer, "seeking in a sparse file");
        }
        if (copy_data(layer, fd, extent->length) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
fill_file(struct pctr_layer *layer, int fd)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    const struct timespec times[2] = {wanted_time(layer), wanted_time(layer)};
    if ((entry->sparse ? copy_areas(layer, fd) : copy_data(layer, fd, entry->size)) < 0 ||
        set_look(layer, fd) < 0) {
        return -1;
    }
    return futimens(fd, times) < 0 ? pctr_layer_fail_errno(layer, "setting the time") : 0;
}

/* Refuses a file that will not fit, before a byte of it is written. */
static int
check_size(struct pctr_layer *layer)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    if (entry->size > layer->limits->max_bytes - layer->totals->bytes) {
        return pctr_layer_fail(layer, PCTR_LAYER_TOO_BIG, 0, "more bytes than allowed");
    }
    layer->totals->bytes += entry->size;
    if (layer->tar.data_left < LOOK_EVERY) {
        return 0;
    }
    uint64_t unseen = layer->unseen;
    int status = check_space(layer, layer->tar.data_left);
    layer->unseen = unseen; /* that was a question: the bytes count as they come */
    return status;
}

static int
apply_file(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    if (check_size(layer) < 0) {
        return -1;
    }
    int fd = make_over(layer, dir, name);
    if (fd < 0) {
        return pctr_layer_fail_errno(layer, "making a file");
    }
    int status = fill_file(layer, fd);
    if (close(fd) < 0 && status == 0) {
        status = pctr_layer_fail_errno(
            layer, "closing a file"); /* network file systems report quotas here */
    }
    return status;
}

static int
apply_symlink(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    if (layer->tar.entry.link[0] == '\0') {
        return pctr_layer_fail(layer, PCTR_LAYER_MALFORMED, 0, "a symbolic link to nothing");
    }
    if (make_over(layer, dir, name) < 0) {
        return pctr_layer_fail_errno(layer, "making a symbolic link");
    }
    return set_look_at(layer, dir->fd, name);
}

static int
apply_node(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    const struct pctr_tar_entry *entry = &layer->tar.entry;
    if (entry->type == PCTR_TAR_CHAR && entry->major == 0 && entry->minor == 0) {
        return pctr_layer_fail(layer, PCTR_LAYER_UNSAFE, 0, "a device that is overlay's whiteout");
    }
    if (make_over(layer, dir, name) < 0) {
        if (errno == EPERM && layer->error->code == PCTR_LAYER_OK && entry->type != PCTR_TAR_FIFO) {
            layer->totals->skipped_devices++;
            return 0;
        }
        return pctr_layer_fail_errno(layer, "making a device or FIFO");
    }
    return set_look_at(layer, dir->fd, name);
}

/* Takes the attributes of an earlier entry off a directory that gets new ones. */
static int
clear_xattrs(struct pctr_layer *layer, int fd)
{
    char names[4096]; /* who sets more (ERANGE) keeps the old ones: no harm to anybody else */
    ssize_t size = flistxattr(fd, names, sizeof(names));
    if (size < 0) {
        return errno == ENOTSUP || errno == ERANGE
                   ? 0
                   : pctr_layer_fail_errno(layer, "listing extended attributes");
    }
    for (const char *name = names; name < names + size; name += strlen(name) + 1) {
        bool goes = pctr_layer_keeps_xattr(name) || pctr_layer_is_mark(name);
        if (goes && fremovexattr(fd, name) < 0 && errno != ENODATA) {
            return pctr_layer_fail_errno(layer, "removing an extended attribute");
        }
    }
    return 0;
}

/* Gives a directory that is open what its entry says. Its time comes when it is closed. */
static int
dress_directory(struct pctr_layer *layer, struct pctr_layer_dir *dir, bool is_new)
{
    if ((!is_new && clear_xattrs(layer, dir->fd) < 0) || set_look(layer, dir->fd) < 0) {
        return -1;
    }
    dir->mtime = wanted_time(layer);
    dir->dirty = true;
    return 0;
}

static int
apply_directory(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    struct stat stat;
    bool stands = fstatat(dir->fd, name, &stat, AT_SYMLINK_NOFOLLOW) == 0;
    if (!stands && errno != ENOENT) {
        return pctr_layer_fail_errno(layer, "looking at a directory");
    }
    if (stands && S_ISDIR(stat.st_mode)) {
        struct pctr_layer_dir *old = pctr_layer_dirs_child(layer, dir, name);
        return old != NULL ? dress_directory(layer, old, false)
                           : pctr_layer_fail_errno(layer, "opening a directory");
    }
    if (stands && pctr_layer_dirs_remove(layer, dir, name) < 0) {
        return -1;
    }
    struct pctr_layer_dir *made = pctr_layer_dirs_make(layer, dir, name);
    if (made == NULL || (stands && pctr_layer_opaque(layer, made->fd) < 0)) {
        return -1;
    }
    return dress_directory(layer, made, true);
}

/* Finds what a hard link points at. */
static struct pctr_layer_dir *
find_target(struct pctr_layer *layer, const char **name, struct stat *stat)
{
    const char *parent;
    if (clean(layer, layer->tar.entry.link, layer->link) < 0) {
        return NULL;
    }
    *name = split(layer->link, &parent);
    struct pctr_layer_dir *dir =
        **name != '\0' ? pctr_layer_dirs_find(layer, parent, PCTR_LAYER_FIND) : NULL;
    if (dir == NULL || fstatat(dir->fd, *name, stat, AT_SYMLINK_NOFOLLOW) < 0) {
        pctr_layer_fail(layer, PCTR_LAYER_MALFORMED, 0, "a hard link to nothing in this layer");
        return NULL;
    }
    if (S_ISDIR(stat->st_mode) || pctr_layer_is_whiteout(stat)) {
        pctr_layer_fail(layer, PCTR_LAYER_MALFORMED, 0, "a hard link to a directory or whiteout");
        return NULL;
    }
    return dir;
}

static int
apply_hard_link(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    const char *target_name;
    struct stat target, stands;
    struct pctr_layer_dir *target_dir = find_target(layer, &target_name, &target);
    if (target_dir == NULL) {
        return -1;
    }
    if (linkat(target_dir->fd, target_name, dir->fd, name, 0) < 0) {
        if (errno != EEXIST || fstatat(dir->fd, name, &stands, AT_SYMLINK_NOFOLLOW) < 0) {
            return pctr_layer_fail_errno(layer, "making a hard link");
        }
        if (stands.st_ino == target.st_ino) {
            return 0; /* one file system: the same file, perhaps under the same name */
        }
        if (pctr_layer_dirs_remove(layer, dir, name) < 0) {
            return -1;
        }
        /* What was replaced may have held the target: then this says so. */
        if (linkat(target_dir->fd, target_name, dir->fd, name, 0) < 0) {
            return pctr_layer_fail_errno(layer, "making a hard link");
        }
    }
    dir->dirty = true;
    return 0;
}

static int
apply_opaque(struct pctr_layer *layer, const char *parent)
{
    struct pctr_layer_dir *dir = pctr_layer_dirs_find(layer, parent, PCTR_LAYER_HIDE);
    if (dir == NULL) {
        return layer->error->code == PCTR_LAYER_OK ? 0
                                                   : -1; /* a file or whiteout hides it already */
    }
    layer->totals->whiteouts++;
    if (dir->length == 0) {
        layer->totals->root_opaque = 1;
        return 0;
    }
    return pctr_layer_opaque(layer, dir->fd);
}

/* Hides `name` of the layers below. Where this layer has it too, only a directory lets something
 * through. */
static int
apply_whiteout(struct pctr_layer *layer, const char *parent, const char *name)
{
    struct stat stat;
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return pctr_layer_fail(layer, PCTR_LAYER_UNSAFE, 0, "a whiteout of no name");
    }
    struct pctr_layer_dir *dir = pctr_layer_dirs_find(layer, parent, PCTR_LAYER_HIDE);
    if (dir == NULL) {
        return layer->error->code == PCTR_LAYER_OK ? 0 : -1;
    }
    layer->totals->whiteouts++;
    if (mknodat(dir->fd, name, S_IFCHR, makedev(0, 0)) == 0) {
        dir->dirty = true;
        return 0;
    }
    if (errno != EEXIST || fstatat(dir->fd, name, &stat, AT_SYMLINK_NOFOLLOW) < 0) {
        return pctr_layer_fail_errno(layer, "making a whiteout");
    }
    if (!S_ISDIR(stat.st_mode)) {
        return 0;
    }
    struct pctr_layer_dir *child = pctr_layer_dirs_child(layer, dir, name);
    if (child == NULL || pctr_layer_unmark(&layer->notes, child->fd) < 0) {
        return pctr_layer_fail_errno(layer, "opening a directory");
    }
    return pctr_layer_opaque(layer, child->fd);
}

static int
apply_root(struct pctr_layer *layer)
{
    if (layer->tar.entry.type != PCTR_TAR_DIRECTORY || layer->tar.entry.path[0] == '\0') {
        return pctr_layer_fail(layer, PCTR_LAYER_MALFORMED, 0, "an entry without a name");
    }
    struct pctr_layer_dir *root = pctr_layer_dirs_find(layer, "", PCTR_LAYER_FIND);
    return root != NULL ? dress_directory(layer, root, false) : -1;
}

static int
apply_entry_in(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name)
{
    switch (layer->tar.entry.type) {
    case PCTR_TAR_FILE:
        return apply_file(layer, dir, name);
    case PCTR_TAR_HARD_LINK:
        return apply_hard_link(layer, dir, name);
    case PCTR_TAR_SYMLINK:
        return apply_symlink(layer, dir, name);
    case PCTR_TAR_CHAR:
    case PCTR_TAR_BLOCK_DEVICE:
    case PCTR_TAR_FIFO:
        return apply_node(layer, dir, name);
    case PCTR_TAR_DIRECTORY:
        return apply_directory(layer, dir, name);
    }
    return pctr_layer_fail(layer, PCTR_LAYER_UNSUPPORTED, 0, "an unknown kind of entry");
}

/* The component of a clean path that begins with `prefix`, or NULL. */
static const char *
find_component(const char *path, const char *prefix)
{
    size_t length = strlen(prefix);
    for (const char *at = path; at != NULL; at = strchr(at, '/')) {
        at += *at == '/' ? 1 : 0;
        if (strncmp(at, prefix, length) == 0) {
            return at;
        }
    }
    return NULL;
}

/* Names that begin with `.wh.` are never made: they are whiteouts, or notes that AUFS left. */
static int
apply_special(struct pctr_layer *layer, const char *special)
{
    const char *parent;
    bool last = strchr(special, '/') == NULL;
    if (last && strcmp(special, WHITEOUT_OPAQUE) == 0) {
        split(layer->path, &parent);
        return apply_opaque(layer, parent);
    }
    if (strncmp(special, WHITEOUT_META, sizeof(WHITEOUT_META) - 1) == 0) {
        layer->totals->skipped_metadata++;
        return 0;
    }
    if (!last) {
        return pctr_layer_fail(layer, PCTR_LAYER_MALFORMED, 0,
                               "an entry beneath a whiteout's name");
    }
    const char *name = split(layer->path, &parent);
    return apply_whiteout(layer, parent, name + sizeof(PCTR_LAYER_WHITEOUT) - 1);
}

static int
apply_entry(struct pctr_layer *layer)
{
    if (pctr_layer_count(layer) < 0 || clean(layer, layer->tar.entry.path, layer->path) < 0) {
        return -1;
    }
    const char *special = find_component(layer->path, PCTR_LAYER_WHITEOUT);
    if (special != NULL) {
        return apply_special(layer, special);
    }
    if (layer->path[0] == '\0') {
        return apply_root(layer);
    }
    const char *parent;
    const char *name = split(layer->path, &parent);
    struct pctr_layer_dir *dir = pctr_layer_dirs_find(layer, parent, PCTR_LAYER_MAKE);
    return dir != NULL ? apply_entry_in(layer, dir, name) : -1;
}

static int
apply_all(struct pctr_layer *layer)
{
    layer->unseen = LOOK_EVERY; /* the first look is at the first entry */
    layer->steps = 0;
    for (;;) {
        int status = pctr_tar_next(&layer->tar);
        if (status <= 0) {
            return status < 0 ? fail_tar(layer) : 0;
        }
        status = apply_entry(layer);
        pctr_layer_dirs_unpin(layer);
        if (status < 0) {
            return -1;
        }
    }
}

int
pctr_layer_apply(int tar_fd, int root_fd, const struct pctr_layer_limits *limits,
                 struct pctr_layer_error *error, struct pctr_layer_totals *totals)
{
    static struct pctr_layer layer;
    memset(error, 0, sizeof(*error));
    memset(totals, 0, sizeof(*totals));
    layer.limits = limits;
    layer.error = error;
    layer.totals = totals;
    uint64_t overhead = limits->max_bytes > UINT64_MAX - OVERHEAD ? UINT64_MAX
                                                                  : limits->max_bytes + OVERHEAD;
    pctr_tar_open(&layer.tar, tar_fd, overhead);
    if (limits->max_bytes == 0 || limits->max_entries == 0 ||
        (limits->flags & ~(uint32_t)(PCTR_LAYER_ROOTLESS_SINGLE | PCTR_LAYER_USERXATTR)) != 0) {
        return pctr_layer_fail(&layer, PCTR_LAYER_INVALID, EINVAL, "the limits");
    }
    if (pctr_layer_dirs_begin(&layer, root_fd) < 0) {
        return -1;
    }
    /* Fewer and larger reads where the stream is a pipe; where it is not, or the user's share of
     * pipes is used up, nothing is lost. */
    (void)fcntl(tar_fd, F_SETPIPE_SZ, PIPE_SIZE);
    mode_t mask = umask(0);
    pctr_layer_notes_begin(&layer.notes, limits);
    int status = apply_all(&layer);
    if (pctr_layer_notes_end(&layer.notes, totals->root_opaque != 0) < 0) {
        status = pctr_layer_fail_errno(&layer, "writing the notes");
    }
    umask(mask);
    if (pctr_layer_dirs_end(&layer, status == 0) < 0) {
        status = -1;
    }
    totals->stream_bytes = layer.tar.offset;
    return status;
}
