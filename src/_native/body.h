/* The plans of a request: behind it in the same message, or in a descriptor of their own. */
#ifndef PCTR_BODY_H
#define PCTR_BODY_H

#include <stddef.h>

struct pctr_body {
    char *bytes;
    size_t mapped; /* how much to unmap, 0 for those in the message */
};

/* `message` is a struct pctr_request of `got` bytes with what follows it, 8-aligned; of the `count`
 * descriptors the last is taken off where the plans are in there.  Returns 0 or -errno. */
int pctr_body_open(struct pctr_body *body, char *message, size_t got, const int *fds,
                   unsigned *count);

/* The message and the descriptor stay the caller's. */
void pctr_body_close(const struct pctr_body *body);

#endif
