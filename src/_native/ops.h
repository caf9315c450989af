/* Carrying out one operation of a plan. */
#ifndef PCTR_OPS_H
#define PCTR_OPS_H

#include "plan.h"

#include <stdbool.h>
#include <sys/types.h>

struct pctr_context {
    struct pctr_plan_view plan;
    const int *fds; /* the request's descriptors, without the channel */
    unsigned nfds;
    int root;                   /* O_PATH descriptor of the current root, or -1 */
    int target;                 /* pidfd of the job whose namespaces are joined, or -1 */
    int cgroup;                 /* directory to clone into, or -1 */
    int supervisor;             /* its pidfd, or -1 */
    int report;                 /* the child's end of the report socket, or -1 */
    int network;                /* a network namespace made in advance, or -1 */
    int kept_root;              /* a root that was another container's, or -1 */
    bool crowded;               /* others' ends are waited for, too */
    int terminal;               /* our side of the container's terminal, or -1 */
    uint64_t executed_ns;       /* when EXEC was reached; the init process shares this memory */
    struct pctr_record *record; /* receives stage, op, error, code, detail of a failure */
};

/* Runs operations [first, first + count).  Returns 0, or -errno with the record filled in. */
int pctr_ops_run(struct pctr_context *context, unsigned first, unsigned count);

/* One operation each: 0 or -errno.  Grouped by file. */
typedef int pctr_op_fn(struct pctr_context *, const struct pctr_op *);

/* ops_host.c: files of the host and control groups */
pctr_op_fn pctr_op_mkdir, pctr_op_write, pctr_op_rmdir, pctr_op_cgroup_into, pctr_op_cgroup_open,
    pctr_op_cgroup_join;
/* ops_tree.c: whole trees */
pctr_op_fn pctr_op_remove_tree, pctr_op_apply_layer, pctr_op_adopt_looks;
/* ops_archive.c: trees written as archives */
pctr_op_fn pctr_op_write_changes;
pctr_op_fn pctr_op_write_tar;
/* serve.c, forward.c, impair.c, dns.c: children that serve until the host hangs up */
pctr_op_fn pctr_op_serve, pctr_op_forward, pctr_op_impair, pctr_op_resolve;
/* netlink.c */
pctr_op_fn pctr_op_netlink;
/* ops_namespace.c */
pctr_op_fn pctr_op_unshare, pctr_op_join, pctr_op_join_fd, pctr_op_give, pctr_op_linger,
    pctr_op_network, pctr_op_keyring, pctr_op_hostname, pctr_op_sysctl;
/* ops_mount.c */
pctr_op_fn pctr_op_propagation, pctr_op_root, pctr_op_mount, pctr_op_bind, pctr_op_mask,
    pctr_op_readonly, pctr_op_remount, pctr_op_pivot, pctr_op_enter, pctr_op_open_tree,
    pctr_op_unmount;
/* ops_overlay.c */
pctr_op_fn pctr_op_overlay;
/* ops_file.c: files beneath the root */
pctr_op_fn pctr_op_make_dir, pctr_op_make_file, pctr_op_make_link, pctr_op_make_node;
/* ops_terminal.c */
pctr_op_fn pctr_op_tty, pctr_op_setsid;
/* ops_process.c */
pctr_op_fn pctr_op_stay, pctr_op_fd, pctr_op_rlimit, pctr_op_umask, pctr_op_bounding,
    pctr_op_groups, pctr_op_ids, pctr_op_chdir, pctr_op_caps, pctr_op_no_new_privs, pctr_op_seccomp,
    pctr_op_lifeline, pctr_op_exec;

/* Sends what CGROUP_OPEN has opened in the supervisor to the child that waits for it on the other
 * end of `report`; -1: only closes it.  0 or -errno. */
int pctr_groups_hand_over(int report);

static inline const char *
pctr_text(const struct pctr_context *context, uint32_t offset)
{
    return pctr_plan_text(&context->plan, offset);
}

#endif
