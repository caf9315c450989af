/* What applying a layer cannot settle without the layers below it is noted for later. */
#ifndef PCTR_LAYER_NOTES_H
#define PCTR_LAYER_NOTES_H

#include "layer.h"

#include <stdbool.h>
#include <stddef.h>

struct pctr_layer_notes {
    const char *path; /* NULL: nothing is noted */
    const char *mark; /* attribute of the directories that are noted */
    int fd;           /* -1: nothing was noted yet */
    size_t used;
    char buffer[16384];
};

/* Whether an attribute of that name is kept: none of overlay's, nor ours. */
bool pctr_layer_keeps_xattr(const char *name);

/* Whether it is the mark of a directory that was implied, and has no entry of its own so far. */
bool pctr_layer_is_mark(const char *name);
const char *pctr_layer_mark(uint32_t flags);

void pctr_layer_notes_begin(struct pctr_layer_notes *notes, const struct pctr_layer_limits *limits);

/* Notes and marks a directory; one that cannot be marked (a file system without attributes, or
 * trusted.* ones in a user namespace) keeps the look that it has. 0, or -1 with errno. */
int pctr_layer_note_implied(struct pctr_layer_notes *notes, int fd, const char *path);

/* Nothing of the layers below shows in this directory: 0, or -1 with errno. */
int pctr_layer_unmark(const struct pctr_layer_notes *notes, int fd);

/* Writes what is left, and closes the file: 0, or -1 with errno. */
int pctr_layer_notes_end(struct pctr_layer_notes *notes, bool root_opaque);

#endif
