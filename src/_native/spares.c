#define _GNU_SOURCE
#include "spares.h"

#include "aside.h"
#include "protocol.h"
#include "tree.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { PLACES = 8, NAME_SIZE = sizeof "spare-00" };

/* A place of a directory, and of what is mounted there. */
struct place {
    enum { EMPTY, BEING_CLEANED, CLEAN } state;
    uint64_t stack;  /* what that is made of; 0: nothing is */
    int root;        /* that */
    uint64_t due_ns; /* when it is taken down */
};

static struct {
    char parent[PATH_MAX]; /* of all of them */
    struct place places[PLACES];
} spares;

static void
name_of(unsigned place, char *name)
{
    (void)snprintf(name, NAME_SIZE, "spare-%u", place % PLACES);
}

static int
open_parent(void)
{
    return pctr_openat2(AT_FDCWD, spares.parent, O_PATH | O_DIRECTORY, 0, 0);
}

static int
rename_new(int parent, const char *from, const char *to)
{
    return pctr_result(syscall(SYS_renameat2, parent, from, parent, to, RENAME_NOREPLACE));
}

static void
take_down(struct place *place)
{
    if (place->stack != 0) {
        pctr_aside_close(&place->root);
        place->stack = 0;
    }
}

/* Makes one that is mounted so the directory `name`: 1, 0 where there is none, or -errno. */
static int
take(int at, const char *name, uint64_t stack, int *root)
{
    char spare[NAME_SIZE];

    for (unsigned i = 0; i < PLACES; i++) {
        struct place *place = &spares.places[i];
        if (place->state != CLEAN || place->stack != stack) {
            continue;
        }
        name_of(i, spare);
        int error = rename_new(at, spare, name);
        if (error < 0 && error != -ENOENT) {
            return error;
        }
        place->state = EMPTY;
        if (error == 0) {
            *root = stack != 0 ? place->root : -1;
            place->stack = 0;
            return 1;
        }
        take_down(place);
    }
    return 0;
}

int
pctr_spares_take(const char *parent, const char *name, uint64_t stack)
{
    int root = -1;

    if (strcmp(parent, spares.parent) != 0) {
        return -1;
    }
    PCTR_AUTO_FD at = open_parent();
    if (take(at, name, stack, &root) == 0 && stack != 0) {
        (void)take(at, name, 0, &root);
    }
    return root;
}

struct entry {
    uint64_t ino;
    int64_t off;
    uint16_t length;
    uint8_t type;
    char name[];
};

/* Whether the directory holds nothing but what may be there. */
static bool
holds_only(int directory, const char *const *allowed, unsigned count)
{
    _Alignas(struct entry) char buffer[512];
    long got = syscall(SYS_getdents64, directory, buffer, sizeof buffer);

    /* What did not fit is too much. */
    if (got < 0 || got > (long)sizeof buffer - NAME_MAX) {
        return false;
    }
    for (long at = 0; at < got;) {
        const struct entry *entry = (const struct entry *)(const void *)(buffer + at);
        bool known = strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0;
        for (unsigned i = 0; i < count && !known; i++) {
            known = strcmp(entry->name, allowed[i]) == 0;
        }
        if (!known) {
            return false;
        }
        at += entry->length;
    }
    return true;
}

/* Mount points that the image lacks are made in every container. */
static const char *const mount_points[] = {"proc", "sys", "dev"};

static bool
unused(int directory)
{
    PCTR_AUTO_FD upper = pctr_openat2(directory, "upper", O_RDONLY | O_DIRECTORY, 0, 0);

    return upper >= 0 && holds_only(upper, mount_points, 3);
}

/* Takes away what overlay makes, and mount points. */
static void
strip(int directory)
{
    static const char *const left[] = {
        "work/work/incompat/volatile",
        "work/work/incompat",
        "work/work",
        "upper/proc",
        "upper/sys",
        "upper/dev",
    };

    (void)unlinkat(directory, "work/work/incompat/volatile/dirty", 0);
    for (unsigned i = 0; i < sizeof left / sizeof left[0]; i++) {
        (void)unlinkat(directory, left[i], AT_REMOVEDIR);
    }
}

