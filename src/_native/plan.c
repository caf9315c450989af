#include "plan.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdbool.h>
#include <string.h>

/* What an operation's fields refer to, so that one loop can check all of them. */
enum {
    USES_FD = 1,      /* arg is an index into the request's descriptors */
    USES_S2_DATA = 2, /* s2 is `size` bytes of data instead of a string */
    USES_S1_DATA = 4,
    USES_EXEC = 8,
    USES_SLOT = 16,       /* arg is a slot for a tree */
    USES_S2_STRINGS = 32, /* s2 is `size` bytes of strings, each ended by NUL */
    USES_NEXT_FD = 64,    /* without an s1, the descriptor after arg's, too */
    USES_S2_LIST = 128,   /* s2 is strings, an empty one at their end */
    USES_MAYBE_FD = 256,  /* arg is such an index, or -1 */
};

struct rule {
    bool known;
    uint16_t uses;
    uint32_t unit; /* `size` is a multiple of this; 0: any */
};

static const struct rule rules[] = {
    [PCTR_OP_MKDIR] = {true, 0, 0},
    [PCTR_OP_WRITE] = {true, USES_S2_DATA, 0},
    [PCTR_OP_RMDIR] = {true, 0, 0},
    [PCTR_OP_REMOVE_TREE] = {true, 0, 0},
    [PCTR_OP_COLLECT] = {true, 0, 0},
    [PCTR_OP_APPLY_LAYER] = {true, USES_FD, 0},
    [PCTR_OP_WRITE_TAR] = {true, USES_FD | USES_NEXT_FD | USES_S2_LIST, 0},
    [PCTR_OP_WRITE_CHANGES] = {true, USES_FD, 0},
    [PCTR_OP_ADOPT_LOOKS] = {true, USES_S2_DATA | USES_S2_STRINGS, 0},
    [PCTR_OP_CGROUP_INTO] = {true, 0, 0},
    [PCTR_OP_CGROUP_OPEN] = {true, 0, 0},
    [PCTR_OP_CGROUP_JOIN] = {true, 0, 0},
    [PCTR_OP_UNSHARE] = {true, 0, 0},
    [PCTR_OP_JOIN] = {true, 0, 0},
    [PCTR_OP_SERVE] = {true, USES_FD, 0},
    [PCTR_OP_JOIN_FD] = {true, USES_FD, 0},
    [PCTR_OP_GIVE] = {true, USES_FD, 0},
    [PCTR_OP_LINGER] = {true, 0, 0},
    [PCTR_OP_KEYRING] = {true, 0, 0},
    [PCTR_OP_NETWORK] = {true, 0, 0},
    [PCTR_OP_HOSTNAME] = {true, 0, 0},
    [PCTR_OP_SYSCTL] = {true, USES_S2_DATA, 0},
    [PCTR_OP_NETLINK] = {true, USES_MAYBE_FD | USES_S2_DATA, 0},
    [PCTR_OP_FORWARD] = {true, USES_FD, 0},
    [PCTR_OP_IMPAIR] = {true, USES_FD, 0},
    [PCTR_OP_RESOLVE] = {true, USES_FD, 0},
    [PCTR_OP_PROPAGATION] = {true, 0, 0},
    [PCTR_OP_ROOT] = {true, 0, 0},
    [PCTR_OP_MOUNT] = {true, 0, 0},
    [PCTR_OP_BIND] = {true, USES_SLOT, 0},
    [PCTR_OP_MAKE_DIR] = {true, 0, 0},
    [PCTR_OP_MAKE_FILE] = {true, USES_S2_DATA, 0},
    [PCTR_OP_MAKE_LINK] = {true, 0, 0},
    [PCTR_OP_MAKE_NODE] = {true, 0, 0},
    [PCTR_OP_MASK] = {true, 0, 0},
    [PCTR_OP_READONLY] = {true, 0, 0},
    [PCTR_OP_REMOUNT] = {true, 0, 0},
    [PCTR_OP_PIVOT] = {true, 0, 0},
    [PCTR_OP_TTY] = {true, USES_FD, 0},
    [PCTR_OP_ENTER] = {true, 0, 0},
    [PCTR_OP_OPEN_TREE] = {true, USES_SLOT, 0},
    [PCTR_OP_OVERLAY] = {true, USES_S2_DATA | USES_S2_STRINGS, 0},
    [PCTR_OP_UNMOUNT] = {true, 0, 0},
    [PCTR_OP_STAY] = {true, 0, 0},
    [PCTR_OP_FD] = {true, USES_FD, 0},
    [PCTR_OP_SETSID] = {true, 0, 0},
    [PCTR_OP_RLIMIT] = {true, 0, 0},
    [PCTR_OP_UMASK] = {true, 0, 0},
    [PCTR_OP_BOUNDING] = {true, 0, 0},
    [PCTR_OP_GROUPS] = {true, USES_S1_DATA, sizeof(uint32_t)},
    [PCTR_OP_IDS] = {true, 0, 0},
    [PCTR_OP_CHDIR] = {true, 0, 0},
    [PCTR_OP_CAPS] = {true, 0, 0},
    [PCTR_OP_NO_NEW_PRIVS] = {true, 0, 0},
    [PCTR_OP_SECCOMP] = {true, USES_S1_DATA, sizeof(struct sock_filter)},
    [PCTR_OP_LIFELINE] = {true, 0, 0},
    [PCTR_OP_EXEC] = {true, USES_EXEC, 0},
};

