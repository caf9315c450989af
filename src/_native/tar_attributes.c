#define _GNU_SOURCE
#include "tar_attributes.h"

#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

/* What is the machine's, overlay's or the runtime's own, stays. */
static bool
travels(const char *name)
{
    if (strncmp(name, "user.", 5) == 0) {
        return strncmp(name, "user.overlay.", 13) != 0 &&
               strncmp(name, "user.pycontainer.", 17) != 0;
    }
    return strcmp(name, "security.capability") == 0;
}

/* Looks at an attribute that may be overlay's. */
static enum pctr_tar_write_code
judge_mark(int fd, uint32_t flags, const char *name, bool *opaque)
{
    const char *prefix = (flags & PCTR_TAR_WRITE_USERXATTR) ? "user.overlay." : "trusted.overlay.";
    char value = '\0';

    if (strncmp(name, prefix, strlen(prefix)) != 0) {
        return PCTR_TAR_WRITE_OK;
    }
    const char *mark = name + strlen(prefix);
    if (strcmp(mark, "redirect") == 0 || strcmp(mark, "metacopy") == 0 ||
        strcmp(mark, "whiteout") == 0) {
        return PCTR_TAR_WRITE_PARTIAL;
    }
    if (strcmp(mark, "opaque") != 0) {
        return PCTR_TAR_WRITE_OK;
    }
    /* ERANGE: overlay heeds a single byte only. */
    if (fgetxattr(fd, name, &value, 1) < 0 && errno != ERANGE) {
        return PCTR_TAR_WRITE_READ;
    }
    *opaque = value == 'y';
    /* "x" says that whiteouts in it are marked by attributes. */
    return value == 'x' ? PCTR_TAR_WRITE_PARTIAL : PCTR_TAR_WRITE_OK;
}

static int
compare(const void *left, const void *right)
{
    const char *const *a = left, *const *b = right;
    return strcmp(*a, *b);
}

static enum pctr_tar_write_code
take(int fd, const char *name, struct pctr_tar_records *records)
{
    static char value[XATTR_SIZE_MAX];
    ssize_t size = fgetxattr(fd, name, value, sizeof(value));

    if (size < 0 && errno == EOVERFLOW && strcmp(name, "security.capability") == 0) {
        /* It speaks of the root of a user namespace that is not ours: here, nobody has it. */
        return PCTR_TAR_WRITE_OK;
    }
    if (size < 0) {
        return PCTR_TAR_WRITE_READ;
    }
    if (strchr(name, '=') != NULL) {
        return PCTR_TAR_WRITE_ATTRIBUTE;
    }
    return pctr_tar_records_add(records, "SCHILY.xattr.", name, value, (size_t)size) < 0
               ? PCTR_TAR_WRITE_TOO_LONG
               : PCTR_TAR_WRITE_OK;
}

/* Sorts out the list that the kernel gave: *count of `names` are to be taken. */
static enum pctr_tar_write_code
choose(int fd, uint32_t flags, const char *list, size_t size, const char **names, size_t *count,
       bool *opaque)
{
    *count = 0;
    for (const char *name = list; name < list + size; name += strlen(name) + 1) {
        if (flags & PCTR_TAR_WRITE_UPPER) {
            enum pctr_tar_write_code code = judge_mark(fd, flags, name, opaque);
            if (code != PCTR_TAR_WRITE_OK) {
                return code;
            }
        }
        if (travels(name)) {
            if (*count == PCTR_TAR_XATTRS) {
                return PCTR_TAR_WRITE_TOO_LONG;
            }
            names[(*count)++] = name;
        }
    }
    qsort(names, *count, sizeof(*names), compare);
    return PCTR_TAR_WRITE_OK;
}

enum pctr_tar_write_code
pctr_tar_attributes(int fd, uint32_t flags, struct pctr_tar_records *records, bool *opaque)
{
    static char list[XATTR_LIST_MAX];
    const char *names[PCTR_TAR_XATTRS];
    size_t count;
    ssize_t size = flistxattr(fd, list, sizeof(list));

    *opaque = false;
    pctr_tar_records_clear(records);
    if (size < 0) {
        return errno == EOPNOTSUPP ? PCTR_TAR_WRITE_OK : PCTR_TAR_WRITE_READ;
    }
    enum pctr_tar_write_code code = choose(fd, flags, list, (size_t)size, names, &count, opaque);
    for (size_t i = 0; code == PCTR_TAR_WRITE_OK && i < count; i++) {
        code = take(fd, names[i], records);
    }
    return code;
}
