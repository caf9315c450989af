#define _GNU_SOURCE
#include "ready.h"

#include "cleanup.h"
#include "util.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    _Alignas(16) char message[sizeof(struct pctr_request) + PCTR_MAX_INLINE];
    size_t size; /* 0: nothing is kept */
    int held;
    uint64_t due_ns; /* when it is begun if nobody asks for anything; 0: not known yet */
} kept = {.held = -1};

/* What is done in the first moment after a program's end is in the way of who starts the next one right
 * away; he asks for it AT_ONCE. */
#define IDLE_NS 1000000u
/* Who waits this long for a program will not mind a millisecond. */
#define BESIDE_NS 10000000000u

static const struct pctr_request *
request_of(const char *message)
{
    return (const struct pctr_request *)(const void *)message;
}

static void
drop(void)
{
    if (kept.size != 0) {
        const struct pctr_request *request = request_of(kept.message);
        pctr_cleanup_last(kept.message + sizeof *request + request->plan_size,
                          request->cleanup_size);
        kept.size = 0;
        pctr_close(&kept.held);
    }
}

/* Here and now: who asks next may use the same names. */
static void
end_now(struct pctr_job *job)
{
    pctr_job_kill(job);
    for (pid_t child = job->pid != 0 ? job->pid : job->cleaner; child != 0; child = 0) {
        while (waitpid(child, NULL, __WALL) < 0 && errno == EINTR) {
        }
    }
    pctr_cleanup_last(job->cleanup, job->cleanup_size);
    pctr_job_free(job);
}

static bool
waits(const struct pctr_job *job)
{
    return (job->flags & PCTR_START_READY) != 0;
}

/* What is kept, and what is set up. */
static void
drop_all(void)
{
    drop();
    for (struct pctr_job *job = pctr_job_next(NULL); job != NULL; job = pctr_job_next(job)) {
        if (waits(job)) {
            pctr_job_kill(job);
        }
    }
}

void
pctr_ready_keep(const char *message, size_t got, int *fds, unsigned count)
{
    const struct pctr_request *request = request_of(message);

    drop_all();
    if ((request->flags & PCTR_START_PLAN_IN_FD) || request->plan_size % 8 != 0 ||
        got != sizeof *request + (size_t)request->plan_size + request->cleanup_size) {
        return;
    }
    memcpy(kept.message, message, got);
    kept.size = got;
    kept.held = count > 0 ? pctr_steal_fd(&fds[0]) : -1;
}

int
pctr_ready_wait(void)
{
    if (kept.size != 0 && (request_of(kept.message)->flags & PCTR_START_AT_ONCE)) {
        return 0;
    }
    if (kept.size == 0 || pctr_job_awaited(NULL)) {
        kept.due_ns = 0;
        return -1;
    }
    if (kept.due_ns == 0) {
        kept.due_ns = pctr_now_ns() + IDLE_NS;
    }
    return pctr_ms_until(kept.due_ns);
}

char *
pctr_ready_due(size_t *got, int *held)
{
    if (pctr_ready_wait() != 0) {
        return NULL;
    }
    *got = kept.size;
    *held = pctr_steal_fd(&kept.held);
    kept.size = 0;
    return kept.message;
}

void
pctr_ready_began(struct pctr_job *job)
{
    pctr_job_kill_after(job, pctr_job_awaited(NULL) ? BESIDE_NS : PCTR_READY_NS);
}

void
pctr_ready_after(bool well)
{
    if (!well) {
        drop_all();
    }
    for (struct pctr_job *job = pctr_job_next(NULL); job != NULL; job = pctr_job_next(job)) {
        if (well && waits(job)) {
            pctr_job_kill_after(job, PCTR_READY_NS);
        }
    }
}

bool
pctr_ready_go(const char *message, size_t got, int *fds, unsigned count)
{
    const struct pctr_request *request = request_of(message);
    unsigned first = (request->flags & PCTR_START_HOLD) ? 2 : 1;

    if (kept.size != 0 && request_of(kept.message)->job == request->job) {
        /* Asked for before it was begun: its names are the request's. */
        kept.size = 0;
        pctr_close(&kept.held);
        return false;
    }
    struct pctr_job *job = pctr_job_by_id(request->job);
    if (job == NULL || !waits(job)) {
        return false;
    }
    if (job->failed || job->pid == 0 || count < first ||
        pctr_send_fds(job->report, message, got, fds + first, count - first, MSG_DONTWAIT) < 0) {
        end_now(job);
        return false;
    }
    job->channel = pctr_steal_fd(&fds[0]);
    job->linked = pctr_any_socket(fds + first, count - first);
    job->flags = request->flags;
    job->kill_ns = 0;
    job->began_ns = pctr_now_ns();
    return true;
}
