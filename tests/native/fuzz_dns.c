/* libFuzzer target: any bytes are a question to the name server of a network, an answer of another
 * server's, or names of a member.  The first byte chooses, and what is known and allowed.
 * With -DPCTR_REPLAY it is a program that runs each file named once. */
#include "dns.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

enum { LEADS_OUT = 1, CONNECTION = 2, ANSWER = 4, NAMES = 8, RECORDS_OF_ONE = 3 * 28 };

static struct pctr_dns_names names;
static unsigned char out[PCTR_DNS_LARGEST];

static unsigned
know(unsigned members)
{
    static const struct pctr_address addresses[] = {
        {.family = AF_INET, .bytes = {10, 1, 0, 2}},
        {.family = AF_INET6, .bytes = {0xfd, [15] = 2}},
        {.family = AF_INET, .bytes = {10, 1, 0, 3}},
    };
    static const char text[] = "db\0Web.example";

    memset(&names, 0, sizeof names);
    for (unsigned i = 1; i <= members; i++) {
        assert(pctr_dns_names_add(&names, i, addresses, 3, text, sizeof text) == 0);
        assert(pctr_dns_names_add(&names, i, addresses, 3, text, sizeof text) < 0);
    }
    return members;
}

static void
question(const unsigned char *bytes, size_t size, unsigned chosen)
{
    unsigned members = know(chosen >> 4);
    size_t limit = chosen & CONNECTION ? PCTR_DNS_LARGEST : PCTR_DNS_DATAGRAM;
    struct pctr_dns_question read;
    int code = pctr_dns_read(bytes, size, &read);
    int said = pctr_dns_answer(&names, bytes, size, chosen & LEADS_OUT, out, limit);

    if (said <= 0) {
        assert(said == (code == PCTR_DNS_IGNORE ? PCTR_DNS_NOTHING : PCTR_DNS_ELSEWHERE));
        assert(said == PCTR_DNS_NOTHING || (chosen & LEADS_OUT));
        return;
    }
    assert((size_t)said <= limit && said >= PCTR_DNS_HEAD);
    assert(memcmp(out, bytes, 2) == 0 && (out[2] & 0x80));
    assert((unsigned)said <= PCTR_DNS_HEAD + 300 + members * RECORDS_OF_ONE);
    if (code == PCTR_DNS_OK && read.type != PCTR_DNS_AXFR && read.type != PCTR_DNS_IXFR) {
        assert(read.end <= size && (size_t)said >= read.end && strlen(read.text) < PCTR_DNS_NAME);
        assert(pctr_dns_answers(out, (size_t)said, bytes, size));
        out[1] ^= 1;
        assert(!pctr_dns_answers(out, (size_t)said, bytes, size));
    }
    else {
        assert(said == PCTR_DNS_HEAD && pctr_dns_code_of(out) != PCTR_DNS_OK);
    }
}

static void
answer(const unsigned char *bytes, size_t size)
{
    static const unsigned char asked[] = "\1\2\1\0\0\1\0\0\0\0\0\0\2db\0\0\1\0";

    if (pctr_dns_answers(bytes, size, asked, sizeof asked)) {
        assert(size >= PCTR_DNS_HEAD && memcmp(bytes, asked, 2) == 0 && (bytes[2] & 0x80));
    }
}

static void
called(const char *text, size_t size)
{
    static uint16_t found[PCTR_DNS_MEMBERS];
    const struct pctr_address none[1] = {{.family = 0}};

    know(1);
    unsigned before = names.count;
    if (pctr_dns_names_add(&names, 99, none, 0, text, size) == 0) {
        for (const char *at = text; at < text + size; at += strlen(at) + 1) {
            char lower[PCTR_DNS_NAME];
            strcpy(lower, at);
            pctr_dns_lower(lower);
            unsigned count = pctr_dns_names_find(&names, lower, found);
            assert(count >= 1 && count <= 2);
        }
        assert(pctr_dns_names_remove(&names, 99) == 0);
    }
    assert(names.count == before && pctr_dns_names_remove(&names, 99) < 0);
    assert(pctr_dns_names_remove(&names, 1) == 0 && names.count == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    if (size == 0) {
        return 0;
    }
    unsigned char *bytes = malloc(size);
    if (bytes == NULL) {
        return 0;
    }
    memcpy(bytes, input + 1, size - 1);
    if (input[0] & NAMES) {
        called((const char *)bytes, size - 1);
    }
    else if (input[0] & ANSWER) {
        answer(bytes, size - 1);
    }
    else {
        question(bytes, size - 1, input[0]);
    }
    free(bytes);
    return 0;
}

#ifdef PCTR_REPLAY
int
main(int argc, char **argv)
{
    static uint8_t bytes[1 << 17];

    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL) {
            return 1;
        }
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, size);
    }
    return 0;
}
#endif
