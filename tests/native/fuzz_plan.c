/* libFuzzer target: any bytes are a plan. One that is accepted has everything where its operations say,
 * which is read here as the operations read it. The first byte is the number of descriptors.
 * With -DPCTR_REPLAY it is a program that runs each file named once. */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static volatile size_t sink;

static void
read_strings(const char *block, uint64_t count)
{
    const char *at = block + (count + 1) * sizeof(char *);

    for (uint64_t i = 0; i < count; i++) {
        sink += strlen(at);
        at += strlen(at) + 1;
    }
    /* EXEC writes its table in place. */
    memset((char *)(uintptr_t)block, 0, (count + 1) * sizeof(char *));
}

static void
read_operation(const struct pctr_plan_view *view, const struct pctr_op *op)
{
    sink += strlen(pctr_plan_text(view, op->s1)) + strlen(pctr_plan_text(view, op->s2)) +
            strlen(pctr_plan_text(view, op->s3));
    for (uint32_t i = 0; i < op->size; i++) {
        if (op->code == PCTR_OP_WRITE || op->code == PCTR_OP_SYSCTL ||
            op->code == PCTR_OP_MAKE_FILE || op->code == PCTR_OP_OVERLAY ||
            op->code == PCTR_OP_ADOPT_LOOKS) {
            sink += (unsigned char)view->data[op->s2 + i];
        }
        else if (op->code == PCTR_OP_GROUPS || op->code == PCTR_OP_SECCOMP) {
            sink += (unsigned char)view->data[op->s1 + i];
        }
        else {
            break;
        }
    }
    if (op->code == PCTR_OP_OVERLAY || op->code == PCTR_OP_ADOPT_LOOKS) {
        const char *at = view->data + op->s2, *end = at + op->size;
        while (at < end) {
            sink += strlen(at);
            at += strlen(at) + 1;
        }
    }
    if (op->code == PCTR_OP_EXEC) {
        read_strings(view->data + op->s1, (uint64_t)op->arg);
        read_strings(view->data + op->s2, op->n1);
        read_strings(view->data + op->s3, op->n2);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    struct pctr_plan_view view;

    if (size == 0) {
        return 0;
    }
    char *bytes = malloc(size);
    if (bytes == NULL) {
        return 0;
    }
    memcpy(bytes, input + 1, size - 1);
    if (pctr_plan_open(&view, bytes, size - 1, input[0]) == 0) {
        for (unsigned i = 0; i < view.nops; i++) {
            read_operation(&view, &view.ops[i]);
        }
    }
    free(bytes);
    return 0;
}

#ifdef PCTR_REPLAY
int
main(int argc, char **argv)
{
    static uint8_t bytes[1 << 20];

    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL) {
            return 1;
        }
        size_t size = fread(bytes, 1, sizeof(bytes), file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, size);
    }
    return 0;
}
#endif
