/*
 * The interface between a host process and its supervisor: verbs, plan operations and records.
 * This is the only copy: both C halves include it, and the builder of the Python extension
 * reads it.  Everything travels over one machine, so integers have the machine's byte order.
 *
 * A request is one SOCK_SEQPACKET message: struct pctr_request, then the plan, then the cleanup
 * plan.  A message too long for a socket buffer puts both plans into a memfd instead, which is
 * the last of the descriptors passed along.  The first descriptor of a START is the job's
 * channel: all records about the job come out of its other end, which is closed after the last.
 * A HELLO may bring a second descriptor too, a lock that the supervisor holds until its end.
 */
#ifndef PCTR_PROTOCOL_H
#define PCTR_PROTOCOL_H

#include <stdint.h>

#define PCTR_PROTOCOL_VERSION 1
#define PCTR_MAX_INLINE 65536
#define PCTR_MAX_PLAN 16777216
#define PCTR_MAX_FDS 200
#define PCTR_MAX_OPS 4096
#define PCTR_MAX_TREES 1024
#define PCTR_MAX_GROUPS 16
#define PCTR_MAX_JOBS 8192
#define PCTR_MAX_COLLECT 4096
#define PCTR_MAX_RECORD 32768
#define PCTR_DETAIL 256
#define PCTR_READY_NS 300000000
#define PCTR_IMPAIR_MAX_PORTS 1024
#define PCTR_IMPAIR_MAX_DELAY_NS 60000000000
#define PCTR_NOT_COLLECTED 0xffffffff

enum pctr_verb {
    PCTR_VERB_HELLO = 1,
    PCTR_VERB_USERNS = 2,
    PCTR_VERB_START = 3,
    PCTR_VERB_SIGNAL = 4,
};

enum pctr_start_flag {
    PCTR_START_INIT = 1,       /* keep a reaping, forwarding process above the program */
    PCTR_START_REPORT = 2,     /* send a STARTED record; without it only FAILED or EXITED */
    PCTR_START_PLAN_IN_FD = 4, /* the plans are in the last descriptor */
    PCTR_START_NEW_PIDNS = 8,  /* the child is PID 1 of a new PID namespace */
    PCTR_START_WORK = 16,      /* no program: the child runs the set-up operations and ends */
    PCTR_START_HOLD = 32,      /* the second descriptor, a lock, is held until the job is over */
    PCTR_START_OUTSIDE = 128,  /* the target's PID namespace is not joined: others of it may be */
    PCTR_START_BESIDE = 64, /* `prepare` runs beside the child, which waits in CGROUP_JOIN for it */
    PCTR_START_SERVES = 512, /* it serves until it is hung up on: nobody waits for its end */
    PCTR_START_READY =
        256, /* set up in advance, when there is time: no channel, no program; a START of
                             the same number within PCTR_READY_NS brings them, with the whole plan */
    PCTR_START_AT_ONCE = 1024, /* with READY: now, beside what is under way */
};

struct pctr_request {
    uint32_t version;
    uint32_t verb;
    uint64_t job;
    uint64_t target; /* START: the job whose PID namespace is joined, or 0 */
    uint32_t flags;
    int32_t signal;
    uint32_t plan_size;
    uint32_t cleanup_size;
};

/* Operations that follow a plan's header run in this order, in three places: `prepare` in the
 * supervisor before the clone, `setup` in the new process, `tail` in the process that execs. */
struct pctr_plan {
    uint32_t prepare;
    uint32_t setup;
    uint32_t tail;
    uint32_t data_size;
};

/* s1, s2, s3 are offsets into the plan's data, where strings end with NUL and offset 0 is the
 * empty string.  What each field means is said beside the operation's name. */
struct pctr_op {
    uint16_t code;
    uint16_t flags;
    int32_t arg;
    uint32_t s1;
    uint32_t s2;
    uint32_t s3;
    uint32_t size;
    uint64_t n1;
    uint64_t n2;
};

