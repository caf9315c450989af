#define _GNU_SOURCE
#include "supervisor.h"

#include "aside.h"
#include "body.h"
#include "cleanup.h"
#include "init.h"
#include "job.h"
#include "netpool.h"
#include "ready.h"
#include "spares.h"
#include "spawn.h"
#include "userns.h"
#include "util.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What an epoll event tells of; job numbers begin above these. */
enum { EVENT_REQUEST = 1, EVENT_HOST_GONE = 2, EVENT_CHILD = 3, EVENT_ASIDE = 4 };

/* One request at a time is looked at, so one buffer serves all. */
static _Alignas(16) char buffer[sizeof(struct pctr_request) + PCTR_MAX_INLINE];

static struct {
    int epoll;
    int own_pidns;
    int own_pidfd;
    bool leaving; /* the host is gone: no more requests */
    char *final;  /* cleanup plan of the supervisor itself; malloc'd */
    size_t final_size;
    int held;  /* the lock that says this supervisor is alive, or -1 */
    int spare; /* keeps a number free, or -1 */
} state = {.epoll = -1, .own_pidns = -1, .own_pidfd = -1, .held = -1, .spare = -1};

static int
keep_cleanup(char **kept, size_t *kept_size, const char *bytes, size_t size)
{
    struct pctr_plan_view view;

    if (size == 0) {
        return 0;
    }
    char *copy = malloc(size);
    if (copy == NULL) {
        return -ENOMEM;
    }
    memcpy(copy, bytes, size);
    int error = pctr_plan_open(&view, copy, size, 0);
    if (error < 0) {
        free(copy);
        return error;
    }
    *kept = copy;
    *kept_size = size;
    return 0;
}

static int
open_target(const struct pctr_request *request)
{
    struct pctr_job *target = pctr_job_by_id(request->target);

    if (target == NULL || target->pid == 0) {
        return -ESRCH;
    }
    return pctr_result(syscall(SYS_pidfd_open, target->pid, 0));
}

static int
fail(struct pctr_job *job, enum pctr_stage stage, int error)
{
    job->record.stage = stage;
    job->record.op = -1;
    job->record.error = -error;
    return error;
}

/* The operation that makes a network namespace, or NULL. */
static const struct pctr_op *
network_of(const struct pctr_plan_view *plan)
{
    for (unsigned i = 0; i < plan->nops; i++) {
        if (plan->ops[i].code == PCTR_OP_NETWORK) {
            return &plan->ops[i];
        }
    }
    return NULL;
}

/* What the root is made of; 0 where it is nobody else's, before or after. */
static uint64_t
stack_of(const struct pctr_plan_view *plan)
{
    for (unsigned i = 0; i < plan->nops; i++) {
        uint16_t code = plan->ops[i].code;
        if ((code == PCTR_OP_MOUNT || code == PCTR_OP_OVERLAY) && plan->ops[i].n2 != 0) {
            return plan->ops[i].n2;
        }
    }
    return 0;
}

/* While the container just cloned goes its way, the next one's network is made; not while others are
 * under way: then all processors are busy, and work done in advance would be in the way of theirs.  One
 * more than ever before is no such work, it will be used again and again. */
static void
refill_networks(const struct pctr_job *job)
{
    bool missed = job->unchanging && job->network.ns < 0;

    if (!missed && pctr_job_awaited(job)) {
        return;
    }
    pctr_netpool_refill(missed);
}

/* v1 control groups take a while to make; the child makes its mounts meanwhile. */
static void
prepare_beside(struct pctr_job *job, struct pctr_context *context)
{
    int error = pctr_ops_run(context, 0, context->plan.header->prepare);

    if (error >= 0) {
        error = pctr_groups_hand_over(job->report);
        if (error == -EPIPE || error == -ECONNRESET) {
            /* The child is gone, and has said why. */
            return;
        }
        if (error < 0) {
            fail(job, PCTR_STAGE_CLONE, error);
        }
    }
    else {
        (void)pctr_groups_hand_over(-1);
    }
    if (error < 0) {
        job->failed = true;
        (void)kill(job->pid, SIGKILL);
    }
}