/* `count` strings from `offset` on, each ended by NUL, all within the data. */
static bool
strings_fit(const char *data, uint32_t data_size, uint32_t offset, uint64_t count)
{
    const char *at = data + offset, *end = data + data_size;

    if (offset >= data_size || count > data_size) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++) {
        const char *nul = at < end ? memchr(at, '\0', (size_t)(end - at)) : NULL;
        if (nul == NULL) {
            return false;
        }
        at = nul + 1;
    }
    return true;
}

static bool
list_ends(const char *data, uint32_t data_size, uint32_t offset)
{
    /* The data's last byte is NUL, so every string within ends there at the latest. */
    while (offset < data_size && data[offset] != '\0') {
        offset += (uint32_t)strlen(data + offset) + 1;
    }
    return offset < data_size;
}

/* EXEC's s1, s2 and s3 are each an array of (count + 1) pointers that the child fills in,
 * followed by the strings. */
static bool
block_fits(const char *data, uint32_t data_size, uint32_t offset, uint64_t count)
{
    uint64_t table = (count + 1) * sizeof(char *);

    if (offset % sizeof(char *) != 0 || count > data_size || offset + table > data_size) {
        return false;
    }
    return count == 0 || strings_fit(data, data_size, (uint32_t)(offset + table), count);
}

static bool
op_fits(const struct pctr_op *op, const char *data, uint32_t data_size, unsigned nfds)
{
    if (op->code >= sizeof rules / sizeof rules[0] || !rules[op->code].known) {
        return false;
    }
    const struct rule *rule = &rules[op->code];
    if (op->s1 >= data_size || op->s2 >= data_size || op->s3 >= data_size) {
        return false;
    }
    if ((rule->uses & USES_FD) && (op->arg < 0 || (unsigned)op->arg >= nfds)) {
        return false;
    }
    if ((rule->uses & USES_MAYBE_FD) && (op->arg < -1 || op->arg >= (int)nfds)) {
        return false;
    }
    if ((rule->uses & USES_NEXT_FD) && op->s1 == 0 && (unsigned)op->arg + 1 >= nfds) {
        return false;
    }
    if ((rule->uses & USES_SLOT) && (op->arg < 0 || op->arg >= PCTR_MAX_TREES)) {
        return false;
    }
    if ((rule->uses & USES_S2_LIST) && !list_ends(data, data_size, op->s2)) {
        return false;
    }
    if (rule->uses & USES_EXEC) {
        return op->arg > 0 && op->n1 > 0 &&
               block_fits(data, data_size, op->s1, (uint64_t)op->arg) &&
               block_fits(data, data_size, op->s2, op->n1) &&
               block_fits(data, data_size, op->s3, op->n2);
    }
    if (rule->uses & (USES_S1_DATA | USES_S2_DATA)) {
        uint32_t offset = (rule->uses & USES_S1_DATA) ? op->s1 : op->s2;
        if (op->size > data_size - offset || (rule->unit != 0 && op->size % rule->unit != 0) ||
            (rule->unit != 0 && offset % rule->unit != 0)) {
            return false;
        }
        if ((rule->uses & USES_S2_STRINGS) &&
            (op->size == 0 || data[offset + op->size - 1] != '\0')) {
            return false;
        }
    }
    return true;
}

int
pctr_plan_open(struct pctr_plan_view *view, char *bytes, size_t size, unsigned nfds)
{
    const struct pctr_plan *header = (const struct pctr_plan *)bytes;

    if (size < sizeof *header) {
        return -EBADMSG;
    }
    uint64_t nops = (uint64_t)header->prepare + header->setup + header->tail;
    if (nops > PCTR_MAX_OPS ||
        sizeof *header + nops * sizeof(struct pctr_op) + header->data_size != size ||
        header->data_size == 0) {
        return -EBADMSG;
    }
    view->header = header;
    view->ops = (const struct pctr_op *)(bytes + sizeof *header);
    view->nops = (unsigned)nops;
    view->data = bytes + sizeof *header + nops * sizeof(struct pctr_op);
    /* A NUL at either end makes every offset the start of some string. */
    if (view->data[0] != '\0' || view->data[header->data_size - 1] != '\0') {
        return -EBADMSG;
    }
    for (unsigned i = 0; i < view->nops; i++) {
        if (!op_fits(&view->ops[i], view->data, header->data_size, nfds)) {
            return -EBADMSG;
        }
    }
    return 0;
}
