/* Applying one layer: a tar stream becomes a directory in overlayfs's form.
 *
 * OCI image-spec, layer.md ("Applying Changesets"). Every byte of the stream is hostile; whatever
 * it says, nothing outside of the root is created, changed, followed or removed. What is decided
 * here, and why:
 *
 * - Names: a leading slash, empty and `.` components are dropped, `..` anywhere is refused.
 *   Whiteouts (`.wh.NAME`) turn into 0:0 character devices and opaque marks into an attribute,
 *   trusted.overlay.opaque or its user. twin. They speak of lower layers only: what this layer
 *   itself holds stays, in whichever order the two come.
 * - Parents: a link in the way that this layer made is followed within the root, as a chroot would;
 *   a missing parent is made, root's with mode 0755 and noted: it takes the look of the lower layers'
 *   directory of that name afterwards (pctr_layer_adopt), so that layers can be applied in any
 *   order. A non-directory in the way was put there by this layer: the last entry wins, and it
 *   becomes a directory.
 * - The last entry of a name wins. A directory keeps its content when a directory follows, and is
 *   opaque when it replaces something else of this layer, since that had hidden what is below.
 * - Hard links: to what this layer has already brought, never elsewhere. A target that is a
 *   link is linked to itself.
 * - Devices: made as root (mounts of containers are nodev outside of /dev). Where the kernel
 *   forbids it (EPERM: every user namespace) they are left out and counted: an empty file in their
 *   place would swallow writes and end up in later layers, and no container sees them anyway, with
 *   its own /dev over them. 0:0 is overlay's whiteout: refused.
 * - Extended attributes: user.* and security.capability are kept, the rest is left out and counted:
 *   overlay's own (a layer could otherwise graft in what it likes), security labels and ACLs of the
 *   machine that made it. File systems or namespaces that refuse attributes (ENOTSUP, EPERM) leave
 *   them out too.
 * - Set-id bits are kept: the store's directory is what keeps other users of the machine out. */
#ifndef PCTR_LAYER_H
#define PCTR_LAYER_H

#include <stdint.h>

enum pctr_layer_flags {
    /* A user namespace of one id: every file keeps that one; set-id bits of other owners are
     * dropped with them. */
    PCTR_LAYER_ROOTLESS_SINGLE = 1 << 0,
    /* The opaque mark is user.overlay.opaque, for overlay mounts with `userxattr`. */
    PCTR_LAYER_USERXATTR = 1 << 1,
};

struct pctr_layer_limits {
    uint64_t max_bytes;   /* of file content, holes included; not 0 */
    uint64_t max_entries; /* entries and the parents they imply; not 0 */
    /* Stays free on the file system; looked at every 16 MiB and ahead of each large file. */
    uint64_t reserve_bytes;
    uint32_t flags; /* enum pctr_layer_flags */
    uint32_t reserved;
    /* Path of a file to be made where there is something to note, or NULL: the parents that were
     * implied, relative to the root, each ended by NUL; at its end "/" where the layer is
     * root_opaque. */
    const char *notes;
};

enum pctr_layer_code {
    PCTR_LAYER_OK = 0,
    PCTR_LAYER_INVALID,     /* the caller's arguments */
    PCTR_LAYER_IO,          /* a system call failed with err */
    PCTR_LAYER_MALFORMED,   /* the stream is no tar archive, is cut short or contradicts itself */
    PCTR_LAYER_UNSAFE,      /* an entry that only an attack would hold */
    PCTR_LAYER_UNSUPPORTED, /* a kind of entry or sparse file that is not known */
    PCTR_LAYER_TOO_BIG,     /* max_bytes, or a file that the file system cannot hold */
    PCTR_LAYER_TOO_MANY,    /* max_entries, or links that cost more than entries may */
    PCTR_LAYER_TOO_LONG,    /* a name, header or attribute beyond the reader's bounds */
    PCTR_LAYER_NO_SPACE,    /* reserve_bytes, a full disk or a quota */
    PCTR_LAYER_ID_UNMAPPED, /* an owner that the user namespace has no place for */
    PCTR_LAYER_DENIED,      /* EPERM, EACCES or EROFS on something that must not be left out */
};

struct pctr_layer_error {
    int32_t code;    /* enum pctr_layer_code */
    int32_t err;     /* errno, or 0 */
    uint64_t offset; /* of the entry's header in the stream */
    char path[256];  /* as the archive has it, cut off at the end when longer; any bytes but NUL */
    char what[64];
};

struct pctr_layer_totals {
    uint64_t entries;          /* as max_entries counts them */
    uint64_t bytes;            /* as max_bytes counts them */
    uint64_t stream_bytes;     /* of the whole archive */
    uint64_t whiteouts;        /* opaque marks included */
    uint64_t skipped_devices;  /* forbidden by the kernel */
    uint64_t skipped_xattrs;   /* not kept, or refused by the kernel */
    uint64_t skipped_metadata; /* entries of AUFS's own (`.wh..wh.*`) */
    uint64_t changed_owners;   /* PCTR_LAYER_ROOTLESS_SINGLE: not root's in the archive */
    /* 1: nothing of the layers below is to be seen. Overlay heeds no mark on its root. */
    uint32_t root_opaque;
    uint32_t reserved;
};

/* Reads one uncompressed layer from `tar_fd` to its end of file and applies it to the directory
 * `root_fd`, which is new, empty and nobody else's meanwhile. Both stay the caller's. 0, or -1 with
 * *error; *totals tells in both cases how far it came. After a failure the directory holds part of
 * the layer: the caller removes it.
 *
 * For one thread: the memory is static, and the umask is changed meanwhile. Nothing is synced to
 * disk. SIGXFSZ must be ignored for RLIMIT_FSIZE to end as PCTR_LAYER_TOO_BIG. */
int pctr_layer_apply(int tar_fd, int root_fd, const struct pctr_layer_limits *limits,
                     struct pctr_layer_error *error, struct pctr_layer_totals *totals);

/* As many as overlay stacks, beside the layer itself. */
#define PCTR_LAYER_MAX_LOWER 500

/* The layers below one that was applied: their directories, uppermost first. */
struct pctr_layer_lower {
    const int *fds;
    uint32_t count;
};

/* Gives the directories in `notes_fd`, which pctr_layer_apply wrote for the layer at `root_fd`, owner,
 * mode, time and attributes of what the layers below show by that name. None of them may change
 * meanwhile. 0, or -1 with *error. */
int pctr_layer_adopt(int notes_fd, int root_fd, const struct pctr_layer_lower *lower,
                     uint32_t flags, struct pctr_layer_error *error);

#endif
