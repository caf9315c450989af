/* Extended headers: records of the form "LENGTH KEY=VALUE\n" (POSIX.1-2017, pax, "pax Extended
 * Header"). */
#include "tar_parts.h"

#include <string.h>

#define XATTR_PREFIX "SCHILY.xattr."

static int
malformed(struct pctr_tar *tar, const char *what)
{
    return pctr_tar_fail(tar, PCTR_TAR_MALFORMED, 0, what);
}

void
pctr_tar_pax_reset(struct pctr_tar *tar)
{
    memset(&tar->pax, 0, sizeof(tar->pax));
    tar->entry.xattr_count = 0;
    tar->entry.extent_count = 0;
}

bool
pctr_tar_decimal(const char *text, size_t size, uint64_t *value)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (sum > (INT64_MAX - digit) / 10) {
            return false;
        }
        sum = sum * 10 + digit;
    }
    *value = sum;
    return size > 0;
}

static int
read_number(struct pctr_tar *tar, const char *value, size_t size, uint64_t *to, uint32_t bit)
{
    if (!pctr_tar_decimal(value, size, to)) {
        return malformed(tar, "a number in an extended header");
    }
    tar->pax.set |= bit;
    return 0;
}

/* Seconds since 1970, with a sign and a fraction; what is finer than a nanosecond is cut off. */
static int
read_time(struct pctr_tar *tar, const char *value, size_t size)
{
    bool negative = size > 0 && value[0] == '-';
    const char *text = value + (negative ? 1 : 0);
    size_t length = size - (negative ? 1 : 0);
    const char *dot = memchr(text, '.', length);
    size_t whole = dot != NULL ? (size_t)(dot - text) : length;
    uint64_t seconds;
    if (!pctr_tar_decimal(text, whole, &seconds)) {
        return malformed(tar, "a time in an extended header");
    }
    uint32_t fraction = 0;
    uint32_t scale = 100000000;
    for (size_t i = whole + 1; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return malformed(tar, "a time in an extended header");
        }
        fraction += scale * (uint32_t)(text[i] - '0');
        scale /= 10;
    }
    bool borrow = negative && fraction > 0; /* -1.25 s is -2 s and 0.75 s: a timespec counts up */
    tar->pax.mtime_sec = negative ? -(int64_t)seconds - (borrow ? 1 : 0) : (int64_t)seconds;
    tar->pax.mtime_nsec = borrow ? 1000000000 - fraction : fraction;
    tar->pax.set |= PCTR_TAR_SET_MTIME;
    return 0;
}

/* A name; an empty one means "as the header block has it". */
static int
read_name(struct pctr_tar *tar, const char *value, size_t size, const char **to)
{
    if (size >= PCTR_TAR_PATH) {
        return pctr_tar_fail(tar, PCTR_TAR_TOO_LONG, 0, "a name of 4096 bytes or more");
    }
    if (memchr(value, '\0', size) != NULL) {
        return malformed(tar, "a name with a NUL in it");
    }
    *to = size > 0 ? value : NULL;
    return 0;
}

/* GNU tar writes '=' and '%' in an attribute's name as %3D and %25. */
static void
decode_percent(char *name)
{
    char *to = name;
    for (const char *from = name; *from != '\0'; to++) {
        if (strncmp(from, "%3D", 3) == 0 || strncmp(from, "%25", 3) == 0) {
            *to = from[1] == '3' ? '=' : '%';
            from += 3;
        }
        else {
            *to = *from++;
        }
    }
    *to = '\0';
}

static int
read_xattr(struct pctr_tar *tar, char *name, const char *value, size_t size)
{
    struct pctr_tar_entry *entry = &tar->entry;
    if (entry->xattr_count == PCTR_TAR_XATTRS) {
        return pctr_tar_fail(tar, PCTR_TAR_TOO_LONG, 0, "too many extended attributes");
    }
    decode_percent(name);
    entry->xattrs[entry->xattr_count++] =
        (struct pctr_tar_xattr){.name = name, .value = value, .size = size};
    return 0;
}

/* Format 0.0 spells its map as one pair of records for each area, in order. */
static int
read_sparse_pair(struct pctr_tar *tar, const char *value, size_t size, bool is_length)
{
    uint64_t number;
    bool half = (tar->pax.set & PCTR_TAR_SET_HALF_EXTENT) != 0;
    if (half != is_length || !pctr_tar_decimal(value, size, &number)) {
        return malformed(tar, "the map of a sparse file");
    }
    struct pctr_tar_entry *entry = &tar->entry;
    if (!is_length) {
        if (entry->extent_count == PCTR_TAR_EXTENTS) {
            return pctr_tar_fail(tar, PCTR_TAR_TOO_LONG, 0, "a sparse file of too many areas");
        }
        entry->extents[entry->extent_count].offset = number;
        tar->pax.set |= PCTR_TAR_SET_HALF_EXTENT;
        return 0;
    }
    tar->pax.set &= ~(uint32_t)PCTR_TAR_SET_HALF_EXTENT;
    return pctr_tar_sparse_add(tar, entry->extents[entry->extent_count].offset, number);
}

