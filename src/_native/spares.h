/* Directories of writable layers in which nothing was written, used again: making one and removing it is
 * much of a short container's work on a disk.  They lie beside the containers' own, as `spare-N`; a
 * process aside makes them as new, which waits for the disk. */
#ifndef PCTR_SPARES_H
#define PCTR_SPARES_H

#include <stdbool.h>

/* Makes one the directory parent/name, if there is one and nothing of that name. */
void pctr_spares_take(const char *parent, const char *name);

/* Takes over the directory parent/name, an ended container's, which is gone from its place then; false
 * where something was written to it, or no more are wanted. */
bool pctr_spares_give(const char *parent, const char *name);

/* Takes from a container's open directory what overlay makes in it, and mount points that the image lacks:
 * of most containers, that is all there is. */
void pctr_spares_strip(int directory);

/* The answer to an order: whether the one in this place is as new. */
void pctr_spares_cleaned(unsigned place, bool clean);

/* For the process aside: makes the open `directory`, which lies in this place, as new, or removes it. */
bool pctr_spares_clean(int directory, unsigned place);

#endif
