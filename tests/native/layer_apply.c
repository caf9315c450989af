/* layer_apply [--bytes N] [--entries N] [--reserve N] [--single] [--userxattr] [--openat2 ERRNO]
 * [--notes FILE [--lower DIR]...] ROOT
 *
 * Applies the layer on standard input to the directory ROOT and prints what came of it, one `name
 * value` a line. */
#define _GNU_SOURCE
#include "layer.h"
#include "no_openat2.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define LOWERS 8

static int
usage(void)
{
    fprintf(stderr, "usage: layer_apply [options] ROOT\n");
    return 2;
}

static int
open_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        perror(path);
        exit(2);
    }
    return fd;
}

static long
open_descriptors(void)
{
    long count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir != NULL && readdir(dir) != NULL) {
        count++;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count;
}

static void
print(const struct pctr_layer_error *error, const struct pctr_layer_totals *totals)
{
    struct rusage usage_now;
    printf("code %d\nerr %d\noffset %llu\n", error->code, error->err,
           (unsigned long long)error->offset);
    printf("path ");
    for (const char *at = error->path; *at != '\0'; at++) {
        printf("%02x", (unsigned char)*at);
    }
    printf("\nwhat %s\n", error->what);
    const uint64_t *numbers = (const void *)totals;
    static const char *const names[] = {"entries",          "bytes",           "stream_bytes",
                                        "whiteouts",        "skipped_devices", "skipped_xattrs",
                                        "skipped_metadata", "changed_owners"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        printf("%s %llu\n", names[i], (unsigned long long)numbers[i]);
    }
    printf("root_opaque %u\n", totals->root_opaque);
    if (getrusage(RUSAGE_SELF, &usage_now) == 0) {
        printf("peak_kib %ld\n", usage_now.ru_maxrss);
    }
}

int
main(int argc, char **argv)
{
    int lowers[LOWERS];
    struct pctr_layer_lower lower = {.fds = lowers};
    struct pctr_layer_limits limits = {.max_bytes = 1 << 30, .max_entries = 100000};
    int at = 1;
    for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
        const char *name = argv[at] + 2;
        if (strcmp(name, "single") == 0) {
            limits.flags |= PCTR_LAYER_ROOTLESS_SINGLE;
            continue;
        }
        if (strcmp(name, "userxattr") == 0) {
            limits.flags |= PCTR_LAYER_USERXATTR;
            continue;
        }
        if (++at >= argc) {
            return usage();
        }
        if (strcmp(name, "bytes") == 0) {
            limits.max_bytes = strtoull(argv[at], NULL, 10);
        }
        else if (strcmp(name, "entries") == 0) {
            limits.max_entries = strtoull(argv[at], NULL, 10);
        }
        else if (strcmp(name, "reserve") == 0) {
            limits.reserve_bytes = strtoull(argv[at], NULL, 10);
        }
        else if (strcmp(name, "openat2") == 0) {
            if (no_openat2(atoi(argv[at])) < 0) {
                perror("seccomp");
                return 2;
            }
        }
        else if (strcmp(name, "notes") == 0) {
            limits.notes = argv[at];
        }
        else if (strcmp(name, "lower") == 0 && lower.count < LOWERS) {
            lowers[lower.count++] = open_dir(argv[at]);
        }
        else {
            return usage();
        }
    }
    if (at + 1 != argc) {
        return usage();
    }
    signal(SIGXFSZ, SIG_IGN);
    int root = open_dir(argv[at]);
    long before = open_descriptors();
    struct pctr_layer_error error;
    struct pctr_layer_totals totals;
    int status = pctr_layer_apply(STDIN_FILENO, root, &limits, &error, &totals);
    if (status == 0 && lower.count > 0) {
        int notes = open(limits.notes, O_RDONLY | O_CLOEXEC);
        status = pctr_layer_adopt(notes, root, &lower, limits.flags, &error);
        close(notes);
    }
    print(&error, &totals);
    printf("status %d\nleaked %ld\n", status, open_descriptors() - before);
    return 0;
}
