#define _GNU_SOURCE
#include "util.h"

#include "protocol.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

void
pctr_close(int *fd)
{
    /* close(2) frees the descriptor even when it fails, so there is nothing to repeat. */
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

uint64_t
pctr_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int
pctr_ms_until(uint64_t ns)
{
    uint64_t now = pctr_now_ns();

    return ns <= now ? 0 : (int)((ns - now) / 1000000u) + 1;
}

int
pctr_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    long fd;

    /* EAGAIN: a rename raced with the resolution of ".."; it does so again only under attack. */
    for (int tries = 0; tries < 100; tries++) {
        fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) {
            break;
        }
    }
    return pctr_result(fd);
}

int
pctr_send_fds(int sock, const void *data, size_t size, const int *fds, unsigned count, int flags)
{
    union {
        char buffer[CMSG_SPACE(sizeof(int) * PCTR_MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t sent;

    if (count > PCTR_MAX_FDS) {
        return -EMFILE;
    }
    if (count > 0) {
        memset(control.buffer, 0, CMSG_SPACE(sizeof(int) * count));
        message.msg_control = control.buffer;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
    }
    do {
        sent = sendmsg(sock, &message, flags | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

ssize_t
pctr_receive_fds(int sock, void *data, size_t size, int *fds, unsigned *count, int flags)
{
    union {
        char buffer[CMSG_SPACE(sizeof(int) * PCTR_MAX_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.buffer,
                             .msg_controllen = sizeof control.buffer};
    unsigned room = *count;

    *count = 0;
    ssize_t got = recvmsg(sock, &message, flags | MSG_CMSG_CLOEXEC);
    if (got < 0) {
        return -errno;
    }
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (*count < room) {
                fds[(*count)++] = fd;
            }
            else {
                close(fd);
            }
        }
    }
    if (message.msg_flags & MSG_TRUNC) {
        while (*count > 0) {
            close(fds[--*count]);
        }
        return -EMSGSIZE;
    }
    if (message.msg_flags & MSG_CTRUNC) {
        /* No descriptors were left, and the kernel dropped what did not fit: the first came first. */
        while (*count > 1) {
            close(fds[--*count]);
        }
        return -EMFILE;
    }
    return got;
}

bool
pctr_any_socket(const int *fds, unsigned count)
{
    struct stat status;

    for (unsigned i = 0; i < count; i++) {
        if (fstat(fds[i], &status) == 0 && S_ISSOCK(status.st_mode)) {
            return true;
        }
    }
    return false;
}

int
pctr_write_file(const char *path, const void *data, size_t size)
{
    PCTR_AUTO_FD fd = pctr_result(open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
    if (fd < 0) {
        return fd;
    }
    ssize_t wrote = write(fd, data, size);
    if (wrote < 0) {
        return -errno;
    }
    return (size_t)wrote == size ? 0 : -EIO;
}

int
pctr_close_all_but(const int *keep, unsigned count)
{
    unsigned from = 0;

    for (;;) {
        unsigned next = UINT_MAX;
        for (unsigned i = 0; i < count; i++) {
            if (keep[i] >= 0 && (unsigned)keep[i] >= from && (unsigned)keep[i] < next) {
                next = (unsigned)keep[i];
            }
        }
        if (next > from) {
            unsigned last = next == UINT_MAX ? UINT_MAX : next - 1;
            if (syscall(SYS_close_range, from, last, 0) < 0) {
                return -errno;
            }
        }
        if (next == UINT_MAX) {
            return 0;
        }
        from = next + 1;
    }
}

static uint64_t
microseconds(const struct timeval *time)
{
    return (uint64_t)time->tv_sec * 1000000u + (uint64_t)time->tv_usec;
}

void
pctr_record_usage(struct pctr_record *record, const struct rusage *usage)
{
    record->user_us = microseconds(&usage->ru_utime);
    record->system_us = microseconds(&usage->ru_stime);
    record->input_blocks = (uint64_t)usage->ru_inblock;
    record->output_blocks = (uint64_t)usage->ru_oublock;
}

void
pctr_default_signals(void)
{
    /* struct sigaction of the kernel: SIG_DFL, no flags, no mask.  libc's sigaction(3) refuses the
     * two signals that it keeps for itself, which may be ignored all the same. */
    static const unsigned long plain[8];

    for (int number = 1; number < _NSIG; number++) {
        /* EINVAL for KILL and STOP: they have no disposition. */
        (void)syscall(SYS_rt_sigaction, number, plain, NULL, sizeof(uint64_t));
    }
}

void
pctr_copy_text(char *to, size_t size, const char *from)
{
    size_t length = strnlen(from, size - 1);
    memcpy(to, from, length);
    to[length] = '\0';
}
