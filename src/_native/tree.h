/* Removing a directory tree that an enemy has written. */
#ifndef PCTR_TREE_H
#define PCTR_TREE_H

#include <stdint.h>

struct pctr_tree_error {
    int32_t err; /* errno; EXDEV: a mount stands in the tree, and nothing beneath it was touched */
    /* Beneath the tree's own name, cut off in front when longer; empty for the tree itself. */
    char path[256];
    char what[64];
};

/* Removes parent_fd/name with everything in it: 0, also when there is nothing, or -1 with *error
 * filled.
 *
 * `name` is one component. No link is followed and no mount is entered. Any depth is removed with
 * at most 33 descriptors open and no memory but a static one (so: one removal at a time in a
 * process), by moving what lies deeper up to the top. Directories that shut their owner out are
 * opened up. Nobody may write to the tree meanwhile: that is safe, but may end in ENOTEMPTY; others
 * may remove it, too. After
 * a failure, or a death half-way, the same call goes on where it ended. */
int pctr_tree_remove(int parent_fd, const char *name, struct pctr_tree_error *error);

#endif
