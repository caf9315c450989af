"""What a FAILED record means, in words: the one place where stages become `LaunchError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.supervisor import plan

if TYPE_CHECKING:
    from pycontainer._sys import Record

_OPS = _sys.constants("pctr_op_code", "PCTR_OP_")
_STAGES = _sys.constants("pctr_stage", "PCTR_STAGE_")

_WORDS = {
    "MKDIR": "creating control group",
    "WRITE": "setting limits",
    "RMDIR": "removing control group",
    "REMOVE_TREE": "removing",
    "COLLECT": "reading usage",
    "APPLY_LAYER": "unpacking a layer into",
    "WRITE_TAR": "archiving",
    "WRITE_CHANGES": "comparing with the layers below:",
    "ADOPT_LOOKS": "completing a layer in",
    "CGROUP_INTO": "opening control group",
    "CGROUP_OPEN": "opening control group",
    "CGROUP_JOIN": "joining control group",
    "SERVE": "serving files",
    "JOIN_FD": "joining namespaces",
    "GIVE": "handing over",
    "LINGER": "keeping the mount namespace",
    "UNSHARE": "creating namespaces",
    "JOIN": "joining namespaces",
    "KEYRING": "joining session keyring",
    "NETWORK": "creating network namespace",
    "HOSTNAME": "setting hostname",
    "SYSCTL": "setting sysctl",
    "NETLINK": "configuring the network:",
    "FORWARD": "forwarding ports",
    "IMPAIR": "impairing the network",
    "RESOLVE": "answering names",
    "PROPAGATION": "making mounts private",
    "ROOT": "opening root",
    "MOUNT": "mounting",
    "BIND": "bind mounting",
    "OPEN_TREE": "bind mounting",
    "OVERLAY": "mounting overlay",
    "UNMOUNT": "unmounting",
    "STAY": "keeping a mount",
    "MAKE_DIR": "creating directory",
    "MAKE_FILE": "creating file",
    "MAKE_LINK": "creating link",
    "MAKE_NODE": "creating device",
    "MASK": "masking",
    "READONLY": "making read-only",
    "REMOUNT": "remounting",
    "PIVOT": "pivot_root",
    "TTY": "opening terminal",
    "ENTER": "entering root",
    "FD": "passing descriptors",
    "SETSID": "starting session",
    "RLIMIT": "setting resource limits",
    "UMASK": "setting umask",
    "BOUNDING": "dropping capabilities",
    "GROUPS": "setting user and groups",
    "IDS": "setting user and groups",
    "CHDIR": "changing directory",
    "CAPS": "setting capabilities",
    "NO_NEW_PRIVS": "setting no_new_privs",
    "SECCOMP": "installing seccomp filter",
    "LIFELINE": "watching the supervisor",
    "EXEC": "executing",
    "REQUEST": "reading the request",
    "CLONE": "creating process",
    "TARGET": "joining a container that is gone",
    "FORK": "creating process",
    "USERNS": "creating user namespace",
    "IDMAP": "mapping users and groups",
}

_TEXT = {
    **{code: _WORDS[name] for name, code in _OPS.items()},
    **{code: _WORDS[name] for name, code in _STAGES.items()},
}


def stage_text(stage: int) -> str:
    """The words for an operation or stage, as `LaunchError.stage` has them."""
    return _TEXT.get(stage, f"stage {stage}")


def launch_error(record: Record, *, rootless: bool, encoded: bytes = b"") -> LaunchError:
    """The typed error for a FAILED record of the plan `encoded`, with a hint where the cause is known."""
    from pycontainer.runtime.hints import hint_for

    stage = stage_text(record.stage)
    path = record.detail or None
    if record.stage == _STAGES["REQUEST"]:
        return SupervisorError(stage, errno=record.error)
    if record.stage == _OPS["MOUNT"] and encoded:
        path, fstype = plan.mount_at(encoded, record.op)
        stage = f"mounting {fstype}"
    hint = hint_for(stage, record.error, path, rootless=rootless)
    return LaunchError(stage, errno=record.error, path=path, hint=hint)
