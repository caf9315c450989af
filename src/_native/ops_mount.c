/* Mounts, all made in the container's own mount namespace. */
#define _GNU_SOURCE
#include "kept_root.h"
#include "ops.h"
#include "resolve.h"
#include "util.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

int
pctr_op_propagation(struct pctr_context *context, const struct pctr_op *op)
{
    (void)context;
    return pctr_result(mount(NULL, "/", NULL, MS_REC | op->n1, NULL));
}

int
pctr_op_root(struct pctr_context *context, const struct pctr_op *op)
{
    int root = pctr_openat2(AT_FDCWD, pctr_text(context, op->s1), O_PATH | O_DIRECTORY, 0, 0);

    if (root < 0) {
        return root;
    }
    pctr_close(&context->root);
    context->root = root;
    return 0;
}

int
pctr_op_enter(struct pctr_context *context, const struct pctr_op *op)
{
    (void)op;
    int root = pctr_openat2(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0, 0);

    if (root < 0) {
        return root;
    }
    pctr_close(&context->root);
    context->root = root;
    return 0;
}

/* The working directory carries the resolved target into mount(2): a path would be walked anew. */
static int
mount_at(int directory, const char *type, unsigned long flags, const char *data)
{
    if (fchdir(directory) < 0) {
        return -errno;
    }
    return pctr_result(mount(type, ".", type, flags, data));
}

/* A link in the image shall not put a mount of the caller's over the kernel's own files, which
 * masks and read-only paths are about: only a path that says so leads there. */
static int
check_target(int target, const char *path)
{
    struct statfs status;
    const char *own;

    if (fstatfs(target, &status) < 0) {
        return -errno;
    }
    if (status.f_type == PROC_SUPER_MAGIC) {
        own = "/proc";
    }
    else if (status.f_type == SYSFS_MAGIC || status.f_type == CGROUP_SUPER_MAGIC ||
             status.f_type == CGROUP2_SUPER_MAGIC) {
        own = "/sys";
    }
    else {
        return 0;
    }
    size_t length = strlen(own);
    bool said = strncmp(path, own, length) == 0 && (path[length] == '/' || path[length] == '\0');
    return said ? 0 : -EXDEV;
}

int
pctr_op_mount(struct pctr_context *context, const struct pctr_op *op)
{
    PCTR_AUTO_FD target =
        pctr_resolve(context, pctr_text(context, op->s1), op->flags,
                     (op->flags & PCTR_OPF_CREATE) ? PCTR_MAKE_DIRECTORY : PCTR_MAKE_NOTHING);
    int error = target < 0 ? target : check_target(target, pctr_text(context, op->s1));
    if (error < 0) {
        return error;
    }
    error = pctr_kept_root_move(context, op, target);
    if (error == 0) {
        error = mount_at(target, pctr_text(context, op->s2), op->n1, pctr_text(context, op->s3));
    }
    return error < 0 ? error : pctr_kept_root_give(context, op);
}

static uint64_t
attributes_of(uint64_t flags)
{
    return ((flags & MS_RDONLY) ? MOUNT_ATTR_RDONLY : 0) |
           ((flags & MS_NOSUID) ? MOUNT_ATTR_NOSUID : 0) |
           ((flags & MS_NODEV) ? MOUNT_ATTR_NODEV : 0) |
           ((flags & MS_NOEXEC) ? MOUNT_ATTR_NOEXEC : 0);
}

/* Linux 5.11 has no mount_setattr(2): a remount there must repeat the flags that are on, since
 * it replaces them all, and covers one mount only. */
static int
remount_by_path(int tree, uint64_t flags)
{
    char path[32];
    struct statvfs now;

    if (fstatvfs(tree, &now) < 0) {
        return -errno;
    }
    uint64_t kept = ((now.f_flag & ST_RDONLY) ? MS_RDONLY : 0) |
                    ((now.f_flag & ST_NOSUID) ? MS_NOSUID : 0) |
                    ((now.f_flag & ST_NODEV) ? MS_NODEV : 0) |
                    ((now.f_flag & ST_NOEXEC) ? MS_NOEXEC : 0) |
                    ((now.f_flag & ST_NOATIME) ? MS_NOATIME : 0) |
                    ((now.f_flag & ST_NODIRATIME) ? MS_NODIRATIME : 0) |
                    ((now.f_flag & ST_RELATIME) ? MS_RELATIME : 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", tree);
    return pctr_result(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | kept | flags, NULL));
}

/* Adds flags to a mount, and with `recursive` to those below. */
static int
set_attributes(int tree, uint64_t flags, int recursive)
{
    struct mount_attr attr = {.attr_set = attributes_of(flags)};

    if (attr.attr_set == 0) {
        return 0;
    }
    int result =
        pctr_result(syscall(SYS_mount_setattr, tree, "",
                            AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr));
    return result == -ENOSYS && !recursive ? remount_by_path(tree, flags) : result;
}

/* Whether mounts made later cross over, for a mount and those below. */
static int
set_propagation(int tree, uint64_t propagation)
{
    struct mount_attr attr = {.propagation = propagation};
    char path[32];

    int result = pctr_result(
        syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr));
    if (result != -ENOSYS) {
        return result;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", tree);
    return pctr_result(mount(NULL, path, NULL, MS_REC | propagation, NULL));
}

