/* Unit tests of the tar reader's parts: exits 0, or aborts at the first that fails. */
#define _GNU_SOURCE
#include "tar_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                        \
        }                                                                   \
    } while (0)

static struct pctr_tar tar;

static void
check_number(const char *field, size_t size, bool good, int64_t want)
{
    int64_t value = -77;
    bool got = pctr_tar_number((const unsigned char *)field, size, &value);
    if (got != good || (good && value != want)) {
        fprintf(stderr, "number %.*s: %d %lld\n", (int)size, field, got, (long long)value);
        abort();
    }
}

static void
test_numbers(void)
{
    check_number("0000644\0", 8, true, 0644);
    check_number("   644 \0", 8, true, 0644);
    check_number("\0\0\0\0\0\0\0\0", 8, true, 0);
    check_number("        ", 8, true, 0);
    check_number("77777777", 8, true, 077777777);
    check_number("644\0junk", 8, true, 0644);
    check_number("64x\0\0\0\0", 8, false, 0);
    check_number("64 4\0\0\0", 8, false, 0);
    check_number("8", 1, false, 0);
    check_number("-1\0\0\0\0\0", 8, false, 0);
    check_number("\x80\0\0\0\0\0\0\x2a", 8, true, 42);
    check_number("\x80\0\0\0\0\0\0\0\0\0\x01\0", 12, true, 256);
    check_number("\xff\xff\xff\xff\xff\xff\xff\xff", 8, true, -1);
    check_number("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", 12, true, -2);
    check_number("\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12, true, INT64_MAX);
    check_number("\x80\0\0\0\x80\0\0\0\0\0\0\0", 12, false, 0);
    check_number("\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", 12, true, INT64_MIN);
    check_number("\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12, false, 0);
}

static void
test_decimals(void)
{
    uint64_t value;
    CHECK(pctr_tar_decimal("0", 1, &value) && value == 0);
    CHECK(pctr_tar_decimal("9223372036854775807", 19, &value) && value == INT64_MAX);
    CHECK(!pctr_tar_decimal("9223372036854775808", 19, &value));
    CHECK(!pctr_tar_decimal("18446744073709551616", 20, &value));
    CHECK(!pctr_tar_decimal("", 0, &value));
    CHECK(!pctr_tar_decimal("-1", 2, &value));
    CHECK(!pctr_tar_decimal("1 ", 2, &value));
}

static int
parse(const char *text, size_t size)
{
    pctr_tar_open(&tar, -1, 0);
    memcpy(tar.pax_text, text, size);
    return pctr_tar_pax_parse(&tar, size);
}

#define PARSE(text) parse((text), sizeof(text) - 1)

static void
check_time(const char *text, int64_t seconds, uint32_t nanoseconds)
{
    char record[64];
    size_t size = strlen(text) + sizeof("NN mtime=\n") - 1;
    snprintf(record, sizeof(record), "%zu mtime=%s\n", size, text);
    CHECK(parse(record, size) == 0);
    CHECK(tar.pax.mtime_sec == seconds && tar.pax.mtime_nsec == nanoseconds);
}

static void
test_pax(void)
{
    CHECK(PARSE("9 path=a\n12 path=bcd\n") == 0 && strcmp(tar.pax.path, "bcd") == 0);
    CHECK(PARSE("8 path=\n") == 0 && tar.pax.path == NULL);
    CHECK(PARSE("11 path=a\n") < 0);
    CHECK(PARSE("8 path=a\n") < 0);
    CHECK(PARSE("9 path=a") < 0);
    CHECK(PARSE("9 pathba\n") < 0);
    CHECK(PARSE("5 =a\n") < 0);
    CHECK(PARSE("-9 path=a\n") < 0);
    CHECK(PARSE("12 path=a\0b\n") < 0);
    CHECK(PARSE("000000009 path=a\n") < 0);
    CHECK(PARSE("3 \n") < 0);
    CHECK(PARSE("0 ") < 0);
    CHECK(PARSE("11 size=-1\n") < 0);
    CHECK(PARSE("29 SCHILY.xattr.user.a%3Db=\0\n") == 0);
    CHECK(tar.entry.xattr_count == 1 && strcmp(tar.entry.xattrs[0].name, "user.a=b") == 0);
    CHECK(tar.entry.xattrs[0].size == 1);
    CHECK(PARSE("18 RHT.whatever=1\n") == 0);
    CHECK(PARSE("24 GNU.sparse.surprise=1\n") < 0 && tar.fault == PCTR_TAR_MALFORMED);
    CHECK(PARSE("25 GNU.sparse.surprise=1\n") < 0 && tar.fault == PCTR_TAR_UNSUPPORTED);
    CHECK(PARSE("25 GNU.sparse.numbytes=1\n") < 0 && tar.fault == PCTR_TAR_MALFORMED);
    CHECK(PARSE("23 GNU.sparse.offset=1\n23 GNU.sparse.offset=2\n") < 0);
    check_time("1234567.5", 1234567, 500000000);
    check_time("1.1234567899", 1, 123456789);
    check_time("-1", -1, 0);
    check_time("-1.25", -2, 750000000);
    check_time("12345678.", 12345678, 0);
}

static void
test_extents(void)
{
    pctr_tar_open(&tar, -1, 0);
    CHECK(pctr_tar_sparse_add(&tar, 10, 5) == 0);
    CHECK(pctr_tar_sparse_add(&tar, 14, 5) < 0);
    CHECK(pctr_tar_sparse_add(&tar, 15, 0) == 0);
    CHECK(pctr_tar_sparse_add(&tar, INT64_MAX, 0) == 0);
    CHECK(pctr_tar_sparse_add(&tar, INT64_MAX, 1) < 0);
    pctr_tar_open(&tar, -1, 0);
    CHECK(pctr_tar_sparse_add(&tar, (uint64_t)INT64_MAX + 1, 0) < 0);
    for (uint32_t i = 0; i < PCTR_TAR_EXTENTS; i++) {
        CHECK(pctr_tar_sparse_add(&tar, i, 1) == 0);
    }
    CHECK(pctr_tar_sparse_add(&tar, PCTR_TAR_EXTENTS, 1) < 0 && tar.fault == PCTR_TAR_TOO_LONG);
}

int
main(void)
{
    test_numbers();
    test_decimals();
    test_pax();
    test_extents();
    return 0;
}
