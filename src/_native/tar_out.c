#define _GNU_SOURCE
#include "tar_out.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void
pctr_tar_out_begin(struct pctr_tar_out *out, int fd)
{
    out->fd = fd;
    out->err = 0;
    out->total = 0;
    out->have = 0;
}

int
pctr_tar_out_flush(struct pctr_tar_out *out)
{
    const unsigned char *at = out->bytes;

    while (out->have > 0) {
        ssize_t put = write(out->fd, at, out->have);
        if (put < 0 && errno != EINTR) {
            out->err = errno;
            return -1;
        }
        if (put > 0) {
            at += put;
            out->have -= (size_t)put;
        }
    }
    return 0;
}

unsigned char *
pctr_tar_out_room(struct pctr_tar_out *out, size_t *room)
{
    if (out->have == sizeof(out->bytes) && pctr_tar_out_flush(out) < 0) {
        return NULL;
    }
    *room = sizeof(out->bytes) - out->have;
    return out->bytes + out->have;
}

void
pctr_tar_out_filled(struct pctr_tar_out *out, size_t size)
{
    out->have += size;
    out->total += size;
}

/* Puts what `data` holds, or zeros where it is NULL. */
static int
put(struct pctr_tar_out *out, const unsigned char *data, size_t size)
{
    while (size > 0) {
        size_t room;
        unsigned char *to = pctr_tar_out_room(out, &room);
        if (to == NULL) {
            return -1;
        }
        size_t part = size < room ? size : room;
        if (data == NULL) {
            memset(to, 0, part);
        }
        else {
            memcpy(to, data, part);
            data += part;
        }
        pctr_tar_out_filled(out, part);
        size -= part;
    }
    return 0;
}

int
pctr_tar_out_put(struct pctr_tar_out *out, const void *data, size_t size)
{
    return put(out, data, size);
}

int
pctr_tar_out_zeros(struct pctr_tar_out *out, size_t size)
{
    return put(out, NULL, size);
}
