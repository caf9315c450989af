#define _GNU_SOURCE
#include "userns.h"

#include "protocol.h"
#include "supervisor.h"
#include "util.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_ARGUMENTS = 64 };

struct maps {
    char *uid_map;
    char *gid_map;
    char *uid_helper[MAX_ARGUMENTS];
    char *gid_helper[MAX_ARGUMENTS];
};

/* Takes the next string, or NULL at the end. */
static char *
next_string(char **at, const char *end)
{
    char *text = *at;
    const char *nul = text < end ? memchr(text, '\0', (size_t)(end - text)) : NULL;

    if (nul == NULL) {
        return NULL;
    }
    *at += nul - text + 1;
    return text;
}

/* A helper's argument vector: program, PID (set by the caller), then the ranges. */
static int
next_vector(char **at, const char *end, char **vector)
{
    for (int i = 0; i < MAX_ARGUMENTS - 1; i++) {
        char *text = next_string(at, end);
        if (text == NULL) {
            return -EBADMSG;
        }
        vector[i] = *text != '\0' ? text : NULL;
        if (*text == '\0') {
            return 0;
        }
        if (i == 0) {
            vector[++i] = NULL;
        }
    }
    return -E2BIG;
}

static int
parse(struct maps *maps, char *bytes, size_t size)
{
    char *at = bytes, *end = bytes + size;

    memset(maps, 0, sizeof *maps);
    maps->uid_map = next_string(&at, end);
    maps->gid_map = maps->uid_map != NULL ? next_string(&at, end) : NULL;
    if (maps->gid_map == NULL) {
        return -EBADMSG;
    }
    int error = next_vector(&at, end, maps->uid_helper);
    return error < 0 ? error : next_vector(&at, end, maps->gid_helper);
}

/* The set-uid helpers must run outside the namespace, in a child made before it is entered. */
static pid_t
start_helper(char **vector, int go, int tell)
{
    char pid[16], token;

    snprintf(pid, sizeof pid, "%d", getpid());
    pid_t child = fork();
    if (child != 0) {
        return child;
    }
    vector[1] = pid;
    /* With our own copy of the other end open, this read would outlive the one who gives up. */
    close(tell);
    if (read(go, &token, 1) == 1) {
        char *environment[] = {NULL};
        execve(vector[0], vector, environment);
    }
    _exit(errno & 0xff);
}

static int
wait_helper(pid_t child, const char *program, char *detail)
{
    int status;

    if (child < 0) {
        return -EAGAIN;
    }
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return 0;
    }
    pctr_copy_text(detail, PCTR_DETAIL, program);
    return -EPERM;
}

static int
write_own_maps(const struct maps *maps)
{
    /* user_namespaces(7): without privilege setgroups(2) must be given up first. */
    int error = pctr_write_file("/proc/self/setgroups", "deny", 4);
    if (error >= 0) {
        error = pctr_write_file("/proc/self/gid_map", maps->gid_map, strlen(maps->gid_map));
    }
    return error < 0 ? error
                     : pctr_write_file("/proc/self/uid_map", maps->uid_map, strlen(maps->uid_map));
}

static int
enter(struct maps *maps, struct pctr_record *record)
{
    bool helpers = maps->uid_helper[0] != NULL && maps->gid_helper[0] != NULL;
    pid_t children[2] = {-1, -1};
    int go[2];

    if (pipe2(go, O_CLOEXEC) < 0) {
        return -errno;
    }
    PCTR_AUTO_FD wait_end = go[0], tell_end = go[1];
    if (helpers) {
        children[0] = start_helper(maps->uid_helper, wait_end, tell_end);
        children[1] = start_helper(maps->gid_helper, wait_end, tell_end);
    }
    record->stage = PCTR_STAGE_USERNS;
    int error = pctr_result(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    if (error >= 0 && !helpers) {
        record->stage = PCTR_STAGE_IDMAP;
        error = write_own_maps(maps);
    }
    if (error >= 0 && helpers && write(tell_end, "go", 2) != 2) {
        error = -EIO;
    }
    pctr_close(&tell_end);
    for (int i = 0; helpers && i < 2; i++) {
        char *program = i == 0 ? maps->uid_helper[0] : maps->gid_helper[0];
        int ended = wait_helper(children[i], program, record->detail);
        if (error >= 0 && ended < 0) {
            record->stage = PCTR_STAGE_IDMAP;
            error = ended;
        }
    }
    return error;
}

/* Everything from here on belongs to the namespace's root: ids, groups, and the memory too. */
static int
become_root_inside(bool groups)
{
    char *argv[] = {"pycontainer-supervisor", "inside", NULL};
    char *envp[] = {NULL};

    if (groups && syscall(SYS_setgroups, 0, NULL) < 0) {
        return -errno;
    }
    if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0) {
        return -errno;
    }
    for (int fd = PCTR_FD_HOST; fd <= PCTR_FD_PROGRAM; fd++) {
        if (fcntl(fd, F_SETFD, 0) < 0) {
            return -errno;
        }
    }
    syscall(SYS_execveat, PCTR_FD_PROGRAM, "", argv, envp, AT_EMPTY_PATH);
    return -errno;
}

void
pctr_userns_enter(char *bytes, size_t size, const int *fds, unsigned count)
{
    struct pctr_record record = {.kind = PCTR_RECORD_FAILED, .stage = PCTR_STAGE_USERNS, .op = -1};
    struct maps maps;

    if (count == 0) {
        return;
    }
    int error = parse(&maps, bytes, size);
    if (error >= 0) {
        error = enter(&maps, &record);
    }
    if (error >= 0) {
        record.stage = PCTR_STAGE_USERNS;
        error = become_root_inside(maps.uid_helper[0] != NULL);
    }
    record.error = -error;
    (void)pctr_send_fds(fds[0], &record, sizeof record, NULL, 0, 0);
}
