/* Files of the host: control groups, and the trees of layers. */
#define _GNU_SOURCE
#include "ops.h"
#include "util.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int
pctr_op_mkdir(struct pctr_context *context, const struct pctr_op *op)
{
    int result = pctr_result(mkdir(pctr_text(context, op->s1), (mode_t)op->n1));
    return result == -EEXIST && (op->flags & PCTR_OPF_EXISTS) ? 0 : result;
}

int
pctr_op_write(struct pctr_context *context, const struct pctr_op *op)
{
    return pctr_write_file(pctr_text(context, op->s1), pctr_text(context, op->s2), op->size);
}

int
pctr_op_rmdir(struct pctr_context *context, const struct pctr_op *op)
{
    int result = pctr_result(rmdir(pctr_text(context, op->s1)));
    return result == -ENOENT ? 0 : result;
}

int
pctr_op_cgroup_into(struct pctr_context *context, const struct pctr_op *op)
{
    pctr_close(&context->cgroup);
    context->cgroup = pctr_result(
        open(pctr_text(context, op->s1), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    return context->cgroup < 0 ? context->cgroup : 0;
}

/* Joined only when the mounts are made: what those take would be accounted to the group, which
 * makes each of them slower.  The groups are out of sight by then, so their files are open. */
static int groups[PCTR_MAX_GROUPS];
static unsigned opened;

int
pctr_op_cgroup_open(struct pctr_context *context, const struct pctr_op *op)
{
    if (opened == PCTR_MAX_GROUPS) {
        return -E2BIG;
    }
    int file = pctr_result(open(pctr_text(context, op->s1), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
    if (file < 0) {
        return file;
    }
    groups[opened++] = file;
    return 0;
}

int
pctr_groups_hand_over(int report)
{
    int error = report < 0 ? 0 : pctr_send_fds(report, "g", 1, groups, opened, MSG_DONTWAIT);

    while (opened > 0) {
        pctr_close(&groups[--opened]);
    }
    return error;
}

static int
take_groups(int report)
{
    char message;
    ssize_t got;

    do {
        opened = PCTR_MAX_GROUPS;
        got = pctr_receive_fds(report, &message, 1, groups, &opened, 0);
    } while (got == -EINTR);
    return got == 1 ? 0 : got == 0 ? -EPIPE : (int)got;
}

int
pctr_op_cgroup_join(struct pctr_context *context, const struct pctr_op *op)
{
    int error = op->n1 != 0 ? take_groups(context->report) : 0;

    while (error >= 0 && opened > 0) {
        PCTR_AUTO_FD file = groups[--opened];
        if (write(file, "0", 1) != 1) {
            error = -errno;
        }
    }
    return error;
}
