/* Answers questions about names in the network namespace where it is, as asked on a socket that it
 * inherits: resolve_names SOCKET [DESCRIPTORS, the limit of them] */
#define _GNU_SOURCE
#include "ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

int
main(int argc, char **argv)
{
    if (argc != 2 && argc != 3) {
        return 100;
    }
    int sock = atoi(argv[1]);
    struct pctr_context context = {.fds = &sock, .nfds = 1};
    struct pctr_op op = {.code = PCTR_OP_RESOLVE, .arg = 0};

    if (argc == 3) {
        rlim_t most = (rlim_t)atoi(argv[2]);
        struct rlimit limit = {most, most};
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
            return 101;
        }
    }
    int result = pctr_op_resolve(&context, &op);
    if (result < 0) {
        fprintf(stderr, "%s\n", strerror(-result));
    }
    return -result;
}
