"""Ways into a container's files and network: children of the supervisor that serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycontainer import launch, session
from pycontainer.runtime import plan
from pycontainer.supervisor.plan import Ops
from pycontainer.supervisor.served import Served

if TYPE_CHECKING:
    from pycontainer.image import Image
    from pycontainer.lives import Run
    from pycontainer.options import Options
    from pycontainer.writable import WritableLayer


def serve_running(run: Run) -> Served:
    """The files and the network of a container that runs, as its own processes have them."""
    here = run.execution.session

    def prepare(ops: Ops) -> None:
        ops.join(plan.CLONE_NEWNS | (plan.CLONE_NEWNET if run.own_network else 0))
        ops.enter()

    return Served(here.supervisor, prepare, target=run.job.id)


def serve_layer(image: Image, options: Options, layer: WritableLayer) -> Served:
    """The files of a container that does not run, with what is mounted into it from outside."""
    here = session.current()
    who = launch.identity(image, options.user, here)
    groups = here.limits(layer.id, options.limits(), defaults=options.pids is None, freezer=True)
    shape = launch.shape(here, image, options, who, groups, layer.place)
    root = layer.use()
    try:
        return Served(here.supervisor, lambda ops: plan.files(ops, shape, root), fds=layer.descriptors())
    finally:
        layer.taken()
