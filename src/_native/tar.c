#define _GNU_SOURCE
#include "tar_parts.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* Where the fields of a header block are: POSIX ustar, with GNU's in the prefix's place. */
enum {
    AT_NAME = 0,
    AT_MODE = 100,
    AT_UID = 108,
    AT_GID = 116,
    AT_SIZE = 124,
    AT_MTIME = 136,
    AT_CHECKSUM = 148,
    AT_TYPE = 156,
    AT_LINK = 157,
    AT_MAGIC = 257,
    AT_MAJOR = 329,
    AT_MINOR = 337,
    AT_PREFIX = 345,
    AT_STAR_TRAILER = 508,
};

int
pctr_tar_fail(struct pctr_tar *tar, enum pctr_tar_fault fault, int err, const char *what)
{
    tar->fault = fault;
    tar->err = err;
    tar->what = what;
    return -1;
}

static int
malformed(struct pctr_tar *tar, const char *what)
{
    return pctr_tar_fail(tar, PCTR_TAR_MALFORMED, 0, what);
}

void
pctr_tar_open(struct pctr_tar *tar, int fd, uint64_t overhead)
{
    tar->fd = fd;
    tar->offset = 0;
    tar->overhead_left = overhead;
    tar->data_left = 0;
    tar->padding = 0;
    tar->fault = PCTR_TAR_FINE;
    tar->err = 0;
    tar->what = "";
    tar->head = 0;
    tar->tail = 0;
    tar->entry.path[0] = '\0';
    tar->entry.offset = 0;
    tar->has_long_path = false;
    tar->has_long_link = false;
    pctr_tar_pax_reset(tar);
}

static ssize_t
read_some(int fd, void *to, size_t size)
{
    for (;;) {
        ssize_t got = read(fd, to, size);
        if (got >= 0 || (errno != EINTR && errno != EAGAIN)) {
            return got;
        }
        if (errno == EAGAIN) {
            struct pollfd ready = {.fd = fd, .events = POLLIN};
            if (poll(&ready, 1, -1) < 0 && errno != EINTR) {
                return -1;
            }
        }
    }
}

/* Makes at least `want` bytes of the stream stand in the buffer: 1, or 0 when it ends exactly here,
 * or -1. */
static int
fill(struct pctr_tar *tar, size_t want)
{
    if (tar->tail - tar->head >= want) {
        return 1;
    }
    memmove(tar->buffer, tar->buffer + tar->head, tar->tail - tar->head);
    tar->tail -= tar->head;
    tar->head = 0;
    while (tar->tail < want) {
        ssize_t got = read_some(tar->fd, tar->buffer + tar->tail, sizeof(tar->buffer) - tar->tail);
        if (got < 0) {
            return pctr_tar_fail(tar, PCTR_TAR_IO, errno, "reading the archive");
        }
        if (got == 0) {
            return tar->tail == 0 ? 0 : malformed(tar, "the archive is cut short");
        }
        tar->tail += (size_t)got;
    }
    return 1;
}

static void
advance(struct pctr_tar *tar, size_t size)
{
    tar->head += size;
    tar->offset += size;
}

ssize_t
pctr_tar_data(struct pctr_tar *tar, const unsigned char **chunk, size_t most)
{
    if (tar->data_left == 0 || most == 0) {
        return 0;
    }
    int status = fill(tar, 1);
    if (status <= 0) {
        return status < 0 ? -1 : malformed(tar, "the archive is cut short");
    }
    size_t size = tar->tail - tar->head;
    if (size > tar->data_left) {
        size = (size_t)tar->data_left;
    }
    if (size > most) {
        size = most;
    }
    *chunk = tar->buffer + tar->head;
    advance(tar, size);
    tar->data_left -= size;
    return (ssize_t)size;
}

int
pctr_tar_take(struct pctr_tar *tar, void *to, size_t size)
{
    unsigned char *at = to;
    while (size > 0) {
        const unsigned char *chunk;
        ssize_t got = pctr_tar_data(tar, &chunk, size);
        if (got <= 0) {
            return got < 0 ? -1 : malformed(tar, "an entry ends inside its header");
        }
        memcpy(at, chunk, (size_t)got);
        at += got;
        size -= (size_t)got;
    }
    return 0;
}

static int
spend(struct pctr_tar *tar, uint64_t size)
{
    if (size > tar->overhead_left) {
        return pctr_tar_fail(tar, PCTR_TAR_TOO_BIG, 0, "too many bytes outside of files");
    }
    tar->overhead_left -= size;
    return 0;
}

/* Passes over what is left of the current entry: data first, then padding. The very last padding
 * may be missing, as some writers leave it out. */
