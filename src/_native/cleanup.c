#define _GNU_SOURCE
#include "cleanup.h"

#include "aside.h"
#include "ops.h"
#include "spares.h"
#include "util.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static struct pctr_context
context_of(struct pctr_record *record)
{
    return (struct pctr_context){.root = -1,
                                 .target = -1,
                                 .cgroup = -1,
                                 .supervisor = -1,
                                 .report = -1,
                                 .network = -1,
                                 .kept_root = -1,
                                 .terminal = -1,
                                 .record = record};
}

/* Appends one file as a length and its first bytes. */
static uint32_t
collect(const char *path, char *out, uint32_t room)
{
    char text[PCTR_MAX_COLLECT];
    uint32_t length = PCTR_NOT_COLLECTED;
    ssize_t got = -1;

    if (room < sizeof length) {
        return 0;
    }
    PCTR_AUTO_FD file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file >= 0) {
        got = read(file, text, sizeof text);
    }
    if (got < 0 || (size_t)got > room - sizeof length) {
        memcpy(out, &length, sizeof length);
        return sizeof length;
    }
    length = (uint32_t)got;
    memcpy(out, &length, sizeof length);
    memcpy(out + sizeof length, text, length);
    return (uint32_t)sizeof length + length;
}

uint32_t
pctr_cleanup_collect(char *plan, size_t size, char *out, uint32_t room)
{
    struct pctr_record record;
    struct pctr_context context = context_of(&record);
    uint32_t collected = 0;

    if (plan == NULL || pctr_plan_open(&context.plan, plan, size, 0) < 0) {
        return 0;
    }
    for (unsigned i = 0; i < context.plan.nops; i++) {
        const struct pctr_op *op = &context.plan.ops[i];
        if (op->code == PCTR_OP_COLLECT) {
            collected += collect(pctr_text(&context, op->s1), out + collected, room - collected);
        }
    }
    return collected;
}

static void
run(char *plan, size_t size, bool trees)
{
    struct pctr_record record;
    struct pctr_context context = context_of(&record);

    if (plan == NULL || pctr_plan_open(&context.plan, plan, size, 0) < 0) {
        return;
    }
    for (unsigned i = 0; i < context.plan.nops; i++) {
        uint16_t code = context.plan.ops[i].code;
        if (code != PCTR_OP_COLLECT && (trees || code != PCTR_OP_REMOVE_TREE)) {
            (void)pctr_ops_run(&context, i, 1);
        }
    }
}

void
pctr_cleanup_run(char *plan, size_t size)
{
    run(plan, size, false);
}

void
pctr_cleanup_last(char *plan, size_t size)
{
    run(plan, size, true);
}

static bool
remove_unused(const struct pctr_context *context, const struct pctr_op *op)
{
    PCTR_AUTO_FD parent = pctr_result(
        open(pctr_text(context, op->s1), O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));

    return pctr_spares_remove(parent, pctr_text(context, op->s2));
}

int
pctr_cleanup_reuse(char *plan, size_t size, uint64_t stack)
{
    int root = -1;
    struct pctr_record record;
    struct pctr_context context = context_of(&record);

    if (plan == NULL || pctr_plan_open(&context.plan, plan, size, 0) < 0) {
        return -1;
    }
    for (unsigned i = 0; i < context.plan.nops && root < 0; i++) {
        const struct pctr_op *op = &context.plan.ops[i];
        if (op->code == PCTR_OP_REMOVE_TREE && op->n1 != 0) {
            root =
                pctr_spares_take(pctr_text(&context, op->s1), pctr_text(&context, op->s2), stack);
        }
    }
    return root;
}

static bool
reuse(const struct pctr_context *context, const struct pctr_op *op, int *root, uint64_t stack)
{
    if (root == NULL) {
        return false;
    }
    bool taken = op->n1 != 0 && pctr_spares_give(pctr_text(context, op->s1),
                                                 pctr_text(context, op->s2), root, stack);
    /* What is still mounted would keep what is removed. */
    pctr_aside_close(root);
    return taken;
}

pid_t
pctr_cleanup_trees(char *plan, size_t size, int *root, uint64_t stack)
{
    struct pctr_record record;
    struct pctr_context context = context_of(&record);
    bool any = false;

    if (plan == NULL || pctr_plan_open(&context.plan, plan, size, 0) < 0) {
        return 0;
    }
    for (unsigned i = 0; i < context.plan.nops; i++) {
        const struct pctr_op *op = &context.plan.ops[i];
        if (op->code == PCTR_OP_REMOVE_TREE && !reuse(&context, op, root, stack) &&
            !remove_unused(&context, op)) {
            any = true;
        }
    }
    pid_t pid = any ? fork() : 0;
    if (!any || pid != 0) {
        return pid > 0 ? pid : 0;
    }
    /* Our copies of other jobs' channels would keep those open. */
    (void)pctr_close_all_but(NULL, 0);
    for (unsigned i = 0; i < context.plan.nops; i++) {
        if (context.plan.ops[i].code == PCTR_OP_REMOVE_TREE) {
            (void)pctr_ops_run(&context, i, 1);
        }
    }
    _exit(0);
}