static int
read_sparse(struct pctr_tar *tar, const char *key, const char *value, size_t size)
{
    struct pctr_tar_pax *pax = &tar->pax;
    if (strcmp(key, "name") == 0) {
        return read_name(tar, value, size, &pax->sparse_name);
    }
    if (strcmp(key, "map") == 0) {
        pax->sparse_map = value;
        return memchr(value, '\0', size) != NULL ? malformed(tar, "the map of a sparse file") : 0;
    }
    if (strcmp(key, "size") == 0 || strcmp(key, "realsize") == 0) {
        return read_number(tar, value, size, &pax->real_size, PCTR_TAR_SET_REAL_SIZE);
    }
    if (strcmp(key, "numblocks") == 0) {
        return read_number(tar, value, size, &pax->sparse_blocks, PCTR_TAR_SET_SPARSE_BLOCKS);
    }
    if (strcmp(key, "major") == 0) {
        return read_number(tar, value, size, &pax->sparse_major, PCTR_TAR_SET_SPARSE_MAJOR);
    }
    if (strcmp(key, "minor") == 0) {
        return read_number(tar, value, size, &pax->sparse_minor, PCTR_TAR_SET_SPARSE_MINOR);
    }
    if (strcmp(key, "offset") == 0) {
        return read_sparse_pair(tar, value, size, false);
    }
    if (strcmp(key, "numbytes") == 0) {
        return read_sparse_pair(tar, value, size, true);
    }
    return pctr_tar_fail(tar, PCTR_TAR_UNSUPPORTED, 0, "an unknown sparse format");
}

/* One record. Keys that say nothing about what lands on disk (comments, user names, other tools'
 * notes) are passed. */
static int
read_record(struct pctr_tar *tar, char *key, const char *value, size_t size)
{
    struct pctr_tar_pax *pax = &tar->pax;
    if (strncmp(key, XATTR_PREFIX, sizeof(XATTR_PREFIX) - 1) == 0) {
        return read_xattr(tar, key + sizeof(XATTR_PREFIX) - 1, value, size);
    }
    if (strcmp(key, "path") == 0) {
        return read_name(tar, value, size, &pax->path);
    }
    if (strcmp(key, "linkpath") == 0) {
        return read_name(tar, value, size, &pax->link);
    }
    if (size == 0) {
        return 0;
    }
    if (strcmp(key, "size") == 0) {
        return read_number(tar, value, size, &pax->size, PCTR_TAR_SET_SIZE);
    }
    if (strcmp(key, "uid") == 0) {
        return read_number(tar, value, size, &pax->uid, PCTR_TAR_SET_UID);
    }
    if (strcmp(key, "gid") == 0) {
        return read_number(tar, value, size, &pax->gid, PCTR_TAR_SET_GID);
    }
    if (strcmp(key, "mtime") == 0) {
        return read_time(tar, value, size);
    }
    if (strncmp(key, "GNU.sparse.", 11) == 0) {
        return read_sparse(tar, key + 11, value, size);
    }
    return 0;
}

/* Engines ignore global headers, other readers honour them. What is harmless either way passes; a
 * key that would make the two see different entries is refused. */
static int
check_global(struct pctr_tar *tar, const char *key)
{
    if (strcmp(key, "path") == 0 || strcmp(key, "linkpath") == 0 || strcmp(key, "size") == 0 ||
        strncmp(key, "GNU.sparse.", 11) == 0) {
        return malformed(tar, "a name or size for every entry");
    }
    return 0;
}

/* Cuts the record at *at out of the text, as three strings; 0 or -1. */
static int
cut_record(struct pctr_tar *tar, size_t size, size_t *at, char **key, char **value,
           size_t *value_size)
{
    char *record = tar->pax_text + *at;
    size_t left = size - *at;
    char *space = memchr(record, ' ', left < 8 ? left : 8);
    uint64_t length;
    if (space == NULL || !pctr_tar_decimal(record, (size_t)(space - record), &length) ||
        length > left || length < (size_t)(space - record) + 4 || record[length - 1] != '\n') {
        return malformed(tar, "a record of an extended header");
    }
    char *end = record + length - 1;
    *key = space + 1;
    char *equals = memchr(*key, '=', (size_t)(end - *key));
    if (equals == NULL || equals == *key || memchr(*key, '\0', (size_t)(equals - *key)) != NULL) {
        return malformed(tar, "a record of an extended header");
    }
    *equals = '\0';
    *end = '\0';
    *value = equals + 1;
    *value_size = (size_t)(end - *value);
    *at += (size_t)length;
    return 0;
}

static int
parse(struct pctr_tar *tar, size_t size, bool global)
{
    for (size_t at = 0; at < size;) {
        char *key = NULL;
        char *value = NULL;
        size_t value_size = 0;
        if (cut_record(tar, size, &at, &key, &value, &value_size) < 0) {
            return -1;
        }
        if ((global ? check_global(tar, key) : read_record(tar, key, value, value_size)) < 0) {
            return -1;
        }
    }
    return 0;
}

int
pctr_tar_pax_parse(struct pctr_tar *tar, size_t size)
{
    return parse(tar, size, false);
}

int
pctr_tar_pax_global(struct pctr_tar *tar, size_t size)
{
    return parse(tar, size, true);
}
