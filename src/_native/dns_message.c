/* Messages of the domain name system: RFC 1035, section 4. */
#include "dns.h"

#include <string.h>

enum {
    LABEL = 63,
    WIRE_NAME = 255,
    AT_FLAGS = 2,
    AT_QUESTIONS = 4,
    AT_ANSWERS = 6,
    AT_AUTHORITIES = 8,
    AT_ADDITIONAL = 10,
    QR = 0x80, /* of the first byte of flags */
    OPCODE = 0x78,
    AA = 0x04,
    TC = 0x02,
    RD = 0x01,
    RA = 0x80, /* of the second one */
    POINTER = 0xc0,
};

static char
lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

void
pctr_dns_lower(char *text)
{
    for (; *text != '\0'; text++) {
        *text = lower(*text);
    }
}

/* Where the question that begins after the head ends, or 0.  A pointer would lead to something before the
 * first name there is, so there is none. */
static size_t
skip_question(const unsigned char *bytes, size_t size)
{
    size_t at = PCTR_DNS_HEAD;

    while (at < size && bytes[at] != 0) {
        at += bytes[at] > LABEL ? size : bytes[at] + 1u;
        /* With the byte that ends it. */
        if (at + 1 - PCTR_DNS_HEAD > WIRE_NAME) {
            return 0;
        }
    }
    return at < size && size - at >= 5 ? at + 5 : 0;
}

static void
read_name(const unsigned char *bytes, struct pctr_dns_question *question)
{
    char *to = question->text;

    question->plain = true;
    for (size_t at = PCTR_DNS_HEAD; bytes[at] != 0;) {
        unsigned label = bytes[at++];
        if (to != question->text) {
            *to++ = '.';
        }
        for (unsigned i = 0; i < label; i++, at++) {
            question->plain = question->plain && bytes[at] != '.' && bytes[at] != '\0';
            *to++ = lower((char)bytes[at]);
        }
    }
    *to = '\0';
}

int
pctr_dns_read(const unsigned char *bytes, size_t size, struct pctr_dns_question *question)
{
    if (size < PCTR_DNS_HEAD || (bytes[AT_FLAGS] & QR)) {
        return PCTR_DNS_IGNORE;
    }
    if (bytes[AT_FLAGS] & OPCODE) {
        return PCTR_DNS_NOT_IMPLEMENTED;
    }
    if (size > PCTR_DNS_QUESTION || pctr_dns_get(bytes + AT_QUESTIONS) != 1 ||
        pctr_dns_get(bytes + AT_ANSWERS) != 0 || pctr_dns_get(bytes + AT_AUTHORITIES) != 0) {
        return PCTR_DNS_FORMAT_ERROR;
    }
    size_t end = skip_question(bytes, size);
    if (end == 0) {
        return PCTR_DNS_FORMAT_ERROR;
    }
    read_name(bytes, question);
    question->type = pctr_dns_get(bytes + end - 4);
    question->class = pctr_dns_get(bytes + end - 2);
    question->end = (unsigned)end;
    return PCTR_DNS_OK;
}

static bool
same_question(const unsigned char *one, const unsigned char *other, size_t end)
{
    for (size_t i = PCTR_DNS_HEAD; i < end; i++) {
        /* Lengths of labels are below the letters. */
        if (lower((char)one[i]) != lower((char)other[i])) {
            return false;
        }
    }
    return true;
}

bool
pctr_dns_answers(const unsigned char *bytes, size_t size, const unsigned char *asked,
                 size_t asked_size)
{
    if (size < PCTR_DNS_HEAD || memcmp(bytes, asked, 2) != 0 || !(bytes[AT_FLAGS] & QR) ||
        (bytes[AT_FLAGS] & OPCODE) != (asked[AT_FLAGS] & OPCODE)) {
        return false;
    }
    enum pctr_dns_code code = pctr_dns_code_of(bytes);
    if (pctr_dns_get(bytes + AT_QUESTIONS) == 0) {
        return code != PCTR_DNS_OK && code != PCTR_DNS_NO_NAME && size == PCTR_DNS_HEAD;
    }
    size_t end = skip_question(bytes, size);
    return pctr_dns_get(bytes + AT_QUESTIONS) == 1 && end != 0 && end <= asked_size &&
           end == skip_question(asked, asked_size) && same_question(bytes, asked, end);
}

static void
write_head(unsigned char *out, const unsigned char *asked, enum pctr_dns_code code)
{
    memset(out, 0, PCTR_DNS_HEAD);
    memcpy(out, asked, 2);
    out[AT_FLAGS] = (unsigned char)(QR | (asked[AT_FLAGS] & (OPCODE | RD)));
    out[AT_FLAGS + 1] = (unsigned char)(RA | (unsigned)code);
}

size_t
pctr_dns_refuse(unsigned char *out, const unsigned char *asked, enum pctr_dns_code code)
{
    write_head(out, asked, code);
    return PCTR_DNS_HEAD;
}

void
pctr_dns_begin(struct pctr_dns_writer *writer, unsigned char *out, size_t limit,
               const unsigned char *asked, const struct pctr_dns_question *question,
               enum pctr_dns_code code)
{
    write_head(out, asked, code);
    if (code != PCTR_DNS_SERVER_FAILURE) {
        out[AT_FLAGS] |= AA;
    }
    pctr_dns_put(out + AT_QUESTIONS, 1);
    memcpy(out + PCTR_DNS_HEAD, asked + PCTR_DNS_HEAD, question->end - PCTR_DNS_HEAD);
    *writer = (struct pctr_dns_writer){.out = out, .size = question->end, .limit = limit};
}

void
pctr_dns_add(struct pctr_dns_writer *writer, unsigned type, const unsigned char *data, size_t size)
{
    unsigned char *out = writer->out + writer->size;

    if (writer->full || size + PCTR_DNS_HEAD > writer->limit - writer->size) {
        writer->full = true;
        return;
    }
    /* The name is the one in the question, where that begins. */
    pctr_dns_put(out, POINTER << 8 | PCTR_DNS_HEAD);
    pctr_dns_put(out + 2, type);
    pctr_dns_put(out + 4, PCTR_DNS_IN);
    pctr_dns_put(out + 6, PCTR_DNS_TTL >> 16);
    pctr_dns_put(out + 8, PCTR_DNS_TTL & 0xffff);
    pctr_dns_put(out + 10, (unsigned)size);
    memcpy(out + 12, data, size);
    writer->size += 12 + size;
    writer->count++;
}

void
pctr_dns_add_name(struct pctr_dns_writer *writer, unsigned type, const char *text)
{
    unsigned char name[PCTR_DNS_NAME + 1];
    size_t at = 0;

    /* Each label behind its length, an empty one at the end. */
    for (const char *label = text; *label != '\0';) {
        size_t length = strcspn(label, ".");
        name[at++] = (unsigned char)length;
        memcpy(name + at, label, length);
        at += length;
        label += length + (label[length] == '.');
    }
    name[at++] = 0;
    pctr_dns_add(writer, type, name, at);
}

size_t
pctr_dns_end(struct pctr_dns_writer *writer)
{
    pctr_dns_put(writer->out + AT_ANSWERS, writer->count);
    writer->out[AT_FLAGS] |= writer->full ? TC : 0;
    return writer->size;
}

bool
pctr_dns_is_name(const char *text)
{
    if (*text == '\0' || strlen(text) >= PCTR_DNS_NAME) {
        return false;
    }
    for (;;) {
        size_t length = strcspn(text, ".");
        if (length == 0 || length > LABEL) {
            return false;
        }
        if (text[length] == '\0') {
            return true;
        }
        text += length + 1;
    }
}
