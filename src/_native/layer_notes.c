#define _GNU_SOURCE
#include "layer_notes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MARK_TRUSTED "trusted.pycontainer.implied"
#define MARK_USER "user.pycontainer.implied"

bool
pctr_layer_keeps_xattr(const char *name)
{
    if (strcmp(name, "security.capability") == 0) {
        return true;
    }
    return strncmp(name, "user.", 5) == 0 && strncmp(name, "user.overlay.", 13) != 0 &&
           strncmp(name, "user.pycontainer.", 17) != 0;
}

bool
pctr_layer_is_mark(const char *name)
{
    return strcmp(name, MARK_TRUSTED) == 0 || strcmp(name, MARK_USER) == 0;
}

const char *
pctr_layer_mark(uint32_t flags)
{
    return (flags & PCTR_LAYER_USERXATTR) != 0 ? MARK_USER : MARK_TRUSTED;
}

void
pctr_layer_notes_begin(struct pctr_layer_notes *notes, const struct pctr_layer_limits *limits)
{
    notes->path = limits->notes;
    notes->mark = pctr_layer_mark(limits->flags);
    notes->fd = -1;
    notes->used = 0;
}

static int
flush(struct pctr_layer_notes *notes)
{
    size_t done = 0;
    if (notes->fd < 0 && notes->used > 0) {
        notes->fd = open(notes->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                         S_IRUSR | S_IWUSR);
        if (notes->fd < 0) {
            return -1;
        }
    }
    while (done < notes->used) {
        ssize_t put = write(notes->fd, notes->buffer + done, notes->used - done);
        if (put < 0 && errno != EINTR) {
            return -1;
        }
        done += put > 0 ? (size_t)put : 0;
    }
    notes->used = 0;
    return 0;
}

/* A path is shorter than the buffer. */
static int
append(struct pctr_layer_notes *notes, const char *text)
{
    size_t size = strlen(text) + 1;
    if (size > sizeof(notes->buffer) - notes->used && flush(notes) < 0) {
        return -1;
    }
    memcpy(notes->buffer + notes->used, text, size);
    notes->used += size;
    return 0;
}

int
pctr_layer_note_implied(struct pctr_layer_notes *notes, int fd, const char *path)
{
    if (notes->path == NULL) {
        return 0;
    }
    if (fsetxattr(fd, notes->mark, "y", 1, 0) < 0) {
        return errno == ENOTSUP || errno == EPERM ? 0 : -1;
    }
    return append(notes, path);
}

int
pctr_layer_unmark(const struct pctr_layer_notes *notes, int fd)
{
    if (notes->path == NULL || fremovexattr(fd, notes->mark) == 0) {
        return 0;
    }
    return errno == ENODATA || errno == ENOTSUP || errno == EPERM ? 0 : -1;
}

int
pctr_layer_notes_end(struct pctr_layer_notes *notes, bool root_opaque)
{
    int status = 0;
    if (notes->path != NULL) {
        status = root_opaque ? append(notes, "/") : 0;
        if (status == 0) {
            status = flush(notes);
        }
    }
    if (notes->fd >= 0 && close(notes->fd) < 0) {
        status = -1;
    }
    notes->fd = -1;
    return status;
}
