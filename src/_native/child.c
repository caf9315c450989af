/* The supervisor's child: it sets a container up and becomes its program, or the init process
 * above the program.  It is single-threaded and never returns. */
#define _GNU_SOURCE
#include "body.h"
#include "init.h"
#include "nofile.h"
#include "spawn.h"
#include "util.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Shared with the vforked child, which writes it before it exits. */
static volatile int program_failed;

static _Noreturn void
report_failure(struct pctr_spawn *spawn)
{
    struct pctr_record *record = spawn->context.record;

    record->kind = PCTR_RECORD_FAILED;
    /* A supervisor that is gone has taken the job with it: there is nobody to tell. */
    (void)pctr_send_fds(spawn->context.report, record, sizeof *record, NULL, 0, 0);
    program_failed = 1;
    _exit(127);
}

static _Noreturn void
report_stage(struct pctr_spawn *spawn, enum pctr_stage stage, int error)
{
    spawn->context.record->stage = stage;
    spawn->context.record->op = -1;
    spawn->context.record->error = -error;
    report_failure(spawn);
}

/* 0 to 2 stay what they are, /dev/null, until FD or SETSID replaces them: so nothing that is
 * opened meanwhile lies there.  Descriptors that the program is to have at a number must not lie there under another name:
 * all of ours move above the highest such number first. */
static int
move_above(int *fd, int floor)
{
    if (*fd < 0 || *fd >= floor) {
        return 0;
    }
    int moved = pctr_result(fcntl(*fd, F_DUPFD_CLOEXEC, floor));
    if (moved < 0) {
        return moved;
    }
    pctr_close(fd);
    *fd = moved;
    return 0;
}

static int
arrange_descriptors(struct pctr_spawn *spawn, int *fds)
{
    struct pctr_context *context = &spawn->context;
    int keep[PCTR_MAX_FDS + 9] = {0, 1, 2}, kept = 3, floor = 3;

    for (unsigned i = 0; i < context->plan.nops; i++) {
        const struct pctr_op *op = &context->plan.ops[i];
        if (op->code == PCTR_OP_FD && op->n1 >= (uint64_t)floor && op->n1 < 1 << 20) {
            floor = (int)op->n1 + 1;
        }
    }
    for (unsigned i = 0; i < context->nfds; i++) {
        int error = move_above(&fds[i], floor);
        if (error < 0) {
            return error;
        }
        keep[kept++] = fds[i];
    }
    int error = move_above(&context->report, floor);
    if (error >= 0) {
        error = move_above(&context->supervisor, floor);
    }
    if (error < 0) {
        return error;
    }
    keep[kept++] = context->report;
    keep[kept++] = context->supervisor;
    keep[kept++] = context->target;
    keep[kept++] = context->network;
    keep[kept++] = context->kept_root;
    keep[kept++] = context->root;
    keep[kept++] = context->terminal;
    return pctr_close_all_but(keep, (unsigned)kept);
}

static _Noreturn void
become_program(struct pctr_spawn *spawn)
{
    const struct pctr_plan *header = spawn->context.plan.header;
    unsigned first = header->prepare + header->setup;
    sigset_t none;

    /* Every disposition is the default one since the supervisor's own start. */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* The last operation is the exec: to come back is to have failed. */
    (void)pctr_ops_run(&spawn->context, first, header->tail);
    report_failure(spawn);
}

/* vfork: the program's process borrows our memory until it execs, so nothing is copied, and
 * when we run on, it has either succeeded or said why not.  The memory is the supervisor's
 * image, non-dumpable and private to us: unlike a host's, it is ours to share. */
static _Noreturn void
become_init(struct pctr_spawn *spawn)
{
    /* What the program leaves behind comes to us, from its first moment on. */
    if (getpid() != 1 && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) {
        report_stage(spawn, PCTR_STAGE_FORK, -errno);
    }
    pid_t program = vfork();
    if (program == 0) {
        become_program(spawn);
    }
    if (program < 0) {
        report_stage(spawn, PCTR_STAGE_FORK, -errno);
    }
    if (program_failed) {
        _exit(127);
    }
    pctr_init_run(spawn, program);
}

/* Set up in advance: waits for the request that brings the program, and goes on with its plan, whose
 * set-up is the one that was carried out.  The end of the socket is the supervisor's. */
static void
await_program(struct pctr_spawn *spawn, int *fds)
{
    static _Alignas(16) char message[sizeof(struct pctr_request) + PCTR_MAX_INLINE];
    static struct pctr_body body;
    struct pctr_context *context = &spawn->context;
    unsigned count;
    ssize_t got;

    do {
        count = PCTR_MAX_FDS;
        got = pctr_receive_fds(context->report, message, sizeof message, fds, &count, 0);
    } while (got == -EINTR);
    if (got == 0) {
        _exit(0);
    }
    int error = got < (ssize_t)sizeof *spawn->request ? -EBADMSG : 0;
    if (error == 0) {
        spawn->request = (const struct pctr_request *)(const void *)message;
        error = pctr_body_open(&body, message, (size_t)got, fds, &count);
    }
    if (error == 0) {
        error = pctr_plan_open(&context->plan, body.bytes, spawn->request->plan_size, count);
    }
    context->nfds = count;
    if (error == 0) {
        error = arrange_descriptors(spawn, fds);
    }
    if (error < 0) {
        report_stage(spawn, PCTR_STAGE_REQUEST, error);
    }
}

_Noreturn void
pctr_child(struct pctr_spawn *spawn)
{
    struct pctr_context *context = &spawn->context;
    const struct pctr_plan *header = context->plan.header;
    static int fds[PCTR_MAX_FDS];

    memcpy(fds, context->fds, sizeof *fds * context->nfds);
    context->fds = fds;
    if (spawn->request->flags & PCTR_START_READY) {
        prctl(PR_SET_NAME, "pycontainer-rdy", 0, 0, 0);
    }
    umask(0);
    /* Nobody inside may trace or read a process that is on its way in (and PID 1 afterwards). */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) {
        report_stage(spawn, PCTR_STAGE_LIFELINE, -errno);
    }
    int error = pctr_op_lifeline(context, NULL);
    if (error < 0) {
        report_stage(spawn, PCTR_STAGE_LIFELINE, error);
    }
    error = arrange_descriptors(spawn, fds);
    if (error < 0) {
        report_stage(spawn, PCTR_STAGE_REQUEST, error);
    }
    /* Not before: descriptors that make room for a high number may lie above the limit. */
    pctr_nofile_restore();
    if (pctr_ops_run(context, header->prepare, header->setup) < 0) {
        report_failure(spawn);
    }
    if (spawn->request->flags & PCTR_START_WORK) {
        _exit(0);
    }
    if (spawn->request->flags & PCTR_START_READY) {
        await_program(spawn, fds);
    }
    if (spawn->request->flags & PCTR_START_INIT) {
        become_init(spawn);
    }
    become_program(spawn);
}
