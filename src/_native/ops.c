#include "ops.h"

#include "util.h"

#include <errno.h>

static pctr_op_fn *const handlers[] = {
    [PCTR_OP_MKDIR] = pctr_op_mkdir,
    [PCTR_OP_WRITE] = pctr_op_write,
    [PCTR_OP_RMDIR] = pctr_op_rmdir,
    [PCTR_OP_REMOVE_TREE] = pctr_op_remove_tree,
    [PCTR_OP_APPLY_LAYER] = pctr_op_apply_layer,
    [PCTR_OP_WRITE_TAR] = pctr_op_write_tar,
    [PCTR_OP_WRITE_CHANGES] = pctr_op_write_changes,
    [PCTR_OP_ADOPT_LOOKS] = pctr_op_adopt_looks,
    [PCTR_OP_CGROUP_INTO] = pctr_op_cgroup_into,
    [PCTR_OP_CGROUP_OPEN] = pctr_op_cgroup_open,
    [PCTR_OP_CGROUP_JOIN] = pctr_op_cgroup_join,
    [PCTR_OP_UNSHARE] = pctr_op_unshare,
    [PCTR_OP_JOIN] = pctr_op_join,
    [PCTR_OP_SERVE] = pctr_op_serve,
    [PCTR_OP_JOIN_FD] = pctr_op_join_fd,
    [PCTR_OP_GIVE] = pctr_op_give,
    [PCTR_OP_LINGER] = pctr_op_linger,
    [PCTR_OP_KEYRING] = pctr_op_keyring,
    [PCTR_OP_NETWORK] = pctr_op_network,
    [PCTR_OP_HOSTNAME] = pctr_op_hostname,
    [PCTR_OP_SYSCTL] = pctr_op_sysctl,
    [PCTR_OP_NETLINK] = pctr_op_netlink,
    [PCTR_OP_FORWARD] = pctr_op_forward,
    [PCTR_OP_IMPAIR] = pctr_op_impair,
    [PCTR_OP_RESOLVE] = pctr_op_resolve,
    [PCTR_OP_PROPAGATION] = pctr_op_propagation,
    [PCTR_OP_ROOT] = pctr_op_root,
    [PCTR_OP_MOUNT] = pctr_op_mount,
    [PCTR_OP_BIND] = pctr_op_bind,
    [PCTR_OP_MAKE_DIR] = pctr_op_make_dir,
    [PCTR_OP_MAKE_FILE] = pctr_op_make_file,
    [PCTR_OP_MAKE_LINK] = pctr_op_make_link,
    [PCTR_OP_MAKE_NODE] = pctr_op_make_node,
    [PCTR_OP_MASK] = pctr_op_mask,
    [PCTR_OP_READONLY] = pctr_op_readonly,
    [PCTR_OP_REMOUNT] = pctr_op_remount,
    [PCTR_OP_PIVOT] = pctr_op_pivot,
    [PCTR_OP_TTY] = pctr_op_tty,
    [PCTR_OP_ENTER] = pctr_op_enter,
    [PCTR_OP_OPEN_TREE] = pctr_op_open_tree,
    [PCTR_OP_OVERLAY] = pctr_op_overlay,
    [PCTR_OP_UNMOUNT] = pctr_op_unmount,
    [PCTR_OP_STAY] = pctr_op_stay,
    [PCTR_OP_FD] = pctr_op_fd,
    [PCTR_OP_SETSID] = pctr_op_setsid,
    [PCTR_OP_RLIMIT] = pctr_op_rlimit,
    [PCTR_OP_UMASK] = pctr_op_umask,
    [PCTR_OP_BOUNDING] = pctr_op_bounding,
    [PCTR_OP_GROUPS] = pctr_op_groups,
    [PCTR_OP_IDS] = pctr_op_ids,
    [PCTR_OP_CHDIR] = pctr_op_chdir,
    [PCTR_OP_CAPS] = pctr_op_caps,
    [PCTR_OP_NO_NEW_PRIVS] = pctr_op_no_new_privs,
    [PCTR_OP_SECCOMP] = pctr_op_seccomp,
    [PCTR_OP_LIFELINE] = pctr_op_lifeline,
    [PCTR_OP_EXEC] = pctr_op_exec,
};

/* The string that tells a reader which of many mounts, files or names it was; 0 is "". */
static uint32_t
detail_of(const struct pctr_op *op)
{
    switch (op->code) {
    case PCTR_OP_GROUPS: /* binary data */
    case PCTR_OP_SECCOMP:
    case PCTR_OP_EXEC: /* sets the detail itself */
        return 0;
    default:
        return op->s1;
    }
}

static int
forgiven(const struct pctr_op *op, int error)
{
    return (op->flags & PCTR_OPF_IGNORE) ||
           ((op->flags & PCTR_OPF_OPTIONAL) && (error == -ENOENT || error == -ENOTDIR));
}

int
pctr_ops_run(struct pctr_context *context, unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; i++) {
        const struct pctr_op *op = &context->plan.ops[i];
        /* COLLECT is the supervisor's own, after the exit. */
        pctr_op_fn *handler = op->code < sizeof handlers / sizeof handlers[0] ? handlers[op->code]
                                                                              : NULL;
        int error = handler != NULL ? handler(context, op) : -EBADMSG;
        if (error >= 0 || forgiven(op, error)) {
            continue;
        }
        struct pctr_record *record = context->record;
        record->stage = op->code;
        record->op = (int32_t)i;
        record->error = -error;
        if (record->detail[0] == '\0') {
            pctr_copy_text(record->detail, sizeof record->detail,
                           pctr_text(context, detail_of(op)));
        }
        return error;
    }
    return 0;
}
