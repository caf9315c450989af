/* Serves the files beneath a directory on a socket that it inherits: serve_files DIRECTORY SOCKET */
#define _GNU_SOURCE
#include "ops.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
main(int argc, char **argv)
{
    if (argc != 3) {
        return 100;
    }
    int sock = atoi(argv[2]);
    struct pctr_context context = {.fds = &sock, .nfds = 1};
    struct pctr_op op = {.code = PCTR_OP_SERVE, .arg = 0};

    context.root = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (context.root < 0) {
        return 101;
    }
    int result = pctr_op_serve(&context, &op);
    if (result < 0) {
        fprintf(stderr, "%s\n", strerror(-result));
    }
    return -result;
}
