/* A root of more layers than one page of mount options can name. */
#define _GNU_SOURCE
#include "kept_root.h"
#include "nofile.h"
#include "ops.h"
#include "resolve.h"
#include "util.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

enum {
    DIRECTORIES = 512, /* the kernel stacks 500 layers (OVL_MAX_STACK) */
    OPTIONS = 4096,    /* mount(2) reads one page, and a page is at least this */
};

struct stack {
    int fds[DIRECTORIES]; /* upper, work, then the layers from the topmost on */
    unsigned count;
};

static void
close_all(struct stack *stack)
{
    while (stack->count > 0) {
        pctr_close(&stack->fds[--stack->count]);
    }
}

/* Opens every directory that is named; an empty name is -1. */
static int
open_all(struct pctr_context *context, const struct pctr_op *op, struct stack *stack)
{
    const char *at = pctr_text(context, op->s2), *end = at + op->size;

    for (; at < end; at += strlen(at) + 1) {
        if (stack->count == DIRECTORIES) {
            return -E2BIG;
        }
        int fd = *at == '\0' ? -1 : pctr_openat2(AT_FDCWD, at, O_PATH | O_DIRECTORY, 0, 0);
        if (fd < 0 && *at != '\0') {
            pctr_copy_text(context->record->detail, sizeof context->record->detail, at);
            return fd;
        }
        stack->fds[stack->count++] = fd;
    }
    return stack->count > 2 ? 0 : -EINVAL;
}

static int
write_options(const struct stack *stack, const char *more, char *out)
{
    size_t length = (size_t)snprintf(out, OPTIONS, "lowerdir=");

    for (unsigned i = 2; i < stack->count && length < OPTIONS; i++) {
        const char *colon = i > 2 ? ":" : "";
        length += (size_t)snprintf(out + length, OPTIONS - length, "%s%d", colon, stack->fds[i]);
    }
    if (length < OPTIONS && stack->fds[0] >= 0) {
        length += (size_t)snprintf(out + length, OPTIONS - length, ",upperdir=%d,workdir=%d",
                                   stack->fds[0], stack->fds[1]);
    }
    if (length < OPTIONS && *more != '\0') {
        length += (size_t)snprintf(out + length, OPTIONS - length, ",%s", more);
    }
    return length < OPTIONS ? 0 : -E2BIG;
}

/* Seen from /proc/self/fd, the name of an open directory is its number: so short that 500 layers
 * are well within the page, on every kernel, and without a character that overlay's options would
 * have to escape. (fsconfig(2) takes layers one by one, but only since Linux 6.5.) */
static int
mount_stack(int target, const struct stack *stack, unsigned long flags, const char *more)
{
    char options[OPTIONS], name[16];

    int error = write_options(stack, more, options);
    if (error < 0) {
        return error;
    }
    if (chdir("/proc/self/fd") < 0) {
        return -errno;
    }
    snprintf(name, sizeof name, "%d", target);
    return pctr_result(mount("overlay", name, "overlay", flags, options));
}

int
pctr_op_overlay(struct pctr_context *context, const struct pctr_op *op)
{
    static struct stack stack;
    PCTR_AUTO_FD target =
        pctr_resolve(context, pctr_text(context, op->s1), op->flags, PCTR_MAKE_NOTHING);

    int error = target < 0 ? target : pctr_kept_root_move(context, op, target);
    if (error == 0) {
        pctr_nofile_raise();
        error = open_all(context, op, &stack);
        if (error >= 0) {
            error = mount_stack(target, &stack, op->n1, pctr_text(context, op->s3));
        }
        close_all(&stack);
        pctr_nofile_restore();
    }
    return error < 0 ? error : pctr_kept_root_give(context, op);
}