enum pctr_op_code {
    /* Files of the host, by absolute path. */
    PCTR_OP_MKDIR = 1,       /* s1 path, n1 mode */
    PCTR_OP_WRITE = 2,       /* s1 path, s2 data of `size` bytes, one write(2) */
    PCTR_OP_RMDIR = 3,       /* s1 path; ENOENT is success */
    PCTR_OP_REMOVE_TREE = 4, /* s1 parent directory, s2 name in it; n1: a container's, which may be
                                another's where nothing was written to it */
    PCTR_OP_COLLECT = 5,     /* s1 path: its first PCTR_MAX_COLLECT bytes go into the record */
    PCTR_OP_APPLY_LAYER = 6, /* arg fd of the tar stream, s1 directory, n1 bytes, n2 entries,
                                     s2 path of the notes or empty; `size` is PCTR_LAYER_* flags
                                     (layer.h), as the record's code is */
    PCTR_OP_WRITE_TAR = 7, /* arg fd that the archive is written to, s1 directory beneath the root;
                              without one (offset 0) the next fd is the directory. n1 uid << 32 | gid
                              that become root's, n2 latest time; `size` is PCTR_TAR_WRITE_* flags
                              (tar_write.h), as the record's code is; s2 paths beneath the directory
                              that are left out, an empty one ends them */
    PCTR_OP_ADOPT_LOOKS = 8, /* s1 path of a layer's notes, s2 `size` bytes of strings: its
                                directory, then those of the layers below; n1 PCTR_LAYER_* flags */

    PCTR_OP_WRITE_CHANGES = 21, /* arg fd that records are written to (changes.h), s1 the upper
                                   directory; the root is the tree below it; `size` is
                                   PCTR_CHANGES_* flags, the record's code as for WRITE_TAR */

    PCTR_OP_SERVE = 9, /* arg fd of a SEQPACKET socket: answers struct pctr_file_request */

    /* Namespaces and control groups. */
    PCTR_OP_CGROUP_INTO = 10, /* prepare only: s1 the v2 directory to clone into */
    PCTR_OP_CGROUP_OPEN = 11, /* s1 a v1 group's `tasks` file, for CGROUP_JOIN */
    PCTR_OP_UNSHARE = 12,     /* n1 CLONE_NEW* flags */
    PCTR_OP_JOIN = 13,        /* n1 CLONE_NEW* flags of the target job's namespaces */
    PCTR_OP_JOIN_FD = 14,     /* arg fd of a namespace, n1 its CLONE_NEW* flag */
    PCTR_OP_GIVE = 18, /* s1 the host's file, opened with access mode n1: its descriptor goes to
                             the socket at fd arg */
    PCTR_OP_LINGER =
        26, /* the mount namespace is taken down after the end, when nobody waits for it */
    PCTR_OP_KEYRING = 15,     /* a fresh anonymous session keyring */
    PCTR_OP_NETWORK = 16,     /* a network namespace of its own, with loopback up; n1: nothing in it
                             has a right to change it, so it may be another's afterwards */
    PCTR_OP_CGROUP_JOIN = 20, /* into all groups that CGROUP_OPEN opened; n1: in the supervisor */
    PCTR_OP_HOSTNAME = 17,    /* s1 name */
    PCTR_OP_SYSCTL = 19,      /* s1 path below /proc/sys, s2 data of `size` bytes */
    PCTR_OP_NETLINK = 22, /* s2 `size` bytes of netlink(7) messages of protocol n2, s1 what they are
                             about; sent in the network namespace at fd arg, or for -1 in the
                             process's own; n1: where in them a descriptor of its own goes, or 0 */
    PCTR_OP_FORWARD = 23, /* arg fd of a SEQPACKET socket: carries what comes to the host's sockets
                             to ports of the network namespace */
    PCTR_OP_IMPAIR = 24,  /* arg fd of a SEQPACKET socket: carries frames between pairs of links,
                             late, slowly, and not all of them */
    PCTR_OP_RESOLVE = 25, /* arg fd of a SEQPACKET socket: answers questions about names in the
                             network namespace (RFC 1035) */