static int
skip_rest(struct pctr_tar *tar)
{
    if (spend(tar, tar->data_left) < 0) {
        return -1;
    }
    while (tar->data_left > 0) {
        const unsigned char *chunk;
        if (pctr_tar_data(tar, &chunk, sizeof(tar->buffer)) < 0) {
            return -1;
        }
    }
    if (tar->padding == 0) {
        return 0;
    }
    int status = fill(tar, tar->padding);
    if (status > 0) {
        advance(tar, tar->padding);
    }
    tar->padding = 0;
    return status < 0 ? -1 : 0;
}

/* Reads on to the end of file: whoever writes the stream hashes all of it, and must not meet a
 * closed pipe. */
static int
drain(struct pctr_tar *tar)
{
    for (;;) {
        int status = fill(tar, 1);
        if (status <= 0) {
            return status;
        }
        size_t size = tar->tail - tar->head;
        if (spend(tar, size) < 0) {
            return -1;
        }
        advance(tar, size);
    }
}

static bool
all_zero(const unsigned char *block)
{
    for (size_t i = 0; i < PCTR_TAR_BLOCK; i++) {
        if (block[i] != 0) {
            return false;
        }
    }
    return true;
}

/* Takes one block into `block`: 1, or 0 at the end of file, or -1. */
static int
take_block(struct pctr_tar *tar, unsigned char *block)
{
    int status = fill(tar, PCTR_TAR_BLOCK);
    if (status > 0) {
        memcpy(block, tar->buffer + tar->head, PCTR_TAR_BLOCK);
        advance(tar, PCTR_TAR_BLOCK);
    }
    return status;
}

static bool
base256(const unsigned char *field, size_t size, int64_t *value)
{
    unsigned char sign = (field[0] & 0x40) != 0 ? 0xff : 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = field[i] ^ sign;
        if (i == 0) {
            byte &= 0x7f; /* the mark of the encoding */
        }
        if (sum >> 55 != 0) { /* the next shift would reach the sign bit */
            return false;
        }
        sum = sum << 8 | byte;
    }
    *value = sign != 0 ? -1 - (int64_t)sum : (int64_t)sum;
    return true;
}

bool
pctr_tar_number(const unsigned char *field, size_t size, int64_t *value)
{
    if ((field[0] & 0x80) != 0) {
        return base256(field, size, value);
    }
    size_t i = 0;
    while (i < size && (field[i] == ' ' || field[i] == '\0')) {
        i++;
    }
    int64_t sum = 0;
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
        sum = sum * 8 + (field[i] - '0'); /* at most 12 digits: 36 bits */
    }
    while (i < size && field[i] == ' ') {
        i++;
    }
    if (i < size && field[i] != '\0') {
        return false;
    }
    *value = sum;
    return true;
}

/* The sum of the block with its own field as spaces; some old writers summed signed bytes. */
static bool
checksum_fits(const unsigned char *block)
{
    int64_t want;
    if (!pctr_tar_number(block + AT_CHECKSUM, 8, &want)) {
        return false;
    }
    int64_t plain = 0;
    int64_t with_sign = 0;
    for (size_t i = 0; i < PCTR_TAR_BLOCK; i++) {
        unsigned char byte = i >= AT_CHECKSUM && i < AT_CHECKSUM + 8 ? ' ' : block[i];
        plain += byte;
        with_sign += (signed char)byte;
    }
    return want == plain || want == with_sign;
}

static size_t
copy_field(char *to, const unsigned char *field, size_t size)
{
    size_t length = strnlen((const char *)field, size);
    memcpy(to, field, length);
    to[length] = '\0';
    return length;
}

/* The name of a block: POSIX splits a long one into a prefix and a rest; GNU keeps other things in
 * the prefix. */
static void
block_name(char *to, const unsigned char *block)
{
    size_t length = 0;
    if (memcmp(block + AT_MAGIC, "ustar", 6) == 0 && block[AT_PREFIX] != '\0') {
        bool star = memcmp(block + AT_STAR_TRAILER, "tar", 4) == 0;
        length = copy_field(to, block + AT_PREFIX, star ? 131 : 155);
        to[length++] = '/';
    }
    copy_field(to + length, block + AT_NAME, 100);
}

static int
set_owner(struct pctr_tar *tar, uint64_t uid, uint64_t gid)
{
    /* The highest number is no id: chown(2) takes it for "leave it alone". */
    if (uid >= UINT32_MAX || gid >= UINT32_MAX) {
        return malformed(tar, "an owner out of range");
    }
    tar->entry.uid = (uint32_t)uid;
    tar->entry.gid = (uint32_t)gid;
    return 0;
}

