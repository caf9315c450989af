/* The blocks ahead of an entry's content: a ustar header, and a pax header before it for what ustar
 * is too narrow for.
 *
 * POSIX.1-2017 pax(1), "ustar Interchange Format" and "pax Interchange Format". The bytes are those
 * of Python's tarfile in its PAX_FORMAT, which layers were written with before: the same tree keeps
 * its digest. So there are no owners' names, ustar's prefix stays empty, and a text that is not ASCII
 * goes into the pax header. */
#ifndef PCTR_TAR_HEAD_H
#define PCTR_TAR_HEAD_H

#include "tar.h"
#include "tar_out.h"

/* ustar's typeflags. */
enum pctr_tar_flag {
    PCTR_TAR_FLAG_FILE = '0',
    PCTR_TAR_FLAG_HARD_LINK = '1',
    PCTR_TAR_FLAG_SYMLINK = '2',
    PCTR_TAR_FLAG_CHAR = '3',
    PCTR_TAR_FLAG_BLOCK_DEVICE = '4',
    PCTR_TAR_FLAG_DIRECTORY = '5',
    PCTR_TAR_FLAG_FIFO = '6',
};

struct pctr_tar_head {
    enum pctr_tar_flag type;
    uint32_t mode; /* 07777 of it are written */
    uint32_t uid;
    uint32_t gid;
    uint32_t major;
    uint32_t minor;
    uint64_t size;
    int64_t mtime;    /* seconds */
    const char *path; /* a directory's ends in a slash */
    const char *link; /* target, or "" */
};

/* The records of one pax header. */
struct pctr_tar_records {
    bool binary; /* some value is not UTF-8 */
    size_t size;
    char bytes[PCTR_TAR_PAX];
};

void pctr_tar_records_clear(struct pctr_tar_records *records);

/* Adds one; `prefix` and `name` make up the keyword. 0, or -1 when there is no room. */
int pctr_tar_records_add(struct pctr_tar_records *records, const char *prefix, const char *name,
                         const char *value, size_t size);

/* Writes the header of an entry that has these records already: 0, or -1 where out->err says why,
 * or is 0 since the records do not fit into a header. */
int pctr_tar_head_put(struct pctr_tar_out *out, const struct pctr_tar_head *head,
                      struct pctr_tar_records *records);

#endif
