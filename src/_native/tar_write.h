/* Writing a directory as a tar archive, the same bytes for the same tree.
 *
 * OCI image-spec, layer.md ("Creating Changesets"). Entries are sorted by name as bytes, depth
 * first, without one for the directory itself; owners are numbers, times whole seconds; user.* and
 * security.capability are the only attributes, sockets are left out, and the archive is padded to
 * 10 KiB. Files with several names are hard links to the first of them.
 *
 * The tree may change meanwhile, by an enemy's hand: it is read through descriptors, one component at
 * a time, through no link, and what turns into something else is an error. A device that takes a
 * file's place between two calls would be opened: who must fear that has the tree on a mount that is
 * `nodev`. */
#ifndef PCTR_TAR_WRITE_H
#define PCTR_TAR_WRITE_H

#include <stdint.h>

#define PCTR_TAR_WRITE_NOBODY 0xffffffffu

enum pctr_tar_write_flags {
    /* The tree is overlayfs's upper directory, written as a changeset: its whiteouts (devices 0:0)
     * become `.wh.NAME`, opaque directories get `.wh..wh..opq` as their first entry. A directory or
     * file that is only complete with a lower layer's (redirect, metacopy) is refused. */
    PCTR_TAR_WRITE_UPPER = 1 << 0,
    /* Overlay's attributes are user.overlay.*, as mounts with `userxattr` have them. */
    PCTR_TAR_WRITE_USERXATTR = 1 << 1,
    /* Behind the archive: the latest time in it, an int64_t; INT64_MIN without any entry. */
    PCTR_TAR_WRITE_NEWEST = 1 << 2,
    /* The tree is a mounted overlay. In a directory that only one layer has, overlay lists whiteouts
     * of that layer, and then says that there is no such file: those are left out. */
    PCTR_TAR_WRITE_MERGED = 1 << 3,
};

struct pctr_tar_write_options {
    uint32_t flags;    /* enum pctr_tar_write_flags */
    uint32_t root_uid; /* owners that are written as root, or PCTR_TAR_WRITE_NOBODY */
    uint32_t root_gid;
    int64_t latest; /* no entry gets a later time, in seconds; INT64_MAX: each has its own */
    /* Paths, without a slash at either end, that are left out with what is in them; each ends with
     * NUL, and an empty one ends the list. NULL: none. */
    const char *without;
};

enum pctr_tar_write_code {
    PCTR_TAR_WRITE_OK = 0,
    PCTR_TAR_WRITE_READ,      /* a system call on the file failed with err */
    PCTR_TAR_WRITE_CHANGED,   /* the file is not what it was a moment ago */
    PCTR_TAR_WRITE_MARKED,    /* its name would be read as a whiteout */
    PCTR_TAR_WRITE_ATTRIBUTE, /* an attribute's name that tar cannot hold */
    PCTR_TAR_WRITE_TOO_LONG,  /* a path or attributes longer than readers take */
    PCTR_TAR_WRITE_TOO_MANY,  /* more names than there is memory for */
    PCTR_TAR_WRITE_PARTIAL,   /* UPPER: redirect, metacopy or a whiteout in an attribute */
    PCTR_TAR_WRITE_OUTPUT,    /* writing the archive failed with err */
};

struct pctr_tar_write_error {
    int32_t code;   /* enum pctr_tar_write_code */
    int32_t err;    /* errno, or 0 */
    char path[256]; /* below the directory; where it is longer, dots and its end */
};

/* Writes the directory `root_fd` (O_PATH is enough) to `out_fd`; both stay the caller's. 0, or -1
 * with *error. For one thread: the memory is static, but for names and hard links, which are freed.
 * SIGPIPE and SIGXFSZ must be ignored to come back as errors. */
int pctr_tar_write(int root_fd, int out_fd, const struct pctr_tar_write_options *options,
                   struct pctr_tar_write_error *error);

#endif
