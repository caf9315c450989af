/* Namespaces and what lives in them: names, sysctls, keyrings, the network. */
#define _GNU_SOURCE
#include "netpool.h"
#include "ops.h"
#include "util.h"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

int
pctr_op_unshare(struct pctr_context *context, const struct pctr_op *op)
{
    (void)context;
    return pctr_result(unshare((int)op->n1));
}

int
pctr_op_join(struct pctr_context *context, const struct pctr_op *op)
{
    return pctr_result(setns(context->target, (int)op->n1));
}

int
pctr_op_join_fd(struct pctr_context *context, const struct pctr_op *op)
{
    return pctr_result(setns(context->fds[op->arg], (int)op->n1));
}

int
pctr_op_give(struct pctr_context *context, const struct pctr_op *op)
{
    PCTR_AUTO_FD file =
        pctr_openat2(AT_FDCWD, pctr_text(context, op->s1), op->n1 & O_ACCMODE, 0, 0);

    return file < 0 ? file : pctr_send_fds(context->fds[op->arg], "", 1, &file, 1, 0);
}

/* Its last process would take it down on its way out, which takes the kernel longer than anything else
 * at a container's end (two waits for RCU): so one more holds it.  Among many, others use that time. */
int
pctr_op_linger(struct pctr_context *context, const struct pctr_op *op)
{
    const struct pctr_record news = {.kind = PCTR_RECORD_MOUNTS};

    (void)op;
    if (context->crowded) {
        return 0;
    }
    PCTR_AUTO_FD mounts = pctr_result(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
    return mounts < 0 ? 0 : pctr_send_fds(context->report, &news, sizeof news, &mounts, 1, 0);
}

enum { KEYRING_TRIES = 100 };

int
pctr_op_keyring(struct pctr_context *context, const struct pctr_op *op)
{
    (void)context;
    (void)op;
    int result = pctr_result(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));

    /* An ordinary user may have 200 keys, and the kernel frees those of the dead when it likes. */
    for (int i = 0; result == -EDQUOT && i < KEYRING_TRIES; i++) {
        const struct timespec pause = {.tv_nsec = 10000000};
        (void)nanosleep(&pause, NULL);
        result = pctr_result(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));
    }
    /* A kernel without keyrings has none to share. */
    return result == -ENOSYS ? 0 : result;
}

/* A network namespace of its own: one made in advance, or a new one. */
int
pctr_op_network(struct pctr_context *context, const struct pctr_op *op)
{
    (void)op;
    return context->network >= 0 ? pctr_result(setns(context->network, CLONE_NEWNET))
                                 : pctr_netpool_make();
}

int
pctr_op_hostname(struct pctr_context *context, const struct pctr_op *op)
{
    const char *name = pctr_text(context, op->s1);
    return pctr_result(sethostname(name, strlen(name)));
}

/* The write must reach procfs: what an image put at /proc, or a link in it, is refused. */
int
pctr_op_sysctl(struct pctr_context *context, const struct pctr_op *op)
{
    struct statfs status;
    uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    PCTR_AUTO_FD sysctls =
        pctr_openat2(context->root, "proc/sys", O_PATH | O_DIRECTORY, 0, resolve);

    if (sysctls < 0) {
        return sysctls;
    }
    if (fstatfs(sysctls, &status) < 0) {
        return -errno;
    }
    if (status.f_type != PROC_SUPER_MAGIC) {
        return -EXDEV;
    }
    PCTR_AUTO_FD file =
        pctr_openat2(sysctls, pctr_text(context, op->s1), O_WRONLY, 0, resolve | RESOLVE_NO_XDEV);
    if (file < 0) {
        return file;
    }
    ssize_t wrote = write(file, pctr_text(context, op->s2), op->size);
    if (wrote < 0) {
        return -errno;
    }
    return (size_t)wrote == op->size ? 0 : -EIO;
}
