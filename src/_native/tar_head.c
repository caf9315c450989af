#define _GNU_SOURCE
#include "tar_head.h"

#include <stdio.h>
#include <string.h>

/* Says that values are bytes, not UTF-8; room for it is kept ahead of the records. */
#define BINARY "21 hdrcharset=BINARY\n"
#define BINARY_SIZE (sizeof(BINARY) - 1)
#define TEXT 100 /* bytes of a name or link target in a ustar header */

struct ustar {
    char name[TEXT];
    char mode[8];
    char uid[8];
    char gid[8];
    char size[12];
    char mtime[12];
    char checksum[8];
    char type;
    char link[TEXT];
    char magic[8];
    char uname[32];
    char gname[32];
    char major[8];
    char minor[8];
    char prefix[155];
    char padding[12];
};

_Static_assert(sizeof(struct ustar) == PCTR_TAR_BLOCK, "a header is one block");

/* The length of the character that UTF-8 (RFC 3629) holds at `at`, or 0. */
static size_t
character(const unsigned char *at, size_t size)
{
    unsigned first = at[0], low = 0x80, high = 0xbf;
    size_t length;

    if (first < 0x80) {
        return 1;
    }
    if (first >= 0xc2 && first <= 0xdf) {
        length = 2;
    }
    else if (first >= 0xe0 && first <= 0xef) {
        length = 3;
        low = first == 0xe0 ? 0xa0 : low;   /* no longer form than needed */
        high = first == 0xed ? 0x9f : high; /* no surrogates */
    }
    else if (first >= 0xf0 && first <= 0xf4) {
        length = 4;
        low = first == 0xf0 ? 0x90 : low;
        high = first == 0xf4 ? 0x8f : high; /* nothing beyond U+10FFFF */
    }
    else {
        return 0;
    }
    if (length > size || at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if (at[i] < 0x80 || at[i] > 0xbf) {
            return 0;
        }
    }
    return length;
}

