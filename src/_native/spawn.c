#define _GNU_SOURCE
#include "spawn.h"

#include "util.h"

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
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

/* A child of the supervisor is born in the container's PID namespace while this one is set;
 * the supervisor itself stays where it is (setns(2) on a PID namespace moves children only). */
static int
enter_pidns(const struct pctr_spawn *spawn)
{
    return spawn->context.target < 0 ? 0 : pctr_result(setns(spawn->context.target, CLONE_NEWPID));
}

static int
leave_pidns(const struct pctr_spawn *spawn)
{
    return spawn->context.target < 0 ? 0 : pctr_result(setns(spawn->own_pidns, CLONE_NEWPID));
}

static long
clone_child(const struct pctr_spawn *spawn)
{
    struct clone_args args = {.exit_signal = SIGCHLD};

    if (spawn->request->flags & PCTR_START_NEW_PIDNS) {
        args.flags |= CLONE_NEWPID;
    }
    if (spawn->context.cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)spawn->context.cgroup;
    }
    return syscall(SYS_clone3, &args, sizeof args);
}

pid_t
pctr_spawn(struct pctr_spawn *spawn)
{
    struct pctr_context *context = &spawn->context;
    struct pctr_record *record = context->record;

    int error = pctr_ops_run(context, 0, context->plan.header->prepare);
    if (error < 0) {
        return error;
    }
    error = enter_pidns(spawn);
    if (error < 0) {
        return fail(record, PCTR_STAGE_TARGET, error);
    }
    long pid = clone_child(spawn);
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
