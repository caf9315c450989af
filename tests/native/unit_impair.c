/* Queues of frames against what is expected of them, by chance: unit_impair SEED TURNS */
#define _GNU_SOURCE
#include "impair_queue.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUES = 37, SECOND = 1000000000 };

static struct pctr_queue queues[QUEUES];
static struct pctr_queue *heap[QUEUES];
static struct pctr_queues all = {.heap = heap};
static struct pctr_impairment how[QUEUES];
static unsigned char bytes[1 << 16];
static uint64_t now = SECOND;

/* The first frame that departs is found, and every byte is accounted for. */
static void
check(void)
{
    struct pctr_queue *next = pctr_queue_next(&all);
    size_t held = 0;
    unsigned waiting = 0;

    for (unsigned i = 0; i < QUEUES; i++) {
        held += queues[i].held;
        assert((queues[i].first == NULL) == (queues[i].held == 0));
        assert((queues[i].first == NULL) == (queues[i].place == 0));
        if (queues[i].first != NULL) {
            waiting++;
            assert(next->first->departs_ns <= queues[i].first->departs_ns);
            assert(heap[queues[i].place - 1] == &queues[i]);
        }
    }
    assert(all.held == held && all.count == waiting);
}

static void
arrive(unsigned i)
{
    uint32_t size = PCTR_FRAME_HEAD + 14 + (uint32_t)random() % (random() % 8 == 0 ? 65000 : 1500);

    memcpy(bytes, &i, sizeof i);
    if (!pctr_queue_admits(&all, &queues[i], &how[i], size, now)) {
        return;
    }
    uint64_t least = now + how[i].delay_ns;
    uint64_t through = how[i].rate == 0 ? 0
                                        : (size - PCTR_FRAME_HEAD) * (uint64_t)SECOND / how[i].rate;
    assert(queues[i].departs_ns >= least + through);
    /* At most a second of others is in front of it. */
    assert(queues[i].departs_ns <= least + SECOND + through + how[i].jitter_ns);
    pctr_queue_append(&all, &queues[i], bytes, size);
    assert(queues[i].last->size == size);
}

static void
depart(void)
{
    struct pctr_queue *queue;
    unsigned from;

    while ((queue = pctr_queue_next(&all)) != NULL && queue->first->departs_ns <= now) {
        memcpy(&from, queue->first->bytes, sizeof from);
        assert(&queues[from] == queue);
        if (random() % 8 == 0) {
            pctr_queue_postpone(&all, queue, now + 100000);
            assert(queue->first->departs_ns == now + 100000);
        }
        else {
            pctr_queue_drop(&all, queue);
        }
    }
}

static void
change(unsigned i)
{
    static const uint64_t rates[] = {0, 1000, 1000000, 1000000000};

    how[i] = (struct pctr_impairment){.delay_ns = (uint64_t)random() % SECOND,
                                      .jitter_ns = (uint64_t)random() % SECOND,
                                      .rate = rates[random() % 4],
                                      .loss = (uint32_t)random() % 4 == 0 ? 1u << 30 : 0};
    pctr_queue_retime(&all, &queues[i], &how[i], now);
    for (struct pctr_frame *frame = queues[i].first; frame != NULL; frame = frame->next) {
        uint64_t through = frame->passed_ns > now ? frame->passed_ns - now : 0;
        assert(frame->departs_ns <= now + through + how[i].delay_ns + how[i].jitter_ns);
    }
}

int
main(int argc, char **argv)
{
    if (argc != 3) {
        return 100;
    }
    srandom((unsigned)atoi(argv[1]));
    all.random = (uint64_t)random();
    for (int turn = atoi(argv[2]); turn > 0; turn--) {
        unsigned i = (unsigned)random() % QUEUES;
        switch (random() % 32) {
        case 0:
            change(i);
            break;
        case 1:
            pctr_queue_clear(&all, &queues[i]);
            break;
        case 2:
            now += (uint64_t)random() % (SECOND / 2);
            depart();
            break;
        default:
            arrive(i);
            break;
        }
        check();
    }
    for (unsigned i = 0; i < QUEUES; i++) {
        pctr_queue_clear(&all, &queues[i]);
    }
    check();
    assert(all.held == 0);
    return 0;
}