static int
read_numbers(struct pctr_tar *tar, const unsigned char *block, uint64_t *size)
{
    struct pctr_tar_entry *entry = &tar->entry;
    const struct pctr_tar_pax *pax = &tar->pax;
    int64_t mode, uid, gid, length, mtime;
    if (!pctr_tar_number(block + AT_MODE, 8, &mode) || !pctr_tar_number(block + AT_UID, 8, &uid) ||
        !pctr_tar_number(block + AT_GID, 8, &gid) ||
        !pctr_tar_number(block + AT_SIZE, 12, &length) ||
        !pctr_tar_number(block + AT_MTIME, 12, &mtime)) {
        return malformed(tar, "a header field is no number");
    }
    entry->mode = (uint32_t)((uint64_t)mode & 07777);
    bool own_time = (pax->set & PCTR_TAR_SET_MTIME) != 0;
    entry->mtime_sec = own_time ? pax->mtime_sec : mtime;
    entry->mtime_nsec = own_time ? pax->mtime_nsec : 0;
    /* A negative number is beyond every bound once it is unsigned. */
    *size = (pax->set & PCTR_TAR_SET_SIZE) != 0 ? pax->size : (uint64_t)length;
    if (*size > INT64_MAX) {
        return malformed(tar, "a negative size");
    }
    return set_owner(tar, (pax->set & PCTR_TAR_SET_UID) != 0 ? pax->uid : (uint64_t)uid,
                     (pax->set & PCTR_TAR_SET_GID) != 0 ? pax->gid : (uint64_t)gid);
}

static int
read_device(struct pctr_tar *tar, const unsigned char *block)
{
    int64_t major, minor;
    if (!pctr_tar_number(block + AT_MAJOR, 8, &major) ||
        !pctr_tar_number(block + AT_MINOR, 8, &minor)) {
        return malformed(tar, "a device number is no number");
    }
    if (major < 0 || major > 0xfff || minor < 0 ||
        minor > 0xfffff) { /* the kernel's 12 and 20 bits */
        return malformed(tar, "a device number out of range");
    }
    tar->entry.major = (uint32_t)major;
    tar->entry.minor = (uint32_t)minor;
    return 0;
}

/* Names: those of the block, then the extended header's, then GNU's long ones. Each is at most
 * PCTR_TAR_PATH. */
static void
read_names(struct pctr_tar *tar, const unsigned char *block)
{
    struct pctr_tar_entry *entry = &tar->entry;
    const struct pctr_tar_pax *pax = &tar->pax;
    const char *path = tar->has_long_path         ? tar->long_path
                       : pax->sparse_name != NULL ? pax->sparse_name
                                                  : pax->path;
    const char *link = tar->has_long_link ? tar->long_link : pax->link;
    if (path != NULL) {
        memcpy(entry->path, path, strlen(path) + 1);
    }
    else {
        block_name(entry->path, block);
    }
    if (link != NULL) {
        memcpy(entry->link, link, strlen(link) + 1);
    }
    else {
        copy_field(entry->link, block + AT_LINK, 100);
    }
}

static int
read_type(struct pctr_tar *tar, const unsigned char *block)
{
    struct pctr_tar_entry *entry = &tar->entry;
    size_t length = strlen(entry->path);
    switch (block[AT_TYPE]) {
    case '\0': /* v7 wrote directories as files whose name ends in a slash */
        entry->type = length > 0 && entry->path[length - 1] == '/' ? PCTR_TAR_DIRECTORY
                                                                   : PCTR_TAR_FILE;
        return 0;
    case '0':
    case '7': /* "contiguous": a plain file to everyone today */
    case 'S':
        entry->type = PCTR_TAR_FILE;
        return 0;
    case '1':
        entry->type = PCTR_TAR_HARD_LINK;
        return 0;
    case '2':
        entry->type = PCTR_TAR_SYMLINK;
        return 0;
    case '3':
        entry->type = PCTR_TAR_CHAR;
        return read_device(tar, block);
    case '4':
        entry->type = PCTR_TAR_BLOCK_DEVICE;
        return read_device(tar, block);
    case '5':
        entry->type = PCTR_TAR_DIRECTORY;
        return 0;
    case '6':
        entry->type = PCTR_TAR_FIFO;
        return 0;
    default:
        return pctr_tar_fail(tar, PCTR_TAR_UNSUPPORTED, 0, "an unknown kind of entry");
    }
}

static void
expect_data(struct pctr_tar *tar, uint64_t size)
{
    tar->data_left = size;
    tar->padding = (uint32_t)(-size & (PCTR_TAR_BLOCK - 1));
}

