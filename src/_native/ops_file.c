/* Files, directories, links and nodes beneath the container's root. */
#define _GNU_SOURCE
#include "ops.h"
#include "resolve.h"
#include "util.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int
pctr_op_make_dir(struct pctr_context *context, const struct pctr_op *op)
{
    const char *path = pctr_text(context, op->s1);

    /* A new one right in the root: there is nothing to resolve. */
    if (op->flags == 0 && context->root >= 0 && strchr(path, '/') == NULL &&
        mkdirat(context->root, path, (mode_t)op->n1) == 0) {
        return 0;
    }
    PCTR_AUTO_FD made = pctr_make_directories(context, path, op->flags, (mode_t)op->n1);
    return made < 0 ? made : 0;
}

int
pctr_op_make_file(struct pctr_context *context, const struct pctr_op *op)
{
    const char *name;
    PCTR_AUTO_FD parent = pctr_resolve_parent(context, pctr_text(context, op->s1), &name);

    if (parent < 0) {
        return parent;
    }
    PCTR_AUTO_FD file = pctr_result(
        openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (file < 0) {
        return file;
    }
    const char *data = pctr_text(context, op->s2);
    for (uint32_t done = 0; done < op->size;) {
        ssize_t wrote = write(file, data + done, op->size - done);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote < 0) {
            return -errno;
        }
        done += (uint32_t)wrote;
    }
    uid_t uid = (uid_t)(op->n2 >> 32);
    gid_t gid = (gid_t)op->n2;
    if ((uid != 0 || gid != 0) && fchown(file, uid, gid) < 0) {
        return -errno;
    }
    return pctr_result(fchmod(file, (mode_t)op->n1));
}

int
pctr_op_make_link(struct pctr_context *context, const struct pctr_op *op)
{
    const char *name;
    PCTR_AUTO_FD parent = pctr_resolve_parent(context, pctr_text(context, op->s1), &name);

    if (parent < 0) {
        return parent;
    }
    return pctr_result(symlinkat(pctr_text(context, op->s2), parent, name));
}

int
pctr_op_make_node(struct pctr_context *context, const struct pctr_op *op)
{
    const char *name;
    PCTR_AUTO_FD parent = pctr_resolve_parent(context, pctr_text(context, op->s1), &name);

    if (parent < 0) {
        return parent;
    }
    return pctr_result(mknodat(parent, name, (mode_t)op->n1, (dev_t)op->n2));
}