/* Everything between a job's place in the table and its running child. */
static int
launch(struct pctr_job *job, struct pctr_spawn *spawn, const struct pctr_body *body)
{
    const struct pctr_request *request = spawn->request;
    struct pctr_context *context = &spawn->context;
    int pair[2];

    int error = keep_cleanup(&job->cleanup, &job->cleanup_size, body->bytes + request->plan_size,
                             request->cleanup_size);
    if (error >= 0) {
        error = pctr_plan_open(&context->plan, body->bytes, request->plan_size, context->nfds);
    }
    if (error < 0) {
        return fail(job, PCTR_STAGE_REQUEST, error);
    }
    PCTR_AUTO_FD target = request->target != 0 ? open_target(request) : -1;
    if (request->target != 0 && target < 0) {
        return fail(job, PCTR_STAGE_TARGET, target);
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return fail(job, PCTR_STAGE_CLONE, -errno);
    }
    job->report = pair[0];
    PCTR_AUTO_FD report = pair[1];
    const struct pctr_op *network = network_of(&context->plan);
    if (network != NULL) {
        job->unchanging = network->n1 != 0 && !(request->flags & PCTR_START_REPORT);
        pctr_netpool_take(&job->network, job->unchanging);
    }
    job->stack = stack_of(&context->plan);
    context->kept_root = pctr_cleanup_reuse(job->cleanup, job->cleanup_size, job->stack);
    context->target = target;
    context->report = report;
    context->network = job->network.ns;
    context->crowded = pctr_job_awaited(job);
    pid_t pid = pctr_spawn(spawn);
    pctr_close(&context->cgroup);
    pctr_close(&context->kept_root);
    if (pid < 0) {
        return pid;
    }
    job->pid = pid;
    if (request->flags & PCTR_START_BESIDE) {
        prepare_beside(job, context);
    }
    if (network != NULL) {
        refill_networks(job);
    }
    return 0;
}

/* Only who was promised a record before the exit makes us wake up for it. */
static bool
watched(const struct pctr_job *job)
{
    return (job->flags & PCTR_START_REPORT) || pctr_job_joined(job);
}

static int
watch_report(const struct pctr_job *job)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = job->id};

    if (!watched(job)) {
        return 0;
    }
    return pctr_result(epoll_ctl(state.epoll, EPOLL_CTL_ADD, job->report, &event));
}

/* A request that cannot even become a job. */
static void
refuse(int channel, int error)
{
    struct pctr_record record = {
        .kind = PCTR_RECORD_FAILED, .stage = PCTR_STAGE_REQUEST, .op = -1, .error = error};

    (void)pctr_send_fds(channel, &record, sizeof record, NULL, 0, MSG_DONTWAIT);
}

/* `message` is a struct pctr_request with what follows it. */
static void
start(char *message, size_t got, int *fds, unsigned count)
{
    const struct pctr_request *request = (const struct pctr_request *)(const void *)message;
    bool ready = request->flags & PCTR_START_READY;
    struct pctr_body body = {NULL, 0};
    unsigned first = 0;

    if (count == 0 && !ready) {
        return;
    }
    struct pctr_job *job = pctr_job_new(request->job);
    if (job == NULL) {
        if (!ready) {
            refuse(fds[0], EAGAIN);
        }
        return;
    }
    job->flags = request->flags;
    if (!ready) {
        job->channel = pctr_steal_fd(&fds[first++]);
    }
    if ((request->flags & PCTR_START_HOLD) && first < count) {
        job->held = pctr_steal_fd(&fds[first++]);
    }
    unsigned given = count - first;
    job->linked = pctr_any_socket(fds + first, given);
    int error = pctr_body_open(&body, message, got, fds + first, &given);
    if (error < 0) {
        fail(job, PCTR_STAGE_REQUEST, error);
    }
    else {
        struct pctr_spawn spawn = {.request = request, .own_pidns = state.own_pidns};
        spawn.context = (struct pctr_context){.fds = fds + first,
                                              .nfds = given,
                                              .root = -1,
                                              .target = -1,
                                              .cgroup = -1,
                                              .supervisor = state.own_pidfd,
                                              .report = -1,
                                              .network = -1,
                                              .kept_root = -1,
                                              .terminal = -1,
                                              .record = &job->record};
        error = launch(job, &spawn, &body);
    }
    pctr_body_close(&body);
    if (error < 0) {
        job->failed = true;
        pctr_job_ended(job);
    }
    else if (ready) {
        pctr_ready_began(job);
    }
    else if (watch_report(job) < 0) {
        (void)kill(job->pid, SIGKILL);
    }
}