    /* The file system, before the pivot; targets are resolved beneath the current root. */
    PCTR_OP_PROPAGATION = 30, /* n1 MS_PRIVATE or MS_SLAVE, recursively on / */
    PCTR_OP_ROOT = 31,        /* s1 the host's directory that is the root from here on */
    PCTR_OP_MOUNT = 32,       /* s1 target, s2 type, s3 data, n1 MS_* flags; n2: what its layers and
                                 flags are called, where another container's may take its place, or 0 */
    PCTR_OP_BIND = 33, /* arg slot of an opened tree, s1 target, n1 MS_* flags, n2 propagation */
    PCTR_OP_MAKE_DIR = 34,  /* s1 directory beneath the root, made with parents, n1 mode */
    PCTR_OP_MAKE_FILE = 35, /* s1 path, s2 data of `size` bytes, n1 mode, n2 uid << 32 | gid */
    PCTR_OP_MAKE_LINK = 36, /* s1 path, s2 what it points at */
    PCTR_OP_MAKE_NODE = 37, /* s1 path, n1 mode with type, n2 device number */
    PCTR_OP_MASK = 38, /* s1 path: a directory is hidden by the host's s2, a file by /dev/null */
    PCTR_OP_READONLY = 39,  /* s1 path: bound over itself, read-only */
    PCTR_OP_REMOUNT = 40,   /* s1 path, n1 MS_* flags of that mount alone */
    PCTR_OP_PIVOT = 41,     /* the root becomes /, the old one is gone */
    PCTR_OP_TTY = 42,       /* arg fd of a socket that takes the master, n1 rows, n2 columns */
    PCTR_OP_ENTER = 43,     /* the root is the / of the joined mount namespace */
    PCTR_OP_OPEN_TREE = 44, /* s1 the host's file or directory, arg slot that holds a copy of it */
    PCTR_OP_OVERLAY = 45, /* s1 target, s2 `size` bytes of strings: upper and work directory (empty:
                             none), then the layers, topmost first; s3 more options, n1 MS_* flags, n2
                             as MOUNT has it */
    PCTR_OP_UNMOUNT = 46, /* s1 the host's path, at once and whoever uses it; no mount is success */
    PCTR_OP_STAY = 47,    /* setup only: says STARTED, and lives until it is killed */

    /* The process. */
    PCTR_OP_FD = 60,       /* arg fd becomes descriptor n1 of the program */
    PCTR_OP_SETSID = 61,   /* new session; with a tty it is the controlling one, on 0 to 2 */
    PCTR_OP_RLIMIT = 62,   /* arg resource, n1 soft, n2 hard */
    PCTR_OP_UMASK = 63,    /* n1 mask */
    PCTR_OP_BOUNDING = 64, /* n1 capabilities that stay in the bounding set */
    PCTR_OP_GROUPS = 65,   /* s1 array of `size` bytes of uint32_t */
    PCTR_OP_IDS = 66,      /* n1 uid, n2 gid: real, effective and saved */
    PCTR_OP_CHDIR = 67,    /* s1 path, which must lie beneath the root */
    PCTR_OP_CAPS = 68,     /* n1 permitted and effective; the others become empty */
    PCTR_OP_NO_NEW_PRIVS = 69,
    PCTR_OP_SECCOMP = 70,  /* s1 array of `size` bytes of struct sock_filter */
    PCTR_OP_LIFELINE = 71, /* die with the supervisor; after IDS, which forgets it */
    PCTR_OP_EXEC = 72,     /* s1 paths to try (arg of them); s2 argv (n1), s3 envp (n2) */
};

enum pctr_op_flag {
    PCTR_OPF_OPTIONAL = 1,    /* a missing path (ENOENT, ENOTDIR) is success */
    PCTR_OPF_NO_SYMLINKS = 2, /* the target may not lead through any link */
    PCTR_OPF_RECURSIVE = 4,   /* OPEN_TREE, BIND, READONLY: with the mounts below */
    PCTR_OPF_CREATE = 8, /* BIND, MOUNT: make the target where it is missing; MAKE_DIR: it is one */
    PCTR_OPF_IGNORE = 16,  /* any failure is success */
    PCTR_OPF_BENEATH = 32, /* OPEN_TREE: s1 lies beneath the root; a missing one is made */
    PCTR_OPF_EXISTS = 64,  /* MKDIR: one that is there will do */
};

