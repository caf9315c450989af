/* What a container's writable layer says about the layers below it.
 *
 * The upper directory is walked, and what it has is looked up by name in the layers below it, mounted
 * as one tree: so this takes time for what changed only. */
#ifndef PCTR_CHANGES_H
#define PCTR_CHANGES_H

#include "tar_write.h"

enum pctr_changes_flags {
    /* Overlay's attributes are user.overlay.*, as mounts with `userxattr` have them. */
    PCTR_CHANGES_USERXATTR = 1 << 0,
};

/* One record for each entry: one of these letters, its path below the directory, NUL. */
enum pctr_change {
    PCTR_CHANGE_ADDED = 'A',
    PCTR_CHANGE_MADE = 'a', /* added: a mount point that the runtime made, or a directory for one */
    PCTR_CHANGE_MODIFIED = 'M',
    PCTR_CHANGE_DELETED = 'D',
    /* Directories that are below, too. */
    PCTR_CHANGE_LOOK = 'C', /* owner or mode differ */
    PCTR_CHANGE_TIME = 'T', /* only the time differs */
    PCTR_CHANGE_NOTHING = '=',
};

/* Writes what the directory `upper_fd` changes in `lower_fd`, the merged tree of all that is below,
 * as records to `out_fd`; all of them stay the caller's. 0, or -1 with *error; the rules are those
 * of pctr_tar_write. */
int pctr_changes_write(int upper_fd, int lower_fd, int out_fd, uint32_t flags,
                       struct pctr_tar_write_error *error);

#endif
