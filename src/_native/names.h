/* The names in a directory, sorted as bytes. */
#ifndef PCTR_NAMES_H
#define PCTR_NAMES_H

#include <stddef.h>
#include <stdint.h>

struct pctr_names {
    char *bytes; /* for each: its kind (DT_*), the name, NUL */
    size_t used;
    size_t room;
    uint32_t *starts;
    size_t count;
};

/* Reads all names but `.` and `..`, from where the descriptor stands; *budget is how many bytes of
 * memory may be taken, and is left with what remains. 0, or -errno: ENOMEM for a directory that
 * takes more. In both cases `pctr_names_free` gives the memory back. */
int pctr_names_read(struct pctr_names *names, int dir_fd, size_t *budget);

void pctr_names_free(struct pctr_names *names, size_t *budget);

static inline const char *
pctr_names_at(const struct pctr_names *names, size_t index)
{
    return names->bytes + names->starts[index] + 1;
}

static inline unsigned char
pctr_names_kind(const struct pctr_names *names, size_t index)
{
    return (unsigned char)names->bytes[names->starts[index]];
}

#endif
