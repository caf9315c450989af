/* A bounded, streaming tar reader.
 *
 * Reads v7, ustar, GNU and pax archives from a descriptor, front to back, and never seeks. It knows
 * nothing of file systems: names come out as they were written, and are hostile. All memory is in
 * the one structure below; an archive that needs more than its bounds is refused. Where readers of
 * tar differ in what they make of an archive, this one follows the reader that most container tools
 * share (Go's archive/tar), so that one digest is not read as two trees, and refuses what would
 * shift the framing.
 *
 * Formats: POSIX.1-2017 pax(1) "pax Interchange Format" and "ustar Interchange Format"; GNU tar
 * manual, "Basic Tar Format" and "Storing Sparse Files". */
#ifndef PCTR_TAR_H
#define PCTR_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PCTR_TAR_BLOCK 512u
#define PCTR_TAR_BUFFER (256u << 10)
#define PCTR_TAR_PATH \
    4096u /* bytes of a name or a link target, its NUL included: the kernel's PATH_MAX */
#define PCTR_TAR_PAX (1u << 20) /* bytes of one extended header */
#define PCTR_TAR_XATTRS 128u    /* extended attributes of one entry */
#define PCTR_TAR_EXTENTS 65536u /* data areas of one sparse file */
#define PCTR_TAR_EXTENSIONS 16u /* extension headers ahead of one entry */

enum pctr_tar_fault {
    PCTR_TAR_FINE = 0,
    PCTR_TAR_IO,          /* reading the stream failed: err is its errno */
    PCTR_TAR_MALFORMED,   /* not a tar archive, cut short, or contradicts itself */
    PCTR_TAR_TOO_LONG,    /* a name, header or map beyond the bounds above */
    PCTR_TAR_TOO_BIG,     /* more bytes outside files than overhead_left allowed */
    PCTR_TAR_UNSUPPORTED, /* a kind of entry or a sparse format that is not known */
};

enum pctr_tar_type {
    PCTR_TAR_FILE,
    PCTR_TAR_HARD_LINK,
    PCTR_TAR_SYMLINK,
    PCTR_TAR_CHAR,
    PCTR_TAR_BLOCK_DEVICE,
    PCTR_TAR_DIRECTORY,
    PCTR_TAR_FIFO,
};

struct pctr_tar_xattr {
    const char *name;
    const char *value;
    size_t size;
};

struct pctr_tar_extent {
    uint64_t offset;
    uint64_t length;
};

struct pctr_tar_entry {
    enum pctr_tar_type type;
    uint32_t mode; /* permission bits only */
    uint32_t uid;
    uint32_t gid;
    uint32_t major;
    uint32_t minor;
    int64_t mtime_sec;
    uint32_t mtime_nsec;
    uint64_t offset; /* of its header in the stream */
    uint64_t size;   /* as a reader of the file sees it, holes included */
    bool sparse;     /* the data stands at `extents`, and nowhere else */
    uint32_t extent_count;
    uint32_t xattr_count;
    char path[PCTR_TAR_PATH];
    char link[PCTR_TAR_PATH];
    struct pctr_tar_xattr xattrs[PCTR_TAR_XATTRS];
    struct pctr_tar_extent extents[PCTR_TAR_EXTENTS];
};

/* What the extended header ahead of an entry says; strings point into pax_text. */
struct pctr_tar_pax {
    uint32_t set; /* bits of enum pctr_tar_pax_set (tar_parts.h) */
    const char *path;
    const char *link;
    const char *sparse_name;
    const char *sparse_map;
    uint64_t size;
    uint64_t uid;
    uint64_t gid;
    uint64_t real_size;
    uint64_t sparse_blocks;
    uint64_t sparse_major;
    uint64_t sparse_minor;
    int64_t mtime_sec;
    uint32_t mtime_nsec;
};

struct pctr_tar {
    int fd;
    uint64_t offset;        /* bytes of the stream taken so far */
    uint64_t overhead_left; /* bytes still allowed outside files and headers */
    uint64_t data_left;     /* bytes of the current entry not taken yet */
    uint32_t padding;       /* bytes after them, up to the next block */
    enum pctr_tar_fault fault;
    int err;
    const char *what; /* static text */
    size_t head;
    size_t tail;
    struct pctr_tar_pax pax;
    struct pctr_tar_entry entry;
    bool has_long_path;
    bool has_long_link;
    char long_path[PCTR_TAR_PATH];
    char long_link[PCTR_TAR_PATH];
    unsigned char buffer[PCTR_TAR_BUFFER];
    char pax_text[PCTR_TAR_PAX + 1];
};

/* Prepares `tar` to read from `fd`, which stays the caller's. `overhead` bounds, in bytes, all that
 * the stream may hold outside files and header blocks: extended headers, data that nobody asked
 * for, what follows the end. */
void pctr_tar_open(struct pctr_tar *tar, int fd, uint64_t overhead);

/* Moves to the next entry, skipping what is left of the current one: 1 with tar->entry filled
 * (valid until the next call), 0 at the end, with the stream read to its end of file, -1 with
 * fault, err and what. */
int pctr_tar_next(struct pctr_tar *tar);

/* Takes up to `most` bytes of the current entry's data: their number with *chunk pointing at them
 * (valid until the next call), 0 after the last, -1 as above. A sparse entry's areas follow each
 * other without gaps. */
ssize_t pctr_tar_data(struct pctr_tar *tar, const unsigned char **chunk, size_t most);

#endif
