/* The maps of sparse files (GNU tar manual, "Storing Sparse Files"): where in the file the stored
 * bytes belong. */
#include "tar_parts.h"

#include <string.h>

enum {
    AT_OLD_MAP = 386,
    AT_OLD_EXTENDED = 482,
    AT_OLD_REAL_SIZE = 483,
    OLD_PAIR = 24,
    OLD_IN_HEADER = 4,
    OLD_IN_BLOCK = 21,
};

static int
bad_map(struct pctr_tar *tar)
{
    return pctr_tar_fail(tar, PCTR_TAR_MALFORMED, 0, "the map of a sparse file");
}

int
pctr_tar_sparse_add(struct pctr_tar *tar, uint64_t offset, uint64_t length)
{
    struct pctr_tar_entry *entry = &tar->entry;
    if (entry->extent_count == PCTR_TAR_EXTENTS) {
        return pctr_tar_fail(tar, PCTR_TAR_TOO_LONG, 0, "a sparse file of too many areas");
    }
    if (offset > INT64_MAX || length > INT64_MAX - offset) {
        return bad_map(tar);
    }
    if (entry->extent_count > 0) {
        const struct pctr_tar_extent *last = &entry->extents[entry->extent_count - 1];
        if (offset < last->offset + last->length) {
            return bad_map(tar);
        }
    }
    entry->extents[entry->extent_count++] =
        (struct pctr_tar_extent){.offset = offset, .length = length};
    return 0;
}

/* The map must lie within the file and account for every stored byte. */
static int
finish(struct pctr_tar *tar, uint64_t real_size)
{
    struct pctr_tar_entry *entry = &tar->entry;
    uint64_t sum = 0; /* areas are in order without overlap and end below INT64_MAX: no overflow */
    for (uint32_t i = 0; i < entry->extent_count; i++) {
        sum += entry->extents[i].length;
    }
    if (entry->extent_count > 0) {
        const struct pctr_tar_extent *last = &entry->extents[entry->extent_count - 1];
        if (last->offset + last->length > real_size) {
            return bad_map(tar);
        }
    }
    if (sum != tar->data_left) {
        return bad_map(tar);
    }
    entry->size = real_size;
    entry->sparse = true;
    return 0;
}

/* Adds up to `count` pairs; the first empty one ends the map. */
static int
add_old_pairs(struct pctr_tar *tar, const unsigned char *pairs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++, pairs += OLD_PAIR) {
        int64_t offset, length;
        if (pairs[0] == '\0') {
            return 0;
        }
        if (!pctr_tar_number(pairs, 12, &offset) || !pctr_tar_number(pairs + 12, 12, &length) ||
            offset < 0 || length < 0) {
            return bad_map(tar);
        }
        if (pctr_tar_sparse_add(tar, (uint64_t)offset, (uint64_t)length) < 0) {
            return -1;
        }
    }
    return 0;
}

int
pctr_tar_sparse_old(struct pctr_tar *tar, const unsigned char *block)
{
    int64_t real_size;
    if (!pctr_tar_number(block + AT_OLD_REAL_SIZE, 12, &real_size) || real_size < 0) {
        return bad_map(tar);
    }
    tar->entry.extent_count = 0;
    if (add_old_pairs(tar, block + AT_OLD_MAP, OLD_IN_HEADER) < 0) {
        return -1;
    }
    /* The extension blocks are not counted in the size field: they are taken as data, which is set
     * anew after them. */
    uint64_t stored = tar->data_left;
    bool extended = block[AT_OLD_EXTENDED] != 0;
    /* Each block but the last must bring an area, so their number is bounded like that of the
     * areas. */
    while (extended) {
        unsigned char more[PCTR_TAR_BLOCK];
        uint32_t before = tar->entry.extent_count;
        tar->data_left = sizeof(more);
        if (pctr_tar_take(tar, more, sizeof(more)) < 0 ||
            add_old_pairs(tar, more, OLD_IN_BLOCK) < 0) {
            return -1;
        }
        extended = more[OLD_IN_BLOCK * OLD_PAIR] != 0;
        if (extended && tar->entry.extent_count == before) {
            return bad_map(tar);
        }
    }
    tar->data_left = stored;
    return finish(tar, (uint64_t)real_size);
}

