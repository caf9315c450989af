/* Impairs by what it is told on a socket that it inherits: impair_frames SOCKET */
#define _GNU_SOURCE
#include "ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
main(int argc, char **argv)
{
    if (argc != 2) {
        return 100;
    }
    int sock = atoi(argv[1]);
    struct pctr_context context = {.fds = &sock, .nfds = 1};
    struct pctr_op op = {.code = PCTR_OP_IMPAIR, .arg = 0};

    int result = pctr_op_impair(&context, &op);
    if (result < 0) {
        fprintf(stderr, "%s\n", strerror(-result));
    }
    return -result;
}
