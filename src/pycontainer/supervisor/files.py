"""Trees whose files may belong to ids that only the supervisor can act for."""

from __future__ import annotations

import errno
import os

from pycontainer import _sys
from pycontainer.errors import InvalidImage, LaunchError, NoSpace, StoreError, UnsafeLayer
from pycontainer.supervisor import client, failure, plan

_LAYER_ERRORS: dict[str, type[Exception]] = {}


def remove_tree(path: str) -> None:
    """Remove a directory tree, whoever owns what is in it; one that is not there is success.

    Raises `StoreError` naming the path that could not be removed.
    """
    parent, name = os.path.split(os.path.abspath(path))
    ops = plan.Ops(plan.Data())
    ops.remove_tree(parent, name)
    supervisor = client.default()
    record = supervisor.work(plan.encode(ops.data, setup=ops.encode()))
    if record.kind == client.RECORD["FAILED"]:
        where = os.path.join(path, record.detail) if record.detail else path
        raise StoreError(f"removing {where}: {errno.errorcode.get(record.error, record.error)}")
