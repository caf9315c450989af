/* A container's root, mounted once and used by one container after another as long as nobody writes to it
 * (spares.h): in the child that puts a container together. */
#ifndef PCTR_KEPT_ROOT_H
#define PCTR_KEPT_ROOT_H

#include "ops.h"

/* Moves the one that came along for `op` to the open `target`: 1, or 0 where none did, or -errno. */
int pctr_kept_root_move(struct pctr_context *context, const struct pctr_op *op, int target);

/* Gives the supervisor what `op` has mounted, if that may be another's afterwards; 0.  Where it cannot be had,
 * the next one's is mounted anew. */
int pctr_kept_root_give(const struct pctr_context *context, const struct pctr_op *op);

#endif
