/* Trees written as archives, and what changed in them. */
#define _GNU_SOURCE
#include "changes.h"
#include "nofile.h"
#include "ops.h"
#include "resolve.h"
#include "tar_write.h"
#include "util.h"

#include <fcntl.h>
#include <signal.h>

/* What every writer into a pipe needs: a reader that went away, and RLIMIT_FSIZE, come back as errors
 * instead, and every level of a tree is an open directory. */
static int
prepare(void)
{
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || signal(SIGXFSZ, SIG_IGN) == SIG_ERR) {
        return -errno;
    }
    pctr_nofile_raise();
    return 0;
}

static int
report(struct pctr_context *context, const struct pctr_tar_write_error *error)
{
    context->record->code = (uint32_t)error->code;
    pctr_copy_text(context->record->detail, sizeof context->record->detail, error->path);
    return error->err != 0 ? -error->err : -EBADMSG;
}

int
pctr_op_write_changes(struct pctr_context *context, const struct pctr_op *op)
{
    struct pctr_tar_write_error error;
    PCTR_AUTO_FD upper =
        pctr_openat2(AT_FDCWD, pctr_text(context, op->s1), O_PATH | O_DIRECTORY, 0, 0);

    if (upper < 0) {
        return upper;
    }
    int result = prepare();
    if (result < 0) {
        return result;
    }
    int out = context->fds[op->arg];
    return pctr_changes_write(upper, context->root, out, op->size, &error) == 0
               ? 0
               : report(context, &error);
}

int
pctr_op_write_tar(struct pctr_context *context, const struct pctr_op *op)
{
    struct pctr_tar_write_error error;
    struct pctr_tar_write_options options = {.flags = op->size,
                                             .root_uid = (uint32_t)(op->n1 >> 32),
                                             .root_gid = (uint32_t)op->n1,
                                             .latest = (int64_t)op->n2,
                                             .without = pctr_text(context, op->s2)};
    PCTR_AUTO_FD named = -1;

    if (op->s1 != 0) {
        named = pctr_resolve(context, pctr_text(context, op->s1), 0, PCTR_MAKE_NOTHING);
        if (named < 0) {
            return named;
        }
    }
    int result = prepare();
    if (result < 0) {
        return result;
    }
    int root = op->s1 != 0 ? named : context->fds[op->arg + 1];
    return pctr_tar_write(root, context->fds[op->arg], &options, &error) == 0
               ? 0
               : report(context, &error);
}
