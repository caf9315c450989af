/* What the program's own process becomes before it execs. */
#define _GNU_SOURCE
#include "ops.h"
#include "util.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* A pipe without a name: whoever owns it, nothing on the host's disks or in its /dev changes. */
static int
is_anonymous_pipe(int fd)
{
    struct statfs status;

    return fstatfs(fd, &status) == 0 && status.f_type == PIPEFS_MAGIC;
}

/* n2: the user who shall own the stream, plus one; 0 leaves it.  A program that is not root could
 * not open /dev/stdout again otherwise.  Only a pipe changes hands: a stream may as well be the
 * host's /dev/null or a file of the caller's.  One that the caller was given by another user (root's
 * in `sudo -u`, say) stays that one's: EPERM. */
int
pctr_op_fd(struct pctr_context *context, const struct pctr_op *op)
{
    int fd = context->fds[op->arg];

    if (op->n2 != 0 && is_anonymous_pipe(fd) && fchown(fd, (uid_t)(op->n2 - 1), (gid_t)-1) < 0 &&
        errno != EPERM) {
        return -errno;
    }
    return pctr_result(dup2(fd, (int)op->n1));
}

int
pctr_op_rlimit(struct pctr_context *context, const struct pctr_op *op)
{
    struct rlimit limit = {.rlim_cur = op->n1, .rlim_max = op->n2};

    (void)context;
    return pctr_result(syscall(SYS_prlimit64, 0, op->arg, &limit, NULL));
}

int
pctr_op_umask(struct pctr_context *context, const struct pctr_op *op)
{
    (void)context;
    umask((mode_t)op->n1);
    return 0;
}

int
pctr_op_bounding(struct pctr_context *context, const struct pctr_op *op)
{
    (void)context;
    for (int capability = 0; capability < 64; capability++) {
        if ((op->n1 >> capability) & 1) {
            continue;
        }
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
            /* EINVAL: past the last capability that this kernel knows. */
            return errno == EINVAL ? 0 : -errno;
        }
    }
    return 0;
}

/* Raw system calls: libc's wrappers speak to the threads that the vforked child does not have. */
int
pctr_op_groups(struct pctr_context *context, const struct pctr_op *op)
{
    return pctr_result(
        syscall(SYS_setgroups, op->size / sizeof(uint32_t), pctr_text(context, op->s1)));
}

int
pctr_op_ids(struct pctr_context *context, const struct pctr_op *op)
{
    (void)context;
    /* The capabilities that CAPS gives must survive until it runs.  Another user's id makes the
     * memory as dumpable as fs.suid_dumpable says (proc_sys_fs(5)), which may be "by everyone". */
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_setresgid, op->n2, op->n2, op->n2) < 0 ||
        syscall(SYS_setresuid, op->n1, op->n1, op->n1) < 0 ||
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) {
        return -errno;
    }
    return 0;
}

/* getcwd(2) puts "(unreachable)" before a directory outside the root: a WORKDIR that leads
 * through a descriptor of the host's. */
int
pctr_op_chdir(struct pctr_context *context, const struct pctr_op *op)
{
    char where[PATH_MAX];

    if (chdir(pctr_text(context, op->s1)) < 0) {
        return -errno;
    }
    long length = syscall(SYS_getcwd, where, sizeof where);
    if (length < 0) {
        return -errno;
    }
    return where[0] == '/' ? 0 : -EXDEV;
}

int
pctr_op_caps(struct pctr_context *context, const struct pctr_op *op)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {.effective = (uint32_t)op->n1, .permitted = (uint32_t)op->n1},
        {.effective = (uint32_t)(op->n1 >> 32), .permitted = (uint32_t)(op->n1 >> 32)},
    };

    (void)context;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
        syscall(SYS_capset, &header, data) < 0) {
        return -errno;
    }
    return 0;
}

int
pctr_op_no_new_privs(struct pctr_context *context, const struct pctr_op *op)
{
    (void)context;
    (void)op;
    return pctr_result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

int
pctr_op_seccomp(struct pctr_context *context, const struct pctr_op *op)
{
    struct sock_fprog program = {
        .len = (unsigned short)(op->size / sizeof(struct sock_filter)),
        .filter = (struct sock_filter *)(void *)(context->plan.data + op->s1),
    };

    return pctr_result(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

/* The kernel kills us when the supervisor dies.  Whether it had died before the prctl(2) its pidfd
 * tells; the report socket would not, while we or a sibling have copies of its other end. */
int
pctr_op_lifeline(struct pctr_context *context, const struct pctr_op *op)
{
    struct pollfd gone = {.fd = context->supervisor, .events = POLLIN};

    (void)op;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || poll(&gone, 1, 0) < 0) {
        return -errno;
    }
    return gone.revents != 0 ? -EPIPE : 0;
}

/* Points `count` pointers at the strings that follow their table, and ends it with NULL. */
static char **
build_table(char *block, uint64_t count)
{
    char **table = (char **)(void *)block;
    char *at = block + (count + 1) * sizeof(char *);

    for (uint64_t i = 0; i < count; i++) {
        table[i] = at;
        at += strlen(at) + 1;
    }
    table[count] = NULL;
    return table;
}

int
pctr_op_exec(struct pctr_context *context, const struct pctr_op *op)
{
    char *data = context->plan.data;
    char **paths = build_table(data + op->s1, (uint64_t)op->arg);
    char **argv = build_table(data + op->s2, op->n1);
    char **envp = build_table(data + op->s3, op->n2);
    int worst = ENOENT;

    context->executed_ns = pctr_now_ns();

    for (int i = 0; i < op->arg; i++) {
        syscall(SYS_execve, paths[i], argv, envp);
        if (errno != ENOENT && errno != ENOTDIR) {
            worst = errno;
        }
        /* execvp(3) goes on along PATH after these and remembers EACCES. */
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) {
            break;
        }
    }
    pctr_copy_text(context->record->detail, sizeof context->record->detail, argv[0]);
    return -worst;
}

int
pctr_op_stay(struct pctr_context *context, const struct pctr_op *op)
{
    struct pctr_record news = {.kind = PCTR_RECORD_STARTED, .started_ns = pctr_now_ns()};

    (void)op;
    int error = pctr_send_fds(context->report, &news, sizeof news, NULL, 0, 0);
    if (error < 0) {
        return error;
    }
    for (;;) {
        (void)pause();
    }
}
