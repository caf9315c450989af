/* Small helpers that both halves and every operation share. */
#ifndef PCTR_UTIL_H
#define PCTR_UTIL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A descriptor that closes itself when its scope ends; PCTR_STEAL_FD hands it on. */
#define PCTR_AUTO_FD __attribute__((cleanup(pctr_close_scope))) int

void pctr_close(int *fd);

static inline void
pctr_close_scope(int *fd)
{
    pctr_close(fd);
}

static inline int
pctr_steal_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

/* Calls return 0 or a positive value on success and -errno on failure. */
static inline int
pctr_result(long value)
{
    return value < 0 ? -errno : (int)value;
}

uint64_t pctr_now_ns(void);
/* How long epoll_wait(2) may wait for that time; 0: it has come. */
int pctr_ms_until(uint64_t ns);

/* openat2(2); every descriptor is close-on-exec. */
int pctr_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

/* One message with descriptors.  Sending retries after EINTR; receiving marks close-on-exec, and
 * gives -EMFILE and the first descriptor (if that) where there were not enough free for all. */
int pctr_send_fds(int sock, const void *data, size_t size, const int *fds, unsigned count,
                  int flags);
ssize_t pctr_receive_fds(int sock, void *data, size_t size, int *fds, unsigned *count, int flags);

/* Whether a socket is among them. */
bool pctr_any_socket(const int *fds, unsigned count);

/* Writes all of it with one write(2): control files take a value whole or not at all. */
int pctr_write_file(const char *path, const void *data, size_t size);

/* Closes every descriptor but those listed (in any order; -1 entries are skipped). */
int pctr_close_all_but(const int *keep, unsigned count);

struct pctr_record;
struct rusage;

/* What a process used, as getrusage(2) or wait4(2) tell it. */
void pctr_record_usage(struct pctr_record *record, const struct rusage *usage);

/* Every signal's default disposition. */
void pctr_default_signals(void);

void pctr_copy_text(char *to, size_t size, const char *from);

#endif
