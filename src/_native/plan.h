/* A received plan: checked as a whole before anything of it is done, then only read. */
#ifndef PCTR_PLAN_H
#define PCTR_PLAN_H

#include "protocol.h"

#include <stddef.h>

struct pctr_plan_view {
    const struct pctr_plan *header;
    const struct pctr_op *ops;
    char *data; /* writable: EXEC builds its pointer arrays in place */
    unsigned nops;
};

/* Returns 0 or -errno; `bytes` must be 8-aligned and stay valid as long as the view. */
int pctr_plan_open(struct pctr_plan_view *view, char *bytes, size_t size, unsigned nfds);

static inline const char *
pctr_plan_text(const struct pctr_plan_view *view, uint32_t offset)
{
    return view->data + offset;
}

#endif
