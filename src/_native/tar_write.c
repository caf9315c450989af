#define _GNU_SOURCE
#include "tar_write.h"

#include "hardlinks.h"
#include "names.h"
#include "tar_attributes.h"
#include "tar_head.h"
#include "util.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEPTH (PCTR_TAR_PATH / 2 + 1) /* more levels make no path that readers take */
#define MEMORY (512u << 20)           /* bytes for names and hard links */
#define RECORD (20u * PCTR_TAR_BLOCK) /* archives are padded to these, as tar(1) does */
#define WHITEOUT ".wh."
#define WHITEOUT_SIZE (sizeof(WHITEOUT) - 1)
#define WHITEOUT_OPAQUE ".wh..wh..opq"
#define WHITEOUT_MODE 0600
#define OPEN_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

struct level {
    int fd;
    size_t prefix; /* bytes of the path that are this directory's, its slash included */
    struct pctr_names names;
    size_t next;
};

struct writer {
    const struct pctr_tar_write_options *options;
    struct pctr_tar_write_error *error;
    int64_t newest;
    size_t budget; /* bytes of memory that may still be taken */
    struct pctr_hardlinks links;
    size_t depth;             /* levels in use */
    char path[PCTR_TAR_PATH]; /* of the current entry */
    struct level levels[DEPTH];
    struct pctr_tar_records records;
    struct pctr_tar_out out;
};

static int
fail(struct writer *writer, enum pctr_tar_write_code code, int err)
{
    struct pctr_tar_write_error *error = writer->error;
    size_t length = strlen(writer->path), room = sizeof(error->path) - 1;

    error->code = (int32_t)code;
    error->err = err;
    length -= length > 0 && writer->path[length - 1] == '/' ? 1 : 0;
    if (length <= room) {
        memcpy(error->path, writer->path, length);
        error->path[length] = '\0';
    }
    else {
        /* The end says more than the beginning. */
        memcpy(error->path, "...", 3);
        memcpy(error->path + 3, writer->path + length - (room - 3), room - 3);
        error->path[room] = '\0';
    }
    return -1;
}

/* A system call on the current entry failed. */
static int
fail_read(struct writer *writer)
{
    return fail(writer, PCTR_TAR_WRITE_READ, errno);
}

static int
fail_output(struct writer *writer)
{
    return fail(writer, PCTR_TAR_WRITE_OUTPUT, writer->out.err);
}

static int
fail_memory(struct writer *writer, int error)
{
    return error == -ENOMEM ? fail(writer, PCTR_TAR_WRITE_TOO_MANY, ENOMEM)
                            : fail(writer, PCTR_TAR_WRITE_READ, -error);
}

static struct level *
top(struct writer *writer)
{
    return &writer->levels[writer->depth - 1];
}

static bool
is_upper(const struct writer *writer)
{
    return (writer->options->flags & PCTR_TAR_WRITE_UPPER) != 0;
}

/* Makes the path that of an entry in the directory whose part of it is `prefix` bytes long. */
static int
set_path(struct writer *writer, size_t prefix, const char *mark, const char *name)
{
    size_t marked = strlen(mark), length = strlen(name);

    if (prefix + marked + length + 1 > sizeof(writer->path)) {
        writer->path[prefix] = '\0';
        return fail(writer, PCTR_TAR_WRITE_TOO_LONG, 0);
    }
    memcpy(writer->path + prefix, mark, marked);
    memcpy(writer->path + prefix + marked, name, length + 1);
    return 0;
}

/* What every entry has: owner, mode and time of the file. */
static struct pctr_tar_head
look_of(const struct writer *writer, const struct stat *status, enum pctr_tar_flag type)
{
    const struct pctr_tar_write_options *options = writer->options;
    int64_t mtime = status->st_mtim.tv_sec;

    return (struct pctr_tar_head){
        .type = type,
        .mode = status->st_mode & 07777,
        .uid = status->st_uid == options->root_uid ? 0 : status->st_uid,
        .gid = status->st_gid == options->root_gid ? 0 : status->st_gid,
        .mtime = mtime < options->latest ? mtime : options->latest,
        .path = writer->path,
        .link = "",
    };
}

/* Writes the header, with the attributes that are in the records already. */
static int
put_head(struct writer *writer, const struct pctr_tar_head *head)
{
    writer->newest = head->mtime > writer->newest ? head->mtime : writer->newest;
    if (pctr_tar_head_put(&writer->out, head, &writer->records) == 0) {
        return 0;
    }
    return writer->out.err != 0 ? fail_output(writer) : fail(writer, PCTR_TAR_WRITE_TOO_LONG, 0);
}

/* An empty file whose name says that something of the lower layers is gone. It looks the same
 * whenever and by whomever that was taken away. */
static int
put_whiteout(struct writer *writer)
{
    struct pctr_tar_head head = {
        .type = PCTR_TAR_FLAG_FILE, .mode = WHITEOUT_MODE, .path = writer->path, .link = ""};

    pctr_tar_records_clear(&writer->records);
    if (pctr_tar_head_put(&writer->out, &head, &writer->records) == 0) {
        return 0;
    }
    return writer->out.err != 0 ? fail_output(writer) : fail(writer, PCTR_TAR_WRITE_TOO_LONG, 0);
}

