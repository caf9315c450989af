/* Messages of netlink(7), which the host has encoded, sent in a network namespace of the host's choice. */
#define _GNU_SOURCE
#include "ops.h"
#include "util.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    MAX_MESSAGES = 16384,
    MAX_ANSWER = 8192,
    PATIENCE_SECONDS = 10,
};

/* How many answers will come; -EBADMSG for what is not a row of whole messages. */
static int
count_answers(const char *bytes, size_t size)
{
    struct nlmsghdr head;
    int count = 0;

    for (size_t at = 0; at < size; at += NLMSG_ALIGN(head.nlmsg_len)) {
        if (size - at < sizeof head) {
            return -EBADMSG;
        }
        memcpy(&head, bytes + at, sizeof head);
        if (head.nlmsg_len < sizeof head || NLMSG_ALIGN(head.nlmsg_len) > size - at) {
            return -EBADMSG;
        }
        count += (head.nlmsg_flags & NLM_F_ACK) != 0;
    }
    return count;
}

static int
open_socket(int protocol)
{
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    const int on = 1;

    PCTR_AUTO_FD sock = pctr_result(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
    if (sock < 0) {
        return sock;
    }
    /* With CAP_ACK an answer does not repeat the message. */
    if (setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        setsockopt(sock, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on) < 0) {
        return -errno;
    }
    return pctr_steal_fd(&sock);
}

/* A socket stays in the namespace where it was made. */
static int
open_socket_in(int namespace, int own, int protocol)
{
    int error = pctr_result(setns(namespace, CLONE_NEWNET));
    if (error < 0) {
        return error;
    }
    PCTR_AUTO_FD sock = open_socket(protocol);
    error = pctr_result(setns(own, CLONE_NEWNET));
    if (error < 0) {
        return error;
    }
    return sock < 0 ? sock : pctr_steal_fd(&sock);
}

/* The first error of all that are answered. */
static int
await_answers(int sock, int count)
{
    static _Alignas(16) char buffer[MAX_ANSWER];
    int result = 0;

    while (count > 0) {
        ssize_t got = recv(sock, buffer, sizeof buffer, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
        }
        size_t left = (size_t)got;
        for (const struct nlmsghdr *head = (const struct nlmsghdr *)(const void *)buffer;
             NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            if (head->nlmsg_type != NLMSG_ERROR ||
                head->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr))) {
                continue;
            }
            const struct nlmsgerr *answer = NLMSG_DATA(head);
            result = result < 0 ? result : answer->error;
            count--;
        }
    }
    return result;
}

int
pctr_op_netlink(struct pctr_context *context, const struct pctr_op *op)
{
    static _Alignas(16) char messages[MAX_MESSAGES];
    const char *given = context->plan.data + op->s2;
    int count = count_answers(given, op->size);
    PCTR_AUTO_FD own = -1;

    if (op->size > sizeof messages || count < 0) {
        return -EBADMSG;
    }
    memcpy(messages, given, op->size);
    if (op->arg >= 0) {
        own = pctr_result(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
        if (own < 0) {
            return own;
        }
    }
    if (op->n1 != 0) {
        if (own < 0 || op->size < sizeof own || op->n1 > op->size - sizeof own) {
            return -EBADMSG;
        }
        memcpy(messages + op->n1, &own, sizeof own);
    }
    PCTR_AUTO_FD sock = op->arg >= 0 ? open_socket_in(context->fds[op->arg], own, (int)op->n2)
                                     : open_socket((int)op->n2);
    if (sock < 0) {
        return sock;
    }
    ssize_t sent = send(sock, messages, op->size, 0);
    if (sent < 0) {
        return -errno;
    }
    return (size_t)sent == op->size ? await_answers(sock, count) : -EMSGSIZE;
}
