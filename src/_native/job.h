/* The jobs under way: containers, programs that joined one, and work on trees. */
#ifndef PCTR_JOB_H
#define PCTR_JOB_H

#include "netpool.h"
#include "plan.h"

#include <stdbool.h>
#include <sys/types.h>

struct pctr_job {
    uint64_t id;   /* the client's number; 0: this place is free */
    pid_t pid;     /* the child, not yet reaped; 0 once it is */
    pid_t cleaner; /* the child that removes what it left, or 0 */
    uint32_t flags;
    int channel; /* records go out here */
    int report;  /* records of the child come in here */
    int mounts;  /* its mount namespace, which goes when this is closed, or -1 */
    int root;    /* its root, for the next one, or -1 */
    int held;    /* a lock of the client's, or -1 */
    bool failed; /* `record` says why, and is final */
    uint64_t
        kill_ns; /* when a child that still lives is killed, or 0: a reaper that does not end its
                       * tree, a container set up in advance that nobody wants */
    uint64_t began_ns; /* for a program whose own start nobody watched, or lived to tell */
    bool told;         /* the client has the final record; what it left behind lives on */
    bool reported;     /* the init process has said how its program ended */
    bool unchanging;   /* nothing in it may change its network */
    bool
        linked; /* it was given a socket: what it had opened may be somebody else's, too (unix(7)) */
    uint64_t stack;              /* what its root is made of; 0: that is nobody else's */
    struct pctr_network network; /* lent to it by the pool */
    char *cleanup;               /* plan to run after the exit; malloc'd */
    size_t cleanup_size;
    struct pctr_record record;
};

/* NULL when all places are taken. */
struct pctr_job *pctr_job_new(uint64_t id);
struct pctr_job *pctr_job_by_id(uint64_t id);
struct pctr_job *pctr_job_by_pid(pid_t pid);
/* Iteration: the next job that is under way after `job` (NULL: the first), or NULL. */
struct pctr_job *pctr_job_next(const struct pctr_job *job);
/* Whether somebody waits for the end of another job than `but` (NULL for none). */
bool pctr_job_awaited(const struct pctr_job *but);
void pctr_job_free(struct pctr_job *job);

/* Takes in what the child has reported so far; true when it will report no more. */
bool pctr_job_read_report(struct pctr_job *job);
/* Whether it is a program in another job's container, below a reaper of its own. */
bool pctr_job_joined(const struct pctr_job *job);
/* After each reading: a program that joined a container is over when its reaper says so. */
void pctr_job_reported(struct pctr_job *job);
/* The child is gone: runs the cleanup plan, tells the client, and frees the job, at once or
 * when the cleaner is done too. */
void pctr_job_ended(struct pctr_job *job);
void pctr_job_cleaned(struct pctr_job *job);
/* Delivers a signal as the client means it; SIGKILL ends all that the job started. */
int pctr_job_signal(struct pctr_job *job, int signal);
/* Kills its child, now or in `ns` if that is not called off (`kill_ns` = 0).  What was set up in
 * advance takes no program from then on. */
void pctr_job_kill(struct pctr_job *job);
void pctr_job_kill_after(struct pctr_job *job, uint64_t ns);
/* Kills those whose time has come.  Milliseconds until the next one's, -1 for none. */
int pctr_job_hurry(void);

#endif