/* Begins the records with the file's attributes; *opaque tells of overlay's mark. */
static int
take_attributes(struct writer *writer, int fd, bool *opaque)
{
    enum pctr_tar_write_code code =
        pctr_tar_attributes(fd, writer->options->flags, &writer->records, opaque);

    if (code == PCTR_TAR_WRITE_OK) {
        return 0;
    }
    return fail(writer, code, code == PCTR_TAR_WRITE_READ ? errno : 0);
}

/* Goes down into an open directory, which becomes the level's own. */
static int
push(struct writer *writer, int *fd)
{
    struct level *level = &writer->levels[writer->depth++];

    *level = (struct level){.fd = pctr_steal_fd(fd), .prefix = strlen(writer->path)};
    int error = pctr_names_read(&level->names, level->fd, &writer->budget);
    return error < 0 ? fail_memory(writer, error) : 0;
}

static void
pop(struct writer *writer)
{
    struct level *level = &writer->levels[--writer->depth];

    pctr_close(&level->fd);
    pctr_names_free(&level->names, &writer->budget);
}

static int
put_directory(struct writer *writer, const char *name)
{
    struct stat status;
    bool opaque;
    PCTR_AUTO_FD fd = openat(top(writer)->fd, name, OPEN_FLAGS | O_DIRECTORY);

    if (fd < 0 || fstat(fd, &status) < 0) {
        return fail_read(writer);
    }
    size_t prefix = top(writer)->prefix;
    if (set_path(writer, prefix, "", name) < 0 ||
        set_path(writer, prefix + strlen(name), "", "/") < 0) {
        return -1;
    }
    struct pctr_tar_head head = look_of(writer, &status, PCTR_TAR_FLAG_DIRECTORY);
    if (take_attributes(writer, fd, &opaque) < 0 || put_head(writer, &head) < 0 ||
        push(writer, &fd) < 0) {
        return -1;
    }
    if (!opaque) {
        return 0;
    }
    if (set_path(writer, top(writer)->prefix, "", WHITEOUT_OPAQUE) < 0) {
        return -1;
    }
    return put_whiteout(writer);
}

static int
put_content(struct writer *writer, int fd, uint64_t size)
{
    for (uint64_t left = size; left > 0;) {
        size_t room;
        unsigned char *to = pctr_tar_out_room(&writer->out, &room);
        if (to == NULL) {
            return fail_output(writer);
        }
        ssize_t got = read(fd, to, left < room ? (size_t)left : room);
        if (got < 0 && errno != EINTR) {
            return fail_read(writer);
        }
        if (got == 0) {
            return fail(writer, PCTR_TAR_WRITE_CHANGED, 0);
        }
        if (got > 0) {
            pctr_tar_out_filled(&writer->out, (size_t)got);
            left -= (uint64_t)got;
        }
    }
    if (pctr_tar_out_zeros(&writer->out, (size_t)(-size % PCTR_TAR_BLOCK)) < 0) {
        return fail_output(writer);
    }
    return 0;
}