enum pctr_record_kind {
    PCTR_RECORD_HELLO = 1,
    PCTR_RECORD_STARTED = 2,
    PCTR_RECORD_FAILED = 3,
    PCTR_RECORD_EXITED = 4,
    PCTR_RECORD_MOUNTS = 5, /* within the supervisor: its mount namespace comes along */
    PCTR_RECORD_ROOT = 6,   /* within the supervisor: so does its root, for the next container */
};

/* Where a failure happened when no operation is to blame (`stage` of a FAILED record holds an
 * operation's code otherwise). */
enum pctr_stage {
    PCTR_STAGE_REQUEST = 200, /* a malformed request or plan */
    PCTR_STAGE_CLONE = 201,
    PCTR_STAGE_TARGET = 202, /* the job to join is not there any more */
    PCTR_STAGE_FORK = 203,   /* the program's own process, below the init process */
    PCTR_STAGE_USERNS = 204,
    PCTR_STAGE_IDMAP = 205,
    PCTR_STAGE_LIFELINE = 206,
};

/* `collected` bytes follow an EXITED record in the same message: for each COLLECT operation a
 * uint32_t length (PCTR_NOT_COLLECTED where the file could not be read) and so many bytes. */
struct pctr_record {
    uint32_t kind;
    uint32_t stage;
    int32_t op;    /* FAILED: index of the operation in its plan, or -1 */
    int32_t error; /* FAILED: errno */
    int32_t pid;
    int32_t status;      /* EXITED: as wait(2) gives it */
    uint64_t started_ns; /* CLOCK_MONOTONIC */
    uint64_t exited_ns;
    uint64_t user_us;
    uint64_t system_us;
    uint64_t input_blocks; /* of 512 bytes, getrusage(2) */
    uint64_t output_blocks;
    uint32_t code; /* FAILED: what the operation says beyond errno, or 0 */
    uint32_t collected;
    char detail[PCTR_DETAIL]; /* FAILED: the path or name concerned */
};

/* What SERVE is asked: a pctr_file_request, then two strings that end with NUL: the path and, where
 * there is one, the other path (a link's content for SYMLINK).  Paths begin at the root, and links in
 * them are followed within it.  A descriptor that comes along is a directory where the path begins
 * instead, a second one that where the other path does (the first, if there is none): no link on such
 * a way is followed, and it leads nowhere but down. */
enum pctr_file_verb {
    PCTR_FILE_OPEN = 1, /* flags: open(2)'s; the answer brings a descriptor */
    PCTR_FILE_STAT = 2,
    PCTR_FILE_READLINK = 3,
    PCTR_FILE_MKDIR = 4,
    PCTR_FILE_UNLINK = 5,
    PCTR_FILE_RMDIR = 6,
    PCTR_FILE_SYMLINK = 7,
    PCTR_FILE_RENAME = 8, /* path becomes other */
    PCTR_FILE_LINK = 9,   /* path is a new name of other */
    PCTR_FILE_CHMOD = 10,
    PCTR_FILE_CHOWN = 11,
    PCTR_FILE_UTIME = 12,
    PCTR_FILE_REMOVE_TREE = 13,
    PCTR_FILE_MKFIFO = 14,
    PCTR_FILE_SOCKET = 15,  /* flags: domain, mode: type; a new socket in the network namespace */
    PCTR_FILE_CONNECT = 16, /* a stream socket connected to the Unix socket at path */
};

/* For all verbs but OPEN. */
enum pctr_file_flag {
    PCTR_FILE_FOLLOW = 1,    /* STAT, CHMOD, CHOWN, UTIME: a link at the end is followed */
    PCTR_FILE_EXCLUSIVE = 2, /* RENAME: replaces nothing */
};

struct pctr_file_request {
    uint32_t verb;
    uint32_t flags;
    uint32_t mode;
    uint32_t uid; /* 0xffffffff: stays */
    uint32_t gid;
    uint32_t serial; /* comes back with the answer */
    int64_t atime_ns;
    int64_t mtime_ns;
};