/* Fills the entry from its own header block and from what stood ahead of it. */
static int
read_entry(struct pctr_tar *tar, const unsigned char *block)
{
    struct pctr_tar_entry *entry = &tar->entry;
    uint64_t size;
    read_names(tar, block);
    if (read_numbers(tar, block, &size) < 0 || read_type(tar, block) < 0) {
        return -1;
    }
    entry->size = entry->type == PCTR_TAR_FILE ? size : 0;
    entry->sparse = false;
    /* No data follows links, devices and directories, whatever their size field says: so do all
     * readers but one. An old directory, written as a file, is read like a file. */
    expect_data(tar, entry->type == PCTR_TAR_FILE || block[AT_TYPE] == '\0' ? size : 0);
    if (entry->type != PCTR_TAR_FILE) {
        return 0;
    }
    return block[AT_TYPE] == 'S' ? pctr_tar_sparse_old(tar, block) : pctr_tar_sparse_pax(tar);
}

/* Reads the `size` bytes of a GNU long name. */
static int
read_long(struct pctr_tar *tar, char *to, bool *has)
{
    size_t size = (size_t)tar->data_left;
    if (tar->data_left > PCTR_TAR_PATH) {
        return pctr_tar_fail(tar, PCTR_TAR_TOO_LONG, 0, "a name of 4096 bytes or more");
    }
    if (pctr_tar_take(tar, to, size) < 0) {
        return -1;
    }
    if (size == PCTR_TAR_PATH && to[size - 1] != '\0') {
        return pctr_tar_fail(tar, PCTR_TAR_TOO_LONG, 0, "a name of 4096 bytes or more");
    }
    if (size < PCTR_TAR_PATH) {
        to[size] = '\0';
    }
    *has = to[0] != '\0';
    return 0;
}

static int
read_extended(struct pctr_tar *tar, bool global)
{
    size_t size = (size_t)tar->data_left;
    if (tar->data_left > PCTR_TAR_PAX) {
        return pctr_tar_fail(tar, PCTR_TAR_TOO_LONG, 0, "an extended header over 1 MiB");
    }
    pctr_tar_pax_reset(tar);
    if (pctr_tar_take(tar, tar->pax_text, size) < 0) {
        return -1;
    }
    return global ? pctr_tar_pax_global(tar, size) : pctr_tar_pax_parse(tar, size);
}

/* Reads an extension header: 1, or 0 when the block is not one, or -1. */
static int
read_extension(struct pctr_tar *tar, const unsigned char *block)
{
    unsigned char type = block[AT_TYPE];
    if (type != 'x' && type != 'g' && type != 'L' && type != 'K') {
        return 0;
    }
    int64_t size;
    if (!pctr_tar_number(block + AT_SIZE, 12, &size) || size < 0) {
        return malformed(tar, "the size of an extension header");
    }
    if (spend(tar, (uint64_t)size) < 0) {
        return -1;
    }
    expect_data(tar, (uint64_t)size);
    int status;
    if (type == 'L') {
        status = read_long(tar, tar->long_path, &tar->has_long_path);
    }
    else if (type == 'K') {
        status = read_long(tar, tar->long_link, &tar->has_long_link);
    }
    else {
        status = read_extended(tar, type == 'g');
    }
    return status < 0 ? -1 : 1;
}

/* Two blocks of zeros end an archive; one, when it is the last. */
static int
read_end(struct pctr_tar *tar)
{
    unsigned char block[PCTR_TAR_BLOCK];
    int status = take_block(tar, block);
    if (status > 0 && !all_zero(block)) {
        return malformed(tar, "a block of zeros between entries");
    }
    return status < 0 ? -1 : drain(tar);
}

int
pctr_tar_next(struct pctr_tar *tar)
{
    tar->has_long_path = false;
    tar->has_long_link = false;
    pctr_tar_pax_reset(tar);
    for (uint32_t extensions = 0; extensions <= PCTR_TAR_EXTENSIONS; extensions++) {
        unsigned char block[PCTR_TAR_BLOCK];
        if (skip_rest(tar) < 0) {
            return -1;
        }
        tar->entry.offset = tar->offset;
        tar->entry.path[0] = '\0';
        int status = take_block(tar, block);
        if (status == 0 && extensions > 0) {
            return malformed(tar, "the archive is cut short");
        }
        if (status <= 0) {
            return status;
        }
        if (all_zero(block)) {
            return read_end(tar);
        }
        if (!checksum_fits(block)) {
            return malformed(tar, "a header's checksum");
        }
        status = read_extension(tar, block);
        if (status <= 0) {
            return status < 0 || read_entry(tar, block) < 0 ? -1 : 1;
        }
    }
    return malformed(tar, "too many extension headers");
}
