#include "hardlinks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_PLACES 256u
#define FIRST_ROOM (16u << 10)

/* Inodes of one directory follow each other: this scatters them (the finalizer of splitmix64). */
static uint64_t
scatter(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

/* The file's place, or the free one where it belongs. */
static struct pctr_hardlink *
find(const struct pctr_hardlinks *links, uint64_t device, uint64_t inode)
{
    uint64_t at = scatter(inode ^ scatter(device));

    for (;; at++) {
        struct pctr_hardlink *link = &links->table[at & (links->places - 1)];
        if (link->path == 0 || (link->device == device && link->inode == inode)) {
            return link;
        }
    }
}

static int
grow_table(struct pctr_hardlinks *links, size_t *budget)
{
    struct pctr_hardlinks grown = *links;

    if (links->count < links->places / 2) {
        return 0;
    }
    grown.places = links->places > 0 ? links->places * 2 : FIRST_PLACES;
    size_t more = (grown.places - links->places) * sizeof(*grown.table);
    if (more > *budget) {
        return -ENOMEM;
    }
    grown.table = calloc(grown.places, sizeof(*grown.table));
    if (grown.table == NULL) {
        return -ENOMEM;
    }
    *budget -= more;
    for (size_t i = 0; i < links->places; i++) {
        const struct pctr_hardlink *link = &links->table[i];
        if (link->path != 0) {
            *find(&grown, link->device, link->inode) = *link;
        }
    }
    free(links->table);
    *links = grown;
    return 0;
}

static int
grow_paths(struct pctr_hardlinks *links, size_t size, size_t *budget)
{
    size_t room = links->room > 0 ? links->room : FIRST_ROOM;

    while (room - links->used < size) {
        room *= 2;
    }
    if (room == links->room) {
        return 0;
    }
    if (room - links->room > *budget) {
        return -ENOMEM;
    }
    char *paths = realloc(links->paths, room);
    if (paths == NULL) {
        return -ENOMEM;
    }
    *budget -= room - links->room;
    links->paths = paths;
    links->room = room;
    return 0;
}

int
pctr_hardlinks_enter(struct pctr_hardlinks *links, dev_t device, ino_t inode, const char *path,
                     size_t *budget, const char **first)
{
    size_t size = strlen(path) + 1;
    int error = grow_table(links, budget);

    if (error < 0) {
        return error;
    }
    struct pctr_hardlink *link = find(links, device, inode);
    if (link->path != 0) {
        *first = links->paths + link->path - 1;
        return 0;
    }
    error = grow_paths(links, size, budget);
    if (error < 0) {
        return error;
    }
    memcpy(links->paths + links->used, path, size);
    *link = (struct pctr_hardlink){.device = device, .inode = inode, .path = links->used + 1};
    links->used += size;
    links->count++;
    *first = NULL;
    return 0;
}

void
pctr_hardlinks_free(struct pctr_hardlinks *links)
{
    free(links->table);
    free(links->paths);
    memset(links, 0, sizeof(*links));
}
