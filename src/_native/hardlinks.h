/* Which file was met first under which path, for files that have several names. */
#ifndef PCTR_HARDLINKS_H
#define PCTR_HARDLINKS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct pctr_hardlink {
    uint64_t device;
    uint64_t inode;
    size_t path; /* where its path begins, plus 1; 0: the place is free */
};

struct pctr_hardlinks {
    struct pctr_hardlink *table; /* open addressing; never more than half full */
    size_t places;               /* a power of two, or 0 */
    size_t count;
    char *paths;
    size_t used;
    size_t room;
};

/* The path under which that file was entered before; else enters it under `path` and gives NULL in
 * *first. 0, or -ENOMEM, also where *budget (bytes) is used up. */
int pctr_hardlinks_enter(struct pctr_hardlinks *links, dev_t device, ino_t inode, const char *path,
                         size_t *budget, const char **first);

void pctr_hardlinks_free(struct pctr_hardlinks *links);

#endif
