#define _GNU_SOURCE
#include "made.h"

#include <linux/magic.h>
#include <stdio.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#define TRUSTED "trusted.pycontainer.made"
#define USER "user.pycontainer.made"

struct way {
    char path[32];
};

/* The calls for attributes take no O_PATH descriptor (open(2)). */
static struct way
way_to(int fd)
{
    struct way way;

    snprintf(way.path, sizeof way.path, "/proc/self/fd/%d", fd);
    return way;
}

void
pctr_mark_made(int fd)
{
    struct statfs status;
    struct way way = way_to(fd);

    if (fstatfs(fd, &status) < 0 || status.f_type != OVERLAYFS_SUPER_MAGIC) {
        return;
    }
    /* Refused in a user namespace. */
    if (setxattr(way.path, TRUSTED, "", 0, 0) < 0) {
        (void)!setxattr(way.path, USER, "", 0, 0);
    }
}

bool
pctr_is_made(int fd)
{
    struct way way = way_to(fd);

    return getxattr(way.path, TRUSTED, NULL, 0) >= 0 || getxattr(way.path, USER, NULL, 0) >= 0;
}
