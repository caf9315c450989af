/* libFuzzer target: any bytes are a layer. Besides what the sanitisers see, nothing may appear or
 * change beside the root, which stands between a canary before and after, and its removal must
 * always succeed.
 *
 * The first byte chooses flags and limits. With -DPCTR_REPLAY it is a program that runs each file
 * named once. */
#define _GNU_SOURCE
#include "layer.h"
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int around = -1; /* the directory that holds the canary and, for a while, the root */
static struct stat canary;

static void
remove_around(void)
{
    char path[4096];
    char link[64];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", around);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    if (length > 0) {
        path[length] = '\0';
        unlinkat(around, "canary", 0);
        rmdir(path);
    }
}

static void
set_up(void)
{
    char name[] = "/dev/shm/pctr-fuzz-XXXXXX";
    CHECK(mkdtemp(name) != NULL);
    around = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(around >= 0);
    int fd = openat(around, "canary", O_WRONLY | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && write(fd, "tweet\n", 6) == 6 && fstat(fd, &canary) == 0);
    close(fd);
    atexit(remove_around);
}

static void
check_canary(void)
{
    struct stat now;
    int count = 0;
    CHECK(fstatat(around, "canary", &now, AT_SYMLINK_NOFOLLOW) == 0);
    CHECK(now.st_ino == canary.st_ino && now.st_nlink == 1 && now.st_size == canary.st_size);
    CHECK(now.st_ctim.tv_sec == canary.st_ctim.tv_sec &&
          now.st_ctim.tv_nsec == canary.st_ctim.tv_nsec);
    int fd = openat(around, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fdopendir(fd);
    CHECK(dir != NULL);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    CHECK(count == 3);
}

/* What was noted is settled with the layer itself as the one below. */
static void
adopt(int root, uint32_t flags, bool applied)
{
    struct pctr_layer_error error;
    struct pctr_layer_lower lower = {.fds = &root, .count = 1};
    int notes = openat(around, "notes", O_RDONLY | O_CLOEXEC);
    if (notes < 0) {
        return;
    }
    int status = pctr_layer_adopt(notes, root, &lower, flags, &error);
    CHECK(status == 0 || !applied || error.code == PCTR_LAYER_IO);
    close(notes);
    CHECK(unlinkat(around, "notes", 0) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char notes[32];
    if (around < 0) {
        set_up();
    }
    if (size == 0) {
        return 0;
    }
    struct pctr_layer_limits limits = {
        .max_bytes = 4u << 20,
        .max_entries = 300,
        .reserve_bytes = (data[0] & 4) != 0 ? 4096 : 0,
        .flags = (uint32_t)(data[0] & 3),
        .notes = (data[0] & 8) != 0 ? notes : NULL,
    };
    snprintf(notes, sizeof(notes), "/proc/self/fd/%d/notes", around);
    int tar = memfd_create("layer", MFD_CLOEXEC);
    CHECK(tar >= 0 && write(tar, data + 1, size - 1) == (ssize_t)size - 1 &&
          lseek(tar, 0, SEEK_SET) == 0);
    CHECK(mkdirat(around, "root", 0700) == 0);
    int root = openat(around, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(root >= 0);
    struct pctr_layer_error error;
    struct pctr_layer_totals totals;
    int status = pctr_layer_apply(tar, root, &limits, &error, &totals);
    CHECK((status == 0) == (error.code == PCTR_LAYER_OK));
    CHECK(status == 0 || error.what[0] != '\0');
    CHECK(totals.entries <= limits.max_entries && totals.bytes <= limits.max_bytes);
    CHECK(status < 0 || totals.stream_bytes == size - 1);
    adopt(root, limits.flags, status == 0);
    close(root);
    close(tar);
    struct pctr_tree_error gone;
    CHECK(pctr_tree_remove(around, "root", &gone) == 0);
    check_canary();
    return 0;
}

#ifndef PCTR_REPLAY
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* Mutates, then puts right the checksum of every block that looks like a header: a fuzzer does not
 * find it by chance. */
size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    (void)seed;
    size = LLVMFuzzerMutate(data, size, max_size);
    for (size_t at = 1; at + 512 <= size; at += 512) {
        unsigned int sum = 0;
        if (memcmp(data + at + 257, "ustar", 5) != 0) {
            continue;
        }
        memset(data + at + 148, ' ', 8);
        for (size_t i = 0; i < 512; i++) {
            sum += data[at + i];
        }
        char text[8];
        snprintf(text, sizeof(text), "%06o", sum & 0777777);
        memcpy(data + at + 148, text, 7);
    }
    return size;
}
#else
int
main(int argc, char **argv)
{
    static uint8_t data[4u << 20];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        CHECK(file != NULL);
        size_t size = fread(data, 1, sizeof(data), file);
        CHECK(fclose(file) == 0);
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("replayed %d\n", argc - 1);
    return 0;
}
#endif
