/* Frames that wait for their time, in one direction of one port. */
#ifndef PCTR_IMPAIR_QUEUE_H
#define PCTR_IMPAIR_QUEUE_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Precedes every frame (packet(7), PACKET_VNET_HDR); no part of what the rate is about. */
enum { PCTR_FRAME_HEAD = sizeof(struct virtio_net_hdr) };

/* How a port carries frames. */
struct pctr_impairment {
    uint64_t delay_ns;
    uint64_t jitter_ns;
    uint64_t rate;
    uint32_t loss;
};

struct pctr_frame {
    struct pctr_frame *next;
    uint64_t passed_ns;  /* when its last byte is through what limits the rate */
    uint64_t departs_ns; /* at the earliest: never before the one in front of it */
    uint32_t size;       /* with the head */
    unsigned char bytes[];
};

struct pctr_queue {
    struct pctr_frame *first;
    struct pctr_frame *last;
    uint64_t passed_ns; /* of the frame that was admitted last, as departs_ns */
    uint64_t departs_ns;
    size_t held;    /* memory of all frames, in bytes */
    unsigned place; /* among the queues that are not empty, from 1 on; 0: it is not there */
};

/* All queues of a process: what they hold together is bounded, and the one whose first frame departs
 * next is found at once. */
struct pctr_queues {
    struct pctr_queue **heap; /* room for every queue; the caller's */
    unsigned count;
    size_t held;
    uint64_t random;
};

/* Whether a frame that comes now is carried, and if so, when (`departs_ns` of the queue): it may be lost,
 * or there is no room left for it. */
bool pctr_queue_admits(struct pctr_queues *queues, struct pctr_queue *queue,
                       const struct pctr_impairment *how, uint32_t size, uint64_t now);
/* Appends a frame that was admitted; without memory for it, it is lost. */
void pctr_queue_append(struct pctr_queues *queues, struct pctr_queue *queue, const void *bytes,
                       uint32_t size);
/* The queue whose first frame departs next, or NULL. */
struct pctr_queue *pctr_queue_next(const struct pctr_queues *queues);
/* Takes away the first frame. */
void pctr_queue_drop(struct pctr_queues *queues, struct pctr_queue *queue);
/* The first frame stays until then, and with it those behind it. */
void pctr_queue_postpone(struct pctr_queues *queues, struct pctr_queue *queue, uint64_t until);
/* What waits is carried in another way from now on: nothing of it later than what would come now. */
void pctr_queue_retime(struct pctr_queues *queues, struct pctr_queue *queue,
                       const struct pctr_impairment *how, uint64_t now);
void pctr_queue_clear(struct pctr_queues *queues, struct pctr_queue *queue);

#endif
