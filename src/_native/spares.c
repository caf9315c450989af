#define _GNU_SOURCE
#include "spares.h"

#include "aside.h"
#include "tree.h"
#include "util.h"

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

static struct {
    char parent[PATH_MAX]; /* of all of them */
    enum { EMPTY, BEING_CLEANED, CLEAN } places[PLACES];
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

void
pctr_spares_take(const char *parent, const char *name)
{
    char spare[NAME_SIZE];

    if (strcmp(parent, spares.parent) != 0) {
        return;
    }
    PCTR_AUTO_FD at = open_parent();
    for (unsigned place = 0; place < PLACES; place++) {
        if (spares.places[place] == CLEAN) {
            name_of(place, spare);
            int error = rename_new(at, spare, name);
            if (error == 0 || error == -ENOENT) {
                spares.places[place] = EMPTY;
            }
            if (error != -ENOENT) {
                return;
            }
        }
    }
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

/* Those of another store are in its way. */
static bool
move_to(const char *parent)
{
    static const char *const inner[] = {"work", "upper"};
    char name[NAME_SIZE], path[NAME_SIZE + sizeof "/upper"];

    if (strcmp(parent, spares.parent) == 0) {
        return true;
    }
    PCTR_AUTO_FD at = open_parent();
    for (unsigned place = 0; place < PLACES; place++) {
        if (spares.places[place] == BEING_CLEANED) {
            return false;
        }
        if (spares.places[place] == CLEAN) {
            name_of(place, name);
            for (unsigned i = 0; i < 2; i++) {
                (void)snprintf(path, sizeof path, "%s/%s", name, inner[i]);
                (void)unlinkat(at, path, AT_REMOVEDIR);
            }
            (void)unlinkat(at, name, AT_REMOVEDIR);
            spares.places[place] = EMPTY;
        }
    }
    if (strlen(parent) >= sizeof spares.parent) {
        return false;
    }
    pctr_copy_text(spares.parent, sizeof spares.parent, parent);
    return true;
}

bool
pctr_spares_give(const char *parent, const char *name)
{
    unsigned place = 0;
    char spare[NAME_SIZE];

    if (!move_to(parent)) {
        return false;
    }
    while (place < PLACES && spares.places[place] != EMPTY) {
        place++;
    }
    if (place == PLACES) {
        return false;
    }
    PCTR_AUTO_FD at = open_parent();
    PCTR_AUTO_FD directory = pctr_openat2(at, name, O_PATH | O_DIRECTORY, 0, 0);
    name_of(place, spare);
    if (directory < 0 || !unused(directory) || rename_new(at, name, spare) < 0) {
        return false;
    }
    if (pctr_aside_order(PCTR_ASIDE_CLEAN, place, directory) < 0) {
        /* Nobody will clean it. */
        (void)rename_new(at, spare, name);
        return false;
    }
    spares.places[place] = BEING_CLEANED;
    return true;
}

void
pctr_spares_cleaned(unsigned place, bool clean)
{
    if (place < PLACES && spares.places[place] == BEING_CLEANED) {
        spares.places[place] = clean ? CLEAN : EMPTY;
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

/* No container sees the work directory: so that is what the other looked like when it was made. */
static bool
as_new(int directory)
{
    struct looks made, now;
    PCTR_AUTO_FD work = pctr_openat2(directory, "work", O_RDONLY | O_DIRECTORY, 0, 0);
    PCTR_AUTO_FD upper = pctr_openat2(directory, "upper", O_RDONLY | O_DIRECTORY, 0, 0);

    if (work < 0 || upper < 0 || !holds_only(work, NULL, 0) || !holds_only(upper, NULL, 0) ||
        !look(work, &made) || !look(upper, &now)) {
        return false;
    }
    now.extended.fsx_xflags &= ~(unsigned)FS_XFLAG_HASATTR;
    made.extended.fsx_xflags &= ~(unsigned)FS_XFLAG_HASATTR;
    return now.status.st_mode == (S_IFDIR | 0755) && now.status.st_uid == made.status.st_uid &&
           now.status.st_gid == made.status.st_gid && now.status.st_size == made.status.st_size &&
           now.flags == made.flags &&
           memcmp(&now.extended, &made.extended, sizeof now.extended) == 0 &&
           has_no_attributes(upper) && futimens(upper, NULL) == 0;
}

void
pctr_spares_strip(int directory)
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
pctr_spares_clean(int directory, unsigned place)
{
    struct pctr_tree_error error;
    char name[NAME_SIZE];

    pctr_spares_strip(directory);
    if (as_new(directory)) {
        return true;
    }
    PCTR_AUTO_FD parent = openat(directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    name_of(place, name);
    (void)pctr_tree_remove(parent, name, &error);
    return false;
}