static void
start_ready(void)
{
    size_t got;
    int held;

    char *message = pctr_ready_due(&got, &held);
    if (message != NULL) {
        start(message, got, &held, held >= 0 ? 1 : 0);
        pctr_close(&held);
    }
}

static void
hello(const struct pctr_request *request, size_t got, int *fds, unsigned count)
{
    struct pctr_record record = {.kind = PCTR_RECORD_HELLO, .pid = getpid()};

    if (count == 0) {
        return;
    }
    if (request->version != PCTR_PROTOCOL_VERSION ||
        got != sizeof *request + request->cleanup_size) {
        record.kind = PCTR_RECORD_FAILED;
        record.error = EPROTO;
        record.stage = PCTR_STAGE_REQUEST;
    }
    else {
        free(state.final);
        state.final = NULL;
        int error = keep_cleanup(&state.final, &state.final_size, buffer + sizeof *request,
                                 request->cleanup_size);
        if (error < 0) {
            record.kind = PCTR_RECORD_FAILED;
            record.error = -error;
            record.stage = PCTR_STAGE_REQUEST;
        }
        if (count > 1) {
            pctr_close(&state.held);
            state.held = pctr_steal_fd(&fds[1]);
        }
    }
    (void)pctr_send_fds(fds[0], &record, sizeof record, NULL, 0, MSG_DONTWAIT);
}

static void
take_request(void)
{
    const struct pctr_request *request = (const struct pctr_request *)(const void *)buffer;
    int fds[PCTR_MAX_FDS];
    unsigned count = PCTR_MAX_FDS;

    /* A message's first descriptor is the one to answer on, so there is always room for that. */
    pctr_close(&state.spare);
    ssize_t got = pctr_receive_fds(PCTR_FD_HOST, buffer, sizeof buffer, fds, &count, MSG_DONTWAIT);
    state.spare = fcntl(PCTR_FD_HOST, F_DUPFD_CLOEXEC, 0);
    if (count > 0 && (got == -EMFILE || state.spare < 0)) {
        refuse(fds[0], EMFILE);
        got = -EMFILE;
    }
    if (got == 0 || got == -ECONNRESET) {
        state.leaving = true;
        return;
    }
    if (got >= (ssize_t)sizeof *request) {
        switch ((enum pctr_verb)request->verb) {
        case PCTR_VERB_HELLO:
            hello(request, (size_t)got, fds, count);
            break;
        case PCTR_VERB_USERNS:
            pctr_userns_enter(buffer + sizeof *request, (size_t)got - sizeof *request, fds, count);
            break;
        case PCTR_VERB_START:
            if (request->flags & PCTR_START_READY) {
                pctr_ready_keep(buffer, (size_t)got, fds, count);
            }
            else if (!pctr_ready_go(buffer, (size_t)got, fds, count)) {
                start(buffer, (size_t)got, fds, count);
            }
            break;
        case PCTR_VERB_SIGNAL: {
            struct pctr_job *job = pctr_job_by_id(request->job);
            if (job != NULL) {
                /* ESRCH: it ended meanwhile, and the record of that is on its way. */
                (void)pctr_job_signal(job, request->signal);
            }
            break;
        }
        }
    }
    while (count > 0) {
        pctr_close(&fds[--count]);
    }
    if (state.spare < 0) {
        state.spare = fcntl(PCTR_FD_HOST, F_DUPFD_CLOEXEC, 0);
    }
}

static void
child_ended(struct pctr_job *job, int status, const struct rusage *usage)
{
    uint64_t now = pctr_now_ns();

    (void)pctr_job_read_report(job);
    if (watched(job)) {
        /* ENOENT: its end of file was seen before. */
        (void)epoll_ctl(state.epoll, EPOLL_CTL_DEL, job->report, NULL);
    }
    struct pctr_record *record = &job->record;
    if (!job->reported) {
        record->exited_ns = now;
        record->status = status;
    }
    if (record->started_ns == 0) {
        record->started_ns = job->began_ns;
    }
    if (!pctr_job_joined(job) || !job->reported) {
        pctr_record_usage(record, usage);
    }
    pctr_job_ended(job);
}

