/* Plans that are right, and plans that are wrong in one place each. The bytes lie in a block of exactly
 * their size, so that the address sanitiser sees a read beyond either end. */
#include "plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

enum { OPS = 4, DATA = 256, TABLE = 64, DESCRIPTORS = 2 };

struct sample {
    struct pctr_plan header;
    struct pctr_op ops[OPS];
    char data[DATA];
};

/* MKDIR, WRITE, FD and EXEC; the pointer table of EXEC's three blocks begins at 64, 128 and 192. */
static struct sample
good(void)
{
    struct sample sample;

    memset(&sample, 0, sizeof(sample));
    sample.header = (struct pctr_plan){.prepare = 1, .setup = 1, .tail = 2, .data_size = DATA};
    sample.ops[0] = (struct pctr_op){.code = PCTR_OP_MKDIR, .s1 = 1, .n1 = 0755};
    sample.ops[1] = (struct pctr_op){.code = PCTR_OP_WRITE, .s1 = 1, .s2 = 8, .size = 8};
    sample.ops[2] = (struct pctr_op){.code = PCTR_OP_FD, .arg = 1, .n1 = 5};
    sample.ops[3] = (struct pctr_op){
        .code = PCTR_OP_EXEC, .arg = 1, .s1 = 64, .s2 = 128, .s3 = 192, .n1 = 2, .n2 = 1};
    memcpy(sample.data + 1, "/path", 6);
    memcpy(sample.data + 64 + 2 * sizeof(char *), "/bin/sh", 8);
    memcpy(sample.data + 128 + 3 * sizeof(char *), "sh\0-c", 6);
    memcpy(sample.data + 192 + 2 * sizeof(char *), "A=B", 4);
    return sample;
}

static int
open_plan(const void *plan, size_t size, unsigned descriptors)
{
    struct pctr_plan_view view;
    char *exact = malloc(size);

    CHECK(exact != NULL);
    memcpy(exact, plan, size);
    int result = pctr_plan_open(&view, exact, size, descriptors);
    if (result == 0) {
        CHECK(view.nops <= PCTR_MAX_OPS && view.data + view.header->data_size == exact + size);
    }
    free(exact);
    return result;
}

static int
refused(const struct sample *sample)
{
    return open_plan(sample, sizeof(*sample), DESCRIPTORS) == -EBADMSG;
}

#define REFUSED(change)                  \
    do {                                 \
        struct sample wrong = good();    \
        struct pctr_op *ops = wrong.ops; \
        change;                          \
        (void)ops;                       \
        CHECK(refused(&wrong));          \
    } while (0)

static void
test_sizes(void)
{
    struct sample sample = good();

    CHECK(open_plan(&sample, sizeof(sample), DESCRIPTORS) == 0);
    for (size_t size = 0; size < sizeof(sample); size++) {
        CHECK(open_plan(&sample, size, DESCRIPTORS) == -EBADMSG);
    }
    struct pctr_plan empty = {.data_size = 0};
    CHECK(open_plan(&empty, sizeof(empty), 0) == -EBADMSG);
}

static void
test_counts(void)
{
    REFUSED(wrong.header.prepare = UINT32_MAX);
    REFUSED(wrong.header.setup = UINT32_MAX);
    REFUSED(wrong.header.tail = UINT32_MAX);
    REFUSED(wrong.header.prepare = wrong.header.setup = wrong.header.tail = UINT32_MAX);
    REFUSED(wrong.header.prepare = PCTR_MAX_OPS);
    REFUSED(wrong.header.tail = 1);
    REFUSED(wrong.header.data_size = UINT32_MAX);
    REFUSED(wrong.header.data_size = DATA - 1);
    REFUSED(wrong.header.data_size = DATA + 1);
    /* Sums that are right only when they wrap around. */
    REFUSED((wrong.header.prepare = UINT32_MAX, wrong.header.setup = 1, wrong.header.tail = 4));
}

