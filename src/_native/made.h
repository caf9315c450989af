/* The mark on what the runtime makes in a container's layer: mount points that the image lacks. */
#ifndef PCTR_MADE_H
#define PCTR_MADE_H

#include <stdbool.h>

/* Marks a file or directory (O_PATH is enough) that was made a moment ago, where it lies in an overlay:
 * elsewhere, in what the caller binds, there is no layer to tell it from. Where the file system takes
 * no attribute it stays without. Programs in the container see the mark of an ordinary user's only. */
void pctr_mark_made(int fd);

/* Whether it bears the mark, seen in the layer itself. */
bool pctr_is_made(int fd);

#endif
