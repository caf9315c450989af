/* tar_write [--upper] [--userxattr] [--newest] [--uid N] [--gid N] [--latest SECONDS] ROOT OUT
 *
 * Writes the directory ROOT as a tar archive to the new file OUT and prints what came of it, one `name
 * value` a line. */
#define _GNU_SOURCE
#include "tar_write.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
usage(void)
{
    fprintf(stderr, "usage: tar_write [options] ROOT OUT\n");
    return 2;
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

/* Takes one option: how many arguments it had, or 0. */
static int
take_option(struct pctr_tar_write_options *options, const char *name, const char *value)
{
    static const struct {
        const char *name;
        uint32_t flag;
    } flags[] = {{"--upper", PCTR_TAR_WRITE_UPPER},
                 {"--userxattr", PCTR_TAR_WRITE_USERXATTR},
                 {"--newest", PCTR_TAR_WRITE_NEWEST}};

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if (strcmp(name, flags[i].name) == 0) {
            options->flags |= flags[i].flag;
            return 1;
        }
    }
    if (value == NULL) {
        return 0;
    }
    if (strcmp(name, "--uid") == 0) {
        options->root_uid = (uint32_t)strtoul(value, NULL, 10);
    }
    else if (strcmp(name, "--gid") == 0) {
        options->root_gid = (uint32_t)strtoul(value, NULL, 10);
    }
    else if (strcmp(name, "--latest") == 0) {
        options->latest = strtoll(value, NULL, 10);
    }
    else {
        return 0;
    }
    return 2;
}

int
main(int argc, char **argv)
{
    struct pctr_tar_write_options options = {
        .root_uid = PCTR_TAR_WRITE_NOBODY, .root_gid = PCTR_TAR_WRITE_NOBODY, .latest = INT64_MAX};
    struct pctr_tar_write_error error;
    int at = 1;

    while (at < argc && strncmp(argv[at], "--", 2) == 0) {
        int taken = take_option(&options, argv[at], argv[at + 1]);
        if (taken == 0) {
            return usage();
        }
        at += taken;
    }
    if (at + 2 != argc) {
        return usage();
    }
    int root = open(argv[at], O_PATH | O_DIRECTORY | O_CLOEXEC);
    int out = open(argv[at + 1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (root < 0 || out < 0) {
        perror("opening");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    long before = open_descriptors();
    int status = pctr_tar_write(root, out, &options, &error);
    printf("status %d\ncode %d\nerr %d\npath ", status, error.code, error.err);
    for (const char *byte = error.path; *byte != '\0'; byte++) {
        printf("%02x", (unsigned char)*byte);
    }
    printf("\nleaked %ld\n", open_descriptors() - before);
    return 0;
}
