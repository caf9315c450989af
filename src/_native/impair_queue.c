/* Frames that wait: when each departs, and which is next.  A direction of a port is a line behind a router:
 * a queue that holds what the line takes in a second, then the line's rate, then its length. */
#define _GNU_SOURCE
#include "impair_queue.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_HELD = 64 << 20,
    MAX_HELD_PER_QUEUE = 16 << 20,
    OVERHEAD = sizeof(struct pctr_frame) + 2 * sizeof(size_t), /* with the allocator's own */
};

#define SECOND_NS UINT64_C(1000000000)

static uint64_t
later(uint64_t one, uint64_t other)
{
    return one > other ? one : other;
}

/* splitmix64 (Steele, Lea and Flood 2014): 32 bits of a 64 bit state that any seed is good for. */
static uint32_t
draw(struct pctr_queues *queues)
{
    uint64_t bits = queues->random += UINT64_C(0x9e3779b97f4a7c15);

    bits = (bits ^ (bits >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ (bits >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(bits >> 32);
}

/* What a frame takes once it is through: the same for all, and some more by chance. */
static uint64_t
travel_ns(struct pctr_queues *queues, const struct pctr_impairment *how)
{
    /* 36 bits hold a minute, and 24 more are left for chance. */
    uint64_t jitter_ns = how->jitter_ns == 0 ? 0 : (how->jitter_ns * (draw(queues) >> 8)) >> 24;

    return how->delay_ns + jitter_ns;
}

static uint64_t
through_ns(const struct pctr_impairment *how, uint32_t size)
{
    return how->rate == 0 ? 0 : (size - PCTR_FRAME_HEAD) * SECOND_NS / how->rate;
}

bool
pctr_queue_admits(struct pctr_queues *queues, struct pctr_queue *queue,
                  const struct pctr_impairment *how, uint32_t size, uint64_t now)
{
    size_t memory = size + (size_t)OVERHEAD;
    uint64_t begins = later(queue->passed_ns, now);

    if (how->loss != 0 && draw(queues) % UINT32_MAX < how->loss) {
        return false;
    }
    if (begins - now > SECOND_NS || queue->held + memory > MAX_HELD_PER_QUEUE ||
        queues->held + memory > MAX_HELD) {
        return false;
    }
    queue->passed_ns = begins + through_ns(how, size);
    queue->departs_ns = queue->passed_ns + travel_ns(queues, how);
    return true;
}

static uint64_t
time_of(const struct pctr_queues *queues, unsigned place)
{
    return queues->heap[place - 1]->first->departs_ns;
}

static void
put(struct pctr_queues *queues, unsigned place, struct pctr_queue *queue)
{
    queues->heap[place - 1] = queue;
    queue->place = place;
}

/* A binary heap: up and down, of which one moves nothing. */
static void
settle(struct pctr_queues *queues, unsigned place)
{
    struct pctr_queue *queue = queues->heap[place - 1];
    uint64_t time = queue->first->departs_ns;

    for (; place > 1 && time < time_of(queues, place / 2); place /= 2) {
        put(queues, place, queues->heap[place / 2 - 1]);
    }
    for (unsigned below = 2 * place; below <= queues->count; below = 2 * place) {
        below += below < queues->count && time_of(queues, below + 1) < time_of(queues, below);
        if (time <= time_of(queues, below)) {
            break;
        }
        put(queues, place, queues->heap[below - 1]);
        place = below;
    }
    put(queues, place, queue);
}

static void
leave_heap(struct pctr_queues *queues, struct pctr_queue *queue)
{
    unsigned place = queue->place;
    struct pctr_queue *last = queues->heap[--queues->count];

    queue->place = 0;
    if (last != queue) {
        put(queues, place, last);
        settle(queues, place);
    }
}

void
pctr_queue_append(struct pctr_queues *queues, struct pctr_queue *queue, const void *bytes,
                  uint32_t size)
{
    struct pctr_frame *frame = malloc(sizeof *frame + size);

    if (frame == NULL) {
        return;
    }
    frame->next = NULL;
    frame->passed_ns = queue->passed_ns;
    frame->departs_ns = queue->departs_ns;
    frame->size = size;
    memcpy(frame->bytes, bytes, size);
    queue->held += size + (size_t)OVERHEAD;
    queues->held += size + (size_t)OVERHEAD;
    if (queue->first != NULL) {
        queue->last->next = frame;
        queue->last = frame;
        return;
    }
    queue->first = queue->last = frame;
    put(queues, ++queues->count, queue);
    settle(queues, queue->place);
}

struct pctr_queue *
pctr_queue_next(const struct pctr_queues *queues)
{
    return queues->count > 0 ? queues->heap[0] : NULL;
}

void
pctr_queue_drop(struct pctr_queues *queues, struct pctr_queue *queue)
{
    struct pctr_frame *frame = queue->first;

    queue->held -= frame->size + (size_t)OVERHEAD;
    queues->held -= frame->size + (size_t)OVERHEAD;
    if (frame->next == NULL) {
        leave_heap(queues, queue);
    }
    queue->first = frame->next;
    free(frame);
    if (queue->first != NULL) {
        settle(queues, queue->place);
    }
}

void
pctr_queue_postpone(struct pctr_queues *queues, struct pctr_queue *queue, uint64_t until)
{
    queue->first->departs_ns = until;
    settle(queues, queue->place);
}

void
pctr_queue_retime(struct pctr_queues *queues, struct pctr_queue *queue,
                  const struct pctr_impairment *how, uint64_t now)
{
    queue->passed_ns = now;
    for (struct pctr_frame *frame = queue->first; frame != NULL; frame = frame->next) {
        if (frame->passed_ns > now) {
            frame->passed_ns = queue->passed_ns += through_ns(how, frame->size);
            frame->departs_ns = frame->passed_ns + travel_ns(queues, how);
        }
        else if (frame->departs_ns > now + how->delay_ns + how->jitter_ns) {
            frame->departs_ns = now + travel_ns(queues, how);
        }
    }
    if (queue->first != NULL) {
        settle(queues, queue->place);
    }
}

void
pctr_queue_clear(struct pctr_queues *queues, struct pctr_queue *queue)
{
    while (queue->first != NULL) {
        pctr_queue_drop(queues, queue);
    }
    queue->passed_ns = 0;
}
