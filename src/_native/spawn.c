#define _GNU_SOURCE
#include "spawn.h"

#include "util.h"

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int
fail(struct pctr_record *record, enum pctr_stage stage, int error)
{
    record->stage = stage;
    record->op = -1;
    record->error = -error;
    return error;
}

static bool
stays_outside(const struct pctr_spawn *spawn)
{
    return spawn->context.target < 0 || (spawn->request->flags & PCTR_START_OUTSIDE);
}

/* A child of the supervisor is born in the container's PID namespace while this one is set;
 * the supervisor itself stays where it is (setns(2) on a PID namespace moves children only). */
static int
enter_pidns(const struct pctr_spawn *spawn)
{
    return stays_outside(spawn) ? 0 : pctr_result(setns(spawn->context.target, CLONE_NEWPID));
}

static int
leave_pidns(const struct pctr_spawn *spawn)
{
    return stays_outside(spawn) ? 0 : pctr_result(setns(spawn->own_pidns, CLONE_NEWPID));
}

static long
clone_child(const struct pctr_spawn *spawn, uint64_t flags)
{
    /* With CLONE_PARENT the signal is the caller's own, and must not be named. */
    struct clone_args args = {.flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD};

    if (spawn->request->flags & PCTR_START_NEW_PIDNS) {
        args.flags |= CLONE_NEWPID;
    }
    if (spawn->context.cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)spawn->context.cgroup;
    }
    return syscall(SYS_clone3, &args, sizeof args);
}

/* In a user namespace the supervisor could enter the container's PID namespace, but not come
 * back to its own, which belongs to the host: a child of a moment enters it instead, and what
 * that one clones is the supervisor's child all the same. */
static long
clone_by_another(struct pctr_spawn *spawn)
{
    static volatile long result; /* shared with the vforked child */

    result = -ECANCELED;
    pid_t other = vfork();
    if (other == 0) {
        int error = enter_pidns(spawn);
        if (error < 0) {
            result = error;
            _exit(0);
        }
        long pid = clone_child(spawn, CLONE_PARENT);
        if (pid == 0) {
            pctr_child(spawn);
        }
        result = pid < 0 ? -errno : pid;
        _exit(0);
    }
    /* Reaped with all others, as an unknown child. */
    return other < 0 ? -errno : result;
}

pid_t
pctr_spawn(struct pctr_spawn *spawn)
{
    struct pctr_context *context = &spawn->context;
    struct pctr_record *record = context->record;

    int error = spawn->request->flags & PCTR_START_BESIDE
                    ? 0
                    : pctr_ops_run(context, 0, context->plan.header->prepare);
    if (error < 0) {
        return error;
    }
    if (leave_pidns(spawn) == -EPERM) {
        long other = clone_by_another(spawn);
        return other < 0 ? fail(record, PCTR_STAGE_CLONE, (int)other) : (pid_t)other;
    }
    error = enter_pidns(spawn);
    if (error < 0) {
        return fail(record, PCTR_STAGE_TARGET, error);
    }
    long pid = clone_child(spawn, 0);
    if (pid == 0) {
        pctr_child(spawn);
    }
    int clone_error = -errno;
    error = leave_pidns(spawn);
    if (pid < 0) {
        return fail(record, PCTR_STAGE_CLONE, clone_error);
    }
    if (error < 0) {
        /* Every later child would be born in a stranger's namespace. */
        _exit(1);
    }
    return (pid_t)pid;
}
