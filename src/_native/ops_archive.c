/* Trees written as archives. */
#define _GNU_SOURCE
#include "nofile.h"
#include "ops.h"
#include "resolve.h"
#include "tar_write.h"
#include "util.h"

#include <signal.h>

int
pctr_op_write_tar(struct pctr_context *context, const struct pctr_op *op)
{
    struct pctr_tar_write_error error;
    struct pctr_tar_write_options options = {.flags = op->size,
                                             .root_uid = (uint32_t)(op->n1 >> 32),
                                             .root_gid = (uint32_t)op->n1,
                                             .latest = (int64_t)op->n2};
    PCTR_AUTO_FD named = -1;

    if (op->s1 != 0) {
        named = pctr_resolve(context, pctr_text(context, op->s1), 0, PCTR_MAKE_NOTHING);
        if (named < 0) {
            return named;
        }
    }
    /* A reader that went away, and RLIMIT_FSIZE, come back as errors instead. */
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || signal(SIGXFSZ, SIG_IGN) == SIG_ERR) {
        return -errno;
    }
    /* Every level of the tree is an open directory. */
    pctr_nofile_raise();
    int root = op->s1 != 0 ? named : context->fds[op->arg + 1];
    if (pctr_tar_write(root, context->fds[op->arg], &options, &error) == 0) {
        return 0;
    }
    context->record->code = (uint32_t)error.code;
    pctr_copy_text(context->record->detail, sizeof context->record->detail, error.path);
    return error.err != 0 ? -error.err : -EBADMSG;
}