/* Format 0.1: "offset,length,offset,length" in one record. */
static int
read_list(struct pctr_tar *tar, const char *list)
{
    uint64_t pair[2] = {0, 0};
    tar->entry.extent_count = 0;
    for (uint32_t i = 0;; i++) {
        size_t length = strcspn(list, ",");
        if (!pctr_tar_decimal(list, length, &pair[i % 2])) {
            return bad_map(tar);
        }
        if (i % 2 == 1 && pctr_tar_sparse_add(tar, pair[0], pair[1]) < 0) {
            return -1;
        }
        if (list[length] == '\0') {
            return i % 2 == 1 ? 0 : bad_map(tar);
        }
        list += length + 1;
    }
}

/* Takes one line with a decimal number from the entry's data; *taken counts the bytes. */
static int
read_line(struct pctr_tar *tar, uint64_t *value, uint32_t *taken)
{
    char text[21]; /* more digits than fit in 64 bits */
    for (size_t length = 0; length < sizeof(text); length++) {
        if (pctr_tar_take(tar, &text[length], 1) < 0) {
            return -1;
        }
        ++*taken;
        if (text[length] == '\n') {
            return pctr_tar_decimal(text, length, value) ? 0 : bad_map(tar);
        }
    }
    return bad_map(tar);
}

/* Format 1.0: the map stands ahead of the data, a number on each line, filled up to a whole
 * block. */
static int
read_lines(struct pctr_tar *tar)
{
    uint64_t count;
    uint32_t taken = 0; /* at most 2 * PCTR_TAR_EXTENTS + 1 lines of 21 bytes */
    tar->entry.extent_count = 0;
    if (read_line(tar, &count, &taken) < 0) {
        return -1;
    }
    if (count > PCTR_TAR_EXTENTS) {
        return pctr_tar_fail(tar, PCTR_TAR_TOO_LONG, 0, "a sparse file of too many areas");
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t offset, length;
        if (read_line(tar, &offset, &taken) < 0 || read_line(tar, &length, &taken) < 0 ||
            pctr_tar_sparse_add(tar, offset, length) < 0) {
            return -1;
        }
    }
    unsigned char filler[PCTR_TAR_BLOCK];
    return pctr_tar_take(tar, filler, -taken & (PCTR_TAR_BLOCK - 1));
}

int
pctr_tar_sparse_pax(struct pctr_tar *tar)
{
    const struct pctr_tar_pax *pax = &tar->pax;
    uint32_t version = pax->set & (PCTR_TAR_SET_SPARSE_MAJOR | PCTR_TAR_SET_SPARSE_MINOR);
    bool listed = pax->sparse_map != NULL || tar->entry.extent_count > 0 ||
                  (pax->set & (PCTR_TAR_SET_HALF_EXTENT | PCTR_TAR_SET_SPARSE_BLOCKS)) != 0;
    if (version == 0 && !listed) {
        bool named = pax->sparse_name != NULL || (pax->set & PCTR_TAR_SET_REAL_SIZE) != 0;
        return named ? bad_map(tar) : 0;
    }
    if ((pax->set & PCTR_TAR_SET_REAL_SIZE) == 0 || (pax->set & PCTR_TAR_SET_HALF_EXTENT) != 0) {
        return bad_map(tar);
    }
    if (version != 0 && pax->sparse_major == 1 && pax->sparse_minor == 0) {
        if (read_lines(tar) < 0) {
            return -1;
        }
    }
    else if (pax->sparse_major == 0 && pax->sparse_minor <= 1) {
        if (pax->sparse_map != NULL && read_list(tar, pax->sparse_map) < 0) {
            return -1;
        }
        bool counted = (pax->set & PCTR_TAR_SET_SPARSE_BLOCKS) != 0;
        if (counted && pax->sparse_blocks != tar->entry.extent_count) {
            return bad_map(tar);
        }
    }
    else {
        return pctr_tar_fail(tar, PCTR_TAR_UNSUPPORTED, 0, "an unknown sparse format");
    }
    return finish(tar, pax->real_size);
}
