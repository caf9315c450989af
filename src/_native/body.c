#include "body.h"

#include "protocol.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

int
pctr_body_open(struct pctr_body *body, char *message, size_t got, const int *fds, unsigned *count)
{
    const struct pctr_request *request = (const struct pctr_request *)(const void *)message;
    size_t size = (size_t)request->plan_size + request->cleanup_size;

    if (request->plan_size % 8 != 0 || size > PCTR_MAX_PLAN) {
        return -EBADMSG;
    }
    if (!(request->flags & PCTR_START_PLAN_IN_FD)) {
        body->bytes = message + sizeof *request;
        body->mapped = 0;
        return got == sizeof *request + size ? 0 : -EBADMSG;
    }
    if (*count == 0 || size == 0) {
        return -EBADMSG;
    }
    (*count)--;
    off_t length = lseek(fds[*count], 0, SEEK_END);
    if (length < 0 || (size_t)length < size) {
        return -EBADMSG;
    }
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[*count], 0);
    if (mapped == MAP_FAILED) {
        return -errno;
    }
    body->bytes = mapped;
    body->mapped = size;
    return 0;
}

void
pctr_body_close(const struct pctr_body *body)
{
    if (body->mapped != 0) {
        munmap(body->bytes, body->mapped);
    }
}
