#define _GNU_SOURCE
#include "names.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK (64u << 10) /* bytes of directory entries read at once */
#define FIRST 1024u       /* bytes of names that are room for at first */

static bool
is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* Room for `size` more bytes of names. */
static int
make_room(struct pctr_names *names, size_t size, size_t *budget)
{
    size_t room = names->room > 0 ? names->room : FIRST;

    while (room - names->used < size) {
        room *= 2;
    }
    if (room == names->room) {
        return 0;
    }
    /* An offset has 32 bits. */
    if (room - names->room > *budget || room > UINT32_MAX) {
        return -ENOMEM;
    }
    char *grown = realloc(names->bytes, room);
    if (grown == NULL) {
        return -ENOMEM;
    }
    *budget -= room - names->room;
    names->bytes = grown;
    names->room = room;
    return 0;
}

static int
take_chunk(struct pctr_names *names, const char *chunk, size_t size, size_t *budget)
{
    for (size_t at = 0; at < size;) {
        const struct dirent64 *entry = (const void *)(chunk + at);
        size_t length = strlen(entry->d_name);
        at += entry->d_reclen;
        if (is_dots(entry->d_name)) {
            continue;
        }
        int error = make_room(names, length + 2, budget);
        if (error < 0) {
            return error;
        }
        names->bytes[names->used] = (char)entry->d_type;
        memcpy(names->bytes + names->used + 1, entry->d_name, length + 1);
        names->used += length + 2;
        names->count++;
    }
    return 0;
}

static int
compare(const void *left, const void *right, void *bytes)
{
    const uint32_t *a = left, *b = right;
    return strcmp((const char *)bytes + *a + 1, (const char *)bytes + *b + 1);
}

static int
sort(struct pctr_names *names, size_t *budget)
{
    size_t size = names->count * sizeof(*names->starts);
    uint32_t at = 0;

    if (names->count == 0) {
        return 0;
    }
    if (size > *budget) {
        return -ENOMEM;
    }
    names->starts = malloc(size);
    if (names->starts == NULL) {
        return -ENOMEM;
    }
    *budget -= size;
    for (size_t i = 0; i < names->count; i++) {
        names->starts[i] = at;
        at += (uint32_t)strlen(names->bytes + at + 1) + 2;
    }
    qsort_r(names->starts, names->count, sizeof(*names->starts), compare, names->bytes);
    return 0;
}

int
pctr_names_read(struct pctr_names *names, int dir_fd, size_t *budget)
{
    static _Alignas(struct dirent64) char chunk[CHUNK];

    memset(names, 0, sizeof(*names));
    for (;;) {
        ssize_t got = getdents64(dir_fd, chunk, sizeof(chunk));
        if (got < 0) {
            return -errno;
        }
        if (got == 0) {
            return sort(names, budget);
        }
        int error = take_chunk(names, chunk, (size_t)got, budget);
        if (error < 0) {
            return error;
        }
    }
}

void
pctr_names_free(struct pctr_names *names, size_t *budget)
{
    *budget += names->room + (names->starts != NULL ? names->count * sizeof(*names->starts) : 0);
    free(names->bytes);
    free(names->starts);
    memset(names, 0, sizeof(*names));
}