static void
reap(int signals)
{
    struct signalfd_siginfo ignored;
    struct rusage usage;
    int status;
    pid_t pid;

    /* One record stands for any number of ended children. */
    while (read(signals, &ignored, sizeof ignored) > 0) {
    }
    while ((pid = wait4(-1, &status, WNOHANG | __WALL, &usage)) > 0) {
        struct pctr_job *job = pctr_job_by_pid(pid);
        if (job == NULL) {
            continue;
        }
        if (job->cleaner == pid) {
            pctr_job_cleaned(job);
        }
        else {
            child_ended(job, status, &usage);
        }
    }
}

static void
leave(void)
{
    for (struct pctr_job *job = pctr_job_next(NULL); job != NULL; job = pctr_job_next(job)) {
        if (job->pid != 0) {
            /* The direct child, whatever it is: PID 1 takes all with it, a reaper's program is
             * in some container that goes the same way, other work can be broken off. */
            (void)kill(job->pid, SIGKILL);
        }
    }
}

static int
watch(int fd, uint64_t data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = data};
    return pctr_result(epoll_ctl(state.epoll, EPOLL_CTL_ADD, fd, &event));
}

static void
watch_aside(void)
{
    int aside = pctr_aside_began();

    if (aside >= 0) {
        (void)watch(aside, EVENT_ASIDE);
    }
}

static void
handle(uint64_t event, int signals)
{
    if (event == EVENT_REQUEST) {
        take_request();
    }
    else if (event == EVENT_HOST_GONE) {
        state.leaving = true;
    }
    else if (event == EVENT_CHILD) {
        reap(signals);
    }
    else if (event == EVENT_ASIDE) {
        pctr_aside_receive();
    }
    else {
        struct pctr_job *job = pctr_job_by_id(event);
        if (job != NULL) {
            if (pctr_job_read_report(job)) {
                (void)epoll_ctl(state.epoll, EPOLL_CTL_DEL, job->report, NULL);
            }
            pctr_job_reported(job);
        }
    }
}

static int
prepare(int *signals)
{
    sigset_t child;

    (void)pctr_carrier_key();
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    state.epoll = epoll_create1(EPOLL_CLOEXEC);
    state.own_pidns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    state.own_pidfd = pctr_result(syscall(SYS_pidfd_open, getpid(), 0));
    *signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (state.epoll < 0 || state.own_pidns < 0 || state.own_pidfd < 0 || *signals < 0) {
        return -errno;
    }
    int error = watch(PCTR_FD_HOST, EVENT_REQUEST);
    if (error >= 0) {
        error = watch(PCTR_FD_HOST_PID, EVENT_HOST_GONE);
    }
    return error >= 0 ? watch(*signals, EVENT_CHILD) : error;
}

/* Of two times to wait, -1 for no end. */
static int
sooner(int one, int other)
{
    return other < 0 || (one >= 0 && one < other) ? one : other;
}

int
pctr_supervisor_run(void)
{
    struct epoll_event events[16];
    int signals;
    bool told = false;

    if (prepare(&signals) < 0) {
        return 1;
    }
    while (!state.leaving || pctr_job_next(NULL) != NULL) {
        int wait = sooner(pctr_job_hurry(), sooner(pctr_ready_wait(), pctr_spares_wait()));
        int count = epoll_wait(state.epoll, events, 16, wait);
        for (int i = 0; i < count; i++) {
            if (!state.leaving || events[i].data.u64 == EVENT_CHILD) {
                handle(events[i].data.u64, signals);
            }
        }
        if (!state.leaving) {
            start_ready();
            pctr_spares_due();
            watch_aside();
        }
        if (state.leaving && !told) {
            (void)epoll_ctl(state.epoll, EPOLL_CTL_DEL, PCTR_FD_HOST, NULL);
            (void)epoll_ctl(state.epoll, EPOLL_CTL_DEL, PCTR_FD_HOST_PID, NULL);
            leave();
            told = true;
        }
    }
    pctr_aside_end();
    pctr_cleanup_last(state.final, state.final_size);
    return 0;
}
