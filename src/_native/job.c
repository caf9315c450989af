#define _GNU_SOURCE
#include "job.h"

#include "aside.h"
#include "cleanup.h"
#include "init.h"
#include "ready.h"
#include "util.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Untouched places cost no memory: the array lies in zero pages until they are used. */
static struct pctr_job jobs[PCTR_MAX_JOBS];
static unsigned used; /* no job lies at or above this index */

struct pctr_job *
pctr_job_new(uint64_t id)
{
    unsigned i = 0;

    while (i < used && jobs[i].id != 0) {
        i++;
    }
    if (i == PCTR_MAX_JOBS) {
        return NULL;
    }
    if (i == used) {
        used++;
    }
    memset(&jobs[i], 0, sizeof jobs[i]);
    jobs[i].id = id;
    jobs[i].began_ns = pctr_now_ns();
    jobs[i].channel = -1;
    jobs[i].report = -1;
    jobs[i].mounts = -1;
    jobs[i].root = -1;
    jobs[i].held = -1;
    jobs[i].network = (struct pctr_network)PCTR_NO_NETWORK;
    return &jobs[i];
}

struct pctr_job *
pctr_job_next(const struct pctr_job *job)
{
    for (unsigned i = job == NULL ? 0 : (unsigned)(job - jobs) + 1; i < used; i++) {
        if (jobs[i].id != 0) {
            return &jobs[i];
        }
    }
    return NULL;
}

struct pctr_job *
pctr_job_by_id(uint64_t id)
{
    struct pctr_job *job = pctr_job_next(NULL);

    while (job != NULL && job->id != id) {
        job = pctr_job_next(job);
    }
    return job;
}

struct pctr_job *
pctr_job_by_pid(pid_t pid)
{
    struct pctr_job *job = pctr_job_next(NULL);

    while (job != NULL && job->pid != pid && job->cleaner != pid) {
        job = pctr_job_next(job);
    }
    return job;
}

enum { NOT_AWAITED = PCTR_START_REPORT | PCTR_START_READY | PCTR_START_SERVES };

bool
pctr_job_awaited(const struct pctr_job *but)
{
    for (struct pctr_job *job = pctr_job_next(NULL); job != NULL; job = pctr_job_next(job)) {
        if (job != but && !(job->flags & NOT_AWAITED)) {
            return true;
        }
    }
    return false;
}

void
pctr_job_free(struct pctr_job *job)
{
    pctr_close(&job->channel);
    pctr_close(&job->report);
    pctr_close(&job->held);
    pctr_aside_close(&job->mounts);
    pctr_aside_close(&job->root);
    pctr_netpool_return(&job->network, job->unchanging, pctr_job_awaited(job));
    free(job->cleanup);
    job->cleanup = NULL;
    job->id = 0;
    while (used > 0 && jobs[used - 1].id == 0) {
        used--;
    }
}

/* A client that closed its end does not want to know: nothing else can go wrong here, since a
 * channel holds fewer records than its buffer. */
static void
tell(const struct pctr_job *job, const void *data, size_t size)
{
    (void)pctr_send_fds(job->channel, data, size, NULL, 0, MSG_DONTWAIT);
}

static void
take_report(struct pctr_job *job, const struct pctr_record *news)
{
    switch ((enum pctr_record_kind)news->kind) {
    case PCTR_RECORD_STARTED:
        job->record.started_ns = news->started_ns;
        job->record.kind = PCTR_RECORD_STARTED;
        job->record.pid = job->pid;
        tell(job, &job->record, sizeof job->record);
        break;
    case PCTR_RECORD_FAILED:
        /* The first failure is the cause of what the child meets afterwards. */
        if (!job->failed) {
            job->record = *news;
            job->failed = true;
        }
        break;
    case PCTR_RECORD_EXITED:
        job->record.status = news->status;
        job->record.started_ns = news->started_ns;
        job->record.exited_ns = news->exited_ns;
        job->record.user_us = news->user_us;
        job->record.system_us = news->system_us;
        job->record.input_blocks = news->input_blocks;
        job->record.output_blocks = news->output_blocks;
        job->reported = true;
        break;
    case PCTR_RECORD_HELLO:
    case PCTR_RECORD_MOUNTS:
    case PCTR_RECORD_ROOT:
        break;
    }
}

bool
pctr_job_read_report(struct pctr_job *job)
{
    struct pctr_record news;

    for (;;) {
        int given = -1;
        unsigned count = 1;
        ssize_t got =
            pctr_receive_fds(job->report, &news, sizeof news, &given, &count, MSG_DONTWAIT);
        /* ECONNRESET, told once: the child ended without reading what was sent to it.  What it had
         * said before still comes. */
        if (got == -EINTR || got == -ECONNRESET) {
            continue;
        }
        if (given >= 0) {
            int *kept = news.kind == PCTR_RECORD_ROOT ? &job->root : &job->mounts;
            pctr_close(kept);
            *kept = given;
        }
        if (got == (ssize_t)sizeof news) {
            take_report(job, &news);
            continue;
        }
        if (got == -EAGAIN) {
            return false;
        }
        break;
    }
    /* End of file with nothing said: the program was executed without an init process.  Without the
     * promise of a record that is read after the program's end only. */
    if (!job->failed && !job->reported && job->record.started_ns == 0 &&
        !(job->flags & (PCTR_START_INIT | PCTR_START_WORK))) {
        struct pctr_record started = {.kind = PCTR_RECORD_STARTED, .started_ns = job->began_ns};
        if (job->flags & PCTR_START_REPORT) {
            started.started_ns = pctr_now_ns();
        }
        take_report(job, &started);
    }
    return true;
}

