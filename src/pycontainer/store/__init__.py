"""One directory that holds images, unpacked layers and containers, shared safely by many processes."""

from __future__ import annotations

from pycontainer.store.check import Problem
from pycontainer.store.claims import ContainerDir, DeadOwner, Owner
from pycontainer.store.rootfs import HostRoot, LayeredRoot, RootFS
from pycontainer.store.store import Store

__all__ = ["ContainerDir", "DeadOwner", "HostRoot", "LayeredRoot", "Owner", "Problem", "RootFS", "Store"]
