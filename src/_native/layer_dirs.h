/* The directories of a layer that is being applied: found, kept open, and given back their times.
 *
 * Making an entry changes its directory's mtime. A table of the times to restore would grow with
 * the layer, so the file system keeps it: an open directory remembers the time it had, and gets it
 * back when it is closed. For that to be right, a directory is open only once, so directories are
 * known by their one path without links. */
#ifndef PCTR_LAYER_DIRS_H
#define PCTR_LAYER_DIRS_H

#include "layer.h"
#include "layer_notes.h"
#include "tar.h"

#include <stdbool.h>
#include <time.h>

#define PCTR_LAYER_DIRS 16u
#define PCTR_LAYER_WHITEOUT ".wh."

struct pctr_layer_dir {
    int fd;        /* -1: the slot is free */
    uint32_t pins; /* uses by the current entry: it stays open */
    bool dirty;    /* its mtime is to be restored */
    uint64_t used; /* when, on the clock of uses */
    struct timespec mtime;
    size_t length;
    char path[PCTR_TAR_PATH]; /* beneath the root, without links; empty for the root */
};

struct pctr_layer_dirs {
    int root_fd;
    uint64_t clock;
    struct pctr_layer_dir slots[PCTR_LAYER_DIRS];
};

struct pctr_layer {
    const struct pctr_layer_limits *limits;
    struct pctr_layer_error *error;
    struct pctr_layer_totals *totals;
    uint64_t unseen; /* bytes since the last look at the free space */
    uint64_t steps;  /* taken by walks so far */
    struct pctr_layer_dirs dirs;
    struct pctr_layer_notes notes;
    char path[PCTR_TAR_PATH];     /* the entry's, cleaned */
    char link[PCTR_TAR_PATH];     /* a hard link's target, cleaned */
    char found[PCTR_TAR_PATH];    /* a walk that follows links: where it is ... */
    char todo[2 * PCTR_TAR_PATH]; /* ... and what is left of it */
    struct pctr_tar tar;
};

/* Records a failure of the current entry; returns -1. */
int pctr_layer_fail(struct pctr_layer *layer, enum pctr_layer_code code, int err, const char *what);

/* The same for a system call: the code follows from errno. */
int pctr_layer_fail_errno(struct pctr_layer *layer, const char *what);

/* Counts one more entry against max_entries. */
int pctr_layer_count(struct pctr_layer *layer);

/* Marks a directory opaque. */
int pctr_layer_opaque(struct pctr_layer *layer, int fd);

/* True for overlayfs's whiteout. */
struct stat;
bool pctr_layer_is_whiteout(const struct stat *stat);

/* Opens the root: 0 or -1. */
int pctr_layer_dirs_begin(struct pctr_layer *layer, int root_fd);

/* Closes everything; with `restore`, times are given back first: 0 or -1. */
int pctr_layer_dirs_end(struct pctr_layer *layer, bool restore);

enum pctr_layer_missing {
    PCTR_LAYER_MAKE, /* missing parents are made, whatever else stands in their place replaced */
    PCTR_LAYER_HIDE, /* missing parents are made; nothing is replaced: ENOTDIR */
    PCTR_LAYER_FIND, /* nothing is made: ENOENT, ENOTDIR */
};

/* Finds the directory `path` (clean), following links within the root: pinned, or NULL. NULL
 * without a recorded error (error->code is PCTR_LAYER_OK) means that it is not there, for the
 * reasons above. */
struct pctr_layer_dir *pctr_layer_dirs_find(struct pctr_layer *layer, const char *path,
                                            enum pctr_layer_missing missing);

/* Opens dir's child directory `name`: pinned, or NULL with errno. */
struct pctr_layer_dir *pctr_layer_dirs_child(struct pctr_layer *layer, struct pctr_layer_dir *dir,
                                             const char *name);

/* Removes dir's child `name`, of whatever kind. */
int pctr_layer_dirs_remove(struct pctr_layer *layer, struct pctr_layer_dir *dir, const char *name);

/* Makes dir's child directory `name`, with mode 0700, where nothing stands: pinned, or NULL with a
 * recorded error. */
struct pctr_layer_dir *pctr_layer_dirs_make(struct pctr_layer *layer, struct pctr_layer_dir *dir,
                                            const char *name);

/* Lets go of all that the current entry has pinned. */
void pctr_layer_dirs_unpin(struct pctr_layer *layer);

#endif
