/* A stream that is written in large pieces. */
#ifndef PCTR_TAR_OUT_H
#define PCTR_TAR_OUT_H

#include <stddef.h>
#include <stdint.h>

#define PCTR_TAR_OUT_BUFFER (256u << 10)

struct pctr_tar_out {
    int fd;
    int err;        /* errno of the write that failed, or 0 */
    uint64_t total; /* bytes put so far */
    size_t have;
    unsigned char bytes[PCTR_TAR_OUT_BUFFER];
};

/* A stream to `fd`, which stays the caller's. The buffer is left as it is. */
void pctr_tar_out_begin(struct pctr_tar_out *out, int fd);

/* Each gives 0, or -1 with `err` set. */
int pctr_tar_out_put(struct pctr_tar_out *out, const void *data, size_t size);
int pctr_tar_out_zeros(struct pctr_tar_out *out, size_t size);
int pctr_tar_out_flush(struct pctr_tar_out *out);

/* Where the next bytes belong, and how many fit there (at least one): whoever has them from elsewhere
 * puts them there and calls `filled`. NULL with `err` set. */
unsigned char *pctr_tar_out_room(struct pctr_tar_out *out, size_t *room);
void pctr_tar_out_filled(struct pctr_tar_out *out, size_t size);

#endif
