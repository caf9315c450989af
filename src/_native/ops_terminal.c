/* The container's own terminal, from its own devpts instance. */
#define _GNU_SOURCE
#include "ops.h"
#include "resolve.h"
#include "util.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

/* Opened on our devpts mount and nowhere else: /dev/ptmx is a link the container may replace. */
static int
open_master(const struct pctr_context *context)
{
    struct statfs status;
    int unlock = 0;
    PCTR_AUTO_FD master = pctr_openat2(context->root, "dev/pts/ptmx", O_RDWR | O_NOCTTY, 0,
                                       RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);

    if (master < 0) {
        return master;
    }
    if (fstatfs(master, &status) < 0) {
        return -errno;
    }
    if (status.f_type != DEVPTS_SUPER_MAGIC) {
        return -EXDEV;
    }
    if (ioctl(master, TIOCSPTLCK, &unlock) < 0) {
        return -errno;
    }
    return pctr_steal_fd(&master);
}

/* runtime-spec: with a terminal, /dev/console is that terminal. */
static int
bind_console(const struct pctr_context *context, int slave)
{
    PCTR_AUTO_FD console =
        pctr_resolve(context, "dev/console", PCTR_OPF_NO_SYMLINKS, PCTR_MAKE_EMPTY_FILE);

    if (console < 0) {
        return console;
    }
    PCTR_AUTO_FD tree = pctr_result(
        syscall(SYS_open_tree, slave, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
    if (tree < 0) {
        return tree;
    }
    return pctr_result(syscall(SYS_move_mount, tree, "", console, "",
                               MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
}

/* n1: rows << 16 | columns, n2: the user who owns the terminal; CREATE: also /dev/console. */
int
pctr_op_tty(struct pctr_context *context, const struct pctr_op *op)
{
    struct winsize size = {.ws_row = (unsigned short)(op->n1 >> 16),
                           .ws_col = (unsigned short)op->n1};
    PCTR_AUTO_FD master = open_master(context);

    if (master < 0) {
        return master;
    }
    PCTR_AUTO_FD slave = pctr_result(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (slave < 0) {
        return slave;
    }
    if (ioctl(slave, TIOCSWINSZ, &size) < 0 || fchown(slave, (uid_t)op->n2, (gid_t)-1) < 0) {
        return -errno;
    }
    int error = (op->flags & PCTR_OPF_CREATE) ? bind_console(context, slave) : 0;
    if (error >= 0) {
        error = pctr_send_fds(context->fds[op->arg], "", 1, &master, 1, 0);
    }
    if (error >= 0) {
        context->terminal = pctr_steal_fd(&slave);
    }
    return error;
}

int
pctr_op_setsid(struct pctr_context *context, const struct pctr_op *op)
{
    (void)op;
    if (setsid() < 0) {
        return -errno;
    }
    if (context->terminal < 0) {
        return 0;
    }
    if (ioctl(context->terminal, TIOCSCTTY, 0) < 0) {
        return -errno;
    }
    for (int fd = 0; fd <= 2; fd++) {
        if (dup2(context->terminal, fd) < 0) {
            return -errno;
        }
    }
    pctr_close(&context->terminal);
    return 0;
}