static void
test_strings(void)
{
    REFUSED(wrong.data[0] = 'x');
    REFUSED(wrong.data[DATA - 1] = 'x');
    REFUSED(ops[0].s1 = DATA);
    REFUSED(ops[0].s1 = UINT32_MAX);
    REFUSED(ops[0].s2 = DATA);
    REFUSED(ops[0].s3 = DATA);
}

static void
test_operations(void)
{
    REFUSED(ops[0].code = 0);
    REFUSED(ops[0].code = 48);
    REFUSED(ops[0].code = PCTR_OP_EXEC + 1);
    REFUSED(ops[0].code = UINT16_MAX);
    REFUSED(ops[1].size = DATA);
    REFUSED(ops[1].size = UINT32_MAX);
    REFUSED(ops[1].s2 = DATA - 7);
    REFUSED(ops[2].arg = DESCRIPTORS);
    REFUSED(ops[2].arg = -1);
    REFUSED(ops[2].arg = INT32_MIN);
    REFUSED((ops[0].code = PCTR_OP_WRITE_TAR, ops[0].arg = DESCRIPTORS));
    REFUSED((ops[0].code = PCTR_OP_WRITE_TAR, ops[0].arg = -1));
    /* Without a path the directory is the descriptor that follows. */
    REFUSED((ops[0].code = PCTR_OP_WRITE_TAR, ops[0].arg = DESCRIPTORS - 1, ops[0].s1 = 0));
    /* What is left out is a list that must end within the data. */
    REFUSED((ops[0].code = PCTR_OP_WRITE_TAR, ops[0].arg = 1, ops[0].s2 = DATA - 2,
             wrong.data[DATA - 2] = 'x'));
    REFUSED((ops[0].code = PCTR_OP_WRITE_CHANGES, ops[0].arg = DESCRIPTORS));
    REFUSED((ops[0].code = PCTR_OP_BIND, ops[0].arg = PCTR_MAX_TREES));
    REFUSED((ops[0].code = PCTR_OP_OPEN_TREE, ops[0].arg = -1));
    REFUSED((ops[0].code = PCTR_OP_OVERLAY, ops[0].s2 = 1, ops[0].size = 0));
    REFUSED((ops[0].code = PCTR_OP_OVERLAY, ops[0].s2 = 1, ops[0].size = 3));
    REFUSED((ops[0].code = PCTR_OP_OVERLAY, ops[0].s2 = 1, ops[0].size = DATA));
    REFUSED((ops[0].code = PCTR_OP_GROUPS, ops[0].size = 3));
    REFUSED((ops[0].code = PCTR_OP_GROUPS, ops[0].s1 = 2, ops[0].size = 4));
    REFUSED((ops[0].code = PCTR_OP_SECCOMP, ops[0].size = 12));
    REFUSED((ops[0].code = PCTR_OP_SECCOMP, ops[0].s1 = 4, ops[0].size = 8));
    REFUSED((ops[0].code = PCTR_OP_SECCOMP, ops[0].s1 = 8, ops[0].size = DATA));
}

static void
test_exec(void)
{
    REFUSED(ops[3].arg = 0);
    REFUSED(ops[3].arg = -1);
    REFUSED(ops[3].arg = INT32_MAX);
    REFUSED(ops[3].n1 = 0);
    REFUSED(ops[3].n1 = UINT64_MAX);
    REFUSED(ops[3].n2 = UINT64_MAX);
    REFUSED(ops[3].n2 = UINT64_MAX / sizeof(char *));
    REFUSED(ops[3].n1 = DATA);
    REFUSED(ops[3].s1 = 65);
    REFUSED(ops[3].s2 = 129);
    REFUSED(ops[3].s3 = 196);
    REFUSED(ops[3].s3 = DATA - sizeof(char *));
    REFUSED(ops[3].s3 = UINT32_MAX - 7);
    /* More strings than there are ends of strings. */
    REFUSED((ops[3].s3 = 192, ops[3].n2 = 7));
}

int
main(void)
{
    test_sizes();
    test_counts();
    test_strings();
    test_operations();
    test_exec();
    puts("ok");
    return 0;
}
