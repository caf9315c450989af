/* Whole trees of the host: a container's own directory, removed when it ends. */
#define _GNU_SOURCE
#include "ops.h"
#include "tree.h"
#include "util.h"

#include <fcntl.h>

int
pctr_op_remove_tree(struct pctr_context *context, const struct pctr_op *op)
{
    struct pctr_tree_error error = {.err = EIO};
    PCTR_AUTO_FD parent = pctr_openat2(AT_FDCWD, pctr_text(context, op->s1),
                                       O_RDONLY | O_DIRECTORY, 0, 0);

    if (parent < 0) {
        return parent == -ENOENT ? 0 : parent;
    }
    if (pctr_tree_remove(parent, pctr_text(context, op->s2), &error) == 0) {
        return 0;
    }
    pctr_copy_text(context->record->detail, sizeof context->record->detail, error.path);
    return -error.err;
}