/* Both, of one mount in one call where there is one. */
static int
set_up_tree(int tree, uint64_t flags, uint64_t propagation, int recursive)
{
    struct mount_attr attr = {.attr_set = attributes_of(flags), .propagation = propagation};

    if (!recursive &&
        pctr_result(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr)) == 0) {
        return 0;
    }
    int error = set_attributes(tree, flags, recursive);
    return error < 0 ? error : set_propagation(tree, propagation);
}

static int
clone_tree(int directory, const char *path, int recursive)
{
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (*path == '\0' ? AT_EMPTY_PATH : 0) |
                     (recursive ? AT_RECURSIVE : 0);
    return pctr_result(syscall(SYS_open_tree, directory, path, flags));
}

static int
attach_tree(int tree, int target)
{
    return pctr_result(syscall(SYS_move_mount, tree, "", target, "",
                               MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
}

/* Trees are opened while the host's file system is as the host has it: nothing that is mounted
 * for this container can hide them or end up in them. */
static int trees[PCTR_MAX_TREES];
static char opened[PCTR_MAX_TREES];

static int
clone_named(const struct pctr_context *context, const struct pctr_op *op)
{
    const char *path = pctr_text(context, op->s1);
    int recursive = op->flags & PCTR_OPF_RECURSIVE;

    if (!(op->flags & PCTR_OPF_BENEATH)) {
        return clone_tree(AT_FDCWD, path, recursive);
    }
    PCTR_AUTO_FD found = pctr_resolve(context, path, op->flags, PCTR_MAKE_DIRECTORY);
    return found < 0 ? found : clone_tree(found, "", recursive);
}

int
pctr_op_open_tree(struct pctr_context *context, const struct pctr_op *op)
{
    int tree = clone_named(context, op);

    if (tree < 0) {
        return tree;
    }
    if (opened[op->arg]) {
        pctr_close(&trees[op->arg]);
    }
    trees[op->arg] = tree;
    opened[op->arg] = 1;
    return 0;
}

int
pctr_op_bind(struct pctr_context *context, const struct pctr_op *op)
{
    int recursive = op->flags & PCTR_OPF_RECURSIVE;
    struct stat status;

    if (!opened[op->arg]) {
        /* OPEN_TREE was forgiven: there is nothing to bind. */
        return -ENOENT;
    }
    PCTR_AUTO_FD tree = trees[op->arg];
    opened[op->arg] = 0;
    if (fstat(tree, &status) < 0) {
        return -errno;
    }
    enum pctr_make make = PCTR_MAKE_NOTHING;
    if (op->flags & PCTR_OPF_CREATE) {
        make = S_ISDIR(status.st_mode) ? PCTR_MAKE_DIRECTORY : PCTR_MAKE_EMPTY_FILE;
    }
    int error = set_up_tree(tree, op->n1, op->n2, recursive);
    if (error < 0) {
        return error;
    }
    PCTR_AUTO_FD target = pctr_resolve(context, pctr_text(context, op->s1), op->flags, make);
    error = target < 0 ? target : check_target(target, pctr_text(context, op->s1));
    return error < 0 ? error : attach_tree(tree, target);
}

int
pctr_op_mask(struct pctr_context *context, const struct pctr_op *op)
{
    struct stat status;
    PCTR_AUTO_FD target =
        pctr_resolve(context, pctr_text(context, op->s1), op->flags, PCTR_MAKE_NOTHING);

    if (target < 0) {
        return target;
    }
    if (fstat(target, &status) < 0) {
        return -errno;
    }
    if (S_ISDIR(status.st_mode)) {
        PCTR_AUTO_FD empty = clone_tree(AT_FDCWD, pctr_text(context, op->s2), 0);
        if (empty < 0) {
            return empty;
        }
        int error = set_attributes(empty, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
        return error < 0 ? error : attach_tree(empty, target);
    }
    PCTR_AUTO_FD null =
        pctr_openat2(context->root, "dev/null", O_PATH, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
    if (null < 0) {
        return null;
    }
    PCTR_AUTO_FD tree = clone_tree(null, "", 0);
    return tree < 0 ? tree : attach_tree(tree, target);
}

int
pctr_op_readonly(struct pctr_context *context, const struct pctr_op *op)
{
    int recursive = op->flags & PCTR_OPF_RECURSIVE;
    PCTR_AUTO_FD target =
        pctr_resolve(context, pctr_text(context, op->s1), op->flags, PCTR_MAKE_NOTHING);

    if (target < 0) {
        return target;
    }
    PCTR_AUTO_FD tree = clone_tree(target, "", recursive);
    if (tree < 0) {
        return tree;
    }
    int error = set_attributes(tree, MS_RDONLY, recursive);
    return error < 0 ? error : attach_tree(tree, target);
}

int
pctr_op_remount(struct pctr_context *context, const struct pctr_op *op)
{
    PCTR_AUTO_FD target =
        pctr_resolve(context, pctr_text(context, op->s1), op->flags, PCTR_MAKE_NOTHING);

    return target < 0 ? target : set_attributes(target, op->n1, 0);
}

/* pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one, at ".",
 * and is detached from there, so that no directory for it is needed in the image. */
int
pctr_op_pivot(struct pctr_context *context, const struct pctr_op *op)
{
    if (fchdir(context->root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
        umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
        return -errno;
    }
    return pctr_op_enter(context, op);
}

int
pctr_op_unmount(struct pctr_context *context, const struct pctr_op *op)
{
    int result = pctr_result(umount2(pctr_text(context, op->s1), MNT_DETACH | UMOUNT_NOFOLLOW));

    return result == -EINVAL || result == -ENOENT ? 0 : result;
}