/* `text` bytes follow: READLINK's content; REMOVE_TREE's failure: which path. */
struct pctr_file_reply {
    int32_t error; /* errno, or 0 */
    uint32_t text;
    uint32_t mode; /* STAT: this and what follows */
    uint32_t uid;
    uint32_t gid;
    uint32_t serial;
    uint64_t links;
    uint64_t inode;
    uint64_t device;
    uint64_t rdev;
    uint64_t length;
    uint64_t blocks;
    int64_t atime_ns;
    int64_t mtime_ns;
    int64_t ctime_ns;
};

struct pctr_address {
    uint32_t family;   /* AF_INET or AF_INET6 */
    uint8_t bytes[16]; /* in network order; AF_INET: the first four, the others are 0 */
};

#define PCTR_FORWARD_ADDRESSES 4

/* What FORWARD is asked: one struct pctr_forward_request a message, answered by one struct
 * pctr_forward_reply.  ADD brings one descriptor, a TCP socket that listens or a UDP socket that is
 * bound, mostly of another network namespace; it becomes non-blocking, for the host as well. */
enum pctr_forward_verb {
    PCTR_FORWARD_ADD = 1,    /* carry what comes to the socket to the first address that takes it */
    PCTR_FORWARD_REMOVE = 2, /* id: the socket is closed, its connections are reset */
};

enum pctr_forward_protocol {
    PCTR_FORWARD_TCP = 6,
    PCTR_FORWARD_UDP = 17,
};

struct pctr_forward_request {
    uint32_t verb;
    uint32_t serial; /* comes back with the answer */
    uint32_t id;     /* of the host's choice, and no other's */
    uint32_t protocol;
    uint32_t port;  /* in the network namespace that was joined */
    uint32_t count; /* of addresses, tried in their order */
    struct pctr_address addresses[PCTR_FORWARD_ADDRESSES];
};

struct pctr_forward_reply {
    uint32_t serial;
    int32_t error; /* errno, or 0 */
};

/* What IMPAIR is asked, one message each.  A port is two links, given by index: what comes in by one goes
 * out by the other.  SET is about how every port carries what comes from then on, also one that is
 * yet to be added, or with an `id` about that port's alone; what waits there is held to it, too.
 * Late or lost is only what comes in by the first link. */
enum pctr_impair_verb {
    PCTR_IMPAIR_ADD = 1,    /* id, links; it is impaired as SET for all has said */
    PCTR_IMPAIR_SET = 2,    /* id or 0, and what follows it in the request */
    PCTR_IMPAIR_REMOVE = 3, /* id; what waits there is lost */
};

struct pctr_impair_request {
    uint32_t verb;
    uint32_t serial; /* comes back with the answer */
    uint32_t id;     /* the host's number of a port, not 0 */
    int32_t links[2];
    uint32_t loss;      /* of 0xffffffff, that being all */
    uint64_t delay_ns;  /* at most PCTR_IMPAIR_MAX_DELAY_NS, as is jitter_ns */
    uint64_t jitter_ns; /* more, at random from 0 to this */
    uint64_t rate;      /* bytes per second in each direction, 0: any */
};

struct pctr_impair_reply {
    uint32_t serial;
    int32_t error; /* errno, or 0 */
};

#define PCTR_RESOLVE_ADDRESSES 8
#define PCTR_RESOLVE_TEXT 8192

/* What RESOLVE is asked, one message each: a struct pctr_resolve_request and `text` bytes of names, each
 * ended by NUL and of labels of 1 to 63 bytes, at most 253 in all. */
enum pctr_resolve_verb {
    PCTR_RESOLVE_BEGIN =
        1, /* once: listen at the first `count` addresses, and ask the `servers` that
                                follow them about what is not known here; without one it is unknown */
    PCTR_RESOLVE_ADD =
        2, /* id; whoever is called so has these addresses. Others may be called so, too */
    PCTR_RESOLVE_REMOVE = 3, /* id */
};

struct pctr_resolve_request {
    uint32_t verb;
    uint32_t serial; /* comes back with the answer */
    uint32_t id;     /* of the host's choice, not 0 */
    uint32_t count;
    uint32_t servers; /* at most 3 */
    uint32_t text;
    struct pctr_address addresses[PCTR_RESOLVE_ADDRESSES];
};

struct pctr_resolve_reply {
    uint32_t serial;
    int32_t error; /* errno, or 0 */
};

#endif
