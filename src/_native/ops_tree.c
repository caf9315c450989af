/* Whole trees of the host: layers unpacked, a container's own directory removed. */
#define _GNU_SOURCE
#include "layer.h"
#include "nofile.h"
#include "ops.h"
#include "tree.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int
pctr_op_remove_tree(struct pctr_context *context, const struct pctr_op *op)
{
    struct pctr_tree_error error = {.err = EIO};
    PCTR_AUTO_FD parent =
        pctr_openat2(AT_FDCWD, pctr_text(context, op->s1), O_RDONLY | O_DIRECTORY, 0, 0);

    if (parent < 0) {
        return parent == -ENOENT ? 0 : parent;
    }
    if (pctr_tree_remove(parent, pctr_text(context, op->s2), &error) == 0) {
        return 0;
    }
    pctr_copy_text(context->record->detail, sizeof context->record->detail, error.path);
    return -error.err;
}

/* Keeps this much free for everybody else on the store's file system. */
enum { RESERVE_BYTES = 64 << 20 };

/* What failed, in the record; gives its errno. */
static int
report(struct pctr_context *context, const struct pctr_layer_error *error)
{
    context->record->code = (uint32_t)error->code;
    const char *between = error->path[0] != '\0' && error->what[0] != '\0' ? ": " : "";
    snprintf(context->record->detail, sizeof context->record->detail, "%.180s%s%s", error->path,
             between, error->what);
    return error->err != 0 ? -error->err : -EBADMSG;
}

/* Opens the layer's directory and those below it; they stay open as long as this process. */
static int
open_layers(struct pctr_context *context, const struct pctr_op *op, int *fds, uint32_t *lower)
{
    const char *at = pctr_text(context, op->s2), *end = at + op->size;

    for (uint32_t i = 0; at < end; i++, at += strlen(at) + 1) {
        if (i > PCTR_LAYER_MAX_LOWER) {
            return -E2BIG;
        }
        fds[i] = pctr_openat2(AT_FDCWD, at, O_RDONLY | O_DIRECTORY, 0, 0);
        if (fds[i] < 0) {
            pctr_copy_text(context->record->detail, sizeof context->record->detail, at);
            return fds[i];
        }
        *lower = i;
    }
    return 0;
}

/* Whoever feeds us is woken and wakes us all the time: neither is to be taken off its processor for
 * that while there is another one (sched(7), SCHED_BATCH).  What was asked for otherwise stays. */
static void
work_in_batches(void)
{
    const struct sched_param none = {0};

    if (syscall(SYS_sched_getscheduler, 0) == SCHED_OTHER) {
        (void)syscall(SYS_sched_setscheduler, 0, SCHED_BATCH, &none);
    }
}

int
pctr_op_apply_layer(struct pctr_context *context, const struct pctr_op *op)
{
    struct pctr_layer_error error = {.code = PCTR_LAYER_INVALID};
    struct pctr_layer_totals totals;
    const char *notes = pctr_text(context, op->s2);
    struct pctr_layer_limits limits = {.max_bytes = op->n1,
                                       .max_entries = op->n2,
                                       .reserve_bytes = RESERVE_BYTES,
                                       .flags = op->size,
                                       .notes = *notes != '\0' ? notes : NULL};
    PCTR_AUTO_FD root =
        pctr_openat2(AT_FDCWD, pctr_text(context, op->s1), O_RDONLY | O_DIRECTORY, 0, 0);

    if (root < 0) {
        return root;
    }
    /* RLIMIT_FSIZE comes back as an error instead. */
    if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR) {
        return -errno;
    }
    work_in_batches();
    if (pctr_layer_apply(context->fds[op->arg], root, &limits, &error, &totals) == 0) {
        return 0;
    }
    return report(context, &error);
}

int
pctr_op_adopt_looks(struct pctr_context *context, const struct pctr_op *op)
{
    static int fds[PCTR_LAYER_MAX_LOWER + 1];
    struct pctr_layer_lower lower = {.fds = fds + 1};
    struct pctr_layer_error error = {.code = PCTR_LAYER_INVALID};
    PCTR_AUTO_FD notes = pctr_openat2(AT_FDCWD, pctr_text(context, op->s1), O_RDONLY, 0, 0);

    pctr_nofile_raise();
    int result = open_layers(context, op, fds, &lower.count);
    if (result >= 0 && notes < 0) {
        result = notes;
    }
    if (result >= 0 && pctr_layer_adopt(notes, fds[0], &lower, (uint32_t)op->n1, &error) < 0) {
        result = report(context, &error);
    }
    pctr_nofile_restore();
    return result;
}