bool
pctr_spares_remove(int parent, const char *name)
{
    PCTR_AUTO_FD directory =
        pctr_result(openat(parent, name, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));

    if (directory < 0) {
        return directory == -ENOENT;
    }
    strip(directory);
    (void)unlinkat(directory, "work", AT_REMOVEDIR);
    (void)unlinkat(directory, "upper", AT_REMOVEDIR);
    return unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

/* Those of another store are in its way. */
static bool
move_to(const char *parent)
{
    char name[NAME_SIZE];

    if (strcmp(parent, spares.parent) == 0) {
        return true;
    }
    PCTR_AUTO_FD at = open_parent();
    for (unsigned i = 0; i < PLACES; i++) {
        if (spares.places[i].state == BEING_CLEANED) {
            return false;
        }
        if (spares.places[i].state == CLEAN) {
            take_down(&spares.places[i]);
            name_of(i, name);
            (void)pctr_spares_remove(at, name);
            spares.places[i].state = EMPTY;
        }
    }
    if (strlen(parent) >= sizeof spares.parent) {
        return false;
    }
    pctr_copy_text(spares.parent, sizeof spares.parent, parent);
    return true;
}

bool
pctr_spares_give(const char *parent, const char *name, int *root, uint64_t stack)
{
    unsigned i = 0;
    char spare[NAME_SIZE];
    bool mounted = *root >= 0 && stack != 0;

    if (!move_to(parent)) {
        return false;
    }
    while (i < PLACES && spares.places[i].state != EMPTY) {
        i++;
    }
    if (i == PLACES) {
        return false;
    }
    PCTR_AUTO_FD at = open_parent();
    PCTR_AUTO_FD directory = pctr_openat2(at, name, O_PATH | O_DIRECTORY, 0, 0);
    name_of(i, spare);
    if (directory < 0 || !unused(directory) || rename_new(at, name, spare) < 0) {
        return false;
    }
    if (pctr_aside_order(mounted ? PCTR_ASIDE_CHECK : PCTR_ASIDE_CLEAN, i, directory) < 0) {
        /* Nobody will clean it. */
        (void)rename_new(at, spare, name);
        return false;
    }
    spares.places[i] = (struct place){
        .state = BEING_CLEANED,
        .stack = mounted ? stack : 0,
        .root = mounted ? pctr_steal_fd(root) : -1,
    };
    return true;
}

void
pctr_spares_cleaned(unsigned place, bool clean)
{
    if (place >= PLACES || spares.places[place].state != BEING_CLEANED) {
        return;
    }
    spares.places[place].state = clean ? CLEAN : EMPTY;
    spares.places[place].due_ns = pctr_now_ns() + PCTR_READY_NS;
    if (!clean) {
        take_down(&spares.places[place]);
    }
}

void
pctr_spares_abandoned(void)
{
    for (unsigned i = 0; i < PLACES; i++) {
        pctr_spares_cleaned(i, false);
    }
}

static bool
is_mounted(const struct place *place)
{
    return place->state == CLEAN && place->stack != 0;
}

int
pctr_spares_wait(void)
{
    uint64_t soonest = UINT64_MAX;

    for (unsigned i = 0; i < PLACES; i++) {
        if (is_mounted(&spares.places[i]) && spares.places[i].due_ns < soonest) {
            soonest = spares.places[i].due_ns;
        }
    }
    return soonest == UINT64_MAX ? -1 : pctr_ms_until(soonest);
}

void
pctr_spares_due(void)
{
    if (pctr_spares_wait() != 0) {
        return;
    }
    char name[NAME_SIZE];
    uint64_t now = pctr_now_ns();
    PCTR_AUTO_FD at = open_parent();
    for (unsigned i = 0; i < PLACES; i++) {
        struct place *place = &spares.places[i];
        if (!is_mounted(place) || place->due_ns > now) {
            continue;
        }
        name_of(i, name);
        PCTR_AUTO_FD directory = pctr_openat2(at, name, O_PATH | O_DIRECTORY, 0, 0);
        take_down(place);
        place->state = BEING_CLEANED;
        if (directory < 0) {
            place->state = EMPTY;
        }
        else if (pctr_aside_order(PCTR_ASIDE_CLEAN, i, directory) < 0) {
            pctr_spares_cleaned(i, pctr_spares_clean(directory, i, false));
        }
    }
}

/* Its attributes, of which a container can change more than stat(2) shows (ioctl_iflags(2)). */
struct looks {
    struct stat status;
    unsigned flags;
    struct fsxattr extended;
};

static bool
look(int directory, struct looks *looks)
{
    memset(looks, 0, sizeof *looks);
    /* Not every file system has them. */
    (void)ioctl(directory, FS_IOC_GETFLAGS, &looks->flags);
    (void)ioctl(directory, FS_IOC_FSGETXATTR, &looks->extended);
    return fstat(directory, &looks->status) == 0;
}

/* What overlay itself gives an upper directory, once. */
static bool
has_no_attributes(int directory)
{
    char names[sizeof "trusted.overlay.uuid"];
    ssize_t size = flistxattr(directory, names, sizeof names);

    return size == 0 || (size < 0 && errno == EOPNOTSUPP) ||
           (size > 0 && (strcmp(names, "trusted.overlay.uuid") == 0 ||
                         strcmp(names, "user.overlay.uuid") == 0));
}

/* Whether nothing is left in what overlay works in but its mark that it does. */
static bool
rests(int work)
{
    static const char *const own[] = {"work"}, *const marks[] = {"incompat"};
    PCTR_AUTO_FD inner = pctr_openat2(work, "work", O_RDONLY | O_DIRECTORY, 0, 0);

    return inner >= 0 && holds_only(work, own, 1) && holds_only(inner, marks, 1);
}

/* Whether the mount points are as they were made. */
static bool
are_new(int upper, const struct looks *made)
{
    for (unsigned i = 0; i < sizeof mount_points / sizeof mount_points[0]; i++) {
        struct stat status;
        PCTR_AUTO_FD point = pctr_openat2(upper, mount_points[i], O_RDONLY | O_DIRECTORY, 0, 0);
        if (point == -ENOENT) {
            continue;
        }
        if (point < 0 || fstat(point, &status) < 0 || status.st_mode != (S_IFDIR | 0755) ||
            status.st_uid != made->status.st_uid || status.st_gid != made->status.st_gid ||
            !holds_only(point, NULL, 0)) {
            return false;
        }
    }
    return true;
}

/* No container sees the work directory: so that is what the other looked like when it was made, but for
 * its size where both hold something. */
static bool
as_new(int directory, bool mounted)
{
    struct looks made, now;
    PCTR_AUTO_FD work = pctr_openat2(directory, "work", O_RDONLY | O_DIRECTORY, 0, 0);
    PCTR_AUTO_FD upper = pctr_openat2(directory, "upper", O_RDONLY | O_DIRECTORY, 0, 0);

    if (work < 0 || upper < 0 || !look(work, &made) || !look(upper, &now)) {
        return false;
    }
    if (mounted ? !rests(work) || !holds_only(upper, mount_points, 3) || !are_new(upper, &made)
                : !holds_only(work, NULL, 0) || !holds_only(upper, NULL, 0)) {
        return false;
    }
    now.extended.fsx_xflags &= ~(unsigned)FS_XFLAG_HASATTR;
    made.extended.fsx_xflags &= ~(unsigned)FS_XFLAG_HASATTR;
    bool as_large = now.status.st_size == made.status.st_size ||
                    (mounted && now.status.st_size <= now.status.st_blksize);
    return now.status.st_mode == (S_IFDIR | 0755) && now.status.st_uid == made.status.st_uid &&
           now.status.st_gid == made.status.st_gid && as_large && now.flags == made.flags &&
           memcmp(&now.extended, &made.extended, sizeof now.extended) == 0 &&
           has_no_attributes(upper) && futimens(upper, NULL) == 0;
}

bool
pctr_spares_clean(int directory, unsigned place, bool mounted)
{
    struct pctr_tree_error error;
    char name[NAME_SIZE];

    if (!mounted) {
        strip(directory);
    }
    if (as_new(directory, mounted)) {
        return true;
    }
    PCTR_AUTO_FD parent = openat(directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    name_of(place, name);
    (void)pctr_tree_remove(parent, name, &error);
    return false;
}
