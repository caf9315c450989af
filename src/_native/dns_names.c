/* Who is on a network, by name and by address. */
#include "dns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

static uint32_t
hash_of(const char *text)
{
    uint32_t hash = 2166136261; /* FNV-1a */

    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 16777619;
    }
    return hash;
}

static int
add_name(struct pctr_dns_names *names, uint16_t member, const char *text)
{
    struct pctr_dns_name *name = &names->names[names->count];

    if (names->count == PCTR_DNS_NAMES) {
        return -ENOSPC;
    }
    if (!pctr_dns_is_name(text)) {
        return -EINVAL;
    }
    *name = (struct pctr_dns_name){.member = member};
    strcpy(name->text, text);
    pctr_dns_lower(name->text);
    uint32_t hash = hash_of(name->text);
    for (unsigned i = 0; i < names->count; i++) {
        if (names->hashes[i] == hash && names->names[i].member == member &&
            strcmp(names->names[i].text, name->text) == 0) {
            return 0; /* it is called so already */
        }
    }
    names->hashes[names->count++] = hash;
    return 0;
}

static void
forget_names(struct pctr_dns_names *names, uint16_t member)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < names->count; i++) {
        if (names->names[i].member == member) {
            continue;
        }
        if (kept != i) {
            names->hashes[kept] = names->hashes[i];
            names->names[kept] = names->names[i];
        }
        kept++;
    }
    names->count = kept;
}

/* The place of the member with this id, or else the first free one, or else -1. */
static int
find_place(const struct pctr_dns_names *names, uint32_t id)
{
    int free_place = names->touched < PCTR_DNS_MEMBERS ? (int)names->touched : -1;

    for (unsigned i = names->touched; i-- > 0;) {
        if (names->members[i].id == id) {
            return (int)i;
        }
        if (names->members[i].id == 0) {
            free_place = (int)i;
        }
    }
    return free_place;
}

int
pctr_dns_names_add(struct pctr_dns_names *names, uint32_t id, const struct pctr_address *addresses,
                   unsigned count, const char *text, size_t size)
{
    int place = find_place(names, id);

    if (id == 0 || count > PCTR_RESOLVE_ADDRESSES || (size > 0 && text[size - 1] != '\0')) {
        return -EINVAL;
    }
    if (place < 0) {
        return -ENOSPC;
    }
    struct pctr_dns_member *member = &names->members[place];
    if (member->id == id) {
        return -EEXIST;
    }
    for (const char *at = text; at < text + size; at += strlen(at) + 1) {
        int error = add_name(names, (uint16_t)place, at);
        if (error < 0) {
            forget_names(names, (uint16_t)place);
            return error;
        }
    }
    *member = (struct pctr_dns_member){.id = id, .count = count};
    memcpy(member->addresses, addresses, count * sizeof *addresses);
    if (size > 0) {
        strcpy(member->name, text);
        pctr_dns_lower(member->name);
    }
    names->touched += place == (int)names->touched;
    return 0;
}

int
pctr_dns_names_remove(struct pctr_dns_names *names, uint32_t id)
{
    int place = id == 0 ? -1 : find_place(names, id);

    if (place < 0 || names->members[place].id != id) {
        return -ENOENT;
    }
    forget_names(names, (uint16_t)place);
    names->members[place].id = 0;
    return 0;
}

unsigned
pctr_dns_names_find(const struct pctr_dns_names *names, const char *text,
                    uint16_t found[PCTR_DNS_MEMBERS])
{
    uint32_t hash = hash_of(text);
    unsigned count = 0;

    for (unsigned i = 0; i < names->count; i++) {
        if (names->hashes[i] == hash && strcmp(names->names[i].text, text) == 0) {
            found[count++] = (uint16_t)i;
        }
    }
    return count;
}

/* The text that is left of a suffix, copied to `head`; false where it is none, or longer. */
static bool
cut_suffix(const char *text, const char *suffix, char *head, size_t room)
{
    size_t length = strlen(text), tail = strlen(suffix);

    if (length <= tail || length - tail >= room || strcmp(text + length - tail, suffix) != 0) {
        return false;
    }
    memcpy(head, text, length - tail);
    head[length - tail] = '\0';
    return true;
}

/* d.c.b.a.in-addr.arpa: RFC 1035, section 3.5. */
static bool
read_four(const char *text, struct pctr_address *address)
{
    char head[INET_ADDRSTRLEN];
    unsigned char bytes[4];

    if (!cut_suffix(text, ".in-addr.arpa", head, sizeof head) ||
        inet_pton(AF_INET, head, bytes) != 1) {
        return false;
    }
    *address = (struct pctr_address){.family = AF_INET};
    for (unsigned i = 0; i < 4; i++) {
        address->bytes[i] = bytes[3 - i];
    }
    return true;
}

/* 32 digits, the last one first: RFC 3596, section 2.5. */
static bool
read_six(const char *text, struct pctr_address *address)
{
    static const char digits[] = "0123456789abcdef";
    char head[64];

    if (!cut_suffix(text, ".ip6.arpa", head, sizeof head) || strlen(head) != 63) {
        return false;
    }
    *address = (struct pctr_address){.family = AF_INET6};
    for (unsigned i = 0; i < 32; i++) {
        const char *digit = memchr(digits, head[2 * i], 16);
        if (digit == NULL || (i < 31 && head[2 * i + 1] != '.')) {
            return false;
        }
        address->bytes[15 - i / 2] |= (uint8_t)((digit - digits) << (i % 2 == 0 ? 0 : 4));
    }
    return true;
}

const struct pctr_dns_member *
pctr_dns_names_reverse(const struct pctr_dns_names *names, const char *text)
{
    struct pctr_address address;

    if (!read_four(text, &address) && !read_six(text, &address)) {
        return NULL;
    }
    for (unsigned i = 0; i < names->touched; i++) {
        const struct pctr_dns_member *member = &names->members[i];
        for (unsigned j = 0; member->id != 0 && j < member->count; j++) {
            if (memcmp(&member->addresses[j], &address, sizeof address) == 0) {
                return member;
            }
        }
    }
    return NULL;
}
