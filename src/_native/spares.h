/* Directories of writable layers in which nothing was written, used again: making one and removing it is
 * much of a short container's work on a disk.  They lie beside the containers' own, as `spare-N`; a
 * process aside makes them as new, which waits for the disk.
 *
 * So is the root that is mounted on one, for a container of the same layers that comes within
 * PCTR_READY_NS: it spares overlay's own directories, and the end of one more file system. */
#ifndef PCTR_SPARES_H
#define PCTR_SPARES_H

#include <stdbool.h>
#include <stdint.h>

/* Makes one the directory parent/name, if there is one and nothing of that name.  Returns the root that is
 * mounted on it, whose layers and flags are called `stack`, or -1. */
int pctr_spares_take(const char *parent, const char *name, uint64_t stack);

/* Takes over the directory parent/name, an ended container's, which is gone from its place then, and the
 * `*root` mounted on it (-1 then); false where something was written to it, or no more are wanted. */
bool pctr_spares_give(const char *parent, const char *name, int *root, uint64_t stack);

/* Milliseconds until a root has been mounted for nobody long enough, -1 where none is. */
int pctr_spares_wait(void);

/* Takes down those. */
void pctr_spares_due(void);

/* Removes a container's directory, in a few calls, where nothing was written to it: what overlay makes in it,
 * and mount points that the image lacks.  False where more is left of it. */
bool pctr_spares_remove(int parent, const char *name);

/* The answer to an order: whether the one in this place is as new. */
void pctr_spares_cleaned(unsigned place, bool clean);

/* There will be no more answers. */
void pctr_spares_abandoned(void);

/* For the process aside: makes the open `directory`, which lies in this place, as new, or removes it.
 * One that is mounted is as it is. */
bool pctr_spares_clean(int directory, unsigned place, bool mounted);

#endif