static bool
is_utf8(const char *text, size_t size)
{
    for (size_t i = 0; i < size;) {
        size_t length = character((const unsigned char *)text + i, size - i);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

static bool
fits_ustar(const char *text)
{
    size_t length = 0;

    for (; text[length] != '\0'; length++) {
        if (length == TEXT || (unsigned char)text[length] >= 0x80) {
            return false;
        }
    }
    return true;
}

/* As much of a text as fits, with a question mark for what is not ASCII: only readers that know no
 * pax look at it. */
static void
put_text(char *field, const char *text)
{
    size_t left = strlen(text), at = 0;

    while (left > 0 && at < TEXT) {
        size_t length = character((const unsigned char *)text, left);
        length += length == 0 ? 1 : 0;
        field[at++] = (unsigned char)*text < 0x80 ? *text : '?';
        text += length;
        left -= length;
    }
}

/* Octal digits and a NUL. */
static void
put_number(char *field, size_t size, uint64_t value)
{
    field[size - 1] = '\0';
    for (size_t i = size - 1; i > 0; i--) {
        field[i - 1] = (char)('0' + (value & 7));
        value >>= 3;
    }
}

static bool
fits(uint64_t value, size_t size)
{
    return value >> (3 * (size - 1)) == 0;
}

/* A number that does not fit is written as 0: the pax header has it. */
static uint64_t
or_zero(uint64_t value, size_t size)
{
    return fits(value, size) ? value : 0;
}

static int
put_ustar(struct pctr_tar_out *out, const struct pctr_tar_head *head, char type)
{
    struct ustar ustar;
    unsigned sum = 0;

    memset(&ustar, 0, sizeof(ustar));
    put_text(ustar.name, head->path);
    put_number(ustar.mode, sizeof(ustar.mode), head->mode & 07777);
    put_number(ustar.uid, sizeof(ustar.uid), or_zero(head->uid, sizeof(ustar.uid)));
    put_number(ustar.gid, sizeof(ustar.gid), or_zero(head->gid, sizeof(ustar.gid)));
    put_number(ustar.size, sizeof(ustar.size), or_zero(head->size, sizeof(ustar.size)));
    put_number(ustar.mtime, sizeof(ustar.mtime),
               or_zero((uint64_t)head->mtime, sizeof(ustar.mtime)));
    memset(ustar.checksum, ' ', sizeof(ustar.checksum));
    ustar.type = type;
    put_text(ustar.link, head->link);
    memcpy(ustar.magic,
           "ustar\0"
           "00",
           sizeof(ustar.magic));
    if (type == PCTR_TAR_FLAG_CHAR || type == PCTR_TAR_FLAG_BLOCK_DEVICE) {
        put_number(ustar.major, sizeof(ustar.major), head->major);
        put_number(ustar.minor, sizeof(ustar.minor), head->minor);
    }
    for (size_t i = 0; i < sizeof(ustar); i++) {
        sum += ((const unsigned char *)&ustar)[i];
    }
    /* Six digits and a NUL; the space after them stays. */
    put_number(ustar.checksum, sizeof(ustar.checksum) - 1, sum);
    return pctr_tar_out_put(out, &ustar, sizeof(ustar));
}

void
pctr_tar_records_clear(struct pctr_tar_records *records)
{
    records->binary = false;
    records->size = BINARY_SIZE;
}

int
pctr_tar_records_add(struct pctr_tar_records *records, const char *prefix, const char *name,
                     const char *value, size_t size)
{
    char digits[24];
    size_t rest = strlen(prefix) + strlen(name) + size + 3; /* space, equals sign, newline */
    size_t total = rest, before;

    if (size > sizeof(records->bytes)) {
        return -1;
    }
    /* The length counts its own digits. */
    do {
        before = total;
        total = rest + (size_t)snprintf(digits, sizeof(digits), "%zu", before);
    } while (total != before);
    if (total > sizeof(records->bytes) - records->size) {
        return -1;
    }
    char *to = records->bytes + records->size;
    to += snprintf(to, total, "%zu %s%s=", total, prefix, name);
    memcpy(to, value, size);
    to[size] = '\n';
    records->size += total;
    records->binary = records->binary || !is_utf8(value, size);
    return 0;
}

static int
add_text(struct pctr_tar_records *records, const char *name, const char *text)
{
    return fits_ustar(text) ? 0 : pctr_tar_records_add(records, "", name, text, strlen(text));
}

static int
add_number(struct pctr_tar_records *records, const char *name, size_t field, int64_t value)
{
    char digits[24];

    if (value >= 0 && fits((uint64_t)value, field)) {
        return 0;
    }
    int length = snprintf(digits, sizeof(digits), "%lld", (long long)value);
    return pctr_tar_records_add(records, "", name, digits, (size_t)length);
}

static int
put_records(struct pctr_tar_out *out, struct pctr_tar_records *records)
{
    size_t start = records->binary ? 0 : BINARY_SIZE;
    size_t size = records->size - start;
    struct pctr_tar_head head = {.size = size, .path = "././@PaxHeader", .link = ""};

    memcpy(records->bytes, BINARY, BINARY_SIZE);
    if (put_ustar(out, &head, 'x') < 0 || pctr_tar_out_put(out, records->bytes + start, size) < 0) {
        return -1;
    }
    return pctr_tar_out_zeros(out, -size % PCTR_TAR_BLOCK);
}

int
pctr_tar_head_put(struct pctr_tar_out *out, const struct pctr_tar_head *head,
                  struct pctr_tar_records *records)
{
    if (add_text(records, "path", head->path) < 0 ||
        add_text(records, "linkpath", head->link) < 0 ||
        add_number(records, "uid", sizeof(((struct ustar *)0)->uid), head->uid) < 0 ||
        add_number(records, "gid", sizeof(((struct ustar *)0)->gid), head->gid) < 0 ||
        add_number(records, "size", sizeof(((struct ustar *)0)->size), (int64_t)head->size) < 0 ||
        add_number(records, "mtime", sizeof(((struct ustar *)0)->mtime), head->mtime) < 0) {
        return -1;
    }
    if (records->size > BINARY_SIZE && put_records(out, records) < 0) {
        return -1;
    }
    return put_ustar(out, head, (char)head->type);
}
