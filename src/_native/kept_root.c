#define _GNU_SOURCE
#include "kept_root.h"

#include "resolve.h"
#include "util.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

int
pctr_kept_root_move(struct pctr_context *context, const struct pctr_op *op, int target)
{
    if (op->n2 == 0 || context->kept_root < 0) {
        return 0;
    }
    int error = pctr_result(syscall(SYS_move_mount, context->kept_root, "", target, "",
                                    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
    pctr_close(&context->kept_root);
    return error < 0 ? error : 1;
}

int
pctr_kept_root_give(const struct pctr_context *context, const struct pctr_op *op)
{
    const struct pctr_record news = {.kind = PCTR_RECORD_ROOT};

    if (op->n2 == 0) {
        return 0;
    }
    /* A mount of its own: the container's gets flags and more mounts yet, and goes with it. */
    PCTR_AUTO_FD at =
        pctr_resolve(context, pctr_text(context, op->s1), op->flags, PCTR_MAKE_NOTHING);
    PCTR_AUTO_FD tree =
        at < 0 ? -1
               : pctr_result(syscall(SYS_open_tree, at, "",
                                     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
    if (tree >= 0) {
        (void)pctr_send_fds(context->report, &news, sizeof news, &tree, 1, 0);
    }
    return 0;
}