static struct {
    struct pctr_record record;
    char collected[PCTR_MAX_RECORD - sizeof(struct pctr_record)];
} message;

static void
collect(const struct pctr_job *job)
{
    message.record = job->record;
    message.record.kind = job->failed ? PCTR_RECORD_FAILED : PCTR_RECORD_EXITED;
    message.record.collected = pctr_cleanup_collect(job->cleanup, job->cleanup_size,
                                                    message.collected, sizeof message.collected);
}

static void
tell_final(struct pctr_job *job)
{
    tell(job, &message, sizeof message.record + message.record.collected);
    pctr_close(&job->channel);
    job->told = true;
}

/* Who is broken off, or cannot begin, will hardly be wanted again at once. */
static bool
went_well(const struct pctr_job *job)
{
    return !job->failed && WIFEXITED(job->record.status);
}

/* The final record comes after the cleaning up: what a client sees then is gone. */
static void
finish(struct pctr_job *job)
{
    if (!(job->flags & NOT_AWAITED)) {
        pctr_ready_after(went_well(job));
    }
    if (!job->told) {
        collect(job);
    }
    pctr_cleanup_run(job->cleanup, job->cleanup_size);
    if (!job->told) {
        tell_final(job);
    }
    pctr_job_free(job);
}

bool
pctr_job_joined(const struct pctr_job *job)
{
    return (job->flags & PCTR_START_INIT) && !(job->flags & PCTR_START_NEW_PIDNS);
}

void
pctr_job_reported(struct pctr_job *job)
{
    if (pctr_job_joined(job) && job->reported && !job->told) {
        collect(job);
        tell_final(job);
    }
}

void
pctr_job_ended(struct pctr_job *job)
{
    job->pid = 0;
    pctr_aside_close(&job->mounts);
    if (job->linked) {
        pctr_aside_close(&job->root);
    }
    job->cleaner = pctr_cleanup_trees(job->cleanup, job->cleanup_size,
                                      job->linked ? NULL : &job->root, job->stack);
    if (job->cleaner == 0) {
        finish(job);
    }
}

void
pctr_job_cleaned(struct pctr_job *job)
{
    job->cleaner = 0;
    finish(job);
}

/* How long a reaper may take to end its tree; a process in its container can stop it, or hold
 * a child of its back by tracing it. */
#define REAPER_NS 3000000000u
#define INIT_NS 300000000u

static bool hurrying;

void
pctr_job_kill_after(struct pctr_job *job, uint64_t ns)
{
    job->kill_ns = pctr_now_ns() + ns;
    hurrying = true;
}

void
pctr_job_kill(struct pctr_job *job)
{
    job->kill_ns = 0;
    if (job->flags & PCTR_START_READY) {
        job->failed = true;
    }
    if (job->pid != 0) {
        (void)kill(job->pid, SIGKILL);
    }
}

int
pctr_job_hurry(void)
{
    int wait = -1;

    if (!hurrying) {
        return wait;
    }
    for (struct pctr_job *job = pctr_job_next(NULL); job != NULL; job = pctr_job_next(job)) {
        if (job->pid == 0 || job->kill_ns == 0) {
            continue;
        }
        int left = pctr_ms_until(job->kill_ns);
        if (left == 0) {
            pctr_job_kill(job);
            continue;
        }
        wait = wait < 0 || left < wait ? left : wait;
    }
    hurrying = wait >= 0;
    return wait;
}

/* A process inside can send this signal too, with any sender's number in it, but not the key. */
static int
carry(const struct pctr_job *job, int signal)
{
    siginfo_t info;

    memset(&info, 0, sizeof info);
    info.si_code = SI_QUEUE;
    info.si_value.sival_ptr = (void *)(pctr_carrier_key() | (uintptr_t)signal);
    int result = pctr_result(syscall(SYS_rt_sigqueueinfo, job->pid, PCTR_CARRIER_SIGNAL, &info));
    /* EAGAIN: its user's queue is full, which anybody inside can bring about. */
    return result == -EAGAIN ? pctr_result(kill(job->pid, signal)) : result;
}

int
pctr_job_signal(struct pctr_job *job, int signal)
{
    if (job->pid == 0) {
        return -ESRCH;
    }
    if (!(job->flags & PCTR_START_INIT)) {
        return pctr_result(kill(job->pid, signal));
    }
    /* A reaper must end its tree itself.  PID 1 takes its namespace with it, but then the kernel
     * counts for nobody what those in there have used: it gets a moment to wait for them. */
    int result = carry(job, signal);
    if (signal == SIGKILL && job->kill_ns == 0) {
        (void)kill(job->pid, SIGCONT);
        pctr_job_kill_after(job, (job->flags & PCTR_START_NEW_PIDNS) ? INIT_NS : REAPER_NS);
    }
    return result;
}
