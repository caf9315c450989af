#include "nofile.h"

#include <sys/resource.h>

static struct rlimit original;
static int raised;

void
pctr_nofile_raise(void)
{
    struct rlimit most;

    if (getrlimit(RLIMIT_NOFILE, &original) < 0) {
        return;
    }
    most = original;
    most.rlim_cur = most.rlim_max;
    raised = setrlimit(RLIMIT_NOFILE, &most) == 0;
}

void
pctr_nofile_restore(void)
{
    if (raised) {
        /* Lowering a soft limit within the hard one cannot fail. */
        (void)setrlimit(RLIMIT_NOFILE, &original);
    }
}
