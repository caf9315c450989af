#include "ops.h"

#include <errno.h>

int
pctr_op_forward(struct pctr_context *context, const struct pctr_op *op)
{
    (void)context;
    (void)op;
    return -ENOSYS;
}
