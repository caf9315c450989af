/* Answers about the members of a network.  Whoever asks may be an enemy. */
#include "dns.h"

static bool
wants(const struct pctr_dns_question *question, unsigned type)
{
    return question->type == type || question->type == PCTR_DNS_ANY;
}

static void
add_addresses(struct pctr_dns_writer *writer, const struct pctr_dns_question *question,
              const struct pctr_dns_member *member)
{
    for (unsigned i = 0; i < member->count; i++) {
        const struct pctr_address *address = &member->addresses[i];
        bool four = address->family == AF_INET;
        unsigned type = four ? PCTR_DNS_A : PCTR_DNS_AAAA;
        if (wants(question, type)) {
            pctr_dns_add(writer, type, address->bytes, four ? 4 : 16);
        }
    }
}

/* Those who are called the same are told in turns, so that what is asked of them is shared out.  Libraries
 * ask for both kinds of addresses at once. */
static bool
answer_name(struct pctr_dns_names *names, struct pctr_dns_writer *writer,
            const struct pctr_dns_question *question)
{
    uint16_t found[PCTR_DNS_MEMBERS];
    unsigned count = pctr_dns_names_find(names, question->text, found);

    if (count == 0) {
        return false;
    }
    unsigned first = names->names[found[0]].turns[question->type != PCTR_DNS_A]++;
    for (unsigned i = 0; i < count; i++) {
        uint16_t member = names->names[found[(first + i) % count]].member;
        add_addresses(writer, question, &names->members[member]);
    }
    return true;
}

static bool
answer_address(const struct pctr_dns_names *names, struct pctr_dns_writer *writer,
               const struct pctr_dns_question *question)
{
    const struct pctr_dns_member *member = pctr_dns_names_reverse(names, question->text);

    if (member == NULL) {
        return false;
    }
    if (wants(question, PCTR_DNS_PTR) && member->name[0] != '\0') {
        pctr_dns_add_name(writer, PCTR_DNS_PTR, member->name);
    }
    return true;
}

int
pctr_dns_answer(struct pctr_dns_names *names, const unsigned char *asked, size_t size,
                bool leads_out, unsigned char *out, size_t limit)
{
    struct pctr_dns_question question;
    struct pctr_dns_writer writer;
    int code = pctr_dns_read(asked, size, &question);

    if (code == PCTR_DNS_IGNORE) {
        return PCTR_DNS_NOTHING;
    }
    if (code == PCTR_DNS_OK && (question.type == PCTR_DNS_AXFR || question.type == PCTR_DNS_IXFR)) {
        code = PCTR_DNS_REFUSED;
    }
    if (code != PCTR_DNS_OK) {
        return (int)pctr_dns_refuse(out, asked, (enum pctr_dns_code)code);
    }
    bool ours = question.class == PCTR_DNS_IN || question.class == PCTR_DNS_ANY;
    pctr_dns_begin(&writer, out, limit, asked, &question, PCTR_DNS_OK);
    /* Of a name that is known there may be nothing of the kind that is asked for: that is an answer, too,
     * and who asks for IPv6 first does not go on asking others. */
    if (ours && question.plain &&
        (answer_name(names, &writer, &question) || answer_address(names, &writer, &question))) {
        return (int)pctr_dns_end(&writer);
    }
    if (leads_out) {
        return PCTR_DNS_ELSEWHERE;
    }
    /* Libraries wait, or ask again, after any other refusal. */
    pctr_dns_begin(&writer, out, limit, asked, &question, PCTR_DNS_NO_NAME);
    return (int)pctr_dns_end(&writer);
}
