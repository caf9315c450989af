/* tree_remove [--openat2 ERRNO] [--files N] PARENT NAME: removes PARENT/NAME and prints what came
 * of it. With at most N open files. */
#define _GNU_SOURCE
#include "no_openat2.h"
#include "tree.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
    int at = 1;
    for (; at + 1 < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
        int number = atoi(argv[at + 1]);
        struct rlimit files = {.rlim_cur = (rlim_t)number, .rlim_max = (rlim_t)number};
        if (strcmp(argv[at], "--openat2") == 0 ? no_openat2(number) < 0
                                               : setrlimit(RLIMIT_NOFILE, &files) < 0) {
            perror(argv[at]);
            return 2;
        }
    }
    if (at + 2 != argc) {
        fprintf(stderr, "usage: tree_remove [options] PARENT NAME\n");
        return 2;
    }
    int parent = open(argv[at], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0) {
        perror(argv[at]);
        return 2;
    }
    struct pctr_tree_error error;
    int status = pctr_tree_remove(parent, argv[at + 1], &error);
    printf("status %d\nerr %d\nwhat %s\npath ", status, error.err, error.what);
    for (const char *byte = error.path; *byte != '\0'; byte++) {
        printf("%02x", (unsigned char)*byte);
    }
    int next = dup(parent);
    printf("\nleaked %d\n", next - parent - 1);
    return 0;
}