static bool
is_same(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Writes an open file's entry and content. */
static int
put_open_file(struct writer *writer, int fd, const struct stat *before)
{
    struct pctr_tar_head head = look_of(writer, before, PCTR_TAR_FLAG_FILE);
    struct stat after;
    const char *first = NULL;
    bool opaque;

    if (before->st_nlink > 1) {
        int error = pctr_hardlinks_enter(&writer->links, before->st_dev, before->st_ino,
                                         writer->path, &writer->budget, &first);
        if (error < 0) {
            return fail_memory(writer, error);
        }
    }
    if (first != NULL) {
        head.type = PCTR_TAR_FLAG_HARD_LINK;
        head.link = first;
        pctr_tar_records_clear(&writer->records);
        return put_head(writer, &head);
    }
    head.size = (uint64_t)before->st_size;
    if (take_attributes(writer, fd, &opaque) < 0 || put_head(writer, &head) < 0 ||
        put_content(writer, fd, head.size) < 0) {
        return -1;
    }
    if (fstat(fd, &after) < 0) {
        return fail_read(writer);
    }
    return is_same(before, &after) ? 0 : fail(writer, PCTR_TAR_WRITE_CHANGED, 0);
}

static int
put_file(struct writer *writer, const char *name)
{
    struct stat status;
    PCTR_AUTO_FD fd = openat(top(writer)->fd, name, OPEN_FLAGS);

    if (fd < 0 || fstat(fd, &status) < 0) {
        return fail_read(writer);
    }
    if (!S_ISREG(status.st_mode)) {
        return fail(writer, PCTR_TAR_WRITE_CHANGED, 0);
    }
    return put_open_file(writer, fd, &status);
}

static int
put_symlink(struct writer *writer, const char *name, const struct stat *status)
{
    char target[PCTR_TAR_PATH];
    struct pctr_tar_head head = look_of(writer, status, PCTR_TAR_FLAG_SYMLINK);
    ssize_t length = readlinkat(top(writer)->fd, name, target, sizeof(target));

    if (length < 0) {
        return fail_read(writer);
    }
    if ((size_t)length == sizeof(target)) {
        return fail(writer, PCTR_TAR_WRITE_TOO_LONG, 0);
    }
    target[length] = '\0';
    head.link = target;
    pctr_tar_records_clear(&writer->records);
    return put_head(writer, &head);
}

static int
put_node(struct writer *writer, const char *name, const struct stat *status)
{
    struct pctr_tar_head head = look_of(writer, status, PCTR_TAR_FLAG_FIFO);

    if (is_upper(writer) && S_ISCHR(status->st_mode) && status->st_rdev == 0) {
        /* No reader takes a component of more than NAME_MAX bytes. */
        if (strlen(name) + WHITEOUT_SIZE > NAME_MAX) {
            return fail(writer, PCTR_TAR_WRITE_TOO_LONG, 0);
        }
        if (set_path(writer, top(writer)->prefix, WHITEOUT, name) < 0) {
            return -1;
        }
        return put_whiteout(writer);
    }
    if (!S_ISFIFO(status->st_mode)) {
        head.type = S_ISCHR(status->st_mode) ? PCTR_TAR_FLAG_CHAR : PCTR_TAR_FLAG_BLOCK_DEVICE;
        head.major = major(status->st_rdev);
        head.minor = minor(status->st_rdev);
    }
    pctr_tar_records_clear(&writer->records);
    return put_head(writer, &head);
}

static bool
is_left_out(const struct writer *writer)
{
    const char *path = writer->options->without;

    for (; path != NULL && *path != '\0'; path += strlen(path) + 1) {
        if (strcmp(path, writer->path) == 0) {
            return true;
        }
    }
    return false;
}

/* Writes one entry of the topmost directory. `kind` is what its listing said: the calls that follow
 * find out whether that is still so. */
static int
put_entry(struct writer *writer, const char *name, unsigned char kind)
{
    struct stat status = {.st_mode = DTTOIF(kind)};

    if (set_path(writer, top(writer)->prefix, "", name) < 0) {
        return -1;
    }
    if (is_left_out(writer)) {
        return 0;
    }
    if (kind != DT_DIR && kind != DT_REG &&
        fstatat(top(writer)->fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        bool merged = (writer->options->flags & PCTR_TAR_WRITE_MERGED) != 0;
        return merged && kind == DT_CHR && errno == ENOENT ? 0 : fail_read(writer);
    }
    if (S_ISSOCK(status.st_mode)) {
        /* tar has no type for sockets, and one without its program means nothing. */
        return 0;
    }
    if (strncmp(name, WHITEOUT, WHITEOUT_SIZE) == 0) {
        return fail(writer, PCTR_TAR_WRITE_MARKED, 0);
    }
    switch (status.st_mode & S_IFMT) {
    case S_IFDIR:
        return put_directory(writer, name);
    case S_IFREG:
        return put_file(writer, name);
    case S_IFLNK:
        return put_symlink(writer, name, &status);
    default:
        return put_node(writer, name, &status);
    }
}

/* Depth first, without recursion. */
static int
put_tree(struct writer *writer, int root_fd)
{
    PCTR_AUTO_FD fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return fail_read(writer);
    }
    if (push(writer, &fd) < 0) {
        return -1;
    }
    while (writer->depth > 0) {
        struct level *level = top(writer);
        if (level->next == level->names.count) {
            pop(writer);
            continue;
        }
        size_t at = level->next++;
        if (put_entry(writer, pctr_names_at(&level->names, at),
                      pctr_names_kind(&level->names, at)) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Two blocks of zeros end an archive. */
static int
put_end(struct writer *writer)
{
    uint64_t size = writer->out.total + 2 * PCTR_TAR_BLOCK;
    size_t padding = (size_t)((RECORD - size % RECORD) % RECORD);

    writer->path[0] = '\0';
    if (pctr_tar_out_zeros(&writer->out, 2 * PCTR_TAR_BLOCK + padding) < 0) {
        return fail_output(writer);
    }
    if ((writer->options->flags & PCTR_TAR_WRITE_NEWEST) &&
        pctr_tar_out_put(&writer->out, &writer->newest, sizeof(writer->newest)) < 0) {
        return fail_output(writer);
    }
    return pctr_tar_out_flush(&writer->out) < 0 ? fail_output(writer) : 0;
}

int
pctr_tar_write(int root_fd, int out_fd, const struct pctr_tar_write_options *options,
               struct pctr_tar_write_error *error)
{
    static struct writer writer;

    memset(error, 0, sizeof(*error));
    writer.options = options;
    writer.error = error;
    writer.newest = INT64_MIN;
    writer.budget = MEMORY;
    writer.depth = 0;
    writer.path[0] = '\0';
    pctr_tar_out_begin(&writer.out, out_fd);
    memset(&writer.links, 0, sizeof(writer.links));
    int status = put_tree(&writer, root_fd) < 0 || put_end(&writer) < 0 ? -1 : 0;
    while (writer.depth > 0) {
        pop(&writer);
    }
    pctr_hardlinks_free(&writer.links);
    return status;
}
